"""Exercise 1 of the notebook: the largest step size that works while ten times as large a one does not.

On MNIST (seed 0) it is 1 with `mse` and with `cross_entropy`. With `mse` 10 gives NaN after 4 updates. Cross-entropy
gives no NaN: with γ = 10 its loss jumps to 4e8 and comes back towards ln 10, where the network guesses.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Literal

import torch
from jsonargparse.typing import PositiveInt, restricted_number_type
from matplotlib.axes import Axes
from torch import Tensor, nn
from tqdm import tqdm

from mnist_mlp.arguments import StepSize
from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.command_lines import command_with_settings
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.display.labelled import labelled
from mnist_mlp.errors import TrainingError
from mnist_mlp.evaluation import Batch
from mnist_mlp.gradient import Loss, sgd
from mnist_mlp.runtime.onednn import use_onednn
from mnist_mlp.studies.arguments import distinct, load_data
from mnist_mlp.studies.report import STUDIES, Report, Row, plot_curves

DECADES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
CHECK_EVERY = 10  # updates between two checks of all parameters, each a tenth of an update's work
BELOW = 0.99  # of the loss of guessing; knowing only the digits' frequencies gives 0.999
BLOWN_UP = 2  # times the loss at the start or of guessing, more than single batches scatter
LIMIT = 10  # times the loss of guessing, where the picture ends
Verdict = Literal["works", "diverges", "no progress"]
STYLES: dict[Verdict, dict[str, Any]] = {  # Okabe and Ito's colours, which colour-blind people tell apart
    "works": {"color": "#0072b2", "linestyle": "-", "marker": "o"},
    "no progress": {"color": "#767676", "linestyle": ":", "marker": "s"},
    "diverges": {"color": "#d55e00", "linestyle": "--", "marker": "x"},
}
Refinement = restricted_number_type("Refinement", int, [(">=", 0), ("<=", 9)])  # two digits tell so many apart


@dataclass
class Trial:
    """The outcome of one step size γ."""

    lr: float
    losses: Tensor  # after 0, 1, ..., N updates, (N+1,) float32 on the CPU
    verdict: Verdict
    diverged_at: int | None  # update; if only parameters are not finite, the next multiple of CHECK_EVERY


def guessing_loss(loss_fn: Loss, classes: int) -> float:
    """The loss of giving each class the value or probability 1 / classes: ln 10 for cross-entropy and 10 of them."""
    return loss_fn(torch.full((1, classes), 1 / classes), torch.eye(classes)[:1]).item()


def judge(losses: Tensor, guessing: float) -> tuple[Verdict, int | None]:
    """Judge one step size, and find the update at which it diverged.

    It works if the mean loss over the last tenth of the updates is clearly below the loss of guessing, about which the
    single batches of a guessing network scatter. If not, it diverges if a loss is not finite, or has blown up, at the
    first that is or has. Otherwise it makes no progress: it is slow, or settles at guessing.

    `losses` are those after 0, 1, ..., N updates, (N+1,) float32.
    """
    not_finite = losses.isfinite().logical_not().nonzero()
    if len(not_finite):
        return "diverges", int(not_finite[0])
    if last_losses(losses) < BELOW * guessing:
        return "works", None
    blown_up = (losses > BLOWN_UP * max(losses[0].item(), guessing)).nonzero()
    return ("diverges", int(blown_up[0])) if len(blown_up) else ("no progress", None)


def last_losses(losses: Tensor) -> Tensor:
    """The mean over the last tenth of losses, (N,) float, as a () float."""
    return losses[-max(1, len(losses) // 10) :].mean()


def try_step_size(
    net: nn.Module, loss_fn: Loss, batches: Iterable[Batch], lr: float, updates: int, guessing: float
) -> Trial:
    """Train a copy of a network with one step size until a parameter is not finite, and judge it.

    `batches` are at least `updates` + 1; the last only gives the last loss. `guessing` is the loss of guessing.
    """
    net, losses = copy.deepcopy(net), []
    # Infinite weights can kill units and leave a finite loss, so the parameters are checked too.
    if all_finite(net):
        for k, loss in enumerate(sgd(net, loss_fn, islice(batches, updates + 1), lr), start=1):
            losses.append(loss)
            if (k % CHECK_EVERY == 0 or k == updates) and not all_finite(net):
                break
    curve = torch.full((updates + 1,), torch.nan)
    if losses:
        curve[: len(losses)] = torch.stack(losses).cpu()
    return Trial(lr, curve, *judge(curve, guessing))


def all_finite(net: nn.Module) -> bool:
    """Whether all parameters are finite."""
    return all(bool(parameter.isfinite().all()) for parameter in net.parameters())


def find_lr(
    model: MLPClassifier,
    data: MNISTDataModule,
    updates: PositiveInt = 100,
    grid: Sequence[StepSize] = DECADES,
    refine: Refinement = 3,  # type: ignore[valid-type]
    device: str = "auto",
    logs: str = STUDIES,
) -> float:
    """Find γ_0, the largest step size of a grid that works while 10 γ_0 does not (the notebook's exercise 1).

    Every step size starts from the weights of `fit` and sees its batches. Where the grid has a gap above the last
    that works, or ends there, it is continued by factors of 10.

    Args:
        model: Gives the initial weights and the loss.
        data: Gives the batches.
        updates: Updates to try each step size for.
        grid: Step sizes to try, as '[0.01,0.1,1,10]'.
        refine: Further step sizes to try between the last that works and the first that does not, up to 9.
        device: Where to train: cpu, cuda, cuda:1, or auto for a GPU if there is one.
        logs: Folder of studies, in which the results get a new folder.

    Returns:
        γ_0.

    Raises:
        UserError: The grid is empty, or the data cannot be read.
        TrainingError: No step size of the grid works.
    """
    lrs = distinct("--grid", grid)
    net, loss_fn = model.net.to(load_data(data, device, choose=False)), model.loss_fn
    use_onednn(net)
    guessing = guessing_loss(loss_fn, data.train_set[1].shape[1])
    batches = data.batches(data.hparams.batch_size)
    trials: dict[float, Trial] = {}

    def try_out(lrs: Iterable[float]) -> None:
        new = sorted(set(lrs) - trials.keys())
        if new:
            print(labelled("trying", f"{', '.join(f'{lr:g}' for lr in new)}: {updates} updates each"), flush=True)
        for lr in tqdm(new, "step sizes", disable=None, leave=False):
            trials[lr] = try_step_size(net, loss_fn, batches.epochs(), lr, updates, guessing)

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

    report = Report(logs, "find_lr")
    report.settings(model, data, updates=updates, grid=lrs, refine=refine)
    print()
    report.table("find_lr", [row(trial) for trial in trials.values()])
    for lr, trial in trials.items():
        report.curve(f"gamma={lr:g}", "find_lr/loss", trial.losses.tolist())
    with report.figure("find_lr", finding(list(trials.values()), gamma_0), panels=2, width=8) as panels:
        draw(panels, list(trials.values()), guessing, model.hparams.loss)

    if gamma_0 is None:
        verdicts = {trial.verdict for trial in trials.values()}
        advice = "more --updates, or ones in between"
        if len(verdicts) == 1:
            advice = "smaller ones" if verdicts == {"diverges"} else "larger ones or more --updates"
        raise TrainingError(f"no step size of --grid works: give {advice}; the curves are in {report.folder}")
    print(f"\ngamma_0 = {gamma_0:g}\nworks up to {working()[-1]:g}, ", end="")
    print(f"no longer at {min(lr for lr in trials if lr > working()[-1]):g}")
    # Of γ_0 and γ_0/10, which the notebook recommends, the one with the lower loss after these updates comes first.
    candidates = [gamma_0, float(f"{gamma_0 / 10:.12g}")]
    candidates.sort(key=lambda lr: trials[lr].losses[-1].item() if lr in trials else math.inf)
    first, second = (command_with_settings("fit", model, data, lr=lr) for lr in candidates)
    report.close({"next": first, "or": second})
    return gamma_0


def between(low: float, high: float, number: int) -> set[float]:
    """`number` step sizes between two others, at equal factors, rounded to two digits."""
    return {float(f"{low * (high / low) ** (i / (number + 1)):.2g}") for i in range(1, number + 1)} - {low, high}


def row(trial: Trial) -> Row:
    """A line of the table: the losses after a tenth, half and all of the updates."""
    updates = len(trial.losses) - 1
    marks = sorted({max(1, updates // 10), max(1, updates // 2), updates})
    losses = {f"loss after {k}": trial.losses[k].item() for k in marks}
    return {"gamma": trial.lr, **losses, "verdict": trial.verdict, "at update": trial.diverged_at}


def finding(trials: list[Trial], gamma_0: float | None) -> str:
    """The title of the figure: the largest step sizes, that which works and that which does not."""
    if gamma_0 is None:
        return "No step size of the grid works"
    works = max(trial.lr for trial in trials if trial.verdict == "works")
    return f"γ₀ = {gamma_0:g}: {works:g} still works, {min(t.lr for t in trials if t.lr > works):g} does not"


def draw(panels: list[Axes], trials: list[Trial], guessing: float, loss: str) -> None:
    """Draw losses against updates and, at the end, against γ, on logarithmic scales.

    A point of a curve is a mean over an equal part of the logarithmic scale, one at the end that by which `judge`
    goes. Losses above a limit, and those that are not finite, are drawn at the limit.
    """
    limit = LIMIT * guessing
    edges = torch.logspace(0, math.log10(len(trials[0].losses)), 25).round().int().unique().tolist()
    curves = {}
    for trial in trials:
        means = [trial.losses[start:end].mean() for start, end in pairwise(edges)]
        curves[f"{trial.lr:g}"] = (edges[:-1], [shown(mean, limit) for mean in means])
    styles = [{**STYLES[trial.verdict], "marker": None} for trial in trials]
    bottom = min(min(losses) for _, losses in curves.values())
    scales = {"xscale": "log", "yscale": "log", "ylim": (0.7 * bottom, 1.8 * limit)}
    plot_curves(panels[0], curves, styles, **scales, xlabel="updates", ylabel=f"loss of a batch ({loss})")
    panels[0].set_title("on the way, for each γ", fontsize=10)
    panels[1].set_title("at the end: mean of the last tenth", fontsize=10)
    panels[1].set(**scales, xlabel="step size γ")
    for verdict, style in STYLES.items():
        judged = [trial for trial in trials if trial.verdict == verdict]
        if judged:
            lrs, ends = [trial.lr for trial in judged], [shown(last_losses(trial.losses), limit) for trial in judged]
            panels[1].plot(lrs, ends, **{**style, "linestyle": "none"})
            middle, slow = len(lrs) // 2, verdict == "no progress"  # which ends beside others, not above
            place = (lrs[-1 if slow else middle], ends[-1 if slow else middle])
            offset, side = ((8, -3), "left") if slow else ((0, -16), "center")
            panels[1].annotate(verdict, place, offset, "data", "offset points", ha=side, color=style["color"])
    for panel in panels:
        panel.axhline(guessing, color="black", linewidth=0.8)
        panel.axhline(limit, color="black", linewidth=0.8, linestyle=":")
    for text, height in (("guessing", guessing), ("this or more, or NaN", limit)):
        across = panels[1].get_yaxis_transform()
        panels[1].annotate(text, (0, height), (4, -11), across, "offset points", fontsize=9)


def shown(loss: Tensor, limit: float) -> float:
    """A loss, () float, at most at the limit of the picture, where NaN is too."""
    return loss.nan_to_num(nan=limit).clamp(max=limit).item()
