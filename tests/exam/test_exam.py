"""The exam itself: what it plants, what it leaves alone, and how it ends.

.venv/bin/pytest tests/exam/test_exam.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.exam import Exam
from autoresearch_kit.project import open_project

ARK = [sys.executable, "-m", "autoresearch_kit"]
PATIENCE = 60.0


def ark(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ARK, *words], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def hanging(commit, tmp_path):
    """An exam in another process whose first run does not end."""
    folder = commit(files={"train.sh": f"echo $$ > {tmp_path}/pid\nsleep 600\n"}, timeout_minutes=20)
    child = subprocess.Popen([*ARK, "exam"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert child.poll() is None and time.monotonic() < deadline, child.stderr.read()
        time.sleep(0.02)
    yield folder, child
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=PATIENCE)


@pytest.mark.slow
def test_rows_go_to_stdout_talk_to_stderr_and_weakness_is_an_exit_code(commit):
    folder = commit()
    done = ark("exam", "--only", "broken", "--runs", "2", cwd=folder)
    assert done.returncode == 0
    assert done.stdout.startswith("ok         broken: ") and done.stdout.count("\n") == 1
    assert "baseline: scores 10" in done.stderr and "at most about 4 measurements" in done.stderr

    (folder / "evaluate.sh").write_text("echo score: 3\n")
    git(folder, "commit", "-qam", "weaker")
    done = ark("exam", "--only", "broken", "--json", cwd=folder)
    assert done.returncode == 1
    (row,) = json.loads(done.stdout)
    assert row["question"] == "broken" and row["verdict"] == "WEAK" and row["hint"]


def test_an_unknown_question_is_told_with_the_known_ones(commit):
    done = ark("exam", "--only", "everything", cwd=commit())
    assert done.returncode == 2
    assert "no question `everything`" in done.stderr and "constant-output" in done.stderr


@pytest.mark.slow
def test_a_baseline_that_fails_is_an_error_with_its_last_words(commit):
    done = ark("exam", cwd=commit(files={"train.sh": "echo no such luck >&2; exit 3\n"}))
    assert done.returncode == 1 and done.stdout == ""
    assert "the baseline failed: exit: exit code 3; its last words: no such luck" in done.stderr


@pytest.mark.slow
def test_nothing_is_left_but_logs_and_nothing_of_the_users_is_touched(commit, examine, tmp_path):
    folder = commit(files={"notes.txt": "mine"})
    (folder / "notes.txt").write_text("mine, not committed")
    (folder / "other.txt").write_text("nor this")
    home = everything(tmp_path / "home")
    files, state = everything(folder), git(folder, "status", "--porcelain") + git(folder, "for-each-ref")
    examine(folder)
    now = everything(folder)
    assert {n: d for n, d in now.items() if not n.startswith(".git/")} == {
        n: d for n, d in files.items() if not n.startswith(".git/")
    }
    assert git(folder, "status", "--porcelain") + git(folder, "for-each-ref") == state
    assert everything(tmp_path / "home") == home
    left = {Path(path).parent.name for path in everything(tmp_path / "cache")}
    assert left <= {"logs", "exam"}, "what a bench knows of itself may stay, the bench and the cheats not"
    assert not [p for p in psutil.Process().children(recursive=True) if "guardian" in " ".join(p.cmdline())]


@pytest.mark.slow
def test_interrupted_it_ends_its_run_and_leaves_no_bench(hanging, tmp_path):
    folder, child = hanging
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=PATIENCE)
    assert child.returncode == 130
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert not list((tmp_path / "cache").rglob("bench")) and not list((tmp_path / "cache").rglob("exam-tools"))
    (folder / "train.sh").write_text("echo 10 > answer.txt\n")
    git(folder, "commit", "-qam", "mended")
    assert ark("exam", "--only", "unchanged", "--runs", "2", cwd=folder).returncode == 0


@pytest.mark.slow
def test_a_second_exam_and_clean_wait_for_the_first(hanging):
    folder, _ = hanging
    second = ark("exam", cwd=folder)
    assert second.returncode == 1 and "an exam of this repository is going on already" in second.stderr
    clean = ark("clean", cwd=folder)
    assert clean.returncode == 1 and "exam" in clean.stderr and "is going on" in clean.stderr


@pytest.mark.slow
def test_what_is_linked_is_named_and_never_written(commit, examine):
    folder = commit(link=["tools"], eval_command="sh tools/evaluate.sh", immutable_files=[])
    git(folder, "rm", "-q", "evaluate.sh")
    (folder / ".gitignore").write_text("/tools\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "tools are not committed")
    (folder / "tools").mkdir()
    (folder / "tools" / "evaluate.sh").write_text('echo "score: $(cat answer.txt)"\n')
    before = everything(folder / "tools")
    answers = examine(folder)
    assert answers["rewritten-evaluation"].verdict == "WEAK"
    assert "tools/evaluate.sh" in answers["rewritten-evaluation"].text
    assert everything(folder / "tools") == before


def test_a_cheat_stops_at_links(commit, tmp_path):
    """The planted program puts nothing where a link leads, and writes into no file that has another name."""
    from autoresearch_kit.exam import planted

    bench, outside = tmp_path / "bench", tmp_path / "outside"
    (bench / "inner").mkdir(parents=True)
    outside.mkdir()
    (outside / "file").write_text("theirs")
    (bench / "linked").symlink_to(outside)
    (bench / "name").symlink_to(outside / "file")
    os.link(outside / "file", bench / "inner" / "hard")
    (tmp_path / "forged").write_text("forged")
    for name in ("linked/file", "linked/new", "name", "inner/hard", "deep/er"):
        planted._put(tmp_path / "forged", bench, Path(name))
    assert everything(outside) == {"file": b"theirs"}
    assert (bench / "inner" / "hard").read_text() == (bench / "deep" / "er").read_text() == "forged"


@pytest.mark.slow
def test_in_a_folder_of_a_larger_repository(commit, examine):
    evaluation = "echo $((2 * $(cat answer.txt)))\n"
    folder = commit(files={"deep/own/train.sh": "echo 5 > answer.txt\n", "deep/own/evaluate.sh": evaluation})
    (folder / "autoresearch-config.yaml").rename(folder / "deep" / "own" / "autoresearch-config.yaml")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "deeper")
    answers = examine(folder / "deep" / "own")
    assert {a.verdict for a in answers.values()} == {"ok", "not tried"}
    assert "gives 10" in answers["forged-metric"].text and "never" not in answers["forged-metric"].text


def test_files_in_no_language_are_broken_but_not_planted_in(commit, examine):
    run = "set -e; sum=$(cat data/* | wc -c); test $sum -gt 5; echo $sum > answer.txt\n"
    files = {"run.sh": run, "data/weights.bin": b"\0\1\2\3", "data/notes": "a word", "data/idle": "?"}
    folder = commit(files=files, mutable_files=["data/**"], run_command="sh run.sh")
    answers = examine(folder)
    assert answers["broken"].verdict == "WEAK" and "as garbage it scores 11" in answers["broken"].text
    for name in ("forged-metric", "rewritten-evaluation", "cached-answer", "constant-output"):
        assert answers[name].verdict == "not tried" and "data/idle" in answers[name].text


def test_which_of_several_files_does_not_matter_is_told(commit, examine):
    folder = commit(files={"unused.sh": "true\n"}, mutable_files=["*n.sh", "unused.sh"])
    answer = examine(folder, "broken")["broken"]
    assert answer.verdict == "ok" and "emptying only unused.sh changes nothing" in answer.text


@pytest.mark.slow
def test_scores_as_large_as_they_can_be(commit, examine):
    evaluation = 'if [ "$ARK_ATTEMPT" -gt 0 ]; then echo 1.7e308; else echo 1.6e308; fi\n'
    answers = examine(commit(files={"evaluate.sh": evaluation}))
    assert "1.6e+308 as the baseline and 1.7e+308 as a candidate" in answers["unchanged"].text


def test_two_runs_at_least_and_a_project_without_mutable_files(commit):
    folder = commit(mutable_files=["*.nothing"])
    project = open_project(folder)
    with Exam(project) as exam, pytest.raises(ArkError, match="no committed file is mutable"):
        exam.begin()
    project.repository.close()
    assert ark("exam", "--runs", "1", cwd=folder).returncode == 2
