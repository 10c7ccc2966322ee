"""Six attempts at a language model on a CPU: the same for both examples that train one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml
from example_project import CPU_SPEC, attempts_of, commit, edit, measured_of_six

SMALLEST = {"SMALL_DEPTH": 1, "SMALL_WIDTH": 64, "SMALL_BATCH_TOKENS": 1024}
RANGES = {
    "SMALL_DEPTH": "low: 1, high: 2",
    "SMALL_WIDTH": "choices: [64, 128]",
    "SMALL_BATCH_TOKENS": "choices: [1024, 2048]",
}

LESS = "--stories 10000 --val-tokens 16384"


def check_six_attempts(project: Path) -> None:
    """The CPU spec with three seconds of training instead of thirty, one run for each attempt, sizes from the small end
    of its ranges, and a quarter of the validation rows, since most of the time is the judge's."""
    spec = project / CPU_SPEC
    for name, value in SMALLEST.items():
        edit(project / "train.py", rf"^{name} = \d+", f"{name} = {value}")
        edit(spec, rf'name: "{name}", [^}}]*', f'name: "{name}", {RANGES[name]}')
    edit(spec, r"^budget_minutes: .*$", "budget_minutes: 0.05")
    with spec.open("a") as file:
        file.write("decision: first_better\n")
    prepare_less(project)
    commit(project)
    for attempt in measured_of_six(attempts_of(project, "--attempts", "6")):
        assert attempt["value"] > attempt["also"]["entropy_floor_bpb"] > 0
        assert attempt["also"]["peak_vram_mb"] > 0


def prepare_less(project: Path) -> None:
    """Fewer stories, made and pinned as users do it with data of their own."""
    edit(project / CPU_SPEC, r'^setup_command: "([^"]*)"', rf'setup_command: "\1 {LESS}"')
    set_up(project, f"--pin {CPU_SPEC}")


def set_up(project: Path, further: str = "") -> None:
    """The CPU spec's own setup, with further options."""
    command = yaml.safe_load((project / CPU_SPEC).read_text())["setup_command"]
    subprocess.run(["sh", "-c", f"{command} {further}"], cwd=project, check=True, capture_output=True)
