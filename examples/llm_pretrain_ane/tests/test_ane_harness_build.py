"""What the harness builds, when anew, and what it says where it cannot."""

from __future__ import annotations

import os
import re
import shutil

import pytest
from ane_example import Example, failed, full_disk, here, in_process
from ane_modules import EXAMPLE


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
