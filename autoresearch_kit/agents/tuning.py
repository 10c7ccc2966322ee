"""The search program as an agent: keeps one process of it for the whole run and tells it what the ledger holds."""

from __future__ import annotations

import hashlib
from typing import Any

from autoresearch_kit.agents import search
from autoresearch_kit.core import tunables
from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.literals import Value
from autoresearch_kit.core.records import Attempt, Outcome, Proposal
from autoresearch_kit.lab.measure import Phase
from autoresearch_kit.loop import Failed, Finished
from autoresearch_kit.project import Project
from autoresearch_kit.ratchet import Run, Watch

TURN_SECONDS = 60.0
"""What a proposal is meant to take at most, for the display."""


class TuningAgent:
    """Turns the spec's tunables. Started before the baseline, so that its imports cost no time."""

    def __init__(self, run: Run, watch: Watch) -> None:
        spec = run.spec
        if not spec.tunables:
            raise UsageError("the search agent has nothing to turn", "write `tunables:` in the spec")
        read_tunables(run.project, run.start)
        self._watch = watch
        self._told: set[int] = set()
        self._log = run.cache / "logs" / "search.log"
        # The same for a run however often it is resumed; the number of attempts makes each stretch its own.
        text = f"{run.ledger.branch} {run.start} {len(run.attempts)}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        self._search = search.SearchAgent(spec.tunables, spec.metric_direction, seed, log=self._log)

    def propose(self, run: Run) -> Proposal | Finished | Failed:
        """Let the search program edit the tunables on the desk."""
        self._watch(Phase("agent", TURN_SECONDS, self._log, "search"))
        run.lay_desk({})
        new = [a for a in run.attempts if a.verdict is not None and a.number not in self._told]
        new = [a for a in new if _says_something(a, run.head)]
        answer = self._search.propose(run.desk.folder, [self._entry(run.project, a) for a in new])
        self._told.update(a.number for a in new)
        if isinstance(answer, str):
            return Finished(answer)
        title, why = answer
        return Proposal(title, why, "search")

    def close(self) -> None:
        """End the program."""
        self._search.close()

    def _entry(self, project: Project, attempt: Attempt) -> dict[str, Any]:
        try:
            texts, wanted = _texts(project, attempt.commit), project.spec.tunables
            parameters = {
                key: tunables.read(texts[t.file], t) for key, t in zip(tunables.keys(wanted), wanted, strict=True)
            }
        except ArkError:  # another agent rewrote the files: nothing to learn for this one
            parameters = {}
        return {
            "number": attempt.number,
            "outcome": str(attempt.outcome),
            "value": attempt.value,
            "parameters": parameters,
        }


def _says_something(attempt: Attempt, head: Attempt) -> bool:
    """Whether an attempt was measured as the head was; a lost one was not, and its combination is free again."""
    same_machine = attempt.machine == head.machine or attempt.outcome is Outcome.LOST
    return same_machine and attempt.yardstick == head.yardstick


def read_tunables(project: Project, commit: str) -> dict[str, Value]:
    """The tunables' values in `commit`; ArkError for the first that is not found there or cannot be turned."""
    return tunables.read_all(_texts(project, commit), project.spec.tunables)


def _texts(project: Project, commit: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name in dict.fromkeys(tunable.file for tunable in project.spec.tunables):
        data = project.repository.file_at(commit, project.place.prefix + name)
        if data is None:
            raise ArkError(f"`{name}` holds a tunable and is not committed", "commit it, or correct `tunables`")
        texts[name] = data.decode("utf-8", "replace")
    return texts
