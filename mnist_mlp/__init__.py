"""The softplus multi-layer perceptron of a PyTorch notebook, trained on MNIST by explicit gradients in Lightning."""

from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.gradient import LOSSES, loss_and_gradient
from mnist_mlp.network import MLP

__all__ = ["LOSSES", "MLP", "MLPClassifier", "MNISTDataModule", "loss_and_gradient"]
