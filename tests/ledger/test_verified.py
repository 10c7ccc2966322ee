"""The record of a verification reads back as it was.   pytest tests/ledger/test_verified.py"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_repository import git

from autoresearch_kit.core.interval import estimate
from autoresearch_kit.core.records import Measurement, Proposal, clean_line
from autoresearch_kit.core.verification import Ablation, Arm, Sample, State, Verification, Weight, block_lines
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.ledger import Ledger, read_latest, tags
from autoresearch_kit.ledger.verified import as_data, begin, finish, looks, read_verifications, ref

GAIN = estimate([(1.0, 1.5), (1.1, 1.4), (0.9, 1.6)], maximize=True)


@pytest.fixture
def started(repository: Repository) -> Verification:
    head = repository.head()
    return Verification(
        tag="t", project="p", spec="autoresearch-config.yaml", metric="loss", maximize=False, baseline=Arm(0, head),
        head=Arm(3, head), tree=repository.tree_of(head), yardstick="y", machine="Linux test", version="0.1.0", runs=12,
        started="2026-01-02T03:04:05.678Z", holdout="abc",
    )  # fmt: skip


def sample(arm: str, value: float | None, also: dict[str, float], problem: str) -> Sample:
    found = Measurement(value, also, problem, 1.5, "", 7, "Linux test")
    return Sample(arm, found, replace(found, value=2.5, problem="") if value is not None else None)


text = st.text(max_size=40)
number = st.floats(allow_nan=False, allow_infinity=False)
line = text.map(lambda found: clean_line(found, 100))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(title=line, note=line, problem=line, value=number, also=st.dictionaries(text, number, max_size=3))
def test_whatever_was_recorded_reads_back(
    repository: Repository,
    started: Verification,
    title: str,
    note: str,
    problem: str,
    value: float,
    also: dict[str, float],
) -> None:
    running = begin(repository, started)
    ended = finish(
        repository,
        replace(
            running,
            state=State.FAILED,
            problem=problem,
            gain=GAIN,
            holdout_gain=None,
            looks=4,
            broken=(note,),
            ablations=(
                Ablation(1, title, Weight.CARRIES, GAIN, note),
                Ablation(2, f"Ark-State: done\n\n{title}", Weight.TANGLED),
            ),
            samples=(sample("baseline", value, also, ""), sample("head", None, {}, "exit: exit code 1")),
        ),
    )
    assert read_verifications(repository, "t")[-1] == ended
    assert as_data(ended)["ref"] == ref(ended) == f"refs/ark/t/verify/{ended.number:04d}"


def test_numbers_go_on_and_no_record_is_an_attempt(
    repository: Repository, ledger: Ledger, started: Verification, folder: Path
) -> None:
    assert begin(repository, started).number == 1
    assert tags(repository) == [] and ledger.read() == [] and read_latest(repository, started.spec) is None
    head = repository.head()
    ledger.reserve(0, Proposal("Baseline"), tree=repository.tree_of(head), parent=head, yardstick="y")
    assert begin(repository, started).number == 2
    assert tags(repository) == ["t"]
    assert [attempt.number for attempt in ledger.read()] == [0] and ledger.read_one(1) is None
    found = read_latest(repository, "")
    assert found is None or [attempt.number for attempt in found[1]] == [0]
    git(folder, "pack-refs", "--all")
    assert [record.number for record in read_verifications(repository, "t")] == [1, 2]


def test_looks_are_counted_over_all_tags_by_hold_out(
    repository: Repository, started: Verification, folder: Path
) -> None:
    begin(repository, started)
    begin(repository, replace(started, tag="verify"))
    begin(repository, replace(started, tag="other", holdout="def"))
    begin(repository, replace(started, tag="none", holdout=""))
    git(folder, "update-ref", "refs/ark/t/verify/0009", "HEAD")  # somebody else's
    git(folder, "update-ref", "refs/ark/t/verify/mine", "HEAD")
    assert (looks(repository, "abc"), looks(repository, "def")) == (2, 1)
    assert [record.tag for record in read_verifications(repository)] == ["none", "other", "t", "verify"]
    assert begin(repository, started).number == 2


def test_a_verification_without_a_result_says_why(repository: Repository, started: Verification) -> None:
    lines = block_lines(replace(started, state=State.FAILED, problem="the head failed"))
    assert lines[0] == "p, run t: failed, without a result" and "why       the head failed" in lines
    lines = block_lines(replace(started, state=State.INTERRUPTED))
    assert "why       0 of 12 runs were made" in lines
    lines = block_lines(replace(started, state=State.INTERRUPTED, gain=GAIN))
    assert "interrupted before its end" in "\n".join(lines), "the gain was known, an ablation was not"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r'"value":0\.5', '"value":"x"'),
        (r'"value":0\.5', '"value":NaN'),
        (r'"low":[^,}]+', '"low":[1]'),
        (r'"first":[^,}]+', '"first":null'),
        (r'"pairs":[^,}]+', '"pairs":"many"'),
        ("Ark-Maximize: false", "Ark-Maximize: " + "[" * 5000),
        ("Ark-Baseline: {", 'Ark-Baseline: {"more":1,'),
        ("Ark-State: done", "Ark-State: great"),
    ],
)
def test_what_somebody_else_wrote_may_hold_anything(
    repository: Repository, started: Verification, folder: Path, old: str, new: str
) -> None:
    samples = (sample("baseline", 1.5, {}, ""), sample("head", 0.5, {}, ""))
    ended = finish(repository, replace(begin(repository, started), state=State.DONE, gain=GAIN, samples=samples))
    text = git(folder, "log", "-1", "--format=%B", ref(ended))
    assert len(read_verifications(repository)) == 1 and re.search(old, text)
    made = git(folder, "commit-tree", "HEAD^{tree}", "-F", "-", stdin=re.sub(old, new, text).encode()).strip()
    git(folder, "update-ref", ref(ended), made)
    assert read_verifications(repository) == []
