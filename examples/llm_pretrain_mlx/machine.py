"""What a trainer asks of the machine: MLX and its matrix library, device, memory, peak, threads; no research.

Import this before `mlx.core`: on Linux the CPU build of MLX brings the reference BLAS, and one that is in the process
already takes its place. OpenBLAS, or MKL, multiplies 7 to 16 times as fast.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import math
import os
import pathlib
import resource
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from command import TrainError, number_from

BLAS_LIBRARIES = (
    "libopenblas.so.0",
    "libopenblasp.so.0",
    os.path.join(sys.prefix, "lib", "libmkl_rt.so.3"),
    os.path.join(sys.prefix, "lib", "libmkl_rt.so.2"),
    "libmkl_rt.so.2",
)
NO_BLAS = (
    "no OpenBLAS found: matrix products are 7 to 16 times slower than they could be\n"
    "hint: apt-get install libopenblas0-pthread (dnf install openblas), or pip install mkl"
)
# bf16 FLOP/s of Apple's GPUs by device name, computed: cores x 128 lanes x 2 x clock, with the most cores that a chip
# is sold with. An NVIDIA GPU, or a smaller chip, wants PEAK_FLOPS_TFLOPS.
PEAK_FLOPS = {
    "Apple M1 Ultra": 20.9e12, "Apple M1 Max": 10.4e12, "Apple M1 Pro": 5.2e12, "Apple M1": 2.6e12,
    "Apple M2 Ultra": 27.2e12, "Apple M2 Max": 13.6e12, "Apple M2 Pro": 6.8e12, "Apple M2": 3.6e12,
    "Apple M3 Ultra": 28.2e12, "Apple M3 Max": 14.1e12, "Apple M3 Pro": 6.4e12, "Apple M3": 3.5e12,
    "Apple M4 Max": 18.4e12, "Apple M4 Pro": 9.2e12, "Apple M4": 4.6e12,
}  # fmt: skip


def load_blas() -> str | None:
    """Loads a fast BLAS for all libraries that come later, on Linux; its file name, or None."""
    if sys.platform != "linux":
        return None
    # Training has threads of its own, one for each stream; those of the library would only stand in their way.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("MKL_THREADING_LAYER", "SEQUENTIAL")
    for name in BLAS_LIBRARIES:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            return os.path.basename(name)
        except OSError:
            continue
    return None


BLAS = load_blas()
BLAS_BUFFER = 128 * 2**20  # bytes of address space that OpenBLAS takes for each thread


def import_mlx():
    """mlx.core; without it the process ends with a sentence and exit code 1."""
    try:
        return importlib.import_module("mlx.core")
    except ImportError as error:
        if importlib.util.find_spec("mlx") is None:
            sentence = "MLX is not installed"
        elif sys.platform == "linux":
            sentence = f"MLX is installed without a backend ({error})"
        else:
            sentence = f"MLX cannot be loaded ({error})"
        extra = "mlx" if sys.platform == "darwin" else "mlx[cpu]"
        other = "" if sys.platform == "darwin" else ", or pip install 'mlx[cuda13]' for an NVIDIA GPU"
        sys.exit(f"{os.path.basename(sys.argv[0])}: {sentence}\nhint: pip install '{extra}'{other}")


mx = import_mlx()


def backend() -> str:
    """What MLX can compute on here: "metal", "cuda" or "cpu"."""
    if mx.metal.is_available():
        return "metal"
    return "cuda" if mx.cuda.is_available() else "cpu"


def choose_device(wanted: str | None) -> str:
    """Makes a device MLX's default and returns "metal", "cuda" or "cpu". wanted is "gpu", "cpu" or None: GPU if any."""
    found = backend()
    if wanted == "gpu" and found == "cpu":
        raise TrainError("MLX sees no GPU here", "--device cpu (by ark: ark run autoresearch-config.cpu.yaml)")
    kind = "cpu" if wanted == "cpu" else found
    mx.set_default_device(mx.cpu if kind == "cpu" else mx.gpu)
    return kind


def device_name(kind: str) -> str:
    return str(mx.device_info().get("device_name", kind)) if kind != "cpu" else "cpu"


def limit_memory(kind: str) -> None:
    """On Apple's GPU: memory stays wired up to what the system recommends, and the cache keeps a quarter of that.

    On a CPU the cache keeps more than its 32 MB, or two threads wait for each other in the system's allocator.
    """
    if kind == "cpu":
        mx.set_cache_limit(512 * 2**20)
    if kind == "metal":
        recommended = int(mx.device_info()["max_recommended_working_set_size"])
        mx.set_wired_limit(recommended)
        mx.set_cache_limit(recommended // 4)


def peak_flops(kind: str) -> float | None:
    """FLOP/s: $PEAK_FLOPS_TFLOPS if that is set, else by the name of the GPU; None if unknown."""
    if os.environ.get("PEAK_FLOPS_TFLOPS"):
        return 1e12 * number_from(None, "", "PEAK_FLOPS_TFLOPS", 0.0, 0.001)
    return PEAK_FLOPS.get(device_name(kind)) if kind == "metal" else None


def free_memory() -> float:
    """Bytes that this process may still take on Linux: of the machine, of its control group, of its own limit.

    MLX's CPU backend does not look whether it got what it asked for (seen in 0.32.4), and OpenBLAS waits for its
    buffers for ever; so whoever computes on a CPU has to ask first. Infinite elsewhere.
    """
    if sys.platform != "linux":
        return math.inf
    free = [math.inf]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        free.append(1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))))
    with contextlib.suppress(OSError, ValueError):
        group = pathlib.Path("/sys/fs/cgroup")
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        free.append(limit - pages * resource.getpagesize())
    return min(free)


def peak_memory_mb() -> float:
    """The most memory that MLX's arrays took since it was last reset."""
    return mx.get_peak_memory() / 2**20


def out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(part in text for part in ("malloc", "out of memory", "Insufficient Memory", "bad_alloc"))
    )


BUILDING = threading.Lock()  # graphs are built by one thread at a time, and evaluated by several


class Workers:
    """Threads that evaluate graphs side by side, each on a CPU stream of its own; with one, the calling thread does it.

    One CPU stream is one thread in MLX, and one `mx.eval` does not overlap what it is given.
    """

    def __init__(self, count: int):
        self.count = count
        self.local = threading.local()
        self.pool = ThreadPoolExecutor(count, initializer=self._begin) if count > 1 else None

    def _begin(self) -> None:
        self.local.stream = mx.new_thread_local_stream(mx.cpu)

    def _on_stream(self, work: Callable, item):
        with mx.stream(self.local.stream):
            return work(item)

    def map(self, work: Callable, items: Iterable) -> list:
        """[work(item) for item in items]. After an exception nothing is still at work."""
        if self.pool is None:
            return [work(item) for item in items]
        futures = [self.pool.submit(self._on_stream, work, item) for item in items]
        for future in futures:
            future.exception()
        return [future.result() for future in futures]
