"""python benchmarks/llm_pretrain_mlx.py {baseline,memory,batch} ...

Figures of examples/llm_pretrain_mlx on a CPU, each in processes of their own:

- `baseline`: tokens per second, val_bpb and peak memory at the settings that both public MLX ports were measured at:
  sequence 256, depth 2, width 128, vocabulary 2048, 30 seconds, local text; with 4,096 tokens a step as they had, and
  with this trainer's own choice. The targets are for the second.
- `memory`: peak memory of an update at the default size, sequence 2048 and vocabulary 8192, by rows of a micro-batch.
- `batch`: val_bpb after one number of tokens with several batches, at the default depth but a narrower width.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from trainers import gathered, numbers, run, with_settings

EXAMPLE = Path(__file__).parent.parent / "examples" / "llm_pretrain_mlx"
SMALL = {"SMALL_DEPTH": "2", "SMALL_WIDTH": "128", "SMALL_HEAD_DIM": "64"}
SHORT = {"sequence-length": "256", "vocab-size": "2048", "val-tokens": "32768"}
LONG = {"sequence-length": "2048", "vocab-size": "8192", "val-tokens": "32768"}


def local(arguments: argparse.Namespace, cache: Path, sizes: dict[str, str]) -> None:
    """The data set `text` in cache: a folder of the user's, or Python sources."""
    options = [word for name, value in sizes.items() for word in (f"--{name}", value)]
    folder = Path(arguments.text) if arguments.text else gathered(cache / "text", arguments.megabytes)
    run(
        [sys.executable, "prepare.py", "local", str(folder), "--name", "text", "--cache", str(cache), *options], EXAMPLE
    )


def trained(folder: Path, cache: Path, *options: str) -> dict[str, str]:
    """The final block of a run on the CPU with the data set `text`."""
    return numbers(run([sys.executable, "train.py", *on_text(cache), *options], folder))


def judged(folder: Path, cache: Path, *options: str) -> dict[str, str]:
    """The same, with val_bpb by the judge."""
    log = trained(folder, cache, *options)
    return log | {"val_bpb": numbers(run([sys.executable, "evaluate.py", *on_text(cache)], folder))["val_bpb"]}


def on_text(cache: Path) -> list[str]:
    return ["--device", "cpu", "--data", "text", "--cache", str(cache)]


def baseline(arguments: argparse.Namespace) -> None:
    print(f"{'tokens a step':>13}  {'seed':>6}  {'tok/s':>6}  {'val_bpb':>8}  {'peak MB':>7}  {'steps':>5}")
    with tempfile.TemporaryDirectory(prefix="ark-mlx-") as name:
        cache = Path(name)
        local(arguments, cache, SHORT)
        folders = {
            "4096": with_settings(EXAMPLE, cache / "ports", {**SMALL, "SMALL_BATCH_TOKENS": "4096"}),
            "own": with_settings(EXAMPLE, cache / "own", SMALL),
        }
        found: dict[str, list[dict[str, str]]] = {tokens: [] for tokens in folders}
        for seed in range(1, arguments.repeat + 1):
            for tokens, folder in folders.items():
                log = judged(folder, cache, "--seed", str(seed), "--time-budget", str(arguments.seconds))
                found[tokens].append(log)
                line(tokens, str(seed), *(float(log[key]) for key in KEYS))
        for tokens, logs in found.items():
            line(tokens, "median", *(statistics.median(float(log[key]) for log in logs) for key in KEYS))
    print(f"{'target':>13}  {'':>6}  {12000:>6}  {1.85:>8}  {180:>7}")


KEYS = ("tok_per_sec", "val_bpb", "peak_vram_mb", "num_steps")


def line(tokens: str, seed: str, rate: float, bpb: float, peak: float, steps: float) -> None:
    print(f"{tokens:>13}  {seed:>6}  {rate:>6.0f}  {bpb:>8.4f}  {peak:>7.1f}  {steps:>5.0f}", flush=True)


def memory(arguments: argparse.Namespace) -> None:
    print(f"{'rows':>4}  {'checkpoint':>10}  {'peak MB':>7}  float32, depth 4, width 256")
    with tempfile.TemporaryDirectory(prefix="ark-mlx-") as name:
        cache = Path(name)
        local(arguments, cache, LONG)
        for rows in arguments.rows:
            for checkpoint in (False, True):
                settings = {
                    "MICRO_BATCH_ROWS": str(rows),
                    "BATCH_TOKENS": str(2048 * rows),
                    "CHECKPOINT": str(checkpoint),
                }
                folder = with_settings(EXAMPLE, cache / f"{rows}{checkpoint}", settings)
                options = ("--profile", "full", "--threads", "1", "--max-steps", "1")
                peak = float(trained(folder, cache, *options)["peak_vram_mb"])
                print(f"{rows:>4}  {checkpoint!s:>10}  {peak:>7.0f}", flush=True)


def batch(arguments: argparse.Namespace) -> None:
    print(f"{'tokens a step':>13}  {'seed':>4}  {'steps':>5}  {'val_bpb':>8}  {arguments.tokens:,} tokens each")
    with tempfile.TemporaryDirectory(prefix="ark-mlx-") as name:
        cache = Path(name)
        local(arguments, cache, SHORT)
        for seed in range(1, arguments.repeat + 1):
            for tokens in arguments.batches:
                settings = {**SMALL, "SMALL_DEPTH": "4", "SMALL_BATCH_TOKENS": str(tokens)}
                folder = with_settings(EXAMPLE, cache / f"with{tokens}-{seed}", settings)
                steps = arguments.tokens // tokens
                log = judged(folder, cache, "--seed", str(seed), "--max-steps", str(steps))
                print(f"{tokens:>13}  {seed:>4}  {steps:>5}  {float(log['val_bpb']):>8.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for name, action in {"baseline": baseline, "memory": memory, "batch": batch}.items():
        verb = verbs.add_parser(name)
        verb.set_defaults(action=action)
        verb.add_argument("--megabytes", type=float, default=40)
        verb.add_argument("--text", help="a folder of .txt files instead of Python sources")
        if name == "memory":
            verb.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16])
        else:
            verb.add_argument("--repeat", type=int, default=3)
        if name == "baseline":
            verb.add_argument("--seconds", type=float, default=30)
        if name == "batch":
            verb.add_argument("--tokens", type=int, default=2**21)
            verb.add_argument("--batches", type=int, nargs="+", default=[4096, 8192, 16384, 32768])
    arguments = parser.parse_args()
    arguments.action(arguments)


if __name__ == "__main__":
    main()
