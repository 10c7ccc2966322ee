"""A trained model as data: `save` writes what it computes, `load` reads it back and runs none of its code.

The file is what mx.export_function writes, a list of calls of MLX's primitives with their constants, followed by the
SHA-256 of all that. mx.import_function would read it too, but believes it: the shapes it records decide how much memory
kernels get, indices are looked up unchecked, and a primitive may be the source of a kernel, or a file to read (seen in
mlx 0.32.4). So `load` parses the bytes itself, in Python, and runs each call anew by MLX's public operators, which
compute shapes and types again; they must be those recorded. It knows the primitives listed in OPERATORS and no others.
They are functions of arrays: none draws random numbers, writes by index, or looks beyond its arguments. Kernels do not
check indices, so `load` proves them: whatever looks something up must have bounds that follow from the constants and
from the number of tokens. A hostile file can compute wrong numbers, take long, or ask for more memory than there is,
which ends the process on Linux, where MLX does not look whether it got any; faults inside MLX's own operators are the
risk left.

Tracing happens on the CPU, where MLX writes its fast kernels (norms, attention, rotary embeddings) as plain primitives.
Any device can run those.

    save(function, "model.mlxfn", rows=16, length=2048, about={"tokenizer_sha256": ..., "vocab_size": 8192, ...})
    logits = load("model.mlxfn")(tokens)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from machine import mx, out_of_memory

MAX_FILE_BYTES = 4 * 10**9
MAX_NODES = 100_000
MAX_LIST = 4096  # inputs of a call, or numbers in one of its arguments
MAX_DIMENSIONS = 16
MAX_ABOUT_BYTES = 100_000
MAX_LOGITS = 2**27  # of one batch: 0.5 GB in float32
MAX_LIVING_BYTES = 8 * 2**30  # of constants and results that a call of the graph holds at once
HASH_BYTES = 32
ABOUT = {"tokenizer_sha256": str, "data": str, "vocab_size": int, "sequence_length": int}
# float64 is left out: a GPU has none.
DTYPES = {
    0: mx.bool_, 1: mx.uint8, 2: mx.uint16, 3: mx.uint32, 4: mx.uint64, 5: mx.int8, 6: mx.int16, 7: mx.int32,
    8: mx.int64, 9: mx.float16, 10: mx.float32, 12: mx.bfloat16, 13: mx.complex64,
}  # fmt: skip
INTEGERS = {
    mx.bool_: (0, 1),
    **{dtype: (0, 2**bits - 1) for dtype, bits in ((mx.uint8, 8), (mx.uint16, 16), (mx.uint32, 32), (mx.uint64, 64))},
    **{
        dtype: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        for dtype, bits in ((mx.int8, 8), (mx.int16, 16), (mx.int32, 32), (mx.int64, 64))
    },
}
FLOATS = (mx.float16, mx.bfloat16, mx.float32)
WHERE = "graph.py lists the allowed ones in OPERATORS"
INSTEAD = {
    "BitwiseInvert": "write x ^ -1",
    "Contiguous": "leave mx.contiguous out",
    "CumLogAddExp": "leave mx.logcumsumexp out",
    "CustomTransforms": "leave mx.checkpoint and functions with gradients of their own out of the exported function",
    "RandomBits": "evaluate the parameters (mx.eval) before the export, and draw nothing inside the function",
    "Scatter": "use slices, mx.where or mx.concatenate instead of writing by index",
    "ScatterAxis": "use mx.where and a comparison with mx.arange instead of writing by index",
    "DynamicSlice": "use slices whose bounds are Python numbers",
}


class GraphError(Exception):
    """What is wrong with a model or a file, in one sentence."""


class GraphMemoryError(GraphError):
    """The device has too little memory for the graph."""


@dataclass(frozen=True)
class Spec:
    """Shape and type of an array."""

    shape: tuple[int, ...]
    dtype: mx.Dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.size

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('mlx.core.')} {list(self.shape)}"


def _spec(array: mx.array) -> Spec:
    return Spec(tuple(array.shape), array.dtype)


@dataclass(frozen=True)
class Node:
    """One call. Inputs and outputs are numbers of values; number 0 is the tokens."""

    name: str
    state: list[Any]
    inputs: list[int]
    outputs: list[int]
    specs: list[Spec]
    """Of the outputs."""


# ---- the operators ---------------------------------------------------------------------------------------------------

Bounds = tuple[int, int]  # the least and the greatest value that an array of integers can hold


@dataclass(frozen=True)
class Operator:
    """How a primitive is read and run."""

    layout: str
    """Arguments in the file: i int32, n a list of them, z a list of uint64, b bool, f float32, d float64, t dtype."""
    run: Callable[..., Any]
    """(node, *inputs) -> an array or a list of arrays."""
    arity: int | None = None
    """How many inputs; None where it is free."""
    bounds: Callable[[Node, list[Bounds], list[Spec]], Any] | None = None
    """(node, bounds of the inputs, their specs) -> those of the output, or a list of them; None: all of the type."""


def _plain(function: Callable[..., Any], arity: int, bounds: Callable[..., Any] | None = None) -> Operator:
    return Operator("", lambda node, *arrays: function(*arrays), arity, bounds)


def _one_of(node: Node, functions: tuple[Callable[..., Any], ...]) -> Callable[..., Any]:
    """The function that the first argument chooses."""
    if not 0 <= node.state[0] < len(functions):
        raise GraphError(f"has no variant {node.state[0]}")
    return functions[node.state[0]]


def _same(node: Node, given: list[Bounds], specs: list[Spec]) -> Bounds:
    return given[0]


def _union(given: list[Bounds]) -> Bounds:
    return min(low for low, _ in given), max(high for _, high in given)


def _corners(function: Callable[[int, int], int], given: list[Bounds]) -> Bounds:
    """Bounds of a function that is monotonic in each of two arguments."""
    values = [function(x, y) for x in given[0] for y in given[1]]
    return min(values), max(values)


def _remainder_bounds(node: Node, given: list[Bounds], specs: list[Spec]) -> Bounds | None:
    (low, high), (least, most) = given
    if least < 1:
        return None
    return (low, high) if low >= 0 and high < least else (0, most - 1)


def _quotient_bounds(node: Node, given: list[Bounds], specs: list[Spec]) -> Bounds | None:
    return _corners(lambda x, y: x // y, given) if given[1][0] >= 1 else None


def _bitwise_bounds(node: Node, given: list[Bounds], specs: list[Spec]) -> Bounds | None:
    (low, high), (least, most) = given
    if node.state[0] == 0 and (low >= 0 or least >= 0):
        return 0, min(top for bottom, top in given if bottom >= 0)
    if low < 0 or least < 0:
        return None
    if node.state[0] in (1, 2):
        return 0, 2 ** max(high.bit_length(), most.bit_length()) - 1
    if most >= 8 * specs[0].dtype.size:
        return None
    return (low << least, high << most) if node.state[0] == 3 else (low >> most, high >> least)


def _reduce_bounds(node: Node, given: list[Bounds], specs: list[Spec]) -> Bounds | None:
    count = math.prod(specs[0].shape) // math.prod(node.specs[0].shape)
    return {2: (given[0][0] * count, given[0][1] * count), 4: given[0], 5: given[0]}.get(node.state[0])


def _scan_bounds(node: Node, given: list[Bounds], specs: list[Spec]) -> Bounds | None:
    kind, axis, _, inclusive = node.state
    if kind == 2:
        count = specs[0].shape[axis]
        return min(0, given[0][0] * count), max(0, given[0][1] * count)
    return given[0] if kind in (0, 1) and inclusive else None


def _arange_bounds(node: Node, given: list[Bounds], specs: list[Spec]) -> Bounds | None:
    start, _, step = node.state
    if not (math.isfinite(start) and math.isfinite(step) and start == int(start) and step == int(step)):
        return None
    last = int(start) + (node.specs[0].shape[0] - 1) * int(step)
    return min(int(start), last), max(int(start), last)


def _position_bounds(axis: int) -> Callable[..., Bounds]:
    """Of results that are places along the axis which the argument of that number names."""
    return lambda node, given, specs: (0, specs[0].shape[node.state[axis]] - 1)


def _arange(node: Node) -> mx.array:
    if not all(map(math.isfinite, node.state)):
        raise GraphError("has bounds that are no numbers")
    return mx.arange(*node.state, dtype=node.specs[0].dtype)


def _window(node: Node, whole: mx.array, part: tuple[int, ...], state: list[list[int]]) -> tuple[slice, ...]:
    """The slices of `whole` of the shape `part`; starts and strides say where, and the stops follow from the shape."""
    starts, _, strides = state
    if not len(starts) == len(strides) == len(part) == whole.ndim:
        raise GraphError("has not a start and a stride for each dimension")
    slices = []
    for start, stride, count, size in zip(starts, strides, part, whole.shape, strict=True):
        if not count:
            slices.append(slice(0))
            continue
        start += size if start < 0 else 0
        last = start + (count - 1) * stride
        if not (stride and 0 <= start < size and 0 <= last < size):
            raise GraphError("has a slice beyond its array")
        stop = last + (1 if stride > 0 else -1)
        slices.append(slice(start, None if stop < 0 else stop, stride))
    return tuple(slices)


def _slice(node: Node, whole: mx.array) -> mx.array:
    return whole[_window(node, whole, node.specs[0].shape, node.state)]


def _slice_update(node: Node, whole: mx.array, part: mx.array) -> mx.array:
    if node.state[0] != 4:
        raise GraphError("combines what it writes with what was there; assign to the slice instead")
    changed = whole[...]
    changed[_window(node, whole, tuple(part.shape), node.state[1:])] = part
    return changed


def _split(node: Node, whole: mx.array) -> list[mx.array]:
    indices, axis = node.state
    if not 0 <= axis < whole.ndim or sorted(ends := [0, *indices, whole.shape[axis]]) != ends:
        raise GraphError("does not cut its array into parts")
    return mx.split(whole, indices, axis)


def _pad(node: Node, array: mx.array, value: mx.array) -> mx.array:
    axes, low, high = node.state
    if not len(axes) == len(low) == len(high) == len({axis for axis in axes if 0 <= axis < array.ndim}):
        raise GraphError("has not two widths for each of its axes")
    if min([*low, *high], default=0) < 0:
        raise GraphError("has a negative width")
    widths = dict(zip(axes, zip(low, high, strict=True), strict=True))
    return mx.pad(array, [widths.get(axis, (0, 0)) for axis in range(array.ndim)], constant_values=value)


def _view(node: Node, array: mx.array) -> mx.array:
    if node.state[0] == mx.bool_:
        raise GraphError("makes truth values that may be neither 0 nor 1")
    return array.view(node.state[0])


def _gather(node: Node, table: mx.array, *indices: mx.array) -> mx.array:
    axes, sizes = node.state
    rest = [axis for axis in range(table.ndim) if axis not in axes]
    if not axes or len(axes) != len(indices) or sorted([*axes, *rest]) != list(range(table.ndim)):
        raise GraphError("has not one index for each of its axes")
    if sizes != [1 if axis in axes else size for axis, size in enumerate(table.shape)]:
        raise GraphError("takes parts of rows")
    moved = table if [*axes, *rest] == list(range(table.ndim)) else table.transpose([*axes, *rest])
    return moved[tuple(indices)].reshape(node.specs[0].shape)


def _convolution(node: Node, array: mx.array, weight: mx.array) -> mx.array:
    strides, low, high, dilation, input_dilation, groups, flip = node.state
    if min([groups, *strides, *dilation, *input_dilation], default=1) < 1 or min([*low, *high], default=0) < 0:
        raise GraphError("has a stride, a dilation, a number of groups or a padding that is too small")
    # It multiplies them by sizes in 32 bits.
    if max([groups, *strides, *dilation, *input_dilation, *low, *high]) > 2**15:
        raise GraphError("has a stride, a dilation, a number of groups or a padding that is too large")
    return mx.conv_general(array, weight, strides, (low, high), dilation, input_dilation, groups, flip)


def _fft(node: Node, array: mx.array) -> mx.array:
    axes, inverse, real, _ = node.state
    function = ((mx.fft.fftn, mx.fft.rfftn), (mx.fft.ifftn, mx.fft.irfftn))[inverse][real]
    if not axes or len(set(axes)) != len(axes) or max(axes) >= array.ndim:
        raise GraphError("has no axes of its array")
    return function(array, [node.specs[0].shape[axis] for axis in axes] if inverse and real else None, axes)


UNARY = {
    "Abs": mx.abs, "ArcCos": mx.arccos, "ArcCosh": mx.arccosh, "ArcSin": mx.arcsin, "ArcSinh": mx.arcsinh,
    "ArcTan": mx.arctan, "ArcTanh": mx.arctanh, "Ceil": mx.ceil, "Conjugate": mx.conjugate, "Cos": mx.cos,
    "Cosh": mx.cosh, "Erf": mx.erf, "ErfInv": mx.erfinv, "Exp": mx.exp, "Expm1": mx.expm1, "Floor": mx.floor,
    "Imag": mx.imag, "Log1p": mx.log1p, "LogicalNot": mx.logical_not, "Negative": mx.negative, "Real": mx.real,
    "Round": mx.round, "Sigmoid": mx.sigmoid, "Sign": mx.sign, "Sin": mx.sin, "Sinh": mx.sinh, "Square": mx.square,
    "Tan": mx.tan, "Tanh": mx.tanh,
}  # fmt: skip
BINARY = {
    "ArcTan2": mx.arctan2, "Divide": mx.divide, "Greater": mx.greater, "GreaterEqual": mx.greater_equal,
    "Less": mx.less, "LessEqual": mx.less_equal, "LogAddExp": mx.logaddexp, "LogicalAnd": mx.logical_and,
    "LogicalOr": mx.logical_or, "Matmul": mx.matmul, "NotEqual": mx.not_equal, "Power": mx.power,
}  # fmt: skip
REDUCTIONS = (mx.all, mx.any, mx.sum, mx.prod, mx.min, mx.max)
SCANS = (mx.cummax, mx.cummin, mx.cumsum, mx.cumprod)
BITS = (mx.bitwise_and, mx.bitwise_or, mx.bitwise_xor, mx.left_shift, mx.right_shift)
LOGARITHMS = (mx.log2, mx.log10, mx.log)

OPERATORS = {
    **{name: _plain(function, 1) for name, function in UNARY.items()},
    **{name: _plain(function, 2) for name, function in BINARY.items()},
    # arithmetic, comparisons and choice
    "Add": _plain(mx.add, 2, lambda node, given, specs: _corners(lambda x, y: x + y, given)),
    "Subtract": _plain(mx.subtract, 2, lambda node, given, specs: _corners(lambda x, y: x - y, given)),
    "Multiply": _plain(mx.multiply, 2, lambda node, given, specs: _corners(lambda x, y: x * y, given)),
    "Maximum": _plain(mx.maximum, 2, lambda node, given, specs: tuple(map(max, *given))),
    "Minimum": _plain(mx.minimum, 2, lambda node, given, specs: tuple(map(min, *given))),
    "Remainder": _plain(mx.remainder, 2, _remainder_bounds),
    "FloorDivide": _plain(mx.floor_divide, 2, _quotient_bounds),
    "DivMod": _plain(
        mx.divmod, 2, lambda node, given, specs: [f(node, given, specs) for f in (_quotient_bounds, _remainder_bounds)]
    ),
    "BitwiseBinary": Operator("i", lambda node, x, y: _one_of(node, BITS)(x, y), 2, _bitwise_bounds),
    "Equal": Operator("b", lambda node, x, y: (x == y) | ((x != x) & (y != y)) if node.state[0] else x == y, 2),
    "Log": Operator("i", lambda node, x: _one_of(node, LOGARITHMS)(x), 1),
    "Sqrt": Operator("b", lambda node, x: mx.rsqrt(x) if node.state[0] else mx.sqrt(x), 1),
    "Select": _plain(mx.where, 3, lambda node, given, specs: _union(given[1:])),
    # products
    "AddMM": Operator("ff", lambda node, x, y, z: mx.addmm(z, x, y, *node.state), 3),
    "GatherMM": Operator("bb", lambda node, x, y, i, j: mx.gather_mm(x, y, i, j), 4),
    "Convolution": Operator("nnnnnib", _convolution, 2),
    "FFT": Operator("zbbb", _fft, 1),
    "Hadamard": Operator("f", lambda node, x: mx.hadamard_transform(x, node.state[0]), 1),
    # reductions, scans, sorting
    "Reduce": Operator(
        "in", lambda node, x: _one_of(node, REDUCTIONS)(x, axis=node.state[1], keepdims=True), 1, _reduce_bounds
    ),
    "Softmax": Operator("b", lambda node, x: mx.softmax(x, axis=-1, precise=node.state[0]), 1),
    "LogSumExp": Operator("", lambda node, x: mx.logsumexp(x, axis=-1, keepdims=True), 1),
    "Scan": Operator(
        "iibb",
        lambda node, x: _one_of(node, SCANS)(x, axis=node.state[1], reverse=node.state[2], inclusive=node.state[3]),
        1,
        _scan_bounds,
    ),
    "ArgReduce": Operator(
        "ii",
        lambda node, x: _one_of(node, (mx.argmin, mx.argmax))(x, axis=node.state[1], keepdims=True),
        1,
        _position_bounds(1),
    ),
    "Sort": Operator("i", lambda node, x: mx.sort(x, axis=node.state[0]), 1, _same),
    "ArgSort": Operator("i", lambda node, x: mx.argsort(x, axis=node.state[0]), 1, _position_bounds(0)),
    "Partition": Operator("ii", lambda node, x: mx.partition(x, *node.state), 1, _same),
    "ArgPartition": Operator("ii", lambda node, x: mx.argpartition(x, *node.state), 1, _position_bounds(1)),
    # looking up
    "Gather": Operator("nn", _gather, None, _same),
    "GatherAxis": Operator("i", lambda node, x, at: mx.take_along_axis(x, at, axis=node.state[0]), 2, _same),
    # shapes
    "Reshape": Operator("n", lambda node, x: x.reshape(node.specs[0].shape), 1, _same),
    "Flatten": Operator("ii", lambda node, x: x.reshape(node.specs[0].shape), 1, _same),
    "Unflatten": Operator("in", lambda node, x: x.reshape(node.specs[0].shape), 1, _same),
    "Squeeze": Operator("n", lambda node, x: mx.squeeze(x, node.state[0]), 1, _same),
    "ExpandDims": Operator("n", lambda node, x: mx.expand_dims(x, node.state[0]), 1, _same),
    "Transpose": Operator("n", lambda node, x: mx.transpose(x, node.state[0]), 1, _same),
    "Broadcast": Operator("n", lambda node, x: mx.broadcast_to(x, node.specs[0].shape), 1, _same),
    "Slice": Operator("nnn", _slice, 1, _same),
    "SliceUpdate": Operator("innn", _slice_update, 2, lambda node, given, specs: _union(given)),
    "Split": Operator("ni", _split, 1, lambda node, given, specs: given * len(node.outputs)),
    "Concatenate": Operator(
        "i", lambda node, *x: mx.concatenate(x, axis=node.state[0]), None, lambda node, given, specs: _union(given)
    ),
    "Pad": Operator("nnn", _pad, 2, lambda node, given, specs: _union(given)),
    # types, new arrays, order
    "AsType": Operator("t", lambda node, x: x.astype(node.state[0]), 1, _same),
    "View": Operator("t", _view, 1),
    "Arange": Operator("ddd", _arange, 0, _arange_bounds),
    "Full": _plain(lambda x: x, 1, _same),  # of a broadcast value
    "Depends": Operator(
        "", lambda node, *x: list(x[: len(node.outputs)]), None, lambda node, given, specs: given[: len(node.outputs)]
    ),
}


def _numbers(array: mx.array) -> np.ndarray:
    """An array as NumPy sees it, in the same memory where that is possible."""
    return np.ascontiguousarray(np.array(array, copy=False))


@np.errstate(all="ignore")
def _softmax_by_numpy(node: Node, array: mx.array) -> mx.array:
    rows = _numbers(array).reshape(-1, array.shape[-1])
    result = np.empty_like(rows)
    step = max(1, 2**16 // rows.shape[1])  # what fits the cache of a core
    for start in range(0, len(rows), step):
        given, part = rows[start : start + step], result[start : start + step]
        np.subtract(given, given.max(-1, keepdims=True), out=part)
        np.exp(part, out=part)
        np.divide(part, part.sum(-1, keepdims=True), out=part)
    return mx.array(result.reshape(array.shape))


@np.errstate(all="ignore")
def _exp_by_numpy(node: Node, array: mx.array) -> mx.array:
    return mx.array(np.exp(_numbers(array)))


@np.errstate(all="ignore")
def _tanh_by_numpy(node: Node, array: mx.array) -> mx.array:
    return mx.array(np.tanh(_numbers(array)))


# In float32 on the CPU, where MLX takes 12 ns for each exp and NumPy one.
_BY_NUMPY = {"Softmax": _softmax_by_numpy, "Exp": _exp_by_numpy, "Tanh": _tanh_by_numpy}
# Computed as soon as the graph is at them: left to itself, MLX begins with all that it can, and holds it all.
_PRODUCTS = {"Matmul", "AddMM", "GatherMM", "Convolution", "FFT"}
_OF_NOTHING = {
    "Split",
    "Slice",
    "Concatenate",
}  # what mx.roll by 0 is made of; sizes of 0 are no business of the others
_PLACES = {"ArgReduce", "ArgSort", "ArgPartition"}
_VIEWS = {
    "Broadcast",
    "Squeeze",
    "ExpandDims",
    "Transpose",
    "Slice",
    "Split",
    "Full",
    "Depends",
}


def _check_arguments(node: Node, given: list[Bounds], specs: list[Spec]) -> None:
    """Raises GraphError for an index that may lie outside, and for integers that kernels cannot divide by."""
    lookups: list[tuple[int, int]] = []  # which input looks up, and in how many
    if node.name == "Gather":
        lookups = [(i + 1, specs[0].shape[axis]) for i, axis in enumerate(node.state[0])]
    elif node.name == "GatherAxis":
        lookups = [(1, specs[0].shape[node.state[0]])]
    elif node.name == "GatherMM":
        lookups = [(2, math.prod(specs[0].shape[:-2])), (3, math.prod(specs[1].shape[:-2]))]
    for i, size in lookups:
        low, high = given[i]
        if specs[i].dtype not in INTEGERS or low < 0 or high >= size:
            raise GraphError(
                f"looks up one of {size} by a number from {low} to {high}, as far as bounds are known: "
                f"take its remainder by {size} first"
            )
    if node.specs[0].dtype in INTEGERS:
        if node.name in ("Remainder", "FloorDivide", "DivMod") and given[1][0] < 1:
            raise GraphError("divides integers by what may be less than 1")
        if node.name == "Power" and given[1][0] < 0:
            raise GraphError("raises integers to a power that may be negative")


# ---- the graph -------------------------------------------------------------------------------------------------------


@dataclass
class Graph:
    """What a model computes: tokens int32 [rows, length] -> logits float32 [rows, length, vocab_size]."""

    nodes: list[Node]
    output: int
    constants: dict[int, mx.array]
    rows: int
    length: int
    about: dict
    frees: list[list[int]] = field(init=False)
    """For each call, the results that no later one needs."""

    def __post_init__(self) -> None:
        self.frees = [[] for _ in self.nodes]
        last: dict[int, int] = {}
        for i, node in enumerate(self.nodes):
            last.update(dict.fromkeys([*node.inputs, *node.outputs], i))
        for number in {0, self.output, *self.constants}:
            last.pop(number, None)
        for number, user in last.items():
            self.frees[user].append(number)

    @property
    def vocab_size(self) -> int:
        return self.about["vocab_size"]

    def __call__(self, tokens: np.ndarray | mx.array) -> mx.array:
        """Logits, float32 and evaluated, on the default device and stream of the calling thread.

        Raises GraphError for tokens of another type, shape or vocabulary, and for whatever an operator refuses.
        """
        tokens = np.asarray(tokens)
        if tokens.dtype != np.int32 or tokens.shape != (self.rows, self.length):
            raise GraphError(f"tokens are {tokens.dtype} {list(tokens.shape)}, not int32 {[self.rows, self.length]}")
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            raise GraphError(f"a token is not one of 0 to {self.vocab_size - 1}")
        logits = self._run(mx.array(tokens), rehearsal=False)
        with _faults("the graph"):
            logits = logits.astype(mx.float32)
            mx.eval(logits)
        return logits

    def _run(self, tokens: mx.array, rehearsal: bool) -> mx.array:
        """Makes the calls in order; a rehearsal computes nothing."""
        values = {0: tokens, **self.constants}
        faster = {} if rehearsal or mx.default_device() != mx.cpu else _BY_NUMPY
        for i, node in enumerate(self.nodes):
            with _faults(f"call {i} ({node.name})"):
                run = faster.get(node.name) if node.specs[0].dtype == mx.float32 else None
                results = (run or OPERATORS[node.name].run)(node, *[values[number] for number in node.inputs])
                results = [results] if isinstance(results, mx.array) else results
                if [_spec(result) for result in results] != node.specs:
                    got, written = (", ".join(map(str, specs)) for specs in (map(_spec, results), node.specs))
                    raise GraphError(f"returns {got} where the file says {written}")
                values.update(zip(node.outputs, results, strict=True))
                for number in self.frees[i]:
                    values.pop(number, None)
                if node.name in _PRODUCTS and not rehearsal:
                    mx.eval(results)
        return values[self.output]

    def check(self) -> None:
        """Rehearses the calls without computing them. Raises GraphError for what may not be run."""
        tokens = Spec((self.rows, self.length), mx.int32)
        specs = {0: tokens, **{number: _spec(array) for number, array in self.constants.items()}}
        bounds = {0: (0, self.vocab_size - 1), **{n: _constant_bounds(a) for n, a in self.constants.items()}}
        living = held = sum(specs[number].nbytes for number in self.constants)
        sizes: dict[int, int] = {}
        for i, node in enumerate(self.nodes):
            given = [bounds[number] for number in node.inputs]
            taken = [specs[number] for number in node.inputs]
            specs.update(zip(node.outputs, node.specs, strict=True))
            with _faults(f"call {i} ({node.name})"):
                if node.name not in _OF_NOTHING and any(0 in spec.shape for spec in [*taken, *node.specs]):
                    raise GraphError("is of an array that holds nothing")
                _check_arguments(node, given, taken)
                rule = OPERATORS[node.name].bounds
                # Other results of floats are floats too, or nothing is known of them.
                known = rule and (node.name in _PLACES or all(b is not None for b in given))
                found = rule(node, given, taken) if known else None
            found = found if isinstance(found, list) else [found] * len(node.outputs)
            for number, spec, pair in zip(node.outputs, node.specs, found, strict=True):
                bounds[number] = _within(pair, spec.dtype)
                sizes[number] = 0 if node.name in _VIEWS else spec.nbytes
                held += sizes[number]
            living = max(living, held)
            held -= sum(sizes.get(number, 0) for number in self.frees[i])
        if living > MAX_LIVING_BYTES:
            raise GraphMemoryError(
                f"the graph holds {living / 2**30:.1f} GB at once, more than {MAX_LIVING_BYTES / 2**30:.1f}"
            )
        logits = self._run(mx.zeros(tokens.shape, tokens.dtype), rehearsal=True)
        if tuple(logits.shape) != (*tokens.shape, self.vocab_size):
            raise GraphError(f"logits are {_spec(logits)}, not {[*tokens.shape, self.vocab_size]}")
        if logits.dtype not in FLOATS:
            raise GraphError(f"logits are {_spec(logits)}, not floating point")


def _constant_bounds(array: mx.array) -> Bounds | None:
    if array.dtype not in INTEGERS or not array.size:
        return None
    return int(array.min().item()), int(array.max().item())


def _within(found: Bounds | None, dtype: mx.Dtype) -> Bounds | None:
    """Bounds of an array of that type: those found, or all it can hold where some may have wrapped around."""
    if dtype not in INTEGERS:
        return None
    least, most = INTEGERS[dtype]
    return found if found and least <= found[0] and found[1] <= most else (least, most)


@contextlib.contextmanager
def _faults(step: str) -> Iterator[None]:
    """What MLX or a check raises about one step, as a GraphError of one sentence that names the step."""
    try:
        yield
    except GraphMemoryError:
        raise
    except GraphError as error:
        raise GraphError(f"{step} {error}") from None
    except Exception as error:
        if out_of_memory(error):
            raise GraphMemoryError(f"{step} needs more memory than there is: {_sentence(error)}") from error
        raise GraphError(f"{step} failed: {_sentence(error)}") from error


def _sentence(error: BaseException) -> str:
    """The first line of a message, without the control characters that a hostile file may have put there."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return "".join(letter if letter.isprintable() else "?" for letter in text)


# ---- writing ---------------------------------------------------------------------------------------------------------


def check(function: Callable[[mx.array], mx.array], rows: int, length: int, vocab_size: int) -> None:
    """Raises GraphError, a sentence, where `save` would: before training, so that nothing is trained in vain."""
    about = {"tokenizer_sha256": "", "data": "", "vocab_size": vocab_size, "sequence_length": length}
    with tempfile.TemporaryDirectory() as folder:
        _parse(_traced(function, os.path.join(folder, "model.mlxfn"), rows, length, about)).check()


def save(
    function: Callable[[mx.array], mx.array], path: str | os.PathLike, rows: int, length: int, about: dict
) -> None:
    """Writes function(tokens int32 [rows, length]) -> logits [rows, length, V] to `path`, or leaves `path` as it was.

    `about` is kept with it: at least tokenizer_sha256 and data (the data set's name), vocab_size and sequence_length.
    Raises GraphError for a function or an `about` that `load` would refuse, and where the file cannot be written.
    """
    path = os.path.abspath(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=".model-", suffix=".mlxfn", dir=os.path.dirname(path))
        os.close(handle)
        content = _traced(function, temporary, rows, length, about)
        # Through the reader, so that what is written is what will be read.
        _parse(content).check()
        with open(temporary, "ab") as file:
            file.write(hashlib.sha256(content).digest())
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise GraphError(f"cannot write {path}: {error}") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def _traced(function: Callable[[mx.array], mx.array], path: str, rows: int, length: int, about: dict) -> bytes:
    """What mx.export_function writes to that path."""
    _check_about(about, length)
    try:
        with mx.stream(mx.cpu):
            mx.export_function(path, function, mx.zeros((rows, length), mx.int32), metadata=json.dumps(about))
    except Exception as error:
        named = re.search(r"primitive (\w+)", str(error))
        hint = f"; {INSTEAD[named.group(1)]}" if named and named.group(1) in INSTEAD else ""
        raise GraphError(f"mx.export_function cannot trace the model: {_sentence(error)}{hint}") from error
    with open(path, "rb") as file:
        return file.read()


def _check_about(about: Any, length: int) -> None:
    if not isinstance(about, dict):
        raise GraphError("`about` is no object")
    for key, kind in ABOUT.items():
        if type(about.get(key)) is not kind:
            raise GraphError(f"`about` lacks {key} ({kind.__name__})")
    try:
        size = len(json.dumps(about, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise GraphError(f"`about` is no JSON: {error}") from None
    if size > MAX_ABOUT_BYTES:
        raise GraphError(f"`about` has more than {MAX_ABOUT_BYTES:,} bytes")
    if about["sequence_length"] != length:
        raise GraphError(f"`about` says sequence_length {about['sequence_length']}, the graph has {length}")
    if about["vocab_size"] < 1:
        raise GraphError(f"`about` says vocab_size {about['vocab_size']}, which is no count")


# ---- reading ---------------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike) -> Graph:
    """The graph in that file: its hash, its calls, and by a rehearsal all types, shapes and indices are checked.

    Nothing of the file is executed. Raises GraphError, one sentence, for whatever is not a graph written by `save`.
    """
    name = os.path.basename(os.fspath(path))
    try:
        # O_NONBLOCK: a pipe must not hold the reader up.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise GraphError(f"cannot open {name}: {getattr(error, 'strerror', None) or error}") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise GraphError(f"{name} is no plain file")
        if status.st_size > MAX_FILE_BYTES:
            raise GraphError(f"{name} has {status.st_size:,} bytes, more than {MAX_FILE_BYTES:,}")
        with open(handle, "rb", closefd=False) as file:
            content = file.read()
    finally:
        os.close(handle)
    if hashlib.sha256(content[:-HASH_BYTES]).digest() != content[-HASH_BYTES:]:
        raise GraphError(f"{name} does not end with its hash: it was truncated or altered, or is no such file")
    graph = _parse(memoryview(content)[:-HASH_BYTES])
    graph.check()
    return graph


class _Reader:
    """Reads the bytes from the left. Raises GraphError where they end too early, or say what is out of all bounds."""

    def __init__(self, content: bytes | memoryview) -> None:
        self.content, self.at = content, 0

    def take(self, size: int) -> memoryview:
        if size > len(self.content) - self.at:
            raise GraphError("the file ends in the middle of the graph")
        self.at += size
        return memoryview(self.content)[self.at - size : self.at]

    def number(self, code: str) -> int | float:
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def flag(self) -> bool:
        value = self.number("B")
        if value > 1:
            raise GraphError("a truth value in the file is neither 0 nor 1")
        return value == 1

    def count(self, most: int) -> int:
        value = self.number("Q")
        if value > most:
            raise GraphError(f"a list in the file has {value:,} entries, more than {most:,}")
        return value

    def numbers(self, code: str, most: int = MAX_LIST) -> list[int]:
        count = self.count(most)
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code))))

    def text(self, most: int) -> str:
        try:
            return bytes(self.take(self.count(most))).decode()
        except UnicodeDecodeError:
            raise GraphError("a text in the file is not UTF-8") from None

    def dtype(self) -> mx.Dtype:
        code, size = self.number("i"), self.number("B")
        if code not in DTYPES or DTYPES[code].size != size:
            raise GraphError(f"the file has an array of a type (number {code}) that the graph cannot hold")
        return DTYPES[code]

    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.numbers("i", MAX_DIMENSIONS))
        if any(size < 0 for size in shape):
            raise GraphError(f"the file has an array of shape {list(shape)}")
        if math.prod(shape) > MAX_LIVING_BYTES:
            raise GraphMemoryError(f"the file has an array of shape {list(shape)}, too large")
        return shape

    def spec(self) -> Spec:
        return Spec(self.shape(), self.dtype())

    def state(self, layout: str) -> list[Any]:
        read = {
            "i": lambda: self.number("i"),
            "n": lambda: self.numbers("i"),
            "z": lambda: self.numbers("Q"),
            "b": self.flag,
            "f": lambda: self.number("f"),
            "d": lambda: self.number("d"),
            "t": self.dtype,
        }
        return [read[letter]() for letter in layout]

    def constant(self) -> mx.array:
        spec = self.spec()
        content = self.take(spec.nbytes)
        kind = str(spec.dtype).removeprefix("mlx.core.")
        if spec.dtype == mx.bool_:
            # Any other byte than 0 and 1 would be a bool that is neither.
            return mx.array(np.frombuffer(content, np.uint8).reshape(spec.shape) != 0)
        if spec.dtype == mx.bfloat16:  # which NumPy has not
            return mx.array(np.frombuffer(content, np.uint16).reshape(spec.shape)).view(mx.bfloat16)
        return mx.array(np.frombuffer(content, kind).reshape(spec.shape))


def _parse(content: bytes | memoryview) -> Graph:
    """The Graph of what mx.export_function wrote; `check` still has to look at what its calls mean."""
    reader = _Reader(content)
    version = reader.text(100)
    if version != mx.__version__:
        raise GraphError(f"the file was written by MLX {version!r}, and this is MLX {mx.__version__}: export it again")
    functions, shapeless = reader.number("i"), reader.flag()
    try:
        about = json.loads(reader.text(2 * MAX_ABOUT_BYTES))
    except (ValueError, RecursionError) as error:
        raise GraphError(f"`about` in the file is no JSON: {_sentence(error)}") from None
    reader.count(0)  # of inputs by name
    inputs = reader.numbers("Q")
    specs = [reader.spec() for _ in range(reader.count(MAX_LIST))]
    outputs = reader.numbers("Q")
    if functions != 1 or shapeless or not len(inputs) == len(specs) == 1 or len(outputs) != 1:
        raise GraphError("the file is not of one function of tokens that returns logits and nothing else")
    if specs[0].dtype != mx.int32 or len(specs[0].shape) != 2 or 0 in specs[0].shape:
        raise GraphError(f"the function takes {specs[0]}, not tokens int32 [rows, length]")
    rows, length = specs[0].shape
    _check_about(about, length)
    if rows * length * about["vocab_size"] > MAX_LOGITS:
        raise GraphError(
            f"a batch of {rows} rows gives {rows * length * about['vocab_size']:,} logits, more than {MAX_LOGITS:,}: "
            "export the model with fewer rows"
        )
    known = {inputs[0]: 0}  # the number of a value by its name in the file
    nodes: list[Node] = []
    constants: dict[int, mx.array] = {}
    for _ in range(reader.count(MAX_NODES)):
        name = reader.number("Q")
        if reader.flag():
            nodes.append(_parse_call(reader, name, known, len(nodes)))
        elif reader.flag():
            constants[_new(name, known)] = reader.constant()
        elif known.get(name) != 0:
            raise GraphError("the file has a value that is neither the tokens, nor a constant, nor a result")
    if reader.at != len(content):
        raise GraphError("the file goes on behind the graph")
    if outputs[0] not in known:
        raise GraphError("the function returns a value that the file does not hold")
    with _faults("the file's constants"):
        mx.eval(constants)  # here, since the threads of an evaluation share them
    return Graph(nodes, known[outputs[0]], constants, rows, length, about)


def _new(name: int, known: dict[int, int]) -> int:
    """The number for a value that the file calls `name`."""
    if name in known:
        raise GraphError("the file has two values of one name")
    known[name] = len(known)
    return known[name]


def _parse_call(reader: _Reader, name: int, known: dict[int, int], i: int) -> Node:
    inputs = reader.numbers("Q")
    reader.take(12)  # on which stream and device: the reader decides that
    primitive = reader.text(200)
    where = f"call {i} ({primitive})" if primitive in OPERATORS else f"call {i}"
    if primitive not in OPERATORS:
        hint = INSTEAD.get(primitive)
        raise GraphError(f"{where} is of {primitive!r}, which evaluation does not run; {hint or WHERE}")
    if any(number not in known for number in inputs):
        raise GraphError(f"{where} uses a value that does not come before it")
    operator = OPERATORS[primitive]
    if operator.arity not in (None, len(inputs)) or (operator.arity is None and not inputs):
        raise GraphError(f"{where} has {len(inputs)} inputs")
    given = [known[number] for number in inputs]
    state = reader.state(operator.layout)
    if reader.count(MAX_LIST) == 0:  # how many results come with the first
        return Node(primitive, state, given, [_new(name, known)], [reader.spec()])
    names = reader.numbers("Q")
    shapes = [reader.shape() for _ in range(reader.count(MAX_LIST))]
    dtypes = [reader.dtype() for _ in range(reader.count(MAX_LIST))]
    if not len(names) == len(shapes) == len(dtypes) or name not in names:
        raise GraphError(f"{where} does not say what its results are")
    return Node(primitive, state, given, [_new(n, known) for n in names], list(map(Spec, shapes, dtypes)))
