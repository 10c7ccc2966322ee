"""Reading a data set: rows of tokens that prepare.py packed, memory-mapped, with every file checked by its hash.

    rows = open_dataset("climbmix").rows("train")    # uint16 [n, T+1]; inputs are row[:-1], targets row[1:]
    batch = Stream(rows, batch_rows=128, seed=1).next()

NumPy and the standard library only, so that training and evaluation start fast. Making data sets is in prepare.py.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import importlib.util
import json
import math
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

FORMAT = 1  # raise it with every change after which the same arguments give other bytes
SPLITS = ("train", "val", "holdout")


class DataError(Exception):
    """Something about the data that the user can change; `str` is the sentence and a hint with the next command."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}\nhint: {hint}")


def cache_folder(flag: str | os.PathLike[str] | None = None) -> Path:
    """Where data sets and downloads live: the flag, else $ARK_CACHE, else ~/.cache/ark-data."""
    folder = Path(flag or os.environ.get("ARK_CACHE") or "~/.cache/ark-data")
    try:
        return folder.expanduser()
    except RuntimeError:
        raise DataError(
            f"{folder} cannot be found: nobody has that home.", "export ARK_CACHE=/a/folder/you/own"
        ) from None


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """A summed loss in nats as bits per byte of the text behind it; the unit does not depend on the tokenizer."""
    return nats / (math.log(2) * n_bytes)


class Rows:
    """The rows of one split: memory-mapped uint16 shards [n, T+1], copied only when asked for."""

    def __init__(self, shards: list[np.ndarray]) -> None:
        self.shards = [np.asarray(shard) for shard in shards]
        self.width = self.shards[0].shape[1]
        self._ends = np.cumsum([len(shard) for shard in self.shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, indices: np.ndarray | slice) -> np.ndarray:
        """Rows by number, uint16 [k, T+1], a copy. IndexError outside 0..len-1."""
        indices = np.arange(len(self))[indices] if isinstance(indices, slice) else np.asarray(indices)
        return self.gather(indices, np.empty((len(indices), self.width), np.uint16))

    def gather(self, indices: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Copies rows [k] into `out` [k, T+1] and returns it."""
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"rows are numbered 0 to {len(self) - 1}")
        shard_of = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(shard_of):
            shard = self.shards[number]
            where = np.flatnonzero(shard_of == number)
            out[where] = shard[indices[where] - (self._ends[number] - len(shard))]
        return out


class Stream:
    """Endless batches of rows, shuffled anew in each epoch. The order is a function of (seed, epoch) alone.

    Keys are raw bits of NumPy's Philox, whose stream is fixed for good; a stable sort of them is the permutation. Set
    `position` (rows handed out so far) to go on from there.
    """

    def __init__(self, rows: Rows, batch_rows: int, seed: int) -> None:
        if batch_rows < 1:
            raise ValueError("batch_rows must be at least 1")
        self.rows, self.batch_rows, self.seed, self.position = rows, batch_rows, seed, 0
        self._order: tuple[int, np.ndarray] = (0, np.empty(0, np.int64))

    @property
    def epoch(self) -> int:
        """The epoch, from 1, of the row handed out last."""
        return max(self.position - 1, 0) // len(self.rows) + 1

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            key = np.array([self.seed % 2**64, epoch], np.uint64)
            bits = np.random.Philox(key=key).random_raw(len(self.rows))
            self._order = (epoch, np.argsort(bits, kind="stable"))
        return self._order[1]

    def next(self, out: np.ndarray | None = None) -> np.ndarray:
        """The next batch, uint16 [batch_rows, T+1], in `out` if that is given (any integer type)."""
        if out is None:
            out = np.empty((self.batch_rows, self.rows.width), np.uint16)
        done = 0
        while done < self.batch_rows:
            epoch, at = divmod(self.position, len(self.rows))
            chosen = self._permutation(epoch + 1)[at : at + self.batch_rows - done]
            self.rows.gather(chosen, out[done : done + len(chosen)])
            done += len(chosen)
            self.position += len(chosen)
        return out


@dataclass(frozen=True)
class Dataset:
    """A data set whose every file has just been checked against its manifest."""

    folder: Path
    name: str
    sequence_length: int
    """T: tokens that a model sees at once. Rows hold one more."""
    vocab_size: int
    bos_id: int
    tokenizer_sha256: str
    """Of tokenizer.json."""
    token_bytes: np.ndarray
    """int32 [vocab_size]: how many bytes of text each token stands for; 0 for specials, which count neither way."""
    floor: dict[str, float]
    """Bits per byte of the source itself, by split, where it is known: sum of bits over sum of bytes of the documents.

    A perfect reader that sees each document whole and alone would score this. A document that packing cut in two is
    read from its middle with nothing before it, so what can be reached on the rows is somewhat higher, the more so the
    shorter rows are: of the stories, packing cuts about 44 in 100 at T 256, 19 at T 512 and 10 at T 1024.
    """
    manifest: dict[str, Any]

    def rows(self, split: str) -> Rows:
        """The rows of "train", "val" or "holdout"."""
        if split not in SPLITS:
            raise DataError(f"There is no split '{split}'.", f"it is one of {', '.join(SPLITS)}")
        shards = self.manifest["splits"][split]["shards"]
        width = self.sequence_length + 1
        return Rows(
            [
                np.memmap(self.folder / shard["file"], "<u2", "r", shape=(shard["rows"], width))
                for shard in shards
                if shard["rows"]
            ]
        )


def open_dataset(name: str, cache: str | os.PathLike[str] | None = None) -> Dataset:
    """Opens `<cache>/llm/<name>/` after checking the manifest, sizes and every hash; DataError says what is wrong."""
    folder = cache_folder(cache) / "llm" / name
    if not (folder / "manifest.json").is_file():
        raise DataError(f"There is no data set '{name}' in {folder.parent}.", _command_for(name, folder.parent))
    manifest = read_manifest(folder)
    wrong = _problems(folder, manifest)
    if wrong:
        raise DataError(f"The data set '{name}' is damaged: {'; '.join(wrong)}.", _repair(manifest))
    tokenizer = (folder / "tokenizer.json").read_bytes()
    ranks, specials = parse_tokenizer(tokenizer, folder / "tokenizer.json")
    token_bytes = token_bytes_of(ranks, len(specials))
    if len(token_bytes) != manifest["vocab_size"]:
        raise DataError(f"tokenizer.json does not belong to the data set '{name}'.", _repair(manifest))
    return Dataset(
        folder=folder,
        name=name,
        sequence_length=manifest["sequence_length"],
        vocab_size=manifest["vocab_size"],
        bos_id=manifest["bos_id"],
        tokenizer_sha256=hashlib.sha256(tokenizer).hexdigest(),
        token_bytes=token_bytes,
        floor=manifest["floor"],
        manifest=manifest,
    )


def _command_for(name: str, parent: Path) -> str:
    """The command that makes the data set of that name."""
    if name in ("climbmix", "tinystories"):
        return f"python prepare.py {name}, or name another data set by --data"
    if name == "stories":
        return "python prepare.py synthetic --name stories --vocab-size 1024 --sequence-length 256"
    return f"python prepare.py SOURCE --name {name}; or list those there are: ls {parent}"


def _repair(manifest: dict[str, Any]) -> str:
    given = {"source": "SOURCE", **manifest.get("arguments", {})}
    source = given.pop("source")
    options = "".join(f" --{key.replace('_', '-')} {value}" for key, value in given.items() if value is not None)
    directory = " DIR" if source == "local" else ""
    return f"python prepare.py {source}{directory} --name {manifest.get('name', 'NAME')}{options} --force"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, if it has the form that this file writes."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise DataError(f"{path} has format {manifest['format']}, this program reads {FORMAT}.", _repair(manifest))
        whole = [manifest[key] for key in ("sequence_length", "vocab_size", "bos_id")]
        shards = [shard for split in SPLITS for shard in manifest["splits"][split]["shards"]]
        files = [manifest["tokenizer"], *shards]
        sound = (
            all(type(value) is int for value in whole + [shard["rows"] for shard in shards])
            and all(os.path.basename(file["file"]) == file["file"] for file in files)
            and all(type(file["bytes"]) is int and len(file["sha256"]) == 64 for file in files)
            and all(shard["bytes"] == 2 * shard["rows"] * (manifest["sequence_length"] + 1) for shard in shards)
            and all(any(shard["rows"] for shard in manifest["splits"][split]["shards"]) for split in SPLITS)
            and all(isinstance(manifest[key], dict) for key in ("floor", "arguments"))
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read as a manifest ({error!r}).", f"remove {folder} and make it anew"
        ) from None
    if not sound:
        raise DataError(f"{path} contradicts itself.", f"remove {folder} and make it anew")
    return manifest


def _problems(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """What differs from the manifest, one clause for each file. Hashes in threads: hashlib lets go of the GIL."""

    def problem(file: dict[str, Any]) -> str | None:
        path = folder / file["file"]
        try:
            size = path.stat().st_size
            if size != file["bytes"]:
                return f"{path.name} has {size} bytes instead of {file['bytes']}"
            if sha256(path) == file["sha256"]:
                return None
        except OSError as error:
            return f"{path.name} cannot be read ({error.strerror})"
        if file is manifest["tokenizer"]:
            return "tokenizer.json is not the one that the rows were made with"
        return f"{path.name} has been altered"

    files = [manifest["tokenizer"], *(shard for split in SPLITS for shard in manifest["splits"][split]["shards"])]
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return [clause for clause in pool.map(problem, files) if clause]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_tokenizer(content: bytes, path: Path) -> tuple[list[bytes], list[str]]:
    try:
        stored = json.loads(content)
        ranks = [base64.b64decode(token, validate=True) for token in stored["ranks"]]
        specials = [str(name) for name in stored["special_tokens"]]
        if stored["pattern"] and all(ranks) and len(set(ranks)) == len(ranks) and specials:
            return ranks, specials
    except (ValueError, KeyError, TypeError):
        pass
    raise DataError(f"{path} is not a tokenizer of this program.", "make the data set anew with --force")


def token_bytes_of(ranks: list[bytes], n_special: int) -> np.ndarray:
    """int32 [vocab]: raw length of each token. Decoding first would count a lone byte of a character as three."""
    return np.array([len(token) for token in ranks] + [0] * n_special, np.int32)


# ----------------------------------------------------------------------------------------------------------------------
# For the programs that make data sets


def need(module: str) -> ModuleType:
    """A library that reading data does not need, so it is imported only here."""
    try:
        return importlib.import_module(module)
    except ImportError:
        extra = "mlx" if importlib.util.find_spec("mlx") or sys.platform == "darwin" else "cuda"
        raise DataError(f"The Python module {module} is missing.", f"pip install 'autoresearch_kit[{extra}]'") from None


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Any]:
    """A file that appears under its name only when all of it is on the disk."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
