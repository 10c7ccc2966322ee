"""Steps, budget, data feeding, export and the command line; whole runs are real processes over a tiny data set.

pytest -m "slow or not slow" examples/llm_pretrain_cuda/tests/test_llm_training.py
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from cuda_modules import EXAMPLE, load
from safetensors.torch import load_file

data, graph, train = load("data"), load("graph"), load("train")

LENGTH, VOCAB = 32, 300
TINY = {
    "SMALL_DEPTH": 2,
    "SMALL_WIDTH": 32,
    "SMALL_HEAD_DIM": 8,
    "SMALL_BATCH_TOKENS": 256,
    "SMALL_MICRO_BATCH_ROWS": 4,
    "SMALL_EXPORT_ROWS": 4,
    "LOG_SECONDS": 0.0,
}
KEYS = ["val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent", "total_tokens_M", "num_steps"]
KEYS += ["num_params_M", "depth", "seed", "device", "attention", "tok_per_sec", "compile_seconds", "eval_seconds"]
KEYS += ["train_loss", "epochs", "status"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache folder with the data set `tiny`."""
    folder = tmp_path_factory.mktemp("cache")
    sizes = ["--vocab-size", str(VOCAB), "--sequence-length", str(LENGTH), "--stories", "200", "--val-tokens", "2000"]
    command = [sys.executable, "prepare.py", "synthetic", "--name", "tiny", "--cache", str(folder), "--workers", "1"]
    subprocess.run([*command, *sizes], cwd=EXAMPLE, check=True, capture_output=True)
    return folder


@pytest.fixture
def dataset(cache):
    return data.open_dataset("tiny", cache)


@pytest.fixture
def here(tmp_path, cache, monkeypatch):
    """main() in this process, in an empty folder, at a tiny size."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARK_CACHE", str(cache))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor"))
    for variable in ("ARK_SEED", "ARK_BUDGET_SECONDS"):
        monkeypatch.delenv(variable, raising=False)
    for name, value in TINY.items():
        monkeypatch.setattr(train, name, value)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield lambda *flags: train.main(["--device", "cpu", "--data", "tiny", *flags])
    for number, handler in before.items():  # a finished run ignores both, for it expects to end the process
        signal.signal(number, handler)


class Copy:
    """The example's folder copied, with constants and lines of train.py replaced, as an agent would."""

    def __init__(self, folder, cache, *hacks, **constants):
        self.folder, self.environment = folder, {**os.environ, "ARK_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        for variable in ("ARK_SEED", "ARK_BUDGET_SECONDS"):
            self.environment.pop(variable, None)
        for module in EXAMPLE.glob("*.py"):
            shutil.copy(module, folder)
        text = (EXAMPLE / "train.py").read_text()
        for name, value in (TINY | constants).items():
            text, found = re.subn(rf"(?m)^{name} = [^ \n]+", f"{name} = {value!r}", text)
            assert found == 1, name
        for old, new in hacks:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (folder / "train.py").write_text(text)

    def start(self, *flags, program="train.py", **variables):
        return subprocess.Popen(
            [sys.executable, program, "--device", "cpu", "--data", "tiny", *flags],
            cwd=self.folder,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *flags, **how):
        process = self.start(*flags, **how)
        out, err = process.communicate(timeout=600)
        return types.SimpleNamespace(code=process.returncode, out=out, err=err, block=block_of(out))


def block_of(out):
    """The final block as a dict, in its order; {} where there is none."""
    _, line, rest = out.partition("\n---\n")
    return dict(text.split(":", 1) for text in rest.splitlines()) if line else {}


def settings(**changes):
    tiny = {name.removeprefix("SMALL_").lower(): value for name, value in TINY.items() if name.startswith("SMALL_")}
    return replace(train.settings_for("small"), **(tiny | changes))


def trainer_of(dtype=torch.float32, seed=1, **changes):
    s = settings(**changes)
    return train.Trainer(train.GPT(s, VOCAB, LENGTH, dtype).init_weights(seed), s)


def rows_of(n=8, seed=0):
    return torch.randint(VOCAB, (n, LENGTH + 1), generator=torch.Generator().manual_seed(seed))


def state(trainer):
    return [tensor.clone() for tensor in trainer.optimizer.tensors()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---- steps


def test_warm_up_leaves_no_trace():
    trainer = trainer_of()
    trainer.step(rows_of(), 0.0, 0)  # a state that is not all zeros
    before, random_state, steps = state(trainer), torch.get_rng_state(), trainer.optimizer.steps
    gradients = [bank.gradient for bank in trainer.optimizer.banks]
    assert trainer.warm_up(rows_of(seed=7)) > 0
    assert same(state(trainer), before)
    assert torch.equal(torch.get_rng_state(), random_state) and trainer.optimizer.steps == steps
    assert not any(gradient.any() for gradient in gradients)
    other = trainer_of()
    other.step(rows_of(), 0.0, 0)
    assert trainer.step(rows_of(seed=1), 0.5, 1) == other.step(rows_of(seed=1), 0.5, 1)
    assert same(state(trainer), state(other))


@pytest.mark.parametrize("micro", [1, 2, 3, 8])
def test_the_micro_batch_does_not_matter(micro):
    whole, parts = trainer_of(micro_batch_rows=8), trainer_of(micro_batch_rows=micro)
    assert parts.gradients(rows_of()) == pytest.approx(whole.gradients(rows_of()), abs=1e-5)
    for a, b in zip(whole.optimizer.banks, parts.optimizer.banks, strict=True):
        torch.testing.assert_close(a.gradient, b.gradient, atol=1e-6, rtol=1e-3)


def test_gradients_do_not_pile_up_from_step_to_step():
    trainer = trainer_of()
    first = trainer.gradients(rows_of())
    once = [bank.gradient.clone() for bank in trainer.optimizer.banks]
    assert trainer.gradients(rows_of()) == first
    assert same([bank.gradient for bank in trainer.optimizer.banks], once)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 50.0])
def test_a_bad_loss_is_seen_before_the_weights_move(bad):
    trainer = trainer_of()
    trainer.step(rows_of(), 0.0, 0)
    before, honest = state(trainer), trainer.model.loss
    trainer.model.loss = lambda *args: honest(*args) * 0 + bad
    with pytest.raises(train.Diverged, match=r"at step 1, .*5\.70"):
        trainer.step(rows_of(), 0.1, 1)
    assert same(state(trainer), before) and trainer.optimizer.steps == 1


def test_out_of_memory_halves_the_micro_batch_and_repeats_the_step(capsys):
    trainer, whole = (trainer_of(batch_tokens=18 * LENGTH, micro_batch_rows=18) for _ in range(2))
    honest = trainer.model.loss

    def hungry(tokens, targets):
        loss = honest(tokens, targets)
        if len(tokens) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return loss

    trainer.model.loss = hungry
    assert trainer.step(rows_of(18), 0.0, 0)[0] == pytest.approx(whole.step(rows_of(18), 0.0, 0)[0], abs=1e-5)
    assert trainer.micro_rows == 3
    assert capsys.readouterr().out.splitlines() == [f"out of memory: going on with {n} rows at a time" for n in (9, 3)]
    trainer.model.loss = lambda *args: torch.empty(2**60)
    with pytest.raises(train.TrainError, match="Out of memory even with one row"):
        trainer.step(rows_of(18), 0.0, 1)


def test_other_errors_are_not_taken_for_memory():
    trainer = trainer_of()
    trainer.model.loss = lambda *args: torch.zeros(2) @ torch.zeros(3)
    with pytest.raises(RuntimeError, match="size"):
        trainer.step(rows_of(), 0.0, 0)
    assert trainer.micro_rows == 4


def test_float16_gradients_are_those_of_float32():
    trainer, plain = trainer_of(torch.float16), trainer_of()
    assert trainer.loss_scale == 65536 and plain.loss_scale == 1
    for both in (trainer, plain):
        generator = torch.Generator().manual_seed(4)
        for bank in both.optimizer.banks:  # also those that start at zero, so that every gradient is something
            bank.value += 0.1 * torch.randn(bank.value.shape, generator=generator)
    assert trainer.gradients(rows_of()) == pytest.approx(plain.gradients(rows_of()), abs=0.01)
    assert trainer.optimizer.unscale(trainer.loss_scale)
    for half, full in zip(trainer.optimizer.banks, plain.optimizer.banks, strict=True):
        assert F.cosine_similarity(half.gradient.flatten(), full.gradient.flatten(), dim=0) > 0.99
        torch.testing.assert_close(half.gradient.norm(), full.gradient.norm(), rtol=0.02, atol=0)


def test_float16_trains_with_a_scaled_loss():
    trainer = trainer_of(torch.float16)
    losses = [trainer.step(rows_of(), 0.0, step)[0] for step in range(8)]
    assert losses[0] > 5.6 and losses[-1] < 5.2
    assert trainer.loss_scale == 65536 and trainer.good_steps == 8


def test_float16_overflow_halves_the_scale_and_skips_the_step(capsys):
    trainer = trainer_of(torch.float16)
    trainer.step(rows_of(), 0.0, 0)
    before, trainer.loss_scale = state(trainer), 2.0**40
    trainer.step(rows_of(), 0.0, 1)
    assert trainer.loss_scale == 2.0**39 and same(state(trainer), before)
    assert "step 00001 skipped" in capsys.readouterr().out
    trainer.loss_scale = 2.0**10
    trainer.step(rows_of(), 0.0, 2)
    assert trainer.loss_scale == 2.0**10 and not same(state(trainer), before)


def test_float16_without_a_working_scale_has_diverged():
    trainer = trainer_of(torch.float16)
    trainer.loss_scale = 2.0
    trainer.model.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(train.Diverged, match="every scale"):
        trainer.step(rows_of(), 0.0, 0)


# ---- data and evaluation


def test_the_feeder_hands_out_the_stream(dataset):
    rows = dataset.rows("train")
    expected = data.Stream(rows, 8, 5)
    feeder = train.Feeder(data.Stream(rows, 8, 5), 8, LENGTH + 1, torch.device("cpu"))
    for _ in range(len(rows) // 8 + 2):
        batch = feeder.next()
        assert batch.dtype == torch.int64
        np.testing.assert_array_equal(batch.numpy(), expected.next())
        assert feeder.epoch == expected.epoch
    assert feeder.epoch == 2


class Quiet:
    signal = None


@pytest.mark.parametrize("micro", [1, 7, 64])
def test_evaluation_is_bits_per_byte_of_all_rows_without_specials(dataset, micro):
    trainer = trainer_of(batch_tokens=64 * LENGTH, micro_batch_rows=64)
    for step in range(3):
        trainer.step(rows_of(64, seed=step), 0.0, step)
    trainer.micro_rows = micro
    rows = torch.from_numpy(dataset.rows("val")[:].astype(np.int64))
    with torch.no_grad():
        nats = F.cross_entropy(
            trainer.model(rows[:, :-1]).double().flatten(0, 1), rows[:, 1:].flatten(), reduction="none"
        )
    sizes = dataset.token_bytes[rows[:, 1:].flatten().numpy()]
    assert (sizes == 0).any()  # a document that begins within a row
    expected = nats.numpy()[sizes > 0].sum() / np.log(2) / sizes.sum()
    assert trainer.evaluate(dataset.rows("val"), dataset.token_bytes, Quiet) == pytest.approx(expected, abs=1e-5)


def test_evaluation_survives_out_of_memory(dataset):
    trainer = trainer_of(batch_tokens=64 * LENGTH, micro_batch_rows=64)
    expected, honest = trainer.evaluate(dataset.rows("val"), dataset.token_bytes, Quiet), trainer.model.loss

    def hungry(tokens, targets, reduction):
        if len(tokens) > 16:
            raise MemoryError
        return honest(tokens, targets, reduction)

    trainer.model.loss = hungry
    assert trainer.evaluate(dataset.rows("val"), dataset.token_bytes, Quiet) == pytest.approx(expected, abs=1e-6)
    assert trainer.micro_rows == 16


# ---- the loop


class Clock:
    """Time passes only in steps."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(train, "time", types.SimpleNamespace(perf_counter=lambda: self.now))


def loop(monkeypatch, durations, budget, max_steps=None, stop_at=None):
    """The real loop over steps that take the given seconds: (Progress, progress of each step)."""
    clock, seen, interrupt = Clock(monkeypatch), [], types.SimpleNamespace(signal=None)
    trainer = trainer_of()

    def step(rows, progress, number):
        clock.now += durations[number]
        seen.append(progress)
        if number == stop_at:
            interrupt.signal = signal.SIGTERM
        return 1.0 + number, 1.0

    trainer.step = step
    feeder, done = types.SimpleNamespace(next=lambda: None, epoch=1), train.Progress()
    train.train(trainer, feeder, done, interrupt, budget, max_steps, durations[0])
    return done, seen


def test_a_step_that_would_not_fit_is_not_begun(monkeypatch):
    done, seen = loop(monkeypatch, [1.0] * 20, 5.5)
    assert (done.steps, done.seconds) == (5, 5.0)
    assert seen == pytest.approx([step / 5.5 for step in range(5)])


def test_one_slow_step_does_not_stop_the_run_early(monkeypatch):
    done, _ = loop(monkeypatch, [1.0, 1.0, 1.0, 4.0, *[1.0] * 20], 10.0)
    assert (done.steps, done.seconds) == (7, 10.0)


def test_one_step_is_always_done(monkeypatch):
    done, seen = loop(monkeypatch, [7.0] * 3, 5.0)
    assert (done.steps, done.seconds, seen) == (1, 7.0, [0.0])


def test_with_a_number_of_steps_the_clock_does_not_matter(monkeypatch):
    done, seen = loop(monkeypatch, [9.0, 1.0, 5.0, 2.0], 0.1, max_steps=4)
    assert done.steps == 4 and seen == [0.0, 0.25, 0.5, 0.75]


def test_a_signal_stops_the_loop_after_its_step(monkeypatch):
    done, _ = loop(monkeypatch, [1.0] * 20, 10.0, stop_at=2)
    assert (done.steps, done.seconds) == (3, 3.0)


def test_the_printed_loss_is_a_debiased_average(monkeypatch):
    done, _ = loop(monkeypatch, [1.0] * 3, 10.0, max_steps=3)
    assert done.train_loss == pytest.approx((0.81 * 1 + 0.9 * 2 + 3) / (0.81 + 0.9 + 1))


# ---- the command, in this process


@pytest.mark.slow
def test_a_run_writes_log_block_and_model(here, tmp_path, capsys, dataset):
    assert here("--max-steps", "5", "--seed", "3") == 0
    out = capsys.readouterr().out
    block = block_of(out)
    assert list(block) == KEYS
    assert all(line.index(line.split(":", 1)[1].strip()) == 18 for line in out.split("\n---\n")[1].splitlines())
    assert block["status"].strip() == "ok" and block["num_steps"].strip() == "5" and block["seed"].strip() == "3"
    assert block["total_tokens_M"].strip() == "0.0" and block["depth"].strip() == "2"
    assert re.fullmatch(r"\d\.\d{6}", block["val_bpb"].strip())
    steps = [line for line in out.splitlines() if line.startswith("step ")]
    pattern = (
        r"step \d{5} \| progress: \d\.\d{4} \| loss: \d+\.\d{6} \| lrm: \d\.\d\d \| dt: [\d.]+ms \| tok/sec: [\d,]+"
        r" \| mfu: n/a \| epoch: 1 \| remaining: \d+s"
    )
    assert len(steps) == 5 and all(re.fullmatch(pattern, line) for line in steps)
    written = graph.load(tmp_path / "model.safetensors")
    assert written.about["tokenizer_sha256"] == dataset.tokenizer_sha256
    assert (written.about["data"], written.about["vocab_size"], written.about["sequence_length"]) == (
        "tiny",
        VOCAB,
        LENGTH,
    )
    assert written.about["seed"] == 3 and written.about["settings"]["width"] == 32
    rows = torch.from_numpy(dataset.rows("val")[:4].astype(np.int64))
    loss = F.cross_entropy(written(rows[:, :-1].contiguous()).flatten(0, 1), rows[:, 1:].flatten()).item()
    assert loss < np.log(VOCAB) - 0.1  # the trained weights, not the first ones


@pytest.mark.slow
def test_an_export_that_computes_something_else_is_refused(here, monkeypatch, capsys):
    trace = train.trace_on_cpu

    def wrong(weights, *others):
        return trace({name: tensor * (0.9 if "head" in name else 1) for name, tensor in weights.items()}, *others)

    monkeypatch.setattr(train, "trace_on_cpu", wrong)
    assert here("--max-steps", "3") == 1
    streams = capsys.readouterr()
    assert "The exported model has a loss of" in streams.err and "---" not in streams.out


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        (["--device", "cuda"], {}, "--device cpu"),
        (["--data", "nothing"], {}, "no data set 'nothing'"),
        (["--attention", "fa3"], {}, "fa3 cannot run here"),
        ([], {"ARK_BUDGET_SECONDS": "five"}, "ARK_BUDGET_SECONDS = 'five'"),
        ([], {"ARK_BUDGET_SECONDS": "0"}, "ARK_BUDGET_SECONDS = '0'"),
        ([], {"ARK_BUDGET_SECONDS": "nan"}, "ARK_BUDGET_SECONDS = 'nan'"),
        ([], {"ARK_SEED": "-1"}, "ARK_SEED = '-1'"),
        ([], {"ARK_SEED": "1.5"}, "ARK_SEED = '1.5'"),
        ([], {"ARK_SEED": "1_0"}, "ARK_SEED = '1_0'"),
        ([], {"ARK_SEED": " 1"}, "ARK_SEED = ' 1'"),
        ([], {"ARK_SEED": "\u0663"}, "ARK_SEED = '\u0663'"),
        ([], {"ARK_SEED": str(2**63)}, "ARK_SEED = '9223372036854775808'"),
        ([], {"ARK_SEED": "9" * 5000}, "is not a whole number from 0 to 2**63 - 1"),
        (["--seed", "1_0"], {"ARK_SEED": "3"}, "--seed = '1_0'"),
        (["--seed", "-1"], {}, "--seed = '-1'"),
        (["--seed", ""], {}, "--seed = ''"),
        ([], {"ARK_BUDGET_SECONDS": "1_0"}, "ARK_BUDGET_SECONDS = '1_0'"),
        (["--max-steps", "0"], {}, "--max-steps"),
        (["--model", "nowhere/model.safetensors"], {}, "nowhere/model.safetensors"),
    ],
)
def test_a_mistake_is_a_sentence_and_no_block(here, monkeypatch, capsys, flags, environment, expected):
    if torch.cuda.is_available() and "cuda" in flags:
        pytest.skip("there is a CUDA device")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert here(*flags) == 1
    streams = capsys.readouterr()
    assert expected in streams.err and streams.err.startswith("train.py: ")
    assert len(streams.err.strip().splitlines()) <= 2 and "---" not in streams.out


@pytest.mark.slow
def test_the_largest_seed_trains(here, capsys):
    assert here("--max-steps", "1", "--seed", str(2**63 - 1)) == 0
    assert block_of(capsys.readouterr().out)["seed"].strip() == "9223372036854775807"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_the_device_must_be_said(here, capsys):
    assert train.main(["--data", "tiny"]) == 1
    assert "python train.py" in capsys.readouterr().err


def test_settings_that_cannot_run_end_before_training(here, monkeypatch, capsys):
    monkeypatch.setattr(train, "SMALL_MICRO_BATCH_ROWS", 3)
    assert here() == 1
    assert "these do: 1, 2, 4, 8" in capsys.readouterr().err


def test_a_model_that_cannot_be_exported_ends_before_training(here, monkeypatch, capsys):
    monkeypatch.setattr(train, "rms_norm", lambda x: x + torch.rand_like(x))
    assert here("--max-steps", "2") == 1
    streams = capsys.readouterr()
    assert "rand" in streams.err and "step" not in streams.out


def test_a_model_of_an_earlier_run_is_gone_at_once(here, tmp_path):
    (tmp_path / "model.safetensors").write_text("old")
    assert here("--data", "nothing") == 1
    assert not (tmp_path / "model.safetensors").exists()


def test_a_damaged_data_set_is_named(here, cache, tmp_path, capsys):
    shutil.copytree(cache / "llm" / "tiny", tmp_path / "cache" / "llm" / "tiny")
    shard = max((tmp_path / "cache").rglob("*.bin"), key=os.path.getsize)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert here("--cache", str(tmp_path / "cache")) == 1
    streams = capsys.readouterr()
    assert shard.name in streams.err and "step" not in streams.out


def test_peak_flops_are_those_of_the_named_device(monkeypatch):
    names = {
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA H200 NVL": 836e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA L4": 121e12,
        "NVIDIA L40": None,
        "NVIDIA RTX A4000": None,
        "NVIDIA GB200": 2.5e15,
        "NVIDIA GeForce RTX 4090": 165.2e12,
    }
    for name, expected in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert train.peak_flops(torch.device("cuda")) == expected
    assert train.peak_flops(torch.device("cpu")) is None


# ---- the command as a process


@pytest.mark.slow
def test_a_budget_is_kept(tmp_path, cache):
    """Only what a loaded machine cannot change: it ends by itself, and no step begins after the deadline."""
    run = Copy(tmp_path, cache).run(ARK_BUDGET_SECONDS="3", ARK_SEED="9")
    assert run.code == 0, run.err
    progress = [float(re.search(r"progress: ([\d.]+)", line)[1]) for line in run.out.splitlines() if "progress" in line]
    assert progress == sorted(progress) and progress[0] < 0.01 and progress[-1] < 1
    assert run.block["status"].strip() == "ok" and run.block["seed"].strip() == "9"
    assert 0 < float(run.block["training_seconds"]) < float(run.block["total_seconds"])
    assert int(run.block["num_steps"]) == len(progress)


@pytest.mark.slow
def test_a_seed_and_a_number_of_steps_give_the_same_bits(tmp_path, cache):
    models, losses = [], []
    for number, seed in enumerate(("4", "4", "5")):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = Copy(folder, cache).run("--max-steps", "8", ARK_SEED=seed)
        assert run.code == 0, run.err
        models.append(load_file(folder / "model.safetensors"))
        losses.append((run.block["train_loss"], run.block["val_bpb"]))
    first, again, other = models
    assert losses[0] == losses[1] != losses[2]
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_model_and_a_block(tmp_path, cache, number, code):
    process = Copy(tmp_path, cache).start("--budget-seconds", "200")
    for line in process.stdout:
        if line.startswith("step 00003"):
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    block = block_of("\n" + out)
    assert block["status"].strip() == "interrupted" and "val_bpb" not in block and int(block["num_steps"]) > 3
    assert graph.load(tmp_path / "model.safetensors").about["data"] == "tiny"


STRUCK = """
import os, sys, train

def strike(*args, **kwargs):
    HOW
    return honest(*args, **kwargs)

place, name = PLACE
honest = getattr(place, name)
setattr(place, name, strike)
sys.exit(train.main())
"""
STRIKE = "os.kill(os.getpid(), NUMBER)"
# Where an exception goes unnoticed: Python drops it in a destructor, so only the note of the signal is left.
STRIKE_UNHEARD = "type('Unheard', (), {'__del__': lambda self: (os.kill(os.getpid(), NUMBER), sum([]))})()"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "how", "number", "code"),
    [
        ("(train.data, 'open_dataset')", STRIKE, signal.SIGINT, 130),
        ("(train, 'trace_on_cpu')", STRIKE, signal.SIGTERM, 143),
        ("(train.Trainer, 'gradients')", STRIKE, signal.SIGINT, 130),
        ("(train.Trainer, 'warm_up')", STRIKE_UNHEARD, signal.SIGTERM, 143),
        ("(train, 'train')", STRIKE, signal.SIGTERM, 143),
    ],
    ids=["data", "trace", "warm-up", "unheard", "last-moment"],
)
def test_a_signal_before_the_first_step_is_a_sentence_and_leaves_nothing(tmp_path, cache, place, how, number, code):
    (tmp_path / "model.safetensors").write_text("of an earlier run")
    text = STRUCK.replace("HOW", how).replace("PLACE", place).replace("NUMBER", str(int(number)))
    (tmp_path / "struck.py").write_text(text)
    run = Copy(tmp_path, cache).run("--max-steps", "3", program="struck.py")
    assert run.code == code, run.err
    assert run.err.splitlines()[-1] == "train.py: interrupted before the first step"
    assert (len(run.err.splitlines()) == 1) if how == STRIKE else ("Exception ignored in" in run.err)
    assert "\n---\n" not in run.out and "\nstep " not in run.out
    assert not (tmp_path / "model.safetensors").exists()


LATE = """
import atexit, os, signal, sys, train

def say(line):
    honest(line)
    if line.startswith("---"):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

honest, train.say = train.say, say
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
sys.exit(train.main())
"""


@pytest.mark.slow
def test_a_signal_after_the_block_changes_nothing(tmp_path, cache):
    (tmp_path / "late.py").write_text(LATE)
    run = Copy(tmp_path, cache).run("--max-steps", "2", program="late.py")
    assert (run.code, run.err) == (0, "")
    assert run.block["status"].strip() == "ok" and (tmp_path / "model.safetensors").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_ends_the_run(tmp_path, cache):
    hack = ("total += loss.detach()", 'total += loss.detach() * (float("nan") if self.optimizer.steps == 3 else 1)')
    run = Copy(tmp_path, cache, hack).run("--max-steps", "8")
    assert run.code == 1
    assert run.block["status"].strip() == "diverged" and run.block["num_steps"].strip() == "3"
    assert "val_bpb" not in run.block and "the loss is nan at step 3" in run.err
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.slow
def test_learning_rates_far_too_high_end_the_run(tmp_path, cache):
    run = Copy(tmp_path, cache, MATRIX_LR=1e4, EMBEDDING_LR=1e4, HEAD_LR=1e4).run("--max-steps", "50")
    assert run.code == 1 and run.block["status"].strip() == "diverged" and "uniform guess" in run.err


LIMITED = """
import resource
import sys

import train

after, spare = AFTER, 150 * 2**20


def limit(*args, **kwargs):
    size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + spare, resource.RLIM_INFINITY))
    return honest(*args, **kwargs)


place, name = (train, "train") if after == "train" else (train.Trainer, after)
honest = getattr(place, name)
setattr(place, name, limit)
sys.exit(train.main())
"""


BIG = {"SMALL_BATCH_TOKENS": 65536, "SMALL_MICRO_BATCH_ROWS": 2048, "SMALL_LOSS_CHUNK": 65536, "SMALL_DEPTH": 1}


@pytest.fixture(scope="session")
def with_enough_memory(tmp_path_factory, cache):
    return Copy(tmp_path_factory.mktemp("free"), cache, **BIG).run("--max-steps", "1").block


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc")
@pytest.mark.parametrize("after", ["warm_up", "train", "evaluate"])
def test_real_memory_that_runs_out(tmp_path, cache, with_enough_memory, after):
    """The address space is limited at one moment of the run; the allocator then fails for real."""
    (tmp_path / "limited.py").write_text(LIMITED.replace("AFTER", repr(after)))
    run = Copy(tmp_path, cache, **BIG).run("--max-steps", "1", program="limited.py")
    assert run.code == 0, run.err
    assert "out of memory: going on with" in run.out
    for key in ("val_bpb", "train_loss"):  # the first updates magnify what rounding leaves
        assert float(run.block[key]) == pytest.approx(float(with_enough_memory[key]), abs=0.02)


@pytest.mark.slow
def test_float16_runs_from_end_to_end(tmp_path, cache):
    run = Copy(tmp_path, cache).run("--max-steps", "10", "--dtype", "fp16")
    assert run.code == 0, run.err
    assert "dtype: float16" in run.out and run.block["status"].strip() == "ok"


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the compiler works for minutes on a busy machine
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_the_compiled_run_is_the_same_run(tmp_path, cache):
    copy = Copy(tmp_path, cache, SMALL_DEPTH=1)
    plain, compiled = (copy.run("--max-steps", "4", flag) for flag in ("--no-compile", "--compile"))
    assert compiled.code == 0, compiled.err
    assert "compiled: True" in compiled.out and "compiled: False" in plain.out
    for key in ("val_bpb", "train_loss"):
        assert float(compiled.block[key]) == pytest.approx(float(plain.block[key]), abs=0.02)


def test_messages_call_the_constants_of_the_small_profile_by_their_names(monkeypatch):
    monkeypatch.setattr(train, "SMALL_WIDTH", 130)
    with pytest.raises(train.TrainError, match=r"^SMALL_WIDTH = 130 is not a multiple of an even SMALL_HEAD_DIM = 32"):
        train.settings_for("small").check(256)
    monkeypatch.setattr(train, "SMALL_DEPHT", 2, raising=False)
    with pytest.raises(train.TrainError, match="SMALL_DEPHT changes nothing: there is no DEPHT"):
        train.settings_for("small")


def test_the_middle_of_the_model_is_never_its_end():
    """Of two layers the second was taken: a share of itself, which the last norm takes out again."""
    for depth in (2, 3, 8, 9):
        settings = replace(train.settings_for("small"), depth=depth)
        tokens = torch.arange(32).reshape(2, 16) % 20
        logits = []
        for share in (0.0, 0.9):
            torch.manual_seed(0)
            model = train.GPT(settings, 20, 16).init_weights(1)
            for block in model.blocks:
                torch.nn.init.normal_(block.out.weight, std=0.5)
            model.backout_lambda.data.fill_(share)
            logits.append(model(tokens))
        assert not torch.allclose(*logits, atol=1e-4)
