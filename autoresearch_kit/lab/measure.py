"""One measurement: run on a clean bench, scrub, evaluate, read the metric.

Between run and evaluation the bench is made the commit again; only run.log and the declared artifacts survive. Each
command has a fresh TMPDIR, a fresh seed, and the environment of the user without git's and the engine's own variables.
What it cannot keep from a run: the user's home, the network, the clock, and other processes of the same user.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.globs import compile_globs, is_glob
from autoresearch_kit.core.metrics import Reading, decode, read_metrics
from autoresearch_kit.core.names import RUN_LOG
from autoresearch_kit.core.records import Measurement
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.core.words import last_words
from autoresearch_kit.lab.cache import data_root, make_private, remove, trim_logs
from autoresearch_kit.lab.clone import Clone
from autoresearch_kit.lab.machine import machine
from autoresearch_kit.lab.processes import Command, Finished, Supervisor, tail
from autoresearch_kit.ledger.git import Entry, Repository

ENGINE_METRICS = frozenset({"wall_seconds", "cpu_seconds", "peak_memory_mb"})
"""Measured by the engine, whatever a run prints under these names."""
SETUP_SECONDS = 2 * 3600.0
"""Hard limit for the set-up command: downloads may be slow, but a night must not be lost to one."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What is going on now, for whoever watches."""

    name: str
    """`agent`, `rest`, `setup`, `run`, `eval`, `check` or `holdout`."""
    limit_seconds: float
    """What it is meant to take at most: the budget for a run."""
    log: Path
    """Where its output goes."""
    agent: str = ""
    """Whose turn, or rest, it is."""


Watcher = Callable[[Phase], None]


def command_environment(spec: Spec, **ark: str | int) -> dict[str, str]:
    """The user's environment with the spec's `env`, without GIT_* and ARK_* but for the folder for data, and with the
    given ARK_ variables."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "ARK_"))}
    ark["cache"] = str(data_root())
    return {**inherited, **spec.env, **{f"ARK_{name.upper()}": str(value) for name, value in ark.items()}}


class Scratch:
    """A folder for temporary files that is fresh for each command. Its path is short: sockets have 108 bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fresh(self) -> dict[str, str]:
        """Empty it, and return the environment that points to it."""
        self.remove()
        make_private(self._path)
        return {"TMPDIR": str(self._path)}

    def remove(self) -> None:
        """Delete it with all that commands left there."""
        remove(self._path)


class Bench:
    """Where attempts are measured, one at a time."""

    def __init__(
        self,
        repository: Repository,
        root: Path,
        base: str,
        prefix: str,
        spec: Spec,
        links: Mapping[str, Path],
        logs: Path,
        scratch: Scratch,
        watch: Watcher,
    ) -> None:
        self.folder = root / prefix if prefix else root
        self._repository = repository
        self._spec = spec
        self._prefix = prefix
        self._bench = Clone(repository, root, base, links, [prefix + name for name in (*spec.artifacts, RUN_LOG)])
        self._logs = logs
        self._scratch = scratch
        self._watch = watch
        self._supervisor: Supervisor | None = None
        self._tracked: Mapping[str, Entry] = {}
        self._commit = ""
        self._artifacts = compile_globs([*spec.artifacts, RUN_LOG])
        self._named = {name for name in [*spec.artifacts, RUN_LOG] if not is_glob(name)}

    def close(self) -> None:
        """End the helper process."""
        if self._supervisor is not None:
            self._supervisor.close()
            self._supervisor = None
            with contextlib.suppress(ArkError):
                self._scratch.remove()

    def measure(self, files: Mapping[str, Entry], commit: str, number: int, tag: str, sample: int = 0) -> Measurement:
        """One run and its evaluation of `files`, the tree of `commit`. Whatever happens there, it is a Measurement.

        `sample` counts the measurements of one attempt: each has logs of its own.
        """
        if sample == 0:
            trim_logs(self._logs, number)
        spec = self._spec
        seed = secrets.randbelow(2**31)
        env = self._environment(tag, number, seed, commit)
        self._tracked = {path: entry for path, entry in files.items() if path != self._prefix + RUN_LOG}
        self._commit = commit
        self._bench.lay(self._tracked, commit)
        name = f"{number:04d}" + (f"-{sample}" if sample else "")
        log = self._logs / f"{name}.run.log"
        run = self._command("run", spec.run_command, spec.timeout_seconds, log, env, spec.budget_minutes * 60)
        own_log = self.folder / RUN_LOG
        engine = {
            "wall_seconds": round(run.wall_seconds, 4),
            "cpu_seconds": round(run.cpu_seconds, 4),
            "peak_memory_mb": round(run.peak_memory_mb, 2),
        }
        if run.problem:
            last = "\n".join(text for text in (tail(own_log), tail(log)) if text)
            problem = _with_disk(f"{run.problem}: {run.detail}", run)
            return Measurement(None, engine, problem, run.wall_seconds, last, seed, machine())

        seconds = run.wall_seconds
        printed = "\n".join(_read(path) for path in (log, own_log))
        reading = read_metrics(printed, spec.metric, pattern=spec.metric_pattern)
        reading = Reading(reading.value, reading.also, _with_disk(reading.problem, run))
        last = tail(own_log) or tail(log)
        doubt = self._doubt(printed)
        if spec.eval_command is not None:
            eval_log = self._logs / f"{name}.eval.log"
            done, said, evaluated = self._evaluate("eval", spec.eval_command, log, eval_log, env)
            seconds += done.wall_seconds
            last = "\n".join(text for text in (tail(own_log), tail(eval_log)) if text)
            # What only the run knows, such as peak_vram_mb, counts too; the evaluation's word is the stronger one.
            reading = Reading(evaluated.value, {**reading.also, **evaluated.also}, evaluated.problem)
            doubt = {**doubt, **dict.fromkeys(evaluated.also, ""), **self._doubt(said)}
        problem = reading.problem or next((text for text in doubt.values() if text), "")
        return Measurement(
            None if problem else reading.value,
            {**reading.also, **engine},
            problem,
            seconds,
            last if problem else "",
            seed,
            machine(),
        )

    def _evaluate(
        self, phase: str, line: str, run_log: Path, log: Path, env: Mapping[str, str]
    ) -> tuple[Finished, str, Reading]:
        """Make the bench the commit again but for what survives, run `line`, and read the metric from what it says."""
        self._bench.lay(self._tracked, self._commit, keep=self._survives)
        if not _is_file(self.folder / RUN_LOG):
            self._bench.files.put(self._prefix + RUN_LOG, run_log.read_bytes() if _is_file(run_log) else b"")
        spec = self._spec
        done = self._command(phase, line, spec.eval_timeout_seconds, log, env)
        said = _read(log)
        reading = read_metrics(said, spec.metric, pattern=spec.metric_pattern, bare_number=spec.metric_pattern is None)
        reading = _with_exit(reading, done, tail(log))
        return done, said, Reading(reading.value, reading.also, _with_disk(reading.problem, done))

    def _doubt(self, text: str) -> dict[str, str]:
        """By constrained metric, why its number in `text` cannot be believed: two values, or none that is a number."""
        names = {c.metric for c in self._spec.constraints} - ENGINE_METRICS
        readings = {name: read_metrics(text, name).problem for name in names}
        return {name: problem for name, problem in readings.items() if problem and not problem.startswith("no_metric")}

    def failed_check(self, number: int, tag: str) -> str:
        """Run the spec's checks on what was measured last; the first failure as a sentence, empty when all pass."""
        env = self._environment(tag, number, secrets.randbelow(2**31), self._commit)
        for check in self._spec.checks:
            self._bench.lay(self._tracked, self._commit, keep=self._survives)
            log = self._logs / f"{number:04d}.check.log"
            done = self._command("check", check.command, check.timeout_minutes * 60, log, env)
            if done.problem:
                return f"check `{check.command}` failed: {done.detail}"
        return ""

    def hold_out(self, measured: Measurement, number: int, tag: str, sample: int = 0) -> Measurement:
        """What the spec's hold-out command says of the run that was `measured` last, with the seed of that run."""
        command = self._spec.holdout_command
        assert command is not None, "the spec has no hold-out"
        name = f"{number:04d}" + (f"-{sample}" if sample else "")
        log = self._logs / f"{name}.holdout.log"
        env = self._environment(tag, number, measured.seed, self._commit)
        done, _, reading = self._evaluate("holdout", command, self._logs / f"{name}.run.log", log, env)
        last = tail(log) if reading.problem else ""
        return Measurement(
            reading.value, reading.also, reading.problem, done.wall_seconds, last, measured.seed, machine()
        )

    def set_up(self, files: Mapping[str, Entry], commit: str, tag: str) -> str:
        """Run the spec's set-up command; what went wrong as a sentence, empty when nothing did."""
        if self._spec.setup_command is None:
            return ""
        self._bench.lay(files, commit)
        log = self._logs / "setup.log"
        env = self._environment(tag, 0, 0, commit)
        done = self._command("setup", self._spec.setup_command, SETUP_SECONDS, log, env)
        if not done.problem:
            return ""
        words = last_words(tail(log))
        return f"{done.detail}{f'; its last words: {words}' if words else ''}; the log is {log}"

    def _environment(self, tag: str, number: int, seed: int, commit: str) -> dict[str, str]:
        return command_environment(
            self._spec,
            budget_seconds=f"{self._spec.budget_minutes * 60:g}",
            seed=seed,
            attempt=number,
            tag=tag,
            tree=self._repository.tree_of(commit),
            parent_tree=self._repository.parent_tree(commit),
        )

    def _command(
        self, name: str, line: str, limit: float, log: Path, env: Mapping[str, str], meant: float | None = None
    ) -> Finished:
        self._watch(Phase(name, meant or limit, log))
        make_private(self._logs)  # a command may have deleted the whole cache
        if self._supervisor is None:
            self._supervisor = Supervisor()
        return self._supervisor.run(
            Command(
                line,
                cwd=self.folder,
                env={**env, **self._scratch.fresh()},
                log=log,
                timeout_seconds=limit,
                watch=self.folder / RUN_LOG if name == "run" else None,
                memory_mb=self._spec.resources.memory_mb,
            )
        )

    def _survives(self, path: str) -> bool:
        """Whether a file that a run left is kept for the evaluation; a glob never lets it replace a committed file."""
        if not path.startswith(self._prefix):
            return False
        inner = path[len(self._prefix) :]
        return self._artifacts.matches(inner) and (inner in self._named or path not in self._tracked)


def _with_exit(reading: Reading, done: Finished, said: str) -> Reading:
    """An evaluation that failed has no value, whatever it printed before; its last words say why."""
    if not done.problem:
        return reading
    last = last_words(said, 300)
    words = f": {last}" if last else ""
    if done.problem == "exit" and reading.problem.startswith("no_metric"):
        return Reading(None, reading.also, f"{reading.problem}; the evaluation ended with {done.detail}{words}")
    return Reading(None, reading.also, f"{done.problem}: the evaluation ended with {done.detail}{words}")


def _with_disk(problem: str, done: Finished) -> str:
    """A full disk has the blame, not the idea, where output of the command was lost to it."""
    kind, _, detail = problem.partition(": ")
    if not done.output_lost or kind not in ("no_metric", "exit"):
        return problem
    return f"disk_full: {detail}; the disk is full, and a part of the output was lost"


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _read(path: Path) -> str:
    """A log as text; empty when it is no plain file."""
    return decode(path.read_bytes()) if _is_file(path) else ""
