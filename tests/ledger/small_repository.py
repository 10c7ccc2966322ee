"""A small real repository, what git itself says about it, and the parts of an attempt."""

from __future__ import annotations

import subprocess
from pathlib import Path

from autoresearch_kit.core.records import Measurement, Outcome, Verdict

KEEP = Verdict(Outcome.KEEP, "Keep: 2 -> 1, better by 1 (50.00 %)", 1.0)
DISCARD = Verdict(Outcome.DISCARD, "Discard: 1 -> 2, worse by 1 (100.00 %)", -1.0)
BASELINE = Verdict(Outcome.KEEP, "Baseline: 2")
GOOD = (Measurement(2.0, {"wall_seconds": 0.5}, seconds=0.5, seed=7, machine="Linux test"),)


def git(folder: Path, *args: str, stdin: bytes = b"") -> str:
    """Git as a user starts it."""
    who = ("-c", "user.name=User", "-c", "user.email=user@example.org")
    done = subprocess.run(["git", *who, *args], cwd=folder, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode("utf-8", "surrogateescape")


def start(folder: Path) -> Path:
    """A repository with one commit."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", "-b", "main")
    (folder / "train.py").write_text("LR = 1\n")
    (folder / "src").mkdir()
    (folder / "src/a.py").write_text("a = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "start")
    return folder
