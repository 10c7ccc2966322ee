"""One change taken out of a later commit.   pytest tests/ledger/test_merge.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_repository import git

from autoresearch_kit.core.records import Attempt, Proposal
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.merge import without

TEXT = "".join(f"line {number}\n" for number in range(10))


def commit(folder: Path, **files: str | bytes | None) -> str:
    for name, text in files.items():
        path = folder / name
        if text is None:
            path.unlink()
        else:
            path.write_bytes(text.encode() if isinstance(text, str) else text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "change")
    return git(folder, "rev-parse", "HEAD").strip()


def change(folder: Path, commit: str) -> Attempt:
    parent = git(folder, "rev-parse", f"{commit}^").strip()
    return Attempt(1, commit, parent, "", Proposal("change"), (), None, "", "")


def shown(folder: Path, tree: str | None) -> dict[str, str]:
    assert tree is not None
    names = git(folder, "ls-tree", "--name-only", tree).split()
    return {name: git(folder, "show", f"{tree}:{name}") for name in names if name not in ("src", "train.py")}


def test_lines_far_apart_come_out_alone(folder: Path, repository: Repository) -> None:
    commit(folder, a=TEXT)
    first = commit(folder, a=TEXT.replace("line 1", "one"))
    head = commit(folder, a=TEXT.replace("line 1", "one").replace("line 8", "eight"), b="b\n")
    tree = without(repository, head, change(folder, first))
    assert shown(folder, tree) == {"a": TEXT.replace("line 8", "eight"), "b": "b\n"}


def test_added_deleted_and_exchanged_files_come_back(folder: Path, repository: Repository) -> None:
    commit(folder, a="a\n", b="b\n", c="c\n")
    first = commit(folder, a=None, b="B\n", c="C\n", d="new\n")
    head = commit(folder, e="later\n", c="c\n")
    assert shown(folder, without(repository, head, change(folder, first))) == {
        "a": "a\n", "b": "b\n", "c": "c\n", "e": "later\n",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "later"),
    [
        (TEXT, TEXT.replace("line 5", "five"), TEXT.replace("line 5", "fifth")),
        (b"\0a", b"\0b", b"\0c"),
        (None, "new\n", "newer\n"),
        ("old\n", None, "again\n"),
    ],
    ids=["the same line", "not text", "added, then changed", "deleted, then written anew"],
)
def test_tangled_changes_stay(folder: Path, repository: Repository, old: Any, new: Any, later: Any) -> None:
    commit(folder, **{"other": "x\n", **({} if old is None else {"a": old})})
    first = commit(folder, a=new)
    assert without(repository, commit(folder, a=later), change(folder, first)) is None


def test_what_later_changes_undid_is_not_there_to_be_taken_out(folder: Path, repository: Repository) -> None:
    commit(folder, a="a\n")
    first = commit(folder, a="b\n")
    assert without(repository, commit(folder, a="a\n"), change(folder, first)) is None


def test_bytes_line_ends_and_modes_survive(folder: Path, repository: Repository) -> None:
    old = b"one\r\ntwo\r\n" + b"same\r\n" * 5 + b"\xff\xfe three\r\n"
    commit(folder, a=old)
    first = commit(folder, a=old.replace(b"one", b"ONE"))
    (folder / "a").chmod(0o755)
    head = commit(folder, a=old.replace(b"one", b"ONE").replace(b" three", b" 3"))
    tree = without(repository, head, change(folder, first))
    entry = repository.files(str(tree))["a"]
    assert repository.blob(entry.oid) == old.replace(b" three", b" 3")
    assert entry.mode == 0o100755
    assert git(folder, "status", "--porcelain") == "", "no checkout was needed"


def test_neighbouring_constants_come_out_alone(folder: Path, repository: Repository) -> None:
    commit(folder, a="RATE = 1\nSTEPS = 1\nDEPTH = 1")
    first = commit(folder, a="RATE = 2\nSTEPS = 1\nDEPTH = 1")
    head = commit(folder, a="RATE = 2\nSTEPS = 2\nDEPTH = 2")
    assert shown(folder, without(repository, head, change(folder, first))) == {"a": "RATE = 1\nSTEPS = 2\nDEPTH = 2"}
    again = commit(folder, a="RATE = 3\nSTEPS = 2\nDEPTH = 2")
    assert without(repository, again, change(folder, first)) is None, "a later change of the same line"
