"""One table put into TOML, or taken out again; everything else stays as it is.

A table more at the end of the text is nearly always right, and changes nothing else. Where it is not (an inline table),
and for a table that somebody has edited, tomlkit does it, which keeps comments and formatting.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import MutableMapping, Sequence
from typing import Any, cast

from autoresearch_kit.install.text import Unreadable, newline_of


def read(text: str) -> Any:
    """What the text says. Unreadable when it is no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        number = int(line[1]) if line else text.count("\n") + 1
        raise Unreadable(str(error).partition(" (at")[0].lower(), number) from None
    except RecursionError:
        raise Unreadable("it is nested too deep", 1) from None


def put(text: str, path: Sequence[str], value: dict[str, Any]) -> str:
    """The text with the table `value` at `path`."""
    found = read(text)
    for depth, key in enumerate(path):
        if not isinstance(found, dict):
            raise Unreadable(f"`{'.'.join(path[:depth])}` is no table", 1)
        found = found.get(key, {} if depth < len(path) - 1 else None)
    if found is None:
        lead = newline_of(text) * (2 if text and not text.endswith("\n") else 1) if text.strip() else ""
        appended = text + lead + _block(path, value, newline_of(text))
        try:
            read(appended)
        except Unreadable:  # such as an inline table, to which nothing can be added from outside
            pass
        else:
            return appended
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        inner = cast(MutableMapping[str, Any], document)
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return document.as_string()
    except (TOMLKitError, KeyError):
        raise Unreadable(f"`{'.'.join(path[:-1])}` is nothing that a table can be added to", 1) from None


def drop(text: str, path: Sequence[str]) -> str:
    """The text without the table at `path`; as it is when there is none."""
    found = read(text)
    for key in path:
        if not isinstance(found, dict) or key not in found:
            return text
        found = found[key]
    block = _block(path, found, newline_of(text)) if isinstance(found, dict) else ""
    if block and block in text:
        before, _, after = text.partition(block)
        lead = newline_of(text)
        return (before[: -len(lead)] if before.endswith("\n" + lead) or before == lead else before) + after
    import tomlkit

    document = tomlkit.parse(text)
    inner = cast(MutableMapping[str, Any], document)
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return document.as_string()


def _block(path: Sequence[str], value: dict[str, Any], newline: str) -> str:
    """A table with its header. What JSON writes for strings, numbers and lists of them is TOML as well."""
    name = ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key) for key in path)
    lines = [f"[{name}]", *(f"{key} = {json.dumps(inner, ensure_ascii=False)}" for key, inner in value.items())]
    return newline.join(lines) + newline
