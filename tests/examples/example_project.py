"""An example in a repository of its own, with caches of its own, and `ark` for it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CPU_SPEC = "autoresearch-config.cpu.yaml"
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


def edit(path: Path, pattern: str, new: str, times: int = 1) -> None:
    """Replace what matches, which must be there so many times; ^ and $ are those of lines."""
    text, count = re.subn(pattern, new, path.read_text(), flags=re.M)
    assert count == times, pattern
    path.write_text(text)


def attempts_of(project: Path, *words: str) -> list[dict]:
    """Every attempt of a run of the CPU spec, which ends well."""
    run = ark(project, "run", CPU_SPEC, "--tag", "t", *words)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(ark(project, "log", CPU_SPEC, "--tag", "t", "--json").stdout)


def measured_of_six(attempts: list[dict]) -> list[dict]:
    """Those with a number, nearly all, of a baseline and six attempts that were each measured for themselves."""
    assert [attempt["number"] for attempt in attempts] == list(range(7))
    assert {attempt["outcome"] for attempt in attempts} <= {"keep", "discard", "crash"}
    measured = [attempt for attempt in attempts if attempt["value"] is not None]
    assert len(measured) >= 5, [attempt["problem"] for attempt in attempts]
    assert len({attempt["value"] for attempt in measured}) == len(measured)  # each was trained, none was copied
    return measured
