"""Pretrain a small GPT with MLX for exactly the budget: the one file that an agent, or you, may change.

    python train.py                  a Mac, or an NVIDIA GPU: five minutes, data set climbmix
    python train.py --data stories   on Linux without a GPU: the small profile, two cores are enough

The settings come first, each with its remedy; then model, attention, loss, optimizer, schedules, steps, loop, export.
The clock starts at step 0 and stops for nothing: compilation happens before it, on dummy data, and leaves no trace.
Written: log lines on stdout with `progress` and `loss`, the trained model as data in model.graph (see graph.py), and a
final block of `key: value` lines. `val_bpb` there is this process's own number; evaluate.py is the judge.
"""

from __future__ import annotations

import argparse
import copy
import gc
import math
import os
import re
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, make_dataclass
from functools import partial

import data
import graph
import machine  # before mlx.core: it loads a fast BLAS
import mlx.core as mx
import numpy as np
from command import EXIT_CODES, Interrupt, Interrupted, TrainError, number_from, seed_from

# ---------------------------------------------------------------------------------------------------------------------
# Settings: one literal a line, so that a search program can turn them in place. Out of memory is no reason to touch
# them: the micro-batch halves itself. Loss spikes or `diverged`: lower MATRIX_LR and EMBEDDING_LR first.

DEPTH = 4  # layers; fewer when the run makes less than about 200 steps
WIDTH = 256  # channels; a multiple of HEAD_DIM, never rounded
HEAD_DIM = 128  # channels of a head; 64 when a narrow model needs more heads, which costs memory
WINDOW_PATTERN = "SSSL"  # S short, L full; repeated over the layers, the last layer is always full
SHORT_WINDOW = 256  # previous tokens that an S layer sees; longer when the text refers further back
BATCH_TOKENS = 16384  # tokens of an update; halve it when there are few steps, double it when there are over 1,000
MICRO_BATCH_ROWS = 8  # rows in one pass; must divide the rows of a batch; no effect on the loss, only on memory
EXPORT_ROWS = 4  # rows in one pass of the exported model
CHECKPOINT = False  # True: a block makes its activations again in the backward pass; slower, less memory
ATTENTION_CHUNK = 256  # queries whose scores exist at once; smaller for memory, and where windows are short
LOSS_CHUNK = 512  # tokens whose logits exist at once; halve it for memory
SOFTCAP = 15.0  # logits stay within plus and minus this; flat from 13 to 20
ROPE_BASE = 200000.0  # lower for short sequences: 10000 at 256 tokens
QK_SCALE = 1.2  # sharpens attention: normed queries and keys are both multiplied by it; 1 is plain
GATE_CHANNELS = 32  # channels that the gate of a value embedding reads
SMEAR = True  # mixes the embedding of the token before into each token, by a learned gate
SMEAR_CHANNELS = 24  # channels that this gate reads
BACKOUT = True  # takes a learned share of the middle of the model out again before the head
BACKOUT_INIT = 0.2  # that share at the start
INIT_SCALE = 0.68  # of query, key, value, MLP-up and value embeddings; 1 means variance 1 / width
EMBEDDING_INIT = 1.0  # standard deviation; 0.5 to 2 are worse
HEAD_INIT = 0.001  # standard deviation; small, so that the first guess is uniform
RESID_INIT = 1.0  # factor of the residual stream at each layer
X0_INIT = 0.05  # share of the embedding that is added again at each layer

# Rates. The first three are for width 768 and are scaled by (width / 768) ** -0.5; the others do not depend on it.
EMBEDDING_LR = 0.9  # lower it with longer runs
VALUE_EMBEDDING_LR = 0.9  # as EMBEDDING_LR; lower it first when rare tokens get worse
HEAD_LR = 0.005  # lower it when the loss swings; it takes little of the time to find
MATRIX_LR = 0.04  # Muon; halve it for batches of 500 thousand tokens and more
SCALAR_LR = 0.5  # of the x0 factors; the residual factors take a hundredth of it
GATE_LR = 0.01  # about the size of the update that Muon would give a gate
SMEAR_LR = 0.2  # of the scalars of smear and backout
EMBEDDING_WD = 0.001  # needed from EMBEDDING_LR 0.9 on
VALUE_EMBEDDING_WD = 0.003  # more where the tables are large for the data
HEAD_WD = 0.01  # 0 does little harm
MATRIX_WD = 0.2  # cautious: only where the update agrees with the sign of the weight
ADAM_BETA1 = 0.8  # higher when batches are small and noisy
ADAM_BETA2 = 0.95  # 0.99 for batches below 10 thousand tokens
X0_BETA1 = 0.96  # 0.98 falls off a cliff
MUON_BETA2 = 0.95  # NorMuon's second moment
MUON_ITERATIONS = 5  # of Polar Express; 4 is worse, there are no coefficients for more than 5
MUON_GATES = False  # True: Muon turns the gates of value embeddings too, tiny as they are, as the reference did
MUON_EQ = True  # rows of the gradient are made equally long before the polar step
MUON_PLUS = True  # the polar factor gets the Frobenius norm of an exact one after it

# Schedules over progress, the share of the budget that is spent.
WARMUP_STEPS = 0  # steps, not progress: only the first few updates are dangerous
WARMDOWN = 0.75  # share of the run over which the rates fall linearly ...
FINAL_LR = 0.05  # ... to this share of themselves
MOMENTUM_START = 0.85  # of Muon; higher when the first steps are noisy
MOMENTUM_PEAK = 0.97  # lower it when the run has only a few hundred steps
MOMENTUM_END = 0.90  # reached together with FINAL_LR
MOMENTUM_RAMP = 0.15  # share of the run from start to peak; in progress, so that it survives another batch size
WD_SCHEDULE = "cosine"  # of MATRIX_WD down to zero; or "linear", "constant"

# The small profile, used on a CPU: where a SMALL_NAME stands here it counts instead of NAME, and NAME does nothing.
# For vocabulary 1024, 256 tokens and two cores.
SMALL_DEPTH = 2  # more when the run makes more than about 500 steps
SMALL_WIDTH = 128
SMALL_HEAD_DIM = 64
SMALL_WINDOW_PATTERN = "L"
SMALL_BATCH_TOKENS = 2048  # halve it when there are few steps; smaller ones leave the second thread idle
SMALL_MICRO_BATCH_ROWS = 4
SMALL_EXPORT_ROWS = 16
SMALL_LOSS_CHUNK = 512
SMALL_ATTENTION_CHUNK = 128
SMALL_ROPE_BASE = 10000.0


class Diverged(Exception):
    """The loss is not finite or far above that of a uniform guess; the weights have not seen that step."""

    def __init__(self, sentence: str, step: int):
        hint = (
            "lower MATRIX_LR or EMBEDDING_LR"
            if step
            else "no rate has acted yet: look at the model and its first weights"
        )
        super().__init__(f"{sentence}\nhint: {hint}")


class SettingsMethods:
    """What can be computed from settings alone."""

    def windows(self, sequence_length: int) -> list[int]:
        """Per layer, how many tokens before itself a token sees."""
        sizes = {"S": min(self.short_window, sequence_length), "L": sequence_length}
        pattern = [self.window_pattern[layer % len(self.window_pattern)] for layer in range(self.depth)]
        return [sizes[letter] for letter in [*pattern[:-1], "L"]]

    def batch_rows(self, sequence_length: int) -> int:
        return self.batch_tokens // sequence_length

    def check(self, sequence_length: int) -> None:
        """Raises TrainError for what cannot run, with the numbers that would."""
        sizes = (self.depth, self.width, self.head_dim, self.batch_tokens, self.gate_channels)
        if min(*sizes, self.micro_batch_rows, self.export_rows, self.loss_chunk, self.attention_chunk) < 1:
            raise self.refusal(
                "DEPTH, WIDTH, HEAD_DIM, BATCH_TOKENS, every chunk and every number of rows must be at least 1"
            )
        if self.width % self.head_dim or self.head_dim % 2:
            low = self.width // self.head_dim * self.head_dim
            sentence = f"WIDTH = {self.width} is not a multiple of an even HEAD_DIM = {self.head_dim}"
            raise self.refusal(sentence, f"widths that are: {low or self.head_dim}, {low + self.head_dim}")
        if not self.window_pattern or set(self.window_pattern) - {"S", "L"}:
            raise self.refusal(f"WINDOW_PATTERN = {self.window_pattern!r} may hold only the letters S and L")
        if not all(1 <= n <= self.width for n in (self.gate_channels, self.smear_channels if self.smear else 1)):
            raise self.refusal(f"GATE_CHANNELS and SMEAR_CHANNELS must be 1 to WIDTH = {self.width}")
        if not 1 <= self.muon_iterations <= len(POLAR_EXPRESS):
            raise self.refusal(f"MUON_ITERATIONS must be 1 to {len(POLAR_EXPRESS)}, not {self.muon_iterations}")
        if not 0 < self.softcap <= 40:
            raise self.refusal(f"SOFTCAP = {self.softcap} is not above 0 and at most 40: float32 underflows beyond")
        for name in ("warmdown", "final_lr", "momentum_ramp"):
            if not 0 <= getattr(self, name) <= 1:
                raise self.refusal(f"{name.upper()} = {getattr(self, name)} is no share from 0 to 1")
        if self.short_window < 0:
            raise self.refusal(f"SHORT_WINDOW = {self.short_window} is not a number of tokens")
        if self.wd_schedule not in WD_SCHEDULES:
            raise self.refusal(f"WD_SCHEDULE must be one of {', '.join(WD_SCHEDULES)}, not {self.wd_schedule!r}")
        rows = self.batch_rows(sequence_length)
        if self.batch_tokens % sequence_length:
            low = max(rows, 1) * sequence_length
            sentence = f"BATCH_TOKENS = {self.batch_tokens} is not a multiple of {sequence_length}, the tokens of a row"
            raise self.refusal(sentence, f"{low} and {low + sequence_length} are")
        if rows % min(self.micro_batch_rows, rows):
            sentence = f"MICRO_BATCH_ROWS = {self.micro_batch_rows} does not divide the {rows} rows of a batch"
            raise self.refusal(sentence, f"these do: {', '.join(map(str, divisors(rows)))}")

    def refusal(self, sentence: str, hint: str | None = None) -> TrainError:
        """The error that calls each constant as it is called in this profile."""

        def named(text: str) -> str:
            small = {name for name in TUNABLE if self.profile == "small" and f"SMALL_{name}" in globals()}
            return re.sub(r"\w+", lambda word: f"SMALL_{word[0]}" if word[0] in small else word[0], text)

        return TrainError(named(sentence), hint and named(hint))


# A frozen dataclass: each constant above is a field, its name in small letters. A new constant needs nothing more here.
TUNABLE = {
    name: value
    for name, value in globals().items()
    if name.isupper() and isinstance(value, (bool, int, float, str)) and not name.startswith("SMALL_")
}
FIELDS = [(name.lower(), type(value)) for name, value in TUNABLE.items()]
Settings = make_dataclass("Settings", [*FIELDS, ("profile", str, "full")], bases=(SettingsMethods,), frozen=True)


def settings_for(profile: str) -> Settings:
    """The settings of profile "full" or "small": NAME, or SMALL_NAME where the small profile has one."""
    prefix, constants = "SMALL_" if profile == "small" else "", globals()
    for name in constants:
        if name.startswith("SMALL_") and name.removeprefix("SMALL_") not in TUNABLE:
            raise TrainError(f"{name} changes nothing: there is no {name.removeprefix('SMALL_')}", "a slip of the pen?")
    for name, value in TUNABLE.items():
        small = constants.get(f"SMALL_{name}", value)
        if type(small) is not type(value) and (type(small), type(value)) != (int, float):
            raise TrainError(f"SMALL_{name} = {small!r} should be of the kind of {name} = {value!r}")
    values = {name.lower(): constants.get(prefix + name, constants[name]) for name in TUNABLE}
    return Settings(**values, profile=profile)


# Not for tuning.
STARTED = time.perf_counter()
NORM_EPS = 1e-6
ADAM_EPS = 1e-10
POLAR_SAFETY = 1.02
LOG_SECONDS = 1.0
LN_2 = math.log(2)
ROUNDER = 1.5 * 2.0**23  # added to a small float32 it leaves no bits for a fraction
# 2 ** x from -1/2 to 1/2, interpolated at Chebyshev's points: coefficients from the constant on.
EXP2 = (
    1.0000000754548972,
    0.6931471880262273,
    0.2402210748530968,
    0.05550357114222094,
    0.009676031918255982,
    0.001339086336353527,
)
# Polar Express, arXiv 2505.16932, section 3: coefficients for five iterations, safety 0.02, cushion 2.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


# ---------------------------------------------------------------------------------------------------------------------
# Model

Parameters = dict[str, mx.array]


def rms_norm(x: mx.array) -> mx.array:
    return mx.fast.rms_norm(x, None, NORM_EPS)


def linear(x: mx.array, weight: mx.array) -> mx.array:
    """weight is float32 [out, in], cast to the type of the activations."""
    return x @ weight.astype(x.dtype).T


def squared_relu_mlp(x: mx.array, up: mx.array, down: mx.array) -> tuple[mx.array, mx.array]:
    """down(relu(up(x)) ** 2) for x [B, T, width], up [hidden, width], down [width, hidden]; and what up gave."""
    risen = x @ up.T
    return mx.square(mx.maximum(risen, 0)) @ down.T, risen


# Of the wide activations only one is kept for the backward pass, where autodiff would keep three: a quarter of all the
# memory of a step.
lean_mlp = mx.custom_function(squared_relu_mlp)


@lean_mlp.vjp
def _(primals, cotangents, outputs):
    (x, up, down), upstream, risen = primals, cotangents[0], mx.maximum(outputs[1], 0)
    by_risen = 2 * risen * (upstream @ down)
    rows = (part.reshape(-1, part.shape[-1]) for part in (by_risen, x, upstream, mx.square(risen)))
    by_risen_rows, x_rows, upstream_rows, squares = rows
    return by_risen @ up, by_risen_rows.T @ x_rows, upstream_rows.T @ squares


@mx.custom_function
def weights_first(x: mx.array, weights: Parameters) -> tuple[mx.array, Parameters]:
    """Its arguments. In the backward pass the gradient by x waits for those by the weights.

    Otherwise MLX goes through all layers before it makes a gradient of weights, and what a checkpoint made again for
    one would stay: 271 MB instead of 132 at 12 layers.
    """
    return x, weights


@weights_first.vjp
def _(primals, cotangents, outputs):
    by_x, by_weights = cotangents
    return mx.depends(by_x, list(by_weights.values())), by_weights


class GPT:
    """A decoder with rotary positions, QK norm, squared ReLU, value embeddings, an untied head and capped logits.

    It holds no weights: they are a dictionary of float32 arrays that every method is given, so that gradients, updates
    and compilation see plain functions. Activations have `dtype`.
    """

    def __init__(self, settings: Settings, vocab_size: int, sequence_length: int, dtype: mx.Dtype = mx.float32):
        self.settings, self.vocab_size, self.sequence_length, self.dtype = settings, vocab_size, sequence_length, dtype
        self.windows = settings.windows(sequence_length)
        self.heads = settings.width // settings.head_dim
        self.is_plain = False

    def plain(self) -> GPT:
        """The same model without gradients of its own: only such a one can be exported."""
        other = copy.copy(self)
        other.is_plain = True
        return other

    def has_value_embedding(self, layer: int) -> bool:
        """Every other layer, the last one always."""
        return layer % 2 == (self.settings.depth - 1) % 2

    def init(self, seed: int) -> Parameters:
        """All weights, drawn by NumPy's Philox: a seed means the same model on every device and with every MLX."""
        s, generator = self.settings, np.random.Generator(np.random.Philox(seed))
        bound = s.init_scale * math.sqrt(3 / s.width)  # a uniform distribution of variance init_scale ** 2 / width

        def normal(rows: int, deviation: float) -> np.ndarray:
            return deviation * generator.standard_normal((rows, s.width), np.float32)

        def uniform(rows: int) -> np.ndarray:
            return bound * (2 * generator.random((rows, s.width), np.float32) - 1)

        made = {
            "embedding": normal(self.vocab_size, s.embedding_init),
            "head": normal(self.vocab_size, s.head_init),
            "resid_lambdas": np.full(s.depth, s.resid_init),
            "x0_lambdas": np.full(s.depth, s.x0_init),
        }
        for layer in range(s.depth):
            block = f"blocks.{layer}."
            for name, rows in (("query", s.width), ("key", s.width), ("value", s.width), ("up", 4 * s.width)):
                made[block + name] = uniform(rows)
            made[block + "out"] = np.zeros((s.width, s.width))
            made[block + "down"] = np.zeros((s.width, 4 * s.width))
            if self.has_value_embedding(layer):
                made[block + "value_embedding"] = uniform(self.vocab_size)
                made[block + "value_gate"] = np.zeros((self.heads, s.gate_channels))
        if s.smear:
            made["smear_gate"] = 0.02 * generator.random((1, s.smear_channels), np.float32)
            made["smear_lambda"] = np.zeros(1)
        if s.backout:
            made["backout_lambda"] = np.full(1, s.backout_init)
        parameters = {name: mx.array(value.astype(np.float32)) for name, value in made.items()}
        mx.eval(parameters)
        return parameters

    def block(self, x: mx.array, weights: Parameters, window: int) -> mx.array:
        """Attention and MLP on a residual stream [B, T, width]; weights["values"] are value embeddings, if any."""
        s, shape = self.settings, (*x.shape[:2], self.heads, self.settings.head_dim)
        h = rms_norm(x)
        q, k, v = (linear(h, weights[name]).reshape(shape) for name in ("query", "key", "value"))
        if "values" in weights:
            gate = 2 * mx.sigmoid(linear(h[..., : s.gate_channels], weights["value_gate"]))
            v = v + gate[..., None] * weights["values"].reshape(shape).astype(v.dtype)
        q, k, v = (part.transpose(0, 2, 1, 3) for part in (q, k, v))
        # Rotary positions (arXiv 2104.09864): channels j and j + D / 2 turn together.
        turned = (
            mx.fast.rope(part, s.head_dim, traditional=False, base=s.rope_base, scale=1.0, offset=0) for part in (q, k)
        )
        q, k = (rms_norm(part) for part in turned)
        scale = s.qk_scale**2 / math.sqrt(s.head_dim)
        attended = attend(q, k, v, window, scale, s.attention_chunk, self.is_plain)
        x = x + linear(attended.transpose(0, 2, 1, 3).reshape(x.shape), weights["out"])
        mlp = squared_relu_mlp if self.is_plain else lean_mlp
        return x + mlp(rms_norm(x), weights["up"].astype(x.dtype), weights["down"].astype(x.dtype))[0]

    def trunk(self, parameters: Parameters, tokens: mx.array) -> mx.array:
        """tokens int32 [B, T] -> normed hidden states [B, T, width] in `dtype`."""
        s = self.settings
        x = rms_norm(parameters["embedding"][tokens].astype(self.dtype))
        scalar = {name: parameters[name].astype(self.dtype) for name in parameters if "lambda" in name}
        if s.smear:
            now, before = x[:, 1:], x[:, :-1]
            gate = scalar["smear_lambda"] * mx.sigmoid(linear(now[..., : s.smear_channels], parameters["smear_gate"]))
            x = mx.concatenate([x[:, :1], now + gate * before], axis=1)
        x0 = middle = x
        for layer, window in enumerate(self.windows):
            prefix = f"blocks.{layer}."
            weights = {name.removeprefix(prefix): w for name, w in parameters.items() if name.startswith(prefix)}
            if "value_embedding" in weights:
                weights["values"] = weights.pop("value_embedding")[tokens]
            x = scalar["resid_lambdas"][layer] * x + scalar["x0_lambdas"][layer] * x0
            block = partial(self.block, window=window)
            if s.checkpoint and not self.is_plain:
                # Arguments of a checkpoint are arrays, and what it closes over gets no gradient.
                x = mx.checkpoint(block)(*weights_first(x, weights))
            else:
                x = block(x, weights)
            if layer == (s.depth - 1) // 2:  # never the last one: a share of itself would be no change
                middle = x
        if s.backout:
            x = x - scalar["backout_lambda"] * middle
        return rms_norm(x)

    def logits(self, parameters: Parameters, tokens: mx.array) -> mx.array:
        """tokens int32 [B, T] -> logits float32 [B, T, V]. Training uses `nats`, which never holds them all."""
        cap = self.settings.softcap
        return cap * mx.tanh(linear(self.trunk(parameters, tokens), parameters["head"]).astype(mx.float32) / cap)

    def nats(self, parameters: Parameters, rows: mx.array) -> mx.array:
        """The cross-entropy of each target of rows [B, T + 1], float32 [B, T], without gradients."""
        tokens, targets = inputs_and_targets(rows)
        hidden = self.trunk(parameters, tokens).flatten(0, 1)
        losses, _, _ = softcap_cross_entropy(hidden, parameters["head"], targets.flatten(), *self.head_how, False)
        return losses.reshape(tokens.shape)

    def loss(self, parameters: Parameters, rows: mx.array) -> mx.array:
        """The sum of the nats over all targets of rows int32 [B, T + 1], with gradients."""
        tokens, targets = inputs_and_targets(rows)
        hidden = self.trunk(parameters, tokens).flatten(0, 1)
        return summed_cross_entropy(*self.head_how)(hidden, parameters["head"], targets.flatten())[0]

    @property
    def head_how(self) -> tuple[float, int]:
        return self.settings.softcap, self.settings.loss_chunk

    def roles(self, parameters: Parameters) -> dict[str, list[str]]:
        """Every parameter's name once, by the part it plays. What is two-dimensional and unknown here is for Muon."""
        roles: dict[str, list[str]] = {}
        for name, parameter in parameters.items():
            known = ("value_embedding", "embedding", "head", "gate", "resid_lambdas", "x0_lambdas", "lambda")
            role = next((part for part in known if part in name), "matrix")
            role = "matrix" if "value_gate" in name and self.settings.muon_gates else role
            if role == "matrix" and parameter.ndim != 2:
                raise TrainError(
                    f"Parameter {name} is no matrix and has no role", "name it in GPT.roles, and its rates in MuonAdamW"
                )
            roles.setdefault(role, []).append(name)
        return roles

    def parameter_table(self, parameters: Parameters) -> dict[str, int]:
        """Parameters by group. Gates count as matrices; scalars are the lambdas."""
        count = {role: sum(parameters[name].size for name in names) for role, names in self.roles(parameters).items()}
        table = {
            "wte": count.get("embedding", 0),
            "value_embeds": count.get("value_embedding", 0),
            "lm_head": count.get("head", 0),
            "transformer_matrices": count.get("matrix", 0) + count.get("gate", 0),
            "scalars": sum(count.get(role, 0) for role in ("resid_lambdas", "x0_lambdas", "lambda")),
        }
        return table | {"total": sum(table.values())}

    def flops_per_token(self, parameters: Parameters) -> float:
        """Forward and backward: 6 per weight that multiplies, 12 * width * window per layer of attention."""
        table = self.parameter_table(parameters)
        dense = 6 * (table["lm_head"] + table["transformer_matrices"])
        return dense + sum(12 * self.settings.width * window for window in self.windows)


def inputs_and_targets(rows: mx.array) -> tuple[mx.array, mx.array]:
    """Rows [B, T + 1] -> tokens and targets, [B, T] each."""
    return rows[:, :-1], rows[:, 1:]


# ---------------------------------------------------------------------------------------------------------------------
# Powers on a CPU


def on_gpu() -> bool:
    return mx.default_device() != mx.cpu


def exp2_of_bits(x: mx.array) -> mx.array:
    """2 ** x for float32 x from -120 to 120, relative error 3e-7: a polynomial, and the rest into the exponent's bits.

    For CPUs: MLX's own exp takes 12 ns a number there, one at a time, and this 4, since it is made of what is
    vectorised.
    """
    shifted = x + ROUNDER  # the nearest whole number is now in the last bits
    rest = x - (shifted - ROUNDER)
    power = EXP2[-1] * rest + EXP2[-2]
    for coefficient in EXP2[-3::-1]:
        power = power * rest + coefficient
    exponent = mx.left_shift(mx.view(shifted, mx.int32), 23)  # what was beside the whole number is shifted out
    return mx.view(mx.view(power, mx.int32) + exponent, mx.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Attention


def attend(
    q: mx.array, k: mx.array, v: mx.array, window: int, scale: float, chunk: int, plain: bool = False
) -> mx.array:
    """Causal attention of q, k, v [B, H, T, D]: a token sees itself and `window` tokens before it.

    By chunks of queries, each with only the keys that one of them sees: in training MLX keeps all scores that it
    computes, and it has no windows of its own.
    """
    length, parts, by_mlx = q.shape[2], [], plain or on_gpu()
    for start in range(0, length, chunk):
        end, first = min(start + chunk, length), max(0, start - window)
        keys, values = k[:, :, first:end], v[:, :, first:end]
        mask = None
        if not by_mlx or end - 1 - first > window:
            distance = mx.arange(start, end)[:, None] - mx.arange(first, end)[None, :]
            mask = (distance >= 0) & (distance <= window)
        if by_mlx:
            how = {"scale": scale, "mask": "causal" if mask is None else mask}  # causal is aligned to the last key
            parts.append(mx.fast.scaled_dot_product_attention(q[:, :, start:end], keys, values, **how))
        else:
            wide = (part.astype(mx.float32) for part in (q[:, :, start:end], keys, values))  # powers need it
            parts.append(attend_on_cpu(*wide, scale, mask).astype(v.dtype))
    return mx.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]


def attend_on_cpu(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array) -> mx.array:
    """Attention where mask [queries, keys] is true. MLX's own spends most of its time in exp.

    For the backward pass only the powers are kept, since autodiff would keep all the steps that make them.
    """

    @mx.custom_function
    def weighed(q, k, v):
        scores = q @ k.swapaxes(-2, -1) + mx.where(mask, 0.0, -math.inf)
        powers = exp2_of_bits(mx.maximum(scores - scores.max(axis=-1, keepdims=True), -100.0)) * mask
        total = powers.sum(axis=-1, keepdims=True)
        return (powers @ v) / total, powers, total

    @weighed.vjp
    def _(primals, cotangents, outputs):
        (q, k, v), (out, powers, total) = primals, outputs
        upstream = cotangents[0] / total
        by_powers = upstream @ v.swapaxes(-2, -1) - (upstream * out).sum(axis=-1, keepdims=True)
        by_scores = powers * by_powers * LN_2
        return by_scores @ k, by_scores.swapaxes(-2, -1) @ q, powers.swapaxes(-2, -1) @ upstream

    return weighed(q * (scale / LN_2), k, v)[0]


# ---------------------------------------------------------------------------------------------------------------------
# Loss: softcap, softmax and cross-entropy chunk by chunk, in float32.


def tanh_and_power(logits: mx.array, softcap: float) -> tuple[mx.array, mx.array]:
    """For logits float32: t = tanh(logits / softcap), and exp(softcap * (t - 1)), which is at most 1."""
    if on_gpu():
        squashed = mx.tanh(logits / softcap)
        return squashed, mx.exp(softcap * (squashed - 1))
    half = 1 / (exp2_of_bits(mx.clip(logits * (2 / (softcap * LN_2)), -40.0, 40.0)) + 1)  # (1 - t) / 2
    return 1 - 2 * half, exp2_of_bits(half * (-2 * softcap / LN_2))


def softcap_cross_entropy(hidden, weight, targets, softcap: float, chunk: int, gradients: bool):
    """nats [n], and the gradients of their sum by hidden [n, width] and float32 weight [V, width], or None.

    The cap bounds every logit from above, so the sum of powers needs no maximum first. A chunk waits for the one
    before it, or all their logits would exist at once.
    """
    cast = weight.astype(hidden.dtype)
    nats, by_hidden, by_weight = [], [], mx.zeros(weight.shape) if gradients else None
    before: list[mx.array] = []
    for start in range(0, len(hidden), chunk):
        part, wanted = hidden[start : start + chunk], targets[start : start + chunk, None]
        if before:
            part = mx.depends(part, before)
        squashed, powers = tanh_and_power((part @ cast.T).astype(mx.float32), softcap)
        total = powers.sum(axis=-1, keepdims=True)
        target = mx.take_along_axis(squashed, wanted, axis=1)
        nats.append((mx.log(total) + softcap * (1 - target)).squeeze(1))
        before = [nats[-1]]
        if gradients:
            slope = powers / total * (1 - mx.square(squashed))
            at_target = mx.take_along_axis(slope, wanted, axis=1) - (1 - mx.square(target))
            slope = mx.put_along_axis(slope, wanted, at_target, axis=1).astype(hidden.dtype)
            by_hidden.append(slope @ cast)
            by_weight = by_weight + (slope.T @ part).astype(mx.float32)
            before = [nats[-1], by_hidden[-1], by_weight]
    return mx.concatenate(nats), mx.concatenate(by_hidden) if gradients else None, by_weight


def summed_cross_entropy(softcap: float, chunk: int) -> Callable:
    """f(hidden, weight, targets) -> (sum of the nats, its gradients by hidden and weight).

    The gradients are made in the forward pass, while a chunk's logits exist; the backward pass only scales them.
    """

    @mx.custom_function
    def summed(hidden, weight, targets):
        nats, by_hidden, by_weight = softcap_cross_entropy(hidden, weight, targets, softcap, chunk, True)
        return nats.sum(), by_hidden, by_weight

    @summed.vjp
    def _(primals, cotangents, outputs):
        upstream = cotangents[0]
        return outputs[1] * upstream.astype(outputs[1].dtype), outputs[2] * upstream, mx.zeros_like(primals[2])

    return summed


# ---------------------------------------------------------------------------------------------------------------------
# Optimizer


def adamw_update(p, g, first, second, lr, wd, beta1, beta2, debias1, debias2):
    """AdamW (arXiv 1711.05101): the new (p, first, second). The rates are scalars; debias is 1 - beta ** step."""
    first = beta1 * first + (1 - beta1) * g
    second = beta2 * second + (1 - beta2) * mx.square(g)
    step = first / (mx.sqrt(second / debias2) + ADAM_EPS)
    return p * (1 - lr * wd) - (lr / debias1) * step, first, second


def norm(x: mx.array) -> mx.array:
    """Frobenius norms of matrices [K, rows, cols] -> [K, 1, 1]."""
    return mx.sqrt(mx.square(x).sum(axis=(-2, -1), keepdims=True))


def polar_express(g: mx.array, iterations: int, dtype: mx.Dtype) -> mx.array:
    """The polar factor of each matrix in g [K, rows, cols], nearly: singular values near 1 (arXiv 2505.16932)."""
    x = (g / (POLAR_SAFETY * norm(g) + 1e-6)).astype(dtype)
    tall = x.shape[-2] > x.shape[-1]
    for a, b, c in POLAR_EXPRESS[:iterations]:
        transposed = x.swapaxes(-2, -1)
        gram = transposed @ x if tall else x @ transposed
        poly = b * gram + c * (gram @ gram)
        x = a * x + (x @ poly if tall else poly @ x)
    return x.astype(mx.float32)


def reduced_axis(shape: tuple[int, ...]) -> int:
    """The axis of [.., rows, cols] that NorMuon averages over: it keeps one number for each line of the other one."""
    return -1 if shape[-2] >= shape[-1] else -2


def normuon(x: mx.array, second: mx.array, beta2) -> tuple[mx.array, mx.array]:
    """NorMuon (arXiv 2510.05491): equal sizes along the longer side, norms as before; and the new `second`."""
    mean_square = mx.square(x).mean(axis=reduced_axis(x.shape), keepdims=True)
    second = beta2 * second + (1 - beta2) * mean_square
    step = mx.rsqrt(mx.maximum(second, 1e-10))
    before = mx.sqrt(mean_square.sum(axis=(-2, -1), keepdims=True))
    after = mx.sqrt((mean_square * mx.square(step)).sum(axis=(-2, -1), keepdims=True))
    return x * step * (before / mx.maximum(after, 1e-10)), second


def muon_update(p, g, first, second, lr, wd, momentum, beta2, *, iterations: int, eq: bool, plus: bool, dtype):
    """Muon with Nesterov momentum, Polar Express, NorMuon and cautious decay on stacks [K, rows, cols].

    Returns the new (p, first, second). eq: rows get equal lengths first (MuonEq, arXiv 2603.28254). plus: the polar
    factor is scaled to the norm of an exact one (Muon+, arXiv 2602.21545), which takes out what few iterations leave.
    """
    rows, cols = p.shape[-2:]
    first = momentum * first + (1 - momentum) * g
    x = (1 - momentum) * g + momentum * first
    if eq:
        lengths = mx.sqrt(mx.square(x).sum(axis=-1, keepdims=True))
        x = x * (norm(x) / rows**0.5 / mx.maximum(lengths, 1e-10))
    x = polar_express(x, iterations, dtype)
    if plus:
        x = x * (min(rows, cols) ** 0.5 / mx.maximum(norm(x), 1e-10))
    x, second = normuon(x, second, beta2)
    agrees = (x * p) >= 0
    return p - lr * (x + wd * p * agrees), first, second


@dataclass
class Bank:
    """Parameters of one shape as one float32 array [K, *shape], with their moments: one update for all of them."""

    names: list[str]
    value: mx.array
    first: mx.array
    second: mx.array
    muon: bool
    lr: float
    wd: float
    betas: tuple[float, float]
    waits: bool = False
    """Left out of the first update."""

    @classmethod
    def of(cls, names: list[str], parameters: Parameters, muon: bool, lr: float, wd: float, betas) -> Bank:
        value = mx.stack([parameters[name] for name in names])
        like = value.mean(axis=reduced_axis(value.shape), keepdims=True) if muon else value
        return cls(names, value, mx.zeros_like(value), mx.zeros_like(like), muon, lr, wd, betas)


class MuonAdamW:
    """Muon for the matrices, AdamW for everything else; all state in float32.

    Matrices of one shape share a bank. `compiled` fuses each update; the rates are arrays, so that new values do not
    compile again.
    """

    def __init__(self, model: GPT, parameters: Parameters, compiled: bool = False):
        s = self.settings = model.settings
        by_width = (s.width / 768) ** -0.5
        betas = (s.adam_beta1, s.adam_beta2)
        adam = {  # role: learning rate, weight decay, betas
            "embedding": (s.embedding_lr * by_width, s.embedding_wd, betas),
            "value_embedding": (s.value_embedding_lr * by_width, s.value_embedding_wd, betas),
            "head": (s.head_lr * by_width, s.head_wd, betas),
            "gate": (s.gate_lr, 0.0, betas),
            "resid_lambdas": (s.scalar_lr * 0.01, 0.0, betas),
            "x0_lambdas": (s.scalar_lr, 0.0, (s.x0_beta1, s.adam_beta2)),
            "lambda": (s.smear_lr, 0.0, betas),
        }
        self.steps, self.banks = 0, []
        for role, names in model.roles(parameters).items():
            for shape in sorted({parameters[name].shape for name in names}):
                same = [name for name in names if parameters[name].shape == shape]
                if role == "matrix":
                    lr = s.matrix_lr * max(1, shape[0] / shape[1]) ** 0.5
                    self.banks.append(Bank.of(same, parameters, True, lr, s.matrix_wd, (0.0, s.muon_beta2)))
                else:
                    if role not in adam:
                        raise TrainError(
                            f"There are no rates for {same[0]}, of the role {role!r}", "name them in MuonAdamW"
                        )
                    self.banks.append(Bank.of(same, parameters, False, *adam[role]))
                    # Blocks add nothing yet, so factors of the residual stream have no gradient but for rounding, and
                    # Adam would make whole steps of that: noise from seed to seed.
                    self.banks[-1].waits = role in ("resid_lambdas", "x0_lambdas", "lambda")
        self.banks.sort(key=lambda bank: -bank.value.size)  # the long ones first, so that threads end together
        mx.eval(self.state()[1])  # a thread cannot evaluate what was begun on another one's stream
        polar_dtype = mx.bfloat16 if model.dtype == mx.bfloat16 else mx.float32
        muon = partial(muon_update, iterations=s.muon_iterations, eq=s.muon_eq, plus=s.muon_plus, dtype=polar_dtype)
        self.adamw_update, self.muon_update = (mx.compile(f) if compiled else f for f in (adamw_update, muon))

    def state(self) -> tuple:
        """All there is to put back by `restore`; arrays do not change, so nothing is copied."""
        return self.steps, [(bank.value, bank.first, bank.second) for bank in self.banks]

    def restore(self, state: tuple) -> None:
        self.steps = state[0]
        for bank, arrays in zip(self.banks, state[1], strict=True):
            bank.value, bank.first, bank.second = arrays

    def parameters(self) -> Parameters:
        """The weights by name: views of the banks."""
        return {name: bank.value[i] for bank in self.banks for i, name in enumerate(bank.names)}

    def step(
        self,
        gradients: list[Parameters],
        scale: float,
        lr_multiplier: float,
        momentum: float,
        wd_multiplier: float,
        workers: machine.Workers,
    ) -> None:
        """One update from the sum of `gradients` times scale. The weight-decay multiplier is for Muon only."""
        self.steps += 1

        def update(bank: Bank) -> None:
            if bank.waits and self.steps == 1:
                return
            with machine.BUILDING:
                sums = (sum((part[name] for part in gradients[1:]), gradients[0][name]) for name in bank.names)
                g = mx.stack(list(sums)) * scale
                lr, (beta1, beta2) = bank.lr * lr_multiplier, bank.betas
                state = (bank.value, g, bank.first, bank.second)
                if bank.muon:
                    new = self.muon_update(*state, *map(mx.array, (lr, bank.wd * wd_multiplier, momentum, beta2)))
                else:
                    debias = (1 - beta1**self.steps, 1 - beta2**self.steps)
                    new = self.adamw_update(*state, *map(mx.array, (lr, bank.wd, beta1, beta2, *debias)))
            mx.eval(new)
            bank.value, bank.first, bank.second = new

        workers.map(update, self.banks)


# ---------------------------------------------------------------------------------------------------------------------
# Schedules

WD_SCHEDULES = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
}


def lr_multiplier(progress: float, step: int, s: Settings) -> float:
    """Linear warm-up by steps (step 0 already moves), flat, then linear down to final_lr at progress 1."""
    warm = min(1.0, (step + 1) / s.warmup_steps) if s.warmup_steps else 1.0
    left = min(1.0, (1 - progress) / s.warmdown) if s.warmdown else 1.0
    return warm * (left + (1 - left) * s.final_lr)


def muon_momentum(progress: float, s: Settings) -> float:
    """From start to peak over the ramp; from peak to end while the rates fall."""
    up = min(1.0, progress / s.momentum_ramp) if s.momentum_ramp else 1.0
    left = min(1.0, (1 - progress) / s.warmdown) if s.warmdown else 1.0
    peak = s.momentum_end + (s.momentum_peak - s.momentum_end) * left
    return s.momentum_start + (peak - s.momentum_start) * up


# ---------------------------------------------------------------------------------------------------------------------
# Steps


class Pace:
    """How long something takes: the median of the last few times, in seconds."""

    def __init__(self):
        self.recent = deque(maxlen=21)

    def note(self, seconds: float) -> None:
        self.recent.append(seconds)

    @property
    def usual(self) -> float:
        return statistics.median(self.recent) if self.recent else 0.0


class Trainer:
    """A model with its weights and optimizer, and what one step and one evaluation are."""

    def __init__(self, model: GPT, parameters: Parameters, compiled: bool = False, threads: int = 1):
        self.model, self.settings, self.workers = model, model.settings, machine.Workers(threads)
        self.optimizer = MuonAdamW(model, parameters, compiled)
        self.take_parameters()
        self.batch_rows = self.settings.batch_rows(model.sequence_length)
        share = max(1, self.batch_rows // threads)
        self.micro_rows = max(n for n in divisors(self.batch_rows) if n <= min(self.settings.micro_batch_rows, share))
        self.diverged_above = 2 * math.log(model.vocab_size)  # a uniform guess loses half of this
        self.loss_and_gradients = mx.value_and_grad(model.loss)
        self.token_nats = model.nats
        if compiled:
            self.loss_and_gradients, self.token_nats = mx.compile(self.loss_and_gradients), mx.compile(self.token_nats)
        self.pass_pace, self.update_pace = Pace(), Pace()

    def check_memory(self) -> None:
        """On a CPU: raises MemoryError if passes of micro_rows would not fit, by the measure of a pass of one row."""
        if on_gpu():
            return
        threads = self.workers.count
        if machine.free_memory() < 2 * machine.BLAS_BUFFER * threads:
            raise MemoryError
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        row = np.zeros((1, self.model.sequence_length + 1), np.int32)
        mx.eval(self.loss_and_gradients(self.parameters, mx.array(row)))
        needed = (mx.get_peak_memory() - before) * self.micro_rows * threads
        if machine.free_memory() < needed:
            raise MemoryError

    def halve(self, error: Exception) -> None:
        """After out-of-memory: micro-batches of the next smaller size that divides. At one row, TrainError."""
        if self.micro_rows == 1:
            hint = "lower DEPTH, WIDTH or LOSS_CHUNK, or set CHECKPOINT = True"
            raise TrainError("Out of memory even with one row at a time", hint) from error
        self.micro_rows = max(n for n in divisors(self.micro_rows) if n <= self.micro_rows // 2)
        self.pass_pace = Pace()
        say(f"out of memory: going on with {self.micro_rows} rows at a time")

    def surviving(self, work: Callable):
        """work(), again with half the rows for as long as memory does not suffice."""
        while True:
            try:
                return work()
            except Exception as error:
                if not machine.out_of_memory(error):
                    raise
                self.halve(error)
            # Only here are the frames of the failed attempt, and with them its arrays, gone.
            gc.collect()
            mx.clear_cache()

    def gradients(self, rows: np.ndarray, deadline: float = math.inf) -> tuple[float, list[Parameters], int]:
        """Sums over rows [B, T + 1] in passes of micro_rows: (nats, gradients of each thread, rows done).

        A pass after the first that, with the update, would end after the deadline is not begun.
        """
        passes = [rows[start : start + self.micro_rows] for start in range(0, len(rows), self.micro_rows)]
        deadline -= self.update_pace.usual

        def accumulate(mine: list[np.ndarray]) -> tuple[float, Parameters | None, int]:
            nats, sums, done = 0.0, None, 0
            for part in mine:
                began = time.perf_counter()
                if sums is not None and began + self.pass_pace.usual > deadline:
                    break
                with machine.BUILDING:
                    loss, new = self.loss_and_gradients(self.parameters, mx.array(part.astype(np.int32)))
                    sums = new if sums is None else {name: sums[name] + new[name] for name in sums}
                mx.eval(loss, sums)
                self.pass_pace.note(time.perf_counter() - began)
                nats, done = nats + loss.item(), done + len(part)
            return nats, sums, done

        shares = [passes[i :: self.workers.count] for i in range(min(self.workers.count, len(passes)))]
        nats, sums, done = zip(*self.workers.map(accumulate, shares), strict=True)
        return sum(nats), list(sums), sum(done)

    def step(
        self, rows: np.ndarray, progress: float, step: int, deadline: float = math.inf
    ) -> tuple[float, float, int]:
        """One update. Returns (loss in nats per token, learning-rate multiplier, rows done).

        Raises Diverged before the weights are touched.
        """
        s = self.settings
        nats, sums, done = self.surviving(lambda: self.gradients(rows, deadline))
        tokens = done * (rows.shape[1] - 1)
        loss, multiplier = nats / tokens, lr_multiplier(progress, step, s)
        if not loss <= self.diverged_above:
            raise Diverged(
                f"the loss is {loss:.6g} at step {step}, and a uniform guess has {self.diverged_above / 2:.2f}", step
            )
        began = time.perf_counter()
        self.update(sums, 1 / tokens, multiplier, muon_momentum(progress, s), WD_SCHEDULES[s.wd_schedule](progress))
        self.update_pace.note(time.perf_counter() - began)
        return loss, multiplier, done

    def update(self, sums: list[Parameters], scale: float, multiplier: float, momentum: float, wd: float) -> None:
        self.optimizer.step(sums, scale, multiplier, momentum, wd, self.workers)
        self.take_parameters()

    def take_parameters(self) -> None:
        self.parameters = self.optimizer.parameters()
        mx.eval(self.parameters)

    def warm_up(self, rows: np.ndarray) -> None:
        """Compiles and tries everything on dummy rows [B, T + 1], then puts all state back. Leaves paces behind."""
        state = self.optimizer.state()
        self.surviving(self.check_memory)
        for _ in range(2):
            self.pass_pace, self.update_pace = Pace(), Pace()
            _, sums, _ = self.surviving(lambda: self.gradients(rows))
            began = time.perf_counter()
            self.update(sums, 0.0, 0.0, 0.0, 0.0)
            self.update_pace.note(time.perf_counter() - began)
        self.nats(rows[:1])
        self.optimizer.restore(state)
        self.take_parameters()

    def nats(self, rows: np.ndarray) -> np.ndarray:
        """The loss of each target of at most micro_rows rows uint16 [n, T + 1], as float32 [n, T]."""
        full = np.resize(rows.astype(np.int32), (self.micro_rows, rows.shape[1]))  # one shape: compiled only once
        with machine.BUILDING:
            nats = self.token_nats(self.parameters, mx.array(full))
        mx.eval(nats)
        return np.array(nats)[: len(rows)]

    def evaluate(self, rows: data.Rows, token_bytes: np.ndarray, interrupt: Interrupt) -> float | None:
        """Bits per byte over rows [n, T + 1]; targets without bytes count for nothing. None after a signal."""

        def judged(start: int) -> tuple[float, int]:
            part = rows[start : start + self.micro_rows]
            if interrupt.signal:
                return 0.0, 0
            losses, sizes = self.nats(part), token_bytes[part[:, 1:]]
            return float(losses[sizes > 0].sum(dtype=np.float64)), int(sizes.sum())

        found = self.surviving(lambda: self.workers.map(judged, range(0, len(rows), self.micro_rows)))
        if interrupt.signal:
            return None
        return data.bits_per_byte(sum(nats for nats, _ in found), sum(n_bytes for _, n_bytes in found))


# ---------------------------------------------------------------------------------------------------------------------
# Loop


@dataclass
class Progress:
    """What the loop has done so far; seconds is everything from step 0 on."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    train_loss: float = math.nan
    epoch: int = 1


def train(
    trainer: Trainer,
    stream: data.Stream,
    done: Progress,
    interrupt: Interrupt,
    budget: float,
    max_steps: int | None,
    peak_flops: float | None,
) -> None:
    """Steps until not even one pass and an update would fit into the budget, judged by their medians; at least one.

    With max_steps the clock is only printed: progress is step / max_steps, and a seed gives the same run again.
    """
    flops = trainer.model.flops_per_token(trainer.parameters)
    average, last_log = 0.0, -math.inf
    gc.collect()
    gc.freeze()
    gc.disable()  # collections would stall a step
    start = before = time.perf_counter()
    deadline = start + budget if max_steps is None else math.inf
    try:
        while not interrupt.signal:
            step, now = done.steps, time.perf_counter()
            least = trainer.pass_pace.usual + trainer.update_pace.usual
            if (step >= max_steps) if max_steps is not None else (step > 0 and now + least > deadline):
                break
            progress = step / max_steps if max_steps is not None else min((now - start) / budget, 1.0)
            loss, multiplier, rows = trainer.step(stream.next(), progress, step, deadline)
            now = time.perf_counter()
            seconds, before = now - before, now
            tokens = rows * trainer.model.sequence_length
            average = 0.9 * average + 0.1 * loss
            done.steps, done.tokens, done.epoch = step + 1, done.tokens + tokens, stream.epoch
            done.train_loss = average / (1 - 0.9**done.steps)
            if now - last_log >= LOG_SECONDS or done.steps == max_steps:
                last_log = now
                rate = tokens / seconds
                mfu = f"{100 * flops * rate / peak_flops:.1f}" if peak_flops else "n/a"
                remaining = budget - (now - start) if max_steps is None else (max_steps - done.steps) * seconds
                say(
                    f"step {step:05d} | progress: {progress:.4f} | loss: {done.train_loss:.6f} | lrm: {multiplier:.2f}"
                    f" | dt: {1000 * seconds:.1f}ms | tok/sec: {rate:,.0f} | mfu: {mfu} | epoch: {done.epoch}"
                    f" | remaining: {max(remaining, 0):.0f}s"
                )
    finally:
        done.seconds = time.perf_counter() - start
        gc.enable()
        gc.unfreeze()


# ---------------------------------------------------------------------------------------------------------------------
# Export


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """The nats of each target [..], by all its logits [.., V]."""
    return mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]


def check_gradients(model: GPT, parameters: Parameters) -> None:
    """Raises TrainError where what is trained differs from what is exported, in the loss or in its gradients.

    Training has gradients of its own in lean_mlp, attend_on_cpu and the loss head, and no logits. Whoever changes one
    of two forms alone would train another model than the one that is judged, or train it wrongly.
    """
    trained = copy.copy(model)
    trained.dtype = mx.float32
    rng = np.random.default_rng(0)  # not the first weights, many of which are zero
    noisy = {name: p + mx.array(rng.normal(0, 0.1, p.shape).astype(np.float32)) for name, p in parameters.items()}
    rows = mx.array(rng.integers(model.vocab_size, size=(2, min(model.sequence_length, 128) + 1)).astype(np.int32))

    def exported_loss(weights: Parameters) -> mx.array:
        tokens, targets = inputs_and_targets(rows)
        return cross_entropy(trained.plain().logits(weights, tokens), targets).sum()

    loss, gradients = mx.value_and_grad(trained.loss)(noisy, rows)
    wanted_loss, wanted = mx.value_and_grad(exported_loss)(noisy)
    mx.eval(loss, gradients, wanted_loss, wanted)
    tolerance = 1e-3 if not on_gpu() else 1e-2  # a GPU may round products of float32 to fewer bits
    if not abs(loss.item() / wanted_loss.item() - 1) <= tolerance:
        raise TrainError(
            f"GPT.loss is {loss.item():.4f} where the exported GPT.logits have {wanted_loss.item():.4f}",
            "both forms of the head, of attention and of the MLP must compute the same: change both",
        )
    for name in parameters:
        difference, size = (float(mx.sqrt(mx.square(x).sum())) for x in (gradients[name] - wanted[name], wanted[name]))
        if not difference <= 10 * tolerance * size + 1e-3:
            raise TrainError(
                f"The gradient by {name} is not that of the exported model: off by {difference:.3g} of {size:.3g}",
                "a function with a vjp of its own was changed: change its vjp too, or use its plain form",
            )


def exported(model: GPT, parameters: Parameters) -> Callable[[mx.array], mx.array]:
    """The function that the judge gets: tokens int32 [EXPORT_ROWS, T] -> logits float32, weights inside."""
    return lambda tokens: model.plain().logits(parameters, tokens)


def export(trainer: Trainer, dataset: data.Dataset, path: str, seed: int) -> None:
    """Writes the model to path and reads it back: a validation row must cost there what it costs here."""
    model, rows = trainer.model, dataset.rows("val")[:1]
    about = {
        "tokenizer_sha256": dataset.tokenizer_sha256,
        "data": dataset.name,
        "vocab_size": dataset.vocab_size,
        "sequence_length": dataset.sequence_length,
        "settings": asdict(model.settings),
        "seed": seed,
    }
    export_rows = model.settings.export_rows
    graph.save(exported(model, trainer.parameters), path, export_rows, dataset.sequence_length, about)
    tokens = np.resize(rows.astype(np.int32), (export_rows, rows.shape[1]))
    there = float(cross_entropy(graph.load(path)(tokens[:, :-1])[0], mx.array(tokens[0, 1:])).mean())
    here = float(trainer.surviving(lambda: trainer.nats(rows)).mean())
    if not math.isfinite(here):
        os.remove(path)
        raise Diverged("the loss is no number after the last step", trainer.optimizer.steps)
    tolerance = 1e-3 if model.dtype == mx.float32 else 3e-2  # kernels of 16-bit types differ between devices
    if not abs(there - here) <= tolerance:
        os.remove(path)
        raise TrainError(f"The exported model has a loss of {there:.5f} on a row where training has {here:.5f}")


# ---------------------------------------------------------------------------------------------------------------------
# The command


def say(line: str) -> None:
    print(line, flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="climbmix", help="data set made by prepare.py (default: %(default)s)")
    parser.add_argument("--cache", help="folder of the data sets (default: $ARK_CACHE, else ~/.cache/ark-data)")
    parser.add_argument("--device", choices=("gpu", "cpu"), help="default: gpu where MLX has one")
    parser.add_argument("--profile", choices=("full", "small"), help="default: full on a GPU, small on a CPU")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), help="of activations; default: bf16 on a GPU, else fp32")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="mx.compile; default: on a GPU")
    parser.add_argument("--threads", type=int, help="that compute on a CPU; default: 2, where there are as many cores")
    parser.add_argument("--seed", help="weights and order of the data (default: $ARK_SEED, else 1)")
    parser.add_argument("--time-budget", metavar="SECONDS", help="default: $ARK_BUDGET_SECONDS, else 300")
    parser.add_argument("--max-steps", type=int, help="so many steps instead of a budget: the same run every time")
    parser.add_argument("--model", default="model.graph", help="where the model goes (default: %(default)s)")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace, interrupt: Interrupt) -> int:
    if not os.access(os.path.dirname(os.path.abspath(args.model)), os.W_OK):
        raise TrainError(f"Nothing can be written beside {args.model}", "--model PATH")
    if os.path.lexists(args.model):
        os.remove(args.model)  # a model of an earlier run must not be taken for this one's
    seed = seed_from(args.seed, "ARK_SEED", 1)
    budget = number_from(args.time_budget, "--time-budget", "ARK_BUDGET_SECONDS", 300.0, 0.001)
    for value, name in ((args.max_steps, "--max-steps"), (args.threads, "--threads")):
        if value is not None and value < 1:
            raise TrainError(f"{name} must be at least 1")
    device = machine.choose_device(args.device)
    if device != "cpu" and args.threads:
        raise TrainError("--threads is for a CPU", "--device cpu")
    on_cpu, device_name, peak_flops = device == "cpu", machine.device_name(device), machine.peak_flops(device)
    machine.limit_memory(device)
    dtype = mx.float32 if args.dtype == "fp32" or (on_cpu and not args.dtype) else mx.bfloat16
    compiled = args.compile if args.compile is not None else not on_cpu
    threads = (args.threads or min(2, os.cpu_count() or 1)) if on_cpu else 1
    s = settings_for(args.profile or ("small" if on_cpu else "full"))
    dataset = data.open_dataset(args.data, args.cache)
    vocab_size, length = dataset.vocab_size, dataset.sequence_length
    s.check(length)

    model = GPT(s, vocab_size, length, dtype)
    parameters = model.init(seed)
    # What cannot be exported should fail now, not after the run.
    graph.check(exported(model, parameters), s.export_rows, length, vocab_size)
    check_gradients(model, parameters)
    table, flops = model.parameter_table(parameters), model.flops_per_token(parameters)
    kind = str(dtype).removeprefix("mlx.core.")
    blas = f" | BLAS: {machine.BLAS or 'reference'}" if on_cpu and sys.platform == "linux" else ""
    say(f"device: {device_name} | dtype: {kind} | compiled: {compiled} | threads: {threads}{blas}")
    if on_cpu and sys.platform == "linux" and not machine.BLAS:
        say(machine.NO_BLAS)
    say(f"data: {dataset.name} | vocabulary: {vocab_size} | tokens of a row: {length} | seed: {seed}")
    say(f"settings: {' '.join(f'{name}={value}' for name, value in asdict(s).items())}")
    if s.profile == "small":
        ignored = [name.removeprefix("SMALL_") for name in globals() if name.startswith("SMALL_")]
        say(f"profile: small, so these count for nothing: {', '.join(ignored)}")
    say(f"windows: {model.windows}")
    for name, count in table.items():
        say(f"{name:<24}{count:>13,}")
    say(f"FLOPs per token: {flops:e}")

    trainer = Trainer(model, parameters, compiled, threads)
    began, rows = time.perf_counter(), s.batch_rows(length)
    trainer.warm_up(np.random.default_rng(0).integers(vocab_size, size=(rows, length + 1)))
    compile_seconds = time.perf_counter() - began
    limit = f"{args.max_steps} steps" if args.max_steps else f"{budget:g} seconds"
    say(f"warm-up: {compile_seconds:.1f}s | micro-batch: {trainer.micro_rows} of {rows} rows | training for {limit}")

    stream = data.Stream(dataset.rows("train"), rows, seed)
    done, status, code, bpb, eval_seconds = Progress(), "ok", 0, None, 0.0
    interrupt.training()
    try:
        train(trainer, stream, done, interrupt, budget, args.max_steps, peak_flops)
        if not done.steps:
            raise Interrupted
        export(trainer, dataset, args.model, seed)
        began = time.perf_counter()
        bpb = trainer.evaluate(dataset.rows("val"), dataset.token_bytes, interrupt)
        eval_seconds = time.perf_counter() - began
        if interrupt.signal:
            status, code, bpb = "interrupted", EXIT_CODES[interrupt.signal], None
    except Diverged as error:
        print(f"train.py: {error}", file=sys.stderr, flush=True)
        status, code = "diverged", 1

    rate = done.tokens / done.seconds
    block = {
        "val_bpb": None if bpb is None else f"{bpb:.6f}",
        "training_seconds": f"{done.seconds:.1f}",
        "total_seconds": f"{time.perf_counter() - STARTED:.1f}",
        "peak_vram_mb": f"{machine.peak_memory_mb():.1f}",
        "mfu_percent": f"{100 * flops * rate / peak_flops:.2f}" if peak_flops else "n/a",
        "total_tokens_M": f"{done.tokens / 1e6:.1f}",
        "num_steps": done.steps,
        "num_params_M": f"{table['total'] / 1e6:.1f}",
        "depth": s.depth,
        "seed": seed,
        "device": device_name,
        "attention": f"chunks of {min(s.attention_chunk, length)}",
        "tok_per_sec": f"{rate:.0f}",
        "compile_seconds": f"{compile_seconds:.1f}",
        "eval_seconds": f"{eval_seconds:.1f}",
        "train_loss": None if math.isnan(done.train_loss) else f"{done.train_loss:.6f}",
        "epochs": done.epoch,
        "status": status,
    }
    lines = [f"{name + ':':<18}{value}" for name, value in block.items() if value is not None]
    interrupt.ignore()
    say("\n".join(["---", *lines]))
    return code


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 done, 1 with a sentence on stderr, 2 usage, 130 or 143 interrupted."""
    args, interrupt = parse(arguments), Interrupt()
    try:
        interrupt.listen()
        return run(args, interrupt)
    except Interrupted:
        print("train.py: interrupted before the first step", file=sys.stderr)
        return EXIT_CODES[interrupt.signal]
    except (TrainError, data.DataError, graph.GraphError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("train.py: interrupted", file=sys.stderr)
        return 130
    finally:
        interrupt.restore()
    return 1


if __name__ == "__main__":
    # Not sys.exit: it waits for threads, also where a signal has left one without work, and with compiled functions in
    # threads MLX aborts at an ordinary end (seen in 0.32.4). All that is printed has been flushed.
    os._exit(main())
