"""Kill `ark run` at any moment: it goes on, counts nothing twice, and leaves no process and no damage.

python -m pytest tests/engine/test_kill.py [-m slow]
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from autoresearch_kit.core.records import Attempt, Outcome
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.ledger import Ledger

ARK = [sys.executable, "-c", "from autoresearch_kit.cli import main; main()"]
PATIENCE = 60.0
"""For what takes a fraction of a second, on a machine that does much else."""
MARK = "LC_ARK_KILL_TEST"
"""In the environment of every process of a run: the guardian, too, inherits what begins with LC_."""

PHASES = ("start", "agent", "reserve", "run", "eval", "close")

# Agent, run and evaluation in one: tells the log, leaves a daemon that is deaf to TERM, and does its work.
PLAY = """
import os, signal, sys, time
phase, number = sys.argv[1], os.environ["ARK_ATTEMPT"]
def note(*words):
    file = os.open(os.environ["KILL_LOG"], os.O_WRONLY | os.O_APPEND)
    os.write(file, (" ".join(map(str, words)) + "\\n").encode())
    os.close(file)
note(phase, number, os.environ.get("ARK_SEED"), os.getpid())
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        note("daemon", number, None, os.getpid())
        time.sleep(600)
    os._exit(0)
os.wait()
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(float(sys.argv[2]))
if phase == "agent":
    open("value.txt", "w").write(number)
elif phase == "run":
    open("run.log", "w").write(open("value.txt").read())
else:
    value = int(open("run.log").read())
    print("loss:", 1000 if value % 3 else 900 - value)
"""

SPEC = """
name: kill
metric: loss
metric_direction: minimize
mutable_files: [value.txt]
run_command: {run}
eval_command: {eval}
branch_prefix: autoresearch
agent: {{command: {agent}}}
"""

Strike = Callable[[subprocess.Popen[bytes]], None]


@dataclass(frozen=True)
class Line:
    """What a command told the log."""

    phase: str
    number: int
    seed: str
    pid: int


@dataclass
class Campaign:
    """One run that is killed again and again."""

    place: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    landed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.folder, self.log = self.place / "project", self.place / "log"
        self.env = {
            **os.environ,
            MARK: self.mark,
            "KILL_LOG": str(self.log),
            "HOME": str(self.place),
            "XDG_CACHE_HOME": str(self.place / "cache"),
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        self.folder.mkdir()
        self.log.touch()
        (self.place / "play.py").write_text(PLAY)
        (self.folder / "value.txt").write_text("0")
        self.write_spec()
        self.git("init", "-q")
        self.git("add", ".")
        self.git("commit", "-qm", "start")

    def write_spec(self, run: str = "0.03") -> None:
        play = f"{sys.executable} -I -S {self.place / 'play.py'}"
        lines = {"agent": f"{play} agent 0.02", "run": f"{play} run {run}", "eval": f"{play} eval 0.02"}
        (self.folder / "autoresearch-config.yaml").write_text(SPEC.format(**lines))

    def git(self, *args: str) -> str:
        done = subprocess.run(["git", *args], cwd=self.folder, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ark(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ARK, *args], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=4 * PATIENCE
        )

    def start(self, attempts: int = 1000) -> subprocess.Popen[bytes]:
        order = [*ARK, "run", "--tag", "t", "--attempts", str(attempts)]
        with (self.place / "stderr").open("wb") as said:
            return subprocess.Popen(
                order, cwd=self.folder, env=self.env, stdout=said, stderr=said, start_new_session=True
            )

    def lines(self) -> list[Line]:
        words = (line.split() for line in self.log.read_text().splitlines())
        return [Line(phase, int(number), seed, int(pid)) for phase, number, seed, pid in words]

    def wait_for(self, phase: str, ark: subprocess.Popen[bytes], seen: int, number: int = -1) -> Line:
        """The first line of that phase beyond the `seen` first ones."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for line in self.lines()[seen:]:
                if line.phase == phase and number in (-1, line.number):
                    return line
            assert ark.poll() is None, f"ark run ended with {ark.returncode}: {self.said()}"
            time.sleep(0.002)
        raise AssertionError(f"no {phase} within {PATIENCE:g} s: {self.said()}")

    def ref_text(self, number: int) -> str:
        path = self.folder / f".git/refs/ark/t/{number:04d}"
        return path.read_text() if path.exists() else ""

    def wait_for_ref(self, number: int, ark: subprocess.Popen[bytes], was: str) -> None:
        """Until git has locked the ref of that attempt, or has moved it already; without a pause between two looks."""
        lock = self.folder / f".git/refs/ark/t/{number:04d}.lock"
        deadline = time.monotonic() + PATIENCE
        while not lock.exists() and self.ref_text(number) == was and time.monotonic() < deadline:
            assert ark.poll() is None, f"ark run ended with {ark.returncode}: {self.said()}"

    def said(self) -> str:
        return (self.place / "stderr").read_text()

    def alive(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def check_nobody_left(self) -> None:
        deadline = time.monotonic() + PATIENCE / 2
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not left, [process.cmdline() for process in left]

    def attempts(self) -> list[Attempt]:
        repository = Repository(self.folder)
        try:
            return Ledger(repository, "autoresearch", "t").read()
        finally:
            repository.close()

    def check(self, closed: bool) -> list[Attempt]:
        """Everything that must hold at any time; `closed` after a run that came to its own end."""
        attempts = self.attempts()
        assert [a.number for a in attempts] == list(range(len(attempts)))
        running = [a.number for a in attempts if a.outcome is Outcome.RUNNING]
        assert running in ([], [len(attempts) - 1]) and not (running and closed)

        kept = [a for a in attempts if a.outcome is Outcome.KEEP]
        base = self.git("rev-parse", "HEAD").strip()
        branch = self.git("rev-list", "--reverse", "--parents", "--branches=autoresearch/t*").split()
        expected = [base, *(oid for a in kept for oid in (a.commit, a.parent))]
        expected = expected if kept else []
        # Git itself, killed between the two halves of a transaction, leaves the branch behind; the next start mends it.
        behind = expected[:-2] if len(kept) > 1 else []
        assert branch == expected or (not closed and branch == behind)
        assert [a.parent for a in kept] == [base, *(a.commit for a in kept)][: len(kept)]
        heads = [next((k.commit for k in reversed(kept) if k.number < a.number), base) for a in attempts]
        assert [a.parent for a in attempts] == heads

        runs = [line for line in self.lines() if line.phase == "run"]
        told = Counter(line.number for line in runs)
        assert set(told) <= {a.number for a in attempts} | ({0} if not attempts else set())
        for a in attempts:
            if a.number:  # a baseline is withdrawn and begun from scratch
                assert told[a.number] <= a.repeats + 1 <= 2, a
            if a.outcome in (Outcome.KEEP, Outcome.DISCARD):
                seeds = [line.seed for line in runs if line.number == a.number]
                assert len(a.measurements) == (1 if a.number else 3)
                assert [str(m.seed) for m in a.measurements] == seeds[-len(a.measurements) :]
            elif a.outcome is not Outcome.RUNNING:
                assert a.outcome is Outcome.LOST, a
        measured = [a.tree for a in attempts if a.number and a.outcome in (Outcome.KEEP, Outcome.DISCARD)]
        assert len(measured) == len(set(measured))

        self.git("fsck", "--strict", "--no-dangling", "--no-progress")
        assert self.git("status", "--porcelain") == ""
        return attempts

    def check_end(self, made: int) -> None:
        """The run goes on to its own end, and its books are right."""
        before = sum(a.outcome is not Outcome.LOST for a in self.check(closed=False))
        done = self.ark("run", "--tag", "t", "--attempts", str(made))
        assert done.returncode == 0, done.stderr
        self.check_nobody_left()
        attempts = self.check(closed=True)
        after = sum(a.outcome is not Outcome.LOST for a in attempts)
        assert max(before, 1) + made - 1 <= after <= max(before, 1) + made  # one less: a second death lost the last one
        assert (self.folder / "results.tsv").read_text() == self.ark("log", "--tsv", "--tag", "t").stdout

    def kill(self, rng: random.Random, strike: Strike) -> None:
        """Start the run, strike at a random point of a random phase, and look at what is left."""
        where = rng.choice(PHASES)
        seen, number = len(self.lines()), len(self.attempts())
        ark = self.start()
        if where == "start":
            time.sleep(rng.uniform(0, 0.5))
        elif where == "reserve":
            self.wait_for_ref(number, ark, was="")
        elif where == "close":
            number = self.wait_for("eval", ark, seen).number
            self.wait_for_ref(number, ark, was=self.ref_text(number))
        else:
            for _ in range(rng.choice([1, 2])):  # one that is taken up again, or one that is fresh
                self.wait_for(where, ark, seen)
                seen = len(self.lines())
            time.sleep(rng.uniform(0, 0.08))
        strike(ark)
        ark.wait(PATIENCE)
        self.landed[where] += 1
        self.check_nobody_left()
        self.check(closed=False)


@pytest.fixture
def campaign(tmp_path: Path) -> Iterator[Campaign]:
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # tests in the background may ignore it: children too
    campaign = Campaign(tmp_path)
    yield campaign
    for process in campaign.alive():  # a test that failed
        with contextlib.suppress(psutil.Error):
            process.kill()
    signal.signal(signal.SIGINT, before)


def kill_one(ark: subprocess.Popen[bytes]) -> None:
    ark.kill()


def kill_group(ark: subprocess.Popen[bytes]) -> None:
    os.killpg(ark.pid, signal.SIGKILL)


@pytest.mark.slow
def test_killed_eight_times(campaign: Campaign) -> None:
    rng = random.Random(8)
    for number in range(8):
        campaign.kill(rng, kill_group if number % 4 == 3 else kill_one)
    campaign.check_end(3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strike, times", [(kill_one, 100), (kill_group, 30)])
def test_killed_at_any_moment(
    campaign: Campaign, strike: Callable[[subprocess.Popen[bytes]], None], times: int
) -> None:
    rng = random.Random(100)
    for _ in range(times):
        campaign.kill(rng, strike)
    campaign.check_end(5)
    assert set(campaign.landed) == set(PHASES)
    assert sum(line.phase == "daemon" for line in campaign.lines()) > times


@pytest.mark.slow
def test_killing_the_guardian_alone_does_not_end_the_run(campaign: Campaign) -> None:
    campaign.write_spec(run="0.3")
    campaign.git("commit", "-qam", "slower")
    ark = campaign.start(attempts=2)
    line = campaign.wait_for("run", ark, 0, number=1)
    guardians = [p for p in psutil.Process(line.pid).parents() if "lab.guardian" in " ".join(p.cmdline())]
    guardians[0].kill()
    assert ark.wait(PATIENCE) == 0, campaign.said()
    campaign.check_nobody_left()
    outcomes = [a.outcome for a in campaign.attempts()]
    assert outcomes[:2] == [Outcome.KEEP, Outcome.CRASH] and len(outcomes) == 3
    assert campaign.attempts()[1].problem.startswith("supervisor_killed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(x, marks=pytest.mark.slow) for x in (signal.SIGTERM, signal.SIGHUP))],
)
def test_a_polite_stop_ends_the_attempt_as_lost(campaign: Campaign, number: signal.Signals) -> None:
    ark = campaign.start()
    campaign.wait_for("run", ark, 0, number=1)
    ark.send_signal(number)
    assert ark.wait(PATIENCE) == 130, campaign.said()
    campaign.check_nobody_left()
    assert [a.outcome for a in campaign.check(closed=True)] == [Outcome.KEEP, Outcome.LOST]
    campaign.check_end(2)


@pytest.mark.slow
def test_under_nohup_a_hangup_stops_nothing(campaign: Campaign) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; children inherit it
    try:
        ark = campaign.start(attempts=3)
    finally:
        signal.signal(signal.SIGHUP, before)
    campaign.wait_for("run", ark, 0, number=1)
    ark.send_signal(signal.SIGHUP)
    assert ark.wait(PATIENCE) == 0, campaign.said()
    assert len(campaign.check(closed=True)) == 4


@pytest.mark.slow
def test_a_second_interrupt_does_not_wait_for_a_deaf_command(campaign: Campaign) -> None:
    campaign.write_spec(run="30 deaf")
    campaign.git("commit", "-qam", "deaf")
    ark = campaign.start()
    campaign.wait_for("daemon", ark, 0, number=0)
    ark.send_signal(signal.SIGINT)
    time.sleep(0.3)
    ark.send_signal(signal.SIGINT)
    assert ark.wait(PATIENCE) == 130, campaign.said()
    campaign.check_nobody_left()
    campaign.write_spec()
    campaign.git("commit", "-qam", "not deaf")
    assert campaign.ark("run", "--tag", "u", "--attempts", "2").returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_interrupted_at_any_moment(campaign: Campaign) -> None:
    rng = random.Random(20)
    for _ in range(20):
        campaign.kill(rng, lambda ark: ark.send_signal(rng.choice([signal.SIGINT, signal.SIGTERM])))
    campaign.check_end(3)


@pytest.mark.slow
@pytest.mark.parametrize("ref", [pytest.param("refs/ark/t/0001", marks=pytest.mark.slow), "refs/heads/autoresearch/t"])
def test_a_lock_that_a_killed_git_left_stops_nothing(campaign: Campaign, ref: str) -> None:
    """When the whole group is killed, git dies between locking the refs and moving them."""
    assert campaign.ark("run", "--tag", "t", "--attempts", "0").returncode == 0
    lock = campaign.folder / ".git" / f"{ref}.lock"
    lock.write_text("")
    campaign.check_end(3)


STORE_AND_DIE = """
import os, signal, subprocess, sys
from pathlib import Path
from autoresearch_kit.ledger.git import Repository
repository = Repository(Path(sys.argv[1]))
tree = repository.tree_of(repository.head())
start = subprocess.Popen.__init__
def start_and_die(*args, **more):
    start(*args, **more)
    os.kill(os.getpid(), signal.SIGKILL)
subprocess.Popen.__init__ = start_and_die
repository.store_commit(tree, [], "message", ("a", "a@localhost"), 1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_while_it_writes_an_object(campaign: Campaign) -> None:
    """An object that was piped to a git of its own became an empty commit when ark died, and `git fsck` failed."""
    order = [sys.executable, "-c", STORE_AND_DIE, str(campaign.folder)]
    assert subprocess.run(order, cwd=campaign.folder, env=campaign.env).returncode == -signal.SIGKILL
    campaign.check_nobody_left()
    campaign.git("fsck", "--strict", "--no-dangling", "--no-progress")
