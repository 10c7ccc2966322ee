"""What one attempt leaves behind: a proposal, its measurements and the verdict.

Plain frozen data. Text that comes from agents or logs is cleaned here, once, so that whatever is stored in a commit
reads back as the same value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

_Number = TypeVar("_Number", int, float)

TITLE_CHARACTERS = 200
WHY_CHARACTERS = 4000
TAIL_CHARACTERS = 8000
NAME_CHARACTERS = 200


class Outcome(StrEnum):
    """How an attempt ended; `status` in results.tsv shows only the first three."""

    KEEP = "keep"
    DISCARD = "discard"
    CRASH = "crash"
    LOST = "lost"
    """The supervisor died or was stopped, and the attempt was not repeated."""
    RUNNING = "running"


# C0 and C1 controls except tab and newline, what is invisible (zero width, tags), the bidirectional overrides, line
# separators and lone surrogates: none of them may reach a terminal, a commit message or another agent.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def clean_text(text: str, limit: int) -> str:
    """`text` without control characters, without blank lines at either end, cut to its first `limit` characters."""
    # Nearly always nothing needs to be taken out, and a ledger of thousands is read in one go.
    if not text or (
        len(text) <= limit
        and (text.isprintable() or text.replace("\n", "").isprintable())
        and " \n" not in text
        and text[-1] not in " \n"
        and text[0] != "\n"
    ):
        return text
    text = _UNPRINTABLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def clean_line(text: str, limit: int) -> str:
    """`text` on one line, each run of white space one blank, cut to `limit` characters."""
    if not text or (
        text.isprintable() and len(text) <= limit and "  " not in text and text[0] != " " and text[-1] != " "
    ):
        return text
    text = " ".join(_UNPRINTABLE.sub(" ", text).split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def clean_tail(text: str, limit: int = TAIL_CHARACTERS) -> str:
    """The last `limit` characters of a log, beginning at a line, without control characters."""
    if not text:
        return ""
    text = clean_text(text, len(text) + 1)
    if len(text) > limit:
        text = text[-limit:].partition("\n")[2] or text[-limit:]
    return text.strip("\n")


def mean(values: Sequence[float]) -> float:
    """The mean of values, at least one: never beyond them, so that the mean of equal ones is theirs to the last bit."""
    return min(max(values), max(min(values), sum(value / len(values) for value in values)))


def number(value: float) -> str:
    """A value as people like to read it: six significant digits."""
    return f"{value:.6g}"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a proposal cost, where the agent tells; None is unknown, never zero."""

    seconds: float | None = None
    """Wall time of the agent's turn."""
    tokens: int | None = None
    """Tokens in and out."""
    money: float | None = None
    """In the currency that the agent reports, usually US dollars."""

    def __add__(self, other: Cost) -> Cost:
        """Both together; what only one of them knows is as much as is known."""
        return Cost(_sum(self.seconds, other.seconds), _sum(self.tokens, other.tokens), _sum(self.money, other.money))


def _sum(one: _Number | None, other: _Number | None) -> _Number | None:
    return other if one is None else one if other is None else one + other


@dataclass(frozen=True, slots=True)
class Proposal:
    """What somebody wants to try, in words; the change itself is the tree."""

    title: str
    """One line, cleaned."""
    why: str = ""
    """The reason, a few lines, cleaned."""
    agent: str = ""
    """Who proposed it: a preset's name, `command`, `search`, or a person."""
    cost: Cost = field(default_factory=Cost)
    """What the proposal cost, with the fruitless turns of the same agent before it."""
    origin: tuple[str, ...] = ()
    """The attempts whose change it takes over, as `TAG/N`; empty for an idea of its own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", clean_line(self.title, TITLE_CHARACTERS) or "untitled")
        object.__setattr__(self, "why", clean_text(self.why, WHY_CHARACTERS))
        object.__setattr__(self, "agent", clean_line(self.agent, 80))


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run and its evaluation on a clean bench."""

    value: float | None
    """The metric; None exactly when there is a problem."""
    also: Mapping[str, float] = field(default_factory=dict)
    """Other finite numbers that were printed, and the engine's: `wall_seconds`, `cpu_seconds`, `peak_memory_mb`."""
    problem: str = ""
    """Empty when good, else `kind: sentence`, such as `timeout: no end after 600 s`."""
    seconds: float = 0.0
    """Wall time of run and evaluation together."""
    log_tail: str = ""
    """The last lines of the log; the ledger keeps them for a crash only."""
    seed: int = 0
    """What the run saw as ARK_SEED."""
    machine: str = ""
    """Kind of machine, see `lab.machine`."""
    of_head: bool = False
    """Whether it measured the head, in turn with the candidate."""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.also.values())):
            object.__setattr__(self, "also", {k: v for k, v in self.also.items() if math.isfinite(v)})
        if not all(map(str.isprintable, self.also)):
            named = {k if k.isprintable() else clean_line(k, NAME_CHARACTERS): v for k, v in self.also.items()}
            object.__setattr__(self, "also", named)
        object.__setattr__(self, "seconds", round(self.seconds, 3))
        object.__setattr__(self, "problem", clean_line(self.problem, 500))
        object.__setattr__(self, "log_tail", clean_tail(self.log_tail))
        object.__setattr__(self, "machine", clean_line(self.machine, 200))

    @property
    def kind(self) -> str:
        """The problem's type: `timeout`, `exit`, `signal`, `no_metric` and so on; empty when good."""
        return self.problem.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided, and why, so that a person can check it."""

    outcome: Outcome
    """`keep`, `discard`, `crash` or `lost`."""
    reason: str
    """One sentence with the numbers in it."""
    gain: float | None = None
    """Improvement over the head in units of the metric, positive is better; None for a baseline or a crash."""
    noise: float | None = None
    """Standard deviation of one measurement as known at the decision; None when unknown."""
    share: float | None = None
    """The part of the promised false keeps that the decision used up; None when there was no luck to guard against."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", clean_line(self.reason, 600))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One numbered entry of the ledger."""

    number: int
    """0 is the baseline."""
    commit: str
    """The commit that records the attempt (full hash)."""
    parent: str
    """The head it was measured against (full hash)."""
    tree: str
    """What was measured: the tree's full hash."""
    proposal: Proposal
    """What was tried."""
    measurements: tuple[Measurement, ...]
    """Every sample taken, in order, the head's too."""
    verdict: Verdict | None
    """None while running."""
    started: str
    """When it was reserved: ISO 8601, UTC."""
    yardstick: str
    """Digest of everything that fixes the number except the mutable files."""
    repeats: int = 0
    """How often a measurement of it was begun anew because the supervisor had died."""
    spec: str = ""
    """Path of the spec from the root of the repository: a repository may hold several projects."""

    @property
    def outcome(self) -> Outcome:
        """The verdict's outcome, or `running`."""
        return self.verdict.outcome if self.verdict else Outcome.RUNNING

    @property
    def is_baseline(self) -> bool:
        """Whether it only measured the head as it was."""
        return self.number == 0 or (
            self.verdict is not None and self.outcome is Outcome.KEEP and self.verdict.gain is None
        )

    @property
    def is_tried(self) -> bool:
        """Whether it is one of those that every count of attempts counts: closed, and no baseline."""
        return self.verdict is not None and not self.is_baseline

    @property
    def own(self) -> tuple[Measurement, ...]:
        """The samples of what was tried, in order, without the head's."""
        return tuple(m for m in self.measurements if not m.of_head)

    @property
    def value(self) -> float | None:
        """Mean of the values measured; None when there is none."""
        return mean(self.values) if self.values else None

    @property
    def values(self) -> tuple[float, ...]:
        """Every value measured of what was tried."""
        return tuple(m.value for m in self.measurements if m.value is not None and not m.of_head)

    @property
    def head_values(self) -> tuple[float, ...]:
        """Every value of the head that was measured in turn."""
        return tuple(m.value for m in self.measurements if m.value is not None and m.of_head)

    @property
    def problem(self) -> str:
        """The first problem among the measurements of what was tried, empty when all were good."""
        return next((m.problem for m in self.own if m.problem), "")

    @property
    def seconds(self) -> float:
        """Wall time of all measurements together."""
        return sum(m.seconds for m in self.measurements)

    @property
    def machine(self) -> str:
        """Kind of machine that measured it."""
        return self.measurements[0].machine if self.measurements else ""

    @property
    def also(self) -> Mapping[str, float]:
        """Other metrics of the last good measurement, else of the last one."""
        good = [m for m in self.own if not m.problem] or list(self.own)
        return good[-1].also if good else {}
