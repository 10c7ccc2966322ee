"""The progress of one run: a dot for each attempt, and the best so far as a step line."""

from __future__ import annotations

from collections.abc import Sequence

from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.records import Attempt, Outcome, clean_line
from autoresearch_kit.views.chart.axis import Axis, axis_title, drawable, value_axis
from autoresearch_kit.views.chart.ink import HEIGHT, MARKS, SHAPES, WIDTH, WORDS, Ink, Spec

LABEL_CHARACTERS = 34
"""Of a title at its dot; the rest is cut."""
MIN_LABEL_CHARACTERS = 12
"""Where there is less room to the right of a dot, it has no label."""


def progress(campaign: Campaign, *, dark: bool = False, data: bool = True) -> Spec:
    """Every attempt as a mark by outcome, the best so far as a step line, kept ones labelled as far as there is room.

    Without `data` it is left to whoever draws it to fill the datasets `attempts` (`progress_row`) and `best`
    (`best_rows`).
    """
    axis = value_axis(campaign.attempts)
    last = max((a.number for a in campaign.attempts), default=0)
    side = "top" if campaign.maximize else "bottom"
    better = "higher" if campaign.maximize else "lower"
    attempts: Spec = {"name": "attempts"}
    best: Spec = {"name": "best"}
    if data:
        attempts["values"] = [progress_row(attempt) for attempt in campaign.attempts]
        best["values"] = best_rows(campaign)
    ink = Ink(dark)
    clamped = "max(low, min(high, datum.value))"
    known = "isValid(datum.value)"
    mark = f"!{known} ? datum.mark : datum.value > high ? '{MARKS[5]}' : datum.value < low ? '{MARKS[6]}' : datum.mark"
    x: Spec = {
        "field": "number",
        "type": "quantitative",
        "scale": {"domainMin": {"expr": "-0.012 * last"}, "domainMax": {"expr": "1.012 * last"}, "nice": False},
        "axis": {
            "title": "attempt",
            "tickCount": {"expr": "min(12, last)"},
            "format": "d",
            "grid": False,
            "labelFlush": False,
        },
    }
    y: Spec = {
        "field": "y",
        "type": "quantitative",
        "scale": {
            "type": "log" if axis.log else "linear",
            "domainMin": {"expr": "low"},
            "domainMax": {"expr": "high"},
            "zero": False,
            "nice": False,
        },
        "axis": {"title": axis_title(campaign.metric, f"{better} is better", axis), **axis.format},
    }
    colors: Spec = {
        "field": "mark",
        "type": "nominal",
        "scale": {"domain": list(MARKS), "range": list(ink.marks)},
        "legend": {"title": None, "orient": "top", "direction": "horizontal", "symbolOpacity": 1, "columns": 7},
    }
    if data:
        shown = present_marks(campaign.attempts, axis)
        colors["legend"] = {**colors["legend"], "values": shown} if shown else None
    is_kept = "datum.outcome === 'keep'"
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": f"{campaign.metric} of each attempt of {campaign.name}; {better} is better",
        "width": WIDTH,
        "height": HEIGHT,
        "background": ink.background if data else "transparent",
        "params": [
            {"name": "low", "value": axis.low},
            {"name": "high", "value": axis.high},
            {"name": "last", "value": max(1, last)},
            {"name": "dot", "expr": "last > 400 ? 20 : 34"},
            {"name": "anchors", "value": [f"{side}-left"] * 2},
            {"name": "anchors_right", "value": [f"{side}-right"]},
            {"name": "room", "value": 0},
        ],
        "config": ink.config,
        "layer": [
            {
                "data": best,
                "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 2, "clip": True},
                "encoding": {"x": x, "y": {**y, "field": "value"}, "color": {"value": ink.line}},
            },
            {
                "data": attempts,
                "transform": [
                    {"calculate": mark, "as": "mark"},
                    {"calculate": f"{known} ? {clamped} : null", "as": "y"},
                ],
                "layer": [
                    {
                        "name": "dots",
                        "transform": [{"filter": known}],
                        "mark": {"type": "point", "filled": True, "strokeWidth": 1},
                        "encoding": {
                            "x": x,
                            "y": y,
                            "color": colors,
                            "shape": {**colors, "scale": {"domain": list(MARKS), "range": list(SHAPES)}},
                            "size": {
                                "condition": {"test": is_kept, "value": {"expr": "3 * dot"}},
                                "value": {"expr": "dot"},
                            },
                            "opacity": {"condition": {"test": is_kept, "value": 1}, "value": 0.62},
                        },
                    },
                    {
                        "name": "without",
                        "transform": [{"filter": f"!{known}"}],
                        "mark": {
                            "type": "point",
                            "filled": True,
                            "size": {"expr": "dot"},
                            "opacity": 0.9,
                            "tooltip": None,
                        },
                        "encoding": {
                            "x": x,
                            "y": {"value": {"expr": "height - 5" if campaign.maximize else "5"}},
                            "color": colors,
                            "shape": {**colors, "scale": {"domain": list(MARKS), "range": list(SHAPES)}},
                        },
                    },
                    {
                        "transform": [
                            {"filter": f"{is_kept} && {known}"},
                            {
                                "window": [{"op": "lead", "field": "number", "as": "next"}],
                                "sort": [{"field": "number"}],
                            },
                            {"calculate": _CUT, "as": "label"},
                            {"calculate": _BEGIN, "as": "begin"},
                            {"calculate": _LOG_LEVEL if axis.log else _LEVEL, "as": "level"},
                            {
                                "window": [
                                    {"op": "lead", "param": ahead, "field": name, "as": f"{name}_{ahead}"}
                                    for ahead in _AHEAD
                                    for name in ("begin", "level")
                                ],
                                "sort": [{"field": "number"}],
                            },
                            {"calculate": _RIGHT, "as": "right"},
                        ],
                        "layer": [
                            {
                                "name": name,
                                "transform": [{"filter": which}],
                                "mark": {"type": "text", "fontSize": 11, "color": ink.text, "limit": 220},
                                "encoding": {"x": x, "y": y, "text": {"field": "label"}, "size": {"value": 11}},
                            }
                            for name, which in (("labels", "!datum.right"), ("labels_right", "datum.right"))
                        ],
                    },
                ],
            },
        ],
    }


# Labels stand on the better side of the line and to the left of their marks, where few others are; to the right only
# where there is no room on the left, the line goes on long enough before it turns towards them, and none of the next
# few labels begins there at about the same height. Vega keeps labels of one side apart; those of two sides it could
# keep apart only by drawing them on a canvas, which a picture without a browser has not.
_SCALE, _NEEDED = "width / (1.024 * last)", "(min(220, 6.8 * length(datum.label)) + 8)"
_X = f"((datum.number + 0.012 * last) * {_SCALE})"
_TO_THE_RIGHT = (
    f"({_X} < {_NEEDED} && ((isValid(datum.next) ? datum.next : 1.012 * last) - datum.number) * {_SCALE} > {_NEEDED})"
)
_ROOM = (
    f"floor((((isValid(datum.next) ? datum.next : 1.012 * last) - datum.number) * {_SCALE} - 8) / 6.8)"  # in characters
)
_CUT = (
    f"{_X} < min(220, 4.5 * length(datum.label)) && {_ROOM} >= {MIN_LABEL_CHARACTERS} && {_ROOM} < length(datum.label)"
    f" ? truncate(datum.label, {_ROOM}) : datum.label"
)
_BEGIN = f"{_TO_THE_RIGHT} || {_X} < min(220, 4.5 * length(datum.label)) ? null : {_X} - {_NEEDED}"
_LEVEL = "height * (datum.y - low) / (high - low)"
_LOG_LEVEL = "height * log(datum.y / low) / log(high / low)"
_AHEAD = (1, 2, 3, 4)
_LABEL_HEIGHT = 28
"""Pixels, with the place that a label moves to when the one at its mark is taken."""
_RIGHT = _TO_THE_RIGHT + "".join(
    f" && !(isValid(datum.begin_{n}) && datum.begin_{n} < {_X} + {_NEEDED}"
    f" && abs(datum.level_{n} - datum.level) < {_LABEL_HEIGHT})"
    for n in _AHEAD
)


def progress_row(attempt: Attempt) -> Spec:
    """An attempt as the chart wants it."""
    return {
        "number": attempt.number,
        "value": drawable(attempt.value),
        "outcome": str(attempt.outcome),
        "mark": WORDS[attempt.outcome],
        "label": clean_line(attempt.proposal.title, LABEL_CHARACTERS),
        "gain": attempt.verdict.gain if attempt.verdict else None,
    }


def best_rows(campaign: Campaign) -> list[Spec]:
    """Corners of the line of `Campaign.with_best`: where a value was kept, and the end."""
    kept = [(a, best) for a, best in campaign.with_best() if a.outcome is Outcome.KEEP and best is not None]
    rows: list[Spec] = [{"number": a.number, "value": drawable(best)} for a, best in kept]
    if kept and campaign.attempts[-1].number > kept[-1][0].number:
        rows.append({"number": campaign.attempts[-1].number, "value": rows[-1]["value"]})
    return rows


def present_marks(attempts: Sequence[Attempt], axis: Axis) -> list[str]:
    """The marks that occur, in the order of the legend."""
    found = set()
    for attempt in attempts:
        value = drawable(attempt.value)
        on_axis = value is None or axis.low <= value <= axis.high
        found.add(WORDS[attempt.outcome] if on_axis or value is None else MARKS[5 if value > axis.high else 6])
    return [mark for mark in MARKS if mark in found]
