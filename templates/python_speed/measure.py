"""The evaluation: compare the answers, then print `speedup`. Immutable.

    python3 answer.py && python3 measure.py

The answers are compared before the solution is loaded. Then reference and solution are timed in turn, on the same
question, so that what slows the machine slows both. The median of the ratios counts, so that one disturbance does not.
"""

import gc
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable

from reference import QUESTIONS, Point, close_pairs, question

ROUNDS = 70
CALL_SECONDS = 0.005  # a call that is shorter is repeated until all take about so long, for the clock's sake


def main() -> None:
    check_answers()
    import solution

    numbers = random.Random(f"{os.environ.get('ARK_SEED', '0')} {os.urandom(8).hex()}")
    repeats = 1 + int(CALL_SECONDS / max(timed(solution.close_pairs, *question(numbers))[0], 1e-7))
    slow, fast = [], []
    gc.disable()
    for _ in range(ROUNDS):
        points, radius = question(numbers)
        taken, found = timed(solution.close_pairs, points, radius, repeats)
        fast.append(taken)
        taken, right = timed(close_pairs, points, radius)
        slow.append(taken)
        if found != right:
            sys.exit(f"wrong answer: {found} pairs instead of {right}")
    ratios = [plain / taken for plain, taken in zip(slow, fast, strict=True)]
    print(f"speedup: {statistics.median(ratios):.4f}")
    print(f"solution_ms: {1000 * statistics.median(fast):.4f}")
    print(f"reference_ms: {1000 * statistics.median(slow):.4f}")


def check_answers() -> None:
    with open("answers.json") as file:
        answers = json.load(file)
    numbers = random.Random(os.environ.get("ARK_SEED", "0"))
    right = [close_pairs(*question(numbers)) for _ in range(QUESTIONS)]
    if answers != right:
        sys.exit(f"wrong answers: {str(answers)[:100]} instead of {right}")


def timed(function: Callable[..., int], points: list[Point], radius: float, repeats: int = 1) -> tuple[float, int]:
    """CPU time of one call, and its answer; it may keep or change the list that it gets."""
    copies = [list(points) for _ in range(repeats)]
    start = time.process_time()
    for copy in copies:
        answer = function(copy, radius)
    return (time.process_time() - start) / repeats, answer


if __name__ == "__main__":
    main()
