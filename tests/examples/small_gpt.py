"""Six attempts at a language model on a CPU: the same for both examples that train one."""

from __future__ import annotations

from pathlib import Path

from example_project import CPU_SPEC, attempts_of, commit, edit, measured_of_six

SMALLEST = {"SMALL_DEPTH": 1, "SMALL_WIDTH": 64, "SMALL_BATCH_TOKENS": 1024}
RANGES = {
    "SMALL_DEPTH": "low: 1, high: 2",
    "SMALL_WIDTH": "choices: [64, 128]",
    "SMALL_BATCH_TOKENS": "choices: [1024, 2048]",
}


def check_six_attempts(project: Path) -> None:
    """The CPU spec as it is but for the time: three seconds of training instead of thirty, one run for each attempt,
    and sizes from the small end of its ranges, since most of the time is the judge's, on all of the validation rows."""
    spec = project / CPU_SPEC
    for name, value in SMALLEST.items():
        edit(project / "train.py", rf"^{name} = \d+", f"{name} = {value}")
        edit(spec, rf'name: "{name}", [^}}]*', f'name: "{name}", {RANGES[name]}')
    edit(spec, r"^budget_minutes: .*$", "budget_minutes: 0.05")
    with spec.open("a") as file:
        file.write("decision: first_better\n")
    commit(project)
    for attempt in measured_of_six(attempts_of(project, "--attempts", "6")):
        assert attempt["value"] > attempt["also"]["entropy_floor_bpb"] > 0
        assert attempt["also"]["peak_vram_mb"] > 0
