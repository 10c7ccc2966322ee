"""What agents have cost without an attempt that could be charged with it: one commit at `refs/ark/<tag>/owed`.

The last line of its message is an `Ark-Owed` trailer; its tree is the baseline's. Its successor is its child, so that a
run that was pushed can be pushed again. No attempt is ever called `owed`, so it is never read as one. Each cost has
the number that its agent's next attempt could have had: where the ledger holds such a one, that was charged with it,
also when whoever did so was killed in between. So nothing is paid twice, and nothing forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from autoresearch_kit.core.records import Attempt, Cost
from autoresearch_kit.ledger.git import ROOT, ZERO, Repository
from autoresearch_kit.ledger.message import compact, parse

NAME = "owed"
_TRAILER = "Ark-Owed: "


def read_owed(repository: Repository, tag: str, attempts: Iterable[Attempt]) -> dict[str, Cost]:
    """What each agent owes to a run that has these attempts; nothing where there is no such record."""
    rows = repository.refs(_ref(tag), "refname", "contents")
    contents = next((text for name, text in rows if name == _ref(tag)), "")
    try:
        found = parse(contents.rstrip("\n").rpartition("\n")[2].removeprefix(_TRAILER)) if contents else {}
        owed = {str(agent): (int(row.pop("since")), Cost(**row)) for agent, row in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    last: dict[str, int] = {}
    for attempt in attempts:
        last[attempt.proposal.agent] = max(last.get(attempt.proposal.agent, 0), attempt.number)
    return {agent: cost for agent, (since, cost) in owed.items() if last.get(agent, -1) < since}


def write_owed(repository: Repository, tag: str, owed: Mapping[str, Cost], attempts: Sequence[Attempt]) -> None:
    """Record what each agent owes to a run, whose lock the caller holds and whose baseline is measured."""
    old = repository.ref(_ref(tag))
    since = attempts[-1].number + 1
    rows = {agent: {"since": since, **_fields(cost)} for agent, cost in owed.items() if cost != Cost()}
    text = f"Owed by turns that brought no attempt\n\n{_TRAILER}{compact(rows)}\n"
    tree, parent, who = attempts[0].tree, old or attempts[0].commit, ("ark", "ark@localhost")
    commit = repository.store_commit(tree, [parent], text, who, int(time.time()))
    repository.update_refs({_ref(tag): (commit, old or ZERO)})


def _fields(cost: Cost) -> dict[str, float]:
    return {name: value for name in Cost.__slots__ if (value := getattr(cost, name)) is not None}


def _ref(tag: str) -> str:
    return f"{ROOT}{tag}/{NAME}"
