"""The attempts of a run as they come and change, for somebody who looks every second.

A look at a run where nothing has happened costs two `stat`. Where something has, one git reads what can have changed:
the attempts without a verdict, and the next numbers. It relies on what the engine does, which never touches a closed
attempt; whoever rewrites refs by hand is seen when the packed refs change, or by a new look.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.records import Attempt, Outcome
from autoresearch_kit.ledger.ledger import Ledger
from autoresearch_kit.ledger.message import read_message

AHEAD = 8
"""So many numbers after the last one are looked at together."""
SETTLED_SECONDS = 0.1
"""A folder that changed more recently is looked at again: two changes of one moment have one time."""
_Mark = tuple[tuple[int, int], ...]


class Follower:
    """The attempts of one run."""

    def __init__(self, ledger: Ledger, known: Sequence[Attempt] = ()) -> None:
        """`known` is what was read of it already; what has come since is found by the first `poll`."""
        self.ledger = ledger
        self.attempts: tuple[Attempt, ...] = tuple(known)
        """In order of their numbers, as of the last `poll`."""
        self.looks = 0
        """How often there was reason to ask git: whatever changed below the run's refs."""
        self._by_number = {attempt.number: attempt for attempt in known}
        first = ledger.ref(0)
        common = ledger.repository.common
        self._packed = common / "packed-refs"
        self._folder = (common / first).parent
        self._mark: _Mark | None = None
        self._was_packed: tuple[int, int] = (-1, -1)

    def poll(self) -> bool:
        """Bring `attempts` up to date; whether there was anything new. ArkError for a ref that is no record."""
        mark = (_look(self._packed), _look(self._folder))
        if mark == self._mark:
            return False
        newest = max(changed for _, changed in mark)
        self._mark = mark if time.time_ns() - newest > SETTLED_SECONDS * 1e9 else None
        self.looks += 1
        before = self.attempts
        # A run that was fetched changes rarely, and then perhaps all of it.
        if not before or self.ledger.remote or (mark[0] != self._was_packed and not self._is_there()):
            self._take(self.ledger.read(), anew=True)
        else:
            self._read_on()
        self._was_packed = mark[0]
        return self.attempts != before

    def _is_there(self) -> bool:
        """Whether the newest attempt that is known is still the same: packing changes no ref."""
        last = self.attempts[-1]
        return self._read([last.number]).get(last.number) == last

    def _read_on(self) -> None:
        known = self.attempts
        wanted = [attempt.number for attempt in known if attempt.verdict is None]
        if known[0].outcome is not Outcome.KEEP:  # one that was stopped is measured again under its number
            wanted.append(known[0].number)
        first = known[-1].number
        while True:
            found = self._read([*wanted, *range(first, first + AHEAD)])
            gone = {number for number in wanted if number not in found}
            for number in gone:  # a baseline that could not be measured
                self._by_number.pop(number, None)
            self._take(found.values())
            if first + AHEAD - 1 not in found:
                return
            wanted, first = [], first + AHEAD

    def _take(self, attempts: Iterable[Attempt], anew: bool = False) -> None:
        if anew:
            self._by_number = {}
        for attempt in attempts:
            old = self._by_number.get(attempt.number)
            if old is None or old.commit != attempt.commit:  # else it stays the same object, which others rely on
                self._by_number[attempt.number] = attempt
        self.attempts = tuple(self._by_number[number] for number in sorted(self._by_number))

    def _read(self, numbers: Sequence[int]) -> dict[int, Attempt]:
        """Those of these attempts that there are. By `cat-file`: `for-each-ref` would go through all of a run."""
        asked = list(dict.fromkeys(numbers))
        feed = "".join(f"{self.ledger.ref(number)}\n" for number in asked)
        data = self.ledger.repository.run("cat-file", "--batch", stdin=feed).encode("utf-8", "surrogateescape")
        found: dict[int, Attempt] = {}
        at = 0
        for number in asked:
            head, _, _ = data[at : at + 4096].partition(b"\n")
            at += len(head) + 1
            words = head.split(b" ")
            if words[-1] == b"missing":
                continue
            size = int(words[-1])
            content = data[at : at + size].decode("utf-8", "surrogateescape")
            at += size + 1
            with contextlib.suppress(ArkError):  # somebody else's ref, of which `ledger.read` tells
                found[number] = _attempt(content, number, words[0].decode())
        return found


def _attempt(content: str, number: int, commit: str) -> Attempt:
    """The record in a commit as git stores it."""
    head, _, message = content.partition("\n\n")
    fields: dict[str, str] = {}
    for line in head.split("\n"):
        name, _, value = line.partition(" ")
        fields.setdefault(name, value)
    parent, tree = fields.get("parent", ""), fields.get("tree", "")
    return read_message(message, number=number, commit=commit, parent=parent, tree=tree)


def _look(path: Path) -> tuple[int, int]:
    """What changes when a file is replaced, or a folder gets or loses one; zeros where there is nothing."""
    try:
        state = path.stat()
    except OSError:
        return (0, 0)
    return (state.st_ino, state.st_mtime_ns)
