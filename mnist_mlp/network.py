"""The notebook's network: affine layers with a softplus between them."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from mnist_mlp.deskew import Deskew
from mnist_mlp.directions import Directions

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    # The notebook's choice. Above z = threshold/beta = 0.04 it is the identity, and there it jumps down by
    # log(1 + exp(-1))/25 = 0.0125: the softplus has not yet met its asymptote.
    "softplus": lambda: nn.Softplus(beta=25, threshold=1),
    "relu": nn.ReLU,
}


FIXED_LAYERS = ("deskew", "directions")  # before the first affine one, each there or not
STRUCTURE = ("hidden", "activation", *FIXED_LAYERS)  # arguments of `MLPClassifier` that make its network


class MLP(nn.Sequential):
    """Multi-layer perceptron, the notebook's `MLPNet` with any number of hidden layers.

    Its layers are named as in the notebook: `net.fc1.weight` has shape (hidden[0], in_features), and the
    parameters come in the order fc1.weight, fc1.bias, fc2.weight, ... Weights and biases start as `nn.Linear`
    draws them, so a seed gives the weights that it gives in the notebook.

    `hidden` has the units of each hidden layer, none for a single affine map; an unknown activation is a KeyError.
    Fixed layers for square images may come first: `deskew` sets digits upright, and `directions` replaces pixels by
    maps of edges, 1,568 numbers for 28x28 pixels.
    Shapes: x (B, ...) with `in_features` values per image, flattened first; output (B, num_classes). Both float32.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (500,),
        activation: str = "softplus",
        in_features: int = 28 * 28,
        num_classes: int = 10,
        deskew: bool = False,
        directions: bool = False,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if deskew:
            layers["deskew"] = Deskew(math.isqrt(in_features))
        if directions:
            layers["directions"] = edges = Directions(math.isqrt(in_features))
            in_features = edges.out_features
        layers["flatten"] = nn.Flatten()
        for i, (fan_in, fan_out) in enumerate(pairwise((in_features, *hidden, num_classes)), start=1):
            if i > 1:
                layers[f"nonlin{i - 1}"] = ACTIVATIONS[activation]()
            layers[f"fc{i}"] = nn.Linear(fan_in, fan_out)
        super().__init__(layers)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "MLP":
        """The network that these settings of an `MLPClassifier` make; those of the training are left aside."""
        return cls(**{name: settings[name] for name in STRUCTURE})
