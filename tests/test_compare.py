"""Exercise 2 and whole runs side by side: what is compared, and what is printed and written."""

import csv
import re
import shlex
from typing import Any

import pytest
import torch
from conftest import SMALL, STUDIES, Error, Run, events, scalars

from mnist_mlp import MLPClassifier, MNISTDataModule
from mnist_mlp.command_lines import command_with_settings
from mnist_mlp.studies.report import Report, lowest, tie

SMALL_BUT_BATCH = tuple(word for word in SMALL if word not in ("--data.batch_size", 1000))


def table(name: str, command: str, number: int = 0) -> list[dict[str, str]]:
    """A table that a command has written."""
    with (STUDIES / f"{command}_{number}" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def suggested(output: str) -> list[str]:
    """The words of the command to type next."""
    return shlex.split(re.search(r"^next +python -m mnist_mlp (fit .*)$", output, re.M)[1])


def test_batch_sizes(run: Run) -> None:
    options = ("--batch_sizes", "[500,1000]", "--grid", "[0.01,0.3,1e9]", "--budget", 20_000)
    output, _ = run("compare_batch_sizes", *SMALL_BUT_BATCH, *options)

    losses = table("step_sizes", "compare_batch_sizes")
    assert [float(row["gamma"]) for row in losses] == [0.01, 0.3, 1e9]
    for size in ("batch size 500", "batch size 1000"):
        assert float(losses[1][size]) < float(losses[0][size]) < float(losses[2][size])

    rows = table("batch_sizes", "compare_batch_sizes")
    assert [row["batch size"] for row in rows] == ["500"] * 4 + ["1000"] * 4
    assert [float(row["epochs"]) for row in rows] == pytest.approx([0.25, 0.5, 1, 2] * 2, abs=0.05)
    assert [int(row["updates"]) for row in rows] == [30, 55, 110, 220, 14, 28, 55, 110]
    assert {float(row["gamma"]) for row in rows} == {0.3}
    for size in ("500", "1000"):
        seconds = [float(row["seconds"]) for row in rows if row["batch size"] == size]
        assert sorted(seconds) == seconds
        assert float(rows[-1]["s/epoch"]) > 0
    assert float(rows[3]["val/accuracy"]) > float(rows[0]["val/accuracy"])

    curve = events(STUDIES / "compare_batch_sizes_0" / "batch_size_500")
    assert [step for step, _ in curve["train/objective"]][-1] == 219
    assert (STUDIES / "compare_batch_sizes_0" / "batch_sizes.png").read_bytes().startswith(b"\x89PNG")

    # What is compared is what `fit` does.
    words = suggested(output)
    run(*words)
    winner = words[words.index("--data.batch_size") + 1]
    final = [row for row in rows if row["batch size"] == winner][-1]
    assert scalars()["val/loss"][-1][1] == pytest.approx(float(final["val/loss"]), rel=1e-3)


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects the titles of figures."""
    seen, figure = [], Report.figure

    def watched(self: Report, name: str, title: str, panels: int, width: float = 12) -> Any:
        seen.append(title)
        return figure(self, name, title, panels, width)

    monkeypatch.setattr(Report, "figure", watched)
    return seen


def test_a_tie_is_called_a_tie(run: Run, titles: list[str]) -> None:
    assert lowest({"a": 0.1, "b": 0.1009, "c": 0.102}) == ["a", "b"]
    assert tie(["a"]) == ""
    options = ("--model.lr", 1e-9, "--model.patience", 1, "--model.max_decays", 0, "--epochs", 2)
    output, _ = run("compare_decays", *SMALL, *options, "--decays", "[0.5,0.25]")
    assert re.search(r"best decay = \S+, a tie: 0.5 and 0.25 are within 1%", output)
    assert titles == ["δ = 0.5 and 0.25 tie by validation loss"]


def test_the_title_says_which_step_size_is_best_for_each_batch_size(run: Run, titles: list[str]) -> None:
    options = ("--batch_sizes", "[500,5000]", "--grid", "[0.01,0.3]", "--budget", 20_000, "--epochs", 1)
    run("compare_batch_sizes", *SMALL_BUT_BATCH, *options)
    assert titles == ["Best γ of each batch size: 0.3 for 500; 0.3 for 5000. After 1 epoch batches of 500 are ahead"]


def test_decays(run: Run) -> None:
    options = ("--decays", "[0.5,0.01]", "--model.lr", 1e-9, "--model.patience", 1, "--model.max_decays", 1)
    output, _ = run("compare_decays", *SMALL, *options, "--model.monitor", "accuracy", "--epochs", 6)
    rows = table("decays", "compare_decays")
    assert [float(row["decay"]) for row in rows] == [0.5, 0.01]
    assert [(int(row["epochs"]), int(row["reductions"])) for row in rows] == [(3, 1), (3, 1)]
    points = events(STUDIES / "compare_decays_0" / "decay_0.01")
    assert [dict(points["train/lr"])[step] for step in (24, 99, 124)] == pytest.approx([1e-9, 1e-9, 1e-11])
    assert (STUDIES / "compare_decays_0" / "decays.png").read_bytes().startswith(b"\x89PNG")
    assert "best decay = " in output
    run(*suggested(output))
    assert scalars()["train/lr"][-1][0] == 3 * 55 - 1


def test_winning_decay_has_the_lowest_validation_loss(run: Run) -> None:
    options = ("--model.loss", "cross_entropy", "--model.lr", 2, "--model.patience", 1, "--epochs", 4)
    output, _ = run("compare_decays", *SMALL, *options)
    rows = table("decays", "compare_decays")
    assert len(rows) == 3
    best = min(rows, key=lambda row: float(row["val/loss"]))
    assert re.search(rf"best decay = {float(best['decay']):g}\b", output)
    for row in rows:
        losses = [
            value for _, value in events(STUDIES / "compare_decays_0" / f"decay_{float(row['decay']):g}")["val/loss"]
        ]
        assert min(losses) == pytest.approx(float(row["val/loss"]), rel=1e-5)


def test_methods(run: Run) -> None:
    output, _ = run("compare_methods", *SMALL, "--grid", "[0.1,1e9]", "--epochs", 2)
    rows = table("methods", "compare_methods")
    methods = ["full_gradient", "sgd_constant", "sgd_inverse_sqrt", "sgd_plateau"]
    assert [row["method"] for row in rows] == methods
    assert [int(row["updates"]) for row in rows] == [2, 110, 110, 110]
    assert {float(row["gamma_0"]) for row in rows} == {0.1}
    curves = [events(STUDIES / "compare_methods_0" / f"{method}_0.1") for method in methods]
    starts = {curve["train/objective"][0] for curve in curves}
    assert len(starts) == 1  # from the same weights
    assert float(rows[1]["f(u)"]) == pytest.approx(curves[1]["train/objective"][-1][1])
    assert curves[0]["train/objective"][-1][1] < starts.pop()[1]
    assert float(rows[1]["f(u)"]) < float(rows[0]["f(u)"])
    assert (STUDIES / "compare_methods_0" / "methods.png").read_bytes().startswith(b"\x89PNG")
    run(*suggested(output))
    winner = min(rows, key=lambda row: float(row["val/loss"]))
    assert scalars()["val/loss"][-1][1] == pytest.approx(float(winner["val/loss"]), rel=1e-4)


def test_methods_that_diverge_are_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("compare_methods", *SMALL, "--grid", "[20]", "--model.hidden", "[]", "--epochs", 2)
    rows = {row["method"]: row["gamma_0"] for row in table("methods", "compare_methods")}
    assert rows["sgd_constant"] == rows["sgd_plateau"] == "diverges"
    with pytest.raises(SystemExit) as end:
        run("compare_methods", *SMALL, "--grid", "[1e9]", "--epochs", 1)
    assert end.value.code == 1
    assert "every run diverges" in capsys.readouterr().err


def test_batch_sizes_that_diverge_after_the_budget(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--batch_sizes", "[1000,2000]", "--grid", "[1000]", "--budget", 2000, "--epochs", 1)
    with pytest.raises(SystemExit) as end:
        run("compare_batch_sizes", *SMALL_BUT_BATCH, *options)
    assert end.value.code == 1
    assert "diverges" in capsys.readouterr().err


def test_precision_is_that_of_the_runs(run: Run) -> None:
    losses = []
    for i, precision in enumerate(("32-true", "bf16-mixed", "64-true")):
        options = ("--decays", "[0.5]", "--epochs", 1, "--precision", precision)
        output, _ = run("compare_decays", *SMALL, *options)
        (row,) = table("decays", "compare_decays", i)
        logged = events(STUDIES / f"compare_decays_{i}" / "decay_0.5")["val/loss"][0][1]
        assert float(row["val/loss"]) == pytest.approx(logged, rel=1e-5)
        losses.append(logged)
        assert (precision == "32-true") != (suggested(output)[-2:] == ["--trainer.precision", precision])
    assert losses[0] != losses[1]
    assert losses == pytest.approx([losses[0]] * 3, rel=0.05)


def test_suggested_command_keeps_every_setting_as_it_is() -> None:
    model = MLPClassifier((30, 20), loss="squared", lr=0.1234567)
    data = MNISTDataModule(data_dir="/a/My Data", source="digits", seed=3)
    words = shlex.split(command_with_settings("fit", model, data, decay=0.25))
    assert words[3:] == [
        *("fit", "--model.hidden", "[30,20]", "--model.loss", "squared", "--model.lr", "0.1234567"),
        *("--model.decay", "0.25", "--data.data_dir", "/a/My Data", "--data.source", "digits"),
        *("--seed_everything", "3"),
    ]
    assert "lr" not in command_with_settings("find_lr", model, data).replace("find_lr", "")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("find_lr", "--grid", "[]"), ("--grid", "empty")),
        (("find_lr", "--grid", "[-1]"), ("--grid", ">0")),
        (("find_lr", "--grid", "[0]"), ("--grid", ">0")),
        (("find_lr", "--updates", 0), ("--updates", ">0")),
        (("find_lr", "--refine", -1), ("--refine", ">=0")),
        (("find_lr", "--model.lr", 3), ("--model.lr", "does not use it")),
        (("find_lr", "--precision", "bf16-mixed"), ("--precision", "no such option")),
        (("find_lr", "--device", "abacus"), ("--device abacus",)),
        (("find_lr", "--device", "cuda:99"), ("--device cuda:99",)),
        (("find_lr", "--model.hidden", "[0]"), ("--model.hidden", ">0")),
        (("compare_batch_sizes", "--batch_sizes", "[]"), ("--batch_sizes", "empty")),
        (("compare_batch_sizes", "--batch_sizes", "[0]"), ("--batch_sizes", ">0")),
        (("compare_batch_sizes", "--batch_sizes", "[60000]"), ("--batch_sizes", "60000")),
        (("compare_batch_sizes", "--grid", "[]"), ("--grid", "empty")),
        (("compare_batch_sizes", "--data.batch_size", 10), ("--data.batch_size", "does not use it")),
        (("compare_batch_sizes", "--data.val_size", 0), ("--data.val_size", "validation")),
        (("compare_batch_sizes", "--budget", 0), ("--budget", ">0")),
        (("compare_batch_sizes", "--epochs", 0), ("--epochs", ">0")),
        (("compare_decays", "--decays", "[]"), ("--decays", "empty")),
        (("compare_decays", "--decays", "[0.5,1]"), ("--decays", "<1")),
        (("compare_decays", "--model.patience", 0), ("--model.patience", ">0")),
        (("compare_decays", "--model.schedule", "cosine"), ("--model.schedule", "does not use it")),
        (("compare_decays", "--epochs", -1), ("--epochs", ">0")),
        (("compare_methods", "--grid", "[]"), ("--grid", "empty")),
        (("compare_methods", "--data.val_size", 0), ("--data.val_size", "validation")),
        (("compare_methods", "--optimizer", "Adam"), ("--optimizer", "no such option")),
        (("find_lr", "--refine", 10), ("--refine", "<=9")),
        (("find_lr", "--grid", "many"), ("--grid", "a number or several, as 1,2,3")),
        (("find_lr", "--grid", "[a]"), ("--grid", "float", "a")),
        (("fit", "--model.lr", 1e39), ("--model.lr 1e+39", "float32")),
        (("compare_methods", "--precision", "16-mixed"), ("--precision", "bf16-mixed")),
        (
            ("fit", "--model.schedule", "plateau", "--trainer.check_val_every_n_epoch", "null"),
            ("plateau", "--trainer.check_val_every_n_epoch"),
        ),
        (("fit", "--model.schedule", "step"), ("--model.schedule", "'plateau'")),
        (("fit", "--model.patience", 0), ("--model.patience", ">0")),
        (("fit", "--model.decay", 1), ("--model.decay", "<1")),
        (("fit", "--model.decay", -0.5), ("--model.decay", ">0")),
        (("fit", "--model.max_decays", -1), ("--model.max_decays", ">=0")),
        (("fit", "--model.monitor", "train"), ("--model.monitor", "'accuracy'")),
        (("fit", "--model.schedule", "plateau", "--data.val_size", 0), ("plateau", "--data.val_size")),
        (("fit", "--model.schedule", "cosine", "--trainer.max_epochs", -1), ("cosine", "--trainer.max_epochs")),
        (
            ("fit", "--model.schedule", "plateau", "--trainer.check_val_every_n_epoch", 2),
            ("plateau", "--trainer.check_val_every_n_epoch"),
        ),
        (
            ("fit", "--model.schedule", "cosine", "--lr_scheduler", "StepLR", "--lr_scheduler.step_size", 1),
            ("--model.schedule cosine", "--lr_scheduler"),
        ),
    ],
)
def test_bad_input(words: tuple[object, ...], parts: tuple[str, ...], error: Error) -> None:
    line = error(*words, "--data.source", "digits")
    assert all(part in line for part in parts)


@pytest.mark.gpu
def test_commands_run_on_a_gpu(run: Run) -> None:
    assert torch.cuda.is_available()
    output, _ = run("find_lr", *SMALL, "--device", "cuda")
    assert "gamma_0 = " in output
    options = ("--device", "cuda", "--epochs", 1)
    run("compare_batch_sizes", *SMALL_BUT_BATCH, *options, "--grid", "[0.1,1]")
    run("compare_decays", *SMALL, *options)
    run("compare_methods", *SMALL, *options, "--grid", "[0.1]")
