"""AdamW, Lion, schedule, clipping and loss scaling against hand values, torch, and the same training in torch."""

from __future__ import annotations

import ctypes
import dataclasses
import math

import numpy as np
import pytest
from ane_model import ADAMW, LION, CModel, Config, c_model, settings, window

torch = pytest.importorskip("torch", reason="the reference is written in torch")
from ane_reference import Reference  # noqa: E402

TINY = Config(dim=4, hidden=8, heads=1, seq=2, layers=1, classes=3)


def fill(model: CModel, value: float | None = None, seed: int = 1, scale: float = 1.0) -> dict[str, np.ndarray]:
    """All gradients become `value`, or random ones times scale; returns copies of them."""
    rng = np.random.default_rng(seed)
    for gradient in model.arrays("gradient").values():
        gradient[:] = rng.standard_normal(gradient.shape) * scale if value is None else value
    return {name: gradient.copy() for name, gradient in model.arrays("gradient").items()}


def copies(model: CModel, field: str = "weight") -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in model.arrays(field).items()}


def test_schedule_by_hand() -> None:
    c, s = c_model(), settings(learning_rate=2.0, warmup_steps=4, total_steps=12, lr_min_frac=0.25)
    by_hand = {0: 0.5, 1: 1.0, 3: 2.0, 4: 2.0, 8: 2 * (0.25 + 0.75 / 2), 12: 0.5, 1000: 0.5}
    by_hand[6] = 2 * (0.25 + 0.75 * 0.5 * (1 + math.sqrt(0.5)))
    for updates, rate in by_hand.items():
        assert c.scheduled_rate(ctypes.byref(s), updates) == pytest.approx(rate, rel=1e-14), updates


@pytest.mark.parametrize("total", [4, 1])
def test_schedule_that_ends_with_the_warm_up_stays_at_the_floor(total: int) -> None:
    s = settings(learning_rate=2.0, warmup_steps=4, total_steps=total, lr_min_frac=0.25)
    assert [c_model().scheduled_rate(ctypes.byref(s), updates) for updates in (3, 4, 5)] == [2.0, 0.5, 0.5]


def test_schedule_without_warm_up_begins_at_the_peak() -> None:
    s = settings(learning_rate=2.0, warmup_steps=0, total_steps=10)
    assert c_model().scheduled_rate(ctypes.byref(s), 0) == 2.0


@pytest.mark.parametrize(
    ("steps", "ramp", "expected"),
    [(12, 0, [12, 12]), (12, 1, [12, 12]), (12, 4, [3, 6, 9, 12, 12]), (2, 5, [1, 1, 2, 2, 2, 2]), (1, 9, [1, 1, 1])],
    ids=["none", "one", "line", "slow", "least"],
)
def test_accumulation_is_reached_in_a_straight_line(steps: int, ramp: int, expected: list[int]) -> None:
    s = settings(accum_steps=steps, accum_ramp_steps=ramp)
    found = [c_model().scheduled_accumulation(ctypes.byref(s), updates) for updates in range(len(expected))]
    assert found == expected
    assert c_model().scheduled_accumulation(ctypes.byref(s), 1 << 40) == steps


def test_lion_by_hand() -> None:
    s = settings(
        lion=True, warmup_steps=0, learning_rate=0.5, matrix_lr_scale=0.25, embed_lr_scale=2.0, weight_decay=0.1
    )
    s.grad_clip, s.beta1, s.beta2 = 1e9, 0.75, 0.5
    with CModel(TINY, double=True) as model:
        for array in model.arrays().values():
            array[:] = 3
        for array in model.arrays("m").values():
            array[:] = [1, -1, 0, -0.25] * (array.shape[1] // 4)
        fill(model, 0.75)
        assert not model.update(s, 0).skipped
        # The sign of 0.75 m + 0.25 * 0.75 is that of m + 0.25: + - + 0. The rates are 0.125, 0.5 and 1.
        for name, array in model.arrays().items():
            matrix = name.startswith("layer0.w")
            rate = 0.125 if matrix else 1.0 if name == "embedding" else 0.5
            decayed = 3 * (1 - rate * 0.1) if matrix else 3
            wanted = [decayed - rate, decayed + rate, decayed - rate, decayed]
            np.testing.assert_allclose(array[0, :4], wanted, rtol=1e-15, err_msg=name)
            np.testing.assert_allclose(model.arrays("m")[name][-1, -4:], [0.875, -0.125, 0.375, 0.25], rtol=1e-15)


@pytest.mark.parametrize("before", [0, 3000], ids=["first", "after_lion"])
@pytest.mark.parametrize("double", [True, False], ids=["double", "float"])
def test_adamw_is_that_of_torch(double: bool, before: int) -> None:
    """Also after updates by Lion: the moments begin at zero, and the schedule goes on."""
    s = settings(learning_rate=0.01, matrix_lr_scale=0.5, embed_lr_scale=3.0, grad_clip=1e9, weight_decay=0.3)
    s.beta2, s.total_steps = 0.9999, before + 500
    with CModel(TINY, moments=ADAMW, double=double) as model:
        weights = {name: torch.tensor(array, requires_grad=True) for name, array in model.arrays().items()}
        scales = {name: 0.5 if name.startswith("layer0.w") else 3 if name == "embedding" else 1 for name in weights}
        groups = [{"params": [w], "weight_decay": 0.3 if scales[name] == 0.5 else 0.0} for name, w in weights.items()]
        theirs = torch.optim.AdamW(groups, lr=0.0, betas=(s.beta1, s.beta2), eps=s.epsilon)
        for updates in range(20):
            for name, gradient in fill(model, seed=updates).items():
                weights[name].grad = torch.tensor(gradient)
            for group, scale in zip(theirs.param_groups, scales.values(), strict=True):
                group["lr"] = scale * model.c.scheduled_rate(ctypes.byref(s), before + updates)
            theirs.step()
            model.update(s, before + updates, moment_updates=updates)
        for name, array in model.arrays().items():
            wanted = weights[name].detach().numpy()
            np.testing.assert_allclose(array, wanted, rtol=1e-12 if double else 2e-5, atol=0 if double else 1e-6)


@pytest.mark.parametrize("moments", [LION, ADAMW], ids=["lion", "adamw"])
def test_norm_is_over_all_gradients_and_clipping_scales_them_all(moments: int) -> None:
    s = settings(lion=moments == LION, grad_clip=0.5)
    with CModel(TINY, moments=moments, double=True) as model, CModel(TINY, moments=moments, double=True) as other:
        gradients = fill(model, seed=2)
        norm = math.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
        update = model.update(s, 3)
        assert (update.norm, update.clipped) == (pytest.approx(norm, rel=1e-14), True)
        assert update.rate == model.c.scheduled_rate(ctypes.byref(s), 3)
        for name, gradient in other.arrays("gradient").items():
            gradient[:] = gradients[name] * 0.5 / norm
        s.grad_clip = 0.6
        update = other.update(s, 3)
        assert (update.norm, update.clipped) == (pytest.approx(0.5, rel=1e-14), False)
        for field in ("weight", "m"):
            for name, array in model.arrays(field).items():
                np.testing.assert_allclose(array, other.arrays(field)[name], rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("threads", [1, 3])
def test_norm_does_not_depend_on_threads_nor_overflow(threads: int) -> None:
    config = Config(dim=64, hidden=96, classes=3000)
    norms = []
    for seed, scale in ((1, 1.0), (1, 1e25)):
        with CModel(config, threads=threads) as model:
            gradients = fill(model, seed=seed, scale=scale)
            exact = math.sqrt(math.fsum(float((g.astype(np.float64) ** 2).sum()) for g in gradients.values()))
            norms.append(model.update(settings(lion=True), 0).norm)
            assert norms[-1] == pytest.approx(exact, rel=1e-13)
    with CModel(config, threads=2) as model:
        fill(model, seed=1)
        assert model.update(settings(lion=True), 0).norm == norms[0]


@pytest.mark.parametrize("moments", [LION, ADAMW], ids=["lion", "adamw"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "minus_inf"])
@pytest.mark.parametrize("tensor", ["layer0.w2", "gain", "embedding"])
def test_update_that_is_not_finite_is_skipped_and_changes_nothing(tensor: str, bad: float, moments: int) -> None:
    s = settings(lion=moments == LION)
    with CModel(TINY, moments=moments) as model:
        fill(model)
        model.update(s, 0)
        fields = ["weight", "m", *(["v"] if moments == ADAMW else [])]
        before = {field: copies(model, field) for field in fields}
        fill(model)
        model.arrays("gradient")[tensor][-1, -1] = bad
        update = model.update(s, 1)
        assert update.skipped and not update.clipped
        for field in fields:
            for name, array in model.arrays(field).items():
                assert array.tobytes() == before[field][name].tobytes()
        assert not any(gradient.any() for gradient in model.arrays("gradient").values())


@pytest.mark.parametrize("moments", [LION, ADAMW], ids=["lion", "adamw"])
def test_micro_steps_are_counted_and_gradients_zeroed(moments: int) -> None:
    s = settings(lion=moments == LION, accum_steps=12)
    with CModel(TINY, moments=moments) as model, CModel(TINY, moments=moments) as other:
        for micro_steps, value in ((3, 1.0), (6, 2.0)):
            for name, array in (model if micro_steps == 3 else other).arrays("gradient").items():
                array[:] = value * (1 + len(name))
        assert model.update(s, 0, 3).norm == other.update(s, 0, 6).norm
        for name, array in model.arrays().items():
            assert array.tobytes() == other.arrays()[name].tobytes()
        assert not any(gradient.any() for gradient in model.arrays("gradient").values())


@pytest.mark.parametrize("moments", [LION, ADAMW], ids=["lion", "adamw"])
def test_loss_scale_changes_no_bit_of_an_update(moments: int) -> None:
    weights, norms = [], []
    for scale in (1.0, 1024.0):
        config = Config(loss_scale=scale, rope=True, max_act=0.5)
        with CModel(config, moments=moments) as model:
            model.arrays()["embedding"][:] *= 30
            for micro_step in range(3):
                model.train(*window(config, micro_step))
            norms.append(model.update(settings(lion=moments == LION, loss_scale=scale, grad_clip=0.1), 0, 3).norm)
            weights.append(copies(model))
    assert norms[0] == norms[1] > 0.1
    for name, weight in weights[0].items():
        assert weight.tobytes() == weights[1][name].tobytes(), name


def curves(config: Config, moments: int, double: bool, updates: int) -> tuple[list[float], list[float], list[float]]:
    """Losses before each update of 2 micro-steps: C, torch, and a validation loss after every tenth."""
    s = settings(lion=moments == LION, learning_rate=2e-3 if moments == LION else 1e-2, loss_scale=config.loss_scale)
    s.total_steps, losses, expected, held_out = updates, [], [], []
    with CModel(config, moments=moments, double=double) as model:
        reference = Reference(config, model.arrays())
        for update in range(updates):
            pairs = [window(config, 1000 + 2 * update + i) for i in range(2)]
            losses.append(sum(model.train(*pair) for pair in pairs) / 2)
            expected.append(sum(reference.train(*pair) for pair in pairs) / 2)
            norm = reference.update(s, update, 2)
            assert model.update(s, update, 2).norm == pytest.approx(norm, rel=1e-8 if double else 1e-2)
            if update % 10 == 9:
                held_out.append(model.loss(*window(config, 1)))
    return losses, expected, held_out


@pytest.mark.slow
@pytest.mark.parametrize("rope", [False, True], ids=["plain", "rope"])
@pytest.mark.parametrize("moments", [LION, ADAMW], ids=["lion", "adamw"])
def test_training_in_double_has_the_loss_curve_of_torch(moments: int, rope: bool) -> None:
    config = Config(rope=rope, softcap=5.0, loss_scale=1024.0, classes=48)
    losses, expected, held_out = curves(config, moments, double=True, updates=60)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-7)
    assert np.mean(losses[-5:]) < losses[0] - 0.5
    assert held_out[-1] < held_out[0]


@pytest.mark.parametrize("moments", [LION, ADAMW], ids=["lion", "adamw"])
def test_training_in_float_has_the_loss_curve_of_torch(moments: int) -> None:
    config = dataclasses.replace(Config(rope=True, softcap=5.0, loss_scale=1024.0), classes=48)
    losses, expected, _ = curves(config, moments, double=False, updates=60)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-4)
