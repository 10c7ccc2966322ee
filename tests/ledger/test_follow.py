"""The attempts of a run as they come, without reading all of them again.   pytest tests/ledger/test_follow.py"""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoresearch_kit.core.records import Attempt, Cost, Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.ledger import follow
from autoresearch_kit.ledger.follow import AHEAD, Follower
from autoresearch_kit.ledger.ledger import Ledger
from autoresearch_kit.ledger.owed import write_owed

KEEP = Verdict(Outcome.KEEP, "Keep: better", gain=0.1)
DISCARD = Verdict(Outcome.DISCARD, "Discard: worse", gain=-0.1)
GOOD = (Measurement(0.5, seconds=1.5, machine="a"),)


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change is seen as one: nothing is looked at again because it is young."""
    monkeypatch.setattr(follow, "SETTLED_SECONDS", 0.0)


def reserve(ledger: Ledger, number: int, parent: str = "", title: str = "try") -> Attempt:
    head = parent or ledger.repository.head()
    tree = ledger.repository.tree_of(head)
    return ledger.reserve(number, Proposal(title, "why\n\nindeed", "me"), tree=tree, parent=head, yardstick="y")


def baseline(ledger: Ledger) -> Attempt:
    return ledger.close(reserve(ledger, 0), GOOD, Verdict(Outcome.KEEP, "Keep: first"))


def test_what_comes_and_changes_is_followed(ledger: Ledger) -> None:
    follower = Follower(ledger)
    assert not follower.poll() and follower.attempts == ()
    running = reserve(ledger, 0)
    assert follower.poll() and follower.attempts == (running,)
    assert not follower.poll()
    first = ledger.close(running, GOOD, Verdict(Outcome.KEEP, "Keep: first"))
    assert follower.poll() and follower.attempts == (first,)
    one = reserve(ledger, 1, first.commit, "ümläut \N{SNOWMAN}")
    assert follower.poll() and follower.attempts[-1].outcome is Outcome.RUNNING
    ledger.close(one, (*GOOD, *GOOD), KEEP)
    assert follower.poll() and list(follower.attempts) == ledger.read()
    assert not follower.poll()


def test_what_has_not_changed_stays_the_same_object(ledger: Ledger) -> None:
    """Others count on from there: an equal copy of the last one would have all attempts counted again."""
    follower = Follower(ledger)
    baseline(ledger)
    follower.poll()
    (first,) = follower.attempts
    reserve(ledger, 1)
    assert follower.poll() and follower.attempts[0] is first


def test_it_goes_on_from_what_was_read(ledger: Ledger) -> None:
    baseline(ledger)
    running = reserve(ledger, 1)
    known = ledger.read()
    ledger.close(running, GOOD, DISCARD)
    reserve(ledger, 2)
    follower = Follower(ledger, known)
    assert follower.poll() and list(follower.attempts) == ledger.read()


def test_many_at_a_time_are_found(ledger: Ledger) -> None:
    follower = Follower(ledger)
    baseline(ledger)
    follower.poll()
    for number in range(1, 3 * AHEAD + 1):
        reserve(ledger, number)
    assert follower.poll() and list(follower.attempts) == ledger.read()


def test_a_withdrawn_baseline_is_gone_and_one_that_was_stopped_begins_again(ledger: Ledger) -> None:
    follower = Follower(ledger)
    running = reserve(ledger, 0)
    follower.poll()
    ledger.withdraw(running)
    assert follower.poll() and follower.attempts == ()
    lost = ledger.close(reserve(ledger, 0), (), Verdict(Outcome.LOST, "Lost: stopped"))
    assert follower.poll() and follower.attempts == (lost,)
    again = ledger.begin_again(lost)
    assert follower.poll() and follower.attempts == (again,)


def test_packing_changes_nothing_and_what_comes_after_is_seen(ledger: Ledger) -> None:
    follower = Follower(ledger)
    baseline(ledger)
    for number in range(1, 4):
        ledger.close(reserve(ledger, number), GOOD, DISCARD)
    assert follower.poll()
    ledger.repository.run("pack-refs", "--all")
    assert not follower.poll()
    reserve(ledger, 4)
    assert follower.poll() and list(follower.attempts) == ledger.read()


def test_a_run_that_was_made_anew_under_its_name_is_read_anew(ledger: Ledger) -> None:
    follower = Follower(ledger)
    baseline(ledger)
    reserve(ledger, 1)
    follower.poll()
    ledger.repository.run("pack-refs", "--all")
    follower.poll()
    for number in (0, 1):
        ledger.repository.run("update-ref", "-d", ledger.ref(number))
    ledger.repository.run("update-ref", "-d", f"refs/heads/{ledger.branch}")
    ledger.close(reserve(ledger, 0, title="another"), GOOD, Verdict(Outcome.KEEP, "Keep: other"))
    follower.poll()
    assert list(follower.attempts) == ledger.read()


def test_what_an_agent_owes_is_a_look_and_no_attempt(ledger: Ledger) -> None:
    follower = Follower(ledger)
    first = baseline(ledger)
    follower.poll()
    looks = follower.looks
    write_owed(ledger.repository, ledger.tag, {"me": Cost(money=1.0)}, [first])
    assert not follower.poll() and follower.looks == looks + 1
    assert not follower.poll() and follower.looks == looks + 1


def test_a_fetched_run_is_followed_too(ledger: Ledger) -> None:
    first = baseline(ledger)
    fetched = Ledger(ledger.repository, "autoresearch", f"origin/{ledger.tag}")
    follower = Follower(fetched)
    assert not follower.poll()
    ledger.repository.run("update-ref", fetched.ref(0), first.commit)
    assert follower.poll() and follower.attempts == (first,)
    one = ledger.close(reserve(ledger, 1), GOOD, DISCARD)
    ledger.repository.run("update-ref", fetched.ref(1), one.commit)
    assert follower.poll() and [a.number for a in follower.attempts] == [0, 1]


def test_a_ref_of_somebody_else_s_is_passed_over_once_the_run_is_known(ledger: Ledger) -> None:
    follower = Follower(ledger)
    first = baseline(ledger)
    follower.poll()
    ledger.repository.run("update-ref", ledger.ref(1), ledger.repository.head())
    assert not follower.poll() and follower.attempts == (first,)
    two = reserve(ledger, 2)
    assert follower.poll() and follower.attempts == (first, two)


def test_nothing_is_asked_of_git_while_nothing_happens(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = Follower(ledger)
    baseline(ledger)
    follower.poll()

    def never(*_: object, **__: object) -> str:
        raise AssertionError("git was started")

    monkeypatch.setattr(type(ledger.repository), "run", never)
    assert not any(follower.poll() for _ in range(100))


def test_a_young_change_is_looked_at_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two changes within one tick of the file system's clock have the same time."""
    monkeypatch.setattr(follow, "SETTLED_SECONDS", 3600.0)
    follower = Follower(ledger, [replace(baseline(ledger))])
    follower.poll()
    looks = follower.looks
    assert not follower.poll() and follower.looks == looks + 1
