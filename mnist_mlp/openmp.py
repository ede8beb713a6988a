"""OpenMP's threads, which spin while they wait for one another: fast on idle cores, and very slow on busy ones.

Training of 4 epochs took, on 2 cores of an AMD EPYC (AVX512), alone 4.9 s, and 6.8 s with threads that sleep early;
beside one busy process 20.7 s, and 9.6 s (medians of 3 runs, and of 2). So they sleep early where a core is busy: in
turns 4.8 s alone and 8.9 s beside a busy process (medians of 3).
"""

import os
import time
from pathlib import Path

STATISTICS = Path("/proc/stat")
SLEEP_EARLY = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}  # of GNU's runtime, and of LLVM's and Intel's
SECONDS = 0.05  # of watching
BUSY = 0.5  # cores in use by others


def adapt_to_load() -> None:
    """Let threads sleep early if a core is busy now, before torch is imported, unless the user has a setting.

    Results do not depend on it.
    """
    if not os.environ.keys() & {*SLEEP_EARLY, "OMP_WAIT_POLICY"} and busy_cores(SECONDS) >= BUSY:
        os.environ.update(SLEEP_EARLY)


def busy_cores(seconds: float) -> float:
    """How many of this process's cores are in use while it sleeps; 0 where the system does not tell."""
    if not STATISTICS.exists():
        return 0.0
    before, started = used_seconds(), time.perf_counter()
    time.sleep(seconds)
    return (used_seconds() - before) / (time.perf_counter() - started)


def used_seconds() -> float:
    """CPU time spent so far on this process's cores, by all processes."""
    own = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = [line.split() for line in STATISTICS.read_text().splitlines()]
    ticks = [sum(map(int, line[1:4])) for line in lines if line[0] in own]  # user, nice and system
    return sum(ticks) / os.sysconf("SC_CLK_TCK")
