"""The desk: what is taken from it, what is refused, and that nothing planted there is ever executed.

pytest tests/lab/test_desk.py
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoresearch_kit.lab import cache
from autoresearch_kit.lab import desk as desk_module
from autoresearch_kit.lab.desk import Desk, Place, Refused, read_links
from autoresearch_kit.ledger.git import Repository

FILES = {
    "train.py": "print(1)\n",
    "fixed.py": "print(2)\n",
    "src/a.py": "a = 1\n",
    "src/deep/b.py": "b = 1\n",
    "src/data.txt": "data\n",
    "lib/x.py": "x = 1\n",
    ".gitignore": "*.log\nsrc/cache/\n",
}
MUTABLE = ["train.py", "src/**/*.py", "lib/"]


def git(folder: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *args], capture_output=True, check=True, text=True).stdout.strip()


pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def template(home: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "user"
    for path, text in FILES.items():
        (root / "proj" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "proj" / path).write_text(text)
    (root / "other.py").write_text("not in the folder of the spec\n")
    git(root.parent, "init", "-q", str(root))
    git(root, "add", ".")
    git(root, "commit", "-qm", "start")
    return root


class Laid:
    """A desk that was laid once; the spec is in the folder `proj`."""

    def __init__(self, root: Path) -> None:
        self.repository = Repository(root)
        self.head = self.repository.head()
        self.files = self.repository.files(self.head)
        place = Place.of("proj/", "autoresearch-config.yaml", MUTABLE)
        self.desk = Desk(self.repository, root.parent / "cache/desk", self.head, place, {})
        self.lay()

    def lay(self) -> None:
        self.desk.lay(self.head, "autoresearch/t", self.files, {"program.md": b"program\n", ".ark/prompt.md": b"p\n"})

    def compose(self) -> dict[str, str | None]:
        """What was changed, with the content taken."""
        found = self.desk.compose()
        return {path: entry and self.repository.blob(entry.oid).decode() for path, entry in found.items()}


@pytest.fixture
def user(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "user", symlinks=True)


@pytest.fixture(scope="module")
def shared(template: Path) -> Laid:
    """One desk for many turns, as in a run."""
    return Laid(template)


@pytest.fixture
def laid(shared: Laid) -> Laid:
    shared.lay()
    return shared


# Taken


def test_nothing_changed(laid: Laid) -> None:
    assert laid.compose() == {}
    (laid.desk.folder / "train.py").write_text("print(1)\n")
    os.utime(laid.desk.folder / "src/a.py")
    assert laid.compose() == {}


def test_changed_new_and_deleted_files(laid: Laid) -> None:
    folder = laid.desk.folder
    (folder / "train.py").write_text("print(3)\n")
    (folder / "src/a.py").unlink()
    (folder / "src/new/er").mkdir(parents=True)
    (folder / "src/new/er/c.py").write_text("c = 1\n")
    (folder / "lib/data.bin").write_text("any name below\n")
    assert laid.compose() == {
        "proj/train.py": "print(3)\n",
        "proj/src/a.py": None,
        "proj/src/new/er/c.py": "c = 1\n",
        "proj/lib/data.bin": "any name below\n",
    }


def test_the_executable_bit_is_taken(laid: Laid) -> None:
    (laid.desk.folder / "train.py").chmod(0o755)
    assert {path: entry and entry.mode for path, entry in laid.desk.compose().items()} == {"proj/train.py": 0o100755}


def test_everything_deleted(laid: Laid) -> None:
    for path in laid.desk.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    assert laid.compose() == dict.fromkeys(["proj/train.py", "proj/src/a.py", "proj/src/deep/b.py", "proj/lib/x.py"])
    laid.lay()
    assert laid.compose() == {}


def test_a_desk_that_is_gone_is_no_proposal(laid: Laid) -> None:
    shutil.rmtree(laid.desk.root)
    with pytest.raises(Refused, match="the desk was deleted"):
        laid.desk.compose()
    laid.lay()
    assert laid.compose() == {}


def test_what_is_not_mutable_is_not_taken(laid: Laid) -> None:
    folder = laid.desk.folder
    for path in ("fixed.py", "src/data.txt", "src/new.txt", "sitecustomize.py", "../other.py", "../src/a.py",
                 "x/train.py", "autoresearch-config.yaml", "program.md", "results.tsv", "run.log", ".ark/x.py",
                 "Train.py", ".gitattributes", "train.py.orig"):  # fmt: skip
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("changed")
    assert laid.compose() == {}


def test_ignored_files_and_caches_are_not_taken(laid: Laid) -> None:
    folder = laid.desk.folder
    for path in ("lib/run.log", "src/cache/z.py", "src/__pycache__/a.py", "lib/__pycache__/x.cpython-311.pyc"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("junk")
    (folder / ".gitignore").write_text("*.py\n")  # the user's rules count, not the agent's
    (folder / "lib/.gitignore").write_text("*\n")
    (folder / "src/new.py").write_text("new = 1\n")
    assert laid.compose() == {"proj/src/new.py": "new = 1\n", "proj/lib/.gitignore": "*\n"}


@pytest.mark.parametrize(
    "name", ["a b.py", "-rf.py", "é.py", "a\nb.py", "*.py", "\udcff.py", "'\".py", "$(touch x).py"]
)
def test_odd_names_are_taken(laid: Laid, name: str) -> None:
    (laid.desk.folder / "src" / name).write_text("odd = 1\n")
    assert laid.compose() == {f"proj/src/{name}": "odd = 1\n"}


def test_rewriting_what_a_filter_made_is_no_change(user: Path) -> None:
    """The file on the desk has other bytes than its blob; it once counted as changed when it was merely saved."""
    git(user, "config", "core.autocrlf", "true")
    laid = Laid(user)
    path = laid.desk.folder / "train.py"
    assert path.read_bytes() == b"print(1)\r\n"
    path.unlink()
    path.write_bytes(b"print(1)\r\n")
    assert laid.compose() == {}


def test_a_tree_deeper_than_the_stack(laid: Laid) -> None:
    here = os.open(laid.desk.folder / "src", os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (laid.desk.folder / "train.py").write_text("print(3)\n")
    assert laid.compose() == {"proj/train.py": "print(3)\n"}


# Refused


def replaced(path: str, by: Callable[[Path], object]) -> Callable[[Path, Path], None]:
    def attack(folder: Path, outside: Path) -> None:
        target = folder / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        by(target)

    return attack


def outside_folder(path: str) -> Callable[[Path, Path], None]:
    """A folder on the way to mutable files becomes a link to somewhere else."""

    def attack(folder: Path, outside: Path) -> None:
        shutil.copytree(folder / path, outside / path, dirs_exist_ok=True)
        for file in (outside / path).rglob("*.py"):
            file.write_text("secret\n")
        shutil.rmtree(folder / path)
        (folder / path).symlink_to(outside / path)

    return attack


def bind(path: Path) -> None:
    os.chdir(path.parent)  # a socket's path has 108 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir("/")


def clone_into(path: Path) -> None:
    path.mkdir()
    git(path, "init", "-q")
    (path / "b.py").write_text("b = 2\n")


REFUSED: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "link": (replaced("train.py", lambda p: p.symlink_to("/etc/passwd")), "train.py is a symbolic link"),
    "dangling link": (replaced("train.py", lambda p: p.symlink_to("nowhere")), "train.py is a symbolic link"),
    "link to itself": (replaced("train.py", lambda p: p.symlink_to("train.py")), "train.py is a symbolic link"),
    "link under a glob": (replaced("src/new.py", lambda p: p.symlink_to("a.py")), "src/new.py is a symbolic link"),
    "folder": (replaced("train.py", lambda p: p.mkdir()), "train.py is a folder"),
    "folder under a glob": (replaced("src/a.py", lambda p: p.mkdir()), "src/a.py is a folder"),
    "pipe": (replaced("train.py", os.mkfifo), "train.py is a pipe"),
    "pipe under a glob": (replaced("lib/pipe", os.mkfifo), "lib/pipe is a pipe"),
    "socket": (replaced("lib/sock", bind), "lib/sock is a socket"),
    "file in place of a folder": (replaced("src/deep", lambda p: p.write_text("x")), "in the place of a folder"),
    "repository": (replaced("lib/sub", clone_into), "holds a git repository"),
    "repository over files": (replaced("src/deep", clone_into), "git repository|plain files only"),
    "folder of a glob to link": (outside_folder("src"), "src is a symbolic link"),
    "inner folder to link": (outside_folder("src/deep"), "src/deep is a symbolic link"),
    "folder below a slash to link": (outside_folder("lib"), "lib is a symbolic link"),
    "huge": (replaced("train.py", lambda p: (p.touch(), os.truncate(p, 65 << 20))), "larger than 64 MB"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(laid: Laid, tmp_path: Path, name: str) -> None:
    attack, words = REFUSED[name]
    attack(laid.desk.folder, tmp_path)
    with pytest.raises(Refused, match=words):
        laid.compose()
    laid.lay()
    assert laid.compose() == {}


def test_the_folder_of_the_spec_to_link(laid: Laid, tmp_path: Path) -> None:
    outside_folder("proj")(laid.desk.root, tmp_path)
    with pytest.raises(Refused, match="proj is a symbolic link"):
        laid.compose()
    laid.lay()
    assert (tmp_path / "proj/train.py").read_text() == "secret\n"


def test_too_many_and_too_much(laid: Laid, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        (laid.desk.folder / f"lib/{number}").write_text("x" * 100)
    monkeypatch.setattr(desk_module, "MAX_CHANGE_BYTES", 1500)
    with pytest.raises(Refused, match="together"):
        laid.compose()
    monkeypatch.setattr(desk_module, "MAX_FILES", 10)
    with pytest.raises(Refused, match="more than 10 mutable files"):
        laid.compose()


def test_a_folder_that_is_a_link_in_the_users_checkout(user: Path) -> None:
    """git check-ignore fails there, which once would have ended the run."""
    (user / "proj/src/big").symlink_to("/tmp")
    laid = Laid(user)
    (laid.desk.folder / "src/big").mkdir()
    (laid.desk.folder / "src/big/new.py").write_text("x = 1\n")
    with pytest.raises(Refused, match="cannot be told"):
        laid.compose()


def ungoverned(user: Path, patterns: list[str], links: dict[str, Path]) -> Desk:
    """A desk whose globs also match where other files lie."""
    repository = Repository(user)
    head = repository.head()
    desk = Desk(repository, user.parent / "cache/desk", head, Place.of("proj/", "x.yaml", patterns), links)
    desk.lay(head, "autoresearch/t", repository.files(head), {})
    return desk


@pytest.mark.parametrize(
    ("patterns", "remove", "new"),
    [
        (["s*"], "src", "src"),
        (["*/*.py"], "fixed.py", "fixed.py/x.py"),
        (["**/*.py", "d*"], "data", "data"),
    ],
)
def test_nothing_fixed_is_replaced(user: Path, patterns: list[str], remove: str, new: str) -> None:
    """A glob once let an agent put a file in the place of a fixed folder, and so remove what was in it."""
    (user / "big").mkdir()
    desk = ungoverned(user, patterns, {"proj/data/big": user / "big"})
    old = desk.folder / remove
    shutil.rmtree(old) if old.is_dir() else old.unlink()
    (desk.folder / new).parent.mkdir(exist_ok=True)
    (desk.folder / new).write_text("x = 1\n")
    with pytest.raises(Refused, match="not yours to change"):
        desk.compose()


@pytest.mark.parametrize(
    "name", ["git~1", ".git.", ".git ", ".g\u200cit", ".GIT. .", "a/Git~2/b", ".git::$INDEX_ALLOCATION", "x\\.git"]
)
def test_names_that_are_git_elsewhere(laid: Laid, name: str) -> None:
    path = laid.desk.folder / "lib" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    with pytest.raises(Refused, match="on some systems"):
        laid.compose()


# Planted


def plant(folder: Path, root: Path, flag: Path) -> None:
    """Everything by which a repository can have git run a program, in as many places as there are."""
    touch = f"touch {flag}"
    for where in (root, folder, folder / "lib"):
        if not (where / ".git").exists():
            subprocess.run(["git", "init", "-q", str(where)], check=True)
        config = where / ".git/config"
        with config.open("a") as file:
            file.write(
                f'[core]\n fsmonitor = "{touch}; false"\n hooksPath = {where}/hooks\n pager = "{touch}"\n'
                f' sshCommand = "{touch}"\n editor = "{touch}"\n attributesFile = {where}/attributes\n'
                f'[filter "evil"]\n clean = "{touch}; cat"\n smudge = "{touch}; cat"\n process = "{touch}"\n'
                f'[diff "evil"]\n textconv = "{touch}; cat"\n command = "{touch}"\n[diff]\n external = "{touch}"\n'
                f'[merge "evil"]\n driver = "{touch}"\n[alias]\n status = "!{touch}"\n[gpg]\n program = "{touch}"\n'
                f'[commit]\n gpgSign = true\n[credential]\n helper = "!{touch}"\n[gc]\n auto = 1\n'
            )
        for name in ("hooks", ".git/hooks"):
            (where / name).mkdir(exist_ok=True)
            for hook in (
                "post-checkout",
                "post-index-change",
                "pre-commit",
                "reference-transaction",
                "fsmonitor-watchman",
            ):
                (where / name / hook).write_text(f"#!/bin/sh\n{touch}\n")
                (where / name / hook).chmod(0o755)
        for name in (".gitattributes", "attributes", ".git/info/attributes"):
            (where / name).write_text("* filter=evil diff=evil merge=evil\n")
        (where / ".gitmodules").write_text(f'[submodule "x"]\n path = x\n url = "ext::{touch}"\n update = "!{touch}"\n')
        (where / ".git/objects/info/alternates").write_text("/nowhere\n")
    shutil.rmtree(folder / "lib/.git")  # that one would be refused


def test_nothing_planted_is_ever_executed(laid: Laid, tmp_path: Path) -> None:
    flag = tmp_path / "executed"
    for turn in range(3):
        plant(laid.desk.folder, laid.desk.root, flag)
        (laid.desk.folder / "train.py").write_text(f"print({turn + 5})\n")
        assert laid.compose()["proj/train.py"] == f"print({turn + 5})\n"
        laid.lay()
        assert "evil" not in (laid.desk.root / ".git/config").read_text()
        assert not (laid.desk.root / ".git/hooks").exists()
        assert not (laid.desk.root / ".gitattributes").exists()
        assert not (laid.desk.folder / ".git").exists()
    assert not flag.exists()


@pytest.mark.parametrize("what", ["link", "file", "nothing"])
def test_the_clone_is_laid_anew(laid: Laid, tmp_path: Path, what: str) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/config").write_text("mine")
    shutil.rmtree(laid.desk.root / ".git")
    if what == "link":
        (laid.desk.root / ".git").symlink_to(tmp_path / "precious")
    elif what == "file":
        (laid.desk.root / ".git").write_text(f"gitdir: {tmp_path}/precious\n")
    laid.lay()
    assert (tmp_path / "precious/config").read_text() == "mine"
    assert git(laid.desk.root, "status", "--porcelain") == ""


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("../precious")])
def test_what_was_left_beside_the_desk(laid: Laid, make: Callable[[Path], object]) -> None:
    beside = laid.desk.root.parent
    precious = beside.parent / "precious"
    precious.write_text("years of it")
    os.utime(precious, (1, 1))
    (beside / "logs").mkdir(exist_ok=True)
    (beside / "logs/0001.run.log").write_text("log")
    (beside / "setup.0123").write_text("machine")
    (beside / "bench").mkdir(exist_ok=True)
    names = ["pytest.ini", "node_modules", "desk.index", "desk.git-index", "desk.filtered", "logs/0002.run.log"]
    for name in [*names, "prompt.md"]:
        cache.remove(beside / name)
        make(beside / name)
    laid.lay()
    assert not any(os.path.lexists(beside / name) for name in names if name != "desk.index")
    assert {"logs", "setup.0123", "bench", "desk"} <= {path.name for path in beside.iterdir()}
    assert (beside / "logs/0001.run.log").read_text() == "log"
    cache.remove(beside / "prompt.md")
    make(beside / "prompt.md")
    cache.write_anew(beside / "prompt.md", b"prompt")
    assert (beside / "prompt.md").read_bytes() == b"prompt"
    assert (precious.read_text(), precious.stat().st_mtime) == ("years of it", 1)


def test_a_forged_index_is_not_believed(laid: Laid) -> None:
    git(laid.desk.root, "update-index", "--remove", "--force-remove", "proj/fixed.py")
    shutil.copy(laid.desk.root / ".git/index", laid.desk.root.with_name("desk.git-index"))
    laid.lay()
    assert git(laid.desk.root, "status", "--porcelain") == ""


# A working clone


def test_the_desk_is_a_working_clone(laid: Laid) -> None:
    repository = laid.repository
    entry = repository.store_blob(b"discarded\n")
    tree = repository.store_tree(laid.head, {"proj/train.py": desk_module.Entry(0o100644, entry)})
    discarded = repository.store_commit(tree, [laid.head], "an idea\n", ("a", "a@b"), 1_700_000_000)
    root = laid.desk.root
    assert git(root, "status", "--porcelain") == ""
    assert git(root, "rev-parse", "HEAD") == laid.head
    assert git(root, "branch", "--show-current") == "autoresearch/t"
    assert git(root, "log", "--format=%s") == "start"
    assert "+discarded" in git(root, "show", discarded)
    assert git(root, "fsck", "--no-dangling") == ""
    (laid.desk.folder / "train.py").write_text("print(3)\n")
    git(root, "commit", "-qam", "mine")
    git(root, "reset", "-q", "--hard", "HEAD~")
    git(root, "branch", "-m", "elsewhere")
    laid.lay()
    assert git(root, "rev-parse", "autoresearch/t") == laid.head
    assert git(root, "status", "--porcelain") == ""


def test_destroying_the_desk_harms_only_the_desk(laid: Laid, template: Path) -> None:
    script = "git reset -q --hard; git clean -qfdx; rm -rf * .git .[a-z]*; git -C . gc -q --prune=now; true"
    subprocess.run(["sh", "-c", script], cwd=laid.desk.root, check=True, capture_output=True)
    laid.lay()
    assert git(laid.desk.root, "status", "--porcelain") == ""
    assert git(template, "status", "--porcelain") == ""
    assert git(template, "fsck", "--no-dangling") == ""


def test_a_shallow_clone_has_a_desk_that_knows(user: Path, tmp_path: Path) -> None:
    (user / "proj/train.py").write_text("print(2)\n")
    git(user, "commit", "-qam", "second")
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{user}", str(tmp_path / "shallow"))
    laid = Laid(tmp_path / "shallow")
    assert git(laid.desk.root, "log", "--format=%s") == "second"


def test_odd_places(template: Path, tmp_path: Path) -> None:
    root = tmp_path / 'a b\nc"d\\e é'
    shutil.copytree(template, root / "user", symlinks=True)
    laid = Laid(root / "user")
    assert git(laid.desk.root, "status", "--porcelain") == ""


def test_the_note(laid: Laid, tmp_path: Path) -> None:
    def left(write: Callable[[Path], Any]) -> tuple[str, str]:
        laid.lay()
        write(laid.desk.folder / ".ark/attempt.md")
        return laid.desk.note()

    (tmp_path / "secret").write_text("secret")
    assert left(lambda path: path.write_text("# Title\n\nWhy\nand more\n")) == ("Title", "Why\nand more")
    assert left(lambda path: None) == ("", "")
    assert left(lambda path: path.symlink_to(tmp_path / "secret")) == ("", "")
    assert left(os.mkfifo) == ("", "")
    assert left(lambda path: path.mkdir()) == ("", "")
    (tmp_path / "attempt.md").write_text("secret")
    assert left(lambda path: (shutil.rmtree(path.parent), path.parent.symlink_to(tmp_path))) == ("", "")
    assert len(left(lambda path: path.write_bytes(b"\xff" * 1_000_000))[0]) <= 20_000


def test_links_of_the_spec(user: Path) -> None:
    with pytest.raises(desk_module.ArkError, match="does not exist"):
        read_links(user, "proj/", ["venv"])
    with pytest.raises(desk_module.ArkError, match="leads out of the repository"):
        read_links(user, "proj/", ["../../x"])
    (user / "data").mkdir()
    assert read_links(user, "proj/", ["../data"]) == {"data": user / "data"}
