"""Whole runs of `fit` to be compared: training one, its curve, and a picture of several."""

import math
from dataclasses import dataclass
from itertools import cycle

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.axes import Axes
from tqdm import tqdm

from mnist_mlp.batches import Slices
from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.data import EVALUATION_BATCH_SIZE, MNISTDataModule
from mnist_mlp.display.progress import HyperparametersTable
from mnist_mlp.gradient import loss_and_accuracy
from mnist_mlp.runtime.blocks import Blocks
from mnist_mlp.runtime.loss_log import TrainingError
from mnist_mlp.studies.report import STYLES, Report


@dataclass
class Point:
    """Where a run stands after an epoch.

    Args:
        epoch: Passes through the training images.
        updates: Updates.
        lr: Step size of the last of them.
        objective: f(u), the loss over all training images.
        loss: Loss over the validation images.
        accuracy: Share of the validation images that are classified right.
    """

    epoch: int
    updates: int
    lr: float
    objective: float
    loss: float
    accuracy: float


class Curve(Callback):
    """Records a run at its start and after every epoch, shows how far it is, and writes f(u) into TensorBoard.

    Args:
        bar: Moves on with every epoch.
        train: The training images in parts.
        val: The validation images in parts.
    """

    def __init__(self, bar: tqdm, train: Slices, val: Slices) -> None:
        self.bar, self.train, self.val = bar, train, val
        self.points: list[Point] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the initial weights."""
        self.record(trainer, pl_module, epoch=0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the epoch."""
        self.record(trainer, pl_module, trainer.current_epoch + 1)
        self.bar.update()

    def record(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        """Adds a point, computed in the precision of the run."""
        precision = trainer.precision_plugin
        with precision.val_step_context():
            (objective, _), (loss, accuracy) = (
                loss_and_accuracy(pl_module.net, pl_module.loss_fn, map(precision.convert_input, part))
                for part in (self.train, self.val)
            )
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        self.points.append(Point(epoch, trainer.global_step, lr, objective, loss, accuracy))
        trainer.logger.log_metrics({"train/objective": objective}, step=max(trainer.global_step - 1, 0))


def budget(trainer: Trainer) -> str:
    """The trainer's settings that a run was made with, as they are typed."""
    precision = "" if trainer.precision == "32-true" else f" --trainer.precision {trainer.precision}"
    return f"--trainer.max_epochs {trainer.max_epochs}{precision}"


def train(
    trainer: Trainer,
    model: MLPClassifier,
    datamodule: MNISTDataModule,
    report: Report,
    name: str,
    batch_size: int,
    **settings: float | str,
) -> list[Point]:
    """One run as `fit` makes it, with the trainer's budget and precision. Gives its curve, or [] if it diverges.

    Args:
        trainer: Says on which device, for how many epochs and in which precision.
        model: The run starts from its weights, and has its settings but for those given.
        datamodule: The images, set up.
        report: Where the run is among TensorBoard's.
        name: Of the run.
        batch_size: Images per update.
        settings: Settings of the model that are other ones.
    """
    device = trainer.strategy.root_device
    batches = datamodule.batches(batch_size)
    with tqdm(desc=name, total=trainer.max_epochs, unit="epoch", disable=None, leave=False) as bar:
        curve = Curve(bar, Slices(*datamodule.train_set, EVALUATION_BATCH_SIZE), datamodule.val_dataloader())
        run = Trainer(
            accelerator=device.type,  # by its name: given the object, Lightning does not switch autocast on
            devices=1 if device.index is None else [device.index],
            precision=trainer.precision,
            max_epochs=trainer.max_epochs,
            logger=TensorBoardLogger(report.folder, name="", version=name, default_hp_metric=False),
            callbacks=[HyperparametersTable(), curve],
            log_every_n_steps=min(trainer.log_every_n_steps, len(batches)),
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            run.fit(model.variant(**settings), Blocks(batches, run), datamodule.val_dataloader())
        except TrainingError:
            curve.points.clear()
    if not curve.points or not math.isfinite(curve.points[-1].objective + curve.points[-1].loss):
        print(f"{name}: diverges", flush=True)
        return []
    last = curve.points[-1]
    print(f"{name}: {last.epoch} epochs, validation loss {last.loss:.4f}, accuracy {last.accuracy:.2%}", flush=True)
    return curve.points


def draw(panels: list[Axes], curves: dict[str, list[Point]], loss: str) -> None:
    """Training objective, validation loss and validation accuracy against epochs."""
    for panel, value, label in zip(
        panels,
        ("objective", "loss", "accuracy"),
        (f"training objective f(u) ({loss})", f"validation loss ({loss})", "validation accuracy"),
        strict=True,
    ):
        for i, ((name, points), style) in enumerate(zip(curves.items(), cycle(STYLES))):
            epochs = [point.epoch for point in points]
            panel.plot(epochs, [getattr(point, value) for point in points], label=name, markevery=(i, 4), **style)
        panel.set(xlabel="epochs", ylabel=label, yscale="linear" if value == "accuracy" else "log")
