"""The README: every command in it runs, as does its Python session, and it names no file that is not there."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from conftest import EXPORTS, ROOT, Run
from PIL import Image, ImageDraw, ImageFont

from mnist_mlp import LOSSES, MLP
from mnist_mlp.gradient import sgd

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(?:\$ )?python -m mnist_mlp (\w+.*)$", TEXT, re.M)  # in blocks of code
SPANS = re.findall(r"`(?:python -m mnist_mlp )?((?:fit|test|find_lr|compare_\w+)(?: -[^`A-Z…]*)?)`", TEXT)
SMALL = ["--data.source", "digits", "--data.batch_size", "1000", "--trainer.max_steps", "3"]


@pytest.fixture
def images(tmp_path: Path) -> None:
    """Images of a seven and a three, as the README has them."""
    for name, digit in (("seven", "7"), ("three", "3")):
        image = Image.new("L", (60, 90), 255)
        ImageDraw.Draw(image).text((12, 8), digit, fill=0, font=ImageFont.load_default(64))
        image.save(tmp_path / f"{name}.png")


@pytest.mark.parametrize("command", [*dict.fromkeys(COMMANDS)])
@pytest.mark.usefixtures("images")
def test_commands_run(command: str, run: Run, mnist_dir: Path) -> None:
    Path("configs").symlink_to(ROOT / "configs")
    words = shlex.split(command, comments=True)
    if words[0] == "export" and not EXPORTS:
        pytest.skip("exporting needs torch 2.7")
    if words[0] == "prepare_data":
        shutil.copytree(mnist_dir, "data")
    elif words[0] != "fit" or "--ckpt_path" in words:
        run("fit", *SMALL[:4], "--trainer.max_epochs", "1")
        run(*words, *(["--trainer.max_steps", "5"] if words[0] == "fit" else []))
        return
    run(*words, *(SMALL if words[0] == "fit" else []))


@pytest.mark.parametrize("command", [*dict.fromkeys(span for span in SPANS if " " in span)])
def test_commands_in_the_text_are_understood(command: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = command.replace("--errors FILE.png", "").replace("FILE", "x").split()
    if "--ckpt_path" not in words:
        with pytest.raises(SystemExit) as end:
            run(*words, "--print_config")
        assert end.value.code == 0


@pytest.mark.usefixtures("images")
def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    update, session = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    net, other, batch = MLP((5,)), MLP((5,)), (torch.randn(8, 784), torch.eye(10)[:8])
    other.load_state_dict(net.state_dict())
    exec(
        update, {"torch": torch, "net": net, "loss_fn": LOSSES["mse"], "batches": [batch], "gamma": torch.tensor(0.1)}
    )
    list(sgd(other, LOSSES["mse"], [batch], lr=0.1))
    assert all(torch.equal(*pair) for pair in zip(net.parameters(), other.parameters(), strict=True))

    assert "max_epochs=3" in session
    exec(session.replace("max_epochs=3", "max_epochs=1"), {})
    output = capsys.readouterr().out
    assert float(re.search(r"test/accuracy\D+([\d.]+)", output)[1]) > 0.9  # of the stand-in's images
    digit, score = output.split()[-2:]
    assert 0 <= int(digit) <= 9
    assert 0.1 <= float(score) <= 1


def test_files_are_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert link.startswith("http") or (ROOT / link).exists(), link
    assert TEXT.count("![") == 3
