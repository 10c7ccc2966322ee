"""The harness, from its command line, with scripts as trainer and judge: a cycle, and what can go wrong in it."""

from __future__ import annotations

import re

import pytest
from ane_example import KEYS, failed


def test_one_cycle_ends_with_the_block(example):
    code, output, errors = example.run("--wall-time", "7", "--threads", "2", "--backend", "cpu")
    assert code == 0 and errors == "notice: all kernels run on the CPU\n"
    assert output.splitlines()[:2] == ["step 10  loss 3.5", "---"]
    lines = [re.fullmatch("([a-z_]+): +(\\S+)", line).groups() for line in output.splitlines()[2:]]
    assert [key for key, _ in lines] == [*KEYS, "val_tokens", "trainer_val_loss", "backend"]
    assert re.search("^val_loss:         2.431999$", output, re.MULTILINE)
    assert example.log("trained") == (
        f"--data {example.data} --checkpoint {example.candidate} --wall-time 7.0 --threads 2 --backend cpu\n"
    )
    assert example.log("evaluated") == (
        f"--checkpoint {example.candidate} --data {example.data} --split validation --threads 2\n"
    )


def test_train_and_evaluate_are_its_halves(example):
    code, output, _ = example.run("train")
    assert code == 0 and output.splitlines()[-1] == "backend: cpu" and not example.log("evaluated")
    assert example.candidate.read_bytes() == example.checkpoint.read_bytes()
    code, output, errors = example.run("evaluate", "--split", "holdout")
    assert (code, output, errors) == (0, "val_loss: 2.431999\nval_tokens: 25600\n", "")
    assert "--split holdout" in example.log("evaluated") and example.log("built") == "train\nevaluate\n"


def test_the_evaluation_needs_neither_the_header_nor_the_build_folder(example):
    assert example.run("train")[0] == 0
    example.header.write_text('#include "/etc/passwd"\n')
    for name in ("evaluate", "config.h"):
        (example.folder / "build" / name).write_text("#!/bin/sh\necho val_loss: 0\n")
        (example.folder / "build" / name).chmod(0o755)
    code, output, _ = example.run("evaluate")
    assert code == 0 and output.startswith("val_loss: 2.431999\n")
    assert not list((example.folder / "build").glob("evaluate-*"))


def test_a_header_that_is_not_changed_builds_nothing(example):
    for text in (None, None, example.header.read_text().replace("SOFTCAP 30", "SOFTCAP 20")):
        if text:
            example.header.write_text(text)
        assert example.run("train")[0] == 0
    assert example.log("built") == "train\n" * 2


def test_a_bad_header_compiles_nothing_and_removes_the_old_candidate(example):
    assert example.run("train")[0] == 0
    line = example.header.read_text().count("\n") + 1
    with open(example.header, "a") as file:
        file.write("#define LERNING_RATE 1\n")
    result = example.run()
    failed(
        result, 2, rf"ane/experiment_config.h:{line}: there is no setting LERNING_RATE", "did you mean LEARNING_RATE"
    )
    assert example.log("built") == "train\n" and not example.candidate.exists()
    failed(example.run("evaluate"), 1, "there is no candidate.ckpt to evaluate", "harness_ane.py train")


def test_another_header_in_the_folder(example):
    text = example.header.read_text()
    example.header.write_text("bad")
    (example.folder / "small.h").write_text(text.replace("NLAYERS 6", "NLAYERS 2"))
    assert example.run("train", "--config", "small.h")[0] == 0
    assert ".layers = 2" in (example.folder / "build" / "config.h").read_text()


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e9", "soon", "0x10"])
def test_a_wall_time_that_is_none(example, text):
    failed(example.run(f"--wall-time={text}"), 2, "is no number of seconds above 0", "--help")
    failed(example.run(ANE_WALL_TIME=text), 2, "ANE_WALL_TIME: .* is no number of seconds", "unset ANE_WALL_TIME")
    assert not example.log("built")


OPTIONS = {
    "verb": ("fly", "invalid choice: 'fly'"),
    "option": ("--fly=1", "unrecognized arguments: --fly=1"),
    "backend": ("--backend=gpu", "invalid choice: 'gpu'"),
    "threads": ("--threads=0", "'0' is no whole number from 1 to 256"),
    "seed": ("--seed=-1", "'-1' is no whole number"),
    "large seed": ("--seed=9223372036854775808", "is no whole number"),
    "steps": ("--max-steps=1e3", "'1e3' is no whole number"),
    "build": ("--build=../x", "is no name in this folder"),
    "space": ("--build=a b", "is no name in this folder"),
    "option of make": ("--build=-n", "is no name in this folder"),
    "split": ("--split=training", "invalid choice: 'training'"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_command_line_that_is_wrong(example, name):
    word, sentence = OPTIONS[name]
    failed(example.run(word), 2, re.escape(sentence), "harness_ane.py --help")


def test_the_wall_time_and_the_seed_come_from_the_nearest(example):
    ark = {"ARK_BUDGET_SECONDS": "40", "ARK_SEED": "5"}
    example.run("train")
    example.run("train", **ark)
    example.run("train", ANE_WALL_TIME="30", **ark)
    example.run("train", "--wall-time=20", "--seed=6", ANE_WALL_TIME="30", **ark)
    found = [re.findall("(?:wall-time|seed) (\\S+)", line) for line in example.log("trained").splitlines()]
    assert found == [["300.0"], ["40.0", "5"], ["30.0", "5"], ["20.0", "6"]]


TRAINERS = {
    "a sentence": (
        "echo 'the training diverged' >&2; echo >&2; echo 'hint: lower it' >&2; exit 1",
        "diverged",
        "lower",
    ),
    "nothing": ("exit 3", "the trainer ended with status 3", None),
    "a crash": ("kill -SEGV $$", "the trainer was ended by SIGSEGV$", "^harness_ane.py: .* SIGSEGV$"),
    "too little memory": ("kill -KILL $$", "the trainer was ended by SIGKILL", "hint: .*memory"),
    "no block": ("exit 0", "the trainer ended without train_loss", None),
    "no checkpoint": ("out=/dev/null", "the trainer ended without candidate.ckpt", None),
    "failure after the checkpoint": ('cp made.ckpt "$out"; echo "cannot write" >&2; exit 1', "cannot write", None),
}


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_that_fails(example, name):
    does, sentence, hint = TRAINERS[name]
    example.trainer(does)
    failed(example.run(), 1, sentence, hint)
    assert not example.candidate.exists() and not example.log("evaluated")


JUDGES = {
    "a sentence": ("echo 'it is damaged' >&2; exit 1", "it is damaged"),
    "a signal": ("echo val_loss: 1; kill -KILL $$", "the evaluation was ended by SIGKILL"),
    "not a number": ("echo val_loss: nan; exit 0", "the evaluation ended without a val_loss"),
    "infinite": ("echo val_loss: inf; exit 0", "the evaluation ended without a val_loss"),
    "silence": ("exit 0", "the evaluation ended without a val_loss"),
}


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_that_fails(example, name):
    does, sentence = JUDGES[name]
    example.judge(does)
    failed(example.run(), 1, sentence)


def test_a_metric_in_the_trainers_output_is_not_passed_on(example):
    example.trainer("echo 'val_loss: 0.1'")
    code, output, _ = example.run("train")
    assert code == 0 and not re.search("^val_loss", output, re.MULTILINE)
    assert re.findall("^val_loss: .*", example.run()[1], re.MULTILINE) == ["val_loss:         2.431999"]


def test_output_without_end_is_cut(example):
    example.trainer("head -c 40000000 /dev/zero | tr '\\0' x; yes | head -c 40000000")
    code, output, _ = example.run("train")
    assert code == 1 and len(output) < 20_000_000


def test_there_is_no_token_file(example):
    example.data.unlink()
    failed(example.run(), 1, "there is no token file", r"prepare\.py synthetic --out .*tokens\.bin$")
    process = example.start("train")
    output, errors = process.communicate()
    where = re.escape(str(example.folder / "cache" / "ane" / "tinystories_data00.bin"))
    failed((process.returncode, output, errors), 1, f"there is no token file {where}", r"prepare\.py tinystories$")
    assert not example.log("built")


@pytest.mark.parametrize("name", ["candidate.ckpt", "build"])
def test_what_is_in_the_way_is_named(example, name):
    path = example.folder / name
    path.write_text("") if name == "build" else path.mkdir()
    failed(example.run(), 1, f"{re.escape(str(path))} .*cannot be ")
