"""The loss head, and the exponential it is made of, against NumPy in float64.

pytest examples/llm_pretrain_mlx/tests/test_mlx_loss.py
"""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest
from mlx_modules import load

pytest.importorskip("mlx")  # not mlx.core, which must come after the BLAS that `machine` loads
train = load("train")
mx = train.mx


@pytest.fixture(params=["made of bits", "plain"])
def branch(request, monkeypatch):
    """Both ways to compute the head, whatever device there is."""
    monkeypatch.setattr(train, "on_gpu", lambda: request.param == "plain")


# ---- powers


def test_powers_by_bits_are_exact_to_three_parts_in_ten_million():
    x = np.concatenate([np.linspace(-120, 120, 300_001), np.arange(-120, 121), np.arange(-120, 120) + 0.5, [0.0, -0.0]])
    x = x.astype(np.float32)
    expected = np.exp2(x.astype(np.float64))
    found = np.array(train.exp2_of_bits(mx.array(x))).astype(np.float64)
    assert np.abs(found / expected - 1).max() < 3e-7


def test_powers_by_bits_of_whole_numbers_and_of_what_is_no_number():
    whole = np.arange(-100, 101).astype(np.float32)
    np.testing.assert_allclose(np.array(train.exp2_of_bits(mx.array(whole))), np.exp2(whole), rtol=1.5e-7)
    for nan in (np.float32(np.nan), -np.float32(np.nan)):
        assert np.isnan(np.array(train.exp2_of_bits(mx.array(np.array([nan, 1.0], np.float32))))).tolist() == [1, 0]


@pytest.mark.parametrize("softcap", [0.5, 15.0, 40.0])
def test_tanh_and_power(branch, softcap):
    x = np.concatenate([softcap * np.linspace(-12, 12, 100_001), np.linspace(-1e-3, 1e-3, 101)]).astype(np.float32)
    squashed, power = (np.array(part) for part in train.tanh_and_power(mx.array(x), softcap))
    true = np.tanh(x.astype(np.float64) / softcap)
    np.testing.assert_allclose(squashed, true, atol=4e-7, rtol=0)
    # An error of the hyperbolic tangent comes back multiplied by the softcap.
    np.testing.assert_allclose(power, np.exp(softcap * (true - 1)), rtol=4e-7 * max(1, softcap) + 1e-6)
    assert squashed.dtype == power.dtype == np.float32 and power.max() <= 1 + 1e-6


def test_tanh_and_power_saturate_and_stay_finite(branch):
    x = mx.array([1e4, 1e30, math.inf, -1e4, -1e30, -math.inf, math.nan])
    squashed, power = (np.array(part) for part in train.tanh_and_power(x, 15.0))
    np.testing.assert_allclose(squashed, [1, 1, 1, -1, -1, -1, math.nan])
    np.testing.assert_allclose(power, [1, 1, 1, *[math.exp(-30)] * 3, math.nan], rtol=1e-5)


# ---- cross-entropy


def drawn(tokens=24, width=16, vocab=50, seed=0):
    """hidden, weight and targets in float64 and int: logits with a deviation of 12, so that the cap bends them."""
    generator = np.random.default_rng(seed)
    hidden, weight = generator.standard_normal((tokens, width)), 3 * generator.standard_normal((vocab, width))
    return hidden, weight, generator.integers(vocab, size=tokens)


def np_cross_entropy(hidden, weight, targets, softcap):
    """(nats, gradients of their sum by hidden and weight) in float64, all logits at once."""
    squashed = np.tanh(hidden @ weight.T / softcap)
    powers = np.exp(softcap * (squashed - squashed.max(-1, keepdims=True)))
    share = powers / powers.sum(-1, keepdims=True)
    each = np.arange(len(hidden))
    nats = -np.log(share[each, targets])
    slope = share.copy()
    slope[each, targets] -= 1
    slope *= 1 - squashed**2
    return nats, slope @ weight, slope.T @ hidden


def as_arrays(hidden, weight, targets, dtype=mx.float32):
    return (
        mx.array(hidden.astype(np.float32)).astype(dtype),
        mx.array(weight.astype(np.float32)),
        mx.array(targets.astype(np.int32)),
    )


@pytest.mark.parametrize("softcap", [2.0, 15.0, 40.0])
@pytest.mark.parametrize("chunk", [1, 7, 12, 24, 100])
def test_nats_and_gradients_are_those_of_plain_cross_entropy(branch, chunk, softcap):
    numbers = drawn()
    nats, by_hidden, by_weight = np_cross_entropy(*numbers, softcap)
    found = train.softcap_cross_entropy(*as_arrays(*numbers), softcap, chunk, True)
    assert [part.shape for part in found] == [(24,), (24, 16), (50, 16)]
    assert {part.dtype for part in found} == {mx.float32}
    np.testing.assert_allclose(np.array(found[0]), nats, atol=2e-5)
    np.testing.assert_allclose(np.array(found[1]), by_hidden, atol=5e-5)
    np.testing.assert_allclose(np.array(found[2]), by_weight, atol=5e-5)
    alone, *nothing = train.softcap_cross_entropy(*as_arrays(*numbers), softcap, chunk, False)
    np.testing.assert_array_equal(np.array(alone), np.array(found[0]))
    assert nothing == [None, None]


@pytest.mark.parametrize("factor", [1.0, -3.0, 1 / 24])
def test_autodiff_takes_those_gradients_times_what_comes_from_above(factor):
    """Also through what made hidden and weight, and with the loss used twice."""
    numbers = drawn()
    hidden, weight, targets = as_arrays(*numbers)

    def loss(x, w):
        total = train.summed_cross_entropy(15.0, 7)(2 * x, w * w, targets)[0]
        return factor * total + 0.5 * total

    value, gradients = mx.value_and_grad(loss, argnums=(0, 1))(hidden, weight)
    nats, by_hidden, by_weight = np_cross_entropy(2 * numbers[0], numbers[1] ** 2, numbers[2], 15.0)
    assert value.item() == pytest.approx((factor + 0.5) * nats.sum(), rel=1e-5)
    expected = [(factor + 0.5) * 2 * by_hidden, (factor + 0.5) * 2 * numbers[1] * by_weight]
    for found, true in zip(gradients, expected, strict=True):
        assert np.linalg.norm(np.array(found) - true) <= 2e-5 * np.linalg.norm(true)


def test_bfloat16_is_near_with_a_weight_gradient_in_float32():
    numbers = drawn(200)
    nats, by_hidden, by_weight = np_cross_entropy(*numbers, 15.0)
    found = train.softcap_cross_entropy(*as_arrays(*numbers, mx.bfloat16), 15.0, 64, True)
    assert [part.dtype for part in found] == [mx.float32, mx.bfloat16, mx.float32]
    assert np.array(found[0]).mean() == pytest.approx(nats.mean(), rel=0.01)
    for part, true in zip(found[1:], (by_hidden, by_weight), strict=True):
        assert np.linalg.norm(np.array(part.astype(mx.float32)) - true) < 0.03 * np.linalg.norm(true)


def test_saturated_logits_give_finite_losses_and_gradients(branch):
    hidden, targets = np.full((2, 4), 1e4), np.array([0, 1])
    weight = np.array([[1.0] * 4, [-1.0] * 4, [0.0] * 4])
    nats, *gradients = (
        np.array(part) for part in train.softcap_cross_entropy(*as_arrays(hidden, weight, targets), 15.0, 1, True)
    )
    np.testing.assert_allclose(nats, np.logaddexp(np.logaddexp(15, -15), 0) - np.array([15, -15]), atol=1e-5)
    assert all(np.isfinite(part).all() for part in gradients)


def test_logits_that_overflow_to_infinity_saturate_too(branch):
    hidden, weight = np.full((1, 2), 3e38), np.array([[3e38, 0.0], [-3e38, 0.0]])
    nats, *gradients = train.softcap_cross_entropy(*as_arrays(hidden, weight, np.array([1])), 15.0, 1, True)
    assert nats.item() == pytest.approx(30.0) and all(mx.isfinite(part).all() for part in gradients)


@pytest.mark.parametrize("where", ["hidden", "weight"])
def test_what_is_no_number_shows_in_the_loss(branch, where):
    hidden, weight, targets = drawn()
    (hidden if where == "hidden" else weight)[3, 5] = math.nan
    nats = np.array(train.softcap_cross_entropy(*as_arrays(hidden, weight, targets), 15.0, 7, False)[0])
    assert np.flatnonzero(np.isnan(nats)).tolist() == ([3] if where == "hidden" else list(range(24)))


def test_rare_and_common_targets_at_the_edges_of_the_vocabulary():
    hidden, weight, _ = drawn()
    for targets in (np.zeros(24, int), np.full(24, 49)):
        nats, by_hidden, by_weight = np_cross_entropy(hidden, weight, targets, 15.0)
        found = train.softcap_cross_entropy(*as_arrays(hidden, weight, targets), 15.0, 5, True)
        for part, true in zip(found, (nats, by_hidden, by_weight), strict=True):
            np.testing.assert_allclose(np.array(part), true, atol=5e-5)


# ---- memory


def peak_of(work):
    """Bytes at the most, beyond what was there before."""
    gc.collect()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(work())
    return mx.get_peak_memory() - before


def test_chunks_take_a_small_part_of_the_memory():
    """1024 x 4096 logits are 17 MB. Measured: 85 MB for the plain form, 15 MB by chunks of 64."""
    *made, targets = arrays = as_arrays(*drawn(1024, 64, 4096))
    mx.eval(arrays)

    def plain(hidden, weight):
        logits = 15 * mx.tanh(hidden @ weight.T / 15)
        return (mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, targets[:, None], axis=1).squeeze(1)).sum()

    def ours(hidden, weight):
        return train.summed_cross_entropy(15.0, 64)(hidden, weight, targets)[0]

    at_once, by_chunks = (peak_of(lambda f=f: mx.value_and_grad(f, argnums=(0, 1))(*made)) for f in (plain, ours))
    assert by_chunks < at_once / 3
    assert peak_of(lambda: train.softcap_cross_entropy(*arrays, 15.0, 64, False)[0]) < at_once / 3
