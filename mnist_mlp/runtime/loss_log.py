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

    Losses gather on the device, and are looked at after a block in which a point is due: a call of `log` costs a
    sizeable part of an update, and reading a loss waits for the device. Gathered losses go into checkpoints, so that
    a resumed run logs the same as an unbroken one; a state with infinite or NaN parameters is never saved.

    Raises:
        TrainingError: A loss or a parameter is not finite.
    """

    def __init__(self) -> None:
        self.losses: list[Tensor] = []  # of the updates since the last point, in parts
        self.lrs: list[float] = []  # of the same updates, except for those before a resumption

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if pl_module.hparams.log_grad_norm:  # which is known for the newest update alone
            self.every_n_updates = trainer.log_every_n_steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move losses restored from a checkpoint to the training device."""
        self.losses = [losses.to(pl_module.device) for losses in self.losses]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Any], batch: Any, batch_idx: int
    ) -> None:
        """Keep the losses and step sizes of a block of updates, and log when due."""
        self.losses.append(outputs["loss"])
        self.lrs += outputs["lr"]
        every = trainer.log_every_n_steps or trainer.num_training_batches  # never logged, still checked once an epoch
        if trainer.global_step % every < len(outputs["lr"]):
            self.write_points(trainer, pl_module, every)

    def write_points(self, trainer: Trainer, pl_module: LightningModule, every: int) -> None:
        """Write a point for each multiple of `every` that the updates have reached, and forget their losses."""
        losses = self.finite_losses(trainer, pl_module)
        before = trainer.global_step - len(losses)  # updates before those
        known = trainer.global_step - len(self.lrs)  # and before those whose step size is known
        ends = range(known - known % every + every, trainer.global_step + 1, every)
        parts = losses.tensor_split([end - before for end in ends])
        for end, part in zip(ends, parts[:-1], strict=True):
            self.write_point(trainer, part.mean(), end)
        pl_module.log("train/loss", parts[-2].mean(), prog_bar=True, logger=False)
        self.losses = [parts[-1].to(pl_module.device)]
        self.lrs = self.lrs[len(self.lrs) - len(parts[-1]) :]

    def state_dict(self) -> dict[str, list[Tensor]]:
        return {"losses": [losses.cpu() for losses in self.losses]}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        self.losses = [torch.cat([torch.zeros(0), *state["losses"]])]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to save a run that has diverged; write all points, so that a resumed run only adds later ones."""
        self.finite_losses(trainer, pl_module)
        if not all(parameter.isfinite().all() for parameter in pl_module.parameters()):
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            event = f"a parameter is not finite after update {trainer.global_step - 1}"
            raise self.divergence(trainer, pl_module, event, self.lrs[-1] if self.lrs else lr)
        for logger in trainer.loggers:
            logger.save()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        losses = self.finite_losses(trainer, pl_module)
        if self.lrs:  # and not in a run that is resumed at its end
            self.write_point(trainer, losses.mean(), trainer.global_step)

    def write_point(self, trainer: Trainer, loss: Tensor, updates: int) -> None:
        """Write a mean loss, and the step size, after so many updates; Lightning's `log` knows only a block's end.

        A point of TensorBoard's takes 55 to 84 µs, so the step size has no point of its own for each update.
        """
        if trainer.log_every_n_steps:
            lr = self.lrs[updates - trainer.global_step - 1]
            values = {"train/loss": loss.item(), "train/lr": lr}
            if trainer.lightning_module.hparams.log_grad_norm:
                values["train/grad_norm"] = trainer.lightning_module.grad_norm.item()
            for logger in trainer.loggers:
                logger.log_metrics(values, updates - 1)

    def finite_losses(self, trainer: Trainer, pl_module: LightningModule) -> Tensor:
        """The gathered losses, (n,) float on the CPU. One that is not finite is a TrainingError."""
        losses = torch.cat(self.losses).cpu() if self.losses else torch.zeros(0)
        finite = losses.isfinite()
        if not finite.all():
            back = len(finite) - int(finite.logical_not().nonzero()[0])
            event = f"the loss is not finite at update {trainer.global_step - back}"
            raise self.divergence(trainer, pl_module, event, self.lrs[-back])
        return losses

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
