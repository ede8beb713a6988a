"""Maps of edges: each direction of an edge has its map, where the edge is."""

import math

import pytest
import torch
from torch import Tensor

from mnist_mlp import MLP
from mnist_mlp.directions import Directions

BRIGHTER = ["right", "left", "below", "above", "below right", "above right", "below left", "above left"]


def slope(towards: str, size: int = 28) -> Tensor:
    """An image, (1, 1, size, size), that gets brighter by 1 in each pixel towards a side or a corner."""
    step = {"right": (0, 1), "left": (0, -1), "below": (1, 0), "above": (-1, 0)}
    down, right = (sum(step[word][axis] for word in towards.split()) for axis in (0, 1))
    pixel = torch.arange(size, dtype=torch.float32)
    return (down * pixel[:, None] + right * pixel)[None, None]


@pytest.mark.parametrize("size", [28, 21])
@pytest.mark.parametrize("towards", BRIGHTER)
def test_an_edge_is_in_the_map_of_its_direction(towards: str, size: int) -> None:
    maps = Directions(size)(slope(towards, size))
    assert maps.shape == (1, 8, size // 2, size // 2)
    inner = maps[0, :, 1:-1, 1:-1]
    expected = torch.zeros(8)
    # 16 pixels with a weight of 1/4, each with a difference of 2 along an axis, or of 2√2 along a diagonal
    expected[BRIGHTER.index(towards)] = 8 * math.sqrt(len(towards.split()))
    torch.testing.assert_close(inner, expected[:, None, None].expand_as(inner))


def test_an_edge_between_two_directions_is_in_both_maps() -> None:
    maps = Directions()(2 * slope("right") + slope("below"))[0, :, 5, 5]
    assert {BRIGHTER[i] for i in maps.nonzero().flatten()} == {"right", "below right"}
    torch.testing.assert_close(maps[0] + maps[4] / math.sqrt(2), torch.tensor(16.0))  # the sides' sum is the gradient


def test_an_edge_is_where_it_is() -> None:
    image = torch.zeros(1, 1, 28, 28)
    image[..., 20:, :] = 1
    rows = Directions()(image)[0, BRIGHTER.index("below")].sum(dim=1)
    assert rows.nonzero().flatten().tolist() == [9, 10]  # windows of rows 17 to 20 and 19 to 22, of 18 to 21 alike
    assert rows[9] == rows[10]


@pytest.mark.parametrize("level", [0.0, -0.42])
def test_an_even_image_has_no_edges_not_even_at_its_border(level: float) -> None:
    assert not Directions()(torch.full((2, 1, 28, 28), level)).any()


def test_the_level_of_the_background_does_not_matter() -> None:
    image = torch.rand(1, 1, 28, 28)
    torch.testing.assert_close(Directions()(image - 0.42), Directions()(image), rtol=0, atol=1e-5)


def test_images_of_any_shape_and_precision() -> None:
    net, images = Directions(), torch.rand(3, 28, 28)
    maps = net(images)
    torch.testing.assert_close(net(images.view(3, 784)), maps)
    torch.testing.assert_close(net.double()(images.double()).float(), maps)
    net.float()
    torch.testing.assert_close(net(images.double()), maps)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(images).float(), maps, rtol=0.02, atol=0.02)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(RuntimeError, match="unflatten"):
        Directions()(torch.rand(4, 14, 14))


def test_the_layer_has_neither_parameters_nor_state() -> None:
    net = MLP((20,), directions=True)
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in MLP((20,)).named_parameters()]
    assert net.state_dict().keys() == MLP((20,)).state_dict().keys()
    assert net.fc1.weight.shape == (20, 8 * 14 * 14)
    assert net(torch.rand(3, 1, 28, 28)).shape == (3, 10)
