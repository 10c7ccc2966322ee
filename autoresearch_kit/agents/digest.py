"""What a run has found so far, for the prompt of one attempt: short, and the same size however long the run gets.

Titles, reasons, logs, patches and ideas come from agents and from the programs that they wrote. Here they are made
quotations: every line begins with `> `, is cut, and holds nothing but printable characters. No line of them can end the
quotation, look like a heading, or pass for a sentence of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autoresearch_kit.books import Books, Kind
from autoresearch_kit.core.entry import gain_of, gain_percent
from autoresearch_kit.core.records import Attempt, Outcome, clean_line, number
from autoresearch_kit.core.words import percent
from autoresearch_kit.ledger.ideas import Idea, read_ideas
from autoresearch_kit.ratchet import Run

MARK = "> "
RECENT = 10
"""Attempts shown one by one."""
KINDS = 8
"""Kinds of change shown one by one, those that were tried most."""
IDEAS = 8
"""Ideas shown, the last ones."""
LOG_LINES = 12
"""Lines of the last crash's log."""
DIFF_LINES = 60
"""Lines of the patch from the first baseline to the head."""
LINE = 160
"""Characters of one line of a log or patch."""
TITLE = 110
"""Characters of a title."""
REASON = 200
"""Characters of a verdict's sentence, or of an idea."""


@dataclass(frozen=True, slots=True)
class Digest:
    """The variables of `attempt.md.j2` besides `spec` and `drives`. Texts are quoted already; an empty one is none."""

    told: str
    """Why the last turn brought nothing to measure, or what of it was not taken."""
    tried: int
    """Attempts so far, the baseline not counted."""
    kept_count: int
    """How many of them were kept since the last baseline."""
    since_keep: int
    """Attempts since one was kept."""
    start: str
    """The commit of the first baseline."""
    baseline: dict[str, Any]
    """`number`, `commit` and `value` of what the gain is counted from: the last baseline."""
    head: dict[str, Any]
    """The same of the best so far."""
    gain: str
    """How much the head is better than the baseline."""
    head_title: str
    """What made the head."""
    diff: str
    """The patch from the first baseline to the head, or its beginning."""
    diff_left: int
    """How many lines of that patch are left out."""
    kept: str
    """The last kept attempts, oldest first."""
    recent: str
    """The last attempts, oldest first."""
    near: str
    """Discarded ones that came closest, the best first."""
    kinds: str
    """What was tried, by kind of change."""
    crashes: str
    """The last crashes, oldest first."""
    crash_log: str
    """The end of the last crash's log."""
    ideas: str
    """Ideas that were noted, the last ones, oldest first."""
    ideas_left: int
    """How many older ones there are."""

    def plain(self) -> dict[str, Any]:
        """As data."""
        return asdict(self)


def read_digest(run: Run) -> Digest:
    """The digest of a run that is ready: what its books hold, the head's patch, and the ideas."""
    repository, prefix = run.project.repository, run.project.place.prefix
    # Not from the last baseline, which is the head measured once more where there are several.
    patch = repository.diff(run.attempts[0].commit, run.head.commit, [prefix] if prefix else [])
    ideas = read_ideas(repository, run.tag)
    return digest(run.books, maximize=run.spec.maximize, patch=patch, ideas=ideas, told=run.told)


def digest(books: Books, *, maximize: bool, patch: str = "", ideas: Iterable[Idea] = (), told: str = "") -> Digest:
    """The digest of books that have a head."""
    head, baseline, ideas = books.head, books.baseline, list(ideas)
    assert head is not None and baseline is not None, "there is nothing to tell before the baseline"
    lines = patch.rstrip("\n").split("\n") if patch.strip() else []
    log = next((m.log_tail for m in reversed(books.crashes[-1].own) if m.problem), "") if books.crashes else ""
    return Digest(
        told=_quoted([clean_line(told, 400)], 400),
        tried=books.history.tried,
        kept_count=sum(kind.outcomes[Outcome.KEEP] for kind in books.kinds.values()),
        since_keep=books.since_keep,
        start=books.attempts[0].commit[:10],
        baseline=_numbers(baseline),
        head=_numbers(head),
        gain=_gain(baseline, head, maximize),
        head_title=_quoted([clean_line(head.proposal.title, TITLE)], TITLE),
        diff=_quoted(lines[:DIFF_LINES], LINE),
        diff_left=len(lines[DIFF_LINES:]),
        kept=_rows(books.kept),
        recent=_rows(a for a in books.attempts[-RECENT:] if a.verdict),
        near=_rows(books.near_misses),
        kinds=_quoted(_kinds(books.kinds), LINE),
        crashes=_rows(books.crashes),
        crash_log=_quoted(log.split("\n")[-LOG_LINES:], LINE) if log else "",
        ideas=_quoted((clean_line(idea.text, REASON) for idea in ideas[-IDEAS:]), REASON),
        ideas_left=len(ideas[:-IDEAS]),
    )


def _rows(attempts: Iterable[Attempt]) -> str:
    """A line for each attempt: number, commit, title and the verdict's sentence."""
    return _quoted((_row(attempt) for attempt in attempts), TITLE + REASON + 40)


def _row(attempt: Attempt) -> str:
    reason = attempt.verdict.reason if attempt.verdict else ""
    title = clean_line(attempt.proposal.title, TITLE)
    return f"{attempt.number} ({attempt.commit[:10]}) {title} | {clean_line(reason, REASON)}"


def _numbers(attempt: Attempt) -> dict[str, Any]:
    return {"number": attempt.number, "commit": attempt.commit[:10], "value": attempt.value}


def _gain(baseline: Attempt, head: Attempt, maximize: bool) -> str:
    if baseline.value is None or head.value is None or baseline.number == head.number:
        return ""
    gain, share = (of(baseline.value, head.value, maximize) for of in (gain_of, gain_percent))
    if not (head.value > baseline.value if maximize else head.value < baseline.value):
        return "no better in figures"
    by = "" if gain is None else f" by {number(gain)}"
    return f"better{by}" + ("" if share is None else f" ({share:.2f} %)" if share < 1e6 else f" ({percent(share)})")


def _kinds(kinds: Mapping[str, Kind]) -> list[str]:
    """A line for each kind that was tried most, and one for all others together."""
    rest = Kind()
    named = [(name, kind) for name, kind in kinds.items() if name]
    named.sort(key=lambda item: -item[1].outcomes.total())
    for _, kind in named[KINDS:]:
        rest.merge(kind)
    if "" in kinds:
        rest.merge(kinds[""])
    rows = [_kind(name, kind) for name, kind in named[:KINDS]]
    return [*rows, _kind("any other, or none named", rest)] if rest.outcomes else rows


def _kind(name: str, kind: Kind) -> str:
    counts = ", ".join(f"{kind.outcomes[outcome]} {word}" for outcome, word in _WORDS.items() if kind.outcomes[outcome])
    best = "" if kind.best_gain is None else f"; best gain {kind.best_gain:+.3g}"
    return f"{name}: {counts}{best}"


_WORDS = {Outcome.KEEP: "kept", Outcome.DISCARD: "discarded", Outcome.CRASH: "crashed"}


def _quoted(lines: Iterable[str], width: int) -> str:
    """Lines as a quotation, each of at most `width` characters; empty when there is nothing in them."""
    quoted = [f"{MARK}{_line(line, width)}".rstrip() for line in lines]
    return "\n".join(quoted) if any(line != MARK.rstrip() for line in quoted) else ""


def _line(text: str, width: int) -> str:
    """Printable characters alone: no controls, no marks of direction, nothing invisible. Indentation stays."""
    text = text[: 8 * width].expandtabs(4)  # more than enough of a line of megabytes
    text = "".join(c if c.isprintable() else " " for c in text).rstrip()
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


SAMPLE = Digest(
    told="> told",
    tried=1,
    kept_count=1,
    since_keep=1,
    start="0" * 10,
    baseline={"number": 0, "commit": "0" * 10, "value": 1.0},
    head={"number": 1, "commit": "1" * 10, "value": 2.0},
    gain="better by 1 (100.00 %)",
    head_title="> title",
    diff="> diff",
    diff_left=1,
    kept="> kept",
    recent="> recent",
    near="> near",
    kinds="> kinds",
    crashes="> crashes",
    crash_log="> log",
    ideas="> ideas",
    ideas_left=1,
)
"""Something in every place, to try a template with."""
