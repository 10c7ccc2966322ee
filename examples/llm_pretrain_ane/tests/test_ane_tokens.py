"""The token file is checked as a whole before use; splits and windows are where they are said to be."""

from __future__ import annotations

import ctypes
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from ane_build import ANE, Problem, build, pointer, shared_object
from ane_tokens import VOCAB, markov_tokens, write_tokens

TRAIN, VALIDATION, HOLDOUT = range(3)


class Tokens(ctypes.Structure):
    """struct Tokens."""

    _fields_ = (
        ("ids", ctypes.POINTER(ctypes.c_uint16)),
        ("count", ctypes.c_int64),
        ("checksum", ctypes.c_uint32),
        ("classes", ctypes.c_int),
        ("token_of", ctypes.POINTER(ctypes.c_uint16)),
        ("class_of", ctypes.POINTER(ctypes.c_int32)),
        ("vocab", ctypes.c_int),
    )


@pytest.fixture(scope="module")
def c() -> ctypes.CDLL:
    return declared(shared_object("base.c", "tokens.c"))


def declared(made: ctypes.CDLL) -> ctypes.CDLL:
    for name in ("tokens_open", "tokens_suffice", "tokens_window"):
        getattr(made, name).restype = ctypes.c_bool
    made.tokens_window.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int] + [ctypes.c_void_p] * 3
    return made


@contextmanager
def opened(c: ctypes.CDLL, path: Path, compact: bool = True) -> Iterator[Tokens]:
    """The file's tokens; fails with the sentence where it is refused."""
    tokens, problem = Tokens(), Problem()
    assert c.tokens_open(ctypes.byref(tokens), os.fsencode(path), VOCAB, compact, ctypes.byref(problem)), problem.text
    yield tokens
    c.tokens_close(ctypes.byref(tokens))


def refusal(c: ctypes.CDLL, path: Path) -> str:
    """The sentence with which the file is refused."""
    tokens, problem = Tokens(), Problem()
    assert not c.tokens_open(ctypes.byref(tokens), os.fsencode(path), VOCAB, True, ctypes.byref(problem))
    assert not tokens.ids and not tokens.class_of
    return problem.text.decode()


def span(c: ctypes.CDLL, tokens: Tokens, split: int) -> tuple[int, int]:
    begin, end = ctypes.c_int64(), ctypes.c_int64()
    c.tokens_split(ctypes.byref(tokens), split, ctypes.byref(begin), ctypes.byref(end))
    return begin.value, end.value


def window(c: ctypes.CDLL, tokens: Tokens, start: int, seq: int) -> tuple[np.ndarray, np.ndarray]:
    inputs, targets, problem = np.zeros(seq, np.int32), np.zeros(seq, np.int32), Problem()
    good = c.tokens_window(ctypes.byref(tokens), start, seq, pointer(inputs), pointer(targets), ctypes.byref(problem))
    assert good, problem.text
    return inputs, targets


def test_counts_checksum_and_classes(c: ctypes.CDLL, tmp_path: Path) -> None:
    ids = write_tokens(tmp_path / "t.bin")
    used = np.unique(ids)
    with opened(c, tmp_path / "t.bin") as tokens:
        assert tokens.count == len(ids)
        assert tokens.checksum == zlib.crc32(ids.tobytes())
        assert tokens.classes == len(used) == 48
        assert tokens.token_of[: tokens.classes] == used.tolist()
        classes = np.array(tokens.class_of[:VOCAB])
        assert classes[used].tolist() == list(range(48))
        assert (np.delete(classes, used) == -1).all()


def test_without_compaction_every_id_is_its_own_class(c: ctypes.CDLL, tmp_path: Path) -> None:
    write_tokens(tmp_path / "t.bin")
    with opened(c, tmp_path / "t.bin", compact=False) as tokens:
        assert tokens.classes == VOCAB
        assert tokens.class_of[:VOCAB] == tokens.token_of[:VOCAB] == list(range(VOCAB))


def test_all_65536_values_of_a_token_are_told_apart(c: ctypes.CDLL, tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    path.write_bytes(np.arange(VOCAB, dtype="<u2").tobytes())
    with opened(c, path) as tokens:
        assert tokens.classes == VOCAB
    for id_ in (VOCAB, 32767, 32768, 65535):
        path.write_bytes(np.array([5, 5, id_, 5], dtype="<u2").tobytes())
        assert f"holds the id {id_}, but the vocabulary ends at 31999" in refusal(c, path)


@pytest.mark.parametrize("count", [1, 9, 10, 19, 20, 21, 1234, 20658981])
def test_splits_are_nine_tenths_and_two_twentieths(c: ctypes.CDLL, count: int) -> None:
    tokens = Tokens(count=count)
    assert span(c, tokens, TRAIN) == (0, count * 9 // 10)
    assert span(c, tokens, VALIDATION) == (count * 9 // 10, count * 19 // 20)
    assert span(c, tokens, HOLDOUT) == (count * 19 // 20, count)


def test_windows_are_successive_classes(c: ctypes.CDLL, tmp_path: Path) -> None:
    ids = write_tokens(tmp_path / "t.bin", count=4000)
    classes = np.searchsorted(np.unique(ids), ids)
    with opened(c, tmp_path / "t.bin") as tokens:
        for start in (0, 17, 4000 - 33):
            inputs, targets = window(c, tokens, start, 32)
            assert inputs.tolist() == classes[start : start + 32].tolist()
            assert targets.tolist() == classes[start + 1 : start + 33].tolist()


# Predicted tokens of a split, and how many of them are evaluated.
SHORT = {1024: 1024, 1025: 1024, 1999: 1024, 2047: 1024, 2048: 2048, 25_599: 24_576, 25_600: 25_600, 25_601: 25_600}


@pytest.mark.parametrize("seq", [32, 64, 128, 256, 512, 1024])
def test_evaluated_tokens_are_the_same_for_every_seq(c: ctypes.CDLL, seq: int) -> None:
    assert c.tokens_windows(ctypes.byref(Tokens(count=20_658_981)), VALIDATION, seq) * seq == 25_600
    for predicted, evaluated in SHORT.items():
        tokens = Tokens(count=20 * (predicted + 1))
        for split in (VALIDATION, HOLDOUT):
            assert c.tokens_windows(ctypes.byref(tokens), split, seq) * seq == evaluated


@pytest.mark.parametrize("seq", [32, 64, 128, 256, 512])
def test_a_short_split_is_filled_by_windows(c: ctypes.CDLL, seq: int) -> None:
    for length in (seq, seq + 1, 2 * seq, 2 * seq + 1):
        tokens = Tokens(count=20 * length)
        begin, end = span(c, tokens, HOLDOUT)
        assert end - begin == length
        assert c.tokens_windows(ctypes.byref(tokens), HOLDOUT, seq) == (length - 1) // seq


def test_too_short_files_are_refused_by_split(c: ctypes.CDLL, tmp_path: Path) -> None:
    path, problem = tmp_path / "t.bin", Problem()
    path.write_bytes(markov_tokens(count=20 * 33).tobytes())
    with opened(c, path) as tokens:
        assert c.tokens_suffice(ctypes.byref(tokens), 32, ctypes.byref(problem))
        assert not c.tokens_suffice(ctypes.byref(tokens), 33, ctypes.byref(problem))
    assert b"its validation split holds 33 tokens, and a window needs 34" in problem.text
    path.write_bytes(markov_tokens(count=1).tobytes())
    with opened(c, path) as tokens:
        assert not c.tokens_suffice(ctypes.byref(tokens), 32, ctypes.byref(problem))
    assert b"its training split holds 0 tokens" in problem.text


def test_a_token_that_lost_its_class_is_an_error(c: ctypes.CDLL, tmp_path: Path) -> None:
    ids, problem = write_tokens(tmp_path / "t.bin"), Problem()
    inputs, targets = np.zeros(8, np.int32), np.zeros(8, np.int32)
    with opened(c, tmp_path / "t.bin") as tokens:
        tokens.class_of[int(ids[3])] = -1
        assert not c.tokens_window(ctypes.byref(tokens), 0, 8, pointer(inputs), pointer(targets), ctypes.byref(problem))
    assert problem.text == b"token 3 of the token file has no class"


def test_a_file_that_changes_after_it_was_opened_changes_nothing(c: ctypes.CDLL, tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    ids = write_tokens(path)
    with opened(c, path) as tokens:
        for text in (b"\xff" * 2 * len(ids), b""):
            path.write_bytes(text)  # into the same file, which would end the process if it were mapped
            assert np.array(tokens.ids[: len(ids)]).tolist() == ids.tolist()


# In place of read(): pieces of 999 bytes, and from `place` on always the same answer.
READ = """
#include <errno.h>
#include <unistd.h>
long place, answer;
ssize_t pieces(int file, void *bytes, size_t count) {
    long at = lseek(file, 0, SEEK_CUR);
    errno = EIO;
    if (at >= place)
        return answer;
    ssize_t got = pread(file, bytes, count < 999 ? count : 999, at);
    lseek(file, at + got, SEEK_SET);
    return got;
}
"""


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path, shim = tmp_path / "t.bin", tmp_path / "read.c"
    ids = write_tokens(path)
    shim.write_text(READ)
    sources = [shim, ANE / "base.c", ANE / "tokens.c"]
    c = declared(ctypes.CDLL(str(build(sources, ["-fPIC", "-shared", "-Dread=pieces"]))))
    place, answer = (ctypes.c_long.in_dll(c, name) for name in ("place", "answer"))
    size = place.value = path.stat().st_size
    with opened(c, path) as tokens:
        assert tokens.checksum == zlib.crc32(ids.tobytes())
    for place.value, answer.value, what in (
        (999, 0, "became shorter while it was read"),
        (size, 1, "became longer while it was read"),
        (999, -1, "Input/output error"),
    ):
        assert refusal(c, path).endswith(what)


def test_files_that_are_none(c: ctypes.CDLL, tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    assert "No such file" in refusal(c, path)
    assert "not a plain file" in refusal(c, tmp_path)
    assert "not a plain file" in refusal(c, Path("/dev/zero"))
    path.write_bytes(b"")
    assert "is empty" in refusal(c, path)
    path.write_bytes(b"\1\0\1")
    assert "odd number of bytes, 3" in refusal(c, path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a plain file" in refusal(c, tmp_path / "pipe")
