"""What there is to see of a run, over real runs.   pytest tests/watch/test_state.py"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoresearch_kit.core.budget import Spent
from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.records import Attempt, Outcome, Proposal
from autoresearch_kit.core.spec import Budget
from autoresearch_kit.core.verification import Arm, Verification
from autoresearch_kit.lab.cache import LIVE
from autoresearch_kit.lab.live import Live, LiveFile
from autoresearch_kit.lab.measure import Phase
from autoresearch_kit.ledger import verified
from autoresearch_kit.project import open_project
from autoresearch_kit.watch.left import Left, left, rate
from autoresearch_kit.watch.lines import Painter, activity_words, at_rest_words, left_words
from autoresearch_kit.watch.log import EACH_BYTES, LINE_CHARACTERS, Log, Logs
from autoresearch_kit.watch.now import now
from autoresearch_kit.watch.state import Picture, Watcher
from tests.watch.conftest import SLOW_RUN, cache_of, wait_for

Tiny = Any
Engine = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def watching(tiny: Tiny) -> Iterator[Callable[..., Watcher]]:
    opened = []

    def start(name: str | None = None) -> Watcher:
        opened.append(open_project(tiny.folder))
        return Watcher(opened[-1], name)

    yield start
    for project in opened:
        project.repository.close()


def slow(tiny: Tiny, steps: int = 2000) -> None:
    """The baseline is quick, and every attempt takes `steps` times 0.05 s."""
    tiny.write("slow.sh", SLOW_RUN.format(steps=steps))
    tiny.commit(budget_minutes=1, timeout_minutes=5)


def test_a_run_that_ended(tiny: Tiny, watching: Callable[..., Watcher]) -> None:
    tiny.play("answer 1$TURN; title 'more: of it'", attempts=3)
    picture = watching().poll()
    assert picture.campaign and picture.campaign.name == "t" and picture.campaign.branch == "autoresearch/t"
    assert not picture.at_work and picture.live is None
    assert picture.last and picture.last.ended and picture.last.pid == os.getpid()
    assert picture.counts == {Outcome.KEEP: 3} and len(picture.campaign.attempts) == 4
    assert picture.lines == () and picture.curve is None
    assert picture.spent and picture.spent.attempts == 3


def test_nothing_to_see_is_waited_for(tiny: Tiny, watching: Callable[..., Watcher]) -> None:
    any_run, named = watching(), watching("later")
    assert any_run.poll().campaign is None and named.poll().campaign is None
    tiny.play("answer 11", attempts=1, tag="later")
    for watcher in (any_run, named):
        picture = watcher.poll()
        assert picture.campaign and picture.campaign.name == "later" and len(picture.campaign.attempts) == 2
        assert picture.campaign.spec and picture.campaign.spec.name == "tiny"


@pytest.mark.slow
def test_a_run_is_seen_before_it_has_a_baseline(tiny: Tiny, watching: Callable[..., Watcher], engine: Engine) -> None:
    watcher = watching()
    tiny.commit(setup_command="sleep 60", budget_minutes=1, timeout_minutes=2)
    assert watcher.poll().campaign is None
    engine("--tag", "t", "--agent", "true")
    wait_for(lambda: watcher.poll().live and watcher.poll().live.phase == "setup")
    picture = watcher.poll()
    assert picture.at_work and picture.campaign and picture.campaign.name == "t"
    assert picture.campaign.attempts == () and picture.next_number == 0


@pytest.mark.slow
def test_a_running_experiment_with_its_log_curve_and_budget(
    tiny: Tiny, watching: Callable[..., Watcher], engine: Engine
) -> None:
    slow(tiny)
    watcher = watching("t")
    agent = tiny.agent("cat slow.sh > train.sh; title 'slow: twenty steps a second'")
    tiny.commit(budget={"attempts": 7, "money": 4}, budget_minutes=1, timeout_minutes=5)
    engine("--tag", "t", "--agent", agent, "--attempts", "3", "--hours", "2")
    found: list[Picture] = []

    def shows() -> bool:
        found.append(watcher.poll())
        return len(found[-1].lines) > 5

    wait_for(shows)
    picture = found[-1]
    assert picture.live and (picture.live.phase, picture.live.number) == ("run", 1)
    assert picture.live.title == "slow: twenty steps a second" and picture.live.agent == "command"
    assert picture.live.limit_seconds == 60 and 0 <= picture.elapsed_seconds < 60
    assert picture.log == "run.log" and picture.lines[-1].startswith("step ")
    assert picture.curve and (picture.curve.name, picture.curve_number) == ("loss", 1)
    assert (picture.left.attempts, picture.left.money) == (3, 4.0)
    assert picture.left.hours and 1.9 < picture.left.hours <= 2.0
    assert picture.campaign and picture.campaign.attempts[-1].verdict is None
    before = len(picture.curve.points)
    wait_for(lambda: (curve := watcher.poll().curve) and len(curve.points) > before)


@pytest.mark.slow
def test_an_engine_that_is_killed_leaves_a_picture_that_says_so(
    tiny: Tiny, watching: Callable[..., Watcher], engine: Engine
) -> None:
    slow(tiny)
    watcher = watching("t")
    process = engine("--tag", "t", "--agent", tiny.agent("cat slow.sh > train.sh"))
    wait_for(lambda: (live := watcher.poll().live) and live.number == 1 and live.phase == "run")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not watcher.poll().at_work)
    picture = watcher.poll()
    assert picture.live is None and picture.last and picture.last.ended is None
    assert picture.last.pid == process.pid and picture.campaign and len(picture.campaign.attempts) == 2
    # Taken up again, it is watched on.
    engine("--tag", "t", "--agent", "true")
    wait_for(lambda: (live := watcher.poll().live) and live.pid != process.pid)


@pytest.mark.slow
def test_without_a_name_the_run_at_work_is_shown_as_soon_as_there_is_one(
    tiny: Tiny, watching: Callable[..., Watcher], engine: Engine
) -> None:
    tiny.play("answer 11", attempts=1, tag="monday")
    watcher, old = watching(), watching("monday")
    assert watcher.poll().campaign.name == "monday"
    slow(tiny)
    engine("--tag", "tuesday", "--agent", tiny.agent("cat slow.sh > train.sh"))
    wait_for(lambda: watcher.poll().campaign.name == "tuesday")
    assert old.poll().campaign.name == "monday"


def test_a_fetched_run_has_nothing_that_goes_on(tiny: Tiny, watching: Callable[..., Watcher]) -> None:
    tiny.play("answer 1$TURN", attempts=2)
    for number in ("0000", "0001", "0002"):
        tiny.git("update-ref", f"refs/ark-remotes/origin/{number and 't'}/{number}", f"refs/ark/t/{number}")
    picture = watching("origin/t").poll()
    assert picture.campaign and picture.campaign.name == "origin/t" and len(picture.campaign.attempts) == 3
    assert not picture.at_work and picture.last is None and picture.live is None
    shown = [line.plain for line in Painter().snapshot(picture)]
    assert shown[0].endswith(" fetched") and "whether it goes on is known where it was fetched from" in shown[1]
    assert "the last attempt that is here began at 20" in shown[1]
    assert now(picture)["words"] == shown[1]


def test_what_another_loop_left_can_be_looked_at(tiny: Tiny, watching: Callable[..., Watcher]) -> None:
    tiny.write("results.tsv", "commit\tval_bpb\tmemory_gb\tstatus\tdescription\naaa\t0.99\t1\tkeep\tbaseline\n")
    picture = watching(str(tiny.folder / "results.tsv")).poll()
    assert picture.campaign and len(picture.campaign.attempts) == 1 and not picture.at_work


def test_who_holds_a_run_and_says_nothing_is_seen(tiny: Tiny, watching: Callable[..., Watcher]) -> None:
    tiny.play("answer 11", attempts=1)
    watcher = watching("t")
    assert not watcher.poll().at_work
    lock = watcher.poll() and watcher._lock
    assert lock is not None
    other = type(lock)(lock.path, "run t")
    other.acquire()
    picture = watcher.poll()
    assert picture.at_work and picture.live is None and picture.last is None
    assert at_rest_words(picture) == "some process holds this run and does not say what it does"
    assert picture.campaign
    first, head = (Arm(attempt.number, attempt.commit) for attempt in picture.campaign.attempts)
    tree, moment = picture.campaign.attempts[0].tree, "2026-11-21T09:00:00+00:00"
    begun = Verification("t", "p", "ark.yaml", "m", False, first, head, tree, "y", "here", "1", 12, moment)
    verified.begin(watcher.project.repository, begun)
    watcher._verified = (0.0, False)  # as some seconds later
    assert at_rest_words(watcher.poll()) == "`ark verify` measures baseline and head anew"
    other.release()
    assert not watcher.poll().at_work


def test_the_cache_may_be_gone_or_full_of_traps(tiny: Tiny, watching: Callable[..., Watcher]) -> None:
    tiny.play("answer 11", attempts=1)
    watcher = watching("t")
    assert watcher.poll().last
    cache = cache_of(tiny)
    (cache / LIVE).write_bytes(b"\xff" * 1000)
    assert watcher.poll().last is None
    shutil.rmtree(cache)
    assert watcher.poll().campaign
    cache.symlink_to("/etc")
    assert watcher.poll().last is None


def test_a_name_that_can_never_be_is_a_sentence(tiny: Tiny, watching: Callable[..., Watcher]) -> None:
    done = tiny.ark_here("watch", "--tag", "no such name!")
    assert done.returncode == 2 and "there is no run, branch or file called no such name!" in done.stderr


@pytest.mark.slow
def test_the_version_changes_with_the_attempts_alone(tiny: Tiny, watching: Callable[..., Watcher]) -> None:
    tiny.play("answer 11", attempts=1)
    watcher = watching("t")
    first = watcher.poll().version
    assert watcher.poll().version == first
    tiny.play("answer 1$TURN", attempts=2)
    assert (picture := watcher.poll()).version > first
    assert picture.campaign and [a.number for a in picture.campaign.attempts] == [0, 1, 2, 3]
    assert picture.spent and picture.spent.attempts == 3


# Logs


@pytest.fixture
def log(tmp_path: Path) -> tuple[Log, Path]:
    return Log(tmp_path, "logs/x.log", "loss"), tmp_path / "logs" / "x.log"


def test_a_log_that_grows_is_read_on(log: tuple[Log, Path]) -> None:
    looked, path = log
    assert not looked.poll() and looked.tail() == ()
    path.parent.mkdir()
    path.write_text("one\ntwo\nthr")
    assert looked.poll() and looked.tail() == ("one", "two", "thr")
    assert not looked.poll()
    with path.open("a") as file:
        file.write("ee\n\n  four\tx\n")
    assert looked.poll() and looked.tail() == ("one", "two", "three", "  four  x")


def test_what_a_terminal_would_show_is_shown_and_nothing_else(log: tuple[Log, Path]) -> None:
    looked, path = log
    path.parent.mkdir()
    path.write_bytes(
        b"10%\r 50%\r100%\ngone\r\n\x1b[31mred\x1b[0m\x07\x1b]0;title\x07!\n\xff\xfe\n\xe2\x80\xae\x00evil"
        + b"x" * 9999
    )
    looked.poll()
    lines = looked.tail()
    assert lines[:3] == ("100%", "gone", "red!")
    assert all(line.isprintable() and len(line) <= LINE_CHARACTERS for line in lines)
    assert lines[-1].startswith("evil")


def test_a_flood_is_sampled_and_its_end_is_there(log: tuple[Log, Path]) -> None:
    looked, path = log
    path.parent.mkdir()
    path.write_text("")
    looked.poll()
    with path.open("a") as file:
        file.write("".join(f"step {i} loss: {i}\n" for i in range(50_000)))
    assert path.stat().st_size > 4 * EACH_BYTES
    looked.poll()
    assert looked.tail()[-1] == "step 49999 loss: 49999"
    assert (curve := looked.curve()) and curve.points[-1] == (49_999.0, 49_999.0)


def test_a_log_that_was_cut_is_read_anew(log: tuple[Log, Path]) -> None:
    looked, path = log
    path.parent.mkdir()
    path.write_text("".join(f"step {i} loss: 1\n" for i in range(50)))
    looked.poll()
    new = path.with_name("new")
    new.write_text("[ark: 900 bytes of earlier output were cut here]\nstep 50 loss: 2\n")
    new.replace(path)
    assert looked.poll() and looked.tail()[-1] == "step 50 loss: 2"
    assert (curve := looked.curve()) and len(curve.points) == 51


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "way"])
def test_no_trap_is_read(log: tuple[Log, Path], kind: str) -> None:
    looked, path = log
    secret = path.parent.parent / "secret"
    secret.mkdir()
    (secret / "x.log").write_text("key")
    if kind == "way":
        path.parent.symlink_to("secret")
    else:
        path.parent.mkdir()
        if kind == "link":
            path.symlink_to(secret / "x.log")
        elif kind == "folder":
            path.mkdir()
        else:
            os.mkfifo(path)
    assert not looked.poll() and looked.tail() == () and looked.curve() is None


def test_what_a_coding_agent_says_is_read_out_of_its_events(log: tuple[Log, Path]) -> None:
    looked, path = log
    path.parent.mkdir()
    said = {"type": "assistant", "message": {"role": "assistant", "content": [{"type": "text", "text": "I raise\nlr"}]}}
    tool = {"type": "item.completed", "item": {"id": "1", "type": "command_execution", "command": "sed -i s/1/2/ x"}}
    deep: Any = "x"
    for _ in range(50):
        deep = {"a": deep}
    path.write_text(
        "\n".join(json.dumps(event) for event in (said, tool, {"type": "x", "a": deep}, [1])) + "\n{broken\n"
    )
    looked.poll()
    lines = looked.tail()
    assert lines[:2] == ("assistant: I raise lr", "item.completed: sed -i s/1/2/ x")
    assert lines[-1] == "{broken"


def test_a_curve_stays_until_the_next_experiment_shows_one(tmp_path: Path) -> None:
    logs = Logs(tmp_path, "bench/run.log", "score")
    (tmp_path / "logs").mkdir()
    (tmp_path / "bench").mkdir()

    def look(phase: str, number: int, text: str, of_head: bool = False) -> tuple[int | None, int]:
        (tmp_path / "bench/run.log").write_text(text)
        done = int(of_head)
        began, log = number + done / 2, f"{number}.{phase}.log"
        logs.look(Live(phase=phase, number=number, began=began, log=log, done=done, of_head=of_head))
        curve, of, is_head = logs.curve()
        assert is_head == (of_head and curve is not None and len(curve.points) == 4)
        return of, len(curve.points) if curve else 0

    assert look("run", 1, "step 1 loss 3\n") == (None, 0)
    assert look("run", 1, "step 1 loss 3\nstep 2 loss 2\n") == (1, 2)
    assert look("eval", 1, "step 1 loss 3\nstep 2 loss 2\n") == (1, 2)
    assert look("run", 2, "step 1 loss 3\n") == (1, 2)
    assert look("run", 2, "step 1 loss 3\nstep 2 loss 2\nstep 3 loss 2\n") == (2, 3)
    (tmp_path / "bench/run.log").unlink()
    assert look("run", 2, "", of_head=True) == (2, 3), "the head's own is not there yet"
    assert look("run", 2, "".join(f"step {i} loss {i}\n" for i in range(4)), of_head=True) == (2, 4)
    logs.look(Live(phase="agent", began=9.0, log="3.agent.log"))
    assert logs.curve()[1:] == (2, True)


# How far it goes


def at(*moments: str) -> list[Attempt]:
    return [Attempt(i, "", "", "", Proposal("t"), (), None, moment, "") for i, moment in enumerate(moments)]


def test_a_pause_between_two_calls_is_no_part_of_the_rate():
    steady = at(*(f"2026-11-21T01:{minute:02d}:00.000Z" for minute in range(0, 50, 5)))
    assert rate(steady) == pytest.approx(12)
    later = at(*(f"2026-11-23T09:{minute:02d}:00.000Z" for minute in range(0, 50, 5)))
    assert rate([*steady, *later]) == pytest.approx(12)


def test_where_the_times_tell_nothing_there_is_no_rate():
    assert rate([]) is None and rate(at("2026-11-21T01:00:00Z")) is None
    assert rate(at("", "", "")) is None and rate(at("yesterday", "today", "now")) is None
    assert rate(at(*["2026-11-21T01:00:00.000Z"] * 5)) is None


SPENT = Spent(made=2, hours=1.0, attempts=40, since_keep=12, money=1.5, best=0.9, tokens=100)


@pytest.mark.parametrize(
    ("call", "budget", "expected"),
    [
        ({"attempts": 5}, {}, {"attempts": 3}),
        ({"attempts": 5}, {"attempts": 41}, {"attempts": 1}),
        ({"hours": 3.0}, {"hours": 2}, {"hours": 1.0}),
        ({}, {"patience": 20, "money": 2, "tokens": 1000}, {"patience": 8, "money": 0.5, "tokens": 900}),
        ({}, {"attempts": 30, "money": 1}, {"attempts": 0, "money": 0.0}),
        ({}, {}, {}),
    ],
)
def test_the_nearest_limit_counts(call: dict[str, Any], budget: dict[str, Any], expected: dict[str, Any]) -> None:
    live = replace(Live(counted=1.0), **call)
    found = left(live, Budget(**budget), SPENT)
    assert {name: value for name in found.__slots__ if (value := getattr(found, name)) is not None} == expected


def test_time_is_left_only_while_somebody_works():
    assert left(None, Budget(hours=2), SPENT).hours is None
    assert left(Live(), Budget(hours=2), SPENT).hours is None


def test_when_it_ends_is_told_by_attempts_or_time():
    found = left(Live(counted=1.0, attempts=32, hours=9.0), Budget(), SPENT)
    assert found.expected_hours(10.0) == 3.0 and found.expected_hours(1.0) == 8.0
    assert found.expected_hours(None) == 8.0
    assert left(None, Budget(), SPENT).expected_hours(10.0) is None


@pytest.mark.parametrize(
    ("attempts", "rate", "words"),
    [
        (1, 180.0, "left: 1 attempt; done in about 20 s"),
        (9, 60.0, "left: 9 attempts; done in about 9 min"),
        (90, 30.0, "left: 90 attempts; done in about 3.0 h"),
    ],
)
def test_what_is_left_in_words(attempts: int, rate: float, words: str) -> None:
    assert left_words(Picture(None, 0.0, at_work=True, left=Left(attempts), rate=rate)) == words


def test_whose_turn_it_is_and_that_an_agent_rests() -> None:
    def said(**live: Any) -> str:
        picture = Picture(Campaign("t", (), "m", False), 9.0, at_work=True, live=Live(**live))
        assert now(picture)["words"] == activity_words(picture)
        return activity_words(picture)

    assert said(phase="agent", agent="claude") == "attempt 0: the agent thinks (claude)"
    assert said(phase="rest", agent="pi") == "attempt 0: the agent waits for its rate limit to end (pi)"
    assert said(phase="run", agent="pi", number=3) == "attempt 3: the experiment runs"


def test_nothing_is_written_by_looking(tiny: Tiny, watching: Callable[..., Watcher]) -> None:
    tiny.play("answer 11", attempts=1)

    def everything() -> dict[str, tuple[int, int]]:
        found = [*tiny.root.rglob("*"), *tiny.cache.rglob("*")]
        return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in found if not path.is_dir()}

    before = everything()
    watcher = watching("t")
    for _ in range(3):
        watcher.poll()
    assert everything() == before


def test_a_state_of_another_run_s_log_reads_no_file_outside(tiny: Tiny, watching: Callable[..., Watcher]) -> None:
    """What the file says of itself is written by whoever can: it leads nowhere but into the folder of logs."""
    tiny.play("answer 11", attempts=1)
    watcher = watching("t")
    watcher.poll()
    assert watcher._lock is not None
    other = type(watcher._lock)(watcher._lock.path, "run t")
    other.acquire()
    live = LiveFile()
    live.open(cache_of(tiny), "autoresearch-config.yaml", "t", Budget())
    (cache_of(tiny) / "prompt.md").write_text("secret")
    live.phase(Phase("agent", 10.0, Path("prompt.md")))
    assert watcher.poll().lines == ()
    other.release()


def test_a_broken_ref_is_a_sentence(tiny: Tiny) -> None:
    tiny.git("update-ref", "refs/ark/t/0000", "HEAD")
    done = tiny.ark_here("watch")
    assert done.returncode == 1 and "refs/ark/t/0000" in done.stderr and "Traceback" not in done.stderr


# Whoever drives


@pytest.mark.slow
def test_an_agent_that_drives_is_seen_to_think_and_its_attempts_to_run(
    tiny: Tiny, watching: Callable[..., Watcher], engine: Engine
) -> None:
    slow(tiny)
    script = "sleep 1; cat slow.sh > train.sh; ark try -m 'slow: by the agent'"
    tiny.commit(agent={"command": tiny.agent(script), "drive": "agent"}, budget_minutes=1, timeout_minutes=5)
    watcher, phases = watching("t"), []
    engine("--tag", "t", "--attempts", "4")

    def seen() -> list[tuple[str, int | None]]:
        if live := watcher.poll().live:
            phases.append((live.phase, live.number))
        return phases

    wait_for(lambda: ("agent", None) in seen())
    assert (live := watcher.poll().live) and live.limit_seconds is None
    wait_for(lambda: ("run", 1) in seen())
    wait_for(lambda: len(watcher.poll().lines) > 3)
    picture = watcher.poll()
    assert picture.live and picture.live.title == "slow: by the agent" and picture.left.attempts == 4


@pytest.mark.slow
def test_what_a_person_s_agent_asks_for_by_hand_is_seen(tiny: Tiny, watching: Callable[..., Watcher]) -> None:
    slow(tiny)
    desk = Path(tiny.ark("desk", "--tag", "t").stdout.strip())
    watcher = watching()
    assert not watcher.poll().at_work and (last := watcher.poll().last) and last.ended
    shutil.copy(desk / "slow.sh", desk / "train.sh")
    asked = subprocess.Popen([*tiny.command, "try", "-m", "slow: by hand"], cwd=desk, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(watcher.poll().lines) > 3)
        picture = watcher.poll()
        assert picture.live and (picture.live.phase, picture.live.title) == ("run", "slow: by hand")
        assert picture.live.pid != asked.pid and picture.campaign and picture.campaign.name == "t"
    finally:
        asked.send_signal(signal.SIGINT)
        asked.wait(60)
    wait_for(lambda: not watcher.poll().at_work)
    assert (last := watcher.poll().last) and last.ended
