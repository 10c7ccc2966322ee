"""Crashes by kind: of a command that merely ended with an exit code, what the end of its log calls the failure.

A log is hostile text, so only a part of its end is looked at, and only a word that looks like the name of a class, or a
phrase of a fixed list, becomes a kind.
"""

from __future__ import annotations

import re
from typing import Any

from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.records import Attempt, Outcome, clean_line

NUMBERS_SHOWN = 40
"""Crashes of one kind that are listed by number."""
KIND_CHARACTERS = 40
"""Of the name of a kind of crash."""
LINES_READ = 50
"""Of the end of a log."""
LINE_CHARACTERS = 300
"""Of a line there."""

_CLASS = re.compile(r"((?:[A-Za-z_]\w{0,30}\.){0,5}[A-Za-z_]\w{0,40}(?:Error|Exception|Interrupt|Exit|Fault))(?::|$)")
"""Such as `MemoryError` or `torch.OutOfMemoryError: CUDA out of memory`, at the beginning of a line."""
_RAISED = re.compile(r"((?:[A-Za-z_]\w{0,30}\.){0,5}[A-Z]\w{1,40})(?::|$)")
"""What a Python traceback ends with, whatever the class is called."""
_TRACEBACK = "Traceback (most recent call last)"
_PHRASES = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"(?i)\bsegmentation fault\b", "segmentation fault"),
        (r"(?i)\bbus error\b", "bus error"),
        (r"(?i)\billegal instruction\b", "illegal instruction"),
        (r"(?i)\bfloating point exception\b", "floating point exception"),
        (r"\bAssertion\b.{1,250}\bfailed\b", "assertion failed"),
        (r"\bpanicked at\b|^panic: ", "panic"),
        (r"^[^\s:]{1,100}:\d+:(?:\d+:)? (?:fatal )?error: |^error\[E\d+\]: ", "compile error"),
        (r"\bundefined reference to\b|\bld returned \d", "link error"),
        (r"\bcommand not found$", "command not found"),
    )
)
_MAKE = re.compile(r"^(?:make|gmake|ninja)(?:\[\d+\])?: (?:\*\*\* |build stopped)")
"""Says that something failed and not what, so it counts only where nothing else is found."""


def crashes(campaign: Campaign) -> list[dict[str, Any]]:
    """Crashes by kind, the most frequent first, each with a sentence of the latest."""
    kinds: dict[str, list[tuple[Attempt, str]]] = {}
    for attempt in campaign.attempts:
        if attempt.outcome is Outcome.CRASH:
            kind, said = _kind(attempt)
            kinds.setdefault(kind, []).append((attempt, said))
    return [
        {
            "kind": kind,
            "count": len(found),
            "example": found[-1][1],
            "numbers": [a.number for a, _ in found[-NUMBERS_SHOWN:]],
            "more": max(0, len(found) - NUMBERS_SHOWN),
        }
        for kind, found in sorted(kinds.items(), key=lambda item: -len(item[1]))
    ]


def _kind(attempt: Attempt) -> tuple[str, str]:
    """The kind of a crash, and what is said of it."""
    name, _, said = attempt.problem.partition(":")
    kind = clean_line(name, KIND_CHARACTERS) or "unknown"
    if kind == "exit":
        tail = next((m.log_tail for m in reversed(attempt.measurements) if m.log_tail), "")
        if found := failure(tail):
            return found
    return kind, said.strip() or attempt.problem


def failure(tail: str) -> tuple[str, str] | None:
    """The last failure that the end of a log names, and its line; None where it names none."""
    lines = [line[:LINE_CHARACTERS].rstrip() for line in tail.rstrip().split("\n")[-LINES_READ:]]
    traced = max((at for at, line in enumerate(lines) if line.startswith(_TRACEBACK)), default=len(lines))
    make = None
    for at in range(len(lines) - 1, -1, -1):
        line = lines[at]
        if match := _CLASS.match(line) or (_RAISED.match(line) if at > traced else None):
            return clean_line(match[1], KIND_CHARACTERS), line
        for pattern, kind in _PHRASES:
            if pattern.search(line):
                return kind, line
        if make is None and _MAKE.match(line):
            make = ("make error", line)
    return make
