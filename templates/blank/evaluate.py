"""Scores the answer and prints the metric: replace it with yours. It reads data and never runs solution.py."""

import math


def main() -> None:
    with open("answer.txt") as file:
        answer = float(file.read())
    if not math.isfinite(answer):
        raise SystemExit("the answer is not a finite number")
    print(f"error: {abs(1 - answer):.12g}")


if __name__ == "__main__":
    main()
