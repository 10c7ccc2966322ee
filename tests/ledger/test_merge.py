"""One change taken out of a later commit, or made again elsewhere.   pytest tests/ledger/test_merge.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_repository import git

from autoresearch_kit.core.records import Attempt, Proposal
from autoresearch_kit.ledger.git import Entry, Repository
from autoresearch_kit.ledger.merge import Conflict, carry, without

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


# A change made again in other files


def files(folder: Path, repository: Repository, **texts: str | bytes) -> dict[str, Entry]:
    """Entries of plain files; a name that ends in `_x` is an executable."""
    entries = {}
    for name, text in texts.items():
        data = text.encode() if isinstance(text, str) else text
        mode = 0o100755 if name.endswith("_x") else 0o100644
        entries[name.removesuffix("_x").replace("__", "/")] = Entry(mode, repository.store_blob(data))
    return entries


def carried(folder: Path, repository: Repository, ours: Any, base: Any, theirs: Any) -> dict[str, Any]:
    """What `carry` changes, as text or mode and text."""
    made = (files(folder, repository, **texts) for texts in (ours, base, theirs))
    changes = carry(repository, *made)
    found: dict[str, Any] = {}
    for path, entry in changes.items():
        text = repository.blob(entry.oid).decode("latin-1") if entry else None
        found[path] = (text, "x") if entry and entry.mode == 0o100755 else text
    return found


A, B, AB = "a\n" + TEXT, TEXT + "b\n", "a\n" + TEXT + "b\n"


@pytest.mark.parametrize(
    ("ours", "base", "theirs", "changes"),
    [
        ({"f": A}, {"f": TEXT}, {"f": B}, {"f": AB}),
        ({"f": A}, {"f": TEXT}, {"f": A}, {}),
        ({"f": AB}, {"f": TEXT}, {"f": B}, {}),
        ({"f": TEXT, "g": "g"}, {"f": TEXT}, {"f": B}, {"f": B}),
        ({"f": TEXT}, {"f": TEXT}, {"f": TEXT, "new": "n"}, {"new": "n"}),
        ({"f": TEXT, "new": "n"}, {"f": TEXT}, {"f": TEXT, "new": "n"}, {}),
        ({"f": TEXT, "g": "g"}, {"f": TEXT, "g": "g"}, {"f": TEXT}, {"g": None}),
        ({"f": TEXT}, {"f": TEXT, "g": "g"}, {"f": TEXT}, {}),
        ({"f": A}, {"f": TEXT}, {"f_x": TEXT}, {"f": (A, "x")}),
        ({"f_x": TEXT}, {"f": TEXT}, {"f": B}, {"f": (B, "x")}),
        ({"f": "\0ours"}, {"f": "\0"}, {"f_x": "\0"}, {"f": ("\0ours", "x")}),
        ({"f_x": "\0"}, {"f": "\0"}, {"f": "\0theirs"}, {"f": ("\0theirs", "x")}),
        ({"f": "1\n2\n"}, {"f": "1\nx\n"}, {"f": "y\nx\n"}, {"f": "y\n2\n"}),
        ({"d__f": "f"}, {"d": "file"}, {}, {}),
        ({"d": "d"}, {"d": "d"}, {"d__f": "f"}, {"d": None, "d/f": "f"}),
    ],
    ids=[
        "both sides of a file", "the same", "in already", "untouched here", "added", "added here too", "deleted",
        "deleted here too", "made executable", "executable here", "executable, not text", "changed, not text",
        "neighbouring lines", "a folder now, gone there", "a file becomes a folder",
    ],
)  # fmt: skip
def test_changes_that_fit(
    folder: Path, repository: Repository, ours: Any, base: Any, theirs: Any, changes: dict[str, Any]
) -> None:
    assert carried(folder, repository, ours, base, theirs) == changes


@pytest.mark.parametrize(
    ("ours", "base", "theirs", "where"),
    [
        ({"f": "ours\n"}, {"f": "base\n"}, {"f": "theirs\n"}, "f"),
        ({"f": "\0ours"}, {"f": "\0base"}, {"f": "\0theirs"}, "f"),
        ({}, {"f": "base\n"}, {"f": "theirs\n"}, "f"),
        ({"f": "ours\n"}, {"f": "base\n"}, {}, "f"),
        ({"f": "ours\n"}, {}, {"f": "theirs\n"}, "f"),
        ({"d__f": "fixed"}, {}, {"d": "new"}, "d"),
        ({"d": "fixed"}, {}, {"d__e__f": "new"}, "d/e/f"),
    ],
    ids=[
        "the same line", "not text", "deleted here", "deleted there", "added twice", "a file in place of a folder",
        "a file below a file",
    ],
)  # fmt: skip
def test_changes_that_do_not_fit(
    folder: Path, repository: Repository, ours: Any, base: Any, theirs: Any, where: str
) -> None:
    with pytest.raises(Conflict) as found:
        carried(folder, repository, ours, base, theirs)
    assert str(found.value) == where


LINES = st.lists(st.sampled_from(["a", "b", "c", "", "\r", "é"]), max_size=6).map(lambda lines: "\n".join(lines))


@given(base=LINES, theirs=LINES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_change_onto_what_it_was_made_from_is_itself(
    folder: Path, repository: Repository, base: str, theirs: str
) -> None:
    made = carried(folder, repository, {"f": base}, {"f": base}, {"f": theirs})
    assert made == ({} if base == theirs else {"f": theirs.encode().decode("latin-1")})
    assert carried(folder, repository, {"f": theirs}, {"f": base}, {"f": theirs}) == {}, "and never twice"
