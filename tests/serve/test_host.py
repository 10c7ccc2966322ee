"""The process that measures: whoever calls it may be killed, wait, come twice, or talk nonsense.

pytest tests/serve/test_host.py
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.lab.cache import cache_root
from autoresearch_kit.ledger.lock import Lock
from autoresearch_kit.serve import server as wire
from autoresearch_kit.serve.client import at_work, dismiss
from autoresearch_kit.serve.server import Server, address, read_line, say
from autoresearch_kit.serve.unread import LAID_SINCE, unread
from tests.engine.conftest import Tiny
from tests.serve.conftest import OnDesk, gone, until

# Those who call


@pytest.mark.slow
def test_detach_and_wait(desk: OnDesk) -> None:
    gate = desk.hold()
    found = desk.try_("-m", "slow", "--detach")
    assert (found["number"], found["outcome"], found["title"], found["commit"]) == (1, "running", "slow", None)
    assert "ark wait" in found["next"]
    found = desk.try_(code=1)
    assert found["outcome"] == "busy" and "attempt 1 is being measured" in found["reason"]
    found = desk.wait("--timeout", "0.1", code=1)
    assert (found["number"], found["outcome"]) == (1, "running")
    assert running(desk) == (True, 1)
    waiting = desk.start("wait")
    time.sleep(0.5)
    gate.touch()
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 0 and "10 -> 20" in out and "Keep" not in err, "the verdict is told once"
    assert running(desk) == (False, None), "the host is there, in case somebody asks for something soon"
    done = desk.ark("wait")
    assert done.returncode == 1 and "nothing is being measured" in done.stderr


def running(desk: OnDesk) -> tuple[bool, int | None]:
    found = json.loads(desk.ark("status", "--json").stdout)
    return found["running"], found["running_attempt"]


@pytest.mark.slow
def test_a_verdict_that_nobody_saw_waits(desk: OnDesk) -> None:
    gate = desk.hold()
    desk.try_("--detach")
    gate.touch()
    until(lambda: unread(desk.cache))
    found = desk.try_(code=1)
    assert found["outcome"] == "no_change" and "the verdict of attempt 1 yet: ark wait" in found["notes"][0]
    found = desk.wait()
    assert (found["value"], found["next"], found["notes"]) == (20, LAID_SINCE, [])
    assert not unread(desk.cache)


@pytest.mark.slow
def test_no_verdict_takes_the_place_of_another(desk: OnDesk) -> None:
    for number, value in enumerate((11, 9, 12), 1):
        desk.answer(value)
        desk.try_("--detach")
        until(lambda number=number: len(unread(desk.cache)) == number)
    found = [desk.wait() for _ in range(3)]
    assert [(answer["number"], answer["value"]) for answer in found] == [(3, 12), (2, 9), (1, 11)]
    assert ["of attempt" in " ".join(answer["notes"]) for answer in found] == [True, True, False]
    assert "The desk holds this now" in found[0]["next"] and found[2]["next"] == LAID_SINCE


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGHUP))],
)
def test_a_killed_caller_loses_nothing(desk: OnDesk, number: signal.Signals) -> None:
    gate = desk.hold()
    calling = desk.start("try", "-m", "slow")
    until(Path(f"{gate}-begun").exists)
    os.killpg(calling.pid, number)  # as a tool's time-out does
    calling.communicate(timeout=60)
    gate.touch()
    assert desk.wait()["outcome"] == "keep"
    assert [a["outcome"] for a in desk.log()] == ["keep", "keep"]


@pytest.mark.slow
def test_ctrl_c_stops_the_measurement_and_gives_the_change_back(desk: OnDesk) -> None:
    gate = desk.hold()
    text = (desk.folder / "train.sh").read_text()
    calling = desk.start("try", "-m", "slow")
    until(Path(f"{gate}-begun").exists)
    calling.send_signal(signal.SIGINT)
    _, err = calling.communicate(timeout=60)
    assert calling.returncode == 130 and "Lost: stopped by the user" in err
    assert desk.log()[-1]["outcome"] == "lost"
    assert (desk.folder / "train.sh").read_text() == text
    gate.touch()
    found = desk.try_("-m", "again")
    assert (found["number"], found["outcome"]) == (2, "keep")


@pytest.mark.slow
def test_two_at_once(desk: OnDesk) -> None:
    desk.answer(12)
    calls = [desk.start("try", "--json") for _ in range(3)]
    found = [json.loads(call.communicate(timeout=60)[0]) for call in calls]
    kinds = sorted(result["outcome"] for result in found)
    assert kinds.count("keep") == 1 and set(kinds) <= {"keep", "busy", "no_change"}
    assert len(desk.log()) == 2


@pytest.mark.slow
def test_what_is_written_meanwhile_is_not_lost(desk: OnDesk) -> None:
    gate = desk.hold()
    desk.try_("--detach")
    assert (desk.folder / "train.sh").read_text() == "echo 10 > answer.txt\n", "it is in git, and the desk free again"
    desk.answer(30)
    gate.touch()
    found = desk.wait()
    assert found["outcome"] == "keep" and "you changed train.sh meanwhile" in found["notes"][0]
    assert found["next"].startswith("The desk holds what you changed meanwhile, not the best so far, attempt 1 (20)")
    assert (desk.folder / "train.sh").read_text() == "echo 30 > answer.txt\n"
    found = desk.try_(code=1)
    assert found["outcome"] == "conflict" and "call ark try once more" in found["next"]
    desk.answer(10)
    assert desk.try_(code=1)["outcome"] == "no_change"
    assert "20" in (desk.folder / "train.sh").read_text()


# Those who measure


@pytest.mark.slow
def test_a_killed_host_is_repaired_by_the_next_try(desk: OnDesk) -> None:
    gate = desk.hold()
    calling = desk.start("try", "-m", "slow")
    until(Path(f"{gate}-begun").exists)
    os.kill(host := desk.host(), signal.SIGKILL)
    _, err = calling.communicate(timeout=60)
    assert calling.returncode == 1 and "was killed" in err and "ark try goes on" in err
    until(lambda: gone(host))
    gate.touch()
    found = desk.try_()
    assert (found["number"], found["outcome"], found["title"]) == (1, "keep", "slow")
    assert "before this, attempt 1: Keep" in found["notes"][0]
    assert [a["outcome"] for a in desk.log()] == ["keep", "keep"]


@pytest.mark.slow
def test_a_host_ends_when_nobody_asks_and_gives_way_to_a_run(tiny: Tiny, desk: OnDesk) -> None:
    desk.answer(12)
    desk.try_()
    host = desk.host()
    done = tiny.ark("run", "--tag", "t", "--agent", tiny.agent("answer 13\n"), "--attempts", "1")
    assert done.returncode == 0, done.stderr
    until(lambda: gone(host))
    assert [a["value"] for a in desk.log()] == [10, 12, 13]


@pytest.mark.slow
def test_a_host_that_is_asked_to_end_while_it_measures_goes_on(desk: OnDesk) -> None:
    gate = desk.hold()
    desk.try_("--detach")
    threading.Timer(0.5, gate.touch).start()
    dismiss(desk.cache)
    assert desk.wait()["value"] == 20


@pytest.mark.slow
def test_a_run_that_somebody_else_drives_says_so(tiny: Tiny, desk: OnDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock(tiny.root / ".git/ark/t.lock", "run t")
    lock.acquire()
    try:
        desk.answer(12)
        done = desk.ark("try")
    finally:
        lock.release()
    assert done.returncode == 1 and f"run t is held by process {os.getpid()}" in done.stderr
    assert (desk.folder / "train.sh").read_text() == "echo 12 > answer.txt\n"
    assert desk.try_()["outcome"] == "keep"


@pytest.mark.slow
def test_a_spec_that_was_broken_meanwhile_is_told(tiny: Tiny, desk: OnDesk) -> None:
    desk.answer(12)
    tiny.write("autoresearch-config.yaml", "metric: [")
    done = desk.ark("try")
    assert done.returncode == 2 and "autoresearch-config.yaml" in done.stderr
    tiny.spec(name="tiny")
    assert desk.try_()["outcome"] == "keep"


@pytest.mark.slow
def test_a_run_that_cannot_go_on_is_told_and_the_change_kept(tiny: Tiny, desk: OnDesk) -> None:
    desk.answer(12)
    branch = tiny.git("rev-parse", "autoresearch/t")
    tiny.git("branch", "-f", "autoresearch/t", tiny.commit("elsewhere", name="tiny", goal="x"))
    done = desk.ark("try")
    assert done.returncode == 1 and "was moved by somebody else" in done.stderr
    tiny.git("branch", "-f", "autoresearch/t", branch)
    assert desk.try_()["outcome"] == "keep"


# The socket


@pytest.fixture
def served(tmp_path: Path) -> Server:
    server = Server(tmp_path / "run", lambda: None)
    yield server
    server.close()


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return connection


def ask(cache: Path, data: bytes) -> bytes:
    with connect(address(cache)) as connection:
        connection.settimeout(30)
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            return b""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\0\xff\n",
        b"{\n",
        b"[]\n",
        b"null\n",
        b'{"verb": "fly"}\n',
        b'{"verb": ["try"]}\n',
        b"[" * 100_000 + b"\n",
        b"x" * 5_000_000,
        b'{"verb": "try", "why": "' + b"x" * 1_000_000 + b'"}\n',
    ],
    ids=range(11),
)
def test_nonsense_gets_a_sentence_or_nothing_and_harms_nobody(served: Server, tmp_path: Path, data: bytes) -> None:
    said = ask(tmp_path / "run", data)
    assert not said or "error" in json.loads(said)
    assert served.take(0) is None
    with connect(address(tmp_path / "run")) as connection:
        say(connection, {"verb": "try", "token": "a"})
        order = served.take(10)
        assert order is not None and order.request["token"] == "a"
        served.answer({"fine": True})
        assert read_line(connection, 10, 10**6) == {"accepted": True}


@pytest.mark.slow
def test_those_who_say_nothing_or_hear_nothing_hold_nobody_up(
    served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(wire, "SEND_SECONDS", 0.5)
    path = address(tmp_path / "run")
    silent = [connect(path) for _ in range(5)]
    silent[0].sendall(b'{"verb": "tr')
    deaf = connect(path)
    say(deaf, {"verb": "try", "token": "a"})
    assert served.take(10)
    for _ in range(20):
        served._send({"event": {"text": "x" * 100_000}})
    served.answer({"text": "x" * 1_000_000})
    with connect(path) as connection:
        say(connection, {"verb": "wait"})
        assert read_line(connection, 10, 10**6) == {"busy": False, "number": None, "driven": False}
    for connection in silent:
        connection.settimeout(30)
        with connection:
            while connection.recv(65536):
                pass
    deaf.close()


@pytest.mark.slow
def test_too_many_clients_are_sent_away_and_the_dead_forgotten(served: Server, tmp_path: Path) -> None:
    path = address(tmp_path / "run")
    with connect(path) as first:
        say(first, {"verb": "try", "token": "a"})
        assert served.take(10)
        dead = [connect(path) for _ in range(wire.MAX_CLIENTS - 1)]
        for connection in dead:
            say(connection, {"verb": "wait"})
        until(lambda: served._clients == wire.MAX_CLIENTS)
        with connect(path) as late:
            assert late.recv(10) == b""
        for connection in dead:
            connection.close()
        until(lambda: served._clients == 1)
        served.answer({})


def test_an_order_is_cancelled_by_its_own_token_only(tmp_path: Path) -> None:
    cancelled: list[bool] = []
    server = Server(tmp_path / "run", lambda: cancelled.append(True))
    try:
        with connect(address(tmp_path / "run")) as client:
            say(client, {"verb": "try", "token": "a"})
            assert server.take(10)
            for token in ("", "b"):
                ask(tmp_path / "run", json.dumps({"verb": "cancel", "token": token}).encode() + b"\n")
            assert not cancelled
            ask(tmp_path / "run", b'{"verb": "cancel", "token": "a"}\n')
            until(lambda: cancelled)
            server.answer({})
    finally:
        server.close()


def test_an_order_that_nobody_took_is_cancelled_at_once(served: Server, tmp_path: Path) -> None:
    with connect(address(tmp_path / "run")) as client:
        say(client, {"verb": "try", "token": "a"})
        assert read_line(client, 10, 10**6, rest := bytearray()) == {"accepted": True}
        ask(tmp_path / "run", b'{"verb": "cancel", "token": "a"}\n')
        assert "stopped before" in read_line(client, 10, 10**6, rest)["error"]
    assert served.take(0) is None


def test_the_address_is_short_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert address(tmp_path).is_relative_to(cache_root())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ("long" * 30)))
    path = address(tmp_path)
    assert len(os.fsencode(path)) <= wire.MAX_PATH_BYTES and path.parent == Path(f"/tmp/ark-{os.getuid()}")
    assert address(tmp_path) == path != address(tmp_path / "other")
    with_long = Server(tmp_path / "x", lambda: None)
    try:
        assert at_work(tmp_path / "x").startswith("nothing yet")
        assert path.parent.stat().st_mode & 0o777 == 0o700
    finally:
        with_long.close()


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setattr(wire, "address", lambda cache: folder / "a.sock")
    with pytest.raises(ArkError, match="not a private folder"):
        Server(tmp_path / "run", lambda: None)
    folder.chmod(0o700)
    link = tmp_path / "link"
    link.symlink_to(folder)
    monkeypatch.setattr(wire, "address", lambda cache: link / "a.sock")
    with pytest.raises(ArkError, match="not a private folder"):
        Server(tmp_path / "run", lambda: None)


@pytest.mark.slow
def test_nothing_is_left_behind(tiny: Tiny, lay: Callable[..., OnDesk]) -> None:
    desk = lay()
    desk.answer(12)
    desk.try_()
    host = desk.host()
    dismiss(desk.cache)
    until(lambda: gone(host))
    assert not address(desk.cache).exists()
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tiny.tmp) not in found
