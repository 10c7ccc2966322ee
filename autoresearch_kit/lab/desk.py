"""The desk: a throwaway clone in which an agent may do as it likes.

It shares the objects of the user's repository and has its own refs, index and configuration, all written anew each
time the desk is laid, so that whatever an agent plants there is gone before the next turn. Git is never started in it.
From the desk the engine takes only plain files that match the mutable globs; it reads them without following links.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.globs import Matcher, compile_globs, is_glob
from autoresearch_kit.core.spec import NOTES_FOLDER, RESERVED_NAMES
from autoresearch_kit.lab.folder import Folder
from autoresearch_kit.ledger.git import Entry, Repository

MAX_FILE_BYTES = 64 * 2**20
MAX_FILES = 10_000


class Refused(Exception):  # an agent's doing, not an error of ark's
    """What lies on the desk cannot be an attempt; `str()` says why in one sentence."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the spec lies in the repository, and which files below it may change."""

    prefix: str
    """The spec's folder from the root, empty or ending in a slash."""
    spec_name: str
    """File name of the spec."""
    mutable: Matcher
    """Matches paths relative to the spec's folder."""
    walked: tuple[str, ...]
    """Folders, relative to the spec's, in which globs can match; plain names need no walk."""

    @classmethod
    def of(cls, prefix: str, spec_name: str, patterns: Sequence[str]) -> Place:
        """The place of a spec with these mutable patterns."""
        globs = [pattern for pattern in patterns if is_glob(pattern)]
        return cls(prefix, spec_name, compile_globs(patterns), compile_globs(globs).roots if globs else ())

    def is_mutable(self, path: str) -> bool:
        """Whether the file `path` (from the root) belongs to the agent."""
        if not path.startswith(self.prefix):
            return False
        inner = path[len(self.prefix) :]
        first = inner.split("/")[0]
        if inner == self.spec_name or first in RESERVED_NAMES:
            return False
        return not any(part.lower() == ".git" for part in inner.split("/")) and self.mutable.matches(inner)


class Desk:
    """One agent's working folder."""

    def __init__(self, repository: Repository, root: Path, base: str, place: Place, links: Mapping[str, Path]) -> None:
        self.root = root
        self.folder = root / place.prefix if place.prefix else root
        """The spec's folder on the desk: where the agent starts."""
        self._repository = repository
        self._place = place
        self._folder = Folder(repository, root, base, links, spared=frozenset({".git"}))
        self._links = frozenset(links)
        self._index = root.with_name(root.name + ".git-index")
        self._index_of = ""
        self._files: Mapping[str, Entry] = {}

    def lay(self, head: str, branch: str, files: Mapping[str, Entry], extra: Mapping[str, bytes]) -> None:
        """Make the desk a clean clone at commit `head` of `branch`; `extra` are files in the spec's folder besides."""
        self._folder.lay(files)
        self._files = files
        self._lay_git(head, branch)
        for name, data in extra.items():
            self._folder.put(self._place.prefix + name, data)

    def _lay_git(self, head: str, branch: str) -> None:
        """The clone's own git folder: the files that `git clone --shared` would leave, without starting git there."""
        git = self.root / ".git"
        if git.is_dir() and not git.is_symlink():
            shutil.rmtree(git)
        else:
            git.unlink(missing_ok=True)
        if self._index_of != head:
            self._repository.read_index(head, self._index)
            self._index_of = head
        ref = git / "refs" / "heads" / branch
        (git / "objects" / "info").mkdir(parents=True)
        ref.parent.mkdir(parents=True)
        (git / "objects" / "info" / "alternates").write_text(f"{self._repository.objects}\n")
        (git / "HEAD").write_text(f"ref: refs/heads/{branch}\n")
        (git / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = false\n")
        ref.write_text(f"{head}\n")
        shutil.copyfile(self._index, git / "index")

    def compose(self) -> dict[str, Entry | None]:
        """What the agent changed: mutable files by path from the root, None for a deleted one. Blobs are written.

        Refused when a mutable path is anything but a plain file, or too large.
        """
        changes: dict[str, Entry | None] = {}
        found = set()
        for path in self._candidates():
            found.add(path)
            if self._folder.is_untouched(path):
                continue
            entry = self._take(path)
            if entry != self._files.get(path):
                changes[path] = entry
        new = [path for path in changes if path not in self._files]
        for path in self._repository.ignored(new) if new else ():
            changes.pop(path, None)
        for path in self._files:
            if path not in found and self._place.is_mutable(path):
                changes[path] = None
        return changes

    def _candidates(self) -> Iterator[str]:
        """Paths of everything on the desk that is at a mutable path."""
        count = 0
        for root in self._place.walked:
            for path in self._walk((self._place.prefix + root).rstrip("/")):
                if self._place.is_mutable(path):
                    count += 1
                    if count > MAX_FILES:
                        raise Refused(f"there are more than {MAX_FILES} mutable files on the desk")
                    yield path
        for name in self._place.mutable.literals:
            path = self._place.prefix + name
            if self._place.is_mutable(path) and os.path.lexists(self.root / path):
                yield path

    def _walk(self, folder: str) -> Iterator[str]:
        """Everything below `folder` that is not itself a real folder. Links are reported, never followed."""
        try:
            if folder and not stat.S_ISDIR(self._lstat(folder).st_mode):
                return
            with os.scandir(self.root / folder) as entries:
                found = list(entries)
        except OSError:
            return
        for entry in found:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if path in self._links or path == ".git":
                continue
            if not entry.is_dir(follow_symlinks=False):
                yield path
            elif entry.name == ".git" or os.path.lexists(os.path.join(entry.path, ".git")):  # noqa: PTH118 - hot
                if self._place.is_mutable(f"{path}/x"):
                    raise Refused(f"{path} holds a git repository; plain files only")
            else:
                yield from self._walk(path)

    def _lstat(self, path: str) -> os.stat_result:
        """State of `path` from the root; Refused when a folder on the way to it is a link."""
        parts = path.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            if stat.S_ISLNK(os.lstat(self.root / above).st_mode):
                raise Refused(f"{above} is a symbolic link; plain files only")
        return os.lstat(self.root / path)

    def _take(self, path: str) -> Entry:
        """Read one mutable file and write it as a blob."""
        try:
            state = self._lstat(path)
        except OSError as error:
            raise Refused(f"{path} cannot be read: {error.strerror}") from None
        kind = _KINDS.get(stat.S_IFMT(state.st_mode))
        if kind:
            raise Refused(f"{path} is {kind}; plain files only")
        if state.st_size > MAX_FILE_BYTES:
            raise Refused(f"{path} is larger than {MAX_FILE_BYTES >> 20} MB")
        try:
            file = os.open(self.root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(file, "rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise Refused(f"{path} cannot be read: {error.strerror}") from None
        return Entry(0o100755 if state.st_mode & 0o100 else 0o100644, self._repository.store_blob(data))

    def note(self) -> tuple[str, str]:
        """Title and reason that the agent left in `.ark/attempt.md`; empty strings where it left none."""
        path = f"{self._place.prefix}{NOTES_FOLDER}/attempt.md"
        try:
            if not stat.S_ISREG(self._lstat(path).st_mode):
                return "", ""
            with (self.root / path).open("rb") as stream:
                text = stream.read(20_000).decode("utf-8", "replace")
        except (OSError, Refused):
            return "", ""
        title, _, why = text.strip().partition("\n")
        return title.lstrip("# ").strip(), why.strip()


_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_links(root: Path, prefix: str, names: list[str]) -> dict[str, Path]:
    """The spec's `link` entries as paths from the root to what they share; ArkError for one that does not exist."""
    links = {}
    for name in names:
        target = Path(os.path.normpath(root / prefix / name))
        if not target.is_relative_to(root) or target == root:
            raise ArkError(f"`link: {name}` leads out of the repository", "write a path inside the repository")
        if not target.exists():
            raise ArkError(f"`link: {name}` does not exist in {root / prefix}", "make it, or remove it from `link`")
        links[target.relative_to(root).as_posix()] = target
    return links
