"""Elementary functions, rotation and the eight kernels of the cpu backend, each alone; the benchmark's output."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ane_build import ANE, build, modules, pointer, program
from ane_model import CModel, Config

PROBE = """
#include "elementary.h"
void exps(const real *x, real *y, int n) { for (int i = 0; i < n; i++) y[i] = real_exp(x[i]); }
void tanhs(const real *x, real *y, int n) { for (int i = 0; i < n; i++) y[i] = real_tanh(x[i]); }
void small_tanhs(const real *x, real *y, int n) { for (int i = 0; i < n; i++) y[i] = real_tanh_small(x[i]); }
void sigmoids(const real *x, real *y, int n) { for (int i = 0; i < n; i++) y[i] = real_sigmoid(x[i]); }
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    source = tmp_path_factory.mktemp("probe") / "probe.c"
    source.write_text(PROBE)
    return ctypes.CDLL(str(build([source], ["-fPIC", "-shared"])))


def applied(function: ctypes._CFuncPtr, x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    function(pointer(x), pointer(y), len(x))
    return y


def units(found: np.ndarray, exact: np.ndarray) -> float:
    """Largest error in units in the last place of the exact float64 values."""
    return float((np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32))).max())


def test_exp_is_exact_to_two_units(probe: ctypes.CDLL) -> None:
    x = np.concatenate([np.linspace(-87, 88, 1_000_003), np.linspace(-1e-3, 1e-3, 10_001)]).astype(np.float32)
    assert units(applied(probe.exps, x), np.exp(x.astype(np.float64))) <= 2
    ends = np.array([0, -87.5, -1e30, -np.inf, 1e30, np.inf], np.float32)
    assert applied(probe.exps, ends).tolist() == [1, 0, 0, 0, *applied(probe.exps, np.full(2, 88, np.float32)).tolist()]
    assert np.isnan(applied(probe.exps, np.full(17, np.nan, np.float32))).all()


def test_tanh_is_exact_to_three_units_and_odd(probe: ctypes.CDLL) -> None:
    x = np.concatenate([np.linspace(1e-6, 20, 1_000_003), np.linspace(1e-30, 1e-3, 10_001)]).astype(np.float32)
    y = applied(probe.tanhs, x)
    assert units(y, np.tanh(x.astype(np.float64))) <= 3
    assert (applied(probe.tanhs, -x) == -y).all()
    small = x[x < 0.625]
    assert (applied(probe.small_tanhs, small) == applied(probe.tanhs, small)).all()
    ends = np.array([0, np.inf, -np.inf, 1e30], np.float32)
    assert applied(probe.tanhs, ends).tolist() == [0, 1, -1, 1]
    assert np.isnan(applied(probe.tanhs, np.full(17, np.nan, np.float32))).all()


def test_sigmoid_is_exact_to_four_units_where_it_is_not_tiny(probe: ctypes.CDLL) -> None:
    x = np.linspace(-80, 100, 1_000_003).astype(np.float32)
    assert units(applied(probe.sigmoids, x), 1 / (1 + np.exp(-x.astype(np.float64)))) <= 4
    assert applied(probe.sigmoids, np.array([-np.inf, -200, 200], np.float32)).tolist() == pytest.approx(
        [0, 0, 1], abs=1e-37
    )


SHAPES = {
    "square": Config(dim=32, hidden=64, heads=2, seq=32),
    "long": Config(dim=32, hidden=48, heads=4, seq=256, rope=True),
    "uneven": Config(dim=36, hidden=20, heads=3, seq=96),
}


def softmax_causal(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Probabilities [queries, keys] of one head from q and k [size, seq]."""
    scores = np.where(np.tri(q.shape[1], dtype=bool), q.T @ k / np.sqrt(len(q)), -np.inf)
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def turned(x: np.ndarray, config: Config) -> np.ndarray:
    """Pairs of channels as complex numbers times e^(i angle)."""
    size = config.dim // config.heads
    pairs = x[0::2] + 1j * x[1::2]
    theta = np.tile(10000.0 ** (-np.arange(0, size, 2) / size), config.heads)
    pairs = pairs * np.exp(1j * theta[:, None] * np.arange(config.seq))
    return np.stack([pairs.real, pairs.imag], 1).reshape(x.shape)


@pytest.mark.parametrize("name", SHAPES)
def test_each_kernel_is_its_formula(name: str) -> None:
    config, rng = SHAPES[name], np.random.default_rng(4)
    d, f, s, heads = config.dim, config.hidden, config.seq, config.heads
    alpha = (2 * config.layers) ** -0.5

    def random(rows: int) -> np.ndarray:
        return rng.standard_normal((rows, s))

    def empty(rows: int, count: int = 1) -> list[np.ndarray]:
        return [np.full((rows, s), np.nan) for _ in range(count)]

    with CModel(config, double=True, threads=2) as model:
        weights = {key.split(".")[1]: w for key, w in model.arrays().items() if key.startswith("layer1.")}

        def call(kernel: str, layer: int | None, *arrays: np.ndarray) -> None:
            function = ctypes.CFUNCTYPE(None)(getattr(model.kernels, kernel))
            layers = [] if layer is None else [ctypes.c_int(layer)]
            function(ctypes.c_void_p(model.kernels.self), *layers, *map(pointer, arrays))

        xn, (o, a, q, k, v) = random(d), empty(d, 5)
        call("attention", 1, xn, o, a, q, k, v)
        wanted_q, wanted_k = weights["wq"] @ xn, weights["wk"] @ xn
        if config.rope:
            wanted_q, wanted_k = turned(wanted_q, config), turned(wanted_k, config)
        split = [np.split(x, heads) for x in (wanted_q, wanted_k, weights["wv"] @ xn)]
        wanted_a = np.concatenate([vh @ softmax_causal(qh, kh).T for qh, kh, vh in zip(*split, strict=True)])
        pairs = [(q, wanted_q), (k, wanted_k), (v, weights["wv"] @ xn), (a, wanted_a), (o, weights["wo"] @ wanted_a)]

        da, (dq, dk, dv) = random(d), empty(d, 3)
        call("sdpa_back", None, q, k, v, da, dq, dk, dv)
        for head in range(heads):
            qh, kh, vh, dah, dqh, dkh, dvh = (np.split(x, heads)[head] for x in (q, k, v, da, dq, dk, dv))
            p = softmax_causal(qh, kh)
            dp = dah.T @ vh
            ds = p * (dp - (p * dp).sum(1, keepdims=True)) / np.sqrt(d // heads)
            pairs += [(dvh, dah @ p), (dqh, kh @ ds.T), (dkh, qh @ ds)]

        x2, (x,), (h1, h3, u) = random(d), empty(d), empty(f, 3)
        call("ffn", 1, xn, x2, x, h1, h3, u)
        wanted_h1, wanted_h3 = weights["w1"] @ xn, weights["w3"] @ xn
        wanted_u = wanted_h1 / (1 + np.exp(-wanted_h1)) * wanted_h3
        pairs += [(h1, wanted_h1), (h3, wanted_h3), (u, wanted_u), (x, x2 + alpha * weights["w2"] @ wanted_u)]

        (du,), (dx, da_back, dxn) = empty(f), empty(d, 3)
        call("ffn_back_w2", 1, da, du)
        call("ffn_back_w13", 1, h1, h3, dx)
        call("wo_back", 1, da, da_back)
        call("qkv_back", 1, dq, dk, dv, dxn)
        pairs += [(du, weights["w2"].T @ da), (dx, weights["w1"].T @ h1 + weights["w3"].T @ h3)]
        pairs += [(da_back, weights["wo"].T @ da)]
        pairs += [(dxn, weights["wq"].T @ dq + weights["wk"].T @ dk + weights["wv"].T @ dv)]
        for found, wanted in pairs:
            np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)


def test_rotation_back_undoes_the_rotation() -> None:
    config = Config(dim=24, heads=3, seq=40, rope=True)
    with CModel(config, double=True) as model:
        shape = config.shape()
        cosines, sines = np.zeros((40, 4)), np.zeros((40, 4))
        model.c.rope_tables(ctypes.byref(shape), pointer(cosines), pointer(sines))
        x = np.random.default_rng(1).standard_normal((24, 40))
        y = x.copy()
        rotate = [ctypes.byref(shape), pointer(cosines), pointer(sines)]
        model.c.rope_turn(*rotate, ctypes.c_bool(False), pointer(y))
        np.testing.assert_allclose(y, turned(x, config), rtol=1e-12, atol=1e-13)
        assert np.abs(y[:, 0] - x[:, 0]).max() == 0 < np.abs(y[:, 1] - x[:, 1]).max()
        model.c.rope_turn(*rotate, ctypes.c_bool(True), pointer(y))
        np.testing.assert_allclose(y, x, rtol=1e-13, atol=1e-14)


MANIFEST = ("backend", "threads", "gemm", "shape", "micro_steps_per_second", "ms_micro_step", "ms_kernels_forward")
MANIFEST += ("ms_norms", "ms_classifier", "ms_products_own", "step_to_products")
MANIFEST += tuple(f"{what}_{which}_gb_per_second" for what in ("update", "copy_beside") for which in ("lion", "adamw"))


@pytest.fixture(scope="module")
def bench() -> Path:
    return program(ANE / "bench.c", *modules())


def test_benchmark_prints_keys_and_values(bench: Path) -> None:
    command = [bench, "--shape", *["32", "64", "2", "32", "2", "96"], "--threads", "2", "--steps", "3", "--gemm", "own"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    values = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert set(values) >= set(MANIFEST)
    assert (values["shape"], values["backend"], values["gemm"]) == ("32 64 2 32 2 96", "cpu", "own")
    assert all(float(value) > 0 for key, value in values.items() if "ms_" in key or "per_second" in key)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0"], "0 is not a number from 1"),
        (["--threads", "two"], "two is not a number"),
        (["--threads"], "--threads needs"),
        (["--shape", "32", "64"], "--shape needs"),
        (["--shape", "30", "64", "4", "32", "2", "96"], "each head needs"),
        (["--frobnicate", "1"], "--frobnicate is no option"),
        (["--gemm", "mkl"], "no matrix product mkl"),
        (["--backend", "gpu"], "gpu is no backend"),
    ],
    ids=["no_steps", "word", "missing", "short_shape", "heads", "unknown", "gemm", "backend"],
)
def test_benchmark_answers_a_mistake_with_a_sentence(bench: Path, arguments: list[str], words: str) -> None:
    done = subprocess.run([bench, *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
