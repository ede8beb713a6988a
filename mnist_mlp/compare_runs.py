"""Whole runs of `fit` side by side: the decay factors of the plateau rule, and the notebook's optimization methods."""

from dataclasses import dataclass
from itertools import cycle, pairwise

from jsonargparse.typing import OpenUnitInterval
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from matplotlib.axes import Axes
from tqdm import tqdm

from mnist_mlp.batches import Batches, Slices
from mnist_mlp.callbacks import HyperparametersTable
from mnist_mlp.classifier import MLPClassifier, StepSize, TrainingError
from mnist_mlp.data import EVALUATION_BATCH_SIZE, MNISTDataModule
from mnist_mlp.gradient import loss_and_accuracy
from mnist_mlp.report import STYLES, Report, begin, check_comparable, fit_command

METHODS = {  # name, whether a batch is the whole training set, and the schedule
    "full gradient": (True, "constant"),
    "SGD, constant": (False, "constant"),
    "SGD, 1 over sqrt(k+1)": (False, "inverse_sqrt"),
    "SGD, plateau": (False, "plateau"),
}


@dataclass
class Point:
    """Where a run stands after an epoch.

    Args:
        epoch: Passes through the training images.
        updates: Updates.
        lr: Step size of the last of them.
        objective: f(u), the loss over all training images.
        loss: Loss over the validation images.
        accuracy: Share of the validation images that are classified right.
    """

    epoch: int
    updates: int
    lr: float
    objective: float
    loss: float
    accuracy: float


class Curve(Callback):
    """Records a run at its start and after every epoch, shows how far it is, and writes f(u) into TensorBoard.

    Args:
        name: Of the run.
        train: The training images in parts.
        val: The validation images in parts.
    """

    def __init__(self, name: str, train: Slices, val: Slices) -> None:
        self.name, self.train, self.val = name, train, val
        self.points: list[Point] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the initial weights."""
        self.bar = tqdm(desc=self.name, total=trainer.max_epochs, unit="epoch", disable=None, leave=False)
        self.record(trainer, pl_module, epoch=0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the epoch."""
        self.record(trainer, pl_module, trainer.current_epoch + 1)
        self.bar.update()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Removes the progress bar."""
        self.bar.close()

    def record(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        """Adds a point."""
        objective, _ = loss_and_accuracy(pl_module.net, pl_module.loss_fn, self.train)
        loss, accuracy = loss_and_accuracy(pl_module.net, pl_module.loss_fn, self.val)
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        self.points.append(Point(epoch, trainer.global_step, lr, objective, loss, accuracy))
        trainer.logger.log_metrics({"train/objective": objective}, step=trainer.global_step)


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
    decays = sorted({float(decay) for decay in decays}, reverse=True)
    if not decays:
        raise MisconfigurationException("--decays is empty: give factors such as '[0.5,0.25]'")
    check_comparable(trainer, datamodule)
    report = begin(trainer, datamodule, "compare_decays")
    settings = {decay: {"schedule": "plateau", "decay": decay} for decay in decays}
    curves = {
        decay: train(trainer, model, datamodule, report, f"decay {decay:g}", datamodule.hparams.batch_size, **each)
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
    report.close({"next": f"{fit_command(model, datamodule, **changes)} --trainer.max_epochs {trainer.max_epochs}"})
    return best


def compare_methods(
    trainer: Trainer,
    model: MLPClassifier,
    datamodule: MNISTDataModule,
    grid: tuple[StepSize, ...] = (0.1, 0.3, 1.0, 3.0),
) -> dict[str, float]:
    """Compares the notebook's optimization methods for the same number of gradients per image.

    The full gradient, and stochastic gradients with a constant step size, with γ_k ∝ 1/√(k+1), and with the plateau
    rule. All start from the same weights and go through the images `max_epochs` times, each with the γ_0 of the grid
    that leaves it with the lowest validation loss.

    Args:
        trainer: Says on which device, for how many epochs, in which precision and under which directory.
        model: Its weights and settings are those of every run, but for step size and schedule.
        datamodule: The images.
        grid: First step sizes γ_0 to try with each method, as '[0.1,1]'.

    Returns:
        The best γ_0 of each method for which one does not diverge.

    Raises:
        MisconfigurationException: The grid is empty, or nothing to validate on, or no epochs.
        TrainingError: Every run diverges.
    """
    lrs = sorted({float(lr) for lr in grid})
    if not lrs:
        raise MisconfigurationException("--grid is empty: give step sizes such as '[0.1,1]'")
    check_comparable(trainer, datamodule)
    report = begin(trainer, datamodule, "compare_methods")
    best: dict[str, float] = {}
    curves: dict[str, list[Point]] = {}
    for method, (full, schedule) in METHODS.items():
        size = len(datamodule.train_set[0]) if full else datamodule.hparams.batch_size
        # The budget is the same for all, however many plateaus there are.
        settings = {"schedule": schedule, "max_decays": trainer.max_epochs}
        for lr in lrs:
            points = train(trainer, model, datamodule, report, f"{method}, {lr:g}", size, lr=lr, **settings)
            if points and (method not in curves or points[-1].loss < curves[method][-1].loss):
                best[method], curves[method] = lr, points
    if not curves:
        raise TrainingError("every run diverges: give smaller step sizes with --grid; find_lr finds one that works")

    print(f"\neach method after {trainer.max_epochs} epochs, at its best step size of the grid")
    report.table(
        "methods",
        [
            {
                "method": method,
                "gamma_0": best[method],
                "updates": points[-1].updates,
                "f(u)": points[-1].objective,
                "val/loss": points[-1].loss,
                "val/accuracy": points[-1].accuracy,
            }
            for method, points in curves.items()
        ],
    )
    with report.picture("methods", panels=3) as panels:
        draw(
            panels, {f"{method}, γ_0 = {best[method]:g}": each for method, each in curves.items()}, model.hparams.loss
        )
    report.close({})
    return best


def train(
    trainer: Trainer,
    model: MLPClassifier,
    datamodule: MNISTDataModule,
    report: Report,
    name: str,
    batch_size: int,
    **settings: float | str,
) -> list[Point]:
    """One run as `fit` makes it, with the trainer's budget and precision. Gives its curve, or [] if it diverges.

    Args:
        trainer: See above.
        model: The run starts from its weights, and has its settings but for those given.
        datamodule: The images, set up.
        report: Where the run is among TensorBoard's.
        name: Of the run.
        batch_size: Images per update.
        settings: Settings of the model that are other ones.
    """
    batches = Batches(*datamodule.train_set, batch_size, datamodule.hparams.seed)
    curve = Curve(name, Slices(*datamodule.train_set, EVALUATION_BATCH_SIZE), datamodule.val_dataloader())
    run = Trainer(
        accelerator=trainer.accelerator,
        devices=1,
        precision=trainer.precision,
        max_epochs=trainer.max_epochs,
        logger=TensorBoardLogger(report.folder, name="", version=name, default_hp_metric=False),
        callbacks=[HyperparametersTable(), curve],
        log_every_n_steps=min(trainer.log_every_n_steps, len(batches)),
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        run.fit(model.variant(**settings), batches, datamodule.val_dataloader())
    except TrainingError:
        print(f"{name}: diverges", flush=True)
        return []
    last = curve.points[-1]
    print(f"{name}: {last.epoch} epochs, validation loss {last.loss:.4f}, accuracy {last.accuracy:.2%}", flush=True)
    return curve.points


def draw(panels: list[Axes], curves: dict[str, list[Point]], loss: str) -> None:
    """Training objective, validation loss and validation accuracy against epochs."""
    for panel, value, label in zip(
        panels,
        ("objective", "loss", "accuracy"),
        (f"training objective f(u) ({loss})", f"validation loss ({loss})", "validation accuracy"),
        strict=True,
    ):
        for (name, points), style in zip(curves.items(), cycle(STYLES)):
            epochs = [point.epoch for point in points]
            panel.plot(epochs, [getattr(point, value) for point in points], label=name, markevery=0.1, **style)
        panel.set(xlabel="epochs", ylabel=label, yscale="linear" if value == "accuracy" else "log")
    panels[0].legend()
