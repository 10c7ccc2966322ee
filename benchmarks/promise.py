"""python benchmarks/promise.py [CAMPAIGNS] [ATTEMPTS]

Whether `ark run` keeps the promise of `decision.false_keeps`: real campaigns, with real git and processes, on the toy
whose loss is measured on other points each time (examples/toy/noisy.yaml). First the agent only makes changes without
effect; then every tenth is a real gain, of three standard deviations or more. Prints every keep and their counts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOY = Path(__file__).parents[1] / "examples" / "toy"
ARK = (sys.executable, "-m", "autoresearch_kit")
GAINS = {
    10: ("DEGREE", "3"),  # a loss of 0.167 -> 0.119, where one measurement has a noise of 0.014
    20: ("STEPS", "400"),  # -> 0.058
    30: ("LEARNING_RATE", "0.1"),  # -> 0.015
    40: ("LEARNING_RATE", "0.2"),  # -> 0.0043
}
AGENT = """
TURN=$(( $(cat '{count}' 2>/dev/null || echo 0) + 1 )); echo $TURN > '{count}'
echo "# note $TURN, which changes nothing" >> train.py
mkdir -p .ark; echo "a note" > .ark/attempt.md
case $TURN in
{cases}
esac
"""


@dataclass(frozen=True)
class Campaign:
    """What one campaign brought."""

    found: tuple[int, ...]
    """Turns with a gain that was kept."""
    missed: tuple[int, ...]
    """Turns with a gain that was not."""
    false_keeps: tuple[str, ...]
    """The verdicts of keeps without a gain."""
    runs_each: float
    """Runs per attempt without a gain, the head's included."""


def campaign(attempts: int, gains: dict[int, tuple[str, str]]) -> Campaign:
    """One campaign in a repository and a cache of its own."""
    with tempfile.TemporaryDirectory(prefix="ark-promise-") as place:
        root = Path(place)
        shutil.copytree(TOY, root / "toy")
        spec = root / "toy" / "noisy.yaml"
        spec.write_text(spec.read_text().replace("attempts: 50", f"attempts: {attempts}"))
        environment = {**os.environ, "HOME": place, "XDG_CACHE_HOME": f"{place}/cache", "NO_COLOR": "1"}
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        for line in (("init", "-q", "."), ("add", "-A"), (*identity, "commit", "-qm", "the toy")):
            subprocess.run(("git", *line), cwd=root / "toy", env=environment, check=True)
        cases = "\n".join(
            f'{turn}) sed -i.old "s/^{name} = [0-9.]*/{name} = {value}/" train.py; echo gain > .ark/attempt.md;;'
            for turn, (name, value) in gains.items()
        )
        agent = root / "agent.sh"
        agent.write_text(AGENT.format(count=root / "count", cases=cases))
        run = (*ARK, "run", str(spec), "--tag", "t", "--agent", f"sh '{agent}'")
        done = subprocess.run(run, env=environment, capture_output=True, text=True)
        if done.returncode != 3:  # a budget is spent
            raise RuntimeError(done.stderr)
        log = subprocess.run((*ARK, "log", str(spec), "--tag", "t", "--json"), env=environment, capture_output=True)
        entries: list[dict[str, Any]] = json.loads(log.stdout)[1:]
    null = [entry for entry in entries if entry["number"] not in gains]
    kept = {entry["number"] for entry in entries if entry["outcome"] == "keep"}
    return Campaign(
        found=tuple(turn for turn in gains if turn in kept),
        missed=tuple(turn for turn in gains if turn <= attempts and turn not in kept),
        false_keeps=tuple(entry["reason"] for entry in null if entry["outcome"] == "keep"),
        runs_each=sum(len(entry["values"]) + len(entry["head_values"]) for entry in null) / len(null),
    )


def campaigns(count: int, attempts: int, gains: dict[int, tuple[str, str]]) -> list[Campaign]:
    """Several, as many at once as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda _: campaign(attempts, gains), range(count)))


def report(title: str, found: list[Campaign]) -> str:
    """The counts as lines of text."""
    false = [reason for each in found for reason in each.false_keeps]
    lines = [
        f"{title}: {len(found)} campaigns",
        f"  false keeps  {len(false)}, {len(false) / len(found):.2f} per campaign; promised: 0.10 at most",
        f"  runs         {sum(each.runs_each for each in found) / len(found):.2f} per candidate without effect",
    ]
    if any(each.found or each.missed for each in found):
        missed = [turn for each in found for turn in each.missed]
        lines.append(f"  gains        {sum(len(each.found) for each in found)} found, {len(missed)} missed {missed}")
    return "\n".join([*lines, *(f"    {reason}" for reason in false)])


def main() -> None:
    count, attempts = (int(word) for word in (*sys.argv[1:3], *("20", "50")[len(sys.argv) - 1 :]))
    print(report("changes without effect", campaigns(count, attempts, {})), flush=True)
    print(report("every tenth change is a gain", campaigns(max(1, count // 4), attempts, GAINS)))


if __name__ == "__main__":
    main()
