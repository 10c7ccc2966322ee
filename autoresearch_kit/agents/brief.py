"""What an agent reads: `program.md`, rendered from the spec, and the prompt of one attempt, from the ledger as well.

Same spec, same bytes. The prompt stays the same size however long a run gets. Text that came out of a log or from
another agent is quoted as data, cut, and free of control characters.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
from pathlib import Path

import jinja2

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.records import Attempt, clean_line, number
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.data import data_folder
from autoresearch_kit.ratchet import Run

MARK = "<!-- rendered by ark from "
"""How a program that may be written anew begins."""
RECENT = 12
"""Attempts shown one by one."""


def render_program(spec: Spec) -> str:
    """The text of program.md."""
    return _render("program.md.j2", spec=spec)


def render_prompt(run: Run) -> str:
    """The prompt for the next attempt."""
    books = run.books
    return _render(
        "attempt.md.j2",
        spec=run.spec,
        head=run.head,
        baseline=run.baseline,
        tried=books.history.tried,
        kept=[_line(a) for a in books.kept],
        recent=[_line(a) for a in books.attempts[-RECENT:] if a.verdict],
        near=[_line(a) for a in books.near_misses],
        told=clean_line(run.told, 400),
    )


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
    try:
        return _environment().get_template(name).render(**values)
    except jinja2.TemplateSyntaxError as error:
        raise ArkError(f"{error.filename}:{error.lineno}: {error.message}") from None


@functools.cache
def _environment() -> jinja2.Environment:
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
    return environment


def _minutes(seconds: float) -> str:
    return f"{seconds:g} seconds" if seconds < 120 else f"{seconds / 60:g} minutes"


def refuse_foreign(path: Path) -> None:
    """ArkError when there is a file at `path` that was not rendered."""
    try:
        if not os.path.lexists(path):
            return
        with path.open("rb") as file:
            if file.read(len(MARK)) == MARK.encode():
                return
    except OSError as error:
        raise ArkError(f"{path} cannot be read: {error.strerror}") from None
    raise ArkError(
        f"{path} was not rendered by ark, or by an older one, and would be lost",
        f"-o {shlex.quote(str(path))} to write it anyway, -o - to look",
    )


def write_text(path: Path, text: str) -> None:
    """Write a rendered text, all of it or nothing; ArkError when that fails."""
    try:
        path = path.resolve() if path.is_symlink() else path
        if path.exists() and not path.is_file():  # a pipe or a terminal, which must stay one
            path.write_text(text, encoding="utf-8")
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            if path.exists():
                shutil.copymode(path, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        raise ArkError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from None
