"""The softplus multi-layer perceptron of a PyTorch notebook, trained on MNIST by explicit gradients in Lightning."""

import importlib
from typing import Any

FILES = {
    "LOSSES": "gradient",
    "MLP": "network",
    "MLPClassifier": "classifier",
    "MNISTDataModule": "data",
    "loss_and_gradient": "gradient",
    "normalised": "data",
    "read_image": "datasets.own_images",
}
__all__ = list(FILES)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is asked for: torch and Lightning take seconds, in which `__main__` has a say."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{FILES[name]}"), name)
