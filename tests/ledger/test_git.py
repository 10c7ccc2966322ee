"""python -m pytest tests/ledger/test_git.py

What git itself does is the measure: trees against `git write-tree`, answers against git's own.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_repository import git, start

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.ledger.git import ZERO, Entry, RefMoved, Repository

FILE, PROGRAM, LINK = 0o100644, 0o100755, 0o120000
NAMES = ["a", "a.b", "a-b", "a0", "ab", "A", "b", "a b", "ü", "\udcff", "-", "~", "[x]", "con", "\n"]
BLOBS = [f"{n:040x}" for n in range(1, 5)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One repository for many trees; nothing in it is changed but objects."""
    return start(tmp_path_factory.mktemp("trees") / "project")


def write_tree(folder: Path, files: dict[str, Entry]) -> str:
    """The tree as git makes it from an index."""
    index = folder / ".git/test-index"
    index.unlink(missing_ok=True)
    os.environ["GIT_INDEX_FILE"] = str(index)
    try:
        rows = "".join(f"{e.mode:o} {e.oid}\t{path}\0" for path, e in files.items())
        git(folder, "update-index", "-z", "--index-info", stdin=rows.encode("utf-8", "surrogateescape"))
        return git(folder, "write-tree", "--missing-ok").strip()
    finally:
        del os.environ["GIT_INDEX_FILE"]


def store_base(repository: Repository, files: dict[str, Entry]) -> str:
    """A tree from nothing, by the code that is tested."""
    start = repository.files("HEAD")
    return repository.store_tree("HEAD", {**dict.fromkeys(start), **files})


def no_clash(paths: dict[str, Entry]) -> dict[str, Entry]:
    """Without files that would have to be folders at the same time."""
    folders = {path[:at] for path in paths for at, c in enumerate(path) if c == "/"}
    return {path: entry for path, entry in paths.items() if path not in folders}


PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)
ENTRIES = st.builds(Entry, st.sampled_from([FILE, PROGRAM, LINK]), st.sampled_from(BLOBS))
TREES = st.dictionaries(PATHS, ENTRIES, max_size=12).map(no_clash)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=TREES, new=TREES, stay=st.randoms(use_true_random=False))
def test_trees_are_those_that_git_writes(
    shared: Path, old: dict[str, Entry], new: dict[str, Entry], stay: random.Random
) -> None:
    repository = Repository(shared)
    new = no_clash({**{path: entry for path, entry in old.items() if stay.random() < 0.5}, **new})
    base = store_base(repository, old)
    assert base == write_tree(shared, old)
    changes: dict[str, Entry | None] = {path: new.get(path) for path in {*old, *new} if old.get(path) != new.get(path)}
    shuffled = list(changes.items())
    stay.shuffle(shuffled)
    assert repository.store_tree(base, dict(shuffled)) == write_tree(shared, new)
    assert repository.files(base) == old
    repository.close()


def test_a_file_becomes_a_folder_and_back(repository: Repository, folder: Path) -> None:
    """The order of the changes once decided whether one of them was lost, or an exception came."""
    x, y = Entry(FILE, BLOBS[0]), Entry(FILE, BLOBS[1])
    base = store_base(repository, {"a": x, "b/c": x, "b/d/e": x})
    for order in (1, -1):
        changes = [("a", None), ("a/n", y), ("a/m/n", y), ("b/c", None), ("b/d/e", None), ("b", y)][::order]
        assert repository.files(repository.store_tree(base, dict(changes))) == {"a/n": y, "a/m/n": y, "b": y}


def test_removing_what_is_not_there_removes_nothing(repository: Repository) -> None:
    x = Entry(FILE, BLOBS[0])
    base = store_base(repository, {"a": x, "b/c": x})
    assert repository.store_tree(base, {"a/x": None, "b/c/d": None, "n": None, "n/m/o": None}) == base
    with pytest.raises(ValueError, match="below a file"):
        repository.store_tree(base, {"n": x, "n/m": x})


def test_an_empty_tree(repository: Repository) -> None:
    assert (
        repository.store_tree("HEAD", {"train.py": None, "src/a.py": None})
        == "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
    )


def test_modes_and_other_entries_survive(repository: Repository, folder: Path) -> None:
    head = git(folder, "rev-parse", "HEAD").strip()
    files = {"run.sh": Entry(PROGRAM, BLOBS[0]), "link": Entry(LINK, BLOBS[1]), "sub": Entry(0o160000, head)}
    tree = store_base(repository, {**files, "x/y": Entry(FILE, BLOBS[2])})
    changed = repository.store_tree(tree, {"x/y": None, "x/z": Entry(FILE, BLOBS[2])})
    assert repository.files(changed) == {**files, "x/z": Entry(FILE, BLOBS[2])}


@pytest.mark.parametrize("data", [b"", b"\0\xff\r\n", b"x" * 10**6, "ü".encode(), b"$Id$\r\n"])
def test_blobs_are_exact_bytes(repository: Repository, folder: Path, data: bytes) -> None:
    (folder / ".gitattributes").write_text("* text ident eol=crlf filter=x\n")
    git(folder, "config", "core.autocrlf", "true")
    oid = repository.store_blob(data)
    assert repository.blob(oid) == data
    assert git(folder, "cat-file", "-s", oid).strip() == str(len(data))


def test_reading(repository: Repository, folder: Path) -> None:
    (folder / "ü \n.py").write_text("x")
    (folder / "link").symlink_to("train.py")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "second")
    head = repository.head()
    assert head == git(folder, "rev-parse", "HEAD").strip() == repository.commit_of("main")
    assert repository.branch() == "main"
    files = repository.files(head)
    assert set(files) == {"train.py", "src/a.py", "ü \n.py", "link", "run.sh"}
    assert (files["run.sh"].mode, files["link"].mode, files["train.py"].mode) == (PROGRAM, LINK, FILE)
    assert repository.sizes(head)["ü \n.py"] == 1
    assert repository.file_at(head, "src/a.py") == repository.file_at(head, "src/a.py", 6) == b"a = 1\n"
    with pytest.raises(ArkError, match=r"^object [0-9a-f]{10} is too large to be read: 6 bytes$"):
        repository.file_at(head, "src/a.py", 5)
    assert [repository.file_at(head, path) for path in ("src", "none", "src/none", "train.py/x")] == [None] * 4
    assert repository.commit_of("nothing") is None and repository.commit_of("--all") is None
    assert repository.commit_of(head + ":src") is None
    assert "second" not in repository.diff(f"{head}~1", head) and "+#!/bin/sh" in repository.diff(f"{head}~1", head)
    assert repository.diff(f"{head}~1", head, ["link"]).count("diff --git") == 1
    for limit in (None, 9):
        with pytest.raises(ArkError, match=r"object 1+ is missing") as caught:
            repository.blob("1" * 40, limit)
        assert "git fsck" in caught.value.hint


@pytest.mark.parametrize(
    "paths", [[], ["a.log"], ["a.log", "b.txt", "build", "build/x", "ü.log", "a\nb.log", "-x.log", ":x.log"]]
)
def test_ignored(repository: Repository, folder: Path, paths: list[str]) -> None:
    (folder / ".gitignore").write_text("*.log\nbuild/\n!keep.log\n")
    (folder / "build").mkdir()
    expected = {path for path in paths if path.endswith(".log") or path.startswith("build")}
    assert repository.ignored(paths) == expected
    assert repository.ignored(["keep.log"]) == set()


def test_changed(repository: Repository, folder: Path) -> None:
    (folder / ".gitignore").write_text("*.log\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "ignore")
    assert repository.changed("") == repository.changed("src/") == []
    (folder / "x.log").write_text("")
    (folder / "train.py").write_text("changed")
    (folder / "src/new ü.py").write_text("")
    (folder / "src/sub").mkdir()
    (folder / "src/sub/x").write_text("")
    git(folder, "rm", "-q", "--cached", "src/a.py")
    assert sorted(repository.changed("")) == ["src/a.py", "src/a.py", "src/new ü.py", "src/sub/x", "train.py"]
    assert "train.py" not in repository.changed("src/")
    assert repository.tracked("train.py") and not repository.tracked("src/new ü.py")


@pytest.mark.parametrize("name", ["[ab]", ":(top)", "*", "a b", "!x"])
def test_a_folder_is_a_name_and_no_pattern(repository: Repository, folder: Path, name: str) -> None:
    for place in (name, "a", "b"):
        (folder / place).mkdir()
        (folder / place / "new").write_text("")
    assert repository.changed(f"{name}/") == [f"{name}/new"]
    assert not repository.tracked(name)


def test_the_users_index_is_never_refreshed(repository: Repository, folder: Path) -> None:
    """A plain `git status` would note the new times in the index."""
    index = folder / ".git/index"
    for path in (folder / "train.py", folder / "src/a.py"):
        os.utime(path, (1_500_000_000, 1_500_000_000))
    before = index.read_bytes(), index.stat().st_mtime_ns, index.stat().st_ino
    assert repository.changed("") == []
    repository.ignored(["x"])
    repository.tracked("train.py")
    repository.read_index("HEAD", folder / ".git/other-index")
    repository.pack()
    assert (index.read_bytes(), index.stat().st_mtime_ns, index.stat().st_ino) == before
    git(folder, "status")
    assert index.read_bytes() != before[0], "the test has no edge"


def test_the_callers_git_variables_are_forgotten(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ark` may be started from a hook or an alias, which set them."""
    other = start(tmp_path / "other")
    (other / "train.py").write_text("other\n")
    git(other, "commit", "-q", "-a", "-m", "other")
    wrong = {
        "GIT_DIR": other / ".git", "GIT_WORK_TREE": other, "GIT_INDEX_FILE": other / ".git/index",
        "GIT_OBJECT_DIRECTORY": other / ".git/objects", "GIT_COMMON_DIR": other / ".git", "GIT_NAMESPACE": "x",
        "GIT_CONFIG_COUNT": "nonsense", "GIT_CONFIG_PARAMETERS": "nonsense", "GIT_PREFIX": "src/",
        "GIT_LITERAL_PATHSPECS": "0", "GIT_ICASE_PATHSPECS": "1", "GIT_EXTERNAL_DIFF": "false", "GIT_TRACE": "1",
        "GIT_AUTHOR_NAME": "x", "GIT_COMMITTER_DATE": "nonsense", "GIT_CEILING_DIRECTORIES": str(tmp_path),
    }  # fmt: skip
    for name, value in wrong.items():
        monkeypatch.setenv(name, str(value))
    repository = Repository(folder)
    try:
        assert repository.root == folder and repository.common == folder / ".git"
        head = repository.head()
        assert repository.file_at(head, "train.py") == b"LR = 1\n"
        commit = repository.store_commit(repository.tree_of(head), [head], "x\n", ("a", "a@b"), 5)
        repository.update_refs({"refs/heads/new": (commit, ZERO)})
        assert repository.changed("") == []
        assert (folder / ".git/refs/heads/new").read_text().strip() == commit
        assert not (other / ".git/refs/heads/new").exists()
    finally:
        repository.close()


def test_where_git_and_its_settings_are_is_not_forgotten(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(f"[core]\n\texcludesFile = {tmp_path / 'ignore'}\n[user]\n\tname = Jo\n")
    (tmp_path / "ignore").write_text("*.mine\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    repository = Repository(folder)
    assert repository.ignored(["x.mine", "y"]) == {"x.mine"}
    repository.close()


def test_nothing_that_the_user_configured_runs(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    script = tmp_path / "script.sh"
    script.write_text(f"#!/bin/sh\necho $0 >> {ran}\n")
    script.chmod(0o755)
    hooks = folder / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("reference-transaction", "post-checkout", "pre-auto-gc", "post-index-change"):
        shutil.copy(script, hooks / hook)
    git(folder, "config", "core.fsmonitor", str(script))
    git(folder, "config", "diff.external", str(script))
    ran.unlink(missing_ok=True)
    repository = Repository(folder)
    head = repository.head()
    repository.changed("")
    commit = repository.store_commit(repository.tree_of(head), [head], "x\n", ("a", "a@b"), 5)
    repository.update_refs({"refs/heads/new": (commit, ZERO)})
    repository.diff(head, commit)
    repository.read_index(head, tmp_path / "index")
    (tmp_path / "out").mkdir()
    repository.check_out(tmp_path / "index", tmp_path / "out")
    repository.close()
    assert (tmp_path / "out/train.py").exists()
    assert not ran.exists(), ran.read_text()


def test_replaced_objects_play_no_part(repository: Repository, folder: Path) -> None:
    head = repository.head()
    forged = repository.store_commit(repository.store_tree(head, {"train.py": None}), [], "x\n", ("a", "a@b"), 5)
    git(folder, "update-ref", f"refs/replace/{head}", forged)
    assert "train.py" in repository.files(head)
    assert repository.files(head) == repository.files(repository.tree_of(head))
    assert repository.file_at(head, "train.py") is not None


def test_refs_move_together_or_not_at_all(repository: Repository, folder: Path) -> None:
    head = repository.head()
    commit = repository.store_commit(repository.tree_of(head), [head], "x\n", ("a", "a@b"), 5)
    repository.update_refs({"refs/ark/t/0000": (commit, ZERO), "refs/heads/x/t": (commit, ZERO)})
    for changes in (
        {"refs/ark/t/0001": (commit, ZERO), "refs/heads/x/t": (head, head)},
        {"refs/ark/t/0001": (commit, ZERO), "refs/heads/x/t": (head, ZERO)},
        {"refs/ark/t/0001": (commit, ZERO), "refs/heads/x/none": (head, commit)},
        {"refs/ark/t/0001": (commit, ZERO), "refs/ark/t/0000": (ZERO, head)},
    ):
        with pytest.raises(RefMoved, match="as expected"):
            repository.update_refs(changes)
    assert [row[0] for row in repository.refs("refs/ark", "refname")] == ["refs/ark/t/0000"]
    repository.update_refs({"refs/ark/t/0000": (ZERO, commit), "refs/heads/x/t": (head, commit)})
    assert repository.ref("refs/ark/t/0000") is None and repository.ref("refs/heads/x/t") == head
    assert repository.ref("refs/heads/x") is None, "a folder of refs is no ref"


def test_refs_that_cannot_be_made_are_a_sentence(repository: Repository, folder: Path) -> None:
    head = repository.head()
    git(folder, "update-ref", "refs/ark/t", head)
    with pytest.raises(ArkError, match="git update-ref failed: cannot lock ref") as caught:
        repository.update_refs({"refs/ark/t/0000": (head, ZERO)})
    assert not isinstance(caught.value, RefMoved)


def test_fields_of_refs_may_be_empty(repository: Repository, folder: Path) -> None:
    head = repository.head()  # it has no parent
    blob = repository.store_blob(b"x")
    for name, oid in (("a", head), ("b", blob), ("c", head)):
        git(folder, "update-ref", f"refs/ark/{name}", oid)
    rows = repository.refs("refs/ark", "refname", "parent", "tree")
    tree = repository.tree_of(head)
    assert rows == [["refs/ark/a", "", tree], ["refs/ark/b", "", ""], ["refs/ark/c", "", tree]]
    assert repository.refs(["refs/ark/c", "refs/ark/a", "refs/none"], "refname") == [["refs/ark/a"], ["refs/ark/c"]]
    assert repository.refs("refs/none", "refname") == []


def test_checking_out_elsewhere(repository: Repository, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    repository.read_index(repository.head(), tmp_path / "index")
    repository.check_out(tmp_path / "index", out)
    assert (out / "src/a.py").read_text() == "a = 1\n"
    (out / "train.py").write_text("x")
    (out / "src/a.py").unlink()
    repository.check_out(tmp_path / "index", out, ["train.py"])
    assert (out / "train.py").read_text() == "LR = 1\n" and not (out / "src/a.py").exists()
    assert git(folder, "status", "--porcelain") == ""


# What is not a plain repository


def refused(place: Path) -> ArkError:
    with pytest.raises(ArkError) as caught:
        Repository(place).head()
    return caught.value


def test_no_repository(tmp_path: Path) -> None:
    assert refused(tmp_path / "none").message == f"{tmp_path / 'none'} does not exist"
    error = refused(tmp_path)
    assert error.message == f"{tmp_path} is not in a git repository" and "git init" in error.hint


def test_no_commit_yet(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "trunk")
    error = refused(tmp_path)
    assert error.message == f"{tmp_path} has no commit yet on branch trunk" and "git commit" in error.hint
    repository = Repository(tmp_path)
    assert repository.branch() == "trunk" and repository.refs("refs", "refname") == []
    repository.close()


def test_a_bare_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "x.git")
    assert "is a bare repository" in refused(tmp_path / "x.git").message


def test_sha256(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--object-format=sha256")
    assert "SHA-256" in refused(tmp_path).message


def test_reftable(folder: Path) -> None:
    git(folder, "config", "extensions.refStorage", "reftable")
    with pytest.raises(ArkError, match="reftable") as caught:
        Repository(folder)
    assert "git refs migrate" in caught.value.hint


def test_a_repository_of_somebody_else(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    for path in (folder, folder / ".git"):
        os.chown(path, 12345, 12345)
    repository = Repository(folder)
    head = repository.head()
    commit = repository.store_commit(repository.tree_of(head), [head], "x\n", ("a", "a@b"), 5)
    repository.update_refs({"refs/ark/t/0000": (commit, ZERO)})
    assert repository.file_at(commit, "src/a.py") == b"a = 1\n" and repository.changed("") == []
    repository.close()


def test_detached(repository: Repository, folder: Path) -> None:
    git(folder, "checkout", "-q", "--detach")
    assert repository.branch() == "" and repository.head() == git(folder, "rev-parse", "main").strip()


@pytest.mark.parametrize("name", ["with blank", "ünï 文", "quo'te\"", "-dash", "semi;colon $HOME", "new\nline"])
def test_any_path(tmp_path: Path, name: str) -> None:
    folder = start(tmp_path / name)
    repository = Repository(folder / "src")
    assert repository.root == folder
    commit = repository.store_commit(repository.tree_of("HEAD"), [repository.head()], "x\n", ("a", "a@b"), 5)
    repository.update_refs({"refs/ark/t/0000": (commit, ZERO)})
    assert repository.changed("src/") == [] and repository.ignored(["src/x"]) == set()
    assert repository.refs("refs/ark", "objectname") == [[commit]]
    repository.close()


def test_a_linked_worktree(folder: Path, tmp_path: Path) -> None:
    git(folder, "worktree", "add", "-q", "-b", "side", str(tmp_path / "linked"))
    (tmp_path / "linked/train.py").write_text("side\n")
    git(tmp_path / "linked", "commit", "-q", "-a", "-m", "side")
    linked, main = Repository(tmp_path / "linked"), Repository(folder)
    assert (linked.root, linked.common) == (tmp_path / "linked", folder / ".git")
    assert linked.head() != main.head() and linked.branch() == "side"
    assert linked.changed("") == main.changed("") == []
    linked.update_refs({"refs/ark/t/0000": (linked.head(), ZERO)})
    assert main.ref("refs/ark/t/0000") == linked.head()
    for one in (linked, main):
        assert one.checked_out("refs/heads/side") == str(folder / ".git/worktrees/linked")
        assert one.checked_out("refs/heads/main") == str(folder / ".git")
        assert one.checked_out("refs/heads/other") is None
        one.close()


def test_a_folder_that_cannot_be_written(repository: Repository, folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    objects = folder / ".git/objects"
    objects.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(ArkError, match="cannot be written") as caught:
            repository.store_blob(b"new")
        assert "writable" in caught.value.hint
    finally:
        objects.chmod(0o755)
