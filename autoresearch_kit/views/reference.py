"""Writes `docs/reference/` from the code, so that it cannot rot; a test fails when a page is stale.

python -m autoresearch_kit.views.reference
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from autoresearch_kit.core.spec import Spec
from autoresearch_kit.starter import yaml_value

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


def pages() -> dict[str, str]:
    """Text of every generated page by file name."""
    return {"spec.md": _spec_page(), "commands.md": _commands_page()}


def _spec_page() -> str:
    lines = [
        "# The spec: `autoresearch-config.yaml`",
        "",
        "Generated from `autoresearch_kit/core/spec.py` by `make docs`. Paths are relative to the folder of the spec.",
        "Commands are run by `/bin/sh` in that folder on the bench; they see `ARK_BUDGET_SECONDS`, `ARK_SEED`,",
        "`ARK_ATTEMPT`, `ARK_TAG`, `ARK_TREE` and `ARK_PARENT_TREE` (git's names of the tree that is measured and of",
        "the one that it was proposed against; equal for a baseline), and `ARK_CACHE`: the folder for data that many",
        "runs share, as you have set it, else `~/.cache/ark-data`.",
        "",
        *_rows(Spec),
    ]
    for name, field in Spec.model_fields.items():
        model = _model_in(field.annotation)
        if model is not None:
            plural = " (each entry)" if "list" in str(field.annotation) else ""
            lines += ["", f"## `{name}`{plural}", "", *_rows(model)]
    return "\n".join(lines) + "\n"


def _rows(model: type[BaseModel]) -> Iterator[str]:
    yield "| key | default | meaning |"
    yield "|---|---|---|"
    texts = _attribute_texts(model)
    for name, field in model.model_fields.items():
        if field.default is PydanticUndefined:
            default = "required"
        else:
            default = "" if field.default in (None, "") else f"`{yaml_value(field.default)}`"
        text = field.description or texts.get(name, "")
        yield f"| `{name}` | {default} | {text.replace('|', chr(92) + '|')} |"


def _attribute_texts(model: type[BaseModel]) -> dict[str, str]:
    """The strings under a class's fields, for models that document themselves so."""
    import ast
    import inspect
    import textwrap

    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for before, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[before.target.id] = " ".join(str(after.value.value).split())
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)


def _commands_page() -> str:
    from autoresearch_kit.cli import main

    lines = [
        "# Commands",
        "",
        "Generated from `autoresearch_kit/cli/` by `make docs`. Data goes to stdout, talk to stderr. Exit codes:",
        "0 done, 1 failed, 2 usage or spec, 3 a budget is spent, 130 interrupted.",
    ]
    for name, command in [("ark", main), *((f"ark {name}", verb) for name, verb in main.commands.items())]:
        context = click.Context(command, info_name=name, terminal_width=100, max_content_width=100)
        lines += ["", f"## `{name}`", "", "```text", command.get_help(context), "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write every page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
