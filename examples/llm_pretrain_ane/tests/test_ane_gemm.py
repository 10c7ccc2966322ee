"""gemm.c and blas.c against numpy in double precision."""

import ctypes
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ane_build import ANE, Problem, build, pointer

SOURCES = [ANE / f"{name}.c" for name in ("base", "pool", "gemm", "blas")]
SIZES = [1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 32, 33, 64, 100, 130, 257, 300]


def shared(march: str = "native", compiler: str = "cc", *flags: str) -> Path:
    """The shared object for that processor."""
    return build(SOURCES, ["-fPIC", "-shared", *([f"-march={march}"] if march != "native" else []), *flags], compiler)


class Gemm:
    """One build of gemm.c; numbers are of `dtype`."""

    def __init__(self, use: str = "own", double: bool = False, march: str = "native", compiler: str = "cc") -> None:
        defines = ["-DANE_DOUBLE"] if double else []
        self.lib = ctypes.CDLL(str(shared(march, compiler, *defines)))
        self.dtype = np.float64 if double else np.float32
        real = ctypes.c_double if double else ctypes.c_float
        matrix = [ctypes.c_void_p, ctypes.c_int]
        flags_and_sizes = [ctypes.c_bool] * 2 + [ctypes.c_int] * 3
        self.lib.gemm.argtypes = [ctypes.c_void_p, *flags_and_sizes, real, *matrix, *matrix, real, *matrix]
        self.lib.gemm.restype = None
        self.lib.pool_new.restype = ctypes.c_void_p
        self.lib.pool_free.argtypes = [ctypes.c_void_p]
        self.lib.gemm_name.restype = ctypes.c_char_p
        self.lib.gemm_use.restype = ctypes.c_bool
        problem = Problem()
        if not self.lib.gemm_use(use.encode(), ctypes.byref(problem)):
            pytest.skip(problem.text.decode())
        assert self.lib.gemm_name().decode() == use

    def pool(self, threads: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.lib.pool_new(threads))


@dataclass
class Case:
    """A product to do, and what must come out within rounding."""

    sizes: tuple[int, int, int]
    flags: tuple[bool, bool]
    alpha: float
    beta: float
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray

    @classmethod
    def random(cls, rng: np.random.Generator, dtype: type, sizes: tuple[int, int, int]) -> "Case":
        m, n, k = sizes
        flags = bool(rng.integers(2)), bool(rng.integers(2))
        longer = rng.integers(0, 4, 3)  # rows in memory may be longer than those of the matrix
        a, b, c = (
            rng.standard_normal((rows, columns + more)).astype(dtype)
            for (rows, columns), more in zip(
                ((k, m) if flags[0] else (m, k), (n, k) if flags[1] else (k, n), (m, n)), longer, strict=True
            )
        )
        return cls(sizes, flags, float(rng.choice([1, 0.3])), float(rng.choice([0, 1, 0.5])), a, b, c)

    def run(self, gemm: Gemm, pool: ctypes.c_void_p | None = None) -> np.ndarray:
        """C as a whole, with what lies beyond its rows."""
        m, n, k = self.sizes
        c = self.c.copy()
        if self.beta == 0:
            c[:, :n] = np.nan  # not to be read
        a, b = (pointer(self.a), self.a.shape[1]), (pointer(self.b), self.b.shape[1])
        gemm.lib.gemm(pool, *self.flags, m, n, k, self.alpha, *a, *b, self.beta, pointer(c), c.shape[1])
        return c

    def check(self, found: np.ndarray) -> None:
        m, n, k = self.sizes
        a = (self.a[:, :m].T if self.flags[0] else self.a[:, :k]).astype(np.float64)
        b = (self.b[:, :k].T if self.flags[1] else self.b[:, :n]).astype(np.float64)
        want = self.alpha * (a @ b) + self.beta * self.c[:, :n]
        room = (k + 3) * np.finfo(self.c.dtype).eps * (np.abs(a) @ np.abs(b) + np.abs(self.c[:, :n]))  # worst case
        assert (np.abs(found[:, :n] - want) <= room).all()
        assert np.array_equal(found[:, n:], self.c[:, n:])


def sizes(rng: np.random.Generator) -> tuple[int, int, int]:
    m, n, k = rng.choice(SIZES, 3)
    return int(m), int(n), int(k)


@pytest.fixture(
    scope="module", params=[("own", False), ("own", True), ("openblas", False), ("openblas", True)],
    ids=["own", "own_double", "openblas", "openblas_double"],
)  # fmt: skip
def gemm(request: pytest.FixtureRequest) -> Gemm:
    return Gemm(*request.param)


def test_random_products(gemm: Gemm) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        case = Case.random(rng, gemm.dtype, sizes(rng))
        case.check(case.run(gemm))


@pytest.mark.parametrize("shape", [(1100, 70, 50), (70, 1100, 50), (50, 70, 1100)], ids=["tall", "wide", "deep"])
def test_products_of_several_blocks(gemm: Gemm, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(1)
    for _ in range(6):
        case = Case.random(rng, gemm.dtype, shape)
        case.check(case.run(gemm))


def test_runs_with_one_number_of_threads_give_the_same_bits(gemm: Gemm) -> None:
    rng = np.random.default_rng(2)
    cases = [Case.random(rng, gemm.dtype, shape) for shape in [(130, 140, 200), (300, 257, 33), (97, 1000, 65)]]
    for threads in (1, 2, 3, 4):
        pool = gemm.pool(threads)
        for case in cases:
            first = case.run(gemm, pool)
            case.check(first)
            for _ in range(3):
                assert np.array_equal(case.run(gemm, pool), first)
        gemm.lib.pool_free(pool)


def test_own_loops_give_the_same_bits_with_any_number_of_threads() -> None:
    gemm, rng = Gemm(), np.random.default_rng(3)
    pools = [gemm.pool(threads) for threads in (2, 3, 4)]
    for shape in [(130, 140, 200), (300, 257, 33), (97, 1000, 65), (257, 300, 800)]:
        case = Case.random(rng, gemm.dtype, shape)
        alone = case.run(gemm)
        for pool in pools:
            assert np.array_equal(case.run(gemm, pool), alone)
    for pool in pools:
        gemm.lib.pool_free(pool)


def test_several_threads_may_call_at_once(gemm: Gemm) -> None:
    rng = np.random.default_rng(4)
    cases = [Case.random(rng, gemm.dtype, sizes(rng)) for _ in range(60)]
    with ThreadPoolExecutor(4) as threads:
        for case, found in zip(cases, threads.map(lambda case: case.run(gemm), cases), strict=True):
            case.check(found)


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=["nan", "inf"])
def test_what_is_not_finite_stays_in_its_row_and_column(gemm: Gemm, bad: float) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((37, 50)).astype(gemm.dtype), rng.standard_normal((50, 41)).astype(gemm.dtype)
    a[5, 7] = b[3, 40] = bad
    case = Case((37, 41, 50), (False, False), 1.0, 0.0, a, b, np.zeros((37, 41), gemm.dtype))
    found = case.run(gemm)
    wrong = np.zeros(found.shape, bool)
    wrong[5] = wrong[:, 40] = True
    assert np.array_equal(np.isfinite(found), ~wrong)
    case = Case((37, 41, 50), (False, False), 1.0, 1.0, np.ones_like(a), np.ones_like(b), found)
    assert np.array_equal(np.isfinite(case.run(gemm)), ~wrong)  # beta = 1 reads C


def test_products_without_terms_or_elements() -> None:
    gemm = Gemm()
    one = np.ones((2, 3), np.float32)
    for beta, want in [(0.0, 0.0), (0.5, 0.5)]:
        c = np.ones((2, 3), np.float32)
        gemm.lib.gemm(None, False, False, 2, 3, 0, 1.0, pointer(one), 3, pointer(one), 3, beta, pointer(c), 3)
        assert (c == want).all()
    c = np.ones((2, 3), np.float32)
    gemm.lib.gemm(None, False, False, 0, 3, 2, 1.0, pointer(one), 3, pointer(one), 3, 0.0, pointer(c), 3)
    assert (c == 1).all()


@pytest.mark.parametrize(
    ("march", "feature", "compiler"),
    [
        ("x86-64", "sse2", "gcc"),
        ("x86-64-v3", "avx2", "gcc"),
        pytest.param("x86-64", "sse2", "clang", marks=pytest.mark.slow),
        pytest.param("x86-64-v3", "avx2", "clang", marks=pytest.mark.slow),
        pytest.param("x86-64-v4", "avx512f", "clang", marks=pytest.mark.slow),
    ],
)
def test_the_loops_for_other_processors(march: str, feature: str, compiler: str) -> None:
    cpu = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpu.exists() or f" {feature} " not in cpu.read_text():
        pytest.skip(f"this processor has no {feature}")
    gemm, rng = Gemm(march=march, compiler=compiler), np.random.default_rng(6)
    for _ in range(60):
        case = Case.random(rng, gemm.dtype, sizes(rng))
        case.check(case.run(gemm))


ASK = """
import ctypes, sys
lib = ctypes.CDLL(sys.argv[1])
lib.gemm_use.restype, lib.gemm_name.restype = ctypes.c_bool, ctypes.c_char_p
problem = ctypes.create_string_buffer(512)
print(lib.gemm_use(sys.argv[2].encode(), problem), lib.gemm_name().decode(), problem.value.decode(), sep="|")
"""


def ask(made: Path, name: str, folder: Path) -> list[str]:
    """What gemm_use says, gemm_name and the problem, where the libraries of `folder` come first."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    command = [sys.executable, "-c", ASK, str(made), name]
    return (
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip().split("|")
    )


@pytest.mark.skipif(sys.platform == "darwin", reason="how libraries are found differs on macOS")
def test_a_product_that_is_not_to_be_had_is_a_sentence(tmp_path: Path) -> None:
    made = shared()
    slow = shared("x86-64") if platform.machine() == "x86_64" else made
    for file in ("libopenblas.so.0", "libopenblas.so"):
        (tmp_path / file).write_text("no shared object")
    assert ask(made, "own", tmp_path) == ["True", "own", ""]
    assert ask(slow, "auto", tmp_path) == ["True", "own", ""]
    unknown = ask(made, "mkl", tmp_path)
    assert unknown[:2] == ["False", "own"] and "own, openblas, accelerate and auto" in unknown[2]
    assert "no OpenBLAS is installed" in ask(made, "openblas", tmp_path)[2]
    assert "macOS" in ask(made, "accelerate", tmp_path)[2]
    other = build([ANE / "fp16.c"], ["-fPIC", "-shared"])  # a shared object, but no BLAS
    (tmp_path / "libopenblas.so.0").write_bytes(other.read_bytes())
    assert "lacks cblas_sgemm" in ask(made, "openblas", tmp_path)[2]
    assert ask(slow, "auto", tmp_path) == ["True", "own", ""]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="builds for two x86 processors")
def test_auto_prefers_openblas_to_loops_without_avx2(tmp_path: Path) -> None:
    slow = shared("x86-64")
    if ask(slow, "openblas", tmp_path)[0] != "True":
        pytest.skip("no OpenBLAS on this machine")
    assert ask(slow, "auto", tmp_path) == ["True", "openblas", ""]
    fast = shared("x86-64-v3")
    assert ask(fast, "auto", tmp_path) == ["True", "own", ""]
