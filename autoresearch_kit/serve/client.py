"""Whoever calls `ark try`: it asks the process that measures, and starts one when there is none.

It may be killed at any time: what it asked for goes on, and `ark wait` fetches what came of it.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.lab.cache import LOGS, make_private, write_anew
from autoresearch_kit.lab.ticket import desk_cache
from autoresearch_kit.serve import unread
from autoresearch_kit.serve.answers import plain, received, running, unmeasured
from autoresearch_kit.serve.place import Place
from autoresearch_kit.serve.server import Message, address, check_private, read_line, say

HOST_LOG = "host.log"
"""Among the logs: what the process that measures had to say."""
REACH_SECONDS = 4.0
"""How long to look for a process that holds the run and is about to listen, or about to end."""
CANCEL_SECONDS = 60.0
"""How long a measurement may take to end when it is stopped."""
MAX_ANSWER_BYTES = 64 * 2**20
Tell = Callable[[Mapping[str, Any]], None]

_started: list[subprocess.Popen[bytes]] = []
"""Hosts outlive us; a handle that is dropped would complain about it."""


def measure(place: Place, order: Mapping[str, Any], tell: Tell) -> Message:
    """Have what lies on the desk measured, or what else the order says, and return what came of it.

    Ctrl-C stops the measurement; any other end of this process does not.
    """
    cache = _cache(place)
    token = secrets.token_hex(8)
    request = {"verb": "try", "token": token, **order}
    try:
        return _ask(place, cache, request, tell)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(ArkError, OSError):
            if stopped := _cancel(cache, token):
                tell({"event": "note", "text": stopped})
        raise


def wait(place: Place, seconds: float | None, tell: Tell) -> Message:
    """What comes of the attempt that is being measured, or what became of the last one if nobody has seen it."""
    cache = _cache(place)
    if seconds is not None and not 0 <= seconds < float("inf"):
        raise UsageError("the time to wait must be a number of seconds, 0 or more")
    connection = _connect(cache)
    if connection is not None:
        with connection:
            say(connection, {"verb": "wait", "timeout_seconds": seconds})
            found = _listen(connection, cache, tell)
        if found is not None and "busy" not in found:
            return found
    if kept := unread.unread(cache):
        return _unpacked(kept[-1], cache, unread.is_outdated(cache, kept[-1]))
    raise ArkError(
        "nothing is being measured, and no verdict waits to be fetched",
        "ark try measures what you changed; ark log shows what was measured before",
    )


def dismiss(cache: Path) -> None:
    """Ask the process that measures for a desk to end now, if it has nothing to do, and wait until it has."""
    with contextlib.suppress(OSError):
        if connection := _connect(cache):
            with connection:
                say(connection, {"verb": "leave"})
                read_line(connection, 5, MAX_ANSWER_BYTES)


def is_idle(cache: Path) -> bool:
    """Whether a process holds the run only in case somebody asks it for something soon."""
    connection = _connect(cache)
    if connection is None:
        return False
    with connection, contextlib.suppress(OSError):
        say(connection, {"verb": "wait", "timeout_seconds": 0})
        said = read_line(connection, 10, MAX_ANSWER_BYTES) or {}
        return said.get("busy") is False and not said.get("driven")
    return False


def at_work(cache: Path) -> str:
    """What a process does that serves this desk just now; empty when there is none."""
    connection = _connect(cache)
    if connection is None:
        return ""
    rest = bytearray()
    with connection, contextlib.suppress(OSError):
        say(connection, {"verb": "wait", "timeout_seconds": 0})
        while (said := read_line(connection, 10, MAX_ANSWER_BYTES, rest)) is not None:
            if said.get("running"):
                return "an attempt" if said["number"] is None else f"attempt {said['number']}"
            if "busy" in said:
                return "nothing yet; it waits for an agent"
    return ""


def _cache(place: Place) -> Path:
    if place.cache is None:
        raise UsageError(f"{place.where} is no desk", 'lay one and go there: cd "$(ark desk)"')
    return place.cache


def _ask(place: Place, cache: Path, request: Message, tell: Tell) -> Message:
    """Send the order to whoever measures, and listen. An order that was not accepted is sent again."""
    ends = time.monotonic() + REACH_SECONDS
    pause = 0.05
    while True:
        problem = None
        connection = _connect(cache)
        if connection is None:
            problem = _start(place, cache)
            connection = _connect(cache)
        if connection is not None:
            with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                say(connection, request)
                if (found := _listen(connection, cache, tell, bool(request["detach"]))) is not None:
                    return found if "busy" not in found else _busy(found["number"])
        if problem is not None and (not problem[1] or time.monotonic() > ends):
            raise problem[0]
        if time.monotonic() > ends:
            raise ArkError("the process that measures does not answer", "end what else asks it, and try again")
        time.sleep(pause)
        pause = min(1.0, pause * 2)


def _busy(number: int | None) -> Message:
    what = "an attempt" if number is None else f"attempt {number}"
    return unmeasured("busy", f"Busy: {what} is being measured, one at a time", "wait for it: ark wait")


def _listen(connection: socket.socket, cache: Path, tell: Tell, detach: bool = False) -> Message | None:
    """Hear it out, or with `detach` only how it begins; None when it was never accepted.

    ArkError for an error, and when the process that measures was killed.
    """
    accepted, rest = False, bytearray()
    while (said := read_line(connection, None, MAX_ANSWER_BYTES, rest)) is not None:
        if "event" in said:
            tell(plain(said["event"]))
        elif "busy" in said:
            return dict(said)
        elif "running" in said:
            return running(said["number"], "the time is up; the measurement goes on: ark wait")
        elif "begun" in said:
            tell({"event": "begun", "number": said["begun"]["number"]})
            if detach:
                return dict(said["begun"])
        elif "accepted" in said:
            accepted = True
        elif answer := received(said):
            return _unpacked(answer, cache)
        else:
            raise ArkError("what answers is not ark's", f"remove {address(cache)}")
    if accepted:
        raise ArkError(
            "the process that measures was killed, or the machine has run out of something",
            "ark try goes on: it repairs the run first and says what came of this attempt",
        )
    return None


def keep(result: Mapping[str, Any]) -> None:
    """Let somebody else fetch the answer to an order, which has arrived where nobody wants it any more."""
    if cache := desk_cache(Path(result["desk"])):
        unread.keep(cache, {"result": dict(result), "token": secrets.token_hex(8)}, result["number"])


def _unpacked(message: Mapping[str, Any], cache: Path, is_outdated: bool = False) -> Message:
    """An answer that has arrived, which nobody needs to fetch any more."""
    unread.forget(cache, message.get("token"))
    if "error" in message:
        error = ArkError(message["error"], message["hint"])
        error.exit_code = message["exit_code"]
        raise error
    result = dict(message["result"])
    if is_outdated:
        result["next"] = unread.LAID_SINCE
    others = [other["result"]["number"] for other in unread.unread(cache) if "result" in other]
    if numbers := ", ".join(str(number) for number in others if number is not None):
        result["notes"] = [*result["notes"], f"nobody has seen the verdict of attempt {numbers} yet: ark wait"]
    return result


def _connect(cache: Path) -> socket.socket | None:
    """A connection to whoever measures for this desk; None when nobody does."""
    path = address(cache)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        check_private(path.parent)
        connection.connect(str(path))
    except (OSError, ArkError):  # where others can enter none of ours listens; who would, says why he does not
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def _start(place: Place, cache: Path) -> tuple[ArkError, bool] | None:
    """Start a process that measures; None when it listens, else what is wrong and whether the run is held."""
    _started[:] = [process for process in _started if process.poll() is None]
    make_private(cache / LOGS)
    log = cache / LOGS / HOST_LOG
    write_anew(log, b"")
    assert place.tag is not None
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "autoresearch_kit.serve.host", str(place.where), place.tag],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            start_new_session=True,  # what ends us must not end it
        )
    _started.append(process)
    assert process.stdout is not None
    with process.stdout:
        line = process.stdout.readline()
    try:
        said = json.loads(line)
    except ValueError:
        return ArkError("the process that measures could not be started", f"its log is {log}"), False
    if "error" not in said:
        return None
    error = ArkError(said["error"], said["hint"])
    error.exit_code = said["exit_code"]
    return error, said["held"]


def _cancel(cache: Path, token: str) -> str:
    """Stop the measurement of that order, and say what came of it."""
    connection = _connect(cache)
    if connection is None:
        return ""
    with connection:
        say(connection, {"verb": "wait"})
        with _connect(cache) or contextlib.nullcontext() as other:
            if other is not None:
                say(other, {"verb": "cancel", "token": token})
        rest, ends = bytearray(), time.monotonic() + CANCEL_SECONDS
        while (said := read_line(connection, max(0.0, ends - time.monotonic()), MAX_ANSWER_BYTES, rest)) is not None:
            if answer := received(said):
                with contextlib.suppress(ArkError):
                    found = _unpacked(answer, cache)
                    return f"{found['reason']}; {found['next']}"
                return str(answer["error"])
            if "busy" in said:
                return ""
    return ""
