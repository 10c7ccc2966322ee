"""What `ark` raises when itself, its spec or its surroundings are broken.

A failed experiment is never an exception: it is a `Measurement` with a problem. Every error here carries one sentence
for the user and, where there is one, the next thing to do; `cli` turns it into output and an exit code.
"""

from __future__ import annotations


class ArkError(Exception):
    """Somebody has to do something: `message` is one sentence without a full stop, `hint` says what."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SpecError(ArkError):
    """The spec is wrong. `problems` holds every mistake found, each one sentence that names file and line."""

    exit_code = 2

    def __init__(self, problems: list[str], hint: str = "") -> None:
        super().__init__("\n".join(problems), hint)
        self.problems = problems


class UsageError(ArkError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code = 2
