"""Where a verb was called: in the user's checkout, or on a desk, whose ticket says which run it belongs to.

On a desk git is never started: its configuration is the agent's. Every verb looks at the user's own folder instead,
which the ticket names. Imports nothing heavy before it is needed: each verb begins here.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.names import SPEC_NAME

if TYPE_CHECKING:
    from autoresearch_kit.core.records import Attempt
    from autoresearch_kit.ledger.git import Repository
    from autoresearch_kit.ledger.ledger import Ledger
    from autoresearch_kit.project import Project

BY_HAND = "by hand"
"""Who proposes when nothing says that it is an agent."""
AGENT_VARIABLE = "ARK_AGENT"
"""What to be called in the ledger, for those who want to say."""
AGENTS_BY_VARIABLE = {
    "CLAUDECODE": "claude",
    "CODEX_SANDBOX": "codex",
    "CODEX_SANDBOX_NETWORK_DISABLED": "codex",
    "CODEX_THREAD_ID": "codex",
    "GEMINI_CLI": "gemini",
    "OPENCODE": "opencode",
    "COPILOT_CLI": "copilot",
    "PI_CODING_AGENT": "pi",
    "CURSOR_AGENT": "cursor",
}
"""Variables that agents set for the commands that they start, and what the ledger calls those agents."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a verb is about."""

    where: Path
    """The spec in the user's checkout, or its folder."""
    tag: str | None
    """The run; None for the one active last."""
    cache: Path | None = None
    """The cache folder of the run whose desk the caller is on; None elsewhere."""


def place_of(directory: Path, tag: str | None = None) -> Place:
    """What `directory`, on a desk or in the user's checkout, stands for; `tag` is for reading another run.

    ArkError for a desk without a ticket, and for any other folder in ark's cache.
    """
    from autoresearch_kit.lab.ticket import Ticket, desk_cache

    try:
        here = Path(os.path.realpath(directory))
    except FileNotFoundError:
        raise ArkError("the folder you are in is gone", f"go to where the desk is now: {_way_back()}") from None
    if not _in_cache(here):
        return Place(directory, tag)
    cache = desk_cache(here)
    ticket = Ticket.read(cache) if cache else None
    if cache is None or ticket is None:
        what = "is in ark's cache and no desk" if cache is None else "is on a desk whose ticket is gone"
        raise UsageError(f"{directory} {what}", "in the project's folder: ark desk lays one and prints where it is")
    return Place(Path(ticket.spec), tag or ticket.tag, cache)


def _way_back() -> str:
    """The command for somebody whose desk is gone: the shell still knows where it was."""
    from autoresearch_kit.lab.ticket import find_ticket

    ticket = find_ticket(Path(os.environ.get("PWD", "")).absolute()) if "PWD" in os.environ else None
    words = [str(Path(ticket.spec).parent), "--tag", ticket.tag] if ticket else ["DIR"]
    return f'cd "$(ark desk {shlex.join(words)})"'


def refuse_desk(directory: Path) -> None:
    """UsageError when `directory` is on a desk, or anywhere in ark's cache."""
    from autoresearch_kit.lab.ticket import find_ticket

    # What does not exist has no git; whoever opens it says so.
    with contextlib.suppress(FileNotFoundError):
        if _in_cache(directory):
            ticket = find_ticket(directory)
            where = f"the project is in {Path(ticket.spec).parent}" if ticket else "go to the project's own folder"
            verbs = "on a desk there are `ark try`, `wait`, `status`, `log`, `show` and `note`"
            raise UsageError(f"{directory} is a throwaway copy of ark's: this is for the project", f"{where}; {verbs}")


def _in_cache(path: Path) -> bool:
    from autoresearch_kit.lab.ticket import leads_into_cache

    try:
        return leads_into_cache(path)
    except ArkError:  # no home: then there is no desk either
        return False


def caller(environment: Mapping[str, str] | None = None) -> str:
    """Who calls: what `ARK_AGENT` says, else an agent that its own variables give away, else `by hand`."""
    environment = os.environ if environment is None else environment
    if name := environment.get(AGENT_VARIABLE, "").strip():
        return name
    return next((name for variable, name in AGENTS_BY_VARIABLE.items() if environment.get(variable)), BY_HAND)


# What is there


@contextlib.contextmanager
def open_project_at(directory: Path) -> Iterator[Project]:
    """The project of a folder or spec in the user's checkout; never on a desk."""
    from autoresearch_kit.project import open_project

    refuse_desk(directory)
    project = open_project(directory)
    try:
        yield project
    finally:
        project.repository.close()


@contextlib.contextmanager
def open_repository_at(directory: Path) -> Iterator[Repository]:
    """The repository around a folder or spec in the user's checkout; never on a desk."""
    from autoresearch_kit.ledger.git import Repository

    refuse_desk(directory)
    repository = Repository(directory if directory.is_dir() else directory.parent)
    try:
        yield repository
    finally:
        repository.close()


def spec_name(repository: Repository, directory: Path) -> str:
    """Path from the root of the repository of the spec that a folder or file stands for."""
    path = directory if directory.is_file() else directory / SPEC_NAME
    return os.path.relpath(path.resolve(), repository.root.resolve())


def read_run(repository: Repository, tag: str | None, spec: str) -> tuple[Ledger, list[Attempt]]:
    """The run `tag`, else that of the spec at path `spec` which was active last. UsageError when there is none."""
    from autoresearch_kit.ledger.ledger import Ledger, names, no_run, read_latest

    if tag is None:
        found = read_latest(repository, spec)
        if found is None:
            raise no_run(repository)
        return found
    ledger = Ledger(repository, "", tag)
    attempts = ledger.read()
    if not attempts:
        known = ", ".join(names(repository)) or "none yet"
        raise UsageError(f"there is no run {tag}", f"the runs are: {known}")
    return ledger, attempts


def run_of(project: Project, tag: str | None) -> tuple[Ledger, list[Attempt]]:
    """The same, with its branch."""
    from autoresearch_kit.ledger.ledger import Ledger

    ledger, attempts = read_run(project.repository, tag, project.spec_name)
    return Ledger(project.repository, project.spec.branch_prefix, ledger.tag), attempts


def unmeasured(project: Project, cache: Path) -> list[str]:
    """What somebody who works on the desk of a run has changed there and never measured; empty when that is nothing.

    One sentence instead when what lies there could not be measured. Nothing on a desk that is nobody's.
    """
    from autoresearch_kit.books import COUNTED
    from autoresearch_kit.core.records import Outcome
    from autoresearch_kit.lab.cache import DESK
    from autoresearch_kit.lab.desk import Desk, Refused, read_links
    from autoresearch_kit.lab.ticket import Ticket
    from autoresearch_kit.ledger.ledger import Ledger

    repository, place, ticket = project.repository, project.place, Ticket.read(cache)
    if ticket is None or not ticket.lent or not ticket.laid or repository.commit_of(ticket.laid) is None:
        return []
    links: dict[str, Path] = {}
    with contextlib.suppress(ArkError):  # gone since: then nothing on the desk leads there
        links = read_links(repository.root, place.prefix, project.spec.link)
    desk = Desk(repository, cache / DESK, ticket.laid, place, links)
    if not desk.folder.is_dir():
        return []
    desk.take_up(ticket.laid, repository.files(ticket.laid), ticket.filtered)
    try:
        changes = desk.compose()
    except Refused as refusal:
        return [str(refusal)]
    known = {a.tree for a in Ledger(repository, "", ticket.tag).read() if a.outcome in (*COUNTED, Outcome.RUNNING)}
    # Where nothing was changed there is nothing to lose, whatever became of the commit that was laid.
    is_new = bool(changes) and repository.store_tree(ticket.laid, changes) not in known
    return [path[len(place.prefix) :] for path in sorted(changes)] if is_new else []


def find_attempt(project: Project, tag: str | None, name: str) -> Attempt:
    """The attempt called `[TAG/]N`, by itself that of the run `tag` or else of the latest; UsageError without one."""
    from autoresearch_kit.ledger.ledger import pick

    of, slash, number = name.rpartition("/")
    if not number.isdigit() or (slash and not of):
        raise UsageError(f"`{name}` is not an attempt", "write a number, or TAG/NUMBER")
    of = of or tag or run_of(project, None)[0].tag
    return pick(project.repository, project.spec.branch_prefix, f"{of}/{number}")
