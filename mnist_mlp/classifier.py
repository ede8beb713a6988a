"""The LightningModule: explicit gradients by manual optimization."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveInt
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from mnist_mlp.arguments import StepSize, check_arguments, instantiate, plain
from mnist_mlp.errors import UserError
from mnist_mlp.evaluation import Batch, Evaluation, accuracy_of, as_labels
from mnist_mlp.gradient import LOSSES, GradientDescent, loss_and_gradient, trainable
from mnist_mlp.manual_optimization import ManualOptimization
from mnist_mlp.network import MLP
from mnist_mlp.processes import average_over_processes
from mnist_mlp.schedules import PerUpdate, Plateau

LossName = Literal["mse", "squared", "cross_entropy"]


class Classifier(LightningModule):
    """Any network trained by u ← u − γ g, g the minibatch gradient, written out.

    It runs with any Trainer and any loader of batches x, y: targets (B, classes) or labels (B,). Each `training_step`
    is one update, and one `global_step`. Parameters that do not require a gradient stay as they are. For another
    update rule, groups of parameters with step sizes of their own, or schedulers, override `configure_optimizers` as
    in any LightningModule; the Trainer's clipping works too. Overrides of `configure_callbacks`, `on_train_epoch_end`
    and `teardown` must call the base's.

    Args:
        net: The network Φ, from x, (B, ...), to outputs, (B, classes) float; `forward` calls it.
        loss: `mse` (the notebook's code), `squared` (the notebook's formula: classes / 2 times `mse`) or
            `cross_entropy`.
        lr: Step size γ.
        log_grad_norm: Log the gradient's norm, before clipping, as `train/grad_norm`.

    Raises:
        UserError: An argument is not of its type.
    """

    own_callbacks: tuple[type[Callback], ...] = (ManualOptimization,)  # in every run of this module
    grad_norm: Tensor  # of the newest gradient, () float, if `log_grad_norm`

    def __init__(
        self,
        net: nn.Module,
        loss: LossName = "mse",
        lr: StepSize = 0.1,
        log_grad_norm: bool = False,
    ) -> None:
        super().__init__()
        check_arguments(Classifier, locals())
        self.save_hyperparameters(ignore="net")
        for name, value in list(self.hparams.items()):
            try:
                self.hparams[name] = plain(value)
            except TypeError:  # a network or a function among a subclass's arguments, which checkpoints would pickle
                del self.hparams[name]
        self.automatic_optimization = False
        self.net = net
        self.loss_fn = LOSSES[loss]
        self.evaluation = Evaluation(self.loss_fn)
        if log_grad_norm:
            self.register_buffer("grad_norm", torch.zeros(()), persistent=False)

    def configure_callbacks(self) -> list[Callback]:
        """Let Lightning read settings that it ignores in manual optimization, which begins as the fit starts."""
        self.automatic_optimization = self.trainer.training
        return [kind() for kind in self.own_callbacks]

    def teardown(self, stage: str) -> None:
        """Leave the trainer as it was, for a next run or for another module."""
        self.trainer.callbacks = [each for each in self.trainer.callbacks if type(each) not in self.own_callbacks]

    def forward(self, x: Tensor) -> Tensor:
        """The network's outputs Φ(x), (B, classes), for x, (B, ...)."""
        return self.net(x)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One update. Returns the loss before it, () float."""
        loss = self.update(batch, self.optimizers())
        every, last = self.trainer.log_every_n_steps, self.trainer.is_last_batch
        if every and (self.global_step % every == 0 or last):  # a call of `log` takes 0.4 ms
            self.log("train/loss", loss, prog_bar=True)
            if self.hparams.log_grad_norm:
                self.log("train/grad_norm", self.grad_norm)
        self.step_schedulers("step", batch_idx + 1)
        if last:
            self.step_schedulers("epoch", self.trainer.current_epoch + 1)
        return {"loss": loss}

    def update(self, batch: Batch, optimizer: Optimizer | LightningOptimizer) -> Tensor:
        """u ← u − γ g, g the mean gradient over the batches of all processes. Returns the loss, () float."""
        x, y = batch
        loss, gradient = loss_and_gradient(self, self.loss_fn, x, y)
        loss, gradient = average_over_processes(loss, gradient, batch_size=len(x))
        if self.hparams.log_grad_norm:
            self.grad_norm.copy_(torch.stack([derivative.norm() for derivative in gradient]).norm())
        derivatives = iter(gradient)
        for parameter in self.parameters():
            parameter.grad = next(derivatives) if parameter.requires_grad else None
        clipping = self.trainer.gradient_clip_val, self.trainer.gradient_clip_algorithm
        self.configure_gradient_clipping(optimizer, *clipping)  # by torch's functions, if the Trainer is to clip
        optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        """Plain gradient descent, u ← u − γ g, with a constant γ."""
        return GradientDescent(trainable(self), self.hparams.lr)

    def step_schedulers(self, interval: Literal["step", "epoch"], number: int) -> None:
        """Step the schedulers that go by updates, after a number of the epoch, or by epochs, after a number of them.

        Lightning does the same, at the same moment, but for automatic optimization alone.
        """
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == interval and number % config.frequency == 0 and not config.reduce_on_plateau:
                self.lr_scheduler_step(config.scheduler, None)

    def on_train_epoch_end(self) -> None:
        """Step the schedulers that monitor a metric, unless the epoch was cut short.

        A metric that is not logged is a UserError, or for a scheduler that is not `strict` a warning.
        """
        metrics, number = self.trainer.callback_metrics, self.trainer.current_epoch + 1
        for config in self.trainer.lr_scheduler_configs:
            if not config.reduce_on_plateau or number % config.frequency or not self.trainer.is_last_batch:
                continue
            if config.monitor in metrics:
                self.lr_scheduler_step(config.scheduler, metrics[config.monitor])
                continue
            text = f"a scheduler monitors {config.monitor}, which is not logged: choose one of {list(metrics)}"
            if config.strict:
                raise UserError(text)
            rank_zero_warn(text)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        self.evaluation.update(self(x), y)

    def on_validation_epoch_end(self) -> None:
        if self.evaluation.update_called:  # by `validation_step`, which a subclass may have replaced
            self.log_evaluation("val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        Classifier.validation_step(self, batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log loss, accuracy, the number of errors and the accuracy of each class that occurs."""
        if not self.evaluation.update_called:
            return
        answers = self.log_evaluation("test")
        labels, right = answers[:, 0], answers[:, 0] == answers[:, 1]
        self.log("test/errors", right.logical_not().sum().float(), rank_zero_only=True)
        for label in labels.unique():
            self.log(f"test/accuracy_of_{label}", right[labels == label].float().mean(), rank_zero_only=True)

    def log_evaluation(self, stage: Literal["val", "test"]) -> Tensor:
        """Log the loss and accuracy of the set just evaluated. Returns labels beside answers, (N, 2) int64."""
        loss, answers = self.evaluation.compute()
        self.evaluation.reset()
        self.log_dict({f"{stage}/loss": loss, f"{stage}/accuracy": accuracy_of(answers)}, prog_bar=stage == "val")
        return answers

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Labels, (B,) int64, and scores, (B, classes) float32, of a batch."""
        x, y = batch
        return as_labels(y), self.scores(self(x))

    def scores(self, output: Tensor) -> Tensor:
        """Confidence in each class, (B, classes) float32, from the network's outputs Φ(x), (B, classes).

        Trained by cross-entropy, the probabilities that the outputs stand for. By squared errors, the outputs
        themselves, which approximate those probabilities but may lie outside 0 to 1.
        """
        output = output.float()
        return output.softmax(dim=1) if self.hparams.loss == "cross_entropy" else output

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path,
        map_location: Any = "cpu",
        *,
        strict: bool = True,
        weights_only: bool = True,
        **settings: Any,
    ) -> "Classifier":
        """Load the network and settings of a checkpoint file, by default on the CPU, as tensors and plain values only.

        Lightning's own version calls a function that the checkpoint names, and gives a class with `**kwargs` the
        settings that it passes to its base itself. Here no code is loaded, whatever `weights_only` says. `settings`
        are arguments of the class that replace the saved ones; a `Classifier` needs its `net`.

        Raises:
            OSError: There is no such file.
            pickle.UnpicklingError: It is no checkpoint, or holds code.
            UserError: The class does not let a saved setting through to its base.
        """
        checkpoint = torch.load(checkpoint_path, map_location, weights_only=True)
        model = instantiate(cls, checkpoint["hyper_parameters"], **settings)
        for name, value in checkpoint["hyper_parameters"].items():
            if (
                not settings and name in model.hparams and model.hparams[name] != value
            ):  # others may follow from new settings
                raise UserError(f"{cls.__name__} does not take `{name}` on: give it as an argument")
        model.configure_model()
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"], strict=strict)
        return model.to(next(iter(checkpoint["state_dict"].values())).device)


class MLPClassifier(Classifier):
    """The softplus MLP, trained by gradient descent with the notebook's rules for γ.

    `runtime.fast_training.FastClassifier` makes the same updates faster.

    Args:
        hidden: Units of each hidden layer, as '[500]' or '[1000,500]'; '[]' for a single affine map.
        activation: Function between the affine layers; softplus has beta=25 and threshold=1.
        deskew: Set digits upright and in the middle before the first layer.
        directions: Give the first layer eight maps of edges, one for each direction, in place of pixels.
        loss: `mse` (the notebook's code), `squared` (its formula: 5 times `mse`) or `cross_entropy`.
        lr: Step size γ, or the first one γ_0, of plain gradient descent; not used with --optimizer.
        schedule: `constant`, `inverse_sqrt` (γ_0/√(k+1) in update k), `cosine` (to zero at the end of the budget) or
            `plateau` (reduced when validation stops improving).
        monitor: Validation metric for `plateau`.
        patience: Epochs without gain that make a plateau.
        decay: Factor δ of the step size at a plateau.
        max_decays: Reductions; the plateau after them ends training.
        log_grad_norm: Log the gradient's norm, before clipping, as `train/grad_norm`.

    Raises:
        UserError: An argument is not of its type.
    """

    def __init__(
        self,
        hidden: Sequence[PositiveInt] = (500,),
        activation: Literal["softplus", "relu"] = "softplus",
        deskew: bool = False,
        directions: bool = False,
        loss: LossName = "mse",
        lr: StepSize = 0.1,
        schedule: Literal["constant", "inverse_sqrt", "cosine", "plateau"] = "constant",
        monitor: Literal["loss", "accuracy"] = "loss",
        patience: PositiveInt = 3,
        decay: OpenUnitInterval = 0.5,
        max_decays: NonNegativeInt = 4,
        log_grad_norm: bool = False,
    ) -> None:
        check_arguments(MLPClassifier, locals())
        hidden = list(hidden)  # as YAML and checkpoints have it
        super().__init__(MLP.of(locals()), loss, lr, log_grad_norm)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[dict[str, Any]]]:
        """Plain gradient descent, u ← u − γ g, with the schedule of γ."""
        optimizer = GradientDescent(trainable(self), self.hparams.lr)
        return [optimizer], self.schedulers(optimizer)

    def schedulers(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """The learning-rate scheduler that `schedule` names, as Lightning takes it, or none for a constant γ."""
        settings = self.hparams
        if settings.schedule == "constant":
            return []
        if settings.schedule == "plateau":
            rule = Plateau(optimizer, settings.monitor, settings.patience, settings.decay, settings.max_decays)
            return [{"scheduler": rule, "monitor": rule.monitor}]
        return [{"scheduler": PerUpdate(optimizer, settings.schedule), "interval": "step"}]

    def on_train_start(self) -> None:
        """Tell the schedules how long the run is; end a resumed run that has already reached its last plateau."""
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, PerUpdate):
                config.scheduler.set_budget(self.trainer.estimated_stepping_batches)
            self.stop_if_exhausted(config.scheduler)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        super().lr_scheduler_step(scheduler, metric)
        self.stop_if_exhausted(scheduler)

    def stop_if_exhausted(self, scheduler: Any) -> None:
        """End the run at the plateau after the last reduction."""
        if isinstance(scheduler, Plateau) and scheduler.exhausted:
            self.trainer.should_stop = True
