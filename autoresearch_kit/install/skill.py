"""The skill: when an agent should use `ark`, the verbs, the loop and the rules; rendered from the verbs themselves."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoresearch_kit.agents.templates import render
from autoresearch_kit.core.records import clean_line
from autoresearch_kit.serve.verbs import VERBS, Parameter, Verb

if TYPE_CHECKING:
    from autoresearch_kit.project import Project

MARK = b"<!-- written by `ark install`"
"""What only a skill of ours has."""


def is_ours(text: bytes) -> bool:
    """Whether a file is a skill that `ark install` has written."""
    return MARK in text


def render_skill(name: str, has_tools: bool, has_header: bool, command: Sequence[str], project: Project | None) -> str:
    """The text of a skill called `name`.

    `has_tools` says whether the agent speaks MCP, `has_header` whether it wants the fields of a skill at the top,
    `command` is what `ark` stands for; without a project it is for any.
    """
    spec = project.spec if project else None
    subject = f"{clean_line(spec.name, 80)} ({clean_line(spec.metric, 80)})" if spec else "what `ark` measures"
    return render(
        "skill.md.j2",
        None,
        server=name,
        description=json.dumps(
            f"Improve {subject} by measured experiments; only what is better is kept. Use it when asked to optimise, "
            "tune, speed up or research this, to try an idea, or to say what was tried.",
            ensure_ascii=False,
        ),
        title=clean_line(spec.name, 80) if spec else "Experiments with ark",
        project=str(project.folder) if project else "",
        where=f" {shlex.quote(str(project.folder))}" if project else "",
        has_tools=has_tools,
        has_header=has_header,
        command=shlex.join(command),
        verbs=[{"usage": _usage(verb), "call": _call(verb), "summary": verb.summary} for verb in VERBS],
        parameters=_parameters(has_tools),
    )


def _usage(verb: Verb) -> str:
    words = [word if p.required or not p.flags else f"[{word}]" for p in verb.parameters for word in [_word(p)]]
    return " ".join([verb.name, *words])


def _word(parameter: Parameter) -> str:
    return " ".join([*parameter.flags[:1], *([parameter.metavar] if parameter.metavar else [])])


def _call(verb: Verb) -> str:
    return f"{verb.tool}({', '.join(p.name if p.required else p.name + '?' for p in verb.parameters)})"


def _parameters(has_tools: bool) -> list[dict[str, str]]:
    """Each argument once, with what it means, as the agent will write it."""
    return [
        {
            "verb": verb.tool if has_tools else f"ark {verb.name}",
            "name": parameter.name if has_tools else _word(parameter),
            "description": parameter.description,
        }
        for verb in VERBS
        for parameter in verb.parameters
    ]
