"""The time that `fit` costs the host where the updates themselves are free, as on the fastest GPU."""

import statistics
from unittest import mock

import torch

from mnist_mlp.benchmark.setting import Setting
from mnist_mlp.benchmark.ways import fit
from mnist_mlp.runtime.blocks import LONGEST_ON_CUDA
from mnist_mlp.runtime.cpu_graph import CPUGraph

UPDATES = 300
DEFAULTS = Setting(epochs=4, device=torch.device("cpu"), batch_size=200, hidden=(500,))


def nothing(self: CPUGraph) -> None:
    """Replay at no cost; a `Mock` would take longer than the rest."""


def host_cost() -> dict[str, float]:
    """Seconds that `fit` with its defaults takes for 300 updates whose replay does nothing, without validation.

    On any machine they run on the CPU, whose graphs take the place of CUDA's, in blocks as long as on CUDA. The calls
    of CUDA itself, replays and copies, are not in it. The first epoch, which captures the update, does not count; of
    the others, the median does.
    """
    with (
        mock.patch.object(CPUGraph, "replay", nothing),
        mock.patch("mnist_mlp.runtime.blocks.LONGEST", LONGEST_ON_CUDA),
        mock.patch("torch.backends.cpu.get_cpu_capability", return_value="DEFAULT"),  # so that oneDNN is not used
    ):
        times = fit(DEFAULTS)
    return {"host cost per 300 updates": UPDATES * statistics.median(times.epochs[1:]) / times.updates}
