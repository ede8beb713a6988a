"""The entry point: which command runs, and how each kind of error ends it."""

import inspect
import logging
import os
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mnist_mlp.cli.failures import describe, unforeseen
from mnist_mlp.cli.functions import FUNCTIONS, run_function
from mnist_mlp.cli.help import columns, text_width
from mnist_mlp.cli.lightning_cli import CLI, COMMANDS
from mnist_mlp.cli.parser import fail
from mnist_mlp.cli.short_names import nearest
from mnist_mlp.errors import StoppedBySignalError, TrainingError, UserError
from mnist_mlp.runtime.signals import signals_as_errors

FOR_AUTHORS: tuple[type[Warning], ...] = (FutureWarning, DeprecationWarning)  # of libraries
EXPECTED_WARNINGS = (
    "The `srun` command is available",  # as on any login node
    ".*configure_optimizers` will be overridden",  # by --optimizer
    ".*could not find the monitored key",  # before the first validation
    "Using ModelCheckpoint with manual optimization",  # a checkpoint holds the parameters after its update
    "Checkpoint directory .* exists",  # a resumed run continues in its folder
    "It is recommended to use .self.log",  # with sync_dist: metrics are reduced already
    "Be aware that when using `ckpt_path`, callbacks",  # only `fit` saves checkpoints
)


def main(args: list[str] | None = None) -> None:
    """Run a command, given as the words after `python -m mnist_mlp`; by default those of the command line.

    Raises:
        SystemExit: With code 2 and one line on stderr, for anything wrong with the arguments or files; with code 1
            and one line for a run that diverges; with 130 or 143 after SIGINT or SIGTERM.
    """
    if hasattr(sys.stdout, "reconfigure"):  # as stderr has it: the name of a file need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    silence_libraries()
    try:
        with signals_as_errors():
            run(sys.argv[1:] if args is None else args)
    except UserError as error:
        if error.exit_code == 1 and rank_zero_only.rank > 0:  # every process diverges, one says so
            sys.exit(1)
        fail(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (MisconfigurationException, OSError) as error:  # OSError: a folder that cannot be made, a full disk
        fail(describe(error))
    except StoppedBySignalError as stop:
        if rank_zero_only.rank > 0:  # rank 0 says so; torchrun ends the others when one fails
            sys.exit(0)
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except Exception as error:
        fail(str(unforeseen(error)), TrainingError.exit_code)
    finally:
        # Or a thread of Gloo's may abort Python's own end (pytorch#190489); Lightning only ends NCCL's.
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def run(args: list[str]) -> None:
    """Run the command that the first word names."""
    names, command = ", ".join([*COMMANDS, *FUNCTIONS]), args[0] if args else "--help"
    if command in COMMANDS:
        CLI(args)
    elif command in FUNCTIONS:
        run_function(command, args[1:])
    elif command == "--version":
        print(version("mnist_mlp"))
    elif command not in ("-h", "--help", "help"):
        meant = nearest(command, [*COMMANDS, *FUNCTIONS])
        advice = f"did you mean {meant}?" if meant else f"choose one of {names}"
        raise UserError(f"unknown command {command}: {advice}")
    else:
        print("usage: python -m mnist_mlp COMMAND [options]\n")
        print("A softplus multi-layer perceptron, trained on MNIST by explicit gradients.\n")
        docstrings = {name: str(inspect.getdoc(function)).split("\n")[0] for name, function in FUNCTIONS.items()}
        for name, text in (COMMANDS | docstrings).items():
            print(*columns(name, text, text_width()), sep="\n")
        print("\npython -m mnist_mlp COMMAND --help explains the options.")
        if not args:
            raise UserError(f"give a command: {names}")


def silence_libraries() -> None:
    """Show warnings as one line each, and hide those that are expected here."""
    warnings.showwarning = show_warning  # type: ignore[assignment]
    for category in FOR_AUTHORS:
        warnings.filterwarnings("ignore", category=category)
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for asked_for in (
        "lightning.pytorch.callbacks",
        "lightning.pytorch.profilers",
        "lightning.pytorch.utilities.rank_zero",
    ):
        logging.getLogger(asked_for).setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_asked_for)


def is_asked_for(record: logging.LogRecord) -> bool:
    """Whether a message is a warning, or comes from a callback, which speaks when an option asks for it."""
    return record.levelno >= logging.WARNING or Path(record.pathname).parent.name == "callbacks"


def show_warning(message: Warning | str, *_: object) -> None:
    """Print a warning as one line, without its place in the code."""
    print("warning:", " ".join(str(message).split()), file=sys.stderr)
