"""`ark verify`: real repositories, real runs, real kills.   pytest tests/engine/test_verify.py"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoresearch_kit import ratchet, verify
from autoresearch_kit.core.verification import State, Verification
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.verified import read_verifications

Tiny = Any  # see conftest.py

# 10 becomes 10.000 to 10.999, uniformly: a standard deviation of 0.29.
NOISY = 'printf "score: %d.%03d\\n" "$(cat answer.txt)" $((ARK_SEED % 1000))\n'
FIRST = {"decision": "first_better"}


def kept(tiny: Tiny, answer: int = 12, tag: str = "t", **spec: Any) -> None:
    """A run that kept one attempt."""
    if spec:
        tiny.commit("spec", **spec)
    assert tiny.play(f"answer {answer}", attempts=1, tag=tag).outcomes == ["keep", "keep"]


def verified(tiny: Tiny, *args: str) -> dict[str, Any]:
    done = tiny.ark_here("verify", "--json", *args)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def records(tiny: Tiny, tag: str = "t") -> list[Verification]:
    repository = Repository(tiny.root)
    try:
        return read_verifications(repository, tag)
    finally:
        repository.close()


def told(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


# Measuring


@pytest.mark.slow
def test_without_noise_two_pairs_tell_the_exact_gain(tiny: Tiny) -> None:
    kept(tiny)
    refs, log = tiny.git("for-each-ref"), tiny.log()
    tree = tiny.git("status", "--porcelain")
    found = verified(tiny)
    assert found["gain"]["absolute"] == {"value": 2, "low": 2, "high": 2}
    assert found["gain"]["percent"]["value"] == pytest.approx(20)
    assert found["gain"]["exact"] and found["gain"]["method"] == "2 runs each, the same value every time"
    assert sorted(sample["arm"] for sample in found["samples"]) == ["baseline"] * 2 + ["head"] * 2
    assert found["baseline"] == {"attempt": 0, "commit": tiny.git("rev-parse", "refs/ark/t/0000")}
    assert found["head"] == {"attempt": 1, "commit": tiny.git("rev-parse", "autoresearch/t")}
    assert (found["state"], found["holdout"], found["looks"]) == ("done", "", 0)

    assert tiny.git("rev-parse", "refs/ark/t/verify/0001") == found["commit"]
    assert tiny.git("rev-parse", "refs/ark/t/verify/0001^{tree}") == tiny.git("rev-parse", "autoresearch/t^{tree}")
    assert tiny.git("rev-parse", "refs/ark/t/verify/0001^") == found["head"]["commit"]
    others = [line for line in tiny.git("for-each-ref").splitlines() if "/verify/" not in line]
    assert "\n".join(others) == refs and tiny.log() == log, "a verification is no attempt and moves nothing"
    assert tiny.git("status", "--porcelain") == tree


@pytest.mark.slow
def test_the_block_can_be_pasted_and_is_the_record(tiny: Tiny) -> None:
    kept(tiny)
    done = tiny.ark("verify")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "tiny, run t: better by 2 score (20 %)"
    for commit in ("refs/ark/t/0000", "autoresearch/t"):
        assert tiny.git("rev-parse", commit) in done.stdout
    for word in ("method", "machine", "date", "ark 0."):
        assert word in done.stdout
    assert done.stderr.startswith("12 runs of baseline and head: ")
    assert "4 of 12: " in done.stderr and "no noise: " in done.stderr
    message = tiny.git("log", "-1", "--format=%B", "refs/ark/t/verify/0001")
    assert message.startswith(done.stdout.strip()), "what is printed is what is recorded"
    assert message.rpartition("\n\n")[2].startswith("Ark-Verification: 1\n")


@pytest.mark.slow
def test_noise_gives_an_interval_from_fresh_seeds_in_pairs(tiny: Tiny) -> None:
    runs = tiny.tmp / "runs"
    tiny.write("evaluate.sh", f"{NOISY}echo $(cat answer.txt):$ARK_SEED:$ARK_ATTEMPT:$ARK_TAG >> {runs}\n")
    kept(tiny, 90, **FIRST)
    before = len(told(runs))
    found = verified(tiny)
    lines = [line.split(":") for line in told(runs)]
    fresh = lines[before:]
    assert len(fresh) == 12 and len({seed for _, seed, _, _ in lines}) == len(lines), "no seed twice"
    assert all({fresh[at][0], fresh[at + 1][0]} == {"10", "90"} for at in range(0, 12, 2)), "one of each in a pair"
    assert {tuple(rest) for _, _, *rest in fresh} == {("2", "t")}, "no run can tell which arm it belongs to"
    assert [str(sample["seed"]) for sample in found["samples"]] == [seed for _, seed, _, _ in fresh]
    gain = found["gain"]
    values = {arm: [s["value"] for s in found["samples"] if s["arm"] == arm] for arm in ("baseline", "head")}
    mean = (sum(values["head"]) - sum(values["baseline"])) / 6
    assert gain["absolute"]["value"] == pytest.approx(mean) == pytest.approx(80, abs=1)
    assert 78 < gain["absolute"]["low"] < gain["absolute"]["value"] < gain["absolute"]["high"] < 82
    assert gain["percent"]["low"] < 100 * mean / gain["first"] < gain["percent"]["high"]
    assert "6 pairs in random order" in gain["method"] and "Fieller" in gain["method"]


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "made"), [("1", 8), ("9", 10)])
def test_runs_come_in_pairs_four_at_least(tiny: Tiny, asked: str, made: int) -> None:
    tiny.write("evaluate.sh", NOISY)
    kept(tiny, 90, **FIRST)
    assert len(verified(tiny, "--runs", asked)["samples"]) == made


@pytest.mark.slow
def test_one_lucky_keep_is_no_gain(tiny: Tiny) -> None:
    """What the ledger says of a keep was chosen for its luck; the verification is not."""
    flag = tiny.tmp / "lucky"
    tiny.write("evaluate.sh", f'[ -e {flag} ] && echo "score: 11" || sh noisy.sh\n')
    tiny.write("noisy.sh", NOISY)
    tiny.commit("spec", **FIRST)
    tiny.play(f"touch {flag}; echo '# nothing' >> train.sh", attempts=1)
    flag.unlink()
    done = tiny.ark_here("verify")
    assert done.returncode == 0
    found = records(tiny)[0]
    assert found.gain is not None and found.gain.absolute.value < 0.9


@pytest.mark.slow
def test_a_failed_run_is_made_again_and_recorded(tiny: Tiny) -> None:
    tries = tiny.tmp / "tries"
    kept(tiny)
    tiny.git("checkout", "-q", "--detach")
    broken = f"echo x >> {tries}; [ $(wc -l < {tries}) -gt 3 ] || exit 5; echo 13 > answer.txt"
    tries.write_text("x\nx\n" * 2)
    assert tiny.play(f"echo '{broken}' > train.sh", attempts=1).outcomes[-1] == "keep"
    tries.write_text("x\n")
    found = verified(tiny)
    failed = [sample for sample in found["samples"] if sample["problem"]]
    assert len(failed) == 2 and all(s["arm"] == "head" and s["value"] is None for s in failed)
    assert found["gain"]["absolute"]["value"] == 3 and len(found["samples"]) == 6


@pytest.mark.slow
def test_three_failures_name_the_commit(tiny: Tiny) -> None:
    flag = tiny.tmp / "flag"
    tiny.play(f"echo 'echo 12 > answer.txt; [ ! -e {flag} ] || exit 7' > train.sh", attempts=1)
    flag.touch()
    done = tiny.ark_here("verify")
    head = tiny.git("rev-parse", "autoresearch/t")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"the head, commit {head[:10]}, failed 3 times: exit: exit code 7" in done.stderr
    found = records(tiny)[0]
    assert found.state is State.FAILED and "exit code 7" in found.problem and found.gain is None
    assert sum(bool(sample.measured.problem) for sample in found.samples) == 3
    flag.unlink()
    assert verified(tiny)["number"] == 2


@pytest.mark.slow
def test_limits_that_the_head_breaks_are_reported(tiny: Tiny) -> None:
    size = tiny.tmp / "size"
    size.write_text("5\n")
    tiny.write("evaluate.sh", f'echo "score: $(cat answer.txt)"\necho "size: $(cat {size})"\n')
    kept(tiny, constraints=["size <= 7"])
    size.write_text("9\n")
    done = tiny.ark_here("verify")
    assert done.returncode == 0
    sentence = "size is 9 in 2 of 2 runs, where `size <= 7` is required"
    assert sentence in done.stdout and sentence in done.stderr
    assert records(tiny)[0].broken == (sentence,)


# What cannot be verified


@pytest.mark.slow
def test_there_must_be_a_run_and_a_keep(tiny: Tiny) -> None:
    done = tiny.ark_here("verify")
    assert done.returncode == 2 and "there is no run of this project yet" in done.stderr
    tiny.play("answer 9", attempts=1)
    done = tiny.ark_here("verify")
    assert done.returncode == 1 and "run t has kept nothing since its baseline" in done.stderr
    done = tiny.ark_here("verify", "--tag", "other")
    assert done.returncode == 2 and "there is no run other" in done.stderr
    assert "verify" not in tiny.git("for-each-ref")


@pytest.mark.slow
def test_another_machine_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tiny)
    monkeypatch.setattr(verify, "machine", lambda: "Another machine")
    done = tiny.ark_here("verify")
    assert done.returncode == 1
    assert "this is Another machine, that was " in done.stderr and "hint: verify on a machine" in done.stderr


@pytest.mark.slow
def test_another_yardstick_is_refused(tiny: Tiny) -> None:
    kept(tiny)
    tiny.spec(budget_minutes=0.15)
    done = tiny.ark_here("verify")
    assert done.returncode == 1 and "in another way than the spec now says" in done.stderr
    tiny.spec()
    assert tiny.ark_here("verify").returncode == 0


@pytest.mark.slow
def test_a_new_baseline_is_what_counts(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tiny)
    for module in (ratchet, verify):
        monkeypatch.setattr(module, "machine", lambda: "Another machine")
    monkeypatch.setattr("autoresearch_kit.lab.measure.machine", lambda: "Another machine")
    assert tiny.play("answer 15", attempts=1).outcomes == ["keep"] * 4
    found = verified(tiny)
    assert (found["baseline"]["attempt"], found["head"]["attempt"]) == (2, 3)
    assert found["gain"]["absolute"]["value"] == 3


@pytest.mark.slow
def test_a_moved_branch_is_refused(tiny: Tiny) -> None:
    kept(tiny)
    tiny.git("branch", "-f", "autoresearch/t", "main")
    done = tiny.ark_here("verify")
    assert done.returncode == 1 and "was moved by somebody else" in done.stderr


# The hold-out


@pytest.mark.slow
def test_the_hold_out_sees_what_the_evaluation_sees(tiny: Tiny) -> None:
    """The commit again, the artifacts and run.log, the same seed; and it never plays a part in a run."""
    runs = tiny.tmp / "runs"
    tiny.write("train.sh", "echo 10 > answer.txt; echo said; echo planted > evaluate.sh; touch rest\n")
    tiny.write("holdout.sh", f'cat evaluate.sh; ls > {runs}; echo "$(($(cat answer.txt) * 3)) $(cat run.log)"; '
               f'echo $ARK_SEED:$ARK_ATTEMPT:$ARK_TAG:$ARK_BUDGET_SECONDS >> {runs}\n')  # fmt: skip
    tiny.commit("holdout", holdout_command="sh holdout.sh", metric_pattern="^(?:score: )?([0-9]+)(?: said)?$")
    answer = "echo 'echo 12 > answer.txt; echo said; touch rest' > train.sh"
    assert tiny.play(answer, attempts=1).outcomes == ["keep", "keep"]
    assert not runs.exists()
    done = tiny.ark_here("verify", "--json")
    found = json.loads(done.stdout)
    assert found["holdout_gain"]["absolute"] == {"value": 6, "low": 6, "high": 6}
    assert found["gain"]["absolute"]["value"] == 2
    *files, env = told(runs)
    assert "rest" not in files and {"answer.txt", "run.log", "evaluate.sh"} <= set(files)
    assert env == f"{found['samples'][-1]['seed']}:2:t:6"
    assert [sample["held_out"]["value"] for sample in found["samples"] if sample["arm"] == "head"] == [36, 36]
    assert "looked at once" in done.stderr and "luck" not in done.stderr


@pytest.mark.slow
def test_looks_are_counted_over_all_runs(tiny: Tiny) -> None:
    tiny.commit("holdout", holdout_command="sh evaluate.sh")
    kept(tiny)
    kept(tiny, 13, tag="other")
    verified(tiny, "--tag", "t")
    done = tiny.ark_here("verify", "--tag", "other")
    assert "looked at 2 times; whatever was chosen after a look may fit it by luck" in done.stderr
    assert "looked at 2 times" in done.stdout
    tiny.write("evaluate.sh", '# the same\necho "score: $(cat answer.txt)"\n')
    tiny.commit("a comment does not make a hold-out new")
    kept(tiny, 14, tag="third")
    assert verified(tiny, "--tag", "third")["looks"] == 3
    tiny.commit("other data", holdout_command="sh evaluate.sh other")
    kept(tiny, 15, tag="fourth")
    assert verified(tiny, "--tag", "fourth")["looks"] == 1
    assert tiny.git("clone", "-q", "--bare", ".", str(tiny.tmp / "copy")) == ""
    tiny.git("push", "-q", str(tiny.tmp / "copy"), "refs/ark/*")
    copy = subprocess.run(
        ["git", "-C", tiny.tmp / "copy", "for-each-ref", "refs/ark"], capture_output=True, text=True, check=True
    )
    assert copy.stdout.count("/verify/0001") == 4, "looks travel with the runs"


@pytest.mark.slow
def test_a_hold_out_that_fails_may_have_been_looked_at(tiny: Tiny) -> None:
    kept(tiny, holdout_command="sh missing.sh")
    done = tiny.ark_here("verify")
    assert done.returncode == 1 and "failed 3 times: hold-out: " in done.stderr
    found = records(tiny)[0]
    assert (found.state, bool(found.holdout), found.looks) == (State.FAILED, True, 1)


# Stopping and killing


def slow(tiny: Tiny) -> Path:
    """A kept run whose every further measurement takes long; its processes are told to the file that is returned."""
    flag, pids = tiny.tmp / "slow", tiny.tmp / "pids"
    tiny.write("evaluate.sh", f'echo "score: $(cat answer.txt)"; echo $$ >> {pids}\n[ ! -e {flag} ] || sleep 100\n')
    kept(tiny, holdout_command="sh evaluate.sh")
    flag.touch()
    pids.unlink()
    return pids


def start(tiny: Tiny, pids: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*tiny.command, "verify"], cwd=tiny.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not told(pids):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    return process


def assert_ended(pids: Path) -> None:
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(int(pid)) for pid in told(pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_ctrl_c_ends_the_processes_and_says_so(tiny: Tiny) -> None:
    pids = slow(tiny)
    process = start(tiny, pids)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said
    assert_ended(pids)
    assert records(tiny)[0].state is State.INTERRUPTED
    (tiny.tmp / "slow").unlink()
    assert verified(tiny)["looks"] == 1, "the interrupted one had not come to look"


@pytest.mark.slow
def test_kill_9_leaves_a_record_and_counts_as_a_look(tiny: Tiny) -> None:
    pids = slow(tiny)
    process = start(tiny, pids)
    process.kill()
    process.communicate(timeout=60)
    assert_ended(pids)
    assert records(tiny)[0].state is State.RUNNING
    (tiny.tmp / "slow").unlink()
    found = verified(tiny)
    assert (found["number"], found["looks"], found["state"]) == (2, 2, "done")
    assert [record.state for record in records(tiny)] == [State.LOST, State.DONE]


@pytest.mark.slow
def test_one_at_a_time(tiny: Tiny) -> None:
    pids = slow(tiny)
    process = start(tiny, pids)
    try:
        for verb in (["verify"], ["run", "--tag", "t", "--agent", "true"]):
            done = tiny.ark(*verb)
            assert done.returncode == 1 and f"run t is held by process {process.pid}" in done.stderr
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert len(records(tiny)) == 1


# Ablation


TRAIN = """A=0

B=0

C=0

D=0
# nothing that matters

echo $((10 + A + B + C + D)) > answer.txt
"""


def parts(tiny: Tiny, *turns: str, **spec: Any) -> None:
    """A run that keeps what each turn does to the parts of the answer."""
    tiny.write("train.sh", TRAIN)
    tiny.commit("parts", **{"mutable_files": ["train.sh", "extra/*.sh"], **spec})
    cases = "\n".join(f"{turn}) {change}; title 'turn {turn}';;" for turn, change in enumerate(turns, 1))
    played = tiny.play(f"case $TURN in\n{cases}\nesac", attempts=len(turns))
    assert played.outcomes == ["keep"] * (1 + len(turns))


def edit(script: str) -> str:
    return f"sed -i.old '{script}' train.sh; rm train.sh.old"


@pytest.mark.slow
def test_ablation_says_which_keeps_carry_weight(tiny: Tiny) -> None:
    parts(
        tiny,
        edit("s/^A=.*/A=5/"),
        edit("/^#/d"),
        edit("s/^B=.*/B=2/"),
        edit("s/^B=.*/B=3/"),
        f"mkdir extra; echo C=4 > extra/c.sh; {edit('s,^C=.*,. extra/c.sh,')}",
    )
    done = tiny.ark_here("verify", "--ablate")
    assert done.returncode == 0, done.stderr
    rows = {row.attempt: row for row in records(tiny)[0].ablations}
    assert [str(rows[attempt].weight) for attempt in range(1, 6)] == [
        "carries weight", "no weight shown", "cannot be taken out by itself", "carries weight", "carries weight",
    ]  # fmt: skip
    worth = {attempt: row.gain.absolute.value for attempt, row in rows.items() if row.gain is not None}
    assert worth == {1: 5, 2: 0, 4: 1, 5: 4}
    assert rows[3].note == "later changes build on it" and rows[3].title == "turn 3"
    assert "12 runs of baseline and head, and 12 for each of 4 kept changes" in done.stderr
    table = [line.split() for line in done.stdout.splitlines() if "turn " in line]
    assert table[1] == ["2", "0", "exactly", "no", "weight", "shown", "turn", "2"]
    assert "Bonferroni" not in done.stdout, "nothing is uncertain here"
    assert {sample.arm for sample in records(tiny)[0].samples} > {"head", "head without 5"}


@pytest.mark.slow
def test_what_the_head_cannot_run_without_carries_weight(tiny: Tiny) -> None:
    parts(
        tiny,
        f"mkdir extra; echo 'three() {{ echo 3; }}; C=1' > extra/c.sh; {edit('s,^C=.*,. extra/c.sh,')}",
        edit("s/^D=.*/D=$(three) || exit 9/"),
    )
    rows = verified(tiny, "--ablate")["ablations"]
    assert (rows[0]["weight"], rows[0]["gain"]) == ("carries weight", None)
    assert rows[0]["note"].startswith("without it the run fails: exit: exit code 9")
    assert rows[1]["gain"]["absolute"]["value"] == 3


@pytest.mark.slow
def test_a_keep_that_breaks_a_limit_when_it_is_taken_out_carries_weight(tiny: Tiny) -> None:
    tiny.write("evaluate.sh", 'echo "score: $(cat answer.txt)"; echo "size: $((10 - $(cat answer.txt) % 2))"\n')
    parts(tiny, edit("s/^A=.*/A=3/"), edit("s/^B=.*/B=2/"), constraints=["size <= 10"])
    tiny.spec(mutable_files=["train.sh", "extra/*.sh"], constraints=["size <= 9"])
    rows = verified(tiny, "--ablate")["ablations"]
    assert [row["weight"] for row in rows] == ["carries weight"] * 2
    assert rows[0]["note"] == "without it size is 10 in 2 of 2 runs, where `size <= 9` is required"
    assert rows[1]["note"] == "" and rows[1]["gain"]["absolute"]["value"] == 2


@pytest.mark.slow
def test_a_keep_by_mistake_hurts(tiny: Tiny) -> None:
    """The run believed a number that does not come again: its verification says so, and so does ablation."""
    flag = tiny.tmp / "flag"
    flag.touch()
    parts(tiny, edit(f"s,^A=.*,A=-3; [ ! -e {flag} ] || A=7,"), edit("s/^B=.*/B=1/"))
    flag.unlink()
    done = tiny.ark_here("verify", "--ablate")
    assert done.stdout.startswith("tiny, run t: worse by 2 score (20 %)")
    assert [str(row.weight) for row in records(tiny)[0].ablations] == ["hurts", "carries weight"]


@pytest.mark.slow
def test_with_noise_the_intervals_hold_together(tiny: Tiny) -> None:
    tiny.write("evaluate.sh", NOISY)
    parts(tiny, edit("s/^A=.*/A=50/"), edit("s/^B=.*/B=20/"), **FIRST)
    done = tiny.ark_here("verify", "--ablate", "--runs", "8")
    assert "Each interval is at 97.5 %, so that all hold together at 95 % (Bonferroni)." in done.stdout
    found = records(tiny)[0]
    assert [str(row.weight) for row in found.ablations] == ["carries weight"] * 2
    assert [row.gain.level for row in found.ablations if row.gain] == [pytest.approx(0.975)] * 2
    assert len(found.samples) == 24
    assert found.gain is not None and found.gain.level == 0.95
    assert done.stderr.count("of 24: ") == 24
