"""What the verbs share: options, how a folder becomes a project, and how things are printed."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from autoresearch_kit.serve.place import open_project_at as open_project_at
from autoresearch_kit.serve.place import refuse_desk
from autoresearch_kit.serve.verbs import Verb

if TYPE_CHECKING:
    from rich.console import Console

    from autoresearch_kit.project import Project

INTERRUPTED = 130


def _no_desk(_: click.Context, __: click.Parameter, value: Path) -> Path:
    refuse_desk(value)
    return value


directory = click.argument(
    "directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path), callback=_no_desk
)
"""The project's folder, or its spec."""
anywhere = click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
"""The same, or a desk: for the verbs of an agent. `place_of` says which."""
tag_option = click.option("--tag", metavar="T", help="The run; without it the one that was active last.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def verb_command(verb: Verb, *extra: Callable[[Any], Any]) -> Callable[[Any], click.Command]:
    """A command with name, help and parameters of `verb`; `extra` are decorators for what only people need."""

    def decorate(function: Any) -> click.Command:
        for add in reversed(extra):
            function = add(function)
        for parameter in reversed(verb.parameters):
            name = parameter.name.replace("from", "origin")  # no name of Python's
            if not parameter.flags:
                add = click.argument(name, metavar=parameter.metavar, required=parameter.required)
            elif parameter.type == "boolean":
                add = click.option(*parameter.flags, name, is_flag=True, help=parameter.description)
            else:
                kind = {"integer": click.IntRange(min=1), "number": click.FloatRange(min=0)}.get(parameter.type)
                many = parameter.type == "array"
                add = click.option(
                    *parameter.flags, name, type=kind, multiple=many, metavar=parameter.metavar,
                    help=parameter.description,
                )  # fmt: skip
            function = add(function)
        return click.command(verb.name, help=verb.summary)(function)

    return decorate


def finite(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("it must be a number of hours")
    return value


def styled(text: str, color: str) -> str:
    """Colour for a terminal, unless the user wants none (https://no-color.org)."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=color, bold=True)


def print_row(word: str, subject: str, text: str, hint: str) -> None:
    color = {"ok": "green", "warn": "yellow", "not tried": "yellow"}.get(word.strip(), "red")
    click.echo(f"{styled(word, color)}  {subject}: {text}")
    if hint:
        click.echo(f"{' ' * len(word)}  hint: {hint}")


def print_json(document: Any) -> None:
    # Long lists one item a line: people can grep them, and the encoder that cannot indent is ten times as fast.
    if isinstance(document, list):
        click.echo("[" + ",\n ".join(map(json.JSONEncoder(allow_nan=False).encode, document)) + "]")
    else:
        click.echo(json.dumps(document, indent=2, allow_nan=False))


def console() -> Console:
    from rich.console import Console

    return Console()


def heed_signals() -> None:
    """Let whoever ends this process do so as by Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, _interrupt)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def default_tag(project: Project, today: str) -> str:
    """Today; with the folder's name where the repository may hold other projects, because tags belong to it."""
    from autoresearch_kit.core.names import is_name

    tag = f"{project.folder.name}-{today}"
    return tag if project.place.prefix and is_name(tag) else today
