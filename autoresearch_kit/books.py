"""What a run remembers while it works: its attempts, in order, and what follows from them.

Everything is in the ledger too. Each question is answered without a look at all attempts, so that the two-thousandth
costs what the first did.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from autoresearch_kit.core.budget import Spent
from autoresearch_kit.core.history import History
from autoresearch_kit.core.records import Attempt, Outcome, clean_line
from autoresearch_kit.ledger.results import ResultsFile

KEPT_SHOWN = 4
"""Kept attempts at hand for the next prompt."""
CRASHES_SHOWN = 3
"""Crashes at hand."""
NEAR_MISSES = 5
"""Discarded attempts at hand that came closest to their head."""
NEAR_AMONG = 200
"""So many of the last discarded ones are compared: those from before were held against a head long gone."""
MAX_KINDS = 100
"""Kinds of change that are counted each by itself; those that come later are counted together."""
KIND_CHARACTERS = 30
"""A longer text before a colon is a sentence and names no kind."""
NEAR_PERCENT, NEAR_NOISE = 10.0, 3.0
"""What was further behind its head than so much of its value, and than so many times the noise, is no near miss."""
TAILS_KEPT = 10
"""Logs of so many attempts stay in memory."""
COUNTED = (Outcome.KEEP, Outcome.DISCARD, Outcome.CRASH)
"""What says something of an idea."""
UNFAIR = frozenset({"disk_full", "supervisor_killed", "not_started", "cancelled"})
"""Problems of the machine rather than of the idea: such a tree may be tried again."""


@dataclass(slots=True)
class Kind:
    """What came of the changes of one kind."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    """How many were kept, discarded, crashed."""
    best_gain: float | None = None
    """The best over the head of its time, in units of the metric; None when there was no number."""

    def add(self, attempt: Attempt) -> None:
        """Count an attempt that was closed."""
        self.outcomes[attempt.outcome] += 1
        self._raise(attempt.verdict.gain if attempt.verdict else None)

    def merge(self, other: Kind) -> None:
        """Count those of `other` too."""
        self.outcomes += other.outcomes
        self._raise(other.best_gain)

    def _raise(self, gain: float | None) -> None:
        if gain is not None and (self.best_gain is None or gain > self.best_gain):
            self.best_gain = gain


def kind_of(title: str) -> str:
    """The kind of change that a title of the form `kind: what changes` names; empty when it names none."""
    kind, colon, _ = title.partition(":")
    kind = clean_line(kind, KIND_CHARACTERS + 1).lower()
    return kind if colon and len(kind) <= KIND_CHARACTERS else ""


class Tally:
    """What attempts have used up, for the budgets."""

    def __init__(self, attempts: Iterable[Attempt] = ()) -> None:
        self.since_keep = 0
        """Attempts since one was kept."""
        self._attempts = 0
        self._money = 0.0
        self._tokens = 0
        self._best: float | None = None
        for attempt in attempts:
            self.add(attempt)

    def add(self, attempt: Attempt) -> None:
        """Count one that was closed."""
        if attempt.is_tried:
            # The lost ones too: whoever stops a measurement has seen something of it.
            self._attempts += 1
            self.since_keep += attempt.outcome in COUNTED
        if attempt.outcome is Outcome.KEEP:
            self.since_keep, self._best = 0, attempt.value
        self._money += attempt.proposal.cost.money or 0.0
        self._tokens += attempt.proposal.cost.tokens or 0

    def spent(self, made: int, hours: float) -> Spent:
        """The same with what this call has made."""
        return Spent(made, hours, self._attempts, self.since_keep, self._money, self._best, self._tokens)


class Books:
    """The attempts of one run."""

    def __init__(self, attempts: Sequence[Attempt], results: ResultsFile, quiet_value: float | None = None) -> None:
        self.attempts: list[Attempt] = []
        self.head: Attempt | None = None
        """The last kept attempt: all others are measured against it."""
        self.baseline: Attempt | None = None
        """What the head's gain is counted from: the last baseline."""
        self.kept: deque[Attempt] = deque(maxlen=KEPT_SHOWN)
        """The last kept ones, oldest first."""
        self.crashes: deque[Attempt] = deque(maxlen=CRASHES_SHOWN)
        """The last crashes, oldest first, with their logs."""
        self.kinds: dict[str, Kind] = {}
        """What was tried, by kind of change; those without one, or beyond `MAX_KINDS`, under an empty name."""
        self.results = results
        """The table beside the spec."""
        self.history = History(quiet_value=quiet_value)
        """What the next decision may use."""
        self._discarded: deque[Attempt] = deque(maxlen=NEAR_AMONG)
        self._trees: dict[tuple[str, str, str], Attempt] = {}
        self._tally = Tally()
        for attempt in attempts:
            self._take(attempt)
        results.add([attempt for attempt in attempts if attempt.verdict])

    def add(self, attempt: Attempt) -> None:
        """Enter an attempt that was closed, and write results.tsv."""
        self._take(attempt)
        self.results.add([attempt])

    def forget(self, attempt: Attempt) -> None:
        """Strike out one that will be entered again, or was withdrawn."""
        self.attempts = [other for other in self.attempts if other.number != attempt.number]

    @property
    def next_number(self) -> int:
        """The number for the next attempt."""
        return self.attempts[-1].number + 1 if self.attempts else 0

    @property
    def near_misses(self) -> list[Attempt]:
        """The closest discarded ones, best first."""
        return heapq.nsmallest(NEAR_MISSES, filter(_is_near, self._discarded), key=_distance)

    def measured(self, tree: str, machine: str, yardstick: str) -> Attempt | None:
        """The attempt that has measured `tree` already, on this kind of machine and by this yardstick."""
        return self._trees.get((tree, machine, yardstick))

    def spent(self, made: int, hours: float) -> Spent:
        """What has been used up, for the budgets."""
        return self._tally.spent(made, hours)

    @property
    def since_keep(self) -> int:
        """Attempts since one was kept."""
        return self._tally.since_keep

    def _take(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)
        if len(self.attempts) > 1 and self.attempts[-2].number > attempt.number:
            self.attempts.sort(key=lambda other: other.number)
        if len(self.attempts) > TAILS_KEPT:
            self.attempts[-1 - TAILS_KEPT] = _without_log(self.attempts[-1 - TAILS_KEPT])
        self.history.add(attempt)
        self._tally.add(attempt)
        if attempt.outcome in COUNTED and not attempt.is_baseline:
            self._kind(attempt).add(attempt)
        if attempt.outcome is Outcome.KEEP:
            self.head = attempt
            if attempt.is_baseline:
                # What was measured otherwise says nothing from here on.
                self.baseline = attempt
                self._discarded.clear()
                self.kept.clear()
                self.crashes.clear()
                self.kinds.clear()
            self.kept.append(attempt)
        if attempt.outcome is Outcome.CRASH:
            self.crashes.append(attempt)
        if attempt.outcome is Outcome.DISCARD:
            self._discarded.append(_without_log(attempt))
        if attempt.outcome in COUNTED and not any(m.kind in UNFAIR for m in attempt.measurements):
            self._trees[attempt.tree, attempt.machine, attempt.yardstick] = attempt

    def _kind(self, attempt: Attempt) -> Kind:
        name = kind_of(attempt.proposal.title)
        if name not in self.kinds and len(self.kinds) >= MAX_KINDS:
            name = ""
        return self.kinds.setdefault(name, Kind())


def _is_near(attempt: Attempt) -> bool:
    """Whether it came so close to its head that it may help together with another."""
    noise = attempt.verdict.noise if attempt.verdict and attempt.verdict.noise else 0.0
    return _distance(attempt) <= max(NEAR_PERCENT / 100 * abs(attempt.value or 0.0), NEAR_NOISE * noise)


def _distance(attempt: Attempt) -> float:
    gain = attempt.verdict.gain if attempt.verdict else None
    return math.inf if gain is None else -gain


def _without_log(attempt: Attempt) -> Attempt:
    if not any(m.log_tail for m in attempt.measurements):
        return attempt
    return replace(attempt, measurements=tuple(replace(m, log_tail="") for m in attempt.measurements))
