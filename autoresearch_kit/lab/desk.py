"""The desk: a throwaway clone in which an agent may do as it likes.

From the desk the engine takes only plain files that match the mutable globs; it reads them without following links.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.globs import Matcher, compile_globs, is_glob
from autoresearch_kit.core.names import NOTES_FOLDER, RESERVED_NAMES
from autoresearch_kit.lab.clone import Clone
from autoresearch_kit.lab.ticket import Filtered
from autoresearch_kit.lab.within import Within
from autoresearch_kit.ledger.git import Entry, Repository, blob_hash

MAX_FILE_BYTES = 64 * 2**20
MAX_CHANGE_BYTES = 256 * 2**20
"""All changed files of one attempt together: they stay in the user's repository for good."""
MAX_FILES = 10_000
MAX_NAMED = 5
"""So many files that were not taken are named."""
_INVISIBLE = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])
"""Characters that HFS+ ignores in names."""
JUNK_FOLDER = "__pycache__"
"""New files below it are never part of an attempt, also where no ignore rule says so: they differ each time."""


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
        self._clone = Clone(repository, root, base, links, [place.prefix + name for name in RESERVED_NAMES])
        self._folder = self._clone.files
        self._links = frozenset(links)
        self.files: Mapping[str, Entry] = {}
        """What was laid."""
        self.laid = ""
        """The commit that was laid."""
        self._filtered: Filtered = {}

    @property
    def filtered(self) -> Filtered:
        """Mutable files whose bytes are not those of the commit although nobody has touched them."""
        return {
            path: (entry.mode, on_disk)
            for path, entry in self.files.items()
            if self._place.is_mutable(path) and (on_disk := self._folder.on_disk(path)) not in (None, entry.oid)
        }

    def take_up(self, laid: str, files: Mapping[str, Entry], filtered: Filtered) -> None:
        """Go on with the desk that another process has laid at commit `laid`, whose files are `files`."""
        self._folder.take_up()
        self.laid, self.files, self._filtered = laid, files, filtered

    def lay(self, head: str, branch: str, files: Mapping[str, Entry], extra: Mapping[str, bytes]) -> None:
        """Make the desk a clean clone at commit `head` of `branch`; `extra` are files in the spec's folder besides."""
        self._clone.lay(files, head, branch)
        self.laid, self.files, self._filtered = head, files, {}
        self._folder.make_folder(self._place.prefix + NOTES_FOLDER)  # so that `> .ark/attempt.md` works in a shell
        self.put(extra)

    def put(self, extra: Mapping[str, bytes]) -> None:
        """Write files of the engine's own into the spec's folder."""
        for name, data in extra.items():
            self._folder.put(self._place.prefix + name, data)

    def edit(self, files: Mapping[str, Entry]) -> None:
        """Give a desk that was just laid the mutable ones of `files`, as an agent might have done."""
        for path in sorted({*self.files, *files}, key=files.__contains__):  # a file may give way to a folder
            if not self._place.is_mutable(path) or self.files.get(path) == files.get(path):
                continue
            entry = files.get(path)
            self._folder.edit(path, entry, self._repository.blob(entry.oid) if entry else b"")

    def compose(self) -> dict[str, Entry | None]:
        """What the agent changed: mutable files by path from the root, None for a deleted one. Their blobs are written.

        Refused, and nothing is written, when a mutable path is anything but a plain file, or too large, and when the
        desk itself is gone.
        """
        with self._opened() as inside:
            return self._compose(inside)

    def _compose(self, inside: Within) -> dict[str, Entry | None]:
        changes: dict[str, Entry | None] = {}
        contents: dict[str, bytes] = {}
        found = set()
        room = MAX_CHANGE_BYTES
        for path in self._candidates(inside):
            found.add(path)
            if self._folder.is_untouched(inside, path):
                continue
            data, mode = _read(inside, path)
            room -= len(data)
            if room < 0:
                raise Refused(f"the changed files have more than {MAX_CHANGE_BYTES >> 20} MB together")
            entry = Entry(mode, blob_hash(data))
            as_laid = self._folder.is_as_laid(path, entry) or self._filtered.get(path) == (entry.mode, entry.oid)
            if entry != self.files.get(path) and not as_laid:
                changes[path], contents[path] = entry, data
        for path in self._junk([path for path in changes if path not in self.files]):
            del changes[path]
        self.check_places(self.files, [path for path in changes if path not in self.files])
        for path in self.files:
            if path not in found and self._place.is_mutable(path):
                _check_gone(inside, path)
                changes[path] = None
        for path in changes.keys() & contents.keys():
            self._repository.store_blob(contents[path])
        return changes

    def left_out(self, products: Matcher) -> list[str]:
        """What was changed or added in the spec's folder and is not taken, as seen from there, at most `MAX_NAMED`.

        Without what a run leaves, `products` among it, and what the user's rules ignore.
        """
        prefix = self._place.prefix
        changed: list[str] = []
        new: list[str] = []
        with contextlib.suppress(Refused), self._opened() as inside:  # told of elsewhere
            for path in itertools.islice(self._walk(inside, prefix.rstrip("/")), MAX_FILES):
                inner = path[len(prefix) :]
                if inner.split("/")[0] in RESERVED_NAMES or self._place.is_mutable(path) or products.matches(inner):
                    continue
                if entry := self.files.get(path):
                    changed += [inner] if self._folder.is_changed(inside, path, entry) else []
                elif JUNK_FOLDER not in path.split("/") and len(new) < MAX_NAMED:
                    new.append(path)
        with contextlib.suppress(ArkError):
            changed += [path[len(prefix) :] for path in new if path not in self._repository.ignored(new)]
        return changed[:MAX_NAMED]

    def _junk(self, new: list[str]) -> set[str]:
        """Those of the new files that nobody wants: what the user's rules ignore, and caches of Python."""
        named = {self._place.prefix + name for name in self._place.mutable.literals}
        junk = {path for path in new if JUNK_FOLDER in path.split("/")}
        asked = [path for path in new if path not in named and path not in junk]
        try:
            return junk | self._repository.ignored(asked)
        except ArkError as error:  # such as a folder that is a link, or a submodule, in the user's checkout
            raise Refused(f"whether new files are ignored cannot be told: {error.message}") from None

    def check_places(self, files: Mapping[str, Entry], new: Sequence[str]) -> None:
        """Refused when a file that is new beside `files` would take the place of what is not the agent's, lie below a
        link, or has a name that git refuses."""
        fixed = {path for path in files if not self._place.is_mutable(path)} if new else set()
        fixed |= self._links
        folders = {above for path in fixed for above in _above(path)}
        for path in new:
            if path in folders or path in fixed:
                raise Refused(f"{path} is in the place of a folder that is not yours to change; give it another name")
            if taken := next((above for above in _above(path) if above in fixed), None):
                raise Refused(f"{path} is in the place of {taken}, which is not yours to change; give it another name")
            _check_name(path)

    def _opened(self) -> Within:
        """The desk, to be read; Refused when it is gone."""
        if not self.folder.is_dir():
            raise Refused("the desk was deleted")
        try:
            return Within(self.root)
        except OSError as error:
            raise Refused(f"the desk cannot be read: {error.strerror}") from None

    def _candidates(self, inside: Within) -> Iterator[str]:
        """Paths of everything on the desk that is at a mutable path."""
        count = 0
        for root in self._place.walked:
            for path in self._walk(inside, (self._place.prefix + root).rstrip("/")):
                if self._place.is_mutable(path):
                    count += 1
                    if count > MAX_FILES:
                        raise Refused(f"there are more than {MAX_FILES} mutable files on the desk")
                    yield path
        for name in self._place.mutable.literals:
            path = self._place.prefix + name
            if self._place.is_mutable(path) and _state(inside, path):
                yield path

    def _walk(self, inside: Within, start: str) -> Iterator[str]:
        """Everything below `start` that is not itself a real folder. Links are reported, never followed."""
        state = _state(inside, start)
        if state and stat.S_ISLNK(state.st_mode):
            raise Refused(f"{start} is a symbolic link; plain files only")
        todo = [start] if state and stat.S_ISDIR(state.st_mode) else []
        while todo:
            folder = todo.pop()
            try:
                found = inside.scan(folder)
            except OSError as error:
                raise _refusal(folder[:200] or "the desk", error) from None
            if folder != start and any(name == ".git" for name, _ in found):
                if self._place.is_mutable(f"{folder}/x"):
                    raise Refused(f"{folder} holds a git repository; plain files only")
                continue
            for name, kind in found:
                path = f"{folder}/{name}" if folder else name
                if path in self._links or name == ".git":
                    continue
                if kind == "folder":
                    todo.append(path)
                else:
                    yield path

    def note(self) -> tuple[str, str]:
        """Title and reason that the agent left in `.ark/attempt.md`; empty strings where it left none."""
        title, _, why = self.left("attempt.md").strip().partition("\n")
        return title.lstrip("# ").strip(), why.strip()

    def left(self, name: str) -> str:
        """What the agent left in `.ark/NAME`, the beginning of it; empty when that is no plain file."""
        path = f"{self._place.prefix}{NOTES_FOLDER}/{name}"
        try:
            with Within(self.root) as inside:
                return inside.read(path, 20_000).decode("utf-8", "replace")
        except OSError:
            return ""


def _state(inside: Within, path: str) -> os.stat_result | None:
    """State of what is at `path`, None for nothing; Refused when a folder on the way to it is a link."""
    try:
        return inside.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _refusal(path, error) from None


def _read(inside: Within, path: str) -> tuple[bytes, int]:
    """Content and git's mode of one mutable file."""
    try:
        state = inside.stat(path)
        if kind := _KINDS.get(stat.S_IFMT(state.st_mode)):
            raise Refused(f"{path} is {kind}; plain files only")
        data = inside.read(path, MAX_FILE_BYTES + 1) if state.st_size <= MAX_FILE_BYTES else b""
    except OSError as error:
        raise _refusal(path, error) from None
    if max(state.st_size, len(data)) > MAX_FILE_BYTES:
        raise Refused(f"{path} is larger than {MAX_FILE_BYTES >> 20} MB")
    return data, 0o100755 if state.st_mode & 0o100 else 0o100644


def _check_gone(inside: Within, path: str) -> None:
    """Refused unless the agent deleted this mutable file: something else in its place is no plain deletion."""
    try:
        state = inside.stat(path)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise Refused(f"a file is in the place of a folder that holds {path}; give it another name") from None
    except OSError as error:
        raise _refusal(path, error) from None
    raise Refused(f"{path} is {_KINDS.get(stat.S_IFMT(state.st_mode), 'in a place of its own')}; plain files only")


def _refusal(path: str, error: OSError) -> Refused:
    if error.errno == errno.ELOOP:
        return Refused(f"{error.filename} is a symbolic link; plain files only")
    return Refused(f"{path} cannot be read: {error.strerror}")


def _above(path: str) -> Iterator[str]:
    """The folders that hold `path`."""
    while path := path.rpartition("/")[0]:
        yield path


def _check_name(path: str) -> None:
    """Refused when git, or some system, would take a part of `path` for something else than a name."""
    parts = path.split("/")
    if any(_is_git(part) for part in parts):
        raise Refused(f"{path} is `.git` on some systems; give it another name")
    if not {"", ".", ".."}.isdisjoint(parts):  # no folder holds such a file, but a fetched tree may
        raise Refused(f"{path} leads elsewhere")


def _is_git(name: str) -> bool:
    """Whether NTFS or HFS+ takes this name for `.git`."""
    parts = (part.partition(":")[0].rstrip(". ") for part in name.translate(_INVISIBLE).lower().split("\\"))
    return any(part == ".git" or re.fullmatch(r"git~[0-9]+", part) for part in parts)


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
