"""Whole processes, timed from typing to result."""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mnist_mlp.benchmark.setting import Setting
from mnist_mlp.benchmark.ways import fit_arguments

IMPORTS = "import lightning.pytorch.cli, torchvision"


def command(*words: str) -> tuple[float, str]:
    """Seconds of a command of Python's in a new process and an empty folder, and its output."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        result = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, check=True, text=True)
        return time.perf_counter() - started, result.stdout


def seconds_per_update(output: str) -> float:
    """The mean time of an update, from the line that `fit` and the peers print at their end."""
    found = re.search(r"(\d+) updates in ([\d.]+) s", output.replace(",", ""))
    assert found, output
    return float(found[2]) / int(found[1])


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def fit_commands(setting: Setting) -> dict[str, float]:
    """Seconds of the `fit` command, of an epoch of its training, of that beside a busy process, and of its imports."""
    words = ["-m", "mnist_mlp", *fit_arguments(setting)]
    whole, output = command(*words)
    with busy_process():
        _, busy_output = command(*words)
    return {
        "fit_command": setting.updates * seconds_per_update(output),
        "fit_beside_busy": setting.updates * seconds_per_update(busy_output),
        "fit command": whole,
        "imports command": command("-c", IMPORTS)[0],
    }
