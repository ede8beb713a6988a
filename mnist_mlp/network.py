"""The notebook's network: affine layers with a soft-plus between them."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {
    # The notebook's choice. Above z = threshold/beta = 0.04 it is the identity, and there it jumps down by
    # log(1 + exp(-1))/25 = 0.0125: the soft-plus has not yet met its asymptote.
    "softplus": lambda: nn.Softplus(beta=25, threshold=1),
    "relu": nn.ReLU,
}


LARGE = 10_000_000  # multiplications in a layer, from where on oneDNN gains more than the way into it costs


class Linear(nn.Linear):
    """`nn.Linear`, its large products on a CPU by oneDNN: on an AMD processor twice as fast as MKL, which torch takes.

    The way into oneDNN is a tensor of its own type; it takes the weights as they are, and their gradients are dense
    tensors. What is not plain float32 goes torch's way, which for bfloat16 is oneDNN already.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + b, (B, out_features), for x, (B, in_features)."""
        large = x.device.type == "cpu" and len(x) * self.weight.numel() >= LARGE
        plain = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        own = isinstance(self.weight, nn.Parameter)  # and not many in its place, as under vmap
        if large and plain and own and torch.backends.mkldnn.is_available():
            return F.linear(x.to_mkldnn(), self.weight, self.bias).to_dense()
        return super().forward(x)


class MLP(nn.Sequential):
    """Multi-layer perceptron, the notebook's `MLPNet` with any number of hidden layers.

    Its layers are named as in the notebook: `net.fc1.weight` has shape (hidden[0], in_features), and the
    parameters come in the order fc1.weight, fc1.bias, fc2.weight, ... Weights and biases start as `nn.Linear`
    draws them, so a seed gives the weights that it gives in the notebook.

    Args:
        hidden: Units of each hidden layer; empty for a single affine map.
        activation: What stands between the affine layers, `softplus` or `relu`.
        in_features: Values of one image.
        num_classes: Outputs.

    Shapes: x (B, ...) with `in_features` values per image, flattened first; output (B, num_classes). Both float32.

    Raises:
        KeyError: The activation is unknown.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (500,),
        activation: str = "softplus",
        in_features: int = 28 * 28,
        num_classes: int = 10,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for i, (fan_in, fan_out) in enumerate(pairwise((in_features, *hidden, num_classes)), start=1):
            if i > 1:
                layers[f"nonlin{i - 1}"] = ACTIVATIONS[activation]()
            layers[f"fc{i}"] = Linear(fan_in, fan_out)
        super().__init__(layers)
