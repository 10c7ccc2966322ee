"""The verdict: a pure function of what was measured.

`decide` says keep, discard or crash, or what to measure next. The limits come first; then the rule of the spec:
`sequential`, which is `core.gate` where there is noise and one look where there is none, or `first_better`, one look
always, luck included. Equal values, or as good as equal within `min_gain`, keep when the mutable files got shorter.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from autoresearch_kit.core import gate
from autoresearch_kit.core.history import Group, History, Noise
from autoresearch_kit.core.records import Attempt, Measurement, Outcome, Verdict, mean, number
from autoresearch_kit.core.spec import Constraint, Decision

_LARGEST = sys.float_info.max
"""A difference beyond it is shown as this: the ledger holds no infinity."""


class Again(StrEnum):
    """What to measure before anything can be decided."""

    CANDIDATE = "candidate"
    HEAD = "head"


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
    samples: Sequence[Measurement]
    """What was measured for this attempt so far, in order, the head's samples marked."""
    lines_less: int = 0
    """How many lines the mutable files lost against the incumbent; negative when they grew."""
    history: History = field(default_factory=History)
    """The attempts before this one."""
    planned: int | None = None
    """How many candidates the whole campaign will have, where that is known."""


def decide(case: Case) -> Verdict | Again:
    """Keep, discard or crash, or what to measure next. Never raises for anything that an experiment can produce."""
    own = [sample for sample in case.samples if not sample.of_head]
    if not own:
        return Again.CANDIDATE
    for sample in own:
        if sample.problem or sample.value is None:
            return Verdict(Outcome.CRASH, f"Crash: {sample.problem or 'no value'}")
        for constraint in case.constraints:
            if constraint.metric not in sample.also:
                reason = f"Crash: no_metric: the limit `{constraint}` found no {constraint.metric}"
                return Verdict(Outcome.CRASH, reason)
    values = [sample.value for sample in own if sample.value is not None]
    if case.incumbent is None or case.incumbent.value is None:
        return _baseline(case, own, values)
    if broken := _broken_limit(case, own):
        head = case.incumbent.value
        gain = _gain(case, mean(values), head)
        return Verdict(Outcome.DISCARD, f"Discard: {_change(head, values[-1])}, and {broken}", gain)
    noise = case.history.noise(case.incumbent.value)
    if case.decision.rule == "first_better" or noise.none:
        return _one_look(case, case.incumbent.value, values[0], 0.0 if noise.none else None)
    return _sequential(case, noise, values)


def _broken_limit(case: Case, own: Sequence[Measurement]) -> str:
    for sample in own:
        for constraint in case.constraints:
            if not constraint.holds(found := sample.also[constraint.metric]):
                return f"{constraint.metric} is {number(found)} where `{constraint}` is required"
    return ""


def _baseline(case: Case, own: Sequence[Measurement], values: Sequence[float]) -> Verdict | Again:
    if broken := _broken_limit(case, own):
        return Verdict(Outcome.DISCARD, f"Discard: {broken}")
    wanted = case.decision.baseline_runs if case.decision.rule == "sequential" else 1
    if values[0] == case.history.quiet_value:
        return Verdict(
            Outcome.KEEP, f"Baseline: {number(values[0])}, without noise, as an earlier run showed", noise=0.0
        )
    if len(values) < wanted:
        return Again.CANDIDATE
    value = number(mean(values))
    if len(values) == 1:
        return Verdict(Outcome.KEEP, f"Baseline: {value}")
    sd = _finite(Noise().with_groups([Group.of(values)]).sd)
    if sd is None:
        return Verdict(Outcome.KEEP, f"Baseline: {value}, the mean of {len(values)} runs too far apart to count")
    if sd == 0:
        return Verdict(Outcome.KEEP, f"Baseline: {value}, the same in {len(values)} runs", noise=0.0)
    reason = f"Baseline: {value}, the mean of {len(values)} runs; the noise of one is {sd:.2g}"
    return Verdict(Outcome.KEEP, reason, noise=sd)


# One look


def _one_look(case: Case, head: float, value: float, noise: float | None) -> Verdict:
    """The plain rule: strictly better, by `min_gain` at least, or equal and shorter."""
    gain = _gain(case, value, head)
    change = _change(head, value)
    threshold = case.decision.threshold(head)
    if gain > 0 and (gain >= threshold or math.isclose(gain, threshold)):  # 0.3 - 0.2 is a gain of 0.1
        return Verdict(Outcome.KEEP, f"Keep: {change}, better by {_amount(gain, head)}", gain, noise)
    if gain > 0:
        reason = f"Discard: {change}, better by {_amount(gain, head)}, less than min_gain {number(threshold)}"
        return Verdict(Outcome.DISCARD, reason, gain, noise)
    if gain < 0:
        return Verdict(Outcome.DISCARD, f"Discard: {change}, worse by {_amount(-gain, head)}", gain, noise)
    if case.lines_less > 0:
        return Verdict(
            Outcome.KEEP, f"Keep: {number(value)} as before with {_lines(case.lines_less)} less", gain, noise
        )
    return Verdict(Outcome.DISCARD, f"Discard: {number(value)} as before, and not simpler", gain, noise)


# Sequential


def _sequential(case: Case, known: Noise, values: Sequence[float]) -> Verdict | Again:
    """Screen, then candidate and head in turn, until the gate is sure or the runs are spent."""
    sign = 1.0 if case.maximize else -1.0
    heads = [sign * sample.value for sample in case.samples if sample.of_head and sample.value is not None]
    own = [sign * value for value in values]
    assert case.incumbent is not None
    recent = [sign * value for value in case.history.recent or case.incumbent.values]
    share = case.history.share(case.decision.false_keeps, case.planned)
    runs = case.decision.max_runs
    threshold = case.decision.threshold(mean(heads or recent))

    better = gate.look(own, heads, recent, known, share, runs, threshold)
    found = _Found(case.maximize, own, heads or recent, bool(heads), better, share)
    if better.decided and better.better and (better.gain >= threshold or math.isclose(better.gain, threshold)):
        return found.verdict(Outcome.KEEP, "")
    if case.lines_less > 0 and threshold > 0:
        # Not worse by min_gain is better than the head would be with min_gain less.
        near = gate.look([value + threshold for value in own], heads, recent, known, share, runs)
        if near.decided and near.better:
            simpler = f"not worse by min_gain {number(threshold)}, with {_lines(case.lines_less)} less"
            return found.verdict(Outcome.KEEP, simpler)
        if not near.decided:
            return _next(own, heads)
    if not better.decided:
        return _next(own, heads)
    if better.better and len(heads) < gate.looks(runs)[-1]:
        return _next(own, heads)  # surely better, and perhaps by min_gain
    if better.better:
        return found.verdict(Outcome.DISCARD, f"less than min_gain {number(threshold)}")
    if not heads and case.history.unseen >= gate.STALE:
        return Again.HEAD
    if not heads and better.gain > 0:
        return found.verdict(Outcome.DISCARD, "too little to look again")
    if not heads or better.gain < -2 * better.error or better.noise.none:
        return found.verdict(Outcome.DISCARD, "")
    if share == 0:
        return found.verdict(Outcome.DISCARD, "the promised false keeps are spent")
    return found.verdict(Outcome.DISCARD, "not distinguishable from noise")


def _next(own: Sequence[float], heads: Sequence[float]) -> Again:
    return Again.HEAD if gate.is_heads_turn(len(own) + len(heads)) else Again.CANDIDATE


@dataclass(frozen=True, slots=True)
class _Found:
    """What the sentence of a sequential verdict is made of; higher is better here."""

    maximize: bool
    own: Sequence[float]
    heads: Sequence[float]
    fresh: bool
    look: gate.Look
    share: float

    def verdict(self, outcome: Outcome, why: str) -> Verdict:
        sign = 1.0 if self.maximize else -1.0
        head, value = sign * mean(self.heads), sign * mean(self.own)
        gain = max(-_LARGEST, min(_LARGEST, self.look.gain))
        sentence = f"{outcome.capitalize()}: {_change(head, value)}"
        if gain:
            sentence += f", {'better' if gain > 0 else 'worse'} by {_amount(abs(gain), head)}"
        runs = len(self.own) + len(self.heads) if self.fresh else 1
        sentence += f" in {runs} runs" if runs > 1 else " in one run"
        sd = _finite(self.look.noise.sd)
        if sd is not None:
            sentence += f", noise {sd:.2g}"
        return Verdict(outcome, f"{sentence}: {why}" if why else sentence, gain, sd, self.share)


def _gain(case: Case, value: float, head: float) -> float:
    gain = value - head if case.maximize else head - value
    return max(-_LARGEST, min(_LARGEST, gain))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _lines(count: int) -> str:
    return f"{count} line" if count == 1 else f"{count} lines"


def _change(head: float, value: float) -> str:
    """Two values with as many digits as it takes to tell them apart."""
    for digits in range(6, 18):
        shown = f"{head:.{digits}g}", f"{value:.{digits}g}"
        if shown[0] != shown[1] or head == value:
            break
    return " -> ".join(shown)


def _amount(gain: float, head: float) -> str:
    percent = 100 * (gain / abs(head)) if head else math.inf
    return f"{number(gain)} ({percent:.2f} %)" if percent < 1e6 else number(gain)
