"""How a harness ends: signals, limits, and another one beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from ane_example import Example, failed, gone, here, in_process, waiting
from ane_modules import load


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"])
def test_interrupted_it_leaves_no_process(example, number, status):
    process, trainer = waiting(example)
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    failed((process.returncode, output, errors), status, f"interrupted by .*{'Ctrl-C' if status == 130 else 'TERM'}")
    assert gone(trainer)


def redirected(example: Example, how: str, *words: str) -> int:
    """The status of a harness that a shell starts so."""
    command = ["sh", "-c", f'exec "$0" "$@" {how}', example.python, "harness_ane.py", "--data", str(example.data)]
    done = subprocess.run([*command, *words], cwd=example.folder, env=example.environment, capture_output=True)
    assert b"Traceback" not in done.stderr
    return done.returncode


@pytest.mark.parametrize("how", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_nothing(example, how):
    """Nor does what is opened next get its number."""
    assert redirected(example, how, "--config", "nope.h") == 2
    assert redirected(example, how, "train") == 0 and example.candidate.exists()


@pytest.mark.parametrize("how", [">/dev/full", "2>/dev/full", "2</dev/null"])
def test_a_refusal_that_cannot_be_written_is_one_all_the_same(example, how):
    if "full" in how and not os.path.exists("/dev/full"):
        pytest.skip("only Linux has it")
    assert redirected(example, how, "--config", "nope.h") == 2


def test_one_harness_at_a_time(example):
    process, trainer = waiting(example)
    failed(example.run("evaluate"), 1, "another harness is at work in", "wait for it")
    process.kill()
    process.communicate()
    failed(example.run("evaluate"), 1, "another harness is at work in")
    os.kill(trainer, signal.SIGKILL)
    assert gone(trainer)
    failed(example.run("evaluate"), 1, "there is no candidate.ckpt")


def test_a_trainer_that_does_not_end_is_killed(example, capfd, monkeypatch):
    """And its child. In this process, since the limit is minutes."""
    example.trainer("trap '' TERM; sleep 100 & echo $! > pid; wait")
    harness = in_process(example, monkeypatch)
    monkeypatch.setattr(harness, "START_SECONDS", 0.3)
    monkeypatch.setattr(harness.processes, "GRACE_SECONDS", 0.3)
    failed(here(harness, example, capfd), 1, "the trainer did not end within 0.41 seconds and was killed")
    assert gone(int(example.log("pid")))


def test_the_limit_holds_for_a_program_that_never_stops_talking(tmp_path):
    processes = load("processes")
    done = processes.run(["yes"], tmp_path, os.environ, 0.2)
    assert done.status is None and done.last[-1] == "y"


def test_a_signal_within_the_start_of_a_program_ends_it_too(tmp_path, monkeypatch):
    processes = load("processes")
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *words, **options):
            super().__init__(*words, **options)
            started.append(self.pid)
            os.kill(os.getpid(), signal.SIGINT)  # before anybody has the object
            time.sleep(0.1)

    monkeypatch.setattr(processes.subprocess, "Popen", Popen)
    with pytest.raises(KeyboardInterrupt):
        processes.run(["sleep", "100"], tmp_path, os.environ, 60)
    assert len(started) == 1 and gone(started[0])
