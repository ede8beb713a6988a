"""The commands beside LightningCLI's: plain functions, whose options come from their signatures."""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything

from mnist_mlp.cli.draw import draw
from mnist_mlp.cli.export import export
from mnist_mlp.cli.help import with_topic
from mnist_mlp.cli.parser import Parser, Seed
from mnist_mlp.cli.settings_file import SettingsFile
from mnist_mlp.cli.short_names import check_used, in_full, short_names
from mnist_mlp.cli.slurm import current_step
from mnist_mlp.cli.validation import check_folder
from mnist_mlp.command_lines import UNUSED
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.datasets.mnist import fetch_mnist
from mnist_mlp.runtime.fast_training import FastClassifier
from mnist_mlp.studies.compare_batch_sizes import compare_batch_sizes
from mnist_mlp.studies.compare_decays import compare_decays
from mnist_mlp.studies.compare_methods import compare_methods
from mnist_mlp.studies.find_lr import find_lr


def prepare_data(data: MNISTDataModule) -> None:
    """Download MNIST into its directory and check it: for a node with a network.

    Raises:
        UserError: Says why it cannot be downloaded or written, or which file is broken.
    """
    fetch_mnist(data.hparams.data_dir)
    print(f"mnist is ready in {data.hparams.data_dir}")


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (prepare_data, find_lr, compare_batch_sizes, compare_decays, compare_methods, export, draw)
}
# Where the defaults of `fit` would show nothing.
DEFAULTS = {"compare_decays": {"model.lr": 0.5}, "compare_methods": {"model.patience": 1}}
RESULTS = {  # the names of what functions return, for `--json`
    "find_lr": "gamma_0",
    "compare_batch_sizes": "gamma",
    "compare_decays": "decay",
    "compare_methods": "gamma_0",
}
OWNERS = {"model": FastClassifier, "data": MNISTDataModule}  # parameters that become groups of options, as in `fit`


def run_function(name: str, arguments: list[str]) -> None:
    """Run a command on its arguments."""
    function = FUNCTIONS[name]
    parameters = inspect.signature(function).parameters
    description = re.split(r"\n\n(?:Args|Raises):", str(inspect.getdoc(function)))[0]
    groups = [group for group in OWNERS if group in parameters]
    names = short_names(name, groups, parameters)
    arguments, topic = with_topic(in_full(arguments, names))
    check_used(name, arguments)
    parser = Parser(name, names, topic, description=description)
    parser.add_argument("-c", "--config", action=SettingsFile)
    parser.add_function_arguments(function, as_positional=False, skip=set(OWNERS))
    for group in groups:
        options = inspect.signature(OWNERS[group]).parameters
        unused = {option for option in options if f"{group}.{option}" in UNUSED[name]}
        parser.add_class_arguments(OWNERS[group], group, skip=unused)
    if "model" in parameters:
        parser.add_argument("--seed_everything", type=Seed, default=0)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
    parser.set_defaults(DEFAULTS.get(name, {}))
    if name in RESULTS:
        parser.add_argument("--json", help="File for the result as JSON.")
    config = parser.parse_args(arguments)
    if config.get("json") is not None:
        check_folder("--json", config.json)
    step = current_step()
    if step is not None:
        step.check(name)
    seed_everything(config.get("seed_everything", 0))
    objects = parser.instantiate_classes(config)
    result = function(**{parameter: objects[parameter] for parameter in parameters})
    if config.get("json") is not None:
        Path(config.json).write_text(json.dumps({RESULTS[name]: result}, indent=2) + "\n")
