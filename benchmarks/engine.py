"""python benchmarks/engine.py [small] [eval] [files] [cli] [log] [flat] [--quick] [--attempts N] [--profile FILE]

What the engine costs beside the user's own commands: time per attempt and its phases, whether time and memory stay flat
over a long run, and how quick the verbs are. Each campaign is a process of its own, in a temporary repository, cache
and home below TMPDIR. Medians. Machines are noisy: compare ratios, look at the rows for orientation, and where the disk
is slow compare with TMPDIR=/dev/shm. CPU time is the quiet part of a figure.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

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
CAMPAIGN = Path(__file__).with_name("campaign.py")


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
    order = [sys.executable, str(CAMPAIGN), str(folder), str(attempts + 2)]
    order += [f"{profile}.{name}"] if profile else []
    printed = subprocess.run(order, check=True, stdout=subprocess.PIPE, text=True).stdout
    # The first attempt starts the agent's guardian, once for all.
    start, _, *laps, memory = (json.loads(line) for line in printed.splitlines())
    edge = min(EDGE, len(laps) // 2)

    def middle(phase: str, part: list[dict[str, float]] = laps) -> float:
        return median(lap.get(phase, 0.0) for lap in part)

    def show(phase: str, value: float) -> str:
        return f"{value:g}" if phase.startswith("#") else ms(value)

    table.add(f"{name}: engine time per attempt, {len(laps)} attempts", ms(middle("engine")), target)
    table.add(f"{name}:     of it CPU time of ark itself", ms(middle("cpu")))
    phases = sorted({phase for lap in laps for phase in lap} - {"engine", "cpu"}, key=middle, reverse=True)
    for phase in phases:
        table.add(f"{name}:     {phase}", show(phase, middle(phase)))
    table.add(f"{name}: start, with the baseline", ms(start["engine"]))
    if name == "flat":
        for phase in ("engine", "cpu", *phases):
            first, last = (middle(phase, part) for part in (laps[:edge], laps[-edge:]))
            if phase in ("engine", "cpu") or last > 1.3 * first + 0.0003:
                what = {"engine": "time", "cpu": "CPU time of ark itself"}.get(phase, f"    {phase}")
                target = "at most 1.3 times" if phase in ("engine", "cpu") else ""
                ratio = f"{last / first:.2f} times: " if first else ""
                table.add(f"flat: {what}, first and last {edge}", f"{ratio}{ms(first)} and {ms(last)}", target)
    if memory["memory"]:
        table.add(f"{name}: memory after {EDGE} attempts", f"{memory['memory'][0]:.1f} MB")
        table.add(f"{name}: memory at the end", f"{memory['memory'][-1]:.1f} MB", "as after 100")
        table.add(f"{name}: helper processes besides", f"{memory['helpers']:.1f} MB")


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
    options = parser.parse_args()
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
