"""A record as a commit message, and back.

People read title, reason, the verdict's sentence and, after a crash, the end of the log. Programs read the closing
block of `Ark-` trailers. Only the last paragraph counts and only the engine writes it, so no title and no log can forge
a record; `Ark-Lines` says how the text above it is cut, so that it reads back exactly as it was.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from datetime import datetime
from math import isfinite
from typing import Any

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.records import Attempt, Cost, Measurement, Outcome, Proposal, Verdict, clean_line

INDENT = "    "
_STARTED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?Z")
_NO_COST = Cost()
_LARGEST = 2**64
_SCAN = json.JSONDecoder().raw_decode
_OUTCOMES = {str(outcome): outcome for outcome in Outcome}


def write_message(attempt: Attempt) -> str:
    """The commit message that records `attempt`."""
    proposal, verdict = attempt.proposal, attempt.verdict
    tail = next((m.log_tail for m in reversed(attempt.own) if m.problem), "")
    why = proposal.why.split("\n") if proposal.why else []
    reason = [verdict.reason] if verdict else []
    log = [INDENT + line for line in tail.split("\n")] if tail else []
    paragraphs = [[proposal.title], why, reason, log]
    body = "\n\n".join("\n".join(lines) for lines in paragraphs if lines)

    trailers: list[tuple[str, str]] = [
        ("Attempt", str(attempt.number)),
        ("Outcome", attempt.outcome),
        ("Values", " ".join(repr(value) for value in attempt.values)),
        ("Seconds", f"{attempt.seconds:.3f}"),
        ("Started", attempt.started),
        ("Agent", proposal.agent),
        ("Cost", compact({k: v for k in Cost.__slots__ if (v := getattr(proposal.cost, k)) is not None})),
        ("Yardstick", attempt.yardstick),
        ("Machine", attempt.machine),
    ]
    if attempt.spec:
        trailers.append(("Spec", json.dumps(attempt.spec)))
    if proposal.origin:
        trailers.append(("From", " ".join(proposal.origin)))
    if attempt.repeats:
        trailers.append(("Repeats", str(attempt.repeats)))
    if verdict:
        trailers.append(("Verdict", compact(_verdict_fields(verdict))))
    trailers += [("Measurement", compact(measurement_fields(m, attempt.machine))) for m in attempt.measurements]
    trailers.append(("Lines", f"{len(why)} {len(reason)} {len(log)}"))
    return body + "\n\n" + "".join(f"Ark-{name}: {value}".rstrip() + "\n" for name, value in trailers)


def read_message(text: str, *, number: int, commit: str, parent: str, tree: str) -> Attempt:
    """The attempt that `text` records; ArkError when it is no record."""
    try:
        return _read(text, number, commit, parent, tree)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError):
        message = f"commit {commit[:10]} is not a record of `ark`"
        raise ArkError(message, "refs below refs/ark/ belong to `ark`; move yours elsewhere") from None


def parse(text: str) -> Any:
    """One JSON value; ValueError for anything else."""
    # Half the time of `json.loads`, which looks for white space around it first.
    value, end = _SCAN(text)
    if end != len(text):
        raise ValueError("more than one value")
    return value


@functools.lru_cache(maxsize=64)
def _text(text: str) -> str:
    """A text as JSON, one that is the same in all records of a run."""
    found = parse(text)
    if not isinstance(found, str):
        raise ValueError("no text")
    return found


def _read(text: str, number: int, commit: str, parent: str, tree: str) -> Attempt:
    body, _, block = text.rstrip("\n").rpartition("\n\n")
    fields: dict[str, str] = {}
    samples: list[dict[str, Any]] = []
    for line in block.split("\n"):
        name, _, value = line.partition(": ")
        if name == "Ark-Measurement":
            samples.append(parse(value))
        else:
            fields[name] = value
    if int(fields["Ark-Attempt"]) != number:
        raise ValueError("another attempt's record")

    why_count, reason_count, log_count = (int(count) for count in fields["Ark-Lines"].split())
    lines = body.split("\n")
    title, at = lines[0], 2
    why = "\n".join(lines[at : at + why_count])
    at += why_count + bool(why_count)
    reason = "\n".join(lines[at : at + reason_count])
    at += reason_count + bool(reason_count)
    tail = "\n".join([line.removeprefix(INDENT) for line in lines[at : at + log_count]])

    machine = fields.get("Ark-Machine", "")
    own_problems = [n for n, sample in enumerate(samples) if sample.get("problem") and not sample.get("of_head")]
    crashed = max(own_problems, default=-1)
    outcome = _OUTCOMES[fields["Ark-Outcome"]]
    verdict = None
    if outcome is not Outcome.RUNNING:
        numbers = parse(fields.get("Ark-Verdict", "{}"))
        gain, noise, share = (figure(numbers.get(name)) for name in ("gain", "noise", "share"))
        verdict = Verdict(outcome, reason, gain, noise, share)
    return Attempt(
        number=number,
        commit=commit,
        parent=parent,
        tree=tree,
        proposal=Proposal(
            title,
            why,
            fields.get("Ark-Agent", ""),
            _read_cost(parse(fields.get("Ark-Cost", "{}"))),
            tuple([clean_line(name, 200) for name in fields.get("Ark-From", "").split()]),
        ),
        measurements=tuple(
            [
                read_measurement(sample, machine, tail if index == crashed else "")
                for index, sample in enumerate(samples)
            ]
        ),
        verdict=verdict,
        started=_moment(fields["Ark-Started"]),
        yardstick=clean_line(fields["Ark-Yardstick"], 80),
        repeats=whole(int(fields.get("Ark-Repeats", "0"))),
        spec=_text(fields.get("Ark-Spec", '""')),
    )


# A record may be somebody else's, that was fetched: whatever reads it afterwards relies on its kinds.


def figure(value: Any) -> Any:
    """A finite number as a float, or None; ValueError or OverflowError for anything else."""
    if value is None:
        return None
    if (type(value) is float or type(value) is int) and isfinite(value):
        return float(value)
    raise ValueError("no number")


def whole(value: Any) -> Any:
    """A whole number of at most 64 bits, or None; ValueError for anything else."""
    if value is None:
        return None
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or abs(value) > _LARGEST:
        raise ValueError("no whole number")
    return value


def _moment(text: str) -> str:
    """ISO 8601 in UTC, as `utc_now` writes it."""
    if not _STARTED.fullmatch(text):
        raise ValueError("no moment")
    datetime.fromisoformat(text[:19])
    return text


def _read_cost(fields: Mapping[str, Any]) -> Cost:
    if fields == {}:
        return _NO_COST
    return Cost(**{name: (whole if name == "tokens" else figure)(value) for name, value in fields.items()})


def measurement_fields(measurement: Measurement, machine: str) -> dict[str, Any]:
    """`measurement` as plain data, without its log and without the machine where that is `machine`."""
    fields = {
        "value": measurement.value,
        "also": dict(measurement.also),
        "problem": measurement.problem,
        "seconds": round(measurement.seconds, 3),
        "seed": measurement.seed,
    }
    if measurement.of_head:
        fields["of_head"] = True
    return fields if measurement.machine == machine else {**fields, "machine": measurement.machine}


def _verdict_fields(verdict: Verdict) -> dict[str, float | None]:
    fields = {"gain": verdict.gain, "noise": verdict.noise}
    return fields if verdict.share is None else {**fields, "share": verdict.share}


def read_measurement(fields: Mapping[str, Any], machine: str, tail: str = "") -> Measurement:
    """What `measurement_fields` wrote."""
    return Measurement(
        value=figure(fields["value"]),
        also={name: figure(value) for name, value in fields.get("also", {}).items()},
        problem=fields.get("problem", ""),
        seconds=figure(fields.get("seconds", 0.0)),
        log_tail=tail,
        seed=whole(fields.get("seed", 0)),
        machine=fields.get("machine", machine),
        of_head=fields.get("of_head", False),
    )


def compact(value: Mapping[str, Any]) -> str:
    """JSON on one line."""
    # ASCII: a metric's name comes from the run's output and may hold anything, lone surrogates too.
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
