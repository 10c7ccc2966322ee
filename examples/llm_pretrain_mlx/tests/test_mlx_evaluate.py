"""evaluate.py: the number is the one a textbook gives, and models that cheat get none.

    pytest examples/llm_pretrain_mlx/tests/test_mlx_evaluate.py          what can be judged in one process
    pytest examples/llm_pretrain_mlx/tests/test_mlx_evaluate.py -m ''    and the command line on real data

Each cheat is a function, exported like any model. Seeds are fixed here, so that a test that passes passes again; where
a cheat is caught by luck, the test says with which probability it would escape.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlx")  # not mlx.core, which must come after the BLAS that `machine` loads

from mlx_modules import EXAMPLE, load

evaluate, graph, reading = load("evaluate"), load("graph"), load("data")
mx = graph.mx
optimizers = pytest.importorskip("mlx.optimizers")
EvaluationError = evaluate.EvaluationError

V, T, B = 12, 32, 4
BOS = V - 1
BYTES = np.array([1, 1, 2, 2, 3, 3, 1, 4, 5, 6, 2, 0], np.int32)


def chain() -> np.ndarray:
    """Transition probabilities [V, V]: a language of bigrams, which knows no BOS after a token."""
    table = np.random.default_rng(5).dirichlet(np.full(V, 0.3), V)
    table[:, BOS] = 0
    return table / table.sum(1, keepdims=True)


def language(n: int, length: int = T, seed: int = 6) -> np.ndarray:
    """Rows [n, length + 1] of that language, each from BOS, and a document that ends now and then."""
    rng, table = np.random.default_rng(seed), chain()
    rows = np.full((n, length + 1), BOS, np.uint16)
    for row in rows:
        for i in range(1, length + 1):
            row[i] = BOS if rng.random() < 0.02 else rng.choice(V, p=table[row[i - 1]])
    return rows


ROWS = language(90)


BIGRAMS = np.log(0.97 * chain() + 0.03 / V)


def table(logits=BIGRAMS):
    """Logits by the last token alone: the bigrams of the language, smoothed."""
    weights = mx.array(np.asarray(logits, np.float32))
    return lambda tokens: weights[tokens]


@pytest.fixture
def judged(tmp_path):
    """What the judge finds for a model, a function of tokens, which goes through a file."""

    def judge(model, rows=ROWS, batch_rows=B, seed=0, probes=256, kind="cpu"):
        length = rows.shape[1] - 1
        about = {"tokenizer_sha256": "", "data": "", "vocab_size": V, "sequence_length": length}
        graph.save(model, tmp_path / "model.graph", batch_rows, length, about)
        loaded = graph.load(tmp_path / "model.graph")
        return evaluate.judge(loaded, reading.Rows([rows]), BYTES, np.random.default_rng(seed), probes, kind)

    return judge


def bpb(found) -> float:
    return reading.bits_per_byte(found.nats, found.n_bytes)


# ---- the number ------------------------------------------------------------------------------------------------------


def test_bits_per_byte_of_a_case_by_hand(judged):
    # Logits are logs of probabilities with small denominators; the third target is BOS and counts nothing.
    p = np.full((V, V), 1e-9)
    p[BOS, 0], p[0, 4], p[4, BOS], p[BOS, 7] = 1 / 2, 1 / 8, 1 / 3, 1 / 4
    p[:, 1] += 1 - p.sum(1)
    rows = np.array([[BOS, 0, 4, BOS, 7]], np.uint16)
    found = judged(table(np.log(p)), rows, batch_rows=1)
    # 1 bit for a token of 1 byte, 3 bits for one of 3 bytes, 2 bits for one of 4 bytes.
    assert (found.n_bytes, found.n_tokens) == (8, 3)
    assert bpb(found) == pytest.approx((1 + 3 + 2) / 8, abs=1e-6)


def test_a_uniform_model_pays_log2_v_for_each_token(judged):
    found = judged(table(np.zeros((V, V))))
    assert bpb(found) == pytest.approx(math.log2(V) * found.n_tokens / found.n_bytes, rel=1e-6)


def test_the_table_of_the_language_pays_what_numpy_says(judged):
    log_p = BIGRAMS.astype(np.float32).astype(np.float64)
    log_p = log_p - np.log(np.exp(log_p).sum(1, keepdims=True))
    x, y = ROWS[:, :-1], ROWS[:, 1:]
    found = judged(table())
    assert found.nats == pytest.approx(-log_p[x, y][y != BOS].sum(), rel=1e-6)
    assert found.n_bytes == BYTES[y].sum()
    assert found.n_tokens == (y != BOS).sum()


@pytest.mark.parametrize("batch_rows", [1, 2, 7, 89, 90, 91, 200])
def test_every_row_counts_once_whatever_the_batch(batch_rows, judged):
    expected = judged(table(), batch_rows=B)
    found = judged(table(), batch_rows=batch_rows)
    assert (found.n_bytes, found.n_tokens) == (expected.n_bytes, expected.n_tokens)
    assert found.nats == pytest.approx(expected.nats, rel=1e-9)
    assert found.probes >= 200


@pytest.mark.parametrize("level", [-1e30, -1e8, 1e8, 1e30])
def test_the_level_of_logits_buys_nothing(level, judged):
    # log-sum-exp minus logit would be 0 here, the loss of an oracle: 1e8 + ln 12 is 1e8 in float32.
    found = judged(table(np.full((V, V), level)))
    assert found.nats == pytest.approx(math.log(V) * found.n_tokens, rel=1e-6)


def test_huge_logits_are_paid_for(judged):
    assert bpb(judged(lambda tokens: table()(tokens) * 1e6)) > 1000


def test_a_model_may_rule_out_what_never_comes(judged):
    # BOS is no target that counts, so nothing is lost by it.
    masked = judged(lambda tokens: mx.where(mx.arange(V) == BOS, -math.inf, table()(tokens)))
    assert masked.nats < judged(table()).nats


def test_half_precision_logits_are_judged_in_single_precision(judged):
    half = judged(lambda tokens: table()(tokens).astype(mx.bfloat16))
    assert bpb(half) == pytest.approx(bpb(judged(table())), rel=1e-2)


def test_every_row_is_compared_and_more_on_demand(judged):
    assert judged(table(), batch_rows=16, probes=1).probes >= len(ROWS)  # two passes, with other bystanders
    assert 400 <= judged(table(), probes=400).probes < 400 + B
    many = np.tile(ROWS, (30, 1))
    assert judged(table(), many, batch_rows=90).probes == len(many) * 79 // 90  # one pass, 11 rows of 90 stand by


def test_the_number_of_threads_changes_nothing(judged, monkeypatch):
    expected = judged(table(), seed=3)
    monkeypatch.setattr(evaluate, "THREADS", 1)
    assert judged(table(), seed=3) == expected


def test_the_way_of_a_gpu_gives_the_same_number(judged):
    """One batch after the other, logits by MLX: it runs on any device."""
    cpu, gpu = (judged(table(), seed=3, kind=kind) for kind in ("cpu", "metal"))
    assert gpu.nats == pytest.approx(cpu.nats, rel=1e-6)
    assert (gpu.n_bytes, gpu.n_tokens, gpu.probes) == (cpu.n_bytes, cpu.n_tokens, cpu.probes)
    with pytest.raises(EvaluationError, match="the model sees what it must not"):
        judged(cheat(everywhere), kind="metal")


def test_the_scale_of_a_gpu_says_what_that_of_the_cpu_says():
    """The part of a GPU runs on any device."""
    rng = np.random.default_rng(0)
    before = (rng.standard_normal((500, V)) * 5).astype(np.float32)
    after, targets, at = (
        before + rng.normal(0, 0.1, (500, V)).astype(np.float32),
        rng.integers(0, V, 500),
        np.arange(1, 500, 2),
    )
    before[3, 2] = after[5, 1] = math.nan
    before[7, 4] = after[7, 4] = -math.inf
    before[9, 0] = math.inf
    cpu, gpu = evaluate.Scale("cpu"), evaluate.Scale("metal")
    cpu.chunk = gpu.chunk = 100 * V
    losses, changes = cpu.token_losses(before, targets), cpu.differences(before, after, at)
    assert np.isnan(losses[[3, 9]]).all() and np.isnan(changes[[2, 4]]).all() and np.isfinite(changes[3])
    exact = before[10:].astype(np.float64)
    log_p = exact - np.log(np.exp(exact).sum(1, keepdims=True))
    np.testing.assert_allclose(losses[10:], -log_p[np.arange(490), targets[10:]], atol=1e-5)
    before, after = mx.array(before), mx.array(after)
    np.testing.assert_allclose(gpu.token_losses(before, targets), losses, atol=1e-5)
    np.testing.assert_allclose(gpu.differences(before, after, at), changes, atol=1e-5)


# ---- models that are what they say ----------------------------------------------------------------------------------

WIDTH = 32
RNG = np.random.default_rng(7)
EMBEDDING, POSITION, QKV, HEAD = (
    mx.array(RNG.standard_normal(shape).astype(np.float32))
    for shape in ((V, WIDTH), (T, WIDTH), (WIDTH, 3 * WIDTH), (WIDTH, V))
)
QKV = QKV / WIDTH**0.5
mx.eval(EMBEDDING, POSITION, QKV, HEAD)


def attention(tokens, dtype=mx.float32, mask="causal"):
    x = mx.fast.rms_norm(EMBEDDING[tokens] + POSITION, None, 1e-5).astype(dtype)
    b, t, _ = x.shape
    q, k, v = (x @ QKV.astype(dtype)).reshape(b, t, 3, 2, 16).transpose(2, 0, 3, 1, 4)
    y = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.25, mask=mask)
    return (x + y.swapaxes(1, 2).reshape(b, t, WIDTH)).astype(mx.float32) @ HEAD


def half_attention(tokens):
    return attention(tokens, mx.bfloat16)


def running_mean(tokens):
    return (mx.cumsum(EMBEDDING[tokens], axis=1) / mx.arange(1, T + 1)[:, None]) @ HEAD


def convolution(tokens):
    """Each output is a weighted sum of the last four tokens."""
    padded = mx.pad(EMBEDDING[tokens], [(0, 0), (3, 0), (0, 0)])
    return mx.conv1d(padded, POSITION[:4].T[..., None], groups=WIDTH) @ HEAD


def fourier(tokens):
    """A long convolution: each output is a sum over past tokens, computed with the future in the same transform."""
    spectrum = mx.fft.rfft(EMBEDDING[tokens], 2 * T, axis=1) * mx.fft.rfft(POSITION, 2 * T, axis=0)
    return mx.fft.irfft(spectrum, 2 * T, axis=1)[:, :T] @ HEAD


def mixture(tokens):
    x = EMBEDDING[tokens]
    weight = mx.softmax(x[..., :4], axis=-1)
    chosen = mx.argsort(-weight, axis=-1)[..., :2]
    outputs = mx.stack([mx.maximum(mx.roll(x, i, axis=-1), 0) for i in range(4)], axis=2)
    picked = mx.take_along_axis(outputs, chosen[..., None], axis=2)
    y = (mx.take_along_axis(weight, chosen, axis=-1)[..., None] * picked).sum(2)
    return (y + mx.pad(x, [(0, 0), (1, 0), (0, 0)])[:, :-1]) @ HEAD


@pytest.mark.parametrize("model", [attention, half_attention, running_mean, convolution, fourier, mixture])
def test_causal_models_get_their_number(model, judged):
    assert judged(model, probes=400).nats > 0


# ---- models that look where they must not ---------------------------------------------------------------------------


def one_hot(tokens):
    return (tokens[..., None] == mx.arange(V)).astype(mx.float32)


def next_tokens(tokens):
    """The token after each; after the last one, which cannot be seen, the first."""
    return mx.roll(tokens, -1, axis=1)


def next_logits(tokens):
    return mx.take_along_axis(table()(tokens), next_tokens(tokens)[..., None], axis=-1)[..., 0]


def cheat(where, bonus=8.0):
    """The table, and for the next token a bonus where where(tokens) is true."""

    def model(tokens):
        seen = mx.broadcast_to(where(tokens), tokens.shape) & (mx.arange(tokens.shape[1]) < tokens.shape[1] - 1)
        return table()(tokens) + bonus * one_hot(next_tokens(tokens)) * seen[..., None]

    return model


def everywhere(tokens):
    return tokens >= 0


def every_fiftieth(tokens):
    return (mx.arange(tokens.shape[1]) + 17 * mx.arange(len(tokens))[:, None]) % 50 == 7


def even_rows(tokens):
    return tokens[:, 1:2] % 2 == 0


def real_text(tokens):
    """Only while all that it sees of the row is text: no pair of tokens that the language has not."""
    return (next_logits(tokens) < -4.5)[:, :-1].sum(1, keepdims=True) < 2


def where_plausible(tokens):
    """Only at tokens that it would have called likely, as no random token is."""
    return next_logits(tokens) > -1.5


def where_dear(tokens):
    """Only where it would have paid most."""
    return next_logits(tokens) < -3


def some_batches(tokens):
    return tokens[0, 5] == 3


def one_row_in_many(tokens):
    """All along the few rows that it knows by a fingerprint."""
    return (tokens[:, 2:9] * mx.arange(1, 8)).sum(1, keepdims=True) % 23 == 4


def one_batch_in_many(tokens):
    """All along the batches that it knows by a fingerprint."""
    return ((tokens.sum() * 77) >> 2) % 9 == 0


def far_ahead(tokens):
    return table()(tokens) + one_hot(tokens[:, -1:])


def whole_row_mean(tokens):
    return table()(tokens) - 0.5 * table()(tokens).mean(1, keepdims=True)


def neighbour(tokens):
    return table()(tokens) + one_hot(mx.roll(tokens, -1, axis=0))


def neighbour_start(tokens):
    return table()(tokens) + one_hot(mx.roll(tokens, -1, axis=0)[:, 1:2])


def batch_statistics(tokens):
    return table()(tokens) - 0.5 * table()(tokens).mean((0, 1))


def two_ways(tokens):
    return attention(tokens, mask=None)


def nan_on_random_text(tokens):
    """Falls silent when the text is not real: a comparison with NaN must not pass."""
    odd = (next_logits(tokens) < -4.5).sum(1) > 8
    return table()(tokens) + mx.where(odd, math.nan, 0.0)[:, None, None]


# With the least share of passes, of three rows each, that must catch it. 256 probes are 86 passes: a share of 0.06
# leaves an escape of (1 - 0.06)^86 = 0.5 %, one of 0.12 an escape of 0.002 %.
CHEATS = {
    "everywhere": (cheat(everywhere), 0.95), "every fiftieth": (cheat(every_fiftieth), 0.06),
    "even rows": (cheat(even_rows), 0.12), "real text": (cheat(real_text), 0.8),
    "where plausible": (cheat(where_plausible), 0.8), "where dear": (cheat(where_dear), 0.8),
    "some batches": (cheat(some_batches), 0.12), "far ahead": (far_ahead, 0.95),
    "whole row mean": (whole_row_mean, 0.95), "neighbour": (neighbour, 0.95),
    "neighbour start": (neighbour_start, 0.95), "batch statistics": (batch_statistics, 0.95),
    "NaN on random text": (nan_on_random_text, 0.5), "two ways": (two_ways, 0.95),
    "hardly more than rounding": (cheat(everywhere, 5e-3), 0.95),
}  # fmt: skip


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_caught(name, judged, monkeypatch):
    model, share = CHEATS[name]
    with pytest.raises(EvaluationError, match=r"the model sees what it must not: .* of row \d+.*\nhint: "):
        judged(model)
    # How sure that was: let everything pass, and count.
    real, caught = evaluate.Scale.differences, []

    def differences(*given):
        found = real(*given)
        caught.append(not bool((found <= evaluate.TOLERANCE).all()))
        return np.zeros_like(found)

    monkeypatch.setattr(evaluate.Scale, "differences", differences)
    monkeypatch.setattr(evaluate, "MEAN_TOLERANCE", math.inf)
    judged(model, seed=1, probes=450)
    assert np.mean(caught) >= share


@pytest.mark.parametrize("where", [one_row_in_many, one_batch_in_many])
def test_whoever_peeks_in_whole_rows_never_gains_by_it(where, judged, monkeypatch):
    """Any share of the batches that is not looked at a second time is worth a cheat's while."""
    honest, gained = judged(table()).nats, 0
    for seed in range(8):
        with monkeypatch.context() as blind:
            blind.setattr(evaluate, "TOLERANCE", math.inf)
            blind.setattr(evaluate, "MEAN_TOLERANCE", math.inf)
            if judged(cheat(where), seed=seed, probes=1).nats > 0.999 * honest:
                continue
        gained += 1
        with pytest.raises(EvaluationError, match="the model sees what it must not"):
            judged(cheat(where), seed=seed, probes=1)
    assert gained > 3


def test_what_whispers_is_heard_in_the_mean(judged):
    """A peek at every position, too small to tell from rounding: only the mean over many cuts shows it."""
    with pytest.raises(EvaluationError, match=r"replaced futures cost 0\.000[345]\d+ nats per token on average"):
        judged(cheat(everywhere, 5e-4))


def test_what_is_paid_at_some_cuts_hides_no_whisper_at_others(judged, monkeypatch):
    """It wins over all positions, and pays where it is surer of the next token, which is where more of the cuts are."""

    def model(tokens):
        amount = mx.where(next_logits(tokens) > -1.2, -6e-4, 6e-4)
        return cheat(everywhere, amount[..., None])(tokens)

    with pytest.raises(EvaluationError, match=r"replaced futures cost 0\.000[12]\d+ nats"):
        judged(model)
    monkeypatch.setattr(evaluate, "MEAN_TOLERANCE", math.inf)
    assert judged(model).nats < judged(table()).nats


def test_a_cheat_pays_less_which_is_why_it_must_be_caught(judged, monkeypatch):
    monkeypatch.setattr(evaluate, "TOLERANCE", math.inf)
    monkeypatch.setattr(evaluate, "MEAN_TOLERANCE", math.inf)
    honest = bpb(judged(table()))
    assert bpb(judged(cheat(everywhere))) < 0.2 * honest
    assert bpb(judged(cheat(every_fiftieth))) < honest - 0.005


def test_half_of_the_cuts_are_where_a_peek_would_pay():
    losses = np.full((4000, T), 2.0)
    losses[:, 7] = 0.1
    cuts = evaluate.draw_cuts(losses, np.full((4000, T), 2.0), np.random.default_rng(0))
    assert 0.48 < (cuts == 7).mean() < 0.56
    others = np.bincount(cuts, minlength=T)[[i for i in range(T - 1) if i != 7]]
    assert others.min() > 30
    assert cuts.max() == T - 2  # what follows the last input is seen by nobody


def test_cuts_are_anywhere_where_no_peek_would_pay():
    cuts = evaluate.draw_cuts(np.full((3000, 3), 2.0), np.ones((3000, 3)), np.random.default_rng(0))
    assert set(cuts) == {0, 1}
    assert set(evaluate.draw_cuts(np.ones((5, 1)), np.ones((5, 1)), np.random.default_rng(0))) == {0}


# ---- logits that give no number --------------------------------------------------------------------------------------


def spoilt(value, at):
    """One value of one logit is replaced: where the token is 3, of the token `at`."""

    def model(tokens):
        return mx.where((tokens == 3)[..., None] & (mx.arange(V) == at), value, table()(tokens))

    return model


AFTER_3 = int(ROWS[0][np.flatnonzero(ROWS[0] == 3)[0] + 1])


@pytest.mark.parametrize(
    ("value", "at", "says"),
    [
        (math.nan, 0, "hold NaN or infinity"),
        (math.nan, BOS, "hold NaN or infinity"),
        (math.inf, 0, "hold NaN or infinity"),
        (math.inf, AFTER_3, "hold NaN or infinity"),
        (-math.inf, AFTER_3, "rules out the true token of row"),
    ],
)
def test_one_logit_that_is_no_number_is_a_crash_with_its_place(value, at, says, judged):
    with pytest.raises(EvaluationError, match=rf"{says}.*\nhint: keep logits finite") as error:
        judged(spoilt(value, at))
    row, position = map(int, re.search(r"row (\d+) at position (\d+)", str(error.value)).groups())
    assert ROWS[row, position] == 3


def test_half_precision_that_overflows_is_a_crash(judged):
    with pytest.raises(EvaluationError, match=r"NaN or infinity|rules out"):
        judged(lambda tokens: (table()(tokens).astype(mx.float16) * 60000).astype(mx.float32))


def test_nothing_but_minus_infinity_is_a_crash(judged):
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        judged(table(np.full((V, V), -np.inf)))


def test_rows_without_text_are_a_crash(judged):
    with pytest.raises(EvaluationError, match="no row of this split holds text"):
        judged(table(), np.full((4, T + 1), BOS, np.uint16))


# ---- the command, on real data ---------------------------------------------------------------------------------------

slow = pytest.mark.slow
LENGTH, VOCABULARY, WIDE = 64, 320, 64


def parameters(vocabulary: int = VOCABULARY) -> dict:
    shapes = {
        "embedding": (vocabulary, WIDE), "position": (LENGTH, WIDE), "qkv": (WIDE, 3 * WIDE), "out": (WIDE, WIDE),
        "up": (WIDE, 4 * WIDE), "down": (4 * WIDE, WIDE), "head": (WIDE, vocabulary),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    return {name: mx.array((rng.standard_normal(shape) / 8).astype(np.float32)) for name, shape in shapes.items()}


def little(weights: dict, tokens):
    """A transformer of one layer."""
    x = weights["embedding"][tokens] + weights["position"][: tokens.shape[1]]
    b, t, _ = x.shape
    parts = mx.split(mx.fast.rms_norm(x, None, 1e-5) @ weights["qkv"], 3, axis=-1)
    q, k, v = (part.reshape(b, t, 4, -1).swapaxes(1, 2) for part in parts)
    y = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.25, mask="causal").swapaxes(1, 2).reshape(b, t, WIDE)
    x = x + y @ weights["out"]
    x = x + mx.square(mx.maximum(mx.fast.rms_norm(x, None, 1e-5) @ weights["up"], 0)) @ weights["down"]
    return mx.fast.rms_norm(x, None, 1e-5) @ weights["head"]


def log_softmax(logits):
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def loss(weights: dict, rows):
    return -mx.take_along_axis(log_softmax(little(weights, rows[:, :-1])), rows[:, 1:, None], axis=-1).mean()


class Data:
    """A folder of data, the data set in it, and a model trained on it with its loss as training sees it."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.model = folder / "cache", folder / "model.graph"
        subprocess.run(
            [
                *(sys.executable, EXAMPLE / "prepare.py", "synthetic", "--name", "stories", "--cache", self.cache),
                *("--vocab-size", str(VOCABULARY), "--sequence-length", str(LENGTH)),
                *("--stories", "1500", "--val-tokens", "12000", "--workers", "1"),
            ],
            check=True,
            capture_output=True,
        )
        self.set = reading.open_dataset("stories", self.cache)
        self.weights = parameters()
        optimizer = optimizers.AdamW(3e-3)
        step = mx.value_and_grad(loss)
        stream = reading.Stream(self.set.rows("train"), 16, 0)
        for _ in range(150):
            _, gradients = step(self.weights, mx.array(stream.next().astype(np.int32)))
            self.weights = optimizer.apply_gradients(gradients, self.weights)
            mx.eval(self.weights)
        self.write(self.trained, self.model)

    def trained(self, tokens):
        return little(self.weights, tokens)

    @property
    def about(self) -> dict:
        return {
            "tokenizer_sha256": self.set.tokenizer_sha256,
            "data": "stories",
            "vocab_size": VOCABULARY,
            "sequence_length": LENGTH,
        }

    def write(self, model, path: Path, rows: int = 8, length: int = LENGTH, **about) -> None:
        graph.save(model, path, rows, length, self.about | about)

    def bpb(self, split: str) -> float:
        """By a softmax in float64."""
        rows = self.set.rows(split)[:].astype(np.int32)
        logits = np.array(self.trained(mx.array(rows[:, :-1]))).astype(np.float64)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        targets = rows[:, 1:]
        lengths = self.set.token_bytes[targets]
        paid = -np.take_along_axis(log_p, targets[..., None], -1)[..., 0] * (lengths > 0)
        return paid.sum() / math.log(2) / lengths.sum()

    def command(self, *arguments: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, EXAMPLE / "evaluate.py", *map(str, arguments)],
            cwd=self.model.parent,
            env={**os.environ, "ARK_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def refused(data, capsys):
    """What main() says on stderr, when it fails as it should: in this process, since it is asked so often."""

    def ask(*arguments: object) -> str:
        given = ["--device", "cpu", "--data", "stories", "--cache", data.cache, *arguments]
        code = evaluate.main([*map(str, given)])
        said = capsys.readouterr()
        assert code == 1, said.out
        assert said.out == ""
        assert re.fullmatch(r"evaluate\.py: .+\nhint: .+\n", said.err), said.err
        return said.err

    return ask


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return Data(tmp_path_factory.mktemp("judge"))


def lines(done: subprocess.CompletedProcess) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return dict(re.fullmatch(r"(\w+): +(\S+)", line).groups() for line in done.stdout.splitlines())


@slow
@pytest.mark.parametrize("split", ["val", "holdout"])
def test_the_command_and_float64_agree_on_a_trained_model(data, split):
    done = data.command("--data", "stories", "--device", "cpu", "--split", split)
    found = lines(done)
    assert float(found["val_bpb"]) == pytest.approx(data.bpb(split), abs=1e-5)
    floor = data.set.floor[split]
    assert float(found["entropy_floor_bpb"]) == pytest.approx(floor, abs=1e-6)
    assert float(found["above_floor_percent"]) == pytest.approx(100 * (float(found["val_bpb"]) / floor - 1), abs=0.01)
    rows = data.set.rows(split)
    special = (data.set.token_bytes[rows[:][:, 1:]] == 0).sum()
    assert int(found["eval_tokens"]) == len(rows) * LENGTH - special
    assert found["split"] == split
    assert found["eval_device"] == "cpu"
    assert int(found["probes"]) >= evaluate.LEAST_PROBES
    assert float(found["eval_peak_mb"]) > 1
    assert float(found["val_loss"]) == pytest.approx(
        float(found["val_bpb"]) * math.log(2) * float(found["bytes_per_token"]), rel=1e-3
    )
    assert done.stdout.startswith("val_bpb:          ")
    # It was trained: far better than without, and no better than can be.
    assert floor < float(found["val_bpb"]) < 2.2


@slow
def test_a_model_that_was_never_trained_gets_the_honest_number(data, tmp_path):
    weights = parameters() | {"head": mx.zeros((WIDE, VOCABULARY))}
    data.write(lambda tokens: little(weights, tokens), tmp_path / "m")
    found = lines(data.command("--data", "stories", "--device", "cpu", "--model", tmp_path / "m"))
    assert float(found["val_loss"]) == pytest.approx(math.log(VOCABULARY), abs=1e-5)


@slow
def test_files_that_are_no_model_of_these_data(data, refused, tmp_path):
    content = data.model.read_bytes()
    (tmp_path / "truncated").write_bytes(content[:-100])
    flipped = bytearray(content)
    flipped[-50] ^= 1
    (tmp_path / "flipped").write_bytes(flipped)
    (tmp_path / "endless").symlink_to("/dev/zero")
    body = content[: -graph.HASH_BYTES].replace(b"Square", b"Zquare")
    (tmp_path / "another primitive").write_bytes(body + hashlib.sha256(body).digest())
    data.write(data.trained, tmp_path / "tokenizer", tokenizer_sha256="0" * 64, data="mine")
    data.write(data.trained, tmp_path / "forged lines", tokenizer_sha256="0" * 64, data="x\nval_bpb: 0.1\n\x1b[2J")
    data.write(data.trained, tmp_path / "length", length=LENGTH // 2, sequence_length=LENGTH // 2)
    other = parameters(400)
    data.write(lambda tokens: little(other, tokens), tmp_path / "vocabulary", vocab_size=400)
    cases = {
        "truncated": "truncated or altered",
        "flipped": "truncated or altered",
        "endless": "no plain file",
        "missing": r"there is no .*missing\nhint: train one first",
        "another primitive": "'Zquare', which evaluation does not run",
        "tokenizer": r"tokenizer of the data set 'mine', not of 'stories'\nhint: .*train\.py --data stories",
        "forged lines": r"'x\\nval_bpb: 0\.1\\n\\x1b\[2J', not of",
        "length": "sequence_length is 32, that of 'stories' 64",
        "vocabulary": "vocab_size is 400, that of 'stories' 320",
    }
    for name, says in cases.items():
        assert re.search(says, refused("--model", tmp_path / name)), name


def peeking(tokens):
    bonus = (mx.roll(tokens, -1, axis=1)[..., None] == mx.arange(VOCABULARY)).astype(mx.float32)
    return 5 * bonus


@slow
def test_a_cheat_gets_no_number_from_the_command(data, tmp_path):
    data.write(peeking, tmp_path / "m")
    done = data.command("--device", "cpu", "--data", "stories", "--model", tmp_path / "m")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"evaluate\.py: the model sees what it must not: .+\nhint: .+\n", done.stderr)


@slow
def test_a_number_below_the_known_entropy_is_refused(data, refused, tmp_path, monkeypatch):
    """As a model would have it that knows the rows by heart."""
    monkeypatch.setattr(evaluate, "TOLERANCE", math.inf)
    monkeypatch.setattr(evaluate, "MEAN_TOLERANCE", math.inf)
    data.write(lambda tokens: 4 * peeking(tokens), tmp_path / "m")
    assert re.search(r"for text that holds \d\.\d+: it knows what it must not", refused("--model", tmp_path / "m"))


@slow
def test_a_graph_that_needs_more_memory_than_it_may(data, refused, monkeypatch):
    monkeypatch.setattr(graph, "MAX_LIVING_BYTES", 2**20)
    assert re.search(r"holds \d+\.\d GB at once.*\nhint: .* fewer rows", refused("--model", data.model))


@slow
def test_a_model_that_breaks_on_one_token_gets_no_number(data, refused, tmp_path):
    token = int(np.bincount(data.set.rows("val")[:].ravel()).argmax())
    data.write(lambda tokens: mx.where((tokens == token)[..., None], math.nan, data.trained(tokens)), tmp_path / "m")
    assert "NaN or infinity" in refused("--model", tmp_path / "m")


@slow
def test_the_probes_differ_from_run_to_run(data, tmp_path, monkeypatch, capsys):
    """The seed of the engine does not decide where they are."""
    monkeypatch.setenv("ARK_SEED", "1")
    data.write(peeking, tmp_path / "m", rows=1)
    arguments = ["--data", "stories", "--cache", data.cache, "--device", "cpu", "--model", tmp_path / "m"]
    places = set()
    for _ in range(3):
        assert evaluate.main([*map(str, arguments)]) == 1
        places.add(re.search(r"position \d+ of row \d+", capsys.readouterr().err).group())
    assert len(places) > 1


@slow
def test_other_things_that_are_missing_are_said_in_a_sentence(data, refused, tmp_path):
    assert "There is no data set 'nowhere'" in refused("--data", "nowhere")
    assert "no device 'abacus'" in refused("--device", "abacus")
    if load("machine").backend() == "cpu":
        assert "hint: evaluate on the CPU: --device cpu" in refused("--device", "gpu")
    damaged = tmp_path / "cache"
    shutil.copytree(data.cache, damaged)
    (shard,) = (damaged / "llm" / "stories").glob("val*.bin")
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    assert "damaged" in refused("--cache", damaged)


def test_no_probes_at_all_is_no_choice(capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(["--probes", "0"])
    assert "--probes" in capsys.readouterr().err


@slow
def test_a_training_file_beside_the_judge_is_never_imported(data, tmp_path):
    folder = tmp_path / "example"
    folder.mkdir()
    for name in ("evaluate.py", "graph.py", "data.py", "machine.py", "command.py"):
        shutil.copy(EXAMPLE / name, folder)
    (folder / "train.py").write_text("raise SystemExit('imported')\n")
    shutil.copy(data.model, folder)
    done = subprocess.run(
        [sys.executable, "evaluate.py", "--data", "stories", "--cache", data.cache, "--device", "cpu"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert float(lines(done)["val_bpb"]) == pytest.approx(data.bpb("val"), abs=1e-5)
