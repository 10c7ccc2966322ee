"""graph.py: a file from a stranger is data or an error.

pytest examples/llm_pretrain_mlx/tests/test_mlx_graph_hostile.py
"""

from __future__ import annotations

import hashlib
import json
import os
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("mlx")  # not mlx.core, which must come after the BLAS that `machine` loads

from test_mlx_graph import ABOUT, BETWEEN, TOKENS, B, GraphError, T, V, attention, body, graph, mx


def place(code: str, shape: list[int], start: int, end: int) -> dict:
    return {"dtype": code, "shape": shape, "data_offsets": [start, end]}


def call(name, arguments, inputs, *outputs) -> dict:
    return {"name": name, "arguments": arguments, "inputs": inputs, "outputs": list(outputs)}


def hashed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


TABLE, FIVE = np.zeros((V, V), np.float32).tobytes(), np.array(5, np.int32).tobytes()
CONTENT = TABLE + FIVE
PLACES = {"table": place("F32", [V, V], 0, 4 * V * V), "five": place("I32", [], 4 * V * V, len(CONTENT))}
LOGITS = [[B, T, V], "F32"]
GOOD = [
    call("Gather", [[0], [1, V]], ["table", "tokens"], ["rows", [B, T, 1, V], "F32"]),
    call("Squeeze", [[2]], ["rows"], ["logits", *LOGITS]),
]


def forge(path, calls=(), content=CONTENT, places=PLACES, about=ABOUT, header=None, text=None, **changes):
    """A file as a hostile train.py would write it: whatever graph it likes, and the hash that belongs to it."""
    made = {"rows": B, "output": "logits", "calls": [*GOOD, *calls], **changes}
    about = about if isinstance(about, str) else json.dumps(about)
    metadata = {"about": about, "graph": json.dumps(made) if text is None else text}
    header = json.dumps({"__metadata__": metadata, **places} if header is None else header).encode()
    path.write_bytes(hashed(len(header).to_bytes(8, "little") + header + content))


def refused(path, says: str) -> None:
    with pytest.raises(GraphError, match=says) as error:
        graph.load(path)
    assert "\n" not in str(error.value)


def test_a_forged_file_of_a_good_graph_is_read(tmp_path):
    forge(tmp_path / "m")
    assert graph.load(tmp_path / "m")(TOKENS).shape == (B, T, V)


def after(name, arguments=(), inputs=("logits",), shape=LOGITS[0], code="F32", value="x"):
    """A call behind the good ones."""
    return call(name, list(arguments), list(inputs), [value, list(shape), code])


def convolved(stride: int = 1, dilation: int = 1, groups: int = 1) -> dict:
    return after("Convolution", [[stride], [0], [0], [dilation], [1], groups, False], ["logits", "logits"])


def sliced(starts: list[int], strides: list[int]) -> dict:
    return after("Slice", [starts, [B, T, V], strides])


HOSTILE = {
    "a kernel": (after("CustomKernel"), "'CustomKernel', which evaluation does not run"),
    "a file": (after("Load", inputs=[]), "'Load', which evaluation does not run"),
    "beyond an array": (after("AsStrided"), "'AsStrided', which"),
    "a scatter": (after("Scatter"), "'Scatter', which .*writing by index"),
    "random": (after("RandomBits"), "'RandomBits', which"),
    "compiled": (after("Compiled"), "'Compiled', which"),
    "no name": (after(""), "'', which evaluation does not run"),
    "a number for a name": (after(7), "call 2 failed"),
    "a list for a name": (after([]), "call 2 failed"),
    "control characters": (after("x\n\x1b[2J"), r"'x\\n\\x1b\[2J', which"),
    "larger than it is": (after("Exp", shape=[B, T, 2 * V]), "float32 .*32.* where the file says"),
    "smaller than it is": (after("Exp", shape=[B, T, 1]), "where the file says float32 .*1"),
    "of another type": (after("Exp", code="I32"), "returns float32 .* where the file says int32"),
    "later": (after("Exp", inputs=["z"]), "uses a value that does not come before it"),
    "itself": (after("Exp", inputs=["x"]), "uses a value that does not come before it"),
    "twice": (after("Exp", value="logits"), "the name 'logits', which is taken"),
    "the tokens": (after("Exp", value="tokens"), "the name 'tokens', which is taken"),
    "no input": (after("Exp", inputs=[]), "has 0 inputs"),
    "a list for an input": (after("Exp", inputs=[["logits"]]), "call 2 failed"),
    "three inputs": (after("Add", inputs=["logits"] * 3), "has 3 inputs"),
    "no result": (call("Exp", [], ["logits"]), "failed"),
    "two results of one": (call("Exp", [], ["logits"], ["x", *LOGITS], ["y", *LOGITS]), "where the file says"),
    "one result of two": (call("Depends", [], ["logits"], ["x", *LOGITS], ["y", *LOGITS]), "failed|the file says"),
    "two numbers of one": (call("Depends", [], ["five"], ["x", [], "I32"], ["y", [], "I32"]), "failed"),
    "index 5 of 5": (after("GatherAxis", [2], ["logits", "five"]), "failed|where the file says|looks up"),
    "axis": (after("GatherAxis", [9], ["logits", "tokens"]), "failed"),
    "negative axis": (after("Gather", [[-1], [V, 1]], ["table", "tokens"]), "one index for each of its axes"),
    "parts of rows": (after("Gather", [[0], [1, 40]], ["table", "tokens"], [B, T, 1, 40]), "parts of rows"),
    "an axis twice": (after("Gather", [[0, 0], [1, V]], ["table", "tokens", "tokens"]), "one index for each"),
    "a wild index": (after("Gather", [[0], [1, 1, V]], ["logits", "tokens"], [B, T, 1, T, V]), "looks up one of 3 by"),
    "slice beyond": (sliced([0, 0, V], [1, 1, 1]), "slice beyond its array"),
    "slice before": (sliced([0, 0, -99], [1, 1, 1]), "slice beyond its array"),
    "slice without stride": (sliced([0, 0, 0], [0, 0, 0]), "slice beyond its array"),
    "slice of one dimension": (sliced([0], [1]), "for each dimension"),
    "negative padding": (after("Pad", [[0], [-1], [1]], ["logits", "five"]), "a negative width"),
    "a terabyte": (after("Broadcast", [[10**6, 10**6]], ["five"], [10**6, 10**6], "I32"), "too large"),
    "overflowing sizes": (after("Broadcast", [[2**31 - 1] * 4], ["five"], [2**31 - 1] * 4, "I32"), "too large"),
    "negative size": (after("Broadcast", [[-5]], ["five"], [-5], "I32"), r"of shape '\[-5\]'"),
    "a size that is no number": (after("Exp", shape=[B, T, "V"]), "call 2 has an array of shape"),
    "nothing": (after("Broadcast", [[0]], ["five"], [0], "I32"), "holds nothing"),
    "dimensions": (after("Broadcast", [[1]], ["five"], [1] * 17, "I32"), r"of shape '\[1, 1"),
    "another variant": (after("Reduce", [9, [0]]), "has no variant 9"),
    "negative variant": (after("Log", [-1]), "has no variant -1"),
    "truth 7": (after("Sqrt", [7]), "arguments of other kinds"),
    "a fraction for an axis": (after("Sort", [1.5]), "arguments of other kinds"),
    "truth for an axis": (after("Sort", [True]), "arguments of other kinds"),
    "a number beyond 32 bits": (after("Sort", [2**31]), "arguments of other kinds"),
    "a text for a list": (after("Squeeze", ["2"]), "arguments of other kinds"),
    "many numbers": (after("Transpose", [[0] * 4097]), "arguments of other kinds"),
    "too few arguments": (after("Reduce", [2]), "arguments of other kinds"),
    "too many arguments": (after("Exp", [2]), "arguments of other kinds"),
    "no type": (after("AsType", ["F8"]), "arguments of other kinds"),
    "type F64": (after("Exp", code="F64"), "a type .'F64'. that the graph cannot hold"),
    "truth 77": (after("View", ["BOOL"], shape=[B, T, 4 * V], code="BOOL"), "neither 0 nor 1"),
    "arange of NaN": (after("Arange", [0.0, float("nan"), 1.0], [], [4], "I32"), "no numbers"),
    "endless arange": (after("Arange", [0.0, 1e18, 1.0], [], [4], "I32"), "failed|the file says"),
    "still arange": (after("Arange", [0.0, 4.0, 0.0], [], [4], "I32"), "failed|the file says"),
    "convolution without stride": (convolved(stride=0), "too small"),
    "no groups": (convolved(groups=0), "too small"),
    "huge dilation": (convolved(dilation=2**31 - 1), "too large"),
    "matrices that do not fit": (after("Matmul", [], ["logits", "table"], [B, T, 7]), "where the file says"),
    "split beyond": (
        call("Split", [[40], 2], ["logits"], ["x", *LOGITS], ["y", *LOGITS]), "into parts"
    ),
    "sum over axis 9": (after("Reduce", [2, [9]]), "failed"),
    "FFT over axis 9": (after("FFT", [[9], False, False, False], code="C64"), "no axes of its"),
    "FFT over an axis twice": (after("FFT", [[2, -1], False, False, False], code="C64"), "no axes of its"),
    "no call": (None, "call 2 failed"),
    "an empty call": ({}, "call 2 failed"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_call_is_one_sentence(name, tmp_path):
    entry, says = HOSTILE[name]
    forge(tmp_path / "m", [entry])
    refused(tmp_path / "m", says)


CHANGES = {
    "no rows": ({"rows": 0}, "has not the rows"),
    "half a row": ({"rows": 0.5}, "has not the rows"),
    "many rows": ({"rows": 2**20}, "fewer rows"),
    "more rows": ({"rows": B + 1}, "failed|where the file says"),
    "calls of nothing": ({"text": json.dumps({"rows": B, "output": "tokens", "calls": 7})}, "has not the rows"),
    "output nowhere": ({"output": "z"}, "a value that the graph does not hold"),
    "output a list": ({"output": []}, "has not the rows"),
    "output the tokens": ({"output": "tokens"}, "logits are int32"),
    "output the table": ({"output": "table"}, "logits are float32"),
    "graph no JSON": ({"text": "{"}, "no JSON"),
    "graph a list": ({"text": "[]"}, "the graph failed"),
    "graph a number": ({"text": 7}, "the graph failed"),
    "about no JSON": ({"about": "{"}, "no JSON"),
    "about deep": ({"about": "[" * 100_000}, "no JSON"),
    "about a list": ({"about": "[]"}, "no object"),
    "about empty": ({"about": "{}"}, "lacks tokenizer_sha256"),
    "about no tokens": ({"about": {**ABOUT, "sequence_length": 0}}, "sequence_length 0, which is no count"),
    "about another length": ({"about": {**ABOUT, "sequence_length": T + 1}}, "failed|where the file says"),
    "about another vocabulary": ({"about": {**ABOUT, "vocab_size": V - 1}}, "logits are"),
    "about more tokens": ({"about": {**ABOUT, "vocab_size": V + 1}}, "looks up one of 32"),
    "header empty": ({"header": {}}, "the header failed"),
    "header a list": ({"header": []}, "the header failed"),
    "header without graph": ({"header": {"__metadata__": {"about": "{}"}}}, "the header failed"),
    "bytes behind": ({"content": CONTENT + b"\0"}, "leaves out 1 bytes"),
    "bytes missing": ({"content": CONTENT[:-1]}, "where its bytes are not"),
    "constants without bytes": ({"content": b""}, "where its bytes are not"),
    "constants without places": ({"places": {}}, r"leaves out 4,100 bytes"),
    "constants of one place": (
        {"places": {**PLACES, "again": PLACES["table"]}}, r"has float32 \[32, 32\] where its bytes are not"
    ),
    "constant twice as large": (
        {"places": {**PLACES, "five": place("I64", [], 4 * V * V, len(CONTENT))}}, "where its bytes are not"
    ),
    "constant at a half": ({"places": {"table": place("F32", [V, V], 0.5, 4 * V * V)}}, "where its bytes are not"),
    "constant of no type": ({"places": {"table": place("F64", [V, V], 0, 8 * V * V)}}, "a type .'F64'."),
    "constant of the tokens": ({"places": {"tokens": PLACES["table"], "five": PLACES["five"]}}, "'tokens', which"),
    "constant without shape": ({"places": {"table": {"dtype": "F32", "data_offsets": [0, 4]}}}, "failed: 'shape'"),
    "constant a number": ({"places": {"table": 7}}, "the list of constants failed"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_hostile_head_is_one_sentence(name, tmp_path):
    change, says = CHANGES[name]
    forge(tmp_path / "m", **change)
    refused(tmp_path / "m", says)


def test_truth_values_of_any_byte_are_0_or_1(tmp_path):
    """A kernel may look up by a bool, or sum it: 77 must not be one."""
    calls = [after("AsType", ["F32"], ["truth"], [V]), call("Add", [], ["logits", "x"], ["y", *LOGITS])]
    places = {**PLACES, "truth": place("BOOL", [V], len(CONTENT), len(CONTENT) + V)}
    forge(tmp_path / "m", calls, CONTENT + bytes(range(V)), places, output="y")
    found = np.array(graph.load(tmp_path / "m")(TOKENS))
    np.testing.assert_array_equal(found, np.broadcast_to(np.arange(V) > 0, (B, T, V)))


def test_too_long_a_list_of_calls_is_refused(tmp_path, monkeypatch):
    forge(tmp_path / "m", [after("Exp", value=f"x{i}") for i in range(50)])
    monkeypatch.setattr(graph, "MAX_GRAPH_BYTES", 4000)
    refused(tmp_path / "m", "the graph has more than 4,000 bytes as JSON")
    with pytest.raises(GraphError, match="the graph has more than 4,000 bytes as JSON"):
        graph.check(body(lambda x, tokens: sum([x] * 50)), B, T, V)
    monkeypatch.setattr(graph, "MAX_GRAPH_BYTES", 100)
    refused(tmp_path / "m", r"the header of m has [\d,]+ bytes, too many")


def test_what_is_no_such_file(tmp_path):
    forge(tmp_path / "good")
    content = (tmp_path / "good").read_bytes()
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("val_bpb: 0.5\n")
    (tmp_path / "zeros").write_bytes(bytes(1000))
    (tmp_path / "longer").write_bytes(content + b"\0")
    with open(tmp_path / "too large", "wb") as file:  # a file of holes
        file.truncate(graph.MAX_FILE_BYTES + 1)
    for name in (*sorted(set(os.listdir(tmp_path)) - {"good"}), "missing", "nul\0byte"):
        with pytest.raises(GraphError) as error:
            graph.load(tmp_path / name)
        assert "\n" not in str(error.value)
        assert name == "nul\0byte" or name in str(error.value)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    forge(tmp_path / "m")
    content = (tmp_path / "m").read_bytes()
    for end in (*range(40), *range(40, len(content), 101), len(content) - 1):
        (tmp_path / "m").write_bytes(content[:end])
        refused(tmp_path / "m", "truncated")
        (tmp_path / "m").write_bytes(hashed(content[:end]))  # and with a hash that fits
        refused(tmp_path / "m", "header|no JSON|bytes")


def test_what_mlx_exports_by_itself_is_refused(tmp_path):
    """Its calls are not those that were looked at, whatever a later MLX writes there."""
    mx.export_function(str(tmp_path / "m"), body(lambda x, tokens: x), mx.array(TOKENS))
    (tmp_path / "m").write_bytes(hashed((tmp_path / "m").read_bytes()))
    refused(tmp_path / "m", "the header .*too many|no JSON")


def test_threads_with_streams_of_their_own_share_a_graph(tmp_path):
    graph.save(body(lambda x, tokens: attention(x)), tmp_path / "m", B, T, ABOUT)
    loaded = graph.load(tmp_path / "m")
    stream = mx.new_thread_local_stream(mx.cpu)
    found = []

    def work():
        with mx.stream(stream):
            found.append(np.array(loaded(TOKENS)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for logits in found:
        np.testing.assert_array_equal(logits, np.array(loaded(TOKENS)))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Header and constants of a graph of each kind."""
    path = tmp_path_factory.mktemp("sources") / "m"
    found = []
    for between in BETWEEN:
        graph.save(body(between), path, B, T, ABOUT)
        content = path.read_bytes()[: -graph.HASH_BYTES]
        end = 8 + int.from_bytes(content[:8], "little")
        found.append((content[8:end], content[end:]))
    return found


def settle(tmp_path, header: bytes, content: bytes) -> None:
    """That header and those constants, with their hash, are a graph that can be run, or refused."""
    (tmp_path / "m").write_bytes(hashed(len(header).to_bytes(8, "little") + header + content))
    try:
        with pytest.MonkeyPatch.context() as small:
            small.setattr(graph, "MAX_LIVING_BYTES", 2**26)
            logits = graph.load(tmp_path / "m")(TOKENS)
    except GraphError as error:
        assert "\n" not in str(error)
        return
    assert logits.shape == (B, T, V)


FUZZ = settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_any_bytes_with_their_hash_are_a_graph_or_refused(sources, tmp_path, data):
    """The process goes on, whatever the file says."""
    header, content = data.draw(st.sampled_from(range(len(BETWEEN))).map(sources.__getitem__))
    changed = bytearray(header)
    for at in data.draw(st.lists(st.integers(0, len(header) - 1), min_size=1, max_size=3)):
        changed[at] = data.draw(st.sampled_from(b'0123456789-.,:"[]{}eFIU\\ \xff\0'))
    settle(tmp_path, bytes(changed), content)


@pytest.mark.slow
@FUZZ
@given(data=st.data())
def test_any_numbers_and_names_in_the_calls_are_a_graph_or_refused(sources, tmp_path, data):
    """Valid JSON with other values in it, which gets further than other bytes."""
    header, content = data.draw(st.sampled_from(range(len(BETWEEN))).map(sources.__getitem__))
    header = json.loads(header)
    made = json.loads(header["__metadata__"]["graph"])
    for _ in range(data.draw(st.integers(1, 3))):
        at = made["calls"][data.draw(st.integers(0, len(made["calls"]) - 1))]
        while at:  # down to a value
            keys = list(at) if isinstance(at, dict) else range(len(at))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(at[key], dict | list) or not at[key]:
                names = [call["outputs"][0][0] for call in made["calls"]] if isinstance(at[key], str) else []
                numbers = [0, 1, 2, 3, -1, 7, 2**31 - 1, -(2**31), 0.5, True, None]
                at[key] = data.draw(st.sampled_from([*numbers, "U8", "I32", *graph.OPERATORS, *names]))
                break
            at = at[key]
    header["__metadata__"]["graph"] = json.dumps(made)
    settle(tmp_path, json.dumps(header).encode(), content)
