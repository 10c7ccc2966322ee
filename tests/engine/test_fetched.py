"""Two machines share their runs through a repository that both push to.   pytest tests/engine/test_fetched.py"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

Tiny = Any  # see conftest.py

ONE_BETTER = 'answer $((10 + TURN)); title "Turn $TURN"'


@pytest.fixture
def hub(tiny: Tiny, tmp_path: Path) -> Path:
    """The repository between them; `tiny` knows it as `origin`."""
    folder = tmp_path / "hub.git"
    tiny.git("clone", "-q", "--bare", str(tiny.root), str(folder))
    tiny.git("remote", "add", "origin", str(folder))
    return folder


@pytest.fixture
def other(tiny: Tiny, hub: Path, tmp_path: Path) -> Tiny:
    """The other machine."""
    made = type(tiny)(tmp_path / "other", tmp_path)
    tiny.git("clone", "-q", str(hub), str(made.root))
    return made


def ark(tiny: Tiny, *args: str, code: int = 0) -> str:
    """The verb in this process: what it printed, on both."""
    done = tiny.ark_here(*args)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return str(done.stdout + done.stderr)


def refs(folder: Path) -> dict[str, str]:
    done = subprocess.run(["git", "-C", folder, "for-each-ref"], capture_output=True, check=True, text=True)
    return {line.split("\t")[1]: line.split(" ")[0] for line in done.stdout.splitlines()}


def test_a_run_is_pushed_fetched_read_and_gone_on_with(tiny: Tiny, other: Tiny) -> None:
    other.play(ONE_BETTER, attempts=3, tag="night")
    assert "origin/night: the baseline and 3 attempts, all new; branch autoresearch/night" in ark(other, "push")
    before = {path: (tiny.root / path).read_bytes() for path in (".git/HEAD", ".git/index", ".git/config")}
    told = ark(tiny, "fetch")
    assert "origin/night: the baseline and 3 attempts, all new" in told and "ark log --tag origin/night" in told
    assert before == {path: (tiny.root / path).read_bytes() for path in before}
    assert tiny.git("status", "--porcelain") == ""

    assert tiny.log("origin/night") == other.log("night")
    found = json.loads(ark(tiny, "status", "--tag", "origin/night", "--json"))
    assert (found["tag"], found["branch"]) == ("origin/night", "origin/autoresearch/night")
    assert (found["best"], found["kept"], found["running"]) == (13.0, 3, False)
    assert "Turn 2" in ark(tiny, "show", "origin/night/2") and "Turn 3" in ark(
        tiny, "show", "3", "--tag", "origin/night"
    )
    assert "Turn 1" in ark(tiny, "log", "--tag", "origin/night", "--tsv")
    assert ark(tiny, "log", "--tag", "origin/night", "--replay", "first_better")

    agent = tiny.agent("answer 30")
    told = ark(tiny, "run", "--tag", "mine", "--from", "origin/night/2", "--attempts", "1", "--agent", agent)
    assert [a["value"] for a in tiny.log("mine")] == [12.0, 30.0]
    assert tiny.log("mine")[0]["parent"] == other.log("night")[2]["commit"]


def test_verbs_that_write_refuse_a_fetched_run(tiny: Tiny, other: Tiny) -> None:
    other.play(ONE_BETTER, attempts=1, tag="night")
    ark(other, "push")
    ark(tiny, "fetch")
    before, agent = refs(tiny.root), tiny.agent("answer 30")
    for args in (
        ["run", "--tag", "origin/night", "--agent", agent],
        ["desk", "--tag", "origin/night"],
        ["verify", "--tag", "origin/night"],
        ["note", "mine", "--tag", "origin/night"],
        ["push", "--tag", "origin/night"],
        ["push", "--tag", "t", "--as", "origin/night"],
    ):
        if args[0] == "push" and "--as" in args:
            tiny.play(ONE_BETTER, attempts=1)
            before = refs(tiny.root)
        told = ark(tiny, *args, code=2)
        assert "error: origin/night is the name of a run that was fetched: it can be read only" in told
        assert "hint: begin one of your own with its files: ark run --tag NAME --from origin/night/N" in told
        assert refs(tiny.root) == before
    assert ark(tiny, "note", "--tag", "origin/night") == ""
    told = ark(tiny, "log", "--tag", "origin/nigth", code=2)
    assert "there is no run origin/nigth" in told and "the runs are: t, origin/night" in told


@pytest.mark.slow
def test_a_change_of_a_fetched_run_is_tried_here(tiny: Tiny, other: Tiny) -> None:
    other.play(ONE_BETTER, attempts=2, tag="night")
    ark(other, "push")
    ark(tiny, "fetch")
    desk = Path(tiny.ark("desk", "--tag", "mine").stdout.strip())
    done = tiny.ark("try", "--from", "origin/night/1", "--json", cwd=desk)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["outcome"], found["value"], found["origin"]) == ("keep", 11.0, ["origin/night/1"])
    assert tiny.log("origin/night") == json.loads(tiny.ark("log", "--tag", "origin/night", "--json", cwd=desk).stdout)


@pytest.mark.slow
def test_the_transplant_agent_tries_what_others_kept_and_not_its_own_again(tiny: Tiny, other: Tiny) -> None:
    other.play('echo "$TURN" > notes.txt; answer $((10 + 5 * TURN))', attempts=1, tag="night")
    ark(other, "push")
    tiny.play("answer 12", attempts=1, tag="first")
    ark(tiny, "push", "--tag", "first", "--as", "mine")
    ark(tiny, "fetch")
    told = ark(tiny, "run", "--tag", "second", "--agent", "transplant")
    assert [a["origin"] for a in tiny.log("second")[1:]] == [["first/1"]]
    assert "origin/night/1 is passed over: Conflict" in told and "origin/mine" not in told


@pytest.mark.slow
def test_a_run_that_goes_on_is_pushed_meanwhile(tiny: Tiny, hub: Path, tmp_path: Path) -> None:
    agent = tiny.agent("answer $((10 + TURN)); sleep 0.05")
    command = [*tiny.command, "run", "--tag", "t", "--attempts", "12", "--agent", agent]
    with subprocess.Popen(command, cwd=tiny.folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as going:
        while going.poll() is None:
            if "refs/heads/autoresearch/t" in refs(tiny.root):
                ark(tiny, "push", "--tag", "t")
                there = refs(hub)
                numbers = sorted(name for name in there if name.startswith("refs/ark/"))
                assert all(outcome(hub, name) != "running" for name in numbers)
                assert (
                    there["refs/heads/autoresearch/t"] == there[[n for n in numbers if outcome(hub, n) == "keep"][-1]]
                )
    assert going.returncode == 0
    ark(tiny, "push", "--tag", "t")
    mine = {name: oid for name, oid in refs(tiny.root).items() if name.startswith(("refs/ark/t/0", "refs/heads/auto"))}
    assert len(mine) == 14 and mine.items() <= refs(hub).items()


def outcome(hub: Path, name: str) -> str:
    how = ["git", "-C", hub, "log", "-1", "--format=%(trailers:key=Ark-Outcome,valueonly)", name]
    return subprocess.run(how, capture_output=True, check=True, text=True).stdout.strip()


def test_one_word_is_a_remote_or_else_a_folder(tiny: Tiny, hub: Path, tmp_path: Path) -> None:
    tiny.play(ONE_BETTER, attempts=1)
    again = type(tiny)(tiny.root, tmp_path, "notes")  # stands in a folder without a spec
    assert "origin/t: the baseline and 1 attempt" in ark(again, "push", "..")
    assert "nothing new on origin" in ark(again, "fetch", "..")
    assert "all there before" in ark(tiny, "push", "origin", "--tag", "t")
    assert "all there before" in ark(again, "push", "origin", "..")
    told = ark(tiny, "push", "nowhere", code=2)
    assert "there is no remote nowhere" in told and "git remote add nowhere URL; the remotes are: origin" in told
    (tiny.root / "origin").mkdir()
    (tiny.root / "origin/autoresearch-config.yaml").write_text("name: not this one")
    assert "all there before" in ark(tiny, "push", "origin")


def test_a_clone_with_fetched_runs_alone_names_them(tiny: Tiny, hub: Path, tmp_path: Path) -> None:
    tiny.play(ONE_BETTER, attempts=1)
    ark(tiny, "push")
    for ref in tiny.git("for-each-ref", "--format=%(refname)", "refs/ark/", "refs/heads/autoresearch/").split():
        tiny.git("update-ref", "-d", ref)
    assert "start one: ark run; or bring those of others: ark fetch" in ark(tiny, "log", code=2)
    ark(tiny, "fetch")
    for verb in ("log", "report", "status"):
        assert "name one: --tag origin/t" in ark(tiny, verb, code=2)


def test_without_a_run_or_a_remote_there_is_a_sentence(tiny: Tiny) -> None:
    told = ark(tiny, "push", code=2)
    assert "there is no run of this project yet" in told
    tiny.play(ONE_BETTER, attempts=1)
    told = ark(tiny, "push", code=2)
    assert "there is no remote origin" in told and "hint: add it: git remote add origin URL" in told
    tiny.git("remote", "add", "origin", "/nowhere")
    told = ark(tiny, "fetch", code=1)
    assert "error: origin cannot be read: '/nowhere' does not appear to be a git repository" in told


@pytest.mark.slow
def test_the_latest_run_is_pushed_and_others_by_name(tiny: Tiny, hub: Path) -> None:
    for tag in ("a", "b", "c"):
        tiny.play(ONE_BETTER, attempts=1, tag=tag)
    pushed = ark(tiny, "push")
    assert "origin/c: " in pushed and "origin/a" not in pushed
    assert (
        "origin/a: the baseline and 1 a" in (pushed := ark(tiny, "push", "--tag", "a", "--tag", "b"))
        and "origin/b: the baseline and 1 a" in pushed
    )
    assert "--as names one run" in ark(tiny, "push", "--tag", "a", "--tag", "b", "--as", "x", code=2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_push_that_is_ended_half_way(tiny: Tiny, hub: Path, tmp_path: Path, number: int) -> None:
    tiny.play(ONE_BETTER, attempts=2)
    before = refs(hub)
    hook = hub / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    hook.chmod(0o755)
    process = subprocess.Popen(
        [*tiny.command, "push"], cwd=tiny.folder, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        time.sleep(0.02)
        assert process.poll() is None
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does it
    else:
        process.send_signal(number)
    if number == signal.SIGKILL:  # its git goes on by itself, until the other side ends
        process.wait()
    if number != signal.SIGINT:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    err = process.communicate(timeout=30)[1]
    if number != signal.SIGKILL:
        assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err
    assert refs(hub) == before
    hook.unlink()
    assert "origin/t: the baseline and 2 attempts, all new" in ark(tiny, "push")


@pytest.mark.slow
def test_records_that_somebody_forged_break_no_verb(tiny: Tiny, hub: Path) -> None:
    tiny.play(ONE_BETTER, attempts=1)
    ark(tiny, "push")
    text = tiny.git("log", "-1", "--format=%B", "refs/ark/t/0001")
    forged = {
        "kind": text.replace('"value":11.0', '"value":"11"'),
        "nan": text.replace('"value":11.0', '"value":NaN'),
        "time": text.replace("Ark-Started: 2", "Ark-Started: yesterday 2"),
        "cost": re.sub("Ark-Cost: .*", 'Ark-Cost: {"money":[1]}', text),
        "fine": re.sub("Ark-Agent: .*", "Ark-Agent: \x1b[31mred", text).replace('"also":{', '"also":{"\\u001b[31m":1,'),
    }
    for name, message in forged.items():
        made = tiny.git("commit-tree", "refs/ark/t/0001^{tree}", "-p", "refs/ark/t/0000", "-m", message)
        tiny.git("push", "-q", "origin", f"refs/ark/t/0000:refs/ark/{name}/0000", f"{made}:refs/ark/{name}/0001")
    told = ark(tiny, "fetch")
    for name in ("kind", "nan", "time", "cost"):
        assert f"origin/{name} cannot be read and is left out: refs/ark-remotes/origin/{name}/0001" in told
    assert "origin/fine: the baseline and 1 attempt, 1 of them new" in told
    found = json.loads(ark(tiny, "compare", "--json"))
    assert {run["tag"] for run in found["runs"]} == {"t", "origin/fine"}
    for name in forged:
        for verb in (
            ["log", "--tag"], ["log", "--json", "--tag"], ["log", "--tsv", "--tag"], ["status", "--tag"],
            ["report", "-o", str(tiny.tmp / "report.html"), "--tag"], ["watch", "--once", "--tag"], ["compare"],
        ):  # fmt: skip
            told = ark(tiny, *verb, f"origin/{name}", code=0 if name == "fine" else 1)
            assert "\x1b" not in told and (name == "fine" or "is not a record of `ark`" in told)
    assert "\x1b" not in ark(tiny, "show", "origin/fine/1")


@pytest.mark.slow
def test_what_ssh_leaves_in_the_background_holds_nobody_up(tiny: Tiny, hub: Path, tmp_path: Path) -> None:
    """A connection that ssh keeps open for the next command (ControlPersist) has our end of its standard error."""
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nsleep 300 & echo $! >> {tmp_path}/left\nshift\nexec sh -c "$1"\n')
    ssh.chmod(0o755)
    tiny.git("remote", "set-url", "origin", f"somewhere:{hub}")
    tiny.git("config", "ssh.variant", "simple")
    tiny.play(ONE_BETTER, attempts=1)
    for verb, words in (("push", "origin/t: the baseline and 1 attempt, all new"), ("fetch", "nothing new on origin")):
        done = tiny.ark(verb, env={"GIT_SSH": str(ssh)})
        assert done.returncode == 0 and words in done.stdout + done.stderr, done.stderr
    for pid in (tmp_path / "left").read_text().split():
        os.kill(int(pid), signal.SIGKILL)  # it was there to the end
