"""Runs: updates and steps, checkpoints and resuming, optimizers and schedulers, TensorBoard, several processes."""

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml
from conftest import ROOT, RUNS, SCHEDULES, SMALL, Error, Run, assert_same_parameters, checkpoint, curves_in, scalars
from lightning.pytorch import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from mnist_mlp import MLP, MLPClassifier, MNISTDataModule
from mnist_mlp.cli.main import main
from mnist_mlp.errors import UserError
from mnist_mlp.runtime.blocks import Block
from mnist_mlp.runtime.fast_training import FastClassifier
from mnist_mlp.runtime.graphed_update import GraphedUpdate
from mnist_mlp.runtime.loss_log import LossLog


def test_run_counts_updates_logs_and_saves(run: Run) -> None:
    output, _ = run("fit", *SMALL)

    for expected in (
        "data set    digits, 55,000 training and 5,000 validation images",
        "110 updates",
        "2 epochs in all",
        "validation  loss 0.0",
        "version_0/checkpoints/best.ckpt",
    ):
        assert expected in output
    assert "python -m mnist_mlp test --ckpt_path" in output
    assert "tensorboard --logdir lightning_logs" in output

    last = checkpoint()
    assert last["global_step"] == 110
    assert last["hyper_parameters"]["hidden"] == [20]
    assert last["datamodule_hyper_parameters"]["dataset"] == "digits"
    assert yaml.safe_load((curves_in(RUNS / "version_0") / "hparams.yaml").read_text())["dataset"] == "digits"

    curves = scalars()
    assert [step for step, _ in curves["train/loss"]] == [24, 49, 74, 99, 109]  # the last updates too
    assert [step for step, _ in curves["val/accuracy"]] == [54, 109]
    assert [(step, round(value, 6)) for step, value in curves["train/lr"]] == [(k, 0.1) for k in (24, 49, 74, 99, 109)]
    assert "val/loss" in curves
    assert "epoch" not in curves  # which Lightning adds
    assert curves["train/loss"][0][1] > curves["train/loss"][-1][1]


def test_terminal_gets_a_progress_bar_and_a_file_gets_lines(run: Run) -> None:
    output, _ = run("fit", *SMALL)
    assert (
        len(
            re.findall(
                r"^epoch [12] of 2: train/loss 0\.\d+, val/loss 0\.\d+, val/accuracy 0\.\d+, lr 0\.1$", output, re.M
            )
        )
        == 2
    )
    command = [sys.executable, "-m", "mnist_mlp", "fit", *map(str, SMALL)]
    shown = b""
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # lines and columns
    with suppress(OSError):  # the end of a terminal
        while part := os.read(terminal, 65536):
            shown += part
    assert os.waitpid(process, 0)[1] == 0
    bars = [line for line in re.split(r"[\r\n]+", shown.decode()) if "left" in line]
    assert any(re.search(r"epoch 2 of 2:  \|.*, val/accuracy=0\.", line) for line in bars)
    assert max(len(line.replace("\x1b[A", "")) for line in bars) <= 80
    assert re.findall(r"^epoch (\d) of 2: train", shown.decode().replace("\r", "\n"), re.M) == ["1", "2"]
    assert b"checkpoints/best.ckpt" in shown


def test_hparams_tab_lists_the_run_beside_its_metrics(run: Run) -> None:
    run("fit", *SMALL, "--trainer.max_epochs", 1)
    events = EventAccumulator(str(curves_in(RUNS / "version_0")))
    events.Reload()
    contents = [
        plugin_data_pb2.HParamsPluginData.FromString(content)
        for content in events.PluginTagToContent("hparams").values()
    ]
    metrics = {info.name.tag for content in contents for info in content.experiment.metric_infos}
    assert metrics == {"val/loss", "val/accuracy", "test/accuracy"}
    run("test", "--json", "result.json")
    assert metrics <= scalars().keys()
    assert scalars()["test/accuracy"] == [(54, pytest.approx(json.loads(Path("result.json").read_text())["accuracy"]))]
    values = {name: value for content in contents for name, value in content.session_start_info.hparams.items()}
    assert values["lr"].number_value == 0.1
    assert values["hidden"].string_value == "[20]"
    assert values["distort"].string_value == "False"
    assert values["dataset"].string_value == "digits"


def test_training_loss_is_the_mean_over_the_updates_since_the_last_point(run: Run) -> None:
    run("fit", *SMALL, "--trainer.max_steps", 10, "--trainer.log_every_n_steps", 1)
    run("fit", *SMALL, "--trainer.max_steps", 10, "--trainer.log_every_n_steps", 5)
    every, fifth = (scalars(version)["train/loss"] for version in (0, 1))
    assert [step for step, _ in every] == list(range(10))
    assert [step for step, _ in fifth] == [4, 9]
    assert fifth[1][1] == pytest.approx(sum(value for _, value in every[5:]) / 5)


def test_best_is_the_best_by_validation_accuracy(run: Run) -> None:
    # After the first epoch the step size is so large that the network gets worse.
    worse = ("--lr_scheduler", "StepLR", "--lr_scheduler.step_size", 1, "--lr_scheduler.gamma", 50)
    run("fit", *SMALL, *worse)
    accuracies = [value for _, value in scalars()["val/accuracy"]]
    assert accuracies[0] > accuracies[1]
    assert checkpoint("best")["global_step"] == 55
    assert checkpoint("last")["global_step"] == 110


def test_a_seed_gives_the_same_run_and_another_seed_another(run: Run) -> None:
    for seed in (1, 1, 2):
        run("fit", *SMALL, "--trainer.max_steps", 5, "--seed_everything", seed)
    first, same, other = (checkpoint(version=version)["state_dict"] for version in range(3))
    assert_same_parameters(first, same)
    assert not torch.equal(first["net.fc1.weight"], other["net.fc1.weight"])


@pytest.mark.parametrize("stop", [30, 55, 70])  # in the first epoch, at its end, in the second
def test_a_run_that_max_steps_stopped_goes_on_exactly(stop: int, run: Run) -> None:
    run("fit", *SMALL)
    whole = checkpoint()
    run("fit", *SMALL, "--trainer.max_steps", stop)
    assert checkpoint(version=1)["global_step"] == stop
    _, messages = run("fit", "--ckpt_path", "last", "--trainer.max_steps", -1)  # everything else as in its run
    assert "lightning_logs/version_1/checkpoints/last.ckpt" in messages
    assert not (RUNS / "version_2").exists()
    resumed = checkpoint(version=1)
    assert resumed["global_step"] == whole["global_step"] == 110
    assert_same_parameters(resumed["state_dict"], whole["state_dict"])
    for tag in ("val/loss", "val/accuracy"):
        assert scalars(1)[tag] == scalars(0)[tag]
    for tag in ("train/loss", "train/lr"):
        points, until_stop = scalars(1)[tag], stop - 1
        assert [step for step, _ in points] == sorted({24, 49, 74, 99, 109, until_stop})
        assert [point for point in points if point[0] != until_stop] == scalars(0)[tag]


def test_a_run_killed_between_checkpoints_goes_on_from_the_last_one_exactly(run: Run, tmp_path: Path) -> None:
    run("fit", *SMALL)
    (tmp_path / "kill.py").write_text(
        "import os, signal\n"
        "from mnist_mlp.cli.main import main\n"
        "from mnist_mlp.runtime.loss_log import LossLog\n"
        "log = LossLog.on_train_batch_end\n"
        "def killed(self, trainer, *args):\n"
        "    if trainer.global_step > 70:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    log(self, trainer, *args)\n"
        "LossLog.on_train_batch_end = killed\n"
        "main()\n"
    )
    often = ("--last.every_n_train_steps", 10)
    command = [sys.executable, "kill.py", "fit", *map(str, (*SMALL, *often))]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -9
    assert checkpoint(version=1)["global_step"] == 70
    run("fit", "--ckpt_path", "last")
    assert_same_parameters(checkpoint(version=1)["state_dict"], checkpoint()["state_dict"])


def test_the_notebooks_table_goes_on_in_mid_epoch(run: Run) -> None:
    config = ("--config", ROOT / "configs" / "notebook.yaml", *SMALL, "--trainer.callbacks.init_args.every", 20)
    run("fit", *config, "--trainer.max_steps", 30)
    output, _ = run("fit", "--ckpt_path", "last", "--trainer.max_steps", -1)
    lines = [line.split("\t")[0] for line in output.splitlines() if "\t" in line]
    assert lines == ["Epoch", "0.65", "0.98", "1.32", "1.65", "1.98"]


def test_a_finished_run_can_be_made_longer(run: Run) -> None:
    run("fit", *SMALL, "--trainer.max_epochs", 1)
    curves = scalars()
    output, _ = run("fit", "--ckpt_path", "last")
    assert "0 updates" in output
    assert scalars() == curves
    run("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2)
    run("fit", *SMALL)
    assert_same_parameters(checkpoint(version=0)["state_dict"], checkpoint(version=1)["state_dict"])


def test_a_run_goes_on_with_another_step_size(run: Run) -> None:
    run("fit", *SMALL, "--trainer.max_epochs", 1)
    run("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2, "--model.lr", 0.05)
    assert {step: round(value, 6) for step, value in scalars()["train/lr"]}.items() >= {49: 0.1, 74: 0.05}.items()
    assert checkpoint()["hyper_parameters"]["lr"] == 0.05


def test_a_run_with_momentum_and_a_scheduler_goes_on_exactly(run: Run) -> None:
    options = ("--optimizer", "SGD", "--optimizer.lr", 0.1, "--optimizer.momentum", 0.9)
    options += ("--lr_scheduler", "ExponentialLR", "--lr_scheduler.gamma", 0.5)
    run("fit", *SMALL, *options)
    run("fit", *SMALL, *options, "--trainer.max_steps", 70)
    run("fit", "--ckpt_path", "last", "--trainer.max_steps", -1)
    assert_same_parameters(checkpoint(version=1)["state_dict"], checkpoint(version=0)["state_dict"])
    assert checkpoint(version=1)["lr_schedulers"] == checkpoint(version=0)["lr_schedulers"]


def test_saved_settings_repeat_the_run(run: Run) -> None:
    run("fit", *SMALL, "--trainer.max_steps", 5)
    run("fit", "--ckpt_path", "last", "--trainer.max_steps", 8)
    run("fit", "--config", "lightning_logs/version_0/config.yaml")
    assert_same_parameters(checkpoint(version=0)["state_dict"], checkpoint(version=1)["state_dict"])


def test_logging_is_not_called_every_update(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    log = MLPClassifier.log
    monkeypatch.setattr(
        MLPClassifier,
        "log",
        lambda self, name, *args, **kwargs: calls.append(name) or log(self, name, *args, **kwargs),
    )
    run("fit", *SMALL, "--trainer.max_epochs", 1)
    assert calls.count("train/loss") == 2  # in 55 updates


@pytest.mark.gpu
def test_updates_do_not_wait_for_the_gpu(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    step = FastClassifier.training_step
    captured = []

    def guarded(self: FastClassifier, block: Block, batch_idx: int) -> dict[str, Any]:
        captured.append(self.graph is not None)
        torch.cuda.set_sync_debug_mode("error" if captured[-1] else "default")  # to capture is to wait
        try:
            return step(self, block, batch_idx)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(FastClassifier, "training_step", guarded)
    run("fit", *SMALL, "--trainer.accelerator", "gpu", "--model.schedule", "cosine")
    assert captured == [False] + [True] * 5


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
@pytest.mark.parametrize("optimizer", ["", "momentum", "Adam"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_captured_updates_give_what_the_others_give(
    schedule: str, optimizer: str, precision: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--trainer.accelerator", "gpu", "--trainer.precision", precision, "--model.schedule", schedule]
    options += ["--data.batch_size", 990]  # the last batch of an epoch is smaller
    options += {
        "": ["--data.distort", "true", "--data.replace", 0.5],
        "momentum": ["--optimizer=SGD", "--optimizer.lr=.1", "--optimizer.momentum=.9", "--optimizer.fused=true"],
        "Adam": ["--optimizer=Adam", "--optimizer.lr=.001", "--optimizer.capturable=true"],
    }[optimizer]
    replays = []
    replay = GraphedUpdate.replay
    monkeypatch.setattr(GraphedUpdate, "replay", lambda *args: replays.append(1) or replay(*args))
    run("fit", *SMALL, *options)
    assert replays
    monkeypatch.setattr("mnist_mlp.runtime.fast_training.capturable", lambda *args: False)
    run("fit", *SMALL, *options)
    captured, plain = (checkpoint(version=version) for version in (0, 1))
    assert captured["global_step"] == plain["global_step"] == 112
    tolerance = {"32-true": 1e-4, "bf16-mixed": 1e-2, "64-true": 1e-6}[precision]
    for name, parameter in plain["state_dict"].items():
        assert (captured["state_dict"][name] - parameter).norm() <= tolerance * parameter.norm()
    assert scalars(0)["train/lr"] == scalars(1)["train/lr"]
    for tag in ("train/loss", "val/loss"):
        (steps, values), (steps_of_plain, values_of_plain) = (zip(*scalars(each)[tag], strict=True) for each in (0, 1))
        assert steps == steps_of_plain
        assert values == pytest.approx(values_of_plain, rel=10 * tolerance + 1e-5)


@pytest.mark.gpu
def test_what_cannot_be_captured_runs_without(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GraphedUpdate, "__init__", lambda *args: pytest.fail("captured"))
    run("fit", *SMALL, "--trainer.accelerator", "gpu", "--optimizer", "Adam", "--optimizer.lr", 1e-3)
    assert checkpoint()["global_step"] == 110


def test_evaluation_uses_the_checkpoints_own_network_split_and_loss(run: Run) -> None:
    run("fit", *SMALL, "--model.loss", "squared", "--data.val_size", 2000, "--seed_everything", 4)
    loss, accuracy = (scalars()[tag][-1][1] for tag in ("val/loss", "val/accuracy"))
    output, messages = run("validate")
    assert "version_0/checkpoints/best.ckpt" in messages
    assert f"val/accuracy  {accuracy:.4f}\n" in output
    assert f"val/loss      {loss:.4f}\n" in output
    assert sorted(RUNS.iterdir()) == [RUNS / "version_0"]
    result = json.loads((RUNS / "version_0/validate_best.json").read_text())
    assert (result["loss"], result["accuracy"]) == pytest.approx((loss, accuracy))
    assert (result["data"], result["images"], result["errors"]) == ("digits", 2000, round(2000 * (1 - accuracy)))


def test_an_evaluation_writes_only_into_the_folder_of_a_run(run: Run) -> None:
    run("fit", *SMALL, "--trainer.max_steps", 50)
    (RUNS / "version_0").rename("another")
    Path("another/checkpoints/last.ckpt").rename("another/last.ckpt")
    before = {path: path.stat().st_size for path in Path().rglob("*")}
    run("test", "--ckpt_path", "another/last.ckpt")
    assert {path: path.stat().st_size for path in Path().rglob("*")} == before


def test_a_message_does_not_stand_behind_the_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(SystemExit):
        main(["fit", *map(str, SMALL), "--lr", "1e9", "--pictures", "false"])
    output, messages = capsys.readouterr()
    assert "epoch 1 of 2:" in output
    assert re.search(r"\r *\r$", output)  # the bar is wiped off
    assert messages.startswith("error: diverged")


def test_an_error_before_the_first_epoch_is_not_hidden_by_the_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(LossLog, "on_train_start", Mock(side_effect=UserError("stop here")))
    with pytest.raises(SystemExit):
        main(["fit", *map(str, SMALL), "--pictures", "false"])
    assert capsys.readouterr().err.endswith("error: stop here\n")


def test_the_result_as_a_file(run: Run, error: Error) -> None:
    """Wherever the checkpoint is, and in the folder of its run."""
    run("fit", *SMALL, "--trainer.max_steps", 50)
    run("test", "--ckpt_path", "last", "--json", "result.json")
    result = json.loads(Path("result.json").read_text())
    assert json.loads((RUNS / "version_0/test_last.json").read_text()) == result
    assert [row["digit"] for row in result["digits"]] == [*range(10)]
    assert sum(row["errors"] for row in result["digits"]) == result["errors"]
    shutil.copy(RUNS / "version_0/checkpoints/last.ckpt", "elsewhere.ckpt")
    before = {*Path().rglob("*")}
    run("test", "--ckpt_path", "elsewhere.ckpt")
    assert {*Path().rglob("*")} == before
    assert "--json nowhere/x.json" in error("test", "--ckpt_path", "last", "--json", "nowhere/x.json")
    assert "--json nowhere/x.json" in error("find_lr", "--json", "nowhere/x.json")


def test_evaluation_finds_the_data_that_the_run_had(mnist_dir: Path, run: Run) -> None:
    run("fit", "--data.data_dir", mnist_dir, "--trainer.max_steps", 1)
    output, _ = run("test", "--ckpt_path", "last")
    assert "test/accuracy" in output


def test_test_is_over_the_whole_set_and_predict_gives_its_rows(run: Run) -> None:
    run("fit", *SMALL)
    output, _ = run("predict")
    header, *rows = output.splitlines()
    assert header == "image,label,prediction,score"
    assert len(rows) == 10_000
    right = sum(row.split(",")[1] == row.split(",")[2] for row in rows)
    output, _ = run("test")
    assert float(re.search(r"test/accuracy\D+([\d.]+)", output)[1]) == pytest.approx(right / 10_000)


def test_metrics_weigh_a_smaller_last_batch_right(run: Run) -> None:
    run("fit", *SMALL, "--data.val_size", 1007)  # evaluated in batches of 1000 and 7
    model = MLPClassifier.load_from_checkpoint(RUNS / "version_0/checkpoints/last.ckpt")
    data = MNISTDataModule(source="digits", val_size=1007)
    data.prepare_data()
    data.setup("validate")
    x, y = data.val_set
    with torch.no_grad():
        output = model(x)
    torch.testing.assert_close(scalars()["val/loss"][-1][1], (output - y).square().mean().item(), rtol=1e-5, atol=0)
    right = (output.argmax(dim=1) == y.argmax(dim=1)).float().mean().item()
    assert scalars()["val/accuracy"][-1][1] == pytest.approx(right)


def test_checkpoint_in_a_python_session(run: Run) -> None:
    run("fit", *SMALL, "--trainer.max_steps", 1)
    model = MLPClassifier.load_from_checkpoint(RUNS / "version_0/checkpoints/last.ckpt")
    assert isinstance(model.net, MLP)
    assert model(torch.randn(5, 1, 28, 28)).argmax(dim=1).shape == (5,)


def test_fit_in_a_python_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(MLPClassifier(lr=0.5), MNISTDataModule(source="digits"))
    assert trainer.global_step == 275
    assert trainer.callback_metrics["val/accuracy"] > 0.8


def test_training_after_a_test_in_a_python_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_steps": 5}
    model, data = MLPClassifier((20,)), MNISTDataModule(source="digits", batch_size=1000)
    for _ in range(2):
        trainer = Trainer(**options)
        trainer.fit(model, data)
        trainer.test(model, data)
    assert trainer.callback_metrics["test/accuracy"] > 0.05


def test_another_optimizer(run: Run) -> None:
    run("fit", *SMALL, "--model.hidden", "[200]", "--optimizer", "Adam", "--optimizer.lr", 1e-3)
    assert checkpoint()["global_step"] == 110
    assert {"exp_avg", "exp_avg_sq"} <= checkpoint()["optimizer_states"][0]["state"][0].keys()
    assert scalars()["val/accuracy"][-1][1] > 0.9


def test_a_scheduler_steps_every_epoch(run: Run) -> None:
    steps = ("--lr_scheduler", "StepLR", "--lr_scheduler.step_size", 1, "--lr_scheduler.gamma", 0.5)
    run("fit", *SMALL, *steps, "--trainer.max_epochs", 3, "--trainer.log_every_n_steps", 1)
    assert [value for _, value in scalars()["train/lr"]][::55] == pytest.approx([0.1, 0.05, 0.025])


def test_plateau_scheduler_sees_the_validation_loss(run: Run) -> None:
    patience = ("--lr_scheduler.patience", 0, "--lr_scheduler.threshold", 1e9, "--lr_scheduler.threshold_mode", "abs")
    plateau = ("--lr_scheduler", "ReduceLROnPlateau", "--lr_scheduler.monitor", "val/loss", *patience)
    run("fit", *SMALL, *plateau, "--trainer.max_epochs", 3, "--trainer.log_every_n_steps", 1)
    assert [value for _, value in scalars()["train/lr"]][::55] == pytest.approx([0.1, 0.1, 0.01])  # none is better


def test_training_on_all_images_without_validation(run: Run) -> None:
    output, _ = run("fit", *SMALL, "--data.val_size", 0)
    assert "120 updates" in output
    assert "val/loss" not in scalars()
    assert checkpoint("best")["global_step"] == 120  # the newest


def test_bfloat16_trains(run: Run) -> None:
    run("fit", *SMALL, "--trainer.precision", "bf16-mixed")
    assert checkpoint()["state_dict"]["net.fc1.weight"].dtype == torch.float32
    run("fit", *SMALL)
    bfloat16, float32 = (scalars(version)["val/accuracy"][-1][1] for version in (0, 1))
    assert bfloat16 == pytest.approx(float32, abs=0.02)


@pytest.mark.parametrize("lacks", [True, False])
def test_bfloat16_says_that_it_is_slower_where_it_is(lacks: bool, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnist_mlp.runtime.fast_training.lacks_bfloat16", lambda: lacks)
    words = ("--trainer.precision", "bf16-mixed", "--trainer.accelerator", "cpu", "--trainer.max_steps", 1)
    _, messages = run("fit", *SMALL, *words)
    assert ("this processor has no bfloat16, 32-true is faster" in messages) == lacks


@pytest.mark.gpu
def test_float16_is_refused(run: Run) -> None:
    with pytest.raises(SystemExit):
        run("fit", *SMALL, "--trainer.accelerator", "gpu", "--trainer.precision", "16-mixed")


@pytest.mark.gpu
def test_gpu_gives_what_the_cpu_gives(run: Run) -> None:
    for accelerator in ("cpu", "gpu"):
        run("fit", *SMALL, "--trainer.accelerator", accelerator, "--trainer.max_steps", 100)
    for name, parameter in checkpoint(version=0)["state_dict"].items():
        assert (checkpoint(version=1)["state_dict"][name].cpu() - parameter).norm() <= 1e-4 * parameter.norm()


def test_two_processes_that_diverge_say_so_once(run: Run) -> None:
    options = ("--trainer.devices", 2, "--trainer.accelerator", "cpu", "--model.lr", 1e6)
    command = [sys.executable, "-m", "mnist_mlp", "fit", *map(str, (*SMALL, *options))]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 1
    assert result.stderr.count("error: diverged:") == 1
