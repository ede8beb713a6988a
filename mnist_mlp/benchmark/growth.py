"""How `fit` and the floor grow with the size of the batches and of the network."""

import statistics
from dataclasses import replace
from functools import partial
from typing import Any

from mnist_mlp.benchmark.floor import floor
from mnist_mlp.benchmark.setting import Setting
from mnist_mlp.benchmark.turns import spread, take_turns
from mnist_mlp.benchmark.ways import fit

SIZES: dict[str, list[dict[str, Any]]] = {  # one at a time from the notebook's
    "batch size": [{"batch_size": size} for size in (20, 50, 100, 200, 500, 1000, 2000)],
    "units": [{"hidden": (units,)} for units in (100, 200, 500, 1000, 2000, 4000)],
    "layers of 500 units": [{"hidden": depth * (500,)} for depth in (1, 2, 3, 4, 5)],
}


def both(setting: Setting) -> dict[str, float]:
    """Seconds of an epoch of `fit` and of the floor."""
    return {"fit": setting.updates * fit(setting).training, "floor": floor(setting)}


def show_growth(usual: Setting, turns: int) -> None:
    """Print the seconds of an epoch of `fit` and of the floor, and their ratio, as each size grows."""
    fit(usual)  # warms up
    for label, sizes in SIZES.items():
        print(f"{label:<28}{'fit, s/epoch':>14}{'floor':>10}{'ratio':>8}", flush=True)
        for size in sizes:
            seconds = take_turns([partial(both, replace(usual, **size))], turns)
            ours, lowest = map(statistics.median, seconds.values())
            ratio, _ = spread(seconds, "fit", "floor")
            print(f"{next(iter(size.values()))!s:<28}{ours:>14.3g}{lowest:>10.3g}{ratio:>8.2f}", flush=True)
