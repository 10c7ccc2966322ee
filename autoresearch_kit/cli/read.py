"""What came of a run: how it stands, its attempts, one of them."""

from __future__ import annotations

from pathlib import Path

import click

from autoresearch_kit.cli.common import (
    anywhere,
    console,
    json_option,
    open_project_at,
    print_json,
    tag_option,
    verb_command,
)
from autoresearch_kit.serve.place import Place, open_repository_at, place_of, read_run, run_of, spec_name
from autoresearch_kit.serve.verbs import HISTORY, SHOW, STATUS, silent


@verb_command(STATUS, anywhere, tag_option, json_option)
def status(directory: Path, tag: str | None, as_json: bool) -> None:
    from autoresearch_kit.views import summary

    found = STATUS.call(place_of(directory, tag), {}, silent)
    if as_json:
        print_json(found)
    else:
        click.echo("\n".join(summary.status_lines(found)))
        for name in ("over", "desk"):
            if found[name]:
                click.echo(f"  {name:<8}  {found[name]}")


tsv_option = click.option("--tsv", "as_tsv", is_flag=True, help="The table of results.tsv.")
replay_option = click.option(
    "--replay", metavar="RULE", help="What another `decision` would have kept; nothing is measured."
)


@verb_command(HISTORY, anywhere, tag_option, json_option, tsv_option, replay_option)
def log(directory: Path, tag: str | None, last: int | None, as_json: bool, as_tsv: bool, replay: str | None) -> None:
    from autoresearch_kit.ledger import results

    if as_tsv and (as_json or replay):
        raise click.UsageError(f"--tsv and {'--json' if as_json else '--replay'} exclude each other")
    place = place_of(directory, tag)
    if replay is not None:
        _print_replay(place, replay, as_json)
        return
    if as_json:
        print_json(HISTORY.call(place, {"last": last}, silent))
        return
    # Without --tsv no spec is needed, which saves a third of the time.
    with open_repository_at(place.where) as repository:
        attempts = read_run(repository, place.tag, spec_name(repository, place.where))[1][-(last or 0) :]
    if as_tsv:
        from autoresearch_kit.core.specfile import load_spec
        from autoresearch_kit.project import find_spec

        click.echo(results.table(load_spec(find_spec(place.where)).metric, attempts), nl=False)
    else:
        from autoresearch_kit.views.display import verdict_line

        out = console()
        for attempt in attempts:
            out.print(verdict_line(attempt), soft_wrap=True, highlight=False)


def _print_replay(place: Place, rule: str, as_json: bool) -> None:
    from autoresearch_kit.views.replay import read_rule, replay, replay_entry, replay_lines

    decision = read_rule(rule)
    with open_project_at(place.where) as project:
        found = list(replay(project, run_of(project, place.tag)[1], decision))
    if as_json:
        print_json([replay_entry(replayed) for replayed in found])
    else:
        click.echo("\n".join(replay_lines(found)))


@verb_command(SHOW, anywhere, tag_option, json_option)
def show(attempt: str, directory: Path, tag: str | None, as_json: bool) -> None:
    from autoresearch_kit.serve.place import find_attempt
    from autoresearch_kit.views import summary

    place = place_of(directory, tag)
    if as_json:
        print_json(SHOW.call(place, {"attempt": attempt}, silent))
        return
    with open_project_at(place.where) as project:
        found = find_attempt(project, place.tag, attempt)
        diff = project.repository.diff(found.parent, found.commit) if found.parent else ""
        out = console()
        for line in summary.show_lines(found, diff):
            style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "") if diff else ""
            out.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
