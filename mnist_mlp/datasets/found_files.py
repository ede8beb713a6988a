"""MNIST's files as they come from elsewhere: known by their content, whatever they are wrapped in."""

import bz2
import hashlib
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mnist_mlp.errors import UserError

# Size in bytes and MD5 of each file. torchvision knows the MD5 of the archives only, of which everybody makes his own.
FILES = {
    "train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637"),
}
NAMES = {md5: name for name, (_, md5) in FILES.items()}
LONGEST = max(size for size, _ in FILES.values()) + 1  # to be read of anything
PLACES = ("MNIST/raw/*", "MNIST/raw/*/*", "*", "*/*", "*/*/*")  # in a data directory, which may be somebody's home
LIKE = re.compile(r"(train|t10k)[-_. ]?(images|labels)", re.IGNORECASE)
WRAPPINGS: dict[bytes, Callable[[], Any]] = {  # by their first bytes
    b"\x1f\x8b": partial(zlib.decompressobj, 31),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lzma.LZMADecompressor,
}
BROKEN = (zlib.error, lzma.LZMAError, zipfile.BadZipFile)


def name_of(content: bytes) -> str | None:
    """The name of the file of MNIST's that has this content, if any has."""
    return NAMES.get(hashlib.md5(content, usedforsecurity=False).hexdigest())


def is_genuine(path: Path) -> bool:
    """Whether a file is the one of MNIST's that its name says.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return path.stat().st_size == FILES[path.name][0] and name_of(path.read_bytes()) == path.name
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def find_files(data_dir: Path) -> dict[str, bytes]:
    """The contents of those files of MNIST's that are in a directory, by name: bare, packed, or in zip archives.

    Raises:
        UserError: A file has the very name of one that is not there otherwise, and another content. Says which.
    """
    found: dict[str, bytes] = {}
    others: dict[str, str] = {}
    for place, content in candidates(data_dir):
        name = name_of(content)
        if name is not None:
            found[name] = content
            continue
        part, kind = LIKE.findall(place)[-1]
        like = next(name for name in FILES if name.startswith(f"{part}-{kind}".lower()))
        size = FILES[like][0]
        if content.startswith(tuple(WRAPPINGS)):
            fault = "a broken archive"
        elif len(content) == size:
            fault = "of the right size, with another content"
        else:
            fault = f"{len(content) if len(content) < LONGEST else 'too many'} bytes unpacked, MNIST's has {size}"
        if "ubyte" in Path(place).name:
            others[like] = f"{place} is not MNIST's {like} ({fault}): put the original in its place and run again"
    for name, message in others.items():
        if name not in found:
            raise UserError(message)
    return found


def candidates(data_dir: Path) -> Iterator[tuple[str, bytes]]:
    """The place and the unpacked content of each file that has the name of one of MNIST's, also in zip archives."""
    for path in dict.fromkeys(path for place in PLACES for path in sorted(data_dir.glob(place)) if path.is_file()):
        try:
            if LIKE.search(path.name):
                with path.open("rb") as file:
                    yield str(path), unpacked(file.read(LONGEST))
            elif path.suffix == ".zip" and zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    for name in [name for name in archive.namelist() if LIKE.search(name) and name[-1] != "/"]:
                        with archive.open(name) as file:
                            yield f"{path}/{name}", unpacked(file.read(LONGEST))
        except (OSError, EOFError, *BROKEN, RuntimeError) as error:  # RuntimeError: a password
            raise UserError(f"{path} cannot be read: {error}") from None


def unpacked(content: bytes) -> bytes:
    """A content without its wrappings, of gzip, bzip2 or xz, or as it is if these are broken."""
    while kind := next(filter(content.startswith, WRAPPINGS), None):
        wrapping = WRAPPINGS[kind]()
        try:
            inner = wrapping.decompress(content, LONGEST)
        except (OSError, *BROKEN):
            break
        if not wrapping.eof and len(inner) < LONGEST:
            break
        content = inner
    return content
