"""examples/llm_pretrain_mlx through the engine, on a CPU, at toy size.

    pytest tests/examples/test_llm_pretrain_mlx.py -m ''

Its own tests are beside it, in examples/llm_pretrain_mlx/tests; what needs a GPU is in tests/gpu.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml
from example_project import CPU_SPEC, ark, laid
from small_gpt import check_six_attempts, set_up

from autoresearch_kit.lab.cache import data_root

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE, SISTER = EXAMPLES / "llm_pretrain_mlx", EXAMPLES / "llm_pretrain_cuda"


@pytest.fixture
def project(tmp_path, monkeypatch):
    return laid(EXAMPLE, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["data.py", "download.py", "prepare.py", "stories.py", "command.py"])
def test_both_language_models_have_the_same_files(name):
    """So that both train on the same rows; each folder stands alone, hence two copies."""
    assert (EXAMPLE / name).read_bytes() == (SISTER / name).read_bytes()


def keys_of_the_block(program: Path) -> list[str]:
    """The keys of the dictionary called `block` in a train.py."""
    for node in ast.walk(ast.parse(program.read_text())):
        match node:
            case ast.Assign(targets=[ast.Name(id="block")], value=ast.Dict(keys=keys)):
                return [ast.literal_eval(key) for key in keys]
    raise AssertionError(f"{program} has no block")


def test_both_language_models_print_the_same_keys():
    keys = keys_of_the_block(EXAMPLE / "train.py")
    assert keys[0] == "val_bpb" and keys == keys_of_the_block(SISTER / "train.py")


@pytest.mark.slow
@pytest.mark.parametrize("spec", [".", CPU_SPEC])
def test_no_mutable_code_is_executed_by_the_evaluation(project, spec):
    checked = ark(project, "check", spec)
    assert "level 3 of 3" in checked.stdout + checked.stderr
    assert "fail" not in checked.stdout.split(), checked.stdout + checked.stderr


def test_both_language_models_pin_the_same_small_data():
    specs = [yaml.safe_load((folder / CPU_SPEC).read_text()) for folder in (EXAMPLE, SISTER)]
    for key in ("inputs", "setup_command"):
        assert specs[0][key] == specs[1][key]


@pytest.mark.slow
def test_the_small_data_are_pinned_by_the_hash_of_what_prepare_makes(project):
    """So the stories, their tokenizer and their packing are the same here as where the spec was written."""
    spec = yaml.safe_load((project / CPU_SPEC).read_text())
    set_up(project)
    names = {item["path"].removeprefix("$ARK_CACHE/llm/stories/") for item in spec["inputs"]}
    assert names == {path.name for path in (data_root() / "llm" / "stories").iterdir()}
    assert "not the pinned one" not in ark(project, "check", CPU_SPEC).stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_six_attempts_with_the_search_agent(project):
    pytest.importorskip("mlx.core", reason="needs MLX with a backend")
    check_six_attempts(project)
