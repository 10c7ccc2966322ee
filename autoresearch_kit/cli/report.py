"""A run as a page, or its chart as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoresearch_kit.cli.common import directory, open_project_at, tag_option

if TYPE_CHECKING:
    from autoresearch_kit.project import Project


@click.command()
@directory
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Default: ark-report-TAG.html; - for stdout.",
)
@tag_option
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="The chart alone, as .png or .svg by the name."
)
def report(directory: Path, output: Path | None, tag: str | None, plot: Path | None) -> None:
    """One HTML file that holds a whole run: chart, gains, costs, crashes and every change. It asks no network.

    `--tag` takes whatever `ark compare` takes: a run, one that was fetched, a branch, the log of another loop.
    """
    from autoresearch_kit.campaigns import latest_campaign

    if plot is not None and output is not None:
        raise click.UsageError("-o and --plot exclude each other")
    with open_project_at(directory) as project:
        campaign = latest_campaign(project, tag)
        if plot is not None:
            from autoresearch_kit.views.chart import progress, write_plot

            write_plot(progress(campaign), plot)
            click.echo(plot)
            return
        from autoresearch_kit.agents.brief import program_of_run, write_text
        from autoresearch_kit.views.report.data import read_document
        from autoresearch_kit.views.report.page import page

        text = page(campaign, read_document(project.repository, campaign, program_of_run(project, campaign)))
        if output == Path("-"):
            click.echo(text, nl=False)
            return
        target = output or Path(f"ark-report-{_file_name(campaign.name)}.html")
        write_text(target, text)
        if output is None:
            _hide(project, target)
        click.echo(target)


def _hide(project: Project, target: Path) -> None:
    """Have git ignore a report under the name that it got by itself, where that is in the repository."""
    from autoresearch_kit.ledger.results import hide

    root, path = project.repository.root.resolve(), target.resolve()
    if path.is_relative_to(root):
        hide(project.repository, path.relative_to(root).as_posix())


def _file_name(name: str) -> str:
    """The name of a run, which may be a path, as a part of a file's name."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name.strip("/.")) or "run"
