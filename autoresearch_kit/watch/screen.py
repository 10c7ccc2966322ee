"""The terminal that shows a run: drawn on its second screen, a row at a time where something changed, until `q`.

Whatever happens to the run, or to its ledger, the view stays until its reader ends it: whoever looks in the morning
wants to see how it went, and a run that is taken up again is shown on. Nothing here can hurt the run: its process is
never signalled, and nothing is written but to the terminal.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from autoresearch_kit.campaigns import find_campaign, latest_campaign
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.names import is_name
from autoresearch_kit.core.records import clean_line
from autoresearch_kit.project import Project
from autoresearch_kit.watch.lines import Painter, is_same
from autoresearch_kit.watch.state import Picture, Watcher

POLL_SECONDS = 1.0
"""Between two looks: a bar that moves each second is alive, and a look costs a hundredth of that."""
QUIT = (b"q", b"Q", b"\x04")


def show(project: Project, name: str | None, console: Console, once: bool = False) -> None:
    """Show a run until its reader has seen enough; on a pipe, a dumb terminal, or with `once`, as it is now.

    UsageError where there is no such run and nobody would wait for it.
    """
    if once or not console.is_terminal or console.is_dumb_terminal:
        _print_once(project, name, console)
        return
    watcher = Watcher(project, name)
    if name is not None and not is_name(name):  # such as REMOTE/TAG: nothing will ever begin under it here
        find_campaign(project, name)
    painter = Painter(_is_unicode(console))
    start = f"ark run --tag {name}" if name else "ark run"
    waits_for = f"There is no run {name or 'of this project'} yet: this view waits for it. To begin one: {start}"
    with contextlib.suppress(KeyboardInterrupt), _Screen(console) as screen:
        while True:
            began = time.monotonic()
            picture = _look(watcher, screen)
            screen.draw(painter, picture, waits_for)
            while (rest := began + POLL_SECONDS - time.monotonic()) > 0:
                if (heard := screen.wait(rest)) == "quit":
                    return
                if heard == "resized":
                    screen.draw(painter, picture, waits_for)


def _print_once(project: Project, name: str | None, console: Console) -> None:
    watcher = Watcher(project, name)
    picture = watcher.poll()
    if picture.campaign is None:
        # Whichever of them it is says what there is instead.
        _ = latest_campaign(project, None) if name is None else find_campaign(project, name)
        return
    for line in Painter(_is_unicode(console)).snapshot(picture):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _look(watcher: Watcher, screen: _Screen) -> Picture:
    """The next picture, or the one before with what is wrong now: a full disk or a broken ref ends no view."""
    try:
        screen.trouble = ""
        return watcher.poll()
    except (ArkError, OSError) as error:
        if screen.picture is None:
            raise
        text = error.message if isinstance(error, ArkError) else f"{error.filename or ''}: {error.strerror}"
        screen.trouble = clean_line(text, 300)
        return replace(screen.picture, moment=time.time())


class _Screen:
    """The second screen of a terminal, with keys read one by one. A context manager: what it changes, it puts back."""

    def __init__(self, console: Console) -> None:
        self.picture: Picture | None = None
        """What was drawn last."""
        self.trouble = ""
        """Why it is not the newest; empty when it is."""
        self._console = console
        self._drawn: list[Text] = []
        self._size = (0, 0)
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else -1
        self._modes: list[Any] | None = None
        self._wake, self._woken = -1, -1
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> _Screen:
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        for number, handler in ((signal.SIGWINCH, self._nudge), (signal.SIGTSTP, self._suspend)):
            self._handlers[number] = signal.signal(number, handler)
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._wake)
        os.close(self._woken)

    def draw(self, painter: Painter, picture: Picture, waits_for: str) -> None:
        """Show this picture, by the rows that differ from the last one."""
        size = (self._console.size.width, self._console.size.height)
        if size != self._size:
            self._size, self._drawn = size, []
        self.picture = picture
        lines = painter.lines(picture, *size, waits_for)
        if self.trouble and len(lines) > 1:
            lines[-2] = Text(f"trouble: {self.trouble}"[: size[0]], "bold yellow")
        with self._console as out:  # one write for all of it
            if not self._drawn:
                out.control(Control.clear())
            for row, line in enumerate(lines):
                if not is_same(lines, self._drawn, row):
                    out.control(Control.move_to(0, row))
                    out.print(line, end="", no_wrap=True, overflow="crop", highlight=False, markup=False)
                    if line.cell_len < size[0]:
                        out.control(Control((ControlType.ERASE_IN_LINE, 0)))
        self._drawn = lines

    def wait(self, seconds: float) -> str:
        """`quit`, `resized`, or empty when nothing happened for so long."""
        ready, _, _ = select.select([self._wake, *([self._keys] if self._keys >= 0 else [])], [], [], seconds)
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 1024)
            return "resized"
        if self._keys in ready:
            typed = os.read(self._keys, 1024)
            if not typed or any(key in typed for key in QUIT):  # nothing: the terminal is gone
                return "quit"
        return ""

    # The terminal

    def _begin(self) -> None:
        with self._console as out:
            out.set_alt_screen(True)
            out.show_cursor(False)
        if self._keys >= 0:
            with contextlib.suppress(termios.error):
                self._modes = termios.tcgetattr(self._keys)
                tty.setcbreak(self._keys)
        self._drawn = []

    def _end(self) -> None:
        if self._modes is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSAFLUSH, self._modes)
        with contextlib.suppress(OSError), self._console as out:  # it may be gone
            out.show_cursor(True)
            out.set_alt_screen(False)

    def _nudge(self, *_: object) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._woken, b"w")

    def _suspend(self, *_: object) -> None:
        """Ctrl-Z: give the terminal back, sleep, and take it again."""
        self._end()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._begin()
        self._nudge()


def _is_unicode(console: Console) -> bool:
    return (console.encoding or "").lower().replace("_", "-").startswith("utf")
