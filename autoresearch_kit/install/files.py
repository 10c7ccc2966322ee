"""Changes of a few files: shown before they are made, made all or not at all, and remembered so that they can be undone
exactly.

What was there before is kept in the user's state folder, for this user alone: a configuration may hold keys.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch_kit.core.errors import ArkError

MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one file; None where there is none."""

    path: Path
    before: bytes | None
    after: bytes | None

    def diff(self) -> list[str]:
        """As `diff -u` shows it."""
        old, new = (
            (data or b"").decode("utf-8", "backslashreplace").splitlines(keepends=True)
            for data in (self.before, self.after)
        )
        source, target = (
            os.devnull if data is None else str(self.path.resolve()) for data in (self.before, self.after)
        )
        lines = []
        for line in difflib.unified_diff(old, new, source, target):
            lines.append(line.rstrip("\r\n"))
            if not line.endswith("\n"):
                lines.append("\\ No newline at end of file")
        return lines


@dataclass(frozen=True, slots=True)
class Memory:
    """What was written for one agent at one place."""

    files: dict[Path, tuple[bytes | None, bytes | None]]
    """What was there before, and what was written."""
    folders: list[Path]
    """Those made for it, the deepest first."""


def read(path: Path) -> bytes | None:
    """What is in the file that `path` leads to; None when there is none. ArkError when it cannot be read."""
    try:
        if not path.is_file():
            if os.path.lexists(path) and not _dangles(path):
                raise ArkError(f"{path} is no file", "look at it, and move it away")
            return None
        if path.stat().st_size > MAX_BYTES:
            raise ArkError(f"{path} is larger than {MAX_BYTES >> 20} MB")
        return path.read_bytes()
    except (OSError, RuntimeError) as error:
        raise _refused(path, "read", error) from None


def apply(changes: Sequence[Change], memory: Path, remembered: Memory | None) -> None:
    """Make the changes, all of them or none, and put `remembered` into the file `memory`; None removes that."""
    for change in changes:
        if read(change.path) != change.before:
            raise ArkError(f"{change.path} was changed meanwhile", "look again: run the same command once more")
        _check_writable(change.path)
    old = read(memory)
    done: list[Change] = []
    try:
        _write(memory, None if remembered is None else _as_json(remembered), 0o600)
        for change in changes:
            done.append(change)
            _write(change.path, change.after)
    except BaseException as error:
        for change in reversed(done):
            with contextlib.suppress(OSError):
                _write(change.path, change.before)
        with contextlib.suppress(OSError):
            _write(memory, old, 0o600)
        if remembered:
            remove_empty(remembered.folders)
        if isinstance(error, OSError):
            raise _refused(done[-1].path if done else memory, "written", error) from None
        raise


def remove_empty(folders: Sequence[Path]) -> None:
    """Those folders that are empty now."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def missing_folders(paths: Sequence[Path]) -> list[Path]:
    """Folders that must be made for `paths`, the deepest first."""
    above = {folder for path in paths for folder in path.parents if not os.path.lexists(folder)}
    return sorted(above, key=lambda folder: len(folder.parts), reverse=True)


def memory_path(agent: str, where: str) -> Path:
    """Where it is remembered what was written for `agent` at `where`."""
    base = os.environ.get("XDG_STATE_HOME", "")
    state = Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "state"
    digest = hashlib.sha256(os.fsencode(f"{agent}\0{where}")).hexdigest()[:16]
    return state / "ark" / "install" / f"{agent}-{digest}.json"


def recall(path: Path) -> Memory | None:
    """What is remembered there; None when that is nothing, or cannot be used."""
    try:
        found = json.loads(read(path) or b"null")
        files = {Path(name): (_bytes(before), _bytes(after)) for name, (before, after) in found["files"].items()}
        return Memory(files, [Path(name) for name in found["folders"]])
    except (ArkError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _as_json(memory: Memory) -> bytes:
    def text(data: bytes | None) -> str | None:
        return None if data is None else base64.b64encode(data).decode()

    files = {str(path): (text(before), text(after)) for path, (before, after) in memory.files.items()}
    return json.dumps({"files": files, "folders": [str(folder) for folder in memory.folders]}).encode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _write(path: Path, data: bytes | None, mode: int | None = None) -> None:
    """All or nothing, through links to what they lead to; permissions stay as they are. None removes the file."""
    path = path.resolve()
    if data is None:
        path.unlink(missing_ok=True)
        return
    for folder in reversed(missing_folders([path])):
        folder.mkdir(mode=0o777 if mode is None else 0o700)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(path.stat().st_mode)
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with os.fdopen(file, "wb") as stream:
            if mode is not None:
                os.fchmod(file, mode)
            stream.write(data)
            stream.flush()
            os.fsync(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_writable(path: Path) -> None:
    try:
        state = path.stat()
    except FileNotFoundError:
        return
    except (OSError, RuntimeError) as error:
        raise _refused(path, "written", error) from None
    # For root everything can be written, also what its owner protected.
    if not state.st_mode & 0o222 or not os.access(path, os.W_OK):
        raise ArkError(f"{path} is read-only", f"allow it first: chmod u+w {path}")


def _dangles(path: Path) -> bool:
    """A link to what is not there yet; it is written through."""
    return path.is_symlink() and not path.exists() and path.resolve() != path


def _refused(path: Path, what: str, error: BaseException) -> ArkError:
    return ArkError(f"{path} cannot be {what}: {getattr(error, 'strerror', None) or error}")
