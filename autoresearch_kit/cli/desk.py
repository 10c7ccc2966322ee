"""The agent's own way: a desk to work on, and what may be asked there."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from autoresearch_kit.cli.common import (
    anywhere,
    default_tag,
    directory,
    heed_signals,
    json_option,
    open_project_at,
    print_json,
    styled,
    tag_option,
    verb_command,
)
from autoresearch_kit.serve.place import place_of, unmeasured
from autoresearch_kit.serve.verbs import NOTE, TRY, WAIT, Tell, exit_code, silent

if TYPE_CHECKING:
    from autoresearch_kit.ratchet import Run

HERE = Path()
"""`ark try` and `ark wait` are called on the desk."""


@click.command()
@directory
@click.option("--tag", metavar="T", help="Name of the run, as for `ark run`; a known one goes on.")
@click.option("--anew", is_flag=True, help="Lay it anew even if that loses changes which were never measured.")
def desk(directory: Path, tag: str | None, anew: bool) -> None:
    """Lay a desk for an agent that you start by hand, and print where it is: cd "$(ark desk)"."""
    import time

    from rich.console import Console

    from autoresearch_kit.agents.brief import check_templates
    from autoresearch_kit.ledger.ledger import check_tag
    from autoresearch_kit.ratchet import Run
    from autoresearch_kit.views.display import Display

    gc.enable()
    with open_project_at(directory) as project:
        check_templates(project.spec, project.folder)
        tag = default_tag(project, time.strftime("%b%d").lower()) if tag is None else check_tag(tag)
        heed_signals()
        with Display(Console(stderr=True)) as display, Run(project, tag, display) as run:
            if not _is_served(run):
                display.follow(run)
                run.open()
                run.ready()
                _lay(run, anew)
        folder = run.cache / "desk" / project.place.prefix
    click.echo(f"Start an agent there and tell it to read program.md; `ark try` measures. This is run {tag}.", err=True)
    click.echo(folder)


def _is_served(run: Run) -> bool:
    from autoresearch_kit.serve.client import at_work, dismiss

    dismiss(run.cache)
    what = at_work(run.cache)
    if what:
        _note(f"another process measures {what}, so the desk is left as it is")
    return bool(what)


def _lay(run: Run, anew: bool) -> None:
    """Lay the desk, unless that would lose changes which nobody has measured."""
    from autoresearch_kit.agents.brief import desk_files

    if run.take_up_desk():
        run.lend_desk()  # what is left of an agent's turn is for whoever goes there now to look at
        if not anew and (left := unmeasured(run.project, run.cache)):
            what = f"Not measured yet: {', '.join(left)}"
            _note(f"{what}. The desk is left as it is; ark try measures it, ark desk --anew throws it away")
            return
    run.lay_desk(desk_files(run), lent=True)


def _note(text: str) -> None:
    click.echo(f"{styled('note:', 'yellow')} {text}", err=True)


@verb_command(TRY, json_option)
def try_(title: str | None, why: str | None, origin: tuple[str, ...], detach: bool, as_json: bool) -> None:
    arguments = {"title": title, "why": why, "from": origin, "detach": detach}
    found = TRY.call(place_of(HERE), arguments, _teller())
    _finish(found, as_json, 0 if detach and found["outcome"] == "running" else exit_code(found))


@verb_command(WAIT, json_option)
def wait(timeout_seconds: float | None, as_json: bool) -> None:
    found = WAIT.call(place_of(HERE), {"timeout_seconds": timeout_seconds}, _teller())
    _finish(found, as_json, exit_code(found))


def _finish(found: Mapping[str, Any], as_json: bool, code: int) -> NoReturn:
    from autoresearch_kit.serve.answers import lines

    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(lines(found)))
    raise SystemExit(code)


def _teller() -> Tell:
    """Prints a line for what happens, for whoever watches; not the verdict itself, which is the answer."""
    from autoresearch_kit.serve.answers import words

    verdict = ""

    def tell(event: Mapping[str, Any]) -> None:
        nonlocal verdict
        if verdict:
            click.echo(verdict, err=True)
        verdict = words(event) if event["event"] == "judged" else ""  # the last one is the answer
        if not verdict and (text := words(event)):
            click.echo("  " * (event["event"] in ("phase", "sample")) + text, err=True)

    return tell


@verb_command(NOTE, anywhere, tag_option, json_option)
def note(text: str | None, directory: Path, tag: str | None, as_json: bool) -> None:
    found = NOTE.call(place_of(directory, tag), {"text": text}, silent)
    if as_json:
        print_json(found)
    elif text is None:
        for idea in found["ideas"]:
            click.echo(f"{idea['when'][:16].replace('T', ' ')}  {idea['by']}: {idea['text']}")
    else:
        click.echo(f"noted, with {len(found['ideas']) - 1} others, in run {found['tag']}", err=True)
