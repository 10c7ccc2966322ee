"""Run a command, measure it, and leave nothing behind.

`Supervisor.run` promises: it returns a `Finished` for whatever the command does; the time limit holds; when it
returns, or when this process ends in any way, kill -9 included, no process of the command is left. The work is done by
the guardian, a helper program: see `guardian.py` for how, and for what is not promised, above all outside Linux. Where
no helper can be started, for want of memory or processes, the command is `not_started`.

One command at a time. Starting the guardian takes as long as starting Python; a command after that, one or two
milliseconds. Nothing here changes this process: no signal handlers, no threads, and orphans of other children stay
where they went.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from autoresearch_kit.lab.family import KILL_SECONDS
from autoresearch_kit.lab.guardian import CANCEL_GRACE_SECONDS, GRACE_SECONDS

NO_GUARDIAN = "the process that watches the command could not be started"
MARGIN_SECONDS = 20.0  # how late a healthy guardian on a thrashing machine may answer
ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; sys.path += sys.argv[1:3]; from autoresearch_kit.lab.guardian import main; main()"


@dataclass(frozen=True, slots=True)
class Command:
    command: str
    """A line for `/bin/sh -c`."""
    cwd: Path
    """The folder it starts in."""
    env: Mapping[str, str]
    """Its whole environment: nothing is inherited."""
    log: Path
    """Gets stdout and stderr; at most 64 MB, the tail is kept."""
    timeout_seconds: float
    """Then TERM for every descendant, five seconds, KILL."""
    stdin: Path | None = None
    """A file for standard input; else there is none."""
    watch: Path | None = None
    """A file the command writes itself, in `cwd`; above 64 MB the command is ended and the file cut to its tail."""
    memory_mb: float | None = None
    """Limit for the whole tree, by samples each tenth of a second."""


@dataclass(frozen=True, slots=True)
class Finished:
    exit_code: int | None
    """None when it ended by a signal or could not be started."""
    signal: str
    """Such as SIGSEGV; also when a shell reports one as exit code 128 + n."""
    problem: str
    """Empty when good, else timeout, exit, signal, out_of_memory, log_flood, disk_full, cancelled,
    supervisor_killed or not_started."""
    detail: str
    """One sentence for a person."""
    wall_seconds: float
    """From the start to the end of the command itself."""
    cpu_seconds: float
    """User and system time of the whole tree."""
    peak_memory_mb: float
    """Of the whole tree; memory that workers share counts once."""
    output_lost: bool = False
    """Whether the disk was so full that the log lacks a part."""


class Supervisor:
    """Runs commands one after another; for several at a time, have several. A context manager."""

    _portable = False  # for tests: do without what only Linux has

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._sending = threading.RLock()
        self._cancel_wanted = False
        self._deadline = 0.0
        self._number = 0
        self._active = False
        self._inbox = b""
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):  # `run` tries again, and says why not
            self._start()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the guardian, and with it whatever it still runs."""
        self.cancel()
        with self._turn:
            self._bury()

    def run(self, command: Command) -> Finished:
        """Run to the end. An exception that arrives meanwhile (Ctrl-C) first ends the command; a second one at once."""
        with self._turn:
            begin = time.monotonic()
            self._cancel_wanted = False
            try:
                answer = self._ask(command)
            except BaseException:
                self._end_early()
                raise
            finally:
                self._active = False
            exit_code = 0
            if answer is None or "bug" in answer or answer.get("survivors"):
                exit_code = self._bury()  # the next command gets a new one
            if answer is None:
                problem, detail = "supervisor_killed", "the process that watched the command was killed or stopped"
                if exit_code > 0:
                    problem, detail = "not_started", f"{NO_GUARDIAN}: it ended with exit code {exit_code}"
                return Finished(None, "", problem, detail, time.monotonic() - begin, 0.0, 0.0)
            if "bug" in answer:
                raise RuntimeError(f"the guardian failed\n{answer['bug']}")
            return Finished(
                answer["exit_code"], answer["signal"], answer["problem"], answer["detail"],
                answer["wall"], answer["cpu"], answer["peak"], answer.get("lost", False),
            )  # fmt: skip

    def cancel(self) -> None:
        """From another thread: end the running command, if there is one, as `cancelled`."""
        self._cancel_wanted = True
        with self._sending:
            if self._active and self._channel is not None:
                seconds = CANCEL_GRACE_SECONDS + KILL_SECONDS + MARGIN_SECONDS
                self._deadline = min(self._deadline, time.monotonic() + seconds)
                with contextlib.suppress(OSError):  # the guardian is dead: `run` sees it too
                    self._channel.sendall(json.dumps({"cancel": self._number}).encode() + b"\n")

    def _ask(self, command: Command) -> dict[str, Any] | None:
        """The guardian's answer, or None when it was killed or stopped."""
        if self._process is None:
            try:
                self._start()
            except OSError as error:
                detail = f"{NO_GUARDIAN}: {error}"
                nothing = {"exit_code": None, "signal": "", "wall": 0.0, "cpu": 0.0, "peak": 0.0}
                return {"problem": "not_started", "detail": detail, **nothing}
        seconds = command.timeout_seconds + GRACE_SECONDS + KILL_SECONDS + MARGIN_SECONDS
        self._deadline = time.monotonic() + seconds
        self._number += 1
        order = {
            "id": self._number,
            "command": command.command,
            "cwd": str(command.cwd.absolute()),  # the guardian sits in the root folder
            "env": dict(command.env),
            "log": str(command.log.absolute()),
            "timeout": command.timeout_seconds,
            "stdin": str(command.stdin.absolute()) if command.stdin else None,
            "watch": str(Path(command.cwd, command.watch).absolute()) if command.watch else None,
            "memory_mb": command.memory_mb,
        }
        assert self._channel is not None
        try:
            with self._sending:
                self._channel.sendall(json.dumps(order).encode() + b"\n")
                self._active = True
            if self._cancel_wanted:
                self.cancel()
            return self._answer()
        except ConnectionError:
            return None

    def _answer(self) -> dict[str, Any] | None:
        assert self._channel is not None
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while b"\n" not in self._inbox:
            left = self._deadline - time.monotonic()
            if left < 0:
                return None
            if poll.poll(min(left, 1.0) * 1000):  # `cancel` moves the deadline: look once a second
                data = self._channel.recv(65536)
                if not data:
                    return None
                self._inbox += data
        line, _, self._inbox = self._inbox.partition(b"\n")
        self._active = False
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end_early(self) -> None:
        """Cancel and wait; if that fails or is not possible, end the guardian, which ends everything at once."""
        clean = False
        try:
            if self._active:
                self.cancel()
                clean = self._answer() is not None and not self._inbox
        finally:
            if not clean:
                self._bury()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        site = Path(psutil.__file__).parent.parent
        arguments = [sys.executable, "-ISB", "-X", "utf8", "-c", PROGRAM, str(ROOT), str(site), uuid.uuid4().hex]
        # A command can read the environment of its parent, so the guardian has none of ours but what starts Python.
        env = {x: y for x, y in os.environ.items() if x.startswith(("LD_", "DYLD_", "LC_", "LANG"))}
        try:
            with theirs:
                self._process = subprocess.Popen(
                    arguments + ["--portable"] * self._portable,
                    stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    cwd="/", env=env, start_new_session=True,
                )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        self._channel, self._inbox = ours, b""

    def _bury(self) -> int:
        """End the guardian, which ends its command. Its exit code: above 0 when it has never begun to serve."""
        process, channel = self._process, self._channel
        if process is None or channel is None:
            return 0
        self._process = self._channel = None
        channel.close()
        for insist in (process.terminate, process.kill, process.kill):
            try:
                return process.wait(KILL_SECONDS + 2)
            except subprocess.TimeoutExpired:
                insist()
        return 0


_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # also what turns text around


def tail(path: Path, max_bytes: int = 65536, max_lines: int = 50, max_columns: int = 500) -> str:
    """The last lines of a log as plain text, or "" when it is no regular file."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        state = os.fstat(file)
        if not stat.S_ISREG(state.st_mode):
            return ""
        start = max(0, state.st_size - max_bytes)
        data = os.pread(file, max_bytes, start)
    finally:
        os.close(file)
    if start:
        data = data[data.find(b"\n") + 1 :]
    lines = []
    for line in _ESCAPES.sub("", data.decode(errors="replace")).rstrip().split("\n")[-max_lines:]:
        shown = _CONTROLS.sub("", line.rstrip("\r").rpartition("\r")[2])  # a progress bar: its last state
        lines.append(shown if len(shown) <= max_columns else shown[:max_columns] + " ...")
    return "\n".join(lines)
