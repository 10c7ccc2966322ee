"""The spec in its common form, taken literally from the design: check, program, run.

pytest tests/engine/test_design.py
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

Tiny = Any  # see conftest.py

SPEC = """\
name: "my-project"
metric: "val_bpb"
metric_direction: "minimize"            # or "maximize"
mutable_files:
  - "train.py"
immutable_files:
  - "prepare.py"
run_command: "python train.py > run.log 2>&1"
eval_command: "grep '^val_bpb:' run.log"
budget_minutes: 5
branch_prefix: "autoresearch"
rules:
  - "Only modify files listed in mutable_files"
"""
TRAIN = """\
import prepare

LOSS = 1.25
print("step 1, loss 2.5")
print(f"val_bpb:          {prepare.loss(LOSS):.6f}")
print("peak_vram_mb:     2048.0")
"""


@pytest.fixture
def common(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    for path in ("train.sh", "evaluate.sh"):
        (tiny.folder / path).unlink()
    tiny.write("autoresearch-config.yaml", SPEC)
    tiny.write("train.py", TRAIN)
    tiny.write("prepare.py", "def loss(value):\n    return value\n")
    tiny.commit("the common form")
    # `python` is what the form says; it is beside the interpreter of a virtual environment.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tiny


def test_the_common_form_passes_the_check(common: Tiny) -> None:
    done = common.ark_here("check")
    assert done.returncode == 0, done.stdout
    assert "val_bpb, lower is better" in done.stdout
    assert "killed after 10" in done.stdout, "twice the budget"


def test_the_common_form_gives_a_program(common: Tiny) -> None:
    assert common.ark_here("render-program").returncode == 0
    text = (common.folder / "program.md").read_text()
    for words in ("my-project", "`val_bpb`", "`train.py`", "`prepare.py`", "python train.py > run.log 2>&1",
                  "grep '^val_bpb:' run.log", "Only modify files listed in mutable_files"):  # fmt: skip
        assert words in text, words


def test_the_common_form_runs(common: Tiny) -> None:
    script = (
        "case $TURN in\n"
        "1) sed -i.bak 's/LOSS = .*/LOSS = 1.20/' train.py; echo 'return 0' > prepare.py; title 'optimizer: lower';;\n"
        "2) sed -i.bak 's/LOSS = .*/LOSS = 1.30/' train.py;;\n"
        "3) sed -i.bak 's/LOSS = .*/LOSS = None/' train.py;;\n"
        "esac"
    )
    done = common.ark("run", "--tag", "mar5", "--agent", common.agent(script), "--attempts", "3")
    assert done.returncode == 0, done.stderr
    found = common.log("mar5")
    assert [(a["outcome"], a["value"]) for a in found] == [
        ("keep", 1.25), ("keep", 1.2), ("discard", 1.3), ("crash", None)]  # fmt: skip
    assert "TypeError" in common.git("log", "-1", "--format=%B", "refs/ark/mar5/0003"), "the end of run.log"
    assert common.show("autoresearch/mar5", "prepare.py") == "def loss(value):\n    return value", "not taken"
    rows = [line.split("\t") for line in (common.folder / "results.tsv").read_text().splitlines()]
    assert rows[0] == ["commit", "val_bpb", "memory_gb", "status", "description"]
    assert [row[1:4] for row in rows[1:3]] == [["1.25", "2.000", "keep"], ["1.2", "2.000", "keep"]]
    assert common.git("status", "--porcelain") == ""
