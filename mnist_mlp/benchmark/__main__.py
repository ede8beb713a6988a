"""`python -m mnist_mlp.benchmark`."""

from jsonargparse import auto_cli

from mnist_mlp.benchmark.ways import benchmark
from mnist_mlp.cli.parser import Parser

if __name__ == "__main__":
    auto_cli(benchmark, parser_class=Parser, as_positional=False)
