"""A fixed layer that describes digits by the directions of their edges, so that the network need not find them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUMBER = 8  # of directions
WINDOW, STEP = 4, 2  # side of a window and distance between windows, in pixels
WEIGHT = 0.5  # of a pixel, along each axis: maps then vary about as much as normalised images


class Directions(nn.Module):
    """Turns images into eight maps at half the resolution, one for the edges of each direction, without parameters.

    At each pixel the gradient, by central differences, is split into its parts along the two nearest of eight
    directions, the sides of a parallelogram. Each map is then summed over overlapping windows of 4x4 pixels. Liu,
    Nakashima, Sako and Fujisawa (2003) compare classifiers of digits on such features.

    Args:
        size: Side of an image, in pixels.
    """

    windows: Tensor

    def __init__(self, size: int = 28) -> None:
        super().__init__()
        self.size = size
        self.out_features = NUMBER * (size // STEP) ** 2
        start = STEP * torch.arange(size // STEP) - (WINDOW - STEP) // 2
        distance = torch.arange(size)[:, None] - start
        inside = (distance >= 0) & (distance < WINDOW)
        self.register_buffer("windows", WEIGHT * inside.float(), persistent=False)  # (size, size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Maps, (B, 8, size // 2, size // 2) float32, from images, (B, ...) float with size² values each.

        Map by map, the image brightens towards: right, left, below, above, below right, above right, below left and
        above left.
        """
        images = x.flatten(1).unflatten(1, (1, self.size, self.size)).to(self.windows.dtype)
        images = F.pad(images, (1, 1, 1, 1), mode="replicate")
        across = images[:, :, 1:-1, 2:] - images[:, :, 1:-1, :-2]
        down = images[:, :, 2:, 1:-1] - images[:, :, :-2, 1:-1]
        sideways, upright = torch.cat((across, -across), 1).relu(), torch.cat((down, -down), 1).relu()
        straight = torch.cat((sideways - down.abs(), upright - across.abs()), 1).relu()
        diagonal = torch.minimum(sideways[:, :, None], upright[:, None]).flatten(1, 2) * math.sqrt(2)
        # Sums over windows, along the rows and then along the columns: such products take half the time of pooling.
        return self.windows.T @ (torch.cat((straight, diagonal), 1) @ self.windows)
