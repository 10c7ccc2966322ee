"""Made-up stories as tokens, by a generator whose entropy is known: data with a loss that no model can beat.

A story is the token 1, a name, and words. Each word has a few that can follow it, some more often than others; now and
then the story's name comes instead, and the next word follows the one before the name; and each token may be the last.
So there is something to learn by frequency, by the word before, by the word before the last, and by what stood at the
start of the story, perhaps long ago. The probability of every token, given the story so far, is a whole number of
65,536ths. A file is a function of its size, its ids and its seed alone, with every Python: only the raw bits of its
Mersenne Twister are used.
"""

from __future__ import annotations

import math
import random
from array import array
from bisect import bisect_right
from itertools import accumulate

VOCAB = 32000
BOS = 1  # begins each story
ONE = 1 << 16  # probabilities are parts of it
END, NAME = ONE // 48, ONE // 8  # of the story's end, of its name, in place of a following word
FOLLOWERS = 6  # words that can follow a word: the k-th about as often as 1 / (k + 1)
LEAST_IDS = 16


def write_stories(tokens: int, ids: int, seed: int) -> tuple[array[int], array[float]]:
    """`tokens` ids of 16 bits, from `ids` different ones at most, and the information of each in nats.

    The last story may be cut. The mean information of some tokens is the loss that no model can be expected to beat.
    """
    dice = random.Random(f"stories {ids} {seed}")
    used = _some(dice, [0, VOCAB - 1, *_some(dice, list(range(2, VOCAB - 1)), ids - 3)], ids - 1)
    names, words = used[: ids // 8], used[ids // 8 :]
    options = _options(words, dice)
    edges = list(accumulate([END, NAME, *_weights()]))
    surprise = [-math.log(part / ONE) for part in (END, NAME, *_weights())]

    text, nats = array("H"), array("d")
    word = name = 0
    while len(text) < tokens:
        if not text or (choice := bisect_right(edges, dice.getrandbits(16))) == 0:
            # The very first token is no choice: its information is never asked for.
            name = names[_below(dice, len(names))]
            word = words[0]
            text.extend((BOS, name))
            nats.extend((surprise[0], math.log(len(names))))
        elif choice == 1:
            text.append(name)
            nats.append(surprise[1])
        else:
            word = options[word][choice - 2]
            text.append(word)
            nats.append(surprise[choice])
    return text[:tokens], nats[:tokens]


def _weights() -> list[int]:
    """Of the following words; their sum with END and NAME is ONE."""
    left = ONE - END - NAME
    parts = [1 / (k + 1) for k in range(FOLLOWERS)]
    weights = [int(left * part / sum(parts)) for part in parts]
    return [left - sum(weights[1:]), *weights[1:]]


def _options(words: list[int], dice: random.Random) -> dict[int, list[int]]:
    """What can follow each word: the first options make a ring, so that no word is out of reach."""
    options = {}
    for i, word in enumerate(words):
        options[word] = [words[(i + 1) % len(words)]]
        while len(options[word]) < FOLLOWERS:
            other = words[_below(dice, len(words))]
            if other not in options[word]:
                options[word].append(other)
    return options


def _some(dice: random.Random, items: list[int], count: int) -> list[int]:
    """`count` different ones in random order, by the first steps of a shuffle of the list."""
    for i in range(count):
        j = i + _below(dice, len(items) - i)
        items[i], items[j] = items[j], items[i]
    return items[:count]


def _below(dice: random.Random, n: int) -> int:
    while (drawn := dice.getrandbits(n.bit_length())) >= n:
        pass
    return drawn
