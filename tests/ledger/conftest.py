"""A real repository in `tmp_path`, and what git itself says about it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_kit.core.records import Measurement, Outcome, Verdict
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.ledger import Ledger

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


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of the person who runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return start(tmp_path / "project")


@pytest.fixture
def repository(folder: Path) -> Iterator[Repository]:
    opened = Repository(folder)
    yield opened
    opened.close()


@pytest.fixture
def ledger(repository: Repository) -> Ledger:
    return Ledger(repository, "autoresearch", "t")
