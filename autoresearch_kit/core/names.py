"""Names on disk and in git that have a meaning. Imports nothing heavy: the verbs that only read need no more."""

from __future__ import annotations

import re

SPEC_NAME = "autoresearch-config.yaml"
RUN_LOG = "run.log"
RESULTS_NAME = "results.tsv"
HISTORIES = (RESULTS_NAME, "autoresearch.jsonl", ".auto/log.jsonl")
"""Where loops other than `ark` leave their history, the first that is there counts."""
PROGRAM_NAME = "program.md"
PROGRAM_TEMPLATE = "program.md.j2"
ATTEMPT_TEMPLATE = "attempt.md.j2"
NOTES_FOLDER = ".ark"
RESERVED_NAMES = (PROGRAM_NAME, PROGRAM_TEMPLATE, ATTEMPT_TEMPLATE, RESULTS_NAME, RUN_LOG, NOTES_FOLDER)
"""Names in the spec's folder that the engine writes or reads itself, so that they cannot be mutable."""

AGENTS = ("search", "transplant", "claude", "codex", "gemini", "opencode", "aider", "copilot", "pi")
"""Agents of the kit, by the names that `agent:` and `--agent` know."""
MODEL_FREE = ("search", "transplant")
"""Those of them that are part of the kit and need no program of anybody else's."""

_TAG = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,78}[A-Za-z0-9_-])?")


def is_name(text: str) -> bool:
    """Whether `text` can be a tag: letters, digits, `.`, `_`, `-`; one component of a ref as git allows it."""
    return bool(_TAG.fullmatch(text)) and ".." not in text and not text.endswith(".lock")
