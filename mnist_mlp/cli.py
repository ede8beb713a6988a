"""The command line: LightningCLI with this project's defaults, checkpoints by name, and errors of one line."""

import argparse
import json
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mnist_mlp.callbacks import ClosingSummary, EpochLines, HyperparametersTable, LastCheckpoint
from mnist_mlp.checkpoints import CheckpointError, find_checkpoint, is_url, load_checkpoint
from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.mnist import DataError, mnist_exists

LOGS = "lightning_logs"
COMMANDS = {
    "fit": "Train; without arguments exactly the notebook's run, with 5,000 images held out for validation.",
    "validate": "Loss and accuracy of a checkpoint on the validation images.",
    "test": "Loss and accuracy of a checkpoint on the test images.",
    "predict": "Classify the test images with a checkpoint: CSV on standard output.",
}
SHOWN = {  # the options beyond --model and --data that --help explains, in our own words
    "config": "YAML file of settings, as --print_config prints; later arguments overrule it.",
    "print_config": "Print all settings, those of the other arguments included, and exit.",
    "seed_everything": "Draws initial weights, validation split and batches; the same seed gives the same run.",
    "trainer.max_epochs": "Passes through the training images.",
    "trainer.max_steps": "Updates; the first limit reached ends the run.",
    "trainer.accelerator": "Where to train: cpu, gpu or auto.",
    "trainer.devices": "Number of processes, each with a device and batches of its own.",
    "trainer.precision": "32-true, or bf16-mixed for matrix products in bfloat16.",
    "trainer.log_every_n_steps": "Updates from one point of the training curves to the next.",
    "trainer.enable_progress_bar": "Whether to show progress.",
    "trainer.default_root_dir": "Directory in which lightning_logs lies; the current one if not given.",
    "optimizer": "A torch optimizer instead of plain SGD, for example Adam, with --optimizer.lr and so on.",
    "lr_scheduler": "A torch scheduler, stepped every epoch, for example StepLR with --lr_scheduler.step_size 1.",
    "ckpt_path": "A path or URL, or best or last of the newest run under lightning_logs that has one.",
}
ONLY_FIT = re.compile(r"seed_everything|print_config|trainer\.(max_|log_every)|optimizer|lr_scheduler|model\.lr")
EPILOG = (
    "Every argument of Lightning's Trainer works too, as --trainer.NAME, and of its ModelCheckpoint, as "
    "--checkpoint.NAME for best.ckpt and --last.NAME for last.ckpt: --print_config lists them, "
    "https://lightning.ai/docs/pytorch/stable/common/trainer.html explains them."
)


class UserError(ValueError):
    """The arguments cannot be used; the message is one line that names the option."""


class Parser(LightningArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the message and ends with exit code 2."""
        message = re.sub(rf'Parser key "(?:(?:{"|".join(COMMANDS)})\.)?([^"]+)":', r"--\1:", message)
        message = message.replace(" and v<", " and <")
        for pattern, plain in (
            (r"Not of type \w+: (.+) does not conform to restriction v(.+)", r"must be \2, not \1"),
            (r"Expected a typing.Literal\[(.+)\]. Got value: (.*)", r"must be one of \1, not '\2'"),
            (r"Expected a <class 'tuple'>. Got value: (.*)", r"must be a list such as [500], not '\1'"),
        ):
            message = re.sub(pattern, plain, message)
        fail(message)

    def format_help(self) -> str:
        """The help without the options that would bury our own.

        They are hidden no sooner, because jsonargparse leaves hidden options out of the settings that it saves.
        """
        for action in self._actions:
            if ONLY_FIT.match(action.dest) and "fit" not in self.prog.split():
                action.help = argparse.SUPPRESS
            elif action.dest in SHOWN:
                action.help = SHOWN[action.dest]
            elif re.match(r"(trainer|checkpoint|last|optimizer|lr_scheduler)\b|(model|data)$", action.dest):
                action.help = argparse.SUPPRESS
        return super().format_help()


def fail(message: str) -> NoReturn:
    """Ends with one line on stderr and exit code 2."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


class CLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict`."""

    def __init__(self, args: list[str] | None = None) -> None:
        self.args = sys.argv[1:] if args is None else args
        self.checkpoint: dict[str, Any] | None = None
        super().__init__(
            MLPClassifier,
            MNISTDataModule,
            args=self.args,
            parser_class=Parser,
            parser_kwargs={
                "prog": "python -m mnist_mlp",
                "description": "A softplus multi-layer perceptron, trained on MNIST by explicit gradients.",
                **{name: {"description": text, "epilog": EPILOG} for name, text in COMMANDS.items()},
            },
            seed_everything_default=0,
            trainer_defaults={
                "max_epochs": 2,
                "devices": 1,
                "log_every_n_steps": 25,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "callbacks": [HyperparametersTable(), ClosingSummary()],
            },
        )

    def setup_parser(self, *args: Any) -> None:
        """Describes the commands in our own words."""
        super().setup_parser(*args)
        for choice in self.parser._subcommands_action._choices_actions:
            choice.help = COMMANDS[choice.dest]

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        """Parses a command line into `self.config`."""
        self.config = parser.parse_args(args)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's commands, none of which lets a checkpoint run code: `weights_only` is no option."""
        ours = {"weights_only", "return_predictions"}
        return {name: skipped | ours for name, skipped in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds `--checkpoint.*` and `--last.*`; the seed is one for weights, split and batches."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(LastCheckpoint, "last")
        parser.set_defaults(
            {
                "checkpoint.filename": "best",
                "checkpoint.monitor": "val/accuracy",
                "checkpoint.mode": "max",
                "checkpoint.enable_version_counter": False,
                "last.filename": "last",
                "last.enable_version_counter": False,
            }
        )
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.usage = f"python -m mnist_mlp {subcommand} [options]"
        parser.groups["trainer"].title = "Training, by Lightning's Trainer"
        parser.groups["optimizer"].title = "Another update rule"
        parser.groups["lr_scheduler"].title = "A step size that changes"
        return parser

    def _parse_ckpt_path(self) -> None:
        """Finds the checkpoint and parses again, with its settings before the arguments given.

        So it is evaluated with its own network, split and batches, and resumed with all settings of its run, unless
        an argument says otherwise. In Lightning's own version the checkpoint overrules the arguments.
        """
        command = self.config.subcommand
        config = self.config[command]
        name = config.ckpt_path or (None if command == "fit" else "best")
        if name is None:
            return
        path = find_checkpoint(name, Path(config.trainer.default_root_dir or ".") / LOGS)
        self.checkpoint = load_checkpoint(path)
        self.run_folder = Path(path).parent.parent
        model, data = self.checkpoint["hyper_parameters"], self.checkpoint["datamodule_hyper_parameters"]
        settings = {f"model.{key}": model[key] for key in ("hidden", "activation", "loss", "lr")}
        settings |= {f"data.{key}": data[key] for key in ("batch_size", "val_size", "source")}
        settings["seed_everything"] = data["seed"]
        if mnist_exists(data["data_dir"]):  # or else the checkpoint may come from another machine
            settings["data.data_dir"] = data["data_dir"]
        words = [f"--{key}={v if isinstance(v, str) else json.dumps(v)}" for key, v in settings.items()]
        if command == "fit" and not is_url(path) and (self.run_folder / "config.yaml").is_file():
            words = ["--config", str(self.run_folder / "config.yaml"), *words]
        place = self.args.index(command) + 1
        self.parse_arguments(self.parser, [*self.args[:place], *words, *self.args[place:]])
        config = self.config[command]
        config.ckpt_path = path
        for key in ("hidden", "activation"):
            given, trained = config.model[key], model[key]
            if list(given) != list(trained):
                raise UserError(f"--model.{key} is {given}, but {path} was trained with {trained}: leave it out")

    @staticmethod
    def configure_optimizers(
        lightning_module: LightningModule, optimizer: Optimizer, lr_scheduler: LRScheduler | None = None
    ) -> tuple[list[Optimizer], list[LRScheduler]]:
        """What --optimizer and --lr_scheduler ask for; the module steps the scheduler, whatever its kind."""
        return [optimizer], [lr_scheduler] if lr_scheduler else []

    def before_instantiate_classes(self) -> None:
        """Fits the settings that depend on one another."""
        config = self.config[self.subcommand]
        if config.data.val_size == 0:
            config.trainer.limit_val_batches = 0
            if str(config.checkpoint.monitor).startswith("val/"):
                config.checkpoint.monitor = None  # the newest checkpoint is the best one
        if config.lr_scheduler and not config.optimizer:  # Lightning would ignore the scheduler
            config.optimizer = Namespace(class_path="torch.optim.SGD", init_args=Namespace(lr=config.model.lr))
        config.data.seed = int(config.seed_everything)
        if self.subcommand != "fit":
            self.save_config_callback = None
        if self.subcommand != "fit" or config.trainer.enable_checkpointing is False:
            self._parser(self.subcommand).callback_keys.clear()

    def instantiate_classes(self) -> None:
        """Makes the objects; what they cannot take is a user's error."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise UserError(str(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with a logger only for `fit`, and a progress bar on a terminal or lines elsewhere."""
        config = self.config_init[self.subcommand].trainer
        if config.logger in (None, True):
            kwargs["logger"] = self.subcommand == "fit" and self.tensorboard_logger(config.default_root_dir or "")
        callbacks = config.callbacks or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        if config.enable_progress_bar is None and not any(isinstance(each, ProgressBar) for each in callbacks):
            kwargs["enable_progress_bar"] = sys.stdout.isatty() and self.subcommand != "predict"
            # A refresh takes up to a tenth of an update.
            bar = TQDMProgressBar(refresh_rate=config.log_every_n_steps or 1)
            kwargs["callbacks"] = [*callbacks, bar if kwargs["enable_progress_bar"] else EpochLines()]
        return super().instantiate_trainer(**kwargs)

    def tensorboard_logger(self, root: str) -> TensorBoardLogger:
        """A logger into a new folder, or into that of the run that is resumed, whose later points it replaces."""
        if self.checkpoint is not None and self.run_folder.parent.resolve() == (Path(root) / LOGS).resolve():
            self.save_config_kwargs = {"overwrite": True}
            place = {"version": self.run_folder.name, "purge_step": self.checkpoint["global_step"]}
        else:
            place = {}
        return TensorBoardLogger(root, LOGS, default_hp_metric=False, **place)

    def after_instantiate_classes(self) -> None:
        """Tries the checkpoint before anything is written."""
        if self.checkpoint is not None:
            try:
                self.model.load_state_dict(self.checkpoint["state_dict"])
            except RuntimeError:
                path = self.config[self.subcommand].ckpt_path
                raise UserError(f"--ckpt_path {path}: its parameters are not of the network it names") from None
            self.datamodule.load_state_dict(self.checkpoint["MNISTDataModule"])
            if self.trainer.is_global_zero:
                print("checkpoint:", self.config[self.subcommand].ckpt_path, file=sys.stderr)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}

    def predict(self, **kwargs: Any) -> None:
        """Prints one row per test image: its number, label, prediction and the network's output for it."""
        batches = self.trainer.predict(**kwargs)
        print("image,label,prediction,output")
        image = 0
        for labels, predictions, outputs in batches:
            for label, prediction, output in zip(labels.tolist(), predictions.tolist(), outputs, strict=True):
                print(f"{image},{label},{prediction},{output[prediction]:.4f}")
                image += 1


def main(args: list[str] | None = None) -> None:
    """Runs a command.

    Args:
        args: The words after `python -m mnist_mlp`; those of the command line if not given.

    Raises:
        SystemExit: With code 2 and one line on stderr, for anything that the user can mend.
    """
    warnings.showwarning = show_warning
    for category in (FutureWarning, DeprecationWarning):  # for the authors of the libraries
        warnings.filterwarnings("ignore", category=category)
    # As intended: --optimizer replaces SGD, a checkpoint holds the parameters after its update, a resumed run goes on
    # in its folder, and only `fit` saves checkpoints.
    warnings.filterwarnings("ignore", message=".*configure_optimizers` will be overridden")
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists")
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks")
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        CLI(args)
    except (UserError, DataError, CheckpointError, MisconfigurationException) as error:
        fail(str(error))
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def show_warning(message: Warning | str, *_: object) -> None:
    """A warning as one line, without the place in the code that it comes from."""
    print("warning:", " ".join(str(message).split()), file=sys.stderr)
