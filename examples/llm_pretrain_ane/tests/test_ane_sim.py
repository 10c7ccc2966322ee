"""The simulator: programs against NumPy, halves between all operations, and what an executor promises of surfaces."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest
from ane_build import Problem
from ane_kernels import reference, sensible, sigmoid
from ane_programs import PROGRAMS, SHAPES, Simulator, Text, generate, load, pack, pieces, size, unpack
from ane_texts import const, halves, ints, let, program

# Of the largest number of a piece; measured: 0.0012 at most.
BOUND = 2e-3
SMALLEST = 2.0**-14  # of the halves that are not subnormal
PLAIN = halves(1, 128, 1, 32)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    made = Simulator(load())
    yield made
    made.close()


def check(simulator: Simulator, name: str, shape_name: str, dialect: str) -> None:
    shape, made = SHAPES[shape_name], simulator.made
    values = sensible(name, shape, pieces(made, name, "input", shape))
    outputs = int(np.prod(size(made, name, "output", shape)))
    packed = pack(made, name, shape, values)
    found = unpack(made, name, shape, simulator.run(generate(made, name, shape, dialect), packed, outputs))
    expected = reference(name, shape, values)
    assert found.keys() == expected.keys()
    for piece, wanted in expected.items():
        assert np.abs(found[piece] - wanted).max() <= BOUND * np.abs(wanted).max(), piece


@pytest.mark.parametrize("shape", ["small", "middle", "rope"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_program_gives_what_numpy_gives(simulator: Simulator, name: str, shape: str) -> None:
    check(simulator, name, shape, "m3")
    assert simulator.made.sim_overflows(ctypes.byref(simulator.executor)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_program_at_full_size_gives_what_numpy_gives(simulator: Simulator, name: str) -> None:
    check(simulator, name, "full", "m1")


def bits(simulator: Simulator, name: str, dialect: str = "m3") -> bytes:
    """Of the output, with rope."""
    shape, made = SHAPES["rope"], simulator.made
    packed = pack(made, name, shape, sensible(name, shape, pieces(made, name, "input", shape)))
    outputs = int(np.prod(size(made, name, "output", shape)))
    return simulator.run(generate(made, name, shape, dialect), packed, outputs).tobytes()


@pytest.mark.parametrize("name", PROGRAMS)
def test_older_dialect_gives_the_same_bits(simulator: Simulator, name: str) -> None:
    assert bits(simulator, name, "m1") == bits(simulator, name, "m3")


def test_more_threads_agree_to_rounding(simulator: Simulator) -> None:
    three = Simulator(simulator.made, 3)
    one, more = (np.frombuffer(bits(which, "sdpaWoFwd"), np.float16).astype(float) for which in (simulator, three))
    three.close()
    assert np.abs(one - more).max() <= BOUND * np.abs(one).max()


# One operation at a time.


def numbers(*shape: int, seed: int = 1, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float16)


def flushed(values: np.ndarray) -> np.ndarray:
    """Halves of the numbers, subnormal ones zero with their sign."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    return np.where(np.abs(rounded) < SMALLEST, np.copysign(np.float16(0), rounded), rounded)


def overflows(simulator: Simulator) -> int:
    return simulator.made.sim_overflows(ctypes.byref(simulator.executor))


def two_parts(call: str, kind: str = PLAIN) -> Text:
    """Of the input's 64 columns, 32 are `left` and 32 `right`."""
    statements = [
        ints("start", [0, 0, 0, 0]),
        ints("middle", [0, 0, 0, 32]),
        ints("part", [1, 128, 1, 32]),
        let(PLAIN, "left", "slice_by_size(x = packed, begin = start, size = part)"),
        let(PLAIN, "right", "slice_by_size(x = packed, begin = middle, size = part)"),
        let(kind, "made", call),
    ]
    return program(f"{halves(1, 128, 1, 64)} packed", statements, "made")


@pytest.mark.parametrize("operation", ["mul", "add", "sub"])
def test_pairs_are_rounded_once_and_flushed(simulator: Simulator, operation: str) -> None:
    surface = numbers(128, 64, scale=0.01)
    surface[0, :4] = [1e-5, -1e-5, np.inf, np.nan]
    surface[1, 32:36] = [6e-5, 1e-7, np.nan, -np.inf]
    left, right = (flushed(part).astype(np.float32) for part in (surface[:, :32], surface[:, 32:]))
    expected = flushed({"mul": np.multiply, "add": np.add, "sub": np.subtract}[operation](left, right))
    found = simulator.run(two_parts(f"{operation}(x = left, y = right)"), surface, 128 * 32).reshape(128, 32)
    np.testing.assert_array_equal(found, expected)
    if operation == "mul":
        assert (expected == 0).mean() > 0.3
    assert overflows(simulator) == 0


def test_every_intermediate_result_is_a_half(simulator: Simulator) -> None:
    flat, square, third = halves(1, 1, 128, 32), halves(1, 1, 128, 128), float(np.float16(1 / 3))
    statements = [
        let(PLAIN, "power", "mul(x = packed, y = packed)"),
        ints("flat", [1, 1, 128, 32]),
        let(flat, "rows", "reshape(shape = flat, x = power)"),
        const("bool", "no", False),
        const("bool", "yes", True),
        let(square, "products", "matmul(transpose_x = no, transpose_y = yes, x = rows, y = rows)"),
        const("fp16", "third", third),
        let(square, "part", "mul(x = products, y = third)"),
        let(square, "rest", "sub(x = products, y = part)"),
        ints("back", [1, 128, 1, 128]),
        let(halves(1, 128, 1, 128), "made", "reshape(shape = back, x = rest)"),
    ]
    surface = numbers(128, 32)
    text = program(f"{PLAIN} packed", statements, "made")
    found = simulator.run(text, surface, 128 * 128).reshape(128, 128)

    def made(rounded: list[bool]) -> np.ndarray:
        """With each intermediate result a half or not."""
        powers, products, parts = ((lambda v: flushed(v).astype(float)) if each else np.asarray for each in rounded)
        power = powers(surface.astype(float) ** 2)
        product = products(power @ power.T)
        return flushed(product - parts(product * third))

    # The simulator's sums are of floats, and may round the other way once in a while.
    assert (found == made([True, True, True])).mean() > 0.99
    for i in range(3):
        assert (found == made([j != i for j in range(3)])).mean() < 0.9


def test_a_scalar_constant_is_read_as_it_is_written(simulator: Simulator) -> None:
    statements = [const("fp16", "factor", "-0x1.8p-1"), let(PLAIN, "made", "mul(x = factor, y = packed)")]
    surface = numbers(128, 32)
    found = simulator.run(program(f"{PLAIN} packed", statements, "made"), surface, surface.size)
    np.testing.assert_array_equal(found, flushed(surface.astype(np.float32) * np.float32(-0.75)).ravel())


def test_overflows_are_counted_and_infinite(simulator: Simulator) -> None:
    surface = np.zeros((128, 64), np.float16)
    surface[:3, 0] = surface[:3, 32] = [300, -300, 200]
    surface[3, 0], surface[3, 32] = np.inf, 2
    surface[4, 0], surface[4, 32] = 60000, -2
    found = simulator.run(two_parts("mul(x = left, y = right)"), surface, 128 * 32).reshape(128, 32)
    assert found[:5, 0].tolist() == [np.inf, np.inf, 40000, np.inf, -np.inf]
    assert overflows(simulator) == 3  # an infinite operand is no new overflow


def test_scores_below_the_mask_are_no_overflow(simulator: Simulator) -> None:
    statements = [
        const("fp16", "low", -65504),
        let(PLAIN, "masked", "add(x = packed, y = low)"),
        const("int32", "axis", -1),
        let(PLAIN, "made", "softmax(axis = axis, x = masked)"),
    ]
    surface = np.full((128, 32), -1000, np.float16)
    surface[:, 5] = 60000
    found = simulator.run(program(f"{PLAIN} packed", statements, "made"), surface, surface.size).reshape(128, 32)
    assert (found[:, 5] == 1).all()
    assert found.sum() == 128
    assert overflows(simulator) == 0


def test_sigmoid_of_all_halves(simulator: Simulator) -> None:
    kind = halves(1, 4096, 1, 16)
    surface = np.arange(65536, dtype=np.uint16).view(np.float16)
    found = simulator.run(program(f"{kind} packed", [let(kind, "made", "sigmoid(x = packed)")], "made"), surface, 65536)
    given = ~np.isnan(surface)
    assert (np.isnan(found) == ~given).all()
    with np.errstate(over="ignore"):
        expected = flushed(sigmoid(surface[given].astype(np.float64)))
    # Float is good to a few units, so a result half way between two halves may become either.
    distance = np.abs(found[given].view(np.int16).astype(int) - expected.view(np.int16).astype(int))
    at_zero = (expected == 0) | (expected == SMALLEST)
    assert distance[~at_zero].max() <= 1
    assert (distance > 0).mean() < 0.001


def test_softmax_and_sums_along_the_last_axis(simulator: Simulator) -> None:
    statements = [
        const("int32", "axis", 3),
        let(PLAIN, "p", "softmax(axis = axis, x = packed)"),
        ints("axes", [-1]),
        const("bool", "keep", True),
        let(halves(1, 128, 1, 1), "total", "reduce_sum(x = packed, axes = axes, keep_dims = keep)"),
        ints("wide", [1, 1, 128, 1]),
        let(halves(1, 1, 128, 1), "tall", "reshape(shape = wide, x = total)"),
        ints("rows", [1, 1, 128, 32]),
        let(halves(1, 1, 128, 32), "flat", "reshape(shape = rows, x = p)"),
        let(halves(1, 1, 128, 32), "both", "sub(x = flat, y = tall)"),
        ints("back", [1, 128, 1, 32]),
        let(PLAIN, "made", "reshape(shape = back, x = both)"),
    ]
    surface = numbers(128, 32)
    surface[0, 0] = np.nan
    values = surface.astype(np.float64)
    p = np.exp(values - values.max(-1, keepdims=True))
    p = flushed(p / p.sum(-1, keepdims=True)).astype(float)
    expected = p - flushed(values.sum(-1, keepdims=True)).astype(float)
    found = simulator.run(program(f"{PLAIN} packed", statements, "made"), surface, surface.size).reshape(128, 32)
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1:], expected[1:], rtol=0, atol=2.0**-7)


@pytest.mark.parametrize("left", [False, True], ids=["left", "left_transposed"])
@pytest.mark.parametrize("right", [False, True], ids=["right", "right_transposed"])
@pytest.mark.parametrize("heads", [1, 4])
def test_products_with_all_transpositions(simulator: Simulator, left: bool, right: bool, heads: int) -> None:
    m, k, n = 64, 32, 96
    a, b = numbers(heads, m, k, seed=1), numbers(heads, k, n, seed=2)
    stored = [a.transpose(0, 2, 1) if left else a, b.transpose(0, 2, 1) if right else b]
    cut = heads * m * k
    statements = [
        ints("all", [1, 1, 1, cut + heads * k * n]),
        let(halves(1, 1, 1, cut + heads * k * n), "line", "reshape(shape = all, x = packed)"),
    ]
    for name, begin, part in (("first", 0, stored[0]), ("second", cut, stored[1])):
        statements += [
            ints(f"{name}_begin", [0, 0, 0, begin]),
            ints(f"{name}_size", [1, 1, 1, part.size]),
            let(
                halves(1, 1, 1, part.size),
                f"{name}_line",
                f"slice_by_size(x = line, begin = {name}_begin, size = {name}_size)",
            ),
            ints(f"{name}_shape", [1, *part.shape]),
            let(halves(1, *part.shape), name, f"reshape(shape = {name}_shape, x = {name}_line)"),
        ]
    statements += [
        const("bool", "on", True),
        const("bool", "off", False),
        let(
            halves(1, heads, m, n),
            "product",
            f"matmul(transpose_x = {'on' if left else 'off'}, transpose_y = {'on' if right else 'off'}, "
            "x = first, y = second)",
        ),
        ints("surface", [1, heads * m * n // 48, 1, 48]),
        let(halves(1, heads * m * n // 48, 1, 48), "made", "reshape(shape = surface, x = product)"),
    ]
    packed = np.concatenate([part.ravel() for part in stored])
    packed = packed.reshape(-1, 32)
    text = program(f"{halves(1, packed.shape[0], 1, 32)} packed", statements, "made")
    found = simulator.run(text, packed, heads * m * n).reshape(heads, m, n).astype(float)
    expected = a.astype(float) @ b.astype(float)
    assert np.abs(found - expected).max() <= 2.0**-11 * np.abs(expected).max()


def test_moving_numbers_leaves_them_as_they_are(simulator: Simulator) -> None:
    statements = [
        ints("perm", [2, 3, 0, 1]),
        let(halves(1, 96, 1, 160), "flipped", "transpose(perm = perm, x = packed)"),
        ints("other", [0, 3, 2, 1]),
        let(halves(1, 160, 1, 96), "same", "transpose(perm = other, x = flipped)"),
        ints("begin", [0, 32, 0, 0]),
        ints("low", [1, 100, 1, 96]),
        let(halves(1, 100, 1, 96), "lower", "slice_by_size(begin = begin, size = low, x = same)"),
        ints("swap", [0, 1, 3, 2]),
        let(halves(1, 160, 96, 1), "upright", "transpose(perm = swap, x = same)"),
        ints("inner", [0, 5, 7, 0]),
        ints("box", [1, 60, 48, 1]),
        let(halves(1, 60, 48, 1), "boxed", "slice_by_size(begin = inner, size = box, x = upright)"),
        ints("lying", [1, 30, 1, 96]),
        let(halves(1, 30, 1, 96), "level", "reshape(shape = lying, x = boxed)"),
        const("int32", "axis", -3),
        const("bool", "no", False),
        let(halves(1, 130, 1, 96), "made", "concat(values = (level, lower), axis = axis, interleave = no)"),
    ]
    surface = numbers(160, 96)
    expected = np.concatenate([surface[5:65, 7:55].reshape(30, 96), surface[32:132]])
    text = program(f"{halves(1, 160, 1, 96)} packed", statements, "made")
    found = simulator.run(text, surface, expected.size).reshape(expected.shape)
    np.testing.assert_array_equal(found, expected)


def test_constant_tensors_may_be_moved_and_added(simulator: Simulator) -> None:
    table = numbers(4, 32)
    blob = ctypes.create_string_buffer(128 + table.nbytes)
    simulator.made.blob_write(blob, ctypes.c_void_p(table.ctypes.data), ctypes.c_size_t(table.size))
    place = 'BLOBFILE(path = string("@model_path/weights/table.bin"), offset = uint64(64))'
    statements = [
        const(halves(1, 1, 4, 32), "table", place),
        ints("flat", [1, 4, 1, 32]),
        let(halves(1, 4, 1, 32), "rows", "reshape(shape = flat, x = table)"),
        ints("begin", [0, 2, 0, 0]),
        ints("one", [1, 1, 1, 32]),
        let(halves(1, 1, 1, 32), "row", "slice_by_size(x = rows, begin = begin, size = one)"),
        let(PLAIN, "made", "add(x = packed, y = row)"),
    ]
    surface = numbers(128, 32, seed=2)
    text = program(f"{PLAIN} packed", statements, "made", {"weights/table.bin": blob.raw})
    found = simulator.run(text, surface, surface.size).reshape(surface.shape)
    np.testing.assert_array_equal(found, flushed(surface.astype(np.float32) + table[2].astype(np.float32)))


# Surfaces and programs.


def test_surfaces_are_as_large_as_the_hardware_needs(simulator: Simulator) -> None:
    problem, executor = Problem(), simulator.executor
    surface = executor.surface(executor.self, 1, problem)
    at = executor.lock(executor.self, surface, True, problem)
    assert ctypes.string_at(at, 65536) == bytes(65536)
    ctypes.memset(at, 1, 65536)
    executor.release(executor.self, surface)


def test_a_lock_is_held_once_and_given_back_as_it_was_taken(simulator: Simulator) -> None:
    problem, executor = Problem(), simulator.executor
    surface = executor.surface(executor.self, 65536, problem)
    assert not executor.unlock(executor.self, surface, True, problem)
    assert problem.text == b"the surface is not locked for writing"
    assert executor.lock(executor.self, surface, False, problem)
    assert not executor.lock(executor.self, surface, False, problem)
    assert problem.text == b"the surface is locked already"
    assert not executor.unlock(executor.self, surface, True, problem)
    assert executor.unlock(executor.self, surface, False, problem)
    assert executor.lock(executor.self, surface, True, problem)
    executor.release(executor.self, surface)


@pytest.mark.parametrize("which", [0, 1], ids=["input", "output"])
def test_a_program_does_not_run_on_a_locked_surface(simulator: Simulator, which: int) -> None:
    problem, executor = Problem(), simulator.executor
    loaded = simulator.load(generate(simulator.made, "wotBwd", SHAPES["small"]), "wotBwd")
    surfaces = [executor.surface(executor.self, 1 << 20, problem) for _ in range(2)]
    binding = executor.bind(executor.self, loaded, *surfaces, problem)
    assert executor.lock(executor.self, surfaces[which], False, problem)
    assert not executor.run(executor.self, binding, problem)
    assert problem.text == b"wotBwd: a surface is locked while the program runs"
    assert executor.unlock(executor.self, surfaces[which], False, problem)
    assert executor.run(executor.self, binding, problem)
    executor.unbind(executor.self, binding)
    executor.unload(executor.self, loaded)
    for surface in surfaces:
        executor.release(executor.self, surface)


@pytest.mark.parametrize("which", [0, 1], ids=["input", "output"])
def test_a_surface_smaller_than_the_tensor_is_refused(simulator: Simulator, which: int) -> None:
    problem, executor = Problem(), simulator.executor
    loaded = simulator.load(generate(simulator.made, "wotBwd", SHAPES["middle"]), "wotBwd")
    surfaces = [executor.surface(executor.self, 65536 if i == which else 1 << 20, problem) for i in range(2)]
    assert not executor.bind(executor.self, loaded, *surfaces, problem)
    assert problem.text == b"wotBwd: a surface is smaller than the program's tensor"
    executor.unload(executor.self, loaded)
    for surface in surfaces:
        executor.release(executor.self, surface)


def test_the_hundred_and_first_program_is_refused(simulator: Simulator) -> None:
    text = program(f"{PLAIN} packed", [let(PLAIN, "made", "sigmoid(x = packed)")], "made")
    for _ in range(100):
        simulator.executor.unload(simulator.executor.self, simulator.load(text))
    with pytest.raises(ValueError, match="more than 100 programs in one process fail without a word"):
        simulator.load(text)
