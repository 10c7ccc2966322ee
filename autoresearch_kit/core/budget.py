"""When a run ends: a pure function of the limits and of what has been spent."""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch_kit.core.records import number
from autoresearch_kit.core.spec import Budget


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one call, beside those of the spec."""

    attempts: int | None = None
    """New attempts, the baseline not counted."""
    hours: float | None = None
    """Wall time."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What has been used up so far."""

    made: int
    """Attempts of this call."""
    hours: float
    """Wall time of this call."""
    attempts: int
    """Attempts of the whole run with a verdict, the lost ones too, baselines not counted."""
    since_keep: int
    """Of those, how many since the last keep."""
    money: float
    """What the agents have reported."""
    best: float | None
    """The head's value."""
    tokens: int = 0
    """What the agents have reported."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a loop ended."""

    reason: str
    """One sentence."""
    exit_code: int
    """0 done, 1 the agent could not go on, 3 a budget of the spec is spent."""


def ending(budget: Budget, limits: Limits, spent: Spent, maximize: bool) -> Ending | None:
    """The limit that has been reached, if any."""
    if budget.target is not None and spent.best is not None:
        reached = spent.best >= budget.target if maximize else spent.best <= budget.target
        if reached:
            return Ending(f"the target {number(budget.target)} is reached: {number(spent.best)}", 0)
    if limits.attempts is not None and spent.made >= limits.attempts:
        return Ending(f"{spent.made} attempts made, as asked", 0)
    if limits.hours is not None and spent.hours >= limits.hours:
        return Ending(f"{limits.hours:g} hours are over, as asked", 0)
    if budget.attempts is not None and spent.attempts >= budget.attempts:
        return Ending(f"the budget of {budget.attempts} attempts is spent", 3)
    if budget.hours is not None and spent.hours >= budget.hours:
        return Ending(f"the budget of {budget.hours:g} hours is spent", 3)
    if budget.patience is not None and spent.since_keep >= budget.patience:
        return Ending(f"{spent.since_keep} attempts in a row without a keep: patience is spent", 3)
    if budget.money is not None and spent.money >= budget.money:
        return Ending(f"the agents have cost {spent.money:.2f}: the budget of {budget.money:g} is spent", 3)
    if budget.tokens is not None and spent.tokens >= budget.tokens:
        return Ending(f"the agents have used {spent.tokens} tokens: the budget of {budget.tokens} is spent", 3)
    return None
