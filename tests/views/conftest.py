"""A project in a real repository, without the user's own configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded_runs import Made


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of the person who runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """The project, committed on branch `main`, without any run."""
    return Made(tmp_path / "project").start()
