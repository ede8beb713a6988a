"""A stand-in for MNIST where there is neither MNIST nor a network: scikit-learn's embedded digits, enlarged."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_mlp.datasets.distortion import Distortion
from mnist_mlp.datasets.mnist import TEST_SIZE, TRAIN_SIZE

TEST_FRACTION = 1 / 7  # of the originals, MNIST's own ratio
MILD = Distortion(rotation=12, scale=0.1, shear=0.2, shift=2)  # leaves every digit legible


def make_digits(train: bool) -> tuple[Tensor, Tensor]:
    """Digits in MNIST's form and number, drawn from the 1,797 handwritten 8x8 digits that scikit-learn ships.

    Each original is enlarged to MNIST's 20x20 box in the middle of 28x28. Every image is one original under a
    random rotation, scale, shear and shift. Training and test images come from different originals. The result
    is the same at every call.

    Args:
        train: Whether to make the training set, 60,000 images, or the test set, 10,000.

    Returns:
        Images, (N, 28, 28) uint8, white on black, and labels, (N,) int64.
    """
    from sklearn.datasets import load_digits  # slow to import, and only wanted here
    from sklearn.model_selection import train_test_split

    generator = torch.Generator().manual_seed(0)
    digits = load_digits()
    originals = torch.from_numpy(digits.images).float().unsqueeze(1) / 16  # (1797, 1, 8, 8) in 0..1
    labels = torch.from_numpy(digits.target)

    train_originals, test_originals = train_test_split(
        range(len(labels)), test_size=TEST_FRACTION, stratify=labels, random_state=0
    )
    own = torch.tensor(train_originals if train else test_originals)
    size = TRAIN_SIZE if train else TEST_SIZE

    originals = F.interpolate(originals[own], size=(20, 20), mode="bicubic", align_corners=False).clamp(0, 1)
    originals = F.pad(originals, (4, 4, 4, 4))
    which = torch.arange(size) % len(own)  # every original equally often
    which = which[torch.randperm(size, generator=generator)]

    deformations = MILD.draw(size, seed=1)
    images = torch.empty(size, 28, 28, dtype=torch.uint8)
    for rows in torch.arange(size).split(2000):  # bounds the memory
        image = MILD(originals[which[rows]], deformations[rows])
        images[rows] = image.mul_(255).round_().squeeze(1).byte()
    return images, labels[own][which]
