"""python -m pytest tests/test_benchmarks.py -m slow"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
def test_the_engine_benchmark_runs_and_prints_its_table(tmp_path: Path) -> None:
    """That it still fits the engine; how fast anything was is for people to read."""
    order = [sys.executable, str(BENCHMARKS / "engine.py"), "--quick"]
    done = subprocess.run(order, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["figure", "target", "measured"]
    for name in ("small", "eval", "files", "flat"):
        assert any(row.startswith(f"{name}: engine time per attempt, 6 attempts") for row in rows), done.stdout
    for figure in ("ark --help", "ark log --json, 200 attempts, loose", "ark log --json, 200 attempts, after git gc"):
        assert any(row.startswith(figure) for row in rows), done.stdout


def test_every_benchmark_begins_with_its_command() -> None:
    for path in BENCHMARKS.glob("*.py"):
        assert path.read_text().startswith(f'"""python benchmarks/{path.name}')
