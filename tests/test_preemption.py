"""Runs that are stopped, killed, crowded or out of space: nothing is lost, nothing half-written is left."""

import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RUNS, SMALL, Run, assert_same_parameters, checkpoint, run_apart, scalars
from lightning.pytorch import LightningModule, Trainer

from mnist_mlp.cli.main import main
from mnist_mlp.errors import StoppedBySignalError
from mnist_mlp.runtime.last_checkpoint import LastCheckpoint
from mnist_mlp.runtime.loss_log import LossLog

FIT = [sys.executable, "-m", "mnist_mlp", "fit"]
# 550 updates an epoch, a validation and a checkpoint every few milliseconds
OFTEN = """--pictures false --data.source digits --data.batch_size 100 --model.hidden [50] --model.patience 1
--model.lr 1 --trainer.val_check_interval 90
--last.every_n_train_steps 40 --trainer.log_every_n_steps 30"""  # fmt: skip
OFTEN = OFTEN.split()


def newest() -> int:
    """Number of the newest run."""
    return max(int(folder.name.removeprefix("version_")) for folder in RUNS.glob("version_*"))


def resume_or_start(options: list[str]) -> list[str]:
    """The options of a job that is started again and again."""
    return ["--ckpt_path", "last"] if list(RUNS.glob("*/checkpoints/last.ckpt")) else options


def assert_same_run(version: int) -> None:
    """A run is what the unbroken version_0 is: parameters, step sizes, metrics, and what was best."""
    whole, broken = (checkpoint(version=each) for each in (0, version))
    assert broken["global_step"] == whole["global_step"]
    assert_same_parameters(broken["state_dict"], whole["state_dict"])
    assert broken["lr_schedulers"] == whole["lr_schedulers"]
    assert scalars(version) == scalars(0)
    best = [checkpoint("best", each) for each in (0, version)]
    assert best[0]["global_step"] == best[1]["global_step"]
    assert_same_parameters(best[0]["state_dict"], best[1]["state_dict"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param("", marks=pytest.mark.full),
        pytest.param("--model.schedule plateau", marks=pytest.mark.full),
        "--model.schedule plateau --data.distort true --data.replace 0.5 --data.fade 0.5",
    ],
)
def test_a_run_killed_at_any_moment_goes_on_exactly(settings: str, full: bool, run: Run) -> None:
    options = [*OFTEN, *settings.split(), "--trainer.max_epochs", "30" if full else "4"]
    run("fit", *options)
    RUNS.rename("whole")
    moments, kills = random.Random(0), 0
    while kills < (20 if full else 1):
        process = subprocess.Popen(
            [*FIT, *resume_or_start(options)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        # Start-up takes about 5 s, so most kills meet training, a validation or a checkpoint.
        try:
            _, messages = process.communicate(timeout=moments.uniform(2, 9))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            for path in RUNS.rglob("*.ckpt"):
                assert torch.load(path, weights_only=True)["global_step"] > 0
        else:
            assert process.returncode == 0, messages
            shutil.rmtree(RUNS)  # it was faster than we: once more
    run("fit", *resume_or_start(options))
    version = newest()
    Path("whole/version_0").rename(RUNS / "whole")
    (RUNS / f"version_{version}").rename(RUNS / "version_broken")
    for other in RUNS.glob("version_[0-9]*"):  # killed before their first checkpoint
        assert not list(other.rglob("*.ckpt"))
        shutil.rmtree(other)
    (RUNS / "whole").rename(RUNS / "version_0")
    (RUNS / "version_broken").rename(RUNS / "version_1")
    assert_same_run(1)


# Python imports this as sitecustomize: each process names its threads when it is about to end.
THREADS_AT_EXIT = """
import atexit
from contextlib import suppress
from pathlib import Path

@atexit.register
def name_threads():
    with open("threads", "a") as file:
        for name in Path("/proc/self/task").glob("*/comm"):
            with suppress(OSError):  # it has ended
                file.write(name.read_text())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "devices"),
    [
        (signal.SIGINT, 1),
        pytest.param(signal.SIGTERM, 1, marks=pytest.mark.full),
        (signal.SIGTERM, 2),
    ],
    ids=str,
)
def test_a_signal_ends_a_run_tidily(
    signum: int, devices: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = run if devices == 1 else run_apart
    options = [*OFTEN, "--trainer.devices", str(devices), "--trainer.accelerator", "cpu", "--trainer.max_epochs"]
    fit("fit", *options, 2)

    (tmp_path / "sitecustomize.py").write_text(THREADS_AT_EXIT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    process = subprocess.Popen([*FIT, *options, "1000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(RUNS.glob("version_1/checkpoints/last.ckpt")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(random.random() / 5)
    process.send_signal(signum)
    output, messages = process.communicate(timeout=300)
    assert output.count("epoch ") <= 1  # after its current block, however long that takes here
    assert process.returncode == 128 + signum
    assert "Traceback" not in messages
    assert "gloo" not in Path("threads").read_text()
    path = checkpoint_named(messages)
    assert messages.splitlines()[-1].startswith(f"stopped by {signal.Signals(signum).name}; resume with: python -m")
    assert 0 < torch.load(path, weights_only=True)["global_step"] < 550 / devices * 2
    fit("fit", "--ckpt_path", path, "--trainer.max_epochs", 2)
    assert_same_run(1)


def checkpoint_named(messages: str) -> str:
    """The checkpoint in the command to go on with."""
    return re.search(r"--ckpt_path (\S+last\.ckpt)$", messages, re.M)[1]


def test_an_interruption_while_libraries_are_loaded(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    process = subprocess.Popen(FIT, cwd=tmp_path, stdout=subprocess.PIPE, stderr=its)
    os.close(its)
    loading = b"loading torch and Lightning ...\r"
    said = b""
    while len(said) < len(loading):  # until Python has started, which takes long on a busy machine
        said += os.read(ours, 1000)
    assert said == loading
    time.sleep(random.random() / 2)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=300) == (b"", None)
    assert process.returncode == 128 + signal.SIGINT
    assert os.read(ours, 1000) == b" " * (len(loading) - 1) + b"\r"  # nothing but the message wiped out
    os.close(ours)
    assert not list(tmp_path.iterdir())


def test_a_signal_before_training_leaves_no_half_of_a_run(tmp_path: Path) -> None:
    command = [*FIT, "--data.data_dir", str(tmp_path / "data"), "--data.source", "digits"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / RUNS).is_dir():  # made shortly before training starts
        assert process.poll() is None
    process.terminate()
    _, messages = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    assert messages.splitlines()[-1].startswith("stopped by SIGTERM")
    trained = list(tmp_path.rglob("config.yaml"))
    assert bool(list(tmp_path.rglob("*.ckpt"))) == bool(list(tmp_path.rglob("events*"))) == bool(trained)


def test_a_signal_that_is_ignored_stays_ignored(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup."""
    log = LossLog.on_train_batch_end

    def interrupted(*args: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        log(*args)

    monkeypatch.setattr(LossLog, "on_train_batch_end", interrupted)
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run("fit", *SMALL)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, usual)
    assert checkpoint()["global_step"] == 110


def test_a_refused_resumption_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", *OFTEN, "--trainer.max_steps", "200"])
    (RUNS / "version_0" / "config.yaml").unlink()
    before = set(RUNS.rglob("*"))
    with pytest.raises(SystemExit):
        main(["fit", "--ckpt_path", "last", "--data.batch_size", "300"])
    assert before <= set(RUNS.rglob("*"))


def test_runs_started_at_once_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = [*OFTEN, "--trainer.max_steps", "60"]
    processes = [
        subprocess.Popen([*FIT, *options, "--seed_everything", str(seed)], stdout=subprocess.DEVNULL)
        for seed in (1, 2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    seeds = [checkpoint(version=version)["datamodule_hyper_parameters"]["seed"] for version in (0, 1)]
    assert sorted(seeds) == [1, 2]
    for version in (0, 1):
        folder = RUNS / f"version_{version}"
        assert len(list(folder.glob("*/events*"))) == 1
        assert f"seed_everything: {seeds[version]}\n" in (folder / "config.yaml").read_text()


def test_a_full_disk_is_one_line_and_the_checkpoint_before_is_whole(tmp_path: Path) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    fit = f"{sys.executable} -m mnist_mlp fit --data.source digits --data.batch_size 1000 --pictures false"
    script = (
        f"mount -t tmpfs -o size=4m tmpfs {disk} || exit 77\n"
        f"cd {disk}; {fit} --trainer.max_epochs 3; code=$?; cp -r lightning_logs {kept}; exit $code"
    )
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    if shutil.which("unshare") is None or subprocess.run([*command[:-3], "true"], capture_output=True).returncode:
        pytest.skip("needs to mount a small file system")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 77:
        pytest.skip("needs to mount a small file system")
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert re.search(r"checkpoint \S+ cannot be saved \(.*No space left.*\); the one saved before is as it was", line)
    assert "Traceback" not in result.stderr
    for name in ("best", "last"):
        saved = torch.load(kept / "version_0" / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert saved["global_step"] == 55
    assert not list(kept.rglob("*.part"))


def test_time_is_up_between_epochs_and_validations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though a validation is due after every block: the next one is of one update."""
    monkeypatch.chdir(tmp_path)
    options = [*OFTEN[:-6], "--trainer.val_check_interval", "25", "--last.train_time_interval", "00:00:00"]
    saved, save = [], LastCheckpoint.save

    def watched(self: LastCheckpoint, trainer: Trainer) -> None:
        saved.append(trainer.global_step)
        save(self, trainer)
        if len(saved) == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(LastCheckpoint, "save", watched)
    with pytest.raises(SystemExit) as end:
        main(["fit", *options])
    assert end.value.code == 143
    assert saved == [26, 51, 76, 101]
    assert "resume with:" in capsys.readouterr().err


@pytest.mark.parametrize("stopped", [False, True])
def test_an_epoch_that_is_over_is_not_counted_again(stopped: bool, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither after a run that ends with it, nor after one that is stopped before the next."""
    options = [*SMALL, "--trainer.max_epochs", 9, "--trainer.max_steps"]
    run("fit", *options, 150)
    if stopped:
        save = LastCheckpoint.on_train_epoch_end

        def interrupted(self: LastCheckpoint, trainer: Trainer, pl_module: LightningModule) -> None:
            save(self, trainer, pl_module)
            if trainer.global_step == 110:
                raise StoppedBySignalError(signal.SIGTERM, between_updates=False)

        monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", interrupted)
        with pytest.raises(SystemExit):
            run("fit", *options, 150)
        monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", save)
    else:
        run("fit", *options, 110)
    assert checkpoint(version=1)["global_step"] == 110
    run("fit", "--ckpt_path", "last", "--trainer.max_steps", 150)
    assert_same_parameters(checkpoint(version=1)["state_dict"], checkpoint()["state_dict"])
    assert scalars(1)["val/loss"] == scalars()["val/loss"]
