"""The time that a Trainer takes, measured from within."""

import os
import statistics
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from mnist_mlp.benchmark.setting import clock
from mnist_mlp.runtime.blocks import BlockCallback


class TrainingTime(BlockCallback):
    """Measures seconds: `epochs`, each without validation, and per update `training`, their median, and `run`, all."""

    newest: "TrainingTime"

    def __init__(self) -> None:
        self.epochs: list[float] = []
        TrainingTime.newest = self

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = clock(pl_module.device)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = clock(pl_module.device)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.is_last_batch:
            self.epochs.append(clock(pl_module.device) - self.started)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.updates = int(trainer.num_training_batches)  # in an epoch
        self.training = statistics.median(self.epochs) / self.updates
        self.run = (clock(pl_module.device) - self.began) / trainer.global_step


def silently(work: Callable[[str], None]) -> TrainingTime:
    """Train without output in an empty folder. Returns the times."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        work(folder)
    return TrainingTime.newest
