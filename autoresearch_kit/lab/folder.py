"""A folder that is made to hold exactly the files of a commit, again and again, whatever was done to it meanwhile.

Promises: after `lay`, every file has the content, mode and type that the commit gives it, and nothing else is there but
what the caller asked to keep. Files are trusted unread only when inode, size, mode and both time stamps are those that
we left; the change time cannot be set by a program, and a file that changed in the same tick as it was laid is read
again (git calls such files racy). Git is never started in the folder: its configuration and attributes mean nothing.
Nothing outside is ever touched: no link is followed, neither in the folder nor in its own place, also while somebody
works there (`Within`). Git writes only into new folders beside it.

Does not promise: extended attributes on folders, or anything against a program that runs as root and sets the clock or
mounts something into the folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.lab.cache import failed, make_private, remove, write_anew
from autoresearch_kit.lab.within import Within
from autoresearch_kit.ledger.git import GITLINK, SYMLINK, Entry, Repository, blob_hash

RACY_NS = 50_000_000
"""Kernels stamp files with a clock that ticks every 1 to 10 ms; this is well above."""
LONG_PATH_BYTES = 1500
"""What a run leaves below a longer path is not looked at: no artifact is there, and 4096 is where system calls end."""

Stamp = tuple[int, int, int, int, int]
Keep = Callable[[str], bool]


@dataclass(slots=True)
class _Laid:
    """A file as we left it."""

    entry: Entry
    stamp: Stamp
    on_disk: str
    """Hash of the content as a blob; differs from `entry.oid` where the user's filters changed it."""


class Folder:
    """A folder under our control, except while somebody else's command runs in it."""

    def __init__(
        self,
        repository: Repository,
        root: Path,
        base: str,
        links: Mapping[str, Path],
        spared: frozenset[str] = frozenset(),
    ) -> None:
        """`base` is the commit whose checkout fixes how the user's filters (line ends, LFS) treat unchanged files.

        `links` are paths (from the root) that become symlinks to somewhere outside; what lies at a path in `spared` is
        the caller's business. ArkError for a link in the place of committed files.
        """
        self.root = root
        self._place = os.path.realpath(root.parent)
        self._repository = repository
        self._links = {path: str(target) for path, target in links.items()}
        self._spared = spared
        self._base_files = repository.files(base)
        self._sizes = repository.sizes(base)
        self._index = root.with_name(root.name + ".index")
        self._base = base
        self._laid: dict[str, _Laid] = {}
        self._filtered: set[str] = set()
        self._made: tuple[int, int] | None = None
        self._taken_up = False
        self._folder_mode = 0o700
        self._handed_ns = 0
        for path, entry in self._base_files.items():
            if entry.mode != GITLINK and (found := next((x for x in self._links if _within(path, x)), None)):
                raise ArkError(f"`link: {found}` holds committed files, such as {path}", "remove it from `link`")

    def lay(self, files: Mapping[str, Entry], keep: Keep | None = None) -> None:
        """Make the folder hold `files` and the links, and of what else is there only regular files that `keep` names.

        A file that `keep` names wins over one in `files`. ArkError when the disk is full or the folder cannot be used.
        """
        try:
            if not self._is_ours():
                self._first()
            try:
                self._make(files, keep)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):  # a fresh folder would not help
                    raise
                self._first()
                self._make(files, None)
            self._handed_ns = self._now()
        except OSError as error:
            raise failed(f"{self.root} cannot be written", error) from None

    def is_untouched(self, inside: Within, path: str) -> bool:
        """Whether the file still is what `lay` or `put` left there; `inside` is the folder, opened."""
        laid = self._laid.get(path)
        return laid is not None and self._matches(inside, path, laid)

    def is_as_laid(self, path: str, entry: Entry) -> bool:
        """Whether a file with this mode and these bytes is what `lay` left, the user's filters included."""
        laid = self._laid.get(path)
        return laid is not None and (laid.entry.mode, laid.on_disk) == (entry.mode, entry.oid)

    def on_disk(self, path: str) -> str | None:
        """Hash, as a blob, of what `lay` left at `path`; None when it left nothing there."""
        laid = self._laid.get(path)
        return laid.on_disk if laid else None

    def is_changed(self, inside: Within, path: str, entry: Entry) -> bool:
        """Whether the file at `path`, which `lay` made from `entry` or another process did, is another one now."""
        if path in self._laid:
            return not self._matches(inside, path, self._laid[path])
        with contextlib.suppress(OSError):
            if entry.mode == SYMLINK:
                return _hash(inside, path) != entry.oid
            # Of what another process has laid the user's filters are not known: mostly they are about line ends.
            data = inside.read(path)
            return entry.oid not in (blob_hash(data), blob_hash(data.replace(b"\r\n", b"\n")))
        return True

    def make_folder(self, path: str) -> None:
        """Make an empty folder where somebody may have put anything else."""
        try:
            with Within(self.root, unlock=True) as inside:
                inside.make_folder(path)
        except OSError as error:
            raise failed(f"{self._absolute(path)} cannot be made", error) from None

    def take_up(self) -> None:
        """Take the folder over from another process: from now on `lay` changes what is in it, never the folder itself,
        which is where somebody works."""
        self._taken_up = True

    def put(self, path: str, data: bytes) -> None:
        """Write a file of the engine's own over whatever `lay` left; it counts as untouched until somebody edits it."""
        for gone in (*_above(path), path):
            self._laid.pop(gone, None)
        entry = Entry(0o100644, blob_hash(data))
        if state := self.edit(path, entry, data):
            self._laid[path] = _Laid(entry, _stamp(state), entry.oid)
        self._handed_ns = self._now()

    def edit(self, path: str, entry: Entry | None, data: bytes = b"") -> os.stat_result | None:
        """Write a file over whatever is there, or remove it for None, as somebody else might have done."""
        try:
            with Within(self.root, unlock=True) as inside:
                inside.remove(path)
                return _write(inside, path, entry, data) if entry else None
        except OSError as error:
            raise failed(f"{self._absolute(path)} cannot be written", error) from None

    # Making the folder

    def _is_ours(self) -> bool:
        """Whether the folder is the one that we made; ArkError when somebody has bent the way to it."""
        if os.path.realpath(self.root.parent) != self._place:
            raise ArkError(f"{self.root.parent} leads somewhere else now", "look at it and remove it by hand")
        try:
            state = os.lstat(self.root)
        except OSError:
            return False
        # An inode is used again at once, so a link may well have that of the folder it replaced.
        return stat.S_ISDIR(state.st_mode) and (state.st_dev, state.st_ino) == self._made

    def _first(self) -> None:
        """A real checkout of the base, with the user's filters, into an empty folder."""
        taken_up = self._taken_up and _is_folder(self.root)
        self._made = None
        self._laid.clear()
        make_private(self.root.parent)
        place = self.root.with_name(self.root.name + ".fresh") if taken_up else self.root
        if taken_up:
            remove(place)
        else:
            self._move_away()
        place.mkdir()
        self._check_out(place)
        self._folder_mode = stat.S_IMODE(os.lstat(place).st_mode)
        with contextlib.ExitStack() as held:
            inside = held.enter_context(Within(self.root, unlock=True))
            fresh = held.enter_context(Within(place)) if taken_up else None
            if fresh:
                self._sweep(inside, {}, {above for path in self._base_files for above in _above(path)}, None)
            for path, entry in self._base_files.items():
                if entry.mode == GITLINK:
                    inside.make_folder(path)
                    continue
                if fresh:
                    fresh.move(path, inside)
                self._note(inside, path, entry)
            self._made = inside.identity
        if taken_up:
            remove(place)

    def _check_out(self, place: Path, paths: Iterable[str] | None = None) -> None:
        """Files of the base, as only git can make them. Into an empty folder, so that no other attributes have a say,
        and where nobody is at work."""
        remove(self._index)
        self._repository.read_index(self._base, self._index)
        self._repository.check_out(self._index, place, paths)

    def _note(self, inside: Within, path: str, entry: Entry) -> None:
        """Remember a file that git has just checked out."""
        state = inside.stat(path)
        on_disk = entry.oid
        if stat.S_ISREG(state.st_mode):
            if state.st_size != self._sizes.get(path) or path in self._filtered:
                on_disk = ""
            if on_disk != (found := _hash(inside, path)):
                self._filtered.add(path)
                on_disk = found
        self._laid[path] = _Laid(entry, _stamp(state), on_disk)

    def _make(self, files: Mapping[str, Entry], keep: Keep | None) -> None:
        wanted = {path: entry for path, entry in files.items() if entry.mode != GITLINK}
        folders = {path for path, entry in files.items() if entry.mode == GITLINK}
        for path in (*wanted, *self._links, *folders.copy()):
            for above in _above(path):
                folders.add(above)
        for path in self._links:
            folders.discard(path)

        with Within(self.root, unlock=True) as inside:
            if inside.identity != self._made:
                raise OSError(errno.ESTALE, "Another folder is in its place")
            good = self._sweep(inside, wanted, folders, keep)
            missing = [path for path in wanted if path not in good]
            filtered = {
                path for path in missing if path in self._filtered and wanted[path] == self._base_files.get(path)
            }
            for path in missing:
                if path not in filtered:
                    entry = wanted[path]
                    state = _write(inside, path, entry, self._repository.blob(entry.oid))
                    self._laid[path] = _Laid(entry, _stamp(state), entry.oid)
            if filtered:
                self._restore(inside, filtered)
            for path in folders - good:
                inside.make_folder(path)
            for path, target in self._links.items():
                if path not in good:
                    inside.link(path, target)

    def _restore(self, inside: Within, paths: Iterable[str]) -> None:
        """Check some files out again."""
        aside = self.root.with_name(self.root.name + ".filtered")
        remove(aside)
        aside.mkdir()
        self._check_out(aside, paths)
        with Within(aside) as fresh:
            for path in paths:
                fresh.move(path, inside)
                self._note(inside, path, self._base_files[path])
        remove(aside)

    def _sweep(self, inside: Within, wanted: Mapping[str, Entry], folders: set[str], keep: Keep | None) -> set[str]:
        """Remove what does not belong, and return what is right. Without recursion: a run may nest folders at will."""
        good: set[str] = set()
        todo = [""]
        emptied = []
        while todo:
            folder = todo.pop()
            for name, kind in inside.scan(folder, self._folder_mode):  # somebody may have locked us out
                path = f"{folder}/{name}" if folder else name
                if path in self._spared:
                    continue
                if kind == "folder":
                    if path in folders:
                        todo.append(path)
                        good.add(path)
                    elif keep is None or path in wanted or path in self._links or len(path) > LONG_PATH_BYTES:
                        inside.remove(path)
                    else:
                        todo.append(path)
                        emptied.append(path)
                elif keep is not None and kind == "file" and path not in self._links and keep(path):
                    good.add(path)
                    self._laid.pop(path, None)
                elif self._is_right(inside, path, wanted):
                    good.add(path)
                else:
                    inside.unlink(path)
                    self._laid.pop(path, None)
        for path in reversed(emptied):  # the inner ones first
            with contextlib.suppress(OSError):  # something in it is kept
                inside.remove_empty(path)
        return good

    def _is_right(self, inside: Within, path: str, wanted: Mapping[str, Entry]) -> bool:
        if path in self._links:
            with contextlib.suppress(OSError):
                return inside.read_link(path) == self._links[path]
        laid = self._laid.get(path)
        return laid is not None and laid.entry == wanted.get(path) and self._matches(inside, path, laid)

    def _matches(self, inside: Within, path: str, laid: _Laid) -> bool:
        try:
            state = inside.stat(path)
            if _stamp(state) != laid.stamp:
                return False
            return state.st_ctime_ns < self._handed_ns - RACY_NS or _hash(inside, path) == laid.on_disk
        except OSError:
            return False

    def _now(self) -> int:
        """The time by the clock that stamps our files: on a network file system it is the server's."""
        write_anew(self._index, b"")  # a command can put a link or a pipe in its place
        return os.lstat(self._index).st_ctime_ns

    def _move_away(self) -> None:
        """Get rid of what is at our place: what cannot be deleted now is at least not in the way."""
        for number in range(100):
            if not os.path.lexists(self.root):
                return
            aside = self.root.with_name(f"{self.root.name}.broken{number or ''}")
            with contextlib.suppress(ArkError):
                remove(aside)
                self.root.rename(aside)
                remove(aside)
        raise ArkError(f"{self.root} cannot be cleaned", "remove it by hand")

    def _absolute(self, path: str) -> Path:
        return self.root / path if path else self.root


def _above(path: str) -> list[str]:
    """The folders that hold `path`, from the root on."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _write(inside: Within, path: str, entry: Entry, data: bytes) -> os.stat_result:
    """Write bytes as they are: what an agent wrote is what is measured."""
    if entry.mode == SYMLINK:
        return inside.link(path, os.fsdecode(data))
    return inside.write(path, data, 0o777 if entry.mode & 0o100 else 0o666)


def _hash(inside: Within, path: str) -> str:
    """Hash of what is at `path`, a plain file or a link, as a blob."""
    if stat.S_ISLNK(inside.stat(path).st_mode):
        return blob_hash(os.fsencode(inside.read_link(path)))
    with inside.open(path) as file:
        digest = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def _stamp(state: os.stat_result) -> Stamp:
    return (state.st_ino, state.st_mode, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
