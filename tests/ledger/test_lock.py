"""python -m pytest tests/ledger/test_lock.py"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.ledger.lock import Lock

HOLD = """
import sys, time
from pathlib import Path
from autoresearch_kit.ledger.lock import Lock
lock = Lock(Path(sys.argv[1]), "run t")
lock.acquire()
print("held", flush=True)
{then}
"""


def hold(path: Path, then: str = "time.sleep(60)") -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    code = HOLD.format(then=then)
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "t.lock"


@pytest.fixture
def other(path: Path) -> Iterator[subprocess.Popen[str]]:
    process = hold(path)
    yield process
    process.kill()
    process.communicate()


def test_a_second_one_is_told_who_holds_it(path: Path, other: subprocess.Popen[str]) -> None:
    lock = Lock(path, "run t")
    assert lock.is_held()
    with pytest.raises(ArkError) as caught:
        lock.acquire()
    assert caught.value.message.startswith(f"run t is held by process {other.pid} on {socket.gethostname()}, since 20")
    assert "--tag NAME" in caught.value.hint
    assert lock.is_held(), "and nothing was taken away"


def test_it_dies_with_its_process(path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    lock = Lock(path, "run t")
    assert not lock.is_held()
    lock.acquire()
    assert json.loads(path.read_text())["pid"] == os.getpid()
    lock.release()


def test_given_back_it_is_free(path: Path) -> None:
    lock = Lock(path, "run t")
    assert not lock.is_held() and not path.exists(), "asking makes no file"
    for _ in range(2):
        lock.acquire()
        assert Lock(path, "run t").is_held()
        lock.release()
        lock.release()
        assert not lock.is_held()


def test_within_one_process_too(path: Path) -> None:
    first, second = Lock(path, "run t"), Lock(path, "run t")
    first.acquire()
    with pytest.raises(ArkError, match=f"held by process {os.getpid()}"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_child_does_not_inherit_it(path: Path) -> None:
    process = hold(
        path, 'import subprocess; subprocess.Popen(["sleep", "9"], close_fds=False, stdout=subprocess.DEVNULL)'
    )
    process.communicate()
    lock = Lock(path, "run t")
    lock.acquire()
    lock.release()


@pytest.mark.slow
def test_a_helper_that_is_given_it_keeps_it_until_it_ends(path: Path) -> None:
    """Its commands must be gone before another engine measures: one waits for them instead of refusing."""
    process = hold(path, 'import subprocess; subprocess.Popen(["sleep", "1"], pass_fds=[lock.fileno()], stdout=-3)')
    process.communicate()
    lock = Lock(path, "run t")
    assert lock.is_held(), "the helper lives"
    started = time.monotonic()
    lock.acquire()
    assert time.monotonic() - started > 0.3
    lock.release()


def test_somebody_who_only_looks_is_not_taken_for_a_holder(path: Path) -> None:
    """`ark status` takes the lock for a moment; the record in the file is from the last run of this very process."""
    lock, stop = Lock(path, "run t"), threading.Event()
    lock.acquire()
    lock.release()

    def look() -> None:
        while not stop.is_set():
            lock.is_held()

    watchers = [threading.Thread(target=look) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(30):
            engine = Lock(path, "run t")
            engine.acquire()
            engine.release()
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join()


@pytest.mark.parametrize("record", ["", "x", "[]", '{"pid": "x"}', '{"pid": 1e999}', '{"pid": 9999999999999999999999}'])
def test_whatever_the_file_says(path: Path, record: str) -> None:
    path.parent.mkdir()
    path.write_text(record)
    lock = Lock(path, "run t")
    lock.acquire()
    assert json.loads(path.read_text())["host"] == socket.gethostname()
    lock.release()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArkError, match=r"t\.lock cannot be written: ") as caught:
        Lock(tmp_path / "file" / "t.lock", "run t").acquire()
    assert caught.value.hint
