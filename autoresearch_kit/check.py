"""`ark check`: the preflight, and then what the noise lets a campaign find.

The noise is that of the spec's latest run, or is measured now, by the engine that will measure the attempts. Nothing of
that enters the ledger: a run measures its own baseline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.history import Group, History, Noise
from autoresearch_kit.core.outlook import QUIETER, Outlook
from autoresearch_kit.core.records import Measurement, number
from autoresearch_kit.core.spec import Constraint
from autoresearch_kit.core.words import last_words
from autoresearch_kit.exam.noise import chance_of_first, chance_of_trend
from autoresearch_kit.lab import cache
from autoresearch_kit.lab.machine import machine
from autoresearch_kit.ledger.ledger import last_kept, read_latest
from autoresearch_kit.ledger.lock import Lock
from autoresearch_kit.preflight import Finding, preflight
from autoresearch_kit.project import Project, check_limits
from autoresearch_kit.workshop import Workshop

NAME = "noise"
"""Of the lock, the cache folder, and what commands see as ARK_TAG."""
TREND_CHANCE = 0.02
"""A series is said to trend when chance alone would bring that so seldom."""

Tell = Callable[[str], None]


def check(project: Project, runs: int = 0, tell: Tell = lambda text: None) -> Iterator[Finding]:
    """Everything of `preflight`, and the noise; measured in so many `runs` when that is not 0."""
    failed = False
    for finding in preflight(project):
        failed = failed or finding.level == "fail"
        yield finding
    if failed and runs:
        yield Finding("warn", "noise", "not measured, because a run would not start", "mend what failed")
    if failed:
        return
    try:
        yield from _measured(project, runs, tell) if runs else _remembered(project)
    except ArkError as error:
        yield Finding("fail", "noise", error.message, error.hint)


def _remembered(project: Project) -> Iterator[Finding]:
    """What the latest run of this spec knows, if it measured as one would now."""
    repository = project.repository
    if found := read_latest(repository, project.spec_name):
        ledger, attempts = found
        head, yardstick = last_kept(attempts), project.yardstick(repository.files(repository.head()))
        if head is not None and (head.yardstick, head.machine) == (yardstick, machine()):
            check_limits(project, head.also)
            outlook = Outlook.of(project.spec, attempts, head, History(attempts))
            if outlook.noise.freedom:
                noise = "none" if outlook.noise.none else f"{outlook.amount(outlook.noise.sd)} in one run"
                yield Finding("ok", "noise", f"{noise}, as run {ledger.tag} shows; {outlook.seconds:.3g} s each")
                yield from _outlook(outlook)
                return
    text = "unknown: nothing was measured more than once in this way on this machine"
    yield Finding("ok", "noise", text, "to measure it: ark check --noise 5")


def _measured(project: Project, runs: int, tell: Tell) -> Iterator[Finding]:
    """Measure what a run would begin with, again and again."""
    lock = Lock(project.repository.common / "ark" / f"+{NAME}.lock", "a look at the noise")
    if lock.is_held():
        raise ArkError("the noise of this repository is being measured already", "wait for it, or stop it by Ctrl-C")
    lock.acquire()
    try:
        shop = Workshop(project, NAME, project.repository.head(), NAME)
        try:
            shop.set_up()
            samples: list[Measurement] = []
            for done in range(runs):
                samples.append(shop.measure(shop.base, sample=done))
                last = samples[-1]
                said = last.problem if last.value is None else number(last.value)
                tell(f"run {done + 1} of {runs}: {said}, {last.seconds:.3g} s")
                if problem := _problem(last, project.spec.constraints, shop):
                    yield problem
                    return
        finally:
            shop.close()
            cache.remove(shop.folder / "bench")
    finally:
        lock.release()
    yield from _found(project, samples)


def _problem(sample: Measurement, constraints: Sequence[Constraint], shop: Workshop) -> Finding | None:
    """Why a run would not take this for its baseline, if so."""
    if sample.problem:
        words = last_words(sample.log_tail)
        said = f"; its last words: {words}" if words else ""
        return Finding("fail", NAME, f"the baseline failed: {sample.problem}{said}", f"logs: {shop.folder / 'logs'}")
    check_limits(shop.project, sample.also)
    for constraint in constraints:
        if not constraint.holds(found := sample.also[constraint.metric]):
            text = (
                f"the baseline breaks a limit: {constraint.metric} is {number(found)} where `{constraint}` is required"
            )
            return Finding("fail", NAME, text, "mend the baseline, or the limit")
    return None


def _found(project: Project, samples: Sequence[Measurement]) -> Iterator[Finding]:
    """What the good samples say."""
    group = Group.of(values := [sample.value for sample in samples if sample.value is not None])
    noise = Noise().with_groups([group], group.mean)
    seconds = sum(sample.seconds for sample in samples) / len(samples)
    memory = max(sample.also["peak_memory_mb"] for sample in samples)  # 0: too quick to be seen
    outlook = Outlook(project.spec, noise, group.mean, seconds, History())
    each = f"{seconds:.3g} s" + (f" and at most {memory:.4g} MB" if memory else "") + " each"
    if noise.none:
        yield Finding("ok", NAME, f"none: {number(values[0])} in each of {len(values)} runs; {each}")
    else:
        mean = f"{number(group.mean)} on average of {len(values)} runs"
        yield Finding("ok", NAME, f"{outlook.amount(noise.sd)} in one run: {mean}; {each}")
    if trend := _trend(values):
        hint = "a warm-up, or a machine that others use? repeat it; if it stays, warm up within run_command"
        yield Finding("warn", NAME, trend, hint)
    yield from _outlook(outlook)


def _trend(values: Sequence[float]) -> str:
    if len(values) < 4 or len(set(values)) == 1:
        return ""
    shown = f"first {number(values[0])}, last {number(values[-1])}"
    if chance_of_trend(values) < TREND_CHANCE:
        return f"the runs trend, beyond what chance brings once in {1 / TREND_CHANCE:.0f} times: {shown}"
    if chance_of_first(values) < TREND_CHANCE:
        return f"the first run is unlike the later ones: {', '.join(map(number, values[:6]))}"
    return ""


def _outlook(outlook: Outlook) -> Iterator[Finding]:
    """What can be found with the noise that is known."""
    if not (outlook.noise.none or math.isfinite(outlook.noise.sd)):
        yield Finding("warn", "gains", "the runs lie too far apart to count", QUIETER)
        return
    yield Finding("ok", "gains", outlook.preview())
    for text, hint in outlook.warnings():
        yield Finding("warn", "gains", text, hint)
