"""Where token files lie, and folders in which one program is at work at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from failure import Failure


def token_path(given: str | None, name: str) -> Path:
    """The file that was given, else the one of this name in the folder for data. Whether it is there is not asked."""
    path = Path(given) if given else data_folder() / name
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise Failure(f"{path} cannot be found: nobody has that home", "export ARK_CACHE=/a/folder/you/own") from None


def data_folder() -> Path:
    """As the environment says it: a leading ~ is still there."""
    return Path(os.environ.get("ARK_CACHE") or "~/.cache/ark-data", "ane")


@contextmanager
def locked(folder: Path, busy: Failure, patience: float = 0.0) -> Iterator[int]:
    """Alone in the folder among those that ask; waits for others, but raises `busy` after `patience` seconds. Yields
    the lock's descriptor: what inherits it holds the lock too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    ends = time.monotonic() + patience
    try:
        while not _lock(descriptor):
            if time.monotonic() >= ends:
                raise busy
            time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
