"""A trained model as data: `trace` and `save` write what it computes, `load` reads it back and runs none of its code.

The file is one .safetensors: the weights, and in its metadata the graph as JSON, a list of calls of PyTorch operators.
`load` knows the operators listed in OPERATORS and no others, and checks every call before the first one is made. They
are functions of tensors: none draws random numbers, changes a tensor in place, opens a file, returns uninitialised
memory or looks beyond the elements of its arguments, with the arguments that `load` lets through: it bounds numbers,
and rehearses the shapes of all calls. So a hostile file can compute wrong numbers, take long, ask for too much memory,
or divide the least whole number by -1, which ends the process; faults inside PyTorch's own kernels are the risk left.

Why not torch.export.load, which exists for this (seen in torch 2.13): `deserialize_torch_artifact` in
torch/_export/serde/serialize.py falls back to torch.load(weights_only=False), so it unpickles whatever the file brings,
as torch/export/pt2_archive/_package.py does for weights and constants. `_parse_sym_expr` hands strings of the file to
sympy.sympify, which evaluates them as Python. torch/export/_unlift.py makes functions by exec from guard expressions.

    graph = trace(model, batch_rows=16, sequence_length=2048)
    save(graph, "model.safetensors", about={"tokenizer_sha256": ..., "data": ..., "vocab_size": 8192, ...})
    logits = load("model.safetensors").to("cuda")(tokens)
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import operator
import os
import re
import stat
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

# "name:a,b" are the overloads a and b of aten.name; a bare name is its default overload.
OPERATORS = {
    "arithmetic": """
        add:Tensor,Scalar sub:Tensor,Scalar subtract:Tensor,Scalar rsub:Tensor,Scalar mul:Tensor,Scalar
        multiply:Tensor,Scalar divide:Tensor,Scalar,Tensor_mode,Scalar_mode
        div:Tensor,Scalar,Tensor_mode,Scalar_mode true_divide:Tensor,Scalar floor_divide,Scalar
        remainder:Tensor,Scalar,Scalar_Tensor fmod:Tensor,Scalar pow:Tensor_Tensor,Tensor_Scalar,Scalar
        float_power:Tensor_Tensor,Tensor_Scalar,Scalar addcmul addcdiv lerp:Scalar,Tensor neg abs sign sgn square
        sqrt rsqrt reciprocal exp exp2 expm1 log log2 log10 log1p logit logaddexp logaddexp2
        xlogy:Tensor,Scalar_Other,Scalar_Self floor ceil round,decimals trunc frac hypot sin cos tan asin acos atan
        atan2 sinh cosh tanh asinh acosh atanh sinc erf erfc erfinv lgamma digamma i0 maximum minimum fmax fmin
        clamp,Tensor clamp_min,Tensor clamp_max,Tensor clip,Tensor copysign:Tensor,Scalar heaviside nan_to_num
        ldexp:Tensor""",
    "bits, comparisons and choice": """
        bitwise_and:Tensor,Scalar bitwise_or:Tensor,Scalar bitwise_xor:Tensor,Scalar bitwise_not
        bitwise_left_shift:Tensor,Tensor_Scalar bitwise_right_shift:Tensor,Tensor_Scalar __and__:Tensor,Scalar
        __or__:Tensor,Scalar __xor__:Tensor,Scalar __lshift__:Tensor,Scalar __rshift__:Tensor,Scalar logical_and
        logical_or logical_xor logical_not eq:Tensor,Scalar ne:Tensor,Scalar lt:Tensor,Scalar le:Tensor,Scalar
        gt:Tensor,Scalar ge:Tensor,Scalar isnan isinf isfinite isin:Tensor_Tensor,Tensor_Scalar signbit
        where:self,ScalarOther,ScalarSelf,Scalar masked_fill:Scalar,Tensor bucketize:Tensor searchsorted:Tensor""",
    "activations": """
        relu relu6 leaky_relu prelu elu selu celu gelu silu mish sigmoid log_sigmoid softplus hardtanh hardsigmoid
        hardswish hardshrink softshrink threshold glu""",
    "softmax and norms": """
        softmax:int _softmax log_softmax:int _log_softmax _safe_softmax logsumexp rms_norm _fused_rms_norm
        layer_norm native_layer_norm group_norm native_group_norm linalg_vector_norm norm:Scalar,ScalarOpt_dim
        cosine_similarity""",
    "reductions": """
        sum,dim_IntList mean,dim prod,dim_int amax amin max,dim,other min,dim,other argmax argmin all,dim,dims
        any,dim,dims var,dim,correction std,dim,correction var_mean,dim,correction std_mean,dim,correction nansum
        nanmean count_nonzero,dim_IntList median,dim""",
    "scans, sorting": """
        cumsum cumprod cummax cummin logcumsumexp diff sort,stable argsort,stable topk kthvalue""",
    "matrix products and attention": """
        matmul mm bmm mv dot inner outer linear einsum tensordot addmm baddbmm addbmm bilinear kron
        scaled_dot_product_attention""",
    "convolutions, pooling and Fourier transforms": """
        conv1d,padding conv2d,padding convolution conv_transpose1d avg_pool1d max_pool1d fft_fft fft_ifft fft_rfft
        fft_irfft view_as_complex view_as_real complex polar real imag _conj resolve_conj""",
    "shapes and views": """
        view reshape _unsafe_view view_as reshape_as flatten:using_ints unflatten:int ravel squeeze,dim,dims
        unsqueeze expand expand_as broadcast_to broadcast_tensors permute transpose:int t mT numpy_T
        movedim:int,intlist moveaxis:int,intlist swapaxes swapdims narrow select:int slice:Tensor diagonal unfold
        unbind:int split:Tensor,sizes split_with_sizes chunk tensor_split:sections,indices cat concat concatenate
        stack hstack vstack repeat repeat_interleave:self_int tile roll flip pad constant_pad_nd tril triu
        diag_embed meshgrid,indexing""",
    "indexing, gather and scatter": """
        embedding index:Tensor index_select index_put index_add index_copy index_fill:int_Scalar,int_Tensor gather
        take_along_dim scatter:src,value,reduce,value_reduce scatter_add scatter_reduce:two slice_scatter
        select_scatter diagonal_scatter masked_scatter one_hot""",
    "casts and copies": """
        to:dtype _to_copy type_as clone contiguous copy alias detach""",
    "new tensors": """
        arange,start,start_step linspace full full_like new_full zeros zeros_like new_zeros ones ones_like new_ones
        scalar_tensor eye,m tril_indices triu_indices fill:Scalar,Tensor""",
}

MAX_FILE_BYTES = 8 * 10**9
MAX_GRAPH_BYTES = 64 * 10**6
MAX_NODES = 100_000
MAX_TENSORS = 100_000
MAX_RESULT_BYTES = 64 * 10**9  # of one call; less may be too much too, and then the allocator says so
MAX_INTEGER = 2**40  # of an argument; kernels that add to larger ones have read outside of their tensors
NO_END = 2**63 - 1  # what a slice without an end is traced to
MAX_DEPTH = 6  # lists in lists
MAX_ABOUT_BYTES = 100_000
FORMAT = "graph-of-aten-calls-1"
ABOUT = {"tokenizer_sha256": str, "data": str, "vocab_size": int, "sequence_length": int}
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
    )
}
MEMORY_FORMATS = {"contiguous_format": torch.contiguous_format, "preserve_format": torch.preserve_format}
NUMBERS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
# The reader decides where a tensor lives; `generator` and `out` are in no schema above, and named here to be plain.
PLACEMENT = {"device", "layout", "pin_memory", "non_blocking", "generator", "out"}
ATTENTION = "aten.scaled_dot_product_attention.default"
WHERE = "graph.py lists the allowed ones in OPERATORS"


class GraphError(Exception):
    """What is wrong with a model or a file, in one sentence."""


class GraphMemoryError(GraphError):
    """The device has too little memory for the graph."""


def _allowed() -> dict[str, torch._ops.OpOverload]:
    table = {}
    for text in OPERATORS.values():
        for word in text.split():
            # "sum,dim" is sum's default overload and dim; "sum:dim" is dim alone.
            name, separator, overloads = re.fullmatch(r"(\w+)([:,]?)(.*)", word).groups()
            packet = getattr(torch.ops.aten, name)
            for overload in [*(["default"] if separator != ":" else []), *filter(None, overloads.split(","))]:
                table[f"aten.{name}.{overload}"] = getattr(packet, overload)
    return table


ALLOWED = _allowed()
# Where attention returned another memory layout than at tracing, a view would fail: a reshape gives the same numbers.
_INSTEAD = {
    "aten.view.default": ALLOWED["aten.reshape.default"],
    "aten._unsafe_view.default": ALLOWED["aten.reshape.default"],
}


CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ref:
    """What an argument stands for: the input, a weight by name, or the result of a call (one item, where several)."""

    kind: str  # "input", "weight" or "node"
    key: Any = None
    item: int | None = None


@dataclass(frozen=True)
class Node:
    """One call. `target` is a key of ALLOWED, the arguments are plain values, Refs and lists of both."""

    target: str
    args: list
    kwargs: dict


@dataclass
class Graph:
    """What a model computes: tokens int64 [batch_rows, sequence_length] -> logits [.., .., vocab_size]."""

    nodes: list[Node]
    output: Ref
    weights: dict[str, torch.Tensor]
    batch_rows: int
    sequence_length: int
    vocab_size: int = 0
    about: dict = field(default_factory=dict)
    device: torch.device = CPU

    def __post_init__(self) -> None:
        self.frees: list[list[int]] = [[] for _ in self.nodes]
        last: dict[int, int] = {}
        for i, node in enumerate(self.nodes):
            last[i] = i
            last.update({ref.key: i for ref in _refs([node.args, node.kwargs]) if ref.kind == "node"})
        if self.output.kind == "node":
            last.pop(self.output.key, None)
        for i, user in last.items():
            self.frees[user].append(i)

    def to(self, device: torch.device | str) -> Graph:
        """This graph, its weights on that device."""
        self.device = torch.device(device)
        with _faults("moving the weights"):
            self.weights = {name: tensor.to(self.device) for name, tensor in self.weights.items()}
        return self

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits, of any floating type; they may share memory with weights, so change nothing in them.

        Raises GraphError for tokens or a result of another type or shape, and for whatever an operator refuses.
        """
        shape = (self.batch_rows, self.sequence_length)
        if tokens.dtype != torch.int64 or tuple(tokens.shape) != shape:
            raise GraphError(f"tokens are {_brief(tokens)}, the graph takes int64 {list(shape)}")
        # A copy: a view's storage could hold what comes after the inputs, the targets.
        tokens = tokens.to(self.device).clone(memory_format=torch.contiguous_format)
        logits = self._run(tokens, self.weights)
        if self.device.type == "cuda":
            with _faults("the graph"):  # an index out of range shows only now
                torch.cuda.synchronize(self.device)
        if not isinstance(logits, torch.Tensor):
            raise GraphError("the graph returns several tensors, not one of logits")
        if tuple(logits.shape) != (*shape, self.vocab_size):
            raise GraphError(f"logits are {_brief(logits)}, not [{shape[0]}, {shape[1]}, {self.vocab_size}]")
        if not logits.is_floating_point():
            raise GraphError(f"logits are {_brief(logits)}, not floating point")
        return logits

    @torch.inference_mode()
    def _run(self, tokens: torch.Tensor, weights: dict[str, torch.Tensor]) -> Any:
        results: list[Any] = [None] * len(self.nodes)

        def value(argument: Any) -> Any:
            if isinstance(argument, list):
                return [value(item) for item in argument]
            if not isinstance(argument, Ref):
                return argument
            if argument.kind == "input":
                return tokens
            if argument.kind == "weight":
                return weights[argument.key]
            result = results[argument.key]
            if isinstance(result, torch.Tensor) != (argument.item is None):
                raise GraphError(
                    f"call {argument.key} ({self.nodes[argument.key].target}) is used as what it does not return"
                )
            return result if argument.item is None else result[argument.item]

        for i, node in enumerate(self.nodes):
            operation = _INSTEAD.get(node.target, ALLOWED[node.target])
            kwargs = {name: value(argument) for name, argument in node.kwargs.items()}
            if node.target in _PLACED:
                kwargs["device"] = tokens.device
            with _faults(f"call {i} ({node.target})"):
                arguments = [value(argument) for argument in node.args]
                if node.target == ATTENTION:
                    _check_attention(*arguments, **kwargs)
                results[i] = operation(*arguments, **kwargs)
            if tokens.is_meta:
                _check_size(results[i], f"call {i} ({node.target})")
            for done in self.frees[i]:
                results[done] = None
        with _faults("the output"):
            return value(self.output)


# Factories: the reader adds the device.
_PLACED = {
    name
    for name, operation in ALLOWED.items()
    if any(argument.name == "device" for argument in operation._schema.arguments)
    and not any(str(argument.type) == "Tensor" for argument in operation._schema.arguments)
}


class _faults:  # noqa: N801 - reads as a clause
    """What PyTorch raises about one step, as a GraphError of one sentence."""

    def __init__(self, step: str) -> None:
        self.step = step

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> None:
        if error is None or isinstance(error, GraphError) or not isinstance(error, Exception):
            return
        text = _sentence(error)
        memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
        if memory:
            raise GraphMemoryError(f"{self.step} needs more memory than there is: {text}") from error
        raise GraphError(f"{self.step} failed: {text}") from error


def _sentence(error: BaseException) -> str:
    """The first line of a message, without the control characters that a hostile file may have put there."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _brief(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _check_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> None:
    if key.shape[-2] != value.shape[-2]:  # the kernels for the CPU do not look
        raise GraphError(f"attention has {key.shape[-2]} keys and {value.shape[-2]} values")


def _check_size(result: Any, step: str) -> None:
    tensors = result if isinstance(result, list | tuple) else [result]
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor):
            raise GraphError(f"{step} returns {type(tensor).__name__}, not a tensor")
        if tensor.untyped_storage().nbytes() > MAX_RESULT_BYTES:
            raise GraphError(
                f"{step} needs more memory than there is: a result of {tensor.untyped_storage().nbytes():,} bytes"
            )


def _refs(argument: Any) -> Iterable[Ref]:
    if isinstance(argument, Ref):
        yield argument
    elif isinstance(argument, dict):
        for item in argument.values():
            yield from _refs(item)
    elif isinstance(argument, list):
        for item in argument:
            yield from _refs(item)


def _rehearse(graph: Graph) -> Graph:
    """The graph with its vocabulary filled in, after a run on the meta device: shapes without numbers or memory."""
    weights = {name: torch.empty_like(tensor, device="meta") for name, tensor in graph.weights.items()}
    tokens = torch.empty(graph.batch_rows, graph.sequence_length, dtype=torch.int64, device="meta")
    logits = graph._run(tokens, weights)
    if not isinstance(logits, torch.Tensor):
        raise GraphError("the model returns several tensors, not one of logits")
    if logits.dim() != 3 or tuple(logits.shape[:2]) != tuple(tokens.shape):
        raise GraphError(f"logits are {_brief(logits)}, not [{graph.batch_rows}, {graph.sequence_length}, vocabulary]")
    if not logits.is_floating_point():
        raise GraphError(f"logits are {_brief(logits)}, not floating point")
    graph.vocab_size = logits.shape[2]
    return graph


# ---- tracing ---------------------------------------------------------------------------------------------------------


def trace(model: torch.nn.Module, batch_rows: int, sequence_length: int) -> Graph:
    """The graph of model(tokens) -> logits, tokens int64 [batch_rows, sequence_length], by torch.export on the CPU.

    The model is put into evaluation mode meanwhile; one that is not on the CPU is copied there. Its forward must take
    tokens alone and return logits, choose no path by values of tensors, and cast by hand instead of torch.autocast.
    Raises GraphError, which names operators that evaluation would refuse and the line they come from.
    """
    if torch.get_default_dtype() != torch.float32:
        raise GraphError("torch.get_default_dtype() is not float32, which evaluation assumes")
    if any(tensor.device.type != "cpu" for tensor in (*model.parameters(), *model.buffers())):
        model = copy.deepcopy(model).to("cpu")
    training = model.training
    model.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (torch.zeros(batch_rows, sequence_length, dtype=torch.int64),))
            # In-place operators become functions. Not without need: this step loses the casts of torch.autocast.
            if any(_mutates(node) for node in _Tracer(program).flat()):
                program = program.run_decompositions({})
    except GraphError:
        raise
    except Exception as error:
        raise GraphError(f"torch.export cannot trace the model: {_sentence(error)}") from error
    finally:
        model.train(training)
    nodes, output, weights = _Tracer(program).convert()
    # Through the reader, so that what is written is what will be read.
    graph = _read(_document(nodes, output, batch_rows, sequence_length, about={}), weights)
    return _rehearse(graph)


def _mutates(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    # torch.tensor(2.0) inside forward leaves a harmless detach_ on a fresh copy.
    return schema is not None and schema.is_mutable and node.target is not torch.ops.aten.detach_.default


class _Tracer:
    """An exported program as a list of calls."""

    _SAME = (torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.detach_.default)

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program = program
        self.nodes: list[Node] = []
        self.weights: dict[str, torch.Tensor] = {}
        self.names: dict[tuple, str] = {}
        self.refused: dict[str, str] = {}

    def flat(self) -> Iterable[torch.fx.Node]:
        """All nodes, those of nested blocks too. GraphError for a block that is not simply inlined."""
        graphs = [self.program.graph_module]
        while graphs:
            module = graphs.pop()
            for node in module.graph.nodes:
                if node.op == "get_attr" and isinstance(getattr(module, str(node.target), None), torch.fx.GraphModule):
                    graphs.append(getattr(module, str(node.target)))
                elif isinstance(node.target, torch._ops.HigherOrderOperator):
                    _block(node)
                yield node

    def convert(self) -> tuple[list[Node], Ref, dict[str, torch.Tensor]]:
        signature = self.program.graph_signature
        if signature.buffers_to_mutate or getattr(signature, "user_inputs_to_mutate", None):
            names = [*signature.buffers_to_mutate.values(), *getattr(signature, "user_inputs_to_mutate", {}).values()]
            raise GraphError(
                f"forward() changes {', '.join(sorted(set(names)))}, and evaluation keeps nothing between batches"
            )
        inputs = []
        for spec in signature.input_specs:
            kind = spec.kind.name
            if kind == "USER_INPUT":
                inputs.append(Ref("input"))
            elif kind in ("PARAMETER", "BUFFER", "CONSTANT_TENSOR"):
                tensors = self.program.state_dict if spec.target in self.program.state_dict else self.program.constants
                inputs.append(self._weight(spec.target, tensors[spec.target]))
            else:
                raise GraphError(f"the model holds {spec.target}, which is no tensor")
        if inputs.count(Ref("input")) != 1:
            raise GraphError("forward() must take tokens and nothing else")
        outputs = self._block(self.program.graph_module, inputs)
        if self.refused:
            listed = "; ".join(f"{name} ({line})" if line else name for name, line in self.refused.items())
            raise GraphError(f"evaluation does not run {listed}; {WHERE}")
        if len(outputs) != 1 or not isinstance(outputs[0], Ref):
            raise GraphError("forward(tokens) must return logits and nothing else")
        return self._reached(outputs[0])

    def _weight(self, name: str, tensor: torch.Tensor) -> Ref:
        """Aliases of one tensor, such as tied weights, are one weight."""
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if not tensor.numel():
            key = (name,)
        name = self.names.setdefault(key, name)
        self.weights[name] = tensor.detach()
        return Ref("weight", name)

    def _block(self, module: torch.fx.GraphModule, inputs: list) -> list:
        known: dict[torch.fx.Node, Any] = {}
        given = iter(inputs)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                known[node] = next(given)
            elif node.op == "get_attr":
                value = getattr(module, str(node.target))
                known[node] = self._weight(str(node.target), value) if isinstance(value, torch.Tensor) else value
            elif node.op == "output":
                results = node.args[0]
                return [known.get(result) for result in (results if isinstance(results, list | tuple) else [results])]
            elif isinstance(node.target, torch._ops.HigherOrderOperator):
                inner, *rest = _block(node)
                known[node] = self._block(known[inner], [self._value(item, known) for item in rest])
            elif node.target is operator.getitem:
                whole, item = known[node.args[0]], node.args[1]
                known[node] = whole[item] if isinstance(whole, list) else Ref(whole.kind, whole.key, item)
            else:
                known[node] = self._call(node, known)
        raise AssertionError("a graph without an output")

    def _call(self, node: torch.fx.Node, known: dict) -> Any:
        """The Ref of a call's result."""
        target = node.target
        if target is torch.ops.aten._assert_tensor_metadata.default:
            return None
        if target in self._SAME or (target is torch.ops.aten.dropout.default and node.args[2] is False):
            return known[node.args[0]]
        args, kwargs = list(node.args), dict(node.kwargs)
        if target in (
            torch.ops.aten.to.device,
            torch.ops.aten.to.dtype_layout,
        ):  # where a tensor lives is not the graph's to say
            dtype = kwargs.get("dtype") or next((item for item in args if isinstance(item, torch.dtype)), None)
            if dtype is None:
                return known[args[0]]
            target, args, kwargs = torch.ops.aten.to.dtype, [args[0], dtype], {}
        if str(target) not in ALLOWED:
            self.refused.setdefault(_name(target), _line(node))
            return Ref("node", -1)
        kwargs = {name: item for name, item in kwargs.items() if name not in PLACEMENT}
        try:
            args, kwargs = self._value(args, known), {name: self._value(item, known) for name, item in kwargs.items()}
        except TypeError as error:
            raise GraphError(f"{_name(target)} ({_line(node)}) takes {error}, which the file cannot hold") from None
        self.nodes.append(Node(str(target), args, kwargs))
        return Ref("node", len(self.nodes) - 1)

    def _value(self, item: Any, known: dict) -> Any:
        if isinstance(item, list | tuple):
            return [self._value(part, known) for part in item]
        if isinstance(item, torch.fx.Node):
            return known[item]
        if isinstance(item, torch.SymInt | torch.SymFloat | torch.SymBool):
            raise TypeError("a size that depends on values")
        if item is None or isinstance(item, bool | int | float | str | torch.dtype | torch.memory_format):
            return item
        raise TypeError(type(item).__name__)

    def _reached(self, output: Ref) -> tuple[list[Node], Ref, dict[str, torch.Tensor]]:
        """Only what the output needs, renumbered."""
        needed = {output.key} if output.kind == "node" else set()
        for i in reversed(range(len(self.nodes))):
            if i in needed:
                node = self.nodes[i]
                needed.update(ref.key for ref in _refs([node.args, node.kwargs]) if ref.kind == "node")
        number = {old: new for new, old in enumerate(sorted(needed))}

        def renumbered(item: Any) -> Any:
            if isinstance(item, list):
                return [renumbered(part) for part in item]
            if isinstance(item, dict):
                return {name: renumbered(part) for name, part in item.items()}
            return Ref("node", number[item.key], item.item) if isinstance(item, Ref) and item.kind == "node" else item

        nodes = [
            Node(node.target, renumbered(node.args), renumbered(node.kwargs))
            for node in (self.nodes[i] for i in number)
        ]
        used = {ref.key for node in nodes for ref in _refs([node.args, node.kwargs]) if ref.kind == "weight"}
        used |= {output.key} if output.kind == "weight" else set()
        return nodes, renumbered(output), {name: tensor for name, tensor in self.weights.items() if name in used}


def _block(node: torch.fx.Node) -> list:
    """The nested graph of a block and its inputs, where running it inline gives the same numbers."""
    name = str(node.target)
    if name == "wrap_with_set_grad_enabled":
        return list(node.args[1:])
    if name == "wrap_with_autocast":
        if node.args[2] is False:  # enabled
            return list(node.args[4:])
        raise GraphError(
            "forward() uses torch.autocast, which is lost in the file: cast by hand, as in x.to(torch.bfloat16)"
        )
    raise GraphError(f"evaluation does not run {name}{f' ({_line(node)})' if _line(node) else ''}; {WHERE}")


def _name(target: Any) -> str:
    return str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))


def _line(node: torch.fx.Node) -> str:
    """`train.py:123`, the innermost line in a forward() of the model's own code; empty where unknown."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if not frame[0].startswith(os.path.dirname(torch.__file__))]
    return f"{os.path.basename(own[-1][0])}:{own[-1][1]}" if own else ""


# ---- writing ---------------------------------------------------------------------------------------------------------


def _document(nodes: list[Node], output: Ref, batch_rows: int, sequence_length: int, about: dict) -> dict:
    return {
        "format": FORMAT,
        "batch_rows": batch_rows,
        "sequence_length": sequence_length,
        "about": about,
        "nodes": [
            [node.target, _encoded(node.args), {name: _encoded(item) for name, item in node.kwargs.items()}]
            for node in nodes
        ],
        "output": _encoded(output),
    }


def _encoded(item: Any) -> Any:
    """JSON for an argument; whatever JSON has no word for is an object with one key."""
    if isinstance(item, list):
        return [_encoded(part) for part in item]
    if isinstance(item, Ref):
        if item.kind == "input":
            return {"input": "tokens"}
        return {item.kind: item.key} if item.item is None else {item.kind: item.key, "item": item.item}
    if isinstance(item, torch.dtype):
        return {"dtype": str(item).removeprefix("torch.")}
    if isinstance(item, torch.memory_format):
        return {"memory_format": str(item).removeprefix("torch.")}
    if isinstance(item, float) and not math.isfinite(item):
        return {"number": str(item)}
    return item


def _digest(text: str, weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the graph and over each weight's name, type, shape and bytes."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"\n{name} {_brief(tensor)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save(graph: Graph, path: str | os.PathLike, about: dict) -> None:
    """Write the graph and its weights to `path`, or leave `path` as it was.

    `about` is kept with it: at least tokenizer_sha256 and data (the data set's name), vocab_size and sequence_length.
    Raises GraphError for an `about` that `load` would refuse, and where the file cannot be written.
    """
    path = os.path.abspath(path)
    _check_about(about, graph)
    text = json.dumps(
        _document(graph.nodes, graph.output, graph.batch_rows, graph.sequence_length, about), allow_nan=False
    )
    if len(text.encode()) > MAX_GRAPH_BYTES:
        raise GraphError(f"the graph has more than {MAX_GRAPH_BYTES:,} bytes as JSON")
    # Contiguous and each with a storage of its own, as safetensors wants them.
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in graph.weights.items()}
    storages = [tensor.untyped_storage().data_ptr() for tensor in weights.values()]
    weights = {
        name: tensor.clone() if storages.count(tensor.untyped_storage().data_ptr()) > 1 else tensor
        for name, tensor in weights.items()
    }
    metadata = {"graph": text, "sha256": _digest(text, weights)}
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=".model-", suffix=".tmp", dir=os.path.dirname(path))
        os.close(handle)
        save_file(weights, temporary, metadata)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise GraphError(f"cannot write {path}: {error}") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def _check_about(about: Any, graph: Graph) -> None:
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
    for key in ("vocab_size", "sequence_length"):
        if about[key] != getattr(graph, key):
            raise GraphError(f"`about` says {key} {about[key]}, the graph has {getattr(graph, key)}")


# ---- reading ---------------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike) -> Graph:
    """The graph in that file, on the CPU: its hash, its calls and, by a rehearsal, all types and shapes are checked.

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
        header = int.from_bytes(os.read(handle, 8), "little")
    finally:
        os.close(handle)
    if not 0 < header <= status.st_size - 8:
        raise GraphError(f"{name} is no .safetensors file, or a truncated one")
    if header > 2 * MAX_GRAPH_BYTES:
        raise GraphError(f"the header of {name} has {header:,} bytes, too many")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            if len(names) > MAX_TENSORS:
                raise GraphError(f"{name} holds {len(names):,} tensors, more than {MAX_TENSORS:,}")
            weights = {key: file.get_tensor(key).clone() for key in names}
    except GraphError:
        raise
    except Exception as error:  # the library's own types, and whatever a strange header makes PyTorch raise
        raise GraphError(f"{name} is no .safetensors file, or a truncated one: {_sentence(error)}") from None
    text = metadata.get("graph")
    if text is None:
        raise GraphError(f"{name} holds tensors but no graph")
    if len(text) > MAX_GRAPH_BYTES:
        raise GraphError(f"the graph in {name} has more than {MAX_GRAPH_BYTES:,} bytes")
    for key, tensor in weights.items():
        if tensor.dtype not in DTYPES.values():
            raise GraphError(f"weight {key!r} is {_brief(tensor)}, a type that the graph cannot hold")
    if metadata.get("sha256") != _digest(text, weights):
        raise GraphError(f"the hash of {name} differs from the one written in it: the file was truncated or altered")
    try:
        document = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise GraphError(f"the graph in {name} is no JSON that can be read: {_sentence(error)}") from None
    graph = _rehearse(_read(document, weights))
    _check_about(graph.about, graph)
    return graph


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _read(document: Any, weights: dict[str, torch.Tensor]) -> Graph:
    """The Graph of a JSON document, every part of it checked against ALLOWED and the operators' signatures."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise GraphError(f"the graph is not in the format {FORMAT}")
    expected = {"format", "batch_rows", "sequence_length", "about", "nodes", "output"}
    if document.keys() != expected:
        raise GraphError(f"the graph has not exactly the keys {', '.join(sorted(expected))}")
    for key in ("batch_rows", "sequence_length"):
        if type(document[key]) is not int or not 0 < document[key] <= 2**24:
            raise GraphError(f"{key} of the graph is no count")
    if not isinstance(document["about"], dict):
        raise GraphError("`about` is no object")
    if not isinstance(document["nodes"], list) or len(document["nodes"]) > MAX_NODES:
        raise GraphError(f"the graph's nodes are no list of at most {MAX_NODES:,}")
    nodes = [_read_node(item, i, weights) for i, item in enumerate(document["nodes"])]
    output = _read_value(document["output"], len(nodes), weights, "the output")
    if not isinstance(output, Ref):
        raise GraphError("the output of the graph is no tensor")
    return Graph(nodes, output, weights, document["batch_rows"], document["sequence_length"], about=document["about"])


def _read_node(item: Any, i: int, weights: dict[str, torch.Tensor]) -> Node:
    if not (isinstance(item, list) and len(item) == 3):
        raise GraphError(f"call {i} is not [operator, arguments, named arguments]")
    target, args, kwargs = item
    if not isinstance(target, str) or target not in ALLOWED:
        raise GraphError(f"call {i} is of {str(target)[:80]!r}, which evaluation does not run; {WHERE}")
    where = f"call {i} ({target})"
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise GraphError(f"{where} is not [operator, arguments, named arguments]")
    parameters = ALLOWED[target]._schema.arguments
    positional = [parameter.name for parameter in parameters if not parameter.kwarg_only]
    if len(args) > len(positional):
        raise GraphError(f"{where} has {len(args)} arguments, more than {len(positional)}")
    given = {*positional[: len(args)], *kwargs}
    allowed = {parameter.name for parameter in parameters} - set(positional[: len(args)]) - PLACEMENT
    if unknown := sorted(set(kwargs) - allowed):
        raise GraphError(f"{where} takes no argument {unknown[0][:80]!r} by name")
    if missing := [
        parameter.name for parameter in parameters if not parameter.has_default_value() and parameter.name not in given
    ]:
        raise GraphError(f"{where} lacks the argument {missing[0]!r}")
    node = Node(
        target,
        _read_value(args, i, weights, where),
        {name: _read_value(value, i, weights, where) for name, value in kwargs.items()},
    )
    kinds = {parameter.name: str(parameter.real_type) for parameter in parameters}
    for name, value in (*zip(positional, node.args, strict=False), *node.kwargs.items()):
        # PyTorch would take any integer for a type, and crash on one that is none.
        if not _fits(value, kinds[name]):
            raise GraphError(f"{where} has no {kinds[name]} as {name!r}")
    if target == "aten.scaled_dot_product_attention.default":
        # The only operator of the list that can draw random numbers.
        dropout = node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)
        if dropout != 0 or isinstance(dropout, Ref | list | str):
            raise GraphError(f"{where} drops at random: dropout_p must be 0")
    return node


_PYTHON_TYPES = {
    "int": (int,),
    "float": (int, float),
    "number": (bool, int, float),
    "bool": (bool,),
    "str": (str,),
    "ScalarType": (torch.dtype,),
    "MemoryFormat": (torch.memory_format,),
    "Tensor": (Ref, bool, int, float),  # a number counts as a tensor without dimensions
}


def _fits(value: Any, kind: str) -> bool:
    """Whether a value may stand for a parameter of that type, as a schema prints it."""
    if kind.startswith("Optional["):
        return value is None or _fits(value, kind.removeprefix("Optional[")[:-1])
    if kind.startswith("List[") and isinstance(value, list):
        return all(_fits(item, kind.removeprefix("List[")[:-1]) for item in value)
    return type(value) in _PYTHON_TYPES.get(kind.removeprefix("List[").removesuffix("]"), ())


def _read_value(
    item: Any, i: int, weights: dict[str, torch.Tensor], where: str, depth: int = 0, list_of: bool = False
) -> Any:
    if depth > MAX_DEPTH:
        raise GraphError(f"{where} has an argument nested too deeply")
    if isinstance(item, list):
        return [_read_value(part, i, weights, where, depth + 1) for part in item]
    if item is None or isinstance(item, bool | float):
        return item
    if isinstance(item, int):
        if abs(item) > MAX_INTEGER and item != NO_END:
            raise GraphError(f"{where} has a number that is too large")
        return item
    if isinstance(item, str):
        if len(item) > 1000:
            raise GraphError(f"{where} has a text that is too long")
        return item
    problem = GraphError(f"{where} has an argument that cannot be read: {str(item)[:80]}")
    key = next(iter(item), None)
    if item.keys() - {key, "item"} or (
        "item" in item and (key != "node" or type(item["item"]) is not int or item["item"] < 0)
    ):
        raise problem
    value = item.get(key)
    if key == "node" and type(value) is int:
        if not 0 <= value < i:
            raise GraphError(f"{where} uses the result of call {value}, which does not come before it")
        return Ref("node", value, item.get("item"))
    if not isinstance(value, str):
        raise problem
    if key == "weight":
        if value not in weights:
            raise GraphError(f"{where} uses the weight {value[:80]!r}, which the file does not hold")
        return Ref("weight", value)
    if key == "input" and value == "tokens":
        return Ref("input")
    for name, table in (("dtype", DTYPES), ("memory_format", MEMORY_FORMATS), ("number", NUMBERS)):
        if key == name and value in table:
            return table[value]
    raise problem
