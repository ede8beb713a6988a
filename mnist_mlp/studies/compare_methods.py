"""The notebook's optimization methods side by side."""

from lightning.pytorch import Trainer

from mnist_mlp.classifier import MLPClassifier, StepSize
from mnist_mlp.cli.commands import with_settings
from mnist_mlp.cli.validation import check_comparable, distinct
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.runtime.loss_log import TrainingError
from mnist_mlp.studies.report import Report, Row
from mnist_mlp.studies.training_runs import Point, budget, draw, train

METHODS = {  # name, whether a batch is the whole training set, and the schedule
    "full_gradient": (True, "constant"),
    "sgd_constant": (False, "constant"),
    "sgd_inverse_sqrt": (False, "inverse_sqrt"),
    "sgd_plateau": (False, "plateau"),
}


def compare_methods(
    trainer: Trainer,
    model: MLPClassifier,
    datamodule: MNISTDataModule,
    grid: tuple[StepSize, ...] = (0.1, 0.3, 1.0, 3.0),
) -> dict[str, float]:
    """Compares the notebook's optimization methods for the same number of gradients per image.

    The full gradient, and stochastic gradients with a constant step size, with γ_k ∝ 1/√(k+1), and with the plateau
    rule. All start from the same weights and go through the images `max_epochs` times, each with the γ_0 of the grid
    that leaves it with the lowest validation loss.

    Args:
        trainer: Says on which device, for how many epochs, in which precision and under which directory.
        model: Its weights and settings are those of every run, but for step size and schedule.
        datamodule: The images.
        grid: First step sizes γ_0 to try with each method, as '[0.1,1]'.

    Returns:
        The best γ_0 of each method for which one does not diverge.

    Raises:
        MisconfigurationException: The grid is empty, or nothing to validate on, or no epochs.
        TrainingError: Every run diverges.
    """
    lrs = distinct("--grid", grid)
    check_comparable(trainer, datamodule)
    datamodule.set_up_for(trainer)
    report = Report(trainer, "compare_methods")
    report.settings(model, datamodule, epochs=trainer.max_epochs, precision=trainer.precision, grid=lrs)
    best: dict[str, float] = {}
    curves: dict[str, list[Point]] = {}
    for method, (full, schedule) in METHODS.items():
        size = len(datamodule.train_set[0]) if full else datamodule.hparams.batch_size
        # The budget is the same for all, however many plateaus there are.
        settings = {"schedule": schedule, "max_decays": trainer.max_epochs}
        for lr in lrs:
            points = train(trainer, model, datamodule, report, f"{method}_{lr:g}", size, lr=lr, **settings)
            if points and (method not in curves or points[-1].loss < curves[method][-1].loss):
                best[method], curves[method] = lr, points
    if not curves:
        raise TrainingError("every run diverges: give smaller step sizes with --grid; find_lr finds one that works")

    print(f"\neach method after {trainer.max_epochs} epochs, at its best step size of the grid")
    report.table("methods", [method_row(method, best.get(method), curves.get(method)) for method in METHODS])
    for method, lr in best.items():
        if lr in (lrs[0], lrs[-1]):
            print(f"the best step size for {method}, {lr:g}, is at an end of --grid: try further ones")
    with report.picture("methods", panels=3) as panels:
        draw(panels, {f"{method}, γ₀ = {best[method]:g}": each for method, each in curves.items()}, model.hparams.loss)
    winner = min(curves, key=lambda method: curves[method][-1].loss)
    full, schedule = METHODS[winner]
    changes = {"batch_size": len(datamodule.train_set[0])} if full else {}
    if schedule == "plateau":
        changes["max_decays"] = trainer.max_epochs
    words = with_settings("fit", model, datamodule, lr=best[winner], schedule=schedule, **changes)
    print(f"\nlowest validation loss at the end: {winner}")
    report.close({"next": f"{words} {budget(trainer)}"})
    return best


def method_row(method: str, lr: float | None, points: list[Point] | None) -> Row:
    """A line of the table, of a method at its best step size, or without one if all diverge."""
    last = points[-1] if points else None
    return {
        "method": method,
        "gamma_0": lr if last else "diverges",
        "updates": last and last.updates,
        "f(u)": last and last.objective,
        "val/loss": last and last.loss,
        "val/accuracy": last and last.accuracy,
    }
