"""A stand-in for a CUDA graph on a machine without a GPU, which sees what a real one would not forgive.

Capturing records every operation of torch with its tensors, and undoes what the operations wrote. Replaying repeats
them on the same memory, so a value that was baked in, or a tensor that was replaced, shows. Reading a value on the
host is an error.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


def memory(tensor: Tensor) -> int:
    """The address of a tensor's memory."""
    return tensor.untyped_storage().data_ptr()


def tensors(*trees: Any) -> list[Tensor]:
    """All tensors in nested arguments or results."""
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, Tensor)]


class Recording(TorchDispatchMode):
    """Records operations, and the former content of memory that they write to."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.former: dict[int, tuple[Any, Any]] = {}
        self.made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a value is read on the host")
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        for argument in func._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tensors(given.get(argument.name)):
                    if memory(tensor) not in self.made and memory(tensor) not in self.former:
                        storage = tensor.untyped_storage()
                        self.former[memory(tensor)] = storage, storage.clone()
        result = func(*args, **kwargs)
        known = {memory(tensor) for tensor in tensors(args, kwargs)}
        self.made |= {memory(tensor) for tensor in tensors(result)} - known
        fresh = [tensor if memory(tensor) not in known else None for tensor in tensors(result)]
        self.operations.append((func, args, kwargs, fresh))
        return result


class RecordingGraph:
    """In place of torch.cuda.CUDAGraph."""

    replays = 0  # of all graphs

    def replay(self) -> None:
        RecordingGraph.replays += 1
        with torch.no_grad():
            for func, args, kwargs, fresh in self.operations:
                for old, new in zip(fresh, tensors(func(*args, **kwargs)), strict=True):
                    if old is not None:
                        old.copy_(new)


@contextmanager
def capture(graph: RecordingGraph, **_: Any) -> Iterator[None]:
    """In place of torch.cuda.graph."""
    with Recording() as recording:
        yield
    for storage, content in recording.former.values():
        storage.copy_(content)

    def detached(value: Any) -> Any:
        return value.detach() if isinstance(value, Tensor) else value

    graph.operations = [
        (func, tree_map(detached, args), kwargs, [detached(each) for each in fresh])
        for func, args, kwargs, fresh in recording.operations
    ]


def use_recording_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let FastClassifier capture full batches on the CPU, whatever the optimizer."""
    stream = SimpleNamespace(device="cpu", wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordingGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: None)
    monkeypatch.setattr(
        "mnist_mlp.runtime.fast_training.capturable",
        lambda block, _: len(block.indices[0]) == block.batches.whole_batch_size,
    )
    monkeypatch.setattr(RecordingGraph, "replays", 0)
