"""An attempt and a gain as everybody is told of them: the keys of `ark log --json`, and the words for a gain."""

from __future__ import annotations

import math
from typing import Any

from autoresearch_kit.core.records import Attempt
from autoresearch_kit.core.words import factor, percent, signed

NO_GAIN = "no gain yet"
"""What is said of a best value that is no better than the baseline."""


def gain_of(baseline: float | None, best: float | None, maximize: bool) -> float | None:
    """Improvement over the baseline in units of the metric, positive is better; None where it is no number."""
    if baseline is None or best is None:
        return None
    gain = best - baseline if maximize else baseline - best
    return gain if math.isfinite(gain) else None


def percent_of(amount: float | None, whole: float | None) -> float | None:
    """So much in percent of the size of `whole`; None where that means nothing or is too large for a number."""
    if amount is None or not whole:
        return None
    found = 100 * (amount / abs(whole))
    return found if math.isfinite(found) else None


def gain_percent(baseline: float | None, best: float | None, maximize: bool) -> float | None:
    """Improvement over the baseline in percent of it, positive is better; None as for `percent_of`."""
    if baseline is None or best is None:
        return None
    half = percent_of(best / 2 - baseline / 2, baseline)  # the difference of two huge values is none any more
    found = math.inf if half is None else 2 * half if maximize else -2 * half
    return found if math.isfinite(found) else None


def gain_short(baseline: float | None, best: float | None, maximize: bool) -> str:
    """The improvement in a table: `9.1 times`, `2.3 %`, or `+1` in units of the metric; empty when there is none."""
    if baseline is None or best is None or best == baseline:
        return ""
    if maximize and baseline > 0 and best / 2 >= baseline and math.isfinite(best / baseline):
        return f"{factor(best / baseline)} times"
    share, gain = gain_percent(baseline, best, maximize), gain_of(baseline, best, maximize)
    return percent(share) if share is not None else signed(gain) if gain is not None else ""


def gain_words(baseline: float | None, best: float | None, maximize: bool) -> str:
    """The improvement as people say it: `9.1 times the baseline`, `2.3 % better than the baseline`, `better by 1`.

    `NO_GAIN` when the best is no better, empty when one of the values is not known.
    """
    if baseline is None or best is None:
        return ""
    if not (best > baseline if maximize else best < baseline):
        return NO_GAIN
    short = gain_short(baseline, best, maximize)
    if short.endswith(" times"):
        return f"{short} the baseline"
    return f"{short} better than the baseline" if short.endswith(" %") else f"better by {short.removeprefix('+')}"


def log_entry(attempt: Attempt) -> dict[str, Any]:
    """One attempt as `ark log --json` lists it."""
    cost = attempt.proposal.cost
    return {
        "number": attempt.number,
        "commit": attempt.commit,
        "parent": attempt.parent,
        "outcome": str(attempt.outcome),
        "value": attempt.value,
        "values": list(attempt.values),
        "title": attempt.proposal.title,
        "reason": attempt.verdict.reason if attempt.verdict else "",
        "problem": attempt.problem,
        "seconds": round(attempt.seconds, 3),
        "also": dict(attempt.also),
        "started": attempt.started,
        "gain": attempt.verdict.gain if attempt.verdict else None,
        "agent": attempt.proposal.agent,
        "origin": list(attempt.proposal.origin),
        "cost": {"seconds": cost.seconds, "tokens": cost.tokens, "money": cost.money},
        "head_values": list(attempt.head_values),
        "noise": attempt.verdict.noise if attempt.verdict else None,
    }
