"""Several step sizes tried at once: copies of one network, their weights stacked, that see the same batches."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mnist_mlp.gradient import Loss


class StackedSGD:
    """Stochastic gradient descent with K step sizes from the same initial weights on the same batches, all at once.

    One batched forward pass gives the K losses. Copy i's loss depends on the i-th slice of the stacked weights alone,
    so the gradient of the sum of the losses holds in its i-th slice the gradient of copy i: each takes the path that
    it would take alone, but for rounding. A copy that diverges does not touch the others.

    Args:
        net: The network at its initial weights, on the training device; it is left as it is.
        loss_fn: The loss of a batch, from outputs and targets (B, classes).
        lrs: The K step sizes.
    """

    def __init__(self, net: nn.Module, loss_fn: Loss, lrs: Sequence[float]) -> None:
        self.parameters = {
            name: parameter.detach().expand(len(lrs), *parameter.shape).clone().requires_grad_()
            for name, parameter in net.named_parameters()
        }
        lr = next(net.parameters()).new_tensor(lrs)
        self.lrs = [lr.view(-1, *[1] * (each.dim() - 1)) for each in self.parameters.values()]  # (K, 1, ...) each

        self.outputs = vmap(lambda parameters, x: functional_call(net, parameters, (x,)), in_dims=(0, None))
        self.losses = vmap(loss_fn, in_dims=(0, None))

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One update of every copy, u ← u - γ g.

        Args:
            x: Images, (B, ...) float32.
            y: One-hot labels, (B, classes) float32.

        Returns:
            The losses before the update, (K,) float32.
        """
        parameters = list(self.parameters.values())
        losses = self.losses(self.outputs(self.parameters, x), y)
        gradient = torch.autograd.grad(losses.sum(), parameters)
        with torch.no_grad():
            for parameter, derivative, lr in zip(parameters, gradient, self.lrs, strict=True):
                parameter.addcmul_(derivative, lr, value=-1)
        return losses.detach()

    @torch.no_grad()
    def evaluate(self, x: Tensor, y: Tensor) -> Tensor:
        """The losses on a batch, (K,) float32; shapes as in `step`."""
        return self.losses(self.outputs(self.parameters, x), y)

    @torch.no_grad()
    def finite(self) -> Tensor:
        """Whether all parameters of each copy are finite, (K,) bool."""
        return torch.stack([each.flatten(1).isfinite().all(dim=1) for each in self.parameters.values()]).all(dim=0)
