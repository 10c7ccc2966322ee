# ruff: noqa: PTH119
# No pathlib: this program imports as little as it can.
"""The guardian: a small program between `ark` and a command, which measures the command and ends it.

    python -ISB -c PROGRAM ROOT SITE_PACKAGES TOKEN [--portable]

Standard input is a socket to `ark`; PROGRAM is in `processes.py`. How processes are found and ended: `family.py`;
how logs are capped: `caplog.py`.

It promises, on Linux:
- one command at a time, `/bin/sh -c`, in a new session without a terminal, with just the environment it was given;
- when the command ends, or `ark` ends in any way, no process that the command started is left. Daemons too: the
  guardian is a "child subreaper", so an orphan becomes its child, whatever it called. Only `waitpid` saying "no
  children" counts as proof;
- wall time, CPU time and peak memory of the whole tree; a log that never takes more than 64 MB on the disk.

The program is two processes. The first, the nurse, is a subreaper as well and does nothing but wait: when the second
is killed or stopped, by the command for instance, it ends everybody.

It does not promise:
- to hold a command that kills both guardian and nurse, or traces one, or that asks a service (cron, docker, systemd)
  to start something: that takes a sandbox;
- to end a process of another user (sudo), or one stuck in the kernel: after ten seconds it is reported;
- exact memory. Samples miss a short peak of several processes together. The peak of one process is never missed above
  the guardian's own few MB (a child inherits those in its books), so small and short commands read low. Memory on a
  GPU is not seen;
- the CPU time of a process whose parent ignores SIGCHLD: the kernel forgets it;
- any of this on other systems than by best effort (`--portable`): there an orphan is found by a token in its
  environment, by its session, or because a sample saw it before; one that sheds all three survives.
"""

import json
import os
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import time
import traceback
from typing import Any

from autoresearch_kit.lab.caplog import LOG_CAP, MB, CappedLog, free_bytes, regular_size, trim
from autoresearch_kit.lab.family import (
    KILL_SECONDS,
    TOKEN,
    Family,
    PortableFamily,
    become_subreaper,
    oom_kills,
    send_signal,
)

GRACE_SECONDS = 5.0  # from TERM to KILL at a time-out
CANCEL_GRACE_SECONDS = 2.0  # the same when a person is waiting
DISK_SECONDS = 1.0  # from one look at the free space to the next
DISK_FLOOR = 200 * MB
SLOWEST_SAMPLE_SECONDS = 1.0


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


def classify(status: int, oom_killed: bool) -> dict[str, Any]:
    """What a wait status means. A shell reports a signal n of its child as exit code 128 + n."""
    code = os.waitstatus_to_exitcode(status)
    name = signal_name(code - 128) if code > 128 else (signal_name(-code) or f"SIG{-code}") if code < 0 else ""
    problem, detail = ("", "") if code == 0 else ("exit", f"exit code {code}")
    if name:
        problem, detail = "signal", f"killed by {name}" + (f" (exit code {code})" if code > 0 else "")
    if name == "SIGKILL" and oom_killed:
        problem, detail = "out_of_memory", "killed by the kernel, which ran out of memory"
    return {"exit_code": code if code >= 0 else None, "signal": name, "problem": problem, "detail": detail}


class Guardian:
    def __init__(self, channel: socket.socket, token: str, portable: bool) -> None:
        self.channel = channel
        self.token = token
        self.portable = portable
        self.family = self.new_family()
        self.nurse = os.getppid()
        self.inbox = b""
        self.messages: list[dict[str, Any]] = []
        self.poll = select.poll()
        self.poll.register(channel, select.POLLIN)
        self.bell = doorbell()
        self.poll.register(self.bell, select.POLLIN)

    def new_family(self) -> Family:
        return PortableFamily(self.token) if self.portable else Family()

    def wait(self, seconds: float) -> dict[str, Any]:
        """Sleep until something happens; the next message, or {}. When `ark` is gone: end everybody and the program."""
        seconds = 0 if self.messages else seconds
        for file, _ in self.poll.poll(max(0, min(int(seconds * 1000) + 1, 1000))):
            if file == self.bell:
                os.read(self.bell, 4096)
            elif file == self.channel.fileno():
                data = self.channel.recv(1 << 20)
                self.inbox += data
                *lines, self.inbox = self.inbox.split(b"\n")
                self.messages += map(json.loads, lines)
                if not data:
                    raise EOFError
        if os.getppid() != self.nurse:
            raise EOFError
        return self.messages.pop(0) if self.messages else {}

    def serve(self) -> None:
        while True:
            message = self.wait(1.0)
            if "command" in message:
                answer = {"id": message["id"], **self.run(message)}
                self.channel.sendall(json.dumps(answer).encode() + b"\n")

    def start(self, order: dict[str, Any], pipe: int) -> "subprocess.Popen[bytes]":
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        stdin = os.open(order["stdin"] or os.devnull, flags)
        try:
            if order["stdin"] and not stat.S_ISREG(os.fstat(stdin).st_mode):
                raise OSError(f"{order['stdin']} is not a regular file")
            return subprocess.Popen(
                ["/bin/sh", "-c", order["command"]],
                cwd=order["cwd"],
                env=order["env"],
                stdin=stdin,
                stdout=pipe,
                stderr=pipe,
                start_new_session=True,
            )
        finally:
            os.close(stdin)

    def run(self, order: dict[str, Any]) -> dict[str, Any]:
        self.family = family = self.new_family()
        if self.portable:
            order["env"][TOKEN] = self.token
        oom_before = oom_kills()
        used_before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begin = time.monotonic()
        result: dict[str, Any] = {"exit_code": None, "signal": "", "wall": 0.0, "cpu": 0.0, "peak": 0.0}
        try:
            log = CappedLog(order["log"])
        except OSError as error:
            return result | {"problem": "not_started", "detail": f"the log could not be opened: {error}"}
        source, sink = os.pipe()
        try:
            process = self.start(order, sink)
        except (OSError, ValueError) as error:
            os.close(source)
            log.close()
            return result | {"problem": "not_started", "detail": f"the command could not be started: {error}"}
        finally:
            os.close(sink)
        family.child = process.pid
        try:
            reason, peak, wall = self.attend(order, family, log, source, begin)
            result["survivors"] = survivors = family.end()
            self.drain(source, log, 4)
        finally:
            process.returncode = 0  # reaped by the family: no business of subprocess any more
            os.close(source)
            log.close()
        if family.status is not None:
            result |= classify(family.status, oom_kills() > oom_before)
        if not reason["problem"] and self.flooded(order):  # faster than the ticks
            reason = self.flood(order)
        if self.flooded(order):
            trim(order["watch"])
        if reason["problem"]:
            result |= reason
        if survivors:
            left = f"could not be killed: {', '.join(map(str, survivors))}"
            result["detail"] = "; ".join(filter(None, [result["detail"], left]))
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        result["cpu"] = used.ru_utime + used.ru_stime - used_before.ru_utime - used_before.ru_stime
        return result | {"lost": log.lost, "wall": wall, "peak": max(peak, family.peak()) / MB}

    def attend(
        self, order: dict[str, Any], family: Family, log: CappedLog, source: int, begin: float
    ) -> tuple[dict[str, str], int, float]:
        """Drain, sample and look at the limits until the command has ended or must be ended."""
        reason = {"problem": "", "detail": ""}
        limit = (order["memory_mb"] or float("inf")) * MB
        pace, slowest = 0.001, 0.1 if order["memory_mb"] else SLOWEST_SAMPLE_SECONDS
        next_sample = next_watch = begin
        next_disk = begin + DISK_SECONDS
        disk_watched = free_bytes(order["cwd"]) > DISK_FLOOR
        term_at, term_why = begin + order["timeout"], ("timeout", f"no end after {order['timeout']:g} s")
        kill_at, grace = float("inf"), GRACE_SECONDS
        peak, wall = 0, 0.0
        listening = True
        self.poll.register(source, select.POLLIN)
        os.set_blocking(source, False)
        try:
            while True:
                empty = family.reap() if family.status is None or reason["problem"] else False
                now = time.monotonic()
                if family.status is not None:
                    wall = wall or now - begin
                    if empty or not reason["problem"]:
                        break
                if now >= kill_at:
                    break
                if now >= term_at and not reason["problem"]:
                    reason = {"problem": term_why[0], "detail": term_why[1]}
                    send_signal(family.pids(), signal.SIGTERM, signal.SIGCONT)  # a stopped process hears no TERM
                    kill_at = now + grace
                if now >= next_sample:
                    cost = -time.process_time()
                    used = family.memory(peak)
                    cost += time.process_time()
                    peak = max(peak, used)
                    if used > limit and not reason["problem"]:
                        detail = f"used {used / MB:.0f} MB, the limit is {order['memory_mb']:g} MB"
                        reason, kill_at = {"problem": "out_of_memory", "detail": detail}, now
                    next_sample = now + max(pace, 50 * cost)  # at most 2 % of a core
                    pace = min(pace * 1.3, slowest)
                if order["watch"] and now >= next_watch:
                    size = regular_size(order["watch"])
                    next_watch = now + (0.005 if size > LOG_CAP // 4 else 0.025)
                    if size > LOG_CAP and not reason["problem"]:
                        reason, kill_at = self.flood(order), now
                if disk_watched and now >= next_disk:
                    next_disk = now + DISK_SECONDS
                    if free_bytes(order["cwd"]) < DISK_FLOOR and not reason["problem"]:
                        detail = f"less than {DISK_FLOOR // MB} MB were free on the disk"
                        reason, kill_at = {"problem": "disk_full", "detail": detail}, now
                soonest = min(next_sample, term_at if not reason["problem"] else kill_at)
                soonest = min(soonest, next_watch) if order["watch"] else soonest
                # The cancel may have come together with its command.
                if self.wait(soonest - time.monotonic()).get("cancel") == order["id"]:
                    term_at, term_why, grace = 0.0, ("cancelled", "cancelled"), CANCEL_GRACE_SECONDS
                    kill_at = min(kill_at, time.monotonic() + grace)
                if listening and self.drain(source, log, 1):  # nobody holds the other end: poll would ring for ever
                    self.poll.unregister(source)
                    listening = False
        finally:
            if listening:
                self.poll.unregister(source)
        return reason, peak, wall or time.monotonic() - begin

    def flooded(self, order: dict[str, Any]) -> bool:
        return bool(order["watch"]) and regular_size(order["watch"]) > LOG_CAP

    def flood(self, order: dict[str, Any]) -> dict[str, str]:
        detail = f"{os.path.basename(order['watch'])} grew above {LOG_CAP // MB} MB"
        return {"problem": "log_flood", "detail": detail}

    def drain(self, source: int, log: CappedLog, times: int) -> bool:
        """Read what is there, at most so many times, for a flood must not keep us from the clock. True at the end."""
        for _ in range(times):
            try:
                data = os.read(source, MB)
            except BlockingIOError:
                return False
            if not data:
                return True
            log.write(data)
        return False


def doorbell() -> int:
    """A file that can be read as soon as a signal has come: above all SIGCHLD."""
    bell, ring = os.pipe()
    for end in (bell, ring):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
    return bell


def nurse(pid: int, family: Family) -> None:
    """Wait for the guardian to end; help when it is stopped, when `ark` is gone, or when `ark` says so by TERM."""
    ark = os.getppid()
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    bell = doorbell()
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if ended and not os.WIFSTOPPED(status):
            break
        # A forked copy of `ark` may still hold the channel open, then the guardian does not see the end of `ark`.
        if ended or asked or os.getppid() != ark:
            os.kill(pid, signal.SIGKILL)
        if select.select([bell], [], [], 1.0)[0]:
            os.read(bell, 4096)
    family.end(3 * KILL_SECONDS)


def main() -> None:
    channel = socket.socket(fileno=os.dup(0))  # not inheritable; and a socket cannot be opened through /proc/PID/fd
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    # A command starts with default signals: a handler is reset by exec, an ignored or blocked signal is not.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    token, *portable = sys.argv[3:]
    code = 1  # tells `ark` that no command was ever started
    try:
        adopting = not portable and become_subreaper()
        pid = os.fork()
        code = 0
        if pid:
            channel.close()
            nurse(pid, Family() if adopting else PortableFamily(token))
            return
        if adopting:
            become_subreaper()  # fork does not pass it on
        guardian = Guardian(channel, token, portable=not adopting)
        try:
            guardian.serve()
        except (EOFError, ConnectionError):
            pass  # `ark` is gone
        except Exception:
            channel.sendall(json.dumps({"bug": traceback.format_exc()}).encode() + b"\n")
        finally:
            guardian.family.end()
    finally:
        os._exit(code)
