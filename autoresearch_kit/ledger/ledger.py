"""The ledger: every attempt of a run is a commit, and git is the only store.

    refs/heads/<branch_prefix>/<tag>    baseline - kept - kept     only kept commits, linear
    refs/ark/<tag>/0000 ... 0041        every attempt; its parent is the head it was measured against
    refs/ark-remotes/<remote>/<tag>/…   the attempts of a run as `ark fetch` found them elsewhere, to be read only

An attempt is reserved before it is measured and closed after. Reserving creates its ref expecting absence, so a number
needs no lock. Closing replaces that ref and, on keep, advances the branch, in one transaction. Nothing that was
measured is ever unreachable.
"""

from __future__ import annotations

import calendar
import contextlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace

from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.names import is_name
from autoresearch_kit.core.records import Attempt, Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.ledger.git import ROOT, ZERO, RefMoved, Repository, short
from autoresearch_kit.ledger.lock import Lock
from autoresearch_kit.ledger.message import read_message, write_message

_FIELDS = ("refname", "objectname", "parent", "tree", "contents")
_NUMBER = re.compile(r"[0-9]{4}|[1-9][0-9]{4,17}")
FETCHED = "refs/ark-remotes/"
"""Below it lie the runs of other repositories, each under the name of its remote."""
_REF = re.compile(
    rf"(?:{ROOT}(?=[^/]+/[^/]+$)|{FETCHED}(?=[^/]+/[^/]+/[^/]+$))(?P<name>.+)/(?P<number>{_NUMBER.pattern})"
)


_CLOSING = re.compile("Ark-Attempt: ([0-9]{1,18})\n")
"""How the last paragraph of a record begins."""


def check_tag(tag: str) -> str:
    """`tag` itself when it can be that of a run of this repository; UsageError otherwise."""
    remote, slash, rest = tag.partition("/")
    if slash and is_name(remote) and is_name(rest):
        raise read_only(tag)
    return _check_plain(tag)


def read_only(name: str, number: int | str = "N") -> UsageError:
    """The error for a verb that would write to the fetched run `name`; `number` is an attempt to begin with."""
    return UsageError(
        f"{name} is the name of a run that was fetched: it can be read only",
        f"begin one of your own with its files: ark run --tag NAME --from {name}/{number}",
    )


def _check_plain(tag: str) -> str:
    if not is_name(tag):
        raise UsageError(
            f"`{tag}` cannot be a tag",
            "use up to 80 letters, digits, `.`, `_` and `-`, beginning with a letter or digit",
        )
    return tag


def split_name(name: str) -> tuple[str, str]:
    """Remote and tag: `nov21` is `("", "nov21")`, `origin/nov21` is `("origin", "nov21")`; UsageError for no name."""
    remote, slash, tag = name.partition("/")
    return (remote, _check_plain(tag)) if slash and is_name(remote) else ("", _check_plain(name))


def root_of(name: str) -> str:
    """What the refs of the run called `name` begin with."""
    remote, tag = split_name(name)
    return f"{FETCHED}{remote}/{tag}/" if remote else f"{ROOT}{tag}/"


def utc_now() -> str:
    """Now, ISO 8601 in UTC with milliseconds."""
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"


def seconds_of(moment: str) -> int:
    """Seconds since 1970 of a time that `utc_now` wrote."""
    return calendar.timegm(time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S"))


def tags(repository: Repository) -> list[str]:
    """Every tag that has attempts, the one active last at the end."""
    return _names(repository, ROOT)


def names(repository: Repository) -> list[str]:
    """Every run by its name, those of this repository before fetched ones, of each the one active last at the end."""
    return [*tags(repository), *(name for name in _names(repository, FETCHED) if _is_run(name))]


def _names(repository: Repository, root: str) -> list[str]:
    newest: dict[str, int] = {}
    for (ref,) in repository.refs(root, "refname"):
        if match := _REF.fullmatch(ref):
            newest[match["name"]] = max(newest.get(match["name"], 0), int(match["number"]))
    if len(newest) < 2:
        return list(newest)
    # Only the newest attempts are opened: reading the dates of thousands takes most of a second.
    last = [f"{root}{name}/{number:04d}" for name, number in newest.items()]
    rows = repository.refs(last, "refname", "committerdate:unix")
    dates = {ref.removeprefix(root).rpartition("/")[0]: int(date or 0) for ref, date in rows}
    return sorted(newest, key=lambda name: (dates.get(name, 0), name))


class Ledger:
    """The attempts of one run."""

    def __init__(self, repository: Repository, branch_prefix: str, name: str, spec: str = "") -> None:
        """`name` is a tag, or `REMOTE/TAG` for a run that was fetched, which can be read only.

        `spec` is the path of the spec from the root, to be written into each record.
        """
        self.repository = repository
        self.remote, tag = split_name(name)
        self.tag = name
        self.spec = spec
        self.branch = f"{branch_prefix}/{tag}"
        self._branch_ref = f"refs/heads/{self.branch}"
        self._root = root_of(name)
        if self.remote:
            self.branch = f"{self.remote}/{self.branch}"
            self._branch_ref = f"refs/remotes/{self.branch}"

    def lock(self) -> Lock:
        """The lock that one engine at a time holds on this run, not yet taken; by tag, as the attempts are."""
        return Lock(self.repository.common / "ark" / f"{self.tag}.lock", f"run {self.tag}")

    def ref(self, number: int) -> str:
        """Full name of an attempt's ref."""
        return f"{self._root}{number:04d}"

    def read(self) -> list[Attempt]:
        """Every attempt in order of its number; one process of git whatever their count."""
        return sorted(self._read(self._root), key=lambda attempt: attempt.number)

    def read_one(self, number: int) -> Attempt | None:
        """One attempt, or None."""
        return next((a for a in self._read(self.ref(number)) if a.number == number), None)

    def _read(self, prefix: str) -> Iterable[Attempt]:
        return self._parse(self.repository.refs(prefix, *_FIELDS))

    def _parse(self, rows: Iterable[Sequence[str]]) -> Iterable[Attempt]:
        """The attempts among rows of `_FIELDS`."""
        for name, commit, parents, tree, contents in rows:
            number = name.removeprefix(self._root)
            if _NUMBER.fullmatch(number):
                parent = parents.split(" ")[0]
                try:
                    yield read_message(contents, number=int(number), commit=commit, parent=parent, tree=tree)
                except ArkError:
                    raise ArkError(
                        f"{name} ({short(commit)}) is not a record of `ark`",
                        f"names below {ROOT} belong to `ark`; to move it away: "
                        f"git tag {self.tag}-{number} {name} && git update-ref -d {name}",
                    ) from None

    def head(self) -> str | None:
        """Where the branch points, or None before the baseline."""
        return self.repository.ref(self._branch_ref)

    def reserve(self, number: int, proposal: Proposal, *, tree: str, parent: str, yardstick: str) -> Attempt:
        """Record that an attempt begins, under `number` or the next free one; its outcome is `running`."""
        while True:
            attempt = Attempt(number, "", parent, tree, proposal, (), None, utc_now(), yardstick, spec=self.spec)
            attempt = self._commit(attempt)
            try:
                self.repository.update_refs({self.ref(number): (attempt.commit, ZERO)})
            except RefMoved:
                number += 1
                continue
            return attempt

    def begin_again(self, attempt: Attempt) -> Attempt:
        """Take up an attempt whose supervisor died, under its own number."""
        again = replace(attempt, measurements=(), verdict=None, started=utc_now(), repeats=attempt.repeats + 1)
        return self._replace(attempt, again)

    def close(self, attempt: Attempt, measurements: Sequence[Measurement], verdict: Verdict) -> Attempt:
        """Record how a running attempt ended and, on keep, advance the branch: both or neither.

        RefMoved when somebody moved the branch or the attempt's ref since; the caller decides what becomes of it.
        """
        return self._replace(attempt, replace(attempt, measurements=tuple(measurements), verdict=verdict))

    def withdraw(self, attempt: Attempt) -> None:
        """Remove a baseline that could not be measured, so that nothing is changed by a run that never began."""
        self.repository.update_refs({self.ref(attempt.number): (ZERO, attempt.commit)})

    def advance(self, attempt: Attempt) -> None:
        """Finish a close whose second half a power failure swallowed: move the branch to a kept attempt."""
        self.repository.update_refs({self._branch_ref: (attempt.commit, attempt.parent)})

    def drop_stale_locks(self) -> None:
        """Remove locks on this run's refs that a killed git left; only for the holder of this run's lock."""
        self.repository.drop_stale_locks(self._root.rstrip("/"))
        self.repository.drop_stale_locks(self._branch_ref)

    def tidy(self) -> bool:
        """Pack what many attempts left as loose files, so that reading stays fast; nearly free when there is little.

        No ref, index or checkout changes its meaning. Takes a second or two, so call it between measurements.
        """
        return self.repository.pack()

    def check_free(self) -> None:
        """ArkError when the branch is checked out somewhere, so that moving it would change what that checkout means,
        or when another branch's name is in its way."""
        self._check_not_checked_out()
        parts = self._branch_ref.split("/")
        above = ["/".join(parts[:count]) for count in range(3, len(parts))]
        for (name,) in self.repository.refs([*above, self._branch_ref], "refname"):
            if name in above or name.startswith(self._branch_ref + "/"):
                other = name.removeprefix("refs/heads/")
                raise ArkError(
                    f"branch {self.branch} cannot exist beside your branch {other}",
                    f"rename yours (git branch -m {other} NAME), or set another branch_prefix",
                )

    def _check_not_checked_out(self) -> None:
        where = self.repository.checked_out(self._branch_ref)
        if where:
            raise ArkError(
                f"branch {self.branch} is checked out ({where}), so the run cannot move it",
                "switch that checkout to another branch: git switch - (git worktree prune, should it be gone); "
                "read the run with `git log` instead",
            )

    def moved(self, expected: str) -> ArkError:
        """The error for a branch that is not where the run left it."""
        now = self.head()
        where = f"now at {short(now)}" if now else "gone"
        return ArkError(
            f"branch {self.branch} was moved by somebody else: the run left it at {short(expected)}, it is {where}",
            f"to go on from where the run was: git branch -f {self.branch} {short(expected)}; "
            f"to go on from another commit, start a new run there: git switch --detach COMMIT && ark run --tag NAME",
        )

    def _replace(self, old: Attempt, new: Attempt) -> Attempt:
        new = self._commit(new)
        changes = {self.ref(new.number): (new.commit, old.commit)}
        if new.outcome is Outcome.KEEP:
            self._check_not_checked_out()
            changes[self._branch_ref] = (new.commit, ZERO if new.number == 0 else new.parent)
        self.repository.update_refs(changes)
        return new

    def _commit(self, attempt: Attempt) -> Attempt:
        if self.remote:
            raise read_only(self.tag, attempt.number)
        agent = attempt.proposal.agent or "ark"
        name = "".join(c for c in agent if c not in "<>\n") or "ark"
        author = (name, f"{''.join(c if c.isascii() and c.isalnum() else '-' for c in name)}@localhost")
        parents = [attempt.parent] if attempt.parent else []
        when = max(int(time.time()), seconds_of(attempt.started))
        commit = self.repository.store_commit(attempt.tree, parents, write_message(attempt), author, when)
        return replace(attempt, commit=commit)


def read_runs(repository: Repository, spec: str | None = None) -> list[tuple[Ledger, list[Attempt]]]:
    """Every run, here or fetched, to read from, with its attempts; the one active last at the end. Two gits.

    Only those of the spec at path `spec`, if one is given. A fetched run whose attempts are all in another one is that
    run, which was pushed, and is left out. ArkError for a ref of this repository that is no record; a fetched run that
    holds such a one is left out, `ark fetch` told so.
    """
    runs: dict[str, tuple[Ledger, list[Attempt]]] = {}
    of_folder: dict[str, str] = {}
    dates: dict[str, int] = {}
    problems: dict[str, ArkError] = {}
    for found in repository.each_commit((ROOT, FETCHED)):
        folder = found.name.rpartition("/")[0]
        name = of_folder.get(folder, "")
        if not name:
            name = of_folder[folder] = run_name(found.name)
            if name:
                runs[name] = (Ledger(repository, "", name), [])
        if name:
            ledger, attempts = runs[name]
            dates[name] = max(dates.get(name, 0), found.date)
            try:
                attempts += ledger._parse((found[:5],))
            except ArkError as error:
                problems.setdefault(name, error)
    runs = {name: run for name, run in runs.items() if run[1] or name in problems}
    copies = _copies({name: {attempt.commit for attempt in attempts} for name, (_, attempts) in runs.items()})
    whole = []
    for name in sorted(runs, key=lambda name: (dates[name], name)):
        ledger, attempts = runs[name]
        if name in problems:
            if ledger.remote or (spec is not None and attempts and attempts[0].spec not in ("", spec)):
                continue
            raise problems[name]
        if name not in copies and (spec is None or attempts[0].spec in ("", spec)):
            whole.append((ledger, sorted(attempts, key=_number)))
    return whole


def run_name(ref: str) -> str:
    """The run, here or fetched, that `ref` is an attempt of; empty for any other ref."""
    match = _REF.fullmatch(ref)
    return match["name"] if match and _is_run(match["name"]) else ""


def find_problems(repository: Repository, refs: Mapping[str, str]) -> dict[str, str]:
    """Which runs among attempts, given as refs with their commits, hold one that is no record; the first of each.

    The run's name with a sentence. One git.
    """
    problems: dict[str, str] = {}
    for found in repository.commits([*refs.items()]):
        name = run_name(found.name)
        try:
            list(Ledger(repository, "", name)._parse((found[:5],)))
        except ArkError as error:
            problems.setdefault(name, error.message)
    return problems


def _number(attempt: Attempt) -> int:
    return attempt.number


def _copies(commits: Mapping[str, Set[str]]) -> set[str]:
    """The fetched ones among runs by name, whose attempts' commits these are, that say nothing which others do not."""
    # Those of this repository first, then the longest, and of equal ones the first by name.
    order = sorted(commits, key=lambda name: ("/" in name, -len(commits[name]), name))
    copies: set[str] = set()
    for at, name in enumerate(order):
        if "/" in name and any(commits[name] <= commits[other] for other in order[:at] if other not in copies):
            copies.add(name)
    return copies


def no_run(repository: Repository) -> UsageError:
    """The error for a project without a run of its own; the hint names runs that were fetched, if there are any."""
    fetched = [name for name in names(repository) if "/" in name]
    if fetched:
        return UsageError("there is no run of this project here, only fetched ones", f"name one: --tag {fetched[-1]}")
    if own := tags(repository):
        return UsageError(
            "there is no run of this spec yet, only of others in this repository",
            f"start one: ark run; or name the other spec, or a run: --tag {own[-1]}",
        )
    elsewhere = "; or bring those of others: ark fetch" if repository.run("remote").split() else ""
    return UsageError("there is no run of this project yet", f"start one: ark run{elsewhere}")


def read_latest(repository: Repository, spec: str) -> tuple[Ledger, list[Attempt]] | None:
    """The run of the spec at path `spec` that was active last, to read from, and its attempts; one process of git.

    None when there is no such run. One that was fetched is somebody else's and does not count.
    """
    for ledger, rows in reversed(_runs(repository, ROOT)):
        if _is_of(ledger, rows, spec):
            return ledger, sorted(ledger._parse(rows), key=lambda attempt: attempt.number)
    return None


def read_branch(repository: Repository, branch: str) -> list[Attempt]:
    """The kept attempts on a branch, from its last baseline's run on, without any ledger; ArkError when it has none.

    Commits that are no records, whoever made them, are passed over.
    """
    how = ("--first-parent", "--grep=^Ark-Attempt: [0-9]", "--format=%H%x00%P%x00%T%x00%B%x00")
    cells = repository.run("log", *how, "--end-of-options", branch, "--").split("\0")
    found: list[Attempt] = []
    for at in range(0, len(cells) - 4, 4):
        commit, parents, tree, contents = cells[at : at + 4]
        closing = _CLOSING.match(contents.rstrip("\n").rpartition("\n\n")[2])
        if closing is None:
            continue
        number = int(closing[1])
        if found and number >= found[-1].number:  # another run's, which this one began from
            break
        parent = parents.split(" ")[0]
        found.append(read_message(contents, number=number, commit=commit.strip(), parent=parent, tree=tree))
        if number == 0:
            break
    if not found:
        raise ArkError(f"branch {branch} holds no record of `ark`", "see what there is: ark compare")
    return found[::-1]


def _runs(repository: Repository, *roots: str) -> list[tuple[Ledger, list[list[str]]]]:
    """The runs below `roots`, each with a row of `_FIELDS` for each attempt; the one active last at the end."""
    rows: dict[str, list[list[str]]] = {}
    dates: dict[str, int] = {}
    for date, *row in repository.refs(roots, "committerdate:unix", *_FIELDS):
        if match := _REF.fullmatch(row[0]):
            name = match["name"]
            rows.setdefault(name, []).append(row)
            dates[name] = max(dates.get(name, 0), int(date or 0))
    names = sorted(rows, key=lambda name: (dates[name], name))
    return [(Ledger(repository, "", name), rows[name]) for name in names if _is_run(name)]


def _is_run(name: str) -> bool:
    return all(is_name(part) for part in name.split("/"))


def _is_of(ledger: Ledger, rows: Sequence[Sequence[str]], spec: str) -> bool:
    """Whether a run is one of the spec at path `spec`; those of long ago do not say."""
    first = next(iter(ledger._parse(rows)), None)
    return first is not None and first.spec in ("", spec)


def last_kept(attempts: Sequence[Attempt]) -> Attempt | None:
    """The head of the run according to the ledger."""
    return next((a for a in reversed(attempts) if a.outcome is Outcome.KEEP), None)


def baseline_of(attempts: Sequence[Attempt]) -> Attempt | None:
    """The baseline that the head's gain is counted from: the last one that was measured."""
    return next((a for a in reversed(attempts) if a.outcome is Outcome.KEEP and a.is_baseline), None)


def quiet_value(repository: Repository, tree: str, yardstick: str, machine: str) -> float | None:
    """The one value that earlier baselines of the same files showed on this kind of machine, in two runs or more.

    None when it was never measured twice, or when values differed.
    """
    values: set[float] = set()
    count = 0
    for _, commit, parents, found, contents in repository.refs(f"{ROOT}*/0000", *_FIELDS):
        if found == tree:
            with contextlib.suppress(ArkError):
                attempt = read_message(contents, number=0, commit=commit, parent=parents.split(" ")[0], tree=tree)
                if (attempt.yardstick, attempt.machine) == (yardstick, machine):
                    values.update(attempt.values)
                    count += len(attempt.values)
    return values.pop() if count > 1 and len(values) == 1 else None


def pick(repository: Repository, branch_prefix: str, name: str) -> Attempt:
    """The attempt called `TAG/N`; UsageError when there is none."""
    tag, _, number = name.rpartition("/")
    if tag and number.isascii() and number.isdigit() and len(number) < 18:
        with contextlib.suppress(UsageError):
            found = Ledger(repository, branch_prefix, tag).read_one(int(number))
            if found:
                return found
    known = ", ".join(names(repository)[-8:]) or "none yet"
    raise UsageError(f"there is no attempt {name}", f"write TAG/N; the tags are: {known}")
