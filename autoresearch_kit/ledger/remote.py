"""The other repositories that this one knows: which of them is meant, and what refs it has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.names import is_name
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.talk import talk

MAX_MEMORY = 2**30
"""For git to list the refs of a remote, all of which it holds before it prints the first; a million take a third."""


def remotes(repository: Repository) -> list[str]:
    """The remotes that the repository knows, by name."""
    return repository.run("remote").split()


def choose_remote(repository: Repository, wanted: str | None, pushing: bool = False) -> str:
    """The remote `wanted`, else that of the branch that is checked out, else the only one, else `origin`.

    For `pushing`, where git pushes that branch. UsageError when that is none, or when a run could not be named by it.
    """
    known = remotes(repository)
    name = wanted or _configured(repository, known, pushing) or (known[0] if len(known) == 1 else "origin")
    if name not in known:
        if wanted is None and known:
            raise UsageError("there are several remotes and none is `origin`", f"name one: {', '.join(known)}")
        where = wanted if wanted and re.search("[/:]", wanted) else "URL"
        new = "origin" if where == wanted or not wanted else wanted
        listed = f"; the remotes are: {', '.join(known)}" if known else ""
        raise UsageError(f"there is no remote {name}", f"add it: git remote add {new} {where}{listed}")
    if not is_name(name):
        plain = re.sub("[^A-Za-z0-9]+", "-", name).strip("-") or "hub"
        raise UsageError(
            f"the name of remote {name} cannot be part of a run's name", f"git remote rename {name} {plain}"
        )
    return name


def push_address(repository: Repository, remote: str) -> str:
    """Where a push goes, without a password that the address may hold."""
    found = repository.run("remote", "get-url", "--push", remote).strip().split("\n")[0]
    return re.sub("//[^/@]*@", "//", found)


def _configured(repository: Repository, known: Sequence[str], pushing: bool) -> str:
    branch = repository.branch()
    keys = [f"branch.{branch}.pushRemote", "remote.pushDefault"] if pushing else []
    for key in (*keys, f"branch.{branch}.remote"):
        value = repository.run("config", "--get", key, ok=(0, 1)).strip()
        if value in known:
            return value
    return ""


def read_remote(repository: Repository, remote: str, patterns: Sequence[str]) -> dict[str, str]:
    """The refs of a remote that fit, with their commits; ArkError when it cannot be read."""
    said = talk(repository, "ls-remote", "--quiet", remote, *patterns, memory=MAX_MEMORY)
    if said.status:
        raise ArkError(f"{remote} cannot be read: {said.reason}", said.remark and f"it said: {said.remark}")
    rows = (line.split("\t") for line in said.out.splitlines())
    roots = tuple(pattern.removesuffix("*") for pattern in patterns)
    # The patterns of `ls-remote` fit anywhere in a name.
    return {row[1]: row[0] for row in rows if len(row) == 2 and row[1].startswith(roots)}
