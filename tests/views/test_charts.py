"""What is drawn, and where.   pytest tests/views/test_charts.py"""

from __future__ import annotations

import struct
import xml.etree.ElementTree as Tree
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.records import Attempt, Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.views import chart

SVG = "{http://www.w3.org/2000/svg}"


def campaign(*rows: tuple[str, float | None] | tuple[str, float | None, str], maximize: bool = False, name: str = "t"):
    attempts = []
    for number, (outcome, value, *title) in enumerate(rows):
        sample = Measurement(value, {}, "" if value is not None else "exit: 1", 60.0)
        verdict = Verdict(Outcome(outcome), "So", 0.1 if number else None) if outcome != "running" else None
        proposal = Proposal(title[0] if title else f"idea {number}")
        started = f"2026-01-01T{number // 60:02d}:{number % 60:02d}:00.000Z"
        attempts.append(Attempt(number, "c", "p", "", proposal, (sample,), verdict, started, ""))
    return Campaign(name, tuple(attempts), "loss", maximize)


def drawn(spec: chart.Spec) -> Tree.Element:
    return Tree.fromstring(chart.to_svg(spec))


def marks(picture: Tree.Element, name: str) -> list[Tree.Element]:
    group = next(g for g in picture.iter(f"{SVG}g") if f" {name}_marks" in g.get("class", ""))
    return list(group)


def texts(picture: Tree.Element) -> list[str]:
    return [text.text or "" for text in picture.iter(f"{SVG}text")]


def test_every_attempt_is_a_mark_whose_shape_tells_its_outcome():
    found = drawn(
        chart.progress(
            campaign(("keep", 1.0), ("discard", 1.1), ("crash", None), ("keep", 0.9), ("lost", None), ("running", None))
        )
    )
    dots, without = marks(found, "dots"), marks(found, "without")
    assert len(dots) == 3 and len(without) == 3
    assert dots[0].get("d") == dots[2].get("d") != dots[1].get("d")
    assert len({mark.get("d") for mark in without}) == 3
    assert {"kept", "discarded", "crashed", "lost", "running"} <= set(texts(found))
    assert not any("axis" in text for text in texts(found))


def test_the_line_goes_through_what_was_kept_and_on_to_the_end():
    found = campaign(("keep", 1.0), ("discard", 0.5), ("keep", 0.9), ("crash", None))
    rows = chart.best_rows(found)
    assert rows == [{"number": 0, "value": 1.0}, {"number": 2, "value": 0.9}, {"number": 3, "value": 0.9}]


@pytest.mark.parametrize("far", [1e9, -1e9, 1e300, 1e308])
def test_one_absurd_value_does_not_squeeze_the_others_and_is_told(far):
    found = campaign(("keep", 1.0), ("discard", 1.02), ("discard", far), ("keep", 0.97), ("discard", 1.01))
    axis = chart.value_axis(found.attempts)
    assert 0.9 < axis.low < 0.97 and 1.02 < axis.high < 1.1
    assert axis.clipped == 1
    picture = drawn(chart.progress(found))
    assert len(marks(picture, "dots")) == 5
    assert ("above the axis" if far > 0 else "below the axis") in texts(picture)
    assert "loss, lower is better, 1 beyond the axis" in texts(picture)


def test_a_value_somewhat_apart_stays_on_the_axis():
    axis = chart.value_axis(campaign(("keep", 1.0), ("discard", 1.5), ("keep", 0.9)).attempts)
    assert axis.high > 1.5 and axis.clipped == 0


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 1.0 - 1e-9, 1.0 - 2e-9],
        [1e9, 1e9 + 1, 1e9 + 5],
        [0.0, 0.0, 0.0],
        [-5.0, -5.0],
        [1.0, 1.0 - 2**-53],
        [5e-324, 1e-320],
        [1e308, -1e308],
        [1e-12, 2e-12],
        [-1e308, 0.5],
    ],
)
def test_any_values_that_were_kept_are_all_on_an_axis_that_can_be_drawn(values):
    found = campaign(*(("keep", value) for value in values))
    axis = chart.value_axis(found.attempts)
    rows = [chart.progress_row(attempt) for attempt in found.attempts]
    assert all(axis.low < row["value"] < axis.high for row in rows)
    assert all(row["value"] == pytest.approx(max(-1e300, min(1e300, v))) for row, v in zip(rows, values, strict=True))
    assert len(marks(drawn(chart.progress(found)), "dots")) == len(values)


def test_what_differs_by_little_has_ticks_that_differ():
    ticks = [
        t
        for t in texts(drawn(chart.progress(campaign(("keep", 1.0), ("keep", 1 - 1e-9)))))
        if t.startswith(("1.0", "0.9"))
    ]
    assert len(ticks) == len(set(ticks)) >= 3


def test_gains_of_many_times_are_on_a_logarithmic_axis():
    found = campaign(("keep", 10.0), ("keep", 300.0), ("keep", 9000.0), ("discard", -3.0), maximize=True)
    assert chart.value_axis(found.attempts).log
    assert "loss, higher is better, log scale, 1 beyond the axis" in texts(drawn(chart.progress(found)))


@pytest.mark.parametrize("rows", [(), (("crash", None),) * 3, (("running", None),)])
def test_without_any_value_the_axis_says_so(rows):
    picture = drawn(chart.progress(campaign(*rows)))
    assert "loss, no value yet" in texts(picture)
    assert len(marks(picture, "without")) == len(rows)


def test_crashes_lie_where_bad_values_would():
    def height(maximize: bool) -> float:
        picture = drawn(chart.progress(campaign(("keep", 1.0), ("crash", None), ("keep", 1.1), maximize=maximize)))
        return float(marks(picture, "without")[0].get("transform", "").partition(",")[2].rstrip(")"))

    assert height(maximize=False) < 20
    assert height(maximize=True) > chart.HEIGHT - 20


@pytest.mark.slow
def test_labels_are_cut_never_on_one_another_and_text_only():
    rows = [("keep", 1 - n / 1000, f"<script>alert({n})</script> & so on, a title of great length") for n in range(120)]
    picture = drawn(chart.progress(campaign(*rows)))
    shown = [t for t in marks(picture, "labels") if float(t.get("opacity", "1")) > 0]
    assert 3 <= len(shown) < 120
    assert all(
        (t.text or "").startswith("<script>alert(") and len(t.text or "") <= chart.LABEL_CHARACTERS for t in shown
    )
    assert not list(picture.iter(f"{SVG}script"))


def test_a_label_on_the_right_of_its_mark_gives_way_to_one_on_the_left_of_the_next():
    def shown(*rows: tuple[str, float, str]) -> list[str]:
        picture = drawn(chart.progress(campaign(*rows, *[("discard", 1.0, "")] * 5, maximize=True)))
        both = [*marks(picture, "labels"), *marks(picture, "labels_right")]
        return [t.text or "" for t in both if float(t.get("opacity", "1")) > 0]

    title = "about a hundred pixels"
    assert shown(("keep", 1.0, "Baseline"), ("keep", 1 + 1e-9, title), ("keep", 1e9, "far")) == [title, "far"]
    assert shown(("keep", 1.0, "Baseline"), ("keep", 2.0, title), ("keep", 2.1, "far")) == [title, "far", "Baseline"]


def test_a_large_first_gain_is_labelled_where_there_is_room():
    first = ("keep", 0.5, "the change that made all the difference")
    picture = drawn(chart.progress(campaign(("keep", 1.0), first, *[("discard", 0.6)] * 30, ("keep", 0.4))))
    assert any((t.text or "").startswith("the change that made") for t in marks(picture, "labels_right"))


def test_a_label_is_cut_to_the_room_that_it_has():
    """Before the line turns towards it, neither to the left, where the axis is, nor whole to the right."""
    first = ("keep", 0.5, "x" * 30)
    picture = drawn(
        chart.progress(campaign(("keep", 1.0), first, *[("discard", 0.6)] * 5, ("keep", 0.4), *[("discard", 0.6)] * 32))
    )
    labels = [t.text or "" for t in marks(picture, "labels_right") if float(t.get("opacity", "1")) > 0]
    cut = next(label for label in labels if label.startswith("xxxx"))
    assert 12 <= len(cut) < 30 and cut.endswith("…")


def test_runs_have_a_line_a_name_and_dashes_each():
    many = [campaign(("keep", 1.0), ("discard", 2.0), ("keep", 1 - n / 10), name=f"run{n}") for n in range(9)]
    for by in ("attempts", "hours"):
        spec = chart.runs(many, by)
        rows = spec["layer"][0]["data"]["values"]
        assert len({row["run"] for row in rows}) == 9
        assert max(row["x"] for row in rows) == pytest.approx(2.0 if by == "attempts" else 3.0)
        scales = [spec["layer"][0]["encoding"][name]["scale"]["range"] for name in ("color", "strokeDash")]
        assert len({(color, *dash) for color, dash in zip(*scales, strict=True)}) == 9
        assert {f"run{n}" for n in range(9)} <= set(texts(drawn(spec)))
    with pytest.raises(ValueError):
        chart.runs(many, "days")


@pytest.mark.parametrize(
    ("seconds", "unit", "longest"), [(7, "seconds", 7), (600, "minutes", 10), (4e4, "hours", 100 / 9)]
)
def test_time_is_counted_in_what_fits_and_a_single_line_needs_no_legend(seconds: float, unit: str, longest: float):
    one = campaign(("keep", 1.0))
    first = replace(one.attempts[0], measurements=(Measurement(1.0, {}, "", seconds),))
    picture = drawn(chart.runs([replace(one, attempts=(first,))], "hours"))
    assert f"{unit} since the start" in texts(picture)
    assert texts(picture).count("t") == 1
    spec = chart.runs([replace(one, attempts=(first,))], "hours")
    assert spec["layer"][0]["data"]["values"][-1]["x"] == pytest.approx(longest)


def test_runs_without_values_or_times_can_be_drawn():
    drawn(chart.runs([]))
    drawn(chart.runs([campaign(("crash", None)), campaign()], "hours"))


def test_a_picture_is_written_by_its_name(tmp_path: Path):
    spec = chart.progress(campaign(("keep", 1.0), ("keep", 0.9)))
    chart.write_plot(spec, tmp_path / "a.PNG")
    data = (tmp_path / "a.PNG").read_bytes()
    assert data.startswith(b"\x89PNG") and struct.unpack(">II", data[16:24])[0] > 2 * chart.WIDTH
    chart.write_plot(spec, tmp_path / "a.svg")
    assert Tree.parse(tmp_path / "a.svg").getroot().tag == f"{SVG}svg"
    with pytest.raises(UsageError):
        chart.write_plot(spec, tmp_path / "a.pdf")
    with pytest.raises(ArkError, match=r"cannot be written: No such file"):
        chart.write_plot(spec, tmp_path / "missing" / "a.svg")


def test_dark_and_light_are_the_same_picture_in_other_colours():
    found = campaign(("keep", 1.0), ("discard", 1.1))
    light, dark = (chart.to_svg(chart.progress(found, dark=dark)) for dark in (False, True))
    assert light != dark
    assert texts(Tree.fromstring(light)) == texts(Tree.fromstring(dark))
