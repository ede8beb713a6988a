"""The printed report, within 80 columns."""

import platform
import statistics
import textwrap
from pathlib import Path

import lightning
import torch

from mnist_mlp.benchmark.commands import IMPORTS
from mnist_mlp.benchmark.setting import Setting
from mnist_mlp.benchmark.turns import Seconds, spread

RATIOS = (
    ("notebook", "fit"),
    ("lightning", "fit"),
    ("fit", "plain"),
    ("fit", "floor"),
    ("fit_distorted", "fit"),
    ("fit_beside_busy", "fit_command"),
    ("fit", "scikit_learn"),
    ("fit", "jax_scan"),
    ("fit", "keras_on_jax"),
)
COMMAND = " command"  # the end of a whole process's name
HOST_COST = "host cost per 300 updates"


def show(seconds: Seconds, setting: Setting) -> None:
    """Print seconds, ratios, the time of whole processes, the host's cost, hardware and versions."""
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    print(f"{'way':<21}{'s/epoch':>9}{'to floor':>10}   lowest to highest")
    commands = [way for way in seconds if way.endswith(COMMAND)]
    for way in [way for way in seconds if way not in (*commands, HOST_COST)]:
        ratio, bounds = spread(seconds, way, "floor")
        print(f"{way:<21}{medians[way]:>9.3g}{ratio:>10.2f}   {bounds}")
    print(f"{'ratio':<30}{'median':>10}   lowest to highest")
    for way, other in RATIOS:
        if other in seconds:
            ratio, bounds = spread(seconds, way, other)
            print(f"{f'{way} / {other}':<30}{ratio:>10.2f}   {bounds}")
    print(f"{'from typing to result':<21}{'s':>9}{'fit / it':>10}   lowest to highest")
    for way in commands:
        ratio, bounds = spread(seconds, "fit command", way)
        print(f"{way.removesuffix(COMMAND):<21}{medians[way]:>9.3g}{ratio:>10.2f}   {bounds}")
    rest = medians["fit command"] - medians["imports command"] - setting.epochs * medians["fit"]
    print(f"imports: python -c '{IMPORTS}'")
    print(f"fit besides its imports and training: {rest:.1f} s")
    costs = [1000 * cost for cost in seconds[HOST_COST]]
    print(f"{HOST_COST}: {statistics.median(costs):.1f} ms, {min(costs):.1f} to {max(costs):.1f}")
    name = torch.cuda.get_device_name() if setting.device.type == "cuda" else processor()
    threads, capability = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    machine = f"{name}, {threads} threads, {capability}"
    work = f"{setting.epochs} epochs, batches of {setting.batch_size}, hidden layers {list(setting.hidden)}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, Lightning {lightning.__version__}"
    print(textwrap.fill(f"{machine}; {work}, {len(seconds['fit'])} turns; {versions}", 80))


def processor() -> str:
    """The CPU's name, as far as the system tells."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
