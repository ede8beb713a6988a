"""Checkpoints: finding the newest, and loading them without ever running code from them."""

import atexit
import inspect
import math
import pickle
import sys
import tempfile
import zipfile
from collections.abc import Collection, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.migration import migrate_checkpoint
from torch import Tensor

from mnist_mlp.arguments import check_arguments
from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.errors import UserError
from mnist_mlp.network import MLP

LOGS = "lightning_logs"  # the folder of the runs
SETTINGS = {  # of a checkpoint: the settings that every command needs
    "hyper_parameters": inspect.signature(MLPClassifier).parameters.keys(),
    "datamodule_hyper_parameters": inspect.signature(MNISTDataModule).parameters.keys() | {"dataset"},
}
STATE_OF_TRAINING = {"loops": {"fit_loop"}, "callbacks": set()}  # what `fit` needs besides to resume


def find_checkpoint(name: str, log_dir: Path) -> str:
    """Resolve `--ckpt_path`: a path stays, a URL is downloaded, `best` and `last` are those of the newest run.

    The newest run is the one that saved last. If it has a single checkpoint, under Lightning's own name, as a run from
    Python does, that one is both. Without such a file or run in `log_dir`, or if the download fails, a UserError says
    so.
    """
    if name in ("best", "last"):
        saved = list(log_dir.glob("*/checkpoints/*.ckpt"))
        if not saved:
            raise UserError(
                f"--ckpt_path {name}: no run under {log_dir} has a checkpoint: run fit first, or give a path"
            )
        run = max(saved, key=lambda path: path.stat().st_mtime_ns).parent
        found = {path.stem: path for path in saved if path.parent == run}
        if name in found:
            return str(found[name])
        if len(found) == 1 and "last" not in found and "best" not in found:
            return str(*found.values())
        remedy = next((f"use --ckpt_path {other}, or give" for other in ("best", "last") if other in found), "give")
        names = ", ".join(sorted(found))
        raise UserError(f"--ckpt_path {name}: the newest run, {run.parent}, has only {names}: {remedy} a path")
    if name.startswith(("http://", "https://")):
        return download_checkpoint(name)
    if not Path(name).is_file():
        raise UserError(f"--ckpt_path {name}: no such file: give a path, a URL, best or last")
    return name


def download_checkpoint(url: str) -> str:
    """Download a checkpoint to a file that is removed when the program ends.

    Lightning's own download unpickles any object, and serves a file of the same name from its cache.
    """
    folder = tempfile.TemporaryDirectory(prefix="mnist_mlp-")
    atexit.register(folder.cleanup)
    path = str(Path(folder.name) / "downloaded.ckpt")
    try:
        torch.hub.download_url_to_file(url, path, progress=sys.stderr.isatty())
    except (OSError, ValueError, HTTPException) as error:
        raise UserError(f"--ckpt_path {url}: cannot be downloaded ({error})") from None
    print(f"{url} is downloaded to {path}", file=sys.stderr)
    return path


def load_checkpoint(path: str, to_resume: bool = False) -> dict[str, Any]:
    """Load a checkpoint that `fit` saved, on the CPU, as tensors and plain values only.

    A UserError says that it is no such checkpoint, is damaged, holds code, or lacks the state of training `to_resume`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not look at the checksums of what it reads
        checkpoint: dict[str, Any] = {} if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"--ckpt_path {path}: it holds more than tensors and plain values, which could run code: not loaded"
        ) from None
    except Exception as error:  # broken bytes raise many kinds, which differ between versions of torch
        damaged = str(error).strip().split("\n")[0][:200] or type(error).__name__
    if damaged:
        raise UserError(f"--ckpt_path {path}: not a checkpoint, or damaged ({damaged})")
    if not holds(checkpoint, {"state_dict": set(), **SETTINGS}):
        raise UserError(f"--ckpt_path {path}: not a checkpoint that `fit` of this version has saved")
    try:
        check_settings(checkpoint)
    except UserError as error:
        raise UserError(f"--ckpt_path {path}: {error}") from None
    if to_resume and not holds(checkpoint, STATE_OF_TRAINING):
        raise UserError(f"--ckpt_path {path}: it holds parameters alone and no state of training to go on with")
    return checkpoint


def check_settings(checkpoint: dict[str, Any]) -> None:
    """Check the version, the settings and the parameters in a checkpoint, which every command needs.

    Raises:
        UserError: Says which is not as `fit` saves it.
    """
    try:
        migrate_checkpoint(checkpoint)
    except Exception as error:  # of any kind, over whatever it meets
        raise UserError(f"Lightning cannot read it ({type(error).__name__}: {error})") from error
    data = checkpoint["datamodule_hyper_parameters"]
    for owner, settings in (
        (MLPClassifier, checkpoint["hyper_parameters"]),
        (MNISTDataModule, data),
        (MNISTDataModule, {"source": data["dataset"]}),
    ):
        check_arguments(owner, settings)
    for name, value in (data | checkpoint["hyper_parameters"]).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name} is {value}: it must be a number")
    step = checkpoint.get("global_step", 0)
    if not isinstance(step, int):
        raise UserError(f"global_step is of type {type(step).__name__}, not int")
    for name, value in checkpoint["state_dict"].items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise UserError(f"state_dict.{name} is no tensor of floating-point numbers")
        if not value.isfinite().all():
            raise UserError(f"state_dict.{name} has infinite or NaN parameters: the run had diverged")
    with torch.device("meta"):  # without memory
        net = MLP.of(checkpoint["hyper_parameters"])
    shapes = {f"net.{name}": value.shape for name, value in net.state_dict().items()}
    if shapes != {name: value.shape for name, value in checkpoint["state_dict"].items()}:
        raise UserError("its parameters are not of the network it names")


def holds(checkpoint: Any, needed: Mapping[str, Collection[str]]) -> bool:
    """Whether a checkpoint has all parts, and each part all its names."""
    try:
        return all(set(names) <= checkpoint[part].keys() for part, names in needed.items())
    except (AttributeError, KeyError, TypeError):  # it is no dictionary of dictionaries
        return False
