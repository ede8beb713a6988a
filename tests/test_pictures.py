"""What a test run shows of its errors, and TensorBoard of the training images."""

import io
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import RUNS, SMALL
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.transforms.functional import to_tensor

from mnist_mlp.pictures import mosaic

Run = Callable[..., tuple[str, str]]
FIT = ("fit", *SMALL, "--model.loss", "cross_entropy", "--model.lr", 0.5)


def test_errors_are_counted_and_drawn(run: Run, error: Callable[..., str]) -> None:
    run(*FIT)
    _, *rows = [row.split(",") for row in run("predict", "--ckpt_path", "last")[0].splitlines()]
    wrong = Counter((label, prediction) for _, label, prediction, _ in rows if label != prediction)
    output, _ = run("test", "--ckpt_path", "last", "--errors", "errors.svg")
    found = dict(re.findall(r"test/(\w+)\s+([\d.]+)", output))
    assert float(found["errors"]) == sum(wrong.values())
    for digit in "0123456789":
        labelled = [row for row in rows if row[1] == digit]
        accuracy = sum(row[2] == digit for row in labelled) / len(labelled)
        assert float(found[f"accuracy_of_{digit}"]) == pytest.approx(accuracy, abs=1e-6)
    drawn = Counter(re.findall(r"<!-- (\d) → (\d) -->", Path("errors.svg").read_text(encoding="utf-8")))
    assert drawn == wrong
    for name in ("errors.doc", "nowhere/errors.png"):
        assert f"--errors {name}" in error("test", "--ckpt_path", "last", "--errors", name)


@pytest.mark.parametrize("options", [("--trainer.limit_test_batches", 2), ("--trainer.precision", "64-true")], ids=str)
def test_errors_are_those_of_the_test(options: tuple[object, ...], run: Run) -> None:
    run(*FIT)
    output, _ = run("test", "--ckpt_path", "last", "--errors", "errors.svg", *options)
    errors = int(float(re.search(r"test/errors\s+([\d.]+)", output)[1]))
    assert len(re.findall(r"<!-- \d → \d -->", Path("errors.svg").read_text(encoding="utf-8"))) == errors


def test_mosaic_holds_every_image() -> None:
    images = torch.rand(25, 1, 28, 28)
    picture = mosaic(images)
    assert picture.shape == (2 * 42, 20 * 34)
    for i, image in enumerate(images):
        row, column = divmod(i, 20)
        assert torch.equal(picture[row * 42 + 12 : row * 42 + 40, column * 34 + 3 : column * 34 + 31], image[0])


def test_tensorboard_shows_an_image_and_its_deformations(run: Run) -> None:
    run(*FIT, "--data.distort", "true")
    accumulator = EventAccumulator(str(RUNS / "version_0"))
    accumulator.Reload()
    (picture,) = accumulator.Images("deformations")
    assert picture.step == 0
    pixels = to_tensor(Image.open(io.BytesIO(picture.encoded_image_string)))[0]
    side = 28 * 3 + 2
    digits = [pixels[i * side + 2 : (i + 1) * side, j * side + 2 : (j + 1) * side] for i in range(3) for j in range(7)]
    different = torch.unique(torch.stack(digits).flatten(1), dim=0)
    assert len(different) == 21
    assert all(0.02 < digit.mean() < 0.5 for digit in digits)


def test_images_that_are_not_deformed_are_not_shown(run: Run) -> None:
    run(*FIT)
    accumulator = EventAccumulator(str(RUNS / "version_0"))
    accumulator.Reload()
    assert not accumulator.Tags()["images"]
