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
from collections.abc import Sequence
from pathlib import Path

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.ledger.git import git, git_error  # ours first: it is quiet where there is no git
from autoresearch_kit.ledger.lock import Lock

_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
_INDEX_SECONDS = 5.0
"""How long to wait, for each command, for another git that works on the user's index."""
_CROSSED = ("index.lock'", "did not match any file(s) known to git")
"""What git says when another one holds the index, or has written it back without what was just added."""
_TURN_SECONDS = 60.0
"""How long to wait for another `ark` that commits here; hooks of the user's take their time."""


def _forget_other_repositories() -> None:
    """Drop what says which repository git works on; who commits, and how, stays."""
    for name in _PLACES:
        os.environ.pop(name, None)


def refuse_bare(folder: Path) -> None:
    """ArkError when `folder` lies in a bare repository, where no project can be started."""
    _forget_other_repositories()
    present = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    try:
        repository = git.Repo(present, search_parent_directories=True)
    except git.InvalidGitRepositoryError:
        return
    with repository:
        if repository.bare:
            raise ArkError(f"{folder} is in a bare repository", "clone it and start the project in the clone")


def commit_new_files(folder: Path, names: Sequence[str], message: str) -> str:
    """Commit files that were just made in `folder`, in the repository around it or a new one, and nothing else.

    Returns who the author is when git knows nobody and `ark` had to step in, else an empty string.
    """
    _forget_other_repositories()
    paths = [str(folder.resolve() / name) for name in names]
    identity = []
    try:
        try:
            repository = git.Repo(folder, search_parent_directories=True)
        except git.InvalidGitRepositoryError:
            repository = git.Repo.init(folder)
        with repository:
            command = [git.Git.GIT_PYTHON_GIT_EXECUTABLE or "git"]
            status, _, _ = repository.git.execute(
                [*command, "var", "GIT_COMMITTER_IDENT"], with_extended_output=True, with_exceptions=False
            )
            if status != 0:
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
                _patiently(
                    repository,
                    # By force: a rule such as `*.md` in the user's list must not leave half of a project uncommitted.
                    [*command, "add", "--force", "--", *paths],
                    [*command, *identity, "commit", "--quiet", "-m", message, "--", *paths],
                )
            except BaseException:
                with contextlib.suppress(git.GitCommandError):
                    _patiently(repository, [*command, "rm", "--cached", "--quiet", "--ignore-unmatch", "--", *paths])
                raise
            finally:
                lock.release()
    except git.GitCommandNotFound:
        raise ArkError("git is not installed", "install git 2.30 or newer") from None
    except git.GitCommandError as error:
        # GitPython puts what git said between quotes.
        said = str(error.stderr).strip().removeprefix("stderr: '").removesuffix("'").strip()
        raise git_error("commit", 1, said) from None
    return "ark <ark@localhost>" if identity else ""


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
            command,
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
