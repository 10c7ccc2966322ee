"""The loop: ask an agent for changes, put each through `Run.attempt`, until a limit is reached.

An agent is whoever edits the desk. What it answers is typed, and so is what becomes of its turn: `proposed` when an
attempt came of it, else why not. Turns without an attempt take no number in the ledger; `Turns` counts them, and says
when they are too many.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from autoresearch_kit.core.budget import Ending, Limits, Spent, ending
from autoresearch_kit.core.records import Attempt, Cost, Proposal
from autoresearch_kit.lab.measure import Phase
from autoresearch_kit.ledger.owed import read_owed, write_owed
from autoresearch_kit.ratchet import NoAttempt, Note, Run, Trouble, Watch

IDLE_TURNS = 5
"""So many turns in a row without a new tree end the run."""
FIRST_PAUSE_SECONDS = 2.0
"""After an agent that failed; doubled with each further failure."""
FIRST_REST_SECONDS = 60.0
"""After a rate limit that does not say how long it lasts; doubled with each further one."""
MAX_REST_SECONDS = 1800.0
"""The longest such rest."""
BELIEVED_RESTS = 5
"""So often in a row it is believed how long a limit lasts; then the rests grow."""
MAX_RESTS_SECONDS = 24 * 3600.0
"""So much rest in a row, without a turn in between that was let through, ends the run."""

FAILURES_TOLD = 3
"""So many failures of the agent in a row are told as trouble."""
RESTS_TOLD_SECONDS = 3600.0
"""So much rest in a row is told as trouble."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The agent has nothing left to propose."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The agent itself failed: nothing is measured, it is asked again after a pause."""

    reason: str
    """One sentence."""
    kind: str = "failed"
    """`failed`, `timed_out`, `denied` (it was not allowed to do what it wanted, and changed nothing), `rate_limited` or
    `not_logged_in`."""
    hint: str = ""
    """What a person can do."""
    rest_seconds: float | None = None
    """For `rate_limited`: how long it says that the limit lasts; 0 when another agent can go on at once."""
    is_final: bool = False
    """Whether asking again is of no use before a person has done something."""
    agent: str = ""
    """Whose turn it was, as the ledger calls it."""
    cost: Cost = field(default_factory=Cost)
    """What the turn cost nevertheless."""


class Agent(Protocol):
    """Whoever edits the desk. `propose` lays the desk with what the agent needs, lets it work, and says what it did."""

    def propose(self, run: Run) -> Proposal | Finished | Failed: ...

    def close(self) -> None: ...


class Turns:
    """What has become of the turns of one call, and whether it is over."""

    def __init__(
        self,
        run: Run,
        limits: Limits,
        watch: Watch,
        pause_seconds: float = FIRST_PAUSE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """How many turns ended how: `proposed`, a kind of `NoAttempt`, or a kind of `Failed`."""
        self._run = run
        self._limits = limits
        self._watch = watch
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._started = clock()
        self._idle = self._failures = self._rests = self._short_rests = 0
        self._rested = 0.0
        self._unpaid = read_owed(run.project.repository, run.tag, run.attempts)
        self._recorded = dict(self._unpaid)
        run.live.limit(limits.attempts, limits.hours)

    @property
    def made(self) -> int:
        """Attempts of this call."""
        return self.counts["proposed"]

    def sum_up(self) -> None:
        """Tell how many turns brought no attempt, and why not; nothing where all did."""
        fruitless = ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items()) if kind != "proposed")
        if fruitless:
            self._watch(Note(f"Turns without an attempt: {fruitless}"))

    def over(self, ahead_seconds: float = 0.0) -> Ending | None:
        """The limit that has been reached, or would be after so much more time."""
        hours = (self._clock() - self._started + ahead_seconds) / 3600
        spent = self._run.books.spent(self.made, hours)
        spent = with_owed(spent, self._unpaid.values())
        return ending(self._run.spec.budget, self._limits, spent, self._run.spec.maximize)

    def charged(self, proposal: Proposal) -> Proposal:
        """The proposal with what the fruitless turns of its agent before it have cost."""
        unpaid = self._unpaid.pop(proposal.agent, None)
        return replace(proposal, cost=unpaid + proposal.cost) if unpaid else proposal

    def take(self, proposal: Proposal, result: Attempt | NoAttempt) -> Ending | None:
        """Enter what became of a (charged) proposal; an Ending when it is the last straw."""
        self._failures = self._rests = self._short_rests = 0
        self._rested = 0.0
        if isinstance(result, Attempt):
            self.counts["proposed"] += 1
            self._run.live.made(self.made)
            self._idle = 0
            self._record()
            return None
        self.owe(proposal.agent, proposal.cost)
        self.counts[result.kind] += 1
        return self._idled(result.reason)

    def fail(self, failed: Failed) -> Ending | float:
        """Enter an agent's failure: how many seconds to wait before it is asked again, or an Ending."""
        self.owe(failed.agent, failed.cost)
        self.counts[failed.kind] += 1
        reason = failed.reason + (f"; {failed.hint}" if failed.hint else "")
        if failed.is_final:
            return Ending(reason, 1)
        if failed.kind == "rate_limited":
            return self._rest(failed, reason)
        self._failures += 1
        cause = "agent_failed" if self._failures >= FAILURES_TOLD else ""
        cause = failed.kind if failed.kind == "not_logged_in" else cause
        return self._idled(reason, cause) or self._pause_seconds * 2.0 ** (self._failures - 1)

    def _rest(self, failed: Failed, reason: str) -> Ending | float:
        seconds = failed.rest_seconds
        growing = min(MAX_REST_SECONDS, FIRST_REST_SECONDS * 2.0**self._rests)
        if seconds is None:
            seconds = growing
        elif seconds and self._short_rests >= BELIEVED_RESTS:  # what it says is not what happens
            seconds = max(seconds, growing)
        if seconds == growing:
            self._rests += 1
        elif seconds:
            self._short_rests += 1
        self._rested += seconds
        if self._rested > MAX_RESTS_SECONDS:
            return Ending(f"{reason}: that is longer than {MAX_RESTS_SECONDS / 3600:g} hours in a row", 1)
        if seconds and (reached := self.over(seconds)):
            return replace(reached, reason=f"{reached.reason}, before the agent may go on: {reason}")
        then = f"it is asked again in {_minutes(seconds)}" if seconds else "the others go on meanwhile"
        text = f"{reason}; {then}"
        self._watch(Trouble(text, "rate_limited") if self._rested >= RESTS_TOLD_SECONDS and seconds else Note(text))
        if seconds:
            self._watch(Phase("rest", seconds, Path(), failed.agent))
        return seconds

    def _idled(self, reason: str, cause: str = "") -> Ending | None:
        self._idle += 1
        if self._idle >= IDLE_TURNS:
            return Ending(f"{IDLE_TURNS} turns in a row brought nothing new to measure; the last: {reason}", 1)
        text = f"{reason} (turn {self._idle} of {IDLE_TURNS} without a new tree)"
        self._watch(Trouble(text, cause) if cause else Note(text))
        return None

    def owe(self, agent: str, cost: Cost) -> None:
        """Enter what an agent has cost without an attempt: its next one is charged with it, in whatever process."""
        self._unpaid[agent] = self._unpaid.get(agent, Cost()) + cost
        self._record()

    def _record(self) -> None:
        if self._unpaid != self._recorded:
            write_owed(self._run.project.repository, self._run.tag, self._unpaid, self._run.attempts)
            self._recorded = dict(self._unpaid)


def with_owed(spent: Spent, owed: Iterable[Cost]) -> Spent:
    """What has been used up, with what no attempt was charged with yet."""
    for cost in owed:
        spent = replace(spent, money=spent.money + (cost.money or 0.0), tokens=spent.tokens + (cost.tokens or 0))
    return spent


def loop(
    run: Run,
    agent: Agent,
    turns: Turns,
    sleep: Callable[[float], None] | None = None,
) -> Ending:
    """Ask the agent for changes and put each through `Run.attempt` until a limit is reached."""
    try:
        return _loop(run, agent, turns, sleep)
    finally:
        turns.sum_up()


def _loop(run: Run, agent: Agent, turns: Turns, sleep: Callable[[float], None] | None) -> Ending:
    while True:
        if reached := turns.over():
            return reached
        began = time.monotonic()
        answer = agent.propose(run)
        if isinstance(answer, Finished):
            return Ending(answer.reason, 0)
        if isinstance(answer, Failed):
            pause = turns.fail(answer)
            if isinstance(pause, Ending):
                return pause
            if pause:
                (sleep or time.sleep)(pause)
            continue
        if answer.cost.seconds is None:
            answer = replace(answer, cost=answer.cost + Cost(round(time.monotonic() - began, 3)))
        proposal = turns.charged(answer)
        if over := turns.take(proposal, run.attempt(proposal)):
            return over


def _minutes(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
