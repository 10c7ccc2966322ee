"""Nights with stand-ins: programs with an agent's name, first on PATH, that play recorded transcripts."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autoresearch_kit.agents import open_agents
from autoresearch_kit.core.budget import Ending, Limits
from autoresearch_kit.core.records import Attempt
from autoresearch_kit.core.spec import Agent as AgentSpec
from autoresearch_kit.loop import Turns, loop
from autoresearch_kit.project import open_project
from autoresearch_kit.ratchet import Note, Run
from tests.engine.conftest import Tiny, _home, _surroundings, _template, tiny  # noqa: F401 - fixtures

STAND_INS = Path(__file__).parent / "stand_ins"


class StandIns:
    """The folder on PATH in which the stand-ins are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def put(self, name: str, *scenes: dict[str, Any]) -> None:
        """Have a program `name` that plays these scenes, one for each turn, and goes on with the last."""
        script = "".join(json.dumps(scene) + "\n" for scene in scenes)
        (self.folder / f"{name}.script").write_text(script)
        program = self.folder / name
        program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -S '{STAND_INS / 'play.py'}' \"$0\" \"$@\"\n")
        program.chmod(0o755)

    def given(self, name: str, turn: int = 1) -> dict[str, Any]:
        """What the program was given in a turn: argv, stdin, env, cwd."""
        found: dict[str, Any] = json.loads((self.folder / f"{name}.{turn}.json").read_text())
        return found


@dataclass
class Night:
    """What became of a run in this process."""

    ending: Ending
    pauses: list[float]
    counts: Counter[str]
    notes: list[str]
    attempts: list[Attempt]


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    found = StandIns(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{found.folder}{os.pathsep}{os.environ['PATH']}")
    return found


@pytest.fixture
def night(tiny: Tiny) -> Callable[..., Night]:  # noqa: F811 - pytest's way
    def play(*agents: dict[str, Any], attempts: int | None = None, **spec: Any) -> Night:
        """A run with these agents, at full speed: pauses are noted and not made."""
        if spec:
            tiny.commit(**spec)
        pauses: list[float] = []
        notes: list[str] = []

        def watch(event: object) -> None:
            if isinstance(event, Note):
                notes.append(event.text)

        project = open_project(tiny.folder)
        try:
            with Run(project, "t", watch) as run:
                run.open()
                run.ready()
                worker = open_agents([AgentSpec.model_validate(agent) for agent in agents], run, watch)
                turns = Turns(run, Limits(attempts), watch)
                try:
                    ending = loop(run, worker, turns, pauses.append)
                finally:
                    worker.close()
                return Night(ending, pauses, turns.counts, notes, list(run.attempts))
        finally:
            project.repository.close()

    return play
