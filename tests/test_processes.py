"""Several processes: the run of one with the whole batch; by Lightning's launcher and by torchrun."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import RUNS, Run, checkpoint, run_apart, scalars

DIGITS = ["--data.source", "digits", "--model.hidden", "[20]", "--trainer.accelerator", "cpu"]
RANKS = '''
import sys
import torch
import torch.distributed as dist
from mnist_mlp import MLPClassifier
from mnist_mlp.cli.main import main

def compare(self):
    """Asserts that all processes hold the same parameters, bit for bit."""
    mine = torch.cat([parameter.detach().flatten() for parameter in self.parameters()])
    others = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(others, mine)
    assert all(torch.equal(mine, other) for other in others)
    open(f"equal_{dist.get_rank()}", "w").close()

MLPClassifier.on_fit_end = compare
main()
'''


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.full)])
def test_processes_are_one_with_the_whole_batch(processes: int, run: Run, tmp_path: Path) -> None:
    """Though the last batch has only 2 images, for 2 or for 4 processes."""
    (tmp_path / "ranks.py").write_text(RANKS)
    whole, val_size = 520, 60_000 - 115 * 520 - 2
    options = [*DIGITS, "--data.val_size", val_size, "--trainer.max_epochs", 1]
    run("fit", *options, "--data.batch_size", whole)
    options += ["--trainer.devices", processes, "--pictures", "true", "--data.batch_size", whole // processes]
    run_apart("fit", *options, program=("ranks.py",))
    assert len(list(tmp_path.glob("equal_*"))) == processes
    one, many = (checkpoint(version=version) for version in (0, 1))
    assert one["global_step"] == many["global_step"] == 116
    for name, parameter in one["state_dict"].items():
        assert (many["state_dict"][name] - parameter).norm() <= 1e-5 * parameter.norm()
    for tag, points in scalars(0).items():
        assert scalars(1)[tag] == [(step, pytest.approx(value, rel=1e-4)) for step, value in points]


def test_test_counts_no_image_twice(run: Run) -> None:
    """Though 10,000 images are no multiple of 3."""
    run("fit", *DIGITS, "--trainer.max_steps", 50)
    test = ("test", "--ckpt_path", "last", "--trainer.devices")
    tests = [run(*test, 1)[0], run_apart(*test, 3)]
    tables = [re.search(r"test/accuracy.*?(?=written)", output, re.DOTALL)[0].splitlines() for output in tests]
    assert "of 10,000" in tables[0][1]
    assert len(tables[0]) == 2 + 2 + 10  # accuracy, errors, and a line for each digit
    assert tables[1] == tables[0]


@pytest.mark.parametrize("nodes", [pytest.param(1, marks=pytest.mark.full), 2])
def test_torchrun(nodes: int, run: Run) -> None:
    options = [*DIGITS, "--trainer.max_steps", 10]
    run("fit", *options, "--data.batch_size", 1000)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--master_addr", "127.0.0.1", "--master_port", port]
    torchrun += ["--nnodes", str(nodes), "--nproc_per_node", str(2 // nodes)]
    fit = [*map(str, options), "--data.batch_size", "500", "--trainer.devices", str(2 // nodes)]
    launchers = [
        subprocess.Popen(
            [*torchrun, "--node_rank", str(node), "-m", "mnist_mlp", "fit", *fit, "--trainer.num_nodes", str(nodes)],
            stdout=subprocess.DEVNULL,
        )
        for node in range(nodes)
    ]
    assert [launcher.wait(timeout=300) for launcher in launchers] == [0] * nodes
    assert [folder.name for folder in sorted(RUNS.iterdir())] == ["version_0", "version_1"]
    one, two = (checkpoint(version=version)["state_dict"] for version in (0, 1))
    for name, parameter in one.items():
        assert (two[name] - parameter).norm() <= 1e-5 * parameter.norm()
