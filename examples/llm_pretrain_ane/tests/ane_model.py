"""The C model as a class: its parameters, kernels and optimizer through ctypes, without torch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, fields

import numpy as np
from ane_build import Settings, Shape, pointer, shared_object

MODULES = ("base", "pool", "gemm", "blas", "parameters", "elementwise", "classifier", "model", "cpu", "optimizer")
NO_TRAINING, LION, ADAMW = range(3)
PHASES = 10


@dataclass
class Config:
    """What a model and its loss are made of."""

    dim: int = 32
    hidden: int = 64
    heads: int = 2
    seq: int = 32
    layers: int = 2
    classes: int = 96
    rope: bool = False
    softcap: float = 30.0
    max_act: float = 0.0
    loss_scale: float = 1.0

    def shape(self) -> Shape:
        """The part that C calls a shape."""
        return Shape(*(getattr(self, field.name) for field in fields(self)[:7]))


def settings(**changes: object) -> Settings:
    """Settings of the optimizer near the example's own, with changes."""
    usual = {
        "learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1, "grad_clip": 1.0,
        "embed_lr_scale": 1.0, "matrix_lr_scale": 0.5, "total_steps": 1000, "warmup_steps": 10, "accum_steps": 1,
        "lr_min_frac": 0.1, "loss_scale": 1.0, "softcap": 30.0,
    }  # fmt: skip
    return Settings(**{**usual, **changes})


class Tensor(ctypes.Structure):
    """struct Tensor."""

    _fields_ = (
        ("name", ctypes.c_char * 24),
        ("group", ctypes.c_int),
        ("rows", ctypes.c_int),
        ("columns", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("weight", "gradient", "m", "v")),
    )


class Parameters(ctypes.Structure):
    """struct Parameters."""

    _fields_ = (("shape", Shape), ("count", ctypes.c_int), ("tensors", ctypes.POINTER(Tensor)))


class Kernels(ctypes.Structure):
    """struct Kernels."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in (
            "name", "self", "stage", "attention", "ffn", "ffn_back_w2", "ffn_back_w13", "wo_back", "sdpa_back",
            "qkv_back", "close",
        )
    )  # fmt: skip


class Update(ctypes.Structure):
    """struct Update."""

    _fields_ = (
        ("norm", ctypes.c_double),
        ("rate", ctypes.c_double),
        ("clipped", ctypes.c_bool),
        ("skipped", ctypes.c_bool),
    )


def c_model(double: bool = False) -> ctypes.CDLL:
    """The C files of model, cpu kernels and optimizer, with the types of their functions."""
    c = shared_object(*(f"{name}.c" for name in MODULES), double=double)
    handle, number = ctypes.c_void_p, ctypes.c_double
    c.pool_new.restype = c.parameters_new.restype = c.model_new.restype = handle
    c.cpu_kernels.restype, c.optimizer_update.restype = Kernels, Update
    c.model_loss.restype = c.model_train.restype = c.scheduled_rate.restype = number
    c.pool_free.argtypes = c.parameters_free.argtypes = c.model_free.argtypes = (handle,)
    c.model_stage.argtypes = c.model_wait.argtypes = (handle,)
    c.gradients_zero.argtypes = (handle, handle)
    c.parameters_initialise.argtypes = (handle, ctypes.c_uint64, handle)
    c.embedding_row.argtypes = (handle, ctypes.c_int, ctypes.c_uint64, ctypes.c_int)
    c.cpu_kernels.argtypes = (ctypes.POINTER(Shape), handle)
    c.model_new.argtypes = (handle, ctypes.POINTER(Kernels), handle, number, number, number, handle)
    c.model_loss.argtypes = c.model_train.argtypes = (handle, handle, handle)
    c.optimizer_update.argtypes = (ctypes.POINTER(Settings), handle, handle, *[ctypes.c_int64] * 2, ctypes.c_int)
    c.scheduled_rate.argtypes = c.scheduled_accumulation.argtypes = (ctypes.POINTER(Settings), ctypes.c_int64)
    return c


class CModel:
    """Pool, parameters, kernels and model of the C code; arrays are views into its memory. Close it after use."""

    def __init__(
        self,
        config: Config,
        *,
        moments: int = LION,
        threads: int = 1,
        double: bool = False,
        seed: int = 1,
        tokens: np.ndarray | None = None,
    ) -> None:
        self.c = c_model(double)
        self.real = np.float64 if double else np.float32
        shape = config.shape()
        self.pool = self.c.pool_new(threads)
        self.parameters = self.c.parameters_new(ctypes.byref(shape), moments)
        self.c.parameters_initialise(self.parameters, seed, None if tokens is None else pointer(tokens))
        self.kernels = self.c.cpu_kernels(ctypes.byref(shape), self.pool)
        self.seconds = np.zeros(PHASES)
        numbers = (config.softcap, config.max_act, config.loss_scale)
        self.model = self.c.model_new(self.parameters, self.kernels, self.pool, *numbers, pointer(self.seconds))
        self.c.model_stage(self.model)
        struct = Parameters.from_address(self.parameters)
        self.tensors = {struct.tensors[i].name.decode(): struct.tensors[i] for i in range(struct.count)}

    def __enter__(self) -> CModel:
        return self

    def __exit__(self, *error: object) -> None:
        self.c.model_free(self.model)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.kernels.close)(self.kernels.self)
        self.c.parameters_free(self.parameters)
        self.c.pool_free(self.pool)

    def arrays(self, field: str = "weight") -> dict[str, np.ndarray]:
        """Of weight, gradient, m or v: [rows, columns] each, by tensor."""
        return {
            name: np.ctypeslib.as_array(
                ctypes.cast(getattr(tensor, field), ctypes.POINTER(np.ctypeslib.as_ctypes_type(self.real))),
                (tensor.rows, tensor.columns),
            )
            for name, tensor in self.tensors.items()
        }

    def loss(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """Without gradients; int32 [seq] each."""
        return self.c.model_loss(self.model, pointer(inputs), pointer(targets))

    def train(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """The loss; gradients are complete on return."""
        loss = self.c.model_train(self.model, pointer(inputs), pointer(targets))
        self.c.model_wait(self.model)
        return loss

    def update(
        self, settings: Settings, updates: int, micro_steps: int = 1, *, moment_updates: int | None = None
    ) -> Update:
        """One update after `updates` others, all of them or moment_updates since the moments were zero."""
        since = updates if moment_updates is None else moment_updates
        return self.c.optimizer_update(ctypes.byref(settings), self.parameters, self.pool, updates, since, micro_steps)

    def zero(self) -> None:
        """Gradients become 0."""
        self.c.gradients_zero(self.parameters, self.pool)


def window(config: Config, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, int32 [seq] each, of a stream in which the next token mostly follows from the last."""
    rng = np.random.default_rng(seed)
    stream = [int(rng.integers(config.classes))]
    for _ in range(config.seq):
        surprise = rng.random() < 0.2
        stream.append(int(rng.integers(config.classes)) if surprise else (5 * stream[-1] + 3) % config.classes)
    ids = np.array(stream, np.int32)
    return ids[:-1].copy(), ids[1:].copy()


def random_gains(arrays: dict[str, np.ndarray], seed: int = 3) -> None:
    """Gains away from 1, where a wrong gradient of the norm shows."""
    rng = np.random.default_rng(seed)
    for name, array in arrays.items():
        if "gain" in name:
            array[:] = rng.uniform(0.7, 1.3, array.shape)
