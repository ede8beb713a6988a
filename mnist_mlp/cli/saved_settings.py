"""The settings of a checkpoint: defaults of the command that uses it, of which some must stay as they are."""

import inspect
import json
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.cli.run_folder import CONFIG_FILE, run_of
from mnist_mlp.cli.settings_file import CLASSES
from mnist_mlp.command_lines import format_argument
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.datasets.mnist import mnist_exists
from mnist_mlp.errors import UserError
from mnist_mlp.network import STRUCTURE

FIXED = {f"model.{name}" for name in STRUCTURE}
FIXED_IN_FIT = FIXED | {"model.schedule", "model.monitor", *CLASSES}
FIXED_IN_FIT |= {"data.source", "data.val_size", "seed_everything"}


def settings_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The settings of a checkpoint's network and data, by the name of their option."""
    model, data = checkpoint["hyper_parameters"], checkpoint["datamodule_hyper_parameters"]
    settings = {f"model.{name}": model[name] for name in inspect.signature(MLPClassifier).parameters}
    own = inspect.signature(MNISTDataModule).parameters.keys() - {"data_dir", "seed"}
    settings |= {f"data.{name}": data[name] for name in own}
    settings |= {"seed_everything": data["seed"], "data.source": data["dataset"]}
    if mnist_exists(data["data_dir"]):  # else the checkpoint may come from another machine
        settings["data.data_dir"] = data["data_dir"]
    return settings


def settings_file_of(path: str) -> Path | None:
    """The file with all settings of the run in whose folder a checkpoint lies, if it lies in one."""
    folder = run_of(path)
    return folder / CONFIG_FILE if folder and (folder / CONFIG_FILE).is_file() else None


def update_rule_in(file: Path | None) -> dict[str, Any]:
    """The optimizer and the scheduler in a run's file, before any argument overrules them; without a file nothing."""
    if file is None:
        return {}
    saved = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    return {key: saved.get(key) for key in CLASSES}


def check_unchanged(config: Namespace, settings: dict[str, Any], path: str, command: str) -> None:
    """Raise a UserError if a setting that must stay differs from that of the checkpoint that a command uses."""
    for key in sorted(settings.keys() & (FIXED_IN_FIT if command == "fit" else FIXED)):
        group = isinstance(config[key], Namespace)
        value = json.loads(json.dumps(config[key].as_dict())) if group else config[key]  # lists for tuples
        if value != settings[key]:
            shown = value["class_path"] if group else format_argument(value)
            raise UserError(f"--{key} {shown} differs from the run in {path}: leave it out")
