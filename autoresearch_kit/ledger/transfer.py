"""`ark push`: the closed attempts, ideas and ended verifications of a run, and its branch, by one atomic `git push`.

Never by force. A running attempt changes yet and stays here, as does what agents owe (`owed.py`).
What was pushed of an attempt never changes, so a run is pushed again and again while it goes on. Only a plain
`git push REMOTE 'refs/ark/*'` brings running records to a remote: those are replaced by what became of them, and only
where the remote still holds exactly that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.records import Outcome
from autoresearch_kit.core.verification import State
from autoresearch_kit.ledger.git import ROOT, ZERO, Repository
from autoresearch_kit.ledger.ledger import Ledger, check_tag, last_kept
from autoresearch_kit.ledger.owed import NAME as OWED
from autoresearch_kit.ledger.remote import read_remote
from autoresearch_kit.ledger.talk import Said, Tell, talk
from autoresearch_kit.ledger.verified import FOLDER as VERIFY
from autoresearch_kit.ledger.verified import read_verifications

_AHEAD = 8
"""So many attempts may begin between our look at the ledger and git's own, and stay here nevertheless."""
_RUNNING = re.compile(r"^Ark-(?:Outcome|State): running$", re.M)
_PUSH = ("--porcelain", "--no-follow-tags", "--recurse-submodules=no", "--progress")


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did for one run."""

    tag: str
    """The run here."""
    name: str
    """What it is called there, as `REMOTE/TAG`."""
    branch: str
    """Its branch there."""
    attempts: int
    """Attempts of it that are there now."""
    new: int
    """Those of them that were not there before."""


def push(
    repository: Repository,
    remote: str,
    ledgers: Sequence[Ledger],
    name: str | None = None,
    tell: Tell | None = None,
) -> list[Pushed]:
    """Bring runs to a remote, all of them or none; one of them under another `name` if one is given.

    UsageError for a run that has nothing to share, ArkError when the remote has another one under that name, cannot be
    reached or refuses.
    """
    runs = [_Outgoing.of(ledger, check_tag(name or ledger.tag)) for ledger in ledgers]
    specs = [spec for run in runs for spec in run.refspecs()]
    said = _push(repository, remote, specs, {}, tell)
    if said.status and (rejected := _outdated(said)):
        there = read_remote(repository, remote, [f"{ROOT}*", "refs/heads/*"])
        ours = {theirs: own for run in runs for own, theirs in run.names(rejected)}
        leases = {ref: there.get(ref, ZERO) for ref in rejected}
        for ref in rejected:
            if not _is_superseded(repository, leases[ref], ours.get(ref, "")):
                raise _diverged(remote, next(run for run in runs if run.has(ref)), ref, there)
        said = _push(repository, remote, specs, leases, tell)
    if said.status:
        raise _refused(remote, said)
    new = [ref for flag, ref in _results(said) if flag in ("*", "+", " ")]
    return [run.pushed(remote, new) for run in runs]


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """One run on its way, as it stood when we looked."""

    ledger: Ledger
    tag: str
    """What it is called there."""
    numbers: tuple[int, ...]
    """Attempts that are closed."""
    head: str
    """The commit where its branch stands: the last kept attempt, whatever became of the branch here."""
    baseline: str
    """The commit of attempt 0."""
    kept_here: tuple[str, ...]
    """Names below its refs that are not pushed."""

    @classmethod
    def of(cls, ledger: Ledger, tag: str) -> _Outgoing:
        check_tag(ledger.tag)
        attempts = ledger.read()
        if not attempts:
            raise UsageError(f"there is no run {ledger.tag}", "see what there is: git for-each-ref refs/ark")
        head = last_kept(attempts)
        if head is None:
            raise UsageError(f"run {ledger.tag} has no baseline yet, so there is nothing to share")
        closed = [a for a in attempts if a.outcome is not Outcome.RUNNING]
        stays = [a.number for a in attempts if a.outcome is Outcome.RUNNING]
        stays += [attempts[-1].number + ahead for ahead in range(1, _AHEAD)]
        checks = read_verifications(ledger.repository, ledger.tag)
        running = [c.number for c in checks if c.state is State.RUNNING]
        running += [max((c.number for c in checks), default=0) + 1]
        kept_here = [OWED, *(f"{n:04d}" for n in stays), *(f"{VERIFY}/{n:04d}" for n in running)]
        numbers = tuple(a.number for a in closed)
        return cls(ledger, tag, numbers, head.commit, attempts[0].commit, tuple(kept_here))

    @property
    def root(self) -> str:
        return f"{ROOT}{self.tag}/"

    @property
    def branch(self) -> str:
        return f"{self.ledger.branch.rpartition('/')[0]}/{self.tag}"

    def refspecs(self) -> list[str]:
        """For `git push`. A pattern: thousands of single names take git half a minute."""
        own = f"{ROOT}{self.ledger.tag}/"
        specs = [f"{self.head}:refs/heads/{self.branch}", f"{own}*:{self.root}*"]
        # Under both names: git holds what is excepted against names there, its manual says against those here.
        return specs + [f"^{root}{name}" for root in dict.fromkeys((own, self.root)) for name in self.kept_here]

    def has(self, ref: str) -> bool:
        return ref.startswith(self.root) or ref == f"refs/heads/{self.branch}"

    def names(self, refs: Iterable[str]) -> list[tuple[str, str]]:
        """Those of `refs` there that are attempts and the like of this run, each after its name here."""
        own = f"{ROOT}{self.ledger.tag}/"
        return [(own + ref.removeprefix(self.root), ref) for ref in refs if ref.startswith(self.root)]

    def names_among(self, there: Mapping[str, str]) -> list[str]:
        """What this run is called there already, in order; no name under which it went on elsewhere."""
        mine = self.ledger.repository.refs(f"{ROOT}{self.ledger.tag}/", "refname", "objectname")
        ours = {ref.removeprefix(f"{ROOT}{self.ledger.tag}/"): oid for ref, oid in mine}
        names = {ref.split("/")[2] for ref, oid in there.items() if oid == self.baseline and ref.endswith("/0000")}
        for ref, oid in there.items():
            _, _, name, *rest = ref.split("/")
            if ref.startswith(ROOT) and ours.get("/".join(rest)) != oid:
                names.discard(name)
        return sorted(names)

    def pushed(self, remote: str, new: Iterable[str]) -> Pushed:
        fresh = {ref.removeprefix(self.root) for ref in new if ref.startswith(self.root)}
        count = sum(f"{number:04d}" in fresh for number in self.numbers)
        return Pushed(self.ledger.tag, f"{remote}/{self.tag}", self.branch, len(self.numbers), count)


def _push(
    repository: Repository, remote: str, specs: Sequence[str], leases: Mapping[str, str], tell: Tell | None
) -> Said:
    how = [*_PUSH, *(f"--force-with-lease={ref}:{oid}" for ref, oid in leases.items())]
    said = talk(repository, "push", "--atomic", *how, remote, *specs, tell=tell)
    if said.status and "does not support --atomic" in said.reason:
        # Attempts never change, so half of them do no harm; the branch comes last.
        said = talk(repository, "push", *how, remote, *(s for s in specs if ":refs/heads/" not in s), tell=tell)
        if said.status == 0:
            heads = talk(repository, "push", *how, remote, *(s for s in specs if ":refs/heads/" in s), tell=tell)
            said = Said(heads.status, said.out + heads.out, heads.lines)
    return said


def _results(said: Said) -> list[tuple[str, str]]:
    """What became of each ref there: git's flag (`*` new, `=` there already, `!` refused and so on) and its name."""
    rows = (line.split("\t") for line in said.out.splitlines())
    return [(row[0], row[1].partition(":")[2]) for row in rows if len(row) == 3]


def _outdated(said: Said) -> list[str]:
    """Refs that the remote has and that are no forebears of ours, by their names there."""
    words = ("non-fast-forward", "fetch first", "needs force", "already exists", "stale info")
    rows = (line.split("\t") for line in said.out.splitlines())
    return [row[1].partition(":")[2] for row in rows if len(row) == 3 and any(word in row[2] for word in words)]


def _is_superseded(repository: Repository, theirs: str, ours: str) -> bool:
    """Whether the commit `theirs` is the record, of a time when it was running, of what `ours` is the end of."""
    how = ("--no-walk", "--format=%P%x00%T%x00%B")
    if not ours or not repository.commit_of(theirs):
        return False
    old, new = (repository.run("log", *how, "--end-of-options", name, "--").split("\0", 2) for name in (theirs, ours))
    block = old[2].rstrip("\n").rpartition("\n\n")[2]
    return old[:2] == new[:2] and bool(_RUNNING.search(block))


def _diverged(remote: str, run: _Outgoing, ref: str, there: Mapping[str, str]) -> ArkError:
    own, share = run.ledger.tag, f"ark push {remote} --tag {run.ledger.tag} --as NAME"
    number = ref.removeprefix(run.root)
    if there.get(f"{run.root}0000", run.baseline) != run.baseline:
        what = f"{remote} has another run called {run.tag}"
        known = run.names_among(there)
        if known:
            what += f"; this one is there as {known[0]}"
            share = share.replace("NAME", known[0])
    elif ref.startswith("refs/heads/"):
        what = f"branch {run.branch} on {remote} has commits that are not of run {own}"
    else:
        what = f"run {run.tag} went on elsewhere: {number} on {remote} is not what it is here"
    return ArkError(what, f"share this one under another name, which changes nothing of it: {share}")


def _refused(remote: str, said: Said) -> ArkError:
    rows = (line.split("\t") for line in said.out.splitlines())
    refused = [row[2] for row in rows if len(row) == 3 and row[0] == "!" and "atomic" not in row[2]]
    if not refused:
        return ArkError(f"nothing was pushed to {remote}: {said.reason}", said.remark and f"it said: {said.remark}")
    why = refused[0].partition("(")[2].rstrip(")") or refused[0]
    return ArkError(f"{remote} refused: {why}", said.remark and f"it said: {said.remark}")
