"""The data module: whole data sets as tensors on the training device, batches as one gather."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from mnist_mlp.batches import Batches, Slices
from mnist_mlp.datasets.digits import TRAIN_SIZE, make_digits
from mnist_mlp.datasets.distortion import STRENGTHS, Distortion
from mnist_mlp.datasets.mnist import DataError, MNISTNotFoundError, fetch_mnist, mnist_exists, raw_folder, read_mnist
from mnist_mlp.datasets.own_images import find_images, read_images
from mnist_mlp.runtime.blocks import Blocks

MEAN, STD = 0.1307, 0.3081  # of MNIST's pixels in 0..1, as the notebook gives them
EVALUATION_BATCH_SIZE = 1000  # only a matter of speed and memory: metrics are over the whole set


def normalised(images: Tensor) -> Tensor:
    """What the network takes.

    Args:
        images: (N, 28, 28) or (28, 28) uint8, white on black.

    Returns:
        (N, 1, 28, 28) or (1, 28, 28) float32, shifted and scaled by the mean and deviation of MNIST's pixels.
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
        images: Own images to classify: files, folders, patterns.
        cross_dataset: Allow a checkpoint of other data.

    Raises:
        DataError: `val_size` leaves fewer than `batch_size` images to train on, or a strength is out of range.
    """

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
        images: str | list[str] = "",
        cross_dataset: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="images")
        self.images = [images] if isinstance(images, str) and images else list(images or [])
        self.found: list[Path] = []  # the files that these are
        self.own: dict[Path, Tensor] = {}  # those that can be classified, (28, 28) uint8
        if val_size >= TRAIN_SIZE:
            raise DataError(f"--data.val_size is {val_size}: it must be below the {TRAIN_SIZE} training images")
        if batch_size > TRAIN_SIZE - val_size:
            raise DataError(
                f"--data.batch_size is {batch_size}: it must be at most the {TRAIN_SIZE - val_size} images that "
                f"--data.val_size {val_size} leaves for training"
            )
        try:
            self.distortion()
        except ValueError as error:
            raise DataError(f"--data.{error}") from None
        self.dataset: str | None = None  # `mnist` or `digits`, once it is known
        self.trained_on: str | None = None  # the data set of the checkpoint in use

    def prepare_data(self) -> None:
        """Brings MNIST into `data_dir` unless the digits are asked for. One process of each machine runs this.

        Raises:
            DataError: A file is broken, `data_dir` cannot be written, MNIST is asked for and not to be had, or
                the data set is not the one that the checkpoint in use was trained on.
        """
        if self.images:  # no others are needed
            return
        if self.hparams.source != "digits":
            try:
                fetch_mnist(self.hparams.data_dir)
            except MNISTNotFoundError:
                if self.hparams.source == "mnist":
                    raise
        self.choose_dataset()

    def choose_dataset(self) -> None:
        """Sets `dataset` to what `source` means with the files now in `data_dir`.

        Raises:
            DataError: MNIST is asked for and not there, or the data set is not that of the checkpoint in use.
        """
        found = self.hparams.source != "digits" and mnist_exists(self.hparams.data_dir)
        if self.hparams.source == "mnist" and not found:
            raise DataError(f"MNIST is not in {raw_folder(self.hparams.data_dir)}: call prepare_data first")
        self.dataset = "mnist" if found else "digits"
        if self.trained_on not in (None, self.dataset) and not self.hparams.cross_dataset:
            raise DataError(
                f"the checkpoint was trained on {self.trained_on}, but --data.source {self.hparams.source} with "
                f"--data.data_dir {self.hparams.data_dir} gives {self.dataset}: change these, or allow it with "
                "--data.cross_dataset true"
            )

    def setup(self, stage: str) -> None:
        """Reads, splits and normalises what a stage needs, on the device of the trainer (the CPU without one).

        Args:
            stage: `fit` (training and validation images), `validate` (validation) or `test` and `predict` (test).

        Raises:
            DataError: As in `prepare_data`, there is nothing to validate on, or no own image can be read.
        """
        if self.images and stage == "predict":
            self.found = find_images(self.images)
            self.own = read_images(self.found)
            if not self.own:
                raise DataError("--data.images: none can be classified")
            self.test_set = self.normalise(torch.stack([*self.own.values()]), torch.zeros(len(self.own)).long())
            return
        self.choose_dataset()
        self.save_hyperparameters({"dataset": self.dataset})  # logged, and saved in checkpoints
        if self.hparams.source == "auto" and self.dataset == "digits":
            rank_zero_warn(self.stand_in_warning)
        if stage == "validate" and self.hparams.val_size == 0:
            raise DataError("--data.val_size is 0: there are no images to validate on, use the test command")
        images, labels = self.read(train=stage in ("fit", "validate"))
        if stage in ("fit", "validate"):
            order = torch.from_numpy(np.random.default_rng(self.hparams.seed).permutation(len(images)))
            train, val = order.tensor_split([len(images) - self.hparams.val_size])
            self.val_set = self.normalise(images[val], labels[val])
            if stage == "fit":
                self.train_set = self.normalise(images[train], labels[train])
        else:
            self.test_set = self.normalise(images, labels)

    def set_up_for(self, trainer: Trainer) -> None:
        """Brings training and validation images onto the device of a trainer that will not fit, and names them.

        Raises:
            DataError: As in `prepare_data`.
        """
        self.trainer = trainer
        self.prepare_data()
        self.setup("fit")
        print(f"{'data set':<11} {self.description}", flush=True)

    @property
    def description(self) -> str:
        """Which images there are after a setup for `fit`."""
        sizes = f"{len(self.train_set[0]):,} training and {len(self.val_set[0]):,} validation images"
        return f"{self.dataset}, {sizes}"

    @property
    def stand_in_warning(self) -> str:
        """What to say of a run on the digits that would have been on MNIST."""
        raw = raw_folder(self.hparams.data_dir)
        return (
            "the data set is the stand-in `digits`, not MNIST, which is not to be had here; "
            f"for MNIST put its four .gz files into {raw}"
        )

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """The data set's images, (N, 28, 28) uint8, and labels, (N,) int64."""
        if self.dataset == "mnist":
            return read_mnist(self.hparams.data_dir, train)
        return make_digits(train)

    def normalise(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Network inputs and targets on the training device.

        Args:
            images: (N, 28, 28) uint8.
            labels: (N,) int64 in 0..9.

        Returns:
            Images, (N, 1, 28, 28) float32, and one-hot labels, (N, 10) float32.
        """
        x = normalised(images.to(self.device))
        y = F.one_hot(labels.to(self.device), 10).float()
        return x, y

    def distortion(self) -> Distortion | None:
        """What deforms the training images; nothing if `distort` is false."""
        if not self.hparams.distort:
            return None
        strengths = {name: self.hparams[name] for name in STRENGTHS}
        return Distortion(**strengths, background=-MEAN / STD, device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def batches(self, batch_size: int) -> Batches:
        """This process's training images in a new order, and deformed anew, every epoch."""
        return Batches(*self.train_set, batch_size, self.hparams.seed, *self.share, self.distortion())

    @property
    def share(self) -> tuple[int, int]:
        """This process's number, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> Batches | Blocks:
        """The training images in a new order every epoch: in blocks for a module that has `takes_blocks`."""
        batches = self.batches(self.hparams.batch_size)
        module = self.trainer and self.trainer.lightning_module
        return Blocks(batches, self.trainer) if getattr(module, "takes_blocks", False) else batches

    def val_dataloader(self) -> Slices | list:
        """The validation images; nothing if there are none."""
        return Slices(*self.val_set, EVALUATION_BATCH_SIZE, *self.share) if self.hparams.val_size else []

    def test_dataloader(self) -> Slices:
        """The test images in their own order."""
        return Slices(*self.test_set, EVALUATION_BATCH_SIZE, *self.share)

    predict_dataloader = test_dataloader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The batch as it is: it was made on the device."""
        return batch

    def state_dict(self) -> dict[str, str | None]:
        """What a checkpoint remembers of the data: its name."""
        return {"dataset": self.dataset}

    def load_state_dict(self, state: dict[str, str | None]) -> None:
        """Remembers the data set that a checkpoint was trained on, to compare it with what is read.

        Raises:
            DataError: Another data set has been read already.
        """
        self.trained_on = state["dataset"]
        if self.dataset is not None:
            self.choose_dataset()
