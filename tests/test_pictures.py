"""What a test run shows of its errors, and TensorBoard of the images and of what the network makes of them."""

import io
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RUNS, SMALL, Error, Run, checkpoint, curves_in
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, ImageEvent
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from mnist_mlp import MNISTDataModule
from mnist_mlp.display.drawings import draw_confusion, draw_deformations, draw_weights, draw_worst_errors, mosaic

FIT = ("fit", *SMALL, "--model.loss", "cross_entropy")
LAST = ("--ckpt_path", "last")


def test_errors_are_counted_and_drawn(run: Run, error: Error) -> None:
    run(*FIT)
    _, *rows = [row.split(",") for row in run("predict", *LAST, "--trainer.limit_predict_batches", 2)[0].splitlines()]
    wrong = Counter((label, prediction) for _, label, prediction, _ in rows if label != prediction)
    output, _ = run("test", *LAST, "--trainer.limit_test_batches", 2, "--errors", "errors.svg")
    assert f"\ntest/errors    {sum(wrong.values()):,} of {len(rows):,}\n" in output
    table = re.findall(r"^ +(\d) +([\d,]+) +([\d,]+) +([\d.]+)(?:  (\d) \((\d+)x\))?$", output, re.M)
    assert [line[0] for line in table] == [*"0123456789"]
    for digit, images, errors, accuracy, mistaken_for, times in table:
        answers = Counter(row[2] for row in rows if row[1] == digit)
        assert int(images.replace(",", "")) == sum(answers.values())
        assert float(accuracy) == pytest.approx(answers.pop(digit) / int(images.replace(",", "")), abs=5e-5)
        assert int(errors) == sum(answers.values())
        assert int(times or 0) == answers[mistaken_for] == max(answers.values(), default=0)
    assert max(map(len, output.splitlines())) <= 80
    picture = Path("errors.svg").read_text(encoding="utf-8")
    captions = re.findall(r"<!-- (\d) → (\d) (\S+) -->", picture)
    assert Counter(caption[:2] for caption in captions) == wrong
    scores = [float(caption[2]) for caption in captions]
    assert scores == sorted(scores, reverse=True)
    indices = [int(index) for index in re.findall(r"<!-- #(\d+) -->", picture)]
    assert [tuple(rows[index][1:3]) for index in indices] == [caption[:2] for caption in captions]
    for name in ("errors.doc", "nowhere/errors.png"):
        assert f"--errors {name}" in error("test", *LAST, "--errors", name)


def test_errors_are_those_of_the_test(run: Run) -> None:
    run(*FIT)
    options = ("--trainer.limit_test_batches", 2, "--trainer.precision", "64-true")
    output, _ = run("test", *LAST, "--errors", "errors.svg", *options)
    errors = int(re.search(r"test/errors\s+([\d,]+)", output)[1].replace(",", ""))
    assert len(re.findall(r"<!-- \d → \d \S+ -->", Path("errors.svg").read_text(encoding="utf-8"))) == errors


def test_mosaic_holds_every_image() -> None:
    images = torch.rand(25, 1, 28, 28)
    picture = mosaic(images, columns=20)
    assert picture.shape == (2 * 50, 20 * 34)
    for i, image in enumerate(images):
        row, column = divmod(i, 20)
        assert torch.equal(picture[row * 50 + 20 : row * 50 + 48, column * 34 + 3 : column * 34 + 31], image[0])


@pytest.fixture
def pages(run: Run) -> Callable[..., EventAccumulator]:
    """What TensorBoard has to show of a run with some options."""

    def of(*options: object) -> EventAccumulator:
        run(*FIT, "--trainer.max_epochs", 3, *options)
        accumulator = EventAccumulator(str(curves_in(RUNS / "version_0")), {"histograms": 0, "images": 0})
        accumulator.Reload()
        return accumulator

    return of


def picture(event: ImageEvent) -> Tensor:
    """Its pixels, (3, H, W) in 0..1."""
    return to_tensor(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))


def steps(events: list[Any]) -> list[int]:
    """The updates they belong to."""
    return [event.step for event in events]


def test_tensorboard_shows_an_image_and_its_deformations(pages: Callable[..., EventAccumulator]) -> None:
    (event,) = pages("--data.distort", "true", "--pictures", "true").Images("view/deformations")
    assert event.step == 0
    pixels, side = picture(event)[0], 28 * 3 + 2
    digits = [pixels[i * side + 2 : (i + 1) * side, j * side + 2 : (j + 1) * side] for i in range(3) for j in range(7)]
    different = torch.unique(torch.stack(digits).flatten(1), dim=0)
    assert len(different) == 21
    assert all(0.02 < digit.mean() < 0.5 for digit in digits)


def test_replaced_parts_are_shown() -> None:
    still = dict.fromkeys(("rotation", "scale", "shear", "shift", "elastic"), 0.0)
    data = MNISTDataModule(source="digits", distort=True, replace=1, **still)
    data.setup("fit")
    cells = draw_deformations(data)[0, 2:, 2:].unfold(0, 84, 86).unfold(1, 84, 86).flatten(0, 1)[:, 1::3, 1::3]
    changed = (cells[1:] - cells[:1]).abs() > 0.3
    assert changed.flatten(1).sum(dim=1).max() <= 8 * 8
    assert changed.flatten(1).any(dim=1).sum() > 8


def test_tensorboard_shows_data_weights_and_results(pages: Callable[..., EventAccumulator]) -> None:
    found = pages("--pictures", "true")
    assert found.Tags()["graph"]
    assert set(found.Tags()["images"]) == {f"view/{name}" for name in ("batch", "weights", "errors", "confusion")}
    shown = [tag for kind in ("scalars", "images", "histograms") for tag in found.Tags()[kind]]
    assert sorted({tag.split("/")[0] for tag in shown}) == ["train", "val", "view", "weights"]  # as TensorBoard has it
    (batch,) = found.Images("view/batch")
    assert batch.step == 0
    assert picture(batch).shape == (3, 302, 302)  # 100 of its 1,000 images
    for tag, at in (("weights", [0, 109, 164]), ("errors", [109, 164]), ("confusion", [109, 164])):
        assert steps(found.Images(f"view/{tag}")) == at  # epoch 2, and the end
    first, *_, last = map(picture, found.Images("view/weights"))
    assert first.shape == (3, 2 * 30 + 2, 302)  # the 20 units
    assert not torch.equal(first, last)
    parameters = checkpoint()["state_dict"]
    for name, parameter in parameters.items():
        last = found.Histograms(name.replace("net.", "weights/"))[-1]
        assert last.histogram_value.num == parameter.numel()
        assert last.histogram_value.min == pytest.approx(parameter.min().item())
        assert last.histogram_value.sum == pytest.approx(parameter.double().sum().item(), rel=1e-5)
        gradients = found.Histograms(f"{name.replace('net.', 'weights/')}.gradient")
        assert steps(gradients) == [0, 109, 164]
        assert gradients[-1].histogram_value.sum_squares > 0


def test_no_pictures_on_demand(pages: Callable[..., EventAccumulator]) -> None:
    found = pages("--pictures", "false")
    assert not found.Tags()["images"]
    assert not found.Tags()["histograms"]
    assert not found.Tags()["graph"]


@pytest.mark.parametrize(
    "options",
    [
        ("--trainer.precision", "bf16-mixed"),
        ("--trainer.precision", "64-true"),
        ("--data.val_size", 0),
        ("--model.hidden", "[]"),
        ("--model.directions", "true"),
        ("--trainer.enable_checkpointing", "false"),
        pytest.param(("--trainer.accelerator", "gpu", "--data.distort", "true"), marks=pytest.mark.gpu),
    ],
    ids=lambda options: options[0],
)
def test_pictures_of_every_kind_of_run(options: tuple[object, ...], pages: Callable[..., EventAccumulator]) -> None:
    found = pages("--pictures", "true", *options)
    assert ("view/errors" in found.Tags()["images"]) == ("--data.val_size" not in options)
    assert len(found.Images("view/weights")) == 3


def test_the_weights_of_a_unit_are_drawn_as_one_image_or_as_rows_of_maps() -> None:
    assert draw_weights(torch.randn(120, 784), 1, 1).shape == (3, 302, 302)
    units = torch.zeros(2, 8, 4, 4)
    units[0, 6, 1, 3] = 1
    picture = draw_weights(units.flatten(1), 2, 4)[0]
    assert picture.shape == (2 * 4 + 4, 2 * (4 * 4 + 2) + 2)
    assert picture[2 + 1 * 4 + 1, 2 + 2 * 4 + 3] == 1  # map 6 is the third of the second row


def test_a_run_that_goes_on_keeps_its_pictures(pages: Callable[..., EventAccumulator], run: Run) -> None:
    pages("--pictures", "true", "--trainer.max_epochs", 1)
    run("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2, "--pictures", "true")
    accumulator = EventAccumulator(str(curves_in(RUNS / "version_0")), {"images": 0})
    accumulator.Reload()
    assert steps(accumulator.Images("view/weights")) == [0, 54, 109]
    assert steps(accumulator.Images("view/confusion")) == [54, 109]
    assert steps(accumulator.Images("view/batch")) == [0]


def test_worst_errors_come_first() -> None:
    images, labels = torch.rand(4, 1, 28, 28), torch.tensor([0, 1, 2, 3])
    scores = torch.zeros(4, 10)
    scores[0, 0] = 1  # right
    scores[1, 7], scores[1, 1] = 0.6, 0.4
    scores[2, 8], scores[2, 2] = 0.9, 0.1
    scores[3, 9], scores[3, 3] = 0.7, 0.3
    figure = draw_worst_errors(images, labels, scores)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["2 → 8 0.90\n#2", "3 → 9 0.70\n#3", "1 → 7 0.60\n#1"]
    assert "The 3 worst of 3 validation errors" in axes.get_title(loc="left")
    drawn = torch.tensor(axes.images[0].get_array())
    assert torch.equal(drawn, mosaic(images[[2, 3, 1]], columns=10))


def test_no_errors_are_drawn_as_none() -> None:
    scores = torch.eye(10)
    (axes,) = draw_worst_errors(torch.rand(10, 1, 28, 28), torch.arange(10), scores).axes
    assert not axes.texts


def test_confusion_counts_each_pair() -> None:
    labels = torch.tensor([0, 0, 1])
    figure = draw_confusion(labels, torch.eye(10)[[0, 5, 1]])
    counts = {text.get_position(): text.get_text() for text in figure.axes[0].texts}  # by prediction and label
    assert counts == {(0, 0): "1", (5, 0): "1", (1, 1): "1"}
