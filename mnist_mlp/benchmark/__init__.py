"""How fast `fit` is, beside the notebook's loop, a plain loop, plain Lightning, peers, and the floor.

    python -m mnist_mlp.benchmark --help

Each way trains the same network on 60,000 images. The ways take turns; a figure is the median over the turns, a ratio
the median of the ratios within a turn. `ways` holds those of this process and `floor` what none can beat, `commands`
whole processes, `peers` those of other libraries, and `host_cost` what `fit` costs where the updates themselves are
free. Nothing is imported here, so that the peers are timed without torch.
"""
