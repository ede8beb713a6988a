"""The LightningModule: explicit gradients by manual optimization."""

import inspect
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveInt, restricted_number_type
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from mnist_mlp.gradient import LOSSES, average_over_processes, loss_and_gradient
from mnist_mlp.network import MLP
from mnist_mlp.runtime.blocks import Block
from mnist_mlp.runtime.checkpoints import LOGS, find_checkpoint, load_checkpoint
from mnist_mlp.runtime.cuda_graph import CapturedUpdates, capturable
from mnist_mlp.runtime.loss_log import UpdateLog
from mnist_mlp.runtime.signals import TidyStop
from mnist_mlp.schedules import PerUpdate, Plateau

StepSize = restricted_number_type("StepSize", float, [(">", 0), ("<", math.inf)])

Batch = tuple[Tensor, Tensor]
"""x, (B, 1, 28, 28) float32, and y, (B, 10) float32 one-hot."""


class MLPClassifier(LightningModule):
    """The softplus MLP trained by u ← u - γ g, g the minibatch gradient, written out.

    Args:
        hidden: Units of each hidden layer, as '[500]' or '[1000,500]'; '[]' for a single affine map.
        activation: What stands between the affine layers; softplus has beta=25 and threshold=1.
        loss: `mse` (the notebook's code), `squared` (the notebook's formula: 5 times `mse`) or `cross_entropy`.
        lr: Step size γ, or the first one γ_0, of plain gradient descent; not used with --optimizer.
        schedule: `constant`, `inverse_sqrt` (γ_0/√(k+1) in update k), `cosine` (to zero at the end of the budget) or
            `plateau` (reduced when validation stops to improve).
        monitor: What `plateau` watches in validation.
        patience: Epochs without improvement: a plateau.
        decay: Factor δ of the step size at a plateau.
        max_decays: Reductions; the next plateau is the end.
    """

    takes_blocks = True

    def __init__(
        self,
        hidden: tuple[PositiveInt, ...] = (500,),
        activation: Literal["softplus", "relu"] = "softplus",
        loss: Literal["mse", "squared", "cross_entropy"] = "mse",
        lr: StepSize = 0.1,
        schedule: Literal["constant", "inverse_sqrt", "cosine", "plateau"] = "constant",
        monitor: Literal["loss", "accuracy"] = "loss",
        patience: PositiveInt = 3,
        decay: OpenUnitInterval = 0.5,
        max_decays: NonNegativeInt = 4,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.net = MLP(hidden, activation)
        self.loss_fn = LOSSES[loss]
        self.captured: CapturedUpdates | None = None
        self.metrics: dict[str, float] = {}  # of a run that this one goes on with
        self.errors: list[tuple[Tensor, Tensor, Tensor]] = []  # of a test: images, labels and scores, on the CPU
        self.mean_loss = MeanMetric()
        self.accuracy = MulticlassAccuracy(num_classes=10, average="micro")
        self.confusion = MulticlassConfusionMatrix(num_classes=10)

    def forward(self, x: Tensor) -> Tensor:
        """The network's outputs Φ(x), (B, 10), for images x, (B, ...) with 784 values each."""
        return self.net(x)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """Plain stochastic gradient descent, u ← u - γ g, with the schedule of γ."""
        optimizer = torch.optim.SGD(self.net.parameters(), lr=self.hparams.lr, fused=True)
        return [optimizer], self.schedulers(optimizer)

    def schedulers(self, optimizer: Optimizer) -> list[LRScheduler]:
        """What changes an optimizer's step size as `schedule` says: nothing, or one scheduler."""
        settings = self.hparams
        if settings.schedule == "constant":
            return []
        if settings.schedule == "plateau":
            return [Plateau(optimizer, settings.monitor, settings.patience, settings.decay, settings.max_decays)]
        return [PerUpdate(optimizer, settings.schedule)]

    def configure_callbacks(self) -> list[Callback]:
        """What every run is logged, watched and stopped by."""
        return [UpdateLog(), TidyStop()]

    def setup(self, stage: str) -> None:
        """Refuses float16: its loss scaling lives in the `.backward()` that explicit gradients do not call."""
        if self.trainer.precision == "16-mixed":
            raise MisconfigurationException(
                "--trainer.precision 16-mixed scales the loss, which explicit gradients do not: use bf16-mixed"
            )

    def on_train_start(self) -> None:
        """Tells a schedule how long the run is, or ends a run that has had its last plateau."""
        self.captured = None  # from a fit that an error ended
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, PerUpdate):
                config.scheduler.set_budget(self.trainer.estimated_stepping_batches)
            self.stop_if_exhausted(config.scheduler)

    def training_step(self, block: Block | Batch, batch_idx: int) -> dict[str, Any]:
        """One update from each batch of a block. Returns their losses, (n,) float, and their n step sizes."""
        if not isinstance(block, Block):  # what another loader gives
            return self.updates([block])
        if self.captured and self.captured.fits(block):
            return self.replays(block)
        output = self.updates(block)
        if capturable(block, self.trainer.optimizers[0]):
            self.captured = CapturedUpdates(self.update, self.trainer.optimizers[0], block)
        return output

    def updates(self, batches: Iterable[Batch]) -> dict[str, Any]:
        """Updates, one after the other. The optimizer that Lightning wraps counts each as a `global_step`."""
        losses, lrs = [], []
        for batch in batches:
            losses.append(self.update(batch, self.optimizers()))
            lrs.append(self.next_step_size())
        return {"loss": torch.stack(losses), "lr": lrs}

    def replays(self, block: Block) -> dict[str, Any]:
        """The same by a GPU alone, and as many `global_step`s."""
        lrs = [self.next_step_size() for _ in range(len(block))]
        losses = self.captured.replay(block, lrs)
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.increment_by(len(block))
        return {"loss": losses, "lr": lrs}

    def update(self, batch: Batch, optimizer: Optimizer | LightningOptimizer) -> Tensor:
        """u ← u - γ g, or what the optimizer makes of g. Returns the loss of the batch, () float."""
        x, y = self.trainer.precision_plugin.convert_input(batch)
        loss, gradient = loss_and_gradient(self.net, self.loss_fn, x, y)
        loss, gradient = average_over_processes(loss, gradient, batch_size=len(x))
        for parameter, derivative in zip(self.net.parameters(), gradient, strict=True):
            parameter.grad = derivative
        optimizer.step()
        return loss

    def next_step_size(self) -> float:
        """The step size of an update, which a schedule then changes for the next one."""
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, PerUpdate):
                config.scheduler.step()
        return lr

    def on_train_epoch_end(self) -> None:
        """Steps the learning-rate schedulers that go by epochs, which Lightning leaves to manual optimization.

        Not in an epoch that `max_steps` or `max_time` has broken off: that one ends when the run is resumed.
        """
        if not self.trainer.is_last_batch:
            return
        metrics = self.metrics | self.trainer.callback_metrics
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, PerUpdate):
                continue
            monitor = getattr(config.scheduler, "monitor", None)  # of a ReduceLROnPlateau
            if monitor and monitor not in metrics:
                raise MisconfigurationException(f"--lr_scheduler.monitor is {monitor}: choose one of {list(metrics)}")
            self.lr_scheduler_step(config.scheduler, metrics[monitor] if monitor else None)
            self.stop_if_exhausted(config.scheduler)

    def stop_if_exhausted(self, scheduler: LRScheduler) -> None:
        """Ends the run at the plateau after the last reduction."""
        if isinstance(scheduler, Plateau) and scheduler.exhausted:
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Lets go of what lies on the GPU."""
        self.captured = None

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Adds a batch to the loss and accuracy of the set it belongs to. Gives outputs, (B, 10), and labels, (B,)."""
        x, y = batch
        output, labels = self.net(x), y.argmax(dim=1)
        self.mean_loss.update(self.loss_fn(output, y), weight=len(x))
        self.accuracy.update(output, labels)
        return output, labels

    def scores(self, output: Tensor) -> Tensor:
        """How sure the network is of each digit, from its outputs Φ(x), (B, 10). Returns (B, 10) float64.

        Trained by cross-entropy, the probabilities that the outputs stand for. By squared errors, the outputs
        themselves, which come near those probabilities but are not bound to lie between 0 and 1.
        """
        output = output.double()
        return output.softmax(dim=1) if self.hparams.loss == "cross_entropy" else output

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the validation metrics."""
        self.evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs loss and accuracy over the whole validation set and all processes."""
        self.log_dict({"val/loss": self.mean_loss, "val/accuracy": self.accuracy}, prog_bar=True)

    def on_test_start(self) -> None:
        """Has seen no error yet."""
        self.errors.clear()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the test metrics, and keeps what it gets wrong."""
        output, labels = self.evaluate(batch)
        self.confusion.update(output, labels)
        wrong = output.argmax(dim=1) != labels
        self.errors.append((batch[0][wrong].cpu(), labels[wrong].cpu(), self.scores(output[wrong]).cpu()))

    def on_test_epoch_end(self) -> None:
        """Logs loss, accuracy, errors and each digit's accuracy over the whole test set and all processes."""
        self.log_dict({"test/loss": self.mean_loss, "test/accuracy": self.accuracy})
        confusion = self.confusion.compute().float()
        self.confusion.reset()
        right, number = confusion.diag(), confusion.sum(dim=1)
        self.log("test/errors", (number - right).sum(), rank_zero_only=True)
        for digit, accuracy in enumerate(right / number):
            self.log(f"test/accuracy_of_{digit}", accuracy, rank_zero_only=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Labels, (B,) int64, and the scores, (B, 10) float64, of a batch."""
        x, y = batch
        return y.argmax(dim=1), self.scores(self.net(x))

    def variant(self, **settings: float | str) -> "MLPClassifier":
        """A copy, on the CPU, that has other settings and the same weights.

        Args:
            settings: Arguments of the class that are other ones.
        """
        own = {name: self.hparams[name] for name in inspect.signature(type(self)).parameters}
        copy = type(self)(**{**own, **settings})
        copy.load_state_dict(self.state_dict())
        return copy

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path) -> "MLPClassifier":
        """The classifier that `fit` saved, on the CPU.

        Lightning's own version runs what a checkpoint names as its instantiator, and anything in one from a URL.

        Args:
            checkpoint_path: A path, a URL, or `best` or `last` of the newest run under `lightning_logs`.

        Raises:
            CheckpointError: It is not to be had, no checkpoint of `fit`, or damaged.
        """
        checkpoint = load_checkpoint(find_checkpoint(str(checkpoint_path), Path(LOGS)))
        names = inspect.signature(cls).parameters
        model = cls(**{name: checkpoint["hyper_parameters"][name] for name in names})
        model.load_state_dict(checkpoint["state_dict"])
        return model

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the newest metrics too: the epoch's validation may be over and its schedule's step yet to come."""
        metrics = self.metrics | self.trainer.callback_metrics
        checkpoint["metrics"] = {name: float(value) for name, value in metrics.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Resumes what Lightning would not.

        It counts an epoch that `max_steps` or `max_time` broke off as processed, and would leave out the images that
        the epoch had not reached. And it keeps the old step size where another `lr` is given to go on with, which is
        how the notebook's practitioners go on.
        """
        if "loops" not in checkpoint:  # parameters alone, to be evaluated
            return
        self.metrics = checkpoint.get("metrics", {})
        loop = checkpoint["loops"]["fit_loop"]
        if not loop["epoch_loop.batch_progress"]["is_last_batch"]:
            for progress in (loop["epoch_progress"]["current"], loop["epoch_progress"]["total"]):
                progress["processed"] = progress["completed"] = max(progress["started"] - 1, 0)
        if checkpoint["hyper_parameters"]["lr"] != self.hparams.lr:
            for state in checkpoint.get("optimizer_states", []):
                for group in state["param_groups"]:
                    group["lr"] = self.hparams.lr
            for state in checkpoint.get("lr_schedulers", []):
                if "base_lrs" in state:  # a rule's γ_0
                    state["base_lrs"] = [self.hparams.lr] * len(state["base_lrs"])
