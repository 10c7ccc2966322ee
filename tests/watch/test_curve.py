"""Learning curves out of logs in all their forms.   pytest tests/watch/test_curve.py"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.records import Attempt, Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.watch.curve import NAMES, POINTS, Curve, Curves, read_curve
from autoresearch_kit.watch.plot import chart, curve_chart, progress_chart

Line = Callable[[int, float], str]
FORMS: dict[str, tuple[Line, str, str]] = {
    "nanochat": (
        lambda i, y: f"step {i:05d} ({i}.1%) | loss: {y} | lrm: 1.00 | dt: 300ms | tok/sec: 218,000 | epoch: 1\r",
        "loss",
        "step",
    ),
    "key=value": (lambda i, y: f"step={i} loss={y}\n", "loss", "step"),
    "json": (lambda i, y: f'{{"step": {i}, "loss": {y}, "lr": 0.1}}\n', "loss", "step"),
    "nested json": (lambda i, y: f'{{"train": {{"global_step": {i}, "loss": {y}}}}}\n', "loss", "global_step"),
    "nanogpt": (lambda i, y: f"iter {i}: loss {y}, time 12.10ms, mfu 3.2%\n", "loss", "iter"),
    "nanogpt eval": (lambda i, y: f"step {i}: train loss {y + 1}, val loss {y}\n", "val_loss", "step"),
    "modded-nanogpt": (
        lambda i, y: f"step:{i}/5100 val_loss:{y} train_time:1ms step_avg:100.0ms\n",
        "val_loss",
        "step",
    ),
    "hugging face": (lambda i, y: f"{{'loss': {y}, 'learning_rate': 5e-05, 'epoch': {i / 10}}}\n", "loss", "epoch"),
    "xgboost": (lambda i, y: f"[{i}]\tvalidation-rmse:{y}\n", "validation-rmse", "round"),
    "lightgbm": (lambda i, y: f"[{i}]\ttraining's l2: {y + 1}\tvalid_0's rmse: {y}\n", "rmse", "round"),
    "logging": (lambda i, y: f"2026-11-21 16:00:01,123 INFO train.py:12 step {i} loss {y}\n", "loss", "step"),
    "colours": (lambda i, y: f"\x1b[1mstep\x1b[0m {i} \x1b[32mloss\x1b[0m: {y}\n", "loss", "step"),
    "tqdm": (
        lambda i, y: f" {i}%|####5     | {i}/1000 [00:10<00:12, 43.21it/s, loss={y}, v_num=1]\r",
        "loss",
        "step",
    ),
    "lightning": (lambda i, y: f"Epoch 3:  45%|##  | {i}/1000 [00:10<00:12, loss={y}]\r", "loss", "epoch"),
    "pytorch": (lambda i, y: f"Epoch [{i}/99], Step [600/600], Loss: {y}\n", "loss", "epoch"),
    "imagenet": (
        lambda i, y: f"Epoch: [1][ {i}/5005]\tTime  0.2 ( 0.3)\tLoss {y:e} ({y:e})\tAcc@1   0.00 (  0.2)\n",
        "loss",
        "epoch",
    ),
    "keras": (
        lambda i, y: f"Epoch {i}/99\n100/100 [=====] - 2s 15ms/step - accuracy: 0.8 - loss: {y}\n",
        "loss",
        "epoch",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_its_curve(name: str) -> None:
    line, series, along = FORMS[name]
    values = [round(5 / (i + 1) ** 0.3, 4) for i in range(40)]
    curve = read_curve("".join(line(i + 1, y) for i, y in enumerate(values)))
    assert curve is not None
    assert (curve.name, curve.along) == (series, along)
    assert [y for _, y in curve.points] == pytest.approx(values)
    places = [x for x, _ in curve.points]
    assert places == sorted(places) and len(set(places)) == 40


def test_the_metric_comes_before_a_loss_and_a_loss_before_a_rate():
    log = "".join(f"step {i} | lr: {i} | loss: {9 - i} | val_bpb: {1 - i / 100}\n" for i in range(9))
    assert (curve := read_curve(log, "val_bpb")) and curve.name == "val_bpb"
    assert (curve := read_curve(log, "other")) and curve.name == "loss"
    assert read_curve("".join(f"step {i} | lr: {i} | dt: 3ms\n" for i in range(9))) is None


def test_a_metric_that_was_printed_once_is_no_curve():
    log = "".join(f"step {i} | loss: {9 - i}\n" for i in range(9)) + "step 9 val_bpb: 0.99\n"
    assert (curve := read_curve(log, "val_bpb")) and curve.name == "loss"


def test_numbers_without_a_step_and_prose_are_no_curve():
    assert read_curve("val_bpb: 0.99\nloss: 3\nloss: 2\n") is None
    assert read_curve("We trained for 3 epochs and 10 minutes.\nThe loss fell from 5 to 3.\n" * 5) is None


def test_epochs_go_on_where_steps_begin_anew():
    log = "".join(f"Epoch [{e}/3], Step [{s}/10], Loss: {1 / e}\n" for e in (1, 2, 3) for s in range(1, 11))
    assert (curve := read_curve(log)) and len(curve.points) == 30
    assert curve.points[0][0] == pytest.approx(1.1) and curve.points[-1][0] == pytest.approx(4.0)


def test_a_second_pass_replaces_the_first():
    one = "".join(f"step {i} loss {i}\n" for i in range(50))
    assert (curve := read_curve(one + "".join(f"step {i} loss 7\n" for i in range(5))))
    assert {y for _, y in curve.points} == {7.0}


def test_what_is_not_finite_is_left_out():
    log = "step 1 loss 3\nstep 2 loss nan\nstep 3 loss inf\nstep 4 loss 1e999\nstep 5 loss 2\n"
    assert (curve := read_curve(log)) and curve.points == ((1.0, 3.0), (5.0, 2.0))


def test_many_points_are_thinned_and_the_last_stays():
    curves = Curves()
    for i in range(9_000):
        curves.feed(f"step {i} loss {i / 10}\n")
    assert (curve := curves.best()) and len(curve.points) <= 2 * POINTS + 1
    assert curve.points[0] == (0.0, 0.0) and curve.points[-1] == (8_999.0, 899.9)


def test_lines_may_come_in_pieces():
    text = "".join(f"step {i} loss {9 - i}\r" for i in range(9)) + "\n"
    whole = Curves()
    whole.feed(text)
    for size in (1, 7):
        pieces = Curves()
        for at in range(0, len(text), size):
            pieces.feed(text[at : at + size])
        assert pieces.best() == whole.best() is not None


@given(st.text(max_size=400), st.text(max_size=10))
def test_no_text_is_too_strange(text: str, metric: str) -> None:
    check(read_curve(text, metric))


_PIECES = [
    "step ",
    "epoch",
    "loss",
    "[",
    "]",
    "/",
    "|",
    "=",
    ":",
    " ",
    "\n",
    "\r",
    "{",
    "}",
    '"',
    "'",
    ",",
    "%",
    "\x1b[",
]
_NUMBERS = [
    "0",
    "1",
    "10",
    "1/10",
    "1e400",
    "-5",
    ".5",
    "5.",
    "1,000",
    "nan",
    "9" * 500,
    "0x1f",
    "+-3",
    "1e",
    "²",
    "\u0661",
]


@given(st.lists(st.sampled_from(_PIECES + _NUMBERS), max_size=60))
def test_no_likely_text_is_too_strange(pieces: list[str]) -> None:
    check(read_curve("".join(pieces), "loss"))


def check(curve: Curve | None) -> None:
    if curve is not None:
        places = [x for x, _ in curve.points]
        assert len(places) > 0 and places == sorted(set(places))
        assert all(math.isfinite(number) for point in curve.points for number in point)
        lines = curve_chart(curve, 40, 8)
        assert len(lines) == 8 and {len(line) for line in lines} == {40}


@pytest.mark.parametrize(
    "piece", ["step ", "[1]", "1/", "a", "step 1 a 1 ", "{", '{"step": 1, ', "\x1b[", "\x1b[0;", "1,000,", "-+.", "\r"]
)
def test_a_hostile_log_takes_no_longer_than_it_is_long(piece: str) -> None:
    """Time that grew with the square of it would be hours: the limit of the test is five minutes."""
    assert read_curve(piece * (2_000_000 // len(piece))) is None


def test_many_names_take_no_more_room():
    curves = Curves()
    for i in range(2000):
        curves.feed(f"step {i} loss{i}: 3 loss: 4\n")
    assert len(curves._series) == NAMES


# The pictures of them


@pytest.mark.parametrize("ends", [(3, 3), (1e-9, 1e-9 + 1e-18), (-1e299, 1e299), (1e9, 1e9 + 1), (0, 5), (-1e-320, 0)])
def test_a_chart_fits_whatever_the_numbers_are(ends: tuple[float, float]) -> None:
    curve = Curve("loss", "step", ((0.0, ends[0]), (1e12, ends[1])))
    for width, height, unicode in ((76, 9, True), (30, 5, False), (200, 30, True)):
        lines = curve_chart(curve, width, height, unicode)
        assert len(lines) == height and {len(line) for line in lines} == {width}
        assert unicode or "".join(lines).isascii()
    assert curve_chart(curve, 10, 9) == [] and chart([], 80, 20) == []


def made(values: list[float | None], kept: set[int]) -> Campaign:
    attempts = []
    for number, value in enumerate(values):
        outcome = Outcome.CRASH if value is None else Outcome.KEEP if number in kept else Outcome.DISCARD
        sample = Measurement(value, problem="exit: 1" if value is None else "")
        verdict = Verdict(outcome, "", gain=0.1 if number else None)
        attempts.append(Attempt(number, "", "", "", Proposal("t"), (sample,), verdict, "", ""))
    return Campaign("t", tuple(attempts), "loss", False)


def drawn(values: list[float | None], kept: set[int], maximize: bool = False) -> tuple[str, list[str]]:
    title, *lines = progress_chart(replace(made(values, kept), maximize=maximize), 60, 12)
    assert len(lines) == 12
    return title, lines


def test_one_bad_attempt_does_not_flatten_the_progress():
    random.seed(1)
    values: list[float | None] = [1 - i / 100 + random.random() / 10 for i in range(30)]
    values[17] = 1e6
    title, lines = drawn(values, {0})
    assert not any("e+06" in line or "1000000" in line for line in lines)
    assert title == "loss by attempt: • each, the line is the best so far; 1 off the chart"


def test_every_attempt_is_in_the_progress_also_the_worst_fifth():
    values = [*[1 - i / 20 for i in range(4)], *[1.5 + i / 10 for i in range(6)]]
    title, lines = drawn(list(values), {0, 1, 2, 3})
    assert "".join(lines).count("•") == 10 and "off the chart" not in title
    assert any(line.lstrip().startswith("2┤") for line in lines), "the axis goes as far as they do"


def test_crashes_are_in_the_progress_at_the_worse_edge():
    falling: list[float | None] = [1.0, None, 0.9, 0.8, None, 0.7]
    rising = [value and 2 - value for value in falling]
    for values, maximize, row in ((falling, False, 1), (rising, True, -3)):
        title, lines = drawn(values, {0, 2, 3, 5}, maximize)
        assert lines[row].count("x") == 2 and "x crashed" in title
    title, *lines = progress_chart(made(falling, {0, 2, 3, 5}), 60, 12, unicode=False)
    assert "x crashed" in title and (title + "".join(lines)).isascii() and lines[1].count("x") == 2


def test_kept_values_of_many_magnitudes_are_on_an_axis_of_magnitudes():
    title, lines = drawn([1e6, 1e4, 1e2, 1.0], {0, 1, 2, 3})
    marks = [float(line.split("┤")[0]) for line in lines if "┤" in line]
    assert marks == pytest.approx([1e6, 1e3, 1], rel=0.01) and "off" not in title


def test_without_values_there_is_no_progress_to_draw():
    assert progress_chart(made([], set()), 60, 12) == []
    assert progress_chart(made([1.0], {0}), 60, 12) == []
    assert progress_chart(made([1.0, None, None], {0}), 60, 12) == []
