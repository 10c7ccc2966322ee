"""Charts in the cells of a terminal: lines of text, exactly as many and as wide as wanted, without colour.

plotext draws; both axes are brought to 0 ... 1 before, so that values that differ by 1e-18 or by 1e300 look like any
others, and the numbers beside them are those that people would write.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.records import Outcome
from autoresearch_kit.views.chart.axis import drawable, value_axis
from autoresearch_kit.watch.curve import Curve

MIN_WIDTH, MIN_HEIGHT = 24, 5
"""Less is no chart."""
SHOWN = 300
"""So many points are drawn of a line: no terminal has more columns to tell them apart."""
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
    """By lines, or each on its own."""
    marker: str = "dot"
    """Of each, when they are not joined; a name of plotext's, or one character."""


def curve_chart(curve: Curve, width: int, height: int, unicode: bool = True) -> list[str]:
    """The learning curve of an experiment, without its beginning where that would make the rest a flat line."""
    points = curve.points
    rest = points[len(points) // BEGINNING :]
    if len(points) >= 2 * BEGINNING and _range(rest) < _range(points) / 3:
        points = rest
    return chart([Series(thinned(points), True)], width, height, unicode)


def progress_chart(campaign: Campaign, width: int, height: int, unicode: bool = True) -> list[str]:
    """A title, then `height` lines: every attempt a dot, the best so far a line, crashes at the worse edge.

    Empty when fewer than two attempts have a value. Its axis is that of the report: what is absurdly far off is left
    out, because one bad attempt must not make all others a flat line, and the title says how many that are.
    """
    closed = [(a, level) for a, level in campaign.with_best() if a.outcome not in (Outcome.RUNNING, Outcome.LOST)]
    axis = value_axis([a for a, _ in closed])
    best: list[tuple[float, float]] = []
    tried: list[tuple[float, float]] = []
    crashed: list[tuple[float, float]] = []

    def up(value: float) -> float:
        return math.log10(value) if axis.log else value

    for attempt, level in closed:
        value = drawable(attempt.value)
        if value is None:
            crashed.append((attempt.number, up(axis.low if campaign.maximize else axis.high)))
        elif axis.low <= value <= axis.high:
            tried.append((attempt.number, up(value)))
        reached = drawable(level)
        if attempt.outcome is Outcome.KEEP and reached is not None:
            if best:
                best.append((attempt.number, best[-1][1]))
            best.append((attempt.number, up(reached)))
    if len(tried) < 2 or not best:
        return []
    best.append((closed[-1][0].number, best[-1][1]))
    kept = {a.number for a, _ in closed if a.outcome is Outcome.KEEP}
    series = [
        Series(tried, False),
        Series(crashed, False, "x"),
        Series(thinned(best), True),
        Series([point for point in tried if point[0] in kept], False),  # once more, on the line
    ]
    lines = chart(series, width, height, unicode, axis.log)
    words = [f"{'•' if unicode else '.'} each", *(["x crashed"] if crashed else [])]
    words.append(f"the line is {campaign.line_name}")
    off = f"; {axis.clipped} off the chart" if axis.clipped else ""
    return [f"{campaign.metric} by attempt: {', '.join(words)}{off}", *lines] if lines else []


def chart(series: Sequence[Series], width: int, height: int, unicode: bool = True, log: bool = False) -> list[str]:
    """`height` lines of `width` cells; empty where that is too small, or where there is nothing to draw.

    With `log` the values are logarithms to base ten, and are named by what they are of.
    """
    import plotext  # 40 ms, and not before there is something to draw

    points = [point for one in series for point in one.points]
    if width < MIN_WIDTH or height < MIN_HEIGHT or not points:
        return []
    x, y = _Axis([at for at, _ in points]), _Axis([value for _, value in points], log)
    plotext.terminal.limit(False, False)  # it may be drawn for a page, or a pipe
    figure: Any = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, height)
    for one in series:
        if one.points:
            marker = "braille" if one.joined else one.marker
            if not unicode:
                marker = {"braille": "*", "dot": "."}.get(marker, marker)
            places = [(x.scaled(at), y.scaled(value)) for at, value in one.points]
            if not one.joined:  # of those within one cell one is enough
                places = list({(round(2 * width * at), round(2 * height * up)): (at, up) for at, up in places}.values())
            scaled = [at for at, _ in places], [up for _, up in places]
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

    def __init__(self, values: Sequence[float], log: bool = False) -> None:
        self._low, self._high, self._log = min(values), max(values), log

    def scaled(self, value: float) -> float:
        # Halved, because the whole way from -1e300 to 1e300 would be too far for the next one.
        way = self._high / 2 - self._low / 2
        return (value / 2 - self._low / 2) / way if way > 0 else 0.5

    def ticks(self, count: int) -> tuple[list[float], list[str]]:
        """Places and names of at most so many marks, two or more, all names different."""
        if not self._high > self._low:
            return [0.5], [f"{self._told(self._low):.6g}"]
        values = [self._low * (1 - at / (count - 1)) + self._high * (at / (count - 1)) for at in range(count)]
        if not self._log and all(abs(end) < 1e6 and end == int(end) for end in (self._low, self._high)):
            values = sorted({float(round(value)) for value in values})  # steps and attempts are counted
        told = [self._told(value) for value in values]
        digits = next((d for d in (3, 4, 6, 9, 12) if len({f"{v:.{d}g}" for v in told}) == len(told)), 17)
        return [self.scaled(value) for value in values], [_name(value, digits) for value in told]

    def _told(self, value: float) -> float:
        return 10.0**value if self._log else value


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
