"""Runs side by side in words: what the numbers say, what the runs have in common, and how to try the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.entry import gain_of, gain_percent
from autoresearch_kit.core.records import clean_line, number
from autoresearch_kit.core.words import percent
from autoresearch_kit.views.changes import Change, Offer, Part, Where, can_try, offers, transplant_command, try_command
from autoresearch_kit.views.compare import Row, is_shown

if TYPE_CHECKING:
    pass

SHOWN_CHANGES = 8
"""So many changes of a kind are listed; `--json` has all."""
SHOWN_TARGETS = 2
"""For so many runs the commands that try the others' changes are written out."""
SHOWN_PARTS = 2
"""So many pieces of one change are told."""
TITLE_CHARACTERS = 72
"""Of a title in a list."""
VALUE_CHARACTERS = 24
"""Of a constant's value in a list."""
NAME_CHARACTERS = 60
"""Of the name of a run, which may be a path."""


def group_name(row: Row) -> str:
    """A, B, C, ...; beyond Z a number."""
    return chr(64 + row.group) if row.group <= 26 else str(row.group)


def run_name(run: Campaign) -> str:
    """What to call a run on a line."""
    return clean_line(run.name, NAME_CHARACTERS)


# What the numbers say


def sentences(rows: Sequence[Row]) -> list[str]:
    """What somebody who reads the table should know, in order of weight."""
    return [*_grouping(rows), *_lead(rows), *_gains(rows), *_notes(rows)]


def _grouping(rows: Sequence[Row]) -> Iterator[str]:
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    if len(groups) > 1 and not rows[0].why_not:
        names = _and(run_name(row.campaign) for row in groups[1])
        yield f"Places are given only among runs that were measured alike. A is {names}."
    for members in groups.values():
        if members[0].why_not:
            names = _and(run_name(row.campaign) for row in members)
            letter = f"{group_name(members[0])}, " if len(groups) > 1 else ""
            yield f"Not comparable: {letter}{names}: {'; '.join(members[0].why_not)}."


def _lead(rows: Sequence[Row]) -> Iterator[str]:
    """How far the first is ahead of the second among those measured alike, and what that is worth."""
    placed = [row for row in rows if row.group == 1 and row.rank is not None]
    if len(placed) < 2:
        return
    (one, first), (two, second) = ((row.campaign, row.campaign.best) for row in placed[:2])
    if first is None or second is None or first.value is None or second.value is None:
        return
    if first.value == second.value:
        yield f"{run_name(one)} and {run_name(two)} end with the same value."
        return
    ahead, share = (of(second.value, first.value, one.maximize) for of in (gain_of, gain_percent))
    how_far = "" if ahead is None else f" by {number(ahead)} {clean_line(one.metric, 40)}"
    how_far += "" if share is None else f" ({percent(share)})"
    text = f"{run_name(one)} ends better than {run_name(two)}{how_far}"
    noises = [row.noise for row in placed[:2] if row.noise is not None]
    noise = max(noises, default=0.0)
    if not noises:
        yield f"{text}; how much of that is noise is not known."
    elif not noise:
        yield f"{text}; the metric has shown no noise."
    elif not is_shown(*placed[:2]):
        yield f"{text}: less than twice the noise of one measurement ({number(noise)}), so no difference is shown."
    else:
        yield f"{text}; one measurement has a noise of {number(noise)} (standard deviation), and both were selected."


def _gains(rows: Sequence[Row]) -> Iterator[str]:
    """What the gains are worth, each sentence once."""
    alike: dict[str, list[Row]] = {}
    for row in rows:
        if row.gain_note:
            alike.setdefault(row.gain_note, []).append(row)
    for note, found in alike.items():
        names = "all of these" if len(found) == len(rows) > 2 else _and(run_name(row.campaign) for row in found)
        own = next((row.campaign for row in found if can_try(row.campaign)), None)
        hint = f"; for one with an interval: ark verify --tag {own.name}" if own and _is_open(found[0]) else ""
        yield f"The gain of {names}: {note}{hint}."


def _is_open(row: Row) -> bool:
    """Whether fresh measurements would say more of its gain."""
    return not row.is_verified and row.noise != 0


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        name = run_name(row.campaign)
        if row.same_as:
            yield f"{name} is also {_and(clean_line(other, NAME_CHARACTERS) for other in row.same_as)}: the same run."
        for note in row.campaign.notes:
            yield f"{name}: {clean_line(note, 300)}."


def _and(names: Iterable[str]) -> str:
    found = list(names)
    if len(found) > 6:
        found = [*found[:5], f"{len(found) - 5} others"]
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


# Changes


def part_words(part: Part, before: str = "") -> str:
    """One change: `train.py: LR 0.1 -> 0.05`, or how many lines went and came."""
    file = clean_line(part.file, NAME_CHARACTERS)
    if part.name:
        old, new = (clean_line(text, VALUE_CHARACTERS) for text in (before or part.removed[0], part.added[0]))
        return f"{file}: {part.name} {old} -> {new}"
    if len(part.removed) == 1 and len(part.added) == 1:
        old, new = clean_line(part.removed[0], 2 * VALUE_CHARACTERS), clean_line(part.added[0], 2 * VALUE_CHARACTERS)
        return f"{file}: {old} -> {new}"
    return f"{file}: {len(part.removed)} lines out, {len(part.added)} in"


def common_lines(found: Sequence[Change]) -> list[str]:
    """The changes that several runs came to, each with where."""
    return [
        f"{part_words(change.part, change.places[0].before)}  [{_places(change)}]{_only(change)}"
        for change in found
        if change.is_common
    ]


def _places(change: Change) -> str:
    return ", ".join(f"{run_name(where.run)}/{where.attempts[-1].number}" for where in change.places)


def _only(change: Change) -> str:
    words = [f"only on {change.only_machine}" if change.only_machine else ""]
    words += [f"only by {change.only_agent}" if change.only_agent else ""]
    said = ", ".join(word for word in words if word)
    return f", {said}" if said else ""


def value_lines(found: Sequence[Change]) -> list[str]:
    """The constants that several runs turned to different values."""

    def words(where: Where) -> str:
        value = clean_line(where.part.added[0], VALUE_CHARACTERS)
        return f"{value} [{run_name(where.run)}/{where.attempts[-1].number}]"

    return [
        f"{clean_line(change.part.file, NAME_CHARACTERS)}: {change.part.name} "
        f"{clean_line(change.places[0].before, VALUE_CHARACTERS)} -> {', '.join(map(words, change.places))}"
        for change in found
        if change.differs
    ]


def offer_words(offer: Offer) -> list[str]:
    """A kept change that another run lacks, and below it what was changed."""
    last = offer.attempts[-1]
    by = f", by {last.proposal.agent.removeprefix('by ')}" if last.proposal.agent else ""
    title = clean_line(last.proposal.title, TITLE_CHARACTERS)
    numbers = _and(str(attempt.number) for attempt in offer.attempts)
    said = [f"    {part_words(part)}" for part in offer.parts[:SHOWN_PARTS]]
    if len(offer.parts) > SHOWN_PARTS:
        left = len(offer.parts) - SHOWN_PARTS
        said[-1] += f", and {left} other{'s' * (left > 1)}"
    return [f"{run_name(offer.run)}/{numbers}  {title}{by}", *said]


@dataclass(frozen=True)
class Particular:
    """What others kept and one run lacks."""

    target: Campaign
    """The run, in which attempts can be made here."""
    lacking: Sequence[Offer]
    """What the others kept."""

    @property
    def heading(self) -> str:
        """How many there are."""
        return f"Kept elsewhere and not in {run_name(self.target)}: {len(self.lacking)}"

    @property
    def commands(self) -> list[str]:
        """What tries the first of them, and what tries them all."""
        return [try_command(self.target, self.lacking[0].names), transplant_command(self.target)]


def particular(rows: Sequence[Row], found: Sequence[Change]) -> list[Particular]:
    """For the first runs in which attempts can be made: what they lack."""
    made: list[Particular] = []
    for run in (row.campaign for row in rows):
        if len(made) < SHOWN_TARGETS and can_try(run) and (lacking := offers(found, run)):
            made.append(Particular(run, lacking))
    return made


def only_lines(found: Sequence[Change]) -> list[tuple[str, list[str]]]:
    """How many changes are of one kind of machine only, and of one agent only, the most first."""

    def counted(names: Iterable[str]) -> list[str]:
        return [f"{count:>4}  {name}" for name, count in Counter(filter(None, names)).most_common()]

    return [
        ("Kept on one kind of machine only", counted(change.only_machine for change in found)),
        ("Found by one agent only", counted(change.only_agent for change in found)),
    ]


def change_lines(rows: Sequence[Row], found: Sequence[Change]) -> Iterator[str]:
    """The changes for a terminal, a few of each kind."""
    if not found:
        return
    for heading, lines in (
        ("Kept by several runs", common_lines(found)),
        ("The same constant, turned to other values", value_lines(found)),
    ):
        if lines:
            yield from ("", f"{heading}: {len(lines)}", *_some(lines))
    for heading, lines in only_lines(found):
        if lines:
            yield from ("", f"{heading}:", *(f"  {line}" for line in lines))
    alone = sum(len(change.places) == 1 for change in found)
    targets = particular(rows, found)
    for target in targets:
        one, all_of_them = target.commands
        yield from ("", target.heading)
        for offer in target.lacking[:SHOWN_CHANGES]:
            yield from (f"  {line}" for line in offer_words(offer))
        yield from _more(len(target.lacking))
        yield from ("  to try the first of them there, or all in turn:", f"    {one}", f"    {all_of_them}")
    if alone and not targets:
        yield ""
        yield f"{alone} kept changes are in one run only; they can be tried where the other run was made."


def _some(lines: Sequence[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:SHOWN_CHANGES])
    yield from _more(len(lines))


def _more(count: int) -> Iterator[str]:
    if count > SHOWN_CHANGES:
        yield f"  ... and {count - SHOWN_CHANGES} more: --json lists all"
