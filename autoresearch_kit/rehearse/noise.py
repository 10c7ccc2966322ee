"""What a simulated measurement is drawn from: the level and the noise of recorded runs, or what the user says.

A metric that never differed stays so. Without a record the level is 1 and the noise 1 % of it, and `told` says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from autoresearch_kit.core.errors import UsageError
from autoresearch_kit.core.records import Attempt, Cost, Measurement, Outcome, mean, number
from autoresearch_kit.core.spec import Constraint

MADE_UP_LEVEL = 1.0
MADE_UP_NOISE = 0.01
"""Of the level."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A standard deviation as people write it."""

    size: float
    is_percent: bool = False

    def at(self, level: float) -> float:
        """In units of the metric, around `level`."""
        return abs(level) * self.size / 100 if self.is_percent else self.size


def read_amount(text: str) -> Amount:
    """`0.003` or `1%`; UsageError for anything else."""
    written = text.strip()
    try:
        amount = Amount(float(written.removesuffix("%")), written.endswith("%"))
    except ValueError:
        amount = Amount(math.nan)
    if not (math.isfinite(amount.size) and amount.size >= 0):
        raise UsageError(f"--noise {text} is no standard deviation", "write it in units of the metric, or as 1%")
    return amount


@dataclass(frozen=True, slots=True)
class Model:
    """The baseline as it would measure."""

    level: float
    """Its mean."""
    sd: float
    """Standard deviation of one measurement."""
    told: str
    """Where level and noise are from, one sentence."""
    residuals: tuple[float, ...] = ()
    """Recorded distances from the mean, to be drawn from; empty for a normal distribution."""
    records: tuple[Measurement, ...] = ()
    """Recorded measurements, to draw the other metrics and the seconds from."""
    costs: tuple[Cost, ...] = ()
    """What recorded turns of agents cost."""
    yardstick: str = ""
    """How the record was measured; empty without one."""

    @property
    def is_recorded(self) -> bool:
        """Whether the level is that of a real run."""
        return bool(self.records)

    @property
    def effect(self) -> float:
        """The mean size of what an idea does: one standard deviation, or 1 % of the level where there is no noise."""
        return self.sd or MADE_UP_NOISE * abs(self.level) or MADE_UP_NOISE

    def draw(self, rng: Random) -> float:
        """The noise of one measurement."""
        return rng.choice(self.residuals) if self.residuals else rng.gauss(0.0, self.sd) if self.sd else 0.0

    def unknown(self, limits: Iterable[Constraint]) -> list[Constraint]:
        """The limits on metrics that no record has."""
        known = self.records[-1].also if self.records else {}
        return [limit for limit in limits if limit.metric not in known]


def read_model(tag: str, attempts: Sequence[Attempt], noise: Amount | None) -> Model:
    """What the run `tag` with these attempts, none for no run, and the user's word on the noise come to."""
    start = next((at for at in reversed(range(len(attempts))) if _is_good_baseline(attempts[at])), None)
    if start is None:
        sd = (noise or Amount(100 * MADE_UP_NOISE, True)).at(MADE_UP_LEVEL)
        words = f"normal with the standard deviation {number(sd)}" if sd else "none"
        whose = "" if noise else ", and that is made up too"
        told = (
            f"no run of this spec is recorded, so the level {MADE_UP_LEVEL:g} is made up; the noise is {words}{whose}"
        )
        return Model(MADE_UP_LEVEL, sd, told)
    baseline = attempts[start]
    level = mean(baseline.values)
    # Only what was measured as this baseline was.
    era = [a for a in attempts[start:] if (a.machine, a.yardstick) == (baseline.machine, baseline.yardstick)]
    model = Model(
        level,
        0.0,
        "",
        records=tuple(m for m in baseline.measurements if m.value is not None),
        costs=tuple(a.proposal.cost for a in era if not a.is_baseline and a.proposal.cost.seconds is not None),
        yardstick=baseline.yardstick,
    )
    said = f"the level {number(level)} is that of run {tag}"
    if noise is not None:
        sd = noise.at(level)
        words = f"normal with the standard deviation {number(sd)}" if sd else "none"
        return replace(model, sd=sd, told=f"{said}; the noise is {words}, as asked")
    residuals = [r for a in era for values in (a.values, a.head_values) for r in _residuals(values)]
    quiet = baseline.verdict is not None and baseline.verdict.noise == 0
    if not residuals and not quiet:
        sd = MADE_UP_NOISE * abs(level)
        told = (
            f"{said}, which measured nothing twice, so the noise, {number(sd)}, is made up: 1 %; --noise sets another"
        )
        return replace(model, sd=sd, told=told)
    if not any(residuals):
        return replace(model, told=f"{said}, and so is its noise: none")
    sd = math.sqrt(sum(r * r for r in residuals) / len(residuals))
    told = f"{said}, and its noise, {number(sd)}, is drawn from {len(residuals)} recorded values"
    return replace(model, sd=sd, told=told, residuals=tuple(residuals))


def held(limits: Iterable[Constraint], broken: bool = False) -> Mapping[str, float]:
    """Metrics that satisfy these limits, or break them."""
    return {limit.metric: _beside(limit, (limit.sign[0] == "<") == broken) for limit in limits}


def _beside(limit: Constraint, above: bool) -> float:
    step = max(1.0, abs(limit.limit) / 100)
    return limit.limit + (step if above else -step)


def _is_good_baseline(attempt: Attempt) -> bool:
    return attempt.is_baseline and attempt.outcome is Outcome.KEEP and bool(attempt.values)


def _residuals(values: Sequence[float]) -> list[float]:
    """Distances from the mean, as wide as those from the unknown true one would be."""
    if len(values) < 2:
        return []
    middle = mean(values)
    return [(value - middle) * math.sqrt(len(values) / (len(values) - 1)) for value in values]
