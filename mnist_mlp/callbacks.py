"""What a run shows: the notebook's table, the hyperparameters in TensorBoard, the closing summary."""

import shlex
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

from mnist_mlp.commands import on_checkpoint
from mnist_mlp.schedules import Plateau


class NotebookTable(Callback):
    """Prints the table of the notebook's `sgd`: passes through the data, mean loss of this epoch so far, seconds.

    Args:
        every: Updates from one line to the next.
    """

    def __init__(self, every: int = 100) -> None:
        self.every = every

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the header."""
        self.print(trainer, "Epoch\tAvg loss\tTime")
        self.on_train_epoch_start(trainer, pl_module)  # which a run that goes on in mid-epoch does not come by

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the mean and the clock of the epoch."""
        self.losses: list[Tensor] = []
        self.started = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Any],
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keeps the losses of a block of updates where they are, and prints a line after every `every`-th of them."""
        self.losses.append(outputs["loss"])
        for i in range(batch_idx + 1 - len(outputs["loss"]), batch_idx + 1):
            if i % self.every == self.every - 1:
                losses = torch.cat(self.losses)
                mean = losses[: len(losses) - (batch_idx - i)].double().mean().item()
                passes = trainer.current_epoch + i / trainer.num_training_batches
                self.print(trainer, f"{passes:.2f}\t{mean:.4f}\t\t{time.perf_counter() - self.started:.2f}")

    @staticmethod
    def print(trainer: Trainer, line: str) -> None:
        """One line from one process, at once also into a file or pipe."""
        if trainer.is_global_zero:
            print(line, flush=True)


class EpochLines(Callback):
    """Progress for a file or a pipe, where a bar would be a mess: one line per epoch."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the first step size of the epoch, or of what is left of one that was broken off."""
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]

    on_train_epoch_start = on_train_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the metrics as they stand."""
        metrics = trainer.callback_metrics
        names = [name for name in ("train/loss", "val/loss", "val/accuracy") if name in metrics]
        if trainer.is_global_zero:
            values = [f"{name} {metrics[name].item():.4f}" for name in names]
            values.append(f"lr {self.lr:.4g}")
            last = f" of {trainer.max_epochs}" if trainer.max_epochs != -1 else ""
            print(f"epoch {trainer.current_epoch + 1}{last}: {', '.join(values)}", flush=True)


class HyperparametersTable(Callback):
    """Lists the run in TensorBoard's HParams tab beside its validation loss and accuracy.

    The tab finds a run's metrics by their names. Lightning's `log_hyperparams` would write a made-up first value
    into each of their curves.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the hyperparameters of the module and of the data module."""
        values = {**trainer.datamodule.hparams, **pl_module.hparams} if trainer.datamodule else pl_module.hparams
        plain = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in values.items()
            if not name.startswith("_")
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                for summary in hparams(plain, {"val/accuracy": 0, "val/loss": 0}):
                    logger.experiment.file_writer.add_summary(summary)


class ClosingSummary(Callback):
    """Says at the end of a fit what was done, what came out, where it is and what to type next."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Counts no update: a run that is resumed at its end makes none."""
        self.first_step, self.seconds = None, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.started = time.perf_counter()
        self.first_step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self.seconds = time.perf_counter() - self.started

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the summary."""
        if trainer.is_global_zero:
            print("\n" + "\n".join(f"{name:<11} {text}" for name, text in self.lines(trainer)), flush=True)

    def lines(self, trainer: Trainer) -> list[tuple[str, str]]:
        """The summary's lines, each with its name."""
        data = trainer.datamodule
        updates = 0 if self.first_step is None else trainer.global_step - self.first_step
        epochs = trainer.global_step / trainer.num_training_batches
        lines = [
            ("data set", data.description),
            ("training", f"{updates:,} updates in {self.seconds:.1f} s, {epochs:.3g} epochs in all"),
        ]
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, Plateau):
                lines.append(("step size", self.plateaus(config.scheduler)))
        if "val/loss" in trainer.callback_metrics:
            loss, accuracy = (trainer.callback_metrics[name].item() for name in ("val/loss", "val/accuracy"))
            best = trainer.checkpoint_callback and trainer.checkpoint_callback.best_model_score
            text = f"loss {loss:.4f}, accuracy {accuracy:.2%}"
            lines.append(("validation", f"{text}; best {best:.4f}" if best is not None else text))
        paths = [saver.best_model_path for saver in trainer.checkpoint_callbacks if saver.best_model_path]
        if paths:
            lines += [("checkpoint", paths[0]), ("next", on_checkpoint("test", paths[0]))]
        if isinstance(trainer.logger, TensorBoardLogger):
            curves = shlex.join(["tensorboard", "--logdir", trainer.logger.root_dir])
            lines.append(("" if paths else "next", curves))
        if data.dataset == "digits" and data.hparams.source == "auto":
            lines.append(("warning", data.stand_in_warning))
        return lines

    @staticmethod
    def plateaus(scheduler: Plateau) -> str:
        """How often the step size was reduced, and whether that ended the run."""
        reductions = min(scheduler.plateaus, scheduler.max_decays)
        times = "once" if reductions == 1 else f"{reductions} times"
        text = f"reduced {times} by {scheduler.factor:g}, at plateaus of {scheduler.monitor}"
        return f"{text}; the next plateau ended the run" if scheduler.exhausted else text
