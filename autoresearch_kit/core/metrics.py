"""Numbers out of text: a metric is read from a whole line that says nothing else, or it is not read at all.

Accepted are `name: 0.99`, `name=0.99`, `METRIC name=0.99`, one JSON object (the whole text, or alone on its line,
nested numbers under dotted names), the one group of a pattern, and a single bare number where the caller allows it. A
name is compared whole, never by substring, and a number is decimal or scientific notation: no units, no hex, no
separators. The primary metric seen with two values, or with none that is finite, is a problem and never a value.
Nothing here raises on any text, and all of it but a user's own pattern takes time linear in the text.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# Limits against hostile output. What is beyond them is not read; nothing that people print comes near.
JSON_LIMIT = 4_000_000  # characters of one JSON text: parsed, it takes some twenty times as much memory
NAME_LIMIT = 200  # characters of a name: long keys, nested, would grow with the square of the text
NUMBER_LIMIT = 400  # characters of a number
PATTERN_LIMIT = 10_000  # characters of a line in which a user's pattern is searched: it may take time beyond linear
ALSO_LIMIT = 1000  # different names in `also`

_BLANK = r"[^\S\n]*+"
_NAME = r"[^\W\d][\w./-]*+"
_NUMBER = r"[+-]?+(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?+"

_ANSI = re.compile(r"(?:\x1b\[|\x9b)[0-?]*+[ -/]*+[@-~]|\x1b\][^\x07\x1b\r\n]*+(?:\x07|\x1b\\)|\x1b[ -/]*+[0-Z\\^-~]")
_LINE = re.compile(rf"^{_BLANK}(?:METRIC[^\S\n]++)?({_NAME}){_BLANK}[:=]{_BLANK}({_NUMBER}){_BLANK}$", re.MULTILINE)
_JSON_LINE = re.compile(rf'^{_BLANK}(\{{{_BLANK}"[^\n]*\}}){_BLANK}$', re.MULTILINE)
_NUMBER_ONLY = re.compile(_NUMBER)
_NAME_ONLY = re.compile(_NAME)
# What a program prints in place of a number, as opposed to words about the metric ("val_bpb: evaluating").
_LIKE_A_NUMBER = re.compile(r"[+-]?(?:\.?[0-9]|(?:nan|inf|infinity)\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one text says about the primary metric and the others."""

    value: float | None
    """The primary metric; None exactly when there is a problem."""
    also: dict[str, float]
    """Every other metric, finite, by name; where one was printed often, its last value."""
    problem: str
    """Empty, or `no_metric: ...`, `two_metrics: ...`, `not_a_number: ...` with one sentence."""


def decode(data: bytes) -> str:
    """Text of any bytes: UTF-16 where a byte order mark says so (PowerShell), else UTF-8 with replacement."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="replace")


def read_metrics(text: str, metric: str, *, pattern: str | None = None, bare_number: bool = False) -> Reading:
    """Read the metric called `metric`, and whatever else is printed in the same form.

    With `pattern`, a regular expression with one group that is searched in each line, only its matches count for the
    primary metric. With `bare_number`, a text that is one number and nothing else is the metric.
    """
    text = _plain(text)
    seen: list[str] = []  # what was given as the primary metric, in order, as text
    also: dict[str, float] = {}

    def other(name: str, shown: str) -> None:
        value = _number(shown)
        if value is None or not math.isfinite(value) or not _NAME_ONLY.fullmatch(name):
            return
        if name in also or len(also) < ALSO_LIMIT:
            also[name] = value

    whole = _json(text.strip())
    for name, shown in whole if whole is not None else _named(text, metric):
        if name != metric:
            other(name, shown)
        elif pattern is None:
            seen.append(shown)

    if pattern is not None:
        seen = list(_matches(text, re.compile(pattern)))
    elif bare_number and not seen and "\n" not in (bare := text.strip()) and _LIKE_A_NUMBER.match(bare):
        seen = [bare]
    return _judge(seen, also, metric, pattern)


def _judge(seen: list[str], also: dict[str, float], metric: str, pattern: str | None) -> Reading:
    value: float | None = None
    first = ""
    bad: str | None = None
    for shown in seen:
        number = _number(shown)
        if number is None or not math.isfinite(number):
            # Words beside a number are talk; a broken number is a problem whatever else was printed.
            if pattern is not None or _LIKE_A_NUMBER.match(shown):
                return Reading(None, also, f"not_a_number: {metric} is given as {_quote(shown)}, {_why(shown)}")
            bad = shown if bad is None else bad
        elif value is None:
            value, first = number, shown
        elif number != value:
            return Reading(None, also, f"two_metrics: {metric} is given twice, as {_quote(first)} and {_quote(shown)}")
    if value is not None:
        return Reading(value, also, "")
    if bad is not None:
        return Reading(None, also, f"not_a_number: {metric} is given as {_quote(bad)}, {_why(bad)}")
    if pattern is not None:
        return Reading(None, also, f"no_metric: no line matches the pattern {_quote(pattern)} for {metric}")
    found = ", ".join(list(also)[:5]) + (" and others" if len(also) > 5 else "")
    return Reading(None, also, f"no_metric: no line gives {metric}" + (f", only {found}" if found else ""))


def _plain(text: str) -> str:
    """The text as a reader of the terminal would see it: no escapes, every carriage return a new line."""
    if "\x1b" in text or "\x9b" in text:
        text = _ANSI.sub("", text)
    return text.replace("\r", "\n")


def _named(text: str, metric: str) -> Iterator[tuple[str, str]]:
    """Every `name: value` and every JSON line; for the primary metric also values that are no numbers."""
    for match in _LINE.finditer(text):
        name, shown = match.groups()
        if name != metric and len(name) <= NAME_LIMIT:
            yield name, shown
    head = rf"^{_BLANK}(?:METRIC[^\S\n]++)?{re.escape(metric)}{_BLANK}[:=]"
    for match in re.finditer(rf"{head}([^\n]*+)$", text, re.MULTILINE):
        yield metric, match[1].strip()
    for match in _JSON_LINE.finditer(text):
        yield from _json(match[1]) or ()


def _matches(text: str, pattern: re.Pattern[str]) -> Iterator[str]:
    for line in re.finditer(r"[^\n]+", text):
        stripped = line[0].strip()
        match = pattern.search(stripped) if len(stripped) <= PATTERN_LIMIT else None
        if match and (shown := match[min(1, pattern.groups)]) is not None:
            yield shown.strip()


class _Object(tuple[tuple[str, object], ...]):
    """A JSON object as pairs, so that a name given twice is seen twice."""


def _json(text: str) -> list[tuple[str, str]] | None:
    """The leaves of one JSON object as dotted names and text; None when the text is no such object."""
    if len(text) > JSON_LIMIT or not (text.startswith("{") and text.endswith("}")):
        return None
    as_text: Callable[[str], object] = _Literal
    try:
        root = json.loads(
            text, object_pairs_hook=_Object, parse_int=as_text, parse_float=as_text, parse_constant=as_text
        )
    except (ValueError, RecursionError):
        return None
    leaves: list[tuple[str, str]] = []
    stack: list[tuple[str, object]] = [("", root)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, _Object):
            prefix = name + "." if name else ""
            stack.extend((prefix + key, inner) for key, inner in reversed(value) if len(prefix + key) <= NAME_LIMIT)
        elif isinstance(value, _Literal):
            leaves.append((name, str(value)))
        else:  # for the message, should it be the primary metric; its quotes keep "0.99" from being a number
            leaves.append((name, json.dumps(value)[:80] if not isinstance(value, list) else "a list"))
    return leaves


class _Literal(str):
    """A number of a JSON text as it was written."""

    __slots__ = ()


def _number(shown: str) -> float | None:
    """The number that the text is, possibly infinite when it is too large; None when it is no plain number."""
    if len(shown) > NUMBER_LIMIT or not _NUMBER_ONLY.fullmatch(shown):
        return None
    return float(shown)


def _why(shown: str) -> str:
    if not shown:
        return "which is empty"
    if re.match(r"[+-]?(?:nan|inf|infinity)\b", shown, re.IGNORECASE) or _number(shown) is not None:
        return "which is not finite"
    return "which is no plain number: print it alone on its line, without unit or comment"


def _quote(shown: str) -> str:
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"'{''.join(c if c.isprintable() else '?' for c in shown)}'"
