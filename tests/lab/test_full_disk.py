"""A disk without any room is the machine's fault, and is said to be.   .venv/bin/pytest tests/lab/test_full_disk.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.lab import processes
from autoresearch_kit.lab.processes import Command, Supervisor
from tests.engine.conftest import _home, _surroundings, _template, tiny  # noqa: F401 - fixtures

FULL = """
import os, sys; sys.path += sys.argv[1:3]
from autoresearch_kit.lab import caplog, guardian
caplog.create = lambda path: os.open("/dev/full", os.O_WRONLY)
guardian.main()
"""
"""A guardian whose logs are on a full disk."""
pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")


@pytest.mark.parametrize(("command", "lost"), [("echo x", True), ("true", False)])
def test_whether_output_was_lost_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, lost: bool
) -> None:
    monkeypatch.setattr(processes, "PROGRAM", FULL)
    with Supervisor() as one:
        done = one.run(Command(command, tmp_path, {"PATH": "/usr/bin:/bin"}, tmp_path / "log", 60))
    assert (done.problem, done.output_lost) == ("", lost)


def test_a_baseline_without_a_metric_on_a_full_disk_has_the_disk_to_blame(
    tiny: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "PROGRAM", FULL)
    with pytest.raises(ArkError) as caught:
        tiny.play("answer 11", attempts=1)
    assert "disk_full: no line gives score; the disk is full" in caught.value.message
    assert "free some space" in caught.value.hint
