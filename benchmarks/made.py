"""python benchmarks/made.py FOLDER [--runs 10] [--attempts 1000]

Makes a repository with runs that never were: refs/ark and branches as the engine writes them, by one git. For
benchmarks of what reads ledgers, and for looking at pages with much in them.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from autoresearch_kit.core.records import Attempt, Cost, Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.core.specfile import parse_spec
from autoresearch_kit.ledger.message import write_message

SPEC_NAME = "autoresearch-config.yaml"
SPEC = {
    "name": "made",
    "metric": "loss",
    "metric_direction": "minimize",
    "mutable_files": ["train.py"],
    "run_command": "python3 train.py",
}
MACHINES = ("Linux x86_64, a processor, 2 cores", "Linux x86_64, another processor, 8 cores")
AGENTS = ("claude", "codex", "search")
CONSTANTS = 200
KEPT_EVERY, CRASHED_EVERY = 20, 15
SECONDS = 300
BEGAN = 1767225600  # 2026-01-01
WHY = "The loss still falls at the end, so a higher rate should get further in the same time."


def make(folder: Path, runs: int = 10, attempts: int = 1000, spec: dict[str, object] | None = None) -> Path:
    """A repository in `folder`, which must not exist, with `runs` runs of `attempts` attempts, baselines counted."""
    folder.mkdir(parents=True)
    text = json.dumps({**SPEC, **(spec or {})}, indent=1)  # JSON is YAML
    (folder / SPEC_NAME).write_text(text)
    (folder / "train.py").write_text(_source({}))
    for words in ("init -q -b main", "add .", "-c user.name=U -c user.email=u@example.org commit -qm start"):
        _git(folder, *words.split())
    start = _git(folder, "rev-parse", "HEAD").strip()
    yardstick = parse_spec(text).yardstick
    stream = "".join(_stream(runs, attempts, start, yardstick))
    _git(folder, "fast-import", "--quiet", feed=stream.encode())
    return folder


def _git(folder: Path, *args: str, feed: bytes = b"") -> str:
    return subprocess.run(["git", *args], cwd=folder, check=True, capture_output=True, input=feed).stdout.decode()


def _source(turned: dict[int, float]) -> str:
    return "".join(f"VALUE_{n} = {turned.get(n, float(n))}\n\n" for n in range(CONSTANTS))


def _stream(runs: int, attempts: int, start: str, yardstick: str) -> Iterator[str]:
    """What `git fast-import` reads."""
    mark = 0
    for run in range(runs):
        dice = random.Random(run)
        parent, value = start, 1.0
        turned: dict[int, float] = {}
        for number in range(attempts):
            at = BEGAN + (run * attempts + number) * (SECONDS + 60)
            tried = dict(turned)
            if number:
                for _ in range(dice.randint(1, 3)):
                    tried[dice.randrange(CONSTANTS)] = round(dice.random(), 3)
            attempt = _attempt(number, value, yardstick, MACHINES[run % 2], dice, better=0.999 - 0.001 * run)
            mark += 1
            message, source = write_message(attempt), _source(tried)
            yield (
                f"commit refs/ark/run{run}/{number:04d}\nmark :{mark}\n"
                f"author {attempt.proposal.agent or 'ark'} <agent@localhost> {at} +0000\n"
                f"committer ark <ark@localhost> {at} +0000\n"
                f"data {len(message.encode())}\n{message}\nfrom {parent}\n"
                f"M 100644 inline train.py\ndata {len(source)}\n{source}\n\n"
            )
            if attempt.outcome is Outcome.KEEP:
                assert attempt.value is not None
                parent, turned, value = f":{mark}", tried, attempt.value
        yield f"reset refs/heads/autoresearch/run{run}\nfrom {parent}\n\n"


def _attempt(number: int, head: float, yardstick: str, machine: str, dice: random.Random, better: float) -> Attempt:
    kept, crashed = number % KEPT_EVERY == 0, number % CRASHED_EVERY == 1
    value = head if number == 0 else head * (better if kept else 1 + 0.05 * dice.random())
    problem, tail = ("", "")
    if crashed and not kept:
        problem, tail = "exit: exit code 1", "Traceback (most recent call last)\n  File train.py\n" * 10
    also = {"peak_memory_mb": 812.25, "wall_seconds": SECONDS - 0.5, "cpu_seconds": 580.5}
    sample = Measurement(None if problem else value, also, problem, SECONDS, tail, number, machine)
    outcome = Outcome.KEEP if kept else Outcome.CRASH if problem else Outcome.DISCARD
    gain = None if number == 0 or problem else head - value
    reason = "Baseline: 1" if number == 0 else f"{outcome.capitalize()}: {head:.6g} -> {value:.6g}"
    agent = "" if number == 0 else dice.choice(AGENTS)
    cost = Cost() if number == 0 else Cost(round(20 + 20 * dice.random(), 1), dice.randint(2000, 9000), 0.02)
    moment = f"2026-01-{1 + number // 240 % 28:02d}T{number // 10 % 24:02d}:{number % 10 * 6:02d}:00.000Z"
    return Attempt(
        number=number,
        commit="",
        parent="",
        tree="",
        proposal=Proposal("Baseline" if number == 0 else f"Turn the rate, idea {number}", WHY, agent, cost),
        measurements=(sample,),
        verdict=Verdict(outcome, reason, gain, 0.002),
        started=moment,
        yardstick=yardstick,
        spec=SPEC_NAME,
    )


def main() -> None:
    """Make one where somebody wants it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--attempts", type=int, default=1000)
    options = parser.parse_args()
    print(make(options.folder, options.runs, options.attempts))


if __name__ == "__main__":
    main()
