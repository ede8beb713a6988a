"""The benchmark: what it reports, on few images and in one turn."""

import json
from pathlib import Path

import pytest
import torch

from mnist_mlp import benchmark


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
    for way in ("notebook", "plain", "plain_torch", "lightning", "fit", "fit_with_validation", "fit_bf16", "floor"):
        assert f"{way} " in printed
        assert figures[way]["seconds"] > 0
        assert figures[way]["lowest_ratio"] == figures[way]["ratio_to_floor"] == figures[way]["highest_ratio"]
    assert figures["floor"]["ratio_to_floor"] == 1
    assert figures["fit"]["seconds"] < figures["fit_with_validation"]["seconds"]
    assert figures["fit_command"]["seconds"] > figures["fit"]["seconds"]
    assert figures["versions"]["torch"] == torch.__version__
    assert figures["setting"] == {"epochs": 1, "batch_size": 1000, "hidden": [20, 10], "turns": 1}


@pytest.mark.parametrize("words", [["--epochs", "0"], ["--batch-size", "-1"], ["--hidden", "x"], ["--device", "tpu"]])
def test_bad_sizes(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", *words])
    with pytest.raises(SystemExit) as end:
        benchmark.main()
    assert end.value.code == 2
    assert f"error: {words[0]}" in capsys.readouterr().err.replace("argument ", "")
