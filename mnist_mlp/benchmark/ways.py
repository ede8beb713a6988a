"""The ways to train that take turns in this process.

`notebook` is the notebook's cell with torchvision's transforms image by image, `plain` its `sgd` over tensors in
memory, `plain_onednn` the same with oneDNN's products, `lightning` the plain `MLPClassifier`, and `fit` the command
with everything on; `fit_with_validation` adds validation and pictures, `fit_distorted` deforms the images, and
`fit_bf16` is in bfloat16.
"""

from typing import Any

import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mnist_mlp.benchmark.floor import floor
from mnist_mlp.benchmark.setting import LOSS, LR, Setting, clock
from mnist_mlp.benchmark.training_time import TrainingTime, silently
from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.cli.main import main as command_line
from mnist_mlp.data import MEAN, STD
from mnist_mlp.gradient import descend, loss_and_gradient, sgd
from mnist_mlp.network import MLP
from mnist_mlp.runtime.processor import lacks_bfloat16


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


def plain_lightning(setting: Setting) -> float:
    """Seconds of an epoch of the plain classifier in a plain Trainer, with its bar, logger and checkpoints."""

    def work(folder: str) -> None:
        options: dict[str, Any] = {"accelerator": setting.device.type, "devices": 1, "enable_model_summary": False}
        trainer = Trainer(max_epochs=setting.epochs, default_root_dir=folder, callbacks=[TrainingTime()], **options)
        trainer.fit(MLPClassifier(setting.hidden, lr=LR), setting.batches)

    return setting.updates * silently(work).training


def fit_arguments(setting: Setting) -> list[str]:
    """`fit` with everything on, on the embedded digits."""
    hidden = str(list(setting.hidden)).replace(" ", "")
    words = f"fit --data.source digits --data.batch_size {setting.batch_size} --model.hidden {hidden}"
    return f"{words} --trainer.max_epochs {setting.epochs} --trainer.accelerator {setting.device.type}".split()


def fit(setting: Setting, *options: str) -> TrainingTime:
    """The times of the `fit` command, with more options."""
    callback = f"{TrainingTime.__module__}.{TrainingTime.__name__}"
    words = f"--trainer.callbacks {callback} --trainer.enable_progress_bar true --trainer.default_root_dir"
    return silently(lambda folder: command_line([*fit_arguments(setting), *words.split(), folder, *options]))


def slow_bfloat16(setting: Setting) -> bool:
    """Whether bfloat16 would be emulated, several times as slow as float32."""
    return setting.device.type == "cpu" and lacks_bfloat16()


def ways(setting: Setting) -> dict[str, float]:
    """Seconds of an epoch of each way."""
    times = fit(setting)
    seconds = {
        "notebook": notebook(setting),
        "plain": plain(setting, setting.network()),
        "plain_onednn": plain(setting, setting.network(onednn=True)),
        "lightning": plain_lightning(setting),
        "fit": setting.updates * times.training,
        "fit_with_validation": setting.updates * times.run,
        "fit_distorted": setting.updates * fit(setting, "--data.distort", "true").training,
        "floor": floor(setting),
    }
    if not slow_bfloat16(setting):
        seconds["fit_bf16"] = setting.updates * fit(setting, "--trainer.precision", "bf16-mixed").training
    return seconds
