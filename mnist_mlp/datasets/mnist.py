"""MNIST's files: downloaded within a time limit, verified, never half-written."""

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

# Size in bytes and MD5 of each extracted file. torchvision knows the MD5 of the archives only, and merely checks that
# the extracted files exist.
EXTRACTED = {
    "train-images-idx3-ubyte": (47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (60_008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (10_008, "27ae3e4e09519cfbb04c329615203637"),
}
TIME_TO_REACH = 15.0  # seconds, for all mirrors together


def raw_folder(data_dir: str | Path) -> Path:
    """The folder under `data_dir` where torchvision keeps MNIST's files."""
    return Path(data_dir) / "MNIST" / "raw"


def mnist_exists(data_dir: str | Path) -> bool:
    """Whether the four extracted files exist and have the right sizes, without reading them."""
    sizes = {raw_folder(data_dir) / name: size for name, (size, _) in EXTRACTED.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())


def read_mnist(data_dir: str | Path, train: bool) -> tuple[Tensor, Tensor]:
    """Read the 60,000 training or 10,000 test images from a directory that `fetch_mnist` has prepared.

    Return images, (N, 28, 28) uint8, white on black, and labels, (N,) int64.
    """
    mnist = MNIST(data_dir, train=train)
    return mnist.data, mnist.targets


def fetch_mnist(data_dir: str | Path) -> None:
    """Bring MNIST's four extracted files, with the right checksums, into `data_dir`, which is created if missing.

    Archives (`*.gz`) already in `data_dir/MNIST/raw` are used, missing ones downloaded. All work is done in a
    temporary directory and each finished file renamed into place, so that an interruption leaves no partial file and
    another process never finds one. Raise NotFoundError if a file is missing and no mirror answers within 15 seconds
    or the download fails, and UserError if a file is broken or the directory cannot be written.
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
    except OSError as error:
        raise UserError(f"--data.data_dir {data_dir} cannot be written: {error}") from None
    finally:
        for folder in new:
            with suppress(OSError):  # not empty: all went well
                folder.rmdir()


def verify_files(raw: Path) -> bool:
    """Whether all four extracted files are in `raw`, after verifying every file of MNIST there, archives too.

    Raise UserError if one is broken or cannot be read.
    """
    checksums = {name: md5 for name, (_, md5) in EXTRACTED.items()} | dict(MNIST.resources)
    for name, md5 in checksums.items():
        path = raw / name
        try:
            if path.exists() and not check_integrity(path, md5):
                raise UserError(
                    f"{path} is not MNIST's (truncated, corrupted or foreign; {path.stat().st_size:,} bytes, wrong "
                    "MD5): delete it and run again"
                )
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return all((raw / name).exists() for name in EXTRACTED)


def download_archives(root: str, raw: Path) -> None:
    """Download the archives missing under `root`, with torchvision's progress bars if stderr is a terminal.

    Raise NotFoundError, which tells the user to put them into `raw`, if no mirror answers in time or a download fails.
    """
    remedy = f"put {', '.join(name for name, _ in MNIST.resources)} into {raw}, or use --data.source digits"
    print(f"MNIST is not in {raw}: trying its mirrors for {TIME_TO_REACH:.0f} s at most", file=sys.stderr)
    if not mirrors_answer():
        raise NotFoundError(f"MNIST is not in {raw} and no mirror of it can be reached: {remedy}")
    default = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIME_TO_REACH)  # torchvision sets none, so a stalled download would never end
    try:
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            MNIST(root, download=True)
    except (RuntimeError, OSError) as error:
        raise NotFoundError(f"the download of MNIST failed ({' '.join(str(error).split())}): {remedy}") from None
    finally:
        socket.setdefaulttimeout(default)
    print("MNIST has been downloaded", file=sys.stderr)


def mirrors_answer() -> bool:
    """Whether a mirror of MNIST answers within 15 seconds.

    Each is asked in its own thread, which may outlive the call: a connection's time limit does not cover the lookup of
    the host's name, which can take minutes behind a firewall.
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
    while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline and not answered.wait(0.1):
        pass
    return answered.is_set()
