"""`ark fetch`: all runs of a remote into refs/ark-remotes/REMOTE/, their branches into refs/remotes/REMOTE/.

Both mirror the remote, by force, so nothing else may be kept there. Of a run that is gone on the remote what was
fetched stays, until it is pruned: nothing that was measured is lost by what somebody deleted elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.ledger.git import ROOT, ZERO, Repository
from autoresearch_kit.ledger.ledger import FETCHED, find_problems, run_name
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
    if any(ref.startswith(heads) for ref in wanted):
        before |= _branches_above(repository, remote, heads)
    gone, doomed = _stale(root, before, wanted, prune)
    if any(before.get(ref) != oid for ref, oid in wanted.items()):
        in_way = _in_way([ref for ref in before if ref not in wanted], wanted)
        for ref in sorted(in_way.keys() - doomed):
            raise ArkError(
                f"{ref} is in the way of {in_way[ref]}, which {remote} has now; it is not there any more",
                f"forget what is not there any more: ark fetch {remote} --prune",
            )
        _delete(repository, {ref: before[ref] for ref in in_way})
        doomed -= in_way.keys()
        specs = [f"+{ROOT}*:{root}*", f"+refs/heads/{branch_prefix}/*:{heads}*"]
        said = talk(repository, "fetch", *_HOW, remote, *specs, tell=tell)
        if said.status:
            raise ArkError(f"{remote} could not be fetched: {said.reason}", said.remark and f"it said: {said.remark}")
    _delete(repository, {ref: before[ref] for ref in doomed})
    lost = {f"{remote}/{_run_of(ref, root)}" for ref in gone}
    runs = _fetched(repository, lost, {ref: oid for ref, oid in before.items() if ref.startswith(root)}, root, ours)
    return Mirror(tuple(runs), tuple(sorted(lost)))


def _mirrored(ref: str, root: str, heads: str, branch_prefix: str) -> str:
    """The name here of a ref there."""
    if ref.startswith(ROOT):
        return root + ref.removeprefix(ROOT)
    return heads + ref.removeprefix(f"refs/heads/{branch_prefix}/")


def _branches_above(repository: Repository, remote: str, heads: str) -> dict[str, str]:
    """Remote-tracking branches where the folder `heads` must be: what they followed cannot be there any more."""
    above = [folder for folder in _above(heads) if folder.startswith(f"refs/remotes/{remote}/")]
    return {ref: oid for ref, oid in _values(repository, *above).items() if ref in above}


def _stale(root: str, before: Mapping[str, str], wanted: Mapping[str, str], prune: bool) -> tuple[set[str], set[str]]:
    """Attempts and the like of runs that are not there any more, and refs to be deleted.

    Those are what another run had under the name of one that is there, and with `prune` all that is not there.
    """
    there = {_run_of(ref, root) for ref in wanted if ref.startswith(root) and "/" in ref.removeprefix(root)}
    missing = {ref for ref in before if ref not in wanted}
    below = {ref for ref in missing if ref.startswith(root)}
    gone = {ref for ref in below if _run_of(ref, root) not in there}
    return gone, missing if prune else below - gone


def _in_way(missing: Iterable[str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Those refs of `missing` that git cannot hold beside one of `wanted`, because one's name is the other's folder."""
    folders = {folder: ref for ref in wanted for folder in _above(ref)}
    found = {}
    for ref in missing:
        other = folders.get(ref) or next((folder for folder in _above(ref) if folder in wanted), "")
        if other:
            found[ref] = other
    return found


def _above(ref: str) -> list[str]:
    return [ref[:at] for at, letter in enumerate(ref) if letter == "/"]


def _delete(repository: Repository, refs: Mapping[str, str]) -> None:
    if refs:
        repository.update_refs({ref: (ZERO, oid) for ref, oid in refs.items()})


def _fetched(
    repository: Repository, lost: Set[str], before: Mapping[str, str], root: str, ours: Set[str]
) -> list[Fetched]:
    """What is below `root` now, where `before` was; without the runs called `lost`."""
    runs: dict[str, dict[str, str]] = {}
    for ref, oid in _values(repository, root).items():
        if (name := run_name(ref)) and name not in lost:
            runs.setdefault(name, {})[ref] = oid
    known = ours | set(before.values())
    new = {name: sum(oid not in known for oid in refs.values()) for name, refs in runs.items()}
    problems = find_problems(repository, {ref: oid for name in runs if new[name] for ref, oid in runs[name].items()})
    found = []
    for name in sorted(runs):
        refs, first = runs[name], f"{FETCHED}{name}/0000"
        replaced = first in before and before[first] != refs.get(first)
        is_ours = ours >= set(refs.values())
        found.append(Fetched(name, len(refs), new[name], is_ours, replaced, problems.get(name, "")))
    return found


def _run_of(ref: str, root: str) -> str:
    """The tag of an attempt's ref or the like."""
    return ref.removeprefix(root).partition("/")[0]


def _values(repository: Repository, *roots: str) -> dict[str, str]:
    return {row[0]: row[1] for row in repository.refs(roots, "refname", "objectname")}
