"""An example in a repository of its own, with caches of its own, and `ark` for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MADE = ("__pycache__", ".hypothesis", "build", "run.log", "*.safetensors", "*.graph", "*.ckpt")


def laid(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example, committed. One thread, since other tests run beside it."""
    folder = tmp_path / "project"
    shutil.copytree(example, folder, ignore=shutil.ignore_patterns(*MADE))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("ARK_CACHE", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    git(folder, "init", "-q")
    git(folder, "config", "user.name", "tester")
    git(folder, "config", "user.email", "tester@localhost")
    commit(folder)
    return folder


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "change")


def ark(folder: Path, *words: str) -> subprocess.CompletedProcess:
    order = [sys.executable, "-c", "from autoresearch_kit.cli import main; main(prog_name='ark')", *words]
    return subprocess.run(order, cwd=folder, capture_output=True, text=True)
