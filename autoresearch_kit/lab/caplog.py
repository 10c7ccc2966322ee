# ruff: noqa: PTH105, PTH108
# No pathlib: the guardian imports as little as it can.
"""Logs that never fill the disk.

It promises:
- a log of `CappedLog` takes about 64 MB on the disk at the most, its own trimming included, and keeps its last lines;
- nothing here writes through a link, waits at a pipe, or changes what a hard link elsewhere shows.

It does not promise:
- that every byte arrives: what a full disk refuses is dropped, and the beginning of a flood is cut, with a note;
- to hold back a process that writes a file itself: `regular_size` and `trim` are for a caller that looks often.
"""

import errno
import os
import stat

MB = 1024 * 1024
LOG_CAP = 64 * MB  # for a log and for a watched file
LOG_TRIM_AT = 48 * MB  # while trimming, the old log and its tail are both on the disk
LOG_KEEP = 16 * MB


class CappedLog:
    """A log that keeps its tail. What a full disk refuses is dropped: a run is not ended for what it prints."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        self.lost = False
        """Whether a full disk has refused a part."""
        self.file = create(path)

    def write(self, data: bytes) -> None:
        try:
            write_all(self.file, data)
            self.size += len(data)
            if self.size >= LOG_TRIM_AT:
                trim(self.path)
                os.close(self.file)
                self.file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
                self.size = os.fstat(self.file).st_size
        except OSError as error:
            self.lost = self.lost or error.errno in (errno.ENOSPC, errno.EDQUOT)

    def close(self) -> None:
        os.close(self.file)


def trim(path: str, keep: int = LOG_KEEP) -> None:
    """Replace a regular file by its last `keep` bytes. By renaming: a hard link elsewhere keeps its content."""
    source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        state = os.fstat(source)
        if not stat.S_ISREG(state.st_mode) or state.st_size <= keep:
            return
        start = os.lseek(source, -keep, os.SEEK_END)
        piece = os.read(source, MB)
        line = piece.find(b"\n") + 1
        target = create(path + ".trimmed")
        try:
            write_all(target, f"[ark: {start + line} bytes of earlier output were cut here]\n".encode())
            piece = piece[line:]
            while piece:
                write_all(target, piece)
                piece = os.read(source, MB)
        finally:
            os.close(target)
    finally:
        os.close(source)
    os.replace(path + ".trimmed", path)


def create(path: str) -> int:
    """A new file, even where a link or a pipe lay in wait."""
    if os.path.lexists(path):
        os.unlink(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)


def write_all(file: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def regular_size(path: str) -> int:
    try:
        state = os.lstat(path)
    except OSError:
        return 0
    return max(state.st_size, state.st_blocks * 512) if stat.S_ISREG(state.st_mode) else 0


def free_bytes(folder: str) -> int:
    try:
        state = os.statvfs(folder)
    except OSError:  # the command removed its own folder
        return 1 << 62
    return state.f_bavail * state.f_frsize
