"""Real processes, one property each.   pytest tests/lab/test_processes.py [-m slow]"""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import autoresearch_kit
from autoresearch_kit.lab import guardian, processes
from autoresearch_kit.lab.processes import Command, Finished, Supervisor, tail

PYTHON = f"{sys.executable} -I -S"
NURSE = "$(ps -o ppid= -p $PPID)"
LINUX = sys.platform == "linux"
# Sleeps for long, deaf to TERM, after leaving its pid in the file argv[1]; by the ways given in argv[2:].
STAYER = """
import os, signal, sys, time
for way in sys.argv[2:]:
    if way == "fork" and os.fork(): os._exit(0)
    if way == "child" and os.fork(): os.wait()
    if way == "setsid": os.setsid()
    if way == "group": os.setpgid(0, 0)
    if way == "deaf": signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if way == "quiet": os.dup2(os.open(os.devnull, os.O_WRONLY), 1); os.dup2(1, 2)
with open(sys.argv[1] + ".new", "w") as file: file.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
if "stop" in sys.argv: os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(600)
"""

Run = Callable[..., Finished]


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    with Supervisor() as one:
        yield one


@pytest.fixture
def portable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """What runs where there is no subreaper, such as macOS."""
    monkeypatch.setattr(Supervisor, "_portable", True)
    with Supervisor() as one:
        yield one


@pytest.fixture
def run(supervisor: Supervisor, tmp_path: Path) -> Run:
    return lambda command, **more: supervisor.run(order(tmp_path, command, **more))


def order(folder: Path, command: str, timeout: float = 60, **more: Any) -> Command:
    (folder / "stayer.py").write_text(STAYER)
    env = more.pop("env", {"PATH": os.environ["PATH"]})
    return Command(command, folder, env, folder / "log", timeout, **more)


def stayer(name: str, *ways: str) -> str:
    return f"{PYTHON} stayer.py {name} {' '.join(ways)}"


def until(*names: str) -> str:
    return f"while ! ls {' '.join(names)} > /dev/null 2>&1; do sleep 0.01; done"


def pid_in(file: Path, seconds: float = 10) -> int:
    deadline = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < deadline, f"{file} never came"
        time.sleep(0.01)
    return int(file.read_text())


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(*pids: int, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while any(alive(x) for x in pids):
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.01)


# How a command ends


def test_success_has_no_problem(run: Run) -> None:
    done = run("true")
    assert (done.exit_code, done.signal, done.problem, done.detail) == (0, "", "", "")


def test_exit_code(run: Run) -> None:
    done = run("exit 7")
    assert (done.exit_code, done.signal, done.problem, done.detail) == (7, "", "exit", "exit code 7")


def test_death_by_a_signal(run: Run) -> None:
    done = run("kill -SEGV $$")
    assert (done.exit_code, done.signal, done.problem, done.detail) == (None, "SIGSEGV", "signal", "killed by SIGSEGV")


def test_a_signal_that_the_shell_reports(run: Run) -> None:
    done = run("sh -c 'kill -ABRT $$'; exit $?")
    assert (done.exit_code, done.signal, done.problem) == (128 + signal.SIGABRT, "SIGABRT", "signal")


def test_exit_code_above_every_signal(run: Run) -> None:
    done = run("exit 255")
    assert (done.exit_code, done.signal, done.problem) == (255, "", "exit")


def test_kill_by_somebody_is_not_called_out_of_memory(run: Run) -> None:
    done = run("kill -KILL $$")
    assert (done.signal, done.problem) == ("SIGKILL", "signal")


def test_kill_by_the_kernel_is_called_out_of_memory() -> None:
    assert guardian.classify(signal.SIGKILL, oom_killed=True)["problem"] == "out_of_memory"
    assert guardian.classify(137 << 8, oom_killed=True)["problem"] == "out_of_memory"
    assert guardian.classify(1 << 8, oom_killed=True)["problem"] == "exit"


@pytest.mark.parametrize(
    "broken",
    [{"cwd": Path("/nowhere")}, {"command": "echo \0"}, {"stdin": Path("/nowhere")}, {"log": Path("/nowhere/log")}],
)
def test_what_cannot_start_is_a_result(supervisor: Supervisor, tmp_path: Path, broken: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"command": "true", "cwd": tmp_path, "env": {}, "log": tmp_path / "log"}
    done = supervisor.run(Command(**(usual | broken), timeout_seconds=10))
    assert (done.exit_code, done.problem) == (None, "not_started")
    assert done.detail
    assert supervisor.run(order(tmp_path, "true")).problem == ""


def test_no_process_for_the_guardian_is_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", full)
    with Supervisor() as one:
        done = one.run(order(tmp_path, "true"))
        assert (done.exit_code, done.problem) == (None, "not_started")
        assert done.detail.startswith("the process that watches the command could not be started: ")
        assert os.strerror(errno.EAGAIN) in done.detail
        monkeypatch.undo()
        assert one.run(order(tmp_path, "exit 3")).exit_code == 3


@pytest.mark.parametrize("change", ["g.os.fork = lambda: 1 / 0", "raise MemoryError"])
def test_a_guardian_that_does_not_get_far_is_a_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: str
) -> None:
    with with_guardian(monkeypatch, change) as one:
        done = one.run(order(tmp_path, "true"))
        assert (done.problem, done.exit_code) == ("not_started", None)
        assert done.detail == "the process that watches the command could not be started: it ended with exit code 1"
        monkeypatch.undo()
        assert one.run(order(tmp_path, "exit 3")).exit_code == 3


def test_a_command_too_long_for_the_kernel_is_a_result(run: Run) -> None:
    assert run("true " + "x" * 3_000_000).problem == "not_started"


# What a command is given


def test_environment_is_exact(run: Run, tmp_path: Path) -> None:
    run(f"exec {PYTHON} -c 'import os; print(sorted(os.environb.items()))'", env={"A": "1", "B": "\udcfe ü"})
    seen = dict(eval((tmp_path / "log").read_text()))
    for added in (b"PWD", b"OLDPWD", b"SHLVL", b"_", b"LC_CTYPE"):  # by shells and by Python
        seen.pop(added, None)
    assert seen == {b"A": b"1", b"B": b"\xfe \xc3\xbc"}


def test_the_guardian_does_not_show_our_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MY_API_KEY", "sesame")
    with Supervisor() as one:
        one.run(order(tmp_path, "cat /proc/$PPID/environ; ps eww $PPID"))
    assert "sesame" not in (tmp_path / "log").read_text(errors="replace")


def test_standard_input_is_the_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_text("one\ntwo\n")
    run("cat", stdin=tmp_path / "prompt")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_relative_paths_start_here(supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("desk").mkdir()
    Path("prompt").write_text("hello\n")
    env = {"PATH": os.environ["PATH"]}
    supervisor.run(Command("cat; pwd", Path("desk"), env, Path("log"), 60, stdin=Path("prompt")))
    assert (tmp_path / "log").read_text().splitlines() == ["hello", str((tmp_path / "desk").resolve())]


def test_standard_input_is_empty_without_one(run: Run) -> None:
    assert run("read line").exit_code == 1


def test_no_terminal(run: Run) -> None:
    assert run("(: < /dev/tty) 2>/dev/null").problem == "exit"


def test_a_session_of_its_own(run: Run, tmp_path: Path) -> None:
    run(f"exec {PYTHON} -c 'import os; print(os.getsid(0) == os.getpid() == os.getpgid(0))'")
    assert (tmp_path / "log").read_text() == "True\n"


def test_only_the_standard_files_are_open(run: Run, tmp_path: Path) -> None:
    run(f"exec {PYTHON} -c 'import os; print([x for x in range(3, 200) if os.path.exists(\"/dev/fd/%d\" % x)])'")
    assert eval((tmp_path / "log").read_text()) in ([], [3])  # 3: listing needs one on some systems


def test_signals_are_at_their_defaults(run: Run, tmp_path: Path) -> None:
    script = "import signal; print([x for x in range(1, 32) if signal.getsignal(x) == signal.SIG_IGN])"
    run(f"exec {PYTHON} -c '{script}; print(signal.pthread_sigmask(0, []))'")
    ignored, blocked = (tmp_path / "log").read_text().splitlines()
    assert set(eval(ignored)) <= {signal.SIGPIPE, signal.SIGXFSZ}  # by Python itself
    assert blocked == "set()"


# Measuring


def test_wall_time(run: Run) -> None:
    assert 0.2 <= run("sleep 0.2").wall_seconds < 30


def test_cpu_time_of_a_forked_helper(run: Run) -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    assert 0.2 <= run(f"{PYTHON} -c '{burn}' & sleep 0; wait").cpu_seconds < 3


@pytest.mark.skipif(not LINUX, reason="an orphan's CPU time is known to a subreaper only")
def test_cpu_time_of_an_orphan(run: Run) -> None:
    burn = 'import time\nwhile time.process_time() < 0.2: pass\nopen("done", "w")'
    assert run(f"({PYTHON} -c '{burn}' &); {until('done')}").cpu_seconds >= 0.2


def test_cpu_time_is_not_carried_over(run: Run) -> None:
    run(f"{PYTHON} -c 'import time\nwhile time.process_time() < 0.2: pass'")
    assert run("true").cpu_seconds < 0.15


@pytest.mark.parametrize("command", ["exec {}", "{}; true", "sh -c '{}; true'; true"])
def test_peak_memory_of_one_process(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "eat.py").write_text("x = bytearray(200_000_000); x[::4096] = b'1' * len(x[::4096])")
    done = run(command.format(f"{PYTHON} eat.py"))
    assert done.problem == ""
    assert 190 < done.peak_memory_mb < 260


@pytest.mark.slow
def test_peak_memory_is_a_sum_over_the_tree(run: Run, tmp_path: Path) -> None:
    (tmp_path / "eat.py").write_text(
        "import os, sys, time; x = bytearray(b'1') * 100_000_000; open(sys.argv[1], 'w').close()\n"
        "while not (os.path.exists('a') and os.path.exists('b')): time.sleep(0.01)\n"
        "time.sleep(0.4)"
    )
    # A limit, for then the slowest samples come each tenth of a second.
    assert 190 < run(f"{PYTHON} eat.py a & {PYTHON} eat.py b & wait", memory_mb=1000).peak_memory_mb < 260


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="shared pages are told apart on Linux only")
def test_memory_shared_by_forked_workers_counts_once(run: Run, tmp_path: Path) -> None:
    script = "import os, time; x = bytearray(b'1') * 100_000_000; [os.fork() for _ in range(2)]; time.sleep(0.4)"
    (tmp_path / "eat.py").write_text(script)
    assert 95 < run(f"{PYTHON} eat.py", memory_mb=1000).peak_memory_mb < 190


def test_peak_memory_is_not_carried_over(run: Run, tmp_path: Path) -> None:
    run(f"{PYTHON} -c 'bytearray(b\"1\") * 200_000_000'")
    assert run("true").peak_memory_mb < 100


# Limits


@pytest.mark.slow
@pytest.mark.parametrize(
    "ways",
    [
        (),
        ("stop",),
        ("fork", "setsid", "fork"),
        *(pytest.param(x, marks=pytest.mark.slow) for x in (("group",), ("child",), ("setsid",), ("fork", "setsid"))),
    ],
    ids=str,
)
def test_timeout_ends_everybody(run: Run, tmp_path: Path, ways: tuple[str, ...]) -> None:
    done = run(f"{stayer('pid', *ways)} & {stayer('other', *ways)}; sleep 600", timeout=0.4)
    assert (done.problem, done.detail) == ("timeout", "no end after 0.4 s")
    assert done.wall_seconds >= 0.4
    assert not alive(pid_in(tmp_path / "pid", 0))
    assert not alive(pid_in(tmp_path / "other", 0))


@pytest.mark.slow
def test_timeout_leaves_time_to_tidy_up(run: Run, tmp_path: Path) -> None:
    done = run("trap 'sleep 0.2; echo tidy; exit 0' TERM; while :; do sleep 0.05; done", timeout=0.3)
    assert (done.problem, done.exit_code) == ("timeout", 0)
    assert "tidy" in (tmp_path / "log").read_text()


def deaf(supervisor: Supervisor, tmp_path: Path) -> float:
    """How long after the time-out a tree that is deaf to TERM was gone."""
    begin = time.monotonic()
    command = f"{stayer('daemon', 'fork', 'setsid', 'deaf', 'quiet')}; exec {stayer('pid', 'deaf')}"
    assert supervisor.run(order(tmp_path, command, timeout=0.4)).problem == "timeout"
    assert not alive(pid_in(tmp_path / "pid", 0))
    assert not alive(pid_in(tmp_path / "daemon", 0))
    return time.monotonic() - begin - 0.4


@pytest.mark.slow
def test_who_is_deaf_to_term_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with with_guardian(monkeypatch, "g.GRACE_SECONDS = 0.3") as one:
        assert deaf(one, tmp_path) >= 0.3


@pytest.mark.slow
def test_who_is_deaf_to_term_has_five_seconds(supervisor: Supervisor, tmp_path: Path) -> None:
    assert deaf(supervisor, tmp_path) >= 5


@pytest.mark.parametrize("quiet", ["quiet", "holding-the-log-open"])
def test_a_daemon_does_not_outlive_its_command(run: Run, tmp_path: Path, quiet: str) -> None:
    done = run(f"{stayer('pid', 'fork', 'setsid', 'fork', 'deaf', quiet)}; {until('pid')}; echo end")
    assert done.problem == ""
    assert not alive(pid_in(tmp_path / "pid", 0))
    assert (tmp_path / "log").read_text() == "end\n"


@pytest.mark.skipif(not LINUX, reason="beyond best effort")
@pytest.mark.parametrize("number", [25, pytest.param(200, marks=pytest.mark.slow)])
def test_fork_bomb(run: Run, tmp_path: Path, number: int) -> None:
    """So many at a time, deaf to TERM; each moves on into a new session under a new number again and again."""
    (tmp_path / "bomb.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "start = time.monotonic()\n"
        f"for _ in range({number}):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        while time.monotonic() < start + 8:\n"
        "            if os.fork(): os._exit(0)\n"
        "            os.setsid()\n"
        "            time.sleep(0.05)\n"
        "        open('survived', 'w').close()\n"
        "        os._exit(0)\n"
        "open('ready', 'w').close()\n"
    )
    done = run(f"{PYTHON} {tmp_path}/bomb.py; [ -e ready ]")
    assert (done.problem, done.detail) == ("", "")
    assert not [x for x in psutil.process_iter(["cmdline"]) if f"{tmp_path}/bomb.py" in (x.info["cmdline"] or [])]
    assert not (tmp_path / "survived").exists()


@pytest.mark.skipif(not LINUX, reason="beyond best effort")
@pytest.mark.parametrize("end", ["exit 0", "kill -9 $PPID"])
def test_who_moves_on_under_a_new_number_all_the_time(run: Run, tmp_path: Path, end: str) -> None:
    """The last of them was once never caught: the list was old by the time it had been read."""
    (tmp_path / "hop.py").write_text(
        "import os, time\n"
        "start = time.monotonic()\n"
        "for _ in range(3): os.fork()\n"
        "while time.monotonic() < start + 8:\n"
        "    if os.fork(): os._exit(0)\n"
        "    os.setsid()\n"
        "    os.utime('beat')\n"
        "open('survived', 'w').close()\n"
    )
    done = run(f"touch beat; {PYTHON} hop.py; sleep 0.1; {end}; sleep 9")
    assert done.problem == ("" if end == "exit 0" else "supervisor_killed")
    before = (tmp_path / "beat").stat().st_mtime_ns
    time.sleep(0.1)
    assert (tmp_path / "beat").stat().st_mtime_ns == before
    assert not (tmp_path / "survived").exists()


def test_memory_limit(run: Run, tmp_path: Path) -> None:
    (tmp_path / "eat.py").write_text("import time; x = bytearray(b'1') * 200_000_000; time.sleep(60)")
    done = run(f"{PYTHON} eat.py; true", memory_mb=100)
    assert done.problem == "out_of_memory"
    assert "100 MB" in done.detail


def test_a_run_within_its_memory_limit(run: Run) -> None:
    assert run("sleep 0.1", memory_mb=100).problem == ""


def with_guardian(monkeypatch: pytest.MonkeyPatch, changes: str) -> Supervisor:
    """A supervisor with a guardian in another world."""
    program = (
        f"import sys; sys.path += sys.argv[1:3]; from autoresearch_kit.lab import guardian as g\n{changes}\ng.main()"
    )
    monkeypatch.setattr(processes, "PROGRAM", program)
    return Supervisor()


def test_disk_floor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    change = "looks = iter([10**10]); g.free_bytes = lambda _: next(looks, 10**8); g.DISK_SECONDS = 0.1"
    with with_guardian(monkeypatch, change) as one:
        done = one.run(order(tmp_path, "sleep 60"))
    assert (done.problem, done.detail) == ("disk_full", "less than 200 MB were free on the disk")


def test_a_disk_that_was_full_before_is_not_the_fault_of_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with with_guardian(monkeypatch, "g.free_bytes = lambda _: 10**8; g.DISK_SECONDS = 0.1") as one:
        assert one.run(order(tmp_path, "sleep 0.3")).problem == ""


def test_the_kernel_ran_out_of_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with with_guardian(monkeypatch, "looks = iter([3, 4]); g.oom_kills = lambda: next(looks)") as one:
        done = one.run(order(tmp_path, "sh -c 'kill -9 $$'; exit $?"))
    assert (done.problem, done.exit_code, done.signal) == ("out_of_memory", 137, "SIGKILL")


def test_a_bug_in_the_guardian_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with with_guardian(monkeypatch, "g.oom_kills = lambda: 1 / 0") as one:
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            one.run(order(tmp_path, "true"))
        monkeypatch.undo()
        assert one.run(order(tmp_path, "exit 3")).exit_code == 3


# The log


def test_log_takes_both_streams_in_order(run: Run, tmp_path: Path) -> None:
    run("echo a; echo b >&2; echo c")
    assert (tmp_path / "log").read_text() == "a\nb\nc\n"


def test_log_takes_any_bytes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 300)
    run("cat noise")
    assert (tmp_path / "log").read_bytes() == bytes(range(256)) * 300


def test_log_is_begun_anew(run: Run, tmp_path: Path) -> None:
    run("echo one")
    run("echo two")
    assert (tmp_path / "log").read_text() == "two\n"


@pytest.mark.parametrize("make", ["ln -s precious log", "ln precious log", "mkfifo log"])
def test_log_is_never_written_through_a_link(run: Run, tmp_path: Path, make: str) -> None:
    (tmp_path / "precious").write_text("gold")
    subprocess.run(make, shell=True, cwd=tmp_path, check=True)
    assert run("echo mine").problem == ""
    assert (tmp_path / "precious").read_text() == "gold"
    assert (tmp_path / "log").read_text() == "mine\n"


def test_flood_to_stdout_is_capped_and_its_tail_kept(run: Run, tmp_path: Path) -> None:
    done = run("yes 'a line of the flood' | head -c 120000000; echo; echo THE END")
    assert done.problem == ""
    data = (tmp_path / "log").read_bytes()
    assert 10_000_000 < len(data) < 64_000_000
    first, second, *_ = data[:1000].split(b"\n")
    assert first.startswith(b"[ark: ") and b"cut" in first
    assert second == b"a line of the flood"
    assert data.endswith(b"\nTHE END\n")
    assert [x.name for x in tmp_path.iterdir() if x.name.startswith("log")] == ["log"]


def test_flood_does_not_delay_the_timeout(run: Run) -> None:
    done = run("yes & yes & yes", timeout=0.3)
    assert done.problem == "timeout"
    assert done.wall_seconds < 5


def test_flood_of_the_watched_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "linked").write_text("")
    os.link(tmp_path / "linked", tmp_path / "run.log")
    done = run("trap '' TERM; yes 'to the file' >> run.log; sleep 60", watch=Path("run.log"))
    assert (done.problem, done.detail) == ("log_flood", "run.log grew above 64 MB")
    data = (tmp_path / "run.log").read_bytes()
    assert len(data) < 64_000_000
    assert data.startswith(b"[ark: ")
    assert (tmp_path / "linked").stat().st_size > 64_000_000, "a hard link elsewhere is not ours to cut"


def test_a_flood_between_two_looks_is_seen_at_the_end(run: Run, tmp_path: Path) -> None:
    done = run(f"exec {PYTHON} -c 'import os; os.truncate(os.open(\"run.log\", 65), 10**9)'", watch=Path("run.log"))
    assert done.problem == "log_flood"
    assert (tmp_path / "run.log").stat().st_size < 64_000_000


@pytest.mark.parametrize("make", ["ln -s big run.log", "mkfifo run.log", "mkdir run.log"])
def test_the_watched_file_is_never_followed(run: Run, tmp_path: Path, make: str) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(100_000_000)
    assert run(f"{make}; sleep 0.1", watch=tmp_path / "run.log").problem == ""
    assert (tmp_path / "big").stat().st_size == 100_000_000


# Ends that were not planned


def test_cancel_from_another_thread(run: Run, supervisor: Supervisor, tmp_path: Path) -> None:
    threading.Timer(0.3, supervisor.cancel).start()
    done = run(f"{stayer('pid', 'fork', 'setsid')}; echo begun; sleep 600")
    assert (done.problem, done.detail) == ("cancelled", "cancelled")
    assert not alive(pid_in(tmp_path / "pid", 0))


def test_a_cancel_that_comes_together_with_its_command_is_heard(tmp_path: Path) -> None:
    class Late:
        """A channel that keeps the command back until something follows it."""

        def __init__(self, channel: Any) -> None:
            self.channel, self.kept = channel, b""

        def __getattr__(self, name: str) -> Any:
            return getattr(self.channel, name)

        def sendall(self, data: bytes) -> None:
            if b'"command"' in data:
                self.kept = data
            else:
                self.channel.sendall(self.kept + data)

    with Supervisor() as supervisor:
        supervisor._channel = Late(supervisor._channel)  # type: ignore[assignment]
        threading.Timer(0.3, supervisor.cancel).start()
        done = supervisor.run(order(tmp_path, "sleep 600"))
    assert (done.problem, done.detail) == ("cancelled", "cancelled")


def test_cancel_without_a_command_does_nothing(run: Run, supervisor: Supervisor) -> None:
    supervisor.cancel()
    assert run("true").problem == ""


def test_keyboard_interrupt_ends_the_command_first(run: Run, tmp_path: Path) -> None:
    def interrupt() -> None:
        pid_in(tmp_path / "pid")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(f"{stayer('pid', 'fork', 'setsid')}; sleep 600")
    thread.join()
    assert not alive(pid_in(tmp_path / "pid", 0))
    assert run("exit 3").exit_code == 3


@pytest.mark.slow
def test_a_second_keyboard_interrupt_ends_it_at_once(run: Run, tmp_path: Path) -> None:
    def interrupt() -> None:
        pid_in(tmp_path / "pid")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(f"exec {stayer('pid', 'deaf')}")
    thread.join()
    assert not alive(pid_in(tmp_path / "pid", 0))
    assert run("exit 3").exit_code == 3


def owner(tmp_path: Path, command: str, change: str = "") -> subprocess.Popen[bytes]:
    """Another process that owns a supervisor and runs the command."""
    order(tmp_path, "")
    script = (
        "import os, sys, time; from pathlib import Path; from autoresearch_kit.lab import processes\n"
        "here = Path(sys.argv[1]); exec(sys.argv[3]); supervisor = processes.Supervisor(); exec(sys.argv[4])\n"
        "supervisor.run(processes.Command(sys.argv[2], here, dict(os.environ), here / 'log', 60))\n"
    )
    before, _, after = change.partition("|")
    home = str(Path(autoresearch_kit.__file__).parent.parent)
    arguments = [sys.executable, "-c", script, str(tmp_path), command, before, after]
    return subprocess.Popen(arguments, env=os.environ | {"PYTHONPATH": home})


@pytest.mark.parametrize("change", ["", "processes.Supervisor._portable = True"], ids=["subreaper", "portable"])
def test_kill_9_of_the_owner_leaves_nobody(tmp_path: Path, change: str) -> None:
    command = f"echo $PPID > guardian; {stayer('a', 'fork', 'setsid', 'fork', 'deaf')}; exec {stayer('b', 'deaf')}"
    with owner(tmp_path, command, change) as process:
        pids = [pid_in(tmp_path / x) for x in ("a", "b", "guardian")]
        process.kill()
    wait_until_gone(*pids)


@pytest.mark.slow  # the nurse looks once a second
def test_a_forked_copy_of_the_owner_does_not_keep_the_command_alive(tmp_path: Path) -> None:
    """The copy still holds the channel to the guardian open."""
    fork = "|pid = os.fork()\nif not pid: time.sleep(600)\n(here / 'copy').write_text(str(pid))"
    with owner(tmp_path, f"exec {stayer('pid')}", fork) as process:
        pid, copy = pid_in(tmp_path / "pid"), pid_in(tmp_path / "copy")
        process.kill()
    wait_until_gone(pid)
    assert alive(copy)
    os.kill(copy, signal.SIGKILL)


@pytest.mark.parametrize(
    "way, whom",
    [
        pytest.param("KILL", "$PPID", id="kill-guardian"),
        pytest.param("STOP", "$PPID", id="stop-guardian"),
        pytest.param("KILL", NURSE, id="kill-nurse"),
        pytest.param("STOP", NURSE, id="stop-nurse", marks=pytest.mark.slow),
    ],
)
def test_a_command_that_attacks_its_guardian(tmp_path: Path, supervisor: Supervisor, way: str, whom: str) -> None:
    with Supervisor() as second:
        command = (
            f"{stayer('a', 'fork', 'setsid', 'fork', 'deaf')}; {stayer('b')} & {until('a', 'b')}; kill -{way} {whom}"
        )
        done = second.run(order(tmp_path, f"{command}; sleep 1; exit 2"))
        harmless = way == "STOP" and whom != "$PPID"
        assert (done.problem, done.exit_code) == (("exit", 2) if harmless else ("supervisor_killed", None))
        assert not alive(pid_in(tmp_path / "a", 0))
        assert not alive(pid_in(tmp_path / "b", 0))
        if harmless:
            assert second._process is not None
            second._process.send_signal(signal.SIGCONT)
        assert second.run(order(tmp_path, "exit 3")).exit_code == 3
    assert supervisor.run(order(tmp_path, "exit 4")).exit_code == 4, "the other guardian lives"


def test_guardian_and_owner_killed(tmp_path: Path) -> None:
    command = f"{stayer('a', 'fork', 'setsid', 'fork', 'deaf')}; {stayer('b')} & {until('a', 'b')}"
    with owner(tmp_path, f"{command}; kill -9 $OWNER $PPID; sleep 600", "os.environ['OWNER'] = str(os.getpid())"):
        pids = [pid_in(tmp_path / x) for x in ("a", "b")]
    wait_until_gone(*pids)


def test_signals_to_the_guardian_do_not_end_it(run: Run) -> None:
    assert run("kill -INT $PPID; kill -HUP $PPID; kill -TERM $PPID; kill -QUIT $PPID; exit 5").exit_code == 5


def test_close_leaves_no_guardian() -> None:
    with Supervisor() as one:
        assert one._process is not None
        pid = one._process.pid
    assert not alive(pid)


def test_four_supervisors_at_a_time(tmp_path: Path) -> None:
    def work(number: int) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        with Supervisor() as one:
            done = [one.run(order(folder, f"{stayer('pid', 'fork', 'setsid')}; exit {number}")) for _ in range(5)]
        codes[number] = {x.exit_code for x in done}

    codes: dict[int, set[int | None]] = {}
    threads = [threading.Thread(target=work, args=(x,)) for x in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {x: {x} for x in range(4)}


# Where there is no subreaper


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param(("group",), marks=pytest.mark.slow),
        pytest.param(("setsid",), marks=pytest.mark.slow),
        ("fork", "setsid", "fork", "deaf"),
    ],
    ids=str,
)
def test_portable_daemons_do_not_outlive_their_command(portable: Supervisor, tmp_path: Path, ways: list[str]) -> None:
    done = portable.run(order(tmp_path, f"{stayer('pid', *ways)} & {until('pid')}; exit 6"))
    assert done.exit_code == 6
    assert not alive(pid_in(tmp_path / "pid", 0))


@pytest.mark.slow
def test_portable_timeout(portable: Supervisor, tmp_path: Path) -> None:
    done = portable.run(order(tmp_path, f"{stayer('pid', 'fork', 'setsid', 'fork')}; sleep 600", timeout=0.5))
    assert (done.problem, done.signal) == ("timeout", "SIGTERM")
    assert not alive(pid_in(tmp_path / "pid", 0))


@pytest.mark.slow
def test_portable_measures(portable: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "eat.py").write_text("import time; x = bytearray(b'1') * 200_000_000; time.sleep(0.3)")
    done = portable.run(order(tmp_path, f"{PYTHON} eat.py & wait"))
    assert 190 < done.peak_memory_mb < 260
    assert done.cpu_seconds > 0


@pytest.mark.slow
def test_portable_guardian_killed(portable: Supervisor, tmp_path: Path) -> None:
    command = f"{stayer('a', 'fork', 'setsid', 'fork')}; {stayer('b')} & {until('a', 'b')}; kill -9 $PPID; sleep 600"
    assert portable.run(order(tmp_path, command)).problem == "supervisor_killed"
    assert not alive(pid_in(tmp_path / "a", 0))
    assert not alive(pid_in(tmp_path / "b", 0))


# tail


def test_tail_gives_the_last_lines(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"line {x}\n" for x in range(1000)))
    assert tail(tmp_path / "log", max_lines=2) == "line 998\nline 999"
    assert tail(tmp_path / "log", max_bytes=12) == "line 999"


def test_tail_is_plain_text(tmp_path: Path) -> None:
    coloured, title = b"\x1b[31mred\x1b[0m\ta\0b\x07\n", b"\x1b]0;title\x07ok\xff\n"
    (tmp_path / "log").write_bytes(coloured + title + b" 1%\r 50%\r100%\r\n\xe2\x80\xaeevil\n\n")
    assert tail(tmp_path / "log") == "red\tab\nok\ufffd\n100%\nevil"


def test_tail_of_noise(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(os.urandom(200_000))
    text = tail(tmp_path / "log")
    assert all(x in "\n\t" or x.isprintable() or x >= "\xa0" for x in text)
    assert max(map(len, text.split("\n"))) <= 510


def test_tail_of_one_endless_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x" * 200_000)
    assert tail(tmp_path / "log").startswith("xxx")
    assert len(tail(tmp_path / "log")) < 600


@pytest.mark.parametrize("make", ["ln -s /etc/passwd log", "mkfifo log", "mkdir log", "true"])
def test_tail_of_what_is_no_file(tmp_path: Path, make: str) -> None:
    subprocess.run(make, shell=True, cwd=tmp_path, check=True)
    assert tail(tmp_path / "log") == ""
