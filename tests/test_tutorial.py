"""The notebook in the package: it is made from its source and runs, and a cell can be interrupted."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytest.importorskip("jupytext")
NotebookClient = pytest.importorskip("nbclient").NotebookClient

from mnist_mlp.notebook.__main__ import NOTEBOOK, SOURCE, convert  # noqa: E402

QUICKER = {  # the same cells with small networks, and without a download
    'SOURCE = "auto"': 'SOURCE = "digits"',
    "MLPClassifier(": "MLPClassifier([20], ",
    "[500]": "[20]",
    "grid=[0.1, 0.3, 0.5, 1.0, 2.0], budget=55_000": "batch_sizes=[500, 1000], grid=[0.3, 1.0], budget=5_000",
    "max_epochs=2": "max_epochs=1",
}


def test_the_notebook_is_that_of_its_source() -> None:
    made, kept = convert(SOURCE.read_text(encoding="utf-8")), nbformat.read(NOTEBOOK, as_version=4)
    cells = [[(cell.cell_type, cell.source) for cell in notebook.cells] for notebook in (made, kept)]
    assert cells[0] == cells[1], "run `python -m mnist_mlp.notebook`"
    outputs = [output for cell in kept.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    assert NOTEBOOK.stat().st_size < 400_000
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "data set    mnist" in text
    assert not re.search(r"/home/|/root/|/tmp/|site-packages", text)


def test_the_notebook_runs(tmp_path: Path) -> None:
    source = SOURCE.read_text(encoding="utf-8")
    for slow, quick in QUICKER.items():
        assert slow in source
        source = source.replace(slow, quick)
    notebook = convert(source)
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    text = "".join(output.get("text", "") for output in outputs)
    assert kinds.count("image/png") >= 5
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    assert float(re.search(r"largest difference: (\S+)", text)[1]) < 1e-5
    assert "\ngamma_0 = " in text
    assert re.search(r"\d+ errors: ", text)


CELL = """
import signal
from lightning.pytorch import Trainer
from mnist_mlp import MLPClassifier, MNISTDataModule
from mnist_mlp.runtime.blocks import BlockCallback
from mnist_mlp.runtime.fast_training import FastClassifier, FastDataModule
from mnist_mlp.runtime.last_checkpoint import LastCheckpoint

class Interruptions(BlockCallback):
    left = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        while self.left and trainer.global_step >= 60:
            self.left -= 1
            signal.raise_signal(signal.SIGINT)

stop = Interruptions()
quiet = {"enable_progress_bar": False, "enable_model_summary": False, "max_steps": 150, "max_epochs": -1}
"""
Cell = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    """Runs a cell in one kernel; gives the lines in place of a traceback."""
    client = NotebookClient(
        nbformat.v4.new_notebook(),
        resources={"metadata": {"path": str(tmp_path_factory.mktemp("kernel"))}},
        allow_errors=True,
    )

    def execute(source: str) -> list[str]:
        client.nb.cells.append(nbformat.v4.new_code_cell(source))
        outputs = client.execute_cell(client.nb.cells[-1], len(client.nb.cells) - 1).outputs
        return [line for output in outputs for line in output.get("traceback", [])]

    with client.setup_kernel():
        assert not execute(CELL)
        yield execute


@pytest.mark.parametrize("kind", ["MLPClassifier, MNISTDataModule", "FastClassifier, FastDataModule"])
@pytest.mark.parametrize("presses", [1, 2])
def test_an_interrupted_cell_says_where_its_checkpoint_is(kind: str, presses: int, cell: Cell) -> None:
    cell(f"network, images = {kind}")
    cell("model, data = network([20]), images(source='digits', batch_size=1000)")
    trainer = "Trainer(callbacks=[LastCheckpoint(), stop], devices=1, **quiet)"
    (line,) = cell(f"stop.left = {presses}; {trainer}.fit(model, data)")
    resume = r"stopped by SIGINT; resume with: Trainer\(\.\.\.\)(\.fit\(model, data, ckpt_path='(.*)'\))"
    call, path = re.fullmatch(resume, line).groups()
    saved = torch.load(path, weights_only=True)["global_step"]
    assert 60 <= saved < 150 if presses == 1 else saved == 55  # at once: the end of the epoch before
    assert not cell(f"trainer = {trainer}; trainer{call}; assert trainer.global_step == 150")
    assert not cell("assert signal.getsignal(signal.SIGINT) is signal.default_int_handler")


def test_an_interrupted_cell_without_checkpoints_is_a_line(cell: Cell) -> None:
    cell("model, data = FastClassifier([20]), FastDataModule(source='digits', batch_size=1000); stop.left = 1")
    assert cell("Trainer(callbacks=[stop], devices=1, **quiet).fit(model, data)") == ["stopped by SIGINT"]


def test_the_readme_points_at_the_notebook() -> None:
    assert f"({NOTEBOOK.relative_to(ROOT)})" in (ROOT / "README.md").read_text(encoding="utf-8")
