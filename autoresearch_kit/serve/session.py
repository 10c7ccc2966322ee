"""`drive: agent`: the agent is started once, drives the loop itself by `ark try`, and is started again when it stops.

The agent's program runs in a thread of its own; this one, which holds the run, measures what it asks for, and owns the
budgets: when the run is over the agent is told so, and has a minute to end. Its restarts are its turns: a turn is idle
when it brought no new tree, and what a turn has cost is charged to the next attempt, as `loop.Turns` says.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autoresearch_kit.agents.brief import desk_files, render_prompt
from autoresearch_kit.agents.command import AgentProcess, Played
from autoresearch_kit.core.budget import Ending, Limits
from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.names import MODEL_FREE
from autoresearch_kit.core.records import Cost, Proposal
from autoresearch_kit.core.spec import Agent as AgentSpec
from autoresearch_kit.loop import Failed, Turns
from autoresearch_kit.ratchet import Change, NoAttempt, Note, Run, Watch
from autoresearch_kit.serve.host import Host

FAREWELL_SECONDS = 60.0
"""How long the agent has to end by itself when the run is over."""
GLANCE_SECONDS = 0.2
"""How often to look whether the agent is still there."""
FOREVER_SECONDS = 365 * 24 * 3600.0
"""The agent's program has no time limit of its own, only one between two attempts."""


def drivers(agents: Sequence[AgentSpec], drive: str | None) -> list[AgentSpec]:
    """The agents, driven as the command line wants, else as the spec says. UsageError for one that cannot drive."""
    if drive is None:
        return list(agents)
    if drive == "agent" and len(agents) > 1:
        raise UsageError("several agents take turns, so none of them can drive", "name one: ark run --agent NAME")
    if drive == "agent" and agents[0].name in MODEL_FREE:
        raise UsageError(f"`{agents[0].name}` is a part of the kit, which drives it", "leave out --drive agent")
    return [agent.model_copy(update={"drive": drive}) for agent in agents]


def drive(run: Run, host: Host, agent: AgentSpec, limits: Limits, watch: Watch) -> Ending:
    """Let the agent drive a run that was opened, to its end. ArkError when the run cannot go on."""
    host.hold(run)
    session = Session(host, AgentProcess(agent, watch), watch)
    try:
        host.ready(Turns(run, limits, watch))
        try:
            return session.drive()
        finally:
            host.turns.sum_up()
    finally:
        session.close()
        host.close()


@dataclass
class _Turn:
    """One start of the agent's program."""

    thread: threading.Thread
    played: list[Played] = field(default_factory=list)
    crash: list[BaseException] = field(default_factory=list)
    attempts: int = 0
    """New trees that it has brought."""
    timed_out: bool = False


class Session:
    """One agent that drives one run. To be made in the main thread; `close` it there."""

    def __init__(
        self,
        host: Host,
        process: AgentProcess,
        watch: Watch,
        *,
        farewell_seconds: float = FAREWELL_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """The host holds the run and is ready."""
        self._host = host
        self._process = process
        self._watch = watch
        self._farewell_seconds = farewell_seconds
        self._sleep = sleep
        self._timeout_seconds = process.agent.timeout_minutes * 60
        self._turn: _Turn | None = None
        """What was started, and not paid for yet."""

    def drive(self) -> Ending:
        """Start the agent, again and again, until a limit is reached. ArkError when the run cannot go on."""
        turns, resume = self._host.turns, ""
        while True:
            if over := turns.over():
                return over
            turn = self._start(resume)
            if over := self._serve(turn):
                return over
            self._count_cost()
            played, self._turn = turn.played[0], None
            # A session that was taken up and brought nothing is not taken up again.
            resume = played.session if turn.attempts or not resume else ""
            pause = self._judge(turns, turn, played)
            if isinstance(pause, Ending):
                return pause
            if pause:
                self._sleep(pause)

    def close(self) -> None:
        """End the agent, and enter what its last conversation has cost."""
        if turn := self._turn:
            self._end(turn)
            with contextlib.suppress(ArkError):  # there may be another one on its way
                self._count_cost()
                for played in turn.played:
                    self._host.turns.owe(self._process.agent.known_as, played.cost)
        self._process.close()

    def _start(self, resume: str) -> _Turn:
        run = self._run
        change = None if self._host.desk_is_gone else run.change()
        if isinstance(change, Change):  # what an earlier turn has left unmeasured is still there
            run.desk.put(desk_files(run))
            run.told = run.told or f"what it changed and did not measure is still here: {', '.join(change.paths[:5])}"
        else:
            self._host.lay()
        prompt = render_prompt(run, drives=True).encode()
        run.told = ""

        def play() -> None:
            try:
                turn.played.append(self._process.run(run, prompt, timeout_seconds=FOREVER_SECONDS, resume=resume))
            except BaseException as error:  # for the thread that waits
                turn.crash.append(error)

        turn = self._turn = _Turn(threading.Thread(target=play, daemon=True))
        turn.thread.start()
        return turn

    def _serve(self, turn: _Turn) -> Ending | None:
        """Measure what the agent asks for until it has ended; the Ending when the run was over before."""
        turns, server = self._host.turns, self._host.server
        over: Ending | None = None
        since = time.monotonic()
        while True:
            alive = turn.thread.is_alive()
            if order := server.take(GLANCE_SECONDS if alive else 0.0):
                made = turns.made
                self._count_cost()
                self._host.handle(order)
                if turns.made > made:
                    turn.attempts += turns.made - made
                    since = time.monotonic()
            elif not alive:
                break
            if over is None and (over := turns.over()):
                since = time.monotonic()
            waited = time.monotonic() - since
            if waited > (self._farewell_seconds if over else self._timeout_seconds):
                turn.timed_out = True
                self._end(turn)
            elif self._host.desk_is_gone:
                with contextlib.suppress(ArkError):  # the next look tries again
                    self._host.lay()
        if turn.crash:
            raise turn.crash[0]
        return over

    def _judge(self, turns: Turns, turn: _Turn, played: Played) -> Ending | float:
        """How long to wait before the agent is started again, or why it is not."""
        failed = played.failed or (None if turn.attempts else played.doubt)
        name = self._process.agent.known_as
        if turn.timed_out:
            reason = (
                f"The agent brought nothing new to measure for {self._timeout_seconds / 60:g} minutes and was ended"
            )
            failed = Failed(reason, "timed_out", agent=name, cost=played.cost)
        if turn.attempts and (failed is None or failed.kind not in ("rate_limited", "not_logged_in")):
            turns.owe(name, played.cost)
            why = failed.reason if failed else "The agent stopped early"
            self._watch(Note(f"{why}, after {turn.attempts} attempts; it is started again"))
            return 0.0
        if failed is None:
            idle = NoAttempt("no_change", "The agent stopped without an attempt")
            return turns.take(Proposal("", agent=name, cost=played.cost), idle) or 0.0
        self._run.told = failed.reason if failed.kind in ("timed_out", "denied") else ""
        return turns.fail(failed)

    def _count_cost(self) -> None:
        """Enter what a command has told of its cost, before the desk is laid anew and that is gone."""
        if not self._host.desk_is_gone and (cost := self._process.take_cost(self._run)) != Cost():
            self._host.turns.owe(self._process.agent.known_as, cost)

    def _end(self, turn: _Turn) -> None:
        while turn.thread.is_alive():
            self._process.cancel()  # again, should its program have been about to start
            turn.thread.join(1.0)

    @property
    def _run(self) -> Run:
        return self._host.run
