"""Ways that take turns, and their ratios within a turn, which noise that lasts longer leaves alone."""

import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence

Seconds = dict[str, list[float]]  # of each way, one for each turn


def take_turns(rounds: Sequence[Callable[[], dict[str, float]]], turns: int) -> Seconds:
    """Go through all rounds, each of which gives some ways' seconds, and through all again, as many times as asked."""
    seconds = defaultdict(list)
    for turn in range(1, turns + 1):
        print(f"\rturn {turn} of {turns}", end="", file=sys.stderr, flush=True)
        for measure in rounds:
            for way, value in measure().items():
                seconds[way].append(value)
    print(file=sys.stderr)
    return seconds


def spread(seconds: Seconds, way: str, other: str) -> tuple[float, str]:
    """Ratio of one way's seconds to another's within a turn: the median, and the lowest and the highest."""
    ratios = [first / second for first, second in zip(seconds[way], seconds[other], strict=True)]
    return statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"
