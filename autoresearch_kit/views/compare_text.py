"""Runs side by side in words and tables: what `ark compare` prints, and what its page says.

Numbers are written with as many digits as tell them apart. What is not known is `?`, what does not apply is `-`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoresearch_kit.core.campaign import ARK, Campaign
from autoresearch_kit.core.interval import Interval
from autoresearch_kit.core.records import Outcome, clean_line, number
from autoresearch_kit.views.changes import Change, Offer, Part, Where, can_try, offers, transplant_command, try_command
from autoresearch_kit.views.compare import Row, agents_data, percent, total_cost

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

UNKNOWN, NONE = "?", "-"
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

WORDS = ("agent", "machine")
"""Facts that may be long, and are broken into lines."""
TABLES = (
    ("place", "metric", "kept", "crashed", "lost", "baseline", "best", "gain", "verified", "to best"),
    ("running", "at work", "per hour", "agent time", "tokens", "money", "started"),
    WORDS,
)
"""When a run is a row: which facts are in which table."""

Facts = Mapping[str, str]


# Numbers as people read them


def digits(values: Iterable[float | None]) -> int:
    """Significant digits that tell values apart which are not equal; six where that is enough."""
    found = {value for value in values if value is not None}
    return next((n for n in range(6, 17) if len({f"{value:.{n}g}" for value in found}) == len(found)), 17)


def duration(seconds: float | None) -> str:
    """`48 s`, `12 min`, `3.4 h`, `2.1 d`."""
    if seconds is None:
        return UNKNOWN
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 100 * 3600 else f"{seconds / 86400:.1f} d"


def _rate(rate: float | None) -> str:
    if rate is None:
        return UNKNOWN
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.3g}"


def gain_cell(run: Campaign) -> str:
    """The gain over the baseline: `9.3 %`, `3.1 times`, or in units of the metric where percents mean nothing."""
    first, best = (found.value if found else None for found in (run.baseline, run.best))
    if first is None or best is None or first == best:
        return NONE
    if run.maximize and 0 < 2 * first <= best < 1e6 * first:
        return f"{best / first:.3g} times"
    share = percent(run)
    return f"{share:.3g} %" if share is not None else number(best - first if run.maximize else first - best)


def _verified(row: Row) -> str:
    found = row.verification
    if found is None or found.gain is None or not row.is_verified:
        return "no"
    if found.gain.exact:
        value = found.gain.percent or found.gain.absolute
        return f"{value.value:.3g}{' %' if found.gain.percent else ''} exactly"
    return _interval(found.gain.percent, " %") if found.gain.percent else _interval(found.gain.absolute, "")


def _interval(found: Interval, unit: str) -> str:
    return f"{found.low:.3g} to {found.high:.3g}{unit}"


def group_name(row: Row) -> str:
    """A, B, C, ...; beyond Z a number."""
    return chr(64 + row.group) if row.group <= 26 else str(row.group)


def run_name(run: Campaign) -> str:
    """What to call a run on a line."""
    return clean_line(run.name, NAME_CHARACTERS)


def facts(rows: Sequence[Row]) -> list[Facts]:
    """What is said of each run, by label in order; a label that says nothing of any of them is left out."""
    runs = [row.campaign for row in rows]
    width = digits(found.value for run in runs for found in (run.baseline, run.best) if found)
    several_groups = len({row.group for row in rows}) > 1
    several_metrics = len({(run.metric, run.maximize) for run in runs}) > 1

    def value(number: float | None) -> str:
        return NONE if number is None else f"{number:.{width}g}"

    def of(row: Row) -> dict[str, str]:
        run = row.campaign
        best, cost = run.best, total_cost(run.attempts)
        outcomes = [a.outcome for a in run.tried]

        def count(outcome: Outcome) -> str:
            return str(outcomes.count(outcome)) if row.knows_all else UNKNOWN

        to_best = NONE
        if row.attempts_to_best:
            to_best = f"{row.attempts_to_best} in {duration(row.seconds_to_best)}"
        place = NONE if row.rank is None else str(row.rank)
        return {
            "place": f"{place} in {group_name(row)}" if several_groups and row.rank else place,
            "metric": clean_line(run.metric, 40) if several_metrics else "",
            "kept": f"{len(run.kept)} of {UNKNOWN if row.attempts is None else row.attempts}",
            "discarded": count(Outcome.DISCARD),
            "crashed": count(Outcome.CRASH),
            "lost": count(Outcome.LOST) if Outcome.LOST in outcomes else "",
            "running": f"attempt {run.tried[-1].number}" if Outcome.RUNNING in outcomes[-1:] else "",
            "baseline": value(run.baseline.value if run.baseline else None),
            "best": value(best.value if best else None),
            "gain": gain_cell(run),
            "verified": _verified(row) if run.source == ARK else "",
            "to best": to_best,
            "at work": duration(row.seconds),
            "per hour": _rate(row.attempts_per_hour),
            "agent time": "" if cost.seconds is None else duration(cost.seconds),
            "tokens": "" if cost.tokens is None else f"{cost.tokens:,}",
            "money": "" if cost.money is None else f"{cost.money:.2f}",
            "started": run.attempts[0].started[:16].replace("T", " ") if run.attempts else "",
            "agent": ", ".join(_agent_words(run)) or UNKNOWN,
            "machine": "; ".join(run.machines) or UNKNOWN,
        }

    found = [of(row) for row in rows]
    labels = [label for label in (found[0] if found else {}) if any(entry[label] for entry in found)]
    if all(entry.get("verified") in ("no", "", None) for entry in found) and "verified" in labels:
        labels.remove("verified")
    return [{label: entry[label] or _absent(label) for label in labels} for entry in found]


def _absent(label: str) -> str:
    """What stands for a fact that is not there: of some it is known that there is none."""
    return NONE if label in ("lost", "running", "verified") else UNKNOWN


def _agent_words(run: Campaign) -> list[str]:
    agents = agents_data(run)
    if len(agents) == 1:
        return [str(agents[0]["agent"])]
    return [
        f"{agent['agent']} ({agent['kept']}" + (" kept)" if agent["attempts"] is None else f" of {agent['attempts']})")
        for agent in agents
    ]


# Tables for a terminal


def print_table(console: Console, rows: Sequence[Row]) -> None:
    """The facts, a run a column where all fit, else a run a row, else as many columns at a time as fit."""
    found = facts(rows)
    labels = list(found[0])
    whole = _columns(rows, found, labels)
    if _fits(console, whole):
        console.print(whole)
        return
    tables = [_rows(rows, found, [label for label in labels if label in part]) for part in TABLES]
    if len(rows) > 2 and all(_fits(console, table) for table in tables):
        for at, table in enumerate(tables):
            console.print(*[""] * bool(at), table, sep="\n")
        return
    at = 0
    while at < len(rows):
        count = len(rows) - at
        while count > 1 and not _fits(console, _columns(rows[at : at + count], found[at : at + count], labels)):
            count -= 1
        console.print(_columns(rows[at : at + count], found[at : at + count], labels))
        at += count
        if at < len(rows):
            console.print()


def _fits(console: Console, table: Table) -> bool:
    """Whether nothing needs to be cut."""
    from rich.measure import Measurement

    options = console.options.update(max_width=10_000)
    return Measurement.get(console, options, table).minimum <= console.width


def _columns(rows: Sequence[Row], found: Sequence[Facts], labels: Sequence[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("", style="dim", no_wrap=True)
    for row, entry in zip(rows, found, strict=True):
        # No number is broken; names and machines may be.
        width = max(len(text) for label, text in entry.items() if label not in WORDS)
        table.add_column(Text(run_name(row.campaign), style="bold"), overflow="fold", min_width=max(width, 16))
    for label in labels:
        table.add_row(label, *(Text(entry[label], style=_style(label)) for entry in found))
    return table


def _rows(rows: Sequence[Row], found: Sequence[Facts], labels: Sequence[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    table.add_column("run", overflow="fold", min_width=10, style="bold")
    for label in labels:
        if label in WORDS:
            table.add_column(label, overflow="fold", min_width=20)
        else:
            table.add_column(label, no_wrap=True)
    for row, entry in zip(rows, found, strict=True):
        table.add_row(Text(run_name(row.campaign)), *(Text(entry[label], style=_style(label)) for label in labels))
    return table


def _style(label: str) -> str:
    return "bold" if label in ("best", "gain") else ""


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
    ahead = abs(first.value - second.value)
    if not ahead:
        yield f"{run_name(one)} and {run_name(two)} end with the same value."
        return
    share = f" ({100 * ahead / abs(second.value):.3g} %)" if second.value else ""
    text = f"{run_name(one)} ends better than {run_name(two)} by {number(ahead)} {clean_line(one.metric, 40)}{share}"
    noises = [row.noise for row in placed[:2] if row.noise is not None]
    noise = max(noises, default=0.0)
    if not noises:
        yield f"{text}; how much of that is noise is not known."
    elif not noise:
        yield f"{text}; the metric has shown no noise."
    elif ahead < 2 * noise:
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
        yield f"The gain of {names} is {note}{hint}."


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


def print_all(console: Console, rows: Sequence[Row], found: Sequence[Change]) -> None:
    """Everything for a terminal."""
    from rich.text import Text

    run = rows[0].campaign
    metrics = {(row.campaign.metric, row.campaign.maximize) for row in rows}
    if len(metrics) == 1:
        console.print(Text(f"{clean_line(run.metric, 80)}, {'higher' if run.maximize else 'lower'} is better\n"))
    print_table(console, rows)
    lines = sentences(rows)
    for line in [*[""] * bool(lines), *lines, *change_lines(rows, found)]:
        # Commands are to be copied, so no line break of the terminal's making may cut them.
        console.print(Text(line), soft_wrap=line.startswith("    ") or not console.is_terminal)
