"""A real repository in `tmp_path`, opened."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_runs import Shared
from small_repository import git, start

from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.ledger import Ledger


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of the person who runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = start(tmp_path_factory.mktemp("template") / "project")
    shutil.rmtree(made / ".git/hooks")
    return made


@pytest.fixture
def folder(tmp_path: Path, template: Path) -> Path:
    shutil.copytree(template, tmp_path / "project")
    git(tmp_path / "project", "update-index", "--refresh")
    return tmp_path / "project"


@pytest.fixture
def repository(folder: Path) -> Iterator[Repository]:
    opened = Repository(folder)
    yield opened
    opened.close()


@pytest.fixture
def ledger(repository: Repository) -> Ledger:
    return Ledger(repository, "autoresearch", "t")


@pytest.fixture
def shared(repository: Repository, folder: Path, tmp_path: Path) -> Iterator[Shared]:
    """A bare repository, `repository`, and a clone of both."""
    hub, elsewhere = tmp_path / "hub.git", tmp_path / "elsewhere"
    git(tmp_path, "clone", "-q", "--bare", str(folder), str(hub))
    # What a careful host checks of what it receives.
    git(hub, "config", "receive.fsckObjects", "true")
    git(folder, "remote", "add", "origin", str(hub))
    git(folder, "fetch", "-q", "origin")
    git(tmp_path, "clone", "-q", str(hub), str(elsewhere))
    opened = Repository(elsewhere)
    yield Shared(hub, repository, opened)
    opened.close()
