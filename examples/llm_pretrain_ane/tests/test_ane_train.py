"""train: cycles that go on bit by bit, settings that take effect, and sentences for all that goes wrong."""

from __future__ import annotations

import math
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ane_build import ANE, program
from ane_runs import HEADER, block, read_header, refused, run, sealed, shared, train, train_program, write_config
from ane_tokens import VOCAB, write_tokens

PARAMETERS = 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32 + VOCAB * 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tokens.bin"
    write_tokens(path)
    return path


@pytest.fixture(scope="module")
def made() -> Path:
    return train_program()


def body(path: Path) -> bytes:
    """Weights and moments."""
    return path.read_bytes()[HEADER.itemsize : -4]


def counted(path: Path) -> dict[str, Any]:
    header = read_header(path)
    return {name: int(header[name]) for name in ("updates", "micro_steps", "skipped", "cycles")}


def test_learns_and_prints_the_final_block(made: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.ckpt"
    done = run(made, "--data", data, "--checkpoint", out, "--wall-time", 300, "--max-steps", 400, "--threads", 2)
    assert done.returncode == 0 and done.stderr == ""
    result = block(done.stdout)
    assert list(result)[:18] == [
        *(
            "trainer_val_loss",
            "trainer_val_tokens",
            "train_loss",
            "train_loss_last",
            "steps",
            "updates",
            "skipped_updates",
            "ms_per_step",
        ),
        *("wall_time_s", "compile_time_s", "ane_util_pct", "backend", "kernels_on_device", "threads", "gemm", "params"),
        *("total_updates", "cycles"),
    ]
    phases = ("kernels_forward", "kernels_backward", "classifier", "update", "validation")
    assert all(float(result[f"phase_{name}_s"]) > 0 for name in phases)
    assert float(result["trainer_val_loss"]) < 3 < math.log(48)
    assert float(result["train_loss"]) < 3
    expected = {"steps": "400", "updates": "200", "skipped_updates": "0", "threads": "2", "backend": "cpu"}
    expected |= {
        "trainer_val_tokens": "992",
        "kernels_on_device": "0",
        "ane_util_pct": "0.00",
        "params": str(PARAMETERS),
        "cycles": "1",
    }
    assert {name: result[name] for name in expected} == expected
    assert not re.search(r"^val_loss", done.stdout, re.MULTILINE)
    assert counted(out) == {"updates": 200, "micro_steps": 400, "skipped": 0, "cycles": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_log_lines(made: Path, data: Path, tmp_path: Path) -> None:
    arguments = ["--data", data, "--checkpoint", tmp_path / "a", "--wall-time", 300, "--max-steps", 9]
    lines = run(made, *arguments, "--log-every", 4).stdout.split("\n---\n")[0].splitlines()
    assert [line.split()[:2] for line in lines] == [["step", "1"], ["step", "4"], ["step", "8"]]
    form = r"step \d+  loss \d+\.\d{4}  rate \d\.\d{3}e-\d\d  accumulation 2  ms \d+\.\d"
    assert all(re.fullmatch(form, line) for line in lines)
    assert run(made, *arguments, "--log-every", 0).stdout.startswith("---\n")


@pytest.mark.parametrize("lion", [1, 0], ids=["lion", "adamw"])
def test_a_resumed_run_is_the_uninterrupted_one(data: Path, tmp_path: Path, lion: int) -> None:
    made = train_program(lion=lion)
    whole = train(made, data, tmp_path / "whole", "--max-steps", 60)
    train(made, data, tmp_path / "part", "--max-steps", 24)
    rest = train(made, data, tmp_path / "rest", "--max-steps", 36, "--resume", tmp_path / "part")
    assert body(tmp_path / "rest") == body(tmp_path / "whole") != body(tmp_path / "part")
    same = ("trainer_val_loss", "train_loss", "train_loss_last", "total_updates")
    assert {name: whole[name] for name in same} == {name: rest[name] for name in same}
    assert (rest["steps"], rest["updates"], rest["cycles"]) == ("36", "18", "2")
    for name in ("order", "loss_average", "init_seed", "micro_steps"):
        assert np.array_equal(read_header(tmp_path / "whole")[name], read_header(tmp_path / "rest")[name])


def test_two_threads_give_the_same_bits_each_time(made: Path, data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(made, data, tmp_path / name, "--max-steps", 20, "--threads", 2)
    assert body(tmp_path / "a") == body(tmp_path / "b")


def test_seeds(made: Path, data: Path, tmp_path: Path) -> None:
    def trained(name: str, *arguments: object) -> bytes:
        train(made, data, tmp_path / name, "--max-steps", 4, *arguments)
        return body(tmp_path / name)

    assert trained("a") == trained("zero", "--seed", 0)
    assert trained("b", "--seed", 2**63 - 1) != trained("a")
    resume = ("--resume", tmp_path / "a")
    on = trained("on", *resume)
    one = trained("one", *resume, "--seed", 1)
    assert len({on, one, trained("two", *resume, "--seed", 2)}) == 3
    assert one == trained("again", *resume, "--seed", 1)
    assert read_header(tmp_path / "two")["init_seed"] == 0


def test_each_cycle_trains_on_other_windows(made: Path, data: Path, tmp_path: Path) -> None:
    """With a learning rate of 0 a replayed window would have the same loss again."""
    still = train_program(learning_rate=0.0)
    losses, resume = [], []
    for name in ("a", "b", "c"):
        result = train(still, data, tmp_path / name, "--max-steps", 1, "--seed", 3, *resume)
        losses.append(result["train_loss_last"])
        resume = ["--resume", tmp_path / name]
    assert len(set(losses)) == 3


def test_edits_of_the_settings_take_effect_on_resume(made: Path, data: Path, tmp_path: Path) -> None:
    train(made, data, tmp_path / "a", "--max-steps", 10)
    resume = ("--max-steps", 2, "--resume", tmp_path / "a")

    def rates(program: Path) -> str:
        done = run(
            program, "--data", data, "--checkpoint", tmp_path / "b", "--wall-time", 300, "--log-every", 1, *resume
        )
        assert done.returncode == 0, done.stderr
        return " ".join(re.findall(r"rate (\S+)", done.stdout))

    def cosine(peak: float, total: int) -> str:
        return f"{peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (5 - 5) / (total - 5)))):.3e}"

    assert rates(made) == " ".join([cosine(1e-3, 500)] * 2)
    assert rates(train_program(learning_rate=5e-4)).split() == [cosine(5e-4, 500)] * 2
    assert (
        rates(train_program(total_steps=6, warmup_steps=1)).split()[0]
        == f"{1e-3 * (0.1 + 0.45 * (1 + math.cos(math.pi * 4 / 5))):.3e}"
    )
    train(train_program(learning_rate=0.0, weight_decay=0.0), data, tmp_path / "still", *resume)
    dim = PARAMETERS * 4
    assert body(tmp_path / "still")[:dim] == body(tmp_path / "a")[:dim]
    assert body(tmp_path / "still")[dim:] != body(tmp_path / "a")[dim:]
    train(train_program(softcap=20.0, loss_scale=512.0, max_act=50.0, accum_steps=4), data, tmp_path / "c", *resume)
    header = read_header(tmp_path / "c")
    assert (header["softcap"], header["loss_scale"], header["max_act"]) == (20, 512, 50)


def test_an_unfinished_accumulation_is_one_update(made: Path, data: Path, tmp_path: Path) -> None:
    result = train(made, data, tmp_path / "a", "--max-steps", 5)
    assert (result["steps"], result["updates"]) == ("5", "3")


def notices_of_going_on(made: Path, data: Path, folder: Path, **changes: int) -> str:
    """What a trainer with these settings says of the checkpoint of one without them; its own is `b`."""
    train(made, data, folder / "a", "--max-steps", 4)
    done = run(
        train_program(**changes),
        *("--data", data, "--checkpoint", folder / "b", "--resume", folder / "a"),
        *("--wall-time", 300, "--max-steps", 4),
    )
    assert done.returncode == 0
    return done.stderr


def test_another_optimizer_is_noticed(made: Path, data: Path, tmp_path: Path) -> None:
    notices = notices_of_going_on(made, data, tmp_path, lion=0)
    assert notices == "notice: the checkpoint was trained with Lion, so the moments begin at zero\n"
    assert read_header(tmp_path / "b")["lion"] == 0
    assert (tmp_path / "b").stat().st_size == HEADER.itemsize + 12 * PARAMETERS + 4


def test_another_choice_of_classes_is_noticed(made: Path, data: Path, tmp_path: Path) -> None:
    assert notices_of_going_on(made, data, tmp_path, vocab_compact=0) == (
        "notice: the checkpoint was trained with USE_VOCAB_COMPACT 1, so the embedding of ids that do not occur in the"
        " data begins anew\n"
    )


def test_adamw_after_lion_begins_with_steps_of_the_learning_rate(made: Path, data: Path, tmp_path: Path) -> None:
    """Bias corrections go by the updates since the moments were zero, the schedule by all of them."""
    rates = {"embed_lr_scale": 1.0, "matrix_lr_scale": 1.0, "weight_decay": 0.0, "warmup_steps": 0, "lr_min_frac": 1.0}
    adamw = train_program(lion=0, beta2=0.9999, **rates)
    train(made, data, tmp_path / "lion", "--max-steps", 40)
    assert (read_header(tmp_path / "lion")["updates"], read_header(tmp_path / "lion")["moment_updates"]) == (20, 20)
    train(adamw, data, tmp_path / "one", "--max-steps", 2, "--resume", tmp_path / "lion")
    assert (read_header(tmp_path / "one")["updates"], read_header(tmp_path / "one")["moment_updates"]) == (21, 1)
    weights = [np.frombuffer(body(tmp_path / name), "<f4", PARAMETERS) for name in ("lion", "one")]
    assert np.abs(weights[1] - weights[0]).max() == pytest.approx(1e-3, rel=1e-3)
    train(adamw, data, tmp_path / "part", "--max-steps", 10, "--resume", tmp_path / "one")
    train(adamw, data, tmp_path / "whole", "--max-steps", 12, "--resume", tmp_path / "lion")
    assert body(tmp_path / "part") == body(tmp_path / "whole")
    assert read_header(tmp_path / "part")["moment_updates"] == read_header(tmp_path / "whole")["moment_updates"] == 6
    train(made, data, tmp_path / "back", "--max-steps", 4, "--resume", tmp_path / "part")
    assert (read_header(tmp_path / "back")["updates"], read_header(tmp_path / "back")["moment_updates"]) == (28, 2)


def test_compaction_may_be_switched(made: Path, data: Path, tmp_path: Path) -> None:
    whole = train_program(vocab_compact=0)
    train(made, data, tmp_path / "a", "--max-steps", 2)
    train(whole, data, tmp_path / "b", "--max-steps", 2, "--resume", tmp_path / "a")
    train(made, data, tmp_path / "c", "--max-steps", 2, "--resume", tmp_path / "b")
    assert [int(read_header(tmp_path / name)["compact"]) for name in "abc"] == [1, 0, 1]


def test_ends_by_the_wall_time(made: Path, tmp_path: Path) -> None:
    write_tokens(tmp_path / "short.bin", count=1000)  # one window of validation: little to reserve
    result = train(made, tmp_path / "short.bin", tmp_path / "a", "--wall-time", "1.2")
    assert int(result["steps"]) > 1
    assert int(result["updates"]) == math.ceil(int(result["steps"]) / 2)


# In the place of the functions of the C runtime: writes down what is synced and renamed, and syncs as slowly as wished.
SYNC = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
static void note(const char *what, const char *path, long long bytes) {
    FILE *log = fopen(getenv("SYNC_LOG"), "a");
    if (log) {
        fprintf(log, "%s %s %lld\n", what, path, bytes);
        fclose(log);
    }
}
int fsync(int file) {
    char name[64], path[4096] = "";
    struct stat status;
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    if (readlink(name, path, sizeof path - 1) < 0 || fstat(file, &status) != 0) return -1;
    note("sync", path, S_ISREG(status.st_mode) ? (long long)status.st_size : -1);
    usleep((useconds_t)atoi(getenv("SYNC_MICROSECONDS")));
    return (int)syscall(SYS_fsync, file);
}
int rename(const char *from, const char *to) {
    note("rename", from, -1);
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}
"""


@pytest.fixture(scope="module")
def syncing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux":
        pytest.skip("functions of the C runtime are replaced as Linux allows it")
    folder = tmp_path_factory.mktemp("sync")
    (folder / "sync.c").write_text(SYNC)
    return program(ANE / "train.c", folder / "sync.c", shared(), flags=[f"-I{write_config()}"])


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(syncing: Path, data: Path, tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "out" / "a"
    out.parent.mkdir()
    environment = {**os.environ, "SYNC_LOG": str(log), "SYNC_MICROSECONDS": "0"}
    train(syncing, data, out, "--max-steps", 1, env=environment)
    lines = log.read_text().splitlines()
    assert len(lines) == 4 and lines[0].startswith(f"sync {out}.part ")  # the first one probes the disk
    assert lines[1:] == [f"sync {out}.part {out.stat().st_size}", f"rename {out}.part -1", f"sync {out.parent} -1"]


def test_the_wall_time_has_room_for_saving(syncing: Path, data: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "SYNC_LOG": str(tmp_path / "log"), "SYNC_MICROSECONDS": "300000"}
    arguments = ("--data", data, "--checkpoint", tmp_path / "a", "--wall-time", "0.3")
    assert "a wall time of 0.3 s is too short" in refused(syncing, *arguments, env=environment)


def test_the_trainers_own_validation_takes_a_tenth_of_the_wall_time_at_most(tmp_path: Path) -> None:
    write_tokens(tmp_path / "long.bin", count=600_000)
    made = train_program(dim=128, vocab_compact=0)  # 800 windows of some milliseconds
    result = train(made, tmp_path / "long.bin", tmp_path / "a", "--wall-time", 2, "--max-steps", 1)
    assert 0 < int(result["trainer_val_tokens"]) < 25_600
    assert float(result["trainer_val_loss"]) > 0


@pytest.mark.parametrize("seconds", ["0", "0.0000001"])
def test_a_wall_time_without_room_for_a_step(made: Path, data: Path, tmp_path: Path, seconds: str) -> None:
    sentence = refused(made, "--data", data, "--checkpoint", tmp_path / "a", "--wall-time", seconds)
    assert sentence.startswith(f"a wall time of {float(seconds):g} s is too short: a step, the validation and")
    assert not list(tmp_path.iterdir())


USAGE = {
    "negative": (["--wall-time", "-1"], "--wall-time is '-1', but it is a number of seconds, 0 or more"),
    "minus-zero": (["--wall-time", "-0"], "--wall-time is '-0'"),
    "nan": (["--wall-time", "nan"], "--wall-time is 'nan'"),
    "inf": (["--wall-time", "inf"], "--wall-time is 'inf'"),
    "overflow": (["--wall-time", "1e999"], "--wall-time is '1e999'"),
    "hexadecimal": (["--wall-time", "0x10"], "--wall-time is '0x10'"),
    "junk": (["--wall-time", "5s"], "--wall-time is '5s'"),
    "blank": (["--wall-time", " 5"], "--wall-time is ' 5'"),
    "empty": (["--wall-time", ""], "--wall-time is ''"),
    "seed-negative": (
        ["--wall-time", "1", "--seed", "-1"],
        "--seed is '-1', but it is a whole number from 0 to 9223372036854775807",
    ),
    "seed-huge": (["--wall-time", "1", "--seed", "9223372036854775808"], "--seed is '9223372036854775808'"),
    "seed-fraction": (["--wall-time", "1", "--seed", "1.5"], "--seed is '1.5'"),
    "steps-0": (["--wall-time", "1", "--max-steps", "0"], "--max-steps is '0'"),
    "threads-0": (["--wall-time", "1", "--threads", "0"], "--threads is '0', but it is a whole number from 1 to 256"),
    "backend": (["--wall-time", "1", "--backend", "gpu"], "--backend is 'gpu', but it is one of auto|cpu|sim|ane"),
    "backend-part": (["--wall-time", "1", "--backend", "cp"], "--backend is 'cp'"),
    "backend-two": (["--wall-time", "1", "--backend", "cpu|sim"], "--backend is 'cpu|sim'"),
    "backend-empty": (["--wall-time", "1", "--backend", ""], "--backend is ''"),
    "unknown": (["--wall-time", "1", "--speed", "9"], "'--speed' is no option of train"),
    "no-value": (["--wall-time"], "--wall-time needs a value"),
    "twice": (["--wall-time", "1", "--wall-time", "2"], "--wall-time is given twice"),
    "missing": ([], "train needs --wall-time S"),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage(made: Path, data: Path, tmp_path: Path, case: str) -> None:
    arguments, sentence = USAGE[case]
    assert refused(made, "--data", data, "--checkpoint", tmp_path / "a", *arguments, code=2).startswith(sentence)
    assert not list(tmp_path.iterdir())


def test_help_lists_every_option(made: Path) -> None:
    done = run(made, "--help")
    assert done.returncode == 0
    names = "data checkpoint resume wall-time max-steps seed backend threads gemm log-every"
    assert set(re.findall(r"^--([a-z-]+)", done.stdout, re.MULTILINE)) == set(names.split())


SETTINGS = {
    "kv-heads": ({"kv_heads": 1}, "kv_heads is 1 and heads is 2, but they must be equal"),
    "heads": ({"heads": 3, "kv_heads": 3}, "dim is 32 and heads is 3"),
    "dim": ({"dim": -32}, "dim is -32, but 1 to 4096 are possible"),
    "accumulation": ({"accum_steps": 0}, "accum_steps is 0"),
    "warmup": ({"warmup_steps": 500}, "warmup_steps is 500, but 0 to 499 are possible"),
    "softcap": ({"softcap": 0.0}, "softcap is 0"),
    "beta": ({"beta2": 1.0}, "beta2 is 1"),
    "digest": ({"architecture": "none"}, "the digest of the architecture"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_no_harness_writes(data: Path, tmp_path: Path, case: str) -> None:
    changes, sentence = SETTINGS[case]
    made = train_program(**changes)
    assert refused(made, "--data", data, "--checkpoint", tmp_path / "a", "--wall-time", 5).startswith(sentence)


def test_tokens_that_cannot_be_used(made: Path, tmp_path: Path) -> None:
    path, rest = tmp_path / "tokens.bin", ("--checkpoint", tmp_path / "a", "--wall-time", 5)
    assert "No such file" in refused(made, "--data", path, *rest)
    path.write_bytes(b"\1\0" * 100)
    assert "is too short: its training split holds 90" not in refused(made, "--data", path, *rest)
    tokens = write_tokens(path)
    path.write_bytes(tokens.tobytes() + b"\0")
    assert "odd number of bytes" in refused(made, "--data", path, *rest)
    tokens[-1] = VOCAB
    path.write_bytes(tokens.tobytes())
    assert "holds the id 32000" in refused(made, "--data", path, *rest)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokens.bin"]


def test_checkpoints_that_cannot_be_resumed(made: Path, data: Path, tmp_path: Path) -> None:
    out, good, bad = tmp_path / "out", tmp_path / "good", tmp_path / "bad"
    train(made, data, good, "--max-steps", 2)
    whole = good.read_bytes()
    rest = ("--checkpoint", out, "--wall-time", 300, "--max-steps", 2, "--resume")

    def sentence(program: Path = made, tokens: Path = data) -> str:
        return refused(program, "--data", tokens, *rest, bad)

    assert "No such file" in sentence()
    bad.write_bytes(whole[:-100])
    assert "is damaged: it has" in sentence()
    bad.write_bytes(whole[:5000] + bytes([whole[5000] ^ 4]) + whole[5001:])
    assert "is damaged: its checksum is wrong" in sentence()
    bad.write_bytes(sealed(whole, layers=10**6))
    assert "layers is 1000000" in sentence()
    bad.write_bytes(whole)
    assert "of another architecture: dim 32, hidden 64" in sentence(train_program(hidden=96))
    write_tokens(tmp_path / "other.bin", seed=4)
    assert "from another token file or tokenizer" in sentence(tokens=tmp_path / "other.bin")
    assert not out.exists()


def test_where_no_checkpoint_can_be_written(made: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "none" / "a", tmp_path / "there", Path("/dev/null")):
        assert refused(made, "--data", data, "--checkpoint", path, "--wall-time", 5).startswith(
            "cannot write the checkpoint"
        )
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))}
    assert "File too large" in refused(
        made, "--data", data, "--checkpoint", tmp_path / "a", "--wall-time", 5, **limited
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["there"]


def test_a_run_that_diverges_leaves_no_checkpoint(data: Path, tmp_path: Path) -> None:
    made = train_program(learning_rate=1e30, lion=0, embed_lr_scale=1e8)
    sentence = refused(made, "--data", data, "--checkpoint", tmp_path / "a", "--wall-time", 300, "--max-steps", 200)
    assert sentence == "the training diverged: the gradients of 10 updates in a row were not finite"
    sentence = refused(made, "--data", data, "--checkpoint", tmp_path / "a", "--wall-time", 300, "--max-steps", 4)
    assert sentence == "the training diverged: the loss is not finite"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_an_interrupted_run_leaves_no_checkpoint(made: Path, data: Path, tmp_path: Path, number: int) -> None:
    command = [made, "--data", data, "--checkpoint", tmp_path / "a", "--wall-time", "300", "--log-every", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout and running.stdout.readline().startswith("step 1 ")
        running.send_signal(number)
        output, errors = running.communicate(timeout=60)
    assert running.returncode == 128 + number
    assert errors == "interrupted: no checkpoint was written\n" and "---" not in output
    assert not list(tmp_path.iterdir())


def test_a_full_standard_output_is_a_failure(made: Path, data: Path, tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        arguments = ["--data", data, "--checkpoint", tmp_path / "a", "--wall-time", "300", "--max-steps", "2"]
        done = subprocess.run([made, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr == "cannot write to standard output\n"


def test_the_neural_engine_falls_back_to_the_cpu(made: Path, data: Path, tmp_path: Path) -> None:
    if os.uname().sysname == "Darwin":
        pytest.skip("there may be one on a Mac")
    arguments = (
        "--data",
        data,
        "--checkpoint",
        tmp_path / "a",
        "--wall-time",
        300,
        "--max-steps",
        2,
        "--backend",
        "ane",
    )
    done = run(made, *arguments)
    assert done.returncode == 0 and block(done.stdout)["backend"] == "cpu"
    assert done.stderr == "notice: all kernels run on the CPU: the Neural Engine needs macOS on Apple Silicon\n"


def test_blas_that_is_not_there(made: Path, data: Path, tmp_path: Path) -> None:
    if os.uname().sysname == "Darwin":
        pytest.skip("Accelerate is part of macOS")
    arguments = ("--data", data, "--checkpoint", tmp_path / "a", "--wall-time", 300, "--gemm", "accelerate")
    assert refused(made, *arguments)


# The smallest that the hardware's rules allow.
ALLOWED = {"dim": 128, "hidden": 256, "heads": 4, "kv_heads": 4, "layers": 1}


def test_the_simulator_trains_as_the_cpu_does(data: Path, tmp_path: Path) -> None:
    made = train_program(**ALLOWED)
    results = {
        backend: train(made, data, tmp_path / backend, "--max-steps", 10, "--backend", backend)
        for backend in ("cpu", "sim")
    }
    assert (results["sim"]["backend"], results["sim"]["kernels_on_device"]) == ("sim", "8")
    assert results["sim"]["ane_util_pct"] == "0.00"
    losses = [float(result["trainer_val_loss"]) for result in results.values()]
    assert losses[0] != losses[1] and abs(losses[0] - losses[1]) < 2e-3


def test_the_simulator_refuses_what_the_hardware_would(made: Path, data: Path, tmp_path: Path) -> None:
    out = ("--checkpoint", tmp_path / "a", "--wall-time", 300)
    assert refused(made, "--data", data, *out, "--backend", "sim")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def mac() -> Path:
    """train with a fake of Apple's frameworks, which runs programs by the simulator."""
    tests = Path(__file__).parent
    glue = [ANE / "ane.c", tests / "fake_foundation.c", tests / "fake_framework.c"]
    flags = [f"-I{write_config(**ALLOWED)}", f"-I{tests / 'apple_stubs'}"]
    flags += ['-DFRAMEWORK_PATH=getenv("FAKE_FRAMEWORK")', "-rdynamic"]
    return program(ANE / "train.c", *glue, shared(), flags=flags)


def on_mac(mac: Path, data: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "temporary").mkdir(exist_ok=True)
    variables = {**os.environ, "TMPDIR": str(folder / "temporary"), **environment}
    arguments = ("--data", data, "--checkpoint", folder / "a", "--wall-time", 300, "--max-steps", 4, "--backend", "ane")
    return run(mac, *arguments, env=variables)


def test_the_neural_engine_is_used(mac: Path, data: Path, tmp_path: Path) -> None:
    done = on_mac(mac, data, tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    result = block(done.stdout)
    assert (result["backend"], result["kernels_on_device"]) == ("ane", "8")
    flop = 2 * (8 * 128 * 128 * 32 + 6 * 128 * 256 * 32) + 10 * 128 * 32 * 32
    done = on_mac(mac, data, tmp_path, ANE_PEAK_TFLOPS="0.01")
    result = block(done.stdout)
    share = 100 * flop / (float(result["ms_per_step"]) * 1e-3) / 0.01e12
    assert float(result["ane_util_pct"]) == pytest.approx(share, rel=0.01, abs=0.01)


def test_kernels_that_the_neural_engine_refuses_run_on_the_cpu(mac: Path, data: Path, tmp_path: Path) -> None:
    done = on_mac(mac, data, tmp_path, FAKE_ANE="load@1-4")
    assert done.returncode == 0 and "sdpaWoFwd runs on the CPU" in done.stderr
    assert 0 < int(block(done.stdout)["kernels_on_device"]) < 8
    done = on_mac(mac, data, tmp_path, FAKE_ANE="compile")
    result = block(done.stdout)
    assert done.returncode == 0 and (result["kernels_on_device"], result["ane_util_pct"]) == ("0", "0.00")


def test_a_quality_of_service_that_is_none_ends_it(mac: Path, data: Path, tmp_path: Path) -> None:
    """It would not be a reason to train on the CPU."""
    done = on_mac(mac, data, tmp_path, ANE_QOS="5")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'ANE_QOS is "5", but must be 0, 9, 17, 21, 25 or 33\n'


def test_a_peak_that_is_no_number(made: Path, data: Path, tmp_path: Path) -> None:
    arguments = ("--data", data, "--checkpoint", tmp_path / "a", "--wall-time", 5)
    for text in ("fast", "", "0", "-1", "nan", "15.8 TFLOPS"):
        sentence = refused(made, *arguments, env={**os.environ, "ANE_PEAK_TFLOPS": text})
        assert sentence == f"ANE_PEAK_TFLOPS is '{text}', but it is a positive number"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "changes"),
    [
        ("cpu", {}),
        ("cpu", {"dim": 64, "rope": 1, "lion": 0, "max_act": 2.0}),
        ("sim", ALLOWED),
        ("sim", {**ALLOWED, "seq": 64, "layers": 2, "rope": 1, "lion": 0, "max_act": 2.0}),
    ],
    ids=["small", "more", "sim", "sim-rope"],
)
def test_clean_under_sanitizers(data: Path, tmp_path: Path, backend: str, changes: dict[str, Any]) -> None:
    made = train_program(sanitize=True, **changes)
    for threads in (1, 2):
        how = ("--backend", backend, "--threads", threads)
        assert train(made, data, tmp_path / "a", "--max-steps", 5, *how)["backend"] == backend
        train(made, data, tmp_path / "b", "--max-steps", 4, *how, "--resume", tmp_path / "a")
    (tmp_path / "c").write_bytes((tmp_path / "a").read_bytes()[:-1])
    refused(made, "--data", data, "--checkpoint", tmp_path / "b", "--wall-time", 300, "--resume", tmp_path / "c")
