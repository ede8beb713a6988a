"""The code's habits."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.mark.parametrize("check", [["check"], ["format", "--check"]])
def test_ruff(check: list[str]) -> None:
    result = subprocess.run([sys.executable, "-m", "ruff", *check, ROOT], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "mnist_mlp").rglob("*.py")), ids=lambda path: path.name)
def test_gradients_are_explicit(path: Path) -> None:
    attributes = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert not attributes & {"backward", "manual_backward"}
