"""python benchmarks/llm_pretrain_ane.py {steps,products,sim} ...

Figures of examples/llm_pretrain_ane on a CPU, by programs that compare within one run:

- `steps`: micro-steps per second, milliseconds of each phase, a micro-step against its matrix products alone (by the
  best of own loops and OpenBLAS), the updates of Lion and AdamW against copying memory; at toy size and, with `--full`,
  at that of 67 million parameters. The targets: 100 micro-steps per second at toy size, 1.3 times the products at
  full size.
- `products`: own matrix products against OpenBLAS, one thread, compiled for AVX2 and for this processor. The target:
  0.7 with AVX2. Needs libopenblas.so.0.
- `sim`: the simulator of the Neural Engine against the CPU backend at toy size. The target: at most 30 times slower.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from trainers import numbers, run

EXAMPLE = Path(__file__).parent.parent / "examples" / "llm_pretrain_ane"
TOY = ["128", "384", "4", "128", "2"]
FULL = ["768", "2048", "12", "512", "6"]
PRODUCTS = [  # rows, columns, depth, of what
    (768, 512, 768, "q, k, v, o"),
    (2048, 512, 768, "w1, w3"),
    (768, 512, 2048, "w2"),
    (768, 768, 512, "gradient of wq"),
    (512, 9200, 768, "logits"),
    (512, 512, 64, "scores of a head"),
    (128, 128, 128, "q, k, v, o at toy size"),
]


def built(folder: Path, target: str, flags: str | None = None) -> Path:
    """A program of the example, built in `folder`."""
    extra = [f"CFLAGS={flags}"] if flags else []
    run(["make", f"-j{os.cpu_count()}", f"BUILD={folder}", *extra, f"{folder}/{target}"], EXAMPLE)
    return folder / target


def bench(program: Path, shape: list[str], *options: str) -> dict[str, str]:
    return numbers(run([str(program), "--shape", *shape, *options], EXAMPLE))


def steps(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="ark-ane-") as name:
        program = built(Path(name), "bench")
        sizes = [("toy", [*TOY, "4096"], 200)] + ([("full", [*FULL, "9200"], 10)] if arguments.full else [])
        for size, shape, count in sizes:
            options = ("--threads", str(arguments.threads), "--steps", str(count))
            found = [bench(program, shape, *options) for _ in range(arguments.repeat)]
            print(f"{size}: {' '.join(shape)}, {arguments.threads} threads, median of {arguments.repeat}")
            for key in found[0]:
                if key not in ("backend", "threads", "gemm", "shape"):
                    print(f"  {key:<26} {statistics.median(float(one[key]) for one in found):>9.3f}")


def sim(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="ark-ane-") as name:
        program = built(Path(name), "bench")
        ratios = []
        for _ in range(arguments.repeat):
            by = {
                backend: float(bench(program, [*TOY, "512"], "--backend", backend, "--steps", "50")["ms_micro_step"])
                for backend in ("cpu", "sim")
            }
            ratios.append(by["sim"] / by["cpu"])
            print(f"cpu {by['cpu']:.2f} ms, sim {by['sim']:.2f} ms a micro-step: {ratios[-1]:.2f} times", flush=True)
        print(f"median: {statistics.median(ratios):.2f} times")


def products(arguments: argparse.Namespace) -> None:
    print(f"{'rows':>5} {'columns':>7} {'depth':>5}  {'AVX2':>6} {'native':>6} {'OpenBLAS':>8}  AVX2 / OpenBLAS")
    blas = ctypes.CDLL("libopenblas.so.0")
    blas.openblas_set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="ark-ane-") as name:
        own = [compiled(Path(name), flags) for flags in ("-march=x86-64-v3", "-march=native")]
        random = np.random.default_rng(1)
        for m, n, k, what in PRODUCTS:
            a, b = (random.standard_normal(size, np.float32) for size in ((m, k), (k, n)))
            c = np.zeros((m, n), np.float32)
            calls = [own_call(loaded, m, n, k, a, b, c) for loaded in own] + [blas_call(blas, m, n, k, a, b, c)]
            gflops = [2e-9 * m * n * k / seconds for seconds in medians(calls, arguments.repeat)]
            print(f"{m:>5} {n:>7} {k:>5}  " + " ".join(f"{rate:>6.1f}" for rate in gflops), end="")
            print(f"    {gflops[0] / gflops[2]:.2f}  {what}", flush=True)


def compiled(folder: Path, flags: str) -> ctypes.CDLL:
    path = folder / f"products{flags}.so"
    sources = [str(EXAMPLE / "ane" / name) for name in ("base.c", "pool.c", "gemm.c", "blas.c")]
    words = ["-std=c11", "-D_GNU_SOURCE", "-O3", flags, "-ffp-contract=fast", "-fPIC", "-shared", "-pthread"]
    run(["cc", *words, *sources, "-ldl", "-o", str(path)], EXAMPLE)
    loaded = ctypes.CDLL(str(path))
    problem = ctypes.create_string_buffer(512)
    loaded.gemm_use.restype = ctypes.c_bool
    assert loaded.gemm_use(b"own", problem), problem.value
    return loaded


def own_call(loaded: ctypes.CDLL, m: int, n: int, k: int, *arrays: np.ndarray) -> Callable[[], object]:
    a, b, c = (ctypes.c_void_p(array.ctypes.data) for array in arrays)
    one, zero, no = ctypes.c_float(1), ctypes.c_float(0), ctypes.c_bool(False)
    return lambda: loaded.gemm(None, no, no, m, n, k, one, a, k, b, n, zero, c, n)


def blas_call(blas: ctypes.CDLL, m: int, n: int, k: int, *arrays: np.ndarray) -> Callable[[], object]:
    a, b, c = (ctypes.c_void_p(array.ctypes.data) for array in arrays)
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    return lambda: blas.cblas_sgemm(101, 111, 111, m, n, k, one, a, k, b, n, zero, c, n)


def medians(calls: list[Callable[[], object]], repeat: int) -> list[float]:
    """Seconds of each call, all of them in turn."""
    found: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(repeat * 4):
        for times, call in zip(found, calls, strict=True):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    return [statistics.median(times) for times in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steps", "products", "sim"])
    parser.add_argument("--repeat", type=int, default=5, help="runs, of which the median is told (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="%(default)s here")
    parser.add_argument("--full", action="store_true", help="steps: also with 67 million parameters, some minutes")
    arguments = parser.parse_args()
    {"steps": steps, "products": products, "sim": sim}[arguments.what](arguments)


if __name__ == "__main__":
    sys.exit(main())
