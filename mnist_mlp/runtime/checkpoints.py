"""Checkpoints: finding the newest, and loading them without ever running code from them."""

import atexit
import pickle
import sys
import tempfile
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch

LOGS = "lightning_logs"  # the folder of the runs
NEEDED = {  # what this project reads from a checkpoint, beside what Lightning reads
    "state_dict": set(),
    "hyper_parameters": {
        *("hidden", "activation", "loss", "lr"),
        *("schedule", "monitor", "patience", "decay", "max_decays"),
    },
    "datamodule_hyper_parameters": {"batch_size", "val_size", "seed", "source", "data_dir"},
    "MNISTDataModule": {"dataset"},
}
TO_RESUME = {"loops": {"fit_loop"}, "callbacks": set()}  # what else `fit` goes on from


class CheckpointError(ValueError):
    """A checkpoint is not there or cannot be used; the message says in one line why and what to do."""


def find_checkpoint(name: str, log_dir: Path) -> str:
    """What `--ckpt_path` means: a path as it is, a URL downloaded, `best` or `last` in the newest run that has one.

    Args:
        name: `best`, `last`, a path or a URL.
        log_dir: Directory of the runs, `version_0`, `version_1`, ...

    Returns:
        A path.

    Raises:
        CheckpointError: No run has such a checkpoint, no file is at the path, or the URL cannot be had.
    """
    if name in ("best", "last"):
        runs = {which: sorted(log_dir.glob(f"*/checkpoints/{which}.ckpt"), key=age) for which in ("best", "last")}
        if runs[name]:
            return str(runs[name][-1])
        remedy = "use --ckpt_path last" if runs["last"] else "run fit first, or give a path"
        raise CheckpointError(f"--ckpt_path {name}: no run under {log_dir} has a {name}.ckpt: {remedy}")
    if name.startswith(("http://", "https://")):
        return download_checkpoint(name)
    if not Path(name).is_file():
        raise CheckpointError(f"--ckpt_path {name}: no such file: give a path, a URL, best or last")
    return name


def age(path: Path) -> int:
    """When a file was last written, in nanoseconds."""
    return path.stat().st_mtime_ns


def download_checkpoint(url: str) -> str:
    """Downloads a checkpoint to a file that is removed when the program ends.

    Lightning's own download unpickles whatever comes, and serves a file of the same name from its cache.

    Raises:
        CheckpointError: It cannot be had.
    """
    folder = tempfile.TemporaryDirectory(prefix="mnist_mlp-")
    atexit.register(folder.cleanup)
    path = str(Path(folder.name) / "downloaded.ckpt")
    try:
        torch.hub.download_url_to_file(url, path, progress=sys.stderr.isatty())
    except (OSError, ValueError, HTTPException) as error:
        raise CheckpointError(f"--ckpt_path {url}: cannot be downloaded ({error})") from None
    print(f"{url} is downloaded to {path}", file=sys.stderr)
    return path


def load_checkpoint(path: str, to_resume: bool = False) -> dict[str, Any]:
    """The content of a checkpoint of `fit`, on the CPU: tensors and plain values.

    Args:
        path: A file.
        to_resume: Whether the state of training is needed too.

    Raises:
        CheckpointError: It is not such a checkpoint, is damaged, or holds anything that would have to be executed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not look at the checksums of what it reads
        checkpoint = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"--ckpt_path {path}: it holds more than tensors and plain values, which could run code: not loaded"
        ) from None
    except Exception as error:  # whatever broken bytes may cause, and that differs between versions of torch
        damaged = str(error).strip().split("\n")[0][:200] or type(error).__name__
    if damaged:
        raise CheckpointError(f"--ckpt_path {path}: not a checkpoint, or damaged ({damaged})")
    if not holds(checkpoint, NEEDED):
        raise CheckpointError(f"--ckpt_path {path}: not a checkpoint that `fit` of this project has saved")
    if to_resume and not holds(checkpoint, TO_RESUME):
        raise CheckpointError(f"--ckpt_path {path}: it holds parameters alone and no state of training to go on with")
    return checkpoint


def holds(checkpoint: Any, needed: dict[str, set[str]]) -> bool:
    """Whether a checkpoint has all parts, and they all names."""
    try:
        return all(names <= checkpoint[part].keys() for part, names in needed.items())
    except (AttributeError, KeyError, TypeError):  # it is no dictionary of dictionaries
        return False
