"""Text into packed rows of tokens, once, so that training only copies memory.

    python prepare.py climbmix                        # ten shards, about 1.2 GB to download
    python prepare.py tinystories --sequence-length 512
    python prepare.py local DIR --name mine           # your own .parquet or .txt files
    python prepare.py synthetic --name stories --vocab-size 1024 --sequence-length 256    # no network needed
    python prepare.py climbmix --verify               # hash everything again

A data set is a folder `<cache>/llm/<name>/`: `tokenizer.json`, shards of rows as plain little-endian uint16 files of
shape [n, T+1], and `manifest.json` with the hash of each. Every row begins with BOS and is full: inputs are row[:-1],
targets row[1:]. The same arguments and sources give the same bytes, whatever the number of workers. The folder appears
at once when all is done; until then the work is in `<name>.making`, and the same command goes on where it was killed.

Rows are packed by best fit. One thing differs from the usual crop: the rest of a document that was cut begins a row of
its own, with BOS in front, so that the ends of long documents are trained on and judged too.
"""

from __future__ import annotations

import argparse
import base64
import bisect
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import stories
from data import (
    FORMAT,
    SPLITS,
    DataError,
    Dataset,
    cache_folder,
    need,
    open_dataset,
    parse_tokenizer,
    read_manifest,
    sha256,
    whole,
)
from download import Progress, download, say

SPECIAL_TOKENS = tuple(f"<|reserved_{i}|>" for i in range(4))  # the first one is BOS
# GPT-4's way to split text before merging, with digits by ones and twos instead of up to threes.
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
FEWEST_MERGES = 32  # a single story has more; with fewer there is nothing to learn, and a smaller vocabulary is no help
TOKENIZER_DOCUMENT_CHARS = 10_000  # the tokenizer sees this much of the beginning of a document
BUFFER_DOCUMENTS = 1000  # documents among which packing looks for the best fit
PART_DOCUMENTS = 32_768  # documents of one file that make one shard: the unit of work, and of resuming
PART_TEXT_BYTES = 64 << 20  # small .txt files are gathered into shards of about this size

CLIMBMIX = "karpathy/climbmix-400b-shuffle"
CLIMBMIX_HOLDOUT, CLIMBMIX_VAL = 6541, 6542  # shards never trained on; those below them may be
CLIMBMIX_VAL_TOKENS = 40 * 524_288
RUN_TOKENS = 500_000_000  # what a five-minute run of a 50 M model reads on one H100
TINYSTORIES = "karpathy/tinystories-gpt4-clean"
TINYSTORIES_FILE = "tinystories_gpt4_clean.parquet"
TINYSTORIES_EVAL = 10_000  # documents 0..9,999 are its test split, 10,000..19,999 its validation split


# ----------------------------------------------------------------------------------------------------------------------
# Tokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
    """Byte-pair merges learned from texts, as the content of tokenizer.json. The same texts give the same bytes."""
    trainer = need("rustbpe").Tokenizer()
    characters = 0

    def counted() -> Iterator[str]:
        nonlocal characters
        for text in texts:
            characters += len(text)
            yield text

    trainer.train_from_iterator(counted(), vocab_size - len(SPECIAL_TOKENS), pattern=PATTERN)
    ranks = sorted((rank, bytes(token)) for token, rank in trainer.get_mergeable_ranks())
    most = len(ranks) + len(SPECIAL_TOKENS)
    if most != vocab_size and len(ranks) - 256 < FEWEST_MERGES:
        raise DataError(
            f"There is {'nearly ' if characters else ''}no text to train on: {characters} characters, in which "
            f"{len(ranks) - 256} tokens can be found.",
            "give more text, and not the same over and over",
        )
    if most != vocab_size:
        raise DataError(f"The text has too few different words for {vocab_size} tokens.", f"--vocab-size {most}")
    content = {
        "pattern": PATTERN,
        "special_tokens": list(SPECIAL_TOKENS),
        "ranks": [base64.b64encode(token).decode() for _, token in ranks],
    }
    return json.dumps(content, indent=0).encode() + b"\n"


def load_encoding(path: Path) -> Any:
    """A tiktoken.Encoding of a tokenizer.json."""
    return _encoding(path.read_bytes(), path)


@functools.lru_cache(maxsize=1)
def _encoding(content: bytes, path: Path) -> Any:
    ranks, specials = parse_tokenizer(content, path)
    return need("tiktoken").Encoding(
        name=str(path),
        pat_str=json.loads(content)["pattern"],
        mergeable_ranks={token: rank for rank, token in enumerate(ranks)},
        special_tokens={name: len(ranks) + i for i, name in enumerate(specials)},
    )


# ----------------------------------------------------------------------------------------------------------------------
# Documents


@dataclass(frozen=True)
class Slice:
    """A run of documents: of a file (numbers count from its beginning), or of the stories of a seed (no path)."""

    path: str | None
    start: int = 0
    stop: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Part:
    """The unit of work: one shard of rows."""

    name: str
    split: str
    slices: tuple[Slice, ...]
    max_rows: int | None = None
    """Reads no more documents than these rows need, and drops rows beyond."""
    share: tuple[int, float] | None = None
    """(seed, fraction): only the documents that `split_of` gives to this split."""


def split_of(text: str, seed: int, fraction: float) -> str:
    """The split of a document of your own: by the hash of its text, so that equal documents are never in two splits."""
    digest = hashlib.sha256(f"{seed}\n{text}".encode()).digest()
    at = int.from_bytes(digest[:8], "big") / 2**64
    return "val" if at < fraction else "holdout" if at < 2 * fraction else "train"


def documents(part: Part) -> Iterator[tuple[str, float]]:
    """Texts of a part, none of them empty, each with its information in bits (NaN where that is unknown)."""
    for piece in part.slices:
        if piece.path is None:
            yield from (stories.generate(piece.seed, index) for index in range(piece.start, piece.stop or 0))
            continue
        for text in (_parquet_texts if piece.path.endswith(".parquet") else _file_texts)(piece):
            if text and (part.share is None or split_of(text, *part.share) == part.split):
                yield text, math.nan


def _parquet_texts(piece: Slice) -> Iterator[str]:
    pyarrow = need("pyarrow")
    start, stop, at = piece.start, piece.stop, 0
    try:
        with need("pyarrow.parquet").ParquetFile(piece.path) as file:
            if "text" not in file.schema_arrow.names:
                raise DataError(
                    f"{piece.path} has no column 'text'; its columns are {', '.join(file.schema_arrow.names)}.",
                    "rename the column that holds the documents to 'text'",
                )
            kind = file.schema_arrow.types[file.schema_arrow.names.index("text")]
            plain = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
            if not (pyarrow.types.is_string(plain) or pyarrow.types.is_large_string(plain)):
                raise DataError(
                    f"The column 'text' of {piece.path} has the type {kind}, not string.",
                    "write it as a column of strings, or remove this file",
                )
            for number in range(file.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                if at + rows > start and (stop is None or at < stop):
                    texts = file.read_row_group(number, columns=["text"], use_threads=False).column(0).to_pylist()
                    yield from texts[max(start - at, 0) : None if stop is None else stop - at]
                at += rows
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{piece.path} is not a sound Parquet file ({reason}).", "remove or replace this file"
        ) from None


def _file_texts(piece: Slice) -> Iterator[str]:
    """Documents of a .txt file: see `cut_text`."""
    try:
        yield from cut_text(Path(str(piece.path)).read_bytes().decode())
    except UnicodeDecodeError as error:
        raise DataError(
            f"{piece.path} is not UTF-8 (byte {error.start}).", f"iconv -f latin1 -t utf-8 {piece.path} > FILE.txt"
        ) from None


END_OF_TEXT = re.compile(r"^<\|endoftext\|>\r?\n?", re.MULTILINE)
CUT = re.compile(r".{4000,8000}?\n[ \t\r]*\n+|.{4000,8000}\n|.{1,8000}", re.DOTALL)


def cut_text(text: str) -> Iterator[str]:
    """Documents of a text file, which lose no character but the separators.

    Lines `<|endoftext|>` separate documents. A text without such a line is cut at the first blank line after 4,000
    characters, or else at the last line end before 8,000, or else there.
    """
    if END_OF_TEXT.search(text):
        yield from END_OF_TEXT.split(text)
    else:
        yield from (match.group() for match in CUT.finditer(text))


# ----------------------------------------------------------------------------------------------------------------------
# Packing


def pack(texts: Iterable[np.ndarray], length: int, bos: int, buffer: int = BUFFER_DOCUMENTS) -> Iterator[np.ndarray]:
    """Rows of `length` tokens from documents (uint16 [n] each, without BOS); the last one may be unfilled.

    Best fit over a buffer: BOS and the longest document that fits (the oldest of equals). Where none fits, the
    shortest is cut to fill the row, and its rest begins the next row, with BOS in front again. So no token is lost.
    """
    incoming = iter(texts)
    waiting: dict[int, np.ndarray] = {}
    keys: list[int] = []  # sorted: length with BOS, then age, packed into one number
    newest = (1 << 40) - 1
    age = newest
    row, at, rest = np.empty(length, np.uint16), 0, None
    while True:
        while len(keys) < buffer and (document := next(incoming, None)) is not None:
            key = len(document) + 1 << 40 | age
            age -= 1
            waiting[key] = document
            bisect.insort(keys, key)
        if rest is not None:
            piece = rest
        elif keys:
            found = bisect.bisect_right(keys, length - at << 40 | newest) - 1
            if found < 0:
                found = bisect.bisect_right(keys, keys[0] >> 40 << 40 | newest) - 1
            piece = waiting.pop(keys.pop(found))
        else:
            break
        taken = min(len(piece), length - at - 1)
        row[at] = bos
        row[at + 1 : at + 1 + taken] = piece[:taken]
        at += 1 + taken
        rest = piece[taken:] if taken < len(piece) else None
        if at == length:
            yield row
            row, at = np.empty(length, np.uint16), 0
    if at:
        yield row[:at]


def make_part(part: Part, data: Path, records: Path, sequence_length: int) -> dict[str, Any]:
    """Tokenises and packs one part into `<data>/<part>.bin`; the record, written last, makes it count."""
    encoding = load_encoding(data / "tokenizer.json")
    bos = encoding.encode_single_token(SPECIAL_TOKENS[0])
    length = sequence_length + 1
    wanted = math.inf if part.max_rows is None else part.max_rows * length
    count = {"documents": 0, "text_bytes": 0, "tokens": 0}
    bits: list[float] = []

    def tokens() -> Iterator[np.ndarray]:
        for text, information in documents(part):
            if count["tokens"] >= wanted:
                return
            ids = encoding.encode_to_numpy(text, disallowed_special=()).astype(np.uint16)
            count["documents"] += 1
            count["text_bytes"] += len(text.encode())
            count["tokens"] += len(ids) + 1
            bits.append(information)
            yield ids

    rows, left_over, digest = 0, 0, hashlib.sha256()
    with whole(data / f"{part.name}.bin") as file:
        batch: list[np.ndarray] = []
        for row in pack(tokens(), length, bos):
            if len(row) < length or (part.max_rows is not None and rows == part.max_rows):
                left_over += len(row)
                continue
            rows += 1
            batch.append(row)
            if len(batch) == 512:
                _write(batch, file, digest)
        _write(batch, file, digest)
    information = math.fsum(bits)
    record = {
        "file": f"{part.name}.bin",
        "bytes": 2 * rows * length,
        "sha256": digest.hexdigest(),
        "rows": rows,
        **count,
        "left_over_tokens": left_over,
        **({} if math.isnan(information) else {"bits": round(information, 3)}),
    }
    with whole(records / f"{part.name}.json") as file:
        file.write(json.dumps(record).encode())
    return record


def _write(batch: list[np.ndarray], file: Any, digest: Any) -> None:
    if batch:
        block = np.stack(batch).astype("<u2", copy=False).tobytes()
        file.write(block)
        digest.update(block)
        batch.clear()


@contextlib.contextmanager
def _alone(lock: Path, doing: str) -> Iterator[None]:
    """One process at a time. The lock goes when the process does, however it ends."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"Another process is {doing}.", "wait for it and run the same command again") from None
        yield


# ----------------------------------------------------------------------------------------------------------------------
# Sources: what to read, cut into parts


@dataclass(frozen=True)
class Plan:
    """All that decides the bytes of a data set."""

    arguments: dict[str, Any]
    sources: list[dict[str, Any]]
    """File name, size and SHA-256 of each file read; for the stories, the fingerprint of their grammar."""
    parts: list[Part]

    def identity(self) -> dict[str, Any]:
        return {"format": FORMAT, "arguments": self.arguments, "sources": self.sources}


def _slices(path: Path, start: int = 0) -> list[Slice]:
    """The documents of a Parquet file from `start`, as slices of at most PART_DOCUMENTS."""
    try:
        stop = need("pyarrow.parquet").read_metadata(path).num_rows
    except (need("pyarrow").ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is not a sound Parquet file ({reason}).", "remove or replace this file") from None
    edges = [*range(start, stop, PART_DOCUMENTS), max(start, stop)]
    return [Slice(str(path), a, b) for a, b in itertools.pairwise(edges)]


def _parts(train: Iterable[tuple[Slice, ...]], **others: Part) -> list[Part]:
    """Parts in the order in which they are worked on: evaluation first, it fails soonest where text is short."""
    return [*others.values(), *(Part(f"train-{i:05d}", "train", slices) for i, slices in enumerate(train))]


def _rows(options: argparse.Namespace) -> int:
    """Rows of val, and of holdout, that `--val-tokens` asks for."""
    if options.val_tokens < options.sequence_length:
        raise DataError(
            f"{options.val_tokens} tokens do not fill one row of {options.sequence_length}.", "give more --val-tokens"
        )
    return options.val_tokens // options.sequence_length


def _file_facts(paths: list[Path], root: Path) -> list[dict[str, Any]]:
    def facts(path: Path) -> dict[str, Any]:
        return {"file": path.relative_to(root).as_posix(), "bytes": path.stat().st_size, "sha256": sha256(path)}

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(facts, paths))


def _from_hub(repository: str, filenames: list[str], cache: Path, workers: int) -> tuple[list[Path], list[dict]]:
    folder = cache / "downloads" / repository.rpartition("/")[2]
    stop = threading.Event()
    with (
        _alone(folder / ".lock", f"downloading {repository}"),
        Progress(f"download {repository}", None, "B", scale=True) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        futures = [pool.submit(download, repository, name, folder, bar, stop) for name in filenames]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    paths = [future.result() for future in futures]
    sources = _file_facts(paths, folder)
    for path, source in zip(paths, sources, strict=True):
        if path.with_name(f"{path.name}.sha256").read_text().split()[:1] != [source["sha256"]]:
            raise DataError(f"{path} was altered after it was downloaded.", f"rm {path} and run the same command again")
    return paths, sources


def plan_climbmix(options: argparse.Namespace, cache: Path) -> Plan:
    """ClimbMix shards 0..n-1 to train on, two pinned ones to judge by."""
    numbers = [CLIMBMIX_VAL, CLIMBMIX_HOLDOUT, *range(options.num_shards)]
    paths, sources = _from_hub(CLIMBMIX, [f"shard_{i:05d}.parquet" for i in numbers], cache, options.download_workers)
    rows = _rows(options)
    parts = _parts(
        ((piece,) for path in paths[2:] for piece in _slices(path)),
        val=Part("val", "val", tuple(_slices(paths[0])), rows),
        holdout=Part("holdout", "holdout", tuple(_slices(paths[1])), rows),
    )
    return Plan(arguments_of(options), sources, parts)


def plan_tinystories(options: argparse.Namespace, cache: Path) -> Plan:
    """One Parquet file, shuffled by its makers.

    Assumed is what its card says: a column `text`, the first 10,000 documents for tests (our hold-out), the next
    10,000 for validation, the other 2.7 million to train on.
    """
    paths, sources = _from_hub(TINYSTORIES, [TINYSTORIES_FILE], cache, 1)
    rows = None if options.val_tokens is None else _rows(options)
    parts = _parts(
        ((piece,) for piece in _slices(paths[0], 2 * TINYSTORIES_EVAL)),
        val=Part("val", "val", (Slice(str(paths[0]), TINYSTORIES_EVAL, 2 * TINYSTORIES_EVAL),), rows),
        holdout=Part("holdout", "holdout", (Slice(str(paths[0]), 0, TINYSTORIES_EVAL),), rows),
    )
    return Plan(arguments_of(options), sources, parts)


def plan_local(options: argparse.Namespace, cache: Path) -> Plan:
    """Every .parquet (column `text`) and .txt (UTF-8, see `cut_text`) under a directory, in the order of their names.

    Each document goes to val, holdout or train by the hash of its text and the seed (`split_of`). A twentieth goes to
    each of val and holdout, or less where the directory has much more text than `val_tokens` need.
    """
    root = Path(options.directory)
    if not root.is_dir():
        raise DataError(f"{root} is not a directory.", "python prepare.py local DIR")
    paths = sorted(path for path in root.rglob("*") if path.suffix in (".parquet", ".txt") and path.is_file())
    if not paths:
        raise DataError(f"{root} holds no .parquet or .txt file.", "python prepare.py local DIR")
    groups: list[list[Slice]] = []
    size = PART_TEXT_BYTES
    for path in paths:
        if path.suffix == ".parquet":
            groups += [[piece] for piece in _slices(path)]
            size = PART_TEXT_BYTES
            continue
        if size >= PART_TEXT_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(Slice(str(path)))
        size += path.stat().st_size
    sources = _file_facts(paths, root)
    # A token stands for about four bytes of English; Parquet is compressed, so this errs to the large side.
    fraction = min(0.05, 4 * options.val_tokens / max(1, sum(source["bytes"] for source in sources)))
    share = (options.seed, fraction)
    everything = tuple(piece for group in groups for piece in group)
    parts = _parts(
        (tuple(group) for group in groups),
        val=Part("val", "val", everything),
        holdout=Part("holdout", "holdout", everything),
    )
    parts = [dataclasses.replace(part, share=share) for part in parts]
    return Plan(arguments_of(options), sources, parts)


def plan_synthetic(options: argparse.Namespace, cache: Path) -> Plan:
    """Stories of `stories.py`: from 0 for val, from ten million for holdout, from twenty million to train on."""
    far = 10_000_000
    rows = _rows(options)

    def run(start: int, stop: int) -> tuple[Slice, ...]:
        return (Slice(None, start, stop, options.seed),)

    edges = [*range(2 * far, 2 * far + options.stories, PART_DOCUMENTS // 8), 2 * far + options.stories]
    parts = _parts(
        (run(a, b) for a, b in itertools.pairwise(edges)),
        val=Part("val", "val", run(0, far), rows),
        holdout=Part("holdout", "holdout", run(far, 2 * far), rows),
    )
    return Plan(arguments_of(options), [{"file": "stories", "sha256": stories.fingerprint()}], parts)


def arguments_of(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments that decide the bytes of a data set."""
    keys = ("source", "vocab_size", "sequence_length", "tokenizer_chars", "num_shards", "stories", "val_tokens", "seed")
    return {key: getattr(options, key) for key in keys if hasattr(options, key)}


PLANS: dict[str, Callable[[argparse.Namespace, Path], Plan]] = {
    "climbmix": plan_climbmix,
    "tinystories": plan_tinystories,
    "local": plan_local,
    "synthetic": plan_synthetic,
}


# ----------------------------------------------------------------------------------------------------------------------
# Making a data set


def make(name: str, plan: Plan, cache: Path, workers: int) -> dict[str, Any]:
    """Makes `<cache>/llm/<name>`, going on with what is finished already, and returns the manifest.

    Work is in `<name>.making`: `plan.json`, `records/` (one for each finished file, with its hash) and `data/`, which
    becomes the data set by one rename.
    """
    making = cache / "llm" / f"{name}.making"
    data, records, plan_file = making / "data", making / "records", making / "plan.json"
    identity = json.loads(json.dumps(plan.identity()))
    if making.exists() and _load(plan_file) != identity:
        say(f"{making} was begun with other arguments or sources: starting anew")
        shutil.rmtree(making)
    data.mkdir(parents=True, exist_ok=True)
    records.mkdir(exist_ok=True)
    with whole(plan_file) as file:
        file.write(json.dumps(identity).encode())
    for stale in [*data.glob("*.tmp"), *records.glob("*.tmp"), *making.glob("*.tmp")]:
        stale.unlink()

    tokenizer = _record(data, records, "tokenizer")
    if tokenizer is None:
        say(f"tokenizer: learning {plan.arguments['vocab_size']} tokens")
        for stale in records.iterdir():
            stale.unlink()  # rows of another tokenizer are worth nothing
        content = train_tokenizer(_tokenizer_texts(plan), plan.arguments["vocab_size"])
        with whole(data / "tokenizer.json") as file:
            file.write(content)
        digest = hashlib.sha256(content).hexdigest()
        tokenizer = {"file": "tokenizer.json", "bytes": len(content), "sha256": digest}
        with whole(records / "tokenizer.json") as file:
            file.write(json.dumps(tokenizer).encode())

    found = {part.name: record for part in plan.parts if (record := _record(data, records, part.name))}
    if found:
        say(f"{len(found)} of {len(plan.parts)} parts are finished already")
    missing = [part for part in plan.parts if part.name not in found]
    with Progress("tokenize and pack", len(plan.parts), "parts") as bar:
        bar.add(len(found))
        for part_name, record in _work(missing, data, records, plan.arguments["sequence_length"], workers):
            found[part_name] = record
            bar.add(1)

    manifest = _manifest(name, plan, tokenizer, found)
    with whole(data / "manifest.json") as file:
        file.write(json.dumps(manifest, indent=1).encode() + b"\n")
    target = cache / "llm" / name
    replaced = cache / "llm" / f"{name}.replaced"
    _remove(replaced)
    if target.exists():
        target.rename(replaced)
    data.rename(target)
    try:
        _remove(replaced)
    except OSError as error:
        say(
            f"warning: the data set that was replaced is still in {replaced} ({error.strerror})\nhint: rm -r {replaced}"
        )
    shutil.rmtree(making)
    return manifest


def _remove(path: Path) -> None:
    """Removes a folder or file; of a link not what it leads to."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _load(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _record(data: Path, records: Path, name: str) -> dict[str, Any] | None:
    """The record of a finished file, if there is one and the file still is what it says."""
    record = _load(records / f"{name}.json")
    sound = record and (data / record["file"]).is_file() and sha256(data / record["file"]) == record["sha256"]
    return record if sound else None


def _tokenizer_texts(plan: Plan) -> Iterator[str]:
    left = plan.arguments["tokenizer_chars"]
    for part in plan.parts:
        if part.split == "train":
            for text, _ in documents(part):
                text = text[:TOKENIZER_DOCUMENT_CHARS]
                yield text
                left -= len(text)
                if left <= 0:
                    return


def _work(
    parts: list[Part], data: Path, records: Path, sequence_length: int, workers: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Makes parts, in processes where there are several workers, and yields (name, record) as they are finished."""
    if workers == 1 or len(parts) < 2:
        for part in parts:
            yield part.name, make_part(part, data, records, sequence_length)
        return
    # Not forked: the tokenizer has started threads by now.
    pool = ProcessPoolExecutor(
        min(workers, len(parts)), mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )
    futures: dict[Future[dict[str, Any]], str] = {}
    try:
        for part in parts:
            futures[pool.submit(make_part, part, data, records, sequence_length)] = part.name
        for future in as_completed(futures):
            yield futures[future], future.result()
        pool.shutdown()
    except BrokenProcessPool:
        raise DataError(
            "A worker process was killed, perhaps for want of memory.",
            "run the same command again with --workers 1; it goes on where it stopped",
        ) from None
    finally:
        for child in multiprocessing.active_children():
            child.terminate()
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A worker must not go on writing when the program that started it was killed."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _manifest(name: str, plan: Plan, tokenizer: dict[str, Any], records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    sums = ("rows", "documents", "text_bytes", "tokens", "left_over_tokens")
    splits: dict[str, dict[str, Any]] = {}
    floor: dict[str, float] = {}
    for split in SPLITS:
        shards = [records[part.name] for part in plan.parts if part.split == split]
        splits[split] = {key: sum(shard[key] for shard in shards) for key in sums} | {"shards": shards}
        if not splits[split]["rows"]:
            raise DataError(
                f"The text of the split '{split}' does not fill one row.",
                "give more text, or a shorter --sequence-length",
            )
        if split != "train" and all("bits" in shard for shard in shards):
            floor[split] = math.fsum(shard["bits"] for shard in shards) / splits[split]["text_bytes"]
    return {
        **plan.identity(),
        "name": name,
        "sequence_length": plan.arguments["sequence_length"],
        "vocab_size": plan.arguments["vocab_size"],
        "bos_id": plan.arguments["vocab_size"] - len(SPECIAL_TOKENS),
        "tokenizer": tokenizer,
        "floor": floor,
        "splits": splits,
    }


def difference(manifest: dict[str, Any], arguments: dict[str, Any]) -> str | None:
    """How the arguments of an existing data set differ from others, in a clause, or None."""
    old = manifest["arguments"]
    for key in dict.fromkeys([*arguments, *old]):
        if old.get(key) != arguments.get(key):
            return f"{key.replace('_', ' ')} {old.get(key)}, not {arguments.get(key)}"
    return None


# ----------------------------------------------------------------------------------------------------------------------
# Command line


def pin(spec: Path, dataset: Dataset) -> None:
    """Writes the hashes of every file of a data set as the `inputs:` of a spec, and changes nothing else of it.

    The new text is parsed before it is written: where it would not say the same but for `inputs`, it is not written.
    """
    try:
        target = spec.resolve()  # of a link, the file that it leads to
        old = target.read_bytes().decode()
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{spec} cannot be read ({error}).", "python prepare.py ... --pin autoresearch-config.yaml"
        ) from None
    block = inputs_of(dataset)
    if "\r\n" in old:
        block = block.replace("\n", "\r\n")
    new = with_inputs(old, block)
    if new is None:
        raise DataError(
            f"{spec} was left as it is: only by hand can `inputs` be written there without changing something else.",
            f"paste this in place of the `inputs` there, if there are any:\n{inputs_of(dataset)}",
        )
    if new != old:
        with whole(target) as file:
            os.fchmod(file.fileno(), target.stat().st_mode & 0o7777)
            file.write(new.encode())
    say(f"{spec}: inputs pinned to {dataset.folder}")


def inputs_of(dataset: Dataset) -> str:
    """Every file of a data set as the `inputs:` of a spec: damage to any of them is then found before the next run."""
    splits = dataset.manifest["splits"]
    shards = [shard for split in ("val", "holdout", "train") for shard in splits[split]["shards"]]
    digests = {"manifest.json": sha256(dataset.folder / "manifest.json")}
    digests |= {file["file"]: file["sha256"] for file in (dataset.manifest["tokenizer"], *shards)}
    lines = ["inputs: # by `prepare.py --pin`: what this spec's numbers were measured on"]
    for file, digest in digests.items():
        lines.append(f'  - {{path: "$ARK_CACHE/llm/{dataset.folder.name}/{file}", sha256: {digest}}}')
    return "".join(f"{line}\n" for line in lines)


def with_inputs(old: str, block: str) -> str | None:
    """The YAML text with its `inputs` replaced by the block, or the block added; None where that would do more."""
    yaml = need("yaml")  # PyYAML is there wherever the kit is: `ark` reads specs by it

    def keys_of(text: str) -> list[tuple[Any, Any]]:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and (not isinstance(root, yaml.MappingNode) or root.flow_style):
            raise yaml.YAMLError("not a mapping with a key on each line")
        return [] if root is None else root.value

    def said(pairs: list[tuple[Any, Any]]) -> list[tuple[str, str]]:
        return [(yaml.serialize(key), yaml.serialize(value)) for key, value in pairs]

    def line_start(mark: Any) -> int:
        return mark.index - mark.column

    try:
        pairs = keys_of(old)
        found = [i for i, (key, _) in enumerate(pairs) if key.value == "inputs"]
        at = found[0] if found else len(pairs)
        expected = said(pairs[:at]) + said(keys_of(block)) + said(pairs[at + 1 :])
        if found:
            start = line_start(pairs[at][0].start_mark)
            end = pairs[at + 1][0].start_mark if at + 1 < len(pairs) else yaml.compose(old, yaml.SafeLoader).end_mark
            stop = line_start(end) if line_start(end) > start else len(old)
            # Comments and blank lines at the end belong to what follows.
            lines = old[start:stop].splitlines(keepends=True)
            while lines[1:] and re.fullmatch(r"\s*(#.*)?", lines[-1].rstrip("\r\n")):
                stop -= len(lines.pop())
        else:
            start = stop = len(old)
            if old and not old.endswith("\n"):
                block = ("\r\n" if "\r\n" in block else "\n") + block
        new = old[:start] + block + old[stop:]
        return new if len(found) < 2 and said(keys_of(new)) == expected else None
    except (yaml.YAMLError, RecursionError):
        return None


def _number(low: int, high: int = 2**40) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not between {low} and {high}")
        return value

    parse.__name__ = "number"
    return parse


def _shards(text: str) -> int:
    return CLIMBMIX_HOLDOUT if text.strip() == "-1" else _number(1, CLIMBMIX_HOLDOUT)(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text) or text.endswith((".making", ".replaced")):
        raise argparse.ArgumentTypeError(f"{text!r}: letters, digits, '.', '_' and '-' make a name")
    return text


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    both = argparse.ArgumentParser(add_help=False)
    add = both.add_argument
    add("--name", type=_name, help="of the data set (default: its source)")
    add("--vocab-size", type=_number(256 + len(SPECIAL_TOKENS), 65536), default=8192, metavar="V")
    add("--sequence-length", type=_number(1, 2**20), default=2048, metavar="T")
    add("--tokenizer-chars", type=_number(1), default=1_000_000_000, help="to learn the tokens from, at most")
    add("--cache", metavar="DIR", help="default: $ARK_CACHE, else ~/.cache/ark-data")
    add("--workers", type=_number(1, 1024), default=_processors(), help="processes (default: %(default)s)")
    add("--force", action="store_true", help="replace a data set of that name")
    add("--verify", action="store_true", help="make nothing; hash what is there and say what is wrong")
    add("--pin", nargs="+", type=Path, metavar="SPEC", help="write the hashes into these specs as their `inputs:`")
    parser = argparse.ArgumentParser(
        prog="prepare.py", description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.RawTextHelpFormatter
    )
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    source = sources.add_parser("climbmix", parents=[both], help=f"web text, {CLIMBMIX}")
    source.add_argument("--num-shards", type=_shards, default=10, help="to train on, about 60 M tokens each; -1: all")
    source.add_argument("--download-workers", type=_number(1, 64), default=8)
    source.add_argument("--val-tokens", type=_number(1), default=CLIMBMIX_VAL_TOKENS, help="and as many of holdout")
    source = sources.add_parser("tinystories", parents=[both], help=f"short stories by GPT-4, {TINYSTORIES}")
    source.add_argument("--val-tokens", type=_number(1), default=None, help="at most; default: all of both splits")
    source = sources.add_parser("local", parents=[both], help="your own .parquet and .txt files")
    source.add_argument("directory", metavar="DIR")
    source.add_argument(
        "--val-tokens", type=_number(1), default=2_000_000, help="about; a twentieth of the text at most"
    )
    source.add_argument("--seed", type=_number(0), default=0, help="of the choice of documents for val and holdout")
    source = sources.add_parser("synthetic", parents=[both], help="stories with a known floor, see stories.py")
    source.add_argument("--stories", type=_number(1, 10_000_000), default=50_000, help="to train on")
    source.add_argument("--val-tokens", type=_number(1), default=65_536, help="and as many of holdout")
    source.add_argument("--seed", type=_number(0), default=0)
    source.set_defaults(tokenizer_chars=10_000_000)  # the stories have few words, and many are soon seen
    options = parser.parse_args(arguments)
    options.name = options.name or options.source
    return options


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(options: argparse.Namespace) -> None:
    """What the command line asks for. DataError where that cannot be."""
    cache = cache_folder(options.cache)
    folder = cache / "llm" / options.name
    if options.pin:
        need("yaml")
    if options.verify:
        dataset = open_dataset(options.name, cache)
        say(f"{folder}: every file is as the manifest says")
    else:
        for module in ("rustbpe", "tiktoken"):
            need(module)
        with _alone(folder.with_name(f".{options.name}.lock"), f"making the data set '{options.name}'"):
            if folder.exists() and not options.force:
                _same(read_manifest(folder), options, folder, cache)
                say(f"{folder} exists already, made with the same arguments")
                shutil.rmtree(f"{folder}.making", ignore_errors=True)
            elif folder.is_symlink():
                raise DataError(
                    f"{folder} is a link to {os.readlink(folder)}, and only a folder is replaced.",
                    f"rm {folder}, which takes the link away and not the data; or --name another",
                )
            else:
                make(options.name, PLANS[options.source](options, cache), cache, options.workers)
        dataset = open_dataset(options.name, cache)
    _report(dataset)
    for spec in options.pin or ():
        pin(spec, dataset)


def _same(manifest: dict[str, Any], options: argparse.Namespace, folder: Path, cache: Path) -> None:
    """DataError where the arguments would give another data set; sources are compared where they may have changed."""
    differs = difference(manifest, arguments_of(options))
    if differs is None and options.source in ("local", "synthetic"):
        differs = None if PLANS[options.source](options, cache).sources == manifest["sources"] else "other sources"
    if differs:
        raise DataError(f"{folder} exists already, made with {differs}.", "--name another, or --force to replace it")


def _report(dataset: Dataset) -> None:
    splits = dataset.manifest["splits"]
    lines = {"folder": dataset.folder, "vocab_size": dataset.vocab_size, "sequence_length": dataset.sequence_length}
    for split in SPLITS:
        lines[f"{split}_rows"] = splits[split]["rows"]
    for split, value in dataset.floor.items():
        lines[f"{split}_floor"] = f"{value:.6f}"
    train = splits["train"]
    lines["bytes_per_token"] = f"{train['text_bytes'] / max(1, train['tokens'] - train['documents']):.3f}"
    for key, value in lines.items():
        print(f"{key + ':':<18}{value}")
    tokens = train["rows"] * dataset.sequence_length
    if dataset.manifest["arguments"]["source"] == "climbmix" and tokens < RUN_TOKENS:
        shards = dataset.manifest["arguments"]["num_shards"]
        say(
            f"warning: {tokens / 1e6:,.0f} million training tokens; a five-minute run on an H100 reads about "
            f"{RUN_TOKENS / 1e6:,.0f} million, so it would see rows twice\n"
            f"hint: --num-shards {math.ceil(shards * RUN_TOKENS / max(1, tokens))} --force"
        )


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        run(options)
    except DataError as error:
        say(f"prepare.py: {error}")
        return 1
    except KeyboardInterrupt:
        say("prepare.py: interrupted; the same command goes on from here")
        return 130
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        say(f"prepare.py: {error.strerror or error}{where}")
        say("hint: the same command goes on from here; --cache names another disk")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
