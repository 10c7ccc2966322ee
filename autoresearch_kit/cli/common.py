"""What the verbs share: options, how a folder becomes a project, and how things are printed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from rich.console import Console

    from autoresearch_kit.core.records import Attempt
    from autoresearch_kit.ledger.git import Repository
    from autoresearch_kit.ledger.ledger import Ledger
    from autoresearch_kit.project import Project

INTERRUPTED = 130

directory = click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
tag_option = click.option("--tag", metavar="T", help="The run; without it the one that was active last.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def finite(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("it must be a number of hours")
    return value


def styled(text: str, color: str) -> str:
    """Colour for a terminal, unless the user wants none (https://no-color.org)."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=color, bold=True)


def print_row(word: str, subject: str, text: str, hint: str) -> None:
    color = {"ok": "green", "warn": "yellow", "not tried": "yellow"}.get(word.strip(), "red")
    click.echo(f"{styled(word, color)}  {subject}: {text}")
    if hint:
        click.echo(f"{' ' * len(word)}  hint: {hint}")


def print_json(document: Any) -> None:
    # Long lists one item a line: people can grep them, and the encoder that cannot indent is ten times as fast.
    if isinstance(document, list):
        click.echo("[" + ",\n ".join(map(json.JSONEncoder(allow_nan=False).encode, document)) + "]")
    else:
        click.echo(json.dumps(document, indent=2, allow_nan=False))


def console() -> Console:
    from rich.console import Console

    return Console()


def heed_signals() -> None:
    """Let whoever ends this process do so as by Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, _interrupt)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


@contextlib.contextmanager
def open_project_at(directory: Path) -> Iterator[Project]:
    from autoresearch_kit.project import open_project

    project = open_project(directory)
    try:
        yield project
    finally:
        project.repository.close()


@contextlib.contextmanager
def open_repository_at(directory: Path) -> Iterator[Repository]:
    from autoresearch_kit.ledger.git import Repository

    repository = Repository(directory if directory.is_dir() else directory.parent)
    try:
        yield repository
    finally:
        repository.close()


def run_of(project: Project, tag: str | None) -> tuple[Ledger, list[Attempt]]:
    from autoresearch_kit.ledger.ledger import Ledger

    ledger, attempts = read_run(project.repository, tag, project.spec_name)
    return Ledger(project.repository, project.spec.branch_prefix, ledger.tag), attempts


def spec_name(repository: Repository, directory: Path) -> str:
    from autoresearch_kit.core.names import SPEC_NAME

    path = directory if directory.is_file() else directory / SPEC_NAME
    return os.path.relpath(path.resolve(), repository.root.resolve())


def read_run(repository: Repository, tag: str | None, spec: str) -> tuple[Ledger, list[Attempt]]:
    """The run `tag`, else that of the spec at path `spec` which was active last. UsageError when there is none."""
    from autoresearch_kit.core.errors import UsageError
    from autoresearch_kit.ledger.ledger import Ledger, read_latest, tags

    if tag is None:
        found = read_latest(repository, spec)
        if found is None:
            raise UsageError("there is no run of this project yet", "start one: ark run")
        return found
    ledger = Ledger(repository, "", tag)
    attempts = ledger.read()
    if not attempts:
        known = ", ".join(tags(repository)) or "none yet"
        raise UsageError(f"there is no run {tag}", f"the runs are: {known}")
    return ledger, attempts


def default_tag(project: Project, today: str) -> str:
    """Today; with the folder's name where the repository may hold other projects, because tags belong to it."""
    from autoresearch_kit.core.names import is_name

    tag = f"{project.folder.name}-{today}"
    return tag if project.place.prefix and is_name(tag) else today
