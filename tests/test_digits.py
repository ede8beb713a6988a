"""The stand-in for MNIST: its form, its honesty, its determinism."""

import pytest
import torch
from torch import Tensor

from mnist_mlp.datasets.digits import make_digits
from mnist_mlp.datasets.distortion import Distortion


def distinct_rows(images: Tensor) -> int:
    """How many different images there are."""
    return len(torch.unique(images.flatten(1), dim=0))


def test_form_is_that_of_mnist() -> None:
    for train, size in ((True, 60_000), (False, 10_000)):
        images, labels = make_digits(train)
        assert images.shape == (size, 28, 28)
        assert images.dtype == torch.uint8
        assert images.max() > 240
        assert labels.shape == (size,)
        assert labels.bincount(minlength=10).min() > 0.08 * size
        ink = images.float().mean(dim=0)
        assert ink[10:18, 10:18].mean() > 10 * ink[:3].mean()  # in the middle, and nothing at the rim
        assert distinct_rows(images) > 0.99 * size


def test_every_call_gives_the_same() -> None:
    first, second = make_digits(train=False), make_digits(train=False)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_training_and_test_images_have_different_originals(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no deformation, the images are the originals, and then no image is in both sets."""
    monkeypatch.setattr("mnist_mlp.datasets.digits.MILD", Distortion())
    train, test = make_digits(train=True)[0], make_digits(train=False)[0]
    train, test = torch.unique(train.flatten(1), dim=0), torch.unique(test.flatten(1), dim=0)
    assert (len(train), len(test)) == (1540, 257)
    assert distinct_rows(torch.cat((train, test))) == 1797
