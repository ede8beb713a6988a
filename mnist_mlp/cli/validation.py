"""What the settings of a command cannot be, alone or together."""

from collections.abc import Iterable

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mnist_mlp.cli.commands import SETTINGS, has_part
from mnist_mlp.cli.parser import UserError
from mnist_mlp.data import MNISTDataModule


def check_settings(command: str, config: Namespace, words: list[str]) -> None:
    """Refuses what would have no effect, or an effect that nobody wants.

    Args:
        command: Its name.
        config: Its settings.
        words: The command line; files of settings may hold more than a command uses.

    Raises:
        UserError: Names the option.
    """
    for word in words:
        option = word.removeprefix("--").split("=")[0]
        if word.startswith("--") and SETTINGS.match(option) and not has_part(command, option):
            raise UserError(f"--{option} has no part in {command}: leave it out")
    if config.data.images and command != "predict":  # from a file
        raise UserError(f"--data.images has no part in {command}: leave it out, or use predict")
    if config.data.images == []:
        raise UserError("--data.images: give files, folders or patterns of images")
    if config.trainer.precision == "16-mixed":
        raise UserError("--trainer.precision 16-mixed scales losses, explicit gradients do not: use bf16-mixed")
    if config.model.lr > torch.finfo(torch.float32).max:
        raise UserError(f"--model.lr {config.model.lr:g} is no number in float32: use find_lr")
    if config.trainer.overfit_batches:
        raise UserError("--trainer.overfit_batches would replace our batches: use --trainer.limit_train_batches")
    for saver in ("checkpoint", "last"):
        if config.get(f"{saver}.save_on_exception"):
            raise UserError(f"--{saver}.save_on_exception could save in mid-update: last.ckpt is saved after signals")
    if config.get("last.save_weights_only"):
        raise UserError("--last.save_weights_only leaves nothing to go on with: use --checkpoint.save_weights_only")
    if config.get("last.every_n_epochs") is not None:
        raise UserError("--last.every_n_epochs has no part: last.ckpt is saved after every epoch anyway")
    if config.optimizer and config.optimizer.class_path.endswith("LBFGS"):
        raise UserError("--optimizer LBFGS needs several gradients an update: choose one that needs one")
    if command == "fit":
        check_schedule(config)


def check_schedule(config: Namespace) -> None:
    """Refuses what --model.schedule cannot work with.

    Raises:
        UserError: Names the options.
    """
    schedule, trainer = f"--model.schedule {config.model.schedule}", config.trainer
    if config.lr_scheduler and config.model.schedule != "constant":
        raise UserError(f"{schedule} and --lr_scheduler cannot both change the step size: leave one out")
    if config.model.schedule == "cosine" and trainer.max_epochs == trainer.max_steps == -1:
        raise UserError(f"{schedule} needs a budget: give --trainer.max_epochs or --trainer.max_steps")
    if config.model.schedule == "plateau":
        if config.data.val_size == 0 or trainer.limit_val_batches == 0:
            raise UserError(f"{schedule} needs validation images: give --data.val_size")
        if trainer.check_val_every_n_epoch != 1:
            raise UserError(f"{schedule} needs --trainer.check_val_every_n_epoch 1: it counts epochs")


def distinct(option: str, values: Iterable[float]) -> list[float]:
    """The values given to an option, in order and each once.

    Raises:
        MisconfigurationException: There are none.
    """
    values = sorted({int(value) if isinstance(value, int) else float(value) for value in values})
    if not values:
        raise MisconfigurationException(f"{option} is empty: give a list such as [0.1,1]")
    return values


def check_comparable(trainer: Trainer, datamodule: MNISTDataModule) -> None:
    """Refuses to compare without validation images (the test set chooses nothing), or for no or endless epochs.

    Raises:
        MisconfigurationException: `val_size` is 0, or `max_epochs` is not above 0.
    """
    if datamodule.hparams.val_size == 0:
        raise MisconfigurationException("--data.val_size is 0: what is best is chosen on validation images")
    if trainer.max_epochs is None or trainer.max_epochs < 1:
        raise MisconfigurationException(f"--trainer.max_epochs is {trainer.max_epochs}: it must be 1 or more")
