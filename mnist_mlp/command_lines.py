"""Commands that the program suggests to type next."""

import inspect
import json
import shlex

from lightning.pytorch import LightningDataModule, LightningModule

from mnist_mlp.datasets.distortion import STRENGTHS

SCHEDULE = frozenset({"model.schedule", "model.monitor", "model.patience", "model.decay", "model.max_decays"})
DISTORTION = frozenset({"data.distort", *(f"data.{name}" for name in STRENGTHS)})
TRAINER = frozenset({"trainer.max_epochs", "trainer.max_steps", "trainer.log_every_n_steps"})
EVALUATION = SCHEDULE | DISTORTION | TRAINER | {"model.lr", "model.log_grad_norm"}
EVALUATION |= {"optimizer", "lr_scheduler", "pictures", "data.batch_size"}
UNUSED: dict[str, frozenset[str]] = {  # options of `fit` that a command chooses itself or does without
    "fit": frozenset(),
    "validate": EVALUATION,
    "test": EVALUATION | {"data.val_size"},
    "predict": EVALUATION | {"data.val_size"},
    "prepare_data": DISTORTION | {"data.source", "data.batch_size", "data.val_size", "data.seed"},
    "find_lr": SCHEDULE | {"model.lr", "model.log_grad_norm"},
    "compare_batch_sizes": SCHEDULE | {"model.lr", "data.batch_size"},
    "compare_decays": frozenset({"model.schedule", "model.decay"}),
    "compare_methods": frozenset({"model.lr", "model.schedule", "model.max_decays"}),
    "export": frozenset(),
    "draw": frozenset(),
}


def known_to_commands(*objects: object) -> bool:
    """Whether a run of a model and its data can be repeated by a command: their classes are this package's own."""
    return all(type(each).__module__.startswith("mnist_mlp.") for each in objects)


def command_for_checkpoint(command: str, checkpoint: str) -> str:
    """The words that run a command on a checkpoint, which holds the settings of the network and the data."""
    return shlex.join(["python", "-m", "mnist_mlp", command, "--ckpt_path", checkpoint])


def command_with_settings(
    command: str, model: LightningModule, data: LightningDataModule, **changes: float | str
) -> str:
    """The words that run a command with the settings of a model and its data.

    Args:
        command: A name in UNUSED. Settings that it does not use are left out, and those at their defaults.
        model: Gives its settings.
        data: Gives its settings, and the seed.
        changes: Settings with other values, named even where they are the default.
    """
    words = ["python", "-m", "mnist_mlp", command]
    for group, owner in {"model": model, "data": data}.items():
        for name, parameter in inspect.signature(type(owner)).parameters.items():
            if f"{group}.{name}" in UNUSED[command] or name not in owner.hparams:
                continue
            value = format_argument(changes.get(name, owner.hparams[name]))
            if name in changes or value != format_argument(parameter.default):
                words += ["--seed_everything" if name == "seed" else f"--{group}.{name}", value]
    return shlex.join(words)


def format_argument(value: object) -> str:
    """A setting as it is typed."""
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, default=str).replace(" ", "")
