"""What all of these programs share: sentences for what a user can mend, and the hash of a file.

Nothing in them is newer than Python 3.9, which Apple's command line tools bring.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


class Failure(Exception):
    """The sentence has no full stop; 2 is for what was refused before anything was done, 1 for all else."""

    def __init__(self, sentence: str, hint: str = "", status: int = 1) -> None:
        super().__init__(sentence)
        self.sentence, self.hint, self.status = sentence, hint, status


def sha256(path: Path) -> str:
    """Of the file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
