"""The templates: every folder of `templates/` and `examples/` that holds a spec, called by its name with dashes."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable
from pathlib import Path

from autoresearch_kit.core.errors import UsageError
from autoresearch_kit.core.names import PROGRAM_NAME, RESULTS_NAME, RUN_LOG, SPEC_NAME
from autoresearch_kit.core.specfile import load_spec
from autoresearch_kit.data import data_folder

BLANK = "blank"
"""The template for whoever names none."""
IGNORE_RULES = ".gitignore"
IGNORED = (RESULTS_NAME, RUN_LOG, "__pycache__/")
"""What git need not see in any project."""


def templates() -> dict[str, Path]:
    """Name and folder of every template, the starters first."""
    specs = [spec for root in ("templates", "examples") for spec in sorted(data_folder(root).glob(f"*/{SPEC_NAME}"))]
    return {spec.parent.name.replace("_", "-"): spec.parent for spec in specs}


def find_template(name: str) -> Path:
    """The folder of a template, called as its name or its folder; UsageError with the nearest name, or all of them."""
    known, name = templates(), name.replace("_", "-")
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1)
        meant = f"did you mean `{near[0]}`? " if near else ""
        raise UsageError(f"there is no template `{name}`", f"{meant}known: {', '.join(known)}")
    return known[name]


def describe(source: Path) -> str:
    """A template in one line: the first sentence of its goal."""
    return re.split(r"[.;:](?:\s|$)", " ".join(load_spec(source / SPEC_NAME).goal.split()), maxsplit=1)[0]


def files_of(source: Path) -> list[Path]:
    """What a template consists of, as paths in it; the program is rendered, and ignore rules are kept apart."""
    made = (*IGNORED, *ignore_rules(source))
    found = (path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file() and not path.is_symlink())
    return [path for path in found if str(path) != PROGRAM_NAME and not _is_waste(path.parts, made)]


def ignore_rules(source: Path) -> list[str]:
    """The lines of a template's own ignore rules."""
    path = source / IGNORE_RULES
    return path.read_text(encoding="utf-8").split() if path.is_file() else []


def _is_waste(parts: Iterable[str], rules: Iterable[str]) -> bool:
    """In a checkout somebody may have run the example, or tools over it."""
    names = [rule.rstrip("/") for rule in rules]
    return any(part.startswith(".") or any(fnmatch.fnmatchcase(part, name) for name in names) for part in parts)
