"""What becomes of an agent's turns: pauses, rests, costs, endings.   pytest tests/engine/test_turns.py"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autoresearch_kit.core.budget import Ending, Limits
from autoresearch_kit.core.records import Cost, Measurement, Proposal
from autoresearch_kit.lab.live import Live, read_live
from autoresearch_kit.lab.machine import machine
from autoresearch_kit.ledger.owed import read_owed
from autoresearch_kit.loop import Failed, Finished, Turns, loop
from autoresearch_kit.project import open_project
from autoresearch_kit.ratchet import Note, Run
from autoresearch_kit.workshop import Workshop

Tiny = Any  # see conftest.py
Answer = Proposal | Finished | Failed
RATE = Failed("Rate limited", "rate_limited", agent="a")


class Scripted:
    """An agent in this process: a number is written as the answer, anything else is what it says."""

    def __init__(self, *answers: int | Answer) -> None:
        self.answers = list(answers)

    def propose(self, run: Run) -> Answer:
        answer = self.answers.pop(0) if self.answers else Finished("done")
        run.lay_desk({})
        if isinstance(answer, int):
            (run.desk.folder / "train.sh").write_text(f"echo {answer} > answer.txt\n")
            return Proposal(f"try {answer}", agent="a", cost=Cost(1.0, 10, 0.5))
        return answer

    def close(self) -> None:
        pass


@pytest.fixture
def played(tiny: Tiny) -> Callable[..., tuple[Ending, list[float], Turns, list[str], Run]]:
    def play(*answers: int | Answer, limits: Limits | None = None, **spec: Any) -> Any:
        if spec:
            tiny.commit(**spec)
        pauses: list[float] = []
        notes: list[str] = []
        project = open_project(tiny.folder)
        try:
            with Run(project, "t", lambda e: notes.append(e.text) if isinstance(e, Note) else None) as run:
                run.open()
                run.ready()
                turns = Turns(run, limits or Limits(), lambda e: notes.append(e.text) if isinstance(e, Note) else None)
                return loop(run, Scripted(*answers), turns, pauses.append), pauses, turns, notes, run
        finally:
            project.repository.close()

    return play


def test_rests_double_and_are_no_idle_turns(played: Any) -> None:
    ending, pauses, turns, notes, run = played(*[RATE] * 7, 11)
    assert ending.reason == "done" and len(run.attempts) == 2
    assert pauses == [60, 120, 240, 480, 960, 1800, 1800]
    assert turns.counts == {"rate_limited": 7, "proposed": 1}
    assert "asked again in 60 seconds" in notes[0] and "asked again in 30 minutes" in notes[-2]


def test_a_rest_is_seen_from_outside(tiny: Tiny) -> None:
    seen: list[Live | None] = []
    project = open_project(tiny.folder)
    try:
        with Run(project, "t", lambda event: None) as run:
            run.open()
            run.ready()
            turns = Turns(run, Limits(), run.recorded(lambda event: None))
            loop(run, Scripted(RATE, 11), turns, lambda seconds: seen.append(read_live(run.cache)))
    finally:
        project.repository.close()
    (live,) = seen
    assert live and (live.phase, live.limit_seconds) == ("rest", 60) and "asked again" in live.notes[-1][1]


def test_it_rests_as_long_as_it_is_told(played: Any) -> None:
    told = Failed("Rate limited", "rate_limited", rest_seconds=7)
    _, pauses, _, _, _ = played(told, 11, told)
    assert pauses == [7, 7]
    _, pauses, _, _, _ = played(*[told] * 8, 12)
    assert pauses == [7] * 5 + [60, 120, 240], "what is never true is not believed for ever"


def test_a_day_of_rest_ends_the_run(played: Any) -> None:
    ending, pauses, _, _, _ = played(*[Failed("Rate limited", "rate_limited", rest_seconds=20000)] * 9)
    assert (ending.exit_code, len(pauses)) == (1, 4)
    assert "longer than 24 hours" in ending.reason
    ending, pauses, _, _, _ = played(Failed("Weekly limit", "rate_limited", rest_seconds=200_000))
    assert (ending.exit_code, pauses) == (1, [])


def test_a_rest_beyond_the_hours_ends_the_run_at_once(played: Any) -> None:
    told = Failed("Rate limited", "rate_limited", rest_seconds=7300)
    ending, pauses, _, _, _ = played(told, limits=Limits(hours=2))
    assert (ending.exit_code, pauses) == (0, []) and "before the agent may go on" in ending.reason
    ending, pauses, _, _, _ = played(told, budget={"hours": 2})
    assert (ending.exit_code, pauses) == (3, [])


def test_who_is_locked_out_is_not_asked_again(played: Any) -> None:
    out = Failed("The login has expired", "not_logged_in", "log in: a login", is_final=True)
    ending, pauses, turns, _, _ = played(out, 11)
    assert (ending.exit_code, pauses) == (1, []) and ending.reason == "The login has expired; log in: a login"
    assert turns.counts == {"not_logged_in": 1}


def test_turns_without_an_attempt_are_counted_by_kind_and_end_the_run(played: Any) -> None:
    broken = Failed("It broke", agent="a")
    ending, _, turns, notes, run = played(
        10, broken, 11, 11, Failed("It hung", "timed_out"), broken, 10, broken, broken
    )
    assert ending.exit_code == 1 and "5 turns in a row" in ending.reason
    assert turns.counts == {"no_change": 2, "failed": 3, "proposed": 1, "timed_out": 1, "duplicate": 1}
    assert len(run.attempts) == 2
    assert notes[-1] == "Turns without an attempt: 1 duplicate, 3 failed, 2 no_change, 1 timed_out"
    assert next(note for note in notes if "turn 4 of 5" in note).startswith("The same files were measured before")


def test_fruitless_turns_are_charged_to_the_agents_next_attempt(played: Any) -> None:
    _, _, _, _, run = played(10, Failed("It broke", agent="a", cost=Cost(2.0, 5)), 11, 12)
    assert [a.proposal.cost for a in run.attempts[1:]] == [Cost(4.0, 25, 1.0), Cost(1.0, 10, 0.5)]


@pytest.mark.parametrize(("budget", "words"), [({"money": 0.9}, "cost 1.00"), ({"tokens": 20}, "used 20 tokens")])
def test_what_agents_cost_ends_a_run_with_their_fruitless_turns(played: Any, budget: Any, words: str) -> None:
    ending, _, _, _, run = played(11, 11, 12, 13, budget=budget)
    assert ending.exit_code == 3 and words in ending.reason
    assert len(run.attempts) == 2, "the second turn was a duplicate, and cost all the same"
    ending, _, _, _, run = played(12, 13)
    assert (ending.exit_code, len(run.attempts)) == (3, 2), "a resumed run knows what they have cost"


@pytest.mark.slow
def test_what_is_owed_when_a_run_ends_is_charged_when_it_goes_on(played: Any, tiny: Tiny) -> None:
    cost = Cost(2.0, 5, 0.7)
    played(11, Failed("It broke", agent="a", cost=cost), Failed("It broke", agent="b", cost=cost))
    assert tiny.git("log", "-1", "--format=%s", "refs/ark/t/owed") == "Owed by turns that brought no attempt"
    assert [a["number"] for a in tiny.log()] == [0, 1], "it is no attempt"
    ending, _, _, _, run = played(12, budget={"money": 1.9})
    assert (ending.exit_code, len(run.attempts)) == (3, 2), "0.5 for the attempt, 1.4 for what failed"
    ending, _, _, _, run = played(12, 13, budget={"money": 2.9})
    assert [a.proposal.cost for a in run.attempts[2:]] == [Cost(3.0, 15, 1.2), Cost(1.0, 10, 0.5)]
    assert "cost 2.90" in ending.reason, "`b` has not paid yet"
    owed = tiny.git("log", "-1", "--format=%B", "refs/ark/t/owed")
    assert '"b"' in owed and '"a"' not in owed


@pytest.mark.slow
def test_what_was_charged_by_a_process_that_was_killed_is_not_charged_again(played: Any, tiny: Tiny) -> None:
    _, _, _, _, run = played(11, Failed("It broke", agent="a", cost=Cost(2.0, 5)))
    owed = tiny.git("rev-parse", "refs/ark/t/owed")
    assert read_owed(run.project.repository, "t", run.attempts) == {"a": Cost(2.0, 5)}
    _, _, _, _, run = played(12)
    assert run.attempts[2].proposal.cost.tokens == 15
    assert tiny.git("log", "-1", "--format=%b", "refs/ark/t/owed") == "Ark-Owed: {}"
    assert tiny.git("rev-parse", "refs/ark/t/owed^") == owed, "pushed again it is a fast-forward"
    tiny.git("update-ref", "refs/ark/t/owed", owed)  # as if it had been killed before it could remove this
    _, _, _, _, run = played(13)
    assert run.attempts[3].proposal.cost.tokens == 10
    tiny.git("update-ref", "refs/ark/t/owed", "refs/ark/t/0000")
    assert read_owed(run.project.repository, "t", run.attempts) == {}, "no such record"


class Noisy(Workshop):
    """Measures 10, 11 and 12 in turn, until it is stopped."""

    def measure(self, commit: str, number: int = 0, sample: int = 0, files: Any = None) -> Measurement:
        if number:
            raise KeyboardInterrupt
        return Measurement(10.0 + sample, seconds=1.0, machine=machine())


def test_a_measurement_that_was_stopped_was_a_throw_of_the_dice(tiny: Tiny) -> None:
    """Else an agent that sees bad luck coming would stop it, free of charge, until it sees a good one."""
    tiny.commit(budget={"attempts": 2}, eval_command=None)
    project = open_project(tiny.folder)
    try:
        with Run(project, "t", workshop=Noisy) as run:
            run.open()
            run.ready()
            turns = Turns(run, Limits(), lambda event: None)
            for number in (11, 12):
                assert turns.over() is None
                proposal = Scripted(number).propose(run)
                assert isinstance(proposal, Proposal)
                with pytest.raises(KeyboardInterrupt):
                    run.attempt(proposal)
            ending = turns.over()
            assert ending is not None and ending.exit_code == 3, "they count as attempts"
            shares = [attempt.verdict.share for attempt in run.attempts[1:] if attempt.verdict]
            assert len(shares) == 2 and all(share and share > 0 for share in shares)
    finally:
        project.repository.close()
