"""What a test run shows of its errors, and TensorBoard of the training images."""

import io
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import RUNS
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.transforms.functional import to_tensor

Run = Callable[..., tuple[str, str]]
SMALL = ["--data.source", "digits", "--model.hidden", "[20]", "--trainer.max_steps", 50]


def test_errors_are_counted_and_drawn(run: Run, error: Callable[..., str]) -> None:
    run("fit", *SMALL)
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
    assert "--errors errors.doc" in error("test", "--ckpt_path", "last", "--errors", "errors.doc")


def test_tensorboard_shows_an_image_and_its_deformations(run: Run) -> None:
    run("fit", *SMALL, "--data.distort", "true")
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
    run("fit", *SMALL)
    accumulator = EventAccumulator(str(RUNS / "version_0"))
    accumulator.Reload()
    assert not accumulator.Tags()["images"]
