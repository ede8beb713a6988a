"""The help of a command: the options that matter, the most used first; those of a group by `--help GROUP`."""

import argparse
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from jsonargparse import DefaultHelpFormatter

from mnist_mlp.command_lines import format_argument

GROUPS = ("model", "data", "trainer", "checkpoint", "last", "optimizer", "lr_scheduler")
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
    "config": ("FILE", "YAML file of settings, or a recipe such as fast."),
    "print_config": ("", "Print all settings, as such a file, and exit."),
    "help": ("[GROUP]", "Show this, or all options of a group:"),
}
HIDDEN = ("data.seed", "optimizer.help", "lr_scheduler.help", *GROUPS[:5])
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
        topic: One of GROUPS, if the help is about its options.
    """
    width = min(shutil.get_terminal_size().columns, 100)
    shorts, order = {name: short for short, name in names.items()}, [*HELP]
    lines = [f"usage: python -m mnist_mlp {command} [options]", ""] if command else []
    for paragraph in description.split("\n\n"):
        lines += [*textwrap.wrap(paragraph, width), ""]
    options = [*options]
    groups = [group for group in GROUPS if any(each.dest.split(".")[0] == group for each in options)]
    chosen = [each for each in options if not command or each.dest.split(".")[0] == topic]
    if command and topic is None:
        chosen = [each for each in options if each.dest.split(".")[0] not in GROUPS or each.dest in HELP]
        chosen.sort(key=lambda each: order.index(each.dest) if each.dest in HELP else -1)
    for option in chosen:
        value, text = option.metavar or option.dest.split(".")[-1].upper(), option.help or ""
        flags = [flag for flag in option.option_strings if not flag.endswith("+")]
        default = None if option.default in (None, [], argparse.SUPPRESS) else format_argument(option.default)
        if option.dest in shorts:
            flags = [f"--{shorts[option.dest]}"]
            default = f"{option.dest}:\0{default}" if default else option.dest  # in one line
        elif default and "default" not in text.lower():
            default = f"default:\0{default}"
        else:
            default = None
        if command and topic is None and option.dest in HELP:
            value, text = HELP[option.dest]
        if option.dest == "help" and groups:
            text += f" {', '.join(groups)}."
        elif option.dest == "help":
            value, text = "", "Show this."
        left = f"  {', '.join(flags)} {value}"
        text = f"{text} ({default})" if default else text
        right = textwrap.wrap(" ".join(text.split()), width - LEFT)
        if len(left) < LEFT:
            lines.append(f"{left:<{LEFT}}{right.pop(0) if right else ''}".rstrip())
        else:
            lines.append(left)
        lines += [" " * LEFT + line for line in right]
    if names and topic is None:
        lines += ["", *textwrap.wrap("In brackets: the full name, as settings files have it, and the default.", width)]
    return "\n".join(lines).replace("\0", " ") + "\n"


def with_topic(words: list[str]) -> tuple[list[str], str | None]:
    """The words of a command line without the group that `--help GROUP` or `--GROUP.help` names, and that group."""
    for i, word in enumerate(words):
        match word.removeprefix("--").replace("=", ".").split("."):
            case ["help", group] | [group, "help"] if group in GROUPS[:5] and word.startswith("--"):
                return [*words[:i], "--help"], group
        if word in ("-h", "--help") and words[i + 1 : i + 2] and words[i + 1] in GROUPS:
            return [*words[:i], word], words[i + 1]
    return words, None
