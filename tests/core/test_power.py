"""That the preview of the gate's power is what the gate does. pytest tests/core/test_power.py (-m slow: all of them)"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from autoresearch_kit.core.history import HORIZON, History, Noise
from autoresearch_kit.core.power import (
    chance,
    detectable_gain,
    last_share,
    lucky_gain,
    lucky_keeps,
    runs_for,
    runs_without_effect,
)
from autoresearch_kit.core.records import Attempt, Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.core.spec import Decision

NOISE = Noise(4 * 0.25, 4)
SHARE = 0.001


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "power.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_power", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def agree(simulation: ModuleType, decision: Decision, planned: int | None, candidates: int, sd: float) -> None:
    said, found = simulation.compare(decision, planned, candidates, sd)
    assert said == pytest.approx(found, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("max_runs", "sd"), [(4, 1.0), (12, 0.01), (24, 50.0)])
def test_what_is_called_detectable_is_found_four_times_in_five(
    simulation: ModuleType, max_runs: int, sd: float
) -> None:
    agree(simulation, Decision(max_runs=max_runs, false_keeps=1.0), None, 200, sd)


@pytest.mark.slow
@pytest.mark.parametrize("max_runs", [4, 8, 12, 24, 48])
@pytest.mark.parametrize("planned", [None, 20, 1000])
@pytest.mark.parametrize("baseline_runs", [3, 10])
def test_in_all_kinds_of_campaigns(
    simulation: ModuleType, max_runs: int, planned: int | None, baseline_runs: int
) -> None:
    agree(simulation, Decision(max_runs=max_runs, baseline_runs=baseline_runs), planned, 500, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("max_runs", [8, 12, 24])
def test_late_in_a_campaign(simulation: ModuleType, max_runs: int) -> None:
    said, found, runs = simulation.compare_late(Decision(max_runs=max_runs), 600)
    assert said == pytest.approx(found, rel=0.15)
    assert runs_without_effect(max_runs) == pytest.approx(runs, rel=0.2)


def test_more_runs_more_noise_and_a_smaller_share() -> None:
    gains = [detectable_gain(NOISE, SHARE, runs) for runs in (4, 8, 12, 24, 48)]
    assert gains == sorted(gains, reverse=True)
    assert detectable_gain(Noise(4 * 1.0, 4), SHARE, 12) == pytest.approx(
        2 * detectable_gain(NOISE, SHARE, 12), rel=0.01
    )
    assert detectable_gain(NOISE, SHARE / 100, 12) > detectable_gain(NOISE, SHARE, 12)
    assert chance(0.0, 4, SHARE, 12) < SHARE


def test_the_runs_that_a_gain_needs_find_it_and_fewer_do_not() -> None:
    for gain in (3.0, 1.5, 1.0):
        runs = runs_for(gain, NOISE, SHARE)
        assert runs is not None and runs % 4 == 0
        assert detectable_gain(NOISE, SHARE, runs) <= gain < detectable_gain(NOISE, SHARE, runs - 4 or 2)


def test_what_the_first_run_does_not_show_no_number_of_runs_finds() -> None:
    assert runs_for(0.5 * NOISE.sd, NOISE, SHARE) is None


def test_without_noise_any_gain_is_seen_and_without_a_share_none() -> None:
    assert detectable_gain(Noise(0.0, 2), SHARE, 12) == 0
    assert detectable_gain(NOISE, 0.0, 12) == math.inf
    assert detectable_gain(Noise(4.0, 4), SHARE, 2) == math.inf, "one pair of runs is never sure enough"


def discard(number: int, share: float) -> Attempt:
    verdict = Verdict(Outcome.DISCARD, "Discard: x", share=share)
    return Attempt(number, "", "", "", Proposal("x"), (Measurement(1.0),), verdict, "", "")


@pytest.mark.parametrize("planned", [None, 60])
def test_the_last_share_is_what_the_history_gives_at_that_place(planned: int | None) -> None:
    history = History()
    said = last_share(history, 0.1, planned, 50)
    for number in range(1, 50):
        history.add(discard(number, history.share(0.1, planned)))
    assert history.share(0.1, planned) == pytest.approx(said)
    again = last_share(history, 0.1, planned, 1)
    assert again == pytest.approx(said)


def test_no_more_than_a_hundred_further_candidates_are_reckoned_with() -> None:
    assert last_share(History(), 0.1, None, 10**6) == last_share(History(), 0.1, None, HORIZON)


def test_luck_is_what_records_among_equals_are() -> None:
    random = Random(1)
    keeps, heads = 0, []
    for _ in range(2000):
        head = random.gauss(0, 1)
        for _ in range(30):
            value = random.gauss(0, 1)
            keeps += value > head
            head = max(value, head)
        heads.append(head)
    assert lucky_keeps(30) == pytest.approx(keeps / 2000, rel=0.05)
    assert lucky_gain(30) == pytest.approx(sum(heads) / 2000, rel=0.05)
