"""Runs in MLflow: an experiment for the project, in it a parent run for each run, and a child run for each attempt.

`export` promises: what is exported again is not there twice, also when it came from another clone, even at the same
time (see mlflow_doubles.py), or when the export before was cut short; only what is new is sent. Attempts without a
verdict come with a later export. MLflow's telemetry is off, its log is silent, and nothing is sent but to the store
that was named.

A child of its own for each attempt, rather than one step of the parent's metrics: only runs have tags, a status and
files, so that in MLflow's table one can filter by outcome or agent, sort by value and open the change.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from autoresearch_kit.core.campaign import ARK, BRANCH, Campaign
from autoresearch_kit.core.entry import gain_percent, gain_words
from autoresearch_kit.core.records import Attempt, Outcome, clean_line
from autoresearch_kit.core.words import apart
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.views.export import diffs_of
from autoresearch_kit.views.mlflow_doubles import children_of, delete_parent, is_finished, parents_of
from autoresearch_kit.views.mlflow_store import alone, connect, errors, experiment_of, quiet, refused_by

if TYPE_CHECKING:
    from mlflow import MlflowClient

PATCH = "change.patch"
"""The artifact of each attempt."""
METRICS_AT_ONCE = 1000
"""MLflow's own limit for one call."""
TEXT_CHARACTERS = 4000
"""Of a tag; some stores refuse 5,000."""
NAME_CHARACTERS = 250
"""MLflow's own limit for the name of a metric."""
SENDERS = 8
"""Attempts that are sent to a server at a time; each takes four calls, and most of that is waiting."""
TELL_EVERY = 200
"""Attempts between two lines about how far it is."""
_STATUS = {Outcome.CRASH: "FAILED", Outcome.LOST: "KILLED"}


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of one run."""

    run: str
    new: int
    """Attempts that were sent."""
    known: int
    """Attempts that were there."""
    patches_refused: str = ""
    """Why the store takes no files, else empty."""


def export(
    repository: Repository,
    project: str,
    campaigns: Sequence[Campaign],
    uri: str,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Exported]:
    """Bring the experiment called `project` in the store at `uri` up to date; ArkError when that fails."""
    with quiet(), alone(repository.common / "ark", uri):
        client = connect(uri)
        try:
            experiment, takes_files = experiment_of(client, project, uri)
            senders = SENDERS if urlsplit(uri).scheme in ("http", "https") else 1
            return [_export(client, experiment, repository, run, senders, takes_files, tell) for run in campaigns]
        except errors() as error:
            raise refused_by(uri, error) from None


# Runs


def _export(
    client: MlflowClient,
    experiment: str,
    repository: Repository,
    run: Campaign,
    senders: int,
    takes_files: bool,
    tell: Callable[[str], None],
) -> Exported:
    closed = [attempt for attempt in run.attempts if attempt.verdict is not None]
    if not closed:
        return Exported(run.name, 0, 0)
    key = identity(run, closed[0])
    while True:
        stays, *others = parents_of(client, experiment, key) or [_new_parent(client, experiment, run, closed[0], key)]
        for other in others:
            delete_parent(client, experiment, other)
        children = children_of(client, experiment, stays)
        todo = [attempt for attempt in closed if not is_finished(children.get(attempt.number))]
        diffs = diffs_of(repository, run) if todo and takes_files else {}
        sender = _Sender(client, experiment, stays, run, children, diffs)
        if not takes_files:
            sender.refused = "its files are in a folder of another machine"
        with ThreadPoolExecutor(senders) as pool:
            for done, _ in enumerate(pool.map(sender.send, todo)):
                if done % TELL_EVERY == 0 and len(todo) > TELL_EVERY:
                    tell(f"{run.name}: {done:,} of {len(todo):,} attempts")
        _finish_parent(client, stays, run, closed)
        if todo:
            children_of(client, experiment, stays, at_end=True)
        if parents_of(client, experiment, key)[:1] == [stays]:
            return Exported(run.name, len(todo), len(closed) - len(todo), sender.refused)
        tell(f"{run.name}: another clone has exported it meanwhile; what is there twice is deleted")


def _new_parent(client: MlflowClient, experiment: str, run: Campaign, first: Attempt, key: str) -> str:
    tags = {
        "ark.key": key,
        "ark.tag": run.tag,
        "ark.branch": run.branch,
        "ark.source": run.source,
        "ark.metric": run.metric,
        "ark.direction": "maximize" if run.maximize else "minimize",
        "mlflow.source.name": run.spec.name if run.spec else run.name,
    }
    made = client.create_run(experiment, _milliseconds(first), _texts(tags), run_name=run.tag)
    return str(made.info.run_id)


def identity(run: Campaign, first: Attempt) -> str:
    """What a run is known by wherever its ledger was copied to: its tag, its spec and the moment when it began."""
    whole = run.source in (ARK, BRANCH)
    parts = [run.tag, first.spec, first.started] if whole else [run.source, run.name]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:32]


@dataclass
class _Sender:
    """Sends the attempts of one run, from several threads."""

    client: MlflowClient
    experiment: str
    parent: str
    run: Campaign
    children: Mapping[int, Any]
    """What is there already, all of it or a part, by number."""
    diffs: Mapping[str, str]
    """Patches by commit."""
    refused: str = ""
    """Why the store takes no files, else empty."""

    def send(self, attempt: Attempt) -> None:
        """Send an attempt, or what an earlier export has left out of it."""
        from mlflow.entities import Metric, Param

        client, child, began = self.client, self.children.get(attempt.number), _milliseconds(attempt)
        if child is None:
            name = clean_line(f"{attempt.number} {attempt.proposal.title}", 100)
            child = client.create_run(self.experiment, began, _tags(self.parent, attempt), run_name=name)
        identity, there = child.info.run_id, child.data.metrics
        ended = began + round(1000 * attempt.seconds)
        numbers = metrics_of(self.run, attempt)
        metrics = [Metric(name, value, ended, 0) for name, value in numbers.items() if name not in there]
        texts = {"agent": attempt.proposal.agent, "machine": attempt.machine, "yardstick": attempt.yardstick}
        params = [Param(name, text) for name, text in _texts(texts).items()]
        for some in _some(metrics):
            client.log_batch(identity, metrics=some, params=params)
        if (diff := self.diffs.get(attempt.commit)) and not self.refused:
            try:
                client.log_text(identity, diff, PATCH)
            except Exception as error:  # whatever the library of that kind of storage raises
                self.refused = clean_line(str(error), 200) or type(error).__name__
        client.set_terminated(identity, _STATUS.get(attempt.outcome, "FINISHED"), ended)


def _tags(parent: str, attempt: Attempt) -> dict[str, str]:
    reason = attempt.verdict.reason if attempt.verdict else ""
    return _texts(
        {
            "mlflow.parentRunId": parent,
            "mlflow.source.git.commit": attempt.commit,
            "mlflow.note.content": "\n\n".join(text for text in (attempt.proposal.why, reason) if text),
            "ark.attempt": str(attempt.number),
            "ark.outcome": str(attempt.outcome),
            "ark.baseline": str(attempt.is_baseline).lower(),
            "ark.title": attempt.proposal.title,
            "ark.reason": reason,
            "ark.problem": attempt.problem,
            "ark.agent": attempt.proposal.agent,
            "ark.machine": attempt.machine,
            "ark.yardstick": attempt.yardstick,
            "ark.commit": attempt.commit,
            "ark.parent": attempt.parent,
            "ark.origin": " ".join(attempt.proposal.origin),
            "ark.values": " ".join(map(repr, attempt.values)),
        }
    )


def _texts(texts: Mapping[str, str]) -> dict[str, str]:
    """Texts that every store takes, without the empty ones."""
    return {name: text[:TEXT_CHARACTERS] for name, text in texts.items() if text}


def metrics_of(run: Campaign, attempt: Attempt) -> dict[str, float]:
    """The numbers of an attempt under names that MLflow takes: the metric, what else was printed, and `ark.` ones."""
    cost, verdict = attempt.proposal.cost, attempt.verdict
    ours: dict[str, float | None] = {
        "ark.seconds": attempt.seconds,
        "ark.runs": float(len(attempt.own)),
        "ark.gain": verdict.gain if verdict else None,
        "ark.agent_seconds": cost.seconds,
        "ark.agent_tokens": cost.tokens,
        "ark.agent_money": cost.money,
    }
    found = {**attempt.also, run.metric: attempt.value, **ours}
    taken = names_for(found)
    return {taken[name]: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def names_for(names: Iterable[str]) -> Mapping[str, str]:
    """Names that MLflow takes, by the real ones, no two alike.

    A store of files has a file for each name, so that `loss` and `loss/train` cannot both be there: the second is
    called `loss.train` then.
    """
    return _names_for(tuple(sorted(names)))


@lru_cache(maxsize=64)
def _names_for(names: tuple[str, ...]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (name.count("/"), name)):
        plain = _plain(name)
        flat = plain.replace("/", ".")
        digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
        for candidate in (plain, flat, f"{flat[: NAME_CHARACTERS - 9]}.{digest}"):
            if not any(_clash(candidate, other) for other in found.values()):
                break
        found[name] = candidate
    return found


def _plain(name: str) -> str:
    """The nearest name that MLflow takes, by itself."""
    name = re.sub(r"[^A-Za-z0-9_./ -]", "_", name)[:NAME_CHARACTERS]
    parts = [part.strip() for part in name.split("/")]
    plain = "/".join(part for part in parts if part.strip(".")) or "_"
    return f"_{plain[1:]}" if plain.startswith("..") else plain


def _clash(one: str, other: str) -> bool:
    """Whether no folder could hold both."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _finish_parent(client: MlflowClient, parent: str, run: Campaign, closed: Sequence[Attempt]) -> None:
    """The curves of a run by the number of the attempt, and how it stands."""
    from mlflow.entities import Metric, RunTag

    value, best = names_for([run.metric])[run.metric], names_for([f"best.{run.metric}"])[f"best.{run.metric}"]
    there = {name: {metric.step for metric in client.get_metric_history(parent, name)} for name in (value, best)}
    metrics = []
    for attempt, head in run.with_best():
        kept = attempt.outcome is Outcome.KEEP
        for name, point in ((value, attempt.value), (best, head if kept else None)):
            fresh = attempt.verdict is not None and attempt.number not in there[name]
            if point is not None and math.isfinite(point) and fresh:
                metrics.append(Metric(name, point, _milliseconds(attempt), attempt.number))
    for some in _some(metrics):
        client.log_batch(parent, metrics=some)
    first, head_now = run.baseline, run.best
    before, after = (first.value if first else None), (head_now.value if head_now else None)
    percent, words = gain_percent(before, after, run.maximize), gain_words(before, after, run.maximize)
    story = f"{len(run.tried)} attempts, {len(run.kept)} kept."
    if before is not None and after is not None:
        story += f" {run.metric} {apart(before, after)} to {apart(after, before)}" + (f": {words}." if words else ".")
    state = {
        "mlflow.note.content": story,
        "ark.attempts": str(len(run.tried)),
        "ark.kept": str(len(run.kept)),
        "ark.gain_percent": "" if percent is None else f"{percent:.6g}",
        "ark.agents": ", ".join(run.agents),
        "ark.machines": ", ".join(run.machines),
    }
    client.log_batch(parent, tags=[RunTag(name, text) for name, text in _texts(state).items()])
    last = closed[-1]
    client.set_terminated(parent, "FINISHED", _milliseconds(last) + round(1000 * last.seconds))


def _some(metrics: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(metrics), METRICS_AT_ONCE):
        yield metrics[start : start + METRICS_AT_ONCE]


def _milliseconds(attempt: Attempt) -> int:
    """When it began, in the clock of MLflow; its number where nobody knows."""
    try:
        moment = datetime.fromisoformat(attempt.started)
    except ValueError:
        return attempt.number
    return max(0, round(1000 * (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()))
