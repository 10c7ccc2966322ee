"""One change made again in other files, or taken out of a later commit: a three-way merge without a checkout."""

from __future__ import annotations

from collections.abc import Mapping

from autoresearch_kit.core.records import Attempt
from autoresearch_kit.ledger.git import Entry, Repository

_BETWEEN = b"\1 between two lines \1\n"
"""For git, changes of neighbouring lines are one; constants that a search turns often are neighbours."""


class Conflict(Exception):  # data for whoever asked, not an error of ark's
    """A change does not fit: `str()` is the path of the first file where it does not."""


def carry(
    repository: Repository, ours: Mapping[str, Entry], base: Mapping[str, Entry], theirs: Mapping[str, Entry]
) -> dict[str, Entry | None]:
    """What must change in the files `ours` to have in them too what changed from `base` to `theirs`; None deletes.

    Conflict when both have changed the same lines, or one has deleted what the other changed.
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
    return changes


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
    texts = [repository.blob(entry.oid) for entry in versions]
    data = repository.merge(*texts)
    if data is None and (merged := repository.merge(*map(_spread, texts))) is not None:
        data = merged.replace(_BETWEEN, b"")
    if data is None:
        return None
    mode = versions[1].mode if versions[1].mode != versions[0].mode else versions[2].mode
    return Entry(mode, repository.store_blob(data))


def _spread(text: bytes) -> bytes:
    """The text with a line between any two, which a merge sees as unchanged."""
    return b"".join(line + _BETWEEN for line in text.splitlines(keepends=True))
