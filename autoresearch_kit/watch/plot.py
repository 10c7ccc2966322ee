"""Charts in the cells of a terminal: lines of text, exactly as many and as wide as wanted, without colour.

plotext draws; both axes are brought to 0 ... 1 before, so that values that differ by 1e-18 or by 1e300 look like any
others, and the numbers beside them are those that people would write.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.records import Outcome
from autoresearch_kit.watch.curve import Curve

MIN_WIDTH, MIN_HEIGHT = 24, 5
"""Less is no chart."""
SHOWN = 300
"""So many points are drawn of a series: no terminal has more columns to tell them apart."""
BEGINNING = 10
"""The first so many-th part of a curve is its beginning."""
Points = Sequence[tuple[float, float]]

_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_ASCII = str.maketrans(
    {"│": "|", "─": "-", "┌": "+", "┐": "+", "└": "+", "┘": "+", "┤": "+", "┬": "+", "├": "+", "┴": "+"}
)


@dataclass(frozen=True, slots=True)
class Series:
    """What is drawn together."""

    points: Points
    """Finite, in order."""
    joined: bool
    """By lines, or each a dot."""


def curve_chart(curve: Curve, width: int, height: int, unicode: bool = True) -> list[str]:
    """The learning curve of an experiment, without its beginning where that would make the rest a flat line."""
    points = curve.points
    rest = points[len(points) // BEGINNING :]
    if len(points) >= 2 * BEGINNING and _range(rest) < _range(points) / 3:
        points = rest
    return chart([Series(thinned(points), True)], width, height, unicode)


def progress_chart(campaign: Campaign, width: int, height: int, unicode: bool = True) -> list[str]:
    """Every attempt a dot, the best so far a line; empty when fewer than two attempts have a value.

    What is far worse than the rest is left out of the picture: one bad attempt must not make all others a flat line.
    """
    best: list[tuple[float, float]] = []
    tried: list[tuple[float, float]] = []
    for attempt in campaign.attempts:
        if attempt.value is None or attempt.outcome in (Outcome.RUNNING, Outcome.LOST):
            continue
        tried.append((attempt.number, attempt.value))
        if attempt.outcome is Outcome.KEEP:
            if best:
                best.append((attempt.number, best[-1][1]))
            best.append((attempt.number, attempt.value))
    if len(tried) < 2 or not best:
        return []
    best.append((tried[-1][0], best[-1][1]))
    levels = [value for _, value in best]
    cuts = quantiles([value for _, value in tried], n=10)
    low, high = min(levels), max(levels)
    low, high = (min(low, cuts[1]), high) if campaign.maximize else (low, max(high, cuts[7]))
    seen = [point for point in tried if low <= point[1] <= high]
    return chart([Series(thinned(seen), False), Series(thinned(best), True)], width, height, unicode)


def chart(series: Sequence[Series], width: int, height: int, unicode: bool = True) -> list[str]:
    """`height` lines of `width` cells; empty where that is too small, or where there is nothing to draw."""
    import plotext  # 40 ms, and not before there is something to draw

    points = [point for one in series for point in one.points]
    if width < MIN_WIDTH or height < MIN_HEIGHT or not points:
        return []
    x, y = _Axis([at for at, _ in points]), _Axis([value for _, value in points])
    plotext.terminal.limit(False, False)  # it may be drawn for a page, or a pipe
    figure: Any = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, height)
    for one in series:
        if one.points:
            marker = ("braille" if one.joined else "dot") if unicode else ("*" if one.joined else ".")
            scaled = [x.scaled(at) for at, _ in one.points], [y.scaled(value) for _, value in one.points]
            figure.draw(figure.signal(*scaled, marker=marker).lines(one.joined))
    rows = max(2, (height - 3 + 1) // 3)
    for ruler, axis, count in ((figure.ruler(0, 0), x, max(2, width // 16)), (figure.ruler(1, 0), y, rows)):
        ruler.lim(0, 1)
        ruler.ticks(*axis.ticks(count))
    text = _ESCAPE.sub("", figure.build().string())
    lines = (text if unicode else text.translate(_ASCII)).rstrip("\n").split("\n")
    return [line[:width].ljust(width) for line in lines[:height]]


class _Axis:
    """A range of numbers brought to 0 ... 1."""

    def __init__(self, values: Sequence[float]) -> None:
        self._low, self._high = min(values), max(values)

    def scaled(self, value: float) -> float:
        # Halved, because the whole way from -1e300 to 1e300 would be too far for the next one.
        way = self._high / 2 - self._low / 2
        return (value / 2 - self._low / 2) / way if way > 0 else 0.5

    def ticks(self, count: int) -> tuple[list[float], list[str]]:
        """Places and names of at most so many marks, two or more, all names different."""
        if not self._high > self._low:
            return [0.5], [f"{self._low:.6g}"]
        values = [self._low * (1 - at / (count - 1)) + self._high * (at / (count - 1)) for at in range(count)]
        if all(abs(end) < 1e6 and end == int(end) for end in (self._low, self._high)):
            values = sorted({float(round(value)) for value in values})  # steps and attempts are counted
        digits = next((d for d in (3, 4, 6, 9, 12) if len({f"{v:.{d}g}" for v in values}) == len(values)), 17)
        return [self.scaled(value) for value in values], [_name(value, digits) for value in values]


def _name(value: float, digits: int) -> str:
    """A number with so many digits at least; those before the point are not rounded away."""
    before = len(str(int(abs(value)))) if abs(value) < 1e6 else 0
    return f"{value:.{max(digits, before)}g}"


def _range(points: Points) -> float:
    values = [value for _, value in points]
    return max(values) / 2 - min(values) / 2


def thinned(points: Points) -> Points:
    """At most about `SHOWN` of them, the last one among them."""
    if len(points) <= SHOWN:
        return points
    step = -(-len(points) // SHOWN)
    return [*points[:-1:step], points[-1]]
