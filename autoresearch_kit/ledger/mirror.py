"""`ark fetch`: all runs of a remote into refs/ark-remotes/REMOTE/, their branches into refs/remotes/REMOTE/.

Both mirror the remote, by force, so nothing else may be kept there. Of a run that is gone on the remote what was
fetched stays, until it is pruned: nothing that was measured is lost by what somebody deleted elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.names import is_name
from autoresearch_kit.ledger.git import ROOT, ZERO, Repository
from autoresearch_kit.ledger.ledger import FETCHED, Ledger
from autoresearch_kit.ledger.remote import read_remote
from autoresearch_kit.ledger.talk import Tell, talk

_HOW = (
    "--quiet", "--progress", "--no-tags", "--no-prune", "--no-write-fetch-head", "--no-auto-maintenance",
    "--recurse-submodules=no",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch brought of one run."""

    name: str
    """`REMOTE/TAG`."""
    attempts: int
    """Attempts of it that are here now."""
    new: int
    """Those of them that were not here before, under no name."""
    is_ours: bool = False
    """Whether it was pushed from here and says nothing that this repository does not."""
    was_replaced: bool = False
    """Whether it is another run than the one that had this name there before."""
    problem: str = ""
    """Why it cannot be read; empty when it can."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """What a fetch found."""

    runs: tuple[Fetched, ...]
    """The runs on the remote, in order of their names."""
    gone: tuple[str, ...]
    """Runs, as `REMOTE/TAG`, that are not there any more."""


def fetch(
    repository: Repository, remote: str, branch_prefix: str, prune: bool = False, tell: Tell | None = None
) -> Mirror:
    """Make refs/ark-remotes/`remote`/ and its branches below `branch_prefix` what the remote has.

    A run that is not there any more is kept here unless `prune`. ArkError when the remote cannot be read.
    """
    root, heads = f"{FETCHED}{remote}/", f"refs/remotes/{remote}/{branch_prefix}/"
    there = read_remote(repository, remote, [f"{ROOT}*", f"refs/heads/{branch_prefix}/*"])
    wanted = {_mirrored(ref, root, heads, branch_prefix): oid for ref, oid in there.items()}
    ours = {oid for (oid,) in repository.refs(ROOT, "objectname")}
    before = _values(repository, root, heads)
    if any(before.get(ref) != oid for ref, oid in wanted.items()):
        specs = [f"+{ROOT}*:{root}*", f"+refs/heads/{branch_prefix}/*:{heads}*"]
        said = talk(repository, "fetch", *_HOW, remote, *specs, tell=tell)
        if said.status:
            raise ArkError(f"{remote} could not be fetched: {said.reason}", said.remark and f"it said: {said.remark}")
    gone = _drop_stale(repository, root, before, wanted, prune)
    after = _values(repository, root)
    names = sorted({_run_of(ref, root) for ref in after} - {_run_of(ref, root) for ref in gone})
    runs = [_fetched(repository, name, root, before, after, ours) for name in names if is_name(name)]
    lost = sorted({_run_of(ref, root) for ref in gone if ref.startswith(root)})
    return Mirror(tuple(run for run in runs if run.attempts), tuple(f"{remote}/{name}" for name in lost))


def _mirrored(ref: str, root: str, heads: str, branch_prefix: str) -> str:
    """The name here of a ref there."""
    if ref.startswith(ROOT):
        return root + ref.removeprefix(ROOT)
    return heads + ref.removeprefix(f"refs/heads/{branch_prefix}/")


def _drop_stale(
    repository: Repository, root: str, before: Mapping[str, str], wanted: Mapping[str, str], prune: bool
) -> list[str]:
    """Delete what is not there any more of runs that are: of another one under the same name. All of it with `prune`.

    Returns the refs of runs that are gone there altogether.
    """
    there = {_run_of(ref, root) for ref in wanted if ref.startswith(root)}
    missing = [ref for ref in before if ref not in wanted]
    gone = [ref for ref in missing if _run_of(ref, root) not in there]
    doomed = missing if prune else [ref for ref in missing if ref.startswith(root) and ref not in gone]
    if doomed:
        repository.update_refs({ref: (ZERO, before[ref]) for ref in doomed})
    return gone


def _fetched(
    repository: Repository, tag: str, root: str, before: Mapping[str, str], after: Mapping[str, str], ours: set[str]
) -> Fetched:
    name = f"{root.removeprefix(FETCHED)}{tag}"
    ledger = Ledger(repository, "", name)
    here = {ref: oid for ref, oid in after.items() if re.fullmatch(rf"{re.escape(root + tag)}/[0-9]+", ref)}
    known = ours | {oid for ref, oid in before.items() if ref.startswith(root)}
    new = sum(oid not in known for oid in here.values())
    problem = ""
    if new:
        try:
            ledger.read()
        except ArkError as error:
            problem = error.message
    first = ledger.ref(0)
    replaced = first in before and before[first] != after.get(first)
    return Fetched(name, len(here), new, set(here.values()) <= ours, replaced, problem)


def _run_of(ref: str, root: str) -> str:
    """The tag of an attempt's ref, or of a branch."""
    return ref.removeprefix(root).partition("/")[0] if ref.startswith(root) else ref.rpartition("/")[2]


def _values(repository: Repository, *roots: str) -> dict[str, str]:
    return {row[0]: row[1] for row in repository.refs(roots, "refname", "objectname")}
