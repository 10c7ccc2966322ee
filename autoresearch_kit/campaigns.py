"""Which runs there are to look at, and what a name on the command line stands for.

nov21                           a run of this repository
origin/nov21                    one that `ark fetch` brought
autoresearch/nov21              the same by its branch; so origin/autoresearch/nov21
any branch, or a path           what another loop left: results.tsv, autoresearch.jsonl, .auto/log.jsonl
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from autoresearch_kit.core.campaign import ARK, BRANCH, Campaign
from autoresearch_kit.core.errors import ArkError, SpecError, UsageError
from autoresearch_kit.core.names import HISTORIES
from autoresearch_kit.core.records import Attempt
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.core.specfile import MAX_BYTES as MAX_SPEC_BYTES
from autoresearch_kit.core.specfile import parse_spec
from autoresearch_kit.ledger.ledger import Ledger, no_run, read_branch, read_runs
from autoresearch_kit.project import Project, with_name

MAX_BYTES = 32 * 2**20
"""Of a foreign log that is read; see `foreign.MAX_ROWS` too."""


def all_campaigns(project: Project) -> list[Campaign]:
    """Every run of the spec, here or fetched, the one active last at the end.

    A remote-tracking branch whose ledger was not fetched counts with its kept attempts, unless they are known.
    """
    found = [_of_ledger(project, *run) for run in read_runs(project.repository, project.spec_name)]
    branches = {campaign.branch for campaign in found}
    commits = {attempt.commit for campaign in found for attempt in campaign.attempts}
    for branch in project.repository.remote_branches(project.spec.branch_prefix):
        if branch not in branches:
            with contextlib.suppress(ArkError):
                campaign = _of_branch(project, branch)
                if campaign.attempts[-1].commit not in commits:  # else it was pushed from here
                    found.insert(0, campaign)
    return found


def find_campaign(project: Project, name: str) -> Campaign:
    """What `name` stands for, see above; UsageError when that is nothing."""
    repository, prefix = project.repository, project.spec.branch_prefix
    for candidate in dict.fromkeys([name, _without_prefix(name, prefix)]):
        with contextlib.suppress(UsageError):
            ledger = Ledger(repository, prefix, candidate)
            if attempts := ledger.read():
                return _of_ledger(project, ledger, attempts)
    path = Path(name)
    if name and path.exists():
        return _of_path(project, path)
    remote, _, tag = name.partition("/")
    for branch in (name, f"{prefix}/{name}", f"{remote}/{prefix}/{tag}"):
        if commit := repository.commit_of(branch):
            with contextlib.suppress(ArkError):
                return _of_branch(project, branch)
            return _foreign_branch(project, branch, commit)
    known = [ledger.tag for ledger, _ in read_runs(repository, project.spec_name)]
    raise UsageError(
        f"there is no run, branch or file called {name}", f"the runs are: {', '.join(known[-8:]) or 'none yet'}"
    )


def latest_campaign(project: Project, name: str | None) -> Campaign:
    """The run called `name`, else the one of this repository that was active last; UsageError when there is none."""
    if name is not None:
        return find_campaign(project, name)
    runs = [run for run in read_runs(project.repository, project.spec_name) if not run[0].remote]
    if not runs:
        raise no_run(project.repository)
    return _of_ledger(project, *runs[-1])


def _without_prefix(name: str, prefix: str) -> str:
    """`autoresearch/nov21` as `nov21`, `origin/autoresearch/nov21` as `origin/nov21`."""
    if name.startswith(f"{prefix}/"):
        return name.removeprefix(f"{prefix}/")
    remote, slash, rest = name.partition(f"/{prefix}/")
    return f"{remote}/{rest}" if slash else name


def _of_ledger(project: Project, ledger: Ledger, attempts: Sequence[Attempt]) -> Campaign:
    branch = Ledger(project.repository, project.spec.branch_prefix, ledger.tag).branch
    return _campaign(project, ledger.tag, attempts, ARK, branch)


def _of_branch(project: Project, branch: str) -> Campaign:
    """The kept attempts on a branch; ArkError when its commits are no records."""
    attempts = read_branch(project.repository, branch)
    if attempts[0].spec not in ("", project.spec_name):
        raise UsageError(f"{branch} is a run of {attempts[0].spec}", "give the folder of that spec")
    note = "only kept attempts: its ledger is not here (ark fetch brings it)"
    return _campaign(project, branch, attempts, BRANCH, branch, (note,))


def _campaign(
    project: Project, name: str, attempts: Sequence[Attempt], source: str, branch: str, notes: tuple[str, ...] = ()
) -> Campaign:
    """With the spec as it was when the run began to be counted, else as it is now."""
    last = next((a for a in reversed(attempts) if a.commit), None)
    text, spec = _spec_at(project, last.commit) if last else ("", None)
    if spec is None:
        notes = (*notes, "its spec could not be read; it is shown with the present one")
    used = spec or project.spec
    return Campaign(name, tuple(attempts), used.metric, used.maximize, source, branch, spec, text, notes)


def _spec_at(project: Project, commit: str) -> tuple[str, Spec | None]:
    data = None
    with contextlib.suppress(ArkError):  # somebody else's may be of any size
        data = project.repository.file_at(commit, project.spec_name, MAX_SPEC_BYTES)
    if data is None:
        return "", None
    text = data.decode("utf-8-sig", "replace")
    return text, _parse(text, project.spec_path)


@lru_cache(maxsize=64)
def _parse(text: str, path: Path) -> Spec | None:
    with contextlib.suppress(SpecError):  # written for another version of ark
        return with_name(parse_spec(text), path)
    return None


# What `ark` did not make


def _of_path(project: Project, path: Path) -> Campaign:
    if path.is_dir():
        found = next((path / name for name in HISTORIES if (path / name).is_file()), None)
        if found is None:
            raise UsageError(f"{path} holds none of {', '.join(HISTORIES)}", "give the file itself")
        path = found
    with path.open("rb") as file:
        return _foreign(project, str(path), file.read(MAX_BYTES + 1))


def _foreign_branch(project: Project, branch: str, commit: str) -> Campaign:
    for folder in dict.fromkeys((project.place.prefix, "")):
        for name in HISTORIES:
            if (data := project.repository.file_at(commit, folder + name, MAX_BYTES)) is not None:
                return _foreign(project, branch, data, name)
    raise UsageError(f"branch {branch} is not a run, and it has none of {', '.join(HISTORIES)}")


def _foreign(project: Project, name: str, data: bytes, file: str = "") -> Campaign:
    if len(data) > MAX_BYTES:
        raise UsageError(f"{file or name} is larger than {MAX_BYTES >> 20} MB; that is no log of experiments")
    from autoresearch_kit.core.foreign import read_foreign  # most never need it, and it takes a hundredth of a second

    return read_foreign(data.decode("utf-8-sig", "replace"), name, file or name, project.spec)
