"""`python -m mnist_mlp` and the console script `mnist-mlp`."""

import gc
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from mnist_mlp.openmp import adapt_to_load

LOADING = "loading torch and Lightning ..."  # importing them takes a few seconds


def open_closed_streams() -> None:
    """Lead the standard streams that a shell has closed, as by `>&-`, to nowhere.

    Else the next file to be opened would take the stream's number, and what libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - until the program ends


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
    open_closed_streams()
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
