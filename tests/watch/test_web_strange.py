"""Strange questions to `ark watch --web`, and readers that go without a word.

.venv/bin/pytest tests/watch/test_web_strange.py
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from autoresearch_kit.watch import web
from tests.vega import _made_vega, ready_vega  # noqa: F401 - fixtures
from tests.watch.test_web import BETTER, PATIENCE, raw, serving

Tiny = Any  # see tests/engine/conftest.py
pytestmark = pytest.mark.usefixtures("ready_vega")


@pytest.mark.slow
@pytest.mark.parametrize("path", ["http://[", "http://[/x/", "//[", "http://[::1/?a=b"])
def test_an_address_that_is_none_is_refused(tiny: Tiny, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(tiny) as served:
        answer = raw(served, f"GET {path} HTTP/1.1\r\nHost: localhost:{served.port}\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 ")) and b"\r\n\r\n" in answer
        assert served.ask()[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("version", ["%C2%B2", "%D9%A1", "1" * 5000, "+0", "0_0", "0%0A"])
def test_a_version_that_is_no_number_reads_the_page_anew(
    tiny: Tiny, version: str, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny.play(BETTER, attempts=1)
    with serving(tiny) as served, served.events(f"1.{version}") as told:
        assert next(told)["reload"] is True
    assert capfd.readouterr().err == ""


def test_a_mistake_of_ours_is_one_line(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no\n\x1b[31mpage")

    with serving(tiny) as served:
        monkeypatch.setattr(served.station, "page", broken)
        status, _, body = served.ask()
        assert status == 500 and body.count(b"\n") == 1 and b"\x1b" not in body
        monkeypatch.setattr(served.station, "next_news", broken)
        with served.events() as told:
            assert next(told, None) is None
        deadline = time.monotonic() + PATIENCE
        said = ""
        while said.count("\n") < 2 and time.monotonic() < deadline:
            said += capfd.readouterr().err
    lines = said.splitlines()
    assert len(lines) == 2 and "\x1b" not in said
    assert all(line.startswith("ark: a question of a browser could not be answered: ValueError: no") for line in lines)


def test_the_place_of_a_reader_that_is_gone_is_free(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "BEAT_SECONDS", 3600.0)  # nothing is said meanwhile
    monkeypatch.setattr(web, "READERS", 2)
    monkeypatch.setattr(web, "GLANCE_SECONDS", 0.1)
    with serving(tiny) as served:
        for _ in range(8):  # a page that is read anew
            with served.events("0.0") as told:
                next(told)
        deadline = time.monotonic() + PATIENCE
        while served.station._readers:
            assert time.monotonic() < deadline
            time.sleep(0.02)
