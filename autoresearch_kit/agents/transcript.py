"""What an agent's program says about its turn: session, last message, cost, denied tool calls, errors.

One function for each format, named after its program; each takes the lines of a log and returns a `Transcript`.
It promises never to raise, whatever the bytes: the log is the agent's, who may write garbage, megabytes, deep nesting,
huge numbers. It does not promise the truth: what stands here decides how long to wait and what to tell a person, never
what is measured.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_kit.core.records import clean_line

MAX_LINE_BYTES = 8 * 2**20
"""A longer line is passed over; it holds the output of a tool, not a record that matters here."""
MAX_LINES = 500_000
"""A log of more lines than that is noise, and only its last two megabytes are read."""
MAX_NUMBER = 1e12
"""More tokens or money than this were not spent in one turn."""
MAX_TEXT = 20_000
MAX_ITEMS = 20
"""So many errors and denied calls are remembered, the last ones and the first ones."""

Event = Mapping[str, Any]
Read = Callable[[Iterable[bytes]], "Transcript"]
Take = Callable[["Transcript", Event], None]

_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")


@dataclass(slots=True)
class Transcript:
    """What was read so far; None and empty are unknown."""

    session: str = ""
    """The id by which the program can take the conversation up again."""
    message: str = ""
    """The last thing that the agent said."""
    tokens: int | None = None
    """In and out, cached ones too."""
    money: float | None = None
    """In US dollars."""
    resets: float | None = None
    """When a rate limit ends, in seconds since 1970, where the program says so in a field."""
    denied: list[str] = field(default_factory=list)
    """Tool calls that were not allowed."""
    errors: list[str] = field(default_factory=list)
    """What the program itself reports as gone wrong, in order."""
    seen: dict[str, Any] = field(default_factory=dict)
    """Notes of a reader to itself."""

    def is_session(self, value: object) -> None:
        """Note the id of the session, if it is one."""
        if isinstance(value, str) and _SESSION.fullmatch(value):
            self.session = value

    def says(self, value: object) -> None:
        """Note what the agent said, if it said anything."""
        if text := as_text(value).strip():
            self.message = text

    def fails(self, *values: object) -> None:
        """Note an error, by the first of the values that says anything."""
        if text := next((text for value in values if (text := clean_line(as_text(value), 1000))), ""):
            self.errors.append(text)
            del self.errors[:-MAX_ITEMS]

    def denies(self, tool: object, call: object = "") -> None:
        """Note a tool call that was not allowed."""
        name, what = clean_line(as_text(tool), 60) or "a tool", clean_line(as_text(call), 80)
        text = f"{name}({what})" if what else name
        if text not in self.denied and len(self.denied) < MAX_ITEMS:
            self.denied.append(text)

    def uses(self, *tokens: object, money: object = None) -> None:
        """Add up what a part of the turn has used."""
        counts = [count for value in tokens if (count := as_number(value)) is not None]
        if counts:
            self.tokens = int(min(MAX_NUMBER, (self.tokens or 0) + sum(counts)))
        if (cost := as_number(money)) is not None:
            self.money = min(MAX_NUMBER, (self.money or 0.0) + cost)


def as_text(value: object) -> str:
    """A string that can be stored, empty when `value` is none."""
    return value[:MAX_TEXT].encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def as_number(value: object) -> float | None:
    """A plausible amount, None for anything else: NaN, infinity, negative, absurd."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= MAX_NUMBER and math.isfinite(value) else None


def at(event: object, *keys: str) -> Any:
    """What lies at this path of keys, None when there is no such place."""
    for key in keys:
        event = event.get(key) if isinstance(event, Mapping) else None
    return event


def items(value: object) -> list[Any]:
    """A list, empty when `value` is none."""
    return value if isinstance(value, list) else []


def lines_of(log: Path) -> Iterator[bytes]:
    """The lines of a log, without the overlong ones; none when it is no regular file."""
    try:
        file = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        return
    with os.fdopen(file, "rb") as stream:
        count = sum(piece.count(b"\n") for piece in iter(lambda: stream.read(2**20), b""))
        start = max(0, stream.tell() - 2**21) if count > MAX_LINES else 0
        stream.seek(start)
        whole = start == 0
        while line := stream.readline(MAX_LINE_BYTES):
            if whole and (line.endswith(b"\n") or len(line) < MAX_LINE_BYTES):
                yield line
            whole = line.endswith(b"\n")


def events_of(lines: Iterable[bytes]) -> Iterator[Event]:
    """Those of the lines that are a JSON object with a type."""
    for line in lines:
        line = line.strip()
        if not line.startswith(b"{") or b'"type"' not in line:
            continue
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("type"), str):
            yield event


def reader(take: Take) -> Read:
    """A reader of JSON lines from what is to be done with each event."""

    def read(lines: Iterable[bytes]) -> Transcript:
        found = Transcript()
        for event in events_of(lines):
            take(found, event)
        return found

    return read


def _claude(found: Transcript, event: Event) -> None:
    kind = event["type"]
    if kind == "system":
        found.is_session(event.get("session_id"))
    elif kind == "rate_limit_event" and at(event, "rate_limit_info", "status") == "rejected":
        found.resets = as_number(at(event, "rate_limit_info", "resetsAt"))
    elif kind == "assistant":  # counts when the turn is cut short, before its result
        calls, name = found.seen, as_text(at(event, "message", "id"))
        before = calls.get(name, 0)
        calls[name] = max(before, _anthropic(at(event, "message", "usage")) or 0)
        found.uses(calls[name] - before or None)
    elif kind == "result":
        found.is_session(event.get("session_id"))
        found.says(event.get("result"))
        models = at(event, "modelUsage")
        fields = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")
        each = models.values() if isinstance(models, Mapping) and models else []
        total = Transcript()
        total.uses(*[at(model, name) for model in each for name in fields])
        tokens = _anthropic(event.get("usage")) if total.tokens is None else total.tokens
        found.tokens = found.tokens if tokens is None else tokens
        found.money = as_number(event.get("total_cost_usd"))
        for denial in items(event.get("permission_denials")):
            found.denies(at(denial, "tool_name"), at(denial, "tool_input", "command"))
        if event.get("is_error") is True or as_text(event.get("subtype")).startswith("error"):
            found.fails(event.get("result"), *items(event.get("errors")), event.get("subtype"), "an error")


def _anthropic(usage: object) -> int | None:
    fields = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    total = Transcript()
    total.uses(*[at(usage, name) for name in fields])
    return total.tokens


def _codex(found: Transcript, event: Event) -> None:
    kind, item = event["type"], event.get("item")
    if kind == "thread.started":
        found.is_session(event.get("thread_id"))
    elif kind == "turn.completed":  # the count goes on from turn to turn; cached ones are among the input
        found.tokens = None
        found.uses(at(event, "usage", "input_tokens"), at(event, "usage", "output_tokens"))
        found.errors.clear()  # it has tried again, and got through
    elif kind == "turn.failed":
        found.fails(at(event, "error", "message"), "the turn failed")
    elif kind == "error":
        found.fails(event.get("message"))
    elif kind == "item.completed":
        if at(item, "type") == "agent_message":
            found.says(at(item, "text"))
        elif at(item, "status") == "declined":
            tool = at(item, "type")
            found.denies("shell" if tool == "command_execution" else tool, at(item, "command"))


_REFUSED = re.compile(
    r"denied|declined|rejected (?:by|permission)|not (?:permitted|allowed)|policy|"
    r"requires? (?:\w+ )?(?:approval|confirm)",
    re.IGNORECASE,
)


def _gemini(found: Transcript, event: Event) -> None:
    kind = event["type"]
    if kind == "init":
        found.is_session(event.get("session_id"))
    elif kind == "message" and event.get("role") == "assistant":
        text = as_text(event.get("content"))
        before = found.message if event.get("delta") is True else ""
        found.message = (before + text)[:MAX_TEXT]
    elif kind == "tool_use":
        found.message = ""  # what it says after its last tool call is the last message
        call = at(event, "parameters", "command") or at(event, "parameters", "file_path")
        found.seen[as_text(event.get("tool_id"))] = (event.get("tool_name"), call)
    elif kind == "tool_result" and event.get("status") == "error":
        why = f"{as_text(at(event, 'error', 'type'))} {as_text(at(event, 'error', 'message'))}"
        if _REFUSED.search(why):
            found.denies(*found.seen.get(as_text(event.get("tool_id")), ("a tool", "")))
    elif kind == "error" and event.get("severity") != "warning":
        found.fails(event.get("message"))
    elif kind == "result":
        found.uses(at(event, "stats", "total_tokens"))
        if event.get("status") == "error":
            found.fails(at(event, "error", "message"), at(event, "error", "type"), "an error")
        else:
            found.errors.clear()


def _opencode(found: Transcript, event: Event) -> None:
    kind, part = event["type"], event.get("part")
    found.is_session(event.get("sessionID"))
    if kind == "text":
        found.says(at(part, "text"))
    elif kind == "step_finish":
        tokens = at(part, "tokens")
        parts = [("input",), ("output",), ("reasoning",), ("cache", "read"), ("cache", "write")]
        found.uses(*[at(tokens, *path) for path in parts], money=at(part, "cost"))
    elif kind == "tool_use" and at(part, "state", "status") == "error":
        if _REFUSED.search(as_text(at(part, "state", "error"))):
            found.denies(at(part, "tool"), at(part, "state", "input", "command"))
    elif kind == "done" and not found.denied:
        for permission in items(event.get("rejected")):
            found.denies(permission)
    elif kind == "error":
        data = at(event, "error", "data")
        after = at(data, "responseHeaders", "retry-after")
        said = as_text(at(data, "message")) or as_text(at(event, "error", "name")) or as_text(event.get("error"))
        found.fails(f"{said} (retry-after: {after})" if isinstance(after, str | int) else said, "an error")


def _copilot(found: Transcript, event: Event) -> None:
    kind, data = event["type"], event.get("data")
    if kind == "assistant.message":
        found.says(at(data, "content"))
    elif kind == "assistant.usage":
        found.uses(at(data, "inputTokens"), at(data, "outputTokens"))
    elif kind == "tool.execution_start":
        found.seen[as_text(at(data, "toolCallId"))] = (at(data, "toolName"), at(data, "arguments", "command"))
    elif kind == "tool.execution_complete" and at(data, "success") is False:
        why = f"{as_text(at(data, 'error', 'code'))} {as_text(at(data, 'error', 'message'))}"
        if _REFUSED.search(why):
            found.denies(*found.seen.get(as_text(at(data, "toolCallId")), ("a tool", "")))
    elif kind == "session.error":
        found.fails(f"{as_text(at(data, 'errorType'))}: {as_text(at(data, 'message'))}")
    elif kind == "result":
        found.is_session(event.get("sessionId"))


def _pi(found: Transcript, event: Event) -> None:
    kind, message = event["type"], event.get("message")
    if kind == "session":
        found.is_session(event.get("id"))
    elif kind == "message_end" and at(message, "role") == "assistant":
        blocks = [at(block, "text") for block in items(at(message, "content")) if at(block, "type") == "text"]
        found.says("\n".join(map(as_text, blocks)))
        usage = at(message, "usage")
        fields = ("input", "output", "cacheRead", "cacheWrite")
        found.uses(*[at(usage, name) for name in fields], money=at(usage, "cost", "total"))
        if at(message, "stopReason") == "error":
            found.fails(at(message, "errorMessage"), "an error")
        else:
            found.errors.clear()
    elif kind == "tool_execution_end" and event.get("isError") is True:
        texts = [as_text(at(block, "text")) for block in items(at(event, "result", "content"))]
        if any("blocked" in text.lower() for text in texts):  # by an extension of the user's
            found.denies(event.get("toolName"))


claude, codex, gemini, opencode = reader(_claude), reader(_codex), reader(_gemini), reader(_opencode)
copilot, pi = reader(_copilot), reader(_pi)

_TOKENS = re.compile(r"Tokens: ([\d.,]+)([kM]?) sent(?:,.*?)?, ([\d.,]+)([kM]?) received")
_COST = re.compile(r"Cost: \$([\d.,]+) message, \$([\d.,]+) session")
_HEADER = re.compile(
    r"Aider v|(?:Main |Weak |Editor )?[Mm]odel: |Git repo|Repo-map|Added |Using |Restored |Note:|Warning|https?://|\W*$"
)
_AIDER_ERROR = re.compile(r"litellm\.\w+|The API provider")


def aider(lines: Iterable[bytes]) -> Transcript:
    """Text: its reply, then a line that counts tokens and money, for each message to the model."""
    found, said, is_edit = Transcript(), "", False
    for data in lines:
        line = data[:2000].decode("utf-8", "replace").rstrip()
        if tokens := _TOKENS.match(line):
            found.uses(_amount(*tokens.group(1, 2)), _amount(*tokens.group(3, 4)))
            if cost := _COST.search(line):
                found.money = as_number(_amount(cost.group(2), ""))
            found.says(said)
            found.errors.clear()
            said, is_edit = "", False
        elif _AIDER_ERROR.match(line):
            found.fails(line)
        elif line.startswith(("<<<<<<<", "```")):
            is_edit = True
        elif not is_edit and (said or not _HEADER.match(line)) and len(said) < MAX_TEXT:
            said += line + "\n"
    return found


def _amount(digits: str, unit: str) -> float | None:
    try:
        return float(digits.replace(",", "")) * {"": 1, "k": 1e3, "M": 1e6}[unit]
    except ValueError:
        return None
