"""The benchmark: what it reports, on few images and in one turn."""

import json
import os
import re
from pathlib import Path

import pytest
import torch

from mnist_mlp.benchmark import growth, host_cost, setting
from mnist_mlp.benchmark.__main__ import main
from mnist_mlp.benchmark.commands import command, seconds_per_update
from mnist_mlp.benchmark.peer_commands import PeerCommands
from mnist_mlp.benchmark.setting import Setting
from mnist_mlp.runtime.cpu_graph import CPUGraph
from mnist_mlp.runtime.processor import lacks_bfloat16


def hide(modules: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the import of modules fail in other processes, as where they are not installed."""
    for module in modules:
        (folder / f"{module}.py").write_text(f"raise ModuleNotFoundError('No module named {module}')")
    places = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_benchmark_reports_every_way(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setting, "IMAGES", 4000)
    monkeypatch.setattr("mnist_mlp.benchmark.commands.IMPORTS", "import numpy")
    hide(["jax", "keras"], tmp_path, monkeypatch)
    sizes = ["--epochs", "1", "--batch_size", "1000", "--hidden", "[20,10]", "--device", device]
    main([*sizes, "--turns", "1", "--peers", "true", "--json_file", str(tmp_path / "figures.json")])
    printed = capsys.readouterr().out
    seconds = json.loads((tmp_path / "figures.json").read_text())
    ways = ["notebook", "plain", "plain_onednn", "lightning", "fit", "fit_with_validation", "fit_distorted", "floor"]
    ways += ["fit_command", "fit_beside_busy"]
    commands = ["fit", "imports"]
    if device == "cpu" and lacks_bfloat16():
        assert "no fit_bf16: this processor has no bfloat16" in printed
    else:
        ways.append("fit_bf16")
    for peer in ("jax_scan", "keras_on_jax"):
        assert re.search(rf"^no {peer}: ModuleNotFoundError: No module named (jax|keras)$", printed, re.M)
    if device == "cpu":
        ways.append("scikit_learn")
        commands.append("scikit_learn")
        assert re.search(r"^fit / scikit_learn +[\d.]+ ", printed, re.M)
    else:
        assert "no scikit_learn: scikit-learn trains on a CPU only" in printed
    assert seconds.keys() == {*ways, *(f"{name} command" for name in commands), "host cost per 300 updates"}
    for way in ways:
        assert re.search(rf"^{way} +[\d.e-]+ +[\d.]+ ", printed, re.M)
        assert seconds[way][0] > 0
    rows = printed.partition("from typing to result")[2]
    for name in commands:
        assert re.search(rf"^{name} +[\d.e-]+ +[\d.]+ ", rows, re.M)
    assert re.search(r"^floor .* 1.00 +1.00 to 1.00$", printed, re.M)
    assert seconds["fit"] < seconds["fit_with_validation"]
    assert seconds["fit command"] > seconds["fit"]
    ratio = seconds["fit"][0] / seconds["floor"][0]
    assert re.search(rf"^fit / floor +{ratio:.2f} ", printed, re.M)
    host = 1000 * seconds["host cost per 300 updates"][0]
    assert f"host cost per 300 updates: {host:.1f} ms" in printed
    last = " ".join(printed.splitlines()[-4:])
    assert f"torch {torch.__version__}" in last
    assert "1 epochs, batches of 1000, hidden layers [20, 10], 1 turns" in last
    assert max(map(len, printed.splitlines())) <= 80


def test_peers_do_the_same_work() -> None:
    """Two epochs bring the accuracy on the validation images near the 80 % that `fit` then has."""
    commands = PeerCommands(Setting(2, torch.device("cpu"), 200, (20,)))
    assert "scikit_learn" in commands.peers
    for peer in commands.peers:
        _, output = commands.run(peer)
        assert re.fullmatch(r"550 updates in [\d.]+ s, accuracy [\d.]+%\n", output)
        assert float(output.split()[-1].rstrip("%")) > 70


def test_peers_load_no_torch() -> None:
    code = "import sys, mnist_mlp.benchmark.peers.work; print({'torch', 'lightning'} & {*sys.modules})"
    assert command("-c", code)[1] == "set()\n"


def test_seconds_of_an_update_as_commands_print_them() -> None:
    assert seconds_per_update("training    1,100 updates in 5.5 s, 4 epochs in all") == 0.005


def test_host_cost_is_that_of_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which cost nothing: an update is captured, and none of the recorded operations repeated."""

    def replay(self: CPUGraph) -> None:
        raise AssertionError("operations are repeated")

    graphs, recording = [], CPUGraph.recording
    monkeypatch.setattr(CPUGraph, "replay", replay)
    monkeypatch.setattr(CPUGraph, "recording", lambda self: graphs.append(self) or recording(self))
    monkeypatch.setattr(host_cost, "DEFAULTS", Setting(2, torch.device("cpu"), 1000, (20,)))
    host_cost.host_cost()
    [graph] = graphs
    assert graph.operations


def test_growth_is_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"batch size": [{"batch_size": 1000}], "hidden layers": [{"hidden": (10,)}, {"hidden": (10, 10)}]}
    monkeypatch.setattr(growth, "SIZES", sizes)
    monkeypatch.setattr(setting, "IMAGES", 4000)
    main(["--device", "cpu", "--growth", "true", "--epochs", "1", "--turns", "1"])
    rows = re.findall(r"^(\d+|\(.*\)) +(\S+) +(\S+) +(\S+)$", capsys.readouterr().out, re.M)
    assert [size for size, *_ in rows] == ["1000", "(10,)", "(10, 10)"]
    assert all(float(value) > 0 for _, *values in rows for value in values)


def test_fit_takes_no_more_memory_than_three_times_its_data(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")  # getrusage's figure begins with the peak of the process that starts another
    code = """
import re
from mnist_mlp.cli.main import main

def peak():
    return re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]

imported = peak()
main("fit --data.source digits --trainer.accelerator cpu".split())
print(imported, peak())
"""
    imported, trained = (1024 * int(peak) for peak in command("-c", code)[1].split()[-2:])
    assert trained - imported <= 3 * 60_000 * 784 * 4


@pytest.mark.parametrize(
    "words", [["--epochs", "0"], ["--turns", "0"], ["--batch_size", "-1"], ["--hidden", "x"], ["--device", "tpu"]]
)
def test_bad_sizes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert f"error: {words[0]}" in capsys.readouterr().err.replace("argument ", "")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    usage, _, about = capsys.readouterr().out.splitlines()[:3]
    assert usage == "usage: python -m mnist_mlp.benchmark [options]"
    assert about.startswith("Compare the speed of `fit`")
