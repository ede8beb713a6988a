"""What the CPU can do, as far as the system tells."""

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

    They take half of MKL's time on an AMD processor with AVX-512; with AVX2 alone they take longer. Other vendors'
    processors were not measured, so that they keep torch's default.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    return "AuthenticAMD" in description() and capability == "AVX512" and torch.backends.mkldnn.is_available()


def lacks_bfloat16() -> bool:
    """Whether the processor is known to have no instructions for bfloat16, which torch then emulates."""
    flags = set(description().split())
    return bool(flags) and (torch.backends.cpu.get_cpu_capability() == "AVX2" or not flags & BFLOAT16)
