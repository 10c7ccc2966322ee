"""The agent that needs no model: it turns the spec's tunables with Optuna, and never proposes a combination twice.

Two sides share this file. `SearchAgent` is the engine's: it starts the program once per run and asks it for each
attempt. `python -m autoresearch_kit.agents.search` is the program: JSON lines in, one JSON line out for each turn,
until its standard input ends. Only the program imports Optuna, which takes a good part of a second.

What it knows is what it is told: the history of the ledger. Attempts whose parameters are missing, or lie outside the
present ranges, are skipped. A crash is a PRUNED trial: TPE ranks those behind every measured value and invents none.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.tunables import Tunable, Value, keys, read, write

if TYPE_CHECKING:
    import optuna

STARTUP = 10  # measured combinations before TPE has enough to go by; 3 and 5 were no better on four toy problems
RETRIES = 20  # draws of TPE, and then of chance, before what is left is enumerated
ENUMERABLE = 1_000_000  # larger spaces are never used up in practice
TITLE = 100  # characters


class SearchAgent:
    """The engine's side: one program for a whole run."""

    name = "search"

    def __init__(
        self,
        tunables: Sequence[Tunable],
        direction: str,
        seed: int,
        *,
        python: str = sys.executable,
        log: Path | None = None,
    ) -> None:
        """Start the program and return at once, so that its imports overlap with the baseline."""
        self._lock = threading.Lock()
        self._sent: set[int] = set()
        self._stderr: IO[bytes] = log.open("w+b") if log else tempfile.TemporaryFile()  # noqa: SIM115
        # -P: a module of the user's folder must not stand in for one of ours.
        self._process = subprocess.Popen(
            [python, "-P", "-m", "autoresearch_kit.agents.search"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
        )
        first = {
            "tunables": [tunable.model_dump(exclude_defaults=True) for tunable in tunables],
            "direction": direction,
            "seed": seed,
            # The kernel would kill the program when the thread that started it ends, not only with the process.
            "die_with_parent": threading.current_thread() is threading.main_thread(),
        }
        with contextlib.suppress(OSError):  # a program that is dead already is reported by `propose`
            self._send(first)

    def propose(self, folder: Path, history: Sequence[Mapping[str, Any]]) -> tuple[str, str] | str:
        """Edit the files in the folder, and give title and reason; or a sentence when there is nothing left to propose.

        The history may be whole or only what is new: each attempt is told once, by its number.
        """
        with self._lock:
            new = [attempt for attempt in history if attempt["number"] not in self._sent]
            try:
                self._send({"folder": str(folder), "history": new})
                line = self._process.stdout.readline() if self._process.stdout else b""
            except OSError:
                line = b""
            if not line.endswith(b"\n"):
                raise ArkError(f"the search program ended: {self._last_words()}")
            self._sent.update(attempt["number"] for attempt in new)
        answer = json.loads(line)
        if "error" in answer:
            raise ArkError(answer["error"], answer.get("hint", ""))
        return str(answer["finished"]) if "finished" in answer else (answer["title"], answer["why"])

    def close(self) -> None:
        """End the program; also fine when it has ended."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - 4000))
        lines = self._stderr.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "") or (
            f"exit code {self._process.returncode}, and it said nothing"
        )


class Axis:
    """One tunable as Optuna sees it: a place on a grid, or a number.

    Choices and stepped ranges are indices, so that 1, 1.0 and true stay apart and 0.1 + 0.2 is never written.
    """

    def __init__(self, tunable: Tunable) -> None:
        self.tunable = tunable
        self.grid: list[Value] | None = None
        if tunable.choices is not None:
            self.grid = list(tunable.choices)
            return
        assert tunable.low is not None and tunable.high is not None
        self.low, self.high = tunable.low, tunable.high
        if tunable.step is not None:
            low, step = Decimal(str(self.low)), Decimal(str(tunable.step))
            count = int((Decimal(str(self.high)) - low) // step) + 1
            self.grid = [tunable.canonical(float(low + step * k)) for k in range(count)]

    def distribution(self) -> optuna.distributions.BaseDistribution:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.grid is not None:
            if self.tunable.choices is None:
                return IntDistribution(0, len(self.grid) - 1)
            # Ordered choices as whole numbers were no better: a little slower to begin, the same in the end.
            return CategoricalDistribution(list(range(len(self.grid))))
        if self.tunable.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.tunable.log)
        return FloatDistribution(float(self.low), float(self.high), log=self.tunable.log)

    def value(self, drawn: float) -> Value:
        """What is written for a draw; floats get the digits that can matter and no more."""
        if self.grid is not None:
            return self.grid[int(drawn)]
        if self.tunable.whole:
            return int(drawn)
        wide = self.tunable.log and self.high >= 2 * self.low
        digits = 3 - math.floor(math.log10(drawn)) if wide else 4 - math.floor(math.log10(self.high - self.low))
        return min(max(round(float(drawn), digits), float(self.low)), float(self.high))

    def draw(self, value: Value) -> float | None:
        """The draw that gives the value; None when it lies outside the present range."""
        if self.grid is not None:
            found = [index for index, other in enumerate(self.grid) if type(other) is type(value) and other == value]
            return found[0] if found else None
        if not isinstance(value, int | float) or isinstance(value, bool) or not self.low <= value <= self.high:
            return None
        return value if isinstance(value, int) or not self.tunable.whole else None

    def random(self, rng: random.Random) -> Value:
        if self.grid is not None:
            return rng.choice(self.grid)
        if self.tunable.log:
            drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
            return self.value(min(max(round(drawn) if self.tunable.whole else drawn, self.low), self.high))
        return (
            rng.randint(int(self.low), int(self.high))
            if self.tunable.whole
            else self.value(rng.uniform(self.low, self.high))
        )

    @property
    def size(self) -> float:
        if self.grid is not None:
            return len(self.grid)
        return int(self.high) - int(self.low) + 1 if self.tunable.whole else math.inf

    def all(self) -> Sequence[Value]:
        return self.grid if self.grid is not None else range(int(self.low), int(self.high) + 1)


Combination = tuple[tuple[str, Value], ...]
"""Values with the names of their types, because 1, 1.0 and true are equal to Python."""


class Search:
    """The program's side, without its pipes: a study that is told the history and asked for what is new."""

    def __init__(self, tunables: Sequence[Tunable], direction: Literal["minimize", "maximize"], seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.axes = dict(zip(keys(tunables), map(Axis, tunables), strict=True))
        self.distributions = {key: axis.distribution() for key, axis in self.axes.items()}
        self.size = math.prod(axis.size for axis in self.axes.values())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna 4 calls two of these experimental
            # One by one instead of multivariate, the gain over chance was 10 to 64 % smaller on four toy problems.
            sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=True
            )
        self.study = optuna.create_study(direction=direction, sampler=sampler)
        self.rng = random.Random(seed)
        self.told = 0
        self.measured: set[Combination] = set()
        self.proposed: dict[Combination, optuna.Trial | None] = {}

    def tell(self, attempt: Mapping[str, Any]) -> None:
        """Learn from one attempt of the ledger."""
        import optuna
        from optuna.trial import TrialState

        parameters = attempt.get("parameters") or {}
        outcome, value = attempt.get("outcome"), attempt.get("value")
        if outcome not in ("keep", "discard", "crash", "lost") or not all(key in parameters for key in self.axes):
            return
        values = {key: axis.tunable.canonical(parameters[key]) for key, axis in self.axes.items()}
        combination = _combination(values.values())
        trial = self.proposed.pop(combination, None)
        if outcome == "lost":
            if trial is not None:
                self.study.tell(trial, state=TrialState.FAIL)
            return
        self.measured.add(combination)
        good = outcome != "crash" and isinstance(value, int | float) and math.isfinite(value)
        state = TrialState.COMPLETE if good else TrialState.PRUNED
        if trial is not None:
            self.study.tell(trial, value if good else None, state=state)
        else:
            draws = {key: axis.draw(values[key]) for key, axis in self.axes.items()}
            if any(draw is None for draw in draws.values()):
                return
            self.study.add_trial(
                optuna.trial.create_trial(
                    state=state, value=value if good else None, params=draws, distributions=self.distributions
                )
            )
        self.told += 1

    def ask(self, current: Mapping[str, Value]) -> tuple[dict[str, Value], str] | None:
        """A combination that was not measured and is not the current one, and why; None when there is none left."""
        from optuna.trial import TrialState

        avoid = {*self.measured, *self.proposed, _combination(current.values())}
        for _ in range(RETRIES):
            trial = self.study.ask(self.distributions)
            values = {key: axis.value(trial.params[key]) for key, axis in self.axes.items()}
            combination = _combination(values.values())
            if combination not in avoid:
                self.proposed[combination] = trial
                if self.told < STARTUP:
                    return values, f"random start-up proposal, with {self.told} of {STARTUP} combinations measured"
                return values, f"TPE proposal from {self.told} measured combinations"
            self.study.tell(trial, state=TrialState.FAIL)
        for values in self._others(avoid):
            self.proposed[_combination(values.values())] = None
            return values, f"random proposal, as TPE gave measured combinations {RETRIES} times"
        return None

    def _others(self, avoid: set[Combination]) -> Iterator[dict[str, Value]]:
        for _ in range(RETRIES):
            values = {key: axis.random(self.rng) for key, axis in self.axes.items()}
            if _combination(values.values()) not in avoid:
                yield values
        if self.size <= ENUMERABLE:
            everything = itertools.product(*(axis.all() for axis in self.axes.values()))
            left = [values for values in everything if _combination(values) not in avoid]
            if left:
                yield dict(zip(self.axes, self.rng.choice(left), strict=True))

    def turn(self, folder: Path, history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """One line of the protocol: learn, propose, edit the files."""
        for attempt in history:
            self.tell(attempt)
        files = {name: _read_file(folder, name) for name in {axis.tunable.file for axis in self.axes.values()}}
        current = {key: read(files[axis.tunable.file], axis.tunable) for key, axis in self.axes.items()}
        asked = self.ask(current)
        if asked is None:
            return {"finished": f"all {self.size} combinations have been measured"}
        values, why = asked
        texts = dict(files)
        for key, axis in self.axes.items():
            texts[axis.tunable.file] = write(texts[axis.tunable.file], axis.tunable, values[key])
        for name, text in texts.items():
            if text != files[name]:
                (folder / name).write_bytes(text.encode())
        return {"title": title(current, values), "why": why}


def title(current: Mapping[str, Value], values: Mapping[str, Value]) -> str:
    """What changes, in one short line."""
    changes = [f"{key} {current[key]} -> {new}" for key, new in values.items() if not _same(current[key], new)]
    shown = len(changes)
    while shown > 1 and len(_joined(changes, shown)) > TITLE:
        shown -= 1
    return _joined(changes, shown)


def _joined(changes: list[str], shown: int) -> str:
    more = len(changes) - shown
    return ", ".join(changes[:shown]) + (f" and {more} more" if more else "")


def _same(one: Value, other: Value) -> bool:
    return type(one) is type(other) and one == other


def _combination(values: Any) -> Combination:
    return tuple((type(value).__name__, value) for value in values)


def _read_file(folder: Path, name: str) -> str:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise ArkError(f"{name}, which holds tunables, is not a plain file")
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ArkError(f"{name}, which holds tunables, is not UTF-8") from error


def main() -> None:
    """The program: a line in, a line out, until the engine is gone."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    first = json.loads(sys.stdin.readline() or "null")
    if first is None:
        return
    if first.get("die_with_parent") and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    search = Search([Tunable(**fields) for fields in first["tunables"]], first["direction"], first["seed"])
    for line in sys.stdin:
        message = json.loads(line)
        try:
            answer = search.turn(Path(message["folder"]), message["history"])
        except ArkError as error:
            answer = {"error": error.message, "hint": error.hint}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        main()
