"""A CPU's counterpart of a CUDA graph: torch's operations, recorded once and repeated on the same memory.

A repetition allocates nothing, builds no autograd graph, and computes the same bits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mnist_mlp.runtime.internals import HOST_READ, TorchDispatchMode, arguments_of, tree_leaves, tree_map


def memory(tensor: Tensor) -> int:
    """The address of a tensor's memory, which its views share."""
    return tensor.untyped_storage().data_ptr()


def tensors(*trees: Any) -> list[Tensor]:
    """All tensors in nested arguments or results."""
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, Tensor)]


def detached(tree: Any) -> Any:
    """Nested arguments or results whose tensors, in the same memory, have no part in a gradient."""
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)


def into_memory(operation: Any) -> tuple[Any, list[str]] | None:
    """The variant of an operation that writes to given memory, and the names of that; None if there is none."""
    arguments = [(each.name, str(each.type)) for each in arguments_of(operation)]
    for name in operation.overloadpacket.overloads():
        variant = getattr(operation.overloadpacket, name)
        outputs = [each.name for each in arguments_of(variant) if each.is_out]
        inputs = [(each.name, str(each.type)) for each in arguments_of(variant) if not each.is_out]
        if outputs and inputs == arguments:
            return variant, outputs
    return None


def repetition(operation: Any, args: Any, kwargs: Any, result: Any) -> Callable[[], Any]:
    """The operation, which writes to none of its arguments, with its result in the same place as before."""
    places = tensors(result)
    found = into_memory(operation)
    if found and all(place.dim() for place in places):  # `mse_loss` would resize a single value twice
        variant, names = found
        outputs = dict(zip(names, places, strict=True))
        return lambda: variant(*args, **kwargs, **outputs)

    def copied() -> None:
        for place, new in zip(places, tensors(operation(*args, **kwargs)), strict=True):
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
        if operation is HOST_READ:
            raise RuntimeError("a value is read on the host")
        arguments = arguments_of(operation)
        given = dict(zip((each.name for each in arguments), args, strict=False)) | kwargs
        written = [given.get(each.name) for each in arguments if each.alias_info and each.alias_info.is_write]
        for tensor in tensors(written):
            if memory(tensor) not in self.made and memory(tensor) not in self.former:
                storage = tensor.untyped_storage()
                self.former[memory(tensor)] = storage, storage.clone()
        result = operation(*args, **kwargs)
        known = {memory(tensor) for tensor in tensors(args, kwargs)}
        fresh = {memory(tensor) for tensor in tensors(result)} - known
        self.made |= fresh
        args, kwargs = detached((args, kwargs))
        if written:
            self.operations.append(lambda: operation(*args, **kwargs))
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
