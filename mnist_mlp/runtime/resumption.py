"""The parts of a resumed run that Lightning does not resume."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class Resumption(Callback):
    """Resumes the newest metrics, an epoch that was cut short, and a step size that is given anew."""

    def __init__(self) -> None:
        self.metrics: dict[str, Tensor] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the newest metrics: an epoch's validation may be over while its schedule's step is still to come."""
        checkpoint["metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Change a checkpoint before Lightning reads it.

        It counts an epoch cut short by `max_steps` or `max_time` as processed and would skip the rest of its images.
        With `max_steps` it would go through an epoch that is over once more, without an image, and count it twice.
        And it restores the old step size where a new `lr` is given, which is how practitioners continue a run.
        """
        self.metrics = {name: torch.tensor(value) for name, value in checkpoint.get("metrics", {}).items()}
        loop = checkpoint["loops"]["fit_loop"]
        epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
        if not batches["is_last_batch"]:
            for progress in (epochs["current"], epochs["total"]):
                progress["processed"] = progress["completed"] = max(progress["started"] - 1, 0)
        elif epochs["current"]["processed"] == epochs["current"]["started"]:
            for progress in (epochs["current"], epochs["total"]):
                progress["completed"] = progress["processed"]
            batches["current"], batches["is_last_batch"] = dict.fromkeys(batches["current"], 0), False
        lr = pl_module.hparams.lr
        if checkpoint["hyper_parameters"]["lr"] != lr:
            for state in checkpoint.get("optimizer_states", []):
                for group in state["param_groups"]:
                    group["lr"] = lr
            for state in checkpoint.get("lr_schedulers", []):
                if "base_lrs" in state:  # a rule's γ_0
                    state["base_lrs"] = [lr] * len(state["base_lrs"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.callback_metrics.update(self.metrics)
