"""Lineage: which checkpoint is resumed, what is left, and that a discarded attempt changes nothing.

pytest examples/llm_pretrain_ane/tests/test_ane_lineage.py
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from ane_modules import load
from ane_stubs import content as content_of
from ane_stubs import stub

lineage, folders = load("lineage"), load("folders")
ONE, OTHER = "0123456789abcdef", "fedcba9876543210"
TREES = {name: f"{i:x}" * 40 for i, name in enumerate(["base", "one", "two", "three", "four", "five", "six", "seven"])}


def checkpoint(path: Path, content: str, architecture: str = ONE) -> Path:
    path.write_bytes(stub(content, architecture))
    return path


class Project:
    """A lineage below `folder`, what ark would say to each run, and the bench where it is measured."""

    def __init__(self, folder: Path, bench: str = "bench") -> None:
        self.folder, self.root, self.time, self.attempts = folder, folder / "lineage", 0, 0
        self.bench = folder / bench
        self.data = folder / "tokens.bin"
        self.data.write_bytes(b"\1\0")

    def begin(self, tree: str, parent: str, tag: str = "run", architecture: str = ONE, attempt: int | None = None):
        """The first is attempt 0, as in a run."""
        number = self.attempts if attempt is None else attempt
        environment = {"ARK_TAG": tag, "ARK_TREE": TREES[tree], "ARK_PARENT_TREE": TREES[parent]}
        cycle = lineage.begin(
            self.root, self.bench, architecture, self.data, environment | {"ARK_ATTEMPT": str(number)}
        )
        self.attempts = number + 1
        return cycle

    def run(self, tree: str, parent: str, content: str = "", **how) -> str:
        """A cycle as the harness makes it; what it resumed, in the content's words."""
        cycle = self.begin(tree, parent, **how)
        resumed = content_of(cycle.resume) if cycle.resume else cycle.notice
        made = self.folder / "candidate.ckpt"
        made.unlink(missing_ok=True)
        checkpoint(made, content or tree, how.get("architecture", ONE))
        self.time += 10**9
        os.utime(made, ns=(self.time, self.time))
        lineage.save(cycle, made)
        return resumed

    def left(self, tag: str = "run") -> set[str]:
        """What all runs of the tag have left."""
        return {content_of(path) for path in (self.root / tag).glob("*/*")}


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


GONE = "the checkpoint of its parent is gone: "


def test_other_runs_and_other_tokens_have_lineages_of_their_own(project):
    project.run("base", "base")
    with pytest.raises(lineage.Failure, match=GONE):
        project.run("one", "base", tag="other")
    project.data.write_bytes(b"\1\0\2\0")
    with pytest.raises(lineage.Failure, match=GONE) as caught:
        project.run("two", "base")
    assert caught.value.hint == "begin a new run under another --tag"
    assert len(list((project.root / "run").iterdir())) == 2


def test_a_clone_with_the_same_tag_and_trees_has_a_lineage_of_its_own(project):
    """On ark's bench the harness's folder is one run's own."""
    project.run("base", "base")
    clone = Project(project.folder, "bench of a clone")
    assert clone.run("base", "base", "the clone's base") == "this is a baseline"
    assert clone.run("one", "base", "the clone's one") == "the clone's base"
    assert project.run("one", "base") == "base" and project.run("two", "one") == "one"
    assert clone.run("two", "one", "the clone's two") == "the clone's one"
    assert project.left() == {*("base", "one", "two"), *("the clone's base", "the clone's one", "the clone's two")}


def test_a_run_anew_under_an_old_tag_begins_with_nothing(project):
    project.run("base", "base")
    project.run("one", "base")
    other = Project(project.folder)
    notes = next((project.root / "run").iterdir()) / "notes.txt"
    checkpoint(notes, "notes")
    assert other.run("base", "base", "new base") == "this is a baseline"
    assert project.left() == {"new base", "notes"}
    assert other.run("one", "base", "new one") == "new base"
    assert other.run("two", "one") == "new one"


def test_the_base_commit_of_an_exam_or_a_look_at_the_noise_has_another_parent(project):
    for content in ("base", "base again"):
        assert project.run("one", "base", content, attempt=0) == "this is a baseline"
        assert project.left() == {content}
    assert project.run("two", "one") == "base again"


def test_a_verification_changes_no_lineage(project):
    """`ark verify` measures baseline and head under one number, and the head without a change; long after the baseline
    was deleted, too."""
    project.run("base", "base")
    project.run("one", "base")
    project.run("two", "one")
    for attempt in ("three", "four", "five", "six", "seven"):
        project.run(attempt, "two")
    before = project.left()
    assert "base" not in before
    assert project.run("base", "base", "verified base", attempt=9) == "this is a baseline"
    assert project.run("two", "one", "verified two", attempt=9) == "one"
    assert project.run("one", "two", "two without its change", attempt=9) == "two"
    assert {"one", "two"} <= project.left() <= before | {"verified base"}
    assert project.run("two", "one", "in turn") == "one"


def test_a_baseline_anew_deletes_nothing_and_is_gone_on_from(project):
    """ark measures the head as a baseline when the machine or the spec is another."""
    project.run("base", "base")
    for attempt in ("one", "two", "three", "four", "five", "six"):
        project.run(attempt, "base")
    before = project.left()
    assert project.run("one", "one", "one from scratch") == "this is a baseline"
    assert project.left() == before | {"one from scratch"}
    assert project.run("seven", "one") == "one from scratch"


def test_another_architecture_begins_from_scratch_and_can_be_a_parent(project):
    project.run("base", "base")
    assert project.run("one", "base", architecture=OTHER).endswith("has another architecture")
    assert project.run("two", "one", architecture=OTHER) == "one"
    assert project.run("three", "base") == "base"


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
    with pytest.raises(lineage.Failure, match=GONE):
        project.run("two", "one")  # through the link nothing is resumed
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
    environment = {"ARK_TAG": "run", "ARK_ATTEMPT": "1", "ARK_TREE": "../../x", "ARK_PARENT_TREE": TREES["base"]}
    with pytest.raises(lineage.Failure, match="not what ark sets"):
        lineage.begin(project.root, project.bench, ONE, project.data, environment)


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
    left_over = project.begin("base", "base")
    (left_over.folder / f"{left_over.result}.part").write_text("of a copy that was killed")
    project.run("base", "base", attempt=0)
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
    cycle = lineage.begin(project.root, project.bench, architecture, project.data, {})
    resumed = content_of(cycle.resume) if cycle.resume else cycle.notice
    made = project.folder / "candidate.ckpt"
    made.unlink(missing_ok=True)
    lineage.save(cycle, checkpoint(made, content, architecture))
    return resumed


def test_by_hand_only_what_is_kept_is_resumed(project):
    assert by_hand(project, "first").startswith("there is no ")
    assert by_hand(project, "second").startswith("there is no ")
    assert content_of(lineage.keep(project.root)) == "second"
    assert by_hand(project, "worse") == "second"
    assert by_hand(project, "better") == "second", "the worse one was not kept"
    lineage.keep(project.root)
    assert by_hand(project, "other", OTHER).endswith("has another architecture")
    assert content_of(project.root / "kept.ckpt") == "better"


def test_a_run_that_fails_leaves_nothing_to_keep(project):
    by_hand(project, "first")
    lineage.begin(project.root, project.bench, ONE, project.data, {})
    with pytest.raises(lineage.Failure, match="to keep"):
        lineage.keep(project.root)


def test_only_a_whole_candidate_is_kept(project):
    by_hand(project, "first")
    lineage.keep(project.root)
    whole = stub("second", ONE)
    flips = [bytes(b ^ (i == at) for i, b in enumerate(whole)) for at in (20, len(whole) - 8, len(whole) - 1)]
    candidate = project.root / "candidate.ckpt"
    for damaged in (whole[:8], whole[:-10], whole[:-4], whole[:-1], whole + b"\0", b"", *flips):
        candidate.write_bytes(damaged)
        with pytest.raises(lineage.Failure, match="is no whole checkpoint"):
            lineage.keep(project.root)
        assert content_of(project.root / "kept.ckpt") == "first" and candidate.read_bytes() == damaged
    candidate.write_bytes(whole)
    assert content_of(lineage.keep(project.root)) == "second"


def test_a_candidate_that_cannot_be_read_is_not_kept(project, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    by_hand(project, "first")
    monkeypatch.setattr(lineage, "open", refuse, raising=False)
    with pytest.raises(lineage.Failure, match=r"candidate\.ckpt cannot be read: Permission denied"):
        lineage.keep(project.root)


@pytest.mark.parametrize("inner", ["", "inner"], ids=["a file", "below a file"])
def test_a_lineage_that_is_no_folder(project, inner):
    project.root.write_text("mine")
    with pytest.raises(lineage.Failure, match=f"{project.root}.*(is no folder|Not a directory)"):
        lineage.begin(project.root / inner, project.bench, ONE, project.data, {})
    assert project.root.read_text() == "mine"


def test_a_link_is_not_resumed_by_hand(project):
    by_hand(project, "first")
    (project.root / "kept.ckpt").symlink_to(project.root / "candidate.ckpt")
    with pytest.raises(lineage.Failure, match="is no plain file"):
        by_hand(project, "second")


@pytest.mark.parametrize(("name", "what"), [("candidate", "a folder"), ("kept", "no plain file")])
def test_a_folder_in_place_of_a_checkpoint_is_named_with_what_removes_it(project, name, what):
    path = project.root / f"{name}.ckpt"
    path.mkdir(parents=True)
    with pytest.raises(lineage.Failure, match=f"{path} is {what}") as caught:
        by_hand(project, "first")
    assert caught.value.hint == f"rm -r {path}"


def test_another_that_leaves_its_result_is_waited_for_but_not_for_ever(project, monkeypatch):
    cycle = lineage.begin(project.root, project.bench, ONE, project.data, {})
    made = checkpoint(project.folder / "candidate.ckpt", "made")
    other = os.open(project.root, os.O_RDONLY)
    folders.fcntl.flock(other, folders.fcntl.LOCK_EX)
    ends = threading.Timer(0.5, os.close, [other])
    try:
        monkeypatch.setattr(lineage, "PATIENCE_SECONDS", 0.1)
        with pytest.raises(lineage.Failure, match="another harness is at work in") as caught:
            lineage.save(cycle, made)
        assert "wait for it" in caught.value.hint and not (project.root / "candidate.ckpt").exists()
        monkeypatch.setattr(lineage, "PATIENCE_SECONDS", 60)
    finally:
        ends.start()
    lineage.save(cycle, made)
    assert content_of(project.root / "candidate.ckpt") == "made"
