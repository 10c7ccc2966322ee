"""The data: noisy samples of a known curve for training, exact ones for the evaluation. Immutable."""

import math
import random


def curve(x: float) -> float:
    return math.sin(3 * x) + 0.3 * x


def training_points() -> list[tuple[float, float]]:
    noise = random.Random(20)
    return [(x, curve(x) + noise.gauss(0, 0.1)) for x in (-1 + 2 * i / 39 for i in range(40))]


def validation_points() -> list[tuple[float, float]]:
    return [(x, curve(x)) for x in (-1 + 2 * i / 500 for i in range(501))]
