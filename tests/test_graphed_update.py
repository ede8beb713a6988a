"""Captured updates: what comes out of a run is what eager updates give.

A CPU's graph repeats operations on the same memory, so that it sees what one of CUDA's would not forgive: a value
that was baked in, a tensor that was replaced, a value read on the host.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SCHEDULES, assert_same_parameters, pairs
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelPruning
from test_blocks import Run
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.optim.lr_scheduler import LinearLR
from torch.torch_version import TorchVersion

from mnist_mlp.batches import Batches
from mnist_mlp.datasets.distortion import Distortion
from mnist_mlp.gradient import LOSSES, GradientDescent
from mnist_mlp.runtime.blocks import Block
from mnist_mlp.runtime.cpu_graph import CPUGraph
from mnist_mlp.runtime.fast_training import FastClassifier, FastDataModule
from mnist_mlp.runtime.graphed_update import CAPTURABLE, GraphedUpdate, capturable


@pytest.fixture(autouse=True)
def torchs_own_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on most processors: updates by oneDNN are not captured."""
    monkeypatch.setattr("mnist_mlp.runtime.graphed_update.onednn_is_faster", lambda: False)
    monkeypatch.setattr("mnist_mlp.runtime.onednn.onednn_is_faster", lambda: False)


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[CPUGraph]:
    """Grows by one with each replay."""
    made, replay = [], CPUGraph.replay
    monkeypatch.setattr(CPUGraph, "replay", lambda self: made.append(self) or replay(self))
    return made


def test_a_cpu_graph_repeats_all_kinds_of_operations_on_the_same_memory() -> None:
    """Of one result and of several, in place, into given memory, of a single value, views, and lists of tensors."""
    x, total, place = torch.rand(3, 4), torch.zeros(4), torch.zeros(3, 3)

    def work() -> tuple[Tensor, ...]:
        total.add_(x.sum(dim=0))
        torch.mm(x, x.t(), out=place)
        largest, where = x.max(dim=1)
        torch._foreach_mul_([total, place], 2.0)
        return largest * where, x.view(2, 6)[1] + place.mean(), x.to(torch.float64).std()

    graph, before = CPUGraph(), total.clone()
    with graph.recording():
        captured = work()
    assert torch.equal(total, before)  # undone
    for _ in range(2):
        x.copy_(torch.rand(3, 4))
        before = total.clone()
        expected = [each.clone() for each in (*work(), total, place)]
        total.copy_(before)
        graph.replay()
        assert all(map(torch.equal, (*captured, total, place), expected))


def test_a_graph_sees_the_deformations_and_parts_of_every_epoch() -> None:
    distortion = Distortion(rotation=15, elastic=1, replace=0.5, fade=0.5)
    batches = Batches(torch.rand(200, 1, 28, 28), torch.arange(200), 50, 0, distortion=distortion, max_epochs=4)
    indices, graph = torch.arange(50), CPUGraph()
    for epoch in range(4):
        batches.set_epoch(epoch)
        for numbers in batches.index_batches():
            if (epoch, batches.position) == (0, 1):
                with graph.recording():
                    captured = batches.gather(indices)
            indices.copy_(numbers)
            graph.replay()
            assert all(map(torch.equal, captured, batches.gather(numbers)))


@pytest.mark.parametrize(
    ("schedule", "precision", "loss"), pairs(SCHEDULES, ("32-true", "bf16-mixed", "64-true"), [*LOSSES])
)
def test_replays_are_the_updates(
    schedule: str, precision: str, loss: str, tmp_path: Path, replays: list[CPUGraph]
) -> None:
    """Bit for bit: both step by a γ of the parameters' precision."""
    model = {"loss": loss, "schedule": schedule, "patience": 1, "max_decays": 9, "log_grad_norm": True}
    settings = {"precision": precision, "val_check_interval": 30, "max_epochs": 3, "gradient_clip_val": 0.1}
    plain = Run(tmp_path, False, model, **settings)
    blocks = Run(tmp_path, True, model, **settings)
    assert len(replays) == 303 - 25 - 3  # but for the first block, and the last batch of each epoch
    assert blocks.trainer.fit_loop.state_dict() == plain.trainer.fit_loop.state_dict()
    assert blocks.seen.metrics == plain.seen.metrics
    assert_same_parameters(blocks.model.state_dict(), plain.model.state_dict())


@pytest.mark.parametrize("layer", ["deskew", "directions"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_replays_are_the_updates_of_a_network_with_a_fixed_layer(
    precision: str, layer: str, tmp_path: Path, replays: list[CPUGraph]
) -> None:
    plain = Run(tmp_path, False, {layer: True}, precision=precision)
    blocks = Run(tmp_path, True, {layer: True}, precision=precision)
    assert replays
    assert blocks.seen.metrics == plain.seen.metrics
    assert_same_parameters(blocks.model.state_dict(), plain.model.state_dict())


@pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}])
@pytest.mark.parametrize("scheduler", ["LinearLR", "OneCycleLR", "SequentialLR"])  # the latter two change the momentum
def test_replays_are_the_updates_of_other_rules(
    scheduler: str, settings: dict[str, Any], tmp_path: Path, replays: list[CPUGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    def configure_optimizers(self: FastClassifier) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, fused=True, **settings)
        kind: Any = getattr(torch.optim.lr_scheduler, scheduler)
        one_cycle = torch.optim.lr_scheduler.OneCycleLR
        rule = {
            "LinearLR": lambda: kind(optimizer, total_iters=50),
            "OneCycleLR": lambda: kind(optimizer, 0.1, total_steps=303),
            "SequentialLR": lambda: kind(
                optimizer, [LinearLR(optimizer), one_cycle(optimizer, 0.1, total_steps=303)], milestones=[50]
            ),
        }[scheduler]()
        return [optimizer], [{"scheduler": rule, "interval": "step"}]

    monkeypatch.setattr(FastClassifier, "configure_optimizers", configure_optimizers)
    plain = Run(tmp_path, False, {}, max_epochs=3)
    blocks = Run(tmp_path, True, {}, max_epochs=3)
    assert bool(replays) == (scheduler == "LinearLR")
    assert blocks.seen.metrics == plain.seen.metrics
    assert_same_parameters(blocks.model.state_dict(), plain.model.state_dict())


@pytest.mark.parametrize("stop", [60, 101, 137])
def test_a_resumed_run_is_the_unbroken_one(stop: int, tmp_path: Path) -> None:
    model = {"schedule": "inverse_sqrt"}
    whole = Run(tmp_path / "whole", True, model)
    broken = Run(tmp_path, True, model, max_steps=stop, save={"every_n_train_steps": stop})
    resumed = Run(tmp_path, True, model, ckpt_path=broken.saver.best_model_path)
    assert_same_parameters(resumed.model.state_dict(), whole.model.state_dict())


def test_a_value_that_is_baked_in_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of the other tests: γ as a number is captured as it was in the first block."""
    model = {"schedule": "inverse_sqrt"}
    plain = Run(tmp_path, False, model)

    def next_update(self: GraphedUpdate) -> None:
        indices = self.indices.index_select(0, self.k).squeeze(0)
        self.losses.index_copy_(0, self.k, self.module.update(self.batches.gather(indices), self.optimizer).view(1))
        self.k += 1

    monkeypatch.setattr(GraphedUpdate, "next_update", next_update)
    blocks = Run(tmp_path, True, model)
    difference = blocks.model.net.fc1.weight - plain.model.net.fc1.weight
    assert difference.norm() > 1e-3 * plain.model.net.fc1.weight.norm()


def test_a_value_that_is_read_on_the_host_fails_the_capture_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replays: list[CPUGraph]
) -> None:
    plain = Run(tmp_path, False, {"schedule": "cosine"})
    update = FastClassifier.update

    def reading(self: FastClassifier, *args: Any) -> Tensor:
        loss = update(self, *args)
        loss.item()
        return loss

    monkeypatch.setattr(FastClassifier, "update", reading)
    with pytest.warns(UserWarning, match="updates cannot be captured, and go on one by one: a value is read") as seen:
        blocks = Run(tmp_path, True, {"schedule": "cosine"})
    assert sum("cannot be captured" in str(warning.message) for warning in seen) == 1
    assert not replays
    assert_same_parameters(blocks.model.state_dict(), plain.model.state_dict())
    assert isinstance(blocks.trainer.optimizers[0].param_groups[0]["lr"], float)


@pytest.mark.parametrize(
    ("optimizer", "settings", "captured"),
    [
        (GradientDescent, {}, True),
        (torch.optim.SGD, {"fused": True}, True),
        (torch.optim.SGD, {}, False),
        *[(kind, {"capturable": True}, True) for kind in CAPTURABLE],
        *[(kind, {}, False) for kind in CAPTURABLE],
        (torch.optim.RMSprop, {"capturable": True}, False),
        (torch.optim.Adadelta, {"capturable": True}, False),
    ],
    ids=str,
)
def test_updates_are_captured_if_the_step_reads_nothing_on_the_host(
    optimizer: type, settings: dict[str, Any], captured: bool
) -> None:
    batches = Batches(torch.zeros(20, 3), torch.zeros(20, 2), 5, seed=0)
    block = Block(batches, list(batches.index_batches())[:3])
    optimizer = optimizer([torch.nn.Parameter(torch.zeros(2))], lr=0.1, **settings)
    assert capturable(block, optimizer) == (captured and isinstance(optimizer, GradientDescent | torch.optim.SGD))
    batches.images = SimpleNamespace(device=torch.device("cuda"))
    assert capturable(block, optimizer) == captured


@pytest.mark.parametrize("kind", [GradientDescent, *CAPTURABLE, torch.optim.RMSprop, torch.optim.Adadelta])
def test_captured_optimizers_read_nothing_on_the_host(kind: type) -> None:
    """On CUDA's tensors without memory, of which no value can be read."""
    if kind is torch.optim.ASGD and TorchVersion(torch.__version__) < "2.5":
        pytest.skip("this torch makes real tensors for ASGD, also among those without memory")
    with FakeTensorMode():
        parameter = torch.nn.Parameter(torch.empty(3, device="cuda"))
        optimizer = kind([parameter], lr=0.1, **({} if kind is GradientDescent else {"capturable": True}))
        parameter.grad = torch.empty(3, device="cuda")
        optimizer.param_groups[0]["lr"] = torch.empty((), device="cuda")
        if kind in (GradientDescent, *CAPTURABLE):
            optimizer.step()
        else:
            with pytest.raises(DataDependentOutputException):
                optimizer.step()


def test_pruning_in_mid_run_is_heeded(tmp_path: Path, replays: list[CPUGraph]) -> None:
    """Which puts masks into the network that the captured update does not know."""
    ends = []
    for in_blocks in (False, True):
        pruning = ModelPruning("l1_unstructured", parameter_names=["weight"], amount=0.3, verbose=0)
        ends.append(Run(tmp_path, in_blocks, {}, callbacks=(pruning,), max_epochs=3).model.state_dict())
    assert replays
    assert_same_parameters(*ends)


def test_a_subclass_has_its_updates_one_by_one(tmp_path: Path, replays: list[CPUGraph]) -> None:
    made = []

    class Counting(FastClassifier):
        def update(self, *args: Any) -> Tensor:
            made.append(1)
            return super().update(*args)

    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(Counting((5,)), FastDataModule(source="digits", batch_size=1000))
    assert len(made) == 55
    assert not replays
