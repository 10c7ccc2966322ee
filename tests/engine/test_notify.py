"""The commands of `on`: who is told what, and that nothing they do hurts a run.

.venv/bin/pytest tests/engine/test_notify.py
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoresearch_kit.core.budget import Limits
from autoresearch_kit.core.errors import SpecError
from autoresearch_kit.core.specfile import parse_spec
from autoresearch_kit.loop import Failed, Turns
from autoresearch_kit.ratchet import Run, Trouble
from autoresearch_kit.starter import blank_spec

SCRIPT = """
case $TURN in
1) answer 20; title 'bigger: "$(touch /tmp/pwned)" `id` <b>' 'because';;
2) answer 15;;
3) answer 30;;
*) answer 5;;
esac
"""
CRASHES = 'echo "false $TURN" > train.sh\n'
KEYS = {
    "event", "project", "tag", "branch", "folder", "time", "metric", "direction", "baseline", "best", "best_attempt",
    "gain_percent", "attempts", "kept", "crashes", "attempt", "reason", "cause", "exit_code", "subject", "text",
}  # fmt: skip


class Box:
    """Where the commands put what they were told, one file a document."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def command(self, event: str) -> str:
        return f'f=$(mktemp {self.folder}/{event}.XXXXXX); cat > "$f"; mv "$f" "$f.json"'

    def all(self) -> dict[str, str]:
        return {event: self.command(event) for event in ("keep", "best", "stop", "trouble")}

    def of(self, event: str) -> list[dict[str, Any]]:
        found = [json.loads(path.read_text()) for path in self.folder.glob(f"{event}.*.json")]
        return sorted(found, key=lambda document: (document["attempt"] or {}).get("number", 0))


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "box")


def run(tiny, script: str, attempts: int = 4, *more: str) -> subprocess.CompletedProcess[str]:
    return tiny.ark("run", "--tag", "t", "--agent", tiny.agent(script), "--attempts", str(attempts), *more)


def gone(mark: str, seconds: float = 20) -> bool:
    """Whether no process has `mark` in its command line any more."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        lines = []
        for process in psutil.process_iter(["cmdline"]):
            lines.append(" ".join(process.info["cmdline"] or []))
        if not any(mark in line for line in lines):
            return True
        time.sleep(0.05)
    return False


# The spec


@pytest.mark.parametrize("key", ["on", '"on"', "'on'"])
def test_the_key_is_read_however_yaml_would_take_it(key):
    text = blank_spec("x") + f"{key}:\n  keep: ./tell.sh\n  trouble: {{command: mail me, timeout_seconds: 5}}\n"
    spec = parse_spec(text)
    assert spec.on.keep is not None and spec.on.keep.command == "./tell.sh" and spec.on.keep.timeout_seconds == 30
    assert spec.on.trouble is not None and spec.on.trouble.timeout_seconds == 5
    assert spec.on.stop is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{kept: ./tell.sh}", "`on.kept` is not a key of the spec; did you mean `keep`?"),
        ("{keep: {command: a, seconds: 3}}", "`on.keep.seconds` is not a key of the spec; did you mean `timeout_sec"),
        ("{keep: ''}", "`on.keep` is empty; write a shell command"),
        ("{keep: {command: a, timeout_seconds: 0}}", "`on.keep.timeout_seconds` (0) should be above 0"),
        ("{keep: [a, b]}", "`on.keep` should be a mapping of keys, not a list"),
        ("./tell.sh", "`on` (./tell.sh) should be a mapping of keys"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_line(value, said):
    text = blank_spec("x")
    with pytest.raises(SpecError) as error:
        parse_spec(text + f"on: {value}\n", "s.yaml")
    assert f"s.yaml:{text.count(chr(10)) + 1}: {said}" in error.value.message


def test_it_is_no_part_of_the_yardstick():
    text = blank_spec("x")
    assert parse_spec(text).yardstick == parse_spec(text + "on: {keep: ./tell.sh}\n").yardstick


def test_check_names_the_missing_program(tiny):
    tiny.commit(on={"keep": "no-such-program --x", "stop": "cat > /dev/null"})
    done = tiny.ark_here("check")
    assert "on.keep: `no-such-program` is not found" in done.stdout
    assert "on.stop: cat > /dev/null" in done.stdout
    assert done.returncode == 0


# Events


def test_each_event_has_its_document(tiny, box):
    tiny.commit(on=box.all(), env={"MINE": "1"})
    done = run(tiny, SCRIPT)
    assert done.returncode == 0, done.stderr
    assert [document["attempt"]["number"] for document in box.of("keep")] == [1, 3]
    assert [document["attempt"]["number"] for document in box.of("best")] == [1, 3]
    assert box.of("trouble") == []
    kept, (stop,) = box.of("keep")[0], box.of("stop")
    assert set(kept) == set(stop) == KEYS
    entry = next(entry for entry in tiny.log() if entry["number"] == 1)
    assert kept["attempt"] == entry
    assert kept["reason"] == entry["reason"] and kept["exit_code"] is None and kept["cause"] == ""
    assert (kept["event"], kept["tag"], kept["branch"]) == ("keep", "t", "autoresearch/t")
    assert (kept["baseline"], kept["best"], kept["best_attempt"], kept["gain_percent"]) == (10, 20, 1, 100)
    assert kept["folder"] == str(tiny.folder.resolve())
    assert stop["attempt"] is None and stop["exit_code"] == 0 and stop["reason"] == "4 attempts made, as asked"
    assert (stop["best"], stop["attempts"], stop["kept"]) == (30, 4, 2)
    assert entry["title"] in kept["text"] and "\n" not in kept["subject"]
    assert not Path("/tmp/pwned").exists()


@pytest.mark.slow
@pytest.mark.parametrize("first, direction", [("1e-9", "maximize"), ("3e307", "minimize"), ("-1e308", "maximize")])
def test_values_at_the_edge_are_told_all_the_same(tiny, box, first, direction):
    (tiny.folder / "train.sh").write_text(f"echo {first} > answer.txt\n")
    tiny.commit(on=box.all(), metric_direction=direction)
    best = "0.9" if direction == "minimize" else "1e306" if first == "1e-9" else "1e308"
    done = run(tiny, f"answer {best}", 1)
    assert done.returncode == 0, done.stderr
    (kept,), (stop,) = box.of("keep"), box.of("stop")
    assert kept["best"] == stop["best"] == float(best)
    assert kept["gain_percent"] == {"1e-9": None, "3e307": 100, "-1e308": 200}[first]
    assert "inf" not in kept["text"] + done.stderr.replace("info", "")


@pytest.mark.slow
def test_a_command_runs_in_the_users_folder_with_his_environment(tiny, tmp_path):
    tiny.commit(on={"keep": f"(pwd; env) > '{tmp_path}/seen'"})
    done = tiny.ark(
        "run", "--tag", "t", "--agent", tiny.agent("answer 20"), "--attempts", "1", env={"TOKEN": "a secret"}
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "seen").read_text().splitlines()
    assert lines[0] == str(tiny.folder.resolve())
    assert {"ARK_EVENT=keep", "ARK_TAG=t", "ARK_ATTEMPT=1", "TOKEN=a secret"} <= set(lines)
    assert tiny.git("status", "--porcelain", "--ignored") == "!! results.tsv"


@pytest.mark.slow
def test_a_kept_one_below_an_earlier_best_is_no_best(tiny, box):
    # A new baseline, because the way of measuring has changed, begins anew.
    tiny.commit(on=box.all())
    run(tiny, "answer 20", 1)
    tiny.commit(on=box.all(), env={"OTHER": "1"})
    run(tiny, "answer 25", 1)
    assert [document["best"] for document in box.of("best")] == [20, 25]
    assert [document["baseline"] for document in box.of("best")] == [10, 20]
    assert len(box.of("keep")) == 2


@pytest.mark.slow
def test_crashes_in_a_row_are_trouble_once(tiny, box):
    tiny.commit(on=box.all())
    run(tiny, CRASHES, 7)
    (trouble,) = box.of("trouble")
    assert trouble["cause"] == "crashes" and trouble["reason"].startswith("5 crashes in a row; the last: Crash")
    assert trouble["attempt"]["number"] == 5 and trouble["exit_code"] is None


@pytest.mark.slow
def test_an_agent_that_fails_is_trouble_and_so_is_the_end(tiny, box):
    tiny.commit(on=box.all())
    done = run(tiny, "echo no licence; exit 7")
    assert done.returncode == 1
    assert {document["cause"] for document in box.of("trouble")} == {"agent_failed", "ended"}
    (stop,) = box.of("stop")
    assert stop["exit_code"] == 1 and "no licence" in stop["reason"]


@pytest.mark.parametrize(
    ("failed", "causes"),
    [
        ([Failed("Limited", "rate_limited", rest_seconds=1800)], []),
        ([Failed("Limited", "rate_limited", rest_seconds=7200)], ["rate_limited"]),
        ([Failed("Limited", "rate_limited", rest_seconds=1800)] * 2, ["rate_limited"]),
        ([Failed("One of two", "not_logged_in")], ["not_logged_in"]),
        ([Failed("It failed")] * 2, []),
        ([Failed("It failed")] * 4, ["agent_failed"] * 2),
    ],
)
def test_what_of_an_agents_failures_is_trouble(tiny, failed, causes):
    events: list[Any] = []

    def fail(run: Run) -> None:
        turns = Turns(run, Limits(), events.append)
        for answer in failed:
            turns.fail(answer)

    tiny.play("answer 20", 0, before=fail)
    assert [event.cause for event in events if isinstance(event, Trouble)] == causes


@pytest.mark.slow
def test_a_baseline_that_fails_is_told_and_the_error_shown(tiny, box):
    tiny.commit(on=box.all(), eval_command="echo no number")
    done = run(tiny, "answer 20")
    assert done.returncode == 1 and "error: the baseline failed" in done.stderr
    (trouble,), (stop,) = box.of("trouble"), box.of("stop")
    assert trouble["cause"] == "ended" and trouble["reason"].startswith("the baseline failed")
    assert stop["exit_code"] == 1 and stop["baseline"] is None and stop["best"] is None


@pytest.mark.slow
def test_what_never_began_is_told_to_nobody(tiny, box):
    tiny.commit(on=box.all())
    assert run(tiny, "answer 20", 1, "--from", "nothing/3").returncode == 2
    assert list(box.folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_whoever_stops_a_run_is_told(tiny, box, tmp_path, number):
    tiny.commit(on=box.all())
    process = subprocess.Popen(
        [*tiny.command, "run", "--tag", "t", "--agent", f"touch {tmp_path}/here; sleep 60"],
        cwd=tiny.folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(tmp_path / "here")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    (stop,) = box.of("stop")
    assert stop["exit_code"] == 130 and stop["reason"] == "stopped by you"
    assert box.of("trouble") == []


def wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)


@pytest.mark.slow
def test_an_agent_cannot_change_the_commands(tiny, box, tmp_path):
    """Whatever it writes on its desk, the spec and a script in the checkout stay the user's."""
    tiny.write("tell.sh", box.command("keep"))
    tiny.commit(on={"keep": "sh tell.sh"}, mutable_files=["*"], immutable_files=[])
    planted = f"touch {tmp_path}/planted"
    script = f"answer 20; echo '{planted}' > tell.sh; sed -i 's|sh tell.sh|{planted}|' autoresearch-config.yaml"
    assert run(tiny, script + "; answer $((TURN * 20))", 2).returncode == 0
    assert len(box.of("keep")) == 2 and not (tmp_path / "planted").exists()
    assert tiny.show("refs/ark/t/0001", "tell.sh") == planted, "it was kept, in the ledger"


# An attempt by hand


@pytest.mark.slow
def test_a_try_by_hand_tells_of_what_was_kept_and_not_of_the_end(tiny, box):
    tiny.commit(on=box.all())
    desk = Path(tiny.ark("desk", "--tag", "t").stdout.strip())
    (desk / "train.sh").write_text("echo 40 > answer.txt\n")
    done = tiny.ark("try", "-m", "forty", cwd=desk)
    assert done.returncode == 0, done.stderr
    end = time.monotonic() + 60
    while not (box.of("best") and box.of("keep")) and time.monotonic() < end:
        time.sleep(0.05)
    assert [document["attempt"]["title"] for document in box.of("keep")] == ["forty"]
    while tiny.ark("clean").returncode:  # which dismisses whoever measures
        assert time.monotonic() < end
    assert box.of("stop") == [] and box.of("trouble") == []


@pytest.mark.slow
def test_an_agent_that_drives_has_the_same(tiny, box):
    tiny.commit(on=box.all())
    script = "answer 20; ark try -m one >/dev/null; answer 30; ark try -m two >/dev/null; sleep 0.1"
    done = run(tiny, script, 2, "--drive", "agent")
    assert done.returncode == 0, done.stderr
    assert [document["attempt"]["title"] for document in box.of("keep")] == ["one", "two"]
    assert len(box.of("stop")) == 1


# Whatever a command does


BAD = {
    "fails": ("echo 'no route'; exit 3", "on.keep failed, and the run goes on: exit code 3; its last words: no route"),
    "missing": ("no-such-program", "not found"),
    "floods": ("yes flood | head -c 200000000; exit 3", "exit code 3"),
    "reads nothing": ("exec <&-; exit 0", ""),
    "kills itself": ("kill -9 $$", "killed by SIGKILL"),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind != "fails" else []) for kind in sorted(BAD)]
)
def test_what_a_command_does_is_told_once_and_hurts_nobody(tiny, kind):
    command, said = BAD[kind]
    tiny.commit(on={"keep": command})
    done = run(tiny, SCRIPT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("on.keep failed") == (1 if said else 0)
    assert said in done.stderr
    assert [entry["outcome"] for entry in tiny.log()] == ["keep", "keep", "discard", "keep", "discard"]


@pytest.mark.slow
def test_a_command_that_hangs_is_ended_with_all_that_it_started(tiny, box):
    hang = {"command": "(setsid sleep 4711.25 &) ; sleep 4711.25", "timeout_seconds": 0.5}
    tiny.commit(on={**box.all(), "keep": hang})
    done = run(tiny, SCRIPT)
    assert done.returncode == 0, done.stderr
    assert "on.keep failed, and the run goes on: no end after 0.5 s" in done.stderr
    assert len(box.of("best")) == 2 and len(box.of("stop")) == 1, "another event's command was held up"
    assert gone("sleep 4711.25")


@pytest.mark.slow
def test_a_daemon_that_a_command_leaves_is_ended_too(tiny, tmp_path):
    tiny.commit(on={"keep": "setsid sleep 4711.5 >/dev/null 2>&1 & exit 0"})
    run(tiny, "answer 20", 1)
    assert gone("sleep 4711.5")


@pytest.mark.slow
def test_the_end_waits_for_a_limited_time_and_ctrl_c_cuts_it_short(tiny, tmp_path):
    tiny.commit(on={"stop": {"command": f"touch {tmp_path}/here; sleep 4711.75", "timeout_seconds": 600}})
    process = subprocess.Popen(
        [*tiny.command, "run", "--tag", "t", "--agent", tiny.agent("answer 20"), "--attempts", "1"],
        cwd=tiny.folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(tmp_path / "here")
    time.sleep(1.5)  # so that it says what it waits for
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Waiting for on.stop, at most 600 s; Ctrl-C goes on without" in said
    assert gone("sleep 4711.75")


@pytest.mark.slow
def test_a_killed_engine_leaves_no_command_behind(tiny, tmp_path):
    tiny.commit(on={"keep": f"touch {tmp_path}/here; setsid sleep 4712.25"})
    process = subprocess.Popen(
        [*tiny.command, "run", "--tag", "t", "--agent", tiny.agent("answer $((TURN * 20)); sleep 0.2")],
        cwd=tiny.folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(tmp_path / "here")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert gone("sleep 4712.25")


@pytest.mark.slow
def test_a_slow_command_is_given_up_in_the_end_and_the_run_never_waits(tiny):
    tiny.commit(on={"keep": {"command": "sleep 30", "timeout_seconds": 1}})
    done = run(tiny, "answer $((TURN * 20))", 40)
    assert done.returncode == 0, done.stderr
    assert len(tiny.log()) == 41
    assert "on.keep: " in done.stderr and "messages were given up" in done.stderr


def ledger(tiny) -> list[str]:
    """The messages of a run's commits, without what a clock or chance decides, and their trees."""
    refs = tiny.git("for-each-ref", "--format=%(refname)", "refs/ark/t/").split()
    texts = [tiny.git("show", "-s", "--format=%T%n%B", ref) for ref in refs]
    clock = ("Ark-Seconds", "Ark-Started", "Ark-Also", "Ark-Seeds", "Ark-Cost", "Ark-Measurement")
    return ["\n".join(line for line in text.split("\n") if not line.startswith(clock)) for text in texts]


@pytest.mark.slow
def test_the_ledger_is_the_same_with_and_without(tiny, box, tmp_path):
    other = type(tiny)(shutil.copytree(tiny.root, tmp_path / "other" / "user"), tmp_path / "other")
    other.spec(on={**box.all(), "keep": "sleep 2", "best": "exit 1"})  # not committed: it is read as it lies there
    for one in (tiny, other):
        assert run(one, SCRIPT).returncode == 0
    assert len(box.of("stop")) == 1
    assert ledger(tiny) == ledger(other)


@pytest.mark.slow
def test_a_rehearsal_tells_nobody(tiny, box):
    tiny.commit(on=box.all())
    done = tiny.ark("rehearse", "--attempts", "5")
    assert done.returncode == 0, done.stderr
    assert list(box.folder.iterdir()) == []
