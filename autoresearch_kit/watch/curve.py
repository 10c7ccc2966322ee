"""The learning curve of an experiment, out of its log: lines that come again and again with a step and named numbers.

    step 00010 (2.1%) | loss: 5.43 | lrm: 1.00           step=10 loss=5.4           {"step": 10, "loss": 5.4}
    iter 10: train loss 5.4, time 12ms                   Epoch [3/10], Step [100/600], Loss: 0.31
    45%|####5     | 450/1000 [00:10<00:12, loss=0.42]    100/100 - 2s 15ms/step - loss: 0.5 - val_loss: 0.4
    [10]  validation-rmse:0.5                            {'loss': 2.3, 'epoch': 0.1}

No format is known by name: a line is cut into words and numbers, a number belongs to the words before it, and those
that count (`step`, `epoch` and so on, or `450/1000`) say where the others lie. Nothing here raises on any text, and all
of it takes time linear in the text and memory that does not grow with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

POINTS = 1000
"""More points of a series are thinned out to half of them."""
NAMES = 60
"""So many series are followed, the first ones."""
LINE_CHARACTERS = 2000
"""What comes later on a line is not read."""
LINES = 300
"""Of more lines in one piece of text those with the metric are read, and an even choice of the others."""

_ESCAPE = re.compile(r"\x1b\[[0-9;:?]*+[ -/]*+[@-~]")
_END = re.compile(r"[\r\n]++")
_TOKEN = re.compile(
    r"(?P<word>[A-Za-z_][\w./@-]*+)"
    r"|(?P<number>[+-]?+(?:[0-9]{1,3}+(?:,[0-9]{3}(?![0-9]))++(?:\.[0-9]++)?+|[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)"
    r"(?:[eE][+-]?[0-9]++)?+)(?P<unit>[A-Za-z%][\w/%]*+)?+"
    r"|(?P<sign>[^\s\w])"
)
_HINT = re.compile(r"step|iter|epoch|batch|update|round|generation|[0-9]/[0-9]|\[[0-9]++\]", re.IGNORECASE)
_COUNTERS = ("global_step", "step", "update", "iteration", "iter", "it", "batch", "round", "generation", "epoch")
"""What says where a line lies, the finest first."""
_QUALIFIERS = frozenset(
    [
        "train",
        "training",
        "val",
        "valid",
        "validation",
        "test",
        "eval",
        "dev",
        "avg",
        "mean",
        "average",
        "ema",
        "best",
        "running",
    ]
)
"""Words that belong to the one after them: `val loss 3.1`."""
_TELLING = ("loss", "bpb", "ppl", "perplexity", "acc", "score", "reward", "error", "err", "rmse", "mae", "auc", "f1")
"""Parts of the names of what is worth looking at, the most usual first."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One series of a log."""

    name: str
    """As the log calls it, in small letters."""
    along: str
    """What is counted along it: `step`, `epoch`, ..."""
    points: tuple[tuple[float, float], ...]
    """Where and how much, two or more, in order, finite."""


class Curves:
    """All series of one log, which is fed piece by piece."""

    def __init__(self, metric: str = "") -> None:
        self._metric = metric.lower()
        self._series: dict[str, _Series] = {}
        self._rest = ""
        self._epoch: float | None = None

    def feed(self, text: str) -> None:
        """What came next; it may end amid a line."""
        *lines, rest = _END.split(self._rest + text)
        self._rest = rest[:LINE_CHARACTERS]
        for line in self._chosen(lines):
            self._take(line)

    def best(self) -> Curve | None:
        """The series to show: the metric's, else one whose name tells a loss or a score; None when there is none."""
        found = [
            (rank, name) for name, series in self._series.items() if (rank := self._rank(name, series)) is not None
        ]
        if not found:
            return None
        name = min(found)[1]
        series = self._series[name]
        return Curve(name, series.along, series.in_order())

    def _rank(self, name: str, series: _Series) -> tuple[int, int, bool] | None:
        """The lower, the better; None when it is not worth a look."""
        if len(series) < 2:
            return None
        if name == self._metric:
            return (0, 0, True)
        if self._metric and self._metric in re.split(r"[/.]", name):
            return (1, 0, True)
        kind = next((at for at, part in enumerate(_TELLING) if part in name), None)
        # One that was printed a few times only is a worse look at what goes on; of equals, not what was trained on.
        return None if kind is None else (2 + kind, -len(series), "val" not in name)

    def _chosen(self, lines: list[str]) -> Iterable[str]:
        lines = [line[:LINE_CHARACTERS] for line in lines if _HINT.search(line, 0, LINE_CHARACTERS)]
        if len(lines) <= LINES:
            return lines
        wanted = {at for at, line in enumerate(lines) if self._metric and self._metric in line.lower()}
        every = max(1, len(wanted) // LINES)
        chosen = {*sorted(wanted)[::every], *range(0, len(lines), -(-len(lines) // LINES)), len(lines) - 1}
        return (lines[at] for at in sorted(chosen))

    def _take(self, line: str) -> None:
        found = _Line(_ESCAPE.sub("", line))
        place = self._place(found)
        if place is None:
            return
        along, at = place
        for name, value in found.values.items():
            series = self._series.get(name)
            if series is None and len(self._series) >= NAMES:
                continue
            if series is None or series.is_over(along, at):
                series = self._series[name] = _Series(along)
            series.add(at, value)

    def _place(self, found: _Line) -> tuple[str, float] | None:
        """What counts on this line, and how far it has come."""
        name = next((name for name in _COUNTERS if name in found.counters), "")
        epoch = found.counters.get("epoch")
        if epoch is not None:
            self._epoch = epoch[0]
        if name in ("", "epoch"):
            if found.progress is None:
                return ("epoch", epoch[0]) if epoch is not None else None
            at, total = found.progress
            is_part = self._epoch is not None and at <= total
            return ("epoch", (self._epoch or 0.0) + at / total) if is_part else ("step", at)
        at, total = found.counters[name][0], found.counters[name][1] or 0.0
        # With an epoch beside it, a count that says how far it goes begins anew in each.
        if epoch is not None and 0 < at <= total:
            return ("epoch", epoch[0] + at / total)
        return (name, at)


def read_curve(text: str, metric: str = "") -> Curve | None:
    """The learning curve that a log shows: of `metric` where it can be, else of a loss or score; None without one."""
    curves = Curves(metric)
    for at in range(0, len(text), 2**16):
        curves.feed(text[at : at + 2**16])
    curves.feed("\n")
    return curves.best()


class _Series:
    """The points of one name, thinned out when they are many."""

    def __init__(self, along: str) -> None:
        self.along = along
        self._points: list[tuple[float, float]] = []
        self._last: tuple[float, float] | None = None
        self._stride, self._count = 1, 0

    def __len__(self) -> int:
        return len(self._points) + (self._last is not None)

    def is_over(self, along: str, at: float) -> bool:
        """Whether another pass has begun: counted otherwise, or far behind. A little behind are others that write."""
        last = self._last or self._points[-1]
        return along != self.along or at < last[0] / 2

    def add(self, at: float, value: float) -> None:
        if self._count % self._stride == 0:
            self._points.append((at, value))
            self._last = None
        else:
            self._last = (at, value)
        self._count += 1
        if len(self._points) >= 2 * POINTS:
            self._points = self._points[::2]
            self._stride *= 2

    def in_order(self) -> tuple[tuple[float, float], ...]:
        """Each place once, with what was said of it last."""
        points = [*self._points, self._last] if self._last else self._points
        return tuple(sorted(dict(points).items()))


class _Line:
    """What one line says."""

    def __init__(self, line: str) -> None:
        self.counters: dict[str, tuple[float, float | None]] = {}
        """Counts by name, with what they go up to where that is said."""
        self.values: dict[str, float] = {}
        """The other named numbers, finite."""
        self.progress: tuple[float, float] | None = None
        """`450/1000` without a name."""
        self._words: list[str] = []
        self._before: tuple[str, float] | None = None  # the number just read and its name, for `/1000` after it
        self._has_slash = False
        for match in _TOKEN.finditer(line):
            if (word := match["word"]) is not None:
                self._words = [] if word.lower() in ("nan", "inf", "infinity") else [*self._words[-1:], word.lower()]
                self._before, self._has_slash = None, False
            elif (sign := match["sign"]) is not None:
                self._take_sign(sign, match.start() == 0)
            else:
                is_alone = line[: match.start()].strip() == "[" and line[match.end() :][:1] == "]"
                self._take_number(_number(match["number"]), match["unit"] is not None, is_alone)

    def _take_sign(self, sign: str, is_first: bool) -> None:
        self._has_slash = sign == "/" and self._before is not None
        if not self._has_slash:
            self._before = None
            # `Step [100/600]` has a name, `Loss (0.5)` names what stands before.
            opens = sign in "[(" and not is_first and self._words[-1:] and self._words[-1] not in _COUNTERS
            if sign not in ":=\"'[(#" or opens:
                self._words = []

    def _take_number(self, value: float | None, has_unit: bool, is_alone: bool) -> None:
        name = _name(self._words)
        before, is_total = self._before, self._has_slash
        self._words, self._before, self._has_slash = [], None, False
        if value is None:
            return
        if is_total and before is not None:
            if before[0] in self.counters:
                self.counters[before[0]] = (before[1], value)
            elif not before[0] and self.progress is None and before[1] >= 0 and value > 0:
                self.progress = (before[1], value)
            return
        if not name and is_alone:
            name = "round"
        if name in _COUNTERS:
            self.counters.setdefault(name, (value, None))
        elif name:
            self.values[name] = value
        if not has_unit:
            self._before = (name, value)


def _name(words: list[str]) -> str:
    """What the words before a number call it."""
    if not words:
        return ""
    last = words[-1].rstrip("./-@")
    part = re.split(r"[/.]", last)[-1]
    counter = part if part in _COUNTERS else part[:-1] if part[:-1] in _COUNTERS and part.endswith("s") else ""
    if counter:
        return counter
    return f"{words[0]}_{last}" if len(words) > 1 and words[0] in _QUALIFIERS else last


def _number(shown: str) -> float | None:
    """The number, None when it is too large to be one."""
    value = float(shown.replace(",", "")) if len(shown) < 400 else math.inf
    return value if abs(value) < 1e300 else None
