"""Refuse settings of `fit` that have no effect or an unwanted one."""

import inspect
import math
import pydoc
import warnings
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.cli.failures import describe
from mnist_mlp.cli.settings_file import CLASSES
from mnist_mlp.errors import UserError
from mnist_mlp.network import MLP

METRICS = ("train/loss", "val/loss", "val/accuracy", "train/grad_norm")  # that `fit` logs


def check_settings(config: Namespace, lr: float | None, lr_is_given: bool) -> None:
    """Raise a UserError for settings that cannot work, alone or together.

    `lr` is that of the run that is resumed, and `lr_is_given` says whether the command line has one.
    """
    for name, value in config.items():
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"--{name} nan: must be a number")
    if config.lr_scheduler and config.lr_scheduler.class_path.endswith(".LRScheduler"):
        raise UserError("--lr_scheduler LRScheduler is the base of all of them: give one, for example StepLR")
    if not config.trainer.callbacks:  # which may log others
        for group in ("checkpoint", "lr_scheduler.init_args"):
            metric = config.get(f"{group}.monitor")
            if metric is not None and metric not in METRICS:
                name = f"--{group.removesuffix('.init_args')}.monitor"
                raise UserError(f"{name} {metric} is not logged: choose one of {', '.join(METRICS)}")
    usual = inspect.signature(MLPClassifier).parameters["lr"].default if lr is None else lr
    if config.model.lr > torch.finfo(torch.float32).max:
        raise UserError(f"--model.lr {config.model.lr:g} overflows float32: find_lr finds one that works")
    for name in ("val_check_interval", "check_val_every_n_epoch"):
        if config.trainer[name] == 0:
            raise UserError(f"--trainer.{name} 0: must be >0; --trainer.limit_val_batches 0 turns validation off")
    if config.trainer.log_every_n_steps is not None and config.trainer.log_every_n_steps < 0:
        raise UserError(f"--trainer.log_every_n_steps {config.trainer.log_every_n_steps}: must be >=0")
    if config.trainer.barebones:
        raise UserError("--trainer.barebones leaves out loggers and checkpoints: use python -m mnist_mlp.benchmark")
    if config.trainer.overfit_batches:
        raise UserError("--trainer.overfit_batches would replace our batches: use --trainer.limit_train_batches")
    if config.checkpoint.save_on_exception:
        raise UserError("--checkpoint.save_on_exception could save amid an update; last.ckpt is saved after signals")
    if config.optimizer and (lr_is_given or config.model.lr != usual):
        raise UserError(f"--model.lr {config.model.lr:g} has no effect with --optimizer: use --optimizer.lr")
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


def check_folder(option: str, file: str) -> None:
    """Raise a UserError unless a file that an option names can be in its folder, before work is done for it."""
    if not Path(file).parent.is_dir() or Path(file).is_dir():
        raise UserError(f"{option} {file}: give the name of a file, in a folder that exists")


def try_update_rule(config: Namespace) -> None:
    """Step the optimizer and the scheduler of the settings once, on parameters of the network's shapes.

    torch finds most wrong values only then, amid training.

    Raises:
        UserError: Names the class and the arguments given to it.
    """
    if not config.optimizer:  # nor a scheduler
        return
    with torch.device("meta"):  # which draws no random numbers
        shapes = [u.shape for u in MLP.of(config.model).parameters()]
    made: Any = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for u in made:
        u.grad = torch.zeros_like(u)
    for option in CLASSES:
        if not config[option]:
            continue
        kind: Any = pydoc.locate(config[option].class_path)
        arguments = config[option].get("init_args", Namespace()).as_dict()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the run will say them
                made = kind(made, **arguments)
                if isinstance(made, ReduceLROnPlateau):
                    made.step(0.0)
                elif option == "lr_scheduler":
                    made.step()
                elif not (arguments.get("capturable") and torch.cuda.is_available()):  # the CPU's cannot be
                    made.step(lambda: 0.0)
        except Exception as error:  # of any kind, as each class of torch's has it
            classes = [inspect.signature(base).parameters for base in kind.__mro__[:-1]]
            usual = [(name, parameter.default) for parameters in classes for name, parameter in parameters.items()]
            given = ", ".join(f"{name}={value}" for name, value in arguments.items() if (name, value) not in usual)
            raise UserError(f"--{option} {kind.__name__}({given}): {describe(error)}") from error
