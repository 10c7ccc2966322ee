"""Git as it talks to another repository: with progress while it lasts, and what the other side said when it refuses.

Credentials are git's own affair: helpers, agents and keys work as for any `git push`. It asks for a password only at a
terminal. The user's hooks do not run, as for every git that `ark` starts; those of the other side do.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.records import clean_line
from autoresearch_kit.ledger.git import Repository

Tell = Callable[[str], object]
"""Takes a line on how far it is, many times a second."""

MAX_BYTES = 64 * 2**20
"""Of what git prints, and of what it says besides; nearly a million refs are that much."""
_LINES = 1000
"""So many of the last lines are kept."""
_LINE_BYTES = 4096
"""So much of each."""
_END_SECONDS = 5.0
"""For git to end when it is told to."""
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_EMPTY_WORDS = ("Could not read from remote repository", "the remote end hung up", "The remote end hung up")
"""Git's last words when somebody else has said the reason before."""
_TALK = ("remote: ", "hint: ", "To ", "From ", "! ", "* ", "warning: ", "Please make sure", "and the repository exists")


@dataclass(frozen=True, slots=True)
class Said:
    """What a git left behind."""

    status: int
    """Its exit code."""
    out: str
    """Its standard output."""
    lines: tuple[str, ...]
    """What it said besides, without progress, cleaned: the other side may have written it."""

    @property
    def reason(self) -> str:
        """Why it failed: its own last words that mean something."""
        plain = [line for line in self.lines if not line.startswith(_TALK)]
        said = [line for line in plain if not any(word in line for word in _EMPTY_WORDS)]
        errors = [line for line in said if line.startswith(("fatal: ", "error: "))]
        last = (errors or said or plain or [f"exit code {self.status}"])[-1]
        return last.removeprefix("fatal: ").removeprefix("error: ").rstrip(".")

    @property
    def remark(self) -> str:
        """What the other side said; empty when it said nothing."""
        found = (line.removeprefix("remote: ").strip() for line in self.lines if line.startswith("remote: "))
        return clean_line("; ".join(line for line in found if line), 400)


def talk(repository: Repository, *args: str, tell: Tell | None = None, memory: int | None = None) -> Said:
    """Run a git that talks to another repository, to its end; `tell` hears of its progress.

    Whatever ends us meanwhile ends git first, and half of a transfer changes nothing on either side. ArkError when the
    other side does not stop to talk. `memory` is how much git itself may take, in bytes, where the system sees to it.
    """
    environment = repository.environment
    if sys.stdin is not None and sys.stdin.isatty():
        environment.pop("GIT_TERMINAL_PROMPT", None)
    with tempfile.TemporaryFile() as out:
        try:
            process = subprocess.Popen(
                repository.command(*args), env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE
            )
        except FileNotFoundError:
            raise ArkError("git is not installed", "install git 2.30 or newer") from None
        assert process.stderr is not None
        if memory is not None and sys.platform == "linux":
            with contextlib.suppress(OSError):  # it has ended already
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (memory, memory))
        try:
            with process.stderr:
                lines = _listen(process, process.stderr, out, tell)
            status = process.wait()
            _refuse_flood(out)
        except BaseException:
            process.terminate()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
        out.seek(0)
        return Said(status, out.read().decode("utf-8", "surrogateescape"), lines)


def _listen(process: subprocess.Popen[bytes], stream: IO[bytes], out: IO[bytes], tell: Tell | None) -> tuple[str, ...]:
    """The last lines that git says until it ends; parts that are written over one another are progress."""
    lines: deque[bytes] = deque(maxlen=_LINES)
    rest, heard = b"", 0
    while True:
        _refuse_flood(out, heard)
        ready, _, _ = select.select([stream], [], [], 0.1)
        if not ready:
            # Not at the end of the stream: what ssh leaves in the background keeps it open.
            if process.poll() is not None:
                break
            continue
        data = os.read(stream.fileno(), 65536)
        if not data:
            break
        heard += len(data)
        *parts, rest = re.split(rb"(?<=[\r\n])", rest + data)
        rest = rest[:_LINE_BYTES]
        lines.extend(part[:_LINE_BYTES] for part in parts if not part.endswith(b"\r"))
        progress = [part for part in parts if part.endswith(b"\r")]
        if progress and tell is not None:
            tell(_clean(progress[-1]))
    texts = [_clean(line) for line in (*lines, rest)]
    return tuple(text for text in texts if text and not text.endswith(", done."))


def _refuse_flood(out: IO[bytes], heard: int = 0) -> None:
    if max(heard, os.fstat(out.fileno()).st_size) > MAX_BYTES:
        raise ArkError(
            f"the other side says more than {MAX_BYTES >> 20} MB; git was ended",
            "nothing was changed here; it is for whoever runs that repository to mend",
        )


def _clean(data: bytes) -> str:
    text = clean_line(data.decode("utf-8", "replace").rstrip(), 500)
    return _CREDENTIALS.sub("", text)
