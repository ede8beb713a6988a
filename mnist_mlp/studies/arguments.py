"""Arguments that the studies share: devices, precisions, lists of candidates, and the data they choose on."""

from collections.abc import Iterable
from typing import Literal

import torch

from mnist_mlp.data import MNISTDataModule
from mnist_mlp.errors import UserError

Precision = Literal["32-true", "bf16-mixed", "64-true"]


def find_device(name: str) -> torch.device:
    """The device with a name of torch's, as `cuda:1`; for `auto` a GPU if there is one. Without it, a UserError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None


def load_data(data: MNISTDataModule, device: torch.device) -> None:
    """Read training and validation images, move them to a device, and name the data set on the terminal."""
    data.prepare_data()
    data.setup("fit")
    data.train_set, data.val_set = (
        (images.to(device), targets.to(device)) for images, targets in (data.train_set, data.val_set)
    )
    print(f"{'data set':<11} {data.description}", flush=True)


def distinct(option: str, values: Iterable[float]) -> list[float]:
    """The values given to an option, ascending and each once; a UserError if there are none."""
    values = sorted(set(values))
    if not values:
        raise UserError(f"{option} is empty: give a list such as [0.1,1]")
    return values


def require_validation(data: MNISTDataModule) -> None:
    """Raise a UserError without validation images: the test set chooses nothing."""
    if data.hparams.val_size == 0:
        raise UserError("--data.val_size is 0: the best is chosen on validation images")
