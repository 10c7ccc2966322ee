"""base.c: checked memory, sentences, CRC-32 and xoshiro256++."""

import ctypes
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ane_build import Problem, shared_object

WORD = 2**64 - 1


class Random(ctypes.Structure):
    """struct Random."""

    _fields_ = (("state", ctypes.c_uint64 * 4),)


@pytest.fixture(scope="module")
def base() -> ctypes.CDLL:
    lib = shared_object("base.c")
    lib.checksum.argtypes = [ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t]
    lib.checksum.restype = ctypes.c_uint32
    lib.need.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
    lib.need.restype = ctypes.c_void_p
    lib.seconds.restype = ctypes.c_double
    lib.random_seed.argtypes = [ctypes.POINTER(Random), ctypes.c_uint64]
    lib.random_next.restype = ctypes.c_uint64
    lib.random_uniform.restype = ctypes.c_double
    lib.random_below.argtypes = [ctypes.POINTER(Random), ctypes.c_uint64]
    lib.random_below.restype = ctypes.c_uint64
    return lib


def test_checksum_is_that_of_zlib_however_the_bytes_are_cut(base: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    for count in [*range(40), 1000, 4097]:
        data = rng.bytes(count)
        assert base.checksum(0, data, count) == zlib.crc32(data)
        cut = int(rng.integers(count + 1))
        assert base.checksum(base.checksum(0, data, cut), data[cut:], count - cut) == zlib.crc32(data)


def test_the_first_checksums_may_be_by_several_threads() -> None:
    lib = shared_object("base.c", "fp16.c")  # a build of its own, whose table is not made yet
    lib.checksum.restype = ctypes.c_uint32
    data = np.random.default_rng(1).bytes(100_000)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: lib.checksum(0, data, ctypes.c_size_t(len(data))), range(16)))
    assert set(found) == {zlib.crc32(data)}


def splitmix(seed: int) -> list[int]:
    """Four words of splitmix64."""
    words = []
    for _ in range(4):
        seed = (seed + 0x9E3779B97F4A7C15) & WORD
        word = ((seed ^ seed >> 30) * 0xBF58476D1CE4E5B9) & WORD
        word = ((word ^ word >> 27) * 0x94D049BB133111EB) & WORD
        words.append(word ^ word >> 31)
    return words


def xoshiro(state: list[int]) -> int:
    """The next word of xoshiro256++; changes the state."""

    def rotated(word: int, by: int) -> int:
        return (word << by | word >> (64 - by)) & WORD

    a, b, c, d = state
    c, d = c ^ a, d ^ b
    state[:] = a ^ d, b ^ c, c ^ b << 17 & WORD, rotated(d, 45)
    return (rotated((a + (d ^ b)) & WORD, 23) + a) & WORD


@pytest.mark.parametrize("seed", [0, 1, 12345, WORD])
def test_random_words_are_those_of_xoshiro(base: ctypes.CDLL, seed: int) -> None:
    random, state = Random(), splitmix(seed)
    base.random_seed(ctypes.byref(random), seed)
    assert list(random.state) == state
    for _ in range(100):
        assert base.random_next(ctypes.byref(random)) == xoshiro(state)
    for _ in range(100):
        assert base.random_uniform(ctypes.byref(random)) == (xoshiro(state) >> 11) / 2**53


def test_the_published_first_words() -> None:
    # xoshiro256++ of the state 1, 2, 3, 4, as other implementations test themselves
    state = [1, 2, 3, 4]
    assert [xoshiro(state) for _ in range(3)] == [41943041, 58720359, 3588806011781223]


@pytest.mark.parametrize("n", [1, 2, 3, 10, 2**32 + 1, 2**63, 2**63 + 1, WORD])
def test_random_below_refuses_the_words_that_would_be_a_bias(base: ctypes.CDLL, n: int) -> None:
    random, state = Random(), splitmix(7)
    base.random_seed(ctypes.byref(random), 7)
    for _ in range(200):
        word = xoshiro(state)
        while word < 2**64 % n:
            word = xoshiro(state)
        assert base.random_below(ctypes.byref(random), n) == word % n


def test_memory_is_zeroed_and_aligned(base: ctypes.CDLL) -> None:
    libc = ctypes.CDLL(None)
    libc.free.argtypes = [ctypes.c_void_p]
    for _ in range(20):  # also where a block was used before
        block = base.need(1000, 7)
        assert block % 64 == 0
        assert ctypes.string_at(block, 7000) == bytes(7000)
        ctypes.memset(block, 255, 7000)
        libc.free(block)
    nothing = base.need(0, 8)
    assert nothing
    libc.free(nothing)


LIMITED = """
import ctypes, resource, sys
base = ctypes.CDLL(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
base.need.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
base.need(int(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.mark.parametrize(
    ("count", "size", "sentence"),
    [
        (2**33, 2**33, "8589934592 times 8589934592 bytes of memory are more than there can be"),
        (2**63, 1, "9223372036854775808 times 1 bytes of memory are more than there can be"),
        (2**20, 2**20, "not enough memory: 1048577 MB more are needed"),
    ],
    ids=["overflow", "half", "terabyte"],
)
def test_want_of_memory_is_a_sentence(base: ctypes.CDLL, count: int, size: int, sentence: str) -> None:
    command = [sys.executable, "-c", LIMITED, base._name, str(count), str(size)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence + "\n")


def test_a_problem_is_cut_to_its_room(base: ctypes.CDLL) -> None:
    problem = Problem()
    base.problem.restype = ctypes.c_bool
    assert base.problem(ctypes.byref(problem), b"%s is %d", b"x" * 600, 3) is False
    assert problem.text == b"x" * 511
    base.problem(ctypes.byref(problem), b"%s is %d", b"x", 3)
    assert problem.text == b"x is 3"


def test_the_clock_never_goes_back(base: ctypes.CDLL) -> None:
    times = [base.seconds() for _ in range(1000)]
    assert times == sorted(times) and times[0] > 0
