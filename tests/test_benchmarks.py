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


@pytest.mark.slow
def test_the_benchmark_of_the_gate_runs_and_prints_its_tables(tmp_path: Path) -> None:
    """That it still fits `decide`; tests/core/test_gate.py asks whether the figures are right."""
    order = [sys.executable, str(BENCHMARKS / "gate.py"), "--campaigns", "2"]
    done = subprocess.run(order, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tables = done.stdout.split("\n\n")
    for title, start in (
        ("False keeps in a campaign, no candidate has an effect", "| normal"),
        ("Runs for each of these candidates", "| Student t, 3 degrees"),
        ("Every fifth candidate has a gain, normal noise", "| 2    | sequential"),
        ("The same under other noise, `sequential` alone", "| bimodal, 50 % better"),
        ("No noise, every fifth candidate has a gain", "| 1e-09 | 100.0 ± 0.0 | 1.00"),
        ("Other settings, no candidate has an effect, normal noise", "| max_runs 24"),
        ("The same, every fifth has a gain", "| noise 0.1 % of a value that grows"),
    ):
        table = tables[tables.index(title) + 1]
        assert any(row.startswith(start) for row in table.splitlines()), done.stdout


@pytest.mark.slow
def test_one_campaign_can_be_looked_at(tmp_path: Path) -> None:
    order = [
        sys.executable,
        str(BENCHMARKS / "simulation.py"),
        "gain=3.0",
        "noise=bimodal, 50 % better",
        "candidates=7",
    ]
    done = subprocess.run(order, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row.partition(",")[0] for row in done.stdout.splitlines()] == [
        f"Trial(gain={gain}" for gain in (0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0)
    ]


def test_every_benchmark_begins_with_its_command() -> None:
    commands = [path for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text()]
    assert len(commands) > 10
    for path in commands:
        assert path.read_text().startswith(f'"""python benchmarks/{path.name}')


@pytest.mark.slow
def test_the_benchmark_of_rehearsals_runs_and_prints_its_table(tmp_path: Path) -> None:
    order = [sys.executable, str(BENCHMARKS / "rehearse.py"), "--attempts", "4"]
    done = subprocess.run(order, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header, *rows = (line.split() for line in done.stdout.splitlines())
    assert header[:4] == ["attempts", "files", "noise", "measured"]
    assert [row[:4] for row in rows if row[2] == "0"] == [["1", "0", "0", "4"], ["1", "3000", "0", "4"]]
    assert len(rows) == 8


@pytest.mark.slow
def test_the_benchmark_of_compare_runs_and_prints_its_table(tmp_path: Path) -> None:
    order = [sys.executable, str(BENCHMARKS / "compare.py"), "--runs", "2", "--attempts", "30", "--times", "1"]
    done = subprocess.run(order, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["figure", "target", "median", "fastest", "CPU"]
    assert [row.partition("  ")[0] for row in rows[2:]] == [
        "ark compare, 2 runs of 30 attempts, packed",
        "ark compare --json, 2 runs of 30 attempts, packed",
    ]
