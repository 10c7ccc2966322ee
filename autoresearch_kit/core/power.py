"""The power of the gate: which gain it finds four times in five, and how many runs a smaller gain needs.

The chance that a candidate with a real gain is kept is put together from the gate's own limits: it passes the screen,
and then it either crosses Student's limit at the last look or lies wholly apart after four runs. The estimated noise,
of which the limits are multiples, is itself uncertain: its distribution (chi-square, by Wilson and Hilferty, PNAS 17,
1931) is summed over a few quantiles. The mean and variance of the clipped differences are those of a censored normal
variable. Earlier looks and the line of futility are left to two constants.

benchmarks/power.py holds the result against simulated candidates. With normal noise it is right within 15 %, but for
one case: late in a campaign, where nothing has beaten the head for long, its last values are lucky ones that the screen
never renews, and with more than 24 runs for a candidate the gain must be up to half as large again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from autoresearch_kit.core.gate import APART, CLIP, SCREEN, SPENDING, level_of, looks, t_limit
from autoresearch_kit.core.history import HORIZON, RECENT, History, Noise

CHANCE = 0.8
"""A gain is detectable when it is found so often."""
MOST_RUNS = 1000
"""What `max_runs` may be at most."""
EARLY = 1.25
"""Power of the screen's chance, for the futility stops after it; matters where runs are many and the gain is small."""
WEAR = 1.05
"""A head that nothing has beaten for long has lucky values: the gain must be so many times what it was at first."""
_NORMAL = NormalDist()
_QUANTILES = [_NORMAL.inv_cdf((k + 0.5) / 16) for k in range(16)]


def detectable_gain(noise: Noise, share: float, max_runs: int) -> float:
    """The smallest real gain that is kept in four of five cases, in units of the metric.

    `share` says how many false keeps may be spent on the candidate. 0 without noise; infinite when no gain is ever sure
    enough, so that few runs and a small share never keep anything.
    """
    if noise.none:
        return 0.0
    low, high = 0.0, 1000.0
    if chance(high, noise.freedom, share, max_runs) < CHANCE:
        return math.inf
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle, noise.freedom, share, max_runs) < CHANCE else (low, middle)
    return WEAR * high * noise.sd


def runs_for(gain: float, noise: Noise, share: float) -> int | None:
    """The smallest `max_runs`, in whole rounds of four, that finds `gain`; None when no number of runs does.

    The screen is one run: a gain that it does not show is not looked at again.
    """
    rounds = range(1, MOST_RUNS // 4 + 1)
    if detectable_gain(noise, share, 4 * rounds[-1]) > gain:
        return None
    low, high = 0, rounds[-1]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if detectable_gain(noise, share, 4 * middle) > gain else (low, middle)
    return 4 * high


def runs_without_effect(max_runs: int) -> float:
    """About how many runs a candidate without effect costs on average, the head's included; fitted to simulations."""
    return 1 + math.sqrt(max_runs) / 3


def last_share(history: History, false_keeps: float, planned: int | None, coming: int) -> float:
    """The share of the last of `coming` further candidates: the smallest, where their number was not announced.

    No more than `HORIZON` candidates are reckoned with: the time of the agents is not known.
    """
    if planned is not None or history.share(false_keeps, None) == 0:
        return history.share(false_keeps, planned)
    last = HORIZON + history.tried + min(max(coming, 1), HORIZON)
    return false_keeps * HORIZON / (last * (last - 1))


def lucky_keeps(candidates: int) -> float:
    """How many of so many candidates without any effect `first_better` keeps: those that set a record.

    The k-th of n values from one distribution is the best so far with probability 1/k, whatever the distribution
    (Renyi, 1962). Ties and `min_gain` make it less.
    """
    return sum(1 / k for k in range(2, candidates + 2))


def lucky_gain(candidates: int) -> float:
    """By how many noise standard deviations the best of them and the baseline lies above the mean (Blom, 1958)."""
    n = candidates + 1
    return _NORMAL.inv_cdf((n - 0.375) / (n + 0.25))


def chance(gain: float, freedom: int, share: float, max_runs: int) -> float:
    """How often a candidate that is better by `gain` standard deviations of one run is kept, near enough.

    `freedom` are the degrees of freedom of the noise before the candidate's own runs.
    """
    level = level_of(share, max_runs)
    if level == 0:
        return 0.0
    screen = math.pow(_NORMAL.cdf((gain - SCREEN) / math.sqrt(1 + 1 / RECENT)), EARLY)
    return screen * max(_crossing(gain, freedom, level, max_runs), _lying_apart(gain, freedom, level, max_runs))


def _crossing(gain: float, freedom: int, level: float, max_runs: int) -> float:
    """How often the evidence crosses its limit at the last look."""
    *before, most = looks(max_runs)
    left = level * (1 - (max(before, default=0) / most) ** SPENDING)
    freedom += 2 * (most - 1)
    limit = t_limit(left, freedom)
    if limit >= CLIP * math.sqrt(most):
        return 0.0

    def crosses(estimated: float) -> float:
        mean, sd = _clipped(gain / math.sqrt(2), CLIP * estimated)
        return _NORMAL.cdf((mean * math.sqrt(most) - limit * estimated) / sd)

    return _over_estimates(freedom, crosses)


def _lying_apart(gain: float, freedom: int, level: float, max_runs: int) -> float:
    """How often the lesser of two candidate's values is far above the greater of two of the head's."""
    if looks(max_runs)[-1] < 2:
        return 0.0
    freedom += 2
    limit = t_limit(APART * level, freedom)
    mean, sd = gain - 2 / math.sqrt(math.pi), math.sqrt(2 - 2 / math.pi)
    return _over_estimates(freedom, lambda estimated: _NORMAL.cdf((mean - limit * estimated) / sd))


def _over_estimates(freedom: int, chance_at: Callable[[float], float]) -> float:
    """The mean over what an estimated standard deviation may be, in units of the true one."""
    if not freedom:
        return 0.0
    part = 2 / (9 * freedom)
    estimates = [max(0.05, 1 - part + z * math.sqrt(part)) ** 1.5 for z in _QUANTILES]
    return sum(map(chance_at, estimates)) / len(estimates)


def _clipped(mean: float, clip: float) -> tuple[float, float]:
    """Mean and standard deviation of a normal variable with variance 1 that is cut to ±`clip`."""
    low, high = -clip - mean, clip - mean
    below, above = _NORMAL.cdf(low), _NORMAL.cdf(-high)
    inner, edge = 1 - below - above, _NORMAL.pdf(low) - _NORMAL.pdf(high)
    found = inner * mean + edge + clip * (above - below)
    square = inner * (mean * mean + 1) + 2 * mean * edge + clip * clip * (above + below)
    square += low * _NORMAL.pdf(low) - high * _NORMAL.pdf(high)
    return found, math.sqrt(max(1e-12, square - found * found))
