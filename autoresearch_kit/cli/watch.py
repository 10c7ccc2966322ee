"""A run while it goes on, in the terminal or in the browser."""

from __future__ import annotations

import gc
from pathlib import Path

import click

from autoresearch_kit.cli.common import console, directory, heed_signals, open_project_at


@click.command()
@directory
@click.option(
    "--tag", metavar="T", help="The run; without it the one that is at work, else the one that was active last."
)
@click.option("--once", is_flag=True, help="Print how it stands now, and end; so it is on a pipe.")
@click.option("--web", is_flag=True, help="The report page, live, on this machine's own address.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Of --web; any free one unless given.",
)
def watch(directory: Path, tag: str | None, once: bool, web: bool, port: int | None) -> None:
    """Watch a run: what goes on, its curves, its log, the last verdicts. q ends the view, never the run."""
    if port is not None and not web:
        raise click.UsageError("--port is for --web")
    if once and web:
        raise click.UsageError("--once and --web exclude each other")
    gc.enable()
    heed_signals()
    with open_project_at(directory) as project:
        if web:
            from autoresearch_kit.watch.web import serve

            serve(project, tag, port or 0, click.echo)
        else:
            from autoresearch_kit.watch.screen import show

            show(project, tag, console(), once)
