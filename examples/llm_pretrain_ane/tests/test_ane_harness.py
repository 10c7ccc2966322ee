"""The harness, from its command line: with scripts as trainer and judge, and, in the slow part, the real ones.

pytest -m "slow or not slow" examples/llm_pretrain_ane/tests/test_ane_harness.py
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ane_modules import EXAMPLE, load
from ane_stubs import content, stub
from ane_tokens import write_tokens

config = load("experiment_config")
KEYS = ["val_loss", "train_loss", "steps", "ms_per_step", "wall_time_s", "compile_time_s", "ane_util_pct"]

# `make build/train` copies the script, so that a build is short and what it made can fail in any way.
MAKEFILE = """
BUILD ?= build
$(BUILD)/train: $(BUILD)/config.h train.sh
$(BUILD)/train $(BUILD)/evaluate: $(BUILD)/%: %.sh
	echo $* >> built
	@mkdir -p $(BUILD)
	cp $*.sh $@
"""
TRAIN = """#!/bin/sh
echo "$@" >> trained
while [ $# -gt 0 ]; do [ "$1" = --checkpoint ] && out="$2"; [ "$1" = --resume ] && from="$2"; shift; done
echo 'notice: all kernels run on the CPU' >&2
echo 'step 10  loss 3.5'
DOES
cp made.ckpt "$out"
printf -- '---\\ntrainer_val_loss: 2.5\\ntrain_loss: 2.25\\nsteps: 20\\nms_per_step: 1.5\\nwall_time_s: 1.0\\n'
printf 'compile_time_s: 0.1\\nane_util_pct: 0.00\\nbackend: cpu\\n'
"""
EVALUATE = """#!/bin/sh
echo "$@" >> evaluated
DOES
printf 'val_loss: 2.431999\\nval_tokens: 25600\\n'
"""


class Example:
    """A copy of the example in which the C programs are scripts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "ane").mkdir(parents=True)
        for path in EXAMPLE.glob("*.py"):
            shutil.copy(path, folder)
        shutil.copy(EXAMPLE / "ane" / "experiment_config.h", folder / "ane")
        (folder / "Makefile").write_text(MAKEFILE)
        self.trainer()
        self.judge()
        self.checkpoint = folder / "made.ckpt"
        self.made("made")
        self.data = folder / "tokens.bin"
        self.data.write_bytes(b"\1\0" * 100)
        self.header = folder / "ane" / "experiment_config.h"
        self.candidate = folder / "candidate.ckpt"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("ARK_", "ANE_"))},
            "PYTHONDONTWRITEBYTECODE": "1",
            "ARK_CACHE": str(folder / "cache"),
        }

    def trainer(self, does: str = "") -> None:
        self._script("train.sh", TRAIN, does)

    def judge(self, does: str = "") -> None:
        self._script("evaluate.sh", EVALUATE, does)

    def _script(self, name: str, text: str, does: str) -> None:
        (self.folder / name).write_text(text.replace("DOES", does))
        (self.folder / name).chmod(0o755)

    def made(self, content: str, architecture: str | None = None) -> None:
        """What the trainer will leave."""
        architecture = architecture or config.read_config(self.folder / "ane" / "experiment_config.h").architecture
        self.checkpoint.write_bytes(stub(content, architecture))

    def start(self, *words: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "harness_ane.py", *words],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*words, "--data", str(self.data), **environment)
        output, errors = process.communicate(timeout=100)
        return process.returncode, output, errors

    def log(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""


@pytest.fixture
def example(tmp_path: Path) -> Example:
    return Example(tmp_path / "example")


def failed(result: tuple[int, str, str], status: int, sentence: str, hint: str | None = None) -> None:
    """One sentence, in the block and on standard error, and no metric."""
    code, output, errors = result
    assert code == status, errors
    assert not re.search("^val_loss", output, re.MULTILINE) and "Traceback" not in errors
    block = output[output.index("---\n") :].splitlines()
    assert [line.split()[0] for line in block] == ["---", "status:", "error:"]
    lines = [line for line in errors.splitlines() if not line.startswith("notice:")]
    assert re.search(sentence, lines[-2 if lines[-1].startswith("hint: ") else -1])
    assert re.search(sentence, block[-1])
    if hint is not None:
        assert re.search(hint, lines[-1])


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
    "a signal": ("kill -SEGV $$", "the trainer was ended by SIGSEGV", "memory"),
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


def without(example: Example, *missing: str) -> str:
    """A folder of programs that lacks some."""
    folder = example.folder / "bin"
    folder.mkdir()
    for name in {"make", "cc", "sh", "cp", "mkdir", "echo"} - set(missing):
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


@pytest.mark.parametrize("missing", ["make", "cc"])
def test_there_is_nothing_to_build_with(example, missing):
    what = "make" if missing == "make" else "C compiler cc"
    failed(example.run(PATH=without(example, missing)), 1, f"there is no {what} on this machine", "install")


def test_a_compiler_of_your_own_that_is_missing(example):
    failed(example.run(CC="my-cc -m64"), 1, "there is no C compiler my-cc on this machine")


@pytest.mark.parametrize("text", ["'unbalanced", "   "], ids=["unbalanced", "blank"])
def test_a_compiler_that_has_no_name(example, text):
    failed(example.run(CC=text), 1, f"CC is .*{text.strip()}.*, which names no compiler", "unset CC")


def test_a_compiler_that_compiles_nothing(example):
    shutil.copy(EXAMPLE / "Makefile", example.folder)
    for path in EXAMPLE.glob("ane/*.[ch]"):
        shutil.copy(path, example.folder / "ane")
    failed(example.run(CC="true"), 1, "make ended well and left no build/train", "is true a C compiler")


@pytest.mark.parametrize("name", ["config.h", "train", "train.o", "digest"])
def test_a_folder_in_place_of_what_is_built(example, name):
    (example.folder / "build" / name).mkdir(parents=True)
    where = re.escape(str(example.folder / "build"))
    failed(example.run(), 1, f"the build folder {where} cannot be used: .*{name}", f"rm -r {where}")


def test_a_full_disk_when_the_header_is_written(example, capfd, monkeypatch):
    harness = in_process(example, monkeypatch)
    monkeypatch.setattr(harness, "write_header", full_disk)
    failed(here(harness, example, capfd), 1, "build cannot be used: config.h: No space left on device", "make room")


def test_a_full_disk_when_the_evaluation_begins(example, capfd, monkeypatch):
    harness = in_process(example, monkeypatch)
    monkeypatch.setattr(harness.tempfile, "TemporaryDirectory", full_disk)
    failed(here(harness, example, capfd), 1, "config.h: No space left on device")


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/where/config.h")


def in_process(example: Example, monkeypatch):
    """The harness in this process, so that parts of it can be exchanged."""
    harness = load("harness_ane")
    for name, value in {"HERE": example.folder, "CANDIDATE": example.candidate}.items():
        monkeypatch.setattr(harness, name, value)
    monkeypatch.chdir(example.folder)
    return harness


def here(harness, example: Example, capfd) -> tuple[int, str, str]:
    code = harness.main(["--wall-time", "0.1", "--data", str(example.data)])
    return code, *capfd.readouterr()


def built(example: Example, **environment: str) -> bool:
    """Whether a run builds the trainer anew."""
    (example.folder / "built").unlink(missing_ok=True)
    assert example.run("train", **environment)[0] == 0
    return "train" in example.log("built")


def test_what_other_sources_flags_or_machines_have_left_is_not_used(example):
    (example.folder / "ane" / "model.c").write_text("int model;\n")
    assert built(example) and not built(example)
    os.utime(example.folder / "build" / "train", (2**32, 2**32))  # make takes it for newer than all
    (example.folder / "build" / "model.o").write_text("old")
    (example.folder / "build" / "notes.txt").write_text("mine")
    assert not built(example) and built(example, CFLAGS="-O1") and not built(example, CFLAGS="-O1")
    assert not (example.folder / "build" / "model.o").exists() and (example.folder / "build" / "notes.txt").exists()
    assert built(example, CC="cc -O1") and built(example) and not built(example)
    (example.folder / "ane" / "model.c").write_text("int other;\n")
    assert built(example)
    (example.folder / "ane" / "model.h").write_text("")
    assert built(example)
    (example.folder / "ane" / "experiment_config.cpu.h").write_text("")
    assert not built(example)
    (example.folder / "build" / "digest").unlink()
    assert built(example), "whoever built that did not say of what"


def test_another_machine_builds_anew(example, capfd, monkeypatch):
    harness = in_process(example, monkeypatch)
    for node in ("one", "one", "two"):
        monkeypatch.setattr(harness.platform, "node", lambda: node)  # noqa: B023
        assert here(harness, example, capfd)[0] == 0
    assert example.log("built").split().count("train") == 2


@pytest.mark.parametrize("name", ["ane", "tests"])
def test_sources_are_no_build_folder(example, name):
    (example.folder / "tests").mkdir()
    (example.folder / "tests" / "test_it.py").touch()
    before = sorted((example.folder / name).iterdir())
    failed(example.run("--build", name), 2, f"the build folder .*/{name} holds sources", "--build build")
    example.candidate.touch()
    failed(example.run("evaluate", "--build", name), 2, f"the build folder .*/{name} holds sources")
    assert sorted((example.folder / name).iterdir()) == before


def test_a_build_that_fails_shows_why(example):
    (example.folder / "train.sh").unlink()
    code, output, errors = example.run()
    failed((code, output, errors), 1, "build/train could not be built", "make clean")
    assert "No rule to make target" in errors


def test_flags_of_a_make_around_it_do_not_count(example):
    assert example.run("train", MAKEFLAGS="n", MAKELEVEL="1")[0] == 0


@pytest.mark.parametrize("name", ["candidate.ckpt", "build"])
def test_what_is_in_the_way_is_named(example, name):
    path = example.folder / name
    path.write_text("") if name == "build" else path.mkdir()
    failed(example.run(), 1, f"{re.escape(str(path))} .*cannot be ")


def waiting(example: Example, *words: str) -> tuple[subprocess.Popen, int]:
    """A harness whose trainer is at work, and the trainer's process."""
    example.trainer("echo $$ > pid; exec sleep 100")
    process = example.start("train", "--data", str(example.data), *words)
    ends = time.monotonic() + 60
    while not example.log("pid").strip():
        assert process.poll() is None and time.monotonic() < ends
        time.sleep(0.02)
    return process, int(example.log("pid"))


def gone(pid: int) -> bool:
    """Whether the process has ended."""
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        try:
            state = (
                Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] if Path("/proc").exists() else ""
            )
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"])
def test_interrupted_it_leaves_no_process(example, number, status):
    process, trainer = waiting(example)
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    failed((process.returncode, output, errors), status, f"interrupted by .*{'Ctrl-C' if status == 130 else 'TERM'}")
    assert gone(trainer)


def test_one_harness_at_a_time(example):
    process, trainer = waiting(example)
    failed(example.run("evaluate"), 1, "another harness is at work in", "wait for it")
    process.kill()
    process.communicate()
    failed(example.run("evaluate"), 1, "another harness is at work in")
    os.kill(trainer, signal.SIGKILL)
    assert gone(trainer)
    failed(example.run("evaluate"), 1, "there is no candidate.ckpt")


def test_a_trainer_that_does_not_end_is_killed(example, capfd, monkeypatch):
    """And its child. In this process, since the limit is minutes."""
    example.trainer("trap '' TERM; sleep 100 & echo $! > pid; wait")
    harness = in_process(example, monkeypatch)
    monkeypatch.setattr(harness, "START_SECONDS", 0.3)
    monkeypatch.setattr(harness.processes, "GRACE_SECONDS", 0.3)
    failed(here(harness, example, capfd), 1, "the trainer did not end within 0.41 seconds and was killed")
    assert gone(int(example.log("pid")))


# ----------------------------------------------------------------------------------------------------------------------
# Lineage


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


# ----------------------------------------------------------------------------------------------------------------------
# The real programs


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


def test_the_limit_holds_for_a_program_that_never_stops_talking(tmp_path):
    processes = load("processes")
    done = processes.run(["yes"], tmp_path, os.environ, 0.2)
    assert done.status is None and done.last[-1] == "y"


def test_a_signal_within_the_start_of_a_program_ends_it_too(tmp_path, monkeypatch):
    processes = load("processes")
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *words, **options):
            super().__init__(*words, **options)
            started.append(self.pid)
            os.kill(os.getpid(), signal.SIGINT)  # before anybody has the object
            time.sleep(0.1)

    monkeypatch.setattr(processes.subprocess, "Popen", Popen)
    with pytest.raises(KeyboardInterrupt):
        processes.run(["sleep", "100"], tmp_path, os.environ, 60)
    assert len(started) == 1 and gone(started[0])
