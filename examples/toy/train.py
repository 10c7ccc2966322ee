"""Fit a polynomial to forty noisy points by gradient descent and write it to model.json. The one mutable file.

python3 train.py
"""

import json
import os
import time

from points import training_points

DEGREE = 2  # terms of the polynomial; too few cannot bend, too many chase the noise
LEARNING_RATE = 0.05  # higher is faster until it diverges
MOMENTUM = 0.0  # 0 is none; below 1
STEPS = 200  # stops earlier when the budget is over
L2 = 0.0  # pull towards zero, against overfitting


def main() -> None:
    deadline = time.monotonic() + 0.8 * float(os.environ.get("ARK_BUDGET_SECONDS", "1"))
    rows = [([x**power for power in range(DEGREE + 1)], y) for x, y in training_points()]
    weights = [0.0] * (DEGREE + 1)
    speed = [0.0] * (DEGREE + 1)
    for step in range(STEPS):
        if time.monotonic() > deadline:
            print(f"stopped by the budget after {step} steps")
            break
        gradient = [L2 * w for w in weights]
        for features, y in rows:
            error = sum(w * f for w, f in zip(weights, features, strict=True)) - y
            for i, f in enumerate(features):
                gradient[i] += 2 * error * f / len(rows)
        for i, g in enumerate(gradient):
            speed[i] = MOMENTUM * speed[i] - LEARNING_RATE * g
            weights[i] += speed[i]
    with open("model.json", "w") as file:
        json.dump({"weights": weights}, file)


if __name__ == "__main__":
    main()
