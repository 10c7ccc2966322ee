"""Where desks, benches and logs live: below the user's cache folder, never in the repository."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
from pathlib import Path

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.lab.caplog import trim
from autoresearch_kit.lab.within import Within
from autoresearch_kit.ledger.git import DISK_HINT

DESK, BENCH, LOGS, BIN = "desk", "bench", "logs", "bin"
"""Folders in the cache of a run."""
PROMPT, TICKET, LIVE = "prompt.md", "desk.json", "live.json"
"""Files of the engine's own there."""
FULL_LOGS = 20
"""So many attempts keep their logs as they are."""
KEPT_LOGS = 100
"""So many attempts have logs at all."""
OLD_LOG_BYTES = 64 * 2**10
"""What is kept of each older log."""


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/ark`, by default `~/.cache/ark`; `~/Library/Caches/ark` on macOS."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # noqa: PTH117 - the standard says: any other is to be ignored
        return Path(base) / "ark"
    try:
        home = Path.home()
    except RuntimeError:
        raise ArkError("there is no home folder", "set HOME or XDG_CACHE_HOME") from None
    return home / ("Library/Caches" if platform.system() == "Darwin" else ".cache") / "ark"


def data_root() -> Path:
    """Where data that many runs share lie: `$ARK_CACHE`, else `~/.cache/ark-data`. Nothing here cleans it."""
    try:
        return Path(os.environ.get("ARK_CACHE") or "~/.cache/ark-data").expanduser().absolute()
    except RuntimeError:  # `~name` without such a user
        raise ArkError("the folder for data cannot be found", "set ARK_CACHE to the path of a folder") from None


def repository_cache(common: Path) -> Path:
    """The cache of one repository, by the path of its git folder."""
    name = common.parent.name if common.name == ".git" else common.name
    return cache_root() / f"{name}-{_digest(common)}"


def run_cache(common: Path, branch: str) -> Path:
    """The cache of one run: `desk`, `bench`, `logs` and their indexes."""
    return repository_cache(common) / branch.replace("/", "+")


def scratch_path(cache: Path) -> Path:
    """A short path for the temporary files of the commands of one run."""
    return cache_root() / "t" / _digest(cache)


def make_private(folder: Path) -> None:
    """Make `folder` for this user alone; ArkError when that fails, or when a link leads out of the cache."""
    hint = "free some space, or set XDG_CACHE_HOME to a folder that can be written"
    root = cache_root()
    try:
        if folder.is_relative_to(root) and folder.resolve() != root.resolve() / folder.relative_to(root):
            raise ArkError(f"{folder} leads out of the cache", "look at it and remove the symbolic link")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ArkError(f"{folder} cannot be made: {error.strerror}", hint) from None


def remove(path: Path) -> None:
    """Delete whatever is at `path`, if anything, however deep and however locked; ArkError when that fails.

    No link is followed at `path` or below it, whenever it was put there.
    """
    try:
        with Within(path.parent.resolve()) as inside:
            inside.remove(path.name)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.lexists(path):
            raise ArkError(f"{path} cannot be removed: somebody else writes there", "remove it by hand") from None
    except OSError as error:
        raise ArkError(f"{path} cannot be removed: {error.strerror}", "remove it by hand") from None


def write_anew(path: Path, data: bytes) -> None:
    """Write a file of the engine's own where a command may have put anything: a link, a pipe, a folder."""
    try:
        with Within(path.parent.resolve()) as inside:
            inside.remove(path.name)
            inside.write(path.name, data, 0o600)
    except OSError as error:
        raise failed(f"{path} cannot be written", error) from None


def failed(what: str, error: OSError) -> ArkError:
    """`error` in the cache, as an error with the hint that fits."""
    hint = "end what still writes there"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = DISK_HINT
    elif error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        hint = "unlock or remove by hand what is locked there, or set XDG_CACHE_HOME to a folder that can be written"
    return ArkError(f"{what}: {error.strerror}", hint)


def trim_logs(logs: Path, number: int) -> None:
    """As attempt `number` begins, cut the logs of the one 20 before it to 64 KB, and drop those of the one 100 before.

    A week's logs would fill a disk, and a folder of thousands slow every look into it. The ledger has what matters.
    """
    with contextlib.suppress(OSError):
        for path in logs.glob(f"{number - KEPT_LOGS:04d}[-.]*.log"):
            path.unlink()
    with contextlib.suppress(OSError):
        for path in logs.glob(f"{number - FULL_LOGS:04d}[-.]*.log"):
            if path.lstat().st_size > OLD_LOG_BYTES + 4096:  # with the note about the cut
                trim(str(path), OLD_LOG_BYTES)


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
