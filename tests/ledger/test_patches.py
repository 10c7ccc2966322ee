"""What commits changed, many at a time.   pytest tests/ledger/test_patches.py"""

from __future__ import annotations

from pathlib import Path

from made_runs import run
from small_repository import git

from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.patches import patches


def commit(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", name)
    return git(folder, "rev-parse", "HEAD").strip()


def test_each_patch_is_what_git_shows(repository: Repository) -> None:
    attempts = run(repository, "t", attempts=6).read()
    found = patches(repository, [attempt.commit for attempt in attempts])
    assert list(found) == [attempt.commit for attempt in attempts]
    for attempt in attempts:
        assert "\n+LR = " in found[attempt.commit]
        shown = repository.diff(attempt.parent, attempt.commit)
        assert without_index(found[attempt.commit]) == without_index(shown)


def without_index(patch: str) -> list[str]:
    return [line for line in patch.split("\n") if not line.startswith("index ")]


def test_lines_that_look_like_what_stands_between_patches(repository: Repository, folder: Path) -> None:
    bare = git(folder, "rev-parse", "HEAD")
    made = [
        commit(folder, "hashes", bare.encode() * 3),
        commit(folder, "hashes", bare.encode() * 2 + b"x\n"),
        commit(folder, bare.strip(), b"named like a hash\n"),
        commit(folder, "nothing", b"a\n"),
        commit(folder, "nothing", b"a\n"),
        commit(folder, "binary", bytes(range(256))),
        commit(folder, "caf\u00e9 \"\t\n.txt", "caf\u00e9\r\n".encode() + b"\xff\n"),
    ]  # fmt: skip
    git(folder, "config", "diff.suppressBlankEmpty", "true")
    git(folder, "config", "diff.noprefix", "true")
    git(folder, "config", "color.ui", "always")
    git(folder, "config", "diff.external", "false")
    found = patches(repository, made)
    assert len(found) == len(made)
    assert found[made[0]].count(bare.strip()) == 3 and "diff --git a/hashes b/hashes" in found[made[0]]
    assert f"b/{bare.strip()}" in found[made[2]] and "+named like a hash" in found[made[2]]
    assert found[made[4]] == ""
    assert "Binary files" in found[made[5]]
    assert "+caf\u00e9\r\n+\udcff\n" in found[made[6]]


def test_a_renamed_file_is_a_rename(repository: Repository, folder: Path) -> None:
    git(folder, "mv", "src/a.py", "src/b.py")
    made = commit(folder, "src/c.py", b"")
    assert "rename from src/a.py\nrename to src/b.py" in patches(repository, [made])[made]


def test_nothing_asked_and_asked_twice(repository: Repository, folder: Path) -> None:
    assert patches(repository, []) == {} == patches(repository, ["", ""])
    made = commit(folder, "x", b"x\n")
    assert len(patches(repository, [made, "", made])) == 1


def test_the_first_commit_of_all(repository: Repository) -> None:
    """A baseline is never that; what is asked for by hand may be."""
    assert list(patches(repository, [repository.head()])) == [repository.head()]
