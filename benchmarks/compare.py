"""python benchmarks/compare.py [--runs 10] [--attempts 1000] [--times 7] [--profile FILE]

How long `ark compare` takes, start of the process included, over runs that `made.py` makes below TMPDIR: with packed
refs, as the engine leaves a run (it packs when 3,000 objects are loose), and at worst, when no ref ever was packed.
Medians and the fastest; machines are noisy, and CPU time, with that of the gits that were started, is the quiet part.
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

import made

ARK = [sys.executable, "-c", "from autoresearch_kit.cli import main; main()"]
TARGET = "under 1 s"


def timed(folder: Path, *words: str, times: int) -> tuple[list[float], list[float]]:
    """Seconds on the wall and of CPU of so many calls."""
    wall, cpu = [], []
    for _ in range(times + 1):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*ARK, *words], cwd=folder, stdout=subprocess.PIPE, check=True)
        wall.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.stdout
    return wall[1:], cpu[1:]  # the first fills the caches of the disk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--attempts", type=int, default=1000)
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--profile", help="write the profile of one call to this file")
    options = parser.parse_args()
    os.environ["COLUMNS"] = "80"
    rows = [("figure", "target", "median", "fastest", "CPU")]
    with tempfile.TemporaryDirectory(prefix="ark-benchmark-") as scratch:
        folder = made.make(Path(scratch) / "made", options.runs, options.attempts)
        what = f"{options.runs} runs of {options.attempts} attempts"
        for state, target in (("no ref packed", ""), ("packed", TARGET)):
            if state == "packed":
                subprocess.run(["git", "pack-refs", "--all"], cwd=folder, check=True)
            for words in (("compare",), ("compare", "--json")):
                wall, cpu = timed(folder, *words, times=options.times)
                shown = [f"{1000 * found:.0f} ms" for found in (median(wall), min(wall), median(cpu))]
                rows.append((f"ark {' '.join(words)}, {what}, {state}", target, *shown))
        if options.profile:
            order = [sys.executable, "-m", "cProfile", "-o", options.profile, "-m", "autoresearch_kit", "compare"]
            subprocess.run(order, cwd=folder, check=True, capture_output=True)
        found = json.loads(subprocess.run([*ARK, "compare", "--json"], cwd=folder, capture_output=True).stdout)
        assert len(found["runs"]) == options.runs
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
