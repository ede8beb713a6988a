"""Exercise 2 of the notebook: the best step size of each batch size, and how fast each then descends."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice, pairwise, zip_longest

import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from matplotlib.axes import Axes
from torch import nn
from tqdm import tqdm

from mnist_mlp.classifier import MLPClassifier, StepSize
from mnist_mlp.cli.commands import with_settings
from mnist_mlp.cli.validation import check_comparable, distinct
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.datasets.digits import TRAIN_SIZE
from mnist_mlp.gradient import Loss, loss_and_accuracy, loss_and_gradient
from mnist_mlp.runtime.loss_log import TrainingError
from mnist_mlp.stacked import StackedSGD
from mnist_mlp.studies.report import STYLES, Report, Row

WINDOW = 1000  # images from one point of the curves to the next; a point is the mean loss of their batches
MARKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)  # epochs after which the table gives validation loss and accuracy


@dataclass
class Point:
    """A point of a run's curves.

    Args:
        updates: Updates so far.
        epochs: Passes through the training images so far.
        seconds: Training time so far.
        loss: Mean loss of the batches since the last point.
        validation: Loss and accuracy on the validation images, if this is one of MARKS.
    """

    updates: int
    epochs: float
    seconds: float
    loss: float
    validation: tuple[float, float] | None


def compare_batch_sizes(
    trainer: Trainer,
    model: MLPClassifier,
    datamodule: MNISTDataModule,
    batch_sizes: tuple[PositiveInt, ...] = (50, 100, 200),
    grid: tuple[StepSize, ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5),
    budget: PositiveInt = 55_000,
) -> dict[int, float]:
    """Compares batch sizes, each at its best step size (the notebook's exercise 2).

    The best step size has the lowest validation loss after `budget` images. With it each batch size trains anew for
    the trainer's `max_epochs`, in a plain loop and all in turns, so that whatever else the machine does slows all.

    Args:
        trainer: Says on which device, for how many epochs and under which directory.
        model: Its initial weights are where every run starts, and its loss is what descends.
        datamodule: The images.
        batch_sizes: Batch sizes to compare, as '[50,100,200]'.
        grid: Step sizes to try with each, as '[0.1,0.3,1]'.
        budget: Images seen before the step sizes are compared by their validation loss.

    Returns:
        The best step size of each batch size.

    Raises:
        MisconfigurationException: No batch sizes or step sizes are given, or nothing to validate on, or no epochs,
            or a batch is larger than the training set.
        DataError: As in `MNISTDataModule.prepare_data`.
        TrainingError: Every step size diverges.
    """
    sizes, lrs = distinct("--batch_sizes", batch_sizes), distinct("--grid", grid)
    check_comparable(trainer, datamodule)
    training = TRAIN_SIZE - datamodule.hparams.val_size
    if sizes[-1] > training:
        raise MisconfigurationException(f"--batch_sizes {sizes[-1]}: there are only {training} training images")
    datamodule.set_up_for(trainer)
    net, loss_fn = model.net.to(trainer.strategy.root_device), model.loss_fn
    losses: dict[int, list[float]] = {}
    best: dict[int, float] = {}
    for size in sizes:
        losses[size] = validation_losses(net, loss_fn, datamodule, size, lrs, budget)
        lowest, best[size] = min(zip(losses[size], lrs, strict=True))
        if lowest == math.inf:
            raise TrainingError(f"every step size of --grid diverges with batches of {size}: give smaller ones")
        print(f"batches of {size}: of {len(lrs)} step sizes {best[size]:g} is the best", flush=True)
    print(f"training anew with these, in turns, {trainer.max_epochs} epochs each", flush=True)
    runs = [descend(net, loss_fn, datamodule, size, best[size], trainer.max_epochs) for size in sizes]
    curves = dict(zip(sizes, in_turns(runs, trainer.max_epochs * training // max(WINDOW, sizes[0])), strict=True))

    report = Report(trainer, "compare_batch_sizes")
    report.settings(model, datamodule, epochs=trainer.max_epochs, batch_sizes=sizes, grid=lrs, budget=budget)
    print(f"\nvalidation loss after {budget:,} images")
    by_lr = [{"gamma": lr} | {f"batch size {size}": losses[size][i] for size in sizes} for i, lr in enumerate(lrs)]
    report.table("step_sizes", by_lr)
    print("\neach batch size at its best step size, in turns")
    report.table("batch_sizes", [line for size in sizes for line in rows(size, best[size], curves[size])])
    for size, points in curves.items():
        run = f"batch_size={size}"
        report.curve(run, "loss by updates", [(point.updates, point.loss) for point in points])
        report.curve(run, "loss by images", [(round(point.epochs * training), point.loss) for point in points])
        report.curve(run, "loss by milliseconds", [(round(1000 * point.seconds), point.loss) for point in points])

    with report.picture("batch_sizes", panels=3) as panels:
        draw(panels, best, curves, model.hparams.loss)

    final = {size: curves[size][-1].validation[0] for size in sizes if math.isfinite(curves[size][-1].validation[0])}
    if not final:
        raise TrainingError("every run diverges after --budget images: give smaller step sizes with --grid")
    winner = min(final, key=final.get)
    print(f"\nlowest validation loss at the end: batches of {winner}")
    for size, lr in best.items():
        if lr in (lrs[0], lrs[-1]):
            print(f"the best step size for batches of {size}, {lr:g}, is at an end of --grid: try further ones")
    report.close({"next": with_settings("fit", model, datamodule, lr=best[winner], batch_size=winner)})
    return best


def validation_losses(
    net: nn.Module, loss_fn: Loss, datamodule: MNISTDataModule, batch_size: int, lrs: list[float], budget: int
) -> list[float]:
    """Trains with all step sizes at once; gives each one's loss on the validation images, infinite if it diverged."""
    stack = StackedSGD(net, loss_fn, lrs)
    batches = datamodule.batches(batch_size)
    updates, text = math.ceil(budget / batch_size), f"batch size {batch_size}, {len(lrs)} step sizes"
    for x, y in tqdm(islice(batches.epochs(), updates), text, updates, disable=None, leave=False):
        stack.step(x, y)
    total = sum(stack.evaluate(x, y) * len(x) for x, y in datamodule.val_dataloader())
    losses = total / len(datamodule.val_set[0])
    return losses.where(losses.isfinite(), math.inf).tolist()


def descend(
    net: nn.Module, loss_fn: Loss, datamodule: MNISTDataModule, batch_size: int, lr: float, epochs: int
) -> Iterator[Point]:
    """The notebook's stochastic gradient descent from a network's weights, in a plain loop.

    The clock stands still from one point to the next, while other runs have their turns, and during validation.

    Yields:
        A point about every WINDOW images, at MARKS, and at the end.
    """
    net = copy.deepcopy(net)
    batches = datamodule.batches(batch_size)
    stream, length = batches.epochs(), len(batches)
    marks = {math.ceil(mark * length) for mark in MARKS}
    ends = range(0, epochs * length + 1, max(1, WINDOW // batch_size))
    seconds = 0.0
    for start, end in pairwise(sorted({*ends, *(mark for mark in marks if mark < epochs * length), epochs * length})):
        started = time.perf_counter()
        losses = []
        for x, y in islice(stream, end - start):
            loss, gradient = loss_and_gradient(net, loss_fn, x, y)
            with torch.no_grad():
                for parameter, derivative in zip(net.parameters(), gradient, strict=True):
                    parameter -= lr * derivative
            losses.append(loss)
        mean = torch.stack(losses).mean().item()  # waits for the device before the clock is read
        seconds += time.perf_counter() - started
        at_mark = end in marks or end == epochs * length
        validation = loss_and_accuracy(net, loss_fn, datamodule.val_dataloader()) if at_mark else None
        yield Point(end, end / length, seconds, mean, validation)


def in_turns(runs: list[Iterator[Point]], turns: int) -> list[list[Point]]:
    """Goes through several runs point by point, so that they share what else the machine does; gives their curves."""
    curves: list[list[Point]] = [[] for _ in runs]
    for points in tqdm(zip_longest(*runs), "best step sizes", turns, disable=None, leave=False):
        for curve, point in zip(curves, points, strict=True):
            if point:
                curve.append(point)
    return curves


def rows(batch_size: int, lr: float, points: list[Point]) -> list[Row]:
    """The lines of the table for one batch size: what validation gave, and when."""
    return [
        {
            "batch size": batch_size,
            "gamma": lr,
            "epochs": round(point.epochs, 2),
            "updates": point.updates,
            "val/loss": point.validation[0],
            "val/accuracy": point.validation[1],
            "seconds": point.seconds,
            "seconds an epoch": points[-1].seconds / points[-1].epochs,
        }
        for point in points
        if point.validation
    ]


def draw(panels: list[Axes], best: dict[int, float], curves: dict[int, list[Point]], loss: str) -> None:
    """The training loss against updates, against epochs and against seconds, on logarithmic scales."""
    losses = [point.loss for points in curves.values() for point in points if point.epochs > 0.05]
    top = max(filter(math.isfinite, losses), default=1)  # the first ones may be far above
    for panel, unit in zip(panels, ("updates", "epochs", "seconds"), strict=True):
        for i, ((size, points), style) in enumerate(zip(curves.items(), cycle(STYLES))):
            steps = [getattr(point, unit) for point in points]
            label = f"batch size {size}, γ = {best[size]:g}"
            panel.plot(steps, [point.loss for point in points], label=label, markevery=(i, 5), **style)
        panel.set(xscale="log", yscale="log", xlabel=unit, ylim=(None, 2 * top))
    panels[0].set(ylabel=f"training loss ({loss})")
