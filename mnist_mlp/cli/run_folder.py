"""The folder of a run: its logger and its settings."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.network import FIXED_LAYERS
from mnist_mlp.studies.report import new_folder

CONFIG_FILE = "config.yaml"  # as Lightning names it
LONGEST = 200  # letters of a folder's name, of which file systems allow 255


class SaveConfig(SaveConfigCallback):
    """Saves the settings when training starts and not before, so that a refused resumption leaves those of the run."""

    config: Namespace
    config_filename: str

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None: ...

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save `config.yaml`, which repeats the run and so leaves out the checkpoint it was resumed from."""
        config = self.config.clone()
        del config["ckpt_path"]
        self.config, self.overwrite = config, True
        path = Path(str(trainer.log_dir)) / f"{self.config_filename}.part"
        self.config_filename = path.name  # a run that is killed now can still be resumed from the former file
        super().setup(trainer, pl_module, "fit")
        if trainer.is_global_zero and (folder := folder_of(trainer)):
            path.replace(folder / path.stem)


class RunLogger(TensorBoardLogger):
    """TensorBoard's logger for the folder `version_N` of a run, in `logs`.

    The curves are in a folder within it, under whose name TensorBoard lists the run.

    Args:
        logs: The folder of runs.
        label: Name of that folder; a run that is resumed keeps its own.
        version: A run to resume, whose points from `purge_step` on are replaced; by default a new folder is made,
            and removed if the run ends before it trains.
        options: As for TensorBoardLogger.
    """

    def __init__(self, logs: Path, label: str, version: str | None = None, **options: Any) -> None:
        self.is_new = version is None
        if version is None and rank_zero_only.rank == 0:  # the other processes are told
            version = new_folder(logs, "version").name
        elif version is not None and (curves := curves_in(logs / version)):
            label = curves.name
        place = "" if logs.parent == Path() else logs.parent
        super().__init__(place, logs.name, version, default_hp_metric=False, sub_dir=label, **options)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log without the epoch, which Lightning adds to everything, and whose curve would come before all others."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    def finalize(self, status: str) -> None:
        super().finalize(status)
        if status == "failed" and self.is_new:
            remove_if_untrained(Path(self.log_dir).parent)


class RunFolder(Logger):
    """The folder `version_N` of a run that writes no curves.

    Arguments are as for `RunLogger`.
    """

    name = version = ""

    def __init__(self, logs: Path, version: str | None = None) -> None:
        super().__init__()
        self.is_new = version is None
        self.folder: Path | None = logs / version if version else None
        if version is None and rank_zero_only.rank == 0:
            self.folder = new_folder(logs, "version")

    @property
    def save_dir(self) -> str | None:
        return str(self.folder) if self.folder else None

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    def log_metrics(self, *_: Any, **__: Any) -> None: ...

    def finalize(self, status: str) -> None:
        if status == "failed" and self.is_new and self.folder:
            remove_if_untrained(self.folder)


@rank_zero_only
def remove_if_untrained(folder: Path) -> None:
    """Remove the folder of a run that ended before it trained, unless there are files of others in it."""
    if not (folder / CONFIG_FILE).exists():
        curves = curves_in(folder)
        for path in (*folder.glob("*/events.out.tfevents.*"), *folder.glob(f"*/{RunLogger.NAME_HPARAMS_FILE}")):
            path.unlink()
        with suppress(OSError):  # not empty
            if curves:
                curves.rmdir()
            folder.rmdir()
            folder.parent.rmdir()


def folder_of(trainer: Trainer) -> Path | None:
    """The folder of the run that a trainer logs, if it does; `trainer.log_dir` would wait for all processes."""
    match trainer.logger:
        case RunLogger() as logger:
            return Path(logger.log_dir).parent
        case TensorBoardLogger() | CSVLogger() as logger:
            return Path(logger.log_dir)
        case Logger() as logger if logger.save_dir:
            return Path(logger.save_dir)
    return None


def run_of(checkpoint: str | None) -> Path | None:
    """The folder of the run that saved a checkpoint, if the checkpoint lies in one."""
    folder = Path(checkpoint or "").parent
    return folder.parent if folder.name == "checkpoints" else None


def curves_in(folder: Path) -> Path | None:
    """The folder of curves within that of a run, if it has some."""
    return next((file.parent for file in folder.glob("*/events.out.tfevents.*")), None)


def label_of(model: MLPClassifier, data: MNISTDataModule, optimizer: Namespace | None) -> str:
    """The settings by which runs differ most, as the name of a folder: `mse,lr=0.1,500,batch=200`."""
    settings, words, lr = model.hparams, [model.hparams.loss], model.hparams.lr
    if optimizer:
        words.append(optimizer.class_path.rpartition(".")[2])
        lr = optimizer.get("init_args", {}).get("lr")
    words += [f"lr={lr:g}"] if isinstance(lr, float) else []
    words += [settings.schedule] * (settings.schedule != "constant")
    words += ["-".join(map(str, settings.hidden)) or "affine", f"batch={data.hparams.batch_size}"]
    words += [name for name in FIXED_LAYERS if settings[name]] + ["distort"] * data.hparams.distort
    return ",".join(words)[:LONGEST]
