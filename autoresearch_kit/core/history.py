"""What the attempts so far tell the next decision: how noisy one measurement is, what the head's last values were, and
how much of the promised false keeps is left.

The noise is pooled over the campaign: whatever was measured more than once within one attempt tells how far two
measurements of the same files lie apart. Only neighbours in time are compared, so that a slow drift of the machine
hardly counts as noise. Noise that grows with the value is scaled up; noise that has become smaller is believed when it
is proved.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoresearch_kit.core.records import Attempt, Outcome, mean

GROUPS = 200
"""So many repeated measurements are remembered: a project changes while it gets better."""
RECENT = 3
"""So many of the head's last values a new candidate is held against."""
HORIZON = 100
"""Candidates among which a campaign of unknown length spends half of its false keeps."""
FORGET = 0.01
"""When what was measured since the head was kept is less noisy, at this level, the noise from before is forgotten."""
SETTLED = 10
"""Degrees of freedom that it takes for that: a machine may have a second mode that a few runs do not show."""
STEADY = 4.0
"""A mean of so many standard deviations from zero lets noise grow in proportion to it."""


@dataclass(frozen=True, slots=True)
class Group:
    """Values of the same files, measured within one attempt."""

    mean: float
    """Their mean."""
    squares: float
    """Sum of their squared distances from the mean."""
    freedom: int
    """Degrees of freedom: one less than their count."""

    @staticmethod
    def of(values: Sequence[float]) -> Group:
        """The group of these values, at least one."""
        middle = mean(values)
        squares = sum((value - middle) * (value - middle) for value in values)
        if squares == 0 and len(set(values)) > 1:  # too small to be squared, and still not the same
            squares = sys.float_info.min
        return Group(middle, squares, len(values) - 1)

    def scaled_to(self, level: float) -> float:
        """`squares` as they would be around `level`: noise is taken to grow with a value that is far from zero.

        Never less than they were. A kernel that got ten times as fast has ten times the noise in its speed.
        """
        if not self.squares:
            return 0.0
        steady = self.mean * self.mean * self.freedom > STEADY * STEADY * self.squares
        if not steady or abs(level) <= abs(self.mean):
            return self.squares
        return self.squares * (level / self.mean) * (level / self.mean)


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise of one measurement, from repeated ones."""

    squares: float = 0.0
    """Pooled sum of squares."""
    freedom: int = 0
    """Pooled degrees of freedom; 0 is unknown."""
    near_squares: float = 0.0
    """The part of the sum since the head was kept."""
    near_freedom: int = 0
    """The part of the degrees of freedom since then."""

    @property
    def sd(self) -> float:
        """Standard deviation of one measurement; NaN when unknown."""
        return math.sqrt(self.squares / self.freedom) if self.freedom else math.nan

    @property
    def hint(self) -> float:
        """The smaller of `sd` and what was seen since the head was kept, in perhaps two values: for what costs runs and
        no trust."""
        return min(self.sd, math.sqrt(self.near_squares / self.near_freedom)) if self.near_squares else self.sd

    @property
    def none(self) -> bool:
        """Whether repeated measurements never differed."""
        return self.freedom > 0 and self.squares == 0

    @property
    def proved(self) -> Noise:
        """The noise since the head was kept alone, when it is smaller than before beyond chance, by the F test."""
        near = Noise(self.near_squares, self.near_freedom, self.near_squares, self.near_freedom)
        squares, freedom = self.squares - self.near_squares, self.freedom - self.near_freedom
        if near.freedom < SETTLED or not near.squares or freedom <= 0 or not 0 < squares < math.inf:
            return self  # no difference at all between a few values may be the coarseness of the metric
        from scipy.special import fdtr  # a third of a second, and for noisy metrics only

        ratio = (near.squares / near.freedom) / (squares / freedom)
        return near if fdtr(near.freedom, freedom, ratio) < FORGET else self

    def with_groups(self, groups: Iterable[Group], level: float = 0.0, near: bool = True) -> Noise:
        """This noise and that of further groups, `near` or from before the head was kept.

        Scaled up to `level`; as they were measured without one.
        """
        squares, freedom = 0.0, 0
        for group in groups:
            squares, freedom = squares + group.scaled_to(level), freedom + group.freedom
        return Noise(
            self.squares + squares,
            self.freedom + freedom,
            self.near_squares + squares * near,
            self.near_freedom + freedom * near,
        )


class History:
    """The attempts so far, as far as a decision may use them. Fed with closed attempts in order of their numbers."""

    def __init__(self, attempts: Iterable[Attempt] = (), quiet_value: float | None = None) -> None:
        """`quiet_value` is what an earlier run measured again and again for the same baseline, without any variance."""
        self.quiet_value = quiet_value
        self.recent: deque[float] = deque(maxlen=RECENT)
        """The head's last values, oldest first."""
        self.unseen = 0
        """Candidates since the head was measured last."""
        self.tried = 0
        """Candidates with a verdict."""
        self.spent = 0.0
        """Of the promised false keeps."""
        self._before: deque[Group] = deque(maxlen=GROUPS)
        self._since: deque[Group] = deque(maxlen=GROUPS)
        for attempt in attempts:
            self.add(attempt)

    def add(self, attempt: Attempt) -> None:
        """Learn from an attempt that was closed."""
        verdict = attempt.verdict
        if verdict is None:
            return
        baseline = attempt.is_baseline and attempt.outcome is Outcome.KEEP
        if baseline:  # another machine, or another way of measuring: what was known before says nothing now
            self._before.clear()
            self._since.clear()
            self.recent.clear()
        self._since += [Group.of(attempt.head_values)] if len(attempt.head_values) > 1 else []
        own = [Group.of(attempt.values)] if len(attempt.values) > 1 else []
        if baseline and verdict.noise == 0 and not own:
            own = [Group(attempt.values[0], 0.0, 1)]
        self.unseen = 0 if attempt.head_values or attempt.outcome is Outcome.KEEP else self.unseen + 1
        self.recent += attempt.head_values
        if attempt.outcome is Outcome.KEEP:
            self._before += self._since
            self._since.clear()
            self.recent.clear()
            self.recent += attempt.values
        self._since += own
        known = self.noise(0.0)
        if known.proved is not known:
            self._before.clear()
        if attempt.outcome in (Outcome.KEEP, Outcome.DISCARD, Outcome.CRASH) and not attempt.is_baseline:
            self.tried += 1
        self.spent += verdict.share or 0.0

    def noise(self, level: float) -> Noise:
        """The pooled noise of one measurement around `level`, the head's."""
        return Noise().with_groups(self._before, level, near=False).with_groups(self._since, level)

    def share(self, false_keeps: float, planned: int | None) -> float:
        """How much of the promised false keeps the next candidate may use up.

        Even shares when it is known how many candidates there will be. Else the i-th of all that may come gets
        `false_keeps * H / ((H + i) (H + i - 1))`, which sums up to `false_keeps` however long the campaign.
        """
        left = max(0.0, false_keeps - self.spent)
        if left < 1e-9 * false_keeps:  # rounding
            return 0.0
        if planned is not None and planned > self.tried:
            return left / (planned - self.tried)
        return left / (HORIZON + self.tried + 1)
