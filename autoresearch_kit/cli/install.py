"""For coding agents: the verbs as an MCP server, and what tells an agent of it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from autoresearch_kit.cli.common import anywhere, default_tag, directory, styled, tag_option


@click.command()
@anywhere
@tag_option
def mcp(directory: Path, tag: str | None) -> None:
    """Serve the agent's verbs as an MCP server on stdio; DIR is the project or a desk."""
    import time

    from autoresearch_kit.serve.mcp import serve

    serve(directory, tag, lambda project: default_tag(project, time.strftime("%b%d").lower()))


@click.command()
@click.argument("agent", metavar="AGENT")
@directory
@click.option("--yes", is_flag=True, help="Write without asking; needed where nobody can be asked.")
@click.option("--undo", is_flag=True, help="Restore what was there before.")
@click.option("--user", is_flag=True, help="In your own configuration, for every project, instead of in the project.")
def install(agent: str, directory: Path, yes: bool, undo: bool, user: bool) -> None:
    """Tell AGENT (claude, codex, gemini, opencode, copilot, aider, pi) of `ark mcp`, after showing what is written."""
    from autoresearch_kit.install import carry_out, plan, plan_undo, target_of

    target = target_of(agent, directory, user)
    found = plan_undo(target) if undo else plan(target)
    for note in found.notes:
        click.echo(f"{styled('note:', 'yellow')} {note}", err=True)
    if not found.changes:
        click.echo("there is nothing to undo" if undo else "already there", err=True)
        return
    for change in found.changes:
        for line in change.diff():
            click.echo(_coloured(line))
    if not yes:
        if not _can_ask():
            click.echo("\nnothing was written; to write it: --yes", err=True)
            return
        if not click.confirm("\nWrite this?", err=True):
            click.echo("nothing was written", err=True)
            return
    carry_out(found, undo)
    for change in found.changes:
        click.echo(f"{'removed' if change.after is None else 'wrote'} {change.path}", err=True)
    if not undo:
        again = " ".join(["ark install", agent, *([] if user else [shlex.quote(str(directory))]), *["--user"] * user])
        click.echo(f"\nnext: start {agent} anew; to take it back: {again} --undo", err=True)


def _can_ask() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _coloured(line: str) -> str:
    color = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
    return styled(line, color) if color else line
