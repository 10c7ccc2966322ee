"""One item put into a list in YAML, or taken out again, by editing the text: everything else stays as it is.

The list is the value of a key at the top; it may also be a single string, or missing.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

from autoresearch_kit.install.text import Unreadable, newline_of


def read(text: str) -> Any:
    """What the text says. Unreadable when it is no YAML, or not a mapping."""
    try:
        found = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Unreadable(str(error.problem or "it cannot be parsed"), line) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Unreadable(f"it cannot be parsed ({type(error).__name__})", 1) from None
    if found is not None and not isinstance(found, dict):
        raise Unreadable("the whole is no mapping", 1)
    return found or {}


def items(text: str, key: str) -> list[Any]:
    """What is in the list."""
    found = read(text).get(key)
    return [] if found is None else found if isinstance(found, list) else [found]


def put(text: str, key: str, item: str) -> str:
    """The text with `item` at the end of the list."""
    if item in items(text, key):
        return text
    newline, word = newline_of(text), json.dumps(item, ensure_ascii=False)
    pair = _pair(text, key)
    if pair is None:
        root = _root(text)
        if root is not None and root.flow_style:
            place = root.end_mark.index - 1
            comma = ", " if root.value else ""
            return f"{text[:place].rstrip()}{comma}{key}: [{word}]{text[place:]}"
        lead = newline if text and not text.endswith("\n") else ""
        return f"{text}{lead}{key}:{newline}  - {word}{newline}"
    value = pair[1]
    start, end = value.start_mark.index, value.end_mark.index
    if isinstance(value, yaml.ScalarNode):
        if value.style in ("|", ">"):
            raise Unreadable(f"`{key}` is a block of text; write it as a list", value.start_mark.line + 1)
        old = f"{text[start:end]}, " if text[start:end].strip() and value.tag != "tag:yaml.org,2002:null" else ""
        lead = "" if text[:start].endswith((" ", "\t")) else " "
        return f"{text[:start]}{lead}[{old}{word}]{text[end:]}"
    if not isinstance(value, yaml.SequenceNode):
        raise Unreadable(f"`{key}` is no list", value.start_mark.line + 1)
    if value.flow_style:
        close = end - 1
        comma = ", " if value.value and not text[:close].rstrip().endswith(",") else ""
        return f"{text[:close].rstrip()}{comma}{word}{text[close:]}"
    last = value.value[-1].end_mark.index
    rest = text[last:].partition("\n")
    place = last if text[:last].endswith("\n") else last + len(rest[0]) + len(rest[1])
    lead = "" if text[:place].endswith("\n") else newline
    return f"{text[:place]}{lead}{' ' * value.start_mark.column}- {word}{newline}{text[place:]}"


def drop(text: str, key: str, item: str) -> str:
    """The text without `item`; with the last one the key goes as well. As it is when nothing is there."""
    pair = _pair(text, key) if item in items(text, key) else None
    if pair is None:
        return text
    name, value = pair
    if isinstance(value, yaml.ScalarNode) or len(value.value) == 1:
        return _without_pair(text, name, value)
    index = next(i for i, node in enumerate(value.value) if node.value == item)
    node = value.value[index]
    if value.flow_style:
        if index:
            return text[: value.value[index - 1].end_mark.index] + text[node.end_mark.index :]
        return text[: node.start_mark.index] + text[value.value[1].start_mark.index :]
    return _without_lines(text, node.start_mark.index, node.end_mark.index)


def _without_pair(text: str, name: yaml.Node, value: yaml.Node) -> str:
    root = _root(text)
    if root is None or not root.flow_style:
        return _without_lines(text, name.start_mark.index, value.end_mark.index)
    before = text[: name.start_mark.index].rstrip()
    after = text[value.end_mark.index :]
    if before.endswith(","):
        return before[:-1] + after
    return before + after.lstrip().removeprefix(",").lstrip()


def _without_lines(text: str, start: int, end: int) -> str:
    """The text without the lines of this part; block collections end where the next thing begins."""
    start = text.rfind("\n", 0, start) + 1
    end = start + len(text[start:end].rstrip())
    return text[:start] + text[end:].partition("\n")[2]


def _root(text: str) -> yaml.MappingNode | None:
    root = yaml.compose(text, yaml.SafeLoader)
    return root if isinstance(root, yaml.MappingNode) else None


def _pair(text: str, key: str) -> tuple[yaml.Node, Any] | None:
    root = _root(text)
    found = [pair for pair in root.value if pair[0].value == key] if root is not None else []
    if len(found) > 1:
        raise Unreadable(f"`{key}` is there twice", found[1][0].start_mark.line + 1)
    return found[0] if found else None
