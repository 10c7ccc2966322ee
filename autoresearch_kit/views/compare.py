"""Runs side by side, as plain data: what `ark compare` prints, for people and as JSON.

Only runs that were measured alike, by yardstick and machine, are ranked among each other. The others are shown, and it
is said what differs. Gains come with an interval when fresh runs of baseline and head gave one (`ark verify`); the gain
that a run reports of itself was kept because it looked good, and no interval of its own samples could mend that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from autoresearch_kit.core.campaign import ARK, BRANCH, Campaign
from autoresearch_kit.core.entry import gain_percent
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.interval import Gain
from autoresearch_kit.core.records import Attempt, Cost, Outcome, clean_line
from autoresearch_kit.core.verification import Verification, headline, of_head
from autoresearch_kit.lab.desk import Place
from autoresearch_kit.ledger.git import Entry
from autoresearch_kit.ledger.verified import read_verifications
from autoresearch_kit.ledger.verified import ref as verification_ref
from autoresearch_kit.project import Project
from autoresearch_kit.views.worktime import elapsed

SHOWN_NOISES = 2.0
"""So many times the noise of one measurement two values differ at least when a difference is shown."""
SHOWN_FILES = 3
"""So many files that differ are named."""
SHOWN_VALUE = 40
"""Characters of a key's value up to which it is shown."""


@dataclass(frozen=True)
class Row:
    """One run beside others."""

    campaign: Campaign
    """The run."""
    verification: Verification | None = None
    """The last one that came to a result on the run's head, else the last one that came to a result."""
    group: int = 0
    """From 1; runs of one group were measured alike."""
    rank: int | None = None
    """Within its group, 1 is best, those without a shown difference share a place; None when nothing was tried."""
    why_not: tuple[str, ...] = ()
    """How its measuring differs from the first group's, one phrase each; empty in that group."""
    same_as: tuple[str, ...] = ()
    """Other names that were found to be the same run."""
    ends: Sequence[float] | None = field(default=None, compare=False)
    """Seconds at work at the end of each attempt; None when nothing is known of time."""

    @property
    def is_verified(self) -> bool:
        """Whether there is an honest gain of what is now the head."""
        best = self.campaign.best
        return self.verification is not None and best is not None and self.verification.head.commit == best.commit

    @property
    def knows_all(self) -> bool:
        """Whether discarded and crashed attempts are known too."""
        return self.campaign.source != BRANCH

    @property
    def attempts(self) -> int | None:
        """How many changes were tried; None where only kept ones are known."""
        return len(self.campaign.tried) if self.knows_all else None

    @property
    def attempts_to_best(self) -> int | None:
        """Changes that were tried up to the best, with it; None without one."""
        run = self.campaign
        if run.best is None or run.baseline is None:
            return None
        if not self.knows_all:
            return run.best.number - run.attempts[0].number
        return sum(a.number <= run.best.number for a in run.tried)

    @property
    def seconds(self) -> float | None:
        """At work, pauses between sessions not counted."""
        return self.ends[-1] if self.ends else None

    @property
    def seconds_to_best(self) -> float | None:
        """At work until the best was measured; None where there is none but the baseline."""
        best = self.campaign.best
        if self.ends is None or best is None or best.is_baseline:
            return None
        return self.ends[self.campaign.attempts.index(best)]

    @property
    def attempts_per_hour(self) -> float | None:
        """Changes tried per hour at work."""
        run = self.campaign
        if not self.seconds or not run.tried:
            return None
        return 3600 * len(run.tried) / self.seconds

    @property
    def noise(self) -> float | None:
        """Standard deviation of one measurement as known when the best was kept; 0 where there is none."""
        best = self.campaign.best
        return best.verdict.noise if best and best.verdict else None

    @property
    def gain_note(self) -> str:
        """What the gain is worth, part of a sentence; empty when there is none."""
        run, found = self.campaign, self.verification
        if run.best is None or run.best.is_baseline:
            return ""
        if found is not None and self.is_verified and found.gain is not None:
            return f"verified by {found.gain.pairs} pairs of fresh runs: {headline(found.gain, run.metric)}"
        if found is not None:
            return f"verified at attempt {found.head.attempt}, and the head has moved since"
        if self.noise == 0:
            return "what one measurement says, and the metric has shown no noise"
        if self.noise is None:
            return "as it was recorded, with noise that is not known and so without an interval"
        return "selected because it looked good, so it has no interval and is likely too large"


# Which runs


def compare(project: Project, campaigns: Iterable[Campaign], named: bool = False) -> list[Row]:
    """Rows of the runs in the order in which to show them: by group, and in it by rank.

    `named` says that the campaigns come in an order of the user's; else the last one is the one active last. Ledgers
    that are one run under two names are one row.
    """
    runs = _once(campaigns)
    verifications: dict[str, list[Verification]] = {}
    if names := [run.name for run, _ in runs if run.source == ARK]:
        for found in read_verifications(project.repository, *names):
            if found.has_result:
                verifications.setdefault(found.tag, []).append(found)
    rows = []
    for run, others in runs:
        known = verifications.get(run.name, [])
        verification = of_head(known, run.best) or (known[-1] if known else None)
        rows.append(Row(run, verification, same_as=others, ends=_ends(run)))
    return _ranked(project, rows, named)


def _once(campaigns: Iterable[Campaign]) -> list[tuple[Campaign, tuple[str, ...]]]:
    """The runs without those that another one of them contains, each with the names of those."""
    found: list[tuple[Campaign, tuple[str, ...]]] = []
    known: list[frozenset[str]] = []
    for run in campaigns:
        commits = _closed(run)
        is_copy = run.source != ARK or "/" in run.name
        for at, (other, names) in enumerate(found):
            theirs = known[at]
            if run.name == other.name and run.source == other.source:
                break
            if not is_copy and other.source == ARK and "/" not in other.name:
                continue  # this repository calls them two runs
            if commits and (commits < theirs or (commits == theirs and is_copy)):
                found[at] = (other, (*names, run.name))
                break
            if theirs and theirs <= commits:  # the same, perhaps further on
                found[at], known[at] = (run, (*names, other.name)), commits
                break
        else:
            found.append((run, ()))
            known.append(commits)
    return found


def _closed(run: Campaign) -> frozenset[str]:
    """Commits by which a run is known; those of attempts that run will be others."""
    if run.source not in (ARK, BRANCH):
        return frozenset()
    return frozenset(a.commit for a in run.attempts if a.outcome is not Outcome.RUNNING)


def _ends(run: Campaign) -> list[float] | None:
    """Where only kept attempts are known, nobody knows what was work between them."""
    return None if run.source == BRANCH else elapsed(run.attempts)


# What is comparable


def _conditions(run: Campaign) -> tuple[object, ...] | None:
    """What must be equal in runs that are ranked together; None for what is comparable with nothing."""
    head = run.best
    if run.source not in (ARK, BRANCH) or head is None or not head.yardstick:
        return None
    return (head.spec, run.metric, run.maximize, head.yardstick, head.machine)


def _ranked(project: Project, rows: Sequence[Row], named: bool) -> list[Row]:
    ordered = list(rows if named else reversed(rows))
    first = next((row for row in ordered if _conditions(row.campaign) is not None), None)
    groups: dict[object, list[Row]] = {}
    if first is not None:
        groups[_conditions(first.campaign)] = []
    for row in ordered:
        groups.setdefault(_conditions(row.campaign) or id(row), []).append(row)
    found: list[Row] = []
    for number, members in enumerate(groups.values(), 1):
        measured = [row for row in members if row.campaign.best is not None and row.campaign.best.value is not None]
        measured.sort(key=_order)
        is_first = first is not None and number == 1
        why = () if is_first else tuple(_differences(project, first.campaign if first else None, members[0].campaign))
        ranks = _places([row for row in measured if row.campaign.tried]) if _conditions(members[0].campaign) else {}
        for row in [*measured, *(row for row in members if row not in measured)]:
            found.append(replace(row, group=number, rank=ranks.get(id(row)), why_not=why))
    return found


def _places(ordered: Sequence[Row]) -> dict[int, int]:
    """Places by id of the row, of rows in their order: one that is not shown to be worse than the first at a place is
    there too."""
    places: dict[int, int] = {}
    first, place = None, 0
    for number, row in enumerate(ordered, 1):
        if first is None or is_shown(first, row):
            first, place = row, number
        places[id(row)] = place
    return places


def is_shown(one: Row, two: Row) -> bool:
    """Whether the noise of one measurement, as far as it is known, lets a difference between two values be seen."""
    ahead = abs(_order(one) - _order(two))
    return ahead > 0 and ahead >= SHOWN_NOISES * max(
        (row.noise for row in (one, two) if row.noise is not None), default=0.0
    )


def _order(row: Row) -> float:
    value = row.campaign.best.value if row.campaign.best else None
    assert value is not None
    return -value if row.campaign.maximize else value


def _differences(project: Project, first: Campaign | None, other: Campaign) -> list[str]:
    """How `other` was measured unlike `first`, a phrase each, never empty. Without `first` nothing can be compared."""
    found = []
    if first is None:
        first = other
    if other.metric != first.metric:
        found.append(f"metric is {clean_line(other.metric, 80)}, not {clean_line(first.metric, 80)}")
    elif other.maximize != first.maximize:
        found.append(f"{'higher' if other.maximize else 'lower'} is better, not {_way(first)}")
    if other.source not in (ARK, BRANCH):
        return [*found, f"made by another tool ({other.source}), which does not say how it measured"]
    if other.best is None:
        return [*found, "no baseline was measured"]
    if first.best is None or not first.best.yardstick:
        return [*found, "nothing was measured that it could be compared with"]
    if other.best.spec != first.best.spec:
        found.append(f"it is of another spec: {other.best.spec or 'not said'}, not {first.best.spec or 'not said'}")
    elif other.best.yardstick != first.best.yardstick:
        said = [*_keys(first, other), *_files(project, first, other)]
        found += said or [f"yardstick is {other.best.yardstick}, not {first.best.yardstick}"]
    if other.best.machine != first.best.machine:
        found.append(f"machine is {other.best.machine or 'not said'}, not {first.best.machine or 'not said'}")
    return found or ["it was measured under conditions that are not known"]


def _way(run: Campaign) -> str:
    return "higher" if run.maximize else "lower"


def _keys(first: Campaign, other: Campaign) -> list[str]:
    """Keys of the spec that fix the number and differ."""
    if first.spec is None or other.spec is None:
        return []
    one, two = first.spec.measuring, other.spec.measuring
    found = []
    for key in one:
        if key in ("metric", "metric_direction") or one[key] == two[key]:
            continue
        values = [_value(side[key]) for side in (two, one)]
        shown = all(len(value) <= SHOWN_VALUE for value in values)
        found.append(f"{key} is {values[0]}, not {values[1]}" if shown else f"{key} differs")
    return found


def _value(value: object) -> str:
    return clean_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), SHOWN_VALUE + 1)


def _files(project: Project, first: Campaign, other: Campaign) -> list[str]:
    """Files that no attempt may change and that differ."""
    try:
        one, two = (_fixed_files(project, run) for run in (first, other))
    except ArkError:  # its commits are not all here
        return []
    paths = sorted(path for path in {*one, *two} if one.get(path) != two.get(path))
    shown = [clean_line(path, 80) for path in paths[:SHOWN_FILES]]
    more = f" and {len(paths) - SHOWN_FILES} others" if len(paths) > SHOWN_FILES else ""
    return [f"other files than the mutable ones differ: {', '.join(shown)}{more}"] if paths else []


def _fixed_files(project: Project, run: Campaign) -> dict[str, Entry]:
    baseline = run.baseline or run.attempts[0]
    name = baseline.spec or project.spec_name
    folder, slash, file = name.rpartition("/")
    place = Place.of(folder + slash, file, (run.spec or project.spec).mutable_files)
    files = project.repository.files(baseline.commit)
    return {path: entry for path, entry in files.items() if path != name and not place.is_mutable(path)}


# As JSON


def row_data(row: Row) -> dict[str, Any]:
    """One run as JSON; what is not known is null, never 0."""
    run = row.campaign
    first, best = (found.value if found else None for found in (run.baseline, run.best))
    outcomes = [a.outcome for a in run.tried]

    def count(outcome: Outcome) -> int | None:
        return outcomes.count(outcome) if row.knows_all else None

    return {
        "tag": run.name,
        "branch": run.branch,
        "source": run.source,
        "same_as": list(row.same_as),
        "metric": run.metric,
        "direction": "maximize" if run.maximize else "minimize",
        "attempts": row.attempts,
        "kept": len(run.kept),
        "discarded": count(Outcome.DISCARD),
        "crashes": count(Outcome.CRASH),
        "lost": count(Outcome.LOST),
        "running": len(run.open) if row.knows_all else None,
        "baseline": first,
        "best": best,
        "best_attempt": run.best.number if run.best else None,
        "gain_percent": gain_percent(first, best, run.maximize),
        "verified": _verified_data(row),
        "gain_note": row.gain_note,
        "noise": row.noise,
        "seconds": _rounded(row.seconds),
        "seconds_to_best": _rounded(row.seconds_to_best),
        "attempts_to_best": row.attempts_to_best,
        "attempts_per_hour": row.attempts_per_hour,
        "cost": _cost_data(total_cost(run.attempts)),
        "cost_known_of": costs_known(run.tried),
        "agents": agents_data(run),
        "machines": list(run.machines),
        "yardstick": run.best.yardstick if run.best else None,
        "started": run.attempts[0].started or None if run.attempts else None,
        "last_started": run.attempts[-1].started or None if run.attempts else None,
        "group": row.group,
        "rank": row.rank,
        "comparable": not row.why_not,
        "why_not": "; ".join(row.why_not),
        "notes": list(run.notes),
    }


def agents_data(run: Campaign) -> list[dict[str, Any]]:
    """What each agent of a run came to, in order of appearance."""
    found: dict[str, list[Attempt]] = {}
    for attempt in run.tried:
        found.setdefault(attempt.proposal.agent, []).append(attempt)
    return [
        {
            "agent": name,
            "attempts": len(attempts) if run.source != BRANCH else None,
            "kept": sum(a.outcome is Outcome.KEEP for a in attempts),
            "cost": _cost_data(total_cost(attempts)),
            "cost_known_of": costs_known(attempts),
        }
        for name, attempts in found.items()
        if name
    ]


def total_cost(attempts: Sequence[Attempt]) -> Cost:
    """What the agents have cost, as far as is known; adding up thousands of `Cost`s takes five times as long."""

    def total(values: Iterable[Any]) -> Any:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    costs = [attempt.proposal.cost for attempt in attempts]
    return Cost(total(c.seconds for c in costs), total(c.tokens for c in costs), total(c.money for c in costs))


def costs_known(attempts: Sequence[Attempt]) -> dict[str, int]:
    """Of how many attempts time, tokens and money of the agent are known."""
    costs = [attempt.proposal.cost for attempt in attempts]
    return {kind: sum(getattr(c, kind) is not None for c in costs) for kind in ("seconds", "tokens", "money")}


def _verified_data(row: Row) -> dict[str, Any] | None:
    found = row.verification
    if found is None or found.gain is None:
        return None
    return {
        "is_of_best": row.is_verified,
        "attempt": found.head.attempt,
        "gain": _interval(found.gain),
        "percent": _interval(found.gain, percent=True),
        "level": found.gain.level,
        "exact": found.gain.exact,
        "pairs": found.gain.pairs,
        "method": found.gain.method,
        "started": found.started,
        "ref": verification_ref(found),
    }


def _interval(gain: Gain, percent: bool = False) -> dict[str, float] | None:
    found = gain.percent if percent else gain.absolute
    return None if found is None else {"value": found.value, "low": found.low, "high": found.high}


def _cost_data(cost: Cost) -> Mapping[str, float | None]:
    return {"seconds": _rounded(cost.seconds), "tokens": cost.tokens, "money": cost.money}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
