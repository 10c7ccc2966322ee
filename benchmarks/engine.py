"""python benchmarks/engine.py [small] [eval] [files] [cli] [log] [flat] [--quick] [--attempts N] [--profile FILE]

What the engine costs beside the user's own commands: time per attempt and its phases, whether time and memory stay flat
over a long run, and how quick the verbs are. Each campaign is a process of its own, in a temporary repository, cache and
home below TMPDIR. Medians. Machines are noisy: compare ratios, look at the rows for orientation, and where the disk is
slow compare with TMPDIR=/dev/shm. CPU time is the noise-free part of a figure.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import functools
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import psutil

# Every twentieth attempt is kept, so that heads move as they do in a good night.
SCORE = """read n < value.txt; echo "loss: $(( n % 20 ? 1000000 : 900000 - n ))" """
SPEC = {
    "name": "benchmark",
    "metric": "loss",
    "metric_direction": "minimize",
    "mutable_files": ["value.txt"],
    "run_command": SCORE,
    "agent": {"command": "echo $ARK_ATTEMPT > value.txt"},
}
WITH_EVAL = {"run_command": "cp value.txt run.log", "eval_command": SCORE.replace("value.txt", "run.log")}
ARK = [sys.executable, "-c", "from autoresearch_kit.cli import main; main()"]
EDGE = 100  # attempts at each end that are held against each other
CPU = "(CPU time of ark itself)"


class Stopwatch:
    """Adds up the time of wrapped functions, attempt by attempt; what one calls inside another counts once."""

    def __init__(self) -> None:
        self.attempts: list[dict[str, float]] = []
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
        self.attempts.append({**self._now, "engine": engine, "rest": rest, CPU: cpu - self._cpu})
        self._now, self._wall, self._cpu = defaultdict(float), wall, cpu


def campaign(folder: Path, attempts: int, profile_file: str | None) -> dict[str, Any]:
    """`ark run` in this process, as the command line does it, under a stopwatch."""
    from rich.console import Console

    from autoresearch_kit import ratchet
    from autoresearch_kit.agents import choose, command, open_agent
    from autoresearch_kit.lab.desk import Desk
    from autoresearch_kit.lab.folder import Folder
    from autoresearch_kit.lab.processes import Supervisor
    from autoresearch_kit.ledger.git import Repository
    from autoresearch_kit.ledger.ledger import Ledger
    from autoresearch_kit.ledger.results import ResultsFile
    from autoresearch_kit.project import open_project
    from autoresearch_kit.views.display import Display

    watch = Stopwatch()
    watch.wrap("prompt", command, "render_prompt")
    watch.wrap("lay desk", ratchet.Run, "lay_desk")
    watch.wrap("guardian", Supervisor, "run")
    watch.wrap("compose", Desk, "compose")
    watch.wrap("store tree", Repository, "store_tree")
    watch.wrap("reserve", Ledger, "reserve")
    watch.wrap("lay bench", Folder, "lay")
    watch.wrap("count lines", ratchet, "count_lines")
    watch.wrap("decide", ratchet, "decide")
    watch.wrap("close", Ledger, "close")
    watch.wrap("results.tsv", ResultsFile, "add")
    watch.wrap("limits", ratchet, "_ending")
    watch.wrap("display", Display, "__call__")
    watch.wrap("# git processes", Repository, "_git")
    process, memory, profile = psutil.Process(), [], cProfile.Profile(time.process_time)
    project = open_project(folder)
    with Display(Console(file=io.StringIO())) as display, ratchet.Run(project, "bench", display) as run:
        run.open()
        worker = open_agent(choose(project.spec, None), run, display)
        run.ready()
        propose = worker.propose

        def next_turn(run: ratchet.Run) -> Any:
            watch.lap()
            if len(watch.attempts) % EDGE == 0:
                memory.append(process.memory_info().rss / 2**20)
            return propose(run)

        worker.propose = next_turn  # type: ignore[method-assign]
        with profile if profile_file else contextlib.nullcontext():
            ratchet.loop(run, worker, ratchet.Limits(attempts + 2), display)
        helpers = sum(child.memory_info().rss for child in process.children(recursive=True)) / 2**20
        worker.close()
    project.repository.close()
    if profile_file:
        profile.dump_stats(profile_file)
    # The first lap is the start, and the next one starts the agent's guardian, once for all.
    return {"laps": watch.attempts[2:], "start": watch.attempts[0]["engine"], "memory": memory, "helpers": helpers}


class Table:
    """The figures: printed as they come, and all together at the end."""

    def __init__(self) -> None:
        self._rows = [("figure", "target", "measured")]

    def add(self, figure: str, measured: str, target: str = "") -> None:
        self._rows.append((figure, target, measured))
        print(f"  {figure}: {measured}", file=sys.stderr)

    def __str__(self) -> str:
        widths = [max(len(row[i]) for row in self._rows) for i in range(3)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(r, widths, strict=True)) for r in self._rows)
        return "\n".join(line.rstrip() for line in lines)


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def git(folder: Path, *args: str, feed: bytes = b"") -> str:
    return subprocess.run(["git", *args], cwd=folder, check=True, capture_output=True, input=feed).stdout.decode()


def make_project(folder: Path, files: int = 20, **spec: str) -> Path:
    folder.mkdir()
    (folder / "autoresearch-config.yaml").write_text(json.dumps(SPEC | spec))  # JSON is YAML
    (folder / "value.txt").write_text("0\n")
    for number in range(files - 2):
        path = folder / "data" / f"{number % 50:02d}" / f"{number:05d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * 200)
    for words in ("init -q", "add .", "commit -qm start"):
        git(folder, *words.split())
    return folder


def time_campaign(
    table: Table, folder: Path, attempts: int, profile: str | None, target: str = "at most 50 ms"
) -> None:
    name = folder.name
    order = [sys.executable, __file__, "--campaign", str(folder), "--attempts", str(attempts)]
    order += ["--profile", f"{profile}.{name}"] if profile else []
    found = json.loads(subprocess.run(order, check=True, stdout=subprocess.PIPE, text=True).stdout)
    laps: list[dict[str, float]] = found["laps"]
    edge = min(EDGE, len(laps) // 2)

    def middle(phase: str, part: list[dict[str, float]] = laps) -> float:
        return median([lap.get(phase, 0.0) for lap in part])

    def show(phase: str, value: float) -> str:
        return f"{value:g}" if phase.startswith("#") else ms(value)

    table.add(f"{name}: engine time per attempt, {len(laps)} attempts", ms(middle("engine")), target)
    for phase in sorted({phase for lap in laps for phase in lap} - {"engine"}, key=middle, reverse=True):
        table.add(f"{name}:     {phase}", show(phase, middle(phase)))
    table.add(f"{name}: start, with the baseline", ms(found["start"]))
    ends = [middle("engine", part) for part in (laps[:edge], laps[-edge:])]
    table.add(f"{name}: first and last {edge} attempts", " and ".join(map(ms, ends)))
    if name == "flat":
        table.add("flat: last / first", f"{ends[1] / ends[0]:.2f}", "at most 1.3")
    if found["memory"]:
        table.add(f"{name}: memory after {EDGE} attempts", f"{found['memory'][0]:.1f} MB")
        table.add(f"{name}: memory at the end", f"{found['memory'][-1]:.1f} MB", "as after 100")
        table.add(f"{name}: helper processes besides", f"{found['helpers']:.1f} MB")


def time_verb(table: Table, figure: str, command: list[str], folder: Path, times: int, target: str = "") -> None:
    wall, cpu = [], []
    for _ in range(times):
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append(time.perf_counter() - begin)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    table.add(figure, f"{ms(median(wall))} (CPU {ms(median(cpu))})", target)


def time_verbs(table: Table, folder: Path, times: int) -> None:
    subprocess.run([*ARK, "run", "--tag", "t", "--attempts", "3"], cwd=folder, check=True, capture_output=True)
    begin = time.perf_counter()
    for _ in range(100):
        (folder / "new").mkdir()
        (folder / "new").rmdir()
    table.add("for orientation: mkdir and rmdir", ms((time.perf_counter() - begin) / 100))
    time_verb(table, "for orientation: git rev-parse HEAD", ["git", "rev-parse", "HEAD"], folder, times)
    time_verb(table, "for orientation: python -c pass", [sys.executable, "-c", "pass"], folder, times)
    time_verb(table, "ark --help", [*ARK, "--help"], folder, times, "at most 150 ms")
    for verb in ("status", "log"):
        time_verb(table, f"ark {verb}, 4 attempts", [*ARK, verb], folder, times)


def time_log(table: Table, folder: Path, count: int, times: int) -> None:
    """Over attempts that read as the ledger writes them, but were written by one git process."""
    from autoresearch_kit.core.records import Attempt, Cost, Measurement, Outcome, Proposal, Verdict
    from autoresearch_kit.ledger.message import write_message

    head, stream = git(folder, "rev-parse", "HEAD").strip(), []
    for n in range(count):
        outcome = Outcome.KEEP if n % 20 == 0 else Outcome.CRASH if n % 20 == 1 else Outcome.DISCARD
        problem, tail = ("exit: exit code 1", "Traceback\n" * 20) if outcome is Outcome.CRASH else ("", "")
        also = {"peak_memory_mb": 812.25, "wall_seconds": 300.1, "cpu_seconds": 580.5}
        sample = Measurement(1.0 - n * 1e-6, also, problem, 300.123, tail, n, "Linux x86_64, a processor, 2 cores")
        verdict = Verdict(outcome, f"{outcome.capitalize()}: 0.99 -> 0.98, better by 0.01 (1 %)", 0.01)
        proposal = Proposal(f"Change the rate to {n}", "A reason of some length. " * 4, "command", Cost(12.5))
        attempt = Attempt(n, "", head, "", proposal, (sample,), verdict, "2026-01-01T00:00:00.000Z", "0" * 16)
        message = write_message(attempt)
        stream.append(
            f"commit refs/ark/long/{n:04d}\ncommitter ark <ark@localhost> {1_700_000_000 + n} +0000\n"
            f"data {len(message.encode())}\n{message}\nfrom {head}\n"
            f"M 100644 inline value.txt\ndata {len(str(n))}\n{n}\n\n"
        )
    loose = f"fastimport.unpackLimit={10 * count}"
    git(folder, "-c", loose, "fast-import", "--quiet", feed="".join(stream).encode())
    for state in ("loose", "after git gc"):
        where = f"{count} attempts, {state}"
        time_verb(table, f"ark log --json, {where}", [*ARK, "log", "--json"], folder, times, "at most 500 ms")
        time_verb(table, f"ark status, {where}", [*ARK, "status"], folder, times)
        if state == "loose":
            git(folder, "gc", "--quiet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("small", "eval", "files", "cli", "log", "flat")
    parser.add_argument("only", nargs="*", choices=[*names, []], metavar="NAME", help=f"{', '.join(names)}; else all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--attempts", type=int, help="for each campaign, instead of its own number")
    parser.add_argument("--profile", metavar="FILE", help="write CPU profiles FILE.NAME; makes everything slower")
    parser.add_argument("--campaign", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.campaign:
        print(json.dumps(campaign(options.campaign, options.attempts, options.profile)))
        return

    table, quick = Table(), options.quick
    with tempfile.TemporaryDirectory(prefix="ark-benchmark-") as place:
        os.environ |= {"HOME": place, "XDG_CACHE_HOME": place, "GIT_CONFIG_NOSYSTEM": "1"}
        for who in ("AUTHOR", "COMMITTER"):
            os.environ |= {f"GIT_{who}_NAME": "benchmark", f"GIT_{who}_EMAIL": "benchmark@localhost"}
        for name in options.only or names:
            print(name, file=sys.stderr)
            folder = Path(place, name)
            size = options.attempts or (6 if quick else {"files": 120, "flat": 2000}.get(name, 300))
            if name == "files":
                make_project(folder, 300 if quick else 3000)
                time_campaign(table, folder, size, options.profile, "at most 250 ms")
            elif name == "cli":
                time_verbs(table, make_project(folder), 2 if quick else 25)
            elif name == "log":
                time_log(table, make_project(folder), 200 if quick else 10_000, 1 if quick else 7)
            else:
                make_project(folder, **(WITH_EVAL if name == "eval" else {}))
                time_campaign(table, folder, size, options.profile)
    print(table)


if __name__ == "__main__":
    main()
