"""What earlier attempts tell the next decision. python -m pytest tests/core/test_history.py"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from statistics import variance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_kit.core.history import GROUPS, HORIZON, RECENT, Group, History, Noise
from autoresearch_kit.core.records import Attempt, Measurement, Outcome, Proposal, Verdict

VALUES = st.floats(allow_nan=False, allow_infinity=False)


def attempt(
    outcome: Outcome, own: Sequence[float], heads: Sequence[float] = (), *, gain: float | None = 0.0,
    share: float | None = None, noise: float | None = None, number: int = 1,
) -> Attempt:  # fmt: skip
    samples = [*map(Measurement, own), *(Measurement(value, of_head=True) for value in heads)]
    verdict = Verdict(outcome, "reason", gain, noise, share)
    return Attempt(number, "c", "p", "t", Proposal("x"), tuple(samples), verdict, "2026-01-01T00:00:00.000Z", "y")


def baseline(*values: float, noise: float | None = None, number: int = 0) -> Attempt:
    return attempt(Outcome.KEEP, values, gain=None, noise=noise, number=number)


def discard(own: Sequence[float] = (5.0,), heads: Sequence[float] = (), share: float | None = None) -> Attempt:
    return attempt(Outcome.DISCARD, own, heads, share=share)


# Noise


def test_the_noise_is_pooled_within_attempts_not_between_them() -> None:
    history = History([baseline(1, 2, 3), discard([10, 12], [2, 4]), discard([99])])
    noise = history.noise(2.0)
    assert (noise.squares, noise.freedom) == (2 + 2 + 2, 2 + 1 + 1)
    assert noise.sd == math.sqrt(6 / 4)


def test_no_noise_and_unknown_noise_are_told_apart() -> None:
    assert History().noise(1.0).freedom == 0 and math.isnan(History().noise(1.0).sd)
    assert not History([baseline(1.0)]).noise(1.0).none
    assert History([baseline(0.831301, 0.831301, 0.831301)]).noise(0.831301).none
    assert not History([baseline(1.0, 1.0, 1.0), discard([5.0, 5.1])]).noise(1.0).none


def test_a_quiet_baseline_of_one_run_has_no_noise() -> None:
    assert History([baseline(1.0, noise=0.0)]).noise(1.0).none
    assert not History([baseline(1.0)]).noise(1.0).none


def test_noise_grows_with_the_value_and_never_shrinks() -> None:
    history = History([baseline(99.0, 100.0, 101.0)])
    assert history.noise(100.0).sd == history.noise(10.0).sd == history.noise(-50.0).sd == 1.0
    assert history.noise(1000.0).sd == pytest.approx(10.0)
    assert history.noise(-1000.0).sd == pytest.approx(10.0)


def test_noise_around_zero_stays_as_it_is() -> None:
    history = History([baseline(-1.0, 0.0, 1.3)])
    assert history.noise(1000.0).sd == history.noise(0.1).sd


def test_less_noise_is_believed_when_it_is_proved() -> None:
    rng = Random(0)
    kept = attempt(Outcome.KEEP, [50 + rng.gauss(0, 0.6) for _ in range(6)])
    history = History([baseline(98.0, 100.0, 101.0), kept])
    assert history.noise(50.0).sd > 0.9, "six values are no proof"
    assert history.noise(50.0).hint < 0.8, "but reason enough to look again"
    for _ in range(5):
        history.add(discard(heads=[50 + rng.gauss(0, 0.6) for _ in range(6)]))
    assert history.noise(50.0).sd < 0.9


def test_old_noise_is_forgotten() -> None:
    history = History([baseline(0.0, 1e9)])
    for _ in range(GROUPS):
        history.add(discard([1.0, 3.0]))
    assert history.noise(1.0).sd == pytest.approx(math.sqrt(2))


def test_another_baseline_begins_anew_but_for_what_is_spent() -> None:
    history = History([baseline(1.0, 2.0, 3.0), discard([1, 5], [2, 9], share=0.02)])
    history.add(baseline(7.0, 7.5, number=2))
    assert list(history.recent) == [7.0, 7.5]
    assert history.noise(7.0) == Noise(0.125, 1, 0.125, 1)
    assert (history.tried, history.spent) == (1, 0.02)


@given(st.lists(st.lists(VALUES, max_size=4), max_size=5), VALUES)
def test_no_value_is_too_large_or_too_small(groups: list[list[float]], level: float) -> None:
    history = History([baseline(1.0, 2.0)])
    for values in groups:
        history.add(discard(values, values[::-1]))
    noise = history.noise(level)
    assert noise.sd >= 0 or noise.freedom == 0


@given(st.integers(0, 2**32), st.integers(2, 8))
def test_a_group_is_mean_and_variance(seed: int, count: int) -> None:
    values = [Random(seed).gauss(5, 2) for _ in range(count)]
    values = [value + number for number, value in enumerate(values)]
    group = Group.of(values)
    assert group.squares == pytest.approx(variance(values) * group.freedom)
    assert group.mean == pytest.approx(sum(values) / count)


@given(VALUES, st.integers(1, 1000))
def test_a_group_of_equal_values_has_exactly_their_mean_and_no_variance(value: float, count: int) -> None:
    assert Group.of([value] * count) == Group(value, 0.0, count - 1)


# The head's last values


def test_the_last_values_are_the_heads() -> None:
    history = History([baseline(1.0, 2.0)])
    assert list(history.recent) == [1.0, 2.0]
    history.add(discard([9.0, 9.5], [3.0, 4.0]))
    assert list(history.recent) == [1.0, 2.0, 3.0, 4.0][-RECENT:]
    history.add(attempt(Outcome.KEEP, [7.0, 8.0], [5.0, 6.0]))
    assert list(history.recent) == [7.0, 8.0]
    history.add(attempt(Outcome.CRASH, [0.1], [7.5]))
    assert history.recent[-1] == 7.5


def test_a_running_attempt_tells_nothing() -> None:
    history = History([baseline(1.0, 2.0)])
    running = attempt(Outcome.DISCARD, [9.0, 1.0], [1.5, 1.6])
    history.add(Attempt(**{name: getattr(running, name) for name in running.__slots__} | {"verdict": None}))
    assert (list(history.recent), history.tried, history.noise(1.0).freedom) == ([1.0, 2.0], 0, 1)


def test_a_lost_attempt_is_no_candidate_but_its_runs_were_made() -> None:
    history = History([baseline(1.0, 2.0), attempt(Outcome.LOST, [9.0, 9.1], [1.5, 1.6], gain=None)])
    assert (history.tried, history.spent) == (0, 0.0)
    assert history.noise(1.0).freedom == 3 and history.recent[-1] == 1.6


# The promise


def shares(false_keeps: float, planned: int | None, count: int) -> list[float]:
    history, found = History([baseline(1.0, 2.0)]), []
    for _ in range(count):
        found.append(history.share(false_keeps, planned))
        history.add(discard(share=found[-1]))
    return found


def test_a_known_number_of_candidates_shares_evenly() -> None:
    found = shares(0.1, 50, 50)
    assert found == pytest.approx([0.002] * 50)
    assert sum(found) == pytest.approx(0.1)


def test_an_unknown_number_spends_half_in_the_first_hundred() -> None:
    found = shares(0.1, None, 3000)
    assert found == sorted(found, reverse=True) and found[-1] > 0
    assert sum(found[:HORIZON]) == pytest.approx(0.05)
    assert found[7] == pytest.approx(0.1 * HORIZON / ((HORIZON + 8) * (HORIZON + 7)))


@given(
    st.floats(1e-6, 10), st.none() | st.integers(1, 300), st.lists(st.sampled_from(["shared", "free", "lost", "base"])),
    st.integers(0, 500),
)  # fmt: skip
def test_the_shares_never_add_up_to_more_than_was_promised(
    promised: float, planned: int | None, events: list[str], more: int
) -> None:
    """Whatever comes between, and however far beyond the plan."""
    history, given_out = History([baseline(1.0, 2.0)]), 0.0
    for event in [*events, *["shared"] * more]:
        share = history.share(promised, planned)
        assert share >= 0
        if event == "shared":
            given_out += share
            history.add(discard(share=share))
        elif event == "free":
            history.add(attempt(Outcome.CRASH, []))
        elif event == "lost":
            history.add(attempt(Outcome.LOST, [1.0], gain=None))
        else:
            history.add(baseline(1.0, 2.0, number=5))
    assert given_out <= promised * (1 + 1e-9)


def test_what_a_crash_did_not_need_is_left_to_the_others() -> None:
    history = History([baseline(1.0, 2.0), attempt(Outcome.CRASH, []), attempt(Outcome.CRASH, [])])
    assert history.share(0.1, 4) == 0.05


def test_a_plan_that_was_raised_or_outrun_still_holds() -> None:
    history = History([baseline(1.0, 2.0), *(discard(share=0.01) for _ in range(5))])
    assert history.share(0.1, 10) == pytest.approx(0.01)
    assert history.share(0.1, 25) == pytest.approx(0.05 / 20)
    assert 0 < history.share(0.1, 3) < 0.05 / HORIZON
    history.spent = 0.1
    assert history.share(0.1, None) == history.share(0.1, 10) == history.share(0.05, 10) == 0.0
