"""`ark try` on a desk, by hand: what is measured, what is not, and what is said.   pytest tests/serve/test_try.py"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest

from autoresearch_kit.serve.place import AGENTS_BY_VARIABLE, BY_HAND, caller
from tests.engine.conftest import Tiny
from tests.serve.conftest import OnDesk

VALUES = [11, 10, 12, 12, 9, 15, 14, 16, 3, 17, 18, 13]
"""Ten new trees: 10 is the baseline's, and the second 12 is what is there already."""
SCRIPT = f'set -- {" ".join(map(str, VALUES))}; shift $((TURN - 1)); answer $1; title "set $1" "because of $1"\n'


def told(attempts: list[dict]) -> list[tuple]:
    """What must be the same however a run was driven."""
    return [(a["number"], a["title"], a["outcome"], a["values"], a["reason"]) for a in attempts[1:]]


def trees(tiny: Tiny, tag: str) -> list[str]:
    return tiny.git("for-each-ref", "--format=%(tree)", f"refs/ark/{tag}/0*").split()


@pytest.mark.slow
def test_ten_tries_by_hand_make_the_ledger_that_the_engine_makes(tiny: Tiny, lay: Callable[..., OnDesk]) -> None:
    tiny.play(SCRIPT, 10, tag="engine")
    desk = lay("hand")
    for value in VALUES:
        desk.answer(value)
        desk.ark("try", "-m", f"set {value}", "--why", f"because of {value}")
    assert [a["outcome"] for a in desk.log()].count("keep") == 7
    assert told(desk.log()) == told(tiny.log("engine")) and len(desk.log()) == 11
    assert trees(tiny, "hand") == trees(tiny, "engine")
    assert tiny.git("rev-parse", "autoresearch/hand^{tree}") == tiny.git("rev-parse", "autoresearch/engine^{tree}")


def test_a_try_is_measured_told_and_recorded(tiny: Tiny, desk: OnDesk) -> None:
    assert (desk.folder / "program.md").is_file() and (desk.folder / "results.tsv").is_file()
    desk.answer(12)
    found = desk.try_("-m", "twelve", "--why", "more is more")
    assert (found["outcome"], found["value"], found["title"], found["agent"]) == ("keep", 12, "twelve", BY_HAND)
    assert found["desk"] == str(desk.folder) and "The desk holds this now" in found["next"]
    listed = desk.log()[-1]
    assert {key: found[key] for key in listed} == listed
    assert " by hand, measured in" in desk.ark("show", "1").stdout
    assert tiny.git("log", "-1", "--format=%b", "refs/ark/t/0001").startswith("more is more")

    desk.answer(11)
    desk.write("the title\n\nthe reason\n", ".ark/attempt.md")
    desk.write("x\n", "helper.sh")
    done = desk.ark("try")
    note, _, verdict = done.stdout.partition("\n")
    assert done.returncode == 0 and verdict.startswith("attempt 2: the title\nDiscard: 12 -> 11")
    assert note == "note: Not taken, because it is not yours to change: helper.sh"
    assert "next: The desk holds the best so far, attempt 1 (12) again" in done.stdout
    assert (desk.folder / "train.sh").read_text() == "echo 12 > answer.txt\n"
    assert not (desk.folder / ".ark/attempt.md").exists()
    assert "the title" in (desk.folder / "results.tsv").read_text()

    desk.write("echo this goes wrong >&2; exit 3\n")
    done = desk.ark("try", "-m", "crash", env={"ARK_AGENT": "me"})
    assert done.returncode == 0 and "Crash: exit: exit code 3" in done.stdout
    assert "    this goes wrong" in done.stdout and desk.log()[-1]["agent"] == "me"


@pytest.mark.slow
def test_what_cannot_be_measured_costs_nothing_and_says_what_to_do(tiny: Tiny, desk: OnDesk) -> None:
    found = desk.try_(code=1)
    assert (found["outcome"], found["number"]) == ("no_change", None) and "program.md" in found["next"]

    desk.write("echo 'score: 99'\n", "evaluate.sh")
    assert desk.try_(code=1)["outcome"] == "no_change"
    assert (desk.folder / "evaluate.sh").read_text() != "echo 'score: 99'\n", "laid anew"

    (desk.folder / "train.sh").unlink()
    (desk.folder / "train.sh").symlink_to("/etc/passwd")
    found = desk.try_(code=1)
    assert found["outcome"] == "refused" and "symbolic link" in found["reason"] and "Mend that here" in found["next"]
    assert (desk.folder / "train.sh").is_symlink(), "it is the agent's to mend"
    (desk.folder / "train.sh").unlink()

    desk.answer(7)
    assert desk.try_()["outcome"] == "discard"
    desk.answer(7)
    found = desk.try_(code=1)
    assert found["outcome"] == "duplicate" and "attempt 1" in found["reason"]
    assert (desk.folder / "train.sh").read_text() == "echo 10 > answer.txt\n"
    assert len(desk.log()) == 2


@pytest.mark.slow
def test_an_unmeasured_answer_has_every_key_of_the_log(desk: OnDesk) -> None:
    assert set(desk.log()[0]) <= set(desk.try_(code=1))


@pytest.mark.slow
def test_budgets_hold_for_tries(tiny: Tiny, lay: Callable[..., OnDesk]) -> None:
    tiny.commit(budget={"attempts": 1})
    desk = lay()
    desk.answer(12)
    found = desk.try_()
    assert found["outcome"] == "keep" and "The run is over: the budget of 1 attempts is spent" in found["next"]
    desk.answer(13)
    found = desk.try_(code=3)
    assert found["outcome"] == "over" and "budget of 1 attempts" in found["reason"]
    assert (desk.folder / "train.sh").read_text() == "echo 13 > answer.txt\n"
    status = json.loads(desk.ark("status", "--json").stdout)
    assert status["over"] == "the budget of 1 attempts is spent" and status["desk"] == str(desk.folder)


@pytest.mark.slow
def test_a_target_that_is_reached_ends_the_run_too(tiny: Tiny, lay: Callable[..., OnDesk]) -> None:
    tiny.commit(budget={"target": 12})
    desk = lay()
    desk.answer(12)
    desk.try_()
    desk.answer(13)
    assert "target" in desk.try_(code=3)["reason"]


# The changes of others


def two_lines(tiny: Tiny, lay: Callable[..., OnDesk]) -> OnDesk:
    """A project whose score is a sum, kept only from 5 on: each line by itself is a near miss."""
    tiny.write("train.sh", "a=1\nb=1\nc=1\necho $((a + b + c)) > answer.txt\n")
    tiny.commit(decision={"min_gain": 2.5})
    return lay()


def change_line(desk: OnDesk, name: str, value: int) -> None:
    text = (desk.folder / "train.sh").read_text()
    desk.write("".join(f"{name}={value}\n" if line.startswith(name) else line + "\n" for line in text.splitlines()))


@pytest.mark.slow
def test_near_misses_are_combined(tiny: Tiny, lay: Callable[..., OnDesk]) -> None:
    desk = two_lines(tiny, lay)
    for name in ("a", "b"):
        change_line(desk, name, 3)
        assert desk.try_("-m", f"{name} is 3")["outcome"] == "discard"
    found = desk.try_("--from", "1", "--from", "t/2")
    assert (found["outcome"], found["value"], found["title"]) == ("keep", 7, "Combine: a is 3; b is 3")
    assert "Ark-From: t/1 t/2" in tiny.git("log", "-1", "--format=%B", "refs/ark/t/0003")

    change_line(desk, "a", 9)
    desk.try_("-m", "a is 9")
    assert desk.try_("--from", "4", code=1)["outcome"] == "no_change", "it was kept, so it is in already"


@pytest.mark.slow
def test_a_change_that_does_not_fit_is_a_conflict(tiny: Tiny, lay: Callable[..., OnDesk]) -> None:
    desk = two_lines(tiny, lay)
    change_line(desk, "a", 2)
    desk.try_()
    change_line(desk, "a", 9)
    assert desk.try_()["outcome"] == "keep"
    found = desk.try_("--from", "1", code=1)
    assert found["outcome"] == "conflict" and "attempt 1 does not fit" in found["reason"]
    assert "by hand" in found["next"]


@pytest.mark.slow
def test_a_change_from_another_run_and_what_would_be_lost(tiny: Tiny, lay: Callable[..., OnDesk]) -> None:
    other = lay("other")
    other.answer(30)
    assert other.try_("-m", "thirty")["outcome"] == "keep"
    desk = lay("t")
    desk.answer(12)
    found = desk.try_("--from", "other/1", code=1)
    assert found["outcome"] == "refused" and "would be lost: train.sh" in found["reason"]
    assert found["next"] == "Measure that first: ark try; or undo it: git checkout -- train.sh"
    desk.answer(10)
    found = desk.try_("--from", "other/1")
    assert (found["outcome"], found["title"], found["value"]) == ("keep", "thirty", 30)

    done = desk.ark("try", "--from", "nowhere/1")
    assert done.returncode == 2 and "there is no attempt nowhere/1" in done.stderr
    desk.answer(31)
    assert desk.try_()["outcome"] == "keep", "the host goes on after a wrong question"


# Who proposes


def test_an_agent_is_known_by_what_it_sets() -> None:
    assert caller({}) == BY_HAND
    assert caller({"ARK_AGENT": " me ", "CLAUDECODE": "1"}) == "me"
    for variable, name in AGENTS_BY_VARIABLE.items():
        assert caller({variable: "1"}) == name
    assert caller({"CLAUDECODE": ""}) == BY_HAND


# Ideas


@pytest.mark.slow
def test_ideas_are_noted_and_listed(tiny: Tiny, desk: OnDesk) -> None:
    assert desk.ark("note", "try thirteen", env={"ARK_AGENT": "me"}).returncode == 0
    desk.ark("note", "or\x1b[31m fourteen")
    listed = desk.ark("note").stdout.splitlines()
    assert len(listed) == 2 and listed[0].endswith("me: try thirteen") and "\x1b" not in listed[1]
    found = json.loads(tiny.ark_here("note", "--json").stdout)
    assert found["tag"] == "t" and [idea["by"] for idea in found["ideas"]] == ["me", BY_HAND]
    assert len(desk.log()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_refused(desk: OnDesk) -> None:
    desk.answer(12)
    (desk.folder / "train.sh").chmod(0)
    assert "cannot be read" in desk.try_(code=1)["reason"]
