"""Histories that `ark` did not write."""

from __future__ import annotations

from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.spec import Spec

FILES = ("results.tsv", "autoresearch.jsonl", ".auto/log.jsonl")
"""Where other loops leave their history, the first that is there counts."""


def read_foreign(text: str, name: str, file: str, spec: Spec) -> Campaign:
    """The run in `text`, which was the content of `file`; UsageError when it is none."""
    raise NotImplementedError
