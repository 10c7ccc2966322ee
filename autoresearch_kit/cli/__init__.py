"""The command line: parse, call, print. Data goes to stdout, talk to stderr; errors become exit codes here alone.

One module for each part of the work: `start` before a run, `work` for runs, `read` for what came of them. Everything
but click is imported where it is used, so that `ark --help` is quick.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from autoresearch_kit import __version__
from autoresearch_kit.cli import desk, export, install, read, rehearse, report, see, share, start, watch, work
from autoresearch_kit.cli.common import INTERRUPTED, styled
from autoresearch_kit.core.errors import ArkError


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


def _fail(message: str, hint: str, code: int) -> NoReturn:
    from autoresearch_kit.core.records import clean_text

    # Names in it may be somebody else's: of a run that was fetched, of a file in it.
    for line in clean_text(message, len(message) + 1).split("\n"):
        click.echo(f"{styled('error:', 'red')} {line}", err=True)
    if hint:
        click.echo(f"\nhint: {clean_text(hint, len(hint) + 1)}", err=True)
    raise SystemExit(code)


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
    _open_what_is_closed()
    # A title may hold what the terminal's encoding does not.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Most verbs live for a moment: looking for garbage would take a sixth of it.
    gc.disable()
    # Nor does anybody look at the end: thousands of records would be searched for garbage once more.
    atexit.register(gc.freeze)


def _open_what_is_closed() -> None:
    """Some daemons start programs without standard streams: the next file that we opened would become one of them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (for ever, at the lowest free number)


for _verb in (
    start.init,
    start.check,
    start.exam,
    start.render_program,
    rehearse.rehearse,
    work.run,
    desk.desk,
    desk.try_,
    desk.wait,
    desk.note,
    read.status,
    read.log,
    read.show,
    see.compare,
    report.report,
    export.export,
    share.push,
    share.fetch,
    work.verify,
    watch.watch,
    install.mcp,
    install.install,
    work.clean,
):
    main.add_command(_verb)
