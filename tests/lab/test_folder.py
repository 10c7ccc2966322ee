# ruff: noqa: PTH101, PTH114, PTH115, PTH118, PTH208
# No pathlib where an attack works on bytes or descriptors.
"""Scrubbing: whatever is done to a folder, `lay` makes it the commit again. One attack per test, on a real repository.

pytest tests/lab/test_folder.py
"""

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import time
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.lab import cache
from autoresearch_kit.lab.folder import Folder
from autoresearch_kit.ledger.git import Entry, Repository

Snapshot = dict[bytes, tuple[int, bytes]]
TREE = {
    "train.py": "print(1)\n",
    "evaluate.py": "print(2)\n",
    "src/a.py": "a = 1\n",
    "src/deep/er/b.py": "b = 2\n",
    "data/points.csv": "1,2\n3,4\n",
    "empty": "",
    "name with\nnewline": "odd\n",
}


def git(folder: Path, *args: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *args], capture_output=True, check=True)
    return done.stdout.decode("utf-8", "surrogateescape").strip()


def snapshot(folder: Path) -> Snapshot:
    """Type, permissions and content of everything below, by path in bytes."""
    found = {}
    todo = [os.fsencode(folder)]
    while todo:
        here = todo.pop()
        for name in os.listdir(here):
            path = here + b"/" + name
            state = os.lstat(path)
            content = b""
            if stat.S_ISLNK(state.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(state.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISDIR(state.st_mode):
                todo.append(path)
            found[os.path.relpath(path, os.fsencode(folder))] = (state.st_mode, content)
    return found


pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def template(home: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's repository, committed, with links, modes and names of all kinds."""
    root = tmp_path_factory.mktemp("template") / "user"
    for path, text in TREE.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    Path(os.fsdecode(os.fsencode(root) + b"/latin-\xe9")).write_text("not UTF-8\n")
    (root / "tool.sh").write_text("#!/bin/sh\n")
    (root / "tool.sh").chmod(0o755)
    (root / "link").symlink_to("src/a.py")
    (root / "dangling").symlink_to("/nowhere/at/all")
    git(root.parent, "init", "-q", str(root))
    git(root, "add", ".")
    git(root, "commit", "-qm", "start")
    return root


@pytest.fixture
def user(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "user", symlinks=True)


@pytest.fixture(scope="module")
def bench(template: Path) -> tuple[Folder, dict[str, Entry], Snapshot]:
    """One folder for all attacks: it is reused as a bench is, and each attack begins where the last one was undone."""
    folder, files = laid(template)
    return folder, files, snapshot(folder.root)


def laid(user: Path, links: Mapping[str, Path] | None = None) -> tuple[Folder, dict[str, Entry]]:
    repository = Repository(user)
    files = repository.files("HEAD")
    folder = Folder(repository, user.parent / "cache/ark/bench", repository.head(), links or {})
    folder.lay(files)
    repository.close()
    return folder, files


def pause() -> None:
    """Until a file that was laid is no longer racy: it is then trusted by its stamps alone."""
    time.sleep(0.08)


def test_lays_what_a_clone_would(user: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(user), str(tmp_path / "clone"))
    shutil.rmtree(tmp_path / "clone/.git")
    folder, _ = laid(user)
    assert snapshot(folder.root) == snapshot(tmp_path / "clone")


def forge_times(root: Path) -> None:
    path = root / "evaluate.py"
    state = path.stat()
    path.write_text("print(9)\n")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def forge_by_rename(root: Path) -> None:
    path = root / "evaluate.py"
    other = root / "new"
    other.write_text("print(9)\n")
    shutil.copystat(path, other)
    other.rename(path)


def write_through_hard_link(root: Path) -> None:
    outside = root.parent / "outside"
    outside.hardlink_to(root / "evaluate.py")
    outside.write_text("print(9)\n")
    outside.unlink()


def swap_link(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").symlink_to("src/z.py")


def replace(path: str, by: Callable[[Path], object]) -> Callable[[Path], None]:
    def attack(root: Path) -> None:
        target = root / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink()
        by(target)

    return attack


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)  # the test is in the folder: a socket's path has 108 bytes


def delete_all(root: Path) -> None:
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def extra_files(root: Path) -> None:
    for name in (b"x", b"-rf", b" ", b"a\nb", b"\xff\xfe", "é".encode(), b"src/sitecustomize.py", b"n" * 255):
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_text("extra")
    (root / "src/nothing/at/all").mkdir(parents=True)
    (root / "src/__pycache__").mkdir()
    (root / "src/__pycache__/a.cpython-311.pyc").write_bytes(b"\0")


def twins(root: Path) -> None:
    """Names that some file systems take for those of committed files."""
    for name in (
        "Train.py",
        "TRAIN.PY",
        "src/A.py",
        unicodedata.normalize("NFD", "é"),
        unicodedata.normalize("NFC", "é"),
    ):
        (root / name).write_text("twin")


def lock_everything(root: Path) -> None:
    (root / "evaluate.py").write_text("print(9)\n")
    for here, folders, files in os.walk(root, topdown=False):
        for name in files + folders:
            if not os.path.islink(os.path.join(here, name)):
                os.chmod(os.path.join(here, name), 0)
    root.chmod(0)


def plant_git(root: Path) -> None:
    git(root, "init", "-q")
    (root / "src/.git").write_text("gitdir: ../.git\n")


ATTACKS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda root: None,
    "other content": lambda root: (root / "evaluate.py").write_text("other, and longer\n"),
    "same size, forged times": forge_times,
    "same size, forged times, renamed over": forge_by_rename,
    "through a hard link from outside": write_through_hard_link,
    "appended": lambda root: (root / "src/a.py").write_text("a = 1\nb = 2\n"),
    "truncated": lambda root: os.truncate(root / "train.py", 0),
    "mode": lambda root: (root / "train.py").chmod(0o777),
    "mode taken away": lambda root: (root / "tool.sh").chmod(0o644),
    "mode of a folder": lambda root: (root / "src").chmod(0o1777),
    "deleted": lambda root: (root / "train.py").unlink(),
    "all deleted": delete_all,
    "file to link": replace("evaluate.py", lambda path: path.symlink_to("/etc/passwd")),
    "file to folder": replace("evaluate.py", lambda path: (path / "x/y").mkdir(parents=True)),
    "file to pipe": replace("evaluate.py", os.mkfifo),
    "file to socket": replace("empty", bind_socket),
    "folder to file": replace("src", lambda path: path.write_text("x")),
    "folder to link": replace("src", lambda path: path.symlink_to("/tmp")),
    "inner folder to link": replace("src/deep", lambda path: path.symlink_to("../data")),
    "link to file": replace("link", lambda path: path.write_text("x")),
    "link to another link": swap_link,
    "two files swapped": lambda root: [
        (root / "train.py").rename(root / "t"), (root / "evaluate.py").rename(root / "train.py"),
        (root / "t").rename(root / "evaluate.py"),
    ],
    "extra files": extra_files,
    "names that look alike": twins,
    "a repository": plant_git,
    "everything locked": lock_everything,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("racy", [False, True], ids=["later", "at once"])
@pytest.mark.parametrize("name", ATTACKS)
def test_scrub_restores(
    bench: tuple[Folder, dict[str, Entry], Snapshot], name: str, racy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, files, before = bench
    mode = folder.root.stat().st_mode
    folder.lay(files)
    if not racy:
        pause()
    monkeypatch.chdir(folder.root)
    ATTACKS[name](folder.root)
    folder.lay(files)
    assert snapshot(folder.root) == before
    assert folder.root.stat().st_mode == mode


def test_what_is_right_stays_untouched(user: Path) -> None:
    folder, files = laid(user)
    pause()
    inodes = {path: os.lstat(folder.root / path).st_ino for path in files}
    (folder.root / "evaluate.py").write_text("print(9)\n")
    folder.lay(files)
    changed = {path for path in files if os.lstat(folder.root / path).st_ino != inodes[path]}
    assert changed <= {"evaluate.py"}


def test_same_tick_edits_are_seen(user: Path) -> None:
    """A program that writes at once, in the tick in which the file was laid, changes no stamp at all."""
    folder, files = laid(user)
    path = folder.root / "train.py"
    for round_ in range(200):
        state = path.stat()
        with path.open("r+") as file:
            file.write(f"print({round_ % 8 + 2})\n")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        folder.lay(files)
        assert path.read_text() == "print(1)\n", f"round {round_}"


def test_a_link_replaced_in_the_same_tick_is_seen(user: Path) -> None:
    folder, files = laid(user)
    for _ in range(200):
        swap_link(folder.root)
        folder.lay(files)
        assert os.readlink(folder.root / "link") == "src/a.py"


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True], ids=["laid", "laid with artifacts"])
def test_a_tree_deeper_than_stack_and_paths_allow(user: Path, kept: bool) -> None:
    """The scrub once recursed, so a run that nested folders ended `ark` with a RecursionError."""
    folder, files = laid(user)
    before = snapshot(folder.root)
    here = os.open(folder.root / "src", os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("folder", dir_fd=here)
        below = os.open("folder", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT, dir_fd=here))
    os.close(here)
    if kept:
        (folder.root / "model.json").write_text("{}")
        folder.lay(files, lambda path: path.endswith(".json"))
        assert (folder.root / "model.json").read_text() == "{}"
    folder.lay(files)
    assert snapshot(folder.root) == before


def test_many_files_in_many_folders(user: Path) -> None:
    folder, files = laid(user)
    before = snapshot(folder.root)
    for number in range(100):
        (folder.root / f"src/x{number}/y").mkdir(parents=True)
        (folder.root / f"src/x{number}/y/z").write_text("z")
    folder.lay(files, lambda path: False)
    assert snapshot(folder.root) == before


@pytest.mark.parametrize("what", ["deleted", "a file", "a link", "moved", "another folder"])
def test_the_folder_itself_is_made_anew(user: Path, tmp_path: Path, what: str) -> None:
    """An agent that deleted its own desk once ended the run; one that put a link there had its target emptied."""
    folder, files = laid(user)
    before = snapshot(folder.root)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "work.txt").write_text("years of it")
    if what == "moved":
        folder.root.rename(tmp_path / "moved")
    else:
        shutil.rmtree(folder.root)
    if what == "a file":
        folder.root.write_text("x")
    elif what == "a link":
        folder.root.symlink_to(precious)
    elif what == "another folder":
        folder.root.mkdir()
        (folder.root / "junk").write_text("x")
    folder.lay(files)
    assert snapshot(folder.root) == before
    assert (precious / "work.txt").read_text() == "years of it"


def test_a_link_on_the_way_to_the_folder_is_an_error(user: Path, tmp_path: Path) -> None:
    folder, files = laid(user)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "bench").mkdir(parents=True)
    (elsewhere / "bench/work.txt").write_text("years of it")
    folder.root.parent.rename(tmp_path / "old")
    folder.root.parent.symlink_to(elsewhere)
    with pytest.raises(ArkError, match="leads somewhere else now"):
        folder.lay(files)
    assert snapshot(elsewhere / "bench") == {b"work.txt": (stat.S_IFREG | 0o644, b"years of it")}


def test_the_whole_cache_may_be_deleted(user: Path, tmp_path: Path) -> None:
    folder, files = laid(user)
    before = snapshot(folder.root)
    shutil.rmtree(tmp_path / "cache")
    folder.lay(files)
    assert snapshot(folder.root) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_locked_folders_as_an_ordinary_user(user: Path, tmp_path: Path) -> None:
    """Root may do anything anywhere, so the same attack again without its powers."""
    for here, folders, files in os.walk(tmp_path):
        for name in [".", *folders, *files]:
            os.lchown(os.path.join(here, name), 65534, 65534)
    above = tmp_path.parent
    opened = []
    while above != above.parent and not above.stat().st_mode & 0o001:
        opened.append((above, stat.S_IMODE(above.stat().st_mode)))
        above.chmod(opened[-1][1] | 0o011)
        above = above.parent
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            folder, entries = laid(user)
            before = snapshot(folder.root)
            (folder.root / "out").mkdir()
            (folder.root / "out/model").write_text("42")
            lock_everything(folder.root)
            folder.lay(entries, lambda path: path == "out/model")
            (folder.root / "out/model").chmod(0o600)
            kept = (folder.root / "out/model").read_text()
            folder.lay(entries)
            code = 0 if snapshot(folder.root) == before and kept == "42" else 2
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    for path, mode in opened:
        path.chmod(mode)
    assert os.waitstatus_to_exitcode(status) == 0


# What is kept


def test_kept_files_survive_and_nothing_else(user: Path) -> None:
    folder, files = laid(user)
    before = snapshot(folder.root)
    for name in ("out/a/model.bin", "out/a/other.txt", "model.bin"):
        (folder.root / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.root / name).write_text(name)
    (folder.root / "out/link.bin").symlink_to("/etc/passwd")
    os.mkfifo(folder.root / "out/pipe.bin")
    folder.lay(files, lambda path: path.endswith(".bin"))
    assert set(snapshot(folder.root)) - set(before) == {b"out", b"out/a", b"out/a/model.bin", b"model.bin"}
    folder.lay(files)
    assert snapshot(folder.root) == before, "a later run sees nothing of it"


def test_a_kept_file_wins_over_a_committed_one_and_is_gone_next_time(user: Path) -> None:
    folder, files = laid(user)
    (folder.root / "data/points.csv").write_text("made by the run")
    folder.lay(files, lambda path: path == "data/points.csv")
    assert (folder.root / "data/points.csv").read_text() == "made by the run"
    folder.lay(files)
    assert (folder.root / "data/points.csv").read_text() == TREE["data/points.csv"]


def test_a_folder_in_place_of_a_file_keeps_nothing(user: Path) -> None:
    folder, files = laid(user)
    (folder.root / "evaluate.py").unlink()
    (folder.root / "evaluate.py").mkdir()
    (folder.root / "evaluate.py/x.bin").write_text("x")
    (folder.root / "model.bin").write_text("m")
    folder.lay(files, lambda path: path.endswith(".bin"))
    assert (folder.root / "evaluate.py").read_text() == TREE["evaluate.py"]
    assert (folder.root / "model.bin").read_text() == "m"


def test_a_kept_hard_link_is_not_the_committed_file(user: Path) -> None:
    folder, files = laid(user)
    (folder.root / "model.bin").hardlink_to(folder.root / "evaluate.py")
    folder.lay(files, lambda path: path == "model.bin")
    (folder.root / "model.bin").write_text("written by the evaluation")
    assert (folder.root / "evaluate.py").read_text() == TREE["evaluate.py"]


# What the user's git does to files


def smudged(user: Path) -> None:
    """A filter as git-lfs has one: the blob is a pointer, the file is content."""
    git(user, "config", "filter.fake.clean", "sed s/CONTENT/POINTER/")
    git(user, "config", "filter.fake.smudge", "sed s/POINTER/CONTENT/")
    (user / ".gitattributes").write_text("*.big filter=fake\n*.crlf text eol=crlf\n")
    (user / "sub").mkdir()
    (user / "sub/.gitattributes").write_text("*.txt text eol=crlf\n")
    for name in ("x.big", "sub/y.big"):
        (user / name).write_text("CONTENT here\n")
    (user / "x.crlf").write_bytes(b"one\r\ntwo\r\n")
    (user / "sub/z.txt").write_bytes(b"one\ntwo\n")
    git(user, "add", ".")
    git(user, "commit", "-qm", "filters")


def test_filters_of_the_user_apply_as_in_a_checkout(user: Path) -> None:
    smudged(user)
    folder, files = laid(user)
    for _ in range(2):
        assert (folder.root / "x.big").read_text() == "CONTENT here\n"
        assert (folder.root / "sub/y.big").read_text() == "CONTENT here\n"
        assert (folder.root / "x.crlf").read_bytes() == b"one\r\ntwo\r\n"
        assert (folder.root / "sub/z.txt").read_bytes() == b"one\r\ntwo\r\n"
        (folder.root / "x.big").write_text("other")
        (folder.root / "sub/z.txt").unlink()
        shutil.rmtree(folder.root / "sub")
        folder.lay(files)


def test_attributes_of_an_agent_have_no_say_in_what_git_restores(user: Path) -> None:
    smudged(user)
    folder, files = laid(user)
    repository = Repository(user)
    changed = {**files, "sub/.gitattributes": Entry(0o100644, repository.store_blob(b"*.txt -text\n*.big -filter\n"))}
    shutil.rmtree(folder.root / "sub")
    folder.lay(changed)
    assert (folder.root / "sub/y.big").read_text() == "CONTENT here\n"
    assert (folder.root / "sub/z.txt").read_bytes() == b"one\r\ntwo\r\n"


def test_autocrlf(user: Path) -> None:
    git(user, "config", "core.autocrlf", "true")
    folder, files = laid(user)
    assert (folder.root / "train.py").read_bytes() == b"print(1)\r\n"
    (folder.root / "train.py").write_bytes(b"print(1)\n")
    folder.lay(files)
    assert (folder.root / "train.py").read_bytes() == b"print(1)\r\n"


def test_what_an_agent_wrote_is_laid_as_it_is(user: Path) -> None:
    smudged(user)
    folder, files = laid(user)
    repository = Repository(user)
    entry = Entry(0o100755, repository.store_blob(b"POINTER\nPOINTER\r\n"))
    folder.lay({**files, "x.big": entry, "new.crlf": entry})
    assert (folder.root / "new.crlf").read_bytes() == b"POINTER\nPOINTER\r\n"
    assert (folder.root / "x.big").read_bytes() == b"POINTER\nPOINTER\r\n"
    assert os.access(folder.root / "x.big", os.X_OK)
    folder.lay(files)
    assert (folder.root / "x.big").read_text() == "CONTENT here\n"
    assert not (folder.root / "x.big").stat().st_mode & 0o111


def test_another_tree_is_laid_over_the_first(user: Path) -> None:
    """A file becomes a folder, a folder a file, a link a file, and back."""
    folder, files = laid(user)
    before = snapshot(folder.root)
    some = files["train.py"]
    other = {"evaluate.py/inside": some, "src": some, "link": some, "data/points.csv": Entry(0o120000, some.oid)}
    folder.lay(other)
    assert (folder.root / "evaluate.py/inside").read_text() == (folder.root / "src").read_text() == "print(1)\n"
    assert (folder.root / "data/points.csv").is_symlink()
    folder.lay(files)
    assert snapshot(folder.root) == before


def test_names_that_differ_in_case_or_normal_form(user: Path) -> None:
    names = ["CASE", "Case", unicodedata.normalize("NFC", "né"), unicodedata.normalize("NFD", "né")]
    for name in names:
        (user / name).write_bytes(os.fsencode(name))
    if len({(user / name).read_bytes() for name in names}) < len(names):
        pytest.skip("this file system takes them for one")
    git(user, "add", ".")
    git(user, "commit", "-qm", "twins")
    folder, files = laid(user)
    (folder.root / "Case").write_text("x")
    folder.lay(files)
    assert [(folder.root / name).read_bytes() for name in names] == [os.fsencode(name) for name in names]


# Links and submodules


def test_links_are_restored_and_never_followed(user: Path) -> None:
    (user / "venv/bin").mkdir(parents=True)
    (user / "venv/bin/python").write_text("x")
    folder, files = laid(user, links={"venv": user / "venv"})
    assert (folder.root / "venv").readlink() == user / "venv"
    (folder.root / "venv").unlink()
    (folder.root / "venv").symlink_to("/tmp")
    folder.lay(files, lambda path: True)
    assert (folder.root / "venv").readlink() == user / "venv"
    (folder.root / "venv").unlink()
    (folder.root / "venv").mkdir()
    (folder.root / "venv/planted").write_text("x")
    folder.lay(files, lambda path: True)
    assert (folder.root / "venv").readlink() == user / "venv"
    assert (user / "venv/bin/python").read_text() == "x"


def test_a_link_over_committed_files_is_an_error(user: Path) -> None:
    with pytest.raises(ArkError, match="holds committed files"):
        laid(user, links={"data": user / "data"})


def test_a_submodule_is_an_empty_folder_and_is_emptied_again(user: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(user), str(tmp_path / "other"))
    git(user, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "other"), "sub")
    git(user, "commit", "-qm", "submodule")
    folder, files = laid(user)
    assert list((folder.root / "sub").iterdir()) == []
    (folder.root / "sub/planted.py").write_text("x")
    folder.lay(files)
    assert list((folder.root / "sub").iterdir()) == []


# The cache


def test_remove_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep/x").write_text("x")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/link").symlink_to(tmp_path / "keep")
    (tmp_path / "link").symlink_to(tmp_path / "keep")
    for name in ("gone", "link", "absent", "keep/x/below-a-file"):
        cache.remove(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["keep", "x"]


def test_a_cache_that_leads_elsewhere_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "ark").mkdir()
    (tmp_path / "ark/repo").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArkError, match="leads out of the cache"):
        cache.make_private(tmp_path / "ark/repo/run/logs")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_relative_cache_home_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root().is_relative_to(tmp_path)
