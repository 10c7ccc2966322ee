"""Kernels by programs: against the cpu kernels, in training, and falling back when an executor fails."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ane_build import ANE, Problem, Shape, build, pointer
from ane_kernels import CALLS
from ane_model import ADAMW, LION, CModel, Config, Kernels, settings, window
from ane_programs import FILES, PROGRAMS, SHAPES, Executor

HERE = Path(__file__).parent
PHASE_IO = 2
# Of the largest number; measured: 0.0012 at most.
BOUND = 2e-3

KERNEL_OF = {
    "sdpaWoFwd": "attention",
    "ffnFused": "ffn",
    "ffnBwdW2t": "ffn_back_w2",
    "ffnBwdW13t": "ffn_back_w13",
    "wotBwd": "wo_back",
    "sdpaBwd1": "sdpa_back",
    "sdpaBwd2": "sdpa_back",
    "qkvBwd": "qkv_back",
}
PAIR = {"sdpaBwd1", "sdpaBwd2"}


class Weights(ctypes.Structure):
    """struct LayerWeights."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("wq", "wk", "wv", "wo", "w1", "w2", "w3"))


class Report(ctypes.Structure):
    """struct KernelReport."""

    _fields_ = (
        ("kernel", ctypes.c_char_p),
        ("on_device", ctypes.c_bool),
        ("error", ctypes.c_double),
        ("problem", ctypes.c_char * 512),
    )


def c_device() -> ctypes.CDLL:
    """The device with the executor that fails on demand."""
    sources = [*(ANE / f"{name}.c" for name in FILES), HERE / "failing_executor.c"]
    c = ctypes.CDLL(str(build(sources, ["-fPIC", "-shared"])))
    c.pool_new.restype = ctypes.c_void_p
    c.sim_executor.restype = c.failing_executor.restype = Executor
    c.sim_executor.argtypes, c.failing_executor.argtypes = (ctypes.c_void_p,), (Executor,)
    c.cpu_kernels.restype, c.cpu_kernels.argtypes = Kernels, (ctypes.POINTER(Shape), ctypes.c_void_p)
    c.device_kernels.restype = ctypes.c_bool
    c.device_kernels.argtypes = (
        ctypes.POINTER(Kernels), Executor, Kernels, ctypes.POINTER(Shape), ctypes.c_void_p, ctypes.c_bool,
        ctypes.c_void_p, ctypes.POINTER(Problem),
    )  # fmt: skip
    return c


def compute(kernels: Kernels, name: str, shape: Shape, layer: int, values: list[np.ndarray]) -> list[np.ndarray]:
    """What a kernel makes of the values; each with something else in it before."""
    rows = {"D": shape.dim, "F": shape.hidden}
    results = [np.full((rows[one], shape.seq), 7, np.float32) for one in CALLS[name][1]]
    arguments = [pointer(array) for array in (*values, *results)]
    numbers = [] if name == "sdpa_back" else [layer]
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int] * len(numbers), *[ctypes.c_void_p] * len(arguments))
    kind(getattr(kernels, name))(kernels.self, *numbers, *arguments)
    return results


def inputs(name: str, shape: Shape, seed: int = 1) -> list[np.ndarray]:
    rng, rows = np.random.default_rng(seed), {"D": shape.dim, "F": shape.hidden}
    return [rng.normal(0, 1, (rows[one], shape.seq)).astype(np.float32) for one in CALLS[name][0]]


class Device:
    """Device kernels on the simulator, with cpu kernels that know the same weights."""

    def __init__(self, shape: Shape, faults: Sequence[tuple] = (), threads: int = 1, strict: bool = False) -> None:
        self.c, self.shape = c_device(), shape
        self.pool = self.c.pool_new(threads)
        self.seconds = np.zeros(10)
        self.kernels, problem = Kernels(), Problem()
        executor = self.c.failing_executor(self.c.sim_executor(self.pool))
        for kind, kernel, first, count in faults:
            self.c.failing_fault(kind.encode(), kernel.encode(), first, count)
        self.cpu, given = (self.c.cpu_kernels(ctypes.byref(shape), self.pool) for _ in range(2))
        self.fine = self.c.device_kernels(
            ctypes.byref(self.kernels), executor, given, ctypes.byref(shape), self.pool, strict, pointer(self.seconds),
            ctypes.byref(problem),
        )  # fmt: skip
        self.problem, self.given = problem.text.decode(), given
        self.weights: list[list[np.ndarray]] = []

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: object) -> None:
        """Closes what is left."""
        for kernels in (self.kernels if self.fine else self.given, self.cpu):
            ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernels.close)(kernels.self)
        self.c.pool_free(ctypes.c_void_p(self.pool))

    def stage(self, seed: int = 1) -> None:
        """Random weights for every layer."""
        rng, dim, hidden = np.random.default_rng(seed), self.shape.dim, self.shape.hidden
        for layer in range(self.shape.layers):
            sizes = [(dim, dim)] * 4 + [(hidden, dim), (dim, hidden), (hidden, dim)]
            self.weights.append([rng.normal(0, size[1] ** -0.5, size).astype(np.float32) for size in sizes])
            pointers = Weights(*(pointer(array) for array in self.weights[-1]))
            for kernels in (self.kernels, self.cpu):
                ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(kernels.stage)(
                    kernels.self, layer, ctypes.byref(pointers)
                )

    def both(self, name: str, layer: int, seed: int = 1) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The results of device and cpu kernels."""
        values = inputs(name, self.shape, seed)
        return tuple(compute(kernels, name, self.shape, layer, values) for kernels in (self.kernels, self.cpu))  # type: ignore[return-value]

    def reports(self) -> dict[str, Report]:
        rows = (Report * 8)()
        assert self.c.device_reports(ctypes.byref(self.kernels), rows, 8) == 8
        return {row.kernel.decode(): row for row in rows}

    def live(self) -> int:
        return self.c.failing_live()


def is_near(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return all(
        np.abs(one - other).max() <= BOUND * np.abs(other).max() for one, other in zip(found, expected, strict=True)
    )


def equal(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return all(one.tobytes() == other.tobytes() for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", ["small", "middle", "rope"])
def test_every_kernel_passes_the_test_at_the_start(shape: str) -> None:
    with Device(SHAPES[shape], strict=True) as device:
        assert device.fine, device.problem
        assert device.kernels.name is not None
        reports = device.reports()
        assert tuple(reports) == PROGRAMS
        for report in reports.values():
            assert report.on_device
            assert 0 < report.error <= BOUND
            assert report.problem == b""
        assert (device.seconds == 0).all()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shape", ["small", "middle", "rope"])
def test_kernels_give_what_the_cpu_gives_with_the_weights_staged_last(shape: str, name: str) -> None:
    with Device(SHAPES[shape], strict=True, threads=2) as device:
        device.stage(1)
        device.stage(2)
        for layer in (0, device.shape.layers - 1, 0):
            found, expected = device.both(name, layer, seed=layer)
            assert is_near(found, expected)
            assert not equal(found, expected)
        assert device.seconds[PHASE_IO] > 0


@pytest.mark.parametrize("name", CALLS)
def test_nan_and_infinity_pass_through(name: str) -> None:
    with Device(SHAPES["small"], strict=True) as device:
        device.stage()
        values = inputs(name, device.shape)
        values[0][3, 5] = np.nan
        values[-1][4, 6] = np.inf
        for result in compute(device.kernels, name, device.shape, 1, values)[:1]:
            assert not np.isfinite(result).all()
        # And are gone with the next values.
        assert is_near(*device.both(name, 1))


class Training:
    """The model with cpu kernels, or with device kernels on the simulator; the same weights at the start."""

    def __init__(self, config: Config, moments: int, simulated: bool) -> None:
        self.model = CModel(config, moments=moments)
        self.device = Device(config.shape(), strict=True) if simulated else None
        if self.device is not None:
            c, numbers = self.model.c, (config.softcap, config.max_act, config.loss_scale)
            c.model_free(self.model.model)
            self.model.model = c.model_new(
                self.model.parameters, self.device.kernels, self.model.pool, *numbers, pointer(self.model.seconds)
            )
            c.model_stage(self.model.model)

    def __enter__(self) -> CModel:
        return self.model

    def __exit__(self, *error: object) -> None:
        self.model.__exit__()
        if self.device is not None:
            self.device.__exit__()


@pytest.mark.parametrize("moments", [ADAMW, LION], ids=["adamw", "lion"])
@pytest.mark.parametrize("rope", [False, True], ids=["plain", "rope"])
def test_five_steps_of_training_are_those_of_the_cpu(moments: int, rope: bool) -> None:
    config = Config(128, 384, 4, 128, 2, 512, rope=rope, loss_scale=1024.0)
    usual = settings(lion=moments == LION, loss_scale=1024.0, warmup_steps=0, learning_rate=3e-3)
    losses: dict[bool, list[float]] = {False: [], True: []}
    gradients: dict[bool, dict[str, np.ndarray]] = {}
    for simulated, history in losses.items():
        with Training(config, moments, simulated) as model:
            for step in range(5):
                history.append(model.train(*window(config, 0)))
                if step == 0:
                    gradients[simulated] = {name: array.copy() for name, array in model.arrays("gradient").items()}
                assert not model.update(usual, step).skipped
                model.c.model_stage(model.model)
    assert losses[True] != losses[False]
    assert losses[False][-1] < losses[False][0] - 1
    # Measured: 0.0006 at most for losses, 0.002 for gradients.
    np.testing.assert_allclose(losses[True], losses[False], rtol=0, atol=2e-3)
    for name, expected in gradients[False].items():
        assert np.linalg.norm(gradients[True][name] - expected) <= 0.005 * np.linalg.norm(expected), name


def test_gradients_that_are_not_scaled_are_lost_on_the_way() -> None:
    config = Config(128, 384, 4, 128, 2, 512, loss_scale=2.0**-6)
    with Training(config, LION, False) as cpu, Training(config, LION, True) as sim:
        for model in (cpu, sim):
            model.train(*window(config, 0))
        expected, found = cpu.arrays("gradient"), sim.arrays("gradient")
        for name in ("layer0.wq", "layer0.w1", "layer1.w3"):
            assert np.abs(expected[name]).max() > 0
            assert (found[name] == 0).all()


# Falling back.


def notices(text: str) -> list[str]:
    """Of standard error: the kernels named, in order."""
    lines = text.splitlines()
    assert all(line.startswith("notice: failing: ") and " runs on the CPU: " in line for line in lines)
    return [line.split()[2] for line in lines]


def off(program: str) -> set[str]:
    """Where a program fails, these are done by the cpu."""
    return PAIR if program in PAIR else {program}


# Both dialects fail: what is said of it.
STARTS = {
    "load": "no load of 1.3; as text for M1 and M2: no load of 1.0",
    "bind": "no binding",
    "run": "no run",
    "zeros": "is off by",
    "row": "is off by",
    "shift": "is off by",
    "nan": "is off by nan",
}


@pytest.mark.parametrize("fault", STARTS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_kernel_that_fails_at_the_start_is_done_by_the_cpu(
    program: str, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with Device(SHAPES["small"], [(fault, program, 1, 2)]) as device:
        assert device.fine
        assert set(notices(capfd.readouterr().err)) == off(program)
        reports = device.reports()
        assert {name for name, report in reports.items() if not report.on_device} == off(program)
        assert STARTS[fault] in reports[program].problem.decode()
        assert math.isnan(reports[program].error) == (fault in ("load", "bind", "run", "nan"))
        device.stage()
        for name in CALLS:
            found, expected = device.both(name, 1)
            assert equal(found, expected) == (name == KERNEL_OF[program])
            assert is_near(found, expected)
    assert device.live() == 1000
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_older_dialect_is_tried_when_the_newer_one_fails(program: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Device(SHAPES["small"], [("load", program, 1, 1)], strict=True) as device:
        assert device.fine
        assert all(report.on_device for report in device.reports().values())
        device.stage()
        assert is_near(*device.both(KERNEL_OF[program], 1))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_run_that_fails_later_is_not_lost(program: str, capfd: pytest.CaptureFixture[str]) -> None:
    name = KERNEL_OF[program]
    with Device(SHAPES["small"], [("run", program, 3, 1)]) as device:  # the first one is the test at the start
        device.stage()
        assert not equal(*device.both(name, 0))
        assert capfd.readouterr().err == ""
        assert equal(*device.both(name, 0))
        assert set(notices(capfd.readouterr().err)) == off(program)
        assert b"no run" in device.reports()[program].problem
        device.stage(2)
        assert equal(*device.both(name, 1, seed=3))
        for other in CALLS:
            assert is_near(*device.both(other, 1))
        assert capfd.readouterr().err == ""
    assert device.live() == 1000


# At the start there are 2 locks for each of 8 programs, 6 for weights, and 2 for handing over; then, for two layers, 12
# for weights, 14 for the kernels, and 3 more for the pair.
LATER = range(25, 25 + 12 + 14 + 3)


def lose_a_surface(kind: str, number: int, capfd: pytest.CaptureFixture[str]) -> None:
    with Device(SHAPES["small"], [(kind, "", number, 1)]) as device:
        assert all(report.on_device for report in device.reports().values())
        device.stage()
        for name in CALLS:
            assert is_near(*device.both(name, 1))
        off_device = [name for name, report in device.reports().items() if not report.on_device]
        found = notices(capfd.readouterr().err)
        assert sorted(found) == sorted(off_device)
        assert len(found) == 1 or set(found) == PAIR
    assert device.live() == 1000


@pytest.mark.parametrize("number", [LATER[0], LATER[20], LATER[-1]], ids=["weights", "values", "last"])
@pytest.mark.parametrize("kind", ["lock", "unlock"])
def test_a_surface_that_fails_later_loses_nothing(kind: str, number: int, capfd: pytest.CaptureFixture[str]) -> None:
    lose_a_surface(kind, number, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lock", "unlock"])
def test_any_surface_that_fails_later_loses_nothing(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    for number in LATER:
        lose_a_surface(kind, number, capfd)


@pytest.mark.parametrize("kind", ["load", "surface", "bind", "run", "lock", "unlock", "zeros"])
def test_an_executor_that_always_fails_leaves_everything_to_the_cpu(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with Device(SHAPES["small"], [(kind, "", 1, 1 << 20)]) as device:
        assert device.fine
        assert notices(capfd.readouterr().err) == list(PROGRAMS)
        device.stage()
        for name in CALLS:
            assert equal(*device.both(name, 1))
    assert device.live() == 1000


@pytest.mark.parametrize("program", PROGRAMS)
def test_strict_is_a_sentence_instead(program: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Device(SHAPES["small"], [("run", program, 1, 2)], strict=True) as device:
        assert not device.fine
        assert device.problem == f"{program}: no run"
        assert device.live() == 1000  # the executor is closed, with nothing left
        device.kernels = device.given  # the cpu is the caller's still
        device.stage()
        assert equal(*device.both(KERNEL_OF[program], 0))
    assert capfd.readouterr().err == ""


def test_a_shape_that_the_hardware_cannot_do_is_a_sentence() -> None:
    shape = Shape(64, 192, 2, 64, 2, 512, False)
    with Device(shape, strict=True) as device:
        assert not device.fine
        assert "packed has 64 channels, fewer than 128 fail when the program runs" in device.problem
