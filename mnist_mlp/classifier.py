"""The LightningModule: explicit gradients by manual optimization."""

import inspect
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveInt, restricted_number_type
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from mnist_mlp.errors import UserError
from mnist_mlp.gradient import LOSSES, GradientDescent, Loss, loss_and_gradient
from mnist_mlp.network import MLP
from mnist_mlp.processes import average_over_processes
from mnist_mlp.schedules import PerUpdate, Plateau

StepSize = restricted_number_type("StepSize", float, [(">", 0), ("<", math.inf)])

Batch = tuple[Tensor, Tensor]
"""x, (B, 1, 28, 28) float32, and y, (B, 10) float32 one-hot."""


class LossAndAccuracy(Metric):
    """Mean loss and accuracy over a whole set and all processes, however they are batched."""

    loss: Tensor
    right: Tensor
    number: Tensor

    def __init__(self, loss_fn: Loss) -> None:
        super().__init__()
        self.loss_fn = loss_fn
        for name, zero in (("loss", 0.0), ("right", 0), ("number", 0)):
            self.add_state(name, torch.tensor(zero), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch: outputs Φ(x) and one-hot labels, both (B, classes) float."""
        # Not in place: after a test, which runs in inference mode, the states are inference tensors.
        self.loss = self.loss + self.loss_fn(output, target) * len(output)
        self.right = self.right + (output.argmax(dim=1) == target.argmax(dim=1)).sum()
        self.number = self.number + len(output)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean loss and share of right answers, () float each."""
        return self.loss / self.number, self.right / self.number


@torch.no_grad()
def evaluate(net: nn.Module, loss_fn: Loss, batches: Iterable[Batch]) -> tuple[float, float]:
    """Mean loss and accuracy of a network over a set in batches, on its device."""
    metric = LossAndAccuracy(loss_fn).to(next(net.parameters()).device)
    for x, y in batches:
        metric.update(net(x), y)
    loss, accuracy = metric.compute()
    return loss.item(), accuracy.item()


class MLPClassifier(LightningModule):
    """The softplus MLP trained by u ← u − γ g, g the minibatch gradient, written out.

    It runs with any Trainer and any loader of (x, one-hot y): each `training_step` is one update, and one
    `global_step`. `runtime.fast_training.FastClassifier` makes the same updates faster.

    Args:
        hidden: Units of each hidden layer, as '[500]' or '[1000,500]'; '[]' for a single affine map.
        activation: Function between the affine layers; softplus has beta=25 and threshold=1.
        loss: `mse` (the notebook's code), `squared` (the notebook's formula: 5 times `mse`) or `cross_entropy`.
        lr: Step size γ, or the first one γ_0, of plain gradient descent; not used with --optimizer.
        schedule: `constant`, `inverse_sqrt` (γ_0/√(k+1) in update k), `cosine` (to zero at the end of the budget) or
            `plateau` (reduced when validation stops improving).
        monitor: Validation metric that `plateau` watches.
        patience: Epochs without improvement that make a plateau.
        decay: Factor δ of the step size at a plateau.
        max_decays: Reductions; the plateau after them ends training.

    Raises:
        KeyError: The activation or the loss is unknown.
    """

    def __init__(
        self,
        hidden: Sequence[PositiveInt] = (500,),
        activation: Literal["softplus", "relu"] = "softplus",
        loss: Literal["mse", "squared", "cross_entropy"] = "mse",
        lr: StepSize = 0.1,  # type: ignore[valid-type]
        schedule: Literal["constant", "inverse_sqrt", "cosine", "plateau"] = "constant",
        monitor: Literal["loss", "accuracy"] = "loss",
        patience: PositiveInt = 3,
        decay: OpenUnitInterval = 0.5,
        max_decays: NonNegativeInt = 4,
    ) -> None:
        super().__init__()
        hidden = list(hidden)  # as YAML and checkpoints have it
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.net = MLP(hidden, activation)
        self.loss_fn = LOSSES[loss]
        self.loss_and_accuracy = LossAndAccuracy(self.loss_fn)
        self.confusion = MulticlassConfusionMatrix(num_classes=10)

    def forward(self, x: Tensor) -> Tensor:
        """The network's outputs Φ(x), (B, 10), for images x, (B, ...) with 784 values each."""
        return self.net(x)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One update. Returns the loss before it, () float."""
        loss = self.update(batch, self.optimizers())
        self.advance_schedule()
        every = self.trainer.log_every_n_steps
        if every and self.global_step % every == 0:  # a call of `log` takes 0.4 ms
            self.log("train/loss", loss, prog_bar=True)
        return {"loss": loss}

    def update(self, batch: Batch, optimizer: Optimizer | LightningOptimizer) -> Tensor:
        """u ← u − γ g, g the mean gradient over the batches of all processes. Returns the loss, () float."""
        x, y = batch
        loss, gradient = loss_and_gradient(self.net, self.loss_fn, x, y)
        loss, gradient = average_over_processes(loss, gradient, batch_size=len(x))
        for parameter, derivative in zip(self.net.parameters(), gradient, strict=True):
            parameter.grad = derivative
        optimizer.step()
        return loss

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """Plain gradient descent, u ← u − γ g, with the schedule of γ."""
        optimizer = GradientDescent(self.net.parameters(), self.hparams.lr)
        return [optimizer], self.schedulers(optimizer)

    def schedulers(self, optimizer: Optimizer) -> list[LRScheduler]:
        """The learning-rate scheduler that `schedule` names, or none for a constant γ."""
        settings = self.hparams
        if settings.schedule == "constant":
            return []
        if settings.schedule == "plateau":
            return [Plateau(optimizer, settings.monitor, settings.patience, settings.decay, settings.max_decays)]
        return [PerUpdate(optimizer, settings.schedule)]

    def advance_schedule(self) -> float:
        """Step the schedulers that go by updates. Returns the step size of the update just made."""
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, PerUpdate):
                config.scheduler.step()
        return lr

    def on_train_epoch_end(self) -> None:
        """Step the schedulers that go by epochs, which Lightning leaves to manual optimization.

        An epoch that `max_steps` or `max_time` cuts short is finished by the run that resumes it.
        """
        if not self.trainer.is_last_batch:
            return
        metrics = self.trainer.callback_metrics
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, PerUpdate):
                continue
            monitor = getattr(config.scheduler, "monitor", None)  # of a ReduceLROnPlateau
            if monitor and monitor not in metrics:
                raise UserError(f"a scheduler monitors {monitor}, which is not logged: choose one of {list(metrics)}")
            self.lr_scheduler_step(config.scheduler, metrics[monitor] if monitor else None)
            self.stop_if_exhausted(config.scheduler)

    def stop_if_exhausted(self, scheduler: LRScheduler) -> None:
        """End the run at the plateau after the last reduction."""
        if isinstance(scheduler, Plateau) and scheduler.exhausted:
            self.trainer.should_stop = True

    def setup(self, stage: str) -> None:
        """Refuse float16, whose loss scaling lives in the `.backward()` that explicit gradients never call."""
        if self.trainer.precision == "16-mixed":
            raise UserError("--trainer.precision 16-mixed scales the loss of `.backward()` alone: use bf16-mixed")

    def on_train_start(self) -> None:
        """Tell the schedules how long the run is; end a resumed run that has already reached its last plateau."""
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, PerUpdate):
                config.scheduler.set_budget(self.trainer.estimated_stepping_batches)
            self.stop_if_exhausted(config.scheduler)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        self.loss_and_accuracy.update(self.net(x), y)

    def on_validation_epoch_end(self) -> None:
        self.log_loss_and_accuracy("val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        output = self.net(x)
        self.loss_and_accuracy.update(output, y)
        self.confusion.update(output, y.argmax(dim=1))

    def on_test_epoch_end(self) -> None:
        """Log loss, accuracy, the number of errors and each digit's accuracy."""
        self.log_loss_and_accuracy("test")
        confusion = self.confusion.compute().float()
        self.confusion.reset()
        right, number = confusion.diag(), confusion.sum(dim=1)
        self.log("test/errors", (number - right).sum(), rank_zero_only=True)
        for digit, accuracy in enumerate(right / number):
            self.log(f"test/accuracy_of_{digit}", accuracy, rank_zero_only=True)

    def log_loss_and_accuracy(self, stage: Literal["val", "test"]) -> None:
        """Log the loss and accuracy of the set just evaluated, and reset them for the next."""
        loss, accuracy = self.loss_and_accuracy.compute()
        self.loss_and_accuracy.reset()
        self.log_dict({f"{stage}/loss": loss, f"{stage}/accuracy": accuracy}, prog_bar=stage == "val")

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Labels, (B,) int64, and scores, (B, 10) float32, of a batch."""
        x, y = batch
        return y.argmax(dim=1), self.scores(self.net(x))

    def scores(self, output: Tensor) -> Tensor:
        """Confidence in each digit, (B, 10) float32, from the network's outputs Φ(x), (B, 10).

        Trained by cross-entropy, the probabilities that the outputs stand for. By squared errors, the outputs
        themselves, which approximate those probabilities but may lie outside 0 to 1.
        """
        output = output.float()
        return output.softmax(dim=1) if self.hparams.loss == "cross_entropy" else output

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, **settings: Any) -> "MLPClassifier":
        """Load the network and settings of a checkpoint file, on the CPU, as tensors and plain values only.

        Lightning's own version calls whatever function a checkpoint names as its instantiator. `settings` are
        arguments of the class that replace the saved ones.

        Raises:
            OSError: There is no such file.
            pickle.UnpicklingError: It is no checkpoint, or holds code.
        """
        checkpoint = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
        saved = checkpoint["hyper_parameters"]
        names = inspect.signature(cls).parameters.keys() & saved.keys()
        model = cls(**{**{name: saved[name] for name in names}, **settings})
        model.load_state_dict(checkpoint["state_dict"])
        return model
