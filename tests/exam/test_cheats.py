"""What is planted is a program in the file's own language; forged and constant output; the statistics.

.venv/bin/pytest tests/exam/test_cheats.py
"""

from __future__ import annotations

import ast
import itertools
import random
import shutil
import subprocess
import sys
from collections import Counter

import pytest

from autoresearch_kit.exam import cheats, noise

PYTHON = b'''#!/usr/bin/env python3
"""Words
over lines."""
from __future__ import annotations
import sys

class Model:
    def __init__(self): self.bias = 1
    def predict(self, x): return x + self.bias
    @property
    def name(self): return "model"

def stream(x):
    yield x
    return None

@staticmethod
def plain(x): return Model().predict(x)

def main():
    return 0

if __name__ == "__main__":
    print("honest")'''
C = b'#include <stdio.h>\nint main(void) { puts("honest"); return 0; }'


def run(*words, cwd):
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize(("command", "expected"), [("echo 'it\"s me'", 'it"s me\n'), ("false", "honest\n")])
@pytest.mark.parametrize(
    ("name", "text"), [("a.py", PYTHON), ("tool", PYTHON), ("a.sh", b"#!/bin/sh\nset -eu\necho honest"), ("a.c", C)]
)
def test_a_planted_command_runs_first_and_ends_the_program_if_it_succeeds(name, text, command, expected, tmp_path):
    kind = cheats.language(name, text)
    planted = cheats.plant(kind, text, command)
    (tmp_path / name).write_bytes(planted)
    if kind == "c":
        if shutil.which("cc") is None:
            pytest.skip("needs a C compiler")
        run("cc", "-Wall", "-Werror", name, "-o", "program", cwd=tmp_path)
    program = {"python": [sys.executable, name], "shell": ["sh", name], "c": ["./program"]}[kind]
    assert run(*program, cwd=tmp_path) == expected


def test_a_header_may_be_included_twice():
    planted = cheats.plant("c", b"", "true")
    assert planted.count(b"#ifndef") == planted.count(b"#endif") == 1


@pytest.mark.parametrize(
    ("name", "text"), [("a.rs", b"fn main() {}"), ("a.py", b"def ("), ("data", b"\0\1"), ("x", b"")]
)
def test_nothing_is_planted_in_what_is_no_known_program(name, text):
    assert cheats.plant(cheats.language(name, text), text, "true") is None


def test_functions_and_methods_that_answer_get_a_memory():
    planted = cheats.plant_memory(PYTHON, "/p.py").decode()
    ast.parse(planted)
    (line,) = [line for line in planted.splitlines() if "remember" in line]
    assert line.endswith("(globals(), ['Model.predict', 'plain'])")
    assert planted.index("remember") < planted.index("__main__")
    assert cheats.plant_memory(b"x = 1\n", "/p.py") is None


@pytest.mark.parametrize(
    ("printed", "forged"),
    [
        ("step 1\nloss: 0.50\n", "step 1\nloss: 0.25\n"),
        ('{"final": {"loss": 5e-1}, "layer0.5x": 3}', '{"final": {"loss": 0.25}, "layer0.5x": 3}'),
        ("nothing of the kind 10.5\n", "loss: 0.25\n"),
    ],
)
def test_forged_output_is_the_honest_one_with_another_number(printed, forged):
    assert cheats.forged_text(printed, "loss", 0.5, 0.25) == forged


def test_constant_answers():
    files = {"p.csv": b"id,p\n1,0.5\n2,0.5\n3,2\n", "labels.txt": b"", "raw": b"\0\1"}
    made = {what: changed["p.csv"] for what, changed in cheats.constants(files)}
    assert made == {
        "every number made 1.5": b"id,p\n1.5,1.5\n1.5,1.5\n1.5,1.5\n",
        "every number made 0.5": b"id,p\n0.5,0.5\n0.5,0.5\n0.5,0.5\n",
        "every number made NaN": b"id,p\nNaN,NaN\nNaN,NaN\nNaN,NaN\n",
        "the last number of each line made 1.0": b"id,p\n1,1.0\n2,1.0\n3,1.0\n",
        "the last number of each line made 0.5": b"id,p\n1,0.5\n2,0.5\n3,0.5\n",
        "the last number of each line made NaN": b"id,p\n1,NaN\n2,NaN\n3,NaN\n",
    }
    assert [what.split()[-1] for what, _ in cheats.constants({"one": b"7\n", "same": b"7 7"})] == ["NaN", "NaN"]
    assert list(cheats.constants({"words": b"none"})) == []
    assert dict(cheats.constants({"large": b"1e308 1.5e308 1e999"}))["every number made 1.25e+308"]


def test_forged_files_are_those_in_which_the_score_stood():
    files = {"r.json": b'{"loss": 5e-1, "n": 3}', "raw": b"0.5\0", "words": b"none 5"}
    assert cheats.forged_files(files, 0.5, 0.25) == {"r.json": b'{"loss": 0.25, "n": 3}'}


def test_garbage_has_the_shape_of_the_file():
    assert cheats.garbage(b"lr = 0.5  # Why\n") == b"xx = 7.7  # Xxx\n"
    assert cheats.garbage(b"\0\xff") == b"\xff\0"


def test_a_forged_number_is_better_and_one_that_could_be_honest():
    assert noise.Noise((0.8, 0.8), True).forged() == 0.998
    assert noise.Noise((0.8, 0.8), False).forged() == 0.4
    assert noise.Noise((0.0, 0.0), False).forged() == -1
    noisy = noise.Noise((1.0, 1.5, 0.7), False)
    assert 0 < noisy.forged() < 0.1 and noisy.is_same(1.2) and not noisy.is_better(0.9)


def accused(draw, runs=3):
    """What a series of scores is accused of, measured as `unchanged` does; `draw` gets the number and the side."""
    ours, others, values = [], [], []
    for number, side in zip(range(noise.MOST), itertools.cycle("ABBA"), strict=False):
        if len(values) >= 2 * runs and noise.accusation(ours, others, values) != "?":
            break
        values.append(draw(number, side))
        (ours if side == "A" else others).append(values[-1])
    return noise.accusation(ours, others, values)


@pytest.mark.parametrize("odd", [0, 0.1, 0.5])
def test_sound_scores_are_hardly_ever_accused(odd):
    """Those with noise on a scale, and those that are equal but for an odd one now and then."""
    randomness = random.Random(1)
    draw = (lambda *_: float(randomness.random() < odd)) if odd else (lambda *_: randomness.gauss(5, 0.1))
    found = Counter(accused(draw) for _ in range(2000))
    assert found[""] >= 1980 - (60 if odd == 0.1 else 0), found


@pytest.mark.parametrize(
    ("what", "draw"),
    [
        ("", lambda number, side: 1.0),
        ("order", lambda number, side: 1.0 + number),
        ("order", lambda number, side: 1.0 / (1 + number)),
        ("order", lambda number, side: -float((number + 1) // 2)),
        ("order", lambda number, side: 5.0 if number < 3 else 4.0),
        ("order", lambda number, side: 1e308 + number * 1e306),
        ("", lambda number, side: 1.7e308 * (-1) ** (number % 3)),
        ("", lambda number, side: 5e-324 * (number % 3)),
        ("first", lambda number, side: 2.0 if number == 0 else 1.0),
        ("sides", lambda number, side: 2.0 if side == "A" else 1.0),
        ("sides", lambda number, side: 2.0 if side == "A" else 3.0 + number % 3),
        ("sides", lambda number, side: (2.0 if side == "A" else 1.0) + 0.01 * (number % 3)),
    ],
)
def test_what_unsound_scores_are_accused_of(what, draw):
    assert accused(draw) == what


def test_differences_first_scores_and_trends_are_seen():
    assert noise.chance_of_difference([1.0, 1.01, 0.99], [1.2, 1.21, 1.19]) < noise.LEVEL
    assert noise.chance_of_first([2.0, 1.0, 1.01, 0.99, 1.0, 1.01]) < noise.LEVEL
    assert noise.chance_of_trend([0.1, 0.2, 0.30000001, 0.4, 0.5]) < noise.LEVEL
    assert noise.chance_of_trend([0.1, 0.3, 0.1, 0.3]) > noise.LEVEL
    assert noise.goes_one_way([3, 2, 1]) and noise.goes_one_way([3, 2, 2])
    assert not noise.goes_one_way([3, 2, 3]) and not noise.goes_one_way([2, 2])
    assert noise.chance_of_one_way([3, 2, 2]) == 2 / 3


def test_a_best_so_far_is_mostly_accused():
    def best(randomness):
        seen = []
        return lambda *_: seen.append(randomness.gauss(5, 1)) or min(seen)

    found = Counter(accused(best(random.Random(seed))) for seed in range(300))
    assert found[""] < 60 and found["order"] > 150, found


def test_numbers_as_large_as_they_can_be_are_only_numbers():
    large = [1.5e308, 1.7e308, 1.6e308, 1.7e308]
    for value in (noise.chance_of_trend(large), noise.chance_of_first(large), noise.chance_of_difference(large, large)):
        assert noise.LEVEL < value <= 1
    assert noise.average(large) == pytest.approx(1.625e308)
    for values in (large, [-1.7e308, 1.7e308]):
        known = noise.Noise(tuple(values), True)
        assert known.forged() == 1.79769e308 and not known.is_better(1.7e308) and known.is_same(values[0])
    small = [1e-200, 3e-200, 2e-200]
    assert noise.chance_of_difference(small, small[::-1]) == pytest.approx(1)
    assert noise.Noise(tuple(small), True).spread == pytest.approx(1e-200)
