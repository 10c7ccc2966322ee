"""One engine per run: a lock that dies with its process.

`flock` on a file inside the repository's git folder, so that everybody who shares the repository shares the lock. The
kernel drops it when the process ends, however it ends; the file stays and says who held it last. On network file
systems the lock is as good as their `flock`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.ledger.git import unwritable

GLANCE_SECONDS = 0.3
"""How long to doubt that the holder on record is the holder: `is_held` takes the lock for a moment."""
PATIENCE_SECONDS = 10.0
"""How long to wait for the helpers of a holder that is dead already: they are ending its commands."""
RUN_HINT = "wait for it, or stop it where it runs; another run can go on beside it: ark run --tag NAME"


class Lock:
    """Held from `acquire` until `release` or the end of the process and of the helpers that inherited `fileno`."""

    def __init__(self, path: Path, what: str, hint: str = RUN_HINT, glance_seconds: float = GLANCE_SECONDS) -> None:
        """`what` is held is said in words, and `hint` what to do; `glance_seconds` is how long to wait for a holder."""
        self.path = path
        self._what = what
        self._hint = hint
        self._glance_seconds = glance_seconds
        self._file: int | None = None
        self._held = False

    def acquire(self) -> None:
        """Take the lock, or raise ArkError that names the process and host that hold it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise unwritable(self.path, error) from None
        began = time.monotonic()
        while not self._try():
            holder = self._holder()
            if time.monotonic() > began + (self._glance_seconds if _alive(holder) else PATIENCE_SECONDS):
                self.release()
                raise ArkError(
                    f"{self._what} is held by process {holder.get('pid', '?')} on {holder.get('host', '?')},"
                    f" since {holder.get('since', '?')}",
                    self._hint,
                )
            time.sleep(0.05)
        self._held = True
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        record = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, record.encode(), 0)
        except OSError as error:
            self.release()
            raise unwritable(self.path, error) from None

    def is_held(self) -> bool:
        """Whether some process holds the lock now; does not take it."""
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(file)
        return False

    def fileno(self) -> int:
        """The descriptor that carries the lock; a helper that inherits it keeps the lock until it ends too."""
        assert self._file is not None
        return self._file

    def release(self) -> None:
        """Give the lock back; safe to call twice."""
        if self._file is not None:
            # The name of somebody who is alive and holds nothing any more would mislead the next one.
            if self._held:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file, self._held = None, False

    def _try(self) -> bool:
        try:
            fcntl.flock(self.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            self.release()
            raise ArkError(
                f"{self.path} cannot be locked: {error.strerror}", "put the repository on a local disk"
            ) from None
        return True

    def _holder(self) -> dict[str, object]:
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _alive(holder: dict[str, object]) -> bool:
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int):
        return bool(holder)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
