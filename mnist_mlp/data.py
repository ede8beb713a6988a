"""The data module: whole data sets as tensors on the training device, each batch one gather."""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from mnist_mlp.arguments import check_arguments
from mnist_mlp.batches import Batches, EvaluationBatches
from mnist_mlp.datasets.digits import make_digits
from mnist_mlp.datasets.distortion import STRENGTHS, Distortion
from mnist_mlp.datasets.mnist import TRAIN_SIZE, fetch_mnist, mnist_exists, raw_folder, read_mnist
from mnist_mlp.errors import NotFoundError, UserError
from mnist_mlp.gradient import one_hot

MEAN, STD = 0.1307, 0.3081  # of MNIST's pixels in 0..1, as the notebook gives them
CLASSES = 10
EVALUATION_BATCH_SIZE = 1000  # affects speed and memory only: metrics are over the whole set


def normalised(images: Tensor) -> Tensor:
    """The network's input from images, (N, 28, 28) or (28, 28) uint8, white on black: the notebook's transforms.

    Returns (N, 1, 28, 28) or (1, 28, 28) float32, shifted and scaled by the mean and deviation of MNIST's pixels.
    """
    return images.float().unsqueeze(-3).div_(255).sub_(MEAN).div_(STD)


class MNISTDataModule(LightningDataModule):
    """MNIST, or a stand-in for it, as normalised images and one-hot labels on the training device.

    A batch is x, (B, 1, 28, 28) float32 with mean 0 and deviation 1 over the pixels of MNIST, and y, (B, 10) float32.

    Args:
        data_dir: Directory of MNIST: its files are looked for, and downloaded to, DATA_DIR/MNIST/raw.
        source: `mnist`, `digits` (scikit-learn's embedded 8x8 digits, enlarged to MNIST's form and number), or
            `auto`: mnist if it is in DATA_DIR or can be downloaded, else digits with a warning.
        batch_size: Images per update and process.
        val_size: Images held out of the 60,000 for validation; 0 trains on all of them.
        seed: Draws the validation split, and the order of the images and their deformations in every epoch.
        distort: Deform training images at random.
        rotation: Largest angle, in degrees.
        scale: Largest relative change of each side.
        shear: Largest slant, in pixels a row.
        shift: Largest shift each way, in pixels.
        elastic: Deviation of elastic shifts, in pixels.
        sigma: Width of the elastic waves, in pixels.
        replace: Share of the images that get a part of another.
        fade: Share of the epochs, at the end, in which deformations fade away.

    Raises:
        UserError: `val_size` leaves fewer than `batch_size` images to train on, or a strength is out of range.
    """

    dataset: Literal["mnist", "digits"] | None = None  # once it is known
    train_set: tuple[
        Tensor, Tensor
    ]  # after a setup for it: images, (N, 1, 28, 28), and targets, (N, 10), both float32
    val_set: tuple[Tensor, Tensor]
    test_set: tuple[Tensor, Tensor]

    def __init__(
        self,
        data_dir: str = "data",
        source: Literal["auto", "mnist", "digits"] = "auto",
        batch_size: PositiveInt = 200,
        val_size: NonNegativeInt = 5000,
        seed: int = 0,
        distort: bool = False,
        rotation: float = 10.0,
        scale: float = 0.1,
        shear: float = 0.1,
        shift: float = 1.0,
        elastic: float = 0.8,
        sigma: float = 4.0,
        replace: float = 0.0,
        fade: float = 0.0,
    ) -> None:
        super().__init__()
        data_dir = str(Path(data_dir).expanduser())
        check_arguments(MNISTDataModule, locals())
        self.save_hyperparameters()
        if val_size >= TRAIN_SIZE:
            raise UserError(f"--data.val_size is {val_size}: it must be below the {TRAIN_SIZE} training images")
        if batch_size > TRAIN_SIZE - val_size:
            raise UserError(
                f"--data.batch_size is {batch_size}: it must be at most the {TRAIN_SIZE - val_size} images that "
                f"--data.val_size {val_size} leaves for training"
            )
        self.distortion(torch.device("cpu"))

    def prepare_data(self) -> None:
        """Download MNIST into `data_dir` unless the digits are asked for. One process of each machine runs this.

        A UserError says which file is broken, why `data_dir` cannot be written, or that MNIST cannot be downloaded.
        """
        if self.hparams.source != "digits" and self.dataset is None:  # not yet found, or known to be missing
            try:
                fetch_mnist(self.hparams.data_dir)
            except NotFoundError:
                if self.hparams.source == "mnist":
                    raise

    def setup(self, stage: str) -> None:
        """Read, split and normalise images, on the device of the trainer (the CPU without one).

        For `fit` training and validation images, for `validate` the latter, for `test` and `predict` the test images.
        A UserError says that MNIST is asked for and not there, or that there is nothing to validate on.
        """
        found = self.hparams.source != "digits" and mnist_exists(self.hparams.data_dir)
        if self.hparams.source == "mnist" and not found:
            raise UserError(f"MNIST is not in {raw_folder(self.hparams.data_dir)}: call prepare_data first")
        self.dataset = "mnist" if found else "digits"
        self.save_hyperparameters({"dataset": self.dataset})  # logged, and saved in checkpoints
        if self.is_stand_in:
            rank_zero_warn(self.stand_in_warning)
        if stage == "validate" and self.hparams.val_size == 0:
            raise UserError("--data.val_size is 0: there are no images to validate on, use the test command")
        train = stage in ("fit", "validate")
        images, labels = read_mnist(self.hparams.data_dir, train) if found else make_digits(train)
        if train:
            order = torch.from_numpy(np.random.default_rng(self.hparams.seed).permutation(len(images)))
            for_training, for_validation = order.tensor_split([len(images) - self.hparams.val_size])
            self.val_set = self.to_device(images.index_select(0, for_validation), labels[for_validation])
            if stage == "fit":
                self.train_set = self.to_device(images.index_select(0, for_training), labels[for_training])
        else:
            self.test_set = self.to_device(images, labels)

    def to_device(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Network input and targets on the training device, from images, (N, 28, 28) uint8, and labels, (N,) int64."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        return normalised(images.to(device)), one_hot(labels.to(device), CLASSES)

    @property
    def is_stand_in(self) -> bool:
        """Whether the digits stand in for MNIST, which was not found."""
        return self.hparams.source == "auto" and self.dataset == "digits"

    @property
    def stand_in_warning(self) -> str:
        """The warning about a run on the digits that should have been on MNIST."""
        return (
            "the data set is the stand-in `digits`, not MNIST, which could not be found or downloaded; "
            f"for MNIST put its four .gz files into {raw_folder(self.hparams.data_dir)}"
        )

    @property
    def description(self) -> str:
        """Name and sizes of the sets after a setup for `fit`."""
        sizes = f"{len(self.train_set[0]):,} training and {len(self.val_set[0]):,} validation images"
        return f"{self.dataset}, {sizes}"

    def distortion(self, device: torch.device) -> Distortion | None:
        """The deformations of training images on a device, or None if `distort` is false."""
        if not self.hparams.distort:
            return None
        strengths = {name: self.hparams[name] for name in STRENGTHS}
        return Distortion(**strengths, background=-MEAN / STD, device=device)

    @property
    def rank_and_world_size(self) -> tuple[int, int]:
        """This process's number, and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def batches(self, batch_size: int) -> Batches:
        """This process's training images in a new order, and deformed anew, every epoch."""
        distortion = self.distortion(self.train_set[0].device)
        epochs = self.trainer and self.trainer.max_epochs
        limit = epochs if epochs and epochs > 0 else math.inf
        return Batches(*self.train_set, batch_size, self.hparams.seed, *self.rank_and_world_size, distortion, limit)

    def train_dataloader(self) -> Any:
        """The training images in a new order every epoch."""
        return self.batches(self.hparams.batch_size)

    def val_dataloader(self) -> Any:
        """The validation images, or an empty list if there are none."""
        if not self.hparams.val_size:
            return []
        return EvaluationBatches(*self.val_set, EVALUATION_BATCH_SIZE, *self.rank_and_world_size)

    def test_dataloader(self) -> EvaluationBatches:
        """The test images in their own order."""
        return EvaluationBatches(*self.test_set, EVALUATION_BATCH_SIZE, *self.rank_and_world_size)

    predict_dataloader = test_dataloader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The batch as it is: it was made on the device."""
        return batch
