"""An attempt and a gain as everybody is told of them: the keys of `ark log --json`, and the words for a gain."""

from __future__ import annotations

from typing import Any

from autoresearch_kit.core.records import Attempt


def gain_percent(baseline: float | None, best: float | None, maximize: bool) -> float | None:
    """Improvement over the baseline in percent of it, positive is better; None where that means nothing."""
    if baseline is None or best is None or baseline == 0:
        return None
    return 100 * (best - baseline if maximize else baseline - best) / abs(baseline)


def gain_words(baseline: float | None, best: float | None, maximize: bool) -> str:
    """The improvement as people say it: `9.1 times the baseline` or `2.3 % better`."""
    percent = gain_percent(baseline, best, maximize)
    if percent is None or baseline is None or best is None:
        return ""
    if maximize and baseline > 0 and best >= 2 * baseline:
        return f"{best / baseline:.2f} times the baseline"
    return f"{percent:.2f} % better than the baseline" if percent > 0 else "no gain yet"


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
