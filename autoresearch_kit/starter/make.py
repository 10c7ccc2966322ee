"""Making a project: all of it or nothing, and nothing of what was there before is touched.

Files are only ever created, the spec as the first one: whoever finds it there has lost a race and undoes nothing. An
existing `.gitignore` is the user's and stays as it is, to the byte.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch_kit.agents.brief import render_program
from autoresearch_kit.core.errors import ArkError, SpecError, UsageError
from autoresearch_kit.core.globs import is_glob
from autoresearch_kit.core.names import PROGRAM_NAME, SPEC_NAME
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.core.specfile import parse_spec
from autoresearch_kit.ledger.first_commit import commit_new_files, refuse_repository
from autoresearch_kit.ledger.git import unwritable
from autoresearch_kit.project import with_name
from autoresearch_kit.serve.place import refuse_desk
from autoresearch_kit.starter.catalog import IGNORE_RULES, IGNORED, files_of, find_template, ignore_rules
from autoresearch_kit.starter.guess import Own
from autoresearch_kit.starter.text import complete, own_spec


@dataclass(frozen=True, slots=True)
class Started:
    """A project that was just made."""

    spec: Spec
    """What it is about."""
    made: list[str]
    """The files, all of them committed."""
    author: str
    """Who the author is where git knows nobody and `ark` had to step in, else empty."""
    worth_ignoring: list[str]
    """Lines that the user's own ignore rules lack."""


def refuse_place(folder: Path) -> None:
    """ArkError where no project can be started, whatever it is made from."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise ArkError(f"{folder} is not a folder", "give another name")
    refuse_desk(folder)
    refuse_repository(folder)


def refuse_what_is_there(folder: Path, names: Iterable[str] = (SPEC_NAME, PROGRAM_NAME)) -> None:
    """ArkError with the list of those of the names that the folder has already."""
    if in_the_way := sorted(name for name in names if os.path.lexists(folder / name)):
        raise _in_the_way(folder, in_the_way)


def start_project(folder: Path, template: str) -> Started:
    """Make a project in `folder` from a template and commit it; ArkError when something is in the way."""
    source = find_template(template)
    text = complete((source / SPEC_NAME).read_text(encoding="utf-8"), _name(folder))
    files = {str(path): source / path for path in files_of(source) if str(path) != SPEC_NAME}
    return _make(folder, text, source, files, [*ignore_rules(source), *IGNORED])


def start_own(folder: Path, own: Own) -> Started:
    """Make the code in `folder` a project: write and commit its spec and program."""
    for name in own.mutable:
        if not is_glob(name) and not name.endswith("/") and not (folder / name).is_file():
            raise UsageError(f"`{name}` is not a file in {folder}", _nearest_file(folder, name))
    return _make(folder, own_spec(own.values(folder), _name(folder)), folder, {}, IGNORED)


def _name(folder: Path) -> str:
    return folder.resolve().name


def _nearest_file(folder: Path, name: str) -> str:
    there = [path.name for path in folder.glob("*") if path.is_file()] if folder.is_dir() else []
    near = difflib.get_close_matches(name, there, n=1)
    return f"did you mean `{near[0]}`?" if near else "give files by their paths from that folder"


def _make(folder: Path, text: str, source: Path, files: Mapping[str, Path], ignored: Iterable[str]) -> Started:
    """Write spec, program, ignore rules and copies of `files` into `folder`, and commit them."""
    refuse_place(folder)
    try:
        spec = with_name(parse_spec(text), folder / SPEC_NAME)
    except SpecError as error:  # of a spec that nobody will ever see
        problems = [re.sub(r"^[^:]*:\d+: ", "", problem) for problem in error.problems]
        raise UsageError("\n".join(problems)) from None
    contents = {SPEC_NAME: text.encode(), PROGRAM_NAME: render_program(spec, source).encode()}
    refuse_what_is_there(folder, [*contents, *files])
    rules = list(dict.fromkeys(ignored))
    lacking = _lacking(folder / IGNORE_RULES, rules)
    if lacking is None:
        contents[IGNORE_RULES] = "".join(f"{rule}\n" for rule in rules).encode()
    try:
        with contextlib.ExitStack() as undo:
            for name, data in contents.items():
                _create(folder, name, data, undo)
            for name, path in files.items():
                _create(folder, name, path.read_bytes(), undo, executable=os.access(path, os.X_OK))
            if not os.path.lexists(folder / ".git"):
                undo.callback(shutil.rmtree, folder / ".git", ignore_errors=True)
            made = sorted({*contents, *files})
            author = commit_new_files(folder, made, f"Start {spec.name}, a project of ark", undo.pop_all)
    except FileExistsError as error:  # somebody was quicker
        raise _in_the_way(folder, [os.path.relpath(error.filename, folder)]) from None
    except OSError as error:
        raise unwritable(folder, error, otherwise="") from None
    return Started(spec, made, author, lacking or [])


def _in_the_way(folder: Path, names: Sequence[str]) -> ArkError:
    return ArkError(f"{folder} holds already: {', '.join(names)}", "give another folder, or move them away")


def _lacking(path: Path, rules: Sequence[str]) -> list[str] | None:
    """Those of the rules that the file does not have; None when there is no such file."""
    if not os.path.lexists(path):
        return None
    try:
        lines = path.read_bytes().decode("utf-8", "replace").split()
    except OSError:
        lines = []
    return [rule for rule in rules if rule not in lines]


def _create(folder: Path, name: str, data: bytes, undo: contextlib.ExitStack, executable: bool = False) -> None:
    """Write a new file, its folders too; FileExistsError when there is one."""
    path = folder.absolute() / name
    for place in reversed([path.parent, *path.parent.parents]):
        if not os.path.lexists(place):
            with contextlib.suppress(FileExistsError):
                place.mkdir()
                undo.callback(_quietly, place.rmdir)  # which leaves one that holds something else
    with path.open("xb") as file:
        undo.callback(_quietly, path.unlink)
        file.write(data)
    if executable:  # other bits of a template may be those of a read-only installation
        path.chmod(path.stat().st_mode | 0o111)


def _quietly(action: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        action()
