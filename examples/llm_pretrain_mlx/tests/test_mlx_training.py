"""Steps, budget, evaluation, export and the command line; whole runs are real processes over a tiny data set.

pytest -m "slow or not slow" examples/llm_pretrain_mlx/tests/test_mlx_training.py
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import types
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX with a backend")

from mlx_modules import EXAMPLE, load

data, graph, machine, train = load("data"), load("graph"), load("machine"), load("train")
mx = machine.mx

LENGTH, VOCAB = 32, 300
TINY = {
    "SMALL_DEPTH": 2,
    "SMALL_WIDTH": 32,
    "SMALL_HEAD_DIM": 8,
    "SMALL_BATCH_TOKENS": 256,
    "SMALL_MICRO_BATCH_ROWS": 4,
    "SMALL_EXPORT_ROWS": 4,
    "SMALL_LOSS_CHUNK": 64,
    "LOG_SECONDS": 0.0,
}
# At the start the gradients of these are zero but for rounding, and Adam makes a whole step of that.
NO_LOTTERY = {"scalar_lr": 0.0, "smear_lr": 0.0}
KEYS = ["val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent", "total_tokens_M", "num_steps"]
KEYS += ["num_params_M", "depth", "seed", "device", "attention", "tok_per_sec", "compile_seconds", "eval_seconds"]
KEYS += ["train_loss", "epochs", "status"]
VARIABLES = ("ARK_SEED", "ARK_BUDGET_SECONDS", "PEAK_FLOPS_TFLOPS")


@pytest.fixture(autouse=True)
def _on_the_cpu():
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache folder with the data sets `tiny` and `other`, which has another tokenizer."""
    folder = tmp_path_factory.mktemp("cache")
    for name, vocab in (("tiny", VOCAB), ("other", VOCAB - 1)):
        sizes = ["--vocab-size", str(vocab), "--sequence-length", str(LENGTH), "--stories", "200"]
        command = [sys.executable, "prepare.py", "synthetic", "--name", name, "--cache", str(folder), "--workers", "1"]
        subprocess.run([*command, *sizes, "--val-tokens", "2000"], cwd=EXAMPLE, check=True, capture_output=True)
    return folder


@pytest.fixture
def dataset(cache):
    return data.open_dataset("tiny", cache)


@pytest.fixture
def here(tmp_path, cache, monkeypatch):
    """main() in this process, in an empty folder, at a tiny size."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARK_CACHE", str(cache))
    for variable in VARIABLES:
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
        self.folder, self.environment = folder, {**os.environ, "ARK_CACHE": str(cache)}
        for variable in VARIABLES:
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
        with self.start(*flags, **how) as process:
            try:
                out, err = process.communicate(timeout=120)
            finally:
                process.kill()  # where it hangs
        return types.SimpleNamespace(code=process.returncode, out=out, err=err, block=block_of(out))


def block_of(out):
    """The final block as a dict, in its order; {} where there is none."""
    _, line, rest = out.partition("\n---\n")
    pairs = [text.split(":", 1) for text in rest.splitlines()] if line else []
    return {name: value.strip() for name, value in pairs}


def settings(**changes):
    tiny = {name.removeprefix("SMALL_").lower(): value for name, value in TINY.items() if name.startswith("SMALL_")}
    return replace(train.settings_for("small"), **(tiny | changes))


def trainer_of(dtype=mx.float32, seed=1, threads=1, compiled=False, **changes):
    model = train.GPT(settings(**changes), VOCAB, LENGTH, dtype)
    return train.Trainer(model, model.init(seed), compiled, threads)


def rows_of(n=8, seed=0):
    return np.random.default_rng(seed).integers(VOCAB, size=(n, LENGTH + 1))


def state(trainer):
    """Everything that a step changes, as NumPy arrays."""
    steps, banks = trainer.optimizer.state()
    parameters = [np.array(trainer.parameters[name]) for name in sorted(trainer.parameters)]
    return [np.array(steps), *parameters, *(np.array(array) for arrays in banks for array in arrays)]


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def summed(gradients):
    """The gradients of all threads, added by name, in float64."""
    return {name: sum(np.array(part[name], np.float64) for part in gradients) for name in gradients[0]}


# ---- steps


def test_warm_up_leaves_no_trace():
    trainer, other = trainer_of(threads=2), trainer_of(threads=2)
    for each in (trainer, other):
        each.step(rows_of(), 0.0, 0)  # a state that is not all zeros
    before = state(trainer)
    trainer.warm_up(rows_of(seed=7))
    assert same(state(trainer), before)
    assert trainer.pass_pace.usual > 0 and trainer.update_pace.usual > 0
    assert trainer.step(rows_of(seed=1), 0.5, 1) == other.step(rows_of(seed=1), 0.5, 1)
    assert same(state(trainer), state(other)) and not same(state(trainer), before)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("micro", [1, 2, 8])
def test_micro_batch_and_threads_do_not_matter(micro, threads):
    """The loss is the mean over all rows of the step; the bound is float32's rounding in sums of 256 terms."""
    whole, parts = trainer_of(micro_batch_rows=8), trainer_of(micro_batch_rows=micro, threads=threads)
    for each in (whole, parts):  # also those that start at zero, so that every gradient is something
        rng = np.random.default_rng(3)
        for bank in each.optimizer.banks:
            bank.value = bank.value + mx.array(0.1 * rng.standard_normal(bank.value.shape, np.float32))
        each.take_parameters()
    assert (whole.micro_rows, parts.micro_rows) == (8, min(micro, 8 // threads))
    nats, gradients, done = parts.gradients(rows_of())
    whole_nats, whole_gradients, _ = whole.gradients(rows_of())
    assert done == 8 and len(gradients) == threads
    assert nats / (8 * LENGTH) == pytest.approx(whole_nats / (8 * LENGTH), abs=1e-5)
    found, expected = summed(gradients), summed(whole_gradients)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert np.linalg.norm(found[name] - gradient) < 1e-5 * np.linalg.norm(gradient), name
    alone = [whole.model.loss(whole.parameters, mx.array(row[None].astype(np.int32))).item() for row in rows_of()]
    assert parts.step(rows_of(), 0.0, 0)[0] == pytest.approx(sum(alone) / (8 * LENGTH), abs=1e-5)


def test_gradients_do_not_pile_up_from_step_to_step():
    trainer = trainer_of()
    (first, gradients, _), (again, new, _) = trainer.gradients(rows_of()), trainer.gradients(rows_of())
    assert first == again
    assert same(list(summed(gradients).values()), list(summed(new).values()))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_seed_gives_the_same_bits(threads):
    runs = []
    for seed in (4, 4, 5):
        trainer = trainer_of(seed=seed, threads=threads)
        losses = [trainer.step(rows_of(seed=step), step / 5, step)[0] for step in range(5)]
        runs.append((losses, state(trainer)))
    (losses, weights), (losses_again, weights_again), (_, others) = runs
    assert losses == losses_again and same(weights, weights_again) and not same(weights, others)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 50.0])
def test_a_bad_loss_is_seen_before_the_weights_move(bad):
    trainer = trainer_of(threads=2)
    trainer.step(rows_of(), 0.0, 0)
    before, honest = state(trainer), trainer.loss_and_gradients

    def broken(*args):
        loss, gradients = honest(*args)
        return loss * 0 + bad * 4 * LENGTH, gradients

    trainer.loss_and_gradients = broken
    with pytest.raises(train.Diverged, match=r"at step 1, .*5\.70"):
        trainer.step(rows_of(), 0.1, 1)
    assert same(state(trainer), before)


@pytest.mark.parametrize("name", ["embedding", "blocks.1.down", "head"])
def test_one_weight_that_is_not_a_number_is_enough(name):
    trainer = trainer_of()
    bank = next(bank for bank in trainer.optimizer.banks if name in bank.names)
    value = np.array(bank.value)
    value[bank.names.index(name), rows_of()[0, 0] % value.shape[1], 3] = np.nan
    bank.value = mx.array(value)
    trainer.take_parameters()
    before = trainer.optimizer.state()
    with pytest.raises(train.Diverged, match="the loss is nan at step 0"):
        trainer.step(rows_of(), 0.0, 0)
    assert trainer.optimizer.state() == before  # the very arrays


NO_MEMORY = "[malloc_or_wait] Unable to allocate 1 bytes."


@pytest.mark.parametrize("threads", [1, 2])
def test_out_of_memory_halves_the_micro_batch_and_repeats_the_step(capsys, threads):
    trainer, whole = (trainer_of(batch_tokens=36 * LENGTH, micro_batch_rows=18, threads=threads) for _ in range(2))
    honest = trainer.loss_and_gradients

    def hungry(parameters, rows):
        if len(rows) > 3:
            raise RuntimeError(NO_MEMORY)
        return honest(parameters, rows)

    trainer.loss_and_gradients = hungry
    assert trainer.step(rows_of(36), 0.0, 0)[0] == pytest.approx(whole.step(rows_of(36), 0.0, 0)[0], abs=1e-5)
    assert trainer.micro_rows == 3
    assert capsys.readouterr().out.splitlines() == [f"out of memory: going on with {n} rows at a time" for n in (9, 3)]

    def starving(*args):
        raise RuntimeError(NO_MEMORY)

    trainer.loss_and_gradients = starving
    with pytest.raises(train.TrainError, match="Out of memory even with one row"):
        trainer.step(rows_of(36), 0.0, 1)


def test_other_errors_are_not_taken_for_memory():
    trainer = trainer_of(threads=2)
    trainer.loss_and_gradients = lambda *args: mx.zeros(2) @ mx.zeros(3)
    with pytest.raises(ValueError, match="matmul"):
        trainer.step(rows_of(), 0.0, 0)
    assert trainer.micro_rows == 4


# ---- the deadline within a step


class Clock:
    """Time passes only where a test says so."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(train, "time", types.SimpleNamespace(perf_counter=lambda: self.now))


def passes_of_a_second(monkeypatch, **changes):
    """(clock, trainer) of 8 passes, each of which takes a second, as the one before this step did."""
    clock, trainer = Clock(monkeypatch), trainer_of(micro_batch_rows=1, **changes)
    honest = trainer.loss_and_gradients

    def slow(*args):
        clock.now += 1.0
        return honest(*args)

    trainer.loss_and_gradients = slow
    trainer.pass_pace.note(1.0)
    return clock, trainer


@pytest.mark.parametrize(
    ("left", "update", "done"),
    [(-50.0, 0.0, 1), (0.0, 0.0, 1), (0.5, 0.0, 1), (3.5, 0.0, 3), (3.5, 1.0, 2), (8.5, 0.0, 8), (np.inf, 9.0, 8)],
    ids=["long-ago", "now", "within-a-pass", "three-passes", "two-and-the-update", "all", "no-deadline"],
)
def test_a_pass_that_would_not_fit_is_not_begun(monkeypatch, left, update, done):
    clock, trainer = passes_of_a_second(monkeypatch)
    trainer.update_pace.note(update)
    nats, gradients, rows = trainer.gradients(rows_of(), clock.now + left)
    assert rows == done
    whole, expected, _ = trainer_of().gradients(rows_of()[:done])
    assert nats == pytest.approx(whole, rel=1e-5)
    for name, gradient in summed(expected).items():
        np.testing.assert_allclose(summed(gradients)[name], gradient, atol=1e-4, err_msg=name)


def test_each_thread_does_its_first_pass_after_the_deadline():
    trainer = trainer_of(micro_batch_rows=2, threads=2)
    trainer.pass_pace.note(1.0)
    nats, gradients, rows = trainer.gradients(rows_of(), 0.0)
    assert (rows, len(gradients)) == (4, 2)
    assert nats == pytest.approx(trainer_of().gradients(rows_of()[:4])[0], rel=1e-5)


def test_a_shortened_step_has_the_mean_loss_of_what_was_done(monkeypatch):
    clock, trainer = passes_of_a_second(monkeypatch, **NO_LOTTERY)
    loss, _, rows = trainer.step(rows_of(), 0.9, 0, clock.now + 3.5)
    fewer = trainer_of(batch_tokens=3 * LENGTH, micro_batch_rows=3, **NO_LOTTERY)
    assert rows == 3
    assert loss == pytest.approx(fewer.step(rows_of()[:3], 0.9, 0)[0], abs=1e-5)
    for a, b in zip(state(trainer), state(fewer), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)  # Adam's first step is the sign of a gradient that may be tiny


# ---- threads


@pytest.mark.parametrize("count", [1, 2, 3])
def test_workers_answer_in_order(count):
    workers, late = machine.Workers(count), threading.Event()

    def work(number):
        if count > 1 and number == 0:
            assert late.wait(60)  # the first to begin is the last to end
        if number == 1:
            late.set()
        return number**2, threading.get_ident()

    found = workers.map(work, range(7))
    assert [square for square, _ in found] == [number**2 for number in range(7)]
    threads = {thread for _, thread in found}
    assert (threads == {threading.get_ident()}) if count == 1 else threading.get_ident() not in threads


def test_after_an_exception_nothing_is_still_at_work():
    workers, failed, ended = machine.Workers(2), threading.Event(), []

    def work(number):
        if number == 0:
            failed.set()
            raise KeyError("first")
        assert failed.wait(60)
        mx.eval(mx.ones((64, 64)) @ mx.ones((64, 64)))
        ended.append(number)

    with pytest.raises(KeyError, match="first"):
        workers.map(work, range(5))
    assert sorted(ended) == [1, 2, 3, 4]
    assert workers.map(lambda number: number, [1, 2]) == [1, 2]  # and they still work


def test_each_thread_has_a_stream_of_its_own():
    workers, both = machine.Workers(2), threading.Barrier(2, timeout=60)

    def work(number):
        both.wait()
        return str(mx.default_stream(mx.cpu)), mx.full((3,), number).sum().item()

    (one, three), (two, six) = workers.map(work, [1, 2])
    assert (three, six) == (3, 6) and len({one, two, str(mx.default_stream(mx.cpu))}) == 3


# ---- evaluation


class Quiet:
    signal = None


@pytest.mark.parametrize(("micro", "threads"), [(1, 1), (7, 2), (64, 1)])
def test_evaluation_is_bits_per_byte_of_all_rows_without_specials(dataset, micro, threads):
    trainer = trainer_of(threads=threads)
    for step in range(3):
        trainer.step(rows_of(seed=step), 0.0, step)
    trainer.micro_rows = micro
    rows = dataset.rows("val")[:].astype(np.int32)
    logits = np.array(trainer.model.logits(trainer.parameters, mx.array(rows[:, :-1])), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -np.take_along_axis(log_probabilities, rows[:, 1:, None], -1)[..., 0]
    sizes = dataset.token_bytes[rows[:, 1:]]
    assert (sizes == 0).any()  # a document that begins within a row
    expected = nats[sizes > 0].sum() / np.log(2) / sizes.sum()
    assert trainer.evaluate(dataset.rows("val"), dataset.token_bytes, Quiet) == pytest.approx(expected, abs=1e-5)


def test_evaluation_survives_out_of_memory(dataset):
    trainer = trainer_of(batch_tokens=64 * LENGTH, micro_batch_rows=64, threads=1)
    expected, honest = trainer.evaluate(dataset.rows("val"), dataset.token_bytes, Quiet), trainer.token_nats

    def hungry(parameters, rows):
        if len(rows) > 16:
            raise MemoryError
        return honest(parameters, rows)

    trainer.token_nats = hungry
    assert trainer.evaluate(dataset.rows("val"), dataset.token_bytes, Quiet) == pytest.approx(expected, abs=1e-6)
    assert trainer.micro_rows == 16


def test_evaluation_ends_at_a_signal(dataset):
    trainer, interrupt = trainer_of(), types.SimpleNamespace(signal=None)
    honest, calls = trainer.token_nats, []

    def struck(*args):
        calls.append(1)
        interrupt.signal = signal.SIGTERM
        return honest(*args)

    trainer.token_nats = struck
    assert trainer.evaluate(dataset.rows("val"), dataset.token_bytes, interrupt) is None
    assert len(calls) == 1


# ---- the loop


def loop(monkeypatch, durations, budget, max_steps=None, stop_at=None):
    """The real loop over steps that take the given seconds: (Progress, progress of each step)."""
    clock, seen, interrupt = Clock(monkeypatch), [], types.SimpleNamespace(signal=None)
    trainer = trainer_of()
    trainer.pass_pace.note(0.75 * durations[0])
    trainer.update_pace.note(0.25 * durations[0])
    deadlines = []

    def step(rows, progress, number, deadline):
        deadlines.append(deadline)
        clock.now += durations[number]
        seen.append(progress)
        if number == stop_at:
            interrupt.signal = signal.SIGTERM
        return 1.0 + number, 1.0, 8

    trainer.step = step
    stream, done = types.SimpleNamespace(next=lambda: None, epoch=1), train.Progress()
    train.train(trainer, stream, done, interrupt, budget, max_steps, None)
    assert set(deadlines) == {100.0 + budget if max_steps is None else np.inf}
    assert done.tokens == done.steps * 8 * LENGTH
    return done, seen


def test_a_step_of_which_not_even_a_pass_would_fit_is_not_begun(monkeypatch):
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


# ---- export


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["fp32", "bf16"])
def test_the_exported_model_is_the_trained_one(tmp_path, dataset, dtype):
    trainer = trainer_of(dtype, threads=2)
    for step in range(3):
        trainer.step(rows_of(seed=step), 0.0, step)
    train.export(trainer, dataset, str(tmp_path / "model.graph"), 3)
    written = graph.load(tmp_path / "model.graph")
    about = {"data": "tiny", "vocab_size": VOCAB, "sequence_length": LENGTH, "seed": 3}
    assert {key: written.about[key] for key in about} == about
    assert written.about["tokenizer_sha256"] == dataset.tokenizer_sha256
    assert written.about["settings"] == train.asdict(trainer.settings)
    tokens = dataset.rows("val")[:4].astype(np.int32)[:, :-1]
    expected = np.array(trainer.model.logits(trainer.parameters, mx.array(tokens)))
    np.testing.assert_allclose(np.array(written(tokens)), expected, atol=1e-5 if dtype == mx.float32 else 0.1)


def test_an_export_that_computes_something_else_is_refused(here, monkeypatch, capsys):
    honest = train.exported

    def wrong(model, parameters):
        return honest(model, {name: array * (0.5 if name == "head" else 1) for name, array in parameters.items()})

    monkeypatch.setattr(train, "exported", wrong)
    assert here("--max-steps", "8") == 1
    streams = capsys.readouterr()
    assert "The exported model has a loss of" in streams.err and "---" not in streams.out


# ---- the command, in this process


def test_a_run_writes_log_block_and_model(here, monkeypatch, tmp_path, capsys, dataset):
    monkeypatch.setenv("PEAK_FLOPS_TFLOPS", "1")
    assert here("--max-steps", "5", "--seed", "3") == 0
    out = capsys.readouterr().out
    block = block_of(out)
    assert list(block) == KEYS
    assert all(line.index(line.split(":", 1)[1].strip()) == 18 for line in out.split("\n---\n")[1].splitlines())
    assert (block["status"], block["num_steps"], block["seed"]) == ("ok", "5", "3")
    assert (block["total_tokens_M"], block["depth"], block["device"]) == ("0.0", "2", "cpu")
    assert re.fullmatch(r"\d\.\d{6}", block["val_bpb"])
    assert 0 < float(block["mfu_percent"]) < 100 and float(block["peak_vram_mb"]) > 0
    steps = [line for line in out.splitlines() if line.startswith("step ")]
    pattern = (
        r"step \d{5} \| progress: \d\.\d{4} \| loss: \d+\.\d{6} \| lrm: \d\.\d\d \| dt: [\d.]+ms \| tok/sec: [\d,]+"
        r" \| mfu: \d+\.\d \| epoch: 1 \| remaining: \d+s"
    )
    assert len(steps) == 5 and all(re.fullmatch(pattern, line) for line in steps)
    assert graph.load(tmp_path / "model.graph").about["seed"] == 3


def test_a_data_set_smaller_than_a_batch_is_read_again(here, monkeypatch, capsys):
    whole = data.Dataset.rows
    monkeypatch.setattr(data.Dataset, "rows", lambda self, split: data.Rows([whole(self, split)[:5]]))
    assert here("--max-steps", "2") == 0
    block = block_of(capsys.readouterr().out)
    assert (block["epochs"], block["status"]) == ("4", "ok")  # 16 rows


MISTAKES = [
    (["--data", "nothing"], {}, "no data set 'nothing'"),
    (["--time-budget", "0"], {}, "--time-budget = '0' is not a number of at least 0.001"),
    (["--time-budget", "-1"], {}, "--time-budget = '-1'"),
    (["--time-budget", "nan"], {}, "--time-budget = 'nan'"),
    (["--time-budget", "inf"], {}, "--time-budget = 'inf'"),
    (["--time-budget", "abc"], {}, "--time-budget = 'abc'"),
    (["--time-budget", "1_0"], {}, "--time-budget = '1_0'"),
    (["--time-budget", ""], {"ARK_BUDGET_SECONDS": "3"}, "--time-budget = ''"),
    ([], {"ARK_BUDGET_SECONDS": "five"}, "ARK_BUDGET_SECONDS = 'five'"),
    ([], {"ARK_BUDGET_SECONDS": "0"}, "ARK_BUDGET_SECONDS = '0'"),
    ([], {"ARK_BUDGET_SECONDS": "-1"}, "ARK_BUDGET_SECONDS = '-1'"),
    ([], {"ARK_BUDGET_SECONDS": "nan"}, "ARK_BUDGET_SECONDS = 'nan'"),
    ([], {"ARK_BUDGET_SECONDS": "1_0"}, "ARK_BUDGET_SECONDS = '1_0'"),
    (["--seed", "-1"], {}, "--seed = '-1'"),
    (["--seed", "abc"], {}, "--seed = 'abc'"),
    (["--seed", ""], {}, "--seed = ''"),
    (["--seed", str(2**63)], {"ARK_SEED": "3"}, "--seed = '9223372036854775808'"),
    ([], {"ARK_SEED": "-1"}, "ARK_SEED = '-1'"),
    ([], {"ARK_SEED": "1.5"}, "ARK_SEED = '1.5'"),
    ([], {"ARK_SEED": "9" * 5000}, "is not a whole number from 0 to 2**63 - 1"),
    (["--max-steps", "0"], {}, "--max-steps must be at least 1"),
    (["--max-steps", "-3"], {}, "--max-steps must be at least 1"),
    (["--threads", "0"], {}, "--threads must be at least 1"),
    (["--model", "nowhere/model.graph"], {}, "nowhere/model.graph"),
    ([], {"PEAK_FLOPS_TFLOPS": "fast"}, "PEAK_FLOPS_TFLOPS = 'fast' is not a number of at least 0.001"),
    ([], {"PEAK_FLOPS_TFLOPS": "0"}, "PEAK_FLOPS_TFLOPS = '0'"),
    ([], {"PEAK_FLOPS_TFLOPS": "nan"}, "PEAK_FLOPS_TFLOPS = 'nan'"),
]


@pytest.mark.parametrize(("flags", "environment", "expected"), MISTAKES)
def test_a_mistake_is_a_sentence_and_no_block(here, monkeypatch, capsys, flags, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert here(*flags) == 1
    streams = capsys.readouterr()
    assert expected in streams.err and streams.err.startswith("train.py: ")
    assert len(streams.err.strip().splitlines()) <= 2 and "---" not in streams.out and "step" not in streams.out


@pytest.mark.parametrize("flags", [["--max-steps", "many"], ["--threads", "1.5"], ["--dtype", "fp8"]], ids=" ".join)
def test_what_the_command_line_does_not_know_is_a_usage_error(here, capsys, flags):
    with pytest.raises(SystemExit) as ended:
        here(*flags)
    streams = capsys.readouterr()
    assert ended.value.code == 2 and flags[0] in streams.err and not streams.out


@pytest.mark.parametrize(
    ("constants", "expected"),
    [
        ({"SMALL_MICRO_BATCH_ROWS": 3}, "these do: 1, 2, 4, 8"),
        ({"SMALL_BATCH_TOKENS": 100}, "SMALL_BATCH_TOKENS = 100 is not a multiple of 32, the tokens of a row"),
        ({"SMALL_BATCH_TOKENS": 16}, "hint: 32 and 64 are"),
        ({"SMALL_WIDTH": 36}, "SMALL_WIDTH = 36 is not a multiple of an even SMALL_HEAD_DIM = 8"),
        ({"SMALL_DEPTH": 0}, "must be at least 1"),
        ({"SMALL_EXPORT_ROWS": 0}, "must be at least 1"),
        ({"SMALL_DEPHT": 2}, "SMALL_DEPHT changes nothing"),
    ],
    ids=["micro-batch", "batch", "small-batch", "width", "depth", "export-rows", "slip"],
)
def test_settings_that_cannot_run_end_before_training(here, monkeypatch, capsys, constants, expected):
    for name, value in constants.items():
        monkeypatch.setattr(train, name, value, raising=False)
    assert here() == 1
    streams = capsys.readouterr()
    assert expected in streams.err and "step" not in streams.out and len(streams.err.splitlines()) <= 2


def test_a_model_that_cannot_be_exported_ends_before_training(here, monkeypatch, capsys):
    monkeypatch.setattr(train, "rms_norm", lambda x: x + mx.random.normal(x.shape))
    assert here("--max-steps", "2") == 1
    streams = capsys.readouterr()
    assert "Random" in streams.err and "step" not in streams.out


def test_a_model_of_an_earlier_run_is_gone_at_once(here, tmp_path):
    (tmp_path / "model.graph").write_text("old")
    assert here("--data", "nothing") == 1
    assert not (tmp_path / "model.graph").exists()


@pytest.mark.parametrize("damage", ["shard", "tokenizer"])
def test_a_damaged_data_set_is_named(here, cache, tmp_path, capsys, damage):
    folder = tmp_path / "cache" / "llm" / "tiny"
    shutil.copytree(cache / "llm" / "tiny", folder)
    if damage == "shard":
        file = max(folder.glob("*.bin"), key=os.path.getsize)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file = folder / "tokenizer.json"
        shutil.copy(cache / "llm" / "other" / "tokenizer.json", file)
    assert here("--cache", str(tmp_path / "cache")) == 1
    streams = capsys.readouterr()
    assert file.name in streams.err and "step" not in streams.out


# ---- the command as a process


def log_of(run):
    """(step, progress, loss) of each line of the log."""
    return re.findall(r"^step (\d+) \| progress: ([\d.]+) \| loss: ([\d.]+)", run.out, re.MULTILINE)


@pytest.mark.slow
def test_a_budget_is_kept_within_two_percent(tmp_path, cache):
    """Other processes may take the cores away at the very end, so there are three tries."""
    copy = Copy(tmp_path, cache)
    for _ in range(3):
        run = copy.run(ARK_BUDGET_SECONDS="5", ARK_SEED="9")
        assert run.code == 0, run.err
        log = log_of(run)
        progress = [float(share) for _, share, _ in log]
        assert progress == sorted(progress) and progress[0] < 0.01 and progress[-1] < 1
        assert (run.block["status"], run.block["seed"], int(run.block["num_steps"])) == ("ok", "9", len(log))
        seconds = float(run.block["training_seconds"])
        assert seconds < float(run.block["total_seconds"])
        if 0.98 * 5 <= seconds <= 1.02 * 5:
            return
    pytest.fail(f"5 seconds have become {seconds}")


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_seed_and_a_number_of_steps_give_the_same_bits(tmp_path, cache, threads):
    weights, logs = [], []
    for number, seed in enumerate(("4", "4", "5")):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = Copy(folder, cache).run("--max-steps", "8", "--threads", threads, "--seed", seed)
        assert run.code == 0, run.err
        weights.append([np.array(array) for array in graph.load(folder / "model.graph").constants.values()])
        logs.append((log_of(run), run.block["train_loss"], run.block["val_bpb"]))
    assert len(logs[0][0]) == 8
    assert logs[0] == logs[1] != logs[2]
    assert same(weights[0], weights[1]) and not same(weights[0], weights[2])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"])
def test_a_signal_leaves_a_model_and_a_block(tmp_path, cache, number, code):
    with Copy(tmp_path, cache).start("--time-budget", "100") as process:
        for line in process.stdout:
            if line.startswith("step 00003"):
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (code, "")
    block = block_of("\n" + out)
    assert block["status"] == "interrupted" and "val_bpb" not in block and int(block["num_steps"]) > 3
    assert graph.load(tmp_path / "model.graph").about["data"] == "tiny"


WAITING = """
import os, threading, train

def export(*args):
    print("exporting", flush=True)
    threading.Event().wait(100)

train.export = export
os._exit(train.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, 130)], ids=["TERM", "INT"])
def test_a_second_signal_ends_the_run_at_once(tmp_path, cache, number, code):
    (tmp_path / "waiting.py").write_text(WAITING)
    with Copy(tmp_path, cache).start("--time-budget", "100", program="waiting.py") as process:
        for line in process.stdout:
            if line.startswith("step 00001"):
                process.send_signal(number)
            if line.startswith("exporting"):
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=50)
    assert process.returncode == code
    assert "---" not in out and "Traceback" not in err


STRUCK = """
import os, train

def strike(*args, **kwargs):
    HOW
    return honest(*args, **kwargs)

place, name = PLACE
honest = getattr(place, name)
setattr(place, name, strike)
os._exit(train.main())
"""
STRIKE = "os.kill(os.getpid(), NUMBER)"
# Where an exception goes unnoticed: Python drops it in a destructor, so only the note of the signal is left.
STRIKE_UNHEARD = "type('Unheard', (), {'__del__': lambda self: (os.kill(os.getpid(), NUMBER), sum([]))})()"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "how", "number", "code"),
    [
        ("(train.data, 'open_dataset')", STRIKE, signal.SIGINT, 130),
        ("(train.graph, 'check')", STRIKE, signal.SIGTERM, 143),
        ("(train.machine.Workers, '_on_stream')", STRIKE, signal.SIGINT, 130),
        ("(train.Trainer, 'warm_up')", STRIKE_UNHEARD, signal.SIGTERM, 143),
        ("(train, 'train')", STRIKE, signal.SIGTERM, 143),
    ],
    ids=["data", "trace", "a-thread-of-the-warm-up", "unheard", "last-moment"],
)
def test_a_signal_before_the_first_step_is_a_sentence_and_leaves_nothing(tmp_path, cache, place, how, number, code):
    (tmp_path / "model.graph").write_text("of an earlier run")
    text = STRUCK.replace("HOW", how).replace("PLACE", place).replace("NUMBER", str(int(number)))
    (tmp_path / "struck.py").write_text(text)
    run = Copy(tmp_path, cache).run("--max-steps", "3", "--threads", "2", program="struck.py")
    assert run.code == code, run.err
    assert run.err.splitlines()[-1] == "train.py: interrupted before the first step"
    assert (len(run.err.splitlines()) == 1) if how == STRIKE else ("Exception ignored in" in run.err)
    assert "\n---\n" not in run.out and "\nstep " not in run.out
    assert not (tmp_path / "model.graph").exists()


LATE = """
import os, signal, train

def say(line):
    honest(line)
    if line.startswith("---"):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

honest, train.say = train.say, say
os._exit(train.main())
"""


@pytest.mark.slow
def test_a_signal_after_the_block_changes_nothing(tmp_path, cache):
    (tmp_path / "late.py").write_text(LATE)
    run = Copy(tmp_path, cache).run("--max-steps", "2", program="late.py")
    assert (run.code, run.err) == (0, "")
    assert run.block["status"] == "ok" and (tmp_path / "model.graph").exists()


def assert_diverged(run, folder):
    assert (run.code, run.block["status"]) == (1, "diverged")
    assert "val_bpb" not in run.out and not (folder / "model.graph").exists()
    assert len(run.err.splitlines()) == 2 and run.err.endswith("hint: lower MATRIX_LR or EMBEDDING_LR\n")


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_ends_the_run(tmp_path, cache):
    hack = ("nats + loss.item()", 'nats + loss.item() * (float("nan") if self.optimizer.steps == 3 else 1)')
    run = Copy(tmp_path, cache, hack).run("--max-steps", "8")
    assert_diverged(run, tmp_path)
    assert "the loss is nan at step 3" in run.err and run.block["num_steps"] == "3"


@pytest.mark.slow
def test_learning_rates_far_too_high_end_the_run(tmp_path, cache):
    run = Copy(tmp_path, cache, MATRIX_LR=1e4, EMBEDDING_LR=1e4, HEAD_LR=1e4).run("--max-steps", "50")
    assert_diverged(run, tmp_path)
    assert re.search(r"the loss is \S+ at step \d+, and a uniform guess has 5\.70", run.err)


LIMITED = """
import os, resource, train

def limit(*args, **kwargs):
    size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + 40 * 2**20, resource.RLIM_INFINITY))
    return honest(*args, **kwargs)

honest, train.train = train.train, limit
os._exit(train.main())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc")
def test_real_memory_that_runs_out_never_gives_a_number(tmp_path, cache):
    """MLX 0.32.4 crashes in a thread of its own where the CPU has no memory, so there may be no sentence."""
    big = {"SMALL_BATCH_TOKENS": 32768, "SMALL_MICRO_BATCH_ROWS": 1024, "SMALL_LOSS_CHUNK": 32768, "SMALL_DEPTH": 1}
    (tmp_path / "limited.py").write_text(LIMITED)
    run = Copy(tmp_path, cache, **big).run("--max-steps", "1", program="limited.py")
    if run.code == 0:
        assert "out of memory: going on with" in run.out and run.block["status"] == "ok"
    else:
        assert "---" not in run.out and "Traceback" not in run.err and not (tmp_path / "model.graph").exists()


@pytest.mark.slow
def test_bfloat16_runs_from_end_to_end(tmp_path, cache):
    run = Copy(tmp_path, cache).run("--max-steps", "4", "--dtype", "bf16")
    assert run.code == 0, run.err
    assert "dtype: bfloat16" in run.out and run.block["status"] == "ok"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="mx.compile needs a C++ compiler on the CPU")
def test_the_compiled_run_is_the_same_run(tmp_path, cache):
    copy = Copy(tmp_path, cache, SMALL_DEPTH=1, **{name.upper(): value for name, value in NO_LOTTERY.items()})
    plain, compiled = (copy.run("--max-steps", "4", flag) for flag in ("--no-compile", "--compile"))
    assert compiled.code == 0, compiled.err
    assert "compiled: True" in compiled.out and "compiled: False" in plain.out
    for key in ("val_bpb", "train_loss"):
        assert float(compiled.block[key]) == pytest.approx(float(plain.block[key]), abs=0.02)
