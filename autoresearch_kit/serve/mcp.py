"""The agent's verbs as an MCP server on stdio: `ark mcp`.

Names, arguments and descriptions come from `verbs.py`, so there is one tool for each verb and nothing to keep in step.
This process measures nothing and holds nothing: the host of the run does (`host.py`). So it may be killed, its client
may vanish, and a call may be cancelled at any time; `wait` gets the verdict nevertheless.

The protocol alone uses stdout: the SDK keeps that for itself and turns whatever else is printed to stderr.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import math
import os
import re
import shlex
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoresearch_kit import __version__
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.names import PROGRAM_NAME
from autoresearch_kit.core.records import clean_line
from autoresearch_kit.lab.cache import DESK
from autoresearch_kit.serve.answers import words
from autoresearch_kit.serve.place import AGENT_VARIABLE, Place, open_project_at, place_of
from autoresearch_kit.serve.verbs import HISTORY, NOTE, SHOW, STATUS, TRY, VERBS, WAIT, Parameter, Tell, Verb, desk_of

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from mcp.server.lowlevel import Server

    from autoresearch_kit.project import Project

PROGRAM_URI = "ark://program"
"""The resource that holds the program."""
LOOK_SECONDS = 0.1
"""How often a call looks for news to pass on."""
BEAT_SECONDS = 10.0
"""How often it says that it is still at work: some clients give up when they hear nothing."""
SLICE_SECONDS = 20.0
"""How long one wait lasts before it looks whether its caller is still there."""
SHOWN = 50
"""Attempts in one answer, unless more are asked for: agents refuse answers that are too long."""


class Door:
    """The verbs for one client, in the project or on the desk at `directory`."""

    def __init__(self, directory: Path, tag: str | None, new_tag: Callable[[Project], str]) -> None:
        """`tag` is the run, else the one that was active last, else a new one that `new_tag` names."""
        self.directory = directory.absolute()
        self.tag = tag
        self._new_tag = new_tag
        with contextlib.suppress(ArkError, OSError):  # an agent that was started on a desk means that one
            here = place_of(Path.cwd())
            if here.cache and tag is None and self.directory.resolve() in (here.where, here.where.parent):
                self.directory = Path.cwd()

    def call(self, verb: Verb, arguments: Mapping[str, Any], tell: Tell) -> Any:
        """What the verb answers; ArkError for what is wrong."""
        if verb is TRY:
            return self._try(arguments, tell)
        if verb is WAIT:
            return self._wait(arguments, tell)
        place = self.place()
        if verb is STATUS:
            return self._status(place)
        if verb is HISTORY and arguments.get("last") is None:
            return verb.call(place, {**arguments, "last": SHOWN}, tell)
        return verb.call(place, arguments, tell)

    def miss(self, result: Any) -> None:
        """Keep a verdict that has arrived for a call that was cancelled: the host believes that it was heard."""
        from autoresearch_kit.serve import client

        if isinstance(result, dict) and result.get("commit") is not None and result.get("desk"):
            with contextlib.suppress(ArkError):
                client.keep(result)

    def place(self) -> Place:
        """For reading."""
        return place_of(self.directory, self.tag)

    def desk_place(self) -> Place:
        """For measuring: the desk that this is, or else that of the run, which may have none yet; nor be there yet."""
        place = self.place()
        if place.cache is not None:
            return place
        from autoresearch_kit.lab.cache import run_cache
        from autoresearch_kit.ledger.ledger import Ledger, check_tag, read_latest

        with open_project_at(place.where) as project:
            latest = None if self.tag else read_latest(project.repository, project.spec_name)
            tag = check_tag(self.tag) if self.tag else latest[0].tag if latest else self._new_tag(project)
            branch = Ledger(project.repository, project.spec.branch_prefix, tag).branch
            return replace(place, where=project.spec_path, tag=tag, cache=run_cache(project.repository.common, branch))

    def program(self) -> str:
        """The text of program.md."""
        from autoresearch_kit.agents.brief import render_program

        with open_project_at(self.place().where) as project:
            return render_program(project.spec, project.folder)

    def prompt(self) -> str:
        """The program, and how to begin."""
        return f"{self.program()}\n## Where\n\n{self._status(self.place())['next']}\n"

    def _try(self, arguments: Mapping[str, Any], tell: Tell) -> Any:
        """Measure; the host sees to a baseline and a desk first, where they are missing."""
        place = self.desk_place()
        assert place.cache is not None
        is_new = not (place.cache / DESK).is_dir()
        found = TRY.call(place, arguments, tell)
        if is_new and found["outcome"] == "no_change":
            return {
                **found,
                "reason": "The desk was laid just now: nothing was changed yet",
                "next": _work(found["desk"]),
            }
        return found

    def _status(self, place: Place) -> dict[str, Any]:
        """The verb's answer and what to do next; also when nothing has begun yet."""
        from autoresearch_kit.ledger.ledger import Ledger

        desk_place = self.desk_place()
        with open_project_at(place.where) as project:
            ledger = Ledger(project.repository, project.spec.branch_prefix, desk_place.tag or "")
            has_begun = bool(ledger.read())
            desk = desk_of(project, ledger.branch)
        found: dict[str, Any] = {"tag": desk_place.tag, "desk": desk}
        if has_begun:
            found = STATUS.call(replace(place, tag=desk_place.tag), {}, lambda event: None)
        if found.get("over"):
            then = f"The run is over: {found['over']}. Stop here"
        elif desk:
            then = _work(desk)
        else:
            what = "lays the desk" if has_begun else "measures the baseline, lays the desk"
            then = f"There is no desk yet: the first {TRY.tool} {what} and answers with its folder"
        return {**found, "next": then}

    def _wait(self, arguments: Mapping[str, Any], tell: Tell) -> Any:
        """Wait in slices: an agent that gives up and waits again, all night, must not use up the host's listeners."""
        place, seconds = self.desk_place(), arguments.get("timeout_seconds")
        ends = time.monotonic() + (math.inf if seconds is None else seconds)
        while True:
            tell({})  # whether anybody still waits
            left = max(0.0, ends - time.monotonic())
            found = WAIT.call(place, {"timeout_seconds": min(SLICE_SECONDS, left)}, tell)
            if found["outcome"] != "running" or left <= SLICE_SECONDS:
                return found


def _as_tools(text: str) -> str:
    """What to do next, with the names of tools for those of commands."""
    tools = {verb.name: verb.tool for verb in VERBS}
    return re.sub(rf"\bark ({'|'.join(tools)})\b", lambda match: tools[match[1]], text)


def _work(desk: str) -> str:
    return f"The desk is {desk}: read {PROGRAM_NAME} there, change the mutable files there, then call {TRY.tool}"


class _Gone(BaseException):
    """Nobody waits for this call any more; its thread may end."""


class _Call:
    """One call in a thread of its own: what it tells, and what came of it."""

    def __init__(self, work: Callable[[Tell], Any], miss: Callable[[Any], None] = lambda result: None) -> None:
        """`miss` takes the result when it comes too late."""
        self._work = work
        self._miss = miss
        self._lock = threading.Lock()
        self._is_wanted, self._is_done = True, False
        self.news: deque[str] = deque()
        self.result: Any = None
        self.error: ArkError | None = None

    def run(self) -> None:
        try:
            self.result = self._work(self._tell)
        except _Gone:
            return
        except ArkError as error:
            self.error = error
        except Exception as error:  # a bug of ours must not end the server
            traceback.print_exc()
            text = clean_line(f"{type(error).__name__}: {error}", 200)
            self.error = ArkError(f"ark failed, which is a bug of its own: {text}", "the traceback is on stderr")
        with self._lock:
            self._is_done = True
            if not self._is_wanted:
                self._miss(self.result)

    def abandon(self) -> None:
        """Nobody wants the result."""
        with self._lock:
            self._is_wanted = False
            if self._is_done:
                self._miss(self.result)

    def _tell(self, event: Mapping[str, Any]) -> None:
        if not self._is_wanted:
            raise _Gone
        if said := words(event):
            self.news.append(said)


def check_sdk() -> None:
    """ArkError when the SDK is missing, which is installed by an extra."""
    try:
        for name in ("anyio", "mcp.server.stdio", "mcp_types"):  # the last is not in the SDK before version 2
            importlib.import_module(name)
    except ImportError as error:
        # Not by the extra's name: that would look for a release, also where a checkout is installed.
        command = f"{shlex.quote(sys.executable)} -m pip install 'mcp>=2'"
        raise ArkError(f"the MCP server needs a package that is not installed ({error.name})", command) from None


def serve(directory: Path, tag: str | None, new_tag: Callable[[Project], str]) -> None:
    """Serve until the client leaves. ArkError when the SDK is missing.

    What is wrong with the project is the answer to every call, and said on stderr at once: a server in the user's own
    configuration is started everywhere, and what is wrong may be mended meanwhile.
    """
    check_sdk()
    import anyio
    import mcp.server.stdio

    door = Door(directory, tag, new_tag)
    try:
        door.desk_place()
    except ArkError as error:
        print(
            f"warning: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr, flush=True
        )
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    # Nothing here needs an orderly end, and a thread that reads stdin would keep it from coming.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)

    async def run() -> None:
        server = make_server(door)
        async with mcp.server.stdio.stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    code = 0
    try:
        anyio.run(run)
    except* (BrokenPipeError, ConnectionError):  # the client has gone
        pass
    except* Exception:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)  # threads that wait for a host end when it says something; nobody should have to wait for them


def make_server(door: Door) -> Server[Any]:
    """The server: one tool for each verb, the program as a prompt and as a resource."""
    import anyio
    import anyio.to_thread
    import mcp_types as types
    from jsonschema import Draft202012Validator
    from mcp.server.lowlevel import Server
    from mcp.shared.exceptions import MCPError

    by_tool = {verb.tool: verb for verb in VERBS}
    # The SDK's own threads read and write; calls that wait for hours must not use them up.
    limiter = anyio.CapacityLimiter(math.inf)

    async def in_thread(call: _Call, report: Callable[[float, str], Any] | None = None) -> None:
        began = said = time.monotonic()
        latest, done = "at work", anyio.Event()

        async def tell(text: str) -> None:
            nonlocal said
            said = time.monotonic()
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                if report:
                    await report(said - began, text)

        async def pass_on() -> None:
            nonlocal latest
            while call.news or not done.is_set():
                if call.news:
                    latest = call.news.popleft()
                    await tell(latest)
                elif time.monotonic() - said > BEAT_SECONDS:
                    await tell(f"{latest}, for {time.monotonic() - began:.0f} seconds")
                else:
                    with anyio.move_on_after(LOOK_SECONDS):
                        await done.wait()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(pass_on)
                await anyio.to_thread.run_sync(call.run, abandon_on_cancel=True, limiter=limiter)
                done.set()
        except anyio.get_cancelled_exc_class():
            call.abandon()
            raise

    async def list_tools(ctx: ServerRequestContext, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=verb.tool,
                    description=verb.summary,
                    input_schema=schema(verb),
                    annotations=types.ToolAnnotations(
                        read_only_hint=verb in (STATUS, HISTORY, SHOW),
                        destructive_hint=False,
                        idempotent_hint=verb not in (TRY, NOTE),
                        open_world_hint=False,
                    ),
                )
                for verb in VERBS
            ]
        )

    async def call_tool(ctx: ServerRequestContext, params: types.CallToolRequestParams) -> types.CallToolResult:
        verb = by_tool.get(params.name)
        if verb is None:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {params.name!r}; known: {', '.join(by_tool)}")
        arguments = _plain(verb, params.arguments or {})
        wrong = [
            f"{'.'.join(map(str, error.absolute_path)) or verb.tool}: {error.message}"
            for error in Draft202012Validator(schema(verb)).iter_errors(arguments)
        ]
        if wrong:
            return failed("; ".join(wrong), f"it takes {', '.join(p.name for p in verb.parameters) or 'nothing'}")
        _call_it(ctx)
        call = _Call(lambda tell: door.call(verb, arguments, tell), door.miss)
        await in_thread(call, lambda seconds, text: ctx.session.report_progress(seconds, None, text))
        if call.error:
            return failed(call.error.message, call.error.hint)
        if isinstance(call.result, dict) and "next" in call.result:
            notes = {"notes": [_as_tools(note) for note in call.result["notes"]]} if "notes" in call.result else {}
            call.result = {**call.result, **notes, "next": _as_tools(call.result["next"])}
        text = json.dumps(call.result, ensure_ascii=False, allow_nan=False)
        structured = call.result if isinstance(call.result, dict) else {"result": call.result}
        return types.CallToolResult(content=[types.TextContent(text=text)], structured_content=structured)

    def failed(message: str, hint: str) -> types.CallToolResult:
        text = message + (f"\n\nhint: {_as_tools(hint)}" if hint else "")
        return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)

    async def text_of(work: Callable[[], str]) -> str:
        call = _Call(lambda tell: work())
        await in_thread(call)
        if call.error:
            hint = f"; {call.error.hint}" if call.error.hint else ""
            raise MCPError(types.INTERNAL_ERROR, call.error.message + hint)
        return str(call.result)

    async def list_prompts(ctx: ServerRequestContext, params: Any) -> types.ListPromptsResult:
        about = "What to improve, how it is measured and decided, and where to work"
        return types.ListPromptsResult(prompts=[types.Prompt(name="program", description=about)])

    async def get_prompt(ctx: ServerRequestContext, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        if params.name != "program":
            raise MCPError(types.INVALID_PARAMS, f"there is no prompt {params.name!r}; known: program")
        text = types.TextContent(text=await text_of(door.prompt))
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=text)])

    async def list_resources(ctx: ServerRequestContext, params: Any) -> types.ListResourcesResult:
        about = "What to improve, what may be changed, how it is measured and decided"
        resource = types.Resource(uri=PROGRAM_URI, name=PROGRAM_NAME, description=about, mime_type="text/markdown")
        return types.ListResourcesResult(resources=[resource])

    async def read_resource(
        ctx: ServerRequestContext, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        if str(params.uri) != PROGRAM_URI:
            raise MCPError(types.INVALID_PARAMS, f"there is no resource {params.uri}; known: {PROGRAM_URI}")
        text = await text_of(door.program)
        contents = types.TextResourceContents(uri=PROGRAM_URI, mime_type="text/markdown", text=text)
        return types.ReadResourceResult(contents=[contents])

    return Server(
        "ark",
        version=__version__,
        instructions=f"Measured experiments, kept only when they are better. Call `{STATUS.tool}` first: it says where "
        f"the desk is, a throwaway copy of the project. Read {PROGRAM_NAME} there, change the mutable files there and "
        f"nowhere else, then call `{TRY.tool}` with a title and a reason. When a call is cut off, `{WAIT.tool}` gets "
        "the verdict. Go on until an answer says that the run is over.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_list_resources=list_resources,
        on_read_resource=read_resource,
    )


def _call_it(ctx: ServerRequestContext) -> None:
    """What the ledger calls this client: by the name that it gave, unless the user has said another."""
    client = ctx.session.client_params
    name = clean_line(client.client_info.name, 40) if client else ""
    if name:
        os.environ.setdefault(AGENT_VARIABLE, name)


def schema(verb: Verb) -> dict[str, Any]:
    """The arguments of a verb, as JSON Schema."""
    return {
        "type": "object",
        "properties": {parameter.name: _property(parameter) for parameter in verb.parameters},
        "required": [parameter.name for parameter in verb.parameters if parameter.required],
        "additionalProperties": False,
    }


def _property(parameter: Parameter) -> dict[str, Any]:
    more: dict[str, dict[str, Any]] = {
        "array": {"items": {"type": "string"}},
        "integer": {"minimum": 1},
        "number": {"minimum": 0},
    }
    return {"type": parameter.type, **more.get(parameter.type, {}), "description": parameter.description}


def _plain(verb: Verb, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a client meant: null is nothing, and the number of an attempt may come as a number."""
    texts = {parameter.name for parameter in verb.parameters if parameter.type == "string"}
    return {
        name: str(value) if name in texts and type(value) is int else value
        for name, value in arguments.items()
        if value is not None
    }
