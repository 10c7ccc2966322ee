"""A throwaway clone: the files of a commit, and a git folder of its own that shares the user's objects.

Both are made anew each time, so that whatever a command planted there, configuration, hooks or refs, is gone before the
next one; so is what it left beside them. Git is never started in it: the few files that `git clone --shared` would
leave are written here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from autoresearch_kit.lab.cache import BENCH, BIN, DESK, LIVE, LOGS, PROMPT, TICKET, cache_root, failed, remove
from autoresearch_kit.lab.folder import Folder
from autoresearch_kit.lab.within import Kind, Within
from autoresearch_kit.ledger.git import Entry, Repository
from autoresearch_kit.ledger.throwaway import alternate


class Clone:
    """One folder in which commands may do as they like."""

    def __init__(
        self, repository: Repository, root: Path, base: str, links: Mapping[str, Path], hidden: Sequence[str]
    ) -> None:
        """`base` and `links` as for `Folder`; `hidden` are paths that `git status` in the clone shall not list."""
        self.root = root
        self.files = Folder(repository, root, base, links, spared=frozenset({".git"}))
        self._repository = repository
        self._hidden = (*hidden, *links)
        self._place = os.path.realpath(root.parent)
        self._index = b""
        self._index_of = ""

    def lay(
        self,
        files: Mapping[str, Entry],
        commit: str,
        branch: str | None = None,
        keep: Callable[[str], bool] | None = None,
    ) -> None:
        """Make it a clean clone at `commit`, on `branch` or with a detached HEAD; `keep` as for `Folder.lay`."""
        self._sweep()
        self.files.lay(files, keep)
        if self._index_of != commit:
            self._index = self._read_index(commit)
            self._index_of = commit
        head = {"HEAD": f"{commit}\n"}
        if branch is not None:
            head = {"HEAD": f"ref: refs/heads/{branch}\n", f"refs/heads/{branch}": f"{commit}\n"}
        texts = {
            **head,
            "config": "[core]\n\trepositoryformatversion = 0\n\tbare = false\n",
            "info/exclude": "".join(f"/{_literally(path)}\n" for path in self._hidden),
            "objects/info/alternates": alternate(self._repository.objects),
        }
        try:
            with contextlib.suppress(FileNotFoundError):  # where the user's own clone is shallow, ours must know
                texts["shallow"] = (self._repository.common / "shallow").read_text()
            with Within(self.root, unlock=True) as inside:
                inside.remove(".git")
                inside.make_folder(".git/refs")
                for name, text in texts.items():
                    inside.write(f".git/{name}", os.fsencode(text))
                inside.write(".git/index", self._index)
        except OSError as error:
            raise failed(f"{self.root / '.git'} cannot be written", error) from None

    def _read_index(self, commit: str) -> bytes:
        """The index of `commit`. Kept in memory: commands can write beside the clone."""
        path = self.root.with_name(f"{self.root.name}.git-index")
        try:
            remove(path)
            self._repository.read_index(commit, path)
            data = path.read_bytes()
            remove(path)
        except OSError as error:
            raise failed(f"{path} cannot be read", error) from None
        return data

    def _sweep(self) -> None:
        """Remove what commands left beside the clone, and in the repository's cache above: tools search all folders up.

        Those above are shared with other runs, so only what is no folder goes there. What cannot be removed stays.
        """
        here = self.root.parent
        if os.path.realpath(here) != self._place:  # bent: `Folder.lay` says so
            return
        _clear(here, _is_engines)
        _clear(here / LOGS, lambda name, kind: kind == "file")
        if here.parent.parent == cache_root():
            _clear(here.parent, lambda name, kind: kind == "folder")


def _clear(folder: Path, is_kept: Callable[[str, Kind], bool]) -> None:
    with contextlib.suppress(OSError), Within(folder) as inside:  # not made yet, or a link is in its place
        for name, kind in inside.scan(""):
            if not is_kept(name, kind):
                with contextlib.suppress(OSError):  # whoever writes there next says what is wrong
                    inside.remove(name)


def _is_engines(name: str, kind: Kind) -> bool:
    """Whether the engine itself keeps this between two commands in the folder of a run."""
    if kind == "folder":
        return name in {BENCH, DESK, LOGS, BIN}
    return kind == "file" and (name in {PROMPT, TICKET, LIVE} or name.startswith("setup."))


def _literally(path: str) -> str:
    """A path as a pattern of git's that matches it alone."""
    return "".join(f"\\{c}" if c in "\\*?[ " else c for c in path)
