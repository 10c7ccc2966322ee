"""A command that is told something, again and again, while its caller goes on with what matters.

`HookQueue` promises: `put` returns at once; the command runs in a thread and a process tree of its own, is ended at its
time limit with all that it has started, also when this process is killed; a failure is told of once. It does not
promise that everything is told: the oldest of too many documents, and what is left when it is abandoned, are given up.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.records import clean_line
from autoresearch_kit.core.spec import Hook, Spec
from autoresearch_kit.lab.cache import make_private
from autoresearch_kit.lab.measure import command_environment
from autoresearch_kit.lab.processes import Command, Finished, Supervisor, tail

ABANDON_SECONDS = 15.0
"""To end the commands that have not taken in everything by then, and all that they have started."""
WAITING = 20
"""So many documents wait for one command; of more, the oldest are given up."""
DESCRIPTORS = Path("/proc/self/fd")
"""Through it another process of the user can open a file without a name."""
FAST_FOLDER = Path("/dev/shm")
"""In memory on Linux: a full disk can still be told of."""

Tell = Callable[[str], None]


class HookQueue:
    """One command, the documents that wait for it, and the thread in which it is called, once at a time."""

    def __init__(self, event: str, hook: Hook, spec: Spec, folder: Path, logs: Path, tell: Tell) -> None:
        """`folder` is where the command starts, `logs` where its output goes; `tell` gets a sentence for a person."""
        self.event = event
        self.timeout_seconds = hook.timeout_seconds
        self._command = hook.command
        self._spec = spec
        self._folder = folder
        self._logs = logs
        self._tell = tell
        self._waiting: queue.Queue[Mapping[str, Any] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._supervisor: Supervisor | None = None
        self._abandoned = False
        self._lost = 0
        self._told = False

    @property
    def begun(self) -> bool:
        """Whether there was anything to tell."""
        return self._thread is not None

    def put(self, found: Mapping[str, Any]) -> None:
        """Have the command told; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=f"ark on.{self.event}", daemon=True)
            self._thread.start()
        if self._waiting.qsize() >= WAITING:
            with contextlib.suppress(queue.Empty):
                self._waiting.get_nowait()
                self._lost += 1
        self._waiting.put(found)

    def finish(self) -> None:
        """Nothing more will come."""
        self._waiting.put(None)

    def wait(self, seconds: float) -> bool:
        """Whether everything was told within that time."""
        assert self._thread is not None, "nothing was put"
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """End the command that is running, and give up what still waits."""
        self._abandoned = True
        self.finish()
        end = time.monotonic() + ABANDON_SECONDS
        while not self.wait(0.0) and time.monotonic() < end:  # beyond that it ends together with this process
            if self._supervisor is not None:
                self._supervisor.cancel()  # again, should the next command have been about to start
            self.wait(1.0)

    def _serve(self) -> None:
        while found := self._waiting.get():
            if self._abandoned:
                self._lost += 1
            else:
                self._call(found)
        if self._lost:
            self._tell(f"on.{self.event}: {self._lost} messages were given up, the command was too slow")

    def _call(self, found: Mapping[str, Any]) -> None:
        """Run the command once; whatever comes of that, the run goes on."""
        log = self._logs / f"on.{self.event}.log"
        try:
            with Supervisor() as supervisor:  # for each call anew: there are few, and between them nothing is left
                self._supervisor = supervisor
                done, last = self._run(supervisor, found, log)
                if done.problem == "not_started":  # on a full disk there may be no room for even an empty log
                    with tempfile.TemporaryDirectory(prefix="ark-", dir=_fast_folder()) as folder:
                        done, last = self._run(supervisor, found, Path(folder) / log.name)
        except Exception as error:  # a bug here is no reason to end a night
            self._fail(f"{type(error).__name__}: {error}")
            return
        if done.problem == "cancelled" and self._abandoned:
            self._lost += 1
        elif done.problem:
            words = f"; its last words: {last}" if last else ""
            self._fail(f"{done.detail}{words}; the log is {log}")

    def _run(self, supervisor: Supervisor, found: Mapping[str, Any], log: Path) -> tuple[Finished, str]:
        """What became of the command, and the last line that it printed."""
        entry = found["attempt"]
        number = {"attempt": entry["number"]} if entry else {}
        env = command_environment(self._spec, tag=found["tag"], event=self.event, **number)
        if log.parent == self._logs:
            with contextlib.suppress(ArkError):
                make_private(self._logs)  # a command may have deleted the whole cache
        with _file_of(json.dumps(found, allow_nan=False).encode() + b"\n") as told:
            done = supervisor.run(Command(self._command, self._folder, env, log, self.timeout_seconds, stdin=told))
        said = [line.strip() for line in tail(log).split("\n") if line.strip()]
        return done, clean_line(said[-1], 200) if said else ""

    def _fail(self, why: str) -> None:
        if not self._told:
            self._told = True
            self._tell(f"on.{self.event} failed, and the run goes on: {why} (said once)")


@contextlib.contextmanager
def _file_of(data: bytes) -> Iterator[Path]:
    """A file with that content, in memory where that is possible. On Linux it has no name: nothing is left of it when
    this process is killed."""
    make = tempfile.TemporaryFile if DESCRIPTORS.is_dir() else tempfile.NamedTemporaryFile
    with make(prefix="ark-", dir=_fast_folder()) as file:
        file.write(data)
        file.flush()
        yield Path(file.name) if isinstance(file.name, str) else Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")


def _fast_folder() -> str | None:
    return str(FAST_FOLDER) if FAST_FOLDER.is_dir() and os.access(FAST_FOLDER, os.W_OK | os.X_OK) else None
