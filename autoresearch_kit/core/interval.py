"""A gain with a confidence interval, from runs of two arms in pairs.

- A pair is one run of each arm, one right after the other, so that what changes slowly on the machine hits both alike.
  Which of the two comes first is drawn by lot for every pair (randomised blocks: Fisher, The Design of Experiments,
  1935): a drift of whatever form is then as likely to add to a difference as to take away from it.
- The gain is the mean of the differences, with Student's t on one degree of freedom less than there are pairs (Student,
  The probable error of a mean, Biometrika 6, 1908).
- In percent it is a ratio of two means, and the baseline's is as uncertain as the difference's: Fieller's theorem
  (Fieller, Some problems in interval estimation, Journal of the Royal Statistical Society B 16, 1954).

How often the interval holds the true gain, under several kinds of noise and drift, is measured by benchmarks/verify.py.
What it cannot know: an effect that depends on the arm that ran before, such as a warm cache.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch_kit.core.gate import t_limit

LEVEL = 0.95
"""How often an interval is to hold the true gain."""
_LARGEST = sys.float_info.max
"""What lies beyond is shown as this: the ledger holds no infinity."""

Pair = tuple[float, float]
"""Values of the first arm and of the second, measured one right after the other."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Gain:
    """How much better the second arm is than the first."""

    absolute: Interval
    """In units of the metric, positive is better."""
    percent: Interval | None
    """In percent of the first arm; None when that may be zero, so that percents mean nothing."""
    first: float
    """Mean of the first arm."""
    second: float
    """Mean of the second arm."""
    pairs: int
    """How many pairs were measured."""
    exact: bool
    """Whether each arm gave one value again and again: there is no noise and nothing to estimate."""
    level: float
    """How often such an interval holds the true gain; says nothing when exact."""
    method: str
    """How it was found, in words that can be published."""


def estimate(pairs: Sequence[Pair], maximize: bool, level: float = LEVEL) -> Gain:
    """The gain of the second arm over the first, from two pairs or more of finite values."""
    sign = 1.0 if maximize else -1.0
    firsts, seconds = [first for first, _ in pairs], [second for _, second in pairs]
    differences = [sign * (second - first) for first, second in pairs]
    if len(set(firsts)) == 1 and len(set(seconds)) == 1:
        first, second, value = firsts[0], seconds[0], _clip(differences[0])
        percent = _clip(100 * (value / abs(first))) if first else None
        ratio = None if percent is None else Interval(percent, percent, percent)
        method = f"{len(pairs)} runs each, the same value every time"
        return Gain(Interval(value, value, value), ratio, first, second, len(pairs), True, level, method)
    limit = t_limit((1 - level) / 2, len(pairs) - 1)
    absolute = _student(differences, firsts, seconds, limit)
    ratio = _fieller(differences, firsts, limit)
    method = f"Student's t on the differences of {len(pairs)} pairs in random order, {len(pairs) - 1} d.f."
    if ratio is not None:
        method += "; percent by Fieller's theorem"
    return Gain(absolute, ratio, _mean(firsts), _mean(seconds), len(pairs), False, level, method)


def _student(differences: Sequence[float], firsts: Sequence[float], seconds: Sequence[float], limit: float) -> Interval:
    value, variance = _mean(differences), _covariance(differences, differences)
    if variance == 0:  # equal differences of unequal values, which coarse metrics show by chance
        variance = _covariance(firsts, firsts) + _covariance(seconds, seconds)
    if not math.isfinite(variance):
        return Interval(_clip(value), -_LARGEST, _LARGEST)
    margin = limit * math.sqrt(variance / len(differences))
    return Interval(_clip(value), _clip(value - margin), _clip(value + margin))


def _fieller(differences: Sequence[float], firsts: Sequence[float], limit: float) -> Interval | None:
    """Interval of 100 times the ratio of two means; None when the denominator is not surely away from zero.

    It holds every ratio r for which the mean of `difference - r * first` is not beyond Student's limit.
    """
    base = _mean(firsts)
    squares = _covariance(firsts, firsts)
    scale = limit * limit / len(firsts)
    # Beyond 1e100 the squares of squares would be infinite.
    if not 1e-100 < abs(base) < 1e100 or max(map(abs, differences)) > 1e100 or base * base <= scale * squares:
        return None
    ratio = _mean(differences) / base
    rest = [difference - ratio * first for difference, first in zip(differences, firsts, strict=True)]
    # In terms of what the ratio leaves over, so that small noise is no small difference of large squares.
    spread, mixed = _covariance(rest, rest), _covariance(rest, firsts)
    curve = base * base - scale * squares
    shift = -scale * mixed / curve
    root = math.sqrt(scale * max(0.0, spread * curve + scale * mixed * mixed)) / curve
    ends = sorted(math.copysign(100.0, base) * (ratio + shift + side) for side in (-root, root))
    return Interval(_clip(math.copysign(100.0, base) * ratio), _clip(ends[0]), _clip(ends[1]))


def _covariance(ones: Sequence[float], others: Sequence[float]) -> float:
    one, other = _mean(ones), _mean(others)
    return sum((a - one) * (b - other) for a, b in zip(ones, others, strict=True)) / (len(ones) - 1)


def _mean(values: Sequence[float]) -> float:
    return sum(value / len(values) for value in values)


def _clip(value: float) -> float:
    return value if -_LARGEST <= value <= _LARGEST else math.copysign(_LARGEST, value)
