"""The interval of a gain against textbooks and against simulated truth.   pytest tests/core/test_interval.py"""

from __future__ import annotations

import math
from random import Random
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_kit.core.interval import Interval, estimate
from autoresearch_kit.verify import in_turn

# Student's own example (1908, section IX): additional hours of sleep by two drugs, for ten patients.
SLEEP = [(0.7, 1.9), (-1.6, 0.8), (-0.2, 1.1), (-1.2, 0.1), (-0.1, -0.1),
         (3.4, 4.4), (3.7, 5.5), (0.8, 1.6), (0.0, 4.6), (2.0, 3.4)]  # fmt: skip


def test_students_sleep() -> None:
    gain = estimate(SLEEP, maximize=True)
    assert gain.absolute.value == pytest.approx(1.58)
    assert gain.absolute.low == pytest.approx(0.7001, abs=1e-4), "as R's t.test(paired = TRUE) has it"
    assert gain.absolute.high == pytest.approx(2.4599, abs=1e-4)
    assert gain.percent is None, "the first drug may have no effect at all"
    assert (gain.first, gain.second) == (pytest.approx(0.75), pytest.approx(2.33))
    assert gain.method == "Student's t on the differences of 10 pairs in random order, 9 d.f."


def test_a_minimized_metric_gains_by_falling() -> None:
    up, down = estimate(SLEEP, maximize=True), estimate(SLEEP, maximize=False)
    assert down.absolute == Interval(-up.absolute.value, -up.absolute.high, -up.absolute.low)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_percent_holds_every_ratio_that_student_does_not_reject(sign: float) -> None:
    rng = Random(3)
    pairs = [(sign * rng.gauss(10, 1), sign * rng.gauss(12, 1)) for _ in range(6)]
    percent = estimate(pairs, maximize=True).percent
    assert percent is not None
    limit = 2.5705818  # Student's t, 5 degrees of freedom, 97.5 %
    for end in (percent.low, percent.high):
        ratio = sign * end / 100
        rest = [other - one - ratio * one for one, other in pairs]
        assert abs(fmean(rest)) == pytest.approx(limit * stdev(rest) / math.sqrt(6), rel=1e-6)
    mean, base = fmean(other - one for one, other in pairs), fmean(one for one, _ in pairs)
    assert percent.value == pytest.approx(100 * mean / abs(base))
    assert percent.low < percent.value < percent.high


def test_without_noise_the_gain_is_exact() -> None:
    gain = estimate([(0.1, 0.3)] * 3, maximize=True)
    assert gain.exact and gain.absolute == Interval(0.3 - 0.1, 0.3 - 0.1, 0.3 - 0.1)
    assert gain.percent is not None and gain.percent.low == gain.percent.high == pytest.approx(200)
    assert gain.first == 0.1 and gain.second == 0.3
    assert gain.method == "3 runs each, the same value every time"
    assert estimate([(0.0, 1.0)] * 2, maximize=True).percent is None


def test_equal_differences_of_unequal_values_are_no_proof() -> None:
    gain = estimate([(1, 2), (3, 4), (1, 2), (3, 4)], maximize=True)
    assert not gain.exact
    assert gain.absolute.low < 0 < gain.absolute.high


def test_a_higher_level_is_wider() -> None:
    narrow, wide = estimate(SLEEP, True, 0.95).absolute, estimate(SLEEP, True, 0.99).absolute
    assert wide.low < narrow.low < narrow.high < wide.high


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=8), st.booleans())
def test_whatever_was_measured_gives_finite_numbers(pairs: list[tuple[float, float]], maximize: bool) -> None:
    gain = estimate(pairs, maximize)
    for interval in (gain.absolute, *([gain.percent] if gain.percent else [])):
        assert all(math.isfinite(number) for number in (interval.value, interval.low, interval.high))
        assert interval.low <= interval.high


@pytest.mark.parametrize("drift", [0.0, 5.0])
@pytest.mark.parametrize("noise", ["normal", "lognormal", "bimodal"])
def test_it_holds_the_true_gain_at_its_stated_rate(noise: str, drift: float) -> None:
    """1000 verifications; benchmarks/verify.py does the same at length. 93 % is three standard errors away."""
    rng, held, count = Random(f"{noise} {drift}"), 0, 1000

    def deviation() -> float:
        if noise == "normal":
            return rng.gauss(0, 1)
        if noise == "lognormal":
            return (rng.lognormvariate(0, 0.5) - math.exp(0.125)) / 0.6
        return (rng.random() < 0.5) * 2 - 1 + rng.gauss(0, 0.1)

    for _ in range(count):
        runs = iter(range(12))
        pairs = in_turn(
            lambda arm, runs=runs: 100 + 2 * arm + drift * next(runs) / 11 + deviation(),
            12,
            lambda pairs: False,
            lambda: rng.randrange(2),
        )
        interval = estimate(pairs, maximize=True).absolute
        held += interval.low <= 2 <= interval.high
    assert held >= 0.93 * count


def test_pairs_have_one_run_of_each_arm_in_an_order_by_lot() -> None:
    told: list[int] = []
    tosses = iter([0, 1, 1, 0])
    pairs = in_turn(lambda arm: told.append(arm) or arm, 8, lambda pairs: False, lambda: next(tosses))
    assert told == [0, 1, 1, 0, 1, 0, 0, 1]
    assert pairs == [(0, 1)] * 4
    told.clear()
    assert in_turn(lambda arm: told.append(arm) or arm, 8, lambda pairs: True) == [(0, 1)] * 2
    assert len(told) == 4, "two quiet pairs are enough"
