"""What kind of machine this is, in one line: numbers from unlike kinds are never compared.

The kind, not the machine itself: no host name, so that a container that was started anew, or its twin, continues a run.
"""

from __future__ import annotations

import functools
import platform
import subprocess
from collections import Counter
from pathlib import Path

import psutil


@functools.cache
def machine() -> str:
    """For example `Linux x86_64, AMD EPYC 9B14, 2 cores, 24 GiB` and the NVIDIA GPUs, if any."""
    gibibytes = round(psutil.virtual_memory().total / 2**30)
    parts = [
        f"{platform.system()} {platform.machine()}",
        _processor() or "unknown processor",
        f"{psutil.cpu_count() or 1} cores",
        f"{gibibytes} GiB",
        *(f"{count} x {name}" for name, count in sorted(Counter(_gpus()).items())),
    ]
    return ", ".join(parts)


def _processor() -> str:
    if platform.system() == "Darwin":
        return _last_line(["sysctl", "-n", "machdep.cpu.brand_string"])
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    for key in ("model name", "Model", "CPU part"):
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return " ".join(value.split())
    return platform.processor()


def _gpus() -> list[str]:
    """Names of the NVIDIA GPUs as the kernel driver tells them: no start of nvidia-smi."""
    found = []
    for path in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        for line in path.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Model":
                found.append(value.strip())
    return found


def _last_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout.strip().splitlines() or [""])[-1]
