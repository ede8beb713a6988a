"""Lightning's features for a module that makes its updates itself: most work, some cannot.

The Trainer refuses to clip the gradients of a module with manual optimization, and drops a scheduler's `monitor` and
`strict`. Our module applies them all to its explicit gradients, so Lightning shall read these settings as it does for
automatic optimization, and then leave the updates to the module.
"""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from mnist_mlp.errors import UserError

CALLBACKS: dict[type[Callback], str] = {  # that rely on Lightning's own updates, and their replacements
    BatchSizeFinder: "choose the batch size by compare_batch_sizes",
    GradientAccumulationScheduler: "use larger batches, which make the same updates",
    LearningRateFinder: "use find_lr",
    StochasticWeightAveraging: "use WeightAveraging or EMAWeightAveraging",
}
SHARDED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


class ManualOptimization(Callback):
    """Starts manual optimization once Lightning has read the settings of clipping and schedulers."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        refuse_unsupported(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.automatic_optimization = False


def refuse_unsupported(trainer: Trainer) -> None:
    """Refuse what presupposes Lightning's own updates, or `.backward()`, with a UserError that says what to do."""
    if trainer.precision == "16-mixed":
        raise UserError("Trainer(precision=16-mixed) scales the loss of `.backward()` alone: use bf16-mixed")
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
