"""A real repository in `tmp_path`, opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_repository import start

from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.ledger import Ledger


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
