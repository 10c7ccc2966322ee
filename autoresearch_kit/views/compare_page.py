"""Runs side by side as one HTML page that asks nobody for anything, and as one picture."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from autoresearch_kit import __version__
from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.errors import UsageError
from autoresearch_kit.core.records import clean_line
from autoresearch_kit.data import data_folder
from autoresearch_kit.views import chart
from autoresearch_kit.views.changes import Change
from autoresearch_kit.views.compare import Row
from autoresearch_kit.views.compare_table import facts
from autoresearch_kit.views.compare_words import (
    common_lines,
    group_name,
    offer_words,
    only_lines,
    particular,
    run_name,
    sentences,
    value_lines,
)
from autoresearch_kit.views.report.page import environment

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""No script, and nothing from anywhere else."""


def page(project: str, rows: Sequence[Row], found: Sequence[Change]) -> str:
    """The whole page. `project` is what it is called."""
    templates = data_folder("templates") / "report"
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            project=clean_line(project, 200),
            css=(templates / "page.css").read_text(),
            policy=POLICY,
            version=__version__,
            names=[run_name(row.campaign) for row in rows],
            groups=[group_name(row) for row in rows] if len({row.group for row in rows}) > 1 else [],
            facts=facts(rows),
            sentences=sentences(rows),
            charts=_charts(rows),
            lists=[(heading, lines) for heading, lines in _lists(found) if lines],
            targets=[
                (target.heading, [offer_words(offer) for offer in target.lacking], target.commands)
                for target in particular(rows, found)
            ],
        )
    )


def write_plot(rows: Sequence[Row], by: str, path: Path) -> list[str]:
    """Draw the best so far of the runs with the first one's metric; the names of those that have another one.

    UsageError when there is nothing to draw.
    """
    first, *others = _by_metric(rows)
    drawn = [run for run in first if chart.run_rows(run, by)]
    if not drawn:
        raise UsageError(
            "there is nothing to draw: no run has a value" + (" and a time" if by == "hours" else ""),
            "draw by attempts" if by == "hours" else "see what there is: ark compare",
        )
    chart.write_plot(chart.runs(drawn, by), path)
    return [run.name for runs in [[run for run in first if run not in drawn], *others] for run in runs]


def _by_metric(rows: Sequence[Row]) -> list[list[Campaign]]:
    """The runs by metric and direction: values of two metrics do not belong on one axis."""
    found: dict[tuple[str, bool], list[Campaign]] = {}
    for row in rows:
        found.setdefault((row.campaign.metric, row.campaign.maximize), []).append(row.campaign)
    return list(found.values())


def _charts(rows: Sequence[Row]) -> list[dict[str, str]]:
    """For each metric the best so far over attempts and over hours: heading, text, light and dark picture."""
    made = []
    for runs in _by_metric(rows):
        for by in ("attempts", "hours"):
            drawn = [run for run in runs if len(chart.run_rows(run, by)) > 1]
            if not drawn:
                continue
            names = ", ".join(run_name(run) for run in drawn)
            spec = {name: chart.runs(drawn, by, dark=name == "dark") for name in ("light", "dark")}
            pictures = {name: base64.b64encode(chart.to_svg(one).encode()).decode() for name, one in spec.items()}
            heading = f"{clean_line(runs[0].metric, 80)}, {chart.line_words(drawn)} over {by}"
            made.append({"heading": heading, "text": f"{heading}, of {names}", **pictures})
    return made


def _lists(found: Sequence[Change]) -> list[tuple[str, list[str]]]:
    return [
        ("Kept by several runs", common_lines(found)),
        ("The same constant, turned to other values", value_lines(found)),
        *only_lines(found),
    ]
