"""Verifications in the ledger: one commit each, at `refs/ark/<tag>/verify/0001` and so on.

Its tree is the head's and its parent the head. It is written as `running` before anything is measured, so that a look
at the hold-out counts also when the verification was killed, and replaced when it ends. The message is the block that
`ark verify` prints, then the closing block of `Ark-` trailers with every sample. No attempt is ever called `verify/N`,
so none of this is read as one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autoresearch_kit.core.interval import Gain, Interval
from autoresearch_kit.core.records import clean_line
from autoresearch_kit.core.verification import Ablation, Arm, Sample, State, Verification, Weight, block_lines
from autoresearch_kit.ledger.git import ROOT, ZERO, RefMoved, Repository
from autoresearch_kit.ledger.ledger import FETCHED, seconds_of
from autoresearch_kit.ledger.message import compact, figure, measurement_fields, parse, read_measurement, whole

FOLDER = "verify"
_TEXTS = ("project", "metric", "yardstick", "machine", "version", "started", "holdout", "state", "problem", "tree")
"""Fields whose trailers are plain text; all others are JSON."""


def ref(verification: Verification) -> str:
    """Full name of the ref of a verification."""
    root = FETCHED if "/" in verification.tag else ROOT
    return f"{root}{verification.tag}/{FOLDER}/{verification.number:04d}"


def begin(repository: Repository, verification: Verification) -> Verification:
    """Record that a verification begins, under the next free number."""
    taken = [other.number for other in read_verifications(repository, verification.tag)]
    numbered = replace(verification, number=max(taken, default=0) + 1)
    while True:
        recorded = _commit(repository, numbered)
        try:
            repository.update_refs({ref(recorded): (recorded.commit, ZERO)})
        except RefMoved:
            numbered = replace(numbered, number=numbered.number + 1)
            continue
        return recorded


def finish(repository: Repository, verification: Verification) -> Verification:
    """Replace the record by this one; RefMoved when somebody else did meanwhile."""
    ended = _commit(repository, verification)
    repository.update_refs({ref(ended): (ended.commit, verification.commit)})
    return ended


def read_verifications(repository: Repository, *names: str) -> list[Verification]:
    """The verifications of some runs, without names of all of this repository, in order of their refs; one process.

    A name is a tag, or `REMOTE/TAG` for a run that was fetched; it is then the record's. What is no record is left out.
    """
    roots = [(FETCHED if "/" in name else ROOT) + name for name in names or ("*",)]
    found = []
    for path, commit, contents in repository.refs(
        [f"{root}/{FOLDER}/*" for root in roots], "refname", "objectname", "contents"
    ):
        run, _, digits = path.removeprefix(FETCHED).removeprefix(ROOT).rsplit("/", 2)
        try:
            verification = _read_message(contents, run.rpartition("/")[2], int(digits), commit)
            block_lines(verification)  # what cannot be said is no record: somebody else's may hold anything
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError, RecursionError):
            continue
        found.append(replace(verification, tag=run))
    return found


def looks(repository: Repository, holdout: str) -> int:
    """How many verifications of all runs in this repository have looked at that hold-out, or died before they could."""
    return sum(other.holdout == holdout for other in read_verifications(repository))


def _commit(repository: Repository, verification: Verification) -> Verification:
    when = max(int(time.time()), seconds_of(verification.started))
    message, author = _write_message(verification), ("ark", "ark@localhost")
    commit = repository.store_commit(verification.tree, [verification.head.commit], message, author, when)
    return replace(verification, commit=commit)


# The message


def _write_message(verification: Verification) -> str:
    body = "\n".join(block_lines(verification))
    fields = as_data(verification)
    del fields["number"], fields["commit"], fields["ref"], fields["direction"]
    trailers = [("Verification", str(verification.number))]
    trailers += [(name.capitalize(), clean_line(str(fields.pop(name)), 500)) for name in _TEXTS]
    rows = {name: fields.pop(name) for name in ("samples", "ablations")}
    trailers += [(name.replace("_", "-").capitalize(), compact(value)) for name, value in fields.items()]
    trailers += [(name[:-1].capitalize(), compact(row)) for name, found in rows.items() for row in found]
    return body + "\n\n" + "".join(f"Ark-{name}: {value}".rstrip() + "\n" for name, value in trailers)


def _read_message(text: str, tag: str, number: int, commit: str) -> Verification:
    fields: dict[str, Any] = {"samples": [], "ablations": []}
    for line in text.rstrip("\n").rpartition("\n\n")[2].split("\n"):
        name, _, value = line.removeprefix("Ark-").partition(": ")
        name = name.rstrip(":").lower().replace("-", "_")
        if name in ("sample", "ablation"):
            fields[f"{name}s"].append(parse(value))
        else:
            fields[name] = clean_line(value, 500) if name in _TEXTS else parse(value)
    if fields.pop("verification") != number:
        raise ValueError("another verification's record")
    fields["tag"] = tag  # the run may have been pushed under another name
    samples = [
        Sample(
            row["arm"],
            read_measurement(row, fields["machine"]),
            read_measurement(row["held_out"], fields["machine"]) if "held_out" in row else None,
        )
        for row in fields.pop("samples")
    ]
    ablations = [
        Ablation(row["attempt"], row["title"], Weight(row["weight"]), _gain(row["gain"]), row["note"])
        for row in fields.pop("ablations")
    ]
    return Verification(
        **{
            **fields,
            "state": State(fields["state"]),
            "baseline": Arm(**fields["baseline"]),
            "head": Arm(**fields["head"]),
            "gain": _gain(fields["gain"]),
            "holdout_gain": _gain(fields["holdout_gain"]),
            "broken": tuple(fields["broken"]),
        },
        samples=tuple(samples),
        ablations=tuple(ablations),
        number=number,
        commit=commit,
    )


def _gain(fields: Mapping[str, Any] | None) -> Gain | None:
    if fields is None:
        return None
    numbers = {name: figure(fields[name]) for name in ("first", "second", "level")}
    words = {"method": clean_line(fields["method"], 500)}
    percent = fields["percent"]
    absolute, ratio = _interval(fields["absolute"]), None if percent is None else _interval(percent)
    numbers["pairs"] = whole(fields["pairs"])
    return Gain(**{**fields, **numbers, **words, "absolute": absolute, "percent": ratio})


def _interval(fields: Mapping[str, Any]) -> Interval:
    return Interval(**{name: figure(value) for name, value in fields.items()})


def as_data(verification: Verification) -> dict[str, Any]:
    """Everything as plain data, for JSON."""
    samples = [_sample_data(sample, verification.machine) for sample in verification.samples]
    direction = "maximize" if verification.maximize else "minimize"
    return {**dataclasses.asdict(verification), "samples": samples, "ref": ref(verification), "direction": direction}


def _sample_data(sample: Sample, machine: str) -> dict[str, Any]:
    fields = {"arm": sample.arm, **measurement_fields(sample.measured, machine)}
    if sample.held_out is not None:
        fields["held_out"] = measurement_fields(sample.held_out, machine)
    return fields
