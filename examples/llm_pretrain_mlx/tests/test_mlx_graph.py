"""graph.py: what goes in comes out, and what evaluation would refuse is refused before training.

pytest examples/llm_pretrain_mlx/tests/test_mlx_graph.py
"""

from __future__ import annotations

import json
import math
import os
import random

import numpy as np
import pytest

pytest.importorskip("mlx")  # not mlx.core, which must come after the BLAS that `machine` loads

from mlx_modules import load

graph = load("graph")
GraphError = graph.GraphError
mx = graph.mx
nn = pytest.importorskip("mlx.nn")

B, T, V, D = 3, 16, 32, 24
ABOUT = {"tokenizer_sha256": "0" * 64, "data": "stories", "vocab_size": V, "sequence_length": T}


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


TOKENS = np.random.default_rng(1).integers(0, V, (B, T)).astype(np.int32)
EMBEDDING, HEAD = normal(V, D), normal(D, V, seed=1) / D**0.5
SQUARE, EXPERTS, WEIGHT = normal(D, D, seed=2) / D**0.5, normal(4, D, D, seed=3) / D**0.5, normal(D, seed=4)
KERNEL = normal(D, 4, 1, seed=5)
HALF = normal(D, D, seed=6).astype(mx.bfloat16)


def body(between):
    """Embedding, something in between, head."""
    return lambda tokens: between(EMBEDDING[tokens], tokens) @ HEAD


def heads(x):
    return x.reshape(B, T, 4, -1).swapaxes(1, 2)


def attention(x, mask="causal"):
    q, k, v = (heads(x @ (SQUARE * factor)) for factor in (1, 2, 3))
    q = mx.fast.rope(q, 6, traditional=False, base=1e4, scale=1.0, offset=0)
    y = mx.fast.scaled_dot_product_attention(q, k[:, :2], v[:, :2], scale=0.4, mask=mask)
    return x + y.swapaxes(1, 2).reshape(B, T, D)


def windows(x, tokens):
    at = mx.arange(T)
    return attention(x, (at[:, None] >= at) & (at[:, None] - at <= 4))


def shifted(x, tokens):
    moved = mx.zeros_like(x)
    moved[:, 1:] = x[:, :-1]
    return moved + x


def update(x, tokens):
    """Writing to a slice must not change what was there for others."""
    y = x * 2
    z = y + 0
    z[:, 1:-1:2] = mx.zeros((B, (T - 1) // 2, D))
    return y + z


def mixture(x, tokens):
    weight = mx.softmax(x[..., :4], axis=-1)
    chosen = mx.argpartition(-weight, 1, axis=-1)[..., :2]
    outputs = mx.einsum("btd,edf->btef", x, EXPERTS)
    picked = mx.take_along_axis(outputs, chosen[..., None], axis=2)
    return x + (mx.take_along_axis(weight, chosen, axis=-1)[..., None] * picked).sum(2)


def experts(x, tokens):
    chosen = mx.argmax(x[..., :4], axis=-1)
    return mx.gather_mm(x[..., None, :], EXPERTS, rhs_indices=chosen)[..., 0, :]


def bigrams(x, tokens):
    before = mx.pad(tokens, [(0, 0), (1, 0)])[:, :-1]
    return x + BIGRAMS[((36313 * tokens) ^ (27191 * before)) % 97] * mx.where(tokens > 3, 1.0, 0.5)[..., None]


BIGRAMS = normal(97, D, seed=7)


def bits(x, tokens):
    """exp by the exponent bits, as train.py computes it on the CPU."""
    z = mx.clip(x, -80, 80) * 1.442695
    whole = mx.round(z)
    scale = mx.view(mx.left_shift(whole.astype(mx.int32) + 127, 23), mx.float32)
    low = mx.right_shift(mx.view(x, mx.int32), 8) & 255
    return (z - whole) * scale + low.astype(mx.float32)


def scans(x, tokens):
    x = mx.cumsum(x, axis=1) / mx.arange(1, T + 1)[:, None] + mx.cummax(x, axis=1) + mx.cummin(x, axis=2, reverse=True)
    return x + mx.cumprod(1 + x / 100, axis=1, inclusive=False) + mx.cumsum(x[..., ::-1], axis=-1)


def ordering(x, tokens):
    x = (
        x
        + mx.sort(x, axis=-1)
        + mx.argsort(x, axis=1)
        + mx.partition(x, 3, axis=1)
        + mx.topk(x, 3, axis=-1).sum(-1, True)
    )
    return x + mx.argmin(x, axis=1, keepdims=True) + mx.argmax(x, axis=-1)[..., None]


def shapes(x, tokens):
    a, b, c = mx.split(x, [5, 9], axis=-1)
    x = mx.concatenate([c, a, b], axis=-1)
    x = mx.unflatten(x.flatten(1, 2), -1, (D, T)).transpose(0, 2, 1)
    x = x[:, ::-1] + mx.roll(x, 3, axis=1) + mx.tile(x[:, :4], (1, 4, 1)) + mx.repeat(x[..., ::2], 2, axis=-1)
    x = (
        mx.stack([x, x + 1], axis=2)[:, :, 1]
        + mx.broadcast_to(x[:, 3:4], x.shape)
        + x[:, -2:-1]
        + x[:, 12:3:-4].sum(1, True)
    )
    return (
        mx.pad(x[:, 2:-1], [(0, 0), (1, 2), (0, 0)], constant_values=0.5)
        + mx.tril(mx.ones((T, D)))
        + mx.linspace(0, 1, D)
    )


def indexing(x, tokens):
    x = x + x[:, 5:6] + x[2] + mx.take(x, mx.array([1, 0, 2]), axis=0) + mx.diagonal(x, axis1=1, axis2=2)[:, :1, None]
    at = mx.arange(D)[::-1]
    return (
        mx.take(x, at, axis=2)
        + EMBEDDING[tokens, tokens % D][..., None]
        + mx.take_along_axis(x, tokens[..., None] % D, axis=-1)
    )


def reductions(x, tokens):
    parts = [f(x, axis=-1, keepdims=True) for f in (mx.sum, mx.mean, mx.max, mx.min, mx.var, mx.std, mx.logsumexp)]
    x = sum(parts, x) + mx.prod(1 + x / 100, axis=(0, 2), keepdims=True) + mx.logsumexp(x, axis=1, keepdims=True)
    return x + mx.any(x > 1, axis=-1, keepdims=True) + mx.all(x > -1, axis=1, keepdims=True) + mx.softmax(x, axis=1)


def elementwise(x, tokens):
    small = mx.sigmoid(x)
    for f in (mx.arccos, mx.arcsin, mx.arctanh, mx.erfinv, mx.log, mx.log2, mx.log10, mx.log1p, mx.sqrt, mx.rsqrt):
        x = x + f(small * 0.9 + 0.05)
    for f in (mx.arctan, mx.arcsinh, mx.sin, mx.cos, mx.tan, mx.sinh, mx.cosh, mx.tanh, mx.erf, mx.exp, mx.expm1):
        x = x + f(small)
    for f in (mx.abs, mx.ceil, mx.floor, mx.round, mx.sign, mx.square, mx.negative, mx.reciprocal, mx.nan_to_num):
        x = x + f(small)
    x = (
        x
        + mx.arccosh(1 + small)
        + mx.arctan2(x, small)
        + mx.logaddexp(x, small)
        + mx.power(small, 1.5)
        + x**2 / (1 + x**2)
    )
    q, r = mx.divmod(x, small)
    x = x / (1 + mx.abs(x)) + mx.minimum(q, 3) + r + mx.floor_divide(x, 0.7) + mx.remainder(x, 0.7)
    return mx.where(
        mx.logical_and(x > 0, mx.logical_not(x >= 1)) | (x <= -1) & (x != 0) | (x < -5), x, mx.stop_gradient(x) * 2
    )


def integers(x, tokens):
    t = tokens * 3 - 7
    parts = [t // 5, t % 5, mx.abs(t), mx.maximum(t, 3), mx.minimum(t, 9), t & 6, t | 1, t ^ 5, t << 2, t >> 1, t**2]
    parts += [t.astype(d) for d in (mx.int8, mx.uint8, mx.int16, mx.uint16, mx.uint32, mx.int64, mx.uint64, mx.bool_)]
    return x + sum(part.astype(mx.float32) for part in parts)[..., None]


def activations(x, tokens):
    for f in (nn.gelu, nn.gelu_approx, nn.silu, nn.softplus, nn.mish, nn.leaky_relu, nn.elu, nn.relu6, nn.log_softmax):
        x = f(x) + x / 2
    return mx.concatenate([nn.glu(x), x[..., :12]], axis=-1)


def norms(x, tokens):
    x = mx.fast.rms_norm(x, WEIGHT, 1e-5) + mx.fast.rms_norm(x, None, 1e-5)
    return mx.fast.layer_norm(x, WEIGHT, None, 1e-5) + x / mx.linalg.norm(x, axis=-1, keepdims=True)


def half(x, tokens):
    y = (x.astype(mx.bfloat16) @ HALF).astype(mx.float16)
    return mx.softmax(y, axis=-1, precise=True).astype(mx.float32) + x


def convolution(x, tokens):
    return nn.silu(mx.conv1d(mx.pad(x, [(0, 0), (3, 0), (0, 0)]), KERNEL, groups=D))


def convolutions(x, tokens):
    wide = mx.conv1d(x, EXPERTS.swapaxes(0, 1), padding=3, dilation=2)
    square = mx.conv2d(x[..., None], WEIGHT.reshape(4, 2, 3, 1), padding=(1, 2)).sum(-1)
    return mx.conv_transpose1d(wide, EXPERTS.swapaxes(0, 1), padding=1)[:, :T] + square[:, :T, :D]


def fourier(x, tokens):
    spectrum = mx.fft.rfft(x, 2 * T, axis=1) * mx.fft.rfft(SQUARE[:T], 2 * T, axis=0)
    return mx.fft.irfft(spectrum, 2 * T, axis=1)[:, :T]


def transforms(x, tokens):
    z = mx.fft.ifft(mx.fft.fft(x, axis=1) * 2, axis=1)
    odd = mx.fft.irfft(mx.fft.rfft(x, 2 * T - 1, axis=1), 2 * T - 1, axis=1)[:, :T]
    both = mx.fft.irfft2(mx.fft.rfft2(x, axes=(1, 2)), axes=(1, 2))
    return mx.real(z) + mx.imag(mx.conjugate(z)) + odd + both + mx.hadamard_transform(x[..., :8]).sum(-1, True)


def linear(x, tokens):
    return mx.addmm(WEIGHT, x, SQUARE.T, alpha=0.5, beta=2.0) + (x @ WEIGHT)[..., None] + mx.outer(WEIGHT, WEIGHT)[0]


def many(x, tokens):
    return mx.concatenate([x[:, i // 9 % T : i // 9 % T + 1] for i in range(9 * T)], axis=1)[:, ::9] + x


def ordered(x, tokens):
    y = x * 2
    return mx.depends(x, y) + sum(mx.depends([x, y], [x + 1]))


BETWEEN = [
    lambda x, tokens: attention(x), windows, shifted, update, mixture, experts, bigrams, bits, scans, ordering, shapes,
    indexing, reductions, elementwise, integers, activations, norms, half, convolution, convolutions, fourier,
    transforms, linear, many, ordered,
]  # fmt: skip
mx.eval(EMBEDDING, HEAD, SQUARE, EXPERTS, WEIGHT, KERNEL, HALF, BIGRAMS)


@pytest.mark.parametrize("between", BETWEEN, ids=lambda between: between.__name__.replace("<lambda>", "attention"))
def test_a_model_comes_back_as_it_was(between, tmp_path):
    model = body(between)
    graph.save(model, tmp_path / "model.graph", B, T, ABOUT | {"seed": 3})
    loaded = graph.load(tmp_path / "model.graph")
    assert (loaded.rows, loaded.length, loaded.vocab_size) == (B, T, V)
    assert loaded.about == ABOUT | {"seed": 3}
    expected = np.array(model(mx.array(TOKENS)))
    by_numpy = {node.name for node in loaded.nodes} & graph._BY_NUMPY.keys()
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if by_numpy else {"rtol": 0, "atol": 0}
    for _ in range(2):
        np.testing.assert_allclose(np.array(loaded(TOKENS)), expected, **tolerance)
    assert os.listdir(tmp_path) == ["model.graph"]


def test_every_operator_of_the_table_was_in_one_of_them(tmp_path):
    names = set()
    for between in [*BETWEEN, lambda x, tokens: x + mx.array_equal(x, x + 1, equal_nan=True)]:
        graph.save(body(between), tmp_path / "m", B, T, ABOUT)
        names |= {node.name for node in graph.load(tmp_path / "m").nodes}
    assert graph.OPERATORS.keys() - names == set()


def test_mlx_itself_reads_the_constants(tmp_path):
    graph.save(body(convolution), tmp_path / "model.graph", B, T, ABOUT)
    arrays, metadata = mx.load(str(tmp_path / "model.graph"), format="safetensors", return_metadata=True)
    ours = graph.load(tmp_path / "model.graph").constants
    assert arrays.keys() == ours.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.array(ours[name]), np.array(array))
    assert json.loads(metadata["about"]) == ABOUT


def test_a_compiled_function_is_traced_as_what_it_computes(tmp_path):
    inner = lambda x: mx.exp(-mx.square(x)) * 2  # noqa: E731
    graph.save(body(lambda x, tokens: mx.compile(inner)(x)), tmp_path / "m", B, T, ABOUT)
    expected = body(lambda x, tokens: inner(x))(mx.array(TOKENS))
    np.testing.assert_allclose(np.array(graph.load(tmp_path / "m")(TOKENS)), np.array(expected), atol=1e-6)


@pytest.mark.parametrize("dtype", graph.DTYPES)
def test_constants_of_every_type_come_back(dtype, tmp_path):
    constant = mx.array(np.arange(D) % 2).astype(graph.DTYPES[dtype])
    mx.eval(constant)
    model = body(lambda x, tokens: x + mx.real(constant).astype(mx.float32))
    graph.save(model, tmp_path / "m", B, T, ABOUT)
    np.testing.assert_array_equal(np.array(graph.load(tmp_path / "m")(TOKENS)), np.array(model(mx.array(TOKENS))))


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_logits_of_half_precision_come_back_in_single(half, tmp_path):
    graph.save(lambda tokens: (EMBEDDING @ HEAD).astype(getattr(mx, half))[tokens], tmp_path / "m", B, T, ABOUT)
    assert graph.load(tmp_path / "m")(TOKENS).dtype == mx.float32


def test_results_are_let_go_after_their_last_use(tmp_path):
    def deep(x, tokens):
        for _ in range(40):
            x = x @ SQUARE + 1
        return x

    graph.save(body(deep), tmp_path / "m", B, T, ABOUT)
    loaded = graph.load(tmp_path / "m")
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    loaded(TOKENS)
    # Of 40 products no more than a few at once, beside the logits.
    assert mx.get_peak_memory() - before < 8 * B * T * D * 4 + 3 * B * T * V * 4


# ---- what cannot be exported -----------------------------------------------------------------------------------------


def draws(x, tokens):
    return x + mx.random.normal((D,))


def writes_by_index(x, tokens):
    return x.at[mx.array([0]), tokens[0, :1] % T].add(1.0)


def branches(x, tokens):
    return x * 2 if x.sum() > 0 else x


def rounded(x, tokens):
    """At 2**60 doubles are 256 apart: by 129 it goes 0, 256, 512, 768."""
    return x + TALL[mx.arange(2.0**60, 2.0**60 + 516, 129.0, dtype=mx.int64) - 2**60].sum(0)


TALL = normal(400, D, seed=8)


REFUSED = {
    "random numbers": (body(draws), r"RandomBits.*evaluate the parameters"),
    "scatter": (body(writes_by_index), "Scatter.*instead of writing by index"),
    "a branch": (body(branches), "mx.export_function cannot trace the model: .*eval"),
    "contiguous": (body(lambda x, tokens: mx.contiguous(x.swapaxes(0, 1)).swapaxes(0, 1)), "leave mx.contiguous out"),
    "checkpoint": (body(lambda x, tokens: mx.checkpoint(mx.exp)(x)), "leave mx.checkpoint"),
    "quantised": (
        body(lambda x, tokens: x + mx.dequantize(*mx.quantize(mx.ones((64, 64))))[0, :D]), "graph.py lists the allowed"
    ),
    "two results": (lambda tokens: (body(windows)(tokens), tokens), "returns 2 arrays, not logits"),
    "integers": (lambda tokens: body(lambda x, tokens: x)(tokens).astype(mx.int32), "int32 .*not floating point"),
    "flat": (lambda tokens: body(lambda x, tokens: x)(tokens).flatten(0, 1), r"logits are float32 \[48, 32\], not"),
    "float64": (body(lambda x, tokens: x.astype(mx.float64).astype(mx.float32)), "a type .* cannot hold"),
    "wild index": (body(lambda x, tokens: x + EMBEDDING[tokens * 2]), "one of 32 by a number from 0 to 62"),
    "negative index": (body(lambda x, tokens: x + EMBEDDING[tokens - 1]), "by a number from -1 to 30"),
    "index of rounded steps": (body(rounded), "one of 400 by a number from -9223372036854775808"),
    "index from floats": (body(lambda x, tokens: x + EMBEDDING[x[..., 0].astype(mx.int32)]), "remainder by 32"),
    "division by tokens": (body(lambda x, tokens: x + (9 // tokens)[..., None]), "divides integers"),
    "power of tokens": (body(lambda x, tokens: x + (2 ** (tokens - 5))[..., None]), "a power that may be negative"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_evaluation_would_refuse_is_named_before_training(name, tmp_path):
    model, says = REFUSED[name]
    with pytest.raises(GraphError, match=says) as error:
        graph.check(model, B, T, V)
    assert "\n" not in str(error.value)
    with pytest.raises(GraphError, match=says):
        graph.save(model, tmp_path / "m", B, T, ABOUT)
    assert os.listdir(tmp_path) == []


PROVEN = {
    "remainder": lambda t: (t * 31 - 7) % V,
    "clip": lambda t: mx.clip(t - 5, 0, V - 1),
    "quotient": lambda t: t // 2 + 3,
    "choice": lambda t: mx.where(t > 3, t, 31 - t),
    "bits": lambda t: ((t * 77) >> 3) & 31,
    "shift": lambda t: (t << 2) >> 2,
    "another type": lambda t: t.astype(mx.uint8).astype(mx.int64),
    "truth": lambda t: (t > 3).astype(mx.int32),
    "place": lambda t: mx.argmax(EMBEDDING[t], axis=-1),
    "count": lambda t: mx.cumsum((t > 3).astype(mx.int32), axis=1),
    "largest": lambda t: mx.broadcast_to(t.max(axis=1, keepdims=True), t.shape),
    "padded": lambda t: mx.pad(t, [(0, 0), (1, 0)], constant_values=V - 1)[:, :-1],
    "range": lambda t: mx.broadcast_to(mx.arange(2, 2 + T, dtype=mx.int32) - 2, t.shape),
}


@pytest.mark.parametrize("name", PROVEN)
def test_indices_that_cannot_lie_outside_are_let_through(name, tmp_path):
    model = body(lambda x, tokens: x + EMBEDDING[PROVEN[name](tokens)])
    graph.save(model, tmp_path / "m", B, T, ABOUT)
    np.testing.assert_array_equal(np.array(graph.load(tmp_path / "m")(TOKENS)), np.array(model(mx.array(TOKENS))))


BELIEVED = [
    lambda t: t + 5, lambda t: t - 40, lambda t: t * -3, lambda t: t * t, lambda t: t // 3, lambda t: (t - 16) // 5,
    lambda t: (t - 16) % 7, lambda t: t % 64, lambda t: t & 12, lambda t: (t - 9) & 12, lambda t: t | 40,
    lambda t: t ^ 13, lambda t: t << 3, lambda t: t >> 1, lambda t: (t - 9) >> 1, lambda t: mx.maximum(t, 7),
    lambda t: mx.minimum(t, 7),
    lambda t: t.sum(axis=0), lambda t: (t - 9).sum(axis=1), lambda t: (t - 9).min(axis=0), lambda t: t.max(),
    lambda t: mx.cumsum(t - 9, axis=1), lambda t: mx.cummax(t, axis=1), lambda t: mx.cumprod(t, axis=1),
    lambda t: mx.cumsum(t, axis=0, inclusive=False, reverse=True), lambda t: mx.cummin(t, axis=1, inclusive=False),
    lambda t: mx.argsort(t, axis=1), lambda t: mx.argpartition(t, 1, axis=0), lambda t: mx.sort(t, axis=1),
    lambda t: (t * 2**27) * 2, lambda t: (t + 250).astype(mx.uint8), lambda t: (t - 9).astype(mx.uint32), abs,
    lambda t: mx.arange(5, -7, -3), lambda t: mx.concatenate([t, t - 99]), lambda t: mx.divmod(t - 9, 7)[0],
    lambda t: mx.divmod(t - 9, 7)[1], lambda t: mx.where(t > 3, t - 60, t), lambda t: mx.view(t, mx.uint8),
    lambda t: mx.pad(t, 1, constant_values=-3), lambda t: mx.repeat(t, 2, axis=1)[:, ::-3], lambda t: t[..., None] > 3,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BELIEVED)))
def test_the_bounds_of_integers_hold(number, monkeypatch):
    """What the prover says of a value is true of the value."""
    found = {}
    within = graph._within
    monkeypatch.setattr(graph, "_within", lambda pair, dtype: found.setdefault(len(found), within(pair, dtype)))

    def model(tokens):
        return mx.broadcast_to(BELIEVED[number](tokens).astype(mx.float32).sum(), (B, T, V))

    tokens = np.array([[0, V - 1] * (T // 2), TOKENS[0], TOKENS[1]], np.int32)
    loaded = graph._graph(*graph._traced(model, B, T), ABOUT)
    loaded.check()
    values, count = {graph.TOKENS: mx.array(tokens), **loaded.constants}, 0
    for node in loaded.nodes:
        results = graph.OPERATORS[node.name].run(node, *[values[i] for i in node.inputs])
        results = results if isinstance(results, list | tuple) else [results]
        for place, result in zip(node.outputs, results, strict=True):
            values[place] = result
            if result.dtype in graph.INTEGERS:
                low, high = found[count]
                assert low <= result.min().item() <= result.max().item() <= high
            count += 1
    assert count == len(found)


DRAWN = random.Random(0)


def integers_drawn(*shape: int, dtype=None) -> mx.array:
    """Integers of any type: narrow around 0, positive, shifts as wide as the type and wider, or all that it holds."""
    dtype = dtype or DRAWN.choice(list(graph.INTEGERS))
    least, most = graph.INTEGERS[dtype]
    middle = DRAWN.randint(-9, 9)
    narrow, bits = (middle, middle + DRAWN.randint(0, 9)), 8 * dtype.size
    low, high = DRAWN.choice([narrow, (1, 9), (bits - 1, bits), (5, 70), (least, most)])
    extremes = [least, most, least + 1, most - 1] if DRAWN.random() < 0.2 else []
    values = [DRAWN.choice([*extremes, DRAWN.randint(low, high)]) for _ in range(math.prod(shape))]
    values = np.array([min(max(value, least), most) for value in values], str(dtype).removeprefix("mlx.core."))
    return mx.array(values.reshape(shape))


def pair_drawn() -> list[mx.array]:
    first = integers_drawn(2, 3)
    return [first, integers_drawn(2, 3, dtype=DRAWN.choice([first.dtype, None]))]


def truth() -> bool:
    return DRAWN.random() < 0.5


def axis() -> int:
    return DRAWN.choice([0, 1, -1])


def arange_drawn() -> tuple[list[float], list[mx.array]]:
    start, step = DRAWN.choice([0.0, -7.0, 4.5, 2.0**31, 2.0**53 - 2, 2.0**60]), DRAWN.choice([1.0, -3.0, 2.5, 129.0])
    return [start, start + DRAWN.randint(1, 4) * step, step], []


# Arguments and inputs of every operator whose bounds are not those of its first input, and of AsType, which may wrap.
CALLS = {
    **{
        name: lambda: ([], pair_drawn())
        for name in ("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Remainder", "FloorDivide", "DivMod")
    },
    "BitwiseBinary": lambda: ([DRAWN.randint(0, 4)], pair_drawn()),
    "Select": lambda: ([], [integers_drawn(2, 3, dtype=mx.bool_), *pair_drawn()]),
    "Reduce": lambda: ([DRAWN.randint(0, 5), DRAWN.choice([[0], [1], [0, 1]])], [integers_drawn(2, 3)]),
    "Scan": lambda: ([DRAWN.randint(0, 3), axis(), truth(), truth()], [integers_drawn(2, 3)]),
    "ArgReduce": lambda: ([DRAWN.randint(0, 1), axis()], [integers_drawn(2, 3)]),
    "ArgSort": lambda: ([axis()], [integers_drawn(2, 3)]),
    "ArgPartition": lambda: ([1, axis()], [integers_drawn(2, 3)]),
    "AsType": lambda: ([DRAWN.choice(list(graph.INTEGERS))], [integers_drawn(2, 3)]),
    "SliceUpdate": lambda: ([4, [0, 1], [2, 3], [1, 1]], [integers_drawn(2, 3), integers_drawn(2, 2)]),
    "Split": lambda: ([[1], 1], [integers_drawn(2, 3)]),
    "Concatenate": lambda: ([0], pair_drawn()),
    "Pad": lambda: ([[1], [DRAWN.randint(0, 2)], [1]], [integers_drawn(2, 3), integers_drawn()]),
    "Arange": arange_drawn,
    "Depends": lambda: ([], pair_drawn()),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_the_rules_say_of_bounds_is_true_of_any_integers(name):
    DRAWN.seed(name)
    compared = 0
    for _ in range(400 if name in ("BitwiseBinary", "Scan", "Reduce", "Arange") else 60):
        state, inputs = CALLS[name]()
        specs = [graph._spec(array) for array in inputs]
        outputs = ["a", "b"] if name in ("DivMod", "Split", "Depends") else ["a"]
        dtype = DRAWN.choice([mx.int32, mx.int64, mx.uint64, mx.int16]) if name == "Arange" else None
        node = graph.Node(name, state, [], outputs, [graph.Spec((), dtype)])
        try:
            results = graph.OPERATORS[name].run(node, *inputs)
        except (ValueError, RuntimeError):  # no differences of truth values, no bits of floats
            continue
        results = [results] if isinstance(results, mx.array) else results
        given = [graph._constant_bounds(array) for array in inputs]
        node = graph.Node(name, state, [], outputs, [graph._spec(result) for result in results])
        try:
            graph._check_arguments(node, given, specs)
        except GraphError:  # a division by what may be less than 1
            continue
        for result, bounds in zip(results, graph._bounds(node, given, specs), strict=True):
            if bounds and result.size:
                found = np.array(result)
                assert bounds[0] <= int(found.min()), (state, inputs, result, bounds)
                assert int(found.max()) <= bounds[1], (state, inputs, result, bounds)
                compared += 1
    assert compared >= 20


def test_every_rule_of_bounds_was_tried():
    rules = {name: operator.bounds for name, operator in graph.OPERATORS.items()}
    assert {name for name, rule in rules.items() if rule not in (None, graph._same)} == CALLS.keys() - {"AsType"}


# ---- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "about",
    [
        {},
        {**ABOUT, "sequence_length": T + 1},
        {**ABOUT, "vocab_size": True},
        {**ABOUT, "vocab_size": 0},
        {**ABOUT, "tokenizer_sha256": None},
        {**ABOUT, "extra": float("nan")},
        {**ABOUT, "extra": object()},
        {**ABOUT, "extra": "x" * 200_000},
    ],
    ids=["empty", "length", "truth", "nothing", "no hash", "NaN", "object", "long"],
)
def test_an_about_that_would_be_refused_later_is_refused_now(about, tmp_path):
    target = tmp_path / "model.graph"
    target.write_text("as it was")
    with pytest.raises(GraphError, match="`about`"):
        graph.save(body(lambda x, tokens: x), target, B, T, about)
    assert target.read_text() == "as it was"
    assert len(os.listdir(tmp_path)) == 1


def test_a_vocabulary_that_is_not_that_of_the_logits_is_refused(tmp_path):
    with pytest.raises(GraphError, match=r"looks up one of 32 by a number from 0 to 39"):
        graph.save(body(lambda x, tokens: x), tmp_path / "m", B, T, {**ABOUT, "vocab_size": 40})
    with pytest.raises(GraphError, match=r"logits are float32 \[3, 16, 32\], not \[3, 16, 20\]"):
        graph.save(body(lambda x, tokens: x), tmp_path / "m", B, T, {**ABOUT, "vocab_size": 20})


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(GraphError, match=r"cannot write .*missing/model"):
        graph.save(body(lambda x, tokens: x), tmp_path / "missing" / "model.graph", B, T, ABOUT)


def test_a_target_that_cannot_be_replaced_leaves_nothing_behind(tmp_path):
    (tmp_path / "model.graph").mkdir()
    with pytest.raises(GraphError, match="cannot write"):
        graph.save(body(lambda x, tokens: x), tmp_path / "model.graph", B, T, ABOUT)
    assert os.listdir(tmp_path) == ["model.graph"]


def test_a_batch_with_too_many_logits_is_refused(monkeypatch):
    monkeypatch.setattr(graph, "MAX_LOGITS", B * T * V - 1)
    with pytest.raises(GraphError, match=r"gives 1,536 logits for a batch of 3 rows, more than 1,535: .*fewer rows"):
        graph.check(body(lambda x, tokens: x), B, T, V)


# ---- running ---------------------------------------------------------------------------------------------------------


def test_other_tokens_are_refused(tmp_path):
    graph.save(body(lambda x, tokens: x), tmp_path / "m", B, T, ABOUT)
    loaded = graph.load(tmp_path / "m")
    for tokens in (TOKENS[:1], TOKENS.astype(np.int64), TOKENS[:, :-1], TOKENS.astype(np.float32)):
        with pytest.raises(GraphError, match=r"tokens are .*, not int32"):
            loaded(tokens)
    for tokens in (TOKENS + V, TOKENS - V):
        with pytest.raises(GraphError, match="a token is not one of 0 to 31"):
            loaded(tokens)


SHAPES = [(name, shape) for name in ("exp", "tanh", "softmax") for shape in ((), (1,), (2, 1, 3))]


@pytest.mark.parametrize(("name", "shape"), [x for x in SHAPES if x != ("softmax", ())], ids=str)
def test_what_numpy_computes_has_the_shape_that_mlx_gives(name, shape, tmp_path):
    scale = normal(*shape, seed=9)

    function = (lambda x: mx.softmax(x, axis=-1)) if name == "softmax" else getattr(mx, name)
    model = body(lambda x, tokens: x + function(scale).sum())
    graph.save(model, tmp_path / "m", B, T, ABOUT)
    loaded = graph.load(tmp_path / "m")
    assert name.title() in {node.name for node in loaded.nodes}
    np.testing.assert_allclose(np.array(loaded(TOKENS)), np.array(model(mx.array(TOKENS))), rtol=1e-5, atol=1e-5)


def test_a_graph_that_needs_more_memory_than_is_free_is_refused_on_a_cpu(tmp_path, monkeypatch):
    with mx.stream(mx.cpu):
        graph.save(body(lambda x, tokens: x), tmp_path / "m", B, T, ABOUT)
        monkeypatch.setattr(graph, "free_memory", lambda: 2.0 * graph.BLAS_BUFFER)
        with pytest.raises(graph.GraphMemoryError, match=r"^the graph needs \d+ MB in two threads, and \d+ are free$"):
            graph.load(tmp_path / "m")
        monkeypatch.setattr(graph, "free_memory", lambda: 2.0 * graph.BLAS_BUFFER + 2**20)
        assert graph.load(tmp_path / "m")(TOKENS).shape == (B, T, V)
