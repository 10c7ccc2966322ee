"""A coding agent as a command: it gets a prompt on its standard input and edits files on the desk.

Exit code 0 means done; whether there is anything to measure is seen from the files alone, so that nothing that an agent
prints can turn a change into something else. Only a turn that failed, or changed nothing, is explained by its output.
Every process that it leaves behind is ended with its turn. Its environment is the user's: it may need keys and its own
configuration.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from autoresearch_kit.agents.brief import desk_files, render_prompt
from autoresearch_kit.agents.presets import PRESETS, Preset
from autoresearch_kit.agents.refusals import is_login, is_rate_limit, rest_seconds
from autoresearch_kit.agents.transcript import Transcript, as_number, at, lines_of
from autoresearch_kit.core.errors import UsageError
from autoresearch_kit.core.names import NOTES_FOLDER
from autoresearch_kit.core.records import Cost, Proposal, clean_line
from autoresearch_kit.core.spec import Agent as AgentSpec
from autoresearch_kit.lab import cache
from autoresearch_kit.lab.measure import Phase, command_environment
from autoresearch_kit.lab.processes import Command, Finished, Supervisor, tail
from autoresearch_kit.loop import Failed
from autoresearch_kit.loop import Finished as Done
from autoresearch_kit.ratchet import NoAttempt, Run, Watch

COST_NAME = "cost.json"
"""What a command may leave beside its note: `{"tokens": 1200, "money": 0.03}`."""
MIN_REST_SECONDS = 5.0
"""After a rate limit, however short it says it is: so that nobody turns in circles."""
MAX_FILES = 100
"""So many files at the most are named to a program that must be told them."""
SESSION_LOG = "session.log"
"""Where the output of an agent that drives goes; the next session begins it anew."""
LAST_LINES = 5
"""Where the last words of a program without a format of its own are looked for."""


@dataclass(frozen=True, slots=True)
class Played:
    """One turn of an agent."""

    failed: Failed | None
    """Why it failed; None when it ended by itself with exit code 0."""
    cost: Cost
    """What it cost, failed or not."""
    session: str = ""
    """By which it can be resumed; empty when it cannot."""
    message: str = ""
    """The last thing it said."""
    doubt: Failed | None = None
    """Why it brought nothing, if indeed it brought nothing: exit code 0, and yet its output tells of a limit, a login
    or denied tools. Whoever knows what became of the turn decides."""


class AgentProcess:
    """Runs one agent's program, a turn at a time. To be made, and closed, in a thread that lives as long as it."""

    def __init__(self, agent: AgentSpec, watch: Watch) -> None:
        self.agent = agent
        self._preset = PRESETS[agent.name] if agent.name else None
        if self._preset and self._preset.drives is None and agent.drive == "agent":
            raise UsageError(f"{agent.name} runs no commands, so it cannot drive", "write `drive: engine`")
        self._watch = watch
        self._supervisor = Supervisor()
        self._counted: dict[str, int] = {}

    def run(self, run: Run, prompt: bytes, *, timeout_seconds: float, resume: str = "") -> Played:
        """One turn on the desk as it is laid, to its end; `resume` is the session to go on with."""
        number = run.books.next_number
        # Logs with a number are trimmed as the numbers go on, while the program of a session is still writing.
        name = SESSION_LOG if self.agent.drive == "agent" else f"{number:04d}.agent.log"
        log = run.cache / "logs" / name
        cache.make_private(log.parent)  # an agent may have deleted the whole cache
        prompt_file = run.cache / cache.PROMPT
        cache.write_anew(prompt_file, prompt)
        env = command_environment(run.spec, prompt_file=str(prompt_file), tag=run.tag, attempt=number)
        line = self.agent.command or shlex.join(
            self._row.argv(self.agent, str(prompt_file), mutable_files(run), resume)
        )
        left = run.desk.left(COST_NAME)
        self._watch(Phase("agent", timeout_seconds, log, self.agent.known_as))
        done = self._supervisor.run(
            Command(
                line,
                run.desk.folder,
                self._equipped(env, ark_folder(run.cache)),
                log,
                timeout_seconds,
                stdin=prompt_file,
            )
        )
        found = self._preset.read(lines_of(log)) if self._preset else Transcript()
        cost = self._cost(done, found, resume)
        if self.agent.drive != "agent" and self._preset is None and (text := run.desk.left(COST_NAME)) != left:
            cost = _told_cost(text, cost)
        failed, doubt = (
            answer and replace(answer, agent=self.agent.known_as, cost=cost)
            for answer in (_failed(done, found, log, self._preset), _doubt(found, self._preset))
        )
        return Played(failed, cost, found.session, found.message, doubt)

    def take_cost(self, run: Run) -> Cost:
        """What a command that drives has told of its cost since the last time; not while the desk is laid."""
        text = run.desk.left(COST_NAME) if self._preset is None else ""
        if text:
            run.desk.put({f"{NOTES_FOLDER}/{COST_NAME}": b""})
        return _told_cost(text, Cost())

    def cancel(self) -> None:
        """From another thread: end the turn that is going on, if any."""
        self._supervisor.cancel()

    def close(self) -> None:
        """End the helper process, and with it the turn."""
        self._supervisor.close()

    @property
    def _row(self) -> Preset:
        assert self._preset is not None, "a command has no row"
        return self._preset

    def _cost(self, done: Finished, found: Transcript, resumed: str) -> Cost:
        tokens = found.tokens
        if self._preset and self._preset.counts_sessions and tokens is not None:
            tokens = max(0, tokens - self._counted.get(resumed, 0))
            self._counted[found.session] = found.tokens or 0
        return Cost(round(done.wall_seconds, 3), tokens, found.money)

    def _equipped(self, env: dict[str, str], folder: Path) -> dict[str, str]:
        """With `folder` first on PATH, and without what would make the program think that it runs inside of itself."""
        if self._preset:
            env = {**self._preset.environment, **env}
            env = {name: value for name, value in env.items() if name not in self._row.hidden}
        return {**env, "PATH": os.pathsep.join([str(folder), env.get("PATH") or os.defpath])}


def _failed(done: Finished, found: Transcript, log: Path, preset: Preset | None) -> Failed | None:
    """Why a turn failed; None when it ended by itself with exit code 0."""
    if not done.problem:
        return None
    if done.problem == "timeout":
        return Failed(f"The agent was ended: {done.detail}", "timed_out")
    said = found.errors or _last_words(log)
    if preset and done.exit_code is not None and done.exit_code == preset.login_exit:
        return _not_logged_in(said[-1] if said else done.detail, preset)
    last = clean_line(said[-1], 200) if said else ""
    reason = f"The agent failed: {done.detail}" + (f"; its last words: {last}" if last else "")
    return _refused(found, said, preset) or Failed(reason)


def _doubt(found: Transcript, preset: Preset | None) -> Failed | None:
    """What speaks against a turn that ended with exit code 0, if it changed nothing."""
    if preset is None:
        return None
    if found.errors:
        last = f"The agent failed: {clean_line(found.errors[-1], 200)}"
        return _refused(found, found.errors, preset) or Failed(last)
    if found.denied:
        more = f" and {len(found.denied) - 5} more" if len(found.denied) > 5 else ""
        reason = f"The agent changed nothing, and was not allowed to use {', '.join(found.denied[:5])}{more}"
        hint = f"to allow more, add to the agent in the spec, for example: {preset.allow}"
        return Failed(reason, "denied", hint)
    return None


def _refused(found: Transcript, said: Sequence[str], preset: Preset | None) -> Failed | None:
    """A rate limit or a missing login, by the last error that is either. A command's words never mean a login, which
    would end the run."""
    for text in reversed(said):
        if found.resets or is_rate_limit(text):
            told = found.resets - time.time() if found.resets else rest_seconds(text, datetime.now().astimezone())
            rest = None if told is None else max(MIN_REST_SECONDS, told)
            return Failed(f"The agent is rate limited: {clean_line(text, 200)}", "rate_limited", rest_seconds=rest)
        if preset and is_login(text):
            return _not_logged_in(text, preset)
    return None


def _not_logged_in(text: str, preset: Preset) -> Failed:
    reason = f"The agent is not logged in: {clean_line(text, 200)}"
    return Failed(reason, "not_logged_in", f"log in: {preset.login}", is_final=True)


class CommandAgent:
    """A named agent or a shell command, started anew for each turn in the spec's folder on the desk."""

    def __init__(self, agent: AgentSpec, watch: Watch) -> None:
        self._process = AgentProcess(agent, watch)

    def propose(self, run: Run) -> Proposal | Done | Failed:
        """Lay the desk with program.md, results.tsv and the prompt, and let the program work."""
        agent = self._process.agent
        prompt = render_prompt(run).encode()
        run.lay_desk(desk_files(run))
        played = self._process.run(run, prompt, timeout_seconds=agent.timeout_minutes * 60)
        failed = played.failed
        if failed is None and played.doubt and _changed_nothing(run):
            failed = played.doubt
        run.told = ""
        if failed:
            run.told = failed.reason if failed.kind in ("timed_out", "denied") else ""
            return failed
        title, why = run.desk.note()
        if not title:
            first, _, rest = played.message.strip().partition("\n")
            title, why = first.lstrip("#*- ").rstrip("* "), why or rest.strip()
        return Proposal(title, why, agent.known_as, played.cost)

    def close(self) -> None:
        """End the helper process."""
        self._process.close()


def _changed_nothing(run: Run) -> bool:
    change = run.change()
    return isinstance(change, NoAttempt) and change.kind == "no_change"


def _last_words(log: Path) -> list[str]:
    """The last lines that are not part of a JSON output: what a program says that did not even begin."""
    lines = [line.strip() for line in tail(log).split("\n")]
    return [line for line in lines if line and not line.startswith(("{", "[ark:"))][-LAST_LINES:]


def _told_cost(text: str, cost: Cost) -> Cost:
    """The cost that a command has left, as far as it is one."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return cost
    tokens = as_number(at(told, "tokens"))
    return replace(cost, tokens=None if tokens is None else int(tokens), money=as_number(at(told, "money")))


def mutable_files(run: Run) -> list[str]:
    """The mutable files of the head, as seen from the spec's folder."""
    place = run.project.place
    return sorted(path[len(place.prefix) :] for path in run.desk.files if place.is_mutable(path))[:MAX_FILES]


def ark_folder(run: Path) -> Path:
    """A folder in the cache of a run that holds nothing but `ark`, this very one: it may live in a virtual environment.

    It is the first on an agent's PATH, so it is made anew for each turn: what another has planted there would be run.
    """
    folder = run / cache.BIN
    cache.remove(folder)
    cache.make_private(folder)
    path = folder / "ark"
    # Without `-P` Python would look for the toolkit on the desk first.
    cache.write_anew(path, f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m autoresearch_kit "$@"\n'.encode())
    path.chmod(0o700)
    return folder
