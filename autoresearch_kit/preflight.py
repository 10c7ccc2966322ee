"""Everything that could waste a night and can be seen without measuring, one line each; `check` adds the noise."""

from __future__ import annotations

import ast
import os
import posixpath
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoresearch_kit.agents.brief import check_templates, own_templates
from autoresearch_kit.agents.presets import PRESETS
from autoresearch_kit.agents.tuning import read_tunables
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.globs import compile_globs
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.lab.cache import cache_root, data_root, make_private
from autoresearch_kit.lab.desk import read_links
from autoresearch_kit.lab.inputs import Inputs
from autoresearch_kit.lab.machine import machine
from autoresearch_kit.lab.programs import missing_programs
from autoresearch_kit.ledger.git import DISK_HINT, Entry
from autoresearch_kit.ledger.ledger import Ledger, tags
from autoresearch_kit.project import Project, check_files, check_submodules

LOW_DISK_BYTES = 2 * 2**30
COMPILERS = {".c": "cc", ".cc": "c++", ".cpp": "c++", ".cu": "nvcc", ".m": "clang", ".rs": "cargo"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `ark check`."""

    level: Literal["ok", "warn", "fail"]
    """`fail` means that a run would not start."""
    subject: str
    """What was looked at, a word or two."""
    text: str
    """One sentence."""
    hint: str = ""
    """What to do."""


def preflight(project: Project) -> Iterator[Finding]:
    """Look at everything; a finding is given as soon as it is known."""
    spec = project.spec
    better = "higher" if spec.maximize else "lower"
    yield Finding("ok", "spec", f"{project.spec_path}: {spec.metric}, {better} is better")
    try:
        commit = project.repository.head()
        files = project.repository.files(commit)
    except ArkError as error:
        yield Finding("fail", "git", error.message, error.hint)
        return
    yield from _git(project, commit)
    yield from _failures("files", lambda: check_files(project, files, "HEAD"), _counted(project, files))
    try:
        links = read_links(project.repository.root, project.place.prefix, spec.link)
        check_submodules(project, files, links)
    except ArkError as error:
        yield Finding("fail", "link", error.message, error.hint)
    yield from _data(project)
    yield from _inputs(project)
    yield from _dirty(project)
    yield from _commands(project)
    if empty := [name for name, value in spec.env.items() if not value.strip()]:
        are = "is" if len(empty) == 1 else "are"
        yield Finding("warn", "env", f"{', '.join(empty)} {are} empty", "set what the commands need, under `env`")
    yield from _agents(project, commit)
    own = ", ".join(own_templates(project.folder))
    yield from _failures("templates", lambda: check_templates(spec, project.folder), own)
    yield from _disk(project, commit)
    yield from _uncounted(spec)
    yield from _replaceable(project, files)
    yield trust(project, files, commit)
    yield Finding("ok", "machine", machine())
    yield Finding("ok", "time", _time(spec))


def _git(project: Project, commit: str) -> Iterator[Finding]:
    branch = project.repository.branch() or "a detached HEAD"
    yield Finding("ok", "git", f"a run would start from {commit[:10]} on {branch}")
    if not os.access(project.repository.objects, os.W_OK):
        yield Finding("fail", "git", f"{project.repository.objects} cannot be written", "make it writable, or clone it")
    for tag in tags(project.repository):
        ledger = Ledger(project.repository, project.spec.branch_prefix, tag)
        if ledger.lock().is_held():
            yield Finding("warn", "runs", f"run {tag} is going on now; another one would share this machine with it")


def _failures(subject: str, check: Callable[[], object], good: str) -> Iterator[Finding]:
    try:
        check()
    except ArkError as error:
        for line in error.message.split("\n"):
            yield Finding("fail", subject, line, error.hint)
    else:
        if good:
            yield Finding("ok", subject, good)


def _data(project: Project) -> Iterator[Finding]:
    """Whether the folder for data is a good one, where it was chosen."""
    if not os.environ.get("ARK_CACHE"):
        return
    try:
        folder = data_root()
    except ArkError as error:
        yield Finding("fail", "data", error.message, error.hint)
        return
    if folder.resolve().is_relative_to(project.repository.root.resolve()):
        text = f"ARK_CACHE is {folder}, inside the repository: data would lie among your files"
        yield Finding("warn", "data", text, "set it to a folder outside")
    elif folder.exists() and not folder.is_dir():
        yield Finding("fail", "data", f"ARK_CACHE is {folder}, which is no folder", "set it to one")


def _inputs(project: Project) -> Iterator[Finding]:
    if "inputs" in project.spec.model_fields_set and not project.spec.inputs:
        text = "an empty list: nothing outside git is pinned, so data can change from one attempt to the next"
        yield Finding("warn", "inputs", text, "write the hashes of what the number depends on, or remove the key")
        return
    try:
        inputs = Inputs(project.folder, project.spec.inputs)
    except ArkError:
        return  # said of the folder for data already
    if project.spec.setup_command is not None and (missing := inputs.missing()):
        text = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not there yet; `setup_command` comes first"
        yield Finding("ok", "inputs", text)
    else:
        pinned = len(project.spec.inputs)
        yield from _failures("inputs", inputs.check, f"{pinned} pinned" if pinned else "")


def _counted(project: Project, files: Mapping[str, Entry]) -> str:
    mutable = sum(project.place.is_mutable(path) for path in files)
    return f"{mutable} mutable, {len(files) - mutable} fixed"


def _dirty(project: Project) -> Iterator[Finding]:
    changed = project.repository.changed(project.place.prefix)
    if project.spec_name in changed:
        changed.remove(project.spec_name)
        yield Finding("warn", "dirty files", "the spec is not committed; it is read as it lies there", "commit it")
    if changed:
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        yield Finding(
            "warn", "dirty files", f"not committed, so not part of a new run: {shown}", "commit them if they should be"
        )


def _commands(project: Project) -> Iterator[Finding]:
    spec = project.spec
    named = {"run_command": spec.run_command, "eval_command": spec.eval_command, "setup_command": spec.setup_command}
    named |= {"holdout_command": spec.holdout_command}
    named |= {f"checks[{index}]": check.command for index, check in enumerate(spec.checks)}
    for key, line in named.items():
        if line is None:
            continue
        missing = missing_programs(line)
        if missing:
            yield Finding("fail", key, f"`{missing[0]}` is not found", "install it, or give its path")
        else:
            yield Finding("ok", key, line)
    for event, hook in spec.on:
        if hook is not None and (missing := missing_programs(hook.command)):
            text = f"`{missing[0]}` is not found, so nobody would be told"
            yield Finding("warn", f"on.{event}", text, "install it, or give its path")
        elif hook is not None:
            yield Finding("ok", f"on.{event}", hook.command)
    for suffix in {Path(name).suffix for name in [*spec.mutable_files, *spec.immutable_files]} & set(COMPILERS):
        compiler = (os.environ.get("CC") if suffix == ".c" else None) or COMPILERS[suffix]
        if shutil.which(compiler.split()[0]) is None:
            yield Finding("fail", "compiler", f"`{compiler}` is not found, and there are {suffix} files", "install it")
        else:
            yield Finding("ok", "compiler", f"{compiler} is {shutil.which(compiler.split()[0])}")


def _agents(project: Project, commit: str) -> Iterator[Finding]:
    if not project.spec.agents:
        yield Finding(
            "warn", "agent", "the spec names none", "give one: ark run --agent 'COMMAND', or `agent:` in the spec"
        )
    for agent in project.spec.agents:
        if agent.command is not None:
            missing = missing_programs(agent.command)
            if missing:
                yield Finding("fail", "agent", f"`{missing[0]}` is not found", "install it, or give its path")
            else:
                yield Finding("ok", "agent", agent.command)
        elif agent.name == "search":
            values = f"{len(project.spec.tunables)} tunables found"
            yield from _failures("agent", lambda: read_tunables(project, commit), f"search, {values}")
        elif preset := PRESETS.get(agent.name or ""):
            if shutil.which(preset.program) is None:
                yield Finding("fail", "agent", f"`{preset.program}` is not installed", f"install it: {preset.install}")
            elif agent.drive == "agent" and preset.drives is None:
                yield Finding("fail", "agent", f"{agent.name} runs no commands, so it cannot drive", "drive: engine")
            else:
                argv = preset.argv(agent, "PROMPT", project.spec.mutable_files)
                yield Finding("ok", "agent", f"{agent.known_as}: {shlex.join(argv)}")


def _disk(project: Project, commit: str) -> Iterator[Finding]:
    try:
        make_private(cache_root())
    except ArkError as error:
        yield Finding("fail", "disk", error.message, error.hint)
        return
    need = LOW_DISK_BYTES + 3 * sum(project.repository.sizes(commit).values())
    for place in {cache_root(), project.repository.common}:
        free = shutil.disk_usage(place).free
        if free < need:
            text = f"{place} has {free / 2**30:.1f} GiB free, and {need / 2**30:.1f} GiB are advisable"
            yield Finding("warn", "disk", text, DISK_HINT)
            return
    yield Finding("ok", "disk", f"{shutil.disk_usage(cache_root()).free / 2**30:.0f} GiB free for desks and benches")


def _uncounted(spec: Spec) -> Iterator[Finding]:
    """Budgets that an agent can pass unseen, because it does not report what they count."""
    for agent in spec.agents:
        preset = PRESETS.get(agent.name or "")
        reports = preset.reports if preset else ("tokens", "money")
        for what in ("money", "tokens"):
            limit = f"`budget.{what}`"
            if getattr(spec.budget, what) is None:
                continue
            if agent.command is not None:
                text = f"{agent.known_as} counts for {limit} only if it writes .ark/cost.json"
                yield Finding("warn", "budget", text, f'have it write there, for example: {{"{what}": 12}}')
            elif what not in reports:
                text = f"{agent.known_as} does not report {what}, so it counts nothing for {limit}"
                yield Finding("warn", "budget", text, "limit it by budget.attempts or budget.hours")


def _replaceable(project: Project, files: Mapping[str, Entry]) -> Iterator[Finding]:
    names = project.replaceable(files)
    if names:
        are, it = ("is", "it") if len(names) == 1 else ("are", "them")
        text = f"{', '.join(names)} {are} committed and named there, so a run can replace {it} before the evaluation"
        yield Finding("warn", "artifacts", text, "take it out of `artifacts`, or do not commit it")


def trust(project: Project, files: Mapping[str, Entry], commit: str) -> Finding:
    """How far the number can be trusted, by the three levels of `docs/concepts/trust.md`."""
    spec = project.spec
    if spec.eval_command is None or not spec.artifacts:
        why = (
            "the run itself prints the metric"
            if spec.eval_command is None
            else "the evaluation reads what the run printed"
        )
        text = f"level 1 of 3: {why}, so that mutable code could print any number"
        return Finding(
            "ok", "trust", text, "hand over data by `artifacts`, and let an immutable eval_command measure it"
        )
    reached = _reached_by(project, files, commit, spec.eval_command)
    replaceable = set(project.replaceable(files))
    if replaceable and not reached:
        text = f"level 2 of 3 at most: a separate evaluation, and a run can replace {', '.join(sorted(replaceable))}"
        return Finding("ok", "trust", text, "take what is committed out of `artifacts`")
    if reached is None:
        return Finding(
            "ok", "trust", "level 2 of 3 at least: a separate evaluation; what it executes could not be seen"
        )
    if reached:
        text = (
            f"level 2 of 3: a separate evaluation, which loads what an attempt can write ({', '.join(sorted(reached))})"
        )
        return Finding("ok", "trust", text, "let the run hand over data only, under names that no import finds")
    if spec.link:
        text = "level 2 of 3 at least: a separate evaluation, and `link` shares folders that a run can write"
        return Finding("ok", "trust", text, "level 3 needs a `link` without anything that the evaluation loads")
    return Finding("ok", "trust", "level 3 of 3: a separate evaluation that executes no mutable code")


def _reached_by(project: Project, files: Mapping[str, Entry], commit: str, line: str) -> set[str] | None:
    """Files that the evaluation names or imports, or would import if they were there (Python only), and that an
    attempt can write; None when it starts anything else."""
    prefix = project.place.prefix
    try:
        words = shlex.split(line)
    except ValueError:
        return None
    named = [posixpath.normpath(word) for word in words]
    scripts = [name for name in named if prefix + name in files]
    if not scripts or any(not name.endswith(".py") for name in scripts) or set(words) & {"-c", "-m"}:
        return None
    mutable, handed_over = compile_globs(project.spec.mutable_files), compile_globs(project.spec.artifacts)
    # Python looks beside the script; the spec's folder counts for what a PYTHONPATH or the script adds.
    places = list(dict.fromkeys([*map(posixpath.dirname, scripts), ""]))
    seen: set[str] = set()
    reached: set[str] = set()
    todo = list(scripts)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        known = prefix + name in files
        # A run cannot hand over what is committed, unless the pattern is its very name.
        if mutable.matches(name) or (handed_over.matches(name) and (not known or name in handed_over.literals)):
            reached.add(name)
        if not known:
            continue
        try:
            tree = ast.parse(project.repository.file_at(commit, prefix + name) or b"")
        except (SyntaxError, ValueError, RecursionError):
            return None
        for level, module in _imports(tree):
            path = module.replace(".", "/")
            where = places if level == 0 else [_above(name, level)]
            for place in where:
                found = [_join(place, file) for file in _files_of(path)]
                todo += found
                if any(prefix + file in files for file in found):
                    break
    return reached


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Imported modules, each with the packages above them and the number of dots it is relative by."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            dotted = f"{node.module}." if node.module else ""
            found = [(node.level, f"{dotted}{alias.name}") for alias in node.names]
        else:
            continue
        for level, module in found:
            parts = module.split(".")
            if level:
                yield level, ""
            yield from ((level, ".".join(parts[:count])) for count in range(1, len(parts) + 1))


def _above(name: str, level: int) -> str:
    for _ in range(level):
        name = posixpath.dirname(name)
    return name


def _files_of(path: str) -> list[str]:
    return [f"{path}/__init__.py", f"{path}.py", f"{path}.so", f"{path}.pyc"] if path else ["__init__.py"]


def _join(place: str, file: str) -> str:
    return f"{place}/{file}" if place else file


def _time(spec: Spec) -> str:
    return f"runs of {spec.budget_minutes:g} minutes, killed after {spec.timeout_seconds / 60:g}"
