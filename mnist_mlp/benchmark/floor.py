"""The time that no way can beat."""

from collections.abc import Callable

import torch

from mnist_mlp.benchmark.setting import LOSS, LR, Setting, clock
from mnist_mlp.gradient import descend, loss_and_gradient


def floor(setting: Setting) -> float:
    """Seconds of an epoch that no way can beat: its matrix products, or on CUDA its updates in one captured graph."""
    step = (captured_update if setting.device.type == "cuda" else products)(setting)
    started = clock(setting.device)
    for _ in range(setting.epochs * setting.updates):
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
