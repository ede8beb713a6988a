"""Step-size rules: how γ changes from update to update, or at a plateau. torch's schedulers do the arithmetic."""

import math
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau


def inverse_sqrt(k: int, budget: float) -> float:
    """γ_k / γ_0 = 1/√(k+1), which the notebook calls optimal in theory; the budget has no effect."""
    return 1 / math.sqrt(k + 1)


def cosine(k: int, budget: float) -> float:
    """γ_k / γ_0 = (1 + cos(πk / budget)) / 2, from 1 to 0 at the end of the budget (Loshchilov and Hutter 2017).

    Written as cos²(πk / 2 budget), which keeps the digits that 1 + cos would cancel. torch's CosineAnnealingLR
    computes each step size from the one before, which gathers rounding and cannot follow a budget that changes.
    """
    return math.cos(math.pi / 2 * min(k / budget, 1)) ** 2


PER_UPDATE = {"inverse_sqrt": inverse_sqrt, "cosine": cosine}


class PerUpdate(LambdaLR):
    """γ_k = γ_0 · rule(k, budget), for a rule named in PER_UPDATE. Step it after every update.

    The optimizer's step size is γ_0. An unknown rule is a KeyError.
    """

    def __init__(self, optimizer: Optimizer, rule: str) -> None:
        self.budget = math.inf
        super().__init__(optimizer, lambda k: PER_UPDATE[rule](k, self.budget))

    def set_budget(self, budget: float) -> None:
        """Set the number of updates of the whole run, before the first or when a run is resumed with another one."""
        self.budget = budget
        for group, lr, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"] = lr * factor(self.last_epoch)  # torch counts its steps, our updates, as epochs


class Plateau(ReduceLROnPlateau):
    """The practitioners' rule of the notebook: δγ from a plateau on. Step it after every epoch.

    Args:
        optimizer: Its step size is γ_0.
        monitor: `loss`, which improves by falling, or `accuracy`, by rising. Any improvement counts.
        patience: Epochs in a row without improvement that make a plateau, 1 or more.
        decay: δ, above 0 and below 1.
        max_decays: Reductions, 0 or more; the plateau after them ends training.

    Attributes:
        monitor: Name of the metric, `val/loss` or `val/accuracy`.
        plateaus: Number of plateaus so far.
    """

    def __init__(
        self, optimizer: Optimizer, monitor: Literal["loss", "accuracy"], patience: int, decay: float, max_decays: int
    ) -> None:
        mode: Literal["min", "max"] = "min" if monitor == "loss" else "max"
        # torch counts the epochs without improvement that it lets pass, and reduces at the one after.
        super().__init__(optimizer, mode, factor=decay, patience=patience - 1, threshold=0, eps=0)
        self.monitor = f"val/{monitor}"
        self.max_decays = max_decays
        self.plateaus = 0

    def step(self, metrics: Any) -> None:  # type: ignore[override]
        """Take the metric of an epoch. The last plateau reduces γ too, for a run that is continued."""
        before = self.optimizer.param_groups[0]["lr"]
        super().step(metrics)
        self.plateaus += self.optimizer.param_groups[0]["lr"] < before

    @property
    def exhausted(self) -> bool:
        """Whether a plateau followed `max_decays` reductions."""
        return self.plateaus > self.max_decays

    def state_dict(self) -> dict[str, float]:
        """The past, in plain numbers; settings can change when a run is resumed."""
        return {name: getattr(self, name) for name in ("best", "num_bad_epochs", "last_epoch", "plateaus")}
