"""Updates that a GPU repeats by itself: the first is captured in a CUDA graph, the others are its replays."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from mnist_mlp.runtime.blocks import LONGEST, Block


def capturable(block: Block, optimizer: Optimizer) -> bool:
    """Whether the updates from a block can be replayed: on a GPU, from whole batches, in one process.

    And by an optimizer whose step reads nothing on the host: of torch's, a fused SGD, and those that are made with
    `capturable=True`. The checks that `detect_anomaly` and `deterministic` add do read on the host.
    """
    batches = block.batches
    if not batches.images.is_cuda or len(block.shares[0]) < batches.whole_batch_size or dist.is_initialized():
        return False
    if torch.is_anomaly_enabled() or torch.are_deterministic_algorithms_enabled():
        return False
    groups = optimizer.param_groups
    return len(groups) == 1 and bool(groups[0].get("capturable", groups[0].get("fused")))


def constants(optimizer: Optimizer) -> dict[str, Any]:
    """What an optimizer's step goes by besides its step size: momentum and the like."""
    (group,) = optimizer.param_groups
    return {name: value for name, value in group.items() if name not in ("params", "lr")}


class CapturedUpdates:
    """A captured update and all that differs from one update to the next, which therefore lies on the device.

    To replay an update costs the host some microseconds, in place of the launches of all its kernels, and the graph
    sees only what was at its addresses: which images each update of a block takes, its step size (in float32), and how
    many updates of the block have been made, which it counts itself.

    Args:
        update: One update from a batch, (x, y), by an optimizer; returns the loss, () float. Has been called before:
            what is done only once must not be captured.
        optimizer: What steps in the update.
        block: A block of such batches.
    """

    def __init__(
        self, update: Callable[[tuple[Tensor, Tensor], Optimizer], Tensor], optimizer: Optimizer, block: Block
    ) -> None:
        self.update, self.optimizer, self.batches = update, optimizer, block.batches
        self.constants = constants(optimizer)
        device = block.batches.images.device
        self.shares = torch.zeros(LONGEST, len(block.shares[0]), dtype=torch.int64, device=device)
        self.lrs, self.losses = torch.zeros(2, LONGEST, dtype=torch.float32, device=device)
        self.k = torch.zeros(1, dtype=torch.int64, device=device)  # updates of the block so far
        self.graph = torch.cuda.CUDAGraph()
        # Kernels that are new to the process may have to be loaded, which "relaxed" allows.
        with torch.cuda.graph(self.graph, capture_error_mode="relaxed"):
            self.next_update()
        optimizer.zero_grad()  # the gradients are places in the graph's memory

    def next_update(self) -> None:
        """What is captured: update k, and k + 1."""
        (group,) = self.optimizer.param_groups
        lr, group["lr"] = group["lr"], self.lrs.index_select(0, self.k).squeeze()
        share = self.shares.index_select(0, self.k).squeeze(0)
        loss = self.update(self.batches.gather(share), self.optimizer)
        self.losses.index_copy_(0, self.k, loss.float().view(1))
        self.k += 1
        group["lr"] = lr  # a number again

    def fits(self, block: Block) -> bool:
        """Whether the updates from a block are replays of the captured one."""
        same_batches = block.batches is self.batches and len(block.shares[0]) == self.shares.shape[1]
        return same_batches and constants(self.optimizer) == self.constants

    def replay(self, block: Block, lrs: list[float]) -> Tensor:
        """Makes the updates of a block with these step sizes, without waiting for them. Returns the losses, (n,)."""
        n = len(block)
        self.shares[:n].copy_(torch.stack(block.shares))
        self.lrs[:n].copy_(torch.tensor(lrs, dtype=torch.float32), non_blocking=True)
        self.k.zero_()
        for _ in range(n):
            self.graph.replay()
        return self.losses[:n].clone()
