"""The verdict: a pure function of what was measured.

Today's rule is the plain one, `first_better`: one look, kept when strictly better by `min_gain`. It is honest about
what it is: on a noisy metric it keeps luck. Equal values keep only when the mutable files got shorter.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch_kit.core.records import Attempt, Measurement, Outcome, Verdict, number
from autoresearch_kit.core.spec import Constraint, Decision

_LARGEST = sys.float_info.max
"""A difference beyond it is shown as this: the ledger holds no infinity."""


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that a decision may look at."""

    maximize: bool
    """Whether higher values are better."""
    decision: Decision
    """The rule and its settings."""
    constraints: Sequence[Constraint]
    """Hard limits on other metrics."""
    incumbent: Attempt | None
    """The kept attempt that the candidate was measured against; None for a baseline."""
    candidate: Sequence[Measurement]
    """Samples of the candidate, in order."""
    lines_less: int = 0
    """How many lines the mutable files lost against the incumbent; negative when they grew."""


def decide(case: Case) -> Verdict:
    """Keep, discard or crash. Never raises for anything that an experiment can produce."""
    measured = case.candidate[-1]
    if measured.problem or measured.value is None:
        return Verdict(Outcome.CRASH, f"Crash: {measured.problem or 'no value'}")
    value = measured.value
    for constraint in case.constraints:
        if constraint.metric not in measured.also:
            return Verdict(Outcome.CRASH, f"Crash: no_metric: the limit `{constraint}` found no {constraint.metric}")
    if case.incumbent is None or case.incumbent.value is None:
        for constraint in case.constraints:
            if not constraint.holds(found := measured.also[constraint.metric]):
                reason = f"Discard: {constraint.metric} is {number(found)} where `{constraint}` is required"
                return Verdict(Outcome.DISCARD, reason)
        return Verdict(Outcome.KEEP, f"Baseline: {number(value)}")

    head = case.incumbent.value
    gain = value - head if case.maximize else head - value
    gain = max(-_LARGEST, min(_LARGEST, gain))
    change = " -> ".join(_apart(head, value))
    for constraint in case.constraints:
        found = measured.also[constraint.metric]
        if not constraint.holds(found):
            reason = f"Discard: {change}, and {constraint.metric} is {number(found)} where `{constraint}` is required"
            return Verdict(Outcome.DISCARD, reason, gain)
    threshold = case.decision.threshold(head)
    if gain > 0 and (gain >= threshold or math.isclose(gain, threshold)):  # 0.3 - 0.2 is a gain of 0.1
        return Verdict(Outcome.KEEP, f"Keep: {change}, better by {_amount(gain, head)}", gain)
    if gain > 0:
        reason = f"Discard: {change}, better by {_amount(gain, head)}, less than min_gain {number(threshold)}"
        return Verdict(Outcome.DISCARD, reason, gain)
    if gain < 0:
        return Verdict(Outcome.DISCARD, f"Discard: {change}, worse by {_amount(-gain, head)}", gain)
    if case.lines_less > 0:
        lines = "line" if case.lines_less == 1 else "lines"
        return Verdict(Outcome.KEEP, f"Keep: {number(value)} as before with {case.lines_less} {lines} less", gain)
    return Verdict(Outcome.DISCARD, f"Discard: {number(value)} as before, and not simpler", gain)


def _apart(one: float, other: float) -> tuple[str, str]:
    """Two values with as many digits as it takes to tell them apart."""
    for digits in range(6, 18):
        shown = f"{one:.{digits}g}", f"{other:.{digits}g}"
        if shown[0] != shown[1] or one == other:
            break
    return shown


def _amount(gain: float, head: float) -> str:
    percent = 100 * (gain / abs(head)) if head else math.inf
    return f"{number(gain)} ({percent:.2f} %)" if percent < 1e6 else number(gain)
