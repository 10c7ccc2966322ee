"""`results.tsv`, the field's common table, rendered from the ledger beside the spec.

A view: it is rewritten whole after each attempt, by rename, and nothing ever reads it back. A file of that name that
`ark` did not write, as the loops before it leave them, is not touched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from autoresearch_kit.core.names import RESULTS_NAME
from autoresearch_kit.core.records import Attempt, Outcome, clean_line
from autoresearch_kit.ledger.git import ROOT, Repository

_HEADER = re.compile(r"commit\t[^\t\n]+\tmemory_gb\tstatus\tdescription\n?")
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
        self.path = folder.resolve() / RESULTS_NAME
        self._scratch = repository.common / "ark"
        self._text = self._header = header(metric)
        inner = os.path.relpath(self.path, repository.root)
        self.ours = self._is_ours(repository) and not repository.tracked(inner)
        """False for a file that `ark` did not write, and for one that is committed; then it is never touched."""
        self.problem = ""
        """Why the file could not be written the last time, one sentence; the run goes on without it."""
        self._written = _stamp(self.path) if self.ours else None
        if self.ours:
            with contextlib.suppress(OSError):
                hide(repository, inner)

    def _is_ours(self, repository: Repository) -> bool:
        if not self.path.exists() and not self.path.is_symlink():
            return True
        if self.path.is_symlink() or not self.path.is_file():
            return False
        try:
            with self.path.open(encoding="utf-8", errors="replace") as file:
                head, first = file.readline(100_000), file.readline(100_000).split("\t")[0]
        except OSError:
            return False
        if not first:  # a header without rows: there is nothing to lose
            return _HEADER.fullmatch(head) is not None
        return len(first) >= 7 and any(oid.startswith(first) for (oid,) in repository.refs(ROOT, "objectname"))

    def add(self, attempts: Sequence[Attempt]) -> None:
        """Append rows for attempts that were closed, and write the file once there are any."""
        self._text += "".join(map(row, attempts))
        if self.ours and self._text != self._header:
            self._write()

    def text(self) -> str:
        """What the file holds."""
        return self._text

    def _write(self) -> None:
        # The temporary file lies outside the user's folder: a kill in between must leave nothing there. Only where
        # that is another file system, and a rename impossible, it lies beside the table.
        self.problem = ""
        if _stamp(self.path) not in (None, self._written):
            self.ours = False
            self.problem = f"{self.path} was changed by somebody else, so it is left alone from here on"
            return
        name = f"results.{os.getpid()}.tmp"
        for temporary in (self._scratch / name, self.path.with_name(f".{name}")):
            try:
                temporary.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_text(self.text(), encoding="utf-8")
                temporary.replace(self.path)
                self._written = _stamp(self.path)
                return
            except OSError as error:
                self.problem = f"{self.path} cannot be written: {error.strerror}"
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                if error.errno != errno.EXDEV:
                    return


def _stamp(path: Path) -> tuple[int, int] | None:
    """Inode and time of a file; None when there is none."""
    try:
        state = path.lstat()
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns


def hide(repository: Repository, path: str) -> None:
    """Have git ignore the file, by the repository's private list when the user's own rules do not."""
    if repository.ignored([path]):
        return
    line = "/" + re.sub(r"[\\*?\[]", r"\\\g<0>", path).replace("\n", "?")
    exclude = repository.common / "info" / "exclude"
    exclude.parent.mkdir(exist_ok=True)
    present = exclude.read_text("utf-8", "surrogateescape") if exclude.exists() else ""
    if line not in present.split("\n"):
        gap = "" if present.endswith("\n") or not present else "\n"
        with exclude.open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"{gap}{line}\n")
