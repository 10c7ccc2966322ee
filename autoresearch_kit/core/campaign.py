"""A run as it is read afterwards, wherever it was made: the one form that every view starts from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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
        return next((a for a in reversed(self.attempts) if a.outcome is Outcome.KEEP and a.is_baseline), None)

    @cached_property
    def best(self) -> Attempt | None:
        """The head: the last kept attempt, with which the run ends."""
        return next((a for a in reversed(self.attempts) if a.outcome is Outcome.KEEP), None)

    @cached_property
    def tried(self) -> tuple[Attempt, ...]:
        """All attempts but the baselines."""
        return tuple(a for a in self.attempts if not a.is_baseline)

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
