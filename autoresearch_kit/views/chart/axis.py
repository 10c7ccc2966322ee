"""The axis of values: what is absurdly far off is drawn at its edge, and its title says so."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoresearch_kit.core.records import Attempt, Outcome, clean_line
from autoresearch_kit.views.chart.ink import Spec

FENCE = 3.0
"""Values so many interquartile ranges beyond the quartiles may be drawn at the edge."""
WORTH_CLIPPING = 4.0
"""They are when the axis would otherwise be so many times as long."""
DECADES = 30.0
"""Kept values of which one is so many times another are shown on a logarithmic axis."""
BIGGEST = 1e300
"""Larger values are drawn as this, because the difference of two of them is still a number; those below its inverse as
nothing."""


class Axis:
    """What part of the values is shown, and how."""

    def __init__(self, low: float, high: float, log: bool = False, clipped: int = 0, empty: bool = False) -> None:
        self.low = low
        """The lowest value on the axis."""
        self.high = high
        """The highest."""
        self.log = log
        """Whether it is logarithmic."""
        self.clipped = clipped
        """How many values lie beyond it."""
        self.empty = empty
        """Whether there is no value at all."""

    @property
    def format(self) -> Spec:
        """How its ticks are written: as briefly as tells them apart."""
        size, step = max(abs(self.low), abs(self.high)), (self.high - self.low) / 5
        if self.empty:
            return {"labels": False, "ticks": False, "grid": False}
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if last - first <= 4 else (1,)
            every = max(1, (last - first) // 8)
            values = [step * 10.0**power for power in range(first, last + 1, every) for step in steps]
            return {"format": ".3~g", "values": [value for value in values if self.low <= value <= self.high]}
        if 1e-4 <= size < 1e6 or not size:
            return {"tickCount": 6}
        digits = math.ceil(math.log10(size) - math.log10(step)) if step > 0 else 2
        return {"format": f".{max(1, min(15, digits))}~e", "tickCount": 6}


def value_axis(attempts: Sequence[Attempt]) -> Axis:
    """The axis for the values of these attempts: all kept ones are on it, and whatever is not absurdly far off."""
    kept = [v for a in attempts if a.outcome is Outcome.KEEP and (v := drawable(a.value)) is not None]
    values = [v for a in attempts if (v := drawable(a.value)) is not None]
    if not values:
        return Axis(0.0, 1.0, empty=True)
    kept = kept or [sorted(values)[len(values) // 2]]
    log = min(kept) > 0 and max(kept) >= DECADES * min(kept)
    scaled = [math.log10(v) for v in values if v > 0] if log else values
    ends = [math.log10(v) for v in kept] if log else kept
    low, high = _fenced(scaled, min(ends), max(ends))
    margin = 0.07 * (high - low)
    if not margin > 4e-15 * max(abs(low), abs(high)):  # all the same, to the last digits
        margin = 0.05 * max(abs(low), abs(high)) or 0.5
        margin = min(margin, 1e-6 * max(abs(low), abs(high))) if low != high else margin
    low, high = low - margin, high + margin
    if log:
        low, high = 10.0 ** max(low, -300.0), 10.0 ** min(high, 300.0)
    return Axis(low, high, log, sum(not low <= v <= high for v in values))


def _fenced(values: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """The least and greatest of the values, without those far off when the others would be squeezed into nothing."""
    ordered = sorted(values)
    first, third = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    spread = max(third - first, high - low) * FENCE
    first, third = min(low, first - spread), max(high, third + spread)
    inside = [v for v in ordered if first <= v <= third]
    shortest = min(low, inside[0]), max(high, inside[-1])
    whole = min(low, ordered[0]), max(high, ordered[-1])
    if whole[1] - whole[0] <= WORTH_CLIPPING * (shortest[1] - shortest[0]):
        return whole
    return whole if len(inside) < len(ordered) / 2 else shortest


def drawable(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return max(-BIGGEST, min(BIGGEST, value)) if abs(value) * BIGGEST >= 1 else 0.0


def axis_title(metric: str, better: str, axis: Axis) -> str:
    notes = [clean_line(metric, 60), "no value yet" if axis.empty else better, "log scale" if axis.log else ""]
    if axis.clipped:
        notes.append(f"{axis.clipped} beyond the axis")
    return ", ".join(note for note in notes if note)
