"""`ark install`: a user's configuration is never lost, and undo gives back what was there.

.venv/bin/pytest tests/test_install.py
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoresearch_kit.cli import main
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.install import AGENTS, carry_out, files, jsonc, own_command, plan, plan_undo, target_of
from autoresearch_kit.install import toml as in_toml
from autoresearch_kit.install import yaml as in_yaml
from autoresearch_kit.install.text import Unreadable

WITH_CONFIG = sorted(agent for agent, row in AGENTS.items() if row.config)
SPEC = {
    "name": "tiny: a test",
    "metric": "score",
    "metric_direction": "maximize",
    "mutable_files": ["train.sh"],
    "run_command": "sh train.sh",
    "budget_minutes": 0.1,
}
# A configuration as people have it, with everything that a careless writer loses.
EXISTING = {
    "json": '{\n    // mine\n    "a": "b", /* why */\n    "KEY": {\n        "other": {"command": "x"},\n    },\n}\n',
    "toml": '# mine\nmodel = "o9"   # spaced\n\n[KEY.other]\ncommand = "x"\n\n[tools]\nweb = true\n',
    "yaml": "# mine\nmodel: x   # spaced\n\nKEY:\n  - A.md # first\n\nauto-commits: false\n",
}
BROKEN = {"json": '{\n  "a": 1,\n  "b" 2\n}\n', "toml": "a = 1\nb = = 2\n", "yaml": "a: 1\nb: [1\nc: 2\n"}


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("GIT_", "ARK_", "XDG_")) or name.endswith(("_HOME", "_CONFIG_DIR")):
            monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "my project"
    folder.mkdir()
    (folder / "autoresearch-config.yaml").write_text(json.dumps(SPEC))
    (folder / "train.sh").write_text("echo score: 1\n")
    subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)
    return folder


def ark(*args: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["install", *args], prog_name="ark")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def install(agent: str, folder: Path, *more: str) -> None:
    code, _, err = ark(agent, str(folder), "--yes", *more)
    assert code == 0, err


def snapshot(folder: Path) -> dict[str, bytes | str | None]:
    """Every file, link and folder below `folder`, git's own apart."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not name.startswith(".git/"):
            found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def existing(agent: str) -> bytes:
    row = AGENTS[agent]
    return EXISTING[row.kind].replace("KEY", row.keys[0]).encode()


def config_of(agent: str, folder: Path) -> Path:
    config = target_of(agent, folder, False).config
    assert config is not None
    return config


def prepared(agent: str, folder: Path, data: bytes) -> Path:
    path = config_of(agent, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def parsed(agent: str, text: str) -> dict[str, object]:
    """By an ordinary parser, not by ours."""
    kind = AGENTS[agent].kind
    if kind == "toml":
        return tomllib.loads(text)
    found: dict[str, object] = yaml.safe_load(text) if kind == "yaml" else json.loads(text)
    return found


# What is written


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_what_is_written_starts_this_installation_without_an_environment(agent, project):
    install(agent, project)
    row, target = AGENTS[agent], target_of(agent, project, False)
    skill = target.skill.read_text()
    assert target.skill.is_relative_to(project)
    if row.skill.endswith("SKILL.md"):
        header = yaml.safe_load(skill.split("---\n")[1])
        assert header["name"] == target.skill.parent.name == "ark"
        assert len(header["description"]) <= 1024 and "score" in header["description"]
    if target.config is None:
        return
    found = parsed(agent, target.config.read_text())
    if row.kind == "yaml":
        assert found == {"read": [str(target.skill)]}
        return
    entry = found[row.keys[0]]["ark"]
    words = entry["command"] if isinstance(entry["command"], list) else [entry["command"], *entry["args"]]
    assert words == own_command("mcp", str(project))
    done = subprocess.run([*words[:-2], "--version"], cwd="/", env={}, capture_output=True, text=True)
    assert done.stdout.startswith("ark, version"), done.stderr


def test_a_module_in_the_folder_of_the_agent_does_not_run(tmp_path):
    """-P: an agent may have left a `click.py` where it started the server."""
    (tmp_path / "click.py").write_text("raise SystemExit('mine')")
    done = subprocess.run([*own_command(), "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("agent", WITH_CONFIG)
def test_an_existing_configuration_keeps_every_line(agent, project):
    path = prepared(agent, project, existing(agent))
    install(agent, project)
    text = path.read_text()
    for line in existing(agent).decode().splitlines():
        assert line.rstrip(",") in text, line
    others = in_yaml.read(text) if AGENTS[agent].kind == "yaml" else None
    if others is not None:
        assert others["read"] == ["A.md", str(target_of(agent, project, False).skill)]
        assert others["auto-commits"] is False


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_twice_is_once(agent, project):
    install(agent, project)
    before = snapshot(project)
    code, out, err = ark(agent, str(project), "--yes")
    assert (code, out, err) == (0, "", "already there\n")
    assert snapshot(project) == before


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_a_server_that_could_not_start_is_told_of(agent, project, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp_types", None)
    for said in ("wrote", "already there"):
        _, _, err = ark(agent, str(project), "--yes")
        assert said in err
        assert ("needs a package that is not installed (mcp" in err) is AGENTS[agent].speaks_mcp
        assert ("-m pip install 'mcp>=2'" in err) is AGENTS[agent].speaks_mcp


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_without_yes_nothing_is_written_where_nobody_can_be_asked(agent, project):
    before = snapshot(project)
    code, out, err = ark(agent, str(project))
    assert code == 0
    assert "+++ " in out and "nothing was written" in err
    assert snapshot(project) == before


def test_the_answer_on_a_terminal_decides(project, monkeypatch):
    import click

    before = snapshot(project)
    answers = iter([False, True])
    monkeypatch.setattr(click, "confirm", lambda *a, **k: next(answers))
    monkeypatch.setattr("autoresearch_kit.cli.install._can_ask", lambda: True)
    assert "nothing was written" in ark("claude", str(project))[2]
    assert snapshot(project) == before
    assert "wrote" in ark("claude", str(project))[2]
    assert (project / ".mcp.json").is_file()


def test_a_project_in_a_sub_folder_has_a_server_of_its_own(project):
    inner = project / "exp" / "One"
    inner.mkdir(parents=True)
    shutil.copy(project / "autoresearch-config.yaml", inner)
    for agent in ("claude", "gemini"):
        install(agent, project)
        install(agent, inner)
    servers = json.loads((project / ".mcp.json").read_text())["mcpServers"]
    assert servers["ark"]["args"][-1] == str(project)
    assert servers["ark-exp-one"]["args"][-1] == str(inner)
    assert (project / ".claude/skills/ark-exp-one/SKILL.md").is_file()
    # It looks only in the folder where it is started.
    assert "ark-exp-one" in json.loads((inner / ".gemini/settings.json").read_text())["mcpServers"]
    install("claude", project, "--undo")
    assert list(json.loads((project / ".mcp.json").read_text())["mcpServers"]) == ["ark-exp-one"]


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_for_the_user_it_goes_into_the_home_folder(agent, project, tmp_path):
    before = snapshot(project)
    install(agent, project, "--user")
    assert snapshot(project) == before
    target = target_of(agent, project, True)
    for path in filter(None, (target.config, target.skill)):
        assert path.is_relative_to(tmp_path / "home") and path.is_file()
    if AGENTS[agent].speaks_mcp:
        assert target.command == own_command("mcp")
    install(agent, project, "--user", "--undo")
    assert [name for name, data in snapshot(tmp_path / "home").items() if data is not None] == []


@pytest.mark.parametrize(
    ("agent", "variable", "config", "skill"),
    [
        ("claude", "CLAUDE_CONFIG_DIR", ".claude.json", "skills/ark/SKILL.md"),
        ("codex", "CODEX_HOME", "config.toml", None),
        ("gemini", "GEMINI_CLI_HOME", ".gemini/settings.json", ".gemini/skills/ark/SKILL.md"),
        ("opencode", "XDG_CONFIG_HOME", "opencode/opencode.json", "opencode/skills/ark/SKILL.md"),
        ("copilot", "COPILOT_HOME", "mcp-config.json", "skills/ark/SKILL.md"),
    ],
)
def test_a_variable_may_move_the_home_of_an_agent(agent, variable, config, skill, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, str(tmp_path / "moved"))
    target = target_of(agent, tmp_path, True)
    assert target.config == tmp_path / "moved" / config
    assert target.skill == (tmp_path / "moved" / skill if skill else tmp_path / "home/.agents/skills/ark/SKILL.md")


def test_opencode_keeps_the_name_of_the_configuration_that_is_there(project):
    (project / "opencode.jsonc").write_text("{ // mine\n}\n")
    install("opencode", project)
    assert not (project / "opencode.json").exists()
    assert "// mine" in (project / "opencode.jsonc").read_text()


# What is refused


@pytest.mark.parametrize("agent", WITH_CONFIG)
def test_a_broken_configuration_is_refused_with_its_line_and_left_alone(agent, project):
    path = prepared(agent, project, BROKEN[AGENTS[agent].kind].encode())
    before = snapshot(project)
    code, _, err = ark(agent, str(project), "--yes")
    assert code == 1 and f"{path}:" in err and "left as it is" in err
    assert int(err.partition(f"{path}:")[2].partition(":")[0]) in (2, 3)
    assert snapshot(project) == before
    assert ark(agent, str(project), "--undo", "--yes")[0] == 1
    assert snapshot(project) == before


@pytest.mark.parametrize("agent", WITH_CONFIG)
@pytest.mark.parametrize("data", [b"\xff\xfe{\x00}\x00", b"a\n\xc3\x28\n"])
def test_what_is_no_text_is_refused(agent, data, project):
    path = prepared(agent, project, data)
    assert ark(agent, str(project), "--yes")[0] == 1
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("agent", "text"),
    [
        ("claude", "[]"),
        ("claude", '{"mcpServers": 3}'),
        ("claude", '{"mcpServers": {}, "mcpServers": {}}'),
        ("claude", '{"mcpServers": {"ark": {"command": "somebody-else"}}}'),
        ("codex", "mcp_servers = 3"),
        ("codex", '[mcp_servers.ark]\ncommand = "somebody-else"'),
        ("codex", "[[mcp_servers]]\na = 1"),
        ("aider", "- a\n"),
        ("aider", "read: {a: 1}\n"),
        ("aider", "read: a\nread: b\n"),
        ("aider", "read: |\n  a\n"),
    ],
)
def test_what_cannot_hold_an_entry_is_refused(agent, text, project):
    path = prepared(agent, project, text.encode())
    code, _, err = ark(agent, str(project), "--yes")
    assert code == 1 and str(path) in err
    assert path.read_text() == text
    assert not target_of(agent, project, False).skill.exists()


def test_a_skill_of_somebody_else_is_refused(project):
    skill = project / ".claude/skills/ark/SKILL.md"
    skill.parent.mkdir(parents=True)
    skill.write_text("mine")
    code, _, err = ark("claude", str(project), "--yes")
    assert code == 1 and "is not from ark" in err
    assert skill.read_text() == "mine" and not (project / ".mcp.json").exists()
    assert ark("claude", str(project), "--undo", "--yes")[2] == "there is nothing to undo\n"


def test_a_read_only_file_is_refused(project):
    path = prepared("claude", project, b"{}")
    path.chmod(0o444)
    code, _, err = ark("claude", str(project), "--yes")
    assert code == 1 and "read-only" in err and "chmod" in err
    assert path.read_bytes() == b"{}" and not (project / ".claude").exists()


def test_a_folder_in_the_place_of_a_file_is_refused(project):
    (project / ".mcp.json").mkdir()
    code, _, err = ark("claude", str(project), "--yes")
    assert code == 1 and "is no file" in err
    (project / ".codex").write_text("a file")
    code, _, err = ark("codex", str(project), "--yes")
    assert code == 1 and "Traceback" not in err
    assert not (project / ".agents").exists()


def test_all_files_or_none(project, monkeypatch):
    """The second of two files cannot be written: the first is as it was, and so is what is remembered."""
    prepared("claude", project, b"{}")
    before, home = snapshot(project), snapshot(Path.home())
    (project / ".claude").write_text("in the way")
    code, _, err = ark("claude", str(project), "--yes")
    assert code == 1 and "Traceback" not in err
    (project / ".claude").unlink()
    assert snapshot(project) == before
    assert {name for name, data in snapshot(Path.home()).items() if data is not None} == set(home)


def test_a_file_that_changes_while_the_user_thinks_is_not_overwritten(project):
    path = prepared("claude", project, b"{}")
    found = plan(target_of("claude", project, False))
    path.write_bytes(b'{"a": 1}')
    with pytest.raises(ArkError, match="changed meanwhile"):
        carry_out(found)
    assert path.read_bytes() == b'{"a": 1}'


@pytest.mark.parametrize("args", [("emacs",), ("claude", "/nowhere")])
def test_what_does_not_exist_is_a_sentence(args):
    code, _, err = ark(*args)
    assert code != 0 and err.startswith("error: ") and "Traceback" not in err


# Links, permissions, ends of lines


def test_a_link_is_written_through(project, tmp_path):
    dotfiles = tmp_path / "dotfiles.json"
    dotfiles.write_text('{"a": 1}\n')
    (project / ".mcp.json").symlink_to(dotfiles)
    install("claude", project)
    assert (project / ".mcp.json").is_symlink()
    assert "mcpServers" in json.loads(dotfiles.read_text())
    install("claude", project, "--undo")
    assert (project / ".mcp.json").is_symlink() and dotfiles.read_text() == '{"a": 1}\n'


def test_a_link_to_what_is_not_there_yet_is_written_through(project, tmp_path):
    (project / ".mcp.json").symlink_to(tmp_path / "later" / "dot.json")
    install("claude", project)
    assert "mcpServers" in json.loads((tmp_path / "later/dot.json").read_text())
    install("claude", project, "--undo")
    assert (project / ".mcp.json").is_symlink() and not (tmp_path / "later/dot.json").exists()


def test_a_link_in_a_circle_is_refused(project):
    (project / ".mcp.json").symlink_to(project / ".mcp.json")
    code, _, err = ark("claude", str(project), "--yes")
    assert code == 1 and "Traceback" not in err


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_permissions_stay(mode, project):
    path = prepared("claude", project, b"{}")
    path.chmod(mode)
    install("claude", project)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    install("claude", project, "--undo")
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_what_is_remembered_is_for_the_user_alone(project):
    prepared("claude", project, b'{"key": "secret"}')
    install("claude", project)
    (memory,) = (Path.home() / ".local/state/ark/install").iterdir()
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    assert stat.S_IMODE(memory.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("agent", WITH_CONFIG)
def test_ends_of_lines_and_a_mark_at_the_beginning_stay(agent, project):
    data = b"\xef\xbb\xbf" + existing(agent).replace(b"\n", b"\r\n")
    path = prepared(agent, project, data)
    install(agent, project)
    text = path.read_bytes()
    assert text.startswith(b"\xef\xbb\xbf") and b"\n" not in text.replace(b"\r\n", b"")
    install(agent, project, "--undo")
    assert path.read_bytes() == data


# Undo


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_undo_leaves_nothing_behind(agent, project):
    before, home = snapshot(project), snapshot(Path.home())
    install(agent, project)
    install(agent, project, "--undo")
    assert snapshot(project) == before
    assert {name for name, data in snapshot(Path.home()).items() if data is not None} == set(home)
    assert ark(agent, str(project), "--undo", "--yes")[2] == "there is nothing to undo\n"


@pytest.mark.parametrize("agent", WITH_CONFIG)
def test_undo_restores_what_was_there_to_the_byte(agent, project):
    path = prepared(agent, project, existing(agent))
    install(agent, project)
    install(agent, project, "--undo")
    assert path.read_bytes() == existing(agent)


@pytest.mark.parametrize("agent", WITH_CONFIG)
def test_undo_after_an_edit_takes_out_only_our_entry_and_says_so(agent, project):
    path = prepared(agent, project, existing(agent))
    install(agent, project)
    comment = "//" if AGENTS[agent].kind == "json" else "#"
    path.write_text(f"{comment} edited since\n{path.read_text()}")
    code, _, err = ark(agent, str(project), "--undo", "--yes")
    assert code == 0 and "edited since" in err
    assert path.read_text() == f"{comment} edited since\n{existing(agent).decode()}"


@pytest.mark.parametrize("agent", WITH_CONFIG)
def test_undo_of_what_nobody_remembers_takes_out_only_our_entry(agent, project):
    path = prepared(agent, project, existing(agent))
    install(agent, project)
    shutil.rmtree(Path.home() / ".local")
    code, _, err = ark(agent, str(project), "--undo", "--yes")
    assert code == 0 and "nothing is remembered" in err
    assert path.read_bytes() == existing(agent)
    assert not target_of(agent, project, False).skill.exists()


def test_undo_leaves_a_skill_that_was_edited(project):
    install("claude", project)
    skill = target_of("claude", project, False).skill
    skill.write_text(skill.read_text() + "my own lines\n")
    code, _, err = ark("claude", str(project), "--undo", "--yes")
    assert code == 0 and "so it stays" in err
    assert "my own lines" in skill.read_text() and not (project / ".mcp.json").exists()


@pytest.mark.parametrize("agent", WITH_CONFIG)
def test_undo_goes_back_to_before_the_first_of_two_installations(agent, project, monkeypatch):
    path = prepared(agent, project, existing(agent))
    install(agent, project)
    before, sys_executable = path.read_text(), sys.executable
    monkeypatch.setattr(sys, "executable", "/elsewhere/python")
    code, out, _ = ark(agent, str(project), "--yes")
    assert code == 0 and "/elsewhere/python" in out
    if AGENTS[agent].speaks_mcp:
        assert path.read_text() == before.replace(sys_executable, "/elsewhere/python")
    install(agent, project, "--undo")
    assert path.read_bytes() == existing(agent)
    assert not target_of(agent, project, False).skill.exists()


def test_a_container_that_was_made_for_us_goes_with_us_after_an_edit(project):
    path = prepared("claude", project, b'{\n  "a": 1\n}\n')
    install("claude", project)
    path.write_text(path.read_text().replace('"a": 1', '"a": 2'))
    install("claude", project, "--undo")
    assert path.read_text() == '{\n  "a": 2\n}\n'


# For any configuration

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
NAMES = st.text(max_size=8) | st.sampled_from(["mcpServers", "mcp", "mcp_servers", "ark", "read"])
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
TOML_LEAVES = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.datetimes() | st.dates()
TOML = st.recursive(
    TOML_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


@st.composite
def json_texts(draw: st.DrawFn) -> str:
    """A JSON object, written in one of many ways, with comments and trailing commas where a line ends."""
    found = draw(st.dictionaries(NAMES, JSON, max_size=5))
    indent = draw(st.sampled_from([None, 0, 2, 4, "\t"]))
    text = json.dumps(found, indent=indent, ensure_ascii=draw(st.booleans()))
    lines = text.split("\n")
    for index, line in enumerate(lines):
        kind = draw(st.integers(0, 5))
        if kind == 0 and len(lines) > 1:
            lines[index] = line + " // a, {comment}"
        elif kind == 1:
            lines[index] = line + ' /* " */'
        elif (
            kind == 2
            and index + 1 < len(lines)
            and lines[index + 1].strip().startswith(("}", "]"))
            and (line.strip()[-1] not in "{[")
        ):
            lines[index] = line + ","
    return draw(st.sampled_from(["", "\n", "// top\n"])) + draw(st.sampled_from(["\n", "\r\n"])).join(lines)


ENTRY = {"command": "/x y/python", "args": ["-m", "autoresearch_kit"], "n": 3, "on": True}


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(json_texts(), st.sampled_from(["mcpServers", "mcp"]))
def test_any_json_survives_an_entry(text, key):
    before = jsonc.read(text)
    try:
        new = jsonc.put(text, [key, "the server"], ENTRY)
    except Unreadable:
        assert not isinstance(before.get(key, {}), dict)
        return
    after = jsonc.read(new)
    assert after[key].pop("the server") == jsonc.read(json.dumps(ENTRY))
    if key not in before:
        assert after.pop(key) == {}
    assert after == before
    back = jsonc.drop(new, [key, "the server"])
    if key not in before:
        back = jsonc.drop(back, [key])
    assert jsonc.read(back) == before
    kept = [line.strip() for line in text.splitlines() if "//" in line or "/*" in line]
    assert all(line.partition("//")[2] in back for line in kept)
    if before.get(key):  # nothing was empty: then it is the same to the byte
        assert back == text


def quoted(key: str) -> str:
    return json.dumps(key).replace("\x7f", "\\u007f")


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, TOML, max_size=5), st.booleans(), st.booleans())
def test_any_toml_survives_an_entry(found, with_comments, inline):
    import tomlkit

    text = tomlkit.dumps(found)
    if inline:
        text = (
            "".join(
                f"{quoted(key)} = {tomlkit.item(value, _parent=None).as_string()}\n"
                if not isinstance(value, dict | list)
                else ""
                for key, value in found.items()
            )
            + 'mcp_servers.x.y = 1 # "\n'
        )
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            return
    if with_comments:
        text = "# top\n" + text + "\n# bottom"
    before = tomllib.loads(text)
    try:
        new = in_toml.put(text, ["mcp_servers", "the server"], ENTRY)
    except Unreadable:
        assert not isinstance(before.get("mcp_servers", {}), dict)
        return
    after = tomllib.loads(new)
    assert after["mcp_servers"].pop("the server") == ENTRY
    if "mcp_servers" not in before:
        assert after.pop("mcp_servers") == {}
    assert repr(after) == repr(before)
    assert repr(tomllib.loads(in_toml.drop(new, ["mcp_servers", "the server"]))) == repr(before)
    assert "# top" in new or not with_comments


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(json_texts(), st.sampled_from(["claude", "gemini", "opencode", "copilot"]))
def test_install_and_undo_are_nothing_for_any_json(project, text, agent):
    _there_and_back(project, agent, text.encode("utf-8", "surrogatepass"))


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, TOML, max_size=5))
def test_install_and_undo_are_nothing_for_any_toml(project, found):
    import tomlkit

    _there_and_back(project, "codex", tomlkit.dumps(found).encode())


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=8) | st.just("read"), JSON, max_size=4), st.booleans(), st.booleans())
def test_install_and_undo_are_nothing_for_any_yaml(project, found, flow, unicode):
    _there_and_back(project, "aider", yaml.safe_dump(found, default_flow_style=flow, allow_unicode=unicode).encode())


def _there_and_back(project: Path, agent: str, data: bytes) -> None:
    """Installed and undone, or refused; either way the bytes are those that were there."""
    path = prepared(agent, project, data)
    target = target_of(agent, project, False)
    try:
        found = plan(target)
    except ArkError as refused:
        assert str(path) in refused.message
    else:
        carry_out(found)
        assert path.read_bytes() != data
        assert plan(target).changes == []
        back = plan_undo(target)
        assert back.notes == []
        carry_out(back, undo=True)
    assert path.read_bytes() == data
    assert not target.skill.exists()


def test_what_is_remembered_may_be_damaged(project):
    """Then undo does as if nothing were."""
    install("claude", project)
    target = target_of("claude", project, False)
    for data in (
        b"",
        b"{",
        b"[]",
        b'{"files": {"a": 1}, "folders": []}',
        b'{"files": {"a": ["!", "!"]}, "folders": 3}',
    ):
        target.memory.write_bytes(data)
        assert files.recall(target.memory) is None
    install("claude", project, "--undo")
    assert "ark" not in (project / ".mcp.json").read_text()


def test_undo_leaves_nothing_of_ours_after_an_edit_and_another_installation(project):
    install("claude", project)
    path = project / ".mcp.json"
    found = json.loads(path.read_text())
    found["mcpServers"]["ark"]["command"] = "/old/venv/python"
    found["mcpServers"]["mine"] = {"command": "x"}
    path.write_text(json.dumps(found))
    install("claude", project)
    install("claude", project, "--undo")
    assert json.loads(path.read_text()) == {"mcpServers": {"mine": {"command": "x"}}}
