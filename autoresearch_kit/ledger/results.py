"""`results.tsv`, the field's common table, rendered from the ledger beside the spec.

A view: it is rewritten whole after each attempt, by rename, and nothing ever reads it back. A file of that name that
`ark` did not write, as the loops before it leave them, is not touched.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from autoresearch_kit.core.records import Attempt, Outcome, clean_line
from autoresearch_kit.core.spec import RESULTS_NAME
from autoresearch_kit.ledger.git import ROOT, Repository

SHOWN = (Outcome.KEEP, Outcome.DISCARD, Outcome.CRASH)


def header(metric: str) -> str:
    """The first line."""
    return "\t".join(["commit", metric, "memory_gb", "status", "description"]) + "\n"


def row(attempt: Attempt) -> str:
    """The line of one attempt; empty for those that are not in the table (running, lost)."""
    if attempt.outcome not in SHOWN:
        return ""
    value = "" if attempt.value is None or attempt.outcome is Outcome.CRASH else f"{attempt.value:.10g}"
    megabytes = attempt.also.get("peak_vram_mb", attempt.also.get("peak_memory_mb"))
    memory = "" if megabytes is None else f"{megabytes / 1024:.3f}"
    return (
        "\t".join([attempt.commit[:7], value, memory, attempt.outcome, clean_line(attempt.proposal.title, 300)]) + "\n"
    )


def table(metric: str, attempts: Iterable[Attempt]) -> str:
    """The whole file."""
    return header(metric) + "".join(map(row, attempts))


class ResultsFile:
    """The table on disk. Rows are kept rendered, so that a long run does not pay for them again."""

    def __init__(self, repository: Repository, folder: Path, metric: str) -> None:
        self.path = folder / RESULTS_NAME
        self._scratch = repository.common / "ark"
        self._lines = [header(metric)]
        self.ours = self._is_ours(repository)
        """False for a file that `ark` did not write; then it is never touched."""
        if self.ours:
            self._hide(repository)

    def _is_ours(self, repository: Repository) -> bool:
        if not self.path.exists() and not self.path.is_symlink():
            return True
        if self.path.is_symlink() or not self.path.is_file():
            return False
        with self.path.open(encoding="utf-8", errors="replace") as file:
            next(file, "")
            first = next(file, "").split("\t")[0]
        return len(first) >= 7 and any(oid.startswith(first) for (oid,) in repository.refs(ROOT, "objectname"))

    def _hide(self, repository: Repository) -> None:
        """Have git ignore the file, by the repository's private list when the user's own rules do not."""
        path = os.path.relpath(self.path, repository.root)
        if not repository.ignored([path]):
            exclude = repository.common / "info" / "exclude"
            exclude.parent.mkdir(exist_ok=True)
            with exclude.open("a", encoding="utf-8") as file:
                file.write(f"/{path}\n")

    def add(self, attempts: Sequence[Attempt]) -> None:
        """Append rows for attempts that were closed, and write the file."""
        self._lines += [line for line in map(row, attempts) if line]
        if self.ours:
            self._write()

    def text(self) -> str:
        """What the file holds."""
        return "".join(self._lines)

    def _write(self) -> None:
        # The temporary file lives outside the user's folder: a kill in between must leave nothing there.
        temporary = self._scratch / f"results.{os.getpid()}.tmp"
        temporary.write_text(self.text(), encoding="utf-8")
        try:
            temporary.replace(self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno != errno.EXDEV:
                raise
            self.path.write_text(self.text(), encoding="utf-8")
