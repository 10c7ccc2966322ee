"""Which paths a list of patterns covers; the whole path must match, and case counts.

Paths and patterns are relative, with `/`, already normalised and without `..`. `*`, `?` and `[...]` stay within one
component, and match leading dots too; `**` as a whole component stands for any number of folders, none included; a
pattern that ends in `/` covers everything below. There is no escape character: `[*]` is a star.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Matcher:
    """Compiled patterns."""

    literals: tuple[str, ...]
    """The patterns without wildcards: names of single files."""
    roots: tuple[str, ...]
    """Folders below which every match lies, none inside another; `""` is the whole tree."""
    regex: re.Pattern[str]

    def matches(self, path: str) -> bool:
        return self.regex.fullmatch(path) is not None


def is_glob(pattern: str) -> bool:
    """Whether the pattern can cover more than the one path it spells."""
    return pattern.endswith("/") or any(sign in pattern for sign in "*?[")


def compile_globs(patterns: Sequence[str]) -> Matcher:
    literals = tuple(pattern for pattern in patterns if not is_glob(pattern))
    folders = {_root(pattern) for pattern in patterns}
    roots = tuple(
        sorted(f for f in folders if not any(f != o and f"{f}/".startswith(f"{o}/" if o else "") for o in folders))
    )
    return Matcher(literals, roots, re.compile("|".join(map(_translate, patterns)) or "(?!)"))


def _root(pattern: str) -> str:
    folders = pattern.split("/")[:-1]
    fixed = next((i for i, name in enumerate(folders) if is_glob(name)), len(folders))
    return "/".join(folders[:fixed])


def _translate(pattern: str) -> str:
    """Runs of components between `**`. All but the last may take their first match and never look back: the next `**`
    makes up for it. The same holds for the pieces between `*`, so no path can make a match slow."""
    if pattern.endswith("/"):
        pattern += "**"
    if pattern == "**" or pattern.endswith("/**"):
        pattern += "/*"
    runs: list[list[str]] = [[]]
    for name in pattern.split("/"):
        if name == "**":
            runs.append([])
        else:
            runs[-1].append(_component(name))
    first, *rest = runs
    if not rest:
        return "/".join(first)
    head = "".join(name + "/" for name in first)
    middle = "".join("(?>(?:[^/]+/)*?" + "".join(name + "/" for name in run) + ")" for run in rest[:-1] if run)
    return head + middle + "(?:[^/]+/)*" + "/".join(rest[-1])


def _component(name: str) -> str:
    first, *rest = (_piece(piece) for piece in _stars(name))
    if not rest:
        return first
    return first + "".join(f"(?>[^/]*?{piece})" for piece in rest[:-1] if piece) + "[^/]*" + rest[-1]


_TOKEN = re.compile(r"\[!?+\]?+[^\]]*\]|.", re.DOTALL)


def _stars(name: str) -> list[list[str]]:
    """The tokens of a component, cut at its stars; a `[` that is never closed is an ordinary character."""
    pieces: list[list[str]] = [[]]
    for token in _TOKEN.findall(name):
        if token == "*":
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces


def _piece(tokens: list[str]) -> str:
    return "".join("[^/]" if t == "?" else _class(t) if len(t) > 1 else re.escape(t) for t in tokens)


def _class(token: str) -> str:
    body = token[1:-1].removeprefix("!")
    items = ""
    for low, high, single in re.findall(r"(.)-(.)|(.)", body, re.DOTALL):
        if single:
            items += re.escape(single)
        elif low <= high:
            items += f"{re.escape(low)}-{re.escape(high)}"
    if token.startswith("[!"):
        return f"[^/{items}]"
    return f"(?!/)[{items}]" if items else "(?!)"
