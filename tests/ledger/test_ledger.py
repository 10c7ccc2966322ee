"""python -m pytest tests/ledger/test_ledger.py"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_repository import BASELINE, DISCARD, GOOD, KEEP, git

from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.records import Attempt, Cost, Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.ledger.git import ZERO, Entry, RefMoved, Repository
from autoresearch_kit.ledger.ledger import (
    Ledger,
    baseline_of,
    check_tag,
    last_kept,
    pick,
    seconds_of,
    tags,
    utc_now,
)

REF = "refs/ark/t/"
BRANCH = "refs/heads/autoresearch/t"


def reserve(ledger: Ledger, number: int = 0, parent: str = "", title: str = "Try") -> Attempt:
    """An attempt that changes one file of the head."""
    repository = ledger.repository
    parent = parent or repository.head()
    blob = repository.store_blob(f"LR = {number} {title}\n".encode())
    tree = repository.store_tree(parent, {"train.py": Entry(0o100644, blob)})
    return ledger.reserve(number, Proposal(title, agent="search"), tree=tree, parent=parent, yardstick="y" * 16)


def begin(ledger: Ledger) -> Attempt:
    return ledger.close(reserve(ledger, title="Baseline"), GOOD, BASELINE)


def test_reserve_measure_close(ledger: Ledger, folder: Path) -> None:
    running = reserve(ledger)
    assert running.outcome is Outcome.RUNNING and running.number == 0
    assert ledger.read() == [running]
    assert ledger.head() is None
    closed = ledger.close(running, GOOD, BASELINE)
    assert ledger.read() == [closed]
    assert closed.measurements == GOOD and closed.verdict == BASELINE and closed.started == running.started
    assert ledger.head() == closed.commit == git(folder, "rev-parse", REF + "0000").strip()

    better = ledger.close(reserve(ledger, 1, closed.commit), GOOD, KEEP)
    worse = ledger.close(reserve(ledger, 2, better.commit), GOOD, DISCARD)
    assert ledger.head() == better.commit
    assert git(folder, "log", "--format=%H", BRANCH).split() == [better.commit, closed.commit, closed.parent]
    assert ledger.read() == [closed, better, worse]
    assert ledger.read_one(1) == better and ledger.read_one(3) is None
    assert git(folder, "fsck", "--strict", "--no-dangling") == ""


def test_git_alone_can_read_it(ledger: Ledger, folder: Path) -> None:
    first = begin(ledger)
    crash = (Measurement(None, problem="exit: code 1", log_tail="KeyError", machine="Linux"),)
    running = ledger.reserve(
        1, Proposal("Über <fast>", "why", "my agent"), tree=first.tree, parent=first.commit, yardstick="y"
    )
    ledger.close(running, crash, Verdict(Outcome.CRASH, "Crash: exit: code 1"))
    shown = git(folder, "log", "-1", "--format=%an|%ae|%cn|%ce|%s|%(trailers:key=Ark-Outcome,valueonly)", REF + "0001")
    assert shown.strip() == "my agent|my-agent@localhost|ark|ark@localhost|Über <fast>|crash"
    assert "KeyError" in git(folder, "show", REF + "0001")
    assert git(folder, "log", "-1", "--format=%an <%ae>", BRANCH).strip() == "search <search@localhost>"


@pytest.mark.parametrize("agent", ["", "<>", "a\nb", "Ünï <x@y>", "command", "." * 90, "\x00", "ark <"])
def test_any_agent_is_an_author(ledger: Ledger, folder: Path, agent: str) -> None:
    parent = ledger.repository.head()
    tree = ledger.repository.tree_of(parent)
    ledger.close(ledger.reserve(0, Proposal("x", agent=agent), tree=tree, parent=parent, yardstick="y"), GOOD, BASELINE)
    assert git(folder, "fsck", "--strict", "--no-dangling") == ""
    assert git(folder, "log", "-1", "--format=%ce", REF + "0000") == "ark@localhost\n"


def test_the_users_things_stay_as_they_are(ledger: Ledger, folder: Path) -> None:
    (folder / "train.py").write_text("mine\n")
    git(folder, "stash")
    (folder / "src/a.py").write_text("changed\n")
    (folder / "new.txt").write_text("untracked\n")
    before = (
        git(folder, "status", "--porcelain"),
        git(folder, "stash", "list"),
        git(folder, "rev-parse", "HEAD", "main"),
    )
    index = (folder / ".git/index").read_bytes()
    first = begin(ledger)
    ledger.close(reserve(ledger, 1, first.commit), GOOD, KEEP)
    assert (folder / ".git/index").read_bytes() == index
    after = git(folder, "status", "--porcelain"), git(folder, "stash", "list"), git(folder, "rev-parse", "HEAD", "main")
    assert after == before


def test_close_is_both_or_neither_when_the_branch_moved(ledger: Ledger, folder: Path) -> None:
    first = begin(ledger)
    running = reserve(ledger, 1, first.commit)
    mine = git(folder, "commit-tree", "-p", first.commit, "-m", "mine", first.tree).strip()
    git(folder, "update-ref", BRANCH, mine)
    with pytest.raises(RefMoved) as caught:
        ledger.close(running, GOOD, KEEP)
    assert BRANCH in caught.value.message and mine[:10] in caught.value.message
    assert ledger.head() == mine, "what the user did stays"
    assert ledger.read()[1] == running, "and the attempt is as it was"

    error = ledger.moved(first.commit)
    assert f"branch autoresearch/t was moved by somebody else: the run left it at {first.commit[:10]}" in error.message
    assert f"it is now at {mine[:10]}" in error.message
    advice = error.hint.split(": ", 1)[1].split(";")[0]
    subprocess.run(advice, shell=True, cwd=folder, check=True, capture_output=True)
    assert ledger.close(running, GOOD, KEEP).commit == ledger.head(), "the advice in the message works"


@pytest.mark.parametrize("also", ["discard", "keep"])
def test_close_notices_that_the_attempt_was_taken(ledger: Ledger, folder: Path, also: str) -> None:
    first = begin(ledger)
    running = reserve(ledger, 1, first.commit)
    other = ledger.close(running, GOOD, Verdict(Outcome.LOST, "Lost: by another engine"))
    with pytest.raises(RefMoved):
        ledger.close(running, GOOD, KEEP if also == "keep" else DISCARD)
    assert ledger.head() == first.commit
    assert ledger.read()[1] == other


def test_close_when_the_branch_is_gone(ledger: Ledger, folder: Path) -> None:
    first = begin(ledger)
    running = reserve(ledger, 1, first.commit)
    git(folder, "update-ref", "-d", BRANCH)
    with pytest.raises(RefMoved):
        ledger.close(running, GOOD, KEEP)
    assert "it is gone" in ledger.moved(first.commit).message
    assert ledger.close(running, GOOD, DISCARD).outcome is Outcome.DISCARD, "a discard needs no branch"


def test_advance_finishes_half_a_close(ledger: Ledger, folder: Path) -> None:
    first = begin(ledger)
    kept = ledger.close(reserve(ledger, 1, first.commit), GOOD, KEEP)
    git(folder, "update-ref", BRANCH, first.commit)
    ledger.advance(kept)
    assert ledger.head() == kept.commit


def test_withdraw_leaves_nothing(ledger: Ledger, folder: Path) -> None:
    ledger.withdraw(reserve(ledger))
    assert ledger.read() == [] and tags(ledger.repository) == []
    assert git(folder, "for-each-ref", "refs/ark") == ""
    assert begin(ledger).number == 0


def test_begin_again_keeps_the_number(ledger: Ledger) -> None:
    first = begin(ledger)
    dead = reserve(ledger, 1, first.commit)
    again = ledger.begin_again(dead)
    assert (again.number, again.repeats, again.outcome) == (1, 1, Outcome.RUNNING)
    assert (again.tree, again.parent, again.proposal) == (dead.tree, dead.parent, dead.proposal)
    assert ledger.read() == [first, again]
    with pytest.raises(RefMoved):
        ledger.close(dead, GOOD, DISCARD)
    assert ledger.close(again, GOOD, DISCARD).repeats == 1


def test_a_taken_number_is_passed_over(ledger: Ledger) -> None:
    first = begin(ledger)
    assert [reserve(ledger, 1, first.commit).number for _ in range(3)] == [1, 2, 3]


RESERVE = """
import sys
from pathlib import Path
from autoresearch_kit.core.records import Proposal
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.ledger import Ledger
ledger = Ledger(Repository(Path(sys.argv[1])), "autoresearch", "t")
parent = ledger.repository.head()
tree = ledger.repository.tree_of(parent)
for n in range(int(sys.argv[3])):
    attempt = ledger.reserve(0, Proposal(f"{sys.argv[2]}.{n}"), tree=tree, parent=parent, yardstick="y")
    print(attempt.number)
"""


@pytest.mark.slow
def test_eight_processes_reserve_at_once(ledger: Ledger, folder: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", RESERVE, str(folder), str(n), "4"], stdout=subprocess.PIPE, text=True)
        for n in range(8)
    ]
    numbers = [int(word) for worker in workers for word in worker.communicate()[0].split()]
    assert sorted(numbers) == list(range(32)), "a gap or a number twice"
    attempts = ledger.read()
    assert [a.number for a in attempts] == list(range(32))
    assert len({a.proposal.title for a in attempts}) == 32


def test_the_order_beyond_four_digits(ledger: Ledger, folder: Path) -> None:
    first = begin(ledger)
    for number in (9998, 9999, 10000, 10001, 123456):
        reserve(ledger, number, first.commit)
    assert [a.number for a in ledger.read()] == [0, 9998, 9999, 10000, 10001, 123456]
    assert ledger.read_one(10000) is not None
    assert pick(ledger.repository, "autoresearch", "t/123456").number == 123456
    assert REF + "123456" in git(folder, "for-each-ref")


def test_what_others_put_below_refs_ark_is_passed_over(ledger: Ledger, folder: Path) -> None:
    first = begin(ledger)
    head = git(folder, "rev-parse", "HEAD").strip()
    blob = git(folder, "hash-object", "-w", "--stdin", stdin=b"x").strip()
    for name in ("t/notes", "t/7", "t/00007", "t/0007/x", "t/²", "t/٣٣٣٣", "t/-001", "else/x", "top", "u/v/0000"):
        git(folder, "update-ref", f"refs/ark/{name}", head)
    git(folder, "update-ref", "refs/ark/t/blob", blob)
    git(folder, "tag", "-a", "-m", "x", "v1")
    git(folder, "update-ref", "refs/ark/t/tag", git(folder, "rev-parse", "v1").strip())
    assert ledger.read() == [first]
    assert tags(ledger.repository) == ["t"]
    assert reserve(ledger, 1, first.commit).number == 1


@pytest.mark.parametrize("kind", ["root", "child", "blob", "tag", "nul"])
def test_a_foreign_ref_in_the_place_of_an_attempt_is_a_sentence(ledger: Ledger, folder: Path, kind: str) -> None:
    """A commit without a parent once shifted the fields of all that came after it."""
    begin(ledger)
    tree = git(folder, "rev-parse", "HEAD^{tree}").strip()
    if kind == "root":
        oid = git(folder, "rev-parse", "HEAD").strip()
    elif kind == "child":
        oid = git(folder, "commit-tree", "-p", "HEAD", "-m", "mine", tree).strip()
    elif kind == "blob":
        oid = git(folder, "hash-object", "-w", "--stdin", stdin=b"x\n\ny").strip()
    elif kind == "tag":
        git(folder, "tag", "-a", "-m", "x", "v1")
        oid = git(folder, "rev-parse", "v1").strip()
    else:
        body = f"tree {tree}\nauthor a <a> 0 +0000\ncommitter a <a> 0 +0000\n\nx\0\0y\n".encode()
        oid = git(folder, "hash-object", "-w", "--stdin", "-t", "commit", "--literally", stdin=body).strip()
    git(folder, "update-ref", REF + "0001", oid)
    reserve(ledger, 2)
    with pytest.raises(ArkError) as caught:
        ledger.read()
    assert caught.value.message == f"{REF}0001 ({oid[:10]}) is not a record of `ark`"
    subprocess.run(caught.value.hint.split(": ", 1)[1], shell=True, cwd=folder, check=True)
    assert [a.number for a in ledger.read()] == [0, 2]
    assert git(folder, "rev-parse", "t-0001").strip() == oid, "and nothing is lost by the advice"


def test_an_empty_repository_has_no_tags(repository: Repository) -> None:
    assert tags(repository) == []
    with pytest.raises(UsageError, match="there is no attempt t/1") as caught:
        pick(repository, "autoresearch", "t/1")
    assert "none yet" in caught.value.hint


def test_tags_come_in_the_order_of_their_last_activity(repository: Repository) -> None:
    parent = repository.head()
    tree = repository.tree_of(parent)
    for tag, when in [("b", 300), ("a", 200), ("c", 100)]:
        for number, moment in ((0, 50), (1, when)):
            commit = repository.store_commit(tree, [parent], "x\n", ("a", "a@b"), moment)
            repository.update_refs({f"refs/ark/{tag}/{number:04d}": (commit, ZERO)})
    assert tags(repository) == ["c", "a", "b"]


@pytest.mark.parametrize(
    "name", ["", "t", "t/", "/1", "t/x", "t/-1", "t/²", "t/1/2", "../t/1", "t/" + "9" * 30, "a b/1"]
)
def test_what_is_no_attempt(ledger: Ledger, name: str) -> None:
    begin(ledger)
    with pytest.raises(UsageError, match="there is no attempt"):
        pick(ledger.repository, "autoresearch", name)


@pytest.mark.parametrize("tag", ["", "a/", "/b", "a/b/c", "../b", "a/..", "..", "-x", "a b", "x.lock", "ä", "a\n"])
def test_bad_tags(repository: Repository, tag: str) -> None:
    with pytest.raises(UsageError, match="cannot be a tag"):
        Ledger(repository, "autoresearch", tag)
    assert check_tag("mar5.x_y-z") == "mar5.x_y-z"


def test_one_lock_per_tag_whatever_the_prefix(repository: Repository) -> None:
    """Attempts lie under the tag alone, so two prefixes share them."""
    assert Ledger(repository, "one", "t").lock().path == Ledger(repository, "two", "t").lock().path
    assert Ledger(repository, "one", "t").lock().path != Ledger(repository, "one", "u").lock().path


def test_a_branch_that_is_checked_out_is_not_moved(ledger: Ledger, folder: Path, tmp_path: Path) -> None:
    first = begin(ledger)
    ledger.check_free()
    running = reserve(ledger, 1, first.commit)
    git(folder, "worktree", "add", "-q", str(tmp_path / "linked"), "autoresearch/t")
    for act in (ledger.check_free, lambda: ledger.close(running, GOOD, KEEP)):
        with pytest.raises(ArkError, match="branch autoresearch/t is checked out") as caught:
            act()
        assert "git switch -" in caught.value.hint
    assert ledger.head() == first.commit and ledger.read()[1] == running
    assert ledger.close(running, GOOD, DISCARD).outcome is Outcome.DISCARD
    git(folder, "worktree", "remove", str(tmp_path / "linked"))
    git(folder, "checkout", "-q", "autoresearch/t")
    with pytest.raises(ArkError, match="is checked out"):
        ledger.check_free()


@pytest.mark.parametrize("name", ["autoresearch", "autoresearch/t/mine"])
def test_a_branch_whose_name_is_in_the_way(ledger: Ledger, folder: Path, name: str) -> None:
    git(folder, "branch", name)
    with pytest.raises(ArkError, match=f"branch autoresearch/t cannot exist beside your branch {name}") as caught:
        ledger.check_free()
    assert f"git branch -m {name} NAME" in caught.value.hint


@pytest.mark.slow
def test_locks_that_a_killed_git_left(ledger: Ledger, folder: Path) -> None:
    first = begin(ledger)
    for name in ("refs/ark/t/0001", "refs/heads/autoresearch/t", "refs/heads/main"):
        (folder / ".git" / f"{name}.lock").write_text("")
    ledger.drop_stale_locks()
    assert not list((folder / ".git/refs/ark").rglob("*.lock"))
    assert ledger.close(reserve(ledger, 1, first.commit), GOOD, KEEP).commit == ledger.head()
    assert (folder / ".git/refs/heads/main.lock").exists(), "not ours"


def test_pushed_attempts_are_read_elsewhere(ledger: Ledger, folder: Path, tmp_path: Path) -> None:
    begin(ledger)
    git(tmp_path, "init", "-q", "--bare", "shared.git")
    git(folder, "push", "-q", str(tmp_path / "shared.git"), "refs/ark/*:refs/ark/*", "refs/heads/*:refs/heads/*")
    git(tmp_path, "clone", "-q", "-b", "main", "shared.git", "other")
    git(tmp_path / "other", "fetch", "-q", "origin", "refs/ark/*:refs/ark/*")
    other = Repository(tmp_path / "other")
    assert Ledger(other, "autoresearch", "t").read() == ledger.read()
    other.close()


def test_which_is_the_head_and_which_the_baseline() -> None:
    def made(number: int, verdict: Verdict | None) -> Attempt:
        return Attempt(number, "c", "p", "t", Proposal("x", cost=Cost()), GOOD, verdict, utc_now(), "y")

    again = Verdict(Outcome.KEEP, "Baseline: 3")
    attempts = [made(0, BASELINE), made(1, KEEP), made(2, DISCARD), made(3, again), made(4, DISCARD), made(5, None)]
    assert last_kept(attempts) is attempts[3] and baseline_of(attempts) is attempts[3]
    assert last_kept(attempts[:3]) is attempts[1] and baseline_of(attempts[:3]) is attempts[0]
    assert [a.is_baseline for a in attempts] == [True, False, False, True, False, False]
    assert (last_kept([]), baseline_of([])) == (None, None)


def test_times_are_utc() -> None:
    assert seconds_of("1970-01-02T00:00:00.000Z") == 86400
    assert abs(seconds_of(utc_now()) - time.time()) < 3
    os.environ["TZ"] = "America/New_York"
    time.tzset()
    try:
        assert abs(seconds_of(utc_now()) - time.time()) < 3
    finally:
        del os.environ["TZ"]
        time.tzset()


def fill(ledger: Ledger, count: int) -> None:
    """Discarded attempts, made by one process of git."""
    first = begin(ledger)
    feed = []
    from autoresearch_kit.ledger.message import write_message

    for number in range(1, count):
        title = f"Try number {number} with another rate"
        measured = (
            Measurement(2.0 + number, {"wall_seconds": 1.25, "peak_memory_mb": 128.5}, seconds=1.5, machine="M"),
        )
        attempt = Attempt(number, "", "", "", Proposal(title, "Because.\nSo it seems.", "search", Cost(1.5)), measured,
                          DISCARD, utc_now(), "y" * 16)  # fmt: skip
        text, content = write_message(attempt).encode(), f"LR = {number}\n".encode()
        feed.append(b"commit refs/ark/t/%04d\ncommitter ark <ark@localhost> 1700000000 +0000\ndata %d\n%s\nfrom %s\n"
                    b"M 100644 inline train.py\ndata %d\n%s\n" % (number, len(text), text, first.commit.encode(),
                    len(content), content))  # fmt: skip
    git(ledger.repository.root, "-c", "fastimport.unpackLimit=1000000", "fast-import", "--quiet", stdin=b"".join(feed))


@pytest.mark.slow
def test_tidy_packs_what_is_loose_and_nothing_else(
    ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "train.py").write_text("stashed\n")
    git(folder, "stash")
    (folder / "src/a.py").write_text("in the index\n")
    git(folder, "add", ".")
    fill(ledger, 300)
    assert not ledger.tidy(), "too few to be worth it"
    monkeypatch.setattr("autoresearch_kit.ledger.git._MANY_LOOSE", 0)
    running = reserve(ledger, 300, ledger.read()[0].commit)
    before = (
        ledger.read(),
        git(folder, "for-each-ref"),
        git(folder, "stash", "show", "-p"),
        git(folder, "diff", "--cached"),
    )
    index, head = (folder / ".git/index").read_bytes(), (folder / ".git/HEAD").read_bytes()
    (folder / ".git/objects/17").mkdir(exist_ok=True)
    assert ledger.tidy()
    after = (
        ledger.read(),
        git(folder, "for-each-ref"),
        git(folder, "stash", "show", "-p"),
        git(folder, "diff", "--cached"),
    )
    assert after == before
    assert ((folder / ".git/index").read_bytes(), (folder / ".git/HEAD").read_bytes()) == (index, head)
    assert not list((folder / ".git/refs/ark/t").glob("*")), "all of ours are packed"
    assert not list((folder / ".git").rglob("*.lock"))
    counted = dict(line.split(": ") for line in git(folder, "count-objects", "-v").splitlines())
    assert int(counted["count"]) < 20 and counted["prune-packable"] == "0"
    # the helpers of git that were running before find the objects in their new place
    assert ledger.repository.tree_of(running.commit) == running.tree
    assert ledger.repository.file_at(running.commit, "train.py") == b"LR = 300 Try\n"
    assert ledger.close(running, GOOD, KEEP).commit == ledger.head()
    assert git(folder, "fsck", "--strict", "--no-dangling") == ""
