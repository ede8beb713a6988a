"""Checkpoints of tensors and plain values, some part of which is not what `fit` writes: a line, or no harm."""

import itertools
import random
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RUNS, SMALL, Error, Run

from mnist_mlp.cli.main import main

MISSING = "missing"
MODEL_CHECKPOINT = "ModelCheckpoint{"  # and its settings
NAMED = "error: --ckpt_path changed.ckpt: "
ONE_PASS = "error: --data.batch_size times the number of processes is "  # told by the state of the batches
WRONG = (None, "x", 3, -1.5, float("nan"), True, [], {}, (1, "y"), torch.zeros(3, 2), MISSING)
PLATEAU = ("--model.schedule", "plateau")
ADAM = ("--optimizer", "Adam", "--lr_scheduler", "StepLR", "--lr_scheduler.step_size", 1)
COMMANDS = (  # with the options of the run whose checkpoint they get, and the number of cases without --full
    (("fit", "--trainer.max_steps", "65"), PLATEAU, 16),
    (("fit", "--trainer.max_steps", "65"), ADAM, 8),
    (("test",), PLATEAU, 10),
    (("draw", "--open", "false", "--to", "page.html"), PLATEAU, 10),
)


def nodes(value: Any, way: tuple = ()) -> Iterator[tuple]:
    """The way to each part of a checkpoint, by names and positions."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in pairs:
        yield (*way, name)
        yield from nodes(part, (*way, name))


def changed(checkpoint: dict[str, Any], way: tuple, value: Any) -> dict[str, Any]:
    """A copy with another value, or none, in one place."""
    checkpoint = deepcopy(checkpoint)
    parent: Any = checkpoint
    for name in way[:-1]:
        parent = parent[name]
    if value is MISSING:
        del parent[way[-1]]
    else:
        parent[way[-1]] = value
    return checkpoint


def exit_code(words: list[str]) -> object:
    """The exit code of a command."""
    try:
        main(words)
    except SystemExit as end:
        return end.code
    return 0


def files() -> set[Path]:
    """All files and folders."""
    return set(Path().rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize(("command", "options", "number"), COMMANDS, ids=["fit", "fit-Adam", "test", "draw"])
def test_a_part_of_a_wrong_kind(
    command: tuple[str, ...],
    options: tuple[object, ...],
    number: int,
    full: bool,
    run: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("fit", *SMALL, "--model.hidden", "[5]", "--trainer.max_steps", 60, *options)
    checkpoint = torch.load(RUNS / "version_0/checkpoints/last.ckpt", weights_only=True)
    shutil.rmtree(RUNS)
    cases = list(itertools.product(nodes(checkpoint), WRONG))
    assert len(cases) > 1500
    refused, wrong = 0, []
    for way, value in cases if full else random.Random(0).sample(cases, number):
        torch.save(changed(checkpoint, way, value), "changed.ckpt")
        before = files()
        code = exit_code([*command, "--ckpt_path", "changed.ckpt"])
        messages = capsys.readouterr().err
        if code:
            lines = [line for line in messages.splitlines() if line.startswith("error:")]
            refused += 1
            if (code, files(), len(lines)) != (2, before, 1) or not lines[0].startswith((NAMED, ONE_PASS)):
                wrong.append((way, value, code, messages))
        for path in files() - before:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert not wrong
    assert refused


@pytest.mark.parametrize(
    ("way", "value", "part"),
    [
        (("loops", "fit_loop"), "x", "loops.fit_loop is of type str, not dict"),
        (("loops", "fit_loop", "epoch_progress"), 3, "loops.fit_loop.epoch_progress is of type int, not dict"),
        (
            ("loops", "fit_loop", "epoch_loop.batch_progress", "is_last_batch"),
            MISSING,
            "loops.fit_loop does not load (KeyError: 'is_last_batch')",
        ),
        (("optimizer_states",), None, "optimizer_states is of type NoneType, not list"),
        (("optimizer_states", 0), "adam", "optimizer_states.0 is of type str, not dict"),
        (
            ("callbacks", MODEL_CHECKPOINT, "best_model_score"),
            MISSING,
            "callbacks.ModelCheckpoint does not load (KeyError: 'best_model_score')",
        ),
        (
            ("callbacks", MODEL_CHECKPOINT, "best_model_score"),
            torch.zeros(3, 2),
            "callbacks.ModelCheckpoint.best_model_score is of shape (3, 2), not ()",
        ),
        (
            ("callbacks", MODEL_CHECKPOINT, "kth_best_model_path"),
            MISSING,
            "callbacks.ModelCheckpoint.kth_best_model_path is none of best_k_models",
        ),
        (
            ("optimizer_states", 0, "param_groups", 0, "lr"),
            float("nan"),
            "optimizer_states.0.param_groups.0.lr is NaN",
        ),
        (
            ("optimizer_states", 0, "param_groups", 0, "lr"),
            -1.5,
            "optimizer_states.0.param_groups.0.lr is -1.5, which",
        ),
        (("callbacks", "LossLog"), 5, "callbacks.LossLog is of type int, not dict"),
        (("pytorch-lightning_version",), MISSING, "Lightning cannot read it (KeyError"),
        (("pytorch-lightning_version",), 2, "Lightning cannot read it ("),
        (("datamodule_hyper_parameters", "data_dir"), 7, "data_dir: "),
        (("datamodule_hyper_parameters", "dataset"), "cifar", "source: must be one of"),
        (("global_step",), "sixty", "global_step is of type str, not int"),
        (("state_dict", "net.fc1.weight"), 1, "state_dict.net.fc1.weight is no tensor"),
    ],
)
def test_the_part_is_named(way: tuple, value: object, part: str, run: Run, error: Error) -> None:
    run("fit", *SMALL, "--model.hidden", "[5]", "--trainer.max_steps", 55)
    checkpoint = torch.load(RUNS / "version_0/checkpoints/last.ckpt", weights_only=True)
    names = {MODEL_CHECKPOINT: next(name for name in checkpoint["callbacks"] if name.startswith(MODEL_CHECKPOINT))}
    torch.save(changed(checkpoint, tuple(names.get(name, name) for name in way), value), "changed.ckpt")
    assert f"--ckpt_path changed.ckpt: {part}" in error("fit", "--ckpt_path", "changed.ckpt")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "draw", "export --to digits.pt2"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_refused(command: str, value: float, run: Run, error: Error) -> None:
    run("fit", *SMALL, "--model.hidden", "[5]", "--trainer.max_steps", 1)
    checkpoint = torch.load(RUNS / "version_0/checkpoints/last.ckpt", weights_only=True)
    checkpoint["state_dict"]["net.fc1.weight"][0, 3] = value
    torch.save(checkpoint, "changed.ckpt")
    assert "net.fc1.weight has infinite or NaN" in error(*command.split(), "--ckpt_path", "changed.ckpt")
