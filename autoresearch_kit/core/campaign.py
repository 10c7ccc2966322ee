"""A run as it is read afterwards, wherever it was made: the one form that every view starts from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from autoresearch_kit.core.records import Attempt, Cost, Outcome
from autoresearch_kit.core.spec import Spec

ARK, BRANCH, TABLE, LINES = "ark", "branch", "results.tsv", "jsonl"
"""Sources: a ledger; the kept commits of a branch whose ledger is not here; somebody else's table, or log of lines."""


@dataclass(frozen=True)
class Campaign:
    """The attempts of one run and what they are to be read with."""

    name: str
    """What to call it: a tag, `REMOTE/TAG`, a branch, or a path."""
    attempts: tuple[Attempt, ...]
    """In order of their numbers. Of what `ark` did not make, only what its source says."""
    metric: str
    """Name of the metric."""
    maximize: bool
    """Whether higher values are better."""
    source: str = ARK
    """`ark`, `branch`, `results.tsv` or `jsonl`."""
    branch: str = ""
    """Its branch; empty when there is none."""
    spec: Spec | None = None
    """The spec that it ran with, where that can be read."""
    spec_text: str = ""
    """The same as it was written."""
    notes: tuple[str, ...] = ()
    """What could not be read, or is not there, one sentence each."""

    @property
    def tag(self) -> str:
        """The last part of its name."""
        return self.name.rpartition("/")[2]

    @cached_property
    def baseline(self) -> Attempt | None:
        """What the gain is counted from: the last baseline that was measured."""
        return self.baselines[-1] if self.baselines else None

    @cached_property
    def best(self) -> Attempt | None:
        """The head: the last kept attempt, with which the run ends. Of another loop's log, which may keep what is
        worse, the best of what was kept."""
        return self.top if self.is_foreign else self._line[-1] if self._line else None

    @cached_property
    def top(self) -> Attempt | None:
        """The best value kept since the last baseline, with it. Of a ledger that need not be the head, which is
        measured anew when the noise lets it and on another machine."""
        known = [a for a in self.since_baseline if a.outcome is Outcome.KEEP and a.value is not None]
        sign = -1.0 if self.maximize else 1.0
        return min(known, key=lambda a: sign * (a.value or 0.0), default=None)

    @property
    def is_foreign(self) -> bool:
        """Whether another loop made it, of which only a log is here."""
        return self.source in (TABLE, LINES)

    @cached_property
    def baselines(self) -> tuple[Attempt, ...]:
        """Every baseline: the first, and those measured anew, such as on another machine."""
        return tuple(a for a in self.attempts if a.outcome is Outcome.KEEP and a.is_baseline)

    @cached_property
    def since_baseline(self) -> tuple[Attempt, ...]:
        """The attempts from the last baseline on, that included; all where there is none."""
        return self.attempts[self.attempts.index(self.baseline) :] if self.baseline else self.attempts

    @property
    def kept_since_baseline(self) -> tuple[Attempt, ...]:
        """Changes kept since the last baseline."""
        return tuple(a for a in self.since_baseline if a.outcome is Outcome.KEEP and not a.is_baseline)

    @cached_property
    def _line(self) -> tuple[Attempt | None, ...]:
        """The best after each attempt: the head, or of another loop's log the best kept since the baseline."""
        found: list[Attempt | None] = []
        best: Attempt | None = None
        for a in self.attempts:
            if a.outcome is Outcome.KEEP:
                known = best.value if best and self.is_foreign and not a.is_baseline else None
                worse = known is not None and a.value is not None
                worse = worse and (a.value < known if self.maximize else a.value > known)  # type: ignore[operator]
                best = best if worse else a
            found.append(best)
        return tuple(found)

    def with_best(self) -> Iterator[tuple[Attempt, float | None]]:
        """Each attempt with the value of the best after it."""
        for attempt, best in zip(self.attempts, self._line, strict=True):
            yield attempt, best.value if best else None

    @cached_property
    def line_name(self) -> str:
        """What the line of `with_best` is: `the head` where it ever went back, else `the best so far`."""
        kept = [best for a, best in self.with_best() if a.outcome is Outcome.KEEP and best is not None]
        back = any((b < a if self.maximize else b > a) for a, b in pairwise(kept))
        return "the head" if back and not self.is_foreign else "the best so far"

    @cached_property
    def tried(self) -> tuple[Attempt, ...]:
        """What every count of attempts counts: those that are closed, baselines not among them."""
        return tuple(a for a in self.attempts if a.is_tried)

    @cached_property
    def open(self) -> tuple[Attempt, ...]:
        """Attempts without a verdict: what is being measured, or was when its process was killed."""
        return tuple(a for a in self.attempts if a.verdict is None)

    @cached_property
    def kept(self) -> tuple[Attempt, ...]:
        """Kept changes, baselines not."""
        return tuple(a for a in self.tried if a.outcome is Outcome.KEEP)

    @property
    def cost(self) -> Cost:
        """What the agents have cost, as far as is known."""
        return sum((a.proposal.cost for a in self.attempts), Cost())

    @property
    def machines(self) -> tuple[str, ...]:
        """Kinds of machine that measured it, the latest first."""
        return tuple(dict.fromkeys(a.machine for a in reversed(self.attempts) if a.machine))

    @property
    def agents(self) -> tuple[str, ...]:
        """Who proposed, in order of appearance."""
        return tuple(dict.fromkeys(a.proposal.agent for a in self.tried if a.proposal.agent))
