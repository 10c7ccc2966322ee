"""python -m pytest tests/core/test_metrics.py"""

from __future__ import annotations

import contextlib
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_kit.core.metrics import Reading, decode, read_metrics


@pytest.mark.parametrize(
    "text",
    [
        "val_bpb: 0.99",
        "val_bpb=0.99",
        "val_bpb = 0.99",
        "METRIC val_bpb=0.99",
        "METRIC val_bpb: +9.9e-1",
        "---\n  val_bpb:          0.990000\t\r\npeak_vram_mb:     45060.2\r\n",
        "step 1\rstep 2\rval_bpb: 0.99\rdone",
        "\x1b[1;32mval_bpb\x1b[0m: \x1b[33m0.99\x1b[0m\x1b[K",
        "\x1b]0;title\x07val_bpb: .99",
        "val_bpb: 0.99\nval_bpb: 0.990",
        "val_bpb: evaluating\nval_bpb: 0.99",
        '{"val_bpb": 0.99}',
        '{\n  "val_bpb": 0.99,\n  "layers": [1, 2]\n}\n',
        'loading\n{"val_bpb": 0.99, "ok": true}\nbye',
        '{"val_bpb": 0.99}\n{"val_bpb": 0.99, "loss": 2}',
    ],
)
def test_reads_the_metric(text: str) -> None:
    reading = read_metrics(text, "val_bpb")
    assert (reading.value, reading.problem) == (0.99, "")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "no_metric"),
        ("0.99", "no_metric"),
        ("val_bpb_ema: 1", "no_metric"),
        ("ema_val_bpb: 1", "no_metric"),
        ("val_bpb/ema: 1", "no_metric"),
        ("step 3 val_bpb: 1", "no_metric"),
        ("metric val_bpb 1", "no_metric"),
        ('{"run": {"val_bpb": 1}}', "no_metric"),
        ('[{"val_bpb": 1}]', "no_metric"),
        ('{"val_bpb": 1', "no_metric"),
        ("val_bpb: 1\nval_bpb: 2", "two_metrics"),
        ("val_bpb: 1\rval_bpb: 2", "two_metrics"),
        ('{"val_bpb": 1, "val_bpb": 2}', "two_metrics"),
        ('{"val_bpb": 1}\n{"val_bpb": 2}', "two_metrics"),
        ('val_bpb: 1\n{"val_bpb": 2}', "two_metrics"),
        ("val_bpb: nan", "not_a_number"),
        ("val_bpb: -Infinity", "not_a_number"),
        ("val_bpb: 1e999", "not_a_number"),
        ("val_bpb: nan\nval_bpb: 0.9", "not_a_number"),
        ("val_bpb: 0.9\nval_bpb: 93.5%", "not_a_number"),
        ("val_bpb: 0x1p3", "not_a_number"),
        ("val_bpb: 1,000", "not_a_number"),
        ("val_bpb: 1_000", "not_a_number"),
        ("val_bpb: 1 # best", "not_a_number"),
        ("val_bpb: \u0661", "not_a_number"),
        ("val_bpb:", "not_a_number"),
        ("val_bpb: None", "not_a_number"),
        ("val_bpb: " + "1" * 500, "not_a_number"),
        ('{"val_bpb": NaN}', "not_a_number"),
        ('{"val_bpb": 1e999}', "not_a_number"),
        ('{"val_bpb": true}', "not_a_number"),
        ('{"val_bpb": null}', "not_a_number"),
        ('{"val_bpb": "0.99"}', "not_a_number"),
        ('{"val_bpb": [0.99]}', "not_a_number"),
    ],
)
def test_never_a_value(text: str, kind: str) -> None:
    reading = read_metrics(text, "val_bpb")
    assert reading.value is None
    assert reading.problem.startswith(kind + ": ") and not reading.problem.endswith(".") and "\n" not in reading.problem


def test_info_is_not_inf() -> None:
    assert read_metrics("val_bpb: info\nval_bpb: 1", "val_bpb").value == 1
    assert read_metrics("info: 3\ninf: 4\nnan: 5", "info") == Reading(3.0, {"inf": 4.0, "nan": 5.0}, "")


def test_sentences_help() -> None:
    assert "'93.5%', which is no plain number" in read_metrics("acc: 93.5%", "acc").problem
    assert read_metrics("loss: 2\nval: 3", "acc").problem == "no_metric: no line gives acc, only loss, val"
    assert read_metrics("acc: 1\nacc: 2", "acc").problem == "two_metrics: acc is given twice, as '1' and '2'"
    assert len(read_metrics("acc: 1" + "x" * 10_000, "acc").problem) < 200


def test_other_metrics() -> None:
    text = "loss: 3\nval: 1\nloss: 2.5\nloss: nan\nMETRIC top-1/acc.ema=7\na b: 1\n"
    text += '{"gpu": {"mb": 5, "on": true, "name": "1"}, "a b": 1}'
    assert read_metrics(text, "val").also == {"loss": 2.5, "top-1/acc.ema": 7.0, "gpu.mb": 5.0}
    assert len(read_metrics("\n".join(f"a{i}: 1" for i in range(5000)), "val").also) == 1000


def test_metric_names_are_compared_whole() -> None:
    assert read_metrics("a.b: 1\naxb: 2", "a.b") == Reading(1.0, {"axb": 2.0}, "")
    assert read_metrics('{"a": {"b": 1}}', "a.b").value == 1
    assert read_metrics("METRIC: 4", "METRIC").value == 4
    assert read_metrics("tokens/s (mean): 4", "tokens/s (mean)").value == 4


def test_bare_number() -> None:
    assert read_metrics(" 0.99\n", "val", bare_number=True).value == 0.99
    assert read_metrics("0.99\n", "val").value is None
    assert read_metrics("val: 1\n", "val", bare_number=True).value == 1
    assert read_metrics("1\n2\n", "val", bare_number=True).problem.startswith("no_metric")
    assert read_metrics("93.5%", "val", bare_number=True).problem.startswith("not_a_number")
    assert read_metrics("nan", "val", bare_number=True).problem.startswith("not_a_number")
    assert read_metrics("loading", "val", bare_number=True).problem.startswith("no_metric")


def test_pattern() -> None:
    text = "step 3 | val 0.99 | lr 1\nval: 7\nloss: 2"
    assert read_metrics(text, "val", pattern=r"\| val (\S+)") == Reading(0.99, {"loss": 2.0}, "")
    assert read_metrics("v 1\nv 1.0\nw", "val", pattern=r"v (\S+)").value == 1
    assert read_metrics("v 1\nv 2", "val", pattern=r"v (\S+)").problem.startswith("two_metrics")
    assert read_metrics("v 1\nv x", "val", pattern=r"v (\S+)").problem.startswith("not_a_number")
    assert read_metrics("val: 1", "val", pattern=r"v (\S+)").problem.startswith("no_metric")
    assert read_metrics("v 1\nw", "val", pattern=r"w|v (\S+)").value == 1


def test_decode() -> None:
    assert decode("val: 1\r\n".encode("utf-16")) == "val: 1\r\n"
    assert decode(b"\xfe\xff\x00v") == "v"
    assert decode(b"\xef\xbb\xbfval: 1") == "val: 1"
    assert decode(b"\xff\xfe\x00") == "\ufffd"
    assert decode(b"a\xffb") == "a\ufffdb"


FRAGMENTS = st.sampled_from(
    [*"\n\r\t :=.,-+%eE{}\"'x0179", "val", "val_ema", "METRIC ", "nan", "inf", "info", "1.5", "1e3", "\x1b[0m", "\n\n",
     "val: ", "\nval: 2", '{"val": ', "null", "true", "\u2028", "\x0b"]
)  # fmt: skip
TEXTS = st.one_of(st.text(), st.lists(FRAGMENTS, max_size=30).map("".join))


@settings(deadline=None, max_examples=300)
@given(TEXTS, st.booleans(), st.sampled_from([None, r"val (\S+)", r"(.*)"]))
def test_any_text_gives_a_reading(text: str, bare: bool, pattern: str | None) -> None:
    reading = read_metrics(text, "val", pattern=pattern, bare_number=bare)
    assert (reading.value is None) == bool(reading.problem)
    assert all(math.isfinite(value) for value in reading.also.values()) and "val" not in reading.also
    assert reading.value is None or math.isfinite(reading.value)


@settings(deadline=None, max_examples=300)
@given(st.lists(FRAGMENTS, max_size=30).map("".join).filter(lambda text: "\x1b" not in text))
def test_a_value_is_on_a_line_of_its_own(text: str) -> None:
    """The rule again, slowly: every value returned is some whole line, or a leaf of some JSON object."""
    reading = read_metrics(text, "val")
    lines = [line.strip().removeprefix("METRIC").strip() for line in text.replace("\r", "\n").split("\n")]
    allowed = {float(right) for line in lines for left, right in _halves(line) if left == "val"}
    for piece in (text.strip().replace("\r", "\n"), *lines):
        if piece.startswith("{"):
            with contextlib.suppress(ValueError):
                allowed.add(json.loads(piece).get("val"))
    assert reading.value is None or reading.value in allowed


def _halves(line: str) -> list[tuple[str, str]]:
    found = []
    for sign in ":=":
        left, _, right = line.partition(sign)
        try:
            float(right)
        except ValueError:
            continue
        found.append((left.strip(), right.strip()))
    return found


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["val: $", "METRIC val=$", '{"val": $}']))
def test_every_float_comes_back(value: float, form: str) -> None:
    assert read_metrics("noise\n" + form.replace("$", repr(value)) + "\nnoise: x", "val").value == value


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_decode(data: bytes) -> None:
    assert isinstance(decode(data), str)


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [*"\na {1", "\x1b[", "\x1b]", "val", "val:", "1e", '{"a":', '{"a" ', "METRIC ", "} ", ": ", "a b\n", '{"a\n'],
)
def test_time_is_linear(unit: str) -> None:
    """Twice the text must not take four times as long: a coarse guard, far from the limit of a slow machine."""
    text = "x" + unit * (1_000_000 // len(unit))
    for body in (text, "{" + text + "}", "val: " + text, text + "!"):
        read_metrics(body, "val", bare_number=True)
