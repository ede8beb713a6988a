"""Batches of tensors that lie on the training device: shuffled and resumable for training, in order for evaluation."""

import math
from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from torch import Tensor

from mnist_mlp.datasets.distortion import Distortion
from mnist_mlp.errors import UserError


class Batches:
    """Minibatches of tensors in a new order every epoch, each batch one gather; resumable in mid-epoch.

    Batch k of an epoch is a function of (seed, epoch, k) alone. Among several processes, each with its `batch_size`,
    process r takes every `world_size`-th image of the whole batch of `world_size * batch_size`: the union over
    processes is the batch that one process would see with that size. The last batch may be smaller. With a
    `distortion` every image gets a new deformation in every epoch, and some may get a part of another image; both may
    fade as `max_epochs` come near.

    The state (`state_dict`) says how many batches of which epoch have been handed out. Lightning saves it in
    checkpoints, restores it, and tells the epoch through `sampler.set_epoch`.

    Args:
        images: (N, ...) on any device; batches come from there.
        targets: (N, ...), one per image.
        batch_size: Images per batch and process.
        seed: Draws the orders, together with the epoch.
        rank: This process's number.
        world_size: Number of processes.
        distortion: Deforms the images of every batch.
        max_epochs: Epochs of the whole run.
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
        max_epochs: float = math.inf,
    ) -> None:
        self.images, self.targets = distortion.sharpened(images) if distortion else images, targets
        self.whole_batch_size = batch_size * world_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.distortion, self.max_epochs = distortion, max_epochs
        self.deformations: Tensor | None = None  # of each image in this epoch
        self.others: Tensor | None = None  # for each image the number of the one whose part it may get
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
        return map(self.gather, self.index_batches())

    def index_batches(self) -> Iterator[Tensor]:
        """This process's image numbers, (B,) int64, for each batch of the epoch or of its rest after a resumption."""
        start = self.position if self.epoch == self.resumed_epoch else 0
        self.resumed_epoch = None
        order = self.order()
        batches = order.split(self.whole_batch_size)
        if self.distortion:
            # One per image, not per place in the order, and all at once: so they depend neither on the number of
            # processes nor on where a run was interrupted. In the same memory, which a CUDA graph reads.
            strength = self.distortion.strength(self.epoch, self.max_epochs)
            self.deformations = self.distortion.draw(len(self.images), self.epoch_seed(), strength, self.deformations)
            if self.distortion.replace:
                # A copy, as the batches are views of the order itself.
                self.others = order.clone() if self.others is None else self.others.copy_(order)
        for k in range(start, len(batches)):
            # Count the batch before yielding it, so that a checkpoint saved after its update does not replay it.
            self.position = k + 1
            yield batches[k][self.rank :: self.world_size]

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images with these numbers, (B,) int64, deformed where there is a distortion, and their targets."""
        # Indexing with [indices] gives the same, three times as slowly on a CPU.
        images, targets = self.images.index_select(0, indices), self.targets.index_select(0, indices)
        if self.distortion and self.deformations is not None:
            others = None if self.others is None else self.images.index_select(0, self.others.index_select(0, indices))
            images = self.distortion(images, self.deformations.index_select(0, indices), others)
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
        """The seed of this epoch's deformations."""
        return int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)[0])

    @property
    def sampler(self) -> "Batches":
        """This object: Lightning tells a loader's sampler the epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, that the next iteration goes through."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """The position in the epoch, as plain integers."""
        return {"epoch": self.epoch, "position": self.position, "whole_batch_size": self.whole_batch_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a saved position if the next iteration goes through the same epoch.

        Raises:
            UserError: The state counts batches of another size.
        """
        if state["whole_batch_size"] != self.whole_batch_size:
            raise UserError(
                f"--data.batch_size times the number of processes is {self.whole_batch_size} but was "
                f"{state['whole_batch_size']} in the run to resume: keep it, so that every image is seen once"
            )
        self.epoch = self.resumed_epoch = state["epoch"]
        self.position = state["position"]


class EvaluationBatches:
    """A whole set in its own order, in batches, for evaluation.

    Among several processes each takes every `world_size`-th image, so that together they see every image once.
    Arguments are as for `Batches`.
    """

    def __init__(self, images: Tensor, targets: Tensor, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.parts = [tensor[rank::world_size].split(batch_size) for tensor in (images, targets)]

    def __len__(self) -> int:
        return len(self.parts[0])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(*self.parts, strict=True)
