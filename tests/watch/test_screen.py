"""`ark watch` in a real terminal, and what it prints on a pipe.   pytest tests/watch/test_screen.py"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.records import Attempt, Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.core.spec import Budget
from autoresearch_kit.lab.live import Live
from autoresearch_kit.watch.curve import Curve
from autoresearch_kit.watch.left import Left
from autoresearch_kit.watch.lines import Painter
from autoresearch_kit.watch.state import Picture
from tests.watch.conftest import SLOW_RUN, Terminal, wait_for

Tiny = Any
Watch = Callable[..., Terminal]
Engine = Callable[..., subprocess.Popen[bytes]]
HIDE, SHOW, ALT_ON, ALT_OFF = b"\x1b[?25l", b"\x1b[?25h", b"\x1b[?1049h", b"\x1b[?1049l"
CLEAR = b"\x1b[2J"
NOW = 1_795_000_000.0
EVIL = "\x1b[2J\x1b]0;pwned\x07\u202edne\x00" + "W\u0303\N{FIRE}表" * 300


def slow(tiny: Tiny) -> str:
    """An agent whose attempts take a hundred seconds and tell of each step."""
    tiny.write("slow.sh", SLOW_RUN.format(steps=2000))
    tiny.commit(budget_minutes=2, timeout_minutes=5)
    agent: str = tiny.agent("cat slow.sh > train.sh; title 'slow: it takes its time'")
    return agent


# In a terminal


@pytest.mark.slow
def test_a_running_attempt_fits_a_terminal_of_80_by_24(tiny: Tiny, watch: Watch, engine: Engine) -> None:
    engine("--tag", "t", "--agent", slow(tiny), "--attempts", "9")
    terminal = watch("--tag", "t")
    terminal.until("attempt 1: the experiment runs")
    screen = terminal.until("loss by step, attempt 1")
    for text in (
        "tiny  run t  on autoresearch/t", "running", "tries: slow: it takes its time (by command)",
        "score 10 (attempt 0)", "0 attempts: 0 kept", "left: 9 attempts", "the end of run.log", "of 2:00 min", "step ",
        "verdicts", "0  keep", "q ends this view",
    ):  # fmt: skip
        assert text in screen, screen
    rows = screen.split("\n")
    assert "q ends this view" in rows[-1] and "run t" in rows[0] and rows[0].rstrip().endswith("running")
    terminal.type(b"q")
    assert terminal.end() == 0
    assert terminal.raw.count(ALT_ON) == terminal.raw.count(ALT_OFF) == 1
    assert terminal.raw.rindex(SHOW) > terminal.raw.rindex(HIDE)


@pytest.mark.slow
def test_the_run_is_not_touched_by_who_watches(tiny: Tiny, watch: Watch, engine: Engine) -> None:
    process = engine("--tag", "t", "--agent", slow(tiny))
    terminal = watch()
    terminal.until("attempt 1: the experiment runs")
    terminal.type(b"\x03")
    assert terminal.end() == 0
    assert process.poll() is None


@pytest.mark.slow
def test_a_killed_engine_is_told_and_the_view_stays_and_goes_on(tiny: Tiny, watch: Watch, engine: Engine) -> None:
    agent = slow(tiny)
    process = engine("--tag", "t", "--agent", agent)
    terminal = watch()
    terminal.until("attempt 1: the experiment runs")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    screen = terminal.until("killed?")
    assert "not running" in screen and f"{process.pid}, is gone" in screen
    engine("--tag", "t", "--agent", agent)
    terminal.until("the experiment runs")
    terminal.type(b"q")
    assert terminal.end() == 0


@pytest.mark.slow
def test_a_run_that_begins_later_is_waited_for_and_its_end_is_told(tiny: Tiny, watch: Watch, engine: Engine) -> None:
    terminal = watch("--tag", "t")
    terminal.until("There is no run t yet")
    engine("--tag", "t", "--agent", tiny.agent("answer 11; sleep 1"), "--attempts", "1").wait()
    screen = terminal.until("it ended at")
    assert "1 attempts made, as asked" in screen and "1 attempt: 1 kept" in screen
    terminal.type(b"q")
    assert terminal.end() == 0


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (60, 15), (20, 4), (1, 1), (200, 60)])
def test_every_size_and_each_change_of_it(tiny: Tiny, watch: Watch, size: tuple[int, int]) -> None:
    tiny.play("answer 1$TURN; title 'a title that is a good deal longer than any terminal is wide: '$(seq 99)", 6)
    terminal = watch("--tag", "t")
    terminal.until("q ends this view")
    terminal.resize(*size)
    wait_for(lambda: "run t" in terminal.look() if size[0] > 20 else terminal.look() and terminal.raw.count(CLEAR) > 1)
    terminal.resize(80, 24)
    wait_for(lambda: "q ends this view" in terminal.look().split("\n")[-1] and "run t" in terminal.look())
    assert terminal.look().count("q ends this view") == 1
    terminal.type(b"q")
    assert terminal.end() == 0


@pytest.mark.slow
def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it(tiny: Tiny, watch: Watch) -> None:
    tiny.play("answer 11", attempts=1)
    terminal = watch("--tag", "t")
    terminal.until("q ends this view")
    os.kill(terminal.pid, signal.SIGTSTP)
    wait_for(lambda: terminal.look() is not None and terminal.raw.count(ALT_OFF) == 1)
    wait_for(lambda: _state(terminal.pid) == "T")
    os.kill(terminal.pid, signal.SIGCONT)
    wait_for(lambda: terminal.look() is not None and terminal.raw.count(ALT_ON) == 2)
    terminal.until("q ends this view")
    terminal.type(b"q")
    assert terminal.end() == 0


def _state(pid: int) -> str:
    done = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True)
    return done.stdout.strip()[:1]


@pytest.mark.slow
def test_the_keyboard_is_as_it_was(tiny: Tiny, watch: Watch) -> None:
    tiny.play("answer 11", attempts=1)
    terminal = watch("--tag", "t")
    before = termios.tcgetattr(terminal._terminal)
    terminal.until("q ends this view")
    assert not termios.tcgetattr(terminal._terminal)[3] & termios.ICANON
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.end() == 0
    assert terminal.raw.count(ALT_ON) == terminal.raw.count(ALT_OFF) == 1
    assert before[3] & termios.ICANON


@pytest.mark.slow
def test_without_colour_there_is_none(tiny: Tiny, watch: Watch) -> None:
    tiny.play("answer 1$TURN", attempts=2)
    terminal = watch("--tag", "t", NO_COLOR="1")
    terminal.until("q ends this view")
    assert not re.search(rb"\x1b\[[0-9;]*3[0-7]m", bytes(terminal.raw))
    terminal.type(b"q")
    terminal.end()


@pytest.mark.slow
def test_a_terminal_that_knows_no_unicode_is_sent_none(tiny: Tiny, watch: Watch) -> None:
    tiny.play("answer 1$TURN", attempts=3)
    terminal = watch("--tag", "t", PYTHONIOENCODING="ascii")
    terminal.until("q ends this view")
    terminal.until("score by attempt")
    assert bytes(terminal.raw).isascii() and "\\u" not in terminal.look()
    terminal.type(b"q")
    assert terminal.end() == 0


@pytest.mark.slow
def test_trouble_with_the_repository_is_told_and_ends_nothing(tiny: Tiny, watch: Watch) -> None:
    tiny.play("answer 11", attempts=1)
    terminal = watch("--tag", "t")
    terminal.until("q ends this view")
    (tiny.root / ".git" / "objects").rename(tiny.tmp / "objects")
    tiny.root.joinpath(".git/refs/ark/t/0009").write_text("0" * 40)  # reason to look
    terminal.until("trouble: ")
    (tiny.tmp / "objects").rename(tiny.root / ".git" / "objects")
    tiny.root.joinpath(".git/refs/ark/t/0009").unlink()
    wait_for(lambda: "trouble: " not in terminal.look())
    terminal.type(b"q")
    assert terminal.end() == 0


@pytest.mark.slow
def test_a_dumb_terminal_gets_one_picture(tiny: Tiny, watch: Watch) -> None:
    tiny.play("answer 11", attempts=1)
    terminal = watch("--tag", "t", TERM="dumb")
    assert terminal.end() == 0
    assert b"run t" in terminal.raw and ALT_ON not in terminal.raw


# On a pipe


def test_on_a_pipe_it_is_one_picture(tiny: Tiny) -> None:
    tiny.play("answer 1$TURN; title 'more: than before'", attempts=3)
    done = tiny.ark_here("watch")
    assert done.returncode == 0 and "\x1b" not in done.stdout
    for text in (
        "run t",
        "not running",
        "score 13 (attempt 3)",
        "3 attempts: 3 kept",
        "it ended at",
        "more: than before",
    ):
        assert text in done.stdout
    assert tiny.ark_here("watch", "--once", "--tag", "t").stdout.count("\n") == done.stdout.count("\n")


def test_on_a_pipe_nothing_is_waited_for(tiny: Tiny) -> None:
    for words, text in ((["watch"], "there is no run of this project yet"), (["watch", "--tag", "x"], "called x")):
        done = tiny.ark_here(*words)
        assert done.returncode == 2 and text in done.stderr and done.stdout == ""


@pytest.mark.parametrize("words", [["--port", "80"], ["--web", "--once"], ["--web", "--port", "99999"]])
def test_options_that_do_not_fit_are_refused(tiny: Tiny, words: list[str]) -> None:
    done = tiny.ark_here("watch", *words)
    assert done.returncode == 2 and "Error" in done.stderr


@pytest.mark.slow
def test_the_benchmark_runs_and_prints_its_table(tmp_path: Path) -> None:
    """That it still fits; how much it was is for people to read."""
    script = Path(__file__).parents[2] / "benchmarks" / "watch.py"
    order = [sys.executable, str(script), "--seconds", "1", "--warm", "1", "--attempts", "20"]
    done = subprocess.run(order, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header, *rows, last = done.stdout.splitlines()
    assert header.startswith("run") and len(rows) == 5 and last == "target: less than 3 %"


# Lines


def attempt(number: int, value: float | None, outcome: Outcome, title: str = "t", reason: str = "") -> Attempt:
    samples = (Measurement(value, problem="" if value is not None else "exit: 1", seconds=3.0),)
    verdict = Verdict(outcome, reason or f"{outcome}: why", gain=0.1 if number else None)
    proposal, started = Proposal(title, agent="a"), f"2026-11-21T01:{number:02d}:00.000Z"
    known = None if outcome is Outcome.RUNNING else verdict
    return Attempt(number, "c", "p", "t", proposal, samples, known, started, "")


def picture(*attempts: Attempt, **changes: Any) -> Picture:
    campaign = Campaign(changes.pop("name", "nov21"), attempts, changes.pop("metric", "loss"), False, branch="b/nov21")
    counts = Counter(a.outcome for a in attempts if not a.is_baseline)
    return Picture(campaign, NOW, counts=counts, **changes)


FULL = picture(
    *[attempt(i, 1 - i / 100, Outcome.KEEP if i % 3 == 0 else Outcome.DISCARD) for i in range(20)],
    at_work=True,
    live=Live(
        number=20, title="lr: up", agent="claude", phase="run", began=NOW - 42, limit_seconds=300.0, done=2,
        of_head=True, budget=Budget(target=0.5), notes=((NOW - 60, "The agent is rate limited"),),
    ),
    left=Left(7, 1.5, 4, 2.5, 10_000),
    rate=11.2,
    lines=tuple(f"step {i} loss 3" for i in range(60)),
    log="run.log",
    curve=Curve("loss", "step", tuple((float(i), 5 - i / 50) for i in range(200))),
    curve_number=20,
)  # fmt: skip
PICTURES = {
    "full": FULL,
    "nothing": Picture(None, NOW),
    "empty": picture(),
    "one": picture(attempt(0, 1.0, Outcome.KEEP)),
    "no baseline": picture(attempt(0, None, Outcome.RUNNING), at_work=True),
    "all crashes": picture(attempt(0, 1.0, Outcome.KEEP), *[attempt(i, None, Outcome.CRASH) for i in range(1, 9)]),
    "tiny differences": picture(*[attempt(i, 1 - i * 1e-9, Outcome.KEEP) for i in range(9)]),
    "huge": picture(*[attempt(i, (-1) ** i * 10.0 ** (30 * i), Outcome.KEEP) for i in range(9)]),
    "evil": picture(
        *[attempt(i, 1.0, Outcome.KEEP, EVIL, EVIL) for i in range(9)], name=EVIL, metric=EVIL,
        at_work=True, lines=("表" * 500, "x" * 400), log="y" * 300,
        live=Live(phase="p" * 40, number=10**9, title="表" * 300, agent="z" * 300, notes=((NOW, "n" * 300),)),
    ),
    "killed": picture(attempt(0, 1.0, Outcome.KEEP), last=Live(pid=77)),
    "silent": picture(attempt(0, 1.0, Outcome.KEEP), at_work=True),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("unicode", [True, False])
def test_a_picture_fits_every_terminal(name: str, unicode: bool) -> None:
    painter = Painter(unicode)
    for width in (1, 2, 7, 20, 60, 79, 80, 115, 116, 120, 250):
        for height in (1, 2, 3, 5, 8, 15, 24, 25, 44, 90):
            lines = painter.lines(PICTURES[name], width, height, "there is none yet: wait " * 3)
            assert len(lines) == height
            assert all(line.cell_len <= width and "\n" not in line.plain for line in lines), (width, height)
            assert not any(ord(c) < 32 or ord(c) == 127 for line in lines for c in line.plain)
    if PICTURES[name].campaign:
        assert painter.snapshot(PICTURES[name])


def plain(lines: list[Text]) -> str:
    return "\n".join(line.plain for line in lines)


def test_a_full_picture_at_80_by_24_shows_each_of_its_parts():
    shown = plain(Painter().lines(FULL, 80, 24))
    for text in (
        "attempt 20, run 3 (the head, in turn): the experiment runs", "42 s of 5:00 min", "tries: lr: up (by claude)",
        "loss 0.82 (attempt 18), 18 % better than the baseline; target 0.5", "11.2 an hour",
        "left: 7 attempts, 1.5 h, 4 without a keep", "rate limited", "loss by step, attempt 20: 1.02",
        "the end of run.log", "step 59 loss 3", "verdicts", "  19  discard",
    ):  # fmt: skip
        assert text in shown, shown


def test_the_state_is_told_without_colour():
    for one, text in (
        (PICTURES["silent"], "does not say what it does"),
        (PICTURES["killed"], "77, is gone without a word: killed? to go on: ark run --tag nov21"),
        (picture(attempt(0, 1.0, Outcome.KEEP), last=Live(ended=1.0, reason="as asked")), ": as asked"),
        (PICTURES["no baseline"], "measuring the baseline"),
        (PICTURES["empty"], "there is no baseline"),
    ):
        assert text in plain(Painter().lines(one, 100, 24))


def test_both_charts_are_shown_where_there_is_room():
    wide = plain(Painter().lines(FULL, 140, 40))
    assert "loss by step, attempt 20" in wide and "loss by attempt" in wide
    narrow = plain(Painter().lines(FULL, 80, 24))
    assert "loss by step, attempt 20" in narrow and "loss by attempt" not in narrow


def test_colours_are_only_on_top_of_words():
    line = next(line for line in Painter().lines(FULL, 80, 24) if "  18  keep" in line.plain)
    console = Console(color_system="standard", force_terminal=True)
    with console.capture() as capture:
        console.print(line)
    assert "\x1b[" in capture.get() and "keep" in capture.get()
