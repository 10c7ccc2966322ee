"""The sequential gate, and small campaigns through it. python -m pytest tests/core/test_gate.py"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from random import Random
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_kit.core import gate
from autoresearch_kit.core.gate import is_heads_turn, level_of, look, looks, t_limit
from autoresearch_kit.core.history import Noise

VALUES = st.floats(allow_nan=False, allow_infinity=False)
SEEDS = st.integers(0, 2**32)
KNOWN = Noise(100.0, 100)
SHARE = 0.002


def test_candidate_and_head_are_measured_in_turn() -> None:
    assert "".join("CH"[is_heads_turn(done)] for done in range(12)) == "CHHCCHHCCHHC"


@pytest.mark.parametrize("max_runs", [4, 8, 12, 24, 100])
def test_whole_rounds_are_balanced_against_a_linear_drift(max_runs: int) -> None:
    """After every look the mean place of the candidate's runs is that of the head's."""
    for pairs in looks(max_runs):
        places: dict[bool, list[int]] = {True: [], False: []}
        for done in range(2 * pairs):
            places[is_heads_turn(done)].append(done)
        assert len(places[True]) == len(places[False]) and sum(places[True]) == sum(places[False])


def test_looks() -> None:
    assert [looks(runs) for runs in (2, 3, 4, 7, 8, 12, 15, 24)] == [
        (1,), (1,), (2,), (2,), (4,), (4, 6), (4, 6), (4, 6, 8, 10, 12),
    ]  # fmt: skip


def test_the_screen_asks_for_a_part_of_the_noise() -> None:
    for gain, passes in ((gate.SCREEN - 0.01, False), (gate.SCREEN + 0.01, True)):
        found = look([gain], [], [0.3, -0.3, 0.0], KNOWN, SHARE, 12)
        assert (found.decided, found.better) == (not passes, False)
    assert not look([0.001], [], [0.0], Noise(), SHARE, 12).decided, "unknown noise: any better value is looked at"
    assert look([0.0], [], [0.0], Noise(), SHARE, 12).decided


def test_between_the_pairs_nothing_is_decided() -> None:
    assert not look([9.0], [0.0, 0.0], [0.0], KNOWN, SHARE, 12).decided
    assert not look([9.0, 9.0, 9.0], [0.0, 0.0], [0.0], KNOWN, SHARE, 12).decided


def test_four_runs_suffice_only_for_sets_far_apart() -> None:
    limit = t_limit(gate.APART * level_of(SHARE, 12), 102)
    for gain, sure in ((limit - 0.5, False), (limit + 0.5, True)):
        found = look([gain, gain], [0.0, 0.0], [0.0], KNOWN, SHARE, 12)
        assert (found.decided, found.better) == (sure, sure)
        assert not look([gain, 3.0], [0.0, 0.0], [0.0], KNOWN, SHARE, 12).better


def test_at_the_last_look_it_is_the_t_test() -> None:
    """Nearly all of the level is left for it."""
    own, heads = [1.0, -1.0] * 3, [1.0, -1.0] * 3
    noise = math.sqrt((100 + 6 + 6) / 110)
    limit = t_limit(level_of(SHARE, 12), 110) * noise * math.sqrt(2 / 6)
    for gain, better in ((0.99 * limit, False), (1.03 * limit, True)):
        found = look([gain + value for value in own], heads, [0.0], KNOWN, SHARE, 12)
        assert (found.decided, found.better) == (True, better)
        assert found.gain == pytest.approx(gain) and found.noise.sd == pytest.approx(noise)
        assert found.error == pytest.approx(noise * math.sqrt(2 / 6))


def test_one_outlier_decides_nothing() -> None:
    """Without `CLIP` it would: five differences are zero, and one is as large as you like."""
    known = Noise(1e4, 10_000)
    for size in (20.0, 1e3, 1e6):
        assert not look([0.0, 0.0, size, 0.0, 0.0, 0.0], [0.0] * 6, [0.0], known, SHARE, 12).better


def test_a_clipped_sum_above_zero_keeps_no_worse_mean() -> None:
    known = Noise(0.1, 1000)
    assert not look([20.0, 20.0, -101.0, 20.0, 20.0, 20.0], [0.0] * 6, [0.0], known, SHARE, 12).better


def test_it_gives_up_on_a_gain_that_falls_behind() -> None:
    assert look([0.3], [0.5], [0.0], KNOWN, SHARE, 12).decided
    assert look([1.0, -0.9], [0.0, 0.0], [0.0], KNOWN, SHARE, 12).decided
    assert not look([1.0, 1.0], [0.0, 0.0], [0.0], KNOWN, SHARE, 12).decided
    assert look([1.0, 1.0], [0.0, 0.0], [5.0], KNOWN, SHARE, 12).decided, "the head's earlier values count too"


def test_earlier_values_of_the_head_never_help_a_candidate_over_the_limit() -> None:
    own, heads = [1.4, 0.6] * 3, [0.0, 0.8] * 3
    assert not look(own, heads, [-1e6], KNOWN, SHARE, 12).better


def test_a_larger_share_asks_for_less() -> None:
    def needed(share: float) -> float:
        return next(
            gain / 100 for gain in range(1000)
            if look([gain / 100] * 6, [0.0] * 6, [0.0], KNOWN, share, 12).better
        )  # fmt: skip

    assert needed(0.0002) > needed(0.002) > needed(0.02) > 0
    assert needed(10.0) >= 0
    assert not look([9.0] * 6, [0.0] * 6, [0.0], KNOWN, 0.0, 12).better


def test_the_t_limit() -> None:
    """Student's table: 2 degrees of freedom, 5 %; 10, 1 %."""
    assert t_limit(0.05, 2) == pytest.approx(2.920, abs=0.001)
    assert t_limit(0.01, 10) == pytest.approx(2.764, abs=0.001)


@given(
    st.lists(VALUES, min_size=1, max_size=6), st.lists(VALUES, max_size=6), st.lists(VALUES, min_size=1, max_size=3),
    st.floats(0, allow_infinity=False), st.integers(0, 50), st.floats(0, 10), st.integers(2, 1000),
)  # fmt: skip
def test_never_raises(
    own: Sequence[float], heads: Sequence[float], recent: Sequence[float], squares: float, freedom: int,
    share: float, max_runs: int,
) -> None:  # fmt: skip
    found = look(own, heads, recent, Noise(squares if freedom else 0.0, freedom), share, max_runs)
    assert found.decided or not found.better
    assert not found.better or found.gain > 0


@given(SEEDS, st.integers(1, 6), st.sampled_from([-1e4, -7.0, 0.3, 1e4]), st.sampled_from([1e-9, 0.7, 1e9]))
def test_where_the_zero_is_and_how_large_the_unit_is_do_not_matter(
    seed: int, pairs: int, shift: float, scale: float
) -> None:
    """The noise being known; from the history it depends on the level, because noise grows with the value."""
    rng = Random(seed)
    gain = rng.uniform(0, 4)
    own, heads, recent = ([rng.gauss(mean, 1) for _ in range(n)] for mean, n in ((gain, pairs), (0, pairs), (0, 3)))
    one = look(own, heads, recent, KNOWN, SHARE, 12)
    moved = ([scale * (value + shift) for value in values] for values in (own, heads, recent))
    other = look(*moved, Noise(scale * scale * KNOWN.squares, KNOWN.freedom), SHARE, 12)
    assert (one.decided, one.better) == (other.decided, other.better)
    assert other.gain == pytest.approx(scale * one.gain, abs=1e-9 * scale)


# Small campaigns; benchmarks/gate.py runs large ones


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        return import_module("simulation")
    finally:
        del sys.path[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "noise", ["normal", "bimodal, 50 % better", "lognormal 1, tail worse", "drift 0.05 a run, to better"]
)
def test_false_keeps_are_as_few_as_promised(simulation: ModuleType, noise: str) -> None:
    """100 campaigns: 10 are promised, with a standard error of 3; one look keeps more than 300."""
    setting = simulation.Setting(noise=noise)
    trials = [trial for seed in range(100) for trial in simulation.campaign(setting, seed)]
    assert sum(trial.kept for trial in trials) <= 10 + 2 * 3
    assert sum(trial.runs for trial in trials) / len(trials) < 3
    assert max(trial.runs for trial in trials) <= 12


@pytest.mark.slow
@pytest.mark.parametrize(("gain", "power"), [(2.0, 0.6), (3.0, 0.93), (10.0, 1.0)])
def test_real_gains_are_found(simulation: ModuleType, gain: float, power: float) -> None:
    setting = simulation.Setting(gain=gain)
    trials = [trial for seed in range(60) for trial in simulation.campaign(setting, seed) if trial.gain]
    assert len(trials) == 600
    assert sum(trial.kept for trial in trials) >= power * len(trials)


@pytest.mark.parametrize("value", [1000.0, 0.831301, -3.1e-7])
def test_a_metric_without_noise_takes_one_run(simulation: ModuleType, value: float) -> None:
    trials = simulation.campaign(simulation.Setting(noise="none", gain=1e-9, baseline=value), 0)
    assert {trial.runs for trial in trials} == {1}
    assert all(trial.kept == (trial.gain > 0) for trial in trials)
