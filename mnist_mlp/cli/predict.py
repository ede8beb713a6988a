"""`predict`: one line for each image, of the test set or of your own."""

from pathlib import Path

import torch
from torch import Tensor

from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.data import normalised
from mnist_mlp.datasets.own_images import find_images, read_images, save_images
from mnist_mlp.display.labelled import labelled
from mnist_mlp.errors import NotSureError, UserError
from mnist_mlp.studies.report import show_table


def least_lead(model: MLPClassifier) -> float:
    """By how much the score of a sure digit leads. Chosen on drawn digits, see tests/handwriting.py."""
    return 0.9 if model.hparams.loss == "cross_entropy" else 0.25  # of probabilities, of raw outputs


def print_predictions(labels: Tensor, scores: Tensor) -> None:
    """Print labels, (N,) int64, and predictions from scores, (N, 10) float, as CSV."""
    print("image,label,prediction,score")
    highest, digits = scores.max(dim=1)
    for image, values in enumerate(zip(labels.tolist(), digits.tolist(), highest.tolist(), strict=True)):
        print("{},{},{},{:.4f}".format(image, *values))


@torch.no_grad()
def classify_images(model: MLPClassifier, names: list[str], csv: Path, inputs: Path | None, strict: bool) -> None:
    """Classify your own images, on the CPU: print a table and write it.

    Args:
        model: The trained classifier.
        names: Files, folders and patterns.
        csv: File for the table; its folder is made.
        inputs: Folder for the images as they enter the network.
        strict: Whether a digit that is not sure is an error.

    Raises:
        UserError: A folder cannot be used, or some images cannot: the others have been classified.
        NotSureError: Some digits are not sure, and `strict` asks for it.
        OSError: A file cannot be written.
    """
    if csv.is_dir():
        raise UserError(f"--csv {csv}: is a folder")
    found = find_images(names)
    if inputs is not None and inputs.resolve() in {path.parent.resolve() for path in found}:
        raise UserError(f"--save_inputs {inputs}: holds the images themselves: give another folder")
    signs = read_images(found)
    if not signs:
        raise UserError("--images: no image could be read")
    scores = model.scores(model(normalised(torch.stack([sign.image for sign in signs]))))
    highest, digits = (values.tolist() for values in scores.topk(2))
    lead = least_lead(model)
    rows = [
        {
            "file": str(sign.path),
            "digit": digit,
            "score": round(score, 4),
            "runner-up": second,
            "its score": round(rest, 4),
            "sure": "yes" if score - rest >= lead else "no",
            "page": sign.page,
            "place": sign.place,
        }
        for sign, (digit, second), (score, rest) in zip(signs, digits, highest, strict=True)
    ]
    csv.parent.mkdir(parents=True, exist_ok=True)
    show_table(rows, csv)
    unsure = sum(row["sure"] == "no" for row in rows)
    print()
    if unsure:
        print(labelled("not sure", f"{unsure} of {len(rows)}, which lead by less than {lead}"))
    print(labelled("written", csv))
    if inputs is not None:
        save_images(signs, inputs)
    left = len(found) - len({sign.path for sign in signs})
    if left:
        raise UserError(f"{left} of {len(found)} images could not be used, as said above")
    if unsure and strict:
        raise NotSureError(f"--strict: {unsure} of {len(rows)} digits are not sure")
