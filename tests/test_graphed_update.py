"""Captured updates, on a CPU by a graph that records: what comes out of a run is what eager updates give."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import assert_same_parameters
from recording_graph import RecordingGraph, use_recording_graphs
from test_blocks import Run
from torch import Tensor

from mnist_mlp.batches import Batches
from mnist_mlp.gradient import GradientDescent
from mnist_mlp.runtime.blocks import Block
from mnist_mlp.runtime.graphed_update import CAPTURABLE, GraphedUpdate, capturable
from mnist_mlp.runtime.fast_training import FastClassifier


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
@pytest.mark.parametrize("schedule", ["constant", "inverse_sqrt", "cosine", "plateau"])
def test_replays_are_the_updates(
    schedule: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: both step by a γ of the parameters' precision."""
    model = {"schedule": schedule, "patience": 1, "max_decays": 9}
    settings = {"precision": precision, "val_check_interval": 30, "max_epochs": 3, "gradient_clip_val": 0.1}
    plain = Run(tmp_path, False, model, **settings)
    use_recording_graphs(monkeypatch)
    blocks = Run(tmp_path, True, model, **settings)
    assert RecordingGraph.replays == 303 - 25 - 3  # but for the first block, and the last batch of each epoch
    assert blocks.trainer.fit_loop.state_dict() == plain.trainer.fit_loop.state_dict()
    assert blocks.seen.metrics == plain.seen.metrics
    assert_same_parameters(blocks.model.state_dict(), plain.model.state_dict())


@pytest.mark.parametrize("stop", [60, 101, 137])
def test_a_resumed_run_is_the_unbroken_one(stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_recording_graphs(monkeypatch)
    model = {"schedule": "inverse_sqrt"}
    whole = Run(tmp_path / "whole", True, model)
    broken = Run(tmp_path, True, model, max_steps=stop, save={"every_n_train_steps": stop})
    resumed = Run(tmp_path, True, model, ckpt_path=broken.saver.best_model_path)
    assert_same_parameters(resumed.model.state_dict(), whole.model.state_dict())


def test_a_value_that_is_baked_in_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of the stand-in: γ as a number is captured as it was in the first block."""
    model = {"schedule": "inverse_sqrt"}
    plain = Run(tmp_path, False, model)
    use_recording_graphs(monkeypatch)

    def next_update(self: GraphedUpdate) -> None:
        indices = self.indices.index_select(0, self.k).squeeze(0)
        self.losses.index_copy_(0, self.k, self.update(self.batches.gather(indices), self.optimizer).view(1))
        self.k += 1

    monkeypatch.setattr(GraphedUpdate, "next_update", next_update)
    blocks = Run(tmp_path, True, model)
    difference = blocks.model.net.fc1.weight - plain.model.net.fc1.weight
    assert difference.norm() > 1e-3 * plain.model.net.fc1.weight.norm()


def test_a_value_that_is_read_on_the_host_fails_the_capture_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Run(tmp_path, False, {"schedule": "cosine"})
    use_recording_graphs(monkeypatch)
    update = FastClassifier.update

    def reading(self: FastClassifier, *args: Any) -> Tensor:
        loss = update(self, *args)
        loss.item()
        return loss

    monkeypatch.setattr(FastClassifier, "update", reading)
    with pytest.warns(UserWarning, match="updates cannot be captured, and go on one by one: a value is read") as seen:
        blocks = Run(tmp_path, True, {"schedule": "cosine"})
    assert sum("cannot be captured" in str(warning.message) for warning in seen) == 1
    assert RecordingGraph.replays == 0
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
    """But for the device, of which there is none here."""
    batches = Batches(torch.zeros(20, 3), torch.zeros(20, 2), 5, seed=0)
    block = Block(batches, list(batches.index_batches())[:3])
    batches.images = SimpleNamespace(is_cuda=True)
    optimizer = optimizer([torch.nn.Parameter(torch.zeros(2))], lr=0.1, **settings)
    assert capturable(block, optimizer) == captured
