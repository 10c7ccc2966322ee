"""Programs for the tests: packing.h, mil.h and device.h by ctypes."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from ane_build import Problem, Shape, shared_object

PROGRAMS = (
    "sdpaWoFwd",
    "ffnFused",
    "ffnBwdW2t",
    "ffnBwdW13t",
    "wotBwd",
    "sdpaBwd1",
    "sdpaBwd2",
    "qkvBwd",
)
SHAPES = {
    "small": Shape(128, 384, 4, 128, 2, 512, False),
    "middle": Shape(256, 704, 4, 256, 4, 512, False),
    "full": Shape(768, 2048, 12, 512, 6, 9200, False),
    "rope": Shape(128, 384, 4, 128, 2, 512, True),
}
DIALECTS = ("m3", "m1")
# Names of values that are reported to give zeros without a word.
HARMFUL = ("var", "diff", "mean", "std", "eps", "x", "y", "mul", "add", "rsqrt", "c", "C")
FILES = ("base", "pool", "gemm", "blas", "fp16", "cpu", "packing", "mil", "program", "operations", "sim", "device")


class Blob(ctypes.Structure):
    """struct Blob."""

    _fields_ = (("path", ctypes.c_char_p), ("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t))


class Source(ctypes.Structure):
    """struct Source."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("text", ctypes.c_char_p),
        ("length", ctypes.c_size_t),
        ("blobs", ctypes.POINTER(Blob)),
        ("blob_count", ctypes.c_int),
    )


_VOID, _PROBLEM = ctypes.c_void_p, ctypes.POINTER(Problem)


class Executor(ctypes.Structure):
    """struct Executor."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("self", _VOID),
        ("load", ctypes.CFUNCTYPE(_VOID, _VOID, ctypes.POINTER(Source), _PROBLEM)),
        ("unload", ctypes.CFUNCTYPE(None, _VOID, _VOID)),
        ("surface", ctypes.CFUNCTYPE(_VOID, _VOID, ctypes.c_size_t, _PROBLEM)),
        ("release", ctypes.CFUNCTYPE(None, _VOID, _VOID)),
        ("lock", ctypes.CFUNCTYPE(_VOID, _VOID, _VOID, ctypes.c_bool, _PROBLEM)),
        ("unlock", ctypes.CFUNCTYPE(ctypes.c_bool, _VOID, _VOID, ctypes.c_bool, _PROBLEM)),
        ("bind", ctypes.CFUNCTYPE(_VOID, _VOID, _VOID, _VOID, _VOID, _PROBLEM)),
        ("unbind", ctypes.CFUNCTYPE(None, _VOID, _VOID)),
        ("run", ctypes.CFUNCTYPE(ctypes.c_bool, _VOID, _VOID, _PROBLEM)),
        ("close", ctypes.CFUNCTYPE(None, _VOID)),
    )


class Area(ctypes.Structure):
    """struct Area."""

    _fields_ = tuple((name, ctypes.c_int) for name in ("channel", "column", "rows", "columns"))


class Piece(ctypes.Structure):
    """struct Piece."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("rows", ctypes.c_int),
        ("columns", ctypes.c_int),
        ("weight", ctypes.c_int),
        ("transposed", ctypes.c_bool),
    )


class Packing(ctypes.Structure):
    """struct Packing."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("along_columns", ctypes.c_bool),
        ("weights", ctypes.c_bool),
        ("pieces", Piece * 7 * 2),
    )


@dataclass
class Text:
    """A program's text and the bytes of its files by path."""

    text: str
    files: dict[str, bytes]


def load() -> ctypes.CDLL:
    """What the device backends are made of, with the types of their functions."""
    made = shared_object(*(f"{name}.c" for name in FILES))
    made.mil_new.restype = Source
    made.pool_new.restype = ctypes.c_void_p
    made.sim_executor.restype = Executor
    made.sim_executor.argtypes = (ctypes.c_void_p,)
    made.sim_overflows.restype = ctypes.c_uint64
    made.packing_of.restype = ctypes.POINTER(Packing)
    made.packing_piece.restype = Area
    made.packing_whole.restype = Area
    made.blob_halves.restype = ctypes.c_void_p
    made.blob_halves.argtypes = (ctypes.POINTER(Blob), ctypes.c_uint64, ctypes.c_size_t, _PROBLEM)
    return made


def generate(made: ctypes.CDLL, program: str, shape: Shape, dialect: str = "m3") -> Text:
    """What mil.c writes."""
    source = made.mil_new(PROGRAMS.index(program), ctypes.byref(shape), DIALECTS.index(dialect))
    blobs = [source.blobs[i] for i in range(source.blob_count)]
    files = {blob.path.decode(): ctypes.string_at(blob.data, blob.bytes) for blob in blobs}
    text = Text(source.text.decode(), files)
    made.mil_free(ctypes.byref(source))
    return text


def pieces(made: ctypes.CDLL, program: str, side: str, shape: Shape) -> dict[str, tuple[Piece, Area]]:
    """By name, of the "input" or the "output": what it is and where."""
    packing, index = made.packing_of(PROGRAMS.index(program)), ("input", "output").index(side)
    count = made.packing_count(packing, index)
    row = [packing.contents.pieces[index][i] for i in range(count)]
    return {
        piece.name.decode(): (piece, made.packing_piece(packing, index, i, ctypes.byref(shape)))
        for i, piece in enumerate(row)
    }


def size(made: ctypes.CDLL, program: str, side: str, shape: Shape) -> tuple[int, int]:
    """Channels and columns of the surface."""
    index = ("input", "output").index(side)
    whole = made.packing_whole(made.packing_of(PROGRAMS.index(program)), index, ctypes.byref(shape))
    return whole.rows, whole.columns


def pack(made: ctypes.CDLL, program: str, shape: Shape, values: dict[str, np.ndarray]) -> np.ndarray:
    """The input surface, halves [channels, columns], of each piece's [rows, columns], weights as the model has them."""
    surface = np.zeros(size(made, program, "input", shape), np.float16)
    for name, (piece, area) in pieces(made, program, "input", shape).items():
        value = values[name].T if piece.transposed else values[name]
        surface[area.channel : area.channel + area.rows, area.column : area.column + area.columns] = value
    return surface


def unpack(made: ctypes.CDLL, program: str, shape: Shape, surface: np.ndarray) -> dict[str, np.ndarray]:
    """The pieces of the output surface as doubles [rows, columns]."""
    surface = surface.reshape(size(made, program, "output", shape)).astype(np.float64)
    return {
        name: surface[area.channel : area.channel + area.rows]
        for name, (_, area) in pieces(made, program, "output", shape).items()
    }


class Simulator:
    """An executor of sim.c with a pool of one thread; the pool lives as long as the process."""

    def __init__(self, made: ctypes.CDLL, threads: int = 1) -> None:
        self.executor = made.sim_executor(made.pool_new(threads))
        self.made = made

    def load(self, text: Text, name: str = "program") -> int:
        """The loaded program; ValueError with the problem's sentence."""
        problem = Problem()
        raw = text.text.encode()
        kept = {path.encode(): data for path, data in text.files.items()}
        blobs = (Blob * max(1, len(kept)))(
            *(Blob(path, ctypes.cast(data, ctypes.c_void_p), len(data)) for path, data in kept.items())
        )
        source = Source(name.encode(), raw, len(raw), blobs, len(kept))
        loaded = self.executor.load(self.executor.self, ctypes.byref(source), ctypes.byref(problem))
        if loaded is None:
            raise ValueError(problem.text.decode())
        return loaded

    def run(self, text: Text, packed: np.ndarray, outputs: int) -> np.ndarray:
        """Loads the text, runs it on these halves, and returns as many halves of the output."""
        problem, executor, own = Problem(), self.executor, self.executor.self
        loaded = self.load(text)
        surfaces = [executor.surface(own, count * 2, problem) for count in (packed.size, outputs)]
        at = executor.lock(own, surfaces[0], True, problem)
        ctypes.memmove(at, np.ascontiguousarray(packed, np.float16).ctypes.data, packed.size * 2)
        assert executor.unlock(own, surfaces[0], True, problem), problem.text
        binding = executor.bind(own, loaded, *surfaces, problem)
        assert binding, problem.text
        assert executor.run(own, binding, problem), problem.text
        at = executor.lock(own, surfaces[1], False, problem)
        result = np.frombuffer(ctypes.string_at(at, outputs * 2), np.float16).copy()
        assert executor.unlock(own, surfaces[1], False, problem), problem.text
        executor.unbind(own, binding)
        executor.unload(own, loaded)
        for surface in surfaces:
            executor.release(own, surface)
        return result

    def close(self) -> None:
        """Frees the executor."""
        self.executor.close(self.executor.self)


def refusal(simulator: Simulator, text: Text) -> str:
    """The sentence with which the text is refused; empty for one that is loaded."""
    try:
        simulator.executor.unload(simulator.executor.self, simulator.load(text))
    except ValueError as refused:
        return str(refused)
    return ""
