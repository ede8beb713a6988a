"""How fast `fit` is: `python -m mnist_mlp.benchmark`."""
