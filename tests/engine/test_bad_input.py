"""What bad input gets: one sentence, a hint, exit code 1 or 2, and nothing is changed.

pytest tests/engine/test_bad_input.py
"""

import os
import shutil
import stat
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from autoresearch_kit.ledger.git import DISK_HINT, git_error

Tiny = Any  # see conftest.py
ROOT = os.geteuid() == 0


def picture(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below, but for the folders of objects and the lock that a run leaves in the git folder."""
    found = {}
    for here, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(here, name)
            inner = str(path.relative_to(root))
            if (
                "objects/" in inner
                or inner.endswith((".git/ark", "/ark"))
                or "/ark/" in inner
                or inner.startswith("ark/")
            ):
                continue
            state = path.lstat()
            found[inner] = (state.st_mode, path.read_bytes() if stat.S_ISREG(state.st_mode) else b"")
    return found


def fails(tiny: Tiny, *args: str, words: str, code: int = 1, hint: bool | None = True, **more: Any) -> None:
    """The command fails as it should, and leaves everything as it was."""
    before = picture(tiny.root)
    command = args or ("run", "--tag", "t", "--agent", "true")
    done = tiny.ark(*command, **more) if more else tiny.ark_here(*command)
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert words in errors[0]
    assert not errors[0].endswith(".")
    assert hint in (None, "\nhint: " in done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    after = picture(tiny.root)
    for path in [path for path in after if path.endswith("info/exclude")]:  # hides results.tsv from the user's git
        before.pop(path, None)
        after.pop(path)
    assert after == before


def works(tiny: Tiny) -> None:
    done = tiny.ark_here("run", "--tag", "t", "--agent", tiny.agent("answer 12"), "--attempts", "1")
    assert done.returncode == 0, done.stderr
    assert tiny.git("show", "refs/ark/t/0001").count("\n+echo 12") == 1


# The repository


@pytest.mark.slow
def test_no_repository(tiny: Tiny) -> None:
    shutil.rmtree(tiny.root / ".git")
    fails(tiny, words="is not in a git repository", env={"LC_ALL": "C"})


@pytest.mark.slow
def test_no_commit_yet_on_an_unborn_branch(tiny: Tiny) -> None:
    shutil.rmtree(tiny.root / ".git")
    tiny.git("init", "-q", "-b", "trunk")
    fails(tiny, words="has no commit yet on branch trunk")


@pytest.mark.slow
def test_an_orphan_branch_in_a_repository_with_history(tiny: Tiny) -> None:
    tiny.git("switch", "-q", "--orphan", "empty")
    tiny.spec()
    fails(tiny, words="has no commit yet on branch empty")


@pytest.mark.slow
def test_a_bare_repository(tiny: Tiny) -> None:
    shutil.copy(tiny.folder / "autoresearch-config.yaml", tiny.root / ".git/autoresearch-config.yaml")
    tiny.git("config", "core.bare", "true")
    fails(tiny, words="bare repository", cwd=tiny.root / ".git")


def test_a_detached_head_works(tiny: Tiny) -> None:
    tiny.git("switch", "-q", "--detach")
    works(tiny)
    assert tiny.git("branch", "--show-current") == ""


@pytest.mark.slow
def test_submodules(tiny: Tiny) -> None:
    subprocess.run(["git", "clone", "-q", str(tiny.root), str(tiny.tmp / "other")], check=True)
    tiny.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tiny.tmp / "other"), "sub")
    tiny.commit()
    fails(tiny, words="has submodules whose files a bench would lack: sub")
    tiny.commit(link=["sub"], run_command="cat sub/train.sh && sh train.sh")
    works(tiny)


def test_a_sparse_checkout_works(tiny: Tiny) -> None:
    tiny.write("absent/big.txt", "big\n")
    tiny.commit(run_command="cat absent/big.txt && sh train.sh")
    tiny.git("sparse-checkout", "set", "notes")
    works(tiny)
    assert not (tiny.root / "absent").exists()


@pytest.mark.slow
def test_odd_paths_work(tiny: Tiny) -> None:
    inner = type(tiny)(shutil.move(tiny.root, tiny.tmp / 'wéird "näme" $(x) & co'), tiny.tmp, "in ner/ñ 'q'")
    for name in ("train.sh", "evaluate.sh"):
        inner.write(name, (inner.root / name).read_text())
    inner.commit(name="odd", link=None)
    works(inner)


def mount(tmp: Path, *options: str) -> Path:
    """A small file system of its own; skips where that is not allowed."""
    where = tmp / "mounted"
    where.mkdir()
    done = subprocess.run(["mount", *options, str(where)], capture_output=True)
    if done.returncode:
        pytest.skip("needs the right to mount")
    return where


@pytest.mark.skipif(not ROOT, reason="needs root to mount")
def test_a_read_only_repository(tiny: Tiny) -> None:
    where = mount(tiny.tmp, "--bind", str(tiny.root))
    try:
        if subprocess.run(["mount", "-o", "remount,ro,bind", str(where)], capture_output=True).returncode:
            pytest.skip("needs the right to mount read-only")
        fails(type(tiny)(where, tiny.tmp), words="cannot be written: Read-only file system")
    finally:
        subprocess.run(["umount", str(where)], check=True)


@pytest.mark.skipif(ROOT, reason="permissions do not hold root")
def test_a_repository_without_write_permission(tiny: Tiny) -> None:
    (tiny.root / ".git").chmod(0o555)
    try:
        fails(tiny, words="cannot be written: Permission denied")
    finally:
        (tiny.root / ".git").chmod(0o755)


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason="needs root to mount")
@pytest.mark.parametrize("what", ["cache", "repository"])
def test_a_full_disk(tiny: Tiny, what: str) -> None:
    where = mount(tiny.tmp, "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    try:
        if what == "repository":
            tiny = type(tiny)(Path(shutil.copytree(tiny.root, where / "user", symlinks=True)), tiny.tmp)
        tiny.write("big.bin", os.urandom(200_000))
        tiny.commit()
        with (where / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        # What fails first varies, and so does git's wording: see the next test for the hint.
        env = {"XDG_CACHE_HOME": str(where / "cache")} if what == "cache" else {"LC_ALL": "C"}
        fails(tiny, words="space", hint=None if what == "cache" else True, env=env)
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_full_disk_has_a_hint_in_all_wordings() -> None:
    for words in ("unable to write file x: No space left on device", "sha1 file 'x' write error. Out of diskspace"):
        assert git_error("read-tree", 128, f"fatal: {words}\n").hint == DISK_HINT


# Programs and experiments


@pytest.mark.slow
def test_git_is_missing(tiny: Tiny) -> None:
    (tiny.tmp / "bin").mkdir()
    fails(tiny, words="git is not installed", env={"PATH": str(tiny.tmp / "bin")})


def test_a_missing_program(tiny: Tiny) -> None:
    tiny.commit(run_command="no-such-program --train")
    fails(tiny, words="no-such-program")


@pytest.mark.slow
def test_a_missing_agent(tiny: Tiny) -> None:
    played = tiny.play("exec no-such-agent")
    assert played.ending.exit_code == 1
    assert "not found" in played.ending.reason
    assert played.outcomes == ["keep"]


def test_no_agent(tiny: Tiny) -> None:
    fails(tiny, "run", "--tag", "t", words="no agent is named", code=2)


def test_a_metric_that_never_appears(tiny: Tiny) -> None:
    tiny.commit(eval_command="echo other: 1")
    fails(tiny, words="the baseline failed: no_metric: no line gives score, only other")


def test_a_log_of_binary_garbage(tiny: Tiny) -> None:
    tiny.write("garbage", bytes(range(256)) * 1000 + "\x9b31m\u202e\u2028".encode() * 100)
    tiny.commit(run_command="cat garbage > run.log; cat garbage", eval_command=None)
    before = tiny.git("for-each-ref")
    done = tiny.ark_here("run", "--tag", "t", "--agent", "true")
    assert done.returncode == 1
    assert "no_metric" in done.stderr
    assert "Traceback" not in done.stderr
    assert not {c for c in done.stderr if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"}
    assert tiny.git("for-each-ref") == before


@pytest.mark.slow
@pytest.mark.parametrize("how", ["exit 3", "kill -SEGV $$", "sleep 30"])
def test_a_baseline_that_crashes(tiny: Tiny, how: str) -> None:
    tiny.commit(run_command=f"echo last words; {how}", budget_minutes=0.005, timeout_minutes=0.005)
    fails(tiny, words="the baseline failed")
    assert tiny.git("for-each-ref", "refs/ark", "refs/heads/autoresearch") == ""
    assert not (tiny.folder / "results.tsv").exists()


# The spec and the command line


def test_no_spec(tiny: Tiny) -> None:
    (tiny.folder / "autoresearch-config.yaml").unlink()
    fails(tiny, words="does not exist", code=2)


def test_a_spec_with_a_mistake(tiny: Tiny) -> None:
    tiny.spec(metrik="x")
    fails(tiny, words="metrik", code=2, hint=False)


def test_a_mutable_file_that_is_not_committed(tiny: Tiny) -> None:
    tiny.spec(mutable_files=["new.sh"])
    tiny.write("new.sh", "x")
    fails(tiny, words="`new.sh` is not a file in the commit", code=2, hint=False)


@pytest.mark.parametrize("tag", ["a b", "../x", "-x", "x.lock", "é"])
def test_a_bad_tag(tiny: Tiny, tag: str) -> None:
    fails(tiny, "run", f"--tag={tag}", "--agent", "true", words="cannot be a tag", code=2)


def test_a_folder_that_does_not_exist(tiny: Tiny) -> None:
    fails(tiny, "run", "nowhere", "--agent", "true", words="is neither a folder nor a spec", code=2)


def test_no_run_yet(tiny: Tiny) -> None:
    for verb in (["status"], ["log"], ["show", "1"]):
        fails(tiny, *verb, words="there is no run of this project yet", code=2)


@pytest.mark.slow
def test_a_missing_object(tiny: Tiny) -> None:
    oid = tiny.git("rev-parse", "HEAD:train.sh")
    (tiny.root / ".git/objects" / oid[:2] / oid[2:]).unlink()
    fails(tiny, words="", hint=False)


@pytest.mark.slow
def test_a_cache_that_cannot_be_made(tiny: Tiny) -> None:
    (tiny.tmp / "file").write_text("x")
    fails(tiny, words="cannot be made", env={"XDG_CACHE_HOME": str(tiny.tmp / "file")})
