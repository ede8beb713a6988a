"""The decay factors of the plateau rule side by side, on the grid that the notebook names.

On MNIST with cross-entropy and γ = 0.2 (seed 0, one run) all three stop after 30 epochs, with validation losses of
0.0670, 0.0667 and 0.0665 for 1/2, 1/4 and 1/8: with one seed a hint and no more.
"""

from collections.abc import Sequence
from itertools import pairwise

from jsonargparse.typing import OpenUnitInterval, PositiveInt

from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.command_lines import command_with_settings
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.errors import TrainingError
from mnist_mlp.studies.arguments import Precision, distinct, load_data
from mnist_mlp.studies.report import STUDIES, Report, listed, lowest, tie
from mnist_mlp.studies.training_runs import Point, plot_runs, train_run, trainer_options


def compare_decays(
    model: MLPClassifier,
    data: MNISTDataModule,
    decays: Sequence[OpenUnitInterval] = (0.5, 0.25, 0.125),
    epochs: PositiveInt = 100,
    precision: Precision = "32-true",
    device: str = "auto",
    logs: str = STUDIES,
) -> float:
    """Compare factors δ of the plateau rule by the validation metric that it watches.

    Each run starts from the same weights, sees the same batches, and ends at the plateau after `max_decays`
    reductions or after `epochs`.

    Args:
        model: Gives the initial weights, and the settings of every run except schedule and decay.
        data: Gives the images.
        decays: Factors to compare, as '[0.5,0.25]'.
        epochs: Passes through the training images at most.
        precision: 32-true, bf16-mixed or 64-true.
        device: Where to train: cpu, cuda, cuda:1, or auto for a GPU if there is one.
        logs: Folder of studies, in which the results get a new folder.

    Returns:
        The best factor.

    Raises:
        UserError: No factor is given, or there are no validation images.
        TrainingError: Every run diverges.
    """
    candidates = distinct("--decays", decays)[::-1]
    load_data(data, device)
    report = Report(logs, "compare_decays")
    report.settings(model, data, decays=candidates, epochs=epochs, precision=precision)
    curves: dict[float, list[Point]] = {}
    for decay in candidates:
        name, schedule = f"decay_{decay:g}", "plateau"
        points = train_run(model, data, report, name, epochs, precision=precision, schedule=schedule, decay=decay)
        if points:
            curves[decay] = points
    if not curves:
        raise TrainingError(f"every run diverges with --model.lr {model.hparams.lr:g}: find_lr finds one that works")

    def quality(point: Point) -> float:
        return -point.loss if model.hparams.monitor == "loss" else point.accuracy

    bests = {decay: max(points, key=quality) for decay, points in curves.items()}
    print(f"\neach decay factor where its validation {model.hparams.monitor} is best")
    report.table(
        "decays",
        [
            {
                "decay": decay,
                "epochs": round(points[-1].epochs),
                "reductions": sum(now.lr < before.lr for before, now in pairwise(points)),
                "best epoch": round(bests[decay].epochs),
                "val/loss": bests[decay].loss,
                "val/accuracy": bests[decay].accuracy,
            }
            for decay, points in curves.items()
        ],
    )
    best = max(bests, key=lambda decay: quality(bests[decay]))
    monitor = model.hparams.monitor
    tied = lowest(
        {decay: -quality(point) if monitor == "loss" else 1 - quality(point) for decay, point in bests.items()}
    )
    title = f"δ = {listed(tied)} tie" if len(tied) > 1 else f"δ = {best:g} is best"
    with report.figure("decays", f"{title} by validation {monitor}", panels=3) as panels:
        named = {f"δ = {decay:g}": points for decay, points in curves.items()}
        plot_runs(panels, named, [("epochs", y) for y in ("objective", "loss", "accuracy")], model.hparams.loss)
    print(f"\nbest decay = {best:g}{tie(tied)}")
    changes = {"lr": model.hparams.lr, "schedule": "plateau", "decay": best}
    command = command_with_settings("fit", model, data, **changes)
    report.close({"next": f"{command} {trainer_options(epochs, precision)}"})
    return best
