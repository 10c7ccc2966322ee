"""What goes on in a run at this moment, as plain data for a page."""

from __future__ import annotations

from typing import Any

from autoresearch_kit.core.words import rate
from autoresearch_kit.watch.curve import Curve
from autoresearch_kit.watch.lines import NOTE_SECONDS, at_rest_words, left_words, phase_words
from autoresearch_kit.watch.state import Picture

LOG_LINES = 12
"""Of the log of what goes on."""
CURVE_POINTS = 300
"""More of them would not be told apart."""


def now(picture: Picture, waits_for: str = "", trouble: str = "") -> dict[str, Any]:
    """A picture as the page shows it; `moment`, `began` and `limit` in seconds, the first two since 1970.

    `waits_for` is told while there is no run, `trouble` is why the picture is not the newest.
    """
    live = picture.live
    found: dict[str, Any] = {
        "at_work": picture.at_work,
        "words": at_rest_words(picture) if picture.campaign else waits_for,
        "moment": picture.moment,
        "left": left_words(picture),
        "trouble": trouble,
        "curve": _curve(picture.curve, picture) if picture.curve else None,
    }
    if live is None:
        return found
    again = f", run {live.done + 1}" if live.done else ""
    whose = " of the head, in turn" if live.of_head else ""
    phase = phase_words(live) if live.phase else "comes next"
    note = live.notes[-1][1] if live.notes and picture.moment - live.notes[-1][0] < NOTE_SECONDS else ""
    return found | {
        "words": f"attempt {picture.next_number}{again}{whose}: {phase}",
        "title": live.title,
        "agent": live.agent,
        "began": live.began if live.phase else None,
        "limit": live.limit_seconds if live.phase else None,
        "rate": f"{rate(picture.rate)} attempts an hour lately" if picture.rate else "",
        "note": note,
        "log": picture.log,
        "lines": list(picture.lines[-LOG_LINES:]),
    }


def _curve(curve: Curve, picture: Picture) -> dict[str, Any]:
    points = curve.points
    step = -(-len(points) // CURVE_POINTS)
    shown = [*points[:-1:step], points[-1]]
    return {
        "name": curve.name,
        "along": curve.along,
        "number": picture.curve_number,
        "of_head": picture.curve_of_head,
        "counts": all(x == int(x) for x, _ in shown),
        "points": [{"x": x, "y": y} for x, y in shown],
    }
