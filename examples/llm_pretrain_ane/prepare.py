"""Makes token files: little-endian 16-bit ids of the Llama-2 tokenizer without a header, each story begun by id 1.

    python3 prepare.py tinystories       # downloads 1 GB, keeps 41 MB: 20,658,981 tokens of TinyStories
    python3 prepare.py synthetic         # a million tokens of made-up stories, and the loss that no model can beat
    python3 prepare.py verify FILE       # what the trainer will refuse, and what the judge needs

Files go to $ARK_CACHE/ane, else ~/.cache/ark-data/ane. A file has its name when all of it is there and was checked.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import re
import stat
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import stories
from command import LARGEST_SEED, Parser, complain, say, whole_number
from download import fetch, member
from failure import Failure
from folders import locked, token_path

REPOSITORY, ARCHIVE = "enio/TinyStories", "tok32000/TinyStories_tok32000.tar.gz"
MEMBER, MEMBER_TOKENS = "data00.bin", 20_658_981
EVALUATED = 25_600  # tokens that the judge predicts, of validation and of holdout
LEAST_TOKENS = 20 * (EVALUATED + 2)  # so that a split of a twentieth holds them and the one before
MOST_TOKENS = 2**31 - 1


def splits(count: int) -> dict[str, tuple[int, int]]:
    """First token and the one after the last of each split, as tokens.c has them."""
    validation, holdout = count * 9 // 10, count * 19 // 20
    return {"training": (0, validation), "validation": (validation, holdout), "holdout": (holdout, count)}


def read_tokens(path: Path) -> tuple[array[int], str]:
    """The ids of a checked token file, and its SHA-256. Failure with what is wrong."""
    try:
        with open(path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Failure(f"{path} is no plain file")
            data = file.read(2 * MOST_TOKENS + 1)
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}") from None
    if len(data) % 2 or len(data) > 2 * MOST_TOKENS:
        raise Failure(f"{path} has {len(data)} bytes, and tokens are two bytes each", "make it anew")
    ids = array("H", data)
    if sys.byteorder == "big":
        ids.byteswap()
    if len(ids) < LEAST_TOKENS:
        raise Failure(f"{path} has {len(ids):,} tokens, and {LEAST_TOKENS:,} are the least", "give a longer text")
    if max(ids) >= stories.VOCAB:
        at = next(i for i, token in enumerate(ids) if token >= stories.VOCAB)
        raise Failure(f"{path}: token {at} is {ids[at]}, and ids are below {stories.VOCAB}", "make it anew")
    if ids[0] != stories.BOS:
        raise Failure(f"{path} begins with token {ids[0]}, and stories begin with {stories.BOS}", "make it anew")
    return ids, hashlib.sha256(data).hexdigest()


def tinystories(options: argparse.Namespace) -> None:
    """Downloads the archive, takes one member out of it, and keeps that alone."""
    path = target(options, "tinystories_data00.bin")
    if path.exists():
        say(f"{path} is there already")
    else:
        with locked(path.parent, busy(path.parent)):
            archive = path.parent / ARCHIVE.rpartition("/")[2]
            fetch(REPOSITORY, ARCHIVE, archive, options.sha256)
            with whole(path) as part:
                try:
                    member(archive, MEMBER, part, 2 * MEMBER_TOKENS)
                except Failure:
                    archive.unlink()
                    raise
                count = len(read_tokens(part)[0])
                if count != MEMBER_TOKENS:
                    raise Failure(f"{MEMBER} of {archive} has {count:,} tokens, not {MEMBER_TOKENS:,}", f"rm {archive}")
            archive.unlink()
    report(path, *read_tokens(path))


def synthetic(options: argparse.Namespace) -> None:
    """Writes made-up stories and says how much information is in what the judge predicts."""
    path = target(options, "synthetic.bin")
    text, nats = stories.write_stories(options.tokens, options.ids, options.seed)
    if sys.byteorder == "big":
        text.byteswap()
    data = text.tobytes()
    if not (path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data):
        if os.path.lexists(path) and not options.force:
            raise Failure(f"{path} is there already, and is another file", "--force to replace it, or another --out")
        with locked(path.parent, busy(path.parent)), whole(path) as part:
            part.write_bytes(data)
    report(path, *read_tokens(path))
    for split, (begin, _) in list(splits(len(nats)).items())[1:]:
        judged = nats[begin + 1 : begin + 1 + EVALUATED]
        print(f"{split + '_floor:':<18}{math.fsum(judged) / len(judged):.6f}")


def verify(options: argparse.Namespace) -> None:
    """Checks a file as the others check what they make."""
    ids, digest = read_tokens(options.file)
    if options.sha256 not in (None, digest):
        raise Failure(f"{options.file} has the SHA-256 {digest}, not {options.sha256}", "make it anew")
    report(options.file, ids, digest)


def report(path: Path, ids: array[int], digest: str) -> None:
    first = " ".join(map(str, ids[:10]))
    lines = {"file": path, "tokens": len(ids), "ids": len(set(ids)), "first": first, "sha256": digest}
    for key, value in lines.items():
        print(f"{key + ':':<18}{value}")


def target(options: argparse.Namespace, name: str) -> Path:
    """--out, else the name in the cache folder."""
    path = token_path(options.out, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write and check, which gets its name at the end."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def busy(folder: Path) -> Failure:
    return Failure(f"another prepare.py is at work in {folder}", "wait for it")


# ----------------------------------------------------------------------------------------------------------------------
# Command line


def digest(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text[:70]!r} is no SHA-256, which has 64 hex digits")
    return text.lower()


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("prepare.py", __doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    verb = verbs.add_parser("tinystories", help=f"{MEMBER} of {ARCHIVE} from {REPOSITORY} on the Hugging Face hub")
    verb.add_argument("--sha256", type=digest, metavar="HEX", help="of the archive; else as the hub states it")
    verb.add_argument("--out", metavar="FILE")
    verb.set_defaults(run=tinystories)
    verb = verbs.add_parser("synthetic", help="made-up stories")
    verb.add_argument("--tokens", type=whole_number(LEAST_TOKENS, 10**8), default=1_000_000, metavar="N")
    verb.add_argument(
        "--ids", type=whole_number(stories.LEAST_IDS, 16_384), default=512, metavar="N", help="different ones"
    )
    verb.add_argument("--seed", type=whole_number(0, LARGEST_SEED), default=0, metavar="N")
    verb.add_argument("--out", metavar="FILE")
    verb.add_argument("--force", action="store_true", help="replace another file of that name")
    verb.set_defaults(run=synthetic)
    verb = verbs.add_parser("verify", help="checks a token file")
    verb.add_argument("file", type=Path, metavar="FILE")
    verb.add_argument("--sha256", type=digest, metavar="HEX", help="of the file")
    verb.set_defaults(run=verify)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    try:
        options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
        options.run(options)
        return 0
    except Failure as failure:
        complain("prepare.py", failure.sentence, failure.hint)
        return failure.status
    except KeyboardInterrupt:
        complain("prepare.py", "interrupted; the same command goes on from here")
        return 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        complain("prepare.py", f"{where}{error.strerror or error}", "--out names another disk")
        return 1


if __name__ == "__main__":
    sys.exit(main())
