"""Runs for other programs: as a table, as lines, in MLflow."""

from __future__ import annotations

from pathlib import Path

import click

from autoresearch_kit.cli.common import directory, open_project_at

STDOUT = Path("-")


@click.command()
@directory
@click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="T",
    help="A run, or whatever else `ark compare` takes; may be given again. Without it all runs of the spec.",
)
@click.option(
    "--csv", "table", type=click.Path(path_type=Path), metavar="FILE", help="One row an attempt; - is stdout."
)
@click.option(
    "--jsonl", "lines", type=click.Path(path_type=Path), metavar="FILE", help="One JSON object an attempt; - is stdout."
)
@click.option(
    "--mlflow", "uri", metavar="URI", help="Bring a store of MLflow up to date: a server, database or folder."
)
def export(directory: Path, tags: tuple[str, ...], table: Path | None, lines: Path | None, uri: str | None) -> None:
    """Hand runs to other programs: a table, JSON lines, MLflow. Give at least one of them."""
    if table is None and lines is None and uri is None:
        raise click.UsageError("give --csv FILE, --jsonl FILE or --mlflow URI")
    if table == lines == STDOUT:
        raise click.UsageError("--csv - and --jsonl - exclude each other")
    from autoresearch_kit.campaigns import all_campaigns, find_campaign
    from autoresearch_kit.ledger.ledger import no_run
    from autoresearch_kit.views.export import csv_text, jsonl_text

    with open_project_at(directory) as project:
        names = dict.fromkeys(tags)
        runs = [find_campaign(project, name) for name in names] if names else all_campaigns(project)
        if not runs:
            raise no_run(project.repository)
        if table is not None:
            _write(table, csv_text(runs))
        if lines is not None:
            _write(lines, jsonl_text(project.repository, runs))
        if uri is not None:
            import gc

            from autoresearch_kit.views import mlflow

            gc.enable()  # thousands of runs

            def tell(text: str) -> None:
                click.echo(text, err=True)

            for found in mlflow.export(project.repository, project.spec.name, runs, uri, tell):
                tell(f"{found.run}: {found.new:,} new attempts, {found.known:,} were there")
                if found.patches_refused:
                    tell(f"{found.run}: the changes themselves were left out: {found.patches_refused}")


def _write(path: Path, text: str) -> None:
    from autoresearch_kit.agents.brief import write_text

    if path == STDOUT:
        click.echo(text.encode(), nl=False)
    else:
        write_text(path, text)
        click.echo(f"wrote {path}", err=True)
