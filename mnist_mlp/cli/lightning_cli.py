"""`fit`, `validate`, `test` and `predict`: LightningCLI with this project's defaults and checkpoints by name."""

import os
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, LRSchedulerTypeTuple
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR

from mnist_mlp.arguments import reworded
from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.cli.failures import culprit, describe, in_training
from mnist_mlp.cli.help import TOPICS, with_topic
from mnist_mlp.cli.parser import Parser, Seed
from mnist_mlp.cli.predict import classify_images, print_predictions
from mnist_mlp.cli.run_folder import RunFolder, RunLogger, SaveConfig, curves_in, label_of, run_of
from mnist_mlp.cli.saved_settings import check_unchanged, settings_file_of, settings_of, update_rule_in
from mnist_mlp.cli.settings_file import SettingsFile
from mnist_mlp.cli.short_names import check_used, in_full, short_names
from mnist_mlp.cli.slurm import current_step
from mnist_mlp.cli.validation import check_folder, check_settings, try_update_rule
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.display.drawings import draw_errors
from mnist_mlp.display.labelled import labelled
from mnist_mlp.display.progress import ClosingSummary, EpochBar, EpochLines
from mnist_mlp.display.result_table import ResultTable
from mnist_mlp.display.tensorboard import HyperparametersTable, TensorBoardImages
from mnist_mlp.errors import UserError
from mnist_mlp.runtime.checkpoint_form import check_state_of_training
from mnist_mlp.runtime.checkpoints import LOGS, find_checkpoint, load_checkpoint
from mnist_mlp.runtime.fast_training import FastClassifier, FastDataModule
from mnist_mlp.runtime.last_checkpoint import AtomicCheckpointIO, LastCheckpoint

COMMANDS = {
    "fit": "Train; by default as the notebook does, with 5,000 images held out.",
    "validate": "Loss and accuracy of a checkpoint on the validation images.",
    "test": "Loss and accuracy of a checkpoint on the test images.",
    "predict": "Classify your own images (--images), or the test images as CSV, with a checkpoint.",
}
PER_BATCH = (CyclicLR, OneCycleLR)  # schedulers that torch's documentation steps after every batch
PER_CORE = 8  # processes, beyond which a machine runs out of memory before it trains
TRAINER_DEFAULTS = {
    "max_epochs": 2,
    "devices": 1,
    "log_every_n_steps": 25,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class CLI(LightningCLI):
    """LightningCLI for the classifier and its data, run on a command and its arguments."""

    def __init__(self, args: list[str]) -> None:
        command = args[0]
        if command == "predict" and args[1:] and not args[1].startswith("-"):
            args = [command, "--images", *args[1:]]
        names = short_names(command, TOPICS)
        args, topic = with_topic(in_full(args, names))
        check_used(command, args)
        self.words = args
        self.checkpoint: dict[str, Any] | None = None
        self.checkpoint_path: str | None = None
        self.step = current_step()
        super().__init__(
            FastClassifier,
            FastDataModule,
            args=args,
            save_config_callback=SaveConfig,
            parser_class=Parser,
            parser_kwargs={
                command: {"command": command, "description": COMMANDS[command], "names": names, "topic": topic}
            },
            trainer_defaults={**TRAINER_DEFAULTS, "callbacks": [HyperparametersTable(), ClosingSummary()]},
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser as Lightning does, but with our settings files."""
        parser = Parser(dump_header=[f"lightning.pytorch=={lightning.__version__}"], **kwargs)
        parser.add_argument("-c", "--config", action=SettingsFile)
        return parser

    def subcommands(self) -> dict[str, set[str]]:
        """The command, whose parser is made, and its arguments that are no options: no checkpoint may run code."""
        hidden = {"weights_only", "return_predictions", "verbose"}
        return {name: skipped | hidden for name, skipped in super().subcommands().items() if name == self.words[0]}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed: always a number, so that every run can be repeated."""
        parser.add_argument("--seed_everything", type=Seed, default=0)

    def add_arguments_to_parser(self, parser: Parser) -> None:
        """Add checkpoints, pictures and the options of single commands; one seed draws weights, split and batches."""
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.add_class_arguments(ModelCheckpoint, "checkpoint", fail_untyped=False)
        parser.add_class_arguments(LastCheckpoint, "last")
        best = {"filename": "best", "monitor": "val/accuracy", "mode": "max", "enable_version_counter": False}
        parser.set_defaults({f"checkpoint.{name}": value for name, value in best.items()})
        text = "Draw pictures into TensorBoard after epochs 2, 4, 8, ... and at the end."
        parser.add_argument("--pictures", type=bool, default=True, help=text)
        parser.add_optimizer_args((Optimizer,))
        parser.add_lr_scheduler_args(LRSchedulerTypeTuple)
        if parser.command in ("validate", "test"):
            parser.add_argument("--json", help="File for the result as JSON.")
        if parser.command == "test":
            parser.add_argument("--errors", help="Picture (png, pdf, svg) to draw of the errors, up to 1,000.")
        if parser.command == "predict":
            parser.add_argument(
                "--images", nargs="+", type=str, default=[], help="Own images: files, folders, patterns."
            )
            parser.add_argument("--csv", help="CSV file for their table (default: lightning_logs/predictions.csv).")
            parser.add_argument("--save_inputs", help="Folder in which to save them as they enter the network.")
            parser.add_argument("--strict", action="store_true", help="Exit with 1 if one of them is not sure.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments into `self.config`; with a checkpoint once more, its settings as defaults.

        So a checkpoint is evaluated with its own network, split and batches, and resumed with all settings of its run,
        unless an argument says otherwise. In Lightning's own version the checkpoint overrules the arguments.
        """
        self.config = parser.parse_args(args)
        command = self.config.subcommand
        config = self.config[command]
        name = config.ckpt_path or (None if command == "fit" else "best")
        if name is None:
            return
        path = find_checkpoint(str(name), Path(config.trainer.default_root_dir or ".") / LOGS)
        self.checkpoint_path, self.checkpoint = path, load_checkpoint(path, to_resume=command == "fit")
        settings, defaults = settings_of(self.checkpoint), Namespace(subcommand=command)
        for key, value in settings.items():
            defaults[f"{command}.{key}"] = value
        file = settings_file_of(path) if command == "fit" else None
        if file:
            args = [command, "--config", str(file), *args[1:]]
        self.config = parser.parse_args(args, defaults)
        config = self.config[command]
        config.ckpt_path = None  # or Lightning would read its settings too
        if config.data.source == "auto":
            config.data.source = settings["data.source"]
        check_unchanged(config, settings | update_rule_in(file), path, command)

    def before_instantiate_classes(self) -> None:
        """Check the settings, and fit those that depend on one another."""
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            config.ckpt_path = self.checkpoint_path  # the other commands have its parameters in the model
            lr = self.checkpoint["hyper_parameters"]["lr"] if self.checkpoint else None
            check_settings(config, lr, lr_is_given=any(word.split("=")[0] == "--model.lr" for word in self.words))
        else:
            self.save_config_callback = None
        if config.data.val_size == 0:
            config.trainer.limit_val_batches = 0
        if config.trainer.limit_val_batches == 0 and str(config.checkpoint.monitor).startswith("val/"):
            config.checkpoint.monitor = None  # the newest checkpoint is the best one
        if config.lr_scheduler and not config.optimizer:  # Lightning would ignore the scheduler
            plain = Namespace(lr=float(config.model.lr))
            config.optimizer = Namespace(class_path="mnist_mlp.gradient.GradientDescent", init_args=plain)
        if self.subcommand == "fit":
            try_update_rule(config)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, ImportError, RuntimeError, MisconfigurationException) as error:
            settings = self.config[self.subcommand].checkpoint
            option = culprit("checkpoint", ModelCheckpoint, settings, error, monitor=settings.monitor)
            raise UserError(f"{option}{reworded(describe(error))}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer, with a progress bar on a terminal or lines elsewhere, and for `fit` with checkpoints."""
        config = self.config_init[self.subcommand]
        plugins, callbacks = (
            value if isinstance(value, list) else [value] if value else []
            for value in (config.trainer.plugins, config.trainer.callbacks)
        )
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins = [*plugins, AtomicCheckpointIO()]
        if config.trainer.logger in (None, True):
            kwargs["logger"] = False  # until `before_fit`, when nothing can be refused any more
        if config.trainer.enable_progress_bar is None and not any(isinstance(each, ProgressBar) for each in callbacks):
            kwargs["enable_progress_bar"] = sys.stdout.isatty() and self.subcommand != "predict"
            callbacks = [*callbacks, *([EpochBar()] if kwargs["enable_progress_bar"] else [])]
        callbacks = [*callbacks, EpochLines()]
        if self.subcommand in ("validate", "test"):
            assert self.checkpoint is not None
            folder = run_of(self.checkpoint_path)
            curves = curves_in(folder) if folder else None
            step = max(0, self.checkpoint.get("global_step", 0) - 1)
            callbacks = [*callbacks, ResultTable(self.result_files(config.json), curves, step)]
        if self.subcommand == "fit":
            callbacks = [*callbacks, *([TensorBoardImages()] if config.pictures else [])]
            if config.trainer.enable_checkpointing is not False:
                callbacks = [*callbacks, config.checkpoint, config.last]
        try:
            return super().instantiate_trainer(**{**kwargs, "plugins": plugins, "callbacks": callbacks})
        except Exception as error:
            others = {"logger": False, "enable_checkpointing": False, "accelerator": config.trainer.accelerator}
            option = culprit("trainer", Trainer, config.trainer, error, **others)
            raise UserError(f"{option}{describe(error)}") from error

    def result_files(self, asked_for: str | None) -> list[Path]:
        """Where the result of an evaluation is kept: in the folder of the run, if there is one, and by `--json`."""
        checkpoint, files = self.checkpoint_path or "", []
        if settings := settings_file_of(checkpoint):
            files.append(settings.with_name(f"{self.subcommand}_{Path(checkpoint).stem}.json"))
        if asked_for is not None:
            check_folder("--json", asked_for)
            files.append(Path(asked_for))
        return files

    def after_instantiate_classes(self) -> None:
        """Count the processes, and try the checkpoint, before anything is written."""
        cores, processes = os.cpu_count() or 1, self.trainer.num_devices
        if self.trainer.strategy.root_device.type == "cpu" and processes > PER_CORE * cores:
            raise UserError(f"--trainer.devices {processes}: this machine has {cores} cores, for a process each")
        if self.step is not None:
            devices, nodes = self.trainer.num_devices, self.trainer.num_nodes
            command = f"{self.subcommand} --trainer.devices {devices} --trainer.num_nodes {nodes}"
            self.step.check(command, devices, nodes)
        if self.subcommand == "predict" and self.trainer.world_size > 1:
            raise UserError(f"--trainer.devices is {self.trainer.world_size}: predict runs in one process")
        if self.checkpoint is None:
            return
        self.model.load_state_dict(self.checkpoint["state_dict"])
        if self.subcommand == "fit":
            try:
                check_state_of_training(self.checkpoint, self.trainer, self.model)
            except UserError as error:
                raise UserError(f"--ckpt_path {self.checkpoint_path}: {error}") from None
        if self.trainer.is_global_zero:
            data = self.checkpoint["datamodule_hyper_parameters"]["dataset"]
            print(f"checkpoint: {self.checkpoint_path}, trained on {data}", file=sys.stderr)

    @staticmethod
    def configure_optimizers(
        lightning_module: LightningModule, optimizer: Optimizer, lr_scheduler: LRScheduler | None = None
    ) -> tuple[list[Optimizer], list[dict[str, Any]]]:
        """Use --optimizer, and --lr_scheduler, stepped as its documentation says, or --model.schedule."""
        assert isinstance(lightning_module, MLPClassifier)
        if lr_scheduler is None:
            return [optimizer], lightning_module.schedulers(optimizer)
        interval = "step" if isinstance(lr_scheduler, PER_BATCH) else "epoch"
        monitor = getattr(lr_scheduler, "monitor", None)  # of a ReduceLROnPlateau
        return [optimizer], [{"scheduler": lr_scheduler, "interval": interval, "monitor": monitor}]

    def before_fit(self) -> None:
        """Log into a new folder, or into that of the run that is resumed."""
        trainer = self.config_init.fit.trainer
        if not isinstance(trainer.logger, bool | None) or self.trainer.fast_dev_run:
            return
        logs, folder = Path(trainer.default_root_dir or "") / LOGS, run_of(self.checkpoint_path)
        version = step = None
        if self.checkpoint and folder and folder.parent.resolve() == logs.resolve():
            version, step = folder.name, self.checkpoint["global_step"]
        if trainer.logger is False:
            self.trainer.logger = RunFolder(logs, version)
        else:
            label = label_of(self.model, self.datamodule, self.config.fit.optimizer)
            self.trainer.logger = RunLogger(logs, label, version, purge_step=step)

    def fit(self, model: MLPClassifier, datamodule: MNISTDataModule, ckpt_path: str | None) -> None:
        """Train; an error of Lightning's or torch's becomes a line."""
        try:
            self.trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
        except (UserError, MisconfigurationException, OSError):
            raise
        except Exception as error:
            raise in_training(self.trainer, error) from error

    def validate(self, model: MLPClassifier, datamodule: MNISTDataModule, ckpt_path: str) -> None:
        """Validate; ResultTable prints the result."""
        self.trainer.validate(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False)

    def test(self, model: MLPClassifier, datamodule: MNISTDataModule, ckpt_path: str) -> None:
        """Test, and draw the errors if `--errors` asks for it and can have it, else raise a UserError."""
        picture = self.config_init.test.errors
        if picture is not None:
            if Path(picture).suffix.lower() not in (".png", ".pdf", ".svg"):
                raise UserError(f"--errors {picture}: give a name that ends in .png, .pdf or .svg")
            check_folder("--errors", picture)
            if self.trainer.world_size > 1:
                raise UserError(f"--errors {picture}: needs --trainer.devices 1")
            if self.trainer.limit_test_batches == 0:
                raise UserError("--trainer.limit_test_batches 0 leaves no image to draw")
        self.trainer.test(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False)
        if picture is not None:
            self.trainer.limit_predict_batches = self.trainer.limit_test_batches
            labels, scores = self.predictions(ckpt_path)
            wrong = (scores.argmax(dim=1) != labels).nonzero().flatten()
            images = datamodule.test_set[0].cpu()[wrong]
            title = f"{len(wrong):,} of {len(labels):,} test images are classified wrong"
            draw_errors(images, labels[wrong], scores[wrong], wrong, title).savefig(picture, dpi=120)
            print(labelled("written", picture))

    def predict(self, model: MLPClassifier, datamodule: MNISTDataModule, ckpt_path: str) -> None:
        """Classify the images of `--images`, or the test images; raise a UserError if not all can be used."""
        config = self.config_init.predict
        if config.images:
            csv = Path(config.csv or Path(config.trainer.default_root_dir or "") / LOGS / "predictions.csv")
            inputs = config.save_inputs and Path(config.save_inputs)
            classify_images(model.eval(), config.images, csv, inputs, config.strict)
            return
        for option in ("csv", "save_inputs", "strict"):
            if config[option] not in (None, False):
                raise UserError(f"--{option} {config[option]}: is for your own images, give --images")
        print_predictions(*self.predictions(ckpt_path))

    def predictions(self, ckpt_path: str) -> list[torch.Tensor]:
        """Labels, (N,) int64, and scores, (N, 10) float32, of the test images, on the CPU."""
        batches = self.trainer.predict(
            self.model, datamodule=self.datamodule, return_predictions=True, ckpt_path=ckpt_path
        )
        if not batches:
            raise UserError("--trainer.limit_predict_batches leaves no image to classify")
        return [torch.cat(parts).cpu() for parts in zip(*batches, strict=True)]
