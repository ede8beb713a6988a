"""Exercise 1 of the notebook: the largest step size that works while ten times as large a one diverges."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from typing import Literal

import torch
from jsonargparse.typing import PositiveInt, restricted_number_type
from lightning.pytorch import Trainer
from matplotlib import colormaps
from matplotlib.axes import Axes
from torch import Tensor, nn
from tqdm import tqdm

from mnist_mlp.classifier import Batch, MLPClassifier, StepSize
from mnist_mlp.cli.commands import with_settings
from mnist_mlp.cli.validation import distinct
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.gradient import Loss
from mnist_mlp.runtime.loss_log import TrainingError
from mnist_mlp.stacked import StackedSGD
from mnist_mlp.studies.report import Report, Row

DECADES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
CHECK_EVERY = 10  # updates from one look at all parameters to the next, which is a tenth of an update's work
BLOWN_UP = 2  # times the loss at the start or of guessing: batches alone do not scatter so much
Verdict = Literal["works", "diverges", "no progress"]
Refinement = restricted_number_type("Refinement", int, [(">=", 0), ("<=", 9)])  # two digits tell so many apart


@dataclass
class Trial:
    """What became of one step size.

    Args:
        lr: γ.
        losses: Loss after 0, 1, ..., N updates, (N+1,) float32 on the CPU.
        verdict: Whether it works.
        diverged_at: Updates until it diverged; if only parameters are not finite, the next multiple of CHECK_EVERY.
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

    It works if the loss comes below that of guessing: if the mean over the last tenth of the updates does. Single
    batches of a network that guesses scatter about the loss of guessing on both sides, and one with spikes is not
    there. Otherwise it diverges if a loss is not finite, at the first that is not, or if the loss has blown up, at
    the first that has. What is left makes no progress: it is too slow, or sits where it guesses.

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
    return ("diverges", int(blown_up[0])) if len(blown_up) else ("no progress", None)


def try_step_sizes(
    net: nn.Module, loss_fn: Loss, batches: Iterable[Batch], lrs: Sequence[float], updates: int, guessing: float
) -> list[Trial]:
    """Trains with all step sizes at once, from the same weights on the same batches, and judges each.

    Args:
        net: The network at its initial weights, which it keeps.
        loss_fn: The loss.
        batches: At least `updates` + 1 batches as in `StackedSGD.step`; the last only gives the last loss.
        lrs: The step sizes.
        updates: Number of updates.
        guessing: Loss of guessing, to compare with.

    Returns:
        A trial per step size, in their order.
    """
    stack = StackedSGD(net, loss_fn, lrs)
    losses = []
    shown = tqdm(islice(batches, updates + 1), f"{len(lrs)} step sizes", updates + 1, disable=None, leave=False)
    for k, (x, y) in enumerate(shown):
        if k % CHECK_EVERY == 0 or k == updates:
            finite = stack.finite()
        loss = stack.step(x, y) if k < updates else stack.evaluate(x, y)
        losses.append(loss.where(finite, torch.nan))  # infinite weights can kill units and leave a finite loss
    columns = torch.stack(losses, dim=1).cpu()
    return [Trial(lr, column, *judge(column, guessing)) for lr, column in zip(lrs, columns, strict=True)]


def find_lr(
    trainer: Trainer,
    model: MLPClassifier,
    datamodule: MNISTDataModule,
    updates: PositiveInt = 100,
    grid: tuple[StepSize, ...] = DECADES,
    refine: Refinement = 3,
) -> float:
    """Finds γ_0, the largest step size of a grid that works while 10 γ_0 does not (the notebook's exercise 1).

    Where the grid has a gap above the last that works, or ends there, it is continued by factors of 10.

    Args:
        trainer: Says on which device and under which directory.
        model: Its initial weights are where every step size starts, and its loss is what descends.
        datamodule: The batches, those of `fit` with the same seed.
        updates: Updates to try each step size for.
        grid: Step sizes to try, as '[0.01,0.1,1,10]'.
        refine: Further step sizes to try between the last that works and the first that does not, up to 9.

    Returns:
        γ_0.

    Raises:
        MisconfigurationException: The grid is empty.
        TrainingError: No step size of the grid works.
    """
    lrs = distinct("--grid", grid)
    datamodule.set_up_for(trainer)
    net, loss_fn = model.net.to(trainer.strategy.root_device), model.loss_fn
    guessing = guessing_loss(loss_fn)
    trials: dict[float, Trial] = {}

    def try_out(lrs: Iterable[float]) -> None:
        new = sorted(set(lrs) - trials.keys())
        if new:
            print(f"{'trying':<11} {', '.join(f'{lr:g}' for lr in new)}: {updates} updates each", flush=True)
            batches = datamodule.train_dataloader().epochs()
            trials.update((trial.lr, trial) for trial in try_step_sizes(net, loss_fn, batches, new, updates, guessing))

    def working() -> list[float]:
        return sorted(lr for lr, trial in trials.items() if trial.verdict == "works")

    try_out(lrs)
    gamma_0 = None
    while working() and gamma_0 != working()[-1]:
        gamma_0 = working()[-1]
        try_out([float(f"{10 * gamma_0:.12g}")])  # 10 * 0.07 is 0.7000000000000001
    if gamma_0 is not None:
        try_out(between(gamma_0, min(lr for lr in trials if lr > gamma_0), refine))
    trials = dict(sorted(trials.items()))

    report = Report(trainer, "find_lr")
    report.settings(model, datamodule, updates=updates, grid=lrs, refine=refine)
    print()
    report.table("find_lr", [row(trial) for trial in trials.values()])
    for lr, trial in trials.items():
        report.curve(f"gamma={lr:g}", "find_lr/loss", enumerate(trial.losses.tolist()))
    with report.picture("find_lr", width=8) as (axes,):
        draw(axes, list(trials.values()), guessing, model.hparams.loss)

    if gamma_0 is None:
        verdicts = {trial.verdict for trial in trials.values()}
        remedy = {("diverges",): "smaller ones", ("no progress",): "larger ones or more --updates"}
        text = remedy.get(tuple(verdicts), "more --updates, or ones in between")
        raise TrainingError(f"no step size of --grid works: give {text}; the curves are in {report.folder}")
    print(f"\ngamma_0 = {gamma_0:g}\nworks up to {working()[-1]:g}, ", end="")
    print(f"no longer at {min(lr for lr in trials if lr > working()[-1]):g}")
    # Of γ_0 and γ_0/10, which the notebook recommends, the one that is further down after these updates goes first.
    candidates = [gamma_0, float(f"{gamma_0 / 10:.12g}")]
    candidates.sort(key=lambda lr: trials[lr].losses[-1].item() if lr in trials else math.inf)
    first, second = (with_settings("fit", model, datamodule, lr=lr) for lr in candidates)
    report.close({"next": first, "or": second})
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

    A point is the mean over equal parts of the logarithmic scale. Losses above a limit are drawn at the limit.
    """
    dashes = {"works": "-", "no progress": ":", "diverges": "--"}
    shades = colormaps["viridis"].resampled(len(trials) + 1).colors  # the last one is too light
    updates, limit = len(trials[0].losses) - 1, 100 * guessing
    edges = torch.logspace(0, math.log10(updates + 1), 25).round().int().unique().tolist()
    for trial, color, marker in zip(trials, shades, cycle("os^vD<>PX*h")):
        when = f" at update {trial.diverged_at}" if trial.diverged_at is not None else ""
        points = [trial.losses[start:end].mean().clamp(max=limit) for start, end in pairwise(edges)]
        style = {"color": color, "marker": marker, "markersize": 5, "linewidth": 1.2, "markerfacecolor": "none"}
        label = f"γ = {trial.lr:g} {trial.verdict}{when}"
        axes.plot(edges[:-1], points, dashes[trial.verdict], label=label, **style)
    axes.axhline(guessing, color="black", linewidth=0.8, label="guessing")
    axes.axhline(limit, color="black", linewidth=0.8, linestyle="--", label="limit of the picture")
    axes.set(xscale="log", yscale="log", ylim=(None, 1.5 * limit))
    axes.set(xlabel="updates", ylabel=f"loss of a batch ({loss})")
