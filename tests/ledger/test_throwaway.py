"""A repository of its own beside the user's.   pytest tests/ledger/test_throwaway.py"""

from __future__ import annotations

from pathlib import Path

import pytest
from small_repository import git

from autoresearch_kit.ledger.git import Entry, Repository
from autoresearch_kit.ledger.throwaway import throwaway


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_reads_the_users_objects_and_writes_its_own(folder: Path, repository: Repository, tmp_path: Path) -> None:
    before = everything(folder)
    head = repository.head()
    made = throwaway(repository, tmp_path / "made", head)
    assert (made.head(), made.branch()) == (head, "")
    assert made.files(head) == repository.files(head)
    tree = made.store_tree(head, {"new": Entry(0o100644, made.store_blob(b"new\n"))})
    commit = made.store_commit(tree, [head], "new", ("A", "a@b"), 0)
    made.update_refs({"refs/heads/new": (commit, "0" * 40)})
    assert made.file_at("refs/heads/new", "new") == b"new\n"
    assert made.file_at("refs/heads/new", "train.py") == b"LR = 1\n"
    made.close()
    assert everything(folder) == before
    assert repository.commit_of("new") is None


@pytest.mark.parametrize("name", ["plain", "line\nend", 'quo"te', "back\\slash", "blank and ü"])
def test_any_path_will_do(folder: Path, tmp_path: Path, name: str) -> None:
    moved = folder.rename(tmp_path / f"user {name}")
    repository = Repository(moved)
    made = throwaway(repository, tmp_path / name / "made", repository.head())
    assert made.blob(made.files("HEAD")["train.py"].oid) == b"LR = 1\n"
    assert made.root == (tmp_path / name / "made").resolve()
    for opened in (made, repository):
        opened.close()


def test_ignore_rules_and_settings_are_the_users(folder: Path, tmp_path: Path) -> None:
    (folder / ".gitignore").write_text("*.old\n")
    (folder / "src/.gitignore").write_text("*.tmp\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "rules")
    (folder / ".gitignore").write_text("*.log\n")
    (folder / ".git/info/exclude").write_text("secret\n")
    git(folder, "config", "core.worktree", str(folder))
    repository = Repository(folder)
    made = throwaway(repository, tmp_path / "made", repository.head())
    assert made.ignored(["a.log", "a.old", "src/a.tmp", "secret", "a.py"]) == {"a.log", "src/a.tmp", "secret"}
    assert made.root == (tmp_path / "made").resolve(), "and not where the user's settings say"
    assert made.tracked("train.py") and not made.tracked("results.tsv")
    for opened in (made, repository):
        opened.close()


def test_a_linked_worktree_and_a_shallow_clone(folder: Path, tmp_path: Path) -> None:
    git(folder, "commit", "-q", "--allow-empty", "-m", "second")
    git(folder, "worktree", "add", "-q", str(tmp_path / "linked"))
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{folder}", "shallow")
    for name in ("linked", "shallow"):
        repository = Repository(tmp_path / name)
        made = throwaway(repository, tmp_path / f"{name}-made", repository.head())
        assert git(made.root, "log", "--format=%s").split() == (
            ["second"] if name == "shallow" else ["second", "start"]
        )
        for opened in (made, repository):
            opened.close()
