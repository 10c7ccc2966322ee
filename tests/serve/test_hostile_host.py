"""What an agent forges, or a kill leaves half done: no change is lost, and nothing that was planted is believed.

pytest tests/serve/test_hostile_host.py
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.lab.cache import cache_root
from autoresearch_kit.lab.ticket import Ticket
from autoresearch_kit.serve import client
from autoresearch_kit.serve import host as hosts
from autoresearch_kit.serve import server as wire
from autoresearch_kit.serve.answers import NOTHING, lines
from autoresearch_kit.serve.place import Place
from tests.serve.conftest import OnDesk, until

PREPARED = """
import os, sys, time
from pathlib import Path
from autoresearch_kit.lab.desk import Desk
from autoresearch_kit.serve import host
from autoresearch_kit.serve.host import Host
{change}
host.main(sys.argv[1:])
"""
KILLED = """
def lay(self, *given):
    (self.root / "train.sh").unlink()
    os.kill(os.getpid(), 9)
Desk.lay = lay
"""
SLOW = """
def slow(*given):
    done = real(*given)
    order = given[0].server._order
    Path({mark!r}).touch()
    while not order.cancelled:
        time.sleep(0.01)
    return done
real, Host.{step} = Host.{step}, slow
"""


@pytest.fixture
def desk_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a desk would be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = cache_root() / "project" / "run" / "desk"
    folder.mkdir(parents=True)
    return folder


@contextmanager
def prepared(desk: OnDesk, change: str) -> Iterator[None]:
    """A process that measures for this desk, and behaves a little differently."""
    spec = desk.tiny.folder / "autoresearch-config.yaml"
    command = [sys.executable, "-c", PREPARED.format(change=change), str(spec), desk.tag]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None and b"ready" in process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


# Killed, or stopped, at the wrong moment


@pytest.mark.slow
def test_a_host_that_is_killed_while_it_lays_the_desk_loses_nothing(desk: OnDesk) -> None:
    desk.answer(12)
    with prepared(desk, KILLED):
        done = desk.ark("try", "-m", "twelve")
        assert done.returncode == 1 and "was killed" in done.stderr
        assert not (desk.folder / "train.sh").exists()
    found = desk.try_("-m", "the same call again")
    assert (found["number"], found["outcome"], found["value"], found["title"]) == (1, "keep", 12, "twelve")
    assert (desk.folder / "train.sh").read_text() == "echo 12 > answer.txt\n"
    assert [a["outcome"] for a in desk.log()] == ["keep", "keep"]


@pytest.mark.slow
@pytest.mark.parametrize(("step", "outcomes"), [("_propose", ["keep"]), ("_try_to_lay", ["keep", "lost"])])
def test_ctrl_c_before_the_measurement_begins_stops_it(desk: OnDesk, step: str, outcomes: list[str]) -> None:
    desk.answer(12)
    mark = desk.tiny.tmp / "mark"
    with prepared(desk, SLOW.format(mark=str(mark), step=step)):
        calling = desk.start("try", "-m", "twelve")
        until(mark.exists)
        calling.send_signal(signal.SIGINT)
        _, err = calling.communicate(timeout=60)
        assert calling.returncode == 130 and "topped" in err
        assert (desk.folder / "train.sh").read_text() == "echo 12 > answer.txt\n"
    assert [a["outcome"] for a in desk.log()] == outcomes


# Forged


@pytest.mark.parametrize("place", ["desk", "file", "linked folder", "linked file"])
def test_no_git_is_started_in_a_folder_of_an_agents(
    desk_folder: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = desk_folder / "autoresearch-config.yaml"
    link = tmp_path / "link"
    link.symlink_to(desk_folder)
    if place == "linked file":  # one on the desk that leads out of it
        spec.symlink_to(tmp_path / "elsewhere")
    forged = {"desk": desk_folder, "linked folder": link / spec.name}.get(place, spec)
    monkeypatch.setattr(hosts, "open_project", lambda where: pytest.fail("git was started"))
    assert hosts.main([str(forged), "t"]) == 2
    assert "a throwaway copy" in capfd.readouterr().err
    Ticket(str(forged), "t", "").write(desk_folder.parent)
    assert Ticket.read(desk_folder.parent) is None


def test_a_forged_ticket_is_none(desk_folder: Path) -> None:
    cache = desk_folder.parent
    Ticket("/a/spec.yaml", "t", "").write(cache)
    assert Ticket.read(cache) == Ticket("/a/spec.yaml", "t", "")
    for spec, tag in [
        ("/a\0b", "t"),
        ("/\ud800", "t"),
        ("a", "t"),
        ("/a", "a\0b"),
        ("/a", "../../x"),
        ("/a", "\ud800"),
    ]:
        Ticket(spec, tag, "").write(cache)
        assert Ticket.read(cache) is None, (spec, tag)


@pytest.mark.parametrize(
    "forged",
    [
        {"result": {"number": 1}},
        {"result": {**NOTHING, "notes": "all"}},
        {"result": {**NOTHING, "notes": [1]}},
        {"result": {**NOTHING, "number": "1"}},
        {"result": {**NOTHING, "reason": None}},
        {"result": {**NOTHING, "log_tail": 5, "token": []}},
        {"error": None, "exit_code": 999},
        {"error": ["a"], "hint": {}, "exit_code": "x"},
        {"error": "\x1b[2Jno", "exit_code": True},
        {"result": {**NOTHING, "reason": "\x1b[2Jyes", "notes": ["\x1b]0;x"], "title": "a\x07"}},
    ],
    ids=range(10),
)
def test_a_forged_answer_is_no_traceback_and_reaches_no_terminal(desk_folder: Path, forged: dict[str, Any]) -> None:
    cache = desk_folder.parent
    for name, text in (("a", json.dumps(forged)), ("b", "[" * 10_000 + "]" * 10_000), ("c", "3")):
        (folder := cache / "logs/unread").mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(text)
    try:
        found = client.wait(Place(cache, "t", cache), None, lambda event: None)
    except ArkError as error:
        assert error.exit_code == 1
        said = error.message + error.hint
    else:
        said = "\n".join(lines(found))
    assert "\x1b" not in said and "\x07" not in said


def test_where_others_can_enter_nobody_listens(desk_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as /tmp/ark-UID, when somebody else has made it first: `ark run` does not need it."""
    folder = desk_folder / "open"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setattr(client, "address", lambda cache: folder / "a.sock")
    client.dismiss(desk_folder.parent)
    assert client.at_work(desk_folder.parent) == ""


@pytest.mark.slow
def test_those_who_say_nothing_keep_nobody_out(desk_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wire.REQUEST_SECONDS < client.REACH_SECONDS, "whoever wants in outlasts them"
    monkeypatch.setattr(wire, "REQUEST_SECONDS", 0.3)
    cache = desk_folder.parent
    server = wire.Server(cache, lambda: None)
    idle = [socket.socket(socket.AF_UNIX) for _ in range(wire.MAX_CLIENTS + 20)]
    try:
        for connection in idle:
            connection.connect(str(wire.address(cache)))
        monkeypatch.setattr(client, "_start", lambda place, cache: None)
        threading.Thread(target=lambda: server.take(30) and server.answer(NOTHING)).start()
        order = {"title": "", "detach": False}
        assert client.measure(Place(cache, "t", cache), order, lambda event: None)["outcome"] == "running"
    finally:
        server.close()
        for connection in idle:
            connection.close()
