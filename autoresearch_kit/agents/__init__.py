"""Whoever proposes a change: the coding agents by name, any command, and what needs no model."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoresearch_kit.core.errors import UsageError
from autoresearch_kit.core.names import AGENTS
from autoresearch_kit.core.spec import Agent as AgentSpec
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.lab.programs import missing_programs

if TYPE_CHECKING:
    from autoresearch_kit.loop import Agent
    from autoresearch_kit.ratchet import Run, Watch


def choose(spec: Spec, wanted: str | None) -> list[AgentSpec]:
    """The agents for a run: what the command line wants, else what the spec names. UsageError when that is nobody."""
    if wanted is not None:
        if not wanted.strip():
            raise UsageError("--agent is empty", "give a preset's name or a shell command")
        if wanted not in AGENTS and (missing := missing_programs(wanted)):
            message = f"`{missing[0]}` is neither an agent of the kit nor a program on PATH"
            near = difflib.get_close_matches(wanted.lower(), AGENTS, n=1)
            meant = f"did you mean `{near[0]}`? " if near else ""
            raise UsageError(message, f"{meant}agents of the kit: {', '.join(AGENTS)}")
        return _installed([AgentSpec.model_validate({"name" if wanted in AGENTS else "command": wanted})])
    if not spec.agents:
        raise UsageError("no agent is named", "write `agent:` in the spec, or: ark run --agent 'COMMAND'")
    return _installed(spec.agents)


def _installed(agents: list[AgentSpec]) -> list[AgentSpec]:
    """The agents; UsageError when the program of a named one is not on PATH."""
    from autoresearch_kit.agents.presets import PRESETS

    for agent in agents:
        preset = PRESETS.get(agent.name or "")
        if preset and shutil.which(preset.program) is None:
            raise UsageError(f"`{preset.program}` is not installed", f"install it: {preset.install}")
    return agents


def open_agents(agents: Sequence[AgentSpec], run: Run, watch: Watch) -> Agent:
    """Start the agents for an opened run, to take turns where they are several; ArkError when one cannot work with
    the files of that run."""
    opened: list[tuple[str, Agent]] = []
    try:
        for agent in agents:
            opened.append((agent.known_as, _open(agent, run, watch)))
    except BaseException:
        for _, other in opened:
            other.close()
        raise
    if len(opened) == 1:
        return opened[0][1]
    from autoresearch_kit.agents.rotation import Rotation

    return Rotation(opened)


def _open(agent: AgentSpec, run: Run, watch: Watch) -> Agent:
    if agent.name == "transplant":
        from autoresearch_kit.agents.transplant import TransplantAgent

        return TransplantAgent(run, watch)
    if agent.name == "search":
        from autoresearch_kit.agents.tuning import TuningAgent

        return TuningAgent(run, watch)
    from autoresearch_kit.agents.command import CommandAgent

    return CommandAgent(agent, watch)
