"""What another decision rule would have made of a run, from its recorded samples alone: nothing is measured.

Each attempt is judged against the head that it was really measured against. A rule that wants samples which were never
taken gets no answer: that attempt cannot be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from autoresearch_kit.core.decide import Again, Case, decide
from autoresearch_kit.core.errors import SpecError, UsageError
from autoresearch_kit.core.history import History
from autoresearch_kit.core.records import Attempt, Measurement, Outcome, Verdict
from autoresearch_kit.core.spec import Decision
from autoresearch_kit.core.specfile import parse_spec
from autoresearch_kit.project import Project, count_lines

_REST = "metric: m\nmetric_direction: minimize\nmutable_files: [a]\nrun_command: a\n"
"""What a spec needs besides a decision."""
JUDGED = (Outcome.KEEP, Outcome.DISCARD, Outcome.CRASH)


@dataclass(frozen=True, slots=True)
class Replayed:
    """One attempt under another rule."""

    attempt: Attempt
    """As it was."""
    verdict: Verdict | None
    """What the rule says; None when it would have measured further."""
    wanted: str
    """What it would have measured next; empty with a verdict."""

    @property
    def differs(self) -> bool:
        """Whether it is known to end otherwise."""
        return self.verdict is not None and self.verdict.outcome is not self.attempt.outcome


def read_rule(text: str) -> Decision:
    """A rule as `decision` in the spec would be written, on one line; UsageError when it is none."""
    line = " ".join(text.split()) or '""'
    try:
        return parse_spec(f"{_REST}decision: {line}\n", "").decision
    except SpecError as error:
        said = re.sub(r"^:\d+: ", "", error.message.split("\n")[0])
        raise UsageError(
            f"`{text}` is not a rule: {said}",
            "write it as `decision` in the spec: first_better, or '{rule: sequential, false_keeps: 0.01}'",
        ) from None


def replay(project: Project, attempts: Sequence[Attempt], rule: Decision) -> Iterator[Replayed]:
    """Every attempt that was judged, baselines not, under `rule`."""
    history = History()
    head: Attempt | None = None
    for attempt in attempts:
        found: Replayed | None = None
        if head is not None and attempt.outcome in JUDGED and not attempt.is_baseline:
            found = _judge(project, attempt, head, rule, history)
            yield found
        # The rule's own expenses count, on the road that was really taken.
        share = found.verdict.share if found and found.verdict else None
        history.add(replace(attempt, verdict=attempt.verdict and replace(attempt.verdict, share=share)))
        if attempt.outcome is Outcome.KEEP:
            head = attempt


def _judge(project: Project, attempt: Attempt, head: Attempt, rule: Decision, history: History) -> Replayed:
    spec, repository = project.spec, project.repository

    def answer(lines_less: int) -> Verdict | Again:
        taken: list[Measurement] = []
        rest = list(attempt.measurements)
        while True:
            case = Case(
                spec.maximize, rule, spec.constraints, head, taken, lines_less, history, spec.budget.attempts
            )  # fmt: skip
            found = decide(case)
            if isinstance(found, Verdict) or not rest or rest[0].of_head != (found is Again.HEAD):
                return found
            taken.append(rest.pop(0))

    found = answer(0)
    if answer(1) != found:  # only now, because counting lines means opening files
        found = answer(count_lines(repository, repository.files(head.commit), repository.files(attempt.commit)))
    recorded = attempt.verdict
    failed = recorded is not None and recorded.reason.startswith("Discard: check `")
    if isinstance(found, Verdict) and found.outcome is Outcome.KEEP and failed:
        found = recorded or found  # no rule keeps what failed a check
    if isinstance(found, Again):
        return Replayed(attempt, None, f"the {found} once more")
    return Replayed(attempt, found, "")


def replay_entry(replayed: Replayed) -> dict[str, object]:
    """One replayed attempt as JSON."""
    verdict = replayed.verdict
    return {
        "number": replayed.attempt.number,
        "outcome": str(replayed.attempt.outcome),
        "replayed": str(verdict.outcome) if verdict else None,
        "differs": replayed.differs,
        "reason": verdict.reason if verdict else f"Unknown: it would have measured {replayed.wanted}",
        "title": replayed.attempt.proposal.title,
    }


def replay_lines(found: Sequence[Replayed]) -> list[str]:
    """For a person: what would have ended otherwise or cannot be told, and the sum."""
    lines = []
    for replayed in found:
        entry = replay_entry(replayed)
        if replayed.verdict is None or replayed.differs:
            lines.append(
                f"{entry['number']:>4}  {entry['outcome']:<7} -> {entry['replayed'] or 'unknown':<7}  "
                f"{str(entry['reason']).partition(': ')[2]}  | {entry['title']}"
            )
    kept = [str(r.attempt.number) for r in found if r.verdict and r.verdict.outcome is Outcome.KEEP]
    was = sum(r.attempt.outcome is Outcome.KEEP for r in found)
    unknown = sum(r.verdict is None for r in found)
    count = f"{len(kept)} to {len(kept) + unknown}" if unknown else f"{len(kept)}"
    lines.append(
        f"of {len(found)} attempts this rule would have kept {count} where {was} were kept"
        + (f"; {unknown} cannot be told from what was measured" if unknown else "")
        + (f"; it keeps {', '.join(kept)}" if kept else "")
    )
    return lines
