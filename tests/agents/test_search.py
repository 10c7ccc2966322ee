"""python -m pytest tests/agents/test_search.py"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_kit.agents.search import TITLE, Axis, Search, SearchAgent, title
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.tunables import Tunable, Value, read_all, write

LANES = Tunable(file="k.h", name="LANES", choices=(1, 2, 4, 8))
RATE = Tunable(file="t.py", name="RATE", low=1e-4, high=1.0, log=True)
KIND = Tunable(file="t.py", name="KIND", choices=("a", "b", True, 1))
DEPTH = Tunable(file="t.py", name="DEPTH", low=0, high=8, step=2)
ALL = [LANES, RATE, KIND, DEPTH]
FILES = {"k.h": "#define LANES 1 // wide\r\n", "t.py": "RATE = 0.5  # high\nKIND = 'a'\nDEPTH = 3\n"}


def lay(folder: Path, files: Mapping[str, str] = FILES) -> Path:
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    return folder


def values(folder: Path, tunables: list[Tunable]) -> dict[str, Value]:
    return read_all({t.file: (folder / t.file).read_bytes().decode() for t in tunables}, tunables)


def entry(
    number: int, parameters: Mapping[str, Value], value: float | None, outcome: str = "discard"
) -> dict[str, Any]:
    return {"number": number, "outcome": outcome, "value": value, "parameters": dict(parameters)}


@pytest.fixture
def agent() -> Iterator[SearchAgent]:
    agent = SearchAgent(ALL, "minimize", 1)
    yield agent
    agent.close()


def test_the_parent_does_not_import_optuna() -> None:
    check = "import sys, autoresearch_kit.agents.search; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


@pytest.mark.slow
def test_a_run_edits_the_files_and_nothing_else(agent: SearchAgent, tmp_path: Path) -> None:
    history = [entry(0, values(lay(tmp_path), ALL), 9.0, "keep")]
    seen = {json.dumps(history[0]["parameters"])}
    for number in range(1, 15):
        answer = agent.propose(lay(tmp_path), history)
        assert not isinstance(answer, str)
        found = values(tmp_path, ALL)
        assert json.dumps(found) not in seen
        seen.add(json.dumps(found))
        assert all((f"{key} " in answer[0]) != (found[key] == old) for key, old in history[0]["parameters"].items())
        assert len(answer[0]) <= TITLE and answer[1].startswith(("random start-up", "TPE"))
        files = dict(FILES)
        for tunable in ALL:
            files[tunable.file] = write(files[tunable.file], tunable, found[tunable.name])
        assert {name: (tmp_path / name).read_bytes().decode() for name in files} == files
        crashed = found["LANES"] == 8
        history.append(entry(number, found, None if crashed else random.random(), "crash" if crashed else "discard"))


def search(*tunables: Tunable) -> Search:
    return Search(tunables, "maximize", 1)


@pytest.mark.slow
def test_a_small_space_is_measured_once_and_then_finished(tmp_path: Path) -> None:
    found = search(LANES, KIND, DEPTH)
    current: dict[str, Value] = {"LANES": 1, "KIND": "a", "DEPTH": 3}  # 3 is off the grid
    found.tell(entry(0, current, 1.0, "keep"))
    seen = []
    while asked := found.ask(current):
        seen.append(asked[0])
        found.tell(entry(len(seen), asked[0], random.random() if len(seen) % 3 else None, "crash"))
    assert len(seen) == len({repr(one) for one in seen}) == 4 * 4 * 5
    assert found.turn(lay(tmp_path), []) == {"finished": "all 80 combinations have been measured"}


def test_what_was_proposed_is_not_proposed_again_until_it_was_lost() -> None:
    found = search(LANES)
    asked = [found.ask({"LANES": 1}) for _ in range(4)]
    assert sorted(one[0]["LANES"] for one in asked if one) == [2, 4, 8] and asked[3] is None
    found.tell(entry(1, {"LANES": 4}, None, "lost"))
    again = found.ask({"LANES": 1})
    assert again and again[0] == {"LANES": 4}
    found.tell(entry(2, {"LANES": 4}, 1.0))
    found.tell(entry(3, {"LANES": 4}, None, "lost"))
    assert found.ask({"LANES": 1}) is None


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"parameters": None},
        {"parameters": {"LANES": 3}},
        {"parameters": {"LANES": "8"}},
        {"parameters": {"LANES": True}},
        {"parameters": {"OTHER": 8}},
        {"parameters": {"LANES": 8}, "outcome": "running"},
        {"parameters": {"LANES": 8}, "value": float("nan")},
        {"parameters": {"LANES": 8}, "value": None},
        {"parameters": {"LANES": 8.0}, "value": 1, "outcome": "keep"},
    ],
)
def test_odd_history_is_no_error(bad: dict[str, Any]) -> None:
    found = search(LANES)
    found.tell({"number": 0, "outcome": "discard", "value": 1.0, **bad})
    assert found.ask({"LANES": 1})


def test_out_of_range_values_of_every_kind_are_skipped() -> None:
    found = search(*ALL)
    odd: list[Any] = [(2, 2), (0.0, 2), ("x", 2), (0.1, 3), (0.1, -2), (True, 2), (1e308, 10**40)]
    for number, (rate, depth) in enumerate(odd):
        found.tell(entry(number, {"LANES": 1, "RATE": rate, "KIND": "a", "DEPTH": depth}, 1.0))
    assert found.told == 0
    found.tell(entry(9, {"LANES": 1, "RATE": 1, "KIND": True, "DEPTH": 2.0}, 1.0))
    assert found.told == 1


def test_it_finds_a_good_place() -> None:
    """Not a benchmark: only that values and direction reach the sampler."""
    found = Search([Tunable(file="a.py", name=name, low=0.0, high=10.0) for name in "xy"], "minimize", 0)
    best, crashes = 99.0, 0
    for number in range(60):
        asked = found.ask({"x": 9.0, "y": 9.0})
        assert asked
        x, y = (float(value) for value in asked[0].values())
        if x > 5:
            crashes += number >= 20
            found.tell(entry(number, asked[0], None, "crash"))
            continue
        value = (x - 2) ** 2 + (y - 7) ** 2
        best = min(best, value)
        found.tell(entry(number, asked[0], value))
    assert best < 1 and crashes < 10  # of 40; chance alone would give 20


@settings(deadline=None, max_examples=60)
@given(
    st.one_of(
        st.builds(lambda low, more: {"low": low, "high": low + more}, st.integers(-99, 99), st.integers(1, 99)),
        st.builds(lambda low, more: {"low": low, "high": low + more}, st.floats(-9, 9), st.floats(0.001, 9)),
        st.builds(
            lambda low, more: {"low": low, "high": low * more, "log": True}, st.floats(1e-9, 9), st.floats(1.1, 1e9)
        ),
        st.builds(
            lambda low, more: {"low": low, "high": low + more, "log": True}, st.integers(1, 9), st.integers(1, 999)
        ),
        st.builds(
            lambda step, n: {"low": 0, "high": n, "step": step}, st.sampled_from([0.1, 0.25, 3, 7]), st.integers(1, 9)
        ),
        st.builds(lambda choices: {"choices": choices}, st.lists(st.integers(-999, 999), min_size=1, unique=True)),
    ),
    st.integers(),
)
def test_draws_and_values_agree(fields: dict[str, Any], seed: int) -> None:
    axis = Axis(Tunable(file="a.py", name="X", **fields))
    found = Search([axis.tunable], "minimize", seed % 2**32)
    asked = found.ask({"X": "none"})
    value = asked[0]["X"] if asked else None
    for one in (value, axis.random(random.Random(seed))):
        assert one is not None and axis.draw(one) is not None
        assert axis.tunable.canonical(one) == one and len(str(one)) < 24
        if axis.grid is None:
            assert axis.low <= float(one) <= axis.high


def test_title() -> None:
    assert title({"A": 1, "B": 2, "C": "x"}, {"A": 8, "B": 2, "C": "y"}) == "A 1 -> 8, C x -> y"
    assert title({"A": 1}, {"A": 1.0}) == "A 1 -> 1.0"
    many = {f"NAME_{index}": index for index in range(20)}
    short = title(many, {key: value + 100 for key, value in many.items()})
    assert len(short) <= TITLE and short.endswith(" and 15 more")


def test_errors_reach_the_engine_and_the_program_lives_on(agent: SearchAgent, tmp_path: Path) -> None:
    lay(tmp_path, {**FILES, "k.h": "#define LANES (a + b)\n"})
    with pytest.raises(ArkError, match="LANES is not a plain literal") as caught:
        agent.propose(tmp_path, [])
    assert caught.value.hint
    (tmp_path / "k.h").unlink()
    (tmp_path / "k.h").symlink_to("t.py")
    with pytest.raises(ArkError, match="not a plain file"):
        agent.propose(tmp_path, [])
    (tmp_path / "k.h").unlink()
    assert isinstance(agent.propose(lay(tmp_path), []), tuple)


def test_a_dead_program_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no module named x' >&2\nexit 3\n")
    python.chmod(0o755)
    agent = SearchAgent(ALL, "minimize", 1, python=str(python), log=tmp_path / "search.log")
    with pytest.raises(ArkError, match="the search program ended: no module named x"):
        agent.propose(lay(tmp_path), [])
    agent.close()
    agent.close()


@pytest.mark.slow
def test_a_killed_program_is_an_error(agent: SearchAgent, tmp_path: Path) -> None:
    agent.propose(lay(tmp_path), [])
    os.kill(agent._process.pid, signal.SIGKILL)
    with pytest.raises(ArkError, match="exit code -9"):
        agent.propose(lay(tmp_path), [])


@pytest.mark.slow
def test_the_program_ends_with_its_engine() -> None:
    code = (
        "import time; from autoresearch_kit.agents.search import *;"
        "a = SearchAgent([Tunable(file='a.py', name='X', low=1, high=2)], 'minimize', 1);"
        "print(a._process.pid, flush=True); time.sleep(60)"
    )
    engine = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert engine.stdout
    program = int(engine.stdout.readline())
    engine.kill()
    engine.communicate()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(program) and psutil.Process(program).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_stray_print_is_no_answer(tmp_path: Path) -> None:
    """Whatever a library prints goes to the log."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, threading\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        name == 'optuna' and print('hello from optuna', flush=True)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    program = subprocess.run(
        [sys.executable, "-m", "autoresearch_kit.agents.search"],
        input=json.dumps({"tunables": [LANES.model_dump()], "direction": "minimize", "seed": 1}).encode()
        + b"\n"
        + json.dumps({"folder": str(lay(tmp_path)), "history": []}).encode()
        + b"\n",
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert "LANES 1 -> " in json.loads(program.stdout)["title"]
    assert b"hello from optuna" in program.stderr
