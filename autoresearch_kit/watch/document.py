"""What goes on in a run as plain data, for a page: the numbers of a picture, and the sentences that a terminal shows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from autoresearch_kit.views.display import PHASE_WORDS
from autoresearch_kit.watch.lines import activity_words, left_words
from autoresearch_kit.watch.plot import thinned
from autoresearch_kit.watch.state import Picture


def live_document(picture: Picture, lines: int = 20) -> dict[str, Any]:
    """The live part of a page, with the last `lines` of the log. Moments are ISO 8601 in UTC, times seconds.

    `phase` and what belongs to it are None unless something is measured or thought about.
    """
    live, left, curve = picture.live, picture.left, picture.curve
    at_work = live if live and live.phase else None
    return {
        "moment": _iso(picture.moment),
        "running": picture.at_work,
        "words": activity_words(picture) if picture.campaign else "",
        "number": picture.next_number if live else None,
        "title": live.title if live and live.number is not None else "",
        "agent": live.agent if live else "",
        "phase": at_work.phase if at_work else None,
        "phase_words": PHASE_WORDS.get(at_work.phase, at_work.phase) if at_work else "",
        "began": _iso(at_work.began) if at_work else None,
        "elapsed_seconds": round(picture.elapsed_seconds, 1) if at_work else None,
        "limit_seconds": at_work.limit_seconds if at_work else None,
        "run": live.done + 1 if live else None,
        "of_head": bool(live and live.of_head),
        "log": picture.log,
        "lines": list(picture.lines[-lines:]),
        "curve": {
            "name": curve.name,
            "along": curve.along,
            "number": picture.curve_number,
            "points": _pairs(thinned(curve.points)),
        }
        if curve
        else None,
        "attempts_per_hour": picture.rate,
        "left": {
            "words": left_words(picture),
            "attempts": left.attempts,
            "seconds": None if left.hours is None else round(3600 * left.hours),
            "expected_seconds": _seconds(left.expected_hours(picture.rate)) if picture.at_work else None,
            "patience": left.patience,
            "money": left.money,
            "tokens": left.tokens,
        },
        "notes": [{"moment": _iso(moment), "text": text} for moment, text in (live.notes if live else ())],
        "ended": _iso(picture.last.ended) if picture.last and picture.last.ended is not None else None,
        "reason": picture.last.reason if picture.last else "",
    }


def _pairs(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    return [[at, value] for at, value in points]


def _seconds(hours: float | None) -> int | None:
    return None if hours is None else round(3600 * hours)


def _iso(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
