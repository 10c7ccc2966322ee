"""Whoever proposes a change: any command, and the search program that needs no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoresearch_kit.core.errors import UsageError
from autoresearch_kit.core.spec import Agent as AgentSpec
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.lab.programs import missing_programs

if TYPE_CHECKING:
    from autoresearch_kit.ratchet import Agent, Run, Watch

PRESETS = ("search",)
"""Names that `agent:` and `--agent` know; anything else on the command line is a shell command."""


def choose(spec: Spec, wanted: str | None) -> AgentSpec:
    """The agent for a run: what the command line wants, else what the spec names. UsageError when that is nobody."""
    if wanted is not None:
        if not wanted.strip():
            raise UsageError("--agent is empty", "give a preset's name or a shell command")
        if wanted not in PRESETS and (missing := missing_programs(wanted)):
            message = f"`{missing[0]}` is neither an agent of the kit nor a program on PATH"
            raise UsageError(message, f"agents of the kit: {', '.join(PRESETS)}")
        return AgentSpec.model_validate({"name" if wanted in PRESETS else "command": wanted})
    agent = spec.agent_or_default
    if agent is None:
        raise UsageError("no agent is named", "write `agent:` in the spec, or: ark run --agent 'COMMAND'")
    if agent.name is not None and agent.name not in PRESETS:
        known = ", ".join(PRESETS)
        raise UsageError(
            f"there is no agent called `{agent.name}`", f"known: {known}; for any other: agent: {{command: '...'}}"
        )
    return agent


def open_agent(agent: AgentSpec, run: Run, watch: Watch) -> Agent:
    """Start the agent for an opened run; ArkError when it cannot work with the files of that run."""
    if agent.command is not None:
        from autoresearch_kit.agents.command import CommandAgent

        return CommandAgent(agent.label, agent.command, agent.timeout_minutes * 60, watch)
    from autoresearch_kit.agents.tuning import TuningAgent

    return TuningAgent(run, watch)
