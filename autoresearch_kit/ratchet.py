"""`Run.attempt`: the one choke point through which every change must go.

    an agent edits the desk -> attempt: compose, reserve, measure, decide, close -> the desk is laid anew

Start reading here. `Run` is one run of one spec: it takes the lock, repairs what a dead supervisor left, measures the
baseline, and then takes attempts. `loop.py` asks an agent for them until a budget is spent. Nothing here knows what an
experiment is about, and no agent ever carries a number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch_kit.books import Books
from autoresearch_kit.core.budget import Limits, ending
from autoresearch_kit.core.decide import Again, Case, decide
from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.globs import compile_globs
from autoresearch_kit.core.names import RUN_LOG
from autoresearch_kit.core.outlook import Outlook
from autoresearch_kit.core.records import Attempt, Measurement, Outcome, Proposal, Verdict, clean_line, number
from autoresearch_kit.core.words import last_words
from autoresearch_kit.lab import cache
from autoresearch_kit.lab.desk import Desk, Refused
from autoresearch_kit.lab.live import LiveFile
from autoresearch_kit.lab.machine import machine
from autoresearch_kit.lab.measure import Phase
from autoresearch_kit.lab.ticket import Ticket
from autoresearch_kit.ledger.git import DISK_HINT, GITLINK, SYMLINK, Entry, RefMoved
from autoresearch_kit.ledger.ledger import Ledger, pick, quiet_value
from autoresearch_kit.ledger.merge import Conflict, carry
from autoresearch_kit.ledger.results import ResultsFile
from autoresearch_kit.project import Project, check_limits, count_lines
from autoresearch_kit.workshop import Workshop

TIDY_EVERY = 500
"""Attempts between two looks whether git's loose objects have become too many."""
HEAD_FAILURES = 3
"""So many failed measurements of the head within one attempt end the run."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something a person should read: a new baseline, a repaired ledger, an agent that failed."""

    text: str


@dataclass(frozen=True, slots=True)
class Trouble(Note):
    """A note about what a person has to mend, while the run goes on as well as it can."""

    cause: str
    """What kind it is, in a word: `not_logged_in`, `agent_failed`, `rate_limited` or `results`."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """A measurement begins: how many there were for this attempt, and whether it is the head's turn."""

    done: int
    of_head: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """An attempt was closed."""

    attempt: Attempt


Event = Phase | Note | Sampling | Judged
Watch = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class NoAttempt:
    """What lies on the desk was not measured; it takes no number."""

    kind: str
    """`no_change`, `duplicate`, `refused` or `conflict`."""
    reason: str
    """One sentence for the agent and for people."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change that can be measured: nothing like it has been."""

    tree: str
    """The whole tree with it."""
    files: Mapping[str, Entry]
    """The files of that tree."""
    paths: tuple[str, ...]
    """What differs from the head."""
    left_out: str = ""
    """A sentence on what else was changed on the desk, and is not taken; empty when there was nothing."""


class Run:
    """One run: a tag of a project, held by this process. A context manager; `open` before anything else."""

    def __init__(
        self,
        project: Project,
        tag: str,
        watch: Watch = lambda event: None,
        workshop: Callable[[Project, str, str, str, Watch], Workshop] = Workshop,
    ) -> None:
        """`workshop` opens where attempts are measured, as `Workshop` does; a rehearsal has another one."""
        self.project = project
        self.spec = project.spec
        self.ledger = Ledger(project.repository, self.spec.branch_prefix, tag, project.spec_name)
        self.tag = tag
        self.live = LiveFile()
        """What is told to whoever watches from another process."""
        self._watch = self.recorded(watch)
        self._lock = self.ledger.lock()
        self._workshop = workshop
        self._shop: Workshop | None = None
        self._desk: Desk | None = None
        self._books: Books | None = None
        self._base = ""
        self._head_files: Mapping[str, Entry] = {}
        self._head_of = ""
        self.told = ""
        """Why the last turn brought no attempt, for the next prompt; empty when it did."""

    def __enter__(self) -> Run:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            self.live.end(error.message if isinstance(error, ArkError) else "stopped")
        self.close()

    def recorded(self, watch: Watch) -> Watch:
        """`watch`, with the state file brought up to date first: for what is not the run's own, as an agent's turn."""

        def both(event: Event) -> None:
            if isinstance(event, Phase):
                self.live.phase(event)
            elif isinstance(event, Note):
                self.live.note(event.text)
            elif isinstance(event, Sampling):
                self.live.sampling(event.done, event.of_head)
            else:
                self.live.judged()
            watch(event)

        return both

    # Opening

    def open(self, start_from: str | None = None) -> None:
        """Take the lock, check everything that needs no measurement, and get bench and desk ready in the cache.

        `start_from` is `TAG/N`: the attempt whose files a new run begins with. ArkError when the run cannot be held.
        """
        repository = self.project.repository
        repository.head()
        self._lock.acquire()
        self.ledger.check_free()
        attempts = self.ledger.read()
        if attempts and attempts[0].number != 0:
            raise ArkError(
                f"run {self.tag} has no baseline at {self.ledger.ref(0)}", "restore it, or use another --tag"
            )
        if attempts and attempts[0].spec not in ("", self.project.spec_name):
            raise UsageError(f"run {self.tag} belongs to {attempts[0].spec}", "give this one another name: --tag NAME")
        if start_from and attempts:
            raise UsageError(f"run {self.tag} exists already, so --from means nothing", "give a new name: --tag NAME")
        if attempts:
            self._base = attempts[0].parent
        elif start_from:
            self._base = pick(repository, self.spec.branch_prefix, start_from).commit
        else:
            self._base = repository.head()
        self._shop = self._workshop(self.project, self.ledger.branch, self._base, self.tag, self._watch)
        self._desk = Desk(repository, self.cache / "desk", self._base, self.project.place, self._shop.links)
        self._books = Books(attempts, ResultsFile(repository, self.project.folder, self.spec.metric))
        if self._workshop is Workshop:  # nobody watches a rehearsal
            self.live.open(self.cache, self.project.spec_name, self.tag, self.spec.budget)

    def close(self) -> None:
        """End helper processes and give the lock back; safe to call twice."""
        if self._shop is not None:
            self._shop.close()
            self._shop = None
            self.live.close()
            with contextlib.suppress(ArkError):  # a convenience for readers, no reason to fail now
                self.ledger.tidy()
        self._lock.release()

    def ready(self) -> None:
        """Repair what a dead supervisor left, and see to a baseline from this machine; ArkError when there is none."""
        books = self.books
        if not books.results.ours:
            text = "is not from `ark`, so it is left alone; `ark log --tsv` prints this run's table"
            self._watch(Note(f"{books.results.path} {text}"))
        self._tell_what_is_newer(self.shop.base_files)
        self.ledger.drop_stale_locks()
        self._mend_branch()
        self.shop.set_up()
        for attempt in [attempt for attempt in books.attempts if attempt.verdict is None]:
            self._take_up(attempt)
        if books.head is None:
            self._baseline("Baseline", "The files as they were committed.")
        head = self.head
        if (head.machine, head.yardstick) != (machine(), self.shop.yardstick):
            what = "machine" if head.machine != machine() else "way of measuring"
            now = f"this is {machine()}" if what == "machine" else "the spec was changed"
            self._watch(Note(f"Another {what} than the head's, so it is measured anew: {now}"))
            self._baseline(f"Baseline again: another {what}", f"Its last value, {number(head.value or 0)}, was from "
                           f"{head.machine} with yardstick {head.yardstick}.")  # fmt: skip
        check_limits(self.project, self.head.also)
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Warn of what the noise will not let this run find; ArkError when it could not keep anything any more."""
        outlook = Outlook.of(self.spec, self.attempts, self.head, self.books.history)
        over = ending(self.spec.budget, Limits(), self.books.spent(0, 0.0), self.spec.maximize)
        if outlook.is_spent and not over:
            raise ArkError(
                f"the promised false keeps, {self.spec.decision.false_keeps:g} in all, are spent on "
                f"{self.books.history.tried} candidates, so nothing more could be kept",
                "promise more (decision.false_keeps), or begin a new run: ark run --tag NAME",
            )
        for text, hint in outlook.warnings():
            self._watch(Note(f"{text}; {hint}"))

    def _tell_what_is_newer(self, files: Mapping[str, Entry]) -> None:
        """A run keeps the fixed files that it began with; say so when the user has committed others since."""
        if not self.attempts:
            return
        place = self.project.place
        now = self.project.repository.files(self.project.repository.head())
        newer = [
            path[len(place.prefix) :]
            for path in sorted({*files, *now})
            if path.startswith(place.prefix) and path != self.project.spec_name and not place.is_mutable(path)
            if files.get(path) != now.get(path)
        ]
        if newer:
            shown = ", ".join(newer[:5]) + (" and others" if len(newer) > 5 else "")
            self._watch(
                Note(
                    f"The fixed files in HEAD are not this run's, which goes on with its own: {shown}. "
                    f"To use the new ones: git merge {self.ledger.branch} && ark run --tag NAME"
                )
            )

    def _mend_branch(self) -> None:
        """Hold the branch against the ledger: finish a half-made close, refuse one that somebody moved."""
        kept, head = self.books.head, self.ledger.head()
        if kept is None:
            if head is not None:
                branch = self.ledger.branch
                raise ArkError(
                    f"branch {branch} exists already and is not a run of `ark`",
                    f"give the run another name: --tag NAME, or rename the branch: git branch -m {branch} OLD",
                )
        elif head == kept.parent and kept.number != 0:
            self.ledger.advance(kept)
            self._watch(
                Note(f"Finished what a dead supervisor began: branch {self.ledger.branch} is at {kept.commit[:10]}")
            )
        elif head != kept.commit:
            raise self.ledger.moved(kept.commit)

    def _take_up(self, attempt: Attempt) -> None:
        """An attempt whose supervisor died is measured again, once; else it is closed as lost."""
        head = self.books.head
        # A baseline that was measured anew has the head's own tree and is compared with nothing.
        baseline = head is None or attempt.tree == head.tree
        files = self.project.repository.files(attempt.tree)
        here = attempt.yardstick == self.shop.yardstick == self.project.yardstick(files)
        if head is not None:
            here = here and attempt.parent == head.commit
            here = here and (baseline or (head.yardstick, head.machine) == (self.shop.yardstick, machine()))
        if attempt.repeats == 0 and here:
            self._watch(Note(f"Attempt {attempt.number} was cut short; it is measured again"))
            again = self.ledger.begin_again(attempt)
            self.books.forget(attempt)
            self._finish(again, files, baseline)
        elif attempt.number == 0:
            self.ledger.withdraw(attempt)
            self.books.forget(attempt)
        else:
            why = "twice" if attempt.repeats else "and it would not be measured in the same way now"
            self.books.forget(attempt)
            lost = _lost(f"the supervisor died {why}", self._used(attempt))
            self._note_closed(self.ledger.close(attempt, (), lost))

    def _baseline(self, title: str, why: str) -> None:
        """Measure the head as it is. A baseline that crashes leaves nothing behind and is the user's to mend."""
        parent, first = self.start, self.books.head is None
        tree = self.project.repository.tree_of(parent)
        quiet = quiet_value(self.project.repository, tree, self.shop.yardstick, machine())
        self.books.history.quiet_value = quiet
        zero = next((attempt for attempt in self.attempts if attempt.number == 0 and first), None)
        if zero is not None:  # closed as lost when somebody stopped it
            self.books.forget(zero)
            attempt = self.ledger.begin_again(zero)
        else:
            proposal = Proposal(title, why, "ark")
            attempt = self.ledger.reserve(
                self.books.next_number, proposal, tree=tree, parent=parent, yardstick=self.shop.yardstick
            )
        self._finish(attempt, self._files_of_head(), baseline=True)

    # Attempts

    @property
    def cache(self) -> Path:
        """Where this run's desk, bench and logs are."""
        return cache.run_cache(self.project.repository.common, self.ledger.branch)

    @property
    def start(self) -> str:
        """The commit whose files the next change begins with; known before the baseline is measured."""
        return self.books.head.commit if self.books.head else self._base

    @property
    def shop(self) -> Workshop:
        """Where attempts are measured."""
        assert self._shop is not None, "open the run first"
        return self._shop

    @property
    def desk(self) -> Desk:
        """Where the agent works; lay it before use."""
        assert self._desk is not None, "open the run first"
        return self._desk

    @property
    def books(self) -> Books:
        """What the run remembers of its attempts."""
        assert self._books is not None, "open the run first"
        return self._books

    @property
    def attempts(self) -> Sequence[Attempt]:
        """Every attempt in order of its number."""
        return self.books.attempts if self._books else ()

    @property
    def head(self) -> Attempt:
        """The attempt that all others are measured against."""
        assert self.books.head is not None, "make the run ready first"
        return self.books.head

    @property
    def baseline(self) -> Attempt:
        """What the head's gain is counted from."""
        assert self.books.baseline is not None, "make the run ready first"
        return self.books.baseline

    def lay_desk(self, extra: Mapping[str, bytes], lent: bool = False) -> None:
        """Make the desk a clean clone of the head, with further files in the spec's folder; `lent` as for `Ticket`."""
        ticket = Ticket(str(self.project.spec_path), self.tag, "", lent=lent)
        ticket.write(self.cache)  # should we be killed, nobody takes what is laid half for somebody's change
        self.desk.lay(self.head.commit, self.ledger.branch, self._files_of_head(), extra)
        replace(ticket, laid=self.head.commit, filtered=self.desk.filtered).write(self.cache)

    def lend_desk(self) -> None:
        """Let somebody go on with the desk as it is, who calls `ark try`."""
        if (ticket := Ticket.read(self.cache)) and not ticket.lent:
            replace(ticket, lent=True).write(self.cache)

    def take_up_desk(self) -> bool:
        """Go on with the desk that another process of this run has laid; False when there is none."""
        ticket = Ticket.read(self.cache)
        if ticket is None or not ticket.laid or not self.desk.folder.is_dir():
            return False
        if self.project.repository.commit_of(ticket.laid) is None:
            return False
        self.desk.take_up(ticket.laid, self.project.repository.files(ticket.laid), ticket.filtered)
        return True

    def change(self) -> Change | NoAttempt:
        """What lies on the desk, on top of the head. NoAttempt when that is nothing new to measure."""
        try:
            changes = self.desk.compose()
            if self.desk.laid != self.head.commit:  # somebody else has kept something since
                laid = self.desk.files
                changes = carry(self.project.repository, self._files_of_head(), laid, _with(laid, changes))
        except Refused as refusal:
            return NoAttempt("refused", f"Refused: {refusal}")
        except Conflict as conflict:
            text = f"Conflict: the head has changed since this desk was laid, and {conflict} does not fit any more"
            return NoAttempt("conflict", text)
        found, left_out = self._checked(changes), self._left_out()
        if isinstance(found, Change):
            return replace(found, left_out=left_out)
        return replace(found, reason=f"{found.reason}. {left_out}") if left_out else found

    def _left_out(self) -> str:
        products = compile_globs([*self.spec.artifacts, RUN_LOG])
        names = ", ".join(clean_line(name, 100) for name in self.desk.left_out(products))
        return f"Not taken, because it is not yours to change: {names}" if names else ""

    def change_of(self, others: Sequence[Attempt]) -> Change | NoAttempt:
        """The changes of other attempts, of this or other runs, one after another on top of the head."""
        repository, ours = self.project.repository, self._files_of_head()
        files = ours
        for other in others:
            if not other.parent:
                continue
            if repository.commit_of(other.parent) is None:
                reason = f"Refused: the parent of attempt {other.number} is not in this repository; fetch it too"
                return NoAttempt("refused", reason)
            base, theirs = self._mutable_files(other.parent), self._mutable_files(other.commit)
            if any(entry.mode in (SYMLINK, GITLINK) for entry in theirs.values()):
                return NoAttempt("refused", f"Refused: attempt {other.number} holds a link or a submodule")
            try:
                files = _with(files, carry(repository, files, base, theirs))
                self.desk.check_places(ours, [path for path in files if path not in ours])
            except Refused as refusal:
                return NoAttempt("refused", f"Refused: {refusal}")
            except Conflict as conflict:
                text = f"Conflict: the change of attempt {other.number} does not fit onto the head in {conflict}"
                return NoAttempt("conflict", text)
        changed = {path for path in {*ours, *files} if ours.get(path) != files.get(path)}
        return self._checked({path: files.get(path) for path in changed})

    def _mutable_files(self, commit: str) -> dict[str, Entry]:
        files = self.project.repository.files(commit)
        return {path: entry for path, entry in files.items() if self.project.place.is_mutable(path)}

    def _checked(self, changes: Mapping[str, Entry | None]) -> Change | NoAttempt:
        head = self.head
        tree = self.project.repository.store_tree(head.commit, changes) if changes else head.tree
        if tree == head.tree:
            return NoAttempt("no_change", "No change: the mutable files are those of the head")
        if before := self.books.measured(tree, machine(), self.shop.yardstick):
            reason = before.verdict.reason if before.verdict else ""
            return NoAttempt("duplicate", f"The same files were measured before, as attempt {before.number}: {reason}")
        return Change(tree, _with(self._files_of_head(), changes), tuple(sorted(changes)))

    def attempt(
        self,
        proposal: Proposal,
        change: Change | NoAttempt | None = None,
        begun: Callable[[], None] = lambda: None,
    ) -> Attempt | NoAttempt:
        """Measure what lies on the desk, or a given change, and close the attempt. NoAttempt when there is nothing new.

        `begun` is called when the change is in git, before it is measured: nobody needs it on the desk any more.
        ArkError when the ledger or the machine cannot go on; a failed experiment is an attempt like any other.
        """
        change = change or self.change()
        if isinstance(change, NoAttempt):
            self.told = change.reason
            return change
        if proposal.title == "untitled":
            proposal = replace(proposal, title=f"Change {', '.join(change.paths)}")
        attempt = self.ledger.reserve(
            self.books.next_number, proposal, tree=change.tree, parent=self.head.commit, yardstick=self.shop.yardstick
        )
        attempt = self._finish(attempt, change.files, begun=begun)
        if attempt.number % TIDY_EVERY == 0:
            self.ledger.tidy()
        self.told = change.left_out
        return attempt

    def _finish(
        self,
        attempt: Attempt,
        files: Mapping[str, Entry],
        baseline: bool = False,
        begun: Callable[[], None] = lambda: None,
    ) -> Attempt:
        """Measure a reserved attempt, whose tree is `files`, decide, and close it."""
        samples: list[Measurement] = []
        self.live.attempt(attempt)
        try:
            begun()
            verdict = self._judge(attempt, files, None if baseline else self.head, samples)
        except KeyboardInterrupt:
            share = None if baseline else self._used(attempt)  # what was seen of a measurement was a throw of the dice
            self._note_closed(self.ledger.close(attempt, samples, _lost("stopped by the user", share)))
            raise
        except ArkError as error:
            with contextlib.suppress(ArkError):  # a full disk may refuse this too; the next start repairs it
                self._give_up(attempt, samples, error.message, baseline)
            raise
        if baseline and verdict.outcome is not Outcome.KEEP:
            self._give_up(attempt, samples, verdict.reason, baseline)
            raise self._baseline_error(attempt, samples, verdict)
        return self._close(attempt, samples, verdict)

    def _judge(
        self, attempt: Attempt, files: Mapping[str, Entry], head: Attempt | None, samples: list[Measurement]
    ) -> Verdict:
        """Measure, into `samples`, and decide against `head`; None for a baseline."""
        less = count_lines(self.project.repository, self._files_of_head(), files) if head else 0
        case = Case(
            self.spec.maximize, self.spec.decision, self.spec.constraints, head, samples, less, self.books.history,
            self.spec.budget.attempts,
        )  # fmt: skip
        while isinstance(answer := decide(case), Again):
            self._sample(attempt, files, samples, answer is Again.HEAD)
        if attempt.repeats and answer.share:  # a killed measurement was a throw of the dice too
            answer = replace(answer, share=answer.share * (1 + attempt.repeats))
        if answer.outcome is not Outcome.KEEP or not self.spec.checks:
            return answer
        if samples[-1].of_head:  # the checks look at what the candidate's last run left
            self._sample(attempt, files, samples, of_head=False)
            if problem := samples[-1].problem:
                return replace(answer, outcome=Outcome.CRASH, reason=f"Crash: {problem}", gain=None)
        if problem := self.shop.failed_check(attempt.number):
            outcome = Outcome.DISCARD if head else Outcome.CRASH
            return replace(answer, outcome=outcome, reason=f"{outcome.capitalize()}: {problem}")
        return answer

    def _sample(self, attempt: Attempt, files: Mapping[str, Entry], samples: list[Measurement], of_head: bool) -> None:
        """Measure the attempt, or the head in turn, and append it to `samples`.

        ArkError when the head, which has run before, keeps failing: then no candidate is to blame.
        """
        self._watch(Sampling(len(samples), of_head))
        commit, laid = (self.head.commit, self._files_of_head()) if of_head else (attempt.commit, files)
        measured = self.shop.measure(commit, attempt.number, len(samples), laid)
        samples.append(replace(measured, of_head=of_head))
        failed = [sample for sample in samples if sample.of_head and sample.problem]
        if len(failed) >= HEAD_FAILURES:
            raise ArkError(
                f"the head, attempt {self.head.number}, fails now: {failed[-1].problem}",
                f"something around it has changed, or it fails by chance; the logs are in {self.cache / 'logs'}",
            )

    def _close(self, attempt: Attempt, measurements: Sequence[Measurement], verdict: Verdict) -> Attempt:
        try:
            closed = self.ledger.close(attempt, measurements, verdict)
        except RefMoved as moved:
            if self.ledger.head() != (attempt.parent if attempt.number else None):
                lost = _lost(f"the branch was moved meanwhile; the verdict would have been: {verdict.reason}")
                self._note_closed(self.ledger.close(attempt, measurements, lost))
                raise self.ledger.moved(attempt.parent) from None
            raise ArkError(moved.message, "somebody else writes to this run's refs; stop them and run again") from None
        self._note_closed(closed)
        return closed

    def _give_up(self, attempt: Attempt, measurements: Sequence[Measurement], reason: str, baseline: bool) -> None:
        if baseline:
            self.ledger.withdraw(attempt)
        else:
            share = self._used(attempt) if measurements else None
            self._note_closed(self.ledger.close(attempt, measurements, _lost(reason, share)))

    def _used(self, attempt: Attempt) -> float | None:
        """What an attempt that was begun has used of the promised false keeps, whatever came of it."""
        decision, history, head = self.spec.decision, self.books.history, self.books.head
        if head is None or decision.rule != "sequential" or history.noise(head.value or 0.0).none:
            return None
        return history.share(decision.false_keeps, self.spec.budget.attempts) * (1 + attempt.repeats)

    def _baseline_error(self, attempt: Attempt, measurements: Sequence[Measurement], verdict: Verdict) -> ArkError:
        if not measurements[-1].problem:
            check_limits(self.project, measurements[-1].also)
            return ArkError(
                f"the baseline failed: {verdict.reason.partition(': ')[2]}",
                f"mend the baseline and commit, or change the limit or check in {self.project.place.spec_name}",
            )
        last = last_words(measurements[-1].log_tail)
        said = f"; its last words: {last}" if last else ""
        reason = verdict.reason.partition(": ")[2]
        kind = measurements[-1].kind
        if kind == "disk_full":
            return ArkError(f"the baseline failed: {reason}{said}", f"{DISK_HINT}; the cache is {self.cache}")
        command = self.spec.run_command
        if self.spec.eval_command and kind in ("no_metric", "two_metrics", "not_a_number"):
            command = self.spec.eval_command
        return ArkError(
            f"the baseline failed: {reason}{said}",
            f"make `{command}` work in {self.project.folder}, commit, and run again; "
            f"the logs are {self.cache / 'logs'}/{attempt.number:04d}.*",
        )

    # Books

    def _files_of_head(self) -> Mapping[str, Entry]:
        """The files that the next change begins with."""
        if self._head_of != self.start:
            self._head_files = self.project.repository.files(self.start)
            self._head_of = self.start
        return self._head_files

    def _note_closed(self, attempt: Attempt) -> None:
        before = self.books.results.problem
        self.books.add(attempt)
        self._watch(Judged(attempt))
        if self.books.results.problem not in ("", before):
            self._watch(Trouble(self.books.results.problem, "results"))


def _lost(reason: str, share: float | None = None) -> Verdict:
    return Verdict(Outcome.LOST, f"Lost: {reason}", share=share)


def _with(files: Mapping[str, Entry], changes: Mapping[str, Entry | None]) -> dict[str, Entry]:
    """`files` after `changes`."""
    changed = {**files, **{path: entry for path, entry in changes.items() if entry}}
    return {path: entry for path, entry in changed.items() if changes.get(path, entry)}
