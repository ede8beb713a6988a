"""Loss and accuracy of a network over a whole set."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from mnist_mlp.gradient import Loss

Batch = tuple[Tensor, Tensor]
"""x, (B, ...) float, and y: one-hot targets, (B, classes) float, or labels, (B,) integers."""


class Evaluation(Metric):
    """Mean loss and all answers over a whole set and all processes, however they are batched."""

    loss: Tensor
    number: Tensor
    answers: list[Tensor]

    def __init__(self, loss_fn: Loss) -> None:
        super().__init__()
        self.loss_fn = loss_fn
        self.add_state("loss", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("number", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("answers", [], dist_reduce_fx="cat")

    def update(self, output: Tensor, y: Tensor) -> None:
        """Add a batch: outputs Φ(x), (B, classes) float, and targets alike or labels, (B,) int64."""
        # Not in place: after a test, which runs in inference mode, the states are inference tensors.
        self.loss = self.loss + self.loss_fn(output, y) * len(output)
        self.number = self.number + len(output)
        self.answers.append(torch.stack((as_labels(y), output.argmax(dim=1)), dim=1))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean loss, () float, and each image's label beside the network's answer, (N, 2) int64."""
        return self.loss / self.number, dim_zero_cat(self.answers)


def as_labels(y: Tensor) -> Tensor:
    """Labels, (B,) int64, from labels or from targets, (B, classes) float."""
    return y.argmax(dim=1) if y.dim() > 1 else y.long()


def accuracy_of(answers: Tensor) -> Tensor:
    """The share of right answers, () float, of labels beside answers, (N, 2) int64."""
    return (answers[:, 0] == answers[:, 1]).float().mean()


@torch.no_grad()
def evaluate(net: nn.Module, loss_fn: Loss, batches: Iterable[Batch]) -> tuple[float, float]:
    """Mean loss and accuracy of a network over a set in batches, on its device."""
    metric = Evaluation(loss_fn).to(next(net.parameters()).device)
    for x, y in batches:
        metric.update(net(x), y)
    loss, answers = metric.compute()
    return loss.item(), accuracy_of(answers).item()
