"""A tiny project in a real repository, and agents that are shell scripts.

The experiment takes milliseconds: `train.sh` (mutable) writes answer.txt, `evaluate.sh` (fixed) prints it as `score`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from autoresearch_kit.agents.command import CommandAgent
from autoresearch_kit.cli import main
from autoresearch_kit.core.budget import Ending, Limits
from autoresearch_kit.core.records import Attempt
from autoresearch_kit.core.spec import Agent as AgentSpec
from autoresearch_kit.loop import Turns, loop
from autoresearch_kit.project import open_project
from autoresearch_kit.ratchet import Event, Judged, Note, Run

SPEC: dict[str, Any] = {
    "name": "tiny",
    "metric": "score",
    "metric_direction": "maximize",
    "mutable_files": ["train.sh"],
    "immutable_files": ["evaluate.sh"],
    "run_command": "sh train.sh",
    "eval_command": "sh evaluate.sh",
    "artifacts": ["answer.txt"],
    "budget_minutes": 0.1,
    "timeout_minutes": 0.2,
}
FILES = {
    "train.sh": "echo 10 > answer.txt\n",
    "evaluate.sh": 'echo "score: $(cat answer.txt)"\n',
    "notes/read me.txt": "not a part of it\n",
}
# Scripts count their turns: TURN is 1, 2, ... also where a turn brings no attempt and so no number.
HEADER = """
COUNT='{count}'
TURN=$(( $(cat "$COUNT" 2>/dev/null || echo 0) + 1 )); echo $TURN > "$COUNT"
answer() {{ echo "echo $1 > answer.txt" > train.sh; }}
title() {{ mkdir -p .ark; printf '%s\\n' "$@" > .ark/attempt.md; }}
"""


@dataclass
class Played:
    """What a run in this process did."""

    ending: Ending
    attempts: list[Attempt]
    events: list[Event]
    notes: list[str] = field(init=False)
    judged: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.notes = [event.text for event in self.events if isinstance(event, Note)]
        self.judged = [event.attempt.number for event in self.events if isinstance(event, Judged)]

    @property
    def outcomes(self) -> list[str]:
        return [str(attempt.outcome) for attempt in self.attempts]

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]


class Tiny:
    """One repository with the project in it."""

    command = (sys.executable, "-c", "from autoresearch_kit.cli import main; main(prog_name='ark')")

    def __init__(self, root: Path, tmp: Path, prefix: str = "") -> None:
        self.root = root
        self.folder = root / prefix
        self.tmp = tmp
        self.cache = tmp / "cache"

    def git(self, *args: str, ok: bool = True) -> str:
        done = subprocess.run(["git", "-C", str(self.root), *args], capture_output=True)
        assert done.returncode == 0 or not ok, done.stderr.decode()
        return done.stdout.decode("utf-8", "surrogateescape").strip()

    def write(self, path: str, text: str | bytes) -> Path:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)
        return target

    def spec(self, **changes: Any) -> None:
        """Write the spec with these keys; None removes one. JSON is YAML."""
        spec = {key: value for key, value in {**SPEC, **changes}.items() if value is not None}
        self.write("autoresearch-config.yaml", json.dumps(spec, indent=1, ensure_ascii=False))

    def commit(self, message: str = "change", **spec: Any) -> str:
        if spec:
            self.spec(**spec)
        self.git("add", "-A")
        self.git("commit", "-qm", message)
        return self.git("rev-parse", "HEAD")

    def agent(self, script: str) -> str:
        """The command line of an agent that is this shell script; it starts on the desk."""
        path = self.tmp / f"agent-{len(list(self.tmp.glob('agent-*')))}.sh"
        path.write_text(HEADER.format(count=self.tmp / "count") + script)
        (self.tmp / "count").unlink(missing_ok=True)
        return f"sh '{path}'"

    def play(
        self,
        script: str,
        attempts: int | None = None,
        tag: str = "t",
        start_from: str | None = None,
        timeout: float = 30,
        pause: float = 0,
        before: Callable[[Run], object] = lambda run: None,
    ) -> Played:
        """A run in this process, with real processes for agent and experiment."""
        events: list[Event] = []
        project = open_project(self.folder)
        try:
            with Run(project, tag, events.append) as run:
                run.open(start_from)
                run.ready()
                before(run)
                spec = AgentSpec(command=self.agent(script), timeout_minutes=timeout / 60)
                agent = CommandAgent(spec, events.append)
                try:
                    ending = loop(run, agent, Turns(run, Limits(attempts), events.append, pause))
                finally:
                    agent.close()
                return Played(ending, run.attempts, events)
        finally:
            project.repository.close()

    def ark(
        self, *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The real command."""
        return subprocess.run(
            [*self.command, *args],
            cwd=cwd or self.folder,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=120,
        )

    def ark_here(self, *args: str) -> subprocess.CompletedProcess[str]:
        """The same command in this process: half a second sooner."""
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
        try:
            with contextlib.chdir(self.folder):
                done = CliRunner().invoke(main, args, prog_name="ark")
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return subprocess.CompletedProcess(list(args), done.exit_code, done.stdout, done.stderr)

    def log(self, tag: str = "t") -> list[dict[str, Any]]:
        done = self.ark_here("log", "--tag", tag, "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def show(self, ref: str, path: str) -> str:
        return self.git("show", f"{ref}:{path}")


@pytest.fixture(scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text("[user]\n name = U\n email = u@example.org\n[init]\n defaultBranch = main\n")
    return home


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory, _home: Path) -> Path:
    tmp = tmp_path_factory.mktemp("template")
    tiny = Tiny(tmp / "user", tmp)
    for path, text in FILES.items():
        tiny.write(path, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(_home))
        tiny.git("init", "-q", ".")
        tiny.commit("start", name="tiny")
    return tiny.root


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, _home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody's own configuration, cache or identity plays a part."""
    monkeypatch.setenv("HOME", str(_home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("XDG_CONFIG_HOME", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    yield


@pytest.fixture
def tiny(tmp_path: Path, _template: Path) -> Tiny:
    """The project, committed on branch `main`."""
    return Tiny(shutil.copytree(_template, tmp_path / "user", symlinks=True), tmp_path)
