"""Runs a program with limits on its time and on what it says, and leaves none of its processes behind."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LIMIT_OUTPUT = 16 << 20  # bytes of each stream that are looked at
LIMIT_LINE = 4096
LAST_LINES = 40  # that are kept
GRACE_SECONDS = 3.0  # between asking a program to end and ending it


@dataclass
class Stream:
    """Cuts bytes into lines and hands them on; only the last lines are kept."""

    take: Callable[[str], None]
    last: list[str] = field(default_factory=list)
    rest: bytes = b""
    size: int = 0

    def add(self, data: bytes) -> None:
        """More bytes; none: the end."""
        self.size += len(data)
        if self.size > LIMIT_OUTPUT:
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        if len(self.rest) > LIMIT_LINE or (not data and self.rest):
            lines.append(self.rest)
            self.rest = b""
        for line in lines:
            text = line[:LIMIT_LINE].decode("utf-8", "replace")
            self.last = [*self.last[1 - LAST_LINES :], text]
            self.take(text)


@dataclass(frozen=True)
class Ended:
    """How it ended: its status (below 0: by that signal), None after the time limit, and its last words."""

    status: int | None
    last: list[str]
    last_errors: list[str]


def run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    limit_seconds: float,
    take: Callable[[str], None] = lambda line: None,
    take_error: Callable[[str], None] = lambda line: None,
    inherited: Sequence[int] = (),
) -> Ended:
    """Runs the command in the folder, in a session of its own, without input.

    Each line of its output goes to `take` and of its errors to `take_error`, as they come. Whatever happens here, also
    KeyboardInterrupt, ends the whole group first. `inherited` are descriptors that stay open in it.
    """
    output, errors = Stream(take), Stream(take_error)
    deadline = time.monotonic() + limit_seconds
    process = None
    try:
        with _held(signal.SIGINT, signal.SIGTERM):
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=inherited,
                start_new_session=True,
            )
        assert process.stdout and process.stderr
        _read({process.stdout.fileno(): output, process.stderr.fileno(): errors}, deadline)
        status: int | None = process.wait(max(0.0, deadline - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        status = None
    finally:
        if process is not None:
            if process.returncode is None:
                _end(process)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
    return Ended(status, output.last, errors.last)


@contextlib.contextmanager
def _held(*numbers: int) -> Iterator[None]:
    """Signals wait for the end: an exception within Popen would leave a process that nobody knows."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in came:
        signal.raise_signal(number)


def _read(streams: dict[int, Stream], deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        for descriptor in streams:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:  # also of a program that says something all the time
                raise TimeoutError
            ready = selector.select(left)
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                streams[key.fd].add(data)
                if not data:
                    selector.unregister(key.fd)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the whole group to end, and then ends what is left of it."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(GRACE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        pass
    finally:
        with contextlib.suppress(OSError):  # nothing is left; macOS answers so for one that was not waited for, too
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
