"""What a running engine is doing, in a small file for whoever watches: `live.json` in the cache folder of its run.

`LiveFile` writes it, at each event, whole and by renaming: a reader sees the last state or the one before, never half.
`read_live` reads it. It is a convenience and no record: what cannot be written is left out, and no run is hurt by it.
The code of an experiment can write in that folder too. So nothing in the file is believed but as something to show: it
is a plain file of little size with texts and numbers in their ranges, and it names a log by its name alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoresearch_kit.core.records import Attempt, clean_line
from autoresearch_kit.core.spec import Budget
from autoresearch_kit.lab.cache import LIVE
from autoresearch_kit.lab.caplog import write_all
from autoresearch_kit.lab.measure import Phase
from autoresearch_kit.lab.within import Within

MAX_BYTES = 64 * 2**10
"""A larger file is not the engine's."""
NOTES = 5
"""So many notes are at hand, the last ones."""
TEXT = 300
"""Characters of a text."""
ENDLESS_SECONDS = 30 * 24 * 3600.0
"""What is meant to take longer has no limit: the session of an agent that drives the loop itself."""


@dataclass(frozen=True, slots=True)
class Live:
    """What an engine does, or did when it ended. Moments are seconds since 1970."""

    pid: int = 0
    """Its process."""
    host: str = ""
    """The machine that process is on."""
    spec: str = ""
    """Path of the spec from the root of the repository, as it is: to compare, not to show."""
    tag: str = ""
    """The run."""
    started: float = 0.0
    """When it began to hold the run."""
    number: int | None = None
    """The attempt that is being measured; None before and between."""
    title: str = ""
    """What that tries."""
    agent: str = ""
    """Who proposed it, or whose turn it is."""
    phase: str = ""
    """As `Phase.name`; empty between two phases."""
    began: float = 0.0
    """When the phase began."""
    limit_seconds: float | None = None
    """What the phase is meant to take at most; None when it has no limit."""
    log: str = ""
    """Name of its log in the folder `logs`."""
    done: int = 0
    """Measurements of this attempt that are over."""
    of_head: bool = False
    """Whether the head is measured, in turn with the candidate."""
    made: int = 0
    """Attempts of this call."""
    attempts: int | None = None
    """So many it is to make, if that was limited."""
    hours: float | None = None
    """So long it is to work, if that was limited."""
    counted: float = 0.0
    """Since when its time is counted; 0 before."""
    budget: Budget | None = None
    """Limits of the run; None where they are not known."""
    notes: tuple[tuple[float, str], ...] = ()
    """What it last said to people, and when, the oldest first."""
    ended: float | None = None
    """When it gave the run back; None while it holds it, and for ever when it was killed."""
    reason: str = ""
    """Why it ended, one sentence; empty when it did not say."""


class LiveFile:
    """The state of this process's run. Nothing here raises for what cannot be written; any thread may call."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Writes nothing before `open`."""
        self._clock = clock
        self._lock = threading.Lock()
        self._cache: Path | None = None
        self._session: Live | None = None
        self.state = Live()
        """What was last told."""

    def open(self, cache: Path, spec: str, tag: str, budget: Budget) -> None:
        """The run whose cache folder this is is held from now on."""
        self._cache = cache
        self._tell(Live(os.getpid(), socket.gethostname(), spec, tag, self._clock(), budget=budget))

    def limit(self, attempts: int | None, hours: float | None) -> None:
        """What this call may use begins to be counted."""
        self._change(attempts=attempts, hours=hours, counted=self._clock(), made=0)

    def made(self, count: int) -> None:
        """So many attempts of this call there are now."""
        self._change(made=count)

    def attempt(self, attempt: Attempt) -> None:
        """This one was reserved, and will be measured."""
        title, agent = clean_line(attempt.proposal.title, TEXT), attempt.proposal.agent
        self._change(number=attempt.number, title=title, agent=agent, done=0, of_head=False)

    def sampling(self, done: int, of_head: bool) -> None:
        """A measurement begins."""
        self._change(done=done, of_head=of_head)

    def phase(self, phase: Phase) -> None:
        """A phase begins."""
        limit = phase.limit_seconds if phase.limit_seconds < ENDLESS_SECONDS else None
        whose = {"agent": clean_line(phase.agent, TEXT)} if phase.name in ("agent", "rest") else {}
        self._change(phase=phase.name, began=self._clock(), limit_seconds=limit, log=phase.log.name, **whose)
        if whose:
            # One that has no limit goes on while its changes are measured.
            self._session = self.state if limit is None else None

    def judged(self) -> None:
        """The attempt is closed."""
        idle = self._session or Live()
        self._change(
            number=None, title="", agent=idle.agent, done=0, of_head=False, phase=idle.phase, began=idle.began,
            limit_seconds=idle.limit_seconds, log=idle.log,
        )  # fmt: skip

    def note(self, text: str) -> None:
        """Something was said to people. An agent whose turn brought only that is at work no more."""
        with self._lock:
            new = replace(self.state, notes=(*self.state.notes, (self._clock(), clean_line(text, TEXT)))[-NOTES:])
            if new.phase == "agent" and self._session is None:
                new = replace(new, phase="", log="", limit_seconds=None, agent="")
            self._write(new)

    def end(self, reason: str) -> None:
        """Why it ends; it does with `close`."""
        self.state = replace(self.state, reason=clean_line(reason, TEXT))

    def close(self) -> None:
        """The run is given back; safe to call twice, and before `open`."""
        if self._cache is not None:
            self._session = None
            self.judged()
            self._change(ended=self._clock())
            self._cache = None

    def _change(self, **changes: Any) -> None:
        with self._lock:
            self._write(replace(self.state, **changes))

    def _tell(self, state: Live) -> None:
        with self._lock:
            self._write(state)

    def _write(self, state: Live) -> None:
        self.state = state
        if self._cache is None:
            return
        budget = state.budget.model_dump(exclude_none=True) if state.budget else {}
        # Escaped to ASCII by `json`, so that no text, whatever it holds, is in the way.
        fields = {name: getattr(state, name) for name in Live.__slots__}
        data = json.dumps({**fields, "budget": budget}).encode()
        with contextlib.suppress(OSError):
            _replace(self._cache, data)


def _replace(cache: Path, data: bytes) -> None:
    """Put `data` in the place of the file, whatever lies there; what is stale and cannot be replaced is removed."""
    new = f"{LIVE}.new"
    folder = os.open(cache, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for last in (False, True):
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                file = os.open(new, flags, 0o600, dir_fd=folder)
                try:
                    write_all(file, data)
                finally:
                    os.close(file)
                os.rename(new, LIVE, src_dir_fd=folder, dst_dir_fd=folder)
                return
            except OSError:
                # Left by a killed engine, or put there by somebody: a folder, say. Or the disk is full.
                with contextlib.suppress(OSError), Within(cache) as inside:
                    inside.remove(new)
                    inside.remove(LIVE)
                if last:
                    raise
    finally:
        os.close(folder)


def read_live(cache: Path) -> Live | None:
    """The state that the file in the cache folder of a run tells; None when there is none that can be used."""
    try:
        with Within(cache) as inside:
            data = inside.read(LIVE, MAX_BYTES + 1)
        return None if len(data) > MAX_BYTES else _checked(json.loads(data))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None


def _checked(found: Mapping[str, Any]) -> Live:
    """The same as typed data; one of those errors for anything else."""
    budget = None
    with contextlib.suppress(ValidationError):  # another version's has other limits
        budget = Budget.model_validate(found["budget"])
    return Live(
        pid=_count(found["pid"]),
        host=_text(found["host"]),
        spec=str(found["spec"]),
        tag=_text(found["tag"]),
        started=_number(found["started"]),
        number=_maybe(_count, found["number"]),
        title=_text(found["title"]),
        agent=_text(found["agent"]),
        phase=_text(found["phase"], 40),
        began=_number(found["began"]),
        limit_seconds=_maybe(_number, found["limit_seconds"]),
        log=_file_name(found["log"]),
        done=_count(found["done"]),
        of_head=found["of_head"] is True,
        made=_count(found["made"]),
        attempts=_maybe(_count, found["attempts"]),
        hours=_maybe(_number, found["hours"]),
        counted=_number(found["counted"]),
        budget=budget,
        notes=tuple((_number(moment), _text(text)) for moment, text in found["notes"][-NOTES:]),
        ended=_maybe(_number, found["ended"]),
        reason=_text(found["reason"]),
    )


def _maybe(read: Callable[[object], Any], value: object) -> Any:
    return None if value is None else read(value)


def _number(value: object) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not 0 <= value < 1e12
    ):
        raise ValueError("no number")
    return float(value)


def _count(value: object) -> int:
    return int(_number(value))


def _text(value: object, limit: int = TEXT) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return clean_line(value[: 4 * limit], limit)


def _file_name(value: object) -> str:
    name = _text(value)
    if "/" in name or name in (".", ".."):
        raise ValueError("no name")
    return name
