"""The agent of a rehearsal: a fixed mix of ideas whose true worth is known, and of everything that agents do wrong.

It edits the real mutable files, at their ends, with text that nobody will ever run; where there are none it adds one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

from autoresearch_kit.agents.brief import desk_files, render_prompt
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.names import PROGRAM_NAME
from autoresearch_kit.core.records import Cost, Outcome, Proposal, number
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.lab.cache import remove
from autoresearch_kit.lab.desk import MAX_FILE_BYTES
from autoresearch_kit.ledger.git import GITLINK, SYMLINK
from autoresearch_kit.loop import Failed, Finished
from autoresearch_kit.ratchet import Run
from autoresearch_kit.rehearse.noise import Model
from autoresearch_kit.rehearse.stage import NAME, Clock, Idea, Stage

MIX = ("neutral",) * 7 + ("harmful",) * 2 + ("helpful",)
"""Of ten ideas."""
OPENING = (
    "idea", "no_change", "idea", "forbidden", "crash", "duplicate", "idea", "symlink", "timeout", "failure", "great",
)  # fmt: skip
"""The first turns, so that a short rehearsal has seen everything; never many in a row without a new tree."""
ROUND = 30
"""Turns after which they come again."""
CERTAIN = 10.0
"""So many mean effects are the gain of a great idea, which nothing but a limit or a check may refuse. The one without
either comes once: what a keep looks like."""


def turns(spec: Spec) -> Iterator[str]:
    """What the agent does in each of its turns, without an end."""
    opening = [*OPENING, *["limit"] * bool(spec.constraints), *["check"] * bool(spec.checks)]
    while True:
        yield from opening
        yield from ["idea"] * (ROUND - len(opening))
        opening = [play for play in opening if play != "great"]


class ScriptedAgent:
    """Plays `turns`, with a new hand of ideas for every ten."""

    def __init__(self, stage: Stage, model: Model, clock: Clock, rng: Random) -> None:
        self.prompt = b""
        """The last one."""
        self.program = b""
        self.seconds = 0.0
        """Simulated time that the turns took."""
        self._stage = stage
        self._model = model
        self._clock = clock
        self._rng = rng
        self._turns = turns(stage.project.spec)
        self._turn = 0
        self._hand: list[str] = []

    def propose(self, run: Run) -> Proposal | Finished | Failed:
        """Lay the desk as for a real agent, and play the next turn."""
        files = desk_files(run)
        self.program = files[PROGRAM_NAME]
        self.prompt = render_prompt(run).encode()
        run.lay_desk(files)
        run.told = ""
        self._turn += 1
        cost = self._cost()
        play = next(self._turns)
        if play == "failure":
            return Failed("The agent failed: exit code 1, as the rehearsal wants it", agent=NAME, cost=cost)
        if play == "duplicate":
            self._repeat(run)
        elif play == "symlink":
            target = self._file(run)
            remove(target)
            target.symlink_to("elsewhere")
        elif play == "forbidden":
            _append(run.desk.folder / run.project.place.spec_name, "# not yours to change\n")
        elif play != "no_change":
            return self._try(run, Idea(self._draw()) if play == "idea" else Idea(play), cost)
        return Proposal(f"turn {self._turn}: {play}", "", NAME, cost)

    def close(self) -> None:
        """Nothing to end."""

    def _try(self, run: Run, idea: Idea, cost: Cost) -> Proposal:
        size = self._rng.expovariate(1 / self._model.effect)
        certain = CERTAIN * self._model.effect
        gains = {"helpful": size, "harmful": -size, "great": certain, "limit": certain, "check": certain}
        idea = replace(idea, gain=gains.get(idea.kind, 0.0))
        _append(self._file(run), f"rehearsal: turn {self._turn}, {idea.kind}\n")
        self._stage.prepare(idea, run.head.tree)
        return Proposal(title(idea), f"Made in turn {self._turn} of a rehearsal.", NAME, cost)

    def _draw(self) -> str:
        if not self._hand:
            self._hand = self._rng.sample(MIX, len(MIX))
        return self._hand.pop()

    def _cost(self) -> Cost:
        cost = self._rng.choice(self._model.costs) if self._model.costs else Cost(seconds=0.0)
        self.seconds += cost.seconds or 0.0
        self._clock.sleep(cost.seconds or 0.0)
        return cost

    def _repeat(self, run: Run) -> None:
        """Put the files of an earlier attempt onto the desk."""
        counted = (Outcome.KEEP, Outcome.DISCARD, Outcome.CRASH)
        for other in reversed(run.attempts):
            if other.tree != run.head.tree and other.outcome in counted:
                run.desk.edit(run.project.repository.files(other.tree))
                return

    def _file(self, run: Run) -> Path:
        """A mutable file on the desk: each in turn, or a new one where there is none."""
        place = run.project.place
        files = sorted(
            path
            for path, entry in run.desk.files.items()
            if place.is_mutable(path) and entry.mode not in (SYMLINK, GITLINK)
        )
        for shift in range(len(files)):
            path = run.desk.root / files[(self._turn + shift) % len(files)]
            if path.stat().st_size < MAX_FILE_BYTES // 2:
                return path
        path = run.desk.root / new_path(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def new_path(run: Run) -> str:
    """A path, from the root, at which an agent could add a file; ArkError when none was found."""
    place, repository = run.project.place, run.project.repository
    for pattern in run.spec.mutable_files:
        path = place.prefix + _example(pattern)
        if place.is_mutable(path) and path not in run.desk.files and not repository.ignored([path]):
            return path
    raise ArkError(
        "no committed file is mutable, and no new one that `mutable_files` allows could be thought of",
        "correct `mutable_files`, or commit a first file; new files that git ignores are never taken",
    )


def _example(pattern: str) -> str:
    """A path that a glob may cover."""
    text = re.sub(r"\*+", NAME, pattern + NAME if pattern.endswith("/") else pattern)
    text = re.sub(r"\[(!?)(.)[^]]*\]", lambda found: "r" if found[1] else found[2], text)
    return text.replace("?", "r")


def title(idea: Idea) -> str:
    """What the ledger calls an idea."""
    words = {
        "neutral": "a neutral idea",
        "harmful": f"a harmful idea, truly worse by {number(-idea.gain)}",
        "helpful": f"a helpful idea, truly better by {number(idea.gain)}",
        "great": f"a great idea, truly better by {number(idea.gain)}",
        "crash": "an idea that crashes",
        "timeout": "an idea that never ends",
        "limit": "a great idea that breaks a limit",
        "check": "a great idea that fails a check",
    }
    return words[idea.kind]


def _append(path: Path, text: str) -> None:
    """Add a line to the end of a file, whatever it holds."""
    with path.open("ab") as file:
        file.write(b"\n" + text.encode())
