"""Batches of tensors that lie on the training device: shuffled and resumable for training, in order for evaluation."""

from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from torch import Tensor

from mnist_mlp.datasets.distortion import Distortion
from mnist_mlp.datasets.mnist import DataError


class Batches:
    """Minibatches of tensors in a new order every epoch, each batch one gather; resumable in mid-epoch.

    Batch k of an epoch is a function of (seed, epoch, k) alone. Under several processes `batch_size` is each one's
    share, and process r takes every `world_size`-th image of the whole batch of `world_size * batch_size`: the union
    over processes is what one process would see with that batch size. The last batch may be smaller. With a
    `distortion` every image is under a new deformation in every epoch.

    A state (`state_dict`) says how many batches of which epoch have been handed out. Lightning saves it in
    checkpoints and gives it back, and tells the epoch through `sampler.set_epoch`.

    Args:
        images: (N, ...) on any device; batches come from there.
        targets: (N, ...), one per image.
        batch_size: Images per batch and process.
        seed: Draws the orders, together with the epoch.
        rank: This process's number.
        world_size: Number of processes.
        distortion: Deforms the images of every batch.
    """

    def __init__(
        self,
        images: Tensor,
        targets: Tensor,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        distortion: Distortion | None = None,
    ) -> None:
        self.images, self.targets = images, targets
        self.whole_batch_size = batch_size * world_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.distortion = distortion
        self.deformations: Tensor | None = None  # of each image in this epoch
        self.epoch = 0
        self.position = 0  # batches handed out in this epoch
        self.resumed_epoch: int | None = None

    def __len__(self) -> int:
        return -(-len(self.images) // self.whole_batch_size)

    @property
    def full_batches(self) -> int:
        """How many batches of an epoch have the whole size; at most one more is smaller."""
        return len(self.images) // self.whole_batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return map(self.gather, self.shares())

    def shares(self) -> Iterator[Tensor]:
        """This process's image numbers in each batch of the epoch, or of what is left of it, (B,) int64."""
        start = self.position if self.epoch == self.resumed_epoch else 0
        self.resumed_epoch = None
        batches = self.order().split(self.whole_batch_size)
        if self.distortion:
            # All at once, and one for each image rather than for each place in the order: so they depend neither on
            # the number of processes nor on where a run was broken off. In the same memory, where a CUDA graph looks.
            self.deformations = self.distortion.draw(len(self.images), self.epoch_seed(), out=self.deformations)
        for k in range(start, len(batches)):
            # Counted before it is handed out: a checkpoint saved after its update must not see it again.
            self.position = k + 1
            yield batches[k][self.rank :: self.world_size]

    def gather(self, share: Tensor) -> tuple[Tensor, Tensor]:
        """The images of these numbers, deformed if they are to be, and their targets."""
        # Indexing with [share] gives the same, three times as slowly on a CPU.
        images, targets = self.images.index_select(0, share), self.targets.index_select(0, share)
        if self.distortion:
            images = self.distortion(images, self.deformations.index_select(0, share))
        return images, targets

    def epochs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch 0, of epoch 1, and so on without end."""
        for epoch in count():
            self.set_epoch(epoch)
            yield from self

    def order(self) -> Tensor:
        """The order of this epoch's images, (N,) int64 on their device."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.images))
        return torch.from_numpy(order).to(self.images.device)

    def epoch_seed(self) -> int:
        """What the deformations of this epoch are drawn from."""
        return int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)[0])

    @property
    def sampler(self) -> "Batches":
        """Itself: Lightning tells the epoch to a loader's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, counted from 0, that the next iteration goes through."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """What `load_state_dict` needs to go on with the images not yet seen; plain integers."""
        return {"epoch": self.epoch, "position": self.position, "whole_batch_size": self.whole_batch_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a saved state when the next iteration is through the same epoch.

        Raises:
            DataError: The state counts batches of another size.
        """
        if state["whole_batch_size"] != self.whole_batch_size:
            raise DataError(
                f"--data.batch_size times the number of processes is {self.whole_batch_size} but was "
                f"{state['whole_batch_size']} in the run to resume: keep it, so that every image is seen once"
            )
        self.epoch = self.resumed_epoch = state["epoch"]
        self.position = state["position"]


class Slices:
    """A whole set in its own order, a slice of it at a time: for evaluation.

    Under several processes each takes every `world_size`-th image, so that together they see every image once.

    Args:
        images: (N, ...) on any device.
        targets: (N, ...), one per image.
        batch_size: Images per slice and process.
        rank: This process's number.
        world_size: Number of processes.
    """

    def __init__(self, images: Tensor, targets: Tensor, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.slices = [tensor[rank::world_size].split(batch_size) for tensor in (images, targets)]

    def __len__(self) -> int:
        return len(self.slices[0])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(*self.slices, strict=True)
