"""Runs looked at beside each other."""

from __future__ import annotations

from pathlib import Path

import click

from autoresearch_kit.cli.common import console, json_option, open_project_at, print_json


@click.command()
@click.argument("names", metavar="[BRANCH-or-TAG-or-PATH ...] [DIR]", nargs=-1)
@json_option
@click.option("--html", metavar="FILE", type=click.Path(path_type=Path), help="Write it as one page, with charts.")
@click.option("--plot", metavar="FILE", type=click.Path(path_type=Path), help="Draw the best so far: .png or .svg.")
@click.option("--by", type=click.Choice(["attempts", "hours"]), default="attempts", help="What --plot draws it over.")
def compare(names: tuple[str, ...], as_json: bool, html: Path | None, plot: Path | None, by: str) -> None:
    """Runs side by side: all of the spec, or those that are named.

    A name is a run's tag, REMOTE/TAG for one that was fetched, a branch, or a path to what another tool left
    (results.tsv, autoresearch.jsonl, .auto/log.jsonl). A last word that is a folder with a spec, or a spec, is DIR.
    """
    from autoresearch_kit.campaigns import all_campaigns, find_campaign
    from autoresearch_kit.ledger.ledger import no_run
    from autoresearch_kit.views.changes import change_data, changes, offers_data
    from autoresearch_kit.views.compare import compare as put_side_by_side
    from autoresearch_kit.views.compare import row_data

    words, directory = _split(names)
    with open_project_at(directory) as project:
        runs = [find_campaign(project, name) for name in words] if words else all_campaigns(project)
        if not runs:
            raise no_run(project.repository)
        rows = put_side_by_side(project, runs, named=bool(words))
        found = changes(project.repository, [row.campaign for row in rows])
        if plot is not None:
            from autoresearch_kit.views.compare_page import write_plot

            if left_out := write_plot(rows, by, plot):
                click.echo(f"not drawn, because it has another metric or no values: {', '.join(left_out)}", err=True)
        if html is not None:
            from autoresearch_kit.agents.brief import write_text
            from autoresearch_kit.views.compare_page import page

            write_text(html, page(project.spec.name, rows, found))
        if as_json:
            offered = offers_data(found, [row.campaign for row in rows])
            print_json({"runs": list(map(row_data, rows)), "changes": list(map(change_data, found)), "offers": offered})
        elif html is None and plot is None:
            from autoresearch_kit.views.compare_table import print_all

            print_all(console(), rows, found)
        else:
            click.echo("\n".join(str(path) for path in (html, plot) if path is not None))


def _split(names: tuple[str, ...]) -> tuple[tuple[str, ...], Path]:
    """The names of runs, and the project's folder or spec."""
    from autoresearch_kit.core.names import SPEC_NAME

    if names:
        last = Path(names[-1])
        if (last / SPEC_NAME).is_file() or (last.suffix in (".yaml", ".yml") and last.is_file()):
            return names[:-1], last
    return names, Path()
