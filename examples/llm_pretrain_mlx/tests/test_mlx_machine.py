"""What the trainer asks of the machine: MLX and its sentences, the matrix library, devices.

pytest -m "slow or not slow" examples/llm_pretrain_mlx/tests/test_mlx_machine.py
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX with a backend")

from mlx_modules import EXAMPLE, load

machine, train = load("machine"), load("train")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has an MLX without a backend, and BLAS to load")
needs_blas = pytest.mark.skipif(machine.BLAS is None, reason="neither OpenBLAS nor MKL is installed")


def without_mlx(folder: Path, *command: str) -> subprocess.CompletedProcess:
    """A Python whose only packages are NumPy and what lies in the folder."""
    folder.mkdir(exist_ok=True)
    packages = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        if (packages / name).exists():
            (folder / name).symlink_to(packages / name)
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-S", *command], cwd=EXAMPLE, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("program", ["train.py", "evaluate.py"])
def test_without_mlx_there_is_the_extra_to_install(tmp_path, program):
    done = without_mlx(tmp_path / "packages", program, "--data", "tiny")
    extra = "mlx" if sys.platform == "darwin" else "mlx[cpu]"
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (1, "", 2)
    assert lines[0] == f"{program}: MLX is not installed" and lines[1].startswith(f"hint: pip install '{extra}'")


@linux
def test_mlx_without_a_backend_is_another_sentence(tmp_path):
    """What `pip install mlx` alone leaves on Linux."""
    (tmp_path / "packages" / "mlx").mkdir(parents=True)
    sentence = "libmlx.so: cannot open shared object file: No such file or directory"
    (tmp_path / "packages" / "mlx" / "core.py").write_text(f"raise ImportError({sentence!r})\n")
    done = without_mlx(tmp_path / "packages", "train.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"train.py: MLX is installed without a backend ({sentence})\n"
        "hint: pip install 'mlx[cpu]', or pip install 'mlx[cuda13]' for an NVIDIA GPU\n"
    )


PRODUCT = """
import machine, numpy as np
from machine import mx
mx.set_default_device(mx.cpu)
rng = np.random.default_rng(1)
a, b = (rng.standard_normal((SIZE, SIZE), np.float32) for _ in range(2))
found, expected = np.array(mx.array(a) @ mx.array(b)), a.astype(np.float64) @ b
print(machine.BLAS, np.abs(found - expected).max() / np.abs(expected).max())
"""


def product(size: int, **environment: str) -> tuple[str, float]:
    """(the BLAS, the error of a product of two matrices), in a process of its own."""
    script = PRODUCT.replace("SIZE", str(size))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=EXAMPLE, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    name, error = done.stdout.split()
    return name, float(error)


@linux
@needs_blas
def test_products_come_from_the_blas_that_was_found(tmp_path):
    """The dynamic linker's own word on where MLX found the product, and the product is right."""
    name, error = product(1024, LD_DEBUG="bindings", LD_DEBUG_OUTPUT=str(tmp_path / "linked"))
    assert name == machine.BLAS and error < 1e-5
    bound = "".join(path.read_text() for path in tmp_path.glob("linked*"))
    places = re.findall(r"binding file \S*libmlx\.so \S+ to (\S+) .*`(?:cblas_)?sgemm_?'", bound)
    assert places and {os.path.basename(place) for place in places} == {machine.BLAS}


def copy_without_blas(folder: Path) -> None:
    for module in EXAMPLE.glob("*.py"):
        shutil.copy(module, folder)
    text = (EXAMPLE / "machine.py").read_text()
    text, found = re.subn(r"(?ms)^BLAS_LIBRARIES = \(\n.*?^\)$", 'BLAS_LIBRARIES = ("libnothing.so.0",)', text)
    assert found == 1
    (folder / "machine.py").write_text(text)


@linux
@pytest.mark.slow
def test_without_a_fast_blas_the_package_is_named_once_and_training_goes_on(tmp_path):
    copy_without_blas(tmp_path)
    sizes = ["--vocab-size", "300", "--sequence-length", "32", "--stories", "200", "--val-tokens", "2000"]
    environment = {**os.environ, "ARK_CACHE": str(tmp_path / "cache")}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("prepare.py", "synthetic", "--name", "tiny", "--workers", "1", *sizes)
    out = run("train.py", "--device", "cpu", "--data", "tiny", "--max-steps", "1")
    assert "BLAS: reference" in out and out.count(f"{machine.NO_BLAS}\n") == 1
    assert "apt-get install libopenblas0-pthread" in machine.NO_BLAS
    assert re.search(r"^status: +ok$", out, re.MULTILINE)


@needs_blas
def test_the_first_library_that_can_be_loaded_counts(monkeypatch):
    monkeypatch.setattr(machine, "BLAS_LIBRARIES", ("libnothing.so.0", *machine.BLAS_LIBRARIES))
    assert machine.load_blas() == machine.BLAS
    monkeypatch.setattr(machine, "BLAS_LIBRARIES", ("libnothing.so.0",))
    assert machine.load_blas() is None
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    assert machine.load_blas() is None


def test_devices(monkeypatch):
    before = machine.mx.default_device()
    try:
        assert machine.choose_device("cpu") == "cpu" and machine.mx.default_device() == machine.mx.cpu
        assert machine.device_name("cpu") == "cpu"
        monkeypatch.setattr(machine, "backend", lambda: "cpu")
        assert machine.choose_device(None) == "cpu"
        with pytest.raises(machine.TrainError, match="MLX sees no GPU here\nhint: --device cpu"):
            machine.choose_device("gpu")
    finally:
        machine.mx.set_default_device(before)


@pytest.mark.skipif(machine.backend() != "cpu", reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--device", "gpu"]) == 1
    streams = capsys.readouterr()
    assert streams.out == "" and streams.err.startswith("train.py: MLX sees no GPU here\nhint: --device cpu")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Apple M1", 2.6e12),
        ("Apple M1 Pro", 5.2e12),
        ("Apple M2 Ultra", 27.2e12),
        ("Apple M4 Max", 18.4e12),
        ("Apple M99", None),
    ],
)
def test_peak_flops_are_those_of_the_named_device(monkeypatch, name, expected):
    monkeypatch.delenv("PEAK_FLOPS_TFLOPS", raising=False)
    monkeypatch.setattr(machine.mx, "device_info", lambda: {"device_name": name})
    assert machine.peak_flops("metal") == expected
    assert machine.peak_flops("cuda") is None and machine.peak_flops("cpu") is None


def test_peak_flops_that_are_given_count(monkeypatch):
    monkeypatch.setenv("PEAK_FLOPS_TFLOPS", "0.25")
    assert {machine.peak_flops(kind) for kind in ("metal", "cuda", "cpu")} == {0.25e12}


def test_more_cores_are_more_flops():
    for chip in ("M1", "M2", "M3", "M4"):
        sizes = [machine.PEAK_FLOPS.get(f"Apple {chip}{size}") for size in ("", " Pro", " Max", " Ultra")]
        sizes = [size for size in sizes if size]
        assert len(sizes) >= 3 and sizes == sorted(sizes)


def test_peak_memory_is_that_of_arrays():
    mx = machine.mx
    mx.reset_peak_memory()
    with mx.stream(mx.cpu):
        mx.eval(mx.zeros((8, 2**20), mx.float32) + 1)
    assert 32 <= machine.peak_memory_mb() < 32 + mx.get_active_memory() / 2**20 + 64


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum"), True),
        (RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008)"), True),
        (RuntimeError("cudaMallocAsync failed: out of memory"), True),
        (RuntimeError("[matmul] shapes do not fit"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
    ids=["python", "cpp", "metal-size", "metal", "cuda", "shapes", "value", "ctrl-c"],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert machine.out_of_memory(error) == expected
