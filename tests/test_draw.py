"""The page to draw on: a browser sees a drawing, and scores it, as Python does; and the command that writes it."""

import base64
import io
import shutil
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import RUNS, SMALL, Error, Run, to_mnist
from PIL import Image, ImageDraw
from torch import Tensor

from mnist_mlp import MLPClassifier, normalised
from mnist_mlp.cli.draw import page_with
from mnist_mlp.cli.main import main
from mnist_mlp.cli.predict import least_lead
from mnist_mlp.datasets.mnist_form import SIDE
from mnist_mlp.datasets.paper import LONGEST

Point = tuple[float, float]  # between the left (0) and the right (1), and the top and the bottom
THREE = [(0.3, 0.2), (0.7, 0.18), (0.5, 0.48), (0.72, 0.66), (0.62, 0.8), (0.28, 0.78)]
BAR = [(0.35, 0.52), (0.64, 0.5)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window, as wide as a phone."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=390,844"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chrome
    errors = [entry for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"]
    chrome.quit()
    assert not errors


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `fit`."""
    folder = tmp_path_factory.mktemp("run")
    settings = ("--model.loss", "cross_entropy", "--pictures", "false", "--trainer.default_root_dir", folder)
    main([str(word) for word in ("fit", *SMALL, *settings)])
    return folder / RUNS


class Page:
    """A page in the browser."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.browser = browser
        browser.get(path.resolve().as_uri())

    def draw(self, stroke: Sequence[Point], pointer: str = "mouse", lift: bool = True) -> None:
        """Moves a pointer over the field, along a stroke, and at its end lifts it or does not."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder
        from selenium.webdriver.common.actions.pointer_input import PointerInput

        field = self.browser.find_element("id", "field")
        actions = ActionBuilder(self.browser, mouse=PointerInput(pointer, pointer), duration=5)
        for number, place in enumerate(stroke):
            actions.pointer_action.move_to(field, *(round((share - 0.5) * field.size["width"]) for share in place))
            if number == 0:
                actions.pointer_action.pointer_down()
        if lift:
            actions.pointer_action.pointer_up()
        actions.perform()

    def press(self, *keys: str) -> None:
        """Presses keys together, wherever the focus is."""
        from selenium.webdriver import ActionChains

        actions = ActionChains(self.browser, duration=0)
        for key in keys:
            actions.key_down(key)
        for key in reversed(keys):
            actions.key_up(key)
        actions.perform()

    def click(self, name: str) -> None:
        """Clicks a button."""
        self.browser.find_element("id", name).click()

    def result(self, script: str, *arguments: Any) -> Any:
        """The value of an expression, after the next frame."""
        wait = "const done = arguments[arguments.length - 1], given = arguments;"
        return self.browser.execute_async_script(
            f"{wait} requestAnimationFrame(() => requestAnimationFrame(() => done({script})))", *arguments
        )

    def drawing(self) -> Image.Image:
        """The drawing, as an image file has it."""
        url = self.result("field.toDataURL()")
        return Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))

    def ink(self) -> float:
        """The share of the field that is drawn on."""
        return np.asarray(self.drawing().convert("L")).mean() / 255

    def seen(self) -> Tensor:
        """The input that the page shows, (28, 28) uint8."""
        pixels = self.result("[...seen.getContext('2d').getImageData(0, 0, SIDE, SIDE).data]")
        red, green, blue, opacity = torch.tensor(pixels).view(SIDE, SIDE, 4).unbind(dim=2)
        assert torch.equal(red, green)
        assert torch.equal(red, blue)
        assert opacity.eq(255).all() or opacity.eq(0).all()
        return red.byte()

    def scores(self) -> list[float]:
        """The ten scores that the page shows, unrounded; none for a blank field."""
        values = self.result("[...document.querySelectorAll('#scores data')].map(each => each.value)")
        return [float(value) for value in values if value]


def is_near(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether two images of bytes are the same within rounding, or both none."""
    if first is None or second is None:
        return first is second
    return bool((first.int() - second.int()).abs().max() <= 1)


def assert_as_in_python(page: Page, model: MLPClassifier) -> None:
    """The page shows the input and the scores that Python has for its drawing."""
    seen = to_mnist(page.drawing())
    assert seen is not None
    assert is_near(page.seen(), seen)
    with torch.no_grad():
        scores = model.scores(model(normalised(page.seen()).unsqueeze(0))).squeeze(0)
    torch.testing.assert_close(torch.tensor(page.scores()), scores, rtol=1e-4, atol=1e-5)
    assert page.result("document.getElementById('answer').textContent") == str(scores.argmax().item())
    first, second = scores.topk(2).values.tolist()
    assert page.result("document.getElementById('unsure').textContent") == (
        "not sure" if first - second < least_lead(model) else ""
    )
    highest = page.result("document.querySelector('.best data').textContent").replace("−", "-")
    assert float(highest) == pytest.approx(scores.max().item(), abs=0.0051)


def page_of(browser: Any, folder: Path, **settings: Any) -> tuple[Page, MLPClassifier]:
    """A page with an untrained network, and the network."""
    torch.manual_seed(0)
    model = MLPClassifier(**settings)
    (folder / "draw.html").write_text(page_with(model, "mnist"), "utf-8")
    return Page(browser, folder / "draw.html"), model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hidden": [60, 50, 40, 30], "activation": "relu", "loss": "cross_entropy"},
        {"hidden": [80, 40], "loss": "squared"},
        {"hidden": [], "loss": "cross_entropy"},
        {"hidden": [50], "deskew": True},
        {"hidden": [50], "directions": True},
        {"hidden": [50, 20], "deskew": True, "directions": True},
    ],
)
def test_any_network_sees_and_scores_as_in_python(browser: Any, tmp_path: Path, settings: dict[str, Any]) -> None:
    page, model = page_of(browser, tmp_path, **settings)
    for stroke, pointer in ((THREE, "mouse"), (BAR, "touch")):
        page.draw(stroke, pointer)
        assert_as_in_python(page, model)


def test_the_page_names_the_layers() -> None:
    page = page_with(MLPClassifier(hidden=[50], deskew=True, directions=True), "mnist")
    assert '"about": "1568-50-10, deskew, directions, softplus, mse, trained on mnist."' in page


def test_softplus_has_its_jump(browser: Any, tmp_path: Path) -> None:
    page, model = page_of(browser, tmp_path, hidden=[5])
    z = torch.linspace(-0.5, 0.5, 101)
    expected = model.net.nonlin1(z)
    found = page.result("[...LAYERS.Softplus(Float32Array.from(given[0]), network.layers[1])]", z.tolist())
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-5, atol=1e-7)


def pictures() -> Iterator[Image.Image]:
    """Drawings of many kinds, in grey, in the field's size: also faint, tiny, wide, on the border, and blank ones."""
    generator = np.random.default_rng(0)

    def lines(number: int, low: int, high: int, width: int, colour: int = 255) -> Image.Image:
        picture = Image.new("L", (LONGEST, LONGEST))
        places = generator.integers(low, high, (number, 2))
        ImageDraw.Draw(picture).line([tuple(map(int, place)) for place in places], colour, width, joint="curve")
        return picture

    for width in (1, 8, 30, 60):
        yield lines(5, 40, 360, width)
    for _ in range(20):
        yield lines(2, 40, 360, 30)  # as symmetrical as can be
    yield lines(4, 100, 119, 3)
    yield lines(6, -50, 450, 30)
    yield lines(3, 100, 300, 20, colour=33)
    yield lines(3, 100, 300, 20, colour=31)
    for box in ((20, 100, 379, 144), (203, 21, 211, 380), (150, 150, 150, 150)):
        picture = lines(0, 0, 1, 1)
        ImageDraw.Draw(picture).rectangle(box, 200)
        yield picture
    yield Image.new("L", (LONGEST, LONGEST), 255)


def test_any_picture_comes_to_the_form_that_python_gives_it(browser: Any, tmp_path: Path) -> None:
    page, _ = page_of(browser, tmp_path, hidden=[])
    picture = "{width: LONGEST, height: LONGEST, values: Uint8Array.from(atob(given[0]), c => c.charCodeAt(0))}"
    for number, image in enumerate(pictures()):
        found = page.result(f"[...toMNIST({picture}) ?? []]", base64.b64encode(image.tobytes()).decode())
        seen = torch.tensor(found).byte().view(SIDE, SIDE) if found else None
        assert is_near(seen, to_mnist(image)), number


def test_undo_and_clear(browser: Any, tmp_path: Path) -> None:
    page, _ = page_of(browser, tmp_path, hidden=[])
    assert page.ink() == 0
    assert page.scores() == []
    page.draw(THREE)
    first, scores = page.ink(), page.scores()
    page.draw(BAR)
    second = page.ink()
    assert second > first > 0
    assert page.scores() != scores
    page.click("undo")
    assert page.ink() == first
    assert page.scores() == scores
    page.draw(BAR)
    page.click("clear")
    assert page.ink() == 0
    assert page.scores() == []
    assert page.seen().eq(0).all()
    for ink in (second, first, 0):
        page.click("undo")
        assert page.ink() == ink
    assert not any(page.browser.find_element("id", name).is_enabled() for name in ("undo", "clear"))


def test_keys_draw_undo_and_clear(browser: Any, tmp_path: Path) -> None:
    keys = pytest.importorskip("selenium.webdriver").Keys
    page, model = page_of(browser, tmp_path, hidden=[])
    page.press(keys.TAB)
    for key in [keys.SPACE, *[keys.ARROW_DOWN] * 5, *[keys.ARROW_LEFT] * 3]:
        page.press(key)
    first = page.ink()
    assert_as_in_python(page, model)
    for key in (keys.SPACE, *[keys.ARROW_UP] * 8):  # lifted
        page.press(key)
    assert page.ink() == first
    for key in (keys.SPACE, keys.ARROW_LEFT):
        page.press(key)
    assert page.ink() > first
    page.press(keys.CONTROL, "z")
    assert page.ink() == first
    page.press(keys.DELETE)
    assert page.ink() == 0
    page.press(keys.CONTROL, "z")
    assert page.ink() == first


def test_it_fits_a_phone(browser: Any, tmp_path: Path) -> None:
    page, _ = page_of(browser, tmp_path, hidden=[])
    for width in (390, 320):
        screen = {"width": width, "height": 700, "deviceScaleFactor": 2, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        assert page.result("document.documentElement.scrollWidth") == width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_scores_follow_a_stroke_while_it_is_drawn(browser: Any, tmp_path: Path) -> None:
    page, model = page_of(browser, tmp_path, hidden=[])
    page.draw(THREE, lift=False)
    assert_as_in_python(page, model)


def test_a_checkpoint_from_the_command_line(browser: Any, logs: Path, run: Run) -> None:
    output, messages = run("draw", "--logs", logs, "--to", "pages/three.html")
    assert "pages/three.html" in output
    assert not messages
    assert [*Path("pages").iterdir()] == [Path("pages/three.html")]
    page = Page(browser, Path("pages/three.html"))
    page.draw(THREE)
    assert_as_in_python(page, MLPClassifier.load_from_checkpoint(logs / "version_0/checkpoints/best.ckpt"))
    about = page.result("document.getElementById('about').textContent")
    assert about == "784-20-10, softplus, cross_entropy, trained on digits."
    assert page.result("performance.getEntriesByType('resource').length") == 0  # loaded besides the page


def test_no_text_of_a_checkpoint_is_a_script() -> None:
    model = MLPClassifier(hidden=[])
    page, hostile = page_with(model, "mnist"), page_with(model, "</script><script>alert(1)</script><!--")
    assert [hostile.count(part) for part in ("<script", "</script", "<!--")] == [
        page.count(part) for part in ("<script", "</script", "<!--")
    ]


def test_the_page_is_opened_where_there_is_a_browser(logs: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    window, terminal = Mock(), webbrowser.GenericBrowser("w3m")
    draw = ("draw", "--logs", logs)
    monkeypatch.delenv("BROWSER", raising=False)
    for browser in (window, terminal):
        monkeypatch.setattr(browser, "open", Mock(return_value=True))
    assert "opened" not in run(*draw)[0]  # there is none
    monkeypatch.setattr("webbrowser.get", lambda: terminal)
    assert "opened" not in run(*draw)[0]
    terminal.open.assert_not_called()  # it would take over the terminal
    monkeypatch.setattr("webbrowser.get", lambda: window)
    assert "opened" not in run(*draw, "--open", "false")[0]
    window.open.assert_not_called()
    assert "opened" in run(*draw)[0]
    window.open.assert_called_once_with((logs / "draw.html").as_uri())


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--to", "page.txt"), "--to page.txt: give a name that ends in .html"),
        ((), "--ckpt_path best: no run under lightning_logs has a checkpoint"),
        (("--ckpt_path", "no.ckpt"), "--ckpt_path no.ckpt: no such file"),
    ],
)
def test_mistakes(words: tuple[object, ...], part: str, error: Error) -> None:
    assert part in error("draw", *words)


def test_a_page_that_cannot_be_written_leaves_nothing(logs: Path, tmp_path: Path, error: Error) -> None:
    (tmp_path / "page.html").mkdir()
    assert "page.html" in error("draw", "--logs", logs, "--to", "page.html")
