"""What is in a store twice, since two clones sent the same run at once: one stays, the others are deleted.

MLflow has no way to say "unless it is there". So every export looks for doubles when it begins and when it ends. Which
one stays is the same for all who look: of two runs the one whose identity comes first. At the end nothing is deleted
that somebody may still be sending. Deleted runs are in MLflow's own trash, from where they can be restored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

PAGE = 1000
"""Runs that are asked for at once."""


def parents_of(client: MlflowClient, experiment: str, key: str) -> list[str]:
    """The identities of the parent runs with this `ark.key`; the first is the one that stays."""
    return sorted(str(run.info.run_id) for run in _runs(client, experiment, f"tags.`ark.key` = '{key}'"))


def delete_parent(client: MlflowClient, experiment: str, parent: str) -> None:
    """Delete a parent run with its children, and itself last, so that the next export finds what was cut short."""
    for child in _runs(client, experiment, _below(parent)):
        client.delete_run(child.info.run_id)
    client.delete_run(parent)


def children_of(client: MlflowClient, experiment: str, parent: str, at_end: bool = False) -> dict[int, Any]:
    """The runs of a parent by the number of the attempt, after their doubles were deleted; `at_end` only finished ones.

    Of two the one stays of which all was sent.
    """
    found: dict[int, list[Any]] = {}
    for child in _runs(client, experiment, _below(parent)):
        with contextlib.suppress(ValueError):
            found.setdefault(int(child.data.tags.get("ark.attempt", "")), []).append(child)
    for same in found.values():
        same.sort(key=lambda child: (not is_finished(child), child.info.run_id))
        for other in same[1:]:
            if is_finished(other) or not at_end:
                client.delete_run(other.info.run_id)
    return {number: same[0] for number, same in found.items()}


def is_finished(child: Any) -> bool:
    """Whether all of it was sent: that is the last thing it is told."""
    return child is not None and child.info.status != "RUNNING"


def _below(parent: str) -> str:
    return f"tags.`mlflow.parentRunId` = '{parent}'"


def _runs(client: MlflowClient, experiment: str, those: str) -> Iterator[Any]:
    # All before the first is handed out: a page may be lost when runs are deleted meanwhile.
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs([experiment], those, max_results=PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return iter(found)
