"""The shape of the house: imports go downward, examples load, documents are true.

.venv/bin/pytest tests/test_shape.py
"""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from autoresearch_kit.agents.brief import render_program
from autoresearch_kit.cli import main
from autoresearch_kit.core.names import SPEC_NAME
from autoresearch_kit.core.specfile import load_spec, parse_spec
from autoresearch_kit.views.reference import FOLDER, pages

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "autoresearch_kit"
LAYERS = [
    {"core"},
    {"data", "ledger"},
    {"lab"},
    {"project", "books", "campaigns"},
    {"workshop"},
    {"ratchet", "verify"},
    {"loop", "notify"},
    {"agents", "views"},
    {"serve"},
    {"preflight", "starter", "install", "exam", "rehearse", "check", "watch"},
    {"cli", "__main__"},
]
# The reference page is made from everything; no module of the package imports it.
ABOVE_ALL = {PACKAGE / "views" / "reference.py"}
SPECS = sorted((ROOT / "examples").glob("*/autoresearch-config*.yaml"))
STARTERS = sorted((ROOT / "templates").glob("*/autoresearch-config*.yaml"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS += [*sorted((ROOT / "examples").rglob("README.md")), *sorted((ROOT / "templates").rglob("README.md"))]


def layer(name: str) -> int:
    return next(index for index, names in enumerate(LAYERS) if name in names)


def imports_at_run_time(tree: ast.AST) -> list[str]:
    """Imported modules, without those that only a type checker sees."""
    found: list[str] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        else:
            found += imports_at_run_time(node)
    return found


def test_imports_go_downward():
    upward = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if place == "__init__" or path in ABOVE_ALL:
            continue
        for module in imports_at_run_time(ast.parse(path.read_text())):
            parts = module.split(".")
            ours = parts[0] == "autoresearch_kit" and len(parts) > 1 and not parts[1].startswith("__")
            if ours and layer(parts[1]) > layer(place):
                upward.append(f"{path.relative_to(ROOT)} imports {module}")
    assert upward == []


def test_core_starts_nothing_and_knows_no_clock():
    forbidden = {"subprocess", "git", "gitdb", "time", "datetime", "socket", "threading", "psutil", "random"}
    for path in (PACKAGE / "core").glob("*.py"):
        assert not forbidden & {name.split(".")[0] for name in imports_at_run_time(ast.parse(path.read_text()))}, path


def test_only_the_ledger_uses_git():
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if {"git", "gitdb"} & {name.split(".")[0] for name in imports_at_run_time(ast.parse(path.read_text()))}
    }
    assert users == {"ledger"}


def test_examples_never_import_the_toolkit():
    assert (ROOT / "examples").is_dir()
    for path in [*(ROOT / "examples").rglob("*.py"), *(ROOT / "templates").rglob("*.py")]:
        names = imports_at_run_time(ast.parse(path.read_text()))
        assert not any(name.split(".")[0] == "autoresearch_kit" for name in names), path


@pytest.mark.parametrize("path", SPECS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_example_loads_and_its_program_is_fresh(path):
    program = render_program(load_spec(path), path.parent)
    if path.name == SPEC_NAME:  # the file beside them is that of the main spec
        assert (path.parent / "program.md").read_text() == program, "stale: run `make docs`"


@pytest.mark.parametrize("path", STARTERS, ids=lambda path: path.parent.name)
def test_every_starter_loads_and_has_a_goal(path):
    assert load_spec(path).goal


@pytest.mark.parametrize("name", sorted(pages()))
def test_the_reference_is_fresh(name):
    assert (FOLDER / name).read_text() == pages()[name], "stale: run `make docs`"


def fenced_commands() -> list[tuple[Path, str]]:
    found = []
    for path in DOCUMENTS:
        for block in re.findall(r"```console\n(.*?)```", path.read_text(), re.S):
            text = block.replace("\\\n", " ")
            found += [(path, line[2:]) for line in text.splitlines() if line.startswith("$ ")]
    return found


def test_every_ark_command_in_the_documents_is_a_real_one():
    count = 0
    for path, line in fenced_commands():
        for part in re.split(r"&&|\|\||;|\|(?!\|)", line.split("  #")[0]):
            try:
                words = shlex.split(part)
            except ValueError:  # cut inside quotes: not the beginning of a command
                continue
            if words[:1] != ["ark"]:
                continue
            count += 1
            verb = main.commands.get(words[1])
            assert verb is not None, f"{path}: {part}"
            options = {option for parameter in verb.params for option in parameter.opts}
            for word in words[2:]:
                assert not word.startswith("--") or word in options, f"{path}: {part}"
    assert count > 10


def test_links_in_the_documents_lead_somewhere():
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path}: {target}"


def test_every_spec_in_the_documents_is_one():
    count = 0
    for path in DOCUMENTS:
        for block in re.findall(r"```yaml\n(.*?)```", path.read_text(), re.S):
            if "run_command" in block:
                parse_spec(block, str(path))
                count += 1
    assert count >= 1
