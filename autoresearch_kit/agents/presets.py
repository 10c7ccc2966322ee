"""The coding agents that the kit knows by name: one row each, and what a row means.

A row grants what an unattended turn needs and no more: editing files in its folder, `ark`, and git where it only reads.
Whoever wants more says so by `arguments:`; an option given there takes the place of the row's own. Command lines move:
these are as documented in autumn 2026.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from autoresearch_kit.agents import transcript
from autoresearch_kit.core.names import PROGRAM_NAME
from autoresearch_kit.core.spec import Agent

GIT_READS = ("git diff", "git log", "git show", "git status")
PROMPT, SESSION = "{prompt}", "{session}"
"""Words of a row in whose place the path of the prompt and the id of a session are put."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One row. The command line is `command`, permissions, model, the user's `arguments`, resume, files, `last`."""

    command: tuple[str, ...]
    """The program and what it is always given; the prompt comes on standard input unless a word is `{prompt}`."""
    permissions: tuple[tuple[str, ...], ...]
    """Options that say what it may do without asking; each gives way to the same option in `arguments`."""
    read: transcript.Read
    """Reads its output."""
    install: str
    """How to get it."""
    login: str
    """How to log in."""
    allow: str
    """How to let it do more."""
    model: str = "--model"
    """The option for `model:`."""
    resume: tuple[str, ...] = ()
    """What takes up the session `{session}`; empty when it cannot."""
    last: tuple[str, ...] = ()
    """What comes after everything else."""
    file_option: str = ""
    """The option before each mutable file, for a program that must be told them."""
    widens: tuple[str, ...] = ()
    """Options that grant so much that with one of them in `arguments` the row's own permissions are left out."""
    drives: tuple[str, ...] | None = ()
    """Options for `drive: agent`, which give way likewise; None when it runs no commands, so that it cannot."""
    hidden: tuple[str, ...] = ()
    """Variables by which it knows that it runs inside of itself, and refuses or joins the outer one."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that it needs, unless the user has set them."""
    reports: tuple[Literal["tokens", "money"], ...] = ("tokens", "money")
    """What of its cost it tells."""
    counts_sessions: bool = False
    """Whether the tokens that it tells are those of the whole session, earlier turns included."""
    login_exit: int | None = None
    """The exit code that means that nobody is logged in."""

    @property
    def program(self) -> str:
        """What must be on PATH."""
        return self.command[0]

    def argv(self, agent: Agent, prompt: str, files: Sequence[str] = (), session: str = "") -> list[str]:
        """The command line for one turn; `prompt` is the path of the prompt, `session` one to take up."""

        def filled(own: Sequence[str]) -> list[str]:
            return [word.replace(PROMPT, prompt).replace(SESSION, session) for word in own]

        words = filled(self.command)
        if not any(_names(word, self.widens) for word in agent.arguments):
            driving = (self.drives,) if agent.drive == "agent" and self.drives else ()
            for option in driving or self.permissions:
                if not any(_names(word, (option[0].partition("=")[0],)) for word in agent.arguments):
                    words += option
        words += [self.model, agent.model] if agent.model else []
        words += agent.arguments
        words += filled(self.resume) if session else ()
        for file in files if self.file_option else ():
            words.append(f"{self.file_option}={file}")  # a name may look like an option
        return [*words, *self.last]


def _names(word: str, options: Sequence[str]) -> bool:
    return word.partition("=")[0] in options


def _each(form: str) -> str:
    return ",".join(form.format(command) for command in ("ark", *GIT_READS))


_OPENCODE = {
    "bash": {"*": "ask", **{f"{command}{end}": "allow" for command in ("ark", *GIT_READS) for end in ("", " *")}},
    "webfetch": "ask",
    "websearch": "ask",
}

PRESETS: Mapping[str, Preset] = {
    "claude": Preset(
        command=("claude", "-p", "--output-format", "stream-json", "--verbose"),
        permissions=(("--permission-mode", "acceptEdits"), ("--allowedTools", _each("Bash({}:*)"))),
        read=transcript.claude,
        install="npm install -g @anthropic-ai/claude-code",
        login="run `claude` and type /login, or set ANTHROPIC_API_KEY",
        allow='arguments: ["--allowedTools", "Bash"]',
        resume=("--resume", SESSION),
        widens=("--dangerously-skip-permissions",),
        hidden=("CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SESSION_ID", "CLAUDE_CODE_SSE_PORT"),
    ),
    "codex": Preset(
        command=("codex", "exec", "--json", "--skip-git-repo-check"),
        permissions=(("--sandbox", "workspace-write"),),
        read=transcript.codex,
        install="npm install -g @openai/codex",
        login="codex login, or set CODEX_API_KEY",
        allow='arguments: ["-c", "sandbox_workspace_write.network_access=true"]',
        resume=("resume", SESSION),
        last=("-",),
        widens=("-s", "--dangerously-bypass-approvals-and-sandbox", "--yolo"),
        hidden=("CODEX_SANDBOX", "CODEX_SANDBOX_NETWORK_DISABLED", "CODEX_THREAD_ID"),
        reports=("tokens",),
        counts_sessions=True,
    ),
    "gemini": Preset(
        command=("gemini", "--output-format", "stream-json"),
        permissions=(("--approval-mode=auto_edit",), (f"--allowed-tools={_each('run_shell_command({})')}",)),
        read=transcript.gemini,
        install="npm install -g @google/gemini-cli",
        login="run `gemini` and log in, or set GEMINI_API_KEY",
        allow='arguments: ["--approval-mode=yolo"]',
        resume=("--resume", SESSION),
        widens=("--yolo", "-y"),
        hidden=("GEMINI_CLI",),
        environment={"GEMINI_CLI_TRUST_WORKSPACE": "true"},
        reports=("tokens",),
        login_exit=41,
    ),
    "opencode": Preset(
        command=("opencode", "run", "--format", "json"),
        permissions=(),
        read=transcript.opencode,
        install="npm install -g opencode-ai",
        login="opencode auth login",
        allow='arguments: ["--auto"]',
        resume=("--session", SESSION),
        hidden=("OPENCODE", "OPENCODE_PID", "OPENCODE_RUN_ID"),
        environment={"OPENCODE_PERMISSION": json.dumps(_OPENCODE)},
    ),
    "aider": Preset(
        command=(
            *("aider", "--message-file", PROMPT, "--read", PROGRAM_NAME, "--no-auto-commits", "--no-dirty-commits"),
            *("--no-gitignore", "--no-check-update", "--no-show-release-notes", "--no-analytics"),
            *("--no-pretty", "--no-stream", "--no-fancy-input", "--no-suggest-shell-commands", "--no-detect-urls"),
            *("--chat-history-file", "/dev/null", "--input-history-file", "/dev/null"),
        ),
        permissions=(("--yes-always",),),
        read=transcript.aider,
        install="python -m pip install aider-install && aider-install",
        login="set the key of your model's provider, such as ANTHROPIC_API_KEY",
        allow='arguments: ["--file", "NAME"]',
        file_option="--file",
        drives=None,
    ),
    "copilot": Preset(
        command=("copilot", "--output-format=json", "--no-ask-user"),
        permissions=((f"--allow-tool=write,shell(ark:*),{','.join(f'shell({command})' for command in GIT_READS)}",),),
        read=transcript.copilot,
        install="npm install -g @github/copilot",
        login="run `copilot` and type /login, or set COPILOT_GITHUB_TOKEN",
        allow='arguments: ["--allow-tool=write,shell"]',
        resume=(f"--resume={SESSION}",),
        widens=("--allow-all-tools", "--allow-all", "--yolo"),
        hidden=("COPILOT_CLI",),
        reports=(),
    ),
    "pi": Preset(
        command=("pi", "--mode", "json"),
        permissions=(("--tools", "read,edit,write,grep,find,ls"),),
        read=transcript.pi,
        install="npm install -g @earendil-works/pi-coding-agent",
        login="run `pi` and type /login, or set the key of your provider",
        allow='arguments: ["--tools", "read,bash,edit,write"]',
        resume=("--session", SESSION),
        widens=("-t",),
        drives=("--tools", "read,bash,edit,write,grep,find,ls"),
    ),
}
"""By the names that `agent:` and `--agent` know."""
