"""Runs of others are fetched, and read from where they lie.   pytest tests/ledger/test_mirror.py"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from made_runs import SPEC, Shared, add, reserve, run
from small_repository import BASELINE, DISCARD, GOOD, git

from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.ideas import read_ideas, write_idea
from autoresearch_kit.ledger.ledger import Ledger, names, pick, read_latest, read_runs, tags
from autoresearch_kit.ledger.mirror import Fetched, fetch
from autoresearch_kit.ledger.transfer import push

PREFIX = "autoresearch"


def found(shared: Shared) -> list[str]:
    """Names of the runs that the first repository reads, and how many attempts they have."""
    return [f"{ledger.tag} {len(attempts)}" for ledger, attempts in read_runs(shared.here)]


def test_runs_come_with_their_branches_and_nothing_else(shared: Shared) -> None:
    ledger = run(shared.there, "t")
    git(shared.there.root, "tag", "theirs")
    git(shared.there.root, "push", "-q", "origin", "theirs", "main:feature")
    push(shared.there, "origin", [ledger])
    git(shared.here.root, "config", "fetch.prune", "true")
    git(shared.here.root, "config", "remote.origin.tagOpt", "--tags")
    (shared.here.common / "FETCH_HEAD").write_text("mine")
    before = shared.refs(shared.here)
    mirror = fetch(shared.here, "origin", PREFIX)
    assert mirror.runs == (Fetched("origin/t", 3, 3),) and mirror.gone == ()
    arrived = {f"refs/ark-remotes/origin/t/{a.number:04d}": a.commit for a in ledger.read()}
    arrived["refs/remotes/origin/autoresearch/t"] = str(ledger.head())
    assert shared.refs(shared.here) == before | arrived
    assert (shared.here.common / "FETCH_HEAD").read_text() == "mine"

    theirs = Ledger(shared.here, PREFIX, "origin/t")
    assert theirs.read() == ledger.read() and theirs.head() == ledger.head()
    assert theirs.branch == "origin/autoresearch/t"
    assert pick(shared.here, PREFIX, "origin/t/2") == ledger.read()[2]


def test_only_what_is_new_is_told(shared: Shared) -> None:
    assert fetch(shared.here, "origin", PREFIX).runs == ()
    ledger = run(shared.there, "t")
    push(shared.there, "origin", [ledger])
    fetch(shared.here, "origin", PREFIX)
    assert fetch(shared.here, "origin", PREFIX).runs == (Fetched("origin/t", 3, 0),)
    add(ledger)
    push(shared.there, "origin", [ledger])
    assert fetch(shared.here, "origin", PREFIX).runs == (Fetched("origin/t", 4, 1),)
    assert found(shared) == ["origin/t 4"]


def test_what_was_pushed_from_here_is_not_listed_twice(shared: Shared) -> None:
    ledger = run(shared.here, "t")
    push(shared.here, "origin", [ledger])
    push(shared.here, "origin", [ledger], "renamed")
    add(ledger)
    assert {run.is_ours for run in fetch(shared.here, "origin", PREFIX).runs} == {True}
    assert found(shared) == ["t 4"]
    assert len(Ledger(shared.here, PREFIX, "origin/renamed").read()) == 3, "asked for by name it is there"

    git(shared.there.root, "fetch", "-q", "origin", "refs/ark/*:refs/ark/*")
    add(Ledger(shared.there, PREFIX, "t"), DISCARD, "There")
    git(shared.there.root, "push", "-q", "origin", "refs/ark/t/*")
    fetch(shared.here, "origin", PREFIX)
    assert sorted(found(shared)) == ["origin/t 4", "t 4"], "it went on in two places"


def test_a_run_that_two_remotes_have_is_listed_once(shared: Shared, tmp_path: Path) -> None:
    push(shared.there, "origin", [run(shared.there, "t")])
    shutil.copytree(shared.hub, tmp_path / "backup.git")
    git(shared.here.root, "remote", "add", "backup", str(tmp_path / "backup.git"))
    fetch(shared.here, "origin", PREFIX)
    fetch(shared.here, "backup", PREFIX)
    assert found(shared) == ["backup/t 3"] and names(shared.here) == ["backup/t", "origin/t"]


def test_another_run_under_the_same_name_is_not_mixed_with_the_old_one(shared: Shared) -> None:
    push(shared.there, "origin", [run(shared.there, "t", "First", attempts=5)])
    fetch(shared.here, "origin", PREFIX)
    delete(shared, "refs/ark/t/*", "refs/heads/autoresearch/t")
    delete_below(shared.there.root, "refs/ark/t", "refs/heads/autoresearch/t")
    second = run(shared.there, "t", "Second")
    push(shared.there, "origin", [second])
    assert fetch(shared.here, "origin", PREFIX).runs == (Fetched("origin/t", 3, 3, was_replaced=True),)
    assert Ledger(shared.here, PREFIX, "origin/t").read() == second.read()


def test_a_run_that_is_gone_there_is_kept_until_it_is_pruned(shared: Shared) -> None:
    push(shared.there, "origin", [run(shared.there, "t"), run(shared.there, "u", "Other")])
    fetch(shared.here, "origin", PREFIX)
    delete(shared, "refs/ark/t/*", "refs/heads/autoresearch/t")
    before = shared.refs(shared.here)
    for _ in range(2):
        mirror = fetch(shared.here, "origin", PREFIX)
        assert mirror.gone == ("origin/t",) and [run.name for run in mirror.runs] == ["origin/u"]
        assert shared.refs(shared.here) == before
    assert fetch(shared.here, "origin", PREFIX, prune=True).gone == ("origin/t",)
    left = {
        name: oid for name, oid in before.items() if "origin/t/" not in name and not name.endswith("/autoresearch/t")
    }
    assert shared.refs(shared.here) == left
    assert fetch(shared.here, "origin", PREFIX, prune=True).gone == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("refs/heads/autoresearch/t", "refs/heads/autoresearch/t/more"),
        ("refs/heads/autoresearch", "refs/heads/autoresearch/t"),
        ("refs/heads/autoresearch/t/more", "refs/heads/autoresearch/t"),
    ],
)
def test_a_branch_that_became_a_folder_there(shared: Shared, old: str, new: str) -> None:
    git(shared.hub, "update-ref", old, "main")
    fetch(shared.here, "origin", PREFIX)
    git(shared.here.root, "fetch", "-q", "origin")
    delete_below(shared.hub, old)
    git(shared.hub, "update-ref", new, "main")
    before = shared.refs(shared.here)
    with pytest.raises(ArkError, match=r"^refs/\S+ is in the way of refs/\S+, which origin has now") as caught:
        fetch(shared.here, "origin", PREFIX)
    assert caught.value.hint.endswith("ark fetch origin --prune") and shared.refs(shared.here) == before
    fetch(shared.here, "origin", PREFIX, prune=True)
    mine = new.replace("heads", "remotes/origin")
    assert shared.refs(shared.here)[mine] == shared.refs()[new]
    assert shared.refs(shared.here).keys() - before.keys() == {mine}


def test_a_run_whose_name_became_a_ref_is_kept_until_it_is_pruned(shared: Shared) -> None:
    push(shared.there, "origin", [run(shared.there, "t")])
    fetch(shared.here, "origin", PREFIX)
    delete(shared, "refs/ark/t/*")
    git(shared.hub, "update-ref", "refs/ark/t", "main")
    with pytest.raises(ArkError, match="refs/ark-remotes/origin/t/0000 is in the way of refs/ark-remotes/origin/t,"):
        fetch(shared.here, "origin", PREFIX)
    assert found(shared) == ["origin/t 3"]
    assert fetch(shared.here, "origin", PREFIX, prune=True).gone == ("origin/t",)
    assert found(shared) == []


def test_what_is_no_run_gives_way(shared: Shared) -> None:
    git(shared.hub, "update-ref", "refs/ark/t", "main")
    fetch(shared.here, "origin", PREFIX)
    delete(shared, "refs/ark/t")
    ledger = run(shared.there, "t")
    write_idea(shared.there, "t", "wider", "they")
    push(shared.there, "origin", [ledger])
    fetch(shared.here, "origin", PREFIX)
    delete(shared, "refs/ark/t/ideas/*")
    git(shared.hub, "update-ref", "refs/ark/t/ideas", "main")
    assert fetch(shared.here, "origin", PREFIX).runs == (Fetched("origin/t", 3, 0),)


def test_many_runs_take_no_more_gits_than_few(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    command = Repository.command
    monkeypatch.setattr(Repository, "command", lambda self, *args: started.append(args[0]) or command(self, *args))
    counts = []
    for made in ("a", "bcd"):
        push(shared.there, "origin", [run(shared.there, tag, attempts=1) for tag in made])
        started.clear()
        fetch(shared.here, "origin", PREFIX)
        counts.append(sorted(started))
    assert counts[0] == counts[1] and counts[0].count("cat-file") == 1


def delete(shared: Shared, *patterns: str) -> None:
    for pattern in patterns:
        delete_below(shared.hub, pattern.removesuffix("/*"))


def delete_below(folder: Path, *prefixes: str) -> None:
    for name in git(folder, "for-each-ref", "--format=%(refname)", *prefixes).split():
        git(folder, "update-ref", "-d", name)


def test_what_is_no_record_there_breaks_nothing_here(shared: Shared) -> None:
    mine = run(shared.here, "mine")
    push(shared.there, "origin", [run(shared.there, "t")])
    for name in ("evil/0000", "t/owed", "t/ideas/x", "odd@name/0000", "deep/er/0000", "alone"):
        git(shared.hub, "update-ref", f"refs/ark/{name}", "refs/heads/main")
    mirror = fetch(shared.here, "origin", PREFIX)
    assert [(run.name, bool(run.problem)) for run in mirror.runs] == [("origin/evil", True), ("origin/t", False)]
    assert "refs/ark-remotes/origin/evil/0000" in mirror.runs[0].problem
    assert sorted(found(shared)) == ["mine 3", "origin/t 3"]
    latest = read_latest(shared.here, SPEC)
    assert latest is not None and latest[1] == mine.read(), "what was fetched is never the latest run"
    with pytest.raises(ArkError, match="is not a record"):
        Ledger(shared.here, PREFIX, "origin/evil").read()


def test_a_tag_that_looks_like_a_remote(shared: Shared) -> None:
    push(shared.there, "origin", [run(shared.there, "7", "Theirs")])
    fetch(shared.here, "origin", PREFIX)
    mine = run(shared.here, "origin", "Mine", attempts=9)
    assert pick(shared.here, PREFIX, "origin/7") == mine.read()[7]
    assert pick(shared.here, PREFIX, "origin/7/1").proposal.title == "Theirs"
    assert Ledger(shared.here, PREFIX, "origin/7").read()[1].proposal.title == "Theirs"
    assert tags(shared.here) == ["origin"] and set(names(shared.here)) == {"origin", "origin/7"}
    push(shared.here, "origin", [mine])
    fetch(shared.here, "origin", PREFIX)
    assert sorted(found(shared)) == ["origin 9", "origin/7 3"]


def test_without_the_remote_and_after_gc_all_is_still_there(shared: Shared) -> None:
    theirs = run(shared.there, "t")
    push(shared.there, "origin", [theirs])
    fetch(shared.here, "origin", PREFIX)
    git(shared.here.root, "remote", "remove", "origin")
    git(shared.here.root, "-c", "gc.reflogExpire=now", "gc", "-q", "--prune=now")
    shutil.rmtree(shared.hub)
    again = Ledger(shared.here, PREFIX, "origin/t")
    assert again.read() == theirs.read()
    assert shared.here.diff(again.read()[2].parent, again.read()[2].commit).count("\n+LR = 2 Try") == 1
    with pytest.raises(ArkError, match=r"^origin cannot be read: "):
        fetch(shared.here, "origin", PREFIX)


def test_a_plain_git_fetch_goes_on_beside_it(shared: Shared) -> None:
    theirs = run(shared.there, "t")
    git(shared.there.root, "push", "-q", "origin", "refs/ark/*", "refs/heads/autoresearch/*")
    git(
        shared.here.root,
        "fetch",
        "-q",
        "origin",
        "refs/ark/*:refs/ark/*",
        "refs/heads/autoresearch/*:refs/heads/autoresearch/*",
    )
    assert Ledger(shared.here, PREFIX, "t").read() == theirs.read()
    assert fetch(shared.here, "origin", PREFIX).runs == (Fetched("origin/t", 3, 0, is_ours=True),)
    assert found(shared) == ["t 3"]
    git(shared.here.root, "fetch", "-q", "--prune", "origin")
    assert names(shared.here) == ["t", "origin/t"]


def test_ideas_of_a_fetched_run_are_read_and_none_is_written(shared: Shared) -> None:
    ledger = run(shared.there, "t")
    idea = write_idea(shared.there, "t", "wider", "they")
    push(shared.there, "origin", [ledger])
    fetch(shared.here, "origin", PREFIX)
    assert read_ideas(shared.here, "origin/t") == [idea] and read_ideas(shared.here, "t") == []
    before = shared.refs(shared.here)
    with pytest.raises(
        UsageError, match="origin/t is the name of a run that was fetched: it can be read only"
    ) as caught:
        write_idea(shared.here, "origin/t", "mine", "me")
    assert caught.value.hint == "begin one of your own with its files: ark run --tag NAME --from origin/t/N"
    theirs = Ledger(shared.here, PREFIX, "origin/t")
    for write in (lambda: reserve(theirs), lambda: theirs.close(theirs.read()[0], GOOD, BASELINE)):
        with pytest.raises(UsageError, match="it can be read only"):
            write()
    assert shared.refs(shared.here) == before


def test_a_fetch_that_fails_changes_nothing(shared: Shared) -> None:
    push(shared.there, "origin", [run(shared.there, "t")])
    fetch(shared.here, "origin", PREFIX)
    before = shared.refs(shared.here)
    shared.hub.rename(shared.hub.with_name("moved"))
    with pytest.raises(ArkError, match="does not appear to be a git repository"):
        fetch(shared.here, "origin", PREFIX, prune=True)
    assert shared.refs(shared.here) == before
