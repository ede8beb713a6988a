"""The network: the notebook's soft-plus, names and initial weights, at any depth."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnist_mlp import MLP
from mnist_mlp.runtime.onednn import Linear, use_onednn
from mnist_mlp.runtime.processor import lacks_bfloat16


def test_default_is_the_notebooks_network() -> None:
    net = MLP()
    shapes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    assert shapes == {"fc1.weight": (500, 784), "fc1.bias": (500,), "fc2.weight": (10, 500), "fc2.bias": (10,)}
    x = torch.randn(3, 1, 28, 28)
    hidden = F.softplus(x.view(3, 784) @ net.fc1.weight.T + net.fc1.bias, beta=25, threshold=1)
    torch.testing.assert_close(net(x), hidden @ net.fc2.weight.T + net.fc2.bias)


def test_a_seed_gives_the_weights_of_linear_layers_made_in_order() -> None:
    torch.manual_seed(3)
    net = MLP(hidden=(30, 20))
    torch.manual_seed(3)
    for layer in (net.fc1, net.fc2, net.fc3):
        same = nn.Linear(layer.in_features, layer.out_features)
        assert torch.equal(layer.weight, same.weight)
        assert torch.equal(layer.bias, same.bias)


def test_softplus_is_linear_above_four_hundredths_and_jumps_there() -> None:
    softplus = MLP().nonlin1
    z = torch.tensor([-1.0, 0.0, 0.0399999, 0.0400001, 2.0])
    expected = [0.0, torch.log(torch.tensor(2.0)) / 25, 0.0525, 0.04, 2.0]
    torch.testing.assert_close(softplus(z), torch.tensor(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(7, 784), (7, 28, 28), (7, 1, 28, 28)])
@pytest.mark.parametrize("hidden", [(), (5,), (6, 5, 4)])
def test_images_of_any_shape_and_any_depth(shape: tuple[int, ...], hidden: tuple[int, ...]) -> None:
    net = MLP(hidden)
    assert net(torch.randn(shape)).shape == (7, 10)
    assert sum(isinstance(layer, nn.Linear) for layer in net) == len(hidden) + 1
    assert sum(isinstance(layer, nn.Softplus) for layer in net) == len(hidden)


def test_relu_is_the_switch() -> None:
    assert isinstance(MLP(activation="relu").nonlin1, nn.ReLU)
    with pytest.raises(KeyError):
        MLP(activation="tanh")


def test_network_travels_to_other_processes() -> None:
    net = MLP((4,))
    x = torch.randn(2, 784)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))


@pytest.mark.parametrize("batch_size", [1, 200])  # by torch's product, and by oneDNN's
@pytest.mark.parametrize("of_input", [False, True])
def test_linear_is_torchs(of_input: bool, batch_size: int) -> None:
    torch.manual_seed(0)
    layer, x = Linear(784, 500), torch.randn(batch_size, 784, requires_grad=of_input)
    inputs = (*layer.parameters(), *([x] if of_input else []))
    error = torch.randn(batch_size, 500)
    output, expected = layer(x), F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(output, inputs, error), torch.autograd.grad(expected, inputs, error), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_linear_in_other_precisions(dtype: torch.dtype) -> None:
    layer, x = Linear(784, 500).to(dtype), torch.randn(200, 784, dtype=dtype)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_onednn_changes_how_a_network_computes_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnist_mlp.runtime.onednn.onednn_is_faster", lambda: True)
    net, x = MLP(), torch.randn(200, 784)
    expected, names = net(x), list(net.state_dict())
    use_onednn(net)
    assert {type(layer) for layer in net if isinstance(layer, nn.Linear)} == {Linear}
    assert list(net.state_dict()) == names
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("vendor", "family", "capability", "kind"),
    [
        ("AuthenticAMD", 26, "AVX512", Linear),
        ("AuthenticAMD", 25, "AVX512", nn.Linear),
        ("AuthenticAMD", 26, "AVX2", nn.Linear),  # as ATEN_CPU_CAPABILITY=avx2 has it
        ("GenuineIntel", 26, "AVX512", nn.Linear),
    ],
)
def test_onednn_is_used_where_it_is_known_to_be_faster(
    vendor: str, family: int, capability: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"vendor_id\t: {vendor}\ncpu family\t: {family}\n"
    monkeypatch.setattr("mnist_mlp.runtime.processor.description", lambda: text)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    net = MLP()
    use_onednn(net)
    assert type(net.fc1) is kind


def test_anomalies_can_be_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnist_mlp.runtime.onednn.onednn_is_faster", lambda: True)
    net, x = MLP(), torch.randn(200, 784)
    use_onednn(net)
    with torch.autograd.detect_anomaly(check_nan=True):
        torch.autograd.grad(net(x).sum(), list(net.parameters()))


@pytest.mark.parametrize(
    ("capability", "flags", "lacks"),
    [
        ("AVX512", "flags : avx512f avx512_bf16", False),
        ("AVX512", "flags : avx512f", True),
        ("AVX2", "flags : avx2 avx512_bf16", True),  # as ATEN_CPU_CAPABILITY=avx2 has it
        ("DEFAULT", "Features : asimd bf16", False),
        ("DEFAULT", "", False),  # nothing is known
    ],
)
def test_processors_without_bfloat16(
    capability: str, flags: str, lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr("mnist_mlp.runtime.processor.description", lambda: flags)
    assert lacks_bfloat16() == lacks
