"""Builds of ane/ for the tests: shared objects to call through ctypes, and programs; each is made once per content."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[1]
ANE = EXAMPLE / "ane"
MAINS = {"train.c", "evaluate.c", "selftest.c", "bench.c"}
RUNTIME = "ane.c"  # needs Apple's headers
ON_A_MAC = sys.platform == "darwin"
# The Makefile's: those of other systems come first.
LIBRARIES = re.findall(r"^ *LIBRARIES = (.*)", (EXAMPLE / "Makefile").read_text(), re.M)[ON_A_MAC].split()
CACHE = Path(tempfile.gettempdir()) / f"ark-ane-tests-{os.getuid()}"
FLAGS = [
    "-std=c11",
    "-D_GNU_SOURCE",
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-pthread"]
SANITIZE = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def shared_object(*names: str, double: bool = False) -> ctypes.CDLL:
    """The named files of ane/ (all that have no main, without names) as a loaded shared object."""
    sources = [ANE / name for name in names] or modules()
    flags = ["-fPIC", "-shared", *(["-DANE_DOUBLE"] if double else [])]
    return ctypes.CDLL(str(build(sources, flags)))


def modules() -> list[Path]:
    """Every C file without a main that this machine can compile."""
    apart = MAINS if ON_A_MAC else MAINS | {RUNTIME}
    return [path for path in sorted(ANE.glob("*.c")) if path.name not in apart]


@functools.cache
def native(compiler: str) -> list[str]:
    """The flag for this processor, whose name differs between compilers."""
    for flag in ("-march=native", "-mcpu=native"):
        command = [compiler, flag, "-x", "c", "-c", os.devnull, "-o", os.devnull]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return [flag]
    return []


def program(*sources: Path, flags: list[str] | None = None, compiler: str = "cc", sanitize: bool = False) -> Path:
    """An executable of these files."""
    return build(list(sources), [*(SANITIZE if sanitize else []), *(flags or [])], compiler)


def build(sources: list[Path], flags: list[str], compiler: str = "cc") -> Path:
    """The compiled file; skips the test where there is no compiler, fails it with the compiler's words."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} on this machine")
    command = [compiler, *FLAGS, *native(compiler), *flags, f"-I{ANE}"]
    digest = hashlib.sha256(repr((command, [str(source) for source in sources])).encode())
    for path in sorted({*ANE.glob("*.[ch]"), *sources, *(p for s in sources for p in s.parent.glob("*.[ch]"))}):
        digest.update(path.read_bytes())
    CACHE.mkdir(mode=0o700, exist_ok=True)
    made = CACHE / digest.hexdigest()[:20]
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of pytest build the same things
        if not made.exists():
            part = made.with_suffix(".part")
            # A Mac's library says itself where programs find it.
            name = [f"-Wl,-install_name,{made}"] if ON_A_MAC and "-shared" in flags else []
            linked = [*map(str, sources), "-o", str(part), *name, *LIBRARIES]
            done = subprocess.run([*command, *linked], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            part.rename(made)
    return made


class Problem(ctypes.Structure):
    """struct Problem."""

    _fields_ = (("text", ctypes.c_char * 512),)


class Shape(ctypes.Structure):
    """struct Shape."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("dim", "hidden", "heads", "seq", "layers", "classes")),
        ("rope", ctypes.c_bool),
    )


class Settings(ctypes.Structure):
    """struct Settings."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("dim", "hidden", "heads", "kv_heads", "seq", "layers")),
        ("rope", ctypes.c_bool),
        ("architecture", ctypes.c_char * 17),
        ("lion", ctypes.c_bool),
        *(
            (name, ctypes.c_double)
            for name in (
                "learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "grad_clip", "embed_lr_scale",
                "matrix_lr_scale",
            )
        ),
        *((name, ctypes.c_int) for name in ("total_steps", "warmup_steps", "accum_steps", "accum_ramp_steps")),
        *((name, ctypes.c_double) for name in ("lr_min_frac", "loss_scale", "softcap", "max_act")),
        ("vocab_compact", ctypes.c_bool),
    )  # fmt: skip


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    """Of a C-contiguous array, which must outlive the call."""
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
