"""OpenMP's threads sleep early where cores are busy, and only there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_mlp import openmp


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the user's."""
    for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(("busy", "setting"), [(0.0, None), (0.3, None), (0.9, "1000"), (2.0, "1000")])
def test_threads_sleep_early_where_a_core_is_busy(
    busy: float, setting: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openmp, "busy_cores", lambda seconds: busy)
    openmp.adapt_to_load()
    assert os.environ.get("GOMP_SPINCOUNT") == setting


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"])
def test_a_setting_of_the_users_stays_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "busy_cores", lambda seconds: 2.0)
    monkeypatch.setenv(name, "7")
    before = dict(os.environ)
    openmp.adapt_to_load()
    assert dict(os.environ) == before


@pytest.mark.skipif(not openmp.STATISTICS.exists(), reason="the system has no /proc/stat")
def test_a_busy_process_is_seen() -> None:
    process = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        assert openmp.busy_cores(1.0) >= openmp.BUSY
    finally:
        process.kill()
        process.wait()


def test_a_system_that_does_not_tell_is_not_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "STATISTICS", Path("/nowhere/stat"))
    assert openmp.busy_cores(0.0) == 0


@pytest.mark.usefixtures("clean")
def test_the_command_adapts_before_torch_is_there() -> None:
    program = (
        "import os, sys, types\n"
        "from mnist_mlp import openmp, __main__\n"
        "openmp.busy_cores = lambda seconds: 1.0\n"
        "def main():\n"
        "    print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)\n"
        "sys.modules['mnist_mlp.cli'] = types.ModuleType('cli')\n"
        "sys.modules['mnist_mlp.cli.main'] = types.SimpleNamespace(main=main)\n"
        "__main__.main()"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "1000 False"
