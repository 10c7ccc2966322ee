"""Where desks, benches and logs live: below the user's cache folder, never in the repository."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from pathlib import Path

from autoresearch_kit.core.errors import ArkError


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/ark`, by default `~/.cache/ark`; `~/Library/Caches/ark` on macOS."""
    if base := os.environ.get("XDG_CACHE_HOME", ""):
        return Path(base) / "ark"
    try:
        home = Path.home()
    except RuntimeError:
        raise ArkError("there is no home folder", "set HOME or XDG_CACHE_HOME") from None
    return home / ("Library/Caches" if platform.system() == "Darwin" else ".cache") / "ark"


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
    """Make `folder` for this user alone; ArkError when that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        hint = "free some space, or set XDG_CACHE_HOME to a folder that can be written"
        raise ArkError(f"{folder} cannot be made: {error.strerror}", hint) from None


def remove(folder: Path) -> None:
    """Delete a cache, also where commands left folders without permissions."""
    for _ in range(3):
        for place, _, _ in os.walk(folder):
            os.chmod(place, 0o700)  # noqa: PTH101 - os.walk gives strings
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
    raise ArkError(f"{folder} cannot be removed", "remove it by hand")


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
