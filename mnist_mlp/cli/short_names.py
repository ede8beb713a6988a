"""The words that people type: short names of options, and the nearest known name to one that is not."""

import difflib
import re
from collections.abc import Collection, Iterable

from mnist_mlp.command_lines import UNUSED
from mnist_mlp.errors import UserError

SHORT = {  # in the order of the help
    "lr": "model.lr",
    "loss": "model.loss",
    "hidden": "model.hidden",
    "schedule": "model.schedule",
    "epochs": "trainer.max_epochs",
    "batch_size": "data.batch_size",
    "val_size": "data.val_size",
    "distort": "data.distort",
    "data_dir": "data.data_dir",
    "source": "data.source",
    "seed": "seed_everything",
    "devices": "trainer.devices",
    "accelerator": "trainer.accelerator",
    "precision": "trainer.precision",
}
LISTS = ("model.hidden", "batch_sizes", "decays", "grid")  # options that take bare numbers too, as 500,300
NUMBERS = re.compile(r"[\d.e+-]+(,[\d.e+-]+)*")
MEANT = {  # by names of other programs
    "train": "fit",
    "evaluate": "test",
    "eval": "test",
    "classify": "predict",
    "learning_rate": "lr",
    "gamma": "lr",
    "layers": "hidden",
    "gpus": "devices",
    "resume": "ckpt_path",
}


def short_names(command: str, groups: Collection[str], own: Collection[str] = ()) -> dict[str, str]:
    """Short names of the options that a command uses, from its groups, where they are no names of its own."""
    used = [*groups, "seed_everything"] if "model" in groups else groups
    return {
        short: name
        for short, name in SHORT.items()
        if name.split(".")[0] in used and name not in UNUSED[command] and short not in own
    }


def in_full(words: Iterable[str], names: dict[str, str]) -> list[str]:
    """Words of a command line with the options that short names stand for, and with bare numbers as lists."""
    full, option = [], ""
    for word in words:
        start, equals, value = "", "", word
        if word.startswith("--"):
            option, equals, value = word[2:].partition("=")
            option = names.get(option, option)
            start = f"--{option}"
        if option in LISTS and NUMBERS.fullmatch(value):
            value = f"[{value}]"
        full.append(f"{start}{equals}{value}")
    return full


def check_used(command: str, words: Iterable[str]) -> None:
    """Raise a UserError if words of a command line name an option of `fit` that a command does not use.

    Files of settings may have it: those of a run do.
    """
    for option in [word[2:].partition("=")[0] for word in words if word.startswith("--")]:
        name = SHORT.get(option, option)
        if UNUSED[command] & {name, name.split(".")[0]}:
            raise UserError(f"--{option}: {command} does not use it: leave it out")


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that was probably meant, by its spelling or, of an option, that of its last part."""
    ends = {each.split(".")[-1]: each for each in reversed([*known])} | {each: each for each in known}
    ends |= {other: ends[meant] for other, meant in MEANT.items() if meant in ends}
    name = name.lower().replace("-", "_")
    for spelling in (name, name.split(".")[-1]):
        if found := difflib.get_close_matches(spelling, ends, n=1):
            return ends[found[0]]
    return None
