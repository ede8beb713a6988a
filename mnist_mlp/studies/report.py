"""Output folder of a study: tables, a figure, TensorBoard curves, settings."""

import csv
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count, cycle
from pathlib import Path
from typing import Any

import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.command_lines import known_to_commands
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.display.labelled import labelled

# Okabe and Ito's colours, which colour-blind people tell apart; dashes, markers and widths do without any.
STYLES: list[dict[str, Any]] = [
    {"color": color, "linestyle": dashes, "marker": marker, "linewidth": width, "markerfacecolor": "none"}
    for color, dashes, marker, width in zip(
        ("#0072b2", "#d55e00", "#009e73", "#000000"), ("-", "--", "-.", ":"), "os^D", (3.5, 2.5, 1.8, 1.2), strict=True
    )
]
LONGEST_LABEL = 12  # characters at the end of a curve; with longer names there is a legend
TIE = 0.01  # of the lowest loss: another seed changes it by more
STUDIES = "lightning_studies"  # not among the runs: TensorBoard would list each curve as one more
Row = dict[str, Any]
"""A line of a table: column name and value, None for nothing."""


def new_folder(logs: Path, name: str) -> Path:
    """Make the next of the folders NAME_0, NAME_1, ... in `logs`; no other process gets the same."""
    logs.mkdir(parents=True, exist_ok=True)
    numbers = [folder.name.removeprefix(f"{name}_") for folder in logs.glob(f"{name}_*")]
    start = max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)
    for folder in (logs / f"{name}_{number}" for number in count(start)):
        with suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


class Report:
    """The results of one study, in a new folder NAME_0, NAME_1, ... in `logs`; an OSError if it cannot be made.

    Until the report is closed, a file in the folder says that it is unfinished.
    """

    def __init__(self, logs: str | Path, name: str) -> None:
        self.folder = new_folder(Path(logs), name)
        self.unfinished = self.folder / "UNFINISHED"
        self.unfinished.write_text(f"{name} is still at work, or ended before it had a result.\n")
        self.suggests = True  # commands to type next

    def settings(self, model: MLPClassifier, data: MNISTDataModule, **own: object) -> None:
        """Write all settings and the name of the data set as `settings.yaml`."""
        self.suggests = known_to_commands(model, data)
        values = {"model": dict(model.hparams), "data": dict(data.hparams), **own}
        plain = json.loads(json.dumps(values, default=list))
        (self.folder / "settings.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))

    def table(self, name: str, rows: Sequence[Row]) -> None:
        """Print a table, and write it as NAME.csv with all digits."""
        show_table(rows, self.folder / f"{name}.csv")

    def curve(self, run: str, tag: str, values: Iterable[float]) -> None:
        """Write a curve, one value for each step, into TensorBoard; runs with the same tag share a chart."""
        with SummaryWriter(str(self.folder / run)) as writer:
            for step, value in enumerate(values):
                writer.add_scalar(tag, value, step)

    @contextmanager
    def figure(self, name: str, title: str, panels: int, width: float = 12) -> Iterator[list[Axes]]:
        """Give empty panels side by side to draw into, and write them as NAME.png, `width` inches wide.

        The title says the finding. A legend, if the first panel needs one, stands below all of them.
        """
        figure = Figure(figsize=(width, 4.8), dpi=100, layout="constrained")
        axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
        for panel in axes:
            panel.grid(alpha=0.3)
        yield axes
        figure.suptitle(title, fontsize=13)
        handles, labels = axes[0].get_legend_handles_labels()
        if handles:
            place: Any = "outside lower center"
            figure.legend(handles, labels, loc=place, ncols=4)
        figure.savefig(self.folder / f"{name}.png")

    def close(self, suggestions: dict[str, str]) -> None:
        """Print the commands to type next, each with its label, and the place of every file."""
        self.unfinished.unlink()
        print()
        for label, command in suggestions.items():
            if self.suggests:
                print(labelled(label, command))
        for path in sorted([*self.folder.glob("*.csv"), *self.folder.glob("*.png")]):
            print(labelled("written", path))
        print(labelled("curves", shlex.join(["tensorboard", "--logdir", str(self.folder)])), flush=True)


def plot_curves(
    panel: Axes, curves: dict[str, tuple[list, list]], styles: Sequence[dict[str, Any]] = STYLES, **settings: Any
) -> None:
    """Draw curves, x and y by name, each in a style of its own. `settings` are those of the axes.

    Names stand at the curves' ends, or in the legend if they are long or the ends are not above one another.
    """
    direct = max(map(len, curves)) <= LONGEST_LABEL and len({x[-1] for x, _ in curves.values()}) == 1
    panel.set(**settings)
    ends = []
    for i, ((name, (x, y)), style) in enumerate(zip(curves.items(), cycle(styles), strict=False)):
        every = (i % 4, 4) if len(x) > 30 else None
        panel.plot(x, y, label=None if direct else name, markevery=every, **style)
        ends.append(((x[-1], y[-1]), name, style["color"]))
    if direct:
        label_ends(panel, ends)


def label_ends(panel: Axes, ends: Sequence[tuple[tuple[float, float], str, str]], gap: float = 0.045) -> None:
    """Write names in colours beside a panel, as high as curves end at x, y; `gap` of its height is between them."""
    panel.autoscale_view()
    heights = panel.transAxes.inverted().transform(panel.transData.transform([end[0] for end in ends]))[:, 1]
    pairs, below = sorted(zip(heights.clip(0, 1), ends, strict=True), key=lambda pair: pair[0]), -gap
    for above, (height, (_, name, color)) in zip(reversed(range(len(pairs))), pairs, strict=True):
        below = min(max(height, below + gap), 1 - above * gap)
        place = panel.transAxes
        panel.annotate(name, (1, below), (4, 0), place, "offset points", va="center", fontsize=9, color=color)


def lowest(losses: Mapping[Any, float]) -> list[Any]:
    """The keys of the lowest loss and of those that tie with it, in their order."""
    return [key for key, loss in losses.items() if loss <= min(losses.values()) * (1 + TIE)]


def tie(winners: Sequence[Any]) -> str:
    """The end of a sentence on the winner, that others tie with it, or nothing."""
    return f", a tie: {listed(winners)} are within {TIE:.0%}" if len(winners) > 1 else ""


def listed(values: Iterable[Any]) -> str:
    """Values as they stand in a sentence: `0.3, 0.5 and 1`."""
    *first, last = (f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    return f"{', '.join(first)} and {last}" if first else last


def show_table(rows: Sequence[Row], path: Path) -> None:
    """Print rows, at least one and all with the same columns, and write them to `path` as CSV with all digits."""
    cells = [list(rows[0])] + [[format_cell(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def format_cell(value: object) -> str:
    """A cell of a printed table."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
