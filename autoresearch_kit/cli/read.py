"""What came of a run: how it stands, its attempts, one of them."""

from __future__ import annotations

from pathlib import Path

import click

from autoresearch_kit.cli.common import (
    console,
    directory,
    json_option,
    open_project_at,
    open_repository_at,
    print_json,
    read_run,
    run_of,
    spec_name,
    tag_option,
)


@click.command()
@directory
@tag_option
@json_option
def status(directory: Path, tag: str | None, as_json: bool) -> None:
    """Say how a run stands."""
    from autoresearch_kit.views import summary

    with open_project_at(directory) as project:
        ledger, attempts = run_of(project, tag)
        found = summary.status(project, ledger, attempts)
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(summary.status_lines(found)))


@click.command()
@directory
@tag_option
@json_option
@click.option("--tsv", "as_tsv", is_flag=True, help="The table of results.tsv.")
@click.option("--replay", metavar="RULE", help="What another `decision` would have kept; nothing is measured.")
def log(directory: Path, tag: str | None, as_json: bool, as_tsv: bool, replay: str | None) -> None:
    """List every attempt of a run."""
    from autoresearch_kit.ledger import results
    from autoresearch_kit.views import summary

    if as_tsv and (as_json or replay):
        raise click.UsageError(f"--tsv and {'--json' if as_json else '--replay'} exclude each other")
    if replay is not None:
        _print_replay(directory, tag, replay, as_json)
        return
    # Without --tsv no spec is needed, which saves a third of the time.
    with open_repository_at(directory) as repository:
        attempts = read_run(repository, tag, spec_name(repository, directory))[1]
    if as_json:
        print_json([summary.log_entry(attempt) for attempt in attempts])
    elif as_tsv:
        from autoresearch_kit.core.specfile import load_spec
        from autoresearch_kit.project import find_spec

        click.echo(results.table(load_spec(find_spec(directory)).metric, attempts), nl=False)
    else:
        from autoresearch_kit.views.display import verdict_line

        out = console()
        for attempt in attempts:
            out.print(verdict_line(attempt), soft_wrap=True, highlight=False)


def _print_replay(directory: Path, tag: str | None, rule: str, as_json: bool) -> None:
    from autoresearch_kit.views.replay import read_rule, replay, replay_entry, replay_lines

    decision = read_rule(rule)
    with open_project_at(directory) as project:
        found = list(replay(project, run_of(project, tag)[1], decision))
    if as_json:
        print_json([replay_entry(replayed) for replayed in found])
    else:
        click.echo("\n".join(replay_lines(found)))


@click.command()
@click.argument("attempt", metavar="[TAG/]N")
@directory
@json_option
def show(attempt: str, directory: Path, as_json: bool) -> None:
    """Show one attempt: what was tried, why, the verdict and the diff."""
    from autoresearch_kit.core.errors import UsageError
    from autoresearch_kit.ledger.ledger import pick
    from autoresearch_kit.views import summary

    with open_project_at(directory) as project:
        tag, slash, number = attempt.rpartition("/")
        if not number.isdigit() or (slash and not tag):
            raise UsageError(f"`{attempt}` is not an attempt", "write a number, or TAG/NUMBER")
        tag = tag or run_of(project, None)[0].tag
        found = pick(project.repository, project.spec.branch_prefix, f"{tag}/{number}")
        diff = project.repository.diff(found.parent, found.commit) if found.parent else ""
        if as_json:
            print_json(summary.full_entry(found, diff))
        else:
            out = console()
            for line in summary.show_lines(found, diff):
                style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "") if diff else ""
                out.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
