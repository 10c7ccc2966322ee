"""What `ark run` shows while it works: a live picture on a terminal, plain lines on a pipe. Both go to stderr."""

from __future__ import annotations

import time
from collections import deque

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autoresearch_kit.core.entry import gain_words
from autoresearch_kit.core.records import Attempt, Outcome, clean_line
from autoresearch_kit.core.words import apart
from autoresearch_kit.lab.measure import Phase
from autoresearch_kit.ledger.ledger import baseline_of
from autoresearch_kit.ratchet import Event, Judged, Note, Run, Sampling

SHOWN_VERDICTS = 8
STYLES = {Outcome.KEEP: "bold green", Outcome.DISCARD: "", Outcome.CRASH: "red", Outcome.LOST: "yellow"}
PHASE_WORDS = {
    "agent": "the agent thinks",
    "rest": "the agent waits for its rate limit to end",
    "setup": "set-up",
    "run": "the experiment runs",
    "eval": "evaluation",
    "check": "check",
}


class Display:
    """Takes the events of a run. A context manager around the whole of it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._run: Run | None = None
        self._started = time.monotonic()
        self._phase: Phase | None = None
        self._phase_began = 0.0
        self._sampling = Sampling(0, False)
        self._measured = 0
        self._verdicts: deque[Text] = deque(maxlen=SHOWN_VERDICTS)
        self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=4, transient=True)
        self._is_live = console.is_terminal and not console.is_dumb_terminal

    def __enter__(self) -> Display:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.stop()

    def follow(self, run: Run) -> None:
        """Show this run from now on."""
        self._run = run

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, Phase):
            self._phase, self._phase_began = event, time.monotonic()
        elif isinstance(event, Sampling):
            self._sampling = event
        elif isinstance(event, Note):
            self._print(Text(event.text, style="yellow"))
        elif isinstance(event, Judged):
            self._phase, self._sampling = None, Sampling(0, False)
            self._measured += 1
            line = verdict_line(event.attempt)
            self._verdicts.append(line)
            if not self._is_live or event.attempt.outcome is Outcome.KEEP:
                self._print(line)

    def _print(self, text: Text) -> None:
        # On a pipe one event is one line, however wide.
        if self._is_live:
            self._console.print(text, no_wrap=True, overflow="ellipsis")
        else:
            self._console.print(text, soft_wrap=True, highlight=False)

    def _picture(self) -> Group:
        run = self._run
        if run is None:
            return Group(Text("ark is getting ready"))
        head = Text.assemble((run.spec.name, "bold"), f"  run {run.tag}  on {run.ledger.branch}")
        return Group(Text(""), head, self._bar(run), self._state(run), *self._lines())

    def _bar(self, run: Run) -> Table:
        row = Table.grid(padding=(0, 1))
        upcoming = len(run.attempts) and run.books.next_number
        phase = self._phase
        if phase is None:
            row.add_row(f"attempt {upcoming}", "")
            return row
        elapsed = time.monotonic() - self._phase_began
        turn = self._sampling
        again = f", run {turn.done + 1}{' (the head, in turn)' if turn.of_head else ''}" if turn.done else ""
        words = f"attempt {upcoming}{again}: {PHASE_WORDS.get(phase.name, phase.name)}"
        bar = ProgressBar(total=phase.limit_seconds, completed=min(elapsed, phase.limit_seconds), width=24)
        row.add_row(words, bar, f"{clock(elapsed)} of {clock(phase.limit_seconds)}")
        return row

    def _state(self, run: Run) -> Text:
        first = baseline_of(run.attempts)
        if first is None:
            return Text("measuring the baseline")
        tried = [a for a in run.attempts if a.is_tried]
        kept = sum(a.outcome is Outcome.KEEP for a in tried)
        crashed = sum(a.outcome is Outcome.CRASH for a in tried)
        best = run.head.value
        hours = (time.monotonic() - self._started) / 3600
        words = gain_words(first.value, best, run.spec.maximize)
        return Text.assemble(
            f"{run.spec.metric} ",
            (apart(best or 0, first.value), "bold"),
            f" (attempt {run.head.number}), {words}\n",
            f"{len(tried)} attempts, {kept} kept, {crashed} crashed, {self._measured / max(hours, 1e-9):.0f} an hour",
        )

    def _lines(self) -> list[Text]:
        width = max(20, self._console.width)
        shown = list(self._verdicts)
        for line in shown:
            line.truncate(width, overflow="ellipsis")
        return shown


def verdict_line(attempt: Attempt) -> Text:
    """One line on a closed attempt: number, outcome in words, the verdict's sentence, title."""
    reason = attempt.verdict.reason if attempt.verdict else ""
    sentence = reason.partition(": ")[2] or reason
    return Text.assemble(
        f"{attempt.number:>4}  ",
        (f"{attempt.outcome:<7}", STYLES.get(attempt.outcome, "")),
        f"  {sentence}",
        (f"  | {clean_line(attempt.proposal.title, 100)}", "dim"),
    )


def clock(seconds: float) -> str:
    """A time that goes on: `4.2 s`, `58 s`, `2:31 min`, `1.3 h`."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
