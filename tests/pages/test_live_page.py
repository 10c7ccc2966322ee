"""The live page in a real Chromium, while a run goes on.   pytest tests/pages/test_live_page.py"""

# ruff: noqa: F811 - fixtures are asked for by their names

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import Tiny, _home, _surroundings, _template, tiny  # noqa: F401 - fixtures
from tests.vega import _made_vega, ready_vega  # noqa: F401 - fixtures

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
expect = sync_api.expect
pytestmark = pytest.mark.usefixtures("ready_vega")

PATIENCE = 60_000
"""Milliseconds, for what takes a moment on a machine that does much else."""
HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
AGENT = f"""answer $((20 + TURN)); title 'Turn {HOSTILE}'
n=0; while [ ! -e "$GO" ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n+1)); done"""


@dataclass
class Watched:
    """A page that shows the run of `tiny`, the server behind it, and what the browser had to say."""

    page: Any
    server: subprocess.Popen[str]
    url: str
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def loads(self) -> int:
        return sum(url == self.url for url in self.asked)


def start(tiny: Tiny, *args: str) -> tuple[subprocess.Popen[str], str]:
    server = subprocess.Popen(
        [*tiny.command, "watch", "--web", *args], cwd=tiny.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert server.stdout is not None
    return server, server.stdout.readline().strip()


@pytest.fixture
def watched(tiny: Tiny, browser: Any) -> Iterator[Watched]:
    tiny.play('answer 11; title "First"', attempts=1)
    server, url = start(tiny, "--tag", "t")
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    found = Watched(page, server, url)
    page.on("console", lambda message: found.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: found.said.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (found.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: found.asked.append(request.url))
    page.goto(url)
    page.wait_for_selector("#chart[data-drawn='2']")
    yield found
    context.close()
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=30)


def run(tiny: Tiny, script: str, attempts: int, **env: str) -> subprocess.Popen[bytes]:
    command = [*tiny.command, "run", "--tag", "t", "--attempts", str(attempts), "--agent", tiny.agent(script)]
    return subprocess.Popen(
        command, cwd=tiny.folder, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def test_a_run_that_goes_on_appears_as_it_happens(tiny: Tiny, watched: Watched, tmp_path: Path) -> None:
    page, go = watched.page, tmp_path / "go"
    with run(tiny, f"GO='{go}'\n{AGENT}", 2) as going:
        # The agent's first turn waits for us.
        expect(page.locator("#live-words")).to_contain_text("the agent thinks", timeout=PATIENCE)
        assert page.locator("#live").get_attribute("data-state") == "running"
        go.touch()
        page.wait_for_selector("#chart[data-drawn='4']")
        going.wait()
    expect(page.locator("#live-words")).to_contain_text("2 attempts made, as asked", timeout=PATIENCE)
    rows = page.locator("#rows tr")
    assert rows.count() == 4
    assert "attempt 3" in page.locator("#about").inner_text(), "also the facts at the end are those of now"
    assert HOSTILE in rows.nth(2).inner_text()
    assert page.locator(".tile[data-key='attempts'] b").inner_text() == "3"
    page.wait_for_selector("#live[data-state='resting']")
    rows.nth(2).locator("a").click()
    assert "answer.txt" in page.locator("#panel .diff").inner_text()
    assert watched.said == []
    assert watched.loads() == 1, "it was never read anew"
    assert all(url.startswith(watched.url) for url in watched.asked)


def test_the_log_and_the_learning_curve_of_what_is_measured(tiny: Tiny, watched: Watched, tmp_path: Path) -> None:
    page = watched.page
    loop = 'for n in 1 2 3; do echo "step $n loss: 0.$((9 - n))"; done; echo "<b>bold</b>"'
    wait = f"n=0; while [ ! -e {tmp_path}/go ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n+1)); done"
    script = f"cat > train.sh <<'END'\n{loop}\n{wait}\necho 12 > answer.txt\nEND\n"
    with run(tiny, script, 1) as going:
        expect(page.locator("#live-log")).to_contain_text("<b>bold</b>", timeout=PATIENCE)
        page.wait_for_selector("#live-curve[data-points='3']")
        assert "loss by step, attempt 2: 0.6" in page.locator("#live-curve-text").inner_text()
        assert page.locator("#live-log b").count() == 0
        assert page.locator("#live-curve svg path").count() > 0
        texts = page.locator("#live-curve svg text").all_text_contents()
        assert {"1", "2", "3", "step", "loss"} <= {*texts} and "1.2" not in texts
        bar = page.locator("#live-bar")
        assert bar.is_visible() and float(bar.get_attribute("max")) > 0
        before = page.locator("#live-curve path[stroke]").last.get_attribute("stroke")
        page.locator("#theme").click()
        expect(page.locator("#live-curve path[stroke]").last).not_to_have_attribute("stroke", before, timeout=PATIENCE)
        (tmp_path / "go").touch()
        going.wait()
    page.wait_for_selector("#chart[data-drawn='3']")
    assert watched.said == []


def test_a_connection_that_is_lost_is_told_and_taken_up_again(tiny: Tiny, watched: Watched) -> None:
    page = watched.page
    page.context.set_offline(True)
    watched.server.send_signal(signal.SIGSTOP)
    page.evaluate("() => dispatchEvent(new Event('online'))")  # asks anew, and gets no answer
    page.wait_for_selector("#live-lost:not([hidden])")
    assert "Connection lost" in page.locator("#live-lost").inner_text()
    tiny.play("answer 20; title 'Meanwhile'", attempts=1)
    watched.server.send_signal(signal.SIGCONT)
    page.context.set_offline(False)
    page.wait_for_selector("#chart[data-drawn='3']")
    page.wait_for_selector("#live-lost", state="hidden")
    assert "Meanwhile" in page.locator("#rows tr").nth(2).inner_text()
    assert watched.loads() == 1


def test_a_server_that_is_gone_is_told(tiny: Tiny, watched: Watched) -> None:
    watched.server.send_signal(signal.SIGINT)
    assert watched.server.wait(timeout=30) == 0
    watched.page.wait_for_selector("#live-lost:not([hidden])")
    assert watched.page.locator("#rows tr").count() == 2, "what was shown is still shown"


def test_a_page_of_somebody_else_reads_nothing(tiny: Tiny, watched: Watched, browser: Any) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto("data:text/html,<title>evil</title>")
    reached = page.evaluate("url => fetch(url).then((answer) => answer.text(), () => 'refused')", watched.url)
    assert reached == "refused"
    page.set_content(f"<iframe src='{watched.url}'></iframe>")
    page.wait_for_timeout(300)
    assert all("tiny" not in frame.title() for frame in page.frames)
    context.close()


def test_before_the_first_run_the_page_waits_for_it(tiny: Tiny, browser: Any) -> None:
    server, url = start(tiny)
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(url)
    expect(page.locator("#live-words")).to_contain_text("There is no run yet", timeout=PATIENCE)
    keys = "[...document.querySelectorAll('.tile')].map((tile) => tile.dataset.key)"
    assert page.evaluate(keys) == ["best", "gain", "attempts"]
    assert page.locator(".tile[data-key=gain].none b").inner_text() == "none"
    with run(tiny, "answer $((10 + TURN))", 2):
        page.wait_for_selector("#chart[data-drawn='3']")
    assert page.evaluate(keys)[:4] == ["best", "gain", "attempts", "time"]
    assert page.locator(".tile.none").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out on a phone"
    assert said == []
    context.close()
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=30)
