"""Deskewing: digits come out upright and in the middle, whatever their slant and their place were."""

import pytest
import torch
from torch import Tensor

from mnist_mlp import MLP
from mnist_mlp.datasets.distortion import Distortion
from mnist_mlp.deskew import Deskew


def ellipse(slant: float = 0, right: float = 0, down: float = 0, size: int = 28) -> Tensor:
    """A smooth upright ellipse, (1, 1, size, size), then slanted (pixels a row) and shifted (pixels)."""
    middle = (size - 1) / 2
    row = torch.arange(size)[:, None] - middle - down
    column = torch.arange(size) - middle - right - slant * row
    return torch.exp(-((row / 5) ** 2) - (column / 2.5) ** 2)[None, None]


@pytest.mark.parametrize("size", [28, 21])
@pytest.mark.parametrize(("scale", "ground"), [(1.0, 0.0), (3.2, -0.42)])  # as images are, and normalised
def test_slant_and_place_are_taken_off(size: int, scale: float, ground: float) -> None:
    images = torch.cat([ellipse(*given, size=size) for given in ((0, 0, 0), (0.4, 2, -1.3), (-0.3, -1.5, 0.7))])
    upright = (Deskew(size)(scale * images + ground) - ground) / scale
    assert upright.shape == (3, 1, size, size)
    expected = ellipse(size=size).expand(3, -1, -1, -1)
    assert (images - expected).abs().amax(dim=(1, 2, 3))[1:].min() > 0.4
    torch.testing.assert_close(upright, expected, rtol=0, atol=0.03)


def test_an_upright_digit_in_the_middle_is_left_alone() -> None:
    image = torch.rand(1, 1, 28, 28)
    image = image + image.flip(3) + image.flip(2) + image.flip(2, 3)  # as symmetrical as can be
    torch.testing.assert_close(Deskew()(image), image, rtol=0, atol=1e-4)


def test_deformed_training_images_come_out_as_the_originals_do() -> None:
    image, distortion = 3.2 * (ellipse() > 0.5).float() - 0.42, Distortion(shear=0.4, shift=2, background=-0.42)
    deformed = distortion(distortion.sharpened(image).expand(20, -1, -1, -1), distortion.draw(20, seed=0))
    assert (deformed - image).abs().mean() > 0.08
    assert (Deskew()(deformed) - Deskew()(image)).abs().mean() < 0.03


@pytest.mark.parametrize("level", [0.0, -0.42])
def test_a_blank_image_stays(level: float) -> None:
    blank = torch.full((2, 1, 28, 28), level)
    torch.testing.assert_close(Deskew()(blank), blank)


def test_a_single_row_is_put_in_the_middle() -> None:
    image = torch.zeros(1, 1, 28, 28)
    image[..., 3, 4:9] = 1
    upright = Deskew()(image)
    assert upright.isfinite().all()
    assert upright.sum(dim=(0, 1, 3)).argmax() in (13, 14)


def test_images_of_any_shape_and_precision() -> None:
    net, images = Deskew(), torch.rand(3, 28, 28)
    upright = net(images)
    torch.testing.assert_close(net(images.view(3, 784)), upright)
    torch.testing.assert_close(net.double()(images.double()).float(), upright, rtol=1e-4, atol=1e-4)
    net.float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(images), upright)


def test_the_network_does_not_see_slant() -> None:
    net = MLP((20,), deskew=True)
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in MLP((20,)).named_parameters()]
    assert net.state_dict().keys() == MLP((20,)).state_dict().keys()
    torch.testing.assert_close(net(ellipse(0.4, 2, -1.3)), net(ellipse()), rtol=0, atol=0.02)
