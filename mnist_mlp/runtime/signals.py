"""SIGINT and SIGTERM: an exception before training, and during it a stop after the current block of updates."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from mnist_mlp.errors import StoppedBySignalError
from mnist_mlp.runtime.blocks import BlockCallback

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # of Ctrl-C, and of batch systems and `kill`


@contextmanager
def signals_as_errors() -> Iterator[None]:
    """Raise StoppedBySignalError on SIGINT and SIGTERM, so that temporary files are removed on the way out."""
    handlers = replace_handlers(dict.fromkeys(SIGNALS, stop_here))
    try:
        yield
    finally:
        replace_handlers(handlers)


def stop_here(signum: int, frame: object) -> None:
    """Handle a signal by a StoppedBySignalError, wherever the program is."""
    raise StoppedBySignalError(signum, between_updates=False)


def replace_handlers(handlers: dict[signal.Signals, Any]) -> dict[signal.Signals, Any]:
    """Set signal handlers and return the former ones.

    A signal that is ignored stays so, as SIGINT under `nohup` or in a shell's background. Outside the main thread,
    which alone may set handlers, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    heeded = {signum: handler for signum, handler in handlers.items() if signal.getsignal(signum) != signal.SIG_IGN}
    return {signum: signal.signal(signum, handler) for signum, handler in heeded.items()}


class StopOnSignal(BlockCallback):
    """Ends training after SIGINT or SIGTERM where its state can be saved: after a block of updates.

    Lightning acts on SIGTERM with a collective call in the signal handler, which under several processes can deadlock
    with another collective. Here the handler only sets a flag, and the processes agree after each block. A second
    signal kills the process at once; where the first Ctrl-C would have been a KeyboardInterrupt, as in a notebook, the
    second ends the fit alone.

    Raises:
        StoppedBySignalError: In every process, if one of them has received a signal.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals. Lightning restores the former handlers when the fit ends."""
        self.received = 0
        self.former = replace_handlers(dict.fromkeys(SIGNALS, self.on_signal))

    def on_signal(self, signum: int, frame: object) -> None:
        self.received = signum
        in_python = self.former[signal.Signals(signum)] is signal.default_int_handler
        signal.signal(signum, stop_here if in_python else signal.SIG_DFL)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop, or after the next update if a validation is due now."""
        self.wants_block_end = bool(self.received)
        if trainer.world_size > 1:
            self.wants_block_end = trainer.strategy.reduce_boolean_decision(self.wants_block_end, all=False)
        if self.wants_block_end and not validation_due(trainer):
            raise StoppedBySignalError(self.received or signal.SIGTERM, between_updates=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs, where everything has been saved."""
        if self.wants_block_end:
            raise StoppedBySignalError(self.received or signal.SIGTERM, between_updates=False)


def validation_due(trainer: Trainer) -> bool:
    """Whether a validation or the end of the epoch follows this update: a run resumed from here would miss it."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    if progress.current.ready >= trainer.num_training_batches:
        return True
    if not isinstance(trainer.val_check_batch, int):  # by the clock, or at the end of an endless epoch
        return False
    every = trainer.check_val_every_n_epoch
    if every is None:
        return progress.total.ready % trainer.val_check_batch == 0
    return (trainer.current_epoch + 1) % every == 0 and progress.current.ready % trainer.val_check_batch == 0
