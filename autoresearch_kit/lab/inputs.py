"""Files outside git that the number depends on, pinned by their hash.

They are read before a run, and again after each measurement when they no longer look as they did then: commands run as
the user, so a run could put other data in their place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.spec import Input
from autoresearch_kit.lab.cache import data_root

DATA = "$ARK_CACHE/"
"""How a path below the folder for data begins."""


class Inputs:
    """The `inputs` of a spec that lies in `folder`."""

    def __init__(self, folder: Path, pinned: Sequence[Input]) -> None:
        self._pinned = [(item, _place(folder, item.path)) for item in pinned]
        self._seen: dict[Path, tuple[int, ...]] = {}
        """What the file system said of each when its hash was right."""

    def missing(self) -> list[str]:
        """Paths, as the spec writes them, where nothing is."""
        return [item.path for item, path in self._pinned if not path.exists()]

    def check(self) -> None:
        """ArkError for the first that is missing or has another hash; those that look as before are not read again."""
        for item, path in self._pinned:
            try:
                with path.open("rb") as stream:
                    looks = _looks(stream.fileno())
                    if self._seen.get(path) == looks:
                        continue
                    found = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                hint = "get it, or correct `inputs`"
                raise ArkError(f"input {item.path} cannot be read: {error.strerror}", hint) from None
            if found != item.sha256.lower():
                hint = "restore it, or write the new hash into `inputs`; numbers from before are then not comparable"
                raise ArkError(f"input {item.path} is not the pinned one: its SHA-256 is {found}", hint)
            self._seen[path] = looks


def _place(folder: Path, path: str) -> Path:
    return data_root() / path.removeprefix(DATA) if path.startswith(DATA) else folder / Path(path).expanduser()


def _looks(descriptor: int) -> tuple[int, ...]:
    # The time of the last change of an inode cannot be set by whoever writes the file.
    stat = os.fstat(descriptor)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
