"""The work that all ways share: network, images, batches, and a clock."""

import math
import time
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mnist_mlp.batches import Batches
from mnist_mlp.data import CLASSES, normalised
from mnist_mlp.gradient import LOSSES, one_hot
from mnist_mlp.network import MLP
from mnist_mlp.runtime.onednn import use_onednn

IMAGES = 60_000  # in an epoch
LR, LOSS = 0.1, LOSSES["mse"]


@dataclass
class Setting:
    """The arguments that all ways share: epochs of a turn, device, images per update, units of each hidden layer."""

    epochs: int
    device: torch.device
    batch_size: int
    hidden: tuple[int, ...]

    def network(self, onednn: bool = False) -> MLP:
        """A new network on the device."""
        net = MLP(self.hidden).to(self.device)
        if onednn:
            use_onednn(net)
        return net

    @property
    def updates(self) -> int:
        """Updates in an epoch."""
        return math.ceil(IMAGES / self.batch_size)

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """Random images, (60000, 28, 28) uint8, and labels, (60000,) int64, on the CPU."""
        torch.manual_seed(0)
        return torch.randint(256, (IMAGES, 28, 28), dtype=torch.uint8), torch.randint(10, (IMAGES,))

    @cached_property
    def batches(self) -> Batches:
        """The same as `fit` has them, on the device."""
        images, labels = self.data
        x, y = normalised(images.to(self.device)), one_hot(labels.to(self.device), CLASSES)
        return Batches(x, y, self.batch_size, seed=0)


def clock(device: torch.device) -> float:
    """Seconds, after all work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
