"""What `ark try` answers: an entry of the log, what to do next, and where the desk is.

Of what was not measured there is the same entry, with empty fields and the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoresearch_kit.core.entry import log_entry
from autoresearch_kit.core.records import Attempt, Outcome, Proposal, clean_text, number

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


def measured(
    attempt: Attempt, head: Attempt, desk: Path, notes: Sequence[str], over: str, holds: str = "best"
) -> dict[str, Any]:
    """The answer for an attempt that was closed; `over` says why the run takes no more, if so.

    The desk `holds` the `best` so far, or `changes` that were made meanwhile, or is a `ruin` that was laid half.
    """
    tail = next((m.log_tail for m in reversed(attempt.own) if m.log_tail), "")
    then = f"The run is over: {over}. Stop here" if over else _next(attempt, head, holds)
    return {
        **log_entry(attempt),
        "log_tail": "\n".join(tail.split("\n")[-TAIL_LINES:]),
        "notes": list(notes),
        "next": then,
        "desk": str(desk),
    }


def _next(attempt: Attempt, head: Attempt, holds: str) -> str:
    best = f"the best so far, attempt {head.number} ({number(head.value or 0.0)})"
    if holds == "ruin":
        return "Mend what is in the way on the desk, as said; the next ark try lays it"
    if holds == "changes":
        is_kept = attempt.outcome is Outcome.KEEP
        then = "ark try merges it with that" if is_kept else "go on from there"
        return f"The desk holds what you changed meanwhile, not {best}: {then}"
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


def plain(found: Any) -> Any:
    """The same without what a terminal would obey; a desk is where it is, however it is called."""
    if isinstance(found, str):
        return clean_text(found, len(found) + 1)
    if isinstance(found, list):
        return [plain(inner) for inner in found]
    if isinstance(found, dict):
        return {str(name): inner if name == "desk" else plain(inner) for name, inner in found.items()}
    return found


def received(message: Mapping[str, Any]) -> dict[str, Any] | None:
    """A `{"result": ...}` or an `{"error": ...}`, cleaned; None for what is none: an agent may have written it."""
    if "error" in message:
        code = message.get("exit_code")
        code = code if isinstance(code, int) and 0 < code < 126 else 1
        texts = {"error": str(message["error"]), "hint": str(message.get("hint", ""))}
        return dict(plain({**message, **texts, "exit_code": code}))
    result = message.get("result")
    if not isinstance(result, dict):
        return None
    result = {name: result.get(name, empty) for name, empty in NOTHING.items()}
    fits = all(isinstance(result[name], _kinds(empty)) for name, empty in NOTHING.items())
    if not (
        fits and isinstance(result["number"], int | None) and all(isinstance(note, str) for note in result["notes"])
    ):
        return None
    return dict(plain({**message, "result": result}))


def _kinds(empty: object) -> tuple[type, ...]:
    """What may be in the place of an empty field."""
    return (type(empty),) if isinstance(empty, str | list | dict) else (str, int, float, type(None))


def words(event: Mapping[str, Any]) -> str:
    """What happens meanwhile, for a person; empty when that is not worth a line."""
    match event.get("event"):
        case "phase":
            return f"{event['name']}, at most {event['limit_seconds']:g} seconds"
        case "sample":
            return (
                f"run {event['done'] + 1}{', of the best so far, in turn' * event['of_head']}" if event["done"] else ""
            )
        case "begun":
            return "first what comes before it" if event["number"] is None else f"attempt {event['number']} begins"
        case "judged":
            return f"attempt {event['number']}: {event['reason']}"
    return str(event.get("text", ""))


def lines(result: Mapping[str, Any]) -> list[str]:
    """An answer for a person."""
    head = [f"note: {note}" for note in result["notes"]]
    if result["number"] is not None and result["title"]:
        head.append(f"attempt {result['number']}: {result['title']}")
    head.append(result["reason"])
    if result["log_tail"]:
        head += ["", "The end of its log:", "", *("    " + line for line in result["log_tail"].split("\n"))]
    return [*head, "", f"next: {result['next']}"]
