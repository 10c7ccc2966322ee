"""Programs as MIL text: what is written, the table of surfaces, files of tensors; two readers find them well typed."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ane_build import Problem
from ane_programs import (
    DIALECTS,
    HARMFUL,
    PROGRAMS,
    SHAPES,
    Blob,
    Simulator,
    Text,
    generate,
    load,
    pieces,
    refusal,
    size,
)

HERE = Path(__file__).parent


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    made = Simulator(load())
    yield made
    made.close()


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_text_is_well_typed_and_obeys_the_rules(simulator: Simulator, shape: str, dialect: str) -> None:
    for name in PROGRAMS:
        assert refusal(simulator, generate(simulator.made, name, SHAPES[shape], dialect)) == ""


@pytest.mark.parametrize("name", PROGRAMS)
def test_parameters_are_named_constants_and_names_are_harmless(name: str) -> None:
    made = load()
    for dialect in DIALECTS:
        text = generate(made, name, SHAPES["rope"], dialect).text
        statements = re.findall(r"^        (\S.*?) (\w+) = (\w+)\((.*?)\)\[name", text, re.M)
        assert len(statements) > 10
        names = [statement[1] for statement in statements]
        assert len(set(names)) == len(names)
        assert not {*names, "packed"} & set(HARMFUL)
        for _, _, operation, arguments in statements:
            assert operation != "cast"
            given = re.findall(r"\w+ = (\([^)]*\)|[^,]+)", arguments)
            assert all(one in {*names, "packed"} for some in given for one in some.strip("()").split(", ")), arguments


def test_the_dialects_differ_in_versions_and_scalars() -> None:
    made = load()
    newer, older = (generate(made, "sdpaBwd1", SHAPES["small"], dialect).text for dialect in DIALECTS)
    assert newer.startswith("program(1.3)\n[buildInfo = dict<string, string>({{")
    assert "    func main<ios18>(tensor<fp16, [1, 512, 1, 128]> packed) {\n" in newer
    assert 'bool yes = const()[name = string("yes"), val = bool(true)];' in newer
    assert older.startswith("program(1.0)\n[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{")
    assert "    func main<ios16>(tensor<fp16, [1, 512, 1, 128]> packed) {\n" in older
    assert 'tensor<bool, []> yes = const()[name = tensor<string, []>("yes"), val = tensor<bool, []>(true)];' in older
    assert re.search(r"[^<]\b(bool|string|fp16|int32|uint64) \w+ =", older) is None
    for text in (newer, older):
        assert text.isascii()


def test_alpha_and_the_scores_scale_are_in_the_texts() -> None:
    made = load()
    alpha = float(np.float16(1 / np.sqrt(2 * 6)))
    scale = float(np.float16(1 / np.sqrt(64)))
    assert f"val = fp16({alpha!r})" in generate(made, "ffnFused", SHAPES["full"]).text
    for name in ("sdpaWoFwd", "sdpaBwd1", "sdpaBwd2"):
        assert f"val = fp16({scale!r})" in generate(made, name, SHAPES["full"]).text


# The table of what lies where.


def test_surfaces_at_full_size() -> None:
    made, found = load(), {}
    for name in PROGRAMS:
        sizes = (size(made, name, side, SHAPES["full"]) for side in ("input", "output"))
        found[name] = [rows * columns * 2 / 2**20 for rows, columns in sizes]
    assert found == {
        "sdpaWoFwd": [5.25, 3.75],
        "ffnFused": [10.5, 6.75],
        "ffnBwdW2t": [3.75, 2.0],
        "ffnBwdW13t": [10.0, 0.75],
        "wotBwd": [1.875, 0.75],
        "sdpaBwd1": [3.0, 12.75],
        "sdpaBwd2": [13.5, 1.5],
        "qkvBwd": [5.625, 0.75],
    }


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_pieces_fill_a_surface_without_overlap(name: str, side: str) -> None:
    made, shape = load(), SHAPES["middle"]
    covered = np.zeros(size(made, name, side, shape), int)
    for _, area in pieces(made, name, side, shape).values():
        covered[area.channel : area.channel + area.rows, area.column : area.column + area.columns] += 1
    assert (covered == 1).all()


def test_a_piece_is_written_and_read_where_the_table_says() -> None:
    made, rng = load(), np.random.default_rng(1)
    pool = ctypes.c_void_p(made.pool_new(2))
    for name in PROGRAMS:
        for side in ("input", "output"):
            layout = pieces(made, name, side, SHAPES["middle"])
            rows, columns = size(made, name, side, SHAPES["middle"])
            surface, expected = (np.zeros((rows, columns), np.float16) for _ in range(2))
            for piece, area in layout.values():
                kept = (area.columns, area.rows) if piece.transposed else (area.rows, area.columns)
                values = rng.normal(0, 1, kept).astype(np.float32)
                values[0, 0], values[-1, -1] = np.nan, 1e6
                made.area_write(
                    pool, surface.ctypes.data_as(ctypes.c_void_p), columns, area, piece.transposed,
                    values.ctypes.data_as(ctypes.c_void_p),
                )  # fmt: skip
                with np.errstate(over="ignore"):
                    block = (values.T if piece.transposed else values).astype(np.float16)
                place = (
                    slice(area.channel, area.channel + area.rows),
                    slice(area.column, area.column + area.columns),
                )
                expected[place] = block
                result = np.zeros((area.rows, area.columns), np.float32)
                made.area_read(
                    pool, surface.ctypes.data_as(ctypes.c_void_p), columns, area, result.ctypes.data_as(ctypes.c_void_p)
                )
                np.testing.assert_array_equal(result, block.astype(np.float32))
            np.testing.assert_array_equal(surface, expected)
    made.pool_free(pool)


# Files of tensors.

VALUES = np.array([1.0, -2.5, 65504.0, 6e-8], np.float16)
GOLDEN = bytes.fromhex(
    "01000000 02000000".ljust(17 + 0) + "00" * 56 + "efbeadde 01000000 0800000000000000 8000000000000000" + "00" * 40
) + bytes.fromhex("003c 00c1 ff7b 0100")


def test_a_file_is_the_golden_bytes() -> None:
    made, file = load(), ctypes.create_string_buffer(128 + VALUES.nbytes)
    made.blob_write(file, VALUES.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(VALUES.size))
    assert file.raw == GOLDEN


def read(data: bytes, metadata: int = 64, count: int = 4) -> bytes | str:
    """The halves' bytes, or the sentence."""
    made, problem = load(), Problem()
    kept = ctypes.create_string_buffer(data, max(1, len(data)))
    blob = Blob(b"weights/t.bin", ctypes.cast(kept, ctypes.c_void_p), len(data))
    at = made.blob_halves(ctypes.byref(blob), metadata, count, ctypes.byref(problem))
    return problem.text.decode() if at is None else ctypes.string_at(at, 2 * count)


def changed(at: int, form: str, value: int) -> bytes:
    data = bytearray(GOLDEN)
    struct.pack_into(form, data, at, value)
    return bytes(data)


def test_a_file_is_read_back() -> None:
    assert read(GOLDEN) == VALUES.tobytes()
    # Several tensors: the second one's metadata and data are further on.
    second = GOLDEN + bytes(192 - len(GOLDEN)) + changed(80, "<Q", 256)[64:128] + VALUES[::-1].tobytes()
    assert read(second, metadata=192) == VALUES[::-1].tobytes()


@pytest.mark.parametrize(
    ("data", "metadata", "count", "sentence"),
    [
        (b"", 64, 4, "weights/t.bin is too short for a tensor"),
        (GOLDEN[:127], 64, 4, "weights/t.bin is too short for a tensor"),
        (changed(0, "<I", 0), 64, 4, "weights/t.bin does not begin as a file of tensors"),
        (changed(4, "<I", 1), 64, 4, "weights/t.bin does not begin as a file of tensors"),
        (GOLDEN, 0, 4, "weights/t.bin has no tensor at offset 0"),
        (GOLDEN, 128, 4, "weights/t.bin has no tensor at offset 128"),
        (GOLDEN, 65, 4, "weights/t.bin has no tensor at offset 65"),
        (GOLDEN, 2**64 - 64, 4, "weights/t.bin has no tensor at offset 18446744073709551552"),
        (changed(64, "<I", 0xDEADBEEE), 64, 4, "weights/t.bin has no tensor at offset 64"),
        (changed(68, "<I", 2), 64, 4, "weights/t.bin holds numbers of type 2, not halves"),
        (changed(72, "<Q", 10), 64, 4, "weights/t.bin holds 10 bytes, not 4 halves"),
        (GOLDEN, 64, 3, "weights/t.bin holds 8 bytes, not 3 halves"),
        (changed(80, "<Q", 192), 64, 4, "weights/t.bin ends before the data of its tensor"),
        (changed(80, "<Q", 64), 64, 4, "weights/t.bin ends before the data of its tensor"),
        (changed(80, "<Q", 2**64 - 64), 64, 4, "weights/t.bin ends before the data of its tensor"),
        (GOLDEN[:-1], 64, 4, "weights/t.bin ends before the data of its tensor"),
    ],
    ids=[
        "empty", "short", "no_tensors", "version", "offset_0", "offset_of_data", "offset_odd", "offset_huge",
        "sentinel", "type", "odd_bytes", "other_count", "data_beyond", "data_in_metadata", "data_huge", "cut",
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(data: bytes, metadata: int, count: int, sentence: str) -> None:
    assert read(data, metadata, count) == sentence


def test_the_mask_hides_what_comes_after_the_query() -> None:
    for name in ("sdpaWoFwd", "sdpaBwd1"):
        files = generate(load(), name, SHAPES["middle"]).files
        assert list(files) == ["weights/mask.bin"]
        mask = np.frombuffer(files["weights/mask.bin"], np.float16, offset=128).reshape(256, 256)
        np.testing.assert_array_equal(mask, np.triu(np.full((256, 256), -65504, np.float16), 1))


# Two readers agree.


def store(folder: Path, text: Text) -> Path:
    """As the compiler finds it."""
    (folder / "weights").mkdir(parents=True)
    (folder / "model.mil").write_text(text.text)
    for path, data in text.files.items():
        (folder / path).write_bytes(data)
    return folder


def by_coremltools(*folders: Path) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec("coremltools") is None:
        pytest.skip("coremltools is not installed")
    command = [sys.executable, str(HERE / "mil_coremltools.py"), *map(str, folders)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_coremltools_builds_the_same_program(tmp_path: Path, shape: str, dialect: str) -> None:
    made = load()
    folders = [store(tmp_path / name, generate(made, name, SHAPES[shape], dialect)) for name in PROGRAMS]
    done = by_coremltools(*folders)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(PROGRAMS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        ("[1, 4, 32, 128]", "[1, 4, 128, 32]"),
        ("transpose_y = yes", "transpose_y = no"),
        ("offset = uint64(64)", "offset = uint64(128)"),
    ],
    ids=["shape", "flag", "offset"],
)
def test_coremltools_refuses_what_we_refuse(tmp_path: Path, simulator: Simulator, change: tuple[str, str]) -> None:
    text = generate(simulator.made, "sdpaWoFwd", SHAPES["rope"])
    wrong = Text(text.text.replace(*change), text.files)
    assert wrong.text != text.text
    assert refusal(simulator, wrong) != ""
    assert by_coremltools(store(tmp_path / "wrong", wrong)).returncode != 0
