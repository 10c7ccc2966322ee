"""Print `loss`, the mean squared error of model.json against the true curve. Immutable.

It reads numbers that training left and never runs the training code, so that nothing in there can move the metric.
With a count it looks at so many points only, drawn by ARK_SEED: a quicker and a noisier number (see noisy.yaml).

    python3 train.py && python3 evaluate.py [COUNT]
"""

import json
import math
import os
import random
import sys

from points import validation_points

MAX_TERMS = 32


def main() -> None:
    with open("model.json") as file:
        weights = [float(w) for w in json.load(file)["weights"]]
    if not 0 < len(weights) <= MAX_TERMS or not all(math.isfinite(w) for w in weights):
        raise SystemExit(f"model.json must hold 1 to {MAX_TERMS} finite weights")
    points = validation_points()
    if len(sys.argv) > 1:
        points = random.Random(os.environ.get("ARK_SEED", "0")).sample(points, int(sys.argv[1]))
    loss = sum((sum(w * x**power for power, w in enumerate(weights)) - y) ** 2 for x, y in points) / len(points)
    print(f"loss: {loss:.6f}")


if __name__ == "__main__":
    main()
