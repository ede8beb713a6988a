"""`python -m mnist_mlp` and the console script `mnist-mlp`."""


def main() -> None:
    """Runs the command line."""
    from mnist_mlp.cli import main as run

    run()


if __name__ == "__main__":
    main()
