"""The ticket of a desk: which run it belongs to, and what was laid there.

It lies beside the desk, in the run's cache folder, and is all that `ark try` needs to find its run again: git is never
asked on a desk, whose configuration is the agent's.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from autoresearch_kit.core.names import is_name
from autoresearch_kit.lab.cache import DESK, TICKET, cache_root, make_private, write_anew

Filtered = Mapping[str, tuple[int, str]]
"""Files that the user's filters (line ends, LFS) changed: git's mode, and the hash of what lies on the disk."""
MAX_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class Ticket:
    """What another process must know of a desk to go on with it."""

    spec: str
    """Absolute path of the spec in the user's checkout."""
    tag: str
    """The run."""
    laid: str
    """The commit whose files were laid; empty while that is still done."""
    filtered: Filtered = field(default_factory=dict)
    """Mutable files whose bytes on the desk are not those of the commit although nobody has touched them."""
    lent: bool = False
    """Whether somebody works there who calls `ark try`: what he changes is lost when the desk is laid anew unasked. A
    desk that the engine lays for each turn of an agent is nobody's between two turns."""

    def write(self, cache: Path) -> None:
        """Put it into the cache folder of a run."""
        make_private(cache)  # an agent may have deleted it
        write_anew(cache / TICKET, json.dumps(asdict(self)).encode())

    @staticmethod
    def read(cache: Path) -> Ticket | None:
        """The ticket in the cache folder of a run; None when there is none that can be used.

        An agent can write there: a spec that lies in the cache would have git started in a folder of his.
        """
        try:
            file = os.open(cache / TICKET, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(file, "rb") as stream:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    return None
                found = json.loads(stream.read(MAX_BYTES))
            filtered = {str(path): (int(mode), str(oid)) for path, (mode, oid) in found["filtered"].items()}
            ticket = Ticket(
                str(found["spec"]), str(found["tag"]), str(found["laid"]), filtered, found.get("lent") is True
            )
            is_plain = os.path.isabs(ticket.spec) and "\0" not in ticket.spec  # noqa: PTH117
            return ticket if is_plain and is_name(ticket.tag) and not leads_into_cache(Path(ticket.spec)) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


def leads_into_cache(path: Path) -> bool:
    """Whether `path` lies in ark's cache, as it is written or by the links in it."""
    root = Path(os.path.realpath(cache_root()))
    # Of a file the folder alone counts too: git is started there, wherever the file leads.
    return any(Path(os.path.realpath(place)).is_relative_to(root) for place in (path, path.parent))


def find_ticket(folder: Path) -> Ticket | None:
    """The ticket of the desk that `folder` lies on; None when it lies on no desk."""
    cache = desk_cache(folder)
    return Ticket.read(cache) if cache else None


def desk_cache(folder: Path) -> Path | None:
    """The cache folder of the run on whose desk `folder` lies; None elsewhere."""
    here, root = Path(os.path.realpath(folder)), Path(os.path.realpath(cache_root()))
    if not here.is_relative_to(root):
        return None
    parts = here.relative_to(root).parts
    return cache_root() / parts[0] / parts[1] if len(parts) > 2 and parts[2] == DESK else None
