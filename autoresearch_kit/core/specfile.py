"""From the text of a spec to a `Spec`, or to every mistake in it at once.

Each mistake is one sentence with file and line, the offending key and what to write instead. YAML is read as its
safe subset: text, numbers, switches, lists and mappings. Keys are taken as they are spelled, and so are the values of
`env`: `NO` is a name, and `3.10` a version. A key that stands twice is a mistake, and so is a number that YAML reads
otherwise than people do (`1:30` is 90).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from autoresearch_kit.core.errors import SpecError
from autoresearch_kit.core.globs import compile_globs, is_glob
from autoresearch_kit.core.names import RESERVED_NAMES, SPEC_NAME
from autoresearch_kit.core.spec import (
    Agent,
    Budget,
    Check,
    Constraint,
    Decision,
    Hooks,
    Resources,
    Spec,
    relative_path,
)

Loc = tuple[int | str, ...]
MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_VALUES = 50_000
SHOWN_CHARACTERS = 60

_TAG = "tag:yaml.org,2002:"
_TOO_DEEP = "is nested too deeply; a spec has three levels"
_TYPED = ("null", "bool", "int", "float")
_AS_TEXT = ("str", "timestamp", "value")
_ODD_NUMBER = re.compile(r".*:.*|[-+]?0[0-9_]+")  # base 60 and base 8
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")


def load_spec(path: Path) -> Spec:
    """The spec in the file `path`; SpecError when it is missing, unreadable or wrong."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SpecError([f"{path} does not exist"], "run `ark init` to make one") from None
    except OSError as error:
        raise SpecError([f"{path} cannot be read: {error.strerror}"]) from None
    if len(data) > MAX_BYTES:
        raise SpecError([f"{path} is larger than a megabyte; that is not a spec"])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SpecError([f"{path}:{line}: is not UTF-8 text; save the file as UTF-8"]) from None
    return parse_spec(text, str(path))


def parse_spec(text: str, filename: str = SPEC_NAME) -> Spec:
    """The spec in `text`; SpecError with one sentence for each mistake, in the order of their lines."""
    source = _Source()
    try:
        node = _compose(text)
        if not isinstance(node, yaml.MappingNode):
            raise _Unreadable(1, "should hold keys such as `metric: val_bpb`; `ark init` writes a full example")
        data = source.read(node, ())
    except _Unreadable as mistake:
        raise SpecError([f"{filename}:{mistake.line}: {mistake.text}"]) from None

    spec = None
    problems = source.problems
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        problems += _explain_all(error, source)
    problems += [(source.line(loc), text) for loc, text in _cross_checks(data, PurePath(filename).name)]
    if problems or spec is None:
        found = dict.fromkeys(sorted(problems, key=lambda item: item[0]))
        raise SpecError([f"{filename}:{line}: {text}" for line, text in found])
    return spec


# YAML


class _Unreadable(Exception):
    """The text is no YAML, or none that can be a spec; nothing more can be said about it."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line
        self.text = text


class _Loader(yaml.SafeLoader):
    """Composes nodes, but none that lie absurdly deep."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise _Unreadable(line, _TOO_DEEP)
        found = super().compose_node(parent, index)
        self.depth -= 1
        return found


def _compose(text: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _Unreadable(line, f"holds the control character {ord(text[error.position]):#04x}; remove it") from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_mistake(error, text) from None


def _syntax_mistake(error: yaml.MarkedYAMLError, text: str) -> _Unreadable:
    """PyYAML's words about a mistake in the form, in the words of somebody who wants to mend it."""
    problem, context = error.problem or "", error.context or ""
    mark, around = error.problem_mark or error.context_mark, error.context_mark or error.problem_mark
    line, around_line = (mark.line + 1 if mark else 1), (around.line + 1 if around else 1)
    rest = text.split("\n")[line - 1][mark.column :] if mark and line <= text.count("\n") + 1 else ""
    if "cannot start any token" in problem and rest.startswith("\t"):
        return _Unreadable(line, "has a tab where YAML wants blanks; indent with blanks")
    if "cannot start any token" in problem:
        return _Unreadable(line, f"has a value that begins with '{_shown(rest[:1])}'; put it in quotes")
    if "scanning an alias" in context or "scanning an anchor" in context:
        return _Unreadable(around_line, "has a value that begins with `*` or `&`; put it in quotes")
    if "undefined alias" in problem:
        return _Unreadable(line, "has a value that begins with `*`, which YAML takes for an alias; put it in quotes")
    if "quoted scalar" in context and "end of stream" in problem:
        return _Unreadable(around_line, "opens a quote that is never closed; close it")
    if "escape" in problem:
        return _Unreadable(line, "has a backslash that YAML does not know in double quotes; use single quotes")
    if "mapping values are not allowed" in problem:
        return _Unreadable(line, "has a `: ` where none can be; put the value in quotes, or mend the indentation")
    if "flow sequence" in context or "flow mapping" in context:
        sign = "[" if "sequence" in context else "{"
        return _Unreadable(around_line, f"opens a `{sign}` that is not closed; close it, or put the value in quotes")
    if "another document" in problem:
        return _Unreadable(line, "begins a second document; remove the `---`")
    if "block" in context or "expected ':'" in problem:
        at = around_line if "simple key" in context else line
        return _Unreadable(
            at, "does not fit the lines above; write `key: value`, or `- item`, indented like the others"
        )
    return _Unreadable(
        line, f"is not valid YAML: {_shown(problem or context)}; put text with special characters in quotes"
    )


class _Source:
    """YAML nodes as plain data, with the place of everything and the mistakes that YAML itself lets pass."""

    def __init__(self) -> None:
        self.lines: dict[Loc, int] = {}
        self.raw: dict[Loc, str] = {}
        self.problems: list[tuple[int, str]] = []
        self.told: set[Loc] = set()
        """Where a mistake was found already, so that its consequences need no sentence."""
        self._scalars = yaml.constructor.SafeConstructor()
        self._above: list[yaml.Node] = []
        self._values = 0

    def line(self, loc: Loc) -> int:
        """The line of `loc`, or of the nearest thing around it."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc, 1)

    def read(self, node: yaml.Node, loc: Loc) -> Any:
        """The data below a node."""
        line = node.start_mark.line + 1
        self.lines[loc] = line
        self._values += 1
        if self._values > MAX_VALUES:
            raise _Unreadable(line, f"holds more than {MAX_VALUES} values, perhaps by aliases; write fewer")
        if len(self._above) > MAX_DEPTH:
            raise _Unreadable(line, _TOO_DEEP)
        if any(node is other for other in self._above):
            self._mistake(line, loc, "is an alias for something around it; write the values out")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, loc)
        if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            self._mistake(line, loc, f"has the tag `{_shown(node.tag.replace(_TAG, '!!'))}`; remove it")
        self._above.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, loc)
            return [self.read(item, (*loc, index)) for index, item in enumerate(node.value)]
        finally:
            self._above.pop()

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == f"{_TAG}merge":
                data = {**self._merged(value, loc), **data}
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == f"{_TAG}merge":
                continue
            if not isinstance(key, yaml.ScalarNode):
                self._mistake(line, loc, "has a list or a mapping as a key; write `key: value`")
                continue
            name = _UNWRITABLE.sub("\ufffd", key.value)
            place = (*loc, name)
            if name in seen:
                self.problems.append((line, f"`{_dotted(place)}` stands twice; remove one"))
                continue
            seen.add(name)
            data[name] = self.read(value, place)
            self.lines[place] = line
        return data

    def _merged(self, node: yaml.Node, loc: Loc) -> dict[str, Any]:
        """What `<<: *alias` stands for."""
        data: dict[str, Any] = {}
        line = self.lines[loc]
        for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            found = self.read(part, loc)
            if isinstance(found, dict):
                data = {**found, **data}
            elif not any(part is other for other in self._above):
                self._mistake(
                    part.start_mark.line + 1, (*loc, "<<"), "should be an alias of a mapping; write the keys out"
                )
        self.lines[loc] = line
        return data

    def _scalar(self, node: yaml.ScalarNode, loc: Loc) -> Any:
        text, line, tag = node.value, node.start_mark.line + 1, node.tag.removeprefix(_TAG)
        self.raw[loc] = text
        if tag in _TYPED and not (len(loc) == 2 and loc[0] == "env" and tag != "null"):
            try:
                value = self._scalars.construct_object(node)
            except (ValueError, LookupError, AttributeError, ArithmeticError, yaml.YAMLError):
                self._mistake(
                    line, loc, "is not what its tag says, or too long; write a plain number or put it in quotes"
                )
                return None
            if node.style is None and tag in ("int", "float") and _ODD_NUMBER.fullmatch(text):
                self._mistake(
                    line, loc, f"is read as {value:g} by YAML; write {value:g}, or put it in quotes to mean text"
                )
            return value
        if tag not in _AS_TEXT and tag not in _TYPED:
            self._mistake(line, loc, f"has the tag `{_shown(node.tag.replace(_TAG, '!!'))}`; remove it")
        if bad := _UNWRITABLE.search(text):
            self._mistake(line, loc, f"holds the character U+{ord(bad[0]):04X}, which no file can; remove it")
        return _UNWRITABLE.sub("", text)

    def _mistake(self, line: int, loc: Loc, text: str) -> None:
        self.told.add(loc)
        raw = self.raw.get(loc)
        shown = f" ({_shown(raw)})" if raw else ""
        self.problems.append((line, f"`{_dotted(loc)}`{shown} {text}" if loc else f"the spec {text}"))


def _shown(text: str) -> str:
    """A piece of the file as it may stand in a sentence."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _dotted(loc: Loc) -> str:
    return _shown("".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix("."))


# Values


def _explain_all(error: ValidationError, source: _Source) -> list[tuple[int, str]]:
    details = error.errors(include_url=False)
    meant = {(*loc[:-1], near) for d in details if d["type"] == "extra_forbidden"
             for loc in [d["loc"]] if (near := _nearest(_model_at(loc)[0], str(loc[-1])))}  # fmt: skip
    found = []
    for detail in details:
        if detail["type"] == "missing" and detail["loc"] in meant:
            continue  # the key is there, with a slip in its name
        if any(isinstance(part, str) and _UNWRITABLE.search(part) for part in detail["loc"]):
            continue
        loc = tuple(_places(detail, source))
        if any(loc[:end] in source.told for end in range(1, len(loc) + 1)):
            continue
        found.append((source.line(loc), _explain(detail, loc, source)))
    return found


def _places(detail: ErrorDetails, source: _Source) -> Iterator[int | str]:
    """Those parts of a location that are the user's: not the branches of a union, not what stands for a short form."""
    loc: Loc = ()
    parts = detail["loc"]
    for index, part in enumerate(parts):
        missing = detail["type"] == "missing" and index == len(parts) - 1
        if (*loc, part) in source.lines or (missing and loc not in source.raw):
            loc = (*loc, part)
            yield part


def _explain(detail: ErrorDetails, loc: Loc, source: _Source) -> str:
    """One validation error as a sentence."""
    model, field = _model_at(loc)
    kind, value, raw = detail["type"], detail["input"], source.raw.get(loc)
    key = f"`{_dotted(loc)}`"
    if kind == "extra_forbidden":
        return f"{key} is not a key of the spec; {_advice(model, loc)}"
    if kind == "missing":
        return f"{key} is missing{_example(loc)}"
    if value is None:
        optional = "" if field is None or field.is_required() else ", or remove the key"
        return f"{key} has no value{_example(loc)}{optional}"
    if kind == "value_error":
        text = detail["msg"].removeprefix("Value error, ")
        if loc[0] == "tunables":  # they speak in whole sentences
            return f"{key}: {text}{_example(loc)}"
        return f"{key}{f' ({_shown(raw)})' if raw else ''} {text}" + ("" if ";" in text else _example(loc))
    shown = f" ({_shown(raw)})" if raw else ""
    if kind == "literal_error":
        return f"{key}{shown} should be {_choice(_words(_model_at(detail['loc'])[1]), str(value), loc)}"
    if kind in _UNION_KINDS and len(detail["loc"]) > len(loc) and field is not None and field.annotation is not str:
        return f"{key}{shown} should be text, a number, or true or false{_example(loc)}"
    if kind == "string_type" and raw is not None:
        return f'{key}{shown} should be text; put it in quotes: `{_entry(loc)}"{_shown(raw)}"`'
    if kind in ("list_type", "tuple_type") and raw is not None and _model_in(field) in (None, Check, Constraint):
        return f"{key}{shown} should be a list; write `{_entry(loc)}[{_quoted(raw)}]`"
    sentence = _SENTENCES[kind](detail.get("ctx") or {}) if kind in _SENTENCES else detail["msg"].lower()
    if kind != "too_short":
        sentence += ", not a list" if isinstance(value, list) else ", not a mapping" if isinstance(value, dict) else ""
    return f"{key}{shown} {sentence}{_example(loc)}"


_UNION_KINDS = ("bool_type", "int_type", "float_type", "string_type")
_SENTENCES: dict[str, Callable[[dict[str, Any]], str]] = {
    "string_type": lambda context: "should be text",
    "string_unicode": lambda context: "should be text",
    "list_type": lambda context: "should be a list",
    "tuple_type": lambda context: "should be a list",
    "too_short": lambda context: "is empty",
    "greater_than": lambda context: f"should be above {context['gt']:g}",
    "greater_than_equal": lambda context: f"should be at least {context['ge']:g}",
    "less_than_equal": lambda context: f"should be at most {context['le']:g}",
    "finite_number": lambda context: "should be a finite number",
    "int_from_float": lambda context: "should be a whole number",
    "int_type": lambda context: "should be a number",
    "float_type": lambda context: "should be a number",
    "model_type": lambda context: "should be a mapping of keys",
    "dict_type": lambda context: "should be a mapping of keys",
    "bool_type": lambda context: "should be true or false",
    "bool_parsing": lambda context: "should be true or false",
}
"""What is wrong, by pydantic's type of error."""


def _words(field: FieldInfo | None) -> list[str]:
    return [str(word) for word in get_args(field.annotation)] if field is not None else []


def _choice(known: list[str], value: str, loc: Loc) -> str:
    near = difflib.get_close_matches(value.lower(), known, n=1, cutoff=0.4) if value.isalpha() else []
    words = " or ".join(f"`{word}`" for word in known)
    return f"{words}; did you mean `{near[0]}`?" if near else f"{words}; write `{_entry(loc)}{known[0]}`"


def _quoted(raw: str) -> str:
    return f"'{_shown(raw)}'" if '"' in raw or "\\" in raw else f'"{_shown(raw)}"'


def _entry(loc: Loc) -> str:
    return f"{loc[-1]}: " if isinstance(loc[-1], str) else ""


def _example(loc: Loc) -> str:
    """What could stand at `loc`, or around it."""
    for end in range(len(loc), 0, -1):
        field = _model_at(loc[:end])[1]
        if field is not None and field.examples and isinstance(loc[end - 1], str):
            return f"; write for example `{loc[end - 1]}: {field.examples[0]}`"
    return ""


def _nearest(model: type[BaseModel] | None, name: str, cutoff: float = 0.6) -> str:
    """The known key that was probably meant, or nothing."""
    plain = name.lower().replace("-", "_").replace(" ", "_")
    known = list(model.model_fields) if model else []
    found = difflib.get_close_matches(plain, known, n=1, cutoff=cutoff)
    if not found and cutoff <= 0.6 and len(plain) > 2:
        found = [key for key in known if plain in key.split("_")]
    return found[0] if found else ""


_PARTS = (("budget", Budget), ("resources", Resources), ("decision", Decision), ("agent", Agent), ("on", Hooks))
"""Where a key may belong that stands among the outermost ones."""


def _advice(model: type[BaseModel] | None, loc: Loc) -> str:
    name = str(loc[-1])
    if near := _nearest(model, name, 0.88):
        return f"did you mean `{near}`?"
    if len(loc) > 1 and name in Spec.model_fields:
        return f"it belongs to the outermost keys{_example((name,)).replace(';', ':', 1)}"
    for owner, part in _PARTS:
        if len(loc) == 1 and name in part.model_fields:
            return f"it belongs into `{owner}`: write `{owner}: {{{name}: ...}}`"
    if near := _nearest(model, name):
        return f"did you mean `{near}`?"
    return f"known keys are {', '.join(model.model_fields) if model else 'none'}"


def _model_at(loc: Loc) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """The model that holds the last part of `loc`, and that part's field, where they exist."""
    model: type[BaseModel] | None = Spec
    field = None
    for position, part in enumerate(loc):
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model else None
        if field is None or position == len(loc) - 1:
            break
        model = _model_in(field)
    return model, field


def _model_in(field: FieldInfo | None) -> type[BaseModel] | None:
    """The model inside a field's type, such as `list[Input]` or `Agent | None`."""
    return _model_of(field.annotation) if field is not None else None


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_of(arg))), None)


# What no single key can see. Works on raw data, so that these mistakes come together with all others.


def _cross_checks(data: dict[str, Any], spec_name: str) -> Iterator[tuple[Loc, str]]:
    mutable, immutable = _paths(data.get("mutable_files")), _paths(data.get("immutable_files"))
    for index, path in mutable.items():
        if path.split("/")[0] in RESERVED_NAMES:
            yield ("mutable_files", index), f"`{path}` belongs to the engine and cannot be mutable; remove it"
        if path in (SPEC_NAME, spec_name):
            yield ("mutable_files", index), f"`{path}` says how to measure and cannot be mutable; remove it"
    for index, path in immutable.items():
        clash = path in mutable.values() or (not is_glob(path) and _matches(mutable, path))
        clash = clash or any(not is_glob(other) and _matches({0: path}, other) for other in mutable.values())
        if clash:
            yield ("immutable_files", index), f"`{path}` is both mutable and immutable; remove it from one list"

    budget, timeout = _plain_number(data.get("budget_minutes", 5)), _plain_number(data.get("timeout_minutes"))
    if budget is not None and timeout is not None and 0 < timeout < budget:
        text = (
            f"`timeout_minutes` ({timeout:g}) is shorter than `budget_minutes` ({budget:g}); write {budget:g} or more"
        )
        yield ("timeout_minutes",), text

    agent, tunables = data.get("agent"), data.get("tunables")
    agents = [a.get("name") if isinstance(a, dict) else a for a in (agent if isinstance(agent, list) else [agent])]
    if "search" in agents and not tunables:
        yield ("agent",), f"`agent` is `search`, which needs `tunables` to turn{_example(('tunables',))}"
    for index, tunable in enumerate(tunables if isinstance(tunables, list) else []):
        file = _paths([tunable.get("file")]).get(0) if isinstance(tunable, dict) else None
        if file is not None and mutable and not _matches(mutable, file):
            yield ("tunables", index, "file"), f"`{file}` holds a tunable and is not in `mutable_files`; add it there"

    metric, limits = data.get("metric"), data.get("constraints")
    for index, limit in enumerate(limits if isinstance(limits, list) else []):
        name = limit.get("metric") if isinstance(limit, dict) else re.split("[<>=]", str(limit))[0].strip()
        if name and name == metric:
            yield (
                ("constraints", index),
                f"`constraints[{index}]` limits the metric itself; remove it, the metric decides",
            )


def _paths(value: Any) -> dict[int, str]:
    """The paths of a list in normal form, by index; those that are none are told of elsewhere."""
    found = {}
    for index, item in enumerate(value if isinstance(value, list) else []):
        if isinstance(item, str):
            try:
                found[index] = relative_path(item)
            except ValueError:
                continue
    return found


def _matches(patterns: dict[int, str], path: str) -> bool:
    return compile_globs(list(patterns.values())).matches(path)


def _plain_number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else None
