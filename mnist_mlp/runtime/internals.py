"""All that the package uses of Lightning and torch beyond their public interfaces.

Lightning counts one batch per training step and one step per call of its optimizer wrapper. A block makes many of
both, and no public method says so. Torch shows operations to a `TorchDispatchMode`, its documented way of extension,
which has no public name.
"""

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import tree_leaves as tree_leaves
from torch.utils._pytree import tree_map as tree_map


def count_batches(trainer: Trainer, number: int) -> None:
    """Count batches of the current epoch beyond the one that Lightning counts itself."""
    loop = trainer.fit_loop
    loop.epoch_loop.batch_progress.increment_by(number)
    loop.epoch_loop._batches_that_stepped += number  # the step at which loggers write metrics
    loop._data_fetcher.fetched += number  # tells the last batch of an epoch


def count_steps(trainer: Trainer, number: int) -> None:
    """Count optimizer steps, which make up `trainer.global_step`."""
    trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.increment_by(number)


def save_interval(callback: Checkpoint) -> int:
    """Updates from one checkpoint to the next, or 0 if a callback does not save by updates."""
    return getattr(callback, "_every_n_train_steps", 0)  # ModelCheckpoint keeps its argument nowhere else
