"""examples/llm_pretrain_cuda through the engine, on a CPU, at toy size.

    pytest tests/examples/test_llm_pretrain_cuda.py -m ''

Its own tests are beside it, in examples/llm_pretrain_cuda/tests; what needs a GPU is in tests/gpu.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from example_project import CPU_SPEC, ark, laid
from small_gpt import check_six_attempts, set_up

from autoresearch_kit.lab.cache import data_root

EXAMPLE = Path(__file__).parents[2] / "examples" / "llm_pretrain_cuda"


@pytest.fixture
def project(tmp_path, monkeypatch):
    return laid(EXAMPLE, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [".", CPU_SPEC])
def test_no_mutable_code_is_executed_by_the_evaluation(project, spec):
    checked = ark(project, "check", spec)
    assert "level 3 of 3" in checked.stdout + checked.stderr
    assert "fail" not in checked.stdout.split(), checked.stdout + checked.stderr


def test_engine_and_example_agree_where_data_lie(project, monkeypatch):
    script = "import prepare; print(prepare.cache_folder())"

    def example() -> str:
        return subprocess.check_output([sys.executable, "-c", script], cwd=project, text=True).strip()

    assert example() == str(data_root())
    monkeypatch.delenv("ARK_CACHE")
    assert example() == str(data_root())


@pytest.mark.slow
def test_the_small_data_are_pinned_by_the_hash_of_what_prepare_makes(project):
    """So the stories, their tokenizer and their packing are the same here as where the spec was written."""
    spec = yaml.safe_load((project / CPU_SPEC).read_text())
    set_up(project)
    names = {item["path"].removeprefix("$ARK_CACHE/llm/stories/") for item in spec["inputs"]}
    assert names == {path.name for path in (data_root() / "llm" / "stories").iterdir()}
    assert "not the pinned one" not in ark(project, "check", CPU_SPEC).stdout
    before = (project / CPU_SPEC).read_text()
    set_up(project, f"--pin {CPU_SPEC}")
    assert (project / CPU_SPEC).read_text() == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_six_attempts_with_the_search_agent(project):
    check_six_attempts(project)
