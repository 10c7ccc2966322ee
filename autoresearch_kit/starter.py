"""New projects for `ark init`: the complete examples, and a blank one made from the spec's own fields."""

from __future__ import annotations

import contextlib
import os
import shutil
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from autoresearch_kit.agents.brief import render_program, write_text
from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.names import PROGRAM_NAME, RESULTS_NAME, RUN_LOG, SPEC_NAME
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.core.specfile import load_spec
from autoresearch_kit.data import data_folder
from autoresearch_kit.ledger.git import commit_new_files, refuse_bare

BLANK = "blank"
IGNORED = [RESULTS_NAME, RUN_LOG, "__pycache__/"]
_BLANK_VALUES = {
    "mutable_files": '["solution.py"]',
    "immutable_files": '["evaluate.py"]',
    "metric": '"error"',
    "metric_direction": '"minimize"',
    "run_command": '"python3 solution.py > answer.txt"',
    "eval_command": '"python3 evaluate.py"',
    "artifacts": '["answer.txt"]',
    "tunables": "[{file: solution.py, name: STEPS, low: 1, high: 60}]",
}


def templates() -> dict[str, Path]:
    """Name and folder of every template; examples are called by their folder with dashes."""
    found = {BLANK: data_folder("templates") / BLANK}
    for spec in sorted(data_folder("examples").glob(f"*/{SPEC_NAME}")):
        found[spec.parent.name.replace("_", "-")] = spec.parent
    return found


def start_project(folder: Path, template: str) -> tuple[list[str], str]:
    """Make a project in `folder` and commit it; ArkError when something is in the way, and then nothing is left there.

    Returns the files made, and the author that `ark` had to make up where git knows none (else empty).
    """
    known = templates()
    if template not in known:
        raise UsageError(f"there is no template `{template}`", f"known: {', '.join(known)}")
    source = known[template]
    names = [p.relative_to(source) for p in sorted(source.rglob("*")) if p.is_file() and not _is_waste(p, source)]
    wanted = {*names, Path(SPEC_NAME), Path(PROGRAM_NAME)}
    refuse_bare(folder)
    in_the_way = sorted(str(name) for name in wanted if os.path.lexists(folder / name))
    if in_the_way:
        raise ArkError(f"{folder} holds already: {', '.join(in_the_way)}", "give another folder, or move them away")
    if not os.path.lexists(folder / ".gitignore"):  # an existing one is the user's
        wanted.add(Path(".gitignore"))
    made = sorted(str(name) for name in wanted)
    new_folders = _missing(folder, wanted)
    had_git = os.path.lexists(folder / ".git")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, folder / name)
        if template == BLANK:
            write_text(folder / SPEC_NAME, blank_spec(folder.resolve().name))
        write_text(folder / PROGRAM_NAME, render_program(load_spec(folder / SPEC_NAME)))
        if ".gitignore" in made:
            write_text(folder / ".gitignore", "\n".join(IGNORED) + "\n")
        return made, commit_new_files(folder, made, "Start a project of ark")
    except BaseException as error:
        for path in made:
            with contextlib.suppress(OSError):
                (folder / path).unlink()
        if not had_git:
            shutil.rmtree(folder / ".git", ignore_errors=True)
        for place in new_folders:
            with contextlib.suppress(OSError):  # one that holds something else stays
                place.rmdir()
        if isinstance(error, OSError):
            raise ArkError(f"{folder} cannot be written: {error.strerror}") from None
        raise


def _missing(folder: Path, names: Iterable[Path]) -> list[Path]:
    """Folders that must be made for `names`, the deepest first."""
    places = {place for name in names for place in (folder.absolute() / name).parents}
    return sorted((place for place in places if not os.path.lexists(place)), key=lambda p: len(p.parts), reverse=True)


def _is_waste(path: Path, source: Path) -> bool:
    parts = path.relative_to(source).parts
    return bool({"__pycache__", "build", ".ark"} & set(parts)) or path.name in (RESULTS_NAME, RUN_LOG)


def blank_spec(name: str) -> str:
    """A spec with every key: those that most people set, and all others as comments with their defaults."""
    lines = [
        "# What may change, how to run it, how to measure it, and for how long: `ark check` reads this for you.",
        "",
    ]
    optional = False
    for key, field in Spec.model_fields.items():
        if key == "goal":
            lines += ["", "# All keys below are optional; each line shows the default, or else an example.", ""]
            optional = True
        lines += [f"# {line}" for line in textwrap.wrap(field.description or "", 110)]
        value = f'"{name}"' if key == "name" else _BLANK_VALUES.get(key) or _shown_default(field)
        commented = optional and key not in _BLANK_VALUES
        lines.append(f"{'# ' if commented else ''}{key}: {value}")
    return "\n".join(lines) + "\n"


def _shown_default(field: Any) -> str:
    if field.default is PydanticUndefined or field.default is None:
        return str((field.examples or ["null"])[0])
    return yaml_value(field.default)


def yaml_value(value: Any) -> str:
    """A default as it stands in YAML, on one line."""
    if isinstance(value, BaseModel):
        inner = {k: v for k, v in value.model_dump().items() if v is not None}
        return "{" + ", ".join(f"{k}: {yaml_value(v)}" for k, v in inner.items()) + "}"
    if isinstance(value, list | dict):
        return "[]" if isinstance(value, list) else "{}"
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:g}" if isinstance(value, float) else str(value)
