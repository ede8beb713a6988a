"""Progress on a terminal or in a file: the notebook's table, a line per epoch, and the closing summary."""

import shlex
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from mnist_mlp.command_lines import command_for_checkpoint, known_to_commands
from mnist_mlp.display.labelled import labelled
from mnist_mlp.runtime.blocks import BlockCallback
from mnist_mlp.schedules import Plateau


class NotebookTable(BlockCallback):
    """Prints the table of the notebook's `sgd`: epochs, mean loss of this epoch so far, seconds.

    Args:
        every: Updates from one line to the next.
    """

    def __init__(self, every: int = 100) -> None:
        self.every = every

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.print(trainer, "Epoch\tAvg loss\tTime")
        self.on_train_epoch_start(trainer, pl_module)  # not called by Lightning when a run resumes mid-epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses: list[Tensor] = []  # of each block, on the device
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Any], batch: Any, batch_idx: int
    ) -> None:
        """Print a line for every `every`-th update in a block, which ends with update `batch_idx` of the epoch."""
        self.losses.append(outputs["loss"].reshape(-1))
        for i in range(batch_idx + 1 - len(self.losses[-1]), batch_idx + 1):
            if i % self.every == self.every - 1:
                losses = torch.cat(self.losses)
                mean = losses[: len(losses) - (batch_idx - i)].cpu().double().mean().item()
                epochs = trainer.current_epoch + i / trainer.num_training_batches
                self.print(trainer, f"{epochs:.2f}\t{mean:.4f}\t\t{time.perf_counter() - self.started:.2f}")

    @staticmethod
    def print(trainer: Trainer, line: str) -> None:
        """Print a line from one process, at once even into a file or pipe."""
        if trainer.is_global_zero:
            print(line, flush=True)


class EpochLines(BlockCallback):
    """Prints one line per epoch, above the progress bar if there is one."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the first step size of the epoch, or of the rest of an interrupted one."""
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]

    on_train_epoch_start = on_train_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            metrics, names = trainer.callback_metrics, ("train/loss", "val/loss", "val/accuracy")
            values = [f"{name} {metrics[name].item():.4f}" for name in names if name in metrics]
            values.append(f"lr {self.lr:.4g}")
            line, bar = f"{name_of_epoch(trainer)}: {', '.join(values)}", trainer.progress_bar_callback
            if isinstance(bar, TQDMProgressBar):
                bar.print(line)
            else:
                print(line, flush=True)


def name_of_epoch(trainer: Trainer) -> str:
    """The number of the current epoch, from 1, of all."""
    last = f" of {trainer.max_epochs}" if trainer.max_epochs != -1 else ""
    return f"epoch {trainer.current_epoch + 1}{last}"


class EpochBar(TQDMProgressBar):
    """A progress bar for the epoch or the evaluation that goes on, at most as wide as the terminal."""

    newest: Tqdm | None = None
    BAR_FORMAT = "{desc} |{bar}| {remaining} left{postfix}"

    def init_train_tqdm(self) -> Tqdm:
        return self.transient(super().init_train_tqdm())

    def init_test_tqdm(self) -> Tqdm:
        return self.transient(super().init_test_tqdm())

    def init_predict_tqdm(self) -> Tqdm:
        return self.transient(super().init_predict_tqdm())

    def init_validation_tqdm(self) -> Tqdm:
        """Make one of its own only for `validate`: in training it is over at once."""
        if self.trainer.state.fn != "validate":
            return Tqdm(disable=True)
        return self.transient(super().init_validation_tqdm())

    def transient(self, bar: Tqdm) -> Tqdm:
        """The same bar, which leaves no trace once it is full or closed."""
        bar.leave, self.newest = False, bar
        return bar

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(name_of_epoch(trainer))

    def on_exception(self, *_: Any) -> None:
        """Take the bar off the line on which the message will stand."""
        if self.newest is not None:  # a bar without a total has no truth value
            self.newest.close()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {name: metrics[name] for name in ("train/loss", "val/accuracy") if name in metrics}


class ClosingSummary(BlockCallback):
    """Prints at the end of a fit its size, its result, its files, and the command to type next."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.updates, self.seconds = 0, 0.0  # unchanged if a run is resumed at its end

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.first_step, self.started = trainer.global_step, time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.updates, self.seconds = trainer.global_step - self.first_step, time.perf_counter() - self.started

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            print("\n" + "\n".join(labelled(*line) for line in self.lines(trainer)), flush=True)

    def lines(self, trainer: Trainer) -> list[tuple[str, str]]:
        """The name and the text of each line of the summary."""
        data, metrics = trainer.datamodule, trainer.callback_metrics
        epochs = trainer.global_step / trainer.num_training_batches
        training = f"{self.updates:,} updates in {self.seconds:.1f} s, {epochs:.3g} epoch{'s' * (epochs != 1)} in all"
        lines = [("data set", data.description), ("training", training)]
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        lines += [("step size", self.plateaus(rule)) for rule in schedulers if isinstance(rule, Plateau)]
        if metrics.keys() >= {"val/loss", "val/accuracy"}:
            text = f"loss {metrics['val/loss'].item():.4f}, accuracy {metrics['val/accuracy'].item():.4f}"
            best = getattr(trainer.checkpoint_callback, "best_model_score", None)
            lines.append(("validation", f"{text}; best {best:.4f}" if best is not None else text))
        paths = [getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks]
        if paths := [path for path in paths if path]:
            lines.append(("checkpoint", paths[0]))
            if known_to_commands(trainer.lightning_module, data):
                lines.append(("next", command_for_checkpoint("test", paths[0])))
        if isinstance(trainer.logger, TensorBoardLogger):
            curves = shlex.join(["tensorboard", "--logdir", trainer.logger.root_dir])
            lines.append(("" if lines[-1][0] == "next" else "next", curves))
        if data.is_stand_in:
            lines.append(("warning", data.stand_in_warning))
        return lines

    @staticmethod
    def plateaus(scheduler: Plateau) -> str:
        """Describe how often the step size was reduced, and whether that ended the run."""
        reductions = min(scheduler.plateaus, scheduler.max_decays)
        times = "once" if reductions == 1 else f"{reductions} times"
        text = f"reduced {times} by {scheduler.factor:g}, at plateaus of {scheduler.monitor}"
        return f"{text}; the next plateau ended the run" if scheduler.exhausted else text
