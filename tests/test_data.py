"""The data: MNIST's files, the batches, the split, the stand-in and who chooses between them."""

import bz2
import gzip
import lzma
import shutil
import socket
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import put_archives, serve
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchvision import transforms
from torchvision.datasets import MNIST

from mnist_mlp import MNISTDataModule
from mnist_mlp.batches import Batches, EvaluationBatches
from mnist_mlp.datasets import mnist as files
from mnist_mlp.datasets.mnist import fetch_mnist, mnist_exists, read_mnist
from mnist_mlp.errors import NotFoundError, UserError

IMAGES = torch.arange(23)  # images that are their own numbers


def batches(seed: int = 5, batch_size: int = 4, rank: int = 0, world_size: int = 1) -> Batches:
    """Batches of the 23 numbers."""
    return Batches(IMAGES, -IMAGES, batch_size, seed, rank, world_size)


def epoch_of(loader: Batches, epoch: int = 0) -> list[list[int]]:
    """The numbers in each batch of an epoch."""
    loader.set_epoch(epoch)
    return [x.tolist() for x, _ in loader]


def test_an_epoch_is_every_image_once_with_its_target() -> None:
    loader = batches()
    seen = list(loader)
    assert len(seen) == len(loader) == 6
    assert [len(x) for x, _ in seen] == [4, 4, 4, 4, 4, 3]
    assert all(torch.equal(y, -x) for x, y in seen)
    assert sorted(torch.cat([x for x, _ in seen]).tolist()) == IMAGES.tolist()


def test_order_is_a_function_of_seed_and_epoch() -> None:
    assert epoch_of(batches(), 3) == epoch_of(batches(), 3)
    assert epoch_of(batches(), 3) != epoch_of(batches(), 4)
    assert epoch_of(batches(), 3) != epoch_of(batches(seed=6), 3)
    torch.manual_seed(1)  # and of nothing else
    loader = batches()
    epoch_of(loader, 0)
    assert epoch_of(loader, 3) == epoch_of(batches(), 3)


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_union_over_processes_is_the_batch_of_one_process(world_size: int) -> None:
    whole = epoch_of(batches(batch_size=8), 2)
    shares = [
        epoch_of(batches(batch_size=8 // world_size, rank=r, world_size=world_size), 2) for r in range(world_size)
    ]
    assert [sorted(chain(*parts)) for parts in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]


@pytest.mark.parametrize("done", [1, 3, 5])
def test_state_goes_on_with_the_images_not_yet_seen(done: int) -> None:
    loader = batches()
    loader.set_epoch(2)
    iterator = iter(loader)
    for _ in range(done):
        next(iterator)
    state = loader.state_dict()

    resumed = batches()
    resumed.load_state_dict(state)
    assert epoch_of(resumed, 2) == epoch_of(batches(), 2)[done:]
    assert epoch_of(resumed, 3) == epoch_of(batches(), 3)


def test_state_of_a_finished_epoch_leaves_nothing_out_of_the_next() -> None:
    loader = batches()
    epoch_of(loader, 0)
    resumed = batches()
    resumed.load_state_dict(loader.state_dict())
    assert epoch_of(resumed, 1) == epoch_of(batches(), 1)


def test_state_of_another_batch_size_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size"):
        batches(batch_size=8).load_state_dict(batches().state_dict())


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_image_once_over_all_processes(world_size: int) -> None:
    seen = [x for r in range(world_size) for x, _ in EvaluationBatches(IMAGES, -IMAGES, 5, r, world_size)]
    assert sorted(torch.cat(seen).tolist()) == IMAGES.tolist()
    assert all(len(EvaluationBatches(IMAGES, -IMAGES, 5, r, world_size)) > 0 for r in range(world_size))


def ready(**settings: object) -> MNISTDataModule:
    """A data module with its training and validation images read."""
    data = MNISTDataModule(**settings)
    data.prepare_data()
    data.setup("fit")
    return data


def rows(images: Tensor) -> set[bytes]:
    """The images as a set."""
    return {image.numpy().tobytes() for image in images}


def test_split_is_fixed_by_the_seed_and_leaves_no_image_out() -> None:
    data, same, other = (ready(source="digits", val_size=7000, seed=seed) for seed in (1, 1, 2))
    assert (len(data.train_set[0]), len(data.val_set[0])) == (53_000, 7_000)
    assert torch.equal(data.val_set[0], same.val_set[0])
    assert rows(data.val_set[0]) != rows(other.val_set[0])
    everything = ready(source="digits", val_size=0)
    assert everything.val_dataloader() == []
    assert rows(data.train_set[0]) | rows(data.val_set[0]) == rows(everything.train_set[0])


def test_batch_is_what_the_notebooks_transforms_give(mnist_dir: Path) -> None:
    data = ready(data_dir=mnist_dir, source="mnist", val_size=0, batch_size=50)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    notebook = MNIST(mnist_dir, transform=transform, target_transform=lambda label: torch.eye(10)[label])
    x, y = data.train_set
    for i in (0, 1, 59_999):
        image, target = notebook[int(data_index(data, i))]
        torch.testing.assert_close(x[i], image)
        assert torch.equal(y[i], target)
    x, y = next(iter(data.train_dataloader()))
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((50, 1, 28, 28), torch.float32, (50, 10), torch.float32)
    assert abs(data.train_set[0].mean()) < 1e-3
    assert abs(data.train_set[0].std() - 1) < 1e-3


def data_index(data: MNISTDataModule, i: int) -> int:
    """Where training image i stands in MNIST's own order."""
    x = data.train_set[0][i]
    images = read_mnist(data.hparams.data_dir, train=True)[0]
    pixels = (x[0] * 0.3081 + 0.1307).mul(255).round().byte()
    return int((images == pixels).all(dim=(1, 2)).nonzero()[0])


def test_training_does_not_touch_the_test_set(mnist_dir: Path) -> None:
    """Nothing can be chosen on images that are not even read."""
    data = ready(data_dir=mnist_dir, source="mnist")
    assert not hasattr(data, "test_set")
    assert not rows(data.val_set[0]) & rows(data.train_set[0][:1000])


def test_four_archives_put_there_by_hand_are_enough(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = put_archives(archives, tmp_path)
    fetch_mnist(tmp_path)
    assert mnist_exists(tmp_path)
    images, labels = read_mnist(tmp_path, train=False)
    assert images.shape == (10_000, 28, 28)
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MNIST"]
    for archive in raw.glob("*.gz"):  # and so are the four files in them
        archive.unlink()
    fetch_mnist(tmp_path)
    assert ready(data_dir=tmp_path, source="mnist").dataset == "mnist"


def test_download_into_place(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(archives) as url:
        monkeypatch.setattr(MNIST, "mirrors", [url])
        fetch_mnist(tmp_path)
    assert mnist_exists(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MNIST"]
    messages = capsys.readouterr().err
    assert "MNIST has been downloaded" in messages
    assert "\r" not in messages  # no bars where there is no terminal


def test_download_of_something_else_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = tmp_path / "served"
    served.mkdir()
    for name, _ in MNIST.resources:
        (served / name).write_bytes(gzip.compress(b"a hotel's log-in page"))
    with serve(served) as url:
        monkeypatch.setattr(MNIST, "mirrors", [url])
        with pytest.raises(NotFoundError, match="corrupted"):
            fetch_mnist(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_mirror_that_never_answers_costs_the_time_limit_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"])
        assert files.TIME_TO_REACH == 15
        monkeypatch.setattr(files, "TIME_TO_REACH", 1.0)
        with ThreadPoolExecutor() as pool, pytest.raises(NotFoundError, match="no mirror"):
            pool.submit(fetch_mnist, tmp_path / "data").result(timeout=300)  # and not for ever


def test_name_of_a_mirror_that_is_never_resolved_costs_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What some firewalls do: no time limit of a connection bounds it."""
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: released.wait() and [])
    monkeypatch.setattr(files, "TIME_TO_REACH", 1.0)
    with ThreadPoolExecutor() as pool:
        try:
            assert not pool.submit(files.mirrors_answer).result(timeout=300)
        finally:
            released.set()


@pytest.mark.parametrize("name", [name for name, _ in MNIST.resources])
@pytest.mark.parametrize("damage", ["truncated", "corrupted", "foreign"])
def test_broken_archive_is_named_and_never_trained_on(name: str, damage: str, archives: Path, tmp_path: Path) -> None:
    path = put_archives(archives, tmp_path) / name
    break_file(path, damage)
    with pytest.raises(UserError, match=rf"{name}.*put the original in its place"):
        MNISTDataModule(data_dir=tmp_path).prepare_data()
    assert not mnist_exists(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "corrupted", "foreign"])
def test_broken_extracted_file_is_named_and_never_trained_on(damage: str, archives: Path, tmp_path: Path) -> None:
    raw = put_archives(archives, tmp_path)
    fetch_mnist(tmp_path)
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    break_file(raw / "t10k-labels-idx1-ubyte", damage)
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte is not MNIST's .*put the original in its place"):
        MNISTDataModule(data_dir=tmp_path).prepare_data()
    shutil.copyfile(archives / "t10k-labels-idx1-ubyte.gz", raw / "t10k-labels-idx1-ubyte.gz")
    before = (raw / "t10k-labels-idx1-ubyte").read_bytes()
    MNISTDataModule(data_dir=tmp_path).prepare_data()
    assert read_mnist(tmp_path, train=False)[1][:5].tolist() == [7, 2, 1, 0, 4]
    assert (raw / "t10k-labels-idx1-ubyte").read_bytes() == before


def kaggle(name: str) -> str:
    """A folder for each file, of the same name."""
    return f"{name}/{name}"


def bzip2_or_xz(content: bytes) -> bytes:
    """Packed by the one if small, as it is slow, else by the other."""
    return bz2.compress(content) if len(content) < 100_000 else lzma.compress(content, preset=0)


@pytest.mark.parametrize(
    ("place", "wrapping"),
    [
        (lambda name: f"MNIST/raw/{kaggle(name)}", bytes),
        (lambda name: f"MNIST/raw/{name}.gz", lambda content: gzip.compress(content, compresslevel=1)),
        (lambda name: name.replace("-idx", ".idx"), bytes),
        (lambda name: f"mnist/{name}", lambda content: gzip.compress(gzip.compress(content, 1), 1)),
        (lambda name: kaggle(name), bytes),
        (lambda name: f"{name}.packed", lambda content: bzip2_or_xz(content)),
    ],
)
def test_files_in_other_wrappings_are_read(
    place: Callable[[str], str], wrapping: Callable[[bytes], bytes], archives: Path, tmp_path: Path
) -> None:
    for archive in archives.glob("*.gz"):
        path = tmp_path / place(archive.stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wrapping(gzip.decompress(archive.read_bytes())))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    fetch_mnist(tmp_path)
    assert read_mnist(tmp_path, train=False)[1][:5].tolist() == [7, 2, 1, 0, 4]
    assert read_mnist(tmp_path, train=True)[0].shape == (60_000, 28, 28)
    assert all(path.read_bytes() == content for path, content in before.items())
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before.keys()
    fetch_mnist(tmp_path)  # again, which finds them
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before.keys() | made


def test_a_zip_archive_is_read(archives: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as file:
        for archive in archives.glob("*.gz"):
            file.write(archive, kaggle(archive.stem))
    fetch_mnist(tmp_path)
    assert mnist_exists(tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_broken_zip_archive_is_named(method: int, tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("train-images-idx3-ubyte", bytes(range(256)) * 100)
    content = path.read_bytes()
    for start in range(50, 200, 10):
        path.write_bytes(content[:start] + b"\xff\x00\xff\x55" + content[start + 4 :])
        with pytest.raises(UserError, match=r"archive\.zip"):
            fetch_mnist(tmp_path)


def test_a_folder_without_the_file_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").mkdir(parents=True)
    with pytest.raises(NotFoundError, match="no mirror"):
        fetch_mnist(tmp_path)


def break_file(path: Path, damage: str) -> None:
    """Makes a file unusable in one of three ways."""
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "corrupted":
        content[len(content) // 2] ^= 1
    else:
        content = bytearray(b"not a data set")
    path.write_bytes(content)


def test_auto_takes_mnist_where_it_is(mnist_dir: Path) -> None:
    assert ready(data_dir=mnist_dir).dataset == "mnist"


def test_auto_without_mnist_and_network_takes_the_digits_and_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"digits.*not MNIST.*MNIST.raw"):
        data = ready(data_dir=tmp_path / "data")
    assert data.dataset == data.hparams.dataset == "digits"
    assert not (tmp_path / "data").exists()


def test_mnist_asked_for_and_not_to_be_had_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"train-images-idx3-ubyte.gz.*--data.source digits"):
        ready(data_dir=tmp_path / "data", source="mnist")


def test_mnist_asked_for_is_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prepare_data"):
        MNISTDataModule(data_dir=tmp_path, source="mnist").setup("fit")


def test_the_mirrors_are_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not again by a `test` that follows a `fit`."""
    asked = Mock(side_effect=NotFoundError("no network"))
    monkeypatch.setattr("mnist_mlp.data.fetch_mnist", asked)
    data = MNISTDataModule(str(tmp_path))
    for stage in ("fit", "test"):
        data.prepare_data()
        data.setup(stage)
    assert asked.call_count == 1


def test_digits_need_no_directory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert ready(data_dir=file / "data", source="digits").dataset == "digits"


class Plain(LightningModule):
    """A module of somebody else's, which takes batches."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        assert x.shape == (1000, 1, 28, 28)
        assert y.shape == (1000, 10)

    def configure_optimizers(self) -> None:
        return None


def test_the_data_serve_any_module() -> None:
    trainer = Trainer(max_steps=2, limit_train_batches=2, max_epochs=1, accelerator="cpu", logger=False)
    trainer.fit(Plain(), MNISTDataModule(source="digits", batch_size=1000))
    assert trainer.fit_loop.epoch_loop.batch_progress.total.completed == 2
