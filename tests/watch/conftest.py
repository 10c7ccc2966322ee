"""The tiny project, a real engine that works on it, and a real terminal to watch it in."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

from tests.engine.conftest import Tiny, _home, _surroundings, _template, tiny  # noqa: F401 - fixtures

PATIENCE = 60.0
"""For what takes a fraction of a second, on a machine that does much else."""
SLOW_RUN = """i=0
while [ $i -lt {steps} ]; do i=$((i+1)); echo "step $i | loss: $((1000 / i)).5 | lr: 0.01"; sleep 0.05; done > run.log
echo 10 > answer.txt
"""
"""An experiment that writes its own log for as long as it is wanted."""


def wait_for(what: Callable[[], object], why: str = "") -> None:
    """Until `what` is true; the test fails when it never is."""
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, why or "it never happened"
        time.sleep(0.02)


class Terminal:
    """A command in a terminal, and what its screen shows."""

    def __init__(self, words: list[str], folder: Path, columns: int = 80, lines: int = 24, **env: str) -> None:
        self.screen = pyte.Screen(columns, lines)
        self.raw = bytearray()
        self._stream = pyte.ByteStream(self.screen)
        self.status: int | None = None
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            for name in ("COLUMNS", "LINES", "NO_COLOR"):
                os.environ.pop(name, None)
            os.environ.update({"TERM": "xterm-256color", **env})
            os.chdir(folder)
            os.execve(words[0], words, os.environ)  # readline sets COLUMNS behind the back of `os.environ`
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def look(self) -> str:
        """What is on the screen now."""
        with contextlib.suppress(OSError):  # it has ended
            while select.select([self._terminal], [], [], 0.02)[0]:
                if not (data := os.read(self._terminal, 65536)):
                    break
                self.raw += data
                self._stream.feed(data)
        return "\n".join(self.screen.display)

    def until(self, text: str) -> str:
        """The screen as soon as it shows this."""
        wait_for(lambda: text in self.look(), f"{text!r} is never on:\n" + self.look())
        return self.look()

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def end(self) -> int:
        """Its exit code, as soon as it has ended."""

        def ended() -> bool:
            self.look()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
            return bool(pid)

        if self.status is None:
            wait_for(ended, "it does not end; its screen:\n" + self.look())
        assert self.status is not None
        return os.waitstatus_to_exitcode(self.status)

    def close(self) -> None:
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
        os.close(self._terminal)


@pytest.fixture
def watch(tiny: Tiny) -> Iterator[Callable[..., Terminal]]:  # noqa: F811
    """`ark watch` with these words in a terminal of this size."""
    opened: list[Terminal] = []

    def start(*words: str, columns: int = 80, lines: int = 24, **env: str) -> Terminal:
        opened.append(Terminal([*tiny.command, "watch", *words], tiny.folder, columns, lines, **env))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


@pytest.fixture
def engine(tiny: Tiny) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:  # noqa: F811
    """`ark run` with these words, on its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        with (tiny.tmp / f"said-{len(started)}").open("wb") as said:
            order = [sys.executable, *tiny.command[1:], "run", *words]
            started.append(subprocess.Popen(order, cwd=tiny.folder, stdout=said, stderr=said, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def cache_of(project: Tiny, tag: str = "t") -> Path:
    """The cache folder of a run of the tiny project."""
    (found,) = (project.cache / "ark").glob(f"user-*/autoresearch+{tag}")
    return found
