"""The command line: help, settings as files, and one clear line for everything that a user can get wrong."""

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, SMALL, Error, Run, put_archives, serve

from mnist_mlp import MLPClassifier
from mnist_mlp.cli.functions import FUNCTIONS
from mnist_mlp.cli.lightning_cli import COMMANDS
from mnist_mlp.cli.main import main
from mnist_mlp.cli.short_names import SHORT

Help = Callable[..., str]


@pytest.fixture
def help_of(run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Help:
    """The help of a command in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def text(command: str, *topic: str) -> str:
        with pytest.raises(SystemExit) as end:
            run(command, "--help", *topic)
        assert end.value.code == 0
        return capsys.readouterr().out

    return text


@pytest.mark.parametrize("command", [*COMMANDS, *FUNCTIONS])
def test_help_fits_two_screens(command: str, help_of: Help) -> None:
    lines = help_of(command).splitlines()
    assert lines[0] == f"usage: python -m mnist_mlp {command} [options]"
    assert len(lines) < 48
    assert max(map(len, lines)) <= 80


def test_help_in_a_terminal_of_few_columns(help_of: Help, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    assert "--epochs N" in help_of("fit")


def test_help_begins_with_the_most_used_options_and_their_full_names(help_of: Help) -> None:
    text = help_of("fit")
    assert re.findall(r"^  --(\w+)", text, re.M)[:5] == ["lr", "loss", "hidden", "schedule", "epochs"]
    for short, shown in (("--lr", "(model.lr: 0.1)"), ("--hidden", "(model.hidden: [500])"), ("--optimizer", "")):
        assert shown in re.split(rf"^  {short} ", text, flags=re.M)[1].partition("\n  --")[0]
    assert "trainer.limit_train_batches" not in text


@pytest.mark.parametrize(
    ("topic", "part"),
    [
        ("model", "--hidden"),
        ("data", "--data.rotation"),
        ("trainer", "--trainer.limit_train_batches"),
        ("checkpoint", "--checkpoint.monitor"),
        ("last", "--last.every_n_train_steps"),
    ],
)
def test_help_of_a_group(topic: str, part: str, help_of: Help, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("fit", topic)
    assert f"\n  {part} " in text
    assert {name.partition(".")[0] for name in re.findall(r"^  --(\w+\.)", text, re.M)} <= {topic}
    with pytest.raises(SystemExit):
        main(["fit", f"--{topic}.help"])
    assert capsys.readouterr().out == text


def test_help_of_a_class(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--optimizer.help", "Adam"])
    assert "\n  --optimizer.betas " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "own", "foreign"),
    [
        ("find_lr", ("--updates", "--grid", "--refine", "--batch_size"), ("--lr", "--epochs", "--devices")),
        ("compare_batch_sizes", ("--batch_sizes", "--grid", "--budget", "--epochs"), ("--batch_size", "--lr")),
        ("compare_decays", ("--decays", "--lr"), ("--schedule", "--optimizer")),
        ("compare_methods", ("--grid", "--epochs"), ("--lr", "--schedule", "--ckpt_path")),
        ("test", ("--errors", "--ckpt_path"), ("--lr", "--epochs", "--optimizer", "--pictures")),
        ("predict", ("--images", "--csv", "--ckpt_path"), ("--lr", "--epochs", "--optimizer")),
    ],
)
def test_help_shows_options_that_have_an_effect(
    command: str, own: tuple[str, ...], foreign: tuple[str, ...], help_of: Help
) -> None:
    text = help_of(command)
    for option in (*own, "--hidden", "--loss", "--data_dir", "--seed"):
        assert re.search(rf"\n  {option} ", text)
    assert not any(re.search(rf"\n  {option} ", text) for option in foreign)


def test_short_names_are_the_same_options(printed: Callable[..., str]) -> None:
    short = "--lr 0.3 --loss=squared --hidden 30,20 --epochs 5 --batch_size=100 --data_dir d --seed 3 --devices 2"
    full = "--model.lr 0.3 --model.loss squared --model.hidden [30,20] --trainer.max_epochs 5 --data.batch_size 100 "
    full += "--data.data_dir d --seed_everything 3 --trainer.devices 2"
    assert printed(*short.split()) == printed(*full.split())
    assert printed("--hidden", "30") == printed("--model.hidden=[30]")


def test_every_short_name_is_an_option(printed: Callable[..., str]) -> None:
    settings = yaml.safe_load(printed())
    for name in SHORT.values():
        group, _, option = name.rpartition(".")
        assert option in (settings[group] if group else settings)


def test_studies_take_short_names_where_they_have_none_of_their_own(run: Run) -> None:
    run(
        "find_lr",
        "--source",
        "digits",
        "--hidden",
        "5",
        "--grid",
        "0.1",
        "--refine",
        0,
        "--seed",
        4,
        "--json",
        "out.json",
    )
    assert json.loads(Path("out.json").read_text()) == {"gamma_0": 0.1}
    settings = yaml.safe_load(Path("lightning_studies/find_lr_0/settings.yaml").read_text())
    assert (settings["model"]["hidden"], settings["grid"], settings["data"]["seed"]) == ([5], [0.1], 4)


@pytest.mark.parametrize("option", ["--lr", "--model.lr", "--trainer.max_epochs", "--optimizer", "--optimizer.lr"])
@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_setting_of_fit_alone_is_refused(command: str, option: str, error: Error) -> None:
    assert f"{option}: {command} does not use it: leave it out" in error(command, option, 1)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("fit --epoch 5", "--epoch: fit has no such option: did you mean --epochs?"),
        ("fit --learning-rate 1", "--learning-rate: fit has no such option: did you mean --lr?"),
        (
            "fit --trainer.max_stesp 3",
            "--trainer.max_stesp: fit has no such option: did you mean --trainer.max_steps?",
        ),
        ("fit --model.hiden=3", "--model.hiden: fit has no such option: did you mean --model.hidden?"),
        ("fit --workers 3", "--workers: fit has no such option: see fit --help"),
        ("fit picture.png", "picture.png: is no option: these begin with --"),
        ("fit --distort", "--data.distort: give a value"),
        ("find_lr --lr 1", "--lr: find_lr does not use it: leave it out"),
        ("find_lr --model.lr=1", "--model.lr: find_lr does not use it: leave it out"),
        ("test --epochs 3", "--epochs: test does not use it: leave it out"),
        ("find_lr --updatse 1", "--updatse: find_lr has no such option: did you mean --updates?"),
        ("draw --seed 3", "--seed: draw has no such option: see draw --help"),
        ("tran", "unknown command tran: did you mean fit?"),
        ("find-lr", "unknown command find-lr: did you mean find_lr?"),
        ("evaluate", "unknown command evaluate: did you mean test?"),
    ],
)
def test_a_near_miss_names_the_nearest_word(words: str, line: str, error: Error) -> None:
    assert error(*words.split()).startswith(f"error: {line}")


def test_no_command_at_all_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert set(re.findall(r"^  (\w+) +\w", capsys.readouterr().out, re.M)) == COMMANDS.keys() | FUNCTIONS.keys()


def test_version(run: Run) -> None:
    assert run("--version")[0].strip() == version("mnist_mlp")


@pytest.fixture
def printed(run: Run, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The settings that `fit` prints with some arguments."""

    def settings(*args: object) -> str:
        with pytest.raises(SystemExit) as end:
            run("fit", *args, "--print_config")
        assert end.value.code == 0
        return capsys.readouterr().out

    return settings


def test_printed_settings_are_taken_back_and_complete(printed: Callable[..., str]) -> None:
    given = printed("--model.hidden", "[300,200]", "--trainer.gradient_clip_val", 1, "--optimizer", "Adam")
    Path("settings.yaml").write_text(given)
    assert printed("--config", "settings.yaml") == given
    settings = yaml.safe_load(given)
    assert settings["model"]["hidden"] == [300, 200]
    assert {"limit_train_batches", "logger", "callbacks"} <= settings["trainer"].keys()


@pytest.mark.parametrize("group", ["model", "data", "trainer", "checkpoint", "last"])
def test_a_group_without_settings_is_as_if_left_out(group: str, printed: Callable[..., str]) -> None:
    Path("empty.yaml").write_text(f"seed_everything: 0\n{group}:\n  # lr: 0.3\n")
    assert printed("--config", "empty.yaml") == printed()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_configs_train(path: Path, run: Run) -> None:
    run("fit", "--config", path, "--data.source", "digits", "--trainer.max_steps", 2)
    assert torch.load("lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("program", [[sys.executable, "-m", "mnist_mlp"], ["mnist-mlp"]])
def test_both_names_of_the_program(program: list[str], tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        [*program, "fit", "--model.lr", "-1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines() == ["error: --model.lr: must be >0 and <inf, not -1"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "given", "allowed"),
    [
        ("--model.lr", "-1", ">0"),
        ("--model.lr", "0", ">0"),
        ("--model.lr", "nan", ">0"),
        ("--model.lr", "inf", "<inf"),
        ("--model.lr", "fast", "float"),
        ("--model.hidden", "", "1,2,3"),
        ("--model.hidden", "[0]", ">0"),
        ("--model.hidden", "[500,-3]", ">0"),
        ("--model.hidden", "many", "1,2,3"),
        ("--model.loss", "hinge", "'mse', 'squared', 'cross_entropy'"),
        ("--model.activation", "tanh", "'softplus', 'relu'"),
        ("--data.source", "cifar", "'auto', 'mnist', 'digits'"),
        ("--data.batch_size", "0", ">0"),
        ("--data.batch_size", "-5", ">0"),
        ("--data.batch_size", "55001", "55000"),
        ("--data.val_size", "-1", ">=0"),
        ("--data.val_size", "60000", "60000"),
        ("--data.batch_size", "2.5", "int"),
        ("--seed_everything", "-1", ">=0"),
        ("--seed_everything", "true", "int"),
    ],
)
def test_bad_values_name_the_option_what_was_given_and_what_is_allowed(
    option: str, given: str, allowed: str, error: Error
) -> None:
    line = error("fit", "--data.source", "digits", option, given)
    assert option in line
    assert given.strip("[]").split(",")[-1] in line
    assert allowed in line


@pytest.mark.parametrize(
    ("args", "part"),
    [
        ((), "fit, validate, test, predict, prepare_data, find_lr"),
        (("foo",), "unknown command foo: choose one of fit, validate, test, predict, prepare_data, find_lr"),
        (("fit", "--model.width", 3), "--model.width"),
        (("fit", "--config", "nowhere.yaml"), "nowhere.yaml"),
        (("fit", "--trainer.accelerator", "abacus"), "abacus"),
        (("fit", "--optimizer", "SGD", "--optimizer.lr", -3), "-3"),
        (("fit", "--optimizer", "Magic"), "Magic"),
        (("fit", "--optimizer", "LBFGS"), "LBFGS"),
        (("fit", "--trainer.overfit_batches", 1), "--trainer.overfit_batches"),
        (("fit", "--last.every_n_train_steps", -1), "--last.every_n_train_steps: must be >=0"),
        (("fit", "--optimizer", "Adam", "--model.lr", 0.3), "--model.lr 0.3 has no effect with --optimizer"),
        (("fit", "--optimizer", "Adam", "--model.lr", 0.1), "--model.lr 0.1 has no effect with --optimizer"),
        (("fit", "--optimizer", "Adam", "--model.lr=0.1"), "--model.lr 0.1 has no effect with --optimizer"),
        (("fit", "--trainer.devices", 0), "--trainer.devices"),
        (("fit", "--data.source", "digits", "--trainer.default_root_dir", "/proc/x"), "/proc/x"),
        (("validate",), "--ckpt_path best"),
        (("test", "--ckpt_path", "last"), "--ckpt_path last"),
        (("fit", "--ckpt_path", "last"), "--ckpt_path last"),
        (("test", "--ckpt_path", "nowhere.ckpt"), "nowhere.ckpt"),
        (("find_lr", "--model.lr", 1), "--model.lr: find_lr does not use it"),
        (("prepare_data", "--data.batch_size", 1), "--data.batch_size: prepare_data does not use it"),
    ],
)
def test_other_mistakes(args: tuple[object, ...], part: str, error: Error) -> None:
    assert part in error(*args)


def test_data_dir_that_cannot_be_written(error: Error, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = error("fit", "--data.data_dir", "file/data")
    assert "--data.data_dir file/data cannot be written" in line


def test_mnist_that_is_not_to_be_had(error: Error) -> None:
    line = error("fit", "--data.source", "mnist")
    assert "train-images-idx3-ubyte.gz" in line
    assert "data/MNIST/raw" in line


def test_broken_mnist(archives: Path, error: Error, tmp_path: Path) -> None:
    raw = put_archives(archives, tmp_path / "data")
    (raw / "train-labels-idx1-ubyte.gz").write_bytes(b"something else")
    assert "train-labels-idx1-ubyte.gz is not MNIST's" in error("fit")


def test_run_without_mnist_and_network_names_its_data_set_twice(run: Run) -> None:
    output, messages = run("fit", "--trainer.max_steps", 1)
    assert "warning: the data set is the stand-in `digits`, not MNIST" in messages
    assert "data set    digits" in output
    assert "warning     the data set is the stand-in `digits`" in output


@pytest.mark.parametrize(
    "options",
    [
        ("--model.schedule", "inverse_sqrt"),
        ("--model.schedule", "cosine"),
        ("--optimizer", "SGD", "--optimizer.fused", "true", "--lr_scheduler", "LinearLR"),
    ],
    ids=lambda options: options[1],
)
def test_a_captured_run_in_order_warns_of_nothing(
    options: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_mlp.runtime.graphed_update.onednn_is_faster", lambda: False)
    _, messages = run("fit", *SMALL, *options)
    assert "warning" not in messages.lower()


@pytest.fixture
def trained(run: Run) -> Path:
    """A checkpoint of a small network, trained on the digits for one update."""
    run("fit", *SMALL, "--trainer.max_steps", 1)
    return Path("lightning_logs/version_0/checkpoints/last.ckpt")


def test_the_settings_of_a_run_serve_every_command(trained: Path, run: Run) -> None:
    output, _ = run("test", "--config", "lightning_logs/version_0/config.yaml", "--ckpt_path", "last")
    assert "test/accuracy" in output


def test_checkpoint_of_another_architecture(trained: Path, error: Error) -> None:
    assert "--model.hidden [30]" in error("test", "--ckpt_path", "last", "--model.hidden", "[30]")
    assert "--model.activation relu" in error("fit", "--ckpt_path", trained, "--model.activation", "relu")
    for layer in ("deskew", "directions"):
        assert f"--model.{layer} true" in error("fit", "--ckpt_path", trained, f"--model.{layer}", "true")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--seed_everything", 3),
        ("--data.val_size", 0),
        ("--data.batch_size", 500),
        ("--optimizer", "Adam"),
        ("--lr_scheduler", "ExponentialLR --lr_scheduler.gamma 0.5"),
    ],
)
def test_what_a_resumed_run_cannot_change(option: str, value: object, run: Run, error: Error) -> None:
    run("fit", *SMALL, "--trainer.max_steps", 5)
    words = ("fit", "--ckpt_path", "last", "--trainer.max_steps", 8, option, *str(value).split())
    if option == "--data.batch_size":  # found out when the loader goes on; leaves TensorBoard's empty file
        with pytest.raises(SystemExit):
            run(*words)
    else:
        assert option in error(*words)
    run(*words[:5])  # and the run is as it was
    assert torch.load("lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 8


STEPS = ("--lr_scheduler", "StepLR", "--lr_scheduler.step_size", 1)


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (("--optimizer", "Adam"), ("--optimizer", "Adam", "--optimizer.lr", 0.5)),
        (("--optimizer", "Adam"), ("--optimizer", "AdamW")),
        (STEPS, (*STEPS, "--lr_scheduler.gamma", 0.9)),
    ],
)
def test_settings_of_an_optimizer_or_scheduler_stay(
    first: tuple[object, ...], other: tuple[object, ...], run: Run, error: Error
) -> None:
    run("fit", *SMALL, *first, "--trainer.max_steps", 5)
    assert "differs from the run in" in error("fit", "--ckpt_path", "last", "--trainer.max_steps", 8, *other)
    run("fit", "--ckpt_path", "last", "--trainer.max_steps", 8)


@pytest.mark.parametrize("content", [b"model:\n  loss: \xff\n", b"model: {lr: [", b"nonsense: 3\n"])
def test_a_run_whose_settings_are_damaged(content: bytes, trained: Path, error: Error) -> None:
    Path("lightning_logs/version_0/config.yaml").write_bytes(content)
    error("fit", "--ckpt_path", "last", "--trainer.max_steps", 2)


@pytest.mark.parametrize("command", ["fit", "find_lr"])
def test_settings_that_are_no_text(command: str, error: Error, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"model:\n  loss: \xff\n")
    assert "--config must be text in UTF-8" in error(command, "--config", "bad.yaml")


def test_settings_of_fit_that_a_study_does_not_use(error: Error, tmp_path: Path) -> None:
    (tmp_path / "fit.yaml").write_text("model: {lr: 0.3}")
    assert "this command does not use model.lr: leave it out" in error("find_lr", "--config", "fit.yaml")


def test_a_fast_dev_run_leaves_no_files(run: Run, tmp_path: Path) -> None:
    run("fit", *SMALL, "--trainer.fast_dev_run", 2)
    assert not list(tmp_path.rglob("*"))


def test_step_size_of_another_optimizer_is_not_changed_by_the_way(run: Run, error: Error) -> None:
    run("fit", *SMALL, "--optimizer", "Adam", "--trainer.max_steps", 5)
    assert "--model.lr" in error("fit", "--ckpt_path", "last", "--trainer.max_steps", 8, "--model.lr", 0.5)


def test_settings_that_lie_beside_a_checkpoint_by_chance_are_not_taken(trained: Path, run: Run) -> None:
    Path("a").mkdir()
    trained.rename("a/mine.ckpt")
    Path("config.yaml").write_text("model: {lr: 77.0}")
    run("fit", "--ckpt_path", "a/mine.ckpt", "--trainer.max_steps", 2)
    assert yaml.safe_load(Path("lightning_logs/version_1/config.yaml").read_text())["model"]["lr"] == 0.1


def test_checkpoint_from_a_url(trained: Path, run: Run, error: Error, tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    (served / "good.ckpt").write_bytes(trained.read_bytes())
    (served / "code.ckpt").write_bytes(pickle.dumps(Executed()))
    with serve(served) as url:
        assert "test/accuracy" in run("test", "--ckpt_path", f"{url}good.ckpt")[0]
        assert "not a checkpoint" in error("test", "--ckpt_path", f"{url}code.ckpt")
        assert f"{url}none.ckpt: cannot be downloaded" in error("fit", "--ckpt_path", f"{url}none.ckpt")
    assert not Path("executed").exists()


def test_predict_is_for_one_process(trained: Path, error: Error) -> None:
    devices = ("--trainer.devices", 2, "--trainer.accelerator", "cpu")
    assert "--trainer.devices is 2" in error("predict", "--ckpt_path", "last", *devices)


def test_missing_best_points_to_last(trained: Path, error: Error) -> None:
    assert "use --ckpt_path last" in error("test")


def test_defaults_are_the_notebooks(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("fit", "--print_config")
    settings = yaml.safe_load(capsys.readouterr().out)
    notebooks = {"hidden": [500], "activation": "softplus", "loss": "mse", "lr": 0.1, "schedule": "constant"}
    assert {name: settings["model"][name] for name in notebooks} == notebooks
    assert settings["data"]["batch_size"] == 200
    assert settings["data"]["val_size"] == 5000
    assert settings["data"]["source"] == "auto"
    assert settings["data"]["data_dir"] == "data"
    assert settings["trainer"]["max_epochs"] == 2
    assert settings["trainer"]["devices"] == 1
    assert settings["trainer"]["accelerator"] == "auto"


def test_checkpoint_of_another_data_set(trained: Path, mnist_dir: Path, error: Error, run: Run) -> None:
    mnist, named = ("--data.data_dir", mnist_dir, "--data.source", "auto"), ("--data.source", "mnist")
    mnist += ("--ckpt_path", "last")
    for command in ("validate", "test"):  # `auto` is the data set that the checkpoint was trained on
        assert "image" not in run(command, *mnist)[1]
    assert "--data.source mnist" in error("fit", *mnist, "--data.source", "mnist")
    outputs = [run("test", *mnist, *other)[0] for other in ((), named)]
    found = [float(re.search(r"test/accuracy\s+([\d.]+)", output)[1]) for output in outputs]
    assert found[0] > found[1]  # on the digits, and on MNIST, which has to be named


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize("kind", ["text", "truncated", "foreign", "code"])
def test_file_that_is_no_checkpoint(command: str, kind: str, trained: Path, error: Error, tmp_path: Path) -> None:
    path = tmp_path / f"{kind}.ckpt"
    if kind == "text":
        path.write_text("these are no weights")
    elif kind == "truncated":
        path.write_bytes(trained.read_bytes()[:20_000])
    elif kind == "foreign":
        torch.save({"state_dict": {}}, path)
    else:
        path.write_bytes(pickle.dumps(Executed()))
    line = error(command, "--data.source", "digits", "--ckpt_path", path)
    assert f"--ckpt_path {path}: not a checkpoint" in line
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("loss", "hinge", "--ckpt_path changed.ckpt: loss: must be one of"),
        ("hidden", "abc", "--ckpt_path changed.ckpt: hidden: must be a number or several"),
        ("hidden", [30], "its parameters are not of the network it names"),
        ("lr", -1.0, "--ckpt_path changed.ckpt: lr: must be >0"),
    ],
)
def test_checkpoint_whose_settings_do_not_fit(key: str, value: object, part: str, trained: Path, error: Error) -> None:
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint["hyper_parameters"][key] = value
    torch.save(checkpoint, "changed.ckpt")
    assert part in error("test", "--ckpt_path", "changed.ckpt")


def test_checkpoint_of_parameters_alone_is_evaluated_but_not_gone_on_with(trained: Path, error: Error) -> None:
    checkpoint = torch.load(trained, weights_only=True)
    for part in ("loops", "callbacks", "optimizer_states", "lr_schedulers"):
        del checkpoint[part]
    torch.save(checkpoint, "parameters.ckpt")
    assert "no state of training to go on with" in error("fit", "--ckpt_path", "parameters.ckpt")
    main(["test", "--ckpt_path", "parameters.ckpt"])


def test_checkpoint_cannot_name_code_to_run(trained: Path) -> None:
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint["hyper_parameters"]["_instantiator"] = "os.mkdir"
    torch.save(checkpoint, "changed.ckpt")
    assert MLPClassifier.load_from_checkpoint("changed.ckpt").net.fc1.out_features == 20


class Executed:
    """Would leave a file behind if it were unpickled as code."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


def test_newest_run_with_a_checkpoint_is_found(run: Run, error: Error) -> None:
    run("fit", *SMALL, "--trainer.max_steps", 1)
    run("fit", *SMALL, "--trainer.max_steps", 2)
    Path("lightning_logs/version_7").mkdir()  # a run that was killed before its first checkpoint
    _, messages = run("test", "--data.source", "digits", "--ckpt_path", "last")
    assert "lightning_logs/version_1/checkpoints/last.ckpt" in messages


def test_default_root_dir_moves_the_runs(run: Run) -> None:
    place = ("--trainer.default_root_dir", "elsewhere")
    output, _ = run("fit", *SMALL, *place, "--trainer.max_steps", 1)
    assert "elsewhere/lightning_logs/version_0/checkpoints/last.ckpt" in output
    _, messages = run("test", "--data.source", "digits", "--ckpt_path", "last", *place)
    assert "elsewhere/lightning_logs/version_0" in messages
