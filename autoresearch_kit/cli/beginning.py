"""What `ark init` asks and says: it asks on a terminal for what is not given, and elsewhere waits for no answer."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import click

from autoresearch_kit import starter
from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.globs import compile_globs
from autoresearch_kit.core.names import AGENTS, MODEL_FREE, SPEC_NAME
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.starter import BLANK, Own, Started

MOST_NAMED = 5
"""Files of one folder; of more, `ark init` says how many."""


def list_templates() -> None:
    """Print name and description of each template."""
    found = starter.templates()
    width = max(map(len, found))
    for name, source in found.items():
        click.echo(f"{name:<{width}}  {starter.describe(source)}")


def choose(folder: Path, template: str | None, known: Own) -> str | Own:
    """The template to start from, or what to say about the code that is there."""
    own = known != Own()
    if template is not None:
        if own:
            raise UsageError(
                "a template says itself how it is run and measured",
                "leave out --template to use the code that is there, or the other options to use the template",
            )
        return template
    # Before any question is asked.
    starter.refuse_place(folder)
    starter.refuse_what_is_there(folder)
    asks = sys.stdin.isatty() and sys.stdout.isatty()
    if not own and not _has_files(folder):
        return _ask_template() if asks else BLANK
    if not own and asks and not click.confirm(f"{folder} holds files. Shall they become the project?", default=True):
        return _ask_template()
    if known.missing:
        return _ask_own(folder, known) if asks else _refuse(folder, known, own)
    return known


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def _refuse(folder: Path, known: Own, own: bool) -> Own:
    line = f"ark init {_word(folder)} {starter.guess(folder, known).options()}"
    if own:
        are = "is" if len(known.missing) == 1 else "are"
        raise UsageError(f"{', '.join(known.missing)} {are} missing", f"perhaps: {line}")
    raise UsageError(
        f"{folder} holds files, and nothing says how they are run and measured",
        f"perhaps: {line}\nor, for a small project beside them: ark init {_word(folder)} --template {BLANK}",
    )


def _ask_template() -> str:
    list_templates()
    while True:
        name = str(_prompt("template", BLANK))
        try:
            starter.find_template(name)
            return name
        except UsageError as error:
            click.echo(f"{error.message}; {error.hint}")


def _ask_own(folder: Path, known: Own) -> Own:
    # One after the other: each answer makes the next guess a better one.
    own = known
    if not own.run_command:
        own = replace(own, run_command=_prompt("run command", starter.guess(folder, own).run_command))
    if not own.metric:
        own = replace(own, metric=_prompt("metric, as it is printed", starter.guess(folder, own).metric))
    if not own.direction:
        kinds = click.Choice(["minimize", "maximize"])
        own = replace(own, direction=_prompt("direction", starter.guess(folder, own).direction, kinds))
    if not own.mutable:
        guessed = shlex.join(starter.guess(folder, own).mutable)
        while not own.mutable:
            try:
                own = replace(own, mutable=tuple(shlex.split(_prompt("files that may change", guessed))))
            except ValueError as error:
                click.echo(f"that cannot be read: {error}")
    return own


def _prompt(question: str, default: str, kind: click.Choice[str] | None = None) -> str:
    while True:
        answer = str(click.prompt(question, default=default, show_default=bool(default), type=kind or str))
        if answer.strip():
            return answer
        click.echo("nothing was found that could be suggested here, so it needs an answer (Ctrl-C ends this)")


def tell(folder: Path, started: Started) -> None:
    """Say what was made, and what to do next."""
    click.echo(f"made and committed in {folder}: {', '.join(_listed(started.made))}", err=True)
    if started.author:
        click.echo(f"git does not know you yet, so the author is {started.author}", err=True)
    if started.worth_ignoring:
        lines = ", ".join(started.worth_ignoring)
        click.echo(f"your .gitignore stays as it is; lines worth adding: {lines}", err=True)
    click.echo("\nnext:", err=True)
    steps = list(_steps(folder, started))
    width = max(len(line) for line, _ in steps)
    for line, why in steps:
        click.echo(f"  {line:<{width}}  {why}".rstrip(), err=True)


def _listed(names: list[str]) -> Iterator[str]:
    """The files, in order; for a folder with many, their number."""
    for folder, inside in groupby(names, lambda name: name.rpartition("/")[0].partition("/")[0]):
        files = list(inside)
        if folder and len(files) > MOST_NAMED:
            yield f"{folder}/ ({len(files)} files)"
        else:
            yield from files


def _steps(folder: Path, started: Started) -> Iterator[tuple[str, str]]:
    if folder.resolve() != Path.cwd():
        yield f"cd {_word(folder)}", ""
    if left := _uncommitted(folder, started):
        yield f"git add -- {shlex.join(left)} && git commit -m start", "a run starts from what is committed"
    if not all(started.spec.env.values()):
        empty = ", ".join(name for name, value in started.spec.env.items() if not value)
        yield f"${{EDITOR:-vi}} {SPEC_NAME}", f"set {empty}"
    for name in started.made:
        if re.fullmatch(r"autoresearch-config\.\w+\.yaml", name):
            yield f"ark run {name}", "another spec of the same project; it says at its top what it is for"
    yield "ark check", "everything that could waste a night"
    yield "ark exam", "whether the evaluation can be fooled"
    installed = [name for name in AGENTS if name not in MODEL_FREE and shutil.which(name)]
    if started.spec.agents:
        yield "ark run --attempts 10", f"a first look, with {started.spec.agents[0].known_as}"
    if installed:
        yield f"ark run --agent {installed[0]} --hours 8", f"a night with {installed[0]}, which is installed here"
    elif not started.spec.agents:
        yield "ark run --agent 'COMMAND' --hours 8", "a night, with an agent of yours in the place of COMMAND"


def _word(folder: Path) -> str:
    """A folder as a word of a command line, where a dash in front would begin an option."""
    return shlex.quote(f"./{folder}" if str(folder).startswith("-") else str(folder))


def _uncommitted(folder: Path, started: Started) -> list[str]:
    """What the experiment needs and is in no commit yet: all there is, where nothing but the project was committed."""
    spec = started.spec
    try:
        repository = Repository(folder)
    except ArkError:  # one that `ark check` has more to say about
        return []
    try:
        prefix = "" if (place := folder.resolve().relative_to(repository.root).as_posix()) == "." else f"{place}/"
        files = [name.removeprefix(prefix) for name in repository.files(repository.head()) if name.startswith(prefix)]
        new = set(repository.changed(prefix)).difference(prefix + name for name in files)
    finally:
        repository.close()
    shared = {*spec.link, *starter.ENVIRONMENTS}
    left = [name for name in sorted(name.removeprefix(prefix) for name in new) if name.split("/")[0] not in shared]
    mutable, named = (
        compile_globs(spec.mutable_files),
        starter.needed(folder, f"{spec.run_command} ; {spec.eval_command}"),
    )
    lacking = [name for name in left if mutable.matches(name) or name in named]
    if lacking and set(files) == set(started.made):
        return sorted({name.split("/")[0] for name in left})
    return lacking
