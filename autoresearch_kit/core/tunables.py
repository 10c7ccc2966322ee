"""A tunable is one number, word or switch in a file; reading finds it, writing changes its characters and no others.

It is a top-level Python constant, a C `#define`, or a key in TOML, YAML or INI. Found nowhere or twice, or bound to
anything but a plain literal on one line, it is an `ArkError`. After each write the file is parsed again, by the parser
that its readers use, and the write is refused unless this value is the new one and every other value is as it was.

Not known: which of two branches of an `#if` is compiled (two defines are an error), what a function assigns to a
`global`, Python constants inside `if` or `try`, values behind YAML anchors, and expressions such as `2**19`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, NoReturn, TypeGuard

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from autoresearch_kit.core import literals
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.literals import Literal
from autoresearch_kit.core.literals import Value as Value


def _bound(value: object) -> object:
    value = literals.yaml_float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return value


Bound = Annotated[int | float, BeforeValidator(_bound)]
Choice = Annotated[bool | int | float | str, BeforeValidator(literals.yaml_float)]


class Tunable(BaseModel):
    """One value that the search agent may turn: where it is, and what it may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    """The file that holds it, relative to the spec."""
    name: str
    """The constant, the macro, or the dotted key (`table.key`, `section.key`)."""
    low: Bound | None = None
    """The least value; written as whole numbers, `low`, `high` and `step` make a range of whole numbers."""
    high: Bound | None = None
    """The greatest value."""
    step: Bound | None = None
    """The distance between neighbours, counted from `low`."""
    log: bool = False
    """Draw on a logarithmic scale."""
    choices: tuple[Choice, ...] | None = None
    """The values themselves, instead of a range."""

    @model_validator(mode="after")
    def _consistent(self) -> Tunable:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.step is not None or self.log:
                raise ValueError(f"{self.name} has choices and a range, give one of them")
            if not self.choices:
                raise ValueError(f"{self.name} has an empty list of choices")
            if len({(type(choice), choice) for choice in self.choices}) < len(self.choices):
                raise ValueError(f"{self.name} has a choice twice")
            if any(isinstance(choice, float) and not math.isfinite(choice) for choice in self.choices):
                raise ValueError(f"{self.name} has a choice that is not finite")
            return self
        if self.low is None or self.high is None:
            raise ValueError(f"{self.name} needs low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"{self.name} has a low of {self.low} that is not below its high of {self.high}")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"{self.name} has a step of {self.step}, which is not above zero")
        if self.log and self.low <= 0:
            raise ValueError(f"{self.name} has a low of {self.low}, and a logarithmic range begins above zero")
        if self.log and self.step is not None:
            raise ValueError(f"{self.name} has log and step, which do not go together")
        return self

    @property
    def whole(self) -> bool:
        """Whether this is a range of whole numbers."""
        return all(isinstance(bound, int) for bound in (self.low, self.high, self.step) if bound is not None)

    def canonical(self, value: Value) -> Value:
        """The value as this tunable means it: the very choice, a whole number in such a range, else a float.

        1, 1.0, "1" and true are four choices; but where only one of 1 and 1.0 is listed, the other means it too.
        """
        if not _is_number(value):
            return value
        if self.choices is not None:
            equal = [choice for choice in self.choices if _is_number(choice) and choice == value]
            return next((choice for choice in equal if _same(choice, value)), equal[0] if equal else value)
        if self.whole:
            return int(value) if isinstance(value, float) and value.is_integer() else value
        return float(value) if abs(value) < 2**1023 else value


def read(text: str, tunable: Tunable) -> Value:
    """The value in the text of the tunable's file."""
    return _read(text, tunable)[0]


def write(text: str, tunable: Tunable, value: Value) -> str:
    """The text with this value in its place, and nothing else changed."""
    present, literal = _read(text, tunable)
    wanted = tunable.canonical(value)
    if _same(present, wanted):
        return text
    shown = wanted
    if _is_number(wanted) and isinstance(literal.value, float) and _same(wanted, tunable.canonical(float(wanted))):
        shown = float(wanted)  # a float stays a float to the file's readers, unless 1 and 1.0 are both choices
    new = literals.replace(text, tunable.file, literal, shown)
    try:
        found, after = _read(new, tunable)
        good = _same(found, wanted) and after.rest == literal.rest and after.suffix == literal.suffix
    except ArkError:
        good = False
    if not good:
        raw = text[literal.start : literal.end] + literal.suffix
        _fail(
            tunable,
            f"cannot be set to {value!r} in the place of {raw}",
            "change the range, or the literal in the file",
        )
    return new


def keys(tunables: Sequence[Tunable]) -> list[str]:
    """What each tunable is called among the others: its name, or `file:name` where two files hold the same name."""
    names = Counter(tunable.name for tunable in tunables)
    found = [t.name if names[t.name] == 1 else f"{t.file}:{t.name}" for t in tunables]
    for tunable, key in zip(tunables, found, strict=True):
        if found.count(key) > 1:
            _fail(tunable, "is listed twice among the tunables")
    return found


def read_all(files: Mapping[str, str], tunables: Sequence[Tunable]) -> dict[str, Value]:
    """The values of all tunables by key, after a trial that their bounds or choices can be written."""
    values: dict[str, Value] = {}
    for key, tunable in zip(keys(tunables), tunables, strict=True):
        if tunable.file not in files:
            _fail(tunable, "is in a file that does not exist")
        text = files[tunable.file]
        values[key] = read(text, tunable)
        for extreme in tunable.choices or (tunable.low, tunable.high):
            if extreme is not None:
                write(text, tunable, extreme)
    return values


def _read(text: str, tunable: Tunable) -> tuple[Value, Literal]:
    words = [choice for choice in tunable.choices or () if isinstance(choice, str)]
    literal = literals.locate(text, tunable.file, tunable.name, words)
    if tunable.choices is None and not _is_number(literal.value):
        _fail(tunable, f"is {text[literal.start : literal.end]}, and a range needs a number")
    return tunable.canonical(literal.value), literal


def _is_number(value: Value) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one: Value, other: Value) -> bool:
    return type(one) is type(other) and one == other


def _fail(tunable: Tunable, what: str, hint: str = "") -> NoReturn:
    raise ArkError(f"{tunable.file}: {tunable.name} {what}", hint)
