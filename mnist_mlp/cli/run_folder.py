"""The folder of a run: its logger and its settings."""

from contextlib import suppress
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

CONFIG_FILE = "config.yaml"  # as Lightning names it


class SaveConfig(SaveConfigCallback):
    """Saves the settings when training starts, so that a refused resumption leaves those of the run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save nothing yet."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save `config.yaml`, which repeats the run and so leaves out the checkpoint it was resumed from."""
        self.config = self.config.clone()
        del self.config["ckpt_path"]
        path = Path(str(trainer.log_dir)) / self.config_filename
        self.config_filename += ".part"  # a run that is killed now can still be resumed from the former file
        super().setup(trainer, pl_module, "fit")
        if trainer.is_global_zero:
            path.with_name(self.config_filename).replace(path)


class RunLogger(TensorBoardLogger):
    """TensorBoard's logger, which removes the new folder of a run that ends before it trains."""

    new = False  # whether the folder has been made for this run

    def finalize(self, status: str) -> None:
        """Close the files, and remove the folder if it is new and training has not begun."""
        super().finalize(status)
        folder = Path(self.log_dir)
        if status == "failed" and self.new and rank_zero_only.rank == 0 and not (folder / CONFIG_FILE).exists():
            for events in folder.glob("events.out.tfevents.*"):
                events.unlink()
            with suppress(OSError):  # not empty
                folder.rmdir()
                folder.parent.rmdir()
