"""The work that each peer is given, and the line that it prints."""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Work(NamedTuple):
    """Images, (N, 784) float32, and one-hot labels, (N, 10) float32, to train and to validate on, and settings."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    x_val: NDArray[np.float32]
    y_val: NDArray[np.float32]
    epochs: int
    batch_size: int
    hidden: list[int]
    lr: float
    device: str


def work() -> Work:
    """The work that the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True, help="with x.npy, y.npy, x_val.npy and y_val.npy")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--hidden", type=int, nargs="*", required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    options = vars(parser.parse_args())
    folder = options.pop("folder")
    arrays = {name: np.load(folder / f"{name}.npy") for name in ("x", "y", "x_val", "y_val")}
    return Work(**arrays, **options)


def show(updates: int, seconds: float, accuracy: float) -> None:
    """Print the training time, and the accuracy on the validation images."""
    print(f"{updates} updates in {seconds:.4f} s, accuracy {accuracy:.2%}")
