"""What `ark try` answers: an entry of the log, what to do next, and where the desk is.

Of what was not measured there is the same entry, with empty fields and the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoresearch_kit.core.records import Attempt, Outcome, Proposal, number
from autoresearch_kit.views.summary import log_entry

TAIL_LINES = 20
"""Of the log of a crash."""
NOTHING: dict[str, Any] = {
    **log_entry(Attempt(0, "", "", "", Proposal("-"), (), None, "", "")),
    **dict.fromkeys(("number", "commit", "parent", "started", "desk")),
    "title": "",
    "log_tail": "",
    "notes": [],
    "next": "",
}
"""An answer in which nothing was measured."""


def unmeasured(kind: str, reason: str, then: str, **more: Any) -> dict[str, Any]:
    """The answer when there was nothing to measure, or none was allowed."""
    return {**NOTHING, "outcome": kind, "reason": reason, "next": then, **more}


def running(number: int | None, then: str, **more: Any) -> dict[str, Any]:
    """The answer while an attempt is measured."""
    reason = f"{'It' if number is None else f'Attempt {number}'} is being measured"
    return {**NOTHING, "number": number, "outcome": "running", "reason": reason, "next": then, **more}


def measured(attempt: Attempt, head: Attempt, desk: Path, notes: Sequence[str], over: str) -> dict[str, Any]:
    """The answer for an attempt that was closed; `over` says why the run takes no more, if so."""
    tail = next((m.log_tail for m in reversed(attempt.own) if m.log_tail), "")
    then = f"The run is over: {over}. Stop here" if over else _next(attempt, head)
    return {
        **log_entry(attempt),
        "log_tail": "\n".join(tail.split("\n")[-TAIL_LINES:]),
        "notes": list(notes),
        "next": then,
        "desk": str(desk),
    }


def _next(attempt: Attempt, head: Attempt) -> str:
    best = f"the best so far, attempt {head.number} ({number(head.value or 0.0)})"
    match attempt.outcome:
        case Outcome.KEEP:
            return f"The desk holds this now, {best}; go on from here"
        case Outcome.DISCARD:
            return f"The desk holds {best} again; try something else, or better"
        case Outcome.CRASH:
            return f"The desk holds {best} again; mend what is silly (ark show {attempt.number}), drop what is wrong"
    return f"Nothing was decided; to measure it again: ark try --from {attempt.number}"


AFTER = {
    "no_change": "Edit the mutable files, which program.md names; changes to others are not taken",
    "duplicate": "The desk holds the best so far again; read the history (ark log) and try something new",
    "refused": "Mend that here and call ark try again",
    "conflict": "Undo your change here and call ark try once more: the desk is then laid anew with the best so far",
}
"""What to do when there was nothing to measure, by kind."""


def lines(result: Mapping[str, Any]) -> list[str]:
    """An answer for a person."""
    head = [f"note: {note}" for note in result["notes"]]
    if result["number"] is not None and result["title"]:
        head.append(f"attempt {result['number']}: {result['title']}")
    head.append(result["reason"])
    if result["log_tail"]:
        head += ["", "The end of its log:", "", *("    " + line for line in result["log_tail"].split("\n"))]
    return [*head, "", f"next: {result['next']}"]
