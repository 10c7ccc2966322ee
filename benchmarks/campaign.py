"""python benchmarks/campaign.py FOLDER ATTEMPTS [PROFILE]      (engine.py starts it)

`ark run` in this process, as the command line does it, with a stopwatch around its phases. Prints a line of JSON for
each attempt, in seconds: the engine's part, which is the wall time without the user's own commands, and where it went.
The first line is the start with the baseline, the last tells the memory.
"""

from __future__ import annotations

import contextlib
import cProfile
import functools
import io
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import git
import psutil
from rich.console import Console

from autoresearch_kit import ratchet
from autoresearch_kit.agents import choose, command, open_agents
from autoresearch_kit.books import Books
from autoresearch_kit.core.budget import Limits
from autoresearch_kit.lab.desk import Desk
from autoresearch_kit.lab.folder import Folder
from autoresearch_kit.lab.processes import Supervisor
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.ledger import Ledger
from autoresearch_kit.loop import Turns, loop
from autoresearch_kit.project import open_project
from autoresearch_kit.views.display import Display

MEMORY_EACH = 100
PHASES = (
    ("prompt", command, "render_prompt"),
    ("lay desk", ratchet.Run, "lay_desk"),
    ("guardian", Supervisor, "run"),
    ("compose", Desk, "compose"),
    ("store tree", Repository, "store_tree"),
    ("reserve", Ledger, "reserve"),
    ("lay bench", Folder, "lay"),
    ("count lines", ratchet, "count_lines"),
    ("decide", ratchet, "decide"),
    ("close", Ledger, "close"),
    ("books", Books, "add"),
    ("limits", ratchet, "ending"),
    ("display", Display, "__call__"),
    ("# git processes", git.Git, "execute"),
)


class Stopwatch:
    """Adds up the time of wrapped functions, attempt by attempt; what one calls inside another counts once."""

    def __init__(self) -> None:
        self.laps = 0
        self._now: dict[str, float] = defaultdict(float)
        self._busy = False
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def wrap(self, phase: str, owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def timed(*args: Any, **more: Any) -> Any:
            if phase.startswith("#"):
                self._now[phase] += 1
            if self._busy or phase.startswith("#"):
                return inner(*args, **more)
            self._busy, begin = True, time.perf_counter()
            try:
                result = inner(*args, **more)
            finally:
                self._busy = False
                took = time.perf_counter() - begin
            if phase != "guardian":
                self._now[phase] += took
            else:  # the command's own wall time is the user's
                self._now["user"] += result.wall_seconds
                self._now[f"guardian{args[1].log.suffixes[0]}"] += took - result.wall_seconds
            return result

        setattr(owner, name, timed)

    def lap(self) -> None:
        """An attempt ends, the next begins."""
        wall, cpu = time.perf_counter(), time.process_time()
        engine = wall - self._wall - self._now.pop("user", 0.0)
        rest = engine - sum(took for phase, took in self._now.items() if not phase.startswith("#"))
        print(json.dumps({**self._now, "engine": engine, "rest": rest, "cpu": cpu - self._cpu}))
        self.laps += 1
        self._now.clear()
        self._wall, self._cpu = time.perf_counter(), time.process_time()


def campaign(folder: Path, attempts: int, profile_file: str = "") -> None:
    """`ark run` in this process, as the command line does it, under a stopwatch."""
    watch = Stopwatch()
    for phase in PHASES:
        watch.wrap(*phase)
    process, memory, profile = psutil.Process(), [], cProfile.Profile(time.process_time)
    project = open_project(folder)
    with Display(Console(file=io.StringIO())) as display, ratchet.Run(project, "bench", display) as run:
        run.open()
        worker = open_agents(choose(project.spec, None), run, display)
        run.ready()
        propose = worker.propose

        def next_turn(run: ratchet.Run) -> Any:
            watch.lap()
            if watch.laps % MEMORY_EACH == 0:
                memory.append(process.memory_info().rss / 2**20)
            return propose(run)

        worker.propose = next_turn  # type: ignore[method-assign]
        with profile if profile_file else contextlib.nullcontext():
            loop(run, worker, Turns(run, Limits(attempts), display))
        helpers = sum(child.memory_info().rss for child in process.children(recursive=True)) / 2**20
        worker.close()
    project.repository.close()
    if profile_file:
        profile.dump_stats(profile_file)
    print(json.dumps({"memory": memory, "helpers": helpers}))


if __name__ == "__main__":
    folder, attempts, *profile_file = sys.argv[1:]
    campaign(Path(folder), int(attempts), *profile_file)
