"""The help of a command: the options that matter, the most used first; those of a group by `--help GROUP`."""

import argparse
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jsonargparse import DefaultHelpFormatter

from mnist_mlp.cli.settings_file import CLASSES, GROUPS
from mnist_mlp.command_lines import format_argument

TOPICS = (*GROUPS, *CLASSES)
HELP: dict[str, tuple[str, str]] = {  # of the options that `--help` shows besides a command's own: value and text
    "model.lr": ("LR", "Step size γ, or γ_0 of a schedule."),
    "model.loss": ("NAME", "mse, squared or cross_entropy."),
    "model.hidden": ("UNITS", "Of each hidden layer, as 500,300."),
    "model.schedule": ("NAME", "constant, inverse_sqrt, cosine, plateau."),
    "trainer.max_epochs": ("N", "Passes through the training images."),
    "data.batch_size": ("N", "Images per update and process."),
    "data.val_size": ("N", "Images held out for validation."),
    "data.distort": ("BOOL", "Deform training images at random."),
    "data.data_dir": ("DIR", "Directory of MNIST."),
    "data.source": ("NAME", "mnist, digits or auto."),
    "seed_everything": ("N", "For weights, split and batches."),
    "trainer.devices": ("N", "Processes, with batches of their own."),
    "trainer.accelerator": ("NAME", "cpu, gpu or auto."),
    "trainer.precision": ("NAME", "32-true or bf16-mixed."),
    "optimizer": ("NAME", "A torch optimizer: Adam, with --optimizer.lr."),
    "lr_scheduler": ("NAME", "A torch scheduler: StepLR, with --lr_scheduler.step_size."),
    "ckpt_path": ("PATH", "A path, a URL, or best or last of the newest run."),
    "pictures": ("BOOL", "Draw pictures into TensorBoard after epochs 2, 4, 8, ..."),
    "config": ("FILE", "YAML file of settings; fit also takes a recipe, as fast."),
    "print_config": ("", "Print all settings, as such a file, and exit."),
    "help": ("[GROUP]", "Show this, or all options of a group:"),
}
HIDDEN = ("data.seed", "optimizer.help", "lr_scheduler.help", *GROUPS)
LEFT = 24  # columns for the names


class Collector(DefaultHelpFormatter):
    """Takes a parser's options, in place of writing them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.options: list[argparse.Action] = []

    def add_arguments(self, actions: Iterable[argparse.Action]) -> None:
        self.options += [each for each in actions if each.dest not in HIDDEN and each.help != argparse.SUPPRESS]


def help_text(
    command: str, description: str, options: Iterable[argparse.Action], names: Mapping[str, str], topic: str | None
) -> str:
    """The help of a command: its own options and those in HELP, or all of a group.

    Args:
        command: Its name; none for the class that an option names, all of whose arguments are shown.
        description: The first paragraph.
        options: All that it uses.
        names: Their short names.
        topic: One of TOPICS, if the help is about its options.
    """
    width = text_width()
    shorts = {name: short for short, name in names.items()}
    options, overview = [*options], bool(command) and topic is None
    groups = [group for group in TOPICS if any(group_of(each) == group for each in options)]
    if overview:
        options = most_used_first(options)
    elif command:
        options = [each for each in options if group_of(each) == topic]

    lines = [f"usage: python -m mnist_mlp {command} [options]", ""] if command else []
    for paragraph in description.split("\n\n"):
        lines += [*textwrap.wrap(paragraph, width), ""]
    for option in options:
        lines += columns(*name_and_text(option, shorts.get(option.dest), overview, groups), width)
    if names and topic is None:
        lines += ["", *textwrap.wrap("In brackets: the full name, as settings files have it, and the default.", width)]
    return "\n".join(lines).replace("\0", " ") + "\n"


def text_width() -> int:
    """Columns for a text on this terminal."""
    return min(max(shutil.get_terminal_size().columns, 2 * LEFT), 100)


def group_of(option: argparse.Action) -> str:
    """The first part of an option's name."""
    return option.dest.split(".")[0]


def most_used_first(options: Iterable[argparse.Action]) -> list[argparse.Action]:
    """The options of the overview: the command's own, and those in HELP in their order."""
    order = [*HELP]
    chosen = [each for each in options if group_of(each) not in TOPICS or each.dest in HELP]
    return sorted(chosen, key=lambda each: order.index(each.dest) if each.dest in HELP else -1)


def name_and_text(
    option: argparse.Action, short: str | None, overview: bool, groups: Sequence[str]
) -> tuple[str, str]:
    """The two columns of an option; \\0 stands for a space at which no line breaks.

    Args:
        option: The option.
        short: Its short name, if it has one.
        overview: Whether HELP has the text.
        groups: Those that the help can be about.
    """
    flags = [f"--{short}"] if short else [flag for flag in option.option_strings if not flag.endswith("+")]
    value, text = option.metavar or option.dest.split(".")[-1].upper(), option.help or ""
    default = None if option.default in (None, [], argparse.SUPPRESS) else format_argument(option.default)
    if not short and "default" in text.lower():
        default = None
    if option.nargs == 0:
        value = ""
    if overview and option.dest in HELP:
        value, text = HELP[option.dest]
    if option.dest == "help":
        value, text = (value, f"{text} {', '.join(groups)}.") if groups else ("", "Show this.")
    notes = [option.dest] if short else ["default"] if default else []
    if notes:
        text += " ({})".format(":\0".join([*notes, default] if default else notes))
    return f"{', '.join(flags)} {value}", text


def columns(left: str, right: str, width: int) -> list[str]:
    """The lines of two columns; the left one has a line of its own where it is too long."""
    lines = textwrap.wrap(" ".join(right.split()), width - LEFT)
    first = lines.pop(0) if lines and len(left) + 2 < LEFT else ""
    return [f"  {left:<{LEFT - 2}}{first}".rstrip(), *(" " * LEFT + line for line in lines)]


def with_topic(words: list[str]) -> tuple[list[str], str | None]:
    """The words of a command line without the group that `--help GROUP` or `--GROUP.help` names, and that group."""
    for i, word in enumerate(words):
        match word.removeprefix("--").replace("=", ".").split("."):
            case ["help", group] | [group, "help"] if group in GROUPS and word.startswith("--"):
                return [*words[:i], "--help"], group
        if word in ("-h", "--help") and words[i + 1 : i + 2] and words[i + 1] in TOPICS:
            return [*words[:i], word], words[i + 1]
    return words, None
