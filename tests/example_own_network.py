"""Your own data, network and update rule: three spirals, and Polyak's heavy ball written out. Copy it to begin."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from mnist_mlp import Classifier


def spirals(points: int, seed: int) -> TensorDataset:
    """Points of three arms: x, (points, 2) float32, and the arm of each, (points,) int64."""
    generator = torch.Generator().manual_seed(seed)
    arm, radius = torch.arange(points) % 3, torch.rand(points, generator=generator)
    angle = 4 * radius + 2.1 * arm + 0.2 * torch.randn(points, generator=generator)
    return TensorDataset(torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1), arm)


class HeavyBall(Optimizer):
    """v ← μ v − γ g, u ← u + v (Polyak 1964)."""

    def __init__(self, params: Iterable[Any], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        result = closure() if closure else None  # in it are Lightning's hooks
        for group in self.param_groups:
            for u in group["params"]:
                v = self.state[u].setdefault("velocity", torch.zeros_like(u))
                v.mul_(group["momentum"]).add_(u.grad, alpha=-group["lr"])
                u.add_(v)
        return result


class SpiralClassifier(Classifier):
    """The explicit gradient of `Classifier`, and the heavy ball in place of plain gradient descent."""

    def configure_optimizers(self) -> Optimizer:
        return HeavyBall(self.net.parameters(), self.hparams.lr, momentum=0.9)


def main() -> Tensor:
    """Train, and return the accuracy on other points, () float."""
    net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 3))
    trainer = Trainer(max_epochs=30, accelerator="cpu", logger=False, enable_checkpointing=False)
    train, test = DataLoader(spirals(1200, seed=0), 50, shuffle=True), DataLoader(spirals(600, seed=1), 600)
    trainer.fit(SpiralClassifier(net, loss="cross_entropy", lr=0.1), train)
    trainer.test(trainer.lightning_module, test)
    return trainer.callback_metrics["test/accuracy"]


if __name__ == "__main__":
    main()
