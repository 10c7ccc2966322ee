"""`drive: agent`: one agent that calls `ark try` itself, whatever else it does.   pytest tests/serve/test_session.py"""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autoresearch_kit.agents.command import AgentProcess
from autoresearch_kit.core.budget import Ending, Limits
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.records import Attempt
from autoresearch_kit.core.spec import Agent as AgentSpec
from autoresearch_kit.loop import Turns
from autoresearch_kit.project import open_project
from autoresearch_kit.ratchet import Note, Run
from autoresearch_kit.serve import host
from autoresearch_kit.serve.host import Host
from autoresearch_kit.serve.session import Session
from tests.agents.conftest import StandIns, stand_ins  # noqa: F401 - a fixture
from tests.engine.conftest import Tiny
from tests.serve.conftest import until
from tests.serve.test_try import SCRIPT, VALUES, told, trees

MEASURE = 'cat > /dev/null; measure() { answer "$1"; ark try -m "set $1" --why "because of $1"; }\n'


@dataclass
class Driven:
    """What became of a session in this process."""

    ending: Ending
    attempts: list[Attempt]
    notes: list[str]
    pauses: list[float]

    @property
    def values(self) -> list[float | None]:
        return [attempt.value for attempt in self.attempts[1:]]


def drive(tiny: Tiny, script: str, attempts: int | None = None, farewell: float = 60, **agent: Any) -> Driven:
    notes: list[str] = []
    pauses: list[float] = []

    def watch(event: object) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    command = {} if "name" in agent else {"command": tiny.agent(MEASURE + script)}
    spec = AgentSpec.model_validate({**command, **agent, "drive": "agent"})
    holder = Host(watch, spec.known_as, stays=True)
    project = open_project(tiny.folder)
    try:
        with Run(project, "t", holder.watch) as run:
            run.open()
            holder.hold(run)
            process = AgentProcess(spec, watch)
            session = Session(holder, process, watch, farewell_seconds=farewell, sleep=pauses.append)
            try:
                holder.ready(Turns(run, Limits(attempts), watch))
                return Driven(session.drive(), list(run.attempts), notes, pauses)
            finally:
                session.close()
                holder.close()
    finally:
        project.repository.close()


@pytest.mark.slow
def test_ten_tries_of_an_agent_make_the_ledger_that_the_engine_makes(tiny: Tiny) -> None:
    tiny.play(SCRIPT, 10, tag="engine")
    agent = tiny.agent(f"{MEASURE} for value in {' '.join(map(str, VALUES))}; do measure $value; done")
    done = tiny.ark("run", "--tag", "drive", "--agent", agent, "--drive", "agent", "--attempts", "10")
    assert done.returncode == 0 and "10 attempts made, as asked" in done.stdout, done.stderr
    assert told(tiny.log("drive")) == told(tiny.log("engine")) and len(tiny.log("drive")) == 11
    assert trees(tiny, "drive") == trees(tiny, "engine")
    assert {a["agent"] for a in tiny.log("drive")[1:]} == {"command"}


@pytest.mark.slow
def test_an_agent_that_stops_early_is_started_again_with_the_history(tiny: Tiny) -> None:
    found = drive(tiny, f'cp "$ARK_PROMPT_FILE" {tiny.tmp}/prompt.$TURN; measure $((10 + TURN))\n', 3)
    assert found.ending.reason == "3 attempts made, as asked" and found.values == [11, 12, 13]
    assert "The agent stopped early, after 1 attempts; it is started again" in found.notes
    assert "ark try" in (tiny.tmp / "prompt.1").read_text()
    assert "set 11" in (tiny.tmp / "prompt.2").read_text()


@pytest.mark.slow
def test_five_starts_without_a_new_tree_end_the_run(tiny: Tiny) -> None:
    found = drive(tiny, "if [ $TURN = 1 ]; then measure 11; fi; ark try; exit 0\n")
    assert found.ending.exit_code == 1 and "The agent stopped without an attempt" in found.ending.reason
    assert found.values == [11] and (tiny.tmp / "count").read_text() == "6\n"


@pytest.mark.slow
def test_an_agent_that_fails_is_asked_again_after_a_pause(tiny: Tiny) -> None:
    found = drive(tiny, "if [ $TURN = 3 ]; then measure 11; fi; exit 7\n")
    assert found.ending.exit_code == 1 and "exit code 7" in found.ending.reason
    assert found.pauses[:2] == [2, 4] and found.values == [11]


@pytest.mark.slow
def test_an_agent_that_brings_nothing_for_too_long_is_ended_and_started_again(tiny: Tiny) -> None:
    script = f"test $TURN = 1 && measure 11; test $TURN -gt 2 && exit; sleep 600 & echo $! >> {tiny.tmp}/pids; wait\n"
    found = drive(tiny, script, timeout_minutes=0.03)
    assert any("brought nothing new to measure for 0.03 minutes" in note for note in found.notes)
    assert found.values == [11]
    for pid in (tiny.tmp / "pids").read_text().split():
        until(lambda pid=pid: not Path(f"/proc/{pid}").exists())


@pytest.mark.slow
def test_tries_of_nothing_do_not_count_as_news(tiny: Tiny) -> None:
    found = drive(tiny, "test $TURN -gt 1 && exit; while :; do ark try; done\n", timeout_minutes=0.03)
    assert "brought nothing new" in found.notes[0] and found.ending.exit_code == 1


@pytest.mark.slow
def test_a_flood_is_ended_and_what_was_measured_stays(tiny: Tiny) -> None:
    found = drive(tiny, "measure $((10 + TURN)); test $TURN = 2 || yes flood | head -c 100000000\n", 2)
    assert found.values == [11, 12]
    log = next((tiny.cache).rglob("session.log"))
    assert log.stat().st_size < 70 * 2**20


@pytest.mark.slow
def test_the_budget_ends_it_and_the_agent_is_told(tiny: Tiny) -> None:
    tiny.commit(budget={"attempts": 2})
    agent = tiny.agent(
        f"{MEASURE} v=10; while :; do v=$((v + 1)); measure $v; code=$?; test $code = 0 || break; done\n"
        f"echo $code > {tiny.tmp}/code\n"
    )
    tiny.commit(budget={"attempts": 2}, agent={"command": agent, "drive": "agent", "label": "me"})
    done = tiny.ark("run", "--tag", "t")
    assert done.returncode == 3 and "the budget of 2 attempts is spent" in done.stdout
    assert (tiny.tmp / "code").read_text() == "3\n"
    assert [(a["agent"], a["value"]) for a in tiny.log()[1:]] == [("me", 11), ("me", 12)]


@pytest.mark.slow
def test_an_agent_that_does_not_end_when_it_is_over_is_ended(tiny: Tiny) -> None:
    found = drive(tiny, f"measure 11; echo $$ > {tiny.tmp}/pid; trap '' TERM; sleep 600\n", 1, farewell=0.5)
    assert found.ending.reason == "1 attempts made, as asked"
    assert not Path(f"/proc/{(tiny.tmp / 'pid').read_text().strip()}").exists()


@pytest.mark.slow
def test_an_order_that_was_left_behind_is_measured(tiny: Tiny) -> None:
    found = drive(tiny, "answer $((10 + TURN)); ark try --detach; exit\n", 2)
    assert found.values == [11, 12]


@pytest.mark.slow
def test_what_a_turn_costs_is_charged_to_the_next_attempt_and_ends_the_run(tiny: Tiny) -> None:
    tiny.commit(budget={"money": 5})
    found = drive(tiny, 'measure $((10 + TURN)); mkdir -p .ark; echo \'{"money": 2, "tokens": 7}\' > .ark/cost.json\n')
    assert "budget of 5 is spent" in found.ending.reason and found.ending.exit_code == 3
    assert [a.proposal.cost.money for a in found.attempts[1:]] == [None, 2, 2]
    assert found.attempts[2].proposal.cost.tokens == 7
    owed = tiny.git("log", "-1", "--format=%B", "refs/ark/t/owed")
    assert '"money":2.0' in owed or '"money":2' in owed, "the last conversation, which no attempt has paid for"
    tiny.commit(budget={"money": 5.5})
    assert "budget of 5.5 is spent" in drive(tiny, "measure 20").ending.reason


@pytest.mark.slow
def test_what_a_command_tells_of_its_cost_is_charged_to_each_attempt_and_ends_the_run(tiny: Tiny) -> None:
    tiny.commit(budget={"money": 8})
    told = 'echo \'{"money": 2, "tokens": 7}\' > .ark/cost.json'
    script = f"{told}; measure 11; {told}; ark try; {told}; measure 12; {told}; measure 13; measure 14; {told}\n"
    found = drive(tiny, script)
    assert "budget of 8 is spent" in found.ending.reason and found.ending.exit_code == 3
    assert [a.proposal.cost.money for a in found.attempts[1:]] == [2, 4], "the second with what brought nothing"


@pytest.mark.slow
def test_a_conversation_is_taken_up_where_that_is_possible(tiny: Tiny, stand_ins: StandIns) -> None:  # noqa: F811
    def scene(value: int) -> dict[str, str]:
        does = f"echo 'echo {value} > answer.txt' > train.sh; ark try -m 'set {value}'" if value else "true"
        return {"says": "claude/success.jsonl", "does": does}

    stand_ins.put("claude", scene(11), scene(12), scene(0), scene(13))
    found = drive(tiny, "", 3, name="claude")
    assert found.values == [11, 12, 13]
    resumed = ["--resume" in stand_ins.given("claude", turn)["argv"] for turn in (1, 2, 3, 4)]
    assert resumed == [False, True, True, False], "what was taken up and brought nothing is begun anew"
    assert found.attempts[1].proposal.agent == "claude" and found.attempts[2].proposal.cost.money is not None


@pytest.mark.slow
def test_an_agent_that_is_not_logged_in_ends_the_run(tiny: Tiny, stand_ins: StandIns) -> None:  # noqa: F811
    stand_ins.put("claude", {"says": "claude/login.jsonl", "exit": 1})
    found = drive(tiny, "", name="claude")
    assert found.ending.exit_code == 1 and "not logged in" in found.ending.reason and not found.values


RUINS = {
    "deletes": 'rm -rf "$HERE"',
    "moves": 'mv "$HERE" "$HERE.away"',
    "links": 'rm -rf "$HERE"; mkdir -p "$ELSE"; ln -s "$ELSE" "$HERE"',
    "locks": 'chmod 0 "$HERE"',
    "begins anew": 'rm -rf "$HERE/.git"; git init -q "$HERE"',
    "changes branches": 'git -C "$HERE" checkout -q --orphan mine',
}


@pytest.mark.slow
@pytest.mark.parametrize("ruin", ["deletes", *(pytest.param(name, marks=pytest.mark.slow) for name in list(RUINS)[1:])])
def test_an_agent_that_ruins_its_desk_finds_another_one_there(tiny: Tiny, ruin: str) -> None:
    script = f"""HERE=$PWD; ELSE={tiny.tmp}/else
test $TURN = 1 || {{ measure $((10 + TURN)); exit; }}
{RUINS[ruin]}
cd /; i=0; until cd "$HERE" 2> /dev/null && test -f train.sh -o $i -gt 100; do sleep 0.1; i=$((i + 1)); cd /; done
cd "$HERE"; measure 11; measure 12
"""
    found = drive(tiny, script, 2)
    assert len(found.values) == 2 and found.values[-1] == 12, found.notes


@pytest.mark.slow
def test_what_was_left_unmeasured_is_still_there_at_the_next_start(tiny: Tiny) -> None:
    script = (
        f'test $TURN = 1 && {{ measure 11; answer 12; exit; }}; cp "$ARK_PROMPT_FILE" {tiny.tmp}/told; ark try -m b'
    )
    found = drive(tiny, script + "\n", 2)
    assert found.values == [11, 12]
    assert "did not measure is still here: train.sh" in (tiny.tmp / "told").read_text()


@pytest.mark.slow
def test_a_desk_that_cannot_be_laid_spoils_no_run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "LAY_TRIES", 1)
    lay, calls = Run.lay_desk, []

    def failing(self: Run, extra: Any, **how: Any) -> None:
        calls.append(1)
        if len(calls) in (3, 4):  # before the first measurement and after it; ready and start have laid it before
            raise ArkError("somebody else writes there")
        lay(self, extra, **how)

    monkeypatch.setattr(Run, "lay_desk", failing)
    script = f"measure 11 > {tiny.tmp}/1; measure 12 > {tiny.tmp}/2; measure 13 > {tiny.tmp}/3\n"
    found = drive(tiny, script, 2)
    assert found.values == [11, 13]
    assert "could not be laid anew" in (tiny.tmp / "1").read_text()
    assert "It is laid now: make your change again" in (tiny.tmp / "2").read_text()


@pytest.mark.slow
def test_a_desk_is_laid_while_somebody_writes_there(tiny: Tiny) -> None:
    script = """
(while :; do mkdir -p x/y; echo > x/y/z; echo > .git/index.lock; echo > x/$$; done) 2> /dev/null &
for value in 11 12 13; do measure $value; done; kill %1
"""
    found = drive(tiny, script, 3)
    assert found.values == [11, 12, 13], found.notes


@pytest.mark.slow
def test_ctrl_c_ends_agent_and_measurement(tiny: Tiny) -> None:
    begun = tiny.tmp / "begun"
    agent = tiny.agent(f'cat > /dev/null; echo "touch {begun}; sleep 600" > train.sh; ark try -m slow\n')
    running = subprocess.Popen(
        [*tiny.command, "run", "--tag", "t", "--agent", agent, "--drive", "agent"],
        cwd=tiny.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    until(begun.exists)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130 and "stopped by you" in out, err
    assert "Traceback" not in err
    assert [a["outcome"] for a in tiny.log()] == ["keep", "lost"]
    until(lambda: str(tiny.tmp) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout)


@pytest.mark.slow
def test_a_desk_that_an_agent_drives_is_left_alone_by_others(tiny: Tiny) -> None:
    gate = tiny.tmp / "gate"
    agent = tiny.agent(f"{MEASURE} measure 11; until [ -e {gate} ]; do sleep 0.05; done\n")
    running = subprocess.Popen(
        [*tiny.command, "run", "--tag", "t", "--agent", agent, "--drive", "agent", "--attempts", "2"],
        cwd=tiny.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until(lambda: "refs/ark/t/0001" in tiny.git("for-each-ref", "refs/ark/t") and len(tiny.log()) == 2)
        done = tiny.ark("desk", "--tag", "t")
        assert done.returncode == 0 and "the desk is left as it is" in done.stderr
        done = tiny.ark("run", "--tag", "t", "--agent", "true")
        assert done.returncode == 1 and "run t is held by process" in done.stderr
        desk = Path(json.loads(tiny.ark("status", "--tag", "t", "--json").stdout)["desk"])
        (desk / "train.sh").write_text("echo 12 > answer.txt\n")
        done = tiny.ark("try", "-m", "mine", cwd=desk)
        assert done.returncode == 0 and "The run is over" in done.stdout, "anybody on the desk may try"
    finally:
        gate.touch()
        running.communicate(timeout=60)


def test_who_cannot_drive(tiny: Tiny) -> None:
    tiny.commit(agent=[{"command": "true", "label": "a"}, {"command": "true", "label": "b"}])
    done = tiny.ark_here("run", "--drive", "agent")
    assert done.returncode == 2 and "several agents take turns" in done.stderr
    done = tiny.ark_here("run", "--agent", "search", "--drive", "agent")
    assert done.returncode == 2 and "part of the kit" in done.stderr
    tiny.commit(agent={"command": "true", "drive": "agent"})
    played = tiny.ark_here("run", "--tag", "t", "--drive", "engine", "--attempts", "0")
    assert played.returncode == 0, played.stderr
