"""Step-size rules: their sequences, the plateau rule's decisions, and runs under each of them."""

import math
import re
from typing import Any

import pytest
import torch
from conftest import RUNS, SCHEDULES, SMALL, Run, assert_same_parameters, checkpoint, scalars
from lightning.pytorch import Trainer
from torch import Tensor

from mnist_mlp import MLPClassifier, MNISTDataModule
from mnist_mlp.runtime.blocks import LONGEST
from mnist_mlp.runtime.loss_log import LossLog
from mnist_mlp.schedules import Plateau

RULES = {
    "constant": lambda k: 1.0,
    "inverse_sqrt": lambda k: (k + 1) ** -0.5,
    "cosine": lambda k: math.sin(math.pi / 2 * (110 - k) / 110) ** 2,  # the share that is left, from 1 to 0
}


@pytest.mark.parametrize("rule", RULES)
def test_sequence_of_step_sizes(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, update = [], MLPClassifier.update

    def recorded(self: MLPClassifier, *args: object) -> Tensor:
        seen.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return update(self, *args)

    monkeypatch.setattr(MLPClassifier, "update", recorded)
    trainer = Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(MLPClassifier((20,), lr=0.3, schedule=rule), MNISTDataModule(source="digits", batch_size=1000))
    assert seen == pytest.approx([0.3 * RULES[rule](k) for k in range(110)], rel=1e-12, abs=0)


EVERY = ("--trainer.log_every_n_steps", 1)


def test_cosine_is_the_one_of_the_literature(run: Run) -> None:
    run("fit", *SMALL, *EVERY, "--model.schedule", "cosine", "--trainer.max_steps", 80)
    expected = [0.1 * (1 + math.cos(math.pi * k / 80)) / 2 for k in range(80)]
    assert [value for _, value in scalars()["train/lr"]] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rule", SCHEDULES)
@pytest.mark.parametrize("every", [1, 25])
def test_step_sizes_are_in_tensorboard_beside_the_losses(every: int, rule: str, run: Run) -> None:
    run("fit", *SMALL, "--model.schedule", rule, "--trainer.log_every_n_steps", every)
    points = scalars()["train/lr"]
    steps = list(range(110)) if every == 1 else [24, 49, 74, 99, 109]
    assert [step for step, _ in points] == [step for step, _ in scalars()["train/loss"]] == steps
    expected = [0.1 * RULES.get(rule, RULES["constant"])(k) for k in steps]
    assert [value for _, value in points] == pytest.approx(expected, rel=1e-6)


def decisions(monitor: str, patience: int, metrics: list[float], max_decays: int = 10) -> tuple[list[float], int]:
    """Step sizes after each metric, starting from 1 and halved at plateaus, and the epochs until training is over."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    plateau = Plateau(optimizer, monitor, patience, decay=0.5, max_decays=max_decays)
    lrs = []
    for metric in metrics:
        plateau.step(metric)
        lrs.append(optimizer.param_groups[0]["lr"])
        if plateau.exhausted:
            break
    return lrs, len(lrs)


@pytest.mark.parametrize(
    ("monitor", "patience", "metrics", "lrs"),
    [
        ("loss", 2, [1.0, 0.9, 0.95, 0.92, 0.93, 0.8, 0.8, 0.8], [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]),
        ("loss", 1, [0.5, 0.5, 0.49, 0.6, 0.7], [1, 0.5, 0.5, 0.25, 0.125]),
        ("loss", 3, [0.5, 0.6, 0.6, 0.4999999, 0.6, 0.6], [1, 1, 1, 1, 1, 1]),
        ("loss", 1, [0.5, math.nan, 0.4], [1, 0.5, 0.5]),
        ("accuracy", 2, [0.1, 0.9, 0.9, 0.8, 0.91], [1, 1, 1, 0.5, 0.5]),
    ],
)
def test_plateau_rule_on_a_script(monitor: str, patience: int, metrics: list[float], lrs: list[float]) -> None:
    assert decisions(monitor, patience, metrics)[0] == lrs


@pytest.mark.parametrize(("max_decays", "epochs"), [(0, 2), (1, 3), (3, 5)])
def test_the_plateau_after_the_last_reduction_is_the_end(max_decays: int, epochs: int) -> None:
    assert decisions("loss", 1, [1.0] * 10, max_decays)[1] == epochs


# No update is large enough to change a prediction: every epoch but the first is one without improvement.
STUCK = ("--model.lr", 1e-9, "--model.schedule", "plateau", "--model.monitor", "accuracy", "--model.patience", 1)


def test_a_plateau_counts_epochs_however_often_they_are_validated(run: Run) -> None:
    run(
        "fit",
        *SMALL,
        *EVERY,
        *STUCK,
        "--model.max_decays",
        1,
        "--trainer.max_epochs",
        9,
        "--trainer.val_check_interval",
        0.2,
    )
    assert [value for _, value in scalars()["train/lr"]][::55] == pytest.approx([1e-9, 1e-9, 5e-10])


def test_a_run_stops_by_itself_after_its_reductions(run: Run) -> None:
    output, _ = run(
        "fit", *SMALL, *EVERY, *STUCK, "--model.decay", 0.25, "--model.max_decays", 2, "--trainer.max_epochs", 50
    )
    assert [value for _, value in scalars()["train/lr"]][::55] == pytest.approx([1e-9, 1e-9, 2.5e-10, 6.25e-11])
    assert "reduced 2 times by 0.25, at plateaus of val/accuracy; the next plateau ended the run" in output

    output, _ = run("fit", "--ckpt_path", "last")
    assert "0 updates" in output
    run("fit", "--ckpt_path", "last", "--model.max_decays", 3)
    assert [value for _, value in scalars()["train/lr"]][::55][4:] == pytest.approx([1.5625e-11])


@pytest.mark.parametrize("name", ["last", "best"])
@pytest.mark.parametrize("rule", SCHEDULES)
def test_a_broken_run_goes_on_exactly(rule: str, name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--model.schedule", rule, "--model.patience", 1, "--model.lr", 2, "--model.loss", "cross_entropy")
    options += ("--last.every_n_train_steps", 10, "--trainer.max_epochs", 4)
    run("fit", *SMALL, *options)

    log = LossLog.on_train_batch_end

    def break_off(self: LossLog, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step > 170:
            raise RuntimeError("broken off")
        log(self, trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(LossLog, "on_train_batch_end", break_off)
        with pytest.raises(SystemExit):
            run("fit", *SMALL, *options)
    assert checkpoint("last", 1)["global_step"] == 170
    assert checkpoint("best", 1)["global_step"] in (55, 110, 165)

    run("fit", "--ckpt_path", name)
    whole, resumed = (checkpoint(version=version) for version in (0, 1))
    assert_same_parameters(resumed["state_dict"], whole["state_dict"])
    assert resumed["lr_schedulers"] == whole["lr_schedulers"]
    whole, resumed = scalars(0), scalars(1)
    assert resumed["train/lr"] == whole["train/lr"]
    assert resumed["train/loss"] == whole["train/loss"]
    if name == "last":
        assert resumed == whole
    if rule == "plateau":
        assert len({value for _, value in scalars(0)["train/lr"]}) > 1


def test_another_step_size_rescales_the_rest_of_a_rule(run: Run) -> None:
    run("fit", *SMALL, *EVERY, "--model.schedule", "inverse_sqrt", "--trainer.max_epochs", 1)
    run("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2, "--model.lr", 0.2)
    expected = [0.1 * RULES["inverse_sqrt"](k) for k in range(55)] + [
        0.2 * RULES["inverse_sqrt"](k) for k in range(55, 110)
    ]
    assert [value for _, value in scalars()["train/lr"]] == pytest.approx(expected, rel=1e-6)


def test_cosine_of_a_run_made_longer_ends_at_its_new_end(run: Run) -> None:
    run("fit", *SMALL, *EVERY, "--model.schedule", "cosine", "--trainer.max_epochs", 1)
    run("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2)
    assert [value for _, value in scalars()["train/lr"]][55:] == pytest.approx(
        [0.1 * RULES["cosine"](k) for k in range(55, 110)], rel=1e-6
    )


def test_a_schedule_changes_the_step_size_of_another_optimizer_too(run: Run) -> None:
    run("fit", *SMALL, *EVERY, "--optimizer", "Adam", "--optimizer.lr", 0.01, "--model.schedule", "cosine")
    assert [value for _, value in scalars()["train/lr"]] == pytest.approx(
        [0.01 * RULES["cosine"](k) for k in range(110)], rel=1e-6
    )


@pytest.mark.parametrize("every", [25, 7, 1])
def test_a_divergent_run_ends_soon_with_one_line(
    every: int, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks, log = [], LossLog.on_train_batch_end
    monkeypatch.setattr(
        LossLog, "on_train_batch_end", lambda self, *args: blocks.append(args[2]["lr"]) or log(self, *args)
    )
    options = ("--model.lr", 1e6, "--model.schedule", "inverse_sqrt", "--trainer.log_every_n_steps", every)
    with pytest.raises(SystemExit) as end:
        run("fit", *SMALL, *options)
    assert end.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    k = int(re.search(r"not finite at update (\d+)", line)[1])
    assert k < sum(map(len, blocks)) <= k + max(every, LONGEST)
    assert f"with step size {1e6 * RULES['inverse_sqrt'](k):g}:" in line
    assert "python -m mnist_mlp find_lr --model.hidden '[20]' --data.source digits --data.batch_size 1000" in line
    assert "no checkpoint was saved" in line


def test_parameters_that_are_not_finite_are_never_saved(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """One update, whose loss is finite and whose step is not."""
    options = ("--model.lr", 3e38, "--model.loss", "squared", "--model.schedule", "cosine", "--model.hidden", "[]")
    with pytest.raises(SystemExit) as end:
        run("fit", *SMALL, *options, "--trainer.max_steps", 1, "--trainer.limit_val_batches", 0)
    assert end.value.code == 1
    assert "a parameter is not finite after update 0, with step size 3e+38" in capsys.readouterr().err
    assert not list(RUNS.rglob("*.ckpt"))


def test_the_last_good_checkpoint_survives_divergence_and_is_named(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run("fit", *SMALL, "--trainer.max_epochs", 1)
    good = checkpoint()
    with pytest.raises(SystemExit) as end:
        run("fit", "--ckpt_path", "last", "--trainer.max_epochs", 3, "--model.lr", 1e6)
    assert end.value.code == 1
    assert "last good checkpoint is lightning_logs/version_0/checkpoints/last.ckpt" in capsys.readouterr().err
    assert_same_parameters(checkpoint()["state_dict"], good["state_dict"])
    run("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2, "--model.lr", 0.1)
    assert checkpoint()["global_step"] == 110
