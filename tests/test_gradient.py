"""Losses and the explicit gradient: formulas, finite differences, partitions, processes."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn

from mnist_mlp import LOSSES, MLP, loss_and_gradient
from mnist_mlp.gradient import GradientDescent, descend, sgd
from mnist_mlp.processes import average_over_processes


def batch(size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Random images, (size, 12), and one-hot labels, (size, 3)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 12, generator=generator, dtype=dtype)
    y = torch.eye(3, dtype=dtype)[torch.randint(3, (size,), generator=generator)]
    return x, y


def small_net() -> MLP:
    """A network of double precision with two hidden layers."""
    torch.manual_seed(1)
    return MLP((8, 7), in_features=12, num_classes=3).double()


def test_losses_are_the_notebooks_formulas() -> None:
    output = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 1.0]])
    target = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    distances = torch.tensor([1.0 + 1.0, 1.0])  # squared, of the two images
    torch.testing.assert_close(LOSSES["mse"](output, target), distances.sum() / 6)
    torch.testing.assert_close(LOSSES["squared"](output, target), (distances / 2).mean())
    likelihood = output.exp()[[0, 1], [1, 2]] / output.exp().sum(dim=1)
    torch.testing.assert_close(LOSSES["cross_entropy"](output, target), -likelihood.log().mean())


def test_squared_is_five_times_mse_for_ten_classes() -> None:
    output, target = torch.randn(4, 10), torch.eye(10)[:4]
    torch.testing.assert_close(LOSSES["squared"](output, target), 5 * LOSSES["mse"](output, target))


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_equals_finite_differences(name: str) -> None:
    net, (x, y) = small_net(), batch(6)
    _, gradient = loss_and_gradient(net, LOSSES[name], x, y)
    step = 1e-6
    for parameter, derivative in zip(net.parameters(), gradient, strict=True):
        direction = torch.randn(parameter.shape, dtype=parameter.dtype, generator=torch.Generator().manual_seed(2))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * step)
                values.append(LOSSES[name](net(x), y))
                parameter.sub_(direction, alpha=sign * step)
        slope = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close((derivative * direction).sum(), slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_mean_of_minibatch_gradients_is_the_full_gradient(name: str) -> None:
    net, (x, y) = small_net(), batch(24)
    loss, full = loss_and_gradient(net, LOSSES[name], x, y)
    parts = [loss_and_gradient(net, LOSSES[name], *part) for part in zip(x.split(6), y.split(6), strict=True)]
    torch.testing.assert_close(torch.stack([part[0] for part in parts]).mean(), loss)
    for i, derivative in enumerate(full):
        torch.testing.assert_close(torch.stack([part[1][i] for part in parts]).mean(dim=0), derivative)


def test_gradient_is_returned_and_nothing_is_left_behind() -> None:
    net, (x, y) = small_net(), batch(6)
    loss, gradient = loss_and_gradient(net, LOSSES["mse"], x, y)
    assert not loss.requires_grad
    assert [g.shape for g in gradient] == [p.shape for p in net.parameters()]
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_parameter_without_part_in_the_loss_is_an_error() -> None:
    net = nn.Sequential(small_net())
    net.unused = nn.Parameter(torch.ones(1))
    net.forward = net[0].forward
    with pytest.raises(RuntimeError, match="not have been used"):
        loss_and_gradient(net, LOSSES["mse"], *batch(6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_update_is_u_minus_gamma_g(dtype: torch.dtype) -> None:
    u, g = torch.randn(50, 7, dtype=dtype), torch.randn(50, 7, dtype=dtype)
    for gamma in (0.1, torch.tensor(0.1, dtype=dtype)):  # of an eager update, and of a captured one
        updated = u.clone()
        descend([updated], [g], gamma)
        torch.testing.assert_close(updated, u - 0.1 * g)


def test_eager_and_captured_updates_round_alike() -> None:
    u, g = torch.randn(500, 784), torch.randn(500, 784)
    eager, captured = u.clone(), u.clone()
    descend([eager], [g], 0.1)
    descend([captured], [g], torch.tensor(0.1))
    assert torch.equal(eager, captured)


def test_the_optimizer_is_the_update() -> None:
    net, (x, y) = small_net(), batch(6)
    expected = [parameter.detach().clone() for parameter in net.parameters()]
    _, gradient = loss_and_gradient(net, LOSSES["mse"], x, y)
    descend(expected, gradient, 0.3)
    frozen, *others = net.parameters()
    optimizer = GradientDescent(net.parameters(), lr=0.3)
    for parameter, derivative in zip(others, gradient[1:], strict=True):
        parameter.grad = derivative
    assert optimizer.step(lambda: "closure") == "closure"
    assert all(torch.equal(*pair) for pair in zip(others, expected[1:], strict=True))
    assert torch.equal(frozen, small_net().fc1.weight)  # it had no gradient


def test_the_loop_is_one_update_per_batch() -> None:
    net, other, batches = small_net(), small_net(), [batch(6, seed) for seed in range(3)]
    losses = torch.stack(list(sgd(net, LOSSES["mse"], batches, lr=0.3)))
    for k, (x, y) in enumerate(batches):
        loss, gradient = loss_and_gradient(other, LOSSES["mse"], x, y)
        descend(other.parameters(), gradient, 0.3)
        assert losses[k] == loss
    assert all(torch.equal(*pair) for pair in zip(net.parameters(), other.parameters(), strict=True))


def test_one_process_keeps_what_it_has() -> None:
    loss, gradient = torch.tensor(2.0), (torch.ones(3),)
    assert average_over_processes(loss, gradient, batch_size=5) == (loss, gradient)


def average_of_shares(rank: int, address: str) -> None:
    """One of two processes: its average must be the gradient of the whole batch, however that is shared."""
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    for sizes in ([6, 6], [7, 4], [5, 0]):
        compare_average(rank, sizes)
    torch.distributed.destroy_process_group()


def compare_average(rank: int, sizes: list[int]) -> None:
    """Of shares of these sizes."""
    net, (x, y) = small_net(), batch(sum(sizes))
    whole = loss_and_gradient(net, LOSSES["squared"], x, y)
    mine = [tensor.split(sizes)[rank] for tensor in (x, y)]
    loss, gradient = average_over_processes(*loss_and_gradient(net, LOSSES["squared"], *mine), batch_size=sizes[rank])
    torch.testing.assert_close(loss, whole[0])
    torch.testing.assert_close(gradient, whole[1])
    copies = [torch.empty_like(gradient[0]) for _ in sizes]
    torch.distributed.all_gather(copies, gradient[0].contiguous())
    assert all(torch.equal(copy, copies[0]) for copy in copies)


def test_processes_average_to_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(average_of_shares, args=(f"file://{tmp_path}/store",), nprocs=2)
