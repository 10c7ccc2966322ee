"""python -m pytest tests/core/test_records.py"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_kit.core.records import (
    Attempt,
    Measurement,
    Outcome,
    Proposal,
    Verdict,
    clean_line,
    clean_tail,
    clean_text,
)

HOSTILE = st.text(st.characters() | st.sampled_from("\n\r\t \x00\x1b\x85\u2028\u202e\ud800\ufeff"), max_size=60)
LIMITS = st.integers(1, 70)


def is_printable(text: str) -> bool:
    """Nothing that moves a cursor, turns the direction of writing or cannot be encoded."""
    text.encode()
    return not any((ord(c) < 32 and c not in "\t\n") or 127 <= ord(c) < 160 or c in "\u2028\u2029\u202e" for c in text)


@given(HOSTILE, LIMITS)
def test_a_line(text: str, limit: int) -> None:
    line = clean_line(text, limit)
    assert is_printable(line) and "\n" not in line and "\t" not in line and "  " not in line
    assert line == line.strip() and len(line) <= limit
    assert clean_line(line, limit) == line


@given(HOSTILE, LIMITS)
def test_a_text(text: str, limit: int) -> None:
    clean = clean_text(text, limit)
    assert is_printable(clean) and len(clean) <= limit
    assert clean == clean.strip("\n") and not any(line != line.rstrip() for line in clean.split("\n"))
    assert clean_text(clean, limit) == clean


@given(HOSTILE, LIMITS)
def test_the_end_of_a_log(text: str, limit: int) -> None:
    tail = clean_tail(text, limit)
    assert is_printable(tail) and len(tail) <= limit
    assert clean_text(text, len(text) + 1).endswith(tail)
    assert clean_tail(tail, limit) == tail


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("as it is", "as it is"),
        ("a\tb\r\nc \n d", "a b c d"),
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),
        ("a\u2028b\u202ec\ud800d\x00e", "a b c d e"),
        ("a\u200bb\u2060c\U000e0041d", "a b c d"),
        ("été ☃ 文", "été ☃ 文"),
        ("x" * 12, "xxxxxxxxx…"),
        ("xxxxxxxx yy", "xxxxxxxx…"),
        ("", ""),
    ],
)
def test_lines_by_example(text: str, line: str) -> None:
    assert clean_line(text, 10 if "x" in text else 99) == line


def test_the_tail_begins_at_a_line() -> None:
    assert clean_tail("first line\nsecond\nthird\n\n", 14) == "second\nthird"
    assert clean_tail("x" * 100, 10) == "x" * 10
    assert clean_tail("Traceback:\r\n  File\r\n", 100) == "Traceback:\n  File"


@pytest.mark.slow
def test_long_texts_take_no_time() -> None:
    for text in ("x" * 10**6, " " * 10**6, "\n" * 10**6, "\x1b" * 10**6, " \n" * 10**6):
        clean_line(text, 200), clean_text(text, 4000), clean_tail(text, 8000)


def test_what_a_record_cleans() -> None:
    proposal = Proposal(" a\nb ", "x\r\ny\x00 \n\n", "agent\n<x>")
    assert (proposal.title, proposal.why, proposal.agent) == ("a b", "x\ny", "agent <x>")
    assert Proposal("\x00\n").title == "untitled"
    measurement = Measurement(None, {"a": 1.0, "b": math.nan, "c": -math.inf}, "exit: 1\nx", 1.0, "a\x1b\n", 0, "m\nn")
    assert measurement.also == {"a": 1.0}
    assert (measurement.problem, measurement.log_tail, measurement.machine) == ("exit: 1 x", "a", "m n")
    assert measurement.kind == "exit"
    assert Measurement(1.0).kind == ""
    assert Verdict(Outcome.LOST, "a\nb").reason == "a b"


def attempt(*measurements: Measurement, verdict: Verdict | None = None) -> Attempt:
    return Attempt(
        3, "c" * 40, "p" * 40, "t" * 40, Proposal("x"), measurements, verdict, "2026-01-01T00:00:00.000Z", "y"
    )


def test_an_attempt_sums_up_its_measurements() -> None:
    good = Measurement(1.0, {"mb": 3.0}, seconds=2.0, machine="M1")
    bad = Measurement(None, {"mb": 9.0}, "timeout: 5 s", 5.0, machine="M2")
    both = attempt(bad, good)
    assert (both.value, both.values, both.problem, both.seconds) == (1.0, (1.0,), "timeout: 5 s", 7.0)
    assert (both.machine, both.also, both.outcome) == ("M2", {"mb": 3.0}, Outcome.RUNNING)
    assert attempt(bad).also == {"mb": 9.0}
    none = attempt(verdict=Verdict(Outcome.LOST, ""))
    assert (none.value, none.values, none.problem, none.machine, none.also) == (None, (), "", "", {})
    assert none.outcome is Outcome.LOST


def test_the_mean_of_large_values_is_finite() -> None:
    assert attempt(Measurement(1.5e308), Measurement(1.7e308)).value == pytest.approx(1.6e308)
    assert attempt(Measurement(0.1)).value == 0.1


def test_names_of_other_metrics_are_cleaned() -> None:
    names = {"\ud800a": 1.0, "\x1b[31mred": 2.0, "ok  as it is": 3.0, "\x07" + "k" * 300: 4.0}
    assert [*Measurement(1.0, names).also] == ["a", "[31mred", "ok  as it is", "k" * 199 + "…"]
