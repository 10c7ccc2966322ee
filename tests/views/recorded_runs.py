"""A small repository with runs as the engine records them, and a clone that pushes and fetches."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from autoresearch_kit.cli import main
from autoresearch_kit.core.interval import estimate
from autoresearch_kit.core.records import Attempt, Cost, Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.core.verification import Arm, State, Verification
from autoresearch_kit.ledger import verified
from autoresearch_kit.ledger.git import Entry
from autoresearch_kit.ledger.ledger import Ledger
from autoresearch_kit.project import Project, open_project

SPEC_NAME = "autoresearch-config.yaml"
SPEC: Mapping[str, Any] = {
    "name": "tiny",
    "metric": "loss",
    "metric_direction": "minimize",
    "mutable_files": ["train.py"],
    "run_command": "python3 train.py",
}
TRAIN = "LR = 0.1\n\nDEPTH = 4\n\n\ndef step(x):\n    return x * LR\n"
HERE = "Linux x86_64, a processor"


@dataclass
class Try:
    """One attempt to be recorded."""

    value: float | None
    """None is a crash."""
    kept: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    title: str = "an idea"
    agent: str = "claude"
    machine: str = HERE
    cost: Cost = field(default_factory=Cost)
    seconds: float = 60.0
    started: str = ""
    noise: float | None = None
    origin: tuple[str, ...] = ()


def turned(**constants: object) -> dict[str, str]:
    """train.py with constants turned."""
    text = TRAIN
    for name, value in constants.items():
        text = "\n".join(f"{name} = {value}" if line.startswith(f"{name} =") else line for line in text.split("\n"))
    return {"train.py": text}


@dataclass
class Made:
    """The repository around `folder`."""

    folder: Path

    def git(self, *args: str) -> str:
        who = ("-c", "user.name=User", "-c", "user.email=user@example.org", "-c", "protocol.file.allow=always")
        done = subprocess.run(["git", *who, *args], cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start(self, **files: str) -> Made:
        self.folder.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        return self.commit(**{"train.py": TRAIN, "data.py": "N = 1\n", **files})

    def commit(self, spec: Mapping[str, Any] | None = None, **files: str) -> Made:
        if spec is not None or not (self.folder / SPEC_NAME).exists():
            (self.folder / SPEC_NAME).write_text(json.dumps({**SPEC, **(spec or {})}))
        for name, text in files.items():
            (self.folder / name).write_text(text)
        self.git("add", ".")
        self.git("commit", "-qm", "files")
        return self

    @contextmanager
    def opened(self) -> Iterator[Project]:
        project = open_project(self.folder)
        try:
            yield project
        finally:
            project.repository.close()

    def run(self, tag: str, tries: Sequence[Try], baseline: Try | None = None) -> list[Attempt]:
        """Record a run: a baseline of value 1 unless another is given, then the tries."""
        made: list[Attempt] = []
        with self.opened() as project:
            repository = project.repository
            ledger = Ledger(repository, project.spec.branch_prefix, tag, project.spec_name)
            head = repository.head()
            yardstick = project.yardstick(repository.files(head))
            value = 0.0
            for number, one in enumerate([baseline or Try(1.0, kept=True, title="Baseline", agent=""), *tries]):
                entries = {
                    name: Entry(0o100644, repository.store_blob(text.encode())) for name, text in one.files.items()
                }
                tree = repository.store_tree(head, entries)
                proposal = Proposal(one.title, f"for {tag}", one.agent, one.cost, one.origin)
                attempt = ledger.reserve(number, proposal, tree=tree, parent=head, yardstick=yardstick)
                attempt = replace(attempt, started=one.started or f"2026-01-02T03:{number:02d}:00.000Z")
                outcome = Outcome.CRASH if one.value is None else Outcome.KEEP if one.kept else Outcome.DISCARD
                problem = "exit: exit code 1" if one.value is None else ""
                gain = None if number == 0 or one.value is None else value - one.value
                sample = Measurement(one.value, {}, problem, one.seconds, machine=one.machine)
                verdict = Verdict(outcome, f"{outcome.capitalize()}: so", gain, one.noise)
                attempt = ledger.close(attempt, [sample], verdict)
                made.append(attempt)
                if one.kept and one.value is not None:
                    head, value = attempt.commit, one.value
        return made

    def verify(self, tag: str, pairs: Sequence[tuple[float, float]], of: Attempt, baseline: Attempt) -> None:
        """Record a verification with these values of baseline and head."""
        found = Verification(
            tag=tag, project="tiny", spec=SPEC_NAME, metric="loss", maximize=False,
            baseline=Arm(baseline.number, baseline.commit), head=Arm(of.number, of.commit), tree=of.tree,
            yardstick=of.yardstick, machine=of.machine, version="0", runs=2 * len(pairs),
            started="2026-01-03T00:00:00.000Z",
        )  # fmt: skip
        with self.opened() as project:
            running = verified.begin(project.repository, found)
            ended = replace(running, state=State.DONE, gain=estimate(pairs, maximize=False))
            verified.finish(project.repository, ended)

    def clone(self, folder: Path) -> Made:
        """A clone as another machine has it, which fetches also what lies below refs/ark of this one."""
        subprocess.run(["git", "clone", "-q", str(self.folder), str(folder)], check=True, capture_output=True)
        return Made(folder)

    def fetch(self) -> None:
        """What `ark fetch` does, by git itself."""
        self.git(
            "fetch", "-q", "origin", "+refs/ark/*:refs/ark-remotes/origin/*", "+refs/heads/*:refs/remotes/origin/*"
        )

    def push(self) -> None:
        """What `ark push` does, by git itself."""
        self.git("push", "-q", "origin", "refs/ark/*:refs/ark/*", "refs/heads/autoresearch/*:refs/heads/autoresearch/*")

    def ark(self, *args: str, code: int = 0, columns: int = 80) -> str:
        """What `ark` prints, in this process; its standard error where it is to fail."""
        here = Path.cwd()
        os.chdir(self.folder)
        try:
            done = CliRunner().invoke(main, args, prog_name="ark", env={"COLUMNS": str(columns), "NO_COLOR": "1"})
        finally:
            os.chdir(here)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.stderr

    def compare(self, *names: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ark("compare", *names, "--json"))
        return found
