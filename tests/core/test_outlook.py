"""The sentences about what a campaign can find. pytest tests/core/test_outlook.py"""

from __future__ import annotations

import re
from typing import Any

import pytest

from autoresearch_kit.core.history import History, Noise
from autoresearch_kit.core.outlook import Outlook
from autoresearch_kit.core.power import detectable_gain
from autoresearch_kit.core.spec import Spec


def outlook(sd: float = 0.01, level: float = 1.0, seconds: float = 60.0, freedom: int = 4, **keys: Any) -> Outlook:
    basic = {"metric": "loss", "metric_direction": "minimize", "mutable_files": ["a"], "run_command": "b"}
    return Outlook(Spec.model_validate({**basic, **keys}), Noise(sd * sd * freedom, freedom), level, seconds, History())


def warnings(**keys: Any) -> list[str]:
    return [text for text, _ in outlook(**keys).warnings()]


def test_the_preview_says_what_can_be_found_and_what_more_runs_would_find() -> None:
    text = outlook().preview()
    match = re.fullmatch(
        r"with this noise and 8 hours, room for (\d+) candidates if agents took no time, "
        r"you can detect gains of at least (\S+) \((\S+) %\), "
        r"four times in five; to detect (\S+) \(\S+ %\) you need 24 runs each",
        text,
    )
    assert match, text
    assert 200 < float(match[1]) < 250
    assert float(match[2]) == pytest.approx(float(match[3]) / 100, rel=0.01)
    assert 0.02 < float(match[4]) < float(match[2]) < 0.04
    assert warnings() == []


def test_min_gain_is_the_gain_that_is_asked_about() -> None:
    found = outlook(decision={"min_gain": "2.5%"})
    assert found.preview().endswith("; to detect 0.025 (2.5 %) you need 20 runs each")
    [(text, hint)] = found.warnings()
    assert text.startswith("min_gain is 0.025 (2.5 %), and 12 runs with a noise of 0.01 each are sure of no gain below")
    assert re.match(r"set decision.max_runs to 20, or make one run less noisy", hint)


def test_the_max_runs_of_the_hint_end_the_warning() -> None:
    [(_, hint)] = outlook(decision={"min_gain": 0.022}).warnings()
    runs = int(hint.split(",")[0].split()[-1])
    assert warnings(decision={"min_gain": 0.022, "max_runs": runs}) == []
    assert warnings(decision={"min_gain": 0.022, "max_runs": runs - 4}) != []


def test_a_gain_that_no_number_of_runs_finds() -> None:
    found = outlook(decision={"min_gain": 0.001})
    assert "runs each" not in found.preview()
    [(_, hint)] = found.warnings()
    assert hint.startswith("no number of runs would do: make one run less noisy")


@pytest.mark.parametrize(("direction", "target"), [("minimize", 0.99), ("maximize", 1.01)])
def test_a_target_within_the_noise(direction: str, target: float) -> None:
    [text] = warnings(metric_direction=direction, budget={"target": target})
    assert text.startswith(f"the target {target} is 0.01 (1 %) away, and 12 runs with a noise of 0.01 each")


@pytest.mark.parametrize(("direction", "target"), [("minimize", 0.5), ("minimize", 1.001), ("maximize", 0.9)])
def test_a_target_far_away_or_reached(direction: str, target: float) -> None:
    assert warnings(metric_direction=direction, budget={"target": target}) == []


def test_a_budget_that_is_over_before_one_candidate_is_judged() -> None:
    assert warnings(budget={"hours": 0.1}) == [
        "one candidate may need 12 runs of 60 s, 0.2 hours, and the budget is 0.1 hours"
    ]
    assert warnings(budget={"hours": 0.3}) == []


def test_noise_as_large_as_the_metric() -> None:
    [text] = warnings(sd=0.3)
    assert text.endswith("more than half of the metric itself, 1")


def test_too_few_runs_to_be_ever_sure() -> None:
    found = outlook(decision={"max_runs": 2})
    assert found.preview() == "with this noise no gain can be detected in 2 runs each"
    [(text, hint)] = found.warnings()
    assert text.startswith("no gain is ever sure enough with max_runs 2, false_keeps 0.1 and so few repeated runs")
    assert hint == "raise decision.max_runs"


def test_luck_of_first_better() -> None:
    [(text, hint)] = outlook(decision="first_better", budget={"attempts": 50}).warnings()
    assert "of 50 candidates without any effect about 3.5 are kept" in text
    assert "looks better by 0.0225 (2.25 %) than it is" in text
    assert "sequential" in hint


@pytest.mark.parametrize("decision", ["sequential", "first_better"])
def test_without_noise(decision: str) -> None:
    found = outlook(sd=0.0, decision={"rule": decision, "min_gain": 0.1}, budget={"attempts": 20})
    room = "in 8 hours there is room for 20 candidates if agents took no time"
    assert found.preview() == f"one run per candidate, and any gain is seen; {room}"
    assert list(found.warnings()) == []


def test_unknown_noise_is_nothing_to_warn_of() -> None:
    assert warnings(freedom=0, budget={"hours": 0.001}) == []


def test_a_value_of_zero_has_no_percentage() -> None:
    text = outlook(level=0.0).preview()
    assert "%" not in text


def test_the_gain_is_the_gates() -> None:
    found = outlook(budget={"attempts": 20})
    assert found.share == 0.1 / 20
    assert found.gain == detectable_gain(found.noise, 0.1 / 20, 12)
