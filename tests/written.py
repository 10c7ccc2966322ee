"""Ledgers written by hand: a repository with whatever attempts a test wants, by one git and without any run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_kit.core.records import Attempt, Cost, Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.core.specfile import parse_spec
from autoresearch_kit.ledger.message import write_message

SPEC_NAME = "autoresearch-config.yaml"
SPEC: dict[str, Any] = {
    "name": "written",
    "metric": "loss",
    "metric_direction": "minimize",
    "mutable_files": ["train.py"],
    "run_command": "python3 train.py",
}
MACHINE = "Linux x86_64, a processor, 2 cores"


@dataclass
class Tried:
    """One attempt; what it wrote stays in the tree of the next only when it was kept."""

    outcome: str
    values: Sequence[float] = ()
    title: str = "an idea"
    why: str = ""
    reason: str = ""
    problem: str = ""
    log: str = ""
    agent: str = "claude"
    cost: Cost = field(default_factory=Cost)
    heads: Sequence[float] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    gain: float | None = None


def write_repository(folder: Path, **spec: Any) -> Path:
    """A repository with the spec and train.py in its one commit."""
    folder.mkdir(parents=True)
    (folder / SPEC_NAME).write_text(json.dumps({**SPEC, **spec}, indent=1))  # JSON is YAML
    (folder / "train.py").write_bytes(b"".join(b"VALUE_%d = %d\n" % (n, n) for n in range(12)))
    for words in ("init -q -b main", "add .", "-c user.name=U -c user.email=u@example.org commit -qm start"):
        git(folder, *words.split())
    return folder


def git(folder: Path, *args: str, feed: bytes = b"") -> str:
    return subprocess.run(["git", *args], cwd=folder, check=True, capture_output=True, input=feed).stdout.decode()


def write_run(folder: Path, tries: Sequence[Tried], tag: str = "t", maximize: bool = False) -> Path:
    """Write a run of these attempts into the repository, the first its baseline."""
    parent, head, began = git(folder, "rev-parse", "HEAD").strip(), None, 1767225600
    yardstick = parse_spec((folder / SPEC_NAME).read_text()).yardstick
    stream = b""
    for number, tried in enumerate(tries):
        attempt = _attempt(number, tried, head, yardstick, maximize)
        message, at = write_message(attempt).encode(), began + 60 * number
        stream += f"commit refs/ark/{tag}/{number:04d}\nmark :{number + 1}\n".encode()
        stream += f"committer ark <ark@localhost> {at} +0000\ndata {len(message)}\n".encode()
        stream += message + f"\nfrom {parent}\n".encode()
        for path, data in tried.files.items():
            stream += f"M 100644 inline {json.dumps(path)}\ndata {len(data)}\n".encode() + data + b"\n"
        stream += b"\n"
        if tried.outcome == "keep":
            parent, head = f":{number + 1}", attempt.value
    stream += f"reset refs/heads/autoresearch/{tag}\nfrom {parent}\n\n".encode()
    git(folder, "fast-import", "--quiet", feed=stream)
    return folder


def _attempt(number: int, tried: Tried, head: float | None, yardstick: str, maximize: bool) -> Attempt:
    also = {"peak_memory_mb": 812.25}
    samples = [Measurement(value, also, "", 30.0, "", 7 + at, MACHINE) for at, value in enumerate(tried.values)]
    samples += [
        Measurement(value, {}, "", 30.0, "", 90 + at, MACHINE, of_head=True) for at, value in enumerate(tried.heads)
    ]
    if tried.problem:
        samples.append(Measurement(None, {}, tried.problem, 2.0, tried.log, 7, MACHINE))
    value = sum(tried.values) / len(tried.values) if tried.values else None
    gain = tried.gain
    if gain is None and number and head is not None and value is not None:
        gain = value - head if maximize else head - value
    outcome = Outcome(tried.outcome)
    verdict = (
        None if outcome is Outcome.RUNNING else Verdict(outcome, tried.reason or f"{outcome.capitalize()}: so", gain)
    )
    proposal = Proposal(tried.title, tried.why, tried.agent if number else "", tried.cost)
    started = f"2026-01-01T{number // 60 % 24:02d}:{number % 60:02d}:00.000Z"
    return Attempt(number, "", "", "", proposal, tuple(samples), verdict, started, yardstick, spec=SPEC_NAME)
