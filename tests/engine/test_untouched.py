"""The user's checkout is the same before and after any campaign, whatever state it is in and whatever the agent does.

pytest tests/engine/test_untouched.py [-m slow]
"""

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

Tiny = Any  # see conftest.py

# What a run may add to the git folder. `logs` are those of the run's own branch.
MAY_APPEAR = (
    "ark", "refs/ark", "refs/heads/autoresearch", "objects", "logs/refs/heads/autoresearch", "logs/refs/ark",
    "info/exclude", "info",
)  # fmt: skip
DESTRUCTIVE = """
git stash list; git reset -q --hard; git clean -qfdx; git checkout -q --orphan gone; git branch -D autoresearch/t
git update-ref -d HEAD; git worktree prune; git submodule deinit -qf --all; git gc -q --prune=now
find .. -maxdepth 2 -name .git -exec rm -rf {} +
chmod -R u+w . ; rm -rf ./* ./.[a-z]*
"""


def picture(root: Path) -> dict[str, tuple[object, ...]]:
    """Every file of the checkout and of its git folder: type, permissions, time of change, content."""
    found: dict[str, tuple[object, ...]] = {}
    for here, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(here, name)
            state = path.lstat()
            content: object = b""
            if stat.S_ISLNK(state.st_mode):
                content = path.readlink()
            elif stat.S_ISREG(state.st_mode):
                content = path.read_bytes()
            moment = 0 if stat.S_ISDIR(state.st_mode) else state.st_mtime_ns
            found[str(path.relative_to(root))] = (state.st_mode, state.st_ino, moment, content)
    return found


def unexpected(before: dict[str, tuple[object, ...]], after: dict[str, tuple[object, ...]], folder: str) -> list[str]:
    """What differs and may not."""
    differing = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    wrong = []
    for path in sorted(differing):
        inner = path.removeprefix(".git/")
        ours = inner != path and any(inner == name or inner.startswith(name + "/") for name in MAY_APPEAR)
        new = path not in before or inner in ("info/exclude", "objects", "refs/heads", "logs/refs/heads")
        if not new or not (ours or path == str(Path(folder, "results.tsv"))):
            wrong.append(path)
    return wrong


NAMES = ["a.txt", "sub folder/b.txt", "sub folder/é/ü ñ.txt", "x\ny", "deep/er/c", "*.txt", "-n", "train.sh"]
actions = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["edit", "stage", "delete", "exec", "link", "untracked"]), st.sampled_from(NAMES)),
        st.tuples(st.just("ignored"), st.sampled_from(["junk.log", "build/out.o", "sub folder/y.log"])),
        st.tuples(st.sampled_from(["stash", "empty folder", "commit", "intent", "conflict"]), st.just("")),
    ),
    max_size=10,
)


def make_dirty(tiny: Tiny, todo: list[tuple[str, str]]) -> None:
    for number, (action, name) in enumerate(todo):
        path = tiny.folder / name
        if action in ("edit", "stage", "untracked", "ignored", "exec", "link") and path.parent.exists() is False:
            path.parent.mkdir(parents=True)
        if action in ("edit", "stage", "untracked", "ignored"):
            if path.is_symlink():
                path.unlink()
            path.write_text(f"{action} {number}\n")
        if action in ("exec", "stage") and path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode ^ 0o111)
        if action == "link":
            path.unlink(missing_ok=True)
            path.symlink_to("/nowhere" if number % 2 else "a.txt")
        if action == "delete":
            path.unlink(missing_ok=True)
        if action == "stage":
            tiny.git("add", "--", str(path))
        if action == "stash":
            tiny.git("stash", "-q", ok=False)
        if action == "empty folder":
            (tiny.folder / f"empty {number}").mkdir(exist_ok=True)
        if action == "intent":
            tiny.write("new.txt", "x")
            tiny.git("add", "-N", "--", str(tiny.folder / "new.txt"), ok=False)


def campaign(tiny: Tiny) -> None:
    """A keep and a discard, then an agent that destroys what it can see."""
    done = tiny.play(
        f"""case $TURN in 1) answer 12;; 2) answer 5;; *) {DESTRUCTIVE}
        exit 1;; esac"""
    )
    assert done.outcomes == ["keep", "keep", "discard"]


def check(tiny: Tiny) -> None:
    before, heads = picture(tiny.root), tiny.git("stash", "list")
    status = tiny.git("--no-optional-locks", "status", "--porcelain", "--ignored", "-z")
    assert picture(tiny.root) == before, "looking at it changes nothing"
    campaign(tiny)
    assert unexpected(before, picture(tiny.root), str(tiny.folder.relative_to(tiny.root))) == []
    assert tiny.git("stash", "list") == heads
    now = tiny.git("--no-optional-locks", "status", "--porcelain", "--ignored", "-z")
    assert [line for line in now.split("\0") if not line.endswith("results.tsv")] == status.split("\0")
    assert tiny.git("fsck", "--no-dangling", "--connectivity-only") == ""


def fresh(template: Path, kind: type) -> Any:
    tmp = Path(tempfile.mkdtemp())
    os.environ["XDG_CACHE_HOME"] = str(tmp / "cache")
    return kind(shutil.copytree(template, tmp / "user", symlinks=True), tmp)


def dirty_and_check(template: Path, kind: type, todo: list[tuple[str, str]], detached: bool, inner: bool) -> None:
    tiny = fresh(template, kind)
    tiny.write(".gitignore", "*.log\nbuild/\n")
    for name in NAMES[:4]:
        tiny.write(name, f"{name}\n")
    if inner:
        tiny = kind(tiny.root, tiny.tmp, "in ner/é")
        for name in ("train.sh", "evaluate.sh"):
            tiny.write(name, (tiny.root / name).read_text())
        tiny.spec()
    tiny.commit()
    if detached:
        tiny.git("switch", "-q", "--detach")
    make_dirty(tiny, todo)
    check(tiny)
    shutil.rmtree(tiny.tmp)


quick = settings(
    max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), database=None, phases=[Phase.generate]
)  # a campaign takes half a second: shrinking would take an hour
thorough = settings(quick, max_examples=100)


@pytest.mark.slow
@quick
@given(todo=actions, detached=st.booleans(), inner=st.booleans())
def test_any_dirty_repository(_template: Path, tiny: Tiny, todo: list[Any], detached: bool, inner: bool) -> None:
    dirty_and_check(_template, type(tiny), todo, detached, inner)


@pytest.mark.slow
@pytest.mark.timeout(900)
@thorough
@given(todo=actions, detached=st.booleans(), inner=st.booleans())
def test_any_dirty_repository_again(_template: Path, tiny: Tiny, todo: list[Any], detached: bool, inner: bool) -> None:
    dirty_and_check(_template, type(tiny), todo, detached, inner)


@pytest.mark.slow
def test_a_submodule_that_is_linked(tiny: Tiny) -> None:
    subprocess.run(["git", "clone", "-q", str(tiny.root), str(tiny.tmp / "other")], check=True)
    tiny.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tiny.tmp / "other"), "sub")
    tiny.commit(link=["sub"])
    tiny.write("sub/untracked.txt", "mine\n")
    tiny.write("sub/train.sh", "edited\n")
    check(tiny)


@pytest.mark.slow
def test_a_sparse_checkout(tiny: Tiny) -> None:
    tiny.write("absent/big.txt", "big\n")
    tiny.write("present/x.txt", "x\n")
    tiny.write("train.sh", "cat absent/big.txt >/dev/null && echo 10 > answer.txt\n")
    tiny.commit()
    tiny.git("sparse-checkout", "set", "present")
    assert not (tiny.root / "absent").exists()
    tiny.write("present/x.txt", "edited\n")
    check(tiny)


@pytest.mark.slow
def test_in_the_middle_of_a_conflict(tiny: Tiny) -> None:
    tiny.git("switch", "-qc", "side")
    tiny.write("train.sh", "echo 11 > answer.txt\n")
    tiny.commit()
    tiny.git("switch", "-q", "main")
    tiny.write("train.sh", "echo 10 >answer.txt\n")
    tiny.commit()
    tiny.git("merge", "side", ok=False)
    assert "UU train.sh" in tiny.git("status", "--porcelain")
    check(tiny)


@pytest.mark.slow
def test_in_a_linked_worktree(tiny: Tiny) -> None:
    other = tiny.tmp / "linked"
    tiny.git("worktree", "add", "-q", "-b", "side", str(other))
    (tiny.root / "train.sh").write_text("edited\n")
    before, beside = picture(tiny.root), picture(other)
    linked = type(tiny)(other, tiny.tmp)
    linked.write("untracked.txt", "x")
    beside = picture(other)
    campaign(linked)
    after = picture(other)
    assert {path for path in beside.keys() | after.keys() if beside.get(path) != after.get(path)} == {"results.tsv"}
    assert unexpected(before, picture(tiny.root), ".") == []


@pytest.mark.slow
def test_hooks_and_monitors_of_the_user_are_not_started(tiny: Tiny) -> None:
    flag = tiny.tmp / "started"
    for name in ("post-checkout", "reference-transaction", "post-index-change", "pre-commit", "post-commit"):
        hook = tiny.root / ".git/hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\necho {name} >> {flag}\n")
        hook.chmod(0o755)
    tiny.git("config", "core.fsmonitor", f"touch {flag}; false")
    tiny.play("answer 12", attempts=1)
    assert not flag.exists()


@pytest.mark.slow
def test_every_verb_that_reads_changes_nothing(tiny: Tiny) -> None:
    tiny.write("train.sh", "edited\n")
    os.utime(tiny.folder / "evaluate.sh")  # the index is out of date: `git status` would refresh it
    tiny.play("answer 12", attempts=1)
    before = picture(tiny.root)
    for args in (["status"], ["log"], ["show", "t/1"], ["log", "--json"], ["check"], ["clean"]):
        assert tiny.ark_here(*args).returncode == 0, args
        assert picture(tiny.root) == before, args
