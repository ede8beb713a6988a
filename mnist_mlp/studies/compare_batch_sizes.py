"""Exercise 2 of the notebook: the best step size of each batch size, and how fast each then descends.

On MNIST (seed 0, one run) 0.3, 0.5 and 1 are best for batches of 50, 100 and 200. All three then descend alike per
update, so that the smallest is ahead per epoch: after 2 epochs their validation accuracies are 95.98, 94.82 and
91.92 %. Its gradients are noisier, but there are four times as many.
"""

import copy
import math
from collections.abc import Sequence
from itertools import islice
from typing import Any

from jsonargparse.typing import PositiveInt
from tqdm import tqdm

from mnist_mlp.arguments import StepSize
from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.command_lines import command_with_settings
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.datasets.mnist import TRAIN_SIZE
from mnist_mlp.errors import TrainingError, UserError
from mnist_mlp.evaluation import evaluate
from mnist_mlp.gradient import sgd
from mnist_mlp.runtime.onednn import use_onednn
from mnist_mlp.studies.arguments import distinct, load_data, name_ends
from mnist_mlp.studies.report import STUDIES, Report, Row, listed, lowest, plot_curves, tie
from mnist_mlp.studies.training_runs import Point, plot_runs, train_run

POINTS_PER_EPOCH = 20
OBJECTIVE_IMAGES = 5000  # that the training loss of a point is taken over, at a tenth of the cost of all
MARKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)  # epochs that get a line in the table


def compare_batch_sizes(
    model: MLPClassifier,
    data: MNISTDataModule,
    batch_sizes: Sequence[PositiveInt] = (50, 100, 200),
    grid: Sequence[StepSize] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5),
    budget: PositiveInt = 55_000,
    epochs: PositiveInt = 2,
    device: str = "auto",
    logs: str = STUDIES,
) -> dict[int, float]:
    """Compare batch sizes, each at its best step size (the notebook's exercise 2).

    The best step size has the lowest validation loss after `budget` images. With it each batch size trains anew, as
    `fit` does. Training time is that of runs one after the other.

    Args:
        model: Gives the initial weights and the loss.
        data: Gives the images.
        batch_sizes: Batch sizes to compare, as '[50,100,200]'.
        grid: Step sizes to try with each, as '[0.1,0.3,1]'.
        budget: Images seen before the step sizes are compared by their validation loss.
        epochs: Passes through the training images at the best step size.
        device: Where to train: cpu, cuda, cuda:1, or auto for a GPU if there is one.
        logs: Folder of studies, in which the results get a new folder.

    Returns:
        The best step size of each batch size.

    Raises:
        UserError: No batch sizes or step sizes are given, there are no validation images, or a batch is larger than
            the training set.
        TrainingError: Every step size diverges.
    """
    sizes, lrs = [int(size) for size in distinct("--batch_sizes", batch_sizes)], distinct("--grid", grid)
    training = TRAIN_SIZE - data.hparams.val_size
    if sizes[-1] > training:
        raise UserError(f"--batch_sizes {sizes[-1]}: there are only {training} training images")
    model = model.to(load_data(data, device))
    losses: dict[int, list[float]] = {}
    best: dict[int, float] = {}
    for size in sizes:
        progress = tqdm(lrs, f"batch size {size}, step sizes", disable=None, leave=False)
        losses[size] = [validation_loss(model, data, size, lr, budget) for lr in progress]
        least, best[size] = min(zip(losses[size], lrs, strict=True))
        if least == math.inf:
            raise TrainingError(f"every step size of --grid diverges with batches of {size}: give smaller ones")
        print(f"batches of {size}: of {len(lrs)} step sizes {best[size]:g} is the best", flush=True)

    report = Report(logs, "compare_batch_sizes")
    report.settings(model, data, batch_sizes=sizes, grid=lrs, budget=budget, epochs=epochs)
    curves = {}
    for size in sizes:
        options: dict[str, Any] = {"points_per_epoch": POINTS_PER_EPOCH, "objective_images": OBJECTIVE_IMAGES}
        points = train_run(
            model, data, report, f"batch_size_{size}", epochs, batch_size=size, lr=best[size], **options
        )
        if points:
            curves[size] = points
    if not curves:
        raise TrainingError("every run diverges after --budget images: give smaller step sizes with --grid")
    print(f"\nvalidation loss after {budget:,} images")
    by_lr = [{"gamma": lr} | {f"batch size {size}": losses[size][i] for size in sizes} for i, lr in enumerate(lrs)]
    report.table("step_sizes", by_lr)
    print("\neach batch size at its best step size")
    report.table("batch_sizes", [line for size, points in curves.items() for line in rows(size, best[size], points)])
    winner = min(curves, key=lambda size: curves[size][-1].loss)
    ahead = lowest({size: points[-1].loss for size, points in curves.items()})
    verb = "tie" if len(ahead) > 1 else "are ahead"
    bests = {size: lowest(dict(zip(lrs, losses[size], strict=True))) for size in sizes}
    gammas = [f"{listed(tied)}{' (a tie)' * (len(tied) > 1)} for {size}" for size, tied in bests.items()]
    after = f"After {epochs} epoch{'s' * (epochs > 1)}"
    title = f"Best γ of each batch size: {'; '.join(gammas)}. {after} batches of {listed(ahead)} {verb}"
    with report.figure("batch_sizes", title, panels=4, width=16) as panels:
        by_size = {}
        for size in sizes:
            finite = [(lr, loss) for lr, loss in zip(lrs, losses[size], strict=True) if loss < math.inf]
            by_size[f"{size} images"] = ([lr for lr, _ in finite], [loss for _, loss in finite])
        ylabel = f"validation loss after {budget:,} images ({model.hparams.loss})"
        plot_curves(panels[0], by_size, xlabel="step size γ", ylabel=ylabel, yscale="log")
        named = {f"{size} images": points[1:] for size, points in curves.items()}
        plot_runs(panels[1:], named, [(x, "objective") for x in ("updates", "epochs", "seconds")], model.hparams.loss)
        for panel in panels:
            panel.set(xscale="log")

    print(f"\nlowest validation loss at the end: batches of {winner}{tie(ahead)}")
    name_ends(lrs, {f"batches of {size}": lr for size, lr in best.items()})
    command = command_with_settings("fit", model, data, lr=best[winner], batch_size=winner)
    report.close({"next": f"{command} --trainer.max_epochs {epochs}"})
    return best


def validation_loss(model: MLPClassifier, data: MNISTDataModule, batch_size: int, lr: float, budget: int) -> float:
    """Train a copy of a model on `budget` images; its loss over the validation images, infinite if it diverged."""
    net = copy.deepcopy(model.net)
    use_onednn(net)
    batches = islice(data.batches(batch_size).epochs(), math.ceil(budget / batch_size))
    for _ in sgd(net, model.loss_fn, batches, lr):
        pass
    loss, _ = evaluate(net, model.loss_fn, data.val_dataloader())
    return loss if math.isfinite(loss) else math.inf


def rows(batch_size: int, lr: float, points: list[Point]) -> list[Row]:
    """The lines of the table for one batch size, at MARKS and at the end."""
    marks = [mark for mark in MARKS if mark < points[-1].epochs] + [points[-1].epochs]
    marked = [min(points, key=lambda point: abs(point.epochs - mark)) for mark in marks]
    return [
        {
            "batch size": batch_size,
            "gamma": lr,
            "epochs": round(point.epochs, 2),
            "updates": point.updates,
            "val/loss": point.loss,
            "val/accuracy": point.accuracy,
            "seconds": point.seconds,
            "s/epoch": points[-1].seconds / points[-1].epochs,
        }
        for point in marked
    ]
