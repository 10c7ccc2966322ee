"""What an agent reads: `program.md`, rendered from the spec, and the prompt of one attempt, from the ledger as well.

Same spec, same bytes. The prompt stays the same size however long a run gets. Text that came out of a log or from
another agent is quoted as data, cut, and free of control characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from autoresearch_kit.core.decide import number
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.records import Attempt, Outcome, clean_line
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.data import data_folder
from autoresearch_kit.ratchet import Run

RECENT = 12
"""Attempts shown one by one."""
NEAR_MISSES = 5
"""Best discarded attempts shown besides."""


def render_program(spec: Spec) -> str:
    """The text of program.md."""
    return _render("program.md.j2", spec=spec)


def render_prompt(run: Run) -> str:
    """The prompt for the next attempt."""
    attempts = [a for a in run.attempts if a.verdict is not None]
    return _render(
        "attempt.md.j2",
        spec=run.spec,
        head=run.head,
        baseline=run.baseline,
        tried=len(attempts),
        kept=[_line(a) for a in attempts if a.outcome is Outcome.KEEP][-RECENT:],
        recent=[_line(a) for a in attempts[-RECENT:]],
        near=[_line(a) for a in _near_misses(attempts)],
        told=clean_line(run.told, 400),
    )


def _near_misses(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The discarded attempts that came closest to their head, best first."""
    missed = [a for a in attempts if a.outcome is Outcome.DISCARD and a.verdict and a.verdict.gain is not None]
    return sorted(missed, key=lambda a: -(a.verdict.gain or 0) if a.verdict else 0)[:NEAR_MISSES]


def _line(attempt: Attempt) -> dict[str, str]:
    return {
        "number": str(attempt.number),
        "commit": attempt.commit[:10],
        "outcome": attempt.outcome,
        "value": number(attempt.value) if attempt.value is not None else "",
        "title": clean_line(attempt.proposal.title, 120),
        "reason": clean_line(attempt.verdict.reason if attempt.verdict else "", 200),
    }


def _render(name: str, **values: object) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_folder("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown for an agent, not HTML
    )
    environment.filters["number"] = number
    environment.filters["minutes"] = _minutes
    try:
        return environment.get_template(name).render(**values)
    except jinja2.TemplateSyntaxError as error:
        raise ArkError(f"{error.filename}:{error.lineno}: {error.message}") from None


def _minutes(seconds: float) -> str:
    return f"{seconds:g} seconds" if seconds < 120 else f"{seconds / 60:g} minutes"


def write_text(path: Path, text: str) -> None:
    """Write a rendered text; ArkError when that fails."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ArkError(f"{path} cannot be written: {error.strerror}") from None
