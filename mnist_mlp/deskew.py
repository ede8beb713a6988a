"""A fixed layer that sets digits upright: what is left for the network to learn varies less."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 1e-6  # of a mass or a variance: nothing moves a blank image, and nothing shears a single row


class Deskew(nn.Module):
    """Images sheared until they do not slant, with their centre of mass in the middle; it has no parameters.

    The slant is the regression of the column on the row, each pixel weighted by its difference from the darkest one.
    LeCun, Bottou, Bengio and Haffner (1998) train on digits set upright in this way. Each pixel is read from its
    place in the image by bicubic interpolation.

    Args:
        size: Side of an image, in pixels.
    """

    powers: Tensor
    coordinates: Tensor

    def __init__(self, size: int = 28) -> None:
        super().__init__()
        self.size = size
        pixel = (2 * torch.arange(size) + 1) / size - 1  # as in `grid_sample`: the image's edges are at -1 and 1
        row, column = pixel.repeat_interleave(size), pixel.repeat(size)
        one = torch.ones_like(row)
        self.register_buffer("powers", torch.stack((one, row, column, row * row, row * column), 1), persistent=False)
        self.register_buffer("coordinates", torch.stack((one, row, column)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images, (B, 1, size, size) float32, from images, (B, ...) with size² values each."""
        with torch.autocast(x.device.type, enabled=False):  # places in bfloat16 would be pixels off
            x = x.flatten(1).to(self.powers.dtype)
            darkest = x.amin(dim=1, keepdim=True)
            mass, *moments = ((x - darkest) @ self.powers).T
            row, column, square, product = (moment / mass.clamp_min(SMALLEST) for moment in moments)
            slant = (product - row * column) / (square - row * row).clamp_min(SMALLEST)
            zero, one = torch.zeros_like(slant), torch.ones_like(slant)
            places = torch.stack((column, slant, one, row, one, zero), 1).view(-1, 3) @ self.coordinates
            places = places.view(-1, 2, self.size, self.size).permute(0, 2, 3, 1)
            images = (x - darkest).view(-1, 1, self.size, self.size)
            upright = F.grid_sample(images, places, mode="bicubic", align_corners=False)
            return upright + darkest.view(-1, 1, 1, 1)
