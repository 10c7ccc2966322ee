"""graph.py: what goes in comes out, and a file from a stranger is data or an error.

pytest examples/llm_pretrain_cuda/tests/test_llm_graph.py
"""

from __future__ import annotations

import copy
import json
import os
import re
import struct
import weakref

import pytest
import torch
from cuda_modules import load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import library, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

graph = load("graph")
GraphError = graph.GraphError

B, T, V, D = 3, 16, 32, 24
ABOUT = {"tokenizer_sha256": "0" * 64, "data": "stories", "vocab_size": V, "sequence_length": T}


pytestmark = pytest.mark.usefixtures("one_thread")


def some_tokens() -> torch.Tensor:
    return torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))


class Body(nn.Module):
    """Embedding, something in between, head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(V, D), nn.Linear(D, V, bias=False)

    def between(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return x

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.between(self.embedding(tokens), tokens))


class Transformer(Body):
    """What the trainer is made of: rotary embeddings, grouped heads, squared ReLU, soft cap, bfloat16, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.up = nn.Linear(D, D + 24, bias=False), nn.Linear(D, 4 * D)
        self.down, self.norm = nn.Linear(4 * D, D), nn.LayerNorm(D)
        self.head.weight = self.embedding.weight
        angle = torch.arange(T)[:, None] * 100.0 ** -torch.linspace(0, 1, 3)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self.register_buffer("never_used", torch.ones(1000))
        self.scale = nn.Parameter(torch.tensor(1.5))

    def rotated(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a * self.cos + b * self.sin, b * self.cos - a * self.sin], -1)

    def between(self, x, tokens):
        h = F.rms_norm(x, (D,))
        q, k, v = self.qkv(h).split([D, 12, 12], -1)
        q, k, v = (part.view(B, T, -1, 6).transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(self.rotated(q), self.rotated(k), v, is_causal=True, enable_gqa=True)
        x = x + self.scale * y.transpose(1, 2).reshape(B, T, D)
        x = x + self.down(F.relu(self.up(self.norm(x))).square())
        return x.to(torch.bfloat16).float()

    def forward(self, tokens):
        return 15 * torch.tanh(super().forward(tokens) / 15)


class InPlace(Body):
    def between(self, x, tokens):
        shifted = torch.zeros_like(x)
        shifted[:, 1:] = x[:, :-1]
        shifted += 1
        return x.relu().mul_(shifted) * torch.tensor(2.0)


class Windows(Body):
    def between(self, x, tokens):
        i = torch.arange(T, device=x.device)
        seen = (i[:, None] >= i) & (i[:, None] - i <= 4)
        weights = (x @ x.mT).masked_fill(~seen, float("-inf")).softmax(-1)
        return torch.einsum("bts,bsd->btd", weights, x)


class Mixture(Body):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(D, 4)
        self.experts = nn.Parameter(torch.randn(4, D, D) / D)

    def between(self, x, tokens):
        weight, chosen = self.router(x).topk(2, -1)
        outputs = torch.einsum("btd,edf->btef", x, self.experts)
        picked = outputs.gather(2, chosen[..., None].expand(-1, -1, -1, D))
        return x + (F.softmax(weight, -1)[..., None] * picked).sum(2)


class Bigrams(Body):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(97, D)

    def between(self, x, tokens):
        before = F.pad(tokens, (1, 0))[:, :-1]
        return x + self.table((36313 * tokens ^ 27191 * before) % 97) * torch.where(tokens > 3, 1.0, 0.5)[..., None]


class Smear(Body):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(D, D, 4, groups=D)

    def between(self, x, tokens):
        return x + F.silu(self.conv(F.pad(x.mT, (3, 0)))).mT


class Fourier(Body):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(T, D) / T)

    def between(self, x, tokens):
        spectrum = torch.fft.rfft(x, 2 * T, dim=1) * torch.fft.rfft(self.kernel, 2 * T, dim=0)
        return torch.fft.irfft(spectrum, 2 * T, dim=1)[:, :T]


class ComplexRotary(Body):
    def between(self, x, tokens):
        angle = torch.arange(T)[:, None] * torch.linspace(0.1, 1, D // 2)
        turn = torch.polar(torch.ones_like(angle), angle)
        return torch.view_as_real(torch.view_as_complex(x.view(B, T, -1, 2)) * turn).flatten(-2)


class Grab(Body):
    """Scans, sorting, scattering and a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = torch.randn(D)

    def between(self, x, tokens):
        x = x.cumsum(1) / torch.arange(1, T + 1)[:, None] + self.plain
        x = x + x.sort(-1).values.std(-1, keepdim=True) + x.logsumexp(-1, keepdim=True).nan_to_num(0, 1, -1)
        x = x.scatter_add(-1, x.argsort(-1)[..., :2], x[..., :2].clamp(-1, 1))
        x = torch.lerp(x, x.roll(1, 1), 0.1).index_select(-1, torch.arange(D).flip(0))
        return x + F.one_hot(tokens % D, D) + x.var(-1, keepdim=True)


class Grad(Body):
    def between(self, x, tokens):
        with torch.no_grad():
            x = x * 2
        with torch.autocast("cpu", enabled=False):
            return F.dropout(x, 0.5, self.training)


MODELS = [
    Body, Transformer, InPlace, Windows, Mixture, Bigrams, Smear, Fourier, ComplexRotary, Grab, Grad,
]  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_comes_back_as_it_was(kind, tmp_path):
    model = kind().eval()
    traced = graph.trace(model, B, T)
    graph.save(traced, tmp_path / "model.safetensors", ABOUT | {"seed": 3})
    loaded = graph.load(tmp_path / "model.safetensors")
    assert (loaded.batch_rows, loaded.sequence_length, loaded.vocab_size) == (B, T, V)
    assert loaded.about == ABOUT | {"seed": 3}
    tokens = some_tokens()
    expected = model(tokens).detach()
    for run in (traced, loaded, loaded.to("cpu")):
        torch.testing.assert_close(run(tokens), expected, rtol=0, atol=0)
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_tied_weights_are_kept_once_and_unused_ones_not_at_all(tmp_path):
    graph.save(graph.trace(Transformer(), B, T), tmp_path / "model.safetensors", ABOUT)
    weights = load_file(tmp_path / "model.safetensors")
    assert [tuple(w.shape) for w in weights.values()].count((V, D)) == 1
    assert not any("never_used" in name for name in weights)
    assert {"cos", "sin"} <= weights.keys()


def test_two_parameters_with_one_storage_are_kept_once(tmp_path):
    model = Body()
    model.head.weight = nn.Parameter(model.embedding.weight.data)
    graph.save(graph.trace(model, B, T), tmp_path / "m", ABOUT)
    assert len(load_file(tmp_path / "m")) == 1
    torch.testing.assert_close(graph.load(tmp_path / "m")(some_tokens()), model(some_tokens()).detach())


def test_stacked_parameters_that_share_storage_are_kept(tmp_path):
    class Stacked(Body):
        def __init__(self) -> None:
            super().__init__()
            self.both = nn.Parameter(torch.randn(2, D, D))
            self.first, self.second = nn.Parameter(self.both.data[0]), nn.Parameter(self.both.data[1].T)

        def between(self, x, tokens):
            return x @ self.first @ self.second

    model = Stacked()
    graph.save(graph.trace(model, B, T), tmp_path / "m", ABOUT)
    torch.testing.assert_close(graph.load(tmp_path / "m")(some_tokens()), model(some_tokens()).detach())


def test_tracing_is_in_evaluation_mode_and_leaves_the_model_in_its_own():
    model = Grad().train()
    traced = graph.trace(model, B, T)
    assert model.training
    torch.testing.assert_close(traced(some_tokens()), copy.deepcopy(model).eval()(some_tokens()).detach())


# ---- what cannot be exported -----------------------------------------------------------------------------------------


class Random(Body):
    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(x + torch.rand_like(x))  # this line


class Counter(Body):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def between(self, x, tokens):
        self.calls += 1
        return x * self.calls


class Autocast(Body):
    def between(self, x, tokens):
        with torch.autocast("cpu", torch.bfloat16):
            return x @ x.mT @ x


class AutocastInPlace(Body):
    def between(self, x, tokens):
        with torch.autocast("cpu", torch.bfloat16):
            return (x @ x.mT @ x).add_(1)


class Branch(Body):
    def between(self, x, tokens):
        return x * 2 if x.sum() > 0 else x


class Strided(Body):
    def between(self, x, tokens):
        return x.as_strided((B, T, D), (0, D, 1))


class Uninitialised(Body):
    def between(self, x, tokens):
        return x + torch.empty_like(x)


class Two(Body):
    def forward(self, tokens):
        return super().forward(tokens), tokens


class Integers(Body):
    def forward(self, tokens):
        return super().forward(tokens).long()


class Flat(Body):
    def forward(self, tokens):
        return super().forward(tokens).flatten(0, 1)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Random, r"aten\.rand_like\.default \(test_llm_graph\.py:\d+\); graph\.py lists the allowed ones in OPERATORS"),
        (Counter, "changes calls"),
        (Autocast, r"torch\.autocast.*cast by hand"),
        (AutocastInPlace, r"torch\.autocast.*cast by hand"),
        (Branch, "torch.export cannot trace the model: .*data-dependent"),
        (Strided, r"aten\.as_strided\.default"),
        (Uninitialised, r"aten\.empty_like\.default"),
        (Two, "must return logits and nothing else"),
        (Integers, "int64 .*not floating point"),
        (Flat, r"logits are float32 \[48, 32\]"),
    ],
)
def test_what_evaluation_would_refuse_is_named_when_tracing(kind, says):
    with pytest.raises(GraphError, match=says) as error:
        graph.trace(kind(), B, T)
    assert "\n" not in str(error.value)


def test_the_line_named_is_the_line_of_the_model():
    with pytest.raises(GraphError) as error:
        graph.trace(Random(), B, T)
    line = int(str(error.value).split("test_llm_graph.py:")[1].split(")")[0])
    with open(__file__) as file:
        assert "# this line" in file.readlines()[line - 1]


def test_an_operator_of_the_user_is_refused():
    @library.custom_op("test_llm_graph::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    twice.register_fake(torch.empty_like)

    class Custom(Body):
        def between(self, x, tokens):
            return twice(x)

    with pytest.raises(GraphError, match=r"test_llm_graph\.twice\.default"):
        graph.trace(Custom(), B, T)


def test_another_default_type_is_refused():
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(GraphError, match="not float32"):
            graph.trace(Body(), B, T)
    finally:
        torch.set_default_dtype(torch.float32)


# ---- the list of operators -------------------------------------------------------------------------------------------


def test_every_allowed_operator_is_a_function_of_tensors():
    plain = {"Tensor", "int", "float", "bool", "number", "str"}
    for name, operation in graph.ALLOWED.items():
        schema = operation._schema
        assert not schema.is_mutable, name
        assert not any(
            argument.is_out or (argument.alias_info and argument.alias_info.is_write) for argument in schema.arguments
        )
        if name != "aten.scaled_dot_product_attention.default":  # its dropout must be 0, see below
            assert torch.Tag.nondeterministic_seeded not in operation.tags, name
        assert all("Tensor" in str(result.type) for result in schema.returns), name
        for argument in schema.arguments:
            kind = str(argument.type)
            while kind.startswith(("Optional[", "List[")):
                kind = kind.split("[", 1)[1][:-1]
            # Nothing but placement takes a device, and that is the reader's to say.
            assert kind in plain or (kind == "Device" and argument.kwarg_only and argument.name in graph.PLACEMENT), (
                name
            )


FORBIDDEN = """
    from_file empty empty_like new_empty resize set as_strided bernoulli rand randn randint multinomial dropout normal
    native_dropout rrelu batch_norm native_batch_norm instance_norm item _local_scalar_dense nonzero masked_select
    record_stream _print save data storage pin_memory uniform exponential randperm"""


@pytest.mark.parametrize("word", FORBIDDEN.split())
def test_no_overload_of_these_is_allowed(word):
    assert not [name for name in graph.ALLOWED if name.split(".")[1] in (word, word + "_")]


# ---- writing ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The bytes of a small file, its document and its weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("graph") / "model.safetensors"
    graph.save(graph.trace(Mixture(), B, T), path, ABOUT)
    with safe_open(path, framework="pt") as file:
        document = json.loads(file.metadata()["graph"])
    return path.read_bytes(), document, load_file(path)


@pytest.mark.parametrize(
    "about",
    [
        {},
        {**ABOUT, "vocab_size": V + 1},
        {**ABOUT, "sequence_length": True},
        {**ABOUT, "tokenizer_sha256": None},
        {**ABOUT, "extra": float("nan")},
        {**ABOUT, "extra": object()},
        {**ABOUT, "extra": "x" * 200_000},
    ],
)
def test_an_about_that_would_be_refused_later_is_refused_now(about, tmp_path):
    target = tmp_path / "model.safetensors"
    target.write_text("as it was")
    with pytest.raises(GraphError, match="`about`"):
        graph.save(graph.trace(Body(), B, T), target, about)
    assert target.read_text() == "as it was"
    assert len(os.listdir(tmp_path)) == 1


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(GraphError, match=r"cannot write .*missing/model"):
        graph.save(graph.trace(Body(), B, T), tmp_path / "missing" / "model.safetensors", ABOUT)


def test_a_target_that_cannot_be_replaced_leaves_nothing_behind(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(GraphError, match="cannot write"):
        graph.save(graph.trace(Body(), B, T), tmp_path / "model.safetensors", ABOUT)
    assert os.listdir(tmp_path) == ["model.safetensors"]


# ---- running ---------------------------------------------------------------------------------------------------------


def test_other_tokens_are_refused():
    traced = graph.trace(Body(), B, T)
    for tokens in (some_tokens()[:1], some_tokens().int(), some_tokens()[:, :-1], some_tokens().float()):
        with pytest.raises(GraphError, match=r"tokens are .*, the graph takes int64"):
            traced(tokens)


def test_an_index_out_of_range_is_a_graph_error():
    with pytest.raises(GraphError, match=r"call 0 \(aten\.embedding\.default\) failed"):
        graph.trace(Body(), B, T)(some_tokens() + V)


class Watch(TorchDispatchMode):
    """Counts the living results of calls, and the bytes of storage behind the tokens of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.living, self.most, self.storages = [], 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.embedding.default:
            self.storages.append(args[1].untyped_storage().nbytes())
        result = function(*args, **(kwargs or {}))
        self.living = [reference for reference in self.living if reference() is not None]
        if isinstance(result, torch.Tensor):
            self.living.append(weakref.ref(result))
        self.most = max(self.most, len(self.living))
        return result


def test_results_are_freed_after_their_last_use():
    class Deep(Body):
        def between(self, x, tokens):
            for _ in range(60):
                x = x + 1
            return x

    traced = graph.trace(Deep(), B, T)
    with Watch() as watch:
        traced(some_tokens())
    assert 1 < watch.most < 8


def test_the_graph_never_gets_storage_that_holds_the_targets():
    rows = torch.randint(0, V, (B, T + 1))
    traced = graph.trace(Body(), B, T)
    with Watch() as watch:
        traced(rows[:, :-1])
    assert watch.storages == [B * T * 8]


# ---- files from strangers --------------------------------------------------------------------------------------------


def forge(path, document, weights, text=None) -> None:
    """A file as a hostile train.py would write it: whatever graph it likes, and the hash that belongs to it."""
    text = json.dumps(document) if text is None else text
    save_file(weights, path, {"graph": text, "sha256": graph._digest(text, weights)})


def test_a_forged_file_with_the_same_content_is_read(saved, tmp_path):
    forge(tmp_path / "m", saved[1], saved[2])
    assert graph.load(tmp_path / "m")(some_tokens()).shape == (B, T, V)


CALL = {"node": 0}
HOSTILE = {
    "reads a file": (["aten.from_file.default", ["/etc/passwd", False, 10], {}], "does not run"),
    "uninitialised": (["aten.empty.memory_format", [[B, T, V]], {}], "does not run"),
    "new_empty": (["aten.new_empty.default", [CALL, [B, T, V]], {}], "does not run"),
    "random": (["aten.bernoulli.default", [CALL], {}], "does not run"),
    "in place": (["aten.add_.Tensor", [CALL, CALL], {}], "does not run"),
    "beyond a tensor": (["aten.as_strided.default", [CALL, [B, T, V], [0, 0, 0]], {}], "does not run"),
    "custom": (["mylib.steal.default", [CALL], {}], "does not run"),
    "prims": (["prims.device_put.default", [CALL, "cpu"], {}], "does not run"),
    "python": (["os.system", ["true"], {}], "does not run"),
    "dunder": (["aten.__class__", [], {}], "does not run"),
    "not a string": ([["aten.relu.default"], [CALL], {}], "does not run"),
    "out": (["aten.add.out", [CALL, CALL], {"out": CALL}], "does not run"),
    "device": (["aten.zeros.default", [[B, T, V]], {"device": "meta"}], "takes no argument 'device'"),
    "device 2": (["aten.full_like.default", [CALL, 1], {"device": "cuda"}], "takes no argument 'device'"),
    "pinned": (["aten.zeros.default", [[B, T, V]], {"pin_memory": True}], "takes no argument 'pin_memory'"),
    "forward reference": (["aten.relu.default", [{"node": 99}], {}], "does not come before it"),
    "itself": (["aten.relu.default", [{"node": 1}], {}], "does not come before it"),
    "negative": (["aten.relu.default", [{"node": -1}], {}], "does not come before it"),
    "boolean reference": (["aten.relu.default", [{"node": False}], {}], "cannot be read"),
    "item of a tensor": (["aten.relu.default", [{"node": 0, "item": 0}], {}], "used as what it does not return"),
    "negative item": (["aten.relu.default", [{"node": 0, "item": -1}], {}], "cannot be read"),
    "item of a weight": (["aten.relu.default", [{"weight": "head.weight", "item": 0}], {}], "cannot be read"),
    "unknown weight": (["aten.relu.default", [{"weight": "nowhere"}], {}], "which the file does not hold"),
    "unknown input": (["aten.relu.default", [{"input": "targets"}], {}], "cannot be read"),
    "unknown word": (["aten.relu.default", [{"pickle": "x"}], {}], "cannot be read"),
    "empty object": (["aten.relu.default", [{}], {}], "cannot be read"),
    "two words": (["aten.relu.default", [{"node": 0, "weight": "head.weight"}], {}], "cannot be read"),
    "too few": (["aten.add.Tensor", [CALL], {}], "lacks the argument 'other'"),
    "too many": (["aten.relu.default", [CALL, CALL], {}], "has 2 arguments, more than 1"),
    "twice": (["aten.add.Tensor", [CALL, CALL], {"other": CALL}], "takes no argument 'other'"),
    "unknown name": (["aten.relu.default", [CALL], {"inplace": True}], "takes no argument 'inplace'"),
    "not a tensor": (["aten.relu.default", ["x"], {}], "has no Tensor as 'self'"),
    "list for tensor": (["aten.relu.default", [[CALL]], {}], "has no Tensor as 'self'"),
    "unknown dtype": (["aten.to.dtype", [CALL, {"dtype": "object"}], {}], "cannot be read"),
    "quantised dtype": (["aten.to.dtype", [CALL, {"dtype": "qint8"}], {}], "cannot be read"),
    "unknown number": (["aten.mul.Tensor", [CALL, {"number": "1e400"}], {}], "cannot be read"),
    "huge number": (["aten.mul.Tensor", [CALL, 2**70], {}], "too large"),
    "long text": (["aten.einsum.default", ["a" * 5000, [CALL]], {}], "too long"),
    "deep list": (["aten.stack.default", [[[[[[[[[[[CALL]]]]]]]]]]], {}], "nested too deeply"),
    "a terabyte": (["aten.zeros.default", [[10**6, 10**6]], {}], "more memory than there is"),
    "overflowing size": (["aten.zeros.default", [[2**62, 2**62]], {}], "too large"),
    "before a tensor": (["aten.max_pool1d.default", [CALL, [2], [1], [1], [2**63 - 4]], {}], "too large"),
    "negative size": (["aten.zeros.default", [[-5]], {}], "failed"),
    "terabyte by repeat": (["aten.repeat.default", [CALL, [10**9, 1, 1]], {}], "more memory than there is"),
    "matrix of wrong shape": (["aten.mm.default", [CALL, CALL], {}], "failed"),
    "a number as dtype": (["aten.to.dtype", [CALL, -1], {}], "has no ScalarType as 'dtype'"),
    "a number as dtype by name": (["aten.sum.default", [CALL], {"dtype": 6}], "has no Optional[ScalarType] as 'dtype'"),
    "a number as memory format": (["aten.contiguous.default", [CALL], {"memory_format": 99}], "has no MemoryFormat as"),
    "text in a list": (["aten.permute.default", [CALL, [0, "1", 2]], {}], "has no List[int] as 'dims'"),
    "truth as size": (["aten.unsqueeze.default", [CALL, True], {}], "has no int as 'dim'"),
    "dropout": (["aten.scaled_dot_product_attention.default", [CALL] * 3 + [None, 0.5], {}], "dropout_p must"),
    "dropout by name": (["aten.scaled_dot_product_attention.default", [CALL] * 3, {"dropout_p": 1e-9}], "dropout_p"),
    "dropout by list": (["aten.scaled_dot_product_attention.default", [CALL] * 3, {"dropout_p": [0.0]}], "dropout_p"),
    "values decide": (["aten.where.default", [CALL], {}], "does not run"),
    "no list": ({"target": "aten.relu.default"}, "is not [operator"),
    "short": (["aten.relu.default", [CALL]], "is not [operator"),
    "names as list": (["aten.relu.default", [CALL], []], "is not [operator"),
    "null": (None, "is not [operator"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_call_is_one_sentence(case, saved, tmp_path):
    _, document, weights = saved
    first = ["aten.embedding.default", [{"weight": "head.weight"}, {"input": "tokens"}], {}]
    document = {**document, "nodes": [first, HOSTILE[case][0]], "output": {"node": 1}}
    forge(tmp_path / "m", document, weights)
    with pytest.raises(GraphError, match=re.escape(HOSTILE[case][1])) as error:
        graph.load(tmp_path / "m")
    assert "\n" not in str(error.value)


CHANGES = {
    "another format": {"format": "pickle"},
    "no rows": {"batch_rows": 0},
    "rows as text": {"batch_rows": "3"},
    "rows as truth": {"batch_rows": True},
    "huge rows": {"batch_rows": 2**60},
    "another length": {"sequence_length": T + 1},
    "an extra key": {"code": "import os"},
    "nodes as object": {"nodes": {}},
    "no nodes": {"nodes": []},
    "too many nodes": {"nodes": [None] * 100_001},
    "output a number": {"output": 3},
    "output nothing": {"output": None},
    "output later": {"output": {"node": 10_000}},
    "output the tokens": {"output": {"input": "tokens"}},
    "output a weight": {"output": {"weight": "head.weight"}},
    "output an item": {"output": {"node": 0, "item": 0}},
    "about a list": {"about": []},
    "about empty": {"about": {}},
    "about another vocabulary": {"about": {**ABOUT, "vocab_size": V + 1}},
    "about a number as text": {"about": {**ABOUT, "vocab_size": str(V)}},
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_hostile_document_is_one_sentence(case, saved, tmp_path):
    forge(tmp_path / "m", {**saved[1], **CHANGES[case]}, saved[2])
    with pytest.raises(GraphError) as error:
        graph.load(tmp_path / "m")
    assert "\n" not in str(error.value)


def test_a_shape_that_depends_on_values_is_refused(saved, tmp_path):
    nodes = [
        ["aten.eq.Scalar", [{"input": "tokens"}, 3], {}],
        ["aten.index.Tensor", [{"input": "tokens"}, [{"node": 0}]], {}],
    ]
    forge(tmp_path / "m", {**saved[1], "nodes": nodes, "output": {"node": 1}}, saved[2])
    with pytest.raises(GraphError, match=r"call 1 \(aten.index.Tensor\) failed"):
        graph.load(tmp_path / "m")


def test_fewer_values_than_keys_are_refused(saved, tmp_path):
    """The kernel for the CPU reads on behind the last value."""
    nodes = [
        ["aten.embedding.default", [{"weight": "head.weight"}, {"input": "tokens"}], {}],
        ["aten.slice.Tensor", [{"node": 0}, 1, 0, T - 1], {}],
        ["aten.scaled_dot_product_attention.default", [{"node": 0}, {"node": 0}, {"node": 1}], {}],
    ]
    forge(tmp_path / "m", {**saved[1], "nodes": nodes, "output": {"node": 2}}, saved[2])
    with pytest.raises(GraphError, match=f"attention has {T} keys and {T - 1} values"):
        graph.load(tmp_path / "m")


def test_a_terabyte_is_named_as_what_it_is(saved, tmp_path):
    nodes = [["aten.zeros.default", [[10**6, 10**6]], {}]]
    forge(tmp_path / "m", {**saved[1], "nodes": nodes, "output": {"node": 0}}, saved[2])
    with pytest.raises(GraphError, match=r"call 0 .* needs more memory than there is"):
        graph.load(tmp_path / "m")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        '{"a":' * 100_000,
        "{",
        "null",
        "3",
        '"x"',
        '{"format": 1, "format": 2}',
        "[NaN]",
        "[1" + "0" * 10_000 + "]",
        "\\u0000",
        "\ud800".encode("utf-8", "replace").decode(),
    ],
)
def test_strange_json_is_one_sentence(text, saved, tmp_path):
    forge(tmp_path / "m", None, saved[2], text)
    with pytest.raises(GraphError):
        graph.load(tmp_path / "m")


def test_json_as_it_may_not_be_written(saved, tmp_path):
    text = json.dumps(saved[1])
    for old, new in (('"batch_rows"', '"batch_rows": 3, "batch_rows"'), (f'"batch_rows": {B}', '"batch_rows": NaN')):
        assert old in text
        forge(tmp_path / "m", None, saved[2], text.replace(old, new))
        with pytest.raises(GraphError, match="no JSON that can be read"):
            graph.load(tmp_path / "m")


def test_what_is_no_such_file(saved, tmp_path):
    content, _, weights = saved
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("val_bpb: 0.5\n")
    (tmp_path / "long header").write_bytes(struct.pack("<Q", 2**62) + content[8:])
    (tmp_path / "zeros").write_bytes(bytes(1000))
    torch.save(Body(), tmp_path / "pickle")
    save_file(weights, tmp_path / "tensors")
    save_file(weights, tmp_path / "other metadata", {"format": "pt"})
    with open(tmp_path / "too large", "wb") as file:  # a file of holes
        file.truncate(graph.MAX_FILE_BYTES + 1)
    for name in (*sorted(os.listdir(tmp_path)), "missing", "nul\0byte"):
        with pytest.raises(GraphError) as error:
            graph.load(tmp_path / name)
        assert "\n" not in str(error.value)
        assert name == "nul\0byte" or name in str(error.value)


def test_a_truncated_file_is_refused_wherever_it_ends(saved, tmp_path):
    content = saved[0]
    for end in (*range(40), *range(40, len(content), 501), len(content) - 1):
        (tmp_path / "m").write_bytes(content[:end])
        with pytest.raises(GraphError, match="truncated"):
            graph.load(tmp_path / "m")
    (tmp_path / "m").write_bytes(content + b"\0")
    with pytest.raises(GraphError):
        graph.load(tmp_path / "m")


def test_swapped_weights_are_noticed(saved, tmp_path):
    _, document, weights = saved
    swapped = {
        **weights,
        "head.weight": weights["embedding.weight"],
        "embedding.weight": weights["head.weight"].clone(),
    }
    text = json.dumps(document)
    save_file(swapped, tmp_path / "m", {"graph": text, "sha256": graph._digest(text, weights)})
    with pytest.raises(GraphError, match="truncated or altered"):
        graph.load(tmp_path / "m")


def outcome(path):
    """The logits, or None where the file was refused. Any other exception is a failure of the test."""
    try:
        return graph.load(path)(some_tokens())
    except GraphError:
        return None


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_are_refused_or_change_nothing(saved, tmp_path, data):
    content = bytearray(saved[0])
    header = 8 + int.from_bytes(content[:8], "little")
    place = st.one_of(st.integers(0, header - 1), st.integers(0, 7), st.integers(0, len(content) - 1))
    for position in data.draw(st.lists(place, min_size=1, max_size=3)):
        content[position] ^= data.draw(st.integers(1, 255))
    (tmp_path / "m").write_bytes(content)
    found = outcome(tmp_path / "m")
    if found is not None:
        (tmp_path / "good").write_bytes(saved[0])
        torch.testing.assert_close(found, outcome(tmp_path / "good"), rtol=0, atol=0)


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3),
    st.sampled_from([{"node": 0}, {"node": 1}, {"input": "tokens"}, {"dtype": "float16"}, {"dtype": "complex64"},
                     {"number": "nan"}, {"memory_format": "contiguous_format"}, [], [[]], [0, 1], {}, [{"node": 0}]]),
).map(copy.deepcopy)  # fmt: skip


def places(item, path=()):
    """Every path into a JSON document."""
    yield path
    for key in item if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ():
        yield from places(item[key], (*path, key))


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_document_is_a_graph_or_refused(saved, tmp_path, data):
    document = copy.deepcopy(saved[1])
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from([path for path in places(document) if path]))
        inner = document
        for key in way:
            inner = inner[key]
        inner[last] = data.draw(JUNK)
    text = json.dumps(document)
    forge(tmp_path / "m", None, saved[2], text)
    outcome(tmp_path / "m")


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_call_of_an_allowed_operator_is_a_graph_or_refused(saved, tmp_path, data):
    """Strange arguments to each operator: PyTorch may refuse them, and the process goes on."""
    name = data.draw(st.sampled_from(sorted(graph.ALLOWED)))
    arguments = [a for a in graph.ALLOWED[name]._schema.arguments if not a.kwarg_only]
    tensors = st.sampled_from([{"node": 0}, {"node": 1}, {"input": "tokens"}, {"weight": "head.weight"}])
    args = [data.draw(tensors if "Tensor" in str(a.type) and "List" not in str(a.type) else JUNK) for a in arguments]
    first = ["aten.embedding.default", [{"weight": "head.weight"}, {"input": "tokens"}], {}]
    cast = ["aten.to.dtype", [{"node": 0}, {"dtype": "bool"}], {}]
    nodes = [first, cast, [name, args, {}]]
    forge(tmp_path / "m", {**saved[1], "nodes": nodes, "output": {"node": 2}}, saved[2])
    outcome(tmp_path / "m")
