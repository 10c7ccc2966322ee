"""Runs between machines: push one with its ledger, fetch those of others."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoresearch_kit.cli.common import heed_signals, open_project_at, styled
from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.records import clean_line
from autoresearch_kit.serve.place import open_repository_at, refuse_desk, run_of

if TYPE_CHECKING:
    from autoresearch_kit.ledger.mirror import Fetched

remote_argument = click.argument("remote", required=False)
directory_argument = click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))


@click.command()
@remote_argument
@directory_argument
@click.option(
    "--tag", "tags", metavar="T", multiple=True, help="The run, several times for several; else the one active last."
)
@click.option("--as", "name", metavar="NAME", help="What to call it there: nothing of a run depends on its name.")
def push(remote: str | None, directory: Path | None, tags: tuple[str, ...], name: str | None) -> None:
    """Share a run: its branch and every closed attempt, in one step, also while it goes on. Never by force."""
    from autoresearch_kit.ledger import transfer
    from autoresearch_kit.ledger.ledger import check_tag
    from autoresearch_kit.ledger.remote import choose_remote, push_address

    chosen: list[str | None] = [*dict.fromkeys(tags)]
    if name is not None and len(chosen) > 1:
        raise click.UsageError("--as names one run")
    remote, directory = _words(remote, directory)
    heed_signals()
    with open_project_at(directory) as project:
        ledgers = []
        for tag in chosen or [None]:
            ledger, attempts = run_of(project, tag and check_tag(tag))
            if attempts[0].spec not in ("", project.spec_name):
                raise UsageError(f"run {ledger.tag} belongs to {attempts[0].spec}", "give the folder of that spec")
            ledgers.append(ledger)
        where = choose_remote(project.repository, remote, pushing=True)
        click.echo(f"to {clean_line(push_address(project.repository, where), 200)}", err=True)
        with _progress() as tell:
            done = transfer.push(project.repository, where, ledgers, name, tell)
    for run in done:
        new = _new(run.attempts, run.new) if run.new else "all there before"
        click.echo(f"{run.name}: {_count(run.attempts)}, {new}; branch {run.branch}")
    click.echo(f"elsewhere: ark fetch {shlex.quote(where)} && ark compare", err=True)


@click.command()
@remote_argument
@directory_argument
@click.option("--prune", is_flag=True, help="Forget runs that are not there any more.")
def fetch(remote: str | None, directory: Path | None, prune: bool) -> None:
    """Bring the runs of others here, to compare, to show and to begin from; nothing of yours is touched."""
    from autoresearch_kit.ledger import mirror
    from autoresearch_kit.ledger.remote import choose_remote

    remote, directory = _words(remote, directory)
    heed_signals()
    with open_project_at(directory) as project:
        where = choose_remote(project.repository, remote)
        with _progress() as tell:
            found = mirror.fetch(project.repository, where, project.spec.branch_prefix, prune, tell)
    for run in found.runs:
        if run.problem:
            _note(f"{run.name} cannot be read and is left out: {run.problem}")
        elif run.new or run.was_replaced:
            _print(run)
    for name in found.gone:
        what = "forgotten here too" if prune else "kept here; ark fetch --prune forgets it"
        _note(f"{name} is not there any more: {what}")
    others = [run for run in found.runs if not run.is_ours and not run.problem]
    if not any(run.new or run.was_replaced for run in found.runs):
        click.echo(f"nothing new on {where}; runs there: {len(found.runs)}", err=True)
    if others:
        click.echo(f"next: ark compare   ark log --tag {others[-1].name}", err=True)


def _print(run: Fetched) -> None:
    other = "; another run than the one of that name before" if run.was_replaced else ""
    click.echo(f"{run.name}: {_count(run.attempts)}, {_new(run.attempts, run.new)}{other}")


def _count(records: int) -> str:
    more = "" if records < 2 else f" and {records - 1} attempt{'s' * (records > 2)}"
    return f"the baseline{more}"


def _new(records: int, new: int) -> str:
    return "all new" if new == records else f"{new} of them new"


def _note(text: str) -> None:
    click.echo(f"{styled('note:', 'yellow')} {text}", err=True)


def _words(remote: str | None, directory: Path | None) -> tuple[str | None, Path]:
    """Remote and folder. One word alone is a remote of the repository here, or else a folder that holds a spec."""
    from autoresearch_kit.ledger.remote import remotes
    from autoresearch_kit.project import find_spec

    if remote is not None and directory is None and Path(remote).exists():
        known = []
        with contextlib.suppress(ArkError), open_repository_at(Path()) as repository:
            known = remotes(repository)
        folder = Path(remote)
        with contextlib.suppress(ArkError):
            if remote not in known and find_spec(folder).is_file():
                remote, directory = None, folder
    directory = directory or Path()
    refuse_desk(directory)
    return remote, directory


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], object] | None]:
    """How far it is, on one line of a terminal; None where there is none."""
    if not sys.stderr.isatty():
        yield None
        return
    width = shutil.get_terminal_size().columns - 1

    def tell(text: str) -> None:
        click.echo(f"\r\x1b[K{text[:width]}", err=True, nl=False)

    try:
        yield tell
    finally:
        click.echo("\r\x1b[K", err=True, nl=False)
