"""The socket of a run: it takes orders for the one who measures, one at a time, and tells others how it goes on.

One JSON object a line, in both directions. A client sends one request; it gets `{"accepted": true}` when an order of
its was taken, then `{"event": ...}` as things happen, and at last a `{"result": ...}` or an `{"error": ...}`. Threads
speak with the clients; the one who measures only ever takes an order and leaves an answer, so that no client, slow,
mad or dead, can hold it up. Each answer is kept until somebody has heard it (`unread.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.records import clean_line
from autoresearch_kit.lab.cache import cache_root, make_private
from autoresearch_kit.lab.measure import Phase
from autoresearch_kit.ratchet import Event, Judged, Sampling
from autoresearch_kit.serve import unread

MAX_PATH_BYTES = 100
"""Of a socket: Linux takes 107, macOS 103."""
MAX_REQUEST_BYTES = 256 * 2**10
REQUEST_SECONDS = 2.0
"""How long a client may take to say what it wants: less than others wait for its place (`client.REACH_SECONDS`)."""
SEND_SECONDS = 10.0
"""How long a client may take to read a line."""
MAX_CLIENTS = 32
GLANCE_SECONDS = 0.5
"""How often a silent conversation looks whether its client is still there."""
STOPPED = ArkError("stopped before anything was measured", "what you changed is still on the desk: ark try")
Message = dict[str, Any]


def address(cache: Path) -> Path:
    """Where the socket of a run is, by its cache folder: below the cache when that is short enough, else in /tmp."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(cache))).hexdigest()[:12] + ".sock"
    path = Path(os.path.realpath(cache_root()), "s", name)
    # Not $TMPDIR, which an agent may have set to something else.
    return path if len(os.fsencode(path)) <= MAX_PATH_BYTES else Path(f"/tmp/ark-{os.getuid()}", name)


def check_private(folder: Path) -> None:
    """ArkError unless `folder` is a real one that only this user can enter."""
    state = os.lstat(folder)
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or stat.S_IMODE(state.st_mode) & 0o077:
        hint = "remove it, or set XDG_CACHE_HOME to a shorter path"
        raise ArkError(f"{folder} is not a private folder of yours", hint)


def event_data(event: Event) -> Message:
    """What happens while an attempt is measured, as plain data."""
    if isinstance(event, Phase):
        return {"event": "phase", "name": event.name, "limit_seconds": event.limit_seconds}
    if isinstance(event, Sampling):
        return {"event": "sample", "done": event.done, "of_head": event.of_head}
    if isinstance(event, Judged):
        attempt = event.attempt
        reason = attempt.verdict.reason if attempt.verdict else ""
        return {"event": "judged", "number": attempt.number, "outcome": str(attempt.outcome), "reason": reason}
    return {"event": "note", "text": event.text}


@dataclass
class Order:
    """A change to be measured."""

    request: Message
    """What the client said."""
    token: str
    """By which it can be cancelled."""
    taken: bool = False
    """Whether it is being worked on."""
    cancelled: bool = False
    """Whether it should be dropped, or stopped when it is being measured."""
    listeners: list[queue.Queue[Message]] = field(default_factory=list)


class Server:
    """Listens until it is closed. `take`, `tell` and `answer` are for the thread that measures."""

    def __init__(self, cache: Path, cancel: Callable[[], None], stays: bool = False) -> None:
        """For the run whose cache folder this is, and whose lock the caller holds; `cancel` interrupts the caller.

        One that `stays` is not sent away by others who want the run.
        """
        self._cache = cache
        self._cancel = cancel
        self._stays = stays
        self._changed = threading.Condition()
        self._order: Order | None = None
        self._number: int | None = None
        self._leave = self._closed = False
        self._clients = 0
        self._path = address(cache)
        try:
            make_private(self._path.parent)
            check_private(self._path.parent)
            self._path.unlink(missing_ok=True)  # whoever left it held the lock, which is ours now
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.bind(str(self._path))
            self._socket.listen(MAX_CLIENTS)
        except OSError as error:
            raise ArkError(
                f"{self._path} cannot be used: {error.strerror or error}", "look at it and remove it"
            ) from None
        threading.Thread(target=self._accept, daemon=True).start()

    # For the thread that measures

    def take(self, seconds: float) -> Order | None:
        """The next order; None when none comes in time, or when somebody wants the run and there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._order or self._leave, seconds)
            if self._order is not None:
                self._order.taken = True
            return self._order

    def tell(self, event: Event) -> None:
        """Let everybody who listens know."""
        self._send({"event": event_data(event)})

    def begun(self, number: int | None, entry: Mapping[str, Any]) -> None:
        """Attempt `number` is being measured, or with None what comes before; `entry` is for those who do not wait."""
        with self._changed:
            self._number = number
        self._send({"begun": dict(entry)})

    def answer(self, result: Mapping[str, Any]) -> None:
        """The order is done with."""
        self._end({"result": dict(result)})

    def fail(self, error: ArkError) -> None:
        """The order cannot be done."""
        self._end({"error": error.message, "hint": error.hint, "exit_code": error.exit_code})

    def close(self) -> None:
        """Hear nobody any more. While the lock is still held: another server may then take the path."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        ends = time.monotonic() + 1  # last words
        while self._clients and time.monotonic() < ends:
            time.sleep(0.01)

    def _end(self, message: Message) -> None:
        with self._changed:
            order, number = self._order, self._number
            self._order = self._number = None
            if order is None:
                return
            message["token"] = order.token
            if "result" in message:  # of an attempt that was measured before, in place of nothing new
                number = message["result"].get("number")
            with contextlib.suppress(ArkError):  # a full disk: those who listen hear it nevertheless
                unread.keep(self._cache, message, number)
            for listener in order.listeners:
                listener.put(message)

    def _send(self, message: Message) -> None:
        with self._changed:
            for listener in self._order.listeners if self._order else ():
                listener.put(message)

    # For the threads that speak with clients

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.1)  # such as too many open files
                continue
            with self._changed:
                welcome = self._clients < MAX_CLIENTS and not self._closed
                self._clients += welcome
            if welcome:
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()
            else:
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                request = read_line(connection, REQUEST_SECONDS, MAX_REQUEST_BYTES)
                connection.settimeout(SEND_SECONDS)
                if request is None:
                    say(connection, {"error": "this is no request of ark's", "hint": "", "exit_code": 2})
                else:
                    self._converse(connection, request)
        finally:
            with self._changed:
                self._clients -= 1

    def _converse(self, connection: socket.socket, request: Message) -> None:
        verb, token = request.get("verb"), str(request.get("token", ""))
        if verb in ("try", "wait"):
            listener: queue.Queue[Message] = queue.Queue()
            with self._changed:
                if self._closed:
                    return  # the client looks for the next one
                order = self._order
                state = {"busy": order is not None, "number": self._number, "driven": self._stays}
                if verb == "try" and order is None:
                    order = self._order = Order(request, token)
                    order.listeners.append(listener)
                    self._changed.notify_all()
                elif verb == "wait" and order is not None:
                    order.listeners.append(listener)
                else:
                    order = None
            if order is None:
                say(connection, state)
            else:
                say(connection, {"accepted": True})
                self._relay(connection, listener, request)
        elif verb == "cancel":
            self._stop(token)
        elif verb == "leave" and not self._stays:
            with self._changed:
                self._leave = True
                os.dup(connection.fileno())  # the client waits for the end of this process: then the run is free
                self._changed.notify_all()
        elif verb != "leave":
            say(connection, {"error": f"there is no verb `{clean_line(str(verb), 40)}`", "hint": "", "exit_code": 2})

    def _relay(self, connection: socket.socket, listener: queue.Queue[Message], request: Message) -> None:
        """Pass on what happens until it ends, or the client has heard enough."""
        seconds = request.get("timeout_seconds")
        ends = time.monotonic() + seconds if isinstance(seconds, int | float) else float("inf")
        while True:
            try:
                message = listener.get(timeout=max(0.0, min(GLANCE_SECONDS, ends - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= ends:
                    say(connection, {"running": True, "number": self._number})
                    return
                if _has_gone(connection):
                    return
                continue
            say(connection, message)
            if "event" not in message and ("begun" not in message or request.get("detach") is True):
                return

    def _stop(self, token: str) -> None:
        with self._changed:
            order = self._order
            if order is None or not token or order.token != token:
                return
            order.cancelled = True
            if order.taken:
                self._cancel()
                return
        self.fail(STOPPED)


def read_line(connection: socket.socket, seconds: float | None, limit: int, rest: bytearray | None = None) -> Any:
    """The next line as an object; None when it ends before, takes too long, or is none. `rest` keeps what follows."""
    inbox = bytearray() if rest is None else rest
    ends = None if seconds is None else time.monotonic() + seconds
    while b"\n" not in inbox:
        left = None if ends is None else ends - time.monotonic()
        if len(inbox) > limit or (left is not None and left <= 0):
            return None
        connection.settimeout(left)
        try:
            data = connection.recv(65536)
        except TimeoutError:
            return None
        if not data:
            return None
        inbox += data
    line, _, after = inbox.partition(b"\n")
    inbox[:] = after
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def say(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """One line."""
    connection.sendall(json.dumps(message).encode() + b"\n")


def _has_gone(connection: socket.socket) -> bool:
    try:
        return bool(select.select([connection], [], [], 0)[0]) and connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True
