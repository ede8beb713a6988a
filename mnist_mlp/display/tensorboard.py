"""Hyperparameters and pictures in TensorBoard, besides the curves that a run logs."""

import warnings
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.data import EVALUATION_BATCH_SIZE, MNISTDataModule
from mnist_mlp.directions import NUMBER
from mnist_mlp.display.drawings import draw_confusion, draw_deformations, draw_digits, draw_weights, draw_worst_errors
from mnist_mlp.gradient import loss_and_gradient
from mnist_mlp.runtime.blocks import BlockCallback

WHERE = ("data_dir", "source")  # a path fills no cell well, and `dataset` says which data there were


class HyperparametersTable(BlockCallback):
    """Lists the run in TensorBoard's HParams tab beside its validation loss and accuracy.

    The tab finds these metrics by name. Lightning's `log_hyperparams` would add a made-up first value to their curves.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule.hparams if trainer.datamodule else {}
        values = {
            name: value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
            for name, value in {**data, **pl_module.hparams}.items()
            if name not in WHERE and not name.startswith("_")  # LightningCLI adds the function that created the object
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                for summary in hparams(values, {"val/accuracy": 0, "val/loss": 0, "test/accuracy": 0}):
                    logger.experiment.file_writer.add_summary(summary)


class TensorBoardImages(BlockCallback):
    """Draws the network, its input, its weights and its errors in TensorBoard.

    At the start: the network's graph, the images of the first update and, with `distort`, deformations of an image.
    At the start, after epochs 2, 4, 8, ... and at the end: the first layer's weights, and histograms of all weights
    and of their gradient on those first images. At all of these times but the start: the worst validation errors and
    the confusion matrix. Their tags come after `train` and `val` in the alphabet, by which TensorBoard sorts.
    """

    def on_train_start(self, trainer: Trainer, pl_module: MLPClassifier) -> None:
        self.writer: Any = None
        self.newest: int | None = None  # update after which results were last drawn
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if loggers and trainer.is_global_zero and isinstance(data := trainer.datamodule, MNISTDataModule):
            self.writer = loggers[0].experiment
            self.batch = trainer.precision_plugin.convert_input(next(iter(data.batches(data.hparams.batch_size))))
            if trainer.global_step == 0:  # a resumed run has these pictures already
                self.draw_input(trainer, pl_module)
                self.draw_weights(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: MLPClassifier) -> None:
        epochs = trainer.current_epoch + 1
        if epochs > 1 and epochs & (epochs - 1) == 0:  # a power of 2
            self.draw_results(trainer, pl_module)

    @staticmethod
    def step(trainer: Trainer) -> int:
        """The newest update's number from 0, as in the curves, so that a resumed run keeps earlier pictures."""
        return max(0, trainer.global_step - 1)

    def draw_input(self, trainer: Trainer, pl_module: MLPClassifier) -> None:
        """Draw the network's graph, a batch, and deformations of an image."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of everything that depends on the batch size
            self.writer.add_graph(pl_module.net, self.batch[0][:1])
        self.writer.add_image("view/batch", draw_digits(self.batch[0]), self.step(trainer))
        if trainer.datamodule.hparams.distort:
            self.writer.add_image("view/deformations", draw_deformations(trainer.datamodule), self.step(trainer))

    def draw_weights(self, trainer: Trainer, pl_module: MLPClassifier) -> None:
        """Draw the first layer's weights, and histograms of all layers' weights and of their gradient."""
        if all(parameter.isfinite().all() for parameter in pl_module.parameters()):
            maps = (2, NUMBER // 2) if pl_module.hparams.directions else (1, 1)
            picture = draw_weights(pl_module.net.get_parameter("fc1.weight"), *maps)
            self.writer.add_image("view/weights", picture, self.step(trainer))
        with trainer.precision_plugin.forward_context():
            _, gradient = loss_and_gradient(pl_module.net, pl_module.loss_fn, *self.batch)
        trained = [(name, u) for name, u in pl_module.net.named_parameters() if u.requires_grad]
        for (name, parameter), derivative in zip(trained, gradient, strict=True):
            for tag, values in ((f"weights/{name}", parameter), (f"weights/{name}.gradient", derivative)):
                if values.abs().max() < 1e20:  # where TensorBoard's last bin ends
                    self.writer.add_histogram(tag, values.float(), self.step(trainer))

    def draw_results(self, trainer: Trainer, pl_module: MLPClassifier) -> None:
        """Draw the weights, the worst validation errors and the confusion matrix, at most once after an update."""
        if not self.writer or self.newest == trainer.global_step:
            return
        self.newest = trainer.global_step
        self.draw_weights(trainer, pl_module)
        if trainer.datamodule.hparams.val_size:
            images, targets = trainer.datamodule.val_set
            plugin, labels = trainer.precision_plugin, targets.argmax(dim=1)
            with torch.inference_mode(), plugin.forward_context():
                parts = plugin.convert_input(images).split(EVALUATION_BATCH_SIZE)
                scores = torch.cat([pl_module.scores(pl_module(part)) for part in parts])
            self.writer.add_figure("view/errors", draw_worst_errors(images, labels, scores), self.step(trainer))
            self.writer.add_figure("view/confusion", draw_confusion(labels, scores), self.step(trainer))

    on_train_end = draw_results
