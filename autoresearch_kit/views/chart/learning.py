"""The learning curve of an experiment, in Vega-Lite, without data: a page fills the dataset `curve` with x and y."""

from __future__ import annotations

from autoresearch_kit.views.chart.ink import Ink, Spec


def learning_curve(*, dark: bool = False) -> Spec:
    """What is shown of the run that goes on; the page gives its axes their titles."""
    ink = Ink(dark)
    x: Spec = {
        "field": "x",
        "type": "quantitative",
        "axis": {"title": None, "grid": False, "tickCount": 8},
        "scale": {"zero": False},
    }
    y: Spec = {"field": "y", "type": "quantitative", "axis": {"title": None, "tickCount": 4}, "scale": {"zero": False}}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": 600,
        "height": 180,
        "background": "transparent",
        "autosize": {"type": "fit", "contains": "padding"},
        "config": ink.config,
        "data": {"name": "curve"},
        "mark": {"type": "line", "strokeWidth": 1.5, "clip": True},
        "encoding": {"x": x, "y": y, "color": {"value": ink.line}},
    }
