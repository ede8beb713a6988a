"""Every callback of Lightning's and every option of its Trainer: it works as documented, or is refused in one line."""

import importlib.util
import inspect
import logging
import re
import subprocess
import sys
from pathlib import Path

import lightning.pytorch.callbacks
import pytest
import torch
from conftest import RUNS, SMALL, Error, Run, checkpoint, events, scalars
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, LambdaCallback, ThroughputMonitor
from torch.torch_version import TorchVersion

from mnist_mlp import MLPClassifier, MNISTDataModule

ABSTRACT = {"Callback", "Checkpoint", "ProgressBar", "BasePredictionWriter"}
REFUSED_CALLBACKS = {  # options besides the class, and a part of the line
    "BackboneFinetuning": ([], "'FastClassifier' object has no attribute 'backbone'"),
    "BaseFinetuning": ([], "BaseFinetuning: NotImplementedError"),
    "BatchSizeFinder": ([], "choose the batch size by compare_batch_sizes"),
    "DeviceStatsMonitor": ([], "`psutil` is not installed"),
    "GradientAccumulationScheduler": (["scheduling={0: 2}"], "use larger batches"),
    "LearningRateFinder": ([], "use find_lr"),
    "RichModelSummary": ([], "requires `rich`"),
    "RichProgressBar": ([], "requires `rich`"),
    "StochasticWeightAveraging": (["swa_lrs=0.1"], "use WeightAveraging or EMAWeightAveraging"),
    "ThroughputMonitor": ([], "--trainer.callbacks.batch_size_fn"),  # a function, which only Python can give
}
CALLBACKS = {  # options besides the class, and a part of what it prints or does
    "EarlyStopping": (["monitor=val/loss", "stopping_threshold=1"], "55 updates"),
    "EMAWeightAveraging": (["decay=0.5"], "110 updates"),
    "LambdaCallback": ([], "110 updates"),
    "LearningRateMonitor": ([], "lr-GradientDescent"),
    "ModelCheckpoint": (["monitor=val/loss", "filename=lowest"], "lowest.ckpt"),
    "ModelPruning": (["pruning_fn=l1_unstructured", "amount=0.5", "parameter_names=[weight]"], "110 updates"),
    "ModelSummary": ([], "110 updates"),
    "OnExceptionCheckpoint": (["dirpath=saved"], "110 updates"),
    "SpikeDetection": ([], "110 updates"),
    "Timer": (["duration=00:00:01:00", "interval=step"], "110 updates"),
    "TQDMProgressBar": ([], "Epoch 1: 100%"),
    "WeightAveraging": ([], "110 updates"),
}


def options(name: str, settings: list[str]) -> list[str]:
    """A callback on the command line."""
    return [f"--trainer.callbacks={name}", *(f"--trainer.callbacks.{setting}" for setting in settings)]


def skip_if_installed(part: str) -> None:
    """Skips a refusal that names a package as missing where it is there."""
    for package in ("psutil", "rich", "torch_xla", "transformer_engine", "wandb"):
        if package in part and importlib.util.find_spec(package):
            pytest.skip(f"{package} is installed")


def test_every_callback_is_tried() -> None:
    assert set(lightning.pytorch.callbacks.__all__) == ABSTRACT | REFUSED_CALLBACKS.keys() | CALLBACKS.keys()


@pytest.mark.parametrize("name", REFUSED_CALLBACKS)
def test_callbacks_that_cannot_work_are_refused(name: str, error: Error) -> None:
    settings, part = REFUSED_CALLBACKS[name]
    skip_if_installed(part)
    assert part in error("fit", *SMALL, *options(name, settings))


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_that_work(name: str, run: Run) -> None:
    settings, part = CALLBACKS[name]
    output, _ = run("fit", *SMALL, *options(name, settings))
    assert part in output + " ".join([*scalars(), *(path.name for path in RUNS.rglob("*.ckpt"))])
    state = checkpoint()["state_dict"]
    if name == "ModelPruning":
        assert (state["net.fc1.weight"] == 0).float().mean() > 0.7  # half, and half of the rest
    assert checkpoint()["global_step"] == (55 if name == "EarlyStopping" else 110)


def test_the_average_of_the_weights_is_validated_and_saved(run: Run) -> None:
    run("fit", *SMALL, *options("WeightAveraging", []), "--trainer.max_epochs", 3)
    found = re.search(r"val/accuracy\D+([\d.]+)", run("validate", "--ckpt_path", "last")[0])
    assert float(found[1]) == pytest.approx(scalars()["val/accuracy"][-1][1])
    run("fit", *SMALL, "--trainer.max_epochs", 3)
    average, plain = (checkpoint("last", version)["state_dict"]["net.fc1.weight"] for version in (0, 1))
    assert not torch.equal(average, plain)


def test_functions_as_callbacks_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    updates: list[int] = []
    callbacks: list[Callback] = [
        ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0])),
        LambdaCallback(on_train_batch_end=lambda *args: updates.append(1)),
        EMAWeightAveraging(decay=0.9),
    ]
    trainer = Trainer(max_epochs=1, accelerator="cpu", log_every_n_steps=10, callbacks=callbacks)
    trainer.fit(MLPClassifier((5,)), MNISTDataModule(source="digits", batch_size=1000))
    assert len(updates) == 55
    assert "train|device/samples_per_sec" in trainer.callback_metrics or events(Path(str(trainer.log_dir)))


def test_a_run_shorter_than_its_first_validation_cannot_stop_early(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run("fit", *SMALL, *options("EarlyStopping", ["monitor=val/loss"]), "--trainer.max_steps", 3)
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "EarlyStopping: Early stopping conditioned on metric `val/loss` which is not available" in line


REFUSED = {  # options of the Trainer, and a part of the line
    "accelerator=gpu": "gpu",
    "accelerator=tpu": "torch_xla",
    "strategy=abacus": "abacus",
    "strategy=fsdp": "fsdp",
    "devices=-1": "devices",
    "num_nodes=0": "num_nodes",
    "precision=transformer-engine": "transformer_engine",
    "logger=WandbLogger": "wandb",
    "fast_dev_run=-1": "fast_dev_run",
    "max_epochs=-2": "max_epochs",
    "max_steps=-2": "max_steps",
    "max_time=abc": "abc",
    "limit_train_batches=0.01": "limit_train_batches",
    "limit_val_batches=0.1": "limit_val_batches",
    "limit_test_batches=-1": "limit_test_batches",
    "limit_predict_batches=-1": "limit_predict_batches",
    "overfit_batches=0.1": "--trainer.overfit_batches",
    "val_check_interval=1000": "val_check_interval",
    "val_check_interval=0": "--trainer.val_check_interval 0",
    "check_val_every_n_epoch=0": "--trainer.check_val_every_n_epoch 0",
    "log_every_n_steps=-5": "--trainer.log_every_n_steps -5",
    "accumulate_grad_batches=2": "--trainer.accumulate_grad_batches 2",
    "gradient_clip_val=abc": "--trainer.gradient_clip_val",
    "gradient_clip_algorithm=l7": "gradient_clip_algorithm",
    "profiler=mine": "profiler",
    "barebones=true": "python -m mnist_mlp.benchmark",
    "plugins=abc": "--trainer.plugins",
    "reload_dataloaders_every_n_epochs=-1": "reload_dataloaders_every_n_epochs",
}
WORK = {  # options of the Trainer, and the updates that the run then makes
    "accelerator=cpu": 110,
    "strategy=ddp": 110,
    "devices=1": 110,
    "num_nodes=1": 110,
    "precision=16-mixed": 110,  # on a CPU Lightning takes bf16-mixed in its place, and says so
    "precision=16-true": 110,
    "precision=64-true": 110,
    "logger=false": 110,
    "logger=CSVLogger --trainer.logger.save_dir=csv": 110,
    "callbacks=[]": 110,
    "fast_dev_run=true": 1,
    "max_epochs=0": 0,
    "min_epochs=3": 110,
    "max_steps=7": 7,
    "min_steps=120": 110,
    "max_time=00:00:05:00": 110,
    "limit_train_batches=3": 6,
    "limit_val_batches=2": 110,
    "limit_test_batches=2": 110,
    "limit_predict_batches=2": 110,
    "overfit_batches=0": 110,
    "val_check_interval=20": 110,
    "val_check_interval=0.0001": 110,
    "check_val_every_n_epoch=2": 110,
    "num_sanity_val_steps=2": 110,
    "log_every_n_steps=0": 110,
    "enable_checkpointing=false": 110,
    "enable_progress_bar=true": 110,
    "enable_model_summary=true": 110,
    "accumulate_grad_batches=1": 110,
    "gradient_clip_val=0.01": 110,
    "gradient_clip_val=0.01 --trainer.gradient_clip_algorithm=value": 110,
    "deterministic=true": 110,
    "benchmark=true": 110,
    "inference_mode=false": 110,
    "use_distributed_sampler=false": 110,
    "profiler=simple": 110,
    "profiler=SimpleProfiler --trainer.profiler.dirpath=p --trainer.profiler.filename=f": 110,
    "detect_anomaly=true": 110,
    "barebones=false": 110,
    "plugins=LightningEnvironment": 110,
    "sync_batchnorm=true": 110,
    "reload_dataloaders_every_n_epochs=1": 110,
    "default_root_dir=elsewhere": 110,
    "enable_autolog_hparams=false": 110,
    "model_registry=x": 110,
}


def test_every_option_of_the_trainer_is_tried() -> None:
    tried = {option.split("=")[0] for option in (*REFUSED, *WORK)} | {"gradient_clip_algorithm"}
    assert tried == inspect.signature(Trainer).parameters.keys() - {"kwargs"}


@pytest.mark.parametrize("option", REFUSED)
def test_options_that_cannot_work_are_refused(option: str, error: Error) -> None:
    if option == "accelerator=gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    skip_if_installed(REFUSED[option])
    assert REFUSED[option] in error("fit", *SMALL, f"--trainer.{option}")


@pytest.mark.parametrize("option", WORK)
def test_options_that_work(option: str, run: Run) -> None:
    if option == "precision=16-true" and TorchVersion(torch.__version__) < "2.5":
        pytest.skip("this torch has no squared error of float16 on a CPU")
    output, _ = run("fit", *SMALL, *f"--trainer.{option}".split())
    assert f"{WORK[option]} updates" in output


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("profiler=simple", "FIT Profiler Report"),
        ("profiler=advanced", "Profile stats for: run_training_batch"),
        ("profiler=pytorch", "Self CPU time total"),
        ("enable_model_summary=true", "Total params"),
        ("callbacks=EarlyStopping --trainer.callbacks.monitor=val/loss --trainer.callbacks.verbose=true", "improved"),
        ("max_time=00:00:00:00", "Time limit reached"),
        (
            "callbacks=ModelCheckpoint --trainer.callbacks.monitor=val/loss --trainer.callbacks.verbose=true",
            "saving model",
        ),
    ],
)
def test_an_option_shows_what_it_asks_for(option: str, shown: str, run: Run) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("lightning.pytorch")
    logger.addHandler(handler)
    try:
        run("fit", *SMALL, *f"--trainer.{option}".split())
    finally:
        logger.removeHandler(handler)
    assert shown in "\n".join(lines)
    assert "GPU available" not in "\n".join(lines)  # which nothing asked for


def test_it_is_shown_on_the_terminal(tmp_path: Path) -> None:
    words = [*map(str, SMALL), "--trainer.profiler=simple", "--trainer.enable_model_summary=true", "--pictures=false"]
    command = [sys.executable, "-m", "mnist_mlp", "fit", *words]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "FIT Profiler Report" in result.stderr
    assert "Total params" in result.stderr


def test_an_error_amid_training_is_a_line_and_its_traceback_a_file(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("by a test")

    monkeypatch.setattr(MLPClassifier, "update", fail)
    with pytest.raises(SystemExit) as end:
        run("fit", *SMALL)
    assert end.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert line == "error: ZeroDivisionError: by a test; the traceback is in lightning_logs/version_0/error.txt"
    assert "in training_step" in Path("lightning_logs/version_0/error.txt").read_text()
