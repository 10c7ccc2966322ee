"""Where a rehearsal measures: every check of a real workshop, and a simulated number in place of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from autoresearch_kit.core.records import Measurement
from autoresearch_kit.lab.machine import machine
from autoresearch_kit.ledger.git import Entry
from autoresearch_kit.project import Project, check_limits
from autoresearch_kit.rehearse.noise import Model, held
from autoresearch_kit.workshop import Workshop

NAME = "rehearsal"
"""Of the tag, the cache folder, and the agent in the ledger."""


class Clock:
    """The time of a night, in seconds, that passes only when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@dataclass(frozen=True, slots=True)
class Idea:
    """What an attempt truly is; nobody but the rehearsal knows."""

    kind: str
    """`neutral`, `harmful`, `helpful`, `great`, `crash`, `timeout`, `limit` or `check`."""
    gain: float = 0.0
    """By how much it is truly better than the head, in units of the metric."""


class Stage(Workshop):
    """A workshop that knows what every tree is truly worth."""

    def __init__(self, user: Project, rehearsed: Project, label: str, model: Model, clock: Clock, rng: Random) -> None:
        """`user` is the project as `ark run` would see it, `rehearsed` the throwaway one."""
        base = user.repository.head()
        super().__init__(user, NAME, base, label)
        self.model = model
        self.ideas: dict[str, Idea] = {}
        """By tree, what was tried."""
        self.measured = 0
        """Measurements so far."""
        self._repository = rehearsed.repository
        self._clock = clock
        self._rng = rng
        tree = self._repository.tree_of(base)
        self._levels = {tree: model.level}
        self._next, self._head = Idea("neutral"), tree
        self._unknown = model.unknown(user.spec.constraints)
        self._last = ""
        if model.is_recorded and model.yardstick == self.yardstick:  # what was not printed then will not be
            check_limits(user, model.records[-1].also)

    def level_of(self, tree: str) -> float:
        """What these files are truly worth."""
        return self._levels[tree]

    def prepare(self, idea: Idea, head: str) -> None:
        """The next tree that was never seen is this idea on top of the tree `head`."""
        self._next, self._head = idea, head

    def set_up(self) -> None:
        """The set-up command is not run."""

    def measure(
        self, commit: str, number: int = 0, sample: int = 0, files: Mapping[str, Entry] | None = None
    ) -> Measurement:
        """One measurement that was none: the true value of these files with noise, in simulated time."""
        self._last = tree = self._repository.tree_of(commit)
        spec, rng, record = self.project.spec, self._rng, self._record()
        if tree not in self._levels:
            self.ideas[tree] = self._next
            self._levels[tree] = self._levels[self._head] + (self._next.gain if spec.maximize else -self._next.gain)
        idea = self.ideas.get(tree, Idea("baseline"))
        seconds = record.seconds if record else spec.budget_minutes * 60
        problem = ""
        if idea.kind == "crash":
            seconds, problem = seconds * rng.random(), "exit: exit code 1"
        elif idea.kind == "timeout":
            seconds, problem = spec.timeout_seconds, f"timeout: no end after {spec.timeout_seconds:g} s"
        also = {"wall_seconds": seconds, **held(self._unknown), **(record.also if record else {})}
        if idea.kind == "limit":
            also |= held(spec.constraints[:1], broken=True)
        value = self._levels[tree] + self.model.draw(rng)
        self._clock.sleep(seconds)
        self.measured += 1
        tail = "a crash of the rehearsal's: nothing was run" if problem else ""
        return Measurement(None if problem else value, also, problem, seconds, tail, rng.randrange(2**31), machine())

    def failed_check(self, number: int) -> str:
        """The checks are not run: they fail for the idea that was made for it."""
        if self.ideas.get(self._last, Idea("baseline")).kind != "check":
            return ""
        return f"check `{self.project.spec.checks[0].command}` failed: in this rehearsal"

    def _record(self) -> Measurement | None:
        return self._rng.choice(self.model.records) if self.model.records else None
