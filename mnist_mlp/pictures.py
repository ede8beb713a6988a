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
    deformed = distortion(image.expand(20, -1, -1, -1), distortion.draw(20, seed=datamodule.hparams.seed))
    pixels = torch.cat((image, deformed)).cpu() * STD + MEAN
    return make_grid(F.interpolate(pixels, scale_factor=PIXEL), nrow=7, pad_value=0.5).clamp(0, 1)


class DeformationsPicture(Callback):
    """Shows in TensorBoard, at the start of a run, how its training images are deformed."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws; a run that is resumed has the picture."""
        if trainer.global_step or not isinstance(trainer.datamodule, MNISTDataModule):
            return
        picture = deformations(trainer.datamodule)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero and picture is not None:
                logger.experiment.add_image("deformations", picture, 0)


@torch.no_grad()
def draw_errors(model: LightningModule, images: Tensor, targets: Tensor, path: Path) -> None:
    """Draws every image that a network classifies wrongly, under its label and the prediction.

    Args:
        model: The network.
        images: (N, 1, 28, 28) float32, as it takes them.
        targets: One-hot labels, (N, 10) float32.
        path: Of a new picture: png, pdf or svg.

    Raises:
        OSError: It cannot be written.
    """
    predictions = torch.cat([model(part).argmax(dim=1) for part in images.split(1000)])
    labels = targets.argmax(dim=1)
    wrong = (predictions != labels).nonzero().squeeze(1)
    # One image of all: as many as there are wrong after a few updates would take matplotlib minutes one by one.
    columns, width, height = 20, 34, 42  # a digit's cell, in its pixels: two words above it, and some space
    rows = max(1, -(-len(wrong) // columns))
    low, high = images.min(), images.max()
    cells = torch.full((rows * columns, height, width), low, device=images.device)
    cells[: len(wrong), -30:-2, 3:-3] = images[wrong, 0]
    mosaic = cells.view(rows, columns, height, width).transpose(1, 2).reshape(rows * height, columns * width)
    figure = Figure(figsize=(columns * width / 60, rows * height / 60 + 0.4))
    axes = figure.add_axes((0, 0, 1, rows * height / 60 / figure.get_figheight()))
    axes.set_axis_off()
    axes.set_title(f"{len(wrong):,} of {len(images):,} wrong: label → prediction", loc="left", fontsize=9)
    axes.imshow(mosaic.cpu(), cmap="gray_r", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    for place, (label, prediction) in enumerate(zip(labels[wrong].tolist(), predictions[wrong].tolist(), strict=True)):
        row, column = divmod(place, columns)
        axes.text((column + 0.5) * width, row * height + 10, f"{label} → {prediction}", ha="center", fontsize=7)
    figure.savefig(path, dpi=120)
