"""train and evaluate as the tests run them, and checkpoints as bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from ane_build import ANE, CACHE, SANITIZE, build, modules, program

VOCAB = 32000
SMALL: dict[str, Any] = {
    "dim": 32,
    "hidden": 64,
    "heads": 2,
    "kv_heads": 2,
    "seq": 32,
    "layers": 2,
    "rope": 0,
    "architecture": "0123456789abcdef",
    "lion": 1,
    "learning_rate": 1e-3,
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": 1e-8,
    "weight_decay": 0.1,
    "grad_clip": 1.0,
    "embed_lr_scale": 1.0,
    "matrix_lr_scale": 0.3,
    "total_steps": 500,
    "warmup_steps": 5,
    "accum_steps": 2,
    "accum_ramp_steps": 0,
    "lr_min_frac": 0.1,
    "loss_scale": 1024.0,
    "softcap": 30.0,
    "max_act": 0.0,
    "vocab_compact": 1,
}
# struct Checkpoint; a checkpoint ends with another checksum.
HEADER = np.dtype(
    [("magic", "S8"), ("version", "<u4"), ("tensors", "<i4"), ("architecture", "S16")]
    + [(name, "<i4") for name in ("dim", "hidden", "heads", "kv_heads", "seq", "layers", "vocab")]
    + [(name, "<i4") for name in ("rope", "compact", "lion")]
    + [(name, "<f8") for name in ("softcap", "max_act", "loss_scale")]
    + [(name, "<i8") for name in ("updates", "micro_steps", "skipped", "cycles", "moment_updates")]
    + [("init_seed", "<u8"), ("order", "<u8", 4), ("train_seconds", "<f8"), ("loss_average", "<f8")]
    + [("token_count", "<i8"), ("token_checksum", "<u4"), ("header_checksum", "<u4")]
)


def write_config(**changes: Any) -> Path:
    """The folder of a config.h with the settings of SMALL but for the changes."""
    settings = {**SMALL, **changes}
    fields = ", ".join(f'.{k} = "{v}"' if isinstance(v, str) else f".{k} = {v!r}" for k, v in settings.items())
    text = f"#define SETTINGS {{{fields}}}\n"
    folder = CACHE / f"config-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"config.{os.getpid()}"
    part.write_text(text)
    part.rename(folder / "config.h")
    return folder


def shared(sanitize: bool = False) -> Path:
    """All files without a main as a shared object, so that a program is compiled quickly."""
    return build(modules(), [*(SANITIZE if sanitize else []), "-fPIC", "-shared"])


def train_program(sanitize: bool = False, **changes: Any) -> Path:
    """train with these settings."""
    flags = [f"-I{write_config(**changes)}"]
    return program(ANE / "train.c", shared(sanitize), flags=flags, sanitize=sanitize)


def evaluate_program(sanitize: bool = False) -> Path:
    return program(ANE / "evaluate.c", shared(sanitize), sanitize=sanitize)


def run(made: Path, *arguments: object, timeout: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
    """The finished process, its output as text."""
    command = [str(made), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)


def train(made: Path, data: Path, out: Path, *arguments: object, **options: Any) -> dict[str, str]:
    """The final block of a run that must succeed; 1 thread and 300 s unless the arguments say else."""
    given = [str(argument) for argument in arguments]
    for name, value in (("--wall-time", "300"), ("--threads", "1")):
        given += [] if name in given else [name, value]
    done = run(made, "--data", data, "--checkpoint", out, *given, **options)
    assert done.returncode == 0, done.stderr
    return block(done.stdout)


def block(output: str) -> dict[str, str]:
    """Keys and values after the line ---."""
    lines = f"\n{output}".split("\n---\n")[-1]
    return dict(line.split(": ", 1) for line in lines.splitlines())


def refused(made: Path, *arguments: object, code: int = 1, **options: Any) -> str:
    """The sentence of a run that must fail with it, and print no metric."""
    done = run(made, *arguments, **options)
    assert done.returncode == code, (done.returncode, done.stdout[-500:], done.stderr[-2000:])
    assert "val_loss" not in done.stdout
    sentences = [line for line in done.stderr.splitlines() if line and not line.startswith(("hint: ", "notice: "))]
    assert len(sentences) == 1, done.stderr
    return sentences[0]


def read_header(path: Path) -> np.void:
    with open(path, "rb") as file:
        return np.frombuffer(file.read(HEADER.itemsize), HEADER)[0]


def sealed(data: bytes, **changes: Any) -> bytes:
    """The checkpoint with these fields of its header changed, and both checksums right again."""
    array = np.frombuffer(data[: HEADER.itemsize], HEADER).copy()
    for name, value in changes.items():
        array[0][name] = value
    start = HEADER.itemsize - 4
    array[0]["header_checksum"] = zlib.crc32(array.tobytes()[:start])
    whole = array.tobytes() + data[HEADER.itemsize : -4]
    return whole + zlib.crc32(whole).to_bytes(4, "little")
