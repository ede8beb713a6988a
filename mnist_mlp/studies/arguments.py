"""Arguments that the studies share: devices, precisions, lists of candidates, and the data they choose on."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch

from mnist_mlp.data import MNISTDataModule
from mnist_mlp.display.labelled import labelled
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


def load_data(data: MNISTDataModule, device: str, choose: bool = True) -> torch.device:
    """Read training and validation images onto a device, and name the data set on the terminal. Returns the device.

    To choose anything without validation images is a UserError: the test set chooses nothing.
    """
    if choose and data.hparams.val_size == 0:
        raise UserError("--data.val_size is 0: the best is chosen on validation images")
    place = find_device(device)
    data.prepare_data()
    data.setup("fit")
    data.train_set, data.val_set = (
        (images.to(place), targets.to(place)) for images, targets in (data.train_set, data.val_set)
    )
    print(labelled("data set", data.description), flush=True)
    return place


def name_ends(lrs: list[float], best: Mapping[Any, float]) -> None:
    """Print which best step sizes are at an end of the grid, beyond which there may be better ones."""
    for name, lr in best.items():
        if lr in (lrs[0], lrs[-1]):
            print(f"the best step size for {name}, {lr:g}, is at an end of --grid: try further ones")


def distinct(option: str, values: Iterable[float]) -> list[float]:
    """The values given to an option, ascending and each once; a UserError if there are none."""
    values = sorted(set(values))
    if not values:
        raise UserError(f"{option} is empty: give a list such as [0.1,1]")
    return values
