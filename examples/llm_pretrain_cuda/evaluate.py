"""Judge a trained model by the file that train.py left: bits per byte, and whether it predicts from the past alone.

    python evaluate.py --data climbmix                   # val_bpb of model.safetensors on the validation rows
    python evaluate.py --data climbmix --split holdout   # rows that no attempt was judged by: for `ark verify`

Nothing of train.py is executed: graph.py reads the model as data, and the rest is computed here from its logits, with
the true byte length of each token. val_bpb is the sum of -ln p(target) over ln 2 and over the bytes of the targets;
special tokens count neither nats nor bytes. Every failure is one sentence on stderr and exit code 1, without a metric.

**Causality.** The rows are judged in batches of an order drawn anew each time, by the system's randomness, and every
batch once or more a second time with its future replaced: every token after a cut, in each row behind a cut of its own,
and in some rows all tokens. What the model says up to the cut must stay. The text as it is was judged, and is compared
with what was made of it: so a model gains nothing by recognising replaced text, since it then peeks just where the
comparison finds it. Half of the cuts are uniform, half are drawn where a peek would pay (see `draw_cuts`). Rows that
depend on others are found in the same way.

What this cannot promise. A model that peeks in whole rows or batches is found out wherever they are, but a peek at the
next token alone shows only if the cut is right there: a model that peeks at a share p of all positions, at random,
escapes with a probability of at most (1 - p/2)^probes: 1 % at p = 0.1 % and the 8,960 probes of 10,240 rows in batches
of 8. Every evaluation draws anew, and `--probes` buys more. Changes of log-probabilities below TOLERANCE pass for
rounding, if their mean over all cuts is below MEAN_TOLERANCE. A model that was trained on the validation rows looks
like a good model here: only other rows, the hold-out, tell it.

Data from a known source have an entropy, which no model can beat but by luck: a number well below it is refused.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import secrets
import sys
import time
import warnings
from dataclasses import dataclass

if __name__ == "__main__":
    # Before PyTorch is loaded: threads of OpenMP that wait should sleep. On cores that others use too, spinning made
    # the evaluation of a toy model four times as slow.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import data
import graph as graphs
import numpy as np
import torch

# Nats. With the same shapes and the same kernels, causal models differ by nothing or by float32 rounding: Fourier
# transforms over the row, the noisiest honest case known, stay below 1e-4. Half precision inside the model does not
# matter, since it rounds the same numbers in the same way.
TOLERANCE = 1e-3
MEAN_TOLERANCE = 1e-4  # nats per token: what a peek that hides below TOLERANCE can win, about 0.00004 bits per byte
LEAST_PROBES = 256  # by default, where the rows are few
SMALL_SPLIT = 2048  # rows; up to here every batch is probed twice, so that each row is compared
BYSTANDERS = 8  # one row in so many is replaced as a whole in a pass, and compared with nothing
FLOOR_SHARE = 0.97  # of a known entropy; below it nobody gets honestly: rows hold nearly the texts that it is of
MAX_LOGITS = 2**31  # of one batch: 8 GB in float32
CHUNK = 2**24  # logits looked at together


class EvaluationError(Exception):
    """A reason not to give a number, in one sentence, and what to do next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message}\nhint: {hint}")


@dataclass(frozen=True)
class Judgement:
    """What was found on the rows of a split."""

    nats: float
    """Sum over the targets that are text."""
    n_bytes: int
    n_tokens: int
    """Targets that are text."""
    probes: int
    """Pairs of a row and a cut that were compared."""


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """ln softmax over the last dimension, at least float32. NaN where the largest logit is not finite.

    The largest is subtracted first: log-sum-exp minus logit would lose the loss in the rounding of logits like 1e8.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logits = logits - logits.amax(-1, keepdim=True)
    return logits - logits.exp().sum(-1, keepdim=True).log()


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-ln p(target) in nats, float64 [n], for logits [n, V] and targets int64 [n], a chunk at a time.

    NaN where some logit is NaN or +inf, or all are -inf; inf where the target's is -inf. Others may be -inf: a model
    may rule out tokens, at its own risk.
    """
    step = max(1, CHUNK // logits.shape[1])
    chunks = zip(logits.split(step), targets.split(step), strict=True)
    return torch.cat([-log_probabilities(x).gather(-1, y[:, None])[:, 0].double() for x, y in chunks])


def differences(before: torch.Tensor, after: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """The largest change of a log-probability at each position: float64 [k], NaN where a logit is no number.

    before and after are logits [n, V], at int64 [k] the positions to compare.
    """
    changes = []
    for chosen in at.split(max(1, CHUNK // before.shape[1])):
        old, new = log_probabilities(before[chosen]), log_probabilities(after[chosen])
        # -inf on both sides is no change.
        changes.append(torch.where(old == new, 0.0, (old - new).abs()).amax(-1).double())
    return torch.cat(changes)


def draw_cuts(losses: np.ndarray, surprise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One cut for each row, int [n] in 0..T-2: half of them anywhere, half where a peek would pay.

    losses and surprise are [n, T]: what the model pays for a target, and -ln of the target's frequency in the split,
    which is what it would pay with no context at all. A peek lowers the loss, so the difference is large where one was
    used; it is large too where a good model is sure, which costs only aim.
    """
    n, length = losses.shape
    cuts = rng.integers(0, max(length - 1, 1), n)
    gains = np.maximum(surprise - losses, 0)[:, : length - 1]
    for i in np.flatnonzero(rng.random(n) < 0.5):
        total = gains[i].sum() if length > 1 else 0.0
        if total > 0:
            cuts[i] = rng.choice(length - 1, p=gains[i] / total)
    return cuts


def judge(
    graph: graphs.Graph,
    rows: data.Rows,
    token_bytes: np.ndarray,
    rng: np.random.Generator,
    probes: int | None = None,
) -> Judgement:
    """Runs the graph over all rows [n, T+1] in random batches and compares at least `probes` cuts, drawn by `rng`.

    Raises EvaluationError for logits that give no number and for a model that sees more than the past, GraphError for
    what the graph itself cannot do.
    """
    size, vocabulary = graph.batch_rows, len(token_bytes)
    bystanders = max(1, size // BYSTANDERS) if size > 1 else 0
    # Nobody can know the batches beforehand, and so prepare for some of them.
    order = rng.permutation(len(rows))
    batches = [order[start : start + size] for start in range(0, len(rows), size)]
    passes = 2 if len(rows) <= SMALL_SPLIT else 1
    surprise = target_surprise(rows, vocabulary)
    lengths = torch.from_numpy(np.asarray(token_bytes, np.int64)).to(graph.device)
    nats, n_bytes, n_tokens, won = 0.0, 0, 0, []
    for done, numbers in enumerate(batches):
        count = len(numbers)
        # A last batch that is not full is filled up with other rows, which count no second time.
        batch = rows[np.concatenate([numbers, rng.choice(order, size - count)])].astype(np.int64)
        logits = graph(torch.from_numpy(batch[:, :-1].copy()).to(graph.device))
        targets = torch.from_numpy(batch[:count, 1:].copy()).to(graph.device)
        losses = token_losses(logits[:count].flatten(0, 1), targets.flatten()).view_as(targets)
        of_text = lengths[targets] > 0
        if losses.isnan().any():
            at = losses.isnan().nonzero()[0].tolist()
            raise not_finite(f"the logits of row {numbers[at[0]]} at position {at[1]} hold NaN or infinity")
        losses = torch.where(of_text, losses, 0.0)
        if losses.isinf().any():
            at = losses.isinf().nonzero()[0].tolist()
            raise not_finite(
                f"the model rules out the true token of row {numbers[at[0]]} at position {at[1]}, an infinite loss"
            )
        nats += losses.sum().item()
        n_bytes += int(lengths[targets].sum())
        n_tokens += int(of_text.sum())
        known = np.where(of_text.cpu().numpy(), surprise[batch[:count, 1:]], 0.0)
        paid = losses.cpu().numpy()
        # Other bystanders in each pass, so that two passes compare every row. The wanted number is spread evenly.
        left, turn, lot = (probes or LEAST_PROBES) * (done + 1) / len(batches) - len(won), 0, rng.permutation(size)
        while turn < passes or left > 0:
            aside = np.roll(lot, -turn * bystanders)[:bystanders]
            compared = np.setdiff1d(np.arange(count), aside)
            if not len(compared):
                compared = np.arange(count)
            found = probe(graph, batch, logits, compared, draw_cuts(paid, known, rng), rng, numbers)
            won, left, turn = won + found, left - len(found), turn + 1
    if not n_bytes:
        raise EvaluationError("no row of this split holds text", "make the data again: python prepare.py --help")
    if won and not (mean := math.fsum(won) / len(won)) <= MEAN_TOLERANCE:
        raise peeks(f"replaced futures cost {mean:.6f} nats per token on average, where nothing may be lost")
    return Judgement(nats, n_bytes, n_tokens, len(won))


def target_surprise(rows: data.Rows, vocabulary: int) -> np.ndarray:
    """-ln of each token's frequency among the targets, float64 [vocabulary]."""
    counts = np.ones(vocabulary)
    for start in range(0, len(rows), 1024):
        counts += np.bincount(rows[start : start + 1024][:, 1:].ravel(), minlength=vocabulary)[:vocabulary]
    return -np.log(counts / counts.sum())


def probe(
    graph: graphs.Graph,
    batch: np.ndarray,
    logits: torch.Tensor,
    compared: np.ndarray,
    cuts: np.ndarray,
    rng: np.random.Generator,
    numbers: np.ndarray,
) -> list[float]:
    """What each compared row of a batch loses at its cut, in nats, when all that comes after is replaced.

    batch is [size, T+1], logits are what the graph said to it, numbers are what its rows are called. Rows that are not
    in `compared` (int [k], ascending) are replaced from their second token on. EvaluationError for a change at or
    before a cut.
    """
    size, length, vocabulary = logits.shape
    behind = np.zeros(size, np.int64)
    behind[compared] = cuts[compared]
    # Never the token that was there: an offset of 1 to vocabulary - 1.
    others = (batch[:, :-1] + rng.integers(1, max(vocabulary, 2), (size, length))) % vocabulary
    tokens = np.where(np.arange(length) > behind[:, None], others, batch[:, :-1])
    changed = graph(torch.from_numpy(tokens).to(graph.device))
    before, after = logits.flatten(0, 1), changed.flatten(0, 1)
    sizes = behind[compared] + 1
    at = np.concatenate([row * length + np.arange(size) for row, size in zip(compared, sizes, strict=True)])
    changes = differences(before, after, torch.from_numpy(at).to(graph.device)).cpu().numpy()
    worst = np.maximum.reduceat(changes, np.cumsum(sizes) - sizes)
    if not (worst <= TOLERANCE).all():
        i = np.flatnonzero(~(worst <= TOLERANCE))[0]
        raise peeks(
            f"the model sees what it must not: with other tokens after position {sizes[i] - 1} of row "
            f"{numbers[compared[i]]}, and in the rows beside it, log-probabilities up to there change by {worst[i]:.4g}"
        )
    last = torch.from_numpy(np.cumsum(sizes) - 1)
    chosen = torch.from_numpy(at)[last].to(graph.device)
    targets = torch.from_numpy(batch[compared, sizes]).to(graph.device)
    # inf - inf: ruled out before and after, and no target of text.
    return (token_losses(after[chosen], targets) - token_losses(before[chosen], targets)).nan_to_num(0.0).tolist()


def not_finite(message: str) -> EvaluationError:
    return EvaluationError(
        message, "keep logits finite: a lower learning rate, a soft cap, or float32 for the last layer"
    )


def peeks(message: str) -> EvaluationError:
    return EvaluationError(
        message, "attention, shifts and sums must reach into the past only, and rows of a batch must not meet"
    )


def check_origin(graph: graphs.Graph, dataset: data.Dataset) -> None:
    """Raises EvaluationError for a graph that belongs to other data or is too large."""
    about = graph.about
    hint = f"train on this data set: python train.py --data {dataset.name}"
    if about["tokenizer_sha256"] != dataset.tokenizer_sha256:
        raise EvaluationError(
            f"the model was trained with the tokenizer of the data set {about['data'][:80]!r}, not of '{dataset.name}'",
            hint,
        )
    for key in ("vocab_size", "sequence_length"):
        if getattr(graph, key) != getattr(dataset, key):
            raise EvaluationError(
                f"the model's {key} is {getattr(graph, key)}, that of '{dataset.name}' {getattr(dataset, key)}", hint
            )
    logits = graph.batch_rows * graph.sequence_length * graph.vocab_size
    if logits > MAX_LOGITS:
        raise EvaluationError(
            f"a batch of {graph.batch_rows} rows gives {logits:,} logits, more than {MAX_LOGITS:,}",
            "export the model with fewer batch_rows",
        )


def pick_device(name: str) -> torch.device:
    """ "auto" is cuda where there is one, else cpu."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise EvaluationError(f"there is no device '{name}' for evaluation", "--device cpu or --device cuda")
    if name != "cpu" and not torch.cuda.is_available():
        raise EvaluationError("there is no CUDA device here", "evaluate on the CPU: --device cpu")
    return torch.device(name)


def prepare_cuda() -> None:
    """The same numbers in every run of one model: adding up in any order would look like a peek, if a small one."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    warnings.filterwarnings("ignore", message=".*deterministic.*")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # As in training: float32 products with the exponent of float32 and the mantissa of TF32.
    torch.set_float32_matmul_precision("high")


def evaluate(options: argparse.Namespace) -> list[tuple[str, str]]:
    """The lines to print, all of them or none."""
    started = time.perf_counter()
    device = pick_device(options.device)
    if device.type == "cuda":
        prepare_cuda()
    dataset = data.open_dataset(options.data, options.cache)
    if not os.path.lexists(options.model):
        raise EvaluationError(f"there is no {options.model}", f"train one first: python train.py --data {options.data}")
    rows = dataset.rows(options.split)
    try:
        graph = graphs.load(options.model)
        check_origin(graph, dataset)
        found = judge(
            graph.to(device), rows, dataset.token_bytes, np.random.default_rng(secrets.randbits(128)), options.probes
        )
    except graphs.GraphMemoryError as error:
        raise EvaluationError(f"{error}", "export the model with fewer batch_rows, or free the device") from None
    except torch.OutOfMemoryError as error:
        raise EvaluationError(
            f"{device} has too little memory for the logits of {graph.batch_rows} rows: {str(error)[:100]}",
            "export the model with fewer batch_rows, or free the device",
        ) from None
    except graphs.GraphError as error:
        raise EvaluationError(f"{error}", f"{os.path.basename(options.model)} must be what graph.save wrote") from None
    bpb = data.bits_per_byte(found.nats, found.n_bytes)
    floor = dataset.floor.get(options.split)
    if floor is not None and bpb < FLOOR_SHARE * floor:
        raise EvaluationError(
            f"the model needs {bpb:.4f} bits per byte for text that holds {floor:.4f}: it knows what it must not",
            "train on the training split alone, and predict from the past only",
        )
    if device.type == "cuda":
        peak_mb = torch.cuda.max_memory_allocated(device) / 2**20
    else:
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    lines = [
        ("val_bpb", f"{bpb:.6f}"),
        ("split", options.split),
        ("val_loss", f"{found.nats / found.n_tokens:.6f}"),
        ("bytes_per_token", f"{found.n_bytes / found.n_tokens:.4f}"),
    ]
    if floor is not None:
        lines += [("entropy_floor_bpb", f"{floor:.6f}"), ("above_floor_percent", f"{100 * (bpb / floor - 1):.2f}")]
    return [
        *lines,
        ("eval_tokens", str(found.n_tokens)),
        ("probes", str(found.probes)),
        ("eval_device", str(device)),
        ("eval_seconds", f"{time.perf_counter() - started:.1f}"),
        ("eval_peak_mb", f"{peak_mb:.1f}"),
    ]


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Print val_bpb of an exported model, or the reason why it has none.")
    parser.add_argument("--data", default="climbmix", help="name of the data set (%(default)s)")
    parser.add_argument("--cache", help="folder of the data sets (prepare.py says where that is)")
    parser.add_argument("--split", default="val", choices=("val", "holdout"))
    parser.add_argument("--model", default="model.safetensors", help="what train.py wrote (%(default)s)")
    parser.add_argument("--device", default="auto", help="cuda or cpu; auto takes cuda where there is one")
    parser.add_argument("--probes", type=positive, metavar="N", help="compare about so many cuts")
    options = parser.parse_args(arguments)
    try:
        lines = evaluate(options)
    except (EvaluationError, data.DataError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("evaluate.py: interrupted", file=sys.stderr)
        return 130
    for key, value in lines:
        print(f"{key + ':':<17} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
