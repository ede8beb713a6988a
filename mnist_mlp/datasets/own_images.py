"""Images of digits from files, of any size and colour: each digit in MNIST's form.

Of 480 digits printed in 12 fonts, in four sizes, several colours and all places, the network of distorted.yaml
classified 98.1 % right (one run, seed 0). tests/handwriting.py draws others as by hand, on paper of many kinds.
"""

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from mnist_mlp.datasets.mnist_form import mnist_form
from mnist_mlp.datasets.paper import read_ink, signs_in
from mnist_mlp.errors import UserError

FOREIGN = ("EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF")  # read by other programs, or by none
PAGED = ("TIFF", "GIF", "PNG", "WEBP")  # others hold one picture in several forms
HEIC = (".heic", ".heif", ".hif")  # read by pillow-heif where it is installed


class Sign(NamedTuple):
    """A digit, or another mark, in an image."""

    path: Path
    page: int  # of the file, from 1
    place: int  # on the page, from 1
    image: Tensor  # in MNIST's form, (28, 28) uint8, white on black


@cache
def formats() -> list[str]:
    """The names of all formats that Pillow reads itself, or by pillow-heif if that is installed."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()  # loads all its readers
    return [name for name in Image.ID if name not in FOREIGN]


def find_images(names: Iterable[str]) -> list[Path]:
    """Return, each once, the paths of images given by files, folders and patterns such as 'scans/*.png'.

    A folder stands for the images in it. A name that matches nothing is kept, so that `read_image` reports it.
    """
    paths: list[Path] = []
    for name in names:
        path, found = Path(name), []
        if not path.exists():
            with suppress(ValueError, NotImplementedError):  # not a pattern
                found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        for each in found or [path]:
            inside = images_in(each) if each.is_dir() else []
            paths += inside or [each]
    return list(dict.fromkeys(paths))


def images_in(folder: Path) -> list[Path]:
    """The files in a folder that have the name of an image, sorted."""
    readable, extensions = formats(), Image.registered_extensions()
    endings = {ending for ending, kind in extensions.items() if kind in readable} | {*HEIC}
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in endings)


def read_images(paths: Iterable[Path]) -> list[Sign]:
    """Read all signs in images; print a line on stderr for each image that cannot be used."""
    signs = []
    for path in tqdm(paths, "reading images", disable=None, leave=False):
        try:
            signs += read_signs(path)
        except UserError as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
    return signs


def save_images(signs: Iterable[Sign], folder: Path) -> None:
    """Save signs as PNG files named after their paths, with a number added where names repeat.

    The folder is created if missing. Raise OSError if it or a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for sign in signs:
        name, number = sign.path.stem, 1
        while name in taken:
            number += 1
            name = f"{sign.path.stem}_{number}"
        taken.add(name)
        Image.fromarray(sign.image.numpy()).save(folder / f"{name}.png")


def read_image(path: str | Path) -> Tensor:
    """Read an image of one digit as (28, 28) uint8, white on black; raise UserError as `read_signs`, or if several."""
    sign, *others = read_signs(path)
    if others:
        raise UserError(f"{path}: {len(others) + 1} digits where one is expected")
    return sign.image


def read_signs(path: str | Path) -> list[Sign]:
    """Read the signs on all pages of an image in any format that Pillow reads, at least one.

    Raise UserError if it is missing, not an image, damaged, too large or without a digit. A warning names the pages of
    a file that are so while others are not.
    """
    signs: list[Sign] = []
    blank = []
    for number, page in enumerate(pages_of(path), 1):
        ink = read_ink(page)
        forms = [mnist_form(sign) for sign in signs_in(ink)] if ink is not None else []
        signs += [Sign(Path(path), number, place, form) for place, form in enumerate(forms, 1)]
        if not forms:
            blank.append(number)
    if not signs:
        raise UserError(f"{path}: no digit found")
    for number in blank:
        warnings.warn(f"{path}: no digit found on page {number}", stacklevel=2)
    return signs


def pages_of(path: str | Path) -> Iterator[Image.Image]:
    """The pages of a TIFF or frames of an animation, or the one picture in other files; errors as in `read_signs`."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no image in that folder" if Path(path).is_dir() else f"{path}: no such file")
    number = 0
    try:
        with large_ones_as_errors():
            file = Image.open(path, formats=formats())
        with file:
            for number in range(getattr(file, "n_frames", 1) if file.format in PAGED else 1):
                with large_ones_as_errors():
                    file.seek(number)
                    file.load()
                yield ImageOps.exif_transpose(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{path}: more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Image.UnidentifiedImageError:
        if Path(path).suffix.lower() in HEIC and "HEIF" not in formats():
            raise UserError(f"{path}: HEIC, which needs `pip install pillow-heif`") from None
        raise UserError(f"{path}: not an image in a format that Pillow reads") from None
    except Exception as error:  # Pillow's readers raise errors of many types for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        if number == 0:
            raise UserError(f"{path}: cannot be read ({reason})") from None
        warnings.warn(f"{path}: page {number + 1} and all after it cannot be read ({reason})", stacklevel=2)


@contextmanager
def large_ones_as_errors() -> Iterator[None]:
    """Pillow warns of images that may fill the memory, and refuses those of twice the size."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
