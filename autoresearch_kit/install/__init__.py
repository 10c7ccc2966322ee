"""Tells a coding agent of `ark`: its MCP server in the agent's configuration, and a skill beside it.

Nothing is written here before somebody has seen it: `plan` and `plan_undo` say what would change, `carry_out` does it.
A user's configuration is edited in place, as text, and read again before it is written: what was there must still be
there. What cannot be understood is left alone.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.names import SPEC_NAME
from autoresearch_kit.install import files, jsonc, toml, yaml
from autoresearch_kit.install.agents import AGENTS, Row
from autoresearch_kit.install.files import Change, Memory
from autoresearch_kit.install.skill import is_ours, render_skill
from autoresearch_kit.install.text import Unreadable
from autoresearch_kit.project import Project, open_project
from autoresearch_kit.serve.mcp import check_sdk

SERVER = "ark"
"""What the server and the skill are called; a project in a sub-folder adds the folder's name."""
_BOM = "\ufeff"
_MODULES: dict[str, ModuleType] = {"json": jsonc, "toml": toml}


@dataclass(frozen=True, slots=True)
class Target:
    """One agent at one place."""

    agent: str
    row: Row
    name: str
    config: Path | None
    skill: Path
    command: list[str]
    """What starts the server."""
    project: Project | None
    """None for the user's own configuration, which serves whatever project the agent is started in."""

    @property
    def memory(self) -> Path:
        """Where it is remembered what was written."""
        return files.memory_path(self.agent, str(self.project.spec_path) if self.project else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done; nothing when there are no changes."""

    target: Target
    changes: list[Change]
    remembered: Memory | None
    notes: list[str] = field(default_factory=list)
    """What a person should know besides."""


def target_of(agent: str, where: Path, user: bool) -> Target:
    """The agent called so, in the project at `where` or for the user; UsageError when there is none."""
    row = AGENTS.get(agent)
    if row is None:
        raise UsageError(f"there is no agent `{agent}`", f"known: {', '.join(AGENTS)}")
    if user:
        config = _first([row.in_home(name) for name in row.user_config])
        skill = row.in_home(row.user_skill.format(name=SERVER))
        return Target(agent, row, SERVER, config, skill, own_command("mcp"), None)
    project = open_project(where)
    try:
        base = project.repository.root.resolve() if row.place == "root" else project.folder
        if not str(project.folder).isascii() and "\ufffd" in os.fsencode(project.folder).decode("utf-8", "replace"):
            raise UsageError(f"{project.folder} is not UTF-8, as configurations are", "give the folder another name")
        inner = re.sub(r"[^a-z0-9]+", "-", project.place.prefix.lower()).strip("-")
        name = f"{SERVER}-{inner}"[:60].rstrip("-") if inner else SERVER
        config = _first([base / name for name in row.config])
        command = own_command("mcp", str(project.folder if project.place.spec_name == SPEC_NAME else project.spec_path))
        return Target(agent, row, name, config, base / row.skill.format(name=name), command, project)
    finally:
        project.repository.close()


def own_command(*arguments: str) -> list[str]:
    """The command line of this installation that works from everywhere, no environment active.

    -P, because the folder in which it is started may hold a module of the same name as one of ours, and be an agent's.
    """
    return [sys.executable, "-P", "-m", "autoresearch_kit", *arguments]


def plan(target: Target) -> Plan:
    """What must be written for the agent to know of `ark`; ArkError where somebody else's text cannot be understood."""
    wanted = {target.skill: _skill(target)}
    if target.config:
        wanted = {target.config: _edited(target, target.config, _put), **wanted}
    changes = [Change(path, old, new) for path, new in wanted.items() if (old := files.read(path)) != new]
    notes = _lacking(target)
    if not changes:
        return Plan(target, [], None, notes)
    earlier = files.recall(target.memory)
    kept: dict[Path, tuple[bytes | None, bytes | None]] = {
        path: (_original(target, path, earlier), new) for path, new in wanted.items()
    }
    folders = files.missing_folders(list(wanted))
    return Plan(target, changes, Memory(kept, [*folders, *(earlier.folders if earlier else [])]), notes)


def _original(target: Target, path: Path, earlier: Memory | None) -> bytes | None:
    """What a file would be without ark: what was there before it, or else what is there now without our entry."""
    old = files.read(path)
    before, after = (earlier.files.get(path) if earlier else None) or (old, None)
    if earlier and after == old:
        return before
    if old is None or path == target.skill:  # an earlier one of ours: nobody else's would be written over
        return None
    return _edited(target, path, functools.partial(_drop, before=before))


def _lacking(target: Target) -> list[str]:
    """What keeps the server from starting here."""
    try:
        if target.row.speaks_mcp:
            check_sdk()
    except ArkError as error:
        return [f"{error.message}; before you start {target.agent}: {error.hint}"]
    return []


def plan_undo(target: Target) -> Plan:
    """What must be written for everything to be as it was; where somebody has edited since, without our entries."""
    memory = files.recall(target.memory)
    changes, notes = [], []
    for path in [path for path in (target.config, target.skill) if path]:
        old = files.read(path)
        before, after = (memory.files.get(path) if memory else None) or (None, None)
        if old is None:
            continue
        if after is not None and old == after:
            changes.append(Change(path, old, before))
        elif path == target.skill:
            if old == _skill_text(target):
                changes.append(Change(path, old, None))
            elif is_ours(old):
                notes.append(f"{path} was edited since, so it stays")
        else:
            new = _edited(target, path, functools.partial(_drop, before=before if memory else old))
            if new != old:
                changes.append(Change(path, old, new))
                why = "was edited since" if memory else "may hold more than ark wrote, and nothing is remembered of it"
                notes.append(f"{path} {why}, so only the entry of ark is taken out")
    return Plan(target, changes, memory, notes)


def carry_out(plan: Plan, undo: bool = False) -> None:
    """Make the changes of a plan, all or none; ArkError when that is refused."""
    files.apply(plan.changes, plan.target.memory, None if undo else plan.remembered)
    if undo and plan.remembered:
        files.remove_empty(plan.remembered.folders)


def _first(paths: list[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), paths[0]) if paths else None


def _skill_text(target: Target) -> bytes:
    has_header = target.skill.name == "SKILL.md"
    return render_skill(target.name, target.row.speaks_mcp, has_header, own_command(), target.project).encode()


def _skill(target: Target) -> bytes:
    old = files.read(target.skill)
    if old is not None and not is_ours(old):
        raise ArkError(f"{target.skill} is not from ark", "move it away, or give it another name")
    return _skill_text(target)


def _edited(target: Target, path: Path, edit: Callable[[Target, str], str]) -> bytes:
    """The configuration at `path` after `edit`, which must have changed nothing but our entry."""
    old = files.read(path) or b""
    try:
        text = old.decode("utf-8")
    except UnicodeDecodeError as error:
        line = old[: error.start].count(b"\n") + 1
        raise ArkError(f"{path}:{line}: this is not UTF-8 text", "mend the file; it was left as it is") from None
    mark, text = (_BOM, text[1:]) if text.startswith(_BOM) else ("", text)
    try:
        new = edit(target, text)
        others = _others(target, text)
    except Unreadable as error:
        raise ArkError(f"{path}:{error.line}: {error}", "mend the file; it was left as it is") from None
    try:
        is_safe = _others(target, new) == others
    except Unreadable:
        is_safe = False
    if not is_safe:
        entry = json.dumps(target.row.entry(target.command)) if target.row.speaks_mcp else str(target.skill)
        keys = ".".join([*target.row.keys, target.name] if target.row.speaks_mcp else target.row.keys)
        raise ArkError(f"{path} is written in a way that cannot be edited safely", f"edit `{keys}` by hand: {entry}")
    return (mark + new).encode()


def _put(target: Target, text: str) -> str:
    if target.row.kind == "yaml":
        return yaml.put(text, target.row.keys[0], str(target.skill))
    module, path, entry = _MODULES[target.row.kind], [*target.row.keys, target.name], target.row.entry(target.command)
    found = _at(module.read(text), path)
    if found is not None and not _is_our_entry(found):
        raise Unreadable(f"there is a server `{target.name}` already that is not ark's; give it another name", 1)
    if found is not None and found == _at(module.read(module.put("", path, entry)), path):
        return text
    return str(module.put(text, path, entry))


def _drop(target: Target, text: str, before: bytes | None) -> str:
    """Without our entry; and without what held it, when that is empty and was not there before."""
    if target.row.kind == "yaml":
        return yaml.drop(text, target.row.keys[0], str(target.skill))
    module, path = _MODULES[target.row.kind], [*target.row.keys, target.name]
    if not _is_our_entry(_at(module.read(text), path)):
        return text
    text = module.drop(text, path)
    holder = path[:-1]
    if _at(module.read(text), holder) == {} and _at(module.read((before or b"").decode().lstrip(_BOM)), holder) is None:
        text = module.drop(text, holder)
    return text


def _is_our_entry(entry: Any) -> bool:
    return "autoresearch_kit" in repr(entry)


def _at(found: Any, path: list[str]) -> Any:
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _others(target: Target, text: str) -> str:
    """Everything in a configuration but our entry, in a form that can be compared."""
    if target.row.kind == "yaml":
        key = target.row.keys[0]
        found = yaml.read(text)
        rest = [item for item in yaml.items(text, key) if item != str(target.skill)]
        return _canonical({**{k: v for k, v in found.items() if k != key}, key: rest})
    found = _MODULES[target.row.kind].read(text)
    return _canonical(_without(found, [*target.row.keys, target.name]))


def _without(found: Any, path: list[str]) -> Any:
    """A copy without what is at `path`, and without what is empty on the way to it."""
    if not isinstance(found, dict) or path[0] not in found:
        return found
    inner = {} if len(path) == 1 else _without(found[path[0]], path[1:])
    rest = {key: value for key, value in found.items() if key != path[0]}
    return rest if inner == {} else {**rest, path[0]: inner}


def _canonical(found: Any) -> str:
    if isinstance(found, dict):
        return "{" + ",".join(sorted(f"{key!r}:{_canonical(value)}" for key, value in found.items())) + "}"
    if isinstance(found, list):
        return "[" + ",".join(map(_canonical, found)) + "]"
    return repr(found)
