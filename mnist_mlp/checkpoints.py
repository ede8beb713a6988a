"""Checkpoints: finding the newest, and loading them without ever running code from them."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.cloud_io import _load

NEEDED = {  # what this project reads from a checkpoint, beside what Lightning reads
    "state_dict": set(),
    "hyper_parameters": {"hidden", "activation", "loss", "lr"},
    "datamodule_hyper_parameters": {"batch_size", "val_size", "seed", "source", "data_dir"},
    "MNISTDataModule": {"dataset"},
}


class CheckpointError(ValueError):
    """A checkpoint is not there or cannot be used; the message says in one line why and what to do."""


def find_checkpoint(name: str, log_dir: Path) -> str:
    """What `--ckpt_path` means: a path or URL as it is, `best` or `last` in the newest run that has one.

    Args:
        name: `best`, `last`, a path or a URL.
        log_dir: Directory of the runs, `version_0`, `version_1`, ...

    Returns:
        A path or URL.

    Raises:
        CheckpointError: No run has such a checkpoint, or no file is at the path.
    """
    if name in ("best", "last"):
        found = sorted(log_dir.glob(f"version_*/checkpoints/{name}.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        if not found:
            raise CheckpointError(
                f"--ckpt_path {name}: no run under {log_dir} has a {name}.ckpt: run fit, or name another checkpoint"
            )
        return str(found[-1])
    if not is_url(name) and not Path(name).is_file():
        raise CheckpointError(f"--ckpt_path {name}: no such file: give a path, a URL, best or last")
    return name


def load_checkpoint(path: str) -> dict[str, Any]:
    """The content of a checkpoint of `fit`, on the CPU: tensors and plain values.

    Args:
        path: A path or URL.

    Raises:
        CheckpointError: It is not such a checkpoint, is damaged, or holds anything that would have to be executed.
    """
    try:
        checkpoint = _load(path, map_location=torch.device("cpu"), weights_only=True)
    except Exception as error:  # whatever broken bytes may cause, and that differs between versions of torch
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise CheckpointError(
            f"--ckpt_path {path}: not a checkpoint, or damaged, or not of tensors and plain values ({reason})"
        ) from None
    try:
        complete = all(names <= checkpoint[part].keys() for part, names in NEEDED.items())
    except (AttributeError, KeyError, TypeError):  # it is no dictionary of dictionaries
        complete = False
    if not complete:
        raise CheckpointError(f"--ckpt_path {path}: not a checkpoint that `fit` of this project has saved")
    return checkpoint


def is_url(path: str) -> bool:
    """Whether a checkpoint comes from the network."""
    return path.startswith(("http://", "https://"))
