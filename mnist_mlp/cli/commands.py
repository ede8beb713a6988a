"""The commands: which there are, which settings each uses, and how to type them."""

import inspect
import json
import re
import shlex

from lightning.pytorch import LightningDataModule, LightningModule

from mnist_mlp.datasets.distortion import STRENGTHS

COMMANDS = {
    "fit": "Train; without arguments exactly the notebook's run, with 5,000 images held out for validation.",
    "validate": "Loss and accuracy of a checkpoint on the validation images.",
    "test": "Loss and accuracy of a checkpoint on the test images.",
    "predict": "Classify own images (--data.images) or the test images (CSV on standard output) with a checkpoint.",
    "prepare_data": "Bring MNIST into its directory and check it; nothing else. For a node with a network.",
    "find_lr": "Exercise 1: the largest step size that works while ten times as large a one diverges.",
    "compare_batch_sizes": "Exercise 2: the best step size of each batch size, and how fast each then descends.",
    "compare_decays": "Which factor of the plateau schedule wins on the validation images.",
    "compare_methods": "The full gradient, and stochastic gradients under three schedules, side by side.",
}
TRAINING = re.compile(
    r"seed_everything|print_config|pictures|checkpoint|last|optimizer|lr_scheduler|trainer\.(max_|log_every)"
    r"|model\.(lr|schedule|monitor|patience|decay|max_decays)"
)
DISTORTION = tuple(f"data.{name}" for name in ("distort", *STRENGTHS))
RUNS = ("data.batch_size", "trainer.max_epochs", "trainer.precision", "trainer.log_every_n_steps")
METHODOLOGY = {  # the commands of the notebook's methodology, and the settings of `fit` that each uses beside COMMON
    "find_lr": ("data.batch_size",),
    "compare_batch_sizes": ("trainer.max_epochs",),
    "compare_decays": (*RUNS, "model.lr", "model.monitor", "model.patience", "model.max_decays"),
    "compare_methods": (*RUNS, "model.monitor", "model.patience", "model.decay"),
}
OURS = (*METHODOLOGY, "prepare_data")  # that are not Lightning's
COMMON = re.compile(
    r"model\.(hidden|activation|loss)|data\.(data_dir|source|val_size|seed)"
    r"|trainer\.(accelerator|devices|default_root_dir)|(model|data|trainer)$"
)
SETTINGS = re.compile(r"(model|data|trainer|optimizer|lr_scheduler|pictures|checkpoint|last)\b")


def has_part(command: str, option: str) -> bool:
    """Whether an option that is there for `fit` means anything to a command."""
    if option == "data.images":
        return command == "predict"
    if command == "prepare_data" and SETTINGS.match(option):
        return option in ("data", "data.data_dir", "data.source")
    if command in METHODOLOGY and SETTINGS.match(option):
        return bool(COMMON.match(option)) or option in (*METHODOLOGY[command], *DISTORTION)
    return command not in ("validate", "test", "predict") or not (TRAINING.match(option) or option in DISTORTION)


def without_images(words: list[str]) -> tuple[list[str], list[str] | None]:
    """Takes `--data.images a.png b.png`, as a shell makes it of a pattern, out of a command line.

    jsonargparse takes one word an option, and as YAML, which a file's name need not be.

    Returns:
        The other words, and the names, each as it was given; none without the option.
    """
    others, names, ours = [], None, False
    for word in words:
        option, equals, name = word.partition("=")
        if word.startswith("-"):
            ours = option == "--data.images"
            if ours:
                names = [*(names or []), *([name] if equals else [])]
        elif ours:
            names.append(word)
        if not ours:
            others.append(word)
    return others, names


def on_checkpoint(command: str, checkpoint: str) -> str:
    """What to type to run a command on a checkpoint, which holds the network's and the data's settings."""
    return shlex.join(["python", "-m", "mnist_mlp", command, "--ckpt_path", checkpoint])


def with_settings(
    command: str, model: LightningModule, datamodule: LightningDataModule | None, **changes: float | str
) -> str:
    """What to type to run a command with the settings of a model and its data.

    Args:
        command: Its name; settings that have no part in it are left out, as are those that are defaults.
        model: Its settings.
        datamodule: Its settings, and the seed.
        changes: Settings that are other ones, and given even where they are the default.
    """
    words = ["python", "-m", "mnist_mlp", command]
    for group, owner in (("model", model), ("data", datamodule)):
        for name, parameter in inspect.signature(type(owner)).parameters.items() if owner else ():
            if not has_part(command, f"{group}.{name}"):
                continue
            value = changes.get(name, owner.hparams[name])
            if name in changes or plain(value) != plain(parameter.default):
                words += ["--seed_everything" if name == "seed" else f"--{group}.{name}", plain(value)]
    return shlex.join(words)


def plain(value: object) -> str:
    """A setting as it is typed."""
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value).replace(" ", "")
