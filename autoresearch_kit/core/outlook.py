"""What a campaign can hope for with the noise that it has: the sentences of `ark check` and of a run's first minute."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autoresearch_kit.core.history import History, Noise
from autoresearch_kit.core.power import (
    detectable_gain,
    last_share,
    lucky_gain,
    lucky_keeps,
    runs_for,
    runs_without_effect,
)
from autoresearch_kit.core.records import Attempt, number
from autoresearch_kit.core.spec import Spec

NIGHT_HOURS = 8.0
"""How long a campaign is meant to last whose budget says nothing."""
LUCK_HORIZON = 100
"""Candidates for which luck is reckoned where the budget names no number."""
RECENT_ATTEMPTS = 50
"""Attempts whose runs tell how long one takes."""
QUIETER = "make one run less noisy: let it take longer, or print the mean over several seeds"


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known before the next candidate."""

    spec: Spec
    noise: Noise
    """Of one run, at the head's level."""
    level: float
    """The head's value."""
    seconds: float
    """Wall time of one run with its evaluation."""
    history: History
    """What the campaign has tried and spent."""

    @staticmethod
    def of(spec: Spec, attempts: Sequence[Attempt], head: Attempt, history: History) -> Outlook:
        """What a run knows whose last kept attempt is `head`."""
        level = head.value or 0.0
        recent = [m.seconds for attempt in attempts[-RECENT_ATTEMPTS:] for m in attempt.measurements if not m.problem]
        seconds = sum(recent) / len(recent) if recent else 60 * spec.budget_minutes
        return Outlook(spec, history.noise(level), level, seconds, history)

    @property
    def is_spent(self) -> bool:
        """Whether the promised false keeps are used up, so that nothing noisy can be kept any more."""
        decision, planned = self.spec.decision, self.spec.budget.attempts
        return (
            decision.rule == "sequential"
            and not self.noise.none
            and self.history.share(decision.false_keeps, planned) == 0
        )

    @property
    def is_noisy(self) -> bool:
        """Whether repeated runs are known to differ."""
        return self.noise.freedom > 0 and not self.noise.none and math.isfinite(self.noise.sd)

    @property
    def hours(self) -> float:
        """Of the budget, else a night."""
        return self.spec.budget.hours or NIGHT_HOURS

    @property
    def candidates(self) -> int:
        """How many candidates fit in `hours`, at the cost of those without effect, if agents took no time."""
        several = self.is_noisy and self.spec.decision.rule == "sequential"
        runs = runs_without_effect(self.spec.decision.max_runs) if several else 1.0
        return min(int(3600 * self.hours / max(1e-3, self.seconds * runs)), self.spec.budget.attempts or 10**9)

    @property
    def share(self) -> float:
        """Of the false keeps, for the last of the candidates."""
        budget = self.spec.budget
        return last_share(self.history, self.spec.decision.false_keeps, budget.attempts, self.candidates)

    @property
    def gain(self) -> float:
        """The smallest that is found four times in five; infinite when there is none."""
        return detectable_gain(self.noise, self.share, self.spec.decision.max_runs)

    def amount(self, gain: float) -> str:
        """A gain or a noise with its percentage of the metric."""
        percent = 100 * gain / abs(self.level) if self.level else math.inf
        return f"{gain:.3g} ({percent:.3g} %)" if percent < 1000 else f"{gain:.3g}"

    def preview(self) -> str:
        """What the campaign can find, in one sentence; the noise is known."""
        decision = self.spec.decision
        room = f"room for {float(f'{self.candidates:.2g}'):.0f} candidates if agents took no time"
        if not self.is_noisy:
            return f"one run per candidate, and any gain is seen; in {self.hours:g} hours there is {room}"
        if decision.rule == "first_better":
            return f"one run per candidate, and luck counts as gain; in {self.hours:g} hours there is {room}"
        if math.isinf(gain := self.gain):
            return f"with this noise no gain can be detected in {decision.max_runs} runs each"
        finer, runs = self._finer(gain)
        more = f"; to detect {self.amount(finer)} you need {runs} runs each" if runs else ""
        found = f"you can detect gains of at least {self.amount(gain)}, four times in five"
        return f"with this noise and {self.hours:g} hours, {room}, {found}{more}"

    def _finer(self, gain: float) -> tuple[float, int | None]:
        """A smaller gain that is worth asking about, and the runs it needs: min_gain, else what twice the runs find."""
        decision = self.spec.decision
        wanted = decision.threshold(self.level)
        if 0 < wanted < gain:
            return wanted, runs_for(wanted, self.noise, self.share)
        runs = 2 * max(4, decision.max_runs // 4 * 4)
        return detectable_gain(self.noise, self.share, runs), runs

    def warnings(self) -> Iterator[tuple[str, str]]:
        """What will waste time or trust, a sentence with the arithmetic and a hint each; nothing without noise."""
        if not self.is_noisy:
            return
        if self.spec.decision.rule == "first_better":
            yield self._luck()
            return
        decision, budget = self.spec.decision, self.spec.budget
        runs = decision.max_runs
        need = runs * self.seconds / 3600
        if budget.hours is not None and need > budget.hours:
            text = f"one candidate may need {runs} runs of {self.seconds:.3g} s, {need:.2g} hours, and the budget is"
            yield f"{text} {budget.hours:g} hours", "raise budget.hours, or make one run shorter"
        if math.isinf(gain := self.gain):
            text = f"no gain is ever sure enough with max_runs {runs}, false_keeps {decision.false_keeps:g} and so few"
            yield f"{text} repeated runs as there are, {self.noise.freedom + 1}", "raise decision.max_runs"
            return
        found = f"{runs} runs with a noise of {self.noise.sd:.2g} each are sure of no gain below {self.amount(gain)}"
        wanted = decision.threshold(self.level)
        if 0 < wanted < gain:
            yield f"min_gain is {self.amount(wanted)}, and {found}", self._remedy(wanted)
        if budget.target is not None:
            away = (budget.target - self.level) * (1 if self.spec.maximize else -1)
            if 0 < away < gain:
                yield f"the target {number(budget.target)} is {self.amount(away)} away, and {found}", self._remedy(away)
        if gain > abs(self.level) / 2:
            yield f"{found}, more than half of the metric itself, {number(self.level)}", QUIETER

    def _remedy(self, gain: float) -> str:
        runs = runs_for(gain, self.noise, self.share)
        return f"set decision.max_runs to {runs}, or {QUIETER}" if runs else f"no number of runs would do: {QUIETER}"

    def _luck(self) -> tuple[str, str]:
        count = self.spec.budget.attempts or LUCK_HORIZON
        seeming = self.amount(lucky_gain(count) * self.noise.sd)
        text = f"`first_better` keeps luck: of {count} candidates without any effect about {lucky_keeps(count):.1f} are"
        return (
            f"{text} kept, and the head then looks better by {seeming} than it is, with a noise of {self.noise.sd:.2g}",
            "write `decision: sequential`",
        )
