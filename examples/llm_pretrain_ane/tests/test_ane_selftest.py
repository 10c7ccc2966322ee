"""selftest.c on the simulator, and on the fake of Apple's frameworks with sanitizers: what it prints, how it exits."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from ane_build import ANE, program
from ane_fake import FAKED, FLAGS, PORTABLE
from ane_programs import PROGRAMS

SELFTEST = [ANE / f"{name}.c" for name in ("arguments", "settings", "selftest")]
SHAPE = ["--shape", "128,384,4,128,2", "--repeats", "1"]
LINE = re.compile(r"^(\w+) +(compiles|fails) +(compiles|fails) +(\d+\.\d{3}|-) (device|CPU) +(\d\S*|-)$", re.M)


def run(binary: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name != "ANE_QOS"}
    return subprocess.run([str(binary), *arguments], capture_output=True, text=True, env=known | environment)


@pytest.fixture(scope="module")
def simulated() -> Path:
    return program(*SELFTEST, *PORTABLE)


@pytest.fixture(scope="module")
def faked() -> Path:
    return program(*SELFTEST, *FAKED, flags=FLAGS, sanitize=True)


def test_on_the_simulator(simulated: Path) -> None:
    done = run(simulated, "--backend", "sim", *SHAPE)
    assert (done.returncode, done.stderr) == (0, "")
    rows = LINE.findall(done.stdout)
    assert [row[0] for row in rows] == list(PROGRAMS)
    assert {row[1:3] for row in rows} == {("compiles", "compiles")}
    assert {row[4] for row in rows} == {"device"}
    assert all(0 < float(row[5]) < 0.01 for row in rows)
    assert done.stdout.startswith("system: ")
    assert done.stdout.endswith("8 of 8 kernels run on the device\n")


def test_a_shape_that_the_hardware_refuses(simulated: Path) -> None:
    done = run(simulated, "--backend", "sim", "--shape", "96,384,3,128,2", "--repeats", "1")
    assert done.returncode == 1
    rows = {row[0]: row[1:] for row in LINE.findall(done.stdout)}
    assert rows["wotBwd"] == ("fails", "fails", "-", "CPU", "-")
    assert re.search(r"^wotBwd, both texts: .*96 channels", done.stdout, re.M)
    assert len([line for line in done.stderr.splitlines() if " runs on the CPU: " in line]) == 6
    assert done.stdout.endswith("2 of 8 kernels run on the device\n")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("128,384,4,128", 'is "128,384,4,128", but must be five numbers'),
        ("128,384,4,128,2,1", "must be five numbers"),
        ("128,384,4,128,x", "must be five numbers"),
        ("128,384,4,128,-2", "must be five numbers"),
        ("99999999999999999999,384,4,128,2", "must be five numbers"),
        ("128,384,5,128,2", "every head needs the same"),
        ("0,384,4,128,2", "dim is 0"),
        ("128,384,4,128,100000", "layers is 100000"),
    ],
)
def test_a_shape_that_is_none(simulated: Path, shape: str, words: str) -> None:
    done = run(simulated, "--backend", "sim", "--shape", shape)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("selftest: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_macos(simulated: Path) -> None:
    done = run(simulated)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "selftest: the Neural Engine needs macOS on Apple Silicon\n\nhint: make selftest OPTIONS="
    )


def on_the_fake(faked: Path, folder: Path, fault: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The run; no object, complaint or file was left."""
    temporary, report = folder / "temporary", folder / "report"
    temporary.mkdir()
    environment |= {"TMPDIR": str(temporary), "FAKE_ANE": fault, "FAKE_ANE_REPORT": str(report)}
    done = run(faked, *SHAPE, **environment)
    lines = report.read_text().splitlines()
    assert lines[0] == "live 0"
    assert not [line for line in lines if line.startswith("complaint")]
    assert not list(temporary.iterdir())
    assert "ERROR: " not in done.stderr and "runtime error" not in done.stderr
    return done


# Of the first 16 compilations are the 8 programs in two dialects; then those of the kernels.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "status", "there", "words"),
    [
        ("", 0, 8, ""),
        ("compile@1", 0, 8, "sdpaWoFwd, text for M3 and later: compiling failed: Error Domain="),
        ("compile@4", 0, 8, "ffnFused, text for M1 and M2: compiling failed: Error Domain="),
        ("compile@17-18", 1, 7, ""),
        ("compile", 1, 0, "wotBwd, both texts: compiling failed: Error Domain="),
        ("load@1-4", 0, 8, "sdpaWoFwd, both texts: loading failed: Error Domain="),
        ("evaluate", 1, 0, "qkvBwd, both texts: evaluating failed: Error Domain="),
        ("zeros", 1, 0, ""),
        ("surface@3", 0, 8, "ffnFused, text for M3 and later: there is no memory for a surface"),
        ("lock", 1, 0, "a surface of 163840 bytes cannot be locked: code 0xe00002c9"),
        ("request", 1, 0, "sdpaBwd1, both texts: the framework makes no request"),
        ("missing _ANEDeviceInfo", 0, 8, ""),
    ],
)
def test_on_the_fake_with_sanitizers(
    faked: Path, tmp_path: Path, fault: str, status: int, there: int, words: str
) -> None:
    done = on_the_fake(faked, tmp_path, fault)
    assert done.returncode == status, done.stderr
    assert len(LINE.findall(done.stdout)) == 8
    assert done.stdout.endswith(f"{there} of 8 kernels run on the device\n")
    assert words in done.stdout
    assert len(done.stderr.splitlines()) == 8 - there


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing _ANERequest", "this macOS has no class _ANERequest, which the Neural Engine needs"),
        ("missing unloadWithQoS:error:", "this macOS has no method -[_ANEInMemoryModel unloadWithQoS:error:], which"),
        ("no-engine", "this machine has no Neural Engine"),
        ("framework", "this machine has no Neural Engine, or its framework is blocked"),
        ("qos", 'ANE_QOS is "22", but must be 0, 9, 17, 21, 25 or 33'),
    ],
)
def test_no_neural_engine(faked: Path, tmp_path: Path, fault: str, words: str) -> None:
    environment = {"framework": {"FAKE_FRAMEWORK": "/nowhere/ANE"}, "qos": {"ANE_QOS": "22"}}.get(fault, {})
    done = on_the_fake(faked, tmp_path, fault, **environment)
    assert done.returncode == 2
    assert done.stderr.startswith(f"selftest: {words}")
    assert "\n\nhint: make selftest OPTIONS=" in done.stderr
