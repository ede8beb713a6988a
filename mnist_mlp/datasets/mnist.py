"""MNIST's files: downloaded within a time limit, verified, never half-written."""

import io
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from torch import Tensor
from torchvision.datasets import MNIST

from mnist_mlp.datasets.found_files import FILES, find_files, is_genuine
from mnist_mlp.errors import NotFoundError, UserError

TRAIN_SIZE, TEST_SIZE = 60_000, 10_000

TIME_TO_REACH = 15.0  # seconds, for all mirrors together


def raw_folder(data_dir: str | Path) -> Path:
    """The folder under `data_dir` where torchvision keeps MNIST's files."""
    return Path(data_dir) / "MNIST" / "raw"


def mnist_exists(data_dir: str | Path) -> bool:
    """Whether the four extracted files exist and have the right sizes, without reading them."""
    return any(map(holds_mnist, roots(data_dir)))


def roots(data_dir: str | Path) -> tuple[Path, Path]:
    """The directories for torchvision to read: the first if it is there, as where the second holds impostors."""
    return Path(data_dir) / "genuine", Path(data_dir)


def holds_mnist(root: Path) -> bool:
    """Whether torchvision would find the four files there, with the right sizes."""
    sizes = {raw_folder(root) / name: size for name, (size, _) in FILES.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())


def read_mnist(data_dir: str | Path, train: bool) -> tuple[Tensor, Tensor]:
    """Read the 60,000 training or 10,000 test images from a directory that `fetch_mnist` has prepared.

    Return images, (N, 28, 28) uint8, white on black, and labels, (N,) int64.
    """
    mnist = MNIST(next(filter(holds_mnist, roots(data_dir))), train=train)
    return mnist.data, mnist.targets


def fetch_mnist(data_dir: str | Path) -> None:
    """Bring MNIST's four extracted files, with the right checksums, into `data_dir`, which is created if missing.

    Files that are there are used, whatever they are wrapped in; if any is missing, all are downloaded. No file that
    was there is changed. All work is done in a temporary directory and each finished file renamed into place, so that
    an interruption leaves no partial file and another process never finds one. Raise NotFoundError if a file is
    missing and no mirror answers within 15 seconds or the download fails, and UserError if a file is broken or the
    directory cannot be written.
    """
    if any(holds_mnist(root) and not impostors(root) for root in roots(data_dir)):
        return
    found = find_files(Path(data_dir))
    genuine, usual = roots(data_dir)
    raw = raw_folder(genuine if impostors(usual) else usual)
    new = [folder for folder in (raw, *raw.parents) if not folder.exists()]
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".fetching-") as root:
            scratch = raw_folder(root)
            scratch.mkdir(parents=True)
            if found.keys() != FILES.keys():
                download_archives(root, raw)
            for name, content in found.items():
                (scratch / name).write_bytes(content)
            for name in FILES:
                (scratch / name).replace(raw / name)
    except OSError as error:
        raise UserError(f"--data.data_dir {data_dir} cannot be written: {error}") from None
    finally:
        for folder in new:
            with suppress(OSError):  # not empty: all went well
                folder.rmdir()


def impostors(root: Path) -> list[Path]:
    """Files under a directory that have the place and the name of one of MNIST's, but not its content."""
    paths = [raw_folder(root) / name for name in FILES]
    return [path for path in paths if path.exists() and not (path.is_file() and is_genuine(path))]


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
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            MNIST(root, download=True)  # which prints each step, up to torchvision 0.19
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
