"""Several agents on one problem: whose turn it is, who rests, who leaves, what each has cost.

.venv/bin/pytest tests/agents/test_rotation.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from autoresearch_kit.agents.rotation import Rotation
from autoresearch_kit.core.records import Cost, Proposal
from autoresearch_kit.loop import Failed, Finished
from tests.agents.conftest import Night, StandIns
from tests.agents.test_command import good
from tests.engine.conftest import Tiny

Play = Callable[..., Night]
LIMIT = {"says": "opencode/rate_limit.jsonl", "exit": 1}
LOGIN = {"says": "codex/login.jsonl", "exit": 1}
IDLE = {"says": "claude/success.jsonl"}


def whose(night: Night) -> list[str]:
    return [attempt.proposal.agent for attempt in night.attempts[1:]]


@pytest.mark.slow
def test_agents_take_turns(stand_ins: StandIns, night: Play) -> None:
    stand_ins.put("claude", *[good("claude", n) for n in (11, 13, 15)])
    stand_ins.put("codex", *[good("codex", n) for n in (12, 14, 16)])
    done = night({"name": "claude", "model": "opus"}, {"name": "codex"}, attempts=5)
    assert whose(done) == ["claude:opus", "codex", "claude:opus", "codex", "claude:opus"]


@pytest.mark.slow
def test_while_one_rests_the_others_go_on(stand_ins: StandIns, night: Play) -> None:
    stand_ins.put("opencode", LIMIT)
    stand_ins.put("codex", *[good("codex", n) for n in (11, 12, 13)])
    done = night({"name": "opencode"}, {"name": "codex"}, attempts=3)
    assert whose(done) == ["codex"] * 3
    assert (done.pauses, done.counts["rate_limited"]) == ([], 1), "nobody waits, and it is asked once"


@pytest.mark.slow
def test_when_all_rest_the_first_to_wake_is_waited_for(stand_ins: StandIns, night: Play) -> None:
    stand_ins.put("opencode", LIMIT)
    stand_ins.put("copilot", {"says": "copilot/rate_limit.jsonl", "exit": 1})
    done = night({"name": "opencode"}, {"name": "copilot"})
    assert 0 < done.pauses[0] <= 20, "not the 35 seconds of the other"
    assert done.ending.exit_code == 1 and "longer than 24 hours in a row" in done.ending.reason


@pytest.mark.slow
def test_who_is_not_logged_in_leaves(stand_ins: StandIns, night: Play) -> None:
    stand_ins.put("codex", LOGIN)
    stand_ins.put("claude", *[good("claude", n) for n in (11, 12, 13)])
    done = night({"name": "codex"}, {"name": "claude"}, attempts=3)
    assert whose(done) == ["claude"] * 3 and done.counts["not_logged_in"] == 1
    assert not (stand_ins.folder / "codex.2.json").exists()


def test_when_nobody_is_logged_in_the_run_ends(stand_ins: StandIns, night: Play) -> None:
    stand_ins.put("codex", LOGIN)
    stand_ins.put("claude", {"says": "claude/login.jsonl", "exit": 1})
    done = night({"name": "codex"}, {"name": "claude"})
    assert (done.ending.exit_code, done.counts) == (1, {"not_logged_in": 2})
    assert "not logged in" in done.ending.reason


@pytest.mark.slow
def test_what_became_of_a_turn_is_told_to_the_one_whose_turn_it_was(stand_ins: StandIns, night: Play) -> None:
    stand_ins.put("claude", IDLE, good("claude", 12))
    stand_ins.put("codex", good("codex", 11), good("codex", 13))
    night({"name": "claude"}, {"name": "codex"}, attempts=3)
    told = [("No change:" in stand_ins.given(name, turn)["stdin"]) for name, turn in
            [("claude", 1), ("codex", 1), ("claude", 2), ("codex", 2)]]  # fmt: skip
    assert told == [False, False, True, False]


@pytest.mark.slow
def test_fruitless_turns_are_charged_to_the_same_agents_next_attempt(
    stand_ins: StandIns, night: Play, tiny: Tiny
) -> None:
    stand_ins.put("claude", IDLE, {"says": "claude/broken.jsonl", "exit": 1}, good("claude", 12), good("claude", 14))
    stand_ins.put("codex", *[good("codex", n) for n in (11, 13, 15, 16)])
    night({"name": "claude"}, {"name": "codex"}, attempts=5)
    shown = [json.loads(tiny.ark_here("show", f"t/{number}", "--json").stdout) for number in range(1, 6)]
    costs = [(one["agent"], one["cost"]["tokens"], one["cost"]["money"]) for one in shown]
    assert costs == [
        ("codex", 24885, None),
        ("codex", 24885, None),
        ("claude", 23000 + 100 + 23000, pytest.approx(0.0125 + 0.002 + 0.0125)),
        ("codex", 24885, None),
        ("claude", 23000, 0.0125),
    ]
    assert shown[2]["cost"]["seconds"] > shown[4]["cost"]["seconds"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "words"),
    [({"money": 0.03}, "have cost 0.04"), ({"tokens": 60_000}, "have used 69000 tokens")],
)
def test_a_budget_of_money_or_tokens_ends_a_run(
    budget: dict[str, float], words: str, stand_ins: StandIns, night: Play
) -> None:
    """Also when a turn brought nothing: the second one does."""
    stand_ins.put("claude", good("claude", 11), IDLE, good("claude", 12), good("claude", 13))
    done = night({"name": "claude"}, budget=budget)
    assert done.ending.exit_code == 3 and words in done.ending.reason
    assert len(done.attempts) == 3 and done.counts == {"proposed": 2, "no_change": 1}


# Without programs


class Said:
    """An agent that says these one after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def propose(self, run: Any) -> Any:
        return self.answers.pop(0)

    def close(self) -> None:
        self.answers = []


class Told:
    told = ""


def test_rests_finishes_and_failures() -> None:
    now = [0.0]
    limit = Failed("limit", "rate_limited", rest_seconds=100, cost=Cost(1.0))
    one, two = Said(limit, Proposal("a"), Finished("one")), Said(Proposal("b"), limit, Finished("two"))
    agents = Rotation([("one", one), ("two", two)], lambda: now[0])
    run: Any = Told()
    first = agents.propose(run)
    assert isinstance(first, Failed) and (first.agent, first.rest_seconds, first.cost) == ("one", 0, Cost(1.0))
    assert agents.propose(run) == Proposal("b")
    now[0] = 40.0
    second = agents.propose(run)
    assert isinstance(second, Failed) and (second.agent, second.rest_seconds) == ("two", 60)
    third = agents.propose(run)
    assert isinstance(third, Failed) and third.rest_seconds == 60, "all rest"
    now[0] = 100.0
    assert agents.propose(run) == Proposal("a")
    now[0] = 140.0
    assert agents.propose(run) == Finished("one"), "the other has finished before"
    agents.close()
    assert one.answers == two.answers == []
