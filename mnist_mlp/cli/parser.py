"""The words of the command line: its help, in our own words, and its errors, one line each."""

import argparse
import re
import sys
from typing import Any, NoReturn

import yaml
from jsonargparse import DefaultHelpFormatter, get_loader, set_loader
from jsonargparse.typing import restricted_number_type
from lightning.pytorch.cli import LightningArgumentParser

from mnist_mlp.cli.commands import COMMANDS, has_part

SHOWN = {  # the options beyond --model and --data that --help explains, in our own words
    "config": "YAML file of settings; later arguments overrule it.",
    "print_config": "Print all settings, as such a file, and exit.",
    "seed_everything": "Draws weights, split and batches.",
    "trainer.max_epochs": "Passes through the training images.",
    "trainer.max_steps": "Updates, or -1 for any number.",
    "trainer.accelerator": "cpu, gpu, or auto for what there is.",
    "trainer.devices": "Processes, each with batches of its own.",
    "trainer.precision": "32-true, the default, or bf16-mixed.",
    "trainer.log_every_n_steps": "Updates between points of the curves.",
    "trainer.enable_progress_bar": "By default on a terminal; elsewhere lines.",
    "trainer.default_root_dir": "Where lightning_logs goes; by default here.",
    "optimizer": "A torch optimizer instead of plain SGD, for example Adam, with --optimizer.lr and so on.",
    "lr_scheduler": "A torch scheduler, stepped every epoch, for example StepLR with --lr_scheduler.step_size 1.",
    "ckpt_path": "A path or URL, or best or last of the newest run under lightning_logs that has one.",
}
HIDDEN = re.compile(r"(trainer|checkpoint|last|optimizer|lr_scheduler)\b|(model|data|pictures)$|data\.seed")
GROUPS = ("model", "data", "trainer", "pictures", "checkpoint", "last")  # of settings
Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])
EPILOG = (
    "Every argument of Lightning's Trainer works too, as --trainer.NAME, and of its ModelCheckpoint, as "
    "--checkpoint.NAME for best.ckpt and --last.NAME for last.ckpt: --print_config lists them, "
    "https://lightning.ai/docs/pytorch/stable/common/trainer.html explains them."
)
FOLDER = (
    "Tables (CSV), a picture (PNG) and the curves for TensorBoard go into a new folder under lightning_logs, which is "
    "named at the end."
)


class UserError(ValueError):
    """The arguments cannot be used; the message is one line that names the option."""


class HelpFormatter(DefaultHelpFormatter):
    """Shows what an option means and its default, not the Python type behind it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        return text if action.default in (None, argparse.SUPPRESS) else f"{text} (default: %(default)s)"


class Parser(LightningArgumentParser):
    """An argument parser whose help is short and whose errors are one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(formatter_class=HelpFormatter, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the message and ends with exit code 2."""
        message = re.sub(rf'Parser key "(?:(?:{"|".join(COMMANDS)})\.)?([^"]+)":', r"--\1:", message)
        message = message.replace(" and v<", " and <")
        for pattern, plain in (
            (r"Not of type \w+: (.+) does not conform to restriction v(.+)", r"must be \2, not \1"),
            (r"Expected a typing.Literal\[(.+)\]. Got value: (.*)", r"must be one of \1, not '\2'"),
            (r"Expected a <class 'tuple'>. Got value: (.*)", r"must be a list such as [500] or [0.1,1], not '\1'"),
            (r"Not of type \w+: could not convert string to float: (.*)", r"must be a float, not \1"),
            (r"Not of type \w+: invalid literal for int\(\) with base 10: (.*)", r"must be an int, not \1"),
        ):
            message = re.sub(pattern, plain, message)
        fail(message)

    def format_help(self) -> str:
        """The help without the options that would bury our own.

        They are hidden no sooner, because jsonargparse leaves hidden options out of the settings that it saves.
        """
        for action in self._actions:
            if not has_part(self.prog.split()[-1], action.dest):
                action.help = argparse.SUPPRESS
            elif action.dest in SHOWN:
                action.help = SHOWN[action.dest]
            elif HIDDEN.match(action.dest):
                action.help = argparse.SUPPRESS
        return super().format_help()


yaml_value = get_loader("yaml")


def without_empty_groups(text: str) -> Any:
    """What YAML says, but a group of settings that are all commented out is as if it were not there.

    jsonargparse takes `trainer:` alone for no trainer at all.

    Args:
        text: A file of settings, or a setting.
    """

    def fill(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: fill(item) for key, item in value.items() if item is not None or key not in GROUPS}

    return fill(yaml_value(text))


set_loader("yaml", without_empty_groups, (yaml.YAMLError,))


def fail(message: str, code: int = 2) -> NoReturn:
    """Ends with one line on stderr and an exit code."""
    message = re.sub(r"`?Trainer\((\w+)=(.*?)\)`?", r"--trainer.\1 \2", message)
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(code)
