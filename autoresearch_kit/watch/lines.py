"""A picture of a run as lines of text that fit a terminal exactly: what is most worth a look stays when room is short.

From the top: what goes on and how far it is, the best, what is left; then a chart, the end of the log, the last
verdicts. The state is told in words and figures; colour only repeats it.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from autoresearch_kit.core.campaign import ARK, Campaign
from autoresearch_kit.core.entry import gain_words
from autoresearch_kit.core.records import Outcome, clean_line, number
from autoresearch_kit.core.words import apart, rate
from autoresearch_kit.lab.live import Live
from autoresearch_kit.ledger.ledger import seconds_of
from autoresearch_kit.views.display import PHASE_WORDS, clock, verdict_line
from autoresearch_kit.watch.log import MEASURING
from autoresearch_kit.watch.plot import MIN_HEIGHT, curve_chart, progress_chart
from autoresearch_kit.watch.state import Picture

SNAPSHOT_WIDTH, SNAPSHOT_HEIGHT = 100, 44
"""What a picture on a pipe is made for."""
BAR_CELLS = 20
WIDE = 116
"""From this width on both charts stand side by side."""
CHART_HEIGHTS = (MIN_HEIGHT + 1, 24)
"""With its title: the least and the most that a chart is given."""
CURVE_SECONDS = 3.0
"""An experiment that is younger, or shorter, shows no curve: the charts would change all the time."""
REDRAW_SHARE = 200
"""A chart of n attempts is drawn anew every n / 200 seconds: before, nobody would see a difference."""
NOTE_SECONDS = 900.0
"""So long a note of the engine's stays in sight."""
NAME = 100
"""Characters of a name: other loops' tables hold what they want."""
KEYS = "q ends this view; the run goes on without it"


class Painter:
    """Makes lines of pictures. It remembers charts that are still true."""

    def __init__(self, unicode: bool = True) -> None:
        self._unicode = unicode
        self._charts: dict[tuple[str, tuple[int, int]], tuple[object, float, list[str]]] = {}

    def lines(self, picture: Picture, width: int, height: int, waits_for: str = "") -> list[Text]:
        """Exactly `height` lines of at most `width` cells; `waits_for` is told where there is no run yet."""
        footer = _spread(Text(KEYS, "dim"), Text(time.strftime("%H:%M:%S", time.localtime(picture.moment))), width)
        top = self._top(picture, width) if picture.campaign else [*map(Text, textwrap.wrap(waits_for, max(1, width)))]
        rest = height - len(top) - 1
        body = self._body(picture, width, rest) if picture.campaign and rest > 0 else []
        shown = [*top, *body][: max(0, height - 1)]
        shown += [Text()] * (height - 1 - len(shown))
        return [_fit(line, width) for line in [*shown, footer][:height]]

    def snapshot(self, picture: Picture) -> list[Text]:
        """The same once, for a pipe: long lines stay whole."""
        top = self._top(picture, SNAPSHOT_WIDTH)
        return [*top, *self._body(picture, SNAPSHOT_WIDTH, SNAPSHOT_HEIGHT - len(top))]

    # The top

    def _top(self, picture: Picture, width: int) -> list[Text]:
        campaign = picture.campaign
        assert campaign is not None
        spec = f"{clean_line(campaign.spec.name, 40)}  " if campaign.spec and campaign.spec.name else ""
        branch = (
            f"  on {clean_line(campaign.branch, NAME)}" if campaign.branch and campaign.branch != campaign.name else ""
        )
        head = Text.assemble(spec, (f"run {clean_line(campaign.name, NAME)}", "bold"), branch)
        state = ("running", "bold green") if picture.at_work else (state_words(campaign), "bold")
        lines = [_spread(head, Text(*state), width)]
        if activity := self._activity(picture, width):
            lines.append(activity)
        live = picture.live
        if live and live.number is not None:
            by = f" (by {clean_line(live.agent, 40).removeprefix('by ')})" if live.agent and live.agent != "ark" else ""
            lines.append(Text(f"tries: {live.title}{by}"))
        lines.append(self._best(picture))
        lines.append(self._counts(picture))
        if text := left_words(picture):
            lines.append(Text(text))
        if live and live.notes and picture.moment - live.notes[-1][0] < NOTE_SECONDS:
            moment, text = live.notes[-1]
            lines.append(Text(f"note {time.strftime('%H:%M', time.localtime(moment))}: {text}", "yellow"))
        lines += [Text(f"note: {clean_line(note, 300)}", "yellow") for note in campaign.notes[:1]]
        return lines

    def _activity(self, picture: Picture, width: int) -> Text:
        live = picture.live
        if live is None or not live.phase:
            return Text(activity_words(picture))
        elapsed, limit = picture.elapsed_seconds, live.limit_seconds
        times = clock(elapsed) + (f" of {clock(limit)}{', over it' if elapsed > limit else ''}" if limit else "")
        # What gives way when there is little room.
        for room in (0, 1, 2, 3):
            words = activity_words(picture, room)
            if len(words) + len(times) + 2 <= width:
                break
        cells = min(BAR_CELLS, width - len(words) - len(times) - 4) if limit else 0
        bar = f"  {self._bar(elapsed / limit, cells)}  " if limit and cells >= 5 else ", "
        return Text(words + bar + times)

    def _bar(self, share: float, cells: int) -> str:
        full = round(cells * min(1.0, share))
        return ("█" * full + "░" * (cells - full)) if self._unicode else ("#" * full + "-" * (cells - full))

    @staticmethod
    def _best(picture: Picture) -> Text:
        campaign = picture.campaign
        assert campaign is not None
        if campaign.best is None:
            word = "measuring the baseline" if picture.at_work else "there is no baseline"
            return Text(f"{clean_line(campaign.metric, NAME)}: {word}")
        baseline = campaign.baseline.value if campaign.baseline else None
        words = gain_words(baseline, campaign.best.value, campaign.maximize)
        target = picture.live.budget.target if picture.live and picture.live.budget else None
        goal = f"; target {number(target)}" if target is not None else ""
        value = apart(campaign.best.value, baseline) if campaign.best.value is not None else "no value"
        return Text.assemble(
            f"{clean_line(campaign.metric, NAME)} ",
            (value, "bold"),
            f" (attempt {campaign.best.number}){', ' * bool(words)}{words}{goal}",
        )

    @staticmethod
    def _counts(picture: Picture) -> Text:
        counts = picture.counts
        words = [f"{counts[Outcome.KEEP]} kept", f"{counts[Outcome.DISCARD]} discarded"]
        words.append(f"{counts[Outcome.CRASH]} crashed")
        if counts[Outcome.LOST]:
            words.append(f"{counts[Outcome.LOST]} lost")
        pace = f"; {rate(picture.rate)} an hour lately" if picture.rate else ""
        total = sum(counts.values())
        return Text(f"{total} attempt{'' if total == 1 else 's'}: {', '.join(words)}{pace}")

    # The rest

    def _body(self, picture: Picture, width: int, rows: int) -> list[Text]:
        """At most `rows` lines."""
        assert picture.campaign is not None
        closed = [a for a in picture.campaign.attempts[-40:] if a.verdict is not None]
        log = max(3, min(13, rows // 4)) if picture.lines else 0
        verdicts = min(max(4, min(11, rows // 4)), len(closed) + 1) if closed else 0
        charts = self._both(picture, width, min(CHART_HEIGHTS[1], rows - log - verdicts))
        log = min(len(picture.lines) + 1, rows - len(charts) - verdicts) if picture.lines else 0
        verdicts = min(len(closed) + 1, rows - len(charts) - log) if closed else 0
        lines = list(charts)
        if log > 1:
            lines.append(self._title(f"the end of {clean_line(picture.log, 40)}", width))
            lines += [Text(line) for line in picture.lines[-(log - 1) :]]
        if verdicts > 1:
            lines.append(self._title("verdicts, the last one below", width))
            lines += [verdict_line(attempt) for attempt in closed[-(verdicts - 1) :]]
        return lines

    def _both(self, picture: Picture, width: int, height: int) -> list[Text]:
        """The charts that there is room for, with their titles."""
        if height < CHART_HEIGHTS[0]:
            return []
        if picture.curve and width >= WIDE:
            half = (width - 2) // 2
            left, right = self._curve(picture, half, height), self._progress(picture, half, height)
            if left and right:
                return [Text(f"{a:<{half}}  {b}") for a, b in zip(left, right, strict=True)]
        chosen = self._curve(picture, width, height) if _shows_curve(picture) else []
        chosen = chosen or self._progress(picture, width, height) or self._curve(picture, width, height)
        return [Text(line) for line in chosen]

    def _curve(self, picture: Picture, width: int, height: int) -> list[str]:
        curve = picture.curve
        if curve is None:
            return []
        whose = f"attempt {picture.curve_number}{', the head in turn' if picture.curve_of_head else ''}"
        title = f"{curve.name} by {curve.along}, {whose}: {number(curve.points[-1][1])}"
        state = (picture.curve_number, picture.curve_of_head, len(curve.points), curve.points[-1])
        chart = self._remembered(
            "curve", (width, height), state, 0.0, lambda: curve_chart(curve, width, height - 1, self._unicode)
        )
        return [self._title(title, width).plain, *chart] if chart else []

    def _progress(self, picture: Picture, width: int, height: int) -> list[str]:
        campaign = picture.campaign
        assert campaign is not None
        seconds = len(campaign.attempts) / REDRAW_SHARE if picture.at_work else 0.0
        chart = self._remembered(
            "progress", (width, height), (campaign.name, picture.version), seconds,
            lambda: progress_chart(campaign, width, height - 1, self._unicode),
        )  # fmt: skip
        if not chart:
            return []
        return [self._title(chart[0], width).plain, *chart[1:]]

    def _remembered(
        self, name: str, size: tuple[int, int], state: object, seconds: float, draw: Callable[[], list[str]]
    ) -> list[str]:
        """A chart of that size, drawn anew when `state` is another one and it is older than `seconds`."""
        old = self._charts.get((name, size))
        now = time.monotonic()
        if old and (old[0] == state or now - old[1] < seconds):
            return old[2]
        if len(self._charts) > 9:  # the terminal was given other sizes
            self._charts.clear()
        chart = draw()
        self._charts[name, size] = (state, now, chart)
        return chart

    def _title(self, words: str, width: int) -> Text:
        line = "─" if self._unicode else "-"
        title = f"{line * 2} {clean_line(words, width)} "
        return Text(set_cell_size(title + line * max(0, width - cell_len(title)), width))


def activity_words(picture: Picture, shorter: int = 0) -> str:
    """What goes on, in words, at most three times `shorter`."""
    live = picture.live
    if live is None:
        return at_rest_words(picture)
    attempt = f"attempt {picture.next_number}"
    if not live.phase:
        return f"{attempt} comes next"
    again = f", run {live.done + 1}" if live.done else ""
    whose = " (the head, in turn)" if live.of_head else ""
    phase = PHASE_WORDS.get(live.phase, live.phase)
    return (
        f"{attempt}{again}{whose}: {phase_words(live)}",
        f"{attempt}{again}: {phase}",
        f"{attempt}: {phase}",
        phase,
    )[shorter]


def phase_words(live: Live) -> str:
    """What the phase is, with the name of the agent whose turn it is."""
    is_turn = live.phase in ("agent", "rest") and live.agent
    return PHASE_WORDS.get(live.phase, live.phase) + (f" ({clean_line(live.agent, 40)})" if is_turn else "")


def is_fetched(campaign: Campaign) -> bool:
    """Whether it is another machine's, of which only its records are here."""
    return campaign.source == ARK and "/" in campaign.name


def state_words(campaign: Campaign) -> str:
    """How a run is that nobody of this machine works on."""
    return "fetched" if is_fetched(campaign) else "not running" if campaign.source == ARK else "read once"


def at_rest_words(picture: Picture) -> str:
    """Why nothing goes on, or nothing is known of what does."""
    if picture.at_work:
        if picture.being_verified:
            return "`ark verify` measures baseline and head anew"
        return "some process holds this run and does not say what it does"
    campaign = picture.campaign
    assert campaign is not None
    if is_fetched(campaign):
        last_began = _minute(campaign.attempts[-1].started) if campaign.attempts else ""
        began = f"; the last attempt that is here began at {last_began}" if last_began else ""
        return f"whether it goes on is known where it was fetched from{began}"
    last = picture.last
    again = f"to go on: ark run --tag {clean_line(campaign.name, NAME)}"
    if last is None:
        return ""
    if last.ended is None:
        return f"the process that worked on it, {last.pid}, is gone without a word: killed? {again}"
    when = time.strftime("%H:%M", time.localtime(last.ended))
    return f"it ended at {when}: {last.reason or 'nothing more was asked for'}"


def left_words(picture: Picture) -> str:
    """What may still be used up, and what was spent; empty when there is nothing to say."""
    left, spent, words, used = picture.left, picture.spent, [], []
    if left.attempts is not None:
        words.append(f"{left.attempts} attempt{'' if left.attempts == 1 else 's'}")
    if left.hours is not None:
        words.append(clock(3600 * left.hours))
    if left.patience is not None:
        words.append(f"{left.patience} without a keep")
    if spent and left.money is not None:
        words.append(f"money {left.money:.2f} of {left.money + spent.money:.2f}")
    elif spent and spent.money:
        used.append(f"money {spent.money:.4g}")
    if left.tokens is not None:
        words.append(f"{_short(left.tokens)} tokens")
    elif spent and spent.tokens:
        used.append(f"{_short(spent.tokens)} tokens")
    expected = left.expected_hours(picture.rate) if picture.at_work else None
    parts = [f"left: {', '.join(words)}"] if words else []
    if expected is not None and expected != left.hours:
        parts.append(f"done in about {_about(3600 * expected)}")
    return "; ".join([*parts, *([f"spent: {', '.join(used)}"] if used else [])])


def _about(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _minute(started: str) -> str:
    """A moment of the ledger by the clock of this machine."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds_of(started)))
    except ValueError:
        return clean_line(started, 40)


def _short(count: int) -> str:
    return f"{count}" if count < 10_000 else f"{count / 1000:.0f} k" if count < 10**6 else f"{count / 10**6:.3g} M"


def _shows_curve(picture: Picture) -> bool:
    """Whether the curve is that of an experiment that goes on, for long enough to be looked at."""
    live = picture.live
    if picture.curve is None or live is None or live.phase not in MEASURING or live.number != picture.curve_number:
        return False
    running = (
        next((a for a in reversed(picture.campaign.attempts) if a.number == live.number), None)
        if picture.campaign
        else None
    )
    try:
        began = seconds_of(running.started) if running else live.began
    except ValueError:
        began = live.began
    return picture.moment - min(began, live.began) >= CURVE_SECONDS


def _spread(left: Text, right: Text, width: int) -> Text:
    """Both at the ends of one line; the left gives way."""
    room = width - right.cell_len - 1
    if room < 1:
        return left
    left = left.copy()
    left.truncate(room, overflow="ellipsis", pad=True)
    return Text.assemble(left, " ", right)


def _fit(line: Text, width: int) -> Text:
    line = line.copy()
    line.truncate(max(1, width), overflow="ellipsis")
    return line


def is_same(one: Sequence[Text], other: Sequence[Text], row: int) -> bool:
    """Whether a row of two pictures looks the same."""
    return (
        row < len(one)
        and row < len(other)
        and one[row].plain == other[row].plain
        and one[row].spans == other[row].spans
    )
