"""The decay factors of the plateau rule side by side, on the grid that the notebook names."""

from itertools import pairwise

from jsonargparse.typing import OpenUnitInterval
from lightning.pytorch import Trainer

from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.cli.commands import with_settings
from mnist_mlp.cli.validation import check_comparable, distinct
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.runtime.loss_log import TrainingError
from mnist_mlp.studies.report import Report
from mnist_mlp.studies.training_runs import Point, budget, draw, train


def compare_decays(
    trainer: Trainer,
    model: MLPClassifier,
    datamodule: MNISTDataModule,
    decays: tuple[OpenUnitInterval, ...] = (0.5, 0.25, 0.125),
) -> float:
    """Compares factors δ of the plateau rule, by the validation metric that it watches (the notebook names the grid).

    Each run starts from the same weights, sees the same batches and ends at the plateau after `max_decays`
    reductions, or with the trainer's `max_epochs`.

    Args:
        trainer: Says on which device, for how many epochs at most, in which precision and under which directory.
        model: Its weights and settings are those of every run, but for schedule and decay.
        datamodule: The images.
        decays: Factors to compare, as '[0.5,0.25]'.

    Returns:
        The best factor.

    Raises:
        MisconfigurationException: No factor is given, or nothing to validate on, or no epochs.
        TrainingError: Every run diverges.
    """
    decays = distinct("--decays", decays)[::-1]
    check_comparable(trainer, datamodule)
    datamodule.set_up_for(trainer)
    report = Report(trainer, "compare_decays")
    report.settings(model, datamodule, epochs=trainer.max_epochs, precision=trainer.precision, decays=decays)
    settings = {decay: {"schedule": "plateau", "decay": decay} for decay in decays}
    curves = {
        decay: train(trainer, model, datamodule, report, f"decay_{decay:g}", datamodule.hparams.batch_size, **each)
        for decay, each in settings.items()
    }
    curves = {decay: points for decay, points in curves.items() if points}
    if not curves:
        raise TrainingError(f"every run diverges with --model.lr {model.hparams.lr:g}: find_lr finds one that works")

    def quality(point: Point) -> float:
        return -point.loss if model.hparams.monitor == "loss" else point.accuracy

    bests = {decay: max(points, key=quality) for decay, points in curves.items()}
    print(f"\nwhere the validation {model.hparams.monitor} of each decay factor is best")
    report.table(
        "decays",
        [
            {
                "decay": decay,
                "epochs": points[-1].epoch,
                "reductions": sum(now.lr < before.lr for before, now in pairwise(points)),
                "best epoch": bests[decay].epoch,
                "val/loss": bests[decay].loss,
                "val/accuracy": bests[decay].accuracy,
            }
            for decay, points in curves.items()
        ],
    )
    with report.picture("decays", panels=3) as panels:
        draw(panels, {f"δ = {decay:g}": points for decay, points in curves.items()}, model.hparams.loss)
    best = max(bests, key=lambda decay: quality(bests[decay]))
    print(f"\nbest decay = {best:g}")
    changes = {"lr": model.hparams.lr, **settings[best]}
    report.close({"next": f"{with_settings('fit', model, datamodule, **changes)} {budget(trainer)}"})
    return best
