"""A run is pushed: what moves, what stays, what comes of a refusal.   pytest tests/ledger/test_transfer.py"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import Shared, add, check, reserve, run
from small_repository import DISCARD, GOOD, KEEP, git

from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.records import Cost
from autoresearch_kit.core.verification import State
from autoresearch_kit.ledger import remote, talk, verified
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.ideas import write_idea
from autoresearch_kit.ledger.ledger import Ledger
from autoresearch_kit.ledger.owed import write_owed
from autoresearch_kit.ledger.remote import choose_remote, read_remote
from autoresearch_kit.ledger.transfer import push

BRANCH = "refs/heads/autoresearch/t"


def hook(hub: Path, name: str, script: str) -> None:
    path = hub / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_run_and_its_branch_arrive_and_nothing_else(shared: Shared) -> None:
    git(shared.here.root, "tag", "-a", "mine", "-m", "mine")
    git(shared.here.root, "config", "push.followTags", "true")
    ledger, other = run(shared.here, "t"), run(shared.here, "other")
    before, local = shared.refs(), shared.refs(shared.here)
    (done,) = push(shared.here, "origin", [ledger])
    assert (done.name, done.branch, done.attempts, done.new) == ("origin/t", "autoresearch/t", 3, 3)
    attempts = ledger.read()
    arrived = {ledger.ref(a.number): a.commit for a in attempts} | {BRANCH: attempts[1].commit}
    assert shared.refs() == before | arrived
    assert shared.refs(shared.here) == local | {"refs/remotes/origin/autoresearch/t": attempts[1].commit}
    assert other.tag not in " ".join(shared.refs())


def test_a_running_attempt_stays_until_it_is_closed(shared: Shared) -> None:
    ledger = run(shared.here, "t")
    running = reserve(ledger)
    assert push(shared.here, "origin", [ledger])[0].attempts == 3
    assert ledger.ref(3) not in shared.refs()
    closed = ledger.close(running, GOOD, KEEP)
    add(ledger, DISCARD)
    (done,) = push(shared.here, "origin", [ledger])
    assert (done.attempts, done.new) == (5, 2)
    assert shared.refs()[ledger.ref(3)] == shared.refs()[BRANCH] == closed.commit
    assert push(shared.here, "origin", [ledger])[0].new == 0


def test_ideas_and_ended_verifications_move_what_is_owed_does_not(shared: Shared) -> None:
    ledger = run(shared.here, "t")
    write_idea(shared.here, "t", "wider", "me")
    write_owed(shared.here, "t", {"claude": Cost(tokens=5)}, ledger.read())
    verified.finish(shared.here, replace(check(ledger), state=State.LOST))
    check(ledger)
    push(shared.here, "origin", [ledger], "u")
    names = {name.removeprefix("refs/ark/u/") for name in shared.refs(below="refs/ark/")}
    assert names == {"0000", "0001", "0002", "ideas/0001", "verify/0001"}
    git(shared.there.root, "fetch", "-q", "origin", "refs/ark/*:refs/ark/*")
    assert [v.state for v in verified.read_verifications(shared.there, "u")] == [State.LOST], "under its other name"


def test_another_run_of_that_name_is_refused_and_another_name_helps(shared: Shared) -> None:
    push(shared.there, "origin", [run(shared.there, "t", "Theirs")])
    ledger, before = run(shared.here, "t", "Ours"), shared.refs()
    with pytest.raises(ArkError, match=r"^origin has another run called t$") as caught:
        push(shared.here, "origin", [ledger])
    assert caught.value.hint.endswith("ark push origin --tag t --as NAME")
    assert shared.refs() == before
    (done,) = push(shared.here, "origin", [ledger], "t-here")
    assert (done.name, done.branch, done.new) == ("origin/t-here", "autoresearch/t-here", 3)
    with pytest.raises(ArkError, match="another run called t; this one is there as t-here") as caught:
        push(shared.here, "origin", [ledger])
    assert caught.value.hint.endswith("--tag t --as t-here")


def test_of_several_all_arrive_or_none(shared: Shared) -> None:
    push(shared.there, "origin", [run(shared.there, "b", "Theirs")])
    ours, before = [run(shared.here, tag, f"Ours {tag}") for tag in "abc"], shared.refs()
    with pytest.raises(ArkError, match="another run called b"):
        push(shared.here, "origin", ours)
    assert shared.refs() == before
    assert [done.new for done in push(shared.here, "origin", [ours[0], ours[2]])] == [3, 3]


def test_a_run_that_went_on_in_two_places(shared: Shared) -> None:
    ledger = run(shared.here, "t")
    push(shared.here, "origin", [ledger])
    git(
        shared.there.root,
        "fetch",
        "-q",
        "origin",
        "refs/ark/*:refs/ark/*",
        "refs/heads/autoresearch/*:refs/heads/autoresearch/*",
    )
    theirs = Ledger(shared.there, "autoresearch", "t")
    add(theirs, KEEP, "Theirs")
    push(shared.there, "origin", [theirs])
    add(ledger, KEEP, "Ours")
    with pytest.raises(ArkError, match=r"^run t went on elsewhere: 0003 on origin is not what it is here$"):
        push(shared.here, "origin", [ledger])
    push(shared.there, "origin", [run(shared.there, "taken", "Another")])
    with pytest.raises(ArkError, match=r"^origin has another run called taken$") as caught:
        push(shared.here, "origin", [ledger], "taken")
    assert caught.value.hint.endswith("--tag t --as NAME"), "not t, which is refused"
    push(shared.here, "origin", [ledger], "t-here")
    with pytest.raises(ArkError, match="another run called taken; this one is there as t-here"):
        push(shared.here, "origin", [ledger], "taken")


def test_a_branch_that_somebody_moved(shared: Shared) -> None:
    ledger = run(shared.here, "t")
    push(shared.here, "origin", [ledger])
    git(shared.there.root, "fetch", "-q", "origin")
    git(shared.there.root, "switch", "-q", "autoresearch/t")
    git(shared.there.root, "commit", "-q", "--allow-empty", "-m", "mine")
    git(shared.there.root, "push", "-q")
    add(ledger, KEEP)
    with pytest.raises(ArkError, match="branch autoresearch/t on origin has commits that are not of run t"):
        push(shared.here, "origin", [ledger])


def test_running_records_that_a_plain_push_left_are_replaced(shared: Shared) -> None:
    ledger = run(shared.here, "t")
    running, checking = reserve(ledger), check(ledger)
    git(shared.here.root, "push", "-q", "origin", "refs/ark/*")
    assert shared.refs()[ledger.ref(3)] == running.commit
    ended = ledger.close(running, GOOD, DISCARD)
    checked = verified.finish(shared.here, replace(checking, state=State.LOST))
    push(shared.here, "origin", [ledger])
    assert shared.refs()[ledger.ref(3)] == ended.commit
    assert shared.refs()[verified.ref(checked)] == checked.commit
    assert shared.refs()[BRANCH] == ledger.head()


def test_a_running_record_of_somebody_else_is_not_replaced(shared: Shared) -> None:
    ledger = run(shared.here, "t")
    push(shared.here, "origin", [ledger])
    git(shared.there.root, "fetch", "-q", "origin", "refs/ark/*:refs/ark/*")
    theirs = reserve(Ledger(shared.there, "autoresearch", "t"), "Theirs")
    git(shared.there.root, "push", "-q", "origin", "refs/ark/*")
    add(ledger, DISCARD, "Ours")
    for known in (False, True):
        if known:
            git(shared.here.root, "fetch", "-q", "origin", f"{ledger.ref(3)}:refs/seen")
        with pytest.raises(ArkError, match="run t went on elsewhere: 0003"):
            push(shared.here, "origin", [ledger])
        assert shared.refs()[ledger.ref(3)] == theirs.commit


def test_a_plain_push_of_everything_is_no_hindrance(shared: Shared) -> None:
    ledger = run(shared.here, "t")
    push(shared.here, "origin", [ledger])
    add(ledger, KEEP)
    git(shared.here.root, "push", "-q", "origin", "refs/ark/*", "autoresearch/t")
    assert push(shared.here, "origin", [ledger])[0].new == 0


def test_a_remote_that_cannot_do_it_in_one_step(shared: Shared) -> None:
    git(shared.hub, "config", "receive.advertiseAtomic", "false")
    ledger = run(shared.here, "t")
    (done,) = push(shared.here, "origin", [ledger])
    assert done.new == 3 and shared.refs()[BRANCH] == ledger.head()
    other = run(shared.there, "t", "Theirs")
    with pytest.raises(ArkError, match="another run called t"):
        push(shared.there, "origin", [other])
    assert shared.refs()[BRANCH] == ledger.head()


def test_what_the_other_side_says_is_handed_on_without_escapes(shared: Shared) -> None:
    hook(shared.hub, "pre-receive", "printf 'quota \\033[31mof 5 runs\\n' >&2; exit 1")
    before, ledger = shared.refs(), run(shared.here, "t")
    with pytest.raises(ArkError, match=r"^origin refused: pre-receive hook declined$") as caught:
        push(shared.here, "origin", [ledger])
    assert caught.value.hint == "it said: quota [31mof 5 runs"
    assert shared.refs() == before


def test_a_remote_that_does_not_stop_to_talk(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = run(shared.here, "t")
    hook(
        shared.hub,
        "pre-receive",
        "yes 'a line' | head -n 5000 >&2; head -c 300000 /dev/zero | tr '\\0' x >&2; printf '\\nwhy\\n' >&2; exit 1",
    )
    said = talk.talk(shared.here, "push", "origin", "autoresearch/t")
    assert said.status and 900 < len(said.lines) <= 1000, "the last of them"
    assert "remote: why" in said.lines and max(map(len, said.lines)) == 500
    monkeypatch.setattr(talk, "MAX_BYTES", 2**18)
    with pytest.raises(ArkError, match=r"^the other side says more than 0 MB; git was ended$"):
        push(shared.here, "origin", [ledger])
    monkeypatch.setattr(talk, "MAX_BYTES", 20)
    with pytest.raises(ArkError, match="the other side says more than"):
        read_remote(shared.here, "origin", ["refs/heads/*"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing limits the memory of another process")
def test_a_remote_whose_list_of_refs_does_not_end(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "endless.py"
    script.write_text(
        "n = 0\nwhile True:\n    n += 1\n    line = f'{n:040x} refs/heads/{n:09}' + chr(0) * (n == 1) + chr(10)\n"
        "    print(f'{len(line) + 4:04x}{line}', end='')\n"
    )
    git(shared.here.root, "config", "protocol.ext.allow", "always")
    git(shared.here.root, "remote", "set-url", "origin", f"ext::{sys.executable} {script}")
    monkeypatch.setattr(remote, "MAX_MEMORY", 40 * 2**20)
    with pytest.raises(ArkError, match=r"^origin cannot be read: Out of memory"):
        read_remote(shared.here, "origin", ["refs/heads/*"])


def test_hooks_of_the_user_do_not_run(shared: Shared, tmp_path: Path) -> None:
    hook(shared.here.common, "pre-push", f"touch {tmp_path}/ran; exit 1")
    push(shared.here, "origin", [run(shared.here, "t")])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("/nowhere/at/all", "'/nowhere/at/all' does not appear to be a git repository"),
        ("https://me:secret@127.0.0.1:1/x.git", "unable to access 'https://127.0.0.1:1/x.git/'"),
        ("ext::sh %s", "mine: no key for you"),
    ],
)
def test_a_remote_that_cannot_be_reached(shared: Shared, tmp_path: Path, url: str, reason: str) -> None:
    (tmp_path / "ssh").write_text("echo mine: no key for you >&2; exit 255")
    git(shared.here.root, "config", "protocol.ext.allow", "always")
    git(shared.here.root, "remote", "set-url", "origin", url.replace("%s", str(tmp_path / "ssh")))
    with pytest.raises(ArkError, match=r"^nothing was pushed to origin: ") as caught:
        push(shared.here, "origin", [run(shared.here, "t")])
    assert reason in caught.value.message and "secret" not in caught.value.message + caught.value.hint


def test_what_cannot_be_shared(shared: Shared) -> None:
    with pytest.raises(UsageError, match="there is no run t"):
        push(shared.here, "origin", [Ledger(shared.here, "autoresearch", "t")])
    reserve(Ledger(shared.here, "autoresearch", "t"))
    with pytest.raises(UsageError, match="run t has no baseline yet, so there is nothing to share"):
        push(shared.here, "origin", [Ledger(shared.here, "autoresearch", "t")])
    with pytest.raises(UsageError, match="origin/t is the name of a run that was fetched"):
        push(shared.here, "origin", [Ledger(shared.here, "autoresearch", "origin/t")])


# Which remote


def set_up(repository: Repository, remotes: str, config: str) -> None:
    for name in remotes.split():
        git(repository.root, "remote", "add", name, f"/{name}")
    for line in config.split():
        git(repository.root, "config", *line.split("="))


@pytest.mark.parametrize(
    ("remotes", "config", "pushing", "found"),
    [
        ("hub", "", False, "hub"),
        ("a origin b", "", True, "origin"),
        ("a b origin", "branch.main.remote=b", False, "b"),
        ("a b origin", "branch.main.remote=. remote.pushDefault=a", True, "a"),
        ("a b origin", "branch.main.remote=b remote.pushDefault=a branch.main.pushRemote=origin", True, "origin"),
        ("a b", "branch.main.remote=b remote.pushDefault=a", False, "b"),
        ("a b origin", "branch.main.remote=gone", False, "origin"),
    ],
)
def test_the_remote_that_is_meant(repository: Repository, remotes: str, config: str, pushing: bool, found: str) -> None:
    set_up(repository, remotes, config)
    assert choose_remote(repository, None, pushing) == found
    assert choose_remote(repository, remotes.split()[0]) == remotes.split()[0]


@pytest.mark.parametrize(
    ("remotes", "wanted", "message", "hint"),
    [
        ("", None, "there is no remote origin", "add it: git remote add origin URL"),
        ("", "hub", "there is no remote hub", "add it: git remote add hub URL"),
        ("a", "/srv/x.git", "there is no remote /srv/x.git", "git remote add origin /srv/x.git; the remotes are: a"),
        ("a b", None, "there are several remotes and none is `origin`", "name one: a, b"),
        ("te/am", None, "the name of remote te/am cannot be part of a run's name", "git remote rename te/am te-am"),
        ("a", "--upload-pack=x", "there is no remote --upload-pack=x", "the remotes are: a"),
    ],
)
def test_no_such_remote(repository: Repository, remotes: str, wanted: str | None, message: str, hint: str) -> None:
    set_up(repository, remotes, "")
    with pytest.raises(UsageError, match=f"^{message}$") as caught:
        choose_remote(repository, wanted)
    assert hint in caught.value.hint
