"""A CPU's counterpart of a CUDA graph: torch's operations, recorded once and repeated on the same memory.

A repetition allocates next to nothing, builds no autograd graph, and computes the same bits. It knows what the
updates of our own network do, and no more: random operations, results whose size depends on values, and tensors made
from Python's numbers are not for it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mnist_mlp.runtime.internals import TorchDispatchMode, tree_leaves, tree_map

OUTPUTS = {"out", "grad_input"}  # names of the arguments that an operation only writes to


def memory(tensor: Tensor) -> int:
    """The address of a tensor's memory, which its views share."""
    return tensor.untyped_storage().data_ptr()


def tensors(*trees: Any) -> list[Tensor]:
    """All tensors in nested arguments or results."""
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, Tensor)]


def detached(tree: Any) -> Any:
    """Nested arguments or results whose tensors, in the same memory, have no part in a gradient."""
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)


def repetition(operation: Any, args: Any, kwargs: Any, result: Any) -> Callable[[], Any]:
    """The operation, which writes to none of its arguments, with its result in the same place as before."""
    places = tensors(result)
    if len(places) == 1 and places[0].dim():  # `mse_loss` would resize a single value twice
        for name in operation.overloadpacket.overloads():
            if name.endswith("out") or name in OUTPUTS:  # a variant that writes to given memory
                given = {name if name in OUTPUTS else "out": places[0]}
                again = partial(getattr(operation.overloadpacket, name), *args, **kwargs, **given)
                try:
                    again()
                except (RuntimeError, TypeError):  # it takes other arguments
                    continue
                return again

    def copied() -> None:
        results = operation(*args, **kwargs)
        for place, new in zip(places, (results,) if isinstance(results, Tensor) else tensors(results), strict=True):
            place.copy_(new)

    return copied


class Recorder(TorchDispatchMode):
    """Records operations, and the former content of memory that they write to."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Callable[[], Any]] = []
        self.former: dict[int, tuple[Any, Any]] = {}  # storages and their content, by address
        self.made: set[int] = set()  # addresses of results

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        writes = operation.name().partition(".")[0].endswith("_") or bool(OUTPUTS & kwargs.keys())
        for tensor in tensors(args, kwargs) if writes else ():
            if memory(tensor) not in self.made and memory(tensor) not in self.former:
                storage = tensor.untyped_storage()
                self.former[memory(tensor)] = storage, storage.clone()
        result = operation(*args, **kwargs)
        if isinstance(result, bool | int | float):
            raise RuntimeError("a value is read on the host")
        known = {memory(tensor) for tensor in tensors(args, kwargs)}
        fresh = {memory(tensor) for tensor in tensors(result)} - known
        self.made |= fresh
        args, kwargs = detached((args, kwargs))
        if writes:
            self.operations.append(partial(operation, *args, **kwargs))
        elif fresh:  # and not a view, which a replay finds in place
            self.operations.append(repetition(operation, args, kwargs, detached(result)))
        return result


class CPUGraph:
    """Operations recorded within `recording`, repeated by `replay`; an interface like `torch.cuda.CUDAGraph`'s."""

    operations: list[Callable[[], Any]]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the operations within, and undo what they wrote. One that reads a value is a RuntimeError."""
        recorder = Recorder()
        try:
            with recorder:
                yield
        finally:
            for storage, content in recorder.former.values():
                storage.copy_(content)
        self.operations = recorder.operations

    @torch.no_grad()
    def replay(self) -> None:
        """Repeat the operations."""
        for operation in self.operations:
            operation()
