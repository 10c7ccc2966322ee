"""A folder that is made to hold exactly the files of a commit, again and again, whatever was done to it meanwhile.

Promises: after `lay`, every file has the content, mode and type that the commit gives it, and nothing else is there but
what the caller asked to keep. Files are trusted unread only when inode, size, mode and both time stamps are those that
we left; the change time cannot be set by a program, and a file that changed in the same tick as it was laid is read
again (git calls such files racy). Git is never started in the folder: its configuration and attributes mean nothing.

Does not promise: extended attributes on folders, or anything against a program that runs as root and sets the clock.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.ledger.git import DISK_HINT, GITLINK, SYMLINK, Entry, Repository

RACY_NS = 50_000_000
"""Kernels stamp files with a clock that ticks every 1 to 10 ms; this is well above."""

Stamp = tuple[int, int, int, int, int]


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
        the caller's business.
        """
        self.root = root
        self._repository = repository
        self._links = {path: str(target) for path, target in links.items()}
        self._spared = spared
        self._base_files = repository.files(base)
        self._sizes = repository.sizes(base)
        self._index = root.with_name(root.name + ".index")
        self._base = base
        self._laid: dict[str, _Laid] = {}
        self._filtered: set[str] = set()
        self._handed_ns = 0

    def lay(self, files: Mapping[str, Entry], keep: Callable[[str], bool] = lambda path: False) -> None:
        """Make the folder hold `files` and the links, and of what else is there only regular files that `keep` names.

        A file that `keep` names wins over one in `files`. ArkError when the disk is full or the folder cannot be used.
        """
        try:
            if not self._laid:
                self._first(files)
            try:
                self._make(files, keep)
            except OSError as error:
                if error.errno in (28, 30):  # no space, read-only: a fresh folder would not help
                    raise
                self._move_away()
                self._first(files)
                self._make(files, lambda path: False)
        except OSError as error:
            raise ArkError(f"{self.root} cannot be written: {error.strerror}", DISK_HINT) from None
        self._handed_ns = time.time_ns()

    def is_untouched(self, path: str) -> bool:
        """Whether the file still is what `lay` or `put` left there."""
        laid = self._laid.get(path)
        return laid is not None and self._matches(path, laid)

    def put(self, path: str, data: bytes) -> None:
        """Write a file of the engine's own over whatever `lay` left; it counts as untouched until somebody edits it."""
        self._remove(path)
        self._write(path, Entry(0o100644, _blob_hash(data)), data)
        self._handed_ns = time.time_ns()

    # Making the folder

    def _first(self, files: Mapping[str, Entry]) -> None:
        """A real checkout of the base, with the user's filters, into an empty folder."""
        if self.root.exists() or self.root.is_symlink():
            self._move_away()
        self.root.mkdir(parents=True)
        self._repository.read_index(self._base, self._index)
        self._repository.check_out(self._index, self.root)
        for path, entry in self._base_files.items():
            if entry.mode == GITLINK:
                (self.root / path).mkdir(parents=True, exist_ok=True)
                continue
            self._note(path, entry)

    def _note(self, path: str, entry: Entry) -> None:
        """Remember a file that git has just checked out."""
        state = os.lstat(self._absolute(path))
        on_disk = entry.oid
        if stat.S_ISREG(state.st_mode) and (
            state.st_size != self._sizes.get(path) or path in self._filtered or self._hash(path) != entry.oid
        ):
            self._filtered.add(path)
            on_disk = self._hash(path)
        self._laid[path] = _Laid(entry, _stamp(state), on_disk)

    def _make(self, files: Mapping[str, Entry], keep: Callable[[str], bool]) -> None:
        wanted = {path: entry for path, entry in files.items() if entry.mode != GITLINK}
        folders = {path for path, entry in files.items() if entry.mode == GITLINK}
        for path in (*wanted, *self._links, *folders.copy()):
            while (path := os.path.dirname(path)) and path not in folders:  # noqa: PTH120 - a git path, not a file
                folders.add(path)
        for path in self._links:
            wanted.pop(path, None)
            folders.discard(path)

        good: set[str] = set()
        self._sweep("", wanted, folders, keep, good)
        missing = [path for path in wanted if path not in good]
        checked_out = [
            path for path in missing if path in self._filtered and wanted[path] == self._base_files.get(path)
        ]
        for path in missing:
            if path not in checked_out:
                self._write(path, wanted[path], self._repository.blob(wanted[path].oid))
        if checked_out:
            self._repository.check_out(self._index, self.root, checked_out)
            for path in checked_out:
                self._note(path, wanted[path])
        for path in folders:
            self._absolute(path).mkdir(parents=True, exist_ok=True)
        for path, target in self._links.items():
            if path not in good:
                self._absolute(path).parent.mkdir(parents=True, exist_ok=True)
                self._absolute(path).symlink_to(target)

    def _sweep(
        self,
        folder: str,
        wanted: Mapping[str, Entry],
        folders: set[str],
        keep: Callable[[str], bool],
        good: set[str],
    ) -> bool:
        """Remove what does not belong below `folder`, note in `good` what is right; True when something stays."""
        stays = False
        for found in _scan(self._absolute(folder)):
            path = f"{folder}/{found.name}" if folder else found.name
            if path in self._spared:
                stays = True
            elif found.is_dir(follow_symlinks=False):
                below = self._sweep(path, wanted, folders, keep, good)
                if not below and path not in folders:
                    Path(found.path).rmdir()
                else:
                    stays = True
            elif found.is_file(follow_symlinks=False) and keep(path):
                good.add(path)
                self._laid.pop(path, None)
                stays = True
            elif self._is_right(path, wanted):
                good.add(path)
                stays = True
            else:
                Path(found.path).unlink()
                self._laid.pop(path, None)
        return stays

    def _is_right(self, path: str, wanted: Mapping[str, Entry]) -> bool:
        if path in self._links:
            with contextlib.suppress(OSError):
                return str(self._absolute(path).readlink()) == self._links[path]
        laid = self._laid.get(path)
        return laid is not None and laid.entry == wanted.get(path) and self._matches(path, laid)

    def _matches(self, path: str, laid: _Laid) -> bool:
        try:
            state = os.lstat(self._absolute(path))
        except OSError:
            return False
        if _stamp(state) != laid.stamp:
            return False
        if state.st_ctime_ns < self._handed_ns - RACY_NS or not stat.S_ISREG(state.st_mode):
            return True
        return self._hash(path) == laid.on_disk

    def _write(self, path: str, entry: Entry, data: bytes) -> None:
        """Write bytes as they are: what an agent wrote is what is measured."""
        target = self._absolute(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.mode == SYMLINK:
            target.symlink_to(os.fsdecode(data))
        else:
            mode = 0o777 if entry.mode & 0o100 else 0o666
            file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            with os.fdopen(file, "wb") as stream:
                stream.write(data)
        self._laid[path] = _Laid(entry, _stamp(os.lstat(target)), entry.oid)

    def _remove(self, path: str) -> None:
        target = self._absolute(path)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        self._laid.pop(path, None)

    def _move_away(self) -> None:
        """Get rid of a folder that cannot be cleaned: what cannot be deleted now is at least not in the way."""
        self._laid.clear()
        for number in range(100):
            aside = self.root.with_name(f"{self.root.name}.broken{number or ''}")
            shutil.rmtree(aside, ignore_errors=True)
            if not aside.exists():
                self.root.rename(aside)
                shutil.rmtree(aside, ignore_errors=True)
                return
        raise ArkError(f"{self.root} cannot be cleaned", "remove it by hand")

    def _hash(self, path: str) -> str:
        return _blob_hash(self._absolute(path).read_bytes())

    def _absolute(self, path: str) -> Path:
        return self.root / path if path else self.root


def _blob_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _stamp(state: os.stat_result) -> Stamp:
    return (state.st_ino, state.st_mode, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """Entries of a folder, made readable first when somebody has locked us out."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except PermissionError:
        folder.chmod(0o700)
        with os.scandir(folder) as entries:
            return list(entries)
