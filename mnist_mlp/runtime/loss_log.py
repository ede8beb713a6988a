"""What is logged of the updates, without a call per update, and the end of a run that diverges."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mnist_mlp.cli.commands import with_settings


class TrainingError(RuntimeError):
    """Training has failed though nothing was wrong with the arguments; the message says in one line what to do."""


class UpdateLog(Callback):
    """Logs the mean loss and the step size of every update, every `log_every_n_steps` updates, and finds divergence.

    Losses gather on the device: a call of `log` takes a sizeable part of an update, and to see whether a loss is
    finite waits for the device. What has gathered goes into checkpoints, so that a resumed run logs what one that was
    never interrupted would; and no parameters that are not finite are saved.

    Raises:
        TrainingError: A loss or a parameter is not finite.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Has nothing to log."""
        self.lr = 0.0  # of the newest update
        self.losses: list[Tensor] = []  # of the updates since their mean was logged, in parts
        self.lrs: list[float] = []  # of the same updates, but for those before a resumption
        self.unwritten: list[float] = []  # step sizes since they were written

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings losses from a checkpoint to where the others will be."""
        self.losses = [losses.to(pl_module.device) for losses in self.losses]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Any], batch: Any, batch_idx: int
    ) -> None:
        """Keeps the losses and step sizes of a block of updates, and logs when it is time."""
        self.losses.append(outputs["loss"])
        self.lrs += outputs["lr"]
        self.unwritten += outputs["lr"]
        self.lr = self.lrs[-1]
        # A run that is never logged is still looked at, once an epoch.
        if trainer.global_step % (trainer.log_every_n_steps or trainer.num_training_batches) == 0:
            self.write_step_sizes(trainer)  # first, while a GPU is still at the updates
            self.check_losses(trainer, pl_module)
            loss = torch.cat(self.losses).mean()
            pl_module.log("train/loss", loss, prog_bar=True, logger=False)
            self.write_loss(trainer, loss)
            self.losses.clear()
            self.lrs.clear()

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The losses since their mean was logged."""
        return {"losses": [losses.cpu() for losses in self.losses]}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Goes on from them."""
        self.losses = list(state["losses"])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Lets only a run be saved that has not diverged, and writes what has gathered."""
        self.check_losses(trainer, pl_module)
        if not all(parameter.isfinite().all() for parameter in pl_module.parameters()):
            what = f"a parameter is not finite after update {trainer.global_step - 1}"
            raise self.divergence(trainer, pl_module, what, self.lr)
        self.write_step_sizes(trainer)
        for logger in trainer.loggers:
            logger.save()  # the run that goes on from the checkpoint adds only what comes after it

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what has gathered, the mean of the last losses too."""
        self.check_losses(trainer, pl_module)
        self.write_step_sizes(trainer)
        if self.losses:
            self.write_loss(trainer, torch.cat(self.losses).mean())

    def write_loss(self, trainer: Trainer, loss: Tensor) -> None:
        """Writes a mean at the last of its updates; Lightning would only after a checkpoint had been saved."""
        if trainer.log_every_n_steps:
            for logger in trainer.loggers:
                logger.log_metrics(
                    {"train/loss": loss.item(), "epoch": trainer.current_epoch}, trainer.global_step - 1
                )

    def write_step_sizes(self, trainer: Trainer) -> None:
        """Writes each at the number of its update, counted from 0."""
        for k, lr in enumerate(self.unwritten, start=trainer.global_step - len(self.unwritten)):
            for logger in trainer.loggers:
                logger.log_metrics({"lr": lr}, step=k)
        self.unwritten.clear()

    def check_losses(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the run if a loss that has gathered is not finite."""
        finite = torch.cat(self.losses).isfinite() if self.losses else torch.ones(0)
        if not finite.all():
            back = len(finite) - int(finite.logical_not().nonzero()[0])
            what = f"the loss is not finite at update {trainer.global_step - back}"
            raise self.divergence(trainer, pl_module, what, self.lrs[-back])

    @staticmethod
    def divergence(trainer: Trainer, pl_module: LightningModule, what: str, lr: float) -> TrainingError:
        """The error that says what has happened, what to do, and what is left."""
        saved = [each.best_model_path for each in trainer.checkpoint_callbacks]
        saved = [path for path in saved if path and Path(path).is_file()]
        left = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved before"
        remedy = with_settings("find_lr", pl_module, trainer.datamodule)
        return TrainingError(f"diverged: {what}, with step size {lr:g}: `{remedy}` finds one that works; {left}")
