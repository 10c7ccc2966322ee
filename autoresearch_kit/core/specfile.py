"""From the text of a spec to a `Spec`, or to every mistake in it at once.

Each mistake is one sentence with file and line, the offending key and what to write instead. YAML is read by PyYAML's
safe loader; a key that stands twice is a mistake too.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from autoresearch_kit.core.errors import SpecError
from autoresearch_kit.core.globs import compile_globs, is_glob
from autoresearch_kit.core.spec import RESERVED_NAMES, SPEC_NAME, Spec

Loc = tuple[int | str, ...]
MAX_BYTES = 1_000_000


def load_spec(path: Path) -> Spec:
    """The spec in the file `path`; SpecError when it is missing, unreadable or wrong."""
    try:
        data = path.read_bytes()
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
        raise SpecError([f"{path}:{line}: is not UTF-8 text"], "save the file as UTF-8") from None
    return parse_spec(text, str(path))


def parse_spec(text: str, filename: str = SPEC_NAME) -> Spec:
    """The spec in `text`; SpecError with one sentence for each mistake, in the order of their lines."""
    lines: dict[Loc, int] = {}
    problems: list[tuple[int, str]] = []
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise SpecError(
            [f"{filename}:{line}: is not valid YAML: {error.problem or error.context}"],
            "quote text that holds `: `, `#`, `{` or begins with `*`, `&`, `%` or `@`",
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError([f"{filename}:1: is not valid YAML: {str(error).splitlines()[0]}"]) from None
    if not isinstance(data, dict) or node is None:
        raise SpecError([f"{filename}:1: should hold keys such as `metric: val_bpb`"], "run `ark init` for a full one")
    _note_lines(node, (), lines, problems)
    if cycle := _cycle(node):
        raise SpecError([f"{filename}:{cycle}: an alias that contains itself cannot be read"])

    spec = None
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        problems += [(_line(lines, loc), text) for loc, text in _explain_all(error, data)]
    problems += [(_line(lines, loc), text) for loc, text in _cross_checks(data)]
    if problems or spec is None:
        found = dict.fromkeys(sorted(problems, key=lambda item: item[0]))
        raise SpecError([f"{filename}:{line}: {text}" for line, text in found])
    return spec


def _note_lines(node: yaml.Node, loc: Loc, lines: dict[Loc, int], problems: list[tuple[int, str]]) -> None:
    """Remember where each key and item stands, and find keys that stand twice."""
    if loc in lines or len(loc) > 8:
        return
    lines.setdefault(loc, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = str(key.value)
            line = key.start_mark.line + 1
            if (*loc, name) in lines:
                problems.append((line, f"`{_dotted((*loc, name))}` stands twice; remove one"))
                continue
            _note_lines(value, (*loc, name), lines, problems)
            lines[(*loc, name)] = line
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(item, (*loc, index), lines, problems)


def _cycle(node: yaml.Node, above: tuple[int, ...] = ()) -> int:
    """The line of an alias that contains itself, or 0."""
    if id(node) in above:
        return int(node.start_mark.line) + 1
    if isinstance(node, yaml.SequenceNode | yaml.MappingNode):
        for item in node.value:
            for child in item if isinstance(item, tuple) else (item,):
                if line := _cycle(child, (*above, id(node))):
                    return line
    return 0


def _line(lines: dict[Loc, int], loc: Loc) -> int:
    """The line of `loc`, or of the nearest thing around it."""
    while loc and loc not in lines:
        loc = loc[:-1]
    return lines.get(loc, 1)


def _dotted(loc: Loc) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def _explain_all(error: ValidationError, data: Any) -> Iterator[tuple[Loc, str]]:
    for detail in error.errors(include_url=False):
        yield _explain(detail, data)


def _explain(detail: ErrorDetails, data: Any) -> tuple[Loc, str]:
    """One validation error as a place and a sentence."""
    loc = tuple(part for part in detail["loc"] if not (isinstance(part, str) and _is_union_branch(part)))
    key = _dotted(loc)
    model, field = _model_at(loc)
    if detail["type"] == "extra_forbidden":
        known = list(model.model_fields) if model else []
        near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
        advice = f"did you mean `{near[0]}`?" if near else f"known keys are {', '.join(known)}"
        return loc, f"`{key}` is not a key of the spec; {advice}"
    examples = (field.examples or []) if field else []
    example = f"; write for example `{loc[-1]}: {examples[0]}`" if examples and isinstance(loc[-1], str) else ""
    if detail["type"] == "missing":
        return loc, f"`{key}` is missing{example}"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should", "should")
    message = message[0].lower() + message[1:]
    value = detail["input"]
    shown = f" ({value!r})" if isinstance(value, int | float | str) and len(str(value)) < 60 else ""
    return loc, f"`{key}`{shown} {message}" + ("" if ";" in message else example)


def _is_union_branch(part: str) -> bool:
    """Pydantic names the tried branch of a union in a location; that is no key of the user."""
    return part in {"float", "int", "str", "bool", "list"} or part.startswith(("function-", "constrained-"))


def _model_at(loc: Loc) -> tuple[type[BaseModel] | None, Any]:
    """The model that holds the last part of `loc`, and that part's field, where they exist."""
    model: type[BaseModel] | None = Spec
    field = None
    for position, part in enumerate(loc):
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model else None
        if field is None or position == len(loc) - 1:
            break
        model = _model_in(field.annotation)
    return model, field


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside a type such as `list[Input]` or `Agent | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)


def _cross_checks(data: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    """What no single key can see. Works on raw data, so that these mistakes come together with all others."""
    mutable, immutable = _strings(data.get("mutable_files")), _strings(data.get("immutable_files"))
    for index, path in mutable.items():
        if path in RESERVED_NAMES or path.split("/")[0] == ".ark":
            yield ("mutable_files", index), f"`{path}` is written by the engine and cannot be mutable"
        if path == SPEC_NAME:
            yield ("mutable_files", index), f"`{path}` cannot be mutable: it says how to measure"
    for index, path in immutable.items():
        clash = path in mutable.values() or (not is_glob(path) and _matches(mutable, path))
        clash = clash or any(not is_glob(other) and _matches({0: path}, other) for other in mutable.values())
        if clash:
            yield ("immutable_files", index), f"`{path}` is both mutable and immutable; remove it from one list"
    budget, timeout = data.get("budget_minutes", 5), data.get("timeout_minutes")
    if isinstance(budget, int | float) and isinstance(timeout, int | float) and 0 < timeout < budget:
        yield ("timeout_minutes",), f"`timeout_minutes` ({timeout}) is shorter than `budget_minutes` ({budget})"
    names = (
        [t.get("name") for t in data.get("tunables") or [] if isinstance(t, dict)] if _list(data, "tunables") else []
    )
    agent = data.get("agent")
    if agent == "search" and not names:
        yield ("agent",), "`agent: search` needs `tunables` to turn; write for example " \
            "`tunables: [{file: train.py, name: LR, low: 1e-4, high: 1e-1, log: true}]`"  # fmt: skip
    if _list(data, "tunables"):
        for index, tunable in enumerate(data["tunables"]):
            file = tunable.get("file") if isinstance(tunable, dict) else None
            if isinstance(file, str) and mutable and not _matches(mutable, file.removeprefix("./")):
                yield (
                    ("tunables", index, "file"),
                    f"`{file}` holds a tunable and is not in `mutable_files`; add it there",
                )


def _strings(value: Any) -> dict[int, str]:
    if not isinstance(value, list):
        return {}
    return {index: item.removeprefix("./") for index, item in enumerate(value) if isinstance(item, str) and item}


def _matches(patterns: dict[int, str], path: str) -> bool:
    return compile_globs(list(patterns.values())).matches(path)


def _list(data: dict[str, Any], key: str) -> bool:
    return isinstance(data.get(key), list)
