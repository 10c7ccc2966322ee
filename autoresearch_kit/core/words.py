"""Numbers and times as people read them, the same in every table, page and terminal."""

from __future__ import annotations

from collections.abc import Iterable

from autoresearch_kit.core.records import number


def duration(seconds: float) -> str:
    """A time span: `4.2 s`, `58 s`, `5 min`, `3.2 h`, `2.1 days`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 48 * 3600 else f"{seconds / 86400:.3g} days"


def last_words(log: str, limit: int = 200) -> str:
    """The line of a log that says why: the last one with text that is no hint; "" for an empty log."""
    lines = [line.strip() for line in log.split("\n") if line.strip()]
    telling = [line for line in lines if not line.startswith("hint:")] or lines
    return telling[-1][:limit] if telling else ""


def rate(per_hour: float) -> str:
    """So many in an hour: `0.52`, `12.5`, `2,120`."""
    return f"{per_hour:,.0f}" if per_hour >= 100 else f"{per_hour:.3g}"


def factor(times: float) -> str:
    """So many times another: `2.13`, `1,235`, `1e+18`."""
    return f"{times:,.0f}" if 100 <= times < 1e6 else f"{times:.3g}"


def digits(values: Iterable[float | None]) -> int:
    """Significant digits that tell values apart which are not equal; six where that is enough."""
    found = {value for value in values if value is not None}
    return next((n for n in range(6, 17) if len({f"{value:.{n}g}" for value in found}) == len(found)), 17)


def apart(value: float, *others: float | None) -> str:
    """A value with as many digits as tell it from the others beside it."""
    return f"{value:.{digits((value, *others))}g}"


def at_least(amount: str, known: int, of: int) -> str:
    """A sum to which only some could add, because of the others nothing is known."""
    return f"at least {amount}" if known < of else amount


def money(amount: float) -> str:
    """What the agents report, without a currency that they may not tell."""
    return f"{amount:.2f}" if amount >= 0.1 else f"{amount:.2g}"


def signed(value: float) -> str:
    """A gain with its sign."""
    return f"+{number(value)}" if value > 0 else number(value)


def percent(value: float | None) -> str:
    """A share: `0.52 %`, `98 %`, `1,342 %`, `2.00e+18 %`; empty when it is unknown."""
    if value is None or abs(value) >= 1e6:
        return "" if value is None else f"{value:.2e} %"
    return f"{value:,.0f} %" if abs(value) >= 1000 else f"{value:.3g} %"
