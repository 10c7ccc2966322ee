"""Where each coding agent keeps its configuration and its skills: one row per agent.

Looked up in the agents' own documentation in November 2026; the page stands beside each row.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

TOOL_TIMEOUT_SECONDS = 3600
"""How long an agent waits for one tool, where that can be said; what lasts longer goes on, and `wait` gets it."""


@dataclass(frozen=True, slots=True)
class Row:
    """How one agent is told of the server and the skill. Folders are relative to the project or to the home folder."""

    config: tuple[str, ...]
    """Names of its configuration; the first that exists, else the first. Empty: it speaks no MCP and needs none."""
    user_config: tuple[str, ...]
    kind: Literal["json", "toml", "yaml"]
    keys: tuple[str, ...]
    """Where the entries of servers are; for YAML the list of files to read."""
    entry: Callable[[list[str]], dict[str, Any]]
    """The entry for a server that is started by this command line."""
    skill: str
    """The file of the skill called `{name}`."""
    user_skill: str
    place: Literal["root", "folder"]
    """Whether project files go to the root of the repository, when the agent looks for them in all folders above the
    one in which it was started, or beside the spec, when it looks only there."""
    home: tuple[str, str] = ("", "")
    """A variable that moves the home of the configuration, and the folder that stands for it."""
    speaks_mcp: bool = True

    def in_home(self, name: str) -> Path:
        """Where a name of the user's own configuration leads."""
        variable, folder = self.home
        moved = os.environ.get(variable, "") if variable else ""
        if Path(moved).is_absolute() and name.startswith(folder):
            return Path(moved) / name.removeprefix(folder + "/")
        return Path.home() / name


def _mcp_servers(**more: Any) -> Callable[[list[str]], dict[str, Any]]:
    return lambda command: {"command": command[0], "args": command[1:], **more}


def _no_server(command: list[str]) -> dict[str, Any]:
    return {}


AGENTS: dict[str, Row] = {
    # https://code.claude.com/docs/en/mcp (scopes) and .../en/skills; no limit of time unless one is given
    "claude": Row(
        config=(".mcp.json",),
        user_config=(".claude.json",),
        kind="json",
        keys=("mcpServers",),
        entry=lambda command: {"type": "stdio", **_mcp_servers()(command)},
        skill=".claude/skills/{name}/SKILL.md",
        user_skill=".claude/skills/{name}/SKILL.md",
        place="root",
        home=("CLAUDE_CONFIG_DIR", ".claude"),
    ),
    # https://developers.openai.com/codex/mcp and .../codex/skills; a project's file is read once the project is trusted
    "codex": Row(
        config=(".codex/config.toml",),
        user_config=(".codex/config.toml",),
        kind="toml",
        keys=("mcp_servers",),
        entry=_mcp_servers(tool_timeout_sec=TOOL_TIMEOUT_SECONDS),
        skill=".agents/skills/{name}/SKILL.md",
        user_skill=".agents/skills/{name}/SKILL.md",
        place="root",
        home=("CODEX_HOME", ".codex"),
    ),
    # https://geminicli.com/docs/tools/mcp-server and .../docs/cli/skills
    "gemini": Row(
        config=(".gemini/settings.json",),
        user_config=(".gemini/settings.json",),
        kind="json",
        keys=("mcpServers",),
        entry=_mcp_servers(timeout=TOOL_TIMEOUT_SECONDS * 1000),
        skill=".gemini/skills/{name}/SKILL.md",
        user_skill=".gemini/skills/{name}/SKILL.md",
        place="folder",
        home=("GEMINI_CLI_HOME", ""),
    ),
    # https://opencode.ai/docs/mcp-servers and .../docs/skills; this form is read by versions 1 and 2
    "opencode": Row(
        config=("opencode.json", "opencode.jsonc"),
        user_config=(".config/opencode/opencode.json", ".config/opencode/opencode.jsonc"),
        kind="json",
        keys=("mcp",),
        entry=lambda command: {
            "type": "local",
            "command": command,
            "enabled": True,
            "timeout": TOOL_TIMEOUT_SECONDS * 1000,
        },
        skill=".opencode/skills/{name}/SKILL.md",
        user_skill=".config/opencode/skills/{name}/SKILL.md",
        place="root",
        home=("XDG_CONFIG_HOME", ".config"),
    ),
    # https://docs.github.com/en/copilot/how-tos/copilot-cli/customize-copilot/add-mcp-servers and .../add-skills;
    # `.mcp.json` is read too, and left to the agents that know no other
    "copilot": Row(
        config=(".github/mcp.json",),
        user_config=(".copilot/mcp-config.json",),
        kind="json",
        keys=("mcpServers",),
        entry=lambda command: {
            "type": "local",
            **_mcp_servers(tools=["*"], timeout=TOOL_TIMEOUT_SECONDS * 1000)(command),
        },
        skill=".github/skills/{name}/SKILL.md",
        user_skill=".copilot/skills/{name}/SKILL.md",
        place="root",
        home=("COPILOT_HOME", ".copilot"),
    ),
    # https://aider.chat/docs/config/aider_conf.html and .../docs/usage/conventions.html; it ignores `.aider*` in git
    "aider": Row(
        config=(".aider.conf.yml",),
        user_config=(".aider.conf.yml",),
        kind="yaml",
        keys=("read",),
        entry=_no_server,
        skill=".aider.{name}.md",
        user_skill=".aider.{name}.md",
        place="root",
        speaks_mcp=False,
    ),
    # https://github.com/badlogic/pi-mono: packages/coding-agent/docs/skills.md
    "pi": Row(
        config=(),
        user_config=(),
        kind="json",
        keys=(),
        entry=_no_server,
        skill=".pi/skills/{name}/SKILL.md",
        user_skill=".pi/agent/skills/{name}/SKILL.md",
        place="folder",
        speaks_mcp=False,
    ),
}
