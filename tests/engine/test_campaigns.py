"""What a name on the command line stands for, and which runs there are.   pytest tests/engine/test_campaigns.py"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch_kit.agents.brief import program_of_run
from autoresearch_kit.campaigns import all_campaigns, find_campaign, latest_campaign
from autoresearch_kit.core.campaign import ARK, BRANCH, TABLE
from autoresearch_kit.core.errors import UsageError
from autoresearch_kit.project import Project, open_project

Tiny = Any  # see conftest.py

BETTER = 'answer $((10 + TURN)); title "Turn $TURN"'
ROWS = "commit\tval_bpb\tstatus\tdescription\nabc1234\t1.5\tkeep\tbaseline\nabc1235\t1.4\tkeep\tdeeper\n"


@contextlib.contextmanager
def opened(tiny: Tiny, spec: str = "") -> Iterator[Project]:
    project = open_project(tiny.folder / spec)
    try:
        yield project
    finally:
        project.repository.close()


@pytest.fixture
def other(tiny: Tiny, tmp_path: Path) -> Tiny:
    """A clone with a run of its own, which `tiny` knows as `origin`."""
    made = type(tiny)(tmp_path / "other", tmp_path)
    tiny.git("clone", "-q", str(tiny.root), str(made.root))
    made.play(BETTER, attempts=2, tag="night")
    tiny.git("remote", "add", "origin", str(made.root))
    return made


def test_every_run_here_and_fetched(tiny: Tiny, other: Tiny) -> None:
    with opened(tiny) as project:
        assert all_campaigns(project) == []
        with pytest.raises(UsageError, match="there is no run of this project yet"):
            latest_campaign(project, None)
    tiny.play(BETTER, attempts=1, tag="mine")
    assert tiny.ark_here("fetch").returncode == 0
    with opened(tiny) as project:
        found = {campaign.name: campaign for campaign in all_campaigns(project)}
        assert set(found) == {"mine", "origin/night"}
        theirs = found["origin/night"]
        assert (theirs.branch, theirs.tag, theirs.source) == ("origin/autoresearch/night", "night", ARK)
        assert (theirs.metric, theirs.maximize, len(theirs.kept)) == ("score", True, 2)
        assert theirs.baseline is not None and theirs.best is not None
        assert (theirs.baseline.value, theirs.best.value) == (10.0, 12.0)
        assert latest_campaign(project, None).name == "mine", "not what was fetched, whatever is newer"
        assert latest_campaign(project, "origin/night") == theirs


def test_a_branch_whose_ledger_is_not_here_counts_with_what_was_kept(tiny: Tiny, other: Tiny) -> None:
    other.play('[ $TURN = 1 ] && answer 5 || answer 20; title "Turn $TURN"', attempts=2, tag="two")
    tiny.git("fetch", "-q", "origin")
    with opened(tiny) as project:
        found = {campaign.name: campaign for campaign in all_campaigns(project)}
        assert set(found) == {"origin/autoresearch/night", "origin/autoresearch/two"}
        two = found["origin/autoresearch/two"]
        assert two.source == BRANCH and [a.number for a in two.attempts] == [0, 2]
        assert "ark fetch brings it" in two.notes[0] and two.spec is not None
        for name in ("origin/autoresearch/two", "origin/two"):
            assert find_campaign(project, name).attempts == two.attempts, name


def test_what_was_pushed_from_here_counts_once(tiny: Tiny, tmp_path: Path) -> None:
    tiny.play(BETTER, attempts=2, tag="mine")
    tiny.git("clone", "-q", "--bare", str(tiny.root), str(tmp_path / "hub.git"))
    tiny.git("remote", "add", "origin", str(tmp_path / "hub.git"))
    tiny.git("push", "-q", "origin", "autoresearch/mine")
    with opened(tiny) as project:
        assert [c.name for c in all_campaigns(project)] == ["mine"], "by a plain git push"
    assert tiny.ark_here("push").returncode == tiny.ark_here("fetch").returncode == 0
    tiny.play(BETTER, attempts=1, tag="mine")
    with opened(tiny) as project:
        assert [c.name for c in all_campaigns(project)] == ["mine"]
        assert len(find_campaign(project, "origin/mine").attempts) == 3


def test_runs_of_another_spec_are_not_of_this_one(tiny: Tiny, other: Tiny) -> None:
    tiny.write("other.yaml", (tiny.folder / "autoresearch-config.yaml").read_bytes())
    tiny.commit("another spec")
    agent = tiny.agent(BETTER)
    assert tiny.ark_here("run", "other.yaml", "--tag", "t", "--attempts", "1", "--agent", agent).returncode == 0
    tiny.git("fetch", "-q", "origin")
    with opened(tiny) as project:
        assert [c.name for c in all_campaigns(project)] == ["origin/autoresearch/night"]
    with opened(tiny, "other.yaml") as project:
        assert [c.name for c in all_campaigns(project)] == ["t"]


def test_names_of_one_run(tiny: Tiny, other: Tiny) -> None:
    tiny.play(BETTER, attempts=1, tag="mine")
    tiny.ark_here("fetch")
    with opened(tiny) as project:
        for name in ("mine", "autoresearch/mine"):
            assert (found := find_campaign(project, name)).name == "mine" and found.branch == "autoresearch/mine"
        for name in ("origin/night", "origin/autoresearch/night"):
            assert find_campaign(project, name).name == "origin/night"
        for name in ("nowhere", "origin/nowhere", "", "-x", "a b", "origin/", "../..:x"):
            with pytest.raises(UsageError, match="there is no run, branch or file called") as caught:
                find_campaign(project, name)
            assert "mine" in caught.value.hint and "origin/night" in caught.value.hint


def test_a_run_is_shown_with_the_spec_that_it_had(tiny: Tiny) -> None:
    tiny.play(BETTER, attempts=1, tag="old")
    tiny.write("evaluate.sh", 'echo "loss: $(cat answer.txt)"\n')
    tiny.commit("the other way round", metric="loss", metric_direction="minimize")
    with opened(tiny) as project:
        found = find_campaign(project, "old")
        assert (found.metric, found.maximize) == ("score", True) and '"metric": "score"' in found.spec_text
        assert (project.spec.metric, found.notes) == ("loss", ())


def test_what_another_loop_left_on_a_branch_or_in_a_file(tiny: Tiny, tmp_path: Path) -> None:
    tiny.git("switch", "-qc", "autoresearch/theirs")
    tiny.write("results.tsv", ROWS)
    tiny.git("add", "-f", "results.tsv")
    tiny.git("commit", "-qm", "results")
    tiny.git("switch", "-q", "main")
    (tmp_path / "log").mkdir()
    (tmp_path / "log/results.tsv").write_text(ROWS)
    with opened(tiny) as project:
        for name in ("autoresearch/theirs", "theirs", str(tmp_path / "log"), str(tmp_path / "log/results.tsv")):
            found = find_campaign(project, name)
            assert (found.source, len(found.attempts)) == (TABLE, 2), name
            assert [a.value for a in found.attempts] == [1.5, 1.4]
        with pytest.raises(UsageError, match="branch main is not a run, and it has none of"):
            find_campaign(project, "main")
        with pytest.raises(UsageError, match="holds none of"):
            find_campaign(project, str(tmp_path / "user/notes"))


def test_somebody_elses_commits_break_nothing(tiny: Tiny, other: Tiny) -> None:
    other.git("switch", "-q", "autoresearch/night")
    other.git("commit", "-q", "--allow-empty", "-m", "mine\n\nArk-Attempt: 7x")
    tiny.git("fetch", "-q", "origin")
    with opened(tiny) as project:
        assert [[a.number for a in campaign.attempts] for campaign in all_campaigns(project)] == [[0, 1, 2]]


def test_files_of_somebody_elses_run_may_be_of_any_size(tiny: Tiny) -> None:
    tiny.play(BETTER, attempts=1, tag="mine")
    record = tiny.git("log", "-1", "--format=%B", "refs/ark/mine/0000")
    for name in ("autoresearch-config.yaml", "program.md"):
        tiny.write(name, "# long\n" * 150_000)
    tiny.commit("large")
    made = tiny.git("commit-tree", "HEAD^{tree}", "-m", record)
    tiny.git("update-ref", "refs/ark-remotes/origin/large/0000", made)
    tiny.git("reset", "-q", "--hard", "HEAD~")
    with opened(tiny) as project:
        found = find_campaign(project, "origin/large")
        assert (found.spec, found.spec_text) == (None, "") and "could not be read" in found.notes[0]
        assert "program.md is left out: object" in program_of_run(project, found)
