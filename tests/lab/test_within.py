"""Whoever works on a desk while the engine does swaps a folder for a link: nothing that the link leads to is touched.

pytest tests/lab/test_within.py
"""

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.lab import cache
from autoresearch_kit.lab.desk import Desk, Place, Refused
from autoresearch_kit.lab.within import Within
from autoresearch_kit.ledger.git import Entry, Repository

FILES = ("fixed.py", "src/a.py", "src/deep/b.py")
USES = {"open", "scandir", "listdir", "chmod", "mkdir", "unlink", "remove", "rename", "replace", "rmdir", "symlink"}
"""What a program does with a path after it has looked at it."""

pytestmark = pytest.mark.usefixtures("home")


@dataclass
class Scene:
    """A desk with an agent at work, and something of the user's to which a link may lead."""

    repository: Repository
    desk: Desk
    head: str
    files: dict[str, Entry]
    victim: Path
    aside: Path

    def lay(self) -> None:
        self.desk.lay(self.head, "autoresearch/t", self.files, {"program.md": b"program\n"})

    def swap(self, path: str) -> None:
        """What an agent does at the worst moment: `path` becomes a link."""
        target = self.desk.root / path
        with contextlib.suppress(OSError):
            target.rename(self.aside)
        with contextlib.suppress(OSError):
            target.symlink_to(self.victim / "file" if path.endswith("config") else self.victim)

    def swap_back(self, path: str) -> None:
        """As it was, so that it cannot be seen later."""
        with contextlib.suppress(OSError):
            (self.desk.root / path).unlink()
            self.aside.rename(self.desk.root / path)

    def seen(self) -> dict[str, tuple[int, bytes]]:
        """Modes and content of what is the user's."""
        return {
            str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
            for path in (self.victim, *self.victim.rglob("*"))
        }


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    user, victim = tmp_path / "user", tmp_path / "victim"
    for path in FILES:
        (user / path).parent.mkdir(parents=True, exist_ok=True)
        (user / path).write_text(f"# {path}\n")
    for words in ("init -q", "add .", "commit -qm start"):
        subprocess.run(["git", *words.split()], cwd=user, check=True)
    # The user's own holds what the engine writes, and what it removes.
    for path in ("a.py", "deep/b.py", "new/c.py", "junk/x", "config", "HEAD", "refs/heads/autoresearch/t", "file"):
        (victim / path).parent.mkdir(parents=True, exist_ok=True)
        (victim / path).write_text("years of it")
    victim.chmod(0o711)
    repository = Repository(user)
    head = repository.head()
    desk = Desk(repository, tmp_path / "cache/desk", head, Place.of("", "x.yaml", ["src/"]), {})
    scene = Scene(repository, desk, head, repository.files(head), victim, tmp_path / "aside")
    scene.lay()
    yield scene
    repository.close()


def edit(scene: Scene) -> None:
    entry = Entry(0o100644, scene.repository.store_blob(b"new = 1\n"))
    kept = {path: found for path, found in scene.files.items() if path != "src/a.py"}
    scene.desk.edit({**kept, "src/deep/b.py": entry, "src/new/c.py": entry})


def lay_what_is_lent(scene: Scene) -> None:
    """As another process goes on with the desk."""
    desk = Desk(scene.repository, scene.desk.root, scene.head, Place.of("", "x.yaml", ["src/"]), {})
    desk.take_up(scene.head, scene.files, {})
    inode = desk.root.stat().st_ino
    try:
        desk.lay(scene.head, "autoresearch/t", scene.files, {})
    finally:
        assert desk.root.stat().st_ino == inode, "somebody works in it"


DONE: dict[str, tuple[Callable[[Scene], object], str]] = {
    "sweep and write": (Scene.lay, "src"),
    "sweep and write below": (Scene.lay, "src/deep"),
    "sweep what is not kept": (lambda scene: scene.desk._folder.lay(scene.files, lambda path: False), "src/junk"),
    "lay what is lent": (lay_what_is_lent, "src"),
    "put": (lambda scene: scene.desk.put({"src/new/c.py": b"mine"}), "src"),
    "put below": (lambda scene: scene.desk.put({"src/new/c.py": b"mine"}), "src/new"),
    "edit": (edit, "src"),
    "edit below": (edit, "src/new"),
    "make a folder": (lambda scene: scene.desk._folder.make_folder("src/new/er"), "src"),
    "remove": (lambda scene: cache.remove(scene.desk.root), "src"),
    "remove below": (lambda scene: cache.remove(scene.desk.root), "src/junk"),
    "the git folder": (Scene.lay, ".git"),
    "its configuration": (Scene.lay, ".git/config"),
    "its refs": (Scene.lay, ".git/refs/heads"),
}


def swapped_at(scene: Scene, do: Callable[[], object], path: str, moment: int, back: bool = False) -> int:
    """Lay the desk, let an agent change it, then `do`; swap before that use of the file system, and count the uses.

    `back` is for a link that is gone before the next use.
    """
    cache.remove(scene.aside)
    scene.lay()
    for junk in ("src/junk/x", "src/junk/inner/y", "src/new/c.py", "src/config"):
        (scene.desk.root / junk).parent.mkdir(parents=True, exist_ok=True)
        (scene.desk.root / junk).write_text("junk")
    (scene.desk.root / "src/a.py").write_text("changed = 1\n")
    uses = 0

    def watch(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal uses
        if event == "c_call" and arg.__module__ in ("posix", "_io") and arg.__name__ in USES:
            if uses == moment:
                scene.swap(path)
            if back and uses == moment + 1:
                scene.swap_back(path)
            uses += 1

    sys.setprofile(watch)
    try:
        with contextlib.suppress(ArkError):
            do()
    finally:
        sys.setprofile(None)
    assert uses
    return uses


SLOW = (
    "lay what is lent",
    "its configuration",
    "sweep and write below",
    "its refs",
    "remove below",
    "put below",
    "edit below",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in DONE]
)
def test_a_folder_is_swapped_for_a_link_at_the_worst_moment(scene: Scene, name: str) -> None:
    """Before each single use of the file system in turn."""
    do, path = DONE[name]
    before = scene.seen()
    for moment in range(-1, swapped_at(scene, lambda: do(scene), path, -1)):
        swapped_at(scene, lambda: do(scene), path, moment)
        assert scene.seen() == before, f"at use {moment}"
    cache.remove(scene.aside)
    scene.lay()
    assert scene.desk.compose() == {}


def test_a_link_that_lies_there_already(scene: Scene) -> None:
    """A measurement was cancelled, and what was given back to the desk once went through the link into the user's."""
    before = scene.seen()
    for path in ("src/new", "src/deep"):
        shutil.rmtree(scene.desk.root / path, ignore_errors=True)
        (scene.desk.root / path).symlink_to(scene.victim)
    edit(scene)
    scene.desk.put({"src/deep/b.py": b"mine"})
    scene.desk._folder.make_folder("src/deep/er")
    assert scene.seen() == before
    assert (scene.desk.root / "src/new/c.py").read_text() == "new = 1\n"
    assert (scene.desk.root / "src/deep/b.py").read_text() == "mine"


@pytest.mark.slow
def test_nothing_is_read_through_a_link(scene: Scene) -> None:
    """The agent could not read it itself where a sandbox keeps it in."""
    secret = scene.repository.store_blob(b"years of it")
    taken: list[Entry | None] = []

    def compose() -> None:
        with contextlib.suppress(Refused):
            taken.extend(scene.desk.compose().values())

    for moment in range(-1, swapped_at(scene, compose, "src", -1)):
        swapped_at(scene, compose, "src", moment, back=True)
        assert secret not in {entry.oid for entry in taken if entry}, f"at use {moment}"
    assert taken


def test_a_file_gives_way_to_a_folder_in_an_edit(scene: Scene) -> None:
    """The order was that of a set: a new file below could be removed with the old one."""
    files = {f"src/deep/b.py/{number}": scene.files["fixed.py"] for number in range(20)}
    scene.desk.edit(files)
    assert len(list((scene.desk.root / "src/deep/b.py").iterdir())) == 20


ATTACK = """
import os, sys
victim = sys.argv[1]
def do(call, *args):
    try: call(*args)
    except OSError: pass
while True:
    for name in ("src", "src/deep", "src/new", "src/junk", ".git", ".git/refs"):
        do(os.rename, name, "moved"); do(os.symlink, victim, name)
        do(os.unlink, name); do(os.rename, "moved", name)
    do(os.mkdir, ".git"); do(os.symlink, victim + "/file", ".git/config"); do(os.symlink, victim + "/HEAD", ".git/HEAD")
    do(os.makedirs, "src/junk/inner/most")
    for name in ("src/junk/x", "src/junk/inner/y", "src/a.py"):
        try: open(name, "x").close()
        except OSError: pass
"""


@pytest.mark.slow
def test_a_process_that_swaps_without_end(scene: Scene) -> None:
    before = scene.seen()
    scene.desk.take_up(scene.head, scene.files, {})
    inode = scene.desk.root.stat().st_ino
    # What it writes itself may go through its own links, but that is no file of these names that exists.
    agent = subprocess.Popen([sys.executable, "-c", ATTACK, str(scene.victim)], cwd=scene.desk.root)
    laid = 0
    try:
        ends = time.monotonic() + 6
        while time.monotonic() < ends:
            for do in (Scene.lay, edit, DONE["put"][0], DONE["make a folder"][0]):
                with contextlib.suppress(ArkError):
                    do(scene)
                    laid += 1
            with contextlib.suppress(Refused):
                scene.desk.compose()
            with contextlib.suppress(ArkError):
                cache.remove(scene.desk.root / "src")
    finally:
        agent.kill()
        agent.wait()
    after = scene.seen()
    assert {path: after.get(path) for path in before} == before
    assert laid
    scene.lay()
    assert scene.desk.compose() == {}
    assert scene.desk.root.stat().st_ino == inode


# The descriptors themselves


def test_within(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x").write_text("x")
    (root / "link").symlink_to("../outside")
    os.mkfifo(root / "pipe")
    open_before = len(list(Path("/dev/fd").iterdir()))
    with Within(root) as inside:
        inside.write("a/b/c", b"abc")
        assert (inside.read("a/b/c"), inside.read("a/b/c", 2)) == (b"abc", b"ab")
        assert sorted(inside.scan("")) == [("a", "folder"), ("link", "other"), ("pipe", "other")]
        with pytest.raises(FileExistsError):
            inside.write("a/b/c", b"")
        for path in ("link/x", "link"):
            with pytest.raises(OSError, match="A symbolic link is in the way") as caught:
                inside.read(path)
            assert (caught.value.errno, caught.value.filename) == (errno.ELOOP, "link")
        for path in ("pipe", "a"):
            with pytest.raises(OSError, match="Not a plain file"):
                inside.read(path)
        for path in ("../outside/x", "a/../../outside/x", "a/.", "a//b", "/etc/passwd", ".."):
            with pytest.raises(OSError, match="No path of a file"):
                inside.read(path)
        inside.remove("link/x")
        assert (tmp_path / "outside/x").exists()
        inside.write("link/y", b"")  # the link gives way
        assert stat.S_ISDIR(inside.stat("link").st_mode)
        inside.remove("a")
        inside.write("a/b/c", b"again")
        with pytest.raises(OSError, match="File name too long"):
            inside.stat("d/" * 3000 + "d")
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["x"]
    assert len(list(Path("/dev/fd").iterdir())) == open_before
    (tmp_path / "bent").symlink_to(root)
    with pytest.raises(OSError, match="A symbolic link is in the way"):
        Within(tmp_path / "bent")


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "free some space"), (errno.EPERM, "what is locked there"), (errno.ELOOP, "end what still writes")],
)
def test_the_hint_fits_the_error(scene: Scene, code: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An immutable file once led to the advice to free some space."""

    real = os.unlink

    def fail(name: str, **also: Any) -> None:
        if name == "immutable":
            raise OSError(code, os.strerror(code))
        real(name, **also)

    scene.desk.take_up(scene.head, scene.files, {})
    (scene.desk.root / "src/immutable").write_text("x")
    monkeypatch.setattr(os, "unlink", fail)
    with pytest.raises(ArkError) as caught:
        scene.desk._folder.lay(scene.files)
    assert words in caught.value.hint
