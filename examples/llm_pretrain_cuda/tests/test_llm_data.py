"""Data sets: packing, the reading side, making, resuming, downloading, and what bad input gets."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import pytest
from cuda_modules import EXAMPLE, load
from hypothesis import given, settings
from hypothesis import strategies as st

data, download, prepare = load("data"), load("download"), load("prepare")
stories = load("stories")

SMALL = ["--vocab-size", "512", "--sequence-length", "64"]
SYNTHETIC = ["synthetic", "--name", "small", *SMALL, "--stories", "900", "--val-tokens", "4096"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARK_CACHE", str(tmp_path / "cache"))
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set, made once; tests read it or damage a copy."""
    cache = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "PART_DOCUMENTS", 2400)  # three training parts of 300 stories
        assert prepare.main([*SYNTHETIC, "--workers", "1", "--cache", str(cache)]) == 0
    return cache / "llm" / "small"


@pytest.fixture
def small(original: Path, cache: Path) -> Path:
    """A copy of it, in the cache folder of this test."""
    return Path(shutil.copytree(original, cache / "llm" / "small"))


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def process(*arguments: str, before: str = "", **options: Any) -> subprocess.Popen[str]:
    """prepare.py as a process of its own, after the statements of `before`."""
    code = f"import sys, prepare\n{before}\nif __name__ == '__main__': sys.exit(prepare.main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=EXAMPLE, stdout=-1, stderr=-1, text=True, **options
    )


# ----------------------------------------------------------------------------------------------------------------------
# Packing


def plain_pack(texts: list[list[int]], length: int, bos: int, buffer: int) -> list[list[int]]:
    """The rule of `pack` in its plainest form: a list that is searched from end to end each time."""
    incoming, waiting, rows, row, rest = list(texts), [], [], [], None
    while True:
        while len(waiting) < buffer and incoming:
            waiting.append([bos, *incoming.pop(0)])
        if rest is not None:
            piece, rest = [bos, *rest], None
        elif waiting:
            fitting = [text for text in waiting if len(text) <= length - len(row)]
            piece = max(fitting, key=len) if fitting else min(waiting, key=len)  # the first of equals, so the oldest
            waiting = [text for text in waiting if text is not piece]
        else:
            return [*rows, row] if row else rows
        room = length - len(row)
        row, rest = row + piece[:room], piece[room:] or None
        if len(row) == length:
            rows, row = [*rows, row], []


@st.composite
def packings(draw: st.DrawFn) -> tuple[list[list[int]], int, int]:
    sizes = draw(st.lists(st.integers(1, 30), max_size=40))
    numbers = iter(range(1, 10_000))  # every token another number, so that each can be found again; BOS is 0
    return [[next(numbers) for _ in range(n)] for n in sizes], draw(st.integers(2, 24)), draw(st.integers(1, 12))


@given(packings())
@settings(deadline=None, max_examples=300)
def test_packing_fills_rows_and_loses_nothing(case: tuple[list[list[int]], int, int]) -> None:
    texts, length, buffer = case
    arrays = [np.array(text, np.uint16) for text in texts]
    rows = [row.tolist() for row in prepare.pack(iter(arrays), length, 0, buffer)]
    assert all(len(row) == length for row in rows[:-1])
    assert all(row[0] == 0 for row in rows)
    pieces: list[list[int]] = []
    for row in rows:
        for token in row:
            pieces.append([]) if token == 0 else pieces[-1].append(token)
    at = {token: (i, k) for i, text in enumerate(texts) for k, token in enumerate(text)}
    seen: dict[int, int] = dict.fromkeys(range(len(texts)), 0)
    for piece in pieces:
        if piece:
            document, start = at[piece[0]]
            assert start == seen[document]  # pieces of a document come in order, none twice
            assert piece == texts[document][start : start + len(piece)]
            seen[document] += len(piece)
    assert seen == {i: len(text) for i, text in enumerate(texts)}


@given(packings())
@settings(deadline=None, max_examples=300)
def test_packing_chooses_as_a_plain_search_would(case: tuple[list[list[int]], int, int]) -> None:
    texts, length, buffer = case
    arrays = [np.array(text, np.uint16) for text in texts]
    rows = [row.tolist() for row in prepare.pack(iter(arrays), length, 0, buffer)]
    assert rows == plain_pack(texts, length, 0, buffer)


def test_packing_takes_the_longest_that_fits_and_cuts_the_shortest() -> None:
    texts = [np.full(n, n, np.uint16) for n in (3, 9, 5, 6)]
    rows = [row.tolist() for row in prepare.pack(iter(texts), 10, 0)]
    assert rows == [
        [0, 9, 9, 9, 9, 9, 9, 9, 9, 9],
        [0, 6, 6, 6, 6, 6, 6, 0, 3, 3],  # three are left: nothing fits, the shortest is cut
        [0, 3, 0, 5, 5, 5, 5, 5],  # its rest begins the next row
    ]


# ----------------------------------------------------------------------------------------------------------------------
# Tokenizer


def test_token_bytes_are_raw_lengths_also_of_tokens_that_are_no_text(tmp_path: Path) -> None:
    text = "Das Öl, 北京, naïve, 🙂🙂, 12345 and another one, or two. " * 50
    path = tmp_path / "tokenizer.json"
    path.write_bytes(prepare.train_tokenizer([text], 300))
    encoding = prepare.load_encoding(path)
    ranks, specials = data.parse_tokenizer(path.read_bytes(), path)
    table = data.token_bytes_of(ranks, len(specials))
    assert len(table) == encoding.n_vocab == 300
    assert table[:296].tolist() == [len(encoding.decode_single_token_bytes(i)) for i in range(296)]
    assert table[296:].tolist() == [0, 0, 0, 0]
    broken = [i for i in range(296) if "�" in encoding.decode([i])]
    assert len(broken) >= 128  # lone bytes, which decode to three
    sample = "Öl in 北京 🙂 \n\n 77 <|reserved_0|> isn't"
    ids = encoding.encode_to_numpy(sample, disallowed_special=())
    assert table[ids].sum() == len(sample.encode())
    assert encoding.decode(ids) == sample
    assert ids.max() < 296  # what looks like a special token in a text is text
    assert encoding.encode_single_token("<|reserved_0|>") == 296


@pytest.mark.slow
def test_the_tokenizer_is_json_and_the_same_in_every_process(small: Path, tmp_path: Path) -> None:
    stored = json.loads((small / "tokenizer.json").read_bytes())
    assert stored["special_tokens"] == ["<|reserved_0|>", "<|reserved_1|>", "<|reserved_2|>", "<|reserved_3|>"]
    assert len(stored["ranks"]) == 508
    assert [base64.b64decode(token) for token in stored["ranks"][:256]] == [bytes([i]) for i in range(256)]
    code = (
        "import hashlib, prepare, stories; texts = (stories.generate(1, i)[0] for i in range(800));"
        "print(hashlib.sha256(prepare.train_tokenizer(texts, 700)).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=EXAMPLE, env={"RAYON_NUM_THREADS": n, "PYTHONHASHSEED": n}, stdout=-1
        ).stdout
        for n in ("1", "2", "5")
    ]
    assert len(runs[0]) == 65
    assert set(runs) == {runs[0]}


def test_a_text_with_too_few_words_says_what_vocabulary_it_gives(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(prepare.DataError, match=r"too few different words for 600 tokens.*\nhint: --vocab-size 3\d\d"):
        prepare.train_tokenizer([" ".join(stories.generate(1, 0)[0].split()[:30])], 600)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ([], "There is no text to train on: 0 characters"),
        (["a" * 100] * 30, "There is nearly no text to train on: 3000 characters, in which 8 tokens"),
        (["hello world"] * 500, "There is nearly no text to train on: 5500 characters, in which 9 tokens"),
    ],
    ids=["none", "one-letter", "one-line"],
)
def test_next_to_no_text_is_said_and_no_tiny_vocabulary_suggested(texts: list[str], sentence: str) -> None:
    with pytest.raises(prepare.DataError, match=sentence) as caught:
        prepare.train_tokenizer(texts, 600)
    assert "\nhint: give more text" in str(caught.value)
    assert "--vocab-size" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------------------------
# Reading


def test_bits_per_byte_of_a_hand_computed_case() -> None:
    assert data.bits_per_byte(3 * np.log(2), 6) == pytest.approx(0.5)


def test_the_cache_folder_is_the_flag_or_the_environment_or_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare.cache_folder("/flag") == Path("/flag")
    monkeypatch.setenv("ARK_CACHE", "/environment")
    assert prepare.cache_folder() == Path("/environment")
    monkeypatch.delenv("ARK_CACHE")
    assert prepare.cache_folder() == Path.home() / ".cache" / "ark-data"


def test_a_cache_folder_in_a_home_that_nobody_has_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ARK_CACHE", "~nosuchuser/x")
    assert prepare.main(SYNTHETIC) == 1
    said = capsys.readouterr().err
    assert said.startswith("prepare.py: ~nosuchuser/x cannot be found")
    assert "hint: export ARK_CACHE=" in said


def test_reading_a_data_set_imports_numpy_and_no_other_library(small: Path) -> None:
    """Training and evaluation start with it, and a copy of it serves where there is no torch."""
    code = "import sys, data; data.open_dataset('small'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=EXAMPLE, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert {"data", "numpy"} <= loaded
    assert not loaded & {"torch", "pyarrow", "tiktoken", "rustbpe", "huggingface_hub", "tqdm", "requests", "yaml"}


def test_the_contents_of_a_data_set_are_the_stories(small: Path) -> None:
    """Rows decode to the stories, tokens and bytes add up to the manifest, and the floor is that of the documents."""
    dataset = prepare.open_dataset("small")
    encoding = prepare.load_encoding(small / "tokenizer.json")
    assert (dataset.vocab_size, dataset.sequence_length, dataset.bos_id) == (512, 64, 508)
    for split, start in (("val", 0), ("holdout", 10_000_000), ("train", 20_000_000)):
        facts = dataset.manifest["splits"][split]
        told = [stories.generate(0, start + i) for i in range(facts["documents"])]
        rows = dataset.rows(split)
        assert len(rows) == facts["rows"] == sum(shard["rows"] for shard in facts["shards"])
        tokens = rows[:]
        assert tokens.dtype == np.uint16
        assert tokens.shape == (facts["rows"], 65)
        assert (tokens[:, 0] == 508).all()
        assert facts["text_bytes"] == sum(len(text) for text, _ in told)
        assert facts["tokens"] == sum(len(encoding.encode(text)) + 1 for text, _ in told)
        pieces = b"".join(encoding.decode_bytes(row) for row in tokens.tolist()).split(b"<|reserved_0|>")
        everything = "\n".join(text for text, _ in told).encode()
        assert all(piece in everything for piece in pieces)
        assert 0 <= facts["text_bytes"] - sum(map(len, pieces)) < 6 * facts["left_over_tokens"] + 1
        if split != "train":
            assert facts["rows"] == 64  # 4096 tokens of 64
            exact = sum(bits for _, bits in told) / sum(len(text) for text, _ in told)
            assert dataset.floor[split] == pytest.approx(exact, rel=1e-6)
    assert "train" not in dataset.floor
    assert len(dataset.manifest["splits"]["train"]["shards"]) == 3


def test_the_bytes_of_a_small_data_set_do_not_drift(small: Path) -> None:
    """Other bytes are other data: numbers measured on them cannot be compared. Must be meant, and noted in LOG.md."""
    manifest = json.loads((small / "manifest.json").read_bytes())
    shards = [shard for split in ("train", "val", "holdout") for shard in manifest["splits"][split]["shards"]]
    listed = {file["file"]: file["sha256"] for file in [manifest["tokenizer"], *shards]}
    assert listed == {name: digest for name, digest in hashes(small).items() if name != "manifest.json"}
    assert (
        hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
        == "a9e5c91670e377d54ad2a3249048c142979a4928f3da2990c41388a039ab3a97"
    )


def plain_rows(dataset: Any, split: str) -> np.ndarray:
    shards = dataset.manifest["splits"][split]["shards"]
    data = b"".join((dataset.folder / shard["file"]).read_bytes() for shard in shards)
    return np.frombuffer(data, "<u2").reshape(-1, dataset.sequence_length + 1)


def test_rows_are_those_of_the_shards_in_any_order(small: Path) -> None:
    dataset = prepare.open_dataset("small")
    rows, plain = dataset.rows("train"), plain_rows(dataset, "train")
    assert len(rows) == len(plain)
    chosen = np.random.default_rng(0).integers(0, len(rows), 500)
    assert (rows[chosen] == plain[chosen]).all()
    assert (rows[5:40:7] == plain[5:40:7]).all()
    assert rows[3:3].shape == (0, 65)
    for outside in (-1, len(rows)):
        with pytest.raises(IndexError):
            rows[np.array([0, outside])]
    with pytest.raises(prepare.DataError, match="no split 'test'"):
        dataset.rows("test")


def test_a_stream_gives_each_row_once_an_epoch_in_an_order_of_the_seed(small: Path) -> None:
    dataset = prepare.open_dataset("small")
    rows, plain = dataset.rows("val"), plain_rows(dataset, "val")
    assert len(rows) == 64

    def epochs(seed: int, batch: int = 24) -> np.ndarray:
        stream = data.Stream(rows, batch, seed)
        return np.concatenate([stream.next() for _ in range(8)])  # 192 rows: three epochs, batches across their borders

    first = epochs(1)
    in_order = sorted(map(bytes, plain))
    for epoch in range(3):
        assert sorted(map(bytes, first[64 * epoch : 64 * epoch + 64])) == in_order
    assert (first == epochs(1)).all()
    assert not (first[:64] == epochs(2)[:64]).all()
    assert not (first[:64] == first[64:128]).all()
    assert not (first[:64] == plain).all()


def test_a_stream_knows_its_epoch_and_goes_on_from_a_position(small: Path) -> None:
    rows = prepare.open_dataset("small").rows("val")
    stream = data.Stream(rows, 32, 9)
    assert stream.epoch == 1
    seen = []
    for _ in range(5):
        stream.next()
        seen.append(stream.epoch)
    assert seen == [1, 1, 2, 2, 3]
    other = data.Stream(rows, 32, 9)
    other.position = stream.position
    out = np.empty((32, 65), np.int64)
    assert other.next(out) is out
    assert (out == stream.next()).all()
    with pytest.raises(ValueError, match="at least 1"):
        data.Stream(rows, 0, 9)


def test_the_order_of_a_stream_does_not_drift() -> None:
    rows = data.Rows([np.arange(20, dtype=np.uint16).reshape(10, 2)])
    stream = data.Stream(rows, 10, seed=42)
    assert (stream.next()[:, 0] // 2).tolist() == [4, 9, 5, 3, 0, 2, 7, 1, 6, 8]
    assert (stream.next()[:, 0] // 2).tolist() == [9, 6, 0, 7, 2, 5, 1, 4, 8, 3]


def test_a_data_set_that_is_not_there_names_the_command_that_makes_it(cache: Path) -> None:
    for name, command in (("stories", "synthetic --name stories"), ("climbmix", "climbmix")):
        with pytest.raises(prepare.DataError, match=f"no data set '{name}'(.|\n)*hint: python prepare.py {command}"):
            prepare.open_dataset(name)


def damage_truncate(folder: Path) -> None:
    with (folder / "train-00001.bin").open("r+b") as file:
        file.truncate(130)


def damage_bit(folder: Path) -> None:
    content = bytearray((folder / "val.bin").read_bytes())
    content[777] ^= 4
    (folder / "val.bin").write_bytes(content)


def damage_missing(folder: Path) -> None:
    (folder / "holdout.bin").unlink()


def damage_tokenizer(folder: Path) -> None:
    stored = json.loads((folder / "tokenizer.json").read_bytes())
    stored["ranks"][300], stored["ranks"][301] = stored["ranks"][301], stored["ranks"][300]
    (folder / "tokenizer.json").write_text(json.dumps(stored, indent=0) + "\n")


def damage_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:-200])


def damage_other_format(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"format": 1', '"format": 99'))


def damage_path(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"val.bin"', '"../../val.bin"'))


def damage_rows(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["val"]["shards"][0]["rows"] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest))


def damage_type(folder: Path) -> None:
    (folder / "manifest.json").write_text("[1, 2]")


DAMAGE = {
    damage_truncate: r"train-00001.bin has 130 bytes instead of \d+",
    damage_bit: r"val.bin has been altered",
    damage_missing: r"holdout.bin cannot be read",
    damage_tokenizer: r"tokenizer.json is not the one",
    damage_manifest: r"manifest.json cannot be read",
    damage_other_format: r"has format 99",
    damage_path: r"contradicts itself",
    damage_rows: r"contradicts itself",
    damage_type: r"cannot be read as a manifest",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_named_and_nothing_is_opened(
    small: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(small)
    with pytest.raises(prepare.DataError, match=DAMAGE[damage]):
        prepare.open_dataset("small")
    assert prepare.main(["synthetic", "--name", "small", "--verify"]) == 1
    said = capsys.readouterr().err
    assert re.search(DAMAGE[damage], said)
    assert "hint: " in said
    assert "Traceback" not in said


def test_verify_names_every_damaged_file_and_the_command_that_repairs(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(["synthetic", "--name", "small", "--verify"]) == 0
    assert "every file is as the manifest says" in capsys.readouterr().err
    damage_truncate(small)
    damage_bit(small)
    assert prepare.main(["synthetic", "--name", "small", "--verify"]) == 1
    said = capsys.readouterr().err
    assert "train-00001.bin" in said
    assert "val.bin" in said
    command = said.partition("hint: python prepare.py ")[2].split()
    assert prepare.main([*command, "--workers", "1"]) == 0
    assert prepare.main(["synthetic", "--name", "small", "--verify"]) == 0


# ----------------------------------------------------------------------------------------------------------------------
# Making


def test_the_same_arguments_again_change_nothing_and_others_are_named(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(small)
    assert prepare.main(SYNTHETIC) == 0
    assert "exists already, made with the same arguments" in capsys.readouterr().err
    assert prepare.main([*SYNTHETIC, "--sequence-length", "32"]) == 1
    said = capsys.readouterr().err
    assert "made with sequence length 64, not 32" in said
    assert "--force" in said
    assert hashes(small) == before
    assert prepare.main([*SYNTHETIC, "--sequence-length", "32", "--force", "--workers", "1"]) == 0
    assert prepare.open_dataset("small").sequence_length == 32
    assert sorted(path.name for path in small.parent.iterdir()) == [".small.lock", "small"]


@pytest.mark.parametrize("there", [True, False], ids=["whole", "dangling"])
def test_a_data_set_that_is_a_link_is_read_but_not_replaced(
    small: Path, tmp_path: Path, there: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    far = tmp_path / "far"
    small.rename(far) if there else shutil.rmtree(small)
    small.symlink_to(far)
    if there:
        assert prepare.main(SYNTHETIC) == 0
        before = hashes(far)
        assert prepare.main([*SYNTHETIC, "--force", "--workers", "1"]) == 1
        assert hashes(far) == before
    else:
        assert prepare.main(SYNTHETIC) == 1
    assert f"{small} is a link to {far}, and only a folder is replaced.\nhint: rm " in capsys.readouterr().err
    assert sorted(path.name for path in small.parent.iterdir()) == [".small.lock", "small"]


@pytest.mark.slow
def test_what_is_left_of_a_replaced_data_set_is_removed_or_said(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    again = [*SYNTHETIC, "--force", "--workers", "1"]
    replaced = small.with_name("small.replaced")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "kept").write_text("")
    replaced.symlink_to(tmp_path / "far")
    assert prepare.main(again) == 0
    assert (tmp_path / "far" / "kept").exists()  # the link is gone, not what it led to
    assert not replaced.is_symlink()
    capsys.readouterr()
    real = shutil.rmtree

    def fails(path: Any, *rest: Any, **options: Any) -> None:
        if Path(path) == replaced:
            raise PermissionError(13, "Permission denied", str(path))
        real(path, *rest, **options)

    monkeypatch.setattr(shutil, "rmtree", fails)
    assert prepare.main(again) == 0
    said = capsys.readouterr().err
    assert f"warning: the data set that was replaced is still in {replaced} (Permission denied)\nhint: rm -r " in said
    assert prepare.main(again) == 1  # nothing can be put aside while this is in the way
    assert f"Permission denied ({replaced})" in capsys.readouterr().err


def test_two_at_once_is_refused(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / "llm").mkdir(parents=True)
    with (cache / "llm" / ".small.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert prepare.main(SYNTHETIC) == 1
    assert "Another process is making the data set 'small'" in capsys.readouterr().err
    assert not (cache / "llm" / "small").exists()


@pytest.mark.parametrize("module", ["rustbpe", "tiktoken"])
def test_a_missing_module_says_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert prepare.main(SYNTHETIC) == 1
    assert f"The Python module {module} is missing.\nhint: pip install 'autoresearch_kit[" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["climbmix", "--num-shards", "-2"],
        ["climbmix", "--num-shards", "0"],
        ["climbmix", "--num-shards", "6542"],
        ["climbmix", "--vocab-size", "0"],
        ["climbmix", "--vocab-size", "259"],
        ["climbmix", "--vocab-size", "65537"],
        ["synthetic", "--sequence-length", "0"],
        ["synthetic", "--stories", "-1"],
        ["synthetic", "--workers", "0"],
        ["synthetic", "--name", "../up"],
        ["synthetic", "--name", "a.making"],
        ["synthetic", "--seed", "one"],
        ["local"],
        ["webtext"],
        [],
    ],
    ids=" ".join,
)
def test_bad_arguments_are_refused_before_anything_is_touched(
    arguments: list[str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        prepare.main(arguments)
    assert exit_.value.code == 2
    assert "prepare.py" in capsys.readouterr().err
    assert not cache.exists()


def test_a_cache_folder_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert prepare.main([*SYNTHETIC, "--cache", str(tmp_path / "file")]) == 1
    said = capsys.readouterr().err
    assert "prepare.py: Not a directory" in said
    assert "--cache names another disk" in said


def test_text_that_does_not_fill_a_row_is_refused(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(["synthetic", *SMALL, "--val-tokens", "10"]) == 1
    assert "10 tokens do not fill one row of 64" in capsys.readouterr().err
    (tmp_path / "a.txt").write_text("<|endoftext|>\n".join(some_stories(60)))
    arguments = ["local", str(tmp_path), "--vocab-size", "400", "--sequence-length", "4000", "--workers", "1"]
    assert prepare.main(arguments) == 1
    assert "split 'val' does not fill one row" in capsys.readouterr().err
    assert not (cache / "llm" / "local").exists()


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_a_byte(original: Path, cache: Path) -> None:
    made = process(*SYNTHETIC, "--workers", "2", before="prepare.PART_DOCUMENTS = 2400")
    assert (made.communicate(), made.returncode)[1] == 0
    assert hashes(cache / "llm" / "small") == hashes(original)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("moment", ["plan", "records/tokenizer", "records/val", "records/train-00001"])
def test_killed_at_any_moment_it_goes_on_and_gives_the_same_bytes(
    original: Path, cache: Path, moment: str, workers: str
) -> None:
    making = cache / "llm" / "small.making"
    killed = process(*SYNTHETIC, "--workers", workers, before="prepare.PART_DOCUMENTS = 2400")
    wait_for(lambda: (making / f"{moment}.json").exists(), killed)
    killed.kill()
    killed.communicate()
    if killed.returncode == 0:
        pytest.fail("it was finished before it could be killed")
    assert not (cache / "llm" / "small").exists()
    finished = [path.with_suffix(".bin").name for path in (making / "records").glob("*.json")]
    finished = {name: (making / "data" / name).stat().st_mtime_ns for name in finished if name != "tokenizer.bin"}
    again = process(*SYNTHETIC, "--workers", "1", before="prepare.PART_DOCUMENTS = 2400")
    said = again.communicate()[1]
    assert again.returncode == 0, said
    made = cache / "llm" / "small"
    assert hashes(made) == hashes(original)
    assert all((made / name).stat().st_mtime_ns == at for name, at in finished.items())
    if moment.endswith("val"):
        assert re.search(r"\d of 5 parts are finished already", said)
    assert not making.exists()


@pytest.mark.slow
def test_a_finished_part_that_was_altered_is_made_anew(
    original: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "PART_DOCUMENTS", 2400)
    real = prepare.make_part

    def stops(part: Any, *rest: Any) -> dict[str, Any]:
        if part.name == "train-00002":
            raise KeyboardInterrupt
        return real(part, *rest)

    monkeypatch.setattr(prepare, "make_part", stops)
    assert prepare.main([*SYNTHETIC, "--workers", "1"]) == 130
    damage_bit(cache / "llm" / "small.making" / "data")
    (cache / "llm" / "small.making" / "data" / "train-00002.bin.1.tmp").write_bytes(b"half")
    monkeypatch.setattr(prepare, "make_part", real)
    assert prepare.main([*SYNTHETIC, "--workers", "1"]) == 0
    assert hashes(cache / "llm" / "small") == hashes(original)


@pytest.mark.slow
def test_work_begun_with_other_arguments_is_not_gone_on_with(
    original: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert prepare.main([*SYNTHETIC, "--seed", "1", "--workers", "1"]) == 130
    monkeypatch.setattr(prepare, "PART_DOCUMENTS", 2400)
    assert prepare.main([*SYNTHETIC, "--workers", "1"]) == 0
    assert hashes(cache / "llm" / "small") == hashes(original)


def workers_of(run: subprocess.Popen[str], making: Path) -> list[psutil.Process]:
    """The two worker processes, once they are at work."""
    wait_for(lambda: (making / "records" / "val.json").exists(), run)
    return [child for child in psutil.Process(run.pid).children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(cache: Path) -> None:
    run = process(*SYNTHETIC, "--stories", "30000", "--workers", "2")
    workers = workers_of(run, cache / "llm" / "small.making")
    run.kill()
    run.communicate()
    assert len(workers) == 2
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    assert not (cache / "llm" / "small").exists()


@pytest.mark.slow
def test_a_killed_worker_is_one_sentence(cache: Path) -> None:
    run = process(*SYNTHETIC, "--stories", "30000", "--workers", "2")
    workers_of(run, cache / "llm" / "small.making")[0].kill()
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 1, said
    assert "A worker process was killed" in said
    assert "--workers 1" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_is_one_sentence_and_the_work_goes_on(original: Path, cache: Path, workers: str) -> None:
    making = cache / "llm" / "small.making"
    run = process(*SYNTHETIC, "--workers", workers, before="prepare.PART_DOCUMENTS = 2400", start_new_session=True)
    wait_for(lambda: (making / "records" / "tokenizer.json").exists(), run)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to the workers too
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 130, said
    assert said.count("\n") <= 4
    assert "interrupted; the same command goes on from here" in said
    assert "Traceback" not in said
    assert not (cache / "llm" / "small").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_is_one_sentence_and_the_work_goes_on(original: Path, cache: Path, workers: str) -> None:
    """The limit on file sizes stands for the disk: writing fails in the middle of a shard in the same way."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))"
    run = process(*SYNTHETIC, "--workers", workers, before=f"prepare.PART_DOCUMENTS = 2400\n{limit}")
    said = run.communicate()[1]
    assert run.returncode == 1, said
    assert "File too large" in said
    assert "Traceback" not in said
    assert not (cache / "llm" / "small").exists()
    again = process(*SYNTHETIC, "--workers", workers, before="prepare.PART_DOCUMENTS = 2400")
    assert (again.communicate(), again.returncode)[1] == 0
    assert hashes(cache / "llm" / "small") == hashes(original)


# ----------------------------------------------------------------------------------------------------------------------
# Your own text


def write_parquet(path: Path, texts: list[str | None], column: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({column: texts}), path, row_group_size=50, compression="zstd")


def some_stories(count: int, seed: int = 3) -> list[str]:
    return [stories.generate(seed, index)[0] for index in range(count)]


def test_local_files_become_three_splits_that_share_no_document(tmp_path: Path, cache: Path) -> None:
    told = some_stories(1200)
    folder = tmp_path / "text"
    write_parquet(folder / "a.parquet", [*told[:500], None, ""])
    (folder / "b.txt").write_text("<|endoftext|>\n".join(told[500:900]))
    (folder / "sub").mkdir()
    (folder / "sub" / "c.txt").write_text("<|endoftext|>\n".join(told[900:] + told[:100]))  # some again
    arguments = ["local", str(folder), *SMALL, "--workers", "1", "--val-tokens", "100000"]
    assert prepare.main(arguments) == 0
    dataset = prepare.open_dataset("local")
    counts = {split: dataset.manifest["splits"][split]["documents"] for split in prepare.SPLITS}
    assert sum(counts.values()) == 1300
    assert 20 < counts["val"] < 130
    assert 20 < counts["holdout"] < 130
    assert dataset.floor == {}
    where = {text: prepare.split_of(text, 0, 0.05) for text in told}
    repeated = told + told[:100]
    assert counts == {split: sum(where[text] == split for text in repeated) for split in prepare.SPLITS}
    assert [source["file"] for source in dataset.manifest["sources"]] == ["a.parquet", "b.txt", "sub/c.txt"]
    assert prepare.main(arguments) == 0
    with (folder / "b.txt").open("a") as file:
        file.write("one more")
    assert prepare.main(arguments) == 1


def test_a_special_token_in_a_text_is_text(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "text"
    write_parquet(folder / "a.parquet", [f"{story}{'<|reserved_0|>' * 40}" for story in some_stories(300)])
    assert prepare.main(["local", str(folder), *SMALL, "--workers", "1"]) == 0
    dataset = prepare.open_dataset("local")
    kept = dataset.token_bytes[dataset.rows("train")[:]].sum()
    facts = dataset.manifest["splits"]["train"]
    assert facts["text_bytes"] - 30 * facts["left_over_tokens"] <= kept <= facts["text_bytes"]


@given(st.text(st.sampled_from("ab \n\t.é"), max_size=300).map(lambda text: text * 60))
@settings(deadline=None, max_examples=50)
def test_cutting_a_text_file_loses_nothing(text: str) -> None:
    pieces = list(prepare.cut_text(text))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 8100 + 300 for piece in pieces)


def test_a_text_file_is_cut_at_blank_lines_or_at_separators() -> None:
    paragraphs = [f"{i} " + "word " * 300 + "\n\n" for i in range(12)]
    assert list(prepare.cut_text("".join(paragraphs))) == ["".join(paragraphs[i : i + 3]) for i in (0, 3, 6, 9)]
    assert list(prepare.cut_text("one\ntwo\n<|endoftext|>\nthree")) == ["one\ntwo\n", "three"]


@pytest.mark.parametrize("case", ["empty", "missing", "not UTF-8", "no column", "not parquet", "truncated"])
def test_local_files_that_cannot_be_read_are_named(
    case: str, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "notes.md").write_text("no text file")
    if case == "missing":
        folder = tmp_path / "nowhere"
    elif case == "not UTF-8":
        (folder / "x.txt").write_bytes(b"fine" * 10 + b"\xff\xfe")
    elif case == "no column":
        write_parquet(folder / "x.parquet", ["a"], column="body")
    elif case == "not parquet":
        (folder / "x.parquet").write_bytes(b"PAR1 is not enough")
    elif case == "truncated":
        write_parquet(folder / "x.parquet", some_stories(200))
        with (folder / "x.parquet").open("r+b") as file:
            file.truncate(5000)
    assert prepare.main(["local", str(folder), *SMALL, "--workers", "1"]) == 1
    expected = {
        "empty": "holds no .parquet or .txt file",
        "missing": "is not a directory",
        "not UTF-8": "x.txt is not UTF-8 (byte 40)",
        "no column": "has no column 'text'; its columns are body",
    }.get(case, "x.parquet is not a sound Parquet file")
    said = capsys.readouterr().err
    assert expected in said
    assert "hint: " in said
    assert not (cache / "llm" / "local").exists()


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pyarrow.array([b"bytes"] * 9), "binary"),
        (pyarrow.array([1] * 9), "int64"),
        (pyarrow.array([["a", "b"]] * 9), "list<"),
        (pyarrow.array([{"text": "a"}] * 9), "struct<"),
    ],
    ids=["binary", "number", "list", "struct"],
)
def test_a_text_column_that_holds_no_strings_is_named_with_its_type(
    column: pyarrow.Array, kind: str, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "text" / "x.parquet")
    assert prepare.main(["local", str(tmp_path / "text"), *SMALL, "--workers", "1"]) == 1
    said = capsys.readouterr().err
    assert f"The column 'text' of {tmp_path / 'text' / 'x.parquet'} has the type {kind}" in said
    assert "hint: " in said
    assert not (cache / "llm" / "local").exists()


@pytest.mark.parametrize(
    "kind", [pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())], ids=["large", "dictionary"]
)
def test_every_kind_of_string_column_is_read(kind: pyarrow.DataType, tmp_path: Path) -> None:
    texts = ["one", None, "two", "one"]
    table = pyarrow.table({"text": pyarrow.array(texts).cast(kind)})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    piece = prepare.Slice(str(tmp_path / "x.parquet"))
    assert [text for text, _ in prepare.documents(prepare.Part("a", "train", (piece,)))] == ["one", "two", "one"]


# ----------------------------------------------------------------------------------------------------------------------
# The hub, played by a server on this machine


class Hub(http.server.ThreadingHTTPServer):
    """Serves a folder as the hub does: HEAD-less GETs with ETag, Range and redirects, and the faults of `fault`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.folder = folder
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.fault: Callable[[HubRequest, bytes], bool] | None = None
        """Called with the request and the content; True when it has answered."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def asked(self, name: str) -> list[dict[str, str]]:
        return [headers for path, headers in self.seen if name in path]


class HubRequest(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        path = self.server.folder / self.path.rpartition("/")[2]
        if not path.exists():
            return self.answer(404, b"")
        content = path.read_bytes()
        if self.server.fault is None or not self.server.fault(self, content):
            self.serve(content)
        return None

    def serve(self, content: bytes, ranges: bool = True, tag: str | None = None, stop: int | None = None) -> None:
        start = int(re.findall(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[0]) if ranges else 0
        headers = {"ETag": f'"{tag or hashlib.sha256(content).hexdigest()}"'}
        if start >= len(content):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.answer(206 if start else 200, content[start:], headers, stop)
        return None

    def answer(self, code: int, body: bytes, headers: dict[str, str] | None = None, stop: int | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body[:stop])
        if stop is not None:
            self.close_connection = True


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tmp_path / "served"
    for number, count in ((0, 400), (1, 400), (6541, 120), (6542, 120)):
        write_parquet(folder / f"shard_{number:05d}.parquet", some_stories(count, seed=number))
    server = Hub(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.001)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


CLIMBMIX = ["climbmix", "--num-shards", "2", *SMALL, "--val-tokens", "4096", "--workers", "1"]
DOWNLOADS = "downloads/climbmix-400b-shuffle"


def test_climbmix_trains_on_the_first_shards_and_judges_by_two_others(
    hub: Hub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(CLIMBMIX) == 0
    dataset = prepare.open_dataset("climbmix")
    splits = dataset.manifest["splits"]
    assert splits["val"]["rows"] == splits["holdout"]["rows"] == 64
    assert splits["train"]["documents"] == 800
    encoding = prepare.load_encoding(dataset.folder / "tokenizer.json")
    for split, seed in (("val", 6542), ("holdout", 6541), ("train", 0)):
        text = encoding.decode(dataset.rows(split)[:1][0].tolist()).split("<|reserved_0|>")[1]
        assert text in "".join(some_stories(400, seed))
    served = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in hub.folder.iterdir()}
    assert {source["file"]: source["sha256"] for source in dataset.manifest["sources"]} == served
    assert all(path.startswith("/datasets/karpathy/climbmix-400b-shuffle/resolve/main/") for path, _ in hub.seen)
    said = capsys.readouterr().err
    assert "an H100 reads about 500 million" in said
    assert "hint: --num-shards " in said
    asked = len(hub.seen)
    assert prepare.main([*CLIMBMIX, "--name", "second"]) == 0
    assert len(hub.seen) == asked  # what is here is not asked for again


def test_tinystories_uses_the_splits_of_its_card(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "TINYSTORIES_EVAL", 100)
    monkeypatch.setattr(prepare, "PART_DOCUMENTS", 150)
    told = some_stories(600)
    write_parquet(hub.folder / "tinystories_gpt4_clean.parquet", told)
    assert prepare.main(["tinystories", *SMALL, "--workers", "1"]) == 0
    splits = prepare.open_dataset("tinystories").manifest["splits"]
    for split, texts in (("holdout", told[:100]), ("val", told[100:200]), ("train", told[200:])):
        assert splits[split]["documents"] == len(texts)
        assert splits[split]["text_bytes"] == sum(map(len, texts))
    assert len(splits["train"]["shards"]) == 3


def test_a_line_that_breaks_is_gone_on_with_where_it_broke(hub: Hub, cache: Path) -> None:
    broken = []

    def breaks_once(request: HubRequest, content: bytes) -> bool:
        if request.path in broken:
            return False
        broken.append(request.path)
        request.serve(content, stop=len(content) // 2)
        return True

    hub.fault = breaks_once
    assert prepare.main(CLIMBMIX) == 0
    for path in hub.folder.iterdir():
        first, second = hub.asked(path.name)
        assert "range" not in first
        assert second["range"] == f"bytes={path.stat().st_size // 2}-"
        assert (cache / DOWNLOADS / path.name).read_bytes() == path.read_bytes()


def test_a_server_without_ranges_is_served_from_the_beginning(hub: Hub, cache: Path) -> None:
    count = {"n": 0}

    def no_ranges(request: HubRequest, content: bytes) -> bool:
        count["n"] += 1
        request.serve(content, ranges=False, stop=1000 if count["n"] <= 2 else None)
        return True

    hub.fault = no_ranges
    assert prepare.main(CLIMBMIX) == 0
    assert all((cache / DOWNLOADS / path.name).read_bytes() == path.read_bytes() for path in hub.folder.iterdir())


def test_a_file_that_changed_between_two_attempts_is_not_glued_together(hub: Hub, cache: Path) -> None:
    other = (hub.folder / "shard_00001.parquet").read_bytes()
    count = {"n": 0}

    def changes(request: HubRequest, content: bytes) -> bool:
        if not request.path.endswith("shard_00000.parquet"):
            return False
        count["n"] += 1
        first = count["n"] == 1  # the tags are no hashes, as at some mirrors: nothing else would tell
        request.serve(content if first else other, tag="one" if first else "two", stop=3000 if first else None)
        return True

    hub.fault = changes
    assert prepare.main(CLIMBMIX) == 0
    assert (cache / DOWNLOADS / "shard_00000.parquet").read_bytes() == other


FAULTS: dict[str, tuple[Callable[[HubRequest, bytes], object], str, int]] = {
    "always truncated": (
        lambda request, content: request.answer(200, content, {"ETag": '"x"'}, stop=100),
        "in 5 attempts: the line broke at 100 of",
        5,
    ),
    "missing": (lambda request, content: request.answer(404, b""), "is missing at", 1),
    "no access": (lambda request, content: request.answer(403, b""), "refuses it (HTTP 403", 1),
    "overloaded": (lambda request, content: request.answer(503, b""), "in 5 attempts: HTTP 503", 5),
    "another hash": (lambda request, content: request.serve(content, tag="0" * 64), "its SHA-256 is not the one", 5),
    "a page instead": (
        lambda request, content: request.answer(200, b"<html>log in</html>"),
        "it is not a Parquet file",
        5,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_shard_that_cannot_be_had_is_named_and_nothing_is_made(
    fault: str, hub: Hub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer, sentence, attempts = FAULTS[fault]

    def only_validation(request: HubRequest, content: bytes) -> bool:
        if not request.path.endswith("shard_06542.parquet"):
            return False
        answer(request, content)
        return True

    hub.fault = only_validation
    assert prepare.main(CLIMBMIX) == 1
    said = capsys.readouterr().err
    assert "shard_06542.parquet of karpathy/climbmix-400b-shuffle" in said
    assert sentence in said
    assert "hint: " in said
    assert len(hub.asked("shard_06542")) == attempts
    assert not (cache / DOWNLOADS / "shard_06542.parquet").exists()
    assert not (cache / "llm" / "climbmix").exists()
    hub.fault = None
    assert prepare.main(CLIMBMIX) == 0


def test_nobody_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert prepare.main(CLIMBMIX) == 1
    said = capsys.readouterr().err
    assert "could not be downloaded from http://127.0.0.1:9 in 5 attempts" in said
    assert "HF_ENDPOINT" in said


def test_the_token_is_sent_to_the_hub_and_to_no_other_host(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hub redirects to a storage host, where the hash of the file is known only from the redirect."""

    broken: set[str] = set()

    def guarded(request: HubRequest, content: bytes) -> bool:
        if request.path.startswith("/storage/"):
            broke = request.path in broken
            broken.add(request.path)
            request.serve(content, tag="of the storage", stop=None if broke else len(content) // 3)
        elif request.headers.get("Authorization") != "Bearer hf_secret":
            request.answer(401, b"")
        else:
            digest = hashlib.sha256(content).hexdigest()
            request.answer(
                302,
                b"",
                {
                    "Location": f"http://localhost:{hub.server_port}/storage/{request.path.rpartition('/')[2]}",
                    "X-Linked-Etag": f'"{digest}"',
                    "X-Linked-Size": str(len(content)),
                },
            )
        return True

    hub.fault = guarded
    assert prepare.main(CLIMBMIX) == 1
    said = capsys.readouterr().err
    assert "refuses it (HTTP 401" in said
    assert "hint: export HF_TOKEN=" in said
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert prepare.main(CLIMBMIX) == 0
    storage = hub.asked("/storage/")
    assert len(storage) == 8
    assert sum("range" in headers for headers in storage) == 4  # a range goes along where a token does not
    assert not any("authorization" in headers for headers in storage)


def test_offline_uses_what_is_here_and_names_what_is_not(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(CLIMBMIX) == 0
    asked = len(hub.seen)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert prepare.main([*CLIMBMIX, "--name", "again"]) == 0
    assert prepare.main([*CLIMBMIX, "--num-shards", "3", "--name", "more"]) == 1
    assert "shard_00002.parquet of karpathy/climbmix-400b-shuffle is not here" in capsys.readouterr().err
    assert len(hub.seen) == asked


@pytest.mark.parametrize("tag", ["of the file", "of another"])
def test_what_is_left_of_an_earlier_download_is_not_trusted_beyond_its_tag(hub: Hub, cache: Path, tag: str) -> None:
    """Killed when all bytes had arrived, or begun when the file was another one of the same length."""
    name = "shard_00000.parquet"
    content = (hub.folder / name).read_bytes()
    folder = cache / DOWNLOADS
    folder.mkdir(parents=True)
    if tag == "of the file":
        (folder / f"{name}.part").write_bytes(content)
        (folder / f"{name}.part.etag").write_text(hashlib.sha256(content).hexdigest())
    else:
        (folder / f"{name}.part").write_bytes(bytes(len(content) - 50))
        (folder / f"{name}.part.etag").write_text("0" * 64)
    assert prepare.main(CLIMBMIX) == 0
    assert (folder / name).read_bytes() == content
    assert sorted(path.name for path in folder.iterdir() if name in path.name) == [name, f"{name}.sha256"]


def test_two_downloads_at_once_do_not_write_into_one_file(
    hub: Hub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / DOWNLOADS).mkdir(parents=True)
    with (cache / DOWNLOADS / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert prepare.main([*CLIMBMIX, "--name", "second"]) == 1
    assert "Another process is downloading karpathy/climbmix-400b-shuffle" in capsys.readouterr().err
    assert hub.seen == []


def test_an_existing_data_set_needs_no_downloads(hub: Hub, cache: Path) -> None:
    assert prepare.main(CLIMBMIX) == 0
    shutil.rmtree(cache / "downloads")
    hub.seen.clear()
    assert prepare.main(CLIMBMIX) == 0
    assert hub.seen == []


@pytest.mark.slow
def test_ctrl_c_ends_a_download_at_once_and_keeps_what_has_arrived(hub: Hub, cache: Path) -> None:
    done = threading.Event()

    def drips(request: HubRequest, content: bytes) -> bool:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.send_header("ETag", '"x"')
        request.end_headers()
        with contextlib.suppress(OSError):
            for at in range(0, len(content), 100):
                request.wfile.write(content[at : at + 100])
                if done.wait(0.05):
                    break
        request.close_connection = True
        return True

    hub.fault = drips
    run = process(*CLIMBMIX)
    wait_for(lambda: len(list((cache / DOWNLOADS).glob("*.part"))) == 4, run)
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=60)[1]
    assert len(list((cache / DOWNLOADS).glob("*.part"))) == 4  # the files were far from their end
    done.set()
    assert run.returncode == 130, said
    assert said.count("\n") == 1
    assert "interrupted" in said


def test_a_download_that_was_altered_later_is_noticed(
    hub: Hub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(CLIMBMIX) == 0
    path = cache / DOWNLOADS / "shard_00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert prepare.main([*CLIMBMIX, "--name", "again"]) == 1
    assert "shard_00001.parquet was altered after it was downloaded" in capsys.readouterr().err


@pytest.mark.slow
def test_a_download_that_was_killed_goes_on_where_it_was(hub: Hub, cache: Path) -> None:
    half = {path.name: path.stat().st_size // 2 for path in hub.folder.iterdir()}
    hang = threading.Event()

    def stalls(request: HubRequest, content: bytes) -> bool:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        request.end_headers()
        request.wfile.write(content[: len(content) // 2])
        request.wfile.flush()
        hang.wait(60)
        request.close_connection = True
        return True

    hub.fault = stalls
    killed = process(*CLIMBMIX)
    folder = cache / DOWNLOADS

    def all_half() -> bool:
        parts = {path.name.removesuffix(".part"): path.stat().st_size for path in folder.glob("*.part")}
        return parts == half

    wait_for(all_half, killed)
    killed.kill()
    killed.communicate()
    hang.set()
    hub.fault = None
    hub.seen.clear()
    assert prepare.main(CLIMBMIX) == 0
    assert {path.rpartition("/")[2]: headers["range"] for path, headers in hub.seen} == {
        name: f"bytes={size}-" for name, size in half.items()
    }
    assert all((folder / name).read_bytes() == (hub.folder / name).read_bytes() for name in half)


# ----------------------------------------------------------------------------------------------------------------------
# Pinning


def pinned(small: Path) -> str:
    digests = hashes(small)
    names = ["manifest.json", "tokenizer.json", "val.bin", "holdout.bin", *(f"train-0000{i}.bin" for i in range(3))]
    assert set(names) == digests.keys()
    return "".join(f'  - {{path: "$ARK_CACHE/llm/small/{name}", sha256: {digests[name]}}}\n' for name in names)


@pytest.mark.parametrize(
    "old",
    [
        "inputs: []   # filled by prepare.py --pin\n",
        "inputs:\n  - path: a\n    sha256: b\n\n  # between\n  - path: c\n    sha256: d\n",
        "inputs:\n- path: a\n  sha256: b\n",
        "inputs: [\n  {path: a, sha256: b},\n]\n",
        "inputs: [ # c\n{path: a, sha256: b},\n{path: c, sha256: d}\n]\n",
        "inputs:\n- path: 'a\n\nname: no key'\n  sha256: b\n",
        '"inputs": []\n',
        "? inputs\n: []\n",
        "inputs:\n",
        "",
    ],
    ids=["empty", "block", "flush", "flow", "flow-flush", "quoted", "key-quoted", "key-explicit", "bare", "absent"],
)
def test_pin_replaces_the_inputs_and_nothing_else(small: Path, tmp_path: Path, old: str) -> None:
    before, after = (
        '# the spec\nname: "x"   # a name\n',
        '\n# about the command\nrun_command: "python train.py"\ngoal: |\n  inputs: here too\n',
    )
    spec = tmp_path / "spec.yaml"
    spec.write_text(before + old + after)
    assert prepare.main(["synthetic", "--name", "small", "--verify", "--pin", str(spec)]) == 0
    text = spec.read_text()
    head, _, rest = text.partition("inputs: #")
    assert rest.partition("\n")[2].startswith(pinned(small))
    kept = rest.partition("\n")[2].removeprefix(pinned(small))
    assert head + kept == before + after
    assert prepare.main(["synthetic", "--name", "small", "--verify", "--pin", str(spec)]) == 0
    assert spec.read_text() == text


@pytest.mark.parametrize("end", ["", "...\n", "\n# the end"], ids=["none", "marker", "comment"])
def test_pin_sees_keys_and_not_lines_that_look_like_them(small: Path, tmp_path: Path, end: str) -> None:
    spec = tmp_path / "spec.yaml"
    context = 'context: "first\ninputs: this is inside\n"\n'
    spec.write_text(f"\ufeff{context}inputs: []\n{end}")
    assert prepare.main(["synthetic", "--name", "small", "--verify", "--pin", str(spec)]) == 0
    header = "inputs: # by `prepare.py --pin`: what this spec's numbers were measured on\n"
    assert spec.read_text() == f"\ufeff{context}{header}{pinned(small)}{end}"


@pytest.mark.parametrize(
    "text",
    [
        "inputs: &x []\nartifacts: *x\n",
        "{name: x}\n",
        "{name: x, inputs: []}\n",
        "- name\n",
        "inputs: []\nname: x\ninputs: []\n",
        "name: x\n...\n",
        "  name: x\n",
        "name: [x\n",
        "name: |\n  x",
    ],
    ids=["anchor", "flow", "flow-inputs", "list", "twice", "marker", "indented", "broken", "newline"],
)
def test_pin_leaves_a_spec_alone_that_it_would_change_or_break(
    small: Path, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)
    assert prepare.main(["synthetic", "--name", "small", "--verify", "--pin", str(spec)]) == 1
    assert spec.read_text() == text
    said = capsys.readouterr().err
    assert f"{spec} was left as it is" in said
    assert f"measured on\n{pinned(small)}" in said  # to be pasted
    assert "inputs pinned" not in said
    assert "Traceback" not in said


def test_pin_writes_through_a_link_and_keeps_the_mode(small: Path, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    spec, link = tmp_path / "far" / "spec.yaml", tmp_path / "spec.yaml"
    spec.write_text("name: x\n")
    spec.chmod(0o640)
    link.symlink_to("far/spec.yaml")
    assert prepare.main(["synthetic", "--name", "small", "--verify", "--pin", str(link)]) == 0
    assert link.is_symlink()
    assert spec.read_text().endswith(pinned(small))
    assert spec.stat().st_mode & 0o7777 == 0o640
    assert list(spec.parent.iterdir()) == [spec]


def test_pin_needs_pyyaml_and_says_so_first(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert prepare.main(["synthetic", "--name", "small", "--verify", "--pin", str(tmp_path / "a.yaml")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("prepare.py: The Python module yaml is missing.\nhint: pip install")


def test_pin_takes_several_specs_and_names_one_that_is_not_there(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_bytes(b"name: x\r\ninputs: []\r\n")
    specs = [str(tmp_path / name) for name in ("a.yaml", "b.yaml")]
    assert prepare.main([*SYNTHETIC, "--pin", *specs]) == 0
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()
    assert (tmp_path / "a.yaml").read_bytes().count(b"\n") == (tmp_path / "a.yaml").read_bytes().count(b"\r\n") == 9
    assert prepare.main([*SYNTHETIC, "--pin", str(tmp_path / "c.yaml")]) == 1
    assert "c.yaml cannot be read" in capsys.readouterr().err
