"""The model, AdamW and Lion once more, in float64 by torch, whose autograd gives the gradients.

Parameters have the names of the C tensors: layer0.wq, ..., gain, embedding.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import torch
from ane_build import Settings
from ane_model import Config

torch.set_num_threads(1)  # its matrices are tiny
Weights = dict[str, torch.Tensor]


def reference_loss(
    config: Config, weights: Weights, inputs: np.ndarray, targets: np.ndarray, rows: np.ndarray | None = None
) -> torch.Tensor:
    """Mean loss of a window; tokens first, not channels. rows: the classes that may be predicted, all without."""
    alpha = 1 / math.sqrt(2 * config.layers)
    x = weights["embedding"][torch.from_numpy(inputs).long()]
    for index in range(config.layers):
        layer = SimpleNamespace(**{k.split(".")[1]: w for k, w in weights.items() if k.startswith(f"layer{index}.")})
        x = x + alpha * _attention(config, layer, _norm(x, layer.gain_attention)) @ layer.wo.T
        y = _norm(x, layer.gain_ffn)
        x = x + alpha * (torch.nn.functional.silu(y @ layer.w1.T) * (y @ layer.w3.T)) @ layer.w2.T
        if config.max_act > 0:
            x = torch.clamp(x, -config.max_act, config.max_act)
    z = _norm(x, weights["gain"]) @ weights["embedding"].T
    z = config.softcap * torch.tanh(z / config.softcap)
    if rows is not None:
        masked = torch.full_like(z, -math.inf)
        masked[:, rows] = z[:, rows]
        z = masked
    return torch.nn.functional.cross_entropy(z, torch.from_numpy(targets).long())


def _norm(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return x * gain / torch.sqrt((x * x).mean(1, keepdim=True) + 1e-5)


def _attention(config: Config, layer: SimpleNamespace, x: torch.Tensor) -> torch.Tensor:
    seq, size = config.seq, config.dim // config.heads
    q, k, v = ((x @ w.T).reshape(seq, config.heads, size).transpose(0, 1) for w in (layer.wq, layer.wk, layer.wv))
    if config.rope:
        angles = torch.outer(torch.arange(seq).double(), 10000 ** (-torch.arange(0, size, 2).double() / size))
        turn = torch.polar(torch.ones_like(angles), angles)
        pairs = (torch.view_as_complex(y.reshape(*y.shape[:2], -1, 2).contiguous()) for y in (q, k))
        q, k = (torch.view_as_real(pair * turn).reshape(q.shape) for pair in pairs)
    scores = q @ k.transpose(1, 2) / math.sqrt(size)
    scores = scores.masked_fill(torch.ones(seq, seq, dtype=torch.bool).triu(1), -math.inf)
    return (scores.softmax(2) @ v).transpose(0, 1).reshape(seq, config.dim)


class Reference:
    """The model in torch from copies of the C model's weights."""

    def __init__(self, config: Config, arrays: dict[str, np.ndarray]) -> None:
        self.config = config
        self.weights = {k: torch.tensor(a, dtype=torch.float64, requires_grad=True) for k, a in arrays.items()}
        self.m, self.v = ({k: torch.zeros_like(w) for k, w in self.weights.items()} for _ in range(2))

    def train(self, inputs: np.ndarray, targets: np.ndarray, rows: np.ndarray | None = None) -> float:
        """The loss; gradients are added up in .grad."""
        loss = reference_loss(self.config, self.weights, inputs, targets, rows)
        loss.backward()
        return float(loss.detach())

    def gradients(self) -> dict[str, np.ndarray]:
        """By tensor."""
        return {name: weight.grad.numpy() for name, weight in self.weights.items()}

    @torch.no_grad()
    def update(self, settings: Settings, updates: int, micro_steps: int = 1) -> float:
        """As optimizer_update, by the formulas of the papers; returns the norm before clipping."""
        s, weights = settings, self.weights
        for weight in weights.values():
            weight.grad /= micro_steps
        norm = math.sqrt(sum(float((w.grad**2).sum()) for w in weights.values()))
        peak, t = rate(s, updates), updates + 1
        for name, w in weights.items():
            matrix, gain = name.split(".")[-1] in ("wq", "wk", "wv", "wo", "w1", "w2", "w3"), "gain" in name
            lr = peak * (s.matrix_lr_scale if matrix else 1 if gain else s.embed_lr_scale)
            g = w.grad * min(1, s.grad_clip / norm)
            if matrix:
                w -= lr * s.weight_decay * w
            m, v = self.m[name], self.v[name]
            if s.lion:
                w -= lr * torch.sign(s.beta1 * m + (1 - s.beta1) * g)
                m.mul_(s.beta2).add_((1 - s.beta2) * g)
            else:
                m.mul_(s.beta1).add_((1 - s.beta1) * g)
                v.mul_(s.beta2).add_((1 - s.beta2) * g * g)
                w -= lr * (m / (1 - s.beta1**t)) / (torch.sqrt(v / (1 - s.beta2**t)) + s.epsilon)
            w.grad = None
        return norm


def rate(settings: Settings, updates: int) -> float:
    """Warm-up in a straight line, then a cosine from peak to floor."""
    s = settings
    if updates < s.warmup_steps:
        return s.learning_rate * (updates + 1) / s.warmup_steps
    done = min(1, (updates - s.warmup_steps) / (s.total_steps - s.warmup_steps))
    return s.learning_rate * (s.lr_min_frac + (1 - s.lr_min_frac) * (1 + math.cos(math.pi * done)) / 2)
