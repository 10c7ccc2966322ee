"""python -m pytest tests/core/test_decide.py"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_kit.core.decide import Case, decide
from autoresearch_kit.core.records import Attempt, Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.core.spec import Constraint, Decision

VALUES = st.floats(allow_nan=False, allow_infinity=False)
GAINS = st.floats(0, 1e6) | st.floats(0, 500).map(lambda percent: f"{percent!r}%")
LINES = st.integers(-3, 3)


def head(value: float) -> Attempt:
    kept = Verdict(Outcome.KEEP, "Baseline")
    return Attempt(0, "c", "p", "t", Proposal("Baseline"), (Measurement(value),), kept, "2026-01-01T00:00:00.000Z", "y")


def case(
    old: float | None, new: Measurement | float, maximize: bool = False, min_gain: Any = 0, less: int = 0, *limits: str
) -> Case:
    constraints = [Constraint.model_validate(dict(zip(("metric", "sign", "limit"), limit.split(), strict=True))) for limit in limits]  # fmt: skip  # noqa: E501
    measured = new if isinstance(new, Measurement) else Measurement(new)
    decision = Decision.model_validate({"min_gain": min_gain})
    return Case(maximize, decision, constraints, None if old is None else head(old), [measured], less)


@given(VALUES, VALUES, st.booleans(), GAINS, LINES)
def test_never_keeps_a_worse_value(old: float, new: float, maximize: bool, min_gain: Any, less: int) -> None:
    verdict = decide(case(old, new, maximize, min_gain, less))
    better, worse = (new > old, new < old) if maximize else (new < old, new > old)
    assert verdict.gain is not None and math.isfinite(verdict.gain)
    assert (verdict.gain > 0, verdict.gain < 0) == (better, worse)
    if verdict.outcome is Outcome.KEEP:
        assert not worse
        assert better or less > 0
    else:
        assert verdict.outcome is Outcome.DISCARD
        assert worse or less <= 0 or better  # a better one may gain too little
    json.dumps([verdict.gain, verdict.noise], allow_nan=False)
    assert verdict.reason.isprintable() and not verdict.reason.endswith(".")
    assert verdict.reason.startswith(f"{verdict.outcome.capitalize()}: ")


@given(VALUES, VALUES, GAINS, LINES)
def test_the_direction_is_only_a_sign(old: float, new: float, min_gain: Any, less: int) -> None:
    down, up = decide(case(old, new, False, min_gain, less)), decide(case(-old, -new, True, min_gain, less))
    assert (down.outcome, down.gain) == (up.outcome, up.gain)


@given(VALUES, VALUES, st.booleans(), LINES)
def test_without_min_gain_every_better_value_is_kept(old: float, new: float, maximize: bool, less: int) -> None:
    better = new > old if maximize else new < old
    kept = decide(case(old, new, maximize, 0, less)).outcome is Outcome.KEEP
    assert kept == (better or (new == old and less > 0))


@given(VALUES, VALUES, st.floats(0, 1e6))
def test_min_gain_is_monotonic(old: float, new: float, min_gain: float) -> None:
    if decide(case(old, new, False, min_gain)).outcome is Outcome.KEEP:
        assert decide(case(old, new, False, min_gain / 2)).outcome is Outcome.KEEP


@pytest.mark.parametrize(
    ("old", "new", "maximize", "min_gain", "outcome", "reason"),
    [
        (1.0, 0.9, False, 0, "keep", "Keep: 1 -> 0.9, better by 0.1 (10.00 %)"),
        (1.0, 1.1, False, 0, "discard", "Discard: 1 -> 1.1, worse by 0.1 (10.00 %)"),
        (1.0, 1.1, True, 0, "keep", "Keep: 1 -> 1.1, better by 0.1 (10.00 %)"),
        (-2.0, -1.0, True, 0, "keep", "Keep: -2 -> -1, better by 1 (50.00 %)"),
        (1.0, 0.9, False, 0.2, "discard", "Discard: 1 -> 0.9, better by 0.1 (10.00 %), less than min_gain 0.2"),
        (1.0, 0.9, False, 0.05, "keep", "Keep: 1 -> 0.9, better by 0.1 (10.00 %)"),
        (0.3, 0.2, False, 0.1, "keep", "Keep: 0.3 -> 0.2, better by 0.1 (33.33 %)"),  # 0.3 - 0.2 < 0.1 in floats
        (200.0, 199.0, False, "0.5%", "keep", "Keep: 200 -> 199, better by 1 (0.50 %)"),
        (200.0, 199.1, False, "0.5%", "discard", "Discard: 200 -> 199.1, better by 0.9"),
        (-200.0, -201.0, False, "0.5 %", "keep", "Keep: -200 -> -201, better by 1 (0.50 %)"),
        (0.0, 1.0, True, "50%", "keep", "Keep: 0 -> 1, better by 1"),
        (0.0, 0.0, True, "50%", "discard", "Discard: 0 as before, and not simpler"),
        (1.0, 1.00000001, True, 0, "keep", "Keep: 1 -> 1.00000001, better by 1e-08"),
        (1e308, -1e308, False, 0, "keep", "Keep: 1e+308 -> -1e+308, better by"),
        (5e-324, 1.0, True, 0, "keep", "Keep: 4.94066e-324 -> 1, better by 1"),
    ],
)
def test_by_example(old: float, new: float, maximize: bool, min_gain: Any, outcome: str, reason: str) -> None:
    verdict = decide(case(old, new, maximize, min_gain))
    assert verdict.outcome == outcome
    assert verdict.reason.startswith(reason)


def test_an_equal_value_is_kept_when_the_files_got_shorter() -> None:
    assert decide(case(1.0, 1.0, less=3)).reason == "Keep: 1 as before with 3 lines less"
    assert decide(case(1.0, 1.0, less=1)).reason == "Keep: 1 as before with 1 line less"
    assert decide(case(1.0, 1.0, less=0)).outcome is Outcome.DISCARD
    assert decide(case(1.0, 1.0, less=-1)).outcome is Outcome.DISCARD
    assert decide(case(1.0, 1.0, min_gain=0.1, less=1)).outcome is Outcome.KEEP
    assert decide(case(0.0, -0.0, less=1)).outcome is Outcome.KEEP


def test_a_baseline_is_kept_whatever_it_is() -> None:
    verdict = decide(case(None, 7.25))
    assert (verdict.outcome, verdict.reason, verdict.gain) == (Outcome.KEEP, "Baseline: 7.25", None)


@pytest.mark.parametrize("old", [None, 1.0])
def test_a_crash_is_told_as_such(old: float | None) -> None:
    verdict = decide(case(old, Measurement(None, problem="timeout: no end after 600 s")))
    assert (verdict.outcome, verdict.reason) == (Outcome.CRASH, "Crash: timeout: no end after 600 s")
    assert verdict.gain is None
    assert decide(case(old, Measurement(0.5, problem="exit: code 1"))).outcome is Outcome.CRASH
    assert decide(case(old, Measurement(None))).reason == "Crash: no value"


def test_only_the_last_sample_counts() -> None:
    two = replace(case(1.0, 0.5), candidate=[Measurement(None, problem="supervisor_killed: x"), Measurement(0.5)])
    assert decide(two).outcome is Outcome.KEEP


@pytest.mark.parametrize(
    ("limit", "found", "holds"),
    [("mb <= 5", 5, True), ("mb <= 5", 5.1, False), ("mb < 5", 5, False), ("mb >= 5", 5, True), ("mb > 5", 5, False)],
)
def test_constraints(limit: str, found: float, holds: bool) -> None:
    measured = Measurement(0.5, {"mb": found})
    verdict = decide(case(1.0, measured, False, 0, 0, limit))
    assert verdict.outcome is (Outcome.KEEP if holds else Outcome.DISCARD)
    if not holds:
        assert verdict.reason == f"Discard: 1 -> 0.5, and mb is {found:g} where `{limit}` is required"
        assert verdict.gain == 0.5
    shorter = decide(case(0.5, measured, False, 0, 4, limit))
    assert (shorter.outcome is Outcome.KEEP) == holds, "shorter files do not excuse a broken limit"


@pytest.mark.parametrize("old", [None, 1.0])
def test_a_constraint_on_a_metric_that_was_not_printed_is_a_crash(old: float | None) -> None:
    verdict = decide(case(old, Measurement(0.5, {"other": 1.0}), False, 0, 0, "mb <= 5"))
    assert verdict.outcome is Outcome.CRASH
    assert verdict.reason == "Crash: no_metric: the limit `mb <= 5` found no mb"
