"""Updates replayed from a graph: one is captured, and repeated without all that its Python does again and again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import ASGD, SGD, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam

from mnist_mlp.gradient import GradientDescent
from mnist_mlp.runtime.blocks import LONGEST_ON_CUDA, Block
from mnist_mlp.runtime.cpu_graph import CPUGraph
from mnist_mlp.runtime.processor import onednn_is_faster

CAPTURABLE = (Adam, AdamW, Adamax, ASGD, NAdam, RAdam)


def capturable(block: Block, optimizer: Optimizer) -> bool:
    """Whether updates from a block can be replayed: from batches of the usual size, in one process, on CUDA or a CPU.

    The optimizer's step must read nothing on the host: ours, a fused SGD, and those of CAPTURABLE with their flag set;
    RMSprop, Adadelta and Rprop read the step size whatever their flag. The checks that `detect_anomaly` and
    `deterministic` add read on the host too. On a CPU oneDNN's tensors have no memory of their own to be written to,
    and other optimizers step by a double γ, which a captured one has not.
    """
    batches, device = block.batches, block.batches.images.device.type
    if device not in ("cuda", "cpu") or len(block.indices[0]) < batches.whole_batch_size:
        return False
    if device == "cpu" and (onednn_is_faster() or not isinstance(optimizer, GradientDescent | SGD)):
        return False
    if dist.is_available() and dist.is_initialized():
        return False
    if torch.is_anomaly_enabled() or torch.are_deterministic_algorithms_enabled():
        return False
    group = optimizer.param_groups[0]
    flag = "capturable" if isinstance(optimizer, CAPTURABLE) else "fused" if isinstance(optimizer, SGD) else ""
    return len(optimizer.param_groups) == 1 and (isinstance(optimizer, GradientDescent) or bool(group.get(flag)))


def constants(module: LightningModule, optimizer: Optimizer) -> list[Any]:
    """Whatever a captured update takes as it was: settings of the optimizer and of clipping, and places of tensors."""
    settings = [
        {name: value for name, value in group.items() if name not in ("params", "lr")}
        | {"trained": [parameter.requires_grad for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    places = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    modes = [each.training for each in module.modules()]
    clipping = module.trainer.gradient_clip_val, module.trainer.gradient_clip_algorithm
    return [settings, places, modes, clipping]


def at_least_float32(precision: torch.dtype) -> torch.dtype:
    """The precision in which losses are kept, whose mean in bfloat16 would have 3 digits."""
    return torch.promote_types(precision, torch.float32)


class GraphedUpdate:
    """A captured update, and on the device all that differs from one update to the next.

    On CUDA a replay costs the host some microseconds in place of launching every kernel; on a CPU it saves autograd's
    work and new memory. The graph reads what lies at its addresses: the numbers of each update's images, its step size
    (of the parameters' precision, as an eager update has it), and how many updates of the block have been made, which
    it counts itself. `module.update` makes one update from a batch and returns the loss.
    """

    def __init__(self, module: LightningModule, optimizer: Optimizer, block: Block) -> None:
        self.module, self.optimizer, self.batches = module, optimizer, block.batches
        self.constants = constants(module, optimizer)
        device, precision = block.batches.images.device, optimizer.param_groups[0]["params"][0].dtype
        self.indices = torch.zeros(LONGEST_ON_CUDA, len(block.indices[0]), dtype=torch.int64, device=device)
        self.lrs = torch.zeros(LONGEST_ON_CUDA, dtype=precision, device=device)
        self.losses = torch.zeros(LONGEST_ON_CUDA, dtype=at_least_float32(precision), device=device)
        self.k = torch.zeros(1, dtype=torch.int64, device=device)  # updates of the block so far
        self.on_cuda = device.type == "cuda"
        self.graph: Any = torch.cuda.CUDAGraph() if self.on_cuda else CPUGraph()
        if self.on_cuda:
            self.stream = torch.cuda.Stream(device)  # torch's own stream of captures is on one device alone
        self.failed = False  # to capture it

    def capture(self, block: Block, lrs: list[float]) -> Tensor:
        """Make the n updates of a block with these step sizes, and capture one more. Returns the losses, (n,).

        The block is made by the code that is captured, on the stream of the capture, so that all that is done only
        once is done. Where the capture fails, a warning says so, and nothing has been changed.
        """
        with self.own_stream():
            self.load(block, lrs)
            for _ in range(len(block)):
                self.next_update()
            self.k.zero_()
            try:
                with self.recording():
                    self.next_update()
            except RuntimeError as error:
                self.failed = True
                rank_zero_warn(f"updates cannot be captured, and go on one by one: {str(error).splitlines()[0]}")
        self.optimizer.zero_grad()  # the gradients lie in the graph's memory
        return self.losses[: len(block)].clone()

    @contextmanager
    def own_stream(self) -> Iterator[None]:
        """On CUDA, queue work on the graph's own stream, between what was queued before and what comes after."""
        if not self.on_cuda:
            yield
            return
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            torch.cuda.set_stream(current)  # a failed capture stays on its own
        current.wait_stream(self.stream)

    def recording(self) -> Any:
        """The context in which operations are captured, and change nothing."""
        if self.on_cuda:  # kernels that are new to the process may have to be loaded, which "relaxed" allows
            return torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="relaxed")
        return self.graph.recording()

    def next_update(self) -> None:
        """The captured work: update k, and k + 1."""
        (group,) = self.optimizer.param_groups
        lr, group["lr"] = group["lr"], self.lrs.index_select(0, self.k).squeeze()
        try:
            indices = self.indices.index_select(0, self.k).squeeze(0)
            loss = self.module.update(self.batches.gather(indices), self.optimizer)
        finally:
            group["lr"] = lr  # a number again
        self.losses.index_copy_(0, self.k, loss.to(self.losses.dtype).view(1))
        self.k += 1

    def fits(self, block: Block) -> bool:
        """Whether the updates from a block are replays of the captured one."""
        same_batches = block.batches is self.batches and len(block.indices[0]) == self.indices.shape[1]
        return same_batches and constants(self.module, self.optimizer) == self.constants

    def load(self, block: Block, lrs: list[float]) -> None:
        """Put the images' numbers and the step sizes of a block where the graph reads them."""
        n = len(block)
        self.indices[:n].copy_(torch.stack(block.indices))
        self.lrs[:n].copy_(torch.tensor(lrs, dtype=self.lrs.dtype), non_blocking=True)
        self.k.zero_()

    def replay(self, block: Block, lrs: list[float]) -> Tensor:
        """Make the n updates of a block with these step sizes, without waiting for them. Returns the losses, (n,)."""
        self.load(block, lrs)
        for _ in range(len(block)):
            self.graph.replay()
        return self.losses[: len(block)].clone()
