"""What an agent forges, or a kill leaves half done: no change is lost, and nothing that was planted is believed.

pytest tests/serve/test_hostile_host.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autoresearch_kit.lab.cache import TICKET, cache_root
from autoresearch_kit.lab.ticket import Ticket
from autoresearch_kit.serve import host as hosts
from tests.engine.conftest import Tiny
from tests.serve.conftest import OnDesk, gone, until

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
    desk: OnDesk, place: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = desk.folder / "autoresearch-config.yaml"
    link = desk.tiny.tmp / "link"
    if place == "linked folder":
        link.symlink_to(desk.folder)
    if place == "linked file":  # one on the desk that leads out of it
        spec.unlink()
        spec.symlink_to(desk.tiny.folder / spec.name)
    forged = {"desk": desk.folder, "linked folder": link / spec.name}.get(place, spec)
    monkeypatch.setattr(hosts, "open_project", lambda where: pytest.fail("git was started"))
    assert hosts.main([str(forged), desk.tag]) == 2
    assert "a throwaway copy" in capfd.readouterr().err
    ticket = json.loads((desk.cache / TICKET).read_text())
    (desk.cache / TICKET).write_text(json.dumps({**ticket, "spec": str(forged)}))
    assert Ticket.read(desk.cache) is None


@pytest.mark.parametrize(
    "forged",
    [{"spec": "/a\0b"}, {"spec": "/\ud800"}, {"tag": "a\0b"}, {"tag": "../../x"}, {"tag": "\ud800"}],
    ids=range(5),
)
def test_a_forged_ticket_is_none(desk: OnDesk, forged: dict[str, Any]) -> None:
    ticket = json.loads((desk.cache / TICKET).read_text())
    (desk.cache / TICKET).write_text(json.dumps({**ticket, **forged}))
    assert Ticket.read(desk.cache) is None
