"""What the command lines of these programs share: how they speak, one sentence for a wrong one, whole numbers."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from failure import Failure

LARGEST_SEED = 2**63 - 1


def say(line: str) -> None:
    """On standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def complain(program: str, sentence: str, hint: str = "") -> None:
    """What went wrong in `program`, and what to do about it in a line of its own."""
    say(f"{program}: {sentence}" + (f"\nhint: {hint}" if hint else ""))


class Parser(argparse.ArgumentParser):
    """With the text of the program's docstring; a wrong command line is a Failure with status 2."""

    def __init__(self, prog: str, description: str | None = None) -> None:
        super().__init__(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        raise Failure(message.rstrip("."), f"python3 {self.prog} --help", 2)


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Reads a whole number from `low` to `high`, in decimal digits alone."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,19}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number from {low} to {high}")
        return int(text)

    return parse
