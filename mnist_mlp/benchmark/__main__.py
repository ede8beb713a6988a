"""`python -m mnist_mlp.benchmark`: its options."""

import inspect
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli
from jsonargparse.typing import PositiveInt

from mnist_mlp.benchmark.commands import fit_commands
from mnist_mlp.benchmark.growth import show_growth
from mnist_mlp.benchmark.host_cost import host_cost
from mnist_mlp.benchmark.peer_commands import PeerCommands
from mnist_mlp.benchmark.report import show
from mnist_mlp.benchmark.setting import Setting
from mnist_mlp.benchmark.turns import take_turns
from mnist_mlp.benchmark.ways import fit, slow_bfloat16, ways
from mnist_mlp.cli.parser import Parser

DEVICE: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
EPOCHS = {"cpu": 2, "cuda": 10}  # in a turn; on a GPU the first one captures an update


def benchmark(
    epochs: PositiveInt | None = None,
    device: Literal["cpu", "cuda"] = DEVICE,
    batch_size: PositiveInt = 200,
    hidden: Sequence[PositiveInt] = (500,),
    turns: PositiveInt = 5,
    peers: bool = False,
    growth: bool = False,
    json_file: Path | None = None,
) -> None:
    """Compare the speed of `fit` with that of a plain loop, plain Lightning, the notebook's cell, and the floor.

    Args:
        epochs: Epochs of each way in a turn; by default 2 on a CPU and 10 on a GPU.
        device: Where to train.
        batch_size: Images per update.
        hidden: Units of each hidden layer, as '[500]'.
        turns: Times that each way is measured.
        peers: Also scikit-learn, and JAX and Keras where pip install -e '.[peers]' has brought them.
        growth: Only time fit and the floor, as batch size, width and depth grow.
        json_file: File for each way's seconds, one per turn.
    """
    setting = Setting(epochs or EPOCHS[device], torch.device(device), batch_size, tuple(hidden))
    if growth:
        show_growth(setting, turns)
        return
    fit(setting)  # warms up
    if slow_bfloat16(setting):
        print("no fit_bf16: this processor has no bfloat16, whose emulation is slow")
    rounds: list[Callable[[], dict[str, float]]] = [partial(ways, setting), partial(fit_commands, setting), host_cost]
    if peers:
        rounds.append(PeerCommands(setting))
    seconds = take_turns(rounds, turns)
    show(seconds, setting)
    if json_file:
        json_file.write_text(json.dumps(seconds, indent=2) + "\n")


def main(args: list[str] | None = None) -> None:
    """Run the benchmark with the words of a command line, by default this process's."""
    about = str(inspect.getdoc(benchmark)).split("\n")[0]
    description = f"usage: python -m mnist_mlp.benchmark [options]\n\n{about}"
    auto_cli(benchmark, args=args, parser_class=Parser, as_positional=False, description=description)


if __name__ == "__main__":
    main()
