"""Drawings of digits, weights and errors, for TensorBoard and for files."""

import math

import torch
import torch.nn.functional as F
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from mnist_mlp.data import MEAN, STD, MNISTDataModule

PIXEL = 3  # side of a deformed digit's pixel, in pixels of the picture
WIDTH, HEIGHT = 34, 50  # of a mosaic's cell, in pixels: a digit and the space for two lines above it
DOTS = 60  # pixels of a mosaic per inch
SHOWN = 100  # images of a batch, and units of the first layer, at most
WORST = 60  # validation errors, at most
MOST = 1000  # errors in a picture: more take half a minute, and nobody looks at them


def draw_deformations(datamodule: MNISTDataModule) -> Tensor:
    """Draw a training image and 20 deformations, (3, H, W) float32 in 0..1, after a setup for `fit` with `distort`."""
    images = datamodule.train_set[0]
    distortion = datamodule.distortion(images.device)
    assert distortion is not None
    image, *others = distortion.sharpened(images[torch.arange(21) % len(images)])
    deformed = distortion(image.expand(20, -1, -1, -1), distortion.draw(20, seed=0), torch.stack(others))
    pixels = torch.cat((images[:1], deformed)).cpu() * STD + MEAN
    return make_grid(F.interpolate(pixels, scale_factor=PIXEL), nrow=7, pad_value=0.5).clamp(0, 1)


def draw_digits(images: Tensor) -> Tensor:
    """Draw the first 100 images of a batch, (B, 1, 28, 28) float and normalised, as (3, H, W) float32 in 0..1."""
    return make_grid(images[:SHOWN].float().cpu() * STD + MEAN, nrow=10, pad_value=0.5).clamp(0, 1)


def draw_weights(weight: Tensor, rows: int, columns: int) -> Tensor:
    """Draw the incoming weights of the first 100 units of the first layer, each as rows of square maps.

    `weight` is (units, rows * columns * side²) float: an image is a single map, those of `Directions` are eight.
    Return (3, H, W) float32 in 0..1: 0 is gray, black and white are four standard deviations away.
    """
    weight = weight.detach()[:SHOWN].float().cpu()
    side = math.isqrt(weight.shape[1] // (rows * columns))
    maps = weight.view(-1, rows, columns, side, side).transpose(2, 3)
    images = maps.reshape(-1, 1, rows * side, columns * side)
    return make_grid(0.5 + images / (8 * images.std()), nrow=10, pad_value=1).clamp(0, 1)


def mosaic(images: Tensor, columns: int) -> Tensor:
    """Arrange normalised images, (N, 1, 28, 28) float, in rows with space for a caption above each.

    Return one picture, (rows * HEIGHT, columns * WIDTH) float: matplotlib would take minutes to draw the many errors
    of an untrained network one by one.
    """
    rows = max(1, -(-len(images) // columns))
    cells = torch.full((rows * columns, HEIGHT, WIDTH), -MEAN / STD)
    cells[: len(images), 20:48, 3:31] = images[:, 0]
    return cells.view(rows, columns, HEIGHT, WIDTH).transpose(1, 2).reshape(rows * HEIGHT, columns * WIDTH)


def draw_errors(
    images: Tensor, labels: Tensor, scores: Tensor, numbers: Tensor, title: str, columns: int = 20
) -> Figure:
    """Draw wrongly classified images, the surest first and at most MOST, `columns` in a row, each under its caption.

    It is the label, the prediction, the latter's score, and the image's number in its set. Images are
    (N, 1, 28, 28) float32 and normalised, labels and numbers (N,) int64, and scores (N, 10) float, one for each digit.
    """
    highest, predictions = scores.max(dim=1)
    order = highest.argsort(descending=True, stable=True)[:MOST]
    shown = f"the {MOST:,} surest" if len(order) < len(images) else "the surest first"
    picture = mosaic(images[order].cpu(), columns)
    height, width = (side / DOTS for side in picture.shape)
    figure = Figure(figsize=(width, height + 0.4))
    axes = figure.add_axes((0, 0, 1, height / (height + 0.4)))
    axes.set_axis_off()
    axes.set_title(f"{title}, {shown}: label → prediction and its score, #index", loc="left", fontsize=9)
    axes.imshow(picture.numpy(), cmap="gray_r", aspect="auto", interpolation="nearest")
    captions = zip(*(each[order].tolist() for each in (labels, predictions, highest, numbers)), strict=True)
    for place, (label, prediction, score, number) in enumerate(captions):
        row, column = divmod(place, columns)
        text = f"{label} → {prediction} {score:.2f}\n#{number}"
        axes.text((column + 0.5) * WIDTH, row * HEIGHT + 18, text, ha="center", fontsize=6, linespacing=1)
    return figure


def draw_worst_errors(images: Tensor, labels: Tensor, scores: Tensor) -> Figure:
    """Draw the wrongly classified images whose labels score lowest, from tensors as for `draw_errors`."""
    wrong = (scores.argmax(dim=1) != labels).nonzero().flatten()
    worst = wrong[scores[wrong, labels[wrong]].argsort()[:WORST]]
    title = f"The {len(worst)} worst of {len(wrong):,} validation errors"
    return draw_errors(images[worst], labels[worst], scores[worst], worst, title, columns=10)


def draw_confusion(labels: Tensor, scores: Tensor) -> Figure:
    """Draw the confusion matrix of labels, (N,) int64, and scores of each class, (N, classes) float.

    Colours are logarithmic: a few errors must show beside many right answers.
    """
    counts = torch.zeros(scores.shape[1], scores.shape[1], dtype=torch.int64)
    counts.index_put_((labels.cpu(), scores.argmax(dim=1).cpu()), torch.tensor(1), accumulate=True)
    figure = Figure(figsize=(6, 6), dpi=80, layout="constrained")
    axes = figure.add_subplot(
        xlabel="prediction", ylabel="label", xticks=range(len(counts)), yticks=range(len(counts))
    )
    most = max(10, int(counts.max()))
    axes.imshow(counts.numpy(), cmap="Blues", norm=LogNorm(1, most))
    for label, prediction in counts.nonzero().tolist():
        count = int(counts[label, prediction])
        colour = "white" if count**2 > most else "black"
        axes.text(prediction, label, f"{count}", ha="center", va="center", fontsize=8, color=colour)
    return figure
