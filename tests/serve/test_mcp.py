"""`ark mcp` with the official client over stdio: real processes, a real run.

.venv/bin/pytest tests/serve/test_mcp.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp_types import Implementation

from autoresearch_kit.core.names import PROGRAM_NAME
from autoresearch_kit.serve.client import dismiss
from autoresearch_kit.serve.mcp import PROGRAM_URI, Door, make_server, schema
from autoresearch_kit.serve.verbs import VERBS
from tests.engine.conftest import Tiny

SERVER = [sys.executable, "-P", "-m", "autoresearch_kit", "mcp"]
CHANGES = [
    "echo 11",
    "echo 9",
    "echo 12",
    "exit 3",
    "echo 12.5",
    "echo nan",
    "echo 13",
    "echo 13 # again",
    "echo 2",
    "echo 20",
]
LONG = 60
"""Seconds after which something hangs."""


@pytest.fixture(autouse=True)
def _no_host_is_left(tiny: Tiny) -> Iterator[None]:
    yield
    for ticket in tiny.cache.glob("ark/*/*/desk.json"):
        dismiss(ticket.parent)


class Agent:
    """Speaks MCP and edits files, nothing else."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.progress: list[tuple[float, str]] = []

    async def call(self, tool: str, **arguments: Any) -> Any:
        """The answer of a tool that should not fail."""
        found = await self.client.call_tool(tool, arguments, progress_callback=self._note)
        assert not found.is_error, found.content
        data = json.loads(found.content[0].text)
        assert found.structured_content == (data if isinstance(data, dict) else {"result": data})
        return data

    async def fails(self, tool: str, **arguments: Any) -> str:
        found = await self.client.call_tool(tool, arguments)
        assert found.is_error
        text: str = found.content[0].text
        assert "Traceback" not in text
        return text

    async def desk(self) -> Path:
        """Where to work: what the first answer says."""
        folder = (await self.call("status"))["desk"] or (await self.call("try_experiment"))["desk"]
        return Path(folder)

    async def _note(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append((progress, message or ""))


@asynccontextmanager
async def agent_in(folder: Path, *more: str, name: str = "Tester", cwd: Path | None = None) -> AsyncIterator[Agent]:
    server = StdioServerParameters(
        command=SERVER[0], args=[*SERVER[1:], str(folder), *more], env=dict(os.environ), cwd=cwd
    )
    async with Client(server, client_info=Implementation(name=name, version="1")) as client:
        yield Agent(client)


def play(tiny: Tiny, scenario: Callable[[Agent], Awaitable[Any]], *more: str, **how: Any) -> Any:
    async def run() -> Any:
        with anyio.fail_after(LONG):
            async with agent_in(how.pop("folder", tiny.folder), *more, **how) as agent:
                return await scenario(agent)

    return anyio.run(run)


def write(desk: Path, line: str) -> None:
    (desk / "train.sh").write_text(f"{line} > answer.txt\n" if line.startswith("echo") else f"{line}\n")


def gated(tiny: Tiny, desk: Path) -> Path:
    """Puts a change on the desk whose measurement waits for a file; returns that."""
    gate = tiny.tmp / "gate"
    write(desk, f"while [ ! -e '{gate}' ]; do sleep 0.02; done; echo 11 > answer.txt")
    return gate


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await anyio.sleep(0.02)


def is_measured(tiny: Tiny, number: int) -> bool:
    return bool(tiny.git("for-each-ref", f"refs/ark/t/{number:04d}"))


# What it offers


@pytest.mark.slow
def test_there_is_one_tool_for_each_verb_and_it_says_what_verbs_says(tiny):
    async def scenario(agent):
        return (await agent.client.list_tools()).tools, agent.client.instructions

    tools, instructions = play(tiny, scenario)
    assert [(tool.name, tool.description, tool.input_schema) for tool in tools] == [
        (verb.tool, verb.summary, schema(verb)) for verb in VERBS
    ]
    reading = {tool.name for tool in tools if tool.annotations.read_only_hint}
    assert reading == {"status", "history", "show"}
    assert "status" in instructions and "try_experiment" in instructions


@pytest.mark.slow
def test_the_program_is_a_prompt_and_a_resource(tiny):
    async def scenario(agent):
        client = agent.client
        prompts, resources = await client.list_prompts(), await client.list_resources()
        assert [prompt.name for prompt in prompts.prompts] == ["program"]
        assert [(r.uri, r.name, r.mime_type) for r in resources.resources] == [
            (PROGRAM_URI, PROGRAM_NAME, "text/markdown")
        ]
        before = (await client.get_prompt("program")).messages[0].content.text
        text = (await client.read_resource(PROGRAM_URI)).contents[0].text
        desk = await agent.desk()
        after = (await client.get_prompt("program")).messages[0].content.text
        for wrong in (client.get_prompt("other"), client.read_resource("ark://other")):
            with pytest.raises(MCPError, match="known:"):
                await wrong
        return before, text, desk, after

    before, text, desk, after = play(tiny, scenario)
    assert text == tiny.ark_here("render-program", "-o", "-").stdout == (desk / PROGRAM_NAME).read_text()
    assert before.startswith(text) and "no desk yet" in before
    assert after.startswith(text) and str(desk) in after


@pytest.mark.slow
def test_the_first_try_measures_the_baseline_and_lays_the_desk(tiny):
    before = tiny.git("status", "--porcelain=v2", "--branch")

    async def scenario(agent):
        status = await agent.call("status")
        assert (status["tag"], status["desk"]) == ("t", None) and "baseline" in status["next"]
        first = await agent.call("try_experiment", title="too early")
        assert first["outcome"] == "no_change" and "nothing was changed yet" in first["reason"]
        status = await agent.call("status")
        assert status["desk"] == first["desk"] and first["desk"] in first["next"] and status["baseline"] == 10
        return first

    first = play(tiny, scenario, "--tag", "t")
    assert (Path(first["desk"]) / "train.sh").read_text() == "echo 10 > answer.txt\n"
    assert [entry["title"] for entry in tiny.log()] == ["Baseline"]
    assert tiny.git("status", "--porcelain=v2", "--branch") == before


@pytest.mark.slow
def test_progress_is_told_while_it_is_measured(tiny):
    async def scenario(agent):
        desk = await agent.desk()
        assert any(words.startswith("run, at most 6 seconds") for _, words in agent.progress)
        agent.progress.clear()
        write(desk, "echo 11")
        await agent.call("try_experiment", title="more")
        return agent.progress

    progress = play(tiny, scenario, "--tag", "t")
    words = [text for _, text in progress]
    expected = ["attempt 1 begins", "run, at most 6 seconds", "eval, at most 12 seconds"]
    assert [text for text in words if text in expected] == expected
    assert [amount for amount, _ in progress] == sorted(amount for amount, _ in progress)


@pytest.mark.slow
def test_a_silent_measurement_is_heard_of_now_and_then(tiny, monkeypatch):
    """Some clients give up when they hear nothing."""
    monkeypatch.setattr("autoresearch_kit.serve.mcp.BEAT_SECONDS", 0.2)
    monkeypatch.setenv("ARK_AGENT", "here")  # else the server would set it, in this process

    async def scenario():
        with anyio.fail_after(LONG):
            async with Client(make_server(Door(tiny.folder, "t", lambda project: "t"))) as client:
                agent = Agent(client)
                gate = gated(tiny, await agent.desk())
                async with anyio.create_task_group() as group:
                    group.start_soon(lambda: agent.call("try_experiment"))
                    await until(lambda: sum(", for " in words for _, words in agent.progress) > 2)
                    gate.touch()

    anyio.run(scenario)
    assert tiny.log()[1]["outcome"] == "keep"


@pytest.mark.slow
def test_what_a_verdict_says(tiny):
    async def scenario(agent):
        desk = await agent.desk()
        write(desk, "echo 11")
        kept = await agent.call("try_experiment", title="more", why="because")
        assert (kept["outcome"], kept["value"], kept["number"]) == ("keep", 11, 1)
        assert (desk / "train.sh").read_text() == "echo 11 > answer.txt\n"
        write(desk, "echo 5")
        lost = await agent.call("try_experiment", title="less")
        assert lost["outcome"] == "discard" and (desk / "train.sh").read_text() == "echo 11 > answer.txt\n"
        again = await agent.call("try_experiment", **{"from": ["2"]})
        assert again["outcome"] == "duplicate" and again["number"] is None
        assert [a["number"] for a in await agent.call("history")] == [0, 1, 2]
        assert [a["number"] for a in await agent.call("history", last=1)] == [2]
        shown = await agent.call("show", attempt=1)  # a number will do
        assert shown["why"] == "because" and "+echo 11" in shown["diff"]
        noted = await agent.call("note_idea", text="try seven")
        assert [idea["text"] for idea in noted["ideas"]] == ["try seven"]
        return kept

    kept = play(tiny, scenario, "--tag", "t", name="Some\nClient\x1b[31m")
    assert kept["agent"] == tiny.log()[1]["agent"]
    assert kept["agent"].startswith("Some Client") and "\x1b" not in kept["agent"]


@pytest.mark.slow
def test_a_user_may_say_what_the_agent_is_called(tiny, monkeypatch):
    monkeypatch.setenv("ARK_AGENT", "my own")

    async def scenario(agent):
        write(await agent.desk(), "echo 11")
        return await agent.call("try_experiment")

    assert play(tiny, scenario, "--tag", "t")["agent"] == "my own"


@pytest.mark.slow
def test_an_agent_that_only_speaks_mcp_leaves_the_ledger_that_one_by_hand_leaves(tiny, tmp_path, _template):
    async def scenario(agent):
        desk = await agent.desk()
        for index, change in enumerate(CHANGES):
            write(desk, change)
            found = await agent.call("try_experiment", title=f"change {index}", why=f"reason {index}")
            assert found["number"] == index + 1 and found["desk"] == str(desk)
        return await agent.call("history")

    history = play(tiny, scenario, "--tag", "t", name="one")
    by_hand = Tiny(tmp_path / "hand", tmp_path)
    tiny.git("clone", "-q", str(tiny.root), str(by_hand.root))
    done = by_hand.ark("desk", "--tag", "h")
    assert done.returncode == 0, done.stderr
    desk = Path(done.stdout.strip())
    for index, change in enumerate(CHANGES):
        write(desk, change)
        done = by_hand.ark(
            "try", "-m", f"change {index}", "--why", f"reason {index}", cwd=desk, env={"ARK_AGENT": "one"}
        )
        assert done.returncode == 0, done.stderr

    def told(entries):
        keys = ("number", "title", "outcome", "value", "values", "problem", "reason", "agent", "gain")
        return [{key: entry[key] for key in keys} for entry in entries]

    assert len(history) == len(CHANGES) + 1 and {entry["outcome"] for entry in history} == {"keep", "discard", "crash"}
    assert told(history) == told(tiny.log()) == told(by_hand.log("h"))


# What goes wrong


@pytest.mark.slow
def test_errors_are_sentences_and_the_server_goes_on(tiny):
    async def scenario(agent):
        with pytest.raises(MCPError, match="known: try_experiment"):
            await agent.client.call_tool("delete_everything", {})
        assert "no run" in await agent.fails("show", attempt="1")
        assert "hint: " in await agent.fails("wait") and "ark " not in await agent.fails("wait")
        assert "required" in await agent.fails("show")
        assert "unexpected" in await agent.fails("status", verbose=True)
        assert "'x' is not of type 'integer'" in await agent.fails("history", last="x")
        assert "minimum" in await agent.fails("wait", timeout_seconds=-1)
        good = (tiny.folder / "autoresearch-config.yaml").read_text()
        tiny.spec(metric_direction="sideways")
        assert "metric_direction" in await agent.fails("status")
        assert "metric_direction" in await agent.fails("try_experiment")
        with pytest.raises(MCPError, match="metric_direction"):
            await agent.client.get_prompt("program")
        (tiny.folder / "autoresearch-config.yaml").write_text(good)
        await agent.desk()
        assert "99" in await agent.fails("show", attempt="99")
        assert (await agent.call("status"))["attempts"] == 0

    play(tiny, scenario)


@pytest.mark.slow
def test_a_baseline_that_fails_is_an_error_and_can_be_mended(tiny):
    tiny.write("train.sh", "exit 7\n")
    tiny.commit()

    async def scenario(agent):
        assert "the baseline failed" in await agent.fails("try_experiment")
        assert (await agent.call("status"))["desk"] is None
        tiny.write("train.sh", "echo 10 > answer.txt\n")
        tiny.commit()
        assert (await agent.desk()).is_dir()

    play(tiny, scenario, "--tag", "t")


@pytest.mark.slow
def test_two_calls_at_once(tiny):
    async def scenario(agent):
        gate = gated(tiny, await agent.desk())
        answers: dict[str, Any] = {}

        async def call(key: str, tool: str, **arguments: Any) -> None:
            answers[key] = await agent.call(tool, **arguments)

        async with anyio.create_task_group() as group:
            group.start_soon(lambda: call("first", "try_experiment", title="one"))
            await until(lambda: is_measured(tiny, 1))
            await call("second", "try_experiment", title="two")
            await call("status", "status")
            await call("waited", "wait", timeout_seconds=0)
            gate.touch()
        return answers

    answers = play(tiny, scenario, "--tag", "t")
    assert (answers["first"]["outcome"], answers["first"]["title"]) == ("keep", "one")
    assert answers["second"]["outcome"] == "busy" and answers["second"]["number"] is None
    assert answers["second"]["next"] == "wait for it: wait"
    assert answers["waited"]["outcome"] == "running" and answers["status"]["running_attempt"] == 1
    assert [entry["title"] for entry in tiny.log()] == ["Baseline", "one"]


@pytest.mark.slow
def test_a_cancelled_call_does_not_lose_the_measurement(tiny):
    async def scenario(agent):
        gate = gated(tiny, await agent.desk())
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: agent.client.call_tool("try_experiment", {"title": "cancelled"}))
            await until(lambda: is_measured(tiny, 1))
            group.cancel_scope.cancel()
        assert (await agent.call("wait", timeout_seconds=0.1))["outcome"] == "running"
        gate.touch()
        return await agent.call("wait")

    found = play(tiny, scenario, "--tag", "t")
    assert (found["outcome"], found["title"], found["value"]) == ("keep", "cancelled", 11)


@pytest.mark.slow
def test_a_call_that_is_cancelled_in_its_last_moment_does_not_lose_the_verdict(tiny):
    """Nothing is told between the evaluation and the verdict, which so arrives where nobody waits."""
    gate = tiny.tmp / "gate"
    wait = f"touch '{gate}-begun'; until [ -e '{gate}' ]; do sleep 0.02; done"
    tiny.write("evaluate.sh", f'[ $ARK_ATTEMPT = 0 ] || {{ {wait}; }}\necho "score: $(cat answer.txt)"\n')
    tiny.commit()

    async def scenario(agent):
        write(await agent.desk(), "echo 11")
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: agent.client.call_tool("try_experiment", {"title": "cancelled"}))
            await until((tiny.tmp / "gate-begun").exists)
            await anyio.sleep(0.5)  # the server passes on what it has heard
            group.cancel_scope.cancel()
        gate.touch()
        found = await agent.call("wait")
        assert "nothing is being measured" in await agent.fails("wait")
        return found

    found = play(tiny, scenario, "--tag", "t")
    assert (found["outcome"], found["title"], found["value"]) == ("keep", "cancelled", 11)


@pytest.mark.slow
def test_a_client_that_vanishes_does_not_lose_the_measurement(tiny):
    gate = []

    async def leaves(agent):
        gate.append(gated(tiny, await agent.desk()))
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: agent.client.call_tool("try_experiment", {"title": "left"}))
            await until(lambda: is_measured(tiny, 1))
            group.cancel_scope.cancel()

    async def comes_back(agent):
        gate[0].touch()
        return await agent.call("wait")

    play(tiny, leaves, "--tag", "t")
    found = play(tiny, comes_back, "--tag", "t")
    assert (found["outcome"], found["title"], found["value"]) == ("keep", "left", 11)


@pytest.mark.slow
def test_detach_answers_at_once(tiny):
    async def scenario(agent):
        gate = gated(tiny, await agent.desk())
        begun = await agent.call("try_experiment", title="detached", detach=True)
        assert (begun["outcome"], begun["number"]) == ("running", 1)
        gate.touch()
        return await agent.call("wait")

    assert play(tiny, scenario, "--tag", "t")["title"] == "detached"


# Where it may be started


@pytest.mark.slow
def test_on_a_desk_it_serves_that_run_and_git_never_starts_there(tiny):
    desk = Path(tiny.ark("desk", "--tag", "t").stdout.strip())
    trap = tiny.tmp / "sprung"
    (tiny.tmp / "trap.sh").write_text(f"#!/bin/sh\ntouch '{trap}'\n")
    (tiny.tmp / "trap.sh").chmod(0o755)

    def set_trap() -> None:
        """Anew each time: a try lays the desk anew, with git's configuration there."""
        with (desk / ".git" / "config").open("a") as config:
            config.write(f'[core]\n fsmonitor = "{tiny.tmp}/trap.sh"\n')
        subprocess.run(["git", "status"], cwd=desk, capture_output=True)
        trap.unlink()

    async def scenario(agent):
        assert (await agent.call("status"))["desk"] == str(desk)
        write(desk, "echo 11")
        kept = await agent.call("try_experiment", title="here")
        await agent.call("history")
        await agent.call("show", attempt="1")
        await agent.call("note_idea", text="x")
        await agent.client.get_prompt("program")
        return kept

    for folder, cwd in ((desk, tiny.tmp), (Path(), desk), (tiny.folder, desk)):
        set_trap()
        found = play(tiny, scenario, folder=folder, cwd=cwd)
        assert found["outcome"] in ("keep", "no_change")
        assert not trap.exists()
    assert [entry["title"] for entry in tiny.log()] == ["Baseline", "here"]


@pytest.mark.slow
def test_without_a_tag_it_goes_on_with_the_run_that_was_active_last(tiny):
    async def first(agent):
        write(await agent.desk(), "echo 11")
        return await agent.call("try_experiment")

    async def second(agent):
        return await agent.call("status")

    play(tiny, first, "--tag", "mine")
    assert play(tiny, second)["tag"] == "mine"


@pytest.mark.slow
def test_stdout_belongs_to_the_protocol(tiny):
    """Garbage and half a message before and between good ones; every line that comes back is JSON-RPC."""

    def message(number: int | None, method: str, **params: Any) -> bytes:
        rest = {"id": number} if number else {}
        return json.dumps({"jsonrpc": "2.0", **rest, "method": method, "params": params}).encode()

    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    lines = [
        b"garbage", b"{", b"[]", b"\xff\xfe", b'{"jsonrpc": "2.0", "id": 9}',
        message(1, "initialize", **client),
        message(None, "notifications/initialized"),
        b"more garbage",
        message(2, "tools/call", name="status", arguments={}),
        message(3, "tools/call", name="status", arguments=[1]),
        message(4, "no/such/method"),
        message(5, "tools/call", name="try_experiment", arguments={}),
    ]  # fmt: skip
    with subprocess.Popen([*SERVER, str(tiny.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin and server.stdout
        server.stdin.write(b"\n".join(lines) + b"\n")
        server.stdin.flush()
        answers: dict[int, Any] = {}
        while 5 not in answers:
            said = json.loads(server.stdout.readline())
            assert said["jsonrpc"] == "2.0"
            answers[said.get("id")] = said
        server.stdin.close()
        assert server.wait(LONG) == 0
        assert server.stdout.read() == b""
    assert json.loads(answers[2]["result"]["content"][0]["text"])["desk"] is None
    assert "error" in answers[3] and "error" in answers[4]
    assert json.loads(answers[5]["result"]["content"][0]["text"])["outcome"] == "no_change"


@pytest.mark.slow
def test_where_there_is_no_project_every_call_says_so(tiny):
    """A server in the user's own configuration is started everywhere."""

    async def scenario(agent):
        for tool in ("status", "try_experiment", "history", "wait"):
            assert str(tiny.tmp) in await agent.fails(tool)
        tiny.folder.rename(tiny.tmp / "later" / "user")
        assert (await agent.call("status"))["desk"] is None

    (tiny.tmp / "later").mkdir()
    play(tiny, scenario, folder=tiny.tmp / "later" / "user")
    done = subprocess.run([*SERVER, str(tiny.tmp)], input=b"", capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"") and b"warning: " in done.stderr and b"hint: " in done.stderr


@pytest.mark.slow
def test_without_the_sdk_it_says_what_to_install(tiny):
    code = "import sys; sys.modules['mcp'] = None; from autoresearch_kit.cli import main; main(prog_name='ark')"
    done = subprocess.run([sys.executable, "-c", code, "mcp", str(tiny.folder)], input=b"", capture_output=True)
    assert done.returncode == 1 and done.stdout == b""
    assert b"pip install 'mcp>=2'" in done.stderr and b"Traceback" not in done.stderr
