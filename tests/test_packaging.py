"""The packages that a user installs, or a distributor builds from."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest
from conftest import ROOT

BUILT = ("mnist_mlp", "configs", "tests", ".github", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, built from a copy of this one."""
    copy = tmp_path_factory.mktemp("copy")
    for name in BUILT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
        else:
            shutil.copyfile(ROOT / name, copy / name)
    build = [sys.executable, "-m", "hatchling", "build", "-d", "dist"]
    subprocess.run(build, cwd=copy, capture_output=True, check=True)
    return copy / "dist"


def files(*folders: str) -> set[str]:
    """The files of some folders of this project, with their paths in it."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {path.relative_to(ROOT).as_posix() for path in paths if "cache" not in str(path.relative_to(ROOT))}


def test_the_wheel_has_the_package_and_the_recipes(packages: Path) -> None:
    [wheel] = packages.glob("*.whl")
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == files("mnist_mlp") | {f"mnist_mlp/{name}" for name in files("configs")}
    assert "mnist_mlp/py.typed" in names  # type checkers read our annotations


def test_the_source_distribution_has_all_that_its_tests_need(packages: Path) -> None:
    [archive] = packages.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[1] for name in tar.getnames()}
    assert names >= files("mnist_mlp", "configs", "tests", ".github") | {"pyproject.toml", "README.md", "LICENSE"}


def test_an_installed_wheel_finds_its_recipes(packages: Path, tmp_path: Path) -> None:
    [wheel] = packages.glob("*.whl")
    ZipFile(wheel).extractall(tmp_path / "installed")
    (tmp_path / "elsewhere").mkdir()
    result = subprocess.run(
        [sys.executable, "-m", "mnist_mlp", "fit", "--config", "plain", "--print_config"],
        cwd=tmp_path / "elsewhere",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "loss: cross_entropy" in result.stdout
