"""The folder of a run: its logger and its settings."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from mnist_mlp.studies.report import new_folder

CONFIG_FILE = "config.yaml"  # as Lightning names it


class SaveConfig(SaveConfigCallback):
    """Saves the settings when training starts and not before, so that a refused resumption leaves those of the run."""

    config: Namespace

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None: ...

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save `config.yaml`, which repeats the run and so leaves out the checkpoint it was resumed from."""
        config = self.config.clone()
        del config["ckpt_path"]
        self.config, self.overwrite = config, True
        path = Path(str(trainer.log_dir)) / self.config_filename
        self.config_filename += ".part"  # a run that is killed now can still be resumed from the former file
        super().setup(trainer, pl_module, "fit")
        if trainer.is_global_zero:
            path.with_name(self.config_filename).replace(path)


class RunLogger(TensorBoardLogger):
    """TensorBoard's logger for the folder `version_N` of a run, in `logs`.

    Args:
        logs: The folder of runs.
        version: A run to resume, whose points from `purge_step` on are replaced; by default a new folder is made,
            and removed if the run ends before it trains.
        options: As for TensorBoardLogger.
    """

    def __init__(self, logs: Path, version: str | None = None, **options: Any) -> None:
        self.is_new = version is None
        if version is None and rank_zero_only.rank == 0:  # the other processes are told
            version = new_folder(logs, "version").name
        super().__init__(
            "" if logs.parent == Path() else logs.parent, logs.name, version, default_hp_metric=False, **options
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log without the epoch, which Lightning adds to everything, and whose curve would come before all others."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    def finalize(self, status: str) -> None:
        super().finalize(status)
        if status == "failed" and self.is_new:
            remove_if_untrained(Path(self.log_dir))


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
        for path in (*folder.glob("events.out.tfevents.*"), folder / RunLogger.NAME_HPARAMS_FILE):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            folder.rmdir()
            folder.parent.rmdir()
