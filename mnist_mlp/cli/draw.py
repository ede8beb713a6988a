"""`draw`: a page to draw digits on, with a trained network in it."""

import base64
import json
import os
import webbrowser
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.cli.predict import least_lead
from mnist_mlp.data import MEAN, STD
from mnist_mlp.datasets.mnist_form import BOX, SIDE, THINNEST
from mnist_mlp.datasets.paper import DARK, FAINTEST, LIGHT, LONGEST
from mnist_mlp.deskew import SMALLEST, Deskew
from mnist_mlp.directions import STEP, WEIGHT, WINDOW, Directions
from mnist_mlp.display.labelled import labelled
from mnist_mlp.errors import UserError
from mnist_mlp.network import FIXED_LAYERS
from mnist_mlp.runtime.checkpoints import LOGS, find_checkpoint, load_checkpoint

CONSTANTS = {  # of the steps from a drawing to the network's input, which the page repeats
    "LONGEST": LONGEST,
    "SIDE": SIDE,
    "BOX": BOX,
    "THINNEST": THINNEST,
    "FAINTEST": FAINTEST,
    "LIGHT": LIGHT,
    "DARK": DARK,
    "MEAN": MEAN,
    "STD": STD,
}
IN_TERMINAL = ("www-browser", "links", "elinks", "lynx", "w3m")  # of those that Python's `webbrowser` finds


def draw(to: str | None = None, ckpt_path: str = "best", open: bool = True, logs: str = LOGS) -> None:
    """Write a page to draw digits on, which shows their scores, and open it in the browser.

    The page is one file that needs no server and no internet: the checkpoint's network is in it.

    Args:
        to: The file, FILE.html (default: draw.html in the folder of the runs).
        ckpt_path: A path, a URL, or best or last of the newest run.
        open: Open the page in the browser, if there is one.
        logs: Folder of the runs.

    Raises:
        UserError: There is no such checkpoint, or the name has another ending.
        OSError: The file cannot be written.
    """
    path = Path(logs, "draw.html") if to is None else Path(to)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--to {to}: give a name that ends in .html")
    checkpoint = find_checkpoint(ckpt_path, Path(logs))
    dataset = load_checkpoint(checkpoint)["datamodule_hyper_parameters"]["dataset"]
    text = page_with(MLPClassifier.load_from_checkpoint(checkpoint), dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    print(labelled("checkpoint", checkpoint), labelled("written", f"{path}, {len(text) / 1e6:.1f} MB"), sep="\n")
    if open:
        opened = open_in_browser(path)
        print(labelled("opened", "in the browser") if opened else labelled("next", "open it in a browser"))


def page_with(model: MLPClassifier, dataset: str) -> str:
    """The page as HTML with a network in it, trained on the data set of that name."""
    layers = [layer for layer in model.net.children() if not isinstance(layer, nn.Flatten)]
    affine = [layer for layer in layers if isinstance(layer, nn.Linear)]
    units = "-".join(map(str, (affine[0].in_features, *(layer.out_features for layer in affine))))
    fixed = "".join(f"{name}, " for name in FIXED_LAYERS if model.hparams[name])
    network = {
        "about": f"{units}, {fixed}{model.hparams.activation}, {model.hparams.loss}, trained on {dataset}.",
        "loss": model.hparams.loss,
        "lead": least_lead(model),
        "constants": CONSTANTS,
        "layers": [as_json(layer) for layer in layers],
    }
    template = files("mnist_mlp.display").joinpath("draw.html").read_text("utf-8")
    # A checkpoint may come from elsewhere: no text in it may end the element and start a script.
    return template.replace("NETWORK_AS_JSON", json.dumps(network).replace("<", r"\u003c"))


def as_json(layer: nn.Module) -> dict[str, Any]:
    """The name of a layer's class, which names its function in the page, and the layer's numbers."""
    numbers: dict[str, Any] = {}
    if isinstance(layer, nn.Linear):
        numbers = {"weight": base64_of(layer.weight), "bias": base64_of(layer.bias)}
    elif isinstance(layer, Deskew):
        numbers = {"size": layer.size, "smallest": SMALLEST}
    elif isinstance(layer, Directions):
        numbers = {"size": layer.size, "step": STEP, "window": WINDOW, "weight": WEIGHT}
    elif isinstance(layer, nn.Softplus):
        numbers = {"beta": layer.beta, "threshold": layer.threshold}
    return {"kind": type(layer).__name__, **numbers}


def base64_of(values: Tensor) -> str:
    """Numbers of any shape, float, as base64 of little-endian float32, row by row."""
    return base64.b64encode(values.detach().numpy().astype("<f4").tobytes()).decode()


def write_whole(path: Path, text: str) -> None:
    """Write a file that, if that fails, is as it was."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(text, "utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def open_in_browser(path: Path) -> bool:
    """Open a file in the browser. Return whether there is one, and it is none that would run in this terminal."""
    try:
        browser = webbrowser.get()
        in_terminal = getattr(browser, "name", "") in IN_TERMINAL and "BROWSER" not in os.environ
        return not in_terminal and browser.open(path.resolve().as_uri())
    except (webbrowser.Error, OSError):
        return False
