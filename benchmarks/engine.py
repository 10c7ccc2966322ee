"""python benchmarks/engine.py [small] [files] [flat] [eval] [cli] [log] [--quick] [--attempts N] [--profile FILE]

What the engine costs beside the user's own commands: time per attempt by phase, whether time and memory stay flat over
a long run, and how quick the verbs are. Medians; every campaign runs in a process of its own, with the real command
agent, in a temporary repository, cache and home. Machines are noisy: compare ratios, and figures of one call only.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import psutil

SPEC = """
name: benchmark
metric: loss
metric_direction: minimize
mutable_files: [value.txt]
immutable_files: [fixed.txt]
run_command: {run}
branch_prefix: autoresearch
agent: {{command: "echo $ARK_ATTEMPT > value.txt"}}
"""
# Every twentieth attempt is kept, so that heads move as they do in a good night.
RUN = """'read n < value.txt; echo "loss: $(( n % 20 ? 1000000 : 900000 - n ))"'"""
RUN_AND_EVAL = """'cp value.txt run.log'
eval_command: 'read n < run.log; echo "loss: $(( n % 20 ? 1000000 : 900000 - n ))"'"""
ARK = [sys.executable, "-c", "from autoresearch_kit.cli import main; main()"]
EDGE = 100  # attempts at each end that are held against each other
COLUMNS = ("figure", "target", "measured")


# One campaign, in a process of its own


class Stopwatch:
    """Adds up the time of wrapped functions for the attempt under way; what one calls inside another counts once."""

    def __init__(self) -> None:
        self.attempts: list[dict[str, float]] = []
        self.now: dict[str, float] = defaultdict(float)
        self._busy = False

    def wrap(self, owner: Any, name: str, phase: str) -> None:
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def timed(*args: Any, **more: Any) -> Any:
            if self._busy:
                return inner(*args, **more)
            self._busy, begin = True, time.perf_counter()
            try:
                return inner(*args, **more)
            finally:
                self._busy = False
                self.now[phase] += time.perf_counter() - begin

        setattr(owner, name, timed)

    def commands(self, owner: Any) -> None:
        """`Supervisor.run`: the command's own wall time is the user's, the rest is ours."""
        inner = owner.run

        def timed(supervisor: Any, command: Any) -> Any:
            begin = time.perf_counter()
            done = inner(supervisor, command)
            took = time.perf_counter() - begin
            self.now["user"] += done.wall_seconds
            self.now[f"guardian ({command.log.suffixes[0][1:]})"] += took - done.wall_seconds
            return done

        owner.run = timed

    def count(self, owner: Any, name: str, what: str) -> None:
        inner = getattr(owner, name)

        def counted(*args: Any, **more: Any) -> Any:
            self.now[what] += 1
            return inner(*args, **more)

        setattr(owner, name, counted)

    def lap(self, total: float) -> None:
        engine = total - self.now.pop("user", 0.0)
        phases = sum(took for phase, took in self.now.items() if not phase.startswith("#"))
        self.attempts.append({"engine": engine, "rest": engine - phases, **self.now})
        self.now = defaultdict(float)


def campaign(folder: Path, attempts: int, profile: str | None) -> dict[str, Any]:
    """`ark run` in this process, as the command line does it, under a stopwatch."""
    from rich.console import Console

    from autoresearch_kit import ratchet
    from autoresearch_kit.agents import choose, command, open_agent
    from autoresearch_kit.lab import desk, processes
    from autoresearch_kit.lab import folder as folders
    from autoresearch_kit.ledger import git, ledger, results
    from autoresearch_kit.project import open_project
    from autoresearch_kit.views.display import Display

    watch = Stopwatch()
    watch.wrap(command, "render_prompt", "render prompt")
    watch.wrap(ratchet.Run, "lay_desk", "lay desk")
    watch.wrap(desk.Desk, "compose", "compose")
    watch.wrap(git.Repository, "store_tree", "store tree")
    watch.wrap(ledger.Ledger, "reserve", "reserve")
    watch.wrap(folders.Folder, "lay", "lay bench")
    watch.wrap(ratchet, "count_lines", "decide: count lines")
    watch.wrap(ledger.Ledger, "close", "close")
    watch.wrap(results.ResultsFile, "add", "results.tsv")
    watch.wrap(ratchet, "_ending", "limits")
    watch.wrap(Display, "__call__", "display")
    watch.commands(processes.Supervisor)
    watch.count(git.Repository, "_git", "# git processes")
    process, memory = psutil.Process(), []
    marks = [time.perf_counter()]

    project = open_project(folder)
    with Display(Console(file=io.StringIO())) as display, ratchet.Run(project, "bench", display) as run:

        def lap(*_: object) -> Any:
            marks.append(time.perf_counter())
            watch.lap(marks[-1] - marks[-2])
            if len(marks) % 50 == 0:
                memory.append(process.memory_info().rss / 2**20)
            return inner(*_)

        run.open()
        worker = open_agent(choose(project.spec, None), run, display)
        run.ready()
        inner = worker.propose
        worker.propose = lap  # type: ignore[method-assign]
        with _profiled(profile):
            ratchet.loop(run, worker, ratchet.Limits(attempts + 1), display)
        helpers = sum(child.memory_info().rss for child in process.children(recursive=True)) / 2**20
        worker.close()
    project.repository.close()
    # The first lap is the start; the first attempt starts the agent's guardian, which happens once.
    return {"laps": watch.attempts[2:], "start": watch.attempts[0]["engine"], "memory": memory, "helpers": helpers}


def _profiled(file: str | None) -> Any:
    import contextlib
    import cProfile

    if file is None:
        return contextlib.nullcontext()
    profile = cProfile.Profile()
    stack = contextlib.ExitStack()
    stack.enter_context(profile)
    stack.callback(profile.dump_stats, file)
    return stack


# The figures


class Table:
    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []

    def add(self, figure: str, measured: str, target: str = "") -> None:
        self.rows.append((figure, target, measured))
        print(f"  {figure}: {measured}", file=sys.stderr)

    def __str__(self) -> str:
        rows = [COLUMNS, *self.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(r, widths, strict=True)).rstrip() for r in rows
        )


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def git(folder: Path, *args: str, **more: Any) -> None:
    subprocess.run(["git", *args], cwd=folder, check=True, capture_output=True, **more)


def make_repository(folder: Path, files: int, run: str) -> Path:
    folder.mkdir()
    (folder / "autoresearch-config.yaml").write_text(SPEC.format(run=run))
    (folder / "value.txt").write_text("0\n")
    (folder / "fixed.txt").write_text("fixed\n")
    for number in range(files):
        path = folder / "data" / f"{number % 50:02d}" / f"{number:05d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * 200)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "start")
    return folder


def attempts_in(table: Table, place: Path, name: str, options: argparse.Namespace, attempts: int, files: int = 20,
                target: str = "at most 50 ms", run: str = RUN) -> None:  # fmt: skip
    folder = make_repository(place / name, files, run)
    order = [sys.executable, __file__, "--campaign", str(folder), "--attempts", str(attempts)]
    order += ["--profile", f"{options.profile}.{name}"] if options.profile else []
    found = json.loads(subprocess.run(order, check=True, stdout=subprocess.PIPE, text=True).stdout)
    laps = found["laps"]
    engine = [lap["engine"] for lap in laps]
    table.add(f"{name}: engine time per attempt, {len(laps)} attempts, {files + 3} files", ms(median(engine)), target)
    table.add(f"{name}:   90th percentile", ms(sorted(engine)[len(engine) * 9 // 10]))
    phases = {phase for lap in laps for phase in lap} - {"engine"}
    middle = {phase: median([lap.get(phase, 0.0) for lap in laps]) for phase in phases}
    for phase, took in sorted(middle.items(), key=lambda item: -item[1]):
        table.add(f"{name}:   {phase}", f"{took:g}" if phase.startswith("#") else ms(took))
    table.add(f"{name}: start until the first attempt, baseline with it", ms(found["start"]))
    if name == "flat":
        edge = min(EDGE, len(laps) // 2)
        first, last = median(engine[:edge]), median(engine[-edge:])
        table.add(f"flat: first {edge} attempts", ms(first))
        table.add(f"flat: last {edge} attempts", ms(last))
        table.add("flat: last / first", f"{last / first:.2f}", "at most 1.3")
        for phase in sorted(phases, key=lambda p: -middle[p]):
            ends = [median([lap.get(phase, 0.0) for lap in part]) for part in (laps[:edge], laps[-edge:])]
            if ends[1] - ends[0] > 0.0005 and not phase.startswith("#"):
                table.add(f"flat:   grows: {phase}", f"{ms(ends[0])} -> {ms(ends[1])}")
    if len(found["memory"]) > 2:
        early, late = found["memory"][1], found["memory"][-1]
        table.add(f"{name}: memory after {EDGE} attempts and at the end", f"{early:.1f} MB -> {late:.1f} MB", "flat")
        table.add(f"{name}:   helper processes besides", f"{found['helpers']:.1f} MB")


def timed(command: list[str], folder: Path, times: int) -> float:
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - begin)
    return median(took)


def verbs(table: Table, place: Path, options: argparse.Namespace) -> None:
    folder = make_repository(place / "verbs", 20, RUN)
    times = 3 if options.quick else 25
    subprocess.run([*ARK, "run", "--tag", "t", "--attempts", "3"], cwd=folder, check=True, capture_output=True)
    table.add("for orientation: git rev-parse HEAD", ms(timed(["git", "rev-parse", "HEAD"], folder, times)))
    table.add("for orientation: python -c pass", ms(timed([sys.executable, "-c", "pass"], folder, times)))
    table.add("ark --help", ms(timed([*ARK, "--help"], folder, times)), "at most 150 ms")
    for verb in ("status", "log"):
        table.add(f"ark {verb}, 4 attempts", ms(timed([*ARK, verb], folder, times)))


def long_log(table: Table, place: Path, options: argparse.Namespace) -> None:
    """Attempts as the ledger writes them, but by one git process."""
    from autoresearch_kit.core.records import Attempt, Cost, Measurement, Outcome, Proposal, Verdict
    from autoresearch_kit.lab.machine import machine
    from autoresearch_kit.ledger.message import write_message

    count, times = (200, 1) if options.quick else (10_000, 7)
    folder = make_repository(place / "log", 20, RUN)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True).stdout.strip()
    stream = []
    for n in range(count):
        outcome = Outcome.KEEP if n % 20 == 0 else Outcome.CRASH if n % 20 == 1 else Outcome.DISCARD
        problem, tail = ("exit: exit code 1", "Traceback\n" * 20) if outcome is Outcome.CRASH else ("", "")
        also = {"peak_memory_mb": 812.25, "wall_seconds": 300.1, "cpu_seconds": 580.5}
        sample = Measurement(1.0 - n * 1e-6, also, problem, 300.123, tail, n, machine())
        verdict = Verdict(outcome, f"{outcome.capitalize()}: 0.99 -> 0.98, better by 0.01 (1 %)", 0.01)
        proposal = Proposal(f"Change the rate to {n}", "A reason of some length. " * 4, "command", Cost(12.5))
        attempt = Attempt(n, "", head, "", proposal, (sample,), verdict, "2026-01-01T00:00:00.000Z", "0" * 16)
        message = write_message(attempt).encode()
        stream.append(b"commit refs/ark/long/%04d\ncommitter ark <ark@localhost> %d +0000\ndata %d\n%s\nfrom %s\n"
                      b"M 100644 inline value.txt\ndata %d\n%d\n\n"
                      % (n, 1_700_000_000 + n, len(message), message, head.encode(), len(str(n)) + 1, n))  # fmt: skip
    git(folder, "-c", f"fastimport.unpackLimit={10 * count}", "fast-import", "--quiet", input=b"".join(stream))
    command = [*ARK, "log", "--json", "--tag", "long"]
    for state in ("loose", "after git gc"):
        table.add(f"ark log --json, {count} attempts, {state}", ms(timed(command, folder, times)), "at most 500 ms")
        table.add(f"ark status, {count} attempts, {state}", ms(timed([*ARK, "status"], folder, times)))
        if state == "loose":
            git(folder, "gc", "--quiet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="small, files, flat, eval, cli, log; all unless given")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--attempts", type=int, help="attempts of each campaign, instead of its own number")
    parser.add_argument("--profile", help="write cProfile data of each campaign to FILE.NAME; slows it down")
    parser.add_argument("--campaign", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.campaign:
        print(json.dumps(campaign(options.campaign, options.attempts, options.profile)))
        return

    def size(usual: int) -> int:
        return options.attempts or (6 if options.quick else usual)

    table = Table()
    benchmarks: dict[str, Callable[[Path], None]] = {
        "small": lambda p: attempts_in(table, p, "small", options, size(300)),
        "files": lambda p: attempts_in(
            table, p, "files", options, size(120), 200 if options.quick else 3000, "at most 250 ms"
        ),
        "eval": lambda p: attempts_in(table, p, "eval", options, size(300), run=RUN_AND_EVAL),
        "cli": lambda p: verbs(table, p, options),
        "log": lambda p: long_log(table, p, options),
        "flat": lambda p: attempts_in(table, p, "flat", options, size(2000)),
    }
    if unknown := set(options.only) - set(benchmarks):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(benchmarks)}")
    with tempfile.TemporaryDirectory(prefix="ark-benchmark-") as place:
        for name in ("HOME", "XDG_CACHE_HOME"):
            os.environ[name] = place
        os.environ |= {
            f"GIT_{who}_{what}": "benchmark@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        os.environ["GIT_CONFIG_NOSYSTEM"] = "1"
        for name in options.only or benchmarks:
            print(name, file=sys.stderr)
            benchmarks[name](Path(place))
    print(table)


if __name__ == "__main__":
    main()
