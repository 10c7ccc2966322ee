"""The verbs that need no run: init, render-program, check, clean; and how errors look.

.venv/bin/pytest tests/test_cli.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_kit import starter
from autoresearch_kit.ledger.lock import Lock

ARK = [sys.executable, "-m", "autoresearch_kit"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user with an empty home, an identity for git, and nothing else."""
    home = tmp_path / "home"
    home.mkdir()
    for name in list(os.environ):
        if name.startswith(("GIT_", "ARK_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    (home / ".gitconfig").write_text("[user]\n\tname = A User\n\temail = user@example.org\n")
    return home


def ark(*words: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*ARK, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("template", sorted(starter.templates()))
def test_init_makes_a_committed_project_that_passes_check(template, home, tmp_path):
    ark("init", "my project", "--template", template, cwd=tmp_path)
    folder = tmp_path / "my project"
    assert (folder / "program.md").exists()
    clean = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True)
    assert clean.stdout == ""
    findings = json.loads(ark("check", "--json", cwd=folder).stdout)
    levels = {finding["level"] for finding in findings}
    assert "fail" not in levels
    assert not [f for f in findings if f["subject"] == "dirty files"]


@pytest.mark.slow
def test_the_blank_project_runs(home, tmp_path):
    ark("init", "mine", cwd=tmp_path)
    agent = "sed -i.old s/STEPS.=.10/STEPS=40/ solution.py && rm solution.py.old"
    done = ark("run", "--tag", "t", "--attempts", "1", "--agent", agent, cwd=tmp_path / "mine")
    assert "keep" in done.stderr
    status = json.loads(ark("status", "--json", cwd=tmp_path / "mine").stdout)
    assert (status["attempts"], status["kept"], status["running"]) == (1, 1, False)
    assert status["best"] < status["baseline"]


@pytest.mark.slow
def test_init_in_a_repository_of_others_commits_only_its_own_files(home, tmp_path):
    subprocess.run("git init -q && echo x > x && git add x && git commit -qm x && echo y > y && git add y", shell=True,
                   cwd=tmp_path, check=True)  # fmt: skip
    ark("init", "sub", cwd=tmp_path)
    staged = subprocess.run(["git", "diff", "--cached", "--name-only"], cwd=tmp_path, capture_output=True, text=True)
    assert staged.stdout.split() == ["y"]


@pytest.mark.slow
def test_init_refuses_to_overwrite_and_lists_what_is_in_the_way(home, tmp_path):
    (tmp_path / "solution.py").write_text("mine")
    (tmp_path / "program.md").write_text("mine")
    done = ark("init", ".", "--template", "blank", cwd=tmp_path, code=1)
    assert "program.md, solution.py" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "program.md", "solution.py"]


@pytest.mark.slow
def test_init_leaves_an_existing_gitignore_alone(home, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / ".gitignore").write_bytes(b"a\r\n")
    subprocess.run("git init -q && git add . && git commit -qm x", shell=True, cwd=folder, check=True)
    (folder / ".gitignore").write_bytes(b"a\r\n\xe9\r\n")
    ark("init", ".", cwd=folder)
    assert (folder / ".gitignore").read_bytes() == b"a\r\n\xe9\r\n"
    git = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True)
    assert git.stdout == " M .gitignore\n"


@pytest.mark.slow
def test_init_writes_through_no_link(home, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (tmp_path / "shared").write_text("a\n")
    (folder / ".gitignore").symlink_to("../shared")
    ark("init", ".", cwd=folder)
    assert (folder / ".gitignore").is_symlink() and (tmp_path / "shared").read_text() == "a\n"


@pytest.mark.slow
def test_init_that_fails_leaves_nothing(home, tmp_path):
    with (home / ".gitconfig").open("a") as file:
        file.write("[commit]\n\tgpgSign = true\n[gpg]\n\tprogram = false\n")
    ark("init", "over/mine", cwd=tmp_path, code=1)
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


@pytest.mark.slow
def test_init_works_where_git_knows_nobody(home, tmp_path):
    (home / ".gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    done = ark("init", "mine", cwd=tmp_path)
    assert "the author is ark" in done.stderr
    authors = subprocess.run(["git", "log", "--format=%an"], cwd=tmp_path / "mine", capture_output=True, text=True)
    assert authors.stdout == "ark\n"


@pytest.mark.slow
def test_a_refused_first_commit_leaves_nothing_staged(home, tmp_path):
    subprocess.run("git init -q && git commit -q --allow-empty -m x", shell=True, cwd=tmp_path, check=True)
    hook = tmp_path / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho no such style >&2\nexit 1\n")
    hook.chmod(0o755)
    assert "no such style" in ark("init", "sub", cwd=tmp_path, code=1).stderr
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, capture_output=True, text=True)
    assert status.stdout.split() == ["??", "home/"]


@pytest.mark.slow
def test_init_in_a_bare_repository_changes_nothing(home, tmp_path):
    subprocess.run(["git", "init", "-q", "--bare", "x.git"], cwd=tmp_path, check=True)
    before = sorted((tmp_path / "x.git").rglob("*"))
    assert "bare" in ark("init", "x.git", cwd=tmp_path, code=1).stderr
    assert sorted((tmp_path / "x.git").rglob("*")) == before


@pytest.mark.slow
def test_two_projects_in_one_repository_keep_their_runs_apart(home, tmp_path):
    subprocess.run("git init -q && git commit -q --allow-empty -m x", shell=True, cwd=tmp_path, check=True)
    for name in ("p1", "p2"):
        ark("init", name, cwd=tmp_path)
        ark("run", name, "--attempts", "1", "--agent", f"echo '#{name}' >> solution.py", cwd=tmp_path)
    tags = {name: json.loads(ark("status", name, "--json", cwd=tmp_path).stdout)["tag"] for name in ("p1", "p2")}
    assert tags["p1"].startswith("p1-") and tags["p2"].startswith("p2-")
    assert json.loads(ark("log", "p1", "--json", cwd=tmp_path).stdout)[0]["started"]
    done = ark("run", "p2", "--tag", tags["p1"], "--agent", "true", cwd=tmp_path, code=2)
    assert "belongs to p1/autoresearch-config.yaml" in done.stderr


@pytest.mark.slow
def test_an_evaluator_that_was_committed_later_is_told(home, tmp_path):
    ark("init", "mine", cwd=tmp_path)
    folder = tmp_path / "mine"
    ark("run", "--tag", "t", "--attempts", "1", cwd=folder)
    (folder / "evaluate.py").write_text((folder / "evaluate.py").read_text() + "# better\n")
    subprocess.run("git commit -qam better", shell=True, cwd=folder, check=True)
    assert "goes on with its own: evaluate.py" in ark("run", "--tag", "t", "--attempts", "0", cwd=folder).stderr


@pytest.mark.slow
def test_a_title_that_the_terminal_cannot_show_is_shown_otherwise(home, tmp_path, monkeypatch):
    ark("init", "mine", cwd=tmp_path)
    agent = "echo >> solution.py; mkdir -p .ark; echo 'Größer' > .ark/attempt.md"
    ark("run", "--tag", "t", "--attempts", "1", "--agent", agent, cwd=tmp_path / "mine")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert "Gr\\xf6" in ark("log", cwd=tmp_path / "mine").stdout


@pytest.mark.slow
def test_unknown_template_lists_the_known_ones(home, tmp_path):
    done = ark("init", "mine", "--template", "blnak", cwd=tmp_path, code=2)
    assert "blank, " in done.stderr
    assert not (tmp_path / "mine").exists()
    assert "did you mean `blank`?" in done.stderr


@pytest.mark.slow
def test_render_program_goes_to_stdout_or_beside_the_spec(home, tmp_path):
    ark("init", "mine", cwd=tmp_path)
    text = ark("render-program", "mine", "-o", "-", cwd=tmp_path).stdout
    assert text == (tmp_path / "mine" / "program.md").read_text()
    assert "`error`" in text and "solution.py" in text
    ark("render-program", "mine", "-o", "other.md", cwd=tmp_path)
    assert (tmp_path / "other.md").read_text() == text


@pytest.mark.slow
def test_render_program_does_not_overwrite_what_somebody_wrote(home, tmp_path):
    ark("init", "mine", cwd=tmp_path)
    program = tmp_path / "mine" / "program.md"
    text = program.read_text()
    program.write_text(text + "stale")
    ark("render-program", "mine", cwd=tmp_path)
    assert program.read_text() == text
    program.write_text("# by hand\n")
    done = ark("render-program", "mine", cwd=tmp_path, code=1)
    assert "was not rendered by ark" in done.stderr and "-o -" in done.stderr
    assert program.read_text() == "# by hand\n"
    ark("render-program", "mine", "-o", "mine/program.md", cwd=tmp_path)
    assert program.read_text() == text
    assert not list(program.parent.glob(".*tmp"))


@pytest.mark.slow
def test_render_program_needs_no_repository(home, tmp_path):
    (tmp_path / "autoresearch-config.yaml").write_text(starter.blank_spec("alone"))
    assert "# alone" in ark("render-program", ".", "-o", "-", cwd=tmp_path).stdout


@pytest.mark.slow
def test_check_finds_what_would_waste_a_night(home, tmp_path):
    ark("init", "mine", cwd=tmp_path)
    folder = tmp_path / "mine"
    spec = folder / "autoresearch-config.yaml"
    text = spec.read_text().replace("python3 solution.py", "no-such-program solution.py")
    spec.write_text(text + "\nagent: {command: no-such-agent}\nholdout_command: no-such-exam\n")
    (folder / "solution.py").write_text("print(1)\n")
    (folder / "new.txt").write_text("x")
    findings = json.loads(ark("check", "--json", cwd=folder, code=1).stdout)
    found = {(f["level"], f["subject"]): f["text"] for f in findings}
    assert "no-such-program" in found["fail", "run_command"]
    assert "no-such-agent" in found["fail", "agent"]
    assert "solution.py" in found["warn", "dirty files"] and "new.txt" in found["warn", "dirty files"]
    assert "no-such-exam" in found["fail", "holdout_command"]
    assert not {("ok", "noise"), ("fail", "noise")} & found.keys(), "nothing is said of the noise of what cannot run"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "level"),
    [
        ("run_command: python3 solution.py", 1),
        ("run_command: python3 solution.py > run.log\neval_command: grep x run.log", 1),
        ("run_command: python3 solution.py\neval_command: python3 evaluate.py\nartifacts: [a]", 3),
        ("run_command: python3 solution.py\neval_command: python3 indirect.py\nartifacts: [a]", 2),
        ("run_command: python3 solution.py\neval_command: make score\nartifacts: [a]", 2),
    ],
)
def test_check_tells_the_trust_level(spec, level, home, tmp_path):
    (tmp_path / "solution.py").write_text("print('score: 1')")
    (tmp_path / "evaluate.py").write_text("import json")
    (tmp_path / "indirect.py").write_text("import other")
    (tmp_path / "other.py").write_text("def f():\n    from solution import x\n")
    head = "metric: score\nmetric_direction: maximize\nmutable_files: [solution.py]\n"
    (tmp_path / "autoresearch-config.yaml").write_text(head + spec + "\n")
    (tmp_path / ".gitignore").write_text("home/\n")
    subprocess.run("git init -q && git add . && git commit -qm x", shell=True, cwd=tmp_path, check=True)
    findings = json.loads(ark("check", "--json", cwd=tmp_path, code=0).stdout)
    assert f"level {level} of 3" in next(f["text"] for f in findings if f["subject"] == "trust")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("mutable_files: [lib/near.py]", "level 2 of 3: .*lib/near.py"),
        ("mutable_files: [near.py]", "level 3 of 3"),  # the one beside the script comes first
        ("mutable_files: [far.py]", "level 2 of 3: .*far.py"),
        ("mutable_files: [lib/pkg/b.py]", "level 2 of 3: .*lib/pkg/b.py"),
        ("mutable_files: ['lib/*.py']", "level 2 of 3: .*lib/json.py"),
        ("mutable_files: [x.py]\nartifacts: ['lib/*']", "level 2 of 3: .*lib/json.py"),
        ("mutable_files: [x.py]\nartifacts: ['**']", "level 2 of 3: .*lib/json/__init__.py"),
        ("mutable_files: [x.py]\nartifacts: ['**/*.so']", "level 2 of 3: .*lib/json.so"),
        ("mutable_files: [x.py]\nartifacts: ['**/*.csv']", "level 3 of 3"),
        ("mutable_files: [x.py]\nartifacts: [a, far.py, x.py]", "level 2 of 3: .*far.py"),
        ("mutable_files: [x.py]\nartifacts: [key.txt, x.py]", "level 2 of 3 at most: .* can replace key.txt$"),
        ("mutable_files: [x.py]\nartifacts: ['*.txt', x.py]", "level 3 of 3"),
        ("mutable_files: [x.py]\nlink: [home]", "level 2 of 3 at least: .*link"),
    ],
)
def test_the_trust_level_follows_imports_as_python_does(spec, text, home, tmp_path):
    (tmp_path / "lib" / "pkg").mkdir(parents=True)
    for name in ("key.txt", "x.py", "far.py", "near.py", "lib/near.py", "lib/pkg/__init__.py", "lib/pkg/b.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "lib" / "score.py").write_text("import json\nimport near\nimport far\nimport pkg.a\n")
    (tmp_path / "lib" / "pkg" / "a.py").write_text("from . import b\n")
    head = (
        "metric: score\nmetric_direction: maximize\nrun_command: python3 x.py\neval_command: python3 ./lib/score.py\n"
    )
    spec += "" if "artifacts" in spec else "\nartifacts: [a]"
    (tmp_path / "autoresearch-config.yaml").write_text(head + spec + "\n")
    (tmp_path / ".gitignore").write_text("home/\n")
    subprocess.run("git init -q && git add . && git commit -qm x", shell=True, cwd=tmp_path, check=True)
    findings = json.loads(ark("check", "--json", cwd=tmp_path).stdout)
    assert re.match(text, next(f["text"] for f in findings if f["subject"] == "trust"))
    warned = [f["text"] for f in findings if f["subject"] == "artifacts" and f["level"] == "warn"]
    named = [name for name in ("far.py", "key.txt") if name in spec.partition("artifacts:")[2]]
    assert warned == [
        f"{name} is committed and named there, so a run can replace it before the evaluation" for name in named
    ]


@pytest.mark.slow
def test_clean_removes_the_cache_and_no_ref(home, tmp_path):
    ark("init", "mine", cwd=tmp_path)
    folder = tmp_path / "mine"
    ark("run", "--tag", "t", "--attempts", "1", "--agent", "echo >> solution.py", cwd=folder)
    cache = home / ".cache" / "ark"
    assert any(cache.glob("mine-*/autoresearch+t/bench/solution.py"))
    before = subprocess.run(["git", "for-each-ref"], cwd=folder, capture_output=True, text=True).stdout
    assert "refs/ark/t/0001" in before
    ark("clean", cwd=folder)
    assert not any(cache.glob("mine-*"))
    assert subprocess.run(["git", "for-each-ref"], cwd=folder, capture_output=True, text=True).stdout == before
    ark("clean", cwd=folder)


@pytest.mark.slow
def test_clean_spares_a_run_that_has_no_attempt_yet(home, tmp_path):
    ark("init", "mine", cwd=tmp_path)
    lock = Lock(tmp_path / "mine" / ".git" / "ark" / "new.lock", "run new")
    lock.acquire()
    try:
        assert "run new is going on" in ark("clean", "mine", cwd=tmp_path, code=1).stderr
    finally:
        lock.release()
    ark("clean", "mine", cwd=tmp_path)


@pytest.mark.slow
def test_no_run_yet_is_a_sentence(home, tmp_path):
    ark("init", "mine", cwd=tmp_path)
    for verb in ("status", "log", "show"):
        words = [verb, "1"] if verb == "show" else [verb]
        done = ark(*words, cwd=tmp_path / "mine", code=2)
        assert "there is no run of this project yet" in done.stderr and "hint:" in done.stderr


@pytest.mark.slow
def test_wrong_words_on_the_command_line_exit_with_2(home, tmp_path):
    ark("init", "mine", cwd=tmp_path)
    folder = tmp_path / "mine"
    ark("run", "--attempts", "minus", cwd=folder, code=2)
    ark("frobnicate", cwd=folder, code=2)
    ark("run", "--tag", "a/b", "--agent", "true", cwd=folder, code=2)
    for tag in ("", "a b", "*"):
        for verb in ("status", "log", "run"):
            assert "cannot be a tag" in ark(verb, "--tag", tag, cwd=folder, code=2).stderr
    for hours in ("nan", "inf", "-1"):
        ark("run", "--hours", hours, "--agent", "true", cwd=folder, code=2)
    ark("run", "--tag", "t", "--agent", " ", cwd=folder, code=2)
    assert "search" in ark("run", "--tag", "t", "--agent", "serch", cwd=folder, code=2).stderr
    ark("run", "--tag", "t", "--agent", "true", "--from", "x/1", cwd=folder, code=2)
    ark("status", "nowhere", cwd=folder, code=2)
    assert not (folder / "results.tsv").exists()


@pytest.mark.slow
def test_output_that_nobody_reads_is_no_traceback(home, tmp_path):
    ark("init", "mine", cwd=tmp_path)
    folder = tmp_path / "mine"
    ark("run", "--tag", "t", "--attempts", "1", "--agent", "echo >> solution.py", cwd=folder)
    line = f"{sys.executable} -m autoresearch_kit log --json | true"
    done = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
