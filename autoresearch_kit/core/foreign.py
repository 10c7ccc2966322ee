"""Histories that `ark` did not write: the `results.tsv` of other loops, and their logs of JSON lines.

They say less than a ledger, and say it in many ways. What is read: what was tried, how it ended, the value, and time,
tokens, money, agent and machine where there are columns for them. What can never be known: how it was measured. So such
a run is shown beside others and never ranked with them.

- A crash has no value, whatever number stands in its row: 0.000000 would be the best of losses.
- The baseline is the row called so, else the first that was kept; where a log begins anew, so does the count.
- A row called kept that has no finite number counts as a crash: nothing was measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pydantic import AwareDatetime, NaiveDatetime, TypeAdapter, ValidationError

from autoresearch_kit.core.campaign import LINES, TABLE, Campaign
from autoresearch_kit.core.errors import UsageError
from autoresearch_kit.core.records import Attempt, Cost, Measurement, Outcome, Proposal, Verdict, clean_line, number
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.core.tables import (
    METRIC_NAMES,
    Rows,
    by_meaning,
    has_meaning,
    number_of,
    numbers_in,
    outcome_of,
    read_lines,
    read_table,
    word,
)

MAX_ROWS = 100_000
"""Lines of a history that is read: that takes a few seconds. No loop has tried so much."""
_MOMENT: TypeAdapter[Any] = TypeAdapter(AwareDatetime | NaiveDatetime)


def read_foreign(text: str, name: str, file: str, spec: Spec) -> Campaign:
    """The run in `text`, which was the content of `file`; UsageError when it is none."""
    text = text.lstrip("\ufeff\0 \t\r\n")
    if text.count("\n") + text.count("\r") > 2 * MAX_ROWS or len(text.splitlines()) > MAX_ROWS:
        raise UsageError(f"{file} has more than {MAX_ROWS:,} lines; that is no log of experiments")
    is_log = text.startswith("{") or file.endswith((".jsonl", ".ndjson"))
    found = read_lines(text, spec.metric) if is_log else read_table(text, spec.metric)
    metric = found.metric
    if metric is None or word(metric) in METRIC_NAMES:
        column, metric = metric or spec.metric, spec.metric
    else:
        column = metric
    same = word(metric) == word(spec.metric)
    metric = spec.metric if same else clean_line(metric, 80)
    if not any(column in row for row in found.rows) and _say_kept(found.rows):
        called = " or ".join(f"`{name}`" for name in dict.fromkeys((column, METRIC_NAMES[0])))
        there = ", ".join(clean_line(name, 80) for name in numbers_in(found.rows)[:8])
        raise UsageError(
            f"{file} has no column {called}; it has {there or 'no numbers'}",
            "call the column as the spec calls its metric, or let the first line of a log say"
            ' which it is: {"type": "config", "metricName": "NAME"}',
        )
    notes = [f"{_count(found.broken, 'line')} could not be read"] if found.broken else []
    rows, left_out = _of_last_metric(found, column)
    if left_out:
        notes.append(f"{_count(left_out, 'row')} of earlier parts measured another metric and are left out")
    entries = [_Entry.of(row, column) for row in rows]
    has_status = any(entry.outcome is not None for entry in entries)
    measured = [entry for entry in entries if entry.value is not None]
    if not entries or not (has_status or len(measured) > len(entries) / 2) or not (has_status or _has_titles(entries)):
        raise UsageError(
            f"{file} holds no history of experiments that can be read",
            "a table has the columns commit, metric, memory_gb, status, description; a log has one JSON object a line",
        )
    maximize, guess = found.maximize, ""
    if maximize is None:
        maximize, guess = (spec.maximize, "") if same else _direction(entries, spec)
    if guess:
        notes.append(guess)
    attempts, said = _attempts(entries, maximize, has_status)
    return Campaign(
        name, tuple(attempts), metric, maximize, LINES if is_log else TABLE, notes=(*notes, *said)
    )  # fmt: skip


def _say_kept(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether some row says that it was kept: then it was measured."""
    return any(outcome_of(by_meaning(row).get("status", "")) == "keep" for row in rows)


def _has_titles(entries: Sequence[_Entry]) -> bool:
    """Whether somebody wrote down what was tried."""
    return any(entry.title or entry.commit for entry in entries)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One row, understood."""

    outcome: str | None
    """As `tables.outcome_of` has it; None when there is no status, or one that nobody knows."""
    status: str
    value: float | None
    raw: str
    """The value as it was written."""
    title: str
    why: str
    commit: str
    seconds: float
    cost: Cost
    agent: str
    machine: str
    started: str
    number: int | None
    segment: str
    also: Mapping[str, float]

    @classmethod
    def of(cls, row: Mapping[str, Any], column: str) -> _Entry:
        cells = by_meaning({name: cell for name, cell in row.items() if name != column})
        raw = row.get(column)
        value = number_of(raw)
        status = cells.get("status", "")
        outcome = outcome_of(status) if status != "" else None
        also = {
            clean_line(name, 80): found
            for name, cell in row.items()
            if name not in (column, "segment") and not has_meaning(name) and (found := number_of(cell)) is not None
        }
        gigabytes, megabytes = number_of(cells.get("memory_gb")), number_of(cells.get("memory_mb"))
        memory = megabytes if megabytes is not None else None if gigabytes is None else 1024 * gigabytes
        if memory:
            also["peak_memory_mb"] = memory
        if value == 0 and memory == 0 and outcome != "keep":  # a crash that was then discarded
            outcome = "crash"
        seconds, moment = number_of(cells.get("seconds")), cells.get("when")
        if (seconds is not None and seconds > 1e8) or ":" in str(cells.get("seconds")):
            seconds, moment = None, moment or cells["seconds"]  # a column `time` may hold moments
        if seconds is None and (minutes := number_of(cells.get("minutes"))) is not None:
            seconds = 60 * minutes
        tokens, money, counted = (number_of(cells.get(name)) for name in ("tokens", "money", "number"))
        return cls(
            outcome=outcome,
            status=clean_line(str(status), 40),
            value=value,
            raw=clean_line(str("" if raw is None else raw), 40),
            title=clean_line(str(cells.get("title", "")), 400),
            why=str(cells.get("why", "")),
            commit=clean_line(str(cells.get("commit", "")), 40),
            seconds=seconds if seconds is not None and 0 <= seconds < 1e8 else 0.0,
            cost=Cost(None, int(tokens) if tokens is not None and 0 <= tokens < 1e15 else None, _money(money)),
            agent=str(cells.get("agent", "")),
            machine=str(cells.get("machine", "")),
            started=_moment(moment),
            number=int(counted) if counted is not None and counted == int(counted) and 0 <= counted < 1e6 else None,
            segment=str(row.get("segment", "")),
            also=also,
        )

    @property
    def called_baseline(self) -> bool:
        """Whether the status says so."""
        return word(self.status).startswith("baseline")


def _money(value: float | None) -> float | None:
    return value if value is not None and 0 <= value < 1e12 else None


def _moment(cell: object) -> str:
    """ISO 8601 in UTC of a time in seconds, milliseconds or words, without a zone UTC; empty for anything else."""
    if cell is None or isinstance(cell, bool):
        return ""
    counted = number_of(cell) if not isinstance(cell, str) or cell.strip().replace(".", "", 1).isdigit() else None
    if counted is not None and counted < 1e8:  # a count of something, no time since 1970
        return ""
    with contextlib.suppress(ValidationError, OverflowError, ValueError):
        moment = _MOMENT.validate_python(cell.strip() if isinstance(cell, str) else cell)
        if moment.utcoffset() is not None:
            moment = moment.replace(tzinfo=None) - moment.utcoffset()
        return f"{moment.isoformat(timespec='milliseconds')[:23]}Z" if moment.year >= 1970 else ""
    return ""


def _of_last_metric(found: Rows, column: str) -> tuple[list[dict[str, Any]], int]:
    """The rows without those of segments that never name the metric which is measured at the end; how many those are.

    Their numbers are of another metric, so that nothing can be said of both.
    """
    if not found.segments:
        return found.rows, 0
    with_it = {str(row.get("segment")) for row in found.rows if column in row}
    rows = [row for row in found.rows if str(row.get("segment")) in with_it]
    return rows, len(found.rows) - len(rows)


def _direction(entries: Sequence[_Entry], spec: Spec) -> tuple[bool, str]:
    """Whether higher is better for a metric that the spec does not know, from what was kept, and a note on that."""
    kept = [entry.value for entry in entries if entry.outcome == "keep" and entry.value is not None]
    steps = [later - earlier for earlier, later in pairwise(kept) if later != earlier]
    rises = sum(step > 0 for step in steps)
    if 2 * rises == len(steps):
        way = "higher" if spec.maximize else "lower"
        return spec.maximize, f"it does not say whether lower or higher is better; {way} is taken, as in the spec"
    higher = 2 * rises > len(steps)
    said = "rise, so higher" if higher else "fall, so lower"
    return higher, f"it does not say whether lower or higher is better; kept values {said} is taken as better"


def _attempts(entries: Sequence[_Entry], maximize: bool, has_status: bool) -> tuple[list[Attempt], list[str]]:
    """The records of rows, and what had to be assumed."""
    notes: list[str] = []
    unknown = sorted({entry.status for entry in entries if entry.status and entry.outcome is None})
    if unknown:
        notes.append(f"unknown status taken as discard: {', '.join(unknown[:5])}")
    if not has_status:
        notes.append("it says of no row whether it was kept; what was better than all before is taken as kept")
    titled = next((e for e in entries if e.outcome == "keep" and word(e.title).startswith("baseline")), None)
    has_values = any(entry.value for entry in entries)
    numbers = _numbers(entries)
    attempts: list[Attempt] = []
    head: float | None = None
    segment = entries[0].segment
    hollow = 0
    for at, entry in enumerate(entries):
        if entry.segment != segment:
            segment, head = entry.segment, None
        if has_status:
            outcome = Outcome(entry.outcome or "discard")
            value = entry.value
        else:
            # Nobody keeps a zero among other numbers: it is what loops write for a crash.
            value = entry.value if entry.value or not has_values else None
            better = head is None or (value is not None and (value > head if maximize else value < head))
            outcome = Outcome.CRASH if value is None else Outcome.KEEP if better else Outcome.DISCARD
        if outcome is Outcome.KEEP and value is None:
            outcome, hollow = Outcome.CRASH, hollow + 1
        if outcome is Outcome.CRASH:
            value = None
        anew = head is None or entry.called_baseline or entry is titled
        gain = None if value is None or head is None or anew else (value - head if maximize else head - value)
        attempts.append(_attempt(entry, numbers[at], outcome, value, gain, head))
        if outcome is Outcome.KEEP:
            head = value
    if hollow:
        notes.append(f"{_count(hollow, 'row')} called kept without a finite number: counted as crashed")
    return attempts, notes


def _numbers(entries: Sequence[_Entry]) -> list[int]:
    """What the rows are called: their own numbers where those rise, else 0, 1, ...; 0 only for a first row that is
    kept, because in `ark` that is a baseline's."""
    own = [entry.number for entry in entries]
    first_kept = entries[0].outcome in ("keep", None) and entries[0].value is not None
    if all(n is not None for n in own):
        counted = [n for n in own if n is not None]
        if all(a < b for a, b in pairwise(counted)) and (counted[0] > 0 or first_kept):
            return counted
    return list(range(0 if first_kept else 1, len(entries) + (0 if first_kept else 1)))


def _attempt(
    entry: _Entry, count: int, outcome: Outcome, value: float | None, gain: float | None, head: float | None
) -> Attempt:
    said = clean_line(entry.status, 40) or "no status"
    problem = ""
    if value is None:
        kind = word(entry.status) if outcome is Outcome.CRASH and entry.outcome == "crash" else "no_value"
        problem = f"{kind or 'crash'}: the row says {said} and `{entry.raw}`"
    reason = f"{outcome.capitalize()}: "
    if value is None:
        reason += f"the row says {said}, value `{entry.raw}`"
    elif gain is None or head is None:
        reason += f"{number(value)}, the row says {said}"
    else:
        reason += f"{number(head)} -> {number(value)}, the row says {said}"
    return Attempt(
        number=count,
        commit=entry.commit,
        parent="",
        tree="",
        proposal=Proposal(entry.title, entry.why, entry.agent, entry.cost),
        measurements=(Measurement(value, entry.also, problem, entry.seconds, machine=entry.machine),),
        verdict=None if outcome is Outcome.RUNNING else Verdict(outcome, reason, gain),
        started=entry.started,
        yardstick="",
    )


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
