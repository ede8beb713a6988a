"""The same updates, faster and safe to interrupt: what `fit` adds to the plain classifier and data module."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)

from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.evaluation import Batch
from mnist_mlp.network import MLP
from mnist_mlp.runtime.blocks import Block, Blocks
from mnist_mlp.runtime.graphed_update import GraphedUpdate, at_least_float32, capturable
from mnist_mlp.runtime.internals import count_steps
from mnist_mlp.runtime.loss_log import LossLog
from mnist_mlp.runtime.onednn import use_onednn
from mnist_mlp.runtime.processor import lacks_bfloat16, touch_constants
from mnist_mlp.runtime.resumption import Resumption
from mnist_mlp.runtime.signals import StopOnSignal
from mnist_mlp.schedules import PerUpdate, Plateau

SCHEDULERS = (  # which change the step size and no other setting of the optimizer
    PerUpdate,
    Plateau,
    *(ConstantLR, CosineAnnealingLR, CosineAnnealingWarmRestarts, ExponentialLR, LambdaLR, LinearLR, MultiStepLR),
    *(MultiplicativeLR, PolynomialLR, ReduceLROnPlateau, StepLR),
)


class FastDataModule(MNISTDataModule):
    """`MNISTDataModule` that hands out its training batches in blocks."""

    def train_dataloader(self) -> Blocks:
        return Blocks(super().train_dataloader(), self.trainer)


class FastClassifier(MLPClassifier):
    """`MLPClassifier` that makes a block of its updates in one training step, and can be stopped at any moment."""

    own_callbacks = (*MLPClassifier.own_callbacks, LossLog, Resumption, StopOnSignal)
    graph: GraphedUpdate | None

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.graph = None
        use_onednn(self.net)
        touch_constants()
        precision, on_cpu = self.trainer.precision, self.trainer.strategy.root_device.type == "cpu"
        if precision.startswith("bf16") and on_cpu and lacks_bfloat16():
            rank_zero_warn(f"{precision}: this processor has no bfloat16, 32-true is faster")

    def training_step(self, block: Block | Batch, batch_idx: int) -> dict[str, Any]:
        """One update per batch of a block. Returns their n losses, (n,) float, and their n step sizes."""
        output = self.run_block(block, batch_idx) if isinstance(block, Block) else self.run_updates([block], batch_idx)
        if self.trainer.is_last_batch:
            self.step_schedulers("epoch", self.trainer.current_epoch + 1)
        return output

    def run_block(self, block: Block, batch_idx: int) -> dict[str, Any]:
        """The updates of a block, whose last one is number `batch_idx` of the epoch."""
        first = batch_idx + 1 - len(block)
        optimizer = self.trainer.optimizers[0]  # Lightning's wrapper of it takes 80 µs a step
        failed = self.graph is not None and self.graph.failed  # which it would again
        if self.graph and self.graph.fits(block) and not failed:
            lrs = self.step_sizes(block, first)
            output = {"loss": self.graph.replay(block, lrs), "lr": lrs}
        elif self.is_plain() and capturable(block, optimizer) and not failed:
            self.graph = None  # its memory is free for the new one
            self.graph = GraphedUpdate(self, optimizer, block)
            with warnings.catch_warnings():
                # torch warns if schedulers step before the first update; here they must, as it needs its step size
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                lrs = self.step_sizes(block, first)
            output = {"loss": self.graph.capture(block, lrs), "lr": lrs}
        else:
            output = self.run_updates(block, first, optimizer)
        count_steps(self.trainer, len(block))
        return output

    def is_plain(self) -> bool:
        """Whether an update is what it is here, and differs from the next one by batch and step size alone.

        A subclass's may do more than a graph repeats, and so may another network.
        """
        schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        own = type(self) is FastClassifier and type(self.net) is MLP
        return own and all(type(scheduler) in SCHEDULERS for scheduler in schedulers)

    def step_sizes(self, block: Block, first: int) -> list[float]:
        """The step size of each update of a block, the first of which is number `first` of the epoch."""
        return [self.advance_schedule(first + i) for i in range(len(block))]

    def update(self, batch: Batch, optimizer: Optimizer | LightningOptimizer) -> Tensor:
        """As the plain one; converts to the run's precision, which Lightning does for batches but not for blocks."""
        return super().update(self.trainer.precision_plugin.convert_input(batch), optimizer)

    def run_updates(self, batches: Iterable[Batch], first: int, optimizer: Optimizer | None = None) -> dict[str, Any]:
        """One update per batch, from number `first` of the epoch on; Lightning counts those of its own optimizer."""
        losses, lrs = [], []
        for batch_idx, batch in enumerate(batches, start=first):
            loss = self.update(batch, optimizer or self.optimizers())
            losses.append(loss.to(at_least_float32(loss.dtype)))
            lrs.append(self.advance_schedule(batch_idx))
        return {"loss": torch.stack(losses), "lr": lrs}

    def advance_schedule(self, batch_idx: int) -> float:
        """Step the schedulers after an update of the epoch. Returns the step size that the update had."""
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.step_schedulers("step", batch_idx + 1)
        return lr

    def on_train_end(self) -> None:
        self.graph = None
