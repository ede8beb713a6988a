"""Exercise 1 of the notebook: the largest step size that works while ten times as large a one diverges."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from matplotlib import colormaps
from matplotlib.axes import Axes
from torch import Tensor, nn
from tqdm import tqdm

from mnist_mlp.classifier import Batch, MLPClassifier, StepSize, TrainingError
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.gradient import Loss
from mnist_mlp.report import Row, begin, fit_command
from mnist_mlp.stacked import StackedSGD

DECADES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
CHECK_EVERY = 10  # updates from one look at all parameters to the next, which is a tenth of an update's work
BLOWN_UP = 2  # times the loss at the start or of guessing: batches alone do not scatter so much
Verdict = Literal["works", "diverges", "too slow"]


@dataclass
class Trial:
    """What became of one step size.

    Args:
        lr: γ.
        losses: Loss after 0, 1, ..., N updates, (N+1,) float32 on the CPU.
        verdict: Whether it works.
        diverged_at: Updates until it diverged.
    """

    lr: float
    losses: Tensor
    verdict: Verdict
    diverged_at: int | None


def guessing_loss(loss_fn: Loss) -> float:
    """The loss of giving each of the 10 classes the value or probability 1/10: ln 10 for cross-entropy."""
    return loss_fn(torch.full((1, 10), 0.1), torch.eye(10)[:1]).item()


def judge(losses: Tensor, guessing: float) -> tuple[Verdict, int | None]:
    """The verdict over one step size, and the update at which it diverged.

    It diverges if a loss is not finite, or if the loss has blown up and not come back below that of guessing. It has
    come back if the mean over the last tenth of the updates is below: single batches of a network that guesses
    scatter about the loss of guessing on both sides. One that has not blown up, but is not yet below, is too slow.

    Args:
        losses: Loss after 0, 1, ..., N updates, (N+1,) float32.
        guessing: The loss of guessing.
    """
    not_finite = losses.isfinite().logical_not().nonzero()
    if len(not_finite):
        return "diverges", int(not_finite[0])
    if losses[-max(1, len(losses) // 10) :].mean() < guessing:
        return "works", None
    blown_up = (losses > BLOWN_UP * max(losses[0].item(), guessing)).nonzero()
    return ("diverges", int(blown_up[0])) if len(blown_up) else ("too slow", None)


def try_step_sizes(
    net: nn.Module, loss_fn: Loss, batches: Iterable[Batch], lrs: Sequence[float], updates: int, guessing: float
) -> list[Trial]:
    """Trains with all step sizes at once, from the same weights on the same batches, and judges each.

    Args:
        net: The network at its initial weights, which it keeps.
        loss_fn: The loss.
        batches: At least `updates` + 1 batches; the last one only gives the last loss.
        lrs: The step sizes.
        updates: Number of updates.
        guessing: Loss of guessing, to compare with.

    Returns:
        A trial per step size, in their order.
    """
    stack = StackedSGD(net, loss_fn, lrs)
    losses, finite = [], torch.ones(len(lrs), dtype=torch.bool, device=stack.lrs[0].device)
    shown = tqdm(islice(batches, updates + 1), f"{len(lrs)} step sizes", updates + 1, disable=None, leave=False)
    for k, (x, y) in enumerate(shown):
        if k % CHECK_EVERY == 0 or k == updates:
            finite = stack.finite()
        loss = stack.step(x, y) if k < updates else stack.evaluate(x, y)[0]
        losses.append(loss.where(finite, torch.nan))  # infinite weights can kill units and leave a finite loss
    columns = torch.stack(losses, dim=1).cpu()
    return [Trial(lr, column, *judge(column, guessing)) for lr, column in zip(lrs, columns, strict=True)]


def find_lr(
    trainer: Trainer,
    model: MLPClassifier,
    datamodule: MNISTDataModule,
    updates: PositiveInt = 100,
    grid: tuple[StepSize, ...] = DECADES,
    refine: NonNegativeInt = 3,
) -> float:
    """Finds γ_0, the largest step size of a grid that works while 10 γ_0 diverges (the notebook's exercise 1).

    Args:
        trainer: Says on which device and under which directory.
        model: Its initial weights are where every step size starts, and its loss is what descends.
        datamodule: The batches, those of `fit` with the same seed.
        updates: Updates to try each step size for.
        grid: Step sizes to try, as '[0.01,0.1,1,10]'.
        refine: Further step sizes to try between the last that works and the first that diverges.

    Returns:
        γ_0.

    Raises:
        MisconfigurationException: The grid is empty.
        TrainingError: No step size of the grid works, or none diverges.
    """
    lrs = {float(lr) for lr in grid}
    if not lrs:
        raise MisconfigurationException("--grid is empty: give step sizes such as '[0.01,0.1,1,10]'")
    report = begin(trainer, datamodule, "find_lr")
    net, loss_fn = model.net.to(trainer.strategy.root_device), model.loss_fn
    guessing = guessing_loss(loss_fn)

    def trials_of(lrs: set[float]) -> list[Trial]:
        print(f"{'trying':<11} {', '.join(f'{lr:g}' for lr in sorted(lrs))}: {updates} updates each", flush=True)
        batches = datamodule.train_dataloader().epochs()
        return try_step_sizes(net, loss_fn, batches, sorted(lrs), updates, guessing)

    trials = trials_of(lrs)
    gamma_0 = max((trial.lr for trial in trials if trial.verdict == "works"), default=None)
    if gamma_0 is not None:
        ten_times = float(f"{10 * gamma_0:.12g}")
        too_large = min((lr for lr in lrs if lr > gamma_0), default=ten_times)
        further = (between(gamma_0, too_large, refine) | {ten_times}) - lrs
        trials += trials_of(further) if further else []
        trials.sort(key=lambda trial: trial.lr)

    print()
    report.table("find_lr", [row(trial) for trial in trials])
    with report.picture("find_lr", width=8) as (axes,):
        draw(axes, trials, guessing, model.hparams.loss)
    for trial in trials:
        report.curve(f"gamma={trial.lr:g}", "find_lr/loss", enumerate(trial.losses.tolist()))

    if gamma_0 is None:
        remedy = "smaller ones" if trials[0].verdict == "diverges" else "larger ones or more --updates"
        raise TrainingError(f"no step size of --grid works: give {remedy}; the curves are in {report.folder}")
    if next(trial for trial in trials if trial.lr == ten_times).verdict == "works":
        raise TrainingError(f"--grid ends at {gamma_0:g} and {ten_times:g} works too: give larger ones")
    works = [trial.lr for trial in trials if trial.verdict == "works"]
    diverges = [trial.lr for trial in trials if trial.lr > works[-1]]
    print(f"\ngamma_0 = {gamma_0:g}\nworks up to {works[-1]:g}, diverges from {diverges[0]:g} on")
    report.close(
        {
            "next": fit_command(model, datamodule, lr=gamma_0),
            "or, safer": fit_command(model, datamodule, lr=gamma_0 / 10),
        }
    )
    return gamma_0


def between(low: float, high: float, number: int) -> set[float]:
    """Step sizes that part the way from `low` to `high` into equal factors, to two digits."""
    return {float(f"{low * (high / low) ** (i / (number + 1)):.2g}") for i in range(1, number + 1)} - {low, high}


def row(trial: Trial) -> Row:
    """A line of the table: the losses after a tenth, half and all of the updates."""
    updates = len(trial.losses) - 1
    marks = sorted({max(1, updates // 10), max(1, updates // 2), updates})
    losses = {f"loss after {k}": trial.losses[k].item() for k in marks}
    return {"gamma": trial.lr, **losses, "verdict": trial.verdict, "diverged at update": trial.diverged_at}


def draw(axes: Axes, trials: list[Trial], guessing: float, loss: str) -> None:
    """The curves on logarithmic scales; dashes tell the verdict, markers the step size, also without colours.

    Losses above the picture are drawn at its upper edge.
    """
    dashes = {"works": "-", "too slow": ":", "diverges": "--"}
    shades = colormaps["viridis"].resampled(len(trials) + 1).colors  # the last one is too light
    top = 50 * max(trials[0].losses[0].item(), guessing)
    for trial, color, marker in zip(trials, shades, cycle("os^vD<>PX*h")):
        when = f" at update {trial.diverged_at}" if trial.diverged_at is not None else ""
        label = f"γ = {trial.lr:g} {trial.verdict}{when}"
        style = {"color": color, "marker": marker, "markersize": 4, "markevery": 0.06, "linewidth": 1}
        seen = trial.losses[1:].clamp(max=top)
        axes.plot(range(1, len(trial.losses)), seen, dashes[trial.verdict], label=label, **style)
    axes.axhline(guessing, color="black", linewidth=0.8, label="guessing")
    axes.set(xscale="log", yscale="log", ylim=(None, 1.5 * top))
    axes.set(xlabel="updates", ylabel=f"loss of a batch ({loss})")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
