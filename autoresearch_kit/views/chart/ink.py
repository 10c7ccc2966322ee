"""How charts look: outcomes differ by shape as well as by colour, and the colours are those of Okabe and Ito, which
people with any kind of colour blindness tell apart."""

from __future__ import annotations

from typing import Any

from autoresearch_kit.core.records import Outcome

Spec = dict[str, Any]

WIDTH, HEIGHT = 860, 420
"""Of the plot in pixels, without axes."""
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


class Ink:
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
