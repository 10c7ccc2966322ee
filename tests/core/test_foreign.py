"""Histories of other tools, in the forms that people and agents really leave.   pytest tests/core/test_foreign.py"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.errors import UsageError
from autoresearch_kit.core.foreign import MAX_ROWS, read_foreign
from autoresearch_kit.core.specfile import parse_spec

SPEC = parse_spec("metric: val_bpb\nmetric_direction: minimize\nmutable_files: [a]\nrun_command: a\n")
HEADER = "commit\tval_bpb\tmemory_gb\tstatus\tdescription\n"


def read(text: str, file: str = "results.tsv") -> Campaign:
    return read_foreign(text, "theirs", file, SPEC)


def log(*entries: dict[str, Any]) -> Campaign:
    return read("".join(json.dumps(entry) + "\n" for entry in entries), ".auto/log.jsonl")


def told(campaign: Campaign) -> list[tuple[str, float | None, str]]:
    return [(str(a.outcome), a.value, a.proposal.title) for a in campaign.attempts]


PLAIN = [
    ("keep", 0.9979, "baseline"),
    ("keep", 0.9932, "increase LR to 0.04"),
    ("discard", 1.005, "switch to GeLU"),
    ("crash", None, "double width (OOM)"),
]
ROWS = (
    "a1b2c3d\t0.997900\t44.0\tkeep\tbaseline\n"
    "b2c3d4e\t0.993200\t44.2\tkeep\tincrease LR to 0.04\n"
    "c3d4e5f\t1.005000\t44.0\tdiscard\tswitch to GeLU\n"
    "d4e5f6g\t0.000000\t0.0\tcrash\tdouble width (OOM)\n"
)


def test_the_common_form() -> None:
    found = read(HEADER + ROWS)
    assert told(found) == PLAIN
    assert (found.metric, found.maximize, found.source, found.notes) == ("val_bpb", False, "results.tsv", ())
    assert found.baseline is not None and found.best is not None
    assert (found.baseline.value, found.best.value) == (0.9979, 0.9932)
    assert [a.number for a in found.attempts] == [0, 1, 2, 3]
    assert [a.commit for a in found.attempts] == ["a1b2c3d", "b2c3d4e", "c3d4e5f", "d4e5f6g"]
    assert found.attempts[1].also["peak_memory_mb"] == pytest.approx(44.2 * 1024)
    assert [a.is_baseline for a in found.attempts] == [True, False, False, False]
    assert found.attempts[1].verdict is not None
    assert found.attempts[1].verdict.gain == pytest.approx(0.0047)


QUIRKS = {
    "CRLF": (HEADER + ROWS).replace("\n", "\r\n"),
    "CR": (HEADER + ROWS).replace("\n", "\r"),
    "BOM": "\ufeff" + HEADER + ROWS,
    "no header": ROWS,
    "no newline at the end": (HEADER + ROWS).rstrip("\n"),
    "blank lines": "\n\n" + HEADER + ROWS.replace("\n", "\n\n  \n"),
    "comments": "# my night\n" + HEADER + "# it begins\n" + ROWS,
    "header as a comment": "# " + HEADER + ROWS,
    "rule below the header": HEADER + "-----\t-----\t-----\t-----\t-----\n" + ROWS,
    "header twice": HEADER + ROWS.replace("c3d4", HEADER + "c3d4"),
    "upper case": (HEADER + ROWS).replace("keep", "KEEP").replace("crash", "CRASH").replace("status", "Status"),
    "other words": HEADER + ROWS.replace("keep", "kept").replace("discard", "reverted").replace("crash", "OOM"),
    "words with more": HEADER + ROWS.replace("\tkeep", "\tkeep (new best)").replace("\tdiscard", "\tDISCARD: worse"),
    "baseline as a status": HEADER + ROWS.replace("44.0\tkeep", "44.0\tbaseline"),
    "empty cells of a crash": HEADER + ROWS.replace("0.000000\t0.0\t", "\t\t"),
    "nan of a crash": HEADER + ROWS.replace("0.000000", "nan"),
    "inf of a crash": HEADER + ROWS.replace("0.000000", "-inf"),
    "a dash for a crash": HEADER + ROWS.replace("0.000000\t0.0", "-\t-"),
    "a discarded crash": HEADER + ROWS.replace("0.0\tcrash", "0.0\tcrashed"),
    "quoted": HEADER + ROWS.replace("double width (OOM)", '"double width (OOM)"'),
    "quotes that never close": (HEADER + ROWS).replace("0.04", '0.04"').replace("d4e5f6g", "d4e5f6g"),
    "blanks around cells": (HEADER + ROWS).replace("\t", " \t "),
    "spaces instead of tabs": (HEADER + ROWS).replace("\t", "    "),
    "a markdown table": "".join(f"| {line.replace(chr(9), ' | ')} |\n" for line in (HEADER + ROWS).splitlines()),
    "commas instead of tabs": (HEADER + ROWS).replace("\t", ","),
    "nulls": (HEADER + ROWS).replace("GeLU", "GeLU\0"),
    "extra columns": HEADER.replace("\n", "\ttime\ttokens\n") + ROWS.replace("\n", "\t301.5\t12000\n"),
    "thousands": HEADER + ROWS.replace("44.2", "44,200.0"),
}


@pytest.mark.parametrize("name", QUIRKS)
def test_a_quirk_changes_nothing(name: str) -> None:
    found = read(QUIRKS[name])
    shown = [(outcome, value, title.rstrip('"')) for outcome, value, title in told(found)]
    if name == "quotes that never close":
        shown[1] = (shown[1][0], shown[1][1], "increase LR to 0.04")
    assert shown == PLAIN
    assert found.metric == "val_bpb"
    assert found.baseline is not None and found.baseline.value == 0.9979


def test_separators_inside_descriptions_stay_in_them() -> None:
    found = read(HEADER + "a1b2c3d\t0.9\t1.0\tkeep\tlr 0.1, depth 4\tand more\n")
    assert told(found) == [("keep", 0.9, "lr 0.1, depth 4 and more")]
    commas = 'commit,val_bpb,status,description,tokens\nabc1234,0.9,keep,"a, b",10\nabc1235,0.8,keep,c, d, e,20\n'
    assert [title for _, _, title in told(read(commas))] == ["a, b", "c, d, e"]
    assert [a.proposal.cost.tokens for a in read(commas).attempts] == [10, 20]


def test_other_order_and_missing_columns() -> None:
    found = read("description\tstatus\tval_bpb\nbaseline\tkeep\t0.9\nwider\tdiscard\t0.95\n")
    assert told(found) == [("keep", 0.9, "baseline"), ("discard", 0.95, "wider")]
    assert found.attempts[0].commit == ""
    short = read(HEADER + "a1b2c3d\t0.9\tkeep\tno memory was written\nb2c3d4e\t0.8\t1.0\tkeep\n")
    assert told(short) == [("keep", 0.9, "no memory was written"), ("keep", 0.8, "untitled")]


def test_extra_columns_say_what_they_say() -> None:
    found = read(
        "timestamp\tcommit\tval_bpb\tstatus\tdescription\ttime\ttokens\tcost_usd\tmodel\tgpu\tmfu\n"
        "2026-03-08T10:00:00+02:00\ta1b2c3d\t0.9\tkeep\tbaseline\t300.5\t1,200\t$0.15\topus\tH100\t41.2\n"
        "1770000000\tb2c3d4e\t0.8\tkeep\twider\t5 min\t\t\tcodex\tH100\tx\n"
    )
    first, second = found.attempts
    assert first.started == "2026-03-08T08:00:00.000Z"
    assert second.started == "2026-02-02T02:40:00.000Z"
    assert first.seconds == 300.5
    assert (first.proposal.cost.tokens, first.proposal.cost.money) == (1200, 0.15)
    assert (second.proposal.cost.tokens, second.proposal.cost.money) == (None, None)
    assert (first.proposal.agent, first.machine, first.also) == ("opus", "H100", {"mfu": 41.2})
    assert second.also == {}


def test_a_column_called_time_may_hold_moments() -> None:
    found = read("time\tcommit\tval_bpb\tstatus\tdescription\n2026-03-08 10:00\ta1b2c3d\t0.9\tkeep\tbaseline\n")
    assert found.attempts[0].started == "2026-03-08T10:00:00.000Z"
    assert found.attempts[0].seconds == 0


def test_a_kept_row_without_a_number_was_not_measured() -> None:
    found = read(HEADER + ROWS + "e5f6a7b\tnan\t44.0\tkeep\tlooks good\n")
    assert found.attempts[-1].value is None
    assert str(found.attempts[-1].outcome) == "crash"
    assert found.best is not None and found.best.value == 0.9932
    assert found.notes == ("1 row called kept without a finite number: counted as crashed",)


def test_a_zero_of_a_kept_row_is_a_value_and_that_of_a_crash_never() -> None:
    found = read("commit\tfailures\tstatus\tdescription\na\t3\tkeep\tbaseline\nb\t0\tkeep\tall pass\nc\t0\tcrash\tx\n")
    assert [a.value for a in found.attempts] == [3, 0, None]


def test_without_a_status_better_than_all_before_is_kept_and_zero_is_no_value() -> None:
    found = read("commit\tval_bpb\tdescription\na1\t0.9\tbaseline\nb2\t0.95\tx\nc3\t0.000000\ty\nd4\t0.8\tz\n")
    assert [str(a.outcome) for a in found.attempts] == ["keep", "discard", "crash", "keep"]
    assert "better than all before" in found.notes[0]


def test_another_metric_and_its_direction_is_guessed_from_what_was_kept() -> None:
    found = read(HEADER.replace("val_bpb", "tokens_per_sec") + "a\t10\t1\tkeep\tbaseline\nb\t12\t1\tkeep\tfaster\n")
    assert (found.metric, found.maximize) == ("tokens_per_sec", True)
    assert "rise" in found.notes[0]
    alone = read(HEADER.replace("val_bpb", "score") + "a\t10\t1\tkeep\tbaseline\n")
    assert not alone.maximize
    assert "as in the spec" in alone.notes[0]


def test_an_unknown_status_is_named() -> None:
    found = read(HEADER + ROWS + "e5f6a7b\t0.99\t44.0\tperhaps\tx\n")
    assert str(found.attempts[-1].outcome) == "discard"
    assert found.notes == ("unknown status taken as discard: perhaps",)


def test_the_baseline_is_the_row_called_so_else_the_first_that_was_kept() -> None:
    late = read(HEADER + "z\t0.0\t0.0\tcrash\tno data\ny\t2.0\t1\tkeep\tsmoke test\n" + ROWS)
    assert late.baseline is not None and late.baseline.value == 0.9979
    first = read(HEADER + "z\t0.0\t0.0\tcrash\tno data\ny\t2.0\t1\tkeep\tas it is\nx\t1.0\t1\tkeep\tbetter\n")
    assert first.baseline is not None and first.baseline.value == 2.0
    assert [a.number for a in first.attempts] == [1, 2, 3]
    assert [a.is_baseline for a in first.attempts] == [False, True, False]


# Logs of JSON lines

SETTINGS = {"type": "config", "name": "x", "metricName": "runtime_ms", "metricUnit": "ms", "bestDirection": "lower"}


def test_a_log_with_settings_and_runs() -> None:
    found = log(
        SETTINGS,
        {"run": 1, "commit": "abcdef0", "metric": 10, "metrics": {"mem": 3}, "status": "keep",
         "description": "baseline", "timestamp": 1770000000000, "segment": 0, "confidence": None},
        {"run": 2, "commit": "abcdef1", "metric": 0, "metrics": {}, "status": "crash", "description": "b"},
        {"run": 5, "metric": 9, "status": "checks_failed", "description": "c", "timestamp": 1770000300000},
        {"run": 6, "metric": 8.5, "status": "keep", "description": "d", "timestamp": 1770000400},
    )  # fmt: skip
    assert told(found) == [("keep", 10, "baseline"), ("crash", None, "b"), ("discard", 9, "c"), ("keep", 8.5, "d")]
    assert [a.number for a in found.attempts] == [1, 2, 5, 6]
    assert (found.metric, found.maximize, found.source) == ("runtime_ms", False, "jsonl")
    assert [a.started[:19] for a in found.attempts] == [
        "2026-02-02T02:40:00", "", "2026-02-02T02:45:00", "2026-02-02T02:46:40",
    ]  # fmt: skip
    assert found.attempts[0].also == {"mem": 3}
    assert found.baseline is not None and found.baseline.number == 1


def test_higher_is_better_where_the_log_says_so() -> None:
    found = log(
        {**SETTINGS, "bestDirection": "higher"},
        {"metric": 1, "status": "keep", "description": "a"},
        {"metric": 2, "status": "keep", "description": "b"},
    )
    assert found.maximize
    assert found.attempts[1].verdict is not None and found.attempts[1].verdict.gain == 1


def test_a_log_that_begins_anew_has_a_new_baseline_and_one_metric() -> None:
    found = log(
        SETTINGS,
        {"metric": 10, "status": "keep", "description": "baseline"},
        {"metric": 9, "status": "keep", "description": "a"},
        SETTINGS,
        {"metric": 20, "status": "keep", "description": "the baseline of larger data"},
        {"metric": 18, "status": "keep", "description": "b"},
    )
    assert found.baseline is not None and found.baseline.value == 20
    changed = log(
        SETTINGS,
        {"metric": 10, "status": "keep", "description": "baseline"},
        {**SETTINGS, "metricName": "size_kb"},
        {"metric": 200, "status": "keep", "description": "baseline"},
    )
    assert (changed.metric, len(changed.attempts)) == ("size_kb", 1)
    assert "another metric" in changed.notes[0]


def test_a_log_of_changes_and_verdicts() -> None:
    found = log(
        {"ts": "2026-03-08T10:00:00", "change": "depth 4", "context": "it fits", "metrics": {"val_bpb": 2.1, "ane": 4},
         "delta": None, "verdict": "KEEP"},
        {"ts": "2026-03-08T10:10:00", "change": "depth 5", "metrics": {"val_bpb": 2.2}, "delta": 0.1,
         "verdict": "reverted, worse"},
        {"ts": "2026-03-08T10:20:00", "change": "depth 99", "metrics": {}, "verdict": "crash"},
    )  # fmt: skip
    assert told(found) == [("keep", 2.1, "depth 4"), ("discard", 2.2, "depth 5"), ("crash", None, "depth 99")]
    assert found.attempts[0].proposal.why == "it fits"
    assert found.attempts[0].also == {"ane": 4}


def test_broken_lines_are_counted() -> None:
    text = '{"metric": 1, "status": "keep", "description": "a"}\nTraceback\n{"metric": 2, "sta\n[1]\n\n'
    assert read(text, "autoresearch.jsonl").notes == ("3 lines could not be read",)


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("", "results.tsv"),
        ("\n\n", "autoresearch.jsonl"),
        (HEADER, "results.tsv"),
        ("just some notes\nin two lines\n", "results.tsv"),
        ("a,b,c\n1,2,3\n4,5,6\n", "results.tsv"),
        ('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.4}\n', "train.jsonl"),
        ('{"type": "config", "metricName": "x"}\n', "autoresearch.jsonl"),
        ("<html>\n<body>\tx\n", "results.tsv"),
        ("\0\0\0\0", "results.tsv"),
    ],
)
def test_what_is_no_history_is_said_to_be_none(text: str, file: str) -> None:
    with pytest.raises(UsageError, match="no history"):
        read(text, file)


def test_a_log_whose_metric_goes_by_another_name_is_read() -> None:
    entries = [
        {"status": status, "loss": value, "description": "x"} for status, value in (("keep", 2.0), ("keep", 1.0))
    ]
    found = log(*entries, {"status": "crash", "description": "y"})
    assert told(found) == [("keep", 2.0, "x"), ("keep", 1.0, "x"), ("crash", None, "y")]
    assert (found.metric, found.maximize) == ("loss", False) and "kept values fall" in found.notes[0]
    assert log({"status": "keep", "Val-BPB": 1.0, "epochs": 3, "description": "x"}).metric == "val_bpb"


@pytest.mark.parametrize(
    ("text", "file", "there"),
    [
        ('{"status": "keep", "loss": 1.0, "epochs": 3, "description": "x"}', "a.jsonl", "loss, epochs"),
        ('{"status": "keep", "description": "x"}', "a.jsonl", "no numbers"),
        ("commit\tstatus\tdescription\na1b2c3d\tkeep\tbaseline\n", "results.tsv", "no numbers"),
    ],
)
def test_what_was_kept_without_a_known_metric_is_no_crash(text: str, file: str, there: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(text, file)
    assert caught.value.message == f"{file} has no column `val_bpb` or `metric`; it has {there}"
    if "loss" in text:  # what the hint says helps
        assert read('{"type": "config", "metricName": "loss"}\n' + text, file).metric == "loss"


def test_crashes_alone_need_no_metric() -> None:
    assert told(log({"status": "crash", "description": "x"})) == [("crash", None, "x")]


def test_what_is_too_long_for_a_history_is_a_sentence() -> None:
    with pytest.raises(UsageError, match="more than 100,000 lines"):
        read(HEADER + "a\t1\t1\tkeep\tx\n" * (MAX_ROWS + 1))


cells = st.one_of(
    st.sampled_from(["", "keep", "crash", "discard", "baseline", "0.000000", "1.5", "nan", "-inf", "1e999", "a1b2c3d"]),
    st.text(max_size=8),
    st.floats().map(repr),
)
tables = st.lists(st.lists(cells, max_size=7).map("\t".join), max_size=8).map("\n".join)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.dictionaries(st.sampled_from(["a", "val_bpb"]), inner, max_size=2),
    max_leaves=3,
)
names = st.sampled_from(
    ["metric", "metrics", "status", "description", "commit", "run", "timestamp", "segment", "type", "metricName",
     "bestDirection", "time", "tokens", "cost", "agent", "verdict", "value"]
)  # fmt: skip
objects = st.lists(st.dictionaries(names, values, max_size=6), max_size=6)


@given(st.one_of(tables, tables.map(lambda text: HEADER + text), st.text(max_size=200)))
def test_no_table_is_a_traceback_and_none_gives_a_value_that_is_none(text: str) -> None:
    try:
        found = read(text)
    except UsageError:
        return
    check(found)


@given(objects, st.text(max_size=20))
def test_no_log_is_a_traceback(entries: list[dict[str, Any]], junk: str) -> None:
    try:
        found = read("".join(json.dumps(entry) + "\n" for entry in entries) + junk, "autoresearch.jsonl")
    except UsageError:
        return
    check(found)


def check(found: Campaign) -> None:
    numbers = [a.number for a in found.attempts]
    assert numbers == sorted(set(numbers))
    for attempt in found.attempts:
        assert attempt.outcome != "crash" or attempt.value is None
        assert attempt.outcome != "keep" or attempt.value is not None
        assert (attempt.value is None) == bool(attempt.problem)
        assert not set("\n\t\x1b\0") & set(attempt.proposal.title)
    assert found.metric
