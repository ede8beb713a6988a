"""How fast `fit` is: beside the notebook's loop, a plain loop, what one writes first in Lightning, and the floor.

    python -m mnist_mlp.benchmark --help

Every way trains the same network on images of MNIST's number and form, with the same batch size and step size. They
take turns in one process; a figure is the median over the turns, a ratio the median of the ratios within a turn.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import torch
import torchvision
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mnist_mlp.batches import Batches
from mnist_mlp.classifier import Batch
from mnist_mlp.cli.lightning_cli import main as command_line
from mnist_mlp.data import MEAN, STD, MNISTDataModule
from mnist_mlp.gradient import loss_and_gradient
from mnist_mlp.network import MLP

IMAGES = 60_000
TURNS = 5
DEVICES = ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)
EPOCHS = {"cpu": 2, "cuda": 10}  # in a turn; on a GPU the first one captures an update
IMPORTS = "import lightning.pytorch.cli, torchvision"
LR, LOSS = 0.1, nn.MSELoss()
WAYS = (
    *("notebook", "plain", "plain_onednn", "lightning"),
    *("fit", "fit_with_validation", "fit_bf16", "fit_distorted", "floor"),
)
GOALS = {  # of ratios, for the notebook's network and batch size
    "cpu": {
        ("notebook", "fit"): "at least 15",
        ("fit", "plain"): "at most 1",
        ("fit", "floor"): "at most 1.25",
        ("fit_bf16", "floor"): "at most 1",
        ("fit_distorted", "fit"): "at most 2",
    },
    "cuda": {("lightning", "fit"): "at least 20", ("fit", "floor"): "at most 1.5"},
}


@dataclass
class Setting:
    """What all ways have in common.

    Args:
        epochs: Passes through the images in one turn.
        device: Where to train.
        batch_size: Images per update.
        hidden: Units of each hidden layer.
        images: (60000, 28, 28) uint8 on the CPU.
        labels: (60000,) int64 on the CPU.
    """

    epochs: int
    device: torch.device
    batch_size: int
    hidden: tuple[int, ...]
    images: Tensor
    labels: Tensor

    def network(self) -> MLP:
        """A new network of this project on the device."""
        return MLP(self.hidden).to(self.device)

    def network_of_torch(self) -> nn.Sequential:
        """The same of torch's own layers."""
        layers = [nn.Flatten()]
        for fan_in, fan_out in pairwise((28 * 28, *self.hidden, 10)):
            layers += [nn.Linear(fan_in, fan_out), nn.Softplus(beta=25, threshold=1)]
        return nn.Sequential(*layers[:-1]).to(self.device)

    @cached_property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """The images and one-hot labels as `fit` has them, on the device."""
        x, y = MNISTDataModule().normalise(self.images, self.labels)
        return x.to(self.device), y.to(self.device)

    def batches(self) -> Batches:
        """The same in batches."""
        return Batches(*self.tensors, self.batch_size, seed=0)


def clock(device: torch.device) -> float:
    """Seconds, after all work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Digits(Dataset):
    """As torchvision's MNIST: an image of Pillow's and a label at a time, each transformed when asked for."""

    def __init__(self, setting: Setting) -> None:
        self.images, self.labels = setting.images, setting.labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = Image.fromarray(self.images[index].numpy(), mode="L")
        return self.transform(image), torch.eye(10)[int(self.labels[index])].view(-1)


def notebook(setting: Setting) -> float:
    """The notebook's cell as it stands, its batches moved to the device; gives the seconds of an epoch."""
    loader = DataLoader(Digits(setting), batch_size=setting.batch_size, shuffle=True, num_workers=1)
    net, losses = setting.network_of_torch(), []
    started = clock(setting.device)
    for images, labels in loader:
        x, y = images.to(setting.device), labels.to(setting.device)
        loss = LOSS(net(x), y)
        gradient = torch.autograd.grad(loss, list(net.parameters()))
        losses.append(loss.item())
        with torch.no_grad():
            for variable, derivative in zip(net.parameters(), gradient, strict=True):
                variable.copy_(variable - LR * derivative)
    return clock(setting.device) - started


def plain(setting: Setting, net: nn.Module) -> float:
    """The same update in a plain loop over tensors in memory, without logging."""
    batches = setting.batches()
    started = clock(setting.device)
    for epoch in range(setting.epochs):
        batches.set_epoch(epoch)
        for x, y in batches:
            _, gradient = loss_and_gradient(net, LOSS, x, y)
            with torch.no_grad():
                for variable, derivative in zip(net.parameters(), gradient, strict=True):
                    variable.copy_(variable - LR * derivative)
    return (clock(setting.device) - started) / setting.epochs


class FirstModule(LightningModule):
    """Manual optimization as one writes it first: what is to be seen is logged every step."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = net

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        loss, gradient = loss_and_gradient(self.net, LOSS, x, y)
        for parameter, derivative in zip(self.net.parameters(), gradient, strict=True):
            parameter.grad = derivative
        self.optimizers().step()
        self.log("train/loss", loss, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LR)


class TrainingTime(Callback):
    """Takes the seconds of an epoch of training, without its validation and with all that a run does between.

    Attributes:
        training: Median over the epochs, which leaves out what happens only once.
        run: The mean.
    """

    newest: "TrainingTime"

    def __init__(self) -> None:
        self.epochs: list[float] = []
        TrainingTime.newest = self

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of the run."""
        self.began = clock(pl_module.device)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of the epoch."""
        self.started = clock(pl_module.device)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stops it after the last update."""
        if trainer.is_last_batch:
            self.epochs.append(clock(pl_module.device) - self.started)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock of the run, and takes both for as many updates as an epoch of IMAGES has."""
        share = math.ceil(IMAGES / trainer.train_dataloader.sampler.whole_batch_size) / trainer.num_training_batches
        self.training = share * statistics.median(self.epochs)
        self.run = share * (clock(pl_module.device) - self.began) / len(self.epochs)


def first_lightning(setting: Setting) -> float:
    """What one writes first in Lightning, over tensors in memory, with its progress bar, logger and checkpoints."""
    with tempfile.TemporaryDirectory() as folder, silence():
        trainer = Trainer(
            max_epochs=setting.epochs,
            accelerator=setting.device.type,
            devices=1,
            default_root_dir=folder,
            callbacks=[TrainingTime()],
            enable_model_summary=False,
        )
        trainer.fit(FirstModule(setting.network_of_torch()), setting.batches())
    return TrainingTime.newest.training


def fit_words(setting: Setting) -> list[str]:
    """`fit` with everything on, as a user types it, on the embedded digits."""
    hidden = str(list(setting.hidden)).replace(" ", "")
    words = f"fit --data.source digits --data.batch_size {setting.batch_size} --model.hidden {hidden}"
    return f"{words} --trainer.max_epochs {setting.epochs} --trainer.accelerator {setting.device.type}".split()


def fit(setting: Setting, *options: str) -> tuple[float, float]:
    """`fit` with further options: seconds of an epoch, without and with its validation and checkpoints."""
    with tempfile.TemporaryDirectory() as folder, silence():
        own = ["--trainer.callbacks", "mnist_mlp.benchmark.TrainingTime", "--trainer.enable_progress_bar", "true"]
        command_line([*fit_words(setting), "--trainer.default_root_dir", folder, *own, *options])
    return TrainingTime.newest.training, TrainingTime.newest.run


def floor(setting: Setting) -> float:
    """What no way can beat: on a CPU an epoch's matrix products alone, on CUDA its updates in one captured graph."""
    batches = setting.batches()
    step = captured_update(setting, batches) if setting.device.type == "cuda" else products(setting, batches)
    started = clock(setting.device)
    for _ in range(setting.epochs * len(batches)):
        step()
    return (clock(setting.device) - started) / setting.epochs


def products(setting: Setting, batches: Batches) -> Callable[[], None]:
    """The matrix products of an update, into outputs that are there already."""
    x, _ = next(iter(batches))
    weights = [parameter.detach() for parameter in setting.network().parameters() if parameter.dim() == 2]
    values = [x.flatten(1), *(x.new_empty(len(x), len(weight)) for weight in weights)]  # of each layer, and outputs
    errors = [torch.rand_like(value) for value in values]  # gradients in them
    gradients = [torch.empty_like(weight) for weight in weights]

    def step() -> None:
        for i, weight in enumerate(weights):
            torch.mm(values[i], weight.t(), out=values[i + 1])
        for i, weight in reversed(list(enumerate(weights))):
            torch.mm(errors[i + 1].t(), values[i], out=gradients[i])
            if i > 0:
                torch.mm(errors[i + 1], weight, out=errors[i])

    return step


def captured_update(setting: Setting, batches: Batches) -> Callable[[], None]:
    """One update from a batch that stays where it is, captured in a CUDA graph."""
    x, y = next(iter(batches))
    net = setting.network()

    def update() -> None:
        _, gradient = loss_and_gradient(net, LOSS, x, y)
        with torch.no_grad():
            for variable, derivative in zip(net.parameters(), gradient, strict=True):
                variable.sub_(derivative, alpha=LR)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is allocated and chosen once must not be captured
        for _ in range(3):
            update()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update()
    return graph.replay


@contextmanager
def silence() -> Iterator[None]:
    """Nothing on the terminal."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def command(words: list[str], folder: str) -> float:
    """Wall time of a command in a new process, in seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, check=True)
    return time.perf_counter() - started


def measure(setting: Setting) -> dict[str, list[float]]:
    """Seconds of each way, one for each turn."""
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(-1, TURNS):
            print(f"\rturn {turn + 1} of {TURNS}", end="", file=sys.stderr, flush=True)
            training, run = fit(setting)
            taken = {
                "plain": plain(setting, setting.network_of_torch()),
                "plain_onednn": plain(setting, setting.network()),
                "lightning": first_lightning(setting),
                "fit": training,
                "fit_with_validation": run,
                "fit_bf16": fit(setting, "--trainer.precision", "bf16-mixed")[0],
                "fit_distorted": fit(setting, "--data.distort", "true")[0],
                "floor": floor(setting),
            }
            if turn < 0:  # the first one warms up
                continue
            taken["notebook"] = notebook(setting)
            taken["fit_command"] = command(["-m", "mnist_mlp", *fit_words(setting)], folder)
            taken["imports"] = command(["-c", IMPORTS], folder)
            for way, value in taken.items():
                seconds.setdefault(way, []).append(value)
    print(file=sys.stderr)
    return seconds


def ratio(seconds: dict[str, list[float]], way: str, other: str) -> dict[str, float]:
    """Of one way's seconds to another's within a turn: the median, the lowest and the highest."""
    ratios = [ours / theirs for ours, theirs in zip(seconds[way], seconds[other], strict=True)]
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def summary(seconds: dict[str, list[float]], device: str) -> dict[str, Any]:
    """Median seconds of each way and the median of its ratio to the floor, and the ratios that have a goal."""
    figures: dict[str, Any] = {way: {"seconds": statistics.median(values)} for way, values in seconds.items()}
    for way in WAYS:
        spread = ratio(seconds, way, "floor")
        figures[way] |= {"ratio_to_floor": spread.pop("median"), **spread}
    figures["ratios"] = {
        f"{way} / {other}": {**ratio(seconds, way, other), "goal": goal}
        for (way, other), goal in GOALS[device].items()
    }
    return figures


def main() -> None:
    """Measures, prints a table, and writes JSON if asked to."""
    parser = argparse.ArgumentParser("python -m mnist_mlp.benchmark", description=__doc__.split("\n\n")[0])
    parser.add_argument("--epochs", type=int, help=f"epochs of each way in a turn (default: {EPOCHS})")
    parser.add_argument("--device", default=DEVICES[0], choices=DEVICES, help="where to train (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=200, help="images per update (default: 200)")
    parser.add_argument(
        "--hidden", type=int, nargs="+", default=[500], help="units of each hidden layer (default: 500)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    words = parser.parse_args()
    words.epochs = EPOCHS[words.device] if words.epochs is None else words.epochs
    for name, value in (
        ("--epochs", words.epochs),
        ("--batch-size", words.batch_size),
        ("--hidden", min(words.hidden)),
    ):
        if value < 1:
            parser.error(f"{name} must be 1 or more")
    device = torch.device(words.device)
    setting = Setting(words.epochs, device, words.batch_size, tuple(words.hidden), *random_images())
    figures = summary(measure(setting), words.device)
    figures["versions"] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": lightning.__version__,
    }
    name = torch.cuda.get_device_name() if words.device == "cuda" else processor()
    figures["hardware"] = {"device": name, "threads": torch.get_num_threads()}
    figures["setting"] = {
        "epochs": words.epochs,
        "batch_size": words.batch_size,
        "hidden": words.hidden,
        "turns": TURNS,
    }
    print(table(figures))
    if words.json:
        words.json.write_text(json.dumps(figures, indent=2) + "\n")


def random_images() -> tuple[Tensor, Tensor]:
    """Images, (60000, 28, 28) uint8, and labels, (60000,) int64, of MNIST's form."""
    torch.manual_seed(0)
    return torch.randint(256, (IMAGES, 28, 28), dtype=torch.uint8), torch.randint(10, (IMAGES,))


def processor() -> str:
    """The CPU's name, as far as the system tells."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [f"{'way':<21}{'s/epoch':>9}{'to floor':>10}   lowest to highest"]
    for way in WAYS:
        values = figures[way]
        spread = f"{values['lowest']:.2f} to {values['highest']:.2f}"
        lines.append(f"{way:<21}{values['seconds']:>9.3g}{values['ratio_to_floor']:>10.2f}   {spread}")
    lines.append(f"{'ratio':<30}{'median':>10}   lowest to highest   goal")
    for name, values in figures["ratios"].items():
        spread = f"{values['lowest']:.2f} to {values['highest']:.2f}"
        lines.append(f"{name:<30}{values['median']:>10.2f}   {spread:<19} {values['goal']}")
    whole, imports = (figures[name]["seconds"] for name in ("fit_command", "imports"))
    rest = whole - imports - figures["setting"]["epochs"] * figures["fit"]["seconds"]
    lines.append(f"the whole fit command takes {whole:.1f} s, python -c '{IMPORTS}' {imports:.1f} s")
    lines.append(f"besides that and its training: {rest:.1f} s, goal at most 3")
    parts = {**figures["hardware"], **figures["setting"], **figures["versions"]}
    return "\n".join([*lines, ", ".join(f"{name} {value}" for name, value in parts.items())])


if __name__ == "__main__":
    from mnist_mlp import benchmark  # the module that `fit` imports TrainingTime from, not a second one

    benchmark.main()
