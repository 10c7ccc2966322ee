"""How fast a run goes, and how far it may still go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low

from autoresearch_kit.core.budget import Spent
from autoresearch_kit.core.records import Attempt
from autoresearch_kit.core.spec import Budget
from autoresearch_kit.lab.live import Live
from autoresearch_kit.ledger.ledger import seconds_of

RATE_AMONG = 20
"""The rate is that of the last so many attempts."""
BREAK = 10.0
"""Attempts that began so many times as far apart as usual have a pause between them, which is no part of the rate."""


@dataclass(frozen=True, slots=True)
class Left:
    """How far a run may still go; None is no limit, or an unknown one."""

    attempts: int | None = None
    """Until the limit of this call, or of the spec, whichever is nearer."""
    hours: float | None = None
    """The same of time, as long as it goes on."""
    patience: int | None = None
    """Further attempts in a row without a keep."""
    money: float | None = None
    tokens: int | None = None

    def expected_hours(self, rate: float | None) -> float | None:
        """When time or attempts are used up, at `rate` attempts an hour; None when neither is limited."""
        found = [] if self.hours is None else [self.hours]
        if self.attempts is not None and rate:
            found.append(self.attempts / rate)
        return min(found, default=None)


def rate(attempts: Sequence[Attempt]) -> float | None:
    """Attempts an hour among the last ones, pauses between two calls not counted; None for fewer than three moments."""
    try:
        moments = [seconds_of(attempt.started) for attempt in attempts[-RATE_AMONG - 1 :]]
    except ValueError:  # another loop's
        return None
    steps = [after - before for before, after in pairwise(moments)]
    if len(steps) < 2:
        return None
    usual = max(1.0, median_low(steps))  # of two steps one may be a pause
    counted = [step for step in steps if 0 <= step <= BREAK * usual]
    seconds = sum(counted)
    return 3600 * len(counted) / seconds if seconds else None


def left(live: Live | None, budget: Budget, spent: Spent) -> Left:
    """By the limits of the run, and those of the call that is at work."""

    def least(*found: float | None) -> float | None:
        return min((max(0.0, limit) for limit in found if limit is not None), default=None)

    def rest(limit: float | None, used: float) -> float | None:
        return None if limit is None else limit - used

    attempts = least(rest(budget.attempts, spent.attempts), rest(live.attempts, spent.made) if live else None)
    hours = least(rest(budget.hours, spent.hours), rest(live.hours, spent.hours)) if live and live.counted else None
    patience, money, tokens = (
        least(rest(budget.patience, spent.since_keep)),
        least(rest(budget.money, spent.money)),
        least(rest(budget.tokens, spent.tokens)),
    )
    return Left(_whole(attempts), hours, _whole(patience), money, _whole(tokens))


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
