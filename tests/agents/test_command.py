"""Turns of agents: what each named one is started with, what becomes of what it does, and what a command may tell.

.venv/bin/pytest tests/agents/test_command.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoresearch_kit.agents import choose
from autoresearch_kit.agents.command import COST_NAME, AgentProcess, ark_folder
from autoresearch_kit.agents.presets import PRESETS
from autoresearch_kit.core.errors import UsageError
from autoresearch_kit.core.records import Cost
from autoresearch_kit.core.spec import Agent
from autoresearch_kit.lab.cache import cache_root, remove, trim_logs
from autoresearch_kit.loop import FIRST_PAUSE_SECONDS
from autoresearch_kit.project import open_project
from autoresearch_kit.ratchet import Run
from tests.agents.conftest import STAND_INS, Night, StandIns
from tests.engine.conftest import Tiny

Play = Callable[..., Night]


def answer(value: int) -> str:
    return f"echo 'echo {value} > answer.txt' > train.sh"


def says(name: str, scene: str) -> str:
    return str(next(STAND_INS.glob(f"{name}/{scene}.*")).relative_to(STAND_INS))


def good(name: str, value: int) -> dict[str, Any]:
    return {"says": says(name, "success"), "does": answer(value)}


# The named ones


@pytest.mark.parametrize("name", PRESETS)
def test_a_good_turn_is_measured_with_its_cost_and_its_last_words(name: str, stand_ins: StandIns, night: Play) -> None:
    stand_ins.put(name, good(name, 11))
    night_ = night({"name": name}, attempts=1)
    proposal = night_.attempts[1].proposal
    assert (night_.counts, night_.pauses) == ({"proposed": 1}, [])
    assert (proposal.title, proposal.why.splitlines()[0]) == ("Raise the answer", "It was too low.")
    assert proposal.agent == name and proposal.cost.seconds
    told = PRESETS[name].reports
    assert [what for what in ("tokens", "money") if getattr(proposal.cost, what) is not None] == list(told)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_what_it_is_started_with(
    name: str, stand_ins: StandIns, night: Play, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = PRESETS[name]
    for hidden in row.hidden:
        monkeypatch.setenv(hidden, "1")
    stand_ins.put(name, good(name, 11))
    night({"name": name, "model": "m-1", "arguments": ["--more"]}, attempts=1)
    given = stand_ins.given(name)
    prompt = given["env"]["ARK_PROMPT_FILE"]
    agent = Agent(name=name, model="m-1", arguments=["--more"])
    assert given["argv"] == row.argv(agent, prompt, ["train.sh"])[1:]
    assert "`program.md`" in given["stdin"] and given["stdin"] == Path(prompt).read_text()
    assert not set(row.hidden) & set(given["env"])
    assert row.environment.items() <= given["env"].items()
    assert given["cwd"].startswith(str(tiny.cache)) and given["cwd"].endswith("/desk")
    first, second = given["env"]["PATH"].split(os.pathsep)[:2]
    assert (Path(first).name, second) == ("bin", str(stand_ins.folder))
    assert Path(first).is_relative_to(cache_root()) and [path.name for path in Path(first).iterdir()] == ["ark"]


def test_what_the_user_has_set_is_left(stand_ins: StandIns, night: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCODE_PERMISSION", '"allow"')
    stand_ins.put("opencode", good("opencode", 11))
    night({"name": "opencode"}, attempts=1)
    assert stand_ins.given("opencode")["env"]["OPENCODE_PERMISSION"] == '"allow"'


def scene(name: str, kind: str, code: int = 0, errs: str = "") -> Any:
    return pytest.param(name, {"says": says(name, kind), "exit": code, "errs": errs}, id=f"{name}-{kind}")


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_turn_without_a_change_is_just_that(name: str, stand_ins: StandIns, night: Play) -> None:
    stand_ins.put(name, {"says": says(name, "success")})
    done = night({"name": name})
    assert (done.counts, done.pauses, done.ending.exit_code) == ({"no_change": 5}, [], 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "played"),
    [scene(name, "denied") for name in PRESETS if name != "aider"],
)
def test_denied_tools_are_named_with_how_to_allow_them(
    name: str, played: dict[str, Any], stand_ins: StandIns, night: Play
) -> None:
    stand_ins.put(name, played, {**played, "does": answer(11)}, played)
    done = night({"name": name}, attempts=1)
    assert done.counts == {"denied": 1, "proposed": 1}, "with a change it is a proposal all the same"
    assert done.pauses == [FIRST_PAUSE_SECONDS]
    assert "was not allowed to use " in done.notes[0] and PRESETS[name].allow in done.notes[0]
    assert "was not allowed to use" in stand_ins.given(name, 2)["stdin"], "the agent is told"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "played", "pause"),
    [
        (*scene("claude", "rate_limit", 1).values, 1800),
        (*scene("codex", "rate_limit", 1).values, 3900),
        (*scene("gemini", "rate_limit", 1).values, 730),
        (*scene("opencode", "rate_limit", 1).values, 20),
        (*scene("aider", "rate_limit").values, 60),
        (*scene("copilot", "rate_limit", 1).values, 35),
        (*scene("pi", "rate_limit").values, 60),
    ],
)
def test_a_rate_limit_is_waited_for_as_told(
    name: str, played: dict[str, Any], pause: float, stand_ins: StandIns, night: Play
) -> None:
    stand_ins.put(name, played, good(name, 11))
    done = night({"name": name}, attempts=1)
    assert done.counts == {"rate_limited": 1, "proposed": 1}
    assert done.pauses == [pytest.approx(pause, abs=120 if name == "claude" else 0.1)]
    assert done.notes[0].startswith("The agent is rate limited: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "played"),
    [
        scene("claude", "login", 1),
        scene("codex", "login", 1),
        scene("gemini", "login", 41, "Please set an Auth method in your ~/.gemini/settings.json\n"),
        pytest.param("gemini", {"exit": 41}, id="gemini-by its exit code"),
        scene("opencode", "login", 1),
        scene("aider", "login"),
        scene("copilot", "login", 1, "Error: No authentication information found.\n"),
        scene("pi", "login", 1, "No API key found for anthropic.\n\nUse /login to log into a provider.\n"),
    ],
)
def test_an_expired_login_ends_the_run_with_how_to_log_in(
    name: str, played: dict[str, Any], stand_ins: StandIns, night: Play
) -> None:
    stand_ins.put(name, played)
    done = night({"name": name})
    assert (done.counts, done.pauses, done.ending.exit_code) == ({"not_logged_in": 1}, [], 1)
    assert done.ending.reason.startswith("The agent is not logged in: ")
    assert done.ending.reason.endswith(f"; log in: {PRESETS[name].login}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "played", "words"),
    [
        (*scene("claude", "broken", 1).values, "API Error: 500 Internal server error"),
        (*scene("codex", "broken", 1).values, "stream disconnected"),
        (*scene("gemini", "broken", 53).values, "Reached max session turns"),
        (*scene("opencode", "broken", 1).values, "no such model"),
        (*scene("aider", "broken", 2).values, "unrecognized arguments"),
        (*scene("copilot", "broken", 1).values, "missing finish_reason"),
        (*scene("pi", "broken").values, "prompt is too long"),
    ],
)
def test_a_failure_is_tried_again_after_growing_pauses(
    name: str, played: dict[str, Any], words: str, stand_ins: StandIns, night: Play
) -> None:
    stand_ins.put(name, played)
    done = night({"name": name})
    assert (done.counts, done.pauses, done.ending.exit_code) == ({"failed": 5}, [2, 4, 8, 16], 1)
    assert words in done.ending.reason


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_garbage_is_survived(name: str, stand_ins: StandIns, night: Play) -> None:
    garbage = {"says": "garbage.txt"}
    stand_ins.put(name, garbage, {**garbage, "exit": 1}, {**garbage, "does": answer(11)})
    done = night({"name": name}, attempts=1)
    assert done.counts == {"no_change": 1, "failed": 1, "proposed": 1}
    assert done.attempts[1].proposal.title == "Change train.sh"
    assert all(note.isprintable() for note in done.notes)


@pytest.mark.slow
def test_a_turn_that_takes_too_long_is_ended(stand_ins: StandIns, night: Play) -> None:
    stand_ins.put("claude", {"says": "claude/success.jsonl", "does": answer(12), "sleeps": 600}, good("claude", 11))
    done = night({"name": "claude", "timeout_minutes": 0.03}, attempts=1)
    assert done.counts == {"timed_out": 1, "proposed": 1}
    assert done.attempts[1].value == 11, "half a turn is not measured"
    assert done.attempts[1].proposal.cost.tokens == 46000, "and is paid for"
    assert "was ended" in stand_ins.given("claude", 2)["stdin"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_words_cannot_turn_a_change_into_a_limit(name: str, stand_ins: StandIns, night: Play) -> None:
    """Whatever a successful turn prints, also what its program would print for a limit or a login: it is measured."""
    scenes = [{"says": says(name, kind), "errs": "429 rate limit\n"} for kind in ("rate_limit", "login", "broken")]
    stand_ins.put(name, *[{**one, "does": answer(11 + turn)} for turn, one in enumerate(scenes)])
    done = night({"name": name}, attempts=3)
    assert (done.counts, done.pauses) == ({"proposed": 3}, [])


@pytest.mark.slow
def test_a_result_after_a_flood_is_found(stand_ins: StandIns, night: Play) -> None:
    flood = 'yes \'{"type":"user","text":"x"}\' | head -c 60000000'
    stand_ins.put("claude", {"does": f"{flood}; {answer(11)}", "says": "claude/success.jsonl"})
    done = night({"name": "claude"}, attempts=1)
    assert done.attempts[1].proposal.cost.tokens == 23000


@pytest.mark.slow
def test_talk_of_a_limit_in_a_good_turn_without_a_change_is_no_limit(stand_ins: StandIns, night: Play) -> None:
    event = {"type": "result", "is_error": False, "result": "rate limit, try again in 9 hours. Please run /login"}
    path = stand_ins.folder / "talk.jsonl"
    path.write_text(json.dumps(event) + "\nrate limit exceeded\n")
    stand_ins.put("claude", {"says": str(path)})
    assert night({"name": "claude"}).counts == {"no_change": 5}


# Ready to start


def test_by_name_on_the_command_line(tiny: Tiny, stand_ins: StandIns) -> None:
    stand_ins.put("claude", good("claude", 11))
    done = tiny.ark_here("run", "--agent", "claude", "--attempts", "1", "--tag", "t")
    assert done.returncode == 0, done.stderr
    one = json.loads(tiny.ark_here("show", "t/1", "--json").stdout)
    assert (one["outcome"], one["title"], one["agent"]) == ("keep", "Raise the answer", "claude")
    assert (one["cost"]["tokens"], one["cost"]["money"]) == (23000, 0.0125)


def test_an_agent_that_is_not_installed_is_told_at_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for name, row in PRESETS.items():
        done = tiny.ark_here("run", "--agent", name)
        assert done.returncode == 2
        assert f"`{row.program}` is not installed" in done.stderr and row.install in done.stderr
    tiny.commit(agent=["claude", "transplant"])
    done = tiny.ark_here("check")
    assert done.returncode == 1 and "`claude` is not installed" in done.stdout
    project = open_project(tiny.folder)
    with pytest.raises(UsageError, match="`claude` is not installed"):
        choose(project.spec, None)
    project.repository.close()


def check(tiny: Tiny, **spec: Any) -> list[tuple[str, str, str]]:
    tiny.commit(**spec)
    found = json.loads(tiny.ark_here("check", "--json").stdout)
    return [(one["level"], one["subject"], one["text"]) for one in found if one["subject"] in ("agent", "budget")]


def test_check_shows_what_will_be_run_and_what_is_not_counted(tiny: Tiny, stand_ins: StandIns) -> None:
    for name in ("claude", "codex", "copilot", "aider"):
        stand_ins.put(name)
    budget = {"money": 5, "tokens": 1000}
    found = check(tiny, agent={"name": "claude", "model": "opus"}, budget=budget)
    assert [one[0] for one in found] == ["ok"]
    assert found[0][2].startswith("claude:opus: claude -p --output-format stream-json --verbose --permission-mode")
    found = check(tiny, agent=["codex", "copilot", {"command": "sh x.sh"}], budget=budget)
    warned = [text for level, subject, text in found if (level, subject) == ("warn", "budget")]
    assert [text.split(" counts ")[0] for text in warned] == [
        *["codex does not report money, so it", "copilot does not report money, so it"],
        *["copilot does not report tokens, so it", "command", "command"],
    ]
    assert check(tiny, agent={"name": "aider", "drive": "agent"}, budget=None) == [
        ("fail", "agent", "aider runs no commands, so it cannot drive")
    ]


def test_who_runs_no_commands_cannot_drive() -> None:
    with pytest.raises(UsageError, match="aider runs no commands"):
        AgentProcess(Agent(name="aider", drive="agent"), lambda event: None)


# Commands


@pytest.mark.slow
def test_a_command_may_tell_its_cost(tiny: Tiny, night: Play) -> None:
    command = tiny.agent("""
        mkdir -p .ark; answer 1$TURN
        case $TURN in
        1) echo '{"tokens": 1200, "money": 0.03}' > .ark/cost.json;;
        2) echo '{"tokens": NaN, "money": "much"}' > .ark/cost.json;;
        3) echo '[[[' > .ark/cost.json;;
        4) mkfifo .ark/cost.json;;
        5) ln -s /etc/passwd .ark/cost.json;;
        6) echo '{"tokens": 5}' > .ark/cost.json;;
        esac""")
    done = night({"command": command, "label": "mine"}, attempts=6)
    costs = [attempt.proposal.cost for attempt in done.attempts[1:]]
    assert [(cost.tokens, cost.money) for cost in costs] == [(1200, 0.03), *[(None, None)] * 4, (5, None)]
    assert {attempt.proposal.agent for attempt in done.attempts[1:]} == {"mine"}
    shown = json.loads(tiny.ark_here("show", "t/1", "--json").stdout)
    assert (shown["cost"]["tokens"], shown["cost"]["money"]) == (1200, 0.03)


def test_a_command_that_fails_with_a_limit_is_waited_for(tiny: Tiny, night: Play) -> None:
    command = tiny.agent("""
        [ $TURN = 1 ] && { echo '429 Too Many Requests, retry-after: 30'; exit 1; }
        [ $TURN = 2 ] && { echo '401 Unauthorized'; exit 1; }
        answer 11""")
    done = night({"command": command}, attempts=1)
    assert done.counts == {"rate_limited": 1, "failed": 1, "proposed": 1}, "a login is never concluded from its words"
    assert done.pauses == [30, FIRST_PAUSE_SECONDS]


DAEMON = "import os, time; os.fork() or (os.setsid(), time.sleep(977))"
HOSTILE = {
    "deletes its desk": ('d="$PWD"; cd /; rm -rf "$d"', "refused"),
    "deletes the cache": ('rm -rf "$(dirname "$(dirname "$PWD")")"', "refused"),
    "commits there": ("answer 9; git add -A; git -c user.name=x -c user.email=x@x commit -qm x", "proposed"),
    "changes branches": ("git checkout -q -b other; git branch -D autoresearch/t; answer 9", "proposed"),
    "leaves daemons": (f"{sys.executable} -c '{DAEMON}' & answer 9", "proposed"),
    "prints megabytes": ("head -c 90000000 /dev/zero | tr '\\0' x; answer 9", "proposed"),
    "does nothing": ("true", "no_change"),
    "edits forbidden files only": ("echo 'echo score: 99' > evaluate.sh; echo x > sitecustomize.py", "no_change"),
    "makes a link": ("ln -sf /etc/passwd train.sh", "refused"),
    "kills itself": ("kill -9 $$", "failed"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_agents_are_typed_counted_and_survived(name: str, tiny: Tiny, night: Play) -> None:
    script, kind = HOSTILE[name]
    command = tiny.agent(f"[ $TURN = 1 ] && {{ {script}; exit; }}; answer 1$TURN")
    before = tiny.git("for-each-ref", "refs/heads"), tiny.git("status", "--porcelain")
    done = night({"command": command}, attempts=2 if kind == "proposed" else 1)
    assert done.counts == ({"proposed": 2} if kind == "proposed" else {kind: 1, "proposed": 1})
    assert done.attempts[-1].value == 12
    assert (tiny.git("for-each-ref", "refs/heads/main"), tiny.git("status", "--porcelain")) == before
    assert not [p for p in psutil.process_iter(["cmdline"]) if "time.sleep(977)" in " ".join(p.info["cmdline"] or [])]
    log = next((tiny.cache / "ark").glob("*/autoresearch+t/logs/*.agent.log"))
    assert log.stat().st_size < 70e6


# One process, for whoever drives it


@pytest.fixture
def held(tiny: Tiny) -> Any:
    project = open_project(tiny.folder)
    with Run(project, "t") as run:
        run.open()
        run.ready()
        run.lay_desk({})
        yield run
    project.repository.close()


def test_a_session_is_resumed(held: Run, stand_ins: StandIns) -> None:
    stand_ins.put("codex", {"says": "codex/success.jsonl"})
    process = AgentProcess(Agent(name="codex"), lambda event: None)
    try:
        first = process.run(held, b"begin", timeout_seconds=30)
        assert (first.failed, first.doubt, first.session) == (None, None, "0199a213-81c0-7800-8aa1-bbab2a035a53")
        assert first.message == "Raise the answer\n\nIt was too low." and first.cost.tokens == 24885
        again = process.run(held, b"go on", timeout_seconds=30, resume=first.session)
        assert again.cost.tokens == 0, "its count goes on where the session has ended before"
    finally:
        process.close()
    given = stand_ins.given("codex", 2)
    assert given["argv"][-3:] == ["resume", first.session, "-"] and given["stdin"] == "go on"


def test_from_another_thread_it_runs_and_is_cancelled(held: Run, tiny: Tiny) -> None:
    begun = tiny.tmp / "begun"
    process = AgentProcess(Agent(command=f"touch {begun}; sleep 600"), lambda event: None)
    played: list[Any] = []
    thread = threading.Thread(target=lambda: played.append(process.run(held, b"", timeout_seconds=600)))
    thread.start()
    while not begun.exists():
        time.sleep(0.01)
    process.cancel()
    thread.join(60)
    process.close()
    assert not thread.is_alive()
    assert played[0].failed.kind == "failed" and played[0].session == ""


def test_the_log_of_a_session_is_not_trimmed_under_it(held: Run, stand_ins: StandIns) -> None:
    """Engines cut the logs of old numbers; an agent that drives lives longer than that."""
    stand_ins.put("claude", {"says": "claude/success.jsonl"})
    process = AgentProcess(Agent(name="claude", drive="agent"), lambda event: None)
    played = process.run(held, b"", timeout_seconds=30)
    process.close()
    logs = held.cache / "logs"
    assert [path.name for path in logs.glob("*") if b"claude" in path.read_bytes()] == ["session.log"]
    for number in range(200):
        trim_logs(logs, number)
    assert b"total_cost_usd" in (logs / "session.log").read_bytes() and played.cost.money == 0.0125


def test_a_cost_of_an_earlier_turn_on_the_same_desk_counts_once(held: Run) -> None:
    agent = Agent(command=f"[ -e .ark/{COST_NAME} ] || {{ echo '{{\"tokens\": 7}}' > .ark/{COST_NAME}; }}")
    process = AgentProcess(agent, lambda event: None)
    costs = [process.run(held, b"", timeout_seconds=30).cost for _ in range(2)]
    process.close()
    assert [cost.tokens for cost in costs] == [7, None]
    assert sum(costs, Cost()).tokens == 7


def test_ark_on_path_is_this_very_one(tiny: Tiny, held: Run) -> None:
    shadow = held.desk.folder / "autoresearch_kit"
    shadow.mkdir()
    (shadow / "__init__.py").write_text("raise SystemExit('the one on the desk')")
    log = tiny.tmp / "said"
    process = AgentProcess(Agent(command=f"ark --version > {log} 2>&1"), lambda event: None)
    assert process.run(held, b"", timeout_seconds=60).failed is None, log.read_text()
    process.close()
    here = subprocess.run([sys.executable, "-m", "autoresearch_kit", "--version"], capture_output=True, text=True)
    assert log.read_text() == here.stdout != ""


def test_nothing_but_ark_is_first_on_path_whatever_was_planted_there(held: Run, tmp_path: Path) -> None:
    agent = Agent(command="command -v git > git; command -v ark > ark; cp /bin/true $(dirname $(command -v ark))/git")
    process = AgentProcess(agent, lambda event: None)
    for _ in range(2):
        process.run(held, b"", timeout_seconds=30)
        assert (held.desk.folder / "git").read_text().strip() == shutil.which("git")
    process.close()
    assert (held.desk.folder / "ark").read_text().strip() == str(held.cache / "bin/ark")
    for plant in ("link", "forged script", "folder"):
        folder = ark_folder(held.cache)
        assert [(path.name, path.stat().st_mode & 0o777) for path in folder.iterdir()] == [("ark", 0o700)]
        if plant == "link":
            remove(folder)
            folder.symlink_to(tmp_path)
        elif plant == "forged script":
            (folder / "ark").write_text("#!/bin/sh\necho forged\n")
        else:
            remove(folder / "ark")
            (folder / "ark/folder").mkdir(parents=True)
    assert b"forged" not in (ark_folder(held.cache) / "ark").read_bytes() and not list(tmp_path.glob("ark"))
