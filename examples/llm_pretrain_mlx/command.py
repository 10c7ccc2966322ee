"""What the command of a trainer needs, whatever it trains on: errors, numbers from outside, signals."""

from __future__ import annotations

import math
import os
import re
import signal

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


class TrainError(Exception):
    """A mistake of the user or of the settings; `str` is the sentence, and a hint on a line of its own."""

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message if hint is None else f"{message}\nhint: {hint}")


def number_from(flag: str | None, name: str, variable: str, default: float, least: float) -> float:
    """The flag called name, else the environment variable, else the default; TrainError if it is no such number."""
    text = os.environ.get(variable, "") if flag is None else flag
    try:
        value = float(text) if text or flag is not None else default
        if not (math.isfinite(value) and value >= least) or "_" in text:  # Python reads 1_0 as 10, others do not
            raise ValueError
    except ValueError:
        given, hint = (variable, f"unset {variable}") if flag is None else (name, f"{name} {default:g}")
        raise TrainError(f"{given} = {text!r} is not a number of at least {least:g}", hint) from None
    return value


def seed_from(flag: str | None, variable: str, default: int) -> int:
    """The flag, else the environment variable, else the default: what every random generator takes as a seed."""
    text = os.environ.get(variable, "") if flag is None else flag
    if flag is None and not text:
        return default
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 2**63:
        name, hint = (variable, f"unset {variable}") if flag is None else ("--seed", "--seed 1")
        raise TrainError(f"{name} = {text!r} is not a whole number from 0 to 2**63 - 1, in decimal digits", hint)
    return int(text)


class Interrupted(BaseException):
    """SIGTERM or SIGINT before the first step. No Exception, so that nothing in between takes it for a failure."""


class Interrupt:
    """Remembers SIGTERM and SIGINT, so that the run stops between two steps. A second signal ends it at once.

    Until `training` is called nothing is worth finishing, so there a signal raises Interrupted from where it arrives.
    """

    def __init__(self):
        self.signal: int | None = None
        self.at_once = True
        self.before = {number: signal.getsignal(number) for number in EXIT_CODES}

    def listen(self) -> None:
        for number in EXIT_CODES:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame) -> None:
        self.signal = number
        self.restore()
        if self.at_once:
            raise Interrupted

    def training(self) -> None:
        """From here on signals wait for the end of a step."""
        self.at_once = False
        if self.signal:  # raised where exceptions get lost, in a destructor for example
            raise Interrupted

    def ignore(self) -> None:
        """The result is out: nothing may turn it into a failure, also not while the process ends."""
        self.before = dict.fromkeys(EXIT_CODES, signal.SIG_IGN)
        self.restore()

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
