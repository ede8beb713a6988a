"""The result of `validate` and `test`: a table on the terminal, a file, and of a test a point in TensorBoard."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from mnist_mlp.display.labelled import labelled


class ResultTable(Callback):
    """Prints loss, accuracy and errors, and for a test those of each digit; writes them as JSON.

    Args:
        files: JSON files to write, once there is a result.
        curves: The run's folder of curves, to which the loss and accuracy of a test are added, if there is one.
        step: Number of the checkpoint's newest update, from 0.
    """

    def __init__(self, files: Sequence[Path], curves: Path | None = None, step: int = 0) -> None:
        self.files, self.curves, self.step = files, curves, step
        self.answers: Tensor | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the answers of all processes, before the module resets them."""
        if pl_module.evaluation.update_called:
            self.loss, self.answers = pl_module.evaluation.compute()

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and write the result."""
        if not trainer.is_global_zero or self.answers is None:
            return
        stage = "test" if trainer.testing else "val"
        result = result_of(self.loss, self.answers)
        print(f"{stage}/loss      {result['loss']:.4f}\n{stage}/accuracy  {result['accuracy']:.4f}")
        print(f"{stage}/errors    {result['errors']:,} of {result['images']:,}")
        if trainer.testing:
            print("\ndigit  images  errors  accuracy  most often taken for")
            for row in result["digits"]:
                mistake = f"{row['mistaken_for']} ({row['times']}x)" if row["errors"] else ""
                numbers = f"{row['digit']:>5}  {row['images']:>6,}  {row['errors']:>6,}  {row['accuracy']:>8.4f}"
                print(f"{numbers}  {mistake}".rstrip())
        if trainer.testing and self.curves:
            with SummaryWriter(str(self.curves)) as writer:
                for name in ("loss", "accuracy"):
                    writer.add_scalar(f"test/{name}", result[name], self.step)
        for path in self.files:
            path.write_text(json.dumps({"data": trainer.datamodule.dataset} | result, indent=2) + "\n")
            print(labelled("written", path))

    on_test_end = on_validation_end


def result_of(loss: Tensor, answers: Tensor) -> dict[str, Any]:
    """Plain numbers of an evaluation, and those of each digit.

    Args:
        loss: The mean loss, () float.
        answers: Each image's label beside the network's answer, (N, 2) int64.
    """
    pairs = [tuple(pair) for pair in answers.tolist()]
    wrong, digits = Counter(pair for pair in pairs if pair[0] != pair[1]), []
    for digit, images in sorted(Counter(label for label, _ in pairs).items()):
        mistakes = Counter({answer: times for (label, answer), times in wrong.items() if label == digit})
        errors = mistakes.total()
        row = {"digit": digit, "images": images, "errors": errors, "accuracy": 1 - errors / images}
        if mistakes:
            [(row["mistaken_for"], row["times"])] = mistakes.most_common(1)
        digits.append(row)
    errors = wrong.total()
    whole = {"loss": loss.item(), "accuracy": 1 - errors / len(pairs), "errors": errors, "images": len(pairs)}
    return whole | {"digits": digits}
