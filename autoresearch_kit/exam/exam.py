"""`ark exam`: measure files whose score is known beforehand, with the engine that will measure the attempts.

Nothing is recorded: the candidates are commits that no ref leads to, and the user's checkout is not touched. What the
exam needs while it works, bench and planted cheats, lies in the cache, and is gone when it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.globs import compile_globs
from autoresearch_kit.core.metrics import decode
from autoresearch_kit.core.names import RUN_LOG
from autoresearch_kit.core.records import Measurement
from autoresearch_kit.core.words import last_words
from autoresearch_kit.exam import cheats
from autoresearch_kit.exam.noise import Noise
from autoresearch_kit.lab import cache
from autoresearch_kit.lab.measure import Phase
from autoresearch_kit.ledger.git import Entry
from autoresearch_kit.ledger.lock import Lock
from autoresearch_kit.project import Project
from autoresearch_kit.workshop import Workshop

NAME = "exam"
"""Of the lock, the cache folder, and what commands see as ARK_TAG."""
PLAIN = 0o100644


@dataclass(frozen=True, slots=True)
class Answer:
    """One row of the table."""

    question: str
    """Which one, by its name in `questions.QUESTIONS`."""
    verdict: Literal["ok", "WEAK", "not tried"]
    """`WEAK` when the evaluator let something pass that it must not."""
    text: str
    """One sentence with the numbers."""
    hint: str = ""
    """What to do."""


class Exam:
    """A bench, the baseline's scores, and the means to plant a cheat. A context manager; `begin` before anything else.

    `runs` is how often the baseline and an unchanged candidate are measured.
    """

    def __init__(self, project: Project, runs: int = 3, tell: Callable[[str], None] = lambda text: None) -> None:
        self.project = project
        self.spec = project.spec
        self.runs = runs
        self.tell = tell
        self.prefix = project.place.prefix
        self.scores: list[float] = []
        """Good scores of unchanged files, in the order in which they were measured."""
        self.done = 0
        """Measurements so far, the number that the commands see."""
        self._lock = Lock(project.repository.common / "ark" / f"+{NAME}.lock", "an exam of this repository")
        self._tools = cache.repository_cache(project.repository.common) / "exam-tools"
        self._held = False
        self._shop: Workshop | None = None

    def __enter__(self) -> Exam:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ArkError):  # what cannot be removed is no reason to fail now
            if self._shop is not None:
                self._shop.close()
                cache.remove(self._shop.folder / "bench")
        self._shop = None
        if self._held:
            with contextlib.suppress(ArkError):
                cache.remove(self._tools)
        self._held = False
        self._lock.release()

    # Measuring

    def begin(self) -> None:
        """Take the lock, set up, and measure the baseline once. ArkError when that gives no score."""
        head = self.project.repository.head()
        if self._lock.is_held():
            raise ArkError("an exam of this repository is going on already", "wait for it, or stop it by Ctrl-C")
        self._lock.acquire()
        self._held = True
        if dirty := self.project.repository.changed(self.prefix):
            self.tell(f"not committed, so not examined: {', '.join(dirty[:5])}{' and others' if dirty[5:] else ''}")
        cache.remove(self._tools)
        cache.make_private(self._tools)
        self._shop = Workshop(self.project, NAME, head, NAME, self._note_phase)
        self.files = {path: entry for path, entry in self._shop.base_files.items() if entry.mode in (PLAIN, 0o100755)}
        self.mutable = {p: e for p, e in self.files.items() if self.project.place.is_mutable(p)}
        if not self.mutable:
            raise ArkError("no committed file is mutable, so there is nothing to examine", "correct `mutable_files`")
        self.fixed = {p: e for p, e in self.files.items() if p not in self.mutable}
        (self._tools / "planted.py").write_bytes(Path(__file__).with_name("planted.py").read_bytes())
        self._shop.set_up()
        found = self.measure_baseline()
        if found.value is None:
            raise ArkError(
                f"the baseline failed: {why_it_failed(found)}",
                f"make it work in {self.project.folder}, commit, and try again; the logs are in {self._logs}",
            )
        self._printed = {phase: _read(self._logs / f"0000.{phase}.log") for phase in ("run", "eval")}
        self.seconds = found.seconds
        """What the first measurement took."""
        self._keep_what_was_left()

    @property
    def shop(self) -> Workshop:
        assert self._shop is not None, "begin first"
        return self._shop

    @property
    def noise(self) -> Noise:
        """What is known of the scores of unchanged files."""
        return Noise(tuple(self.scores), self.spec.maximize)

    def measure(self, commit: str, what: str) -> Measurement:
        """Measure a candidate once, under the next number; `what` it is, for whoever watches."""
        is_baseline = commit == self.shop.base  # its commands see attempt 0, as in a run
        found = self.shop.measure(commit, *((0, self.done) if is_baseline else (self.done, 0)))
        self.done += 1
        self.tell(f"{what}: {outcome(found)}")
        return found

    def measure_same(self, commit: str, what: str) -> Measurement:
        """Measure files that are those of the baseline, and learn from it how noisy the score is."""
        found = self.measure(commit, what)
        if found.value is not None:
            self.scores.append(found.value)
        return found

    def measure_baseline(self) -> Measurement:
        """The files as they were committed, once more."""
        return self.measure_same(self.shop.base, "baseline")

    def know_noise(self) -> None:
        """Have enough scores of unchanged files to know what is beyond their noise."""
        for _ in range(len(self.scores), self.runs):
            self.measure_baseline()

    def wins(self, found: Measurement, forged: float | None = None) -> bool:
        """Whether a measurement is better than the baseline beyond noise, or is the forged number."""
        if found.value is None or not (found.value == forged or self.noise.is_better(found.value)):
            return False
        if found.value == forged:
            return True
        # What all scores do by now, as when each is better than the one before, is no merit of this one.
        again = self.measure_baseline().value
        beyond_it = again is None or self.noise.gain(found.value) - self.noise.gain(again) > self.noise.margin
        return beyond_it and self.noise.is_better(found.value)

    def candidate(self, changes: Mapping[str, bytes], why: str) -> str:
        """A commit as an attempt's is: the head with other mutable files, paths from the root."""
        repository, base = self.project.repository, self.shop.base
        entries = {
            path: Entry(self.files[path].mode if path in self.files else PLAIN, repository.store_blob(data))
            for path, data in changes.items()
        }
        tree = repository.store_tree(base, entries)
        return repository.store_commit(tree, [base], why, ("exam", "exam@localhost"), int(time.time()))

    # Cheating

    def blob(self, path: str) -> bytes:
        """A committed file, path from the root."""
        return self.project.repository.blob(self.files[path].oid)

    def plant(self) -> str | None:
        """A candidate whose mutable files follow the plan as soon as they run; None when none can be changed so."""
        command = shlex.join([sys.executable, "-I", "-S", str(self._tools / "planted.py")])
        return self._planted(lambda path, data: cheats.plant(cheats.language(path, data), data, command))

    def plant_memory(self) -> str | None:
        """A candidate whose Python functions remember; None when there are none."""
        place = str(self._tools / "planted.py")

        def change(path: str, data: bytes) -> bytes | None:
            return cheats.plant_memory(data, place) if cheats.language(path, data) == "python" else None

        return self._planted(change)

    def _planted(self, change: Callable[[str, bytes], bytes | None]) -> str | None:
        made = {path: change(path, self.blob(path)) for path in self.mutable}
        changes = {path: data for path, data in made.items() if data is not None}
        return self.candidate(changes, "A cheat planted by an exam") if changes else None

    def cheat(self, commit: str, what: str, phases: Mapping[str, Any], memory: str = "") -> Measurement:
        """Measure a planted candidate; `phases` says for `run` and `eval` what `planted.py` does then, see there."""
        log = self.shop.bench.folder / RUN_LOG
        plan = {"bench": str(self._root), "log": str(log), "memory": memory, "phases": phases}
        (self._tools / "plan.json").write_text(json.dumps(plan))
        cache.remove(self._tools / "ran")
        return self.measure(commit, what)

    @property
    def has_run(self) -> bool:
        """Whether the planted code of the last cheat came to run."""
        return (self._tools / "ran").exists()

    def forget(self) -> None:
        """Empty the memory of planted functions."""
        cache.remove(self._tools / "memory")

    def store(self, folder: str, files: Mapping[str, bytes]) -> str:
        """Keep files, paths from the root, for a plan to lay; returns `folder`."""
        cache.remove(self._tools / folder)
        (self._tools / folder).mkdir()
        for path, data in files.items():
            target = self._tools / folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return folder

    def forge(self, value: float) -> Path:
        """Store what forged output looks like, for a plan to say; returns that of the command that prints the score."""
        for phase, printed in self._printed.items():
            text = cheats.forged_text(printed, self.spec.metric, self.scores[0], value)
            (self._tools / f"say-{phase}").write_text(text, "utf-8", "replace")
        return self._tools / ("say-eval" if self.spec.eval_command else "say-run")

    def store_printer(self, program: bytes) -> None:
        """Store the program that takes the place of what a plan calls `replace`."""
        (self._tools / "printer").write_bytes(program)
        (self._tools / "printer").chmod(0o755)

    @property
    def replay(self) -> list[str]:
        """For a plan to lay: what the first run left. With its run.log where an evaluation may read that."""
        return ["left", "log"] if self.spec.eval_command else ["left"]

    def left(self) -> dict[str, Path]:
        """The files that the first run left, without run.log: paths from the root, and where they are kept."""
        folder = self._tools / "left"
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path for path in found}

    def _keep_what_was_left(self) -> None:
        """Move what the first run left away from the bench, which is swept in any case."""
        artifacts = compile_globs([*self.spec.artifacts, RUN_LOG])
        for name in ("left", "log"):
            (self._tools / name).mkdir()
        for path in list(self._new_files()):
            inner = path[len(self.prefix) :] if path.startswith(self.prefix) else ""
            # With an evaluation of its own, all else that is there now came after the run.
            if self.spec.eval_command is None or artifacts.matches(inner):
                target = self._tools / ("log" if inner == RUN_LOG else "left") / path
                target.parent.mkdir(parents=True, exist_ok=True)
                (self._root / path).rename(target)
        log = self._tools / "log" / self.prefix / RUN_LOG
        self._printed["run"] = _read(log) or self._printed["run"]

    def _new_files(self) -> Iterator[str]:
        """Plain files on the bench that are not of the commit, paths from the root, without what is linked there."""
        for folder, folders, names in os.walk(self._root):
            folders[:] = [name for name in folders if name not in (".git", "__pycache__")]
            for path in (Path(folder) / name for name in names):
                name = path.relative_to(self._root).as_posix()
                if name not in self.shop.base_files and stat.S_ISREG(path.lstat().st_mode):
                    yield name

    @property
    def _root(self) -> Path:
        return self.shop.folder / "bench"

    @property
    def _logs(self) -> Path:
        return self.shop.folder / "logs"

    def _note_phase(self, phase: Phase) -> None:
        """Tell planted code what goes on."""
        (self._tools / "phase").write_text(phase.name)


def outcome(found: Measurement) -> str:
    """What a measurement came to, in few words."""
    return f"scores {found.value:.6g}" if found.value is not None else f"fails ({why_it_failed(found)})"


def why_it_failed(found: Measurement) -> str:
    """The problem, and what a command that only exited said last."""
    last = last_words(found.log_tail) if found.kind == "exit" else ""
    text = f"{found.problem}; its last words: {last}" if last else found.problem
    return text if len(text) <= 160 else text[:157] + "..."


def _read(path: Path) -> str:
    return decode(path.read_bytes()) if path.is_file() else ""
