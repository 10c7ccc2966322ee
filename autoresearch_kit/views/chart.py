"""The charts, each defined once in Vega-Lite: in the report by Vega itself, as PNG or SVG by vl-convert, which draws
the same without a browser.

Outcomes differ by shape as well as by colour, and the colours are those of Okabe and Ito, which people with any kind
of colour blindness tell apart. Values that are absurdly far off are drawn at the edge, and the legend says so.
"""

from __future__ import annotations

import calendar
import contextlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.records import Attempt, Outcome, clean_line

Spec = dict[str, Any]

WIDTH, HEIGHT = 860, 420
"""Of the plot in pixels, without axes."""
LABEL_CHARACTERS = 34
"""Of a title at its dot; the rest is cut."""
NAME_CHARACTERS = 40
"""Of the name of a run at its line."""
FENCE = 3.0
"""Values so many interquartile ranges beyond the quartiles may be drawn at the edge."""
WORTH_CLIPPING = 4.0
"""They are when the axis would otherwise be so many times as long."""
DECADES = 30.0
"""Kept values of which one is so many times another are shown on a logarithmic axis."""
BIGGEST = 1e300
"""Larger values are drawn as this, because the difference of two of them is still a number; those below its inverse as
nothing."""

MARKS = ("kept", "discarded", "crashed", "lost", "running", "above the axis", "below the axis")
"""What the legend knows. A crash lies at the edge because it has no value."""
SHAPES = ("diamond", "circle", "cross", "square", "triangle-right", "triangle-up", "triangle-down")
WORDS = {
    Outcome.KEEP: "kept",
    Outcome.DISCARD: "discarded",
    Outcome.CRASH: "crashed",
    Outcome.LOST: "lost",
    Outcome.RUNNING: "running",
}
COLORS = ("#009E73", "#8A8A8A", "#D55E00", "#B07A00", "#0072B2", "#8A8A8A", "#8A8A8A")
DARK_COLORS = ("#2BC79A", "#8E949C", "#F28A3C", "#E6B23A", "#56B4E9", "#8E949C", "#8E949C")
RUN_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#595959")
DARK_RUN_COLORS = ("#56B4E9", "#F28A3C", "#2BC79A", "#E29BC3", "#F0C24B", "#8CCBF2", "#B5BAC1")
DASHES: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 2], [9, 3, 2, 3])
"""Runs differ by these too; with the colours, 28 can be told apart."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


# The progress of one run


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
        best["values"] = best_rows(campaign.attempts)
    ink = _Ink(dark)
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
        "axis": {"title": _axis_title(campaign.metric, f"{better} is better", axis), **axis.format},
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
# where there is no room on the left, and the line goes on long enough before it turns towards them.
_SCALE, _NEEDED = "width / (1.024 * last)", "(6.3 * length(datum.label) + 8)"
_RIGHT = (
    f"(datum.number + 0.012 * last) * {_SCALE} < {_NEEDED}"
    f" && ((isValid(datum.next) ? datum.next : 1.012 * last) - datum.number) * {_SCALE} > {_NEEDED}"
)


def progress_row(attempt: Attempt) -> Spec:
    """An attempt as the chart wants it."""
    return {
        "number": attempt.number,
        "value": _drawable(attempt.value),
        "outcome": str(attempt.outcome),
        "mark": WORDS[attempt.outcome],
        "label": clean_line(attempt.proposal.title, LABEL_CHARACTERS),
        "gain": attempt.verdict.gain if attempt.verdict else None,
    }


def best_rows(attempts: Sequence[Attempt]) -> list[Spec]:
    """Corners of the line of the best so far: where a value was kept, and the end."""
    kept = [a for a in attempts if a.outcome is Outcome.KEEP and a.value is not None]
    rows: list[Spec] = [{"number": a.number, "value": _drawable(a.value)} for a in kept]
    if kept and attempts[-1].number > kept[-1].number:
        rows.append({"number": attempts[-1].number, "value": rows[-1]["value"]})
    return rows


def present_marks(attempts: Sequence[Attempt], axis: Axis) -> list[str]:
    """The marks that occur, in the order of the legend."""
    found = set()
    for attempt in attempts:
        value = _drawable(attempt.value)
        on_axis = value is None or axis.low <= value <= axis.high
        found.add(WORDS[attempt.outcome] if on_axis or value is None else MARKS[5 if value > axis.high else 6])
    return [mark for mark in MARKS if mark in found]


# The best so far of several runs


def runs(campaigns: Sequence[Campaign], by: str = "attempts", *, dark: bool = False) -> Spec:
    """The best so far of each run as a step line with its name, against the number of attempts or against hours."""
    if by not in ("attempts", "hours"):
        raise ValueError(by)
    ink = _Ink(dark)
    rows = [row for campaign in campaigns for row in run_rows(campaign, by)]
    axis = value_axis([a for campaign in campaigns for a in campaign.attempts if a.outcome is Outcome.KEEP])
    names = [campaign.name for campaign in campaigns if run_rows(campaign, by)]
    count, dashes = len(ink.runs), len(DASHES)
    metrics = list(dict.fromkeys(campaign.metric for campaign in campaigns))
    directions = {campaign.maximize for campaign in campaigns}
    better = f"{'higher' if directions == {True} else 'lower'} is better" if len(directions) == 1 else ""
    ends = {row["run"]: row for row in rows}
    # The colour never stands alone: each line has its name at its end, and its own dashes.
    colors = {"domain": names, "range": [ink.runs[at % count] for at in range(len(names))]}
    stroke = {"domain": names, "range": [DASHES[at % dashes] for at in range(len(names))]}
    legend = {
        "title": None,
        "orient": "top",
        "labelLimit": 200,
        "columns": 4,
        "symbolType": "stroke",
        "symbolSize": 600,
        "symbolStrokeWidth": 2,
    }
    x = {
        "field": "x",
        "type": "quantitative",
        "scale": {"domainMin": 0, "nice": False},
        "axis": {
            "title": "attempts" if by == "attempts" else "hours since the start",
            "grid": False,
            "labelFlush": False,
            **({"tickMinStep": 1} if by == "attempts" else {}),
        },
    }
    y = {
        "field": "value",
        "type": "quantitative",
        "scale": {
            "type": "log" if axis.log else "linear",
            "domainMin": axis.low,
            "domainMax": axis.high,
            "zero": False,
            "nice": False,
        },
        "axis": {"title": _axis_title(" or ".join(metrics), better, axis), **axis.format},
    }
    color = {"field": "run", "type": "nominal", "scale": colors, "legend": legend}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": f"best {' or '.join(metrics)} so far of {len(names)} runs by {by}",
        "width": WIDTH,
        "height": HEIGHT,
        "background": ink.background,
        "params": [
            {"name": "anchors", "value": ["right", "right", "top-right", "bottom-right"]},
            {"name": "room", "value": 220},
        ],
        "config": ink.config,
        "layer": [
            {
                "data": {"name": "runs", "values": rows},
                "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 2, "clip": True},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": color,
                    "strokeDash": {"field": "run", "type": "nominal", "scale": stroke, "legend": legend},
                },
            },
            {
                "name": "labels",
                "data": {"name": "ends", "values": [{**row, "label": row["name"]} for row in ends.values()]},
                "mark": {"type": "text", "fontSize": 11, "limit": 220},
                "encoding": {"x": x, "y": y, "text": {"field": "label"}, "color": {**color, "legend": None}},
            },
        ],
    }


def run_rows(campaign: Campaign, by: str) -> list[Spec]:
    """Corners of one run's line of the best so far, against attempts or hours; empty where nothing is known."""
    began = _moment(campaign.attempts[0].started) if campaign.attempts else None
    rows: list[Spec] = []
    x = 0.0
    for index, attempt in enumerate(campaign.attempts):
        if by == "attempts":
            x = float(index)
        else:
            moment = _moment(attempt.started)
            if began is None or moment is None:
                continue
            x = max(x, (moment + attempt.seconds - began) / 3600)
        if attempt.outcome is Outcome.KEEP and attempt.value is not None:
            rows.append(_run_row(campaign, x, attempt.value))
    if rows and x > rows[-1]["x"]:
        rows.append({**rows[-1], "x": x})
    return rows


def _run_row(campaign: Campaign, x: float, value: float) -> Spec:
    return {
        "run": campaign.name,
        "name": clean_line(campaign.name, NAME_CHARACTERS),
        "x": x,
        "value": _drawable(value),
    }


def _moment(started: str) -> float | None:
    """Seconds since 1970 of an ISO 8601 time in UTC."""
    with contextlib.suppress(ValueError):
        return float(calendar.timegm(time.strptime(started[:19], "%Y-%m-%dT%H:%M:%S")))
    return None


# The axis of values


class Axis:
    """What part of the values is shown, and how."""

    def __init__(self, low: float, high: float, log: bool = False, clipped: int = 0, empty: bool = False) -> None:
        self.low = low
        """The lowest value on the axis."""
        self.high = high
        """The highest."""
        self.log = log
        """Whether it is logarithmic."""
        self.clipped = clipped
        """How many values lie beyond it."""
        self.empty = empty
        """Whether there is no value at all."""

    @property
    def format(self) -> Spec:
        """How its ticks are written: as briefly as tells them apart."""
        size, step = max(abs(self.low), abs(self.high)), (self.high - self.low) / 5
        if self.empty:
            return {"labels": False, "ticks": False, "grid": False}
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if last - first <= 4 else (1,)
            every = max(1, (last - first) // 8)
            values = [step * 10.0**power for power in range(first, last + 1, every) for step in steps]
            return {"format": ".3~g", "values": [value for value in values if self.low <= value <= self.high]}
        if 1e-4 <= size < 1e6 or not size:
            return {"tickCount": 6}
        digits = math.ceil(math.log10(size) - math.log10(step)) if step > 0 else 2
        return {"format": f".{max(1, min(15, digits))}~e", "tickCount": 6}


def value_axis(attempts: Sequence[Attempt]) -> Axis:
    """The axis for the values of these attempts: all kept ones are on it, and whatever is not absurdly far off."""
    kept = [v for a in attempts if a.outcome is Outcome.KEEP and (v := _drawable(a.value)) is not None]
    values = [v for a in attempts if (v := _drawable(a.value)) is not None]
    if not values:
        return Axis(0.0, 1.0, empty=True)
    kept = kept or [sorted(values)[len(values) // 2]]
    log = min(kept) > 0 and max(kept) >= DECADES * min(kept)
    scaled = [math.log10(v) for v in values if v > 0] if log else values
    ends = [math.log10(v) for v in kept] if log else kept
    low, high = _fenced(scaled, min(ends), max(ends))
    margin = 0.07 * (high - low)
    if not margin > 4e-15 * max(abs(low), abs(high)):  # all the same, to the last digits
        margin = 0.05 * max(abs(low), abs(high)) or 0.5
        margin = min(margin, 1e-6 * max(abs(low), abs(high))) if low != high else margin
    low, high = low - margin, high + margin
    if log:
        low, high = 10.0 ** max(low, -300.0), 10.0 ** min(high, 300.0)
    return Axis(low, high, log, sum(not low <= v <= high for v in values))


def _fenced(values: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """The least and greatest of the values, without those far off when the others would be squeezed into nothing."""
    ordered = sorted(values)
    first, third = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    spread = max(third - first, high - low) * FENCE
    first, third = min(low, first - spread), max(high, third + spread)
    inside = [v for v in ordered if first <= v <= third]
    shortest = min(low, inside[0]), max(high, inside[-1])
    whole = min(low, ordered[0]), max(high, ordered[-1])
    if whole[1] - whole[0] <= WORTH_CLIPPING * (shortest[1] - shortest[0]):
        return whole
    return whole if len(inside) < len(ordered) / 2 else shortest


def _drawable(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return max(-BIGGEST, min(BIGGEST, value)) if abs(value) * BIGGEST >= 1 else 0.0


def _axis_title(metric: str, better: str, axis: Axis) -> str:
    notes = [clean_line(metric, 60), "no value yet" if axis.empty else better, "log scale" if axis.log else ""]
    if axis.clipped:
        notes.append(f"{axis.clipped} beyond the axis")
    return ", ".join(note for note in notes if note)


class _Ink:
    """Colours on a light or a dark ground."""

    def __init__(self, dark: bool) -> None:
        self.marks = DARK_COLORS if dark else COLORS
        self.runs = DARK_RUN_COLORS if dark else RUN_COLORS
        self.line = "#56B4E9" if dark else "#0072B2"
        self.background = "#16181d" if dark else "#ffffff"
        self.text = "#d7dae0" if dark else "#24292f"
        quiet = "#9aa1ab" if dark else "#57606a"
        rule = "#2c313a" if dark else "#e4e7eb"
        axis = {
            "labelColor": quiet,
            "titleColor": quiet,
            "titleFontWeight": "normal",
            "titlePadding": 10,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "gridColor": rule,
            "domainColor": rule,
            "tickColor": rule,
            "labelLimit": 120,
        }
        self.config: Spec = {
            "font": FONT,
            "axis": axis,
            "legend": {"labelColor": quiet, "labelFontSize": 12, "symbolSize": 70, "columnPadding": 14},
            "view": {"stroke": None},
            "padding": 12,
        }


# From the definition to a picture


def to_vega(spec: Spec) -> Spec:
    """The same chart as Vega understands it, with labels where there is room for them."""
    import vl_convert

    vega: Spec = vl_convert.vegalite_to_vega(spec)
    for mark in vega.get("marks", []):
        if (name := str(mark.get("name"))).startswith("labels"):
            mark["transform"] = [_places("anchors_right" if "right" in name else "anchors")]
    return vega


def _places(anchors: str) -> Spec:
    """How Vega places texts so that none lies on another; Vega-Lite has no word for it.

    The largest gains come first, near their marks and then farther off; what has no room is left out.
    """
    return {
        "type": "label",
        "size": {"signal": "[width + room, height]"},
        "anchor": {"signal": anchors},
        "offset": {"signal": "[5, 14]"},
        "sort": {"field": "datum.gain", "order": "descending"},
    }


def to_svg(spec: Spec) -> str:
    """An SVG image of a chart."""
    import vl_convert

    return str(vl_convert.vega_to_svg(to_vega(spec), allowed_base_urls=[]))


def to_png(spec: Spec, scale: float = 2.0) -> bytes:
    """A PNG image of a chart, `scale` times as large."""
    import vl_convert

    return bytes(vl_convert.vega_to_png(to_vega(spec), scale=scale, allowed_base_urls=[]))


def write_plot(spec: Spec, path: Path) -> None:
    """Write a chart to a file, PNG or SVG by its name; UsageError for any other, ArkError when it cannot be written."""
    suffix = path.suffix.lower()
    if suffix not in (".png", ".svg"):
        raise UsageError(f"{path} is neither a .png nor a .svg", "these two can be drawn")
    data = to_png(spec) if suffix == ".png" else to_svg(spec).encode()
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ArkError(f"{path} cannot be written: {error.strerror}") from None
