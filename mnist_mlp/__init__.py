"""The softplus multi-layer perceptron of a PyTorch notebook, trained on MNIST by explicit gradients in Lightning."""

import importlib
from typing import Any

FILES = {
    "Classifier": "classifier",
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
    """Import public names lazily, so that `__main__` can print a message while torch and Lightning load."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{FILES[name]}"), name)
