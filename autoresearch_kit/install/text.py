"""What the three kinds of configuration have in common."""

from __future__ import annotations


class Unreadable(Exception):  # somebody's configuration, not an error of ark's
    """The text is not what its name says; `str()` is one sentence, `line` where."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


def newline_of(text: str) -> str:
    """What ends a line there."""
    return "\r\n" if "\r\n" in text else "\n"
