"""python benchmarks/llm_pretrain.py {loader,prepare,floor,gpu} ...

Figures of examples/llm_pretrain_cuda, each in processes of their own, medians over repetitions:

- `loader`: tokens per second that shuffled batches of packed rows reach, against the target of 20 million.
- `prepare`: megabytes of text per second that are tokenised and packed on all cores, against the target of 5.
- `floor`: val_bpb of the small profile after so many seconds on a CPU, against the entropy of the stories.
- `gpu`: val_bpb, tokens per second, MFU and memory of this trainer with its defaults and with the reference's settings,
  in turn, on the data set `climbmix` or another one; with `--reference DIR`, a checkout of karpathy/autoresearch with
  its data prepared, also the original itself.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from trainers import copied, gathered, made, numbers, run, with_settings

EXAMPLE = Path(__file__).parent.parent / "examples" / "llm_pretrain_cuda"
sys.path.insert(0, str(EXAMPLE))


def loader(arguments: argparse.Namespace) -> None:
    import data

    print(f"{'T':>6}  {'rows a batch':>12}  {'million tokens/s':>16}  target")
    with tempfile.TemporaryDirectory(prefix="ark-llm-") as name:
        for length in (2048, 256):
            made(EXAMPLE, Path(name), f"t{length}", "--sequence-length", str(length), "--vocab-size", "1024")
            dataset = data.open_dataset(f"t{length}", name)
            batch = 262144 // length
            stream = data.Stream(dataset.rows("train"), batch, seed=1)
            rates = []
            for _ in range(arguments.repeat):
                began = time.perf_counter()
                for _ in range(20):
                    stream.next()
                rates.append(20 * batch * length / (time.perf_counter() - began) / 1e6)
            print(f"{length:>6}  {batch:>12}  {statistics.median(rates):>16.1f}  20")


def prepare_speed(arguments: argparse.Namespace) -> None:
    text = Path(arguments.text) if arguments.text else None
    print(f"{'MB of text':>10}  {'seconds':>8}  {'MB/s':>6}  target 5")
    with tempfile.TemporaryDirectory(prefix="ark-llm-") as name:
        root = Path(name)
        folder = text or gathered(root / "text", arguments.megabytes)
        size = sum(path.stat().st_size for path in folder.rglob("*.txt")) / 1e6
        for number in range(arguments.repeat):
            began = time.perf_counter()
            order = [sys.executable, "prepare.py", "local", str(folder), "--name", f"n{number}", "--cache", name]
            run(order, EXAMPLE)
            seconds = time.perf_counter() - began
            print(
                f"{size:>10.1f}  {seconds:>8.2f}  {size / seconds:>6.1f}  all of it: tokenizer, tokens, packing, hashes"
            )


def floor(arguments: argparse.Namespace) -> None:
    print(f"{'seconds':>8}  {'val_bpb':>8}  {'floor':>8}  above  {'tok/s':>8}  {'steps':>6}")
    with tempfile.TemporaryDirectory(prefix="ark-llm-") as name:
        made(EXAMPLE, Path(name), "stories", "--sequence-length", "256", "--vocab-size", "1024")
        for seed in range(1, arguments.repeat + 1):
            folder = copied(EXAMPLE, Path(name) / f"run{seed}")
            environment = {"ARK_CACHE": name, "ARK_SEED": str(seed), "ARK_BUDGET_SECONDS": str(arguments.seconds)}
            log = numbers(
                run([sys.executable, "train.py", "--device", "cpu", "--data", "stories"], folder, **environment)
            )
            found = numbers(
                run([sys.executable, "evaluate.py", "--device", "cpu", "--data", "stories"], folder, **environment)
            )
            bpb, best = float(found["val_bpb"]), float(found["entropy_floor_bpb"])
            print(f"{arguments.seconds:>8}  {bpb:>8.4f}  {best:>8.4f}  {100 * (bpb / best - 1):>4.1f} %  "
                  f"{log['tok_per_sec']:>8}  {log['num_steps']:>6}", flush=True)  # fmt: skip


# What karpathy/autoresearch sets at commit 228791f, as far as this trainer has it; its moments are float32.
REFERENCE = {
    "DEPTH": "8", "WIDTH": "512", "WINDOW_PATTERN": '"SSSL"', "SHORT_WINDOW": "1024", "BATCH_TOKENS": "524288",
    "ROPE_BASE": "10000.0", "QK_SCALE": "1.0", "SMEAR": "False", "BACKOUT": "False", "INIT_SCALE": "1.0",
    "X0_INIT": "0.1", "EMBEDDING_LR": "0.6", "VALUE_EMBEDDING_LR": "0.6", "HEAD_LR": "0.004", "MATRIX_LR": "0.04",
    "SCALAR_LR": "0.5",
    "EMBEDDING_WD": "0.0", "VALUE_EMBEDDING_WD": "0.0", "HEAD_WD": "0.0", "MATRIX_WD": "0.2", "MUON_GATES": "True",
    "MUON_EQ": "False",
    "MUON_PLUS": "False", "WARMDOWN": "0.5", "FINAL_LR": "0.0", "MOMENTUM_PEAK": "0.95", "MOMENTUM_END": "0.95",
    "WD_SCHEDULE": '"linear"',
}  # fmt: skip


def gpu(arguments: argparse.Namespace) -> None:
    print("| what | seed | val_bpb | tok/s | MFU % | peak GB | steps | parameters M | attention |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="ark-llm-") as name:
        root = Path(name)
        kinds = {
            "defaults": with_settings(EXAMPLE, root / "defaults", {}),
            "reference's settings": with_settings(EXAMPLE, root / "reference", REFERENCE),
        }
        for seed in range(1, arguments.repeat + 1):
            for kind, folder in kinds.items():
                environment = {"ARK_SEED": str(seed), "ARK_BUDGET_SECONDS": str(arguments.seconds)}
                order = [sys.executable, "train.py", "--data", arguments.data]
                log = numbers(run(order, folder, **environment))
                judged = numbers(run([sys.executable, "evaluate.py", "--data", arguments.data], folder, **environment))
                row(kind, seed, {**log, "val_bpb": judged["val_bpb"]})
            if arguments.reference:
                began = numbers(run([sys.executable, "train.py"], Path(arguments.reference)))
                rate = f"{1e6 * float(began['total_tokens_M']) / float(began['training_seconds']):.0f}"
                row("the original itself", "42", {**began, "tok_per_sec": rate})


def row(kind: str, seed: object, found: dict[str, str]) -> None:
    memory = float(found["peak_vram_mb"]) / 1024
    print(f"| {kind} | {seed} | {found['val_bpb']} | {found['tok_per_sec']} | {found['mfu_percent']} | {memory:.1f} | "
          f"{found['num_steps']} | {found['num_params_M']} | {found.get('attention', '')} |", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for name, action in {"loader": loader, "prepare": prepare_speed, "floor": floor, "gpu": gpu}.items():
        verb = verbs.add_parser(name)
        verb.set_defaults(action=action)
        verb.add_argument("--repeat", type=int, default=3)
        if name == "prepare":
            verb.add_argument("--megabytes", type=float, default=50)
            verb.add_argument("--text", help="a folder of .txt files instead of Python sources")
        if name in ("floor", "gpu"):
            verb.add_argument("--seconds", type=float, default=300)
        if name == "gpu":
            verb.add_argument("--data", default="climbmix")
            verb.add_argument("--reference", help="a checkout of the original, prepared")
    arguments = parser.parse_args()
    arguments.action(arguments)


if __name__ == "__main__":
    main()
