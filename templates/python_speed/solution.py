"""Count the pairs of points that lie close together, fast. The one mutable file; reference.py says what is right.

The unit square is cut into CELLS x CELLS cells, and a point is compared only with those in cells near its own.
"""

import math

CELLS = 4  # along each side: with more of them fewer points are compared, and more cells visited
SORTED = False  # whether the points are put in order first, so that neighbours lie together in memory


def close_pairs(points: list[tuple[float, float]], radius: float) -> int:
    """How many pairs of points lie at most `radius` apart; all lie in the unit square."""
    if SORTED:
        points = sorted(points)
    cells = {}
    for x, y in points:
        cells.setdefault((int(x * CELLS), int(y * CELLS)), []).append((x, y))
    reach = math.ceil(radius * CELLS)
    count = 0
    for (column, row), inside in cells.items():
        for near_column in range(max(column - reach, 0), min(column + reach, CELLS) + 1):
            for near_row in range(max(row - reach, 0), min(row + reach, CELLS) + 1):
                for other_x, other_y in cells.get((near_column, near_row), ()):
                    for x, y in inside:
                        if (x - other_x) ** 2 + (y - other_y) ** 2 <= radius**2:
                            count += 1
    return (count - len(points)) // 2  # each pair was seen from both ends, and each point met itself
