"""The model's gradients and losses against finite differences, torch, and themselves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ane_model import ADAMW, LION, NO_TRAINING, CModel, Config, random_gains, settings, window

torch = pytest.importorskip("torch", reason="the reference is written in torch")
from ane_reference import Reference  # noqa: E402

CONFIGS = {
    "plain": Config(),
    "rope": Config(rope=True),
    "clamped": Config(max_act=0.5, softcap=2.0, loss_scale=1024.0),
    "clamp_idle": Config(max_act=1e3, softcap=2.0, rope=True, loss_scale=8.0),
}
EDGES = {
    "one_head": Config(heads=1, layers=1),
    "odd_widths": Config(dim=36, hidden=52, heads=3, classes=71),
    "blocks": Config(dim=16, hidden=24, seq=256, classes=33, rope=True),
    "short_hidden": Config(dim=96, hidden=16, seq=96, layers=3),
}


def lively(model: CModel) -> None:
    """Weights at which no gradient is tiny: gains away from 1, an embedding of the size of a trained one."""
    arrays = model.arrays()
    random_gains(arrays)
    arrays["embedding"][:] *= 30


def differences(
    model: CModel, array: np.ndarray, direction: np.ndarray, step: float, inputs: np.ndarray, targets: np.ndarray
) -> float:
    """Derivative of the loss along the direction, to fourth order in the step."""
    kept, losses = array.copy(), []
    for k in (1, -1, 2, -2):
        array[:] = kept + k * step * direction
        losses.append(model.loss(inputs, targets))
    array[:] = kept
    return (8 * (losses[0] - losses[1]) - (losses[2] - losses[3])) / (12 * step)


@pytest.mark.parametrize("name", CONFIGS)
def test_gradient_of_each_tensor_is_the_difference_quotient(name: str) -> None:
    config, rng = CONFIGS[name], np.random.default_rng(11)
    dense = 1e-5 if name == "clamped" else 1e-4  # few numbers may cross the clamp's bound
    with CModel(config, double=True) as model:
        lively(model)
        inputs, targets = window(config, 5)
        model.train(inputs, targets)
        weights, gradients = model.arrays(), model.arrays("gradient")
        for tensor, weight in weights.items():
            gradient = gradients[tensor] / config.loss_scale
            largest = np.unravel_index(np.argmax(np.abs(gradient)), gradient.shape)
            directions = [rng.standard_normal(weight.shape) * np.abs(weight).max() for _ in range(3)]
            directions += [np.zeros(weight.shape) for _ in range(2)]
            directions[3][largest] = directions[4][largest[0], rng.integers(weight.shape[1])] = np.abs(weight).max()
            for direction, step in zip(directions, [dense] * 3 + [1e-4] * 2, strict=True):
                expected = differences(model, weight, direction, step, inputs, targets)
                # An entry may be next to 0 by cancellation; what rounding leaves of it is in units of the whole.
                unit = max(
                    abs(expected), 1e-2 * np.linalg.norm(gradient) * np.linalg.norm(direction) / weight.size**0.5
                )
                assert abs((gradient * direction).sum() - expected) <= 1e-6 * unit, tensor


def test_clamp_of_the_gradient_check_is_active_in_part() -> None:
    losses = []
    for max_act in (0.5, 1e3):
        config = dataclasses.replace(CONFIGS["clamped"], max_act=max_act)
        with CModel(config, double=True) as model:
            lively(model)
            model.train(*window(config, 5))
            losses.append(model.loss(*window(config, 5)))
            assert np.abs(model.arrays("gradient")["layer0.wq"]).max() > 0
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize("double", [True, False], ids=["double", "float"])
@pytest.mark.parametrize("name", [*CONFIGS, *EDGES])
def test_loss_and_gradients_are_those_of_torch(name: str, double: bool) -> None:
    config = {**CONFIGS, **EDGES}[name]
    with CModel(config, double=double) as model:
        lively(model)
        inputs, targets = window(config, 5)
        reference = Reference(config, model.arrays())
        expected = reference.train(inputs, targets)
        assert model.train(inputs, targets) == pytest.approx(expected, rel=1e-13 if double else 1e-6)
        for tensor, gradient in model.arrays("gradient").items():
            wanted = reference.gradients()[tensor]
            worst = np.abs(gradient / config.loss_scale - wanted).max() / np.abs(wanted).max()
            assert worst <= (1e-12 if double else 2e-5), tensor


@pytest.mark.parametrize("name", CONFIGS)
def test_validation_loss_is_the_loss_of_training(name: str) -> None:
    config = CONFIGS[name]
    with CModel(config) as model, CModel(config, moments=NO_TRAINING) as judge:
        lively(model)
        lively(judge)
        inputs, targets = window(config, 5)
        assert model.loss(inputs, targets) == model.train(inputs, targets) == judge.loss(inputs, targets)


def test_softcap_bounds_the_loss() -> None:
    config = Config(softcap=1e-3)
    with CModel(config) as model:
        lively(model)
        assert abs(model.loss(*window(config, 5)) - np.log(config.classes)) <= 2e-3


def test_logits_of_any_size_give_a_finite_loss() -> None:
    config = Config(softcap=1000.0)
    with CModel(config) as model:
        model.arrays()["embedding"][:] *= 1e5
        inputs, targets = window(config, 5)
        reference = Reference(config, model.arrays())
        loss = model.train(inputs, targets)
        assert loss > 100
        assert loss == pytest.approx(reference.train(inputs, targets), rel=1e-5)
        assert all(np.isfinite(gradient).all() for gradient in model.arrays("gradient").values())


def test_gradients_of_micro_steps_add_up_without_waiting_between_them() -> None:
    config = Config(seq=128)
    with CModel(config, double=True, threads=3) as model:
        lively(model)
        alone = []
        windows = [window(config, seed) for seed in range(4)]
        for inputs, targets in windows:
            model.train(inputs, targets)
            alone.append({name: gradient.copy() for name, gradient in model.arrays("gradient").items()})
            model.zero()
        for inputs, targets in windows:
            model.c.model_train(model.model, inputs.ctypes.data, targets.ctypes.data)
            inputs[:] = targets[:] = 0  # they were copied
        model.c.model_wait(model.model)
        for name, gradient in model.arrays("gradient").items():
            np.testing.assert_allclose(gradient, sum(one[name] for one in alone), rtol=1e-11, atol=1e-13)


def trained(config: Config, threads: int, updates: int = 5) -> dict[str, np.ndarray]:
    """Weights after some updates of two micro-steps each."""
    with CModel(config, moments=ADAMW, threads=threads) as model:
        for update in range(updates):
            for micro_step in range(2):
                inputs, targets = window(config, 2 * update + micro_step)
                model.c.model_train(model.model, inputs.ctypes.data, targets.ctypes.data)
            model.c.model_wait(model.model)
            assert not model.update(settings(loss_scale=config.loss_scale), update, 2).skipped
        return {name: weight.copy() for name, weight in model.arrays().items()}


def test_repeats_give_the_same_bits_and_other_numbers_of_threads_the_same_numbers() -> None:
    config = Config(dim=64, hidden=192, seq=128, classes=700, rope=True, loss_scale=64.0)
    by_threads = {threads: trained(config, threads) for threads in (1, 2, 3)}
    for threads, weights in by_threads.items():
        again = trained(config, threads)
        for name, weight in weights.items():
            assert weight.tobytes() == again[name].tobytes(), name
            np.testing.assert_allclose(weight, by_threads[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("double", [True, False], ids=["double", "float"])
def test_compact_table_is_the_full_one_over_used_rows(double: bool) -> None:
    used = np.array([1, 2, 5, 11, 17, 40, 41, 63, 64, 90], np.uint16)
    full, compact = Config(classes=96), Config(classes=len(used))
    inputs, targets = window(compact, 5)
    with CModel(full, double=double) as large, CModel(compact, double=double, tokens=used) as small:
        weights, rows = small.arrays(), torch.from_numpy(used.astype(np.int64))
        for name, weight in large.arrays().items():
            assert (weight[used] if name == "embedding" else weight).tobytes() == weights[name].tobytes(), name
        reference = Reference(full, large.arrays())
        expected = reference.train(used[inputs].astype(np.int64), used[targets].astype(np.int64), rows)
        assert small.train(inputs, targets) == pytest.approx(expected, rel=1e-12 if double else 1e-6)
        for name, gradient in small.arrays("gradient").items():
            wanted = reference.gradients()[name]
            if name == "embedding":
                assert not np.delete(wanted, used, axis=0).any()
                wanted = wanted[used]
            assert np.abs(gradient - wanted).max() <= (1e-11 if double else 2e-5) * np.abs(wanted).max(), name


def test_initial_weights_are_uniform_by_fan_in_and_a_row_of_the_embedding_belongs_to_its_token() -> None:
    config = Config(dim=64, hidden=256, layers=3, classes=300)
    with CModel(config, seed=42) as model, CModel(config, seed=43) as other:
        weights = model.arrays()
        alpha = (2 * config.layers) ** -0.5
        bounds = {"wq": 1 / 8, "wk": 1 / 8, "wv": 1 / 8, "wo": alpha / 8, "w1": 1 / 8, "w2": alpha / 16, "w3": 1 / 8}
        for name, weight in weights.items():
            if "gain" in name:
                assert (weight == 1).all()
                continue
            bound = bounds.get(name.split(".")[-1], 0.02)
            assert 0.99 * bound < np.abs(weight).max() <= np.float32(bound)
            assert abs(weight.std() - bound / 3**0.5) < 0.05 * bound
            assert abs(weight.mean()) < 0.05 * bound
            assert (weight != other.arrays()[name]).mean() > 0.99
        row = np.zeros(config.dim, np.float32)
        model.c.embedding_row(row.ctypes.data, config.dim, 42, 299)
        assert row.tobytes() == weights["embedding"][299].tobytes()
        assert len(np.unique(weights["embedding"])) > 0.98 * weights["embedding"].size


def test_phases_add_up_to_the_time_of_the_step() -> None:
    config = Config(seq=128, rope=True)
    with CModel(config) as model:
        model.seconds[:] = 0
        model.train(*window(config, 1))
        before = model.seconds.copy()
        assert (before[[0, 1, 3, 4, 5, 6]] > 0).all()  # kernels both ways, norms, elementwise, classifier, wait
        assert (before[[2, 7, 8, 9]] == 0).all()  # io, update, stage, validation
        model.loss(*window(config, 1))
        assert (model.seconds[:9] == before[:9]).all()
        assert model.seconds[9] > 0


def test_sizes_of_tensors_follow_the_shape() -> None:
    config = Config(dim=768, hidden=2048, heads=12, seq=512, layers=1, classes=32)
    with CModel(config, moments=LION) as model:
        assert [(name, weight.shape) for name, weight in model.arrays().items()] == [
            *((f"layer0.{name}", (768, 768)) for name in ("wq", "wk", "wv", "wo")),
            ("layer0.w1", (2048, 768)),
            ("layer0.w2", (768, 2048)),
            ("layer0.w3", (2048, 768)),
            ("layer0.gain_attention", (1, 768)),
            ("layer0.gain_ffn", (1, 768)),
            ("gain", (1, 768)),
            ("embedding", (32, 768)),
        ]
        assert all(tensor.v is None for tensor in model.tensors.values())
