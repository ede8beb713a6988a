"""Random deformations of images: rotation, scale, shear, shift and elastic fields, each image its own."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_mlp.errors import UserError

NEGLIGIBLE = 1e-4  # share of the strongest mode's variance, below which a mode of the elastic field is left out
STRENGTHS = {  # the lowest and the highest that make sense, for images of 28 by 28 pixels
    "rotation": (0, 180),
    "scale": (0, 0.9),
    "shear": (0, 10),
    "shift": (0, 28),
    "elastic": (0, 28),
    "sigma": (1, 100),
}


class Distortion:
    """Random deformations of a batch of square images at once, on the device where they lie.

    Every pixel of a deformed image is read, with bilinear interpolation, from another place of the original: its own
    place under a random affine map about the middle of the image, displaced by a random smooth field (Simard,
    Steinkraus and Platt 2003: white noise smoothed by a Gaussian filter of deviation `sigma`).

    Both are sums of products of a function of the row and one of the column: affine maps of 1 and the coordinate, a
    smoothed field of the eigenvectors of its covariance exp(-d²/4σ²) along one axis, of which only the first few
    count. So a deformation is a small matrix C of coefficients for each coordinate, and its places are B C Bᵀ, where
    the columns of B are those functions: 0.1 to 0.2 ms for 200 images on a CPU, where `affine_grid` takes 0.7 to 1.6.

    Args:
        rotation: Largest angle, in degrees, either way.
        scale: Largest relative change of the width and of the height that is read, each by itself: 0.1 makes a digit
            0.91 to 1.11 times as wide.
        shear: Largest horizontal shift from one row to the next, in pixels.
        shift: Largest shift in each direction, in pixels.
        elastic: Standard deviation of the elastic displacement in each direction, in pixels.
        sigma: Width of the Gaussian filter, in pixels: large for few and long waves, which take less memory.
        background: Value of the pixels that come from outside the image.
        size: Pixels of an image's side.
        device: Where the images are.

    Raises:
        UserError: A strength is out of its range, which the message names.
    """

    def __init__(
        self,
        rotation: float = 0,
        scale: float = 0,
        shear: float = 0,
        shift: float = 0,
        elastic: float = 0,
        sigma: float = 4,
        *,
        background: float = 0,
        size: int = 28,
        device: torch.device | str = "cpu",
    ) -> None:
        given = (rotation, scale, shear, shift, elastic, sigma)
        for (name, (low, high)), value in zip(STRENGTHS.items(), given, strict=True):
            if not low <= value <= high:
                raise UserError(f"--data.{name} is {value:g}: it must be from {low} to {high}")
        self.rotation, self.scale, self.shear, self.shift, self.elastic = rotation, scale, shear, shift, elastic
        self.background, self.size = background, size
        pixels = torch.arange(size, dtype=torch.float64)
        coordinate = (2 * pixels + 1) / size - 1  # as `grid_sample` counts: -1 and 1 are the image's edges
        variances, modes = torch.linalg.eigh(torch.exp(-(((pixels[:, None] - pixels) / sigma) ** 2) / 4))
        count = (variances > NEGLIGIBLE * variances.max()) & (elastic > 0)
        waves = modes[:, count] * variances[count].sqrt()
        self.basis = torch.cat((torch.ones(size, 1), coordinate[:, None], waves), dim=1).float().to(device)

    def draw(self, number: int, seed: int, out: Tensor | None = None) -> Tensor:
        """The coefficients of random deformations.

        Args:
            number: How many, N.
            seed: What they are a function of, on a device of the same kind; 0 to 2⁶⁴ - 1.
            out: What `draw` has returned for as many, to be used again.

        Returns:
            (N, 2, m, m) float32: for the column and for the row that a pixel is read from, the coefficients of the
            products of m functions of the pixel's own row and m of its column.
        """
        device, m = self.basis.device, self.basis.shape[1]
        own = {"generator": torch.Generator(device).manual_seed(seed), "device": device, "dtype": torch.float32}
        c = torch.zeros(number, 2, m, m, device=device, dtype=torch.float32) if out is None else out
        angle, width, height, shear, *shifts = torch.rand(6, number, **own) * 2 - 1
        angle = torch.deg2rad(self.rotation * angle)
        width, height, shear = 1 + self.scale * width, 1 + self.scale * height, self.shear * shear
        cos, sin = angle.cos(), angle.sin()
        c[:, 0, 0, 1], c[:, 0, 1, 0] = cos * width, (shear * cos - sin) * height
        c[:, 1, 0, 1], c[:, 1, 1, 0] = sin * width, (shear * sin + cos) * height
        c[:, :, 0, 0] = self.shift * 2 / self.size * torch.stack(shifts, dim=1)
        c[:, :, 2:, 2:] = torch.randn(number, 2, m - 2, m - 2, **own).mul_(self.elastic * 2 / self.size)
        return c

    def __call__(self, images: Tensor, coefficients: Tensor) -> Tensor:
        """The images, each under its own deformation.

        Args:
            images: (B, 1, size, size) float32.
            coefficients: (B, 2, m, m) float32, from `draw`.

        Returns:
            New images, (B, 1, size, size) float32.
        """
        m = self.basis.shape[1]
        with torch.autocast(self.basis.device.type, enabled=False):  # places in bfloat16 would be pixels off
            rows = (coefficients.reshape(-1, m) @ self.basis.T).view(-1, m, self.size)
            places = (self.basis @ rows).view(-1, 2, self.size, self.size).permute(0, 2, 3, 1)
            return F.grid_sample(images - self.background, places, align_corners=False).add_(self.background)
