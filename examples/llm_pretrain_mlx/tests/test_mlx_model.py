"""The model and its gradients against PyTorch in float64, attention against NumPy, sizes and settings.

pytest examples/llm_pretrain_mlx/tests/test_mlx_model.py
"""

from __future__ import annotations

import ast
import gc
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import yaml
from mlx_modules import EXAMPLE, load

pytest.importorskip("mlx")  # not mlx.core, which must come after the BLAS that `machine` loads
train = load("train")
mx = train.mx

# float32 against float64, its rounding being 6e-8. Measured over three seeds: logits of up to 15 are off by at most
# 5e-6, a matrix's gradient by 2e-6 of its norm, and the gradient of a scalar, where terms cancel, by 2e-5 of it.
LOGITS_ATOL = 2e-5
GRADIENT_RTOL = 1e-5
SCALAR_GRADIENT_RTOL = 1e-4


def settings(**changes):
    """Small, with everything switched on, two kinds of window, and chunks that do not divide what they cut."""
    small = {"depth": 3, "width": 32, "head_dim": 8, "window_pattern": "SL", "short_window": 5}
    small |= {"gate_channels": 4, "smear_channels": 6, "attention_chunk": 7, "loss_chunk": 10}
    return replace(train.settings_for("small"), **(small | changes))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def model_of(s, vocab=50, length=12, seed=3, dtype=mx.float32):
    """(model, parameters) in which every weight counts: also those that start at zero are drawn."""
    model, generator = train.GPT(s, vocab, length, dtype), np.random.default_rng(seed)
    drawn = model.init(seed)
    return model, {
        name: value + 0.2 * mx.array(generator.standard_normal(value.shape, np.float32))
        for name, value in drawn.items()
    }


def rows_of(vocab=50, shape=(2, 13), seed=5):
    return mx.array(np.random.default_rng(seed).integers(vocab, size=shape).astype(np.int32))


# ---- the forward pass and its gradients in PyTorch, float64


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def rotate(x, base):
    """x [B, T, H, D] as complex numbers, turned by position times frequency."""
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * frequency
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([turned.real, turned.imag], -1)


def masked_attention(q, k, v, window):
    """[B, T, H, D] with the mask written out: a token sees itself and `window` tokens before it."""
    distance = torch.arange(q.shape[1])[:, None] - torch.arange(q.shape[1])
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill((distance < 0) | (distance > window), -math.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


def torch_logits(s, windows, w, tokens):
    """The whole model once more, from its description; w are float64 tensors by name."""
    x = rms(w["embedding"][tokens])
    if s.smear:
        gate = w["smear_lambda"] * torch.sigmoid(x[:, 1:, : s.smear_channels] @ w["smear_gate"].T)
        x = torch.cat([x[:, :1], x[:, 1:] + gate * x[:, :-1]], 1)
    x0, middle = x, None
    for i in range(s.depth):
        p = f"blocks.{i}."
        x = w["resid_lambdas"][i] * x + w["x0_lambdas"][i] * x0
        h = rms(x)
        heads = (*tokens.shape, s.width // s.head_dim, s.head_dim)
        q, k, v = ((h @ w[p + name].T).reshape(heads) for name in ("query", "key", "value"))
        if i % 2 == (s.depth - 1) % 2:
            gate = 2 * torch.sigmoid(h[..., : s.gate_channels] @ w[p + "value_gate"].T)
            v = v + gate[..., None] * w[p + "value_embedding"][tokens].reshape(heads)
        q, k = (s.qk_scale * rms(rotate(y, s.rope_base)) for y in (q, k))
        x = x + masked_attention(q, k, v, windows[i]).reshape(x.shape) @ w[p + "out"].T
        x = x + (rms(x) @ w[p + "up"].T).clamp(min=0).square() @ w[p + "down"].T
        if i == (s.depth - 1) // 2:
            middle = x
    if s.backout:
        x = x - w["backout_lambda"] * middle
    return s.softcap * torch.tanh(rms(x) @ w["head"].T / s.softcap)


CASES = {
    "one layer": ({"depth": 1}, [12]),
    "odd depth": ({}, [5, 12, 12]),
    "even depth": ({"depth": 4, "window_pattern": "SSSL"}, [5, 5, 5, 12]),
    "without smear and backout": ({"smear": False, "backout": False}, [5, 12, 12]),
    "short windows": ({"depth": 2, "window_pattern": "S", "short_window": 1}, [1, 12]),
    "one head": ({"head_dim": 32, "gate_channels": 32}, [5, 12, 12]),
    "other constants": ({"softcap": 4.0, "qk_scale": 1.0, "rope_base": 200.0, "attention_chunk": 256}, [5, 12, 12]),
}


@pytest.mark.parametrize(("changes", "windows"), CASES.values(), ids=CASES.keys())
def test_logits_and_all_gradients_are_those_of_the_description(changes, windows):
    s = settings(**changes)
    model, parameters = model_of(s)
    rows = rows_of()
    tokens, targets = (torch.from_numpy(np.array(part)).long() for part in train.inputs_and_targets(rows))
    w = {name: torch.from_numpy(np.array(value)).double().requires_grad_() for name, value in parameters.items()}
    expected = torch_logits(s, windows, w, tokens)
    loss = F.cross_entropy(expected.flatten(0, 1), targets.flatten())
    loss.backward()

    logits = np.array(model.logits(parameters, rows[:, :-1]))
    np.testing.assert_allclose(logits, expected.detach().numpy(), atol=LOGITS_ATOL, rtol=0)
    nats, gradients = mx.value_and_grad(model.loss)(parameters, rows)
    assert nats.item() / tokens.numel() == pytest.approx(loss.item(), abs=1e-5)
    assert gradients.keys() == w.keys()
    for name, weight in w.items():
        found, true = np.array(gradients[name]) / tokens.numel(), weight.grad.numpy()
        if s.depth == 1 and name == "backout_lambda":
            assert abs(found) < 1e-5  # the middle is the last layer: a share of that is no change
            continue
        assert np.linalg.norm(true) > 1e-3, name  # or an error in it would not show
        bound = GRADIENT_RTOL if true.ndim > 1 else SCALAR_GRADIENT_RTOL
        assert np.linalg.norm(found - true) <= bound * np.linalg.norm(true), name


def test_the_loss_agrees_with_the_logits_token_by_token():
    model, parameters = model_of(settings())
    rows = rows_of()
    each = np.array(model.nats(parameters, rows))
    logits = np.array(model.logits(parameters, rows[:, :-1])).astype(np.float64)
    wanted = np.take_along_axis(logits, np.array(rows)[:, 1:, None], 2)[..., 0]
    assert each.shape == (2, 12) and each.dtype == np.float32
    np.testing.assert_allclose(each, np.log(np.exp(logits).sum(-1)) - wanted, atol=1e-5)
    assert model.loss(parameters, rows).item() == pytest.approx(each.sum(dtype=np.float64), rel=1e-6)


def test_later_tokens_change_nothing_before_them():
    model, parameters = model_of(settings())
    tokens = rows_of()[:, :-1]
    other = mx.concatenate([tokens[:, :7], (tokens[:, 7:] + 11) % 50], axis=1)
    before, after = (np.array(model.logits(parameters, part)) for part in (tokens, other))
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.abs(before[:, 7:] - after[:, 7:]).max(-1).min() > 1e-3


def test_attention_scores_depend_on_distance_alone():
    s = settings(depth=1, smear=False, backout=False)
    model, parameters = model_of(s)
    same = mx.broadcast_to(mx.array(np.random.default_rng(0).standard_normal(32, np.float32)), (1, 9, 32))
    seen = []

    def spy(q, k, v, *_):
        seen.append(np.einsum("qd,kd->qk", np.array(q[0, 0]), np.array(k[0, 0])))
        return v

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "attend", spy)
        weights = {n.removeprefix("blocks.0."): p for n, p in parameters.items() if n.startswith("blocks.0.")}
        weights.pop("value_embedding")
        mx.eval(model.block(same, weights, 12))
    (scores,) = seen
    assert scores[3, 1] == pytest.approx(scores[8, 6], abs=1e-5)
    assert abs(scores[3, 1] - scores[3, 2]) > 1e-3 and abs(scores[3, 1] - scores[1, 3]) > 1e-3


@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_plain_model_is_the_same_and_can_be_exported(checkpoint):
    s = settings(checkpoint=checkpoint)
    model, parameters = model_of(s)
    tokens = rows_of()[:, :-1]
    found, expected = (np.array(m.logits(parameters, tokens)) for m in (model.plain(), model))
    np.testing.assert_allclose(found, expected, atol=LOGITS_ATOL)
    train.graph.check(train.exported(model, parameters), 2, 12, 50)
    assert not model.is_plain


# ---- checkpoints and types


def test_a_checkpointed_model_has_the_same_loss_and_gradients():
    s, rows = settings(depth=4), rows_of()
    (kept, parameters), (made_again, _) = model_of(s), model_of(replace(s, checkpoint=True))
    loss, gradients = mx.value_and_grad(kept.loss)(parameters, rows)
    again, gradients_again = mx.value_and_grad(made_again.loss)(parameters, rows)
    assert again.item() == pytest.approx(loss.item(), rel=1e-6)
    for name, gradient in gradients.items():
        found = np.array(gradients_again[name])
        np.testing.assert_allclose(found, np.array(gradient), rtol=1e-5, atol=1e-6, err_msg=name)


def peak_of_a_pass(s, length, rows):
    model = train.GPT(s, 64, length)
    parameters = model.init(1)
    gc.collect()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(mx.value_and_grad(model.loss)(parameters, rows))
    return mx.get_peak_memory() - before


def test_checkpoints_take_less_memory():
    """Measured: 39 MB and 21 MB."""
    s = settings(depth=6, width=64, head_dim=32, window_pattern="L", attention_chunk=64, loss_chunk=256)
    rows = rows_of(64, (8, 129))
    full, less = (peak_of_a_pass(replace(s, checkpoint=on), 128, rows) for on in (False, True))
    assert less < 0.7 * full


def test_chunks_of_queries_with_short_windows_take_less_memory():
    s, rows = settings(depth=4, window_pattern="S", short_window=32, loss_chunk=256), rows_of(64, (1, 513))
    full, less = (peak_of_a_pass(replace(s, attention_chunk=chunk), 512, rows) for chunk in (512, 64))
    assert less < 0.6 * full


def test_bfloat16_computes_nearly_the_same_and_keeps_weights_and_gradients_in_float32():
    model, parameters = model_of(settings())
    rough, _ = model_of(settings(), dtype=mx.bfloat16)
    rows = rows_of()
    loss, gradients = mx.value_and_grad(model.loss)(parameters, rows)
    near, rough_gradients = mx.value_and_grad(rough.loss)(parameters, rows)
    assert rough.trunk(parameters, rows[:, :-1]).dtype == mx.bfloat16
    assert rough.logits(parameters, rows[:, :-1]).dtype == near.dtype == mx.float32
    assert 0 < abs(near.item() / loss.item() - 1) < 0.02
    assert {p.dtype for p in parameters.values()} == {g.dtype for g in rough_gradients.values()} == {mx.float32}
    for name, gradient in gradients.items():
        if gradient.size > 100:
            a, b = np.array(gradient).ravel(), np.array(rough_gradients[name]).ravel()
            assert a @ b > 0.98 * np.linalg.norm(a) * np.linalg.norm(b), name


# ---- attention


@pytest.fixture(params=["made here", "by mx.fast"])
def branch(request, monkeypatch):
    """Both ways to attend, whatever device there is."""
    monkeypatch.setattr(train, "on_gpu", lambda: request.param == "by mx.fast")


def np_attention(q, k, v, window, scale, slope):
    """(out, gradients of (out * slope).sum() by q, k, v) in float64, [B, H, T, D], one query after the other."""
    out, by_q, by_k, by_v = (np.zeros_like(x) for x in (q, q, k, v))
    for t in range(q.shape[2]):
        seen = slice(max(0, t - window), t + 1)
        scores = scale * np.einsum("bhd,bhkd->bhk", q[:, :, t], k[:, :, seen])
        share = np.exp(scores - scores.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        out[:, :, t] = np.einsum("bhk,bhkd->bhd", share, v[:, :, seen])
        by_share = np.einsum("bhd,bhkd->bhk", slope[:, :, t], v[:, :, seen])
        by_score = scale * share * (by_share - (share * by_share).sum(-1, keepdims=True))
        by_q[:, :, t] = np.einsum("bhk,bhkd->bhd", by_score, k[:, :, seen])
        by_k[:, :, seen] += np.einsum("bhk,bhd->bhkd", by_score, q[:, :, t])
        by_v[:, :, seen] += np.einsum("bhk,bhd->bhkd", share, slope[:, :, t])
    return out, by_q, by_k, by_v


def qkv(length, count=3):
    generator = np.random.default_rng(length)
    return [generator.standard_normal((2, 3, length, 16)) for _ in range(count)]


@pytest.mark.parametrize("chunk", [1, 6, 7, 20, 100])
@pytest.mark.parametrize("window", [0, 1, 7, 18, 19, 20])
def test_attention_by_chunks_is_masked_softmax(branch, window, chunk):
    *parts, slope = qkv(20, 4)
    out, *expected = np_attention(*parts, window, 0.3, slope)
    arrays = [mx.array(part.astype(np.float32)) for part in parts]
    weight = mx.array(slope.astype(np.float32))

    def weighted(q, k, v):
        return (train.attend(q, k, v, window, 0.3, chunk) * weight).sum()

    np.testing.assert_allclose(np.array(train.attend(*arrays, window, 0.3, chunk)), out, atol=1e-5)
    for found, true in zip(mx.grad(weighted, argnums=(0, 1, 2))(*arrays), expected, strict=True):
        np.testing.assert_allclose(np.array(found), true, atol=2e-5)


@pytest.mark.parametrize("chunk", [5, 8, 32])
@pytest.mark.parametrize("window", [0, 3, 9, 23])
def test_a_key_reaches_its_window_and_no_further(branch, window, chunk):
    """Another key and value at one position change the outputs from there to `window` after it, and no other bit."""
    q, k, v = (mx.array(part.astype(np.float32)) for part in qkv(24))
    before = np.array(train.attend(q, k, v, window, 0.3, chunk))
    for at in (0, 4, 5, 13, 23):
        here = (mx.arange(24) == at)[:, None]
        after = np.array(train.attend(q, mx.where(here, -k, k), mx.where(here, v + 3, v), window, 0.3, chunk))
        changed = np.flatnonzero((before != after).any((0, 1, 3)))
        assert changed.tolist() == list(range(at, min(at + window, 23) + 1))


def test_attention_in_bfloat16_is_near(branch):
    parts = qkv(20)
    out, *_ = np_attention(*parts, 7, 0.3, parts[0])
    rough = train.attend(*(mx.array(part).astype(mx.bfloat16) for part in parts), 7, 0.3, 6)
    assert rough.dtype == mx.bfloat16
    np.testing.assert_allclose(np.array(rough.astype(mx.float32)), out, atol=0.05)


def test_scores_that_are_far_apart_leave_no_trace_and_stay_finite(branch):
    """Scores of plus and minus thousands: only the best key counts, and gradients of a settled choice vanish."""
    q = mx.full((1, 1, 4, 2), 100.0)
    k = mx.array([[-100.0, 0.0], [100.0, 0.0], [-100.0, 0.0], [50.0, 0.0]])[None, None]
    v = mx.arange(8, dtype=mx.float32).reshape(1, 1, 4, 2)
    out, by = mx.value_and_grad(lambda *qkv: train.attend(*qkv, 4, 1.0, 4)[..., 0].sum(), argnums=(0, 1, 2))(q, k, v)
    assert out.item() == 0 + 2 + 2 + 2
    np.testing.assert_allclose(np.array(by[2])[0, 0, :, 0], [1, 3, 0, 0], atol=1e-20)
    assert max(np.abs(np.array(part)).max() for part in by[:2]) < 1e-20


def test_what_is_no_number_does_not_get_lost(branch):
    q, k, v = (mx.array(part.astype(np.float32)) for part in qkv(12))
    broken = mx.where((mx.arange(12) == 5)[:, None], math.nan, q)
    out = np.array(train.attend(broken, k, v, 3, 0.3, 12))
    assert np.flatnonzero(np.isnan(out).any((0, 1, 3))).tolist() == [5]


# ---- sizes and weights at the start


def test_the_default_model_has_the_counts_of_a_hand():
    s = train.settings_for("full")
    model = train.GPT(s, 8192, 2048)
    parameters = model.init(1)
    assert (s.depth, s.width, s.head_dim, model.windows) == (4, 256, 128, [256, 256, 256, 2048])
    matrices = 4 * (4 * 256 * 256 + 2 * 4 * 256 * 256) + 2 * 2 * 32 + 24  # and two gates of two heads, and smear's
    assert model.parameter_table(parameters) == {
        "wte": 8192 * 256,
        "value_embeds": 2 * 8192 * 256,
        "lm_head": 8192 * 256,
        "transformer_matrices": matrices,
        "scalars": 4 + 4 + 2,
        "total": 11_534_498,
    }
    assert sum(value.size for value in parameters.values()) == 11_534_498
    # 6 * (head + matrices) and 12 * width * window of each layer
    assert model.flops_per_token(parameters) == 6 * (2_097_152 + 3_145_880) + 12 * 256 * (3 * 256 + 2048) == 40_108_944


def test_the_last_window_is_full_whatever_the_pattern():
    assert settings(depth=5, window_pattern="S").windows(64) == [5, 5, 5, 5, 64]
    assert settings(depth=1, window_pattern="S").windows(64) == [64]
    assert settings(depth=3, window_pattern="SL", short_window=999).windows(64) == [64, 64, 64]


def test_initial_weights():
    s = settings(depth=4, width=256, head_dim=32, init_scale=0.68)
    parameters = {name: np.array(value) for name, value in train.GPT(s, 500, 16).init(1).items()}
    assert {value.dtype for value in parameters.values()} == {np.dtype(np.float32)}
    deviation = {name: value.std() for name, value in parameters.items()}
    assert deviation["embedding"] == pytest.approx(1.0, rel=0.02)
    assert deviation["head"] == pytest.approx(0.001, rel=0.02)
    bound = 0.68 * math.sqrt(3 / 256)
    for name in ("blocks.1.query", "blocks.0.key", "blocks.2.value", "blocks.0.up", "blocks.1.value_embedding"):
        assert deviation[name] == pytest.approx(0.68 / 16, rel=0.02)
        assert 0.99 * bound < np.abs(parameters[name]).max() <= bound * (1 + 1e-6)
        assert abs(parameters[name].mean()) < 0.02 * bound
    for layer in range(4):
        block = f"blocks.{layer}."
        assert not parameters[block + "out"].any() and not parameters[block + "down"].any()
        assert (block + "value_embedding" in parameters) == (block + "value_gate" in parameters) == (layer % 2 == 1)
    assert not parameters["blocks.3.value_gate"].any()
    assert parameters["resid_lambdas"].tolist() == [1.0] * 4
    assert parameters["x0_lambdas"].tolist() == pytest.approx([0.05] * 4)
    assert parameters["smear_lambda"].tolist() == [0.0]
    assert 0 <= parameters["smear_gate"].min() < parameters["smear_gate"].max() <= 0.02
    assert parameters["backout_lambda"].tolist() == pytest.approx([0.2])


def test_a_seed_means_the_same_bits_and_another_seed_others():
    model = train.GPT(settings(), 50, 12)
    first, again, other = (model.init(seed) for seed in (1, 1, 2))
    drawn = {name for name, value in first.items() if np.array(value).std() > 0}
    for name, value in first.items():
        np.testing.assert_array_equal(np.array(value), np.array(again[name]))
        assert (np.array(value) == np.array(other[name])).all() == (name not in drawn), name
    assert len(drawn) == 2 + 3 * 4 + 2 + 1  # tables; four matrices a layer; two value embeddings; the gate of smear
    assert not (np.array(first["blocks.0.query"]) == np.array(first["blocks.0.key"])).any()


def test_weights_do_not_depend_on_the_compute_type():
    one, other = (train.GPT(settings(), 50, 12, dtype).init(1) for dtype in (mx.float32, mx.bfloat16))
    for name in one:
        np.testing.assert_array_equal(np.array(one[name]), np.array(other[name]))


def test_an_untrained_model_guesses_uniformly():
    model = train.GPT(settings(), 50, 12)
    assert model.loss(model.init(1), rows_of()).item() / 24 == pytest.approx(math.log(50), abs=0.01)


# ---- settings


def test_every_setting_is_one_literal_on_one_line():
    """A search program edits `NAME = literal` in place; an expression such as 2**18 would break it."""
    tree = ast.parse((EXAMPLE / "train.py").read_text())
    lines = {
        node.targets[0].id: node
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    small = {name for name in lines if name.startswith("SMALL_")}
    assert len(train.TUNABLE) > 40 and small
    assert {name.removeprefix("SMALL_") for name in small} <= set(train.TUNABLE)
    for name in {*train.TUNABLE, *small}:
        node = lines[name]
        assert node.lineno == node.end_lineno
        assert isinstance(ast.literal_eval(node.value), (bool, int, float, str)), name


def test_the_small_profile_replaces_what_it_names_and_nothing_else():
    full, small = train.settings_for("full"), train.settings_for("small")
    for name in train.TUNABLE:
        expected = getattr(train, f"SMALL_{name}", getattr(train, name))
        assert getattr(small, name.lower()) == expected and getattr(full, name.lower()) == getattr(train, name)
    assert full.depth != small.depth and full.momentum_peak == small.momentum_peak


@pytest.mark.parametrize(("name", "value"), [("DEPTH", 2.0), ("WIDTH", "128"), ("SOFTCAP", None), ("SMEAR", 1)])
def test_a_small_setting_of_another_kind_is_refused(monkeypatch, name, value):
    monkeypatch.setattr(train, f"SMALL_{name}", value, raising=False)
    with pytest.raises(train.TrainError, match=f"SMALL_{name} = .* should be of the kind of {name} = "):
        train.settings_for("small")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"width": 513, "head_dim": 128}, r"WIDTH = 513 is not a multiple of an even HEAD_DIM = 128\n.*: 512, 640"),
        ({"width": 9, "head_dim": 3}, "WIDTH = 9 is not a multiple of an even HEAD_DIM = 3"),
        ({"window_pattern": "SX"}, "WINDOW_PATTERN = 'SX' may hold only the letters S and L"),
        ({"window_pattern": ""}, "WINDOW_PATTERN = '' may hold"),
        ({"batch_tokens": 1000}, r"BATCH_TOKENS = 1000 is not a multiple of 64, .*\nhint: 960 and 1024 are"),
        ({"batch_tokens": 10}, "hint: 64 and 128 are"),
        ({"batch_tokens": 768, "micro_batch_rows": 8}, r"MICRO_BATCH_ROWS = 8 .* 12 rows .*\n.*: 1, 2, 3, 4, 6, 12"),
        ({"gate_channels": 33}, "GATE_CHANNELS and SMEAR_CHANNELS must be 1 to WIDTH = 32"),
        ({"smear_channels": 0}, "SMEAR_CHANNELS must be 1 to"),
        ({"muon_iterations": 6}, "MUON_ITERATIONS must be 1 to 5, not 6"),
        ({"muon_iterations": 0}, "MUON_ITERATIONS must be 1 to 5, not 0"),
        ({"wd_schedule": "square"}, "WD_SCHEDULE must be one of cosine, linear, constant, not 'square'"),
        ({"softcap": 0.0}, "SOFTCAP = 0.0 is not above 0 and at most 40"),
        ({"softcap": 41.0}, "SOFTCAP = 41.0 is not above 0 and at most 40"),
        ({"softcap": math.nan}, "SOFTCAP = nan"),
        ({"depth": 0}, "at least 1"),
        ({"width": 0}, "at least 1"),
        ({"head_dim": 0}, "at least 1"),
        ({"batch_tokens": 0}, "at least 1"),
        ({"gate_channels": 0}, "at least 1"),
        ({"micro_batch_rows": 0}, "at least 1"),
        ({"export_rows": 0}, "at least 1"),
        ({"loss_chunk": 0}, "at least 1"),
        ({"attention_chunk": -1}, "at least 1"),
        ({"warmdown": 75.0}, "WARMDOWN = 75.0 is no share from 0 to 1"),
        ({"final_lr": -0.1}, "FINAL_LR = -0.1 is no share"),
        ({"momentum_ramp": math.nan}, "MOMENTUM_RAMP = nan is no share"),
        ({"short_window": -1}, "SHORT_WINDOW = -1 is not a number of tokens"),
    ],
    ids=lambda value: " ".join(f"{name}={v}" for name, v in value.items()) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_run_say_what_would(changes, expected):
    with pytest.raises(train.TrainError, match=expected):
        settings(**changes, profile="full").check(64)


def test_settings_that_can_run():
    train.settings_for("full").check(2048)
    train.settings_for("small").check(256)
    settings(batch_tokens=128, micro_batch_rows=64).check(64)  # more micro-batch than batch: the batch is one
    settings(smear=False, smear_channels=99).check(64)  # nothing reads them
    settings(softcap=40.0, muon_iterations=1).check(64)


def test_a_sentence_calls_each_constant_as_its_profile_does(monkeypatch):
    monkeypatch.setattr(train, "SMALL_WIDTH", 130)
    with pytest.raises(train.TrainError, match=r"^SMALL_WIDTH = 130 is not a multiple of an even SMALL_HEAD_DIM = "):
        train.settings_for("small").check(256)
    with pytest.raises(train.TrainError, match=r"^WIDTH = 130 is not a multiple of an even HEAD_DIM = 128"):
        replace(train.settings_for("full"), width=130).check(2048)
    monkeypatch.setattr(train, "SMALL_DEPHT", 2, raising=False)
    with pytest.raises(train.TrainError, match="SMALL_DEPHT changes nothing: there is no DEPHT"):
        train.settings_for("small")


# What is trained, and what is exported


def changed_mlp(x, up, down):
    risen = x @ up.T
    return (risen * mx.sigmoid(risen)) @ down.T, risen


def test_a_forward_pass_changed_without_its_vjp_is_refused(monkeypatch):
    s = settings(depth=2)
    model, parameters = model_of(s)
    train.check_gradients(model, parameters)
    lean = mx.custom_function(changed_mlp)
    lean.vjp(lambda primals, cotangents, outputs: tuple(mx.zeros_like(primal) for primal in primals))
    monkeypatch.setattr(train, "squared_relu_mlp", changed_mlp)
    monkeypatch.setattr(train, "lean_mlp", lean)
    with pytest.raises(train.TrainError, match=r"is not that of the exported model(.|\n)*change its vjp too"):
        train.check_gradients(model, parameters)
    monkeypatch.setattr(train, "lean_mlp", changed_mlp)  # its plain form, as the hint says
    train.check_gradients(model, parameters)


def test_logits_without_the_cap_of_the_loss_are_refused(monkeypatch):
    def uncapped(self, parameters, tokens):
        return train.linear(self.trunk(parameters, tokens), parameters["head"]) * 1.5

    model, parameters = model_of(settings(depth=2))
    monkeypatch.setattr(train.GPT, "logits", uncapped)
    with pytest.raises(train.TrainError, match=r"GPT\.loss is .* where the exported GPT\.logits have"):
        train.check_gradients(model, parameters)


def test_first_gradients_that_vanish_do_not_hide_a_difference():
    """Output projections begin at zero, so what stands before them has no gradient at the real first weights."""
    model = train.GPT(train.settings_for("small"), 64, 256, mx.bfloat16)
    train.check_gradients(model, model.init(1))


@pytest.mark.parametrize("spec", ["autoresearch-config.yaml", "autoresearch-config.cpu.yaml"])
def test_every_choice_of_the_search_agent_can_be_trained(spec):
    """One at a time from the defaults, and all pairs of choices: a crash would be a wasted attempt."""
    stored = yaml.safe_load((EXAMPLE / spec).read_text())
    profile, length = ("small", 256) if "cpu" in spec else ("full", 2048)
    values = {}
    for tunable in stored["tunables"]:
        name = tunable["name"].removeprefix("SMALL_").lower()
        values[name] = tunable.get("choices") or [tunable["low"], tunable["high"]]
    for (one, ours), (other, theirs) in itertools.combinations(values.items(), 2):
        for mine, yours in itertools.product(ours, theirs):
            replace(train.settings_for(profile), **{one: mine, other: yours}).check(length)
