"""One change made again in other files, or taken out of a later commit: a three-way merge without a checkout."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from autoresearch_kit.core.records import Attempt
from autoresearch_kit.ledger.git import Entry, Repository

_T = TypeVar("_T")
_BETWEEN = b"\1 between two lines \1\n"
"""For git, changes of neighbouring lines are one; constants that a search turns often are neighbours."""


class Conflict(Exception):  # data for whoever asked, not an error of ark's
    """A change does not fit: `str()` is the path of the first file where it does not."""


def carry(
    repository: Repository, ours: Mapping[str, Entry], base: Mapping[str, Entry], theirs: Mapping[str, Entry]
) -> dict[str, Entry | None]:
    """What must change in the files `ours` to have in them too what changed from `base` to `theirs`; None deletes.

    Conflict when both have changed the same lines, one has deleted what the other changed, or a new file would take the
    place of a folder or lie below a file.
    """
    changes: dict[str, Entry | None] = {}
    for path in sorted(path for path in {*base, *theirs} if base.get(path) != theirs.get(path)):
        if ours.get(path) == base.get(path):
            changes[path] = theirs.get(path)
        elif ours.get(path) != theirs.get(path):
            merged = _merged(repository, path, base, ours, theirs)
            if merged is None:
                raise Conflict(path)
            if merged != ours[path]:
                changes[path] = merged
    _check_places({path for path, entry in {**ours, **changes}.items() if entry}, changes)
    return changes


def _check_places(files: Collection[str], changed: Iterable[str]) -> None:
    folders = {above for path in files for above in _above(path)}
    for path in changed:
        if path in files and (path in folders or any(above in files for above in _above(path))):
            raise Conflict(path)


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def without(repository: Repository, head: str, attempt: Attempt) -> str | None:
    """Tree of commit `head` without what `attempt`, an ancestor, changed against its parent.

    None when the change cannot be taken out by itself: later ones touch the same lines, or have replaced it.
    """
    try:
        changes = carry(repository, *(repository.files(commit) for commit in (head, attempt.commit, attempt.parent)))
    except Conflict:
        return None
    tree = repository.store_tree(head, changes)
    return None if tree == repository.tree_of(head) else tree


def _merged(
    repository: Repository, path: str, base: Mapping[str, Entry], ours: Mapping[str, Entry], theirs: Mapping[str, Entry]
) -> Entry | None:
    if not (path in base and path in ours and path in theirs):
        return None
    versions = [files[path] for files in (base, ours, theirs)]
    mode = _changed(*(entry.mode for entry in versions))
    oid = _changed(*(entry.oid for entry in versions))
    if mode is None:
        return None
    if oid is None:
        texts = [repository.blob(entry.oid) for entry in versions]
        data = repository.merge(*texts)
        if data is None and (merged := repository.merge(*map(_spread, texts))) is not None:
            data = merged.replace(_BETWEEN, b"")
        if data is None:
            return None
        oid = repository.store_blob(data)
    return Entry(mode, oid)


def _changed(base: _T, ours: _T, theirs: _T) -> _T | None:
    """What a value has become; None when it was changed to two others."""
    if theirs in (base, ours):
        return ours
    return theirs if ours == base else None


def _spread(text: bytes) -> bytes:
    """The text with a line between any two, which a merge sees as unchanged."""
    return b"".join(line + _BETWEEN for line in text.splitlines(keepends=True))
