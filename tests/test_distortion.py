"""Random deformations: what each does, that every image has its own, and that they repeat."""

import math

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor

from mnist_mlp import MNISTDataModule
from mnist_mlp.batches import Batches
from mnist_mlp.datasets.distortion import Distortion
from mnist_mlp.errors import UserError

STRONG = {"rotation": 15, "scale": 0.15, "shear": 0.1, "shift": 1, "elastic": 1.3, "replace": 0.5}
N = 4000


def images(number: int) -> Tensor:
    """Random ones."""
    return torch.rand(number, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def places(distortion: Distortion, number: int = N, seed: int = 0) -> Tensor:
    """Column and row, counted from the middle of the image, that each pixel is read from, (N, 2, 28, 28) in pixels."""
    coefficients = distortion.draw(number, seed)[:, :, :-1]
    return torch.einsum("ip,ncpq,jq->ncij", distortion.basis, coefficients, distortion.basis) * 14


def displacements(number: int = N, **strengths: float) -> Tensor:
    """How far each pixel comes, (N, 2, 28, 28) in pixels."""
    return places(Distortion(**strengths), number) - places(Distortion(), 1)


def test_nothing_happens_at_strength_0() -> None:
    x, still = images(20), Distortion()
    torch.testing.assert_close(still(x, still.draw(20, seed=0)), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("down", "right"), [(0, 1), (0, -1), (1, 0), (-1, 0), (2, -3)])
def test_a_shift_by_whole_pixels_is_a_roll(down: int, right: int) -> None:
    x, distortion = 0.3 + images(5), Distortion(background=0.3)
    x[:, :, [*range(4), *range(24, 28)]] = x[..., [*range(4), *range(24, 28)]] = 0.3  # which comes in from outside
    shift = distortion.draw(5, seed=0)
    shift[:, 0, 0, 0], shift[:, 1, 0, 0] = -right * 2 / 28, -down * 2 / 28
    rolled = torch.roll(x, (down, right), dims=(2, 3))
    torch.testing.assert_close(distortion(x, shift), rolled, rtol=0, atol=1e-5)


def test_background_comes_in_from_outside() -> None:
    distortion = Distortion(background=-0.42)
    far = distortion.draw(5, seed=0)
    far[:, 0, 0, 0] = 2.1
    assert (distortion(images(5), far) == -0.42).all()


def test_a_shift_is_the_same_everywhere_and_uniform_up_to_its_bound() -> None:
    moved = displacements(shift=2)
    assert moved.flatten(2).std(dim=2).max() < 1e-4
    assert 1.99 < moved.abs().max() <= 2.001
    torch.testing.assert_close(moved[..., 0, 0].std(dim=0), torch.full((2,), 2 / math.sqrt(3)), rtol=0.04, atol=0)


def test_rotation_keeps_distances_and_turns_up_to_its_bound() -> None:
    rotated, own = places(Distortion(rotation=30)), places(Distortion(), 1)
    torch.testing.assert_close(rotated.norm(dim=1), own.norm(dim=1).expand(N, 28, 28), rtol=1e-4, atol=1e-4)
    cosine = (rotated * own).sum(dim=1)[:, 0, 0] / own.square().sum(dim=1)[:, 0, 0]
    angles = torch.rad2deg(torch.acos(cosine))
    assert 29.9 < angles.max() <= 30.01
    assert 13.5 < angles.mean() < 16.5


def test_scale_is_another_one_for_width_and_height() -> None:
    moved = displacements(scale=0.2)
    across, along = moved[:, 0, 0, -1] / 13.5, moved[:, 1, -1, 0] / 13.5
    assert moved[:, 0].std(dim=1).max() < 1e-4  # the same in every row
    assert 0.199 < across.abs().max() <= 0.2001
    assert abs(torch.corrcoef(torch.stack((across, along)))[0, 1]) < 0.05


def test_shear_moves_rows_sideways() -> None:
    moved = displacements(shear=0.1)
    assert moved[:, 1].abs().max() < 1e-4
    step = moved[:, 0].diff(dim=1)
    assert 0.099 < step.abs().max() <= 0.1001
    assert (step - step[:, :1, :1]).abs().max() < 1e-4


@pytest.mark.parametrize("sigma", [1, 4, 8])
def test_elastic_field_is_white_noise_under_a_gaussian_filter(sigma: int) -> None:
    """Deviation as given, everywhere; correlation exp(-d²/4σ²) over a distance d; none between the directions."""
    field = displacements(elastic=1.3, sigma=sigma)
    deviations = field.std(dim=0)
    torch.testing.assert_close(deviations, torch.full_like(deviations, 1.3), rtol=0.06, atol=0)
    assert field.mean(dim=0).abs().max() < 0.12
    for apart in (sigma, 2 * sigma):
        expected = math.exp(-((apart / sigma) ** 2) / 4)
        for pairs in (field[..., apart:] * field[..., :-apart], field[..., apart:, :] * field[..., :-apart, :]):
            assert (pairs.mean() / 1.3**2).item() == pytest.approx(expected, abs=0.03)
    assert abs((field[:, 0] * field[:, 1]).mean()) < 0.1


def test_a_rectangle_of_3_to_8_pixels_comes_from_another_image_in_a_share_of_the_images() -> None:
    distortion = Distortion(replace=0.3)
    x, others = torch.zeros(N, 1, 28, 28), images(N) + 1
    mixed = distortion(x, distortion.draw(N, seed=0), others)
    patches = mixed > 0.5
    torch.testing.assert_close(mixed, others * patches, rtol=0, atol=1e-4)  # the same part, of the same image
    patches = patches[:, 0]
    rows, columns = patches.any(dim=2), patches.any(dim=1)
    assert torch.equal(patches, rows[:, :, None] & columns[:, None])
    assert patches.any(dim=(1, 2)).float().mean() == pytest.approx(0.3, abs=0.03)
    for lines in (rows, columns):
        assert set(lines.sum(dim=1).tolist()) == {0, *range(3, 9)}
        first, last = lines.int().argmax(dim=1), 27 - lines.flip(1).int().argmax(dim=1)
        found = lines.any(dim=1)
        assert torch.equal(lines.sum(dim=1)[found], (last - first + 1)[found])
        assert (first[found].min(), last[found].max()) == (0, 27)
    weaker = distortion(x, distortion.draw(N, seed=0, strength=0.5), others) > 0.5
    assert weaker.any(dim=(1, 2, 3)).float().mean() == pytest.approx(0.15, abs=0.03)
    assert distortion(x, distortion.draw(N, seed=0, strength=0), others).max() < 1e-5


def test_a_replaced_part_is_deformed_with_its_image() -> None:
    distortion, x, others = Distortion(replace=1), images(50), images(50).flip(0)
    coefficients = distortion.draw(50, seed=0)
    mixed = distortion(x, coefficients, others)
    coefficients[:, :, 0, 0] = 2 / 28  # everything a pixel to the left and up
    moved = distortion(x, coefficients, others)
    assert (mixed - x).abs().amax(dim=(1, 2, 3)).min() > 0.1
    torch.testing.assert_close(moved[..., :-1, :-1], mixed[..., 1:, 1:], rtol=0, atol=1e-4)


def test_deformations_are_a_function_of_the_seed() -> None:
    distortion = Distortion(**STRONG)
    first = distortion.draw(50, seed=3)
    torch.manual_seed(5)  # and of nothing else
    assert torch.equal(distortion.draw(50, seed=3), first)
    assert not torch.equal(distortion.draw(50, seed=4), first)
    again = distortion.draw(50, seed=4)
    assert distortion.draw(50, seed=3, out=again) is again
    assert torch.equal(again, first)


def test_every_image_has_a_deformation_of_its_own() -> None:
    distortion = Distortion(**STRONG)
    x = images(1).expand(50, 1, 28, 28)
    coefficients = distortion.draw(50, seed=0)
    others = images(50)
    deformed = distortion(x, coefficients, others)
    assert len(torch.unique(deformed.flatten(1).round(decimals=3), dim=0)) == 50
    one = distortion(x[:1], coefficients[7:8], others[7:8])  # whatever else is in the batch
    torch.testing.assert_close(deformed[7:8], one, rtol=0, atol=1e-5)
    changed = torch.cat((x[:7], 1 - x[7:8], x[8:]))
    torch.testing.assert_close(distortion(changed, coefficients, others)[:7], deformed[:7], rtol=0, atol=1e-5)


def test_sharpening_halves_the_blur_of_reading_between_pixels() -> None:
    distortion = Distortion()
    smooth = F.interpolate(images(20), scale_factor=0.5, mode="area")
    smooth = F.interpolate(smooth, scale_factor=2, mode="bicubic")  # no finer than strokes are
    half = distortion.draw(20, seed=0)
    half[:, 0, 0, 0] = 1 / 28  # half a pixel
    twice = half.clone()
    twice[:, 0, 0, 0] = -1 / 28
    kept = [
        distortion(distortion(source, half), twice).square().sum() for source in (smooth, distortion.sharpened(smooth))
    ]
    lost, less = (1 - (each / smooth.square().sum()).item() for each in kept)
    assert lost > 0.05
    assert abs(less) < lost / 2


def test_nothing_becomes_darker_than_the_background() -> None:
    """Or `Deskew` would take all the background for ink."""
    distortion = Distortion(**STRONG, background=-0.42)
    blank = torch.full((2, 1, 28, 28), -0.42)
    torch.testing.assert_close(distortion.sharpened(blank), blank)
    sharp = distortion.sharpened(images(20).round() - 0.42)
    assert sharp.min() < -0.5
    assert distortion(sharp, distortion.draw(20, seed=0), sharp.flip(0)).min() == pytest.approx(-0.42, abs=1e-6)


def test_without_strength_nothing_moves_and_half_of_it_moves_half_as_far() -> None:
    distortion, own = Distortion(**STRONG), places(Distortion(), 1)
    moved = [
        (torch.einsum("ip,ncpq,jq->ncij", distortion.basis, c, distortion.basis) * 14 - own).abs().mean().item()
        for c in (distortion.draw(200, 0, strength)[:, :, :-1] for strength in (0, 0.5, 1))
    ]
    assert moved[0] == pytest.approx(0, abs=1e-5)
    assert moved[1] == pytest.approx(moved[2] / 2, rel=0.05)


def test_deformations_fade_at_the_end_of_the_run() -> None:
    distortion = Distortion(**STRONG, fade=0.4)
    assert [distortion.strength(epoch, 10) for epoch in range(10)] == pytest.approx([1] * 7 + [0.75, 0.5, 0.25])
    assert distortion.strength(10**6, math.inf) == Distortion().strength(9, 10) == 1
    batches = Batches(images(200), torch.arange(200), 200, 0, distortion=distortion, max_epochs=10)
    shifts = []
    for epoch in (0, 6, 8, 9):
        batches.set_epoch(epoch)
        next(iter(batches))
        assert batches.deformations is not None
        shifts.append(batches.deformations[:, :, 0, 0].abs().max().item() * 14)
    assert shifts == pytest.approx([1, 1, 0.5, 0.25], rel=0.05)


def test_deformations_fade_over_the_epochs_of_the_trainer() -> None:
    data = MNISTDataModule(source="digits", distort=True, fade=0.5)
    assert data.distortion(torch.device("cpu")).fade == 0.5
    data.setup("fit")
    assert data.batches(100).max_epochs == math.inf
    data.trainer = Trainer(max_epochs=7, logger=False, enable_checkpointing=False)
    assert data.batches(100).max_epochs == 7
    data.trainer = Trainer(max_steps=7, logger=False, enable_checkpointing=False)
    assert data.batches(100).max_epochs == math.inf


MOST = {"rotation": 180, "scale": 0.9, "shear": 10, "shift": 28, "elastic": 28, "sigma": 100, "replace": 1, "fade": 1}


@pytest.mark.parametrize("extreme", [*({name: most} for name, most in MOST.items()), MOST], ids=str)
def test_extreme_strengths_give_finite_numbers(extreme: dict[str, float]) -> None:
    x, distortion = images(50), Distortion(**extreme)
    deformed = distortion(x, distortion.draw(50, seed=0), x.flip(0))
    assert deformed.isfinite().all()
    assert deformed.min() >= -1e-5
    assert deformed.max() <= x.max() + 1e-5


@pytest.mark.parametrize("name", MOST)
@pytest.mark.parametrize("value", [-1, 1e39, math.inf, math.nan])
def test_a_strength_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is"):
        Distortion(**{name: value})
    with pytest.raises(UserError, match=f"--data.{name} is"):
        MNISTDataModule(distort=True, **{name: value})


def test_places_are_exact_whatever_precision_the_network_has() -> None:
    distortion, x = Distortion(**STRONG), images(20)
    exact = distortion(x, distortion.draw(20, seed=0), x.flip(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distortion(x, distortion.draw(20, seed=0), x.flip(0)), exact)


def smooth(number: int) -> Tensor:
    """Random images without details, which look alike after a deformation."""
    return F.interpolate(images(number)[..., :7, :7], scale_factor=4, mode="bicubic")


def loader(rank: int = 0, world_size: int = 1) -> Batches:
    """Deformed batches of 23 images."""
    return Batches(smooth(23), torch.arange(23), 8 // world_size, 5, rank, world_size, Distortion(**STRONG))


def test_an_image_has_another_deformation_in_every_epoch_and_targets_stay() -> None:
    one = loader()
    epochs = []
    for epoch in range(3):
        one.set_epoch(epoch)
        x, y = (torch.cat(parts) for parts in zip(*one, strict=True))
        epochs.append(x[y.argsort()])
    assert not torch.isclose(epochs[0], epochs[1]).flatten(1).all(dim=1).any()
    one.set_epoch(1)
    x, y = (torch.cat(parts) for parts in zip(*one, strict=True))
    assert torch.equal(x[y.argsort()], epochs[1])
    assert (epochs[1] - smooth(23)).abs().mean() < 0.25  # deformed, and no other image


def test_parts_come_from_other_images_in_every_epoch() -> None:
    """An image of one value shows which other it got a part from."""
    values = torch.arange(1.0, 201)[:, None, None, None].expand(-1, 1, 28, 28).contiguous()
    one = Batches(values, torch.arange(200), 50, 0, distortion=Distortion(replace=1))
    one.images = values  # not sharpened, which would make edges of it
    donors = []
    for epoch in range(2):
        one.set_epoch(epoch)
        x, y = (torch.cat(parts) for parts in zip(*one, strict=True))
        x = x[y.argsort()]
        parts = torch.where((x - values).abs() > 0.5, x, 0).amax(dim=(1, 2, 3))
        assert (parts > 0).float().mean() > 0.95
        assert torch.bincount(parts.round().int())[1:].max() == 1  # no image serves twice in an epoch
        donors.append(parts)
    assert (donors[0] != donors[1]).float().mean() > 0.95


def test_deformations_are_the_same_over_processes_and_after_an_interruption() -> None:
    whole = list(loader())
    shares = [list(loader(rank, 2)) for rank in range(2)]
    for k, (x, _) in enumerate(whole):
        for rank in range(2):
            torch.testing.assert_close(shares[rank][k][0], x[rank::2], rtol=0, atol=1e-5)
    broken = loader()
    iterator = iter(broken)
    next(iterator)
    resumed = loader()
    resumed.load_state_dict(broken.state_dict())
    assert all(torch.equal(x, y) for (x, _), (y, _) in zip(resumed, whole[1:], strict=True))
