"""How gains are told, also those at the edge of what a number can be.   pytest tests/core/test_entry.py"""

from __future__ import annotations

import json

import pytest

from autoresearch_kit.core.entry import NO_GAIN, gain_of, gain_percent, gain_short, gain_words, percent_of
from autoresearch_kit.core.words import apart, at_least, factor


@pytest.mark.parametrize(
    "baseline, best, maximize, percent, words",
    [
        (3e307, 0.9, False, 100.0, "100 % better than the baseline"),
        (1e308, -7e307, False, 170.0, "170 % better than the baseline"),
        (1e308, -1e308, False, 200.0, "200 % better than the baseline"),
        (1e-9, 1e306, True, None, "better by 1e+306"),
        (1e-9, 1e9, True, 1e20, "1e+18 times the baseline"),
        (1e-9, -1e306, False, None, "better by 1e+306"),
        (0.0, -1.0, False, None, "better by 1"),
        (0.0, 5.0, True, None, "better by 5"),
        (1.0, 1 - 1e-9, False, 1e-7, "1e-07 % better than the baseline"),
        (10.0, 95.0, True, 850.0, "9.5 times the baseline"),
        (5e-324, 1.0, True, None, "better by 1"),
        (1.0, 1.0, False, 0.0, NO_GAIN),
        (0.0, 0.0, False, None, NO_GAIN),
        (1.0, 1.2, False, -20.0, NO_GAIN),
    ],
)
def test_a_gain_is_told_whatever_the_baseline(
    baseline: float, best: float, maximize: bool, percent: float | None, words: str
) -> None:
    found = gain_percent(baseline, best, maximize)
    assert found == (None if percent is None else pytest.approx(percent))
    json.dumps(found, allow_nan=False)
    assert gain_words(baseline, best, maximize) == words


def test_what_is_not_known_is_not_told() -> None:
    for one, other in ((None, 1.0), (1.0, None), (None, None)):
        assert gain_percent(one, other, True) is None and gain_of(one, other, True) is None
        assert gain_words(one, other, True) == "" == gain_short(one, other, True)
    assert gain_of(-1e308, 1e308, True) is None, "no number any more"
    assert percent_of(None, 1.0) is None and percent_of(1.0, 0.0) is None and percent_of(1e300, 1e-300) is None


def test_short_gains_have_signs_in_units_of_the_metric() -> None:
    assert [gain_short(0.0, value, True) for value in (5.0, -5.0, 0.0)] == ["+5", "-5", ""]
    assert [gain_short(2.0, value, False) for value in (1.0, 3.0)] == ["50 %", "-50 %"]


def test_as_many_digits_as_tell_apart() -> None:
    assert (apart(1 - 1e-9, 1.0), apart(1.0, 1 - 1e-9), apart(0.5, None)) == ("0.999999999", "1", "0.5")
    assert [factor(times) for times in (2.345, 1234.5, 1e18)] == ["2.35", "1,234", "1e+18"]
    assert (at_least("1.50", 1, 2), at_least("1.50", 2, 2)) == ("at least 1.50", "1.50")
