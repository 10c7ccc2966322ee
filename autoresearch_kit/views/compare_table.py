"""Runs side by side in tables: the facts of each run in words, and what `ark compare` prints.

Numbers are written with as many digits as tell them apart. What is not known is `?`, what does not apply is `-`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from autoresearch_kit.core.campaign import ARK, Campaign
from autoresearch_kit.core.entry import gain_short
from autoresearch_kit.core.interval import Interval
from autoresearch_kit.core.records import Outcome, clean_line
from autoresearch_kit.core.words import at_least, digits, duration, money, rate
from autoresearch_kit.views.changes import Change
from autoresearch_kit.views.compare import Row, agents_data, costs_known, total_cost

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

from autoresearch_kit.views.compare_words import change_lines, group_name, run_name, sentences

UNKNOWN, NONE = "?", "-"

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


def _known(words: Callable[[float], str], value: float | None) -> str:
    return UNKNOWN if value is None else words(value)


def gain_cell(run: Campaign) -> str:
    """The gain over the baseline: `9.3 %`, `3.1 times`, or in units of the metric where percents mean nothing."""
    first, best = (found.value if found else None for found in (run.baseline, run.best))
    return gain_short(first, best, run.maximize) or NONE


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


def facts(rows: Sequence[Row]) -> list[Facts]:
    """What is said of each run, by label in order; a label that says nothing of any of them is left out."""
    runs = [row.campaign for row in rows]
    width = digits(found.value for run in runs for found in (run.baseline, run.best) if found)
    places = Counter((row.group, row.rank) for row in rows)
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

        def least(kind: str, amount: str) -> str:
            return at_least(amount, costs_known(run.tried)[kind], len(run.tried))

        to_best = NONE
        if row.attempts_to_best:
            to_best = f"{row.attempts_to_best} in {_known(duration, row.seconds_to_best)}"
        place = NONE if row.rank is None else f"{row.rank}{'=' * (places[row.group, row.rank] > 1)}"
        return {
            "place": f"{place} in {group_name(row)}" if several_groups and row.rank else place,
            "metric": clean_line(run.metric, 40) if several_metrics else "",
            "kept": f"{len(run.kept)} of {UNKNOWN if row.attempts is None else row.attempts}",
            "discarded": count(Outcome.DISCARD),
            "crashed": count(Outcome.CRASH),
            "lost": count(Outcome.LOST) if Outcome.LOST in outcomes else "",
            "running": f"attempt {run.open[-1].number}" if run.open else "",
            "baseline": value(run.baseline.value if run.baseline else None),
            "best": value(best.value if best else None),
            "gain": gain_cell(run),
            "verified": _verified(row) if run.source == ARK else "",
            "to best": to_best,
            "at work": _known(duration, row.seconds),
            "per hour": _known(rate, row.attempts_per_hour),
            "agent time": "" if cost.seconds is None else least("seconds", duration(cost.seconds)),
            "tokens": "" if cost.tokens is None else least("tokens", f"{cost.tokens:,}"),
            "money": "" if cost.money is None else least("money", money(cost.money)),
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
