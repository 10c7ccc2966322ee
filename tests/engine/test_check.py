"""`ark check` on noisy and quiet projects, and what a run says of its noise before it begins.

.venv/bin/pytest tests/engine/test_check.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.ledger.lock import Lock
from tests.engine.conftest import Tiny

# 10 becomes 10.000 to 10.999, uniformly: a standard deviation of 0.29.
NOISY = 'printf "score: %d.%03d\\n" "$(cat answer.txt)" $((ARK_SEED % 1000))\n'
PATIENCE = 60.0


@pytest.fixture
def noisy(tiny: Tiny) -> Tiny:
    tiny.write("evaluate.sh", NOISY)
    tiny.commit("a noisy evaluation")
    return tiny


def scores(tiny: Tiny, *each: object) -> None:
    """An evaluation that says these one after the other."""
    count = tiny.tmp / "evaluations"
    lines = "".join(f"{number}) {line} ;;\n" for number, line in enumerate(each, 1))
    tiny.write("evaluate.sh", f"echo x >> {count}\ncase $(wc -l < {count} | tr -d ' ') in\n{lines}esac\n")
    tiny.commit("a scripted evaluation")


def findings(tiny: Tiny, *args: str, code: int = 0) -> list[dict[str, str]]:
    done = tiny.ark_here("check", "--json", *args)
    assert done.returncode == code, done.stdout + done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)
    assert all(list(finding) == ["level", "subject", "text", "hint"] for finding in found)
    return found


def about_noise(tiny: Tiny, *args: str, code: int = 0) -> list[tuple[str, str]]:
    return [(f["level"], f["text"]) for f in findings(tiny, *args, code=code) if f["subject"] in ("noise", "gains")]


# ark check --noise


def test_noise_is_measured_and_nothing_is_left(noisy: Tiny) -> None:
    before = noisy.git("for-each-ref"), noisy.git("status", "--porcelain")
    done = noisy.ark_here("check", "--noise", "6")
    assert done.returncode == 0, done.stderr
    progress = done.stderr.splitlines()
    assert len(progress) == 6
    assert all(line.startswith(f"run {i} of 6: 10.") and line.endswith(" s") for i, line in enumerate(progress, 1))
    lines = done.stdout.splitlines()
    noise, gains = (next(line for line in lines if line[6:].startswith(what)) for what in ("noise: ", "gains: "))
    assert " in one run: 10." in noise and " on average of 6 runs; " in noise
    assert gains.startswith("ok    gains: with this noise and 8 hours, room for ")
    assert "you need 24 runs each" in gains
    assert (noisy.git("for-each-ref"), noisy.git("status", "--porcelain")) == before
    assert not list(noisy.cache.rglob("bench"))
    assert noisy.ark_here("log").returncode == 2, "there is no run"


def test_commands_see_a_baseline(tiny: Tiny) -> None:
    seen = tiny.tmp / "seen"
    tiny.write("evaluate.sh", f'echo "$ARK_TAG $ARK_ATTEMPT $ARK_SEED" >> {seen}\necho score: 1\n')
    tiny.commit("look", setup_command=f"echo set up >> {seen}")
    findings(tiny, "--noise", "3")
    first, *others = [line.split() for line in seen.read_text().splitlines()]
    assert first == ["set", "up"]
    assert [line[:2] for line in others] == [["noise", "0"]] * 3
    assert len({seed for _, _, seed in others}) == 3


def test_without_noise(tiny: Tiny) -> None:
    (_, noise), (level, gains) = about_noise(tiny, "--noise", "2")
    assert noise.startswith("none: 10 in each of 2 runs; ")
    assert level == "ok" and gains.startswith(
        "one run per candidate, and any gain is seen; in 8 hours there is room for"
    )


def test_what_is_measured_is_what_is_committed(tiny: Tiny) -> None:
    tiny.write("train.sh", "echo 99 > answer.txt\n")
    assert about_noise(tiny, "--noise", "2")[0][1].startswith("none: 10 in each")


def test_a_baseline_that_crashes(tiny: Tiny) -> None:
    scores(tiny, "echo score: 1", "echo last words; exit 3")
    [(level, text)] = about_noise(tiny, "--noise", "5", code=1)
    assert level == "fail"
    assert text.startswith("the baseline failed: ") and text.endswith("its last words: last words")


def test_a_limit_on_what_nothing_measures(tiny: Tiny) -> None:
    tiny.commit(constraints=["los <= 3"])
    found = findings(tiny, "--noise", "2", code=1)[-1]
    assert (found["level"], found["text"]) == (
        "fail",
        f"{tiny.folder}/autoresearch-config.yaml: `constraints` limits los, which nothing measures",
    )
    assert found["hint"].endswith("what there is: cpu_seconds, peak_memory_mb, wall_seconds")


def test_a_limit_that_the_baseline_breaks(tiny: Tiny) -> None:
    tiny.commit(constraints=["wall_seconds < 0"])
    [(level, text)] = about_noise(tiny, "--noise", "2", code=1)
    assert level == "fail"
    assert text.startswith("the baseline breaks a limit: wall_seconds is ")


def test_a_set_up_that_fails(tiny: Tiny) -> None:
    tiny.commit(setup_command="exit 7")
    [(level, text)] = about_noise(tiny, "--noise", "2", code=1)
    assert level == "fail" and text.startswith("the set-up command failed")


def test_nothing_is_measured_where_a_run_would_not_start(tiny: Tiny) -> None:
    tiny.commit(run_command="no-such-program")
    [(level, text)] = about_noise(tiny, "--noise", "2", code=1)
    assert (level, text) == ("warn", "not measured, because a run would not start")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((10, 11, 12, 13, 14.2), "the runs trend, beyond what chance brings once in 50 times: first 10, last 14.2"),
        ((20, 10, 10.1, 10, 10.1), "the first run is unlike the later ones: 20, 10, 10.1, 10, 10.1"),
        ((10, 12, 11, 10, 12), None),
        ((10, 11, 12), None),
        ((10, 10, 10, 10), None),
    ],
)
def test_a_drift_or_a_warm_up(tiny: Tiny, values: tuple[float, ...], words: str | None) -> None:
    scores(tiny, *(f"echo score: {value}" for value in values))
    warned = [text for level, text in about_noise(tiny, "--noise", str(len(values))) if level == "warn"]
    assert [text for text in warned if "the runs trend" in text or "unlike" in text] == ([words] if words else [])


def test_values_too_far_apart_to_count(tiny: Tiny) -> None:
    scores(tiny, "echo score: 1e308", "echo score: -1e308")
    assert ("warn", "the runs lie too far apart to count") in about_noise(tiny, "--noise", "2")


@pytest.mark.parametrize("count", ["1", "0", "x"])
def test_a_count_that_makes_no_sense(tiny: Tiny, count: str) -> None:
    assert tiny.ark_here("check", "--noise", count).returncode == 2


def test_the_warnings_are_findings_too(noisy: Tiny) -> None:
    noisy.commit(decision={"min_gain": 0.001}, budget={"hours": 1e-6})
    warned = [text for level, text in about_noise(noisy, "--noise", "3") if level == "warn"]
    assert [text[:20] for text in warned] == ["one candidate may ne", "min_gain is 0.001 (0"]


def test_two_cannot_measure_at_once_and_clean_waits(tiny: Tiny) -> None:
    lock = Lock(tiny.root / ".git/ark/+noise.lock", "x")
    lock.acquire()
    try:
        [(level, text)] = about_noise(tiny, "--noise", "2", code=1)
        assert (level, text) == ("fail", "the noise of this repository is being measured already")
        done = tiny.ark_here("clean")
        assert done.returncode == 1
        assert "error: `ark check --noise` is going on in these folders" in done.stderr
    finally:
        lock.release()
    assert about_noise(tiny, "--noise", "2")[0][0] == "ok"
    assert tiny.ark_here("clean").returncode == 0
    assert not list(tiny.cache.glob("ark/user-*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_processes(tiny: Tiny, number: signal.Signals) -> None:
    started = tiny.tmp / "started"
    tiny.commit(run_command=f"echo $$ > {started}.new; mv {started}.new {started}; sleep 100")
    ark = subprocess.Popen(
        [*tiny.command, "check", "--noise", "3"], cwd=tiny.folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        wait_for(started.exists)
        pid = int(started.read_text())
        os.kill(ark.pid, number)
        _, errors = ark.communicate(timeout=PATIENCE)
    finally:
        ark.kill()
    assert ark.returncode == 130
    assert b"Traceback" not in errors
    wait_for(lambda: not psutil.pid_exists(pid))
    assert not Lock(tiny.root / ".git/ark/+noise.lock", "x").is_held()


def wait_for(what: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


# From the ledger


@pytest.mark.slow
def test_the_noise_of_the_latest_run_is_known(noisy: Tiny) -> None:
    [(level, text)] = about_noise(noisy)
    assert level == "ok" and text.startswith("unknown: ")
    noisy.play("answer 11", attempts=1)
    noise, gains = about_noise(noisy)
    assert ") in one run, as run t shows; " in noise[1]
    assert gains[1].startswith("with this noise and 8 hours, room for")
    noisy.write("evaluate.sh", "echo score: 1 # another way of measuring\n")
    noisy.commit("another way")
    assert about_noise(noisy)[0][1].startswith("unknown: ")


@pytest.mark.slow
def test_no_noise_in_the_latest_run(tiny: Tiny) -> None:
    tiny.play("answer 11", attempts=1)
    noise, gains = about_noise(tiny)
    assert noise[1].startswith("none, as run t shows; ")
    assert gains[1].startswith("one run per candidate, and any gain is seen")


# At the start of a run


def test_a_run_begins_with_the_warnings(noisy: Tiny) -> None:
    noisy.commit(decision={"min_gain": 0.001})
    played = noisy.play("answer 12", attempts=0)
    [note] = played.notes
    assert note.startswith("min_gain is 0.001 (") and "12 runs with a noise of " in note
    assert note.endswith("print the mean over several seeds")


def test_a_quiet_run_begins_without(tiny: Tiny) -> None:
    tiny.commit(decision={"min_gain": 0.001}, budget={"hours": 1e-9})
    assert tiny.play("answer 12", attempts=0).notes == []


@pytest.mark.slow
def test_a_run_whose_false_keeps_are_spent_does_not_start(noisy: Tiny) -> None:
    noisy.commit(budget={"attempts": 2})
    played = noisy.play("answer $((0 - TURN))")
    assert played.outcomes == ["keep", "discard", "discard"]
    assert noisy.play("answer 12").ending.exit_code == 3, "its budget is spent, and that is all there is to say"
    noisy.spec(budget={"attempts": 3})
    before = noisy.git("for-each-ref")
    with pytest.raises(ArkError) as caught:
        noisy.play("answer 12")
    assert caught.value.message == (
        "the promised false keeps, 0.1 in all, are spent on 2 candidates, so nothing more could be kept"
    )
    assert "decision.false_keeps" in caught.value.hint
    assert noisy.git("for-each-ref") == before
    noisy.spec(budget={"attempts": 3}, decision={"false_keeps": 0.2})
    assert len(noisy.play("answer 900").attempts) == 4


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{"decision": "first_better"}, {}])
def test_without_noise_or_without_a_promise_nothing_is_spent(tiny: Tiny, keys: dict[str, Any]) -> None:
    if keys:
        tiny.write("evaluate.sh", NOISY)
    tiny.commit(budget={"attempts": 1}, **keys)
    tiny.play("answer 2")
    tiny.spec(budget={"attempts": 2}, **keys)
    assert len(tiny.play("answer 3").attempts) == 3


@pytest.mark.slow
def test_the_desk_of_a_run_is_no_part_of_it(noisy: Tiny) -> None:
    """Logs of the noise and of runs lie in folders of their own."""
    noisy.play("answer 12", attempts=1)
    findings(noisy, "--noise", "2")
    names = {Path(path).parent.parent.name for path in noisy.cache.rglob("0000.eval.log")}
    assert names == {"autoresearch+t", "noise"}
