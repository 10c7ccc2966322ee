"""The last lines of a log that is being written, and the learning curve in it.

A log lies where the code of an experiment can write: no link is followed, nothing but a plain file is opened, little is
read at a time, and what could confuse a terminal is taken out.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import deque
from pathlib import Path

from autoresearch_kit.core.metrics import decode
from autoresearch_kit.core.names import RUN_LOG
from autoresearch_kit.core.records import clean_text
from autoresearch_kit.lab.cache import LOGS
from autoresearch_kit.lab.live import Live
from autoresearch_kit.lab.within import Within
from autoresearch_kit.watch.curve import Curve, Curves

FIRST_BYTES = 2**20
"""So much of a log that is there already is read, its end."""
EACH_BYTES = 2**16
"""So much of what has come since is read at a look: more is nothing that anybody could follow."""
MEASURING = ("run", "eval", "check", "holdout")
"""Phases in which an experiment is at work on the bench."""
SHOWN_LINES = 60
LINE_CHARACTERS = 400
_ESCAPE = re.compile(r"\x1b\[[0-9;:?]*+[ -/]*+[@-~]|\x1b\][^\x07\x1b\n]*+(?:\x07|\x1b\\)?+")
_SPOKEN = ("text", "message", "content", "delta", "command", "result", "aggregated_output", "file_path", "path", "name")
"""Where the formats of coding agents keep what a person would want to read."""


class Log:
    """One file below a folder, which may be there or not."""

    def __init__(self, folder: Path, path: str, metric: str) -> None:
        self.lines: deque[str] = deque(maxlen=SHOWN_LINES)
        """The last whole lines, as a terminal would show them."""
        self.changed = 0.0
        """When it was last written, seconds since 1970; 0 when there is none."""
        self._folder = folder
        self._path = path
        self._curves = Curves(metric)
        self._identity: tuple[int, int] | None = None
        self._at = 0
        self._rest = ""

    def poll(self) -> bool:
        """Read what has come; whether there was anything."""
        try:
            with Within(self._folder) as inside, inside.open(self._path) as file:
                state = os.fstat(file.fileno())
                if not stat.S_ISREG(state.st_mode):
                    return False
                self.changed = state.st_mtime
                identity = (state.st_dev, state.st_ino)
                is_new = identity != self._identity or state.st_size < self._at
                if is_new:  # a first look, or its beginning was cut off, which makes it another file
                    self._at, self._rest = 0, ""
                    self._identity = identity
                if state.st_size == self._at:
                    return False
                start = max(self._at, state.st_size - (FIRST_BYTES if is_new else EACH_BYTES))
                skipped = start > self._at
                file.seek(start)
                data = file.read(state.st_size - start)
                self._at = start + len(data)
        except OSError:
            return False
        self._take(decode(data), skipped)
        return True

    def curve(self) -> Curve | None:
        """The learning curve that it shows so far."""
        return self._curves.best()

    def tail(self) -> tuple[str, ...]:
        """The last lines, the one that is not yet complete included."""
        last = _shown(self._rest)
        return (*self.lines, last) if last else tuple(self.lines)

    def _take(self, text: str, skipped: bool) -> None:
        if skipped:
            text, self._rest = text.partition("\n")[2] or text, ""
            self._curves.feed("\n")
        for at in range(0, len(text), EACH_BYTES):
            self._curves.feed(text[at : at + EACH_BYTES])
        *lines, rest = (self._rest + text).split("\n")
        self._rest = rest[-EACH_BYTES:]
        self.lines.extend(shown for line in lines[-SHOWN_LINES:] if (shown := _shown(line)))


class Logs:
    """The logs of what goes on: that of the phase, and while an experiment is measured its own."""

    def __init__(self, cache: Path, own: str, metric: str) -> None:
        """`own` is where an experiment may write its own log, as seen from the cache folder of the run."""
        self._cache, self._own_path, self._metric = cache, own, metric
        self._phase: tuple[object, ...] = ()
        self._sample: tuple[object, ...] = ()
        self._told: Log | None = None
        self._run: Log | None = None
        self._own: Log | None = None
        self._whose: tuple[int | None, bool] = (None, False)
        self._before: tuple[Curve | None, int | None, bool] = (None, None, False)

    def look(self, live: Live) -> tuple[tuple[str, ...], str]:
        """Read on; the last lines and the name of their log."""
        measuring = live.phase in MEASURING
        phase = (live.phase, live.began, live.log)
        if phase != self._phase:
            self._phase = phase
            self._told = Log(self._cache, f"{LOGS}/{live.log}", self._metric) if live.log else None
            sample = (live.number, live.done)
            # What a run writes into its own log stays there for the evaluation, and the agent's turn after it.
            if measuring and (live.phase == "run" or sample != self._sample):
                self._before = self.curve()
                self._sample, self._whose = sample, (live.number, live.of_head)
                self._run = self._told
                self._own = Log(self._cache, self._own_path, self._metric)
        logs = [(self._told, live.log), (self._own if measuring else None, RUN_LOG)]
        found = []
        for log, name in logs:
            if log is not None:
                log.poll()
                if lines := log.tail():
                    found.append((log.changed, lines, name))
        return max(found)[1:] if found else ((), "")

    def curve(self) -> tuple[Curve | None, int | None, bool]:
        """What the logs of the experiment show, the number of its attempt, and whether that measured the head.

        The last one's until there is one.
        """
        for log in (self._own, self._run):
            if log is not None and (curve := log.curve()):
                return curve, *self._whose
        return self._before


def _shown(line: str) -> str:
    """A line as a terminal would have it in the end: what a carriage return was followed by."""
    last = line[-8 * LINE_CHARACTERS :].rstrip("\r\n ").rpartition("\r")[2] if "\r" in line else line
    if last.startswith("{") and (said := _said(last)):
        last = said
    return clean_text(_ESCAPE.sub("", last[: 8 * LINE_CHARACTERS]).expandtabs(4), LINE_CHARACTERS).replace("\n", " ")


def _said(line: str) -> str:
    """What the event of a coding agent says, in a line; empty when `line` is none."""
    if '"type"' not in line:
        return ""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    kind = event.get("type") if isinstance(event, dict) else None
    words = _spoken(event, 0)
    return f"{kind}: {' '.join(words.split())}" if isinstance(kind, str) and words else ""


def _spoken(value: object, depth: int) -> str:
    if isinstance(value, str):
        return value[: 2 * LINE_CHARACTERS].strip()
    if depth > 6:
        return ""
    if isinstance(value, list):
        return next((words for item in value[-3:] if (words := _spoken(item, depth + 1))), "")
    if isinstance(value, dict):
        for key in _SPOKEN:
            if key in value and (words := _spoken(value[key], depth + 1)):
                return words
        return next((w for inner in value.values() if isinstance(inner, dict) and (w := _spoken(inner, depth + 1))), "")
    return ""
