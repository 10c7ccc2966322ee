"""Before a run: a new project, a look at it, an exam of its evaluation, its program."""

from __future__ import annotations

from pathlib import Path

import click

from autoresearch_kit.cli.common import directory, heed_signals, json_option, open_project_at, print_json, print_row


@click.command()
@directory
@click.option("--template", metavar="NAME", help="What to start from; `blank` where nothing is there yet.")
@click.option("--list", "list_only", is_flag=True, help="List the templates and stop.")
@click.option("--run", "run_command", metavar="CMD", help="For code that is there: the experiment, a shell command.")
@click.option("--metric", metavar="NAME", help="The number that decides, by the name under which it is printed.")
@click.option("--direction", type=click.Choice(["minimize", "maximize"]), help="Whether lower or higher is better.")
@click.option("--mutable", multiple=True, metavar="FILE", help="A file or glob that may change; may be repeated.")
@click.option("--eval", "eval_command", metavar="CMD", help="Prints the metric after the run, where the run does not.")
def init(
    directory: Path,
    template: str | None,
    list_only: bool,
    run_command: str | None,
    metric: str | None,
    direction: str | None,
    mutable: tuple[str, ...],
    eval_command: str | None,
) -> None:
    """Start a project in DIR, and commit it.

    From a template, or with --run, --metric, --direction and --mutable around code that is there. On a terminal it asks
    for what is not given.
    """
    from autoresearch_kit import starter
    from autoresearch_kit.cli import beginning

    if list_only:
        beginning.list_templates()
        return
    heed_signals()
    known = starter.Own(run_command or "", metric or "", direction or "", mutable, eval_command or "")
    try:
        chosen = beginning.choose(directory, template, known)
    except click.Abort:  # Ctrl-C at a question, or the end of the input
        click.echo()
        raise KeyboardInterrupt from None
    if isinstance(chosen, starter.Own):
        started = starter.start_own(directory, chosen)
    else:
        started = starter.start_project(directory, chosen)
    beginning.tell(directory, started)


@click.command()
@directory
@click.option(
    "--noise",
    "runs",
    type=click.IntRange(min=2, max=1000),
    metavar="N",
    help="Measure the baseline N times, to see how small a gain can be detected; nothing is recorded.",
)
@json_option
def check(directory: Path, runs: int | None, as_json: bool) -> None:
    """See everything that could waste a night, and how small a gain can be detected."""
    from dataclasses import asdict

    from autoresearch_kit.check import check as look

    findings = []
    if runs:
        heed_signals()
    with open_project_at(directory) as project:
        for finding in look(project, runs or 0, lambda text: click.echo(text, err=True)):
            findings.append(asdict(finding))
            if not as_json:
                print_row(f"{finding.level:<4}", finding.subject, finding.text, finding.hint)
    if as_json:
        print_json(findings)
    if any(finding["level"] == "fail" for finding in findings):
        raise SystemExit(1)


@click.command()
@directory
@click.option(
    "--runs",
    type=click.IntRange(min=2),
    default=3,
    metavar="N",
    show_default=True,
    help="How often to measure the baseline, and an unchanged candidate.",
)
@click.option("--only", metavar="NAME", help="Ask one question, by its name in the table.")
@json_option
def exam(directory: Path, runs: int, only: str | None, as_json: bool) -> None:
    """Examine the evaluation: can broken files or planted cheats fool it?"""
    from dataclasses import asdict

    from autoresearch_kit.core.errors import UsageError
    from autoresearch_kit.exam import QUESTIONS, Exam, ask

    if only is not None and only not in QUESTIONS:
        raise UsageError(f"there is no question `{only}`", f"known: {', '.join(QUESTIONS)}")
    answers = []
    heed_signals()
    with open_project_at(directory) as project, Exam(project, runs, lambda text: click.echo(text, err=True)) as held:
        for answer in ask(held, only):
            answers.append(asdict(answer))
            if not as_json:
                print_row(f"{answer.verdict:<9}", answer.question, answer.text, answer.hint)
    if as_json:
        print_json(answers)
    if any(answer["verdict"] == "WEAK" for answer in answers):
        raise SystemExit(1)


@click.command("render-program")
@directory
@click.option(
    "-o",
    "output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where to; - for stdout. Without it program.md beside the spec, unless somebody wrote that by hand.",
)
def render_program(directory: Path, output: Path | None) -> None:
    """Write program.md, the agent's instructions, from the spec."""
    from autoresearch_kit.agents import brief
    from autoresearch_kit.core.names import PROGRAM_NAME
    from autoresearch_kit.core.specfile import load_spec
    from autoresearch_kit.project import find_spec, with_name

    path = find_spec(directory)
    text = brief.render_program(with_name(load_spec(path), path), path.parent)
    if output == Path("-"):
        click.echo(text, nl=False)
        return
    target = output or path.parent / PROGRAM_NAME
    if output is None:
        brief.refuse_foreign(target)
    brief.write_text(target, text)
    click.echo(f"wrote {target}", err=True)
