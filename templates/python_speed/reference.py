"""What is right, the plain way, and the questions. Immutable."""

import random

QUESTIONS = 5  # that the run answers
Point = tuple[float, float]


def close_pairs(points: list[Point], radius: float) -> int:
    """How many pairs of points lie at most `radius` apart."""
    count = 0
    for i, (x, y) in enumerate(points):
        for other_x, other_y in points[:i]:
            if (x - other_x) ** 2 + (y - other_y) ** 2 <= radius**2:
                count += 1
    return count


def question(numbers: random.Random, size: int = 500) -> tuple[list[Point], float]:
    """Points in the unit square, and a radius."""
    return [(numbers.random(), numbers.random()) for _ in range(size)], numbers.uniform(0.045, 0.05)
