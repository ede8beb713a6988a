"""Blocks of updates: what comes out of a run is what one update to a training step gives."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import SCHEDULES, assert_same_parameters, pairs
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger
from torch.torch_version import TorchVersion

from mnist_mlp import MLPClassifier
from mnist_mlp.batches import Batches, EvaluationBatches
from mnist_mlp.gradient import LOSSES
from mnist_mlp.runtime.blocks import Block, BlockCallback, Blocks
from mnist_mlp.runtime.fast_training import FastClassifier

IMAGES, BATCH_SIZE = 1003, 10  # 101 updates an epoch, the last from 3 images


class Recorder(Logger, Callback):
    """Keeps what is logged at which step, and at which step validation, saving and training steps were."""

    name = version = "recorder"

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.validations: list[int] = []
        self.saves: list[int] = []

    def log_hyperparams(self, *_: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics.append((step, {name: value for name, value in metrics.items() if name != "epoch"}))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validations.append(trainer.global_step)

    def on_save_checkpoint(self, trainer: Trainer, *_: Any) -> None:
        self.saves.append(trainer.global_step)


class Run:
    """A run on random images, in blocks or with one update to a training step."""

    def __init__(
        self,
        folder: Path,
        in_blocks: bool,
        model: dict[str, Any],
        ckpt_path: str | None = None,
        save: dict[str, Any] | None = None,
        callbacks: tuple[Callback, ...] = (),
        fast: bool = True,
        **settings: Any,
    ) -> None:
        torch.manual_seed(0)
        images, targets = torch.randn(IMAGES, 1, 28, 28), F.one_hot(torch.randint(10, (IMAGES,)), 10).float()
        batches = Batches(images, targets, BATCH_SIZE, seed=0)
        self.seen = Recorder()
        self.saver = ModelCheckpoint(folder / f"{in_blocks}", save_top_k=-1, **(save or {}))
        self.trainer = Trainer(
            **{"accelerator": "cpu", "max_epochs": 2, "log_every_n_steps": 25, "num_sanity_val_steps": 0, **settings},
            logger=self.seen,
            callbacks=[self.seen, self.saver, *callbacks],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        self.model = (FastClassifier if fast else MLPClassifier)(**{"hidden": (8,), **model})
        self.steps: list[tuple[int, int]] = []
        # A callback would get every update.
        self.model.on_train_batch_end = lambda *args: self.steps.append((self.trainer.global_step, args[-1]))
        train = Blocks(batches, self.trainer) if in_blocks else batches
        self.trainer.fit(self.model, train, EvaluationBatches(images[:50], targets[:50], 25), ckpt_path=ckpt_path)


def assert_equal_runs(blocks: Run, plain: Run) -> None:
    """The same parameters, bit for bit, the same counters, and everything logged and done at the same updates."""
    assert_same_parameters(blocks.model.state_dict(), plain.model.state_dict())
    assert blocks.trainer.global_step == plain.trainer.global_step
    assert blocks.trainer.current_epoch == plain.trainer.current_epoch
    assert blocks.trainer.fit_loop.state_dict() == plain.trainer.fit_loop.state_dict()
    assert blocks.seen.metrics == plain.seen.metrics
    assert blocks.seen.validations == plain.seen.validations
    assert blocks.seen.saves == plain.seen.saves
    assert set(blocks.steps) <= set(plain.steps)
    assert len(blocks.steps) < len(plain.steps) or plain.trainer.log_every_n_steps == 1
    files = [sorted(path.name for path in Path(run.saver.dirpath).glob("*.ckpt")) for run in (blocks, plain)]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_steps": 137},
        {"max_steps": 137, "max_epochs": 1},
        {"max_epochs": 3, "check_val_every_n_epoch": 2},
        {"val_check_interval": 30},
        {"val_check_interval": 0.3},
        {"val_check_interval": 1.0, "limit_train_batches": 0.5},
        {"val_check_interval": 70, "check_val_every_n_epoch": None},
        {"limit_train_batches": 17},
        {"limit_val_batches": 0},
        {"log_every_n_steps": 1},
        {"log_every_n_steps": 7},
        {"log_every_n_steps": 0},
        {"log_every_n_steps": 1000, "max_epochs": 5},
        {"save": {"every_n_train_steps": 9}},
        {"save": {"every_n_train_steps": 40}, "val_check_interval": 12, "log_every_n_steps": 9, "max_steps": 201},
        {"fast_dev_run": 6},
        {"min_steps": 137, "max_epochs": 1},
        {"min_epochs": 1, "max_epochs": 2, "reload_dataloaders_every_n_epochs": 1},
    ],
    ids=str,
)
def test_a_run_in_blocks_is_the_run(settings: dict[str, Any], tmp_path: Path) -> None:
    assert_equal_runs(*(Run(tmp_path, in_blocks, {}, **settings) for in_blocks in (True, False)))


@pytest.mark.parametrize(
    ("schedule", "precision", "loss"), pairs(SCHEDULES, ("32-true", "bf16-mixed", "64-true", "bf16-true"), [*LOSSES])
)
def test_every_loss_schedule_and_precision(schedule: str, precision: str, loss: str, tmp_path: Path) -> None:
    if precision == "bf16-true" and loss == "mse" and TorchVersion(torch.__version__) < "2.5":
        pytest.skip("this torch has no squared error of bfloat16 on a CPU")
    model = {"loss": loss, "schedule": schedule, "patience": 1, "max_decays": 1}
    runs = [Run(tmp_path, in_blocks, model, precision=precision, max_epochs=3) for in_blocks in (True, False)]
    assert_equal_runs(*runs)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_plain_classifier_makes_the_same_updates(schedule: str, tmp_path: Path) -> None:
    model = {"schedule": schedule, "patience": 1, "max_decays": 9}
    plain, blocks = (Run(tmp_path / f"{fast}", fast, model, fast=fast, max_epochs=3) for fast in (False, True))
    assert_same_parameters(blocks.model.state_dict(), plain.model.state_dict())
    assert blocks.trainer.global_step == plain.trainer.global_step == 303
    assert blocks.seen.validations == plain.seen.validations
    logged = [[point for point in run.seen.metrics if "val/loss" in point[1]] for run in (plain, blocks)]
    assert logged[0] == logged[1]


@pytest.mark.parametrize("stop", [1, 60, 100, 101, 137])  # within an interval, at the ends of an epoch, in the second
def test_a_run_in_blocks_goes_on_as_the_run_would(stop: int, tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole", False, {"schedule": "inverse_sqrt"})
    broken = Run(tmp_path, True, {"schedule": "inverse_sqrt"}, max_steps=stop, save={"every_n_train_steps": stop})
    resumed = Run(tmp_path, True, {"schedule": "inverse_sqrt"}, ckpt_path=broken.saver.best_model_path)
    assert_same_parameters(resumed.model.state_dict(), whole.model.state_dict())
    later = [point for point in whole.seen.metrics if point[0] >= stop]
    assert [point for point in resumed.seen.metrics if "train/lr" in point[1] or point[0] >= stop] == later


def test_blocks_end_where_something_is_due(tmp_path: Path) -> None:
    run = Run(tmp_path, True, {}, val_check_interval=30, max_steps=130, save={"every_n_train_steps": 45})
    steps = [step for step, _ in run.steps]
    assert steps == [25, 30, 45, 60, 85, 90, 100, 101, 126, 130]
    run = Run(tmp_path, True, {}, log_every_n_steps=1000, max_epochs=2, limit_val_batches=0)
    assert [step for step, _ in run.steps] == [25, 50, 75, 100, 101, 126, 151, 176, 201, 202]


def test_a_block_gathers_its_batches_when_asked() -> None:
    batches = Batches(torch.randn(20, 3), torch.randn(20, 2), 5, seed=0)
    shares = list(batches.index_batches())
    block = Block(batches, shares[:3])
    assert len(block) == 3
    for share, (x, y) in zip(shares, block, strict=False):
        assert torch.equal(x, batches.images[share])
        assert torch.equal(y, batches.targets[share])


def test_a_resumed_run_may_have_shorter_epochs(tmp_path: Path) -> None:
    for limit in (40, 60):
        ends = []
        for in_blocks in (True, False):
            broken = Run(tmp_path / f"{limit}", in_blocks, {}, max_steps=60, save={"every_n_train_steps": 60})
            path = broken.saver.best_model_path
            ends.append(Run(tmp_path / f"{limit}", in_blocks, {}, ckpt_path=path, limit_train_batches=limit))
        assert_same_parameters(ends[0].model.state_dict(), ends[1].model.state_dict())
        assert ends[0].trainer.global_step == ends[1].trainer.global_step


def test_a_callback_that_acts_on_updates_gets_every_one(tmp_path: Path) -> None:
    average, monitor = EMAWeightAveraging(decay=0.9), LearningRateMonitor("step")
    run = Run(tmp_path, True, {"schedule": "inverse_sqrt"}, callbacks=(average, monitor), max_epochs=1)
    assert average._average_model.n_averaged == 101
    assert len(run.steps) == 101
    lrs = [metrics["lr-GradientDescent"] for _, metrics in run.seen.metrics if "lr-GradientDescent" in metrics]
    assert lrs == pytest.approx([0.1 / 25**0.5, 0.1 / 50**0.5, 0.1 / 75**0.5, 0.1 / 100**0.5])


class SaveAt(BlockCallback, Checkpoint):
    """Saves after one of the updates, where blocks end for other reasons."""

    def __init__(self, update: int, path: Path) -> None:
        self.update, self.path = update, path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.update:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("stop", [90, 100, 101])  # before the last, smaller batch of the epoch, and after it
def test_a_run_resumed_near_the_end_of_an_epoch_makes_every_update(stop: int, tmp_path: Path) -> None:
    path = tmp_path / "saved.ckpt"
    whole = Run(tmp_path, True, {}, val_check_interval=30, callbacks=(SaveAt(stop, path),))
    resumed = Run(tmp_path, True, {}, val_check_interval=30, ckpt_path=str(path))
    assert resumed.trainer.global_step == whole.trainer.global_step == 202
    assert_same_parameters(resumed.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize(("before", "after"), [(50, 20), (1000, 10), (0, 25), (20, 50), (25, 0)])
def test_a_resumed_run_may_log_at_other_intervals(before: int, after: int, tmp_path: Path) -> None:
    stopped = Run(tmp_path, True, {}, log_every_n_steps=before, max_steps=137, save={"every_n_train_steps": 137})
    path = stopped.saver.best_model_path
    resumed = Run(tmp_path, True, {}, log_every_n_steps=after, ckpt_path=path)
    points = [step for step, values in resumed.seen.metrics if "train/loss" in values]
    assert points == (
        [step - 1 for step in range(1, 202) if step > 137 and step % after == 0] + [201] if after else []
    )
