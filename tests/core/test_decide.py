"""What `decide` says. python -m pytest tests/core/test_decide.py"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_kit.core import gate
from autoresearch_kit.core.decide import Again, Case, decide
from autoresearch_kit.core.history import History
from autoresearch_kit.core.records import Attempt, Measurement, Outcome, Proposal, Verdict, mean
from autoresearch_kit.core.spec import Constraint, Decision

VALUES = st.floats(allow_nan=False, allow_infinity=False)
GAINS = st.floats(0, 1e6) | st.floats(0, 500).map(lambda percent: f"{percent!r}%")
LINES = st.integers(-3, 3)
SEEDS = st.integers(0, 2**32)
NOISY = (10.0, 10.2, 9.8)
HEAD = (10.05, 9.95, 10.1, 9.9, 10.0, 10.0)
FAILED = Measurement(None, problem="exit: exit code 1")


def baseline(values: Sequence[float]) -> Attempt:
    noise = 0.0 if len(values) > 1 and len(set(values)) == 1 else None
    kept = Verdict(Outcome.KEEP, "Baseline", noise=noise)
    samples = tuple(map(Measurement, values))
    return Attempt(0, "c", "p", "t", Proposal("Baseline"), samples, kept, "2026-01-01T00:00:00.000Z", "y")


def limits(*texts: str) -> list[Constraint]:
    return [Constraint.model_validate(dict(zip(("metric", "sign", "limit"), text.split(), strict=True))) for text in texts]  # fmt: skip  # noqa: E501


def noisy(samples: Sequence[Measurement], *, base: Sequence[float] = NOISY, less: int = 0, **decision: Any) -> Case:
    """A candidate of a sequential campaign with 50; lower is better."""
    head = baseline(base)
    return Case(False, Decision(**decision), (), head, samples, less, History([head]), 50)


def play(own: Sequence[float], heads: Sequence[float] = HEAD, **more: Any) -> tuple[str, Verdict]:
    """Measure what is asked for until there is a verdict; the order of the runs, and the verdict."""
    samples: list[Measurement] = []
    case, own_left, heads_left = noisy(samples, **more), iter(own), iter(heads)
    order = ""
    while isinstance(answer := decide(case), Again):
        order += "C" if answer is Again.CANDIDATE else "H"
        of_head = answer is Again.HEAD
        samples.append(Measurement(next(heads_left if of_head else own_left), of_head=of_head))
    return order, answer


def in_turn(own: Sequence[float], heads: Sequence[float]) -> list[Measurement]:
    """Samples in the order C H H C C H H C ..."""
    samples, mine, theirs = [], list(own), list(heads)
    while mine or theirs:
        of_head = len(samples) % 4 in (1, 2) and bool(theirs)
        samples.append(Measurement((theirs if of_head else mine).pop(0), of_head=of_head))
    return samples


# One look: `first_better`, or no noise


def one_look(
    old: float | None, new: Measurement | float, maximize: bool = False, min_gain: Any = 0, less: int = 0,
    *texts: str, quiet: bool = False,
) -> Case:  # fmt: skip
    measured = new if isinstance(new, Measurement) else Measurement(new)
    if quiet:
        assert old is not None
        head = baseline([old] * 3)
        return Case(maximize, Decision(min_gain=min_gain), limits(*texts), head, [measured], less, History([head]))
    decision = Decision(rule="first_better", min_gain=min_gain)
    return Case(maximize, decision, limits(*texts), None if old is None else baseline([old]), [measured], less)


def verdict_of(case: Case) -> Verdict:
    answer = decide(case)
    assert isinstance(answer, Verdict)
    return answer


@given(VALUES, VALUES, st.booleans(), GAINS, LINES, st.booleans())
def test_one_look_never_keeps_a_worse_value(
    old: float, new: float, maximize: bool, min_gain: Any, less: int, quiet: bool
) -> None:
    verdict = verdict_of(one_look(old, new, maximize, min_gain, less, quiet=quiet))
    better, worse = (new > old, new < old) if maximize else (new < old, new > old)
    assert verdict.gain is not None and math.isfinite(verdict.gain)
    assert (verdict.gain > 0, verdict.gain < 0) == (better, worse)
    if verdict.outcome is Outcome.KEEP:
        assert not worse
        assert better or less > 0
    else:
        assert verdict.outcome is Outcome.DISCARD
        assert worse or less <= 0 or better  # a better one may gain too little
    assert verdict.noise == (0 if quiet else None) and verdict.share is None
    json.dumps([verdict.gain, verdict.noise], allow_nan=False)
    assert verdict.reason.isprintable() and not verdict.reason.endswith(".")
    assert verdict.reason.startswith(f"{verdict.outcome.capitalize()}: ")


@given(VALUES, VALUES, GAINS, LINES)
def test_of_one_look_the_direction_is_only_a_sign(old: float, new: float, min_gain: Any, less: int) -> None:
    down, up = (verdict_of(one_look(sign * old, sign * new, sign < 0, min_gain, less)) for sign in (1, -1))
    assert (down.outcome, down.gain) == (up.outcome, up.gain)


@given(VALUES, VALUES, st.booleans(), LINES)
def test_without_min_gain_one_look_keeps_every_better_value(old: float, new: float, maximize: bool, less: int) -> None:
    better = new > old if maximize else new < old
    kept = verdict_of(one_look(old, new, maximize, 0, less)).outcome is Outcome.KEEP
    assert kept == (better or (new == old and less > 0))


@given(VALUES, VALUES, st.floats(0, 1e6))
def test_of_one_look_min_gain_is_monotonic(old: float, new: float, min_gain: float) -> None:
    if verdict_of(one_look(old, new, False, min_gain)).outcome is Outcome.KEEP:
        assert verdict_of(one_look(old, new, False, min_gain / 2)).outcome is Outcome.KEEP


@pytest.mark.parametrize("quiet", [False, True])
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
def test_one_look_by_example(
    old: float, new: float, maximize: bool, min_gain: Any, outcome: str, reason: str, quiet: bool
) -> None:
    verdict = verdict_of(one_look(old, new, maximize, min_gain, quiet=quiet))
    assert verdict.outcome == outcome
    assert verdict.reason.startswith(reason)


@pytest.mark.parametrize("quiet", [False, True])
def test_an_equal_value_is_kept_when_the_files_got_shorter(quiet: bool) -> None:
    assert verdict_of(one_look(1.0, 1.0, less=3, quiet=quiet)).reason == "Keep: 1 as before with 3 lines less"
    assert verdict_of(one_look(1.0, 1.0, less=1, quiet=quiet)).reason == "Keep: 1 as before with 1 line less"
    assert verdict_of(one_look(1.0, 1.0, less=0, quiet=quiet)).outcome is Outcome.DISCARD
    assert verdict_of(one_look(1.0, 1.0, less=-1, quiet=quiet)).outcome is Outcome.DISCARD
    assert verdict_of(one_look(1.0, 1.0, min_gain=0.1, less=1, quiet=quiet)).outcome is Outcome.KEEP
    assert verdict_of(one_look(0.0, -0.0, less=1, quiet=quiet)).outcome is Outcome.KEEP


def test_without_noise_one_run_decides() -> None:
    assert play([9.999], base=(10.0,) * 3)[0] == play([10.1], base=(10.0,) * 3)[0] == "C"


# What no rule forgives


@pytest.mark.parametrize("rule", ["sequential", "first_better"])
@pytest.mark.parametrize("old", [None, 1.0])
def test_a_crash_is_told_as_such(old: float | None, rule: Any) -> None:
    case = replace(one_look(old, FAILED), decision=Decision(rule=rule))
    verdict = verdict_of(case)
    assert (verdict.outcome, verdict.reason, verdict.gain) == (Outcome.CRASH, "Crash: exit: exit code 1", None)
    assert verdict_of(replace(case, samples=[Measurement(0.5, problem="exit: code 1")])).outcome is Outcome.CRASH
    assert verdict_of(replace(case, samples=[Measurement(None)])).reason == "Crash: no value"


def test_a_crash_in_a_later_run_is_a_crash() -> None:
    samples = [*in_turn([9.0], [10.0, 10.1]), FAILED]
    assert verdict_of(noisy(samples)).reason == "Crash: exit: exit code 1"


def test_a_failed_run_of_the_head_is_made_again() -> None:
    failed = replace(FAILED, of_head=True)
    assert decide(noisy([Measurement(9.0), failed])) is Again.HEAD
    one = Measurement(10.0, of_head=True)
    assert decide(noisy([Measurement(9.0), failed, one])) is Again.HEAD
    assert decide(noisy([Measurement(9.0), one, failed, failed, one])) is Again.CANDIDATE


@pytest.mark.parametrize(
    ("limit", "found", "holds"),
    [("mb <= 5", 5, True), ("mb <= 5", 5.1, False), ("mb < 5", 5, False), ("mb >= 5", 5, True), ("mb > 5", 5, False)],
)
def test_constraints(limit: str, found: float, holds: bool) -> None:
    measured = Measurement(0.5, {"mb": found})
    verdict = verdict_of(one_look(1.0, measured, False, 0, 0, limit))
    assert verdict.outcome is (Outcome.KEEP if holds else Outcome.DISCARD)
    if not holds:
        assert verdict.reason == f"Discard: 1 -> 0.5, and mb is {found:g} where `{limit}` is required"
        assert verdict.gain == 0.5
    shorter = verdict_of(one_look(0.5, measured, False, 0, 4, limit))
    assert (shorter.outcome is Outcome.KEEP) == holds, "shorter files do not excuse a broken limit"


def test_a_limit_holds_in_every_run_of_the_candidate_and_for_it_alone() -> None:
    samples = [Measurement(sample.value, {"mb": 4.0}, of_head=sample.of_head) for sample in in_turn([2, 2], [10, 10])]
    case = replace(noisy(samples), constraints=limits("mb <= 5"))
    samples[1] = replace(samples[1], also={"mb": 9.0})
    assert verdict_of(case).outcome is Outcome.KEEP
    samples[3] = replace(samples[3], also={"mb": 6.0})
    assert verdict_of(case).reason == "Discard: 10 -> 2, and mb is 6 where `mb <= 5` is required"
    samples[0] = replace(samples[0], also={})
    assert verdict_of(case).reason == "Crash: no_metric: the limit `mb <= 5` found no mb"


@pytest.mark.parametrize("old", [None, 1.0])
def test_a_constraint_on_a_metric_that_was_not_printed_is_a_crash(old: float | None) -> None:
    verdict = verdict_of(one_look(old, Measurement(0.5, {"other": 1.0}), False, 0, 0, "mb <= 5"))
    assert verdict.reason == "Crash: no_metric: the limit `mb <= 5` found no mb"


# The baseline


def first(*values: float, history: History | None = None, **decision: Any) -> Verdict | Again:
    return decide(Case(False, Decision(**decision), (), None, list(map(Measurement, values)), 0, history or History()))


@pytest.mark.parametrize(
    ("values", "reason", "noise"),
    [
        ((1.0, 2.0, 3.0), "Baseline: 2, the mean of 3 runs; the noise of one is 1", 1.0),
        ((7.25, 7.25, 7.25), "Baseline: 7.25, the same in 3 runs", 0.0),
        ((1e308, -1e308, 1e308), "Baseline: 3.33333e+307, the mean of 3 runs too far apart to count", None),
    ],
)
def test_a_baseline_is_kept_whatever_it_is(values: Sequence[float], reason: str, noise: float | None) -> None:
    assert first(*values) == Verdict(Outcome.KEEP, reason, noise=noise)


def test_the_baseline_is_measured_as_often_as_it_takes_to_know_the_noise() -> None:
    assert [first(*range(n)) for n in range(3)] == [Again.CANDIDATE] * 3
    assert first(0.0, 1.0, baseline_runs=2) != Again.CANDIDATE
    assert first(0.0, 1.0, 2.0, baseline_runs=4) is Again.CANDIDATE
    assert first(7.25, rule="first_better") == Verdict(Outcome.KEEP, "Baseline: 7.25")
    assert first(7.25, baseline_runs=1) == Verdict(Outcome.KEEP, "Baseline: 7.25")


def test_a_baseline_that_an_earlier_run_found_quiet_is_measured_once() -> None:
    reason = "Baseline: 7.25, without noise, as an earlier run showed"
    assert first(7.25, history=History(quiet_value=7.25)) == Verdict(Outcome.KEEP, reason, noise=0.0)
    assert first(7.26, history=History(quiet_value=7.25)) is Again.CANDIDATE


def test_a_baseline_that_breaks_a_limit_is_none() -> None:
    samples = [Measurement(1.0, {"mb": 9.0})]
    case = Case(False, Decision(), limits("mb <= 5"), None, samples)
    assert verdict_of(case).reason == "Discard: mb is 9 where `mb <= 5` is required"


# The sequential rule, sentence by sentence


@pytest.mark.parametrize(
    ("own", "more", "order", "reason"),
    [
        ([10.3], {}, "C", "Discard: 10 -> 10.3, worse by 0.3 (3.00 %) in one run, noise 0.2"),
        (
            [9.97], {}, "C",
            "Discard: 10 -> 9.97, better by 0.03 (0.30 %) in one run, noise 0.2: too little to look again",
        ),
        ([5.0, 5.0], {}, "CHHC", "Keep: 10 -> 5, better by 5 (50.00 %) in 4 runs, noise 0.15"),
        (
            [9.7, 9.75, 9.8, 9.7, 9.8, 9.75], {}, "CHHCCHHCCHHC",
            "Keep: 10 -> 9.75, better by 0.25 (2.50 %) in 12 runs, noise 0.098",
        ),
        (
            [9.8, 10.4], {}, "CHHC",
            "Discard: 10 -> 10.1, worse by 0.1 (1.00 %) in 4 runs, noise 0.26: not distinguishable from noise",
        ),
        ([9.9], {"heads": [9.2]}, "CH", "Discard: 9.2 -> 9.9, worse by 0.7 (7.61 %) in 2 runs, noise 0.2"),
        (
            [9.6, 9.7, 9.5, 9.8, 9.6, 9.7], {"min_gain": 0.5}, "CHHCCHHCCHHC",
            "Discard: 10 -> 9.65, better by 0.35 (3.50 %) in 12 runs, noise 0.12: less than min_gain 0.5",
        ),
        (
            [9.6, 9.7, 9.5, 9.8, 9.6, 9.7], {"min_gain": "5%"}, "CHHCCHHCCHHC",
            "Discard: 10 -> 9.65, better by 0.35 (3.50 %) in 12 runs, noise 0.12: less than min_gain 0.5",
        ),
        (
            [10.1, 10.0, 10.02, 10.0, 9.97, 10.0], {"min_gain": 0.5, "less": 3}, "CHHCCHHCCHHC",
            "Keep: 10 -> 10.015, worse by 0.015 (0.15 %) in 12 runs, noise 0.098: "
            "not worse by min_gain 0.5, with 3 lines less",
        ),
    ],
)  # fmt: skip
def test_the_sentence_of_a_verdict(own: Sequence[float], more: Any, order: str, reason: str) -> None:
    runs, verdict = play(own, **more)
    assert (runs, verdict.reason) == (order, reason)
    assert verdict.share == 0.1 / 50


def test_a_gain_is_kept_only_with_min_gain() -> None:
    own = [9.6, 9.7, 9.5, 9.8, 9.6, 9.7]
    assert play(own, min_gain=0.3)[1].outcome is play(own, min_gain="3%")[1].outcome is Outcome.KEEP
    assert play(own, min_gain=0.4)[1].outcome is play(own, min_gain="4%")[1].outcome is Outcome.DISCARD


def test_shorter_files_are_kept_only_when_shown_not_to_be_worse() -> None:
    same = [10.1, 10.0, 10.02, 10.0, 9.97, 10.0]
    assert play(same, less=3, min_gain=0.5)[1].outcome is Outcome.KEEP
    assert play(same, less=3, min_gain=0.1)[1].outcome is Outcome.DISCARD, "the noise is as large"
    assert play(same, less=0, min_gain=0.5)[1].outcome is Outcome.DISCARD
    assert play(same, less=3)[0] == "C", "no gain to give up: nothing can show that two noisy numbers are equal"
    assert play([value + 0.45 for value in same], less=3, min_gain=0.5)[1].outcome is Outcome.DISCARD
    assert play([9.0] * 6, less=3)[1].outcome is Outcome.KEEP


def test_no_more_runs_than_max_runs() -> None:
    own = [9.7, 9.75, 9.8, 9.7, 9.8, 9.75]
    for runs, most in ((2, 2), (3, 2), (4, 4), (7, 4), (8, 8), (12, 12)):
        assert len(play(own, max_runs=runs)[0]) <= most


def test_unknown_noise_is_learned_from_the_candidate_and_the_head() -> None:
    assert play([9.0, 9.0], [10.0, 10.0], base=(10.0,))[0] == "CHHC"
    order, verdict = play([9.0, 8.9, 9.2, 9.1, 9.0, 9.0], base=(10.0,))
    assert (len(order) > 4, verdict.outcome) == (True, Outcome.KEEP)


def test_spent_false_keeps_keep_nothing() -> None:
    case = noisy(in_turn([5.0, 5.0], [10.0, 10.1]))
    assert verdict_of(case).outcome is Outcome.KEEP
    case.history.spent = case.decision.false_keeps
    reason = "Discard: 10.05 -> 5, better by 5.05 (50.25 %) in 4 runs, noise 0.15: the promised false keeps are spent"
    assert verdict_of(case).reason == reason


def test_a_head_that_was_not_measured_for_long_is_measured_again() -> None:
    """Its last values may be lucky ones, that no candidate beats at first sight."""
    case = noisy([Measurement(10.3)])
    stopped = replace(baseline([10.3]), number=1, verdict=Verdict(Outcome.DISCARD, "x", -0.3))
    for _ in range(gate.STALE):
        assert verdict_of(case).reason.startswith("Discard: 10 -> 10.3, worse by 0.3 (3.00 %) in one run")
        case.history.add(stopped)
    assert decide(case) is Again.HEAD
    again = replace(case, samples=[*case.samples, Measurement(10.0, of_head=True)])
    assert verdict_of(again).reason.startswith("Discard: 10 -> 10.3, worse by 0.3 (3.00 %) in 2 runs")
    lucky = replace(case, samples=[*case.samples, Measurement(11.5, of_head=True)])
    assert decide(lucky) is Again.HEAD


# Properties of the sequential rule

PAIRS = st.sampled_from([0, 1, 2, 3, 4, 5, 6])


def some_case(seed: int, pairs: int, min_gain: float = 0.0, less: int = 0, maximize: bool = False) -> Case:
    """A case in the middle of a campaign, from normal values around a random gain; no two are equal."""
    rng = Random(seed)
    head = baseline([rng.gauss(100, 1) for _ in range(rng.randint(2, 3))])
    history = History([head])
    for number in range(1, rng.randint(1, 5)):
        own = tuple(Measurement(rng.gauss(100, 1)) for _ in range(2))
        heads = tuple(Measurement(rng.gauss(100, 1), of_head=True) for _ in range(2))
        history.add(replace(head, number=number, measurements=own + heads, verdict=Verdict(Outcome.DISCARD, "x", 0.0)))
    gain = rng.uniform(-1, 6)
    samples = in_turn([rng.gauss(100 - gain, 1) for _ in range(max(1, pairs))], [rng.gauss(100, 1) for _ in range(pairs)])  # fmt: skip  # noqa: E501
    return Case(maximize, Decision(min_gain=min_gain), (), head, samples, less, history, 50)


def moved(case: Case, scale: float = 1.0, own: float = 0.0, heads: float = 0.0) -> Case:
    def move(sample: Measurement) -> Measurement:
        assert sample.value is not None
        return replace(sample, value=scale * sample.value + (heads if sample.of_head else own))

    return replace(case, samples=[move(sample) for sample in case.samples])


def rank(answer: Verdict | Again) -> int:
    """Discard, measure again, keep."""
    return 1 if isinstance(answer, Again) else 2 * (answer.outcome is Outcome.KEEP)


@given(st.lists(VALUES, min_size=1, max_size=5), st.lists(st.tuples(VALUES, VALUES), max_size=6), VALUES, GAINS, LINES)
def test_never_raises_and_never_keeps_what_is_worse(
    base: Sequence[float], pairs: Sequence[tuple[float, float]], own: float, min_gain: Any, less: int
) -> None:
    """Whatever was measured: a keep has the better mean, or one that is not worse by `min_gain` in shorter files."""
    samples = in_turn([one for one, _ in pairs] or [own], [other for _, other in pairs])
    case = noisy(samples, base=base, min_gain=min_gain, less=less)
    answer = decide(case)
    if isinstance(answer, Again):
        return
    assert answer.gain is not None
    json.dumps([answer.gain, answer.noise], allow_nan=False)
    if answer.outcome is Outcome.KEEP:
        head = mean([other for _, other in pairs]) if pairs else base[0]
        assert answer.gain > 0 or (less > 0 and answer.gain >= -case.decision.threshold(head))


@given(SEEDS, st.floats(0.5, 1000), st.integers(1, 3))
def test_an_outlier_against_the_candidate_is_never_clipped_into_a_keep(seed: int, size: float, few: int) -> None:
    """Differences are clipped, so that their clipped sum can be positive while their mean is not: no keep."""
    rng = Random(seed)
    own = [100 - size + rng.gauss(0, 0.01) for _ in range(6)]
    own[few] = 100 + 7 * size
    case = noisy(in_turn(own, [100 + rng.gauss(0, 0.01) for _ in range(6)]))
    head = baseline([100 + rng.gauss(0, 0.01) for _ in range(200)])
    answer = decide(replace(case, incumbent=head, history=History([head])))
    assert rank(answer) == 0


@given(SEEDS, PAIRS, st.floats(0.01, 10), st.sampled_from([0.0, 1.0]), LINES)
def test_more_evidence_never_turns_against_a_candidate(
    seed: int, pairs: int, shift: float, min_gain: float, less: int
) -> None:
    """All values of the candidate better by a constant, or all of the head's in turn worse, never lead from a keep to
    another run or a discard, nor from another run to a discard.

    A single better value may: an outlier raises the noise, and the noise has no direction.
    """
    case = some_case(seed, pairs, min_gain, less)
    before = rank(decide(case))
    assert rank(decide(moved(case, own=-shift))) >= before
    if pairs:
        assert rank(decide(moved(case, heads=shift))) >= before


@given(SEEDS, PAIRS, st.sampled_from([0.0, 1.0]), LINES)
def test_the_direction_is_only_a_sign(seed: int, pairs: int, min_gain: float, less: int) -> None:
    down = some_case(seed, pairs, min_gain, less)
    assert down.incumbent
    head = baseline([-value for value in down.incumbent.values])
    down = replace(down, history=History([down.incumbent]))
    up = replace(moved(down, scale=-1), maximize=True, incumbent=head, history=History([head]))
    first, second = decide(down), decide(up)
    if isinstance(first, Again) or isinstance(second, Again):
        assert first is second
    else:
        assert (first.outcome, first.gain, first.noise) == (second.outcome, second.gain, second.noise)


@given(SEEDS, PAIRS, st.sampled_from([0.0, 1.0]), LINES, st.integers(-40, 40))
def test_the_unit_of_the_metric_does_not_matter(
    seed: int, pairs: int, min_gain: float, less: int, exponent: int
) -> None:
    scale, one = 2.0**exponent, some_case(seed, pairs, min_gain, less)
    assert one.incumbent
    head = baseline([scale * value for value in one.incumbent.values])
    one = replace(one, history=History([one.incumbent]))
    other = replace(
        moved(one, scale), incumbent=head, history=History([head]), decision=Decision(min_gain=scale * min_gain)
    )
    first, second = decide(one), decide(other)
    assert rank(first) == rank(second)
    if isinstance(first, Verdict) and isinstance(second, Verdict):
        assert first.gain is not None and second.gain == scale * first.gain


@given(SEEDS, PAIRS, st.randoms())
def test_the_order_of_pairs_does_not_matter(seed: int, pairs: int, shuffle: Random) -> None:
    """At one and the same look: which pair was measured first."""
    case = some_case(seed, pairs)
    own = [sample for sample in case.samples if not sample.of_head]
    heads = [sample for sample in case.samples if sample.of_head]
    order = list(range(len(own)))
    shuffle.shuffle(order)
    if not heads:
        return
    samples = in_turn([own[i].value or 0.0 for i in order], [heads[i].value or 0.0 for i in order])
    first, second = decide(case), decide(replace(case, samples=samples))
    assert rank(first) == rank(second)
    if isinstance(first, Verdict) and isinstance(second, Verdict):
        assert first.gain == pytest.approx(second.gain)


@given(SEEDS, PAIRS, st.randoms())
def test_the_order_within_an_earlier_attempt_does_not_matter(seed: int, pairs: int, shuffle: Random) -> None:
    """As long as all of its values are among the head's last ones."""
    rng, case = Random(seed), some_case(seed, pairs)
    assert case.incumbent
    own, heads = ([rng.gauss(100, 1) for _ in range(3)] for _ in range(2))

    def answer(own: Sequence[float], heads: Sequence[float]) -> Verdict | Again:
        measured = tuple(map(Measurement, own)) + tuple(Measurement(value, of_head=True) for value in heads)
        earlier = replace(case.incumbent, number=1, measurements=measured, verdict=Verdict(Outcome.DISCARD, "x", 0.0))  # type: ignore[type-var]
        return decide(replace(case, history=History([case.incumbent, earlier])))  # type: ignore[list-item]

    first, second = answer(own, heads), answer(shuffle.sample(own, 3), shuffle.sample(heads, 3))
    assert rank(first) == rank(second)


@given(SEEDS, st.integers(2, 60))
def test_never_more_than_max_runs_and_in_the_order_of_turns(seed: int, max_runs: int) -> None:
    rng = Random(seed)
    own = [rng.gauss(9.8, 0.2) for _ in range(60)]
    order, verdict = play(own, [rng.gauss(10, 0.2) for _ in range(60)], max_runs=max_runs)
    assert len(order) <= max_runs
    assert "CHHCCHHC".startswith(order[:8]) and verdict.outcome in (Outcome.KEEP, Outcome.DISCARD)
