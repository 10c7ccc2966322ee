"""What is done below one folder stays below it, even while somebody else's process works there.

Promises: no link below the folder is ever followed, whenever it was put there, and nothing is opened that is neither a
folder nor a plain file. Each folder on the way is opened relative to the one that holds it, so that a link in its place
is an error (`ELOOP`, with the link's path as `filename`), and what is done then is done in the folder that was opened,
not at a path.

Does not promise: anything about the way to the folder itself, or against another process of this user that replaces it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn, Self

Kind = Literal["folder", "file", "other"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_RWX = 0o700
MAX_PATH = 4096
"""Longer ways are not gone, as no system call would; what lies there can be removed all the same."""


class Within:
    """A folder that is held open. Paths are relative to it, with slashes; methods raise OSError."""

    def __init__(self, root: Path, unlock: bool = False) -> None:
        """With `unlock`, folders in which this user may not work are made such that he may."""
        self._unlock = unlock
        self._root = _open_folder(str(root), None, unlock, str(root))
        state = os.fstat(self._root)
        self.identity = (state.st_dev, state.st_ino)
        # The folder that was used last, as what comes next is mostly there too. Never all of them: a process may have
        # only so many open.
        self._at, self._here = "", self._root

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        self._leave()
        os.close(self._root)

    def stat(self, path: str) -> os.stat_result:
        """State of what is at `path`, a link included; of the folder itself for an empty path."""
        if not path:
            return os.fstat(self._root)
        parent, name = self._split(path)
        return os.stat(name, dir_fd=parent, follow_symlinks=False)

    def scan(self, folder: str, mode: int | None = None) -> list[tuple[str, Kind]]:
        """Name and kind of all that is in `folder`, which gets the permissions `mode`."""
        here = self._enter(folder)
        if mode is not None and stat.S_IMODE(os.fstat(here).st_mode) != mode:
            os.fchmod(here, mode)
        return _scan(here)

    def open(self, path: str) -> BinaryIO:
        """A plain file, to be read; never waits for a pipe."""
        parent, name = self._split(path)
        try:
            file = os.open(name, _READ, dir_fd=parent)
        except OSError as error:
            _say(error, name, parent, path)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, "Not a plain file", path)
        return os.fdopen(file, "rb", buffering=0)

    def read(self, path: str, limit: int = -1) -> bytes:
        """What a plain file holds, at most `limit` bytes of it."""
        with self.open(path) as file:
            if limit < 0:
                return file.read()
            parts = []
            while limit > 0 and (data := file.read(limit)):
                parts.append(data)
                limit -= len(data)
            return b"".join(parts)

    def read_link(self, path: str) -> str:
        """Where the link at `path` leads to."""
        parent, name = self._split(path)
        return os.readlink(name, dir_fd=parent)

    def make_folder(self, path: str) -> None:
        """Make a folder and those above it; what is no folder, on the way too, gives way. A folder stays as it is."""
        self._enter(path, make=True)

    def write(self, path: str, data: bytes, mode: int = 0o666) -> os.stat_result:
        """Write a new file, where there is nothing, and return its state; folders are made as by `make_folder`."""
        parent, name = self._split(path, make=True)
        with os.fdopen(os.open(name, _NEW, mode, dir_fd=parent), "wb", buffering=0) as stream:
            left = memoryview(data)
            while left:
                left = left[stream.write(left) :]
            return os.fstat(stream.fileno())

    def link(self, path: str, target: str) -> os.stat_result:
        """Make a symbolic link, where there is nothing, and return its state; folders are made as by `make_folder`."""
        parent, name = self._split(path, make=True)
        os.symlink(target, name, dir_fd=parent)
        return os.stat(name, dir_fd=parent, follow_symlinks=False)

    def move(self, path: str, into: Within) -> None:
        """Move what is at `path` to the same path in another folder; folders are made there as by `make_folder`."""
        source, name = self._split(path)
        target, _ = into._split(path, make=True)
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)

    def unlink(self, path: str) -> None:
        """Delete what is no folder."""
        parent, name = self._split(path)
        os.unlink(name, dir_fd=parent)

    def remove_empty(self, folder: str) -> None:
        """Delete an empty folder."""
        self._leave(folder)
        parent, name = self._split(folder)
        os.rmdir(name, dir_fd=parent)

    def remove(self, path: str) -> None:
        """Delete whatever is at `path`, if anything, however deep and however locked.

        Folders inside folders are first moved up, because only so many can be held open, and a stack has at most some
        thousand frames; both are easily exceeded on purpose.
        """
        self._leave(path)
        try:
            parent, name = self._split(path)
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=parent)
                return
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # below a link there is nothing of ours
                return
            raise
        top = _open_folder(name, parent, True, path)
        try:
            moved, prefix = 0, secrets.token_hex(8)
            while folders := _unlink_files(top):
                for folder in folders:
                    inner = _open_folder(folder, top, True, f"{path}/{folder}")
                    try:
                        for below in _unlink_files(inner):
                            _move_folder(below, inner, f"{prefix}{moved}", top)
                            moved += 1
                    finally:
                        os.close(inner)
                    os.rmdir(folder, dir_fd=top)
        finally:
            os.close(top)
        os.rmdir(name, dir_fd=parent)

    # Ways

    def _split(self, path: str, make: bool = False) -> tuple[int, str]:
        """The open folder that holds `path`, good until the next call, and the name there."""
        folder, _, name = path.rpartition("/")
        _check(name, path)
        return self._enter(folder, make), name

    def _enter(self, folder: str, make: bool = False) -> int:
        """Open a folder below the root, or take it as it was opened before."""
        if folder == self._at:
            return self._here
        if not folder:
            return self._root
        here, way, rest = self._root, "", folder
        if self._at and folder.startswith(f"{self._at}/"):
            here, way, rest = self._here, self._at, folder[len(self._at) + 1 :]
        if len(folder) > MAX_PATH:  # the way there takes time with the depth
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), folder)
        opened = -1
        try:
            for name in rest.split("/"):
                _check(name, folder)
                way = f"{way}/{name}" if way else name
                below = self._step(name, here, way, make)
                if opened >= 0:
                    os.close(opened)
                here = opened = below
        except BaseException:
            if opened >= 0:
                os.close(opened)
            raise
        self._leave()
        self._at, self._here = folder, opened
        return opened

    def _step(self, name: str, parent: int, path: str, make: bool) -> int:
        try:
            return _open_folder(name, parent, self._unlock, path)
        except OSError as error:
            if not make or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        os.mkdir(name, dir_fd=parent)
        return _open_folder(name, parent, self._unlock, path)

    def _leave(self, path: str = "") -> None:
        """Let go of the folder that was used last if it is at `path` or below."""
        if self._here != self._root and f"{self._at}/".startswith(f"{path}/" if path else ""):
            os.close(self._here)
            self._at, self._here = "", self._root


def _open_folder(name: str, parent: int | None, unlock: bool, path: str) -> int:
    """Open the folder `name` itself, unlocked if that is wanted; `path` is for the error."""
    try:
        found = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        if not unlock:
            raise
        _unlock(name, parent)
        found = os.open(name, _FOLDER, dir_fd=parent)
    except OSError as error:
        _say(error, name, parent, path)
    if unlock:
        try:
            mode = stat.S_IMODE(os.fstat(found).st_mode)
            if mode & _RWX != _RWX:
                os.fchmod(found, mode | _RWX)
        except BaseException:
            os.close(found)
            raise
    return found


def _unlock(name: str, parent: int | None) -> None:
    """Let this user into a folder that cannot be opened, without following a link."""
    if not hasattr(os, "O_PATH"):
        os.chmod(name, _RWX, dir_fd=parent, follow_symlinks=False)
        return
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:  # Linux changes no mode through such a handle, but it does through its name
        os.chmod(f"/proc/self/fd/{handle}", _RWX)  # noqa: PTH101 - as above
    finally:
        os.close(handle)


def _say(error: OSError, name: str, parent: int | None, path: str) -> NoReturn:
    """Raise what a system makes of a link that is not to be followed as one error, and any with the whole path."""
    code = error.errno
    if code in (errno.ENOTDIR, errno.ELOOP, errno.EMLINK):
        with contextlib.suppress(OSError):
            if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                code = errno.ELOOP
    assert code is not None
    raise OSError(code, "A symbolic link is in the way" if code == errno.ELOOP else os.strerror(code), path) from None


def _scan(folder: int) -> list[tuple[str, Kind]]:
    with os.scandir(folder) as entries:
        return [(entry.name, _kind(entry)) for entry in entries]


def _kind(entry: os.DirEntry[str]) -> Kind:
    if entry.is_file(follow_symlinks=False):
        return "file"
    return "folder" if entry.is_dir(follow_symlinks=False) else "other"


def _unlink_files(folder: int) -> list[str]:
    """Delete all but the folders in `folder`, and return those."""
    folders = []
    for name, kind in _scan(folder):
        if kind == "folder":
            folders.append(name)
        else:
            os.unlink(name, dir_fd=folder)
    return folders


def _move_folder(name: str, parent: int, new: str, into: int) -> None:
    try:
        os.rename(name, new, src_dir_fd=parent, dst_dir_fd=into)
    except PermissionError:  # a folder that moves must be writable itself
        os.close(_open_folder(name, parent, True, name))
        os.rename(name, new, src_dir_fd=parent, dst_dir_fd=into)


def _check(name: str, path: str) -> None:
    if name in ("", ".", ".."):
        raise OSError(errno.EINVAL, "No path of a file", path)
