"""Loss and gradient of a batch, by `torch.autograd.grad`, averaged over processes."""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def squared_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of ½‖y - Φ(x)‖², the notebook's formula: 5 times its code's `nn.MSELoss` for 10 classes.

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
    """Value of f(u) = `loss_fn(net(x), y)` and its gradient in the parameters u: the notebook's `stoc_grad_`.

    The gradient is returned, not accumulated into `.grad`, so there is nothing to reset between batches.

    Args:
        net: The network Φ; every parameter of it takes part in the loss.
        loss_fn: A function of (B, classes) outputs and targets that gives a scalar.
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
def loss_and_accuracy(net: nn.Module, loss_fn: Loss, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """The objective f(u) over a whole set, and the share of it that the network classifies right.

    Args:
        net: The network Φ.
        loss_fn: A function of (B, classes) outputs and targets that gives the mean over the batch.
        batches: The set in parts, at least one: images, (B, ...) float, and one-hot labels, (B, classes) float.
    """
    loss, right, number = 0.0, 0, 0
    for x, y in batches:
        output = net(x)
        loss += loss_fn(output, y) * len(x)
        right += (output.argmax(dim=1) == y.argmax(dim=1)).sum()
        number += len(x)
    return float(loss) / number, float(right) / number


def average_over_processes(
    loss: Tensor, gradient: tuple[Tensor, ...], batch_size: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Loss and gradient of the union of all processes' batches, from those of each process's own batch.

    DistributedDataParallel averages only what `.backward()` accumulates and never sees a gradient taken by
    `torch.autograd.grad`: without this, every process trains a model of its own. Everything travels in one
    reduction. Processes count by their images, so batches of unequal size give the exact mean; an empty batch
    (whose mean is not a number) counts for nothing. Without `torch.distributed`, what came is returned.

    Args:
        loss: Mean loss of this process's batch, () float.
        gradient: Its gradient, any shapes.
        batch_size: Images in this process's batch, 0 or more.

    Returns:
        The mean loss over all images and its gradient, shaped as given, equal on every process.
    """
    if not dist.is_available() or not dist.is_initialized():
        return loss, gradient
    values = (loss, *gradient)
    total = torch.cat([value.reshape(-1) for value in values] + [loss.new_ones(1)]).mul_(batch_size)
    if batch_size == 0:
        total.zero_()
    dist.all_reduce(total)
    mean = total.div_(total[-1].clone())[:-1]
    loss, *gradient = (
        part.view_as(value)
        for part, value in zip(mean.split([value.numel() for value in values]), values, strict=True)
    )
    return loss, tuple(gradient)
