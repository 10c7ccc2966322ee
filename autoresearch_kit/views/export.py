"""Runs as tables for other programs: CSV with one row an attempt, or JSON lines with all that the ledger holds.

CSV is RFC 4180 in UTF-8: commas, CRLF, quotes doubled. A spreadsheet runs a cell that begins like a formula, and titles
are an agent's: such a text gets an apostrophe in front, which makes it a text for spreadsheets too. Numbers stay as
they are. Where every character counts, take JSON lines.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence

from autoresearch_kit.core.campaign import ARK, BRANCH, Campaign
from autoresearch_kit.core.records import Attempt
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.patches import patches
from autoresearch_kit.views.summary import full_entry

COLUMNS: tuple[tuple[str, str], ...] = (
    ("run", "what `ark compare` calls it: a tag, REMOTE/TAG, a branch or a path"),
    ("metric", "name of the metric"),
    ("direction", "minimize or maximize"),
    ("number", "of the attempt; 0 is the baseline"),
    ("outcome", "keep, discard, crash, lost or running"),
    ("is_baseline", "1 for a baseline, else 0"),
    ("value", "the mean of the values measured; empty when there is none"),
    ("best", "value of the head after this attempt; of another loop's log the best kept since its baseline"),
    ("gain", "over the head of its time, in units of the metric, positive is better"),
    ("noise", "standard deviation of one measurement, as known at the decision"),
    ("values", "every value measured, separated by blanks"),
    ("head_values", "every value of the head that was measured in turn"),
    ("seconds", "wall time of all measurements"),
    ("cost_seconds", "what the agent took, where known"),
    ("cost_tokens", "tokens in and out"),
    ("cost_money", "in the currency that the agent reports"),
    ("started", "ISO 8601, UTC"),
    ("title", "what was tried"),
    ("why", "the reason that was given for it"),
    ("reason", "the verdict in one sentence"),
    ("problem", "of a crash"),
    ("agent", "who proposed it"),
    ("origin", "attempts whose change it takes over, separated by blanks"),
    ("machine", "kind of machine that measured it"),
    ("yardstick", "digest of what fixes the number except the mutable files"),
    ("commit", "that records the attempt"),
    ("parent", "the head it was measured against"),
)
"""Columns of the CSV with what they mean; after them, in order, one `also.NAME` for each other metric of any run."""
_FORMULA = tuple("=+-@\t\r＝＋－＠")  # noqa: RUF001 - spreadsheets of some languages take the wide ones too


def guarded(text: str) -> str:
    """A text as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def csv_text(campaigns: Sequence[Campaign]) -> str:
    """The table, the names of the columns first."""
    also = sorted({name for run in campaigns for attempt in run.attempts for name in attempt.also})
    file = io.StringIO()
    write = csv.writer(file, lineterminator="\r\n").writerow
    write([*(name for name, _ in COLUMNS), *(f"also.{name}" for name in also)])
    for run in campaigns:
        for attempt, best in run.with_best():
            cells = _cells(run, attempt, best)
            row = [*(cells[name] for name, _ in COLUMNS), *(attempt.also.get(name) for name in also)]
            write([_cell(cell) for cell in row])
    return file.getvalue()


def _cells(run: Campaign, attempt: Attempt, best: float | None) -> dict[str, object]:
    verdict, cost = attempt.verdict, attempt.proposal.cost
    return {
        "run": run.name,
        "metric": run.metric,
        "direction": _direction(run),
        "number": attempt.number,
        "outcome": str(attempt.outcome),
        "is_baseline": int(attempt.is_baseline),
        "value": attempt.value,
        "best": best,
        "gain": verdict.gain if verdict else None,
        "noise": verdict.noise if verdict else None,
        "values": _joined(attempt.values),
        "head_values": _joined(attempt.head_values),
        "seconds": round(attempt.seconds, 3),
        "cost_seconds": cost.seconds,
        "cost_tokens": cost.tokens,
        "cost_money": cost.money,
        "started": attempt.started,
        "title": attempt.proposal.title,
        "why": attempt.proposal.why,
        "reason": verdict.reason if verdict else "",
        "problem": attempt.problem,
        "agent": attempt.proposal.agent,
        "origin": " ".join(attempt.proposal.origin),
        "machine": attempt.machine,
        "yardstick": attempt.yardstick,
        "commit": attempt.commit,
        "parent": attempt.parent,
    }


def _joined(values: Iterable[float]) -> float | str | None:
    """Several numbers in one cell; a single one stays a number."""
    found = list(values)
    return found[0] if len(found) == 1 else " ".join(map(repr, found)) or None


def _direction(run: Campaign) -> str:
    return "maximize" if run.maximize else "minimize"


def _cell(value: object) -> object:
    if isinstance(value, str):
        return value if _is_numbers(value) else guarded(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_numbers(text: str) -> bool:
    """Whether it is one number or several, which may be negative and are no formula."""
    try:
        return bool([float(word) for word in text.split()])
    except ValueError:
        return False


def jsonl_text(repository: Repository, campaigns: Sequence[Campaign]) -> str:
    """One JSON object a line for each attempt: the keys of `ark show --json`, and which run it is of."""
    lines = []
    for run in campaigns:
        diffs = diffs_of(repository, run)
        which = {
            "run": run.name,
            "tag": run.tag,
            "source": run.source,
            "branch": run.branch,
            "metric": run.metric,
            "direction": _direction(run),
        }
        for attempt, best in run.with_best():
            entry = full_entry(attempt, diffs.get(attempt.commit, ""))
            whole = {**which, "is_baseline": attempt.is_baseline, "best": best, **entry}
            lines.append(json.dumps(whole, ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS) + "\n")
    return "".join(lines)


_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
"""Legal inside of JSON text, and yet the end of a line for some readers."""


def diffs_of(repository: Repository, run: Campaign) -> dict[str, str]:
    """The patch of each attempt by its commit; of what `ark` did not make there is none."""
    if run.source not in (ARK, BRANCH):
        return {}
    return patches(repository, [attempt.commit for attempt in run.attempts if attempt.parent])
