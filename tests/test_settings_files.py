"""Files of settings: what cannot be used is refused in a line that names the option, and `--config` finds recipes."""

import os
import random
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import SMALL, Error, Run, checkpoint, run_apart

from mnist_mlp.cli.main import main

WRONG = (None, [], [1, "x"], 3, 0, -1.5, True, "x", "", {}, {"a": 1})
PROCESSES = ("trainer.devices", "trainer.num_nodes")  # of which 3 would start or wait for others
QUICK = {
    "trainer": {"max_epochs": 1, "max_steps": 1, "limit_val_batches": 1, "accelerator": "cpu"},
    "model": {"hidden": [5]},
    "data": {"source": "digits", "batch_size": 1000},
}
Printed = dict[str, Any]


@pytest.fixture
def printed(run: Run, capsys: pytest.CaptureFixture[str]) -> Printed:
    """The settings that `fit --print_config` prints."""
    with pytest.raises(SystemExit):
        run("fit", "--print_config")
    return yaml.safe_load(capsys.readouterr().out)


def options(settings: dict[str, Any], name: str = "") -> Iterator[str]:
    """The names of all settings and their groups."""
    for key, value in settings.items():
        yield name + key
        if isinstance(value, dict):
            yield from options(value, f"{name}{key}.")


def changed(settings: dict[str, Any], option: str, value: object) -> dict[str, Any]:
    """A copy with another value in one place."""
    settings = deepcopy(settings)
    *groups, name = option.split(".")
    parent = settings
    for group in groups:
        parent = parent[group]
    parent[name] = value
    return settings


@pytest.mark.slow
def test_a_setting_of_a_wrong_kind(printed: Printed, full: bool, capsys: pytest.CaptureFixture[str]) -> None:
    settings = printed | {"pictures": False}
    for group, values in QUICK.items():
        settings[group] |= values
    cases = [(option, value) for option in options(settings) for value in WRONG]
    cases = [(option, value) for option, value in cases if option not in PROCESSES or value != 3]
    refused = 0
    for option, value in cases if full else random.Random(0).sample(cases, 40):
        Path("settings.yaml").write_text(yaml.safe_dump(changed(settings, option, value)))
        code: object = 0
        try:
            main(["fit", "--config", "settings.yaml"])
        except SystemExit as end:
            code = end.code
        files = [path for path in Path().iterdir() if path.name != "settings.yaml"]
        messages = capsys.readouterr().err
        if code:
            [line] = [line for line in messages.splitlines() if line.startswith("error:")]
            assert (code, files) == (2, []), (option, value, line)
            assert f"--{option}" in line, (option, value, line)
            assert len(line) < 350, (option, value, line)
            refused += 1
        for path in files:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert refused


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("model: {lr: null}", "--model.lr: must be of type float, not null"),
        ("model: {schedule: null}", "--model.schedule: must be one of"),
        ("model: {hidden: null}", "--model.hidden: must be a number or several"),
        ("data: {data_dir: null}", "--data.data_dir: must be of type str"),
        ("data: {batch_size: null}", "--data.batch_size: must be of type int, not null"),
        ("trainer: {max_steps: null}", "--trainer.max_steps: must be of type int"),
        ("seed_everything: null", "--seed_everything: must be an int, not None"),
        ("trainer: 3", "--trainer is a group of options, not 3"),
        ("model: {width: 3}", "--model.width is no option of this command"),
        ("model:\n  lr: 1\n  loss: mse\n  lr: 2\n", "line 4: model.lr is already set in line 2: leave one out"),
        ("model:\n  lr: 1\ndata: {}\nmodel:\n  loss: mse\n", "line 4: model is already set in line 1"),
        ("model.lr: 1\nmodel:\n  lr: 1\n", "line 3: model.lr is already set in line 1"),
        (
            "optimizer:\n  class_path: SGD\n  init_args: {lr: 1,\n    lr: 2}",
            "line 4: optimizer.init_args.lr is already",
        ),
        (
            "trainer:\n  callbacks:\n  - class_path: a\n    class_path: b\n",
            "line 4: trainer.callbacks.0.class_path is",
        ),
        ("- model", "has no settings, such as"),
        ("3", "has no settings, such as"),
        ("model: [", "--config settings.yaml: "),
        ("model: &m {lr: *m}", "--config settings.yaml: "),
        ("model: {on: 1}", "line 1: the name of an option must be a word, not on"),
        ("epochs: 3", "--epochs is no option of this command"),
        ("optimizer: {class_path: SGD, init_args: {lr: x}}", "--optimizer.lr: must be "),
        (
            "lr_scheduler: {class_path: ExponentialLR, init_args: {gamma: x}}",
            "--lr_scheduler.gamma: must be of type",
        ),
        ("lr_scheduler: LRScheduler", "--lr_scheduler LRScheduler is the base of all of them"),
        ("trainer: {gradient_clip_val: .nan}", "--trainer.gradient_clip_val nan: must be a number"),
    ],
)
def test_what_is_refused(text: str, part: str, error: Error, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    assert part in error("fit", "--config", "settings.yaml")


def test_what_is_refused_on_the_command_line_too(error: Error) -> None:
    assert "line 1: model.lr is already set" in error("find_lr", "--config", "model: {lr: 1, lr: 2}")
    assert "--model.hidden: must be a number or several" in error("find_lr", "--model.hidden", "null")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# model:\n#   lr: 0.3\n",
        "---\n# nothing\n",
        "model:\n  # lr: 0.3\ntrainer:\n",
        "model:",
        "optimizer:\n  # class_path: Adam\n",
        "{}",
    ],
)
def test_nothing_set(text: str, run: Run, printed: Printed, capsys: pytest.CaptureFixture[str]) -> None:
    Path("settings.yaml").write_text(text)
    with pytest.raises(SystemExit):
        run("fit", "--config", "settings.yaml", "--print_config")
    assert yaml.safe_load(capsys.readouterr().out) == printed


def test_a_pipe_is_read_once(run: Run) -> None:
    """As of `--config <(...)`; a resumed run parses its arguments twice."""
    run("fit", *SMALL, "--trainer.max_steps", 1)
    reading, writing = os.pipe()
    os.write(writing, b"trainer: {max_steps: 2}")
    os.close(writing)
    run("fit", "--ckpt_path", "last", "--config", f"/dev/fd/{reading}")
    os.close(reading)
    assert checkpoint()["global_step"] == 2


def test_files_are_utf8_wherever_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    Path("settings.yaml").write_bytes("\ufeffmodel: {lr: 0.7} # größer".encode())
    assert "lr: 0.7" in run_apart("fit", "--config", "settings.yaml", "--print_config")


def test_a_group_in_a_file_of_its_own(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Found beside the file that names it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/settings.yaml").write_text("model: model.yaml")
    (tmp_path / "folder/model.yaml").write_text("lr: 0.7")
    with pytest.raises(SystemExit):
        run("fit", "--config", "folder/settings.yaml", "--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["model"]["lr"] == 0.7


def test_a_class_without_settings(run: Run) -> None:
    Path("settings.yaml").write_text("optimizer:\n  class_path: Adam\n  init_args:\n    # lr: 0.1\n")
    run("fit", *SMALL, "--config", "settings.yaml", "--trainer.fast_dev_run", 1)


@pytest.mark.parametrize("name", ["fast", "fast.yaml", "configs/fast.yaml", "configs/fast"])
def test_a_recipe_from_any_folder(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--config", "-c"):
        with pytest.raises(SystemExit):
            run("fit", option, name, "--print_config")
        assert yaml.safe_load(capsys.readouterr().out)["data"]["batch_size"] == 50


def test_a_file_comes_before_a_recipe(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("fast.yaml").write_text("data: {batch_size: 7}")
    with pytest.raises(SystemExit):
        run("fit", "--config", "fast.yaml", "--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["data"]["batch_size"] == 7


@pytest.mark.parametrize("name", ["slow", "slow.yaml", "configs/slow.yaml", "elsewhere/fast.yaml", "~/none/fast", "."])
def test_an_unknown_recipe(name: str, error: Error) -> None:
    line = error("fit", "--config", name)
    assert f"--config {name}: is neither a file nor a recipe, which are cluster, distorted, fast," in line
