"""Drawings of digits, weights and errors, for TensorBoard and for files."""

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix
from torchvision.utils import make_grid

from mnist_mlp.data import MEAN, STD, MNISTDataModule

PIXEL = 3  # dots of a picture for each
WIDTH, HEIGHT = 34, 42  # of a mosaic's cells, in pixels of a digit
DOTS = 60  # such pixels to an inch
SHOWN = 100  # units of the first layer, and images of a batch, at most
WORST = 60  # validation errors, at most


def draw_deformations(datamodule: MNISTDataModule) -> Tensor:
    """Draw a training image and 20 deformations of it, in 3 rows of 7.

    Args:
        datamodule: After a setup for `fit`, with `distort`.

    Returns:
        (3, H, W) float32 in 0..1.
    """
    image = datamodule.train_set[0][:1]
    distortion = datamodule.distortion(image.device)
    deformed = distortion(image.expand(20, -1, -1, -1), distortion.draw(20, seed=0))
    pixels = torch.cat((image, deformed)).cpu() * STD + MEAN
    return make_grid(F.interpolate(pixels, scale_factor=PIXEL), nrow=7, pad_value=0.5).clamp(0, 1)


def draw_digits(images: Tensor) -> Tensor:
    """Draw up to 100 images of an update as the network sees them.

    Args:
        images: (B, 1, 28, 28) float.

    Returns:
        (3, H, W) float32 in 0..1.
    """
    return make_grid(images[:SHOWN].float().cpu() * STD + MEAN, nrow=10, pad_value=0.5).clamp(0, 1)


def draw_weights(weight: Tensor) -> Tensor:
    """Draw the incoming weights of up to 100 units of the first layer, each as an image.

    Args:
        weight: (units, 784) float.

    Returns:
        (3, H, W) float32 in 0..1: gray is 0, black and white are four standard deviations.
    """
    images = weight.detach()[:SHOWN].float().cpu().view(-1, 1, 28, 28)
    return make_grid(0.5 + images / (8 * images.std()), nrow=10, pad_value=1).clamp(0, 1)


def mosaic(images: Tensor, columns: int) -> Tensor:
    """Arrange images in rows, each with space for words above it.

    All in one picture: matplotlib would take minutes to draw the many errors of a new network one by one.

    Args:
        images: (N, 1, 28, 28) float, in -0.5..3.
        columns: Images in a row.

    Returns:
        (rows * HEIGHT, columns * WIDTH) float.
    """
    rows = max(1, -(-len(images) // columns))
    cells = torch.full((rows * columns, HEIGHT, WIDTH), -MEAN / STD)
    cells[: len(images), 12:40, 3:31] = images[:, 0]
    return cells.view(rows, columns, HEIGHT, WIDTH).transpose(1, 2).reshape(rows * HEIGHT, columns * WIDTH)


def draw_errors(images: Tensor, labels: Tensor, scores: Tensor, title: str, columns: int = 20) -> Figure:
    """Draw images that a network classifies wrongly, each under its label, the prediction and the latter's score.

    Args:
        images: (N, 1, 28, 28) float32 as the network takes them.
        labels: (N,) int64.
        scores: (N, 10) float, of each digit.
        title: Words above.
        columns: Images in a row.
    """
    picture = mosaic(images.cpu(), columns)
    height, width = (side / DOTS for side in picture.shape)
    figure = Figure(figsize=(width, height + 0.4))
    axes = figure.add_axes((0, 0, 1, height / (height + 0.4)))
    axes.set_axis_off()
    axes.set_title(f"{title}: label → prediction and its score", loc="left", fontsize=9)
    axes.imshow(picture.numpy(), cmap="gray_r", aspect="auto", interpolation="nearest")
    highest, predictions = scores.max(dim=1)
    for place, (label, prediction, score) in enumerate(
        zip(labels.tolist(), predictions.tolist(), highest.tolist(), strict=True)
    ):
        row, column = divmod(place, columns)
        text = f"{label} → {prediction} {score:.2f}"
        axes.text((column + 0.5) * WIDTH, row * HEIGHT + 10, text, ha="center", fontsize=6)
    return figure


def draw_worst_errors(images: Tensor, labels: Tensor, scores: Tensor) -> Figure:
    """Draw the wrongly classified images whose label has the lowest scores.

    Args:
        images: (N, 1, 28, 28) float32 as the network takes them.
        labels: (N,) int64.
        scores: (N, 10) float, of each digit.
    """
    wrong = (scores.argmax(dim=1) != labels).nonzero().flatten()
    own = scores[wrong, labels[wrong]]
    worst = wrong[own.argsort()[:WORST]]
    title = f"The {len(worst)} worst of {len(wrong):,} validation errors"
    return draw_errors(images[worst], labels[worst], scores[worst], title, columns=10)


def draw_confusion(labels: Tensor, scores: Tensor) -> Figure:
    """Draw how many images of each digit are classified as which one.

    Args:
        labels: (N,) int64.
        scores: (N, 10) float, of each digit.
    """
    confusion = MulticlassConfusionMatrix(num_classes=10, sync_on_compute=False).to(labels.device)  # one process draws
    confusion.update(scores, labels)
    figure = Figure(figsize=(6, 6), dpi=80, layout="constrained")
    confusion.plot(ax=figure.add_subplot(), cmap="Blues")
    return figure
