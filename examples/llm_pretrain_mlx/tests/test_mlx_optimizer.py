"""Optimizer, schedules and compiled steps: against NumPy in float64, and against what is not compiled.

pytest examples/llm_pretrain_mlx/tests/test_mlx_optimizer.py
"""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from mlx_modules import load

pytest.importorskip("mlx")  # not mlx.core, which must come after the BLAS that `machine` loads
machine, train = load("machine"), load("train")
mx = train.mx

# Written out once more: arXiv 2505.16932, five iterations.
COEFFICIENTS = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]
# What those five make of any number from 0.001 to 1 / 1.02, by a grid of 200 thousand points.
BAND = (0.8588, 1.1412)
SHAPES = {"square": (16, 16), "tall": (24, 6), "wide": (6, 24)}
EXTRAS = {"bare": (False, False), "eq": (True, False), "plus": (False, True), "both": (True, True)}
by_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def settings(**changes):
    small = {"depth": 2, "width": 32, "head_dim": 8, "gate_channels": 4, "smear_channels": 6, "batch_tokens": 64}
    return replace(train.settings_for("small"), **(small | changes))


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def muon(p, g, first, second, lr, wd, momentum, beta2, eq=False, plus=False, iterations=5, dtype=mx.float32):
    """muon_update with NumPy arrays at both ends."""
    arrays = [mx.array(x) for x in (p, g, first, second)]
    rates = [mx.array(float(rate)) for rate in (lr, wd, momentum, beta2)]
    return [
        np.array(x) for x in train.muon_update(*arrays, *rates, iterations=iterations, eq=eq, plus=plus, dtype=dtype)
    ]


# ---- AdamW


def test_adamw_against_numpy():
    p, first, second = mx.array(draw(1, 6, 5)), mx.zeros((1, 6, 5)), mx.zeros((1, 6, 5))
    q, m, v = draw(1, 6, 5).astype(np.float64), np.zeros((1, 6, 5)), np.zeros((1, 6, 5))
    for step, lr in enumerate((0.1, 0.07, 0.03, 0.01), 1):
        g = draw(1, 6, 5, seed=step) * np.float32(10.0**-step)
        rates = (lr, 0.2, 0.8, 0.95, 1 - 0.8**step, 1 - 0.95**step)
        p, first, second = train.adamw_update(p, mx.array(g), first, second, *map(mx.array, rates))
        g = g.astype(np.float64)
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        q = q - lr * 0.2 * q - lr * (m / (1 - 0.8**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-10)
        np.testing.assert_allclose(np.array(p), q, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.array(first), m, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(np.array(second), v, rtol=1e-5)


def test_the_first_step_of_adamw_is_the_sign():
    p, g = mx.zeros((1, 4)), mx.array([[3.0, -1e-4, 20.0, 0.0]])
    rates = map(mx.array, (0.5, 0.0, 0.8, 0.95, 0.2, 0.05))
    moved, *_ = train.adamw_update(p, g, mx.zeros((1, 4)), mx.zeros((1, 4)), *rates)
    np.testing.assert_allclose(np.array(moved), [[-0.5, 0.5, -0.5, 0.0]], rtol=1e-4)


# ---- Muon


def np_polar(x, iterations=5):
    """Odd polynomials of the singular values, which are all that changes."""
    u, sigma, vt = np.linalg.svd(x.astype(np.float64) / (1.02 * np.linalg.norm(x) + 1e-6), full_matrices=False)
    for a, b, c in COEFFICIENTS[:iterations]:
        sigma = a * sigma + b * sigma**3 + c * sigma**5
    return u * sigma @ vt


def np_normuon(x, second, beta2):
    """(x with lines of equal size, second): the mean square goes along the longer side."""
    axis = 1 if x.shape[0] >= x.shape[1] else 0
    second = beta2 * second + (1 - beta2) * (x**2).mean(axis, keepdims=True)
    scaled = x / np.sqrt(np.maximum(second, 1e-10))
    return scaled * np.linalg.norm(x) / np.linalg.norm(scaled), second


def np_muon(p, g, first, second, lr, wd, momentum, beta2, eq, plus):
    """One matrix at a time, from the papers' formulas."""
    first = momentum * first + (1 - momentum) * g
    x = (1 - momentum) * g + momentum * first
    if eq:
        x = x / np.linalg.norm(x, axis=1, keepdims=True) * np.linalg.norm(x) / np.sqrt(len(x))
    x = np_polar(x)
    if plus:
        x = x * np.sqrt(min(x.shape)) / np.linalg.norm(x)
    x, second = np_normuon(x, second, beta2)
    return p - lr * x - lr * wd * p * (x * p >= 0), first, second


@pytest.mark.parametrize("extras", EXTRAS.values(), ids=EXTRAS.keys())
@by_shape
def test_muon_against_numpy(shape, extras):
    """Four steps with rates that change. Weights are about 1; measured: 5e-7 off at most."""
    along = (3, shape[0], 1) if shape[0] >= shape[1] else (3, 1, shape[1])
    state = [draw(3, *shape), np.zeros((3, *shape), np.float32), np.zeros(along, np.float32)]
    true = [part.astype(np.float64) for part in state]
    for step, momentum in enumerate((0.85, 0.9, 0.95, 0.97), 1):
        g = draw(3, *shape, seed=step)
        rates = (0.05, 0.2 / step, momentum, 0.95)
        state = muon(state[0], g, *state[1:], *rates, *extras)
        each = [np_muon(*(part[i] for part in (true[0], g, *true[1:])), *rates, *extras) for i in range(3)]
        true = [np.stack(parts) for parts in zip(*each, strict=True)]
        for found, expected in zip(state, true, strict=True):
            np.testing.assert_allclose(found, expected, atol=5e-6)


@pytest.mark.parametrize("iterations", [1, 3, 5])
@by_shape
def test_polar_express_against_numpy(shape, iterations):
    x = draw(3, *shape) * np.float32(7.0)
    found = np.array(train.polar_express(mx.array(x), iterations, mx.float32))
    assert found.dtype == np.float32
    for i in range(3):
        np.testing.assert_allclose(found[i], np_polar(x[i], iterations), atol=2e-5)


def with_singular_values(shape, sigma, seed=0):
    """(matrix, its polar factor)"""
    u, _, vt = np.linalg.svd(draw(*shape, seed=seed).astype(np.float64), full_matrices=False)
    return (u * sigma @ vt).astype(np.float32), u @ vt


@pytest.mark.parametrize("shape", [(32, 32), (128, 32), (32, 128)], ids=["square", "tall", "wide"])
def test_five_iterations_bring_singular_values_into_their_band(shape):
    """From values that span three orders of magnitude, whatever the scale of the matrix."""
    sigma = np.geomspace(0.003, 1, 32)
    for scale in (1e-3, 1.0, 1e4):
        x, polar = with_singular_values(shape, scale * sigma)
        found = np.array(train.polar_express(mx.array(x[None]), 5, mx.float32))[0].astype(np.float64)
        after = np.linalg.svd(found, compute_uv=False)
        assert BAND[0] - 1e-3 < after.min() and after.max() < BAND[1] + 1e-3
        np.testing.assert_allclose(np.linalg.norm(found - polar, 2), np.abs(after - 1).max(), rtol=1e-2)  # same vectors
        rough = np.array(train.polar_express(mx.array(x[None]), 5, mx.bfloat16))[0]
        assert np.linalg.svd(rough, compute_uv=False).max() < 1.3 and rough.dtype == np.float32


@by_shape
def test_normuon_against_numpy(shape):
    x, second = draw(2, *shape), np.zeros((2, shape[0], 1) if shape[0] >= shape[1] else (2, 1, shape[1]))
    x = x * np.linspace(0.1, 3, second.size // 2).reshape(second.shape[1:]).astype(np.float32)  # lines of many sizes
    found, moment = mx.array(x), mx.array(second.astype(np.float32))
    for beta2 in (0.95, 0.5):
        found, moment = train.normuon(mx.array(x), moment, mx.array(beta2))
        each = [np_normuon(x[i].astype(np.float64), second[i], beta2) for i in range(2)]
        expected, second = (np.stack(parts) for parts in zip(*each, strict=True))
        np.testing.assert_allclose(np.array(found), expected, atol=1e-5)
        np.testing.assert_allclose(np.array(moment), second, rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=(1, 2)), np.linalg.norm(x, axis=(1, 2)), rtol=1e-5)
        x = x[:, ::-1, ::-1].copy()
    fresh, _ = train.normuon(mx.array(x), mx.zeros(second.shape), mx.array(0.95))
    sizes = np.linalg.norm(np.array(fresh), axis=-1 if shape[0] >= shape[1] else -2)  # it knows only this x
    np.testing.assert_allclose(sizes, np.broadcast_to(sizes.mean(-1, keepdims=True), sizes.shape), rtol=1e-5)


@by_shape
def test_matrices_of_a_stack_know_nothing_of_one_another(shape):
    along = (5, shape[0], 1) if shape[0] >= shape[1] else (5, 1, shape[1])
    p, g, first, second = draw(5, *shape), draw(5, *shape, seed=1), draw(5, *shape, seed=2), draw(*along, seed=3) ** 2
    g[3] *= 1e4
    rates = (0.05, 0.2, 0.9, 0.95, True, True)
    together = muon(p, g, first, second, *rates)
    for i in range(5):
        alone = muon(*(part[i : i + 1] for part in (p, g, first, second)), *rates)
        for one, stacked in zip(alone, together, strict=True):
            np.testing.assert_allclose(one[0], stacked[i], atol=1e-5, rtol=1e-5)


def test_decay_is_cautious():
    """Only weights that the update shrinks anyway are decayed."""
    p, g, zero = draw(1, 12, 12), draw(1, 12, 12, seed=1), np.zeros((1, 12, 12), np.float32)
    after = {wd: muon(p, g, zero, zero[:, :, :1], 0.01, wd, 0.0, 0.95)[0] for wd in (0.0, 0.5)}
    update, decayed = p - after[0.0], after[0.0] - after[0.5]
    shrinks = update * p > 0
    assert 0.2 < shrinks.mean() < 0.8
    np.testing.assert_allclose(decayed[shrinks], (0.01 * 0.5 * p)[shrinks], atol=1e-6)
    assert not decayed[~shrinks].any()


@pytest.mark.parametrize("extras", EXTRAS.values(), ids=EXTRAS.keys())
def test_zero_gradients_move_nothing_and_stay_finite(extras):
    """A matrix without a gradient, a row without one, and a stack in which only one matrix has any."""
    p, g = draw(3, 8, 6), draw(3, 8, 6, seed=1)
    g[0], g[1, 2] = 0, 0
    zero = np.zeros_like(p)
    moved, *moments = muon(p, g, zero, zero[:, :, :1], 0.05, 0.0, 0.9, 0.95, *extras)
    assert np.isfinite(moved).all() and all(np.isfinite(part).all() for part in moments)
    np.testing.assert_array_equal(moved[0], p[0])
    np.testing.assert_allclose(moved[1, 2], p[1, 2], atol=1e-6)
    assert np.abs(moved[1:] - p[1:]).max() > 1e-3
    rates = map(mx.array, (0.5, 0.0, 0.8, 0.95, 0.2, 0.05))
    still, *_ = train.adamw_update(mx.array(p), mx.zeros(p.shape), mx.zeros(p.shape), mx.zeros(p.shape), *rates)
    np.testing.assert_array_equal(np.array(still), p)


def test_the_size_of_a_gradient_does_not_matter():
    p, g, zero = draw(1, 8, 6), draw(1, 8, 6, seed=1), np.zeros((1, 8, 6), np.float32)
    tiny, usual, huge = (
        muon(p, g * np.float32(size), zero, zero[:, :, :1], 0.05, 0.1, 0.0, 0.95, True, True)[0]
        for size in (1e-12, 1, 1e12)
    )
    np.testing.assert_allclose(huge, usual, atol=1e-5)
    assert np.isfinite(tiny).all()  # what is below the epsilon of Polar Express is not lifted to size 1


# ---- MuonAdamW


def made(vocab=50, length=16, dtype=mx.float32, compiled=False, seed=1, **changes):
    """(model, parameters, optimizer)"""
    model = train.GPT(settings(**changes), vocab, length, dtype)
    parameters = model.init(seed)
    return model, parameters, train.MuonAdamW(model, parameters, compiled)


def gradients_of(model, parameters, seed):
    rows = np.random.default_rng(seed).integers(model.vocab_size, size=(4, model.sequence_length + 1))
    return mx.grad(model.loss)(parameters, mx.array(rows.astype(np.int32)))


WORKERS = machine.Workers(1)


def test_every_parameter_has_one_role():
    model, parameters, _ = made()
    blocks = {name: [f"blocks.{i}.{name}" for i in (0, 1)] for name in ("query", "key", "value", "up", "out", "down")}
    assert {role: sorted(names) for role, names in model.roles(parameters).items()} == {
        "embedding": ["embedding"],
        "head": ["head"],
        "value_embedding": ["blocks.1.value_embedding"],
        "gate": ["blocks.1.value_gate", "smear_gate"],
        "resid_lambdas": ["resid_lambdas"],
        "x0_lambdas": ["x0_lambdas"],
        "lambda": ["backout_lambda", "smear_lambda"],
        "matrix": sorted(name for names in blocks.values() for name in names),
    }
    model, parameters, _ = made(muon_gates=True)
    assert model.roles(parameters)["gate"] == ["smear_gate"]
    assert "blocks.1.value_gate" in model.roles(parameters)["matrix"]


def test_a_parameter_without_a_role_is_refused_by_name():
    model, parameters, _ = made()
    for shape in ((3,), (2, 3, 4)):
        with pytest.raises(train.TrainError, match=r"(?s)^Parameter blocks\.0\.bias .*GPT\.roles"):
            model.roles(parameters | {"blocks.0.bias": mx.zeros(shape)})
    assert "mixer" in model.roles(parameters | {"mixer": mx.zeros((3, 4))})["matrix"]


def test_every_parameter_is_in_one_bank_with_its_rates():
    model, parameters, optimizer = made()
    s = model.settings
    assert sorted(name for bank in optimizer.banks for name in bank.names) == sorted(parameters)
    for name, value in optimizer.parameters().items():
        np.testing.assert_array_equal(np.array(value), np.array(parameters[name]))
    # Muon's rate grows with the root of rows / columns where there are more rows.
    muon = {bank.value.shape: (bank.lr, bank.wd, bank.betas[1]) for bank in optimizer.banks if bank.muon}
    assert muon == {
        (8, 32, 32): (s.matrix_lr, s.matrix_wd, s.muon_beta2),
        (2, 128, 32): (2 * s.matrix_lr, s.matrix_wd, s.muon_beta2),
        (2, 32, 128): (s.matrix_lr, s.matrix_wd, s.muon_beta2),
    }
    adam = {name: (bank.lr, bank.wd, bank.betas) for bank in optimizer.banks if not bank.muon for name in bank.names}
    by_width, betas = (32 / 768) ** -0.5, (s.adam_beta1, s.adam_beta2)
    assert adam == {
        "embedding": (s.embedding_lr * by_width, s.embedding_wd, betas),
        "blocks.1.value_embedding": (s.value_embedding_lr * by_width, s.value_embedding_wd, betas),
        "head": (s.head_lr * by_width, s.head_wd, betas),
        "blocks.1.value_gate": (s.gate_lr, 0.0, betas),  # not orthogonalised: they are tiny
        "smear_gate": (s.gate_lr, 0.0, betas),
        "resid_lambdas": (s.scalar_lr * 0.01, 0.0, betas),
        "x0_lambdas": (s.scalar_lr, 0.0, (s.x0_beta1, s.adam_beta2)),
        "smear_lambda": (s.smear_lr, 0.0, betas),
        "backout_lambda": (s.smear_lr, 0.0, betas),
    }


def test_gates_can_be_left_to_muon_as_in_the_reference():
    _, _, optimizer = made(muon_gates=True)
    assert {bank.value.shape[1:] for bank in optimizer.banks if bank.muon} == {(32, 32), (128, 32), (32, 128), (4, 4)}


def test_all_state_is_float32_also_for_a_bfloat16_model():
    model, parameters, optimizer = made(dtype=mx.bfloat16)
    optimizer.step([gradients_of(model, parameters, 1)], 1 / 64, 1.0, 0.9, 1.0, WORKERS)
    steps, arrays = optimizer.state()
    assert steps == 1 and {part.dtype for bank in arrays for part in bank} == {mx.float32}


def test_a_step_is_the_update_of_each_bank_by_the_scaled_sum_of_all_gradients():
    """Two steps; each from three dictionaries of gradients, as three threads would leave them."""
    model, parameters, optimizer = made()
    s, names, scale = model.settings, list(parameters), 1 / 192
    now = {name: np.array(value)[None] for name, value in parameters.items()}
    rows = {n: x.shape[1] >= x.shape[2] for n, x in now.items() if x.ndim == 3}
    first = {name: np.zeros_like(value) for name, value in now.items()}
    second = dict(first)
    matrices = model.roles(parameters)["matrix"]
    for name in matrices:
        second[name] = first[name].mean(-1 if rows[name] else -2, keepdims=True)
    adam = {name: bank for bank in optimizer.banks for name in bank.names}
    for step, (multiplier, momentum, decay) in enumerate([(0.5, 0.85, 1.0), (1.0, 0.9, 0.25)], 1):
        parts = [gradients_of(model, optimizer.parameters(), 10 * step + seed) for seed in range(3)]
        sums = {name: sum(np.array(part[name]).astype(np.float64) for part in parts) * scale for name in names}
        optimizer.step(parts, scale, multiplier, momentum, decay, WORKERS)
        for name in names:
            g, bank = sums[name][None].astype(np.float32), adam[name]
            if step == 1 and "_lambda" in name:  # they wait for a gradient that is more than rounding
                np.testing.assert_array_equal(np.array(optimizer.parameters()[name]), now[name][0])
                continue
            state = (now[name], g, first[name], second[name])
            if name in matrices:
                lr = s.matrix_lr * max(1, g.shape[1] / g.shape[2]) ** 0.5 * multiplier
                extras = (s.muon_eq, s.muon_plus)
                new = muon(*state, lr, s.matrix_wd * decay, momentum, s.muon_beta2, *extras)
            else:
                beta1, beta2 = bank.betas
                rates = (bank.lr * multiplier, bank.wd, beta1, beta2, 1 - beta1**step, 1 - beta2**step)
                new = [np.array(x) for x in train.adamw_update(*map(mx.array, (*state, *rates)))]
            now[name], first[name], second[name] = new
            found = np.array(optimizer.parameters()[name])
            np.testing.assert_allclose(
                found, now[name][0], atol=5e-5, err_msg=name
            )  # measured: 2e-5, by sums in float32


def test_two_workers_leave_the_bits_of_one():
    found = []
    for workers in (machine.Workers(1), machine.Workers(2)):
        model, parameters, optimizer = made()
        gradients = gradients_of(model, parameters, 1)
        mx.eval(gradients)  # on this thread's stream
        optimizer.step([gradients], 1 / 64, 1.0, 0.9, 1.0, workers)
        found.append(optimizer.parameters())
    for name, value in found[0].items():
        np.testing.assert_array_equal(np.array(value), np.array(found[1][name]))


def test_state_can_be_put_back():
    model, parameters, optimizer = made()
    gradients = [gradients_of(model, parameters, seed) for seed in (1, 2, 3)]

    def three_steps():
        for part in gradients:
            optimizer.step([part], 1 / 64, 1.0, 0.9, 1.0, WORKERS)
        return {name: np.array(value) for name, value in optimizer.parameters().items()}

    optimizer.step([gradients[0]], 1 / 64, 1.0, 0.9, 1.0, WORKERS)
    state = optimizer.state()
    once = three_steps()
    assert optimizer.steps == 4
    optimizer.restore(state)
    assert optimizer.steps == 1
    again = three_steps()
    for name, value in once.items():
        np.testing.assert_array_equal(value, again[name])


def test_steps_move_every_weight_and_lower_the_loss():
    model, parameters, optimizer = made()
    rows = mx.array(np.random.default_rng(2).integers(50, size=(4, 17)).astype(np.int32))
    now, losses = parameters, []
    for _ in range(12):
        loss, gradients = mx.value_and_grad(model.loss)(now, rows)
        optimizer.step([gradients], 1 / 64, 1.0, 0.9, 1.0, WORKERS)
        now = optimizer.parameters()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    for name, value in now.items():
        assert (np.array(value) != np.array(parameters[name])).any(), name


def test_a_learning_rate_of_zero_moves_nothing():
    model, parameters, optimizer = made()
    optimizer.step([gradients_of(model, parameters, 1)], 1 / 64, 0.0, 0.9, 1.0, WORKERS)
    for name, value in optimizer.parameters().items():
        np.testing.assert_array_equal(np.array(value), np.array(parameters[name]))


# ---- compiled


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="mx.compile on a CPU needs g++ on PATH")
def test_compiled_steps_are_those_that_are_not_compiled():
    """Three steps with other rates each. Measured: the same bits, after a minute of g++ the first time."""
    rows = np.random.default_rng(3).integers(50, size=(3, 4, 17))
    runs = []
    for compiled in (False, True):
        model, parameters, _ = made()
        trainer = train.Trainer(model, parameters, compiled=compiled)
        first = trainer.gradients(rows[0])[1][0]
        losses = [trainer.step(part, 0.3 * n, n)[0] for n, part in enumerate(rows)]
        runs.append((losses, first, dict(trainer.parameters), trainer.nats(rows[0])))
    (losses, gradients, weights, nats), (losses_c, gradients_c, weights_c, nats_c) = runs
    np.testing.assert_allclose(losses_c, losses, rtol=1e-5)
    np.testing.assert_allclose(nats_c, nats, atol=1e-5)
    for name, value in gradients.items():
        true = np.array(value)
        assert np.linalg.norm(np.array(gradients_c[name]) - true) <= 1e-5 * np.linalg.norm(true), name
    for name, value in weights.items():
        np.testing.assert_allclose(np.array(weights_c[name]), np.array(value), atol=1e-5, err_msg=name)


# ---- schedules


def test_learning_rate_at_its_corners():
    s = settings(warmdown=0.75, final_lr=0.05, warmup_steps=0)
    for progress, expected in [(0, 1), (0.25, 1), (0.625, 0.525), (1, 0.05)]:
        assert train.lr_multiplier(progress, 0, s) == pytest.approx(expected)
    assert train.lr_multiplier(1.0, 9, replace(s, warmdown=0.0)) == 1.0
    assert train.lr_multiplier(1.0, 9, replace(s, final_lr=0.0)) == 0.0


def test_warm_up_counts_steps_and_its_first_step_moves():
    s = settings(warmup_steps=4, warmdown=0.5, final_lr=0.0)
    assert [train.lr_multiplier(0.0, step, s) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert train.lr_multiplier(0.75, 0, s) == pytest.approx(0.125)


def test_momentum_at_its_corners():
    s = settings(momentum_start=0.85, momentum_peak=0.97, momentum_end=0.9, momentum_ramp=0.2, warmdown=0.5)
    for progress, expected in [(0, 0.85), (0.1, 0.91), (0.2, 0.97), (0.5, 0.97), (0.75, 0.935), (1, 0.9)]:
        assert train.muon_momentum(progress, s) == pytest.approx(expected)
    assert train.muon_momentum(0.0, replace(s, momentum_ramp=0.0)) == pytest.approx(0.97)
    assert train.muon_momentum(1.0, replace(s, warmdown=0.0)) == pytest.approx(0.97)


def test_weight_decay_at_its_corners():
    values = {name: [f(progress) for progress in (0, 0.5, 1)] for name, f in train.WD_SCHEDULES.items()}
    assert values.keys() == {"cosine", "linear", "constant"}
    assert values["cosine"] == pytest.approx([1, 0.5, 0])
    assert values["linear"] == pytest.approx([1, 0.5, 0])
    assert values["constant"] == [1, 1, 1]
    assert train.WD_SCHEDULES["cosine"](0.25) == pytest.approx(0.853553)
