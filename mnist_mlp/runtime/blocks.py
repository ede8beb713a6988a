"""Several updates to a training step, so that what Lightning does between two steps is done once for all of them."""

from collections.abc import Iterator
from itertools import islice

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar, Timer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from mnist_mlp.batches import Batches

LONGEST = 100  # updates; more would not pay, and a signal or a clock is looked at between blocks


class Block:
    """Successive batches of an epoch, all of one size. Each is gathered when its turn comes.

    Args:
        batches: Where they come from.
        shares: For each, the numbers of its images, (B,) int64.
    """

    def __init__(self, batches: Batches, shares: list[Tensor]) -> None:
        self.batches, self.shares = batches, shares

    def __len__(self) -> int:
        return len(self.shares)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return map(self.batches.gather, self.shares)


def sees_updates(callback: Callback) -> bool:
    """Whether a callback of somebody else's does something at every update."""
    ours = type(callback).__module__.startswith("mnist_mlp.")
    per_block = ours or isinstance(callback, ProgressBar | Checkpoint | Timer)
    hooks = ("on_train_batch_start", "on_train_batch_end", "on_before_optimizer_step")
    return not per_block and any(is_overridden(hook, callback, Callback) for hook in hooks)


class Blocks:
    """The training batches in blocks, for a trainer that counts batches.

    A block ends wherever the trainer has something to do: log, validate, save, end the epoch or the run. Lightning
    counts a training step as one batch; it is told of the block's other ones when the block is handed out, so that to
    all that it calls the block is its last batch. How the batches are cut into blocks changes no result. If a callback
    does something at every update there are no blocks, but the batches themselves.

    Args:
        batches: The batches.
        trainer: Who trains on them.
    """

    def __init__(self, batches: Batches, trainer: Trainer) -> None:
        self.batches, self.trainer = batches, trainer

    def __len__(self) -> int:
        """Number of batches, in which Lightning counts an epoch."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Block | tuple[Tensor, Tensor]]:
        if any(map(sees_updates, self.trainer.callbacks)):
            yield from self.batches
            return
        shares = self.batches.shares()
        while block := list(islice(shares, self.until_due())):
            self.count(len(block) - 1)
            yield Block(self.batches, block)

    def until_due(self) -> int:
        """Number of batches until the trainer has something to do, or until one of another size."""
        trainer, loop = self.trainer, self.trainer.fit_loop.epoch_loop
        in_epoch, in_all = loop.batch_progress.current.ready, loop.batch_progress.total.ready
        left = [LONGEST, trainer.num_training_batches - in_epoch]
        if any(getattr(callback, "impatient", False) for callback in trainer.callbacks):
            left.append(1)
        if in_epoch < self.batches.full_batches:
            left.append(self.batches.full_batches - in_epoch)
        left += [steps - trainer.global_step for steps in (trainer.max_steps, trainer.min_steps or 0)]
        intervals = [(trainer.log_every_n_steps, trainer.global_step)]
        intervals += [
            (getattr(each, "_every_n_train_steps", 0), trainer.global_step) for each in trainer.checkpoint_callbacks
        ]
        if isinstance(trainer.val_check_batch, int):
            intervals.append(
                (trainer.val_check_batch, in_all if trainer.check_val_every_n_epoch is None else in_epoch)
            )
        left += [interval - done % interval for interval, done in intervals if interval > 0]
        return min(batches for batches in left if batches > 0)

    def count(self, batches: int) -> None:
        """Tells Lightning of batches besides the one that it counts itself."""
        loop = self.trainer.fit_loop
        loop.epoch_loop.batch_progress.increment_by(batches)
        loop.epoch_loop._batches_that_stepped += batches  # the step that metrics are logged at
        loop._data_fetcher.fetched += batches  # which tells the last batch of an epoch

    @property
    def sampler(self) -> Batches:
        """What Lightning tells the epoch to."""
        return self.batches

    def state_dict(self) -> dict[str, int]:
        """As of `Batches`."""
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """As of `Batches`."""
        self.batches.load_state_dict(state)
