"""`export`: a trained network as a file for programs without this package, or without Python."""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from mnist_mlp.classifier import Classifier, MLPClassifier
from mnist_mlp.data import normalised
from mnist_mlp.display.labelled import labelled
from mnist_mlp.errors import UserError
from mnist_mlp.runtime.checkpoints import LOGS, find_checkpoint, load_checkpoint


class ImageClassifier(nn.Module):
    """A classifier of images as bytes: normalises them, and gives a score to each class."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.net = model.net
        self.scores = model.scores

    def forward(self, images: Tensor) -> Tensor:
        """Scores, (B, 10) float32, from images, (B, 28, 28) uint8, white on black."""
        return self.scores(self.net(normalised(images)))


def export(to: str, ckpt_path: str = "best", logs: str = LOGS) -> None:
    """Write a checkpoint's network as ONNX, or as a program of torch, for use without this package.

    The program takes `images`, any number of 28x28 bytes, white on black, and gives their `scores`. Normalisation is
    inside.

    Args:
        to: The file: FILE.onnx for ONNX, FILE.pt2 for torch.export.
        ckpt_path: A path, a URL, or best or last of the newest run.
        logs: Folder of the runs.

    Raises:
        UserError: There is no such checkpoint, the name has another ending, or torch is too old or ONNX not there.
    """
    path = Path(to)
    ending = path.suffix.lower()
    if ending not in (".onnx", ".pt2") or not path.parent.is_dir():
        raise UserError(f"--to {to}: give a name that ends in .onnx or .pt2, in a folder")
    if ending == ".onnx" and not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
        raise UserError(f"--to {to}: needs onnx and onnxscript: pip install 'mnist_mlp[export]', or give a .pt2")
    if TorchVersion(torch.__version__) < "2.7":
        raise UserError(f"--to {to}: needs torch 2.7 or later, not {torch.__version__}")
    checkpoint = find_checkpoint(ckpt_path, Path(logs))
    load_checkpoint(checkpoint)  # says if it is none
    write_program(MLPClassifier.load_from_checkpoint(checkpoint), path)
    print(labelled("checkpoint", checkpoint), labelled("written", path), sep="\n")


def write_program(model: Classifier, path: Path) -> None:
    """Write a classifier of bytes as ONNX or as torch's own program, by the ending of the path."""
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)  # of one, torch would conclude that there is always one
    shapes = {"images": {0: torch.export.Dim("number", min=1)}}
    program = ImageClassifier(model).eval()
    if path.suffix.lower() == ".pt2":
        torch.export.save(torch.export.export(program, (images,), dynamic_shapes=shapes, strict=False), path)
    else:
        torch.onnx.export(
            program,
            (images,),
            path,
            input_names=["images"],
            output_names=["scores"],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,  # one file
            verbose=False,
        )
