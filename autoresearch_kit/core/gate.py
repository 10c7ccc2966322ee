"""The sequential gate: is a candidate better than the head, when every measurement is noisy?

One run screens. A candidate that does not look better than the head's last values is discarded at the cost of that run.
Otherwise candidate and head are measured in turn, in the order C H H C C H H C ..., so that after every fourth run a
linear drift of the machine has cancelled, and the differences of the pairs are tested:

- The statistic is the mean of the paired differences over the pooled noise. Under no effect a difference is distributed
  symmetrically whatever the noise of one run looks like. Each difference counts for at most `CLIP` of its standard
  deviations, so that no single outlier can decide.
- Its limit is Student's t at a level that follows from `false_keeps`. Repeated looks share the level by power spending
  (Kim and DeMets, Biometrika 74, 1987), added up without regard to their correlation, which costs next to nothing
  because the last look has nearly all of it.
- After four runs only overwhelming evidence keeps: all runs of the candidate lie apart from all runs of the head.
- It gives up as soon as the gain, estimated with the head's earlier values too, falls short of the line that leads
  from nothing to `REACH` of what the last look will ask for. Stopping for futility can only lower the count of false
  keeps; drift may bias it, and then costs runs or power, not trust.

What was tried, and how it was tuned, is in design/0002-the-gate.md; benchmarks/gate.py measures it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from autoresearch_kit.core.history import Group, Noise
from autoresearch_kit.core.records import mean

SCREEN = 0.25
"""Noise standard deviations by which a candidate's first run must look better than the head."""
STALE = 6
"""After so many candidates that the screen stopped, the next one has the head measured again: its last values may have
been lucky, and would stop good candidates for ever."""
REACH = 0.8
"""Slope of the futility line."""
EARLIER = 2.0
"""The head's earlier values weigh as much as so many fresh ones; for futility only."""
CLIP = 4.0
"""A difference counts for at most so many of its standard deviations."""
SPENDING = 8.0
"""Exponent of the power spending function; higher saves more of the level for the last look."""
APART = 0.01
"""After four runs the two sets must lie apart by the t limit of so small a part of the level. Where little is known of
the noise, as in the first attempts, that is far."""
SELECTION = 0.36
"""The level of the test is the candidate's share times the number of pairs to this power, 1.9 for twelve runs: screen
and futility take away that many of the candidates without effect that would cross the limit in the end, the more of
them the longer it takes."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the gate says of the samples so far."""

    decided: bool
    """Whether no further run is needed."""
    better: bool
    """Whether the evidence suffices; only when decided."""
    gain: float
    """Estimated gain, positive is better."""
    noise: Noise
    """Noise of one run, pooled with these samples."""
    error: float
    """Standard error of the gain; 0 without any variance, NaN when unknown."""


def is_heads_turn(done: int) -> bool:
    """Whether the head is to be measured after `done` good samples: C H H C, again and again."""
    return done % 4 in (1, 2)


def looks(max_runs: int) -> tuple[int, ...]:
    """After how many pairs the evidence is tested; whole rounds of C H H C only, or a single pair."""
    most = max_runs // 4 * 2 or 1
    return (*range(4, most, 2), most)


def level_of(share: float, max_runs: int) -> float:
    """The level of the test for a candidate that may spend so many false keeps."""
    return min(0.5, share * math.pow(looks(max_runs)[-1], SELECTION))


def look(
    own: Sequence[float],
    heads: Sequence[float],
    recent: Sequence[float],
    known: Noise,
    share: float,
    max_runs: int,
    least: float = 0.0,
) -> Look:
    """Judge the values of a candidate and of the head, in the order of measurement; higher is better.

    `recent` are the head's values from before, at least one, `known` is the noise without these samples, `share` says
    how many false keeps may be spent on this candidate, `least` which gain it must show in the end. Never raises for
    finite values.
    """
    if not heads:
        gain = own[0] - mean(recent)
        margin = SCREEN * known.hint if known.freedom else 0.0
        return Look(not gain > margin, False, gain, known, known.sd)
    noise = known.with_groups((Group.of(own), Group.of(heads)))
    gain = mean(own) - mean(heads)
    pairs, most = len(heads), looks(max_runs)[-1]
    if pairs == most:
        noise = noise.proved
    if len(own) != pairs:
        return Look(False, False, gain, noise, math.nan)
    if noise.none:
        return Look(True, gain > 0, gain, noise, 0.0)
    if not math.isfinite(noise.sd):
        return Look(pairs >= most, False, gain, noise, math.nan)
    error = noise.sd * math.sqrt(2 / pairs)
    level = level_of(share, max_runs)
    if level < 1e-300:
        return Look(True, False, gain, noise, error)
    if gain > 0 and (_is_overwhelming(own, heads, noise, level) or _crosses(own, heads, noise, level, max_runs)):
        return Look(True, True, gain, noise, error)
    reference = (sum(heads) + EARLIER * mean(recent)) / (pairs + EARLIER)
    asked = REACH * max(least, -NormalDist().inv_cdf(level) * noise.hint * math.sqrt(2 / most))
    futile = mean(own) - reference < asked * pairs / most
    return Look(futile or pairs >= most, False, gain, noise, error)


def _is_overwhelming(own: Sequence[float], heads: Sequence[float], noise: Noise, level: float) -> bool:
    return len(own) == 2 and min(own) - max(heads) >= t_limit(APART * level, noise.freedom) * noise.sd


def _crosses(own: Sequence[float], heads: Sequence[float], noise: Noise, level: float, max_runs: int) -> bool:
    """Whether the evidence after so many pairs is beyond its limit."""
    pairs, planned = len(own), looks(max_runs)
    if pairs not in planned:
        return False
    before = max((p for p in planned if p < pairs), default=0)
    spending = level * ((pairs / planned[-1]) ** SPENDING - (before / planned[-1]) ** SPENDING)
    unit = math.sqrt(2) * noise.sd
    limit = CLIP * unit
    clipped = sum(max(-limit, min(limit, one - other)) for one, other in zip(own, heads, strict=True))
    return clipped >= t_limit(spending, noise.freedom) * unit * math.sqrt(pairs)


@functools.lru_cache(maxsize=4096)
def t_limit(level: float, freedom: float) -> float:
    """What Student's t with so many degrees of freedom exceeds with probability `level`."""
    from scipy.special import stdtrit  # a third of a second, and for noisy metrics only

    return float(-stdtrit(freedom, level))
