"""Changes of other attempts on this run's head: combined, fetched, refused.   pytest tests/engine/test_transplant.py"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from autoresearch_kit.core.records import Attempt, Outcome, Proposal
from autoresearch_kit.ledger.git import Entry
from autoresearch_kit.ledger.ledger import Ledger
from autoresearch_kit.project import open_project
from autoresearch_kit.ratchet import Change, NoAttempt, Run

Tiny = Any  # see conftest.py

SUM = "n=0; for word in $(cat parts/*); do n=$((n + word)); done; echo $n > answer.txt\n"
LIST = "1\n0\n0\n0\n0\n2\n"
SPEC = {"mutable_files": ["train.sh", "parts/"], "decision": "first_better"}


@pytest.fixture
def tiny(tiny: Tiny) -> Tiny:
    """Its score is the sum of the numbers in `parts`."""
    tiny.write("train.sh", SUM)
    tiny.write("parts/list", LIST)
    tiny.write("parts/old", "0\n")
    tiny.commit("parts", **SPEC)
    return tiny


@contextlib.contextmanager
def opened(tiny: Tiny, tag: str = "t") -> Iterator[Run]:
    project = open_project(tiny.folder)
    try:
        with Run(project, tag) as run:
            run.open()
            run.ready()
            yield run
    finally:
        project.repository.close()


def transplant(tiny: Tiny, tag: str, code: int = 0) -> str:
    """A run with the transplant agent; what it told."""
    done = tiny.ark_here("run", "--agent", "transplant", "--tag", tag)
    assert done.returncode == code, done.stderr
    return str(done.stderr + done.stdout)


def attempt(tiny: Tiny, number: int, tag: str = "t") -> Attempt:
    project = open_project(tiny.folder)
    found = Ledger(project.repository, "autoresearch", tag).read_one(number)
    project.repository.close()
    assert found is not None
    return found


def change(run: Run, *others: Attempt) -> Change:
    found = run.change_of(others)
    assert isinstance(found, Change), found
    return found


# Change by change


@pytest.mark.slow
def test_two_near_misses_are_combined(tiny):
    tiny.commit(decision={"rule": "first_better", "min_gain": 3}, mutable_files=SPEC["mutable_files"])
    tiny.play('[ $TURN = 1 ] && sed -i "1s/.*/3/" parts/list || sed -i "6s/.*/4/" parts/list', attempts=2)
    assert [a["outcome"] for a in tiny.log()] == ["keep", "discard", "discard"]
    with opened(tiny) as run:
        made = change(run, *run.attempts[1:])
        closed = run.attempt(Proposal("both", agent="me", origin=("t/1", "t/2")), made)
        assert isinstance(closed, Attempt)
        assert (closed.outcome, closed.value) == (Outcome.KEEP, 7.0)
    assert tiny.show("refs/ark/t/0003", "parts/list") == "3\n0\n0\n0\n0\n4"
    assert tiny.log()[-1]["origin"] == ["t/1", "t/2"]


@pytest.mark.slow
def test_what_does_not_fit_is_a_conflict_and_measures_nothing(tiny):
    tiny.play('sed -i "1s/.*/$(( TURN + 1 ))/" parts/list', attempts=3)
    tiny.play('sed -i "1s/.*/9/" parts/list', attempts=1, tag="u")
    with opened(tiny) as run:
        found = run.change_of([attempt(tiny, 1, "u")])
        assert isinstance(found, NoAttempt) and found.kind == "conflict"
        assert "the change of attempt 1 does not fit onto the head in parts/list" in found.reason
        assert run.attempt(Proposal("x"), found) is found
        assert run.told == found.reason
        assert len(run.attempts) == 4


@pytest.mark.slow
def test_added_deleted_and_executable_files(tiny):
    tiny.play("echo 5 > parts/new; rm parts/old; chmod +x train.sh", attempts=1, tag="u")
    tiny.play('sed -i "1s/.*/7/" parts/list', attempts=1)
    with opened(tiny) as run:
        made = change(run, attempt(tiny, 1, "u"))
        assert made.paths == ("parts/new", "parts/old", "train.sh")
        closed = run.attempt(Proposal("all of it"), made)
        assert isinstance(closed, Attempt) and closed.value == 14.0
    assert tiny.git("ls-tree", "-r", "--name-only", "refs/ark/t/0002", "parts") == "parts/list\nparts/new"
    assert tiny.git("ls-tree", "refs/ark/t/0002", "train.sh").startswith("100755")


@pytest.mark.slow
def test_nothing_new_is_told_as_for_any_change(tiny):
    tiny.play('sed -i "1s/.*/$(( 3 - TURN ))/" parts/list', attempts=2)
    with opened(tiny) as run:
        kept, worse = run.attempts[1:]
        assert (kept.outcome, worse.outcome) == (Outcome.KEEP, Outcome.DISCARD)
        assert run.change_of([run.attempts[0]]).kind == "no_change", "a baseline changed nothing"
        assert run.change_of([kept]).kind == "no_change", "it is in"
        again = run.change_of([worse])
        assert isinstance(again, NoAttempt) and again.kind == "duplicate" and "as attempt 2" in again.reason
        assert run.change_of([]).kind == "no_change"


def raw_tree(tiny: Tiny, names: Sequence[str], mode: str) -> str:
    """The head's tree with a file at `parts` and these names below, as no git would write it: a fetch lets it in."""
    kind, oid = mode, tiny.git("hash-object", "-w", "notes/read me.txt")
    for name in reversed(names):
        data = f"{kind} {name}".encode() + b"\0" + bytes.fromhex(oid)
        made = subprocess.run(
            ["git", "-C", tiny.root, "hash-object", "-w", "-t", "tree", "--literally", "--stdin"],
            input=data, capture_output=True, check=True,
        )  # fmt: skip
        kind, oid = "40000", made.stdout.decode().strip()
    rows = [row for row in tiny.git("ls-tree", "autoresearch/t").split("\n") if not row.endswith("\tparts")]
    listing = "\n".join([*rows, f"040000 tree {oid}\tparts", ""])
    done = subprocess.run(["git", "-C", tiny.root, "mktree"], input=listing, capture_output=True, check=True, text=True)
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "mode", "word"),
    [
        (["link"], "120000", "holds a link or a submodule"),
        (["GIT~1"], "100644", "parts/GIT~1 is `.git` on some systems"),
        (["..", "up"], "100644", "parts/../up leads elsewhere"),
    ],
)
def test_a_foreign_tree_may_hold_what_no_agent_could_hand_in(tiny, names, mode, word):
    tiny.play("echo 1 > parts/x", attempts=1)
    tree = raw_tree(tiny, names, mode)
    with opened(tiny) as run:
        foreign = Ledger(run.project.repository, "autoresearch", "evil").reserve(
            1, Proposal("evil"), tree=tree, parent=run.head.commit, yardstick=""
        )
        found = run.change_of([foreign])
        assert isinstance(found, NoAttempt) and found.kind == "refused"
        assert word in found.reason


def test_no_file_takes_the_place_of_fixed_ones(tiny):
    tiny.write("parts/kept.d/fixed", "0\n")
    tiny.commit("fixed", **{**SPEC, "mutable_files": ["train.sh", "parts/*"]})
    tiny.play("echo 1 > parts/x", attempts=1)
    with opened(tiny) as run:
        repository, head = run.project.repository, run.head
        tree = repository.store_tree(head.commit, {"parts/kept.d": Entry(0o100644, repository.store_blob(b"9\n"))})
        foreign = Ledger(repository, "autoresearch", "other").reserve(
            1, Proposal("x"), tree=tree, parent=head.commit, yardstick=""
        )
        found = run.change_of([foreign])
        assert isinstance(found, NoAttempt) and found.kind == "conflict" and "in parts/kept.d" in found.reason


def test_nothing_is_taken_that_lies_below_a_link(tiny):
    """`link: [.venv]` leads into the user's own folder: what a foreign tree holds there would be written there."""
    theirs = tiny.write(".venv/lib/theirs.sh", "mine\n")
    tiny.write(".gitignore", "results.tsv\n.venv\n")
    tiny.commit("link", **{**SPEC, "mutable_files": ["train.sh", "parts/*", ".venv/**"], "link": [".venv"]})
    tiny.play("echo 1 > parts/x", attempts=1)
    with opened(tiny) as run:
        repository, head = run.project.repository, run.head
        blob = Entry(0o100644, repository.store_blob(b"evil\n"))
        for name in (".venv/lib/new.sh", ".venv/lib/theirs.sh"):
            tree = repository.store_tree(head.commit, {name: blob})
            foreign = Ledger(repository, "autoresearch", "other").reserve(
                1, Proposal("x"), tree=tree, parent=head.commit, yardstick=""
            )
            found = run.change_of([foreign])
            assert isinstance(found, NoAttempt) and found.kind == "refused" and ".venv" in found.reason
    assert theirs.read_text() == "mine\n" and list(theirs.parent.iterdir()) == [theirs]


def test_only_mutable_files_are_taken(tiny):
    tiny.play("echo 1 > parts/x", attempts=1)
    with opened(tiny) as run:
        repository, head = run.project.repository, run.head
        made = Entry(0o100644, repository.store_blob(b"echo score: 99\n"))
        tree = repository.store_tree(head.commit, {"evaluate.sh": made, "parts/y": made})
        foreign = Ledger(repository, "autoresearch", "other").reserve(
            1, Proposal("x"), tree=tree, parent=head.commit, yardstick=""
        )
        assert change(run, foreign).paths == ("parts/y",)


def test_a_parent_that_was_not_fetched_is_a_sentence(tiny):
    tiny.play("echo 1 > parts/x", attempts=1)
    with opened(tiny) as run:
        lonely = Attempt(7, run.head.commit, "1" * 40, run.head.tree, Proposal("x"), (), None, "", "")
        found = run.change_of([lonely])
        assert isinstance(found, NoAttempt) and found.kind == "refused"
        assert found.reason == "Refused: the parent of attempt 7 is not in this repository; fetch it too"


# A desk that was laid on an older head


def edited(tiny: Tiny, path: str, text: str) -> None:
    """Lay a desk, work on it, and let somebody else keep something meanwhile."""
    with opened(tiny) as run:
        run.lay_desk({})
        (run.desk.folder / path).write_text(text)
        number = run.books.next_number
        tree = run.project.repository.store_tree(
            run.head.commit, {"parts/list": Entry(0o100644, run.project.repository.store_blob(b"1\n0\n0\n0\n0\n8\n"))}
        )
        files = run.project.repository.files(tree)
        closed = run.attempt(Proposal("meanwhile"), Change(tree, files, ("parts/list",)))
        assert isinstance(closed, Attempt) and closed.outcome is Outcome.KEEP and closed.number == number


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "text", "kind"),
    [
        ("parts/list", "5\n0\n0\n0\n0\n2\n", ""),
        ("parts/new", "4\n", ""),
        ("parts/list", "1\n0\n0\n0\n0\n9\n", "conflict"),
        ("parts/list", "1\n0\n0\n0\n0\n8\n", "no_change"),
        ("evaluate.sh", "echo score: 99\n", "no_change"),
    ],
    ids=["other lines", "another file", "the same line", "the same change", "nothing of its own"],
)
def test_a_desk_of_an_older_head_is_merged_onto_the_new_one(tiny, path, text, kind):
    edited(tiny, path, text)
    with opened(tiny) as run:
        assert run.take_up_desk()
        assert run.desk.laid != run.head.commit
        found = run.change()
        if kind:
            assert isinstance(found, NoAttempt) and found.kind == kind
            return
        closed = run.attempt(Proposal("mine"), found)
        assert isinstance(closed, Attempt)
        assert closed.value == 13.0
        assert closed.parent == run.attempts[-2].commit


def test_without_a_desk_or_its_commit_there_is_nothing_to_take_up(tiny):
    with opened(tiny) as run:
        assert not run.take_up_desk()
        run.lay_desk({})
        assert run.take_up_desk()
        shutil.rmtree(run.desk.root)
        assert not run.take_up_desk()


# The agent


def test_every_kept_change_of_other_runs_is_tried_once(tiny):
    tiny.play("[ $TURN = 1 ] && echo 3 > parts/a || echo 4 > parts/b", attempts=2, tag="first")
    tiny.play("echo 5 > parts/c; title 'Five more'", attempts=1, tag="second")
    tiny.play("echo -1 > parts/d", attempts=1, tag="bad")
    told = transplant(tiny, "t")
    found = tiny.log()
    assert [a["origin"] for a in found] == [[], ["first/1"], ["first/2"], ["second/1"]]
    assert [a["value"] for a in found] == [3.0, 6.0, 10.0, 15.0]
    assert {a["agent"] for a in found[1:]} == {"transplant"}
    assert found[3]["title"] == "Five more"
    assert "every kept change of the other runs has been tried" in told
    shown = tiny.ark_here("show", "t/3").stdout
    assert "\nfrom     second/1\n" in shown and "Kept as second/1: Keep: 3 -> 8" in shown
    assert "Ark-From: second/1" in tiny.git("log", "-1", "--format=%B", "refs/ark/t/0003")
    assert json.loads(tiny.ark_here("show", "t/3", "--json").stdout)["origin"] == ["second/1"]


@pytest.mark.slow
def test_a_resumed_one_tries_nothing_twice(tiny):
    tiny.play('echo 1 > "parts/$TURN"', attempts=3, tag="first")
    done = tiny.ark_here("run", "--agent", "transplant", "--tag", "t", "--attempts", "2")
    assert done.returncode == 0
    transplant(tiny, "t")
    assert [a["origin"] for a in tiny.log()[1:]] == [["first/1"], ["first/2"], ["first/3"]]
    transplant(tiny, "t")
    assert len(tiny.log()) == 4


@pytest.mark.slow
def test_changes_that_do_not_fit_are_passed_over(tiny):
    tiny.play('sed -i "1s/.*/5/" parts/list', attempts=1, tag="first")
    tiny.play('sed -i "1s/.*/6/" parts/list', attempts=1, tag="second")
    tiny.play("echo 7 > parts/seven", attempts=1, tag="third")
    told = transplant(tiny, "t")
    assert "second/1 is passed over: Conflict: the change of attempt 1 does not fit" in told
    assert [a["origin"] for a in tiny.log()[1:]] == [["first/1"], ["third/1"]]


@pytest.mark.slow
def test_runs_of_another_spec_are_not_looked_at(tiny):
    tiny.play("echo 3 > parts/a", attempts=1, tag="ours")
    shutil.copy(tiny.root / "autoresearch-config.yaml", tiny.root / "other.yaml")
    tiny.commit("another spec")
    agent = tiny.agent("echo 4 > parts/b")
    done = tiny.ark_here("run", "other.yaml", "--tag", "theirs", "--attempts", "1", "--agent", agent)
    assert done.returncode == 0, done.stderr
    transplant(tiny, "t")
    assert [a["origin"] for a in tiny.log()[1:]] == [["ours/1"]]


@pytest.mark.slow
def test_refs_that_are_no_records_do_not_end_it(tiny):
    tiny.play("echo 3 > parts/a", attempts=1, tag="ours")
    tiny.git("update-ref", "refs/ark/broken/0001", "HEAD")
    tiny.git("update-ref", "refs/ark/no@tag/0001", "HEAD")
    told = transplant(tiny, "t")
    assert "run broken is passed over" in told and "run no@tag is passed over" in told
    assert [a["origin"] for a in tiny.log()[1:]] == [["ours/1"]]


@pytest.mark.slow
def test_finds_of_another_machine_are_fetched_and_tried_here(tiny, tmp_path):
    """The other repository is a clone with a run of its own, under the same tag and on top of other commits."""
    elsewhere = type(tiny)(tmp_path / "elsewhere", tmp_path)
    tiny.git("clone", "-q", str(tiny.root), str(elsewhere.root))
    elsewhere.write("notes/more.txt", "another machine\n")
    elsewhere.commit("theirs")
    elsewhere.play('[ $TURN = 1 ] && echo 3 > parts/a || sed -i "6s/.*/9/" parts/list', attempts=2)
    tiny.play('sed -i "1s/.*/4/" parts/list', attempts=1)
    tiny.git("fetch", "-q", str(elsewhere.root), "refs/ark/t/*:refs/ark/theirs/*")
    transplant(tiny, "t")
    assert [(a["origin"], a["value"]) for a in tiny.log()[2:]] == [(["theirs/1"], 9.0), (["theirs/2"], 16.0)]
    assert tiny.show("refs/heads/autoresearch/t", "parts/list") == "4\n0\n0\n0\n0\n9"
    assert "more.txt" not in tiny.git("ls-tree", "-r", "--name-only", "autoresearch/t"), "their fixed files stay theirs"


def test_what_the_agent_cost_is_told(tiny):
    tiny.play("echo 3 > parts/a", attempts=1)
    cost = tiny.log()[1]["cost"]
    assert cost["seconds"] > 0 and cost["tokens"] is None and cost["money"] is None
    assert "\ncost     " in tiny.ark_here("show", "t/1").stdout


def test_there_may_be_nothing_to_try(tiny, tmp_path: Path):
    transplant(tiny, "t")
    assert len(tiny.log()) == 1
