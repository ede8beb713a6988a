"""How much faster the step sizes of `find_lr` are tried together than one after the other, on MNIST's shapes.

    python tests/time_find_lr.py [cpu|cuda]

Both ways alternate; printed are the median and the range of the ratio of their times.
"""

import copy
import statistics
import sys
import time

import torch
from torch import Tensor, nn

from mnist_mlp import LOSSES, MLP, loss_and_gradient
from mnist_mlp.studies.find_lr import DECADES, try_step_sizes

REPEATS, UPDATES = 9, 50
LOSS = LOSSES["mse"]


def together(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Seconds of `find_lr`'s way."""
    started = time.perf_counter()
    try_step_sizes(net, LOSS, [(x, y)] * (UPDATES + 1), DECADES, UPDATES, guessing=0.09)
    return time.perf_counter() - started


def one_after_the_other(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Seconds of a plain loop for each step size."""
    started = time.perf_counter()
    for lr in DECADES:
        own, losses = copy.deepcopy(net), []
        for _ in range(UPDATES):
            loss, gradient = loss_and_gradient(own, LOSS, x, y)
            with torch.no_grad():
                for parameter, derivative in zip(own.parameters(), gradient, strict=True):
                    parameter.sub_(derivative, alpha=lr)
            losses.append(loss)
        torch.stack(losses).cpu()
    return time.perf_counter() - started


def main(device: str = "cpu") -> None:
    """Prints a line per network and batch size."""
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {len(DECADES)} step sizes")
    for hidden, batch_size in ((500, 200), (500, 50), (50, 200), (20, 50)):
        net = MLP((hidden,)).to(device)
        x = torch.randn(batch_size, 784, device=device)
        y = torch.eye(10, device=device)[torch.randint(10, (batch_size,), device=device)]
        together(net, x, y)
        ratios = [one_after_the_other(net, x, y) / together(net, x, y) for _ in range(REPEATS)]
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        print(f"784-{hidden}-10, batches of {batch_size}: {middle:.2f} times faster ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
