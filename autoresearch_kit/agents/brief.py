"""What an agent reads: `program.md`, rendered from the spec, and the prompt of one attempt, from the ledger as well.

Same spec, same bytes. A project may have its own `program.md.j2` and `attempt.md.j2` beside the spec: `templates.py`.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from autoresearch_kit.agents.digest import SAMPLE, Digest, read_digest
from autoresearch_kit.agents.templates import has_own, render
from autoresearch_kit.core.campaign import ARK, Campaign
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.names import ATTEMPT_TEMPLATE, PROGRAM_NAME, PROGRAM_TEMPLATE, RESULTS_NAME, SPEC_NAME
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.core.specfile import MAX_BYTES
from autoresearch_kit.project import Project
from autoresearch_kit.ratchet import Run

MARK = "<!-- rendered by ark from "
"""How a program that may be written anew begins."""


def render_program(spec: Spec, folder: Path | None = None) -> str:
    """The text of program.md. `folder` is where the spec lies, and perhaps a template of the project's own."""
    own = has_own(PROGRAM_TEMPLATE, folder)
    sources = f"{SPEC_NAME} and {PROGRAM_TEMPLATE}; edit them" if own else f"{SPEC_NAME}; edit the spec"
    return f"{MARK}{sources} instead -->\n" + render(PROGRAM_TEMPLATE, folder, spec=_plain(spec))


def program_of_run(project: Project, campaign: Campaign) -> str:
    """What the agents of a run were told: program.md as it was committed, else rendered from the spec of the run.

    For one that is larger than a spec may be, a sentence that says so.
    """
    if campaign.source != ARK or campaign.best is None:
        return ""
    try:
        data = project.repository.file_at(campaign.best.commit, project.place.prefix + PROGRAM_NAME, MAX_BYTES)
    except ArkError as error:
        return f"{PROGRAM_NAME} is left out: {error.message}\n"
    if data is not None:
        return data.decode("utf-8", "replace")
    with contextlib.suppress(ArkError):  # a template of the project's own that has a mistake by now
        return render_program(campaign.spec, project.folder) if campaign.spec else ""
    return ""


def render_prompt(run: Run, drives: bool = False) -> str:
    """The prompt for the next attempt; with `drives`, for an agent that runs the loop itself by `ark try`."""
    return prompt_of(run.spec, read_digest(run), run.project.folder, drives)


def prompt_of(spec: Spec, digest: Digest, folder: Path | None = None, drives: bool = False) -> str:
    """The prompt with that digest."""
    return render(ATTEMPT_TEMPLATE, folder, spec=_plain(spec), drives=drives, **digest.plain())


def desk_files(run: Run) -> dict[str, bytes]:
    """What a desk holds besides the repository's files: program.md and the table of attempts."""
    program = render_program(run.spec, run.project.folder)
    return {PROGRAM_NAME: program.encode(), RESULTS_NAME: run.books.results.text().encode()}


def own_templates(folder: Path) -> list[str]:
    """Names of the templates that the project has in place of the kit's."""
    return [name for name in (PROGRAM_TEMPLATE, ATTEMPT_TEMPLATE) if has_own(name, folder)]


def check_templates(spec: Spec, folder: Path | None) -> None:
    """ArkError for the first mistake in the project's own templates, before a night depends on them."""
    render_program(spec, folder)
    for drives in (False, True):
        prompt_of(spec, SAMPLE, folder, drives)


def _plain(spec: Spec) -> dict[str, Any]:
    """The spec as data: a model has methods that read files, which no template needs."""
    return {
        **spec.model_dump(mode="json"),
        "maximize": spec.maximize,
        "timeout_seconds": spec.timeout_seconds,
        "eval_timeout_seconds": spec.eval_timeout_seconds,
        "constraints": [str(constraint) for constraint in spec.constraints],
        "min_gain": _min_gain(spec),
    }


def _min_gain(spec: Spec) -> str:
    """The smallest gain worth keeping, in words; empty when any gain is."""
    if not spec.decision.threshold(1.0):
        return ""
    gain = spec.decision.min_gain
    return f"{gain.strip()} of it" if isinstance(gain, str) else f"{gain:g}"


def refuse_foreign(path: Path) -> None:
    """ArkError when there is a file at `path` that was not rendered."""
    try:
        if not os.path.lexists(path):
            return
        with path.open("rb") as file:
            if file.read(len(MARK)) == MARK.encode():
                return
    except OSError as error:
        raise ArkError(f"{path} cannot be read: {error.strerror}") from None
    raise ArkError(
        f"{path} was not rendered by ark, or by an older one, and would be lost",
        f"-o {shlex.quote(str(path))} to write it anyway, -o - to look",
    )


def write_text(path: Path, text: str) -> None:
    """Write a rendered text, all of it or nothing; ArkError when that fails."""
    try:
        path = path.resolve() if path.is_symlink() else path
        if path.exists() and not path.is_file():  # a pipe or a terminal, which must stay one
            path.write_text(text, encoding="utf-8")
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            if path.exists():
                shutil.copymode(path, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        raise ArkError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from None
