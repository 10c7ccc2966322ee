"""What there is to see of a run now: `Watcher(project, name).poll()` returns a `Picture`.

The ledger is read once, and then only what has changed; a look at a run where nothing happens costs some `stat`, one
look at its lock and the reading of one small file. Nothing here decides anything, writes anything or talks to the
engine: whoever watches cannot hurt what he watches.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoresearch_kit.books import Tally
from autoresearch_kit.campaigns import find_campaign, latest_campaign
from autoresearch_kit.core.budget import Spent
from autoresearch_kit.core.campaign import ARK, Campaign
from autoresearch_kit.core.errors import UsageError
from autoresearch_kit.core.names import RUN_LOG, is_name
from autoresearch_kit.core.records import Attempt, Cost, Outcome
from autoresearch_kit.core.spec import Budget
from autoresearch_kit.core.verification import State
from autoresearch_kit.lab.cache import BENCH, run_cache
from autoresearch_kit.lab.live import Live, read_live
from autoresearch_kit.ledger.follow import Follower
from autoresearch_kit.ledger.git import ROOT
from autoresearch_kit.ledger.ledger import Ledger
from autoresearch_kit.ledger.lock import Lock
from autoresearch_kit.ledger.owed import read_owed
from autoresearch_kit.ledger.verified import read_verifications
from autoresearch_kit.loop import with_owed
from autoresearch_kit.project import Project
from autoresearch_kit.watch.curve import Curve
from autoresearch_kit.watch.left import Left, left, rate
from autoresearch_kit.watch.log import Logs

VERIFIED_SECONDS = 3.0
"""How often to ask whether a run that somebody holds without a word is being verified."""
OWED_SECONDS = 10.0
"""How often to look for what the agents have cost without an attempt."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A run as it is at one moment."""

    campaign: Campaign | None
    """The run; None while there is none yet."""
    moment: float
    """When, seconds since 1970."""
    at_work: bool = False
    """Whether some process holds the run."""
    live: Live | None = None
    """What that does; None when nobody is at work, or does not tell."""
    being_verified: bool = False
    """Whether it does not tell because it is `ark verify`."""
    last: Live | None = None
    """What the process before did last, when nobody is at work; without `ended` it was killed."""
    counts: Counter[Outcome] = field(default_factory=Counter)
    """Attempts by outcome, baselines not counted."""
    spent: Spent | None = None
    """What the run has used up."""
    left: Left = field(default_factory=Left)
    """What it has left."""
    rate: float | None = None
    """Attempts an hour, lately; None before there are two."""
    lines: tuple[str, ...] = ()
    """The last lines of the log of what goes on, harmless for a terminal, the newest at the end."""
    log: str = ""
    """Name of that log."""
    curve: Curve | None = None
    """The learning curve of the experiment that is measured, or was last."""
    curve_number: int | None = None
    """Number of that attempt."""
    curve_of_head: bool = False
    """Whether it is of the head, which was measured in turn with that attempt."""
    version: int = 0
    """Another one whenever an attempt came or changed."""

    @property
    def elapsed_seconds(self) -> float:
        """Of the phase that goes on."""
        return max(0.0, self.moment - self.live.began) if self.live and self.live.phase else 0.0

    @property
    def next_number(self) -> int:
        """Of the attempt that is measured, or will be next."""
        if self.live and self.live.number is not None:
            return self.live.number
        attempts = self.campaign.attempts if self.campaign else ()
        return attempts[-1].number + 1 if attempts else 0


class Watcher:
    """Looks at one run, again and again. It reads only."""

    def __init__(self, project: Project, name: str | None = None, clock: Callable[[], float] = time.time) -> None:
        """`name` as for `find_campaign`; without one the run that is at work, or was active last.

        A run that does not exist yet is waited for.
        """
        self.project = project
        self._name = name
        self._clock = clock
        self._campaign: Campaign | None = None
        self._is_described = False
        self._seen_refs: tuple[int, ...] = ()
        self._follower: Follower | None = None
        self._lock: Lock | None = None
        self._cache: Path | None = None
        self._logs: Logs | None = None
        self._version = 0
        self._tally = Tally()
        self._counted: set[int] = set()
        self._settled: Sequence[Attempt] = ()
        self._counts: Counter[Outcome] = Counter()
        self._rate: float | None = None
        self._owed: tuple[Cost, ...] = ()
        self._owed_at, self._owed_looks = 0.0, -1
        self._verified: tuple[float, bool] = (0.0, False)

    def poll(self) -> Picture:
        """What there is to see now. ArkError when a ref of the run is no record."""
        now = self._clock()
        held = self._lock is not None and self._lock.is_held()
        if self._campaign is None or (self._name is None and not held):
            held = self._look_for_run() or held
        if self._follower is not None and self._follower.poll():
            self._attempts_changed()
        if self._campaign is None:
            return Picture(None, now)
        told = read_live(self._cache) if self._cache else None
        live = told if held and told and told.ended is None else None
        if self._logs is None and self._cache is not None:
            self._logs = Logs(self._cache, f"{BENCH}/{self.project.place.prefix}{RUN_LOG}", self._campaign.metric)
        lines, log = self._logs.look(live) if self._logs and live else ((), "")
        curve, curve_number, curve_of_head = self._logs.curve() if self._logs else (None, None, False)
        spent = self._spent(live, now)
        return Picture(
            campaign=self._campaign,
            moment=now,
            at_work=held,
            live=live,
            being_verified=held and live is None and self._is_verified(now),
            last=None if held else told,
            counts=self._counts,
            spent=spent,
            left=left(live, self._budget(live), spent),
            rate=self._rate,
            lines=lines,
            log=log,
            curve=curve,
            curve_number=curve_number,
            curve_of_head=curve_of_head,
            version=self._version,
        )

    def _is_verified(self, now: float) -> bool:
        """Whether a verification of the run goes on, for all that its records say."""
        if now >= self._verified[0] and self._campaign is not None:
            found = read_verifications(self.project.repository, self._campaign.name)
            self._verified = (now + VERIFIED_SECONDS, any(one.state is State.RUNNING for one in found))
        return self._verified[1]

    # Which run

    def _look_for_run(self) -> bool:
        """Take up the run to watch, when there is one to take up; whether it is held."""
        name = self._name
        tag = self._tag_at_work() if name is None else name if self._is_held(name) else ""
        if tag:
            if self._follower is None or self._follower.ledger.tag != tag:
                spec, branch = self.project.spec, self._ledger(tag).branch
                self._follow(Campaign(tag, (), spec.metric, spec.maximize, branch=branch))
            return True
        if self._campaign is not None or (seen := self._refs()) == self._seen_refs:
            return False
        self._seen_refs = seen
        try:
            found = latest_campaign(self.project, None) if name is None else find_campaign(self.project, name)
        except UsageError:
            return False
        self._follow(found)
        return False

    def _is_held(self, name: str) -> bool:
        return is_name(name) and self._ledger(name).lock().is_held()

    def _tag_at_work(self) -> str:
        """The run of this spec that some process of this machine holds; empty when there is none."""
        for path in (self.project.repository.common / "ark").glob("*.lock"):
            tag = path.stem
            if self._is_held(tag):
                told = read_live(self._cache_of(tag))
                if told and told.ended is None and (told.spec, told.tag) == (self.project.spec_name, tag):
                    return tag
        return ""

    def _follow(self, campaign: Campaign) -> None:
        self._campaign, self._version = campaign, self._version + 1
        self._follower = self._lock = self._cache = self._logs = None
        self._tally, self._counted, self._counts, self._settled = Tally(), set(), Counter(), ()
        self._owed, self._owed_at, self._owed_looks, self._rate = (), 0.0, -1, None
        self._verified = (0.0, False)
        self._is_described = bool(campaign.attempts)
        self._count(campaign.attempts)
        if campaign.source != ARK:  # what another loop left, or a bare branch: nobody is at work there
            return
        ledger = self._ledger(campaign.name)
        self._follower = Follower(ledger, campaign.attempts)
        if not ledger.remote:
            self._lock, self._cache = ledger.lock(), self._cache_of(ledger.tag)

    def _ledger(self, name: str) -> Ledger:
        return Ledger(self.project.repository, self.project.spec.branch_prefix, name)

    def _cache_of(self, tag: str) -> Path:
        return run_cache(self.project.repository.common, f"{self.project.spec.branch_prefix}/{tag}")

    def _refs(self) -> tuple[int, ...]:
        """What changes when a run begins."""
        common = self.project.repository.common
        return tuple(_changed(path) for path in (common / ROOT, common / "packed-refs", common / "refs"))

    # What came of it

    def _attempts_changed(self) -> None:
        assert self._follower is not None and self._campaign is not None
        attempts = self._follower.attempts
        if attempts and not self._is_described:  # its spec is in its commits
            with contextlib.suppress(UsageError):
                self._campaign, self._is_described = find_campaign(self.project, self._campaign.name), True
        self._campaign = replace(self._campaign, attempts=attempts)
        self._version += 1
        self._count(attempts)

    def _count(self, attempts: Sequence[Attempt]) -> None:
        """Add up what is new among the attempts."""
        known = len(self._settled)
        if known and (len(attempts) < known or attempts[known - 1] is not self._settled[-1]):  # some are gone
            self._tally, self._counts, self._counted, self._settled, known = Tally(), Counter(), set(), (), 0
        counts = self._counts.copy()
        for attempt in attempts[known:]:
            if attempt.verdict is not None and attempt.number not in self._counted:
                self._counted.add(attempt.number)
                self._tally.add(attempt)
                if not attempt.is_baseline:
                    counts[attempt.outcome] += 1
        while known < len(attempts) and attempts[known].verdict is not None:
            known += 1
        self._settled, self._counts, self._rate = attempts[:known], counts, rate(attempts)

    def _budget(self, live: Live | None) -> Budget:
        """The limits of the run: the engine's, else those of the spec that it ran with."""
        if live and live.budget:
            return live.budget
        spec = (self._campaign.spec if self._campaign else None) or self.project.spec
        return spec.budget

    def _spent(self, live: Live | None, now: float) -> Spent:
        hours = max(0.0, now - live.counted) / 3600 if live and live.counted else 0.0
        if self._follower and self._lock and self._follower.looks != self._owed_looks and now >= self._owed_at:
            self._owed_looks, self._owed_at = self._follower.looks, now + OWED_SECONDS
            owed = read_owed(self._follower.ledger.repository, self._follower.ledger.tag, self._follower.attempts)
            self._owed = tuple(owed.values())
        return with_owed(self._tally.spent(live.made if live else 0, hours), self._owed)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
