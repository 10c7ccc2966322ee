"""What a live page is told: the whole of it once, then what is new, to each of its readers from where that one is.

One thread looks at the run, while somebody reads; git is asked by one thread at a time. A reader names the state that
it has, `EPOCH.VERSION`. Within an epoch attempts come and change, and it is told those that did; with a new one
(another run, another spec, an attempt that is gone) it must read the page anew.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from autoresearch_kit.agents.brief import program_of_run
from autoresearch_kit.campaigns import find_campaign
from autoresearch_kit.core.campaign import ARK, Campaign
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.names import is_name
from autoresearch_kit.ledger.verified import read_verifications
from autoresearch_kit.project import Project
from autoresearch_kit.views.chart import progress, to_vega
from autoresearch_kit.views.chart.learning import learning_curve
from autoresearch_kit.views.report.data import read_document
from autoresearch_kit.views.report.page import page, specs, update
from autoresearch_kit.watch.now import now
from autoresearch_kit.watch.state import Picture, Watcher

POLL_SECONDS = 1.0
"""Between two looks at the run, while somebody reads."""
REST = 100
"""After an update was made there is none for so many times as long as that kept the processor: of thousands of attempts
a page is told every few seconds."""
REST_SECONDS = 2.0
"""Nor does it rest for longer, of a short run: the first update loads modules, which takes much and comes once."""
REST_ATTEMPTS = 200
"""So many attempts more, and it may rest for a second more."""


@dataclass(frozen=True, slots=True)
class News:
    """What a reader is told."""

    state: str
    """What it has then, to be named the next time."""
    stamp: int
    """Which look at what goes on it has then."""
    part: dict[str, Any]
    """For `ark.update`; or `{"reload": true}`."""


@dataclass
class _State:
    """What was last published."""

    epoch: int = 0
    version: int = 0
    stamp: int = 0
    campaign: Campaign | None = None
    live: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.epoch}.{self.version}"


class Station:
    """Looks at one run, for any number of readers in threads of their own."""

    def __init__(self, project: Project, name: str | None) -> None:
        """`name` as for `Watcher`. UsageError for one that nothing has and nothing will ever have."""
        if name is not None and not is_name(name):
            find_campaign(project, name)
        self._project, self._name = project, name
        self._watcher = Watcher(project, name)
        self._work = threading.Lock()
        self._news = threading.Condition()
        self._readers = 0
        self._state = _State()
        self._picture: Picture | None = None
        self._changed_at: dict[int, int] = {}
        """When each attempt that changed in this epoch did so the last time, as a version."""
        self._axis_of: dict[int, str] = {}
        """What is fixed in the chart of each version of this epoch."""
        self._not_before = 0.0
        self._pages: dict[str, bytes] = {}
        self._parts: dict[tuple[str, str], dict[str, Any]] = {}

    # The one that looks

    def attend(self) -> None:
        """Look at the run once a second while there are readers, for ever."""
        while True:
            with self._news:
                self._news.wait_for(lambda: self._readers > 0)
            self.look()
            time.sleep(POLL_SECONDS)

    def look(self) -> None:
        """Look at the run now, and publish what is new."""
        with self._work:
            trouble = ""
            try:
                self._picture = self._watcher.poll()
            except (ArkError, OSError) as error:
                trouble = error.message if isinstance(error, ArkError) else f"{error.filename}: {error.strerror}"
                if self._picture is None:
                    raise
                self._picture = replace(self._picture, moment=time.time())
            with self._news:
                if self._publish(self._picture, trouble):
                    self._news.notify_all()

    def _publish(self, picture: Picture, trouble: str) -> bool:
        """Whether there is anything new."""
        state, campaign = self._state, picture.campaign
        start = f"ark run --tag {self._name}" if self._name else "ark run"
        live = now(picture, f"There is no run yet; this page waits for one. To begin it: {start}", trouble)
        is_new = {**live, "moment": 0} != {**state.live, "moment": 0}
        if is_new:
            state.live, state.stamp = live, state.stamp + 1
        if campaign is None or campaign is state.campaign or time.monotonic() < self._not_before:
            return is_new
        old, state.campaign = state.campaign, campaign
        attempts = {attempt.number: attempt for attempt in campaign.attempts}
        before = {attempt.number: attempt for attempt in old.attempts} if old else {}
        if old is None or _kind(old) != _kind(campaign) or before.keys() - attempts.keys():
            state.epoch, state.version = state.epoch + 1, 0
            self._changed_at, self._axis_of = {}, {0: _axis(campaign)}
            return True
        state.version += 1
        self._axis_of[state.version] = _axis(campaign)
        for number, attempt in attempts.items():
            if number not in before or before[number].commit != attempt.commit:
                self._changed_at[number] = state.version
        return True

    # Those that read

    @contextmanager
    def reader(self) -> Iterator[None]:
        """Somebody reads meanwhile."""
        with self._news:
            self._readers += 1
            self._news.notify_all()
        try:
            yield
        finally:
            with self._news:
                self._readers -= 1

    def page(self) -> bytes:
        """The whole page as it is now."""
        self.look()
        with self._work:
            with self._news:
                state = replace(self._state)
            if state.name not in self._pages:
                self._pages = {state.name: self._render(state).encode("utf-8", "replace")}
            return self._pages[state.name]

    def _render(self, state: _State) -> str:
        project = self._project
        campaign = state.campaign or Campaign(
            self._name or "not begun", (), project.spec.metric, project.spec.maximize, ARK, spec=project.spec
        )
        document = read_document(project.repository, campaign, program_of_run(project, campaign))
        curves = {"light": to_vega(learning_curve()), "dark": to_vega(learning_curve(dark=True))}
        return page(campaign, {**document, "state": state.name, "live": state.live, "curves": curves}, live=True)

    def next_news(self, state: str, stamp: int, seconds: float) -> News | None:
        """What is new for somebody who has this; None when that is nothing for so long."""
        with self._news:
            if not self._news.wait_for(lambda: (self._state.name, self._state.stamp) != (state, stamp), seconds):
                return None
            here = replace(self._state)
        part: dict[str, Any] = {"live": {**here.live, "moment": time.time()}} if here.stamp != stamp else {}
        if here.name != state:
            changed = self._part(state, here)
            if changed is None:
                return News(here.name, here.stamp, {"reload": True})
            part |= changed
        return News(here.name, here.stamp, part)

    def _part(self, since: str, here: _State) -> dict[str, Any] | None:
        """What changed since another state of the same epoch; None when that is not known."""
        epoch, _, version = since.partition(".")
        was_here = re.fullmatch("[0-9]{1,9}", version) is not None and int(version) <= here.version
        if epoch != str(here.epoch) or not was_here or here.campaign is None:
            return None
        with self._work:
            if (since, here.name) not in self._parts:
                began = time.thread_time()
                with self._news:
                    changed = {number for number, when in self._changed_at.items() if when > int(version)}
                known = {a.number: a.commit for a in here.campaign.attempts if a.number not in changed}
                repository, name = self._project.repository, here.campaign.name
                checked = read_verifications(repository, name) if here.campaign.source == ARK else []
                part = update(repository, here.campaign, known, checked)
                most = REST_SECONDS + len(here.campaign.attempts) / REST_ATTEMPTS
                self._not_before = time.monotonic() + min(most, REST * (time.thread_time() - began))
                if self._axis_of.get(int(version)) != self._axis_of.get(here.version):
                    part["chart"]["specs"] = specs(here.campaign)
                self._parts = {(since, here.name): part}
            return self._parts[since, here.name]


def _kind(campaign: Campaign) -> tuple[object, ...]:
    """What is written into the page once."""
    return (campaign.name, campaign.source, campaign.metric, campaign.maximize, campaign.spec_text)


def _axis(campaign: Campaign) -> str:
    """What of the chart is fixed in its definition: the kind of its axis, the words at it."""
    spec = progress(campaign, data=False)
    del spec["params"]  # such as the range, which is told with each change
    return json.dumps(spec)


def as_event(news: News) -> bytes:
    """For the page's EventSource."""
    data = json.dumps(news.part, separators=(",", ":"), allow_nan=False)
    return f"id: {news.state}\ndata: {data}\n\n".encode()
