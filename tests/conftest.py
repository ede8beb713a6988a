"""Shared by several tests: real MNIST where it is at hand, and the command line inside this process."""

import gc
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.torch_version import TorchVersion
from torchvision.datasets import MNIST

import mnist_mlp.data
from mnist_mlp.cli.main import main
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.datasets.mnist_form import mnist_form
from mnist_mlp.datasets.paper import read_ink
from mnist_mlp.schedules import PER_UPDATE

# Tests run beside one another, and threads that wait for one another's cores cost more than they bring.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background, and then by all children
ROOT = Path(__file__).parent.parent
SMALL = ("--data.source", "digits", "--model.hidden", "[20]", "--data.batch_size", 1000)  # 55 updates an epoch
RUNS, STUDIES = Path("lightning_logs"), Path("lightning_studies")
Run = Callable[..., tuple[str, str]]
Error = Callable[..., str]
SLOWEST = {"test_preemption", "test_slurm", "test_processes", "test_benchmark", "test_tutorial", "test_schedules"}
SCHEDULES = ("constant", *PER_UPDATE, "plateau")
EXPORTS = TorchVersion(torch.__version__) >= "2.7"
REAL_MNIST = [ROOT.parent / "shared" / "mnist", ROOT / "data"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --full."""
    parser.addoption("--full", action="store_true", help="slow tests in full numbers, which takes many minutes more")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the slow tests are to do all that they can."""
    return request.config.getoption("--full")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a GPU where there is none, and what only --full runs; begins with the slowest files."""
    items.sort(key=lambda item: item.path.stem not in SLOWEST)  # a file is one process's: the last is to be short
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("full") and not item.config.getoption("--full"):
            item.add_marker(pytest.mark.skip(reason="runs with --full"))


@pytest.fixture(scope="session", autouse=True)
def _every_run_is_faster() -> None:
    """By a second, as the digits are made once, and normalised once for each split, which nothing changes in place.

    And `gc.collect` need not go through all that has been imported.
    """
    mnist_mlp.data.make_digits = cache(mnist_mlp.data.make_digits)
    to_device, kept = MNISTDataModule.to_device, dict[bytes, tuple[Tensor, Tensor]]()

    def kept_on_device(self: MNISTDataModule, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        key = labels.numpy().tobytes()  # no two splits have their labels in the same order
        if torch.cuda.is_available() or len(labels) < 100:
            return to_device(self, images, labels)
        if key not in kept:
            kept[key] = to_device(self, images, labels)
            if len(kept) > 8:  # of up to 200 MB
                del kept[next(iter(kept))]
        return kept[key]

    MNISTDataModule.to_device = kept_on_device
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides GPUs from tests that are not marked `gpu`, and from the processes that these start."""
    if not request.node.get_closest_marker("gpu"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(autouse=True)
def _warnings_for_authors_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line hides them from users; here they are errors."""
    monkeypatch.setattr("mnist_mlp.cli.main.FOR_AUTHORS", ())


@pytest.fixture(autouse=True)
def _nothing_stays_of_a_run() -> Iterator[None]:
    """Undoes what Lightning sets for the whole process: the addresses and ranks of a group, and determinism."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def archives() -> Path:
    """A folder with MNIST's four archives."""
    for data_dir in REAL_MNIST:
        raw = data_dir / "MNIST" / "raw"
        if all((raw / name).is_file() for name, _ in MNIST.resources):
            return raw
    pytest.skip(f"needs MNIST's four .gz files in {ROOT / 'data' / 'MNIST' / 'raw'}")


def put_archives(archives: Path, data_dir: Path) -> Path:
    """Copies the archives to where `data_dir` has them; returns that folder."""
    raw = data_dir / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, _ in MNIST.resources:
        shutil.copyfile(archives / name, raw / name)
    return raw


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serves a folder's files from a local address; gives its URL."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def mnist_dir(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with real MNIST, to be read only."""
    data_dir = tmp_path_factory.mktemp("mnist")
    put_archives(archives, data_dir)
    return data_dir


@pytest.fixture(autouse=True)
def _no_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a network: MNIST's mirrors refuse the connection."""
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in an empty directory, without pictures unless asked for; gives its stdout and stderr.

    As on a machine without a browser.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("webbrowser.get", Mock(side_effect=webbrowser.Error))
    capsys.readouterr()

    def command(*args: object) -> tuple[str, str]:
        pictures = [] if args[0] != "fit" or "--pictures" in args else ["--pictures", "false"]
        main([str(arg) for arg in args] + pictures)
        return capsys.readouterr()

    return command


def run_apart(*args: object, program: tuple[str, ...] = ("-m", "mnist_mlp")) -> str:
    """Runs a command to its end, not in this process; gives what it prints."""
    line = [sys.executable, *program, *map(str, args)]
    result = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "It is recommended to use" not in result.stderr  # our metrics are reduced over the processes
    return result.stdout


@pytest.fixture
def error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Error:
    """Runs a command that must end with code 2 and one line on stderr, and change no file; gives that line."""
    monkeypatch.chdir(tmp_path)

    def files() -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}

    def command(*args: object) -> str:
        before = files()
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(arg) for arg in args])
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert end.value.code == 2
        assert len(lines) == 1
        assert files() == before
        return lines[0]

    return command


def to_mnist(image: Image.Image) -> Tensor | None:
    """All ink of an image in MNIST's form, (28, 28) uint8, white on black; None if there is none."""
    ink = read_ink(image)
    return None if ink is None else mnist_form(ink)


def pairs(first: Sequence[str], second: Sequence[str], third: Sequence[str]) -> list[tuple[str, str, str]]:
    """Settings of three kinds, of which any two occur together at least once; `third` has the fewest."""
    return [(a, b, third[(i + j) % len(third)]) for i, a in enumerate(first) for j, b in enumerate(second)]


def checkpoint(name: str = "last", version: int = 0) -> dict[str, Any]:
    """A checkpoint of a run in the current directory, loaded as every command does."""
    return torch.load(RUNS / f"version_{version}" / "checkpoints" / f"{name}.ckpt", weights_only=True)


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves in a folder of TensorBoard's: step and value of each point."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def scalars(version: int = 0) -> dict[str, list[tuple[int, float]]]:
    """The curves of a run."""
    return events(curves_in(RUNS / f"version_{version}"))


def curves_in(run: Path) -> Path:
    """The folder within that of a run, under whose name TensorBoard lists it."""
    [folder] = {path.parent for path in run.glob("*/events.out.tfevents.*")}
    return folder


def assert_same_parameters(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
