"""The files and streams of commands: where paths lead, and that each run keeps to its own folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import EXPORTS, RUNS, SMALL, STUDIES, Error, Run, checkpoint
from PIL import Image

import mnist_mlp.studies.compare_decays
from mnist_mlp.cli.main import main
from mnist_mlp.errors import StoppedBySignalError

TINY = [*map(str, SMALL), "--model.hidden", "[5]", "--trainer.max_epochs", "1"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def test_home_in_options(home: Path, run: Run) -> None:
    """In every path that is an option, also as `--name=~/path`, which shells leave as it is."""
    (home / "settings.yaml").write_text("trainer:\n  default_root_dir: ~/runs\n")
    run("fit", "--config=~/settings.yaml", *TINY, "--data.data_dir=~/data", "--checkpoint.dirpath=~/best")
    assert (home / "best/best.ckpt").is_file()
    saved = home / "runs/lightning_logs/version_0"
    assert yaml.safe_load((saved / "config.yaml").read_text())["data"]["data_dir"] == str(home / "data")
    last = "--ckpt_path=~/runs/lightning_logs/version_0/checkpoints/last.ckpt"
    run("test", last, "--errors=~/errors.png", "--trainer.default_root_dir=~/runs")
    if EXPORTS:
        run("export", last, "--to=~/digits.pt2")
    run("draw", last, "--to=~/digits.html")
    image = Image.new("L", (40, 40))
    image.paste(255, (18, 5, 22, 35))  # a one
    image.save(home / "one.png")
    run("predict", last, "--images=~/one.png", "--csv=~/digits.csv", "--save_inputs=~/inputs")
    small = ["--data.source", "digits", "--model.hidden", "[5]", "--decays", "[0.5]", "--epochs", "1"]
    run("compare_decays", *small, "--logs=~/studies")
    made = {
        "errors.png",
        *(["digits.pt2"] if EXPORTS else []),
        "digits.html",
        "digits.csv",
        "inputs",
        "studies",
        "runs",
        "best",
    }
    assert made <= {path.name for path in home.iterdir()}
    assert not Path("~").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--trainer.limit_val_batches 0.1", "limit_val_batches"),
        ("--trainer.val_check_interval 1000", "error: --trainer.val_check_interval (1000) must be"),
        ("--data.data_dir ~no-user/data", "~no-user/data: there is no such home"),
        ("--trainer.accelerator tpu", "--trainer.accelerator tpu: "),
        ("--trainer.devices 100000 --trainer.accelerator cpu", "--trainer.devices 100000: this machine has "),
        ("--trainer.max_time soon", "--trainer.max_time soon: "),
        ("--lr_scheduler ReduceLROnPlateau --lr_scheduler.monitor val/lss", "--lr_scheduler.monitor val/lss is not"),
        ("--checkpoint.monitor val/lss", "--checkpoint.monitor val/lss is not logged: choose one of train/loss"),
        (
            "--lr_scheduler OneCycleLR --lr_scheduler.max_lr 1 --lr_scheduler.total_steps 30 "
            "--lr_scheduler.cycle_momentum false",
            "OneCycleLR ends after 30 steps, the run has 110 updates",
        ),
        ("--optimizer SGD --optimizer.lr -1", "--optimizer SGD(lr=-1.0): "),
        ("--optimizer SparseAdam", "--optimizer SparseAdam(): "),
        ("--lr_scheduler StepLR --lr_scheduler.step_size 0", "--lr_scheduler StepLR(step_size=0): "),
        ("--lr_scheduler CosineAnnealingLR --lr_scheduler.T_max 0", "--lr_scheduler CosineAnnealingLR(T_max=0): "),
        (
            "--lr_scheduler ReduceLROnPlateau --lr_scheduler.monitor val/loss --lr_scheduler.factor 3",
            "--lr_scheduler ReduceLROnPlateau(monitor=val/loss, factor=3",
        ),
    ],
)
@pytest.mark.parametrize("logger", ["true", "false"])
def test_a_refused_run_leaves_nothing(words: str, part: str, logger: str, error: Error) -> None:
    assert part in error("fit", *SMALL, "--trainer.logger", logger, *words.split())


def test_runs_without_a_logger_have_folders_of_their_own(run: Run) -> None:
    for _ in range(2):
        run("fit", *TINY, "--trainer.logger", "false", "--pictures", "true")
    names = {"checkpoints", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml"}
    for version in ("version_0", "version_1"):
        assert {path.relative_to(RUNS / version).as_posix() for path in (RUNS / version).rglob("*")} == names
    run("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2, "--trainer.logger", "false")
    assert [checkpoint(version=version)["global_step"] for version in (0, 1)] == [55, 110]


def test_a_stopped_comparison_says_that_it_is_unfinished(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise StoppedBySignalError(signal.SIGINT, between_updates=False)

    options = ["--data.source", "digits", "--model.hidden", "[5]", "--decays", "[0.5]", "--epochs", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(mnist_mlp.studies.compare_decays, "train_run", stopped)
        with pytest.raises(SystemExit) as end:
            main(["compare_decays", *options])
    assert end.value.code == 130
    folder = STUDIES / "compare_decays_0"
    assert "ended before it had a result" in (folder / "UNFINISHED").read_text()
    run("compare_decays", *options)
    assert (STUDIES / "compare_decays_1/settings.yaml").is_file()
    assert not (STUDIES / "compare_decays_1/UNFINISHED").exists()


def test_closed_streams(tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m mnist_mlp fit {" ".join(TINY)} --pictures false <&- >&- 2>&-'
    result = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / RUNS / "version_0/checkpoints/last.ckpt").is_file()


def test_a_full_disk_for_messages_changes_no_exit_code(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    command = f'"{sys.executable}" -m mnist_mlp fit --model.lr fast 2> /dev/full'
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False).returncode == 2


def test_names_beyond_ascii_where_the_terminal_has_none(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mnist_mlp", "fit", *TINY, "--trainer.default_root_dir", "übung"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert r"\xfcbung/lightning_logs/version_0/checkpoints" in result.stdout
    assert (tmp_path / "übung" / RUNS / "version_0/checkpoints/last.ckpt").is_file()
