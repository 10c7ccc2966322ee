"""The model against NumPy in float64, its sizes against the reference's, attention and loss against plain formulas.

pytest examples/llm_pretrain_cuda/tests/test_llm_model.py
"""

from __future__ import annotations

import ast
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from cuda_modules import EXAMPLE, load

train = load("train")

CPU = torch.device("cpu")


def settings(**changes):
    """Small, with everything switched on and two kinds of window."""
    small = {"depth": 3, "width": 32, "head_dim": 8, "window_pattern": "SL", "short_window": 5}
    small |= {"gate_channels": 4, "smear_channels": 6}
    return replace(train.settings_for("small"), **(small | changes))


REFERENCE = replace(
    train.settings_for("full"),
    depth=8,
    width=512,
    window_pattern="SSSL",
    short_window=1024,
    gate_channels=32,
    smear=False,
    backout=False,
    muon_gates=True,
)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def model_of(s, vocab=50, length=12, seed=3):
    """A model whose every weight counts: also those that start at zero are drawn."""
    model = train.GPT(s, vocab, length).init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def tokens_of(vocab=50, shape=(2, 12), seed=5):
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


# ---- sizes


def test_reference_model_has_the_reference_counts():
    with torch.device("meta"):
        model = train.GPT(REFERENCE, 8192, 2048)
    assert model.parameter_table() == {
        "wte": 4_194_304,
        "value_embeds": 16_777_216,
        "lm_head": 4_194_304,
        "transformer_matrices": 25_166_336,
        "scalars": 16,
        "total": 50_332_176,
    }
    assert sum(p.numel() for p in model.parameters()) == 50_332_176
    assert model.flops_per_token() == 239_078_400
    assert model.windows == [1024, 1024, 1024, 2048, 1024, 1024, 1024, 2048]
    assert [block.has_value_embedding for block in model.blocks] == [False, True] * 4


def test_the_default_model_is_the_best_known_one():
    with torch.device("meta"):
        model = train.GPT(replace(train.settings_for("full"), smear=False, backout=False), 8192, 2048)
    assert round(model.parameter_table()["total"] / 1e6, 1) == 80.9
    assert model.flops_per_token() == pytest.approx(3.421e8, rel=1e-3)
    assert model.windows == [256, 256, 256, 256, 2048, 256, 256, 256, 2048]
    assert [block.has_value_embedding for block in model.blocks] == [True, False] * 4 + [True]


def test_the_last_window_is_full_whatever_the_pattern():
    assert settings(depth=5, window_pattern="S").windows(64) == [5, 5, 5, 5, 64]
    assert settings(depth=1, window_pattern="S").windows(64) == [64]
    assert settings(depth=3, window_pattern="SL", short_window=999).windows(64) == [64, 64, 64]


def test_weights_stay_float32_and_activations_have_the_asked_type():
    model = train.GPT(settings(), 50, 12, torch.bfloat16).init_weights(1)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.trunk(tokens_of()).dtype == torch.bfloat16
    assert model(tokens_of()).dtype == torch.float32


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
    assert full.depth == train.DEPTH and full.batch_tokens == train.BATCH_TOKENS
    assert small.depth == train.SMALL_DEPTH and small.batch_tokens == train.SMALL_BATCH_TOKENS
    assert small.momentum_peak == full.momentum_peak


@pytest.mark.parametrize(
    ("changes", "length", "expected"),
    [
        ({"width": 513, "head_dim": 128}, 64, "512, 640"),
        ({"window_pattern": "SX"}, 64, "WINDOW_PATTERN"),
        ({"window_pattern": ""}, 64, "WINDOW_PATTERN"),
        ({"batch_tokens": 1000}, 64, "960 and 1024"),
        ({"batch_tokens": 10}, 64, "64 and 128"),
        ({"batch_tokens": 768, "micro_batch_rows": 8}, 64, "1, 2, 3, 4, 6, 12"),
        ({"gate_channels": 33}, 64, "GATE_CHANNELS"),
        ({"muon_iterations": 6}, 64, "MUON_ITERATIONS"),
        ({"wd_schedule": "square"}, 64, "cosine, linear, constant"),
        ({"softcap": 0.0}, 64, "SOFTCAP"),
        ({"depth": 0}, 64, "at least 1"),
    ],
)
def test_settings_that_cannot_run_say_what_would(changes, length, expected):
    with pytest.raises(train.TrainError, match=expected):
        settings(**changes).check(length)


def test_settings_of_both_profiles_can_run():
    train.settings_for("full").check(2048)
    train.settings_for("small").check(256)
    settings(batch_tokens=128, micro_batch_rows=64).check(64)  # more micro-batch than batch: the batch is one


# ---- the forward pass in NumPy


def np_norm(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + np.finfo(np.float32).eps)


def np_rotate(x, base):
    """x [B, T, H, D] as complex numbers, turned by minus position times frequency."""
    half = x.shape[-1] // 2
    frequency = base ** (-np.arange(half) / half)
    turn = np.exp(-1j * np.arange(x.shape[1])[:, None] * frequency)[:, None, :]
    z = (x[..., :half] + 1j * x[..., half:]) * turn
    return np.concatenate([z.real, z.imag], -1)


def np_attention(q, k, v, window):
    """Softmax attention with a loop over positions: a token sees itself and `window` tokens before it."""
    out = np.zeros_like(v)
    for t in range(q.shape[1]):
        seen = slice(max(0, t - window), t + 1)
        scores = np.einsum("bhd,bkhd->bhk", q[:, t], k[:, seen]) / math.sqrt(q.shape[-1])
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, t] = np.einsum("bhk,bkhd->bhd", powers / powers.sum(-1, keepdims=True), v[:, seen])
    return out


def np_sigmoid(x):
    return 1 / (1 + np.exp(-x))


def np_logits(model, tokens):
    """The whole model once more, from its description."""
    s = model.settings
    w = {name: value.detach().numpy().astype(np.float64) for name, value in model.state_dict().items()}
    tokens = tokens.numpy()
    x = np_norm(w["embedding.weight"][tokens])
    if s.smear:
        gate = w["smear_lambda"] * np_sigmoid(x[:, 1:, : s.smear_channels] @ w["smear_gate.weight"].T)
        x = np.concatenate([x[:, :1], x[:, 1:] + gate * x[:, :-1]], axis=1)
    x0, middle = x, None
    for i in range(s.depth):
        p = f"blocks.{i}."
        x = w["resid_lambdas"][i] * x + w["x0_lambdas"][i] * x0
        h = np_norm(x)
        heads = (*tokens.shape, s.width // s.head_dim, s.head_dim)
        q, k, v = ((h @ w[p + name + ".weight"].T).reshape(heads) for name in ("query", "key", "value"))
        if i % 2 == (s.depth - 1) % 2:
            gate = 2 * np_sigmoid(h[..., : s.gate_channels] @ w[p + "value_gate.weight"].T)
            v = v + gate[..., None] * w[p + "value_embedding.weight"][tokens].reshape(heads)
        q, k = (s.qk_scale * np_norm(np_rotate(y, s.rope_base)) for y in (q, k))
        x = x + np_attention(q, k, v, model.windows[i]).reshape(x.shape) @ w[p + "out.weight"].T
        x = x + np.maximum(np_norm(x) @ w[p + "up.weight"].T, 0) ** 2 @ w[p + "down.weight"].T
        if i == (s.depth - 1) // 2:
            middle = x
    if s.backout:
        x = x - w["backout_lambda"] * middle
    return s.softcap * np.tanh(np_norm(x) @ w["head.weight"].T / s.softcap)


@pytest.mark.parametrize("extras", [True, False])
@pytest.mark.parametrize("depth", [1, 3, 4])
def test_the_model_computes_what_its_description_says(depth, extras):
    model = model_of(settings(depth=depth, smear=extras, backout=extras))
    tokens = tokens_of()
    np.testing.assert_allclose(model(tokens).detach().numpy(), np_logits(model, tokens), atol=2e-4)


def test_rms_norm_and_rotation():
    x = torch.randn(2, 7, 3, 8, generator=torch.Generator().manual_seed(0))
    model = train.GPT(settings(), 50, 7)
    np.testing.assert_allclose(train.rms_norm(x).numpy(), np_norm(x.numpy().astype(np.float64)), atol=1e-6)
    turned = train.rotate(x, model.cos, model.sin)
    np.testing.assert_allclose(turned.numpy(), np_rotate(x.numpy().astype(np.float64), 10000.0), atol=1e-6)


def test_attention_scores_depend_on_distance_alone():
    q, k = (torch.randn(8, generator=torch.Generator().manual_seed(n)).expand(1, 9, 1, 8) for n in (1, 2))
    model = train.GPT(settings(), 50, 9)
    q, k = (train.rotate(x, model.cos, model.sin)[0, :, 0] for x in (q, k))
    torch.testing.assert_close(q[3] @ k[1], q[8] @ k[6])
    assert abs(q[3] @ k[1] - q[3] @ k[2]) > 1e-3


def test_later_tokens_change_nothing_before_them():
    model, tokens = model_of(settings()), tokens_of()
    other = tokens.clone()
    other[:, 7:] = (other[:, 7:] + 11) % 50
    before, after = model(tokens), model(other)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_initial_weights():
    s = settings(depth=4, width=256, head_dim=32, init_scale=0.68)
    model = train.GPT(s, 500, 16).init_weights(1)
    std = {name: parameter.std().item() for name, parameter in model.named_parameters() if parameter.numel() > 1000}
    assert std["embedding.weight"] == pytest.approx(1.0, rel=0.02)
    assert std["head.weight"] == pytest.approx(0.001, rel=0.02)
    for name in ("blocks.1.query", "blocks.0.key", "blocks.2.value", "blocks.0.up", "blocks.1.value_embedding"):
        assert std[name + ".weight"] == pytest.approx(0.68 / 16, rel=0.02)
        assert model.get_parameter(name + ".weight").abs().max() <= 0.68 * math.sqrt(3 / 256)
    for block in model.blocks:
        assert not block.out.weight.any() and not block.down.weight.any()
        assert not block.has_value_embedding or not block.value_gate.weight.any()
    assert model.resid_lambdas.tolist() == [1.0] * 4
    assert model.x0_lambdas.tolist() == pytest.approx([0.05] * 4)
    assert (
        model.smear_lambda.item() == 0 and 0 <= model.smear_gate.weight.min() <= model.smear_gate.weight.max() <= 0.02
    )
    assert model.backout_lambda.item() == pytest.approx(0.2)
    again, other = (train.GPT(s, 500, 16).init_weights(seed) for seed in (1, 2))
    assert torch.equal(again.embedding.weight, model.embedding.weight)
    assert not torch.equal(other.embedding.weight, model.embedding.weight)


def test_an_untrained_model_guesses_uniformly():
    model = train.GPT(settings(), 50, 12).init_weights(1)
    assert model.loss(tokens_of(), tokens_of(seed=6)).item() == pytest.approx(math.log(50), abs=0.01)


def test_a_parameter_without_a_role_is_refused_by_name():
    model = train.GPT(settings(), 50, 12)
    model.bias = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(train.TrainError, match=r"(?s)bias.*GPT\.roles"):
        model.roles()


# ---- attention


def plain_attention(q, k, v, window):
    """Differentiable, in float64, with the mask written out."""
    length = q.shape[1]
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    hidden = [[not 0 <= query - key <= window for key in range(length)] for query in range(length)]
    scores = scores.masked_fill(torch.tensor(hidden), -math.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


def qkv(length, seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, length, 3, 16, generator=generator).requires_grad_(grad) for _ in range(3)]


@pytest.mark.parametrize("window", [0, 1, 7, 18, 19, 20])
def test_sdpa_is_plain_attention_with_gradients(window):
    ours, plain = qkv(20), [x.detach().double().requires_grad_() for x in qkv(20)]
    slope = torch.randn(2, 20, 3, 16, generator=torch.Generator().manual_seed(9))
    out, expected = train.attend_sdpa(*ours, window), plain_attention(*plain, window)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=0)
    out.backward(slope)
    expected.backward(slope.double())
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [0, 7, 150, 200])
def test_flex_attention_is_plain_attention(window):
    """Eager and forward only: FlexAttention has no backward on the CPU."""
    q, k, v = qkv(200, grad=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*flex_attention called without torch.compile.*")
        out = train.FlexAttention([window], 200, CPU)(q, k, v, window)
    expected = plain_attention(q.double(), k.double(), v.double(), window)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=0)


def test_the_ladder_ends_at_sdpa_and_says_why_others_cannot_run():
    assert train.choose_attention(None, [5], 16, CPU, torch.float32) == ("sdpa", train.attend_sdpa)
    for name, reason in (("fa3", "Hopper"), ("flex", "CUDA and Triton")):
        with pytest.raises(train.TrainError, match=f"{name} cannot run here: .*{reason}"):
            train.choose_attention(name, [5], 16, CPU, torch.float32)


def test_any_attention_can_be_set():
    model, tokens = model_of(settings()), tokens_of()
    calls = []

    def spy(q, k, v, window):
        calls.append((tuple(q.shape), window))
        return train.attend_sdpa(q, k, v, window)

    expected = model(tokens)
    model.attend = spy
    assert torch.equal(model(tokens), expected)
    assert calls == [((2, 12, 4, 8), window) for window in (5, 12, 12)]


# ---- loss


@pytest.mark.parametrize("chunk", [1, 7, 24, 100])
def test_the_loss_and_its_gradients_are_those_of_plain_cross_entropy(chunk):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(24, 16, generator=generator), 3 * torch.randn(50, 16, generator=generator)
    targets = torch.randint(50, (24,), generator=generator)
    ours = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    loss = train.SoftcapCrossEntropy.apply(*ours, targets, 15.0, chunk, train.chunk_loss) / 24
    (2.5 * loss).backward()
    plain = [hidden.double().requires_grad_(), weight.double().requires_grad_()]
    expected = F.cross_entropy(15 * torch.tanh(plain[0] @ plain[1].T / 15), targets)
    (2.5 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, atol=1e-5, rtol=1e-4)


def test_model_loss_agrees_with_its_logits():
    model, tokens, targets = model_of(settings(loss_chunk=10)), tokens_of(), tokens_of(seed=6)
    expected = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), reduction="none").view(2, 12)
    each = model.loss(tokens, targets, "none")
    assert each.shape == (2, 12) and not each.requires_grad
    torch.testing.assert_close(each, expected, atol=1e-5, rtol=0)
    expected.mean().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    mean = model.loss(tokens, targets)
    mean.backward()
    assert mean.item() == pytest.approx(expected.mean().item(), abs=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-3, msg=name)


def test_saturated_logits_give_finite_losses():
    hidden, weight = torch.full((2, 4), 1e4), torch.tensor([[1.0] * 4, [-1.0] * 4, [0.0] * 4])
    nats, slopes = train.chunk_loss(hidden, weight, torch.tensor([0, 1]), 15.0, True)
    expected = torch.logsumexp(torch.tensor([15.0, -15.0, 0.0]), 0) - torch.tensor([15.0, -15.0])
    torch.testing.assert_close(nats, expected)
    assert torch.isfinite(slopes).all()
