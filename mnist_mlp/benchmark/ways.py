"""How fast `fit` is: beside the notebook's loop, a plain loop, plain Lightning, and the floor.

    python -m mnist_mlp.benchmark --help

Every way trains the same network on random images of MNIST's number and form. The ways take turns in one process; a
figure is the median over the turns, a ratio the median of the ratios within a turn. `notebook` is the notebook's cell
with torchvision's transforms image by image, `plain` its `sgd` over tensors in memory, `plain_onednn` the same with
oneDNN's products, `lightning` the plain `MLPClassifier`, `fit` the command with everything on, and `floor` the matrix
products alone (on CUDA the updates in one captured graph). `fit_command` is the training of `fit` in a process of its
own, validation and pictures included, and `fit_beside_busy` the same beside a process that keeps a core busy.
"""

import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mnist_mlp.batches import Batches
from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.cli.main import main as command_line
from mnist_mlp.data import CLASSES, MEAN, STD, normalised
from mnist_mlp.gradient import LOSSES, descend, loss_and_gradient, one_hot, sgd
from mnist_mlp.network import MLP
from mnist_mlp.runtime.blocks import BlockCallback
from mnist_mlp.runtime.onednn import use_onednn
from mnist_mlp.runtime.processor import lacks_bfloat16

IMAGES = 60_000
TURNS = 5
DEVICE: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
EPOCHS = {"cpu": 2, "cuda": 10}  # in a turn; on a GPU the first one captures an update
IMPORTS = "import lightning.pytorch.cli, torchvision"
LR, LOSS = 0.1, LOSSES["mse"]
RATIOS = (
    ("notebook", "fit"),
    ("lightning", "fit"),
    ("fit", "plain"),
    ("fit", "floor"),
    ("fit_distorted", "fit"),
    ("fit_beside_busy", "fit_command"),
)
GROWTH: dict[str, list[dict[str, Any]]] = {  # sizes of --growth, one at a time from the notebook's
    "batch size": [{"batch_size": size} for size in (20, 50, 100, 200, 500, 1000, 2000)],
    "units": [{"hidden": (units,)} for units in (100, 200, 500, 1000, 2000, 4000)],
    "layers of 500 units": [{"hidden": depth * (500,)} for depth in (1, 2, 3, 4, 5)],
}


@dataclass
class Setting:
    """The arguments that all ways share: epochs of a turn, device, images per update, units of each hidden layer."""

    epochs: int
    device: torch.device
    batch_size: int
    hidden: tuple[int, ...]

    def network(self, onednn: bool = False) -> MLP:
        """A new network on the device."""
        net = MLP(self.hidden).to(self.device)
        if onednn:
            use_onednn(net)
        return net

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """Random images, (60000, 28, 28) uint8, and labels, (60000,) int64, on the CPU."""
        torch.manual_seed(0)
        return torch.randint(256, (IMAGES, 28, 28), dtype=torch.uint8), torch.randint(10, (IMAGES,))

    @cached_property
    def batches(self) -> Batches:
        """The same as `fit` has them, on the device."""
        images, labels = self.data
        x, y = normalised(images.to(self.device)), one_hot(labels.to(self.device), CLASSES)
        return Batches(x, y, self.batch_size, seed=0)


def clock(device: torch.device) -> float:
    """Seconds, after all work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Digits(Dataset):
    """As torchvision's MNIST: one image of Pillow's and one label at a time, each transformed on access."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = Image.fromarray(self.images[index].numpy(), mode="L")
        return self.transform(image), torch.eye(10)[int(self.labels[index])].view(-1)


def notebook(setting: Setting) -> float:
    """Seconds of an epoch of the notebook's cell, its batches moved to the device."""
    loader = DataLoader(Digits(*setting.data), batch_size=setting.batch_size, shuffle=True, num_workers=1)
    net, losses = setting.network(), []
    started = clock(setting.device)
    for images, labels in loader:
        batch = images.to(setting.device), labels.to(setting.device)
        loss, gradient = loss_and_gradient(net, LOSS, *batch)
        losses.append(loss.item())
        descend(net.parameters(), gradient, LR)
    return clock(setting.device) - started


def plain(setting: Setting, net: MLP) -> float:
    """Seconds of an epoch of the notebook's `sgd` over tensors in memory, without logging."""
    started = clock(setting.device)
    for epoch in range(setting.epochs):
        setting.batches.set_epoch(epoch)
        for _ in sgd(net, LOSS, setting.batches, LR):
            pass
    return (clock(setting.device) - started) / setting.epochs


class TrainingTime(BlockCallback):
    """Measures the seconds of an epoch of IMAGES: `training` without validation, as a median, and `run` with all."""

    newest: "TrainingTime"

    def __init__(self) -> None:
        self.epochs: list[float] = []
        TrainingTime.newest = self

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began = clock(pl_module.device)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = clock(pl_module.device)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.is_last_batch:
            self.epochs.append(clock(pl_module.device) - self.started)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader: Any = trainer.train_dataloader
        share = math.ceil(IMAGES / loader.sampler.whole_batch_size) / trainer.num_training_batches
        self.training = share * statistics.median(self.epochs)
        self.run = share * (clock(pl_module.device) - self.began) / len(self.epochs)


def silently(work: Callable[[str], None]) -> TrainingTime:
    """Train without output in an empty folder. Returns the times."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        work(folder)
    return TrainingTime.newest


def plain_lightning(setting: Setting) -> float:
    """Seconds of an epoch of the plain classifier in a plain Trainer, with its bar, logger and checkpoints."""

    def work(folder: str) -> None:
        options: dict[str, Any] = {"accelerator": setting.device.type, "devices": 1, "enable_model_summary": False}
        trainer = Trainer(max_epochs=setting.epochs, default_root_dir=folder, callbacks=[TrainingTime()], **options)
        trainer.fit(MLPClassifier(setting.hidden, lr=LR), setting.batches)

    return silently(work).training


def fit_arguments(setting: Setting) -> list[str]:
    """`fit` with everything on, on the embedded digits."""
    hidden = str(list(setting.hidden)).replace(" ", "")
    words = f"fit --data.source digits --data.batch_size {setting.batch_size} --model.hidden {hidden}"
    return f"{words} --trainer.max_epochs {setting.epochs} --trainer.accelerator {setting.device.type}".split()


def fit(setting: Setting, *options: str) -> TrainingTime:
    """The times of `fit`."""
    own = [
        "--trainer.callbacks",
        "mnist_mlp.benchmark.ways.TrainingTime",
        "--trainer.enable_progress_bar",
        "true",
        *options,
    ]
    return silently(lambda folder: command_line([*fit_arguments(setting), "--trainer.default_root_dir", folder, *own]))


def floor(setting: Setting) -> float:
    """Seconds of an epoch that no way can beat: its matrix products, or on CUDA its updates in one captured graph."""
    step = (captured_update if setting.device.type == "cuda" else products)(setting)
    started = clock(setting.device)
    for _ in range(setting.epochs * len(setting.batches)):
        step()
    return (clock(setting.device) - started) / setting.epochs


def products(setting: Setting) -> Callable[[], None]:
    """The matrix products of an update, into memory that is there already."""
    x, _ = next(iter(setting.batches))
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


def captured_update(setting: Setting) -> Callable[[], None]:
    """One update from a batch that stays where it is, captured in a CUDA graph."""
    net, batch, lr = setting.network(), next(iter(setting.batches)), torch.tensor(LR, device=setting.device)

    def update() -> None:
        _, gradient = loss_and_gradient(net, LOSS, *batch)
        descend(net.parameters(), gradient, lr)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # work that is done only once must not be captured
        for _ in range(3):
            update()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update()

    def replay(memory: object = (net, batch, lr)) -> None:  # which the graph reads
        graph.replay()

    return replay


def command(*words: str) -> tuple[float, str]:
    """Seconds of a command of Python's in a new process and an empty folder, and its output."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        result = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, check=True, text=True)
        return time.perf_counter() - started, result.stdout


def training_seconds(output: str) -> float:
    """Seconds of training, of all epochs, that `fit` prints at its end."""
    found = re.search(r"updates in ([\d.]+) s", output)
    assert found, output
    return float(found[1])


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(setting: Setting) -> dict[str, list[float]]:
    """Seconds of each way, one for each turn; the two commands at the end are whole processes."""
    seconds: dict[str, list[float]] = defaultdict(list)
    fit(setting)  # warms up
    slow_bfloat16 = setting.device.type == "cpu" and lacks_bfloat16()
    if slow_bfloat16:
        print("no fit_bf16: this processor has no bfloat16, and emulating it takes several times as long")
    for turn in range(1, TURNS + 1):
        print(f"\rturn {turn} of {TURNS}", end="", file=sys.stderr, flush=True)
        times = fit(setting)
        whole, output = command("-m", "mnist_mlp", *fit_arguments(setting))
        with busy_process():
            _, busy_output = command("-m", "mnist_mlp", *fit_arguments(setting))
        taken = {
            "notebook": notebook(setting),
            "plain": plain(setting, setting.network()),
            "plain_onednn": plain(setting, setting.network(onednn=True)),
            "lightning": plain_lightning(setting),
            "fit": times.training,
            "fit_with_validation": times.run,
            "fit_distorted": fit(setting, "--data.distort", "true").training,
            "floor": floor(setting),
            "fit_command": training_seconds(output) / setting.epochs,
            "fit_beside_busy": training_seconds(busy_output) / setting.epochs,
            "fit command": whole,
            "imports": command("-c", IMPORTS)[0],
        }
        if not slow_bfloat16:
            taken["fit_bf16"] = fit(setting, "--trainer.precision", "bf16-mixed").training
        for way, value in taken.items():
            seconds[way].append(value)
    print(file=sys.stderr)
    return seconds


def measure_growth(usual: Setting) -> None:
    """Print the seconds of an epoch of `fit` and of the floor, and their ratio, as each size grows."""
    fit(usual)  # warms up
    for label, sizes in GROWTH.items():
        print(f"{label:<28}{'fit, s/epoch':>14}{'floor':>10}{'ratio':>8}", flush=True)
        for size in sizes:
            setting = replace(usual, **size)
            seconds: dict[str, list[float]] = {"fit": [], "floor": []}
            for _ in range(TURNS):
                seconds["fit"].append(fit(setting).training)
                seconds["floor"].append(floor(setting))
            ours, lowest = map(statistics.median, seconds.values())
            ratio, _ = spread(seconds, "fit", "floor")
            print(f"{next(iter(size.values()))!s:<28}{ours:>14.3g}{lowest:>10.3g}{ratio:>8.2f}", flush=True)


def spread(seconds: dict[str, list[float]], way: str, other: str) -> tuple[float, str]:
    """Ratio of one way's seconds to another's within a turn: the median, and the lowest and the highest."""
    ratios = [first / second for first, second in zip(seconds[way], seconds[other], strict=True)]
    return statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"


def show(seconds: dict[str, list[float]], setting: Setting) -> None:
    """Print seconds, ratios, the command's time besides imports and training, hardware and versions."""
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    print(f"{'way':<21}{'s/epoch':>9}{'to floor':>10}   lowest to highest")
    for way in [way for way in seconds if way not in ("fit command", "imports")]:
        ratio, bounds = spread(seconds, way, "floor")
        print(f"{way:<21}{medians[way]:>9.3g}{ratio:>10.2f}   {bounds}")
    print(f"{'ratio':<30}{'median':>10}   lowest to highest")
    for way, other in RATIOS:
        ratio, bounds = spread(seconds, way, other)
        print(f"{f'{way} / {other}':<30}{ratio:>10.2f}   {bounds}")
    rest = medians["fit command"] - medians["imports"] - setting.epochs * medians["fit"]
    print(f"the fit command takes {medians['fit command']:.1f} s, python -c '{IMPORTS}' {medians['imports']:.1f} s")
    print(f"besides that and its training: {rest:.1f} s")
    name = torch.cuda.get_device_name() if setting.device.type == "cuda" else processor()
    threads, capability = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    print(f"{name}, {threads} threads, {capability}; {setting.epochs} epochs, batches of {setting.batch_size},")
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, Lightning {lightning.__version__}"
    print(f"hidden layers {list(setting.hidden)}, {TURNS} turns; {versions}")


def processor() -> str:
    """The CPU's name, as far as the system tells."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def benchmark(
    epochs: PositiveInt | None = None,
    device: Literal["cpu", "cuda"] = DEVICE,
    batch_size: PositiveInt = 200,
    hidden: Sequence[PositiveInt] = (500,),
    growth: bool = False,
    json_file: Path | None = None,
) -> None:
    """Compare the speed of `fit` with that of a plain loop, plain Lightning, the notebook's cell, and the floor.

    Args:
        epochs: Epochs of each way in a turn; by default 2 on a CPU and 10 on a GPU.
        device: Where to train.
        batch_size: Images per update.
        hidden: Units of each hidden layer, as '[500]'.
        growth: Only time fit and the floor, as batch size, width and depth grow.
        json_file: File for each way's seconds, one per turn.
    """
    setting = Setting(epochs or EPOCHS[device], torch.device(device), batch_size, tuple(hidden))
    if growth:
        measure_growth(setting)
        return
    seconds = measure(setting)
    show(seconds, setting)
    if json_file:
        json_file.write_text(json.dumps(seconds, indent=2) + "\n")
