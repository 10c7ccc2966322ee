"""The state file of a running engine, and what others put in its place.   pytest tests/watch/test_live.py"""

from __future__ import annotations

import json
import os
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_kit.core.records import Attempt, Proposal
from autoresearch_kit.core.spec import Budget
from autoresearch_kit.lab.cache import LIVE
from autoresearch_kit.lab.live import ENDLESS_SECONDS, MAX_BYTES, NOTES, Live, LiveFile, read_live
from autoresearch_kit.lab.measure import Phase
from autoresearch_kit.project import open_project
from autoresearch_kit.ratchet import Run
from autoresearch_kit.workshop import Workshop

RUN = Phase("run", 300.0, Path("/x/logs/0007.run.log"))
Tiny = Any


def attempt(title: str = "lr: higher") -> Attempt:
    return Attempt(7, "", "", "", Proposal(title, agent="claude"), (), None, "", "")


@pytest.fixture
def live(tmp_path: Path) -> LiveFile:
    live = LiveFile()
    live.open(tmp_path, "spec.yaml", "nov21", Budget(attempts=100, money=2.5))
    return live


def test_what_was_told_is_what_is_read(live: LiveFile, tmp_path: Path) -> None:
    live.limit(10, 1.5)
    live.attempt(attempt())
    live.sampling(2, True)
    live.phase(RUN)
    live.made(3)
    found = read_live(tmp_path)
    assert found == live.state
    assert (found.number, found.title, found.agent) == (7, "lr: higher", "claude")
    assert (found.phase, found.limit_seconds, found.log) == ("run", 300.0, "0007.run.log")
    assert (found.done, found.of_head, found.made, found.attempts, found.hours) == (2, True, 3, 10, 1.5)
    assert (found.budget, found.pid, found.ended) == (Budget(attempts=100, money=2.5), os.getpid(), None)
    live.judged()
    assert (found := read_live(tmp_path)) and (found.number, found.phase, found.done, found.made) == (None, "", 0, 3)


def test_the_end_is_told_once(live: LiveFile, tmp_path: Path) -> None:
    live.phase(RUN)
    live.end("10 attempts made, as asked")
    assert (found := read_live(tmp_path)) and found.ended is None
    live.close()
    assert (found := read_live(tmp_path)) and found.ended and found.reason == "10 attempts made, as asked"
    (tmp_path / LIVE).unlink()
    live.close()
    live.phase(RUN)
    assert not (tmp_path / LIVE).exists()


def test_before_it_is_opened_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    live = LiveFile()
    live.phase(RUN)
    live.note("something")
    live.close()
    assert list(tmp_path.iterdir()) == []


def test_only_the_last_notes_are_kept(live: LiveFile, tmp_path: Path) -> None:
    for i in range(9):
        live.note(f"note {i} \x1b[31m" + "x" * 1000)
    found = read_live(tmp_path)
    assert found and len(found.notes) == NOTES
    assert found.notes[-1][1].startswith("note 8 [31mx") and len(found.notes[-1][1]) <= 300


def test_an_agent_that_drives_goes_on_when_an_attempt_is_judged(live: LiveFile, tmp_path: Path) -> None:
    live.phase(Phase("agent", 10 * ENDLESS_SECONDS, Path("/x/logs/session.log"), "claude"))
    assert (found := read_live(tmp_path)) and found.agent == "claude"
    live.attempt(attempt())
    live.phase(RUN)
    live.note("the desk was laid anew")
    live.judged()
    assert (found := read_live(tmp_path)) and (found.phase, found.log) == ("agent", "session.log")
    assert found.limit_seconds is None and found.agent == "claude"
    live.note("The agent is rate limited; it is asked again in 5 minutes")
    live.phase(Phase("rest", 300.0, Path(), "claude"))
    live.judged()
    assert (found := read_live(tmp_path)) and found.phase == ""


def test_an_agent_whose_turn_brought_a_note_is_at_work_no_more(live: LiveFile, tmp_path: Path) -> None:
    live.phase(Phase("agent", 1800.0, Path("/x/logs/0007.agent.log")))
    live.note("The agent is rate limited; it is asked again in 5 minutes")
    assert (found := read_live(tmp_path)) and found.phase == ""
    live.phase(Phase("rest", 300.0, Path(), "claude"))
    live.note("something else")
    assert (found := read_live(tmp_path)) and (found.phase, found.limit_seconds, found.log) == ("rest", 300.0, "")


# What others put there


def good(tmp_path: Path) -> dict[str, Any]:
    live = LiveFile()
    live.open(tmp_path, "spec.yaml", "nov21", Budget(attempts=100))
    live.phase(RUN)
    live.note("hello")
    found: dict[str, Any] = json.loads((tmp_path / LIVE).read_text())
    return found


BAD: dict[str, object] = {
    "pid": "1", "started": float("nan"), "number": -1, "title": 3, "phase": None, "began": 1e300,
    "limit_seconds": [], "log": "../../etc/passwd", "done": True, "made": 1e14, "attempts": "many",
    "notes": [["now", "x"]], "ended": {}, "reason": [], "counted": -1, "hours": "1",
}  # fmt: skip


@pytest.mark.parametrize("key", BAD)
def test_what_has_another_type_is_not_believed(tmp_path: Path, key: str) -> None:
    found = good(tmp_path)
    assert read_live(tmp_path) is not None
    (tmp_path / LIVE).write_text(json.dumps({**found, key: BAD[key]}))
    assert read_live(tmp_path) is None
    del found[key]
    (tmp_path / LIVE).write_text(json.dumps(found))
    assert read_live(tmp_path) is None


@pytest.mark.parametrize("budget", [None, 3, [], {"attempts": "x"}, {"other": 1}, {"hours": -1}])
def test_limits_of_another_version_cost_no_other_part(tmp_path: Path, budget: object) -> None:
    (tmp_path / LIVE).write_text(json.dumps({**good(tmp_path), "budget": budget}))
    assert (found := read_live(tmp_path)) and found.budget is None and found.phase == "run"


def test_texts_are_harmless_for_a_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;title\x07\u202e\x00\nnew line" + "x" * 10_000
    (tmp_path / LIVE).write_text(json.dumps({**good(tmp_path), "title": evil, "reason": evil, "notes": [[1, evil]]}))
    found = read_live(tmp_path)
    assert found
    for text in (found.title, found.reason, found.notes[0][1]):
        assert text.isprintable() and len(text) <= 300


def put_link(path: Path) -> None:
    path.with_name("elsewhere").write_text(path.read_text())
    path.unlink()
    path.symlink_to("elsewhere")


def put_folder(path: Path) -> None:
    path.unlink()
    (path / "deep" / "er").mkdir(parents=True)


def put_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def put_much(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" " * MAX_BYTES)


def put_sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(10**12)


def put_garbage(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def put_depth(path: Path) -> None:
    path.write_text("[" * 60_000)


ATTACKS = [put_link, put_folder, put_pipe, put_much, put_sparse, put_garbage, put_depth]


@pytest.mark.parametrize("attack", ATTACKS)
def test_whatever_lies_there_is_no_state_and_is_replaced(
    live: LiveFile, tmp_path: Path, attack: Callable[[Path], None]
) -> None:
    attack(tmp_path / LIVE)
    assert read_live(tmp_path) is None
    elsewhere = tmp_path / "elsewhere"
    before = elsewhere.read_text() if elsewhere.exists() else ""
    live.phase(RUN)
    assert read_live(tmp_path) == live.state
    assert not before or elsewhere.read_text() == before


@pytest.mark.parametrize("attack", [put_folder, put_pipe])
def test_what_lies_in_the_way_of_writing_is_removed(
    live: LiveFile, tmp_path: Path, attack: Callable[[Path], None]
) -> None:
    (tmp_path / f"{LIVE}.new").write_text("")
    attack(tmp_path / f"{LIVE}.new")
    live.phase(RUN)
    assert read_live(tmp_path) == live.state
    assert [path.name for path in tmp_path.iterdir()] == [LIVE]


def test_a_link_in_the_place_of_the_cache_is_not_followed(live: LiveFile, tmp_path: Path) -> None:
    here = tmp_path / "cache"
    here.mkdir()
    (tmp_path / "other").mkdir()
    live.open(here, "spec.yaml", "t", Budget())
    (here / LIVE).unlink()
    here.rmdir()
    here.symlink_to("other")
    live.phase(RUN)
    assert list((tmp_path / "other").iterdir()) == []
    assert read_live(here) is None


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=9))
def test_no_document_is_too_strange(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / LIVE).write_text(json.dumps(document))
    assert read_live(folder) is None


@given(
    st.sampled_from(list(Live.__slots__)),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
)
def test_no_value_is_too_strange(tmp_path_factory: pytest.TempPathFactory, key: str, value: object) -> None:
    folder = tmp_path_factory.mktemp("strange", numbered=True)
    (folder / LIVE).write_text(json.dumps({**good(folder), key: value}))
    found = read_live(folder)
    assert found is None or not {unicodedata.category(c) for c in found.title} & {"Cc", "Cs", "Zl", "Zp"}


# Nothing of it hurts a run


def test_a_folder_that_cannot_be_written_hurts_nobody(live: LiveFile, tmp_path: Path) -> None:
    if os.getuid() == 0:  # root may write anywhere: a folder that is gone is the same to it
        (tmp_path / LIVE).unlink()
        tmp_path.rmdir()
    else:
        tmp_path.chmod(0o500)
    live.phase(RUN)
    live.close()
    tmp_path.mkdir(exist_ok=True)
    tmp_path.chmod(0o700)
    found = read_live(tmp_path)
    assert found is None or found.phase == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_no_stale_state(live: LiveFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr("autoresearch_kit.lab.live.write_all", lambda file, data: os.write(full, data))
    live.phase(RUN)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    os.close(full)
    live.made(1)
    assert (found := read_live(tmp_path)) and found.phase == "run"


def test_readers_never_see_half_of_it_and_threads_may_write(live: LiveFile, tmp_path: Path) -> None:
    stop = threading.Event()

    def write(words: str) -> None:
        while not stop.is_set():
            live.note(words)
            live.phase(RUN)

    threads = [threading.Thread(target=write, args=[letter * 200]) for letter in "ab"]
    for thread in threads:
        thread.start()
    try:
        found = [read_live(tmp_path) for _ in range(1000)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert None not in found
    assert not (tmp_path / f"{LIVE}.new").exists()


def test_a_run_tells_while_it_measures_and_its_file_survives_the_bench(tiny: Tiny) -> None:
    """Laying a bench sweeps the folder above it of what commands have left there."""
    seen: list[Live | None] = []
    tiny.play("answer 1$TURN", attempts=2, before=lambda run: seen.append(read_live(run.cache)))
    project = open_project(tiny.folder)
    with Run(project, "t", lambda event: seen.append(read_live(run.cache))) as run:
        run.open()
        run.ready()
        run.lay_desk({})
        (run.desk.folder / "train.sh").write_text("echo 77 > answer.txt\n")
        cache = run.cache
        run.attempt(Proposal("more", agent="me"))
    project.repository.close()
    during = [live for live in seen if live]
    assert len(during) == len(seen), "at every event it was there"
    assert {live.phase for live in during} >= {"run", "eval"}
    assert [live.title for live in during if live.phase == "run"][-1] == "more"
    assert (last := read_live(cache)) and last.ended


@pytest.mark.slow
def test_why_a_run_ended_is_told(tiny: Tiny) -> None:
    assert tiny.ark_here("run", "--tag", "t", "--agent", tiny.agent("answer 11"), "--attempts", "1").returncode == 0
    (cache,) = (tiny.cache / "ark").glob("user-*/autoresearch+t")
    assert (last := read_live(cache)) and last.ended and last.reason == "1 attempts made, as asked"
    tiny.commit(run_command="exit 3")
    assert tiny.ark_here("run", "--tag", "u", "--agent", "true").returncode == 1
    (cache,) = (tiny.cache / "ark").glob("user-*/autoresearch+u")
    assert (last := read_live(cache)) and last.ended and last.reason.startswith("the baseline failed: ")


def test_a_rehearsal_writes_none(tiny: Tiny) -> None:
    def workshop(*words: Any) -> Workshop:
        return Workshop(*words)

    project = open_project(tiny.folder)
    with Run(project, "t", workshop=workshop) as run:
        run.open()
        run.ready()
        assert not (run.cache / LIVE).exists()
    project.repository.close()
