"""What the device backends are built of, with a fake of Apple's frameworks (fake.h) in place of a Mac's."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest
from ane_build import ANE, Problem, Shape, build
from ane_model import Kernels
from ane_programs import FILES, SHAPES, Area, Executor, Packing, Simulator, Source, Text, generate, size

LOADED = ["describe", "model", "identifier", "compile", "load"]  # the steps of loading
SHAPE = SHAPES["small"]
HERE = Path(__file__).parent
PORTABLE = [ANE / f"{name}.c" for name in (*FILES, "folder")]
FAKED = [*PORTABLE, ANE / "ane.c", HERE / "fake_foundation.c", HERE / "fake_framework.c"]
# FAKE_FRAMEWORK not set: the process itself is opened, which has all symbols.
FLAGS = [f"-I{HERE / 'apple_stubs'}", '-DFRAMEWORK_PATH=getenv("FAKE_FRAMEWORK")']


class Mac:
    """A process's first use of the Neural Engine: a copy of the build, so that what is static is new."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = build(FAKED, ["-fPIC", "-shared", "-O1", *FLAGS])
        self.temporary = folder / "temporary"
        monkeypatch.setenv("TMPDIR", str(self.temporary))
        monkeypatch.delenv("ANE_QOS", raising=False)
        self.temporary.mkdir()
        self.made = ctypes.CDLL(shutil.copy(made, folder / "mac.so"))
        self.made.fake_report.restype = ctypes.c_char_p
        self.made.mil_new.restype = Source
        self.made.pool_new.restype = ctypes.c_void_p
        self.made.sim_executor.restype = Executor
        self.made.sim_executor.argtypes = (ctypes.c_void_p,)
        self.made.ane_executor.restype = self.made.device_kernels.restype = ctypes.c_bool
        self.made.packing_of.restype = ctypes.POINTER(Packing)
        self.made.packing_whole.restype = Area
        self.made.cpu_kernels.restype = Kernels
        self.made.cpu_kernels.argtypes = (ctypes.POINTER(Shape), ctypes.c_void_p)
        self.pool = self.made.pool_new(1)

    def faults(self, *faults: str) -> None:
        self.made.fake_faults(",".join(faults).encode())

    def open(self) -> Simulator:
        """The executor; ValueError with the sentence."""
        problem = Problem()
        engine = Simulator.__new__(Simulator)
        engine.executor, engine.made = Executor(), self.made
        if not self.made.ane_executor(ctypes.byref(engine.executor), ctypes.byref(problem)):
            raise ValueError(problem.text.decode())
        return engine

    def steps(self) -> list[str]:
        """What the framework was asked for, of each step the first word; nobody had a complaint."""
        lines = self.made.fake_report().decode().splitlines()
        assert not [line for line in lines if line.startswith("complaint")]
        return [line.split()[0] for line in lines[1:]]

    def identifier(self) -> str:
        """Of the last model: the name of its folder."""
        lines = self.made.fake_report().decode().splitlines()
        return [line.split()[1] for line in lines if line.startswith("identifier")][-1]

    def is_clean(self) -> bool:
        """No object, file or complaint is left."""
        lines = self.made.fake_report().decode().splitlines()
        assert not [line for line in lines if line.startswith("complaint")]
        return lines[0] == "live 0" and not list(self.temporary.iterdir())

    def text(self, program: str = "sdpaWoFwd") -> Text:
        return generate(self.made, program, SHAPE)

    def halves(self, program: str, side: str) -> int:
        channels, columns = size(self.made, program, side, SHAPE)
        return channels * columns
