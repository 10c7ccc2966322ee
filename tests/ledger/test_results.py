"""python -m pytest tests/ledger/test_results.py"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_repository import BASELINE, DISCARD, GOOD, git

from autoresearch_kit.core.records import Attempt, Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.ledger import Ledger
from autoresearch_kit.ledger.results import ResultsFile, header, row, table

HEADER = "commit\tval_bpb\tmemory_gb\tstatus\tdescription\n"
CRASH = Verdict(Outcome.CRASH, "Crash: exit: code 1")


def made(verdict: Verdict | None, *measurements: Measurement, title: str = "Try") -> Attempt:
    ids = ("c" * 40, "p" * 40, "t" * 40)
    return Attempt(1, *ids, Proposal(title), measurements, verdict, "2026-01-01T00:00:00.000Z", "y")


def baseline(ledger: Ledger, title: str = "Baseline") -> Attempt:
    head = ledger.repository.head()
    tree = ledger.repository.tree_of(head)
    return ledger.close(ledger.reserve(0, Proposal(title), tree=tree, parent=head, yardstick="y"), GOOD, BASELINE)


def test_rows() -> None:
    assert header("val_bpb") == HEADER
    assert row(made(DISCARD, Measurement(0.123456789012))) == "ccccccc\t0.123456789\t\tdiscard\tTry\n"
    assert (
        row(made(BASELINE, Measurement(1.0, {"peak_vram_mb": 2048.0, "peak_memory_mb": 1.0}))).split("\t")[2] == "2.000"
    )
    assert row(made(BASELINE, Measurement(1.0, {"peak_memory_mb": 512.0}))).split("\t")[2] == "0.500"


def test_a_crash_has_an_empty_number() -> None:
    crash = Measurement(None, {"peak_memory_mb": 1024.0}, "exit: code 1")
    assert row(made(CRASH, crash)) == "ccccccc\t\t1.000\tcrash\tTry\n"
    assert row(made(CRASH, Measurement(5.0), crash)).split("\t")[1] == "", "one good sample of two is no value"


@pytest.mark.parametrize("verdict", [None, Verdict(Outcome.LOST, "Lost")])
def test_what_is_not_in_the_table(verdict: Verdict | None) -> None:
    assert row(made(verdict)) == ""
    assert table("val_bpb", [made(verdict)]) == HEADER


@pytest.mark.parametrize("title", ["a\tb\nc", "\t\t", "a\u2028b\x85c\x0bd", "keep\t1.0\nforged\trow", "x\r\ny"])
def test_a_row_stays_a_row(title: str) -> None:
    line = row(made(DISCARD, Measurement(1.0), title=title))
    assert line.count("\t") == 4 and len(line.splitlines()) == 1


def test_it_is_written_and_ignored(ledger: Ledger, folder: Path) -> None:
    results = ResultsFile(ledger.repository, folder, "val_bpb")
    results.add([])
    assert not (folder / "results.tsv").exists(), "a run that never began leaves nothing"
    first = baseline(ledger)
    results.add([first])
    assert (
        (folder / "results.tsv").read_text() == f"{HEADER}{first.commit[:7]}\t2\t\tkeep\tBaseline\n" == results.text()
    )
    results.add([made(DISCARD, Measurement(1.0)), made(None)])
    assert len((folder / "results.tsv").read_text().splitlines()) == 3
    assert git(folder, "status", "--porcelain", "--untracked-files=all") == ""
    exclude = (folder / ".git/info/exclude").read_text()
    assert exclude.endswith("/results.tsv\n")
    for _ in range(2):
        again = ResultsFile(ledger.repository, folder, "val_bpb")
        assert again.ours, "recognised by its first commit"
    assert (folder / ".git/info/exclude").read_text() == exclude


def test_it_is_replaced_in_one_step(ledger: Ledger, folder: Path) -> None:
    results = ResultsFile(ledger.repository, folder, "val_bpb")
    first = baseline(ledger)
    results.add([first])
    with (folder / "results.tsv").open() as reader:
        results.add([made(DISCARD, Measurement(1.0))])
        assert len(reader.read().splitlines()) == 2, "who reads the old one reads it to its end"
    assert sorted(path.name for path in folder.iterdir()) == [".git", "results.tsv", "src", "train.py"]
    assert not list((folder / ".git/ark").glob("*.tmp"))


@pytest.mark.parametrize(
    "text",
    ["", "notes\n", "commit\tval_bpb\tmemory_gb\tstatus\tdescription\nabcdef1\t1.0\t0.5\tkeep\tmine\n", "x" * 10**6,
     f"{HEADER}\nabcdef1\t1\n", HEADER.replace("commit", "id"), "\x00\xff\n\n"],
)  # fmt: skip
def test_a_table_of_somebody_else_is_not_touched(ledger: Ledger, folder: Path, text: str) -> None:
    (folder / "results.tsv").write_text(text)
    results = ResultsFile(ledger.repository, folder, "val_bpb")
    results.add([baseline(ledger)])
    assert not results.ours
    assert (folder / "results.tsv").read_text() == text
    assert "results.tsv" in git(folder, "status", "--porcelain"), "nor hidden from git"


def test_a_header_alone_is_nobodys(ledger: Ledger, folder: Path) -> None:
    """The loops before `ark` begin with it, and a baseline that failed once left it here for ever."""
    (folder / "results.tsv").write_text(HEADER.replace("val_bpb", "loss"))
    results = ResultsFile(ledger.repository, folder, "val_bpb")
    results.add([baseline(ledger)])
    assert results.ours and (folder / "results.tsv").read_text() == results.text()


@pytest.mark.parametrize("kind", ["folder", "link", "dangling", "unreadable"])
def test_what_is_no_plain_file_is_not_touched(ledger: Ledger, folder: Path, tmp_path: Path, kind: str) -> None:
    path = folder / "results.tsv"
    if kind == "folder":
        path.mkdir()
    elif kind == "unreadable":
        if os.geteuid() == 0:
            pytest.skip("root reads everything")
        path.write_text(HEADER)
        path.chmod(0)
    else:
        path.symlink_to(tmp_path / "elsewhere")
        if kind == "link":
            (tmp_path / "elsewhere").write_text(HEADER)
    results = ResultsFile(ledger.repository, folder, "val_bpb")
    results.add([baseline(ledger)])
    assert not results.ours
    assert path.is_symlink() == (kind in ("link", "dangling"))
    assert kind != "link" or (tmp_path / "elsewhere").read_text() == HEADER


def test_a_committed_table_is_not_touched(ledger: Ledger, folder: Path) -> None:
    first = baseline(ledger)
    ours = table("val_bpb", [first])
    (folder / "results.tsv").write_text(ours)
    git(folder, "add", "-f", "results.tsv")
    git(folder, "commit", "-q", "-m", "results")
    results = ResultsFile(ledger.repository, folder, "val_bpb")
    results.add([first, first])
    assert not results.ours
    assert git(folder, "status", "--porcelain") == ""


def test_the_users_own_rules_are_enough(ledger: Ledger, folder: Path) -> None:
    (folder / ".gitignore").write_text("*.tsv\n")
    before = (folder / ".git/info/exclude").read_text()
    ResultsFile(ledger.repository, folder, "val_bpb").add([baseline(ledger)])
    assert (folder / ".git/info/exclude").read_text() == before


def test_a_rule_against_ignoring_it_is_not_fought_over_and_over(ledger: Ledger, folder: Path) -> None:
    (folder / ".gitignore").write_text("!results.tsv\n")
    for _ in range(3):
        ResultsFile(ledger.repository, folder, "val_bpb")
    assert (folder / ".git/info/exclude").read_text().count("results.tsv") == 1


@pytest.mark.parametrize("before", [None, "", "mine", "mine\n", "\udcff"])
def test_the_private_list_keeps_what_it_has(ledger: Ledger, folder: Path, before: str | None) -> None:
    """Appended to a last line without its end, the rule once became part of the user's own."""
    exclude = folder / ".git/info/exclude"
    exclude.unlink()
    if before is None:
        exclude.parent.rmdir()
    else:
        exclude.write_text(before, "utf-8", "surrogateescape")
    ResultsFile(ledger.repository, folder, "val_bpb")
    lines = exclude.read_text("utf-8", "surrogateescape").split("\n")
    assert lines == [*([before.strip("\n")] if before else []), "/results.tsv", ""]


@pytest.mark.parametrize(
    "name", ["plain", "sub/deep", "[ab]", "star*", "que?", "!not", "#hash", "back\\slash", "a b ", "ünï"]
)
def test_any_folder_is_ignored_by_its_own_name(ledger: Ledger, folder: Path, name: str) -> None:
    place = folder / name
    place.mkdir(parents=True)
    for _ in range(2):
        ResultsFile(ledger.repository, place, "val_bpb")
    (place / "results.tsv").write_text("x")
    assert git(folder, "status", "--porcelain", "--untracked-files=all") == ""
    assert (folder / ".git/info/exclude").read_text().count("results.tsv") == 1


def test_through_a_linked_path(ledger: Ledger, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    repository = Repository(tmp_path / "link")
    results = ResultsFile(repository, tmp_path / "link", "val_bpb")
    results.add([baseline(ledger)])
    assert (folder / "results.tsv").exists() and git(folder, "status", "--porcelain") == ""
    repository.close()


def test_a_table_that_cannot_be_written_ends_no_run(ledger: Ledger, folder: Path) -> None:
    place = folder / "project"
    place.mkdir()
    results = ResultsFile(ledger.repository, place, "val_bpb")
    place.rmdir()
    results.add([baseline(ledger)])
    assert results.problem == f"{place / 'results.tsv'} cannot be written: No such file or directory"
    assert not place.exists()
    place.mkdir()
    results.add([])
    assert results.problem == "" and (place / "results.tsv").read_text() == results.text()
