"""Damaged checkpoints and token files are refused without a memory error, by fuzz.c under sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ane_build import ANE, program

FILES = ("base", "tokens", "settings", "checkpoint", "checkpoint_save", "parameters", "pool")


@pytest.mark.parametrize(
    ("rounds", "seed"),
    [(200, 1), pytest.param(1500, 2, marks=pytest.mark.slow)],
    ids=["quick", "long"],
)
def test_damage_is_refused(tmp_path: Path, rounds: int, seed: int) -> None:
    sources = [Path(__file__).with_name("fuzz.c"), *(ANE / f"{name}.c" for name in FILES)]
    made = program(*sources, sanitize=True)
    done = subprocess.run([made, tmp_path, str(rounds), str(seed)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    words = done.stdout.split()
    checkpoints, token_files = int(words[3]), int(words[-1])
    # Neither all nor none: unchanged ones are among them.
    assert 0 < checkpoints < rounds and 0 < token_files < rounds
