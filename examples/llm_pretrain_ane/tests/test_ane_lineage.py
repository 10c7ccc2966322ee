"""Lineage: which checkpoint is resumed, what is left, and that a discarded attempt changes nothing.

pytest examples/llm_pretrain_ane/tests/test_ane_lineage.py
"""

from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path

import pytest
from ane_modules import load

lineage = load("lineage")
ONE, OTHER = "0123456789abcdef", "fedcba9876543210"
TREES = {name: f"{i:x}" * 40 for i, name in enumerate(["base", "one", "two", "three", "four", "five", "six", "seven"])}


def checkpoint(path: Path, content: str, architecture: str = ONE) -> Path:
    """What the lineage sees of a checkpoint: a sound header, and something behind it."""
    header = (b"ARKANE01" + bytes(8) + architecture.encode()).ljust(204, b"\0")
    path.write_bytes(header + zlib.crc32(header).to_bytes(4, "little") + content.encode())
    return path


class Project:
    """A lineage below `folder`, and what ark would say to each run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.time = folder, folder / "lineage", 0
        self.data = folder / "tokens.bin"
        self.data.write_bytes(b"\1\0")

    def begin(self, tree: str, parent: str, tag: str = "run", architecture: str = ONE):
        environment = {"ARK_TAG": tag, "ARK_TREE": TREES[tree], "ARK_PARENT_TREE": TREES[parent]}
        return lineage.begin(self.root, architecture, self.data, environment)

    def run(self, tree: str, parent: str, content: str = "", **how: str) -> str:
        """A cycle as the harness makes it; what it resumed, in the content's words."""
        cycle = self.begin(tree, parent, **how)
        resumed = cycle.resume.read_bytes()[208:].decode() if cycle.resume else cycle.notice
        made = self.folder / "candidate.ckpt"
        made.unlink(missing_ok=True)
        checkpoint(made, content or tree, how.get("architecture", ONE))
        self.time += 10**9
        os.utime(made, ns=(self.time, self.time))
        lineage.save(cycle, made)
        return resumed

    def left(self, tag: str = "run") -> set[str]:
        (folder,) = (self.root / tag).iterdir()
        return {path.read_bytes()[208:].decode() for path in folder.iterdir()}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_an_attempt_goes_on_from_what_its_parent_left(project):
    assert project.run("base", "base") == "this is a baseline"
    assert project.run("one", "base") == "base"
    assert project.run("two", "base") == "base", "one was discarded"
    assert project.run("three", "two") == "two", "two was kept"
    assert project.left() == {"base", "one", "two", "three"}


def test_measured_again_the_first_result_stays(project):
    project.run("base", "base")
    project.run("one", "base")
    assert project.run("one", "base", "one, by luck") == "base"
    assert project.run("base", "base", "base again") == "this is a baseline"
    assert project.left() == {"base", "one"}


def test_other_runs_and_other_tokens_have_lineages_of_their_own(project):
    project.run("base", "base")
    assert "left no checkpoint" in project.run("one", "base", tag="other")
    project.data.write_bytes(b"\1\0\2\0")
    assert "left no checkpoint" in project.run("two", "base")
    assert len(list((project.root / "run").iterdir())) == 2


def test_another_architecture_begins_from_scratch_and_can_be_a_parent(project):
    project.run("base", "base")
    assert project.run("one", "base", architecture=OTHER).endswith("has another architecture")
    assert project.run("two", "one", architecture=OTHER) == "one"
    assert project.run("three", "base") == "base"


def test_the_newest_of_a_tree_that_came_back_is_resumed(project):
    project.run("base", "base")
    project.run("one", "base")
    project.run("base", "one", "base again")
    assert project.run("two", "base") == "base again"


def test_four_others_stay_and_the_line_of_the_best(project):
    """Base, one and two were kept, then nothing."""
    project.run("base", "base")
    project.run("one", "base")
    project.run("two", "one")
    for attempt in ("three", "four", "five", "six", "seven"):
        assert project.run(attempt, "two") == "two"
    assert project.left() == {"one", "two", "seven", "three", "four", "five", "six"}, "the last four are the others"
    assert project.run("two", "one", "the best in turn") == "one"
    assert project.left() == {"one", "two", "four", "five", "six", "seven"}


def test_other_names_and_links_are_left_alone(project):
    project.run("base", "base")
    folder = next((project.root / "run").iterdir())
    outside = checkpoint(project.folder / "outside.ckpt", "outside")
    link = folder / f"{TREES['one'][:16]}-{TREES['base'][:16]}.ckpt"
    link.symlink_to(outside)
    (folder / "notes.txt").write_text("mine")
    assert "left no checkpoint" in project.run("two", "one"), "through the link nothing is resumed"
    assert project.run("one", "base") == "base"
    for attempt in ("three", "four", "five", "six", "seven"):
        project.run(attempt, "base")
    assert link.is_symlink() and outside.exists() and (folder / "notes.txt").read_text() == "mine"


def test_a_link_in_place_of_the_folder_is_refused(project):
    project.root.mkdir()
    (project.folder / "elsewhere").mkdir()
    (project.root / "run").symlink_to(project.folder / "elsewhere")
    with pytest.raises(lineage.Failure, match="is a link and no folder"):
        project.begin("base", "base")
    assert not list((project.folder / "elsewhere").iterdir())


@pytest.mark.parametrize("tag", ["", "..", "a/b", "a b", "x" * 200], ids=["none", "up", "slash", "space", "long"])
def test_what_ark_does_not_set_is_refused(project, tag):
    with pytest.raises(lineage.Failure, match="not what ark sets"):
        project.begin("base", "base", tag=tag)


def test_an_odd_tree_is_refused(project):
    environment = {"ARK_TAG": "run", "ARK_TREE": "../../x", "ARK_PARENT_TREE": TREES["base"]}
    with pytest.raises(lineage.Failure, match="not what ark sets"):
        lineage.begin(project.root, ONE, project.data, environment)


def test_a_damaged_header_is_left_to_the_trainer(project):
    """A flipped bit in the digest must not look like another architecture."""
    project.run("base", "base")
    (path,) = next((project.root / "run").iterdir()).iterdir()
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    assert project.begin("one", "base").resume == path


@pytest.mark.parametrize("error", [errno.EXDEV, errno.EPERM], ids=["other file system", "no links"])
def test_without_hard_links_it_is_a_copy(project, monkeypatch, error):
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(lineage.os, "link", refuse)
    project.run("base", "base")
    assert project.run("one", "base") == "base" and project.left() == {"base", "one"}


def test_a_full_disk_leaves_nothing_behind(project, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lineage.os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "other disk")))
    monkeypatch.setattr(lineage.shutil, "copyfileobj", full)
    with pytest.raises(lineage.Failure, match="cannot be written: No space left"):
        project.run("base", "base")
    assert project.left() == set()


def by_hand(project: Project, content: str, architecture: str = ONE) -> str:
    cycle = lineage.begin(project.root, architecture, project.data, {})
    resumed = cycle.resume.read_bytes()[208:].decode() if cycle.resume else cycle.notice
    made = project.folder / "candidate.ckpt"
    made.unlink(missing_ok=True)
    lineage.save(cycle, checkpoint(made, content, architecture))
    return resumed


def test_by_hand_only_what_is_kept_is_resumed(project):
    assert by_hand(project, "first").startswith("there is no ")
    assert by_hand(project, "second").startswith("there is no ")
    assert lineage.keep(project.root).read_bytes()[208:] == b"second"
    assert by_hand(project, "worse") == "second"
    assert by_hand(project, "better") == "second", "the worse one was not kept"
    lineage.keep(project.root)
    assert by_hand(project, "other", OTHER).endswith("has another architecture")
    assert (project.root / "kept.ckpt").read_bytes()[208:] == b"better"


def test_a_run_that_fails_leaves_nothing_to_keep(project):
    by_hand(project, "first")
    lineage.begin(project.root, ONE, project.data, {})
    with pytest.raises(lineage.Failure, match="to keep"):
        lineage.keep(project.root)


def test_only_a_whole_candidate_is_kept(project):
    by_hand(project, "first")
    lineage.keep(project.root)
    (project.root / "candidate.ckpt").write_bytes(b"ARKANE01")
    with pytest.raises(lineage.Failure, match="is no whole checkpoint"):
        lineage.keep(project.root)
    assert (project.root / "kept.ckpt").read_bytes()[208:] == b"first"


def test_a_link_is_not_resumed_by_hand(project):
    by_hand(project, "first")
    (project.root / "kept.ckpt").symlink_to(project.root / "candidate.ckpt")
    with pytest.raises(lineage.Failure, match="is no plain file"):
        by_hand(project, "second")
