"""`predict`: one line for each image, of the test set or of your own."""

from pathlib import Path

import torch
from torch import Tensor

from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.data import normalised
from mnist_mlp.datasets.own_images import find_images, read_images, save_images
from mnist_mlp.errors import UserError
from mnist_mlp.studies.report import show_table


def print_predictions(labels: Tensor, scores: Tensor) -> None:
    """Print labels, (N,) int64, and predictions from scores, (N, 10) float, as CSV."""
    print("image,label,prediction,score")
    highest, digits = scores.max(dim=1)
    for image, values in enumerate(zip(labels.tolist(), digits.tolist(), highest.tolist(), strict=True)):
        print("{},{},{},{:.4f}".format(image, *values))


@torch.no_grad()
def classify_images(model: MLPClassifier, names: list[str], csv: Path, inputs: Path | None) -> None:
    """Classify your own images, on the CPU: print a table and write it.

    Args:
        model: The trained classifier.
        names: Files, folders and patterns.
        csv: File for the table; its folder is made.
        inputs: Folder for the images as the network sees them.

    Raises:
        UserError: Some images cannot be used; the others have been classified.
        OSError: A file cannot be written.
    """
    found = find_images(names)
    images = read_images(found)
    if not images:
        raise UserError("--images: no image could be read")
    scores = model.scores(model(normalised(torch.stack([*images.values()]))))
    highest, digits = (values.tolist() for values in scores.topk(2))
    rows = [
        {"file": str(path), "digit": digit, "score": round(score, 4), "runner-up": second, "its score": round(rest, 4)}
        for path, (digit, second), (score, rest) in zip(images, digits, highest, strict=True)
    ]
    csv.parent.mkdir(parents=True, exist_ok=True)
    show_table(rows, csv)
    print(f"\n{'written':<11} {csv}")
    if inputs is not None:
        save_images(images, inputs)
    left = len(found) - len(images)
    if left:
        raise UserError(f"{left} of {len(found)} images could not be used, as said above")
