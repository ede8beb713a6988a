"""`python -m mnist_mlp` and the console script `mnist-mlp`."""

import gc
import os
import signal
import sys
from typing import NoReturn

from mnist_mlp.openmp import adapt_to_load

LOADING = "loading torch and Lightning ..."  # importing them takes a few seconds


def show(text: str) -> None:
    """Write over the line on a terminal."""
    if sys.stderr.isatty():
        print(text, end="\r", file=sys.stderr, flush=True)


def interrupt(signum: int, frame: object) -> NoReturn:
    """End at once: an exception in the middle of an import can come out as any other."""
    show(" " * len(LOADING))
    os._exit(128 + signum)


def main() -> None:
    """Run the command line."""
    show(LOADING)
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # and not ignored, as under nohup
        signal.signal(signal.SIGINT, interrupt)
    adapt_to_load()
    # The garbage collector would go through all that is imported, again and again and once more at the end: 40 % of
    # the time of a Python that does nothing but these imports.
    gc.disable()
    from mnist_mlp.cli.main import main as run

    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGINT, usual)
    show(" " * len(LOADING))
    run()


if __name__ == "__main__":
    main()
