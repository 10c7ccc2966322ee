"""`ark init`: all of it or nothing, whatever the place; code that is there; questions on a terminal.

.venv/bin/pytest tests/test_init.py
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoresearch_kit import data, starter
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.core.specfile import load_spec, parse_spec
from autoresearch_kit.ledger.lock import Lock
from autoresearch_kit.starter.text import own_spec

ARK = [sys.executable, "-m", "autoresearch_kit"]
TRAIN = 'import random\nprint(f"val_loss: {random.random():.3f}")\n'
OWN = ("--run", "python3 train.py", "--metric", "val_loss", "--direction", "minimize", "--mutable", "train.py")


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """A user with an empty home, an identity for git."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("GIT_", "ARK_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NO_COLOR", "1")
    (home / ".gitconfig").write_text("[user]\n\tname = A User\n\temail = user@example.org\n")
    return home


def ark(*words: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*ARK, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def code(tmp_path):
    """A repository with somebody's code."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "code")
    return folder


# The spec that comes out


@pytest.mark.slow
@pytest.mark.parametrize("template", starter.templates())
def test_every_key_is_there_and_is_valid_without_its_comment_sign(template):
    source = starter.find_template(template) / "autoresearch-config.yaml"
    text = starter.complete(source.read_text(), "mine")
    before, after = load_spec(source), parse_spec(text)
    assert after == before.model_copy(update={"name": "mine"})
    assert after.model_fields_set == before.model_fields_set
    for key in Spec.model_fields:
        assert len(re.findall(rf"^(?:# )?{key}:(?: |$)", text, re.M)) == 1, key
    alone = [parse_spec(text.replace(f"\n# {key}: ", f"\n{key}: ")) for key in Spec.model_fields]
    assert len(alone) == len(Spec.model_fields)
    everything = parse_spec(re.sub(rf"^# ((?:{'|'.join(Spec.model_fields)}): )", r"\1", text, flags=re.M))
    assert everything.model_fields_set == set(Spec.model_fields)


@pytest.mark.parametrize(
    "name", ["a \"b\" \\ 'c'", "ünï 🚀", "a: b # c", "line\nbreak", "\x85\x7f", "\udcff", "&x *y", ""]
)
def test_any_name_gives_a_spec(name):
    values = {"metric": "m", "metric_direction": "minimize", "mutable_files": ["a"], "run_command": "x"}
    for text in (starter.blank_spec(name), own_spec(values, name)):
        found = parse_spec(text).name
        assert found == name or not name.isprintable()
        assert "\n" not in found


@pytest.mark.slow
def test_list_tells_each_template_in_one_line(tmp_path):
    lines = ark("init", "--list", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(starter.templates())
    assert all(len(line.split()) > 4 for line in lines)
    assert {"blank", "python-speed", "prompt", "compile-flags", "toy", "kernel-tuning"} <= set(starter.templates())
    assert starter.find_template("kernel_tuning") == starter.templates()["kernel-tuning"]  # as the folder is called
    assert everything(tmp_path) == []


# Places


@pytest.mark.slow
def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "is not a folder" in ark("init", "file", cwd=tmp_path, code=1).stderr
    assert "Not a directory" in ark("init", "file/below", cwd=tmp_path, code=1).stderr
    (tmp_path / "nowhere").symlink_to("missing")
    assert "is not a folder" in ark("init", "nowhere", cwd=tmp_path, code=1).stderr
    assert everything(tmp_path) == ["file", "nowhere"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "Permission denied" in ark("init", "locked/mine", cwd=tmp_path, code=1).stderr
    assert everything(tmp_path) == ["locked"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["with space", 'it\'s "quoted"', "ünï🚀", "-dash", "dollar$(x);y", "new\nline", "*"])
def test_odd_names(name, tmp_path):
    done = ark("init", "--", name, cwd=tmp_path)
    assert git(tmp_path / name, "status", "--porcelain") == ""
    assert '"fail"' not in ark("check", "--json", "--", name, cwd=tmp_path).stdout
    (step,) = re.findall(r"^  (cd .*?)\n  ark", done.stderr, re.M | re.S)
    there = subprocess.run(["sh", "-c", f"{step} && test -f solution.py"], cwd=tmp_path, capture_output=True)
    assert there.returncode == 0, step


@pytest.mark.slow
def test_inside_a_bare_repository_or_below_it(tmp_path):
    git(tmp_path, "init", "-q", "--bare", "x.git")
    before = everything(tmp_path)
    for name in ("x.git", "x.git/sub"):
        assert "bare" in ark("init", name, "--template", "toy", cwd=tmp_path, code=1).stderr
    assert everything(tmp_path) == before


@pytest.mark.slow
def test_inside_a_submodule(code, tmp_path):
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(code), "inner")
    git(outer, "commit", "-qm", "start")
    head = git(outer, "rev-parse", "HEAD")
    ark("init", "outer/inner/sub", cwd=tmp_path)
    assert git(outer, "rev-parse", "HEAD") == head
    assert git(outer / "inner", "log", "--format=%s").splitlines() == ["Start sub, a project of ark", "code"]
    assert '"fail"' not in ark("check", "--json", "outer/inner/sub", cwd=tmp_path).stdout


@pytest.mark.slow
@pytest.mark.parametrize("commits", [False, True])
def test_the_index_stays_as_it_was(commits, tmp_path):
    git(tmp_path, "init", "-q")
    if commits:
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", "x")
    (tmp_path / "staged").write_text("staged")
    git(tmp_path, "add", "staged")
    (tmp_path / "staged").write_text("later")
    ark("init", "sub", cwd=tmp_path)
    assert git(tmp_path, "status", "--porcelain") == "AM staged\n"
    assert git(tmp_path, "show", ":staged") == "staged"
    assert all(name.startswith("sub/") for name in git(tmp_path, "ls-tree", "-r", "--name-only", "HEAD").splitlines())


@pytest.mark.slow
def test_the_users_own_ignore_rules_leave_no_half_of_a_project(home, tmp_path):
    (home / ".config/git").mkdir(parents=True)
    (home / ".config/git/ignore").write_text("*.md\n*.yaml\n")
    ark("init", "mine", cwd=tmp_path)
    assert {"program.md", "autoresearch-config.yaml"} <= set(git(tmp_path / "mine", "ls-files").splitlines())


@pytest.mark.slow
def test_an_existing_gitignore_stays_and_is_told_of(tmp_path):
    (tmp_path / ".gitignore").write_text("results.tsv\nmine\n")
    done = ark("init", ".", "--template", "compile-flags", cwd=tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "results.tsv\nmine\n"
    assert "lines worth adding: build/, run.log, __pycache__/\n" in done.stderr


@pytest.mark.slow
def test_another_repository_in_the_environment_plays_no_part(code, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(code / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(code / ".git/index"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    ark("init", "mine", cwd=tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "mine/.git").is_dir()
    assert subprocess.check_output(["git", "log", "--format=%an"], cwd=tmp_path / "mine", text=True) == "Somebody\n"
    assert subprocess.check_output(["git", "log", "--format=%s"], cwd=code, text=True) == "code\n"


@pytest.mark.slow
def test_on_a_desk_it_refuses(tmp_path):
    ark("init", "mine", cwd=tmp_path)
    seen = tmp_path / "seen"
    agent = f"{sys.executable} -m autoresearch_kit init sub 2> {seen}; exit 0"
    ark("run", "mine", "--tag", "t", "--attempts", "1", "--agent", agent, cwd=tmp_path, code=1)
    assert "throwaway copy" in seen.read_text(), seen.read_text()


def test_a_template_in_a_read_only_installation_gives_files_that_can_be_written(tmp_path, monkeypatch):
    copy = tmp_path / "data"
    for kind in ("templates", "examples"):
        shutil.copytree(data.data_folder(kind), copy / kind)
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        monkeypatch.setattr("autoresearch_kit.starter.catalog.data_folder", lambda name: copy / name)
        starter.start_project(tmp_path / "mine", "kernel-tuning")
    finally:
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755)
    modes = {path.name: path.stat().st_mode & 0o600 for path in (tmp_path / "mine").iterdir() if path.is_file()}
    assert set(modes.values()) == {0o600}


def test_what_somebodys_runs_left_in_an_example_is_not_taken(tmp_path, monkeypatch):
    copy = tmp_path / "data"
    for kind in ("templates", "examples"):
        shutil.copytree(data.data_folder(kind), copy / kind)
    toy, flags = copy / "examples/toy", copy / "templates/compile_flags"
    for path in (toy / "results.tsv", toy / ".venv/x", toy / "__pycache__/a.pyc", flags / "build/tuned"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("waste")
    (toy / "link").symlink_to("/etc/passwd")
    monkeypatch.setattr("autoresearch_kit.starter.catalog.data_folder", lambda name: copy / name)
    for template in ("toy", "compile-flags"):
        made = starter.start_project(tmp_path / template, template).made
        assert not [name for name in made if "waste" in (tmp_path / template / name).read_text() or name == "link"]


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)]
    tools = {**os.environ, "PATH": os.defpath + ":/sbin:/usr/sbin"}
    try:
        mounted = subprocess.run(mount, capture_output=True, env=tools).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no right to mount")
    try:
        for template in ("blank", "kernel-tuning"):
            done = ark("init", "small/mine", "--template", template, cwd=tmp_path, code=1)
            assert "No space left" in done.stderr or "git" in done.stderr
            assert everything(small) == []
    finally:
        subprocess.run(["umount", str(small)], env=tools, check=True)


@pytest.mark.slow
def test_two_at_once_in_one_folder_make_one_project(tmp_path):
    both = [subprocess.Popen([*ARK, "init", "mine"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate()[1] for process in both]
    assert "Traceback" not in "".join(said)
    assert sorted(process.returncode for process in both) == [0, 1, 1, 1]
    assert git(tmp_path / "mine", "status", "--porcelain") == ""
    assert git(tmp_path / "mine", "rev-list", "--count", "HEAD") == "1\n"


@pytest.mark.slow
def test_two_at_once_in_one_repository_make_two_projects(code):
    both = [subprocess.Popen([*ARK, "init", name], cwd=code, stderr=subprocess.PIPE, text=True) for name in "abc"]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0, 0], said
    assert git(code, "status", "--porcelain") == ""


def test_of_a_folder_with_many_files_their_number_is_told(tmp_path):
    said = ark("init", "mine", "--template", "llm_pretrain_ane", cwd=tmp_path).stderr.splitlines()[0]
    counted = re.fullmatch(
        r"made and committed in mine: .*Makefile, README\.md, ane/ \((\d+) files\), .*stories\.py, .*", said
    )
    assert counted and int(counted[1]) == len(list((tmp_path / "mine/ane").iterdir()))
    assert len(said) < 500


def test_it_waits_for_another_that_commits_here(code):
    lock = Lock(code / ".git/ark/+first-commit", "the index")
    lock.acquire()
    process = subprocess.Popen([*ARK, "init", "sub"], cwd=code, stderr=subprocess.PIPE, text=True)
    while not (code / "sub/program.md").exists():
        assert process.poll() is None
        time.sleep(0.02)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.5)
    assert process.returncode is None
    assert git(code, "status", "--porcelain") == "?? sub/\n"
    lock.release()
    assert process.communicate(timeout=30)[1].startswith("made and committed in sub")
    assert git(code, "status", "--porcelain") == ""


def test_a_commit_of_another_git_that_takes_new_files_out_of_the_index_is_survived(code, tmp_path, monkeypatch):
    # What a partial commit does that has read the index before our `add` and writes it after.
    wrapper = tmp_path / "git"
    wrapper.write_text(
        f"#!/bin/sh\ncase \" $* \" in *' commit '*) [ -e '{tmp_path}/once' ] || {{ : > '{tmp_path}/once';"
        f" '{shutil.which('git')}' rm -rq --cached sub; }}; esac\nexec '{shutil.which('git')}' \"$@\"\n"
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("GIT_PYTHON_GIT_EXECUTABLE", str(wrapper))
    assert ark("init", "sub", cwd=code).stderr.startswith("made and committed in sub")
    assert (tmp_path / "once").exists()
    assert git(code, "status", "--porcelain") == ""


def hook(code: Path, script: str, name: str = "pre-commit") -> None:
    path = code / ".git/hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def init_in_hook(code: Path, name: str) -> subprocess.Popen[str]:
    """`ark init sub` in a session of its own, at the moment when git has begun this hook, which takes long."""
    begun = code.parent / "begun"
    hook(code, f": > '{begun}'\nsleep 30", name)
    process = subprocess.Popen(
        [*ARK, "init", "sub"], cwd=code, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_a_hook_that_says_much_and_leaves_a_process_behind(code, tmp_path):
    """More than a pipe holds; and the pipe would be open as long as the process is."""
    hook(code, f"yes | head -c 300000 >&2; sleep 60 & echo $! > '{tmp_path}/left'")
    try:
        ark("init", "sub", cwd=code)
        assert git(code, "log", "-1", "--format=%s") == "Start sub, a project of ark\n"
    finally:
        os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)


def test_what_a_hook_says_is_told(code):
    hook(code, "echo no commits on Sundays >&2; exit 1")
    assert "no commits on Sundays" in ark("init", "sub", cwd=code, code=1).stderr
    assert not (code / "sub").exists() and git(code, "status", "--porcelain") == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [lambda pid: os.killpg(pid, signal.SIGINT), lambda pid: os.kill(pid, signal.SIGTERM)],
    ids=["Ctrl-C", "terminated alone"],
)
def test_ended_while_git_commits_it_leaves_nothing(how, code):
    process = init_in_hook(code, "pre-commit")
    how(process.pid)
    said = process.communicate(timeout=30)[1]
    assert "Traceback" not in said
    assert process.returncode == 130, said
    assert not (code / "sub").exists()
    assert git(code, "log", "--format=%s") == "code\n"
    assert git(code, "diff", "--cached", "--name-only") == ""


@pytest.mark.slow
def test_ended_after_the_commit_it_stays(code):
    """A commit without its files would be worse than either."""
    process = init_in_hook(code, "post-commit")
    process.terminate()
    assert "Traceback" not in process.communicate(timeout=30)[1] and process.returncode == 130
    assert git(code, "log", "-1", "--format=%s") == "Start sub, a project of ark\n"
    assert git(code, "status", "--porcelain") == "" and (code / "sub/program.md").exists()


@pytest.mark.parametrize("committed", [False, True], ids=["staged", "committed"])
def test_a_file_that_git_tracks_but_is_gone_is_left_so(code, committed):
    (code / "sub").mkdir()
    (code / "sub/program.md").write_text("mine\n")
    git(code, "add", ".")
    if committed:
        git(code, "commit", "-qm", "mine")
    (code / "sub/program.md").unlink()
    before = git(code, "status", "--porcelain")
    said = ark("init", "sub", "--template", "blank", cwd=code, code=1).stderr
    assert "git tracks sub/program.md, which was not there any more" in said
    assert git(code, "status", "--porcelain") == before and not list((code / "sub").iterdir())


@pytest.mark.parametrize("name", ["s*", "su[b]", "su?", ":(glob)s*", "!sub"])
def test_a_name_that_looks_like_a_pattern(code, name):
    (code / "sub").mkdir()
    (code / "sub/program.md").write_text("mine\n")
    git(code, "add", ".")
    git(code, "commit", "-qm", "mine")
    (code / "sub/program.md").write_text("changed\n")
    ark("init", name, "--template", "blank", cwd=code)
    assert git(code, "status", "--porcelain") == " M sub/program.md\n"
    assert (code / name / "program.md").exists()


@pytest.mark.parametrize(
    ("command", "what", "left"),
    [
        ("revert --no-edit HEAD~1", "revert", "REVERT_HEAD"),
        ("cherry-pick side", "cherry-pick", "CHERRY_PICK_HEAD"),
        ("merge side", "merge", "MERGE_HEAD"),
        ("merge --squash side", "merge --squash", "SQUASH_MSG"),
        ("rebase side", "rebase", "rebase-merge"),
    ],
    ids=["revert", "cherry-pick", "merge", "squash", "rebase"],
)
def test_in_the_middle_of_something_it_waits_for_its_end(code, command, what, left):
    """A commit would become a part of it, or end it: the user could not abort it any more."""
    git(code, "switch", "-qc", "side")
    for content in ("x\n", "y\n"):
        (code / "train.py").write_text(content)
        git(code, "commit", "-qam", "side")
    git(code, "switch", "-q", "-")
    for content in ("c\n", "d\n"):
        (code / "train.py").write_text(content)
        git(code, "commit", "-qam", "main")
    subprocess.run(["git", *command.split()], cwd=code, capture_output=True)
    before = git(code, "status", "--porcelain")
    assert (code / ".git" / left).exists()
    said = ark("init", "sub", cwd=code, code=1).stderr
    assert f"in the middle of a {what}\n" in said and "git status" in said
    assert git(code, "status", "--porcelain") == before and (code / ".git" / left).exists()
    assert not (code / "sub").exists()


def test_without_standard_streams(tmp_path):
    words = f"{shlex.join(ARK)} init"
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        name = f"p{len(list(tmp_path.iterdir()))}"
        done = subprocess.run(["sh", "-c", f"{words} {name} {closed}"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        assert git(tmp_path / name, "status", "--porcelain") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_repository_of_somebody_else(code):
    for path in (code, *code.rglob("*")):
        os.lchown(path, 65534, 65534)
    assert "hint: git config --global --add safe.directory" in ark("init", "sub", cwd=code, code=1).stderr
    assert not (code / "sub").exists()


# Code that is there


@pytest.mark.slow
def test_own_code_becomes_a_project(code):
    (code / "notes").write_text("not committed")
    done = ark("init", ".", *OWN, "--eval", "grep val_loss run.log", cwd=code)
    assert git(code, "show", "--name-only", "--format=").split() == [
        ".gitignore",
        "autoresearch-config.yaml",
        "program.md",
    ]
    assert git(code, "status", "--porcelain") == "?? notes\n"
    spec = load_spec(code / "autoresearch-config.yaml")
    assert (spec.name, spec.metric, spec.metric_direction) == ("code", "val_loss", "minimize")
    assert (spec.run_command, spec.mutable_files) == ("python3 train.py", ["train.py"])
    assert spec.eval_command == "grep val_loss run.log"
    assert "train.py" in (code / "program.md").read_text()
    assert "git add" not in done.stderr


@pytest.mark.slow
def test_own_code_runs(code):
    ark("init", ".", *OWN, cwd=code)
    assert '"fail"' not in ark("check", "--json", cwd=code).stdout
    ark("run", "--tag", "t", "--attempts", "1", "--agent", "echo 'print(1)' >> train.py", cwd=code)
    assert '"attempts": 1' in ark("status", "--json", cwd=code).stdout


@pytest.mark.slow
def test_own_code_in_no_repository_is_to_be_committed_first(tmp_path):
    (tmp_path / "train.py").write_text(TRAIN)
    done = ark("init", ".", *OWN, cwd=tmp_path)
    assert git(tmp_path, "status", "--porcelain") == "?? train.py\n"
    (step,) = re.findall(r"^  (git add .* -m start)  ", done.stderr, re.M)
    subprocess.run(step, shell=True, cwd=tmp_path, check=True, capture_output=True)
    assert '"fail"' not in ark("check", "--json", cwd=tmp_path).stdout


SORTER = {"sorter.py": "def sort(a):\n    return sorted(a)\n", "timing.py": 'import sorter\nprint("seconds: %g" % 1)\n'}


@pytest.fixture
def judged(tmp_path):
    """A script that judges another one, in no repository, beside what git need not see."""
    for name, text in {**SORTER, ".venv/big": "x", "sub/data": "1"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.slow
def test_what_changes_is_what_the_script_imports_and_all_that_runs_is_committed(judged):
    done = ark("init", ".", "--run", "python3 timing.py", cwd=judged, code=2)
    assert "--metric, --direction, --mutable are missing" in done.stderr
    (line,) = re.findall(r"perhaps: ark (.*)", done.stderr)
    assert "--metric seconds --direction minimize --mutable sorter.py" in line
    done = ark(*shlex.split(line), cwd=judged)
    (step,) = re.findall(r"^  (git add .* -m start)  ", done.stderr, re.M)
    assert step == "git add -- sorter.py sub timing.py && git commit -m start"


@pytest.mark.slow
def test_in_a_repository_with_commits_only_what_the_commands_need_is_to_be_committed(judged):
    git(judged, "init", "-q")
    git(judged, "add", "sub")
    git(judged, "commit", "-qm", "data")
    (judged / "notes").write_text("mine")
    own = ("--metric", "seconds", "--direction", "minimize", "--mutable", "sort*.py", "--run", "python3 timing.py")
    assert "\n  git add -- sorter.py timing.py && git commit" in ark("init", ".", *own, cwd=judged).stderr


@pytest.mark.slow
def test_a_virtual_environment_that_a_command_names_is_shared(code):
    (code / ".venv/bin").mkdir(parents=True)
    ark("init", ".", *("--run", ".venv/bin/python train.py"), *OWN[2:], cwd=code)
    assert load_spec(code / "autoresearch-config.yaml").link == [".venv"]


@pytest.mark.slow
def test_options_that_lack_something_are_answered_with_the_whole_line(code):
    done = ark("init", ".", "--metric", "val_loss", cwd=code, code=2)
    assert "--run, --direction, --mutable are missing" in done.stderr
    (line,) = re.findall(r"perhaps: ark (.*)", done.stderr)
    subprocess.run([*ARK, *shlex.split(line)], cwd=code, check=True, capture_output=True)
    assert load_spec(code / "autoresearch-config.yaml").run_command == "python3 train.py"


def test_in_a_folder_with_code_nothing_is_guessed_silently(code):
    done = ark("init", ".", cwd=code, code=2)
    assert "nothing says how" in done.stderr
    assert "--run 'python3 train.py' --metric val_loss --direction minimize --mutable train.py" in done.stderr
    assert git(code, "status", "--porcelain") == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([*OWN[:-1], "trian.py"], "did you mean `train.py`?"),
        (["--metric", "a b", *OWN[:2], *OWN[4:]], "is not a metric's name"),
        ([*OWN[:-1], "../x.py"], "`../x.py` is not a file"),
        ([*OWN, "--template", "toy"], "a template says itself"),
        ([*OWN[:-1], "autoresearch-config.yaml"], "is not a file"),
    ],
)
def test_mistakes_in_the_options_leave_nothing(code, options, said):
    assert said in ark("init", ".", *options, cwd=code, code=2).stderr
    assert git(code, "status", "--porcelain") == ""


@pytest.mark.slow
def test_a_second_time_says_what_is_in_the_way(code):
    ark("init", ".", *OWN, cwd=code)
    for options in ((), OWN):
        done = ark("init", ".", *options, cwd=code, code=1)
        assert "holds already: autoresearch-config.yaml, program.md" in done.stderr


# Next steps


@pytest.mark.slow
def test_an_installed_agent_is_named(tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("git", "sh"):
        (programs / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(programs))
    assert "with search" in ark("init", "a", cwd=tmp_path).stderr
    (programs / "codex").write_text("#!/bin/sh\n")
    (programs / "codex").chmod(0o755)
    assert "ark run --agent codex" in ark("init", "b", cwd=tmp_path).stderr


# On a terminal


class Terminal:
    """`ark` with a terminal of its own."""

    def __init__(self, *words: str, cwd: Path) -> None:
        self.said = ""
        self._read = 0
        self.pid, self._end = pty.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                os.chdir(cwd)
                os.execve(sys.executable, [*ARK, *words], {**os.environ, "TERM": "dumb"})
            os._exit(99)

    def until(self, text: str) -> None:
        while text not in self.said[self._read :]:
            ready, _, _ = select.select([self._end], [], [], 60)
            assert ready, f"no `{text}` in {self.said[self._read :]!r}"
            self.said += os.read(self._end, 4096).decode()
        self._read = self.said.index(text, self._read) + len(text)

    def answer(self, text: str) -> None:
        os.write(self._end, text.encode())

    def press(self, key: str) -> None:
        """Until it is heeded: a signal just before Python begins to wait for a line is seen after it."""
        with contextlib.suppress(OSError):  # how Linux tells that the other end is closed
            for _ in range(30):
                os.write(self._end, key.encode())
                while select.select([self._end], [], [], 2)[0]:
                    self.said += os.read(self._end, 4096).decode()

    def ended(self) -> int:
        with contextlib.suppress(OSError):
            while more := os.read(self._end, 4096):
                self.said += more.decode()
        os.close(self._end)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.slow
def test_it_asks_for_a_template_until_it_is_one(tmp_path):
    terminal = Terminal("init", "mine", cwd=tmp_path)
    terminal.until("template [blank]: ")
    terminal.answer("tpy\n")
    terminal.until("did you mean `toy`?")
    terminal.until("template [blank]: ")
    terminal.answer("toy\n")
    assert terminal.ended() == 0, terminal.said
    assert (tmp_path / "mine/train.py").exists()


@pytest.mark.slow
def test_it_asks_about_own_code_with_guesses(code):
    terminal = Terminal("init", ".", cwd=code)
    terminal.until("[Y/n]: ")
    terminal.answer("\n")
    terminal.until("run command [python3 train.py]: ")
    terminal.answer("python3 train.py --quick\n")
    terminal.until("metric, as it is printed [val_loss]: ")
    terminal.answer("\n")
    terminal.until("[minimize]: ")
    terminal.answer("upward\n")
    terminal.until("[minimize]: ")
    terminal.answer("maximize\n")
    terminal.until("files that may change [train.py]: ")
    terminal.answer("'train\n")
    terminal.until("files that may change [train.py]: ")
    terminal.answer("\n")
    assert terminal.ended() == 0, terminal.said
    spec = load_spec(code / "autoresearch-config.yaml")
    assert (spec.run_command, spec.metric_direction) == ("python3 train.py --quick", "maximize")
    assert spec.mutable_files == ["train.py"]


@pytest.mark.slow
def test_it_suggests_the_script_that_no_other_imports_and_says_why_it_asks_again(judged):
    (judged / "timing.py").write_text("import sorter\nprint(sorter.sort([1]))\n")
    terminal = Terminal("init", ".", cwd=judged)
    terminal.until("[Y/n]: ")
    terminal.answer("\n")
    terminal.until("run command [python3 timing.py]: ")
    terminal.answer("\n")
    terminal.until("metric, as it is printed: ")
    terminal.answer("\n")
    terminal.until("it needs an answer")
    terminal.until("metric, as it is printed: ")
    terminal.answer("seconds\n")
    terminal.until("[minimize]: ")
    terminal.answer("\n")
    terminal.until("files that may change [sorter.py]: ")
    terminal.answer("\n")
    assert terminal.ended() == 0, terminal.said


@pytest.mark.slow
def test_it_asks_only_for_what_is_not_given(code):
    terminal = Terminal("init", ".", *OWN[:4], *OWN[6:], cwd=code)
    terminal.until("direction (minimize, maximize) [minimize]: ")
    terminal.answer("\n")
    assert terminal.ended() == 0, terminal.said
    terminal = Terminal("init", "sub", "--template", "toy", cwd=code)
    assert terminal.ended() == 0
    assert "?" not in terminal.said


@pytest.mark.slow
@pytest.mark.parametrize("end", ["\x03", "\x04"], ids=["Ctrl-C", "end of input"])
def test_an_interrupted_question_leaves_nothing(end, code, tmp_path):
    before = everything(tmp_path)
    terminal = Terminal("init", "mine", cwd=tmp_path)
    terminal.until("template [blank]: ")
    terminal.press(end)
    assert terminal.ended() == 130, terminal.said
    terminal = Terminal("init", ".", *OWN[:4], cwd=code)
    terminal.until("direction")
    terminal.until(": ")
    terminal.press(end)
    assert terminal.ended() == 130, terminal.said
    terminal = Terminal("init", ".", cwd=code)
    terminal.until("[Y/n]: ")
    terminal.press(end)
    assert terminal.ended() == 130, terminal.said
    assert "Traceback" not in terminal.said and "interrupted" in terminal.said
    assert everything(tmp_path) == before


@pytest.mark.slow
def test_with_its_output_elsewhere_it_asks_nothing(tmp_path):
    done = subprocess.run(
        [*ARK, "init", "mine"], cwd=tmp_path, capture_output=True, text=True, timeout=60, input="toy\n"
    )
    assert done.returncode == 0
    assert (tmp_path / "mine/solution.py").exists()
