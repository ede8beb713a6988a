"""Whole runs to be compared: training one as `fit` does, its curve, and a figure of several."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.axes import Axes
from tqdm import tqdm

from mnist_mlp.arguments import instantiate
from mnist_mlp.batches import EvaluationBatches
from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.data import EVALUATION_BATCH_SIZE, MNISTDataModule
from mnist_mlp.display.tensorboard import HyperparametersTable
from mnist_mlp.errors import TrainingError
from mnist_mlp.evaluation import evaluate
from mnist_mlp.runtime.blocks import BlockCallback, Blocks
from mnist_mlp.runtime.fast_training import FastClassifier
from mnist_mlp.studies.arguments import Precision
from mnist_mlp.studies.report import Report, plot_curves

LOG_EVERY = 25  # updates, as `fit` logs
LABELS = {
    "updates": "updates",
    "epochs": "epochs",
    "seconds": "seconds of training",
    "objective": "training objective f(u) ({loss})",
    "loss": "validation loss ({loss})",
    "accuracy": "validation accuracy",
}


@dataclass(frozen=True)
class Point:
    """The state of a run after some updates."""

    updates: int
    epochs: float  # passes through the training images
    seconds: float  # of training, without evaluation
    lr: float  # step size γ of the newest update
    objective: float  # f(u), the loss over the training images
    loss: float  # over the validation images
    accuracy: float  # share of the validation images that are classified right


class Curve(BlockCallback):
    """Records a run at its start, after every epoch, and every few updates unless `every` is 0.

    Args:
        bar: Advances with every epoch.
        train: The training images in batches, for f(u).
        val: The validation images in batches.
        every: Updates from one point to the next.
    """

    def __init__(self, bar: tqdm, train: EvaluationBatches, val: EvaluationBatches, every: int) -> None:
        self.bar, self.train, self.val, self.every_n_updates = bar, train, val, every
        self.points: list[Point] = []
        self.seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.record(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Any], batch: Any, batch_idx: int
    ) -> None:
        outputs["loss"].reshape(-1)[-1].item()  # waits for the device
        self.seconds += time.perf_counter() - self.started
        if self.every_n_updates and trainer.global_step % self.every_n_updates == 0:
            self.record(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.points[-1].updates < trainer.global_step:
            self.record(trainer, pl_module)
        self.bar.update()

    def record(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a point, evaluated in the precision of the run, and write f(u) into TensorBoard."""
        precision = trainer.precision_plugin
        with precision.forward_context():
            (objective, _), (loss, accuracy) = (
                evaluate(pl_module.net, pl_module.loss_fn, map(precision.convert_input, part))
                for part in (self.train, self.val)
            )
        updates, lr = trainer.global_step, trainer.optimizers[0].param_groups[0]["lr"]
        epochs = updates / trainer.num_training_batches
        self.points.append(Point(updates, epochs, self.seconds, lr, objective, loss, accuracy))
        trainer.logger.log_metrics({"train/objective": objective}, step=max(updates - 1, 0))


def train_run(
    model: MLPClassifier,
    data: MNISTDataModule,
    report: Report,
    name: str,
    epochs: int,
    *,
    batch_size: int | None = None,
    precision: Precision = "32-true",
    points_per_epoch: int = 1,
    objective_images: int | None = None,
    **settings: Any,
) -> list[Point]:
    """Train a model of the same class, from a model's weights. Returns the curve, or [] if the run diverges.

    Args:
        model: Gives the initial weights, and the settings of the run.
        data: The images, on the device to train on.
        report: Takes the run's curves.
        name: Of the run.
        epochs: Passes through the training images.
        batch_size: Images per update; by default as `data` has it.
        precision: Of the Trainer.
        points_per_epoch: Points of the curve in an epoch.
        objective_images: Training images that f(u) is taken over; by default all.
        settings: Settings of the model with other values.
    """
    device = data.train_set[0].device
    batches = data.batches(batch_size or data.hparams.batch_size)
    every = max(1, len(batches) // points_per_epoch) if points_per_epoch > 1 else 0
    images, targets = (part[:objective_images] for part in data.train_set)
    train = EvaluationBatches(images, targets, EVALUATION_BATCH_SIZE)
    with tqdm(desc=name, total=epochs, unit="epoch", disable=None, leave=False) as bar:
        curve = Curve(bar, train, data.val_dataloader(), every)
        trainer = Trainer(
            accelerator=device.type,  # by its name: given the object, Lightning does not switch autocast on
            devices=1 if device.index is None or device.type == "mps" else [device.index],
            precision=precision,
            max_epochs=epochs,
            logger=TensorBoardLogger(report.folder, name="", version=name, default_hp_metric=False),
            callbacks=[HyperparametersTable(), curve],
            log_every_n_steps=min(LOG_EVERY, len(batches)),
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        run = instantiate(type(model), model.hparams, **settings)
        run.load_state_dict(model.state_dict())
        try:
            in_blocks = isinstance(run, FastClassifier)
            trainer.fit(run, Blocks(batches, trainer) if in_blocks else batches, data.val_dataloader())
        except TrainingError:
            curve.points.clear()
    if not curve.points or not math.isfinite(curve.points[-1].objective + curve.points[-1].loss):
        print(f"{name}: diverges", flush=True)
        return []
    last = curve.points[-1]
    print(f"{name}: {last.epochs:g} epochs, validation loss {last.loss:.4f}, accuracy {last.accuracy:.2%}", flush=True)
    return curve.points


def trainer_options(epochs: int, precision: Precision) -> str:
    """The options of `fit` for a budget and a precision, as they are typed."""
    return f"--trainer.max_epochs {epochs}" + (f" --trainer.precision {precision}" if precision != "32-true" else "")


def plot_runs(panels: list[Axes], runs: dict[str, list[Point]], axes: Sequence[tuple[str, str]], loss: str) -> None:
    """Draw named runs, in each panel by a pair of a Point's attributes, x and y; losses on a logarithmic scale."""
    for panel, (x, y) in zip(panels, axes, strict=True):
        curves = {
            name: ([getattr(point, x) for point in points], [getattr(point, y) for point in points])
            for name, points in runs.items()
        }
        plot_curves(panel, curves, yscale="linear" if y == "accuracy" else "log")
        panel.set(xlabel=LABELS[x], ylabel=LABELS[y].format(loss=loss))
