"""The notebook, section by section: what it says, asserted. Read both side by side."""

import math
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Run
from torch import Tensor, nn
from torch.nn.functional import softplus

from mnist_mlp import LOSSES, MLP, MNISTDataModule, loss_and_gradient
from mnist_mlp.batches import Batches
from mnist_mlp.gradient import sgd

CONFIGS = ROOT / "configs"


# Tensors ---------------------------------------------------------------------------------------------------


def test_tensors_are_made_empty_random_zero_one_and_from_lists() -> None:
    assert torch.empty(5, 3).shape == (5, 3)
    x = torch.rand(5, 3)
    assert (x >= 0).all()
    assert (x < 1).all()
    assert torch.equal(torch.zeros(5, 3) + 1, torch.ones(5, 3))
    assert torch.tensor([5.5, 3]).tolist() == [5.5, 3.0]
    like = torch.randn_like(x, dtype=torch.float)
    assert (like.shape, like.dtype) == (x.shape, torch.float32)


def test_operations() -> None:
    x, y = torch.rand(5, 3), torch.rand(5, 3)
    assert torch.equal((x + y)[4, 2], x[4, 2] + y[4, 2])
    assert torch.equal((x * y)[4, 2], x[4, 2] * y[4, 2])
    a, b = torch.rand(3), torch.rand(3)
    torch.testing.assert_close(a.dot(b), (a * b).sum())
    torch.testing.assert_close(x.mv(a), torch.stack([row.dot(a) for row in x]))
    torch.testing.assert_close(torch.norm(a), torch.sum(a * a).sqrt())


def test_indexing_views_and_items() -> None:
    x = torch.randn(4, 4)
    assert torch.equal(x[:, 1], torch.stack([row[1] for row in x]))
    y, z = x.view(16), x.view(-1, 8)
    assert (y.shape, z.shape) == ((16,), (2, 8))
    y[0] = 7.0  # a view shares its memory
    assert x[0, 0] == z[0, 0] == 7.0
    one = torch.randn(1)
    assert isinstance(one.item(), float)


def test_operations_in_place() -> None:
    x, y = torch.rand(5, 3), torch.rand(5, 3)
    total = x + y
    assert y.add_(x) is y
    assert torch.equal(y, total)
    x.copy_(total)
    assert torch.equal(x, total)
    assert x.t_().shape == (3, 5)


# CUDA tensors ----------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_cuda_tensors() -> None:
    x = torch.rand(5, 3)
    y = torch.ones_like(x, device=torch.device("cuda"))
    z = x.to("cuda") + y
    assert z.is_cuda
    torch.testing.assert_close(z.to("cpu", torch.double), x.double() + 1)


# Automatic differentiation ---------------------------------------------------------------------------------


class Function(nn.Module):
    """A function of weights, so that its gradient is taken as that of a network is."""

    def __init__(self, function: Callable[..., Tensor], *weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.weights)


def gradient_of(function: Callable[..., Tensor], x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """Gradient of the sum of `function(x, *weights)` in the weights."""
    _, gradient = loss_and_gradient(Function(function, *weights), lambda output, _: output.sum(), x, x)
    return gradient


def test_logistic_loss_in_one_variable() -> None:
    w = torch.rand(1)
    (derivative,) = gradient_of(lambda x, w: torch.log(1 + torch.exp(-x * w)), torch.tensor([3.5]), w)
    torch.testing.assert_close(derivative, -3.5 / (1 + torch.exp(3.5 * w)))


def test_logistic_loss_in_twenty_variables() -> None:
    x, w = torch.rand(100, 20), torch.rand(20)
    (gradient,) = gradient_of(lambda x, w: torch.log(1 + torch.exp(-x.mv(w))), x, w)
    assert gradient.shape == (20,)
    torch.testing.assert_close(gradient, -x.T.mv(1 / (1 + torch.exp(x.mv(w)))))


def test_two_weights_of_a_tanh_network() -> None:
    w1, w2 = torch.rand(1), torch.rand(1)
    x = torch.tensor([3.5])
    d1, d2 = gradient_of(lambda x, w1, w2: (1 - w2 * torch.tanh(x * w1)) ** 2, x, w1, w2)
    t = torch.tanh(3.5 * w1)
    torch.testing.assert_close(d1, -2 * (1 - w2 * t) * w2 * (1 - t**2) * 3.5)
    torch.testing.assert_close(d2, -2 * (1 - w2 * t) * t)


def test_grad_returns_what_backward_leaves_in_the_variable() -> None:
    x, w = torch.rand(100, 20), torch.rand(20, requires_grad=True)
    torch.log(1 + torch.exp(-x.mv(w))).sum().backward()
    (gradient,) = torch.autograd.grad(torch.log(1 + torch.exp(-x.mv(w))).sum(), w)
    torch.testing.assert_close(gradient, w.grad)


# A simple network ------------------------------------------------------------------------------------------


def test_network_is_an_affine_map_softplus_and_an_affine_map() -> None:
    net = MLP()
    assert [name for name, _ in net.named_parameters()] == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    x = torch.randn(2, 28, 28)
    expected = net.fc2(softplus(net.fc1(x.view(-1, 784)), beta=25, threshold=1))
    torch.testing.assert_close(net(x), expected)
    assert net(x).shape == (2, 10)


# Data generation -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings(request: pytest.FixtureRequest) -> dict[str, object]:
    """Where the notebook's data is: real MNIST, or its stand-in where that is not at hand."""
    try:
        return {"source": "mnist", "data_dir": request.getfixturevalue("mnist_dir")}
    except pytest.skip.Exception:
        return {"source": "digits"}


def notebooks_data(**settings: object) -> MNISTDataModule:
    """All 60,000 training images in batches of 200."""
    data = MNISTDataModule(val_size=0, **settings)
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def data(settings: dict[str, object]) -> MNISTDataModule:
    """The images that are at hand."""
    return notebooks_data(**settings)


@pytest.fixture(scope="module")
def mnist(mnist_dir: Path) -> MNISTDataModule:
    """MNIST itself, for what the notebook says of no other images."""
    return notebooks_data(data_dir=mnist_dir, source="mnist")


def test_images_are_normalised_and_labels_one_hot(data: MNISTDataModule) -> None:
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (200, 1, 28, 28)
    assert x.min() == pytest.approx(-0.1307 / 0.3081)
    assert y.shape == (200, 10)
    assert torch.equal(y.sum(dim=1), torch.ones(200))
    assert torch.equal(y, torch.eye(10)[y.argmax(dim=1)])


# The stochastic gradient -----------------------------------------------------------------------------------


def test_mean_of_the_minibatch_gradients_is_the_full_gradient(data: MNISTDataModule) -> None:
    """E(∇̃f(u)) = ∇f(u): drawing the batches at random estimates the gradient without bias."""
    net, loss_fn = MLP((20,)), LOSSES["mse"]
    x, y = (tensor[:6000] for tensor in data.train_set)
    _, full = loss_and_gradient(net, loss_fn, x, y)
    parts = [loss_and_gradient(net, loss_fn, *part)[1] for part in zip(x.split(200), y.split(200), strict=True)]
    for i, derivative in enumerate(full):
        torch.testing.assert_close(torch.stack([part[i] for part in parts]).mean(dim=0), derivative)


# Stochastic gradient descent -------------------------------------------------------------------------------


def notebook_sgd(net: nn.Module, batches: Batches, lr: float, epochs: int, dtype: torch.dtype) -> list[str]:
    """The notebook's algorithm in the plainest form, to compare with; gives the lines of its table but the times."""
    lines = []
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        losses = []
        for i, (x, y) in enumerate(batches):
            loss = nn.functional.mse_loss(net(x.to(dtype)), y.to(dtype))
            gradient = torch.autograd.grad(loss, list(net.parameters()))
            losses.append(loss.item())
            with torch.no_grad():
                for variable, derivative in zip(net.parameters(), gradient, strict=True):
                    variable.copy_(variable - lr * derivative)
            if (i + 1) % 100 == 0:
                lines.append(f"{epoch + i / len(batches):.2f}\t{sum(losses) / len(losses):.4f}")
    return lines


def compare_fit_with_the_notebook(
    data: MNISTDataModule, run: Run, precision: str, dtype: torch.dtype, tolerance: float
) -> None:
    """600 updates: the same parameters but for rounding, and the same table but for the times."""
    torch.manual_seed(0)
    net = MLP().to(dtype)
    table = notebook_sgd(net, data.train_dataloader(), lr=0.1, epochs=2, dtype=dtype)

    place = ("--data.data_dir", data.hparams.data_dir, "--data.source", data.hparams.source)
    output, _ = run("fit", "--config", CONFIGS / "notebook.yaml", *place, "--trainer.precision", precision)

    header, *lines = [line for line in output.splitlines() if "\t" in line]
    assert header == "Epoch\tAvg loss\tTime"
    assert [line.rsplit("\t\t", 1)[0] for line in lines] == table
    assert all(re.fullmatch(r"\d\.\d\d\t\d\.\d{4}\t\t\d+\.\d\d", line) for line in lines)

    checkpoint = torch.load("lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 600
    for name, parameter in net.named_parameters():
        ours = checkpoint["state_dict"][f"net.{name}"]
        assert ours.dtype == dtype
        assert (ours - parameter).norm() <= tolerance * parameter.norm()


def test_fit_is_the_notebooks_loop(mnist: MNISTDataModule, run: Run) -> None:
    compare_fit_with_the_notebook(mnist, run, "32-true", torch.float32, tolerance=1e-5)


def test_fit_is_the_notebooks_loop_in_double_precision(data: MNISTDataModule, run: Run) -> None:
    """On any images: here the jump of the soft-plus does not magnify what rounding leaves."""
    compare_fit_with_the_notebook(data, run, "64-true", torch.float64, tolerance=1e-9)


def test_notebooks_run_classifies_93_to_94_percent(mnist_dir: Path, run: Run) -> None:
    source = ("--data.data_dir", mnist_dir, "--data.source", "mnist")
    run("fit", "--config", CONFIGS / "notebook.yaml", *source)
    output, _ = run("test", *source)
    accuracy = float(re.search(r"test/accuracy\D+([\d.]+)", output)[1])
    assert 0.93 < accuracy < 0.94


# Solution 1 ------------------------------------------------------------------------------------------------


def losses_of(data: MNISTDataModule, lr: float, updates: int, loss: str = "mse") -> list[float]:
    """The losses of the first updates at a constant step size."""
    torch.manual_seed(0)
    return [value.item() for value in sgd(MLP(), LOSSES[loss], islice(data.train_dataloader(), updates), lr)]


def test_step_sizes_of_a_tenth_and_one_descend_fast_and_ten_gives_nan(mnist: MNISTDataModule) -> None:
    final = {lr: losses_of(mnist, lr, updates=100)[-1] for lr in (0.01, 0.1, 1.0)}
    assert final[1.0] < final[0.1] < final[0.01] < losses_of(mnist, 0.01, updates=1)[0]
    assert final[0.01] > 1.5 * final[0.1]  # much more conservative
    assert math.isnan(losses_of(mnist, 10.0, updates=50)[-1])


def test_cross_entropy_settles_at_guessing_with_too_large_a_step_size(mnist: MNISTDataModule) -> None:
    """Single batches scatter about ln 10, some of them below it, so that only their average tells.

    It can come down to the entropy of the labels, 0.999 ln 10, which takes nothing but how frequent each digit is.
    """
    final = {lr: losses_of(mnist, lr, updates=100, loss="cross_entropy")[90:] for lr in (1.0, 10.0)}
    assert sum(final[1.0]) / 10 < 0.99 * math.log(10) < sum(final[10.0]) / 10
    assert all(map(math.isfinite, final[10.0]))
