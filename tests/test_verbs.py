"""One definition of the verbs, three doors: the command line, the MCP server and the skill say the same.

.venv/bin/pytest tests/test_verbs.py
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import anyio
import click
import pytest
from mcp import Client

from autoresearch_kit.cli import main
from autoresearch_kit.install.skill import render_skill
from autoresearch_kit.serve.mcp import Door, make_server
from autoresearch_kit.serve.verbs import VERBS, Parameter, Verb

FOR_PEOPLE = {"directory", "tag", "as_json", "as_tsv", "replay"}
"""What the commands take besides: where, and how to print it."""
CALLS = [(verb, parameter) for verb in VERBS for parameter in verb.parameters]
SKILLS = {
    has_tools: render_skill("ark", has_tools, has_header=has_tools, command=["ark"], project=None)
    for has_tools in (True, False)
}


def command(verb: Verb) -> click.Command:
    return main.commands[verb.name]


def on_command_line(verb: Verb, parameter: Parameter) -> click.Parameter:
    found = [
        given
        for given in command(verb).params
        if (set(parameter.flags) == set(given.opts) if parameter.flags else isinstance(given, click.Argument))
        and (parameter.flags or given.human_readable_name == parameter.metavar)
    ]
    assert len(found) == 1, f"ark {verb.name} has no {parameter.name}"
    return found[0]


def test_names_are_there_once():
    assert len({verb.name for verb in VERBS}) == len({verb.tool for verb in VERBS}) == len(VERBS) == 6
    for verb in VERBS:
        names = [parameter.name for parameter in verb.parameters]
        assert len(set(names)) == len(names)
        assert re.fullmatch(r"[a-z_]+", verb.tool), "a name that every client takes"


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_each_verb_is_a_command_of_that_help(verb):
    assert " ".join((command(verb).help or "").split()) == verb.summary
    ours = {id(on_command_line(verb, parameter)) for parameter in verb.parameters}
    others = {given.name for given in command(verb).params if id(given) not in ours}
    assert others <= FOR_PEOPLE


@pytest.mark.parametrize(("verb", "parameter"), CALLS, ids=lambda found: found.name)
def test_each_parameter_is_one_of_the_command(verb, parameter):
    given = on_command_line(verb, parameter)
    assert given.required == parameter.required
    assert given.multiple == (parameter.type == "array") if isinstance(given, click.Option) else True
    if isinstance(given, click.Option):
        assert given.help == parameter.description and given.is_flag == (parameter.type == "boolean")
        kinds = {"integer": click.types.IntParamType, "number": click.types.FloatParamType}
        assert isinstance(
            given.type, kinds.get(parameter.type, (click.types.StringParamType, click.types.BoolParamType))
        )


def test_the_tools_are_these(tmp_path):
    async def tools():
        async with Client(make_server(Door(tmp_path, None, lambda project: "t"))) as client:
            return (await client.list_tools()).tools

    for verb, tool in zip(VERBS, anyio.run(tools), strict=True):
        assert (tool.name, tool.description) == (verb.tool, verb.summary)
        found = tool.input_schema
        assert [
            (name, given["type"], given["description"], name in found["required"])
            for name, given in found["properties"].items()
        ] == [(p.name, p.type, p.description, p.required) for p in verb.parameters]


@pytest.mark.parametrize("has_tools", [True, False])
def test_the_skill_names_every_verb_and_parameter(has_tools):
    text = SKILLS[has_tools]
    for verb in VERBS:
        line = next(line for line in text.splitlines() if f"`ark {verb.name}" in line and verb.summary in line)
        for parameter in verb.parameters:
            assert (parameter.flags[0] if parameter.flags else parameter.metavar) in line
            assert not has_tools or re.search(rf"`{verb.tool}\(.*\b{parameter.name}\b", line)
            assert any(parameter.description in line for line in text.splitlines())
    assert has_tools or not any(
        verb.tool in text for verb in VERBS if verb.tool not in ("status", "wait", "history", "show")
    )


@pytest.mark.parametrize("has_tools", [True, False])
def test_the_skill_names_nothing_else(has_tools):
    """Every command and flag in it is real, and so is every tool."""
    text = SKILLS[has_tools]
    commands = [words for words in re.findall(r"`ark ([^`]+)`", text) if words != "install"]
    assert len(commands) >= len(VERBS)
    for line in commands:
        name, *words = shlex.split(line.replace("[", " ").replace("]", " "))
        flags = {flag for given in main.commands[name].params for flag in given.opts}
        assert {word for word in words if word.startswith("-")} <= flags, line
    tools = set(re.findall(r"`([a-z_]+)\(", text)) | set(re.findall(r"[Cc]all `(\w+)`", text))
    assert tools <= {verb.tool for verb in VERBS}
    assert tools == ({verb.tool for verb in VERBS} if has_tools else set())


def test_the_guide_names_every_tool():
    guide = (Path(__file__).parents[1] / "docs" / "guides" / "mcp.md").read_text()
    for verb in VERBS:
        assert f"`{verb.tool}`" in guide
    named = set(re.findall(r"^\| `(\w+)` \| `ark (\w+)` \|", guide, re.M))
    assert named == {(verb.tool, verb.name) for verb in VERBS}
