"""The agent's verbs, said once: the command line, the MCP server and the skill are three doors to what stands here.

Each verb takes a place and arguments by name, and returns plain data for JSON. What is wrong with ark or with the
question is an ArkError; an experiment that failed, or a change that could not be measured, is data like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from autoresearch_kit.serve.place import (
    Place,
    caller,
    find_attempt,
    open_project_at,
    open_repository_at,
    read_run,
    run_of,
    spec_name,
)

if TYPE_CHECKING:
    from autoresearch_kit.core.records import Attempt
    from autoresearch_kit.project import Project

Tell = Callable[[Mapping[str, Any]], None]
"""Takes what happens while a verb is at work, as `server.event_data` makes it: `{"event": "phase", ...}`."""
Call = Callable[[Place, Mapping[str, Any], Tell], Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a verb."""

    name: str
    """As `Verb.call` and MCP know it."""
    type: Literal["string", "integer", "number", "boolean", "array"]
    """As JSON Schema calls it; an array is one of strings."""
    description: str
    """One sentence for whoever calls it."""
    flags: tuple[str, ...] = ()
    """As the command line knows it; empty for a bare word."""
    metavar: str = ""
    """What stands for its value in the help of the command line."""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Verb:
    """One thing that an agent may do."""

    name: str
    """`ark NAME`."""
    tool: str
    """The same as an MCP tool."""
    summary: str
    """One sentence."""
    parameters: tuple[Parameter, ...]
    call: Call
    """Does it: `call(place, arguments, tell)` returns data for JSON, an object or a list."""

    def parameter(self, name: str) -> Parameter:
        """The parameter of that name."""
        return next(parameter for parameter in self.parameters if parameter.name == name)


def silent(event: Mapping[str, Any]) -> None:
    """For a caller that does not want to know how it goes on."""


# On a desk


def _try(place: Place, arguments: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    from autoresearch_kit.serve import client

    order = {
        "title": arguments.get("title") or "",
        "why": arguments.get("why") or "",
        "from": list(arguments.get("from") or ()),
        "detach": bool(arguments.get("detach")),
        "agent": caller(),
    }
    return client.measure(place, order, tell)


def _wait(place: Place, arguments: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    from autoresearch_kit.serve import client

    return client.wait(place, arguments.get("timeout_seconds"), tell)


def exit_code(result: Mapping[str, Any]) -> int:
    """What `ark try` and `ark wait` end with: 0 measured, whatever the verdict, 1 not measured, 3 the run is over."""
    return 3 if result["outcome"] == "over" else 0 if result["commit"] is not None else 1


# Anywhere


def _status(place: Place, arguments: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    from autoresearch_kit.lab.cache import run_cache
    from autoresearch_kit.serve import client
    from autoresearch_kit.views import summary

    with open_project_at(place.where) as project:
        ledger, attempts = run_of(project, place.tag)
        found = summary.status(project, ledger, attempts)
        if found["running"]:
            found["running"] = not client.is_idle(run_cache(project.repository.common, ledger.branch))
        return {**found, "desk": desk_of(project, ledger.branch), "over": why_over(project, ledger.tag, attempts)}


def desk_of(project: Project, branch: str) -> str | None:
    """The spec's folder on the desk of a run; None when none is laid."""
    from autoresearch_kit.lab.cache import DESK, run_cache
    from autoresearch_kit.lab.ticket import Ticket

    cache = run_cache(project.repository.common, branch)
    folder = cache / DESK / project.place.prefix
    return str(folder) if folder.is_dir() and Ticket.read(cache) else None


def why_over(project: Project, tag: str, attempts: Sequence[Attempt]) -> str | None:
    """Why a run takes no more attempts, by the budgets of its spec; None when it does."""
    from autoresearch_kit.books import Tally
    from autoresearch_kit.core.budget import Limits, ending
    from autoresearch_kit.ledger.owed import read_owed
    from autoresearch_kit.loop import with_owed

    owed = read_owed(project.repository, tag, attempts)
    spent = with_owed(Tally(attempts).spent(0, 0.0), owed.values())
    found = ending(project.spec.budget, Limits(), spent, project.spec.maximize)
    return found.reason if found else None


def _history(place: Place, arguments: Mapping[str, Any], tell: Tell) -> list[dict[str, Any]]:
    from autoresearch_kit.core.entry import log_entry

    # No spec is needed, which saves a third of the time.
    with open_repository_at(place.where) as repository:
        attempts = read_run(repository, place.tag, spec_name(repository, place.where))[1]
    last = arguments.get("last")
    return [log_entry(attempt) for attempt in (attempts[-last:] if last else attempts)]


def _show(place: Place, arguments: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    from autoresearch_kit.views import summary

    with open_project_at(place.where) as project:
        found = find_attempt(project, place.tag, str(arguments["attempt"]))
        diff = project.repository.diff(found.parent, found.commit) if found.parent else ""
        return summary.full_entry(found, diff)


def _note(place: Place, arguments: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    from dataclasses import asdict

    from autoresearch_kit.ledger.ideas import read_ideas, write_idea

    with open_repository_at(place.where) as repository:
        tag = place.tag or read_run(repository, None, spec_name(repository, place.where))[0].tag
        text = arguments.get("text")
        if text is not None:
            write_idea(repository, tag, str(text), caller())
        return {"tag": tag, "ideas": [asdict(idea) for idea in read_ideas(repository, tag)]}


TRY = Verb(
    "try",
    "try_experiment",
    "Measure what you changed on the desk, get the verdict, and have the desk laid anew with the best so far.",
    (
        Parameter(
            "title",
            "string",
            "One line: what you changed. Without it the first line of .ark/attempt.md.",
            ("-m", "--title"),
            "TITLE",
        ),
        Parameter("why", "string", "Why you expect a gain, in a few lines.", ("--why",), "TEXT"),
        Parameter(
            "from",
            "array",
            "Propose the change of another attempt instead, as [TAG/]N, merged onto the best so far; "
            "several are combined.",
            ("--from",),
            "[TAG/]N",
        ),
        Parameter(
            "detach",
            "boolean",
            "Do not wait for the verdict; fetch it later with wait. For experiments that outlast a tool call.",
            ("--detach",),
        ),
    ),
    _try,
)
WAIT = Verb(
    "wait",
    "wait",
    "Wait for the attempt that is being measured, or fetch the last verdict that nobody has seen.",
    (
        Parameter(
            "timeout_seconds",
            "number",
            "Come back after so long with or without a verdict; the measurement goes on.",
            ("--timeout",),
            "SECONDS",
        ),
    ),
    _wait,
)
STATUS = Verb("status", "status", "Say how the run stands.", (), _status)
HISTORY = Verb(
    "log",
    "history",
    "List the attempts of the run, kept or not, oldest first.",
    (Parameter("last", "integer", "Only the last N attempts.", ("--last",), "N"),),
    _history,
)
SHOW = Verb(
    "show",
    "show",
    "Show one attempt: what was tried, why, the verdict and the diff.",
    (Parameter("attempt", "string", "Its number, or TAG/NUMBER for another run's.", (), "[TAG/]N", True),),
    _show,
)
NOTE = Verb(
    "note",
    "note_idea",
    "Note an idea for later, so that it is not lost; without a text list those noted.",
    (Parameter("text", "string", "The idea, in a sentence or a few.", (), "[TEXT]"),),
    _note,
)

VERBS = (TRY, WAIT, STATUS, HISTORY, SHOW, NOTE)
