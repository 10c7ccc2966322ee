"""What became of orders that nobody has heard yet: whoever gave one may have been killed, or did not want to wait.

One file for each attempt among the run's logs, until its verdict is fetched; and one for the last order that came to no
attempt, which says nothing that the next would not say too.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoresearch_kit.lab.cache import LOGS, TICKET, make_private, write_anew
from autoresearch_kit.serve.answers import received

PREFIX = "unread-"
MAX_BYTES = 64 * 2**20
LAID_SINCE = "The desk was laid anew since, with the best so far; go on from there"
"""What to do next, where the answer itself says what was true before."""


def keep(cache: Path, message: Mapping[str, Any], number: int | None) -> None:
    """Keep an answer, `{"result": ...}` or `{"error": ...}`, about attempt `number` or none."""
    make_private(cache / LOGS)
    name = "none" if number is None else f"{number:04d}"
    write_anew(cache / LOGS / f"{PREFIX}{name}.json", json.dumps({**message, "laid": _laid(cache)}).encode())


def unread(cache: Path) -> list[dict[str, Any]]:
    """The answers that wait, the last one at the end; what cannot be read is left out."""
    found = []
    with contextlib.suppress(OSError):
        for path in (cache / LOGS).glob(f"{PREFIX}*.json"):
            if message := _read(path):
                found.append((path.lstat().st_mtime_ns, message))
    return [message for _, message in sorted(found, key=lambda row: row[0])]


def forget(cache: Path, token: object) -> None:
    """Somebody has heard the answer to the order with this token."""
    with contextlib.suppress(OSError):
        for path in (cache / LOGS).glob(f"{PREFIX}*.json"):
            if (message := _read(path)) and message.get("token") == token:
                path.unlink(missing_ok=True)


def is_outdated(cache: Path, message: Mapping[str, Any]) -> bool:
    """Whether the desk was laid anew since an answer that was kept."""
    return message.get("laid") != _laid(cache)


def _laid(cache: Path) -> int:
    """When the desk was laid: with each time its ticket is written anew."""
    try:
        return (cache / TICKET).lstat().st_mtime_ns
    except OSError:
        return 0


def _read(path: Path) -> dict[str, Any] | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(file, "rb") as stream:
            found = json.loads(stream.read(MAX_BYTES))
        return received(found) if isinstance(found, dict) else None
    except (OSError, ValueError, RecursionError):
        return None
