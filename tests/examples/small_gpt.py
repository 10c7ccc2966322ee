"""Six attempts at a language model on a CPU: the same for both examples that train one."""

from __future__ import annotations

import json
import re
from pathlib import Path

from example_project import ark, commit

CPU_SPEC = "autoresearch-config.cpu.yaml"
SMALLEST = {"SMALL_DEPTH": 1, "SMALL_WIDTH": 64, "SMALL_BATCH_TOKENS": 1024}
RANGES = {
    "SMALL_DEPTH": "low: 1, high: 2",
    "SMALL_WIDTH": "choices: [64, 128]",
    "SMALL_BATCH_TOKENS": "choices: [1024, 2048]",
}


def replaced(text: str, pattern: str, new: str) -> str:
    text, count = re.subn(pattern, new, text, flags=re.M)
    assert count == 1, pattern
    return text


def check_six_attempts(project: Path) -> None:
    """The CPU spec as it is but for the time: three seconds of training instead of thirty, one run for each attempt,
    and sizes from the small end of its ranges, since most of the time is the judge's, on all of the validation rows."""
    program, spec = (project / "train.py").read_text(), (project / CPU_SPEC).read_text()
    for name, value in SMALLEST.items():
        program = replaced(program, rf"^{name} = \d+", f"{name} = {value}")
        spec = replaced(spec, rf'name: "{name}", [^}}]*', f'name: "{name}", {RANGES[name]}')
    spec = replaced(spec, r"^budget_minutes: .*$", "budget_minutes: 0.05")
    (project / "train.py").write_text(program)
    (project / CPU_SPEC).write_text(f"{spec}decision: first_better\n")
    commit(project)
    run = ark(project, "run", CPU_SPEC, "--tag", "t", "--attempts", "6")
    assert run.returncode == 0, run.stdout + run.stderr
    attempts = json.loads(ark(project, "log", CPU_SPEC, "--tag", "t", "--json").stdout)
    assert len(attempts) == 7
    assert {attempt["outcome"] for attempt in attempts} <= {"keep", "discard", "crash"}
    measured = [attempt for attempt in attempts if attempt["value"] is not None]
    assert len(measured) >= 5, [attempt["problem"] for attempt in attempts]
    for attempt in measured:
        assert attempt["value"] > attempt["also"]["entropy_floor_bpb"] > 0
        assert attempt["also"]["peak_vram_mb"] > 0
    assert len({attempt["value"] for attempt in measured}) == len(measured)  # each was trained, none was copied
