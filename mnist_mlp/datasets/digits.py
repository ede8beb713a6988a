"""A stand-in for MNIST where it can be neither found nor downloaded: scikit-learn's 8x8 digits, enlarged."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_mlp.datasets.distortion import Distortion
from mnist_mlp.datasets.mnist import TEST_SIZE, TRAIN_SIZE

TEST_FRACTION = 1 / 7  # of the originals, as in MNIST
MILD = Distortion(rotation=12, scale=0.1, shear=0.2, shift=2)  # leaves every digit legible


def make_digits(train: bool) -> tuple[Tensor, Tensor]:
    """Make 60,000 training or 10,000 test images in MNIST's form, the same at every call.

    Each of scikit-learn's 1,797 handwritten 8x8 digits is enlarged to 20x20 and centred in 28x28. Every image is one
    of these originals under a random rotation, scale, shear and shift. Training and test images share no original.
    Return images, (N, 28, 28) uint8, white on black, and labels, (N,) int64.
    """
    from sklearn.datasets import load_digits  # slow to import, and needed only here
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)  # (1797, 64) in 0..16, and (1797,)
    split = train_test_split(pixels, labels, test_size=TEST_FRACTION, stratify=labels, random_state=0)
    originals, labels = map(torch.from_numpy, split[0::2] if train else split[1::2])
    originals = F.interpolate(originals.float().view(-1, 1, 8, 8) / 16, size=(20, 20), mode="bicubic").clamp(0, 1)
    originals = F.pad(originals, (4, 4, 4, 4))

    size = TRAIN_SIZE if train else TEST_SIZE
    numbers = torch.arange(size) % len(originals)  # of originals, each equally often
    numbers = numbers[torch.randperm(size, generator=torch.Generator().manual_seed(0))]
    parts = zip(numbers.split(2000), MILD.draw(size, seed=1).split(2000), strict=True)  # to bound memory
    images = [MILD(originals[part], deformations).mul_(255).round_().byte() for part, deformations in parts]
    return torch.cat(images).squeeze(1), labels[numbers]
