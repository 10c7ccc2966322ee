"""examples/llm_pretrain_ane through the engine, on the CPU backend, at toy size.

    pytest tests/examples/test_llm_pretrain_ane.py -m ''

Its own tests are beside it, in examples/llm_pretrain_ane/tests.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from example_project import CPU_SPEC, ark, attempts_of, commit, edit, laid, measured_of_six

from autoresearch_kit.lab.cache import data_root

EXAMPLE = Path(__file__).parents[2] / "examples" / "llm_pretrain_ane"
SPEC = "autoresearch-config.yaml"
HEADER = "ane/experiment_config.cpu.h"
BUILDS = shutil.which("cc") and shutil.which("make")


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("CFLAGS", "-O1")  # most of an attempt is compiling
    return laid(EXAMPLE, tmp_path, monkeypatch)


def shorten(project: Path, windows: int) -> None:
    """The CPU spec with few windows, however long they take, one run for each attempt, and one thread."""
    path = project / CPU_SPEC
    edit(path, r"harness_ane.py (train|evaluate)", r"harness_ane.py \1 --threads 1", times=3)
    edit(path, r"harness_ane.py train", f"harness_ane.py train --max-steps {windows}")
    with path.open("a") as file:
        file.write("decision: first_better\n")


@pytest.mark.parametrize("spec", [SPEC, CPU_SPEC])
def test_no_mutable_code_is_executed_by_the_evaluation(project, spec):
    checked = ark(project, "check", spec)
    assert "level 3 of 3" in checked.stdout + checked.stderr
    assert "fail" not in checked.stdout.split(), checked.stdout + checked.stderr


@pytest.mark.parametrize("spec", [SPEC, CPU_SPEC])
def test_every_file_that_fixes_the_number_is_named(spec):
    """Also as a help to the agent: what it may read. The other header is of the other spec."""
    found = yaml.safe_load((EXAMPLE / spec).read_text())
    named = {
        path.relative_to(EXAMPLE).as_posix()
        for pattern in found["immutable_files"] + found["mutable_files"]
        for path in EXAMPLE.glob(pattern)
    }
    code = {path for pattern in ("*.py", "Makefile", "ane/*.[ch]") for path in EXAMPLE.glob(pattern)}
    code = {path.relative_to(EXAMPLE).as_posix() for path in code}
    headers = {"ane/experiment_config.h", HEADER}
    assert code - headers <= named
    assert len(named & headers) == 1, "one header is that spec's, and the only mutable file"


@pytest.mark.slow
def test_the_made_up_stories_are_pinned_by_the_hash_of_what_prepare_makes(project):
    spec = yaml.safe_load((project / CPU_SPEC).read_text())
    subprocess.run(["sh", "-c", spec["setup_command"]], cwd=project, check=True, capture_output=True)
    (pinned,) = spec["inputs"]
    path = Path(pinned["path"].replace("$ARK_CACHE", str(data_root())))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == pinned["sha256"]
    assert "not the pinned one" not in ark(project, "check", CPU_SPEC).stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not BUILDS, reason="needs a C compiler and make")
def test_six_attempts_with_the_search_agent(project):
    """The spec as it is but for the time: three hundred windows of training, and one run for each attempt."""
    shorten(project, windows=300)
    commit(project)
    attempts = attempts_of(project, "--attempts", "6")
    measured = measured_of_six(attempts)
    kept = [attempt["value"] for attempt in attempts if attempt["outcome"] == "keep"]
    assert len(kept) >= 2 and min(kept) < attempts[0]["value"], "it improves on its baseline"
    for attempt in measured:
        assert attempt["also"]["val_tokens"] == 25600
        if attempt["also"]["trainer_val_tokens"] == 25600:  # a slow machine reads fewer, so as to end in time
            assert attempt["also"]["trainer_val_loss"] == pytest.approx(attempt["value"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not BUILDS, reason="needs a C compiler and make")
def test_only_a_kept_attempt_hands_its_checkpoint_on(project, tmp_path):
    """Cycles: what is kept is gone on from; a discarded attempt leaves its parent's checkpoint as it was."""
    shorten(project, windows=100)
    edit(project / CPU_SPEC, "harness_ane.py train", 'harness_ane.py train --lineage "$ARK_CACHE/lineage"')
    commit(project)
    agent = tmp_path / "agent.sh"
    agent.write_text(
        f"""set -eu
        turn=$(cat {tmp_path}/turn 2>/dev/null || echo 0)
        echo $((turn + 1)) > {tmp_path}/turn
        (cd "$ARK_CACHE/lineage" && find . -name '*.ckpt' -exec sha256sum {{}} + | sort) > {tmp_path}/seen-$turn
        case $turn in
        0) edit='s/^(#define LEARNING_RATE) [^ ]+/\\1 0.0011f/' ;;
        1) edit='s/^(#define LEARNING_RATE) [^ ]+/\\1 0.1f/' ;;
        *) edit='s/^(#define LEARNING_RATE) [^ ]+/\\1 0.0012f/' ;;
        esac
        sed -i.old -E "$edit" {HEADER}
        """
    )
    attempts = attempts_of(project, "--agent", f"sh {agent}", "--attempts", "3")
    assert [attempt["outcome"] for attempt in attempts] == ["keep", "keep", "discard", "keep"], attempts
    assert [attempt["also"]["cycles"] for attempt in attempts] == [1, 2, 3, 3], "the last goes on from the second"
    seen = [
        dict(reversed(line.split()) for line in (tmp_path / f"seen-{n}").read_text().splitlines()) for n in range(3)
    ]
    assert [len(files) for files in seen] == [1, 2, 3]
    for before, after in itertools.pairwise(seen):
        assert before.items() <= after.items(), "no checkpoint of another attempt was touched"
