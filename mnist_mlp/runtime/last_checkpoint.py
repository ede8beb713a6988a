"""`last.ckpt`, the newest state of a run, written so that a run killed at any moment loses at most a minute."""

import io
import os
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import NonNegativeInt
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mnist_mlp.command_lines import command_for_checkpoint, known_to_commands
from mnist_mlp.errors import StoppedBySignalError
from mnist_mlp.runtime.blocks import BlockCallback
from mnist_mlp.runtime.signals import StopOnSignal, validation_due


class LastCheckpoint(BlockCallback, Checkpoint):
    """Keeps `last.ckpt`, the newest state of the run: after every epoch, every minute, and at the end.

    `ModelCheckpoint(save_last=True)` skips it when the monitored value has not improved, when `max_steps` or
    `max_time` ends a run between two validations, and when a signal does. Ctrl-C, or a notebook's stop button, ends a
    run of any module between two updates here, by `StopOnSignal`.

    Args:
        every_n_train_steps: Save every this many updates; 0 saves by time.
        train_time_interval: Time between two checkpoints.
    """

    def __init__(
        self, every_n_train_steps: NonNegativeInt = 0, train_time_interval: timedelta = timedelta(minutes=1)
    ) -> None:
        self.every_n_updates = every_n_train_steps
        self.seconds = train_time_interval.total_seconds()
        self.path = self.best_model_path = ""  # where to save, and the file once it is there

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = Path(trainer.default_root_dir)
        if trainer.loggers:  # as ModelCheckpoint has it
            logger = trainer.loggers[0]
            version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
            root = folder if logger.save_dir is None else Path(logger.save_dir)
            folder = root / str(logger.name) / version
        self.path = trainer.strategy.broadcast(str(folder / "checkpoints" / "last.ckpt"))
        if not any(isinstance(callback, StopOnSignal) for callback in trainer.callbacks):
            trainer.callbacks.append(StopOnSignal())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_at = time.monotonic()
        if trainer.ckpt_path and Path(self.path).is_file():  # of the run that is resumed
            self.best_model_path = self.path

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when due, or after the next update if a validation is due now."""
        if self.every_n_updates:
            self.wants_block_end |= trainer.global_step % self.every_n_updates == 0
        else:
            late = time.monotonic() - self.saved_at >= self.seconds
            self.wants_block_end |= trainer.strategy.broadcast(late)
        if self.wants_block_end and not validation_due(trainer):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the state in which a signal stopped the run, and name the newest state there is."""
        if isinstance(exception, StoppedBySignalError):
            if exception.between_updates:
                self.save(trainer)
            exception.checkpoint = self.best_model_path
            if self.best_model_path and known_to_commands(pl_module, trainer.datamodule):
                exception.resume = command_for_checkpoint("fit", self.best_model_path)

    def save(self, trainer: Trainer) -> None:
        """Save now and restart the clock; a `fast_dev_run` leaves no files."""
        if not trainer.fast_dev_run:
            self.best_model_path = self.path
            trainer.save_checkpoint(self.path)
        self.wants_block_end, self.saved_at = False, time.monotonic()


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that half of one is never there; never unpickles code.

    Lightning's own goes by way of the system's temporary folder, from where a file is copied if that is another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save; the former file stays if that fails.

        Raises:
            OSError: It cannot be written; names the path.
        """
        part, content = Path(f"{path}.part"), io.BytesIO()
        torch.save(checkpoint, content)  # not into the file, whose errors torch would hide
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            kept = "the one saved before is as it was" if Path(path).exists() else "none was saved before"
            raise OSError(f"checkpoint {path} cannot be saved ({error.strerror}); {kept}") from error

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Load tensors and plain values only, whatever `weights_only` says."""
        return super().load_checkpoint(path, map_location, weights_only=True)
