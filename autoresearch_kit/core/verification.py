"""What a verification leaves behind, and the words for it. Plain frozen data, like `core.records`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from autoresearch_kit.core.interval import Gain, Interval
from autoresearch_kit.core.records import Attempt, Measurement, number


class State(StrEnum):
    """How a verification stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    """An arm failed again and again."""
    INTERRUPTED = "interrupted"
    """Somebody stopped it."""
    LOST = "lost"
    """Its process died."""


class Weight(StrEnum):
    """What a kept change is worth to the head."""

    CARRIES = "carries weight"
    NONE_SHOWN = "no weight shown"
    HURTS = "hurts"
    TANGLED = "cannot be taken out by itself"


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the commits that are compared."""

    attempt: int
    """Number in the run."""
    commit: str
    """Full hash."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one arm."""

    arm: str
    """`baseline`, `head`, or `head without 7`: the head with attempt 7 taken out."""
    measured: Measurement
    """What the evaluation said."""
    held_out: Measurement | None = None
    """What the hold-out said of the same run."""


@dataclass(frozen=True, slots=True)
class Ablation:
    """The head with one kept change taken out."""

    attempt: int
    """The change."""
    title: str
    """What it was called."""
    weight: Weight
    """What it is worth."""
    gain: Gain | None = None
    """Gain of the head over the head without it; None where that could not be measured."""
    note: str = ""
    """Why not, one sentence."""


@dataclass(frozen=True, slots=True)
class Verification:
    """Fresh runs of a run's baseline and head in turn, and what they say."""

    tag: str
    """The run."""
    project: str
    """Name of the project."""
    spec: str
    """Path of the spec from the root of the repository."""
    metric: str
    """Name of the metric."""
    maximize: bool
    """Whether higher values are better."""
    baseline: Arm
    """What the gain is counted from."""
    head: Arm
    """What the gain is of."""
    tree: str
    """The head's tree."""
    yardstick: str
    """Digest of everything that fixes the number except the mutable files."""
    machine: str
    """Kind of machine, see `lab.machine`."""
    version: str
    """Of `ark`."""
    runs: int
    """How many runs of baseline and head together were planned."""
    started: str
    """ISO 8601, UTC."""
    holdout: str = ""
    """Digest that identifies the hold-out; empty when it was not looked at."""
    looks: int = 0
    """How often that hold-out had been looked at by then, this time included, in all runs of the repository."""
    state: State = State.RUNNING
    """How it stands."""
    problem: str = ""
    """Why it did not end well, one sentence."""
    gain: Gain | None = None
    """Of the head over the baseline."""
    holdout_gain: Gain | None = None
    """The same on the hold-out."""
    broken: tuple[str, ...] = ()
    """Limits of the spec that the head broke, one sentence each."""
    ablations: tuple[Ablation, ...] = ()
    """What each kept change is worth, where that was asked."""
    samples: tuple[Sample, ...] = ()
    """Every run in order, failed ones too."""
    number: int = 0
    """Of this verification in its run, from 1; 0 before it is recorded."""
    commit: str = ""
    """The commit that records it."""

    @property
    def has_result(self) -> bool:
        """Whether it came to its end and found a gain, be it none."""
        return self.state is State.DONE and self.gain is not None


def of_head(verifications: Sequence[Verification], head: Attempt | None) -> Verification | None:
    """The latest one with a result for what is now the head."""
    found = (one for one in reversed(verifications) if head is not None and one.head.commit == head.commit)
    return next((one for one in found if one.has_result), None)


# Words


def block_lines(verification: Verification) -> list[str]:
    """A verification in a few lines that stand for themselves: to be printed, recorded and pasted."""
    found = verification
    rows: list[tuple[str, str]] = []
    if found.gain is None:
        title = f"{found.project}, run {found.tag}: {found.state}, without a result"
        rows.append(("why", found.problem or f"{len(found.samples)} of {found.runs} runs were made"))
    else:
        title = f"{found.project}, run {found.tag}: {headline(found.gain, found.metric)}"
        better = "higher" if found.maximize else "lower"
        values = f"{number(found.gain.first)} -> {number(found.gain.second)} {found.metric}, {better} is better"
        rows += [("gain", _interval_words(found.gain)), ("means", values), ("method", found.gain.method)]
        if found.state is not State.DONE:
            rows.append((str(found.state), found.problem or "before its end"))
    if found.holdout:
        gain = found.holdout_gain
        said = "no result" if gain is None else f"{headline(gain, found.metric)}: {_interval_words(gain)}"
        rows.append(("hold-out", f"{said}; looked at {times(found.looks)}" if found.looks else said))
    rows += [("broken", sentence) for sentence in found.broken]
    rows.append(("baseline", f"{found.baseline.commit}, attempt {found.baseline.attempt}"))
    rows.append(("head", f"{found.head.commit}, attempt {found.head.attempt}"))
    rows.append(("machine", found.machine))
    rows.append(("date", f"{found.started[:10]}, ark {found.version}"))
    if found.number > 1:
        rows.append(("record", f"verification {found.number} of this run; the first counts most"))
    lines = [title, "", *(f"{name:<9} {text}" for name, text in rows)]
    return [*lines, *_ablation_lines(found)]


def _ablation_lines(found: Verification) -> Iterator[str]:
    if not found.ablations:
        return
    rows = [("attempt", "worth", "verdict", "title")]
    for row in found.ablations:
        worth = "" if row.gain is None else _interval_words(row.gain, short=True)
        verdict = f"{row.weight}: {row.note}" if row.note else str(row.weight)
        rows.append((str(row.attempt), worth, verdict, row.title))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    yield ""
    yield "Each kept change taken out of the head in turn, and what it is worth there:"
    yield ""
    for attempt, worth, verdict, title in rows:
        yield f"{attempt:>{widths[0]}}  {worth:<{widths[1]}}  {verdict:<{widths[2]}}  {title}"
    noisy = [row.gain for row in found.ablations if row.gain is not None and not row.gain.exact]
    if len(noisy) > 1:
        yield ""
        yield f"Each interval is at {_percent(noisy[0].level)}, so that all hold together at 95 % (Bonferroni)."


def warnings(verification: Verification) -> list[str]:
    """What whoever publishes the number should know beside it."""
    found = []
    if verification.looks:
        said = f"the hold-out has now been looked at {times(verification.looks)}"
        if verification.looks > 1:
            said += "; whatever was chosen after a look may fit it by luck, so each look makes its gain prove less"
        found.append(said)
    found += [f"the head breaks a limit: {sentence}" for sentence in verification.broken]
    return found


def headline(gain: Gain, unit: str) -> str:
    """The gain in a few words."""
    value, percent = gain.absolute, gain.percent
    shown = f"{_number(value.value, value)} {unit}"
    if percent is not None:
        shown += f" ({_number(percent.value, percent)} %)"
    if value.low > 0:
        return f"better by {shown}"
    if value.high < 0:
        return f"worse by {shown}".replace("by -", "by ").replace("(-", "(")
    return "no difference" if gain.exact else f"no gain shown, {shown}"


def _interval_words(gain: Gain, short: bool = False) -> str:
    value, percent = gain.absolute, gain.percent
    if gain.exact:
        return f"{number(value.value)} exactly" if short else "exact: the same in every run"
    words = f"{_number(value.low, value)} to {_number(value.high, value)}"
    if short:
        return f"{_number(value.value, value)} ({words})"
    if percent is not None:
        words += f" ({_number(percent.low, percent)} % to {_number(percent.high, percent)} %)"
    return f"{_percent(gain.level)} interval {words}"


def times(count: int) -> str:
    """`once`, `2 times`."""
    return "once" if count == 1 else f"{count} times"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _number(value: float, interval: Interval) -> str:
    """A value with as many digits as its interval warrants: two of the half-width."""
    margin = (interval.high - interval.low) / 2
    if not 0 < margin < math.inf or not 1e-9 < margin < 1e15 or abs(value) > 1e15:
        return number(value)
    digits = 1 - math.floor(math.log10(margin))
    return f"{round(value, digits):.{max(0, digits)}f}"
