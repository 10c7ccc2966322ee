"""A project in a real repository, and its exam in this process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch_kit.exam import Answer, Exam, ask
from autoresearch_kit.project import open_project

SPEC = {
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
FILES = {"train.sh": "echo 10 > answer.txt\n", "evaluate.sh": 'set -eu\necho "score: $(cat answer.txt)"\n'}


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with an identity for git and nothing else."""
    for name in list(os.environ):
        if name.startswith(("GIT_", "ARK_", "XDG_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\n name = U\n email = u@example.org\n[init]\n defaultBranch = main\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def commit(tmp_path: Path) -> Callable[..., Path]:
    """Make a committed project: a copy of a folder, or the tiny one with other files and other keys of its spec."""

    def make(source: Path | None = None, files: dict[str, str | bytes] | None = None, **spec: object) -> Path:
        folder = tmp_path / "user"
        if source is not None:
            shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__", "build"))
        else:
            texts = {**FILES, **(files or {}), "autoresearch-config.yaml": json.dumps({**SPEC, **spec})}
            for name, text in texts.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
            subprocess.run(["git", *words], cwd=folder, check=True)
        return folder

    return make


@pytest.fixture
def examine() -> Iterator[Callable[..., dict[str, Answer]]]:
    """All answers by question, or those of one."""

    def run(folder: Path, only: str | None = None, runs: int = 2) -> dict[str, Answer]:
        project = open_project(folder)
        try:
            with Exam(project, runs) as exam:
                return {answer.question: answer for answer in ask(exam, only)}
        finally:
            project.repository.close()

    yield run
