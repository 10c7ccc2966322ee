"""The best so far of several runs."""

from __future__ import annotations

from collections.abc import Sequence

from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.records import Outcome, clean_line
from autoresearch_kit.views.chart.axis import axis_title, drawable, value_axis
from autoresearch_kit.views.chart.ink import DASHES, HEIGHT, WIDTH, Ink, Spec
from autoresearch_kit.views.worktime import moment

NAME_CHARACTERS = 40
"""Of the name of a run at its line."""


def runs(campaigns: Sequence[Campaign], by: str = "attempts", *, dark: bool = False) -> Spec:
    """The best so far of each run as a step line with its name, against the number of attempts or against time."""
    if by not in ("attempts", "hours"):
        raise ValueError(by)
    ink = Ink(dark)
    rows = [row for campaign in campaigns for row in run_rows(campaign, by)]
    unit, length = _unit(max((row["x"] for row in rows), default=0.0)) if by == "hours" else ("", 1.0)
    rows = [{**row, "x": row["x"] / length} for row in rows]
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
    shown = legend if len(names) > 1 else None  # a single line has its name at its end
    x = {
        "field": "x",
        "type": "quantitative",
        "scale": {"domainMin": 0, "nice": False},
        "axis": {
            "title": "attempts" if by == "attempts" else f"{unit} since the start",
            "tickCount": 10,
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
        "axis": {"title": axis_title(" or ".join(metrics), better, axis), **axis.format},
    }
    color = {"field": "run", "type": "nominal", "scale": colors, "legend": shown}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": f"{' or '.join(metrics)}, {line_words(campaigns)} of {len(names)} runs by {by}",
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
                    "strokeDash": {"field": "run", "type": "nominal", "scale": stroke, "legend": shown},
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


def line_words(campaigns: Sequence[Campaign]) -> str:
    """What the lines of these runs are: `best so far`, or `the head` where one of them ever went back."""
    names = {campaign.line_name for campaign in campaigns}
    return "best so far" if names == {"the best so far"} else "the head"


def _unit(hours: float) -> tuple[str, float]:
    """What to count so many hours in, and how many hours one of it is."""
    if hours < 3 / 60:
        return "seconds", 1 / 3600
    return ("minutes", 1 / 60) if hours < 3 else ("hours", 1.0)


def run_rows(campaign: Campaign, by: str) -> list[Spec]:
    """Corners of one run's line of the best so far, against attempts or hours; empty where nothing is known."""
    began = moment(campaign.attempts[0].started) if campaign.attempts else None
    rows: list[Spec] = []
    x = 0.0
    for index, (attempt, best) in enumerate(campaign.with_best()):
        if by == "attempts":
            x = float(index)
        else:
            at = moment(attempt.started)
            if began is None or at is None:
                continue
            x = max(x, (at + attempt.seconds - began) / 3600)
        if attempt.outcome is Outcome.KEEP and best is not None:
            rows.append(_run_row(campaign, x, best))
    if rows and x > rows[-1]["x"]:
        rows.append({**rows[-1], "x": x})
    return rows


def _run_row(campaign: Campaign, x: float, value: float) -> Spec:
    return {
        "run": campaign.name,
        "name": clean_line(campaign.name, NAME_CHARACTERS),
        "x": x,
        "value": drawable(value),
    }
