"""`ark verify`: fresh runs of a run's baseline and head in turn, used for no decision: the number to publish.

    reserve a record -> pairs of runs, by lot which arm first -> gain and interval -> each keep taken out -> record

`core.interval` says how the gain is computed, `ledger.verified` how it is recorded. Nothing here changes a run: no
attempt is made and no branch moves.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from autoresearch_kit import __version__
from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.interval import LEVEL, Gain, estimate
from autoresearch_kit.core.records import Attempt, Measurement, Outcome, number
from autoresearch_kit.core.spec import Constraint
from autoresearch_kit.core.verification import Ablation, Arm, Sample, State, Verification, Weight
from autoresearch_kit.lab.machine import machine
from autoresearch_kit.lab.measure import Watcher
from autoresearch_kit.ledger import verified
from autoresearch_kit.ledger.git import Entry, short
from autoresearch_kit.ledger.ledger import Ledger, baseline_of, check_tag, last_kept, utc_now
from autoresearch_kit.ledger.merge import without
from autoresearch_kit.project import Project
from autoresearch_kit.workshop import Workshop

RUNS = 12
"""Of both arms together: with six pairs the interval is some 2.8 standard deviations of one run wide."""
FEWEST_RUNS = 8
"""With fewer than four pairs Student's limit is so large that hardly anything can be shown."""
QUIET_PAIRS = 2
"""After so many pairs without any variance there is nothing more to learn."""
FAILURES = 3
"""So many failed runs of one arm end its comparison."""

T = TypeVar("T")
Tell = Callable[[str], None]


def in_turn(
    measure: Callable[[int], T],
    runs: int,
    is_quiet: Callable[[Sequence[tuple[T, T]]], bool],
    toss: Callable[[], int] = lambda: secrets.randbelow(2),
) -> list[tuple[T, T]]:
    """Measure arms 0 and 1 in pairs, `runs` runs in all; `toss` says which arm comes first in a pair.

    Ends after two pairs when those are quiet.
    """
    pairs: list[tuple[T, T]] = []
    while len(pairs) < runs // 2 and not (len(pairs) == QUIET_PAIRS and is_quiet(pairs)):
        if toss():
            second = measure(1)
            pairs.append((measure(0), second))
        else:
            first = measure(0)
            pairs.append((first, measure(1)))
    return pairs


@dataclass(slots=True)
class _Side:
    """A commit in a comparison."""

    name: str
    commit: str
    files: Mapping[str, Entry]
    recorded: frozenset[float] = frozenset()
    """What the ledger knows of its values."""
    failures: int = 0


class _Fails(ArkError):
    """One side failed again and again."""

    def __init__(self, side: _Side, problem: str, logs: str) -> None:
        super().__init__(f"the {side.name}, commit {short(side.commit)}, failed {FAILURES} times: {problem}", logs)
        self.side = side
        self.problem = problem


class Verifier:
    """A verification of one run; holds its lock. A context manager; `open` before `verify`."""

    def __init__(
        self, project: Project, tag: str, tell: Tell = lambda text: None, watch: Watcher = lambda phase: None
    ) -> None:
        self.project = project
        self.spec = project.spec
        self.tag = check_tag(tag)
        self.ledger = Ledger(project.repository, project.spec.branch_prefix, tag, project.spec_name)
        self._tell, self._watch = tell, watch
        self._lock = self.ledger.lock()
        self._shop: Workshop | None = None
        self._attempts: list[Attempt] = []
        self._samples: list[Sample] = []
        self._planned = 0
        self._looked = False
        """Whether the hold-out command was ever started: what it printed then is in a log."""

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shop is not None:
            self._shop.close()
            self._shop = None
        self._lock.release()

    # Opening

    def open(self) -> None:
        """Take the lock and see whether there is something to verify here; ArkError when not. Measures nothing."""
        self._lock.acquire()
        self.ledger.drop_stale_locks()
        self._attempts = self.ledger.read()
        self._check_run()
        self._shop = Workshop(self.project, self.ledger.branch, self._attempts[0].parent, self.tag, self._watch)
        self._check_yardstick()
        for other in verified.read_verifications(self.project.repository, self.tag):
            if other.state is State.RUNNING:  # we hold the lock, so nobody is at it
                verified.finish(self.project.repository, replace(other, state=State.LOST, problem="its process died"))
        self.shop.set_up()

    @property
    def shop(self) -> Workshop:
        """Where the runs are made."""
        assert self._shop is not None, "open it first"
        return self._shop

    @property
    def baseline(self) -> Attempt:
        """What the gain is counted from."""
        found = baseline_of(self._attempts)
        assert found is not None, "open it first"
        return found

    @property
    def head(self) -> Attempt:
        """What the gain is of."""
        found = last_kept(self._attempts)
        assert found is not None, "open it first"
        return found

    def _check_run(self) -> None:
        attempts, name = self._attempts, self.project.spec_name
        if not attempts:
            raise UsageError(f"there is no run {self.tag}", "see what there is: git for-each-ref refs/ark")
        if attempts[0].spec not in ("", name):
            raise UsageError(f"run {self.tag} belongs to {attempts[0].spec}", "give its folder, or another --tag")
        base, head = baseline_of(attempts), last_kept(attempts)
        if base is None or head is None or base.number == head.number:
            raise ArkError(
                f"run {self.tag} has kept nothing since its baseline, so there is no gain to verify",
                f"go on with it: ark run --tag {self.tag}",
            )
        if self.ledger.head() != head.commit:
            raise self.ledger.moved(head.commit)
        if machine() != head.machine:
            raise ArkError(
                f"run {self.tag} was measured on another machine, so a gain found here would not be comparable: "
                f"this is {machine()}, that was {head.machine}",
                "verify on a machine of that kind",
            )

    def _check_yardstick(self) -> None:
        if self.shop.yardstick != self.head.yardstick:
            raise ArkError(
                f"run {self.tag} was measured in another way than the spec now says (yardstick {self.head.yardstick}, "
                f"now {self.shop.yardstick}), so a gain found now would not be comparable",
                f"put {self.project.place.spec_name} back to what it was in the run",
            )

    # Verifying

    def verify(self, runs: int = RUNS, ablate: bool = False) -> Verification:
        """Measure baseline and head in turn, `runs` runs in all, and record what came of it.

        `ablate` also compares the head with itself without each kept change. ArkError when an arm fails again and
        again; the record says so then, as it says of an interruption.
        """
        runs = max(FEWEST_RUNS, runs + runs % 2)
        repository, head = self.project.repository, self.head
        taken_out = self._taken_out() if ablate else []
        self._announce(runs, sum(tree is not None for _, tree in taken_out))
        record = verified.begin(
            repository,
            Verification(
                tag=self.tag,
                project=self.spec.name,
                spec=self.project.spec_name,
                metric=self.spec.metric,
                maximize=self.spec.maximize,
                baseline=Arm(self.baseline.number, self.baseline.commit),
                head=Arm(head.number, head.commit),
                tree=head.tree,
                yardstick=self.shop.yardstick,
                machine=machine(),
                version=__version__,
                runs=runs,
                started=utc_now(),
                holdout=holdout_digest(self.project),
            ),
        )
        try:
            pairs = self._compare(self._side("baseline", self.baseline), self._side("head", head), runs, True)
            record = replace(
                record,
                gain=self._gain([(one.measured, other.measured) for one, other in pairs]),
                broken=_broken(self.spec.constraints, [other for _, other in pairs]),
            )
            if self.spec.holdout_command is not None:
                held_out = self._gain([(one.held_out, other.held_out) for one, other in pairs])
                record = replace(record, holdout_gain=held_out)
            for ablation in self._ablate(taken_out, runs):
                record = replace(record, ablations=(*record.ablations, ablation))
        except KeyboardInterrupt:
            self._end(record, State.INTERRUPTED, "")
            raise
        except ArkError as error:
            with contextlib.suppress(ArkError):  # a full disk may refuse this too
                self._end(record, State.FAILED, error.message)
            raise
        return self._end(record, State.DONE, "")

    def _end(self, record: Verification, state: State, problem: str) -> Verification:
        repository = self.project.repository
        holdout = record.holdout if self._looked else ""
        count = verified.looks(repository, holdout) if holdout else 0
        return verified.finish(
            repository,
            replace(record, state=state, problem=problem, samples=tuple(self._samples), holdout=holdout, looks=count),
        )

    def _announce(self, runs: int, ablations: int) -> None:
        self._planned = runs * (1 + ablations)
        measured = [m.seconds for m in (*self.baseline.measurements, *self.head.measurements)]
        seconds = self._planned * sum(measured) / max(1, len(measured))
        parts = f"{runs} runs of baseline and head"
        if ablations:
            parts += f", and {runs} for each of {ablations} kept changes"
        self._tell(f"{parts}: {_duration(seconds)} or so, less when there is no noise")

    def _side(self, name: str, attempt: Attempt) -> _Side:
        files = self.project.repository.files(attempt.commit)
        return _Side(name, attempt.commit, files, frozenset(attempt.values))

    def _compare(self, one: _Side, other: _Side, runs: int, hold_out: bool = False) -> list[tuple[Sample, Sample]]:
        """Good samples of both sides in pairs; _Fails when a side has none to give."""
        sides = (one, other)

        def is_quiet(pairs: Sequence[tuple[Sample, Sample]]) -> bool:
            for index, side in enumerate(sides):
                found = [pair[index] for pair in pairs]
                values = {*side.recorded, *(sample.measured.value for sample in found)}
                held = {sample.held_out.value for sample in found if sample.held_out is not None}
                if len(values) > 1 or len(held) > 1:
                    return False
            self._tell("no noise: every run of one commit gave the same value, so that is enough of them")
            self._planned -= runs - 2 * QUIET_PAIRS
            return True

        hold_out = hold_out and self.spec.holdout_command is not None
        return in_turn(lambda arm: self._sample(sides[arm], hold_out), runs, is_quiet)

    def _sample(self, side: _Side, hold_out: bool) -> Sample:
        """A good run of this side, after failed ones if need be."""
        # One number for all sides, as in an attempt: no code can tell from it which one it belongs to.
        attempt = self._attempts[-1].number + 1
        while True:
            count = len(self._samples)
            measured = self.shop.measure(side.commit, attempt, count, side.files)
            held, problem = None, measured.problem
            if hold_out and not problem:
                self._looked = True
                held = self.shop.bench.hold_out(measured, attempt, self.tag, count)
                problem = f"hold-out: {held.problem}" if held.problem else ""
            self._samples.append(Sample(side.name, measured, held))
            if not problem:
                also = f", hold-out {number(held.value or 0)}" if held else ""
                self._tell(f"{count + 1} of {self._planned}: {side.name}: {number(measured.value or 0)}{also}")
                return self._samples[-1]
            self._planned += 1
            self._tell(f"{count + 1} of {self._planned}: {side.name}: {problem}")
            side.failures += 1
            if side.failures >= FAILURES:
                raise _Fails(side, problem, f"the logs are {self.shop.folder / 'logs'}/{attempt:04d}*")

    def _gain(self, pairs: Sequence[tuple[Measurement | None, Measurement | None]], level: float = LEVEL) -> Gain:
        return estimate([(_value(one), _value(other)) for one, other in pairs], self.spec.maximize, level)

    # Ablation

    def _taken_out(self) -> list[tuple[Attempt, str | None]]:
        """Every change that was kept since the baseline, and the tree of the head without it."""
        kept = [a for a in self._attempts if a.outcome is Outcome.KEEP and a.number > self.baseline.number]
        return [(attempt, without(self.project.repository, self.head.commit, attempt)) for attempt in kept]

    def _ablate(self, taken_out: Sequence[tuple[Attempt, str | None]], runs: int) -> Iterator[Ablation]:
        count = sum(tree is not None for _, tree in taken_out)
        for attempt, tree in taken_out:
            title = attempt.proposal.title
            if tree is None:
                note = "later changes build on it"
                yield Ablation(attempt.number, title, Weight.TANGLED, note=note)
                continue
            repository = self.project.repository
            name, author = f"without {attempt.number}", ("ark", "ark@localhost")
            commit = repository.store_commit(tree, [self.head.commit], f"{name}\n", author, int(time.time()))
            side = _Side(f"head {name}", commit, repository.files(commit))
            try:
                pairs = self._compare(side, self._side("head", self.head), runs)
            except _Fails as failed:
                if failed.side is not side:
                    raise
                note = f"without it the run fails: {failed.problem}"
                yield Ablation(attempt.number, title, Weight.CARRIES, note=note)
                continue
            gain = self._gain([(one.measured, other.measured) for one, other in pairs], 1 - (1 - LEVEL) / count)
            broken = _broken(self.spec.constraints, [one for one, _ in pairs])
            note = f"without it {broken[0]}" if broken else ""
            yield Ablation(attempt.number, title, _weight(gain, broken), gain, note)


def _weight(gain: Gain, broken: Sequence[str]) -> Weight:
    if broken or gain.absolute.low > 0:
        return Weight.CARRIES
    return Weight.HURTS if gain.absolute.high < 0 else Weight.NONE_SHOWN


def _value(measured: Measurement | None) -> float:
    assert measured is not None and measured.value is not None, "only good samples are compared"
    return measured.value


def _broken(constraints: Sequence[Constraint], samples: Sequence[Sample]) -> tuple[str, ...]:
    """Limits that some sample breaks, one sentence each."""
    found = []
    for constraint in constraints:
        values = [sample.measured.also.get(constraint.metric) for sample in samples]
        bad = [value for value in values if value is None or not constraint.holds(value)]
        if bad:
            shown = "not printed" if bad[0] is None else number(bad[0])
            found.append(
                f"{constraint.metric} is {shown} in {len(bad)} of {len(values)} runs, where `{constraint}` is required"
            )
    return tuple(found)


def holdout_digest(project: Project) -> str:
    """What identifies the hold-out, for counting the looks at it; empty when the spec has none.

    The spec's path and the command, nothing else: were the fixed files a part of it, a mended comment in the evaluation
    would make a hold-out look new that has been looked at ten times. Other data are told apart by another command.
    """
    command = project.spec.holdout_command
    if command is None:
        return ""
    return hashlib.sha256(json.dumps([project.spec_name, " ".join(command.split())]).encode()).hexdigest()[:16]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
