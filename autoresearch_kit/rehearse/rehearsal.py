"""`ark rehearse`: a run of the user's project in which everything is real but the measurements, the agent and the time.

It happens in a throwaway repository in the cache that shares the user's objects; the user's repository is only read.
Whatever it leaves when it is killed, the next rehearsal of the same repository removes.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from autoresearch_kit.agents.brief import check_templates
from autoresearch_kit.core.budget import Ending, Limits
from autoresearch_kit.core.entry import gain_percent
from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.names import PROGRAM_NAME
from autoresearch_kit.core.records import Attempt, Outcome, number
from autoresearch_kit.lab import cache
from autoresearch_kit.ledger.ledger import Ledger, read_latest
from autoresearch_kit.ledger.lock import Lock
from autoresearch_kit.ledger.throwaway import throwaway
from autoresearch_kit.loop import Turns, loop
from autoresearch_kit.preflight import preflight
from autoresearch_kit.project import Project
from autoresearch_kit.ratchet import Note, Run, Watch
from autoresearch_kit.rehearse.noise import Amount, Model, read_model
from autoresearch_kit.rehearse.script import ScriptedAgent
from autoresearch_kit.rehearse.stage import NAME, Clock, Stage

_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a rehearsal, held against the truth that it knows."""

    name: str
    noise: str
    """Where level and noise are from."""
    ending: str
    """The limit that was reached."""
    exit_code: int
    """What `ark run` would have ended with."""
    attempts: int
    kept: int
    discarded: int
    crashes: int
    helpful: int
    """Ideas that were truly better."""
    truly_better: int
    """Of the kept ones."""
    luck: int
    """Kept ones that were no better than the head."""
    baseline: float | None
    best: float | None
    """As reported."""
    true_best: float | None
    gain_percent: float | None
    """As reported."""
    true_gain_percent: float | None
    measurements: int
    """Those of the baseline included."""
    per_attempt: float | None
    """Measurements for one attempt, the head's in turn included."""
    hours: float
    """Of the night, set-up not included."""
    agent_hours: float | None
    """The agent's own share of them; None when no run has recorded it."""
    fruitless: Mapping[str, int]
    """Turns without an attempt, by kind."""
    prompt_bytes: int
    program_bytes: int
    log: Sequence[Mapping[str, Any]]
    """Every attempt with what it truly was."""


class Rehearsal:
    """One rehearsal of a project. A context manager; `play` once."""

    def __init__(self, project: Project, noise: Amount | None, seed: int, watch: Watch) -> None:
        self.project = project
        self.prompt = self.program = b""
        """What the agent read last."""
        self._noise = noise
        self._rng = Random(seed)
        self._watch = watch
        self._home = cache.run_cache(project.repository.common, NAME)
        self._root = self._home / "repository"
        self._lock = Lock(self._home / _LOCK, "a rehearsal of this repository")
        self._rehearsed: Project | None = None

    def __enter__(self) -> Rehearsal:
        cache.make_private(self._home)
        self._lock.acquire()
        try:
            self._sweep()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._rehearsed is not None:
            self._rehearsed.repository.close()
        with contextlib.suppress(ArkError):  # what cannot be removed is no reason to fail now
            self._sweep()
        self._lock.release()

    def _sweep(self) -> None:
        """Remove everything of this rehearsal, or of one that was killed."""
        cache.remove(cache.repository_cache(self._root / ".git"))
        for path in list(self._home.iterdir()):
            if path.name != _LOCK:
                cache.remove(path)

    def play(self, attempts: int) -> Summary:
        """Go through a night of at most so many attempts; ArkError for whatever would keep a real run from it."""
        repository, spec = self.project.repository, self.project.spec
        repository.head()
        Ledger(repository, spec.branch_prefix, NAME).check_free()
        found = read_latest(repository, self.project.spec_name)
        model = read_model(found[0].tag if found else "", found[1] if found else (), self._noise)
        clock = Clock()
        stages: list[Stage] = []

        def workshop(rehearsed: Project, name: str, base: str, label: str, watch: Watch) -> Stage:
            stages.append(Stage(self.project, rehearsed, label, model, clock, self._rng))
            return stages[0]

        with Run(self._lay_out(model), NAME, self._watch, workshop) as run:
            run.open()
            check_templates(spec, self.project.folder)
            self._tell(model)
            agent = ScriptedAgent(stages[0], model, clock, self._rng)
            run.ready()
            turns = Turns(run, Limits(attempts), self._watch, clock=clock)
            ending = loop(run, agent, turns, clock.sleep)
            self.prompt, self.program = agent.prompt, agent.program
            return self._summary(run, stages[0], agent, turns, ending, clock)

    def _tell(self, model: Model) -> None:
        """What is made up, and what `ark check` has to say; ArkError when that is that a run would come to nothing.

        The agent may be missing: it is not started here.
        """
        spec = self.project.spec
        findings = [finding for finding in preflight(self.project) if finding.level != "ok"]
        if failed := [finding for finding in findings if finding.level == "fail" and finding.subject != "agent"]:
            raise ArkError("\n".join(f"{finding.subject}: {finding.text}" for finding in failed), failed[0].hint)
        notes = [f"Nothing is measured here: {model.told}"]
        notes += [f"{found.subject}: {found.text}" + (f"; {found.hint}" if found.hint else "") for found in findings]
        for limit in model.unknown(spec.constraints):
            unknown = f"{limit.metric} was never recorded, and cannot be known before a baseline"
            notes.append(f"The limit `{limit}` is taken to hold: {unknown}")
        if spec.budget.target is not None and not model.is_recorded:
            target = number(spec.budget.target)
            notes.append(f"The target {target} is left out: a made-up level says nothing of it")
        for note in notes:
            self._watch(Note(note))

    def _lay_out(self, model: Model) -> Project:
        """The same project in a throwaway repository."""
        project = self.project
        repository = throwaway(project.repository, self._root, project.repository.head())
        folder = self._root / project.place.prefix
        folder.mkdir(parents=True, exist_ok=True)
        templates = filter(Path.is_file, project.folder.glob("*.j2"))  # the project's own
        for path in [project.spec_path, *templates]:
            shutil.copy(path, folder / path.name)
        spec = project.spec
        if not model.is_recorded:
            spec = spec.model_copy(update={"budget": spec.budget.model_copy(update={"target": None})})
        self._rehearsed = replace(project, spec=spec, folder=folder, repository=repository)
        return self._rehearsed

    def _summary(
        self, run: Run, stage: Stage, agent: ScriptedAgent, turns: Turns, ending: Ending, clock: Clock
    ) -> Summary:
        spec, tried = run.spec, [a for a in run.attempts if not a.is_baseline]
        kept = [a for a in tried if a.outcome is Outcome.KEEP]
        better = sum(stage.ideas[a.tree].gain > 0 for a in kept)
        true_best = stage.level_of(run.head.tree)
        runs = sum(len(a.measurements) for a in tried)
        return Summary(
            name=spec.name,
            noise=stage.model.told,
            ending=ending.reason,
            exit_code=ending.exit_code,
            attempts=len(tried),
            kept=len(kept),
            discarded=sum(a.outcome is Outcome.DISCARD for a in tried),
            crashes=sum(a.outcome is Outcome.CRASH for a in tried),
            helpful=sum(stage.ideas[a.tree].kind in ("helpful", "great") for a in tried),
            truly_better=better,
            luck=len(kept) - better,
            baseline=run.baseline.value,
            best=run.head.value,
            true_best=true_best,
            gain_percent=gain_percent(run.baseline.value, run.head.value, spec.maximize),
            true_gain_percent=gain_percent(stage.model.level, true_best, spec.maximize),
            measurements=stage.measured,
            per_attempt=runs / len(tried) if tried else None,
            hours=clock.now / 3600,
            agent_hours=agent.seconds / 3600 if stage.model.costs else None,
            fruitless={kind: count for kind, count in sorted(turns.counts.items()) if kind != "proposed"},
            prompt_bytes=len(agent.prompt),
            program_bytes=len(agent.program),
            log=[_entry(attempt, stage) for attempt in tried],
        )


def summary_lines(found: Summary) -> list[str]:
    """For a person."""
    lines = [f"rehearsal of {found.name}: nothing was measured; {found.noise}"]
    lines.append(f"  ended     {found.ending}")
    lines.append(
        f"  attempts  {found.attempts}: {found.kept} kept, {found.discarded} discarded, {found.crashes} crashed"
    )
    lines.append(
        f"  kept      {found.truly_better} truly better, {found.luck} by luck; {found.helpful} ideas were helpful"
    )
    lines.append(f"  gain      {_percent(found.gain_percent)} reported, {_percent(found.true_gain_percent)} true")
    each = f", {found.per_attempt:.1f} for each attempt" if found.per_attempt is not None else ""
    lines.append(f"  measured  {found.measurements} times{each}: simulated, all of them")
    agents = "the agent's own time not counted" if found.agent_hours is None else f"{found.agent_hours:.2f} the agent's"
    pace = f", {60 * found.hours / found.attempts:.1f} minutes an attempt" if found.attempts else ""
    lines.append(f"  night     {found.hours:.2f} hours{pace}; {agents}")
    fruitless = ", ".join(f"{count} {kind}" for kind, count in found.fruitless.items()) or "none"
    lines.append(f"  turns     without an attempt: {fruitless}")
    lines.append(f"  agent     read {found.prompt_bytes} bytes of prompt and {found.program_bytes} of {PROGRAM_NAME}")
    return lines


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f} %"


def _entry(attempt: Attempt, stage: Stage) -> dict[str, Any]:
    idea = stage.ideas[attempt.tree]
    return {
        "number": attempt.number,
        "outcome": str(attempt.outcome),
        "idea": idea.kind,
        "true_gain": idea.gain,
        "gain": attempt.verdict.gain if attempt.verdict else None,
        "value": attempt.value,
        "reason": attempt.verdict.reason if attempt.verdict else "",
        "measurements": len(attempt.measurements),
    }


class Keepsakes:
    """A folder for what the agent read, with nothing else in it."""

    names = ("prompt.md", PROGRAM_NAME)

    def __init__(self, folder: Path) -> None:
        """Make the folder; UsageError when anything else lies there."""
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            others = sorted({path.name for path in folder.iterdir()}.difference(self.names))
        except OSError as error:
            raise self._unwritable(error) from None
        if others:
            raise UsageError(f"{folder} holds other things: {', '.join(others[:5])}", "give a folder of its own")

    def write(self, *texts: bytes) -> list[str]:
        """Write the texts in the order of `names`; returns the paths."""
        paths = [self._folder / name for name in self.names]
        try:
            for path, text in zip(paths, texts, strict=True):
                path.write_bytes(text)
        except OSError as error:
            raise self._unwritable(error) from None
        return [str(path) for path in paths]

    def _unwritable(self, error: OSError) -> ArkError:
        return ArkError(f"{self._folder} cannot be written: {error.strerror}", "give another folder")
