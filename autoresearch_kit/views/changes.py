"""Which kept changes several runs have in common, and which are particular to one run, machine or agent.

Two changes are the same when they turn the same constant to the same value, or take the same lines out of the same
file and put the same lines in; white space and the lines around do not count. A constant is what stands left of `=` or
`:` (or after `#define`) with a plain number, word or switch to its right, before and after. Of a constant that a run
turned again and again, the value at the run's end counts, and changes that the run itself has undone do not count.

What is particular to one run may be worth a try on the others. That a change was kept elsewhere is a reason to try it,
and none to believe in it: whether it helps here is for a measurement here to say.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoresearch_kit.core.campaign import ARK, BRANCH, Campaign
from autoresearch_kit.core.records import Attempt, clean_line
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.patches import patches

MAX_LINES = 400
"""Changed lines of one file of one attempt that are looked at; whoever rewrites more has nothing in common."""
_ASSIGNMENT = re.compile(
    r"""(?:\#\s*define\s+(?P<macro>[A-Za-z_]\w*)\s+
      |(?P<quote>["']?)(?P<name>[A-Za-z_][\w.-]*)(?P=quote)\s*(?::\s*[\w\[\], .|]+=|[:=])\s*)
    (?P<value>[-+]?[\d.][\w.+*/() -]*|"[^"]*"|'[^']*'|[A-Za-z_]\w*)
    \s*[,;]?\s*(?:(?:\#|//).*)?""",
    re.X,
)


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that a patch changes; equal ones are the same change."""

    file: str
    """Path from the root."""
    name: str
    """The constant; empty for lines."""
    removed: tuple[str, ...]
    """Lines taken out, without white space at their ends; of a constant its old value, which distinguishes nothing."""
    added: tuple[str, ...]
    """Lines put in; of a constant its new value."""

    @property
    def key(self) -> tuple[object, ...]:
        """By what the same change in another run is found: of a constant its name alone."""
        return (self.file, self.name) if self.name else (self.file, self.removed, self.added)


@dataclass(frozen=True, slots=True)
class Where:
    """One run in which a part was kept."""

    run: Campaign
    """The run."""
    attempts: tuple[Attempt, ...]
    """Kept attempts that changed it, in order."""
    part: Part
    """As it was changed last."""
    before: str
    """Of a constant: its value before the first of them."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change, and every run that kept it."""

    places: tuple[Where, ...]
    """In the order of the runs."""
    present: tuple[str, ...]
    """Names of the other runs whose best files have it all the same, because they began with it."""
    only_machine: str
    """The kind of machine on which alone it was kept, where the runs were on several; else empty."""
    only_agent: str
    """The agent that alone came upon it, where several have kept something; else empty."""

    @property
    def part(self) -> Part:
        """As the first of them changed it."""
        return self.places[0].part

    @property
    def is_common(self) -> bool:
        """Whether two runs or more came to the same."""
        return len(self.places) > 1 and not self.differs

    @property
    def differs(self) -> bool:
        """Whether several runs turned one constant to different values."""
        return len(self.places) > 1 and len({where.part.added for where in self.places}) > 1


# Finding


def changes(repository: Repository, runs: Sequence[Campaign]) -> list[Change]:
    """Every kept change of these runs, those in most runs first; of runs whose commits are here, two at least."""
    runs = [run for run in runs if run.source in (ARK, BRANCH) and run.best is not None]
    if len(runs) < 2:
        return []
    found = patches(repository, (a.commit for run in runs for a in run.kept))
    files = _Files(repository)
    grouped: dict[tuple[object, ...], list[Where]] = {}
    for run in runs:
        for key, where in _of_run(run, found).items():
            if files.has(run, where.part):  # else it was undone, or became something else
                grouped.setdefault(key, []).append(where)
    machines = {run.name: run.machines[0] if run.machines else "" for run in runs}
    agents = {a.proposal.agent for run in runs for a in run.kept if a.proposal.agent}
    made = []
    for places in grouped.values():
        names = {where.run.name for where in places}
        present = tuple(run.name for run in runs if run.name not in names and files.has(run, places[0].part))
        authors = {a.proposal.agent for where in places for a in where.attempts}
        only_machine = _only({machines[name] for name in names}, set(machines.values()))
        made.append(Change(tuple(places), present, only_machine, _only(authors, agents)))
    return sorted(made, key=lambda change: -len(change.places))


def _only(found: set[str], there_are: set[str]) -> str:
    """The one that was found, where there are others."""
    return next(iter(found)) if len(found) == 1 and len(there_are) > 1 else ""


def _of_run(run: Campaign, found: Mapping[str, str]) -> dict[tuple[object, ...], Where]:
    made: dict[tuple[object, ...], Where] = {}
    for attempt in run.kept:
        for part in parts(found.get(attempt.commit, "")):
            earlier = made.get(part.key)
            before = earlier.before if earlier else " ".join(part.removed)
            attempts = (*earlier.attempts, attempt) if earlier else (attempt,)
            made[part.key] = Where(run, attempts, part, before if part.name else "")
    # A constant that was turned back is as it was.
    return {key: where for key, where in made.items() if not where.part.name or where.before != where.part.added[0]}


class _Files:
    """What is in the best files of each run."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._known: dict[tuple[str, str], tuple[frozenset[str], frozenset[tuple[str, str]]]] = {}

    def has(self, run: Campaign, part: Part) -> bool:
        """Whether the run ends with this part."""
        assert run.best is not None
        key = (run.best.commit, part.file)
        if key not in self._known:
            data = self._repository.file_at(*key) or b""
            lines = [_plain(line) for line in data.decode("utf-8", "replace").splitlines()]
            self._known[key] = (frozenset(lines), frozenset(filter(None, map(_assignment, lines))))
        lines_there, values = self._known[key]
        if part.name:
            return (part.name, part.added[0]) in values
        gone = set(part.removed) - set(part.added)
        # Lines that are elsewhere in the file too say nothing; but lines that were only taken out must be gone.
        return lines_there.issuperset(part.added) if part.added else not lines_there.intersection(gone)


# Reading a patch


def parts(patch: str) -> list[Part]:
    """What a patch changes, piece by piece: neighbouring lines are one piece, each constant is one of its own."""
    found: list[Part] = []
    for file, removed, added in _blocks(patch):
        old, new = _constants(removed), _constants(added)
        turned = [name for name in old if name in new]
        found += [
            Part(file, name, (old[name],), (new[name],)) for name in turned if old[name] != new[name]
        ]  # fmt: skip
        rest = [
            tuple(line for line in lines if (_assignment(line) or ("",))[0] not in turned) for lines in (removed, added)
        ]
        if any(rest) and rest[0] != rest[1]:
            found.append(Part(file, "", rest[0], rest[1]))
    return found


def _blocks(patch: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """File, lines out, lines in, of each piece of neighbouring changed lines; what is not text has none."""
    file, removed, added = "", [], []  # type: str, list[str], list[str]
    inside = False
    count = 0
    for line in [*patch.split("\n"), "diff --git end"]:
        sign = line[:1]
        if inside and sign in ("-", "+") and count < MAX_LINES:
            count += 1
            if text := _plain(line[1:]):
                (removed if sign == "-" else added).append(text)
            continue
        if sign == "\\":  # no newline at the end of the file
            continue
        if removed or added:
            yield file, removed, added
            removed, added = [], []
        if line.startswith("diff --git "):
            inside, count = False, 0
        elif line.startswith("@@ "):
            inside = True
        elif not inside and line.startswith(("+++ ", "--- ")) and line[4:] != "/dev/null":
            file = line[4:].split("\t")[0].strip('"').partition("/")[2]


def _plain(line: str) -> str:
    return clean_line(line, 500).strip()


def _assignment(line: str) -> tuple[str, str] | None:
    """Name and value of a constant that a line sets, or None."""
    match = _ASSIGNMENT.fullmatch(line)
    return (match["macro"] or match["name"], match["value"].strip()) if match else None


def _constants(lines: Iterable[str]) -> dict[str, str]:
    """The constants that are set in lines, each once."""
    found = [pair for line in lines if (pair := _assignment(line))]
    names = [name for name, _ in found]
    return {name: value for name, value in found if names.count(name) == 1}


# Trying elsewhere


@dataclass(frozen=True, slots=True)
class Offer:
    """What one run kept and another does not have."""

    run: Campaign
    """Where it was kept."""
    attempts: tuple[Attempt, ...]
    """Those that make up the change, in order: a constant may have been turned in several steps."""
    parts: tuple[Part, ...]
    """What of it the other run lacks."""

    @property
    def names(self) -> list[str]:
        """The attempts as `ark try --from` takes them."""
        return [f"{self.run.name}/{attempt.number}" for attempt in self.attempts]


def offers(found: Iterable[Change], target: Campaign) -> list[Offer]:
    """What other runs kept and `target` neither kept nor has; for a constant also another value.

    The changes of one run after those of another, in the order in which they were kept. Of a run whose ledger is not
    here no attempt can be named.
    """
    made: dict[str, dict[int, Offer]] = {}
    tried = {name for attempt in target.attempts for name in attempt.proposal.origin}
    for change in found:
        here = next((where for where in change.places if where.run.name == target.name), None)
        for where in change.places:
            name, last = where.run.name, where.attempts[-1]
            lacking = target.name not in change.present if here is None else where.part.added != here.part.added
            can_be_named = where.run.source == ARK and last.spec == target.attempts[0].spec
            if where is here or not lacking or not can_be_named or f"{name}/{last.number}" in tried:
                continue
            of_run = made.setdefault(name, {})
            known = of_run.get(last.number, Offer(where.run, (), ()))
            attempts = {attempt.number: attempt for attempt in (*known.attempts, *where.attempts)}
            part = replace(where.part, removed=(where.before,)) if where.part.name else where.part
            of_run[last.number] = Offer(
                where.run, tuple(attempts[number] for number in sorted(attempts)), (*known.parts, part)
            )
    return [of_run[number] for of_run in made.values() for number in sorted(of_run)]


def can_try(run: Campaign) -> bool:
    """Whether attempts can be made in it here: it is a run of this repository."""
    return run.source == ARK and "/" not in run.name


def try_command(target: Campaign, names: Sequence[str]) -> str:
    """The command that tries these attempts, as `TAG/N`, on a desk of the run."""
    origins = " ".join(f"--from {shlex.quote(name)}" for name in names)
    return f'cd "$(ark desk --tag {shlex.quote(target.name)})" && ark try {origins}'


def transplant_command(target: Campaign) -> str:
    """The command that tries whatever other runs kept."""
    return f"ark run --tag {shlex.quote(target.name)} --agent transplant"


# As JSON


def change_data(change: Change) -> dict[str, Any]:
    """One change as JSON."""
    part = change.part
    return {
        "kind": "constant" if part.name else "lines",
        "file": part.file,
        "name": part.name or None,
        "removed": None if part.name else list(part.removed),
        "added": None if part.name else list(part.added),
        "common": change.is_common,
        "other_values": change.differs,
        "only_machine": change.only_machine or None,
        "only_agent": change.only_agent or None,
        "present_in": list(change.present),
        "runs": [
            {
                "tag": where.run.name,
                "attempts": [attempt.number for attempt in where.attempts],
                "titles": [attempt.proposal.title for attempt in where.attempts],
                "agents": list(dict.fromkeys(a.proposal.agent for a in where.attempts if a.proposal.agent)),
                "machine": where.attempts[-1].machine,
                "before": where.before if part.name else None,
                "value": where.part.added[0] if part.name else None,
            }
            for where in change.places
        ],
    }


def offers_data(found: Sequence[Change], runs: Iterable[Campaign]) -> list[dict[str, Any]]:
    """For each run in which attempts can be made, what of the others it lacks, with the commands."""
    return [
        {
            "tag": target.name,
            "changes": [{"from": offer.names, "try": try_command(target, offer.names)} for offer in made],
            "all": transplant_command(target),
        }
        for target in runs
        if can_try(target) and (made := offers(found, target))
    ]
