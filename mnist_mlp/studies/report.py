"""What the searches and comparisons leave behind: a folder with tables, a picture and TensorBoard's curves."""

import csv
import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.runtime.checkpoints import LOGS

# Told apart without colours, by dashes, markers and darkness, and where they cover each other, by thickness.
STYLES = [
    {"color": color, "linestyle": dashes, "marker": marker, "linewidth": width, "markerfacecolor": "none"}
    for color, dashes, marker, width in zip(
        ("#440154", "#31688e", "#35b779", "#e07b00"), ("-", "--", "-.", ":"), "os^D", (3.5, 2.5, 1.8, 1.2), strict=True
    )
]

Row = dict[str, Any]
"""A line of a table: column name and value, None for nothing."""


class Report:
    """A new folder NAME_0, NAME_1, ... among the runs under `lightning_logs`.

    Args:
        trainer: Its `default_root_dir` is where `lightning_logs` lies.
        name: Of the command.

    Raises:
        OSError: The folder cannot be made.
    """

    def __init__(self, trainer: Trainer, name: str) -> None:
        logs = logs_folder(trainer)
        for number in count():
            self.folder = logs / f"{name}_{number}"
            try:
                self.folder.mkdir()
                return
            except FileExistsError:
                continue

    def table(self, name: str, rows: Sequence[Row]) -> None:
        """Prints a table, and writes it as NAME.csv with all digits."""
        show_table(rows, self.folder / f"{name}.csv")

    def curve(self, run: str, tag: str, points: Iterable[tuple[int, float]]) -> None:
        """Writes a curve into TensorBoard.

        Args:
            run: Folder of the curve in the report's own: what TensorBoard lists as a run.
            tag: Name of the chart; curves of several runs with the same tag share it.
            points: Step and value of each point.
        """
        with SummaryWriter(str(self.folder / run)) as writer:
            for step, value in points:
                writer.add_scalar(tag, value, step)

    def settings(self, model: MLPClassifier, datamodule: MNISTDataModule, **own: object) -> None:
        """Writes all settings and the name of the data set as `settings.yaml`."""
        values = {"model": dict(model.hparams), "data": dict(datamodule.hparams), **own}
        plain = json.loads(json.dumps(values, default=list))
        for group in ("model", "data"):
            plain[group].pop("_instantiator", None)  # LightningCLI's, no setting
        (self.folder / "settings.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))

    @contextmanager
    def picture(self, name: str, panels: int = 1, width: float = 12) -> Iterator[list[Axes]]:
        """Gives empty panels, side by side, to draw into, and writes them as NAME.png, `width` inches wide.

        The legend of the first stands under them all, or at the side of a single one.
        """
        figure = Figure(figsize=(width, 4.8), dpi=100, layout="constrained")
        axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
        for each in axes:
            each.grid(alpha=0.3)
        yield axes
        place = "outside right center" if panels == 1 else "outside lower center"
        figure.legend(*axes[0].get_legend_handles_labels(), loc=place, ncols=1 if panels == 1 else 4)
        figure.savefig(self.folder / f"{name}.png")

    def close(self, following: dict[str, str]) -> None:
        """Says what to type next, each with the reason, and where everything is."""
        print()
        for reason, words in following.items():
            print(f"{reason:<11} {words}")
        for path in sorted([*self.folder.glob("*.csv"), *self.folder.glob("*.png")]):
            print(f"{'written':<11} {path}")
        print(f"{'curves':<11} {shlex.join(['tensorboard', '--logdir', str(self.folder)])}", flush=True)


def logs_folder(trainer: Trainer) -> Path:
    """The folder of runs, under `default_root_dir`, made if it does not exist.

    Raises:
        OSError: It cannot be made.
    """
    logs = Path(trainer.default_root_dir) / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    return logs.relative_to(Path.cwd()) if logs.is_relative_to(Path.cwd()) else logs


def show_table(rows: Sequence[Row], path: Path) -> None:
    """Prints a table, and writes it as CSV with all digits.

    Args:
        rows: One at least, all of the same columns.
        path: Of the CSV file.

    Raises:
        OSError: It cannot be written.
    """
    cells = [list(rows[0])] + [[text_of(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def text_of(value: object) -> str:
    """A cell of a printed table."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
