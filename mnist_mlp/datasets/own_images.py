"""Images of digits from files, of any size and colour, brought to MNIST's form."""

import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from mnist_mlp.errors import UserError

LONGEST = 400  # pixels of a side that are looked at: more would be slow and bring nothing
SIDE, BOX = 28, 20  # of an image of MNIST, and of the digit in it
FAINTEST = 32  # of 255, between the digit and its background
LIGHT, DARK = 0.3, 0.7  # of the strongest contrast: what counts as background, and as ink
# What Pillow does not read itself: EPS it gives to another program, and for the others it has no reader.
FOREIGN = ("EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF")


def formats() -> list[str]:
    """The names of all formats that Pillow reads itself."""
    Image.init()  # loads all its readers, and only once
    return [name for name in Image.ID if name not in FOREIGN]


def find_images(names: Iterable[str]) -> list[Path]:
    """The files that are meant by names of files, folders (the images in them) and patterns such as 'scans/*.png'.

    Args:
        names: What is of nothing is taken for a file, of which `read_image` will say so.

    Returns:
        Each once.
    """
    paths: list[Path] = []
    for name in names:
        path, found = Path(name), []
        if path.is_dir():
            kinds, own = Image.registered_extensions(), formats()
            found = [each for each in path.iterdir() if kinds.get(each.suffix.lower()) in own]
        elif not path.exists():
            with suppress(ValueError, NotImplementedError):  # no pattern
                found = list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        paths += sorted(found) or [path]
    return list(dict.fromkeys(paths))


def read_images(paths: Iterable[Path]) -> dict[Path, Tensor]:
    """Reads images, and says on stderr in one line each which of them cannot be used.

    Args:
        paths: Of files.

    Returns:
        Of each that can be used, (28, 28) uint8, white on black.
    """
    images = {}
    for path in tqdm(paths, "reading images", disable=None, leave=False):
        try:
            images[path] = read_image(path)
        except UserError as error:
            print("error:", error, file=sys.stderr)
    return images


def save_images(images: dict[Path, Tensor], folder: Path) -> None:
    """Writes images as PNG files with the names of those they come from, numbered where two are the same.

    Args:
        images: (28, 28) uint8, by the path of the file.
        folder: Made if it does not exist.

    Raises:
        OSError: They cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for path, image in images.items():
        name, number = path.stem, 1
        while name in taken:
            number += 1
            name = f"{path.stem}_{number}"
        taken.add(name)
        Image.fromarray(image.numpy()).save(folder / f"{name}.png")


def read_image(path: str | Path) -> Tensor:
    """Reads an image of one digit.

    Args:
        path: Of a file in any format that Pillow reads.

    Returns:
        (28, 28) uint8, white on black, as `to_mnist` makes it.

    Raises:
        UserError: It is no image, damaged, too large or blank.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no image in that folder" if Path(path).is_dir() else f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats()) as image:
                image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{path}: more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{path}: not an image in a format that Pillow reads") from None
    except Exception as error:  # each of Pillow's readers has its own for what is damaged
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split()) or type(error).__name__})") from None
    digit = to_mnist(ImageOps.exif_transpose(image))
    if digit is None:
        raise UserError(f"{path}: blank")
    return digit


def to_mnist(image: Image.Image) -> Tensor | None:
    """Brings a digit to MNIST's form, as its makers did (LeCun, Cortes and Burges).

    It is cut out, scaled to fit a box of 20x20 with its proportions kept, and placed so that its centre of mass is in
    the middle of 28x28. What differs from the border counts as ink, whatever the colours.

    Args:
        image: In any of Pillow's modes, with or without transparency.

    Returns:
        (28, 28) uint8, white on black; nothing for a blank image.
    """
    ink = contrast(image)
    if ink.size == 0 or ink.max() < FAINTEST:
        return None
    ink = ((ink / ink.max() - LIGHT) / (DARK - LIGHT)).clip(0, 1)
    rows, columns = (np.flatnonzero(ink.max(axis=axis) > 0.5) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(side * BOX / max(ink.shape))) for side in ink.shape)
    digit = Image.fromarray(np.float32(ink)).resize((width, height), Image.Resampling.BICUBIC)
    digit = np.asarray(digit).clip(0, None)
    digit = digit / digit.max()
    mass = digit.sum()
    middle = (np.arange(height) @ digit.sum(axis=1) / mass, np.arange(width) @ digit.sum(axis=0) / mass)
    top, left = (
        min(max(round(SIDE / 2 - centre), 0), SIDE - side) for centre, side in zip(middle, digit.shape, strict=True)
    )
    canvas = np.zeros((SIDE, SIDE))
    canvas[top : top + height, left : left + width] = digit
    return torch.from_numpy(canvas * 255).round().byte()


def contrast(image: Image.Image) -> np.ndarray:
    """How far each pixel's colour is from that of the border, (H, W) float in 0..255, H and W at most LONGEST."""
    if image.mode.startswith(("I", "F")):  # more than 8 bits, which Pillow would cut off
        values = np.asarray(image, dtype=np.float32)
        finite = np.isfinite(values)
        values = np.where(finite, values, np.median(values[finite]) if finite.any() else 0)
        span = values.max() - values.min()
        image = Image.fromarray(np.uint8((values - values.min()) / (span or 1) * 255))
    image = image.convert("RGBA")
    image.thumbnail((LONGEST, LONGEST))
    *colours, alpha = np.moveaxis(np.asarray(image, dtype=np.float64), 2, 0)
    opaque = alpha / 255
    if 0 < opaque.sum() < opaque.size:  # behind it, what a drawing of its brightness stands out from
        behind = 255 if np.average(np.mean(colours, axis=0), weights=opaque) < 128 else 0
        colours = [opaque * colour + (1 - opaque) * behind for colour in colours]
    border = [np.concatenate((colour[0], colour[-1], colour[:, 0], colour[:, -1])) for colour in colours]
    return np.max([abs(colour - np.median(edge)) for colour, edge in zip(colours, border, strict=True)], axis=0)
