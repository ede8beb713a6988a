"""Large matrix products of a network on a CPU, by the faster of torch's two libraries."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_mlp.runtime.processor import onednn_is_faster

LARGE = 10_000_000  # multiply-adds above which oneDNN's speed outweighs the cost of conversion


class Linear(nn.Linear):
    """`nn.Linear` that uses oneDNN for large float32 products on a CPU.

    Input is converted to oneDNN's own tensor type and output back; weights are taken as they are, and gradients are
    dense tensors. In bfloat16 torch itself uses oneDNN. Anomaly detection cannot read oneDNN's tensors.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + b, (B, out_features), for x, (B, in_features)."""
        large = x.device.type == "cpu" and len(x) * self.weight.numel() >= LARGE
        plain = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu") and not torch.is_anomaly_enabled()
        if large and plain:
            return F.linear(x.to_mkldnn(), self.weight, self.bias).to_dense()
        return super().forward(x)


def use_onednn(net: nn.Module) -> None:
    """Let every `nn.Linear` of a network use oneDNN where it is faster; parameters, names and results stay."""
    if onednn_is_faster():
        for module in net.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear
