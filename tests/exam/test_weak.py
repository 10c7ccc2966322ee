"""Each weak evaluator is weak in one way, and the exam names that one and no other; sound ones pass.

.venv/bin/pytest tests/exam/test_weak.py [-m ""]
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from autoresearch_kit import starter
from autoresearch_kit.exam import QUESTIONS

WEAK = Path(__file__).parent / "weak"

NAMED = {
    "counts_its_turns": "unchanged",
    "keeps_the_best": "unchanged",
    "kinder_to_the_baseline": "unchanged",
    "measures_the_wrong_file": "broken",
    "believes_the_run": "forged-metric",
    "believes_a_file": "forged-metric",
    "runs_the_candidate": "forged-metric",
    "evaluates_in_the_run": "rewritten-evaluation",
    "hands_over_the_key": "rewritten-evaluation",
    "hands_over_everything": "shadowing-module",
    "accepts_new_modules": "shadowing-module",
    "asks_the_same_again": "cached-answer",
    "checks_the_first_answer": "constant-output",
    "sums_what_it_gets": "constant-output",
    "skips_what_is_no_number": "constant-output",
}


def test_every_weak_evaluator_and_every_question_has_its_part():
    assert set(NAMED) == {path.name for path in WEAK.iterdir()}
    assert set(NAMED.values()) == set(QUESTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_a_weak_evaluator_is_named(name, commit, examine):
    (answer,) = examine(commit(WEAK / name), only=NAMED[name]).values()
    assert (answer.question, answer.verdict) == (NAMED[name], "WEAK")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_a_weak_evaluator_is_weak_in_one_way_only(name, commit, examine):
    answers = examine(commit(WEAK / name))
    assert {a.question for a in answers.values() if a.verdict == "WEAK"} == {NAMED[name]}
    assert answers[NAMED[name]].hint
    assert list(answers) == list(QUESTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("template", ["blank", pytest.param("toy", marks=pytest.mark.slow)])
def test_a_sound_evaluator_passes_every_question(template, tmp_path, examine):
    starter.start_project(tmp_path / "user", template)
    assert {answer.verdict for answer in examine(tmp_path / "user").values()} == {"ok"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_confined_kernel_never_comes_to_cheat(tmp_path, examine):
    starter.start_project(tmp_path / "user", "kernel-tuning")
    answers = examine(tmp_path / "user", runs=3)
    assert {name for name, answer in answers.items() if answer.verdict == "not tried"} == {"shadowing-module"}
    assert not any(answer.verdict == "WEAK" for answer in answers.values()), answers
    assert "never came to run" in answers["forged-metric"].text
