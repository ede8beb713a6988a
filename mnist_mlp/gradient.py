"""Losses, the explicit gradient, and the update u ← u − γ g."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

Loss = Callable[[Tensor, Tensor], Tensor]


def squared_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of ½‖y − Φ(x)‖², the notebook's formula: 5 times its code's `nn.MSELoss` for 10 classes.

    Args:
        output: Φ(x), (B, classes) float.
        target: y, (B, classes) float.

    Returns:
        () float.
    """
    return (output - target).square().sum(dim=1).mean() / 2


LOSSES: dict[str, Loss] = {
    "mse": F.mse_loss,  # the notebook's code: the mean over batch and classes
    "squared": squared_loss,  # the notebook's formula
    "cross_entropy": F.cross_entropy,  # the notebook's logistic loss; targets are probabilities of the classes
}


def loss_and_gradient(net: nn.Module, loss_fn: Loss, x: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Loss f(u) = `loss_fn(net(x), y)` and its gradient with respect to the parameters u: the notebook's `stoc_grad_`.

    The gradient is returned, not accumulated into `.grad`, so nothing needs resetting between batches.

    Args:
        net: The network Φ; every parameter of it takes part in the loss.
        loss_fn: Maps outputs and targets, (B, classes) float, to a scalar.
        x: Images, (B, ...) float.
        y: One-hot labels, (B, classes) float.

    Returns:
        The loss, () float and detached, and one tensor per parameter, of its shape, in the order of
        `net.parameters()`.

    Raises:
        RuntimeError: The shapes do not fit, or a parameter takes no part in the loss.
    """
    loss = loss_fn(net(x), y)
    gradient = torch.autograd.grad(loss, tuple(net.parameters()))
    return loss.detach(), gradient


@torch.no_grad()
def descend(parameters: Iterable[Tensor], gradient: Iterable[Tensor], lr: float | Tensor) -> None:
    """One update u ← u − γ g, in place: the last line of the notebook's `sgd`.

    Args:
        parameters: u, tensors of any shape.
        gradient: g, one tensor per parameter, of its shape.
        lr: γ; a () tensor where a CUDA graph reads it, so that each replay can have its own.
    """
    for u, g in zip(parameters, gradient, strict=True):
        gamma = lr if isinstance(lr, Tensor) else u.new_full((), lr)
        u.addcmul_(g, gamma, value=-1)  # u ← u − γ g, without a copy of γ g in memory


def sgd(net: nn.Module, loss_fn: Loss, batches: Iterable[tuple[Tensor, Tensor]], lr: float) -> Iterator[Tensor]:
    """Stochastic gradient descent in a plain loop, the notebook's `sgd`: one update per batch.

    Args:
        net: The network Φ, whose parameters are updated.
        loss_fn: Maps outputs and targets, (B, classes) float, to a scalar.
        batches: Images, (B, ...) float, and one-hot labels, (B, classes) float.
        lr: Step size γ.

    Yields:
        The loss of each batch before its update, () float.
    """
    for x, y in batches:
        loss, gradient = loss_and_gradient(net, loss_fn, x, y)
        descend(net.parameters(), gradient, lr)
        yield loss


class GradientDescent(Optimizer):
    """Plain gradient descent, `descend` by each parameter's `.grad`, as an optimizer.

    As such Lightning counts its steps and saves its state, and torch's schedulers change its γ.

    Args:
        params: The parameters u, as every optimizer of torch takes them.
        lr: Step size γ.
    """

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: Called first; Lightning's hooks before a step are in it.

        Returns:
            The closure's result, as torch's own optimizers return it.
        """
        result = closure() if closure else None
        for group in self.param_groups:
            parameters = [u for u in group["params"] if u.grad is not None]
            descend(parameters, [u.grad for u in parameters], group["lr"])
        return result
