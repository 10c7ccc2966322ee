"""Git as it talks to another repository: with progress while it lasts, and what the other side said when it refuses.

Credentials are git's own affair: helpers, agents and keys work as for any `git push`. It asks for a password only at a
terminal. The user's hooks do not run, as for every git that `ark` starts; those of the other side do.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.records import clean_line
from autoresearch_kit.ledger.git import Repository

Tell = Callable[[str], object]
"""Takes a line on how far it is, many times a second."""

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


def talk(repository: Repository, *args: str, tell: Tell | None = None) -> Said:
    """Run a git that talks to another repository, to its end; `tell` hears of its progress.

    Whatever ends us meanwhile ends git first, and half of a transfer changes nothing on either side.
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
        try:
            with process.stderr:
                lines = _listen(process, process.stderr, tell)
            status = process.wait()
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


def _listen(process: subprocess.Popen[bytes], stream: IO[bytes], tell: Tell | None) -> tuple[str, ...]:
    """The lines that git says until it ends; parts that are written over one another are progress."""
    lines: list[str] = []
    rest = b""
    while True:
        ready, _, _ = select.select([stream], [], [], 0.1)
        if not ready:
            # Not at the end of the stream: what ssh leaves in the background keeps it open.
            if process.poll() is not None:
                break
            continue
        data = os.read(stream.fileno(), 65536)
        if not data:
            break
        *parts, rest = re.split(rb"(?<=[\r\n])", rest + data)
        for part in parts:
            text = _clean(part)
            if part.endswith(b"\r"):
                if tell is not None:
                    tell(text)
            elif text and not text.endswith(", done."):
                lines.append(text)
    return tuple([*lines, _clean(rest)] if rest.strip() else lines)


def _clean(data: bytes) -> str:
    text = clean_line(data.decode("utf-8", "replace").rstrip(), 500)
    return _CREDENTIALS.sub("", text)
