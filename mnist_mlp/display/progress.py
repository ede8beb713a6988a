"""What a run shows: the notebook's table, hyperparameters and pictures in TensorBoard, the closing summary."""

import shlex
import time
import warnings
from typing import Any

import torch
from jsonargparse.typing import ClosedUnitInterval
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.cli.commands import on_checkpoint
from mnist_mlp.data import EVALUATION_BATCH_SIZE, MNISTDataModule
from mnist_mlp.display.drawings import deformations, draw_confusion, draw_worst_errors, images_of_batch, weights
from mnist_mlp.gradient import loss_and_gradient
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

    Attributes:
        first: The five settings that the tab shows unasked: it takes those that are said to differ between runs.
    """

    first = ("batch_size", "hidden", "loss", "lr", "schedule")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the hyperparameters of the module and of the data module."""
        values = {**trainer.datamodule.hparams, **pl_module.hparams} if trainer.datamodule else pl_module.hparams
        plain = {
            name: value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
            for name, value in values.items()
            if not name.startswith("_")
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                columns, *start_and_end = hparams(plain, {"val/accuracy": 0, "val/loss": 0})
                plugin = columns.value[0].metadata.plugin_data
                content = HParamsPluginData.FromString(plugin.content)
                for column in content.experiment.hparam_infos:
                    column.differs = column.name in self.first
                plugin.content = content.SerializeToString()
                for summary in (columns, *start_and_end):
                    logger.experiment.file_writer.add_summary(summary)


class Pictures(Callback):
    """Shows in TensorBoard what the network sees, what it has learnt and what it gets wrong.

    At the start the network's graph, the images of the first update and, if they are deformed, deformations of one
    of them. At the start and at the end the first layer's weights as images, and histograms of all weights and of
    the gradient on those first images. After epochs 1, 2, 4, 8, ... and at the end these again, the worst validation
    errors and the confusion matrix, unless pictures would then have taken more than a share of the time so far.

    Args:
        share: Of the time; 0 draws none, 1 all.
    """

    def __init__(self, share: ClosedUnitInterval = 0.02) -> None:
        self.share = share

    def on_train_start(self, trainer: Trainer, pl_module: MLPClassifier) -> None:
        """Draws what there is before training."""
        ours = trainer.is_global_zero and isinstance(trainer.datamodule, MNISTDataModule) and self.share > 0
        loggers = [each for each in trainer.loggers if isinstance(each, TensorBoardLogger) and ours]
        self.writer = loggers[0].experiment if loggers else None
        self.began, self.seconds = time.perf_counter(), 0.0
        self.cost = 0.5  # seconds that results are thought to take, until they have been drawn
        self.newest: int | None = None  # update after which they were
        if self.writer:
            batches = trainer.datamodule.batches(trainer.datamodule.hparams.batch_size)
            self.batch = trainer.precision_plugin.convert_input(next(iter(batches)))  # the first one of all
            if trainer.global_step == 0:  # a run that goes on has them
                self.draw_data(trainer, pl_module)
                self.draw_weights(trainer, pl_module)
            self.seconds = time.perf_counter() - self.began

    def on_train_epoch_end(self, trainer: Trainer, pl_module: MLPClassifier) -> None:
        """Draws results after epochs 1, 2, 4, 8, ..."""
        epochs = trainer.current_epoch + 1
        if self.writer and epochs & (epochs - 1) == 0 and self.affordable():
            self.draw_results(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: MLPClassifier) -> None:
        """Draws what has come out."""
        if self.writer and self.newest != trainer.global_step:
            draw = self.draw_results if self.affordable() else self.draw_weights
            draw(trainer, pl_module)

    def affordable(self) -> bool:
        """Whether pictures will have taken no more than their share if results are drawn now."""
        so_far = time.perf_counter() - self.began
        return self.share == 1 or self.seconds + self.cost <= self.share * so_far

    @staticmethod
    def step(trainer: Trainer) -> int:
        """The newest update, counted from 0 as in the curves: what is drawn after it stays when the run goes on."""
        return max(0, trainer.global_step - 1)

    def draw_data(self, trainer: Trainer, pl_module: MLPClassifier) -> None:
        """The network, and the images it sees."""
        data = trainer.datamodule
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing tells of what depends on the size of a batch
            self.writer.add_graph(pl_module.net, self.batch[0][:1])
        self.writer.add_image("pictures/batch", images_of_batch(self.batch[0]), self.step(trainer))
        if data.hparams.distort:
            self.writer.add_image("pictures/deformations", deformations(data), self.step(trainer))

    def draw_weights(self, trainer: Trainer, pl_module: MLPClassifier) -> None:
        """The first layer's weights; histograms of those of all layers, and of their gradient on the first batch."""
        if all(parameter.isfinite().all() for parameter in pl_module.parameters()):
            self.writer.add_image("pictures/weights", weights(pl_module.net.fc1.weight), self.step(trainer))
        with trainer.precision_plugin.forward_context():
            _, gradient = loss_and_gradient(pl_module.net, pl_module.loss_fn, *self.batch)
        for (name, parameter), derivative in zip(pl_module.net.named_parameters(), gradient, strict=True):
            for kind, values in (("weights", parameter), ("gradient", derivative)):
                if values.isfinite().all():
                    self.writer.add_histogram(f"{kind}/{name}", values.float(), self.step(trainer))

    def draw_results(self, trainer: Trainer, pl_module: MLPClassifier) -> None:
        """The weights, and how the validation images are classified."""
        started = time.perf_counter()
        self.draw_weights(trainer, pl_module)
        if trainer.datamodule.hparams.val_size:
            images, targets = trainer.datamodule.val_set
            plugin, labels = trainer.precision_plugin, targets.argmax(dim=1)
            with torch.inference_mode(), plugin.forward_context():
                parts = plugin.convert_input(images).split(EVALUATION_BATCH_SIZE)
                scores = torch.cat([pl_module.scores(pl_module(part)) for part in parts])
            self.writer.add_figure("pictures/errors", draw_worst_errors(images, labels, scores), self.step(trainer))
            self.writer.add_figure("pictures/confusion", draw_confusion(labels, scores), self.step(trainer))
        self.cost = time.perf_counter() - started
        self.seconds += self.cost
        self.newest = trainer.global_step


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
