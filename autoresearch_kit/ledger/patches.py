"""What commits changed, many at a time: one process of git whatever their count."""

from __future__ import annotations

import re
from collections.abc import Iterable

from autoresearch_kit.ledger.git import Repository

_HOW = ("--stdin", "-p", "-M", "--no-color", "--no-ext-diff", "--no-textconv", "--full-index")
_COMMIT = re.compile("^([0-9a-f]{40})$", re.M)


def patches(repository: Repository, commits: Iterable[str]) -> dict[str, str]:
    """The patch of each commit against its first parent, by its hash; empty for one that changed nothing."""
    wanted = list(dict.fromkeys(commit for commit in commits if commit))
    if not wanted:
        return {}
    # A line of a patch begins with a sign or a letter that is no hexadecimal digit alone, so a bare hash is a header.
    cells = _COMMIT.split(repository.run("diff-tree", *_HOW, stdin="\n".join(wanted) + "\n"))
    found = dict.fromkeys(wanted, "")
    found.update(zip(cells[1::2], (text.lstrip("\n") for text in cells[2::2]), strict=True))
    return found
