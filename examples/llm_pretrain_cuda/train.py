"""Pretrain a small GPT for exactly the budget: the one file that an agent, or you, may change.

    python train.py                               one NVIDIA GPU, five minutes, data set climbmix
    python train.py --device cpu --data stories   the small profile: two cores are enough

The settings come first, each with its remedy; then model, attention, loss, optimizer, schedules, data, loop, export.
The clock starts at step 0 and stops for nothing: compilation happens before it, on dummy data, and leaves no trace.
Written: log lines on stdout with `progress` and `loss`, the trained model as data in model.safetensors (see graph.py),
and a final block of `key: value` lines. `val_bpb` there is this process's own number; evaluate.py is the judge.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import inspect
import math
import os
import re
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, make_dataclass

if __name__ == "__main__":
    # Read when PyTorch is loaded. Waiting threads of OpenMP sleep: where others use the cores too, spinning made single
    # steps ten times as slow.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Read when CUDA starts. torch before 2.11 listens to the second name only; without it memory breaks into pieces.
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import data
import graph
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from command import (
    EXIT_CODES,
    Interrupt,
    Interrupted,
    TrainError,
    number_from,
    seed_from,
)
from machine import (
    choose_device,
    choose_dtype,
    has_triton,
    out_of_memory,
    peak_flops,
    peak_memory_mb,
    synchronize,
)
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

# ---------------------------------------------------------------------------------------------------------------------
# Settings: one literal a line, so that a search program can turn them in place. Out of memory is no reason to touch
# them: the micro-batch halves itself. Loss spikes or `diverged`: lower MATRIX_LR and EMBEDDING_LR first.

DEPTH = 9  # layers; fewer when the run makes less than about 500 steps
WIDTH = 640  # channels; a multiple of HEAD_DIM, never rounded
HEAD_DIM = 128  # channels of a head; 64 when a narrow model needs more heads
WINDOW_PATTERN = "SSSSL"  # S short, L full; repeated over the layers, the last layer is always full
SHORT_WINDOW = 256  # previous tokens that an S layer sees; longer when the text refers further back
BATCH_TOKENS = 262144  # tokens of an update; halve it when there are few steps, double it when the loss is noisy
MICRO_BATCH_ROWS = 128  # rows in one pass; must divide the rows of a batch; no effect on the loss, only on memory
EXPORT_ROWS = 8  # rows in one pass of the exported model
LOSS_CHUNK = 8192  # tokens whose logits exist at once; halve it for memory
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

# The small profile, used off CUDA: where a SMALL_NAME stands here it counts instead of NAME, and NAME does nothing.
# For vocabulary 1024, 256 tokens and two cores. Sizes fit some minutes; thirty seconds want smaller ones, to be found.
SMALL_DEPTH = 4  # fewer when the run makes less than about 200 steps
SMALL_WIDTH = 128
SMALL_HEAD_DIM = 32
SMALL_WINDOW_PATTERN = "L"
SMALL_SHORT_WINDOW = 64
SMALL_BATCH_TOKENS = 4096  # halve it when there are few steps
SMALL_MICRO_BATCH_ROWS = 16
SMALL_EXPORT_ROWS = 16
SMALL_LOSS_CHUNK = 1024
SMALL_ROPE_BASE = 10000.0


class Diverged(Exception):
    """The loss is not finite or far above that of a uniform guess; the weights have not seen that step."""


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
        if min(*sizes, self.micro_batch_rows, self.export_rows, self.loss_chunk) < 1:
            raise self.refusal("DEPTH, WIDTH, HEAD_DIM, BATCH_TOKENS and every number of rows must be at least 1")
        if self.width % self.head_dim or self.head_dim % 2:
            low = self.width // self.head_dim * self.head_dim
            sentence = f"WIDTH = {self.width} is not a multiple of an even HEAD_DIM = {self.head_dim}"
            raise self.refusal(sentence, f"widths that are: {low or self.head_dim}, {low + self.head_dim}")
        if not self.window_pattern or set(self.window_pattern) - {"S", "L"}:
            raise self.refusal(f"WINDOW_PATTERN = {self.window_pattern!r} may hold only the letters S and L")
        if max(self.gate_channels, self.smear_channels if self.smear else 0) > self.width:
            raise self.refusal(f"GATE_CHANNELS and SMEAR_CHANNELS must not exceed WIDTH = {self.width}")
        if not 1 <= self.muon_iterations <= len(POLAR_EXPRESS):
            raise self.refusal(f"MUON_ITERATIONS must be 1 to {len(POLAR_EXPRESS)}, not {self.muon_iterations}")
        if not 0 < self.softcap <= 40:
            raise self.refusal(f"SOFTCAP = {self.softcap} is not above 0 and at most 40: float32 underflows beyond")
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
    values = {name.lower(): constants.get(prefix + name, constants[name]) for name in TUNABLE}
    return Settings(**values, profile=profile)


# Not for tuning.
STARTED = time.perf_counter()
ADAM_EPS = 1e-10
POLAR_SAFETY = 1.02
LOG_SECONDS = 1.0
# "main" means whatever version lies in the cache; a commit hash pins it.
FLASH_REPOSITORY, FLASH_REVISION = "varunneal/flash-attention-3", "main"
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


def rms_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],))


class Linear(nn.Linear):
    """A map without bias. The weight is kept in float32 and cast to the type of the activations."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class Block(nn.Module):
    """Attention and MLP on a residual stream. Some layers add a gated value embedding of the token to their values."""

    def __init__(self, settings: Settings, layer: int, vocab_size: int):
        super().__init__()
        width = settings.width
        self.head_dim, self.heads = settings.head_dim, width // settings.head_dim
        self.qk_scale, self.gate_channels = settings.qk_scale, settings.gate_channels
        self.query, self.key, self.value, self.out = (Linear(width, width) for _ in range(4))
        self.up, self.down = Linear(width, 4 * width), Linear(4 * width, width)
        self.has_value_embedding = layer % 2 == (settings.depth - 1) % 2  # every other layer, the last one always
        if self.has_value_embedding:
            self.value_embedding = nn.Embedding(vocab_size, width)
            self.value_gate = Linear(settings.gate_channels, self.heads)

    def forward(self, x: Tensor, tokens: Tensor, cos: Tensor, sin: Tensor, attend: Callable, window: int) -> Tensor:
        h = rms_norm(x)
        shape = (*tokens.shape, self.heads, self.head_dim)
        q, k, v = (project(h).view(shape) for project in (self.query, self.key, self.value))
        if self.has_value_embedding:
            gate = 2 * torch.sigmoid(self.value_gate(h[..., : self.gate_channels]))
            v = v + gate[..., None] * self.value_embedding(tokens).view(shape).to(v.dtype)
        q = rms_norm(rotate(q, cos, sin)) * self.qk_scale
        k = rms_norm(rotate(k, cos, sin)) * self.qk_scale
        x = x + self.out(attend(q, k, v, window).reshape(x.shape))
        return x + self.down(F.relu(self.up(rms_norm(x))).square())


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (arXiv 2104.09864), x [B, T, H, D]: channels j and j + D / 2 turn by minus the angle."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1).to(x.dtype)


class GPT(nn.Module):
    """A decoder with rotary positions, QK norm, squared ReLU, value embeddings, an untied head and capped logits.

    Weights are float32; activations have `dtype`. `attend` is any of the functions of the section below.
    """

    def __init__(self, settings: Settings, vocab_size: int, sequence_length: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.settings, self.vocab_size, self.dtype = settings, vocab_size, dtype
        self.windows = settings.windows(sequence_length)
        self.attend = attend_sdpa
        self.chunk_loss = chunk_loss
        self.embedding = nn.Embedding(vocab_size, settings.width)
        self.blocks = nn.ModuleList(Block(settings, layer, vocab_size) for layer in range(settings.depth))
        self.head = Linear(settings.width, vocab_size)
        self.resid_lambdas = nn.Parameter(torch.empty(settings.depth))
        self.x0_lambdas = nn.Parameter(torch.empty(settings.depth))
        if settings.smear:
            self.smear_gate = Linear(settings.smear_channels, 1)
            self.smear_lambda = nn.Parameter(torch.empty(1))
        if settings.backout:
            self.backout_lambda = nn.Parameter(torch.empty(1))
        frequencies = settings.rope_base ** (
            -torch.arange(0, settings.head_dim, 2, dtype=torch.float64) / settings.head_dim
        )
        angles = torch.outer(torch.arange(sequence_length, dtype=torch.float64), frequencies)[
            :, None, :
        ]  # [T, 1, D / 2]
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    @torch.no_grad()
    def init_weights(self, seed: int) -> GPT:
        """Draws all weights on the CPU, so that a seed means the same model on every device."""
        s, generator = self.settings, torch.Generator().manual_seed(seed)
        bound = s.init_scale * math.sqrt(3 / s.width)  # a uniform distribution of variance init_scale ** 2 / width
        self.embedding.weight.normal_(0, s.embedding_init, generator=generator)
        self.head.weight.normal_(0, s.head_init, generator=generator)
        for block in self.blocks:
            for linear in (block.query, block.key, block.value, block.up):
                linear.weight.uniform_(-bound, bound, generator=generator)
            block.out.weight.zero_()
            block.down.weight.zero_()
            if block.has_value_embedding:
                block.value_embedding.weight.uniform_(-bound, bound, generator=generator)
                block.value_gate.weight.zero_()
        self.resid_lambdas.fill_(s.resid_init)
        self.x0_lambdas.fill_(s.x0_init)
        if s.smear:
            self.smear_gate.weight.uniform_(0, 0.02, generator=generator)
            self.smear_lambda.zero_()
        if s.backout:
            self.backout_lambda.fill_(s.backout_init)
        return self

    def trunk(self, tokens: Tensor) -> Tensor:
        """tokens int64 [B, T] -> normed hidden states [B, T, width] in `dtype`."""
        x = rms_norm(self.embedding(tokens).to(self.dtype))
        if self.settings.smear:
            now, before = x[:, 1:], x[:, :-1]
            gate = self.smear_lambda.to(x.dtype) * torch.sigmoid(
                self.smear_gate(now[..., : self.settings.smear_channels])
            )
            x = torch.cat([x[:, :1], now + gate * before], dim=1)
        x0 = middle = x
        for layer, block in enumerate(self.blocks):
            x = self.resid_lambdas[layer].to(x.dtype) * x + self.x0_lambdas[layer].to(x.dtype) * x0
            x = block(x, tokens, self.cos, self.sin, self.attend, self.windows[layer])
            if layer == (len(self.blocks) - 1) // 2:  # never the last one: a share of itself would be no change
                middle = x
        if self.settings.backout:
            x = x - self.backout_lambda.to(x.dtype) * middle
        return rms_norm(x)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens int64 [B, T] -> logits float32 [B, T, V]. Training uses `loss`, which never holds them all."""
        return self.settings.softcap * torch.tanh(self.head(self.trunk(tokens)).float() / self.settings.softcap)

    def loss(self, tokens: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats: the mean with gradients, or with "none" each token's [B, T] without gradients."""
        hidden, targets = self.trunk(tokens).flatten(0, 1), targets.flatten()
        how = (self.settings.softcap, self.settings.loss_chunk, self.chunk_loss)
        if reduction == "mean":
            return SoftcapCrossEntropy.apply(hidden, self.head.weight, targets, *how) / targets.numel()
        with torch.no_grad():
            nats, _, _ = softcap_cross_entropy(hidden, self.head.weight, targets, *how, gradients=False)
        return nats.view(tokens.shape)

    def roles(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, by the part it plays. What is two-dimensional and has no name here is for Muon."""
        roles: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            known = ("value_embedding", "embedding", "head", "gate", "resid_lambdas", "x0_lambdas", "lambda")
            role = next((part for part in known if part in name), "matrix")
            role = "matrix" if "value_gate" in name and self.settings.muon_gates else role
            if role == "matrix" and parameter.ndim != 2:
                raise TrainError(f"Parameter {name} is no matrix and has no role", "name one in GPT.roles")
            roles.setdefault(role, []).append(parameter)
        return roles

    def parameter_table(self) -> dict[str, int]:
        """Parameters by group. Gates count as matrices; scalars are the lambdas."""
        count = {role: sum(p.numel() for p in parameters) for role, parameters in self.roles().items()}
        table = {
            "wte": count["embedding"],
            "value_embeds": count.get("value_embedding", 0),
            "lm_head": count["head"],
            "transformer_matrices": count["matrix"] + count.get("gate", 0),
            "scalars": count["resid_lambdas"] + count["x0_lambdas"] + count.get("lambda", 0),
        }
        return table | {"total": sum(table.values())}

    def flops_per_token(self) -> float:
        """Forward and backward: 6 per weight that multiplies, 12 * width * window per layer of attention."""
        table = self.parameter_table()
        dense = 6 * (table["lm_head"] + table["transformer_matrices"])
        return dense + sum(12 * self.settings.width * window for window in self.windows)


# ---------------------------------------------------------------------------------------------------------------------
# Attention: q, k, v [B, T, H, D] -> [B, T, H, D], causal; a token sees itself and `window` tokens before it.


def attend_sdpa(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """torch's own attention: everywhere, and what is exported. Short windows need a mask and are slow on a GPU."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    length = q.shape[2]
    if window >= length - 1:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    position = torch.arange(length, device=q.device)
    distance = position[:, None] - position[None, :]
    mask = (distance >= 0) & (distance <= window)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


class FlexAttention:
    """FlexAttention with one block mask per window: the blocks outside a window cost nothing."""

    def __init__(self, windows: list[int], length: int, device: torch.device):
        self.masks = {window: self.mask(window, length, device) for window in set(windows)}

    @staticmethod
    def mask(window: int, length: int, device: torch.device):
        def visible(batch, head, query, key):
            return (query >= key) & (query - key <= window)

        return create_block_mask(visible, None, None, length, length, device=str(device))

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return flex_attention(q, k, v, block_mask=self.masks[window]).transpose(1, 2)


def flash_attention_3() -> Callable:
    """attend() by FlashAttention 3: an installed flash_attn_interface, else what `kernels` has in its cache already."""
    try:
        kernel = importlib.import_module("flash_attn_interface")
    except ImportError:
        os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: training never waits for a network
        get_kernel = importlib.import_module("kernels").get_kernel
        wanted = {"revision": FLASH_REVISION, "trust_remote_code": True}
        known = inspect.signature(get_kernel).parameters
        kernel = get_kernel(FLASH_REPOSITORY, **{name: value for name, value in wanted.items() if name in known})
        kernel = getattr(kernel, "flash_attn_interface", kernel)

    def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        out = kernel.flash_attn_func(q, k, v, causal=True, window_size=(window, 0))
        return out[0] if isinstance(out, tuple) else out

    probe = torch.zeros(1, 16, 1, 64, dtype=torch.bfloat16, device="cuda")
    attend(probe, probe, probe, 16).sum().item()  # some builds load everywhere and fail only when they are launched
    return attend


def choose_attention(wanted: str | None, windows: list[int], length: int, device: torch.device, dtype: torch.dtype):
    """(name, function) of the first rung that can run: fa3, flex, sdpa. TrainError says why a wanted one cannot."""
    for name in (wanted,) if wanted else ("fa3", "flex", "sdpa"):
        try:
            if name == "fa3":
                if device.type != "cuda" or torch.cuda.get_device_capability(device) != (9, 0):
                    raise RuntimeError("it needs a Hopper GPU (sm_90)")
                if dtype not in (torch.bfloat16, torch.float16):
                    raise RuntimeError("it needs bfloat16 or float16")
                return name, flash_attention_3()
            if name == "flex":
                if device.type != "cuda" or not has_triton():
                    raise RuntimeError("it needs CUDA and Triton")
                return name, FlexAttention(windows, length, device)
            return name, attend_sdpa
        except Exception as error:  # a missing package, an empty cache, a kernel built for another torch
            if wanted:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                sentence = f"Attention {wanted} cannot run here: {reason}"
                raise TrainError(sentence, "--attention sdpa runs everywhere") from error
    raise AssertionError("sdpa always runs")


# ---------------------------------------------------------------------------------------------------------------------
# Loss: softcap, softmax and cross-entropy chunk by chunk, in float32.


def chunk_loss(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float, gradients: bool):
    """hidden [n, width], weight [V, width], targets [n] -> nats [n]; if wanted, their slopes by the logits [n, V].

    The cap bounds every logit from above, so the sum of powers needs no maximum first.
    """
    squashed = torch.tanh(F.linear(hidden, weight).float() / softcap)
    powers = torch.exp(softcap * (squashed - 1))
    total = powers.sum(dim=-1, keepdim=True)
    nats = (total.log() + softcap * (1 - squashed.gather(1, targets[:, None]))).squeeze(1)
    if not gradients:
        return nats, None
    is_target = torch.arange(len(weight), device=targets.device) == targets[:, None]  # compiles into the same kernel
    return nats, ((powers / total - is_target.float()) * (1 - squashed.square())).to(hidden.dtype)


def softcap_cross_entropy(hidden, weight, targets, softcap: float, chunk: int, chunk_fn: Callable, gradients: bool):
    """nats [n], and the gradients of their sum by hidden [n, width] and weight [V, width], or None."""
    cast = weight.to(hidden.dtype)
    nats = torch.empty(len(hidden), device=hidden.device)
    by_hidden = torch.empty_like(hidden) if gradients else None
    by_weight = torch.zeros_like(weight) if gradients else None
    for start in range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
        nats[part], slopes = chunk_fn(hidden[part], cast, targets[part], softcap, gradients)
        if gradients:
            by_hidden[part] = slopes @ cast
            by_weight += slopes.T @ hidden[part]
    return nats, by_hidden, by_weight


class SoftcapCrossEntropy(torch.autograd.Function):
    """The sum of the nats, a scalar. Its gradients are made in the forward pass, while a chunk's logits exist.

    They are those of the sum, not of the mean, so that float16 does not lose them; `backward` multiplies by the rest.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, softcap, chunk, chunk_fn):
        gradients = any(ctx.needs_input_grad)
        nats, by_hidden, by_weight = softcap_cross_entropy(hidden, weight, targets, softcap, chunk, chunk_fn, gradients)
        if gradients:
            ctx.save_for_backward(by_hidden, by_weight)
        return nats.sum()

    @staticmethod
    def backward(ctx, upstream):
        by_hidden, by_weight = ctx.saved_tensors
        return by_hidden * upstream.to(by_hidden.dtype), by_weight * upstream, None, None, None, None


# ---------------------------------------------------------------------------------------------------------------------
# Optimizer


def adamw_update(p, g, first, second, lr, wd, beta1, beta2, debias1, debias2) -> None:
    """AdamW (arXiv 1711.05101) in place. The rates are tensors without dimensions; debias is 1 - beta ** step."""
    p.mul_(1 - lr * wd)
    first.mul_(beta1).add_(g * (1 - beta1))
    second.mul_(beta2).add_(g.square() * (1 - beta2))
    p.sub_(lr / debias1 * first / ((second / debias2).sqrt() + ADAM_EPS))


def polar_express(g: Tensor, iterations: int, dtype: torch.dtype) -> Tensor:
    """The polar factor of each matrix in g [K, rows, cols], nearly: singular values near 1 (arXiv 2505.16932)."""
    x = g.to(dtype)
    x = x / (POLAR_SAFETY * x.norm(dim=(-2, -1), keepdim=True) + 1e-6)
    tall = x.shape[-2] > x.shape[-1]
    for a, b, c in POLAR_EXPRESS[:iterations]:
        gram = x.mT @ x if tall else x @ x.mT
        poly = b * gram + c * (gram @ gram)
        x = a * x + (x @ poly if tall else poly @ x)
    return x.float()


def reduced_axis(x: Tensor) -> int:
    """The axis of [.., rows, cols] that NorMuon averages over: it keeps one number for each line of the other one."""
    return -1 if x.shape[-2] >= x.shape[-1] else -2


def normuon(x: Tensor, second: Tensor, beta2) -> Tensor:
    """NorMuon (arXiv 2510.05491): equal sizes along the longer side, Frobenius norms as before; `second` in place."""
    mean_square = x.square().mean(dim=reduced_axis(x), keepdim=True)
    second.mul_(beta2).add_(mean_square * (1 - beta2))
    step = second.clamp_min(1e-10).rsqrt()
    before = mean_square.sum(dim=(-2, -1), keepdim=True).sqrt()
    after = (mean_square * step.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    return x * step * (before / after.clamp_min(1e-10))


def muon_update(p, g, first, second, lr, wd, momentum, beta2, iterations: int, eq: bool, plus: bool, dtype) -> None:
    """Muon with Nesterov momentum, Polar Express, NorMuon and cautious decay, in place on stacks [K, rows, cols].

    eq: rows get equal lengths first (MuonEq, arXiv 2603.28254). plus: the polar factor is scaled to the norm of an
    exact one (Muon+, arXiv 2602.21545), which takes out what the few iterations leave open.
    """
    rows, cols = p.shape[-2:]
    first.mul_(momentum).add_(g * (1 - momentum))
    x = g * (1 - momentum) + first * momentum
    if eq:
        length = x.norm(dim=(-2, -1), keepdim=True) / rows**0.5
        x = x * (length / x.norm(dim=-1, keepdim=True).clamp_min(1e-10))
    x = polar_express(x, iterations, dtype)
    if plus:
        x = x * (min(rows, cols) ** 0.5 / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-10))
    x = normuon(x, second, beta2)
    agrees = (x * p) >= 0
    p.sub_(lr * (x + wd * p * agrees))


class Bank:
    """Parameters of one shape as one float32 tensor. Each parameter, and its gradient, becomes a view of it.

    So an update is one operation for all of them, and nothing is stacked or copied back. `zero_grad(set_to_none=True)`
    would cut the views: use the optimizer's own.
    """

    def __init__(self, parameters: list[nn.Parameter], muon: bool, lr: float, wd: float, betas: tuple[float, float]):
        self.value = torch.stack([p.detach() for p in parameters])
        self.gradient = torch.zeros_like(self.value)
        for parameter, value, gradient in zip(parameters, self.value, self.gradient, strict=True):
            parameter.data, parameter.grad = value.data, gradient.data
        self.muon, self.lr, self.wd, self.betas = muon, lr, wd, betas
        self.first = torch.zeros_like(self.value)
        like = self.value.mean(dim=reduced_axis(self.value), keepdim=True) if muon else self.value
        self.second = torch.zeros_like(like)


class MuonAdamW:
    """Muon for the matrices, AdamW for everything else; all state in float32.

    Matrices of one shape share a bank. `compiled` fuses the two updates; the rates are then passed as tensors, so that
    new values do not compile again.
    """

    def __init__(self, model: GPT, settings: Settings, compiled: bool = False):
        s, device = settings, model.head.weight.device
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
        self.settings, self.steps, self.banks = s, 0, []
        for role, parameters in model.roles().items():
            for shape in sorted({tuple(p.shape) for p in parameters}):
                same = [p for p in parameters if p.shape == shape]
                if role == "matrix":
                    lr = s.matrix_lr * max(1, shape[0] / shape[1]) ** 0.5
                    self.banks.append(Bank(same, True, lr, s.matrix_wd, (0.0, s.muon_beta2)))
                else:
                    lr, wd, these = adam[role]
                    self.banks.append(Bank(same, False, lr, wd, these))
        polar_dtype = torch.bfloat16 if model.dtype == torch.bfloat16 else torch.float32
        self.muon_how = (s.muon_iterations, s.muon_eq, s.muon_plus, polar_dtype)
        self.adamw_update, self.muon_update = adamw_update, muon_update
        if compiled:
            torch._dynamo.config.recompile_limit = 64  # each shape of a bank compiles once; 8 would be too few
            self.adamw_update = torch.compile(adamw_update, dynamic=False, fullgraph=True)
            self.muon_update = torch.compile(muon_update, dynamic=False, fullgraph=True)
        # On the CPU beside CUDA: kernels take their values as arguments. MPS wants them on its own side.
        where = "cpu" if device.type == "cuda" else device
        self.numbers = [torch.zeros((), device=where) for _ in range(6)]

    def tensors(self) -> list[Tensor]:
        """All weights and all state."""
        return [tensor for bank in self.banks for tensor in (bank.value, bank.first, bank.second)]

    def zero_grad(self) -> None:
        for bank in self.banks:
            bank.gradient.zero_()

    def unscale(self, scale: float) -> bool:
        """Divides the gradients by the loss scale; False if they are not finite."""
        for bank in self.banks:
            bank.gradient.div_(scale)
        return all(bool(torch.isfinite(bank.gradient).all()) for bank in self.banks)

    @torch.no_grad()
    def step(self, lr_multiplier: float, momentum: float, wd_multiplier: float) -> None:
        """One update from the gradients in the banks. The weight-decay multiplier is for Muon only."""
        self.steps += 1
        for bank in self.banks:
            lr, (beta1, beta2) = bank.lr * lr_multiplier, bank.betas
            if bank.muon:
                lr, wd, mu, beta2 = self._as_tensors(lr, bank.wd * wd_multiplier, momentum, beta2)
                self.muon_update(bank.value, bank.gradient, bank.first, bank.second, lr, wd, mu, beta2, *self.muon_how)
            else:
                debias = (1 - beta1**self.steps, 1 - beta2**self.steps)
                rates = self._as_tensors(lr, bank.wd, beta1, beta2, *debias)
                self.adamw_update(bank.value, bank.gradient, bank.first, bank.second, *rates)

    def _as_tensors(self, *values: float) -> list[Tensor]:
        return [number.fill_(value) for number, value in zip(self.numbers, values, strict=False)]


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
# Data


class Feeder:
    """Batches of the training split as int64 [rows, T + 1] on the device, one step ahead of their use.

    On CUDA three pinned buffers take turns. A buffer is filled again only after its copy to the GPU has ended, and its
    place on the GPU is overwritten only after the step that read it: both by events, nothing by luck.
    """

    def __init__(self, stream, rows: int, columns: int, device: torch.device, slots: int = 3):
        self.stream, self.device, self.count, self.epoch = stream, device, 0, 1
        if device.type == "cuda":
            self.side = torch.cuda.Stream(device)
            self.host = [torch.empty(rows, columns, dtype=torch.int16, pin_memory=True) for _ in range(slots)]
            self.there = [torch.empty(rows, columns, dtype=torch.int16, device=device) for _ in range(slots)]
            self.copied = [torch.cuda.Event() for _ in range(slots)]
            self.used = [torch.cuda.Event() for _ in range(slots)]
            self.epochs = [1] * slots
            self._send(0)

    def next(self) -> Tensor:
        if self.device.type != "cuda":
            rows = self.stream.next()
            self.epoch = self.stream.epoch
            return torch.from_numpy(rows.astype(np.int64)).to(self.device)
        slot = self.count % len(self.host)
        here = torch.cuda.current_stream(self.device)
        here.wait_event(self.copied[slot])
        rows = self.there[slot].long() & 0xFFFF  # uint16 travels as int16: half the bytes, and every operator knows it
        self.used[slot].record(here)
        self.count, self.epoch = self.count + 1, self.epochs[slot]
        self._send(self.count % len(self.host))
        return rows

    def _send(self, slot: int) -> None:
        self.copied[slot].synchronize()  # an event that was never recorded counts as done
        self.stream.next(out=self.host[slot].numpy().view(np.uint16))
        self.epochs[slot] = self.stream.epoch
        with torch.cuda.stream(self.side):
            self.side.wait_event(self.used[slot])
            self.there[slot].copy_(self.host[slot], non_blocking=True)
            self.copied[slot].record(self.side)


# ---------------------------------------------------------------------------------------------------------------------
# Steps


class Trainer:
    """A model with its optimizer, and what one step and one evaluation are."""

    def __init__(self, model: GPT, settings: Settings, compiled: bool = False):
        self.model, self.settings = model, settings
        self.device = model.head.weight.device
        self.optimizer = MuonAdamW(model, settings, compiled)
        self.micro_rows = min(settings.micro_batch_rows, settings.batch_rows(len(model.cos)))
        self.diverged_above = 2 * math.log(model.vocab_size)  # a uniform guess loses half of this
        self.loss_scale = 65536.0 if model.dtype == torch.float16 else 1.0
        self.good_steps = 0
        if self.device.type == "cuda":
            self.loss_here = torch.zeros((), pin_memory=True)
            self.loss_ready = torch.cuda.Event()
        if compiled:
            model.trunk = torch.compile(model.trunk, dynamic=False)
            model.chunk_loss = torch.compile(chunk_loss, dynamic=False)

    def halve(self, error: Exception) -> None:
        """After out-of-memory: micro-batches of the next smaller size that divides. At one row, TrainError."""
        if self.micro_rows == 1:
            raise TrainError("Out of memory even with one row at a time", "lower DEPTH, WIDTH or LOSS_CHUNK") from error
        self.micro_rows = max(n for n in divisors(self.micro_rows) if n <= self.micro_rows // 2)
        say(f"out of memory: going on with {self.micro_rows} rows at a time")

    def surviving(self, work: Callable):
        """work(), again with half the rows for as long as memory does not suffice."""
        while True:
            try:
                return work()
            except Exception as error:
                if not out_of_memory(error):
                    raise
                self.halve(error)
            # Only here are the frames of the failed attempt, and with them its tensors, gone.
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def gradients(self, rows: Tensor) -> float:
        """Gradients of the mean loss over rows [B, T + 1] into the banks; the loss in nats per token."""
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        for start in range(0, len(rows), self.micro_rows):
            part = rows[start : start + self.micro_rows]
            loss = self.model.loss(*inputs_and_targets(part)) * (len(part) / len(rows))
            total += loss.detach()
            if self.device.type == "cuda" and start + len(part) == len(rows):
                self.loss_here.copy_(total, non_blocking=True)
                self.loss_ready.record()
            (loss * self.loss_scale).backward()
        if self.device.type != "cuda":
            return total.item()
        self.loss_ready.synchronize()  # the GPU is still busy with the last backward pass and does not wait for us
        return self.loss_here.item()

    def step(self, rows: Tensor, progress: float, step: int) -> tuple[float, float]:
        """One update. Returns (loss, learning-rate multiplier); raises Diverged before the weights are touched."""
        s = self.settings
        loss = self.surviving(lambda: self.gradients(rows))
        if not loss <= self.diverged_above:
            raise Diverged(
                f"the loss is {loss:.6g} at step {step}, and a uniform guess has {self.diverged_above / 2:.2f}"
            )
        multiplier = lr_multiplier(progress, step, s)
        if self.loss_scale != 1.0 and not self._scaled_gradients_are_finite(step):
            return loss, multiplier
        self.optimizer.step(multiplier, muon_momentum(progress, s), WD_SCHEDULES[s.wd_schedule](progress))
        return loss, multiplier

    def _scaled_gradients_are_finite(self, step: int) -> bool:
        """For float16: undoes the scale. After an overflow it is halved and the step skipped; long quiet doubles it."""
        if self.optimizer.unscale(self.loss_scale):
            self.good_steps += 1
            if self.good_steps % 2000 == 0:
                self.loss_scale *= 2
            return True
        self.good_steps, self.loss_scale = 0, self.loss_scale / 2
        if self.loss_scale <= 1.0:
            raise Diverged(f"float16 gradients overflow at every scale at step {step}")
        say(f"step {step:05d} skipped: float16 gradients overflowed, the loss scale is now {self.loss_scale:g}")
        return False

    def warm_up(self, rows: Tensor) -> float:
        """Compiles and tries everything on dummy rows [B, T + 1], then puts all state back bit by bit.

        Returns the seconds of one warm step.
        """
        optimizer, random_state = self.optimizer, torch.get_rng_state()
        device_state = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        saved = [tensor.clone() for tensor in optimizer.tensors()]
        steps = optimizer.steps
        seconds = 0.0
        for _ in range(2):
            began = time.perf_counter()
            self.surviving(lambda: self.gradients(rows))
            optimizer.step(0.0, 0.0, 0.0)
            synchronize(self.device)
            seconds = time.perf_counter() - began
        self.nats(rows[:1].cpu().numpy())
        for tensor, value in zip(optimizer.tensors(), saved, strict=True):
            tensor.copy_(value)
        optimizer.steps = steps
        optimizer.zero_grad()
        torch.set_rng_state(random_state)
        if device_state is not None:
            torch.cuda.set_rng_state(device_state, self.device)
        return seconds

    def nats(self, rows: np.ndarray) -> np.ndarray:
        """The loss of each target of at most micro_rows rows uint16 [n, T + 1], as float32 [n, T].

        Always one shape: few rows are repeated. And gradient mode stays on. So nothing is compiled a second time.
        """
        full = np.resize(rows.astype(np.int64), (self.micro_rows, rows.shape[1]))
        tokens, targets = inputs_and_targets(torch.from_numpy(full).to(self.device))
        return self.model.loss(tokens, targets, "none")[: len(rows)].cpu().numpy()

    def evaluate(self, rows, token_bytes: np.ndarray, interrupt: Interrupt) -> float | None:
        """Bits per byte over rows [n, T + 1]; targets without bytes count for nothing. None after a signal."""
        nats, n_bytes, start = 0.0, 0, 0
        while start < len(rows):
            if interrupt.signal:
                return None
            losses = self.surviving(lambda start=start: self.nats(rows[start : start + self.micro_rows]))
            sizes = token_bytes[rows[start : start + len(losses)][:, 1:]]
            nats += float(losses[sizes > 0].sum(dtype=np.float64))
            n_bytes += int(sizes.sum())
            start += len(losses)
        return data.bits_per_byte(nats, n_bytes)


def inputs_and_targets(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [B, T + 1] -> tokens and targets, [B, T] each."""
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


@dataclass
class Progress:
    """What the loop has done so far; seconds is everything from step 0 on."""

    steps: int = 0
    seconds: float = 0.0
    train_loss: float = math.nan
    epoch: int = 1


def train(
    trainer: Trainer,
    feeder: Feeder,
    done: Progress,
    interrupt: Interrupt,
    budget: float,
    max_steps: int | None,
    warm_seconds: float,
) -> None:
    """Steps until the next one would not fit into the budget, judged by the median of the last ones; at least one.

    With max_steps the clock is only printed: progress is step / max_steps, and a seed gives the same run again.
    """
    device, peak, tokens = trainer.device, peak_flops(trainer.device), trainer.settings.batch_tokens
    recent, average, last_log = deque([warm_seconds], maxlen=21), 0.0, -math.inf
    gc.collect()
    gc.freeze()
    gc.disable()  # collections would stall a step by half a second
    start = before = time.perf_counter()
    try:
        while not interrupt.signal:
            step, elapsed = done.steps, time.perf_counter() - start
            usual = statistics.median(recent)
            if max_steps is None and budget - elapsed < 4 * usual:
                synchronize(device)  # close to the end the clock must see the finished step, not the queued one
                elapsed = time.perf_counter() - start
            if (step >= max_steps) if max_steps is not None else (step > 0 and elapsed + usual > budget):
                break
            progress = step / max_steps if max_steps is not None else min(elapsed / budget, 1.0)
            loss, multiplier = trainer.step(feeder.next(), progress, step)
            now = time.perf_counter()
            seconds, before = now - before, now
            recent.append(seconds)
            average = 0.9 * average + 0.1 * loss
            done.steps, done.epoch = step + 1, feeder.epoch
            done.train_loss = average / (1 - 0.9**done.steps)
            if now - last_log >= LOG_SECONDS or done.steps == max_steps:
                last_log = now
                rate = tokens / seconds
                mfu = f"{100 * trainer.model.flops_per_token() * rate / peak:.1f}" if peak else "n/a"
                remaining = budget - (now - start) if max_steps is None else (max_steps - done.steps) * usual
                say(
                    f"step {step:05d} | progress: {progress:.4f} | loss: {done.train_loss:.6f} | lrm: {multiplier:.2f}"
                    f" | dt: {1000 * seconds:.1f}ms | tok/sec: {rate:,.0f} | mfu: {mfu} | epoch: {done.epoch}"
                    f" | remaining: {max(remaining, 0):.0f}s"
                )
        synchronize(device)
    finally:
        done.seconds = time.perf_counter() - start
        gc.enable()
        gc.unfreeze()


# ---------------------------------------------------------------------------------------------------------------------
# Export


def trace_on_cpu(weights: dict[str, Tensor], s: Settings, dataset, dtype: torch.dtype):
    """The model as a graph: a copy on the CPU with torch's own attention, so that any machine can run it."""
    model = GPT(s, dataset.vocab_size, dataset.sequence_length, dtype)
    model.load_state_dict(weights)
    return graph.trace(model, s.export_rows, dataset.sequence_length)


def export(trainer: Trainer, dataset, path: str, seed: int) -> None:
    """Writes the model to path and reads it back: a validation row must cost there what it costs here."""
    s, model, rows = trainer.settings, trainer.model, dataset.rows("val")[:1]
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    about = {
        "tokenizer_sha256": dataset.tokenizer_sha256,
        "data": dataset.name,
        "vocab_size": dataset.vocab_size,
        "sequence_length": dataset.sequence_length,
        "settings": asdict(s),
        "seed": seed,
    }
    graph.save(trace_on_cpu(weights, s, dataset, model.dtype), path, about)
    tokens, targets = inputs_and_targets(
        torch.from_numpy(np.resize(rows.astype(np.int64), (s.export_rows, rows.shape[1])))
    )
    there = F.cross_entropy(graph.load(path)(tokens)[0].float(), targets[0]).item()
    here = float(trainer.surviving(lambda: trainer.nats(rows)).mean())
    tolerance = 1e-3 if model.dtype == torch.float32 else 3e-2  # kernels of 16-bit types differ between devices
    if not abs(there - here) <= tolerance:
        raise TrainError(f"The exported model has a loss of {there:.5f} on a row where training has {here:.5f}")


# ---------------------------------------------------------------------------------------------------------------------
# The command


def say(line: str) -> None:
    print(line, flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="climbmix", help="data set made by prepare.py (default: %(default)s)")
    parser.add_argument("--cache", help="folder of the data sets (default: $ARK_CACHE, else ~/.cache/ark-data)")
    parser.add_argument("--device", choices=("cuda", "mps", "cpu"), help="default: cuda, and nothing else by itself")
    parser.add_argument("--profile", choices=("full", "small"), help="default: full on cuda, small elsewhere")
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), help="default: what the device is best at")
    parser.add_argument("--attention", choices=("fa3", "flex", "sdpa"), help="default: the first that can run")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on CUDA with Triton")
    parser.add_argument("--seed", help="weights and order of the data (default: $ARK_SEED, else 1)")
    parser.add_argument("--budget-seconds", metavar="SECONDS", help="default: $ARK_BUDGET_SECONDS, else 300")
    parser.add_argument("--max-steps", type=int, help="so many steps instead of a budget: the same run every time")
    parser.add_argument("--model", default="model.safetensors", help="where the model goes (default: %(default)s)")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace, interrupt: Interrupt) -> int:
    if not os.access(os.path.dirname(os.path.abspath(args.model)), os.W_OK):
        raise TrainError(f"Nothing can be written beside {args.model}", "--model PATH")
    if os.path.lexists(args.model):
        os.remove(args.model)  # a model of an earlier run must not be taken for this one's
    seed = seed_from(args.seed, "ARK_SEED", 1)
    budget = number_from(args.budget_seconds, "--budget-seconds", "ARK_BUDGET_SECONDS", 300.0, 0.001)
    if args.max_steps is not None and args.max_steps < 1:
        raise TrainError("--max-steps must be at least 1")
    device = choose_device(args.device)
    dtype = choose_dtype(args.dtype, device)
    s = settings_for(args.profile or ("full" if device.type == "cuda" else "small"))
    dataset = data.open_dataset(args.data, args.cache)
    vocab_size, length = dataset.vocab_size, dataset.sequence_length
    s.check(length)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(data.cache_folder(args.cache) / "inductor"))
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")

    model = GPT(s, vocab_size, length, dtype).init_weights(seed)
    trace_on_cpu(model.state_dict(), s, dataset, dtype)  # what cannot be exported should fail now, not after the run
    model = model.to(device)
    attention, model.attend = choose_attention(args.attention, model.windows, length, device, dtype)
    compiled = args.compile if args.compile is not None else device.type == "cuda" and has_triton()
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    table, flops = model.parameter_table(), model.flops_per_token()
    say(f"device: {device_name} | dtype: {str(dtype).split('.')[1]} | attention: {attention} | compiled: {compiled}")
    say(f"data: {dataset.name} | vocabulary: {vocab_size} | tokens of a row: {length} | seed: {seed}")
    say(f"settings: {' '.join(f'{name}={value}' for name, value in asdict(s).items())}")
    say(f"windows: {model.windows}")
    for name, count in table.items():
        say(f"{name:<24}{count:>13,}")
    say(f"FLOPs per token: {flops:e}")

    trainer = Trainer(model, s, compiled)
    began = time.perf_counter()
    rows = s.batch_rows(length)
    dummy = torch.randint(vocab_size, (rows, length + 1), generator=torch.Generator().manual_seed(0)).to(device)
    warm_seconds = trainer.warm_up(dummy)
    compile_seconds = time.perf_counter() - began
    limit = f"{args.max_steps} steps" if args.max_steps else f"{budget:g} seconds"
    say(f"warm-up: {compile_seconds:.1f}s | micro-batch: {trainer.micro_rows} of {rows} rows | training for {limit}")

    feeder = Feeder(data.Stream(dataset.rows("train"), rows, seed), rows, length + 1, device)
    done, status, code, bpb, eval_seconds = Progress(), "ok", 0, None, 0.0
    interrupt.training()
    try:
        train(trainer, feeder, done, interrupt, budget, args.max_steps, warm_seconds)
        if not done.steps:
            raise Interrupted
        export(trainer, dataset, args.model, seed)
        began = time.perf_counter()
        bpb = trainer.evaluate(dataset.rows("val"), dataset.token_bytes, interrupt)
        eval_seconds = time.perf_counter() - began
        if interrupt.signal:
            status, code, bpb = "interrupted", EXIT_CODES[interrupt.signal], None
    except Diverged as error:
        print(f"train.py: {error}\nhint: lower MATRIX_LR or EMBEDDING_LR", file=sys.stderr, flush=True)
        status, code = "diverged", 1

    peak, tokens = peak_flops(device), done.steps * s.batch_tokens
    rate = tokens / done.seconds
    block = {
        "val_bpb": None if bpb is None else f"{bpb:.6f}",
        "training_seconds": f"{done.seconds:.1f}",
        "total_seconds": f"{time.perf_counter() - STARTED:.1f}",
        "peak_vram_mb": f"{peak_memory_mb(device):.1f}",
        "mfu_percent": f"{100 * flops * rate / peak:.2f}" if peak else "n/a",
        "total_tokens_M": f"{tokens / 1e6:.1f}",
        "num_steps": done.steps,
        "num_params_M": f"{table['total'] / 1e6:.1f}",
        "depth": s.depth,
        "seed": seed,
        "device": device_name,
        "attention": attention,
        "tok_per_sec": f"{rate:.0f}",
        "compile_seconds": f"{compile_seconds:.1f}",
        "eval_seconds": f"{eval_seconds:.1f}",
        "train_loss": f"{done.train_loss:.6f}",
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
    sys.exit(main())
