"""Losses of all updates, logged without a call per update, and the end of a run that diverges."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from mnist_mlp.command_lines import command_with_settings, known_to_commands
from mnist_mlp.errors import TrainingError
from mnist_mlp.runtime.blocks import BlockCallback


class LossLog(BlockCallback):
    """Logs the mean loss and the step size every `log_every_n_steps` updates, and ends a run that diverges.

    Losses gather on the device: a call of `log` costs a sizeable part of an update, and checking that a loss is
    finite waits for the device. Gathered losses go into checkpoints, so that a resumed run logs the same as an
    unbroken one; a state with infinite or NaN parameters is never saved.

    Raises:
        TrainingError: A loss or a parameter is not finite.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.losses: list[Tensor] = []  # of the updates since the last point, in parts
        self.lrs: list[float] = []  # of the same updates, except for those before a resumption
        self.lr = 0.0  # of the newest update

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move losses restored from a checkpoint to the training device."""
        self.losses = [losses.to(pl_module.device) for losses in self.losses]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Any], batch: Any, batch_idx: int
    ) -> None:
        """Keep the losses and step sizes of a block of updates, and log when due."""
        self.losses.append(outputs["loss"])
        self.lrs += outputs["lr"]
        self.lr = self.lrs[-1]
        # A run that is never logged is still checked once an epoch.
        if trainer.global_step % (trainer.log_every_n_steps or trainer.num_training_batches) == 0:
            self.check_losses(trainer, pl_module)
            loss = torch.cat(self.losses).mean()
            pl_module.log("train/loss", loss, prog_bar=True, logger=False)
            self.write_point(trainer, loss)
            self.losses.clear()
            self.lrs.clear()

    def state_dict(self) -> dict[str, list[Tensor]]:
        return {"losses": [losses.cpu() for losses in self.losses]}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        self.losses = list(state["losses"])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to save a run that has diverged; write all points, so that a resumed run only adds later ones."""
        self.check_losses(trainer, pl_module)
        if not all(parameter.isfinite().all() for parameter in pl_module.parameters()):
            event = f"a parameter is not finite after update {trainer.global_step - 1}"
            raise self.divergence(trainer, pl_module, event, self.lr)
        for logger in trainer.loggers:
            logger.save()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check_losses(trainer, pl_module)
        if self.lrs:  # and not in a run that is resumed at its end
            self.write_point(trainer, torch.cat(self.losses).mean())

    def write_point(self, trainer: Trainer, loss: Tensor) -> None:
        """Write mean loss and step size at the newest update, before a checkpoint is saved; Lightning does so later.

        A point of TensorBoard's takes 55 to 84 µs, so the step size has no point of its own for each update.
        """
        if trainer.log_every_n_steps:
            values = {"train/loss": loss.item(), "lr": self.lr, "epoch": trainer.current_epoch}
            if trainer.lightning_module.hparams.log_grad_norm:
                values["train/grad_norm"] = trainer.lightning_module.grad_norm.item()
            for logger in trainer.loggers:
                logger.log_metrics(values, trainer.global_step - 1)

    def check_losses(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run if a gathered loss is not finite."""
        finite = torch.cat(self.losses).isfinite() if self.losses else torch.ones(0)
        if not finite.all():
            back = len(finite) - int(finite.logical_not().nonzero()[0])
            event = f"the loss is not finite at update {trainer.global_step - back}"
            raise self.divergence(trainer, pl_module, event, self.lrs[-back])

    @staticmethod
    def divergence(trainer: Trainer, pl_module: LightningModule, event: str, lr: float) -> TrainingError:
        """The error that says what happened, what to do, and which checkpoint is good."""
        saved = [getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks]
        saved = [path for path in saved if path and Path(path).is_file()]
        left = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved before"
        remedy = "try a smaller one"
        if known_to_commands(pl_module, trainer.datamodule):
            remedy = f"`{command_with_settings('find_lr', pl_module, trainer.datamodule)}` finds one that works"
        return TrainingError(f"diverged: {event}, with step size {lr:g}: {remedy}; {left}")
