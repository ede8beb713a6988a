"""Own images: any that Pillow reads, brought to MNIST's form, and classified."""

import csv
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, Error, Run, to_mnist
from handwriting import cases
from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from mnist_mlp import MLPClassifier
from mnist_mlp.data import MEAN, STD
from mnist_mlp.datasets.mnist import fetch_mnist, read_mnist
from mnist_mlp.datasets.own_images import Sign, find_images, read_image, read_signs, save_images
from mnist_mlp.errors import UserError

Colour = tuple[int, ...]
FONTS = [
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral"),
    *("STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10", "cmb10"),
]
COLOURS = [
    ((0, 0, 0), (255, 255, 255)),
    ((255, 255, 255), (0, 0, 0)),
    ((200, 0, 0), (255, 255, 200)),
    ((250, 220, 0), (0, 0, 120)),
    ((200, 0, 0), (0, 110, 0)),  # as bright as one another
]


def draw(
    digit: int,
    font: str = "DejaVuSans",
    size: int = 200,
    colours: tuple[Colour, Colour] = COLOURS[0],
    canvas: tuple[int, int] = (300, 320),
    place: tuple[float, float] = (0.5, 0.5),
) -> Image.Image:
    """A printed digit.

    Args:
        size: Of the font, in pixels.
        colours: Of the digit and of the background.
        canvas: Width and height of the image.
        place: Of the digit, between the left (0) and the right (1), and the top and the bottom.
    """
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    face = ImageFont.truetype(str(path), size)
    image = Image.new("RGBA" if len(colours[1]) == 4 else "RGB", canvas, colours[1])
    left, top, right, bottom = ImageDraw.Draw(image).textbbox((0, 0), str(digit), font=face)
    room = (canvas[0] - (right - left) - 4, canvas[1] - (bottom - top) - 4)
    corner = (2 + place[0] * room[0] - left, 2 + place[1] * room[1] - top)
    ImageDraw.Draw(image).text(corner, str(digit), fill=colours[0], font=face)
    return image


def difference(first: Tensor, second: Tensor) -> float:
    """Mean difference of two images' pixels, in 0..1."""
    return (first.float() - second.float()).abs().mean().item() / 255


@pytest.mark.slow
def test_printed_and_written_digits_are_classified(mnist_dir: Path, full: bool, run: Run) -> None:
    """By the network of `distorted.yaml`; with --full after all its epochs, which takes 6 minutes."""
    epochs = () if full else ("--trainer.max_epochs", 2)
    run("fit", "--config", ROOT / "configs" / "distorted.yaml", "--data.data_dir", mnist_dir, *epochs)
    choose = random.Random(0)
    for font in FONTS:
        for digit in range(10):
            for size in (18, 40, 120, 400) if full else (18, 120):
                canvas = (int(size * choose.uniform(1.2, 2.5)), int(size * choose.uniform(1.3, 2.5)))
                place = (choose.random(), choose.random())
                image = draw(digit, font, size, choose.choice(COLOURS), canvas, place)
                Path("digits").mkdir(exist_ok=True)
                image.save(f"digits/{digit}_{font}_{size}.png")
    run("predict", "--ckpt_path", "last", "--images", "digits", "--csv", "found.csv")
    with Path("found.csv").open() as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(FONTS) * 10 * (4 if full else 2)
    right = sum(Path(row["file"]).name[0] == row["digit"] for row in found) / len(found)
    assert right >= 0.9

    texts = {}
    for number, (_, text, image) in enumerate(cases(seed=0, each=20 if full else 4)):
        texts[f"{number:03}.png"] = text
        Path("written").mkdir(exist_ok=True)
        image.save(f"written/{number:03}.png")
    with suppress(SystemExit):  # some are blank
        run("predict", "--ckpt_path", "last", "--images", "written", "--csv", "found.csv")
    with Path("found.csv").open() as file:
        found = list(csv.DictReader(file))
    read, surely = ({name: "" for name in texts} for _ in range(2))
    for row in found:
        read[Path(row["file"]).name] += row["digit"]
        surely[Path(row["file"]).name] += row["digit"] if row["sure"] == "yes" else "?"
    digits = [name for name, text in texts.items() if text]
    assert sum(read[name] == texts[name] for name in digits) >= 0.9 * len(digits)
    assert sum(surely[name] == texts[name] for name in digits) >= 0.75 * len(digits)
    others = [name for name, text in texts.items() if not text]
    assert sum(surely[name].isdecimal() for name in others) <= 0.3 * len(others)


def test_images_of_mnist_come_back(mnist_dir: Path) -> None:
    """Enlarged, in a corner of a sheet of paper."""
    fetch_mnist(mnist_dir)
    images, _ = read_mnist(mnist_dir, train=False)
    differences, ink = 0.0, 0.0
    for image in images[:100]:
        sheet = Image.new("L", (400, 500), 255)
        enlarged = 255 - np.asarray(Image.fromarray(image.numpy()).resize((224, 224), Image.Resampling.BICUBIC))
        sheet.paste(Image.fromarray(enlarged), (120, 30))
        again = to_mnist(sheet)
        assert again.shape == (28, 28)
        assert again.dtype == torch.uint8
        differences += difference(again, image)
        ink += difference(image, torch.zeros(28, 28))
    assert differences < 0.25 * ink


@pytest.mark.parametrize("digit", range(10))
def test_form_is_that_of_mnist(digit: int) -> None:
    image = to_mnist(draw(digit)).double()
    rows, columns = image.sum(dim=1).nonzero(), image.sum(dim=0).nonzero()
    assert max(rows.max() - rows.min(), columns.max() - columns.min()) + 1 == 20
    places = torch.arange(28.0).double()
    centre = [places @ image.sum(dim=axis) / image.sum() for axis in (1, 0)]
    assert centre == [pytest.approx(14, abs=0.51)] * 2
    assert image.max() == 255
    assert image[0].sum() == image[:, 0].sum() == 0


@pytest.mark.parametrize(
    "colours", [*COLOURS[1:], ((0, 0, 0, 255), (9, 9, 9, 0)), ((255, 255, 255, 255), (0, 0, 0, 0))]
)
def test_colours_and_transparency_make_no_difference(colours: tuple[Colour, Colour]) -> None:
    assert difference(to_mnist(draw(5, colours=colours)), to_mnist(draw(5))) < 0.01


@pytest.mark.parametrize(("canvas", "place"), [((900, 250), (0, 0)), ((200, 900), (1, 0.7)), ((1500, 1500), (0.2, 1))])
def test_place_and_size_make_no_difference(canvas: tuple[int, int], place: tuple[float, float]) -> None:
    size = 200 if max(canvas) < 1000 else 900
    assert difference(to_mnist(draw(5, size=size, canvas=canvas, place=place)), to_mnist(draw(5))) < 0.02


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        *[("1", "a.png"), ("L", "a.png"), ("LA", "a.png"), ("P", "a.png"), ("RGBA", "a.png"), ("I;16", "a.png")],
        *[("L", "a.jpg"), ("CMYK", "a.jpg"), ("RGB", "a.webp"), ("P", "a.gif"), ("RGB", "a.bmp"), ("F", "a.tif")],
    ],
)
def test_formats_and_modes(mode: str, name: str, tmp_path: Path) -> None:
    image = draw(5)
    if mode == "I;16":
        converted = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        converted = image.convert(mode)
    converted.save(tmp_path / name)
    assert difference(read_image(tmp_path / name), to_mnist(image)) < 0.02


def test_a_photo_that_lies_on_its_side(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    draw(5).rotate(90, expand=True).save(tmp_path / "a.jpg", exif=exif)
    assert difference(read_image(tmp_path / "a.jpg"), to_mnist(draw(5))) < 0.02


def test_shaded_and_noisy_paper() -> None:
    paper = np.asarray(draw(5)).astype(float)
    shade = 1 - 0.3 * np.linspace(0, 1, len(paper))[:, None, None]
    noise = np.random.default_rng(0).normal(0, 8, paper.shape)
    photo = Image.fromarray((paper * shade + noise).clip(0, 255).astype(np.uint8))
    assert difference(to_mnist(photo), to_mnist(draw(5))) < 0.03


PAPERS: dict[str, Callable[[Image.Image], Image.Image]] = {  # a plain picture of a digit, spoilt
    "frame of one pixel": lambda image: ImageOps.expand(image, 1),
    "thick coloured frame": lambda image: ImageOps.expand(image, 7, (20, 20, 160)),
    "frame inside": lambda image: ruled(image, [(10, 12, 290, 12), (10, 308, 290, 308), (10, 12, 10, 308)]),
    "squared": lambda image: ruled(image, [(0, y, 300, y + 9) for y in range(5, 330, 31)], turn=True),
    "ruled, darkly": lambda image: ruled(image, [(0, y, 300, y) for y in range(3, 330, 40)], (60, 60, 60)),
    "hard shadow": lambda image: lit(image, lambda x, y: np.where(x + 0.3 * y < 0.7, 1, 0.4)),
    "strong shade": lambda image: lit(image, lambda x, y: 0.35 + 0.65 * x),
    "squared in shade": lambda image: lit(PAPERS["squared"](image), lambda x, y: 1 - 0.5 * y),
}


def ruled(
    image: Image.Image, lines: list[tuple[int, ...]], colour: Colour = (110, 130, 190), turn: bool = False
) -> Image.Image:
    """Lines under the ink; with `turn`, the same once more at right angles."""
    paper = Image.new("RGB", image.size, "white")
    for x0, y0, x1, y1 in lines:
        ImageDraw.Draw(paper).line((x0, y0, x1, y1), colour, 2)
        if turn:
            ImageDraw.Draw(paper).line((y0, x1, y1, x0), colour, 2)
    return ImageChops.darker(image, paper)


def lit(image: Image.Image, light: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Image.Image:
    """A picture in a light, a function of places between 0 and 1."""
    y, x = np.mgrid[0 : 1 : image.height * 1j, 0 : 1 : image.width * 1j]
    return Image.fromarray((np.asarray(image) * light(x, y)[..., None]).astype(np.uint8))


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("digit", [1, 4, 7])
def test_paper_makes_no_difference(paper: str, digit: int, tmp_path: Path) -> None:
    image = draw(digit, font="DejaVuSansMono", colours=((20, 20, 60), (235, 235, 235)))
    PAPERS[paper](image).save(tmp_path / "a.png")
    assert difference(read_image(tmp_path / "a.png"), to_mnist(image)) < 0.04


@pytest.mark.parametrize("width", [2, 5, 10, 20])
def test_the_pen_makes_little_difference(width: int) -> None:
    forms = []
    for each in (width, 24):
        image = Image.new("L", (300, 300), 255)
        ImageDraw.Draw(image).line([(90, 60), (210, 60), (130, 240)], 0, each, joint="curve")
        forms.append(to_mnist(image).double())
    assert forms[0].sum().item() == pytest.approx(forms[1].sum().item(), rel=0.2)


def test_several_digits_from_left_to_right(tmp_path: Path) -> None:
    sheet = Image.new("RGB", (1000, 700), "white")
    for number, digit in enumerate((4, 0, 7, 7, 1)):
        sheet.paste(draw(digit), (number % 3 * 300, number // 3 * 330))
    sheet.save(tmp_path / "a.png")
    signs = read_signs(tmp_path / "a.png")
    assert [(sign.page, sign.place) for sign in signs] == [(1, place) for place in range(1, 6)]
    for sign, digit in zip(signs, (4, 0, 7, 7, 1), strict=True):
        assert difference(sign.image, to_mnist(draw(digit))) < 0.05
    with pytest.raises(UserError, match="5 digits where one is expected"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.webp"])
def test_all_pages(name: str, tmp_path: Path) -> None:
    blank, *pages = [Image.new("RGB", (300, 320), "white"), draw(1), draw(3)]
    blank.save(tmp_path / name, save_all=True, append_images=pages)
    with pytest.warns(UserWarning, match=r"no digit found on page 1"):
        signs = read_signs(tmp_path / name)
    assert [sign.page for sign in signs] == [2, 3]
    assert all(difference(sign.image, to_mnist(page)) < 0.02 for sign, page in zip(signs, pages, strict=True))


@pytest.mark.parametrize("noise", [8, 25])
def test_noise_is_blank(noise: float, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(200, noise, (200, 200)).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="no digit found"):
        read_image(tmp_path / "a.png")


def test_heic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    assert find_images([str(tmp_path)]) == [tmp_path / "a.heic"]
    with pytest.raises(UserError, match=r"a\.heic: "):
        read_image(tmp_path / "a.heic")
    monkeypatch.setattr("mnist_mlp.datasets.own_images.formats", lambda: ["PNG"])
    with pytest.raises(UserError, match=r"a\.heic: HEIC, which needs `pip install pillow-heif`"):
        read_image(tmp_path / "a.heic")


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    pixels = np.asarray(draw(5).convert("F")).copy()
    pixels[0, 0] = np.nan
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    assert difference(read_image(tmp_path / "a.tif"), to_mnist(draw(5))) < 0.02


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 50)])
def test_blank_images(shape: tuple[int, int]) -> None:
    assert to_mnist(Image.new("RGB", shape, (200, 10, 10))) is None
    assert to_mnist(Image.new("RGBA", shape, (0, 0, 0, 0))) is None


def test_a_drawing_that_is_transparent_is_blank() -> None:
    image = Image.new("RGBA", (100, 100), (255, 255, 255, 0))
    ImageDraw.Draw(image).line([(50, 20), (50, 80)], (255, 0, 0, 0), 8)
    assert to_mnist(image) is None


@pytest.fixture
def trained(run: Run) -> None:
    """A run of `fit` in this folder, and images of digits."""
    run("fit", *SMALL)
    Path("own").mkdir()
    for digit in range(4):
        draw(digit).save(f"own/{digit}.png")


def rows() -> list[dict[str, str]]:
    """The table that `predict` has written."""
    with Path("lightning_logs/predictions.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "words", [("own",), ("ow*",), ("own/*.png",), ("own/[0-3].png",), tuple(f"own/{digit}.png" for digit in range(4))]
)
@pytest.mark.usefixtures("trained")
def test_files_folders_and_patterns(words: tuple[str, ...], run: Run) -> None:
    output, _ = run("predict", "--images", *words, "--ckpt_path", "last", "--save_inputs", "seen")
    assert [row["file"] for row in rows()] == [f"own/{digit}.png" for digit in range(4)]
    table = output.splitlines()[:5]
    unsure = sum(row["sure"] == "no" for row in rows())
    lead = [f"not sure    {unsure} of 4, which lead by less than 0.25"] if unsure else []
    assert output.splitlines()[5:] == ["", *lead, "written     lightning_logs/predictions.csv"]
    assert all(len(line) <= 80 for line in table)
    model = MLPClassifier.load_from_checkpoint("lightning_logs/version_0/checkpoints/last.ckpt")
    for row, line in zip(rows(), table[1:], strict=True):
        assert line.split()[:2] == [row["file"], row["digit"]]
        seen = torch.from_numpy(np.array(Image.open(Path("seen", Path(row["file"]).name))))
        assert torch.equal(seen, read_image(Path(row["file"])))
        with torch.no_grad():
            (scores,) = model.scores(model((seen[None, None].float() / 255 - MEAN) / STD))
        highest, digits = (each.tolist() for each in scores.topk(2))
        assert [int(row["digit"]), int(row["runner-up"])] == digits
        assert [float(row["score"]), float(row["its score"])] == pytest.approx(highest, abs=1e-4)
        assert row["sure"] == ("yes" if highest[0] - highest[1] >= 0.25 else "no")
        assert (row["page"], row["place"]) == ("1", "1")


@pytest.mark.usefixtures("trained")
def test_not_sure_is_an_error_where_asked_for(run: Run, error: Error, monkeypatch: pytest.MonkeyPatch) -> None:
    predict = ("predict", "--ckpt_path", "last", "--images", "own")
    monkeypatch.setattr("mnist_mlp.cli.predict.least_lead", lambda model: -1)
    run(*predict, "--strict")
    monkeypatch.setattr("mnist_mlp.cli.predict.least_lead", lambda model: 9)
    assert "not sure    4 of 4" in run(*predict)[0]
    with pytest.raises(SystemExit) as end:
        run(*predict, "--strict")
    assert end.value.code == 1
    assert "--strict" in error("predict", "--ckpt_path", "last", "--strict")


def test_images_of_the_same_name_are_all_saved(tmp_path: Path) -> None:
    values = {Path("one/a.png"): 1, Path("one/a.jpg"): 2, Path("one/a_2.png"): 3, Path("two/a.png"): 4}
    forms = {path: torch.full((28, 28), value, dtype=torch.uint8) for path, value in values.items()}
    save_images([Sign(path, 1, 1, form) for path, form in forms.items()], tmp_path)
    saved = {file.name: np.array(Image.open(file))[0, 0] for file in tmp_path.iterdir()}
    assert saved == {"a.png": 1, "a_2.png": 2, "a_2_2.png": 3, "a_3.png": 4}


@pytest.mark.usefixtures("trained")
def test_names_that_mean_something_elsewhere(run: Run) -> None:
    names = ["ü 😀.png", "[1].png", "a: b.png", "null", "1", "*.png", "\udcff.png"]  # the last one is no UTF-8
    for name in names:
        shutil.copyfile("own/0.png", name)
    twice = ("own/../own/1.png", "own/2.png", "./own/2.png")
    run("predict", "--ckpt_path", "last", "--images", *names, *twice)
    assert [row["file"] for row in rows()] == [*names[:-1], "\\udcff.png", "own/../own/1.png", "own/2.png"]


@pytest.mark.parametrize("pattern", ["own/**.png", "[", "own/?*", "/", "~"])
def test_any_name_is_of_files_or_of_none(pattern: str) -> None:
    assert all(path.is_file() or str(path) == pattern for path in find_images([pattern]))


@pytest.mark.usefixtures("trained")
def test_many_images(run: Run) -> None:
    Path("many").mkdir()
    Image.open("own/0.png").resize((30, 32)).save("small.png")
    for i in range(1500):  # more than files can be open
        Path(f"many/{i:04}.png").symlink_to(Path("small.png").resolve())
    run("predict", "--ckpt_path", "last", "--images", "many")
    assert len(rows()) == 1500


@pytest.mark.usefixtures("trained")
def test_what_cannot_be_used_stops_no_other(capsys: pytest.CaptureFixture[str], run: Run) -> None:
    whole = Path("own/3.png").read_bytes()
    Path("own/4.png").write_bytes(whole[: len(whole) // 2])
    Path("own/5.png").write_text("five")
    Path("own/notes.txt").write_text("no image, and not named as one")
    Image.new("RGB", (40, 40), "white").save("own/6.png")
    Image.new("1", (15_000, 15_000)).save("own/7.png")
    with pytest.raises(SystemExit) as end:
        run("predict", "--ckpt_path", "last", "--images", "nowhere.png", "own", "own/notes.txt")
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert end.value.code == 2
    assert [row["file"] for row in rows()] == [f"own/{digit}.png" for digit in range(4)]
    assert sum("nowhere.png: no such file" in line for line in errors) == 1
    for name, reason in (
        ("4", "truncated"),
        ("5", "not an image"),
        ("6", "no digit found"),
        ("7", "more than 89,478,485 pixels"),
    ):
        assert sum(f"own/{name}.png" in line and reason in line for line in errors) == 1
    assert sum("own/notes.txt" in line for line in errors) == 1
    assert "6 of 10 images" in errors[-1]
    assert len(errors) == 7


@pytest.mark.usefixtures("trained")
def test_mistaken_options(error: Error) -> None:
    predict = ("predict", "--ckpt_path", "last")
    assert "--images: expected at least one argument" in error(*predict, "--images")
    assert "--trainer.limit_predict_batches" in error(*predict, "--trainer.limit_predict_batches", 0)
    for value in ("null", "x.png", "{a: 1}"):
        assert "--images: must be a list of files" in error(*predict, "--config", f"images: {value}")
    assert "--images element 1: must be of type str" in error(*predict, "--config", "images: [3]")
    assert "--images: fit has no such option" in error("fit", "--images", "own")
    assert "--save_inputs own: holds the images themselves" in error(
        *predict, "--images", "own", "--save_inputs", "own"
    )
    assert "--csv own: is a folder" in error(*predict, "--images", "own", "--csv", "own")
    assert "--save_inputs seen: is for your own images" in error(
        "predict", "--ckpt_path", "last", "--save_inputs", "seen"
    )


@pytest.mark.usefixtures("trained")
def test_own_images_need_no_other_data(run: Run) -> None:
    output, messages = run("predict", "--images", "own/1.png", "--data.source", "mnist", "--data.data_dir", "none")
    assert "own/1.png" in output
    assert "warning" not in messages
    assert not Path("none").exists()


def test_an_image_may_be_damaged_anywhere(tmp_path: Path) -> None:
    draw(5).save(tmp_path / "a.png")
    draw(5).save(tmp_path / "a.jpg")
    draw(5).save(tmp_path / "a.gif")
    choose = random.Random(0)
    for name in ("a.png", "a.jpg", "a.gif"):
        content = (tmp_path / name).read_bytes()
        for _ in range(100):
            data = bytearray(content)
            for _ in range(3):
                data[choose.randrange(len(data))] = choose.randrange(256)
            (tmp_path / "broken").write_bytes(data[: choose.randint(0, 2 * len(data))])
            with suppress(UserError):
                assert read_image(tmp_path / "broken").shape == (28, 28)
