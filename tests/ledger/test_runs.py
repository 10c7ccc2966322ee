"""Runs as they are read: all of them, and the kept attempts of a branch alone.   pytest tests/ledger/test_runs.py"""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import add, reserve, run
from small_repository import BASELINE, DISCARD, GOOD, KEEP, git

from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.ledger import Ledger, check_tag, names, read_branch, read_runs, root_of, split_name


def test_every_run_with_its_attempts_the_latest_at_the_end(repository: Repository, folder: Path) -> None:
    assert read_runs(repository) == []
    for tag, year in (("b", 2020), ("a", 2040), ("c", 2030)):
        ledger = run(repository, tag, tag)
        date_of(folder, ledger, year)
    found = read_runs(repository)
    assert [ledger.tag for ledger, _ in found] == ["b", "c", "a"]
    for ledger, attempts in found:
        assert attempts == Ledger(repository, "autoresearch", ledger.tag).read() and len(attempts) == 3


def date_of(folder: Path, ledger: Ledger, year: int) -> None:
    """Make the last attempt of a run look as if it were of that year."""
    ref = ledger.ref(2)
    data = git(folder, "cat-file", "commit", ref)
    when = f"{(year - 1970) * 365 * 86400} +0000"
    lines = [f"{line.rsplit(' ', 2)[0]} {when}" if line.startswith("committer ") else line for line in data.split("\n")]
    made = git(folder, "hash-object", "-w", "-t", "commit", "--stdin", stdin="\n".join(lines).encode())
    git(folder, "update-ref", ref, made.strip())


def test_runs_of_a_spec(repository: Repository) -> None:
    add(run(repository, "t"), DISCARD)
    other = Ledger(repository, "autoresearch", "u")
    other.close(reserve(other, "Baseline", spec="sub/other.yaml"), GOOD, BASELINE)
    assert [ledger.tag for ledger, _ in read_runs(repository, "sub/other.yaml")] == ["u"]
    assert [ledger.tag for ledger, _ in read_runs(repository, "autoresearch-config.yaml")] == ["t"]
    assert read_runs(repository, "another.yaml") == []


def test_a_ref_of_ours_that_is_no_record_is_an_error(repository: Repository, folder: Path) -> None:
    run(repository, "t")
    git(folder, "update-ref", "refs/ark/t/0009", "HEAD")
    with pytest.raises(ArkError, match=r"refs/ark/t/0009 .* is not a record") as caught:
        read_runs(repository)
    assert "git update-ref -d refs/ark/t/0009" in caught.value.hint


# A branch without its ledger


def test_kept_attempts_of_a_branch(repository: Repository, folder: Path) -> None:
    ledger = run(repository, "t", attempts=6)
    kept = [a for a in ledger.read() if a.number in (0, 1, 3, 5)]
    assert read_branch(repository, "autoresearch/t") == kept
    git(folder, "update-ref", "refs/remotes/hub/autoresearch/t", "autoresearch/t")
    assert read_branch(repository, "hub/autoresearch/t") == kept


def test_a_run_that_began_from_another_one_ends_there(repository: Repository, folder: Path) -> None:
    first = run(repository, "first", attempts=4)
    git(folder, "switch", "-q", "--detach", "autoresearch/first")
    second = run(repository, "second", "Second", attempts=2)
    assert second.read()[0].parent == first.head()
    assert read_branch(repository, "autoresearch/second") == second.read()


def test_a_commit_of_the_user_between_them_is_no_attempt(repository: Repository, folder: Path) -> None:
    ledger = run(repository, "t", attempts=2)
    git(folder, "switch", "-q", "-c", "mine", "autoresearch/t")
    for said in (
        "Ark-Attempt is a trailer", "Ark-Attempt: 7x", f"Ark-Attempt: {'1' * 19}\nArk-Outcome: keep", "Ark-Attempt: 3",
        "Ark-Attempt: 3\nArk-Outcome: keep\n\nis how a record ends",
    ):  # fmt: skip
        git(folder, "commit", "-q", "--allow-empty", "-m", f"mine\n\n{said}")
        assert read_branch(repository, "mine") == ledger.read()


@pytest.mark.parametrize("branch", ["main", "--all", "nowhere"])
def test_a_branch_that_is_no_run(repository: Repository, branch: str) -> None:
    run(repository, "t")
    with pytest.raises(ArkError):
        read_branch(repository, branch)


def test_a_forged_record_on_a_branch_is_an_error(repository: Repository, folder: Path) -> None:
    git(folder, "commit", "-q", "--allow-empty", "-m", "x\n\nArk-Attempt: 3\nArk-Outcome: keep")
    with pytest.raises(ArkError, match="is not a record"):
        read_branch(repository, "main")


# Names


def test_names() -> None:
    assert split_name("nov21") == ("", "nov21") and split_name("hub/nov21") == ("hub", "nov21")
    assert root_of("nov21") == "refs/ark/nov21/" and root_of("hub/nov21") == "refs/ark-remotes/hub/nov21/"
    for bad in ("", "/a", "a/", "a/b/c", "../a", "a/../b"):
        with pytest.raises(UsageError, match="cannot be a tag"):
            split_name(bad)
        with pytest.raises(UsageError):
            check_tag(bad)
    with pytest.raises(UsageError, match="hub/nov21 is the name of a run that was fetched"):
        check_tag("hub/nov21")


def test_no_runs_no_names(repository: Repository) -> None:
    assert names(repository) == []
    ledger = run(repository, "t")
    add(ledger, KEEP)
    assert names(repository) == ["t"]
