"""Exercise 1: verdicts, candidates trained together, and what the command prints and writes."""

import csv
import math
import re
import shlex
import signal
from itertools import islice, repeat
from pathlib import Path

import pytest
import torch
import yaml
from conftest import SMALL, STUDIES, Run, events, scalars
from matplotlib.figure import Figure
from torch import Tensor

from mnist_mlp import LOSSES, MLP, MLPClassifier, MNISTDataModule, loss_and_gradient
from mnist_mlp.studies.find_lr import Trial, draw, find_lr, finding, guessing_loss, judge, try_step_size

Batch = tuple[Tensor, Tensor]


@pytest.mark.parametrize(("loss", "value"), [("cross_entropy", math.log(10)), ("mse", 0.09), ("squared", 0.45)])
def test_loss_of_guessing(loss: str, value: float) -> None:
    assert guessing_loss(LOSSES[loss], 10) == pytest.approx(value)


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ([1.2, 1.1, 1.0, 0.9, 0.8], ("works", None)),
        ([1.2, 50.0, 9.0, 0.9, 0.8], ("works", None)),  # it recovers
        ([0.9, 0.8, 0.7, 0.6, 0.5], ("works", None)),  # from a start below guessing
        ([1.2, 1.19, 1.21, 1.18, 1.17], ("no progress", None)),
        ([1.2, 1.1, 1.05, 1.02, 1.01], ("no progress", None)),
        ([1.2, 9.0, 0.9, 0.9, 9.0], ("diverges", 1)),  # spikes
        ([1.2, 1.5, 3.0, 9.0, 30.0], ("diverges", 2)),
        ([0.9, 50.0, 0.99, 1.1, 1.05], ("diverges", 1)),  # it settles at guessing
        ([1.2, 5.0, math.nan, math.nan, math.nan], ("diverges", 2)),
        ([1.2, 5.0, 90.0, math.inf, 0.1], ("diverges", 3)),
    ],
)
def test_verdicts(losses: list[float], verdict: tuple[str, int | None]) -> None:
    assert judge(torch.tensor(losses), guessing=1.0) == verdict


def test_settling_at_guessing_is_no_success_though_single_batches_dip_below() -> None:
    noise = torch.linspace(-0.1, 0.11, 50)[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
    losses = torch.cat([torch.tensor([1.0, 80.0]), 1 + noise, torch.full((6,), 1.01)])
    assert (losses < 1).any()
    assert judge(losses, guessing=1.0) == ("diverges", 1)


@pytest.fixture
def batch() -> Batch:
    """Images of 6 pixels in 10 classes: 200 points near the classes' centres."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 10
    x = 2 * torch.randn(10, 6, generator=generator)[labels] + 0.1 * torch.randn(200, 6, generator=generator)
    return x, torch.eye(10)[labels]


@pytest.mark.parametrize(("loss", "curvature"), [("squared", 1.0), ("mse", 0.2)])
def test_gradient_descent_on_a_quadratic_works_below_2_over_l_and_diverges_above(
    loss: str, curvature: float, batch: Batch
) -> None:
    x, _ = batch
    inputs = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
    largest = curvature * torch.linalg.eigvalsh(inputs.T @ inputs / len(x)).max().item()
    limit = 2 / largest
    torch.manual_seed(0)
    net, loss_fn = MLP((), in_features=6), LOSSES[loss]
    lrs = [0.5 * limit, 0.98 * limit, 1.02 * limit, 2 * limit]
    guessing = guessing_loss(loss_fn, 10)
    trials = [try_step_size(net, loss_fn, repeat(batch), lr, updates=400, guessing=guessing) for lr in lrs]
    assert [trial.verdict for trial in trials] == ["works", "works", "diverges", "diverges"]
    assert [trial.diverged_at is None for trial in trials] == [True, True, False, False]


def test_weights_that_are_not_finite_count_though_the_loss_is(batch: Batch) -> None:
    """Weights of -inf kill all units of a ReLU network, and the loss of its biases is finite."""
    x, y = batch
    net, loss_fn = MLP((5,), "relu", in_features=6), LOSSES["mse"]
    with torch.no_grad():
        net.fc1.weight.fill_(-math.inf)
    assert loss_fn(net(x.abs()), y).isfinite()
    trial = try_step_size(net, loss_fn, repeat((x.abs(), y)), 0.1, updates=5, guessing=0.09)
    assert (trial.verdict, trial.diverged_at) == ("diverges", 0)


@pytest.fixture(scope="module")
def digits() -> MNISTDataModule:
    """The stand-in's images."""
    data = MNISTDataModule(source="digits")
    data.prepare_data()
    data.setup("fit")
    return data


def test_a_candidate_leaves_the_network_as_it_is_and_takes_the_path_of_a_plain_loop(digits: MNISTDataModule) -> None:
    torch.manual_seed(0)
    net, loss_fn = MLP((100,)), LOSSES["mse"]
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    batches = list(islice(digits.train_dataloader(), 16))
    trial = try_step_size(net, loss_fn, batches, 0.1, updates=15, guessing=0.09)
    assert all(torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())
    for k, (x, y) in enumerate(batches):
        loss, gradient = loss_and_gradient(net, loss_fn, x, y)
        torch.testing.assert_close(trial.losses[k], loss)
        with torch.no_grad():
            for parameter, derivative in zip(net.parameters(), gradient, strict=True):
                parameter -= 0.1 * derivative


def test_command_prints_and_writes(run: Run) -> None:
    output, _ = run("find_lr", *SMALL, "--grid", "[0.01,0.1,1,10,100]", "--refine", 1)
    gamma_0 = float(re.search(r"^gamma_0 = (\S+)$", output, re.M)[1])
    with (STUDIES / "find_lr_0" / "find_lr.csv").open() as file:
        rows = {float(row["gamma"]): row for row in csv.DictReader(file)}
    assert rows[gamma_0]["verdict"] == "works"
    assert rows[10 * gamma_0]["verdict"] == "diverges"
    assert int(rows[10 * gamma_0]["at update"]) <= 50
    assert len(rows) == 6  # with the one between
    assert {"loss after 10", "loss after 50", "loss after 100"} < rows[gamma_0].keys()
    assert (STUDIES / "find_lr_0" / "find_lr.png").read_bytes().startswith(b"\x89PNG")

    curve = events(STUDIES / "find_lr_0" / "gamma=0.1")["find_lr/loss"]
    assert [step for step, _ in curve] == list(range(101))
    assert curve[50][1] == pytest.approx(float(rows[0.1]["loss after 50"]))
    run("find_lr", *SMALL, "--updates", 5, "--grid", "[0.1,1000]", "--model.loss", "cross_entropy")
    assert (STUDIES / "find_lr_1" / "find_lr.csv").is_file()


def test_the_picture_says_the_finding() -> None:
    curves = {0.01: [1.2] * 21, 1.0: [1.2] + [0.5] * 20, 3.2: [1.2, 30] + [0.9] * 19, 5.6: [1.2] + [math.nan] * 20}
    trials = [Trial(lr, torch.tensor(losses), *judge(torch.tensor(losses), 1.0)) for lr, losses in curves.items()]
    assert finding(trials, gamma_0=1.0) == "γ₀ = 1: 3.2 still works, 5.6 does not"
    panels = list(Figure().subplots(1, 2))
    draw(panels, trials, guessing=1.0, loss="mse")
    assert {text.get_text() for text in panels[0].texts} >= {"0.01", "1", "3.2", "5.6"}
    ends = {lr: loss for line in panels[1].lines[:3] for lr, loss in zip(*line.get_data(), strict=True)}
    assert [ends[lr] for lr in curves] == pytest.approx([1.2, 0.5, 0.9, 10.0])  # NaN at the picture's limit
    assert {"works", "diverges", "no progress"} <= {text.get_text() for text in panels[1].texts}


def test_candidates_are_runs_of_fit(run: Run) -> None:
    """The same initial weights and batches, and so the same losses."""
    run("find_lr", *SMALL, "--grid", "[0.1,1000]", "--updates", 70)
    run("fit", *SMALL, "--model.lr", 0.1, "--trainer.log_every_n_steps", 1)
    found = [value for _, value in events(STUDIES / "find_lr_0" / "gamma=0.1")["find_lr/loss"]]
    fitted = [value for _, value in scalars()["train/loss"]]
    assert found == pytest.approx(fitted[:71], rel=1e-4)


def test_suggested_command_trains_what_was_tried(run: Run) -> None:
    settings = (*SMALL, "--model.loss", "squared", "--seed_everything", 3, "--model.activation", "relu")
    output, _ = run("find_lr", *settings, "--grid", "[0.01,0.1,10]", "--updates", 60)
    words = shlex.split(re.search(r"^next +python -m mnist_mlp (fit .*)$", output, re.M)[1])
    run(*words, "--trainer.max_steps", 61, "--trainer.log_every_n_steps", 1)
    lr = words[words.index("--model.lr") + 1]
    found = [value for _, value in events(STUDIES / "find_lr_0" / f"gamma={float(lr):g}")["find_lr/loss"]]
    assert [value for _, value in scalars()["train/loss"]] == pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("grid", ["[0.03]", "[0.03,1000]"])
def test_grid_is_continued_until_ten_times_does_not_work(grid: str, run: Run) -> None:
    output, _ = run("find_lr", *SMALL, "--grid", grid, "--refine", 0)
    assert "\ngamma_0 = 0.3\n" in output
    assert re.search(r"^ +3 .* diverges", output, re.M)


@pytest.mark.parametrize(
    ("grid", "part"),
    [("[100000,1e30]", "smaller ones"), ("[1e-7,1e-6]", "larger ones"), ("[1e-6,1e6]", "ones in between")],
)
def test_grid_without_gamma_0(grid: str, part: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run("find_lr", *SMALL, "--grid", grid)
    assert end.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "--grid" in line
    assert part in line
    assert {"find_lr.csv", "find_lr.png", "settings.yaml"} <= {path.name for path in (STUDIES / "find_lr_0").iterdir()}


def test_solution_1_on_mnist(mnist_dir: Path, run: Run) -> None:
    """The notebook: 0.1 and 1 descend rapidly, 10 gives NaN, 0.01 works and is slower."""
    output, _ = run("find_lr", "--data.data_dir", mnist_dir)
    assert "\ngamma_0 = 1\n" in output
    verdicts = {
        float(line.split()[0]): line.split()[1:] for line in output.splitlines() if re.match(r" *[\d.]+ ", line)
    }
    assert verdicts[10][:4] == ["nan", "nan", "nan", "diverges"]
    assert int(verdicts[10][4]) <= 50
    assert verdicts[0.01][3] == verdicts[0.1][3] == verdicts[1][3] == "works"
    assert float(verdicts[0.01][2]) > 1.5 * float(verdicts[0.1][2])


@pytest.mark.full
def test_cross_entropy_on_mnist(mnist_dir: Path, run: Run) -> None:
    output, _ = run("find_lr", "--data.data_dir", mnist_dir, "--model.loss", "cross_entropy", "--refine", 0)
    assert "\ngamma_0 = 1\n" in output


def test_no_validation_images_are_needed(run: Run) -> None:
    run("find_lr", *SMALL, "--data.val_size", 0, "--grid", "[0.1,1000]", "--refine", 0)


def test_settings_can_come_from_a_file(run: Run) -> None:
    Path("settings.yaml").write_text("model: {hidden: [20]}\ndata: {source: digits, batch_size: 1000}\nrefine: 0\n")
    run("find_lr", "--config", "settings.yaml", "--grid", "[0.1]", "--seed_everything", 5)
    settings = yaml.safe_load((STUDIES / "find_lr_0" / "settings.yaml").read_text())
    assert settings["model"]["hidden"] == [20]
    assert settings["data"]["batch_size"] == 1000
    assert settings["data"]["seed"] == 5
    assert settings["data"]["dataset"] == "digits"
    assert settings["grid"] == [0.1]


def test_in_python(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, data = MLPClassifier((20,)), MNISTDataModule(source="digits", batch_size=1000)
    gamma_0 = find_lr(model, data, updates=50, grid=[0.01, 0.1], refine=0, device="cpu", logs=str(tmp_path))
    assert 0.1 <= gamma_0 < 10
    assert (tmp_path / "find_lr_0" / "find_lr.png").is_file()


def test_ctrl_c_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("mnist_mlp.studies.find_lr.sgd", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit) as end:
        run("find_lr", *SMALL)
    assert end.value.code == 130
    assert "stopped by SIGINT" in capsys.readouterr().err
    assert not STUDIES.exists()
