"""The commands of `on` in the spec: who wants to know that an attempt was kept, or that a run has ended.

`Notifier` promises: each command gets one JSON document on its standard input, in a thread of its own, so that it holds
up neither the run nor the commands of the other events; whatever it does, hang, fail, flood or fork, it is ended at its
time limit with all that it has started, also when this process is killed; when the run ends, the last ones get a
limited time. A command that fails is told of once. Nothing here is written to the ledger or read from it.

It does not promise that a message arrives: what waits behind a hanging command is given up in the end, and whoever
kills this process, or the machine, keeps it from telling.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from autoresearch_kit.core.budget import Ending
from autoresearch_kit.core.entry import gain_percent, gain_words, log_entry
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.records import Attempt, Outcome, clean_line
from autoresearch_kit.core.words import apart
from autoresearch_kit.lab.cache import LOGS
from autoresearch_kit.lab.hook import HookQueue
from autoresearch_kit.project import Project
from autoresearch_kit.ratchet import Event, Judged, Note, Run, Trouble, Watch

KEEP, BEST, STOP, TROUBLE = "keep", "best", "stop", "trouble"
"""The events, which are the keys of `on`."""
CRASHES_TOLD = 5
"""So many crashes in a row are trouble, and each multiple of it, as far as `QUIET_SECONDS` allows."""
QUIET_SECONDS = 3600.0
"""Trouble with the same cause is told again after so long at the earliest."""
LAST_SECONDS = 30.0
"""What is left to be told when a run ends gets so long, or the longest time limit in `on`, all of it together."""
PATIENT_SECONDS = 1.0
"""A longer wait at the end is told of."""
REASON_CHARACTERS = 600
MACHINE_PROBLEMS = ("disk_full", "not_started", "supervisor_killed")
"""Kinds of a measurement's problem that tell of the machine rather than of the idea."""
STOPPED = Ending("stopped by you", 130)
"""The ending of a run that somebody stopped."""


class Notifier:
    """Tells the commands of `on` what happens in one run. A context manager around it; itself a `Watch`."""

    def __init__(self, project: Project, watch: Watch = lambda event: None, is_whole: bool = True) -> None:
        """`watch` gets every event too. `is_whole`: it is the end of the run, too, when this ends."""
        self._project = project
        self._watch = watch
        self._is_whole = is_whole
        self._run: Run | None = None
        self._ending: Ending | None = None
        self._best: float | None = None
        self._crashes = 0
        self._told: dict[str, float] = {}
        self._hooks: dict[str, HookQueue] = {}

    def __enter__(self) -> Notifier:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            if error is not None:
                self.failed(error)
            if self._run is not None and self._ending is not None and self._is_whole:
                if self._ending.exit_code == 1 and error is None:
                    self._tell_trouble("ended", self._ending.reason, self._ending.exit_code)
                self._tell(STOP, self._ending.reason, exit_code=self._ending.exit_code)
        finally:
            self._finish()

    def follow(self, run: Run) -> None:
        """Tell of this run, which was opened, from now on."""
        self._run = run
        on = run.spec.on
        for event, hook in ((KEEP, on.keep), (BEST, on.best), (STOP, on.stop), (TROUBLE, on.trouble)):
            if hook is not None:
                self._hooks[event] = HookQueue(
                    event, hook, run.spec, self._project.folder, run.cache / LOGS, self._note
                )
        for attempt in run.attempts:
            self._count(attempt)

    def __call__(self, event: Event) -> None:
        """Take one event of the run."""
        self._watch(event)
        if self._run is None:
            return
        if isinstance(event, Trouble):
            self._tell_trouble(event.cause, event.text)
        elif isinstance(event, Judged):
            self._judged(event.attempt)

    def ended(self, ending: Ending) -> None:
        """The run has ended; the command of `stop` is told when everything is put away."""
        self._ending = ending

    def failed(self, error: BaseException) -> None:
        """The run cannot go on, or somebody has stopped it."""
        if isinstance(error, ArkError):
            self._ending = Ending(error.message + (f"; {error.hint}" if error.hint else ""), error.exit_code)
        elif isinstance(error, KeyboardInterrupt):
            self._ending = STOPPED
            return
        else:
            self._ending = Ending(f"ark failed: {type(error).__name__}: {error}", 1)
        if self._run is not None:
            self._tell_trouble("ended", self._ending.reason, self._ending.exit_code)

    def _note(self, text: str) -> None:
        self._watch(Note(text))

    # Events

    def _judged(self, attempt: Attempt) -> None:
        best = self._best
        self._count(attempt)
        reason = attempt.verdict.reason if attempt.verdict else ""
        if attempt.outcome is Outcome.KEEP and not attempt.is_baseline:
            self._tell(KEEP, reason, attempt)
            if self._best != best:
                self._tell(BEST, reason, attempt)
        for kind in dict.fromkeys(measurement.kind for measurement in attempt.measurements):
            if kind in MACHINE_PROBLEMS:
                self._tell_trouble(kind, reason, attempt=attempt)
        if attempt.outcome is Outcome.CRASH and self._crashes and self._crashes % CRASHES_TOLD == 0:
            text = f"{self._crashes} crashes in a row; the last: {reason}"
            self._tell_trouble("crashes", text, attempt=attempt)

    def _count(self, attempt: Attempt) -> None:
        """Enter what came of an attempt, of this process or an earlier one."""
        if attempt.outcome is Outcome.CRASH:
            self._crashes += 1
        elif attempt.outcome in (Outcome.KEEP, Outcome.DISCARD):
            self._crashes = 0
        if attempt.outcome is not Outcome.KEEP or attempt.value is None:
            return
        better = self._best is None or (
            attempt.value > self._best if self._project.spec.maximize else attempt.value < self._best
        )
        if better or attempt.is_baseline:
            self._best = attempt.value

    def _tell_trouble(
        self, cause: str, reason: str, exit_code: int | None = None, attempt: Attempt | None = None
    ) -> None:
        now = time.monotonic()
        if now - self._told.get(cause, -QUIET_SECONDS) < QUIET_SECONDS:
            return
        self._told[cause] = now
        self._tell(TROUBLE, reason, attempt, exit_code, cause)

    def _tell(
        self, event: str, reason: str, attempt: Attempt | None = None, exit_code: int | None = None, cause: str = ""
    ) -> None:
        hook = self._hooks.get(event)
        if hook is None or self._run is None:
            return
        found = document(
            self._run, event, clean_line(reason, REASON_CHARACTERS), attempt, exit_code=exit_code, cause=cause
        )
        hook.put(found)

    # The end

    def _finish(self) -> None:
        """Let the commands take in what is left, for a limited time."""
        hooks = [hook for hook in self._hooks.values() if hook.begun]
        if not hooks:
            return
        limit = max([LAST_SECONDS, *(hook.timeout_seconds for hook in hooks)])
        begin = time.monotonic()
        try:
            for hook in hooks:
                hook.finish()
            if not all(hook.wait(PATIENT_SECONDS) for hook in hooks):
                left = [f"on.{hook.event}" for hook in hooks if not hook.wait(0.0)]
                self._watch(Note(f"Waiting for {', '.join(left)}, at most {limit:g} s; Ctrl-C goes on without"))
            for hook in hooks:
                hook.wait(begin + limit - time.monotonic())
        finally:
            for hook in hooks:
                hook.abandon()


def document(
    run: Run, event: str, reason: str, attempt: Attempt | None = None, *, exit_code: int | None = None, cause: str = ""
) -> dict[str, Any]:
    """What a command is told: plain data, with all keys for every event. See docs/guides/notify.md."""
    first, head = run.books.baseline, run.books.head
    baseline, best = (first.value if first else None), (head.value if head else None)
    tried = [other for other in run.attempts if other.is_tried]
    found: dict[str, Any] = {
        "event": event,
        "project": run.spec.name,
        "tag": run.tag,
        "branch": run.ledger.branch,
        "folder": str(run.project.folder),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "metric": run.spec.metric,
        "direction": run.spec.metric_direction,
        "baseline": baseline,
        "best": best,
        "best_attempt": head.number if head else None,
        "gain_percent": gain_percent(baseline, best, run.spec.maximize),
        "attempts": len(tried),
        "kept": sum(other.outcome is Outcome.KEEP for other in tried),
        "crashes": sum(other.outcome is Outcome.CRASH for other in tried),
        "attempt": log_entry(attempt) if attempt else None,
        "reason": reason,
        "cause": cause,
        "exit_code": exit_code,
    }
    words = gain_words(baseline, best, run.spec.maximize)
    value = "no value yet" if best is None else f"{apart(best, baseline)}" + (f", {words}" if words else "")
    what = {STOP: "the run has ended", TROUBLE: "trouble"}.get(event, "")
    if attempt is not None and not what:
        what = f"attempt {attempt.number} was kept" + (", the best so far" if event == BEST else "")
    subject = clean_line(f"{run.spec.name} {run.tag}: {what}", 200)
    told = [attempt.proposal.title] if attempt else []
    told += [reason, f"{run.spec.metric} {value}", f"{len(tried)} attempts, {found['kept']} kept"]
    return {**found, "subject": subject, "text": "\n".join(told)}
