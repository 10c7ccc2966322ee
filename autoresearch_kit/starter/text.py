"""The text of a new spec: what is set, and every other key as a comment, from the spec's own fields."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from autoresearch_kit.core.names import SPEC_NAME
from autoresearch_kit.core.records import clean_line
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.core.specfile import parse_spec
from autoresearch_kit.starter.catalog import BLANK, find_template

HEAD = "# What may change, how to run it, how to measure it, and for how long: `ark check` reads this for you."
REST = "# The keys below are optional: each line shows the default, or an example where nothing is the default."
WIDTH = 110


def blank_spec(name: str) -> str:
    """The spec of the blank template, for a project of that name."""
    return complete((find_template(BLANK) / SPEC_NAME).read_text(encoding="utf-8"), name)


def complete(text: str, name: str) -> str:
    """A template's spec for a project called `name`, with every key that it does not set as a comment."""
    text = re.sub(r"^name: .*$", lambda _: f"name: {quoted(name)}", text, count=1, flags=re.M)
    lines = [text.rstrip("\n"), "", REST, ""]
    for key, field in Spec.model_fields.items():
        if key not in parse_spec(text).model_fields_set:
            lines += [*_explained(field), f"# {key}: {_shown(field)}"]
    return "\n".join(lines) + "\n"


def own_spec(values: Mapping[str, Any], name: str) -> str:
    """A spec with these values, each key explained."""
    lines = [HEAD, ""]
    for key, value in {"name": name, **values}.items():
        lines += [*_explained(Spec.model_fields[key]), f"{key}: {quoted(value)}"]
    return complete("\n".join(lines) + "\n", name)


def quoted(value: Any) -> str:
    """Text, a number or a list in YAML, on one line, whatever characters it holds."""
    if isinstance(value, str):
        value = clean_line(value.encode("utf-8", "replace").decode(), 10_000) if not value.isprintable() else value
    # Nearly all JSON is YAML, but not its escapes of characters beyond 16 bits.
    return json.dumps(value, ensure_ascii=False)


def _explained(field: FieldInfo) -> list[str]:
    lines = [f"# {line}" for line in textwrap.wrap(field.description or "", WIDTH)]
    if field.examples and _shown(field) in ("[]", "{}"):
        lines.append(f"#   such as {field.examples[0]}")
    return lines


def _shown(field: FieldInfo) -> str:
    if field.default is PydanticUndefined or field.default is None:
        return str((field.examples or ["null"])[0])
    return yaml_value(field.default)


def yaml_value(value: Any) -> str:
    """A default as it stands in YAML, on one line."""
    if isinstance(value, BaseModel):
        inner = {k: v for k, v in value.model_dump().items() if v is not None}
        return "{" + ", ".join(f"{k}: {yaml_value(v)}" for k, v in inner.items()) + "}"
    if isinstance(value, list | dict):
        return "[]" if isinstance(value, list) else "{}"
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:g}" if isinstance(value, float) else str(value)
