"""A trained model as data: `save` writes what it computes, `load` reads it back and runs none of its code.

mx.export_function traces the model and lists its calls of MLX's primitives. The file is a safetensors of the constants
with the calls as JSON in its metadata, and behind that the SHA-256 of it all. It is not what mx.export_function writes
itself, which is undocumented and changes with MLX. And mx.import_function believes what it reads (seen in mlx 0.32.4):
shapes decide how much memory kernels get, indices are looked up unchecked, a primitive may be the source of a kernel.
Nor does it say which calls there are: its constants are lazy, so they can be listed only after they were run.

`load` parses in Python, and a graph makes each call anew by MLX's public operators, which compute shapes and types
again; they must be those in the file. It knows the primitives in OPERATORS and no others: functions of arrays, none
draws random numbers, writes by index, or looks beyond its arguments. Kernels do not check indices, so `load` proves
them: whatever looks something up must have bounds that follow from the constants and from the number of tokens. It
refuses a graph whose constants and results need more memory than is free. What MLX's kernels take for themselves is not
in that sum, nor what other processes take later, and on Linux the process ends where memory does, since MLX does not
look whether it got any. Otherwise a hostile file can compute wrong numbers or take long; faults inside MLX's own
operators are the risk left.

Tracing happens on the CPU, where MLX lists its fast kernels (norms, attention, rotary embeddings) as plain primitives.
Any device can run those.

    save(function, "model.graph", rows=16, length=2048, about={"tokenizer_sha256": ..., "vocab_size": 8192, ...})
    logits = load("model.graph")(tokens)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
from machine import BLAS_BUFFER, free_memory, mx, out_of_memory

MAX_FILE_BYTES = 4 * 10**9
MAX_GRAPH_BYTES = 10 * 2**20  # as JSON; the file's header, which has it and `about` as texts, may have twice as many
MAX_LIST = 4096  # numbers in an argument of a call
MAX_DIMENSIONS = 16
MAX_ABOUT_BYTES = 100_000
MAX_LOGITS = 2**27  # of one batch: 0.5 GB in float32
MAX_LIVING_BYTES = 8 * 2**30  # of constants and results that one run holds at once; on a CPU two run side by side
HASH_BYTES = 32
ABOUT = {"tokenizer_sha256": str, "data": str, "vocab_size": int, "sequence_length": int}
TOKENS = "tokens"
# By their names in safetensors. float64 is left out: a GPU has none.
DTYPES = {
    "BOOL": mx.bool_, "U8": mx.uint8, "U16": mx.uint16, "U32": mx.uint32, "U64": mx.uint64, "I8": mx.int8,
    "I16": mx.int16, "I32": mx.int32, "I64": mx.int64, "F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32,
    "C64": mx.complex64,
}  # fmt: skip
CODES = {dtype: code for code, dtype in DTYPES.items()}
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
    """One call. Inputs and outputs are names of values; TOKENS is that of the tokens."""

    name: str
    state: list[Any]
    """The primitive's own arguments, which are no arrays."""
    inputs: list[str]
    outputs: list[str]
    specs: list[Spec]
    """Of the outputs."""


# ---- the operators ---------------------------------------------------------------------------------------------------

Bounds = tuple[int, int]  # the least and the greatest value that an array of integers can hold


@dataclass(frozen=True)
class Operator:
    """How a primitive is read and run."""

    layout: str
    """Kinds of its arguments, a letter each: keys of KINDS."""
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
    start, step = int(start), int(step)
    last = start + (node.specs[0].shape[0] - 1) * step
    # MLX's step is the difference of two doubles, which are whole numbers up to here.
    if max(abs(start), abs(start + step), abs(last), abs(last + step)) > 2**53:
        return None
    return min(start, last), max(start, last)


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
    if not axes or len(set(axes)) != len(axes) or min(axes) < 0 or max(axes) >= array.ndim:
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
    "FFT": Operator("nbbb", _fft, 1),
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
    "Arange": Operator("fff", _arange, 0, _arange_bounds),
    "Full": _plain(lambda x: x, 1, _same),  # of a broadcast value
    "Depends": Operator(
        "", lambda node, *x: list(x[: len(node.outputs)]), None, lambda node, given, specs: given[: len(node.outputs)]
    ),
}


def _numbers(array: mx.array) -> np.ndarray:
    """An array as NumPy sees it, in the same memory where that is possible."""
    return np.asarray(np.array(array, copy=False), order="C")  # np.ascontiguousarray makes [1] of a scalar


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


def _by_numpy(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Node, mx.array], mx.array]:
    return np.errstate(all="ignore")(lambda node, array: mx.array(function(_numbers(array))))


# In float32 on the CPU, where MLX takes 12 ns for each exp and NumPy one.
_BY_NUMPY = {"Softmax": _softmax_by_numpy, "Exp": _by_numpy(np.exp), "Tanh": _by_numpy(np.tanh)}
# Computed as soon as the graph is at them: left to itself, MLX begins with all that it can, and holds it all.
_PRODUCTS = {"Matmul", "AddMM", "GatherMM", "Convolution", "FFT"}
# What mx.roll by 0 is made of; sizes of 0 are no business of the others.
_OF_NOTHING = {"Split", "Slice", "Concatenate"}
_PLACES = {"ArgReduce", "ArgSort", "ArgPartition"}
_VIEWS = {"Broadcast", "Squeeze", "ExpandDims", "Transpose", "Slice", "Split", "Full", "Depends"}


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
    output: str
    constants: dict[str, mx.array]
    rows: int
    length: int
    about: dict
    frees: list[list[int]] = field(init=False)
    """For each call, the results that no later one needs."""

    def __post_init__(self) -> None:
        self.frees = [[] for _ in self.nodes]
        last: dict[str, int] = {}
        for i, node in enumerate(self.nodes):
            last.update(dict.fromkeys([*node.inputs, *node.outputs], i))
        for name in {TOKENS, self.output, *self.constants}:
            last.pop(name, None)
        for name, user in last.items():
            self.frees[user].append(name)

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
        values = {TOKENS: tokens, **self.constants}
        faster = {} if rehearsal or mx.default_device() != mx.cpu else _BY_NUMPY
        for i, node in enumerate(self.nodes):
            with _faults(f"call {i} ({node.name})"):
                run = faster.get(node.name) if node.specs[0].dtype == mx.float32 else None
                results = (run or OPERATORS[node.name].run)(node, *[values[name] for name in node.inputs])
                results = [results] if isinstance(results, mx.array) else results
                if [_spec(result) for result in results] != node.specs:
                    got, written = (", ".join(map(str, specs)) for specs in (map(_spec, results), node.specs))
                    raise GraphError(f"returns {got} where the file says {written}")
                values.update(zip(node.outputs, results, strict=True))
                for name in self.frees[i]:
                    values.pop(name, None)
                if node.name in _PRODUCTS and not rehearsal:
                    mx.eval(results)
        return values[self.output]

    def check(self) -> None:
        """Rehearses the calls without computing them. Raises GraphError for what may not be run."""
        tokens = Spec((self.rows, self.length), mx.int32)
        specs = {TOKENS: tokens, **{name: _spec(array) for name, array in self.constants.items()}}
        bounds = {TOKENS: (0, self.vocab_size - 1), **{n: _constant_bounds(a) for n, a in self.constants.items()}}
        living = held = sum(specs[name].nbytes for name in self.constants)
        sizes: dict[str, int] = {}
        for i, node in enumerate(self.nodes):
            given = [bounds[name] for name in node.inputs]
            taken = [specs[name] for name in node.inputs]
            specs.update(zip(node.outputs, node.specs, strict=True))
            with _faults(f"call {i} ({node.name})"):
                if node.name not in _OF_NOTHING and any(0 in spec.shape for spec in [*taken, *node.specs]):
                    raise GraphError("is of an array that holds nothing")
                _check_arguments(node, given, taken)
                bounds.update(zip(node.outputs, _bounds(node, given, taken), strict=True))
                for name, spec in zip(node.outputs, node.specs, strict=True):
                    sizes[name] = 0 if node.name in _VIEWS else spec.nbytes
                    held += sizes[name]
            living = max(living, held)
            held -= sum(sizes.get(name, 0) for name in self.frees[i])
        if living > MAX_LIVING_BYTES:
            raise GraphMemoryError(
                f"the graph holds {living / 2**30:.1f} GB at once, more than {MAX_LIVING_BYTES / 2**30:.1f}"
            )
        # Two threads evaluate. On a CPU nothing else would find out before the process breaks.
        needed = 2 * (living + BLAS_BUFFER)
        if mx.default_device() == mx.cpu and (free := free_memory()) < needed:
            raise GraphMemoryError(
                f"the graph needs {needed / 2**20:.0f} MB in two threads, and {free / 2**20:.0f} are free"
            )
        logits = self._run(mx.zeros(tokens.shape, tokens.dtype), rehearsal=True)
        if tuple(logits.shape) != (*tokens.shape, self.vocab_size):
            raise GraphError(f"logits are {_spec(logits)}, not {[*tokens.shape, self.vocab_size]}")
        if logits.dtype not in FLOATS:
            raise GraphError(f"logits are {_spec(logits)}, not floating point")


def _bounds(node: Node, given: list[Bounds | None], specs: list[Spec]) -> list[Bounds | None]:
    """Bounds of a call's outputs by those of its inputs, which have these specs; None for what is no integer."""
    rule = OPERATORS[node.name].bounds
    # Other results of floats are floats too, or nothing is known of them.
    known = rule and (node.name in _PLACES or all(pair is not None for pair in given))
    found = rule(node, given, specs) if known else None
    found = found if isinstance(found, list) else [found] * len(node.outputs)
    return [_within(pair, spec.dtype) for pair, spec in zip(found, node.specs, strict=True)]


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
    _graph(*_traced(function, rows, length), about).check()


def save(
    function: Callable[[mx.array], mx.array], path: str | os.PathLike, rows: int, length: int, about: dict
) -> None:
    """Writes function(tokens int32 [rows, length]) -> logits [rows, length, V] to `path`, or leaves `path` as it was.

    `about` is kept with it: at least tokenizer_sha256 and data (the data set's name), vocab_size and sequence_length.
    Raises GraphError for a function or an `about` that `load` would refuse, and where the file cannot be written.
    """
    path = os.path.abspath(path)
    _check_about(about)
    if about["sequence_length"] != length:
        raise GraphError(f"`about` says sequence_length {about['sequence_length']}, the graph has {length}")
    text, constants = _traced(function, rows, length)
    _graph(text, constants, about).check()
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=".model-", suffix=".tmp", dir=os.path.dirname(path))
        with open(handle, "w+b") as file:
            mx.save_safetensors(file, constants, {"about": json.dumps(about), "graph": text})
            file.seek(0)
            file.write(hashlib.file_digest(file, "sha256").digest())  # which has read up to the end
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


def _traced(function: Callable[[mx.array], mx.array], rows: int, length: int) -> tuple[str, dict[str, mx.array]]:
    """The calls that mx.export_function lists, as JSON that `_graph` reads, and the constants."""
    parts: list[dict] = []
    try:
        with mx.stream(mx.cpu):
            mx.export_function(parts.append, function, mx.zeros((rows, length), mx.int32))
    except Exception as error:
        named = re.search(r"primitive (\w+)", str(error))
        hint = f"; {INSTEAD[named.group(1)]}" if named and named.group(1) in INSTEAD else ""
        raise GraphError(f"mx.export_function cannot trace the model: {_sentence(error)}{hint}") from error
    lists = {part["type"]: part for part in parts}
    ((tokens, _, _),) = lists["inputs"]["inputs"]
    if len(outputs := lists["outputs"]["outputs"]) != 1:
        raise GraphError(f"the function returns {len(outputs)} arrays, not logits and nothing else")

    ours = {tokens: TOKENS}
    calls = [
        {
            "name": part["name"],
            "arguments": part["arguments"],
            "inputs": [ours.get(name, name) for name, _, _ in part["inputs"]],
            "outputs": part["outputs"],
        }
        for part in parts
        if part["type"] == "primitive"
    ]
    graph = {"rows": rows, "output": ours.get(outputs[0][0], outputs[0][0]), "calls": calls}
    # Types get their names; what else is no JSON belongs to primitives that evaluation does not run.
    text = json.dumps(graph, default=lambda value: CODES.get(value) or str(value))
    return text, dict(lists["constants"]["constants"])


def _check_about(about: Any) -> None:
    if not isinstance(about, dict):
        raise GraphError("`about` is no object")
    for key, kind in ABOUT.items():
        if type(about.get(key)) is not kind:
            raise GraphError(f"`about` lacks {key} ({kind.__name__})")
        if kind is int and about[key] < 1:
            raise GraphError(f"`about` says {key} {about[key]}, which is no count")
    try:
        size = len(json.dumps(about, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise GraphError(f"`about` is no JSON: {error}") from None
    if size > MAX_ABOUT_BYTES:
        raise GraphError(f"`about` has more than {MAX_ABOUT_BYTES:,} bytes")


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
            content = memoryview(file.read())
    finally:
        os.close(handle)
    content, written = content[:-HASH_BYTES], content[-HASH_BYTES:]
    if hashlib.sha256(content).digest() != written:
        raise GraphError(f"{name} does not end with its hash: it was truncated or altered, or is no such file")
    size = int.from_bytes(content[:8], "little")
    if size > min(len(content) - 8, 2 * MAX_GRAPH_BYTES):
        raise GraphError(f"the header of {name} has {size:,} bytes, too many")
    with _faults("the header"):
        places = _json(bytes(content[8 : 8 + size]), "as written")
        about, text = itemgetter("about", "graph")(places.pop("__metadata__"))
    about = _json(about, "`about` in the file")
    _check_about(about)
    graph = _graph(text, _constants(places, content[8 + size :]), about)
    graph.check()
    return graph


def _json(text: str | bytes, what: str) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise GraphError(f"{what} is no JSON: {_sentence(error)}") from None


def _constants(places: dict[str, Any], content: memoryview) -> dict[str, mx.array]:
    """The arrays of a safetensors file; `places` is its header, content what follows that."""
    constants, at = {}, 0
    # As they lie in the file, where none may share the bytes of another.
    with _faults("the list of constants"):
        for name, place in sorted(places.items(), key=lambda item: item[1]["data_offsets"]):
            spec = _read_spec(place["shape"], place["dtype"])
            if place["data_offsets"] != [at, at + spec.nbytes] or at + spec.nbytes > len(content):
                raise GraphError(f"has {spec} where its bytes are not")
            constants[name] = _constant(content[at : at + spec.nbytes], spec)
            at += spec.nbytes
        if at != len(content):
            raise GraphError(f"leaves out {len(content) - at:,} bytes")
        mx.eval(constants)  # here, since the threads of an evaluation share them
    return constants


def _constant(content: memoryview, spec: Spec) -> mx.array:
    if spec.dtype == mx.bool_:
        # Any other byte than 0 and 1 would be a bool that is neither.
        return mx.array(np.frombuffer(content, np.uint8).reshape(spec.shape) != 0)
    if spec.dtype == mx.bfloat16:  # which NumPy has not
        return mx.array(np.frombuffer(content, np.uint16).reshape(spec.shape)).view(mx.bfloat16)
    kind = str(spec.dtype).removeprefix("mlx.core.")
    return mx.array(np.frombuffer(content, kind).reshape(spec.shape))


def _is_int(value: Any) -> bool:
    return type(value) is int and -(2**31) <= value < 2**31


KINDS: dict[str, Callable[[Any], bool]] = {
    "i": _is_int,
    "n": lambda value: isinstance(value, list) and len(value) <= MAX_LIST and all(map(_is_int, value)),
    "b": lambda value: isinstance(value, bool),
    "f": lambda value: isinstance(value, float),
    "t": lambda value: isinstance(value, str) and value in DTYPES,
}


def _read_spec(shape: Any, code: Any) -> Spec:
    if not KINDS["t"](code):
        raise GraphError(f"has an array of a type ({str(code)[:50]!r}) that the graph cannot hold")
    if not KINDS["n"](shape) or len(shape) > MAX_DIMENSIONS or min(shape, default=0) < 0:
        raise GraphError(f"has an array of shape {str(shape)[:50]!r}")
    if math.prod(shape) > MAX_LIVING_BYTES:
        raise GraphMemoryError(f"an array of shape {shape} is too large")
    return Spec(tuple(shape), DTYPES[code])


def _graph(text: str, constants: dict[str, mx.array], about: dict) -> Graph:
    """The Graph of what `_traced` returned; `check` still has to look at what its calls mean."""
    known, nodes = {TOKENS}, []
    with _faults("the graph"):
        if len(text) > MAX_GRAPH_BYTES:
            raise GraphError(f"has more than {MAX_GRAPH_BYTES:,} bytes as JSON")
        rows, output, calls = itemgetter("rows", "output", "calls")(_json(text, "as written"))
        if not (_is_int(rows) and rows > 0 and isinstance(output, str) and isinstance(calls, list)):
            raise GraphError("has not the rows, the output and the calls of a function of tokens")
        logits = rows * about["sequence_length"] * about["vocab_size"]
        if logits > MAX_LOGITS:
            raise GraphError(
                f"gives {logits:,} logits for a batch of {rows} rows, more than {MAX_LOGITS:,}: "
                "export the model with fewer rows"
            )
        for name, array in constants.items():
            _new(name, known)
            if array.dtype not in CODES:
                raise GraphError(f"has a constant of a type ({_spec(array)}) that it cannot hold")
    for i, call in enumerate(calls):
        with _faults(f"call {i}"):
            nodes.append(_node(call, known))
    if output not in known:
        raise GraphError("the function returns a value that the graph does not hold")
    return Graph(nodes, output, constants, rows, about["sequence_length"], about)


def _new(name: str, known: set[str]) -> str:
    if not isinstance(name, str) or name in known:
        raise GraphError(f"has a value of the name {str(name)[:50]!r}, which is taken or no name")
    known.add(name)
    return name


def _node(call: dict, known: set[str]) -> Node:
    """A call that uses values of the names in `known`, and adds its own."""
    name, state, inputs, outputs = itemgetter("name", "arguments", "inputs", "outputs")(call)
    if name not in OPERATORS:
        raise GraphError(f"is of {name[:200]!r}, which evaluation does not run; {INSTEAD.get(name, WHERE)}")
    if not known.issuperset(inputs):
        raise GraphError(f"({name}) uses a value that does not come before it")
    operator = OPERATORS[name]
    if operator.arity not in (None, len(inputs)) or (operator.arity is None and not inputs):
        raise GraphError(f"({name}) has {len(inputs)} inputs")
    specs = [_read_spec(shape, code) for _, shape, code in outputs]
    names = [_new(value, known) for value, _, _ in outputs]
    if len(state) != len(operator.layout) or not all(KINDS[k](x) for k, x in zip(operator.layout, state, strict=True)):
        raise GraphError(f"({name}) has arguments of other kinds")
    state = [DTYPES[x] if kind == "t" else x for kind, x in zip(operator.layout, state, strict=True)]
    return Node(name, state, inputs, names, specs)
