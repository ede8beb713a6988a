"""Losses, the explicit gradient, and the update u ← u − γ g."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from mnist_mlp.errors import UserError

Loss = Callable[[Tensor, Tensor], Tensor]


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Targets, (B, classes) float32, from labels, (B,) integers in 0..classes-1: the notebook's `MakeOneHot`."""
    return F.one_hot(labels.long(), classes).float()


def as_targets(y: Tensor, output: Tensor) -> Tensor:
    """Targets like the outputs, (B, classes) float, from such targets or from labels, (B,) integers.

    Other shapes are a UserError.
    """
    if y.dim() == 1:
        return one_hot(y, output.shape[1]).to(output.dtype)
    if y.shape != output.shape:
        shapes = f"targets have the shape {tuple(y.shape)}, outputs {tuple(output.shape)}"
        raise UserError(f"{shapes}: give labels, ({len(y)},), or one-hot targets of the outputs' shape")
    return y if y.is_floating_point() else y.to(output.dtype)


def mse_loss(output: Tensor, y: Tensor) -> Tensor:
    """Mean over batch and classes of (y − Φ(x))², from outputs, (B, classes), and targets or labels: `nn.MSELoss`."""
    return F.mse_loss(output, as_targets(y, output))


def squared_loss(output: Tensor, y: Tensor) -> Tensor:
    """Mean over the batch of ½‖y − Φ(x)‖², from outputs, (B, classes), and targets or labels: the notebook's formula.

    For 10 classes it is five times the `nn.MSELoss` of the notebook's code.
    """
    return (output - as_targets(y, output)).square().sum(dim=1).mean() / 2


def cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    """The notebook's logistic loss, from outputs, (B, classes), and targets, which are probabilities, or labels."""
    return F.cross_entropy(output, as_targets(y, output))


LOSSES: dict[str, Loss] = {
    "mse": mse_loss,  # the notebook's code
    "squared": squared_loss,  # the notebook's formula
    "cross_entropy": cross_entropy,
}


def trainable(net: nn.Module) -> list[nn.Parameter]:
    """The parameters u that are trained, in the order of `net.parameters()`: those that require a gradient."""
    return [u for u in net.parameters() if u.requires_grad]


def loss_and_gradient(net: nn.Module, loss_fn: Loss, x: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Loss f(u) = `loss_fn(net(x), y)` and its gradient with respect to the parameters u: the notebook's `stoc_grad_`.

    The gradient is returned, not accumulated into `.grad`, so nothing needs resetting between batches. Images x are
    (B, ...) float, one-hot labels y (B, classes) float or labels (B,) int64. Returns the loss, () float and detached,
    and one tensor for each of the `trainable` parameters, of its shape. A parameter without part in the loss is a
    RuntimeError.
    """
    loss = loss_fn(net(x), y)
    gradient = torch.autograd.grad(loss, trainable(net))
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
        descend(trainable(net), gradient, lr)
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
