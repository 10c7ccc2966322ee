"""What a user can mend: one sentence and a hint, and the status that the command exits with."""

from __future__ import annotations


class Failure(Exception):
    """The sentence has no full stop; 2 is for what was refused before anything was done, 1 for all else."""

    def __init__(self, sentence: str, hint: str = "", status: int = 1) -> None:
        super().__init__(sentence)
        self.sentence, self.hint, self.status = sentence, hint, status
