"""Optimizer and schedules against NumPy in float64.

pytest examples/llm_pretrain_cuda/tests/test_llm_optimizer.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cuda_modules import load

train = load("train")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def settings(**changes):
    small = {"depth": 2, "width": 32, "head_dim": 8, "gate_channels": 4, "smear_channels": 6, "batch_tokens": 64}
    return replace(train.settings_for("small"), **(small | changes))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scalars(*values):
    return [torch.tensor(float(value)) for value in values]


# ---- AdamW


def test_adamw_against_numpy():
    p, first, second = draw(1, 6, 5), torch.zeros(1, 6, 5), torch.zeros(1, 6, 5)
    q, m, v = p.double().numpy(), np.zeros((1, 6, 5)), np.zeros((1, 6, 5))
    for step, lr in enumerate((0.1, 0.07, 0.03, 0.01), 1):
        g = draw(1, 6, 5, seed=step) * 10.0 ** (-step)
        train.adamw_update(p, g, first, second, *scalars(lr, 0.2, 0.8, 0.95, 1 - 0.8**step, 1 - 0.95**step))
        g = g.double().numpy()
        q = q * (1 - lr * 0.2)
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        q = q - lr * (m / (1 - 0.8**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-10)
        np.testing.assert_allclose(p.numpy(), q, rtol=1e-5, atol=1e-6)


def test_the_first_step_of_adamw_is_the_sign():
    p, g = torch.zeros(1, 4), torch.tensor([[3.0, -1e-4, 20.0, 0.0]])
    train.adamw_update(p, g, torch.zeros(1, 4), torch.zeros(1, 4), *scalars(0.5, 0, 0.8, 0.95, 0.2, 0.05))
    np.testing.assert_allclose(p.numpy(), [[-0.5, 0.5, -0.5, 0.0]], rtol=1e-4)


# ---- Muon


def np_muon_step(p, g, first, second, lr, wd, momentum, beta2, eq, plus):
    """One matrix at a time, from the papers' formulas; coefficients written out once more."""
    coefficients = [
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ]
    first[:] = momentum * first + (1 - momentum) * g
    x = (1 - momentum) * g + momentum * first
    if eq:
        x = x / np.linalg.norm(x, axis=1, keepdims=True) * np.linalg.norm(x) / np.sqrt(len(x))
    x = x / (1.02 * np.linalg.norm(x) + 1e-6)
    for a, b, c in coefficients:  # odd polynomial of the singular values
        u, sigma, vt = np.linalg.svd(x, full_matrices=False)
        x = u * (a * sigma + b * sigma**3 + c * sigma**5) @ vt
    if plus:
        x = x * np.sqrt(min(x.shape)) / np.linalg.norm(x)
    axis = 1 if x.shape[0] >= x.shape[1] else 0
    second[:] = beta2 * second + (1 - beta2) * (x**2).mean(axis, keepdims=True)
    scaled = x / np.sqrt(np.maximum(second, 1e-10))
    x = scaled * np.linalg.norm(x) / np.linalg.norm(scaled)
    return p - lr * x - lr * wd * p * (x * p >= 0)


@pytest.mark.parametrize("extras", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", [(8, 8), (24, 6), (6, 24)])
def test_muon_against_numpy(shape, extras):
    rows, cols = shape
    along = (3, rows, 1) if rows >= cols else (3, 1, cols)
    p, first, second = draw(3, *shape), torch.zeros(3, *shape), torch.zeros(along)
    q, m, v = p.double().numpy(), np.zeros((3, *shape)), np.zeros(along)
    for step, momentum in enumerate((0.85, 0.9, 0.95, 0.97), 1):
        g = draw(3, *shape, seed=step)
        rates = (0.05, 0.2 / step, momentum, 0.95)
        train.muon_update(p, g, first, second, *scalars(*rates), 5, *extras, torch.float32)
        q = np.stack([np_muon_step(q[i], g[i].double().numpy(), m[i], v[i], *rates, *extras) for i in range(3)])
        np.testing.assert_allclose(p.numpy(), q, atol=2e-4)


@pytest.mark.parametrize("shape", [(64, 64), (128, 32), (32, 128)])
def test_singular_values_after_polar_express_are_near_one(shape):
    x = draw(2, *shape)
    before = torch.linalg.svdvals(x)
    assert (before[:, 0] / before[:, -1]).min() > 2  # there is something to do
    sigma = torch.linalg.svdvals(train.polar_express(x, 5, torch.float32))
    if shape[0] == shape[1]:  # a square random matrix has a tiny singular value, which five steps cannot lift
        sigma = sigma[:, :-4]
    assert sigma.min() > 0.8 and sigma.max() < 1.2
    rough = torch.linalg.svdvals(train.polar_express(x, 5, torch.bfloat16))
    assert rough.max() < 1.25


def test_polar_express_keeps_the_singular_vectors():
    x = draw(1, 40, 10)
    u, _, vt = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(train.polar_express(x, 5, torch.float32), u @ vt, atol=0.15, rtol=0)


@pytest.mark.parametrize("shape", [(16, 16), (32, 8), (8, 32)])
def test_normuon_keeps_the_frobenius_norm_and_evens_out_the_lines(shape):
    x = draw(2, *shape)
    along, line = (-1, -2) if shape[0] >= shape[1] else (-2, -1)
    x = x * torch.linspace(0.1, 3, shape[0 if along == -1 else 1]).unsqueeze(along)
    second = torch.zeros_like(x.mean(along, keepdim=True))
    y = train.normuon(x, second, torch.tensor(0.95))
    torch.testing.assert_close(y.norm(dim=(1, 2)), x.norm(dim=(1, 2)))
    sizes = y.norm(dim=along)  # the first step knows only itself, so all lines come out equal
    torch.testing.assert_close(sizes, sizes.mean(-1, keepdim=True).expand_as(sizes))
    assert sizes.shape[-1] == second.shape[line]


def test_decay_is_cautious():
    """Only weights that the update shrinks anyway are decayed."""
    shape = (1, 12, 12)
    p, g = draw(*shape), draw(*shape, seed=1)

    def after(wd):
        q = p.clone()
        rates = scalars(0.01, wd, 0.0, 0.95)
        train.muon_update(q, g, torch.zeros(shape), torch.zeros(1, 12, 1), *rates, 5, False, False, torch.float32)
        return q

    update, decayed = p - after(0.0), after(0.0) - after(0.5)
    shrinks = update * p >= 0
    assert 0.2 < shrinks.float().mean() < 0.8
    torch.testing.assert_close(decayed[shrinks], (0.01 * 0.5 * p)[shrinks], atol=1e-6, rtol=0)
    assert not decayed[~shrinks].any()


# ---- banks


def test_parameters_and_gradients_are_views_of_the_banks():
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(draw(4, 3, seed=n)) for n in range(3)]
    bank = train.Bank(parameters, True, 0.1, 0.0, (0.0, 0.95))
    torch.testing.assert_close(bank.value, torch.stack([draw(4, 3, seed=n) for n in range(3)]))
    for _ in range(2):  # a second backward pass adds to the first
        sum((n + 1) * parameter.sum() for n, parameter in enumerate(parameters)).backward()
    assert bank.gradient[:, 0, 0].tolist() == [2.0, 4.0, 6.0]
    bank.value.fill_(7.0)
    assert all((parameter == 7.0).all() for parameter in parameters)


def test_every_parameter_is_in_one_bank_with_its_rates():
    s = settings()
    model = train.GPT(s, 50, 16).init_weights(1)
    shapes = sorted(tuple(parameter.shape) for parameter in model.parameters())
    optimizer = train.MuonAdamW(model, s)
    assert sorted(tuple(part.shape) for bank in optimizer.banks for part in bank.value) == shapes
    muon = {tuple(bank.value.shape): bank.lr for bank in optimizer.banks if bank.muon}
    assert muon == {(8, 32, 32): 0.04, (2, 128, 32): 0.08, (2, 32, 128): 0.04}
    adam = {}
    for role, parameters in model.roles().items():
        where = {p.data_ptr() for p in parameters}
        for bank in optimizer.banks:
            if not bank.muon and {part.data_ptr() for part in bank.value} & where:
                adam[role] = (bank.lr, bank.wd, bank.betas)
    by_width = (32 / 768) ** -0.5
    assert adam == {
        "embedding": (s.embedding_lr * by_width, s.embedding_wd, (s.adam_beta1, s.adam_beta2)),
        "value_embedding": (s.value_embedding_lr * by_width, s.value_embedding_wd, (s.adam_beta1, s.adam_beta2)),
        "head": (s.head_lr * by_width, s.head_wd, (s.adam_beta1, s.adam_beta2)),
        "gate": (s.gate_lr, 0.0, (s.adam_beta1, s.adam_beta2)),  # not orthogonalised: they are tiny
        "resid_lambdas": (s.scalar_lr * 0.01, 0.0, (s.adam_beta1, s.adam_beta2)),
        "x0_lambdas": (s.scalar_lr, 0.0, (s.x0_beta1, s.adam_beta2)),
        "lambda": (s.smear_lr, 0.0, (s.adam_beta1, s.adam_beta2)),
    }


def test_gates_can_be_left_to_muon_as_in_the_reference():
    s = settings(muon_gates=True)
    optimizer = train.MuonAdamW(train.GPT(s, 50, 16).init_weights(1), s)
    muon = {tuple(bank.value.shape[1:]) for bank in optimizer.banks if bank.muon}
    assert muon == {(32, 32), (128, 32), (32, 128), (4, 4)}


def test_all_state_is_float32_also_for_a_bfloat16_model():
    s = settings()
    optimizer = train.MuonAdamW(train.GPT(s, 50, 16, torch.bfloat16).init_weights(1), s)
    assert {tensor.dtype for tensor in optimizer.tensors()} == {torch.float32}


def test_steps_move_every_weight_and_lower_the_loss():
    s = settings()
    model = train.GPT(s, 50, 16).init_weights(1)
    optimizer = train.MuonAdamW(model, s)
    rows = torch.randint(50, (4, 17), generator=torch.Generator().manual_seed(2))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = model.loss(*train.inputs_and_targets(rows))
        loss.backward()
        optimizer.step(1.0, 0.9, 1.0)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_a_learning_rate_of_zero_moves_nothing():
    s = settings()
    model = train.GPT(s, 50, 16).init_weights(1)
    optimizer = train.MuonAdamW(model, s)
    before = [bank.value.clone() for bank in optimizer.banks]
    model.loss(*train.inputs_and_targets(torch.randint(50, (4, 17)))).backward()
    optimizer.step(0.0, 0.9, 1.0)
    assert all(torch.equal(bank.value, value) for bank, value in zip(optimizer.banks, before, strict=True))


def test_unscale_divides_and_sees_overflow():
    s = settings()
    optimizer = train.MuonAdamW(train.GPT(s, 50, 16).init_weights(1), s)
    for bank in optimizer.banks:
        bank.gradient.fill_(64.0)
    assert optimizer.unscale(32.0)
    assert all((bank.gradient == 2.0).all() for bank in optimizer.banks)
    optimizer.banks[-1].gradient.view(-1)[0] = float("inf")
    assert not optimizer.unscale(32.0)


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


def test_weight_decay_at_its_corners():
    values = {name: [f(progress) for progress in (0, 0.5, 1)] for name, f in train.WD_SCHEDULES.items()}
    assert values["cosine"] == pytest.approx([1, 0.5, 0])
    assert values["linear"] == pytest.approx([1, 0.5, 0])
    assert values["constant"] == [1, 1, 1]
    assert train.WD_SCHEDULES["cosine"](0.25) == pytest.approx(0.853553)
