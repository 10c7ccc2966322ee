"""examples/llm_pretrain_cuda on an NVIDIA GPU; elsewhere all of it skips.

pytest tests/gpu -m ''
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
if not torch.cuda.is_available():
    pytest.skip("needs an NVIDIA GPU", allow_module_level=True)
pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "llm_pretrain_cuda"
sys.path.insert(0, str(EXAMPLE))
import train  # noqa: E402 - by its own name, which torch.compile looks up

CUDA = torch.device("cuda")
LENGTH = 512


def softmax_attention(q, k, v, window: int):
    """In float64, with all scores."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    position = torch.arange(q.shape[2], device=q.device)
    distance = position[:, None] - position[None, :]
    scores = scores.masked_fill((distance < 0) | (distance > window), float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("name", ["fa3", "flex", "sdpa"])
@pytest.mark.parametrize("window", [64, 100, LENGTH])
def test_each_attention_is_a_softmax_over_its_window(name, window):
    torch.manual_seed(0)
    dtype = torch.bfloat16
    try:
        _, attend = train.choose_attention(name, [window], LENGTH, CUDA, dtype)
    except train.TrainError as error:
        pytest.skip(str(error))
    attend = torch.compile(attend) if name == "flex" else attend
    inputs = [torch.randn(2, LENGTH, 4, 128, device=CUDA, dtype=dtype, requires_grad=True) for _ in range(3)]
    upstream = torch.randn(2, LENGTH, 4, 128, device=CUDA, dtype=dtype)
    found = attend(*inputs, window)
    slopes = torch.autograd.grad(found, inputs, upstream)
    wanted = softmax_attention(*inputs, window)
    wanted_slopes = torch.autograd.grad(wanted, inputs, upstream.double())
    torch.testing.assert_close(found.double(), wanted, atol=0.02, rtol=0.02)
    for slope, exact in zip(slopes, wanted_slopes, strict=True):
        torch.testing.assert_close(slope.double(), exact.double(), atol=0.05, rtol=0.05)


def small_model(device: torch.device, dtype: torch.dtype, **changes):
    sizes = {"width": 256, "head_dim": 128, "depth": 3, "batch_tokens": 16 * LENGTH, "micro_batch_rows": 8}
    settings = replace(train.settings_for("small"), **{**sizes, **changes})
    model = train.GPT(settings, 512, LENGTH, dtype).init_weights(1).to(device)
    return settings, model


@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_moves_the_weights_as_on_the_cpu(compiled):
    rows = torch.randint(512, (16, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    after = []
    for device in (torch.device("cpu"), CUDA):
        settings, model = small_model(device, torch.float32)
        trainer = train.Trainer(model, settings, compiled and device.type == "cuda")
        losses = [trainer.step(rows.to(device), 0.5, step)[0] for step in range(3)]
        after.append((losses, {name: p.detach().cpu() for name, p in model.named_parameters()}))
    (losses, weights), (losses_there, weights_there) = after
    assert losses == pytest.approx(losses_there, rel=1e-3)
    for name, weight in weights.items():
        distance = (weight - weights_there[name]).norm() / weight.norm().clamp_min(1e-6)
        assert distance < 0.02, name


@pytest.mark.parametrize("attention", ["flex", "sdpa"])
def test_the_whole_step_learns_in_bf16(attention):
    settings, model = small_model(CUDA, torch.bfloat16, window_pattern="SL", short_window=64)
    try:
        _, model.attend = train.choose_attention(attention, model.windows, LENGTH, CUDA, torch.bfloat16)
    except train.TrainError as error:
        pytest.skip(str(error))
    trainer = train.Trainer(model, settings, compiled=True)
    rows = torch.randint(512, (16, 1), device=CUDA).expand(16, LENGTH + 1)  # each row says one word again and again
    losses = [trainer.step(rows, 0.3, step)[0] for step in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_warming_up_leaves_no_trace():
    settings, model = small_model(CUDA, torch.bfloat16)
    trainer = train.Trainer(model, settings, compiled=True)
    before = [tensor.clone() for tensor in trainer.optimizer.tensors()]
    trainer.warm_up(torch.randint(512, (16, LENGTH + 1), device=CUDA))
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.optimizer.tensors(), strict=True))


def test_batches_arrive_whole_and_in_order_however_late_the_gpu_reads():
    import numpy as np

    class Counting:
        epoch = 1

        def __init__(self):
            self.count = 0

        def next(self, out=None):
            out[:] = self.count
            self.count += 1
            return out

    feeder = train.Feeder(Counting(), 64, 1025, CUDA)
    busy = torch.randn(4096, 4096, device=CUDA)
    for number in range(50):
        rows = feeder.next()
        for _ in range(3):
            busy = (busy @ busy).tanh()
        seen = rows.float().mean(), rows.min(), rows.max()
        assert [float(x) for x in seen] == [number] * 3
    assert np.isfinite(float(busy.sum()))


def test_too_large_a_micro_batch_halves_itself():
    settings, model = small_model(CUDA, torch.bfloat16)
    trainer = train.Trainer(model, replace(settings, micro_batch_rows=16))
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + 150 * 2**20) / total))
    try:
        trainer.step(torch.randint(512, (16, LENGTH + 1), device=CUDA), 0.5, 0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert trainer.micro_rows < 16


def test_ten_seconds_of_training_and_the_judge_agree(tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    env = {**os.environ, "ARK_CACHE": str(tmp_path / "cache"), "ARK_SEED": "1", "ARK_BUDGET_SECONDS": "10"}

    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("prepare.py", "synthetic", "--name", "stories", "--vocab-size", "1024", "--sequence-length", "256")
    log = run("train.py", "--data", "stories", "--profile", "small")
    judged = run("evaluate.py", "--data", "stories")

    def number(text: str) -> float:
        return float(next(line.split()[1] for line in text.splitlines() if line.startswith("val_bpb:")))

    assert number(log) == pytest.approx(number(judged), abs=1e-3)
    assert number(judged) < 1.5
