"""Where one literal is in a file, and how another value is spelled in its place.

Python, C and its children, TOML, YAML and INI, told apart by the file's suffix. A place is found with the parser that
the file's readers use, so that comments, strings and look-alikes never count. Nothing here knows about ranges or
choices: that is `tunables.py`.
"""

from __future__ import annotations

import ast
import configparser
import math
import re
import tomllib
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import yaml

from autoresearch_kit.core.errors import ArkError

Value = bool | int | float | str
Words = Collection[str]
"""Strings that are meant as strings, in formats where `8` and `on` may be anything."""

# Exponents of four digits and mantissas of 400: what a float can be, and never a slow conversion.
_FLOAT = r"(?:[0-9]{1,400}\.?[0-9]{0,400}|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,4})?"
_EXPONENT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][+-]?[0-9]+")


@dataclass(frozen=True, slots=True)
class Literal:
    """One literal in a text."""

    start: int
    end: int
    value: Value
    suffix: str
    """What follows it in C, such as `f`; not part of it."""
    rest: object
    """Equal to that of another text as long as every other value of the two files is."""


def locate(text: str, file: str, name: str, words: Words = ()) -> Literal:
    """The literal that `name` is bound to in a text of the kind that the file's suffix says."""
    suffix = PurePosixPath(file).suffix
    if suffix not in _FORMATS:
        raise ArkError(f"{file}: {name} is in a file of unknown kind", f"known are {' '.join(_FORMATS)}")
    kind, find, _ = _FORMATS[suffix]
    try:
        spots, rest = find(text, name, words)
    except (SyntaxError, ValueError, RecursionError, MemoryError, configparser.Error, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArkError(f"{file} cannot be read for {name}: {reason}") from error
    if not spots:
        raise ArkError(f"{file}: {name} is not found as {kind}")
    if len(spots) > 1:
        lines = " and ".join(str(text.count("\n", 0, spot.start) + 1) for spot in spots[:2])
        often = "twice" if len(spots) == 2 else f"{len(spots)} times"
        raise ArkError(f"{file}: {name} is found {often}, in lines {lines}", "leave one of them")
    spot = spots[0]
    raw = text[spot.start : spot.end]
    if not isinstance(spot.value, Value) or "\n" in raw or "\r" in raw or not raw:
        hint = "write the value out: a number, a string or a boolean"
        raise ArkError(f"{file}: {name} is not a plain literal on one line", hint)
    if isinstance(spot.value, float) and not math.isfinite(spot.value):
        raise ArkError(f"{file}: {name} is {raw}, which is not finite")
    return Literal(spot.start, spot.end, spot.value, spot.suffix, rest)


def replace(text: str, file: str, literal: Literal, value: Value) -> str:
    """The text with the value spelled in the literal's place; whether it reads back is for the caller to check."""
    render = _FORMATS[PurePosixPath(file).suffix][2]
    return text[: literal.start] + render(value, text[literal.start : literal.end]) + text[literal.end :]


def yaml_float(value: object) -> object:
    """YAML 1.1 reads `1e-4` as a string; nobody means the string."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


@dataclass(frozen=True, slots=True)
class _Spot:
    start: int
    end: int
    value: object
    """None when it is no plain literal."""
    suffix: str = ""


# Python


def _find_python(text: str, name: str, words: Words) -> tuple[list[_Spot], object]:
    bom = text.startswith("\ufeff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes in the user's strings
        tree = ast.parse(text[bom:])
    starts = [int(bom), *(bom + match.end() for match in re.finditer(r"\r\n|\r|\n", text[bom:]))]

    def offset(line: int, column: int) -> int:
        """Columns of `ast` count bytes of UTF-8."""
        begin = starts[line - 1]
        return begin + len(text[begin : begin + column].encode()[:column].decode())

    spots = []
    for node in _bindings(tree, name):
        value = node.value if isinstance(node, ast.AnnAssign | ast.Assign) and _is_single(node) else None
        spot = value or node
        start, end = offset(spot.lineno, spot.col_offset), offset(spot.end_lineno or 1, spot.end_col_offset or 0)
        spots.append(_Spot(start, end, _python_literal(value) if value else None))
        if value and isinstance(node, ast.Assign | ast.AnnAssign):
            node.value = ast.Constant(None)
    return spots, ast.dump(tree)


def _is_single(node: ast.Assign | ast.AnnAssign) -> bool:
    return isinstance(node, ast.AnnAssign) or (len(node.targets) == 1 and isinstance(node.targets[0], ast.Name))


def _bindings(tree: ast.Module, name: str) -> Iterator[ast.stmt]:
    """The statements at the top level that give the name a value, in whatever form."""
    for statement in tree.body:
        if isinstance(statement, ast.AnnAssign) and statement.value is None:
            continue
        stack: list[ast.AST] = [statement]
        while stack:
            node = stack.pop()
            if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store):
                yield statement
            inner = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.comprehension
            if not isinstance(node, inner):
                stack.extend(ast.iter_child_nodes(node))


def _python_literal(node: ast.expr) -> object:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = _python_literal(node.operand)
        if isinstance(inner, int | float) and not isinstance(inner, bool):
            return -inner if isinstance(node.op, ast.USub) else inner
    return node.value if isinstance(node, ast.Constant) else None


def _render_python(value: Value, raw: str) -> str:
    if not isinstance(value, str):
        return repr(value)
    quote = re.match(r"\w*('''|\"\"\"|'|\")", raw)
    return _quoted(value, quote[1] if quote else '"')


def _quoted(value: str, quote: str) -> str:
    """Escapes that Python, TOML and the double quotes of YAML share."""

    def escape(sign: str) -> str:
        if sign in ("\\", quote[0]):
            return "\\" + sign
        if sign.isprintable():
            return sign
        return f"\\u{ord(sign):04x}" if sign <= "\uffff" else f"\\U{ord(sign):08x}"

    return quote + "".join(map(escape, value)) + quote


# C and its children

_C_NOISE = re.compile(
    r"""/\*.*?(?:\*/|\Z)|//(?:\\\r?\n|[^\n])*"""  # comments
    r"""|R"([^\s()\\]{0,16})\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|(?<!\w)'(?:\\.|[^'\\\n])*'""",  # strings
    re.DOTALL,
)
_C_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?:0[xX](?P<hex>[0-9a-fA-F]{{1,300}})|(?P<digits>{_FLOAT}))"
    r"(?P<suffix>[fF](?:16|32|64)?|[a-zA-Z]{0,3})"
)
_C_WORD = re.compile(r"[A-Za-z_][\w:]*|\"[^\"\\\n]*\"", re.ASCII)


def _find_c(text: str, name: str, words: Words) -> tuple[list[_Spot], object]:
    def blank(match: re.Match[str]) -> str:
        keep = match[0][0] in "\"'"
        return match[0] if keep else re.sub(r"[^\n]", " ", match[0])

    code = _C_NOISE.sub(blank, text)
    define = rf"^[ \t]*#[ \t]*define[ \t]+{re.escape(name)}(?![\w(])(?:[ \t]*(?P<value>[^\r\n]*?))[ \t]*\r?$"
    return [_c_literal(match, words) for match in re.finditer(define, code, re.MULTILINE)], None


def _c_literal(match: re.Match[str], words: Words) -> _Spot:
    start, end = match.span("value")
    body = match["value"]
    while body.startswith("(") and body.endswith(")"):
        inner = body[1:-1]
        start += 1 + len(inner) - len(inner.lstrip())
        body = inner.strip()
        end = start + len(body)
    if word := _C_WORD.fullmatch(body):
        text = word[0]
        return _Spot(start, end, text[1:-1] if text.startswith('"') else _typed(text, words, {"true", "false"}))
    number = _C_NUMBER.fullmatch(body)
    if number is None:
        return _Spot(start, end, None)
    sign, digits, suffix = number["sign"], number["digits"], number["suffix"]
    value: object
    if number["hex"]:
        value = int(sign + number["hex"], 16)
    elif digits.isdigit() and not suffix.lower().startswith(("f", "h")):
        value = int(sign + digits, 8 if digits.startswith("0") else 10)
    else:
        value = None if "u" in suffix.lower() else float(sign + digits)
    return _Spot(start, end - len(suffix), value, suffix)


def _render_c(value: Value, raw: str) -> str:
    if isinstance(value, str):
        return f'"{value}"' if raw.startswith('"') else value
    return _switch(value, raw) if isinstance(value, bool) else repr(value)


# TOML and INI: the key's place is where a trial value shows up under its path, so that no second parser is needed

_Flat = dict[tuple[str, ...], object]


def _by_trial(
    text: str, spans: Iterable[tuple[int, int]], flatten: Callable[[str], _Flat], path: tuple[str, ...], form: str
) -> list[_Spot]:
    flat = flatten(text)
    rest = _rest(flat, path)
    word = "ark"
    while word in text:
        word += "_"
    spots = []
    for start, end in spans:
        try:
            trial = flatten(text[:start] + form.format(word) + text[end:])
        except (ValueError, configparser.Error):
            continue
        if trial.get(path) == word and _rest(trial, path) == rest:
            spots.append(_Spot(start, end, flat[path]))
    return spots or [_Spot(0, 0, None)]


def _rest(flat: _Flat, path: tuple[str, ...]) -> object:
    """Types count: 1, 1.0 and true are equal to Python."""
    return [(other, repr(value)) for other, value in flat.items() if other != path]


_TOML_SCALAR = r"""(?P<value>"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s,#\]}"'\[{][^\s,#\]}]*)"""


def _flat_toml(text: str) -> _Flat:
    flat: _Flat = {}
    stack: list[tuple[tuple[str, ...], object]] = [
        ((), tomllib.loads(text.removeprefix("\ufeff").replace("\r\n", "\n")))
    ]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict) and (value or not path):
            stack.extend(((*path, key), inner) for key, inner in value.items())
        elif isinstance(value, list) and value:
            stack.extend(((*path, str(index)), inner) for index, inner in enumerate(value))
        else:
            flat[path] = value
    return flat


def _find_toml(text: str, name: str, words: Words) -> tuple[list[_Spot], object]:
    flat = _flat_toml(text)
    paths = [path for path in flat if ".".join(path) == name]
    spots: list[_Spot] = []
    for path in paths:
        key = rf"""(?:(?<![\w-]){re.escape(path[-1])}|"{re.escape(path[-1])}"|'{re.escape(path[-1])}')[ \t]*=[ \t]*"""
        spans = (match.span("value") for match in re.finditer(key + _TOML_SCALAR, text))
        spots += _by_trial(text, spans, _flat_toml, path, '"{}"')
    return spots, _rest(flat, paths[0]) if paths else None


def _render_toml(value: Value, raw: str) -> str:
    if isinstance(value, str):
        single = raw.startswith("'") and "'" not in value and value.isprintable()
        return f"'{value}'" if single else _quoted(value, '"')
    return _switch(value, "true") if isinstance(value, bool) else repr(value)


class _Ini(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


def _flat_ini(text: str) -> _Flat:
    parser = _Ini(allow_no_value=True, inline_comment_prefixes=("#", ";"), default_section="\0")
    parser.read_string(text.removeprefix("\ufeff"))
    return {(section, key): value for section in parser.sections() for key, value in parser.items(section)}


def _find_ini(text: str, name: str, words: Words) -> tuple[list[_Spot], object]:
    flat = _flat_ini(text)
    only = len({section for section, _ in flat}) == 1
    paths = [path for path in flat if ".".join(path) == name or (only and path[1] == name)]
    spots: list[_Spot] = []
    for path in paths:
        line = rf"^[ \t]*{re.escape(path[1])}[ \t]*[=:][ \t]*(?P<value>[^\s#;][^\r\n]*?)(?=[ \t]+[#;]|[ \t]*\r?$)"
        spans = (match.span("value") for match in re.finditer(line, text, re.MULTILINE))
        for spot in _by_trial(text, spans, _flat_ini, path, "{}"):
            value = _typed(spot.value, words) if isinstance(spot.value, str) else None
            spots.append(_Spot(spot.start, spot.end, value))
    return spots, _rest(flat, paths[0]) if paths else None


def _render_ini(value: Value, raw: str) -> str:
    return _switch(value, raw) if isinstance(value, bool) else value if isinstance(value, str) else repr(value)


_SWITCHES = {"true": "false", "yes": "no", "on": "off"}


def _typed(word: str, words: Words, switches: Iterable[str] = (*_SWITCHES, *_SWITCHES.values())) -> Value:
    """A word of a format without types: the string where that is a choice, else whatever it looks like."""
    if word in words:
        return word
    if re.fullmatch(r"[+-]?[0-9]{1,400}", word):
        return int(word)
    if re.fullmatch(rf"[+-]?{_FLOAT}", word):
        return float(word)
    if word.lower() in switches:
        return word.lower() in _SWITCHES
    return word


def _switch(value: bool, raw: str) -> str:
    """A boolean in the words and the case of the present one."""
    on, off = next((pair for pair in _SWITCHES.items() if raw.lower() in pair), ("true", "false"))
    word = on if value else off
    return word.upper() if raw.isupper() else word.capitalize() if raw.istitle() else word


# YAML


def _find_yaml(text: str, name: str, words: Words) -> tuple[list[_Spot], object]:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    spots: list[_Spot] = []
    rest: list[tuple[str, str]] = []
    seen: set[int] = set()
    stack: list[tuple[str, yaml.Node | None]] = [("", root)]
    while stack:
        here, node = stack.pop()
        if node is None or id(node) in seen:  # an alias: its value is where its anchor is
            rest.append((here, "alias"))
            continue
        seen.add(id(node))
        prefix = here + "." if here else ""
        if isinstance(node, yaml.MappingNode):
            for key, inner in reversed(node.value):
                stack.append((prefix + (key.value if isinstance(key, yaml.ScalarNode) else "?"), inner))
        elif isinstance(node, yaml.SequenceNode):
            stack.extend((f"{prefix}{index}", inner) for index, inner in enumerate(node.value))
        elif here == name:
            start, end = node.start_mark.index, node.end_mark.index
            spots.append(_Spot(start, end, _yaml_literal(text[start:end], words)))
        else:
            rest.append((here, f"{node.tag} {node.value}"))
    spots.sort(key=lambda spot: spot.start)
    return spots, rest


def _yaml_literal(raw: str, words: Words) -> object:
    if not raw or raw[0] in "&!|>":
        return None
    value: object = yaml.safe_load(raw)
    if value == raw and value not in words:
        return yaml_float(value)
    return value


def _render_yaml(value: Value, raw: str) -> str:
    if isinstance(value, bool):
        return _switch(value, raw)
    if isinstance(value, float):  # YAML 1.1 needs the point
        return repr(value) if "." in repr(value) else repr(value).replace("e", ".0e")
    if isinstance(value, int):
        return repr(value)
    if raw[0] == "'" and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    plain = raw[0] != '"' and re.fullmatch(r"[A-Za-z_][\w./-]*", value) and yaml.safe_load(value) == value
    return value if plain else _quoted(value, '"')


_Find = Callable[[str, str, Words], tuple[list[_Spot], object]]
_Render = Callable[[Value, str], str]
_FORMATS: dict[str, tuple[str, _Find, _Render]] = {
    ".py": ("a constant at the top level", _find_python, _render_python),
    **dict.fromkeys(
        (".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".cu", ".cuh", ".m", ".mm", ".metal"),
        ("a #define", _find_c, _render_c),
    ),
    ".toml": ("a key (table.key) with a value", _find_toml, _render_toml),
    **dict.fromkeys((".yaml", ".yml"), ("a key (outer.inner) with a value", _find_yaml, _render_yaml)),
    **dict.fromkeys((".ini", ".cfg"), ("a key (section.key) with a value", _find_ini, _render_ini)),
}
