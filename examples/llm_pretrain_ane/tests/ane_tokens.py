"""Token files for the tests: a small Markov chain over ids that are spread over the vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np

VOCAB = 32000


def markov_tokens(count: int = 20_000, ids: int = 48, seed: int = 0) -> np.ndarray:
    """[count] uint16: each of `ids` ids is followed by one of four, the first of them in 70 % of the cases.

    Id 1 is among them, and every id occurs at least once when count >= 2 * ids.
    """
    random = np.random.default_rng(seed)
    alphabet = np.sort(np.append(random.choice(np.arange(2, VOCAB), ids - 1, replace=False), 1)).astype("<u2")
    followers = random.integers(0, ids, (ids, 4)).tolist()
    choices = random.choice(4, count, p=(0.7, 0.1, 0.1, 0.1)).tolist()
    states = list(range(min(ids, count)))
    while len(states) < count:
        states.append(followers[states[-1]][choices[len(states)]])
    return alphabet[states]


def write_tokens(path: Path, count: int = 20_000, ids: int = 48, seed: int = 0) -> np.ndarray:
    """Writes such a file and returns its tokens."""
    tokens = markov_tokens(count, ids, seed)
    path.write_bytes(tokens.tobytes())
    return tokens
