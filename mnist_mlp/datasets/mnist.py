"""The files of MNIST: fetched with a time limit, verified, never half-written."""

import io
import shutil
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import nullcontext, redirect_stderr, suppress
from pathlib import Path

from torch import Tensor
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity

from mnist_mlp.errors import NotFoundError, UserError

TRAIN_SIZE, TEST_SIZE = 60_000, 10_000

# Size in bytes and MD5 of each file as torchvision extracts it; torchvision itself knows only the archives' MD5
# and looks no further than whether the extracted files exist.
EXTRACTED = {
    "train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637"),
}
TIME_TO_REACH = 15.0  # seconds, for all mirrors together


def raw_folder(data_dir: str | Path) -> Path:
    """Where torchvision keeps MNIST's files under `data_dir`."""
    return Path(data_dir) / "MNIST" / "raw"


def mnist_exists(data_dir: str | Path) -> bool:
    """Whether the four extracted files are there in their right sizes, which is quick to see."""
    paths = {raw_folder(data_dir) / name: size for name, (size, _) in EXTRACTED.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def read_mnist(data_dir: str | Path, train: bool) -> tuple[Tensor, Tensor]:
    """The images and labels, read by torchvision.

    Args:
        data_dir: A directory that `fetch_mnist` has prepared.
        train: Whether to read the training set, 60,000 images, or the test set, 10,000.

    Returns:
        Images, (N, 28, 28) uint8, white on black, and labels, (N,) int64.
    """
    mnist = MNIST(data_dir, train=train)
    return mnist.data, mnist.targets


def fetch_mnist(data_dir: str | Path) -> None:
    """Leaves `data_dir` with MNIST's four files, extracted and with the right checksums.

    Archives (`*.gz`) that are already in `data_dir/MNIST/raw` are used, the others downloaded. All work is done
    in a temporary directory and each finished file renamed into place, so that neither an interruption nor
    another process at the same work can leave or meet a part of a file.

    Args:
        data_dir: Made if it does not exist.

    Raises:
        NotFoundError: A file is missing and no mirror answered within 15 seconds, or its download failed.
        UserError: A file is broken, or the directory cannot be written.
    """
    raw = raw_folder(data_dir)
    if verify_files(raw):
        return
    new = [folder for folder in (raw, raw.parent, Path(data_dir)) if not folder.exists()]
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".fetching-") as root:
            scratch = raw_folder(root)
            scratch.mkdir(parents=True)
            archives = [raw / name for name, _ in MNIST.resources]
            for archive in filter(Path.exists, archives):
                shutil.copyfile(archive, scratch / archive.name)
            if not all(map(Path.exists, archives)):
                download_archives(root, raw)
            MNIST(root, download=True)  # extracts
            for path in scratch.iterdir():
                path.replace(raw / path.name)
    except (OSError, UserError) as error:
        for folder in new:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, UserError):
            raise
        raise UserError(f"--data.data_dir {data_dir} cannot be written: {error}") from None


def verify_files(raw: Path) -> bool:
    """Checks the size and checksum of every file of MNIST that is in `raw`, archive or extracted.

    Returns:
        Whether all four extracted files are there.

    Raises:
        UserError: A file is not what it should be.
    """
    checksums = {name: md5 for name, (_, md5) in EXTRACTED.items()} | dict(MNIST.resources)
    for name, md5 in checksums.items():
        path = raw / name
        try:
            broken = path.exists() and not check_integrity(path, md5)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        if broken:
            size = f"{path.stat().st_size:,} bytes"
            raise UserError(
                f"{path} is not MNIST's (truncated, corrupted or foreign; {size}, wrong MD5): delete it and run again"
            )
    return all((raw / name).exists() for name in EXTRACTED)


def download_archives(root: str, raw: Path) -> None:
    """Downloads the archives that are missing under `root`, on a terminal with torchvision's progress bars.

    Raises:
        NotFoundError: No mirror answered in time, or the download broke off.
    """
    names = ", ".join(name for name, _ in MNIST.resources)
    remedy = f"put {names} into {raw}, or use --data.source digits"
    print(f"MNIST is not in {raw}: trying its mirrors for {TIME_TO_REACH:.0f} s at most", file=sys.stderr)
    if not mirrors_answer():
        raise NotFoundError(f"MNIST is not in {raw} and no mirror of it can be reached: {remedy}")
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIME_TO_REACH)  # torchvision sets none, so a stalled download would never end
    bars = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
    try:
        with bars:
            MNIST(root, download=True)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise NotFoundError(f"the download of MNIST failed ({reason}): {remedy}") from None
    finally:
        socket.setdefaulttimeout(patience)
    print("MNIST has been downloaded", file=sys.stderr)


def mirrors_answer() -> bool:
    """Whether a mirror of MNIST answers within 15 seconds.

    Each is asked in a thread of its own that may be left behind: a time limit on a connection does not bound the
    look-up of the host's name, which hangs for minutes behind some firewalls.
    """
    answered = threading.Event()

    def ask(mirror: str) -> None:
        request = urllib.request.Request(mirror + MNIST.resources[0][0], method="HEAD")
        with suppress(OSError, ValueError), urllib.request.urlopen(request, timeout=TIME_TO_REACH):
            answered.set()

    threads = [threading.Thread(target=ask, args=(mirror,), daemon=True) for mirror in MNIST.mirrors]
    deadline = time.monotonic() + TIME_TO_REACH
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
        if answered.wait(0.1):
            break
    return answered.is_set()
