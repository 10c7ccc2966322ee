"""python benchmarks/simulation.py [SETTING=VALUE ...]      (gate.py runs it; alone, it shows one campaign)

A campaign without a project: candidates with a known gain, measured with a known noise, judged by the real `decide` or
by a rival, and entered in the real `History`. Lower is better, and the noise of one run has a standard deviation of 1.
"""

from __future__ import annotations

import math
import sys
from ast import literal_eval
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from random import Random
from statistics import median
from typing import Any

from autoresearch_kit.core.decide import Again, Case, decide
from autoresearch_kit.core.history import History
from autoresearch_kit.core.records import Attempt, Measurement, Outcome, Proposal
from autoresearch_kit.core.spec import Decision

EVERY = 5  # the place of candidates with a gain


@dataclass(frozen=True)
class Setting:
    """One campaign's circumstances."""

    noise: str = "normal"
    rule: str = "sequential"
    gain: float = 0.0
    """Of every fifth candidate, in standard deviations of one run of the baseline; in percent when `relative`."""
    baseline_runs: int = 3
    max_runs: int = 12
    false_keeps: float = 0.1
    candidates: int = 50
    announced: bool = True
    """Whether the number of candidates is known from the start."""
    baseline: float = 1000.0
    """Its true value; one below zero grows in size while it gets better, like a rate that is to be maximized."""
    relative: bool = False
    """Whether the noise is 0.1 % of the value, and gains are in percent of it."""
    rough: float = 1.0
    """How many times noisier each candidate is than the baseline."""


@dataclass(frozen=True)
class Trial:
    """What became of a candidate."""

    gain: float
    kept: bool
    runs: int
    reported: float


# Noise: a function of the number of runs so far, with a standard deviation of 1 around what drifts.


def _lognormal(rng: Random, log_sd: float, sign: float) -> Callable[[int], float]:
    mean = math.exp(log_sd * log_sd / 2)
    sd = math.sqrt(math.expm1(log_sd * log_sd)) * mean
    return lambda _: sign * (rng.lognormvariate(0, log_sd) - mean) / sd


def _bimodal(rng: Random, better: float) -> Callable[[int], float]:
    """Two modes, ten of their own standard deviations apart."""
    sd = math.sqrt(better * (1 - better) + 0.01)
    return lambda _: (better - (rng.random() < better) + rng.gauss(0, 0.1)) / sd


def _drift(rng: Random, step: float) -> Callable[[int], float]:
    return lambda run: step * run + rng.gauss(0, 1)


def _sine(rng: Random, period: float) -> Callable[[int], float]:
    phase = rng.random()
    return lambda run: math.sin(2 * math.pi * (run / period + phase)) + rng.gauss(0, 1)


def _walk(rng: Random, step: float) -> Callable[[int], float]:
    at = 0.0

    def noise(_: int) -> float:
        nonlocal at
        at += rng.gauss(0, step)
        return at + rng.gauss(0, 1)

    return noise


def _student(rng: Random, freedom: int) -> Callable[[int], float]:
    scale = math.sqrt((freedom - 2) / freedom)
    return lambda _: scale * rng.gauss(0, 1) / math.sqrt(rng.gammavariate(freedom / 2, 2 / freedom))


NOISES: dict[str, Callable[[Random], Callable[[int], float]]] = {
    "normal": lambda rng: lambda _: rng.gauss(0, 1),
    "lognormal 0.5, tail worse": lambda rng: _lognormal(rng, 0.5, 1),
    "lognormal 0.5, tail better": lambda rng: _lognormal(rng, 0.5, -1),
    "lognormal 1, tail worse": lambda rng: _lognormal(rng, 1, 1),
    "lognormal 1, tail better": lambda rng: _lognormal(rng, 1, -1),
    "bimodal, 50 % better": lambda rng: _bimodal(rng, 0.5),
    "bimodal, 80 % better": lambda rng: _bimodal(rng, 0.8),
    "bimodal, 20 % better": lambda rng: _bimodal(rng, 0.2),
    "bimodal, 95 % better": lambda rng: _bimodal(rng, 0.95),
    "bimodal, 5 % better": lambda rng: _bimodal(rng, 0.05),
    "drift 0.02 a run, to worse": lambda rng: _drift(rng, 0.02),
    "drift 0.02 a run, to better": lambda rng: _drift(rng, -0.02),
    "drift 0.05 a run, to worse": lambda rng: _drift(rng, 0.05),
    "drift 0.05 a run, to better": lambda rng: _drift(rng, -0.05),
    "sine of 50 runs": lambda rng: _sine(rng, 50),
    "random walk, 0.1 a run": lambda rng: _walk(rng, 0.1),
    "Student t, 3 degrees": lambda rng: _student(rng, 3),
    "none": lambda rng: lambda _: 0.0,
}


class Lab:
    """The machine: it measures the head, or a candidate that is so much better."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting = setting
        self.runs = 0
        self._noise = NOISES[setting.noise](Random(f"{setting}/{seed}"))
        self._head, self._roughness = setting.baseline, 1.0

    def measure(self, gain: float | None) -> float:
        """One run of a candidate; of the head when `gain` is None."""
        level, rough = (self._head, self._roughness) if gain is None else (self._better(gain), self.setting.rough)
        self.runs += 1
        return level + rough * self._noise(self.runs) * (abs(level) / 1000 if self.setting.relative else 1.0)

    def keep(self, gain: float) -> None:
        self._head, self._roughness = self._better(gain), self.setting.rough

    def _better(self, gain: float) -> float:
        return self._head - gain * (abs(self._head) / 100 if self.setting.relative else 1.0)


class Ark:
    """The real rule, with an attempt for each candidate, as the engine does it."""

    def __init__(self, lab: Lab) -> None:
        setting = self.setting = lab.setting
        self._lab = lab
        self._decision = Decision(
            rule="first_better" if setting.rule == "first_better" else "sequential",
            false_keeps=setting.false_keeps,
            baseline_runs=setting.baseline_runs,
            max_runs=setting.max_runs,
        )
        self._history = History()
        self._head: Attempt | None = None
        self._number = 0
        self.judge(0.0)

    def judge(self, gain: float) -> tuple[bool, float]:
        samples: list[Measurement] = []
        planned = self.setting.candidates if self.setting.announced else None
        case = Case(False, self._decision, (), self._head, samples, 0, self._history, planned)
        while isinstance(answer := decide(case), Again):
            of_head = answer is Again.HEAD
            samples.append(Measurement(self._lab.measure(None if of_head else gain), of_head=of_head))
        attempt = Attempt(self._number, "c", "p", "t", PROPOSAL, tuple(samples), answer, "", "y")
        self._number += 1
        self._history.add(attempt)
        if answer.outcome is Outcome.KEEP:
            self._head = attempt
        return answer.outcome is Outcome.KEEP, answer.gain or 0.0


PROPOSAL = Proposal("a candidate")


class Bootstrap:
    """Three runs; kept when their mean is better than the best's in 95 % of all resamples.

    After one run that is worse than the best's mean no more are made.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._best = [lab.measure(None) for _ in range(3)]

    def judge(self, gain: float) -> tuple[bool, float]:
        values, best = [self._lab.measure(gain)], sum(self._best) / 3
        if values[0] >= best:
            return False, best - values[0]
        values += [self._lab.measure(gain), self._lab.measure(gain)]
        ours, theirs = ([sum(some) for some in product(each, repeat=3)] for each in (values, self._best))
        sure = sum(own < other for own in ours for other in theirs) >= 0.95 * 27 * 27
        if sure:
            self._best = values
        return sure, best - sum(values) / 3


class Deviations:
    """One run; kept when it beats the best by two median absolute deviations of all values so far."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._all = [lab.measure(None) for _ in range(lab.setting.baseline_runs)]
        self._best = self._all[0]

    def judge(self, gain: float) -> tuple[bool, float]:
        value, best = self._lab.measure(gain), self._best
        self._all.append(value)
        middle = median(self._all)
        kept = best - value > 2 * median(abs(other - middle) for other in self._all)
        if kept:
            self._best = value
        return kept, best - value


RULES: dict[str, type[Ark] | type[Bootstrap] | type[Deviations]] = {
    "sequential": Ark,
    "first_better": Ark,
    "bootstrap": Bootstrap,
    "MAD score": Deviations,
}


def campaign(setting: Setting, seed: int) -> list[Trial]:
    """All candidates of one campaign, in order."""
    lab = Lab(setting, seed)
    judge, trials = RULES[setting.rule](lab).judge, []
    for number in range(1, setting.candidates + 1):
        gain, before = setting.gain if number % EVERY == 0 else 0.0, lab.runs
        kept, reported = judge(gain)
        if kept:
            lab.keep(gain)
        trials.append(Trial(gain, kept, lab.runs - before, reported))
    return trials


if __name__ == "__main__":
    words = dict(word.split("=") for word in sys.argv[1:])
    plain = vars(Setting())
    given: dict[str, Any] = {
        name: word if isinstance(plain[name], str) else literal_eval(word) for name, word in words.items()
    }
    for trial in campaign(Setting(**given), 0):
        print(trial)
