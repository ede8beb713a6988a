"""The pattern in other hands: own networks, data, step sizes and schedulers, Lightning's clipping, and checkpoints."""

import copy
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import RUNS, SMALL, Error, Run, assert_same_parameters, checkpoint, scalars
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

from mnist_mlp import LOSSES, MLP, Classifier, MLPClassifier, MNISTDataModule
from mnist_mlp.errors import UserError
from mnist_mlp.gradient import GradientDescent, loss_and_gradient, sgd, trainable
from mnist_mlp.manual_optimization import ManualOptimization, refuse_unsupported
from mnist_mlp.runtime.fast_training import FastClassifier, FastDataModule
from mnist_mlp.studies.report import Report
from mnist_mlp.studies.training_runs import train_run

CLASSES = 4


def images(one_hot: bool = False) -> TensorDataset:
    """160 images, (3, 8, 8), whose class is the brightest quarter of the first channel."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(160, 3, 8, 8, generator=generator), torch.arange(160) % CLASSES
    for image, label in zip(x, y.tolist(), strict=True):
        image[0, 2 * label : 2 * label + 2] += 1
    return TensorDataset(x, F.one_hot(y, CLASSES).float() if one_hot else y)


def batches(one_hot: bool = False, shuffle: bool = False) -> DataLoader:
    """The images in 8 batches."""
    return DataLoader(images(one_hot), batch_size=20, shuffle=shuffle)


def convolutional() -> nn.Sequential:
    """A network with batch norm and dropout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(144, CLASSES)
    )


def perceptron() -> MLP:
    """A network without randomness or state."""
    torch.manual_seed(0)
    return MLP((7,), in_features=192, num_classes=CLASSES)


def quiet_trainer(**settings: Any) -> Trainer:
    """A trainer that writes nothing."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **{"max_epochs": 2, **quiet, **settings})


class Own(Classifier):
    """A classifier with optimizers and schedulers of a test's own."""

    def __init__(self, net: nn.Module, configure: Any, **settings: Any) -> None:
        super().__init__(net, **settings)
        self.configure = configure
        self.lrs: list[float] = []

    def configure_optimizers(self) -> Any:
        return self.configure(trainable(self.net))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Any]:
        self.lrs.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return super().training_step(batch, batch_idx)


class Automatic(Own):
    """The same by Lightning's own, automatic optimization."""

    own_callbacks = ()

    def configure_callbacks(self) -> list[Callback]:
        self.automatic_optimization = True
        return []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.lrs.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        x, y = batch
        return self.loss_fn(self.net(x), y)

    def on_train_epoch_end(self) -> None:
        pass


def trained_alike(configure: Any, **settings: Any) -> tuple[Own, Own]:
    """The explicit run and Lightning's, from the same weights and batches."""
    runs = []
    for kind in (Own, Automatic):
        model = kind(perceptron(), configure, loss="cross_entropy")
        quiet_trainer(**{"max_epochs": 5, **settings}).fit(model, batches(), batches())
        runs.append(model)
    explicit, automatic = runs
    assert not explicit.automatic_optimization
    for name, parameter in automatic.state_dict().items():
        torch.testing.assert_close(explicit.state_dict()[name], parameter)
    return explicit, automatic


@pytest.mark.parametrize("loss", ["mse", "squared", "cross_entropy"])
def test_a_convolutional_network_learns_from_a_plain_loader(loss: str) -> None:
    trainer, model = quiet_trainer(max_epochs=20), Classifier(convolutional(), loss=loss, lr=0.1)
    trainer.fit(model, batches(shuffle=True), batches())
    assert trainer.global_step == 160
    (result,) = trainer.test(model, batches(), verbose=False)
    assert result["test/accuracy"] > 0.9
    accuracies = [result[f"test/accuracy_of_{label}"] for label in range(CLASSES)]
    assert sum(accuracies) / CLASSES == pytest.approx(result["test/accuracy"])
    assert result["test/errors"] == pytest.approx(160 * (1 - result["test/accuracy"]))
    labels, scores = (torch.cat(parts) for parts in zip(*trainer.predict(model, batches()), strict=True))
    assert scores.shape == (160, CLASSES)
    assert (scores.argmax(dim=1) == labels).float().mean() == pytest.approx(result["test/accuracy"])


@pytest.mark.parametrize("loss", ["mse", "squared", "cross_entropy"])
def test_labels_train_as_their_one_hot_targets_do(loss: str) -> None:
    ends = []
    for one_hot in (False, True):
        model = Classifier(perceptron(), loss=loss)
        trainer = quiet_trainer()
        trainer.fit(model, batches(one_hot), batches(one_hot))
        ends.append((model.state_dict(), {name: value.item() for name, value in trainer.callback_metrics.items()}))
    for name, parameter in ends[0][0].items():
        torch.testing.assert_close(ends[1][0][name], parameter)
    assert ends[0][1] == pytest.approx(ends[1][1])


def test_frozen_parameters_stay_and_groups_have_step_sizes_of_their_own() -> None:
    net = perceptron()
    net.fc1.weight.requires_grad = False
    before = copy.deepcopy(net.state_dict())
    gradient = dict(zip(("fc1.bias", "fc2.weight", "fc2.bias"), gradient_of_all(net), strict=True))

    def configure(parameters: list[nn.Parameter]) -> GradientDescent:
        bias, *head = parameters
        return GradientDescent([{"params": [bias], "lr": 0.01}, {"params": head}], lr=0.5)

    quiet_trainer(max_steps=1).fit(Own(net, configure), DataLoader(images(), batch_size=160))
    assert torch.equal(net.fc1.weight, before["fc1.weight"])
    for name, lr in (("fc1.bias", 0.01), ("fc2.weight", 0.5), ("fc2.bias", 0.5)):
        torch.testing.assert_close(net.get_parameter(name), before[name] - lr * gradient[name])


def gradient_of_all(net: nn.Module) -> tuple[Tensor, ...]:
    """The gradient over all images."""
    model = Classifier(net)
    return loss_and_gradient(net, model.loss_fn, *images().tensors)[1]


def test_a_layer_that_is_frozen_in_mid_run_stays(tmp_path: Path) -> None:
    net, seen = perceptron(), []

    class Freeze(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            net.fc1.requires_grad_(trainer.current_epoch == 0)
            seen.append(net.fc1.weight.detach().clone())

    trainer = quiet_trainer(max_epochs=3, callbacks=[Freeze()])
    trainer.fit(Classifier(net), batches())
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
    assert torch.equal(net.fc1.weight, seen[1])


def test_the_notebooks_loop_leaves_frozen_parameters() -> None:
    net = perceptron()
    net.fc1.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    list(sgd(net, F.cross_entropy, batches(), lr=0.1))
    changed = {name for name, parameter in net.state_dict().items() if not torch.equal(parameter, before[name])}
    assert changed == {"fc2.weight", "fc2.bias"}


def one_cycle(parameters: list[nn.Parameter]) -> Any:
    optimizer = SGD(parameters, lr=0.1, momentum=0.9)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": OneCycleLR(optimizer, 0.1, 41), "interval": "step"}}


def every_third(parameters: list[nn.Parameter]) -> Any:
    optimizer = GradientDescent(parameters, lr=0.1)
    config = {"scheduler": ExponentialLR(optimizer, 0.9), "interval": "step", "frequency": 3}
    return [optimizer], [config]


def every_second_epoch(parameters: list[nn.Parameter]) -> Any:
    optimizer = GradientDescent(parameters, lr=0.1)
    return [optimizer], [{"scheduler": StepLR(optimizer, 1, 0.5), "frequency": 2}]


def on_plateau(parameters: list[nn.Parameter]) -> Any:
    optimizer = GradientDescent(parameters, lr=1e-4)  # so small that nothing improves
    scheduler = ReduceLROnPlateau(optimizer, patience=0, threshold=0.1)
    return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "val/loss"}


def on_absent_metric(parameters: list[nn.Parameter]) -> Any:
    optimizer = GradientDescent(parameters, lr=0.1)
    config = {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "val/nothing", "strict": False}
    return {"optimizer": optimizer, "lr_scheduler": config}


@pytest.mark.parametrize("configure", [one_cycle, every_third, every_second_epoch, on_plateau, on_absent_metric])
def test_schedulers_are_stepped_as_lightning_does(configure: Any) -> None:
    explicit, automatic = trained_alike(configure)
    assert explicit.lrs == pytest.approx(automatic.lrs, rel=1e-12)
    if configure is not on_absent_metric:
        assert len(set(explicit.lrs)) > 1


def test_blocks_step_schedulers_at_the_same_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: dict[type, list[float]] = {}

    def run(kind: type[MLPClassifier], data: type[MNISTDataModule]) -> None:
        class Scheduled(kind):
            def configure_optimizers(self) -> Any:
                return every_third(trainable(self.net))

            def training_step(self, *args: Any) -> dict[str, Any]:
                lr = self.trainer.optimizers[0].param_groups[0]["lr"]
                output = super().training_step(*args)
                seen.setdefault(kind, []).extend(output.get("lr", [lr]))  # of a block's updates
                return output

        trainer = quiet_trainer(num_sanity_val_steps=0)
        trainer.fit(Scheduled((5,)), data(source="digits", batch_size=1000))

    run(MLPClassifier, MNISTDataModule)
    run(FastClassifier, FastDataModule)
    assert len(seen[MLPClassifier]) == 110
    assert seen[FastClassifier] == seen[MLPClassifier]


def test_a_metric_to_monitor_that_is_not_logged_is_named() -> None:
    def configure(parameters: list[nn.Parameter]) -> Any:
        optimizer = GradientDescent(parameters, lr=0.1)
        return {"optimizer": optimizer, "lr_scheduler": ReduceLROnPlateau(optimizer), "monitor": "val/nothing"}

    with pytest.raises(ValueError, match=r"monitors val/nothing, which is not logged: choose one of .*val/loss"):
        quiet_trainer().fit(Own(perceptron(), configure), batches(), batches())


def test_several_optimizers_are_refused() -> None:
    def configure(parameters: list[nn.Parameter]) -> Any:
        return [GradientDescent([parameter], lr=0.1) for parameter in parameters]

    with pytest.raises(RuntimeError, match="multiple optimizers"):
        quiet_trainer().fit(Own(perceptron(), configure), batches())


def plain(parameters: list[nn.Parameter]) -> GradientDescent:
    return GradientDescent(parameters, lr=0.5)


@pytest.mark.parametrize(("value", "algorithm"), [(0.05, "norm"), (0.01, "value"), (100.0, "norm"), (0.05, None)])
def test_clipping_is_lightnings_and_that_by_hand(value: float, algorithm: str | None) -> None:
    explicit, _ = trained_alike(plain, max_epochs=1, gradient_clip_val=value, gradient_clip_algorithm=algorithm)
    net = perceptron()
    for x, y in batches():
        gradient = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradient))
        with torch.no_grad():
            for u, g in zip(net.parameters(), gradient, strict=True):
                u -= 0.5 * (g.clamp(-value, value) if algorithm == "value" else g * min(1, value / norm))
    for name, parameter in net.state_dict().items():
        torch.testing.assert_close(explicit.net.state_dict()[name], parameter, rtol=1e-4, atol=1e-6)


def test_clipped_runs_in_blocks_are_the_plain_ones_and_go_on_exactly(run: Run) -> None:
    clip = ("--trainer.gradient_clip_val", 0.01, "--model.log_grad_norm", "true", "--trainer.log_every_n_steps", 5)
    run("fit", *SMALL, *clip, "--trainer.max_epochs", 1)
    seed_everything(0)
    model, data = MLPClassifier((20,)), MNISTDataModule(source="digits", batch_size=1000)
    quiet_trainer(max_epochs=1, gradient_clip_val=0.01).fit(model, data)
    whole = checkpoint()["state_dict"]
    for name, parameter in model.state_dict().items():
        torch.testing.assert_close(whole[name], parameter, rtol=1e-4, atol=1e-6)
    norms = scalars()["train/grad_norm"]
    assert [step for step, _ in norms] == list(range(4, 55, 5))
    assert min(value for _, value in norms) > 0.01  # before clipping

    run("fit", *SMALL, *clip, "--trainer.max_steps", 30)
    run("fit", "--ckpt_path", "last", "--trainer.max_steps", -1, "--trainer.max_epochs", 1)
    assert_same_parameters(checkpoint(version=1)["state_dict"], whole)
    assert scalars(1)["train/grad_norm"] == norms


def test_the_logged_norm_is_the_gradients() -> None:
    trainer, net = quiet_trainer(max_steps=1, log_every_n_steps=1), perceptron()
    expected = math.sqrt(sum(float(g.square().sum()) for g in gradient_of_all(net)))
    model = Classifier(net, log_grad_norm=True)
    trainer.fit(model, DataLoader(images(), batch_size=160))
    assert trainer.callback_metrics["train/grad_norm"].item() == pytest.approx(expected, rel=1e-5)


def test_float64_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(precision="64-true", accelerator="cpu", logger=False)
    monkeypatch.setattr(type(trainer.strategy), "root_device", torch.device("mps"))
    with pytest.raises(UserError, match="MPS has no float64, use accelerator=cpu"):
        refuse_unsupported(trainer, MLPClassifier())


def test_accumulation_is_refused_with_its_replacement() -> None:
    with pytest.raises(ValueError, match="use batches of 4 times the size, which make the same updates"):
        quiet_trainer(accumulate_grad_batches=4).fit(Classifier(perceptron()), batches())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"lr": -1}, "lr: must be >0 and <inf, not -1"),
        ({"lr": "fast"}, "lr: must be a float, not 'fast'"),
        ({"lr": "0.1"}, "lr: must be 0.1, not the string '0.1'"),
        ({"log_grad_norm": "false"}, "log_grad_norm: must be False, not the string 'false'"),
        ({"lr": None}, "lr: must be 0.1 or the like, not None"),
        ({"activation": "tanh"}, "activation: must be one of 'softplus', 'relu', not 'tanh'"),
        ({"loss": "nll"}, "loss: must be one of 'mse', 'squared', 'cross_entropy', not 'nll'"),
        ({"hidden": 100}, r"hidden: must be a number or several, as 1,2,3, not '100'"),
        ({"hidden": (5, -1)}, "hidden: must be >0, not -1"),
        ({"hidden": (2.5,)}, "hidden: must be an int, not 2.5"),
        ({"patience": 0}, "patience: must be >0, not 0"),
    ],
)
def test_wrong_arguments_in_python_get_the_sentence_of_the_command_line(
    arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        MLPClassifier(**arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"batch_size": 0}, "batch_size: must be >0, not 0"),
        ({"val_size": -1}, "val_size: must be >=0, not -1"),
        ({"source": "cifar"}, "source: must be one of 'auto', 'mnist', 'digits', not 'cifar'"),
    ],
)
def test_wrong_arguments_of_the_data(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        MNISTDataModule(**arguments)


def test_classifier_checks_its_arguments_too() -> None:
    with pytest.raises(ValueError, match=r"^loss: must be one of"):
        Classifier(perceptron(), loss="nll")


class Wide(MLPClassifier):
    """A subclass with an argument of its own."""

    def __init__(self, width: int = 6, **settings: Any) -> None:
        super().__init__(hidden=(width,), **settings)


class OwnData(LightningDataModule):
    """MNIST's form and another module."""

    def __init__(self, number: int = 100) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> DataLoader:
        x, y = torch.randn(self.hparams.number, 784), torch.arange(self.hparams.number) % 10
        return DataLoader(TensorDataset(x, y), batch_size=10)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Wide, Path]:
    """A trained subclass, and its checkpoint from a run on other data."""
    monkeypatch.chdir(tmp_path)
    model = Wide(width=5, lr=0.3, schedule="cosine")
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(model, OwnData())
    trainer.save_checkpoint("own.ckpt")
    return model, tmp_path / "own.ckpt"


def test_a_checkpoint_of_a_subclass_and_other_data_is_loaded(saved: tuple[Wide, Path]) -> None:
    model, path = saved
    loaded = Wide.load_from_checkpoint(path)
    assert loaded.hparams == model.hparams
    assert_same_parameters(loaded.state_dict(), model.state_dict())


def test_lightnings_keywords_and_other_settings(saved: tuple[Wide, Path]) -> None:
    model, path = saved
    assert MLPClassifier.load_from_checkpoint(path, hidden=(5,)).hparams.hidden == [5]
    loaded = Wide.load_from_checkpoint(path, map_location="cpu", strict=True, weights_only=False, lr=0.05)
    assert loaded.hparams.lr == 0.05
    assert loaded.hparams.schedule == "cosine"
    content = torch.load(path, weights_only=True)
    del content["state_dict"]["net.fc2.bias"]
    torch.save(content, "part.ckpt")
    with pytest.raises(RuntimeError, match=r"net\.fc2\.bias"):
        Wide.load_from_checkpoint("part.ckpt")
    assert torch.equal(Wide.load_from_checkpoint("part.ckpt", strict=False).net.fc1.weight, model.net.fc1.weight)


def test_a_classifier_is_loaded_into_a_network(tmp_path: Path) -> None:
    model, trainer = Classifier(convolutional(), loss="cross_entropy", lr=0.2), quiet_trainer(max_epochs=1)
    trainer.fit(model, batches())
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "own.ckpt", net=convolutional())
    assert loaded.hparams == model.hparams == {"loss": "cross_entropy", "lr": 0.2, "log_grad_norm": False}
    assert_same_parameters(loaded.state_dict(), model.state_dict())


def test_a_subclass_is_trained_with_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = MNISTDataModule(source="digits", batch_size=1000)
    data.setup("fit")
    report = Report(tmp_path / "logs", "study")
    points = train_run(Wide(width=4, lr=0.3), data, report, "cosine", 1, schedule="cosine")
    assert points[-1].updates == 55
    assert points[-1].lr < 0.01
    report.settings(Wide(), data)
    report.close({"next": "python -m mnist_mlp fit"})
    assert "python -m mnist_mlp" not in capsys.readouterr().out  # no command knows the class


def test_the_newest_run_may_be_one_from_python(run: Run, error: Error) -> None:
    run("fit", *SMALL, "--trainer.max_epochs", 1)
    model, data = MLPClassifier((20,)), MNISTDataModule(source="digits", batch_size=1000)
    trainer = Trainer(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    trainer.fit(model, data)
    name = "lightning_logs/version_1/checkpoints/epoch=0-step=55.ckpt"
    assert Path(name).is_file()
    for which in ("best", "last"):
        output, messages = run("test", "--ckpt_path", which)
        assert name in messages
        assert "test/accuracy" in output
    Path(name).with_name("epoch=0-step=30.ckpt").write_bytes(Path(name).read_bytes())
    line = error("test", "--ckpt_path", "best")
    assert "the newest run, lightning_logs/version_1, has only epoch=0-step=30, epoch=0-step=55" in line
    run("fit", *SMALL, "--trainer.max_steps", 1)  # ends before a validation chooses the best
    assert "version_2, has only last" in error("test")


def test_divergence_names_a_command_only_where_it_can_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    class OwnFast(FastClassifier):
        pass

    for kind, part in ((FastClassifier, "python -m mnist_mlp find_lr"), (OwnFast, "try a smaller one")):
        with pytest.raises(ValueError, match=part):
            quiet_trainer().fit(kind((5,), lr=1e6), FastDataModule(source="digits", batch_size=1000))


def test_a_trainer_that_is_used_twice_keeps_its_callbacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "lightning.pytorch.utilities.rank_zero")
    trainer, model = quiet_trainer(max_steps=2), FastClassifier((5,))
    data = FastDataModule(source="digits", batch_size=1000)
    for _ in range(2):
        trainer.fit(model, data)
        trainer.test(model, data, verbose=False)
    assert "override existing callbacks" not in caplog.text
    assert not any(isinstance(callback, ManualOptimization) for callback in trainer.callbacks)


def test_a_second_fit_of_the_same_model_is_clipped_too() -> None:
    model = Classifier(perceptron(), lr=1e9)
    for _ in range(2):
        quiet_trainer(max_epochs=1, gradient_clip_val=1e-12).fit(model, batches())
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_another_module_trains_by_the_same_trainer() -> None:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(Classifier(perceptron()), batches())
    other = Automatic(perceptron(), plain)
    before = copy.deepcopy(other.state_dict())
    trainer.fit_loop.max_epochs = 3
    trainer.fit(other, batches())
    assert other.automatic_optimization
    assert not torch.equal(other.net.fc1.weight, before["net.fc1.weight"])


def test_a_run_resumed_from_any_checkpoint_has_the_schedulers_step_size(tmp_path: Path) -> None:
    """Also from one that was saved at the last update of an epoch."""
    saver = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=8, filename="{step}")
    whole = Own(perceptron(), every_second_epoch)
    quiet_trainer(max_epochs=5, enable_checkpointing=True, callbacks=[saver]).fit(whole, batches())
    for step in (8, 16, 24):
        resumed = Own(perceptron(), every_second_epoch)
        quiet_trainer(max_epochs=5).fit(resumed, batches(), ckpt_path=tmp_path / f"step={step}.ckpt")
        assert resumed.lrs == whole.lrs[step:]
        assert_same_parameters(resumed.state_dict(), whole.state_dict())


def test_forward_and_parameters_of_a_subclass_are_trained() -> None:
    class Scaled(Classifier):
        def __init__(self) -> None:
            super().__init__(perceptron())
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * self.net(x)

    model = Scaled()
    quiet_trainer().fit(model, batches(), batches())
    assert model.scale != 1


def test_a_module_among_the_arguments_is_not_saved(tmp_path: Path) -> None:
    class Headed(Classifier):
        def __init__(self, backbone: nn.Module, lr: float = 0.1) -> None:
            super().__init__(nn.Sequential(backbone, nn.Linear(7, CLASSES)), lr=lr)

    def backbone() -> MLP:
        return MLP((), in_features=192, num_classes=7)

    trainer, model = quiet_trainer(max_steps=1), Headed(backbone(), lr=0.3)
    trainer.fit(model, batches())
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    loaded = Headed.load_from_checkpoint(tmp_path / "own.ckpt", backbone=backbone())
    assert_same_parameters(loaded.state_dict(), model.state_dict())
    assert loaded.hparams.lr == 0.3


def test_a_setting_that_a_class_does_not_let_through_is_named(tmp_path: Path) -> None:
    class Opaque(Classifier):
        def __init__(self, **settings: Any) -> None:
            options = dict(settings)
            super().__init__(perceptron(), **options)

    trainer = quiet_trainer(max_steps=1)
    trainer.fit(Opaque(loss="cross_entropy"), batches())
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    with pytest.raises(ValueError, match="does not take `loss` on"):
        Opaque.load_from_checkpoint(tmp_path / "own.ckpt")
    assert Opaque.load_from_checkpoint(tmp_path / "own.ckpt", loss="cross_entropy").hparams.loss == "cross_entropy"


def test_what_would_not_happen_is_refused() -> None:
    class Warm(Classifier):
        def optimizer_step(self, *args: Any, **kwargs: Any) -> None: ...

    def by_updates(parameters: list[nn.Parameter]) -> Any:
        optimizer = GradientDescent(parameters, lr=0.1)
        scheduler = {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "val/loss", "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    for model, part in (
        (Warm(perceptron()), r"Warm\.optimizer_step would not be called: override `update`"),
        (Own(perceptron(), by_updates), "goes by epochs"),
        (Own(perceptron(), torch.optim.LBFGS), "LBFGS needs several gradients"),
    ):
        with pytest.raises(ValueError, match=part):
            quiet_trainer().fit(model, batches(), batches())
    quiet_trainer(accumulate_grad_batches=4).validate(Classifier(perceptron()), batches(), verbose=False)


def test_a_validation_of_a_subclass_takes_the_place_of_ours() -> None:
    class Other(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/own", 1.0)

    trainer, model = quiet_trainer(max_epochs=1), Other(perceptron())
    trainer.fit(model, batches(), batches())
    assert {"val/own", "train/loss"} <= trainer.callback_metrics.keys()
    assert "test/accuracy" in trainer.test(model, batches(), verbose=False)[0]


@pytest.mark.parametrize("loss", ["mse", "squared", "cross_entropy"])
def test_labels_of_any_integers_and_targets_of_integers(loss: str) -> None:
    x, y = images().tensors
    expected, _ = loss_and_gradient(perceptron(), LOSSES[loss], x, y)
    for given in (y.int(), y.short(), F.one_hot(y, CLASSES)):
        torch.testing.assert_close(loss_and_gradient(perceptron(), LOSSES[loss], x, given)[0], expected)
    with pytest.raises(ValueError, match=r"targets have the shape \(160, 1\), outputs \(160, 4\): give labels"):
        loss_and_gradient(perceptron(), LOSSES[loss], x, y[:, None])


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.full)])
def test_a_compiled_module_trains_to_the_same_losses(backend: str) -> None:
    if backend == "inductor" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("needs a C++ compiler")
    ends = []
    for compiled in (False, True):
        model = Classifier(perceptron(), loss="cross_entropy")
        trainer = quiet_trainer(max_epochs=3)
        trainer.fit(torch.compile(model, backend=backend) if compiled else model, batches(), batches())
        ends.append(trainer.callback_metrics["val/loss"].item())
        assert trainer.global_step == 24
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)


def test_missing_arguments_of_a_scheduler_are_named_with_their_option(error: Error) -> None:
    assert "--lr_scheduler.T_max" in error("fit", *SMALL, "--lr_scheduler", "CosineAnnealingLR")
    assert "--optimizer.lr" in error("fit", *SMALL, "--optimizer", "GradientDescent")


def test_a_scheduler_by_batches_is_stepped_by_updates(run: Run) -> None:
    momentum = ("--optimizer", "SGD", "--optimizer.lr", 0.1, "--optimizer.momentum", 0.9)
    cycle = ("--lr_scheduler", "OneCycleLR", "--lr_scheduler.max_lr", 0.2, "--lr_scheduler.total_steps", 111)
    run("fit", *SMALL, *momentum, *cycle, "--trainer.log_every_n_steps", 1)
    lrs = [value for _, value in scalars()["train/lr"]]
    assert max(lrs) == pytest.approx(0.2, rel=1e-3)
    assert lrs[-1] < 1e-4
    assert RUNS.is_dir()
