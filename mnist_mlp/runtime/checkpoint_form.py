"""Whether the state of training in a checkpoint has the form of one that `fit` saves.

Lightning takes most values as they come, and fails over a wrong one when files have been made, or amid the run.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import Optimizer

from mnist_mlp.batches import Batches
from mnist_mlp.classifier import Classifier
from mnist_mlp.errors import UserError
from mnist_mlp.runtime.resumption import Resumption


def check_state_of_training(checkpoint: dict[str, Any], trainer: Trainer, model: Classifier) -> None:
    """Check the state in a checkpoint by that of a trainer which has not begun, and of its parts.

    Each value must be of the kind of the fresh one, and each part must load its state, which a second time does no
    harm. The model's parameters may change.

    Raises:
        UserError: Names the part that is wrong, or says that another optimizer or scheduler trained the model.
    """
    kinds = {"epoch": 0, "global_step": 0, "metrics": numbers_in(checkpoint.get("metrics"))}
    kinds |= {"loops": {"fit_loop": {}}, "callbacks": {}, "optimizer_states": [{}], "lr_schedulers": [{}]}
    check_kind(kinds, checkpoint)
    loop = checkpoint["loops"]["fit_loop"]
    position = Batches(torch.zeros(1), torch.zeros(1), batch_size=1, seed=0).state_dict()
    check_kind({"state_dict": {"combined_loader": [position]}}, loop, "loops.fit_loop")
    for state in loop.get("state_dict", {}).get("combined_loader", []):
        if missing := position.keys() - state.keys():
            raise UserError(f"loops.fit_loop.state_dict.combined_loader lacks {', '.join(sorted(missing))}")
    check_part(trainer.fit_loop, loop, "loops.fit_loop")
    check_loads(partial(Resumption().on_load_checkpoint, trainer, model), checkpoint, "loops.fit_loop")
    for callback in [*trainer.callbacks, *(kind() for kind in model.own_callbacks)]:
        key, name = callback.state_key, f"callbacks.{type(callback).__name__}"
        if key in checkpoint["callbacks"]:
            check_part(callback, checkpoint["callbacks"][key], name)
            if isinstance(callback, ModelCheckpoint):
                check_model_checkpoint(callback, checkpoint["callbacks"][key], name)

    optimizers, schedulers = model.configure_optimizers()
    take_a_step(model, optimizers)
    for name, parts in {
        "optimizer_states": optimizers,
        "lr_schedulers": [config["scheduler"] for config in schedulers],
    }.items():
        states = checkpoint.get(name, [])
        if [names_of(part.state_dict()) for part in parts] != [names_of(state) for state in states]:
            raise UserError("another --optimizer or --lr_scheduler trained it: give the same")
        for i, (part, state) in enumerate(zip(parts, states, strict=True)):
            check_part(part, state, f"{name}.{i}")
            for j, group in enumerate(state.get("param_groups", [])):
                if group.get("lr", 0) < 0:
                    raise UserError(f"{name}.{i}.param_groups.{j}.lr is {group['lr']}, which is negative")


def check_kind(fresh: Any, value: Any, name: str = "") -> None:
    """Check that a value, and all within, is of the kind of a fresh one; what only one of them has is let pass.

    Raises:
        UserError: Names the value that is not, by the way to it.
    """
    kinds: Any = type(fresh)
    if fresh is None:  # not yet known
        kinds = (type(None), int, float, Tensor, *([] if name.endswith("score") else [str]))
    elif isinstance(fresh, list | tuple):
        kinds = (list, tuple)
    elif isinstance(fresh, float):
        kinds = (int, float, Tensor)
    if not isinstance(value, kinds) or isinstance(value, bool) > isinstance(fresh, bool | None):
        raise UserError(f"{name} is of type {type(value).__name__}, not {type(fresh).__name__}")
    if isinstance(value, float) and math.isnan(value) and isinstance(fresh, float) and not math.isnan(fresh):
        raise UserError(f"{name} is NaN")
    shape = fresh.shape if isinstance(fresh, Tensor) else torch.Size()  # in place of a number
    if isinstance(value, Tensor) and value.shape != shape:
        raise UserError(f"{name} is of shape {tuple(value.shape)}, not {tuple(shape)}")
    if isinstance(fresh, dict):
        for key in fresh.keys() & value.keys():
            check_kind(fresh[key], value[key], f"{name}.{key}".lstrip("."))
    elif isinstance(fresh, list | tuple) and fresh:
        for i, item in enumerate(value):
            check_kind(fresh[min(i, len(fresh) - 1)], item, f"{name}.{i}")


def check_part(part: Any, state: Any, name: str) -> None:
    """Check the state of a loop, a callback, an optimizer or a scheduler by its own, and that it loads.

    Raises:
        UserError: It does not, or is of another kind.
    """
    check_kind(part.state_dict(), state, name)
    check_loads(part.load_state_dict, state, name)


def check_model_checkpoint(callback: ModelCheckpoint, state: Any, name: str) -> None:
    """Check the state of a ModelCheckpoint in full, which reads half of one from another folder.

    Raises:
        UserError: It does not load, or its worst checkpoint is none of those it keeps.
    """
    check_kind({"best_k_models": numbers_in(state.get("best_k_models"))}, state, name)
    loaded = deepcopy(callback)
    check_loads(loaded.load_state_dict, state | {"dirpath": callback.dirpath}, name)
    kept = loaded.best_k_models
    if len(kept) == callback.save_top_k and loaded.kth_best_model_path not in kept:
        raise UserError(f"{name}.kth_best_model_path is none of best_k_models")


def check_loads(load: Callable[[Any], Any], state: Any, name: str) -> None:
    """Load a copy of a state.

    Raises:
        UserError: That fails.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the true load will say
            load(deepcopy(state))
    except Exception as error:  # of any kind, as the part of Lightning's or torch's has it
        raise UserError(f"{name} does not load ({type(error).__name__}: {error})") from error


def numbers_in(value: Any) -> dict[str, float]:
    """The names in a dictionary, each with a number, which may be NaN."""
    return dict.fromkeys(value, math.nan) if isinstance(value, dict) else {}


def names_of(state: dict[str, Any]) -> set[str]:
    """The names in the state of an optimizer or a scheduler, which differ from one class to another."""
    match state:
        case {"param_groups": [dict() as group, *_]}:
            return set(group)
    return set(state)


def take_a_step(model: LightningModule, optimizers: Iterable[Optimizer]) -> None:
    """Give optimizers the state that they have in a run, such as momenta, by a gradient of zero."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    for optimizer in optimizers:
        with suppress(Exception):  # it needs more than a gradient: its state stays unknown
            optimizer.step()
        optimizer.zero_grad()
