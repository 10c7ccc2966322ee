"""What a look at a folder of code suggests: how it is run, which number it prints, and which file changes.

Guesses are only ever shown, as the default of a question or in a hint; nobody's night depends on one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

SCRIPTS = ("train", "main", "run", "bench", "benchmark", "experiment")
STARTERS = {".py": "python3", ".sh": "sh", ".js": "node", ".rb": "ruby", ".jl": "julia", ".R": "Rscript"}
TARGETS = ("train", "bench", "benchmark", "run")
ENVIRONMENTS = (".venv", "venv")
MAX_BYTES = 1_000_000
MAX_SCRIPTS = 100
_HIGHER = re.compile(
    r"acc|score|f1|auc|bleu|rouge|reward|precision|recall|speedup|throughput|gain|win|hits|r2|per_s|flops|gb_s|tokens"
)
_PRINTED = re.compile(r"""["'\n]\s*([A-Za-z_][A-Za-z0-9_./-]*)\s*[:=]\s*(?:\{|%|["']\s*[,+.]|\$)""")


@dataclass(frozen=True, slots=True)
class Own:
    """What a spec needs at least, as far as it is known; empty means not known."""

    run_command: str = ""
    """The experiment."""
    metric: str = ""
    """The number that decides."""
    direction: str = ""
    """`minimize` or `maximize`."""
    mutable: tuple[str, ...] = ()
    """Files that may change."""
    eval_command: str = ""
    """Prints the metric after the run; optional."""

    @property
    def missing(self) -> list[str]:
        """The options that nobody has given, by their names on the command line."""
        needed = {"run": self.run_command, "metric": self.metric, "direction": self.direction, "mutable": self.mutable}
        return [f"--{name}" for name, value in needed.items() if not value]

    def values(self, folder: Path) -> dict[str, Any]:
        """As keys of the spec."""
        values: dict[str, Any] = {
            "metric": self.metric,
            "metric_direction": self.direction,
            "mutable_files": list(self.mutable),
            "run_command": self.run_command,
        }
        if self.eval_command:
            values["eval_command"] = self.eval_command
        # A virtual environment is no part of a commit, and a bench is one: it has to be shared.
        words = _words(f"{self.run_command} {self.eval_command}")
        links = [
            name for name in ENVIRONMENTS if (folder / name).is_dir() and any(w.startswith(f"{name}/") for w in words)
        ]
        if links:
            values["link"] = links
        return values

    def options(self) -> str:
        """As words of a command line, with a placeholder for what is not known."""
        found = ["--run", self.run_command or "CMD", "--metric", self.metric or "NAME"]
        found += ["--direction", self.direction or "minimize"]
        for name in self.mutable or ("FILE",):
            found += ["--mutable", name]
        if self.eval_command:
            found += ["--eval", self.eval_command]
        return shlex.join(found)


def guess(folder: Path, known: Own) -> Own:
    """What is `known`, and for the rest what the files in `folder` suggest."""
    run = known.run_command or _run_command(folder)
    named = tuple(name for name in _named(folder, run) if Path(name).suffix in STARTERS)
    texts = "\n".join(_text(folder / name) for name in (*named, *_words(known.eval_command)))
    printed = _PRINTED.findall(texts)
    metric = known.metric or next((name for name in printed if _is_telling(name)), printed[-1] if printed else "")
    direction = known.direction or ("" if not metric else "maximize" if _HIGHER.search(metric.lower()) else "minimize")
    mutable = known.mutable or tuple(name for script in named for name in _changing(folder, script))
    return replace(known, run_command=run, metric=metric, direction=direction, mutable=mutable)


def needed(folder: Path, line: str) -> list[str]:
    """Files in `folder` that a command line names, and those that Python scripts among them import."""
    named = _named(folder, line)
    return list(dict.fromkeys([*named, *(other for name in named for other in imported(folder, name))]))


def imported(folder: Path, script: str) -> list[str]:
    """Files in `folder` that a Python script imports, directly or not; none when it cannot be read."""
    if not script.endswith(".py"):
        return []
    folder = folder.absolute()
    # Python looks beside the script; the folder counts for what a PYTHONPATH adds.
    finder = ModuleFinder(path=[str((folder / script).parent), str(folder)])
    try:
        finder.run_script(str(folder / script))  # which reads it and runs nothing
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    files = {Path(getattr(module, "__file__", None) or "/") for module in finder.modules.values()} - {folder / script}
    return sorted(str(path.relative_to(folder)) for path in files if path.is_relative_to(folder))


def _named(folder: Path, line: str) -> list[str]:
    return [word for word in _words(line) if not Path(word).is_absolute() and (folder / word).is_file()]


def _changing(folder: Path, script: str) -> list[str]:
    """What changes is the training script itself, by custom; any other one judges what it imports, if it does."""
    judged = [] if Path(script).stem.startswith("train") else imported(folder, script)
    return judged or [script]


def _is_telling(name: str) -> bool:
    return bool(
        _HIGHER.search(name.lower()) or re.search(r"loss|bpb|err|mse|mae|perplex|time|seconds|_ms|cost", name.lower())
    )


def _run_command(folder: Path) -> str:
    python = next(
        (f"{name}/bin/python" for name in ENVIRONMENTS if (folder / name / "bin" / "python").exists()), "python3"
    )
    scripts = [path for path in sorted(folder.glob("*")) if path.suffix in STARTERS and path.is_file()]
    known = [path for stem in SCRIPTS for path in scripts if path.stem == stem]
    for path in known or _tops(folder, scripts):
        starter = python if path.suffix == ".py" else STARTERS[path.suffix]
        return shlex.join([starter, path.name])
    makefile = _text(folder / "Makefile")
    for target in TARGETS:
        if re.search(rf"^{target}\s*:", makefile, re.M):
            return f"make {target}"
    return "cargo run --release" if (folder / "Cargo.toml").is_file() else ""


def _tops(folder: Path, scripts: list[Path]) -> Iterator[Path]:
    """The one script that no other imports, or of several such the one that prints a number."""
    if len(scripts) <= MAX_SCRIPTS:
        parts = {name for path in scripts for name in imported(folder, path.name)}
        tops = [path for path in scripts if path.name not in parts]
        for found in (tops, [path for path in tops if _PRINTED.search(_text(path))]):
            if len(found) == 1:
                yield found[0]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return []


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
