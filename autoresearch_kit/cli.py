"""The command line: parse, call, print. Data goes to stdout, talk to stderr; errors become exit codes here alone.

Everything but click is imported where it is used, so that `ark --help` is quick.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import math
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from autoresearch_kit import __version__
from autoresearch_kit.core.errors import ArkError

if TYPE_CHECKING:
    from rich.console import Console

    from autoresearch_kit.core.records import Attempt
    from autoresearch_kit.ledger.git import Repository
    from autoresearch_kit.ledger.ledger import Ledger
    from autoresearch_kit.project import Project

INTERRUPTED = 130

directory = click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
tag_option = click.option("--tag", metavar="T", help="The run; without it the one that was active last.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


class _Group(click.Group):
    """Turns errors of `ark` into a sentence, a hint and an exit code, for every verb."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ArkError as error:
            _fail(error.message, error.hint, error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            # Whoever read our output has gone; what is left of it must not raise again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(1)
        except OSError as error:
            if error.errno is None:
                raise
            where = f"{error.filename}: " if error.filename else "the system refused: "
            _fail(f"{where}{error.strerror}", "", 1)


def _finite(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("it must be a number of hours")
    return value


def _fail(message: str, hint: str, code: int) -> NoReturn:
    for line in message.split("\n"):
        click.echo(f"{_styled('error:', 'red')} {line}", err=True)
    if hint:
        click.echo(f"\nhint: {hint}", err=True)
    raise SystemExit(code)


def _styled(text: str, color: str) -> str:
    """Colour for a terminal, unless the user wants none (https://no-color.org)."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=color, bold=True)


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 usage or spec, 3 a budget is spent, 130 interrupted.",
)
@click.version_option(__version__, prog_name="ark")
def main() -> None:
    """Autonomous research that can be trusted: an agent proposes, ark measures, decides and records in git.

    Start with `ark init`, see what is missing with `ark check`, and let it work with `ark run`.
    """
    # A title may hold what the terminal's encoding does not.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Most verbs live for a moment: looking for garbage would take a sixth of it.
    gc.disable()


@main.command()
@directory
@click.option("--template", default="blank", metavar="NAME", show_default=True, help="What to start from.")
@click.option("--list", "list_only", is_flag=True, help="List the templates and stop.")
def init(directory: Path, template: str, list_only: bool) -> None:
    """Start a project in DIR from a template, and commit it."""
    from autoresearch_kit import starter

    if list_only:
        for name in starter.templates():
            click.echo(name)
        return
    made, author = starter.start_project(directory, template)
    click.echo(f"made and committed in {directory}: {', '.join(made)}", err=True)
    if author:
        click.echo(f"git does not know you yet, so the author is {author}", err=True)
    click.echo(f"\nnext: ark check {directory} && ark run {directory}", err=True)


@main.command()
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
        _heed_signals()
    with _project(directory) as project:
        for finding in look(project, runs or 0, lambda text: click.echo(text, err=True)):
            findings.append(asdict(finding))
            if not as_json:
                _print_row(f"{finding.level:<4}", finding.subject, finding.text, finding.hint)
    if as_json:
        _print_json(findings)
    if any(finding["level"] == "fail" for finding in findings):
        raise SystemExit(1)


@main.command()
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
    _heed_signals()
    with _project(directory) as project, Exam(project, runs, lambda text: click.echo(text, err=True)) as held:
        for answer in ask(held, only):
            answers.append(asdict(answer))
            if not as_json:
                _print_row(f"{answer.verdict:<9}", answer.question, answer.text, answer.hint)
    if as_json:
        _print_json(answers)
    if any(answer["verdict"] == "WEAK" for answer in answers):
        raise SystemExit(1)


def _print_row(word: str, subject: str, text: str, hint: str) -> None:
    color = {"ok": "green", "warn": "yellow", "not tried": "yellow"}.get(word.strip(), "red")
    click.echo(f"{_styled(word, color)}  {subject}: {text}")
    if hint:
        click.echo(f"{' ' * len(word)}  hint: {hint}")


@main.command("render-program")
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
    text = brief.render_program(with_name(load_spec(path), path))
    if output == Path("-"):
        click.echo(text, nl=False)
        return
    target = output or path.parent / PROGRAM_NAME
    if output is None:
        brief.refuse_foreign(target)
    brief.write_text(target, text)
    click.echo(f"wrote {target}", err=True)


@main.command()
@directory
@click.option(
    "--tag",
    metavar="T",
    help="Name of the run; today's date unless given, with the folder's name in front in a sub-folder. "
    "A known one is resumed.",
)
@click.option("--agent", metavar="A", help="A preset's name or else a shell command; the spec's unless given.")
@click.option("--attempts", type=click.IntRange(min=0), metavar="N", help="Stop after so many new attempts.")
@click.option(
    "--hours",
    type=click.FloatRange(min=0),
    metavar="H",
    callback=_finite,
    help="Begin no new attempt after so much time; one that is running is not cut short.",
)
@click.option("--from", "start_from", metavar="TAG/N", help="Begin a new run with the files of that attempt.")
def run(
    directory: Path,
    tag: str | None,
    agent: str | None,
    attempts: int | None,
    hours: float | None,
    start_from: str | None,
) -> None:
    """Measure the baseline, then let the agent work until a limit is reached or you press Ctrl-C."""
    import time

    from rich.console import Console

    from autoresearch_kit.agents import choose, open_agent
    from autoresearch_kit.core.budget import Limits
    from autoresearch_kit.ledger.ledger import check_tag
    from autoresearch_kit.ratchet import Run, loop
    from autoresearch_kit.views.display import Display

    gc.enable()
    with _project(directory) as project:
        chosen = choose(project.spec, agent)
        tag = _default_tag(project, time.strftime("%b%d").lower()) if tag is None else check_tag(tag)
        _heed_signals()
        with Display(Console(stderr=True)) as display, Run(project, tag, display) as held:
            display.follow(held)
            held.open(start_from)
            worker = open_agent(chosen, held, display)
            try:
                held.ready()
                ending = loop(held, worker, Limits(attempts, hours), display)
            except KeyboardInterrupt:
                ending = None
            finally:
                worker.close()
        _print_ending(project, held.ledger, held.attempts, directory, ending.reason if ending else "stopped by you")
    raise SystemExit(ending.exit_code if ending else INTERRUPTED)


def _default_tag(project: Project, today: str) -> str:
    """Today; with the folder's name where the repository may hold other projects, because tags belong to it."""
    from autoresearch_kit.core.names import is_name

    tag = f"{project.folder.name}-{today}"
    return tag if project.place.prefix and is_name(tag) else today


def _heed_signals() -> None:
    """Let whoever ends this process do so as by Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, _interrupt)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _print_ending(project: Project, ledger: Ledger, attempts: Sequence[Attempt], directory: Path, reason: str) -> None:
    from autoresearch_kit.views.summary import status, status_lines

    found = status(project, ledger, attempts)
    click.echo(err=True)
    click.echo(f"run {found['tag']}: {reason}")
    click.echo("\n".join(status_lines(found)[1:]))
    where = "" if directory == Path() else f" {shlex.quote(str(directory))}"
    best = f"ark show {found['tag']}/{found['best_attempt']}{where}" if found["best_attempt"] is not None else "ark log"
    click.echo(f"\nnext: {best}   ark log{where} --tag {found['tag']}   git log {found['branch']}", err=True)


@main.command()
@directory
@tag_option
@json_option
def status(directory: Path, tag: str | None, as_json: bool) -> None:
    """Say how a run stands."""
    from autoresearch_kit.views import summary

    with _project(directory) as project:
        ledger, attempts = _run_of(project, tag)
        found = summary.status(project, ledger, attempts)
    if as_json:
        _print_json(found)
    else:
        click.echo("\n".join(summary.status_lines(found)))


@main.command()
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
    with _repository(directory) as repository:
        attempts = _read(repository, tag, _spec_name(repository, directory))[1]
    if as_json:
        _print_json([summary.log_entry(attempt) for attempt in attempts])
    elif as_tsv:
        from autoresearch_kit.core.specfile import load_spec
        from autoresearch_kit.project import find_spec

        click.echo(results.table(load_spec(find_spec(directory)).metric, attempts), nl=False)
    else:
        from autoresearch_kit.views.display import verdict_line

        console = _console()
        for attempt in attempts:
            console.print(verdict_line(attempt), soft_wrap=True, highlight=False)


def _print_replay(directory: Path, tag: str | None, rule: str, as_json: bool) -> None:
    from autoresearch_kit.views.replay import read_rule, replay, replay_entry, replay_lines

    decision = read_rule(rule)
    with _project(directory) as project:
        found = list(replay(project, _run_of(project, tag)[1], decision))
    if as_json:
        _print_json([replay_entry(replayed) for replayed in found])
    else:
        click.echo("\n".join(replay_lines(found)))


@main.command()
@click.argument("attempt", metavar="[TAG/]N")
@directory
@json_option
def show(attempt: str, directory: Path, as_json: bool) -> None:
    """Show one attempt: what was tried, why, the verdict and the diff."""
    from autoresearch_kit.core.errors import UsageError
    from autoresearch_kit.ledger.ledger import pick
    from autoresearch_kit.views import summary

    with _project(directory) as project:
        tag, slash, number = attempt.rpartition("/")
        if not number.isdigit() or (slash and not tag):
            raise UsageError(f"`{attempt}` is not an attempt", "write a number, or TAG/NUMBER")
        tag = tag or _run_of(project, None)[0].tag
        found = pick(project.repository, project.spec.branch_prefix, f"{tag}/{number}")
        diff = project.repository.diff(found.parent, found.commit) if found.parent else ""
        if as_json:
            _print_json(summary.full_entry(found, diff))
        else:
            console = _console()
            for line in summary.show_lines(found, diff):
                style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "") if diff else ""
                console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


@main.command()
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
    from autoresearch_kit.ledger.verified import as_data
    from autoresearch_kit.verify import Verifier

    def tell(text: str) -> None:
        click.echo(text, err=True)

    with _project(directory) as project:
        _heed_signals()
        with Verifier(project, _run_of(project, tag)[0].tag, tell) as verifier:
            verifier.open()
            found = verifier.verify(runs, ablate)
    for warning in warnings(found):
        tell(f"{_styled('note:', 'yellow')} {warning}")
    if as_json:
        _print_json(as_data(found))
    else:
        click.echo("\n".join(block_lines(found)))


@main.command()
@directory
def clean(directory: Path) -> None:
    """Remove desks, benches and caches of this repository's runs; never refs, never your files."""
    from autoresearch_kit.lab import cache
    from autoresearch_kit.ledger.lock import Lock

    with _project(directory) as project:
        # Not by the refs: a run has none until its baseline begins.
        for path in sorted((project.repository.common / "ark").glob("*.lock")):
            if Lock(path, "").is_held():
                # No tag begins with a plus.
                what = {"+noise": "`ark check --noise`", "+exam": "`ark exam`"}.get(path.stem, f"run {path.stem}")
                raise ArkError(f"{what} is going on in these folders", "stop it first, by Ctrl-C where it runs")
        folder = cache.repository_cache(project.repository.common)
        if folder.exists():
            cache.remove(folder)
            click.echo(f"removed {folder}", err=True)
        else:
            click.echo("there was nothing to remove", err=True)


@contextlib.contextmanager
def _project(directory: Path) -> Iterator[Project]:
    from autoresearch_kit.project import open_project

    project = open_project(directory)
    try:
        yield project
    finally:
        project.repository.close()


@contextlib.contextmanager
def _repository(directory: Path) -> Iterator[Repository]:
    from autoresearch_kit.ledger.git import Repository

    repository = Repository(directory if directory.is_dir() else directory.parent)
    try:
        yield repository
    finally:
        repository.close()


def _run_of(project: Project, tag: str | None) -> tuple[Ledger, list[Attempt]]:
    from autoresearch_kit.ledger.ledger import Ledger

    ledger, attempts = _read(project.repository, tag, project.spec_name)
    return Ledger(project.repository, project.spec.branch_prefix, ledger.tag), attempts


def _spec_name(repository: Repository, directory: Path) -> str:
    from autoresearch_kit.core.names import SPEC_NAME

    path = directory if directory.is_file() else directory / SPEC_NAME
    return os.path.relpath(path.resolve(), repository.root.resolve())


def _read(repository: Repository, tag: str | None, spec: str) -> tuple[Ledger, list[Attempt]]:
    """The run `tag`, else that of the spec at path `spec` which was active last. UsageError when there is none."""
    from autoresearch_kit.core.errors import UsageError
    from autoresearch_kit.ledger.ledger import Ledger, read_latest, tags

    if tag is None:
        found = read_latest(repository, spec)
        if found is None:
            raise UsageError("there is no run of this project yet", "start one: ark run")
        return found
    ledger = Ledger(repository, "", tag)
    attempts = ledger.read()
    if not attempts:
        known = ", ".join(tags(repository)) or "none yet"
        raise UsageError(f"there is no run {tag}", f"the runs are: {known}")
    return ledger, attempts


def _console() -> Console:
    from rich.console import Console

    return Console()


def _print_json(document: Any) -> None:
    # Long lists one item a line: people can grep them, and the encoder that cannot indent is ten times as fast.
    if isinstance(document, list):
        click.echo("[" + ",\n ".join(map(json.JSONEncoder(allow_nan=False).encode, document)) + "]")
    else:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
