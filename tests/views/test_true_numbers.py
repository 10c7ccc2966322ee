"""New baselines, huge values, pauses and unknown costs in the views.   pytest tests/views/test_true_numbers.py"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import Made, Try, turned

from autoresearch_kit.core.campaign import ARK, TABLE, Campaign
from autoresearch_kit.core.records import Attempt, Cost, Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.views import chart
from autoresearch_kit.views.report import facts
from autoresearch_kit.views.report.data import chart_words, document, sections
from autoresearch_kit.views.report.page import environment
from autoresearch_kit.watch.left import rate

Row = tuple[str, float | None, float | None]
"""Outcome, value, gain; a kept one without a gain is a baseline."""


def campaign(
    rows: Sequence[Row], source: str = ARK, costs: Sequence[Cost] = (), moments: Sequence[str] = (), **said: Any
) -> Campaign:
    attempts = []
    for number, (outcome, value, gain) in enumerate(rows):
        sample = Measurement(value, {}, "" if value is not None else "exit: 1", 60.0)
        proposal = Proposal(f"idea {number}", agent="claude", cost=costs[number] if costs else Cost())
        verdict = Verdict(Outcome(outcome), "So", gain)
        moment = moments[number] if moments else f"2026-01-01T00:{number:02d}:00.000Z"
        attempts.append(Attempt(number, f"c{number}", "p", "", proposal, (sample,), verdict, moment, ""))
    return Campaign("t", tuple(attempts), "loss", said.get("maximize", False), source)


def tiles(run: Campaign) -> dict[str, tuple[str, str, str]]:
    return {one["key"]: (one["label"], one["value"], one["note"]) for one in facts.summary(run)["tiles"]}


ANEW: Sequence[Row] = [("keep", 1.0, None), ("keep", 0.8, 0.2), ("keep", 2.0, None), ("keep", 1.9, 0.1)]


def test_gains_count_from_the_baseline_then_in_force() -> None:
    run = campaign(ANEW)
    rows = [(row["number"], row["percent"], round(row["share"]), row["since"]) for row in facts.gains(run)]
    assert rows == [(3, "5 %", 100, 2), (1, "20 %", 100, 0)]
    assert facts.costs(run)[0]["gain"] == "25 %"
    assert "anew at attempt 2." in facts.baselines_note(run) and not facts.baselines_note(campaign(ANEW[:2]))
    assert "went from 2 to 1.9 in 1 kept change since the baseline of attempt 2." in chart_words(run)
    assert tiles(run)["best"] == ("best loss", "1.9", "from 2") and tiles(run)["gain"][1] == "5 %"


def test_the_page_says_what_gains_count_from() -> None:
    gains = environment().get_template("sections.html.j2").module.gains
    assert "measured anew at attempt 2." in str(gains(sections(campaign(ANEW))))
    assert "anew" not in str(gains(sections(campaign(ANEW[:2]))))


def test_a_new_baseline_alone_is_no_gain() -> None:
    run = campaign(ANEW[:3])
    assert tiles(run)["gain"][1:] == ("none", "no change kept since the baseline of attempt 2")
    assert "No change was kept since the baseline of attempt 2" in chart_words(run)
    assert facts.claims(run, [])["sentences"][0].startswith("Nothing was kept since the last baseline")


def test_the_line_of_another_loop_never_gets_worse() -> None:
    rows: Sequence[Row] = [("keep", 1.0, None), ("keep", 0.5, 0.5), ("keep", 0.7, -0.2)]
    other, own = campaign(rows, TABLE), campaign(rows)
    assert [row["value"] for row in chart.best_rows(other)] == [1.0, 0.5, 0.5]
    assert [row["value"] for row in chart.run_rows(other, "attempts")] == [1.0, 0.5, 0.5]
    assert other.best is not None and other.best.value == 0.5 and other.line_name == "the best so far"
    assert own.best is not None and own.best.value == 0.7 and own.line_name == "the head"
    assert "The best so far, the line, went from 1 to 0.5 in 1 kept change." in chart_words(other)
    assert "The head, the line, went from 1 to 0.7" in chart_words(own)
    assert tiles(own)["best"] == ("loss of the head", "0.7", "from 1; attempt 1 had 0.5")
    assert chart.line_words([other]) == "best so far" and chart.line_words([other, own]) == "the head"


def test_pauses_are_no_time_at_work() -> None:
    moments = ["2026-01-02T03:00:00.000Z", "2026-01-02T03:10:00.000Z", "2026-01-05T03:10:00.000Z"]
    run = campaign([("keep", 1.0, None), ("keep", 0.8, 0.2), ("discard", 0.9, -0.1)], moments=moments)
    assert tiles(run)["time"] == (
        "time at work",
        "12 min",
        "10 attempts an hour, 3 min measuring, 3.01 days with pauses",
    )
    assert rate(run.attempts) == pytest.approx(6)


def test_a_sum_with_unknown_parts_says_so() -> None:
    rows: Sequence[Row] = [("keep", 1.0, None), ("keep", 0.8, 0.2), ("discard", 0.9, -0.1)]
    known = Cost(1.0, 10, 1.5)
    some, whole = campaign(rows, costs=[Cost(), known, Cost()]), campaign(rows, costs=[Cost(), known, known])
    assert tiles(some)["cost"][1:] == ("at least 1.50", "at least 10 tokens")
    assert tiles(whole)["cost"][1:] == ("3.00", "20 tokens")
    row = facts.costs(some)[0]
    assert (row["thinking"], row["tokens"], row["money"]) == ("at least 1.0 s", "at least 10", "at least 1.50")


@pytest.mark.parametrize("first, best", [(3e307, 0.9), (1e308, -7e307), (1e308, -1e308), (1e-300, -1e300)])
def test_huge_values_are_no_trouble(first: float, best: float) -> None:
    gain = min(first - best, 1.7e308)
    run = campaign([("keep", first, None), ("keep", best, gain), ("keep", best, gain)])
    found = json.loads(json.dumps(document(run, {}), allow_nan=False))
    assert sum(row["share"] for row in found["gains"]) == pytest.approx(100)
    assert "inf" not in str(found["summary"]["tiles"]) + str(found["gains"]) + str(found["costs"])


@pytest.mark.slow
def test_the_verbs_say_it_too(made: Made, tmp_path: Path) -> None:
    made.run("huge", [Try(-7e307, kept=True, files=turned(LR=1))], Try(1e308, kept=True))
    made.run(
        "zero", [Try(-1.0, kept=True, files=turned(LR=2), cost=Cost(None, None, 1.5)), Try(2.0)], Try(0.0, kept=True)
    )
    assert json.loads(made.ark("status", "--tag", "huge", "--json"))["gain_percent"] == pytest.approx(170)
    assert "0 -> -1 (minimize; better by 1)" in made.ark("status", "--tag", "zero")
    assert "(attempt 1), better by 1\n" in made.ark("watch", "--once", "--tag", "zero")
    for tag in ("huge", "zero"):
        made.ark("report", "--tag", tag, "-o", str(tmp_path / f"{tag}.html"))
    shown = made.ark("compare", "huge", "zero", columns=120)
    assert "170 %" in shown and "+1 " in shown and "inf" not in shown and "at least 1.50" in shown
    assert made.compare("zero")["runs"][0]["cost_known_of"] == {"seconds": 0, "tokens": 0, "money": 1}
