"""A network out of torch gives the scores of the classifier; the example of an own network learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EXPORTS, RUNS, SMALL, Error, Run
from example_own_network import main as run_example
from torch import Tensor, nn

from mnist_mlp import MLP, MLPClassifier, normalised

exports = pytest.mark.skipif(not EXPORTS, reason="exporting needs torch 2.7")


def session_of(path: Path) -> Any:
    """ONNX's runtime on a file."""
    return pytest.importorskip("onnxruntime").InferenceSession(path)


def scores_of(path: Path, images: Tensor) -> Tensor:
    """The scores that an exported program gives to images as bytes."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(images)
    (scores,) = session_of(path).run(["scores"], {"images": images.numpy()})
    return torch.from_numpy(scores)


@exports
@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("--model.loss", "cross_entropy", "--model.activation", "relu", "--model.hidden", "[30,20]"),
        ("--model.deskew", "true", "--model.directions", "true"),
    ],
)
def test_an_exported_program_takes_bytes_and_gives_the_scores(
    settings: tuple[object, ...], ending: str, run: Run
) -> None:
    if ending == ".onnx":
        pytest.importorskip("onnxscript")
    run("fit", *SMALL, *settings)
    output, _ = run("export", "--to", f"digits{ending}")
    assert f"digits{ending}" in output
    assert [path.name for path in Path().iterdir() if path != RUNS] == [f"digits{ending}"]
    model = MLPClassifier.load_from_checkpoint(RUNS / "version_0/checkpoints/best.ckpt")
    for number in (1, 2, 33):
        images = torch.randint(256, (number, 28, 28), dtype=torch.uint8)
        with torch.no_grad():
            expected = model.scores(model(normalised(images)))
        torch.testing.assert_close(scores_of(Path(f"digits{ending}"), images), expected, rtol=1e-4, atol=1e-5)


@exports
def test_the_plain_network_is_exported_with_any_number_of_images(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    net, x = MLP((30,)).eval(), torch.randn(5, 1, 28, 28)
    shapes = ({0: torch.export.Dim("number")},)
    program = torch.export.export(net, (x[:2],), dynamic_shapes=shapes)
    torch.testing.assert_close(program.module()(x), net(x))
    torch.onnx.export(net, (x[:2],), tmp_path / "net.onnx", dynamic_shapes=shapes, dynamo=True, verbose=False)
    session = session_of(tmp_path / "net.onnx")
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), net(x).detach(), rtol=1e-4, atol=1e-5)


@exports
def test_softplus_is_exported_with_its_jump(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    net, z = nn.Sequential(MLP().nonlin1), torch.linspace(-0.1, 0.1, 41)
    torch.onnx.export(net, (z,), tmp_path / "softplus.onnx", dynamo=True, verbose=False)
    session = session_of(tmp_path / "softplus.onnx")
    (output,) = session.run(None, {session.get_inputs()[0].name: z.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), net(z), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "--to"),
        (("--to", "net.txt"), "--to net.txt: give a name that ends in .onnx or .pt2"),
        (("--to", "nowhere/net.onnx"), "--to nowhere/net.onnx: give a name that ends in .onnx or .pt2, in a folder"),
        (("--to", "net.pt2"), "--ckpt_path best: no run under lightning_logs has a checkpoint"),
        (("--to", "net.pt2", "--ckpt_path", "no.ckpt"), "--ckpt_path no.ckpt: no such file"),
    ],
)
def test_mistakes(words: tuple[object, ...], part: str, error: Error) -> None:
    assert part in error("export", *words)


def test_onnx_that_is_not_installed_is_named(error: Error, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs onnx and onnxscript: pip install 'mnist_mlp[export]'" in error("export", "--to", "net.onnx")


def test_the_example_of_an_own_network_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    assert run_example() > 0.9
    lines = (Path(__file__).parent / "example_own_network.py").read_text().splitlines()
    assert len(lines) < 60
