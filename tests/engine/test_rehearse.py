"""A night in seconds: everything real but the measurements.   pytest tests/engine/test_rehearse.py"""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from autoresearch_kit.core.errors import UsageError
from autoresearch_kit.core.records import mean
from autoresearch_kit.rehearse.noise import Amount, read_amount, read_model

AGENT = {"agent": {"command": "true"}}
NOISY = 'echo "score: $(( 1000 + ARK_SEED % 7 ))"; echo "memory_mb: $(( 50 + ARK_SEED % 3 ))"\n'


def rehearse(tiny: Any, *args: str, code: int = 0) -> dict[str, Any]:
    done = tiny.ark_here("rehearse", "--json", *args)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "told": done.stderr}


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and content, git's own too."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            found[str(path.relative_to(folder))] = path.stat().st_mtime_ns, path.read_bytes()
    return found


def left(tiny: Any) -> list[str]:
    """What is in the cache besides the lock file of a rehearsal."""
    files = [path for path in tiny.cache.rglob("*") if not path.is_dir()]
    return [str(path.relative_to(tiny.cache)) for path in files if path.name != "lock"]


def kinds(found: dict[str, Any]) -> set[str]:
    return {entry["idea"] for entry in found["log"]}


# What is seen


@pytest.mark.slow
def test_a_short_rehearsal_has_seen_everything(tiny):
    tiny.commit(constraints=["memory_mb <= 100"], checks=["false"], **AGENT)
    found = rehearse(tiny, "--attempts", "10")
    assert kinds(found) >= {"neutral", "crash", "timeout", "great", "limit", "check"}
    assert found["fruitless"] == {"no_change": 2, "duplicate": 1, "refused": 1, "failed": 1}
    by_idea = {entry["idea"]: entry for entry in found["log"]}
    outcomes = {idea: by_idea[idea]["outcome"] for idea in ("crash", "timeout", "great", "limit", "check")}
    assert outcomes == {"crash": "crash", "timeout": "crash", "great": "keep", "limit": "discard", "check": "discard"}
    assert "where `memory_mb <= 100` is required" in by_idea["limit"]["reason"]
    assert "check `false` failed" in by_idea["check"]["reason"], "and the command was not run for the others"
    assert "no end after 12 s" in by_idea["timeout"]["reason"]
    assert "train.sh is a symbolic link" in found["told"]
    assert "were measured before, as attempt 3" in found["told"]
    assert "The agent failed: exit code 1" in found["told"]


@pytest.mark.slow
def test_every_ten_ideas_are_the_same_mix(tiny):
    tiny.commit(**AGENT)
    ideas = [entry["idea"] for entry in rehearse(tiny, "--attempts", "40")["log"]]
    plain = [idea for idea in ideas if idea in ("neutral", "harmful", "helpful")]
    for start in range(0, len(plain) - 9, 10):
        assert sorted(plain[start : start + 10]) == ["harmful"] * 2 + ["helpful"] + ["neutral"] * 7
    assert len(plain) >= 20


@pytest.mark.slow
def test_the_truth_is_known_and_counted(tiny):
    tiny.commit(**AGENT)
    found = rehearse(tiny, "--attempts", "60", "--noise", "1%")
    kept = [entry for entry in found["log"] if entry["outcome"] == "keep"]
    assert found["kept"] == len(kept) > 0
    assert found["truly_better"] == sum(entry["true_gain"] > 0 for entry in kept)
    assert found["luck"] == found["kept"] - found["truly_better"]
    assert found["true_best"] == pytest.approx(1 + sum(entry["true_gain"] for entry in kept))
    assert found["true_gain_percent"] == pytest.approx(100 * (found["true_best"] - 1))
    assert found["measurements"] > 60 and found["per_attempt"] > 1
    assert all(entry["true_gain"] == 0 for entry in found["log"] if entry["idea"] == "neutral")


@pytest.mark.slow
def test_the_same_seed_is_the_same_night(tiny):
    tiny.commit(**AGENT)
    first, again, other = (rehearse(tiny, "--attempts", "6", "--seed", seed) for seed in ("1", "1", "2"))
    assert first == again
    assert first["log"] != other["log"]


def test_people_read_lines_as_in_a_run_and_a_summary(tiny):
    tiny.commit(**AGENT)
    done = tiny.ark_here("rehearse", "--attempts", "3")
    assert done.returncode == 0
    assert "   0  keep   " in done.stderr and "   3  crash    exit: exit code 1  | an idea that crashes" in done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("rehearsal of tiny: nothing was measured; no run of this spec is recorded, so the level 1")
    assert rest[0] == "  ended     3 attempts made, as asked"
    assert any("without an attempt: 2 no_change" in line for line in rest)


# Nothing is left


@pytest.mark.slow
def test_the_users_repository_and_cache_are_as_before(tiny):
    tiny.commit(**AGENT)
    tiny.write("train.sh", "echo not committed\n")
    tiny.write("results.tsv", "somebody's own\n")
    before = snapshot(tiny.root)
    rehearse(tiny, "--attempts", "8")
    assert snapshot(tiny.root) == before
    assert left(tiny) == []


@pytest.mark.slow
def test_a_real_run_beside_it_is_not_touched(tiny):
    tiny.play("answer 11", attempts=1)
    before = snapshot(tiny.root)
    cached = left(tiny)
    tiny.spec(**AGENT)
    spec = snapshot(tiny.root)["autoresearch-config.yaml"]
    rehearse(tiny, "--attempts", "4")
    assert snapshot(tiny.root) == {**before, "autoresearch-config.yaml": spec}
    assert left(tiny) == cached


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_rehearsal_leaves_nothing_after_the_next(tiny, number):
    tiny.commit(**AGENT)
    before = snapshot(tiny.root)
    with subprocess.Popen([*tiny.command, "rehearse", "--attempts", "10000"], cwd=tiny.folder, stderr=-1) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith(b"   4  "):
            assert process.poll() is None
        busy = tiny.ark("rehearse", "--attempts", "1")
        assert busy.returncode == 1 and "a rehearsal of this repository is held by process" in busy.stderr
        process.send_signal(number)
        process.stderr.read()
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert left(tiny) == []
    else:
        assert left(tiny) != [], "or this test shows nothing"
        rehearse(tiny, "--attempts", "1")
        assert left(tiny) == []
    assert snapshot(tiny.root) == before


# Noise


@pytest.mark.slow
def test_recorded_noise_is_replayed(tiny):
    tiny.write("evaluate.sh", NOISY)
    tiny.commit(constraints=["memory_mb <= 100"], decision={"baseline_runs": 5}, **AGENT)
    played = tiny.play('echo "# $TURN" >> train.sh', attempts=3)
    baseline, ours = played.attempts[0], {int(value) for a in played.attempts for value in a.values}
    assert ours <= set(range(1000, 1007)), "the evaluation is noisy"
    tiny.write("train.sh", "exit 1\n")
    tiny.commit("what would crash if it were run")
    found = rehearse(tiny, "--attempts", "8")
    assert "is that of run t, and its noise" in found["noise"] and "recorded values" in found["noise"]
    assert "never recorded" not in found["told"]
    assert found["true_best"] - baseline.value == pytest.approx(
        sum(entry["true_gain"] for entry in found["log"] if entry["outcome"] == "keep")
    )
    assert {entry["idea"]: entry["outcome"] for entry in found["log"]}["great"] == "keep"


@pytest.mark.slow
def test_a_model_draws_what_was_recorded(tiny):
    tiny.write("evaluate.sh", NOISY)
    tiny.commit(decision={"baseline_runs": 5}, **AGENT)
    attempts = tiny.play('echo "# $TURN" >> train.sh', attempts=2).attempts
    model = read_model("t", attempts, None)
    groups = [values for a in attempts for values in (a.values, a.head_values) if len(values) > 1]
    widths = [abs(value - mean(values)) for values in groups for value in values]
    assert model.level == attempts[0].value
    assert len(model.residuals) == len(widths)
    assert all(abs(r) >= width for r, width in zip(model.residuals, widths, strict=True)), "as the true mean would show"
    assert {m.also["memory_mb"] for m in model.records} <= {50.0, 51.0, 52.0}
    assert all(cost.seconds is not None for cost in model.costs) and len(model.costs) == 2
    asked = read_model("t", attempts, Amount(2.0))
    assert (asked.level, asked.sd, asked.residuals) == (model.level, 2.0, ())


@pytest.mark.slow
def test_a_deterministic_metric_stays_so(tiny):
    tiny.play("answer 9", attempts=1)
    tiny.spec(**AGENT)
    found = rehearse(tiny, "--attempts", "20")
    assert found["noise"] == "the level 10 is that of run t, and so is its noise: none"
    assert found["per_attempt"] == 1
    assert {entry["value"] for entry in found["log"] if entry["idea"] == "neutral"} <= {
        10.0 + sum(e["true_gain"] for e in found["log"][:n] if e["outcome"] == "keep") for n in range(20)
    }
    assert found["luck"] == 0
    assert all(entry["outcome"] == "keep" for entry in found["log"] if entry["true_gain"] > 0)


def test_a_single_value_says_nothing_of_noise(tiny):
    tiny.commit(decision="first_better", **AGENT)
    attempts = tiny.play("answer 9", attempts=1).attempts
    model = read_model("t", attempts, None)
    assert model.sd == pytest.approx(0.1) and "made up" in model.told


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "inf", "1 %%", "-1%"])
def test_what_is_no_noise_is_refused(text):
    with pytest.raises(UsageError, match="standard deviation"):
        read_amount(text)


@pytest.mark.slow
def test_noise_is_in_units_or_in_percent(tiny):
    tiny.commit(**AGENT)
    assert read_amount("2%").at(-50.0) == 1.0
    assert read_amount(" 0.5 ").at(-50.0) == 0.5
    assert rehearse(tiny, "--noise", "0", "--attempts", "4")["per_attempt"] == 1
    assert tiny.ark_here("rehearse", "--noise", "much").returncode == 2


# Budgets, in the time of the night


@pytest.mark.slow
def test_hours_pass_without_anybody_waiting(tiny):
    tiny.commit(budget={"hours": 8}, budget_minutes=60, timeout_minutes=None, **AGENT)
    found = rehearse(tiny, "--noise", "0")
    assert found["ending"] == "the budget of 8 hours is spent"
    assert found["exit_code"] == 3
    assert 8 <= found["hours"] < 16
    assert found["agent_hours"] is None


@pytest.mark.slow
def test_recorded_seconds_and_costs_of_agents_count(tiny):
    tiny.play("answer 9", attempts=1)
    tiny.spec(**AGENT)
    found = rehearse(tiny, "--attempts", "4")
    assert found["hours"] < 0.02, "the runs were quick, whatever the budget"
    assert 0 < found["agent_hours"] < found["hours"]


@pytest.mark.parametrize(
    ("budget", "ending"),
    [
        ({"attempts": 5}, "the budget of 5 attempts is spent"),
        ({"patience": 4}, "4 attempts in a row without a keep: patience is spent"),
    ],
)
def test_other_budgets_end_it(tiny, budget, ending):
    tiny.commit(budget=budget, **AGENT)
    assert rehearse(tiny)["ending"] == ending


def test_a_target_counts_where_the_level_is_known(tiny):
    tiny.play("answer 9", attempts=1)
    tiny.spec(budget={"target": 10}, **AGENT)
    found = rehearse(tiny)
    assert (found["ending"], found["attempts"], found["exit_code"]) == ("the target 10 is reached: 10", 0, 0)


def test_a_made_up_level_reaches_no_target(tiny):
    tiny.commit(budget={"target": 0.5}, **AGENT)
    found = rehearse(tiny, "--attempts", "2")
    assert found["attempts"] == 2
    assert "The target 0.5 is left out" in found["told"]


def test_no_attempts_are_a_baseline(tiny):
    tiny.commit(**AGENT)
    found = rehearse(tiny, "--attempts", "0")
    assert (found["attempts"], found["per_attempt"], found["measurements"]) == (0, None, 3)
    assert tiny.ark_here("rehearse", "--attempts", "0").returncode == 0


# Files of any kind


@pytest.mark.slow
def test_an_agent_may_only_add_files(tiny):
    tiny.commit(mutable_files=["new/**/[!a]?[bc]*.py", "train.sh/x/"], **AGENT)
    assert rehearse(tiny, "--attempts", "4")["attempts"] == 4


def test_new_files_that_git_ignores_are_no_place_to_work(tiny):
    tiny.write(".gitignore", "*.py\n")
    tiny.commit(mutable_files=["*.py"], **AGENT)
    done = tiny.ark_here("rehearse")
    assert done.returncode == 1
    assert "no committed file is mutable" in done.stderr and "hint: correct `mutable_files`" in done.stderr


@pytest.mark.slow
def test_binary_and_empty_files_and_many_of_them(tiny):
    tiny.write("data/blob.bin", bytes(range(256)) * 10)
    tiny.write("data/empty", b"")
    tiny.commit(mutable_files=["data/", "train.sh"], **AGENT)
    assert rehearse(tiny, "--attempts", "7")["fruitless"]["refused"] == 1


@pytest.mark.slow
def test_a_project_in_a_sub_folder_with_links_and_inputs(tiny, tmp_path, _template):
    import hashlib
    import shutil

    root = tmp_path / "many"
    (root / "one").mkdir(parents=True)
    shutil.copytree(_template, root / "one", dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git"))
    inner = type(tiny)(root, tiny.tmp, "one")
    inner.git("init", "-q", ".")
    (root / ".gitignore").write_text("venv\n*.bin\n")
    (root / "venv").mkdir()
    inner.write("data.bin", b"data")
    inputs = [{"path": "data.bin", "sha256": hashlib.sha256(b"data").hexdigest()}]
    inner.commit(link=["../venv"], inputs=inputs, **AGENT)
    before = snapshot(root)
    assert rehearse(inner, "--attempts", "4")["attempts"] == 4
    assert snapshot(root) == before
    inner.write("data.bin", b"other data")
    same_error(inner, 1, "data.bin is not the pinned one")


# What is wrong is said as a run would say it


def same_error(tiny: Any, code: int, *words: str) -> None:
    rehearsed, run = tiny.ark_here("rehearse"), tiny.ark_here("run", "--attempts", "1")
    assert (rehearsed.returncode, rehearsed.stderr) == (run.returncode, run.stderr)
    assert rehearsed.returncode == code
    for word in words:
        assert word in rehearsed.stderr


@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        ({"metrc": "x"}, 2, "metrc"),
        ({"mutable_files": ["gone.py"]}, 2, "`gone.py` is not a file in"),
        ({"immutable_files": ["*"]}, 2, "both mutable and immutable"),
        ({"link": ["venv"]}, 1, "`link: venv` does not exist"),
        ({"inputs": [{"path": "gone", "sha256": "0" * 64}]}, 1, "input gone cannot be read"),
        ({"branch_prefix": "main"}, 1, "cannot exist beside your branch main"),
    ],
)
def test_mistakes_in_the_spec(tiny, spec, code, words):
    tiny.commit(**spec, **AGENT)
    if "branch_prefix" in spec:
        done = tiny.ark_here("rehearse")
        assert done.returncode == code and words in done.stderr
    else:
        same_error(tiny, code, words)


def test_no_commit_and_no_repository(tiny, tmp_path):
    tiny.spec(**AGENT)
    tiny.git("update-ref", "-d", "HEAD")
    same_error(tiny, 1, "has no commit yet on branch main")
    done = tiny.ark_here("rehearse", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    (lonely / "autoresearch-config.yaml").write_text((tiny.root / "autoresearch-config.yaml").read_text())
    done = tiny.ark_here("rehearse", str(lonely))
    assert done.returncode == 1 and "is not in a git repository" in done.stderr


def test_a_program_that_is_missing_is_found_before_the_night(tiny):
    tiny.commit(run_command="no-such-program --fast", **AGENT)
    done = tiny.ark_here("rehearse")
    assert done.returncode == 1
    assert "run_command: `no-such-program` is not found" in done.stderr


def test_an_agent_that_is_missing_is_only_told_of_because_it_is_not_started(tiny):
    tiny.commit(agent={"command": "no-such-agent --fast"})
    found = rehearse(tiny, "--attempts", "1")
    assert found["attempts"] == 1 and "agent: `no-such-agent` is not found" in found["told"]


def test_a_limit_on_what_was_never_recorded_is_told(tiny):
    tiny.commit(constraints=["peak_vram_mb < 80", "wall_seconds >= 3"], **AGENT)
    found = rehearse(tiny, "--attempts", "1")
    assert "`peak_vram_mb < 80` is taken to hold: peak_vram_mb was never recorded" in found["told"]
    assert found["crashes"] == 0


def test_a_limit_on_what_the_recorded_run_did_not_print_is_the_mistake_that_a_run_finds(tiny):
    tiny.play("answer 9", attempts=1)
    tiny.spec(constraints=["peak_vram_mb < 80"], **AGENT)
    rehearsed, run = tiny.ark_here("rehearse"), tiny.ark_here("run", "--tag", "t", "--attempts", "1")
    assert (rehearsed.returncode, rehearsed.stderr) == (run.returncode, run.stderr)
    assert "which nothing measures" in run.stderr


def test_a_baseline_beyond_a_recorded_limit(tiny):
    tiny.write("evaluate.sh", NOISY)
    tiny.commit(decision={"baseline_runs": 2}, **AGENT)
    tiny.play("true", attempts=0)
    tiny.spec(constraints=["memory_mb <= 10"], **AGENT)
    done = tiny.ark_here("rehearse")
    assert done.returncode == 1
    assert "the baseline failed: memory_mb is" in done.stderr


@pytest.mark.parametrize("args", [["--attempts", "-1"], ["--attempts", "1000000"], ["--seed", "x"], ["--noise", "-1"]])
def test_options_that_make_no_sense(tiny, args):
    assert tiny.ark_here("rehearse", *args).returncode == 2


# What an agent would read


@pytest.mark.slow
def test_prompt_and_program_can_be_kept(tiny, tmp_path):
    tiny.write("program.md.j2", "Own words on {{ spec.metric }}.\n")
    tiny.commit(**AGENT)
    keep = tmp_path / "kept" / "here"
    found = rehearse(tiny, "--attempts", "4", "--keep", str(keep))
    assert found["kept_in"] == [str(keep / "prompt.md"), str(keep / "program.md")]
    assert "Own words on score." in (keep / "program.md").read_text()
    assert len((keep / "prompt.md").read_bytes()) == found["prompt_bytes"]
    rehearse(tiny, "--attempts", "1", "--keep", str(keep))
    done = tiny.ark_here("rehearse", "--attempts", "1", "--keep", ".")
    assert done.returncode == 2 and "holds other things" in done.stderr
    assert not (tiny.root / "prompt.md").exists()


def test_a_broken_template_is_named_by_its_own_path(tiny):
    tiny.write("attempt.md.j2", "line\n{% if %}\n")
    tiny.commit(**AGENT)
    done = tiny.ark_here("rehearse")
    assert done.returncode == 1
    assert f"{tiny.root}/attempt.md.j2:2" in done.stderr
