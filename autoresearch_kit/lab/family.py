# ruff: noqa: PTH110, PTH123, PTH208
# No pathlib: the guardian imports as little as it can.
"""The family of the guardian: all processes that the command started, found, measured and ended.

It promises, on Linux, where `become_subreaper` said True:
- when `Family.end` gives an empty list, the kernel has said "no children": nobody is left, whatever forks, sessions and
  process groups were used to get away. Else it gives the pids of those who do not die;
- `Family.memory` counts pages that processes share once.

It does not promise:
- to spare any child of the process it works in: it reaps and kills them all, so it belongs into the guardian only;
- a list of pids that is still true when it has been read: `end` reads and kills again until it is;
- more than best effort on other systems (`PortableFamily`). The limits in full: at the head of `guardian.py`.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Iterable
from typing import Any

MB = 1024 * 1024
KILL_SECONDS = 10.0  # then a process that survives KILL is reported
TOKEN = "ARK_RUN_TOKEN"  # only in the portable mode
PAGE = resource.getpagesize()


def become_subreaper() -> bool:
    """Make orphaned descendants children of this process; False where we could not, or could not list them."""
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        return False
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    prctl(15, b"ark-guardian", 0, 0, 0)  # PR_SET_NAME: a command that says `pkill python` does not mean us
    return bool(prctl(36, 1, 0, 0, 0) == 0)  # PR_SET_CHILD_SUBREAPER


def slurp(path: str) -> bytes:
    """A file of /proc, or nothing when the process has ended."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall() or b""
    except OSError:
        return b""


def children(pid: int) -> list[int]:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    return [int(x) for task in tasks for x in slurp(f"/proc/{pid}/task/{task}/children").split()]


def descendants(*roots: int) -> list[int]:
    found: list[int] = []
    todo = list(roots)
    while todo:
        more = children(todo.pop())
        found += more
        todo += more
    return found


def send_signal(pids: Iterable[int], *signals: int) -> None:
    for pid in pids:
        for number in signals:
            try:
                os.kill(pid, number)
            except OSError:  # gone meanwhile, or of another user: the caller looks again
                break


def oom_kills() -> int:
    """How many processes the kernel's OOM killer has ended: in our control group if it says so, else everywhere."""
    group = next((x[3:] for x in slurp("/proc/self/cgroup").decode().splitlines() if x.startswith("0::")), "")
    counters = slurp(f"/sys/fs/cgroup{group}/memory.events") or slurp("/proc/vmstat")
    return next((int(x.split()[1]) for x in counters.splitlines() if x.startswith(b"oom_kill ")), 0)


class Family:
    """All processes that the command started: found, measured, ended. Linux: the descendants of the guardian."""

    def __init__(self) -> None:
        self.status: int | None = None  # the wait status of the command itself
        self.child = 0
        self.biggest = 0  # bytes, of any one process that was reaped

    def pids(self) -> list[int]:
        return descendants(os.getpid())

    def reap(self) -> bool:
        """Collect the dead; True when there are no children left at all."""
        for _ in range(2000):  # a fork bomb can die as fast as we count
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                break
            if pid == self.child:
                self.status = status
            self.biggest = max(self.biggest, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
        return False

    def peak(self) -> int:
        """The most that one process ever used, if that is known: a child inherits our own peak as a floor."""
        floor = int((slurp("/proc/self/status").partition(b"VmHWM:")[2].split() or [b"65536"])[0]) * 1024
        return self.biggest if self.biggest > floor + MB else 0

    def memory(self, above: int) -> int:
        """Bytes in use now. Pages shared between forked workers count once, which is dear: only asked above `above`."""
        pids = self.pids()
        resident = {x: int((slurp(f"/proc/{x}/statm").split() or [b"", b"0"])[1]) * PAGE for x in pids}
        if sum(resident.values()) <= above or sum(x > 8 * MB for x in resident.values()) < 2:
            return sum(resident.values())
        shares = {x: slurp(f"/proc/{x}/smaps_rollup").partition(b"\nPss:")[2].split() for x in pids}
        return sum(int(shares[x][0]) * 1024 if shares[x] else resident[x] for x in pids)

    def end(self, patience: float = KILL_SECONDS) -> list[int]:
        """KILL everybody until nobody is left; the pids of those who do not die."""
        deadline = time.monotonic() + patience
        rounds = 0
        while not self.reap():
            for _ in range(50):  # who forks and exits lives for a tenth of a millisecond: newest first, at once
                send_signal(reversed(children(os.getpid())), signal.SIGKILL)
                if self.reap():
                    break
            pids = self.pids()
            if rounds > 1:  # someone forks as fast as we kill: stop them all first, so that nobody is left to fork
                for _ in range(20):
                    send_signal(pids, signal.SIGSTOP)
                    seen, pids = set(pids), self.pids()
                    if seen.issuperset(pids):
                        break
            send_signal(pids, signal.SIGKILL)
            if time.monotonic() > deadline:
                return pids
            time.sleep(0.0005 * 2 ** min(rounds, 5))
            rounds += 1
        return []


class PortableFamily(Family):
    """The same where no subreaper exists (macOS), by psutil. Best effort: see the head of `guardian.py`."""

    def __init__(self, token: str) -> None:
        import psutil

        self.psutil = psutil
        self.status = None
        self.child = 0
        self.biggest = 0
        self.token = token
        self.known: dict[int, Any] = {}  # every process seen so far: psutil compares the time of creation

    def alive(self, process: Any) -> bool:
        try:
            return bool(process.is_running() and process.status() != self.psutil.STATUS_ZOMBIE)
        except self.psutil.Error:
            return False

    def look(self) -> list[int]:
        roots = [self.psutil.Process(), *self.known.values()]
        for root in roots:
            try:
                self.known.update((x.pid, x) for x in root.children(recursive=True))
            except self.psutil.Error:
                continue
        self.known = {x: y for x, y in self.known.items() if self.alive(y)}
        return list(self.known)

    def pids(self) -> list[int]:
        self.known.update((x.pid, x) for x in marked(self.token, self.child))
        return self.look()

    def reap(self) -> bool:
        return super().reap() and not self.pids()

    def memory(self, above: int) -> int:
        total = 0
        for pid in self.look():
            try:
                total += self.known[pid].memory_info().rss
            except self.psutil.Error:
                continue
        return total


def marked(token: str, session: int = 0) -> list[Any]:
    """The processes with the token in their environment, or in the session: psutil.Process objects."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and (
                (session and os.getsid(process.pid) == session) or process.environ().get(TOKEN) == token
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found
