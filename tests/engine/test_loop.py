"""The loop as a whole: real repository, real agents, real measurements.   pytest tests/engine/test_loop.py"""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoresearch_kit import loop, ratchet
from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.records import Proposal
from autoresearch_kit.lab import measure
from autoresearch_kit.lab.measure import Bench
from autoresearch_kit.project import open_project
from autoresearch_kit.ratchet import Run

Tiny = Any  # see conftest.py


def test_keep_discard_and_crash(tiny: Tiny) -> None:
    played = tiny.play(
        """case $TURN in
        1) answer 12; title 'better' 'because of this' 'and that';;
        2) answer 11;;
        3) echo 'exit 7' > train.sh;;
        4) echo 'echo no number > answer.txt' > train.sh;;
        5) answer 13;;
        esac""",
        attempts=5,
    )
    assert played.outcomes == ["keep", "keep", "discard", "crash", "crash", "keep"]
    assert [a.value for a in played.attempts] == [10, 12, 11, None, None, 13]
    assert played.attempts[1].proposal.title == "better"
    assert played.attempts[1].proposal.why == "because of this\nand that"
    assert played.attempts[1].verdict.reason == "Keep: 10 -> 12, better by 2 (20.00 %)"
    assert "exit" in played.attempts[3].problem
    assert played.ending.exit_code == 0
    head = tiny.git("rev-parse", "autoresearch/t")
    assert head == played.last.commit == tiny.git("rev-parse", "refs/ark/t/0005")
    branch = tiny.git("log", "--format=%H", "autoresearch/t").split()
    assert branch[:3] == [played.attempts[n].commit for n in (5, 1, 0)], "only kept ones, linear"
    assert tiny.show("refs/ark/t/0002", "train.sh") == "echo 11 > answer.txt", "a discarded patch stays reachable"
    assert [a.parent for a in played.attempts[2:]] == [played.attempts[1].commit] * 4


def test_results_table(tiny: Tiny) -> None:
    tiny.play(
        "case $TURN in 1) answer 12; title \"tab\there\nnewline\";; 2) echo 'exit 1' > train.sh;; esac", attempts=2
    )
    rows = [line.split("\t") for line in (tiny.folder / "results.tsv").read_text().splitlines()]
    assert rows[0] == ["commit", "score", "memory_gb", "status", "description"]
    assert [(row[1], row[3]) for row in rows[1:]] == [("10", "keep"), ("12", "keep"), ("", "crash")]
    assert rows[2][4].startswith("tab here")
    assert all(len(row) == 5 for row in rows)
    assert tiny.git("status", "--porcelain") == ""


def test_a_foreign_results_file_is_left_alone(tiny: Tiny) -> None:
    tiny.write("results.tsv", "mine\tforever\n")
    tiny.play("answer 12", attempts=1)
    assert (tiny.folder / "results.tsv").read_text() == "mine\tforever\n"


@pytest.mark.slow
def test_what_the_agent_is_given(tiny: Tiny) -> None:
    seen = tiny.tmp / "seen"
    tiny.play(
        f"""
        mkdir -p {seen}/$TURN; cat > {seen}/$TURN/stdin; cp "$ARK_PROMPT_FILE" {seen}/$TURN/prompt
        cp program.md results.tsv {seen}/$TURN; env > {seen}/$TURN/env; pwd > {seen}/$TURN/pwd
        git status --porcelain > {seen}/$TURN/status; git log --format=%s > {seen}/$TURN/log
        [ $TURN = 3 ] && git show --stat $(cut -f1 results.tsv | tail -1) > {seen}/$TURN/discarded
        git branch --show-current > {seen}/$TURN/branch
        answer $((10 - TURN)); title "idea $TURN" """,
        attempts=3,
    )
    assert (seen / "1/stdin").read_text() == (seen / "1/prompt").read_text()
    assert "`program.md`" in (seen / "1/stdin").read_text()
    assert "idea 1" in (seen / "2/stdin").read_text()
    assert "brought nothing" not in (seen / "2/stdin").read_text()
    assert "train.sh" in (seen / "1/program.md").read_text()
    assert "idea 2" in (seen / "3/results.tsv").read_text()
    assert "idea 2" in (seen / "3/discarded").read_text(), "git show of a discarded attempt works on the desk"
    assert [(seen / f"{n}/status").read_text() for n in (1, 2, 3)] == [""] * 3, "the desk is a clean clone"
    assert (seen / "1/log").read_text().splitlines()[-1] == "start"
    assert (seen / "1/branch").read_text().strip() == "autoresearch/t"
    env = dict(line.partition("=")[::2] for line in (seen / "2/env").read_text().splitlines())
    assert env["ARK_TAG"] == "t"
    assert env["ARK_ATTEMPT"] == "2"


# Turns that bring no attempt


def test_no_change_is_never_measured(tiny: Tiny) -> None:
    runs = tiny.tmp / "runs"
    tiny.write("train.sh", f"echo x >> {runs}\necho 10 > answer.txt\n")
    tiny.commit()
    played = tiny.play("touch train.sh; echo x > other.txt; cp train.sh a; cat a > train.sh")
    assert played.outcomes == ["keep"]
    assert runs.read_text() == "x\n" * 3, "the baseline alone"
    assert played.ending.exit_code == 1
    assert played.ending.reason.startswith("5 turns in a row brought nothing new to measure")
    assert (tiny.tmp / "count").read_text().strip() == "5"
    refs = tiny.git("for-each-ref", "--format=%(refname)", "refs/ark").split()
    assert refs == ["refs/ark/t/0000", "refs/ark/t/owed"], "they take no number, and what they took is remembered"


def test_a_measured_tree_is_refused_and_the_agent_is_told(tiny: Tiny) -> None:
    played = tiny.play(
        f"""cat > {tiny.tmp}/prompt-$TURN
        case $TURN in 1 | 2 | 4) answer 9;; 3) answer 12;; 5) answer 10;; *) answer $TURN;; esac""",
        attempts=3,
    )
    assert played.outcomes == ["keep", "discard", "keep", "discard"]
    assert [a.number for a in played.attempts] == [0, 1, 2, 3]
    assert "as attempt 1" in (tiny.tmp / "prompt-3").read_text()
    assert "About your last turn" not in (tiny.tmp / "prompt-4").read_text()
    assert "as attempt 1" in (tiny.tmp / "prompt-5").read_text(), "also on another head"
    assert "as attempt 0" in (tiny.tmp / "prompt-6").read_text(), "the baseline counts too"


def test_five_turns_of_all_kinds_end_the_run(tiny: Tiny) -> None:
    played = tiny.play(
        """case $TURN in 1) exit 1;; 2) ;; 3) rm train.sh; ln -s /etc/passwd train.sh;; 4) kill -9 $$;;
        *) echo 'echo 10 > answer.txt' > train.sh;; esac"""
    )
    assert played.outcomes == ["keep"]
    assert played.ending.exit_code == 1
    assert len(played.notes) == 5
    assert "symbolic link" in played.notes[2]
    assert played.notes[4] == "Turns without an attempt: 2 failed, 2 no_change, 1 refused"


@pytest.mark.slow
def test_failing_agents_pause_longer_each_time(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pauses.append))
    played = tiny.play("case $TURN in 3) answer 11;; *) echo denied >&2; exit 3;; esac", pause=2)
    assert played.outcomes == ["keep", "keep"]
    assert "denied" in played.notes[0]
    assert pauses == [2, 4, 2, 4, 8, 16], "two failures, an attempt, four more; the fifth ends the run"


@pytest.mark.slow
def test_an_agent_that_hangs_is_ended_and_costs_no_measurement(tiny: Tiny) -> None:
    played = tiny.play("case $TURN in 1) answer 99; sleep 60;; 2) answer 11;; esac", attempts=1, timeout=0.4)
    assert played.outcomes == ["keep", "keep"]
    assert played.last.value == 11, "what a failed turn left on the desk is gone"
    assert "no end after" in played.notes[0]


# Budgets and exit codes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "attempts", "code", "words", "count"),
    [
        ({}, 2, 0, "2 attempts made, as asked", 3),
        ({"attempts": 1}, None, 3, "budget of 1 attempts is spent", 2),
        ({"target": 12}, None, 0, "the target 12 is reached", 3),
        ({"patience": 1}, None, 3, "patience is spent", 6),
        ({"hours": 1e-12}, None, 3, "hours is spent", 1),
    ],
    ids=["attempts asked", "attempts", "target", "patience", "hours"],
)
def test_limits(tiny: Tiny, budget: dict[str, Any], attempts: int, code: int, words: str, count: int) -> None:
    tiny.commit(budget=budget)
    played = tiny.play("[ $TURN -lt 5 ] && answer $((10 + TURN)) || answer 3", attempts=attempts)
    assert words in played.ending.reason
    assert played.ending.exit_code == code
    assert len(played.attempts) == count


def run(tiny: Tiny, script: str, *args: str) -> "subprocess.CompletedProcess[str]":
    done: subprocess.CompletedProcess[str] = tiny.ark_here("run", "--tag", "t", "--agent", tiny.agent(script), *args)
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
def test_exit_codes(tiny: Tiny) -> None:
    tiny.commit(budget={"attempts": 1})
    done = tiny.ark("run", "--tag", "t", "--agent", "true")
    assert done.returncode == 1, "the agent cannot go on"
    assert run(tiny, "true", "--hours", "0").returncode == 0, "as asked"
    assert run(tiny, "answer 12").returncode == 3, "a budget is spent"
    assert run(tiny, "answer 13").returncode == 3, "and stays spent"
    assert len(tiny.log()) == 2
    assert tiny.ark("run", "--attempts", "x").returncode == 2


@pytest.mark.slow
def test_json_of_log_status_and_show(tiny: Tiny) -> None:
    assert (
        run(tiny, "case $TURN in 1) answer 12;; 2) echo 'exit 4' > train.sh;; esac", "--attempts", "2").returncode == 0
    )
    status = json.loads(tiny.ark_here("status", "--json").stdout)
    fields = "tag branch head metric direction baseline best attempts kept running"
    assert set(fields.split()) <= set(status)
    assert (status["tag"], status["branch"], status["metric"], status["direction"]) == (
        "t", "autoresearch/t", "score", "maximize",
    )  # fmt: skip
    assert (status["baseline"], status["best"], status["attempts"], status["kept"]) == (10, 12, 2, 1)
    assert status["head"] == tiny.git("rev-parse", "autoresearch/t")
    assert not status["running"]
    log = tiny.log()
    fields = "number commit parent outcome value values title reason problem seconds also started"
    assert all(set(fields.split()) <= set(entry) for entry in log)
    assert [(entry["number"], entry["outcome"], entry["value"]) for entry in log] == [
        (0, "keep", 10), (1, "keep", 12), (2, "crash", None),
    ]  # fmt: skip
    assert log[0]["started"].endswith("Z")
    assert time.strptime(log[0]["started"][:19], "%Y-%m-%dT%H:%M:%S")
    show = json.loads(tiny.ark_here("show", "t/1", "--json").stdout)
    assert show["commit"] == log[1]["commit"]
    assert "+echo 12 > answer.txt" in show["diff"]
    assert tiny.ark_here("log", "--tsv").stdout == (tiny.folder / "results.tsv").read_text()


def test_resume_goes_on_where_it_stopped(tiny: Tiny) -> None:
    first = run(tiny, "answer $((10 + TURN))", "--attempts", "2")
    assert first.returncode == 0, first.stderr
    shutil.rmtree(tiny.cache)
    second = run(tiny, "[ $TURN = 1 ] && answer 11 || answer 20", "--attempts", "1")
    assert second.returncode == 0, second.stderr
    assert "as attempt 1" in second.stderr, "what was measured before the pause is remembered"
    assert [entry["value"] for entry in tiny.log()] == [10, 11, 12, 20]
    assert len((tiny.folder / "results.tsv").read_text().splitlines()) == 5


@pytest.mark.slow
def test_interrupt_ends_the_attempt_and_exits_130(tiny: Tiny) -> None:
    flag = tiny.tmp / "measuring"
    script = tiny.agent(f"echo 'echo x > {flag}; sleep 60; echo 12 > answer.txt' > train.sh")
    command = [*tiny.command, "run", "--tag", "t", "--agent", script]
    process = subprocess.Popen(command, cwd=tiny.folder, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not flag.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert [entry["outcome"] for entry in tiny.log()] == ["keep", "lost"]
    assert run(tiny, "answer 12", "--attempts", "1").returncode == 0
    assert [entry["outcome"] for entry in tiny.log()] == ["keep", "lost", "keep"]


@pytest.mark.slow
def test_a_killed_supervisor_is_made_up_for(tiny: Tiny) -> None:
    flag = tiny.tmp / "measuring"
    script = tiny.agent(f"echo '[ -e {flag} ] || {{ echo $$ > {flag}; sleep 60; }}; echo 12 > answer.txt' > train.sh")
    command = [*tiny.command, "run", "--tag", "t", "--agent", script]
    process = subprocess.Popen(command, cwd=tiny.folder, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not flag.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert run(tiny, "true", "--attempts", "0").returncode == 0
    log = tiny.log()
    assert [(entry["outcome"], entry["value"]) for entry in log] == [("keep", 10), ("keep", 12)]
    assert tiny.git("rev-parse", "autoresearch/t") == log[1]["commit"]


# Other machines, other starts


@pytest.mark.slow
def test_another_machine_measures_the_head_anew(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.play("answer 12", attempts=1)
    for module in (ratchet, measure):
        monkeypatch.setattr(module, "machine", lambda: "Another machine")
    played = tiny.play("answer 13", attempts=1)
    assert played.outcomes == ["keep"] * 4
    assert [a.value for a in played.attempts] == [10, 12, 12, 13]
    assert played.attempts[2].tree == played.attempts[1].tree
    assert played.attempts[2].machine == "Another machine"
    assert "machine" in played.notes[0]
    log = tiny.log()
    assert log[2]["gain"] is None


@pytest.mark.slow
def test_a_changed_spec_measures_the_head_anew(tiny: Tiny) -> None:
    tiny.play("answer 12", attempts=1)
    tiny.spec(env={"X": "1"})
    played = tiny.play("answer 13", attempts=1)
    assert [a.value for a in played.attempts] == [10, 12, 12, 13]
    assert played.attempts[2].yardstick != played.attempts[1].yardstick


@pytest.mark.slow
def test_from_another_runs_attempt(tiny: Tiny) -> None:
    tiny.play("answer $((11 - TURN * 3))", attempts=2, tag="old")
    played = tiny.play("answer 20", attempts=1, tag="new", start_from="old/2")
    assert played.attempts[0].value == 5, "also from a discarded one"
    assert played.attempts[0].parent == tiny.git("rev-parse", "refs/ark/old/0002")
    assert tiny.git("rev-parse", "autoresearch/new") == played.last.commit
    with pytest.raises(UsageError, match="exists already"):
        tiny.play("answer 21", tag="new", start_from="old/1")
    with pytest.raises(UsageError, match="no attempt old/9"):
        tiny.play("answer 21", tag="other", start_from="old/9")


# Somebody else at the same refs


@pytest.mark.slow
def test_a_branch_moved_during_an_attempt_is_not_overwritten(tiny: Tiny) -> None:
    tiny.play("answer 11", attempts=1)
    before = tiny.git("rev-parse", "autoresearch/t")
    moved = tiny.git("rev-parse", "main")
    script = f"echo 'git -C {tiny.root} branch -f autoresearch/t main; echo 12 > answer.txt' > train.sh"
    with pytest.raises(ArkError, match="was moved by somebody else") as caught:
        tiny.play(script, attempts=1)
    assert before[:10] in caught.value.hint
    assert tiny.git("rev-parse", "autoresearch/t") == moved, "what the user did stays"
    assert [entry["outcome"] for entry in tiny.log()] == ["keep", "keep", "lost"]
    with pytest.raises(ArkError, match="was moved by somebody else"):
        tiny.play("answer 13", attempts=1)
    tiny.git("branch", "-f", "autoresearch/t", before)
    assert tiny.play("answer 13", attempts=1).last.value == 13


def test_a_deleted_branch_is_an_error_that_says_how_to_get_it_back(tiny: Tiny) -> None:
    tiny.play("answer 11", attempts=1)
    head = tiny.git("rev-parse", "autoresearch/t")
    tiny.git("branch", "-D", "autoresearch/t")
    with pytest.raises(ArkError, match="it is gone") as caught:
        tiny.play("answer 12", attempts=1)
    assert f"git branch -f autoresearch/t {head[:10]}" in caught.value.hint


def test_a_branch_of_that_name_that_is_no_run(tiny: Tiny) -> None:
    tiny.git("branch", "autoresearch/t")
    with pytest.raises(ArkError, match="exists already and is not a run"):
        tiny.play("answer 12", attempts=1)
    assert tiny.git("for-each-ref", "refs/ark") == ""


@pytest.mark.parametrize("linked", [False, True], ids=["main checkout", "linked worktree"])
def test_a_checked_out_branch_is_not_moved(tiny: Tiny, linked: bool) -> None:
    tiny.play("answer 11", attempts=1)
    head = tiny.git("rev-parse", "autoresearch/t")
    if linked:
        tiny.git("worktree", "add", "-q", str(tiny.tmp / "linked"), "autoresearch/t")
    else:
        tiny.git("switch", "-q", "autoresearch/t")
    with pytest.raises(ArkError, match="is checked out"):
        tiny.play("answer 12", attempts=1)
    assert tiny.git("rev-parse", "autoresearch/t") == head
    assert tiny.git("status", "--porcelain") == ""


@pytest.mark.slow
def test_a_branch_checked_out_during_an_attempt(tiny: Tiny) -> None:
    tiny.play("answer 11", attempts=1)
    once = f"[ -e {tiny.tmp}/once ] || git -C {tiny.root} switch -q autoresearch/t; touch {tiny.tmp}/once"
    script = f"echo '{once}; echo 12 > answer.txt' > train.sh"
    with pytest.raises(ArkError, match="is checked out"):
        tiny.play(script, attempts=1)
    assert tiny.git("status", "--porcelain") == ""
    tiny.git("switch", "-q", "main")
    assert tiny.play("true", attempts=0).outcomes == ["keep", "keep", "keep"], "it is taken up again"


@pytest.mark.slow
def test_a_second_engine_is_refused_with_pid_and_host(tiny: Tiny) -> None:
    def second(run: ratchet.Run) -> None:
        done = tiny.ark("run", "--tag", "t", "--agent", "true")
        assert done.returncode == 1
        assert f"process {os.getpid()} on {os.uname().nodename}" in done.stderr
        assert "hint: " in done.stderr
        assert json.loads(tiny.ark_here("status", "--json").stdout)["running"]
        assert tiny.ark("clean").returncode == 1
        assert Path(run.cache).exists()

    assert tiny.play("answer 12", attempts=1, before=second).outcomes == ["keep", "keep"]


@pytest.mark.slow
def test_two_tags_at_a_time(tiny: Tiny) -> None:
    def other(run: ratchet.Run) -> None:
        done = tiny.ark("run", "--tag", "u", "--agent", tiny.agent("answer 15"), "--attempts", "1")
        assert done.returncode == 0, done.stderr

    assert tiny.play("answer 12", attempts=1, before=other).outcomes == ["keep", "keep"]
    assert [entry["value"] for entry in tiny.log("u")] == [10, 15]


@pytest.mark.slow
def test_a_killed_new_baseline_is_taken_up_as_a_baseline(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken up as an ordinary attempt, and a new unit of the metric was a thousandfold gain."""
    tiny.play("answer 12", attempts=1)
    tiny.spec(eval_command='echo "score: $(($(cat answer.txt) * 1000))"')
    with monkeypatch.context() as patch:
        patch.setattr(Bench, "measure", lambda *_: (_ for _ in ()).throw(SystemExit("as if killed")))
        with pytest.raises(SystemExit):
            tiny.play("true", attempts=0)
    assert tiny.log()[-1]["outcome"] == "running"
    played = tiny.play("true", attempts=0)
    assert played.last.verdict is not None
    assert (played.last.value, played.last.verdict.gain) == (12000, None)
    assert played.last.verdict.reason == "Baseline: 12000, the same in 3 runs"


@pytest.mark.slow
def test_a_tree_without_its_fixed_files_is_never_measured(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever made such a tree, a start after a kill does not take it up."""
    tiny.play("true", attempts=0)
    project = open_project(tiny.folder)
    with Run(project, "t") as run:
        run.open()
        run.ready()
        tree = project.repository.store_tree(run.head.commit, {"evaluate.sh": None})
        run.ledger.reserve(1, Proposal("forged"), tree=tree, parent=run.head.commit, yardstick=run.head.yardstick)
    project.repository.close()
    played = tiny.play("true", attempts=0)
    assert (str(played.last.outcome), played.last.values) == ("lost", ())


def test_what_only_the_run_prints_is_kept_beside_the_evaluation(tiny: Tiny) -> None:
    train = "echo 10 > answer.txt; echo peak_vram_mb: 2048; echo score: 99; echo acc: 0.9\n"
    tiny.write("train.sh", train)
    tiny.commit(eval_command="echo score: $(cat answer.txt); echo acc: 0.5", constraints=["peak_vram_mb <= 4096"])
    baseline = tiny.play("true", attempts=0).last
    assert (baseline.value, baseline.also["peak_vram_mb"], baseline.also["acc"]) == (10, 2048, 0.5)
    assert tiny.log()[0]["also"]["peak_vram_mb"] == 2048
    assert "\t2.000\tkeep\t" in (tiny.folder / "results.tsv").read_text()


def test_a_constrained_metric_given_twice_is_a_crash(tiny: Tiny) -> None:
    tiny.commit(
        run_command="sh train.sh; [ -e extra.txt ] || echo acc: 0.9 > extra.txt",
        eval_command="echo score: $(cat answer.txt); cat extra.txt",
        artifacts=["answer.txt", "extra.txt"],
        constraints=["acc >= 0.8"],
    )
    forged = "echo acc: 0.1 > extra.txt; echo acc: 0.99 >> extra.txt"
    played = tiny.play(f"answer 12; echo '{forged}' >> train.sh", attempts=1)
    assert (str(played.last.outcome), played.last.problem.split(":")[0]) == ("crash", "two_metrics")


def test_a_baseline_beyond_a_limit_is_an_error(tiny: Tiny) -> None:
    tiny.commit(constraints=["peak_memory_mb <= 0.0001", "wall_seconds <= 0.000001"])
    with pytest.raises(ArkError, match="where `"):
        tiny.play("true", attempts=0)
    assert tiny.git("for-each-ref", "refs/ark") == ""


def test_a_table_that_somebody_writes_meanwhile_is_left_alone(tiny: Tiny) -> None:
    (tiny.folder / "results.tsv").unlink(missing_ok=True)
    table = tiny.folder / "results.tsv"
    played = tiny.play(
        f"[ $TURN = 2 ] && {{ rm '{table}'; echo mine > '{table}'; }}; answer $((11 + TURN))", attempts=3
    )
    assert table.read_text() == "mine\n"
    assert any("left alone from here on" in note for note in played.notes)


@pytest.mark.slow
def test_the_search_agent_learns_nothing_from_other_yardsticks(tiny: Tiny) -> None:
    tiny.write("train.py", "X = 1\nprint(X, file=open('answer.txt', 'w'))\n")
    common = {
        "mutable_files": ["train.py"],
        "immutable_files": None,
        "run_command": "python3 train.py",
        "agent": "search",
        "tunables": [{"file": "train.py", "name": "X", "low": 1, "high": 4}],
    }
    tiny.commit(**common)
    assert tiny.ark("run", "--tag", "t").returncode == 0
    assert json.loads(tiny.ark("status", "--json").stdout)["best"] == 4
    tiny.commit(**common, metric_direction="minimize")
    assert tiny.ark("run", "--tag", "t").returncode == 0
    assert json.loads(tiny.ark("status", "--json").stdout)["best"] == 1
