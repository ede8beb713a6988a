"""The benchmark: what it reports, on few images and in one turn."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mnist_mlp import benchmark, growth


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_benchmark_reports_every_way(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "TURNS", 1)
    monkeypatch.setattr(benchmark, "IMAGES", 4000)
    sizes = ["--epochs", "1", "--batch-size", "1000", "--hidden", "20", "10", "--device", device]
    monkeypatch.setattr("sys.argv", ["benchmark", *sizes, "--json", str(tmp_path / "figures.json")])
    benchmark.main()
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    for way in benchmark.WAYS:
        assert f"{way} " in printed
        assert figures[way]["seconds"] > 0
        assert figures[way]["lowest"] == figures[way]["ratio_to_floor"] == figures[way]["highest"]
    assert figures["floor"]["ratio_to_floor"] == 1
    assert figures["fit"]["seconds"] < figures["fit_with_validation"]["seconds"]
    assert figures["fit_command"]["seconds"] > figures["fit"]["seconds"]
    assert figures["ratios"]["fit / floor"]["median"] == figures["fit"]["ratio_to_floor"]
    assert "fit / floor" in printed
    assert figures["versions"]["torch"] == torch.__version__
    assert figures["setting"] == {"epochs": 1, "batch_size": 1000, "hidden": [20, 10], "turns": 1}


def test_growth_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(growth, "TURNS", 1)
    monkeypatch.setattr(growth, "EPOCHS", {"cpu": 1})
    monkeypatch.setattr(growth, "PANELS", {"depth": [(1, {"hidden": (10,)}), (2, {"hidden": (10, 10)})]})
    monkeypatch.setattr(benchmark, "IMAGES", 4000)
    picture = tmp_path / "growth.png"
    monkeypatch.setattr("sys.argv", ["growth", "--device", "cpu", "--picture", str(picture)])
    growth.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line[:1].isdigit()]
    assert [int(size) for size, *_ in rows] == [1, 2]
    assert all(float(value) > 0 for row in rows for value in row)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_fit_takes_no_more_memory_than_three_times_its_data(tmp_path: Path) -> None:
    words = ["fit", "--data.source", "digits", "--trainer.accelerator", "cpu"]
    peaks, unit = [], 1 if sys.platform == "darwin" else 1024  # bytes
    for call in ("", f"main({words})"):
        code = f"from mnist_mlp.cli.lightning_cli import main\nimport resource\n{call}\n"
        code += "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        command = [sys.executable, "-c", code]
        output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
        peaks.append(unit * int(output.split()[-1]))
    assert peaks[1] - peaks[0] <= 3 * 60_000 * 784 * 4


@pytest.mark.parametrize("words", [["--epochs", "0"], ["--batch-size", "-1"], ["--hidden", "x"], ["--device", "tpu"]])
def test_bad_sizes(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", *words])
    with pytest.raises(SystemExit) as end:
        benchmark.main()
    assert end.value.code == 2
    assert f"error: {words[0]}" in capsys.readouterr().err.replace("argument ", "")
