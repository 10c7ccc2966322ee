"""python benchmarks/gate.py [noise] [power] [quiet] [promise] [--campaigns N]

How far the rule that keeps and discards can be trusted: false keeps, runs and power in simulated campaigns of 50
candidates, for many kinds of noise, beside three plain rules. Each figure is of so many campaigns with seeds of their
own; what follows ± is the standard error of the simulation. A false keep is one of a candidate without effect.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from statistics import fmean, stdev

from simulation import EVERY, NOISES, Setting, Trial, campaign

from autoresearch_kit.core.spec import Decision

NOISY = [name for name in NOISES if name != "none"]
RIVALS = ("first_better", "bootstrap", "MAD score")
BATCH = 50  # campaigns a worker gets at once

Campaigns = Sequence[Sequence[Trial]]
Column = tuple[str, Callable[[Campaigns], str]]
Row = tuple[Sequence[str], Setting]


def select(campaigns: Campaigns, real: bool) -> list[list[Trial]]:
    return [[trial for trial in trials if (trial.gain > 0) == real] for trials in campaigns]


def estimate(values: Sequence[float], form: str) -> str:
    return f"{fmean(values):{form}} ± {stdev(values) / math.sqrt(len(values)):{form}}"


def false_keeps(campaigns: Campaigns) -> str:
    return estimate([sum(trial.kept for trial in trials) for trials in select(campaigns, False)], ".3f")


def runs(campaigns: Campaigns, real: bool = False) -> str:
    return f"{fmean(trial.runs for trials in select(campaigns, real) for trial in trials):.2f}"


def most_runs(campaigns: Campaigns) -> str:
    return str(max(trial.runs for trials in campaigns for trial in trials))


def power(campaigns: Campaigns) -> str:
    return estimate([100 * fmean(trial.kept for trial in trials) for trials in select(campaigns, True)], ".1f")


def power_at(campaigns: Campaigns, place: int) -> str:
    return f"{100 * fmean(trials[place].kept for trials in select(campaigns, True)):.0f}"


def reported(campaigns: Campaigns) -> str:
    gains = [trial.reported for trials in select(campaigns, True) for trial in trials if trial.kept]
    return f"{fmean(gains):.3g}" if gains else ""


FALSE_KEEPS: Column = ("false keeps", false_keeps)
RUNS: Column = ("runs, no effect", runs)
RUNS_OF_GAIN: Column = ("runs, a gain", partial(runs, real=True))
MOST_RUNS: Column = ("most", most_runs)
POWER: Column = ("power, %", power)
REPORTED: Column = ("reported gain", reported)


class Tables:
    """Simulates and prints."""

    def __init__(self, pool: ProcessPoolExecutor, campaigns: int) -> None:
        self._pool = pool
        self._seeds = [range(start, min(start + BATCH, campaigns)) for start in range(0, campaigns, BATCH)]

    def show(self, title: str, heads: Sequence[str], rows: Sequence[Row], *columns: Column) -> None:
        """One row for each setting, with these columns."""
        found = self._simulate([setting for _, setting in rows])
        cells = [
            [*labels, *(show(campaigns) for _, show in columns)]
            for (labels, _), campaigns in zip(rows, found, strict=True)
        ]
        self._print(title, [*heads, *(name for name, _ in columns)], cells)

    def cross(
        self, title: str, labels: Sequence[str], settings: Mapping[str, Sequence[Setting]], show: Callable[..., str]
    ) -> None:
        """One row for each label, one column for each name, the same figure everywhere."""
        found = iter(self._simulate([settings[name][i] for i in range(len(labels)) for name in settings]))
        self._print(title, ["noise", *settings], [[label, *(show(next(found)) for _ in settings)] for label in labels])

    def _simulate(self, settings: Sequence[Setting]) -> list[Campaigns]:
        waiting = [[self._pool.submit(_batch, setting, seeds) for seeds in self._seeds] for setting in settings]
        return [[trials for batch in batches for trials in batch.result()] for batches in waiting]

    def _print(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        print(f"\n{title}\n")
        for line in (heads, ["-" * width for width in widths], *rows):
            print(f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |")
        sys.stdout.flush()


def _batch(setting: Setting, seeds: range) -> list[list[Trial]]:
    return [campaign(setting, seed) for seed in seeds]


def show_noise(tables: Tables) -> None:
    """Candidates without effect."""
    columns = {f"{n} baseline runs": Setting(baseline_runs=n) for n in (2, 3, 4, 5)}
    columns |= {rule: Setting(rule=rule) for rule in RIVALS}
    settings = {name: [replace(plain, noise=kind) for kind in NOISY] for name, plain in columns.items()}
    tables.cross("False keeps in a campaign, no candidate has an effect", NOISY, settings, false_keeps)
    tables.cross("Runs for each of these candidates", NOISY, settings, runs)


def show_power(tables: Tables) -> None:
    """What is found, at what cost, and what a keep claims."""
    rows: list[Row] = [
        ((str(gain), rule), Setting(rule=rule, gain=gain))
        for gain in (1, 2, 3, 5, 10)
        for rule in ("sequential", *RIVALS)
    ]
    last = Setting().candidates // EVERY - 1
    places: list[Column] = [("first", partial(power_at, place=0)), ("last", partial(power_at, place=last))]
    columns = (POWER, *places, RUNS_OF_GAIN, MOST_RUNS, FALSE_KEEPS, REPORTED)
    tables.show("Every fifth candidate has a gain, normal noise", ("gain", "rule"), rows, *columns)
    rows = [((kind, str(gain)), Setting(noise=kind, gain=gain)) for kind in NOISY for gain in (2, 3)]
    columns = (POWER, RUNS_OF_GAIN, FALSE_KEEPS, REPORTED)
    tables.show("The same under other noise, `sequential` alone", ("noise", "gain"), rows, *columns)


def show_quiet(tables: Tables) -> None:
    """A metric without noise."""
    # A third of this value three times is not the value, in floats.
    rows: list[Row] = [((str(gain),), Setting(noise="none", gain=gain, baseline=0.831301)) for gain in (1e-9, 1.0)]
    columns = (POWER, RUNS, RUNS_OF_GAIN, MOST_RUNS, FALSE_KEEPS, REPORTED)
    tables.show("No noise, every fifth candidate has a gain", ("gain",), rows, *columns)


def show_promise(tables: Tables) -> None:
    """Other settings: the promise is `false_keeps` for candidates without effect, however many there are."""
    settings = {
        **{f"false_keeps {promised}": Setting(false_keeps=promised) for promised in (0.01, 0.1, 1.0)},
        **{f"{n} candidates": Setting(candidates=n) for n in (10, 200)},
        **{f"{n} candidates, not announced": Setting(candidates=n, announced=False) for n in (50, 300)},
        **{f"max_runs {most}": Setting(max_runs=most) for most in (2, 4, 8, 12, 24)},
        **{f"candidates {rough:g} times as noisy": Setting(rough=rough) for rough in (1.5, 2.0, 10.0)},
    }
    rows: list[Row] = [((name, f"{setting.false_keeps}"), setting) for name, setting in settings.items()]
    heads = ("setting", "promised")
    tables.show("Other settings, no candidate has an effect, normal noise", heads, rows, FALSE_KEEPS, RUNS, MOST_RUNS)
    rows = [((name, "2"), replace(setting, gain=2.0)) for name, setting in settings.items()]
    # Ten gains of so many percent take the value to a tenth, and to ten times. The small ones are two or three
    # standard deviations.
    for name, baseline, gains in (("falls", 1000.0, (0.2, 0.3, 20.57)), ("grows", -1000.0, (0.2, 0.3, 25.89))):
        for gain in gains:
            setting = Setting(gain=gain, relative=True, baseline=baseline)
            rows.append(((f"noise 0.1 % of a value that {name}", f"{gain} %"), setting))
    columns = (POWER, RUNS_OF_GAIN, RUNS, FALSE_KEEPS, REPORTED)
    tables.show("The same, every fifth has a gain", ("setting", "gain"), rows, *columns)


TABLES = {"noise": show_noise, "power": show_power, "quiet": show_quiet, "promise": show_promise}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", choices=[*TABLES, []], metavar="NAME", help=f"{', '.join(TABLES)}; else all")
    parser.add_argument("--campaigns", type=int, default=1000, help="for each figure, 2 at least (1000)")
    options = parser.parse_args()
    print(f"{options.campaigns} campaigns a figure; {Decision().false_keeps} false keeps are promised")
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name in options.only or TABLES:
            TABLES[name](Tables(pool, options.campaigns))


if __name__ == "__main__":
    main()
