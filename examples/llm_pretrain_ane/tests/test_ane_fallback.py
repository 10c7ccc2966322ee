"""The kernels of device.c by ane.c and the fake of Apple's frameworks: what fails is done by the CPU, with a notice."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ane_build import ANE, Problem, pointer, program
from ane_fake import FAKED, FLAGS, LOADED, PORTABLE, SHAPE, Mac
from ane_kernels import CALLS
from ane_model import Kernels
from ane_programs import PROGRAMS, Executor
from ane_runs import block, refused, run, shared, write_config
from ane_tokens import write_tokens

OF_PROGRAM = dict(zip(PROGRAMS, [*list(CALLS)[:5], "sdpa_back", "sdpa_back", "qkv_back"], strict=True))
Results = dict[str, list[np.ndarray]]


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mac:
    return Mac(tmp_path, monkeypatch)


def results(kernels: Kernels, rounds: int = 1) -> Results:
    """What each function makes of the same random weights and inputs, in both layers, in the last round."""
    rng, found = np.random.default_rng(5), {name: [] for name in CALLS}
    rows = {"D": SHAPE.dim, "F": SHAPE.hidden}
    shapes = [(rows[a], rows[b]) for a, b in ("DD", "DD", "DD", "DD", "FD", "DF", "FD")]  # wq wk wv wo w1 w2 w3
    inputs = {
        name: [rng.normal(0, 1, (rows[r], SHAPE.seq)).astype(np.float32) for r in CALLS[name][0]] for name in CALLS
    }
    kept = []
    for layer in range(SHAPE.layers):
        weights = [rng.normal(0, shape[1] ** -0.5, shape).astype(np.float32) for shape in shapes]
        kept.append((weights, (ctypes.c_void_p * 7)(*(weight.ctypes.data for weight in weights))))
        call(kernels, "stage", layer, kept[-1][1])
    for layer in list(range(SHAPE.layers)) * rounds:
        for name, (_, outputs) in CALLS.items():
            made = [np.zeros((rows[r], SHAPE.seq), np.float32) for r in outputs]
            layers = [] if name == "sdpa_back" else [layer]
            call(kernels, name, *layers, *(pointer(array) for array in (*inputs[name], *made)))
            found[name] = [*found[name], *made][-SHAPE.layers * len(made) :]
    return found


def call(kernels: Kernels, name: str, *arguments: object) -> None:
    types = [ctypes.c_int if isinstance(argument, int) else ctypes.c_void_p for argument in arguments]
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, *types)(getattr(kernels, name))(kernels.self, *arguments)


def device(mac: Mac, executor: Executor) -> Kernels:
    kernels, problem, cpu = Kernels(), Problem(), mac.made.cpu_kernels(SHAPE, mac.pool)
    pool, no = ctypes.c_void_p(mac.pool), ctypes.c_void_p()
    arguments = (ctypes.byref(SHAPE), pool, False, no, ctypes.byref(problem))
    assert mac.made.device_kernels(ctypes.byref(kernels), executor, cpu, *arguments), problem.text
    return kernels


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return [array.tobytes() for array in a] == [array.tobytes() for array in b]


def test_the_kernels_give_what_the_simulator_gives(mac: Mac, capfd: pytest.CaptureFixture[str]) -> None:
    simulated = device(mac, mac.made.sim_executor(mac.pool))
    expected = results(simulated)
    call(simulated, "close")
    kernels = device(mac, mac.open().executor)
    found = results(kernels)
    call(kernels, "close")
    assert all(np.abs(array).max() > 0 for arrays in expected.values() for array in arrays)
    assert all(same(found[name], expected[name]) for name in CALLS)
    steps = mac.steps()
    assert [step for step in steps if step in LOADED] == LOADED * len(PROGRAMS)
    assert steps.count("evaluate") == len(PROGRAMS) * (1 + SHAPE.layers)  # the test at the start, then each layer
    assert steps[-len(PROGRAMS) :] == ["unload"] * len(PROGRAMS)
    assert capfd.readouterr().err == ""
    assert mac.is_clean()


SDPA = ["sdpaBwd1", "sdpaBwd2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "words", "on_cpu"),
    [
        ("compile", "compiling failed: Error Domain=com.apple.appleneuralengine.compiler Code=1", PROGRAMS),
        ("compile@3", "", []),  # the text for M1 and M2 is taken
        ("compile@3-4", "compiling failed: Error Domain=", ["ffnBwdW2t"]),
        ("compile@6-7", "compiling failed: Error Domain=", SDPA),
        ("descriptor@1-2", "the framework makes no descriptor of it", ["sdpaWoFwd"]),
        ("model@2-3", "the framework makes no model of it", ["ffnFused"]),
        ("load@1-4", "loading failed: Error Domain=com.apple.appleneuralengine Code=2", ["sdpaWoFwd"]),
        ("load@1-3", "", []),
        ("surface", "there is no memory for a surface of", PROGRAMS),
        ("object@1-2", "the framework refuses a surface of", ["sdpaWoFwd"]),
        ("request@1-2", "the framework makes no request", ["sdpaWoFwd"]),
        ("zeros@8-9", "its dxn is off by 1 of the largest number", ["qkvBwd"]),
        ("zeros", "its o is off by 1 of the largest number", PROGRAMS),
        ("evaluate@5-6", "Failed with status=0x1d : statusType=0x9: Program Inference error", ["wotBwd"]),
        ("evaluate@10", "Failed with status=0x1d : statusType=0x9: Program Inference error", ["ffnFused"]),
        ("evaluate@14", "evaluating failed: Error Domain=com.apple.appleneuralengine Code=8", SDPA),
        ("evaluate@15", "evaluating failed: Error Domain=com.apple.appleneuralengine Code=8", SDPA),
        ("evaluate@9-", "evaluating failed: Error Domain=com.apple.appleneuralengine Code=8", PROGRAMS),
        ("lock", "cannot be locked: code 0xe00002c9", PROGRAMS),
        ("unlock", "cannot be unlocked: code 0xe00002c9", PROGRAMS),
        ("temporary", "the framework does not say where it wants the files", PROGRAMS),
    ],
)
def test_a_kernel_that_fails_is_done_by_the_cpu(
    mac: Mac, fault: str, words: str, on_cpu: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """With a notice for each; its results are the CPU's, and the others' are the simulator's."""
    reference, simulated = mac.made.cpu_kernels(SHAPE, mac.pool), device(mac, mac.made.sim_executor(mac.pool))
    by_cpu, by_sim = results(reference), results(simulated)
    call(reference, "close")
    call(simulated, "close")
    executor = mac.open().executor
    mac.faults(fault)
    kernels = device(mac, executor)
    found = results(kernels, rounds=2)
    call(kernels, "close")
    notices = capfd.readouterr().err.splitlines()
    assert sorted(line.split()[2] for line in notices) == sorted(on_cpu)
    assert all(line.startswith("notice: ane: ") and " runs on the CPU: " in line for line in notices)
    assert words in "".join(notices[:1])
    fallen = {OF_PROGRAM[name] for name in on_cpu}
    for name in CALLS:
        assert same(found[name], by_cpu[name] if name in fallen else by_sim[name]), name
    assert mac.is_clean()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.bin"
    write_tokens(path, 20_000)
    return path


@pytest.fixture(scope="module")
def trainer() -> Path:
    """train with the fake and sanitizers."""
    sizes = {"dim": SHAPE.dim, "hidden": SHAPE.hidden, "heads": SHAPE.heads, "kv_heads": SHAPE.heads, "seq": SHAPE.seq}
    flags = [*FLAGS, f"-I{write_config(**sizes)}"]
    return program(ANE / "train.c", *FAKED[len(PORTABLE) :], shared(sanitize=True), flags=flags, sanitize=True)


def surroundings(folder: Path, fault: str = "") -> dict[str, str]:
    """The environment of a run, whose temporary files and report of the fake are in the folder."""
    folder.mkdir(exist_ok=True)
    return os.environ | {"TMPDIR": str(folder), "FAKE_ANE": fault, "FAKE_ANE_REPORT": str(folder / "report")}


def reported(folder: Path) -> list[str]:
    """The report, in which nobody had a complaint."""
    report = (folder / "report").read_text().splitlines()
    assert not [line for line in report if line.startswith("complaint")]
    return report


def trained(trainer: Path, tokens: Path, folder: Path, backend: str, fault: str = "") -> tuple[dict[str, str], str]:
    """The final block and the notices of four micro-steps; nothing was left of the fake's."""
    arguments = ["--data", tokens, "--checkpoint", folder / "out.ckpt", "--wall-time", 300, "--max-steps", 4]
    done = run(trainer, *arguments, "--threads", 1, "--backend", backend, env=surroundings(folder, fault))
    assert done.returncode == 0, done.stderr
    assert reported(folder)[0] == "live 0"
    assert sorted(path.name for path in folder.iterdir()) == ["out.ckpt", "report"]
    return block(done.stdout), done.stderr


@pytest.mark.slow
def test_training_goes_on_when_a_kernel_fails(trainer: Path, tokens: Path, tmp_path: Path) -> None:
    by_sim, _ = trained(trainer, tokens, tmp_path / "sim", "sim")
    by_ane, notices = trained(trainer, tokens, tmp_path / "ane", "ane")
    assert notices == ""
    assert by_ane["kernels_on_device"] == by_sim["kernels_on_device"] == "8"
    assert by_ane["trainer_val_loss"] == by_sim["trainer_val_loss"]
    failed, notices = trained(trainer, tokens, tmp_path / "failed", "ane", "evaluate@20-21")
    assert [line.split()[1] for line in notices.splitlines()] == ["ane:"] * len(notices.splitlines())
    assert 1 <= len(notices.splitlines()) <= 3
    assert int(failed["kernels_on_device"]) == 8 - len(notices.splitlines())
    assert float(failed["trainer_val_loss"]) == pytest.approx(float(by_sim["trainer_val_loss"]), rel=1e-3)


def ended_early(folder: Path) -> None:
    """Every program was unloaded once, and its folder removed."""
    steps = [line.split()[0] for line in reported(folder)]
    assert steps.count("unload") == steps.count("load") == len(PROGRAMS)
    assert [path.name for path in folder.iterdir()] == ["report"]


def test_a_start_that_fails_leaves_no_folder(trainer: Path, tokens: Path, tmp_path: Path) -> None:
    arguments = ["--data", tokens, "--checkpoint", tmp_path / "out.ckpt", "--backend", "ane", "--threads", 2]
    sentence = refused(trainer, *arguments, "--wall-time", 1e-6, env=surroundings(tmp_path))
    assert "is too short" in sentence
    ended_early(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_an_interrupted_run_leaves_no_folder(trainer: Path, tokens: Path, tmp_path: Path, number: int) -> None:
    command = [trainer, "--data", tokens, "--checkpoint", tmp_path / "out.ckpt", "--backend", "ane", "--threads", "2"]
    command += ["--wall-time", "300", "--log-every", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=surroundings(tmp_path)) as running:
        assert running.stdout and running.stdout.readline().startswith("step 1 ")
        running.send_signal(number)
        running.communicate(timeout=60)
    assert running.returncode == 128 + number
    ended_early(tmp_path)
