"""python benchmarks/power.py [--candidates N]

Whether `ark check` tells the truth: the gain that core/power.py calls detectable beside the gain that the real `decide`
keeps in 80 % of simulated cases, right after the baseline and late, when nothing has beaten the head for fifty
candidates. Then the runs of a candidate without effect, on average over such campaigns. Normal noise of 1.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from itertools import product
from random import Random

from autoresearch_kit.core.decide import Again, Case, decide
from autoresearch_kit.core.history import History, Noise
from autoresearch_kit.core.power import CHANCE, detectable_gain, runs_without_effect
from autoresearch_kit.core.records import Attempt, Measurement, Outcome, Proposal
from autoresearch_kit.core.spec import Decision

LATE = 50  # candidates without effect before the one that counts


class Campaign:
    """Candidates of known gain, measured with a noise of `sd`, judged by the real rule."""

    def __init__(self, decision: Decision, planned: int | None, seed: int, sd: float = 1.0) -> None:
        self.history = History()
        self._decision, self._planned, self._sd = decision, planned, sd
        self._rng = Random(seed)
        self._head: Attempt | None = None
        self._number = 0
        self.enter(0.0)

    def judge(self, gain: float) -> Attempt:
        """One candidate that is better by `gain` than the baseline, which nothing remembers."""
        samples: list[Measurement] = []
        case = Case(True, self._decision, (), self._head, samples, 0, self.history, self._planned)
        while isinstance(answer := decide(case), Again):
            of_head = answer is Again.HEAD
            value = self._rng.gauss(1000.0 + (0.0 if of_head else gain), self._sd)
            samples.append(Measurement(value, of_head=of_head))
        return Attempt(self._number, "", "", "", Proposal("x"), tuple(samples), answer, "", "")

    def enter(self, gain: float) -> Attempt:
        """One candidate that is remembered; a lucky one becomes the head, and is no better."""
        attempt = self.judge(gain)
        self.history.add(attempt)
        if attempt.outcome is Outcome.KEEP:
            self._head = attempt
        self._number += 1
        return attempt


def kept(gain: float, campaigns: list[Campaign], each: int) -> float:
    """Which part of candidates with this gain is kept, `each` in every campaign."""
    trials = [campaign.judge(gain).outcome is Outcome.KEEP for campaign in campaigns for _ in range(each)]
    return sum(trials) / len(trials)


def simulated_gain(make: Callable[[], list[Campaign]], each: int, about: float) -> float:
    """The gain that is kept in 80 % of cases, found by halving around `about`; infinite when there is none."""
    low, high = 0.4 * about, 2.5 * about
    if kept(high, make(), each) < CHANCE:
        return math.inf
    while high - low > 0.02 * about:
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle, make(), each) < CHANCE else (low, middle)
    return (low + high) / 2


def compare(decision: Decision, planned: int | None, candidates: int, sd: float = 1.0) -> tuple[float, float]:
    """The gain that is said to be detectable right after the baseline, and the one that the simulation finds."""
    known = Noise(sd * sd * (decision.baseline_runs - 1), decision.baseline_runs - 1)
    said = detectable_gain(known, History().share(decision.false_keeps, planned), decision.max_runs)
    about = said if math.isfinite(said) else 20.0 * sd
    return said, simulated_gain(lambda: [Campaign(decision, planned, seed, sd) for seed in range(candidates)], 1, about)


def compare_late(decision: Decision, candidates: int) -> tuple[float, float, float]:
    """As `compare`, after fifty candidates without effect, and the mean runs that those took."""

    def make() -> list[Campaign]:
        campaigns = [Campaign(decision, None, seed) for seed in range(max(20, candidates // 20))]
        for campaign in campaigns:
            runs.extend(len(campaign.enter(0.0).measurements) for _ in range(LATE))
        return campaigns

    runs: list[int] = []
    campaigns = make()
    history = campaigns[0].history
    said = detectable_gain(history.noise(1000.0), history.share(decision.false_keeps, None), decision.max_runs)
    said /= history.noise(1000.0).sd
    found = simulated_gain(lambda: campaigns, candidates // len(campaigns), said)
    return said, found, sum(runs) / len(runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=2000, metavar="N", help="for each point of a simulation")
    count = parser.parse_args().candidates
    print("max_runs  false_keeps  planned  baseline_runs  said   simulated  said / simulated")
    for runs, keeps, planned, first in product((4, 8, 12, 24, 48), (0.1, 1.0), (None, 20, 1000), (3, 10)):
        decision = Decision(false_keeps=keeps, max_runs=runs, baseline_runs=first)
        said, found = compare(decision, planned, count)
        print(f"{runs:<9} {keeps:<12} {planned or '-'!s:<8} {first:<14} {said:<6.2f} {found:<10.2f} {said / found:.2f}")
    print("\nafter fifty candidates without effect")
    print("max_runs  false_keeps  said   simulated  said / simulated  runs: said  simulated")
    for runs, keeps in product((4, 8, 12, 24, 48), (0.1, 1.0)):
        said, found, mean = compare_late(Decision(false_keeps=keeps, max_runs=runs), count)
        cells = f"{runs:<9} {keeps:<12} {said:<6.2f} {found:<10.2f} {said / found:<17.2f}"
        print(f"{cells} {runs_without_effect(runs):<11.2f} {mean:.2f}")


if __name__ == "__main__":
    main()
