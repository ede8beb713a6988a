"""Random deformations of images: rotation, scale, shear, shift, elastic fields and patches, drawn for each image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_mlp.errors import UserError

SHARPER = 0.1  # takes 40 % off the error of bilinear interpolation; the bicubic takes 64 % off, in 4 times the time
PATCH = (3, 8)  # least and largest side of a replaced rectangle, in pixels
NEGLIGIBLE = 1e-4  # modes of the elastic field with less than this share of the largest variance are left out
# Lowest and highest sensible values for 28x28 images.
STRENGTHS = {
    "rotation": (0, 180),
    "scale": (0, 0.9),
    "shear": (0, 10),
    "shift": (0, 28),
    "elastic": (0, 28),
    "sigma": (1, 100),
    "replace": (0, 1),
    "fade": (0, 1),
}


class Distortion:
    """Random deformations of a batch of square images, all at once on the images' device.

    Each pixel of a deformed image is read by bilinear interpolation from another place in the original: the pixel's
    own place under a random affine map about the image's centre, displaced by a random smooth field, which is white
    noise under a Gaussian filter (Simard, Steinkraus and Platt 2003). Such reading blurs, which no test image is: give
    it images that are `sharpened`.

    Map and field are both sums of products of a function of the row and a function of the column: 1 and the
    coordinate for the map, and for the field the first few eigenvectors of its covariance exp(-d²/4σ²) along one
    axis. A deformation is thus a small matrix C of coefficients for each coordinate, and the places are B C Bᵀ with
    these functions as columns of B. For 200 images on a CPU this takes 0.1 to 0.2 ms, `affine_grid` 0.7 to 1.6 ms.

    Args:
        rotation: Largest angle either way, in degrees.
        scale: Largest relative change of the width and of the height that are read: 0.1 makes a digit 0.91 to 1.11
            times as wide and, independently, as high.
        shear: Largest horizontal shift from one row to the next, in pixels.
        shift: Largest shift along each axis, in pixels.
        elastic: Standard deviation of the elastic displacement along each axis, in pixels.
        sigma: Width of the Gaussian filter, in pixels; a large one gives few, long waves and needs less memory.
        replace: Share of the images in which the same part of another image replaces a rectangle, 3 to 8 pixels a
            side, so that no digit is known by a single stroke. The label stays the image's own, unlike in CutMix
            (Yun, Han, Oh, Chun, Choe and Yoo 2019).
        fade: Share of the epochs, the last ones, in which all strengths fall to zero: as no test image is deformed.
        background: Value of pixels read from outside the image.
        size: Side of an image, in pixels.
        device: Device of the images.

    Raises:
        UserError: A strength is out of its range in STRENGTHS.
    """

    def __init__(
        self,
        *,
        rotation: float = 0,
        scale: float = 0,
        shear: float = 0,
        shift: float = 0,
        elastic: float = 0,
        sigma: float = 4,
        replace: float = 0,
        fade: float = 0,
        background: float = 0,
        size: int = 28,
        device: torch.device | str = "cpu",
    ) -> None:
        values = (rotation, scale, shear, shift, elastic, sigma, replace, fade)
        for (name, (low, high)), value in zip(STRENGTHS.items(), values, strict=True):
            if not low <= value <= high:
                raise UserError(f"--data.{name} is {value:g}: it must be from {low} to {high}")
        self.rotation, self.scale, self.shear, self.shift, self.elastic = rotation, scale, shear, shift, elastic
        self.replace, self.fade, self.background, self.size = replace, fade, background, size
        pixels = torch.arange(size, dtype=torch.float64)
        coordinate = (2 * pixels + 1) / size - 1  # as in `grid_sample`: the image's edges are at -1 and 1
        variances, modes = torch.linalg.eigh(torch.exp(-(((pixels[:, None] - pixels) / sigma) ** 2) / 4))
        kept = (variances > NEGLIGIBLE * variances.max()) & (elastic > 0)
        waves = modes[:, kept] * variances[kept].sqrt()
        self.basis = torch.cat((torch.ones(size, 1), coordinate[:, None], waves), dim=1).float().to(device)
        self.middles = (pixels + 0.5).float().to(device)
        beside = torch.full((size - 1,), -SHARPER)
        self.sharpener = (torch.eye(size) * (1 + 2 * SHARPER) + beside.diag(1) + beside.diag(-1)).to(device)

    def sharpened(self, images: Tensor) -> Tensor:
        """Images, (B, 1, size, size) float, as they should be before they are deformed and by that blurred."""
        return (self.sharpener @ (images - self.background) @ self.sharpener).add_(self.background)

    def strength(self, epoch: int, epochs: float) -> float:
        """The factor, 0 to 1, of all strengths in an epoch, counted from 0, of so many."""
        return min(1, (1 - epoch / epochs) / self.fade) if self.fade else 1

    def draw(self, number: int, seed: int, strength: float = 1, out: Tensor | None = None) -> Tensor:
        """Draw random deformations, which depend only on the seed, 0 to 2⁶⁴ - 1, and on the kind of device.

        All strengths are multiplied by `strength`.

        Return (number, 2, m + 1, m) float32: for the column and the row from which a pixel is read, the coefficients
        of the products of m functions of the pixel's row and m of its column, and below them where the columns and
        the rows to replace start and end, in pixels. An earlier result for the same number may be passed as `out`, to
        be overwritten and returned.
        """
        device, m = self.basis.device, self.basis.shape[1]
        options: dict[str, Any] = {
            "generator": torch.Generator(device).manual_seed(seed),
            "device": device,
            "dtype": torch.float32,
        }
        c = self.basis.new_zeros(number, 2, m + 1, m) if out is None else out
        angle, width, height, shear, *shifts = torch.rand(6, number, **options) * 2 - 1
        rotation, scale, slant, shift, elastic, replace = (
            strength * each for each in (self.rotation, self.scale, self.shear, self.shift, self.elastic, self.replace)
        )
        angle = torch.deg2rad(rotation * angle)
        width, height, shear = 1 + scale * width, 1 + scale * height, slant * shear
        cos, sin = angle.cos(), angle.sin()
        c[:, 0, 0, 1], c[:, 0, 1, 0] = cos * width, (shear * cos - sin) * height
        c[:, 1, 0, 1], c[:, 1, 1, 0] = sin * width, (shear * sin + cos) * height
        c[:, :, 0, 0] = shift * 2 / self.size * torch.stack(shifts, dim=1)
        c[:, :, 2:m, 2:] = torch.randn(number, 2, m - 2, m - 2, **options).mul_(elastic * 2 / self.size)
        if self.replace:
            sides = PATCH[0] + torch.rand(number, 2, **options) * (PATCH[1] - PATCH[0])
            starts = torch.rand(number, 2, **options) * (self.size - sides)
            replaced = torch.rand(number, 1, **options) < replace
            c[:, :, m, 0], c[:, :, m, 1] = starts, starts + sides * replaced
        return c

    def __call__(self, images: Tensor, coefficients: Tensor, others: Tensor | None = None) -> Tensor:
        """Images, (B, 1, size, size) float32, deformed by coefficients from `draw`, (B, 2, m + 1, m).

        `others`, of the same shape and sharpened too, are the images that parts are taken from: `replace` needs them.
        """
        m = self.basis.shape[1]
        if self.replace:
            assert others is not None
            start, end = coefficients[:, :, m, :2, None].unbind(2)
            across, down = ((start < self.middles) & (self.middles < end)).unbind(1)
            images = torch.where((down[:, :, None] & across[:, None]).unsqueeze(1), others, images)
        with torch.autocast(self.basis.device.type, enabled=False):  # places in bfloat16 would be pixels off
            rows = (coefficients[:, :, :m].reshape(-1, m) @ self.basis.T).view(-1, m, self.size)
            places = (self.basis @ rows).view(-1, 2, self.size, self.size).permute(0, 2, 3, 1)
            read = F.grid_sample(images - self.background, places, align_corners=False)
            read.clamp_(min=0)  # nothing is darker than the background but by sharpening
            return read.add_(self.background)
