"""examples/kernel_tuning: what counts is measured, and what cheats scores nothing.

    pytest tests/examples/test_kernel_tuning.py              the first compiler found
    pytest tests/examples/test_kernel_tuning.py -m ''        every compiler, and the slow ones

Each attack is a kernel of its own in kernel_attacks/; it is compiled and run as the engine would do it.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
EXAMPLE = HERE.parent.parent / "examples" / "kernel_tuning"
ATTACKS = HERE / "kernel_attacks"
SPEC = yaml.safe_load((EXAMPLE / "autoresearch-config.yaml").read_text())
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
GOOD_KNOBS = {
    "KERNEL_CFLAGS": '"-O3 -ffast-math -march=native"', "LANES": 16, "TILE": 4, "VECTOR": 1, "SCALE_LATE": 1,
}  # fmt: skip

pytestmark = pytest.mark.skipif(not COMPILERS, reason="needs gcc or clang")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the system call filter is Linux's")


def per_compiler() -> list:
    """The first compiler always; the others are slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] if i else []) for i, name in enumerate(COMPILERS)]


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "kernel_tuning"
    shutil.copytree(EXAMPLE, target, ignore=shutil.ignore_patterns("build", "__pycache__"))
    return target


def run(folder: Path, compiler: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["/bin/sh", "-c", SPEC["run_command"]],
        cwd=folder,
        env={**os.environ, "CC": compiler, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def speedup(result: subprocess.CompletedProcess) -> float:
    assert result.returncode == 0, result.stderr
    values = re.findall(r"^speedup: (\S+)$", result.stdout, re.MULTILINE)
    assert len(values) == 1, result.stdout
    return float(values[0])


def turn(folder: Path, knobs: dict) -> None:
    text = (folder / "kernel.c").read_text()
    for name, value in knobs.items():
        text, count = re.subn(
            rf'^(#define {name} )("[^"]*"|\S+)', lambda found, value=value: found[1] + str(value), text, flags=re.M
        )
        assert count == 1, name
    (folder / "kernel.c").write_text(text)


def spelled(choice: object) -> str:
    return f'"{choice}"' if isinstance(choice, str) else str(choice)


# What is honest


@pytest.mark.slow
@pytest.mark.parametrize("compiler", per_compiler())
def test_the_committed_kernel_is_about_as_fast_as_the_reference(folder, compiler):
    result = run(folder, compiler)
    assert 0.8 < speedup(result) < 1.4
    assert result.stderr == ""
    numbers = dict(re.findall(r"^(\w+): (\S+)$", result.stdout, re.MULTILINE))
    assert set(numbers) == {"speedup", "kernel_ms", "reference_ms", "weights_gb_per_s", "relative_error", "rounds"}


@pytest.mark.slow
@pytest.mark.parametrize("compiler", per_compiler())
def test_good_knobs_are_much_faster(folder, compiler):
    turn(folder, GOOD_KNOBS)
    assert speedup(run(folder, compiler)) > 4  # 15 where it was written; other machines have narrower vectors


@pytest.mark.slow
@pytest.mark.parametrize("compiler", COMPILERS)
def test_any_knobs_give_a_right_answer(folder, compiler):
    rng = random.Random(0)
    for _ in range(10):
        turn(folder, {knob["name"]: spelled(rng.choice(knob["choices"])) for knob in SPEC["tunables"]})
        assert speedup(run(folder, compiler)) > 0.2


def test_the_config_names_every_file_and_every_knob_once():
    text = (EXAMPLE / "kernel.c").read_text()
    for knob in SPEC["tunables"]:
        found = re.findall(rf'^#define {knob["name"]} ("[^"]*"|\S+)', text, re.MULTILINE)
        assert len(found) == 1 and found[0] in map(spelled, knob["choices"])
    here = {path.name for path in EXAMPLE.iterdir() if path.is_file()} - {".gitignore", "program.md", "program.md.j2"}
    here -= {"autoresearch-config.yaml", "run.log", "results.tsv"}
    assert here == {*SPEC["mutable_files"], *SPEC["immutable_files"]}


@pytest.mark.slow
@linux_only
def test_workers_die_with_the_harness(folder):
    run(folder, COMPILERS[0])
    shutil.copy(folder / "build" / "worker", folder / "build" / "orphan-worker")
    names = ["build/harness", "build/orphan-worker", "build/kernel.so", "build/reference.so"]
    harness = subprocess.Popen(names, cwd=folder, stdout=subprocess.DEVNULL)
    children = Path(f"/proc/{harness.pid}/task/{harness.pid}/children")
    deadline = time.monotonic() + 5
    while len(workers := children.read_text().split()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    assert len(workers) == 2

    def alive(pid: str) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(alive, workers))


# Attacks: the file, and what the harness has to say

DENIED = "system call that is not allowed"
WRONG = "wrong answer of the kernel"
FAIL = {
    "forge_in_call": "ended its process",
    "forge_in_constructor": "ended its process",
    "zeros": WRONG,
    "nan": WRONG,
    "half_rows": WRONG,
    "skip_one_row_in_fifty": WRONG,
    "memoised": WRONG,
    "zero_the_inputs": WRONG,
    "stop_before_answering": WRONG,
    "segmentation_fault": "ended by signal 11",
    "no_matvec": "no function matvec",
    "unknown_symbol": "does not link",
    "huge_object": "does not compile|does not link",
    "imitate_a_worker_exit": "harness: ",
}
FAIL_ON_LINUX = {
    "kill_the_harness": DENIED,
    "sleep": DENIED,
    "second_thread": DENIED,
    "forked_helper": DENIED,
    "timer_that_wakes": DENIED,
    "trace_the_harness": DENIED,
    "write_into_the_harness": DENIED,
    "overwrite_the_reference": DENIED,
    "remove_the_harness": DENIED,
    "run_a_program": DENIED,
    "raise_priority": DENIED,
}
FAIL_LATE = {"hang": "did not answer within", "endless_compilation": "does not compile"}
GAIN_NOTHING = ["override_the_clock", "forge_and_answer", "spoil_the_inputs_after"]

# Half a second each: one of each kind in the everyday tests, all of them in the slow ones.
QUICK = {
    "forge_in_call", "forge_in_constructor", "zeros", "half_rows", "memoised", "zero_the_inputs", "segmentation_fault",
    "kill_the_harness", "second_thread", "forked_helper", "overwrite_the_reference",
}  # fmt: skip


def attacks() -> list:
    cases = []
    for compiler in COMPILERS:
        for group, marks in ((FAIL, []), (FAIL_ON_LINUX, [linux_only]), (FAIL_LATE, [])):
            for name, reason in group.items():
                slow = [] if compiler == COMPILERS[0] and name in QUICK else [pytest.mark.slow]
                cases.append(pytest.param(compiler, name, reason, marks=marks + slow, id=f"{compiler}-{name}"))
    return cases


def assert_no_score(result: subprocess.CompletedProcess, reason: str) -> None:
    assert result.returncode != 0
    assert "speedup" not in result.stdout
    assert re.search(reason, result.stderr), result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "attack", "reason"), attacks())
def test_an_attack_scores_nothing(folder, compiler, attack, reason):
    shutil.copy(ATTACKS / f"{attack}.c", folder / "kernel.c")
    assert_no_score(run(folder, compiler), reason)
    assert not (folder / "pwned").exists()
    if reason == DENIED:
        assert (folder / "build" / "harness").exists()
        assert (folder / "build" / "reference.so").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "attack"),
    [
        pytest.param(compiler, name, marks=[pytest.mark.slow] if compiler != COMPILERS[0] or i else [])
        for compiler in COMPILERS
        for i, name in enumerate(GAIN_NOTHING)
    ],
)
def test_an_attack_gains_nothing(folder, compiler, attack):
    shutil.copy(ATTACKS / f"{attack}.c", folder / "kernel.c")
    assert speedup(run(folder, compiler)) < 1.25


def test_every_attack_is_tried():
    assert {path.stem for path in ATTACKS.glob("*.c")} == {*FAIL, *FAIL_ON_LINUX, *FAIL_LATE, *GAIN_NOTHING}


@pytest.mark.parametrize(
    "line",
    [
        '#define KERNEL_CFLAGS "-O2 -fplugin=./evil.so"',
        '#define KERNEL_CFLAGS "-O2; touch pwned"',
        '#define KERNEL_CFLAGS "-O2 $(touch pwned)"',
        '#define KERNEL_CFLAGS "-O2 `touch pwned`"',
        '#define KERNEL_CFLAGS "-O2 @flags"',
        '#define KERNEL_CFLAGS "-O2 -o build/harness"',
        '#define KERNEL_CFLAGS "-O2 -wrapper ./evil"',
        '#define KERNEL_CFLAGS "-O2 *"',
        '#define KERNEL_CFLAGS "-O2 -Wl,-init,evil"',
        '#define KERNEL_CFLAGS "-O2" "-O3"\n#define KERNEL_CFLAGS "-O3"',
        "#define KERNEL_CFLAGS -O3",
    ],
)
def test_flags_outside_the_list_are_refused(folder, line):
    text = (EXAMPLE / "kernel.c").read_text()
    (folder / "kernel.c").write_text(text.replace('#define KERNEL_CFLAGS "-O2"', line))
    assert_no_score(run(folder, COMPILERS[0]), "KERNEL_CFLAGS")
    assert not (folder / "pwned").exists()


def test_a_kernel_that_is_a_link_is_refused(folder):
    (folder / "kernel.c").unlink()
    (folder / "kernel.c").symlink_to("reference.c")
    assert_no_score(run(folder, COMPILERS[0]), "not a plain file")


def test_a_broken_kernel_shows_the_compiler_message(folder):
    (folder / "kernel.c").write_text("this is not C\n")
    assert_no_score(run(folder, COMPILERS[0]), "error[^$]*does not compile")
