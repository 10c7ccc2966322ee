"""python benchmarks/watch.py [--seconds 30] [--warm 4] [--attempts 5000] [--profile FILE]

What `ark watch` costs beside a run, as the share of one core that it and the gits it starts use, once it is up: in a
terminal of 80x24 and of 160x50, over a run that is young and over one of 5,000 attempts, whose attempts take about a
second and write a log of a hundred lines; and over a run of 5,000 where nothing happens. Everything is in a temporary
folder. With a profile the view is run under cProfile, in which it takes longer.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from made import make

ARK = [sys.executable, "-c", "from autoresearch_kit.cli import main; main()"]
TARGET = 3.0
LOOP = 'for i in $(seq 100); do echo "step $i | train_loss: $(( 1000 / i )).5 | lr: 0.01"; sleep 0.008; done'
SPEC = {
    "run_command": f'{LOOP}; echo "loss: 1.$(wc -c < train.py)"',
    "agent": {"command": 'echo "# $ARK_ATTEMPT" >> train.py'},
    "budget_minutes": 0.1,
    "timeout_minutes": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each figure")
    parser.add_argument("--warm", type=float, default=4.0, help="seconds before each, for what is done once")
    parser.add_argument("--attempts", type=int, default=5000, help="of the large run")
    parser.add_argument("--profile", type=Path, help="write a profile of the view over the large running one")
    options = parser.parse_args()
    spans = (options.warm, options.seconds)
    rows = [("run", "terminal", "cpu, % of a core", "bytes/s")]
    with tempfile.TemporaryDirectory(prefix="ark-watch-") as folder:
        home = Path(folder)
        os.environ.update(HOME=folder, XDG_CACHE_HOME=f"{folder}/cache", TERM="xterm-256color")
        (home / ".gitconfig").write_text("[user]\n name = U\n email = u@example.org\n")
        large = make(home / "large", 1, options.attempts, SPEC)
        rows.append((f"{options.attempts} attempts, at rest", "80x24", *_share(large, "run0", 80, 24, spans)))
        for name, project in (("young", make(home / "young", 1, 2, SPEC)), (f"{options.attempts} attempts", large)):
            with _running(project):
                for columns, lines in ((80, 24), (160, 50)):
                    found = _share(project, "run0", columns, lines, spans)
                    rows.append((f"{name}, running", f"{columns}x{lines}", *found))
                if options.profile and project == large:
                    _share(project, "run0", 80, 24, spans, options.profile)
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"target: less than {TARGET:g} %")


@contextlib.contextmanager
def _running(project: Path) -> Iterator[None]:
    engine = subprocess.Popen(
        [*ARK, "run", str(project), "--tag", "run0"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        time.sleep(3)
        if engine.poll() is not None:
            sys.exit(f"the run ended: {engine.stderr.read().decode() if engine.stderr else ''}")
        yield
    finally:
        engine.terminate()
        engine.communicate(timeout=60)


def _share(
    project: Path, tag: str, columns: int, lines: int, spans: tuple[float, float], profile: Path | None = None
) -> tuple[str, str]:
    """CPU time of the view and its children in percent of the time, and what it wrote, a second."""
    words = [*ARK, "watch", str(project), "--tag", tag]
    if profile:
        words = [sys.executable, "-m", "cProfile", "-o", str(profile), "-m", "autoresearch_kit", *words[3:]]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(words[0], words)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    view = psutil.Process(pid)
    _drain(terminal, spans[0])
    before = _cpu(view)
    written = _drain(terminal, spans[1])
    used = _cpu(view) - before
    os.write(terminal, b"q")
    _drain(terminal, 1.0)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    if status:
        sys.exit(f"ark watch ended with {status}")
    return f"{100 * used / spans[1]:.1f}", f"{written / spans[1]:.0f}"


def _drain(terminal: int, seconds: float) -> int:
    end, count = time.monotonic() + seconds, 0
    while (left := end - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            try:
                count += len(os.read(terminal, 65536))
            except OSError:  # it has ended
                return count
    return count


def _cpu(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:4])  # its own and those of the children that have ended


if __name__ == "__main__":
    main()
