"""Rows out of the tables and logs that people and agents keep by hand: whatever can be read is, the rest is counted.

A table has a row a line, cells between tabs (or commas), and mostly a header. A log has a JSON object a line. Both come
out as rows of text or numbers by the name of their column, so that `core.foreign` need not know which it was.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from autoresearch_kit.core.records import clean_line

MAX_CELL = 4000
"""Characters of a cell; what is longer is no title and no reason."""
COLUMNS: Mapping[str, Sequence[str]] = {
    "commit": ("commit", "hash", "sha", "commit_hash", "commit_sha", "git_commit", "git_hash", "revision"),
    "status": ("status", "outcome", "decision", "verdict", "kept", "accepted", "action"),
    "title": (
        "description", "desc", "title", "change", "changes", "idea", "experiment", "summary", "message", "hypothesis",
        "what", "note", "notes", "comment",
    ),
    "why": ("why", "reason", "rationale", "context"),
    "memory_gb": ("memory_gb", "mem_gb", "memory", "peak_memory_gb", "vram_gb", "peak_vram_gb"),
    "memory_mb": ("memory_mb", "mem_mb", "peak_memory_mb", "vram_mb", "peak_vram_mb"),
    "seconds": ("seconds", "secs", "sec", "duration", "duration_s", "duration_seconds", "elapsed", "elapsed_s",
                "elapsed_seconds", "runtime", "runtime_s", "time_s", "time_sec", "time_seconds",
                "wall_seconds", "time"),
    "minutes": ("minutes", "mins", "min", "duration_min", "duration_minutes", "time_min"),
    "tokens": ("tokens", "agent_tokens", "llm_tokens"),
    "money": ("cost", "cost_usd", "usd", "price", "money"),
    "agent": ("agent", "model", "author", "by", "worker"),
    "machine": ("machine", "gpu", "host", "hostname", "device", "platform", "hardware"),
    "when": ("timestamp", "ts", "date", "datetime", "when", "started", "started_at", "created_at", "time_utc"),
    "number": ("run", "attempt", "iteration", "iter", "trial", "number", "no", "n", "id", "exp", "experiment_id"),
}  # fmt: skip
"""What the columns of other loops mean, by the names that they go by; of two with one meaning the first counts."""
_MEANING = {name: meaning for meaning, names in COLUMNS.items() for name in names}
METRIC_NAMES = ("metric", "value", "primary_metric", "metric_value")
"""Columns that hold the metric without naming it."""
STATUS: Mapping[str, Sequence[str]] = {
    "keep": ("keep", "keeping", "kept", "accept", "accepted", "improve", "improved", "improvement", "better", "best",
             "new_best", "advance", "advanced", "merged", "win", "success", "promoted", "true", "yes", "baseline"),
    "discard": ("discard", "discarded", "reject", "rejected", "revert", "reverted", "rollback", "rolled_back", "drop",
                "dropped", "worse", "neutral", "regression", "regressed", "no_op", "noop", "no_change", "unchanged",
                "no_improvement", "not_improved", "checks_failed", "false", "no"),
    "crash": ("crash", "crashed", "error", "errored", "fail", "failed", "failure", "oom", "timeout", "timed_out",
              "killed", "nan", "diverged", "invalid", "exception", "broken"),
    "lost": ("lost", "skip", "skipped", "aborted", "cancelled", "canceled", "interrupted"),
    "running": ("running", "pending", "in_progress", "queued", "started", "planned", "todo"),
}  # fmt: skip
"""What other loops call their outcomes."""
_OUTCOME = {word: outcome for outcome, words in STATUS.items() for word in words}
_ONLY_STATUS = {
    "keep",
    "discard",
    "discarded",
    "crash",
    "crashed",
    "baseline",
    "revert",
    "reverted",
    "reject",
    "rejected",
}
"""Words that no column is called."""
_BARE = {"true", "false", "yes", "no"}
"""Words that say how it ended only when they stand alone."""
_ALONE = re.compile(r"[^a-z0-9]+")
_SHORT_HASH = re.compile(r"[0-9a-f]{4,40}")
_NUMBER = re.compile(r"[-+]?(?:\d[\d,_]*\.?\d*|\.\d+)(?:e[-+]?\d+)?", re.I)
_NO_NUMBER = {"", "-", "--", "na", "n/a", "none", "null", "nan", "inf", "+inf", "-inf", "infinity", "-infinity", "?"}


@dataclass
class Rows:
    """What was read."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """Cells by the name of their column; `by_meaning` tells what they are."""
    metric: str | None = None
    """Name of the metric, where the text gives it."""
    maximize: bool | None = None
    """Whether higher is better, where the text says it."""
    segments: int = 0
    """How often the text began anew; rows say in `segment` where they belong."""
    broken: int = 0
    """Lines that could not be read."""


def word(text: object) -> str:
    """A name or a status as it is compared: lower case, words joined by `_`."""
    return _word(str(text))


@lru_cache(maxsize=1024)  # the same few names and statuses, row after row
def _word(text: str) -> str:
    return _ALONE.sub("_", text.lower()).strip("_")


def outcome_of(text: object) -> str | None:
    """`keep`, `discard`, `crash`, `lost` or `running` for what a status says; None when nobody knows."""
    if isinstance(text, bool):
        return "keep" if text else "discard"
    whole = word(text)
    first, both = whole.split("_")[0], "_".join(whole.split("_")[:2])
    return _OUTCOME.get(whole) or _OUTCOME.get(both) or (None if first in _BARE else _OUTCOME.get(first))


def number_of(cell: object) -> float | None:
    """A finite number, also with its unit behind it; None for everything else."""
    if isinstance(cell, bool) or cell is None:
        return None
    if isinstance(cell, int | float):
        try:
            value = float(cell)
        except OverflowError:
            return None
        return value if math.isfinite(value) else None
    match = _NUMBER.match(text := str(cell).strip().lstrip("$~≈"))
    if match is None or (text[match.end() :].strip() and len(text) - match.end() > 12):
        return None
    try:
        value = float(match[0].replace(",", "").replace("_", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _is_number(cell: str) -> bool:
    """Whether a cell is a bare number, or what stands in the place of one."""
    text = cell.strip()
    return text.lower() in _NO_NUMBER or _NUMBER.fullmatch(text) is not None


# Tables


def read_table(text: str, metric: str) -> Rows:
    """The rows of a table; `metric` is what its column may be called."""
    found = Rows()
    lines = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip("\0\t ,")]
    lines = [line.replace("\0", "") for line in lines]
    separator = _separator(lines)
    table = [_cells(line, separator) for line in lines]
    names: list[str] = []
    for line, cells in zip(lines, table, strict=True):
        if header := _header(cells, metric):
            names = names or header  # a second one is where two files were put together
        elif line.lstrip().startswith("#") or set(line) <= set("-=|:+ \t"):
            continue
        else:
            names = names or _guess(table, metric)
            if not names:
                break  # nothing in it looks like a status
            row = _row(cells, names, ", " if separator == "," else " ")
            if row is None:
                found.broken += 1
            else:
                found.rows.append(row)
    found.metric = _metric_column(names, found.rows, metric)
    return found


def _separator(lines: Sequence[str]) -> str:
    """What stands between cells: in most lines a tab, else a comma, else two blanks or more."""
    shown = lines[:50]
    for separator in ("\t", ",", ";", "|"):
        if sum(separator in line for line in shown) * 2 > len(shown):
            return separator
    return ""


def _cells(line: str, separator: str) -> list[str]:
    if not separator:
        return [cell.strip() for cell in re.split(r"\s{2,}", line.strip())]
    if separator == "|":
        line = line.strip().strip("|")
    cells = line.split(separator)
    if '"' in line:
        # A quotation mark that is never closed is just one: the line goes as it is.
        try:
            quoted = next(csv.reader([line], delimiter=separator, strict=True), cells)
            cells = quoted if len(quoted) <= len(cells) else cells
        except csv.Error:
            pass
    return [cell.strip()[:MAX_CELL] for cell in cells]


def _header(cells: Sequence[str], metric: str) -> list[str]:
    """The names of the columns when `cells` are a header, else nothing."""
    names = [word(cell) for cell in cells]
    known = [name for name in names if name in _MEANING or name == word(metric) or name in METRIC_NAMES]
    values = [cell for cell in cells if cell and _is_number(cell)]
    if values or _ONLY_STATUS.intersection(names) or len(known) < min(2, len(names)):
        return []
    return [clean_line(cell.lstrip("# "), 80) for cell in cells]


def _guess(table: Sequence[Sequence[str]], metric: str) -> list[str]:
    """Names of the columns of a table without a header, by what is in them; none where nothing looks like a status."""
    width = max(len(cells) for cells in table)
    names = [""] * width
    columns = [[cells[at] for cells in table if at < len(cells)] for at in range(width)]

    def most(column: Sequence[str], test: Any) -> bool:
        return 2 * sum(map(bool, map(test, column))) > len(column)

    status = next((at for at in range(width) if most(columns[at], lambda cell: word(cell) in _OUTCOME)), None)
    if status is None:
        return []
    names[status] = "status"
    if columns and most(columns[0], lambda cell: _SHORT_HASH.fullmatch(cell.lower())) and status != 0:
        names[0] = "commit"
    value = next((at for at in range(width) if not names[at] and most(columns[at], _is_number)), None)
    if value is not None:
        names[value] = metric
        if status == value + 2:
            names[value + 1] = "memory_gb"
    text = next((at for at in reversed(range(width)) if not names[at] and not most(columns[at], _is_number)), None)
    if text is not None:
        names[text] = "description"
    return names


def _row(cells: list[str], names: Sequence[str], glue: str) -> dict[str, Any] | None:
    """Cells by column; a description may hold separators, and columns before the status may be missing."""
    meanings = [_MEANING.get(word(name), "") for name in names]
    title = meanings.index("title") if "title" in meanings else len(names) - 1
    surplus = len(cells) - len(names)
    if surplus > 0 and title >= 0:
        cells = [*cells[:title], glue.join(cells[title : title + surplus + 1]), *cells[title + surplus + 1 :]]
    if len(cells) < len(names) and "status" in meanings:
        at = meanings.index("status")
        if at >= len(cells) or word(cells[at]) not in _OUTCOME:
            earlier = next((n for n in range(1, min(at, len(cells))) if word(cells[n]) in _OUTCOME), None)
            if earlier is not None:
                cells = [*cells[:earlier], *[""] * (at - earlier), *cells[earlier:]]
    row = {name: cell for name, cell in zip(names, cells, strict=False) if name}
    return row if len(cells) > 1 and any(row.values()) else None


def _metric_column(names: Sequence[str], rows: Sequence[Mapping[str, Any]], metric: str) -> str | None:
    """The column of the metric: the one called so, or without a name of its own, or the first of numbers."""
    by_word = {word(name): name for name in reversed(names) if name}
    for name in (word(metric), *METRIC_NAMES):
        if name in by_word:
            return by_word[name]
    for name in names:
        cells = [str(row[name]) for row in rows if row.get(name)]
        if name and word(name) not in _MEANING and 2 * sum(map(_is_number, cells)) > len(cells):
            return name
    return None


# Logs


def read_lines(text: str, metric: str) -> Rows:
    """The rows of a log of JSON objects; lines that say how to read the others are heeded."""
    found = Rows()
    others: list[str] = []
    for line in text.replace("\r", "\n").split("\n"):
        if not line.strip("\0 \t,[]"):
            continue
        try:
            entry = json.loads(line.strip().rstrip(","))
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            found.broken += 1
            continue
        entry = {str(name): value for name, value in entry.items()}
        if _is_settings(entry):
            _heed(found, entry)
            continue
        row = _flat(entry, found.metric or metric, others)
        if row:
            found.rows.append({**row, "segment": entry.get("segment", found.segments)})
    if found.metric is None and found.rows:
        found.metric = metric if any(metric in row for row in found.rows) else next(iter(others), None)
    if found.metric is None:
        found.metric = _only_number(found.rows, metric)
    return found


def numbers_in(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that hold numbers of no known meaning, in the order in which they come."""
    found: dict[str, None] = {}
    for row in rows:
        for name, cell in row.items():
            if name not in found and name != "segment" and not has_meaning(name) and number_of(cell) is not None:
                found[name] = None
    return list(found)


def _only_number(rows: Sequence[Mapping[str, Any]], metric: str) -> str | None:
    """The column of the metric in a log that does not name it: the one called nearly so, or the only one of numbers."""
    names = numbers_in(rows)
    alike = [name for name in names if word(name) == word(metric)]
    return alike[0] if alike else names[0] if len(names) == 1 else None


_SETTINGS = {"metricname", "metric_name", "bestdirection", "best_direction", "direction", "metricunit"}


def _is_settings(entry: Mapping[str, Any]) -> bool:
    kind = word(entry.get("type", ""))
    if kind in ("config", "header", "settings", "init", "meta"):
        return True
    names = {name.lower() for name in entry}
    return bool(names & _SETTINGS) and not names & {"status", "verdict", "outcome", "commit", "run"}


def _heed(found: Rows, entry: Mapping[str, Any]) -> None:
    lower = {name.lower(): value for name, value in entry.items()}
    name = lower.get("metricname") or lower.get("metric_name") or lower.get("metric")
    if isinstance(name, str) and clean_line(name, 80):
        found.metric = clean_line(name, 80)
    said = word(lower.get("bestdirection") or lower.get("best_direction") or lower.get("direction") or "")
    if said in ("lower", "higher", "min", "max", "minimize", "maximize", "minimise", "maximise", "down", "up"):
        found.maximize = said in ("higher", "up") or said.startswith("max")
    if found.rows:
        found.segments += 1


def _flat(entry: Mapping[str, Any], metric: str, others: list[str]) -> dict[str, Any]:
    """One object with the numbers of its `metrics` beside the rest; nothing when it is no experiment.

    `others` collects the names of those numbers, for a log that does not say which of them it is about.
    """
    row: dict[str, Any] = {}
    inner = entry.get("metrics")
    if isinstance(inner, dict):
        row.update({clean_line(str(name), 80): value for name, value in inner.items() if number_of(value) is not None})
        others += [name for name in row if name not in others]
    for name, value in entry.items():
        if isinstance(value, str | int | float) and name != "type":
            row[name] = value[:MAX_CELL] if isinstance(value, str) else value
    named = row.pop("metric", None)
    if isinstance(named, str) and number_of(named) is None:  # {"metric": "loss", "value": 0.9}
        value = row.pop("value", None)
        row[clean_line(named, 80)] = value
    elif named is None and metric not in row and (key := next((n for n in METRIC_NAMES if n in row), None)):
        row[metric] = row.pop(key)
    elif named is not None:
        row[metric] = named
    is_one = metric in row or bool(inner) or any(_MEANING.get(word(name)) == "status" for name in row)
    return row if is_one else {}


def by_meaning(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a row whose column has a known meaning, by that meaning."""
    found: dict[str, Any] = {}
    best: dict[str, int] = {}
    for name, cell in row.items():
        meaning = _MEANING.get(word(name))
        if meaning is not None and cell is not None and str(cell).strip():
            rank = COLUMNS[meaning].index(word(name))
            if meaning not in found or rank < best[meaning]:
                found[meaning], best[meaning] = cell, rank
    return found


def has_meaning(name: str) -> bool:
    """Whether a column of that name is no metric."""
    return word(name) in _MEANING
