"""A night in seconds: everything but the measurements, the agent and the time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoresearch_kit.cli.common import directory, heed_signals, json_option, open_project_at, print_json

if TYPE_CHECKING:
    from autoresearch_kit.ratchet import Event


@click.command()
@directory
@click.option(
    "--attempts",
    type=click.IntRange(0, 10_000),
    default=50,
    metavar="N",
    show_default=True,
    help="End after so many, where no budget of the spec ends it before.",
)
@click.option(
    "--noise",
    metavar="S",
    help="Standard deviation of one measurement, in units of the metric or in percent (1%); "
    "without it that of the latest run, or 1%.",
)
@click.option("--seed", type=int, default=0, metavar="K", show_default=True, help="Another seed, another night.")
@click.option(
    "--keep",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Put the last prompt and program.md there, to read.",
)
@json_option
def rehearse(directory: Path, attempts: int, noise: str | None, seed: int, keep: Path | None, as_json: bool) -> None:
    """Play a night in seconds with a scripted agent: nothing is measured, your files and refs stay as they are."""
    import gc
    from dataclasses import asdict

    from rich.console import Console
    from rich.text import Text

    from autoresearch_kit.ratchet import Judged, Note
    from autoresearch_kit.rehearse import Keepsakes, Rehearsal, read_amount, summary_lines
    from autoresearch_kit.views.display import verdict_line

    amount = None if noise is None else read_amount(noise)
    keepsakes = None if keep is None else Keepsakes(keep)
    gc.enable()
    heed_signals()
    err = Console(stderr=True)

    def watch(event: Event) -> None:
        if isinstance(event, Note):
            err.print(Text(event.text, style="yellow"), soft_wrap=True, highlight=False)
        elif isinstance(event, Judged):
            err.print(verdict_line(event.attempt), soft_wrap=True, highlight=False)

    with open_project_at(directory) as project, Rehearsal(project, amount, seed, watch) as rehearsal:
        found = rehearsal.play(attempts)
        kept = keepsakes.write(rehearsal.prompt, rehearsal.program) if keepsakes else []
    if as_json:
        print_json({**asdict(found), "kept_in": kept})
    else:
        click.echo("\n".join([*summary_lines(found), *[f"  wrote     {path}" for path in kept]]))
    raise SystemExit(1 if found.exit_code == 1 else 0)
