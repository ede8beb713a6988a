"""Losses, the explicit gradient, and the update u ← u − γ g."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

Loss = Callable[[Tensor, Tensor], Tensor]


def squared_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of ½‖y − Φ(x)‖², from outputs and targets (B, classes): the notebook's formula.

    For 10 classes it is five times the `nn.MSELoss` of the notebook's code.
    """
    return (output - target).square().sum(dim=1).mean() / 2


LOSSES: dict[str, Loss] = {
    "mse": F.mse_loss,  # the notebook's code: the mean over batch and classes
    "squared": squared_loss,  # the notebook's formula
    "cross_entropy": F.cross_entropy,  # the notebook's logistic loss; targets are probabilities of the classes
}


def loss_and_gradient(net: nn.Module, loss_fn: Loss, x: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Loss f(u) = `loss_fn(net(x), y)` and its gradient with respect to the parameters u: the notebook's `stoc_grad_`.

    The gradient is returned, not accumulated into `.grad`, so nothing needs resetting between batches. Images x are
    (B, ...) float, one-hot labels y (B, classes) float. Returns the loss, () float and detached, and one tensor per
    parameter, of its shape and in the order of `net.parameters()`. A parameter without part in the loss is a
    RuntimeError.
    """
    loss = loss_fn(net(x), y)
    gradient = torch.autograd.grad(loss, tuple(net.parameters()))
    return loss.detach(), gradient


@torch.no_grad()
def descend(parameters: Iterable[Tensor], gradient: Iterable[Tensor], lr: float | Tensor) -> None:
    """One update u ← u − γ g, in place: the last line of the notebook's `sgd`.

    There is one g per parameter u, of its shape. γ is a () tensor where a CUDA graph reads it anew at each replay.
    """
    for u, g in zip(parameters, gradient, strict=True):
        gamma = lr if isinstance(lr, Tensor) else u.new_full((), lr)
        u.addcmul_(g, gamma, value=-1)  # u ← u − γ g, without a copy of γ g in memory


def sgd(net: nn.Module, loss_fn: Loss, batches: Iterable[tuple[Tensor, Tensor]], lr: float) -> Iterator[Tensor]:
    """The notebook's `sgd` with step size γ: one update per batch (x, y). Yields each loss before it, () float."""
    for x, y in batches:
        loss, gradient = loss_and_gradient(net, loss_fn, x, y)
        descend(net.parameters(), gradient, lr)
        yield loss


class GradientDescent(Optimizer):
    """`descend` as a torch optimizer, whose steps Lightning counts and whose γ, `lr`, torch's schedulers change."""

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Call the closure, in which are Lightning's hooks, and update every parameter that has a gradient."""
        result = closure() if closure else None
        for group in self.param_groups:
            parameters = [u for u in group["params"] if u.grad is not None]
            descend(parameters, [u.grad for u in parameters], group["lr"])
        return result
