"""What repeated measurements of the same files say: whether two series agree, and what is beyond their noise.

Every test here is strict, a chance of one in a thousand to accuse a sound evaluator: an exam asks many questions.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev

LEVEL = 0.001
ENOUGH = 7
"""So many scores on each side decide what three leave open, when they are equal or in order."""
MOST = 4 * ENOUGH
"""After so many scores in all, those that never went back are left at that."""


@dataclass(frozen=True, slots=True)
class Noise:
    """The scores of files that are all the same, and the direction that is better."""

    values: tuple[float, ...]
    maximize: bool

    @property
    def mean(self) -> float:
        return average(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation; zero also when there is one value."""
        if len(set(self.values)) < 2:
            return 0.0
        scale, (values,) = _scaled(self.values)
        return stdev(values) * scale

    @property
    def margin(self) -> float:
        """How far from the mean one more score of the same files stays, but for one in a thousand on each side."""
        from scipy import special

        n = len(self.values)
        return float(special.stdtrit(n - 1, 1 - LEVEL)) * self.spread * math.sqrt(1 + 1 / n) if self.spread else 0.0

    def gain(self, value: float) -> float:
        """By how much `value` is better than the mean; negative when it is worse."""
        return value - self.mean if self.maximize else self.mean - value

    def is_better(self, value: float) -> bool:
        return self.gain(value) > self.margin

    def is_same(self, value: float) -> bool:
        return abs(self.gain(value)) <= self.margin

    def forged(self) -> float:
        """A number that no run is likely to have, better by far, and still one that an honest run could print."""
        mean = self.mean
        step = max(3 * self.margin, abs(mean) / 2) or 1.0
        if mean > 0 and (not self.maximize or mean < 1):  # above zero it stays there, and a share below one
            step = min(step, 0.99 * (1 - mean if self.maximize else mean))
        largest = float(f"{sys.float_info.max:.6g}")
        return float(f"{max(-largest, min(largest, mean + (step if self.maximize else -step))):.6g}")


def average(values: Sequence[float]) -> float:
    """The mean; of values that are all the same, that value to the last bit. Never more than a float can be."""
    if len(set(values)) == 1:
        return values[0]
    scale, (values,) = _scaled(values)
    return fmean(values) * scale


def chance_of_difference(first: Sequence[float], second: Sequence[float]) -> float:
    """How likely two series from one source differ so much in their means: Student's t, two-sided."""
    _, (first, second) = _scaled(first, second)
    rest = [*(x - fmean(first) for x in first), *(x - fmean(second) for x in second)]
    freedom = len(rest) - 2
    error = math.sqrt(_square(rest) / freedom * (1 / len(first) + 1 / len(second)))
    return _two_sided(fmean(first) - fmean(second), error, freedom)


def chance_of_first(values: Sequence[float]) -> float:
    """How likely the first score is so far from the later ones."""
    _, (values,) = _scaled(values)
    later = values[1:]
    error = stdev(later) * math.sqrt(1 + 1 / len(later))
    return _two_sided(values[0] - fmean(later), error, len(later) - 1)


def chance_of_trend(values: Sequence[float]) -> float:
    """How likely scores without a trend lie so well on a line over their order."""
    _, (values,) = _scaled(values)
    n, mean = len(values), fmean(values)
    places = [i - (n - 1) / 2 for i in range(n)]
    slope = sum(x * y for x, y in zip(places, values, strict=True)) / _square(places)
    rest = [y - mean - slope * x for x, y in zip(places, values, strict=True)]
    return _two_sided(slope, math.sqrt(_square(rest) / (n - 2) / _square(places)), n - 2)


def chance_of_all_on_one_side(ours: Sequence[float], others: Sequence[float]) -> float:
    """How likely it is that of scores which are mostly equal none that differs fell on `ours`, which are all equal."""
    different = sum(value != ours[0] for value in others)
    return math.comb(len(others), different) / math.comb(len(ours) + len(others), different)


def goes_one_way(values: Sequence[float]) -> bool:
    """Whether the scores rise and never fall, or fall and never rise; they may stay for a while."""
    steps = list(pairwise(values))
    return len(set(values)) > 1 and (all(a <= b for a, b in steps) or all(a >= b for a, b in steps))


def chance_of_one_way(values: Sequence[float]) -> float:
    """How likely these very scores, in an order that is chance, go one way: those that are equal count as one."""
    return 2 * math.prod(math.factorial(count) for count in Counter(values).values()) / math.factorial(len(values))


def accusation(ours: Sequence[float], others: Sequence[float], values: Sequence[float]) -> str:
    """What is wrong with scores of the same files, as the baseline and as candidates; `values` are all in order.

    `order`, `first` or `sides`; empty when they are sound, and `?` when more of them would tell.
    """
    if len(set(values)) == 1:
        return ""
    few = len(others) < ENOUGH
    if chance_of_trend(values) < LEVEL or (goes_one_way(values) and chance_of_one_way(values) < LEVEL):
        return "order"
    if chance_of_first(values) < LEVEL:  # one odd score among equals may be a rare one
        return "?" if few and len(set(values[1:])) == 1 else "first"
    if goes_one_way(values) and len(values) < MOST:  # the best so far, if it is kept somewhere, stays the longer
        return "?"
    if len(set(ours)) == 1:
        return "sides" if chance_of_all_on_one_side(ours, others) < LEVEL else "?" if few else ""
    return "sides" if chance_of_difference(ours, others) < LEVEL else ""


def _scaled(*series: Sequence[float]) -> tuple[float, list[list[float]]]:
    """A power of two and the series divided by it: near one, so that no sum or square leaves what a float can be."""
    exponent = math.frexp(max(abs(value) for values in series for value in values))[1]
    scale = 2.0 ** max(-1000, min(1000, exponent))
    return scale, [[value / scale for value in values] for values in series]


def _square(values: Sequence[float]) -> float:
    return sum(x * x for x in values)


def _two_sided(difference: float, error: float, freedom: int) -> float:
    from scipy import special

    if error <= 1e-9 * abs(difference):  # no noise at all, but for the last bits of a sum
        return 0.0 if difference else 1.0
    return float(2 * special.stdtr(freedom, -abs(difference) / error))
