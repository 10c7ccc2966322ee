"""examples/llm_pretrain_mlx on a GPU of MLX's, Apple's by Metal or NVIDIA's by mlx[cuda]; elsewhere all of it skips.

pytest tests/gpu -m ''
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="needs MLX")
if not (mx.metal.is_available() or mx.cuda.is_available()):
    pytest.skip("needs a GPU that MLX can use", allow_module_level=True)
pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "llm_pretrain_mlx"
sys.path.insert(0, str(EXAMPLE / "tests"))
from mlx_modules import load  # noqa: E402 - found by the line above

graph, train = load("graph"), load("train")
LENGTH, VOCAB = 256, 512


@pytest.fixture(autouse=True)
def _device_as_before():
    before = mx.default_device()
    mx.set_default_device(mx.gpu)
    yield
    mx.set_default_device(before)


def rows_of(n=16, seed=1):
    return np.random.default_rng(seed).integers(VOCAB, size=(n, LENGTH + 1))


def trainer_of(dtype, compiled, **changes):
    """A trainer on the default device.

    Scalars do not learn: at the start their gradients are zero but for rounding, of which Adam makes a whole step.
    """
    sizes = {"depth": 3, "width": 256, "head_dim": 128, "window_pattern": "SL", "short_window": 64}
    sizes |= {"attention_chunk": 64, "batch_tokens": 16 * LENGTH, "micro_batch_rows": 8, "export_rows": 8}
    sizes |= {"scalar_lr": 0.0, "smear_lr": 0.0}
    settings = replace(train.settings_for("small"), **(sizes | changes))
    model = train.GPT(settings, VOCAB, LENGTH, dtype)
    return train.Trainer(model, model.init(1), compiled)


def steps(trainer, count=4):
    """The losses of so many steps on one batch, which soon fall."""
    return [trainer.step(rows_of(), 0.3, step)[0] for step in range(count)]


@pytest.fixture(scope="module")
def on_the_cpu():
    """(losses, weights) of a few steps in float32 on the CPU."""
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    trainer = trainer_of(mx.float32, False)
    losses = steps(trainer)
    mx.set_default_device(before)
    return losses, {name: np.array(value) for name, value in trainer.parameters.items()}


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_float32_steps_are_those_of_the_cpu(on_the_cpu, compiled):
    losses, weights = on_the_cpu
    trainer = trainer_of(mx.float32, compiled)
    assert steps(trainer) == pytest.approx(losses, rel=1e-3)
    for name, weight in weights.items():
        distance = np.linalg.norm(np.array(trainer.parameters[name]) - weight)
        assert distance < 0.03 * max(np.linalg.norm(weight), 1e-3), name


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_bfloat16_steps_are_near_those_of_the_cpu(on_the_cpu, compiled):
    losses = steps(trainer_of(mx.bfloat16, compiled))
    assert losses == pytest.approx(on_the_cpu[0], rel=0.02)
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("checkpoint", [False, True], ids=["kept", "checkpoint"])
def test_the_whole_step_learns_in_bfloat16(checkpoint):
    trainer = trainer_of(mx.bfloat16, True, checkpoint=checkpoint)
    rows = np.repeat(np.random.default_rng(2).integers(VOCAB, size=(16, 1)), LENGTH + 1, axis=1)  # one word a row
    losses = [trainer.step(rows, 0.3, step)[0] for step in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_warming_up_leaves_no_trace():
    trainer = trainer_of(mx.bfloat16, True)
    steps(trainer, 1)
    _, banks = trainer.optimizer.state()
    before = [np.array(array) for arrays in banks for array in arrays]
    trainer.warm_up(rows_of(seed=7))
    count, banks = trainer.optimizer.state()
    after = [np.array(array) for arrays in banks for array in arrays]
    assert count == 1 and all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["fp32", "bf16"])
def test_the_exported_model_says_the_same_on_cpu_and_gpu(tmp_path, dtype):
    trainer = trainer_of(dtype, True)
    steps(trainer)
    about = {"tokenizer_sha256": "", "data": "none", "vocab_size": VOCAB, "sequence_length": LENGTH}
    path = tmp_path / "model.graph"
    graph.save(train.exported(trainer.model, trainer.parameters), path, 8, LENGTH, about)
    tokens = rows_of(8, seed=3).astype(np.int32)[:, :-1]
    there = np.array(trainer.model.logits(trainer.parameters, mx.array(tokens)))
    for device in (mx.gpu, mx.cpu):
        mx.set_default_device(device)
        found = np.array(graph.load(path)(tokens))
        assert np.abs(found - there).mean() < (1e-3 if dtype == mx.float32 else 0.05)


def test_ten_seconds_of_training_and_the_judge_agrees_on_both_devices(tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "*.graph"))
    env = {**os.environ, "ARK_CACHE": str(tmp_path / "cache"), "ARK_SEED": "1", "ARK_BUDGET_SECONDS": "10"}

    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("prepare.py", "synthetic", "--name", "stories", "--vocab-size", "1024", "--sequence-length", "256")
    log = run("train.py", "--data", "stories", "--profile", "small", "--device", "gpu")
    assert "dtype: bfloat16 | compiled: True" in log

    def number(text: str) -> float:
        return float(next(line.split()[1] for line in text.splitlines() if line.startswith("val_bpb:")))

    for device in ("gpu", "cpu"):
        judged = number(run("evaluate.py", "--data", "stories", "--device", device))
        assert number(log) == pytest.approx(judged, abs=3e-3) and judged < 1.5
