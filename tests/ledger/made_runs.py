"""Runs that were made up, in real repositories: one that several share, and clones of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from small_repository import BASELINE, DISCARD, GOOD, KEEP, git

from autoresearch_kit.core.records import Attempt, Proposal, Verdict
from autoresearch_kit.core.verification import Arm, Verification
from autoresearch_kit.ledger import verified
from autoresearch_kit.ledger.git import Entry, Repository
from autoresearch_kit.ledger.ledger import Ledger, last_kept

SPEC = "autoresearch-config.yaml"


def reserve(ledger: Ledger, title: str = "Try", spec: str = SPEC) -> Attempt:
    """The next attempt, which begins to run: it changes one file of the head."""
    repository, attempts = ledger.repository, ledger.read()
    ledger.spec = spec
    head = last_kept(attempts)
    number = attempts[-1].number + 1 if attempts else 0
    parent = head.commit if head else repository.head()
    blob = repository.store_blob(f"LR = {number} {title}\n".encode())
    tree = repository.store_tree(parent, {"train.py": Entry(0o100644, blob)})
    return ledger.reserve(number, Proposal(title, agent="search"), tree=tree, parent=parent, yardstick="y" * 16)


def add(ledger: Ledger, verdict: Verdict = DISCARD, title: str = "Try") -> Attempt:
    return ledger.close(reserve(ledger, title), GOOD, verdict)


def run(repository: Repository, tag: str, title: str = "Try", attempts: int = 3) -> Ledger:
    """A baseline, then attempts of which every second is kept."""
    ledger = Ledger(repository, "autoresearch", tag)
    add(ledger, BASELINE, f"Baseline of {title}")
    for number in range(1, attempts):
        add(ledger, KEEP if number % 2 else DISCARD, title)
    return ledger


def check(ledger: Ledger) -> Verification:
    """A verification that begins."""
    head = ledger.repository.head()
    verification = Verification(
        tag=ledger.tag, project="p", spec=SPEC, metric="loss", maximize=False, baseline=Arm(0, head), head=Arm(1, head),
        tree=ledger.repository.tree_of(head), yardstick="y", machine="Linux test", version="0.1.0", runs=12,
        started="2026-01-02T03:04:05.678Z", holdout="abc",
    )  # fmt: skip
    return verified.begin(ledger.repository, verification)


@dataclass
class Shared:
    """A bare repository that two others know as `origin`."""

    hub: Path
    here: Repository
    there: Repository

    def refs(self, where: Path | Repository | None = None, below: str = "") -> dict[str, str]:
        """Every ref and its commit; of the bare one unless said otherwise."""
        folder = where.root if isinstance(where, Repository) else where or self.hub
        found = git(folder, "for-each-ref", "--format=%(refname) %(objectname)", *([below] if below else []))
        return dict(line.split(" ") for line in found.splitlines())
