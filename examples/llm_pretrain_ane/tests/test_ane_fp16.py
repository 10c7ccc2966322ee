"""fp16.c against numpy, all halves and all places where rounding changes."""

import ctypes

import numpy as np
import pytest
from ane_build import ANE, build, pointer

HALVES = np.arange(65536, dtype=np.uint16)
FLOATS = HALVES.view(np.float16).astype(np.float32)


@pytest.fixture(scope="module", params=["fast", "portable"])
def fp16(request: pytest.FixtureRequest) -> ctypes.CDLL:
    flags = ["-DANE_PORTABLE"] if request.param == "portable" else []
    lib = ctypes.CDLL(str(build([ANE / "fp16.c"], ["-fPIC", "-shared", *flags])))
    lib.half_of.argtypes, lib.half_of.restype = [ctypes.c_float], ctypes.c_uint16
    lib.float_of.argtypes, lib.float_of.restype = [ctypes.c_uint16], ctypes.c_float
    for name, arguments in {"halves_of": 2, "floats_of": 2, "round_to_half": 1}.items():
        getattr(lib, name).argtypes = [ctypes.c_void_p] * arguments + [ctypes.c_size_t]
    return lib


def floats_to_try() -> np.ndarray:
    """Every half, every middle of two neighbours, what is next to either, float subnormals, random bits; both signs."""
    exact = HALVES[:31745].view(np.float16).astype(np.float64)  # 0 .. infinity
    exact[-1] = 65536  # what would be next
    middles = ((exact[:-1] + exact[1:]) / 2).astype(np.float32)
    near = np.concatenate([exact.astype(np.float32), middles])
    near = np.concatenate([near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))])
    odd = np.array([np.inf, 1e-45, 1e-40, 1e-38, 3.4e38, 65504, 65519.996, 65520], np.float32)
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    positive = np.concatenate([near, odd, bits])
    return np.concatenate([positive, -positive])


def test_every_half_becomes_its_float_and_comes_back(fp16: ctypes.CDLL) -> None:
    floats, back = np.empty(65536, np.float32), np.empty(65536, np.uint16)
    fp16.floats_of(pointer(floats), pointer(HALVES), 65536)
    nan = np.isnan(HALVES.view(np.float16))
    assert np.array_equal(
        floats.view(np.uint32)[~nan], HALVES.view(np.float16).astype(np.float32).view(np.uint32)[~nan]
    )
    assert np.isnan(floats[nan]).all()
    fp16.halves_of(pointer(back), pointer(floats), 65536)
    assert np.array_equal(back[~nan], HALVES[~nan])
    assert np.isnan(back.view(np.float16)[nan]).all()


def test_one_by_one_is_as_in_bulk(fp16: ctypes.CDLL) -> None:
    floats = np.array([fp16.float_of(half) for half in range(65536)], np.float32)
    nan = np.isnan(floats)
    assert np.array_equal(nan, np.isnan(HALVES.view(np.float16)))
    assert np.array_equal(
        floats.view(np.uint32)[~nan], HALVES.view(np.float16).astype(np.float32).view(np.uint32)[~nan]
    )
    values = floats_to_try()[::37]
    with np.errstate(over="ignore"):
        want = values.astype(np.float16)
    found = np.array([fp16.half_of(value) for value in values], np.uint16)
    nan = np.isnan(values)
    assert np.array_equal(found[~nan], want.view(np.uint16)[~nan])
    assert np.isnan(found.view(np.float16)[nan]).all()


def test_rounding_is_to_nearest_even_everywhere(fp16: ctypes.CDLL) -> None:
    values = floats_to_try()
    nan = np.isnan(values)
    assert nan.any()
    with np.errstate(over="ignore"):
        want = values.astype(np.float16)
    found = np.empty(len(values), np.uint16)
    fp16.halves_of(pointer(found), pointer(values), len(values))
    assert np.array_equal(found[~nan], want.view(np.uint16)[~nan])
    assert np.isnan(found.view(np.float16)[nan]).all()
    fp16.round_to_half(pointer(values), len(values))
    assert np.array_equal(values[~nan].view(np.uint32), want[~nan].astype(np.float32).view(np.uint32))
    assert np.isnan(values[nan]).all()


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7, 8, 9, 17])
def test_nothing_beyond_count_is_touched(fp16: ctypes.CDLL, count: int) -> None:
    values = np.full(32, 1.0001, np.float32)
    halves = np.full(33, 7, np.uint16)
    fp16.halves_of(pointer(halves[1:]), pointer(values), count)  # also not aligned
    assert list(halves) == [7] + [0x3C00] * count + [7] * (32 - count)
    fp16.round_to_half(pointer(values), count)
    assert list(values) == [1.0] * count + [np.float32(1.0001)] * (32 - count)
    values[:] = 5
    fp16.floats_of(pointer(values), pointer(halves[1:]), count)
    assert list(values) == [1.0] * count + [5.0] * (32 - count)
