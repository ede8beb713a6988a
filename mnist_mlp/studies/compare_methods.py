"""The notebook's optimization methods side by side.

On MNIST with cross-entropy (seed 0, one run) 20 steps of the full gradient are far from where as many gradients per
image, taken batch by batch, are after one epoch, and 1/√(k+1) reduces γ too soon to compete. A constant γ drives the
training objective lowest, to 0.0019 (0.0085 at plateaus), but reducing γ at plateaus gives the lower validation loss,
0.0653 against 0.0694.
"""

from collections.abc import Sequence
from typing import Any

from jsonargparse.typing import PositiveInt

from mnist_mlp.arguments import StepSize
from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.command_lines import command_with_settings
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.errors import TrainingError
from mnist_mlp.studies.arguments import Precision, distinct, load_data, name_ends
from mnist_mlp.studies.report import STUDIES, Report, Row, listed, lowest, tie
from mnist_mlp.studies.training_runs import Point, plot_runs, train_run, trainer_options

METHODS = {  # name, whether a batch is the whole training set, and the schedule
    "full_gradient": (True, "constant"),
    "sgd_constant": (False, "constant"),
    "sgd_inverse_sqrt": (False, "inverse_sqrt"),
    "sgd_plateau": (False, "plateau"),
}


def compare_methods(
    model: MLPClassifier,
    data: MNISTDataModule,
    grid: Sequence[StepSize] = (0.1, 0.3, 1.0, 3.0),
    epochs: PositiveInt = 20,
    precision: Precision = "32-true",
    device: str = "auto",
    logs: str = STUDIES,
) -> dict[str, float]:
    """Compare the notebook's optimization methods for the same number of gradients per image.

    The full gradient, and stochastic gradients with a constant step size, with γ_k ∝ 1/√(k+1), and with the plateau
    rule. All start from the same weights, each with the γ_0 of the grid that gives it the lowest validation loss.

    Args:
        model: Gives the initial weights, and the settings of every run except step size and schedule.
        data: Gives the images.
        grid: First step sizes γ_0 to try with each method, as '[0.1,1]'.
        epochs: Passes through the training images.
        precision: 32-true, bf16-mixed or 64-true.
        device: Where to train: cpu, cuda, cuda:1, or auto for a GPU if there is one.
        logs: Folder of studies, in which the results get a new folder.

    Returns:
        The best γ_0 of each method for which one does not diverge.

    Raises:
        UserError: The grid is empty, or there are no validation images.
        TrainingError: Every run diverges.
    """
    lrs = distinct("--grid", grid)
    load_data(data, device)
    report = Report(logs, "compare_methods")
    report.settings(model, data, grid=lrs, epochs=epochs, precision=precision)
    best: dict[str, float] = {}
    curves: dict[str, list[Point]] = {}
    for method, (full, schedule) in METHODS.items():
        size = len(data.train_set[0]) if full else None
        # As many reductions as epochs, so that no plateau ends a run before the others.
        settings: dict[str, Any] = {"schedule": schedule, "max_decays": epochs}
        for lr in lrs:
            name = f"{method}_{lr:g}"
            points = train_run(
                model, data, report, name, epochs, batch_size=size, precision=precision, lr=lr, **settings
            )
            if points and (method not in curves or points[-1].loss < curves[method][-1].loss):
                best[method], curves[method] = lr, points
    if not curves:
        raise TrainingError("every run diverges: give smaller step sizes with --grid; find_lr finds one that works")

    print(f"\neach method after {epochs} epochs, at its best step size of the grid")
    report.table("methods", [row(method, best.get(method), curves.get(method)) for method in METHODS])
    name_ends(lrs, best)
    winner = min(curves, key=lambda method: curves[method][-1].loss)
    ahead = lowest({method: points[-1].loss for method, points in curves.items()})
    title = f"{listed(ahead)} {'tie' if len(ahead) > 1 else 'is ahead'} after {epochs} epoch{'s' * (epochs > 1)}"
    with report.figure("methods", title, panels=3) as panels:
        named = {f"{method}, γ₀ = {best[method]:g}": points for method, points in curves.items()}
        plot_runs(panels, named, [("epochs", y) for y in ("objective", "loss", "accuracy")], model.hparams.loss)
    full, schedule = METHODS[winner]
    changes: dict[str, Any] = {"lr": best[winner], "schedule": schedule}
    if full:
        changes["batch_size"] = len(data.train_set[0])
    if schedule == "plateau":
        changes["max_decays"] = epochs
    print(f"\nlowest validation loss at the end: {winner}{tie(ahead)}")
    command = command_with_settings("fit", model, data, **changes)
    report.close({"next": f"{command} {trainer_options(epochs, precision)}"})
    return best


def row(method: str, lr: float | None, points: list[Point] | None) -> Row:
    """A line of the table: a method at its best step size, or without one if all diverge."""
    last = points[-1] if points else None
    return {
        "method": method,
        "gamma_0": lr if last else "diverges",
        "updates": last and last.updates,
        "f(u)": last and last.objective,
        "val/loss": last and last.loss,
        "val/accuracy": last and last.accuracy,
    }
