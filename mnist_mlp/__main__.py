"""`python -m mnist_mlp` and the console script `mnist-mlp`."""

import sys


def main() -> None:
    """Runs the command line."""
    loading = "loading torch and Lightning ..."
    try:
        if sys.stderr.isatty():  # for some seconds nothing else is to be seen
            print(loading, end="\r", file=sys.stderr, flush=True)
        from mnist_mlp.cli.lightning_cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if sys.stderr.isatty():
            print(" " * len(loading), end="\r", file=sys.stderr, flush=True)
    run()


if __name__ == "__main__":
    main()
