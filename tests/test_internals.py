"""What `runtime/internals.py` uses of Lightning and torch beyond their public interfaces does what it is used for."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn

from mnist_mlp.runtime.internals import (
    count_batches,
    count_steps,
    save_interval,
)
from mnist_mlp.runtime.last_checkpoint import LastCheckpoint

BATCHES = 6  # in the one epoch
CHANGED = "Lightning has changed what mnist_mlp/runtime/internals.py relies on: "
each_counts = pytest.mark.parametrize("each", [1, 2, 3])  # batches that a training step is counted as


class Steps(Logger):
    """Keeps the steps at which metrics are logged."""

    name = version = "steps"

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[int] = []

    def log_hyperparams(self, *_: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append(step)


class Model(LightningModule):
    """Logs in every training step, and keeps what Lightning has counted by then."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = nn.Linear(1, 1)
        self.fetched: list[int] = []
        self.is_last: list[bool] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        self.optimizers().step()
        self.log("one", 1.0)
        fetcher = getattr(self.trainer.fit_loop, "_data_fetcher", None)
        assert hasattr(fetcher, "fetched"), f"{CHANGED}no fit_loop._data_fetcher.fetched"
        self.fetched.append(fetcher.fetched)
        self.is_last.append(self.trainer.is_last_batch)


class Loader:
    """Batches without end, each of which counts as several; it is for Lightning to end the epoch."""

    def __init__(self, trainer: Trainer, each: int) -> None:
        self.trainer, self.each = trainer, each

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            if self.each > 1:
                count_batches(self.trainer, self.each - 1)
            yield torch.zeros(1, 1)


def fit(each: int = 1) -> tuple[Trainer, Model, Steps]:
    """Trains for an epoch."""
    model, steps = Model(), Steps()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        log_every_n_steps=1,
        logger=steps,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, Loader(trainer, each))
    return trainer, model, steps


@each_counts
def test_loggers_write_at_the_batches_that_stepped(each: int) -> None:
    trainer, _, steps = fit(each)
    loop = trainer.fit_loop.epoch_loop
    assert hasattr(loop, "_batches_that_stepped"), f"{CHANGED}no epoch_loop._batches_that_stepped"
    assert loop._batches_that_stepped == BATCHES, f"{CHANGED}epoch_loop._batches_that_stepped counts something else"
    expected = list(range(each - 1, BATCHES, each))  # from 0, the last of the batches that a training step counts as
    assert steps.logged == expected, f"{CHANGED}loggers do not write at epoch_loop._batches_that_stepped"


@each_counts
def test_the_fetched_batches_tell_the_last(each: int) -> None:
    trainer, model, _ = fit(each)
    expected = list(range(each, BATCHES + 1, each))
    assert model.fetched == expected, f"{CHANGED}fit_loop._data_fetcher.fetched counts something else"
    last = [fetched == BATCHES for fetched in expected]
    assert model.is_last == last, f"{CHANGED}fit_loop._data_fetcher.fetched does not tell the last batch"
    assert trainer.fit_loop.epoch_loop.batch_progress.current.completed == BATCHES


@pytest.mark.parametrize(
    ("callback", "interval"),
    [(ModelCheckpoint(every_n_train_steps=7), 7), (ModelCheckpoint(), 0), (LastCheckpoint(), 0)],
    ids=["ModelCheckpoint by updates", "ModelCheckpoint by epochs", "LastCheckpoint"],
)
def test_the_interval_between_checkpoints(callback: Checkpoint, interval: int) -> None:
    assert save_interval(callback) == interval, f"{CHANGED}ModelCheckpoint._every_n_train_steps is not its argument"


def test_counted_steps_are_global_steps() -> None:
    trainer, _, _ = fit()
    assert trainer.global_step == BATCHES
    count_steps(trainer, 5)
    assert trainer.global_step == BATCHES + 5, f"{CHANGED}manual_optimization.optim_step_progress is not global_step"
