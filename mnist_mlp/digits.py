"""A stand-in for MNIST where there is neither MNIST nor a network: scikit-learn's embedded digits, enlarged."""

import torch
import torch.nn.functional as F
from torch import Tensor

TRAIN_SIZE, TEST_SIZE = 60_000, 10_000  # those of MNIST
TEST_FRACTION = 1 / 7  # of the originals, MNIST's own ratio


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

    transforms = random_affine(size, generator)
    images = torch.empty(size, 28, 28, dtype=torch.uint8)
    for rows in torch.arange(size).split(2000):  # bounds the memory of the sampling grid
        grid = F.affine_grid(transforms[rows], [len(rows), 1, 28, 28], align_corners=False)
        image = F.grid_sample(originals[which[rows]], grid, align_corners=False)
        images[rows] = image.mul_(255).round_().squeeze(1).byte()
    return images, labels[own][which]


def random_affine(size: int, generator: torch.Generator) -> Tensor:
    """Random affine maps about the middle of the image, mild enough to leave every digit legible.

    Rotation within ±12°, scale within 0.9 to 1.1 in each direction, shear within ±0.2, shift within ±2 of 28 pixels.

    Args:
        size: How many, N.
        generator: Where the randomness comes from.

    Returns:
        (N, 2, 3) float32, as `torch.nn.functional.affine_grid` takes them.
    """
    angle, scale_x, scale_y, shear, shift_x, shift_y = torch.rand(6, size, generator=generator) * 2 - 1
    angle = torch.deg2rad(12 * angle)
    scale_x, scale_y, shear = 1 + 0.1 * scale_x, 1 + 0.1 * scale_y, 0.2 * shear
    cos, sin = angle.cos(), angle.sin()
    rows = (
        torch.stack((cos * scale_x, (shear * cos - sin) * scale_y, shift_x * 2 / 14), dim=1),
        torch.stack((sin * scale_x, (shear * sin + cos) * scale_y, shift_y * 2 / 14), dim=1),
    )
    return torch.stack(rows, dim=1)
