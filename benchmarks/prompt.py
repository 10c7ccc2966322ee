"""python benchmarks/prompt.py [ATTEMPTS ...]      (20, 200 and 2000 unless given)

How large the prompt of one attempt is, and how long it takes to make, after so many attempts: a real repository with a
ledger of made-up attempts. Every sixth is kept, every eighth crashes; titles, reasons and logs are as long as agents
write them.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autoresearch_kit.agents.brief import render_prompt
from autoresearch_kit.core.records import Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.ledger.git import Entry
from autoresearch_kit.ledger.ideas import write_idea
from autoresearch_kit.ledger.ledger import Ledger
from autoresearch_kit.project import Project, open_project
from autoresearch_kit.ratchet import Run

SPEC = {
    "name": "prompt",
    "metric": "loss",
    "metric_direction": "minimize",
    "mutable_files": ["train.py"],
    "run_command": "python3 train.py",
}
KINDS = ("optimizer", "schedule", "batch", "init", "size", "attention", "systems", "architecture", "simplify", "data")
WORDS = ("longer", "shorter", "warm-up", "decay", "floor", "rate", "of", "the", "head", "embedding", "with", "less")
IDEAS = 12


class Made:
    """A run of made-up attempts in a ledger."""

    def __init__(self, project: Project, seed: int = 0) -> None:
        self.project = project
        self.ledger = Ledger(project.repository, project.spec.branch_prefix, "made", project.spec_name)
        self.random = random.Random(seed)
        self.count = 0
        self.value = 1.0
        self.lines = [f"VALUE_{n} = {n}" for n in range(200)]
        self.head = project.repository.head()
        self.add()

    def add(self) -> None:
        """One more attempt, the baseline first."""
        rng, number = self.random, self.count
        lines = list(self.lines)
        for _ in range(3 if number else 0):
            lines[rng.randrange(len(lines))] = f"VALUE_{number} = {rng.random()}  # {self.words(6)}"
        blob = self.project.repository.store_blob("\n".join(lines).encode())
        tree = self.project.repository.store_tree(self.head, {"train.py": Entry(0o100644, blob)})
        title = f"{rng.choice(KINDS)}: {self.words(rng.randint(4, 12))}" if number else "Baseline"
        proposal = Proposal(title, self.words(60), "command")
        attempt = self.ledger.reserve(number, proposal, tree=tree, parent=self.head, yardstick="y")
        closed = self.ledger.close(attempt, *self.judged(number))
        if closed.outcome is Outcome.KEEP:
            self.head, self.lines, self.value = closed.commit, lines, closed.value or self.value
        self.count += 1

    def judged(self, number: int) -> tuple[list[Measurement], Verdict]:
        """What came of it."""
        rng = self.random
        if number % 8 == 5:
            log = "".join(f"step {n}: {self.words(14)}\n" for n in range(60)) + "RuntimeError: out of memory\n"
            problem = f"exit: exit code 1; its last words: RuntimeError: {self.words(8)}"
            return [Measurement(None, {}, problem, 1.0, log)], Verdict(Outcome.CRASH, f"Crash: {problem}")
        if number == 0:
            return [Measurement(1.0)], Verdict(
                Outcome.KEEP, "Baseline: 1, the mean of 3 runs; the noise of one is 0.01"
            )
        kept = number % 6 == 0
        gain = (0.001 + 0.01 * rng.random()) * self.value * (1 if kept else -1)
        value = self.value - gain
        better, outcome = ("better", Outcome.KEEP) if kept else ("worse", Outcome.DISCARD)
        change = f"{self.value:.6g} -> {value:.6g}, {better} by {abs(gain):.6g}"
        return [Measurement(value)], Verdict(outcome, f"{outcome.capitalize()}: {change} in 4 runs", gain, 0.01)

    def words(self, count: int) -> str:
        return " ".join(self.random.choice(WORDS) for _ in range(count))


def made(folder: Path) -> Made:
    """A project in a new repository, with the baseline measured and ideas noted."""
    (folder / "autoresearch-config.yaml").write_text(json.dumps(SPEC))
    (folder / "train.py").write_text("")
    who = ("-c", "user.name=U", "-c", "user.email=u@example.org")
    for words in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "start")):
        subprocess.run(["git", *words], cwd=folder, check=True)
    run = Made(open_project(folder))
    for _ in range(IDEAS):
        write_idea(run.project.repository, "made", run.words(20), "command")
    return run


def look(project: Project, repeats: int = 5) -> tuple[int, int, float]:
    """Characters and lines of the next prompt, and the seconds that it takes, as a resumed run sees it."""
    with Run(project, "made") as run:
        run.open()
        seconds = []
        for _ in range(repeats):
            begin = time.perf_counter()
            text = render_prompt(run)
            seconds.append(time.perf_counter() - begin)
    return len(text), text.count("\n"), statistics.median(seconds)


def main(sizes: list[int]) -> None:
    """Print the table."""
    print(f"{'attempts':>8}  {'characters':>10}  {'lines':>5}  {'seconds':>7}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        (Path(folder) / "project").mkdir()
        run = made(Path(folder) / "project")
        for size in sorted(sizes):
            while run.count <= size:
                run.add()
            characters, lines, seconds = look(run.project)
            print(f"{size:>8}  {characters:>10}  {lines:>5}  {seconds:>7.3f}", flush=True)
        run.project.repository.close()


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [20, 200, 2000])
