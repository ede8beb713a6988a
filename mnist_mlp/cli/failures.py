"""Errors that nobody foresaw: one line on the terminal, and the traceback in a file."""

import tempfile
import traceback
from pathlib import Path

from lightning.pytorch import Trainer

from mnist_mlp.errors import TrainingError, UserError


def in_training(trainer: Trainer, error: Exception) -> UserError:
    """The error to raise in place of one that ended a fit.

    An error before training, or of a callback of Lightning's, comes of the settings, and Lightning's message says of
    which. One amid training has its traceback in the run's folder.
    """
    callback = raising_callback(error)
    if callback or not trainer.fit_loop.epoch_progress.current.ready:
        return UserError(f"{callback}: {describe(error)}" if callback else describe(error))
    return unforeseen(error, Path(trainer.log_dir) if trainer.log_dir else None)


def unforeseen(error: Exception, folder: Path | None = None) -> TrainingError:
    """An error in one line that says where its traceback is: in a folder, or by default where temporary files are."""
    text = "".join(traceback.format_exception(error))
    folder = folder if folder and folder.is_dir() else Path(tempfile.mkdtemp(prefix="mnist_mlp-"))
    path = folder / "error.txt"
    path.write_text(text, encoding="utf-8")
    return TrainingError(f"{type(error).__name__}: {describe(error)}; the traceback is in {path}")


def describe(error: Exception) -> str:
    """An error's own words, in one line, or its kind if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def raising_callback(error: Exception) -> str:
    """The name of the callback of Lightning's in which an error was raised, or nothing."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").startswith("lightning.pytorch.callbacks.") and "self" in frame.f_locals:
            return type(frame.f_locals["self"]).__name__
    return ""
