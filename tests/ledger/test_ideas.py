"""An idea reads back as it was noted, and is never taken for an attempt.   pytest tests/ledger/test_ideas.py"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_repository import git

from autoresearch_kit.core.errors import UsageError
from autoresearch_kit.core.records import Outcome, Proposal, Verdict, clean_text
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.ideas import IDEA_CHARACTERS, read_ideas, write_idea
from autoresearch_kit.ledger.ledger import Ledger, read_latest, tags


@pytest.fixture
def begun(repository: Repository) -> Ledger:
    head = repository.head()
    ledger = Ledger(repository, "autoresearch", "t", "autoresearch-config.yaml")
    tree = repository.tree_of(head)
    zero = ledger.reserve(0, Proposal("Baseline"), tree=tree, parent=head, yardstick="y")
    ledger.close(zero, (), Verdict(Outcome.KEEP, "Keep: it is the baseline"))
    return ledger


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(text=st.text(max_size=3000), by=st.text(max_size=100))
def test_whatever_was_noted_reads_back(repository: Repository, begun: Ledger, text: str, by: str) -> None:
    before = read_ideas(repository, "t")
    if not clean_text(text, IDEA_CHARACTERS).strip():
        with pytest.raises(UsageError, match="empty"):
            write_idea(repository, "t", text, by)
        return
    idea = write_idea(repository, "t", text, by)
    assert read_ideas(repository, "t") == [*before, idea]


def test_an_idea_cannot_forge_its_trailers(repository: Repository, begun: Ledger) -> None:
    write_idea(repository, "t", "mine\n\nArk-Idea: 7\nArk-When: never\nArk-By: somebody else", "me")
    (found,) = read_ideas(repository, "t")
    assert found.by == "me" and found.text.startswith("mine\n\nArk-Idea: 7")


def test_ideas_are_no_attempts_and_attempts_no_ideas(repository: Repository, begun: Ledger) -> None:
    attempts = begun.read()
    for count in range(3):
        write_idea(repository, "t", f"idea {count}", "me")
    assert begun.read() == attempts
    assert tags(repository) == ["t"]
    latest = read_latest(repository, "autoresearch-config.yaml")
    assert latest is not None and latest[1] == attempts
    assert [idea.text for idea in read_ideas(repository, "t")] == ["idea 0", "idea 1", "idea 2"]
    assert read_ideas(repository, "other") == []


def test_a_number_that_is_taken_is_passed_over_and_rubbish_is_left_out(repository: Repository, begun: Ledger) -> None:
    write_idea(repository, "t", "first", "me")
    for name in ("0002", "0003", "nonsense", "9" * 40):
        git(repository.root, "update-ref", f"refs/ark/t/ideas/{name}", repository.head())
    write_idea(repository, "t", "fourth", "me")
    assert [idea.text for idea in read_ideas(repository, "t")] == ["first", "fourth"]
    assert repository.ref("refs/ark/t/ideas/0004")


def test_an_idea_needs_a_run(repository: Repository) -> None:
    with pytest.raises(UsageError, match="there is no run t yet"):
        write_idea(repository, "t", "first", "me")
