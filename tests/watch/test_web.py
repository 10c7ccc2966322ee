"""The page of `ark watch --web`: who may read it, and what it is told.   pytest tests/watch/test_web.py"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from autoresearch_kit.core.errors import UsageError
from autoresearch_kit.project import open_project
from autoresearch_kit.watch import web
from autoresearch_kit.watch.station import Station
from tests.vega import _made_vega, ready_vega  # noqa: F401 - fixtures

Tiny = Any  # see tests/engine/conftest.py
pytestmark = pytest.mark.usefixtures("ready_vega")

BETTER = 'answer $((10 + TURN)); title "Turn $TURN"'
PATIENCE = 20.0
"""For what takes a moment, on a machine that does much else."""


@dataclass
class Served:
    """A server in this process."""

    server: Any
    station: Station

    @property
    def port(self) -> int:
        return int(self.server.server_port)

    @property
    def root(self) -> str:
        return f"/{self.server.token}/"

    def ask(self, path: str = "", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path or self.root, headers=headers)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    @contextlib.contextmanager
    def events(self, since: str = "0.0") -> Iterator[Iterator[dict[str, Any]]]:
        """What a page is told, message by message."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", f"{self.root}events?since={since}")
        answer = connection.getresponse()
        assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/event-stream")

        def messages() -> Iterator[dict[str, Any]]:
            state = ""
            while line := answer.readline().decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if name == "id":
                    state = value
                elif name == "data" and value:
                    yield {"state": state, **json.loads(value)}

        try:
            yield messages()
        finally:
            answer.close()
            connection.close()


@contextlib.contextmanager
def serving(tiny: Tiny, name: str | None = None) -> Iterator[Served]:
    project = open_project(tiny.folder)
    station = Station(project, name)
    station.look()
    with web._Server(station, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield Served(server, station)
        finally:
            server.shutdown()
            project.repository.close()


def document(page: bytes) -> dict[str, Any]:
    found = re.search(rb'<script type="application/json" id="ark-data">(.*?)</script>', page, re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


# Who may read


def test_the_page_is_for_whoever_knows_the_address(tiny: Tiny) -> None:
    tiny.play(BETTER, attempts=1)
    with serving(tiny) as served:
        status, headers, page = served.ask()
        assert status == 200 and b"<title>tiny" in page and document(page)["state"] == "1.0"
        wrong = [
            "/",
            "//",
            "/index.html",
            f"/{served.server.token[:-1]}/",
            "/%00/",
        ]
        wrong += [f"/x{served.root}", f"/?token={served.server.token}", "/../", f"{served.root.rstrip('/')}x/"]
        for path in (*wrong, "/events", "/x/events"):
            status, headers, body = served.ask(path)
            assert (status, headers["content-type"]) == (403, "text/plain; charset=utf-8"), path
            assert b"tiny" not in body and served.server.token.encode() not in body
        status, headers, _ = served.ask(served.root.rstrip("/"))
        assert (status, headers["location"]) == (308, served.root)
        for path in ("x", "events/x", "../etc/passwd", "page.js"):
            assert served.ask(served.root + path)[0] == 404


def test_what_every_answer_forbids(tiny: Tiny) -> None:
    with serving(tiny) as served:
        for path in ("", "/nothing"):
            _, headers, _ = served.ask(path)
            assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert "access-control-allow-origin" not in headers and "set-cookie" not in headers
            assert headers["server"].strip() == "ark"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "get", "FETCH"])
def test_it_can_only_be_read(tiny: Tiny, method: str) -> None:
    with serving(tiny) as served:
        status, headers, _ = served.ask("", method)
        assert (status, headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200), ("localhost:9", 200), ("LOCALHOST", 200), ("[::1]:7", 200), ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403), ("localhost.evil.example", 403), ("127.0.0.1@evil.example", 403),
        ("0.0.0.0:8000", 403), ("192.168.1.2", 403), ("", 403), ("localhost:x", 403),
    ],
)  # fmt: skip
def test_a_name_that_leads_here_by_a_trick_is_refused(tiny: Tiny, host: str, status: int) -> None:
    with serving(tiny) as served:
        assert served.ask(Host=host)[0] == status


def test_a_question_without_or_with_two_hosts_is_refused(tiny: Tiny) -> None:
    with serving(tiny) as served:
        for hosts in ("", f"Host: localhost:{served.port}\r\nHost: evil.example\r\n"):
            assert raw(served, f"GET {served.root} HTTP/1.1\r\n{hosts}\r\n").startswith(b"HTTP/1.1 403 ")
        for nonsense in (
            "\r\n\r\n",
            "GET\r\n\r\n",
            "GET / HTTP/9\r\n\r\n",
            "\x16\x03\x01\r\n\r\n",
            f"GET /{'a' * 70000}\r\n\r\n",
        ):
            assert b"Traceback" not in raw(served, nonsense) and served.ask()[0] == 200


def raw(served: Served, text: str) -> bytes:
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE) as connection:
        connection.sendall(text.encode("latin-1"))
        with contextlib.suppress(ConnectionResetError):
            found = b""
            while data := connection.recv(65536):
                found += data
        return found


def test_it_listens_on_the_loopback_address_alone(tiny: Tiny) -> None:
    with serving(tiny) as served:
        assert served.server.socket.getsockname()[0] == "127.0.0.1"
        assert len(served.server.token) >= 32
    with serving(tiny) as again:
        assert again.server.token != served.server.token


def test_a_port_that_is_taken_is_a_sentence(tiny: Tiny) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = tiny.ark_here("watch", "--web", "--port", str(port))
        assert done.returncode == 2 and f"error: port {port} is taken" in done.stderr and "--port N" in done.stderr


def test_a_name_that_is_no_run_is_a_sentence(tiny: Tiny) -> None:
    done = tiny.ark_here("watch", "--web", "--tag", "origin/nothing")
    assert done.returncode == 2 and "there is no run, branch or file called origin/nothing" in done.stderr


# What it is told


def test_what_is_new_is_told_and_nothing_else(tiny: Tiny) -> None:
    tiny.play(BETTER, attempts=1)
    with serving(tiny) as served:
        state = document(served.ask()[2])["state"]
        with served.events(state) as told:
            first = next(told)
            assert "attempts" not in first and first["live"]["at_work"] is False
            tiny.play(BETTER, attempts=1)
            served.station.look()
            news = next(told)
            while "attempts" not in news:
                news = next(told)
            assert [a["number"] for a in news["attempts"]] == [2] and news["attempts"][0]["title"] == "Turn 2"
            assert "answer.txt" in news["attempts"][0]["details"]["patch"]
            assert {tile["key"] for tile in news["summary"]["tiles"]} and news["chart"]["last"] == 2
            assert "Turn 2" in news["html"]["gains"]


def test_a_short_run_is_told_soon_however_long_an_update_took(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.play(BETTER, attempts=1)
    with serving(tiny) as served:
        state = document(served.ask()[2])["state"]
        ticks = itertools.count()
        monkeypatch.setattr(time, "thread_time", lambda: 0.2 * next(ticks))  # as when modules are loaded meanwhile
        tiny.play(BETTER, attempts=1)
        served.station.look()
        with served.events(state) as told:
            while "attempts" not in next(told):
                pass
        assert served.station._not_before - time.monotonic() < 2.1


@pytest.mark.slow
def test_who_was_away_catches_up(tiny: Tiny) -> None:
    tiny.play(BETTER, attempts=1)
    with serving(tiny) as served:
        state = document(served.ask()[2])["state"]
        for _ in range(3):
            tiny.play(BETTER, attempts=1)
            served.station.look()
        with served.events(state) as told:
            news = next(told)
            assert [a["number"] for a in news["attempts"]] == [2, 3, 4]
        with served.events(news["state"]) as told:
            assert "attempts" not in next(told)
        assert document(served.ask()[2])["state"] == news["state"], "a page that is read now has all of it"


@pytest.mark.parametrize("state", ["", "nonsense", "1.99", "7.0", "1.-1", "1.x", "%00", "1.0.0"])
def test_who_has_what_is_not_known_reads_the_page_anew(tiny: Tiny, state: str) -> None:
    tiny.play(BETTER, attempts=1)
    with serving(tiny) as served, served.events(state) as told:
        assert next(told)["reload"] is True


def test_another_run_is_another_page(tiny: Tiny) -> None:
    tiny.play(BETTER, attempts=1, tag="one")
    with serving(tiny) as served:
        state = document(served.ask()[2])["state"]
        # The one that is at work is looked at, as long as no name was given.
        tiny.play(BETTER, attempts=1, tag="two", before=lambda run: served.station.look())
        with served.events(state) as told:
            assert next(told)["reload"] is True
        assert document(served.ask()[2])["name"] == "two"


def test_before_there_is_a_run_it_waits(tiny: Tiny) -> None:
    with serving(tiny, "soon") as served:
        found = document(served.ask()[2])
        assert "ark run --tag soon" in found["live"]["words"]
        tiny.play(BETTER, attempts=1, tag="soon")
        served.station.look()
        with served.events(found["state"]) as told:
            assert next(told)["reload"] is True
        assert document(served.ask()[2])["name"] == "soon"


def test_a_ref_that_is_broken_meanwhile_is_told_and_ends_nothing(tiny: Tiny) -> None:
    tiny.play(BETTER, attempts=1)
    with serving(tiny, "t") as served:
        state = document(served.ask()[2])["state"]
        tiny.git("update-ref", "refs/ark/t/0000", "HEAD")
        tiny.git("pack-refs", "--all")
        served.station.look()
        with served.events(state) as told:
            assert "live" in next(told)
        assert served.ask()[0] == 200


def test_a_repository_that_is_gone_is_a_sentence(tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    tiny.play(BETTER, attempts=1)
    with serving(tiny, "t") as served:
        (tiny.root / ".git").rename(tiny.root / ".moved")
        status, headers, body = served.ask()
        assert (status, headers["content-type"]) == (500, "text/plain; charset=utf-8") and body.count(b"\n") == 1
        (tiny.root / ".moved").rename(tiny.root / ".git")
        assert served.ask()[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_fetched_run_and_a_foreign_table_are_pages_too(tiny: Tiny, tmp_path: Any) -> None:
    tiny.play(BETTER, attempts=1)
    tiny.git("update-ref", "refs/ark-remotes/hub/night/0000", "refs/ark/t/0000")
    (tmp_path / "results.tsv").write_text("commit\tscore\tstatus\tdescription\nabc1234\t1.5\tkeep\tbaseline\n")
    for name in ("hub/night", str(tmp_path / "results.tsv")):
        with serving(tiny, name) as served:
            assert document(served.ask()[2])["name"] == name


# Readers


def test_readers_are_limited_and_silent_ones_give_way(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "CONNECTIONS", 6)
    with serving(tiny) as served, contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port), PATIENCE)) for _ in range(12)
        ]
        assert served.ask()[0] == 200, "whoever connects and says nothing keeps nobody out"
        assert silent[0].recv(1) == b""


@pytest.mark.slow
def test_more_pages_than_there_is_room_for_are_told_so(tiny: Tiny) -> None:
    with serving(tiny) as served, contextlib.ExitStack() as stack:
        for _ in range(web.READERS):
            next(stack.enter_context(served.events("0.0")))
        status, _, body = served.ask(f"{served.root}events")
        assert status == 503 and b"Close one of them" in body
        assert served.ask()[0] == 200


def test_who_is_gone_is_forgotten(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "BEAT_SECONDS", 0.05)
    with serving(tiny) as served:
        with served.events("0.0") as told:
            next(told)
            assert served.station._readers == 1
        deadline = time.monotonic() + PATIENCE
        while served.station._readers:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_name_that_cannot_be(tiny: Tiny) -> None:
    project = open_project(tiny.folder)
    with pytest.raises(UsageError):
        Station(project, "no such thing/at all")
    project.repository.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_at_once_whoever_reads(tiny: Tiny, number: int) -> None:
    tiny.play(BETTER, attempts=1)
    process = subprocess.Popen(
        [*tiny.command, "watch", "--web"], cwd=tiny.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    found = re.fullmatch(r"http://127\.0\.0\.1:([0-9]+)(/[\w-]{32}/)", url)
    assert found is not None
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=PATIENCE)
    connection.request("GET", f"{found[2]}events?since=1.0")
    assert connection.getresponse().readline().startswith(b"id: ")
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    connection.close()
    assert (process.returncode, out) == (0, "") and "Traceback" not in err
