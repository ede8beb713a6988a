"""The command line: LightningCLI with this project's defaults, checkpoints by name, and errors of one line."""

import inspect
import logging
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mnist_mlp.classifier import MLPClassifier
from mnist_mlp.cli.commands import COMMANDS, METHODOLOGY, OURS, plain, without_images
from mnist_mlp.cli.parser import EPILOG, FOLDER, Parser, Seed, UserError, fail
from mnist_mlp.cli.validation import check_settings
from mnist_mlp.data import MNISTDataModule
from mnist_mlp.datasets.mnist import DataError, mnist_exists, raw_folder
from mnist_mlp.datasets.own_images import save_images
from mnist_mlp.display.drawings import draw_errors
from mnist_mlp.display.progress import ClosingSummary, EpochLines, HyperparametersTable, Pictures
from mnist_mlp.runtime.checkpoints import LOGS, NEEDED, CheckpointError, find_checkpoint, load_checkpoint
from mnist_mlp.runtime.loss_log import TrainingError
from mnist_mlp.runtime.signals import LastCheckpoint, StoppedBySignalError, WholeFiles, signals_as_errors
from mnist_mlp.studies.compare_batch_sizes import compare_batch_sizes
from mnist_mlp.studies.compare_decays import compare_decays
from mnist_mlp.studies.compare_methods import compare_methods
from mnist_mlp.studies.find_lr import find_lr
from mnist_mlp.studies.report import logs_folder, show_table

DEFAULTS = {  # where those of `fit` would show nothing
    "compare_decays": {"model.lr": 0.5, "trainer.max_epochs": 100},
    "compare_methods": {"model.patience": 1, "trainer.max_epochs": 20},
    "prepare_data": {"data.source": "mnist"},
}
CONFIG_FILE = "config.yaml"  # in a run's folder, as Lightning names it


class SaveConfig(SaveConfigCallback):
    """Saves the settings when training starts, so that a resumption that is refused leaves those of the run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Saves nothing yet."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves `config.yaml`, which repeats the run, and so without the checkpoint it was resumed from."""
        self.config = self.config.clone()
        del self.config["ckpt_path"]
        path = Path(trainer.log_dir) / self.config_filename
        self.config_filename += ".part"  # a resumed run reads it, even one killed now
        super().setup(trainer, pl_module, "fit")
        if trainer.is_global_zero:
            path.with_name(self.config_filename).replace(path)


class RunLogger(TensorBoardLogger):
    """TensorBoard's logger in a folder that no other run has, though it be started at the same time."""

    new = False  # whether the folder has been made for this run

    def _get_next_version(self) -> int:
        self.new = True
        version = super()._get_next_version()
        while rank_zero_only.rank == 0:  # the other processes are told
            try:
                Path(self.root_dir, f"version_{version}").mkdir(parents=True)
                break
            except FileExistsError:
                version += 1
        return version

    def finalize(self, status: str) -> None:
        """Closes the files; a run that has ended before it began to train leaves no folder."""
        super().finalize(status)
        folder = Path(self.log_dir)
        if status == "failed" and self.new and rank_zero_only.rank == 0 and not (folder / CONFIG_FILE).exists():
            for events in folder.glob("events.out.tfevents.*"):
                events.unlink()
            with suppress(OSError):  # not empty
                folder.rmdir()
                folder.parent.rmdir()


def prepare_data(trainer: Trainer, model: MLPClassifier, datamodule: MNISTDataModule) -> None:
    """Brings MNIST into its directory, and does nothing else."""
    datamodule.prepare_data()
    folder = raw_folder(datamodule.hparams.data_dir)
    print(f"mnist is ready in {folder}" if datamodule.dataset == "mnist" else "the digits need no preparation")


class CommandTrainer(Trainer):
    """Lightning's trainer with our commands as further methods, which makes them commands."""

    def test(self, *args: Any, errors: str | None = None, **kwargs: Any) -> list[dict[str, float]]:
        """As Lightning's, and draws the errors.

        Args:
            errors: Picture (png, pdf, svg) to draw of all images that are classified wrongly.

        Raises:
            UserError: The picture cannot be there, or there are several processes.
        """
        if errors is not None:
            if Path(errors).suffix.lower() not in (".png", ".pdf", ".svg") or not Path(errors).parent.is_dir():
                raise UserError(f"--errors {errors}: give a name that ends in .png, .pdf or .svg, in a folder")
            if self.world_size > 1:
                raise UserError(f"--errors {errors}: needs --trainer.devices 1")
        results = super().test(*args, **kwargs)
        if errors is not None and self.lightning_module.errors:
            wrong = [torch.cat(parts) for parts in zip(*self.lightning_module.errors, strict=True)]
            draw_errors(*wrong, f"{len(wrong[0]):,} wrong").savefig(errors, dpi=120)
            print(f"{'errors':<11} {errors}")
        return results

    def predict(self, *args: Any, csv: str | None = None, save_inputs: str | None = None, **kwargs: Any) -> None:
        """As Lightning's, and prints one row per image.

        Args:
            csv: File for the table of own images, else predictions.csv in lightning_logs.
            save_inputs: Folder for own images as the network sees them.

        Raises:
            UserError: An option needs own images, or not all of these could be used.
        """
        data = kwargs["datamodule"]
        for option, value in (("csv", csv), ("save_inputs", save_inputs)):
            if value is not None and not data.images:
                raise UserError(f"--{option} {value}: is for own images, give --data.images")
        batches = super().predict(*args, **kwargs)
        if not batches:
            raise UserError("--trainer.limit_predict_batches leaves no image to classify")
        labels, scores = map(torch.cat, zip(*batches, strict=True))
        highest, digits = (each.tolist() for each in scores.topk(2))
        if not data.images:
            print("image,label,prediction,score")
            for image, label in enumerate(labels.tolist()):
                print(f"{image},{label},{digits[image][0]},{highest[image][0]:.4f}")
            return
        rows = [
            {
                "file": str(path),
                "digit": digit,
                "score": round(score, 4),
                "runner-up": second,
                "its score": round(rest, 4),
            }
            for path, (digit, second), (score, rest) in zip(data.own, digits, highest, strict=False)
        ]
        path = Path(csv) if csv else logs_folder(self) / "predictions.csv"
        show_table(rows, path)
        print(f"\n{'written':<11} {path}")
        if save_inputs is not None:
            save_images(data.own, Path(save_inputs))
        left = len(data.found) - len(data.own)
        if left:
            raise UserError(f"{left} of {len(data.found)} images could not be used, as said above")

    prepare_data = prepare_data
    find_lr = find_lr
    compare_batch_sizes = compare_batch_sizes
    compare_decays = compare_decays
    compare_methods = compare_methods


class CLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict`, and the commands of the methodology."""

    def __init__(self, args: list[str] | None = None) -> None:
        self.args, self.images = without_images(sys.argv[1:] if args is None else args)
        self.checkpoint: dict[str, Any] | None = None
        super().__init__(
            MLPClassifier,
            MNISTDataModule,
            trainer_class=CommandTrainer,
            args=self.args,
            save_config_callback=SaveConfig,
            parser_class=Parser,
            parser_kwargs={
                "prog": "python -m mnist_mlp",
                "description": "A softplus multi-layer perceptron, trained on MNIST by explicit gradients.",
                **{
                    name: {"description": text, "epilog": FOLDER if name in METHODOLOGY else EPILOG}
                    for name, text in COMMANDS.items()
                },
            },
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
        try:
            self.config = parser.parse_args(args)
        except UnicodeDecodeError as error:
            raise UserError(f"--config must be text in UTF-8: {error}") from None

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's commands and ours. None lets a checkpoint run code: `weights_only` is no option."""
        ours = {"weights_only", "return_predictions"}
        commands = {name: skipped | ours for name, skipped in LightningCLI.subcommands().items()}
        return commands | {name: {"model", "datamodule"} for name in OURS}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the seed: always a number, so that every run can be repeated."""
        parser.add_argument("--seed_everything", type=Seed, default=0)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds `--pictures.*`, `--checkpoint.*` and `--last.*`; the seed is one for weights, split and batches."""
        parser.add_lightning_class_args(Pictures, "pictures")
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
        if subcommand not in self.args and not COMMANDS.keys().isdisjoint(self.args):
            return self.init_parser(**kwargs)  # no more than its name is needed; all options take 0.1 s
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.usage = f"python -m mnist_mlp {subcommand} [options]"
        parser.groups["trainer"].title = "Training, by Lightning's Trainer"
        parser.groups["pictures"].title = "Pictures in TensorBoard, by the share of the time that they may take"
        parser.groups["optimizer"].title = "Another update rule"
        parser.groups["lr_scheduler"].title = "A step size that changes"
        if subcommand in parser.groups:
            title = "What this command compares" if subcommand in METHODOLOGY else "Checkpoint"
            parser.groups[subcommand].title = title
        parser.set_defaults(DEFAULTS.get(subcommand, {}))
        return parser

    def _parse_ckpt_path(self) -> None:
        """Finds the checkpoint and parses again, with its settings before the arguments given.

        So it is evaluated with its own network, split and batches, and resumed with all settings of its run, unless
        an argument says otherwise. In Lightning's own version the checkpoint overrules the arguments.
        """
        command = self.config.subcommand
        config = self.config[command]
        if command in OURS:
            return
        name = config.ckpt_path or (None if command == "fit" else "best")
        if name is None:
            return
        path = find_checkpoint(name, Path(config.trainer.default_root_dir or ".") / LOGS)
        self.checkpoint = load_checkpoint(path, to_resume=command == "fit")
        self.run_folder = Path(path).parent.parent
        model, data = self.checkpoint["hyper_parameters"], self.checkpoint["datamodule_hyper_parameters"]
        settings = {f"model.{key}": model[key] for key in sorted(NEEDED["hyper_parameters"])}
        own = inspect.signature(MNISTDataModule).parameters.keys() - {"data_dir", "seed", "cross_dataset"}
        settings |= {f"data.{key}": data[key] for key in sorted(own & data.keys())}
        settings["seed_everything"] = data["seed"]
        if mnist_exists(data["data_dir"]):  # or else the checkpoint may come from another machine
            settings["data.data_dir"] = data["data_dir"]
        words = [f"--{key}={plain(value)}" for key, value in settings.items()]
        fixed = ["model.hidden", "model.activation"]
        if command == "fit":
            fixed += ["seed_everything", "data.val_size", "model.schedule", "model.monitor"]
            if Path(path).parent.name == "checkpoints" and (self.run_folder / CONFIG_FILE).is_file():
                words = ["--config", str(self.run_folder / CONFIG_FILE), *words]
                fixed += ["optimizer", "lr_scheduler"]
        trained = self.parser.parse_args([command, *words])[command]
        if trained.optimizer:
            fixed.append("model.lr")  # which has no part in that optimizer
        place = self.args.index(command) + 1
        self.parse_arguments(self.parser, [*self.args[:place], *words, *self.args[place:]])
        config = self.config[command]
        config.ckpt_path = path
        for key in fixed:
            if config[key] != trained[key]:
                given, own = (getattr(value, "class_path", value) for value in (config[key], trained[key]))
                raise UserError(f"--{key} {given} is not as in the run of {path}, which has {own}: leave it out")

    @staticmethod
    def configure_optimizers(
        lightning_module: LightningModule, optimizer: Optimizer, lr_scheduler: LRScheduler | None = None
    ) -> tuple[list[Optimizer], list[LRScheduler]]:
        """What --optimizer and --lr_scheduler or --model.schedule ask for; the module steps schedulers of any kind."""
        return [optimizer], [lr_scheduler] if lr_scheduler else lightning_module.schedulers(optimizer)

    def before_instantiate_classes(self) -> None:
        """Fits the settings that depend on one another."""
        config = self.config[self.subcommand]
        if self.images is not None:
            config.data.images = self.images
        check_settings(self.subcommand, config, self.args)
        if config.data.val_size == 0:
            config.trainer.limit_val_batches = 0
        if config.trainer.limit_val_batches == 0 and str(config.checkpoint.monitor).startswith("val/"):
            config.checkpoint.monitor = None  # the newest checkpoint is the best one
        if config.lr_scheduler and not config.optimizer:  # Lightning would ignore the scheduler
            settings = Namespace(lr=float(config.model.lr), fused=True)  # as `configure_optimizers` has it
            config.optimizer = Namespace(class_path="torch.optim.SGD", init_args=settings)
        if self.subcommand != "fit":
            self.save_config_callback = None
        callbacks = self._parser(self.subcommand).callback_keys
        if self.subcommand != "fit":
            callbacks.clear()
        elif config.trainer.enable_checkpointing is False:
            callbacks[:] = ["pictures"]

    def instantiate_classes(self) -> None:
        """Makes the objects; what they cannot take is a user's error."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise UserError(str(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with a logger only for `fit`, and a progress bar on a terminal or lines elsewhere."""
        config = self.config_init[self.subcommand].trainer
        kwargs["plugins"] = config.plugins or [WholeFiles()]
        if config.logger in (None, True):
            kwargs["logger"] = self.subcommand == "fit" and self.tensorboard_logger(config.default_root_dir or "")
        callbacks = config.callbacks or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        if config.enable_progress_bar is None and not any(isinstance(each, ProgressBar) for each in callbacks):
            kwargs["enable_progress_bar"] = sys.stdout.isatty() and self.subcommand != "predict"
            kwargs["callbacks"] = [*callbacks, TQDMProgressBar() if kwargs["enable_progress_bar"] else EpochLines()]
        return super().instantiate_trainer(**kwargs)

    def tensorboard_logger(self, root: str) -> RunLogger:
        """A logger into a new folder, or into that of the run that is resumed, whose later points it replaces."""
        if self.checkpoint is not None and self.run_folder.parent.resolve() == (Path(root) / LOGS).resolve():
            self.save_config_kwargs = {"overwrite": True}
            place = {"version": self.run_folder.name, "purge_step": self.checkpoint["global_step"]}
        else:
            place = {}
        return RunLogger(root, LOGS, default_hp_metric=False, **place)

    def after_instantiate_classes(self) -> None:
        """Tries the checkpoint before anything is written."""
        if self.subcommand in ("predict", *OURS) and self.trainer.world_size > 1:
            raise UserError(f"--trainer.devices is {self.trainer.world_size}: {self.subcommand} runs in one process")
        if self.checkpoint is None:
            return
        path = self.config[self.subcommand].ckpt_path
        try:
            self.model.load_state_dict(self.checkpoint["state_dict"])
        except RuntimeError:
            raise UserError(f"--ckpt_path {path}: its parameters are not of the network it names") from None
        if self.subcommand == "fit" and not self.same_kind_of_optimizer(self.checkpoint):
            raise UserError(f"--ckpt_path {path}: trained with another --optimizer or --lr_scheduler: name the same")
        self.datamodule.load_state_dict(self.checkpoint["MNISTDataModule"])
        if self.trainer.is_global_zero:
            print("checkpoint:", path, file=sys.stderr)

    def same_kind_of_optimizer(self, checkpoint: dict[str, Any]) -> bool:
        """Whether the states of a checkpoint's optimizer and schedulers have the names that those of this run have."""
        optimizers, schedulers = ([each.state_dict() for each in group] for group in self.model.configure_optimizers())
        saved = checkpoint.get("optimizer_states", []), checkpoint.get("lr_schedulers", [])
        return state_names(optimizers, schedulers) == state_names(*saved)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        return arguments if subcommand in OURS else {**arguments, "weights_only": True}


def state_names(optimizers: list[dict[str, Any]], schedulers: list[dict[str, Any]]) -> list[set[str]]:
    """The names in the states of optimizers and schedulers, which tell one kind from another."""
    return [set(state["param_groups"][0]) for state in optimizers] + [set(state) for state in schedulers]


def main(args: list[str] | None = None) -> None:
    """Runs a command.

    Args:
        args: The words after `python -m mnist_mlp`; those of the command line if not given.

    Raises:
        SystemExit: With code 2 and one line on stderr, for anything that is wrong with the arguments or files; with
            code 1 and one line for a run that diverges; with 130 or 143 after SIGINT or SIGTERM.
    """
    if hasattr(sys.stdout, "reconfigure"):  # as stderr has it: the name of a file need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.showwarning = show_warning
    for category in (FutureWarning, DeprecationWarning):  # for the authors of the libraries
        warnings.filterwarnings("ignore", category=category)
    # As intended: --optimizer replaces SGD, a checkpoint holds the parameters after its update, a resumed run goes on
    # in its folder, and only `fit` saves checkpoints.
    warnings.filterwarnings("ignore", message=".*configure_optimizers` will be overridden")
    warnings.filterwarnings("ignore", message=".*could not find the monitored key")  # no validation yet
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists")
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks")
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        with signals_as_errors():
            CLI(args)
    except (UserError, DataError, CheckpointError, MisconfigurationException) as error:
        fail(str(error))
    except TrainingError as error:
        if rank_zero_only.rank > 0:  # every process has it, one says it
            sys.exit(1)
        fail(str(error), code=1)
    except StoppedBySignalError as stop:
        if rank_zero_only.rank > 0:  # rank 0 says it; torchrun ends the others when one fails
            sys.exit(0)
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a folder that cannot be made, a full disk
        fail(str(error))
    finally:
        # Or a thread of Gloo's may abort Python's own end (pytorch#190489); Lightning sees to NCCL's alone.
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def show_warning(message: Warning | str, *_: object) -> None:
    """A warning as one line, without the place in the code that it comes from."""
    print("warning:", " ".join(str(message).split()), file=sys.stderr)
