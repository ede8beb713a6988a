"""From what size on the work itself takes the time: an epoch of `fit` beside the floor, in one picture.

    python -m mnist_mlp.growth --help

Batch size, width and depth grow one at a time, from the notebook's network and batch size. What lies above the floor
is overhead; where it no longer matters, only a faster machine helps.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from mnist_mlp.benchmark import DEVICES, EPOCHS, Setting, fit, floor, random_images

TURNS = 3
SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)  # of the scale, as far as there is something to show
PANELS = {
    "batch size": [(size, {"batch_size": size}) for size in (20, 50, 100, 200, 500, 1000, 2000)],
    "units of the hidden layer": [(units, {"hidden": (units,)}) for units in (100, 200, 500, 1000, 2000, 4000)],
    "hidden layers of 500 units": [(depth, {"hidden": depth * (500,)}) for depth in (1, 2, 3, 4, 5)],
}


def measure(setting: Setting) -> tuple[float, float, float]:
    """Seconds of an epoch of `fit` and of the floor, medians over the turns, and the median of their ratios."""
    turns = [(fit(setting)[0], floor(setting)) for _ in range(TURNS)]
    ratio = statistics.median(ours / lowest for ours, lowest in turns)
    ours, lowest = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
    return ours, lowest, ratio


def draw(results: dict[str, list[tuple[int, float, float, float]]], picture: Path) -> None:
    """Seconds of an epoch against each size, on logarithmic scales."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    (panels,) = figure.subplots(1, len(results), sharey=True, squeeze=False)
    for panel, (label, rows) in zip(panels, results.items(), strict=True):
        sizes, ours, lowest, ratios = zip(*rows, strict=True)
        panel.plot(sizes, ours, "ko-", label="fit")
        panel.plot(sizes, lowest, "ks--", markerfacecolor="none", label="floor")
        for size, seconds, ratio in zip(sizes, ours, ratios, strict=True):
            away = (0, 7 if ratio > 1 else -14)  # from the other curve
            panel.annotate(f"{ratio:.1f}", (size, seconds), away, textcoords="offset points", ha="center", size=8)
        panel.set(xlabel=label, xscale="log", yscale="log", xticks=sizes, xticklabels=sizes)
        panel.set(yticks=SECONDS, yticklabels=SECONDS)
        panel.minorticks_off()
    shown = [seconds for rows in results.values() for row in rows for seconds in row[1:3]]
    panels[0].set_ylim(0.7 * min(shown), 1.5 * max(shown))
    panels[0].set_ylabel("seconds an epoch, and ratio to the floor")
    panels[0].legend()
    figure.savefig(picture, dpi=100)


def main() -> None:
    """Measures, prints a line per size, and draws the picture."""
    parser = argparse.ArgumentParser("python -m mnist_mlp.growth", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default=DEVICES[0], choices=DEVICES, help="where to train (default: %(default)s)")
    parser.add_argument("--picture", type=Path, default=Path("growth.png"), help="PNG to write (default: growth.png)")
    words = parser.parse_args()
    usual = Setting(EPOCHS[words.device], torch.device(words.device), 200, (500,), *random_images())
    results = {}
    fit(usual)  # the first one warms up
    for label, sizes in PANELS.items():
        print(f"{label:<28}{'fit, s/epoch':>14}{'floor':>10}{'ratio':>8}", flush=True)
        results[label] = []
        for size, changed in tqdm(sizes, label, disable=None, leave=False):
            row = (size, *measure(replace(usual, **changed)))
            results[label].append(row)
            tqdm.write("{:<28}{:>14.3g}{:>10.3g}{:>8.2f}".format(*row))
    draw(results, words.picture)
    print(f"picture: {words.picture}")


if __name__ == "__main__":
    main()
