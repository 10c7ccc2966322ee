"""python benchmarks/rehearse.py [--attempts N]

How long a rehearsal takes, by the number of attempts and of files, with and without noise: real time, and the time of
the night that was played. Each is a process of its own, in a temporary repository and cache below TMPDIR.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SPEC = {
    "name": "benchmark",
    "metric": "loss",
    "metric_direction": "minimize",
    "mutable_files": ["train.py"],
    "run_command": "true",
    "agent": {"command": "true"},
}
ARK = [sys.executable, "-c", "from autoresearch_kit.cli import main; main()"]


def project(folder: Path, files: int) -> Path:
    """A repository with so many fixed files."""
    (folder / "data").mkdir(parents=True)
    for number in range(files):
        (folder / f"data/{number}.txt").write_text(f"{number}\n")
    (folder / "train.py").write_text("LR = 1\n")
    (folder / "autoresearch-config.yaml").write_text(json.dumps(SPEC))
    who = ["-c", "user.name=b", "-c", "user.email=b@localhost"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "start"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attempts", type=int, default=200, help="of the longest one")
    longest = parser.parse_args().attempts
    print(f"{'attempts':>8}  {'files':>5}  {'noise':>5}  {'measured':>8}  {'night h':>7}  {'seconds':>7}  ms/attempt")
    with tempfile.TemporaryDirectory(prefix="ark-rehearse-") as name:
        root = Path(name)
        env = {**os.environ, "HOME": name, "XDG_CACHE_HOME": str(root / "cache")}
        for files in (0, 3000):
            folder = project(root / f"project-{files}", files)
            for attempts, noise in ((0, "1%"), (longest // 4, "0"), (longest // 4, "1%"), (longest, "1%")):
                began = time.perf_counter()
                order = [*ARK, "rehearse", str(folder), "--json", "--attempts", str(attempts), "--noise", noise]
                done = subprocess.run(order, env=env, capture_output=True, text=True, check=True)
                seconds = time.perf_counter() - began
                found = json.loads(done.stdout)
                each = f"{1000 * seconds / attempts:10.0f}" if attempts else ""
                print(f"{attempts:>8}  {files:>5}  {noise:>5}  {found['measurements']:>8}  {found['hours']:>7.1f}  "
                      f"{seconds:>7.2f}  {each}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
