"""Pictures of digits: deformed ones in TensorBoard, and those that a network gets wrong."""

from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from mnist_mlp.data import MEAN, STD, MNISTDataModule

PIXEL = 3  # dots of a picture for each
COLUMNS, WIDTH, HEIGHT = 20, 34, 42  # of a mosaic, and its cells in pixels of a digit
DOTS = 60  # such pixels to an inch


def deformations(datamodule: MNISTDataModule) -> Tensor | None:
    """A training image, and 20 deformations of it, in 3 rows of 7.

    Args:
        datamodule: After a setup for `fit`.

    Returns:
        (3, H, W) float32 in 0..1; nothing if the images are not deformed.
    """
    distortion = datamodule.distortion()
    if distortion is None:
        return None
    image = datamodule.train_set[0][:1]
    deformed = distortion(image.expand(20, -1, -1, -1), distortion.draw(20, seed=0))
    pixels = torch.cat((image, deformed)).cpu() * STD + MEAN
    return make_grid(F.interpolate(pixels, scale_factor=PIXEL), nrow=7, pad_value=0.5).clamp(0, 1)


class DeformationsPicture(Callback):
    """Shows in TensorBoard, at the start of a run, how its training images are deformed."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws; again when a run goes on, which may be with other strengths."""
        if not isinstance(trainer.datamodule, MNISTDataModule) or not trainer.is_global_zero:
            return
        picture = deformations(trainer.datamodule)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and picture is not None:
                logger.experiment.add_image("deformations", picture, trainer.global_step)


def mosaic(images: Tensor) -> Tensor:
    """Images in rows of COLUMNS, each with space for words above it.

    One picture of all: as many as a network gets wrong at first would take matplotlib minutes one by one.

    Args:
        images: (N, 1, 28, 28) float, in -0.5..3.

    Returns:
        (rows * HEIGHT, COLUMNS * WIDTH) float.
    """
    rows = max(1, -(-len(images) // COLUMNS))
    cells = torch.full((rows * COLUMNS, HEIGHT, WIDTH), -MEAN / STD)
    cells[: len(images), 12:40, 3:31] = images[:, 0]
    return cells.view(rows, COLUMNS, HEIGHT, WIDTH).transpose(1, 2).reshape(rows * HEIGHT, COLUMNS * WIDTH)


def draw_errors(errors: list[tuple[Tensor, Tensor, Tensor]], path: Path) -> None:
    """Draws every image that a network classified wrongly, under its label and the prediction.

    Args:
        errors: In parts: images, (N, 1, 28, 28) float32 as the network takes them, their labels and predictions, (N,)
            int64, on the CPU.
        path: Of the picture: png, pdf or svg.

    Raises:
        OSError: It cannot be written.
    """
    images, labels, predictions = map(torch.cat, zip(*errors, strict=True))
    picture = mosaic(images)
    height, width = (side / DOTS for side in picture.shape)
    figure = Figure(figsize=(width, height + 0.4))
    axes = figure.add_axes((0, 0, 1, height / (height + 0.4)))
    axes.set_axis_off()
    axes.set_title(f"{len(images):,} wrong: label → prediction", loc="left", fontsize=9)
    axes.imshow(picture, cmap="gray_r", aspect="auto", interpolation="nearest")
    for place, (label, prediction) in enumerate(zip(labels.tolist(), predictions.tolist(), strict=True)):
        row, column = divmod(place, COLUMNS)
        axes.text((column + 0.5) * WIDTH, row * HEIGHT + 10, f"{label} → {prediction}", ha="center", fontsize=7)
    figure.savefig(path, dpi=120)
