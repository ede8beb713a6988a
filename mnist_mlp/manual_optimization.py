"""Lightning's features for a module that makes its updates itself: most work, some cannot.

The Trainer refuses to clip the gradients of a module with manual optimization, and drops a scheduler's `monitor` and
`strict`. Our module applies them all to its explicit gradients, so Lightning reads these settings as it does for
automatic optimization, and then leaves the updates to the module.
"""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.optim import LBFGS
from torch.optim.lr_scheduler import OneCycleLR

from mnist_mlp.errors import UserError

CALLBACKS: dict[type[Callback], str] = {  # that rely on Lightning's own updates, and their replacements
    BatchSizeFinder: "choose the batch size by compare_batch_sizes",
    GradientAccumulationScheduler: "use larger batches, which make the same updates",
    LearningRateFinder: "use find_lr",
    StochasticWeightAveraging: "use WeightAveraging or EMAWeightAveraging",
}
SHARDED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)
HOOKS = (  # of a module, which Lightning calls in its own updates alone
    "backward",
    "on_after_backward",
    "on_before_backward",
    "on_before_zero_grad",
    "optimizer_step",
    "optimizer_zero_grad",
)


class ManualOptimization(Callback):
    """Starts manual optimization once Lightning has read the settings of clipping and schedulers."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            refuse_unsupported(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what the optimizers and schedulers cannot do, and leave the updates to the module."""
        if any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers):
            raise UserError("LBFGS needs several gradients per update: choose an optimizer that needs one")
        if any(config.reduce_on_plateau and config.interval == "step" for config in trainer.lr_scheduler_configs):
            raise UserError("a scheduler that monitors a metric goes by epochs: leave out its interval")
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, OneCycleLR) and config.interval == "step":
                steps, updates = config.scheduler.total_steps, trainer.estimated_stepping_batches
                if steps < updates // config.frequency:
                    raise UserError(
                        f"OneCycleLR ends after {steps} steps, the run has {updates} updates: give as many"
                    )
        pl_module.automatic_optimization = False


def refuse_unsupported(trainer: Trainer, pl_module: LightningModule) -> None:
    """Refuse what presupposes Lightning's own updates, or `.backward()`, with a UserError that says what to do."""
    if trainer.precision == "16-mixed":
        raise UserError("Trainer(precision=16-mixed) scales the loss of `.backward()` alone: use bf16-mixed")
    if trainer.precision.startswith("64") and trainer.strategy.root_device.type == "mps":
        raise UserError(f"Trainer(precision={trainer.precision}): MPS has no float64, use accelerator=cpu")
    if trainer.accumulate_grad_batches != 1:
        number = trainer.accumulate_grad_batches
        raise UserError(
            f"Trainer(accumulate_grad_batches={number}) accumulates in `.backward()` alone: use batches of {number} "
            "times the size, which make the same updates"
        )
    if isinstance(trainer.strategy, SHARDED):
        raise UserError(f"{type(trainer.strategy).__name__} splits parameters between processes: use ddp")
    for callback in trainer.callbacks:
        for kind, remedy in CALLBACKS.items():
            if isinstance(callback, kind):
                raise UserError(f"{kind.__name__} cannot work with explicit gradients: {remedy}")
    for hook in HOOKS:
        if is_overridden(hook, pl_module):
            raise UserError(f"{type(pl_module).__name__}.{hook} would not be called: override `update` in its place")
