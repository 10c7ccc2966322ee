"""python benchmarks/verify.py [--verifications N]

How often the 95 % interval of `ark verify` holds the true gain, and how wide it is: simulated verifications through the
real `in_turn` and `estimate`. The baseline's true value is 100, the head's 102, the noise of one run has a standard
deviation of 1, and both values drift alike by 5 % in the course of the verification. Half of the width in standard
deviations of one run is what a gain must exceed to be shown.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from statistics import fmean

from simulation import NOISES

from autoresearch_kit.core.interval import Interval, Pair, estimate
from autoresearch_kit.verify import in_turn

NOISY = (
    "normal",
    "lognormal 0.5, tail worse",
    "lognormal 1, tail worse",
    "bimodal, 50 % better",
    "bimodal, 80 % better",
    "Student t, 3 degrees",
)
BASELINE, GAIN, DRIFT = 100.0, 2.0, 0.05

# Drift over the runs, between -1/2 and 1/2 but for the random walk, whose end lies 1 away from its start on average.


def _sine(rng: Random, runs: int) -> list[float]:
    periods, phase = rng.uniform(0.5, 2), rng.random()
    return [math.sin(2 * math.pi * (periods * run / runs + phase)) / 2 for run in range(runs)]


def _walk(rng: Random, runs: int) -> list[float]:
    return list(accumulate(rng.gauss(0, 1 / math.sqrt(runs)) for _ in range(runs)))


def _step(rng: Random, runs: int) -> list[float]:
    at = rng.randrange(1, runs)
    return [-0.5 if run < at else 0.5 for run in range(runs)]


def _every_fourth(rng: Random, runs: int) -> list[float]:
    """The worst case of a fixed order: as fast as one round of B H H B."""
    phase = rng.random()
    return [math.sin(2 * math.pi * (run / 4 + phase)) / 2 for run in range(runs)]


DRIFTS: dict[str, Callable[[Random, int], list[float]]] = {
    "none": lambda rng, runs: [0.0] * runs,
    "linear": lambda rng, runs: [run / (runs - 1) - 0.5 for run in range(runs)],
    "sine": _sine,
    "random walk": _walk,
    "step": _step,
    "period of 4 runs": _every_fourth,
}
# Which arm comes first in the pairs.
ORDERS: dict[str, Callable[[Random], Callable[[], int]]] = {
    "by lot": lambda rng: lambda: rng.randrange(2),
    "B H H B": lambda rng: iter([0, 1] * 50).__next__,
    "B H H B, H B B H": lambda rng: iter([0, 1, 1, 0] * 25).__next__,
}


@dataclass(frozen=True)
class Setting:
    noise: str = "normal"
    drift: str = "none"
    runs: int = 12
    order: str = "by lot"
    rough: float = 1.0
    """How many times noisier the head is than the baseline."""
    rounds: bool = False
    """Whether two pairs are averaged into one, as an analysis by rounds of four would."""


def verification(setting: Setting, seed: int) -> tuple[bool, bool, float]:
    """Whether the intervals in units and in percent hold the true gain, and the first one's width."""
    rng = Random(f"{setting}/{seed}")
    noise = NOISES[setting.noise](rng)
    drift = DRIFTS[setting.drift](rng, setting.runs)
    levels = iter([1 + DRIFT * (at - fmean(drift)) for at in drift])

    def measure(arm: int) -> float:
        value = BASELINE + GAIN * arm
        return value * next(levels) + (setting.rough if arm else 1.0) * noise(0)

    pairs: Sequence[Pair] = in_turn(measure, setting.runs, lambda pairs: False, ORDERS[setting.order](rng))
    if setting.rounds:
        pairs = [((a + c) / 2, (b + d) / 2) for (a, b), (c, d) in zip(pairs[::2], pairs[1::2], strict=True)]
    gain = estimate(pairs, maximize=True)
    in_units = _holds(gain.absolute, GAIN)
    # No interval at all claims nothing; that happens with three averaged pairs only.
    in_percent = gain.percent is None or _holds(gain.percent, 100 * GAIN / BASELINE)
    return in_units, in_percent, gain.absolute.high - gain.absolute.low


def _holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def _many(task: tuple[Setting, int]) -> str:
    setting, count = task
    found = [verification(setting, seed) for seed in range(count)]
    in_units, in_percent, width = (fmean(column) for column in zip(*found, strict=True))
    return f"{100 * in_units:.1f} % | {100 * in_percent:.1f} % | {width:.2f}"


class Tables:
    def __init__(self, pool: ProcessPoolExecutor, count: int) -> None:
        self._pool, self._count = pool, count

    def show(self, title: str, heads: Sequence[str], rows: Sequence[tuple[Sequence[str], Setting]]) -> None:
        cells = self._pool.map(_many, [(setting, self._count) for _, setting in rows])
        print(f"\n### {title}\n\n| {' | '.join([*heads, 'holds it', 'in percent', 'width'])} |")
        print("|" + "---|" * (len(heads) + 3))
        for (names, _), cell in zip(rows, cells, strict=True):
            print(f"| {' | '.join(names)} | {cell} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verifications", type=int, default=4000, help="for each row (4000)")
    count = parser.parse_args().verifications
    print(
        f"{count} verifications a row; a rate of 95 % has a standard error of {100 * math.sqrt(0.0475 / count):.1f} %"
    )
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        tables = Tables(pool, count)
        tables.show(
            "12 runs, by noise and drift",
            ("noise", "drift"),
            [((noise, drift), Setting(noise, drift)) for noise in NOISY for drift in DRIFTS],
        )
        tables.show(
            "By the number of runs, normal noise",
            ("runs", "drift"),
            [((f"{runs}", drift), Setting("normal", drift, runs)) for runs in (8, 12, 16, 24) for drift in DRIFTS],
        )
        tables.show(
            "12 runs, the head twice as noisy as the baseline",
            ("noise", "drift"),
            [((noise, drift), Setting(noise, drift, rough=2.0)) for noise in NOISY for drift in ("none", "linear")],
        )
        tables.show(
            "Other orders and rounds of four, 12 runs, normal noise",
            ("order", "by", "drift"),
            [
                ((order, "rounds" if rounds else "pairs", drift), Setting("normal", drift, 12, order, 1.0, rounds))
                for order in ORDERS
                for rounds in (False, True)
                for drift in DRIFTS
            ],
        )


if __name__ == "__main__":
    main()
