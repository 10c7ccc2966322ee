"""How long a run was at work: its time without the pauses between sessions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median_low

from autoresearch_kit.core.records import Attempt

PAUSE_SECONDS = 15 * 60
"""So long without a measurement and without an agent known to think is a pause, which is no time at work. It grows with
the pauses that the run usually makes: agents may think for long without telling."""
USUAL_PAUSES = 3
"""Times the usual pause."""
FEWEST_PAUSES = 3
"""With fewer nothing is usual."""


def elapsed(attempts: Sequence[Attempt]) -> list[float] | None:
    """Seconds at work from the first attempt's start to the end of each; None when nothing is known of time.

    What lies between two attempts counts in full, agents think there; but of a pause only what is known to be work.
    """
    starts = [moment(attempt.started) for attempt in attempts]
    busy = [a.seconds + (b.proposal.cost.seconds or 0.0) for a, b in pairwise(attempts)]
    gaps = [None if a is None or b is None else b - a for a, b in pairwise(starts)]
    idle = [gap - known for gap, known in zip(gaps, busy, strict=True) if gap is not None and gap >= known]
    if not idle and not any(a.seconds for a in attempts):
        return None
    usual = median_low(idle) if len(idle) >= FEWEST_PAUSES else 0.0
    pause = max(PAUSE_SECONDS, USUAL_PAUSES * usual)
    at, ends = 0.0, [attempts[0].seconds]
    for attempt, gap, known in zip(attempts[1:], gaps, busy, strict=True):
        at += known if gap is None or not known <= gap <= known + pause else gap
        ends.append(at + attempt.seconds)
    return ends


def moment(started: str) -> float | None:
    """Seconds since 1970 of an attempt's start; None where it is not said, or without a time zone."""
    try:
        found = datetime.fromisoformat(started)
        return found.timestamp() if found.tzinfo else None
    except (ValueError, OverflowError):
        return None
