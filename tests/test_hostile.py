"""Broken and hostile files: the right result or one line, and nothing from them is ever executed."""

import gzip
import io
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from conftest import SMALL, Error, Run, serve

from mnist_mlp.cli.main import main
from mnist_mlp.datasets.found_files import find_files
from mnist_mlp.errors import UserError
from mnist_mlp.runtime.checkpoints import load_checkpoint

COUNTS = {"checkpoint": (500, 10_000), "idx": (450, 9_400), "config": (50, 600)}  # in CI, and with --full


def broken(content: bytes, number: int) -> Iterator[bytes]:
    """Copies of a file's content: with flipped bits, cut off, overwritten in places, or random altogether."""
    draw = random.Random(number)
    for i in range(number):
        data = bytearray(content)
        if i % 4 == 0:
            for _ in range(draw.choice((1, 1, 1, 8))):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        elif i % 4 == 1:
            data = data[: draw.randrange(len(data))]
        elif i % 4 == 2:
            start = draw.randrange(len(data))
            some = draw.randbytes(draw.randint(1, 64))
            data[start : start + len(some)] = some
        else:
            data = bytearray(draw.randbytes(draw.randint(0, 2000)))
        yield bytes(data)


def one_line(message: str) -> bool:
    """Whether a message is one line."""
    return "\n" not in message.strip() and len(message) < 1000


def same(first: object, second: object) -> bool:
    """Whether two checkpoints hold the same."""
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and first.keys() == second.keys()
            and all(same(first[key], second[key]) for key in first)
        )
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


@pytest.mark.slow
def test_broken_checkpoints(run: Run, full: bool, tmp_path: Path) -> None:
    run("fit", *SMALL, "--model.hidden", "[]", "--trainer.max_steps", 1)
    path = Path("lightning_logs/version_0/checkpoints/last.ckpt")
    whole, refused = load_checkpoint(str(path)), 0
    for data in broken(path.read_bytes(), COUNTS["checkpoint"][full]):
        (tmp_path / "broken.ckpt").write_bytes(data)
        try:
            loaded, message = load_checkpoint(str(tmp_path / "broken.ckpt")), None
        except UserError as error:
            loaded, message = None, str(error)
            refused += 1
        assert same(loaded, whole) if message is None else one_line(message)
    assert refused > 0.9 * COUNTS["checkpoint"][full]


@pytest.mark.slow
def test_broken_idx_files(archives: Path, full: bool, tmp_path: Path) -> None:
    """A flipped bit in the header of an archive changes nothing, any in the content does."""
    name, refused, number = "t10k-labels-idx1-ubyte", 0, COUNTS["idx"][full] // 3
    packed = (archives / f"{name}.gz").read_bytes()
    content = gzip.decompress(packed)
    for place, whole in ((name, content), (f"{name}.gz", packed), ("archive.zip", zipped(name, content))):
        path = tmp_path / place
        for data in broken(whole, number):
            path.write_bytes(data)
            try:
                found, message = find_files(tmp_path), None
            except UserError as error:
                found, message = {}, str(error)
                refused += 1
            # An archive may also name no file of MNIST's.
            assert found in ({}, {name: content}) if message is None else one_line(message) and str(path) in message
        path.unlink()
    assert refused > 2 * number


def zipped(name: str, content: bytes) -> bytes:
    """A zip archive with one file."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, content)
    return archive.getvalue()


@pytest.mark.slow
def test_broken_configs(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["fit", "--model.lr", "0.3", "--print_config"])
    content = capsys.readouterr().out.encode()
    for data in broken(content, COUNTS["config"][full]):
        Path("config.yaml").write_bytes(data)
        with pytest.raises(SystemExit) as end:
            main(["fit", "--config", "config.yaml", "--print_config"])
        output, messages = capsys.readouterr()
        if end.value.code == 0:
            assert yaml.safe_load(output)["trainer"]
        else:
            assert end.value.code == 2
            assert len([line for line in messages.splitlines() if line.startswith("error:")]) == 1
            assert "Traceback" not in messages
        assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


class Bomb:
    """What leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_checkpoint_that_carries_code_is_refused(command: str, run: Run, error: Error, tmp_path: Path) -> None:
    run("fit", *SMALL, "--trainer.max_steps", 1)
    checkpoint = torch.load("lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    trace = tmp_path / "executed"
    torch.save({**checkpoint, "callbacks": Bomb(trace)}, "bomb.ckpt")
    with serve(tmp_path) as url:
        for place in ("bomb.ckpt", f"{url}bomb.ckpt"):
            assert "could run code: not loaded" in error(command, "--ckpt_path", place)
    assert not trace.exists()
    torch.load("bomb.ckpt", weights_only=False)
    assert trace.exists()  # as it would have been


def test_paths_are_no_words_for_a_shell(run: Run, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    name = f"a b;touch {trace.name};$(touch {trace.name})`touch {trace.name}`"
    (tmp_path / name).mkdir()
    (tmp_path / name / "my config.yaml").write_text("model:\n  lr: 0.2\n")
    words = [
        "--config",
        f"{name}/my config.yaml",
        "--trainer.default_root_dir",
        name,
        "--data.data_dir",
        f"{name}/data",
    ]
    output, _ = run("fit", *SMALL, *words, "--trainer.max_steps", 1)
    run("test", "--ckpt_path", f"{name}/lightning_logs/version_0/checkpoints/last.ckpt")
    assert not trace.exists()
    assert [path.name for path in tmp_path.iterdir()] == [name]  # nothing is written elsewhere
    assert "touch" in output
