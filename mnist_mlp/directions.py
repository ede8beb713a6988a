"""A fixed layer that describes digits by their edges: what is left for the network to learn depends on less."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUMBER = 8  # of directions
WINDOW, STEP = 4, 2  # of a map, in pixels
WEIGHT = 0.5  # of a pixel along each axis: values vary as much as those of normalised images


class Directions(nn.Module):
    """Images as eight maps at half the resolution, each of the edges of one direction; it has no parameters.

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
        """Maps, (B, 8, size // 2, size // 2) float, from images, (B, ...) float with size² values each.

        Their directions: brighter to the right, left, below and above; below and above on the right, on the left.
        """
        images = F.pad(x.reshape(-1, 1, self.size, self.size), (1, 1, 1, 1), mode="replicate")
        across = images[:, :, 1:-1, 2:] - images[:, :, 1:-1, :-2]
        down = images[:, :, 2:, 1:-1] - images[:, :, :-2, 1:-1]
        sideways, upright = torch.cat((across, -across), 1).relu(), torch.cat((down, -down), 1).relu()
        straight = torch.cat((sideways - down.abs(), upright - across.abs()), 1).relu()
        diagonal = torch.minimum(sideways[:, :, None], upright[:, None]).flatten(1, 2) * math.sqrt(2)
        return self.windows.T @ (torch.cat((straight, diagonal), 1) @ self.windows)
