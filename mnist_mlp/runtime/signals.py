"""What lets a run be stopped or killed at any moment and lose nothing: whole files, the newest state, a tidy stop."""

import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mnist_mlp.cli.commands import on_checkpoint

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # of Ctrl-C, and of batch systems and `kill`


class StoppedBySignalError(Exception):
    """A signal has asked for the end.

    Args:
        signum: The signal.
        between_updates: Whether the run is at rest, and its state can be saved.

    Attributes:
        resume: What to type to go on, once it is known.
    """

    def __init__(self, signum: int, between_updates: bool) -> None:
        super().__init__(signum)
        self.signum, self.between_updates, self.resume = signum, between_updates, ""

    def __str__(self) -> str:
        text = f"stopped by {signal.Signals(self.signum).name}"
        return f"{text}; go on with: {self.resume}" if self.resume else text


@contextmanager
def signals_as_errors() -> Iterator[None]:
    """Lets SIGINT and SIGTERM end what is going on by StoppedBySignalError, so that temporary files are removed."""

    def stop(signum: int, frame: object) -> None:
        raise StoppedBySignalError(signum, between_updates=False)

    handlers = replace_handlers(dict.fromkeys(SIGNALS, stop))
    try:
        yield
    finally:
        replace_handlers(handlers)


def replace_handlers(handlers: dict[int, Any]) -> dict[int, Any]:
    """Sets signal handlers and gives those before; nothing outside the main thread, which alone may set them."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}


class TidyStop(Callback):
    """Ends training after SIGINT or SIGTERM where its state can be saved: after a block of updates.

    Lightning acts on SIGTERM too, but with a collective call in the signal handler, which under several processes can
    meet another one and hang. Here a handler only takes a note, and the processes agree after each block. A second
    signal ends the process without ceremony.

    Raises:
        StoppedBySignalError: In every process, if one of them has had a signal.
    """

    impatient = False  # for the end of a block, see `Blocks`

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waits for signals from here on. Lightning puts back the handlers from before when the fit is over."""
        self.received = 0
        replace_handlers(dict.fromkeys(SIGNALS, self.take_note))

    def take_note(self, signum: int, frame: object) -> None:
        """The handler."""
        self.received = signum
        signal.signal(signum, signal.SIG_DFL)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops, or after the next update if a validation is due now."""
        self.impatient = bool(self.received)
        if trainer.world_size > 1:
            self.impatient = trainer.strategy.reduce_boolean_decision(self.impatient, all=False)
        if self.impatient and not validation_due(trainer):
            raise StoppedBySignalError(self.received or signal.SIGTERM, between_updates=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops between two epochs, where all has been saved."""
        if self.impatient:
            raise StoppedBySignalError(self.received or signal.SIGTERM, between_updates=False)


def validation_due(trainer: Trainer) -> bool:
    """Whether after this update comes a validation, or the end of the epoch: a run resumed from here would miss it."""
    loop = trainer.fit_loop.epoch_loop
    return loop._num_ready_batches_reached() or loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt`, the newest state of the run: after every epoch, every minute, and at the end.

    `ModelCheckpoint(save_last=True)` leaves it out when the monitored value has not improved, when `max_steps` or
    `max_time` ends a run between two validations, and when a signal does.

    Args:
        every_n_train_steps: Save after so many updates instead of every minute.
        train_time_interval: Another time than a minute.
    """

    impatient = False  # for the end of a block, see `Blocks`

    def __init__(
        self,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        if every_n_train_steps is None and train_time_interval is None:
            train_time_interval = timedelta(minutes=1)
        super().__init__(every_n_train_steps=every_n_train_steps, train_time_interval=train_time_interval, **kwargs)
        # Which Lightning allows only alone; and where all of an epoch is done, its validation and schedule too.
        self._every_n_epochs, self._save_on_train_epoch_end = 1, True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves if it is time, or after the next update if a validation is due now.

        Lightning's own version looks at the time in automatic optimization alone.
        """
        if self._train_time_interval is not None:
            late = time.monotonic() - self.saved >= self._train_time_interval.total_seconds()
            self.impatient |= trainer.strategy.broadcast(late)
        if self._every_n_train_steps:
            self.impatient |= trainer.global_step % self._every_n_train_steps == 0
        if self.impatient and not validation_due(trainer):
            self.save(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        super().on_train_start(trainer, pl_module)
        self.saved = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the state that the run ends with."""
        self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves the state that a signal leaves, and tells how to go on from the newest one that there is."""
        super().on_exception(trainer, pl_module, exception)
        if isinstance(exception, StoppedBySignalError):
            if exception.between_updates:
                self.save(trainer)
            if self.best_model_path:
                exception.resume = on_checkpoint("fit", self.best_model_path)

    def save(self, trainer: Trainer) -> None:
        """Saves now, and starts the clock anew; not in a `fast_dev_run`, which leaves nothing."""
        if not trainer.fast_dev_run:
            self.best_model_path = self.format_checkpoint_name({})
            trainer.save_checkpoint(self.best_model_path)
        self.impatient, self.saved = False, time.monotonic()


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that at no moment half of one is there.

    Lightning's own goes by way of the system's temporary folder, from where a file is copied if that is another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Saves; what was there before stays if that fails.

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
