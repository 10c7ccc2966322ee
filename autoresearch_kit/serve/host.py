"""The process that measures for `ark try`: it holds the run, so that nothing is lost when whoever called is killed.

`Host` does one order after another, in the thread that holds the run. For a person's own agent it lives in a process
that the first `ark try` starts, and that ends soon after the last; with `drive: agent` it lives inside `ark run`.

    python -m autoresearch_kit.serve.host SPEC TAG

What was changed is taken off the desk, into git, and only then is the desk laid anew, before the measurement begins:
whoever works there may go on meanwhile, and nothing that he writes is lost, whoever is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from autoresearch_kit.agents.brief import desk_files
from autoresearch_kit.core.budget import Limits
from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.records import Attempt, Proposal
from autoresearch_kit.lab.desk import Refused
from autoresearch_kit.ledger.ledger import pick
from autoresearch_kit.loop import Turns
from autoresearch_kit.notify import Notifier
from autoresearch_kit.project import open_project
from autoresearch_kit.ratchet import Change, Event, Judged, NoAttempt, Note, Run, Sampling, Watch
from autoresearch_kit.serve.answers import AFTER, measured, running, unmeasured
from autoresearch_kit.serve.place import refuse_desk
from autoresearch_kit.serve.server import STOPPED, Message, Order, Server

LINGER_SECONDS = 5.0
"""How long a process that was started for a desk waits for the next order."""
LAST_WORDS_SECONDS = 3.0
"""How long it waits, when it cannot begin, for whoever started it, to say why."""
LAY_TRIES = 8
"""Whoever works on the desk may write there while it is laid."""
LAY_PAUSE_SECONDS = 0.25


_RESTORE, _REMOVE = ("git", "checkout"), ("rm",)


class Cancelled(KeyboardInterrupt):
    """Whoever ordered the measurement wants it no more."""


class Host:
    """Takes the orders of one run. `hold` before anything else, `close` at the end."""

    def __init__(self, watch: Watch = lambda event: None, agent: str = "", stays: bool = False) -> None:
        """`watch` gets every event too; `agent` proposes whatever comes, where that is known; `stays` as for Server."""
        self._watch = watch
        self._agent = agent
        self._stays = stays
        self._server: Server | None = None
        self._getting_ready = self._measuring = False
        self._proposal: Proposal | None = None
        self._notes: list[str] = []
        self._held_back: list[Note] = []
        self._repaired: Attempt | None = None
        self._half_laid = False

    def watch(self, event: Event) -> None:
        """Take one event of the run: for `Run`."""
        self._watch(event)
        if self._server is None:
            return
        if self._getting_ready and isinstance(event, Note):
            self._held_back.append(event)  # of interest only when something is measured before the order
            return
        for note in self._held_back:
            self._server.tell(note)
        self._held_back = []
        self._server.tell(event)
        if isinstance(event, Sampling) and event.done == 0:
            number = self.run.books.next_number if self._proposal else None
            title = self._proposal.title if self._proposal and self._proposal.title != "untitled" else ""
            then = "fetch the verdict with `ark wait`; until then you may edit the desk"
            self._server.begun(number, running(number, then, title=title, desk=self.desk))
        if isinstance(event, Judged) and self._getting_ready:
            attempt = event.attempt
            self._notes.append(f"before this, attempt {attempt.number}: {_reason(attempt)}")
            self._repaired = None if attempt.is_baseline else attempt

    def hold(self, run: Run) -> None:
        """Serve this run, which was opened, from now on."""
        self.run = run
        signal.signal(signal.SIGUSR1, self._interrupted)
        # From the server's threads, and it must wake whoever waits for a command.
        self._server = Server(run.cache, lambda: os.kill(os.getpid(), signal.SIGUSR1), self._stays)

    def ready(self, turns: Turns) -> None:
        """See to the baseline and the desk; ArkError when the run cannot go on."""
        self.turns = turns
        self._getting_ready = True
        try:
            self.run.ready()
        finally:
            self._getting_ready, self._held_back = False, []
        if self._stays:  # nobody has asked for anything yet
            self._notes, self._repaired = [], None
        if self.run.take_up_desk():
            self.run.lend_desk()
        else:
            self.lay()

    @property
    def server(self) -> Server:
        """Where orders come from."""
        assert self._server is not None, "hold a run first"
        return self._server

    @property
    def desk(self) -> str:
        """The spec's folder on the desk."""
        return str(self.run.desk.folder)

    @property
    def desk_is_gone(self) -> bool:
        """Whether somebody has removed or moved it, or put a link in its place."""
        folder, root = self.run.desk.folder, self.run.desk.root
        expected = root.parent.resolve() / folder.relative_to(root.parent)
        return not folder.is_dir() or folder.resolve() != expected

    def close(self) -> None:
        """Take no more orders; safe to call twice. While the run is still held."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def lay(self) -> None:
        """Lay the desk anew, also while somebody works there; ArkError when that does not succeed."""
        for left in reversed(range(LAY_TRIES)):
            try:
                self.run.lay_desk(desk_files(self.run), lent=True)
                self.run.take_up_desk()  # never replace the folder from now on
                return
            except ArkError:
                if not left:
                    raise
                time.sleep(LAY_PAUSE_SECONDS)

    def _try_to_lay(self) -> None:
        """Lay the desk, or note that it could not be laid: whoever writes there without end spoils only his own."""
        try:
            self.lay()
            self._half_laid = False
        except ArkError as error:
            self._half_laid = True
            self._notes.append(f"the desk could not be laid anew: {error.message}; {error.hint}")

    def touched(self) -> list[str]:
        """What was changed on the desk since it was laid; empty when it is gone."""
        if self.desk_is_gone:
            return []
        try:
            return sorted(self.run.desk.compose())
        except Refused as refusal:
            return [str(refusal)]

    def handle(self, order: Order) -> None:
        """Do what is ordered. ArkError when the run cannot go on after it."""
        try:
            result = self._measure(order)
        except UsageError as error:
            self.server.fail(error)
            return
        except ArkError as error:
            self.server.fail(error)
            raise
        except BaseException as error:
            what = "it was stopped" if isinstance(error, KeyboardInterrupt) else f"ark failed: {type(error).__name__}"
            self.server.fail(ArkError(f"the run is not held any more: {what}", "ark try goes on, with what is left"))
            raise
        finally:
            self._proposal, self._notes, self._repaired = None, [], None
        if result is None:
            self.server.fail(STOPPED)
        else:
            self.server.answer(result)

    def _measure(self, order: Order) -> Message | None:
        """What came of an order; None when it was cancelled before anything was measured."""
        if over := self.turns.over():
            return self._unmeasured("over", f"The run is over: {over.reason}", "Stop here")
        if self.desk_is_gone:
            self.lay()
            return self._unmeasured("refused", "Refused: the desk was gone", f"It is laid anew: cd {self.desk}")
        if self._half_laid:
            self._try_to_lay()
            then = "Mend what is in the way there" if self._half_laid else "It is laid now: make your change again"
            return self._unmeasured("refused", "Refused: the desk was not laid properly before", then)
        proposal, change = self._propose(order.request)
        if order.cancelled:
            return None
        if isinstance(change, NoAttempt):
            if change.kind in ("no_change", "duplicate"):
                self._try_to_lay()
            if change.kind == "no_change" and self._repaired is not None:
                return self._measured(self._repaired)  # it is that verdict that is asked for again
            then = AFTER[change.kind]
            if order.request.get("from"):
                then = self._after_from(change)
            return self._unmeasured(change.kind, change.reason, then)
        self._notes += [change.left_out] if change.left_out else []
        self._proposal = proposal = self.turns.charged(proposal)
        before = self.run.books.next_number

        def begun() -> None:
            self._try_to_lay()
            self._measuring = True
            if order.cancelled:
                raise Cancelled

        try:
            attempt = self.run.attempt(proposal, change, begun)
            self._measuring = False
        except BaseException as error:
            self._measuring = False
            is_back = self._put_back(change)
            stopped = self.run.attempts[-1]
            if isinstance(error, Cancelled) and stopped.number >= before:
                then = "What you changed is on the desk again: ark try measures it anew"
                if not is_back:
                    then = f"What was to be measured is in the ledger: ark try --from {stopped.number} measures it anew"
                return {**self._measured(stopped), "next": then}
            raise
        assert isinstance(attempt, Attempt), "the change was checked"
        self.turns.take(proposal, attempt)
        if not self._half_laid and (left := self.touched()):
            self.run.desk.put(desk_files(self.run))
            files = ", ".join(left[:5]) + (" and others" if len(left) > 5 else "")
            self._notes.append(f"you changed {files} meanwhile, so the desk was not laid anew: that is still there")
            return self._measured(attempt, "changes")
        self._try_to_lay()
        return self._measured(attempt)

    def _propose(self, request: Message) -> tuple[Proposal, Change | NoAttempt]:
        """What is to be tried, in words and as a change."""
        title, why = _text(request, "title"), _text(request, "why")
        agent = self._agent or _text(request, "agent")
        names = request.get("from") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UsageError("`from` should be a list of attempts, as [TAG/]N")
        change = self.run.change()
        if not names:
            left = self.run.desk.note()
            return Proposal(title or left[0], why or left[1], agent), change
        names = [name if "/" in name else f"{self.run.tag}/{name}" for name in dict.fromkeys(names)]
        repository, prefix = self.run.project.repository, self.run.spec.branch_prefix
        others = [pick(repository, prefix, name) for name in names]
        titles = "; ".join(other.proposal.title for other in others)
        title = title or (titles if len(others) == 1 else f"Combine: {titles}")
        said = [f"{name}: {_reason(other)}" for name, other in zip(names, others, strict=True)]
        proposal = Proposal(title, why or "\n".join(said), agent, origin=tuple(names))
        if _is_something(change):
            what = ", ".join(self.touched()[:5])
            return proposal, NoAttempt("refused", f"Refused: what you changed on the desk would be lost: {what}")
        return proposal, self.run.change_of(others)

    def _after_from(self, change: NoAttempt) -> str:
        """What to do when the changes of others could not be measured."""
        if change.kind == "conflict":
            return "Make that change here by hand, as far as it fits: ark show prints it"
        here = self.run.change()
        if change.kind != "refused" or not _is_something(here):
            return AFTER[change.kind]
        if isinstance(here, NoAttempt) and here.kind == "refused":
            return AFTER["refused"]
        start = len(self.run.project.place.prefix)
        paths = self.touched()
        old = [path[start:] for path in paths if path in self.run.desk.files]
        new = [path[start:] for path in paths if path not in self.run.desk.files]
        undo = [shlex.join([*command, "--", *names]) for command, names in ((_RESTORE, old), (_REMOVE, new)) if names]
        return f"Measure that first: ark try; or undo it: {' && '.join(undo)}"

    def _put_back(self, change: Change) -> bool:
        """Give back what was taken off the desk, unless something else was written there meanwhile."""
        with contextlib.suppress(ArkError, OSError):
            if not self.touched() and self.run.desk.laid == self.run.head.commit:
                self.run.desk.edit(change.files)
                return True
        return False

    def _measured(self, attempt: Attempt, holds: str = "best") -> Message:
        over = self.turns.over()
        why = over.reason if over else ""
        return measured(attempt, self.run.head, Path(self.desk), self._notes, why, "ruin" if self._half_laid else holds)

    def _unmeasured(self, kind: str, reason: str, then: str) -> Message:
        return unmeasured(kind, reason, then, desk=self.desk, notes=list(self._notes))

    def _interrupted(self, *_: object) -> None:
        if self._measuring:  # else it is over already, or the order's own mark is seen before it begins
            self._measuring = False
            raise Cancelled


def _is_something(change: Change | NoAttempt) -> bool:
    """Whether somebody has changed the desk, be it in a way that cannot be measured."""
    return isinstance(change, Change) or change.kind in ("refused", "conflict")


def _reason(attempt: Attempt) -> str:
    return attempt.verdict.reason if attempt.verdict else "Running"


def _text(request: Message, name: str) -> str:
    text = request.get(name) or ""
    if not isinstance(text, str):
        raise UsageError(f"`{name}` should be a text")
    return text


def main(arguments: Sequence[str]) -> int:
    """Hold the run of a desk until nobody has asked for a while. The first line on stdout says whether it began."""
    spec, tag = arguments
    _heed_signals()
    try:
        refuse_desk(Path(spec))
        project = open_project(Path(spec))
    except ArkError as error:
        _report(error, held=False)
        return error.exit_code
    notifier = Notifier(project, _log, is_whole=False)
    host = Host(watch=notifier)
    with contextlib.closing(project.repository), notifier, Run(project, tag, host.watch) as run:
        try:
            run.open()
            host.hold(run)
        except ArkError as error:
            run.close()
            _report(error, held=run.ledger.lock().is_held())
            return error.exit_code
        _say({"ready": True})
        notifier.follow(run)
        try:
            return _serve(host, run, notifier)
        finally:
            host.close()


def _serve(host: Host, run: Run, notifier: Notifier) -> int:
    try:
        host.ready(Turns(run, Limits(), lambda event: None))
    except ArkError as error:
        notifier.failed(error)
        if host.server.take(LAST_WORDS_SECONDS):
            host.server.fail(error)
        return error.exit_code
    while order := host.server.take(LINGER_SECONDS):
        try:
            host.handle(order)
        except ArkError as error:
            notifier.failed(error)
            return error.exit_code
    return 0


def _log(event: Event) -> None:
    if isinstance(event, Note):
        print(event.text, file=sys.stderr, flush=True)
    elif isinstance(event, Judged):
        print(f"attempt {event.attempt.number}: {_reason(event.attempt)}", file=sys.stderr, flush=True)


def _report(error: ArkError, held: bool) -> None:
    print(f"error: {error.message}", file=sys.stderr)
    _say({"error": error.message, "hint": error.hint, "exit_code": error.exit_code, "held": held})


def _say(message: dict[str, Any]) -> None:
    """To whoever started this, if he still listens."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(message).encode() + b"\n")
    os.dup2(2, 1)


def _heed_signals() -> None:
    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
    sys.exit(130)
