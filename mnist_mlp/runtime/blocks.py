"""Group several updates into one training step, so that Lightning's overhead per step is paid once for all of them."""

from collections.abc import Iterator
from itertools import islice

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar, Timer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from mnist_mlp.batches import Batches
from mnist_mlp.runtime.internals import count_batches, save_interval

# Updates of a block at most: signals and timers are only checked between blocks, of which 25 keep Lightning's share of
# the time at 1 to 2 % on a CPU. A GPU stands still as one ends, and makes more updates in a second.
LONGEST, LONGEST_ON_CUDA = 25, 100


class BlockCallback(Callback):
    """A callback that needs no call at every update, and says where blocks must end."""

    every_n_updates = 0  # at multiples of this number, unless it is 0
    wants_block_end = False  # after the next update


class Block:
    """Successive batches, all of one size, by their images' numbers, (B,) int64; each is gathered on its turn."""

    def __init__(self, batches: Batches, indices: list[Tensor]) -> None:
        self.batches, self.indices = batches, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return map(self.batches.gather, self.indices)


def sees_updates(callback: Callback) -> bool:
    """Whether a callback does something at every update, so that there can be no blocks."""
    per_block = isinstance(callback, BlockCallback | ProgressBar | Checkpoint | Timer)
    hooks = ("on_train_batch_start", "on_train_batch_end", "on_before_optimizer_step")
    return not per_block and any(is_overridden(hook, callback, Callback) for hook in hooks)


class Blocks:
    """The training batches in blocks, for a trainer that counts batches.

    A block ends whenever the trainer must act: validate, save, end the epoch or the run. Lightning counts a
    training step as one batch; the others are counted when the block is handed out, so that in every hook the block
    is its last batch. Block boundaries never change the result. Where a callback acts on every update, the batches
    come one by one.
    """

    def __init__(self, batches: Batches, trainer: Trainer) -> None:
        self.batches, self.trainer = batches, trainer

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Block | tuple[Tensor, Tensor]]:
        if any(map(sees_updates, self.trainer.callbacks)):
            yield from self.batches
            return
        indices = self.batches.index_batches()
        for first in indices:
            # A smaller batch makes a block of its own, and is not drawn before: checkpoints hold how many are drawn.
            alike = max(0, self.batches.full_batches - self.batches.position)
            more = islice(indices, min(alike, self.updates_until_next_event() - 1))
            block = [first, *more]
            count_batches(self.trainer, len(block) - 1)
            yield Block(self.batches, block)

    def updates_until_next_event(self) -> int:
        """Number of batches until the trainer must act."""
        trainer, loop = self.trainer, self.trainer.fit_loop.epoch_loop
        in_epoch, in_all = loop.batch_progress.current.ready, loop.batch_progress.total.ready
        longest = LONGEST_ON_CUDA if self.batches.images.is_cuda else LONGEST
        left = [longest, trainer.num_training_batches - in_epoch]
        callbacks = [callback for callback in trainer.callbacks if isinstance(callback, BlockCallback)]
        if any(callback.wants_block_end for callback in callbacks):
            left.append(1)
        left += [steps - trainer.global_step for steps in (trainer.max_steps, trainer.min_steps or 0)]
        intervals = [(callback.every_n_updates, trainer.global_step) for callback in callbacks]
        intervals += [(save_interval(callback), trainer.global_step) for callback in trainer.checkpoint_callbacks]
        if isinstance(trainer.val_check_batch, int):
            intervals.append(
                (trainer.val_check_batch, in_all if trainer.check_val_every_n_epoch is None else in_epoch)
            )
        left += [interval - done % interval for interval, done in intervals if interval > 0]
        return int(min(batches for batches in left if batches > 0))

    @property
    def sampler(self) -> Batches:  # which Lightning tells the epoch
        return self.batches

    def state_dict(self) -> dict[str, int]:
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches.load_state_dict(state)
