"""The first commit of a new project: the one time that `ark` works on the user's own index and branch, as `git commit`
does.

The user's hooks, identity and settings play their part here, as in any commit of theirs.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.ledger.git import git, git_error  # ours first: it is quiet where there is no git
from autoresearch_kit.ledger.lock import Lock

_MISLEADING = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX",
    "GIT_DEFAULT_HASH", "GIT_DEFAULT_REF_FORMAT", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS",
    "GIT_LITERAL_PATHSPECS",
)  # fmt: skip
"""They would have git work on another repository, make one that `ark` cannot read, or take names for something else."""
_UNDER_WAY = {
    "MERGE_HEAD": "merge",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "SQUASH_MSG": "merge --squash",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase or am",
}
"""What lies in git's folder meanwhile: a commit of ours would become a part of it, or end it."""
_INDEX_SECONDS = 5.0
"""How long to wait, for each command, for another git that works on the user's index."""
_CROSSED = ("index.lock'", "did not match any file(s) known to git")
"""What git says when another one holds the index, or has written it back without what was just added."""
_TURN_SECONDS = 60.0
"""How long to wait for another `ark` that commits here; hooks of the user's take their time."""


def _repository_around(folder: Path) -> git.Repo | None:
    """The user's repository, by place alone; who commits, and how, stays as the environment says."""
    for name in _MISLEADING:
        os.environ.pop(name, None)
    present = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    try:
        return git.Repo(present, search_parent_directories=True)
    except git.InvalidGitRepositoryError:
        return None


def refuse_repository(folder: Path) -> None:
    """ArkError when `folder` lies in a repository where no project can be started: bare, or busy with a merge."""
    repository = _repository_around(folder)
    if repository is None:
        return
    with repository:
        if repository.bare:
            raise ArkError(f"{folder} is in a bare repository", "clone it and start the project in the clone")
        for name, what in _UNDER_WAY.items():
            if (Path(repository.git_dir) / name).exists():
                raise ArkError(
                    f"{folder} is in a repository in the middle of a {what}",
                    "finish it or abort it first; `git status` says how",
                )


def commit_new_files(folder: Path, names: Sequence[str], message: str, committed: Callable[[], object]) -> str:
    """Commit files that were just made in `folder`, in the repository around it or a new one, and nothing else.

    Returns who the author is when git knows nobody and `ark` had to step in, else an empty string. Calls `committed`
    once the commit is there, also when something ends us just then: the files must stay. ArkError for files that git
    tracks already.
    """
    paths = [str(folder.resolve() / name) for name in names]
    identity = []
    try:
        with _repository_around(folder) or git.Repo.init(folder) as repository:
            if not all(_ask(repository, "var", name) for name in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT")):
                identity = ["-c", "user.name=ark", "-c", "user.email=ark@localhost"]
            # Two partial commits at once: git reads the index before it locks it, so that one can undo the other's.
            lock = Lock(
                Path(repository.common_dir) / "ark/+first-commit",
                "the index of this repository",
                "wait for it, then try again",
                _TURN_SECONDS,
            )
            lock.acquire()
            try:
                _refuse_tracked(repository, paths)
                _commit(repository, paths, [*identity, "commit", "--quiet", "-m", message], committed)
            finally:
                lock.release()
    except git.GitCommandNotFound:
        raise ArkError("git is not installed", "install git 2.30 or newer") from None
    except git.GitCommandError as error:
        # GitPython puts what git said between quotes.
        said = str(error.stderr).strip().removeprefix("stderr: '").removesuffix("'").strip()
        raise git_error("commit", 1, said) from None
    return "ark <ark@localhost>" if identity else ""


def _commit(repository: git.Repo, paths: list[str], command: list[str], committed: Callable[[], object]) -> None:
    before = _head(repository)
    try:
        # By force: a rule such as `*.md` in the user's list must not leave half of a project uncommitted.
        _patiently(repository, ["add", "--force", "--", *_literal(paths)], [*command, "--", *_literal(paths)])
        committed()
    except BaseException:
        if _head(repository) != before and _holds(repository, paths):
            committed()
        else:
            with contextlib.suppress(git.GitCommandError):
                _patiently(repository, ["rm", "--cached", "--quiet", "--ignore-unmatch", "--", *_literal(paths)])
        raise


def _literal(paths: Sequence[str]) -> list[str]:
    """A name such as `run[1]` is no pattern. Not by git's environment, which the user's hooks would inherit."""
    return [f":(literal){path}" for path in paths]


def _refuse_tracked(repository: git.Repo, paths: Sequence[str]) -> None:
    """Files that were not in the checkout before, but in the index: what git knows of them would be lost."""
    if tracked := _ask(repository, "ls-files", "-z", "--full-name", "--", *_literal(paths)).split("\0")[:-1]:
        raise ArkError(
            f"git tracks {', '.join(tracked)}, which {'were' if tracked[1:] else 'was'} not there any more",
            "commit that, or take another folder",
        )


def _head(repository: git.Repo) -> str:
    """The commit that is checked out; empty before the first one."""
    return _ask(repository, "rev-parse", "--quiet", "--verify", "HEAD")


def _holds(repository: git.Repo, paths: Sequence[str]) -> bool:
    """Whether all of these files are in the commit that is checked out."""
    root = Path(str(repository.working_tree_dir)).resolve()
    committed = set(_ask(repository, "ls-tree", "-r", "-z", "--name-only", "--full-tree", "HEAD").split("\0"))
    return committed.issuperset(Path(path).relative_to(root).as_posix() for path in paths)


def _ask(repository: git.Repo, *command: str) -> str:
    """What a git of its own answers, empty when it fails: GitPython's lasting ones may have died by the same Ctrl-C."""
    _, said, _ = repository.git.execute([_git(), *command], with_extended_output=True, with_exceptions=False)
    return str(said)


def _git() -> str:
    return git.Git.GIT_PYTHON_GIT_EXECUTABLE or "git"


def _patiently(repository: git.Repo, *commands: list[str]) -> None:
    """Run git commands in turn, from the first again while another git works on the user's index, for a few seconds."""
    deadline = time.monotonic() + _INDEX_SECONDS * len(commands)
    while True:
        try:
            for command in commands:
                _run(repository, command)
            return
        except git.GitCommandError as error:
            if not any(sign in str(error.stderr) for sign in _CROSSED) or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _run(repository: git.Repo, command: list[str]) -> None:
    # What it says goes to a file: a pipe would fill up or stay open, as hooks say much and leave others behind.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [_git(), *command],
            cwd=repository.working_dir,
            env={**os.environ, "LANGUAGE": "C", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            status = process.wait()
        except BaseException:  # whoever ended us must not find a commit later on
            process.terminate()
            process.wait()  # for git alone: a hook of the user's may outlive it
            raise
        if status != 0:
            said.seek(0)
            raise git.GitCommandError(command, status, said.read())
