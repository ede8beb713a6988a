"""Errors that nobody foresaw: one line on the terminal, and the traceback in a file."""

import inspect
import re
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from mnist_mlp.cli.run_folder import folder_of
from mnist_mlp.errors import TrainingError, UserError

NAMES = "|".join(name for name in inspect.signature(Trainer).parameters if "_" in name)  # which are no other words
ARGUMENTS = re.compile(rf"(?<![-.(\w])`?({NAMES})\b`?(?!\()")
LIBRARIES = ("lightning", "lightning_utilities", "torch", "torchmetrics")


def in_training(trainer: Trainer, error: Exception) -> UserError:
    """The error to raise in place of one that ended a fit.

    An error that a callback of Lightning's raises, or a library before training, comes of the settings, and its
    message says of which. Anything else has its traceback in the run's folder.
    """
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    module = innermost.f_globals.get("__name__", "")
    if module.startswith("lightning.pytorch.callbacks."):
        return UserError(f"{type(innermost.f_locals.get('self')).__name__}: {describe(error)}")
    if module.split(".")[0] in LIBRARIES and not trainer.fit_loop.epoch_progress.current.ready:
        return UserError(describe(error))
    return unforeseen(error, folder_of(trainer))


def unforeseen(error: Exception, folder: Path | None = None) -> TrainingError:
    """An error in one line that says where its traceback is: in a folder, or by default where temporary files are."""
    text = "".join(traceback.format_exception(error))
    folder = folder if folder and folder.is_dir() else Path(tempfile.mkdtemp(prefix="mnist_mlp-"))
    path = folder / "error.txt"
    path.write_text(text, encoding="utf-8")
    return TrainingError(f"{type(error).__name__}: {describe(error)}; the traceback is in {path}")


def describe(error: Exception) -> str:
    """An error's own words, in one line and with the Trainer's arguments as options, or its kind if it has none."""
    return ARGUMENTS.sub(r"--trainer.\1", " ".join(str(error).split())) or type(error).__name__


def culprit(group: str, owner: Callable[..., Any], settings: Namespace, error: Exception, **others: Any) -> str:
    """The option of a group that by itself makes its class raise an error, to begin the message with, or nothing."""
    parameters = inspect.signature(owner).parameters
    for name, value in settings.items():
        if name in parameters and value != parameters[name].default:
            try:
                owner(**{**others, name: value})
            except Exception as other:  # as the class, or one that it makes, has it
                if str(other) == str(error) and f"Trainer({name}=" not in str(error):
                    return f"--{group}.{name} {value}: "
    return ""
