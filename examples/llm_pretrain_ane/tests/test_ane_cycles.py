"""Cycles that go on from each other: with scripts as trainer and judge, and, in the slow part, the real ones."""

from __future__ import annotations

import re
import shutil

import pytest
from ane_example import KEYS, Example, failed
from ane_modules import EXAMPLE
from ane_stubs import content
from ane_tokens import write_tokens


def test_by_hand_a_cycle_goes_on_from_what_was_kept(example):
    runs = example.folder / "runs"
    assert "from scratch: there is no" in example.run("train", "--lineage", str(runs))[2]
    code, output, _ = example.run("keep", "--lineage", str(runs))
    assert (code, output) == (0, f"kept: {runs / 'kept.ckpt'}\n")
    example.made("second")
    assert f"notice: resuming {runs / 'kept.ckpt'}" in example.run("--lineage", str(runs))[2]
    assert f"--resume {runs / 'kept.ckpt'}" in example.log("trained")
    assert (content(runs / "kept.ckpt"), content(runs / "candidate.ckpt")) == ("made", "second")
    example.trainer("exit 1")
    assert example.run("--lineage", str(runs))[0] == 1
    failed(example.run("keep", "--lineage", str(runs)), 1, "there is no .* to keep")
    failed(example.run("keep"), 2, "keep needs --lineage")


@pytest.mark.parametrize("name", [".", "../example", "link", "other"])
def test_a_lineage_in_the_folder_of_a_harness_is_refused(example, name):
    """Its own it holds a lock of, and would wait for itself; another's candidate.ckpt would be replaced."""
    (example.folder / "link").symlink_to(example.folder)
    Example(example.folder / "other")
    (example.folder / name / "candidate.ckpt").write_text("mine")
    for words in (["train"], [], ["keep"]):
        failed(example.run(*words, "--lineage", name), 2, "--lineage needs a folder of its own", "--lineage runs")
    assert not example.log("built") and (example.folder / name / "candidate.ckpt").read_text() == "mine"


def test_an_empty_lineage_is_refused(example):
    for verb in ("all", "train", "keep"):
        failed(example.run(verb, "--lineage", ""), 2, "--lineage is empty", "--lineage runs")
    assert not example.log("built")


def test_a_damaged_parent_is_named(example):
    runs = example.folder / "runs"
    example.run("train", "--lineage", str(runs))
    example.run("keep", "--lineage", str(runs))
    example.trainer('[ -n "$from" ] && echo "the checkpoint $from is damaged" >&2 && exit 1')
    kept = re.escape(str(runs / "kept.ckpt"))
    failed(example.run("--lineage", str(runs)), 1, f"the checkpoint {kept} is damaged", f"rm {kept}")


def test_under_ark_an_attempt_goes_on_from_its_parent(example):
    runs, base, one = example.folder / "runs", "a" * 40, "b" * 40
    ark = {"ARK_TAG": "nov", "ARK_ATTEMPT": "0", "ARK_TREE": base, "ARK_PARENT_TREE": base}
    assert "from scratch: this is a baseline" in example.run("train", "--lineage", str(runs), **ark)[2]
    ark["ARK_ATTEMPT"] = "1"
    errors = example.run("train", "--lineage", str(runs), **ark | {"ARK_TREE": one})[2]
    assert re.search(f"resuming .*/nov/[0-9a-f]{{12}}/{base[:16]}-{base[:16]}.ckpt", errors)
    (folder,) = (runs / "nov").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{'a' * 16}-{'a' * 16}.ckpt",
        f"{'b' * 16}-{'a' * 16}.ckpt",
    ]
    text = example.header.read_text()
    example.header.write_text(text.replace("NLAYERS 6", "NLAYERS 2"))
    errors = example.run("train", "--lineage", str(runs), **ark | {"ARK_TREE": "c" * 40})[2]
    assert "has another architecture" in errors
    example.header.write_text(text)
    example.trainer('echo "the checkpoint $from is damaged" >&2; exit 1')
    words = ("train", "--lineage", str(runs))
    failed(example.run(*words, **ark | {"ARK_TREE": "d" * 40}), 1, "is damaged", "a new run under another --tag")


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Example:
    """The example as it is, with a model of some thousand numbers, built without optimisation."""
    example = Example(tmp_path_factory.mktemp("real") / "example")
    shutil.copy(EXAMPLE / "Makefile", example.folder)
    for path in EXAMPLE.glob("ane/*.[ch]"):
        shutil.copy(path, example.folder / "ane")
    text = example.header.read_text()
    for name, value in {"DIM": 32, "HIDDEN": 64, "HEADS": 1, "SEQ": 32, "NLAYERS": 1, "ACCUM_STEPS": 1}.items():
        text = re.sub(rf"(#define {name}) \S+", rf"\1 {value}", text)
    example.header.write_text(text)
    write_tokens(example.data, 20_000)
    example.environment["CFLAGS"] = "-O1"
    return example


@pytest.mark.slow
def test_a_real_cycle(real):
    code, output, errors = real.run("--wall-time", "3", "--seed", "1")
    assert code == 0, errors
    block = output[output.index("---\n") :]
    values = dict(re.findall("^([a-z_]+): +(\\S+)$", block, re.MULTILINE))
    assert list(values)[:7] == KEYS and values["backend"] == "cpu" and values["ane_util_pct"] == "0.00"
    assert 0 < float(values["val_loss"]) < 10 and int(values["steps"]) > 0
    assert values["val_loss"] == values["trainer_val_loss"], "the trainer's number is the judge's"
    assert re.fullmatch("val_loss: [0-9.]+", real.run("evaluate", "--split", "holdout")[1].splitlines()[0])


@pytest.mark.slow
def test_another_experiment_compiles_one_file(real):
    words = ("train", "--wall-time=60", "--max-steps=1")
    assert real.run(*words)[0] == 0
    before = {path.name: path.stat().st_mtime_ns for path in (real.folder / "build").iterdir()}
    real.header.write_text(real.header.read_text().replace("SOFTCAP 30", "SOFTCAP 20"))
    assert real.run(*words)[0] == 0
    after = {path.name: path.stat().st_mtime_ns for path in (real.folder / "build").iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"config.h", "train.o", "train"}


@pytest.mark.slow
def test_real_cycles_go_on_and_refuse_what_is_damaged(real):
    runs = real.folder / "runs"
    updates = []
    for _ in range(2):
        code, output, errors = real.run("--wall-time=60", "--max-steps=20", "--lineage", str(runs))
        assert code == 0, errors
        updates.append(re.search("^total_updates: *([0-9]+)", output, re.MULTILINE)[1])
        assert real.run("keep", "--lineage", str(runs))[0] == 0
    assert updates == ["20", "40"]
    kept = runs / "kept.ckpt"
    data = bytearray(kept.read_bytes())
    for at in (20, len(data) // 2):
        data[at] ^= 1
        kept.write_bytes(data)
        failed(
            real.run("--wall-time=60", "--lineage", str(runs)), 1, re.escape(str(kept)), f"rm {re.escape(str(kept))}"
        )
        data[at] ^= 1


@pytest.mark.slow
def test_real_refusals(real):
    failed(real.run("--wall-time=0.0001"), 1, "a wall time of 0.0001 s is too short")
    tokens = real.data.read_bytes()
    try:
        for data, sentence in (
            (tokens[:-1], "odd|two bytes"),
            (b"\xff" * len(tokens), "32000|vocabulary"),
            (b"", "empty"),
        ):
            real.data.write_bytes(data)
            failed(real.run("--wall-time=3"), 1, sentence)
    finally:
        real.data.write_bytes(tokens)
    real.candidate.write_bytes(b"ARKANE01")
    failed(real.run("evaluate"), 1, "candidate.ckpt")
