"""The parser of every command: help that shows what matters, and errors in one line."""

import argparse
import copy
import os
import re
import sys
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from jsonargparse import DefaultHelpFormatter, Namespace
from jsonargparse.typing import restricted_number_type
from lightning.pytorch.cli import LightningArgumentParser

from mnist_mlp.arguments import reworded
from mnist_mlp.command_lines import UNUSED

Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])

LIBRARY_GROUPS = ("trainer", "checkpoint", "last", "optimizer", "lr_scheduler")  # documented by their libraries
HELP = {  # of the options in these groups that --help shows, and of Lightning's own
    "config": "YAML file of settings, or a shipped recipe such as fast; later arguments override it.",
    "print_config": "Print all settings, as such a file, and exit.",
    "seed_everything": "Random seed for the weights, the split and the batches.",
    "trainer.max_epochs": "Passes through the training images.",
    "trainer.max_steps": "Updates, or -1 for any number.",
    "trainer.accelerator": "cpu, gpu, or auto for a GPU if there is one.",
    "trainer.devices": "Processes, each with batches of its own.",
    "trainer.precision": "32-true, the default, or bf16-mixed.",
    "trainer.log_every_n_steps": "Updates between points of the curves.",
    "trainer.default_root_dir": "Parent of lightning_logs (default: the current directory).",
    "optimizer": "Another torch optimizer, for example Adam with --optimizer.lr.",
    "lr_scheduler": "A torch scheduler, for example StepLR with --lr_scheduler.step_size.",
    "ckpt_path": "A path, a URL, or best or last of the newest run.",
}
HIDDEN = ("model", "data", "data.seed", "optimizer.help", "lr_scheduler.help", "verbose")
TITLES = {  # of the groups of options
    "model": "Network, loss and step size",
    "data": "Data",
    "trainer": "Lightning's Trainer",
    "optimizer": "Another update rule",
    "lr_scheduler": "A step size that changes",
    **dict.fromkeys(("fit", "validate", "test", "predict"), "Checkpoint"),
}


class HelpFormatter(DefaultHelpFormatter):
    """Shows meaning and default, not Python's type, of the options that a command uses and this project explains."""

    def __init__(self, unused: Collection[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unused = unused

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        return text if action.default in (None, [], argparse.SUPPRESS) else f"{text} (default: %(default)s)"

    def add_argument(self, action: argparse.Action) -> None:
        library = action.dest.split(".")[0] in LIBRARY_GROUPS and action.dest not in HELP
        if library or action.dest in HIDDEN or action.dest in self.unused:
            return
        if action.dest in HELP:
            action = copy.copy(action)
            action.help = HELP[action.dest]
        super().add_argument(action)


class Parser(LightningArgumentParser):
    """An argument parser for one command, or for all, whose help is short and whose errors are one line."""

    def __init__(self, command: str = "", **kwargs: Any) -> None:
        self.command = command
        usage = f"python -m mnist_mlp {command} [options]" if command else None
        super().__init__(prog="python -m mnist_mlp", usage=usage, **kwargs)

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:
        try:
            return with_homes(super().parse_args(*args, **kwargs))
        except UnicodeDecodeError as error:
            fail(f"--config must be text in UTF-8: {error}")

    def validate(self, cfg: Namespace, *_: Any, **options: Any) -> None:
        """Check null as any other value, which jsonargparse would pass over."""
        super().validate(cfg, False, **options)

    def format_help(self) -> str:
        self.formatter_class = partial(HelpFormatter, UNUSED.get(self.command, ()))
        for name, title in TITLES.items():
            if name in self.groups:
                self.groups[name].title = title
        return super().format_help()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message in terms of the command line, and end with exit code 2."""
        if not self.exit_on_error:  # the parser of an option's class, whose error is part of this one's
            super().error(message, ex)
        message = re.sub(r'Parser key "(?:(?:fit|validate|test|predict)\.)?([^"]+)":', r"--\1:", message)
        fail(reworded(message))


def with_homes(value: Any) -> Any:
    """Settings with each `~/` as the user's home, which a shell leaves as it is in `--data.data_dir=~/data`."""
    if isinstance(value, str):
        path = os.path.expanduser(value)  # noqa: PTH111 - `Path` drops a slash
        return fail(f"{value}: there is no such home") if path.startswith("~") else path
    if isinstance(value, Namespace):
        return Namespace({name: with_homes(item) for name, item in vars(value).items()})
    if isinstance(value, dict):
        return {name: with_homes(item) for name, item in value.items()}
    return [with_homes(item) for item in value] if isinstance(value, list) else value


def fail(message: str, code: int = 2) -> NoReturn:
    """End with one line on stderr and an exit code."""
    message = re.sub(r"`?Trainer\((\w+)=(.*?)\)`?", r"--trainer.\1 \2", message)
    with suppress(OSError):  # nobody can be told
        print("error:", " ".join(message.split()), file=sys.stderr, flush=True)
    sys.exit(code)
