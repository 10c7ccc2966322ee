"""Checkpoints come back as they were written, or not at all."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ane_build import ANE, Problem, Settings, Shape, program, shared_object
from ane_runs import HEADER, SMALL, read_header, sealed, shared
from ane_tokens import VOCAB, write_tokens
from test_ane_tokens import Tokens

NO_TRAINING, LION, ADAMW = range(3)
WQ, EMBEDDING = 0, -1


class Tensor(ctypes.Structure):
    """struct Tensor."""

    _fields_ = (
        ("name", ctypes.c_char * 24),
        ("group", ctypes.c_int),
        ("rows", ctypes.c_int),
        ("columns", ctypes.c_int),
        *((name, ctypes.POINTER(ctypes.c_float)) for name in ("weight", "gradient", "m", "v")),
    )

    def array(self, name: str) -> np.ndarray:
        """[rows, columns], a view."""
        return np.ctypeslib.as_array(getattr(self, name), (self.rows, self.columns))


class Parameters(ctypes.Structure):
    """struct Parameters."""

    _fields_ = (("shape", Shape), ("count", ctypes.c_int), ("tensors", ctypes.POINTER(Tensor)))

    def arrays(self, name: str) -> list[np.ndarray]:
        return [self.tensors[i].array(name) for i in range(self.count)]


class CheckpointFile(ctypes.Structure):
    """struct CheckpointFile."""

    _fields_ = (("path", ctypes.c_char_p), ("stream", ctypes.c_void_p), ("header", ctypes.c_char * HEADER.itemsize))


TINY = {**SMALL, "dim": 4, "hidden": 6, "heads": 2, "kv_heads": 2, "seq": 8, "layers": 1}


class Store:
    """A folder with a token file, and checkpoints of a tiny model in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.c = shared_object()
        for name in ("parameters_new", "checkpoint_parameters"):
            getattr(self.c, name).restype = ctypes.POINTER(Parameters)
        self.c.parameters_free.argtypes = [ctypes.c_void_p]
        for name in ("open", "matches_settings", "matches_tokens", "save", "probe"):
            getattr(self.c, f"checkpoint_{name}").restype = ctypes.c_bool
        self.c.tokens_open.restype = ctypes.c_bool
        self.path = folder / "model.ckpt"
        write_tokens(folder / "tokens.bin")
        self.problem = Problem()

    def sentence(self) -> str:
        return self.problem.text.decode().replace(str(self.folder) + "/", "")

    def tokens(self, compact: bool = True, name: str = "tokens.bin") -> Tokens:
        tokens, path = Tokens(), os.fsencode(self.folder / name)
        assert self.c.tokens_open(ctypes.byref(tokens), path, VOCAB, compact, ctypes.byref(self.problem))
        return tokens

    def settings(self, **changes: Any) -> Settings:
        values = {**TINY, **changes}
        return Settings(**{k: v.encode() if isinstance(v, str) else v for k, v in values.items()})

    def header(self, settings: Settings, tokens: Tokens, **counted: Any) -> ctypes.Array:
        fields = np.zeros(1, HEADER)
        fields[0]["order"] = (1, 2, 3, 4)
        for name, value in counted.items():
            fields[0][name] = value
        header = ctypes.create_string_buffer(fields.tobytes(), HEADER.itemsize)
        self.c.checkpoint_describe(header, ctypes.byref(settings), ctypes.byref(tokens))
        return header

    def parameters(self, tokens: Tokens, lion: bool = True, seed: int = 7) -> Any:
        """As initialised, but for rows in use, gains and moments, which are random."""
        shape = Shape(*(TINY[name] for name in ("dim", "hidden", "heads", "seq", "layers")), tokens.classes, False)
        made = self.c.parameters_new(ctypes.byref(shape), LION if lion else ADAMW)
        generator = np.random.default_rng(seed)
        for name in ("weight", "m") if lion else ("weight", "m", "v"):
            for array in made.contents.arrays(name):
                array[:] = generator.standard_normal(array.shape)
                if name == "v":
                    array[:] **= 2
        return made

    def save(
        self, path: Path | None = None, lion: bool = True, compact: bool = True, seed: int = 7, **counted: Any
    ) -> Any:
        """Writes a checkpoint and returns its parameters."""
        tokens = self.tokens(compact)
        made = self.parameters(tokens, lion, seed)
        header = self.header(self.settings(lion=lion, vocab_compact=compact), tokens, **counted)
        assert self.write(path or self.path, header, made, tokens), self.sentence()
        return made.contents

    def write(self, path: Path, header: ctypes.Array, parameters: Any, tokens: Tokens) -> bool:
        return self.c.checkpoint_save(
            os.fsencode(path), header, parameters, ctypes.byref(tokens), ctypes.byref(self.problem)
        )

    def load(
        self,
        path: Path | None = None,
        moments: int = LION,
        compact: bool = True,
        tokens: str = "tokens.bin",
        **changes: Any,
    ) -> Parameters | None:
        """The parameters of the file; None with a sentence where it is refused."""
        file, problem, name = CheckpointFile(), ctypes.byref(self.problem), os.fsencode(path or self.path)
        self.problem.text = b""
        if not self.c.checkpoint_open(ctypes.byref(file), name, problem):
            assert not file.stream and self.problem.text
            return None
        opened, settings, made = self.tokens(compact, tokens), self.settings(**changes), None
        if self.c.checkpoint_matches_settings(
            ctypes.byref(file), ctypes.byref(settings), problem
        ) and self.c.checkpoint_matches_tokens(ctypes.byref(file), ctypes.byref(opened), problem):
            made = self.c.checkpoint_parameters(ctypes.byref(file), ctypes.byref(opened), moments, problem)
        self.c.checkpoint_close(ctypes.byref(file))
        self.c.tokens_close(ctypes.byref(opened))
        assert bool(made) != bool(self.problem.text)
        return made.contents if made else None

    def free(self, parameters: Parameters) -> None:
        self.c.parameters_free(ctypes.addressof(parameters))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def equal(a: Parameters, b: Parameters, *names: str) -> bool:
    return all(np.array_equal(x, y) for name in names for x, y in zip(a.arrays(name), b.arrays(name), strict=True))


@pytest.mark.parametrize("lion", [True, False], ids=["lion", "adamw"])
@pytest.mark.parametrize("compact", [True, False], ids=["compact", "whole"])
def test_comes_back_bit_by_bit(store: Store, lion: bool, compact: bool) -> None:
    saved = store.save(lion=lion, compact=compact, updates=3, micro_steps=12, init_seed=2**64 - 1)
    loaded = store.load(moments=LION if lion else ADAMW, compact=compact)
    assert loaded is not None, store.sentence()
    assert equal(saved, loaded, "weight", "m", *([] if lion else ["v"]))
    header = read_header(store.path)
    assert header["magic"] == b"ARKANE01" and header["tensors"] == 9 * TINY["layers"] + 2
    assert (header["updates"], header["micro_steps"], header["init_seed"]) == (3, 12, 2**64 - 1)
    assert header["token_checksum"] == zlib.crc32((store.folder / "tokens.bin").read_bytes())
    dim, hidden = TINY["dim"], TINY["hidden"]
    numbers = 4 * dim * dim + 3 * dim * hidden + 2 * dim + dim + VOCAB * dim
    assert store.path.stat().st_size == HEADER.itemsize + 4 * numbers * (2 if lion else 3) + 4
    assert not store.path.with_suffix(".ckpt.part").exists()


def test_rows_of_unused_tokens_are_as_initialised(store: Store) -> None:
    saved = store.save(init_seed=5)
    tokens = store.tokens()
    used = tokens.token_of[: tokens.classes]
    loaded = store.load(compact=False)
    row = (ctypes.c_float * TINY["dim"])()
    table, moments = loaded.arrays("weight")[EMBEDDING], loaded.arrays("m")[EMBEDDING]
    assert np.array_equal(table[used], saved.arrays("weight")[EMBEDDING])
    for token in (0, 1, 77, VOCAB - 1, *np.setdiff1d(np.arange(0, VOCAB, 411), used)):
        if token not in used:
            store.c.embedding_row(row, TINY["dim"], ctypes.c_uint64(5), int(token))
            assert table[token].tolist() == list(row) and not moments[token].any()


def test_compaction_may_change_both_ways(store: Store) -> None:
    whole = store.save(compact=False)
    tokens = store.tokens()
    used = tokens.token_of[: tokens.classes]
    compact = store.load(compact=True)
    assert np.array_equal(whole.arrays("weight")[EMBEDDING][used], compact.arrays("weight")[EMBEDDING])
    assert np.array_equal(whole.arrays("m")[EMBEDDING][used], compact.arrays("m")[EMBEDDING])


@pytest.mark.parametrize("lion", [True, False], ids=["from-lion", "from-adamw"])
def test_another_optimizer_keeps_weights_and_begins_its_moments_at_zero(store: Store, lion: bool) -> None:
    saved = store.save(lion=lion)
    loaded = store.load(moments=ADAMW if lion else LION, lion=not lion)
    assert equal(saved, loaded, "weight")
    assert not any(array.any() for name in (["m", "v"] if lion else ["m"]) for array in loaded.arrays(name))


def test_an_evaluation_needs_no_moments(store: Store) -> None:
    saved = store.save()
    loaded = store.load(moments=NO_TRAINING)
    assert equal(saved, loaded, "weight") and not loaded.tensors[0].m and not loaded.tensors[0].gradient


def test_every_flipped_bit_is_found(store: Store) -> None:
    store.save()
    whole = store.path.read_bytes()
    randoms = random.Random(1)
    places = [
        *range(HEADER.itemsize),
        *(randoms.randrange(len(whole)) for _ in range(150)),
        *range(len(whole) - 4, len(whole)),
    ]
    with open(store.path, "r+b", buffering=0) as file:
        for place in places:
            os.pwrite(file.fileno(), bytes([whole[place] ^ 1 << randoms.randrange(8)]), place)
            assert store.load() is None, place
            if 12 <= place < HEADER.itemsize:  # before anything is sized by it
                assert "the checksum of its header is wrong" in store.sentence()
            os.pwrite(file.fileno(), whole[place : place + 1], place)
    assert store.load() is not None


def test_truncated_and_longer_files_are_refused(store: Store) -> None:
    store.save()
    whole = store.path.read_bytes()
    for length in (
        0,
        1,
        8,
        12,
        HEADER.itemsize - 1,
        HEADER.itemsize,
        HEADER.itemsize + 1,
        len(whole) // 2,
        len(whole) - 1,
    ):
        store.path.write_bytes(whole[:length])
        assert store.load() is None, length
        assert ("shorter than a header" if length < HEADER.itemsize else "and its header says") in store.sentence()
    store.path.write_bytes(whole + b"\0")
    assert store.load() is None and "damaged" in store.sentence()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "magic": ({"magic": b"ARKANE02"}, "is no checkpoint of this trainer"),
    "version": ({"version": 2}, "has version 2 of the format, and this trainer reads version 1"),
    "tensors": ({"tensors": 12}, "values that no training has"),
    "digest": ({"architecture": b"0123456789abcdeX"}, "not 16 hexadecimal digits"),
    "other-digest": ({"architecture": b"f123456789abcdef"}, "of another architecture"),
    "dim-0": ({"dim": 0}, "dim is 0"),
    "dim-negative": ({"dim": -4}, "dim is -4"),
    "dim-huge": ({"dim": 2**31 - 1}, "dim is 2147483647"),
    "hidden-huge": ({"hidden": 2**30}, "hidden is 1073741824"),
    "heads-0": ({"heads": 0, "kv_heads": 0}, "heads is 0"),
    "heads-3": ({"heads": 3, "kv_heads": 3}, "the same even number"),
    "kv-heads": ({"kv_heads": 1}, "must be equal"),
    "seq-huge": ({"seq": 2**31 - 1}, "seq is 2147483647"),
    "seq-0": ({"seq": 0}, "seq is 0"),
    "layers-0": ({"layers": 0}, "layers is 0"),
    "layers-huge": ({"layers": 2**31 - 1, "tensors": 5}, "layers is 2147483647"),
    "all-largest": ({"dim": 4096, "hidden": 16384, "layers": 64, "seq": 1024, "tensors": 578}, "is too large"),
    "other-dim": ({"dim": 8}, "and its header says"),
    "other-seq": ({"seq": 16}, "of another architecture"),
    "vocab": ({"vocab": 16000}, "values that no training has"),
    "rope-2": ({"rope": 2}, "values that no training has"),
    "rope": ({"rope": 1}, "of another architecture"),
    "compact-2": ({"compact": 256}, "values that no training has"),
    "lion-2": ({"lion": -1}, "values that no training has"),
    "lion": ({"lion": 0}, "and its header says"),
    "softcap": ({"softcap": 0.0}, "values that no training has"),
    "softcap-nan": ({"softcap": np.nan}, "values that no training has"),
    "max-act": ({"max_act": -1.0}, "values that no training has"),
    "loss-scale": ({"loss_scale": np.inf}, "values that no training has"),
    "updates": ({"updates": -1}, "values that no training has"),
    "micro-steps": ({"micro_steps": 2**62}, "values that no training has"),
    "skipped": ({"skipped": -(2**63)}, "values that no training has"),
    "cycles": ({"cycles": -1}, "values that no training has"),
    "moments": ({"moment_updates": -1}, "values that no training has"),
    "moments-more": ({"updates": 3, "moment_updates": 4}, "values that no training has"),
    "order": ({"order": (0, 0, 0, 0)}, "values that no training has"),
    "seconds": ({"train_seconds": -1.0}, "values that no training has"),
    "average": ({"loss_average": np.nan}, "values that no training has"),
    "token-count": ({"token_count": 19_999}, "from another token file or tokenizer"),
    "token-checksum": ({"token_checksum": 1}, "from another token file or tokenizer"),
}


@pytest.mark.parametrize("case", WRONG)
def test_each_field_of_the_header_is_checked_though_checksums_are_right(store: Store, case: str) -> None:
    changes, sentence = WRONG[case]
    store.save()
    store.path.write_bytes(sealed(store.path.read_bytes(), **changes))
    assert store.load() is None
    assert sentence in store.sentence()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "minus-inf"])
def test_numbers_that_are_not_finite_are_neither_read_nor_written(store: Store, value: float) -> None:
    store.save()
    whole = bytearray(store.path.read_bytes())
    whole[HEADER.itemsize + 400 : HEADER.itemsize + 404] = np.float32(value).tobytes()
    store.path.write_bytes(sealed(bytes(whole)))
    assert store.load() is None and "not finite" in store.sentence()
    store.path.unlink()
    tokens = store.tokens()
    parameters = store.parameters(tokens)
    parameters.contents.arrays("m")[WQ][1, 2] = value
    assert not store.write(store.path, store.header(store.settings(), tokens), parameters, tokens)
    assert "not finite" in store.sentence()
    assert [path.name for path in store.folder.iterdir()] == ["tokens.bin"]


def test_a_negative_second_moment_is_refused(store: Store) -> None:
    store.save(lion=False)
    whole = bytearray(store.path.read_bytes())
    whole[-8:-4] = np.float32(-1).tobytes()
    store.path.write_bytes(sealed(bytes(whole)))
    assert store.load(moments=ADAMW, lion=False) is None


def test_from_another_token_file(store: Store) -> None:
    store.save()
    write_tokens(store.folder / "other.bin", seed=1)
    assert store.load(tokens="other.bin") is None
    assert store.sentence() == "the checkpoint model.ckpt is from another token file or tokenizer"


def test_files_that_are_none(store: Store) -> None:
    assert store.load() is None and "No such file" in store.sentence()
    store.save()
    (store.folder / "link").symlink_to(store.path)
    assert store.load(store.folder / "link") is None and "symbolic link" in store.sentence()
    assert store.load(store.folder) is None and "not a plain file" in store.sentence()
    assert store.load(Path("/dev/zero")) is None and "not a plain file" in store.sentence()
    os.mkfifo(store.folder / "pipe")
    assert store.load(store.folder / "pipe") is None and "not a plain file" in store.sentence()


def test_what_is_not_a_plain_file_is_not_replaced(store: Store) -> None:
    tokens = store.tokens()
    header, parameters = store.header(store.settings(), tokens), store.parameters(tokens)
    (store.folder / "there").mkdir()
    (store.folder / "link").symlink_to("there")
    needed = ctypes.c_double()
    for name in ("there", "link"):
        assert not store.write(store.folder / name, header, parameters, tokens)
        assert "not a plain file" in store.sentence()
        assert not store.c.checkpoint_probe(
            os.fsencode(store.folder / name), ctypes.c_int64(10), ctypes.byref(needed), ctypes.byref(store.problem)
        )
    assert not store.write(store.folder / "none" / "x", header, parameters, tokens)
    assert "No such file" in store.sentence()
    assert sorted(path.name for path in store.folder.iterdir()) == ["link", "there", "tokens.bin"]


def test_the_probe_leaves_nothing_and_knows_the_room(store: Store) -> None:
    needed, problem = ctypes.c_double(), ctypes.byref(store.problem)
    path = os.fsencode(store.path)
    assert store.c.checkpoint_probe(path, ctypes.c_int64(100_000), ctypes.byref(needed), problem)
    assert needed.value > 0
    assert not store.c.checkpoint_probe(path, ctypes.c_int64(2**60), ctypes.byref(needed), problem)
    assert "and its disk has" in store.sentence()
    assert [path.name for path in store.folder.iterdir()] == ["tokens.bin"]


# Saves checkpoints of 4 MB over one another until it is killed: every weight of round r is r.
WRITER = r"""
#include <stdio.h>
#include "checkpoint.h"
int main(int argc, char **argv) {
    struct Problem p;
    struct Tokens tokens;
    struct Settings settings = {.dim = 16, .hidden = 16, .heads = 1, .kv_heads = 1, .seq = 8, .layers = 1,
                                .architecture = "0123456789abcdef", .lion = true, .softcap = 1, .loss_scale = 1};
    if (argc != 4 || !tokens_open(&tokens, argv[1], VOCAB, true, &p)) return 2;
    struct Checkpoint header = {.order = {{1, 2, 3, 4}}};
    checkpoint_describe(&header, &settings, &tokens);
    struct Shape shape = checkpoint_shape(&header, &tokens);
    struct Parameters *parameters = parameters_new(&shape, LION);
    for (int round = 1; round <= argv[3][0] - '0' || argv[3][0] == '0'; ++round) {
        for (int t = 0; t < parameters->count; ++t)
            for (int i = 0; i < parameters->tensors[t].rows * parameters->tensors[t].columns; ++i)
                parameters->tensors[t].weight[i] = (real)round;
        header.updates = round;
        if (!checkpoint_save(argv[2], &header, parameters, &tokens, &p)) {
            fprintf(stderr, "%s\n", p.text);
            return 1;
        }
        printf("%d\n", round);
        fflush(stdout);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writer")
    (folder / "writer.c").write_text(WRITER)
    return program(folder / "writer.c", shared(), flags=[f"-I{ANE}"])


def test_killed_while_saving_leaves_the_old_or_the_new_one(store: Store, writer: Path) -> None:
    randoms = random.Random(2)
    for _ in range(8):
        with subprocess.Popen(
            [writer, store.folder / "tokens.bin", store.path, "0"], stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdout
            for _ in range(randoms.randrange(1, 4)):
                running.stdout.readline()
            try:
                running.wait(timeout=randoms.random() * 0.02)
            except subprocess.TimeoutExpired:
                running.send_signal(signal.SIGKILL)
            finished = [int(line) for line in running.stdout.read().split()]
        last = finished[-1] if finished else 1
        header = read_header(store.path)
        loaded = store.load(dim=16, hidden=16, heads=1, kv_heads=1)
        assert loaded is not None, store.sentence()
        assert header["updates"] >= last
        assert {float(x) for array in loaded.arrays("weight") for x in array.flat} == {float(header["updates"])}
        store.free(loaded)


def test_the_next_save_removes_what_a_killed_one_left(store: Store, writer: Path) -> None:
    (store.folder / "model.ckpt.part").write_bytes(b"half")
    subprocess.run([writer, store.folder / "tokens.bin", store.path, "1"], check=True, capture_output=True)
    assert sorted(path.name for path in store.folder.iterdir()) == ["model.ckpt", "tokens.bin"]


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(store: Store, writer: Path) -> None:
    (store.folder / "precious").write_text("mine")
    (store.folder / "model.ckpt.part").symlink_to("precious")
    subprocess.run([writer, store.folder / "tokens.bin", store.path, "1"], check=True, capture_output=True)
    assert (store.folder / "precious").read_text() == "mine" and not store.path.is_symlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_file(store: Store, writer: Path, small_disk: Path) -> None:
    path = small_disk / "model.ckpt"
    done = subprocess.run([writer, store.folder / "tokens.bin", path, "3"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "1\n"
    assert done.stderr == f"cannot write the checkpoint {path}: No space left on device\n"
    assert [entry.name for entry in small_disk.iterdir()] == ["model.ckpt"]
    assert read_header(path)["updates"] == 1
    loaded = store.load(path, dim=16, hidden=16, heads=1, kv_heads=1)
    assert loaded is not None, store.sentence()


def test_a_file_that_may_not_grow_so_large(store: Store, writer: Path) -> None:
    done = subprocess.run(
        [
            "sh",
            "-c",
            'trap "" XFSZ; ulimit -f 1000; exec "$@"',
            "sh",
            writer,
            store.folder / "tokens.bin",
            store.path,
            "1",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "File too large" in done.stderr
    assert [path.name for path in store.folder.iterdir()] == ["tokens.bin"]
