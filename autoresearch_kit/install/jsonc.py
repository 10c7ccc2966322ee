"""One entry put into JSON with comments, or taken out again, by editing the text: everything else stays as it is.

Comments and trailing commas are read, because people's configurations have them, and neither is ever added where
there was none. No library that is still looked after edits such a text in place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from autoresearch_kit.install.text import Unreadable, newline_of

_BLANK = re.compile(r"[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/", re.S)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_LITERAL = re.compile(r"[^\s,\[\]{}:\"/]+")
_SPACE = " \t\r\n"
MAX_DEPTH = 200


@dataclass(frozen=True, slots=True)
class _Node:
    """A value and where it stands."""

    start: int
    end: int
    value: Any
    """Objects and lists as Python has them; numbers and literals as they are written."""
    members: list[_Member] = field(default_factory=list)
    """Of an object, in the order of the text."""


@dataclass(frozen=True, slots=True)
class _Member:
    key: str
    start: int
    node: _Node
    comma: int
    """Where the comma after it is; -1 without one."""


def read(text: str) -> Any:
    """What the text says, to compare with: numbers and literals as they are written. Unreadable when it is no JSON."""
    return _parse(text).value if text.strip() else {}


def put(text: str, path: Sequence[str], value: dict[str, Any]) -> str:
    """The text with `value` at `path`, whose objects are made where they are missing."""
    newline = newline_of(text)
    if not text.strip():
        whole: Any = value
        for key in reversed(path):
            whole = {key: whole}
        return _dump(whole, "", "  ", newline) + newline
    node = root = _object(_parse(text), text, ())
    for depth, key in enumerate(path):
        member = _find(node, key, text)
        if member is None:
            for inner in reversed(path[depth + 1 :]):
                value = {inner: value}
            return _insert(text, node, key, value, _unit(text, root), newline)
        if depth < len(path) - 1:
            node = _object(member.node, text, path[: depth + 1])
    assert member is not None
    indent = _indent(text, member.start)
    return text[: member.node.start] + _dump(value, indent, _unit(text, root), newline) + text[member.node.end :]


def drop(text: str, path: Sequence[str]) -> str:
    """The text without what is at `path`; as it is when nothing is there."""
    if not text.strip():
        return text
    node = _parse(text)
    for key in path[:-1]:
        member = _find(node, key, text)
        if member is None:
            return text
        node = member.node
    index = next((i for i, member in enumerate(node.members) if member.key == path[-1]), None)
    if index is None:
        return text
    gone = node.members[index]
    start = len(text[: gone.start].rstrip(_SPACE))
    end = gone.comma + 1 if gone.comma >= 0 else gone.node.end
    before = text[:start]
    if gone.comma < 0 and index:
        comma = node.members[index - 1].comma
        before = before[:comma] + before[comma + 1 :]
    inner, outer = before[node.start + 1 :], text[end : node.end - 1]
    if len(node.members) == 1 and not (inner + outer).strip(_SPACE):
        return text[: node.start + 1] + text[node.end - 1 :]
    return before + text[end:]


def _insert(text: str, node: _Node, key: str, value: Any, unit: str, newline: str) -> str:
    """A member more at the end of an object, in the manner of those that are there."""
    close = node.end - 1
    last = node.members[-1] if node.members else None
    place = max(len(text[:close].rstrip(_SPACE)), node.start + 1)
    name = json.dumps(key, ensure_ascii=False) + ": "
    inline = last is not None and not {"\n", "\r"} & set(text[node.start : node.end])
    if inline:
        lead, body, tail = " ", name + json.dumps(value, ensure_ascii=False), text[place:close]
    else:
        base = _indent(text, close) if last else _indent(text, node.start)
        indent = _indent(text, node.members[0].start) if last and _begins_line(text, last.start) else base + unit
        lead, body = newline + indent, name + _dump(value, indent, unit, newline)
        tail = newline + base if not last or "\n" not in text[place:close] else text[place:close]
    if last is None:
        return text[:place] + lead + body + tail + text[close:]
    if last.comma >= 0:
        return text[:place] + lead + body + "," + tail + text[close:]
    return text[: last.node.end] + "," + text[last.node.end : place] + lead + body + tail + text[close:]


def _find(node: _Node, key: str, text: str) -> _Member | None:
    found = [member for member in node.members if member.key == key]
    if len(found) > 1:
        raise Unreadable(f"`{key}` is there twice", _line(text, found[1].start))
    return found[0] if found else None


def _object(node: _Node, text: str, path: Sequence[str]) -> _Node:
    if not isinstance(node.value, dict):
        raise Unreadable(f"{'`' + '.'.join(path) + '`' if path else 'the whole'} is no object", _line(text, node.start))
    return node


def _dump(value: Any, indent: str, unit: str, newline: str) -> str:
    return json.dumps(value, indent=unit, ensure_ascii=False).replace("\n", newline + indent)


def _begins_line(text: str, place: int) -> bool:
    return not text[:place].rpartition("\n")[2].strip()


def _indent(text: str, place: int) -> str:
    """The white space that begins the line of `place`."""
    line = text[:place].rpartition("\n")[2]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _unit(text: str, root: _Node) -> str:
    """What one level is indented by."""
    for member in root.members:
        if _begins_line(text, member.start) and (indent := _indent(text, member.start)):
            return indent
    return "  "


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _parse(text: str) -> _Node:
    node, place = _value(text, _skip(text, 0), 0)
    place = _skip(text, place)
    if place < len(text):
        raise Unreadable("something follows the end", _line(text, place))
    return node


def _skip(text: str, place: int) -> int:
    while match := _BLANK.match(text, place):
        place = match.end()
    return place


def _value(text: str, start: int, depth: int) -> tuple[_Node, int]:
    if depth > MAX_DEPTH:
        raise Unreadable(f"it is nested more than {MAX_DEPTH} deep", _line(text, start))
    first = text[start : start + 1]
    if first == "{":
        return _members(text, start, depth)
    if first == "[":
        return _items(text, start, depth)
    if first == '"':
        string, end = _string(text, start)
        return _Node(start, end, string), end
    match = _LITERAL.match(text, start)
    if not match:
        raise Unreadable("a value is missing", _line(text, start))
    try:
        json.loads(match[0], parse_int=str, parse_float=str)
    except ValueError:
        raise Unreadable(f"`{match[0][:40]}` is no value", _line(text, start)) from None
    return _Node(start, match.end(), (match[0],)), match.end()


def _string(text: str, start: int) -> tuple[str, int]:
    match = _STRING.match(text, start)
    try:
        if match:
            return json.loads(match[0]), match.end()
    except ValueError:
        pass
    raise Unreadable("a string is missing, or is not one", _line(text, start))


def _members(text: str, start: int, depth: int) -> tuple[_Node, int]:
    members: list[_Member] = []
    place = _skip(text, start + 1)
    while text[place : place + 1] != "}":
        begin = place
        key, place = _string(text, place)
        place = _skip(text, place)
        if text[place : place + 1] != ":":
            raise Unreadable("a colon is missing", _line(text, place))
        node, place = _value(text, _skip(text, place + 1), depth + 1)
        place = _skip(text, place)
        comma = place if text[place : place + 1] == "," else -1
        members.append(_Member(key, begin, node, comma))
        if comma >= 0:
            place = _skip(text, place + 1)
        elif text[place : place + 1] != "}":
            raise Unreadable("a comma or a closing brace is missing", _line(text, place))
    return _Node(start, place + 1, {m.key: m.node.value for m in members}, members), place + 1


def _items(text: str, start: int, depth: int) -> tuple[_Node, int]:
    items = []
    place = _skip(text, start + 1)
    while text[place : place + 1] != "]":
        node, place = _value(text, place, depth + 1)
        items.append(node.value)
        place = _skip(text, place)
        if text[place : place + 1] == ",":
            place = _skip(text, place + 1)
        elif text[place : place + 1] != "]":
            raise Unreadable("a comma or a closing bracket is missing", _line(text, place))
    return _Node(start, place + 1, items), place + 1
