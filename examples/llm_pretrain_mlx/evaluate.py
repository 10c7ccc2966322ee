"""Judge a trained model by the file that train.py left: bits per byte, and whether it predicts from the past alone.

    python evaluate.py --data climbmix                   # val_bpb of model.graph on the validation rows
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

What this cannot promise. A model that peeks in whole batches is found out wherever they are, and so is one that peeks
in whole rows, if each row is compared: above SMALL_SPLIT rows there is one pass, an eighth of the rows stand by in
it, and a single row that peeks escapes with 12.5 %, having won next to nothing. A peek at the next token alone shows
only if the cut is right there: a model that peeks at a share p of all positions, at random, escapes with a probability
of at most (1 - p/2)^probes. That is 1 % at p = 0.1 % for the 8,960 probes of 10,240 rows in batches of 8, and at
p = 0.45 % for LEAST_PROBES, which the toy size gets. Every evaluation draws anew, and `--probes` buys more. Changes of
log-probabilities below TOLERANCE pass for rounding, if the true tokens lose less than MEAN_TOLERANCE on average.
A model that was trained on the validation rows looks like a good model here: only other rows, the hold-out, tell it.

Data from a known source have an entropy, which no model can beat but by luck: a number well below it is refused.

Memory: the graph has batches of one size, and graph.py refuses those of which one holds too much. On the CPU two
threads judge two batches at once, which takes up to twice as much; all that is drawn at random is drawn by the number
of the batch, so they change no result.
"""

from __future__ import annotations

import argparse
import math
import os
import secrets
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType

import data
import graph as graphs
import machine
import numpy as np
from command import TrainError
from machine import mx

# Nats. With the same shapes and the same kernels, causal models differ by nothing or by float32 rounding: Fourier
# transforms over the row, the noisiest honest case known, stay below 1e-4. Half precision inside the model does not
# matter, since it rounds the same numbers in the same way.
TOLERANCE = 1e-3
# Nats per token, over all cuts. A peek that hides below TOLERANCE can win twice as much, if it is where only uniform
# cuts come: about 0.00007 bits per byte.
MEAN_TOLERANCE = 1e-4
LEAST_PROBES = 2048  # by default; on two CPU cores the toy's 256 rows take some 5 s longer than with two passes
SMALL_SPLIT = 2048  # rows; up to here every batch is probed twice, so that each row is compared
BYSTANDERS = 8  # one row in so many is replaced as a whole in a pass, and compared with nothing
FLOOR_SHARE = 0.97  # of a known entropy; below it nobody gets honestly: rows hold nearly the texts that it is of
CHUNK = {"cpu": 2**17, "metal": 2**24, "cuda": 2**24}  # logits looked at together; on the CPU they fit its cache
THREADS = 2  # on the CPU


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


@dataclass(frozen=True)
class Batch:
    """What one thread judges, with all that is decided by the order of the batches."""

    numbers: np.ndarray
    """Of the rows that count."""
    filling: np.ndarray
    """Of rows that fill up a last batch and count no second time."""
    compared: list[np.ndarray]
    """For each pass, the places in the batch that are compared; the others are bystanders."""
    rng: np.random.Generator


class Scale:
    """Logits as log-probabilities, at least float32, on the device of that kind ("cpu", "metal" or "cuda").

    On the CPU by NumPy, whose exp takes a twentieth of the time of MLX's there, on a GPU by MLX.
    """

    def __init__(self, kind: str) -> None:
        self.module: ModuleType = np if kind == "cpu" else mx
        self.chunk = CHUNK[kind]

    def flat(self, logits: mx.array) -> np.ndarray | mx.array:
        """Logits [rows, T, V] as [rows * T, V], the same memory."""
        logits = logits.reshape(-1, logits.shape[-1])
        return np.array(logits, copy=False) if self.module is np else logits

    def log_probabilities(self, logits: np.ndarray | mx.array) -> np.ndarray | mx.array:
        """ln softmax over the last dimension. NaN where the largest logit is not finite.

        The largest is subtracted first: log-sum-exp minus logit would lose the loss in the rounding of logits like 1e8.
        """
        logits = logits - logits.max(-1, keepdims=True)
        return logits - self.module.log(self.module.exp(logits).sum(-1, keepdims=True))

    def _chunks(self, n: int, vocabulary: int) -> list[slice]:
        step = max(1, self.chunk // vocabulary)
        return [slice(start, start + step) for start in range(0, n, step)]

    @np.errstate(all="ignore")
    def token_losses(self, logits: np.ndarray | mx.array, targets: np.ndarray) -> np.ndarray:
        """-ln p(target) in nats, float64 [n], for logits [n, V] and targets int [n], a chunk at a time.

        NaN where some logit is NaN or +inf, or all are -inf; inf where the target's is -inf. Others may be -inf: a
        model may rule out tokens, at its own risk.
        """
        losses = np.empty(len(targets))
        for part in self._chunks(*logits.shape):
            at = self.module.array(targets[part])[:, None]
            found = self.module.take_along_axis(self.log_probabilities(logits[part]), at, -1)[:, 0]
            losses[part] = -np.asarray(found, np.float64)
        return losses

    @np.errstate(all="ignore")
    def differences(self, before: np.ndarray | mx.array, after: np.ndarray | mx.array, at: np.ndarray) -> np.ndarray:
        """The largest change of a log-probability at each position: float64 [k], NaN where a logit is no number.

        before and after are logits [n, V], at int [k] the positions to compare.
        """
        changes = np.empty(len(at))
        for part in self._chunks(len(at), before.shape[1]):
            chosen = self.module.array(at[part])
            old, new = (self.log_probabilities(logits[chosen]) for logits in (before, after))
            # -inf on both sides is no change.
            found = self.module.where(old == new, 0.0, abs(old - new)).max(-1)
            changes[part] = np.asarray(found, np.float64)
        return changes


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


def plan(n: int, size: int, rng: np.random.Generator, probes: int) -> list[Batch]:
    """All rows in random batches, which nobody can know beforehand and so prepare for, with at least `probes` pairs."""
    bystanders = max(1, size // BYSTANDERS) if size > 1 else 0
    order = rng.permutation(n)
    passes = 2 if n <= SMALL_SPLIT else 1
    count, batches, planned = -(-n // size), [], 0
    for done, own in enumerate(rng.spawn(count)):
        numbers = order[done * size : (done + 1) * size]
        compared, lot = [], rng.permutation(size)
        # Other bystanders in each pass, so that two passes compare every row. The wanted number is spread evenly.
        while len(compared) < passes or planned < probes * (done + 1) / count:
            aside = np.roll(lot, -len(compared) * bystanders)[:bystanders]
            chosen = np.setdiff1d(np.arange(len(numbers)), aside)
            compared.append(chosen if len(chosen) else np.arange(len(numbers)))
            planned += len(compared[-1])
        batches.append(Batch(numbers, rng.choice(order, size - len(numbers)), compared, own))
    return batches


class Judge:
    """What is needed to judge a batch."""

    def __init__(self, graph: graphs.Graph, rows: data.Rows, token_bytes: np.ndarray, kind: str) -> None:
        self.graph, self.rows, self.kind, self.scale = graph, rows, kind, Scale(kind)
        self.lengths = np.asarray(token_bytes, np.int64)
        self.surprise = target_surprise(rows, len(token_bytes))

    def all(self, batches: list[Batch]) -> list[tuple[float, int, int, list[float]]]:
        """What `one` says of each batch, or the error of the first one that has an error."""
        if self.kind != "cpu":
            return [self.one(batch) for batch in batches]
        stream = mx.new_thread_local_stream(mx.cpu)

        def work(batch: Batch) -> tuple[float, int, int, list[float]]:
            with mx.stream(stream):
                return self.one(batch)

        with ThreadPoolExecutor(THREADS) as pool:
            try:
                return list(pool.map(work, batches))
            finally:
                pool.shutdown(cancel_futures=True)

    def one(self, batch: Batch) -> tuple[float, int, int, list[float]]:
        """Nats, bytes and tokens of text of a batch, and what each comparison found lost, in nats.

        Raises EvaluationError for logits that give no number and for a model that sees more than the past.
        """
        numbers, count = batch.numbers, len(batch.numbers)
        rows = self.rows[np.concatenate([numbers, batch.filling])].astype(np.int32)
        logits = self.scale.flat(self.graph(rows[:, :-1]))
        targets = rows[:count, 1:]
        losses = self.scale.token_losses(logits[: targets.size], targets.ravel()).reshape(targets.shape)
        of_text = self.lengths[targets] > 0
        if np.isnan(losses).any():
            at = np.argwhere(np.isnan(losses))[0]
            raise not_finite(f"the logits of row {numbers[at[0]]} at position {at[1]} hold NaN or infinity")
        losses = np.where(of_text, losses, 0.0)
        if np.isinf(losses).any():
            at = np.argwhere(np.isinf(losses))[0]
            raise not_finite(
                f"the model rules out the true token of row {numbers[at[0]]} at position {at[1]}, an infinite loss"
            )
        known = np.where(of_text, self.surprise[targets], 0.0)
        won = []
        for compared in batch.compared:
            won += self.probe(rows, logits, compared, draw_cuts(losses, known, batch.rng), batch.rng, numbers)
        return losses.sum(), int(self.lengths[targets].sum()), int(of_text.sum()), won

    def probe(
        self,
        rows: np.ndarray,
        logits: np.ndarray | mx.array,
        compared: np.ndarray,
        cuts: np.ndarray,
        rng: np.random.Generator,
        numbers: np.ndarray,
    ) -> list[float]:
        """What each compared row of a batch loses at its cut, in nats, when all that comes after is replaced.

        0 where it wins: what a model pays at some cuts must not hide what it gains by peeks at others.

        rows are [size, T+1], logits [size * T, V] what the graph said to them, numbers what the rows are called. Rows
        that are not in `compared` (int [k], ascending) are replaced from their second token on. EvaluationError for a
        change at or before a cut.
        """
        size, length, vocabulary = len(rows), rows.shape[1] - 1, logits.shape[1]
        behind = np.zeros(size, np.int64)
        behind[compared] = cuts[compared]
        # Never the token that was there: an offset of 1 to vocabulary - 1.
        others = (rows[:, :-1] + rng.integers(1, max(vocabulary, 2), (size, length))) % vocabulary
        tokens = np.where(np.arange(length) > behind[:, None], others, rows[:, :-1])
        after = self.scale.flat(self.graph(tokens.astype(np.int32)))
        sizes = behind[compared] + 1
        at = np.concatenate([row * length + np.arange(size) for row, size in zip(compared, sizes, strict=True)])
        ends = np.cumsum(sizes)
        worst = np.maximum.reduceat(self.scale.differences(logits, after, at), ends - sizes)
        if not (worst <= TOLERANCE).all():
            i = np.flatnonzero(~(worst <= TOLERANCE))[0]
            raise peeks(
                f"the model sees what it must not: with other tokens after position {sizes[i] - 1} of row "
                f"{numbers[compared[i]]}, and in the rows beside it, log-probabilities up to there change by "
                f"{worst[i]:.4g}"
            )
        chosen = self.scale.module.array(at[ends - 1])
        old, new = (self.scale.token_losses(x[chosen], rows[compared, sizes]) for x in (logits, after))
        # inf - inf: ruled out before and after, and no target of text.
        with np.errstate(invalid="ignore"):
            return np.maximum(np.nan_to_num(new - old), 0).tolist()


def judge(
    graph: graphs.Graph,
    rows: data.Rows,
    token_bytes: np.ndarray,
    rng: np.random.Generator,
    probes: int | None = None,
    kind: str = "cpu",
) -> Judgement:
    """Runs the graph over all rows [n, T+1] in random batches and compares at least `probes` cuts, drawn by `rng`.

    Raises EvaluationError for logits that give no number and for a model that sees more than the past, GraphError for
    what the graph itself cannot do.
    """
    batches = plan(len(rows), graph.rows, rng, probes or LEAST_PROBES)
    nats, n_bytes, n_tokens, found = zip(*Judge(graph, rows, token_bytes, kind).all(batches), strict=True)
    won = [loss for losses in found for loss in losses]
    if not sum(n_bytes):
        raise EvaluationError("no row of this split holds text", "make the data again: python prepare.py --help")
    if won and not (mean := math.fsum(won) / len(won)) <= MEAN_TOLERANCE:
        raise peeks(f"replaced futures cost {mean:.6f} nats per token on average, where nothing may be lost")
    return Judgement(math.fsum(nats), sum(n_bytes), sum(n_tokens), len(won))


def target_surprise(rows: data.Rows, vocabulary: int) -> np.ndarray:
    """-ln of each token's frequency among the targets, float64 [vocabulary]."""
    counts = np.ones(vocabulary)
    for start in range(0, len(rows), 1024):
        counts += np.bincount(rows[start : start + 1024][:, 1:].ravel(), minlength=vocabulary)[:vocabulary]
    return -np.log(counts / counts.sum())


def not_finite(message: str) -> EvaluationError:
    return EvaluationError(
        message, "keep logits finite: a lower learning rate, a soft cap, or float32 for the last layer"
    )


def peeks(message: str) -> EvaluationError:
    return EvaluationError(
        message, "attention, shifts and sums must reach into the past only, and rows of a batch must not meet"
    )


def check_origin(graph: graphs.Graph, dataset: data.Dataset) -> None:
    """Raises EvaluationError for a graph that belongs to other data."""
    about = graph.about
    hint = f"train on this data set: python train.py --data {dataset.name}"
    if about["tokenizer_sha256"] != dataset.tokenizer_sha256:
        raise EvaluationError(
            f"the model was trained with the tokenizer of the data set {about['data'][:80]!r}, not of '{dataset.name}'",
            hint,
        )
    for key in ("vocab_size", "sequence_length"):
        if about[key] != getattr(dataset, key):
            raise EvaluationError(
                f"the model's {key} is {about[key]}, that of '{dataset.name}' {getattr(dataset, key)}", hint
            )


def pick_device(name: str) -> str:
    """Makes a device MLX's default and returns what it is; "auto" is a GPU where there is one, else the CPU."""
    if name not in ("auto", "gpu", "cpu"):
        raise EvaluationError(f"there is no device '{name}' for evaluation", "--device cpu or --device gpu")
    try:
        return machine.choose_device(None if name == "auto" else name)
    except TrainError:
        raise EvaluationError("MLX sees no GPU here", "evaluate on the CPU: --device cpu") from None


def evaluate(options: argparse.Namespace) -> list[tuple[str, str]]:
    """The lines to print, all of them or none."""
    started = time.perf_counter()
    kind = pick_device(options.device)
    machine.limit_memory(kind)
    dataset = data.open_dataset(options.data, options.cache)
    if not os.path.lexists(options.model):
        raise EvaluationError(f"there is no {options.model}", f"train one first: python train.py --data {options.data}")
    rows = dataset.rows(options.split)
    memory = "export the model with fewer rows, or free the device"
    try:
        graph = graphs.load(options.model)
        check_origin(graph, dataset)
        rng = np.random.default_rng(secrets.randbits(128))
        found = judge(graph, rows, dataset.token_bytes, rng, options.probes, kind)
    except graphs.GraphMemoryError as error:
        raise EvaluationError(f"{error}", memory) from None
    except graphs.GraphError as error:
        raise EvaluationError(f"{error}", f"{os.path.basename(options.model)} must be what graph.save wrote") from None
    except (RuntimeError, MemoryError) as error:
        if not machine.out_of_memory(error):
            raise
        raise EvaluationError(
            f"there is too little memory for the logits of {graph.rows} rows: {str(error)[:100]}", memory
        ) from None
    bpb = data.bits_per_byte(found.nats, found.n_bytes)
    floor = dataset.floor.get(options.split)
    if floor is not None and bpb < FLOOR_SHARE * floor:
        raise EvaluationError(
            f"the model needs {bpb:.4f} bits per byte for text that holds {floor:.4f}: it knows what it must not",
            "train on the training split alone, and predict from the past only",
        )
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
        ("eval_device", kind),
        ("eval_seconds", f"{time.perf_counter() - started:.1f}"),
        ("eval_peak_mb", f"{machine.peak_memory_mb():.1f}"),
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
    parser.add_argument("--model", default="model.graph", help="what train.py wrote (%(default)s)")
    parser.add_argument("--device", default="auto", help="gpu or cpu; auto takes a GPU where there is one")
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
