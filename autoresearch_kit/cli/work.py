"""Runs: the loop, the measurement to publish, and the removal of what a run left in the cache."""

from __future__ import annotations

import contextlib
import gc
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoresearch_kit.cli.common import (
    default_tag,
    directory,
    finite,
    heed_signals,
    json_option,
    open_project_at,
    print_json,
    styled,
    tag_option,
)
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.serve.place import run_of, unmeasured

if TYPE_CHECKING:
    from autoresearch_kit.core.budget import Ending, Limits
    from autoresearch_kit.core.records import Attempt
    from autoresearch_kit.core.spec import Agent as AgentSpec
    from autoresearch_kit.ledger.ledger import Ledger
    from autoresearch_kit.project import Project
    from autoresearch_kit.ratchet import Run, Watch


@click.command()
@directory
@click.option(
    "--tag",
    metavar="T",
    help="Name of the run; today's date unless given, with the folder's name in front in a sub-folder. "
    "A known one is resumed.",
)
@click.option("--agent", metavar="A", help="A preset's name or else a shell command; the spec's unless given.")
@click.option(
    "--drive",
    type=click.Choice(["engine", "agent"]),
    help="Who drives the loop: ark, with a fresh prompt for each attempt, or the agent, by `ark try`; "
    "the spec says it unless given.",
)
@click.option("--attempts", type=click.IntRange(min=0), metavar="N", help="Stop after so many new attempts.")
@click.option(
    "--hours",
    type=click.FloatRange(min=0),
    metavar="H",
    callback=finite,
    help="Begin no new attempt after so much time; one that is running is not cut short.",
)
@click.option("--from", "start_from", metavar="TAG/N", help="Begin a new run with the files of that attempt.")
def run(
    directory: Path,
    tag: str | None,
    agent: str | None,
    drive: str | None,
    attempts: int | None,
    hours: float | None,
    start_from: str | None,
) -> None:
    """Measure the baseline, then let the agent work until a limit is reached or you press Ctrl-C."""
    import time

    from rich.console import Console

    from autoresearch_kit.agents import choose
    from autoresearch_kit.agents.brief import check_templates
    from autoresearch_kit.core.budget import Limits
    from autoresearch_kit.ledger.ledger import check_tag
    from autoresearch_kit.notify import STOPPED, Notifier
    from autoresearch_kit.ratchet import Run
    from autoresearch_kit.serve import session
    from autoresearch_kit.serve.client import dismiss
    from autoresearch_kit.serve.host import Host
    from autoresearch_kit.views.display import Display

    gc.enable()
    with open_project_at(directory) as project:
        agents = session.drivers(choose(project.spec, agent), drive)
        check_templates(project.spec, project.folder)
        tag = default_tag(project, time.strftime("%b%d").lower()) if tag is None else check_tag(tag)
        heed_signals()
        limits = Limits(attempts, hours)
        with Display(Console(stderr=True)) as display, Notifier(project, display) as notifier:
            host = Host(notifier, agents[0].known_as, stays=True) if agents[0].drive == "agent" else None
            with Run(project, tag, host.watch if host else notifier) as held:
                display.follow(held)
                dismiss(held.cache)
                held.open(start_from)
                if host is None:
                    _refuse_to_lose(held.cache, "`ark run` lays the desk anew for each turn")
                notifier.follow(held)
                try:
                    if host:
                        ending = session.drive(held, host, agents[0], limits, held.recorded(notifier))
                    else:
                        ending = _loop(held, agents, limits, held.recorded(notifier))
                except KeyboardInterrupt:
                    ending = STOPPED
                held.live.end(ending.reason)
                notifier.ended(ending)
        _print_ending(project, held.ledger, held.attempts, directory, ending.reason)
    raise SystemExit(ending.exit_code)


def _refuse_to_lose(cache: Path, why: str) -> None:
    """ArkError when somebody works on the desk in that cache of a run, and has not measured what he changed."""
    from autoresearch_kit.lab.cache import DESK
    from autoresearch_kit.lab.ticket import Ticket

    ticket, left, where = Ticket.read(cache), [], cache / DESK
    if ticket is None:
        return
    folder = Path(ticket.spec).parent
    with contextlib.suppress(ArkError), open_project_at(Path(ticket.spec)) as project:  # it may be gone, or broken
        left, where = unmeasured(project, cache), where / project.place.prefix
    if left:
        files = ", ".join(left[:5]) + (" and others" if len(left) > 5 else "")
        anew = shlex.join(["ark", "desk", str(folder), "--tag", ticket.tag, "--anew"])
        raise ArkError(
            f"on the desk of run {ticket.tag} there is what was never measured: {files}; {why}",
            f"measure it: ark try, in {where}; or throw it away: {anew}",
        )


def _loop(run: Run, agents: Sequence[AgentSpec], limits: Limits, watch: Watch) -> Ending:
    """Ask the agents for changes, one after another, until a limit is reached."""
    from autoresearch_kit.agents import open_agents
    from autoresearch_kit.loop import Turns, loop

    worker = open_agents(agents, run, watch)
    try:
        run.ready()
        return loop(run, worker, Turns(run, limits, watch))
    finally:
        worker.close()


def _print_ending(project: Project, ledger: Ledger, attempts: Sequence[Attempt], directory: Path, reason: str) -> None:
    from autoresearch_kit.views.summary import status, status_lines

    found = status(project, ledger, attempts)
    click.echo(err=True)
    click.echo(f"run {found['tag']}: {reason}")
    click.echo("\n".join(status_lines(found)[1:]))
    where = "" if directory == Path() else f" {shlex.quote(str(directory))}"
    best = f"ark show {found['tag']}/{found['best_attempt']}{where}" if found["best_attempt"] is not None else "ark log"
    click.echo(f"\nnext: {best}   ark report{where} --tag {found['tag']}   git log {found['branch']}", err=True)


@click.command()
@directory
@tag_option
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=12,
    metavar="N",
    show_default=True,
    help="Runs of baseline and head together, at least 8; fewer are made when there is no noise.",
)
@click.option("--ablate", is_flag=True, help="Take each kept change out of the head in turn: which carry weight?")
@json_option
def verify(directory: Path, tag: str | None, runs: int, ablate: bool, as_json: bool) -> None:
    """Measure baseline and head in turn, with fresh seeds: the number to publish, with its confidence interval."""
    from autoresearch_kit.core.verification import block_lines, warnings
    from autoresearch_kit.lab.cache import run_cache
    from autoresearch_kit.ledger.verified import as_data
    from autoresearch_kit.serve.client import dismiss
    from autoresearch_kit.verify import Verifier

    def tell(text: str) -> None:
        click.echo(text, err=True)

    with open_project_at(directory) as project:
        heed_signals()
        ledger = run_of(project, tag)[0]
        dismiss(run_cache(project.repository.common, ledger.branch))
        with Verifier(project, ledger.tag, tell) as verifier:
            verifier.open()
            found = verifier.verify(runs, ablate)
    for warning in warnings(found):
        tell(f"{styled('note:', 'yellow')} {warning}")
    if as_json:
        print_json(as_data(found))
    else:
        click.echo("\n".join(block_lines(found)))


@click.command()
@directory
def clean(directory: Path) -> None:
    """Remove desks, benches and caches of this repository's runs; never refs, your files, or what is unmeasured."""
    from autoresearch_kit.lab import cache
    from autoresearch_kit.ledger.lock import Lock
    from autoresearch_kit.serve.client import dismiss

    with open_project_at(directory) as project:
        folder = cache.repository_cache(project.repository.common)
        for run in folder.glob("*/"):
            dismiss(run)
        # Not by the refs: a run has none until its baseline begins.
        for path in sorted((project.repository.common / "ark").glob("*.lock")):
            # An export uses none of these folders.
            if not path.stem.startswith("+mlflow-") and Lock(path, "").is_held():
                # No tag begins with a plus.
                what = {"+noise": "`ark check --noise`", "+exam": "`ark exam`"}.get(path.stem, f"run {path.stem}")
                raise ArkError(f"{what} is going on in these folders", "stop it first, by Ctrl-C where it runs")
        for path in sorted(folder.glob("*/")):
            _refuse_to_lose(path, "`ark clean` removes every desk")
        if folder.exists():
            cache.remove(folder)
            click.echo(f"removed {folder}", err=True)
        else:
            click.echo("there was nothing to remove", err=True)
