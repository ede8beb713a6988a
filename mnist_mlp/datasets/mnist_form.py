"""A digit's ink in MNIST's form, as MNIST's makers gave it (LeCun, Cortes and Burges)."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE, BOX = 28, 20  # pixels of an image of MNIST, and of the box around its digit
THINNEST = 0.12  # width of a stroke, as a share of the digit's size, that a pen thinner than MNIST's is made to have


def mnist_form(ink: np.ndarray) -> Tensor:
    """Cut a digit out, make thin strokes wider, fit it into a 20x20 box, and put its centre of mass into the middle.

    Args:
        ink: From 0 to 1, (H, W) float, somewhere above a half.

    Returns:
        (28, 28) uint8, white on black.
    """
    ink = cropped(ink)
    missing = round(round(THINNEST * max(ink.shape) - stroke_width(ink), 3))
    if missing > 0:
        ink = cropped(widened(ink, missing))
    height, width = (max(1, round(side * BOX / max(ink.shape))) for side in ink.shape)
    scaled = Image.fromarray(ink.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    digit = np.asarray(scaled).clip(0, None)
    digit = digit / digit.max()
    centre = [np.arange(side) @ digit.sum(axis=axis) / digit.sum() for side, axis in ((height, 1), (width, 0))]
    # That of a symmetrical digit may lie between two pixels: errors of rounding must not choose one.
    place = [round(round(SIDE / 2 - mean, 3)) for mean in centre]
    top, left = np.clip(place, 0, [SIDE - height, SIDE - width])
    canvas = np.zeros((SIDE, SIDE))
    canvas[top : top + height, left : left + width] = digit
    return torch.from_numpy(canvas * 255).round().byte()


def cropped(ink: np.ndarray) -> np.ndarray:
    """The part of a picture, (H, W), with ink above a half."""
    rows, columns = (np.flatnonzero(ink.max(axis=axis) > 0.5) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def stroke_width(ink: np.ndarray) -> float:
    """Mean width of the strokes in pixels: twice their area by the length of their outline, whose steps go 4/π far."""
    outline = sum(abs(np.diff(np.pad(ink, 1), axis=axis)).sum() for axis in (0, 1)) * np.pi / 4
    return 2 * ink.sum() / outline


def widened(ink: np.ndarray, more: int) -> np.ndarray:
    """Ink, (H, W), with strokes wider by so many pixels, (H + more, W + more)."""
    padded = np.pad(ink, more)
    for axis in (0, 1):
        padded = np.lib.stride_tricks.sliding_window_view(padded, more + 1, axis=axis).max(axis=-1)
    return padded
