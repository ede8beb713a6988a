"""What the CPU can do, as far as the system tells."""

import re
from functools import cache
from pathlib import Path

import torch

BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # flags of x86 and of ARM


@cache
def description() -> str:
    """The system's description of the processor, or nothing."""
    info = Path("/proc/cpuinfo")
    return info.read_text() if info.exists() else ""


def onednn_is_faster() -> bool:
    """Whether oneDNN's products beat those of torch's default, MKL.

    They do on AMD's processors from family 26 on, whose units for AVX-512 have the full width. On one of family 25,
    with AVX-512 in two halves, a weight's gradient takes 1.8 ms by oneDNN and 0.8 ms by MKL, and with AVX2 alone MKL
    is faster too. Other vendors' processors were not measured, so that they keep torch's default.
    """
    family = re.search(r"cpu family\s*: (\d+)", description())
    recent = "AuthenticAMD" in description() and family is not None and int(family[1]) >= 26
    return recent and torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()


def touch_constants() -> None:
    """Let the system map the memory that holds the constants of torch's vectorized log1p, and so of softplus.

    With AVX-512 such constants are read under a mask: one for arguments of -0, say. As long as no argument needs it,
    the page it lies in may never be mapped, and an AMD processor then takes some hundred cycles to ignore each read:
    softplus of (200, 500) takes 0.50 ms in place of 0.08.
    """
    torch.log1p(torch.tensor([-0.0, -1.0, -2.0, torch.inf]).repeat(16))


def lacks_bfloat16() -> bool:
    """Whether the processor is known to have no instructions for bfloat16, which torch then emulates."""
    flags = set(description().split())
    return bool(flags) and (torch.backends.cpu.get_cpu_capability() == "AVX2" or not flags & BFLOAT16)
