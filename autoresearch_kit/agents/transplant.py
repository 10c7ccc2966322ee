"""The agent that tries here what was kept elsewhere: every kept change of the other runs, merged onto the head.

The other runs are those of this repository, and after them those that `ark fetch` brought from others. A change that
does not fit any more, or is in already, costs nothing; a run that cannot be read is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.records import Attempt, Outcome, Proposal
from autoresearch_kit.ledger.ledger import Ledger, names
from autoresearch_kit.loop import Failed, Finished
from autoresearch_kit.ratchet import NoAttempt, Note, Run, Watch


class TransplantAgent:
    """Proposes each kept change of the other runs once, the oldest first; ends when there is none left."""

    name = "transplant"

    def __init__(self, run: Run, watch: Watch) -> None:
        self._watch = watch
        self._tried: set[str] = set()
        self._left: Iterator[tuple[str, Attempt]] | None = None

    def propose(self, run: Run) -> Proposal | Finished | Failed:
        """Put the next change that fits onto the desk."""
        if self._left is None:
            self._tried = {name for attempt in run.attempts for name in attempt.proposal.origin}
            self._left = _kept_elsewhere(run, self._watch)
        for name, other in self._left:
            if name in self._tried:
                continue
            self._tried.add(name)
            change = run.change_of([other])
            if isinstance(change, NoAttempt):
                self._watch(Note(f"{name} is passed over: {change.reason}"))
                continue
            run.lay_desk({})
            run.desk.edit(change.files)
            said = other.verdict.reason if other.verdict else ""
            why = f"{other.proposal.why}\n\nKept as {name}: {said}".strip()
            return Proposal(other.proposal.title, why, self.name, origin=(name,))
        return Finished("every kept change of the other runs has been tried")

    def close(self) -> None:
        """Nothing to end."""


def _kept_elsewhere(run: Run, watch: Watch) -> Iterator[tuple[str, Attempt]]:
    repository = run.project.repository
    seen = {attempt.commit for attempt in run.attempts}  # what was pushed comes back when it is fetched
    for name in names(repository):
        if name == run.tag:
            continue
        try:
            attempts = Ledger(repository, run.spec.branch_prefix, name).read()
        except ArkError as error:  # somebody else's refs are no reason to end a night
            watch(Note(f"run {name} is passed over: {error.message}"))
            continue
        for attempt in attempts:
            ours = attempt.spec in ("", run.project.spec_name)
            if ours and attempt.outcome is Outcome.KEEP and not attempt.is_baseline and attempt.commit not in seen:
                seen.add(attempt.commit)
                yield f"{name}/{attempt.number}", attempt
