"""The evaluation: compare what both programs print, then print `speedup`. Immutable.

    python3 build.py && python3 measure.py

The programs run in turn, so that what slows the machine slows both, and the least CPU time of each counts: the one with
the least disturbance in it.
"""

import os
import resource
import subprocess
import sys

ROUNDS = 18
SECONDS = 20


def main() -> None:
    seed = os.environ.get("ARK_SEED", "1")
    plain, tuned = [], []
    for number in range(ROUNDS):
        argument = f"{seed}{number}"
        taken, right = run("build/plain", argument)
        plain.append(taken)
        taken, found = run("build/tuned", argument)
        tuned.append(taken)
        if found != right:
            sys.exit(f"wrong output for {argument}: {found[:200]!r} instead of {right[:200]!r}")
    print(f"speedup: {min(plain) / min(tuned):.4f}")
    print(f"tuned_ms: {1000 * min(tuned):.3f}")
    print(f"plain_ms: {1000 * min(plain):.3f}")


def run(program: str, argument: str) -> tuple[float, bytes]:
    """CPU time of one run in seconds, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run([program, argument], stdout=subprocess.PIPE, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        sys.exit(f"{program} took more than {SECONDS} seconds")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{program} ended with {done.returncode}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, done.stdout


if __name__ == "__main__":
    main()
