"""The eight programs in NumPy and double precision: each piece of their outputs from the pieces of the input."""

from __future__ import annotations

import numpy as np
from ane_build import Shape

Values = dict[str, np.ndarray]
WEIGHTS = ("wq", "wk", "wv", "wo", "w1", "w3", "w2")
# Inputs and outputs of each function of struct Kernels: D for [dim, seq], F for [hidden, seq].
CALLS = {
    "attention": ("D", "DDDDD"),
    "ffn": ("DD", "DFFF"),
    "ffn_back_w2": ("D", "F"),
    "ffn_back_w13": ("FF", "D"),
    "wo_back": ("D", "D"),
    "sdpa_back": ("DDDD", "DDD"),
    "qkv_back": ("DDD", "D"),
}


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Of each number."""
    return 1 / (1 + np.exp(-values))


def heads(values: np.ndarray, shape: Shape) -> np.ndarray:
    """[D, S] as [H, S, D / H]."""
    return values.reshape(shape.heads, -1, shape.seq).transpose(0, 2, 1)


def merged(values: np.ndarray) -> np.ndarray:
    """[H, S, d] as [H d, S]."""
    return values.transpose(0, 2, 1).reshape(-1, values.shape[1])


def turned(values: np.ndarray, shape: Shape) -> np.ndarray:
    """Rope of [D, S]: pairs of channels (2i, 2i + 1) of each head as complex numbers."""
    pairs = heads(values, shape).reshape(shape.heads, shape.seq, -1, 2)
    count = pairs.shape[2]
    angles = np.arange(shape.seq)[:, None] * 10000.0 ** (-np.arange(count) / count)
    product = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)
    return merged(np.stack([product.real, product.imag], -1).reshape(shape.heads, shape.seq, -1))


def probabilities(q: np.ndarray, k: np.ndarray, shape: Shape) -> np.ndarray:
    """[H, S, S], row = query, causal."""
    scores = heads(q, shape) @ heads(k, shape).transpose(0, 2, 1) / np.sqrt(shape.dim / shape.heads)
    scores = np.where(np.tril(np.ones((shape.seq, shape.seq), bool)), scores, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


def reference(program: str, shape: Shape, v: Values) -> Values:
    """The output's pieces; weights [out, in]."""
    if program == "sdpaWoFwd":
        q, k, value = (v[name] @ v["xn"] for name in ("wq", "wk", "wv"))
        if shape.rope:
            q, k = turned(q, shape), turned(k, shape)
        a = merged(probabilities(q, k, shape) @ heads(value, shape))
        return {"o": v["wo"] @ a, "a": a, "q": q, "k": k, "v": value}
    if program == "ffnFused":
        h1, h3 = v["w1"] @ v["x2n"], v["w3"] @ v["x2n"]
        u = h1 * sigmoid(h1) * h3
        return {"xout": v["x2"] + v["w2"] @ u / np.sqrt(2 * shape.layers), "h1": h1, "h3": h3, "u": u}
    if program == "ffnBwdW2t":
        return {"du": v["w2"].T @ v["df"]}
    if program == "ffnBwdW13t":
        return {"dx2n": v["w1"].T @ v["dh1"] + v["w3"].T @ v["dh3"]}
    if program == "wotBwd":
        return {"da": v["wo"].T @ v["dout"]}
    if program == "qkvBwd":
        return {"dxn": v["wq"].T @ v["dq"] + v["wk"].T @ v["dk"] + v["wv"].T @ v["dv"]}
    if program == "sdpaBwd1":
        p, da = probabilities(v["q"], v["k"], shape), heads(v["da"], shape)
        dp = da @ heads(v["v"], shape).transpose(0, 2, 1)
        return {
            "dv": merged(p.transpose(0, 2, 1) @ da),
            "p": p.reshape(-1, shape.seq),
            "dp": dp.reshape(-1, shape.seq),
        }
    assert program == "sdpaBwd2"
    p, dp = (v[name].reshape(shape.heads, shape.seq, shape.seq) for name in ("p", "dp"))
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) / np.sqrt(shape.dim / shape.heads)
    return {"dq": merged(ds @ heads(v["k"], shape)), "dk": merged(ds.transpose(0, 2, 1) @ heads(v["q"], shape))}


def sensible(program: str, shape: Shape, layout: dict[str, tuple], seed: int = 1) -> Values:
    """Random input pieces as doubles that are halves exactly, weights [out, in]; p of attention that is causal."""
    rng, values = np.random.default_rng(seed), {}
    for name, (piece, area) in layout.items():
        rows, columns = (area.columns, area.rows) if piece.transposed else (area.rows, area.columns)
        scale = columns**-0.5 if name in WEIGHTS else 1.0
        values[name] = rng.normal(0, scale, (rows, columns))
    if program == "sdpaBwd2":
        values["p"] = probabilities(values["q"], values["k"], shape).reshape(-1, shape.seq)
    return {name: value.astype(np.float16).astype(np.float64) for name, value in values.items()}
